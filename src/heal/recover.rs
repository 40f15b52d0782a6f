//! After a crash: an execution that had started is verified, never blindly run again.

use crate::app::App;
use crate::domain::plan::Plan;
use crate::store::Execution;
use crate::telemetry::events;

use super::HealError;
use super::executor::{Run, passes};
use super::journal::{Interrupted, JournalEvent, replay};

/// Brings every execution that nobody is running any more to an end; says how many there were.
pub async fn recover(app: &App) -> Result<usize, HealError> {
    let open = app.store.read(|tx| tx.open_executions()).await?;
    let mut recovered = 0;
    for execution in open {
        let Some(_lock) = app.execution_lock(&execution.plan)? else {
            continue;
        };
        finish(app, &execution).await?;
        recovered += 1;
    }
    Ok(recovered)
}

async fn finish(app: &App, execution: &Execution) -> Result<(), HealError> {
    let plan: &Plan = &execution.plan;
    let (id, incident) = (execution.id.clone(), plan.incident.clone());
    let (events, incident) =
        app.store.read(move |tx| Ok((tx.journal_of::<JournalEvent>(&id)?, tx.incident(&incident)?))).await?;
    let missing =
        |what: &str| HealError::Refused(format!("execution {} cannot be recovered: {what} is gone", execution.id));
    let incident = incident.ok_or_else(|| missing("its incident"))?;
    let runbook = app.catalog.runbooks.get(&plan.runbook).ok_or_else(|| missing("its runbook"))?;
    let remediate = runbook.remediate.as_ref().ok_or_else(|| missing("its remediation"))?;
    let check = incident.check.clone();
    let before = app.store.read(move |tx| tx.finding(&check, &crate::domain::id::Target::host())).await?;
    let before = before.ok_or_else(|| missing("its finding"))?.finding;
    let run = Run { app, id: execution.id.clone(), plan, runbook, remediate, before: &before };
    let results = ended_steps(&events);
    let Interrupted { snapshot, acted } = replay(events.into_iter().map(|(_, event)| event));
    events::recovering(plan, acted);
    match snapshot {
        Some(snapshot) if acted => {
            if passes(run.check_again().await.verdict) {
                run.succeed(&results).await?;
            } else {
                run.undo(&snapshot, &results, "it was interrupted and the check does not pass".to_owned()).await?;
            }
        }
        Some(_) | None => {
            run.give_up(&results, "it was interrupted before its first step".to_owned(), false).await?;
        }
    }
    Ok(())
}

fn ended_steps(events: &[(jiff::Timestamp, JournalEvent)]) -> Vec<super::journal::StepResult> {
    events
        .iter()
        .filter_map(|(_, event)| match event {
            JournalEvent::StepEnded(_, result) => Some(result.clone()),
            JournalEvent::Begun
            | JournalEvent::SnapshotTaken(_)
            | JournalEvent::StepStarted(_)
            | JournalEvent::Verifying
            | JournalEvent::UndoStarted
            | JournalEvent::UndoStepEnded(..)
            | JournalEvent::Undone
            | JournalEvent::UndoFailed(_) => None,
        })
        .collect()
}
