//! `malachor check`: run or list checks.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;

use crate::domain::exception::Exception;
use crate::domain::finding::{Finding, Verdict};
use crate::domain::id::CheckId;
use crate::domain::runbook::Runbook;
use crate::domain::time::show_duration;
use crate::heal::{self, Reach};
use crate::shown;

use super::output::{Printer, Tint, fold};
use super::session::Session;
use super::{Exit, Failure};

/// Checks.
#[derive(Debug, Subcommand)]
pub(super) enum Check {
    /// Run checks now and record what they find; nothing on the host is changed
    Run(Run),
    /// List the checks of this host
    List,
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Checks to run [default: all that are enabled]
    #[arg(value_name = "ID")]
    checks: Vec<CheckId>,
}

impl Check {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        match self {
            Self::Run(run) => run.run(session),
            Self::List => list(session),
        }
    }
}

impl Run {
    fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        session.block_on(async {
            let app = session.app()?;
            app.ready().await?;
            let mut worst = Verdict::NotApplicable;
            for runbook in select(app.checks(), &self.checks)? {
                let run = heal::run_check(&app, runbook, Reach::Record).await?;
                let finding = &run.known.finding;
                let exceptions = app.store.read(|tx| tx.exceptions()).await?;
                let silenced = silencing(&exceptions, finding, runbook, app.clock.now());
                if silenced.is_none() {
                    worst = worst.combine(finding.verdict);
                }
                if session.out.is_json() {
                    session.out.json(&json!({
                        "schema": "malachor.finding/1", "finding": finding, "since": run.known.since,
                        "excepted": silenced.is_some(), "exception": silenced.map(|exception| &exception.id),
                    }));
                } else {
                    print_one(session.out, runbook, finding, silenced);
                }
            }
            Ok(exit_for(worst))
        })
    }
}

/// The exception by which a finding that is not well is out of score and incidents.
fn silencing<'a>(
    exceptions: &'a [Exception],
    finding: &Finding,
    runbook: &Runbook,
    now: Timestamp,
) -> Option<&'a Exception> {
    let accepted = matches!(finding.verdict, Verdict::Fail | Verdict::Warn);
    exceptions
        .iter()
        .filter(|_| accepted)
        .find(|exception| exception.silences() && exception.in_force(now) && exception.covers(finding, &runbook.hipaa))
}

/// 1 for anything failing, 3 for anything unknown, 0 otherwise.
pub(super) fn exit_for(worst: Verdict) -> Exit {
    match worst {
        Verdict::Fail => Exit::Found,
        Verdict::Unknown => Exit::NotEnough,
        Verdict::Warn | Verdict::Pass | Verdict::NotApplicable => Exit::Ok,
    }
}

/// The runbooks asked for, or all.
pub(super) fn select<'a>(
    all: impl Iterator<Item = &'a Runbook>,
    wanted: &[CheckId],
) -> Result<Vec<&'a Runbook>, Failure> {
    let all: Vec<&Runbook> = all.collect();
    if wanted.is_empty() {
        return Ok(all);
    }
    wanted
        .iter()
        .map(|id| {
            all.iter().find(|runbook| runbook.id == *id).copied().ok_or_else(|| {
                Failure::new(
                    Exit::Usage,
                    format!("no enabled check of this host is called `{id}`; see `malachor check list`"),
                )
            })
        })
        .collect()
}

/// One finding with its reasons.
pub(super) fn print_finding(out: &Printer, runbook: &Runbook, finding: &Finding) {
    print_one(out, runbook, finding, None);
}

fn print_one(out: &Printer, runbook: &Runbook, finding: &Finding, silenced: Option<&Exception>) {
    let citations = out.tint(Tint::Faint, &runbook.hipaa.join(", "));
    let verdict = match silenced {
        Some(Exception { id, expires, .. }) => {
            let (verdict, word) = (finding.verdict, finding.verdict.word());
            out.verdict(verdict).replacen(word, &format!("{word} (excepted by {id} until {expires})"), 1)
        }
        None => out.verdict(finding.verdict),
    };
    out.line(format!("{verdict} {:<22} {}  {citations}", runbook.id, shown::piece(&runbook.title)));
    let mut said = std::collections::BTreeSet::new();
    for reason in finding.reasons.iter().filter(|reason| said.insert((reason.verdict.word(), &reason.say))) {
        let mark = out.tint(Tint::Faint, reason.verdict.word());
        out.line(format!("            {mark} {}", fold(&reason.say, 90, "                 ")));
    }
}

fn list(session: &Session<'_>) -> Result<Exit, Failure> {
    let catalog = session.catalog()?;
    let config = session.loaded()?.config;
    let mut rows = vec![["CHECK", "EVERY", "SEVERITY", "HIPAA", "TITLE"].map(str::to_owned).to_vec()];
    for runbook in catalog.runbooks.values() {
        let own = config.runbook(runbook.id.as_str());
        let every = own.every.map_or(runbook.detect.every, |period| period.0);
        if session.out.is_json() {
            session.out.json(&json!({
                "schema": "malachor.check/1", "id": runbook.id, "enabled": own.enabled, "every": show_duration(every),
                "severity": runbook.severity, "hipaa": runbook.hipaa, "title": runbook.title, "target": runbook.platform,
            }));
        }
        rows.push(vec![
            runbook.id.to_string(),
            if own.enabled { show_duration(every) } else { "off".to_owned() },
            runbook.severity.word().to_owned(),
            runbook.hipaa.join(" "),
            runbook.title.clone(),
        ]);
    }
    if !session.out.is_json() {
        session.out.table(&rows);
    }
    Ok(Exit::Ok)
}
