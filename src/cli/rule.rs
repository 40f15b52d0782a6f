//! `malachor rule`: list, test.

use clap::Subcommand;
use serde_json::json;

use crate::catalog::run_rule_examples;
use crate::domain::id::RuleId;
use crate::domain::time::show_duration;

use super::runbook::report;
use super::session::Session;
use super::{Exit, Failure};

/// L1 rules.
#[derive(Debug, Subcommand)]
pub(super) enum Rule {
    /// List rules in the order they are tried
    List,
    /// Run the rules' own examples
    Test {
        /// Rules [default: all]
        ids: Vec<RuleId>,
    },
}

impl Rule {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        match self {
            Self::List => list(session),
            Self::Test { ids } => test(session, &ids),
        }
    }
}

fn list(session: &Session<'_>) -> Result<Exit, Failure> {
    let catalog = session.catalog()?;
    let mut rows = vec![["PRIORITY", "RULE", "RUNS", "PAUSE", "ATTEMPTS", "WHEN"].map(str::to_owned).to_vec()];
    for rule in catalog.rules.iter() {
        if session.out.is_json() {
            session.out.json(&json!({
                "schema": "malachor.rule/1", "id": rule.id, "priority": rule.priority, "when": rule.when.source(), "run": rule.run,
                "cooldown": show_duration(rule.cooldown), "maxAttempts": rule.max_attempts,
            }));
        }
        rows.push(vec![
            rule.priority.to_string(),
            rule.id.to_string(),
            rule.run.to_string(),
            show_duration(rule.cooldown),
            rule.max_attempts.to_string(),
            rule.when.source().to_owned(),
        ]);
    }
    if !session.out.is_json() {
        session.out.table(&rows);
    }
    Ok(Exit::Ok)
}

fn test(session: &Session<'_>, ids: &[RuleId]) -> Result<Exit, Failure> {
    let catalog = session.catalog()?;
    if let Some(unknown) = ids.iter().find(|id| catalog.rules.get(id).is_none()) {
        return Err(Failure::new(Exit::Usage, format!("no rule is called `{unknown}`; see `malachor rule list`")));
    }
    let mut exit = Exit::Ok;
    for rule in catalog.rules.iter().filter(|rule| ids.is_empty() || ids.contains(&rule.id)) {
        let (count, wrong) = run_rule_examples(rule);
        exit = exit.max(report(session.out, rule.id.as_str(), count, &wrong));
    }
    Ok(exit)
}
