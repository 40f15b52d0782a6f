//! A state directory, a configuration and a small catalogue of their own for one test of the program.

use std::process::{Command, Output};

use tempfile::TempDir;

/// A place of its own for one test: a state directory and a configuration.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
}

impl Place {
    pub(crate) fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let text = format!("[site]\nid = \"clinic\"\n[agent]\nstate_dir = {:?}\n{config}", state.display().to_string());
        std::fs::write(dir.path().join("malachor.toml"), text).unwrap();
        Self { dir }
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let config = self.dir.path().join("malachor.toml");
        program(&[&["--config", config.to_str().unwrap()], args].concat())
    }

    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}{}", stderr(&output), stdout(&output));
        stdout(&output)
    }

    /// Changes the configuration.
    pub(crate) fn configure(&self, from: &str, to: &str) {
        let path = self.dir.path().join("malachor.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
    }

    /// Adds to the end of the configuration.
    pub(crate) fn append(&self, more: &str) {
        let path = self.dir.path().join("malachor.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}{more}")).unwrap();
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

/// Changes the file check or the rules of the catalogue, whichever holds `from`.
pub(crate) fn change(place: &Place, from: &str, to: &str) {
    for file in ["catalog/file.yaml", "catalog/rules.yaml"] {
        let path = place.dir.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        if text.contains(from) {
            std::fs::write(&path, text.replace(from, to)).unwrap();
            return;
        }
    }
    panic!("no `{from}` in the catalogue");
}

pub(crate) fn program(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_malachor")).args(args).env("COLUMNS", "100").output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A check of a file's content, healed by writing it.
const RUNBOOK: &str = r#"
id: RB-TEST-FILE-001
title: The file says so
hipaa: ["164.312(b)"]
severity: low
target: host
detect: { every: 1h, timeout: 5s, exec: [cat, "FACTS"] }
expect:
  - that: facts.state == "good"
    reason: not_good
    say: "It says {{ facts.state }}"
remediate:
  disruptive: false
  tiers: [L1, L3]
  snapshot: [ { files: ["FACTS"] } ]
  steps: [ { file: { path: "FACTS", content: '{"state": "good"}', mode: "0644" } } ]
rollback: [ { restore: snapshot } ]
tests:
  - { name: good, facts: { state: good }, verdict: pass }
  - { name: bad, facts: { state: bad }, verdict: fail, reasons: [not_good] }
"#;

const RULES: &str = r#"
rules:
  - id: L1-FILE
    priority: 1
    when: check == "RB-TEST-FILE-001" and "not_good" in reasons
    run: RB-TEST-FILE-001
    cooldown: 1s
    max_attempts: 2
"#;

/// A place whose catalogue has the file check, with the file saying `state`.
pub(crate) fn with_file(mode: &str, state: &str) -> Place {
    let place = Place::new("");
    let facts = place.write("facts.json", &format!("{{\"state\": \"{state}\"}}"));
    place.write("catalog/file.yaml", &RUNBOOK.replace("FACTS", &facts));
    place.write("catalog/rules.yaml", RULES);
    let catalog = place.dir.path().join("catalog");
    let state_dir = place.dir.path().join("state");
    let config = format!(
        "[site]\nid = \"clinic\"\n[agent]\nstate_dir = {state_dir:?}\n[heal]\nmode = \"{mode}\"\n[catalog]\ndir = {catalog:?}\n"
    );
    place.write("malachor.toml", &config);
    place.ok(&["keys", "init"]);
    place
}

pub(crate) const FILE: &str = "RB-TEST-FILE-001";

pub(crate) fn facts(place: &Place) -> String {
    std::fs::read_to_string(place.dir.path().join("facts.json")).unwrap()
}
