//! `malachor baseline`: what was accepted as right, and how what was found differs from it.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::domain::baseline::{self, Difference, acceptable, differences};
use crate::domain::id::{CheckId, Target};
use crate::heal::people;
use crate::shown;

use super::output::{Printer, Tint};
use super::session::{Session, readable};
use super::{Exit, Failure};

/// Baselines.
#[derive(Debug, Subcommand)]
pub(super) enum Baseline {
    /// List the checks that compare, and what was accepted for them
    List,
    /// Show how what was found last differs from what was accepted
    Show(Show),
    /// Accept what was found last as right
    ///
    /// Read `malachor baseline show` first: this accepts all of it. The decision enters the log with name and reason.
    Accept(Accept),
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[arg(value_name = "CHECK")]
    check: CheckId,
}

#[derive(Debug, Args)]
pub(super) struct Accept {
    #[arg(value_name = "CHECK")]
    check: CheckId,
    /// Why it is right
    #[arg(long)]
    reason: String,
    /// Who decides [default: the user behind sudo]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl Baseline {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        match self {
            Self::List => list(session),
            Self::Show(show) => show.run(session),
            Self::Accept(accept) => accept.run(session),
        }
    }
}

impl Show {
    fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        session.block_on(async {
            let app = session.app()?;
            let runbook = people::comparable(&app, &self.check)?;
            let (check, target) = (self.check.clone(), Target::host());
            let known = app.store.read(move |tx| Ok((tx.finding(&check, &target)?, tx.baseline(&check, &target)?)));
            let (found, accepted) = known.await?;
            let Some(found) = found else {
                return Err(unseen(&self.check, "nothing was looked at yet"));
            };
            let facts = acceptable(&found.finding.observation.facts, &runbook.detect.baseline)
                .map_err(|why| unseen(&self.check, &why))?;
            let none = Map::new();
            let different = differences(&facts, accepted.as_ref().map_or(&none, |accepted| &accepted.facts));
            let at = found.finding.observed_at;
            if session.out.is_json() {
                session.out.json(&json!({
                    "schema": "malachor.baseline_diff/1", "check": self.check, "found_at": at.to_string(),
                    "version": accepted.as_ref().map(|accepted| accepted.version), "differences": different,
                }));
            } else {
                for one in &different {
                    print(session.out, one);
                }
                let against = accepted.as_ref().map_or_else(
                    || "nothing was accepted yet".to_owned(),
                    |accepted| format!("against version {}, accepted by {}", accepted.version, accepted.accepted_by),
                );
                session.out.note(format!("{} differences, found {at}, {against}", different.len()));
            }
            Ok(if different.is_empty() { Exit::Ok } else { Exit::Found })
        })
    }
}

impl Accept {
    fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let who = session.who(self.by.as_deref())?;
        readable("--reason", &self.reason)?;
        let accepted = session.block_on(async {
            let app = session.app()?;
            app.ready().await?;
            Ok(people::accept_baseline(&app, &self.check, &self.reason, &who).await?)
        })?;
        if session.out.is_json() {
            session.out.json(&as_json(&self.check, Some(&accepted)));
            return Ok(Exit::Ok);
        }
        let (check, version, sha256) = (&accepted.check, accepted.version, &accepted.sha256);
        session.out.line(format!("{check} version {version} accepted by {who}, sha256 {sha256}"));
        Ok(Exit::Ok)
    }
}

fn as_json(check: &CheckId, accepted: Option<&baseline::Baseline>) -> Value {
    json!({
        "schema": "malachor.baseline/1", "check": check, "version": accepted.map(|accepted| accepted.version),
        "accepted_at": accepted.map(|accepted| accepted.accepted_at.to_string()),
        "accepted_by": accepted.map(|accepted| &accepted.accepted_by),
        "reason": accepted.map(|accepted| &accepted.reason), "sha256": accepted.map(|accepted| &accepted.sha256),
    })
}

fn list(session: &Session<'_>) -> Result<Exit, Failure> {
    session.block_on(async {
        let app = session.app()?;
        let mut rows = vec![["CHECK", "VERSION", "ACCEPTED", "BY", "REASON"].map(str::to_owned).to_vec()];
        for runbook in app.checks().filter(|runbook| !runbook.detect.baseline.is_empty()) {
            let check = runbook.id.clone();
            let accepted = app.store.read(move |tx| tx.baseline(&check, &Target::host())).await?;
            if session.out.is_json() {
                session.out.json(&as_json(&runbook.id, accepted.as_ref()));
            }
            rows.push(accepted.map_or_else(
                || vec![runbook.id.to_string(), "none".to_owned()],
                |accepted| {
                    vec![
                        runbook.id.to_string(),
                        accepted.version.to_string(),
                        accepted.accepted_at.to_string(),
                        accepted.accepted_by,
                        accepted.reason,
                    ]
                },
            ));
        }
        if !session.out.is_json() {
            session.out.table(&rows);
        }
        Ok(Exit::Ok)
    })
}

fn print(out: &Printer, one: &Difference<'_>) {
    let key = shown::piece(one.key);
    let text = |value: &Value| shown::piece(&value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let line = match (one.accepted, one.found) {
        (Some(was), Some(is)) => {
            out.tint(Tint::Doubt, &format!("~ {key}\n    was {}\n    is  {}", text(was), text(is)))
        }
        (Some(was), None) => out.tint(Tint::Bad, &format!("- {key}\n    was {}", text(was))),
        (None, is) => {
            let is = is.map_or_else(String::new, text);
            out.tint(Tint::Good, &format!("+ {key}\n    is  {is}"))
        }
    };
    out.line(line);
}

fn unseen(check: &CheckId, why: &str) -> Failure {
    Failure::usage(&format!("{check}: {why}; run `malachor check run {check}` first"))
}
