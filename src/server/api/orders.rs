//! Orders to an appliance, and its word on what became of them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::crypto::dsse::Envelope;
use crate::crypto::keys::VerifierKey;
use crate::domain::id::OrderId;
use crate::domain::order::{OrderReport, REPORT};
use crate::fleet::{BoxFuture, FleetError, orders, sites};
use crate::server::authority::Identity;
use crate::server::problem::Problem;
use crate::server::router::{Answer, Ask, Number};
use crate::server::state::{State, audited};
use crate::wire::{Empty, Orders, Signed};

type Reply = BoxFuture<'static, Result<Answer, Problem>>;

/// Seconds to wait for an order; at the most below what proxies and firewalls cut.
pub(super) const WAIT: Number = Number { name: "wait", default: 0, least: 0, most: 50 };

pub(super) fn fetch(state: Arc<State>, ask: Ask, identity: Identity) -> Reply {
    Box::pin(async move {
        let wait = ask.number(WAIT)?;
        let bell = state.bell(&identity.site, &identity.appliance);
        let until = tokio::time::Instant::now() + Duration::from_secs(u64::try_from(wait).unwrap_or(0));
        loop {
            // Listening before looking: what is queued in between rings.
            let rung = bell.notified();
            // Boxed, so that whoever waits does not hold what looking needs.
            let found = Box::pin(hand_out(&state, &identity)).await?;
            if !found.is_empty() || tokio::time::Instant::now() >= until {
                return Answer::json(&Orders { orders: found });
            }
            tokio::select! {
                () = rung => {}
                () = tokio::time::sleep_until(until) => {}
                // Whoever waits for what may come would hold up the stop for as long.
                () = state.stopped() => return Answer::json(&Orders { orders: Vec::new() }),
            }
        }
    })
}

async fn hand_out(state: &Arc<State>, identity: &Identity) -> Result<Vec<String>, Problem> {
    let (who, now) = (identity.clone(), state.clock.now());
    let waiting = state.fleet.look(move |sql| {
        let who = who.clone();
        Box::pin(async move { orders::waiting(sql, &who.site, &who.appliance, now).await })
    });
    let waiting = waiting.await?;
    let Some(last) = waiting.last().map(|order| order.seq) else { return Ok(Vec::new()) };
    let who = identity.clone();
    state
        .fleet
        .change(move |sql| {
            let who = who.clone();
            Box::pin(async move { orders::delivered(sql, &who.site, &who.appliance, last, now).await })
        })
        .await?;
    Ok(waiting.into_iter().map(|order| String::from_utf8_lossy(&order.envelope).into_owned()).collect())
}

pub(super) fn report(state: Arc<State>, ask: Ask, identity: Identity) -> Reply {
    Box::pin(async move {
        let id: OrderId = ask.part("id")?;
        let signed: Signed = ask.json()?;
        let bad = |why: String| Problem::bad("envelope", why);
        let envelope = Envelope::parse(signed.envelope.as_bytes()).map_err(|error| bad(error.to_string()))?;
        let now = state.clock.now();
        let line = signed.envelope.into_bytes();
        let moved = state.fleet.write(move |sql| {
            let (id, envelope, line, identity) = (id.clone(), envelope.clone(), line.clone(), identity.clone());
            Box::pin(async move {
                let refused = |why: String| FleetError::Refused(why);
                let (_, keys) = sites::log_keys(sql, &identity.site, &identity.appliance).await?;
                let key: VerifierKey = keys.entry.parse().map_err(|_| FleetError::Corrupt("entry key".to_owned()))?;
                let payload = envelope.verify(&[key.key]).map_err(|error| refused(error.to_string()))?;
                let payload = payload.get();
                if payload.payload_type != REPORT {
                    return Err(refused("it is no report on an order".to_owned()));
                }
                let report: OrderReport =
                    serde_json::from_slice(&payload.bytes).map_err(|error| refused(error.to_string()))?;
                let order = orders::order(sql, &identity.site, &id).await?;
                let same = report.order == id
                    && report.site == identity.site
                    && report.appliance == identity.appliance
                    && order.appliance == identity.appliance
                    && report.seq == order.seq;
                if !same {
                    return Err(refused("the report is about another order or appliance".to_owned()));
                }
                if !order.state.may_become(report.state) {
                    // A word said twice, or late: what is known stays.
                    return Ok(());
                }
                let say: String = report.say.chars().take(2000).collect();
                orders::put_order_state(sql, &order, report.state, (&say, Some(line)), now).await?;
                let name = format!("appliance:{}/{}", identity.site, identity.appliance);
                let detail = json!({"state": report.state.word(), "seq": order.seq});
                audited(sql, (identity.site.as_str(), now), (&name, "order.report", id.as_str()), detail).await
            })
        });
        moved.await?;
        Answer::json(&Empty {})
    })
}
