//! The agent's own health, as it reports it: store, queue, progress, and which program this is.

use serde_json::Value;

use crate::checks::run::{Context, Facts};
use crate::domain::finding::{Observation, ProblemKind};

/// What the agent always reports; null where it could not find out.
///
/// `version`, `binary_sha256` (text); `outbox` (`{depth, oldest_age_h}`, the age null where nothing waits); `integrity`
/// of store and log (`ok`, or what is wrong); `state_free_percent` (of the disk that holds its state).
const REPORTED: &[&str] = &["version", "binary_sha256", "outbox", "integrity", "state_free_percent"];
/// What only a running agent knows: `entries` (evidence written so far), `last_progress_age_s` (since its main loop
/// last finished a round).
const WHILE_RUNNING: &[&str] = &["entries", "last_progress_age_s"];

/// Facts: [`REPORTED`] and [`WHILE_RUNNING`].
pub(super) fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    for name in REPORTED {
        match context.own.get(name) {
            Some(Value::Null) | None => {
                facts.problem(name, ProblemKind::Unavailable, format!("the agent does not know its `{name}`"));
            }
            Some(value) => facts.set(name, value.clone()),
        }
    }
    for name in WHILE_RUNNING {
        facts.set(name, context.own.get(name).cloned().unwrap_or_default());
    }
    facts.into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixture::Tree;

    const ID: &str = "RB-LNX-AGENT-001";

    fn own() -> Value {
        json!({
            "version": "0.1.0", "binary_sha256": "ab".repeat(32), "outbox": {"depth": 0, "oldest_age_h": null},
            "integrity": "ok", "state_free_percent": 60, "entries": 12, "last_progress_age_s": 3,
        })
    }

    fn judge(name: &str, value: Value) -> (&'static str, Vec<String>) {
        let mut own = own();
        own[name] = value;
        Tree::new().own(own).judge(ID, &json!({}))
    }

    #[test]
    fn a_healthy_agent_passes() {
        assert_eq!(judge("entries", json!(13)), ("pass", vec![]));
        assert_eq!(judge("last_progress_age_s", Value::Null), ("pass", vec![]));
    }

    #[test]
    fn every_ailment_has_its_word() {
        assert_eq!(judge("integrity", json!("entry 7 does not follow entry 6")).1, ["integrity_broken"]);
        let waiting = |hours: u64| judge("outbox", json!({"depth": 9, "oldest_age_h": hours}));
        assert_eq!(waiting(30), ("warn", vec!["outbox_waiting".into()]));
        assert_eq!(waiting(200), ("fail", vec!["outbox_stuck".into()]));
        assert_eq!(judge("state_free_percent", json!(3)), ("fail", vec!["no_room".into()]));
        assert_eq!(judge("last_progress_age_s", json!(3600)), ("fail", vec!["stalled".into()]));
        assert_eq!(judge("entries", json!(0)), ("fail", vec!["no_evidence".into()]));
        let other = json!({"binary_sha256": "cd".repeat(32)});
        assert_eq!(Tree::new().own(own()).judge(ID, &other), ("fail", vec!["other_program".into()]));
    }

    #[test]
    fn what_the_agent_does_not_know_is_unknown() {
        assert_eq!(judge("outbox", Value::Null).0, "unknown");
        let found = Tree::new().finding(ID, &json!({}));
        assert_eq!(found.verdict.word(), "unknown");
        assert!(found.reasons[0].say.contains("does not know"), "{:?}", found.reasons);
    }
}
