//! What would be done about a recorded machine, for the tests of what runbooks do.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::fixture::{Tree, now};
use crate::catalog::Catalog;
use crate::domain::finding::{Class, Finding, Observation};
use crate::domain::id::{RecordId, RecordKind, Target};
use crate::domain::incident::Incident;
use crate::domain::plan::{Origin, Plan, PlannedStep};
use crate::domain::planning::{self, Basis, Choice};
use crate::domain::rule::Question;
use crate::domain::runbook::Severity;
use crate::domain::tier::Tier;

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| Catalog::load(None).unwrap_or_else(|error| panic!("{error}")));

impl Tree {
    /// The plan of the first rule that matches what is found here; else what stands in its way.
    pub(super) fn plan(&self, id: &str, settings: &Value) -> Result<Plan, Vec<String>> {
        by_rule(&self.finding(id, settings), settings)
    }
}

/// The plan of the first rule that matches facts as they stand in a runbook's examples.
pub(super) fn plan_for(id: &str, settings: &Value, facts: Value) -> Result<Plan, Vec<String>> {
    let runbook = &CATALOG.runbooks[&id.parse().unwrap()];
    let complete = runbook.settings.check(settings.as_object().unwrap()).unwrap();
    let seen = Observation { facts, problems: Vec::new() };
    by_rule(&runbook.judge(&Target::host(), seen, &complete, now()), settings)
}

fn by_rule(finding: &Finding, settings: &Value) -> Result<Plan, Vec<String>> {
    let question = Question::about(finding);
    let rule = CATALOG.rules.choose(&question).ok_or_else(|| vec!["no rule".to_owned()])?;
    let params = rule.arguments(&question).map_err(|why| vec![why])?;
    let runbook = &CATALOG.runbooks[&rule.run];
    // A rule may run another runbook than the check's: then its settings are the defaults.
    let given = if runbook.id == finding.check { settings.as_object().cloned().unwrap() } else { Map::new() };
    let settings = runbook.settings.shown(&runbook.settings.check(&given).unwrap());
    let incident = incident(finding, runbook.severity);
    let basis = Basis { incident: &incident, finding, settings: &settings };
    let params = runbook.params.check(&params).unwrap();
    let unmet = planning::unmet(runbook.remediate.as_ref().unwrap(), basis, &params);
    if !unmet.is_empty() {
        return Err(unmet);
    }
    let choice = Choice { tier: Tier::L1, origin: Origin::Rule(rule.id.clone()), reason: String::new(), params };
    planning::make(runbook, basis, choice).map_err(|error| vec![error.to_string()])
}

fn incident(finding: &Finding, severity: Severity) -> Incident {
    let id = RecordId::new(RecordKind::Incident, [7; 8]);
    Incident::opened(id, finding, "0".repeat(32).parse().unwrap(), (severity, Class::Drift), now())
}

/// Each step in one line.
pub(super) fn lines(plan: Result<Plan, Vec<String>>) -> Vec<String> {
    plan.unwrap().steps.iter().map(PlannedStep::line).collect()
}
