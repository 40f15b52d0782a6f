//! `malachor incident`: open and past drift.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::domain::id::RecordId;
use crate::heal::JournalEvent;

use super::session::Session;
use super::{Exit, Failure};

/// Incidents.
#[derive(Debug, Subcommand)]
pub(super) enum Incident {
    /// List incidents, newest first
    List(List),
    /// Show one with its plan, executions and journal
    Show(Show),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Resolved ones too
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    id: RecordId,
}

impl Incident {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        match self {
            Self::List(list) => list.run(session),
            Self::Show(show) => show.run(session),
        }
    }
}

impl List {
    fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let incidents = session.block_on(async {
            let app = session.app()?;
            Ok(app.store.read(move |tx| tx.incidents(self.all)).await?)
        })?;
        if session.out.is_json() {
            for incident in &incidents {
                session.out.json(&json!({"schema": "malachor.incident/1", "incident": incident}));
            }
            return Ok(Exit::Ok);
        }
        if incidents.is_empty() {
            session.out.note(if self.all { "there was no incident" } else { "no incident is open" });
            return Ok(Exit::Ok);
        }
        let mut rows = vec![["INCIDENT", "STATE", "CHECK", "SEVERITY", "OPENED", "NOTE"].map(str::to_owned).to_vec()];
        rows.extend(incidents.iter().map(|incident| {
            vec![
                incident.id.to_string(),
                incident.state.word().to_owned(),
                incident.check.to_string(),
                incident.severity.word().to_owned(),
                incident.opened_at.to_string(),
                incident.note.clone(),
            ]
        }));
        session.out.table(&rows);
        Ok(Exit::Ok)
    }
}

impl Show {
    fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let id = self.id;
        let (incident, executions, approvals) = session.block_on(async {
            let app = session.app()?;
            let found = app.store.read(move |tx| {
                let incident = tx.incident(&id)?;
                let mut executions = Vec::new();
                for execution in tx.executions_of(&id)? {
                    let journal = tx.journal_of::<JournalEvent>(&execution.id)?;
                    executions.push((execution, journal));
                }
                let approvals: Vec<_> =
                    tx.approvals(&[])?.into_iter().filter(|approval| approval.incident == id).collect();
                Ok((incident, executions, approvals))
            });
            Ok(found.await?)
        })?;
        let Some(incident) = incident else {
            return Err(Failure::new(Exit::Usage, "there is no such incident; see `malachor incident list --all`"));
        };
        let out = session.out;
        if out.is_json() {
            let executions: Vec<_> = executions
                .iter()
                .map(|(execution, journal)| json!({"id": execution.id, "started": execution.started_at, "ended": execution.ended_at, "outcome": execution.outcome, "journal": journal}))
                .collect();
            out.json(&json!({"schema": "malachor.incident/1", "incident": incident, "executions": executions, "approvals": approvals}));
            return Ok(Exit::Ok);
        }
        out.line(format!("{}  {}  {}", incident.id, incident.state.word(), incident.note));
        out.line(format!("  check      {} on {} ({})", incident.check, incident.target, incident.severity.word()));
        out.line(format!(
            "  opened     {}{}",
            incident.opened_at,
            incident.resolved_at.map_or_else(String::new, |at| format!(", resolved {at}"))
        ));
        out.line(format!("  signature  {}", incident.signature));
        for reason in &incident.reasons {
            out.line(format!("  reason     {} ({})", reason.say, reason.word));
        }
        if let Some(plan) = &incident.plan {
            out.line(format!("  plan       {} by {}: {}", plan.runbook, plan.tier.word(), plan.reason));
            for step in &plan.steps {
                out.line(format!("             ~ {}", step.line()));
            }
        }
        for approval in &approvals {
            let by = approval.decided_by.as_deref().map_or_else(String::new, |who| format!(" by {who}"));
            out.line(format!(
                "  approval   {}{by}, asked {}, open until {}",
                approval.state, approval.requested_at, approval.expires_at
            ));
        }
        for (execution, journal) in &executions {
            let outcome = execution.outcome.as_deref().unwrap_or("running");
            out.line(format!("  execution  {} {outcome}, started {}", execution.id, execution.started_at));
            for (at, event) in journal {
                out.line(format!("             {at} {}", line_of(event)));
            }
        }
        Ok(Exit::Ok)
    }
}

fn line_of(event: &JournalEvent) -> String {
    match event {
        JournalEvent::Begun => "accepted".to_owned(),
        JournalEvent::SnapshotTaken(_) => "snapshot taken".to_owned(),
        JournalEvent::StepStarted(step) => format!("step {} started", step + 1),
        JournalEvent::StepEnded(step, result) => {
            format!("step {} ended: {}", step + 1, first_line(&format!("{result:?}")))
        }
        JournalEvent::Verifying => "verifying".to_owned(),
        JournalEvent::UndoStarted => "undoing".to_owned(),
        JournalEvent::UndoStepEnded(step, result) => {
            format!("undo step {} ended: {}", step + 1, first_line(&format!("{result:?}")))
        }
        JournalEvent::Undone => "undone".to_owned(),
        JournalEvent::UndoFailed(why) => format!("undoing failed: {why}"),
    }
}

fn first_line(text: &str) -> String {
    text.chars().take(120).collect()
}
