//! Baselines: what a named person accepted as right, and how what is found now differs from it.
//!
//! Never the first thing that was seen: until somebody accepts it, there is none, and the check says so.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::finding::{Observation, Problem, ProblemKind};
use super::id::{CheckId, Target};

/// The fact that holds the comparison.
pub const FACT: &str = "baseline";
/// Differences named one by one; beyond it only their number is.
const SHOWN: usize = 40;

/// Facts of a check as a person accepted them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// The check.
    pub check: CheckId,
    /// What it looked at.
    pub target: Target,
    /// 1 for the first, one more for each that replaces it.
    pub version: u32,
    /// The accepted facts by name; each a map from what it is about to what it was.
    pub facts: Map<String, Value>,
    /// SHA-256 of the canonical JSON (RFC 8785) of `facts`, in hexadecimal; stands in the evidence.
    pub sha256: String,
    /// Who accepted it.
    pub accepted_by: String,
    /// When.
    pub accepted_at: Timestamp,
    /// Why it is right.
    pub reason: String,
}

/// Adds the fact [`FACT`]: null where nothing was accepted, else
/// `{version, accepted_at, count, added, removed, changed}`, the last three lists of names.
///
/// Where one of the named facts is not known, neither is the comparison.
pub fn compare(observation: &mut Observation, names: &[String], accepted: Option<&Baseline>) {
    if names.is_empty() {
        return;
    }
    let comparison = acceptable(&observation.facts, names).map(|found| match accepted {
        None => Value::Null,
        Some(baseline) => compared(&found, baseline),
    });
    match (comparison, &mut observation.facts) {
        (Ok(value), Value::Object(facts)) => {
            facts.insert(FACT.to_owned(), value);
        }
        (Ok(_), _) => {}
        (Err(say), _) => {
            // Why the fact is not known is what a person needs to hear.
            let why = observation.problems.iter().find(|problem| names.contains(&problem.fact));
            let (kind, say) = why.map_or((ProblemKind::Unavailable, say), |why| (why.kind, why.say.clone()));
            observation.problems.push(Problem { fact: FACT.to_owned(), kind, say });
        }
    }
}

/// The facts a person would accept now; says which of them is not known.
pub fn acceptable(facts: &Value, names: &[String]) -> Result<Map<String, Value>, String> {
    let known = |name: &String| match facts.get(name) {
        Some(value @ Value::Object(_)) => Ok((name.clone(), value.clone())),
        Some(_) => Err(format!("`{name}` is not a map, so it cannot be compared")),
        None => Err(format!("`{name}` is not known")),
    };
    names.iter().map(known).collect()
}

/// One entry of a fact that is not as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference<'a> {
    /// The fact.
    pub fact: &'a str,
    /// What of it, for example a path.
    pub key: &'a str,
    /// As it was accepted; absent where it is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<&'a Value>,
    /// As it was found; absent where it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<&'a Value>,
}

/// How facts that were found differ from accepted ones, by fact and key.
pub fn differences<'a>(found: &'a Map<String, Value>, accepted: &'a Map<String, Value>) -> Vec<Difference<'a>> {
    let names: BTreeSet<&String> = found.keys().chain(accepted.keys()).collect();
    let mut different = Vec::new();
    for fact in names {
        let (now, then) = (entries(found, fact), entries(accepted, fact));
        let keys: BTreeSet<&&String> = now.keys().chain(then.keys()).collect();
        different.extend(keys.into_iter().filter_map(|key| {
            let (accepted, found) = (then.get(key).copied(), now.get(key).copied());
            (accepted != found).then_some(Difference { fact, key, accepted, found })
        }));
    }
    different
}

fn entries<'a>(facts: &'a Map<String, Value>, fact: &str) -> BTreeMap<&'a String, &'a Value> {
    facts.get(fact).and_then(Value::as_object).into_iter().flatten().collect()
}

fn compared(found: &Map<String, Value>, baseline: &Baseline) -> Value {
    let different = differences(found, &baseline.facts);
    let named = |of: fn(&Difference<'_>) -> bool| -> Vec<&str> {
        different.iter().filter(|one| of(one)).map(|one| one.key).take(SHOWN).collect()
    };
    json!({
        "version": baseline.version,
        "accepted_at": baseline.accepted_at.to_string(),
        "count": different.len(),
        "added": named(|one| one.accepted.is_none()),
        "removed": named(|one| one.found.is_none()),
        "changed": named(|one| one.accepted.is_some() && one.found.is_some()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(files: &Value) -> Baseline {
        Baseline {
            check: "RB-LNX-FIM-001".parse().unwrap(),
            target: Target::host(),
            version: 2,
            facts: Map::from_iter([("files".to_owned(), files.clone())]),
            sha256: String::new(),
            accepted_by: "dana".to_owned(),
            accepted_at: Timestamp::UNIX_EPOCH,
            reason: "installed today".to_owned(),
        }
    }

    fn found(facts: Value, baseline: Option<&Baseline>) -> Observation {
        let mut observation = Observation { facts, problems: Vec::new() };
        compare(&mut observation, &["files".to_owned()], baseline);
        observation
    }

    #[test]
    fn differences_are_named_and_counted() {
        let then = accepted(&json!({"/etc/a": "1", "/etc/b": "2", "/etc/c": "3"}));
        let now = found(json!({"files": {"/etc/a": "1", "/etc/b": "9", "/etc/d": "4"}}), Some(&then));
        let compared = &now.facts[FACT];
        assert_eq!(compared["count"], json!(3));
        assert_eq!(compared["added"], json!(["/etc/d"]));
        assert_eq!(compared["removed"], json!(["/etc/c"]));
        assert_eq!(compared["changed"], json!(["/etc/b"]));
        let same = found(json!({"files": {"/etc/a": "1"}}), Some(&accepted(&json!({"/etc/a": "1"}))));
        assert_eq!(same.facts[FACT]["count"], json!(0));
    }

    #[test]
    fn many_differences_are_counted_whole_and_named_in_part() {
        let now: Map<String, Value> = (0..1000).map(|n| (format!("/etc/{n}"), json!("x"))).collect();
        let compared = found(json!({"files": now}), Some(&accepted(&json!({}))));
        assert_eq!(compared.facts[FACT]["count"], json!(1000));
        assert_eq!(compared.facts[FACT]["added"].as_array().unwrap().len(), SHOWN);
    }

    #[test]
    fn nothing_accepted_is_null_and_nothing_known_is_unknown() {
        assert_eq!(found(json!({"files": {}}), None).facts[FACT], Value::Null);
        assert_eq!(found(json!({}), None).facts.get(FACT), None);
        let lost = found(json!({}), Some(&accepted(&json!({"/etc/a": "1"}))));
        assert_eq!(lost.facts.get(FACT), None);
        assert_eq!(lost.problems[0].fact, FACT);
        let odd = found(json!({"files": 3}), Some(&accepted(&json!({}))));
        assert_eq!(odd.facts.get(FACT), None);
    }
}
