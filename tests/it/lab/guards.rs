//! What keeps a plan back, and what happens when it does not help, on a real host with the agent running.

use super::practice::{FACTS, Practice, WRITE_GOOD, rule, runbook};

const CHECK: &str = "RB-TEST-FILE-001";

fn with(name: &str, remediate: &str, steps: &str, attempts: u32, heal: &str) -> Option<Practice> {
    let practice = Practice::with_content(name, &runbook(CHECK, remediate, steps), &rule(CHECK, attempts), heal)?;
    practice.lab.ok(&["mkdir", "-p", "/etc/practice"]);
    drift(&practice, "good");
    Some(practice)
}

fn drift(practice: &Practice, state: &str) {
    practice.lab.write(FACTS, &format!("{{\"state\": \"{state}\"}}"), 0o644);
}

fn is_good(practice: &Practice) -> bool {
    practice.lab.read(FACTS).contains("good")
}

#[test]
fn a_remediation_that_fails_is_undone_and_escalated() {
    let steps = format!("{WRITE_GOOD}\n    - exec: [/bin/false]");
    let Some(mut practice) = with("undo", "disruptive: false", &steps, 1, "") else { return };
    drift(&practice, "bad");
    let before = practice.lab.read(FACTS);
    practice.start();
    let incident = practice.until_newest_is("escalated");
    assert_eq!(practice.lab.read(FACTS), before, "byte for byte as it was");
    Practice::look_twice();
    assert_eq!(practice.outcomes(), ["undone"], "tried once, as the rule says: {incident}");
    practice.proves();
}

#[test]
fn what_comes_and_goes_is_left_to_a_person() {
    let Some(mut practice) = with("flap", "disruptive: false", WRITE_GOOD, 3, "") else { return };
    practice.start();
    practice.until_passes();
    for time in 1..=2 {
        drift(&practice, "bad");
        practice.until_incident(time, "resolved");
        practice.until("healed", || is_good(&practice));
        Practice::look_twice();
    }
    drift(&practice, "bad");
    practice.until_incident(3, "suppressed");
    Practice::look_twice();
    assert!(!is_good(&practice), "healing stopped");
    assert_eq!(practice.outcomes(), ["repaired", "repaired", "escalated"]);
    practice.proves();
}

/// A window that is open, or not, at any time a test may run: the lab's clock is in UTC.
fn window(open: bool) -> String {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let at = |hours: i64| (&now + jiff::SignedDuration::from_hours(hours)).strftime("%H:%M").to_string();
    let (start, end) = if open { (at(-2), at(2)) } else { (at(2), at(4)) };
    let days = "\"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\", \"sun\"";
    format!("windows = [{{ days = [{days}], start = \"{start}\", end = \"{end}\" }}]")
}

#[test]
fn disruptive_work_waits_for_its_window() {
    let Some(mut practice) = with("window", "disruptive: true", WRITE_GOOD, 3, &window(false)) else { return };
    drift(&practice, "bad");
    practice.start();
    practice.until_newest_is("waiting_window");
    Practice::look_twice();
    assert!(!is_good(&practice));
    practice.stop();
    practice.configure("", &window(true));
    practice.start();
    practice.until_newest_is("resolved");
    assert!(is_good(&practice));
    assert_eq!(practice.outcomes(), ["deferred", "repaired"]);
    practice.proves();
}

#[test]
fn an_approved_plan_runs_once() {
    let Some(mut practice) = with("approval", "disruptive: false\n  approval: true", WRITE_GOOD, 3, "") else { return };
    drift(&practice, "bad");
    practice.start();
    let incident = practice.until_newest_is("waiting_approval");
    Practice::look_twice();
    assert!(!is_good(&practice));
    practice.ok(&["approve", incident["id"].as_str().unwrap(), "--by", "m.ortiz"]);
    practice.until_newest_is("resolved");
    assert!(is_good(&practice));
    drift(&practice, "bad");
    practice.until_incident(2, "waiting_approval");
    Practice::look_twice();
    assert!(!is_good(&practice), "one yes, one run");
    assert_eq!(practice.outcomes(), ["deferred", "recorded", "repaired", "deferred"]);
    practice.proves();
}

#[test]
fn the_kill_switch_stops_everything_until_it_is_released() {
    let Some(mut practice) = with("switch", "disruptive: false", WRITE_GOOD, 3, "") else { return };
    practice.start();
    practice.until_passes();
    practice.ok(&["kill-switch", "on", "--by", "m.ortiz"]);
    drift(&practice, "bad");
    practice.until_newest_is("planned");
    Practice::look_twice();
    assert!(!is_good(&practice));
    practice.ok(&["kill-switch", "off", "--by", "m.ortiz"]);
    practice.until_newest_is("resolved");
    assert!(is_good(&practice));
    practice.proves();
}

#[test]
fn a_dry_run_changes_nothing() {
    let Some(mut practice) = with("dry-run", "disruptive: false", WRITE_GOOD, 3, "") else { return };
    drift(&practice, "bad");
    let fresh = practice.lab.snapshot();
    let shown = practice.run(&["heal", "--dry-run", "--check", CHECK]);
    assert_eq!(shown.status.code(), Some(1), "{}", String::from_utf8_lossy(&shown.stderr));
    assert_eq!(
        super::Lab::changes(&fresh, &practice.lab.snapshot()),
        Vec::<String>::new(),
        "no state directory before"
    );
    practice.ok(&["keys", "init"]);
    practice.run(&["check", "run", CHECK]);
    let before = practice.lab.snapshot();
    let shown = practice.run(&["heal", "--dry-run"]);
    assert_eq!(shown.status.code(), Some(1));
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("kill_switch") && text.contains("write /etc/practice/facts.json"), "{text}");
    assert_eq!(super::Lab::changes(&before, &practice.lab.snapshot()), Vec::<String>::new());
    assert!(!is_good(&practice));
    practice.start();
    practice.until_newest_is("resolved");
    practice.proves();
}

#[test]
fn a_step_that_was_killed_is_verified_and_not_run_again() {
    let steps = format!("    - exec: [/usr/local/bin/count]\n      timeout: 60s\n{WRITE_GOOD}");
    let Some(mut practice) = with("killed", "disruptive: false", &steps, 1, "") else { return };
    practice.lab.write("/usr/local/bin/count", "#!/bin/sh\necho ran >> /root/count\nsleep 20\n", 0o755);
    drift(&practice, "bad");
    practice.start();
    practice.until("the step", || practice.lab.run(&["test", "-s", "/root/count"]).status.success());
    practice.lab.ok(&["systemctl", "kill", "--signal=KILL", "malachor.service"]);
    practice.until("the agent's end", || {
        !practice.lab.run(&["systemctl", "is-active", "malachor.service"]).status.success()
    });
    practice.lab.run(&["systemctl", "reset-failed", "malachor.service"]);
    practice.start();
    practice.until_newest_is("escalated");
    Practice::look_twice();
    assert_eq!(practice.lab.read("/root/count"), "ran\n", "never run again blindly");
    assert_eq!(practice.outcomes(), ["undone"]);
    practice.proves();
}
