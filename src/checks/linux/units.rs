//! Services: the manager's state, failed units, restart loops, and the units this practice cannot do without.

use serde_json::{Value, json};

use super::systemd;
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Cmd, Host, HostError};

/// Facts: `manager`, `failed`, `restarts`, `required`.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    if let Err(error) = systemd::booted(context.host) {
        facts.fail_all(&["manager", "failed", "restarts", "required"], &error);
        return facts.into();
    }
    facts.learn("manager", manager(context.host).await);
    facts.learn("failed", failed(context.host).await);
    facts.learn("restarts", restarts(context.host).await);
    let required = systemd::show_all(context.host, &context.list("required")).await;
    facts.learn("required", required.map(|units| systemd::facts(&units)));
    facts.into()
}

async fn manager(host: &Host) -> Result<String, HostError> {
    let cmd = Cmd::new(["systemctl", "show", "--no-pager", "-p", "SystemState"]);
    let what = cmd.line();
    let output = host.run_ok(cmd).await?;
    let state = output.stdout.trim().strip_prefix("SystemState=").map(str::to_owned);
    state.ok_or(HostError::Garbage { what, why: "no SystemState in the answer".to_owned() })
}

async fn failed(host: &Host) -> Result<Value, HostError> {
    let cmd = Cmd::new(["systemctl", "list-units", "--all", "--state=failed", "--output=json", "--no-pager"]);
    let what = cmd.line();
    let answer = host.run_ok(cmd).await?.json(&what)?;
    let names: Option<Vec<&str>> =
        answer.as_array().and_then(|units| units.iter().map(|unit| unit.get("unit")?.as_str()).collect());
    names.map(|names| json!(names)).ok_or(HostError::Garbage { what, why: "not a list of units".to_owned() })
}

/// Services that systemd had to start again by itself, and how often.
async fn restarts(host: &Host) -> Result<Value, HostError> {
    let cmd = Cmd::new(["systemctl", "show", "--no-pager", "-p", "Id,NRestarts", "--", "*.service"]);
    let what = cmd.line();
    let output = host.run_ok(cmd).await?;
    let blocks = systemd::blocks(&output.stdout);
    if blocks.is_empty() {
        return Err(HostError::Garbage { what, why: "no services in the answer".to_owned() });
    }
    let counted =
        blocks.iter().filter_map(|block| Some((*block.get("Id")?, block.get("NRestarts")?.parse::<i64>().ok()?)));
    Ok(counted.filter(|(_, count)| *count > 0).map(|(unit, count)| json!({"unit": unit, "restarts": count})).collect())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Tree;
    use super::*;

    const FAILED: &str = "systemctl list-units --all --state=failed --output=json --no-pager";

    fn booted() -> Tree {
        Tree::new()
            .systemd()
            .answer("systemctl show --no-pager -p SystemState", "SystemState=running\n")
            .answer(
                "systemctl show --no-pager -p Id,NRestarts -- *.service",
                "Id=a.service\nNRestarts=0\n\nId=b.service\nNRestarts=1\n",
            )
            .answer(FAILED, "[]\n")
    }

    #[test]
    fn all_up_passes() {
        let tree = booted().unit("a.service", "loaded", "active", "running", "enabled");
        assert_eq!(tree.judge("RB-SERVICE-001", &json!({"required": ["a.service"]})), ("pass", vec![]));
    }

    #[test]
    fn a_required_unit_that_is_down_or_missing_fails() {
        let tree = booted().unit("a.service", "loaded", "inactive", "dead", "enabled").unit(
            "b.service",
            "not-found",
            "inactive",
            "dead",
            "",
        );
        assert_eq!(
            tree.judge("RB-SERVICE-001", &json!({"required": ["a.service", "b.service"]})),
            ("fail", vec!["required_unit_missing".into(), "required_unit_down".into()])
        );
    }

    #[test]
    fn failed_units_and_restart_loops_are_seen() {
        let tree = booted()
            .answer(
                FAILED,
                r#"[{"unit":"x.service","load":"loaded","active":"failed","sub":"failed","description":"X"}]"#,
            )
            .answer("systemctl show --no-pager -p Id,NRestarts -- *.service", "Id=y.service\nNRestarts=40\n");
        assert_eq!(
            tree.judge("RB-SERVICE-001", &json!({})),
            ("fail", vec!["unit_failed".into(), "restart_loop".into()])
        );
        let ignored = json!({"ignore": ["x.service"], "restart_limit": 50});
        assert_eq!(tree.judge("RB-SERVICE-001", &ignored), ("pass", vec![]));
    }

    #[test]
    fn no_systemd_and_garbage_are_unknown() {
        let finding = Tree::new().finding("RB-SERVICE-001", &json!({}));
        assert_eq!(finding.verdict.word(), "unknown");
        assert!(finding.reasons[0].say.contains("not booted"), "{:?}", finding.reasons);
        let garbage = booted().answer(FAILED, "{\"oops\": 1}");
        assert_eq!(garbage.judge("RB-SERVICE-001", &json!({})).0, "unknown");
    }
}
