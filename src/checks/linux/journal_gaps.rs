//! What is missing from the journal: starts of the machine, messages it dropped, and files that were changed or damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::history::{History, Sample};
use super::systemd;
use crate::checks::run::{Context, Facts, HISTORY};
use crate::host::{Cmd, HostError};

const BOOTS: &str = "boots";
const VERIFY: &str = "verify";
/// Starts remembered.
const MOST: usize = 60;
/// journald's own message about a service that logged too fast (`SD_MESSAGE_JOURNAL_DROPPED`), which only it can send.
const DROPPED: [&str; 2] = ["MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e", "_TRANSPORT=driver"];
const QUICK: Duration = Duration::from_secs(15);
/// How long looking at all files may take, once a day.
const THOROUGH: Duration = Duration::from_mins(2);
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Facts: `boots`: `{count, missing}`: starts in the journal, and those this check has seen of which nothing is left though
/// the journal reaches further back; null where journalctl does not list them as JSON (before systemd 252).
/// `dropped_last_hour`: messages. `verified`: null before the first daily look, else `{age_h, failed, unclean}`: closed
/// files that are not as they were written, and others, such as those a power cut left; both null where it took too long.
/// And `history`, by which this is known.
pub(super) async fn collect(context: Context<'_>, facts: &mut Facts) {
    let mut history = History::of(context);
    if let Err(error) = systemd::booted(context.host) {
        return facts.fail_all(&["boots", "dropped_last_hour", "verified"], &error);
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
