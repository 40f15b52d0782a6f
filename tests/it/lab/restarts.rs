//! The agent is stopped or killed in the middle of a step: what had begun is verified, never run again.

use super::practice::{FACTS, Practice, rule, runbook};

const BAD: &str = "{\"state\": \"bad\"}";
const GOOD: &str = "{\"state\": \"good\"}";
const CHECK: &str = "RB-TEST-SLOW-001";
const COUNTER: &str = "/root/counter";

/// A step that counts its runs, and heals before or after a long pause.
fn slow(name: &str, script: &str, attempts: u32) -> Option<Practice> {
    let step = format!("    - exec: [sh, -c, {script:?}]\n      timeout: 1m");
    let practice =
        Practice::with_content(name, &runbook(CHECK, "disruptive: false", &step), &rule(CHECK, attempts), "")?;
    practice.lab.write(FACTS, GOOD, 0o644);
    Some(practice)
}

fn runs(practice: &Practice) -> usize {
    let counted = practice.lab.run(&["cat", COUNTER]);
    String::from_utf8_lossy(&counted.stdout).lines().count()
}

/// Starts, drifts, and waits until the step is under way.
fn into_the_step(practice: &mut Practice) {
    practice.start();
    practice.until_passes();
    practice.lab.write(FACTS, BAD, 0o644);
    practice.until("the step's start", || runs(practice) == 1);
}

fn kill(practice: &Practice) {
    practice.lab.ok(&["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "malachor.service"]);
    let state = || practice.lab.run(&["systemctl", "is-failed", "malachor.service"]).stdout;
    practice.until("the agent's end", || state().starts_with(b"failed"));
    practice.lab.ok(&["systemctl", "reset-failed", "malachor.service"]);
}

#[test]
fn a_stop_lets_the_running_step_end() {
    let heals_late = format!("echo run >> {COUNTER}; sleep 4; echo '{GOOD}' > {FACTS}");
    let Some(mut practice) = slow("stopped", &heals_late, 3) else { return };
    into_the_step(&mut practice);
    practice.stop();
    assert_eq!(practice.incidents()[0]["state"], "resolved", "{}", practice.story());
    let result = practice.lab.ok(&["systemctl", "show", "-P", "Result", "malachor.service"]);
    assert_eq!(result.trim(), "success");
    practice.start();
    Practice::look_twice();
    assert_eq!((runs(&practice), practice.outcomes()), (1, vec!["repaired".to_owned()]));
    practice.proves();
}

#[test]
fn a_killed_agent_finds_its_step_done() {
    let heals_early = format!("echo '{GOOD}' > {FACTS}; echo run >> {COUNTER}; sleep 50");
    let Some(mut practice) = slow("killed-done", &heals_early, 3) else { return };
    into_the_step(&mut practice);
    kill(&practice);
    practice.start();
    practice.until_newest_is("resolved");
    Practice::look_twice();
    assert_eq!(runs(&practice), 1, "verified, not run again");
    assert_eq!(practice.outcomes(), ["repaired"], "what the interrupted step did is not called nothing");
    practice.proves();
}

#[test]
fn a_killed_agent_undoes_what_did_not_help_and_tries_anew() {
    let first_hangs = format!(
        "echo run >> {COUNTER}; echo half > {FACTS}; test $(wc -l < {COUNTER}) -gt 1 || sleep 50; echo '{GOOD}' > {FACTS}"
    );
    let Some(mut practice) = slow("killed-undone", &first_hangs, 3) else { return };
    into_the_step(&mut practice);
    kill(&practice);
    practice.start();
    practice.until_newest_is("resolved");
    assert_eq!(practice.outcomes().iter().filter(|outcome| *outcome == "undone").count(), 1);
    assert_eq!(practice.outcomes().last().map(String::as_str), Some("repaired"));
    assert_eq!(runs(&practice), 2, "once by each execution");
    practice.proves();
}

#[test]
fn a_killed_agent_does_not_try_more_often_than_it_may() {
    let Some(mut practice) = slow("killed-once", &format!("echo run >> {COUNTER}; sleep 50"), 1) else { return };
    into_the_step(&mut practice);
    kill(&practice);
    practice.start();
    practice.until_newest_is("escalated");
    Practice::look_twice();
    assert_eq!((runs(&practice), practice.outcomes()), (1, vec!["undone".to_owned()]));
    practice.proves();
}
