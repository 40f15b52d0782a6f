//! Reading all content: what is compiled in, overridden and extended by a directory of the same shape.

use std::collections::{BTreeMap, BTreeSet};
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
use super::runbook::{Compiler, place_of};
use super::source::{RuleSource, RulesSource, RunbookSource, parse};
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

/// Content files: their names for messages, their texts.
pub type Files = BTreeMap<String, String>;

impl Catalog {
    /// Loads what is compiled in, then `dir`, whose runbooks and rules replace those of the same id.
    pub fn load(dir: Option<&Path>) -> Result<Self, Diagnostics> {
        Self::layered(Files::new(), dir)
    }

    /// The same with files of a server between the two: each layer replaces what has the same id below it.
    pub fn layered(server: Files, dir: Option<&Path>) -> Result<Self, Diagnostics> {
        let own = dir.map(directory::read).transpose()?.unwrap_or_default();
        let controls = Controls::parse(CONTROLS)
            .map_err(|error| Diagnostics(vec![Diagnostic::at("hipaa-controls.json", "", (0, 0), error)]))?;
        let (mut runbooks, mut rules) = (BTreeMap::new(), BTreeMap::<String, Rule>::new());
        let (mut complaints, mut replaced) = (Vec::new(), false);
        let layers = [embedded(), server, own];
        let mut ids: Vec<BTreeSet<String>> = Vec::new();
        for files in &layers {
            let given = Given::compile(files.clone(), &controls, &runbooks);
            complaints.extend(given.complaints().cloned());
            replaced |= given.runbooks.keys().any(|id| runbooks.contains_key(id));
            ids.push(given.rules.iter().map(|rule| rule.id.to_string()).collect());
            runbooks.extend(given.runbooks);
            rules.extend(given.rules.into_iter().map(|rule| (rule.id.to_string(), rule)));
        }
        if !complaints.is_empty() {
            return Err(Diagnostics(complaints));
        }
        if replaced {
            for (layer, files) in layers.iter().enumerate() {
                let above: BTreeSet<String> = ids.iter().skip(layer + 1).flatten().cloned().collect();
                still_fit(files, &runbooks, &above)?;
            }
        }
        Ok(Self { controls, runbooks, rules: Rules::new(rules.into_values().collect()) })
    }

    /// Compiles files together, by name and text, as if they were added to this catalogue.
    pub fn given(&self, files: BTreeMap<String, String>) -> Given {
        Given::compile(files, &self.controls, &self.runbooks)
    }
}

/// Whether the rules of a layer that were not replaced can still run the runbooks they name, of which some were.
fn still_fit(
    files: &Files,
    runbooks: &BTreeMap<CheckId, Runbook>,
    replaced: &BTreeSet<String>,
) -> Result<(), Diagnostics> {
    let known: Known<'_> = runbooks.iter().collect();
    let rules = files.iter().filter(|(_, text)| is_rules(text));
    let stays = |rule: &RuleSource| !replaced.contains(&rule.id.value);
    let wrong: Vec<Diagnostic> =
        rules.filter_map(|(file, text)| compile_rules(file, text, &known, stays).err()).flatten().collect();
    if wrong.is_empty() { Ok(()) } else { Err(Diagnostics(wrong)) }
}

/// Files of one origin, compiled together: a rule may name a runbook of another one.
#[derive(Debug, Default)]
pub struct Given {
    /// Their runbooks by id.
    pub runbooks: BTreeMap<CheckId, Runbook>,
    /// Their rules.
    pub rules: Vec<Rule>,
    /// What is in each file, or what is wrong with it.
    pub files: BTreeMap<String, Result<String, Diagnostics>>,
}

impl Given {
    fn compile(files: Files, controls: &Controls, known: &BTreeMap<CheckId, Runbook>) -> Self {
        let mut given = Self::default();
        let mut seen = Seen::default();
        let (rules, runbooks): (Files, Files) = files.into_iter().partition(|(_, text)| is_rules(text));
        for (file, text) in runbooks {
            let compiled = compile_runbook(&file, &text, controls);
            let said = compiled.map(|(runbook, place)| {
                let id = runbook.id.to_string();
                seen.note(&id, &file, &text, place);
                given.runbooks.insert(runbook.id.clone(), runbook);
                id
            });
            given.files.insert(file, said.map_err(Diagnostics));
        }
        let known: Known = known.iter().chain(&given.runbooks).collect();
        for (file, text) in rules {
            let said = compile_rules(&file, &text, &known, |_| true).map(|rules| {
                let count = rules.len();
                for (rule, place) in rules {
                    seen.note(rule.id.as_str(), &file, &text, place);
                    given.rules.push(rule);
                }
                format!("{count} rules")
            });
            given.files.insert(file, said.map_err(Diagnostics));
        }
        for complaint in seen.twice {
            match given.files.get_mut(&complaint.file) {
                Some(Err(found)) => found.0.push(complaint),
                Some(sound) => *sound = Err(Diagnostics(vec![complaint])),
                None => {}
            }
        }
        given
    }

    /// The same, or all that is wrong with it.
    pub fn sound(self) -> Result<Self, Diagnostics> {
        let wrong: Vec<Diagnostic> = self.complaints().cloned().collect();
        if wrong.is_empty() { Ok(self) } else { Err(Diagnostics(wrong)) }
    }

    /// Everything that is wrong, by file.
    pub fn complaints(&self) -> impl Iterator<Item = &Diagnostic> {
        self.files.values().filter_map(|file| file.as_ref().err()).flat_map(|found| &found.0)
    }
}

/// Where each id was defined, and the complaints about those defined more than once, at every place.
#[derive(Default)]
struct Seen {
    places: BTreeMap<String, Diagnostic>,
    twice: Vec<Diagnostic>,
}

impl Seen {
    fn note(&mut self, id: &str, file: &str, text: &str, place: (usize, usize)) {
        let here = |other: &str| Diagnostic::at(file, text, place, format!("`{id}` is defined twice, also in {other}"));
        match self.places.get(id) {
            None => {
                self.places.insert(id.to_owned(), here(file));
            }
            Some(first) => {
                let spot = |file: &str, (line, _): (usize, usize)| format!("{file}:{line}");
                let message = format!("`{id}` is defined twice, also in {}", spot(file, place));
                let mine = here(&spot(&first.file, (first.line, 0)));
                let theirs = Diagnostic { message, ..first.clone() };
                self.twice.extend([theirs, mine]);
            }
        }
    }
}

const BUILT_IN: &str = "built-in/";

/// Runbooks that rules may name; a later one of the same id replaces an earlier one.
pub(super) type Known<'a> = BTreeMap<&'a CheckId, &'a Runbook>;

/// A value and where its id stands.
type Placed<T> = (T, (usize, usize));

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

fn compile_runbook(file: &str, text: &str, controls: &Controls) -> Result<Placed<Runbook>, Vec<Diagnostic>> {
    let source: RunbookSource = parse(file, text).map_err(|complaint| vec![complaint])?;
    let mut compiler = Compiler::new(file, text);
    let place = place_of(&source.id);
    let runbook = compiler.runbook(source, sha256_hex(text.as_bytes()), controls);
    compiler.finish(runbook.map(|runbook| (runbook, place)))
}

fn compile_rules(
    file: &str,
    text: &str,
    runbooks: &Known<'_>,
    wanted: impl Fn(&RuleSource) -> bool,
) -> Result<Vec<Placed<Rule>>, Vec<Diagnostic>> {
    let source: RulesSource = parse(file, text).map_err(|complaint| vec![complaint])?;
    let mut compiler = Compiler::new(file, text);
    let mut compile = |rule| Some((compiler.rule(rule, runbooks)?, place_of(&rule.id)));
    let rules: Vec<Option<Placed<Rule>>> = source.rules.iter().filter(|rule| wanted(rule)).map(&mut compile).collect();
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

    #[test]
    fn a_rule_that_was_replaced_need_not_fit_a_runbook_that_was() {
        let dir = tempfile::tempdir().unwrap();
        let from = |word: &str| disk().find(word).unwrap();
        let by_hand = disk()[..from("remediate:")].to_owned() + &disk()[from("tests:")..];
        std::fs::write(dir.path().join("disk.yaml"), by_hand).unwrap();
        let refused = Catalog::load(Some(dir.path())).unwrap_err().to_string();
        assert!(refused.contains("has no `remediate`") && refused.contains("built-in/rules"), "{refused}");
        let rule = rule("L1-DISK-CLEAN", "when: 'check == \"RB-DISK-002\"', run: RB-LNX-TIME-001");
        std::fs::write(dir.path().join("rules.yaml"), format!("rules:\n{rule}")).unwrap();
        Catalog::load(Some(dir.path())).unwrap_or_else(|error| panic!("{error}"));
    }

    /// What is wrong with files that are linted together.
    fn said(files: &[(&str, &str)]) -> String {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let given = Catalog::load(None).unwrap().given(files);
        Diagnostics(given.complaints().cloned().collect()).to_string()
    }

    fn rule(id: &str, rest: &str) -> String {
        format!("- {{ id: {id}, priority: 1, cooldown: 5m, max_attempts: 1, {rest} }}\n")
    }

    #[test]
    fn one_id_twice_is_an_error_at_both_places() {
        let both = said(&[("a.yaml", disk()), ("b.yaml", disk())]);
        for says in ["--> a.yaml:1:", "--> b.yaml:1:", "`RB-DISK-001` is defined twice, also in b.yaml:1"] {
            assert!(both.contains(says), "{says}: {both}");
        }
        let one = rule("L1-X", "when: 'check == \"RB-DISK-001\"', run: RB-DISK-001");
        let twice = said(&[("r.yaml", &format!("rules:\n{one}{one}"))]);
        assert!(
            twice.contains("r.yaml:2:") && twice.contains("r.yaml:3:") && twice.contains("also in r.yaml:3"),
            "{twice}"
        );
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), disk()).unwrap();
        std::fs::write(dir.path().join("b.yaml"), disk()).unwrap();
        let refused = Catalog::load(Some(dir.path())).unwrap_err().to_string();
        assert!(refused.contains("a.yaml:1:") && refused.contains("b.yaml:1:"), "{refused}");
    }

    #[test]
    fn a_rule_is_held_to_the_runbooks_it_names() {
        let mine = disk().replace("id: RB-DISK-001", "id: RB-MY-001").replace(
            "remediate:\n",
            "params:\n  unit: { type: string, pattern: '[a-z]+', default: x }\n  count: { type: integer, default: 1 }\nremediate:\n",
        );
        let rules = |when: &str, with: &str| {
            format!("rules:\n{}", rule("L1-X", &format!("when: '{when}', run: RB-MY-001, with: {with}")))
        };
        let good = rules("check == \"RB-MY-001\"", "{ unit: abc, count: '= facts.n' }");
        assert_eq!(said(&[("a.yaml", &mine), ("r.yaml", &good)]), "");
        assert!(said(&[("r.yaml", &good)]).contains("no runbook is called `RB-MY-001`"));
        for (when, with, says) in [
            ("check == \"RB-MY-001\"", "{ unit: 'a b' }", "`unit` is `\"a b\"`; expected text that matches"),
            ("check == \"RB-MY-001\"", "{ count: many }", "`count` is `\"many\"`; expected a whole number"),
            ("check == \"RB-MY-010\"", "{}", "no runbook is called `RB-MY-010`; did you mean `RB-MY-001`?"),
            ("\"x\" in reasons and \"RB-DSK-001\" == check", "{}", "did you mean `RB-DISK-001`?"),
            ("check in [\"RB-MY-001\", \"RB-MY-010\"] and \"x\" in reasons", "{}", "no runbook is called `RB-MY-010`"),
        ] {
            let said = said(&[("a.yaml", &mine), ("r.yaml", &rules(when, with))]);
            assert!(said.contains(says) && said.contains("r.yaml:2:"), "{when} {with}: {said}");
        }
    }

    fn lint(text: &str) -> String {
        said(&[("my.yaml", text)])
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
        assert_eq!(said(&[("my.yaml", backup)]), "");
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
