//! What stands in the way of healing on a real host: each guard, seen from outside, and proven.

use serde_json::{Value, json};

use super::Lab;
use super::practice::{FACTS, Practice, WRITE_GOOD, rule, runbook};

const BAD: &str = "{\"state\": \"bad\"}";
const GOOD: &str = "{\"state\": \"good\"}";
const CHECK: &str = "RB-TEST-FILE-001";

/// A practice whose file check is healed by writing the file.
fn with_file(name: &str, remediate: &str, heal: &str) -> Option<Practice> {
    let practice = Practice::with_content(name, &runbook(CHECK, remediate, WRITE_GOOD), &rule(CHECK, 3), heal)?;
    practice.lab.write(FACTS, GOOD, 0o644);
    Some(practice)
}

fn drift(practice: &Practice) {
    practice.lab.write(FACTS, BAD, 0o644);
}

fn is_untouched(practice: &Practice) {
    Practice::look_twice();
    assert_eq!(practice.lab.read(FACTS), BAD, "{}", practice.story());
    let acted = ["repaired", "kept", "undone", "failed"];
    let outcomes = practice.outcomes();
    assert!(!outcomes.iter().any(|outcome| acted.contains(&outcome.as_str())), "{outcomes:?}");
}

fn healed_once(practice: &Practice) {
    practice.until_newest_is("resolved");
    assert_eq!(practice.lab.read(FACTS), GOOD);
    assert_eq!(practice.outcomes().iter().filter(|outcome| *outcome == "repaired").count(), 1);
    practice.proves();
}

#[test]
fn what_does_not_help_is_undone_and_goes_to_a_person() {
    let steps = "    - file: { path: /etc/practice/app.conf, content: 'changed', mode: \"0644\" }
    - file: { path: /etc/practice/new.conf, content: 'new', mode: \"0644\" }
    - unit: { stop: cron.service }
    - exec: [\"false\"]";
    let remediate = "disruptive: false";
    let text = runbook(CHECK, remediate, steps).replace(
        &format!("snapshot: [ {{ files: [{FACTS}] }} ]"),
        "snapshot: [ { files: [/etc/practice/app.conf, /etc/practice/new.conf] }, { units: [cron.service] } ]",
    );
    let Some(mut practice) = Practice::with_content("undone", &text, &rule(CHECK, 1), "") else { return };
    practice.lab.write(FACTS, BAD, 0o644);
    practice.lab.write("/etc/practice/app.conf", "as \u{e9}ver\n\n", 0o640);
    practice.lab.ok(&["chown", "games:mail", "/etc/practice/app.conf"]);
    let tree = |practice: &Practice| -> Vec<(String, String)> {
        let ours = |path: &String| path.starts_with("/etc/practice") || path == "unit cron.service";
        practice.lab.snapshot().into_iter().filter(|(path, _)| ours(path)).collect()
    };
    let before = tree(&practice);
    practice.start();
    let incident = practice.until_newest_is("escalated");
    assert!(incident["note"].as_str().unwrap().contains("undone"), "{incident:#}");
    assert_eq!(tree(&practice), before, "bytes, mode, owner, unit");
    Practice::look_twice();
    assert_eq!(practice.outcomes(), ["undone"], "one attempt, told once");
    let action = &practice.actions()[0];
    assert_eq!((&action["detail"]["incidentState"], &action["detail"]["after"]), (&json!("escalated"), &json!("fail")));
    practice.proves();
}

#[test]
fn what_comes_and_goes_is_left_to_a_person_the_third_time() {
    const SERVICE: &str = "RB-SERVICE-001";
    let settings = "required = [\"ehr.service\"]";
    let Some(mut practice) = Practice::open("flapping", SERVICE, settings, "") else { return };
    practice.lab.write("/etc/systemd/system/ehr.service", "[Service]\nExecStart=/bin/sleep infinity\n", 0o644);
    practice.lab.ok(&["systemctl", "daemon-reload"]);
    practice.lab.ok(&["systemctl", "start", "ehr.service"]);
    practice.start();
    practice.until_passes();
    for time in 1..=2 {
        practice.lab.ok(&["systemctl", "kill", "--signal=KILL", "ehr.service"]);
        practice.until_incident(time, "resolved");
        practice.until_passes();
    }
    practice.lab.ok(&["systemctl", "kill", "--signal=KILL", "ehr.service"]);
    let incident = practice.until_incident(3, "suppressed");
    assert!(incident["note"].as_str().unwrap().contains("comes and goes"), "{incident:#}");
    Practice::look_twice();
    assert_ne!(practice.lab.run(&["systemctl", "is-active", "ehr.service"]).status.code(), Some(0));
    assert_eq!(practice.outcomes(), ["repaired", "repaired", "escalated"]);
    assert!(practice.actions()[2]["reason"].as_str().unwrap().contains("comes and goes"));
    practice.proves();
}

/// A window of two hours that begins so many hours from now.
fn window(from_now: i64) -> String {
    let hour = |hours: i64| {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours);
        at.to_zoned(jiff::tz::TimeZone::UTC).strftime("%H:00").to_string()
    };
    let days = "days = [\"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\", \"sun\"]";
    format!("[[heal.windows]]\n{days}\nstart = \"{}\"\nend = \"{}\"\n", hour(from_now), hour(from_now + 2))
}

#[test]
fn disruptive_work_waits_for_its_window() {
    let Some(mut practice) = with_file("window", "disruptive: true", &window(4)) else { return };
    drift(&practice);
    practice.start();
    let waiting = practice.until_newest_is("waiting_window");
    assert!(waiting["note"].as_str().unwrap().contains("maintenance window"), "{waiting:#}");
    is_untouched(&practice);
    practice.stop();
    practice.configure("", &window(-1));
    practice.start();
    healed_once(&practice);
    assert_eq!(practice.outcomes(), ["deferred", "repaired"]);
}

#[test]
fn a_yes_holds_once() {
    let Some(mut practice) = with_file("approval", "disruptive: false\n  approval: true", "") else { return };
    drift(&practice);
    practice.start();
    let first = practice.until_newest_is("waiting_approval");
    is_untouched(&practice);
    let (first_id, read) = (first["id"].as_str().unwrap(), practice.plan_in_question(&first));
    let other = format!("{}{}", if read.starts_with('0') { '1' } else { '0' }, &read[1..]);
    let said = practice.fails(2, &["approve", first_id, &other, "--by", "dr-ortiz"]);
    assert!(said.contains("another plan"), "{said}");
    is_untouched(&practice);
    practice.ok(&["approve", first_id, &read, "--by", "dr-ortiz"]);
    healed_once(&practice);
    let by = |action: &Value| action["detail"]["by"] == "dr-ortiz" && action["detail"]["decision"] == "plan approved";
    assert!(practice.actions().iter().any(by), "the decision is in the log");

    practice.until_passes();
    drift(&practice);
    let second = practice.until_incident(2, "waiting_approval");
    assert_ne!(second["id"], first["id"]);
    Practice::look_twice();
    assert_eq!(practice.lab.read(FACTS), BAD, "the yes is used up");
    practice.ok(&["reject", second["id"].as_str().unwrap(), "--by", "dr-ortiz"]);
    practice.until_incident(2, "escalated");
    assert_eq!(practice.lab.read(FACTS), BAD);
    practice.proves();
}

#[test]
fn a_dry_run_changes_nothing_at_all() {
    let Some(mut practice) = with_file("dry-run", "disruptive: false", "") else { return };
    drift(&practice);
    let dry = |practice: &Practice| {
        let before = practice.lab.snapshot();
        let output = practice.run(&["heal", "--dry-run"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(Lab::changes(&before, &practice.lab.snapshot()), Vec::<String>::new());
        assert_eq!(practice.lab.ok(&["find", "/tmp", "-name", "malachor*"]), "", "the copy is gone");
        for part in
            ["kill_switch", "blast_radius", "approval", "write /etc/practice/facts.json", "+{\"state\": \"good\"}"]
        {
            assert!(said.contains(part), "{part} in\n{said}");
        }
    };
    dry(&practice);
    assert_ne!(practice.lab.run(&["test", "-e", "/var/lib/malachor"]).status.code(), Some(0), "no state is made");

    practice.lab.ok(&["sed", "-i", "s/mode = \"heal\"/mode = \"observe\"/", "/etc/malachor/config.toml"]);
    practice.start();
    practice.until_newest_is("planned");
    practice.stop();
    practice.lab.ok(&["sed", "-i", "s/mode = \"observe\"/mode = \"heal\"/", "/etc/malachor/config.toml"]);
    dry(&practice);
    practice.proves();
}

#[test]
fn the_kill_switch_and_observe_stop_everything() {
    let Some(mut practice) = with_file("kill-switch", "disruptive: false", "") else { return };
    practice.start();
    practice.until_passes();
    practice.ok(&["kill-switch", "on", "--by", "anna"]);
    drift(&practice);
    let planned = practice.until_newest_is("planned");
    assert!(planned["note"].as_str().unwrap().contains("thrown by anna"), "{planned:#}");
    is_untouched(&practice);
    practice.ok(&["mode", "observe", "--by", "anna"]);
    practice.ok(&["kill-switch", "off", "--by", "anna"]);
    is_untouched(&practice);
    practice.ok(&["mode", "heal", "--by", "anna"]);
    healed_once(&practice);
}
