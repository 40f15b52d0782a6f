//! Log-in monitoring: how often log-ins failed within the last hour, and whether one succeeded where many had failed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::systemd;
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Cmd, HostError};

/// OpenSSH's server, from 9.8 on in two programs.
const SSHD: &[&str] = &["sshd", "sshd-session"];
/// Programs that let people in at the machine itself, by the name they log under (GDM's worker really ends in a bracket).
const PROGRAMS: &[&str] =
    &["sudo", "su", "login", "gdm-password]", "lightdm", "sddm-helper", "polkit-agent-helper-1", "cockpit-session"];
/// Journal entries read: more in an hour is an attack whatever their exact number.
const ENTRIES: usize = 5000;

/// Facts: `failures`, `remote`, `local` (counts within the hour), `accounts`, `sources` (how many different ones),
/// `guessed` (log-ins that succeeded after at least `settings.guesses` failures from the same place), `more` (whether
/// there was more than is read).
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    match entries(context).await {
        Ok((messages, more)) => {
            let guesses = usize::try_from(context.number("guesses").unwrap_or(5)).unwrap_or(usize::MAX);
            let counted = count(&messages, guesses);
            facts.set("failures", counted.remote + counted.local);
            facts.set("remote", counted.remote);
            facts.set("local", counted.local);
            facts.set("accounts", counted.accounts.len());
            facts.set("sources", counted.sources.len());
            facts.set("guessed", counted.guessed);
            facts.set("more", more);
        }
        Err(error) => facts.fail_all(&["failures", "guessed", "more"], &error),
    }
    facts.into()
}

/// What the programs said within the hour, oldest first.
async fn entries(context: Context<'_>) -> Result<(Vec<String>, bool), HostError> {
    systemd::booted(context.host)?;
    let cmd = question(context);
    let what = cmd.line();
    let output = context.host.run_ok(cmd).await?;
    let mut messages = Vec::new();
    for line in output.stdout.lines().take(ENTRIES) {
        let entry: Value = match serde_json::from_str(line) {
            Ok(entry) => entry,
            // Cut off at the cap: what was read counts.
            Err(_) if output.truncated => break,
            Err(error) => return Err(HostError::Garbage { what, why: format!("no JSON: {error}") }),
        };
        // A message that is not text is given as a list of bytes; none of ours is.
        messages.extend(entry.get("MESSAGE").and_then(Value::as_str).map(str::to_owned));
    }
    let more = output.truncated || messages.len() >= ENTRIES;
    Ok((messages, more))
}

fn question(context: Context<'_>) -> Cmd {
    let since = format!("--since=@{}", context.now.as_second() - 3600);
    let count = ENTRIES.to_string();
    let fixed = ["journalctl", "-q", "--no-pager", "-o", "json", "--output-fields=MESSAGE", &since, "-n", &count];
    let program = |name: &str| format!("SYSLOG_IDENTIFIER={name}");
    // Anybody may write to the journal under any name; what sshd says comes from root.
    let remote = std::iter::once("_UID=0".to_owned()).chain(SSHD.iter().map(|name| program(name)));
    let local = std::iter::once("+".to_owned()).chain(PROGRAMS.iter().map(|name| program(name)));
    Cmd::new(fixed.iter().map(|word| (*word).to_owned()).chain(remote).chain(local))
        .timeout(Duration::from_secs(20))
        .cap(8 * 1024 * 1024)
}

#[derive(Default)]
struct Counted {
    remote: usize,
    local: usize,
    accounts: BTreeSet<String>,
    sources: BTreeSet<String>,
    guessed: usize,
}

/// What a line says about a log-in, in the words of OpenSSH's `auth.c` and of `pam_unix`.
enum Said<'a> {
    /// A password or answer was wrong; `stranger` where no such account exists, `asked` where PAM asked for it.
    Failed { account: &'a str, source: &'a str, stranger: bool, asked: bool },
    /// PAM refused an answer; sshd tells of it before its own words, and of those not for every answer.
    Refused { account: &'a str, source: &'a str },
    /// An account that does not exist was asked for.
    Stranger { account: &'a str, source: &'a str },
    /// Someone at this machine gave a wrong password, so often.
    Local(usize),
    /// Someone got in.
    Accepted { source: &'a str },
    /// Something else.
    Other,
}

fn count(messages: &[String], guesses: usize) -> Counted {
    let mut counted = Counted::default();
    let mut from: BTreeMap<String, usize> = BTreeMap::new();
    // A wrong password for an unknown account is told in two lines; it is one failure.
    let mut strangers: BTreeMap<String, usize> = BTreeMap::new();
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    for message in messages {
        match said(message) {
            Said::Failed { account, source, stranger, asked } => {
                let told = match (stranger, asked) {
                    (true, _) => strangers.get_mut(source),
                    (false, true) => refused.get_mut(source),
                    (false, false) => None,
                };
                match told.filter(|told| **told > 0) {
                    Some(told) => *told -= 1,
                    None => fail(&mut counted, &mut from, account, source),
                }
            }
            Said::Refused { account, source } => {
                *refused.entry(source.to_owned()).or_default() += 1;
                fail(&mut counted, &mut from, account, source);
            }
            Said::Stranger { account, source } => {
                *strangers.entry(source.to_owned()).or_default() += 1;
                fail(&mut counted, &mut from, account, source);
            }
            Said::Local(times) => counted.local += times,
            Said::Accepted { source } => {
                // Counted once: the next success of the same place follows a success.
                if from.remove(source).is_some_and(|failures| failures >= guesses) {
                    counted.guessed += 1;
                }
            }
            Said::Other => {}
        }
    }
    counted
}

fn fail(counted: &mut Counted, from: &mut BTreeMap<String, usize>, account: &str, source: &str) {
    counted.remote += 1;
    counted.accounts.insert(account.to_owned());
    counted.sources.insert(source.to_owned());
    *from.entry(source.to_owned()).or_default() += 1;
}

fn said(message: &str) -> Said<'_> {
    let wrong = ["Failed password for ", "Failed keyboard-interactive/pam for ", "Failed keyboard-interactive for "];
    if let Some(rest) = wrong.iter().find_map(|words| message.strip_prefix(words)) {
        let (stranger, rest) = match rest.strip_prefix("invalid user ") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let asked = message.starts_with("Failed keyboard-interactive");
        return who_from(rest).map_or(Said::Other, |(account, source)| Said::Failed {
            account,
            source,
            stranger,
            asked,
        });
    }
    // Of an account that does not exist it has told already.
    if let Some(rest) = message.strip_prefix("error: PAM: Authentication failure for ")
        && !rest.starts_with("illegal user ")
    {
        return who_from(rest).map_or(Said::Other, |(account, source)| Said::Refused { account, source });
    }
    if let Some(rest) = message.strip_prefix("Invalid user ") {
        return who_from(rest).map_or(Said::Other, |(account, source)| Said::Stranger { account, source });
    }
    // A key is not guessed, whatever failed before it.
    if message.starts_with("Accepted password ") || message.starts_with("Accepted keyboard-interactive") {
        let source = message.split_once(" for ").and_then(|(_, rest)| who_from(rest));
        return source.map_or(Said::Other, |(_, source)| Said::Accepted { source });
    }
    // sshd tells its own failures in its own words, too.
    let pam = message.strip_prefix("pam_unix(").and_then(|rest| rest.split_once(":auth): "));
    match pam {
        Some((service, rest)) if service != "sshd" => local(rest),
        Some(_) | None => Said::Other,
    }
}

/// `authentication failure; …` at the first of a conversation, `2 more authentication failures; …` at its end.
fn local(rest: &str) -> Said<'static> {
    if rest.starts_with("authentication failure") {
        return Said::Local(1);
    }
    let more = rest.split_once(" more authentication failure").and_then(|(times, _)| times.parse().ok());
    more.map_or(Said::Other, Said::Local)
}

/// `NAME from ADDRESS port N …`: a name may hold anything, so the last ` from ` counts.
fn who_from(rest: &str) -> Option<(&str, &str)> {
    let (account, source) = rest.rsplit_once(" from ")?;
    Some((account, source.split(' ').next()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::{Tree, now};
    use super::*;

    const ID: &str = "RB-LNX-AUTH-001";

    fn machine(messages: &[String]) -> Tree {
        let (empty, settings) = (Tree::new(), serde_json::Map::new());
        let context = Context { host: &empty.host(), settings: &settings, now: now(), own: &Value::Null, before: None };
        let line = question(context).line();
        let lines: Vec<String> = messages.iter().map(|message| json!({"MESSAGE": message}).to_string()).collect();
        Tree::new().systemd().answer(&line, &lines.join("\n"))
    }

    fn failed(account: &str, source: &str) -> String {
        format!("Failed password for {account} from {source} port 40122 ssh2")
    }

    fn times(count: usize, message: &str) -> Vec<String> {
        std::iter::repeat_n(message.to_owned(), count).collect()
    }

    #[test]
    fn a_quiet_hour_passes_and_typing_errors_do_too() {
        assert_eq!(machine(&[]).judge(ID, &json!({})), ("pass", vec![]));
        let typo = [failed("dana", "10.0.0.9"), "Accepted password for dana from 10.0.0.9 port 40122 ssh2".to_owned()];
        assert_eq!(machine(&typo).judge(ID, &json!({})), ("pass", vec![]));
    }

    #[test]
    fn many_failures_warn_and_very_many_fail() {
        let judge = |count| machine(&times(count, &failed("root", "203.0.113.9"))).judge(ID, &json!({}));
        assert_eq!(judge(19).0, "pass");
        assert_eq!(judge(20), ("warn", vec!["failures".into()]));
        assert_eq!(judge(100), ("fail", vec!["many_failures".into()]));
    }

    #[test]
    fn a_success_after_guesses_from_the_same_place_is_told() {
        let mut lines = times(6, &failed("root", "203.0.113.9"));
        lines.push("Accepted password for root from 198.51.100.1 port 1 ssh2".to_owned());
        assert_eq!(machine(&lines).judge(ID, &json!({})).0, "pass", "somebody else got in");
        lines.push("Accepted password for root from 203.0.113.9 port 2 ssh2".to_owned());
        lines.push("Accepted password for root from 203.0.113.9 port 3 ssh2".to_owned());
        let key = [
            &times(6, &failed("root", "203.0.113.7"))[..],
            &["Accepted publickey for root from 203.0.113.7 port 2 ssh2".to_owned()],
        ];
        assert_eq!(machine(&key.concat()).judge(ID, &json!({})).0, "pass", "a key is not guessed");
        let finding = machine(&lines).finding(ID, &json!({}));
        assert_eq!(finding.observation.facts["guessed"], json!(1));
        assert_eq!(super::super::fixture::words(&finding), ("fail", vec!["login_after_guesses".into()]));
    }

    #[test]
    fn one_failure_is_counted_once() {
        let lines = [
            "Invalid user admin from 203.0.113.9 port 40122".to_owned(),
            failed("invalid user admin", "203.0.113.9"),
            "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=203.0.113.9"
                .to_owned(),
            "pam_unix(sudo:auth): authentication failure; logname=dana uid=1000 euid=0 tty=/dev/pts/0".to_owned(),
            "pam_unix(sudo:auth): 2 more authentication failures; logname=dana uid=1000 euid=0 tty=/dev/pts/0"
                .to_owned(),
            "Failed password for x from y from 198.51.100.7 port 9 ssh2".to_owned(),
            "Failed password for nobody".to_owned(),
        ];
        let facts = machine(&lines).observe(ID, &json!({})).facts;
        assert_eq!((&facts["remote"], &facts["local"]), (&json!(2), &json!(3)));
        assert_eq!((&facts["accounts"], &facts["sources"]), (&json!(2), &json!(2)));
    }

    #[test]
    fn many_other_messages_are_no_failures_but_may_hide_some() {
        let noise = times(ENTRIES, "dana : PWD=/ ; USER=root ; COMMAND=/usr/bin/true");
        assert_eq!(machine(&noise).judge(ID, &json!({})), ("warn", vec!["messages_left_out".into()]));
    }

    /// As OpenSSH 9.2 with `KbdInteractiveAuthentication yes` tells two wrong answers and one of a stranger.
    #[test]
    fn answers_pam_refused_are_counted_once_each() {
        let lines = [
            "error: PAM: Authentication failure for root from 203.0.113.9".to_owned(),
            "error: PAM: Authentication failure for root from 203.0.113.9".to_owned(),
            "Failed keyboard-interactive/pam for root from 203.0.113.9 port 40122 ssh2".to_owned(),
            "Invalid user admin from 203.0.113.9 port 40123".to_owned(),
            "error: PAM: Authentication failure for illegal user admin from 203.0.113.9".to_owned(),
            "Failed keyboard-interactive/pam for invalid user admin from 203.0.113.9 port 40123 ssh2".to_owned(),
        ];
        assert_eq!(machine(&lines).observe(ID, &json!({})).facts["remote"], json!(3));
    }

    #[test]
    fn only_root_speaks_for_sshd() {
        let (empty, settings) = (Tree::new(), serde_json::Map::new());
        let context = Context { host: &empty.host(), settings: &settings, now: now(), own: &Value::Null, before: None };
        let line = question(context).line();
        let (remote, local) = line.split_once(" + ").unwrap();
        assert!(remote.ends_with("_UID=0 SYSLOG_IDENTIFIER=sshd SYSLOG_IDENTIFIER=sshd-session"), "{remote}");
        assert!(local.starts_with("SYSLOG_IDENTIFIER=sudo") && !local.contains("sshd"), "{local}");
    }

    #[test]
    fn no_journal_and_garbage_are_unknown() {
        assert_eq!(Tree::new().judge(ID, &json!({})).0, "unknown");
        assert_eq!(Tree::new().systemd().judge(ID, &json!({})).0, "unknown");
    }
}
