//! After a crash: an execution that had started is verified, never blindly run again.

use crate::app::App;
use crate::domain::id::CheckId;
use crate::domain::incident::{Incident, IncidentEvent};
use crate::domain::plan::Plan;
use crate::store::Execution;
use crate::telemetry::events;

use super::HealError;
use super::executor::{Outcome, Run};
use super::journal::{Interrupted, JournalEvent, StepResult, replay};
use super::steps::MARK;

/// Brings every execution that nobody is running any more to an end; says how many there were.
pub async fn recover(app: &App) -> Result<usize, HealError> {
    recover_where(app, |_| true).await
}

/// Closes the incidents of checks that run here no more: nobody will ever look again whether they pass.
pub async fn retire(app: &App) -> Result<(), HealError> {
    let (app_, now) = (app.clone(), app.clock.now());
    app.store
        .write(move |tx| {
            let running: Vec<_> = tx.open_executions()?.into_iter().map(|execution| execution.plan.incident).collect();
            for mut incident in tx.incidents(false)? {
                let looked_at = app_.checks().any(|runbook| runbook.id == incident.check);
                if looked_at || incident.state.is_acting() || running.contains(&incident.id) {
                    continue;
                }
                let why = format!("withdrawn: {} runs here no more", incident.check);
                if incident.apply(IncidentEvent::Pass, why.clone(), now).is_ok() {
                    tx.put_incident(&incident)?;
                    tx.append(&[app_.withdrawn_entry(&incident, why)], &app_.seal_context())?;
                    events::moved(&incident);
                }
            }
            Ok(())
        })
        .await?;
    Ok(())
}

/// The same for the executions of one check, before it is looked at again.
pub(super) async fn recover_check(app: &App, check: &CheckId) -> Result<usize, HealError> {
    let check = check.clone();
    recover_where(app, move |incident| incident.check == check).await
}

async fn recover_where(app: &App, wanted: impl Fn(&Incident) -> bool + Send + 'static) -> Result<usize, HealError> {
    let open = app.store.read(move |tx| {
        let mut open = tx.open_executions()?;
        let mut missing = None;
        open.retain(|execution| match tx.incident(&execution.plan.incident) {
            Ok(incident) => incident.is_none_or(|incident| wanted(&incident)),
            Err(error) => {
                missing = Some(error);
                false
            }
        });
        missing.map_or(Ok(open), Err)
    });
    let mut recovered = 0;
    for execution in open.await? {
        let Some(_lock) = app.execution_lock(&execution.plan)? else {
            continue;
        };
        // Whoever ran it may have ended it before letting go of the lock.
        let id = execution.id.clone();
        if app.store.read(move |tx| Ok(tx.open_executions()?.iter().any(|open| open.id == id))).await? {
            // What a step started may have outlived the process that was to wait for it. Before it is gone nothing is
            // certain: verified now, it could still act; undone now, it could still do it again.
            match app.host.end_leftovers(MARK, execution.id.as_str()).await {
                Ok(_) => {
                    finish(app, &execution).await?;
                    recovered += 1;
                }
                // It stays open, and nothing else heals here, until they are gone.
                Err(error) => tracing::error!(execution = execution.id.as_str(), "{}: {error}", execution.id),
            }
        }
    }
    Ok(recovered)
}

async fn finish(app: &App, execution: &Execution) -> Result<(), HealError> {
    let plan: &Plan = &execution.plan;
    let (id, incident) = (execution.id.clone(), plan.incident.clone());
    let (events, incident) =
        app.store.read(move |tx| Ok((tx.journal_of::<JournalEvent>(&id)?, tx.incident(&incident)?))).await?;
    let Some(incident) = incident else { return abandon(app, execution, "its incident is gone").await };
    let Some((runbook, remediate)) =
        app.catalog.runbooks.get(&plan.runbook).and_then(|runbook| Some((runbook, runbook.remediate.as_ref()?)))
    else {
        return abandon(app, execution, "its runbook is gone or heals nothing any more").await;
    };
    if !app.catalog.runbooks.contains_key(&incident.check) {
        return abandon(app, execution, "its check is gone").await;
    }
    let (check, target) = (incident.check.clone(), incident.target.clone());
    let before = app.store.read(move |tx| tx.finding(&check, &target)).await?;
    let Some(before) = before else { return abandon(app, execution, "its finding is gone").await };
    let run = Run { app, id: execution.id.clone(), plan, runbook, remediate, before: &before.finding };
    let results = begun_steps(&events);
    let Interrupted { snapshot, acted, undoing } = replay(events.into_iter().map(|(_, event)| event));
    events::recovering(plan, acted);
    match snapshot {
        // Half undone may look like healed; undoing twice is safe.
        Some(snapshot) if undoing => {
            run.undo(&snapshot, &results, "undoing it was interrupted".to_owned()).await?;
        }
        Some(snapshot) if acted => match run.verify().await {
            Ok(after) => {
                run.succeed(&snapshot, &results, after).await?;
            }
            Err(why) => {
                run.undo(&snapshot, &results, format!("it was interrupted, and {why}")).await?;
            }
        },
        Some(_) | None => {
            run.give_up(&results, "it was interrupted before its first step".to_owned(), false).await?;
        }
    }
    Ok(())
}

/// What can be neither verified nor undone any more goes to a person, and holds up nothing else.
async fn abandon(app: &App, execution: &Execution, why: &str) -> Result<(), HealError> {
    let (app_, execution, now) = (app.clone(), execution.clone(), app.clock.now());
    let why = format!("it was interrupted and cannot be verified: {why}");
    app.store
        .write(move |tx| {
            if let Some(mut incident) = tx.incident(&execution.plan.incident)?
                && incident.apply(IncidentEvent::Escalate, why.clone(), now).is_ok()
            {
                tx.put_incident(&incident)?;
            }
            tx.end_execution(&execution.id, Outcome::Failed(String::new()).word(), now)?;
            tx.append(&[app_.abandoned_entry(&execution, why)], &app_.seal_context()).map(drop)
        })
        .await?;
    Ok(())
}

/// What each step did; one that began and has no end was interrupted.
fn begun_steps(events: &[(jiff::Timestamp, JournalEvent)]) -> Vec<StepResult> {
    let mut results = Vec::new();
    for (_, event) in events {
        match event {
            JournalEvent::StepStarted(_) => results.push(StepResult::Interrupted),
            JournalEvent::StepEnded(_, result) => {
                results.pop();
                results.push(result.clone());
            }
            JournalEvent::Begun
            | JournalEvent::SnapshotTaken(_)
            | JournalEvent::Verifying
            | JournalEvent::UndoStarted
            | JournalEvent::UndoStepEnded(..)
            | JournalEvent::Undone
            | JournalEvent::UndoFailed(_) => {}
        }
    }
    results
}
