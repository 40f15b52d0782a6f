//! What enters the log: the statements about checks, actions, people's decisions and the posture.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::crypto::sha256_hex;
use crate::domain::entry::{EntryDraft, EntryKind, RunbookRef, Subject};
use crate::domain::exception::excepted;
use crate::domain::finding::{Excepted, Finding, Posture, Verdict, fresh_verdict};
use crate::domain::plan::{Applied, Origin, Plan};
use crate::domain::runbook::Runbook;
use crate::domain::time::signed;
use crate::phi::Scrubbed;
use crate::store::{Execution, KnownFinding};

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
    pub(super) fn check_entry(&self, runbook: &Runbook, finding: &Finding) -> Scrubbed<EntryDraft> {
        let mut detail = Map::new();
        detail.insert("verdict".to_owned(), json!(finding.verdict.word()));
        detail.insert("severity".to_owned(), json!(runbook.severity.word()));
        let reasons: Vec<Value> = finding
            .reasons
            .iter().take(REASONS_CAP)
            .map(|reason| json!({"word": reason.word, "verdict": reason.verdict.word(), "class": reason.class, "say": cap(&reason.say)}))
            .collect();
        detail.insert("reasons".to_owned(), Value::Array(reasons));
        self.draft(
            EntryKind::Check,
            Some(finding.verdict.word()),
            runbook,
            finding,
            first_say(finding),
            detail,
            finding.observed_at,
        )
    }

    /// An act on a finding.
    pub(super) fn action_entry(&self, act: Act<'_>, now: Timestamp) -> Scrubbed<EntryDraft> {
        let Act { outcome, reason, finding, runbook, detail } = act;
        self.draft(EntryKind::Action, Some(outcome), runbook, finding, Some(cap(&reason)), detail, now)
    }

    /// A person's decision about the appliance as a whole: mode, switch, exception.
    pub(super) fn decision_entry(
        &self,
        what: &str,
        who: &str,
        detail: Map<String, Value>,
        now: Timestamp,
    ) -> Scrubbed<EntryDraft> {
        let mut detail = detail;
        detail.insert("decision".to_owned(), json!(what));
        detail.insert("by".to_owned(), json!(who));
        self.plain(EntryKind::Action, Some("recorded"), Some(what.to_owned()), detail, now)
    }

    /// An execution that can be neither verified nor undone.
    pub(super) fn abandoned_entry(&self, execution: &Execution, why: String, now: Timestamp) -> Scrubbed<EntryDraft> {
        let mut detail = plan_detail(&execution.plan);
        detail.insert("execution".to_owned(), json!(execution.id.as_str()));
        detail.insert("runbook".to_owned(), json!(execution.plan.runbook.as_str()));
        self.plain(EntryKind::Action, Some("failed"), Some(why), detail, now)
    }

    fn plain(
        &self,
        kind: EntryKind,
        outcome: Option<&str>,
        reason: Option<String>,
        detail: Map<String, Value>,
        now: Timestamp,
    ) -> Scrubbed<EntryDraft> {
        let digest = sha256_hex(Value::Object(detail.clone()).to_string().as_bytes());
        self.scrubber.scrub(EntryDraft {
            kind,
            claimed_at: now,
            subject: Subject { name: self.identity.subject(), sha256: digest },
            controls: Vec::new(),
            outcome: outcome.map(str::to_owned),
            reason,
            runbook: None,
            detail,
        })
    }

    #[expect(clippy::too_many_arguments, reason = "one value per field of the statement, private to this file")]
    fn draft(
        &self,
        kind: EntryKind,
        outcome: Option<&str>,
        runbook: &Runbook,
        finding: &Finding,
        reason: Option<String>,
        detail: Map<String, Value>,
        now: Timestamp,
    ) -> Scrubbed<EntryDraft> {
        self.scrubber.scrub(EntryDraft {
            kind,
            claimed_at: now,
            subject: Subject { name: self.identity.subject(), sha256: facts_sha256(finding) },
            controls: runbook.hipaa.clone(),
            outcome: outcome.map(str::to_owned),
            reason,
            runbook: Some(RunbookRef { id: runbook.id.to_string(), sha256: runbook.sha256.clone() }),
            detail,
        })
    }
}

/// SHA-256 of the facts a finding rests on.
pub(super) fn facts_sha256(finding: &Finding) -> String {
    sha256_hex(finding.observation.facts.to_string().as_bytes())
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

/// The steps and what they did as part of a statement.
pub(super) fn steps_detail(plan: &Plan, results: &[StepResult]) -> Value {
    let steps = plan.steps.iter().zip(results).take(STEPS_CAP).map(|(step, result)| match result {
        StepResult::Done(Applied::Kept) => json!({"step": cap(&step.line()), "result": "kept"}),
        StepResult::Done(Applied::Repaired(what)) => {
            json!({"step": cap(&step.line()), "result": "repaired", "what": cap(what)})
        }
        StepResult::Failed(why) => json!({"step": cap(&step.line()), "result": "failed", "what": cap(why)}),
    });
    Value::Array(steps.collect())
}

fn first_say(finding: &Finding) -> Option<String> {
    finding.reasons.iter().find(|reason| reason.verdict == finding.verdict).map(|reason| cap(&reason.say))
}

fn cap(text: &str) -> String {
    let clean: String = text.chars().filter(|c| !c.is_control() || *c == '\n').collect();
    match clean.get(..clean.floor_char_boundary(TEXT_CAP)) {
        Some(kept) if kept.len() < clean.len() => format!("{kept}…"),
        Some(_) | None => clean,
    }
}

/// Writes a signed heartbeat with the posture: passing is evidence too.
pub async fn heartbeat(app: &App) -> Result<(), HealError> {
    let now = app.clock.now();
    let app_ = app.clone();
    app.store
        .write(move |tx| {
            let exceptions = tx.exceptions()?;
            let findings = tx.findings()?;
            let verdicts = findings.iter().filter_map(|known| {
                let runbook = app_.checks().find(|runbook| runbook.id == known.finding.check)?;
                let verdict =
                    fresh_verdict(known.finding.verdict, known.finding.observed_at, signed(app_.every(runbook)), now);
                Some((known, verdict, excepted(&exceptions, &known.finding, &runbook.hipaa, now)))
            });
            let verdicts: Vec<(&KnownFinding, Verdict, Excepted)> = verdicts.collect();
            let posture = Posture::count(verdicts.iter().map(|(_, verdict, excepted)| (*verdict, *excepted)));
            let mut detail = Map::new();
            detail.insert("posture".to_owned(), serde_json::to_value(posture).unwrap_or(Value::Null));
            let checks =
                verdicts.iter().map(|(known, verdict, _)| (known.finding.check.to_string(), json!(verdict.word())));
            let count = verdicts.len();
            detail.insert("checkCount".to_owned(), json!(count));
            if count <= CHECKS_CAP {
                detail.insert("checks".to_owned(), Value::Object(checks.collect()));
            }
            let covered = verdicts.iter().filter(|(_, _, excepted)| *excepted == Excepted::Yes);
            let covered = covered.take(CHECKS_CAP).map(|(known, ..)| json!(known.finding.check.as_str()));
            detail.insert("excepted".to_owned(), Value::Array(covered.collect()));
            detail.insert("openIncidents".to_owned(), json!(tx.incidents(false)?.len()));
            tx.append(&[app_.plain(EntryKind::Heartbeat, None, None, detail, now)], &app_.seal_context())?;
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
            tx.append(&[app_.plain(EntryKind::Schedule, None, None, detail, now)], &app_.seal_context())?;
            Ok(())
        })
        .await?;
    Ok(())
}
