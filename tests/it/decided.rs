//! What is decided, by whom, and what a decision holds for.

use serde_json::Value;

use malachor::app::{App, Clock};
use malachor::heal::{self, Reach};
use malachor::host::Host;

use crate::place::{FILE, Place, change, facts, stderr, stdout, with_file};

fn app(place: &Place) -> App {
    let config = place.dir.path().join("malachor.toml");
    App::open(malachor::config::load(Some(&config), []).unwrap(), Host::live(), Clock::system()).unwrap()
}

/// One run of the agent's own pipeline.
fn agent_runs(place: &Place) -> Option<heal::Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let app = app(place);
        app.ready().await.unwrap();
        let runbook = app.checks().find(|runbook| runbook.id.as_str() == FILE).unwrap();
        heal::run_check(&app, runbook, Reach::Heal).await.unwrap().outcome
    })
}

fn incident(place: &Place) -> Value {
    let listed = place.ok(&["--json", "incident", "list"]);
    let line: Value = serde_json::from_str(listed.lines().next().expect("an incident")).unwrap();
    let id = line["incident"]["id"].as_str().unwrap().to_owned();
    serde_json::from_str(place.ok(&["--json", "incident", "show", &id]).trim()).unwrap()
}

fn question(place: &Place) -> (String, String) {
    let shown = incident(place);
    let open = shown["approvals"].as_array().unwrap().iter().find(|approval| approval["state"] == "pending").unwrap();
    let plan = open["plan_sha256"].as_str().unwrap().get(..8).unwrap().to_owned();
    (shown["incident"]["id"].as_str().unwrap().to_owned(), plan)
}

#[test]
fn what_could_not_be_looked_at_is_neither_decided_about_nor_healed() {
    let place = with_file("observe", "bad");
    place.run(&["check", "run", FILE]);
    assert_eq!(incident(&place)["incident"]["state"], "planned");
    let said = place.ok(&["evidence", "list"]);
    std::fs::write(place.dir.path().join("facts.json"), "no JSON").unwrap();
    change(
        &place,
        "when: check == \"RB-TEST-FILE-001\" and \"not_good\" in reasons",
        "when: check == \"RB-TEST-FILE-001\"",
    );
    place.configure("mode = \"observe\"", "mode = \"heal\"");
    assert_eq!(agent_runs(&place), None);
    let shown = incident(&place);
    assert_eq!((&shown["incident"]["state"], facts(&place).as_str()), (&"planned".into(), "no JSON"), "{shown:#}");
    assert!(shown["incident"]["plan"].is_object(), "the plan of before still stands");
    let now = place.ok(&["evidence", "list"]);
    assert!(!now[said.len() - 1..].contains("escalated"), "{now}");
}

#[test]
fn disruptive_work_without_a_window_runs_once_a_person_says_so() {
    let place = with_file("heal", "bad");
    change(&place, "disruptive: false", "disruptive: true");
    assert_eq!(agent_runs(&place), None);
    let (id, plan) = question(&place);
    let output = place.run(&["approve", &id, "00000000", "--by", "dr.lee"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("waits with another plan"), "{}", stderr(&output));
    assert_eq!(agent_runs(&place), None, "nobody said yes to this plan");
    place.ok(&["approve", &id, &plan, "--by", "dr.lee"]);
    assert_eq!(agent_runs(&place), Some(heal::Outcome::Repaired));
    assert_eq!(facts(&place), "{\"state\": \"good\"}");

    std::fs::write(place.dir.path().join("facts.json"), "{\"state\": \"bad\"}").unwrap();
    place.ok(&["heal", "--apply", "--by", "dr.lee", "--check", FILE]);
    assert_eq!(facts(&place), "{\"state\": \"good\"}", "whoever applies it has decided");
    place.ok(&["evidence", "verify"]);
}

#[test]
fn an_incident_shows_how_to_say_yes_and_what_was_done_without_what_was_kept() {
    let place = with_file("approve", "bad");
    assert_eq!(agent_runs(&place), None);
    let (id, plan) = question(&place);
    let shown = place.ok(&["incident", "show", &id]);
    assert!(shown.contains(&format!("→ malachor approve {id} {plan} --by NAME")), "{shown}");
    place.ok(&["approve", &id, &plan, "--by", "dr.lee"]);
    assert_eq!(agent_runs(&place), Some(heal::Outcome::Repaired));
    let shown = place.ok(&["incident", "show", &id]);
    assert!(shown.contains("step 1 changed it") && !shown.contains("Done(") && !shown.contains("--by NAME"), "{shown}");
    let json = place.ok(&["--json", "incident", "show", &id]);
    assert!(!json.contains("base64"), "{json}");
    let json: Value = serde_json::from_str(&json).unwrap();
    let kept = &json["executions"][0]["journal"][1]["event"]["snapshot_taken"]["files"][0];
    assert!(kept["path"].as_str().unwrap().ends_with("facts.json") && kept["bytes"] == 16, "{kept}");
}

#[test]
fn a_yes_to_one_plan_is_none_to_another() {
    let place = with_file("approve", "bad");
    assert_eq!(agent_runs(&place), None);
    let (id, read) = question(&place);
    // Another runbook, so another plan, takes the question over.
    change(&place, "mode: \"0644\"", "mode: \"0600\"");
    assert_eq!(agent_runs(&place), None);
    let output = place.run(&["approve", &id, &read, "--by", "dr.lee"]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    let (_, now) = question(&place);
    assert_ne!(now, read);
    let asked = place.ok(&["--json", "evidence", "list"]);
    assert_eq!(asked.matches("\"outcome\":\"deferred\"").count(), 2, "each question is in the log: {asked}");
}

/// The modes and exceptions of the check hold although another runbook is run for it.
#[test]
fn a_rule_that_runs_another_runbook_walks_around_nothing() {
    let place = with_file("heal", "bad");
    let other = std::fs::read_to_string(place.dir.path().join("catalog/file.yaml")).unwrap();
    let other = other.replace(FILE, "RB-TEST-OTHER-001").replace("detect: { every: 1h", "detect: { every: 2h");
    place.write("catalog/other.yaml", &other);
    change(&place, "    run: RB-TEST-FILE-001", "    run: RB-TEST-OTHER-001");
    place.append(&format!("[runbooks.{FILE}]\nmode = \"observe\"\n[runbooks.RB-TEST-OTHER-001]\nenabled = true\n"));
    assert_eq!(agent_runs(&place), None);
    assert!(facts(&place).contains("bad"));
    place.configure("mode = \"observe\"", "mode = \"heal\"");
    let until = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_hours(24)).unwrap().to_string();
    let exception = ["exception", "add", "--control", "164.312(b)", "--reason", "vendor", "--owner", "dr.lee"];
    place.ok(&[&exception[..], &["--approver", "m.ortiz", "--expires", &until, "--effect", "no-heal"]].concat());
    assert_eq!(agent_runs(&place), None);
    assert!(facts(&place).contains("bad"));
}

#[test]
fn what_dry_run_prints_is_what_apply_runs() {
    for mode in ["heal", "approve"] {
        let place = with_file(mode, "bad");
        place.run(&["check", "run", FILE]);
        let printed = |args: &[&str]| {
            let output = place.run(&[&["--json", "heal", "--by", "tester", "--check", FILE], args].concat());
            let line: Value = serde_json::from_slice(&output.stdout).unwrap();
            (output.status.code(), line)
        };
        let (status, planned) = printed(&["--dry-run"]);
        assert_eq!(status, Some(1));
        assert!(facts(&place).contains("bad"));
        assert_eq!(planned["alone"]["decision"], if mode == "heal" { "go" } else { "ask" });
        let (status, applied) = printed(&["--apply"]);
        assert_eq!((status, &applied["outcome"]), (Some(0), &"repaired".into()));
        for same in ["plan", "guards", "decision"] {
            assert_eq!(planned[same], applied[same], "{mode}: {same}");
        }
    }
}

#[test]
fn a_failure_that_needs_confirming_is_confirmed_for_whoever_asks() {
    let place = with_file("heal", "bad");
    change(&place, "remediate:", "confirm: 2\nremediate:");
    assert_eq!(place.run(&["heal", "--dry-run", "--check", FILE]).status.code(), Some(1));
    place.ok(&["heal", "--apply", "--by", "tester", "--check", FILE]);
    assert_eq!(facts(&place), "{\"state\": \"good\"}");
}

#[test]
fn heal_ends_with_three_where_something_is_unknown_or_has_no_plan() {
    let place = with_file("heal", "bad");
    std::fs::write(place.dir.path().join("facts.json"), "no JSON").unwrap();
    for what in ["--dry-run", "--apply"] {
        assert_eq!(place.run(&["heal", what, "--by", "tester", "--check", FILE]).status.code(), Some(3), "{what}");
    }
}

#[test]
fn an_incident_whose_check_is_switched_off_is_withdrawn() {
    let place = with_file("observe", "bad");
    place.run(&["check", "run", FILE]);
    place.append(&format!("[runbooks.{FILE}]\nenabled = false\n"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { heal::retire(&app(&place)).await.unwrap() });
    assert!(place.ok(&["incident", "list"]).is_empty());
    assert!(place.ok(&["incident", "list", "--all"]).contains("withdrawn"));
    assert!(place.ok(&["evidence", "verify"]).contains("VERIFIED"));
}

/// Keys sign one log in their life; a lost one is not begun again under its name.
#[test]
fn keys_and_their_log_belong_together() {
    let place = with_file("observe", "good");
    place.ok(&["check", "run", FILE]);
    let (state, kept) = (place.dir.path().join("state"), place.dir.path().join("kept"));
    std::fs::create_dir(&kept).unwrap();
    for name in ["malachor.db", "malachor.db-wal", "malachor.db-shm"] {
        std::fs::rename(state.join(name), kept.join(name)).ok();
    }
    let output = place.run(&["mode", "observe", "--by", "tester"]);
    assert_eq!(output.status.code(), Some(4), "{}", stdout(&output));
    assert!(stderr(&output).contains("restore it from a backup"), "{}", stderr(&output));
    std::fs::copy(kept.join("malachor.db"), state.join("malachor.db")).unwrap();
    place.ok(&["mode", "observe", "--by", "tester"]);

    std::fs::rename(state.join("keys"), kept.join("keys")).unwrap();
    let output = place.run(&["keys", "init"]);
    assert_eq!(output.status.code(), Some(4), "{}", stdout(&output));
    assert!(stderr(&output).contains("a log without its keys"), "{}", stderr(&output));
    std::fs::rename(kept.join("keys"), state.join("keys")).unwrap();

    place.configure("id = \"clinic\"", "id = \"other\"");
    let output = place.run(&["evidence", "list"]);
    assert_eq!(output.status.code(), Some(0), "reading needs no keys");
    let output = place.run(&["mode", "observe", "--by", "tester"]);
    assert_eq!(output.status.code(), Some(4));
    let said = stderr(&output);
    assert!(said.contains("malachor.example/malachor/clinic/") && said.contains("/other/"), "{said}");
}

/// Nobody's log is named like the examples.
#[test]
fn an_appliance_is_named_before_its_first_start() {
    let place = Place::new("");
    place.configure("id = \"clinic\"", "id = \"dev\"");
    for command in [&["agent"][..], &["keys", "init"]] {
        let output = place.run(command);
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        assert!(stderr(&output).contains("[site]"), "{}", stderr(&output));
    }
    assert!(!place.dir.path().join("state").exists());
}
