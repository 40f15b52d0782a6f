//! What people and their programs ask: sites, appliances, orders, who did what. Everything is cut to the caller's sites.

use std::sync::Arc;

use serde_json::Value;

use crate::domain::id::{ApplianceId, OrderId, SiteId};
use crate::domain::order::Verb;
use crate::domain::role::Sites;
use crate::fleet::people::Caller;
use crate::fleet::sites::{self, Site};
use crate::fleet::{BoxFuture, audit as trail, logs, orders};
use crate::server::enrolment;
use crate::server::issue::{self, Asked};
use crate::server::problem::Problem;
use crate::server::router::{Answer, Ask, Number};
use crate::server::state::State;
use crate::wire::{
    AddSite, ApplianceLine, AskOrder, AskToken, AuditLine, Because, Decide, Empty, OrderLine, RequestLine, SiteLine,
    TokenText,
};

type Reply = BoxFuture<'static, Result<Answer, Problem>>;

/// How many requests are listed.
pub(super) const REQUESTS: Number = Number { name: "limit", default: 50, least: 1, most: 200 };
/// How many rows of the trail are listed.
pub(super) const ROWS: Number = Number { name: "limit", default: 100, least: 1, most: 1000 };
/// Only rows before this number.
pub(super) const BEFORE: Number = Number { name: "before", default: i64::MAX, least: 0, most: i64::MAX };

/// Another site's things are not there.
fn only(caller: &Caller, site: &SiteId) -> Result<(), Problem> {
    if caller.sites.includes(site) { Ok(()) } else { Err(Problem::missing(format!("no site is called `{site}`"))) }
}

/// What concerns the fleet as a whole is only for who acts on all sites.
pub(super) fn everywhere(caller: &Caller) -> Result<(), Problem> {
    if caller.sites == Sites::All { Ok(()) } else { Err(Problem::forbidden("this concerns all sites")) }
}

fn site_line(site: &Site) -> SiteLine {
    SiteLine {
        id: site.id.to_string(),
        name: site.name.clone(),
        tier: site.tier.word().to_owned(),
        created_at: site.created_at.to_string(),
    }
}

pub(super) fn sites(state: Arc<State>, _: Ask, caller: Caller) -> Reply {
    Box::pin(async move {
        let all = state.fleet.read(|sql| Box::pin(sites::sites(sql))).await?;
        let seen: Vec<SiteLine> = all.iter().filter(|site| caller.sites.includes(&site.id)).map(site_line).collect();
        Answer::json(&seen)
    })
}

pub(super) fn add_site(state: Arc<State>, ask: Ask, caller: Caller) -> Reply {
    Box::pin(async move {
        everywhere(&caller)?;
        let asked: AddSite = ask.json()?;
        let id: SiteId = asked.id.parse().map_err(|error| Problem::bad("id", format!("{error}")))?;
        let tier = asked.tier.parse().map_err(|error: String| Problem::bad("tier", error))?;
        if asked.name.trim().is_empty() {
            return Err(Problem::bad("name", "a site needs a name"));
        }
        let site = Site { id, name: asked.name, tier, created_at: state.clock.now() };
        enrolment::add_site(&state.fleet, &site, &format!("person:{}", caller.person)).await?;
        Answer::json(&site_line(&site))
    })
}

pub(super) fn appliances(state: Arc<State>, _: Ask, caller: Caller) -> Reply {
    Box::pin(async move {
        let (all, held) = state
            .fleet
            .read(|sql| Box::pin(async move { Ok((sites::appliances(sql, None).await?, logs::sizes(sql).await?)) }))
            .await?;
        let lines: Vec<ApplianceLine> = all
            .into_iter()
            .filter(|one| caller.sites.includes(&one.site))
            .map(|one| {
                let held = held.get(&(one.site.clone(), one.id.clone())).copied().unwrap_or(0);
                let last = one.last;
                let json = |text: Option<&str>| text.and_then(|text| serde_json::from_str(text).ok());
                ApplianceLine {
                    held,
                    site: one.site.to_string(),
                    id: one.id.to_string(),
                    state: one.state.word().to_owned(),
                    origin: one.origin,
                    last_seen_at: last.as_ref().map(|last| last.at.to_string()),
                    version: last.as_ref().map(|last| last.version.clone()),
                    clock_offset_ms: last.as_ref().map(|last| last.clock_offset_ms),
                    outbox: last.as_ref().map(|last| last.outbox_depth),
                    posture: last.as_ref().and_then(|last| json(last.posture.as_deref())),
                    inventory: last.as_ref().and_then(|last| json(last.inventory.as_deref())),
                }
            })
            .collect();
        Answer::json(&lines)
    })
}

pub(super) fn enrol_token(state: Arc<State>, ask: Ask, caller: Caller) -> Reply {
    Box::pin(async move {
        let (site, appliance): (SiteId, ApplianceId) = (ask.part("site")?, ask.part("appliance")?);
        only(&caller, &site)?;
        let asked: AskToken = ask.json()?;
        let who = format!("person:{}", caller.person);
        let made = enrolment::token(&state, (site, appliance), asked.again, &who).await?;
        Answer::json(&TokenText { token: made.text, expires_at: made.expires_at.to_string() })
    })
}

pub(super) fn revoke(state: Arc<State>, ask: Ask, caller: Caller) -> Reply {
    Box::pin(async move {
        let (site, appliance): (SiteId, ApplianceId) = (ask.part("site")?, ask.part("appliance")?);
        only(&caller, &site)?;
        let who = format!("person:{}", caller.person);
        enrolment::revoke(&state.fleet, (site, appliance), &who, state.clock.now()).await?;
        state.read_revoked().await?;
        Answer::json(&Empty {})
    })
}

pub(super) fn release(state: Arc<State>, ask: Ask, caller: Caller) -> Reply {
    Box::pin(async move {
        let (site, appliance): (SiteId, ApplianceId) = (ask.part("site")?, ask.part("appliance")?);
        only(&caller, &site)?;
        let asked: Because = ask.json()?;
        let who = format!("person:{}", caller.person);
        enrolment::release(&state.fleet, (site, appliance), (&who, &asked.reason), state.clock.now()).await?;
        Answer::json(&Empty {})
    })
}

pub(super) fn ask(state: Arc<State>, ask: Ask, caller: Caller) -> Reply {
    Box::pin(async move {
        let asked: AskOrder = ask.json()?;
        let verb: Verb = serde_json::from_value(asked.verb).map_err(|error| Problem::bad("verb", error.to_string()))?;
        let asked = Asked {
            by: caller.person.clone(),
            sites: caller.sites.clone(),
            verb,
            target: asked.target,
            reason: asked.reason,
            life_s: asked.life_s,
        };
        let id = issue::ask(&state, asked).await?;
        request_answer(&state, id, &caller).await
    })
}

pub(super) fn decide(state: Arc<State>, ask: Ask, caller: Caller) -> Reply {
    Box::pin(async move {
        let id: OrderId = ask.part("id")?;
        let asked: Decide = ask.json()?;
        issue::decide(&state, &id, &caller.person, &caller.sites, asked.approve).await?;
        request_answer(&state, id, &caller).await
    })
}

async fn request_answer(state: &Arc<State>, id: OrderId, caller: &Caller) -> Result<Answer, Problem> {
    let sites = caller.sites.clone();
    let read = state.fleet.read(move |sql| {
        let (id, sites) = (id.clone(), sites.clone());
        Box::pin(async move {
            let its = orders::orders_of(sql, &[&id], &sites).await?.remove(&id).unwrap_or_default();
            Ok((orders::request(sql, &id).await?, its))
        })
    });
    let (mut request, its) = read.await?;
    request.target.retain(|(site, _)| caller.sites.includes(site));
    Answer::json(&request_line(request, its))
}

/// A request with the part of it that its reader may see.
fn request_line(request: orders::Request, its: Vec<orders::StoredOrder>) -> RequestLine {
    RequestLine {
        target: request.target.iter().map(|(site, appliance)| format!("{site}/{appliance}")).collect(),
        id: request.id.to_string(),
        verb: serde_json::from_str(&request.verb).unwrap_or(Value::Null),
        reason: request.reason,
        asked_by: request.asked_by,
        asked_at: request.asked_at.to_string(),
        state: request.state,
        decided_by: request.decided_by,
        orders: its
            .into_iter()
            .map(|order| OrderLine {
                id: order.id.to_string(),
                site: order.site.to_string(),
                appliance: order.appliance.to_string(),
                seq: order.seq,
                state: order.state.word().to_owned(),
                say: order.say,
                expires_at: order.expires_at.to_string(),
            })
            .collect(),
    }
}

pub(super) fn requests(state: Arc<State>, ask: Ask, caller: Caller) -> Reply {
    Box::pin(async move {
        let limit = ask.number(REQUESTS)?;
        let before = ask.query.get("before").map(|before| before.parse::<OrderId>()).transpose();
        let before = before.map_err(|error| Problem::bad("before", error.to_string()))?;
        let sites = caller.sites;
        let found = state.fleet.read(move |sql| {
            let (sites, before) = (sites.clone(), before.clone());
            Box::pin(async move { orders::requests(sql, &sites, before.as_ref(), limit).await })
        });
        let lines: Vec<RequestLine> = found.await?.into_iter().map(|(one, its)| request_line(one, its)).collect();
        Answer::json(&lines)
    })
}

pub(super) fn audit(state: Arc<State>, ask: Ask, caller: Caller) -> Reply {
    Box::pin(async move {
        let (limit, before) = (ask.number(ROWS)?, ask.number(BEFORE)?);
        let site = ask.query.get("site").map(|site| site.parse::<SiteId>()).transpose();
        let site = site.map_err(|error| Problem::bad("site", error.to_string()))?;
        let sites: Vec<Option<String>> = match (&caller.sites, site) {
            (_, Some(site)) => {
                only(&caller, &site)?;
                vec![Some(site.to_string())]
            }
            (Sites::All, None) => vec![None],
            (Sites::Some(sites), None) => sites.iter().map(|site| Some(site.to_string())).collect(),
        };
        let rows = state
            .fleet
            .read(move |sql| {
                let sites = sites.clone();
                Box::pin(async move {
                    let mut rows = Vec::new();
                    for site in &sites {
                        rows.extend(trail::list(sql, site.as_deref(), before, limit).await?);
                    }
                    Ok(rows)
                })
            })
            .await?;
        let mut lines: Vec<AuditLine> = rows
            .into_iter()
            .map(|(id, row)| AuditLine {
                id,
                site: row.site,
                at: row.at.to_string(),
                actor: row.actor,
                act: row.act,
                object: row.object,
                outcome: row.outcome,
                detail: row.detail,
            })
            .collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.id));
        lines.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Answer::json(&lines)
    })
}
