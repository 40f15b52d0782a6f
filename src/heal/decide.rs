//! Which runbook, by whom, with what; and what the guards say to it.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use crate::app::App;
use crate::domain::exception::Exception;
use crate::domain::finding::{Finding, Verdict};
use crate::domain::guard::{self, Approved, Decision, GuardAnswer, GuardInput};
use crate::domain::id::RuleId;
use crate::domain::incident::Incident;
use crate::domain::mode::Mode;
use crate::domain::plan::{Origin, Plan};
use crate::domain::planning::{self, Basis, Choice};
use crate::domain::rule::{Question, Rule};
use crate::domain::runbook::Runbook;
use crate::domain::tier::Tier;
use crate::store::{Approval, KnownFinding, Setting, StoreError, Tx};

use super::people::{KILL_SWITCH, MODE};
use super::proof::plan_sha256;

/// What would be done about an incident, and what stands in its way.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// The plan, or why there is none.
    pub plan: Result<Plan, String>,
    /// Every guard's answer; empty where there is no plan.
    pub answers: Vec<GuardAnswer>,
    /// What follows.
    pub decision: Decision,
}

/// Pause and attempts where a person chose.
const BY_HAND: (std::time::Duration, u32) = (std::time::Duration::ZERO, 100);

/// Proposes what to do about an incident: the first matching L1 rule, else a person has to choose.
///
/// It changes nothing, and asked twice in the same state it answers the same.
pub fn propose(
    app: &App,
    tx: &Tx<'_>,
    incident: &Incident,
    finding: &Finding,
    now: Timestamp,
) -> Result<Proposal, StoreError> {
    debug_assert_eq!(finding.verdict, Verdict::Fail, "only what fails is decided about");
    let question = Question::about(finding);
    let Some(rule) = app.catalog.rules.choose(&question) else {
        return Ok(nobody(format!("no rule knows {} with {}", finding.check, words(finding))));
    };
    match chosen_by(rule, &question) {
        Ok(choice) => {
            guarded(app, tx, (incident, finding), (rule.run.clone(), choice, (rule.cooldown, rule.max_attempts)), now)
        }
        Err(why) => Ok(nobody(why)),
    }
}

/// Proposes what a named person asks for: the check's own runbook with these parameters; without any what the rule would
/// choose, else that runbook as it stands.
pub(super) fn propose_for(
    app: &App,
    tx: &Tx<'_>,
    (incident, finding): (&Incident, &Finding),
    (who, given): (&str, &Map<String, Value>),
    now: Timestamp,
) -> Result<Proposal, StoreError> {
    let question = Question::about(finding);
    let rule = app.catalog.rules.choose(&question).filter(|_| given.is_empty());
    let params = rule.and_then(|rule| rule.arguments(&question).ok()).unwrap_or_else(|| given.clone());
    let runbook = rule.map_or_else(|| finding.check.clone(), |rule| rule.run.clone());
    let choice = Choice {
        tier: Tier::L3,
        origin: Origin::Person(who.to_owned()),
        reason: format!("{who} asked for it"),
        params,
    };
    guarded(app, tx, (incident, finding), (runbook, choice, BY_HAND), now)
}

fn chosen_by(rule: &Rule, question: &Question) -> Result<Choice, String> {
    let params = rule.arguments(question).map_err(|why| format!("rule {}: {why}", rule.id))?;
    Ok(Choice {
        tier: Tier::L1,
        origin: Origin::Rule(rule.id.clone()),
        reason: because(&rule.id, rule.when.source()),
        params,
    })
}

fn because(rule: &RuleId, condition: &str) -> String {
    format!("{rule} matches: {condition}")
}

fn words(finding: &Finding) -> String {
    finding.failing_words().collect::<Vec<_>>().join(", ")
}

fn nobody(why: String) -> Proposal {
    Proposal { plan: Err(why.clone()), answers: Vec::new(), decision: Decision::Escalate(why) }
}

type Chosen = (crate::domain::id::CheckId, Choice, (std::time::Duration, u32));

fn guarded(
    app: &App,
    tx: &Tx<'_>,
    (incident, finding): (&Incident, &Finding),
    (runbook, choice, limits): Chosen,
    now: Timestamp,
) -> Result<Proposal, StoreError> {
    let Some(runbook) = app.catalog.runbooks.get(&runbook) else {
        return Ok(nobody(format!("runbook {runbook} is not loaded")));
    };
    let basis = Basis { incident, finding, settings: app.shown_settings(&runbook.id) };
    match planning::make(runbook, basis, choice) {
        Err(error) => Ok(nobody(error.to_string())),
        Ok(plan) => {
            let answers = ask(app, tx, &Asked { incident, runbook, basis, plan: &plan, limits }, now)?;
            let decision = guard::decide(&answers);
            Ok(Proposal { plan: Ok(plan), answers, decision })
        }
    }
}

struct Asked<'a> {
    incident: &'a Incident,
    runbook: &'a Runbook,
    basis: Basis<'a>,
    plan: &'a Plan,
    limits: (std::time::Duration, u32),
}

fn ask(app: &App, tx: &Tx<'_>, asked: &Asked<'_>, now: Timestamp) -> Result<Vec<GuardAnswer>, StoreError> {
    let Asked { incident, runbook, basis, plan, limits } = *asked;
    let no_tiers = Vec::new();
    let remediate = runbook.remediate.as_ref();
    let in_flight: Vec<(String, bool)> = tx
        .open_executions()?
        .into_iter()
        .filter(|execution| execution.plan.target == plan.target)
        .map(|execution| (execution.plan.runbook.to_string(), execution.plan.disruptive))
        .collect();
    let failed_at = tx.failures(&incident.check, &incident.target)?;
    // A rule may run another runbook than the check's own: what people said about either holds.
    let checked = app.catalog.runbooks.get(&incident.check).unwrap_or(runbook);
    let hour_ago = now.checked_sub(SignedDuration::from_hours(1)).unwrap_or(Timestamp::MIN);
    let input = GuardInput {
        plan,
        now,
        kill_switch: tx.setting(KILL_SWITCH)?.filter(|switch| switch.value == "on").map(|switch| switch.changed_by),
        mode: mode(app, tx, runbook)?.strictest(mode(app, tx, checked)?),
        exception: forbidding(&tx.exceptions()?, basis.finding, (runbook, checked), now),
        tiers: remediate.map_or(&no_tiers, |remediate| &remediate.tiers),
        runbook_sha256: &runbook.sha256,
        unmet: remediate.map_or_else(Vec::new, |remediate| planning::unmet(remediate, basis, &plan.params)),
        clock_trouble: clock_trouble(app, tx, incident, now)?,
        in_flight: &in_flight,
        failed_at: &failed_at,
        attempts: incident.attempts_with(&runbook.sha256),
        max_attempts: limits.1,
        cooldown: limits.0,
        last_attempt_at: incident.last_attempt_at,
        executions_last_hour: tx.executions_between(hour_ago, now)?,
        limits: app.config().heal.limits(),
        window: app.windows.state(now),
        approved: approved(tx, plan, now)?,
    };
    Ok(guard::ask(&input))
}

/// The strictest of the configured mode, the runbook's, and what people set at run time.
pub(super) fn mode(app: &App, tx: &Tx<'_>, runbook: &Runbook) -> Result<Mode, StoreError> {
    let configured = app.config().heal.mode;
    let own = app.config().runbook(runbook.id.as_str()).mode.unwrap_or(Mode::Heal);
    let read = |set: Setting| set.value.parse().map_err(|_| StoreError::Corrupt(format!("mode `{}`", set.value)));
    let set = tx.setting(MODE)?.map(read).transpose()?.unwrap_or(configured);
    Ok(configured.strictest(set).strictest(own))
}

fn forbidding(
    exceptions: &[Exception],
    finding: &Finding,
    (runbook, checked): (&Runbook, &Runbook),
    now: Timestamp,
) -> Option<String> {
    let covers = |exception: &&Exception| {
        exception.covers(finding, &checked.hipaa)
            || exception.covers(finding, &runbook.hipaa)
            || exception.scope.runbook.as_ref() == Some(&runbook.id)
    };
    exceptions
        .iter()
        .filter(|exception| exception.forbids_healing() && exception.in_force(now))
        .find(covers)
        .map(|exception| exception.id.to_string())
}

/// A clock behind what was already written cannot be trusted with windows and pauses.
///
/// A clock that once jumped far ahead and came back left dates that lie years ahead: those hold nothing up for ever.
fn clock_trouble(app: &App, tx: &Tx<'_>, incident: &Incident, now: Timestamp) -> Result<Option<String>, StoreError> {
    const FAR: SignedDuration = SignedDuration::from_hours(7 * 24);
    let running = |known: &KnownFinding| app.checks().any(|runbook| runbook.id == known.finding.check);
    let seen = tx.findings()?.into_iter().filter(running).map(|known| known.finding.observed_at);
    let opened = Some(incident.opened_at).filter(|at| at.duration_since(now) < FAR);
    Ok(seen
        .chain(opened)
        .max()
        .filter(|newest| newest.duration_since(now) > SignedDuration::from_secs(60))
        .map(|newest| format!("it went back behind {newest}")))
}

fn approved(tx: &Tx<'_>, plan: &Plan, now: Timestamp) -> Result<Approved, StoreError> {
    let open = |approval: &Approval| approval.incident == plan.incident && now < approval.expires_at;
    if let Origin::Person(who) = &plan.origin {
        let rejected = tx.approvals(&["rejected"])?.into_iter().find(open).and_then(|approval| approval.decided_by);
        return Ok(match rejected.filter(|rejected_by| rejected_by != who) {
            Some(rejected_by) => Approved::Overruling { who: who.clone(), rejected_by },
            None => Approved::By(who.clone()),
        });
    }
    let hash = plan_sha256(plan);
    let answered = tx.approvals(&["granted", "rejected"])?.into_iter();
    let answered = answered.filter(open).find(|approval| approval.plan_sha256 == hash);
    Ok(match answered {
        Some(approval) if approval.state == "granted" => Approved::By(approval.decided_by.unwrap_or_default()),
        Some(approval) => Approved::Rejected(approval.decided_by.unwrap_or_default()),
        None => Approved::Pending,
    })
}
