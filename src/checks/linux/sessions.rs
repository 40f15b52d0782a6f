//! Automatic logoff: when the shell, and the log-in manager, end a session nobody uses.

use serde_json::Value;

use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::domain::time::parse_duration;
use crate::host::{Host, HostError};

/// Start files of log-in shells: NixOS's, and those a profile reads before it comes to the directory.
const BEFORE: &[&str] = &["/etc/set-environment", "/etc/bash.bashrc", "/etc/bashrc"];
const PROFILE: &str = "/etc/profile";
const PROFILE_DIR: &str = "/etc/profile.d";
const LOGIND: &str = "/etc/systemd/logind.conf";
const LOGIND_DIRS: &[&str] =
    &["/usr/lib/systemd/logind.conf.d", "/run/systemd/logind.conf.d", "/etc/systemd/logind.conf.d"];

/// Facts: `shell_s` (null where a shell never ends), `shell_fixed` (a start file that is not ours lets nobody change it),
/// `logind_s`, `profile_dir`.
pub(super) fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    match shell(host) {
        Ok(shell) => {
            facts.set("shell_s", shell.seconds.filter(|seconds| *seconds > 0).map_or(Value::Null, Value::from));
            facts.set("shell_fixed", shell.fixed_by.is_some_and(|file| file != OURS));
        }
        Err(error) => facts.fail_all(&["shell_s", "shell_fixed"], &error),
    }
    facts.learn("logind_s", logind(host));
    facts.learn("profile_dir", reads_profile_dir(host));
    facts.into()
}

/// What healing writes; its name comes last.
const OURS: &str = "/etc/profile.d/zz-malachor-logoff.sh";

/// `TMOUT` as it is after the start files: zero ends nothing.
#[derive(Debug, Default)]
struct Shell {
    seconds: Option<u64>,
    fixed_by: Option<String>,
}

/// Reads the start files in bash's order: the last assignment holds, and none does once it is read-only.
///
/// Whether a branch is taken is not told: every assignment counts as made.
fn shell(host: &Host) -> Result<Shell, HostError> {
    let profile = optional(host, PROFILE)?;
    // What stands behind the loop over the directory is done last.
    let lines: Vec<&str> = profile.lines().collect();
    let named = lines.iter().rposition(|line| line.contains(PROFILE_DIR));
    let behind = named.map_or(0, |line| line + 1);
    let part = |skip: usize, take: usize| lines.iter().skip(skip).take(take).copied().collect::<Vec<_>>().join("\n");
    let mut texts = Vec::new();
    for file in BEFORE {
        texts.push(((*file).to_owned(), optional(host, file)?));
    }
    texts.push((PROFILE.to_owned(), part(0, behind)));
    // A profile that does not name the directory does not read it.
    for file in if named.is_some() { dropins(host, PROFILE_DIR, ".sh")? } else { Vec::new() } {
        let text = optional(host, &file)?;
        texts.push((file, text));
    }
    texts.push((PROFILE.to_owned(), part(behind, usize::MAX)));
    let mut shell = Shell::default();
    for (file, text) in &texts {
        for line in text.lines() {
            for statement in line.split('#').next().unwrap_or_default().split([';', '&', '|']) {
                shell.run(file, statement)?;
            }
        }
    }
    Ok(shell)
}

impl Shell {
    /// `TMOUT=900`, alone or after `export`, `readonly`, `typeset -r` and the like; `unset TMOUT`.
    fn run(&mut self, file: &str, statement: &str) -> Result<(), HostError> {
        let keywords = ["if", "then", "else", "do", "{", "!"];
        let words: Vec<&str> = statement.split_whitespace().skip_while(|word| keywords.contains(word)).collect();
        let Some(first) = words.first() else { return Ok(()) };
        let declares = ["export", "readonly", "typeset", "declare", "local", "unset"].contains(first);
        let named = words.iter().find(|word| **word == "TMOUT" || word.starts_with("TMOUT="));
        let Some(named) = named.filter(|named| declares || *named == first) else { return Ok(()) };
        if self.fixed_by.is_some() {
            return Ok(());
        }
        if *first == "unset" {
            self.seconds = None;
        } else if let Some(value) = named.strip_prefix("TMOUT=") {
            self.seconds = Some(number(value).ok_or_else(|| HostError::Garbage {
                what: file.to_owned(),
                why: format!("TMOUT is set to what cannot be told: {value}"),
            })?);
        }
        let option = |word: &&str| word.strip_prefix('-').is_some_and(|flags| flags.contains('r'));
        if *first == "readonly" || (["typeset", "declare"].contains(first) && words.iter().any(option)) {
            self.fixed_by = Some(file.to_owned());
        }
        Ok(())
    }
}

/// `900`, quoted or not, `${TMOUT:-900}`; nothing is zero.
fn number(value: &str) -> Option<u64> {
    let value = value.trim_matches(['"', '\'']);
    let value = value.strip_prefix("${TMOUT:-").and_then(|rest| rest.strip_suffix('}')).unwrap_or(value);
    if value.is_empty() { Some(0) } else { value.parse().ok() }
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
    Ok(host.exists(PROFILE_DIR) && optional(host, PROFILE)?.contains(PROFILE_DIR))
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
    const LOOP: &str = "for i in /etc/profile.d/*.sh; do . $i; done\n";

    fn machine(script: &str) -> Tree {
        Tree::new().file("/etc/profile", LOOP).file("/etc/profile.d/x.sh", script)
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
    fn the_last_value_holds_as_bash_would_have_it() {
        let shell = |files: &[(&str, &str)]| {
            let tree =
                files.iter().fold(Tree::new().file("/etc/profile", LOOP), |tree, (path, text)| tree.file(path, text));
            let facts = tree.observe(ID, &json!({})).facts;
            (facts["shell_s"].clone(), facts["shell_fixed"].clone())
        };
        let (a, b) = ("/etc/profile.d/a.sh", "/etc/profile.d/b.sh");
        assert_eq!(shell(&[(a, "TMOUT=7200"), (b, "export TMOUT=600")]), (json!(600), json!(false)));
        assert_eq!(shell(&[(a, "TMOUT=600"), (b, "TMOUT=0")]), (json!(null), json!(false)), "zero is never");
        assert_eq!(shell(&[(a, "TMOUT=600"), (b, "unset TMOUT")]).0, json!(null));
        assert_eq!(shell(&[(a, "readonly TMOUT=600"), (b, "TMOUT=0")]), (json!(600), json!(true)));
        assert_eq!(shell(&[(a, "TMOUT=7200; typeset -xr TMOUT"), (b, "TMOUT=60")]), (json!(7200), json!(true)));
        assert_eq!(shell(&[("/etc/bash.bashrc", "TMOUT=0"), (a, "TMOUT=${TMOUT:-900}")]).0, json!(900));
        assert_eq!(shell(&[(a, "TMOUT=900"), ("/etc/profile", &format!("TMOUT=1\n{LOOP}TMOUT=0\n"))]).0, json!(null));
        assert_eq!(machine("TMOUT=$LONG\n").judge(ID, &json!({})).0, "unknown");
        let fixed = machine("readonly TMOUT=7200\n");
        assert_eq!(fixed.judge(ID, &json!({})).1, ["logoff_too_late"]);
        assert!(super::super::fixture::refusals(ID, &json!({}), &fixed)[0].contains("read-only"));
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
        let ours = Tree::new().file("/etc/profile", LOOP).file("/etc/profile.d/x.sh", "TMOUT=0\n").file(OURS, &script);
        assert_eq!(ours.judge(ID, &json!({})), ("pass", vec![]));
        assert_eq!(ours.observe(ID, &json!({})).facts["shell_fixed"], json!(false));
        assert_eq!(machine(&script).judge(ID, &json!({})), ("pass", vec![]));
        let twice = format!("{script}\n{script}\necho $TMOUT");
        let output = on_runtime(Host::live().run(Cmd::new(["bash", "-e", "-c", &twice]))).unwrap();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("900\n", ""));
    }
}
