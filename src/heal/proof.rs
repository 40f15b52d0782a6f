//! What enters the log: the statements about checks, actions, people's decisions and the posture.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::crypto::sha256_hex;
use crate::domain::entry::{EntryDraft, EntryKind, RunbookRef, Subject};
use crate::domain::exception::excepted;
use crate::domain::finding::{Excepted, Finding, Posture, Verdict, fresh_verdict};
use crate::domain::id::CheckId;
use crate::domain::incident::Incident;
use crate::domain::plan::{Applied, Origin, Plan, PlannedAction};
use crate::domain::runbook::Runbook;
use crate::domain::time::signed;
use crate::phi::Scrubbed;
use crate::store::{Execution, StoreError, Tx};

use crate::telemetry::events;

use super::HealError;
use super::journal::StepResult;

/// Bytes kept of one sentence or output in a statement: all of them together stay below the envelope's 32 KiB, whatever
/// a runbook or a program says, so that an outcome can always be written down.
const TEXT_CAP: usize = 300;
/// Steps described in one statement.
const STEPS_CAP: usize = 16;
/// Reasons described in one statement.
const REASONS_CAP: usize = 24;
/// Checks listed one by one in a heartbeat or schedule; beyond it only their number and digest are.
const CHECKS_CAP: usize = 120;

/// What a person or Malachor did, for an action entry.
pub(super) struct Act<'a> {
    pub(super) outcome: &'static str,
    pub(super) reason: String,
    pub(super) finding: &'a Finding,
    pub(super) runbook: &'a Runbook,
    pub(super) detail: Map<String, Value>,
}

impl App {
    /// A check's result.
    pub(super) fn check_entry(
        &self,
        runbook: &Runbook,
        finding: &Finding,
        silenced: bool,
        moved: Option<&Incident>,
    ) -> Scrubbed<EntryDraft> {
        let mut detail = Map::new();
        detail.insert("observedAt".to_owned(), json!(finding.observed_at.to_string()));
        if let Some(incident) = moved {
            detail.insert("incident".to_owned(), json!(incident.id.as_str()));
            detail.insert("incidentState".to_owned(), json!(incident.state.word()));
        }
        detail.insert("verdict".to_owned(), json!(finding.verdict.word()));
        detail.insert("severity".to_owned(), json!(runbook.severity.word()));
        let reasons: Vec<Value> = finding
            .reasons
            .iter().take(REASONS_CAP)
            .map(|reason| json!({"word": reason.word, "verdict": reason.verdict.word(), "class": reason.class, "say": self.cap(&reason.say)}))
            .collect();
        detail.insert("reasons".to_owned(), Value::Array(reasons));
        if silenced {
            detail.insert("excepted".to_owned(), json!(true));
        }
        let say = self.first_say(finding);
        self.draft(EntryKind::Check, Some(finding.verdict.word()), (runbook, finding), say, detail)
    }

    /// An act on a finding.
    pub(super) fn action_entry(&self, act: Act<'_>) -> Scrubbed<EntryDraft> {
        let Act { outcome, reason, finding, runbook, detail } = act;
        self.draft(EntryKind::Action, Some(outcome), (runbook, finding), Some(self.cap(&reason)), detail)
    }

    /// A person's decision about the appliance as a whole: mode, switch, exception.
    pub(super) fn decision_entry(&self, what: &str, who: &str, detail: Map<String, Value>) -> Scrubbed<EntryDraft> {
        let mut detail = detail;
        for value in detail.values_mut() {
            if let Value::String(text) = value {
                *text = self.cap(text);
            }
        }
        detail.insert("decision".to_owned(), json!(what));
        detail.insert("by".to_owned(), json!(self.cap(who)));
        self.plain(EntryKind::Action, Some("recorded"), Some(what.to_owned()), detail)
    }

    /// An execution that can be neither verified nor undone.
    pub(super) fn abandoned_entry(&self, execution: &Execution, why: String) -> Scrubbed<EntryDraft> {
        let mut detail = plan_detail(&execution.plan);
        detail.insert("execution".to_owned(), json!(execution.id.as_str()));
        detail.insert("runbook".to_owned(), json!(execution.plan.runbook.as_str()));
        self.plain(EntryKind::Action, Some("failed"), Some(why), detail)
    }

    /// An incident nobody looks after any more.
    pub(super) fn withdrawn_entry(&self, incident: &Incident, why: String) -> Scrubbed<EntryDraft> {
        let detail = Map::from_iter([
            ("incident".to_owned(), json!(incident.id.as_str())),
            ("check".to_owned(), json!(incident.check.as_str())),
            ("incidentState".to_owned(), json!(incident.state.word())),
        ]);
        self.plain(EntryKind::Action, Some("recorded"), Some(why), detail)
    }

    pub(super) fn plain(
        &self,
        kind: EntryKind,
        outcome: Option<&str>,
        reason: Option<String>,
        detail: Map<String, Value>,
    ) -> Scrubbed<EntryDraft> {
        let digest = self.identity.commit(Value::Object(detail.clone()).to_string().as_bytes());
        self.scrubber.scrub(EntryDraft {
            kind,
            subject: Subject { name: self.identity.subject(), sha256: digest },
            controls: Vec::new(),
            outcome: outcome.map(str::to_owned),
            reason,
            runbook: None,
            detail,
        })
    }

    fn draft(
        &self,
        kind: EntryKind,
        outcome: Option<&str>,
        (runbook, finding): (&Runbook, &Finding),
        reason: Option<String>,
        detail: Map<String, Value>,
    ) -> Scrubbed<EntryDraft> {
        self.scrubber.scrub(EntryDraft {
            kind,
            subject: Subject { name: self.identity.subject(), sha256: self.facts_commitment(finding) },
            controls: runbook.hipaa.clone(),
            outcome: outcome.map(str::to_owned),
            reason,
            runbook: Some(RunbookRef { id: runbook.id.to_string(), sha256: runbook.sha256.clone() }),
            detail,
        })
    }
}

impl App {
    /// The facts a finding rests on, as a commitment.
    fn facts_commitment(&self, finding: &Finding) -> String {
        self.identity.commit(finding.observation.facts.to_string().as_bytes())
    }

    /// Text for a statement: scrubbed whole, then cut. The other way round, half an identifier would look like none.
    pub(super) fn cap(&self, text: &str) -> String {
        cut(&self.scrubber.text(text))
    }

    fn first_say(&self, finding: &Finding) -> Option<String> {
        finding.reasons.iter().find(|reason| reason.verdict == finding.verdict).map(|reason| self.cap(&reason.say))
    }

    /// The steps and what they did as part of a statement.
    pub(super) fn steps_detail(&self, plan: &Plan, results: &[StepResult]) -> Value {
        let steps = plan.steps.iter().zip(results).take(STEPS_CAP).map(|(step, result)| {
            let is_file = matches!(step.action, PlannedAction::File { .. });
            let step = self.cap(&step.line());
            match result {
                StepResult::Done(Applied::Kept) => json!({"step": step, "result": "kept"}),
                StepResult::Done(Applied::Repaired(what)) => {
                    let what = if is_file { changed_lines(what) } else { self.cap(what) };
                    json!({"step": step, "result": "repaired", "what": what})
                }
                StepResult::Failed(why) => json!({"step": step, "result": "failed", "what": self.cap(why)}),
                StepResult::NotBegun(why) => json!({"step": step, "result": "not_begun", "what": self.cap(why)}),
                StepResult::Interrupted => json!({"step": step, "result": "interrupted"}),
            }
        });
        Value::Array(steps.collect())
    }
}

/// How much of a file changed. Its lines stay in the journal: configuration may hold passwords, which no detector knows.
fn changed_lines(diff: &str) -> String {
    let count = |sign: char| diff.lines().skip(2).filter(|line| line.starts_with(sign)).count();
    format!("{} lines added, {} removed", count('+'), count('-'))
}

/// SHA-256 of exactly this plan: what an approval is bound to.
pub(super) fn plan_sha256(plan: &Plan) -> String {
    // The incident and its facts are part of it, so a yes to one state is no yes to another.
    sha256_hex(serde_json::to_string(plan).unwrap_or_default().as_bytes())
}

/// The plan as part of a statement.
pub(super) fn plan_detail(plan: &Plan) -> Map<String, Value> {
    let mut detail = Map::new();
    let origin = match &plan.origin {
        Origin::Rule(rule) => format!("rule {rule}"),
        Origin::Person(who) => format!("person {who}"),
    };
    detail.insert("incident".to_owned(), json!(plan.incident.as_str()));
    detail.insert("tier".to_owned(), json!(plan.tier.word()));
    detail.insert("origin".to_owned(), json!(origin));
    detail.insert("plan".to_owned(), json!(plan_sha256(plan)));
    detail
}

/// The beginning of a text, without control characters; a tag of the scrubber is kept whole or left out.
fn cut(text: &str) -> String {
    let clean: String = text.chars().filter(|c| !c.is_control() || *c == '\n').collect();
    if clean.len() <= TEXT_CAP {
        return clean;
    }
    let kept = clean.get(..clean.floor_char_boundary(TEXT_CAP)).unwrap_or_default();
    let whole = match (kept.rfind('['), kept.rfind(']')) {
        (Some(open), close) if close.is_none_or(|close| close < open) => kept.get(..open).unwrap_or_default(),
        _ => kept,
    };
    format!("{whole}…")
}

/// How every enabled check stands: one that was never looked at, or too long ago, is unknown.
fn verdicts(app: &App, tx: &Tx<'_>, now: Timestamp) -> Result<Vec<(CheckId, Verdict, Excepted)>, StoreError> {
    let (exceptions, findings) = (tx.exceptions()?, tx.findings()?);
    let stand = |runbook: &Runbook| {
        let Some(known) = findings.iter().find(|known| known.finding.check == runbook.id) else {
            return (runbook.id.clone(), Verdict::Unknown, Excepted::No);
        };
        let finding = &known.finding;
        let verdict = fresh_verdict(finding.verdict, finding.observed_at, signed(app.every(runbook)), now);
        (runbook.id.clone(), verdict, excepted(&exceptions, finding, &runbook.hipaa, now))
    };
    Ok(app.checks().map(stand).collect())
}

/// The posture as it stands.
pub async fn posture(app: &App) -> Result<Posture, HealError> {
    let (app_, now) = (app.clone(), app.clock.now());
    let verdicts = app.store.read(move |tx| verdicts(&app_, tx, now)).await?;
    Ok(Posture::count(verdicts.into_iter().map(|(_, verdict, excepted)| (verdict, excepted))))
}

/// Writes a signed heartbeat with the posture: passing is evidence too.
pub async fn heartbeat(app: &App) -> Result<(), HealError> {
    let now = app.clock.now();
    let app_ = app.clone();
    app.store
        .write(move |tx| {
            super::gap::room(&app_, tx, now)?;
            let verdicts = verdicts(&app_, tx, now)?;
            let posture = Posture::count(verdicts.iter().map(|(_, verdict, excepted)| (*verdict, *excepted)));
            events::posture(&posture);
            let mut detail = Map::new();
            detail.insert("posture".to_owned(), serde_json::to_value(posture).unwrap_or(Value::Null));
            let checks = verdicts.iter().map(|(check, verdict, _)| (check.to_string(), json!(verdict.word())));
            let count = verdicts.len();
            detail.insert("checkCount".to_owned(), json!(count));
            if count <= CHECKS_CAP {
                detail.insert("checks".to_owned(), Value::Object(checks.collect()));
            }
            let covered = verdicts.iter().filter(|(_, _, excepted)| *excepted == Excepted::Yes);
            let covered = covered.take(CHECKS_CAP).map(|(check, ..)| json!(check.as_str()));
            detail.insert("excepted".to_owned(), Value::Array(covered.collect()));
            detail.insert("openIncidents".to_owned(), json!(tx.incidents(false)?.len()));
            tx.append(&[app_.plain(EntryKind::Heartbeat, None, None, detail)], &app_.seal_context())?;
            Ok(())
        })
        .await?;
    Ok(())
}

/// Writes the check schedule, so that a missing check will show; once per change of it.
pub async fn schedule(app: &App) -> Result<(), HealError> {
    let now = app.clock.now();
    let mut lines = String::new();
    let mut checks = Map::new();
    for runbook in app.checks() {
        let seconds = app.every(runbook).as_secs();
        checks.insert(runbook.id.to_string(), json!({"everySeconds": seconds, "runbook": runbook.sha256}));
        // Writing to a String cannot fail.
        writeln!(lines, "{} {seconds} {}", runbook.id, runbook.sha256).ok();
    }
    let digest = sha256_hex(lines.as_bytes());
    let app_ = app.clone();
    app.store
        .write(move |tx| {
            if tx.setting("schedule")?.is_some_and(|known| known.value == digest) {
                return Ok(());
            }
            tx.put_setting("schedule", &digest, "malachor", now)?;
            let mut detail = Map::new();
            detail.insert("checkCount".to_owned(), json!(checks.len()));
            detail.insert("sha256".to_owned(), json!(digest));
            if checks.len() <= CHECKS_CAP {
                detail.insert("checks".to_owned(), Value::Object(checks));
            }
            tx.append(&[app_.plain(EntryKind::Schedule, None, None, detail)], &app_.seal_context())?;
            Ok(())
        })
        .await?;
    Ok(())
}
