//! Backups: how old the newest snapshot is, whether every expected path is in a fresh one, how the last job ended.

use serde_json::{Value, json};

use super::repository::{Listed, Repository, Snapshot};
use super::{backup_size, systemd};
use crate::checks::run::{Context, Facts};
use crate::domain::finding::{Observation, ProblemKind};
use crate::host::{Cmd, Host, HostError};

/// What the repository itself tells.
const ASKED: &[&str] = &["repository", "snapshot", "ahead", "covered", "unclear", "encrypted", "sizes"];

/// Facts: `repository`, `snapshot`, `ahead` (how many are dated in the future), `covered` (`[{path, age_min}]`), `unclear`:
/// zero, or why it is not known what a snapshot holds; `encrypted`, `sizes` (see [`backup_size`]), and `job`: the unit's
/// state with `started_min`, minutes since its last run began, null where it has not run since the machine started, or systemd has
/// forgotten a unit that no timer refers to.
/// Only this machine's snapshots count.
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
        Some(unit) => facts.learn("job", job(context.host, unit).await),
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
        for name in ASKED.iter().filter(|name| **name != "repository") {
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
            if snapshots.iter().all(|snapshot| snapshot.paths.is_some()) {
                facts.set("unclear", 0);
            } else {
                let say = "the command that made a backup does not tell which paths it holds";
                facts.problem("unclear", ProblemKind::Unavailable, say);
            }
            backup_size::collect(context, repository, &snapshots, facts).await;
        }
        Err(error) => facts.fail_all(ASKED, &error),
    }
}

/// Minutes since it was made; negative where it lies ahead of our clock.
pub(super) fn age_min(context: Context<'_>, snapshot: &Snapshot) -> i64 {
    context.seconds_since(snapshot.time).div_euclid(60)
}

/// Each path with the age of the newest snapshot that is known to hold it.
fn covered(context: Context<'_>, newest_first: &[Snapshot]) -> Value {
    let mut covered: Vec<(&str, i64)> = Vec::new();
    for snapshot in newest_first {
        for path in snapshot.paths.iter().flatten() {
            if !covered.iter().any(|(known, _)| known == path) {
                covered.push((path, age_min(context, snapshot)));
            }
        }
    }
    covered.into_iter().map(|(path, age)| json!({"path": path, "age_min": age})).collect()
}

async fn job(host: &Host, name: &str) -> Result<Value, HostError> {
    let mut fact = systemd::show(host, name).await?.fact();
    // When it last left its rest: its main process may be the last of several commands.
    let cmd = Cmd::new(["systemctl", "show", "--no-pager", "-p", "InactiveExitTimestampMonotonic", "--", name]);
    let what = cmd.line();
    let output = host.run_ok(cmd).await?;
    let micros = systemd::blocks(&output.stdout)
        .first()
        .and_then(|block| block.get("InactiveExitTimestampMonotonic")?.parse::<u64>().ok())
        .ok_or(HostError::Garbage { what, why: "no time in the answer".to_owned() })?;
    let started_min = if micros == 0 { None } else { Some(uptime_s(host)?.saturating_sub(micros / 1_000_000) / 60) };
    if let Some(fact) = fact.as_object_mut() {
        fact.insert("started_min".to_owned(), json!(started_min));
    }
    Ok(fact)
}

fn uptime_s(host: &Host) -> Result<u64, HostError> {
    const PATH: &str = "/proc/uptime";
    let text = host.read(PATH)?;
    let seconds = text.split('.').next().and_then(|seconds| seconds.parse().ok());
    seconds.ok_or(HostError::Garbage { what: PATH.to_owned(), why: "no number".to_owned() })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::fixture::{Tree, words};
    use super::*;

    const ID: &str = "RB-BACKUP-001";
    const LIST: &str = "restic --no-lock --no-cache snapshots --json --latest 10 --host x";

    /// The job began so long ago.
    fn began(tree: Tree, hours: u64) -> Tree {
        let micros = (1000 - hours) * 3_600_000_000;
        tree.file("/proc/uptime", "3600000.5 1.0\n").answer(
            "systemctl show --no-pager -p InactiveExitTimestampMonotonic -- backup.service",
            &format!("InactiveExitTimestampMonotonic={micros}\n"),
        )
    }

    pub(in super::super) fn machine(hours: i64) -> Tree {
        let time = super::super::fixture::now() - jiff::SignedDuration::from_hours(hours);
        let list = json!([{"time": time.to_string(), "paths": ["/srv", "/home"], "hostname": "x", "id": "ab"}]);
        began(Tree::new(), 1000)
            .file("/proc/sys/kernel/hostname", "x\n")
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
        json!({"repository": "/backup", "password_file": "/etc/pw", "unit": "backup.service", "paths": ["/srv"], "offsite": true})
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
        let other = json!({"repository": "/backup", "paths": ["/srv", "/var/lib/ehr"], "offsite": true});
        assert_eq!(machine(3).judge(ID, &other).1, ["paths_missing"]);
        assert_eq!(judge(&machine(3).answer(LIST, "[]")).1, ["no_snapshot"]);
        assert_eq!(
            machine(3).judge(ID, &json!({"repository": "/gone", "paths": ["/srv"], "offsite": true})).1,
            ["repository_missing"]
        );
        let failed = machine(3).unit("backup.service", "loaded", "failed", "failed", "static");
        assert_eq!(judge(&failed).1, ["job_failed"]);
    }

    /// The recorded list is asked for by the machine's name: with another name there is no answer.
    #[test]
    fn another_machines_backup_is_none_of_ours() {
        assert_eq!(judge(&machine(3).file("/proc/sys/kernel/hostname", "y\n")).0, "unknown");
        let mut named = settings();
        named["machine"] = json!("old-server");
        let list = "restic --no-lock --no-cache snapshots --json --latest 10 --host old-server";
        assert_eq!(machine(3).answer(list, "[]").judge(ID, &named).1, ["no_snapshot"]);
        let nameless = Tree::new().file("/backup/config", "x").judge(ID, &json!({"repository": "/backup"}));
        assert_eq!(nameless.0, "unknown");
    }

    #[test]
    fn borg_archives_count_by_machine_and_by_what_they_hold() {
        let judge = |host: &str, line: &str, wanted: &str| {
            let time = (super::super::fixture::now() - jiff::SignedDuration::from_hours(3))
                .strftime("%Y-%m-%dT%H:%M:%S.000000");
            let words: Vec<&str> = line.split(' ').collect();
            let list = json!({"encryption": {"mode": "repokey"}, "archives": [{"name": "a-1", "hostname": host, "start": time.to_string(), "command_line": words}]});
            let size = json!({"archives": [{"stats": {"original_size": 1, "nfiles": 1}}]});
            Tree::new()
                .file("/proc/sys/kernel/hostname", "x\n")
                .file("/backup/config", "x")
                .answer(
                    "borg --bypass-lock list --json --last 100 --format {hostname}{command_line}",
                    &list.to_string(),
                )
                .answer("borg --bypass-lock info --json ::a-1", &size.to_string())
                .judge(ID, &json!({"tool": "borg", "repository": "/backup", "paths": [wanted], "offsite": true}))
        };
        assert_eq!(judge("x", "borg create ::a-{now} /srv /home", "/srv"), ("pass", vec![]));
        assert_eq!(judge("x", "borg create ::a-{now} /srv", "/home"), ("fail", vec!["paths_missing".into()]));
        assert_eq!(judge("y", "borg create ::a-{now} /srv", "/srv"), ("fail", vec!["no_snapshot".into()]));
        let untold = judge("x", "borg create --paths-from-stdin ::a-{now}", "/srv");
        assert_eq!(untold, ("unknown", vec!["paths_missing".into()]));
    }

    #[test]
    fn a_backup_of_nothing_in_particular_is_not_set_up() {
        let mut nothing = settings();
        nothing["paths"] = json!([]);
        let finding = machine(3).finding(ID, &nothing);
        assert_eq!(words(&finding), ("fail", vec!["paths_not_configured".into()]));
        assert!(finding.is_never_configured());
    }

    #[test]
    fn a_job_that_ends_well_must_have_made_a_snapshot() {
        assert_eq!(judge(&began(machine(3), 3)), ("pass", vec![]));
        let empty = began(machine(20), 1);
        assert_eq!(
            judge(&empty),
            ("fail", vec!["job_saved_nothing".into()]),
            "it is young enough, but not of this run"
        );
        assert_eq!(
            judge(&empty.unit("backup.service", "loaded", "activating", "start", "static")).0,
            "pass",
            "at work"
        );
        let garbage =
            machine(3).answer("systemctl show --no-pager -p InactiveExitTimestampMonotonic -- backup.service", "");
        assert_eq!(judge(&garbage).0, "unknown");
    }

    #[test]
    fn where_the_only_copy_lies_is_said_by_a_person() {
        let with = |more: &Value| {
            let mut settings = settings();
            settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            machine(3).judge(ID, &settings)
        };
        assert_eq!(with(&json!({"offsite": null})), ("warn", vec!["not_offsite".into()]), "it is on this machine");
        assert_eq!(with(&json!({"offsite": false})), ("warn", vec!["not_offsite".into()]));
        assert_eq!(with(&json!({"append_only": false})), ("warn", vec!["erasable".into()]));
        assert_eq!(with(&json!({"append_only": true})), ("pass", vec![]));
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
        let finding =
            machine(3).answer_with(LIST, 1, "", &said).finding(ID, &json!({"repository": remote, "paths": ["/srv"]}));
        assert_eq!(finding.verdict.word(), "unknown");
        let shown = format!("{finding:?}");
        assert!(shown.contains("connection refused") && !shown.contains("hunter2"), "{shown}");
        for garbage in ["", "{}", "[{\"id\": 3}]"] {
            assert_eq!(judge(&machine(3).answer(LIST, garbage)).0, "unknown", "{garbage}");
        }
        let no_password = json!({"repository": "/backup", "password_file": "/etc/none", "paths": ["/srv"]});
        assert_eq!(machine(3).judge(ID, &no_password).0, "unknown");
    }
}
