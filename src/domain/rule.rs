//! L1: a condition over an incident, and the runbook to run with which parameters. First match wins.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::expr::{Answer, Expr, Scope};
use super::finding::Finding;
use super::id::{CheckId, RuleId};

/// The names a rule's condition may speak of.
pub const RULE_NAMES: &[&str] = &["check", "target", "reasons", "facts"];

/// One deterministic rule.
#[derive(Debug)]
pub struct Rule {
    /// Its id.
    pub id: RuleId,
    /// Lower comes first.
    pub priority: u32,
    /// When it matches.
    pub when: Expr,
    /// The runbook to run.
    pub run: CheckId,
    /// Parameters: JSON values, or expressions written as `= facts.units`.
    pub with: BTreeMap<String, Argument>,
    /// Pause after an attempt.
    pub cooldown: Duration,
    /// Attempts until a person is asked.
    pub max_attempts: u32,
    /// Examples the rule must match or leave alone.
    pub tests: Vec<RuleExample>,
    /// The check it is for, where its condition says so in an `and` of its own.
    pub for_check: Option<CheckId>,
}

/// A parameter of a rule.
#[derive(Debug)]
pub enum Argument {
    /// A value as written.
    Value(Value),
    /// A value computed from the incident.
    Computed(Expr),
}

/// An incident a rule must match or leave alone.
#[derive(Debug)]
pub struct RuleExample {
    /// What it shows.
    pub name: String,
    /// The check.
    pub check: CheckId,
    /// Words of the reasons.
    pub reasons: Vec<String>,
    /// Facts.
    pub facts: Value,
    /// Whether the rule must match.
    pub matches: bool,
}

/// All rules, indexed by the check they are for, so that a decision looks only at those that can match.
#[derive(Debug, Default)]
pub struct Rules {
    ordered: Vec<Rule>,
    by_check: BTreeMap<CheckId, Vec<usize>>,
    general: Vec<usize>,
}

/// What the rules are asked about.
#[derive(Debug)]
pub struct Question {
    check: CheckId,
    scope: Scope,
}

impl Question {
    /// Asks about a finding.
    pub fn about(finding: &Finding) -> Self {
        let reasons: Vec<&str> = finding.failing_words().collect();
        Self::new(&finding.check, finding.target.as_str(), &reasons, finding.observation.facts.clone())
    }

    /// Asks about an example.
    pub fn example(example: &RuleExample) -> Self {
        let reasons: Vec<&str> = example.reasons.iter().map(String::as_str).collect();
        Self::new(&example.check, "host", &reasons, example.facts.clone())
    }

    fn new(check: &CheckId, target: &str, reasons: &[&str], facts: Value) -> Self {
        let scope = Scope::new([
            ("check", json!(check.as_str())),
            ("target", json!(target)),
            ("reasons", json!(reasons)),
            ("facts", facts),
        ]);
        Self { check: check.clone(), scope }
    }
}

impl Rules {
    /// Orders rules by priority, then id, and indexes them.
    pub fn new(mut rules: Vec<Rule>) -> Self {
        rules.sort_by(|a, b| (a.priority, &a.id).cmp(&(b.priority, &b.id)));
        let (mut by_check, mut general) = (BTreeMap::<CheckId, Vec<usize>>::new(), Vec::new());
        for (index, rule) in rules.iter().enumerate() {
            match &rule.for_check {
                Some(check) => by_check.entry(check.clone()).or_default().push(index),
                None => general.push(index),
            }
        }
        Self { ordered: rules, by_check, general }
    }

    /// All rules in order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.ordered.iter()
    }

    /// The rule with this id.
    pub fn get(&self, id: &RuleId) -> Option<&Rule> {
        self.ordered.iter().find(|rule| rule.id == *id)
    }

    /// The first rule that matches; a condition that cannot be told does not match.
    pub fn choose(&self, question: &Question) -> Option<&Rule> {
        let own = self.by_check.get(&question.check).map_or(&[][..], Vec::as_slice);
        merged(own, &self.general).filter_map(|index| self.ordered.get(index)).find(|rule| rule.matches(question))
    }
}

impl Rule {
    /// Whether it matches.
    pub fn matches(&self, question: &Question) -> bool {
        self.for_check.as_ref().is_none_or(|check| *check == question.check)
            && self.when.eval(&question.scope) == Answer::True
    }

    /// The parameters it gives, computed ones evaluated.
    pub fn arguments(&self, question: &Question) -> Result<Map<String, Value>, String> {
        let mut arguments = Map::new();
        for (name, argument) in &self.with {
            let value = match argument {
                Argument::Value(value) => value.clone(),
                Argument::Computed(expr) => expr
                    .eval_json(&question.scope)
                    .map_err(|answer| format!("parameter `{name}` = {} has no value: {answer:?}", expr.source()))?,
            };
            arguments.insert(name.clone(), value);
        }
        Ok(arguments)
    }
}

/// The check a condition is for, if it is a plain `and` with `check == "…"` as one of its parts.
///
/// Sound because it only speaks where the condition has no `or`, no `not` and no parentheses around that part.
pub fn check_of(condition: &str) -> Option<CheckId> {
    if condition.split_whitespace().any(|word| matches!(word, "or" | "not" | "if" | "else")) {
        return None;
    }
    condition.split(" and ").find_map(|part| {
        let literal = part.trim().strip_prefix("check")?.trim_start().strip_prefix("==")?.trim();
        let quote = literal.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        literal.strip_prefix(quote)?.strip_suffix(quote)?.parse().ok()
    })
}

/// Two ascending index lists as one.
fn merged<'a>(a: &'a [usize], b: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    let (mut a, mut b) = (a.iter().copied().peekable(), b.iter().copied().peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some(left), Some(right)) if left > right => b.next(),
        (Some(_), _) => a.next(),
        (None, _) => b.next(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_check_of_a_condition_is_only_read_where_it_is_certain() {
        let check = |text| check_of(text).map(String::from);
        assert_eq!(check(r#"check == "RB-BACKUP-001" and "stale" in reasons"#).as_deref(), Some("RB-BACKUP-001"));
        assert_eq!(check("check == 'RB-BACKUP-001'").as_deref(), Some("RB-BACKUP-001"));
        assert_eq!(check(r#"check == "RB-BACKUP-001" or true"#), None);
        assert_eq!(check(r#"not check == "RB-BACKUP-001""#), None);
        assert_eq!(check(r#"(check == "RB-BACKUP-001")"#), None);
        assert_eq!(check(r#""stale" in reasons"#), None);
    }

    fn rule(number: usize, priority: u32, check: Option<usize>, word: usize) -> Rule {
        let condition = match check {
            Some(check) => format!("check == \"RB-C{check}-001\" and \"w{word}\" in reasons"),
            None => format!("\"w{word}\" in reasons"),
        };
        Rule {
            id: format!("L1-{number}").parse().unwrap(),
            priority,
            for_check: check_of(&condition),
            when: Expr::compile(&condition, RULE_NAMES).unwrap(),
            run: "RB-C0-001".parse().unwrap(),
            with: BTreeMap::new(),
            cooldown: Duration::from_secs(1),
            max_attempts: 1,
            tests: Vec::new(),
        }
    }

    proptest! {
        /// The index changes nothing but the time it takes.
        #[test]
        fn the_index_agrees_with_trying_every_rule(
            specs in proptest::collection::vec((0u32..4, proptest::option::of(0usize..3), 0usize..3), 0..20),
            check in 0usize..3, words in proptest::collection::vec(0usize..3, 0..3),
        ) {
            let rules = Rules::new(specs.iter().enumerate().map(|(n, (p, c, w))| rule(n, *p, *c, *w)).collect());
            let example = RuleExample {
                name: String::new(), check: format!("RB-C{check}-001").parse().unwrap(),
                reasons: words.iter().map(|word| format!("w{word}")).collect(), facts: json!({}), matches: true,
            };
            let question = Question::example(&example);
            let naive = rules.iter().find(|rule| rule.when.eval(&question.scope) == Answer::True).map(|rule| rule.id.clone());
            prop_assert_eq!(rules.choose(&question).map(|rule| rule.id.clone()), naive);
        }
    }
}
