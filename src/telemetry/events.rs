//! What happens, as log line and metric together. Log lines carry ids, words and numbers; never facts, never output.

use crate::domain::finding::{Finding, Posture, Verdict};
use crate::domain::incident::{Incident, IncidentState};
use crate::domain::plan::Plan;

use super::metrics::{CheckLabel, METRICS, Word};

fn word(is: &str) -> Word {
    Word { is: is.to_owned() }
}

/// A check ran; `changed` if its verdict is new.
pub fn checked(finding: &Finding, changed: bool) {
    METRICS.checks.get_or_create(&word(finding.verdict.word())).inc();
    METRICS
        .last_run
        .get_or_create(&CheckLabel { check: finding.check.to_string() })
        .set(finding.observed_at.as_second());
    let (check, verdict) = (finding.check.as_str(), finding.verdict.word());
    match (changed, finding.verdict) {
        (false, _) => tracing::debug!(check, verdict, "{check} still says {verdict}"),
        (true, Verdict::Fail | Verdict::Unknown) => tracing::warn!(check, verdict, "{check} says {verdict}"),
        (true, Verdict::Pass | Verdict::Warn | Verdict::NotApplicable) => {
            tracing::info!(check, verdict, "{check} says {verdict}");
        }
    }
}

/// An incident was opened.
pub fn opened(incident: &Incident) {
    moved(incident);
}

/// An incident was resolved.
pub fn resolved(incident: &Incident) {
    moved(incident);
}

/// An incident moved to another state.
pub fn moved(incident: &Incident) {
    let (id, check, state) = (incident.id.as_str(), incident.check.as_str(), incident.state.word());
    METRICS.incidents.get_or_create(&word(state)).inc();
    match incident.state {
        IncidentState::Escalated | IncidentState::Suppressed => {
            tracing::warn!(incident.id = id, check, state, "{id} ({check}) needs a person: {state}");
        }
        IncidentState::Open
        | IncidentState::Planned
        | IncidentState::WaitingApproval
        | IncidentState::WaitingWindow
        | IncidentState::Healing
        | IncidentState::Verifying
        | IncidentState::Resolved => tracing::info!(incident.id = id, check, state, "{id} ({check}) is {state}"),
    }
}

/// An execution began.
pub fn started(plan: &Plan) {
    let (id, runbook, tier) = (plan.incident.as_str(), plan.runbook.as_str(), plan.tier.word());
    tracing::info!(incident.id = id, runbook, tier, "{runbook} runs for {id}");
}

/// An execution ended.
pub fn ended(plan: &Plan, outcome: &str, incident: &Incident) {
    METRICS.executions.get_or_create(&word(outcome)).inc();
    let (id, runbook, tier, state) =
        (plan.incident.as_str(), plan.runbook.as_str(), plan.tier.word(), incident.state.word());
    tracing::info!(incident.id = id, runbook, tier, outcome, state, "{runbook} for {id}: {outcome}, now {state}");
    moved(incident);
}

/// The posture was counted.
pub fn posture(posture: &Posture) {
    METRICS.score.set(posture.score().map_or(f64::NAN, |percent| f64::from(percent) / 100.0));
}

/// An interrupted execution is brought to an end.
pub fn recovering(plan: &Plan, acted: bool) {
    let (id, runbook) = (plan.incident.as_str(), plan.runbook.as_str());
    tracing::warn!(incident.id = id, runbook, acted, "{runbook} for {id} was interrupted; verifying");
}
