//! `malachor rule`: list, test.

use clap::Subcommand;
use serde_json::json;

use crate::catalog::run_rule_examples;
use crate::domain::id::RuleId;
use crate::domain::rule::Rule as Compiled;
use crate::domain::time::show_duration;

use super::runbook::{ids_and_files, read, report};
use super::session::Session;
use super::{Exit, Failure};

/// L1 rules.
#[derive(Debug, Subcommand)]
pub(super) enum Rule {
    /// List rules in the order they are tried
    List,
    /// Run the rules' own examples
    Test {
        /// Rules, or files of rules and of runbooks they name [default: all rules]
        #[arg(value_name = "ID|FILE")]
        which: Vec<String>,
    },
}

impl Rule {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        match self {
            Self::List => list(session),
            Self::Test { which } => test(session, &which),
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
                "cooldown": show_duration(rule.cooldown), "max_attempts": rule.max_attempts,
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

fn test(session: &Session<'_>, which: &[String]) -> Result<Exit, Failure> {
    let (ids, files) = ids_and_files(which);
    let catalog =
        if ids.is_empty() && !files.is_empty() { session.catalog_or_built_in()? } else { session.catalog()? };
    let given = catalog.given(read(&files)?).sound()?;
    let mut chosen: Vec<&Compiled> = given.rules.iter().collect();
    for id in ids {
        let known = id.parse::<RuleId>().ok().and_then(|id| catalog.rules.get(&id));
        chosen.push(known.ok_or_else(|| {
            Failure::new(Exit::Usage, format!("no rule is called `{id}`, and no file; see `malachor rule list`"))
        })?);
    }
    if which.is_empty() {
        chosen.extend(catalog.rules.iter());
    }
    if chosen.is_empty() && !which.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "these files hold no rule; runbooks are tested by `malachor runbook test`",
        ));
    }
    let outcome = |rule: &&Compiled| {
        let (count, wrong) = run_rule_examples(rule);
        report(session.out, rule.id.as_str(), count, &wrong)
    };
    Ok(chosen.iter().map(outcome).max().unwrap_or(Exit::Ok))
}
