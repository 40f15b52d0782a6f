//! From a person's request to signed orders: who is meant, whether a second person is needed, one envelope for each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::problem::Problem;
use super::state::State;
use super::whose::Whose;
use crate::crypto::dsse;
use crate::crypto::{hex, jcs};
use crate::domain::id::{ApplianceId, OrderId, SiteId};
use crate::domain::order::{MAX_LIFE, ORDER, Order, OrderState, Verb};
use crate::domain::role::{Deed, Sites, may};
use crate::fleet::audit::{self, Audit};
use crate::fleet::orders::{self, Request, StoredOrder};
use crate::fleet::people;
use crate::fleet::sites::{self, ApplianceState, Enrolled, PlanTier};
use crate::fleet::{FleetError, Sql};
use crate::lock::{Rate, Taken};

/// How long an order holds where nobody says otherwise.
const LIFE: i64 = 1800;

/// The time in which a site takes so many requests, whoever asks: a fleet is not flooded by a mistake, nor by a stolen token.
const WINDOW: Duration = Duration::from_mins(5);

/// What somebody asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who.
    pub by: String,
    /// Where they may.
    pub sites: Sites,
    /// What.
    pub verb: Verb,
    /// For whom: `site/appliance`, `site/*`, `tier:professional`.
    pub target: Vec<String>,
    /// Why.
    pub reason: String,
    /// For how many seconds.
    pub life_s: Option<u32>,
}

/// Whoever is told about new orders once they are on disk.
pub type Rung = Vec<(SiteId, ApplianceId)>;

/// Checks a request and settles whom it is for; issues it at once where no second person is needed.
pub async fn ask(state: &Arc<State>, asked: Asked) -> Result<OrderId, Problem> {
    possible(state, &asked.verb)?;
    if asked.reason.trim().is_empty() {
        return Err(Problem::bad("reason", "an order needs a reason"));
    }
    if asked.target.is_empty() {
        return Err(Problem::bad("target", "an order is for somebody"));
    }
    for tier in asked.target.iter().filter_map(|target| target.strip_prefix("tier:")) {
        tier.parse::<PlanTier>().map_err(|error| Problem::bad("target", error))?;
    }
    let life_s = i64::from(asked.life_s.unwrap_or(0));
    let life_s = if life_s == 0 { LIFE } else { life_s };
    if SignedDuration::from_secs(life_s) > MAX_LIFE {
        return Err(Problem::bad("life_s", format!("an order holds for at most {} s", MAX_LIFE.as_secs())));
    }
    room(state, &asked).await?;
    let (id, now) = (OrderId::request(state.random()?), state.clock.now());
    let (this, id_) = (Arc::clone(state), id.clone());
    let rung = state
        .fleet
        .write(move |sql| {
            let (this, id, asked) = (Arc::clone(&this), id_.clone(), asked.clone());
            Box::pin(async move {
                let meant = meant(sql, &asked).await?;
                let target: Vec<_> = meant.into_iter().map(|one| (one.site, one.id)).collect();
                let waits = asked.verb.needs_second();
                let request = Request {
                    id: id.clone(),
                    verb: serde_json::to_string(&asked.verb).unwrap_or_default(),
                    target,
                    reason: asked.reason.trim().to_owned(),
                    asked_by: asked.by.clone(),
                    asked_at: now,
                    life_s,
                    state: if waits { "waiting" } else { "issued" }.to_owned(),
                    decided_by: None,
                    decided_at: None,
                };
                orders::add_request(sql, &request).await?;
                let detail = json!({"verb": asked.verb.word(), "waits": waits});
                trail(sql, &request, (&asked.by, "order.ask", now), &detail).await?;
                if waits { Ok(Rung::new()) } else { issue(&this, sql, &request, &asked.verb, None, now).await }
            })
        })
        .await?;
    for (site, appliance) in rung {
        state.ring(&site, &appliance);
    }
    Ok(id)
}

/// Whether every site that is meant has room for one more request, whoever asks.
async fn room(state: &Arc<State>, asked: &Asked) -> Result<(), Problem> {
    let of = asked.clone();
    let meant = state.fleet.read(move |sql| {
        let of = of.clone();
        Box::pin(async move { meant(sql, &of).await })
    });
    let sites: BTreeSet<SiteId> = meant.await?.into_iter().map(|one| one.site).collect();
    let rate = Rate { limit: state.config.orders_per_site, window: WINDOW };
    for site in sites {
        if let Taken::Later { after } = state.limiter.take(&format!("orders:{}", Whose::Site(&site)), rate).await {
            let detail = format!("{site}: {} requests within {} s are allowed", rate.limit, rate.window.as_secs());
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail);
            return Err(Problem { retry_after: Some(after.as_secs().saturating_add(1)), ..problem });
        }
    }
    Ok(())
}

/// A second person's word on a request that waits.
pub async fn decide(state: &Arc<State>, id: &OrderId, who: &str, sites: &Sites, yes: bool) -> Result<(), Problem> {
    let now = state.clock.now();
    let (this, id, who, sites) = (Arc::clone(state), id.clone(), who.to_owned(), sites.clone());
    let rung = state
        .fleet
        .write(move |sql| {
            let (this, id, who, sites) = (Arc::clone(&this), id.clone(), who.clone(), sites.clone());
            Box::pin(async move {
                let request = orders::request(sql, &id).await?;
                if request.asked_by == who {
                    return Err(FleetError::Refused("the second person is another one than the first".to_owned()));
                }
                let allowed = request.target.iter().all(|(site, _)| sites.includes(site));
                if !allowed {
                    return Err(FleetError::NotThere(format!("there is no request {id}")));
                }
                if request.is_stale(now) {
                    return Err(FleetError::Stands(format!("request {id} has waited too long; ask again")));
                }
                if yes {
                    asker_still_may(sql, &request).await?;
                }
                let word = if yes { "issued" } else { "rejected" };
                orders::decide_request(sql, &id, word, &who, now).await?;
                trail(sql, &request, (&who, "order.decide", now), &json!({"yes": yes})).await?;
                if !yes {
                    return Ok(Rung::new());
                }
                let verb: Verb = serde_json::from_str(&request.verb)
                    .map_err(|error| FleetError::Corrupt(format!("verb of {id}: {error}")))?;
                issue(&this, sql, &request, &verb, Some(&who), now).await
            })
        })
        .await?;
    for (site, appliance) in rung {
        state.ring(&site, &appliance);
    }
    Ok(())
}

/// A yes is to what somebody wants who may have it now: not to what one asked for who has left, or has less to say by now.
async fn asker_still_may(sql: &Sql, request: &Request) -> Result<(), FleetError> {
    let asker = people::person(sql, &request.asked_by).await?;
    let everywhere = request.target.iter().all(|(site, _)| asker.sites.includes(site));
    if asker.ended_at.is_none() && may(asker.role, Deed::Order) && everywhere {
        return Ok(());
    }
    Err(FleetError::Stands(format!("{} may not ask for this any more", request.asked_by)))
}

/// One row for each site that is meant, with its own appliances: its auditors see it, and nothing of others.
async fn trail(
    sql: &Sql,
    request: &Request,
    (who, act, at): (&str, &str, Timestamp),
    detail: &Value,
) -> Result<(), FleetError> {
    let mut by_site: BTreeMap<&SiteId, Vec<String>> = BTreeMap::new();
    for (site, appliance) in &request.target {
        by_site.entry(site).or_default().push(format!("{site}/{appliance}"));
    }
    let row = |(site, target): (&SiteId, Vec<String>)| {
        let mut detail = detail.clone();
        if let Some(detail) = detail.as_object_mut() {
            detail.insert("target".to_owned(), target.into());
        }
        Audit {
            site: site.to_string(),
            at,
            actor: format!("person:{who}"),
            act: act.to_owned(),
            object: request.id.to_string(),
            outcome: "done".to_owned(),
            detail,
        }
    };
    let rows: Vec<Audit> = by_site.into_iter().map(row).collect();
    audit::write_all(sql, &rows).await
}

/// A verb that names a check or parameters must fit the catalogue.
fn possible(state: &State, verb: &Verb) -> Result<(), Problem> {
    let known = |check: &crate::domain::id::CheckId| {
        let missing = || Problem::bad("verb", format!("no runbook is called `{check}`"));
        state.catalog.runbooks.get(check).ok_or_else(missing)
    };
    match verb {
        Verb::RunChecks { checks } => checks.iter().try_for_each(|check| known(check).map(drop)),
        Verb::RunRunbook { check, params } => {
            let runbook = known(check)?;
            if runbook.remediate.is_none() {
                return Err(Problem::bad("verb.check", format!("{check} heals nothing")));
            }
            let checked = runbook.params.check(params);
            checked.map(drop).map_err(|error| Problem::bad(format!("verb.params.{}", error.field), error.message))
        }
        Verb::SyncContent {}
        | Verb::SetKillSwitch { .. }
        | Verb::RotateKeys {}
        | Verb::UpdateConfig {}
        | Verb::CollectDiagnostics {} => Ok(()),
    }
}

/// Whom a request is for: every part must name somebody, and only active ones on sites the person may act on.
async fn meant(sql: &Sql, asked: &Asked) -> Result<Vec<Enrolled>, FleetError> {
    let all: Vec<Enrolled> = sites::enrolled(sql)
        .await?
        .into_iter()
        .filter(|one| one.state == ApplianceState::Active && asked.sites.includes(&one.site))
        .collect();
    let mut chosen: Vec<Enrolled> = Vec::new();
    for target in &asked.target {
        let tier = target.strip_prefix("tier:").map(str::parse::<PlanTier>).transpose().map_err(FleetError::Refused)?;
        let of_tier: Vec<SiteId> = match tier {
            None => Vec::new(),
            Some(tier) => {
                sites::sites(sql).await?.into_iter().filter(|site| site.tier == tier).map(|site| site.id).collect()
            }
        };
        let is = |one: &Enrolled| match target.split_once('/') {
            Some((site, "*")) => one.site.as_str() == site,
            Some((site, appliance)) => one.site.as_str() == site && one.id.as_str() == appliance,
            None => of_tier.contains(&one.site),
        };
        let found: Vec<&Enrolled> = all.iter().filter(|one| is(one)).collect();
        if found.is_empty() {
            return Err(FleetError::NotThere(format!("`{target}` names no active appliance")));
        }
        chosen.extend(found.into_iter().cloned());
    }
    chosen.sort_by(|a, b| (&a.site, &a.id).cmp(&(&b.site, &b.id)));
    chosen.dedup_by(|a, b| (&a.site, &a.id) == (&b.site, &b.id));
    if chosen.is_empty() { Err(FleetError::Refused("an order is for somebody".to_owned())) } else { Ok(chosen) }
}

async fn issue(
    state: &State,
    sql: &Sql,
    request: &Request,
    verb: &Verb,
    approved_by: Option<&str>,
    now: Timestamp,
) -> Result<Rung, FleetError> {
    let expires = now.checked_add(SignedDuration::from_secs(request.life_s)).unwrap_or(now);
    let held = orders::keys_held(sql, &request.id).await?;
    let (mut rung, mut issued) = (Rung::new(), Vec::new());
    for (at, seq) in orders::next_seqs(sql, &request.id).await? {
        let held = held.get(&at).map_or(&[][..], Vec::as_slice);
        let (site, appliance) = at;
        let random = |_| FleetError::Refused("the system gave no randomness".to_owned());
        let order = Order {
            version: 1,
            id: OrderId::order(state.random().map_err(random)?),
            site: site.clone(),
            appliance: appliance.clone(),
            seq,
            nonce: hex(&state.random::<16>().map_err(random)?),
            issued_at: now,
            not_before: now,
            expires,
            by: request.asked_by.clone(),
            approved_by: approved_by.map(str::to_owned),
            reason: request.reason.clone(),
            verb: verb.clone(),
        };
        let envelope = signed(state, &order, held)?;
        issued.push(StoredOrder {
            site: site.clone(),
            appliance: appliance.clone(),
            seq,
            id: order.id,
            request: request.id.clone(),
            envelope,
            expires_at: expires,
            state: OrderState::Queued,
            queued_at: now,
            changed_at: now,
            say: String::new(),
            report: None,
        });
        rung.push((site, appliance));
    }
    orders::add_orders(sql, &issued).await?;
    Ok(rung)
}

fn signed(state: &State, order: &Order, held: &[String]) -> Result<Vec<u8>, FleetError> {
    let wrong = |error: &dyn std::fmt::Display| FleetError::Refused(format!("the order cannot be signed: {error}"));
    let value: Value = serde_json::to_value(order).map_err(|error| wrong(&error))?;
    let payload = jcs::to_vec(&value).map_err(|error| wrong(&error))?;
    let keys = state.keys();
    let (key, public) = keys.order_for(held);
    dsse::sign(ORDER, &payload, key, public.id()).map_err(|error| wrong(&error))
}
