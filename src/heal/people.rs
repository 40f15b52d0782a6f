//! What people decide: mode, kill switch, approvals, exceptions, baselines. Each decision is a statement in the log.

use serde_json::{Map, Value, json};

use crate::app::App;
use crate::crypto::{jcs, sha256_hex};
use crate::domain::baseline::{Baseline, acceptable, differences};
use crate::domain::exception::Exception;
use crate::domain::finding::{Verdict, fresh_verdict};
use crate::domain::id::{CheckId, RecordId, Target};
use crate::domain::mode::Mode;
use crate::domain::order::Order;
use crate::domain::runbook::Runbook;
use crate::domain::time::signed;
use crate::store::{Approval, StoreError};

use super::HealError;

/// Name of the setting that holds the mode set at run time.
pub const MODE: &str = "mode";
/// Name of the setting that holds the kill switch: `on` or `off`.
pub const KILL_SWITCH: &str = "kill_switch";

/// A yes or a no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Run exactly the plan whose SHA-256 begins like this, once: a yes is to what was read, not to what came since.
    Approve {
        /// At least [`PREFIX`] hexadecimal digits.
        plan: String,
    },
    /// Do not.
    Reject,
}

/// Digits of a plan's SHA-256 that name it.
pub const PREFIX: usize = 8;

/// Sets the mode at run time.
pub async fn set_mode(app: &App, mode: Mode, who: &str) -> Result<(), HealError> {
    change(app, MODE, mode.word(), &format!("mode set to {}", mode.word()), who).await
}

/// Throws or releases the kill switch.
pub async fn set_kill_switch(app: &App, on: bool, who: &str) -> Result<(), HealError> {
    let value = if on { "on" } else { "off" };
    change(app, KILL_SWITCH, value, &format!("kill switch {value}"), who).await
}

async fn change(app: &App, name: &'static str, value: &str, what: &str, who: &str) -> Result<(), HealError> {
    let who = named(who)?;
    let now = app.clock.now();
    let (app_, value, what) = (app.clone(), value.to_owned(), what.to_owned());
    app.store
        .write(move |tx| {
            let before = tx.setting(name)?.map(|setting| setting.value);
            tx.put_setting(name, &value, &who, now)?;
            let detail = Map::from_iter([("before".to_owned(), json!(before)), ("after".to_owned(), json!(value))]);
            tx.append(&[app_.decision_entry(&what, &who, detail)], &app_.seal_context())?;
            Ok(())
        })
        .await?;
    Ok(())
}

/// Writes down what the server gave, or what of it was refused.
pub async fn from_server(app: &App, what: &str, detail: Map<String, Value>) -> Result<(), HealError> {
    let (app_, what) = (app.clone(), what.to_owned());
    app.store
        .write(move |tx| {
            tx.append(&[app_.decision_entry(&what, "server", detail)], &app_.seal_context())?;
            Ok(())
        })
        .await?;
    Ok(())
}

/// Answers the open question about an incident.
pub async fn answer(app: &App, incident: &RecordId, answer: Answer, who: &str) -> Result<Approval, HealError> {
    let who = named(who)?;
    if let Answer::Approve { plan } = &answer
        && (plan.len() < PREFIX || !plan.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')))
    {
        let why =
            format!("`{plan}` is no plan: give at least {PREFIX} of its hexadecimal digits, as `incident show` does");
        return Err(HealError::Refused(why));
    }
    let now = app.clock.now();
    let (app_, incident) = (app.clone(), incident.clone());
    let answered = app
        .store
        .write(move |tx| {
            let open = tx
                .approvals(&["pending"])?
                .into_iter()
                .find(|approval| approval.incident == incident && now < approval.expires_at);
            let mut approval =
                open.ok_or_else(|| StoreError::NotThere(format!("incident {incident} has no open question")))?;
            let (state, what) = match &answer {
                Answer::Approve { plan } if !approval.plan_sha256.starts_with(plan.as_str()) => {
                    let now = approval.plan_sha256.get(..PREFIX).unwrap_or_default();
                    let why = format!("incident {incident} waits with another plan ({now}) than {plan}");
                    return Err(StoreError::NotThere(format!(
                        "{why}; look at it with `malachor incident show {incident}`"
                    )));
                }
                Answer::Approve { .. } => ("granted", "approved"),
                Answer::Reject => ("rejected", "rejected"),
            };
            state.clone_into(&mut approval.state);
            approval.decided_by = Some(who.clone());
            tx.put_approval(&approval)?;
            let detail = Map::from_iter([
                ("incident".to_owned(), json!(incident.as_str())),
                ("approval".to_owned(), json!(approval.id.as_str())),
                ("plan".to_owned(), json!(approval.plan_sha256)),
            ]);
            tx.append(&[app_.decision_entry(&format!("plan {what}"), &who, detail)], &app_.seal_context())?;
            Ok(approval)
        })
        .await?;
    Ok(answered)
}

/// Adds an exception.
pub async fn add_exception(app: &App, exception: Exception) -> Result<(), HealError> {
    let exception = exception.check().map_err(|error| HealError::Refused(error.to_string()))?;
    if let Some(control) = &exception.scope.control {
        app.catalog.controls.check(control).map_err(HealError::Refused)?;
    }
    if let Some(runbook) = &exception.scope.runbook
        && !app.catalog.runbooks.contains_key(runbook)
    {
        return Err(HealError::Refused(format!("no runbook is called `{runbook}`")));
    }
    let app_ = app.clone();
    app.store
        .write(move |tx| {
            tx.add_exception(&exception)?;
            let detail = match serde_json::to_value(&exception) {
                Ok(Value::Object(detail)) => detail,
                _ => Map::new(),
            };
            tx.append(&[app_.decision_entry("exception added", &exception.approver, detail)], &app_.seal_context())?;
            Ok(())
        })
        .await?;
    Ok(())
}

/// Ends an exception before its time.
pub async fn remove_exception(app: &App, id: &RecordId, who: &str) -> Result<(), HealError> {
    let who = named(who)?;
    let now = app.clock.now();
    let (app_, id) = (app.clone(), id.clone());
    app.store
        .write(move |tx| {
            tx.remove_exception(&id, &who, now)?;
            let detail = Map::from_iter([("id".to_owned(), json!(id.as_str()))]);
            tx.append(&[app_.decision_entry("exception removed", &who, detail)], &app_.seal_context())?;
            Ok(())
        })
        .await?;
    Ok(())
}

/// Accepts what a check found last as right; from now on it is compared with this.
///
/// What was found is taken as it was stored, so a person accepts what they could read, not what came since.
pub async fn accept_baseline(app: &App, check: &CheckId, reason: &str, who: &str) -> Result<Baseline, HealError> {
    let who = named(who)?;
    let runbook = comparable(app, check)?;
    if reason.trim().is_empty() {
        return Err(HealError::Refused("accepting a baseline needs a reason".to_owned()));
    }
    let (now, every) = (app.clock.now(), signed(app.every(runbook)));
    let (app_, names, reason) = (app.clone(), runbook.detect.baseline.clone(), reason.trim().to_owned());
    let (check, title) = (check.clone(), runbook.title.clone());
    let accepted = app
        .store
        .write(move |tx| {
            let target = Target::host();
            let look_first = |why: &str| StoreError::NotThere(format!("{why}; run `malachor check run {check}` first"));
            let found = tx.finding(&check, &target)?.ok_or_else(|| look_first("nothing was looked at yet"))?.finding;
            if fresh_verdict(Verdict::Pass, found.observed_at, every, now) == Verdict::Unknown {
                return Err(look_first(&format!("what was found is of {}, too old to be accepted", found.observed_at)));
            }
            let facts = acceptable(&found.observation.facts, &names).map_err(|why| look_first(&why))?;
            let before = tx.baseline(&check, &target)?;
            let empty = Map::new();
            let changed = differences(&facts, before.as_ref().map_or(&empty, |baseline| &baseline.facts)).len();
            let mut canonical = Vec::new();
            jcs::emit(&Value::Object(facts.clone()), &mut canonical);
            let baseline = Baseline {
                check: check.clone(),
                target,
                version: before.map_or(1, |baseline| baseline.version.saturating_add(1)),
                sha256: sha256_hex(&canonical),
                facts,
                accepted_by: who,
                accepted_at: now,
                reason,
            };
            tx.add_baseline(&baseline)?;
            let detail = Map::from_iter([
                ("check".to_owned(), json!(check)),
                ("title".to_owned(), json!(title)),
                ("version".to_owned(), json!(baseline.version)),
                ("sha256".to_owned(), json!(baseline.sha256)),
                ("foundAt".to_owned(), json!(found.observed_at.to_string())),
                ("changes".to_owned(), json!(changed)),
                ("reason".to_owned(), json!(baseline.reason)),
            ]);
            let entry = app_.decision_entry("baseline accepted", &baseline.accepted_by, detail);
            tx.append(&[entry], &app_.seal_context())?;
            Ok(baseline)
        })
        .await?;
    Ok(accepted)
}

/// The runbook of a check whose facts can be accepted.
pub fn comparable<'a>(app: &'a App, check: &CheckId) -> Result<&'a Runbook, HealError> {
    let runbook = app.catalog.runbooks.get(check);
    let runbook = runbook.ok_or_else(|| HealError::Refused(format!("no runbook is called `{check}`")))?;
    if runbook.detect.baseline.is_empty() {
        let why = "has no `detect.baseline`, so there is nothing to accept";
        return Err(HealError::Refused(format!("{check} {why}")));
    }
    Ok(runbook)
}

/// Says when an exception is about to end (14, 3 and 0 days) and records when one has; each once.
pub async fn notices(app: &App) -> Result<(), HealError> {
    let now = app.clock.now();
    let app_ = app.clone();
    app.store
        .write(move |tx| {
            for exception in tx.exceptions()? {
                let Some(stage) = stage(exception.days_left(now)) else { continue };
                let name = format!("notice.{}", exception.id);
                if tx.setting(&name)?.is_some_and(|said| said.value == stage) {
                    continue;
                }
                tx.put_setting(&name, stage, "malachor", now)?;
                let (id, owner) = (exception.id.as_str(), exception.owner.as_str());
                if stage == EXPIRED {
                    let detail = Map::from_iter([
                        ("id".to_owned(), json!(id)),
                        ("expires".to_owned(), json!(exception.expires.to_string())),
                    ]);
                    tx.append(&[app_.decision_entry("exception expired", "malachor", detail)], &app_.seal_context())?;
                    tracing::warn!(
                        exception = id,
                        "exception {id} has expired; what it covered counts and heals again"
                    );
                } else {
                    tracing::warn!(
                        exception = id,
                        stage,
                        "exception {id} ends in {stage}; its owner ({owner}) may renew it"
                    );
                }
            }
            Ok(())
        })
        .await?;
    Ok(())
}

const EXPIRED: &str = "expired";

/// The notice an exception is due for.
fn stage(days_left: i64) -> Option<&'static str> {
    match days_left {
        ..0 => Some(EXPIRED),
        0 => Some("less than a day"),
        1..=3 => Some("3 days"),
        4..=14 => Some("14 days"),
        15.. => None,
    }
}

/// Writes what became of an order into the log; a refused one is evidence like any other.
pub async fn order_entry(app: &App, order: Option<&Order>, outcome: &str, say: &str) -> Result<(), HealError> {
    let (who, what) = match order {
        Some(order) => (order.by.clone(), format!("order {} {outcome}", order.verb.word())),
        None => ("unknown".to_owned(), format!("order {outcome}")),
    };
    // Who reads the list sees why something was not done.
    let what = if outcome == "refused" { app.cap(&format!("{what}: {say}")) } else { what };
    let mut detail = Map::from_iter([("say".to_owned(), json!(say))]);
    if let Some(order) = order {
        detail.insert("order".to_owned(), json!(order.id.as_str()));
        detail.insert("seq".to_owned(), json!(order.seq));
        detail.insert("approvedBy".to_owned(), json!(order.approved_by));
    }
    let app_ = app.clone();
    app.store
        .write(move |tx| {
            tx.append(&[app_.decision_entry(&what, &who, detail)], &app_.seal_context())?;
            Ok(())
        })
        .await?;
    Ok(())
}

fn named(who: &str) -> Result<String, HealError> {
    match who.trim() {
        "" => Err(HealError::Refused("a decision needs a name: give `--by NAME`".to_owned())),
        name => Ok(name.to_owned()),
    }
}
