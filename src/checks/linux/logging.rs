//! Logging: journald and syslog are up, what is written survives a restart, a canary written now can be read back.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::canary;
use super::journal::Journals;
use super::systemd::{self, Unit};
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Cmd, Host, HostError};

const JOURNALD: &str = "systemd-journald.service";
const SYSLOG_FILES: &[&str] = &["/var/log/syslog", "/var/log/messages"];
/// How old the newest entry on the disk may be: where a canary has just been found in the journal, and else.
const CURRENT_S: (i64, i64) = (600, 86_400);

/// Facts: `journald`, `syslog`, `persistent`, `newest_age_s`, `oldest_age_d`, `installed_age_d`, `log_used_percent`,
/// `canary` (see [`canary`]).
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    facts.learn(
        "log_used_percent",
        host.fs_usage("/var/log")
            .map(|usage| 100 - usage.bytes_available.saturating_mul(100) / usage.bytes_total.max(1)),
    );
    facts.learn("installed_age_d", installed_age(context));
    facts.learn("journald", systemd::show(host, JOURNALD).await.map(|unit| unit.fact()));
    let syslog = syslog(context).await;
    facts.learn("syslog", syslog.as_ref().map(|unit| unit.as_ref().map(Unit::fact)).map_err(Clone::clone));
    let mut found = false;
    if context.flag("canary") {
        let witness = matches!(&syslog, Ok(Some(_))).then(|| syslog_file(host)).flatten();
        let canary = canary::send(host, witness).await;
        found = canary.as_ref().is_ok_and(|canary| canary.get("journal") == Some(&Value::Bool(true)));
        facts.learn("canary", canary);
    } else {
        facts.set("canary", Value::Null);
    }
    // Only now: what the canary wrote is the newest there can be.
    facts.learn("newest_age_s", newest_age(context).await);
    let current_s = if found { CURRENT_S.0 } else { CURRENT_S.1 };
    match Journals::read(host) {
        Ok(journals) => {
            facts.set("persistent", journals.persistent(context, current_s));
            facts.set("oldest_age_d", journals.oldest_age_d(context));
        }
        Err(error) => facts.fail_all(&["persistent", "oldest_age_d"], &error),
    }
    facts.into()
}

/// Days since the machine got its identity.
fn installed_age(context: Context<'_>) -> Result<i64, HostError> {
    const PATH: &str = "/etc/machine-id";
    let made = context.host.stat(PATH)?.modified;
    let made = made.ok_or(HostError::Garbage { what: PATH.to_owned(), why: "its date makes no sense".to_owned() })?;
    Ok(context.seconds_since(made) / 86_400)
}

async fn newest_age(context: Context<'_>) -> Result<i64, HostError> {
    systemd::booted(context.host)?;
    let cmd = Cmd::new(["journalctl", "-q", "--no-pager", "-o", "json", "-n", "1"]).timeout(Duration::from_secs(10));
    let what = cmd.line();
    let entry = context.host.run_ok(cmd).await?.json(&what)?;
    let micros = entry.get("__REALTIME_TIMESTAMP").and_then(Value::as_str).and_then(|text| text.parse().ok());
    micros
        .and_then(|micros| Timestamp::from_microsecond(micros).ok())
        .map(|then| context.seconds_since(then))
        .ok_or(HostError::Garbage { what, why: "an entry without a time".to_owned() })
}

/// The syslog service: the one that is set, else rsyslog where it is installed.
async fn syslog(context: Context<'_>) -> Result<Option<Unit>, HostError> {
    match context.text("syslog_unit") {
        Some(unit) => systemd::show(context.host, unit).await.map(Some),
        None => systemd::first_installed(context.host, &["rsyslog.service", "syslog.service"]).await,
    }
}

fn syslog_file(host: &Host) -> Option<&'static str> {
    SYSLOG_FILES.iter().copied().find(|path| host.exists(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use serde_json::json;

    use super::super::fixture::{Tree, now, words};
    use super::*;

    const ID: &str = "RB-LNX-LOGGING-001";
    const TOKEN: &str = "8c1f8a3e-55d4-4d3e-9a3d-2f5d8f5f4a10";
    const READ: &str = "journalctl -q --no-pager -o json -n 20 SYSLOG_IDENTIFIER=malachor-canary";

    /// Its entries begin so many days ago and end so many seconds ago.
    fn journal_file(days: i64, ends_s: i64) -> Vec<u8> {
        let mut bytes = vec![0; 256];
        bytes[..8].copy_from_slice(b"LPKSHHRH");
        let micros = |ago_s: i64| (now().as_microsecond() - ago_s * 1_000_000).to_le_bytes();
        bytes[184..192].copy_from_slice(&micros(days * 86_400));
        bytes[192..200].copy_from_slice(&micros(ends_s));
        bytes
    }

    fn entry(message: &str) -> String {
        json!({"__REALTIME_TIMESTAMP": now().as_microsecond().to_string(), "MESSAGE": message}).to_string()
    }

    fn machine(journal: &str, syslog: &str) -> Tree {
        let tree = Tree::new()
            .systemd()
            .file("/etc/machine-id", "abc\n")
            .aged("/etc/machine-id", 24 * 200)
            .bytes(&format!("{journal}/abc/system.journal"), &journal_file(100, 1))
            .file("/proc/sys/kernel/random/uuid", TOKEN)
            .file("/var/log/syslog", syslog)
            .dir("/run/systemd/journal")
            .unit(JOURNALD, "loaded", "active", "running", "static")
            .unit("rsyslog.service", "loaded", "active", "running", "enabled")
            .unit("syslog.service", "loaded", "active", "running", "alias")
            .answer("journalctl -q --no-pager -o json -n 1", &entry("x"))
            .answer(&format!("logger -t malachor-canary {TOKEN}"), "")
            .answer(READ, &format!("{}\n{}\n{}\n", entry("older"), entry(TOKEN), entry(&format!("{TOKEN}-native"))));
        // The journal's own socket: it is there for as long as the file is.
        UnixDatagram::bind(tree.at("/run/systemd/journal/socket")).unwrap();
        tree
    }

    #[test]
    fn a_canary_seen_at_both_ends_passes() {
        let tree = machine("/var/log/journal", &format!("Mar 2 host malachor-canary: {TOKEN}\n"));
        assert_eq!(tree.judge(ID, &json!({})), ("pass", vec![]));
    }

    #[test]
    fn a_lost_canary_fails() {
        let tree = machine("/var/log/journal", "something else\n").answer(READ, "");
        assert_eq!(tree.judge(ID, &json!({})), ("fail", vec!["canary_lost".into(), "syslog_canary_lost".into()]));
        assert_eq!(tree.judge(ID, &json!({"canary": false})).0, "pass");
    }

    #[test]
    fn the_journals_own_socket_is_tried_as_well() {
        let deaf = machine("/var/log/journal", TOKEN).answer(READ, &entry(TOKEN));
        let finding = deaf.finding(ID, &json!({}));
        assert_eq!(words(&finding), ("fail", vec!["canary_lost".into()]));
        assert_eq!(finding.observation.facts["canary"]["native"], json!(false));
    }

    #[test]
    fn a_datagram_really_arrives_at_the_socket() {
        let tree = machine("/var/log/journal", TOKEN);
        std::fs::remove_file(tree.at("/run/systemd/journal/socket")).unwrap();
        let socket = UnixDatagram::bind(tree.at("/run/systemd/journal/socket")).unwrap();
        tree.observe(ID, &json!({}));
        let mut said = [0; 512];
        let length = socket.recv(&mut said).unwrap();
        let said = String::from_utf8_lossy(&said[..length]).into_owned();
        assert!(said.starts_with(&format!("MESSAGE={TOKEN}-native\nSYSLOG_IDENTIFIER=malachor-canary\n")), "{said}");
    }

    /// Files on the disk stay where they are when the journal moves to memory.
    #[test]
    fn old_files_on_the_disk_do_not_hide_a_journal_in_memory() {
        let file = "/var/log/journal/abc/system.journal";
        let moved = machine("/run/log/journal", TOKEN).bytes(file, &journal_file(100, 3600));
        assert_eq!(moved.judge(ID, &json!({})), ("fail", vec!["not_persistent".into()]));
        let back =
            machine("/var/log/journal", TOKEN).bytes("/run/log/journal/abc/system.journal", &journal_file(2, 3600));
        assert_eq!(back.judge(ID, &json!({})), ("pass", vec![]), "what is left in memory is older");
        let nowhere = machine("/var/log/journal", TOKEN).bytes(file, &journal_file(100, 3600));
        assert_eq!(nowhere.judge(ID, &json!({})), ("fail", vec!["not_persistent".into()]), "the canary is not in it");
        let quiet = machine("/var/log/journal", TOKEN).bytes(file, &journal_file(100, 3600));
        assert_eq!(quiet.judge(ID, &json!({"canary": false})), ("pass", vec![]));
    }

    #[test]
    fn five_minutes_of_silence_are_noticed() {
        let at = now().as_microsecond() - 301_000_000;
        let last = json!({"__REALTIME_TIMESTAMP": at.to_string(), "MESSAGE": "x"}).to_string();
        let quiet = machine("/var/log/journal", TOKEN).answer("journalctl -q --no-pager -o json -n 1", &last);
        assert_eq!(quiet.judge(ID, &json!({})), ("warn", vec!["journal_quiet".into()]));
    }

    #[test]
    fn a_stopped_syslog_and_a_forgetful_journal_fail() {
        let tree = machine("/run/log/journal", TOKEN).unit("rsyslog.service", "loaded", "inactive", "dead", "enabled");
        assert_eq!(tree.judge(ID, &json!({})), ("fail", vec!["syslog_down".into(), "not_persistent".into()]));
    }

    #[test]
    fn a_journal_cut_short_warns_but_a_young_machine_does_not() {
        let short =
            machine("/var/log/journal", TOKEN).bytes("/var/log/journal/abc/system.journal", &journal_file(3, 1));
        assert_eq!(short.judge(ID, &json!({})), ("warn", vec!["retention_short".into()]));
        let young = short.aged("/etc/machine-id", 24 * 3);
        assert_eq!(young.judge(ID, &json!({})), ("pass", vec![]));
    }

    #[test]
    fn garbage_missing_tools_and_no_systemd_are_unknown() {
        assert_eq!(machine("/var/log/journal", TOKEN).answer(READ, "nonsense").judge(ID, &json!({})).0, "unknown");
        let broken = machine("/var/log/journal", TOKEN).bytes("/var/log/journal/abc/system.journal", b"junk");
        assert_eq!(broken.judge(ID, &json!({})).0, "unknown");
        let finding = Tree::new().dir("/var/log").finding(ID, &json!({}));
        assert_eq!(finding.verdict.word(), "unknown");
        assert!(finding.reasons[0].say.contains("not booted"), "{:?}", finding.reasons[0]);
    }
}
