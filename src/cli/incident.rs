//! `malachor incident`: open and past drift.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::domain::id::RecordId;
use crate::domain::incident;
use crate::heal::JournalEvent;
use crate::heal::people::PREFIX;
use crate::shown;
use crate::store::{Approval, Execution};

use super::output::Printer;
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
            let executions: Vec<_> =
                executions.iter().map(|(execution, journal)| execution_json(execution, journal)).collect();
            out.json(&json!({
                "schema": "malachor.incident/1", "incident": incident, "executions": executions, "approvals": approvals,
            }));
            return Ok(Exit::Ok);
        }
        describe(out, &incident);
        for approval in &approvals {
            question(out, approval);
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

fn execution_json(execution: &Execution, journal: &[(Timestamp, JournalEvent)]) -> Value {
    let journal: Vec<_> = journal.iter().map(|(at, event)| json!({"at": at, "event": outline(event)})).collect();
    json!({
        "id": execution.id, "started_at": execution.started_at, "ended_at": execution.ended_at,
        "outcome": execution.outcome, "journal": journal,
    })
}

fn describe(out: &Printer, incident: &incident::Incident) {
    out.line(format!("{}  {}  {}", incident.id, incident.state.word(), shown::piece(&incident.note)));
    out.line(format!("  check      {} on {} ({})", incident.check, incident.target, incident.severity.word()));
    let resolved = incident.resolved_at.map_or_else(String::new, |at| format!(", resolved {at}"));
    out.line(format!("  opened     {}{resolved}", incident.opened_at));
    out.line(format!("  signature  {}", incident.signature));
    for reason in &incident.reasons {
        out.line(format!("  reason     {} ({})", shown::piece(&reason.say), reason.word));
    }
    if let Some(plan) = &incident.plan {
        out.line(format!("  plan       {} by {}: {}", plan.runbook, plan.tier.word(), shown::piece(&plan.reason)));
        for step in &plan.steps {
            out.line(format!("             ~ {}", shown::piece(&step.line())));
        }
    }
}

/// A question to a person; while it is open, what to type for a yes to exactly this plan.
fn question(out: &Printer, approval: &Approval) {
    let Approval { incident, plan_sha256, state, requested_at, expires_at, decided_by, .. } = approval;
    let plan = plan_sha256.get(..PREFIX).unwrap_or(plan_sha256);
    let by = decided_by.as_deref().map_or_else(String::new, |who| format!(" by {}", shown::piece(who)));
    out.line(format!("  approval   plan {plan} {state}{by}, asked {requested_at}, open until {expires_at}"));
    if state == "pending" {
        out.line(format!("             → malachor approve {incident} {plan} --by NAME"));
    }
}

fn line_of(event: &JournalEvent) -> String {
    match event {
        JournalEvent::Begun => "accepted".to_owned(),
        JournalEvent::SnapshotTaken(_) => "snapshot taken".to_owned(),
        JournalEvent::StepStarted(step) => format!("step {} started", step + 1),
        JournalEvent::StepEnded(step, result) => format!("step {} {}", step + 1, in_words(result)),
        JournalEvent::Verifying => "verifying".to_owned(),
        JournalEvent::UndoStarted => "undoing".to_owned(),
        JournalEvent::UndoStepEnded(step, result) => format!("undo step {} {}", step + 1, in_words(result)),
        JournalEvent::Undone => "undone".to_owned(),
        JournalEvent::UndoFailed(why) => format!("undoing failed: {}", short(why)),
    }
}

/// How a step ended, from the form in which the journal keeps it.
fn in_words(result: &impl Serialize) -> String {
    let result = json!(result);
    let said = |place: &str| result.pointer(place).and_then(Value::as_str).map(short);
    if let Some(what) = said("/done/repaired") {
        return if what.is_empty() { "changed it".to_owned() } else { format!("changed it: {what}") };
    }
    if said("/done").is_some() {
        return "had nothing to change".to_owned();
    }
    match (said("/failed"), said("/not_begun")) {
        (Some(why), _) => format!("failed: {why}"),
        (None, Some(why)) => format!("failed before it changed anything: {why}"),
        (None, None) => "was interrupted: what it had done by then is not known".to_owned(),
    }
}

/// Enough of a text to know what it is about, on one line.
fn short(text: &str) -> String {
    const MOST: usize = 120;
    let more = if text.chars().nth(MOST).is_some() { "…" } else { "" };
    shown::piece(&text.trim_end().chars().take(MOST).collect::<String>()) + more
}

/// An event as JSON. Of a snapshot only what was kept, not what stood in it: that may be confidential.
fn outline(event: &JournalEvent) -> Value {
    let JournalEvent::SnapshotTaken(snapshot) = event else { return json!(event) };
    let kept = json!(snapshot);
    let list = |name: &str| kept.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let file = |file: Value| {
        let content = file.pointer("/was/base64").and_then(Value::as_str);
        let size = content.map(|text| text.trim_end_matches('=').len() * 3 / 4);
        json!({"path": file.get("path"), "bytes": size})
    };
    let files: Vec<_> = list("files").into_iter().map(file).collect();
    let units: Vec<_> = list("units").iter().map(|unit| unit.get("unit").cloned()).collect();
    let ruleset = kept.get("nft").and_then(Value::as_str).map(str::len);
    json!({"snapshot_taken": {"files": files, "units": units, "nft_bytes": ruleset}})
}
