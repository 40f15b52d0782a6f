//! The agent's own health, as it reports it: store, queue, progress, and which program this is.

use crate::checks::run::{Context, Facts};
use crate::domain::finding::{Observation, ProblemKind};

/// What the agent reports about itself:
/// `version` and `binary_sha256` (text); `entries`, `outbox_depth` (counts); `oldest_outbox_age_h` (null where the
/// outbox is empty); `integrity` (`{ok: bool, error: text or null}`, of the store and the log); `db_free_percent` (of
/// the disk that holds the database); `last_progress_age_s` (since the main loop last finished a round).
const REPORTED: &[&str] = &[
    "version",
    "binary_sha256",
    "entries",
    "outbox_depth",
    "oldest_outbox_age_h",
    "integrity",
    "db_free_percent",
    "last_progress_age_s",
];

/// Facts: [`REPORTED`].
pub(super) fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    for name in REPORTED {
        match context.own.get(name) {
            Some(value) => facts.set(name, value.clone()),
            None => facts.problem(name, ProblemKind::Unavailable, format!("the agent does not report its `{name}`")),
        }
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
            "version": "0.1.0", "binary_sha256": "ab".repeat(32), "entries": 12, "outbox_depth": 0,
            "oldest_outbox_age_h": null, "integrity": {"ok": true, "error": null}, "db_free_percent": 60,
            "last_progress_age_s": 3,
        })
    }

    fn judge(change: impl FnOnce(&mut Value)) -> (&'static str, Vec<String>) {
        let mut own = own();
        change(&mut own);
        Tree::new().own(own).judge(ID, &json!({}))
    }

    #[test]
    fn a_healthy_agent_passes() {
        assert_eq!(judge(|_| ()), ("pass", vec![]));
    }

    #[test]
    fn every_ailment_has_its_word() {
        let integrity = json!({"ok": false, "error": "entry 7 does not follow entry 6"});
        assert_eq!(judge(|own| own["integrity"] = integrity).1, ["integrity_broken"]);
        assert_eq!(judge(|own| own["oldest_outbox_age_h"] = json!(30)), ("warn", vec!["outbox_waiting".into()]));
        assert_eq!(judge(|own| own["oldest_outbox_age_h"] = json!(200)), ("fail", vec!["outbox_stuck".into()]));
        assert_eq!(judge(|own| own["db_free_percent"] = json!(3)), ("fail", vec!["no_room".into()]));
        assert_eq!(judge(|own| own["last_progress_age_s"] = json!(3600)), ("fail", vec!["stalled".into()]));
        assert_eq!(judge(|own| own["entries"] = json!(0)), ("fail", vec!["no_evidence".into()]));
        let other = json!({"binary_sha256": "cd".repeat(32)});
        assert_eq!(Tree::new().own(own()).judge(ID, &other), ("fail", vec!["other_program".into()]));
    }

    #[test]
    fn an_agent_that_reports_nothing_is_unknown() {
        let found = Tree::new().finding(ID, &json!({}));
        assert_eq!(found.verdict.word(), "unknown");
        assert!(found.reasons[0].say.contains("does not report"), "{:?}", found.reasons);
    }
}
