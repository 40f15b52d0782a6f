//! Whether a backup is about as large as those before it: half of it missing is an empty mount, twice of it may be an
//! attacker's encryption.

use std::time::Duration;

use serde_json::{Value, json};

use super::history::{History, Sample};
use super::repository::{Repository, Size, Snapshot};
use crate::checks::run::{Context, Facts, HISTORY};
use crate::host::HostError;

/// Earlier sizes kept of one series of backups.
const KEPT: usize = 30;
/// Fewer earlier ones than this are nothing to compare with.
const ENOUGH: usize = 5;
/// Series measured: machines and sets of paths in one repository.
const SERIES: usize = 8;
/// How long measuring may take in all; what is missing then is measured next time.
const PATIENCE: Duration = Duration::from_secs(150);

/// Facts: `sizes`, null where they are not wanted, else one per series of fresh snapshots:
/// `[{series, bytes, files, earlier, median_bytes, median_files, off_percent}]`, the last three null with fewer than five
/// earlier ones; and `history`, the sizes by which they are judged.
pub(super) async fn collect(
    context: Context<'_>,
    repository: &Repository<'_>,
    snapshots: &[Snapshot],
    facts: &mut Facts,
) {
    if !context.flag("measure_sizes") {
        return facts.set("sizes", Value::Null);
    }
    let mut history = History::of(context);
    let stale_s = context.number("fail_hours").unwrap_or(48).saturating_mul(3600);
    let fresh = snapshots.iter().filter(|snapshot| context.seconds_since(snapshot.time) < stale_s);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let (mut sizes, mut trouble) = (Vec::new(), None);
    for snapshot in fresh.take(SERIES) {
        match size(repository, snapshot, &history, deadline).await {
            Ok(size) => {
                remember(&mut history, context, snapshot, size);
                sizes.push(fact(&history, snapshot, size));
            }
            Err(error) => trouble = trouble.or(Some(error)),
        }
    }
    facts.set(HISTORY, history.fact());
    match trouble {
        None => facts.set("sizes", sizes),
        Some(error) => facts.fail("sizes", &error),
    }
}

/// A snapshot never changes: it is asked for its size once.
async fn size(
    repository: &Repository<'_>,
    snapshot: &Snapshot,
    history: &History,
    deadline: tokio::time::Instant,
) -> Result<Size, HostError> {
    let known = history.0.iter().find(|sample| is_of(sample, snapshot)).and_then(measured);
    match known.or(snapshot.size) {
        Some(size) => Ok(size),
        None => repository.size(snapshot, deadline.duration_since(tokio::time::Instant::now())).await,
    }
}

fn is_of(sample: &Sample, snapshot: &Snapshot) -> bool {
    text(sample, "id") == Some(&snapshot.id)
}

fn text<'a>(sample: &'a Sample, key: &str) -> Option<&'a str> {
    sample.value.get(key).and_then(Value::as_str)
}

fn measured(sample: &Sample) -> Option<Size> {
    let number = |key: &str| sample.value.get(key).and_then(Value::as_u64);
    Some(Size { bytes: number("bytes")?, files: number("files")? })
}

fn remember(history: &mut History, context: Context<'_>, snapshot: &Snapshot, size: Size) {
    if history.0.iter().any(|sample| is_of(sample, snapshot)) {
        return;
    }
    let value = json!({"series": snapshot.series, "id": snapshot.id, "bytes": size.bytes, "files": size.files});
    history.0.push(Sample { at: context.now, value });
    let same = |sample: &Sample| text(sample, "series") == Some(&snapshot.series);
    // One more than is compared with: the newest is among them.
    let mut surplus = history.0.iter().filter(|sample| same(sample)).count().saturating_sub(KEPT + 1);
    history.0.retain(|sample| {
        let drop = surplus > 0 && same(sample);
        surplus -= usize::from(drop);
        !drop
    });
    // Series that ended long ago go, too.
    history.0.drain(..history.0.len().saturating_sub(SERIES * (KEPT + 1)));
}

fn fact(history: &History, snapshot: &Snapshot, size: Size) -> Value {
    let series = history.0.iter().filter(|sample| text(sample, "series") == Some(&snapshot.series));
    let earlier: Vec<Size> = series.take_while(|sample| !is_of(sample, snapshot)).filter_map(measured).collect();
    let of = |pick: fn(&Size) -> u64| median(earlier.iter().map(pick).collect());
    let (bytes, files) = (of(|size| size.bytes), of(|size| size.files));
    let off = bytes.zip(files).map(|(bytes, files)| off_percent(size.bytes, bytes).max(off_percent(size.files, files)));
    json!({
        "series": snapshot.series, "bytes": size.bytes, "files": size.files, "earlier": earlier.len(),
        "median_bytes": bytes, "median_files": files, "off_percent": off,
    })
}

/// `None` where there is too little to say.
fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    if values.len() < ENOUGH { None } else { values.get(values.len() / 2).copied() }
}

/// How far a value lies from what is usual, in percent of that.
fn off_percent(value: u64, usual: u64) -> u64 {
    let off = u128::from(value.abs_diff(usual)) * 100 / u128::from(usual.max(1));
    u64::try_from(off).unwrap_or(u64::MAX).min(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::super::backup::tests::{machine, settings};
    use super::super::fixture::{Tree, on_runtime, words};
    use super::*;
    use crate::host::{Cmd, Host};

    const ID: &str = "RB-BACKUP-001";
    const SERIES_NAME: &str = "x: /home, /srv";

    fn earlier(sizes: &[(u64, u64)]) -> Value {
        let sample = |(n, (bytes, files)): (usize, &(u64, u64))| {
            let value = json!({"series": SERIES_NAME, "id": format!("old{n}"), "bytes": bytes, "files": files});
            json!({"at": "2026-03-01T12:00:00Z", "value": value})
        };
        sizes.iter().enumerate().map(sample).collect()
    }

    fn stats(bytes: u64, files: u64) -> Tree {
        let said = json!({"total_size": bytes, "total_file_count": files, "snapshots_count": 1});
        machine(3).answer("restic --no-lock --no-cache stats --json --mode restore-size ab", &said.to_string())
    }

    fn judge(now: (u64, u64), before: &[(u64, u64)]) -> (&'static str, Vec<String>) {
        stats(now.0, now.1).before(24, json!({"history": earlier(before)})).judge(ID, &settings())
    }

    #[test]
    fn half_or_double_of_what_is_usual_warns() {
        let usual = [(1000, 100); 5];
        assert_eq!(judge((1400, 60), &usual), ("pass", vec![]));
        for (bytes, files) in [(400, 100), (1600, 100), (1000, 40), (1000, 160), (0, 0), (u64::MAX, u64::MAX)] {
            assert_eq!(judge((bytes, files), &usual), ("warn", vec!["size_differs".into()]), "{bytes} {files}");
        }
        let outlier = [(1000, 100), (1000, 100), (9000, 900), (1000, 100), (0, 0)];
        assert_eq!(judge((1000, 100), &outlier), ("pass", vec![]), "it is the median that counts");
    }

    #[test]
    fn with_fewer_than_five_earlier_ones_there_is_nothing_to_say() {
        let tree = stats(0, 0).before(24, json!({"history": earlier(&[(1000, 100); 4])}));
        let finding = tree.finding(ID, &settings());
        assert_eq!(words(&finding), ("pass", vec![]));
        assert_eq!(finding.observation.facts["sizes"][0]["off_percent"], Value::Null);
        assert_eq!(finding.observation.facts["sizes"][0]["earlier"], json!(4));
    }

    #[test]
    fn a_snapshot_is_measured_once_and_thirty_are_kept() {
        let first = stats(7, 7).before(24, json!({"history": earlier(&[(1000, 100); 40])})).observe(ID, &settings());
        let history = first.facts["history"].as_array().unwrap();
        assert_eq!(history.len(), KEPT + 1);
        // Asked again it would say something else; what was learned stands, and is judged by those before it.
        let again = stats(1000, 100).before(1, first.facts.clone()).observe(ID, &settings());
        assert_eq!((&again.facts["sizes"], &again.facts["history"]), (&first.facts["sizes"], &first.facts["history"]));
        assert_eq!(again.facts["sizes"][0]["off_percent"], json!(99));
    }

    #[test]
    fn series_are_not_mixed_and_garbage_is_unknown() {
        let other: Value = (0..9)
            .map(|n| json!({"at": "2026-03-01T12:00:00Z", "value": {"series": "y: /", "id": n.to_string(), "bytes": 1, "files": 1}}))
            .collect();
        let tree = stats(1000, 100).before(24, json!({"history": other}));
        assert_eq!(tree.observe(ID, &settings()).facts["sizes"][0]["earlier"], json!(0));
        let line = "restic --no-lock --no-cache stats --json --mode restore-size ab";
        for garbage in ["", "[]", "{\"total_size\": -1, \"total_file_count\": 1}"] {
            let finding = machine(3).answer(line, garbage).finding(ID, &settings());
            assert_eq!(words(&finding), ("unknown", vec!["size_differs".into()]), "{garbage}");
        }
        let mut off = settings();
        off["measure_sizes"] = json!(false);
        assert_eq!(machine(3).answer(line, "").judge(ID, &off), ("pass", vec![]));
    }

    /// Six real backups of which the last is of an empty directory.
    fn really(tool: &str, init: &[&str], create: impl Fn(usize, &str) -> Vec<String>) {
        if !Host::live().has(tool) {
            eprintln!("skipped: {tool} is not installed");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::create_dir(at("src")).unwrap();
        std::fs::write(at("pw"), "secret").unwrap();
        let run = |argv: Vec<String>| {
            let cmd = Cmd::new(argv)
                .env("RESTIC_REPOSITORY", at("repo"))
                .env("RESTIC_PASSWORD_FILE", at("pw"))
                .env("BORG_REPO", at("repo"))
                .env("BORG_PASSPHRASE", "secret");
            let output = on_runtime(Host::live().run(cmd)).unwrap();
            assert!(output.success(), "{}", output.stderr);
        };
        let settings = json!({"tool": tool, "repository": at("repo"), "password_file": at("pw"), "fail_hours": 8760, "warn_hours": 8760});
        let shown = |before: Value| {
            // The clock of the fixtures is not that of the snapshots: only this check's facts are looked at.
            let runbook = crate::catalog::Catalog::load(None).unwrap();
            let schema = &runbook.runbooks[&ID.parse().unwrap()].settings;
            let settings = schema.check(settings.as_object().unwrap()).unwrap();
            let (host, now) = (Host::live(), "2200-01-01T00:00:00Z".parse().unwrap());
            let before = Some(crate::checks::Before { at: now, facts: &before });
            let context = Context { host: &host, settings: &settings, now, own: &Value::Null, before };
            on_runtime(async {
                let repository = Repository::configured(context).unwrap().unwrap();
                let mut facts = Facts::default();
                let mut snapshots = repository.snapshots(now).await.unwrap().snapshots;
                for snapshot in &mut snapshots {
                    snapshot.time = now;
                }
                collect(context, &repository, &snapshots, &mut facts).await;
                crate::domain::finding::Observation::from(facts)
            })
        };
        run(init.iter().map(|word| (*word).to_owned()).collect());
        let mut facts = json!({});
        for n in 0..6 {
            let content = if n < 5 { "x".repeat(1000 + n) } else { String::new() };
            std::fs::write(at("src/a"), content).unwrap();
            run(create(n, &at("src")));
            let found = shown(facts);
            assert_eq!(found.problems, []);
            facts = found.facts;
        }
        let size = &facts["sizes"][0];
        assert_eq!(
            (&size["bytes"], &size["earlier"], &size["median_bytes"]),
            (&json!(0), &json!(5), &json!(1002)),
            "{facts}"
        );
        assert_eq!(size["off_percent"], json!(100));
    }

    #[test]
    fn an_emptied_source_shows_with_restic() {
        really("restic", &["restic", "init"], |_, src| ["restic", "backup", src].map(str::to_owned).to_vec());
    }

    #[test]
    fn an_emptied_source_shows_with_borg() {
        let create = |n: usize, src: &str| ["borg", "create", &format!("::host-{n}"), src].map(str::to_owned).to_vec();
        really("borg", &["borg", "init", "-e", "repokey"], create);
    }
}
