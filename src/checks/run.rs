//! From a runbook's `detect` to an [`Observation`], whatever goes wrong on the way.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::domain::finding::{Observation, Problem, ProblemKind};
use crate::domain::runbook::{FactSource, Runbook};
use crate::host::{Cmd, Host, HostError};

/// The fact with what a collector remembers from run to run; it stays where a run learns nothing.
pub(super) const HISTORY: &str = "history";

/// What a collector is given.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The machine.
    pub host: &'a Host,
    /// The runbook's settings, complete and checked.
    pub settings: &'a Map<String, Value>,
    /// Now, for ages.
    pub now: Timestamp,
    /// What the agent knows about itself (queue, database, version), for its own health; null for every other check.
    pub own: &'a Value,
    /// What the same check found last time, for what only shows as a change; `None` at the first run.
    pub before: Option<Before<'a>>,
}

/// The facts of an earlier run of the same check on the same target.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    /// When they were read.
    pub at: Timestamp,
    /// As read then; facts that were unknown then are not in it.
    pub facts: &'a Value,
}

impl<'a> Context<'a> {
    /// A setting that is text; `None` where it is null.
    pub fn text(&self, setting: &str) -> Option<&'a str> {
        self.settings.get(setting).and_then(Value::as_str)
    }

    /// A setting that is a whole number.
    pub fn number(&self, setting: &str) -> Option<i64> {
        self.settings.get(setting).and_then(Value::as_i64)
    }

    /// A setting that is on or off; off where it is not there.
    pub fn flag(&self, setting: &str) -> bool {
        self.settings.get(setting).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A setting that is a list of text.
    pub fn list(&self, setting: &str) -> Vec<&'a str> {
        self.settings.get(setting).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Whole seconds from `then` to now; negative where `then` lies ahead.
    pub fn seconds_since(&self, then: Timestamp) -> i64 {
        self.now.duration_since(then).as_secs()
    }
}

/// Facts in the making: a fact is set, or why it could not be.
#[derive(Debug, Default)]
pub struct Facts {
    facts: Map<String, Value>,
    problems: Vec<Problem>,
}

impl Facts {
    /// Sets a fact.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// Sets a fact from a result, or notes why it is not known.
    pub fn learn<T: Into<Value>>(&mut self, name: &str, result: Result<T, HostError>) {
        match result {
            Ok(value) => self.set(name, value),
            Err(error) => self.fail(name, &error),
        }
    }

    /// Notes why a fact is not known; nothing may set it.
    pub fn fail(&mut self, name: &str, error: &HostError) {
        self.problem(name, error.kind(), error.to_string());
    }

    /// Notes one obstacle for those of several facts that are not set.
    pub fn fail_all(&mut self, names: &[&str], error: &HostError) {
        for name in names {
            if !self.facts.contains_key(*name) {
                self.fail(name, error);
            }
        }
    }

    /// Notes an obstacle in words.
    pub fn problem(&mut self, fact: &str, kind: ProblemKind, say: impl Into<String>) {
        self.problems.push(Problem { fact: fact.to_owned(), kind, say: say.into() });
    }
}

impl From<Facts> for Observation {
    fn from(facts: Facts) -> Self {
        Self { facts: Value::Object(facts.facts), problems: facts.problems }
    }
}

/// Runs a runbook's `detect` within its deadline. Never fails: what could not be learned is a problem.
pub async fn observe(runbook: &Runbook, context: Context<'_>) -> Observation {
    let mut observation = look(runbook, context).await;
    let remembered = context.before.and_then(|before| before.facts.get(HISTORY));
    if let (Value::Object(facts), Some(history)) = (&mut observation.facts, remembered) {
        facts.entry(HISTORY).or_insert_with(|| history.clone());
    }
    observation
}

async fn look(runbook: &Runbook, context: Context<'_>) -> Observation {
    let work = match &runbook.detect.source {
        // A program has this deadline itself, and is stopped at it.
        FactSource::Exec(argv) => return from_program(argv, runbook.detect.timeout, context).await,
        FactSource::Collector(name) => super::linux::collect(name, context),
    };
    match tokio::time::timeout(runbook.detect.timeout, work).await {
        Ok(observation) => observation,
        Err(_) => Observation::nothing(
            ProblemKind::Timeout,
            format!("no facts within {} s", runbook.detect.timeout.as_secs()),
        ),
    }
}

async fn from_program(argv: &[String], timeout: std::time::Duration, context: Context<'_>) -> Observation {
    let cmd = Cmd::new(argv.iter().cloned()).timeout(timeout);
    let what = cmd.line();
    let facts = match context.host.run_ok(cmd).await {
        Ok(output) => output.json(&what),
        Err(error) => Err(error),
    };
    match facts {
        Ok(Value::Object(facts)) => Observation { facts: Value::Object(facts), problems: Vec::new() },
        Ok(_) => Observation::nothing(ProblemKind::Garbage, format!("{what}: printed JSON that is not an object")),
        Err(error) => Observation::nothing(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::catalog::Catalog;

    #[test]
    fn what_is_remembered_outlives_a_run_that_learns_nothing() {
        let catalog = Catalog::load(None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let facts = json!({"history": [{"at": "2026-03-02T11:00:00Z", "value": 1}], "failed": []});
        let context = Context {
            host: &Host::recorded(dir.path(), BTreeMap::new()),
            settings: &Map::new(),
            now: "2026-03-02T12:00:00Z".parse().unwrap(),
            own: &Value::Null,
            before: Some(Before { at: "2026-03-02T11:00:00Z".parse().unwrap(), facts: &facts }),
        };
        let runbook = &catalog.runbooks[&"RB-SERVICE-001".parse().unwrap()];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let observation = runtime.block_on(observe(runbook, context));
        assert_eq!(observation.facts, json!({"history": facts["history"]}), "and nothing else of the last run");
    }
}
