//! `kill -9` at every write: whatever the moment, the next run ends with everything healed, nothing lost or doubled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use malachor::domain::incident::IncidentState;
use malachor::evidence::{Input, Options, Trust, read, verify};
use malachor::heal::JournalEvent;
use malachor::store::Store;
use serde_json::Value;
use tempfile::TempDir;

use crate::skip::skipped;

const CHECK: &str = "RB-TEST-CRASH-001";
const BAD: &str = "{\"state\": \"bad\"}";
const GOOD: &str = "{\"state\": \"good\"}";

/// All points up to this one are tried; beyond it every third.
const DENSE: u32 = 30;

const RUNBOOK: &str = r#"
id: RB-TEST-CRASH-001
title: The file says so
hipaa: ["164.312(b)"]
severity: low
target: host
detect: { every: 1h, timeout: 5s, exec: [cat, "DIR/facts.json"] }
expect:
  - { that: facts.state == "good", reason: not_good, say: "It says {{ facts.state }}" }
remediate:
  disruptive: false
  tiers: [L1, L3]
  settle: 0s
  within: 0s
  snapshot: [ { files: ["DIR/facts.json"] } ]
  steps:
    - exec: [sh, -c, "echo ran >> DIR/counter"]
    - file: { path: "DIR/facts.json", content: '{"state": "good"}', mode: "0640" }
rollback: [ { restore: snapshot } ]
"#;

/// A place with a drift that can be set up again and again.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Self { dir };
        let catalog = bench.path("catalog");
        std::fs::create_dir(&catalog).unwrap();
        let here = bench.dir.path().display().to_string();
        std::fs::write(catalog.join("crash.yaml"), RUNBOOK.replace("DIR", &here)).unwrap();
        let config = format!(
            "[site]\nid = \"clinic\"\n[agent]\nstate_dir = {:?}\n[heal]\nmode = \"heal\"\n[catalog]\ndir = {catalog:?}\n",
            bench.path("state")
        );
        std::fs::write(bench.path("malachor.toml"), config).unwrap();
        std::fs::write(bench.path("facts.json"), BAD).unwrap();
        bench
    }

    /// With keys, a log and an open incident, kept for [`Self::again`].
    fn with_drift() -> Self {
        let bench = Self::new();
        assert_eq!(bench.run(&["keys", "init"]).status.code(), Some(0));
        assert_eq!(bench.run(&["check", "run", CHECK]).status.code(), Some(1));
        copy(&bench.path("state"), &bench.path("kept"));
        bench
    }

    fn again(&self) {
        std::fs::remove_dir_all(self.path("state")).unwrap();
        copy(&self.path("kept"), &self.path("state"));
        std::fs::write(self.path("facts.json"), BAD).unwrap();
        std::fs::remove_file(self.path("counter")).ok();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Vec<String> {
        let config = self.path("malachor.toml").display().to_string();
        [env!("CARGO_BIN_EXE_malachor"), "--config", &config]
            .iter()
            .chain(args)
            .map(|word| (*word).to_owned())
            .collect()
    }

    fn run(&self, args: &[&str]) -> Output {
        let words = self.command(args);
        Command::new(&words[0]).args(&words[1..]).output().unwrap()
    }

    /// Runs and is killed at the `nth` such call of a thread; whether it came to that.
    fn killed_at(&self, args: &[&str], call: &str, nth: u32) -> bool {
        let inject = format!("inject={call}:signal=KILL:when={nth}");
        let output = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject, "--"])
            .args(self.command(args))
            .output()
            .unwrap();
        // strace ends the way its child did.
        std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(9)
    }

    fn counter(&self) -> usize {
        std::fs::read_to_string(self.path("counter")).unwrap_or_default().lines().count()
    }

    fn input(&self) -> Input {
        Input::one(self.path("state"))
    }

    /// What anyone finds who checks the log with the appliance's public keys.
    fn log_holds(&self, point: &str) {
        let mut trust = Trust::default();
        for key in ["entry.vkey", "head.vkey"] {
            trust.add_key(&std::fs::read_to_string(self.path("state/keys").join(key)).unwrap()).unwrap();
        }
        let report = verify(&self.input(), &trust, Options::default());
        assert_eq!(report.exit_code(), 0, "{point}: {}", report.text());
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args(["-a", "--"]).args([from, to]).status().unwrap().success());
}

/// `false`, with the reason noted, where nothing can be traced here.
fn can_trace(what: &str) -> bool {
    let why = match Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).output() {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("strace: {error}"),
    };
    skipped(what, &why);
    false
}

/// Kills at the first, second, third … such call until a run ends by itself; says how many kills there were.
fn every_point(call: &str, bench: &Bench, args: &[&str], mut after: impl FnMut(&str)) -> u32 {
    let (mut nth, mut kills) = (1, 0);
    while {
        bench.again();
        bench.killed_at(args, call, nth)
    } {
        after(&format!("killed at {call} {nth}"));
        kills += 1;
        nth += if nth < DENSE { 1 } else { 3 };
    }
    kills
}

const APPLY: [&str; 6] = ["heal", "--apply", "--by", "tester", "--check", CHECK];

#[test]
fn a_remediation_killed_at_any_write_is_brought_to_its_end() {
    if !can_trace("kill -9 at every write of a remediation") {
        return;
    }
    let round = |calls: &'static [&'static str]| {
        let bench = Bench::with_drift();
        let kills: u32 = calls
            .iter()
            .map(|call| every_point(call, &bench, &APPLY, |point| restarted_and_whole(&bench, point)))
            .sum();
        // The run that was not killed is the measure.
        assert_eq!((bench.counter(), facts(&bench)), (1, GOOD.to_owned()));
        kills
    };
    let kills: u32 = std::thread::scope(|scope| {
        let rounds = [&["pwrite64"][..], &["fsync", "fdatasync", "rename", "unlink", "fchmod"][..]];
        let running = rounds.map(|calls| scope.spawn(move || round(calls)));
        running.into_iter().map(|running| running.join().unwrap()).sum()
    });
    eprintln!("{kills} kills; beyond the first {DENSE} of a call every third");
    assert!(kills > 40, "{kills} kills: strace does not hit the writes");
}

fn facts(bench: &Bench) -> String {
    std::fs::read_to_string(bench.path("facts.json")).unwrap()
}

/// The same command once more, and everything that must hold then.
fn restarted_and_whole(bench: &Bench, point: &str) {
    let again = bench.run(&APPLY);
    let said = String::from_utf8_lossy(&[again.stdout.clone(), again.stderr.clone()].concat()).into_owned();
    assert_eq!(again.status.code(), Some(0), "{point}: {said}");
    assert_eq!(facts(bench), GOOD, "{point}");
    let names: BTreeSet<String> = std::fs::read_dir(bench.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name != "counter")
        .collect();
    assert_eq!(
        names.iter().map(String::as_str).collect::<Vec<_>>(),
        ["catalog", "facts.json", "kept", "malachor.toml", "state"],
        "{point}: nothing is left lying about"
    );
    let executions = records_are_whole(bench, point);
    // Each execution runs its step at most once, and one that was verified instead of repeated not at all.
    assert!(bench.counter() <= executions && executions <= 2, "{point}: {} in {executions}", bench.counter());
    log_is_whole(bench, point);
}

/// One incident, resolved; every execution over; no step begun twice. The number of executions.
fn records_are_whole(bench: &Bench, point: &str) -> usize {
    let store = Store::open(&bench.path("state"), None).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let read = store.read(|tx| {
        let incidents = tx.incidents(true)?;
        let mut executions = Vec::new();
        for incident in &incidents {
            for execution in tx.executions_of(&incident.id)? {
                let journal = tx.journal_of::<JournalEvent>(&execution.id)?;
                executions.push((execution, journal));
            }
        }
        Ok((incidents, executions, tx.open_executions()?.len()))
    });
    let (incidents, executions, open) = runtime.block_on(read).unwrap();
    assert_eq!(
        incidents.iter().map(|incident| incident.state).collect::<Vec<_>>(),
        [IncidentState::Resolved],
        "{point}"
    );
    assert_eq!(open, 0, "{point}: an execution is left open");
    for (execution, journal) in &executions {
        let begun = |step| journal.iter().filter(|(_, event)| *event == JournalEvent::StepStarted(step)).count();
        assert!(begun(0) <= 1 && begun(1) <= 1, "{point}: {} ran a step twice", execution.id);
        assert!(execution.outcome.is_some(), "{point}");
    }
    executions.len()
}

/// It verifies, has no gap, and says of each execution once what became of it and once that the drift is over.
fn log_is_whole(bench: &Bench, point: &str) {
    bench.log_holds(point);
    let listed = read::list(&bench.input(), 0, 1000).unwrap();
    let seqs: Vec<u64> = listed.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, (0..listed.len() as u64).collect::<Vec<_>>(), "{point}: a gap");
    let mut told = BTreeMap::<String, u32>::new();
    let mut resolved = 0;
    for seq in seqs {
        let entry = read::show(&bench.input(), seq).unwrap();
        let Some(execution) = find(&entry, "execution").and_then(Value::as_str) else { continue };
        *told.entry(execution.to_owned()).or_default() += 1;
        resolved += u32::from(find(&entry, "incidentState") == Some(&Value::from("resolved")));
    }
    assert!(told.values().all(|count| *count == 1), "{point}: told twice: {told:?}");
    assert_eq!(resolved, 1, "{point}: resolved once");
}

fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(name).or_else(|| map.values().find_map(|inner| find(inner, name))),
        Value::Array(list) => list.iter().find_map(|inner| find(inner, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// A first start that dies half-way is no appliance with half its keys or a log without a beginning.
#[test]
fn a_first_start_killed_at_any_write_can_be_repeated() {
    if !can_trace("kill -9 at every write of a first start") {
        return;
    }
    let bench = Bench::new();
    std::fs::create_dir(bench.path("kept")).unwrap();
    std::fs::create_dir(bench.path("state")).unwrap();
    private(&bench.path("kept"));
    let mut kills = 0;
    for call in ["fsync", "rename", "mkdir", "fchmod"] {
        kills += every_point(call, &bench, &["keys", "init"], |point| {
            if !bench.path("state/keys").exists() {
                let again = bench.run(&["keys", "init"]);
                assert!(again.status.success(), "{point}: {}", String::from_utf8_lossy(&again.stderr));
            }
            if kills % 4 == 0 {
                assert_eq!(bench.run(&["check", "run", CHECK]).status.code(), Some(1), "{point}");
                bench.log_holds(point);
            }
        });
    }
    bench.again();
    assert!(bench.run(&["keys", "init"]).status.success());
    std::fs::remove_dir_all(bench.path("kept")).unwrap();
    copy(&bench.path("state"), &bench.path("kept"));
    for call in ["pwrite64", "fsync"] {
        kills += every_point(call, &bench, &["check", "run", CHECK], |point| {
            assert_eq!(bench.run(&["check", "run", CHECK]).status.code(), Some(1), "{point}");
            bench.log_holds(point);
        });
    }
    eprintln!("{kills} kills");
    assert!(kills > 20, "{kills} kills: strace does not hit the writes");
}

fn private(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).unwrap();
}
