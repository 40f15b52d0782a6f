//! `malachor runbook`: list, show, lint, test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::catalog::{BYTES, Catalog, Diagnostic, Mismatch, is_yaml, run_examples};
use crate::config::text_of;
use crate::domain::id::CheckId;
use crate::domain::runbook::{Expectation, FactSource, Runbook as Compiled};
use crate::domain::schema::{Field, Schema};
use crate::domain::time::show_duration;
use crate::shown;

use super::output::Printer;
use super::session::Session;
use super::{Exit, Failure};

/// Runbooks.
#[derive(Debug, Subcommand)]
pub(super) enum Runbook {
    /// List all runbooks
    List,
    /// Show one: what it looks at, expects, does and undoes
    Show {
        /// The runbook
        id: CheckId,
    },
    /// Check files of runbooks or rules, and point at every mistake
    Lint(Lint),
    /// Run a runbook's own examples against recorded facts
    Test(Test),
}

#[derive(Debug, Args)]
pub(super) struct Lint {
    /// Files, checked together: a rule may name a runbook of another one
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Test {
    /// Runbook ids, or files [default: all runbooks]
    #[arg(value_name = "ID|FILE")]
    which: Vec<String>,
}

impl Runbook {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        match self {
            Self::List => list(session),
            Self::Show { id } => show(session, &id),
            Self::Lint(lint) => lint.run(session),
            Self::Test(test) => test.run(session),
        }
    }
}

fn list(session: &Session<'_>) -> Result<Exit, Failure> {
    let catalog = session.catalog()?;
    let mut rows = vec![["RUNBOOK", "TARGET", "SEVERITY", "HEALS", "TITLE"].map(str::to_owned).to_vec()];
    for runbook in catalog.runbooks.values() {
        let heals = match &runbook.remediate {
            None => "person".to_owned(),
            Some(remediate) => remediate.tiers.iter().map(|tier| tier.word()).collect::<Vec<_>>().join(" "),
        };
        if session.out.is_json() {
            session.out.json(&json!({
                "schema": "malachor.runbook/1", "id": runbook.id, "title": runbook.title, "target": runbook.platform,
                "severity": runbook.severity, "hipaa": runbook.hipaa, "sha256": runbook.sha256, "heals": heals,
            }));
        }
        rows.push(vec![
            runbook.id.to_string(),
            runbook.platform.word().to_owned(),
            runbook.severity.word().to_owned(),
            heals,
            runbook.title.clone(),
        ]);
    }
    if !session.out.is_json() {
        session.out.table(&rows);
    }
    Ok(Exit::Ok)
}

fn show(session: &Session<'_>, id: &CheckId) -> Result<Exit, Failure> {
    let catalog = session.catalog()?;
    let runbook = catalog.runbooks.get(id).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("no runbook is called `{id}`; see `malachor runbook list`"))
    })?;
    if session.out.is_json() {
        session.out.json(&detail(runbook));
    } else {
        describe(session.out, &catalog, runbook);
    }
    Ok(Exit::Ok)
}

/// All there is to know about a runbook, for programs.
fn detail(runbook: &Compiled) -> Value {
    let fields = |schema: &Schema| -> Vec<Value> {
        let field = |(name, field): (&str, &Field)| json!({"name": name, "default": field.default(), "secret": field.secret, "help": field.help});
        schema.fields().map(field).collect()
    };
    let expectations = |list: &[Expectation]| -> Vec<Value> {
        let one =
            |one: &Expectation| json!({"that": one.that.source(), "level": one.level.word(), "reason": one.reason});
        list.iter().map(one).collect()
    };
    let source = match &runbook.detect.source {
        FactSource::Collector(name) => json!({"collector": name}),
        FactSource::Exec(argv) => json!({"exec": argv}),
    };
    let remediate = runbook.remediate.as_ref().map(|remediate| {
        json!({
            "tiers": remediate.tiers.iter().map(|tier| tier.word()).collect::<Vec<_>>(), "disruptive": remediate.disruptive,
            "approval": remediate.approval, "steps": remediate.steps.len(), "rollback_steps": remediate.rollback.len(),
        })
    });
    json!({
        "schema": "malachor.runbook_detail/1", "id": runbook.id, "title": runbook.title, "why": runbook.why,
        "target": runbook.platform, "severity": runbook.severity, "hipaa": runbook.hipaa, "sha256": runbook.sha256,
        "every": show_duration(runbook.detect.every), "timeout": show_duration(runbook.detect.timeout), "source": source,
        "applies": expectations(&runbook.applies), "expect": expectations(&runbook.expect),
        "settings": fields(&runbook.settings), "params": fields(&runbook.params), "remediate": remediate,
    })
}

fn describe(out: &Printer, catalog: &Catalog, runbook: &Compiled) {
    out.line(format!("{}  {}", runbook.id, runbook.title));
    out.line(format!("  {}", runbook.why));
    out.line(format!(
        "  severity {}, on {}, sha256 {}",
        runbook.severity.word(),
        runbook.platform.word(),
        runbook.sha256
    ));
    for citation in &runbook.hipaa {
        let title = catalog.controls.get(citation).map_or("", |control| control.title.as_str());
        out.line(format!("  45 CFR {citation}  {title}"));
    }
    let source = match &runbook.detect.source {
        FactSource::Collector(name) => format!("collector {name}"),
        FactSource::Exec(argv) => argv.join(" "),
    };
    let (every, timeout) = (show_duration(runbook.detect.every), show_duration(runbook.detect.timeout));
    out.line(format!("looks    every {every}, at most {timeout}: {source}"));
    for expectation in &runbook.applies {
        out.line(format!("applies  {}", expectation.that.source()));
    }
    for expectation in &runbook.expect {
        out.line(format!(
            "expects  {}  [{} {}]",
            expectation.that.source(),
            expectation.level.word(),
            expectation.reason
        ));
    }
    for (name, field) in runbook.settings.fields() {
        out.line(format!("setting  {name} = {}  {}", field.default(), field.help));
    }
    for (name, field) in runbook.params.fields() {
        out.line(format!("param    {name} = {}  {}", field.default(), field.help));
    }
    match &runbook.remediate {
        None => out.line("heals    no: a person has to act"),
        Some(remediate) => {
            let tiers = remediate.tiers.iter().map(|tier| tier.word()).collect::<Vec<_>>().join(", ");
            let kind = match (remediate.disruptive, remediate.approval) {
                (true, true) => "disruptive, needs approval",
                (true, false) => "disruptive, in a maintenance window",
                (false, true) => "needs approval",
                (false, false) => "at any time",
            };
            let undo = if remediate.rollback.is_empty() { "not undone" } else { "undone if it does not help" };
            out.line(format!("heals    {tiers}; {kind}; {} steps; {undo}", remediate.steps.len()));
        }
    }
}

impl Lint {
    fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let given = session.catalog_or_built_in()?.given(read(&self.files)?);
        let mut exit = Exit::Ok;
        for (file, said) in &given.files {
            exit = exit.max(if said.is_ok() { Exit::Ok } else { Exit::Found });
            if session.out.is_json() {
                let mistakes = said.as_ref().err().map_or(&[][..], |mistakes| &mistakes.0);
                let mistake =
                    |one: &Diagnostic| json!({"line": one.line, "column": one.column, "message": one.message});
                session.out.json(&json!({
                    "schema": "malachor.lint/1", "file": file, "sound": said.is_ok(), "holds": said.as_ref().ok(),
                    "mistakes": mistakes.iter().map(mistake).collect::<Vec<_>>(),
                }));
                continue;
            }
            match said {
                Ok(what) => session.out.line(format!("{}: {what} is sound", shown::piece(file))),
                Err(mistakes) => session.out.raw(&mistakes.to_string()),
            }
        }
        Ok(exit)
    }
}

/// Reads files of content, by name; what is no file of content is one error, at once.
pub(super) fn read(files: &[PathBuf]) -> Result<BTreeMap<String, String>, Failure> {
    let one = |file: &PathBuf| {
        let name = file.display().to_string();
        let failed = |why: String| Failure::new(Exit::Unavailable, format!("{}: {why}", shown::piece(&name)));
        Ok((name.clone(), text_of(file, BYTES).map_err(failed)?))
    };
    files.iter().map(one).collect()
}

/// Splits arguments into those that may be ids and those that name files.
pub(super) fn ids_and_files(which: &[String]) -> (Vec<&String>, Vec<PathBuf>) {
    let is_file = |name: &str| name.contains('/') || is_yaml(Path::new(name)) || Path::new(name).is_file();
    let (files, ids): (Vec<&String>, Vec<&String>) = which.iter().partition(|name| is_file(name));
    (ids, files.into_iter().map(PathBuf::from).collect())
}

impl Test {
    fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let (ids, files) = ids_and_files(&self.which);
        let catalog =
            if ids.is_empty() && !files.is_empty() { session.catalog_or_built_in()? } else { session.catalog()? };
        let given = catalog.given(read(&files)?).sound()?;
        let mut chosen: Vec<&Compiled> = given.runbooks.values().collect();
        for id in ids {
            let known = id.parse::<CheckId>().ok().and_then(|id| catalog.runbooks.get(&id));
            chosen.push(known.ok_or_else(|| {
                Failure::new(
                    Exit::Usage,
                    format!("no runbook is called `{id}`, and no file; see `malachor runbook list`"),
                )
            })?);
        }
        if self.which.is_empty() {
            chosen.extend(catalog.runbooks.values());
        }
        if chosen.is_empty() {
            return Err(Failure::new(
                Exit::Usage,
                "these files hold no runbook; rules are tested by `malachor rule test`",
            ));
        }
        let outcome = |runbook: &&Compiled| {
            let (count, wrong) = run_examples(runbook);
            report(session.out, runbook.id.as_str(), count, &wrong)
        };
        Ok(chosen.iter().map(outcome).max().unwrap_or(Exit::Ok))
    }
}

/// Says how examples came out; none at all is nothing to go by.
pub(super) fn report(out: &Printer, id: &str, count: usize, wrong: &[Mismatch]) -> Exit {
    let exit = match (count, wrong) {
        (0, _) => Exit::NotEnough,
        (_, []) => Exit::Ok,
        (_, [..]) => Exit::Found,
    };
    if out.is_json() {
        let mismatch = |one: &Mismatch| json!({"example": one.example, "expected": one.expected, "found": one.found});
        let wrong: Vec<_> = wrong.iter().map(mismatch).collect();
        out.json(&json!({"schema": "malachor.examples/1", "id": id, "examples": count, "mismatches": wrong}));
        return exit;
    }
    if count == 0 {
        out.line(format!("? {id}: has no examples"));
    }
    for Mismatch { example, expected, found } in wrong {
        let example = shown::piece(example);
        out.line(format!("✖ {id}: {example}: expected {expected}, found {found}"));
    }
    if exit == Exit::Ok {
        out.line(format!("✔ {id}: {count} examples"));
    }
    exit
}
