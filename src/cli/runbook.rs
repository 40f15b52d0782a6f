//! `malachor runbook`: list, show, lint, test.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::catalog::{Catalog, Mismatch, run_examples};
use crate::domain::id::CheckId;
use crate::domain::runbook::{FactSource, Runbook as Compiled};
use crate::domain::time::show_duration;

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
    /// Files
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
    describe(session.out, &catalog, runbook);
    Ok(Exit::Ok)
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
        let catalog = session.catalog()?;
        let mut exit = Exit::Ok;
        for file in &self.files {
            let name = file.display().to_string();
            match catalog.lint(&name, &read(file)?) {
                Ok(what) => session.out.line(format!("{name}: {what} is sound")),
                Err(mistakes) => {
                    exit = Exit::Found;
                    session.out.raw(&mistakes.to_string());
                }
            }
        }
        Ok(exit)
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .map_err(|error| Failure::new(Exit::Unavailable, format!("{}: {error}", file.display())))
}

impl Test {
    fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let catalog = session.catalog()?;
        let mut exit = Exit::Ok;
        let mut test = |runbook: &Compiled| {
            let (count, wrong) = run_examples(runbook);
            exit = exit.max(report(session.out, runbook.id.as_str(), count, &wrong));
        };
        if self.which.is_empty() {
            catalog.runbooks.values().for_each(&mut test);
        }
        for which in &self.which {
            match which.parse::<CheckId>().ok().and_then(|id| catalog.runbooks.get(&id)) {
                Some(runbook) => test(runbook),
                None => test(&catalog.runbook_from(which, &read(Path::new(which))?)?),
            }
        }
        Ok(exit)
    }
}

/// Says how examples came out; none at all is nothing to go by.
pub(super) fn report(out: &Printer, id: &str, count: usize, wrong: &[Mismatch]) -> Exit {
    if count == 0 {
        out.line(format!("? {id}: has no examples"));
        return Exit::NotEnough;
    }
    for mismatch in wrong {
        out.line(format!("✖ {id}: {}: expected {}, found {}", mismatch.example, mismatch.expected, mismatch.found));
    }
    if wrong.is_empty() {
        out.line(format!("✔ {id}: {count} examples"));
        Exit::Ok
    } else {
        Exit::Found
    }
}
