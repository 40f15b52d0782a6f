//! Reading all content: what is compiled in, overridden and extended by a directory of the same shape.

use std::collections::BTreeMap;
use std::path::Path;

use include_dir::{Dir, include_dir};

use crate::crypto::sha256_hex;
use crate::domain::control::Controls;
use crate::domain::finding::Observation;
use crate::domain::id::CheckId;
use crate::domain::id::Target;
use crate::domain::rule::{Question, Rule, Rules};
use crate::domain::runbook::Runbook;

use super::directory::{self, is_yaml};
use super::runbook::Compiler;
use super::source::{RulesSource, RunbookSource, parse};
use super::{Diagnostic, Diagnostics};

/// The runbooks and rules this program was built with.
pub static EMBEDDED: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/runbooks");

const CONTROLS: &str = include_str!("data/hipaa-controls.json");

/// All content, compiled.
#[derive(Debug)]
pub struct Catalog {
    /// The HIPAA catalogue.
    pub controls: Controls,
    /// Runbooks by id.
    pub runbooks: BTreeMap<CheckId, Runbook>,
    /// L1 rules.
    pub rules: Rules,
}

/// One content file: its name for messages, its text.
type Files = BTreeMap<String, String>;

impl Catalog {
    /// Loads what is compiled in, then `dir`, whose files replace those of the same name or id.
    pub fn load(dir: Option<&Path>) -> Result<Self, Diagnostics> {
        let mut files = embedded();
        if let Some(dir) = dir {
            files.extend(directory::read(dir)?);
        }
        Self::compile(&files)
    }

    fn compile(files: &Files) -> Result<Self, Diagnostics> {
        let controls = Controls::parse(CONTROLS)
            .map_err(|error| Diagnostics(vec![Diagnostic::at("hipaa-controls.json", "", (0, 0), error)]))?;
        let mut complaints = Vec::new();
        let mut runbooks: BTreeMap<CheckId, Runbook> = BTreeMap::new();
        for (file, text) in built_in_first(files).filter(|(_, text)| !is_rules(text)) {
            match compile_runbook(file, text, &controls) {
                Ok(runbook) => {
                    if let Some(earlier) = runbooks.insert(runbook.id.clone(), runbook)
                        && file.starts_with(BUILT_IN)
                    {
                        complaints.push(Diagnostic::at(
                            file,
                            text,
                            (1, 1),
                            format!("`{}` is defined twice", earlier.id),
                        ));
                    }
                }
                Err(found) => complaints.extend(found),
            }
        }
        let mut rules: BTreeMap<String, Rule> = BTreeMap::new();
        for (file, text) in built_in_first(files).filter(|(_, text)| is_rules(text)) {
            match compile_rules(file, text, &runbooks) {
                Ok(found) => rules.extend(found.into_iter().map(|rule| (rule.id.to_string(), rule))),
                Err(found) => complaints.extend(found),
            }
        }
        if complaints.is_empty() {
            Ok(Self { controls, runbooks, rules: Rules::new(rules.into_values().collect()) })
        } else {
            Err(Diagnostics(complaints))
        }
    }

    /// Checks one file on its own, as `lint` does; rules are checked against this catalogue's runbooks.
    pub fn lint(&self, file: &str, text: &str) -> Result<String, Diagnostics> {
        if is_rules(text) {
            compile_rules(file, text, &self.runbooks).map(|rules| format!("{} rules", rules.len())).map_err(Diagnostics)
        } else {
            compile_runbook(file, text, &self.controls).map(|runbook| runbook.id.to_string()).map_err(Diagnostics)
        }
    }

    /// A runbook compiled from a file that is not part of this catalogue.
    pub fn runbook_from(&self, file: &str, text: &str) -> Result<Runbook, Diagnostics> {
        compile_runbook(file, text, &self.controls).map_err(Diagnostics)
    }
}

const BUILT_IN: &str = "built-in/";

/// What comes later overrides.
fn built_in_first(files: &Files) -> impl Iterator<Item = (&String, &String)> {
    let built_in = |file: &str| file.starts_with(BUILT_IN);
    let own = files.iter().filter(move |(file, _)| !built_in(file));
    files.iter().filter(move |(file, _)| built_in(file)).chain(own)
}

/// A file is a list of rules if it says so at its top level; any other is a runbook.
fn is_rules(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("rules:"))
}

fn embedded() -> Files {
    let mut files = Files::new();
    let mut dirs = vec![&EMBEDDED];
    while let Some(dir) = dirs.pop() {
        dirs.extend(dir.dirs());
        for file in dir.files().filter(|file| is_yaml(file.path())) {
            let text = file.contents_utf8().unwrap_or_default();
            files.insert(format!("{BUILT_IN}{}", file.path().display()), text.to_owned());
        }
    }
    files
}

fn compile_runbook(file: &str, text: &str, controls: &Controls) -> Result<Runbook, Vec<Diagnostic>> {
    let source: RunbookSource = parse(file, text).map_err(|complaint| vec![complaint])?;
    let mut compiler = Compiler::new(file, text);
    let runbook = compiler.runbook(source, sha256_hex(text.as_bytes()), controls);
    compiler.finish(runbook)
}

fn compile_rules(file: &str, text: &str, runbooks: &BTreeMap<CheckId, Runbook>) -> Result<Vec<Rule>, Vec<Diagnostic>> {
    let source: RulesSource = parse(file, text).map_err(|complaint| vec![complaint])?;
    let mut compiler = Compiler::new(file, text);
    let rules: Vec<Option<Rule>> = source.rules.iter().map(|rule| compiler.rule(rule, runbooks)).collect();
    compiler.finish(rules.into_iter().collect())
}

/// An example that did not come out as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The example's name.
    pub example: String,
    /// What was written.
    pub expected: String,
    /// What came out.
    pub found: String,
}

/// Runs a runbook's own examples: how many there are, and which came out otherwise.
pub fn run_examples(runbook: &Runbook) -> (usize, Vec<Mismatch>) {
    let shown = |verdict: &str, reasons: &[String]| format!("{verdict} [{}]", reasons.join(", "));
    let mut mismatches = Vec::new();
    for example in &runbook.tests {
        let observation = Observation { facts: example.facts.clone(), problems: Vec::new() };
        let finding = runbook.judge(&Target::host(), observation, &example.settings, jiff::Timestamp::UNIX_EPOCH);
        let words: Vec<String> = finding.reasons.iter().map(|reason| reason.word.clone()).collect();
        let (expected, found) =
            (shown(example.verdict.word(), &example.reasons), shown(finding.verdict.word(), &words));
        if expected != found {
            mismatches.push(Mismatch { example: example.name.clone(), expected, found });
        }
    }
    (runbook.tests.len(), mismatches)
}

/// Runs a rule's own examples: how many there are, and which came out otherwise.
pub fn run_rule_examples(rule: &Rule) -> (usize, Vec<Mismatch>) {
    let word = |matches: bool| if matches { "matches" } else { "does not match" }.to_owned();
    let mismatches = rule.tests.iter().filter_map(|example| {
        let found = rule.matches(&Question::example(example));
        (found != example.matches).then(|| Mismatch {
            example: example.name.clone(),
            expected: word(example.matches),
            found: word(found),
        })
    });
    (rule.tests.len(), mismatches.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_compiled_in_loads_and_its_examples_hold() {
        let catalog = Catalog::load(None).unwrap_or_else(|error| panic!("{error}"));
        for runbook in catalog.runbooks.values() {
            let (examples, wrong) = run_examples(runbook);
            assert!(examples >= 2, "{}: a runbook shows at least one passing and one failing example", runbook.id);
            assert_eq!(wrong, [], "{}", runbook.id);
        }
        for rule in catalog.rules.iter() {
            let (examples, wrong) = run_rule_examples(rule);
            assert!(examples >= 2, "{}: a rule shows what it matches and what it leaves alone", rule.id);
            assert_eq!(wrong, [], "{}", rule.id);
        }
    }

    #[test]
    fn a_directory_overrides_what_is_compiled_in_wherever_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("disk.yaml"), disk().replace("severity: high", "severity: low")).unwrap();
        let rule = "rules:\n- { id: L1-DISK-CLEAN, priority: 1, when: 'check == \"RB-DISK-001\" and \"disk_full\" in reasons', run: RB-DISK-001, cooldown: 1s, max_attempts: 1 }\n";
        std::fs::write(dir.path().join("rules.yaml"), rule).unwrap();
        let catalog = Catalog::load(Some(dir.path())).unwrap_or_else(|error| panic!("{error}"));
        let severity = catalog.runbooks.get(&"RB-DISK-001".parse().unwrap()).unwrap().severity;
        assert_eq!(severity, crate::domain::runbook::Severity::Low);
        assert_eq!(catalog.rules.get(&"L1-DISK-CLEAN".parse().unwrap()).unwrap().max_attempts, 1);
    }

    fn lint(text: &str) -> String {
        Catalog::load(None).unwrap().lint("my.yaml", text).unwrap_err().to_string()
    }

    fn disk() -> &'static str {
        EMBEDDED.get_file("linux/RB-DISK-001.yaml").unwrap().contents_utf8().unwrap()
    }

    #[test]
    fn mistakes_are_shown_with_their_place() {
        insta::assert_snapshot!(lint(&disk().replace("severity: high", "severity: hihg")));
        insta::assert_snapshot!(lint(&disk().replace("164.308(a)(1)(ii)(B)", "164.308(a)(1)(ii)(X)")));
        insta::assert_snapshot!(lint(&disk().replace("facts.filesystems |", "fact.filesystems |")));
        insta::assert_snapshot!(lint(&disk().replace("collector: disk", "collector: dsik")));
        insta::assert_snapshot!(lint(&disk().replace("confirm", "x").replace("why:", "wyh:")));
        insta::assert_snapshot!(lint(&disk().replace("every: 5m", "every: 5 minutes")));
    }

    #[test]
    fn a_secret_may_only_be_a_variable_of_its_own() {
        let backup = EMBEDDED.get_file("linux/RB-BACKUP-001.yaml").unwrap().contents_utf8().unwrap();
        assert!(Catalog::load(None).unwrap().lint("my.yaml", backup).is_ok());
        let secret = "`settings.repository` is secret: it may only be the whole value of a variable in `env`";
        for (good, bad, says) in [
            ("[restic, unlock]", "[restic, -r, '{{ settings.repository }}', unlock]", secret),
            ("\"{{ settings.repository }}\"", "\"s3:{{ settings.repository }}\"", secret),
            ("\"{{ settings.repository }}\"", "\"{{ settings['repository'] }}\"", secret),
            ("say: No backup repository is configured", "say: 'not {{ settings.repository }}'", secret),
            ("{ RESTIC_REPOSITORY:", "{ LD_PRELOAD: /x, RESTIC_REPOSITORY:", "`LD_PRELOAD` cannot be set"),
            ("{ RESTIC_REPOSITORY:", "{ restic-repository:", "`restic-repository` cannot be set"),
            ("- unit: { reset_failed", "- env_file: /x\n      unit: { reset_failed", "go with `exec`"),
            ("optional: true, secret: true", "optional: true, secret: 3", "bool"),
        ] {
            let text = backup.replacen(good, bad, 1);
            assert_ne!(text, backup, "{good}");
            let said = lint(&text);
            assert!(said.contains(says), "{bad}: {said}");
        }
    }

    #[test]
    fn hostile_yaml_ends_in_one_error() {
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nid: [*e,*e,*e,*e,*e,*e,*e,*e]\n";
        let deep = format!("id: {}{}", "[".repeat(50_000), "]".repeat(50_000));
        let huge = format!("id: {}", "x".repeat(400_000));
        for text in [
            bomb,
            &deep,
            &huge,
            "",
            "\u{0}",
            "id: RB-DISK-001\nid: RB-DISK-001\n",
            "- 1\n- 2\n",
            "&a a: *a",
            "rules: 5",
            "rules: [{}]",
        ] {
            assert!(lint(text).starts_with("error: "), "{}", &text[..text.len().min(40)]);
        }
    }

    #[test]
    fn a_rule_that_matches_everything_is_refused() {
        for always in ["true", "1 == 1", "\"\" not in reasons", "check != \"RB-DISK-001\"", "reasons | length >= 0", ""]
        {
            let text = format!(
                "rules:\n- {{ id: L1-X, priority: 1, when: '{always}', run: RB-DISK-001, cooldown: 5m, max_attempts: 1 }}\n"
            );
            assert!(lint(&text).contains("when"), "{always}");
        }
    }
}
