//! A lab with Malachor at work in it, watched from outside.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use malachor::catalog::Catalog;
use malachor::evidence::{Input, Options, Trust, verify};
use serde_json::Value;

use super::Lab;

/// How long anything may take to happen.
const PATIENCE: Duration = Duration::from_mins(1);

const CONFIG: &str = "/etc/malachor/config.toml";
const STATE: &str = "/var/lib/malachor";

/// As a practice runs it: the agent alone gets the first signal, so that a running step is brought to its end.
const UNIT: &str = "[Unit]
Description=Malachor
[Service]
Type=notify
NotifyAccess=main
ExecStart=/usr/local/bin/malachor agent --config /etc/malachor/config.toml
WatchdogSec=30
TimeoutStopSec=90
KillMode=mixed
";

/// A check whose facts are a file, for content of our own.
pub(crate) const FACTS: &str = "/etc/practice/facts.json";

/// A lab, its agent, and the one check that is looked at.
pub(crate) struct Practice {
    pub(crate) lab: Lab,
    check: String,
    /// The appliance's public keys, taken out before anything happens.
    keys: Vec<String>,
}

impl Practice {
    /// Boots a lab in which only `check` runs, every two seconds; `None` where there can be no lab.
    ///
    /// `settings` and `heal` are lines of the configuration's tables of these names.
    pub(crate) fn open(name: &str, check: &str, settings: &str, heal: &str) -> Option<Self> {
        let lab = Lab::boot(name)?;
        lab.install_binary();
        lab.write("/etc/systemd/system/malachor.service", UNIT, 0o644);
        let practice = Self { lab, check: check.to_owned(), keys: Vec::new() };
        practice.configure(settings, heal);
        Some(practice)
    }

    /// The same with a runbook and rule of our own.
    pub(crate) fn with_content(name: &str, runbook: &str, rule: &str, heal: &str) -> Option<Self> {
        let check = runbook.lines().find_map(|line| line.strip_prefix("id: ")).expect("an id");
        let practice = Self::open(name, check, "", heal)?;
        practice.lab.write("/etc/malachor/catalog/runbook.yaml", runbook, 0o644);
        practice.lab.write("/etc/malachor/catalog/rules.yaml", rule, 0o644);
        Some(practice)
    }

    pub(crate) fn configure(&self, settings: &str, heal: &str) {
        let mut text = format!(
            "[site]\nid = \"clinic\"\n[heal]\nmode = \"heal\"\n{heal}\n[catalog]\ndir = \"/etc/malachor/catalog\"\n"
        );
        let shipped = Catalog::load(None).expect("the built-in content loads").runbooks;
        for other in shipped.keys().filter(|id| id.as_str() != self.check) {
            writeln!(text, "[runbooks.{other}]\nenabled = false").expect("text grows");
        }
        let check = &self.check;
        writeln!(text, "[runbooks.{check}]\nevery = \"2s\"\n[runbooks.{check}.settings]\n{settings}")
            .expect("text grows");
        self.lab.ok(&["mkdir", "-p", "/etc/malachor/catalog"]);
        self.lab.write(CONFIG, &text, 0o644);
    }

    /// Starts the agent and takes its public keys out.
    pub(crate) fn start(&mut self) {
        self.lab.ok(&["systemctl", "daemon-reload"]);
        let started = self.lab.run(&["systemctl", "start", "malachor.service"]);
        assert!(started.status.success(), "{}", self.story());
        if self.keys.is_empty() {
            self.keys = ["entry.vkey", "head.vkey"].map(|key| self.lab.read(&format!("{STATE}/keys/{key}"))).to_vec();
        }
    }

    pub(crate) fn stop(&self) {
        self.lab.ok(&["systemctl", "stop", "malachor.service"]);
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.lab.run(&[&["malachor"], args].concat())
    }

    pub(crate) fn ok(&self, args: &[&str]) -> String {
        self.lab.ok(&[&["malachor"], args].concat())
    }

    /// Runs a command that must end with a status, and gives what it said about it.
    pub(crate) fn fails(&self, status: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {said}");
        said
    }

    /// The plan an incident's open question is about, as a person names it.
    pub(crate) fn plan_in_question(&self, incident: &Value) -> String {
        let shown = self.json(&["incident", "show", incident["id"].as_str().expect("an id")]);
        let open = shown[0]["approvals"].as_array().expect("approvals").iter().find(|one| one["state"] == "pending");
        open.expect("an open question")["plan_sha256"].as_str().expect("a hash")[..8].to_owned()
    }

    fn json(&self, args: &[&str]) -> Vec<Value> {
        let text = self.ok(&[&["--json"], args].concat());
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// All incidents, newest first.
    pub(crate) fn incidents(&self) -> Vec<Value> {
        self.json(&["incident", "list", "--all"]).into_iter().map(|line| line["incident"].clone()).collect()
    }

    /// The statements of all action entries, oldest first.
    pub(crate) fn actions(&self) -> Vec<Value> {
        let listed = self.json(&["evidence", "list", "--limit", "1000"]);
        let actions = listed.iter().filter(|entry| entry["kind"] == "action");
        actions
            .map(|entry| {
                let shown = self.json(&["evidence", "show", &entry["seq"].to_string()]);
                shown[0]["statement"]["predicate"].clone()
            })
            .collect()
    }

    /// The outcomes of all action entries, oldest first.
    pub(crate) fn outcomes(&self) -> Vec<String> {
        self.actions().iter().map(|action| action["outcome"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits until something holds.
    pub(crate) fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < PATIENCE, "{what} did not happen\n{}", self.story());
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Waits until the newest incident stands so, and returns it.
    pub(crate) fn until_newest_is(&self, state: &str) -> Value {
        self.until_incident(1, state)
    }

    /// Waits until there are `count` incidents and the newest stands so.
    pub(crate) fn until_incident(&self, count: usize, state: &str) -> Value {
        let there = || {
            let incidents = self.incidents();
            incidents.len() >= count && incidents.first().is_some_and(|newest| newest["state"] == state)
        };
        self.until(&format!("incident {count} {state}"), there);
        self.incidents().swap_remove(0)
    }

    /// Waits until the check was looked at anew, twice.
    pub(crate) fn look_twice() {
        std::thread::sleep(Duration::from_secs(6));
    }

    /// Waits until the agent has seen this check pass.
    pub(crate) fn until_passes(&self) {
        let passes = || {
            self.json(&["evidence", "list", "--limit", "1000"])
                .iter()
                .rev()
                .find(|entry| entry["kind"] == "check")
                .is_some_and(|entry| entry["outcome"] == "pass" || entry["outcome"] == "warn")
        };
        self.until("a pass", passes);
    }

    /// The log verifies on the appliance, and its export verifies outside with the keys taken out at the start.
    pub(crate) fn proves(&self) {
        let inside = self.run(&["evidence", "verify"]);
        assert_eq!(inside.status.code(), Some(0), "{}", String::from_utf8_lossy(&inside.stdout));
        self.lab.ok(&["rm", "-rf", "/root/handed-over"]);
        self.ok(&["evidence", "export", "--out", "/root/handed-over"]);
        let outside = tempfile::tempdir().expect("a temporary directory");
        let packed = self.lab.run(&["tar", "-C", "/root/handed-over", "-c", "."]).stdout;
        let archive = outside.path().join("export.tar");
        std::fs::write(&archive, packed).expect("it can be written");
        let files = outside.path().join("files");
        std::fs::create_dir(&files).expect("a directory");
        let unpacked = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&files).status();
        assert!(unpacked.expect("tar starts").success());
        holds(&files, &self.keys);
    }

    /// What happened, for a person who has to find out why a test failed.
    pub(crate) fn story(&self) -> String {
        let say = |argv: &[&str]| String::from_utf8_lossy(&self.lab.run(argv).stdout).into_owned();
        format!(
            "{}\n{}\n{}",
            say(&["journalctl", "-u", "malachor.service", "--no-pager", "-o", "cat", "-n", "60"]),
            say(&["malachor", "incident", "list", "--all"]),
            say(&["malachor", "evidence", "list"]),
        )
    }
}

fn holds(export: &Path, keys: &[String]) {
    let mut trust = Trust::default();
    for key in keys {
        trust.add_key(key).expect("a public key");
    }
    let report = verify(&Input::one(export), &trust, Options::default());
    assert_eq!(report.exit_code(), 0, "{}", report.text());
}

/// A runbook over [`FACTS`], healed by `steps` (lines of YAML), with what `remediate` says besides.
pub(crate) fn runbook(id: &str, remediate: &str, steps: &str) -> String {
    format!(
        "id: {id}
title: The file says so
hipaa: [\"164.312(b)\"]
severity: low
target: host
detect: {{ every: 1h, timeout: 5s, exec: [cat, {FACTS}] }}
expect:
  - {{ that: facts.state == \"good\", reason: not_good, say: \"It says {{{{ facts.state }}}}\" }}
remediate:
  tiers: [L1, L3]
  settle: 0s
  within: 0s
  snapshot: [ {{ files: [{FACTS}] }} ]
  {remediate}
  steps:
{steps}
rollback: [ {{ restore: snapshot }} ]
"
    )
}

/// The step that heals [`FACTS`].
pub(crate) const WRITE_GOOD: &str =
    "    - file: { path: /etc/practice/facts.json, content: '{\"state\": \"good\"}', mode: \"0644\" }";

/// The rule that runs it, with so many attempts.
pub(crate) fn rule(id: &str, attempts: u32) -> String {
    format!(
        "rules:
  - id: L1-TEST
    priority: 1
    when: check == \"{id}\" and \"not_good\" in reasons
    run: {id}
    cooldown: 1s
    max_attempts: {attempts}
"
    )
}
