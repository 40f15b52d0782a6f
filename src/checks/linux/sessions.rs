//! Automatic logoff: when the shell, and the log-in manager, end a session nobody uses.

use serde_json::Value;

use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::domain::time::parse_duration;
use crate::host::{Host, HostError};

const SHELL_FILES: &[&str] = &["/etc/profile", "/etc/bash.bashrc", "/etc/bashrc", "/etc/set-environment"];
const PROFILE_DIR: &str = "/etc/profile.d";
const LOGIND: &str = "/etc/systemd/logind.conf";
const LOGIND_DIRS: &[&str] =
    &["/usr/lib/systemd/logind.conf.d", "/run/systemd/logind.conf.d", "/etc/systemd/logind.conf.d"];

/// Facts: `shell_s`, `logind_s`, `profile_dir`.
pub(super) fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    facts.learn("shell_s", shell(host));
    facts.learn("logind_s", logind(host));
    facts.learn("profile_dir", reads_profile_dir(host));
    facts.into()
}

/// The longest `TMOUT` that any start file sets: which of them wins depends on the shell.
fn shell(host: &Host) -> Result<Value, HostError> {
    let mut files: Vec<String> = SHELL_FILES.iter().map(|path| (*path).to_owned()).collect();
    files.extend(dropins(host, PROFILE_DIR, ".sh")?);
    let mut longest: Option<u64> = None;
    for file in files {
        for line in optional(host, &file)?.lines() {
            if let Some(seconds) = timeout(line) {
                longest = Some(longest.map_or(seconds, |known| known.max(seconds)));
            }
        }
    }
    Ok(longest.filter(|seconds| *seconds > 0).map_or(Value::Null, Value::from))
}

/// `TMOUT=900`, alone or after `export`, `readonly`, `typeset` and the like.
fn timeout(line: &str) -> Option<u64> {
    let line = line.split('#').next()?;
    let (before, after) = line.split_once("TMOUT=")?;
    let clean = before.is_empty() || before.ends_with([' ', '\t', ';']);
    let digits: String = after.trim_start_matches(['"', '\'']).chars().take_while(char::is_ascii_digit).collect();
    clean.then_some(digits)?.parse().ok()
}

/// `StopIdleSessionSec`, the last one that is set.
fn logind(host: &Host) -> Result<Value, HostError> {
    let mut files = vec![LOGIND.to_owned()];
    for dir in LOGIND_DIRS {
        files.extend(dropins(host, dir, ".conf")?);
    }
    let mut last = Value::Null;
    for file in files {
        for line in optional(host, &file)?.lines() {
            if let Some(value) = line.trim().strip_prefix("StopIdleSessionSec=") {
                last = seconds(value.trim()).map_or(Value::Null, Value::from);
            }
        }
    }
    Ok(last)
}

/// `900`, `15min`, `1h`, as far as one unit goes; `infinity` and zero never end anything.
fn seconds(text: &str) -> Option<u64> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(seconds).filter(|seconds| *seconds > 0);
    }
    let short = text.replace(' ', "").replace("minutes", "m").replace("minute", "m").replace("min", "m");
    let short = short.replace("hours", "h").replace("hour", "h").replace("seconds", "s").replace("sec", "s");
    parse_duration(&short).map(|duration| duration.as_secs())
}

/// Whether log-in shells read what lies in the directory healing writes to.
fn reads_profile_dir(host: &Host) -> Result<bool, HostError> {
    Ok(host.exists(PROFILE_DIR) && optional(host, "/etc/profile")?.contains(PROFILE_DIR))
}

fn dropins(host: &Host, dir: &str, ending: &str) -> Result<Vec<String>, HostError> {
    match host.list(dir) {
        Ok(names) => {
            Ok(names.iter().filter(|name| name.ends_with(ending)).map(|name| format!("{dir}/{name}")).collect())
        }
        Err(HostError::Missing(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A file that need not be there.
fn optional(host: &Host, path: &str) -> Result<String, HostError> {
    match host.read(path) {
        Err(HostError::Missing(_)) => Ok(String::new()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::{Tree, on_runtime};
    use super::*;
    use crate::host::Cmd;

    const ID: &str = "RB-LNX-SESSION-001";
    const PROFILE: &str = "for i in /etc/profile.d/*.sh; do . $i; done\n";

    fn machine(script: &str) -> Tree {
        Tree::new().file("/etc/profile", PROFILE).file("/etc/profile.d/x.sh", script)
    }

    #[test]
    fn either_of_the_two_is_enough() {
        assert_eq!(machine("readonly TMOUT=600\n").judge(ID, &json!({})), ("pass", vec![]));
        let logind = machine("").file("/etc/systemd/logind.conf.d/x.conf", "[Login]\nStopIdleSessionSec=15min\n");
        assert_eq!(logind.judge(ID, &json!({})), ("pass", vec![]));
        let both = machine("TMOUT=86400").file(LOGIND, "[Login]\n#StopIdleSessionSec=600\nStopIdleSessionSec=600\n");
        assert_eq!(both.judge(ID, &json!({})), ("pass", vec![]));
    }

    #[test]
    fn none_too_long_and_switched_off_fail() {
        assert_eq!(machine("# TMOUT=600\n").judge(ID, &json!({})), ("fail", vec!["no_automatic_logoff".into()]));
        assert_eq!(machine("TMOUT=0\n").judge(ID, &json!({})), ("fail", vec!["no_automatic_logoff".into()]));
        assert_eq!(machine("export TMOUT=7200\n").judge(ID, &json!({})), ("fail", vec!["logoff_too_late".into()]));
        let endless = machine("").file(LOGIND, "StopIdleSessionSec=infinity\n");
        assert_eq!(endless.judge(ID, &json!({})).1, ["no_automatic_logoff"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_unknown() {
        assert_eq!(Tree::new().dir("/etc/profile").judge(ID, &json!({})).0, "unknown");
    }

    #[test]
    fn the_written_script_is_read_back_and_bash_takes_it_twice() {
        let runbook = include_str!("../../../runbooks/linux/RB-LNX-SESSION-001.yaml");
        let (_, content) = runbook.split_once("content: |\n").unwrap();
        let (content, _) = content.split_once("        mode:").unwrap();
        let script = content.replace("{{ settings.max_seconds }}", "900");
        assert_eq!(machine(&script).judge(ID, &json!({})), ("pass", vec![]));
        let twice = format!("{script}\n{script}\necho $TMOUT");
        let output = on_runtime(Host::live().run(Cmd::new(["bash", "-e", "-c", &twice]))).unwrap();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("900\n", ""));
    }
}
