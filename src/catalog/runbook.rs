//! From the written runbook to the compiled one; every complaint points at its place.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use serde_saphyr::Spanned;

use crate::domain::control::Controls;
use crate::domain::expr::{Expr, Text};
use crate::domain::finding::Verdict;
use crate::domain::runbook::COLLECTORS;
use crate::domain::runbook::{
    Action, Detect, EnvValue, Example, Expectation, FactSource, Prerequisite, Remediate, Runbook, Snapshot, Step,
};
use crate::domain::schema::{Field, FieldSource, Schema, nearest};
use crate::domain::time::parse_duration;

use super::Diagnostic;
use super::source::{
    DetectSource, ExampleSource, ExpectSource, Level, RemediateSource, RunbookSource, SnapshotSource, StepSource,
};

const SETTINGS: &str = "settings.";
const JUDGING: &[&str] = &["facts", "settings"];
const ACTING: &[&str] = &["facts", "settings", "params"];
const ACTING_EACH: &[&str] = &["facts", "settings", "params", "item"];

/// Line and column of a value.
pub(super) fn place_of<T>(at: &Spanned<T>) -> (usize, usize) {
    (usize_of(at.referenced.line()), usize_of(at.referenced.column()))
}

/// Collects complaints while compiling one file.
pub(super) struct Compiler<'a> {
    file: &'a str,
    text: &'a str,
    complaints: Vec<Diagnostic>,
    /// `settings.NAME` of every secret setting.
    secrets: Vec<String>,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, complaints: Vec::new(), secrets: Vec::new() }
    }

    /// The value, or all complaints.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, Vec<Diagnostic>> {
        match value {
            Some(value) if self.complaints.is_empty() => Ok(value),
            _ => Err(self.complaints),
        }
    }

    pub(super) fn complain<T>(&mut self, at: &Spanned<T>, message: impl Into<String>) {
        self.complaints.push(Diagnostic::at(self.file, self.text, place_of(at), message));
    }

    /// Parses a value with its own `FromStr`-like function.
    pub(super) fn parse<T, E: std::fmt::Display>(
        &mut self,
        at: &Spanned<String>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        parse(&at.value).map_err(|error| self.complain(at, error.to_string())).ok()
    }

    pub(super) fn duration(&mut self, at: &Spanned<String>) -> Option<Duration> {
        self.parse(at, |text| {
            parse_duration(text).ok_or_else(|| format!("`{text}` is not a duration; write 30s, 5m, 26h or 30d"))
        })
    }

    fn duration_or(&mut self, at: Option<&Spanned<String>>, default: u64) -> Option<Duration> {
        at.map_or(Some(Duration::from_secs(default)), |at| self.duration(at))
    }

    /// A pause; `0s` is none.
    fn pause_or(&mut self, at: Option<&Spanned<String>>, default: u64) -> Option<Duration> {
        match at {
            Some(at) if at.value == "0s" => Some(Duration::ZERO),
            at => self.duration_or(at, default),
        }
    }

    pub(super) fn expr(&mut self, at: &Spanned<String>, names: &[&str]) -> Option<Expr> {
        self.parse(at, |text| Expr::compile(text, names))
    }

    fn text(&mut self, at: &Spanned<String>, names: &[&str]) -> Option<Text> {
        let text = self.parse(at, |text| Text::compile(text, names))?;
        // What is looked up by a computed name shows as the whole table.
        let whole = SETTINGS.trim_end_matches('.');
        let mentions = |secret: &&String| text.paths().any(|path| path == secret.as_str() || path == whole);
        if let Some(secret) = self.secrets.iter().find(mentions) {
            let message = format!("`{secret}` is secret: it may only be the whole value of a variable in `env`");
            self.complain(at, message);
        }
        Some(text)
    }

    pub(super) fn runbook(&mut self, source: RunbookSource, sha256: String, controls: &Controls) -> Option<Runbook> {
        let id = self.parse(&source.id, str::parse);
        for citation in &source.hipaa {
            if let Err(message) = controls.check(&citation.value) {
                self.complain(citation, message);
            }
        }
        if source.hipaa.is_empty() {
            self.complain(&source.id, "`hipaa` names no citation; every runbook says what it is for");
        }
        let settings = self.schema(source.settings);
        let params = self.schema(source.params);
        self.secrets = settings.iter().flat_map(Schema::fields).filter(|(_, field)| field.secret).map(secret).collect();
        if params.iter().flat_map(Schema::fields).any(|(_, field)| field.secret) {
            self.complain(&source.id, "a parameter is shown in plans; only a setting can be `secret`");
        }
        let detect = self.detect(&source.detect);
        if source.expect.value.is_empty() {
            self.complain(&source.expect, "`expect` is empty; a check without expectations would always pass");
        }
        let applies = self.each(&source.applies, Self::applies);
        let expect = self.each(&source.expect.value, Self::expectation);
        let remediate = source.remediate.map(|remediate| self.remediate(remediate, &source.rollback));
        let settings = settings?;
        let tests = self.each(&source.tests, |compiler, example| compiler.example(example, &settings));
        Some(Runbook {
            id: id?,
            title: source.title,
            why: source.why,
            hipaa: source.hipaa.into_iter().map(|citation| citation.value).collect(),
            severity: source.severity,
            platform: source.target,
            sha256,
            settings,
            detect: detect?,
            applies: applies?,
            expect: expect?,
            confirm: source.confirm.max(1),
            params: params?,
            remediate: match remediate {
                Some(remediate) => Some(remediate?),
                None => None,
            },
            tests: tests?,
        })
    }

    fn each<S, T>(&mut self, sources: &[S], mut compile: impl FnMut(&mut Self, &S) -> Option<T>) -> Option<Vec<T>> {
        // All are compiled before any failure counts, so that all complaints are shown at once.
        let compiled: Vec<Option<T>> = sources.iter().map(|source| compile(self, source)).collect();
        compiled.into_iter().collect()
    }

    fn schema(&mut self, source: BTreeMap<String, Spanned<FieldSource>>) -> Option<Schema> {
        let places: BTreeMap<String, Spanned<FieldSource>> = source.clone();
        let fields = source.into_iter().map(|(name, field)| (name, field.value)).collect();
        match Schema::compile(fields) {
            Ok(schema) => Some(schema),
            Err(error) => {
                if let Some(at) = places.get(&error.field) {
                    self.complain(at, error.message);
                }
                None
            }
        }
    }

    fn detect(&mut self, source: &Spanned<DetectSource>) -> Option<Detect> {
        let every = self.duration(&source.value.every);
        let timeout = self.duration(&source.value.timeout);
        let facts = match (&source.value.collector, &source.value.exec) {
            (Some(name), None) if COLLECTORS.contains(&name.value.as_str()) => {
                Some(FactSource::Collector(name.value.clone()))
            }
            (Some(name), None) => {
                let near = nearest(&name.value, COLLECTORS.iter().copied());
                let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
                self.complain(name, format!("no collector is called `{}`{hint}", name.value));
                None
            }
            (None, Some(argv)) if !argv.is_empty() => Some(FactSource::Exec(argv.clone())),
            _ => {
                self.complain(source, "`detect` needs exactly one of `collector` or `exec: [program, arguments…]`");
                None
            }
        };
        Some(Detect { every: every?, timeout: timeout?, source: facts?, baseline: source.value.baseline.clone() })
    }

    fn applies(&mut self, source: &ExpectSource) -> Option<Expectation> {
        self.expectation(source).map(|expectation| Expectation { level: Verdict::NotApplicable, ..expectation })
    }

    fn expectation(&mut self, source: &ExpectSource) -> Option<Expectation> {
        if !is_reason(&source.reason.value) {
            self.complain(&source.reason, "a reason is one stable word: lower case letters, digits and `_`");
        }
        let that = self.expr(&source.that, JUDGING);
        let when = source.when.as_ref().map(|when| self.expr(when, JUDGING));
        if let Some(that) = &that
            && !that.mentions("facts")
        {
            self.complain(&source.that, "an expectation speaks of `facts`; this one would not look at anything");
        }
        let say = self.text(&source.say, JUDGING);
        Some(Expectation {
            that: that?,
            when: match when {
                Some(when) => Some(when?),
                None => None,
            },
            reason: source.reason.value.clone(),
            say: say?,
            level: match source.level {
                Level::Fail => Verdict::Fail,
                Level::Warn => Verdict::Warn,
            },
            class: source.class,
        })
    }

    fn remediate(&mut self, source: RemediateSource, rollback: &[Spanned<StepSource>]) -> Option<Remediate> {
        if source.steps.value.is_empty() {
            self.complain(&source.steps, "`steps` is empty; leave `remediate` out where only a person may act");
        }
        let settle = self.pause_or(source.settle.as_ref(), 1);
        let within = self.pause_or(source.within.as_ref(), 60);
        let prerequisites = self.each(&source.prerequisites, |compiler, prerequisite| {
            let that = compiler.expr(&prerequisite.that, ACTING);
            let say = compiler.text(&prerequisite.say, ACTING);
            Some(Prerequisite { that: that?, say: say? })
        });
        let snapshot = self.each(&source.snapshot, Self::snapshot);
        let steps = self.each(&source.steps.value, Self::step);
        let rollback = self.each(rollback, Self::step);
        let (snapshot, rollback) = (snapshot?, rollback?);
        if snapshot.is_empty() && rollback.iter().any(|step| matches!(step.action, Action::Restore)) {
            self.complain(&source.steps, "`rollback` restores a snapshot, but `snapshot` keeps nothing");
        }
        Some(Remediate {
            disruptive: source.disruptive,
            approval: source.approval,
            tiers: source.tiers,
            settle: settle?,
            within: within?,
            prerequisites: prerequisites?,
            snapshot,
            steps: steps?,
            rollback,
        })
    }

    fn snapshot(&mut self, source: &Spanned<SnapshotSource>) -> Option<Snapshot> {
        match (&source.value.files, &source.value.units, source.value.nft) {
            (Some(files), None, None) => {
                self.each(files, |compiler, path| compiler.text(path, ACTING)).map(Snapshot::Files)
            }
            (None, Some(units), None) => {
                self.each(units, |compiler, unit| compiler.text(unit, ACTING)).map(Snapshot::Units)
            }
            (None, None, Some(true)) => Some(Snapshot::Nft),
            _ => {
                self.complain(source, "a snapshot is one of `files: […]`, `units: […]` or `nft: true`");
                None
            }
        }
    }

    fn step(&mut self, source: &Spanned<StepSource>) -> Option<Step> {
        let timeout = self.duration_or(source.value.timeout.as_ref(), 60);
        let names = if source.value.for_each.is_some() { ACTING_EACH } else { ACTING };
        let unless = source.value.unless.as_ref().map(|unless| self.expr(unless, names));
        let for_each = source.value.for_each.as_ref().map(|list| self.expr(list, ACTING));
        let action = self.action(source, names);
        Some(Step {
            action: action?,
            timeout: timeout?,
            unless: match unless {
                Some(unless) => Some(unless?),
                None => None,
            },
            for_each: match for_each {
                Some(list) => Some(list?),
                None => None,
            },
        })
    }

    fn action(&mut self, at: &Spanned<StepSource>, names: &[&str]) -> Option<Action> {
        let step = &at.value;
        if step.exec.is_none() && (step.env_file.is_some() || !step.env.is_empty()) {
            self.complain(at, "`env` and `env_file` go with `exec`");
        }
        match (&step.exec, &step.unit, &step.file, &step.nft_load, step.restore) {
            (Some(argv), None, None, None, None) if !argv.is_empty() => {
                let ok = if step.ok.is_empty() { vec![0] } else { step.ok.clone() };
                let argv = self.each(argv, |compiler, argument| compiler.text(argument, names));
                let env = self.env(&step.env, names);
                let env_file = step.env_file.as_ref().map(|path| self.text(path, names));
                Some(Action::Exec {
                    argv: argv?,
                    ok,
                    env: env?,
                    env_file: match env_file {
                        Some(path) => Some(path?),
                        None => None,
                    },
                })
            }
            (None, Some(unit), None, None, None) if unit.len() == 1 => {
                let (verb, name) = unit.iter().next()?;
                self.text(name, names).map(|unit| Action::Unit { verb: *verb, unit })
            }
            (None, None, Some(file), None, None) => {
                let (path, content) = (self.text(&file.path, names), self.text(&file.content, names));
                let mode = self.parse(&file.mode, parse_mode);
                Some(Action::File { path: path?, content: content?, mode: mode? })
            }
            (None, None, None, Some(load), None) => {
                let file = self.text(&load.file, names);
                let revert_after = self.duration(&load.revert_after);
                Some(Action::NftLoad { file: file?, revert_after: revert_after? })
            }
            (None, None, None, None, Some(_)) => Some(Action::Restore),
            _ => {
                self.complain(
                    at,
                    "a step is exactly one of `exec`, `unit: {verb: name}`, `file`, `nft_load` or `restore: snapshot`",
                );
                None
            }
        }
    }

    fn env(
        &mut self,
        source: &BTreeMap<String, Spanned<String>>,
        names: &[&str],
    ) -> Option<BTreeMap<String, EnvValue>> {
        let sources: Vec<(&String, &Spanned<String>)> = source.iter().collect();
        let compiled = self.each(&sources, |compiler, (name, at)| {
            if !is_variable(name) {
                compiler.complain(
                    at,
                    format!("`{name}` cannot be set: a variable is upper case letters, digits and `_`, and not PATH, LC_ALL or LD_…"),
                );
            }
            let whole = at.value.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")).map(str::trim);
            let setting = whole.filter(|whole| compiler.secrets.iter().any(|secret| secret == whole));
            let value = match setting.and_then(|whole| whole.strip_prefix(SETTINGS)) {
                Some(setting) => EnvValue::Secret(setting.to_owned()),
                None => EnvValue::Plain(compiler.text(at, names)?),
            };
            Some(((*name).clone(), value))
        });
        compiled.map(|pairs| pairs.into_iter().collect())
    }

    fn example(&mut self, source: &ExampleSource, settings: &Schema) -> Option<Example> {
        if !matches!(source.facts, Value::Object(_)) {
            self.complain(&source.name, format!("example `{}`: `facts` is not a table", source.name.value));
        }
        match settings.check(&source.settings) {
            Ok(settings) => Some(Example {
                name: source.name.value.clone(),
                facts: source.facts.clone(),
                settings,
                verdict: source.verdict,
                reasons: source.reasons.clone(),
            }),
            Err(error) => {
                self.complain(&source.name, format!("example `{}`: {error}", source.name.value));
                None
            }
        }
    }
}

fn secret((name, _): (&str, &Field)) -> String {
    format!("{SETTINGS}{name}")
}

/// Names that steer how every program is found or loaded are ours.
fn is_variable(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    let starts = name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
    plain && starts && !name.starts_with("LD_") && !["PATH", "LC_ALL", "HOME"].contains(&name)
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is not a file mode; write it in quotes, for example \"0644\"");
    let mode = u32::from_str_radix(text, 8).map_err(|_| wrong())?;
    if text.len() == 4 && mode <= 0o7777 { Ok(mode) } else { Err(wrong()) }
}

fn is_reason(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn usize_of(number: impl TryInto<usize>) -> usize {
    number.try_into().unwrap_or(0)
}
