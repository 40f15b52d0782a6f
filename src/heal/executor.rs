//! Running a plan: journalled before each act, verified by the same check, undone if it did not help.

use std::time::Duration;

use serde_json::json;

use crate::app::App;
use crate::domain::finding::{Finding, Verdict};
use crate::domain::id::{RecordId, RecordKind};
use crate::domain::incident::{Incident, IncidentEvent};
use crate::domain::mode::Mode;
use crate::domain::plan::{Applied, Origin, Plan, PlannedStep};
use crate::domain::planning::{self, Basis};
use crate::domain::runbook::{Remediate, Runbook};
use crate::store::{Execution, StoreError, Tx};
use crate::telemetry::events;

use super::HealError;
use super::decide::mode;
use super::journal::{JournalEvent, StepResult};
use super::look::look;
use super::people::KILL_SWITCH;
use super::proof::{Act, plan_detail, plan_sha256};
use super::snapshot::Snapshot;
use super::steps::{self, MARK, StepError, Tools};

/// Pause between two verifications.
const RECHECK: Duration = Duration::from_secs(2);

/// What became of an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The check passes and something was changed.
    Repaired,
    /// The check passes and nothing had to be changed.
    Kept,
    /// It did not help; everything is as it was.
    Undone(String),
    /// It did not help, and there was nothing to undo or undoing failed.
    Failed(String),
    /// It did not start: something changed between deciding and starting.
    NotStarted(String),
}

impl Outcome {
    /// The stored word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Repaired => "repaired",
            Self::Kept => "kept",
            Self::Undone(_) => "undone",
            Self::Failed(_) => "failed",
            Self::NotStarted(_) => "refused",
        }
    }

    /// Whether the check passes now.
    pub fn helped(&self) -> bool {
        matches!(self, Self::Repaired | Self::Kept)
    }
}

/// An execution under way, and how to write about it.
pub(super) struct Run<'a> {
    pub(super) app: &'a App,
    pub(super) id: RecordId,
    pub(super) plan: &'a Plan,
    pub(super) runbook: &'a Runbook,
    pub(super) remediate: &'a Remediate,
    pub(super) before: &'a Finding,
}

/// Runs a plan that all guards let through.
pub(super) async fn execute(app: &App, plan: &Plan, finding: &Finding) -> Result<Outcome, HealError> {
    let Some(runbook) = app.catalog.runbooks.get(&plan.runbook) else {
        return Ok(Outcome::NotStarted(format!("runbook {} is not loaded", plan.runbook)));
    };
    let Some(remediate) = &runbook.remediate else {
        return Ok(Outcome::NotStarted(format!("{} has no remediation", plan.runbook)));
    };
    let Some(_lock) = app.execution_lock(plan)? else {
        return Ok(Outcome::NotStarted("it is already running".to_owned()));
    };
    let id = app.new_id(RecordKind::Execution)?;
    let run = Run { app, id, plan, runbook, remediate, before: finding };
    if let Some(why) = run.begin().await? {
        return Ok(Outcome::NotStarted(why));
    }
    events::started(plan);
    let snapshot = match run.keep().await {
        Ok(snapshot) => snapshot,
        Err(error) => return run.give_up(&[], format!("the snapshot could not be taken: {error}"), false).await,
    };
    run.note(JournalEvent::SnapshotTaken(snapshot.clone())).await?;
    let (results, trouble) = run.steps(&snapshot).await?;
    let proof = match trouble {
        None => {
            run.begin_verifying().await?;
            run.verify().await
        }
        Some(why) => Err(why),
    };
    match proof {
        Ok(after) => run.succeed(&snapshot, &results, after).await,
        Err(why) => run.undo(&snapshot, &results, why).await,
    }
}

impl Run<'_> {
    /// Execution, journal, attempt, incident and the used approval: one transaction, on disk before anything acts.
    async fn begin(&self) -> Result<Option<String>, HealError> {
        let now = self.app.clock.now();
        let (app, plan) = (self.app.clone(), self.plan.clone());
        let execution =
            Execution { id: self.id.clone(), plan: plan.clone(), started_at: now, ended_at: None, outcome: None };
        let check = self.before.check.clone();
        let begun = self
            .app
            .store
            .write(move |tx| {
                if let Some(why) = against(&app, tx, &plan)? {
                    return Ok(Some(why));
                }
                let Some(mut incident) = tx.incident(&plan.incident)? else {
                    return Ok(Some(format!("incident {} is not there", plan.incident)));
                };
                if incident.apply(IncidentEvent::Start, format!("{} is running", plan.runbook), now).is_err() {
                    return Ok(Some(format!("the incident is {}", incident.state.word())));
                }
                debug_assert_eq!(incident.check, check);
                incident.attempts = incident.attempts_with(&plan.runbook_sha256).saturating_add(1);
                incident.attempts_of = Some(plan.runbook_sha256.clone());
                incident.last_attempt_at = Some(now);
                incident.plan = Some(plan.clone());
                tx.put_incident(&incident)?;
                use_approval(tx, &plan)?;
                tx.begin_execution(&execution)?;
                tx.journal(&execution.id, &JournalEvent::Begun, now)?;
                Ok(None)
            })
            .await?;
        Ok(begun)
    }

    async fn keep(&self) -> Result<Snapshot, HealError> {
        let settings = self.app.shown_settings(&self.runbook.id);
        let incident = self.incident().await?;
        let basis = Basis { incident: &incident, finding: self.before, settings };
        let keeps = planning::keeps(self.remediate, basis, &self.plan.params)
            .map_err(|error| HealError::Refused(error.to_string()))?;
        Ok(Snapshot::take(&self.app.host, &keeps).await?)
    }

    pub(super) async fn note(&self, event: JournalEvent) -> Result<(), HealError> {
        let (id, now) = (self.id.clone(), self.app.clock.now());
        Ok(self.app.store.write(move |tx| tx.journal(&id, &event, now)).await?)
    }

    /// Runs the steps until one fails, or somebody throws the kill switch: the step that runs is brought to its end, for
    /// half of it may be worse than all, and then everything is undone.
    async fn steps(&self, snapshot: &Snapshot) -> Result<(Vec<StepResult>, Option<String>), HealError> {
        let mut results = Vec::new();
        for (index, step) in self.plan.steps.iter().enumerate() {
            if let Some(why) = self.stopped().await? {
                return Ok((results, Some(format!("stopped before step {}: {why}", index + 1))));
            }
            self.note(JournalEvent::StepStarted(index)).await?;
            let result = self.step(snapshot, step).await;
            self.note(JournalEvent::StepEnded(index, result.clone())).await?;
            let failed = matches!(&result, StepResult::Failed(_) | StepResult::NotBegun(_));
            results.push(result);
            if failed {
                return Ok((results, Some(format!("step {} failed: {}", index + 1, step.line()))));
            }
        }
        Ok((results, None))
    }

    /// Why nothing may be changed any more, if somebody said so since it began.
    async fn stopped(&self) -> Result<Option<String>, HealError> {
        let (app, plan) = (self.app.clone(), self.plan.clone());
        Ok(self.app.store.read(move |tx| forbidden(&app, tx, &plan)).await?)
    }

    fn work(&self) -> std::path::PathBuf {
        self.app.state_dir().join("work")
    }

    async fn step(&self, snapshot: &Snapshot, step: &PlannedStep) -> StepResult {
        let work = self.work();
        let settings = self.app.settings(&self.runbook.id);
        let tools = Tools { host: &self.app.host, snapshot, execution: &self.id, work: &work, settings };
        let scrubbed = |text: &str| self.app.scrubber.text(text);
        match steps::apply(tools, step).await {
            Ok(Applied::Kept) => StepResult::Done(Applied::Kept),
            Ok(Applied::Repaired(what)) => StepResult::Done(Applied::Repaired(scrubbed(&what))),
            Err(StepError { acted: true, why }) => StepResult::Failed(scrubbed(&why)),
            Err(StepError { acted: false, why }) => StepResult::NotBegun(scrubbed(&why)),
        }
    }

    async fn begin_verifying(&self) -> Result<(), HealError> {
        self.move_on(IncidentEvent::StepsDone, "all steps ran; checking again").await?;
        self.note(JournalEvent::Verifying).await
    }

    /// Runs the same check until it passes or the time is over: the passing finding, or why there is none.
    pub(super) async fn verify(&self) -> Result<Finding, String> {
        tokio::time::sleep(self.remediate.settle).await;
        let deadline = tokio::time::Instant::now() + self.remediate.within;
        loop {
            let finding = self.check_again().await;
            if passes(finding.verdict) {
                return Ok(finding);
            }
            if tokio::time::Instant::now() >= deadline {
                let said = finding.reasons.first().map_or_else(String::new, |reason| format!(": {}", reason.say));
                return Err(format!("the check still says {}{said}", finding.verdict.word()));
            }
            tokio::time::sleep(RECHECK).await;
        }
    }

    async fn check_again(&self) -> Finding {
        // The check of the incident decides, whatever runbook was run for it.
        match self.app.catalog.runbooks.get(&self.before.check) {
            Some(runbook) => look(self.app, runbook).await,
            None => self.before.clone(),
        }
    }

    async fn move_on(&self, event: IncidentEvent, note: &'static str) -> Result<(), HealError> {
        let (id, now) = (self.plan.incident.clone(), self.app.clock.now());
        self.app
            .store
            .write(move |tx| {
                let mut incident = tx.incident(&id)?.ok_or_else(|| StoreError::NotThere(format!("incident {id}")))?;
                incident.apply(event, note, now).map_err(|error| StoreError::Corrupt(error.to_string()))?;
                tx.put_incident(&incident)
            })
            .await?;
        Ok(())
    }

    async fn incident(&self) -> Result<Incident, HealError> {
        let id = self.plan.incident.clone();
        let found = self.app.store.read(move |tx| tx.incident(&id)).await?;
        found.ok_or_else(|| HealError::Refused(format!("incident {} is not there", self.plan.incident)))
    }

    /// The check passes: everything about it in one transaction.
    pub(super) async fn succeed(
        &self,
        snapshot: &Snapshot,
        results: &[StepResult],
        after: Finding,
    ) -> Result<Outcome, HealError> {
        let after = match steps::disarm(&self.app.host, &self.work(), &self.id).await {
            Ok(()) => after,
            // The timer may have put the old state back after the check passed: only another look can tell.
            Err(error) => match self.check_again().await {
                again if passes(again.verdict) => again,
                _ => return self.undo(snapshot, results, format!("the dead-man timer: {error}")).await,
            },
        };
        let outcome = if results.iter().any(StepResult::may_have_acted) { Outcome::Repaired } else { Outcome::Kept };
        let note = if results.contains(&StepResult::Interrupted) {
            "the check passes again; a step was interrupted, and what it had done by then is not known"
        } else {
            "the check passes again"
        };
        self.commit(&outcome, results, after, IncidentEvent::Pass, note.to_owned()).await?;
        Ok(outcome)
    }

    /// It did not help: rollback, then a pause and another attempt, or a person.
    pub(super) async fn undo(
        &self,
        snapshot: &Snapshot,
        results: &[StepResult],
        why: String,
    ) -> Result<Outcome, HealError> {
        if !results.iter().any(StepResult::may_have_acted) {
            return self.give_up(results, why, false).await;
        }
        // What a step left running could act again while it is undone.
        let why = match self.app.host.end_leftovers(MARK, self.id.as_str()).await {
            Ok(_) => why,
            Err(error) => format!("{why}; {error}"),
        };
        if self.plan.rollback.is_empty() {
            return self.give_up(results, why, true).await;
        }
        self.note(JournalEvent::UndoStarted).await?;
        for (index, step) in self.plan.rollback.iter().enumerate() {
            let result = self.step(snapshot, step).await;
            self.note(JournalEvent::UndoStepEnded(index, result.clone())).await?;
            if let StepResult::Failed(error) | StepResult::NotBegun(error) = result {
                let stuck = format!("{why}; undoing failed too: {error}");
                self.note(JournalEvent::UndoFailed(stuck.clone())).await?;
                let outcome = Outcome::Failed(stuck.clone());
                self.commit(&outcome, results, self.check_again().await, IncidentEvent::Escalate, stuck).await?;
                return Ok(outcome);
            }
        }
        self.note(JournalEvent::Undone).await?;
        let outcome = Outcome::Undone(why.clone());
        let (after, event) = (self.check_again().await, self.after_failure().await?);
        self.commit(&outcome, results, after, event, format!("{why}; undone")).await?;
        Ok(outcome)
    }

    pub(super) async fn give_up(&self, results: &[StepResult], why: String, acted: bool) -> Result<Outcome, HealError> {
        let outcome = Outcome::Failed(why.clone());
        let note =
            if acted { format!("{why}; there is nothing to undo") } else { format!("{why}; nothing was changed") };
        self.commit(&outcome, results, self.check_again().await, self.after_failure().await?, note).await?;
        Ok(outcome)
    }

    /// Another attempt after a pause, or a person when the attempts are used up.
    async fn after_failure(&self) -> Result<IncidentEvent, HealError> {
        let attempts = self.incident().await?.attempts_with(&self.plan.runbook_sha256);
        let allowed = match &self.plan.origin {
            Origin::Rule(rule) => self.app.catalog.rules.get(rule).map_or(1, |rule| rule.max_attempts),
            // A person tried and sees that it failed; the machine does not try again behind their back.
            Origin::Person(_) => 0,
        };
        Ok(if attempts < allowed { IncidentEvent::Retry } else { IncidentEvent::Escalate })
    }

    /// Finding, incident, execution, entries and outbox: one transaction.
    async fn commit(
        &self,
        outcome: &Outcome,
        results: &[StepResult],
        after: Finding,
        event: IncidentEvent,
        note: String,
    ) -> Result<(), HealError> {
        let now = self.app.clock.now();
        let (app, plan, id, word) = (self.app.clone(), self.plan.clone(), self.id.clone(), outcome.word());
        let (before, results) = (self.before.clone(), results.to_vec());
        let incident = self
            .app
            .store
            .write(move |tx| {
                let missing = |what: String| StoreError::NotThere(what);
                let runbook = app
                    .catalog
                    .runbooks
                    .get(&before.check)
                    .ok_or_else(|| missing(format!("runbook {}", before.check)))?;
                let ran = app
                    .catalog
                    .runbooks
                    .get(&plan.runbook)
                    .ok_or_else(|| missing(format!("runbook {}", plan.runbook)))?;
                let mut incident =
                    tx.incident(&plan.incident)?.ok_or_else(|| missing(format!("incident {}", plan.incident)))?;
                let change = corrective(tx, &before)?;
                tx.put_finding(&after)?;
                incident.last_attempt_at = Some(now);
                incident.held = event == IncidentEvent::Escalate;
                incident.apply(event, note.clone(), now).map_err(|error| StoreError::Corrupt(error.to_string()))?;
                tx.put_incident(&incident)?;
                tx.end_execution(&id, word, now)?;
                let mut detail = plan_detail(&plan);
                detail.insert("execution".to_owned(), json!(id.as_str()));
                detail.insert("steps".to_owned(), app.steps_detail(&plan, &results));
                detail.insert("before".to_owned(), json!(before.verdict.word()));
                detail.insert("after".to_owned(), json!(after.verdict.word()));
                detail.insert("change".to_owned(), json!(change));
                detail.insert("incidentState".to_owned(), json!(incident.state.word()));
                detail.insert("secondsOpen".to_owned(), json!(now.duration_since(incident.opened_at).as_secs()));
                let act = app.action_entry(Act { outcome: word, reason: note, finding: &before, runbook: ran, detail });
                tx.append(&[act, app.check_entry(runbook, &after, false, None)], &app.seal_context())?;
                Ok(incident)
            })
            .await?;
        events::ended(self.plan, outcome.word(), &incident);
        Ok(())
    }
}

/// What proves that healing helped. That nothing is left to be checked proves nothing.
fn passes(verdict: Verdict) -> bool {
    match verdict {
        Verdict::Pass | Verdict::Warn => true,
        Verdict::Fail | Verdict::Unknown | Verdict::NotApplicable => false,
    }
}

/// Corrective: it was right before. Intentional: it is being set up for the first time.
fn corrective(tx: &Tx<'_>, before: &Finding) -> Result<&'static str, StoreError> {
    Ok(if tx.ever_passed(&before.check, &before.target)? { "corrective" } else { "intentional" })
}

/// What changed between deciding and starting that speaks against it, looked at in the starting transaction.
fn against(app: &App, tx: &Tx<'_>, plan: &Plan) -> Result<Option<String>, StoreError> {
    if let Some(why) = forbidden(app, tx, plan)? {
        return Ok(Some(why));
    }
    let clash = tx.open_executions()?.into_iter().find(|other| {
        other.plan.target == plan.target
            && (other.plan.runbook == plan.runbook || other.plan.disruptive || plan.disruptive)
    });
    Ok(clash.map(|other| format!("{} is running on this target", other.plan.runbook)))
}

/// Kill switch and mode, which people change at any moment.
fn forbidden(app: &App, tx: &Tx<'_>, plan: &Plan) -> Result<Option<String>, StoreError> {
    if tx.setting(KILL_SWITCH)?.is_some_and(|switch| switch.value == "on") {
        return Ok(Some("the kill switch is on".to_owned()));
    }
    if let Some(runbook) = app.catalog.runbooks.get(&plan.runbook)
        && mode(app, tx, runbook)? == Mode::Observe
    {
        return Ok(Some("mode is observe".to_owned()));
    }
    Ok(None)
}

/// A yes is used once.
fn use_approval(tx: &Tx<'_>, plan: &Plan) -> Result<(), StoreError> {
    let hash = plan_sha256(plan);
    for mut approval in tx.approvals(&["granted"])?.into_iter().filter(|approval| approval.incident == plan.incident) {
        let state = if approval.plan_sha256 == hash { "used" } else { "expired" };
        state.clone_into(&mut approval.state);
        tx.put_approval(&approval)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_is_not_pass() {
        assert!(!passes(Verdict::Unknown) && !passes(Verdict::Fail) && !passes(Verdict::NotApplicable));
        assert!(passes(Verdict::Pass) && passes(Verdict::Warn));
    }
}
