//! From the written rule to the compiled one.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::domain::expr::Expr;
use crate::domain::id::CheckId;
use crate::domain::rule::{Argument, Question, RULE_NAMES, Rule, RuleExample, check_of};
use crate::domain::runbook::Runbook;
use crate::domain::schema::nearest;

use super::load::Known;
use super::runbook::Compiler;
use super::source::RuleSource;

impl Compiler<'_> {
    pub(super) fn rule(&mut self, source: &RuleSource, runbooks: &Known<'_>) -> Option<Rule> {
        let id = self.parse(&source.id, str::parse);
        let when = self.expr(&source.when, RULE_NAMES);
        let cooldown = self.duration(&source.cooldown);
        if source.max_attempts.value == 0 {
            self.complain(&source.max_attempts, "`max_attempts` is at least 1");
        }
        let run: Option<CheckId> = self.parse(&source.run, str::parse);
        if let Some(run) = &run {
            match runbooks.get(run) {
                None => self.complain(&source.run, unknown(run.as_str(), runbooks)),
                Some(runbook) if runbook.remediate.is_none() => {
                    self.complain(&source.run, format!("`{run}` has no `remediate`: only a person may act on it"));
                }
                Some(runbook) => self.arguments_fit(source, runbook),
            }
        }
        for check in checks_named(&source.when.value) {
            if !runbooks.keys().any(|known| known.as_str() == check) {
                self.complain(&source.when, unknown(check, runbooks));
            }
        }
        let with = source.with.iter().filter_map(|(name, value)| {
            let argument = match value.value.as_str().and_then(|text| text.strip_prefix("= ")) {
                None => Argument::Value(value.value.clone()),
                Some(text) => match Expr::compile(text, RULE_NAMES) {
                    Ok(expr) => Argument::Computed(expr),
                    Err(error) => {
                        self.complain(value, error.to_string());
                        return None;
                    }
                },
            };
            Some((name.clone(), argument))
        });
        let with: BTreeMap<String, Argument> = with.collect();
        let tests: Vec<RuleExample> = source
            .tests
            .iter()
            .filter_map(|test| {
                Some(RuleExample {
                    name: test.name.clone(),
                    check: test
                        .check
                        .parse()
                        .map_err(|error: crate::domain::id::BadId| self.complain(&source.id, error.to_string()))
                        .ok()?,
                    reasons: test.reasons.clone(),
                    facts: test.facts.clone(),
                    matches: test.matches,
                })
            })
            .collect();
        let rule = Rule {
            id: id?,
            priority: source.priority,
            for_check: check_of(&source.when.value),
            when: when?,
            run: run?,
            with,
            cooldown: cooldown?,
            max_attempts: source.max_attempts.value,
            tests,
        };
        if matches_anything(&rule) {
            self.complain(
                &source.when,
                "this condition holds for an incident without check and reasons, so for every one",
            );
        }
        Some(rule)
    }

    /// Whether the runbook has these parameters, and takes what is written; what is computed is checked when it is known.
    fn arguments_fit(&mut self, source: &RuleSource, runbook: &Runbook) {
        let mut literals = Map::new();
        for (name, value) in &source.with {
            if !runbook.params.fields().any(|(known, _)| known == name) {
                self.complain(value, format!("`{}` has no parameter `{name}`", runbook.id));
                return;
            }
            if !is_computed(&value.value) {
                literals.insert(name.clone(), value.value.clone());
            }
        }
        let Err(error) = runbook.params.check(&literals) else { return };
        match source.with.get(&error.field) {
            Some(value) if is_computed(&value.value) => {}
            Some(value) => self.complain(value, error.message),
            None => self.complain(&source.run, format!("`{}`: parameter {}", runbook.id, error.message)),
        }
    }
}

fn is_computed(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.starts_with("= "))
}

fn unknown(run: &str, runbooks: &Known<'_>) -> String {
    let near = nearest(run, runbooks.keys().map(|id| id.as_str()));
    let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    format!("no runbook is called `{run}`{hint}")
}

/// The texts in a condition that look like a runbook's id.
fn checks_named(condition: &str) -> impl Iterator<Item = &str> {
    let quoted = |quote: char| condition.split(quote).skip(1).step_by(2);
    quoted('"').chain(quoted('\'')).filter(|text| text.starts_with("RB-") && !text.contains(char::is_whitespace))
}

/// Asks the rule about an incident that cannot be: whatever matches it matches everything.
fn matches_anything(rule: &Rule) -> bool {
    let Ok(check) = "RB-NONE-000".parse::<CheckId>() else { return true };
    let nothing = RuleExample { name: String::new(), check, reasons: Vec::new(), facts: Value::Null, matches: false };
    let something = RuleExample {
        name: String::new(),
        check: nothing.check.clone(),
        reasons: vec!["x".to_owned()],
        facts: json!({}),
        matches: false,
    };
    rule.matches(&Question::example(&nothing)) || rule.matches(&Question::example(&something))
}
