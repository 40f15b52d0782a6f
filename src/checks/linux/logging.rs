//! Logging: journald and syslog are up, what is written survives a restart, and a canary written now can be read back.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::systemd::{self, Unit};
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Cmd, Host, HostError};

const JOURNALD: &str = "systemd-journald.service";
const TAG: &str = "malachor-canary";
const SYSLOG_FILES: &[&str] = &["/var/log/syslog", "/var/log/messages"];
/// Pauses between looks for the canary: ten seconds in all.
const PAUSES_MS: [u64; 7] = [100, 200, 400, 800, 1500, 3000, 4000];
const TAIL: u64 = 512 * 1024;

/// Facts: `journald`, `syslog`, `persistent`, `newest_age_s`, `oldest_age_d`, `installed_age_d`, `log_used_percent`,
/// `canary`, `dropin_dir`.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    let journals = journals(host);
    facts.learn("persistent", journals.as_ref().map(|found| found.persistent).map_err(Clone::clone));
    facts.learn("oldest_age_d", journals.and_then(|found| oldest_age(context, &found)));
    facts.learn(
        "log_used_percent",
        host.fs_usage("/var/log")
            .map(|usage| 100 - usage.bytes_available.saturating_mul(100) / usage.bytes_total.max(1)),
    );
    facts.learn("installed_age_d", installed_age(context));
    facts.learn("newest_age_s", newest_age(context).await);
    facts.learn("journald", systemd::show(host, JOURNALD).await.map(|unit| unit.fact()));
    let syslog = syslog(context).await;
    facts.learn("syslog", syslog.as_ref().map(|unit| unit.as_ref().map(Unit::fact)).map_err(Clone::clone));
    if context.flag("canary") {
        let witness = matches!(&syslog, Ok(Some(_))).then(|| syslog_file(host)).flatten();
        facts.learn("canary", canary(host, witness).await);
    } else {
        facts.set("canary", Value::Null);
    }
    facts.into()
}

/// Journal files of this machine.
struct Journals {
    files: Vec<String>,
    persistent: bool,
}

fn journals(host: &Host) -> Result<Journals, HostError> {
    let machine = host.read("/etc/machine-id")?;
    let files_in = |dir: &str| {
        let dir = format!("{dir}/{}", machine.trim());
        let names = host.list(&dir)?.into_iter().filter(|name| name.ends_with(".journal"));
        Ok(names.map(|name| format!("{dir}/{name}")).collect::<Vec<String>>())
    };
    for (dir, persistent) in [("/var/log/journal", true), ("/run/log/journal", false)] {
        match files_in(dir) {
            Ok(files) if !files.is_empty() => return Ok(Journals { files, persistent }),
            Ok(_) | Err(HostError::Missing(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(HostError::Missing("a journal of this machine".to_owned()))
}

/// Age in days of the oldest entry, from the files' own headers.
fn oldest_age(context: Context<'_>, journals: &Journals) -> Result<i64, HostError> {
    /// `head_entry_realtime` in the header, after 23 words of eight bytes.
    const AT: usize = 184;
    let mut oldest: Option<Timestamp> = None;
    for file in &journals.files {
        let head = context.host.head(file, 256)?;
        let garbage = || HostError::Garbage { what: file.clone(), why: "not a journal file".to_owned() };
        if !head.starts_with(b"LPKSHHRH") {
            return Err(garbage());
        }
        let word = head.get(AT..AT + 8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()).ok_or_else(garbage)?;
        let micros = i64::try_from(u64::from_le_bytes(word)).map_err(|_| garbage())?;
        // A file without entries yet has no first entry.
        if micros > 0 {
            let first = Timestamp::from_microsecond(micros).map_err(|_| garbage())?;
            oldest = Some(oldest.map_or(first, |known| known.min(first)));
        }
    }
    let oldest = oldest.ok_or_else(|| HostError::Missing("an entry in the journal".to_owned()))?;
    Ok(context.seconds_since(oldest) / 86_400)
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

/// Writes a line nobody else can have written, and looks for it where logs end up.
async fn canary(host: &Host, witness: Option<&'static str>) -> Result<Value, HostError> {
    systemd::booted(host)?;
    let token = host.read("/proc/sys/kernel/random/uuid")?.trim().to_owned();
    let written = write(host, &token).await?;
    let (mut journal, mut syslog, mut waited_ms) = (false, witness.map(|_| false), 0);
    if written {
        for pause in PAUSES_MS {
            journal = journal || in_journal(host, &token).await?;
            if let (Some(path), Some(false)) = (witness, syslog) {
                let tail = host.tail(path, TAIL)?;
                syslog = Some(String::from_utf8_lossy(&tail).contains(&token));
            }
            if (journal && syslog != Some(false)) || !host.is_live() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
            waited_ms += pause;
        }
    }
    Ok(json!({"written": written, "journal": journal, "syslog": syslog, "waited_ms": waited_ms}))
}

async fn write(host: &Host, token: &str) -> Result<bool, HostError> {
    // logger goes through /dev/log as other programs do; systemd-cat is the way where it is not installed.
    let cmd = if host.has("logger") {
        Cmd::new(["logger", "-t", TAG, token])
    } else {
        Cmd::new(["systemd-cat", "-t", TAG]).stdin(format!("{token}\n"))
    };
    Ok(host.run(cmd.timeout(Duration::from_secs(10))).await?.success())
}

async fn in_journal(host: &Host, token: &str) -> Result<bool, HostError> {
    let tag = format!("SYSLOG_IDENTIFIER={TAG}");
    let cmd = Cmd::new(["journalctl", "-q", "--no-pager", "-o", "json", "-n", "20", &tag]);
    let what = cmd.line();
    let output = host.run_ok(cmd.timeout(Duration::from_secs(10))).await?;
    for line in output.stdout.lines() {
        let entry: Value = serde_json::from_str(line)
            .map_err(|error| HostError::Garbage { what: what.clone(), why: format!("no JSON: {error}") })?;
        if entry.get("MESSAGE").and_then(Value::as_str) == Some(token) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, now};
    use super::*;

    const ID: &str = "RB-LNX-LOGGING-001";
    const TOKEN: &str = "8c1f8a3e-55d4-4d3e-9a3d-2f5d8f5f4a10";
    const READ: &str = "journalctl -q --no-pager -o json -n 20 SYSLOG_IDENTIFIER=malachor-canary";

    fn journal_file(days: i64) -> Vec<u8> {
        let mut bytes = vec![0; 256];
        bytes[..8].copy_from_slice(b"LPKSHHRH");
        let micros = (now().as_microsecond() - days * 86_400_000_000).to_le_bytes();
        bytes[184..192].copy_from_slice(&micros);
        bytes
    }

    fn entry(message: &str) -> String {
        json!({"__REALTIME_TIMESTAMP": now().as_microsecond().to_string(), "MESSAGE": message}).to_string()
    }

    fn machine(journal: &str, syslog: &str) -> Tree {
        Tree::new()
            .systemd()
            .file("/etc/machine-id", "abc\n")
            .aged("/etc/machine-id", 24 * 200)
            .bytes(&format!("{journal}/abc/system.journal"), &journal_file(100))
            .file("/proc/sys/kernel/random/uuid", TOKEN)
            .file("/var/log/syslog", syslog)
            .unit(JOURNALD, "loaded", "active", "running", "static")
            .unit("rsyslog.service", "loaded", "active", "running", "enabled")
            .unit("syslog.service", "loaded", "active", "running", "alias")
            .answer("journalctl -q --no-pager -o json -n 1", &entry("x"))
            .answer(&format!("logger -t malachor-canary {TOKEN}"), "")
            .answer(READ, &format!("{}\n{}\n", entry("older"), entry(TOKEN)))
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
    fn a_stopped_syslog_and_a_forgetful_journal_fail() {
        let tree = machine("/run/log/journal", TOKEN).unit("rsyslog.service", "loaded", "inactive", "dead", "enabled");
        assert_eq!(tree.judge(ID, &json!({})), ("fail", vec!["syslog_down".into(), "not_persistent".into()]));
    }

    #[test]
    fn a_journal_cut_short_warns_but_a_young_machine_does_not() {
        let short = machine("/var/log/journal", TOKEN).bytes("/var/log/journal/abc/system.journal", &journal_file(3));
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
