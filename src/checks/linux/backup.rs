//! Backups: how old the newest snapshot is, whether every expected path is in a fresh one, how the last job ended.

use serde_json::{Value, json};

use super::repository::{Listed, Repository, Snapshot};
use super::{backup_size, systemd};
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;

/// What the repository itself tells.
const ASKED: &[&str] = &["repository", "snapshot", "ahead", "covered", "encrypted", "sizes"];

/// Facts: `repository`, `snapshot`, `ahead` (how many are dated in the future), `covered`, `encrypted`, `sizes` (see [`backup_size`]), `job`.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    match Repository::configured(context) {
        Ok(Some(repository)) => ask(context, &repository, &mut facts).await,
        Ok(None) => {
            for name in ASKED {
                facts.set(name, Value::Null);
            }
        }
        Err(error) => facts.fail_all(ASKED, &error),
    }
    match context.text("unit") {
        Some(unit) => facts.learn("job", systemd::show(context.host, unit).await.map(|unit| unit.fact())),
        None => facts.set("job", Value::Null),
    }
    facts.into()
}

async fn ask(context: Context<'_>, repository: &Repository<'_>, facts: &mut Facts) {
    let fact = match repository.fact() {
        Ok(fact) => fact,
        Err(error) => return facts.fail_all(ASKED, &error),
    };
    let present = fact.get("present") == Some(&json!(true));
    facts.set("repository", fact);
    if !present {
        for name in ["snapshot", "ahead", "covered", "encrypted", "sizes"] {
            facts.set(name, Value::Null);
        }
        return;
    }
    match repository.snapshots(context.now).await {
        Ok(Listed { snapshots, ahead }) => {
            facts.set("ahead", ahead);
            let newest = snapshots.first();
            facts.set("encrypted", newest.map(|snapshot| snapshot.encrypted));
            facts.set("snapshot", newest.map(|snapshot| json!({"age_min": age_min(context, snapshot)})));
            facts.set("covered", covered(context, &snapshots));
            backup_size::collect(context, repository, &snapshots, facts).await;
        }
        Err(error) => facts.fail_all(ASKED, &error),
    }
}

/// Minutes since it was made; negative where it lies ahead of our clock.
pub(super) fn age_min(context: Context<'_>, snapshot: &Snapshot) -> i64 {
    context.seconds_since(snapshot.time).div_euclid(60)
}

/// Each path with the age of the newest snapshot that holds it; null where the tool does not name paths.
fn covered(context: Context<'_>, newest_first: &[Snapshot]) -> Value {
    let mut covered: Vec<(&str, i64)> = Vec::new();
    for snapshot in newest_first {
        let Some(paths) = &snapshot.paths else { return Value::Null };
        for path in paths {
            if !covered.iter().any(|(known, _)| known == path) {
                covered.push((path, age_min(context, snapshot)));
            }
        }
    }
    covered.into_iter().map(|(path, age)| json!({"path": path, "age_min": age})).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::fixture::{Tree, words};
    use super::*;

    const ID: &str = "RB-BACKUP-001";
    const LIST: &str = "restic --no-lock --no-cache snapshots --json --latest 10";

    pub(in super::super) fn machine(hours: i64) -> Tree {
        let time = super::super::fixture::now() - jiff::SignedDuration::from_hours(hours);
        let list = json!([{"time": time.to_string(), "paths": ["/srv", "/home"], "hostname": "x", "id": "ab"}]);
        Tree::new()
            .file("/backup/config", "x")
            .file("/etc/pw", "secret")
            .answer(LIST, &list.to_string())
            .answer(
                "restic --no-lock --no-cache stats --json --mode restore-size ab",
                "{\"total_size\": 1000, \"total_file_count\": 100}",
            )
            .systemd()
            .unit("backup.service", "loaded", "inactive", "dead", "static")
    }

    pub(in super::super) fn settings() -> Value {
        json!({"repository": "/backup", "password_file": "/etc/pw", "unit": "backup.service", "paths": ["/srv"]})
    }

    fn judge(tree: &Tree) -> (&'static str, Vec<String>) {
        tree.judge(ID, &settings())
    }

    #[test]
    fn ages_are_judged_in_both_directions() {
        assert_eq!(judge(&machine(3)), ("pass", vec![]));
        assert_eq!(judge(&machine(30)), ("warn", vec!["backup_late".into()]));
        assert_eq!(judge(&machine(72)).1, ["backup_stale", "paths_missing"]);
        assert_eq!(judge(&machine(-2)).0, "unknown", "nobody knows how old it is");
        let time = |hours| (super::super::fixture::now() - jiff::SignedDuration::from_hours(hours)).to_string();
        let both = |hours| {
            let list = json!([
                {"time": time(-90_000), "paths": ["/srv", "/home"], "hostname": "x", "id": "zz"},
                {"time": time(hours), "paths": ["/srv", "/home"], "hostname": "x", "id": "ab"},
            ]);
            machine(0).answer(LIST, &list.to_string())
        };
        assert_eq!(judge(&both(3)), ("warn", vec!["clock_ahead".into()]));
        assert_eq!(judge(&both(72)).1, ["backup_stale", "clock_ahead", "paths_missing"]);
    }

    #[test]
    fn missing_paths_snapshots_and_repositories_fail() {
        let other = json!({"repository": "/backup", "paths": ["/srv", "/var/lib/ehr"]});
        assert_eq!(machine(3).judge(ID, &other).1, ["paths_missing"]);
        assert_eq!(judge(&machine(3).answer(LIST, "[]")).1, ["no_snapshot"]);
        assert_eq!(machine(3).judge(ID, &json!({"repository": "/gone"})).1, ["repository_missing"]);
        let failed = machine(3).unit("backup.service", "loaded", "failed", "failed", "static");
        assert_eq!(judge(&failed).1, ["job_failed"]);
    }

    #[test]
    fn nothing_configured_was_never_configured() {
        let finding = Tree::new().finding(ID, &json!({}));
        assert_eq!(words(&finding), ("fail", vec!["not_configured".into()]));
        assert!(finding.is_never_configured());
    }

    #[test]
    fn a_repository_that_does_not_open_is_unknown_and_its_address_stays_here() {
        let remote = "rest:https://user:hunter2@backup.example/";
        let said = format!("Fatal: unable to open repository at {remote}: connection refused");
        let finding = machine(3).answer_with(LIST, 1, "", &said).finding(ID, &json!({"repository": remote}));
        assert_eq!(finding.verdict.word(), "unknown");
        let shown = format!("{finding:?}");
        assert!(shown.contains("connection refused") && !shown.contains("hunter2"), "{shown}");
        for garbage in ["", "{}", "[{\"id\": 3}]"] {
            assert_eq!(judge(&machine(3).answer(LIST, garbage)).0, "unknown", "{garbage}");
        }
        let no_password = json!({"repository": "/backup", "password_file": "/etc/none"});
        assert_eq!(machine(3).judge(ID, &no_password).0, "unknown");
    }
}
