//! A real restore test: a few files from the newest snapshot, restored to a private place, compared, and wiped again.

use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;

use super::backup::age_min;
use super::repository::{Entry, Repository, Snapshot};
use crate::checks::run::{Context, Facts};
use crate::crypto::sha256_hex;
use crate::domain::finding::Observation;
use crate::host::HostError;

/// Facts: `repository`, `snapshot`, `test`. No file is named: names may be about patients.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    if let Err(error) = run(context, &mut facts).await {
        facts.fail_all(&["repository", "snapshot", "test"], &error);
    }
    facts.into()
}

async fn run(context: Context<'_>, facts: &mut Facts) -> Result<(), HostError> {
    let configured = Repository::configured(context)?;
    let about = configured.as_ref().map(Repository::fact).transpose()?;
    let present = about.as_ref().is_some_and(|fact| fact.get("present") == Some(&json!(true)));
    facts.set("repository", about);
    if let Some(repository) = configured.filter(|_| present)
        && let Some(newest) = repository.snapshots(context.now).await?.snapshots.first()
    {
        facts.set("snapshot", json!({"age_min": age_min(context, newest)}));
        facts.set("test", test(context, &repository, newest).await?);
    } else {
        facts.set("snapshot", Value::Null);
        facts.set("test", Value::Null);
    }
    Ok(())
}

/// What came back.
#[derive(Debug, Default)]
struct Outcome {
    restored: u64,
    bytes: u64,
    same: u64,
    different: u64,
    changed_since: u64,
    no_counterpart: u64,
}

async fn test(context: Context<'_>, repository: &Repository<'_>, snapshot: &Snapshot) -> Result<Value, HostError> {
    let files = match repository.files(snapshot).await {
        Ok(files) => sample(context, files)?,
        // The repository opened, but the list of this snapshot's files does not: that is a broken backup, not a lack of knowledge.
        Err(HostError::Io { .. }) => return Ok(fact(1, &[], &Outcome::default(), 0, true)),
        Err(error) => return Err(error),
    };
    if files.is_empty() {
        return Ok(fact(0, &files, &Outcome::default(), 0, true));
    }
    let scratch = context.text("scratch").unwrap_or("/var/tmp");
    let dir = tempfile::Builder::new()
        .prefix("malachor-restore-")
        // What comes back may be patients' files: nobody else may look.
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(context.host.path(scratch))
        .map_err(|error| HostError::from_io(scratch, &error))?;
    let name = dir.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let started = tokio::time::Instant::now();
    let status = repository.restore(snapshot, &files, dir.path()).await?.status;
    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let outcome = compare(context, &format!("{scratch}/{name}"), &files);
    let wiped = dir.close().is_ok();
    outcome.map(|outcome| fact(status, &files, &outcome, took_ms, wiped))
}

fn fact(status: i32, files: &[Entry], outcome: &Outcome, took_ms: u64, wiped: bool) -> Value {
    json!({
        "status": status, "asked": files.len(), "restored": outcome.restored, "bytes": outcome.bytes, "took_ms": took_ms,
        "same": outcome.same, "different": outcome.different, "changed_since": outcome.changed_since,
        "no_counterpart": outcome.no_counterpart, "wiped": wiped,
    })
}

/// A few files, another few each time: those whose names hash lowest with a fresh random word.
fn sample(context: Context<'_>, mut files: Vec<Entry>) -> Result<Vec<Entry>, HostError> {
    let word = context.host.read("/proc/sys/kernel/random/uuid")?;
    let size = |name, default| u64::try_from(context.number(name).unwrap_or(default)).unwrap_or_default();
    let cap = size("max_mb", 64) * 1_000_000;
    let count = usize::try_from(size("files", 5)).unwrap_or(usize::MAX);
    files.retain(|file| file.size > 0 && file.size <= cap);
    files.sort_by_cached_key(|file| sha256_hex(format!("{word}{}", file.path).as_bytes()));
    files.truncate(count);
    Ok(files)
}

fn compare(context: Context<'_>, scratch: &str, files: &[Entry]) -> Result<Outcome, HostError> {
    let mut outcome = Outcome::default();
    for file in files {
        let (restored, length) = match context.host.digest(&format!("{scratch}{}", file.path)) {
            Ok(found) => found,
            Err(HostError::Missing(_)) => continue,
            Err(error) => return Err(error),
        };
        if length != file.size {
            outcome.different += 1;
            continue;
        }
        outcome.restored += 1;
        outcome.bytes += length;
        match context.host.stat(&file.path) {
            Ok(live) if live.size == file.size && same_second(live.modified, file.modified) => {
                let (live, _) = context.host.digest(&file.path)?;
                if live == restored { outcome.same += 1 } else { outcome.different += 1 }
            }
            Ok(_) => outcome.changed_since += 1,
            Err(_) => outcome.no_counterpart += 1,
        }
    }
    Ok(outcome)
}

fn same_second(a: Option<jiff::Timestamp>, b: Option<jiff::Timestamp>) -> bool {
    a.is_some() && a.map(jiff::Timestamp::as_second) == b.map(jiff::Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, finding, on_runtime, words};
    use super::*;
    use crate::host::{Cmd, Host};

    const ID: &str = "RB-RESTORE-001";

    /// A real repository with three files in it.
    struct Lab {
        dir: tempfile::TempDir,
        tool: &'static str,
    }

    impl Lab {
        fn new(tool: &'static str) -> Option<Self> {
            if !Host::live().has(tool) {
                eprintln!("skipped: {tool} is not installed");
                return None;
            }
            let lab = Self { dir: tempfile::tempdir().unwrap(), tool };
            std::fs::create_dir(lab.at("src")).unwrap();
            std::fs::write(lab.at("pw"), "secret").unwrap();
            for (name, content) in [("a", "one"), ("b c[1]*", "two"), ("d", "three")] {
                std::fs::write(lab.at(&format!("src/{name}")), content).unwrap();
            }
            lab.run(if tool == "borg" { &["init", "-e", "repokey"] } else { &["init"] });
            lab.snapshot();
            Some(lab)
        }

        fn at(&self, name: &str) -> String {
            self.dir.path().join(name).display().to_string()
        }

        fn snapshot(&self) {
            match self.tool {
                // Dated as the clock of the fixtures goes.
                "borg" => self.run(&["create", "--timestamp", "2026-03-02T11:00:00", "::one", &self.at("src")]),
                _ => self.run(&["backup", "--time", "2026-03-02 11:00:00", &self.at("src")]),
            }
        }

        fn run(&self, args: &[&str]) {
            let cmd = Cmd::new([&[self.tool], args].concat())
                .env("RESTIC_REPOSITORY", self.at("repo"))
                .env("RESTIC_PASSWORD_FILE", self.at("pw"))
                .env("BORG_REPO", self.at("repo"))
                .env("BORG_PASSPHRASE", "secret")
                .env("TZ", "UTC");
            let output = on_runtime(Host::live().run(cmd)).unwrap();
            assert!(output.success(), "{}", output.stderr);
        }

        fn settings(&self) -> Value {
            json!({"tool": self.tool, "repository": self.at("repo"), "password_file": self.at("pw")})
        }

        /// The backup check and the restore test both find it in order.
        fn comes_back(&self) {
            let mut settings = self.settings();
            settings["paths"] = json!([self.at("src")]);
            let backup = finding(&Host::live(), "RB-BACKUP-001", &settings);
            assert_eq!(
                (&backup.observation.problems[..], &backup.observation.facts["encrypted"]),
                (&[][..], &json!(true))
            );
            let (verdict, reasons, facts) = self.judge();
            assert_eq!((verdict, reasons), ("pass", vec![]), "{facts}");
            let test = &facts["test"];
            assert_eq!((&test["restored"], &test["same"], &test["bytes"]), (&json!(3), &json!(3), &json!(11)));
            assert_eq!(test["wiped"], json!(true));
            let left = std::fs::read_dir(self.dir.path()).unwrap().count();
            assert_eq!(left, 3, "only repository, password and source are left");
            assert!(!facts.to_string().contains("b c"), "file names stay here");
        }

        fn lose_index(&self) {
            for entry in std::fs::read_dir(self.at("repo/index")).unwrap() {
                std::fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }

        fn judge(&self) -> (&'static str, Vec<String>, Value) {
            let mut settings = self.settings();
            settings["scratch"] = json!(self.at(""));
            let finding = finding(&Host::live(), ID, &settings);
            let (verdict, reasons) = words(&finding);
            (verdict, reasons, finding.observation.facts)
        }
    }

    #[test]
    fn files_really_come_back_from_borg() {
        let Some(lab) = Lab::new("borg") else { return };
        lab.comes_back();
    }

    #[test]
    fn files_really_come_back_from_restic_and_damage_is_found() {
        let Some(lab) = Lab::new("restic") else { return };
        lab.comes_back();
        let (changed, gone) = (lab.at("src/a"), lab.at("src/d"));
        let modified = std::fs::metadata(&changed).unwrap().modified().unwrap();
        std::fs::write(&changed, "0ne").unwrap();
        std::fs::File::open(&changed).unwrap().set_modified(modified).unwrap();
        std::fs::remove_file(&gone).unwrap();
        let (verdict, reasons, facts) = lab.judge();
        assert_eq!((verdict, reasons), ("fail", vec!["content_differs".into()]));
        assert_eq!((&facts["test"]["no_counterpart"], &facts["test"]["same"]), (&json!(1), &json!(1)));
        std::fs::write(&changed, "changed by its owner").unwrap();
        assert_eq!(lab.judge().0, "pass");
        lab.lose_index();
        let (verdict, reasons, _) = lab.judge();
        assert_eq!((verdict, reasons), ("fail", vec!["restore_failed".into(), "nothing_restored".into()]));
    }

    #[test]
    fn never_configured_and_unknown() {
        let finding = Tree::new().finding(ID, &json!({}));
        assert_eq!(words(&finding), ("fail", vec!["not_configured".into()]));
        assert!(finding.is_never_configured());
        let gone = Tree::new().judge(ID, &json!({"repository": "/gone"}));
        assert_eq!(gone, ("fail", vec!["repository_missing".into()]));
        let no_tool = Tree::new().file("/backup/config", "x").judge(ID, &json!({"repository": "/backup"}));
        assert_eq!(no_tool.0, "unknown");
    }
}
