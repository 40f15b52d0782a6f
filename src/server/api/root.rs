//! Whether the server lives, and what it counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::SignedDuration;

use super::operator::everywhere;
use crate::fleet::people::Caller;
use crate::fleet::sites::ApplianceState;
use crate::fleet::{BoxFuture, logs, sites};
use crate::server::problem::Problem;
use crate::server::router::{Answer, Ask};
use crate::server::state::State;
use crate::wire::{Ready, RunbookLine, Stats};

type Reply = BoxFuture<'static, Result<Answer, Problem>>;

/// Media type of metrics.
pub(super) const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn health(_: Arc<State>, _: Ask) -> Reply {
    Box::pin(async { Ok(Answer::text("application/json", "{\"status\":\"ok\"}\n")) })
}

pub(super) fn ready(state: Arc<State>, _: Ask) -> Reply {
    Box::pin(async move {
        let up = state.signs.up(&state).await;
        let said = |up: bool| if up { "ok" } else { "down" };
        let limiter = if state.limiter.is_degraded() { "degraded" } else { "ok" };
        let parts = BTreeMap::from([
            ("store".to_owned(), said(up.store).to_owned()),
            ("limiter".to_owned(), limiter.to_owned()),
            ("worm".to_owned(), said(up.worm).to_owned()),
        ]);
        let ready = parts.values().all(|part| part != "down");
        let mut answer = Answer::json(&Ready { ready, parts })?;
        if !ready {
            answer.status = hyper::StatusCode::SERVICE_UNAVAILABLE;
        }
        Ok(answer)
    })
}

pub(super) fn openapi(state: Arc<State>, _: Ask) -> Reply {
    Box::pin(async move {
        let text = state.document.get().cloned();
        let text = text.ok_or_else(|| Problem::later("the server is only starting", 1))?;
        Ok(Answer::text("application/json", text))
    })
}

pub(super) fn metrics(state: Arc<State>, _: Ask, caller: Caller) -> Reply {
    Box::pin(async move {
        everywhere(&caller)?;
        Ok(Answer::text(METRICS, state.metrics.text()))
    })
}

pub(super) fn runbooks(state: Arc<State>, _: Ask, _: Caller) -> Reply {
    Box::pin(async move {
        let lines: Vec<RunbookLine> = state
            .catalog
            .runbooks
            .values()
            .map(|runbook| RunbookLine {
                id: runbook.id.to_string(),
                title: runbook.title.clone(),
                hipaa: runbook.hipaa.clone(),
                severity: runbook.severity.word().to_owned(),
                heals: runbook.remediate.is_some(),
            })
            .collect();
        Answer::json(&lines)
    })
}

pub(super) fn stats(state: Arc<State>, _: Ask, caller: Caller) -> Reply {
    Box::pin(async move {
        let theirs = caller.sites.clone();
        let (sites, appliances, quarantined) = state
            .fleet
            .read(move |sql| {
                let theirs = theirs.clone();
                Box::pin(async move {
                    let quarantined = logs::quarantined(sql, &theirs).await?;
                    Ok((sites::sites(sql).await?, sites::appliances(sql, None).await?, quarantined))
                })
            })
            .await?;
        let lately = state.clock.now().checked_sub(SignedDuration::from_mins(5)).unwrap_or_default();
        let covered = |site| caller.sites.includes(site);
        let active: Vec<_> =
            appliances.iter().filter(|one| one.state != ApplianceState::Revoked && covered(&one.site)).collect();
        let lately_seen =
            active.iter().filter(|one| one.last.as_ref().is_some_and(|last| last.at >= lately)).count() as u64;
        Answer::json(&Stats {
            sites: sites.iter().filter(|site| covered(&site.id)).count() as u64,
            appliances: active.len() as u64,
            seen_lately: (!active.is_empty()).then_some(lately_seen),
            quarantined,
        })
    })
}
