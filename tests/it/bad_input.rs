//! What goes wrong on real machines: one clear error or an `unknown`, nothing lost, the rest goes on.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use malachor::app::{App, Clock};
use malachor::heal::{self, Reach};
use malachor::host::Host;

use crate::place::{FILE, Place, facts, stderr, stdout, with_file};
use crate::skip::skipped;

fn database(place: &Place) -> std::path::PathBuf {
    place.dir.path().join("state/malachor.db")
}

/// A place with a log and a closed database.
fn healed() -> Place {
    let place = with_file("heal", "bad");
    place.ok(&["heal", "--apply", "--by", "tester", "--check", FILE]);
    place
}

#[test]
fn a_damaged_database_is_one_error_that_names_the_file() {
    for damage in ["garbage", "truncated", "a page"] {
        let place = healed();
        let mut bytes = std::fs::read(database(&place)).unwrap();
        match damage {
            "garbage" => bytes.fill(b'x'),
            "truncated" => bytes.truncate(bytes.len() / 3),
            _ => bytes[4096..].iter_mut().take(40_000).for_each(|byte| *byte = !*byte),
        }
        std::fs::write(database(&place), bytes).unwrap();
        // Whoever reads the damaged part says so; whether anything is damaged at all, the doctor says.
        assert_eq!(place.run(&["doctor"]).status.code(), Some(1), "{damage}");
        let output = place.run(&["incident", "list", "--all"]);
        let said = stderr(&output);
        match output.status.code() {
            Some(4) => assert!(said.contains("malachor.db") && said.lines().count() <= 2, "{damage}: {said}"),
            code => assert!(damage == "a page" && code == Some(0), "{damage}: {code:?} {said}"),
        }
    }
}

#[test]
fn a_newer_database_is_refused_and_left_alone() {
    let place = healed();
    let connection = rusqlite::Connection::open(database(&place)).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let output = place.run(&["incident", "list"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("schema 99 is newer"), "{}", stderr(&output));
}

/// A file system of its own, unmounted when dropped.
struct Mount(std::path::PathBuf);

impl Mount {
    fn tmpfs(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={size},mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output().unwrap();
        if !mounted.status.success() {
            skipped("a file system of its own", String::from_utf8_lossy(&mounted.stderr).trim());
            return None;
        }
        Some(Self(at.to_owned()))
    }

    fn remount(&self, option: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(&self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

/// A healed place whose state directory is a small file system.
fn on_a_small_disk() -> Option<(Place, Mount)> {
    let place = with_file("heal", "bad");
    let state = place.dir.path().join("state");
    let aside = place.dir.path().join("aside");
    std::fs::rename(&state, &aside).unwrap();
    let mount = Mount::tmpfs(&state, "3m")?;
    assert!(Command::new("cp").arg("-a").arg(aside.join(".")).arg(&state).status().unwrap().success());
    place.ok(&["mode"]);
    Some((place, mount))
}

#[test]
fn a_full_disk_stops_with_one_error_and_loses_nothing() {
    let Some((place, _mount)) = on_a_small_disk() else { return };
    let filler = place.dir.path().join("state/filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    drop(file);
    let output = place.run(&["heal", "--apply", "--by", "tester", "--check", FILE]);
    assert_eq!(output.status.code(), Some(4), "{}{}", stdout(&output), stderr(&output));
    assert_eq!(facts(&place), "{\"state\": \"bad\"}", "nothing is done that cannot be written down first");
    std::fs::remove_file(filler).unwrap();
    place.ok(&["heal", "--apply", "--by", "tester", "--check", FILE]);
    assert_eq!(facts(&place), "{\"state\": \"good\"}");
    place.ok(&["evidence", "verify"]);
}

#[test]
fn a_read_only_state_directory_is_one_error() {
    let Some((place, mount)) = on_a_small_disk() else { return };
    mount.remount("ro");
    let output = place.run(&["heal", "--apply", "--by", "tester", "--check", FILE]);
    assert_eq!(output.status.code(), Some(4), "{}{}", stdout(&output), stderr(&output));
    assert!(stderr(&output).lines().count() <= 2, "{}", stderr(&output));
    assert_eq!(facts(&place), "{\"state\": \"bad\"}");
    place.ok(&["evidence", "verify"]);
    mount.remount("rw");
    place.ok(&["heal", "--apply", "--by", "tester", "--check", FILE]);
}

#[test]
fn a_collector_that_misbehaves_is_unknown_and_the_rest_goes_on() {
    for (argv, word) in [
        ("[echo, 'not json']", "no JSON"),
        ("[echo, '[1, 2]']", "not an object"),
        ("[head, -c, 1G, /dev/zero]", "more output"),
        ("[sleep, '60']", "no answer within 2 s"),
        ("[false]", "exit 1"),
        ("[no-such-program]", "is not there"),
        ("[echo, '{\"state\": {\"a\": 1}, \"state\": 1e999}']", "no JSON"),
    ] {
        let place = with_file("heal", "bad");
        let runbook = std::fs::read_to_string(place.dir.path().join("catalog/file.yaml")).unwrap();
        let start = runbook.find("exec: [cat").unwrap();
        let end = start + runbook[start..].find("] }").unwrap() + 1;
        let other = runbook.replace(&runbook[start..end], &format!("exec: {argv}")).replace(FILE, "RB-TEST-ODD-001");
        place.write("catalog/odd.yaml", &other.replace("timeout: 5s", "timeout: 2s"));
        let begun = Instant::now();
        let output = place.run(&["check", "run", "RB-TEST-ODD-001", FILE]);
        assert!(begun.elapsed() < Duration::from_secs(15), "{argv} took {:?}", begun.elapsed());
        assert_eq!(output.status.code(), Some(1), "{argv}: the other check still fails as it should");
        let said = stdout(&output);
        assert!(said.contains("? unknown RB-TEST-ODD-001") && said.contains(word), "{argv}: {said}");
        assert!(said.contains("✖ fail    RB-TEST-FILE-001"), "{argv}: {said}");
    }
}

#[test]
fn one_agent_per_state_directory() {
    let place = with_file("observe", "good");
    let config = place.dir.path().join("malachor.toml");
    let agent = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_malachor"));
        command.arg("--config").arg(&config).arg("agent").env("MALACHOR__TELEMETRY__METRICS", "127.0.0.1:0");
        command
    };
    let mut first = agent().stderr(std::process::Stdio::null()).spawn().unwrap();
    let lock = place.dir.path().join("state/agent.lock");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !lock.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(300));
    let second = agent().output().unwrap();
    assert_eq!(second.status.code(), Some(4));
    assert!(stderr(&second).contains("another agent is running"), "{}", stderr(&second));
    Command::new("kill").args(["-TERM", &first.id().to_string()]).status().unwrap();
    assert!(first.wait().unwrap().success(), "SIGTERM ends it cleanly");
    place.ok(&["evidence", "verify"]);
}

/// The clock goes back an hour between two runs: the log says so, and goes on.
#[test]
fn a_clock_that_jumped_back_is_stated() {
    let place = with_file("observe", "bad");
    let now = Arc::new(AtomicI64::new(1_790_000_000));
    let hands = Arc::clone(&now);
    let clock = Clock::manual(move || jiff::Timestamp::from_second(hands.load(Ordering::SeqCst)).unwrap());
    let config = place.dir.path().join("malachor.toml");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let loaded = malachor::config::load(Some(&config), []).unwrap();
        let app = App::open(loaded, Host::live(), clock).unwrap();
        app.ready().await.unwrap();
        let runbook = app.checks().find(|runbook| runbook.id.as_str() == FILE).unwrap();
        heal::run_check(&app, runbook, Reach::Heal).await.unwrap();
        now.fetch_sub(3600, Ordering::SeqCst);
        std::fs::write(place.dir.path().join("facts.json"), "{\"state\": \"good\"}").unwrap();
        heal::run_check(&app, runbook, Reach::Heal).await.unwrap();
    });
    let last = place.ok(&["--json", "evidence", "list"]).lines().count() - 1;
    let entry = place.ok(&["evidence", "show", &last.to_string()]);
    assert!(entry.contains("\"clockWentBackSeconds\": 3600"), "{entry}");
    place.ok(&["evidence", "verify"]);
}

/// The catalogue's remediation, changed.
fn remediate_with(place: &Place, from: &str, to: &str) {
    let path = place.dir.path().join("catalog/file.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    std::fs::write(&path, text.replace(from, to)).unwrap();
}

/// A place in which the step that runs fills the disk, so that how it ended cannot be written down.
fn filled_by_its_own_step() -> Option<(Place, Mount, std::path::PathBuf)> {
    let (place, mount) = on_a_small_disk()?;
    let filler = place.dir.path().join("state/filler");
    let step = format!(
        "steps: [ {{ exec: [sh, -c, \"echo ran >> {}; dd if=/dev/zero of={} bs=4k; true\"] }}, {{ file:",
        place.dir.path().join("counter").display(),
        filler.display()
    );
    remediate_with(&place, "steps: [ { file:", &step);
    remediate_with(&place, "disruptive: false", "disruptive: false\n  within: 0s");
    let output = place.run(&["heal", "--apply", "--by", "tester", "--check", FILE]);
    assert_eq!(output.status.code(), Some(4), "{}{}", stdout(&output), stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    std::fs::remove_file(&filler).unwrap();
    Some((place, mount, filler))
}

fn open_executions(place: &Place) -> usize {
    let store = malachor::store::Store::open(&place.dir.path().join("state"), None).unwrap();
    on_runtime(store.read(|tx| Ok(tx.open_executions()?.len()))).unwrap()
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// The agent goes on with the check by itself: no execution stays open and blocks its runbook until a restart.
#[test]
fn a_disk_that_fills_during_a_step_holds_nothing_up() {
    let Some((place, _mount, filler)) = filled_by_its_own_step() else { return };
    assert_eq!(open_executions(&place), 1);
    let config = place.dir.path().join("malachor.toml");
    on_runtime(async {
        let app = App::open(malachor::config::load(Some(&config), []).unwrap(), Host::live(), Clock::system()).unwrap();
        let runbook = app.checks().find(|runbook| runbook.id.as_str() == FILE).unwrap();
        heal::run_check(&app, runbook, Reach::Heal).await.unwrap();
    });
    assert_eq!(open_executions(&place), 0);
    assert_eq!(std::fs::read_to_string(place.dir.path().join("counter")).unwrap(), "ran\n", "not run again");
    assert_eq!((filler.exists(), facts(&place).as_str()), (false, "{\"state\": \"bad\"}"));
    place.ok(&["evidence", "verify"]);
}

#[test]
fn an_interrupted_execution_without_its_runbook_goes_to_a_person_and_blocks_nobody() {
    let Some((place, _mount, _)) = filled_by_its_own_step() else { return };
    std::fs::remove_dir_all(place.dir.path().join("catalog")).unwrap();
    place.write("catalog/rules.yaml", "rules: []\n");
    place.run(&["heal", "--apply", "--by", "tester", "--check", "RB-CERT-001"]);
    assert_eq!(open_executions(&place), 0);
    let incidents = place.ok(&["incident", "list"]);
    // The note is folded to the width of the terminal.
    let words = incidents.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("escalated") && words.contains("its runbook is gone"), "{incidents}");
    place.ok(&["evidence", "verify"]);
}

#[test]
fn a_check_that_passes_while_its_remediation_is_verified_leaves_it_alone() {
    let place = with_file("heal", "bad");
    remediate_with(&place, "disruptive: false", "disruptive: false\n  settle: 3s");
    let config = place.dir.path().join("malachor.toml");
    let mut healing = Command::new(env!("CARGO_BIN_EXE_malachor"))
        .arg("--config")
        .arg(&config)
        .args(["heal", "--apply", "--by", "tester", "--check", FILE])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !facts(&place).contains("good") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    place.ok(&["check", "run", FILE]);
    assert!(place.ok(&["incident", "list"]).contains("verifying"), "it ended too early to show anything");
    assert!(healing.wait().unwrap().success());
    assert_eq!(open_executions(&place), 0);
    assert!(place.ok(&["evidence", "list"]).contains("repaired"));
}

/// Windows mean nothing to a clock that went back behind what was already seen.
#[test]
fn nothing_disruptive_runs_by_a_clock_that_went_back() {
    let place = with_file("heal", "bad");
    remediate_with(&place, "disruptive: false", "disruptive: true");
    let days = "\"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\", \"sun\"";
    let text = std::fs::read_to_string(place.dir.path().join("malachor.toml")).unwrap();
    let window = format!("mode = \"heal\"\nwindows = [{{ days = [{days}], start = \"02:00\", end = \"03:00\" }}]");
    place.write("malachor.toml", &text.replace("mode = \"heal\"", &window));
    let now = Arc::new(AtomicI64::new("2026-05-04T12:00:00Z".parse::<jiff::Timestamp>().unwrap().as_second()));
    let hands = Arc::clone(&now);
    let clock = Clock::manual(move || jiff::Timestamp::from_second(hands.load(Ordering::SeqCst)).unwrap());
    let config = place.dir.path().join("malachor.toml");
    on_runtime(async {
        let app = App::open(malachor::config::load(Some(&config), []).unwrap(), Host::live(), clock).unwrap();
        app.ready().await.unwrap();
        let runbook = app.checks().find(|runbook| runbook.id.as_str() == FILE).unwrap();
        heal::run_check(&app, runbook, Reach::Heal).await.unwrap();
        // Half past two in the night of the same day: the window is open, if one believes it.
        now.fetch_sub(9 * 3600 + 1800, Ordering::SeqCst);
        for _ in 0..2 {
            let run = heal::run_check(&app, runbook, Reach::Heal).await.unwrap();
            assert!(run.outcome.is_none(), "{:?}", run.proposal);
        }
        // The next night it is true.
        now.fetch_add(24 * 3600, Ordering::SeqCst);
        let run = heal::run_check(&app, runbook, Reach::Heal).await.unwrap();
        assert_eq!(run.outcome, Some(heal::Outcome::Repaired), "{:?}", run.proposal);
    });
    place.ok(&["evidence", "verify"]);
}

#[test]
fn hostile_content_and_unknown_keys_are_shown_with_their_place() {
    let place = Place::new("");
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nid: [*e,*e,*e,*e,*e,*e,*e,*e]\n";
    let endless = "rules:\n- { id: L1-X, priority: 1, when: 'range(99999999) | list | length > 1', run: RB-DISK-001, cooldown: 5m, max_attempts: 1 }\n";
    let deep = format!("id: {}", "[".repeat(100_000));
    for (name, text) in [("bomb", bomb), ("endless", endless), ("deep", &deep), ("nul", "\u{0}"), ("empty", "")] {
        let path = place.write(&format!("{name}.yaml"), text);
        let begun = Instant::now();
        let output = place.run(&["runbook", "lint", &path]);
        // A rule that never ends is well written; it runs out of fuel and matches nothing.
        let status = i32::from(name != "endless");
        assert_eq!(output.status.code(), Some(status), "{name}: {}{}", stdout(&output), stderr(&output));
        assert!(begun.elapsed() < Duration::from_secs(5), "{name} took {:?}", begun.elapsed());
        assert!(stdout(&output).len() < 4000, "{name}: {} bytes", stdout(&output).len());
    }
    let place = Place::new("hartbeat = \"1h\"\n");
    let output = place.run(&["config", "check"]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("malachor.toml:5") && said.contains("hartbeat") && said.contains("heartbeat`"), "{said}");
}
