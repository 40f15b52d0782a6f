//! A real restore test: a few files from the newest snapshot, restored to a private place, compared, and wiped again.

use serde_json::{Value, json};

use super::backup::age_min;
use super::history::History;
use super::repository::{Entry, Repository, Snapshot};
use super::scratch::Scratch;
use super::soundness;
use crate::checks::run::{Context, Facts, HISTORY};
use crate::crypto::sha256_hex;
use crate::domain::finding::Observation;
use crate::host::HostError;

/// Fewer bytes than this say nothing about how long all of it would take: opening the repository takes longer.
const ENOUGH: u64 = 16_000_000;
/// How long measuring a whole snapshot may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(150);
const DRILL: &str = "drill";
const BEGUN: &str = "begun";

/// Facts: `repository`, `snapshot`, `test`, `check` (see [`soundness`]), `proved_age_d`: days since files came back as they
/// should, or since it was first tried; and `history`, by which that is known. No file is named: names may be about
/// patients.
///
/// `test` is `{status, asked, restored, bytes, took_ms, full_h, same, different, changed_since, no_counterpart, wiped, swept,
/// canary}`: `full_h` is how many hours all of the snapshot would take at that speed, null where too little came back to
/// tell; `canary` null where none is set, else `{restored, same}` with `same` null where there is nothing to compare with.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let (mut facts, mut history) = (Facts::default(), History::of(context));
    if let Err(error) = run(context, &mut history, &mut facts).await {
        facts.fail_all(&["repository", "snapshot", "test", "check"], &error);
    }
    let proved = history.latest(DRILL).or(history.latest(BEGUN));
    facts.set("proved_age_d", proved.map(|sample| context.seconds_since(sample.at) / 86_400));
    facts.set(HISTORY, history.fact());
    facts.into()
}

async fn run(context: Context<'_>, history: &mut History, facts: &mut Facts) -> Result<(), HostError> {
    let configured = Repository::configured(context)?;
    let about = configured.as_ref().map(Repository::fact).transpose()?;
    let present = about.as_ref().is_some_and(|fact| fact.get("present") == Some(&json!(true)));
    facts.set("repository", about);
    let Some(repository) = configured else {
        // Whoever sets one up again begins anew.
        *history = History::default();
        nothing(facts);
        return Ok(());
    };
    if history.latest(BEGUN).is_none() {
        history.replace(BEGUN, context.now, json!({}));
    }
    if !present {
        nothing(facts);
        return Ok(());
    }
    let snapshots = repository.snapshots(context.now).await?.snapshots;
    let Some(newest) = snapshots.first() else {
        nothing(facts);
        return Ok(());
    };
    facts.set("snapshot", json!({"age_min": age_min(context, newest)}));
    match test(context, &repository, newest).await {
        Ok(test) => {
            if test.proves() {
                history.replace(DRILL, context.now, json!({}));
            }
            facts.set("test", test.fact());
        }
        Err(error) => facts.fail("test", &error),
    }
    soundness::collect(context, &repository, history, facts).await;
    Ok(())
}

fn nothing(facts: &mut Facts) {
    for name in ["snapshot", "test", "check"] {
        facts.set(name, Value::Null);
    }
}

/// What came back.
#[derive(Debug, Default)]
struct Outcome {
    status: i32,
    asked: usize,
    restored: u64,
    bytes: u64,
    took_ms: u64,
    full_h: Option<u64>,
    same: u64,
    different: u64,
    changed_since: u64,
    no_counterpart: u64,
    wiped: bool,
    swept: usize,
    canary: Value,
}

impl Outcome {
    fn proves(&self) -> bool {
        let all = u64::try_from(self.asked).is_ok_and(|asked| self.restored >= asked);
        self.status == 0 && self.asked > 0 && all && self.different == 0
    }

    fn fact(&self) -> Value {
        json!({
            "status": self.status, "asked": self.asked, "restored": self.restored, "bytes": self.bytes,
            "took_ms": self.took_ms, "full_h": self.full_h, "same": self.same, "different": self.different,
            "changed_since": self.changed_since, "no_counterpart": self.no_counterpart, "wiped": self.wiped,
            "swept": self.swept, "canary": self.canary,
        })
    }
}

async fn test(context: Context<'_>, repository: &Repository<'_>, snapshot: &Snapshot) -> Result<Outcome, HostError> {
    let nothing = |status| Outcome { status, wiped: true, canary: canary(context, None), ..Outcome::default() };
    let files = match repository.files(snapshot).await {
        Ok(files) => sample(context, files)?,
        // The repository opened, but the list of this snapshot's files does not: that is a broken backup, not a lack of knowledge.
        Err(HostError::Io { .. }) => return Ok(nothing(1)),
        Err(error) => return Err(error),
    };
    if files.is_empty() {
        return Ok(nothing(0));
    }
    let scratch = Scratch::new(context.host, context.text("scratch").unwrap_or("/var/tmp"))?;
    let started = tokio::time::Instant::now();
    let status = repository.restore(snapshot, &files, scratch.real()).await?.status;
    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let outcome = compare(context, &scratch.path, &files);
    let canary = canary(context, Some(&scratch.path));
    let swept = scratch.swept;
    let wiped = scratch.wipe();
    let mut outcome = outcome?;
    outcome = Outcome { status, asked: files.len(), took_ms, wiped, swept, canary, ..outcome };
    if outcome.bytes >= ENOUGH {
        let size = match snapshot.size {
            Some(size) => Some(size),
            None => repository.size(snapshot, PATIENCE).await.ok(),
        };
        outcome.full_h = size.and_then(|size| hours(size.bytes, outcome.bytes, took_ms));
    }
    Ok(outcome)
}

/// Whole hours all bytes take at the speed of some, rounded up.
fn hours(all: u64, bytes: u64, took_ms: u64) -> Option<u64> {
    let ms = (u128::from(all) * u128::from(took_ms.max(1))).div_ceil(u128::from(bytes.max(1)));
    u64::try_from(ms.div_ceil(3_600_000)).ok()
}

/// A few files, another few each time: those whose names hash lowest with a fresh random word. With them the largest, by
/// which speed is measured, and the canary.
fn sample(context: Context<'_>, mut files: Vec<Entry>) -> Result<Vec<Entry>, HostError> {
    let word = context.host.read("/proc/sys/kernel/random/uuid")?;
    let size = |name, default| u64::try_from(context.number(name).unwrap_or(default)).unwrap_or_default();
    let cap = size("max_mb", 64) * 1_000_000;
    let count = usize::try_from(size("files", 5)).unwrap_or(usize::MAX);
    let canary = context.text("canary").and_then(|canary| files.iter().find(|file| file.path == canary).cloned());
    files.retain(|file| file.size > 0 && file.size <= cap);
    let largest = files.iter().max_by_key(|file| file.size).cloned();
    files.sort_by_cached_key(|file| sha256_hex(format!("{word}{}", file.path).as_bytes()));
    files.truncate(count);
    for one in [largest, canary].into_iter().flatten() {
        if !files.contains(&one) {
            files.push(one);
        }
    }
    Ok(files)
}

/// Whether the file that was put there for this came back as it has to be.
fn canary(context: Context<'_>, scratch: Option<&str>) -> Value {
    let Some(path) = context.text("canary") else { return Value::Null };
    let digest = |path: &str| context.host.digest(path).ok().map(|(sha256, _)| sha256);
    let restored = scratch.and_then(|scratch| digest(&format!("{scratch}{path}")));
    let wanted = context.text("canary_sha256").map(str::to_owned).or_else(|| digest(path));
    json!({"restored": restored.is_some(), "same": restored.zip(wanted).map(|(restored, wanted)| restored == wanted)})
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
pub(super) mod tests {
    use super::super::fixture::{Tree, finding, on_runtime, words};
    use super::*;
    use crate::host::{Cmd, Host};

    const ID: &str = "RB-RESTORE-001";

    /// A repository whose newest snapshot is so old, and holds no file.
    pub(in super::super) fn repository(hours: i64) -> Tree {
        let time = super::super::fixture::now() - jiff::SignedDuration::from_hours(hours);
        let list = json!([{"time": time.to_string(), "paths": ["/srv"], "hostname": "x", "id": "ab"}]);
        Tree::new()
            .file("/proc/sys/kernel/hostname", "x\n")
            .file("/proc/sys/kernel/random/uuid", "u\n")
            .file("/backup/config", "x")
            .answer("restic --no-lock --no-cache snapshots --json --latest 10 --host x", &list.to_string())
            .answer("restic --no-lock --no-cache ls --json ab", "")
    }

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
            lab.snapshot("11:00:00");
            Some(lab)
        }

        fn at(&self, name: &str) -> String {
            self.dir.path().join(name).display().to_string()
        }

        /// Dated as the clock of the fixtures goes.
        fn snapshot(&self, at: &str) {
            match self.tool {
                "borg" => self.run(&["create", "--timestamp", &format!("2026-03-02T{at}"), "::one", &self.at("src")]),
                _ => self.run(&["backup", "--time", &format!("2026-03-02 {at}"), &self.at("src")]),
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
            assert_eq!((&test["wiped"], &test["full_h"]), (&json!(true), &Value::Null));
            let left = std::fs::read_dir(self.at("malachor-restore")).unwrap().count();
            assert_eq!(left, 1, "only the lock is left");
            assert_eq!(facts["proved_age_d"], json!(0));
            assert!(!facts.to_string().contains("b c"), "file names stay here");
        }

        /// In the middle of the largest file of data.
        fn flip_a_byte(&self) {
            let mut all = vec![];
            let mut dirs = vec![std::path::PathBuf::from(self.at("repo/data"))];
            while let Some(dir) = dirs.pop() {
                for entry in std::fs::read_dir(dir).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_dir() { dirs.push(path) } else { all.push(path) }
                }
            }
            let path = all.into_iter().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            let mut permissions = std::fs::metadata(&path).unwrap().permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
            std::fs::set_permissions(&path, permissions).unwrap();
            std::fs::write(path, bytes).unwrap();
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
    fn damage_in_the_repository_itself_is_found_by_both_tools() {
        for tool in ["restic", "borg"] {
            let Some(lab) = Lab::new(tool) else { continue };
            let sound = |part| {
                let settings = lab.settings();
                let host = Host::live();
                let context = Context {
                    host: &host,
                    settings: settings.as_object().unwrap(),
                    now: super::super::fixture::now(),
                    own: &Value::Null,
                    before: None,
                };
                let repository = Repository::configured(context).unwrap().unwrap();
                on_runtime(repository.check(part, 1, std::time::Duration::from_mins(1)))
            };
            assert_eq!(sound(1), Ok(true), "{tool}");
            lab.run(if tool == "borg" { &["info"] } else { &["snapshots"] });
            lab.flip_a_byte();
            assert_eq!(sound(1), Ok(false), "{tool}");
            std::fs::remove_dir_all(lab.at("repo")).unwrap();
            assert!(sound(1).is_err(), "{tool}: that is not damage");
        }
    }

    #[test]
    fn the_canary_comes_back_as_it_was() {
        let Some(lab) = Lab::new("restic") else { return };
        let judge = |more: Value| {
            let mut settings = lab.settings();
            settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            settings["files"] = json!(1);
            settings["scratch"] = json!(lab.at(""));
            let found = finding(&Host::live(), ID, &settings);
            (words(&found).1, found.observation.facts["test"]["canary"].clone())
        };
        let (canary, none) = (lab.at("src/a"), Vec::<String>::new());
        assert_eq!(judge(json!({"canary": canary})), (none.clone(), json!({"restored": true, "same": true})));
        let one = sha256_hex(b"one");
        assert_eq!(judge(json!({"canary": canary, "canary_sha256": one})).0, none);
        let other = judge(json!({"canary": canary, "canary_sha256": sha256_hex(b"two")}));
        assert_eq!(other, (vec!["canary_differs".into()], json!({"restored": true, "same": false})));
        assert_eq!(judge(json!({"canary": "/srv/canary"})).0, ["canary_lost"]);
    }

    #[test]
    fn how_long_all_of_it_would_take_is_told_from_enough_only() {
        assert_eq!(hours(1_000_000_000_000, 50_000_000, 1000), Some(6), "50 MB a second");
        assert_eq!((hours(1, 50_000_000, 0), hours(0, 50_000_000, 5)), (Some(1), Some(0)));
        assert_eq!(hours(u64::MAX, 1, u64::MAX), None);
        let Some(lab) = Lab::new("restic") else { return };
        std::fs::write(lab.at("src/large"), vec![7_u8; 20_000_000]).unwrap();
        lab.snapshot("11:30:00");
        let (verdict, _, facts) = lab.judge();
        assert_eq!((verdict, &facts["test"]["full_h"]), ("pass", &json!(1)), "{facts}");
    }

    #[test]
    fn a_proof_that_is_too_long_ago_is_missed() {
        let ago = |kind: &str, days: i64| {
            let at = super::super::fixture::now() - jiff::SignedDuration::from_hours(24 * days);
            json!({"at": at.to_string(), "value": {"kind": kind}})
        };
        let judge = |samples: Value| {
            let tree = repository(3).answer_with(
                "restic --no-lock --no-cache snapshots --json --latest 10 --host x",
                1,
                "",
                "no route",
            );
            tree.before(24, json!({"history": samples})).judge(ID, &json!({"repository": "/backup"}))
        };
        assert_eq!(judge(json!([ago("begun", 400), ago("drill", 3)])).0, "unknown");
        let due = judge(json!([ago("begun", 400), ago("drill", 31)]));
        assert!(due.0 == "unknown" && due.1.contains(&"drill_due".into()), "{due:?}");
        let overdue = judge(json!([ago("begun", 400), ago("drill", 36)]));
        assert!(overdue.0 == "fail" && overdue.1.contains(&"drill_overdue".into()), "{overdue:?}");
        assert_eq!(judge(json!([ago("begun", 36)])).0, "fail", "it never worked");
        assert_eq!(judge(json!([])).0, "unknown", "set up today");
    }

    #[test]
    fn never_configured_and_unknown() {
        let finding = Tree::new().finding(ID, &json!({}));
        assert_eq!(words(&finding), ("fail", vec!["not_configured".into()]));
        assert!(finding.is_never_configured());
        let named = || Tree::new().file("/proc/sys/kernel/hostname", "x\n");
        let gone = named().judge(ID, &json!({"repository": "/gone"}));
        assert_eq!(gone, ("fail", vec!["repository_missing".into()]));
        let no_tool = named().file("/backup/config", "x").judge(ID, &json!({"repository": "/backup"}));
        assert_eq!(no_tool.0, "unknown");
    }
}
