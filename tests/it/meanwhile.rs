//! What happens while something else is under way: two processes on one state, a switch thrown in the middle, text that
//! is cut where it must not be.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::place::{FILE, Place, change, facts, stderr, stdout, with_file};

fn spawn(place: &Place, args: &[&str]) -> Child {
    let config = place.dir.path().join("malachor.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_malachor"));
    command.arg("--config").arg(config).args(args).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn until(what: &str, mut there: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !there() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A check that reads, and then takes its time while `slow` is there.
fn slow_check() -> Place {
    let place = with_file("heal", "bad");
    let here = place.dir.path().display().to_string();
    let script =
        format!("cat {here}/facts.json; if [ -e {here}/slow ]; then rm {here}/slow; touch {here}/read; sleep 3; fi");
    change(&place, &format!("exec: [cat, \"{here}/facts.json\"]"), &format!("exec: [sh, -c, \"{script}\"]"));
    change(&place, "timeout: 5s", "timeout: 20s");
    place.write("slow", "");
    place
}

#[test]
fn what_was_seen_before_healing_is_not_recorded_after_it() {
    let place = slow_check();
    let mut looking = spawn(&place, &["check", "run", FILE]);
    until("it reads", || place.dir.path().join("read").exists());
    place.ok(&["heal", "--apply", "--by", "tester", "--check", FILE]);
    looking.wait().unwrap();
    let log = place.ok(&["--json", "evidence", "list"]);
    let last = log.lines().rfind(|line| line.contains("\"check\"")).unwrap();
    assert!(last.contains("\"outcome\":\"pass\""), "{log}");
    assert!(place.ok(&["incident", "list"]).is_empty());
    place.ok(&["evidence", "verify"]);
}

/// The other one healed and is still looking whether it helped when this one would decide.
#[test]
fn an_incident_somebody_else_works_on_is_left_to_them() {
    let place = slow_check();
    change(&place, "disruptive: false", "disruptive: false\n  settle: 5s");
    let mut looking = spawn(&place, &["check", "run", FILE]);
    until("it reads", || place.dir.path().join("read").exists());
    let mut healing = spawn(&place, &["heal", "--apply", "--by", "tester", "--check", FILE]);
    looking.wait().unwrap();
    assert!(healing.wait().unwrap().success(), "{}", place.ok(&["evidence", "list"]));
    assert!(place.ok(&["evidence", "list"]).contains("repaired"));
    assert!(place.ok(&["incident", "list"]).is_empty());
}

#[test]
fn the_kill_switch_stops_before_the_next_step_and_what_was_done_is_undone() {
    let place = with_file("heal", "bad");
    let here = place.dir.path().display().to_string();
    let facts_file = format!("{here}/facts.json");
    change(
        &place,
        &format!(
            "steps: [ {{ file: {{ path: \"{facts_file}\", content: '{{\"state\": \"good\"}}', mode: \"0644\" }} }} ]"
        ),
        &format!(
            "steps: [ {{ exec: [sh, -c, \"echo half > {facts_file}; touch {here}/begun; sleep 2\"] }}, {{ exec: [touch, \"{here}/second\"] }} ]"
        ),
    );
    let mut healing = spawn(&place, &["heal", "--apply", "--by", "tester", "--check", FILE]);
    until("the first step runs", || place.dir.path().join("begun").exists());
    place.ok(&["kill-switch", "on", "--by", "tester"]);
    assert!(!healing.wait().unwrap().success());
    assert!(!place.dir.path().join("second").exists(), "nothing more is done");
    assert_eq!(facts(&place), "{\"state\": \"bad\"}", "and what was done is undone");
    let log = place.ok(&["--json", "evidence", "list"]);
    assert!(log.contains("undone"), "{log}");
}

/// A step whose program is not there changed nothing, so there is nothing to undo.
#[test]
fn what_did_not_begin_is_not_undone() {
    let place = with_file("heal", "bad");
    let here = place.dir.path().display().to_string();
    change(&place, "steps: [", "steps: [ { exec: [no-such-program-anywhere] },");
    change(
        &place,
        "rollback: [ { restore: snapshot } ]",
        &format!("rollback: [ {{ exec: [touch, \"{here}/undid\"] }} ]"),
    );
    let healed = place.run(&["heal", "--apply", "--by", "tester", "--check", FILE]);
    assert_ne!(healed.status.code(), Some(0), "{}{}", stdout(&healed), stderr(&healed));
    assert!(!place.dir.path().join("undid").exists());
    assert!(place.ok(&["incident", "list"]).contains("nothing was changed"), "{}", place.ok(&["incident", "list"]));
}

/// An identifier that straddles the end of what is kept is replaced before the text is cut.
#[test]
fn no_half_identifier_enters_the_log() {
    for before in 285..300 {
        let place = with_file("observe", "bad");
        let say = format!("{} SSN 123-45-6789 of the patient", "x".repeat(before - 5));
        change(&place, "say: \"It says {{ facts.state }}\"", &format!("say: \"{say}\""));
        place.run(&["check", "run", FILE]);
        for seq in ["1", "2"] {
            let entry = stdout(&place.run(&["evidence", "show", seq]));
            assert!(!entry.contains("123-4"), "{before}: {entry}");
        }
    }
}

/// Whoever has the log can try out every number there is, so a digest must not say when they are right.
#[test]
fn the_digest_of_a_statement_gives_nothing_away() {
    let place = with_file("observe", "bad");
    place.ok(&["kill-switch", "on", "--by", "123-45-6789"]);
    let list = place.ok(&["--json", "evidence", "list"]);
    let seq = list.lines().count() - 1;
    let entry: serde_json::Value =
        serde_json::from_str(&place.ok(&["--json", "evidence", "show", &seq.to_string()])).unwrap();
    let statement = entry.to_string();
    assert!(!statement.contains("123-45"), "{statement}");
    let guess = r#"{"after":"on","before":null,"by":"123-45-6789","decision":"kill switch on"}"#;
    let digest = malachor::crypto::sha256_hex(guess.as_bytes());
    assert!(!statement.contains(&digest), "{statement}");
}

/// What was never looked at is unknown in the posture, and never left out.
#[test]
fn a_check_that_never_ran_is_unknown_in_the_heartbeat() {
    let place = with_file("observe", "good");
    let config = place.dir.path().join("malachor.toml");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let posture = runtime.block_on(async {
        let loaded = malachor::config::load(Some(&config), []).unwrap();
        let host = malachor::host::Host::live();
        let app = malachor::app::App::open(loaded, host, malachor::app::Clock::system()).unwrap();
        app.ready().await.unwrap();
        let runbook = app.checks().find(|runbook| runbook.id.as_str() == FILE).unwrap();
        malachor::heal::run_check(&app, runbook, malachor::heal::Reach::Record).await.unwrap();
        malachor::heal::heartbeat(&app).await.unwrap();
        (malachor::heal::posture(&app).await.unwrap(), app.checks().count())
    });
    assert_eq!((posture.0.pass, posture.0.unknown as usize), (1, posture.1 - 1));
}

/// A step that acts late, whose waiter is killed: what it would have done does not happen behind the undoing.
fn late_step(place: &Place) {
    let here = place.dir.path().display().to_string();
    change(place, "disruptive: false", "disruptive: false\n  within: 0s");
    change(
        place,
        "steps: [",
        &format!("steps: [ {{ exec: [sh, -c, \"touch {here}/begun; sleep 4; touch {here}/late\"] }},"),
    );
}

#[test]
fn what_a_killed_run_left_behind_is_ended_before_it_is_undone() {
    let place = with_file("heal", "bad");
    late_step(&place);
    let mut healing = spawn(&place, &["heal", "--apply", "--by", "tester", "--check", FILE]);
    until("the step runs", || place.dir.path().join("begun").exists());
    healing.kill().unwrap();
    healing.wait().unwrap();
    let config = place.dir.path().join("malachor.toml");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let loaded = malachor::config::load(Some(&config), []).unwrap();
        let host = malachor::host::Host::live();
        let app = malachor::app::App::open(loaded, host, malachor::app::Clock::system()).unwrap();
        assert_eq!(malachor::heal::recover(&app).await.unwrap(), 1);
    });
    std::thread::sleep(Duration::from_secs(5));
    assert!(!place.dir.path().join("late").exists(), "it went on after it was undone");
    assert_eq!(facts(&place), "{\"state\": \"bad\"}");
    let log = place.ok(&["--json", "evidence", "list"]);
    assert!(log.contains("undone"), "{log}");
}

#[test]
fn an_interrupted_run_takes_its_programs_with_it() {
    let place = with_file("heal", "bad");
    late_step(&place);
    let mut healing = spawn(&place, &["heal", "--apply", "--by", "tester", "--check", FILE]);
    until("the step runs", || place.dir.path().join("begun").exists());
    Command::new("kill").args(["-INT", &healing.id().to_string()]).status().unwrap();
    assert_eq!(healing.wait().unwrap().code(), Some(130));
    std::thread::sleep(Duration::from_secs(5));
    assert!(!place.dir.path().join("late").exists());
}

/// Whoever verifies a log while it is written to sees it as it was at one moment, and never a forgery that is none.
#[test]
fn a_log_that_is_written_to_verifies() {
    let place = with_file("observe", "good");
    place.ok(&["check", "run", FILE]);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for _ in 0..15 {
                place.ok(&["mode", "observe", "--by", "lee"]);
            }
        });
        while !writing.is_finished() {
            place.ok(&["evidence", "verify"]);
        }
    });
}
