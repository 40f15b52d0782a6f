//! Orders: fetched, verified, written down as used, carried out within the guards, reported in signed words.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::pull::{Pulled, pull};
use super::{Link, UplinkError, enrol};
use crate::app::App;
use crate::crypto::dsse::{self, Envelope};
use crate::crypto::{jcs, sha256};
use crate::domain::bundle::BundleKind;
use crate::domain::finding::Verdict;
use crate::domain::id::CheckId;
use crate::domain::order::{Addressee, ORDER, Order, OrderReport, OrderState, REPORT, Refusal, Verb};
use crate::heal::{self, Outcome, Reach, people};
use crate::store::UsedOrder;
use crate::wire::{Empty, Orders, Signed};

/// Asks for orders, waiting at the server for up to `wait` seconds.
pub(super) async fn ask(link: &Link, wait: u64) -> Result<Orders, UplinkError> {
    link.get(&format!("/v1/orders?wait={wait}"), Duration::from_secs(wait + 20)).await
}

/// Orders taken from one answer; the rest comes with the next.
const MOST: usize = 100;

/// What has to happen after orders were carried out and reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum After {
    /// Nothing.
    Nothing,
    /// A new connection: the certificate changed.
    Connect,
    /// A new start of the pipeline: content or configuration changed.
    Reload,
}

/// Deals with orders one after another, and says what became of them.
///
/// `refused` remembers what was refused without a place in the sequence: the server hands it out again until its time is
/// over, and once is enough for the log.
pub(super) async fn deal(
    app: &App,
    link: &Link,
    (orders, mut refused): (Orders, Refused),
) -> Result<(After, Refused), UplinkError> {
    let mut after = After::Nothing;
    for envelope in orders.orders.iter().take(MOST) {
        let digest = sha256(envelope.as_bytes());
        if refused.contains(&digest) {
            continue;
        }
        match deal_with(app, link, envelope.as_bytes()).await? {
            Some(next) => after = after.max(next),
            None => drop(refused.insert(digest)),
        }
    }
    // What the server was not told yet it is told with the next check-in; what follows here must not wait for it.
    if let Err(error) = tell(app, link).await {
        tracing::warn!("reports on orders wait: {error}");
    }
    Ok((after, refused))
}

/// Carries out an order to stop all healing while another order is being carried out; `false` where there is none. What
/// stood before it in the sequence and was not begun is refused from then on.
pub(super) async fn stop_at_once(app: &App, link: &Link, orders: &Orders) -> Result<bool, UplinkError> {
    let last_seq = app.store.read(|tx| tx.last_order()).await?;
    let to = Addressee { site: link.site(), appliance: link.appliance(), last_seq, now: app.clock.now() };
    for envelope in &orders.orders {
        // What is wrong with others is said by whoever deals with them in their turn.
        let stops = |order: Order| matches!(order.verb, Verb::SetKillSwitch { on: true }) && order.check(to).is_ok();
        if verified(envelope.as_bytes(), link).is_ok_and(stops) {
            deal_with(app, link, envelope.as_bytes()).await?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// SHA-256 of envelopes that were refused and recorded.
pub(super) type Refused = BTreeSet<[u8; 32]>;

/// What was being carried out when the process ended is not carried out again: the check's own recovery verified it.
pub(super) async fn recover(app: &App) -> Result<(), UplinkError> {
    let unfinished = app.store.read(|tx| tx.unfinished_orders()).await?;
    for order in unfinished {
        let say = "the appliance was restarted while it was carried out; what had begun was verified";
        move_on(app, order.seq, OrderState::Failed, say).await?;
    }
    Ok(())
}

/// Deals with one order; `None` where it was refused and takes no place in the sequence.
async fn deal_with(app: &App, link: &Link, envelope: &[u8]) -> Result<Option<After>, UplinkError> {
    let last_seq = app.store.read(|tx| tx.last_order()).await?;
    let order = match verified(envelope, link) {
        Ok(order) => order,
        Err(refusal) => return refused(app, None, &refusal).await.map(|()| None),
    };
    let to = Addressee { site: link.site(), appliance: link.appliance(), last_seq, now: app.clock.now() };
    match order.check(to) {
        // Handed out again because our word was lost: the server is told once more.
        Err(Refusal::Replay { .. }) if known(app, &order).await? => Ok(Some(After::Nothing)),
        Err(refusal @ (Refusal::Replay { .. } | Refusal::Addressee(_))) => {
            refused(app, Some(&order), &refusal).await.map(|()| None)
        }
        Err(refusal) => {
            used(app, &order, envelope, OrderState::Refused, &refusal.to_string()).await?;
            refused(app, Some(&order), &refusal).await.map(|()| Some(After::Nothing))
        }
        Ok(()) => {
            // On disk before anything is done, so that nothing is ever done twice.
            if !used(app, &order, envelope, OrderState::Acknowledged, "").await? {
                if known(app, &order).await? {
                    return Ok(Some(After::Nothing));
                }
                let refusal = Refusal::Replay { seq: order.seq, last: last_seq };
                return refused(app, Some(&order), &refusal).await.map(|()| None);
            }
            tell(app, link).await.ok();
            move_on(app, order.seq, OrderState::Running, "").await?;
            let (state, say, after) = carry_out(app, link, &order).await;
            noted(app, &order, state, &say).await?;
            move_on(app, order.seq, state, &say).await?;
            Ok(Some(after))
        }
    }
}

fn verified(envelope: &[u8], link: &Link) -> Result<Order, Refusal> {
    let envelope = Envelope::parse(envelope).map_err(|error| Refusal::Form(error.to_string()))?;
    let keys: Vec<_> = link.order_keys.iter().map(|key| key.key).collect();
    let payload = envelope.verify(&keys).map_err(|_| Refusal::Signature)?;
    if payload.get().payload_type != ORDER {
        return Err(Refusal::Form("it is no order".to_owned()));
    }
    Order::read(&payload.get().bytes)
}

async fn known(app: &App, order: &Order) -> Result<bool, UplinkError> {
    let (id, seq) = (order.id.to_string(), order.seq);
    Ok(app.store.write(move |tx| tx.told_again(seq, &id)).await?)
}

async fn used(app: &App, order: &Order, envelope: &[u8], state: OrderState, say: &str) -> Result<bool, UplinkError> {
    let order = UsedOrder {
        seq: order.seq,
        id: order.id.to_string(),
        nonce: order.nonce.clone(),
        envelope: envelope.to_vec(),
        state: state.word().to_owned(),
        say: say.to_owned(),
    };
    let now = app.clock.now();
    Ok(app.store.write(move |tx| tx.use_order(&order, now)).await?)
}

async fn move_on(app: &App, seq: u64, state: OrderState, say: &str) -> Result<(), UplinkError> {
    let say = app.scrubber.text(say);
    Ok(app.store.write(move |tx| tx.put_order(seq, state.word(), &say)).await?)
}

/// A refusal is evidence.
async fn refused(app: &App, order: Option<&Order>, why: &Refusal) -> Result<(), UplinkError> {
    tracing::warn!(order = order.map(|order| order.id.as_str()), "an order is refused: {why}");
    people::order_entry(app, order, "refused", &why.to_string()).await.map_err(|error| super::own("log", error))
}

async fn noted(app: &App, order: &Order, state: OrderState, say: &str) -> Result<(), UplinkError> {
    people::order_entry(app, Some(order), state.word(), say).await.map_err(|error| super::own("log", error))
}

async fn carry_out(app: &App, link: &Link, order: &Order) -> (OrderState, String, After) {
    let done = match &order.verb {
        Verb::RunChecks { checks } => run_checks(app, checks).await,
        Verb::RunRunbook { check, params } => run_runbook(app, order, (check, params)).await,
        Verb::SetKillSwitch { on } => people::set_kill_switch(app, *on, &order.by)
            .await
            .map(|()| (OrderState::Succeeded, format!("kill switch {}", if *on { "on" } else { "off" }))),
        Verb::CollectDiagnostics {} => diagnostics(app).await,
        Verb::SyncContent {} => return sync(app, link, BundleKind::Content).await,
        Verb::UpdateConfig {} => return sync(app, link, BundleKind::Config).await,
        Verb::RotateKeys {} => {
            return match enrol::renew(app.state_dir(), link).await {
                Ok(()) => (OrderState::Succeeded, "the client certificate has a new key".to_owned(), After::Connect),
                Err(error) => (OrderState::Failed, error.to_string(), After::Nothing),
            };
        }
    };
    let (state, say) = done.unwrap_or_else(|error| (OrderState::Failed, error.to_string()));
    (state, say, After::Nothing)
}

async fn sync(app: &App, link: &Link, kind: BundleKind) -> (OrderState, String, After) {
    match pull(app, link, kind).await {
        Ok(Pulled::Adopted(its)) => {
            let say = format!("{} {} is in force from the next start of the pipeline on", kind.word(), its.number);
            (OrderState::Succeeded, say, After::Reload)
        }
        Ok(Pulled::Same) => {
            (OrderState::Succeeded, format!("the {} in force is the one published", kind.word()), After::Nothing)
        }
        Ok(Pulled::Refused(why)) => (OrderState::Refused, why, After::Nothing),
        Err(error) => (OrderState::Failed, error.to_string(), After::Nothing),
    }
}

async fn run_checks(app: &App, checks: &[CheckId]) -> Result<(OrderState, String), heal::HealError> {
    let mut said = serde_json::Map::new();
    for runbook in app.checks().filter(|runbook| checks.is_empty() || checks.contains(&runbook.id)) {
        let run = heal::run_check(app, runbook, Reach::Heal).await?;
        said.insert(runbook.id.to_string(), json!(run.known.finding.verdict.word()));
    }
    let missing: Vec<&str> = checks.iter().map(CheckId::as_str).filter(|id| !said.contains_key(*id)).collect();
    if !missing.is_empty() {
        return Ok((OrderState::Refused, format!("no check here is called {}", missing.join(", "))));
    }
    Ok((OrderState::Succeeded, Value::Object(said).to_string()))
}

async fn run_runbook(
    app: &App,
    order: &Order,
    (check, params): (&CheckId, &Map<String, Value>),
) -> Result<(OrderState, String), heal::HealError> {
    let Some(runbook) = app.checks().find(|runbook| runbook.id == *check) else {
        return Ok((OrderState::Refused, format!("no check here is called {check}")));
    };
    let run = heal::run_confirmed(app, runbook).await?;
    match run.known.finding.verdict {
        Verdict::Fail => {}
        Verdict::Unknown => {
            return Ok((OrderState::Refused, "what the check looks at cannot be seen; nothing was changed".to_owned()));
        }
        Verdict::Pass | Verdict::Warn | Verdict::NotApplicable => {
            return Ok((
                OrderState::Succeeded,
                format!("the check says {}; nothing had to be changed", run.known.finding.verdict.word()),
            ));
        }
    }
    let who = format!("{} by order {}", order.by, order.id);
    let Some(proposal) = heal::propose_to(app, &run, &who, params).await? else {
        return Ok((OrderState::Refused, "an exception keeps hands off".to_owned()));
    };
    Ok(match heal::apply(app, &run, &proposal).await? {
        None => {
            let stopped =
                proposal.answers.iter().find(|answer| answer.verdict != crate::domain::guard::GuardVerdict::Pass);
            let why = stopped.map_or_else(|| proposal.plan.err().unwrap_or_default(), |answer| answer.say.clone());
            (OrderState::Refused, why)
        }
        Some(Outcome::Repaired) => (OrderState::Succeeded, "healed: the check passes again".to_owned()),
        Some(Outcome::Kept) => (OrderState::Succeeded, "the check passes; nothing had to be changed".to_owned()),
        Some(Outcome::NotStarted(why)) => (OrderState::Refused, why),
        Some(Outcome::Undone(why)) => (OrderState::Failed, format!("undone: {why}")),
        Some(Outcome::Failed(why)) => (OrderState::Failed, why),
    })
}

async fn diagnostics(app: &App) -> Result<(OrderState, String), heal::HealError> {
    let posture = heal::posture(app).await?;
    let (size, outbox, open) =
        app.store.read(|tx| Ok((tx.log_size()?, tx.outbox()?.0, tx.incidents(false)?.len()))).await?;
    let said = json!({
        "version": env!("CARGO_PKG_VERSION"), "posture": posture, "logSize": size, "outbox": outbox, "openIncidents": open,
    });
    Ok((OrderState::Succeeded, said.to_string()))
}

/// Tells the server where orders stand that it was not told yet, in signed words.
pub(super) async fn tell(app: &App, link: &Link) -> Result<(), UplinkError> {
    for order in app.store.read(|tx| tx.untold_orders()).await? {
        let (Ok(id), Some(state)) = (order.id.parse(), OrderState::read(&order.state)) else { continue };
        let report = OrderReport {
            version: 1,
            order: id,
            site: link.site().clone(),
            appliance: link.appliance().clone(),
            seq: order.seq,
            state,
            at: app.clock.now(),
            say: order.say.clone(),
        };
        let value = serde_json::to_value(&report).map_err(|error| super::own("report", error))?;
        let payload = jcs::to_vec(&value).map_err(|error| super::own("report", error))?;
        let (entry, _, _) = app.identity.public().map_err(|error| super::own("keys", error))?;
        let signed = app.identity.sign_with_entry(|key| dsse::sign(REPORT, &payload, key, entry.id()));
        let signed = signed.map_err(|error| super::own("report", error))?;
        let signed = Signed { envelope: String::from_utf8_lossy(&signed).into_owned() };
        match link.post::<Empty>(&format!("/v1/orders/{}", order.id), &signed).await {
            Ok(Empty {}) => {}
            // It will not be taken another time either, and others wait behind it.
            Err(UplinkError::Said { status: status @ (400 | 403 | 404 | 409 | 413 | 422), detail }) => {
                tracing::error!(order = order.id, status, "the server does not take the report on an order: {detail}");
            }
            Err(error) => return Err(error),
        }
        let (seq, word) = (order.seq, order.state.clone());
        app.store.write(move |tx| tx.told(seq, &word)).await?;
    }
    Ok(())
}
