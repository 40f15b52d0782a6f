//! Services: the manager's state, failed units, restart loops, and the units this practice cannot do without.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::history::{History, Sample};
use super::systemd;
use crate::checks::run::{Context, Facts, HISTORY};
use crate::domain::finding::Observation;
use crate::host::{Cmd, Host, HostError};

/// Samples of the counters lie this far apart, and so many are kept: two hours.
const APART: SignedDuration = SignedDuration::from_mins(5);
const SAMPLES: usize = 24;
/// Services counted in one sample.
const SERVICES: usize = 200;
const HOUR_S: i64 = 3600;

/// Facts: `manager`, `failed`, `restarts` (`[{unit, restarts, last_hour}]`, `last_hour` null at the first run),
/// `required`, and `history`: the restart counters of the last two hours.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    if let Err(error) = systemd::booted(context.host) {
        facts.fail_all(&["manager", "failed", "restarts", "required"], &error);
        return facts.into();
    }
    facts.learn("manager", manager(context.host).await);
    facts.learn("failed", failed(context.host).await);
    match restarts(context.host).await {
        Ok(counters) => {
            let mut history = History::of(context);
            facts.set("restarts", flapping(&history.0, context.now, &counters));
            history.add(context.now, json!(counters), APART, SAMPLES);
            facts.set(HISTORY, history.fact());
        }
        Err(error) => facts.fail("restarts", &error),
    }
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

/// Services that systemd had to start again by itself, and how often (`NRestarts`, `org.freedesktop.systemd1(5)`).
async fn restarts(host: &Host) -> Result<BTreeMap<String, i64>, HostError> {
    let cmd = Cmd::new(["systemctl", "show", "--no-pager", "-p", "Id,NRestarts", "--", "*.service"]);
    let what = cmd.line();
    let output = host.run_ok(cmd).await?;
    let blocks = systemd::blocks(&output.stdout);
    if blocks.is_empty() {
        return Err(HostError::Garbage { what, why: "no services in the answer".to_owned() });
    }
    let counted =
        blocks.iter().filter_map(|block| Some(((*block.get("Id")?).to_owned(), block.get("NRestarts")?.parse().ok()?)));
    let mut counters: BTreeMap<String, i64> = counted.filter(|(_, count)| *count > 0).collect();
    while counters.len() > SERVICES {
        counters.pop_last();
    }
    Ok(counters)
}

fn flapping(samples: &[Sample], now: Timestamp, counters: &BTreeMap<String, i64>) -> Value {
    let fact = |(unit, count): (&String, &i64)| json!({"unit": unit, "restarts": count, "last_hour": last_hour(samples, now, unit, *count)});
    counters.iter().map(fact).collect()
}

/// Restarts in the last hour; the hourly mean where the last look is longer ago; `None` where there was none yet.
fn last_hour(samples: &[Sample], now: Timestamp, unit: &str, count: i64) -> Option<i64> {
    let age_s = |sample: &Sample| now.duration_since(sample.at).as_secs();
    let start = samples.iter().rposition(|sample| age_s(sample) >= HOUR_S).unwrap_or(0);
    let since = samples.get(start..)?;
    let counts = since.iter().map(|sample| sample.value.get(unit).and_then(Value::as_i64).unwrap_or(0));
    let (mut sum, mut last) = (0_i64, None);
    for count in counts.chain([count]) {
        // A counter that went down began again at zero.
        let more = last.map_or(0, |last| if count >= last { count.saturating_sub(last) } else { count });
        (sum, last) = (sum.saturating_add(more), Some(count));
    }
    let span_s = age_s(since.first()?).max(HOUR_S);
    Some(sum.saturating_mul(HOUR_S) / span_s)
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

    fn sample(minutes: i64, counters: &Value) -> Value {
        let at = super::super::fixture::now() - SignedDuration::from_mins(minutes);
        json!({"at": at.to_string(), "value": counters})
    }

    fn restarted(times: i64, history: &[Value]) -> Tree {
        let answer = format!("Id=y.service\nNRestarts={times}\n");
        booted()
            .answer("systemctl show --no-pager -p Id,NRestarts -- *.service", &answer)
            .before(0, json!({"history": history}))
    }

    #[test]
    fn restarts_within_an_hour_are_a_loop_and_old_ones_are_not() {
        let judge = |times, history: &[Value]| restarted(times, history).judge("RB-SERVICE-001", &json!({})).1;
        let before = |minutes, count| sample(minutes, &json!({"y.service": count}));
        assert_eq!(judge(4, &[sample(30, &json!({}))]), ["flapping"]);
        assert_eq!(judge(4, &[before(30, 1)]), [""; 0]);
        assert_eq!(judge(4, &[]), [""; 0], "nothing is known of the last hour yet");
        assert_eq!(judge(4, &[before(90, 0), before(61, 4), before(20, 4)]), [""; 0], "older than an hour");
        assert_eq!(judge(4, &[before(600, 0)]), [""; 0], "four in ten hours");
        assert_eq!(judge(2, &[before(40, 3), before(20, 5)]), ["flapping"], "the counter began again");
        let limit = restarted(4, &[before(30, 0)]).judge("RB-SERVICE-001", &json!({"restarts_per_hour": 4}));
        assert_eq!(limit, ("pass", vec![]));
    }

    #[test]
    fn counters_are_remembered_within_bounds() {
        let many: Vec<Value> = (0..50).map(|n| sample(300 - 6 * n, &json!({"y.service": 1}))).collect();
        let facts = restarted(i64::MAX, &many).observe("RB-SERVICE-001", &json!({})).facts;
        assert_eq!(facts["history"].as_array().unwrap().len(), SAMPLES);
        assert_eq!(facts["history"][SAMPLES - 1]["value"], json!({"y.service": i64::MAX}));
        let soon = restarted(1, &[sample(2, &json!({}))]).observe("RB-SERVICE-001", &json!({})).facts;
        assert_eq!(soon["history"].as_array().unwrap().len(), 1, "two minutes are too near");
        assert_eq!(soon["restarts"][0]["last_hour"], json!(1));
        let services: Vec<String> = (0..1000).map(|n| format!("Id=s{n}.service\nNRestarts=1\n\n")).collect();
        let services = services.concat();
        let tree = booted().answer("systemctl show --no-pager -p Id,NRestarts -- *.service", &services);
        assert_eq!(tree.observe("RB-SERVICE-001", &json!({})).facts["restarts"].as_array().unwrap().len(), SERVICES);
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
