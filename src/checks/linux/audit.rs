//! The kernel's audit system: whether it records, whether it loses records, and by which rules.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::systemd::{self, Unit};
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Cmd, Host, HostError};

const UNIT: &str = "auditd.service";
/// Rules listed one by one; a host has dozens.
const RULES: usize = 2000;

/// Facts: `installed`, `unit`, `status` (`{enabled, pid, lost, backlog, backlog_limit}`, as `auditctl(8)` names them),
/// `lost_since` (records lost since the last run; null at the first), `rules` (rule to `loaded`, with its number where it
/// is one that leaves something out), `augenrules`, `boot_off` (the kernel was started with the audit system off).
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    let unit = systemd::show(host, UNIT).await;
    // Where the tool is missing, that nothing is installed is only known if the service manager says so, too.
    let tool = host.has("auditctl");
    let installed = if tool { Ok(true) } else { unit.as_ref().map(Unit::installed).map_err(Clone::clone) };
    facts.learn("installed", installed);
    facts.learn("unit", unit.map(|unit| unit.fact()));
    facts.set("augenrules", host.has("augenrules"));
    facts.learn("boot_off", host.read("/proc/cmdline").map(|line| boot_off(&line)));
    if !tool {
        return facts.into();
    }
    match status(host).await {
        Ok(status) => {
            facts.set("lost_since", lost_since(context, &status));
            facts.set("status", status);
        }
        Err(error) => facts.fail_all(&["status", "lost_since"], &error),
    }
    facts.learn("rules", rules(host).await);
    facts.into()
}

/// auditd(8) does not start then, whatever it is told; see its unit's `ConditionKernelCommandLine`.
fn boot_off(line: &str) -> bool {
    line.split_whitespace().any(|word| word == "audit=0" || word == "audit=off")
}

/// `auditctl -s`: one `name number` a line.
async fn status(host: &Host) -> Result<Value, HostError> {
    let cmd = Cmd::new(["auditctl", "-s"]);
    let what = cmd.line();
    let output = host.run_ok(cmd).await?;
    let pairs = output.stdout.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, value.trim().parse::<u64>().ok()?))
    });
    let known: BTreeMap<&str, u64> = pairs.collect();
    let mut status = Map::new();
    for name in ["enabled", "pid", "lost", "backlog", "backlog_limit"] {
        let value = known
            .get(name)
            .ok_or_else(|| HostError::Garbage { what: what.clone(), why: format!("no `{name}` in the answer") })?;
        status.insert(name.to_owned(), json!(value));
    }
    Ok(Value::Object(status))
}

/// The counter begins at zero again with every boot.
fn lost_since(context: Context<'_>, status: &Value) -> Value {
    let lost = |status: &Value| status.get("lost").and_then(Value::as_u64);
    let before = context.before.and_then(|before| lost(before.facts.get("status")?));
    match (before, lost(status)) {
        (Some(before), Some(now)) => json!(if now >= before { now - before } else { now }),
        (None, _) | (_, None) => Value::Null,
    }
}

async fn rules(host: &Host) -> Result<Value, HostError> {
    let cmd = Cmd::new(["auditctl", "-l"]);
    let what = cmd.line();
    let output = host.run_ok(cmd).await?;
    let lines: Vec<&str> = output.stdout.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.iter().any(|line| !line.starts_with('-') && *line != "No rules") {
        return Err(HostError::Garbage { what, why: "a line is not a rule".to_owned() });
    }
    let mut rules = Map::new();
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with('-')) {
        // The first rule that fits decides, so where one stands that records nothing matters.
        let leaves_out = line.contains(" never,") || line.contains(",never ");
        let value = if leaves_out { format!("loaded as number {}", number + 1) } else { "loaded".to_owned() };
        rules.insert((*line).to_owned(), json!(value));
    }
    if output.truncated || rules.len() > RULES {
        return Err(HostError::Garbage { what, why: format!("more than {RULES} rules") });
    }
    Ok(Value::Object(rules))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, refusals};
    use super::*;

    const ID: &str = "RB-LNX-AUDIT-001";
    const RULE: &str = "-w /etc/passwd -p wa -k accounts";

    fn machine(active: &str, enabled: u8, pid: u32, lost: u64, backlog: u64) -> Tree {
        let status = format!(
            "enabled {enabled}\nfailure 1\npid {pid}\nrate_limit 0\nbacklog_limit 8192\nlost {lost}\nbacklog {backlog}\nloginuid_immutable 0 unlocked\n"
        );
        Tree::new()
            .systemd()
            .file("/proc/cmdline", "root=/dev/sda1 quiet\n")
            .unit(UNIT, "loaded", active, "x", "enabled")
            .answer("auditctl -s", &status)
            .answer("auditctl -l", &format!("{RULE}\n"))
            .baseline(ID, &json!({"rules": {RULE: "loaded"}}))
    }

    #[test]
    fn a_recording_system_passes() {
        assert_eq!(machine("active", 1, 700, 0, 3).judge(ID, &json!({})), ("pass", vec![]));
        assert_eq!(machine("active", 2, 700, 0, 3).judge(ID, &json!({})), ("pass", vec![]), "immutable is fine");
    }

    #[test]
    fn stopped_switched_off_or_nobody_listening_fails() {
        let words = |tree: Tree| tree.judge(ID, &json!({}));
        assert_eq!(
            words(machine("inactive", 1, 0, 0, 0)),
            ("fail", vec!["daemon_down".into(), "nobody_listens".into()])
        );
        assert_eq!(words(machine("active", 0, 700, 0, 0)), ("fail", vec!["switched_off".into()]));
    }

    #[test]
    fn another_daemon_may_take_the_records_and_one_switched_off_at_boot_is_not_started() {
        let other = machine("inactive", 1, 700, 0, 0).unit(UNIT, "not-found", "inactive", "dead", "");
        assert_eq!(other.judge(ID, &json!({})), ("pass", vec![]));
        let off = machine("inactive", 0, 0, 0, 0).file("/proc/cmdline", "root=/dev/sda1 audit=0 quiet\n");
        assert!(refusals(ID, &json!({}), &off)[0].contains("audit=0"));
        assert_eq!(refusals(ID, &json!({}), &machine("inactive", 0, 0, 0, 0)), Vec::<String>::new());
    }

    #[test]
    fn lost_records_and_a_full_queue_warn() {
        let before = |lost: u64| json!({"status": {"lost": lost}});
        let lost = |tree: Tree| tree.judge(ID, &json!({}));
        assert_eq!(lost(machine("active", 1, 700, 9, 0).before(1, before(4))), ("warn", vec!["records_lost".into()]));
        assert_eq!(lost(machine("active", 1, 700, 9, 0).before(1, before(9))).0, "pass");
        assert_eq!(lost(machine("active", 1, 700, 2, 0).before(1, before(9))).0, "warn", "since the restart");
        assert_eq!(lost(machine("active", 1, 700, 9, 0)).0, "pass", "nothing is known of before");
        assert_eq!(lost(machine("active", 1, 700, 0, 8192)), ("warn", vec!["queue_full".into()]));
    }

    #[test]
    fn rules_are_compared_with_what_was_accepted() {
        let more = machine("active", 1, 700, 0, 0).answer("auditctl -l", &format!("{RULE}\n-a never,exit -S all\n"));
        assert_eq!(more.judge(ID, &json!({})), ("fail", vec!["rules_changed".into()]));
        let never = "-a never,user -F auid=1000";
        let order = |list: &str| machine("active", 1, 700, 0, 0).answer("auditctl -l", list);
        let behind = order(&format!("{RULE}\n{never}\n"));
        let then = json!({"rules": behind.observe(ID, &json!({})).facts["rules"]});
        assert_eq!(behind.baseline(ID, &then).judge(ID, &json!({})), ("pass", vec![]));
        let before = order(&format!("{never}\n{RULE}\n")).baseline(ID, &then);
        assert_eq!(before.judge(ID, &json!({})), ("fail", vec!["rules_changed".into()]), "now it hides the other");
        let old = order("LIST_RULES: exit,always watch=/etc/passwd perm=wa\n");
        assert_eq!(old.judge(ID, &json!({})).0, "unknown", "not a form we know");
        let none = machine("active", 1, 700, 0, 0).answer("auditctl -l", "No rules\n");
        assert_eq!(none.judge(ID, &json!({})), ("fail", vec!["no_rules".into(), "rules_changed".into()]));
    }

    #[test]
    fn not_installed_is_a_person_s_choice_and_garbage_is_unknown() {
        let bare = Tree::new().systemd().unit(UNIT, "not-found", "inactive", "dead", "");
        assert_eq!(bare.judge(ID, &json!({})), ("warn", vec!["not_installed".into()]));
        let required = bare.finding(ID, &json!({"required": true}));
        assert!(required.is_never_configured(), "{:?}", required.reasons);
        assert_eq!(
            machine("active", 1, 7, 0, 0).answer("auditctl -s", "enabled x\n").judge(ID, &json!({})).0,
            "unknown"
        );
        let denied = machine("active", 1, 7, 0, 0).answer_with("auditctl -s", 4, "", "You must be root");
        assert_eq!(denied.judge(ID, &json!({})).0, "unknown");
    }
}
