//! Whether a backup repository is sound in itself, asked on a slow clock: each time another part of its data is read.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::history::{History, Sample};
use super::repository::Repository;
use crate::checks::run::{Context, Facts};

const KIND: &str = "check";
/// How long it may take.
const PATIENCE: Duration = Duration::from_hours(1);
/// Runs are a day apart, and never to the second.
const EARLY: SignedDuration = SignedDuration::from_hours(12);

/// Facts: `check`: null where it is switched off or nothing was looked at yet, else `{sound, age_d}` of the newest look.
///
/// A machine that has just been set up proves first that files come back; the first look follows a day later. What was
/// found wrong is looked at again at every run. A look that fails for another reason, such as a lock, leaves the one before.
pub(super) async fn collect(
    context: Context<'_>,
    repository: &Repository<'_>,
    history: &mut History,
    facts: &mut Facts,
) {
    let days = context.number("check_days").unwrap_or(0);
    if days == 0 {
        return facts.set("check", Value::Null);
    }
    let last = history.latest(KIND).cloned();
    if context.before.is_some() && last.as_ref().is_none_or(|last| is_due(context, last, days)) {
        let parts = parts(context.number("check_percent").unwrap_or(0));
        let part = next(last.as_ref(), parts);
        match repository.check(part, parts, PATIENCE).await {
            Ok(sound) => history.replace(KIND, context.now, json!({"sound": sound, "part": part})),
            Err(error) if last.is_none() => return facts.fail("check", &error),
            Err(_) => {}
        }
    }
    facts.set(
        "check",
        history
            .latest(KIND)
            .map(|last| json!({"sound": is_sound(last), "age_d": context.seconds_since(last.at) / 86_400})),
    );
}

fn is_sound(sample: &Sample) -> bool {
    sample.value.get("sound") == Some(&Value::Bool(true))
}

fn is_due(context: Context<'_>, last: &Sample, days: i64) -> bool {
    let apart = SignedDuration::from_hours(days.saturating_mul(24)) - EARLY;
    !is_sound(last) || context.now.duration_since(last.at) >= apart
}

/// In how many parts the data is read; zero where none is to be read.
fn parts(percent: i64) -> i64 {
    if percent <= 0 { 0 } else { (100 + percent - 1) / percent }
}

/// The part after the one before; a part that was damaged is read again.
fn next(last: Option<&Sample>, parts: i64) -> i64 {
    let before = last.and_then(|last| last.value.get("part")?.as_i64()).unwrap_or(0);
    match last {
        _ if parts == 0 => 0,
        Some(last) if !is_sound(last) && (1..=parts).contains(&before) => before,
        Some(_) | None => before.rem_euclid(parts) + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, now};
    use super::super::restore::tests::repository;
    use super::*;

    const ID: &str = "RB-RESTORE-001";

    fn sample(hours: i64, sound: bool, part: i64) -> Value {
        let at = now() - SignedDuration::from_hours(hours);
        json!({"at": at.to_string(), "value": {"kind": "check", "sound": sound, "part": part}})
    }

    fn check(part: &str, status: i32, stderr: &str) -> Tree {
        let line = format!("restic --no-lock --no-cache check --read-data-subset={part}");
        repository(3).answer_with(&line, status, "", stderr)
    }

    /// What it comes to, and which part is remembered as read.
    fn judge(tree: Tree, before: &[Value]) -> (Vec<String>, Value) {
        let tree = tree.before(24, json!({"history": before}));
        let finding = tree.finding(ID, &json!({"repository": "/backup"}));
        // Nothing is in that repository, so nothing comes back: only what is said of the repository itself counts here.
        let words = finding.reasons.iter().map(|reason| reason.word.clone()).filter(|word| word != "nothing_restored");
        let words = words.collect();
        let history = finding.observation.facts["history"].as_array().unwrap();
        let read = history.iter().find(|sample| sample["value"]["kind"] == "check");
        (words, read.map_or(Value::Null, |sample| sample["value"]["part"].clone()))
    }

    #[test]
    fn parts_are_read_one_after_the_other_once_a_week() {
        let none: Vec<String> = vec![];
        assert_eq!(judge(check("1/50", 0, ""), &[]), (none.clone(), json!(1)));
        assert_eq!(
            judge(check("1/50", 1, "Fatal: repository contains errors"), &[]),
            (vec!["repository_damaged".into()], json!(1))
        );
        assert_eq!(judge(check("8/50", 0, ""), &[sample(7 * 24 - 1, true, 7)]), (none.clone(), json!(8)));
        assert_eq!(judge(check("1/50", 0, ""), &[sample(200, true, 50)]), (none.clone(), json!(1)), "and begins again");
        assert_eq!(judge(repository(3), &[sample(48, true, 7)]), (none, json!(7)), "it is not due");
    }

    #[test]
    fn damage_is_looked_at_again_every_day_until_it_is_gone() {
        assert_eq!(judge(check("7/50", 0, ""), &[sample(24, false, 7)]), (vec![], json!(7)));
        let again = judge(check("7/50", 1, "The repository is damaged and must be repaired"), &[sample(24, false, 7)]);
        assert_eq!(again.0, ["repository_damaged"]);
        let unasked = judge(check("7/50", 1, "Fatal: wrong password"), &[sample(24, false, 7)]);
        assert_eq!(unasked.0, ["repository_damaged"], "nobody knows better");
    }

    #[test]
    fn a_look_that_fails_is_no_damage_and_is_missed_in_time() {
        let locked = || check("8/50", 11, "Fatal: unable to create lock");
        assert_eq!(judge(locked(), &[sample(8 * 24, true, 7)]).0, [""; 0]);
        assert_eq!(judge(locked(), &[sample(22 * 24, true, 7)]).0, ["check_overdue"]);
        assert_eq!(judge(check("1/50", 11, "locked"), &[]).0, ["repository_damaged", "check_overdue"], "unknown");
        let off = repository(3).before(24, json!({})).observe(ID, &json!({"repository": "/backup", "check_days": 0}));
        let first = repository(3).observe(ID, &json!({"repository": "/backup"}));
        assert_eq!((&off.facts["check"], &first.facts["check"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn percents_become_parts() {
        assert_eq!([0, 1, 2, 3, 50, 99, 100].map(parts), [0, 100, 50, 34, 2, 2, 1]);
        assert_eq!(next(None, 0), 0);
    }
}
