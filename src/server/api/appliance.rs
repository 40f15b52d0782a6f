//! Check-ins.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use crate::fleet::sites::{self, ApplianceState, LastSeen};
use crate::fleet::{BoxFuture, logs, orders};
use crate::server::authority::Identity;
use crate::server::problem::Problem;
use crate::server::router::{Answer, Ask};
use crate::server::state::{State, audited};
use crate::wire::{CheckIn, CheckedIn};

type Reply = BoxFuture<'static, Result<Answer, Problem>>;

/// Longest posture or inventory that is kept, in bytes of JSON.
const TEXT: usize = 48 * 1024;

pub(super) fn check_in(state: Arc<State>, ask: Ask, identity: Identity) -> Reply {
    Box::pin(async move {
        let said: CheckIn = ask.json()?;
        let now = state.clock.now();
        let theirs: Timestamp = said.time.parse().map_err(|_| Problem::bad("time", "is not an RFC 3339 time"))?;
        let clock_offset_ms = theirs.as_millisecond().saturating_sub(now.as_millisecond());
        let text = |field: &str, value: &Option<serde_json::Value>| match value.as_ref().map(ToString::to_string) {
            Some(text) if text.len() > TEXT => Err(Problem::bad(field, format!("is longer than {TEXT} bytes"))),
            text => Ok(text),
        };
        let last = LastSeen {
            at: now,
            version: said.version.chars().take(64).collect(),
            order_key_seen: said.order_key.clone(),
            order_seq: said.order_seq,
            clock_offset_ms,
            outbox_depth: said.outbox,
            log_size: said.log_size,
            posture: text("posture", &said.posture)?,
            inventory: text("inventory", &said.inventory)?,
        };
        let known = state
            .fleet
            .write(move |sql| {
                let (last, identity) = (last.clone(), identity.clone());
                Box::pin(async move {
                    let (site, id) = (&identity.site, &identity.appliance);
                    sites::check_in(sql, site, id, &last).await?;
                    let holds = logs::size(sql, site, id).await?;
                    let (state, order_seq) = orders::standing(sql, site, id).await?;
                    // It had these entries, or had used these orders, when it was here before.
                    let less =
                        last.log_size < holds || last.order_seq < orders::last_acknowledged(sql, site, id).await?;
                    let mut rolled_back = state == ApplianceState::RolledBack;
                    if less && !rolled_back {
                        rolled_back = true;
                        sites::set_state(sql, site, id, ApplianceState::RolledBack).await?;
                        let name = format!("{site}/{id}");
                        let detail =
                            json!({"logSize": last.log_size, "serverHolds": holds, "orderSeq": last.order_seq});
                        audited(
                            sql,
                            (site.as_str(), last.at),
                            (&format!("appliance:{name}"), "appliance.rolled_back", &name),
                            detail,
                        )
                        .await?;
                    }
                    Ok((holds, order_seq, rolled_back))
                })
            })
            .await?;
        let (log_size, order_seq, rolled_back) = known;
        Answer::json(&CheckedIn { server_time: now.to_string(), clock_offset_ms, log_size, order_seq, rolled_back })
    })
}
