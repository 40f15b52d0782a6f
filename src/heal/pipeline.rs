//! One check, from facts to whatever follows from them.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::crypto::sha256_hex;
use crate::domain::entry::EntryDraft;
use crate::domain::exception;
use crate::domain::finding::{Class, Excepted, Finding, Verdict};
use crate::domain::guard::Decision;
use crate::domain::id::{RecordId, RecordKind, Target};
use crate::domain::incident::{Incident, IncidentEvent};
use crate::domain::runbook::Runbook;
use crate::domain::signature;
use crate::phi::Scrubbed;
use crate::store::{Approval, KnownFinding, Mark, StoreError, Tx};
use crate::telemetry::events;

use super::decide::{Proposal, propose, propose_for};
use super::executor::{self, Outcome};
use super::look::look;
use super::proof::{Act, plan_detail, plan_sha256};
use super::recover::recover_check;
use super::{HealError, gap};

/// Pause before a failure is looked at again to confirm it.
const CONFIRM: std::time::Duration = std::time::Duration::from_secs(2);

/// How far a run may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Look, judge, record; nothing on the target is changed.
    Record,
    /// Heal what the guards allow.
    Heal,
}

/// What one run of a check came to.
#[derive(Debug, Clone)]
pub struct CheckRun {
    /// The finding with its history.
    pub known: KnownFinding,
    /// The incident, if one is open or was just resolved.
    pub incident: Option<Incident>,
    /// What is proposed about it.
    pub proposal: Option<Proposal>,
    /// What was done, if anything.
    pub outcome: Option<Outcome>,
}

/// Runs one check: look, record, decide, and heal where that is allowed.
pub async fn run_check(app: &App, runbook: &Runbook, reach: Reach) -> Result<CheckRun, HealError> {
    if reach == Reach::Heal {
        // Left open where the store failed in the middle of it.
        recover_check(app, &runbook.id).await?;
    }
    let check = runbook.id.clone();
    let begun = app.store.read(move |tx| tx.mark(&check, &Target::host())).await?;
    let finding = look(app, runbook).await;
    let (known, incident) = record(app, runbook, finding, begun).await?;
    events::checked(&known.finding, known.since == known.finding.observed_at);
    // What could not be looked at is neither decided about nor healed.
    let decided = incident.filter(|incident| known.finding.verdict == Verdict::Fail && may_be_decided(app, incident));
    let Some(incident) = decided else {
        return Ok(CheckRun { known, incident: None, proposal: None, outcome: None });
    };
    let Some((incident, proposal)) = decide(app, runbook, incident, &known.finding).await? else {
        return Ok(CheckRun { known, incident: None, proposal: None, outcome: None });
    };
    let go = reach == Reach::Heal && proposal.decision == Decision::Go;
    let outcome = match &proposal.plan {
        Ok(plan) if go => Some(executor::execute(app, plan, &known.finding).await?),
        Ok(_) | Err(_) => None,
    };
    Ok(CheckRun { known, incident: Some(incident), proposal: Some(proposal), outcome })
}

fn may_be_decided(app: &App, incident: &Incident) -> bool {
    let last = app.catalog.runbooks.get(incident.last_runbook());
    incident.may_be_decided(last.map_or("", |runbook| &runbook.sha256))
}

/// Runs a check as a named person wants it looked at: again until a failure that needs confirming is confirmed.
pub async fn run_confirmed(app: &App, runbook: &Runbook) -> Result<CheckRun, HealError> {
    loop {
        let run = run_check(app, runbook, Reach::Record).await?;
        let failing = run.known.finding.verdict == Verdict::Fail;
        if !failing || run.known.fails_in_row >= runbook.confirm {
            return Ok(run);
        }
        tokio::time::sleep(CONFIRM).await;
    }
}

/// What a named person's `heal` would do about a failing check; `None` where nothing fails or an exception silences it.
///
/// Asked by `--dry-run` and by `--apply`: what is shown is what runs.
///
/// With parameters it is the check's own runbook with exactly these.
pub async fn propose_to(
    app: &App,
    run: &CheckRun,
    who: &str,
    params: &Map<String, Value>,
) -> Result<Option<Proposal>, HealError> {
    if run.known.finding.verdict != Verdict::Fail {
        return Ok(None);
    }
    let (app_, finding, now) = (app.clone(), run.known.finding.clone(), app.clock.now());
    let (who, params) = (who.to_owned(), params.clone());
    let proposal = app.store.read(move |tx| {
        let Some(incident) = tx.open_incident(&finding.check, &finding.target)? else { return Ok(None) };
        propose_for(&app_, tx, (&incident, &finding), (&who, &params), now).map(Some)
    });
    Ok(proposal.await?)
}

/// Carries out a proposal that the guards let through; `None` where they did not.
pub async fn apply(app: &App, run: &CheckRun, proposal: &Proposal) -> Result<Option<Outcome>, HealError> {
    match (&proposal.plan, &proposal.decision) {
        (Ok(plan), Decision::Go) => executor::execute(app, plan, &run.known.finding).await.map(Some),
        _ => Ok(None),
    }
}

/// Commits a finding: its row, its incident, and an entry if either changed; one transaction.
///
/// Where another process looked or healed since this look began, what it found may be no more: what is known stays.
pub(super) async fn record(
    app: &App,
    runbook: &Runbook,
    finding: Finding,
    begun: Mark,
) -> Result<(KnownFinding, Option<Incident>), HealError> {
    let id = app.new_id(RecordKind::Incident)?;
    let now = app.clock.now();
    let (app_, check) = (app.clone(), runbook.id.clone());
    let recorded = app
        .store
        .write(move |tx| {
            let Some(runbook) = app_.catalog.runbooks.get(&check) else {
                return Err(StoreError::NotThere(format!("runbook {check} is not loaded")));
            };
            let before = tx.finding(&finding.check, &finding.target)?;
            if let Some(known) = before.clone()
                && tx.mark(&finding.check, &finding.target)? != begun
            {
                return Ok((known, None));
            }
            let known = tx.put_finding(&finding)?;
            let silenced = exception::excepted(&tx.exceptions()?, &known.finding, &runbook.hipaa, now) == Excepted::Yes;
            let open = tx.open_incident(&finding.check, &finding.target)?;
            let was = open.as_ref().map(|open| open.state);
            let incident = follow(open, &known, runbook, (id, silenced), now);
            if let Some(incident) = &incident {
                tx.put_incident(incident)?;
            }
            let moved = incident.as_ref().map(|now| now.state) != was;
            if moved || before.is_none_or(|before| changed(&before.finding, &finding)) {
                let moved = incident.as_ref().filter(|_| moved);
                if gap::room(&app_, tx, now)? || moved.is_some() {
                    tx.append(&[app_.check_entry(runbook, &finding, silenced, moved)], &app_.seal_context())?;
                } else {
                    gap::leave_out(tx, now)?;
                }
            }
            Ok((known, incident))
        })
        .await?;
    Ok(recorded)
}

/// What a finding makes of its incident: opened, kept up to date, resolved, or left alone.
fn follow(
    open: Option<Incident>,
    known: &KnownFinding,
    runbook: &Runbook,
    (id, silenced): (RecordId, bool),
    now: Timestamp,
) -> Option<Incident> {
    let finding = &known.finding;
    match (open, finding.verdict) {
        // Whoever runs the plan brings it to its end, with the check's answer.
        (Some(incident), _) if incident.state.is_acting() => Some(incident),
        (Some(mut incident), Verdict::Pass | Verdict::Warn | Verdict::NotApplicable) => {
            let note = format!("the check says {} again", finding.verdict.word());
            incident.apply(IncidentEvent::Pass, note, now).ok()?;
            events::resolved(&incident);
            Some(incident)
        }
        // Not being able to look changes nothing about what is open.
        (open, Verdict::Unknown) => open,
        (Some(mut incident), Verdict::Fail) => {
            incident.reasons.clone_from(&finding.reasons);
            incident.class = class_of(finding);
            if let Some(signature) = signature_of(finding, runbook) {
                incident.signature = signature;
            }
            incident.updated_at = now;
            Some(incident)
        }
        (None, Verdict::Fail) if known.fails_in_row >= runbook.confirm && !silenced => {
            open_new(finding, runbook, id, now)
        }
        (None, Verdict::Fail | Verdict::Pass | Verdict::Warn | Verdict::NotApplicable) => None,
    }
}

fn open_new(finding: &Finding, runbook: &Runbook, id: RecordId, now: Timestamp) -> Option<Incident> {
    let class = class_of(finding);
    let signature = signature_of(finding, runbook)?;
    let mut incident = Incident::opened(id, finding, signature, (runbook.severity, class), now);
    if class == Class::NeverConfigured {
        incident.apply(IncidentEvent::Escalate, "never set up: a person has to configure it", now).ok()?;
    }
    events::opened(&incident);
    Some(incident)
}

fn class_of(finding: &Finding) -> Class {
    if finding.is_drift() { Class::Drift } else { Class::NeverConfigured }
}

fn signature_of(finding: &Finding, runbook: &Runbook) -> Option<crate::domain::id::PatternSignature> {
    signature::from_sha256(&sha256_hex(signature::signature_text(finding, runbook.platform).as_bytes()))
}

/// A state change worth an entry: another verdict, or other reasons.
fn changed(before: &Finding, now: &Finding) -> bool {
    let words = |finding: &Finding| {
        finding.reasons.iter().map(|reason| (reason.word.clone(), reason.verdict)).collect::<Vec<_>>()
    };
    before.verdict != now.verdict || words(before) != words(now)
}

/// Proposes, and records where the incident stands because of it; `None` where somebody else moved it meanwhile.
async fn decide(
    app: &App,
    runbook: &Runbook,
    incident: Incident,
    finding: &Finding,
) -> Result<Option<(Incident, Proposal)>, HealError> {
    let approval_id = app.new_id(RecordKind::Approval)?;
    let now = app.clock.now();
    let (app_, finding, check) = (app.clone(), finding.clone(), runbook.id.clone());
    let decided = app
        .store
        .write(move |tx| {
            if tx.incident(&incident.id)?.as_ref() != Some(&incident) {
                return Ok(None);
            }
            let proposal = propose(&app_, tx, &incident, &finding, now)?;
            let mut after = incident.clone();
            after.plan = proposal.plan.clone().ok();
            let asked_anew = match (&proposal.decision, &proposal.plan) {
                (Decision::Ask(_), Ok(plan)) => ask_person(&app_, tx, plan, approval_id, now)?,
                (_, Ok(_)) => false,
                // There is no plan any more that a yes could be about.
                (_, Err(_)) => withdraw_questions(tx, &incident.id)?,
            };
            let (event, outcome, note) = match &proposal.decision {
                Decision::Go => (None, "", incident.note.clone()),
                Decision::Refuse(why) => (Some(IncidentEvent::Plan), "refused", why.clone()),
                Decision::Wait(_, why) => (Some(IncidentEvent::Defer), "deferred", why.clone()),
                Decision::Ask(why) => (Some(IncidentEvent::AskApproval), "deferred", why.clone()),
                Decision::Escalate(why) => (Some(IncidentEvent::Escalate), "escalated", why.clone()),
                Decision::Suppress(why) => (Some(IncidentEvent::Suppress), "escalated", why.clone()),
            };
            if let Some(event) = event {
                after.apply(event, note.clone(), now).map_err(|error| StoreError::Corrupt(error.to_string()))?;
            }
            tx.put_incident(&after)?;
            if (asked_anew || after.state != incident.state)
                && let Some(runbook) = app_.catalog.runbooks.get(&check)
            {
                tx.append(
                    &[proposed_entry(&app_, runbook, &finding, &proposal, (outcome, note))],
                    &app_.seal_context(),
                )?;
                if after.state != incident.state {
                    events::moved(&after);
                }
            }
            Ok(Some((after, proposal)))
        })
        .await?;
    Ok(decided)
}

fn proposed_entry(
    app: &App,
    runbook: &Runbook,
    finding: &Finding,
    proposal: &Proposal,
    (outcome, reason): (&'static str, String),
) -> Scrubbed<EntryDraft> {
    let mut detail = proposal.plan.as_ref().map(plan_detail).unwrap_or_default();
    let said = proposal.answers.iter().filter(|answer| answer.verdict != crate::domain::guard::GuardVerdict::Pass);
    let guards: Vec<Value> = said
        .map(|answer| json!({"guard": answer.guard, "verdict": answer.verdict.word(), "say": app.cap(&answer.say)}))
        .collect();
    detail.insert("guards".to_owned(), Value::Array(guards));
    app.action_entry(Act { outcome, reason, finding, runbook, detail })
}

/// Asks once per plan: another plan for the same incident replaces the question. Says whether it is a new question.
fn ask_person(
    app: &App,
    tx: &Tx<'_>,
    plan: &crate::domain::plan::Plan,
    id: RecordId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let hash = plan_sha256(plan);
    let mut open = tx.approvals(&["pending", "granted"])?.into_iter();
    if open.any(|open| open.incident == plan.incident && open.plan_sha256 == hash && now < open.expires_at) {
        return Ok(false);
    }
    withdraw_questions(tx, &plan.incident)?;
    let life = crate::domain::time::signed(app.config().heal.approval_expires.0);
    let lapses = now.checked_add(life).unwrap_or(Timestamp::MAX);
    // A yes given in time must still hold in the window it is for.
    let window_ends = if plan.disruptive { app.windows.next_end(now) } else { None };
    tx.put_approval(&Approval {
        id,
        incident: plan.incident.clone(),
        plan_sha256: hash,
        state: "pending".to_owned(),
        requested_at: now,
        expires_at: window_ends.map_or(lapses, |end| lapses.max(end)),
        decided_by: None,
    })?;
    Ok(true)
}

/// Ends the open questions about an incident; says whether there were any.
fn withdraw_questions(tx: &Tx<'_>, incident: &RecordId) -> Result<bool, StoreError> {
    let open = tx.approvals(&["pending", "granted"])?.into_iter().filter(|approval| approval.incident == *incident);
    let mut any = false;
    for mut approval in open {
        "expired".clone_into(&mut approval.state);
        tx.put_approval(&approval)?;
        any = true;
    }
    Ok(any)
}
