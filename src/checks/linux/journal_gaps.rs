//! What is missing from the journal: starts of the machine, messages it dropped, and files that were changed or damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::history::{History, Sample};
use super::systemd;
use crate::checks::run::{Context, Facts, HISTORY};
use crate::domain::finding::Observation;
use crate::host::{Cmd, HostError};

const BOOTS: &str = "boots";
const VERIFY: &str = "verify";
/// Starts remembered.
const MOST: usize = 60;
/// journald's own message about a service that logged too fast (`SD_MESSAGE_JOURNAL_DROPPED`), which only it can send.
const DROPPED: [&str; 2] = ["MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e", "_TRANSPORT=driver"];
const QUICK: Duration = Duration::from_mins(1);
/// How long looking at all files may take, once a day.
const THOROUGH: Duration = Duration::from_mins(2);
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Facts: `boots`: `{count, missing}`: starts in the journal, and those this check has seen of which nothing is left though
/// the journal reaches further back; null where journalctl does not list them as JSON (before systemd 252).
/// `dropped_last_hour`: messages. `verified`: null before the first daily look, else `{age_h, failed, unclean}`: closed
/// files that are not as they were written, and others, such as those a power cut left; both null where it took too long.
/// And `history`, by which this is known.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let (mut facts, mut history) = (Facts::default(), History::of(context));
    if let Err(error) = systemd::booted(context.host) {
        facts.fail_all(&["boots", "dropped_last_hour", "verified"], &error);
        return facts.into();
    }
    facts.learn("boots", boots(context, &mut history).await);
    facts.learn("dropped_last_hour", dropped(context).await);
    // Not at the first look ever: somebody is waiting for it.
    let due = context.before.is_some()
        && history.latest(VERIFY).is_none_or(|sample| context.now.duration_since(sample.at) >= DAY);
    match if due { verify(context).await.map(Some) } else { Ok(None) } {
        Ok(found) => {
            if let Some(found) = found {
                history.replace(VERIFY, context.now, found);
            }
            facts.set("verified", history.latest(VERIFY).map(|sample| verified(context, sample)));
        }
        Err(error) => facts.fail("verified", &error),
    }
    facts.set(HISTORY, history.fact());
    facts.into()
}

async fn boots(context: Context<'_>, history: &mut History) -> Result<Value, HostError> {
    let this = context.host.read("/proc/sys/kernel/random/boot_id")?.trim().replace('-', "");
    let mut seen = remembered(history);
    seen.entry(this).or_insert(context.now);
    while seen.len() > MOST {
        let oldest = seen.iter().min_by_key(|(_, at)| **at).map(|(id, _)| id.clone());
        seen.remove(&oldest.unwrap_or_default());
    }
    let as_text: Value = seen.iter().map(|(id, at)| (id.clone(), json!(at.to_string()))).collect();
    history.replace(BOOTS, context.now, json!({"seen": as_text}));
    let cmd = Cmd::new(["journalctl", "-q", "--no-pager", "--list-boots", "-o", "json"]).timeout(QUICK);
    let what = cmd.line();
    let output = context.host.run_ok(cmd).await?;
    let Ok(listed) = output.json(&what) else { return Ok(Value::Null) };
    let boot = |value: &Value| {
        let first = Timestamp::from_microsecond(value.get("first_entry")?.as_i64()?).ok()?;
        Some((value.get("boot_id")?.as_str()?.to_owned(), first))
    };
    let listed: Option<Vec<(String, Timestamp)>> = listed.as_array().and_then(|list| list.iter().map(boot).collect());
    let listed = listed.ok_or(HostError::Garbage { what, why: "not a list of starts".to_owned() })?;
    let reaches_back_to = listed.iter().map(|(_, first)| *first).min();
    let ids: BTreeSet<&String> = listed.iter().map(|(id, _)| id).collect();
    let should_be_there = |at: &Timestamp| reaches_back_to.is_some_and(|first| *at > first);
    let missing = seen.iter().filter(|(id, at)| should_be_there(at) && !ids.contains(id)).count();
    Ok(json!({"count": listed.len(), "missing": missing}))
}

/// Starts seen earlier, with when each was first seen.
fn remembered(history: &History) -> BTreeMap<String, Timestamp> {
    let seen = history.latest(BOOTS).and_then(|sample| sample.value.get("seen")?.as_object());
    seen.into_iter().flatten().filter_map(|(id, at)| Some((id.clone(), at.as_str()?.parse().ok()?))).collect()
}

async fn dropped(context: Context<'_>) -> Result<u64, HostError> {
    let words = ["journalctl", "-q", "--no-pager", "-o", "json", "-n", "1000", "--since", "-1h"];
    let cmd = Cmd::new([&words[..], &DROPPED].concat()).timeout(QUICK);
    let what = cmd.line();
    let output = context.host.run_ok(cmd).await?;
    let mut sum = 0_u64;
    for line in output.stdout.lines() {
        let entry: Value = serde_json::from_str(line)
            .map_err(|error| HostError::Garbage { what: what.clone(), why: format!("no JSON: {error}") })?;
        let count = entry.get("N_DROPPED").and_then(Value::as_str).and_then(|count| count.parse().ok()).unwrap_or(1);
        sum = sum.saturating_add(count);
    }
    Ok(sum)
}

/// Looks through all files. One that takes too long is not tried again before tomorrow.
async fn verify(context: Context<'_>) -> Result<Value, HostError> {
    let cmd = Cmd::new(["journalctl", "--no-pager", "--verify"]).timeout(THOROUGH);
    let what = cmd.line();
    let output = match context.host.run(cmd).await {
        Ok(output) => output,
        Err(HostError::Timeout { .. }) => return Ok(json!({"failed": null, "unclean": null})),
        Err(error) => return Err(error),
    };
    let said = [output.stdout.as_str(), output.stderr.as_str()].concat();
    let passed = said.lines().filter(|line| line.starts_with("PASS: ")).count();
    let (mut failed, mut unclean) = (0_u64, 0_u64);
    for path in said.lines().filter_map(|line| line.strip_prefix("FAIL: ")) {
        // One that is written to at this moment, or was when the power failed (`.journal~`), proves nothing.
        let closed = path.contains('@') && !path.contains(".journal~");
        if closed { failed += 1 } else { unclean += 1 }
    }
    if passed == 0 && failed + unclean == 0 {
        return Err(HostError::Garbage { what, why: format!("no file was verified: {}", output.first_line()) });
    }
    Ok(json!({"failed": failed, "unclean": unclean}))
}

fn verified(context: Context<'_>, sample: &Sample) -> Value {
    let field = |name: &str| sample.value.get(name).cloned().unwrap_or_default();
    json!({"age_h": context.seconds_since(sample.at) / 3600, "failed": field("failed"), "unclean": field("unclean")})
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, now, words};
    use super::*;

    const ID: &str = "RB-LNX-LOGGING-002";
    const BOOT: &str = "0f0e0d0c-0000-4000-8000-000000000001";
    const LIST: &str = "journalctl -q --no-pager --list-boots -o json";
    const DROPS: &str = "journalctl -q --no-pager -o json -n 1000 --since -1h MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e _TRANSPORT=driver";
    const LOOK: &str = "journalctl --no-pager --verify";

    fn boots(ids: &[(&str, i64)]) -> String {
        let boot = |(id, days): &(&str, i64)| {
            let first = now().as_microsecond() - days * 86_400_000_000;
            json!({"index": 0, "boot_id": id.replace('-', ""), "first_entry": first, "last_entry": now().as_microsecond()})
        };
        ids.iter().map(boot).collect::<Value>().to_string()
    }

    /// Its journal reaches back a hundred days.
    fn machine() -> Tree {
        Tree::new()
            .systemd()
            .file("/proc/sys/kernel/random/boot_id", BOOT)
            .answer(LIST, &boots(&[(BOOT, 100)]))
            .answer(DROPS, "")
    }

    #[test]
    fn a_start_whose_log_has_vanished_is_missed() {
        let history = |id: &str, days: i64| {
            let at = now() - jiff::SignedDuration::from_hours(24 * days);
            let seen = json!({id: at.to_string()});
            json!({"history": [{"at": at.to_string(), "value": {"kind": "boots", "seen": seen}}]})
        };
        let judge = |facts: Value| {
            let tree = machine().answer(LOOK, "PASS: /var/log/journal/abc/system.journal\n");
            tree.before(1, facts).judge(ID, &json!({}))
        };
        assert_eq!(judge(history(&BOOT.replace('-', ""), 20)), ("pass", vec![]));
        assert_eq!(judge(history("00aa", 20)), ("fail", vec!["boots_missing".into()]));
        assert_eq!(judge(history("00aa", 101)), ("pass", vec![]), "older than the journal reaches");
        let old_systemd = machine().answer(LIST, " 0 0f0e Mon 2026-03-02 11:00:00 UTC\n");
        assert_eq!(old_systemd.judge(ID, &json!({})), ("pass", vec![]));
        let facts = machine().observe(ID, &json!({})).facts;
        assert_eq!(facts["history"][0]["value"]["seen"].as_object().unwrap().len(), 1);
    }

    #[test]
    fn dropped_messages_are_counted() {
        let drop = |count: &str| json!({"N_DROPPED": count, "MESSAGE": "Suppressed"}).to_string();
        let tree = machine().answer(DROPS, &format!("{}\n{}\n", drop("163"), drop("40")));
        let finding = tree.finding(ID, &json!({}));
        assert_eq!(words(&finding), ("warn", vec!["messages_dropped".into()]));
        assert_eq!(finding.observation.facts["dropped_last_hour"], json!(203));
        assert_eq!(tree.judge(ID, &json!({"dropped_warn": 300})), ("pass", vec![]));
    }

    #[test]
    fn files_are_verified_once_a_day_and_only_closed_ones_prove_something() {
        let judge = |status: i32, said: &str, before: Value| {
            machine().answer_with(LOOK, status, "", said).before(1, before).finding(ID, &json!({}))
        };
        let bad = "FAIL: /var/log/journal/abc/system@63ce-01-02.journal (Bad message)\n";
        let found = judge(1, bad, json!({}));
        assert_eq!(words(&found), ("fail", vec!["journal_damaged".into()]));
        let later = judge(0, "", found.observation.facts);
        assert_eq!(words(&later).1, ["journal_damaged"], "remembered until tomorrow");
        let open = "PASS: /a@1.journal\nFAIL: /var/log/journal/abc/system.journal (Bad message)\nFAIL: /x@1.journal~ (Bad message)\n";
        let found = judge(1, open, json!({}));
        assert_eq!((words(&found).0, &found.observation.facts["verified"]["unclean"]), ("pass", &json!(2)));
        assert_eq!(words(&judge(0, "what", json!({}))), ("unknown", vec!["journal_damaged".into()]));
        let first = machine().observe(ID, &json!({})).facts;
        assert_eq!(first["verified"], Value::Null);
    }
}
