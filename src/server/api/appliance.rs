//! Check-ins.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use crate::crypto::dsse;
use crate::domain::bundle::{BUNDLE, BundleKind};
use crate::fleet::sites::{self, ApplianceState, LastSeen, Standing};
use crate::fleet::{BoxFuture, bundles, enrolments, orders};
use crate::server::authority::Identity;
use crate::server::problem::Problem;
use crate::server::router::{Answer, Ask};
use crate::server::state::{State, audited};
use crate::wire::{BundleFiles, CheckIn, CheckedIn};

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
            order_keys: said.order_keys.iter().take(8).filter(|id| id.len() <= 16).cloned().collect(),
            order_seq: said.order_seq,
            clock_offset_ms,
            outbox_depth: said.outbox,
            log_size: said.log_size,
            posture: text("posture", &said.posture)?,
            inventory: text("inventory", &said.inventory)?,
        };
        let keys = state.keys();
        let announced = if last.order_keys == keys.order_ids() { None } else { keys.announcement().ok() };
        let (content, config) =
            (state.bundle(BundleKind::Content, &identity.site), state.bundle(BundleKind::Config, &identity.site));
        let (said, who) = (last.clone(), identity.clone());
        let checked_in = state.fleet.change(move |sql| {
            let (said, who) = (said.clone(), who.clone());
            Box::pin(async move { sites::check_in(sql, &who.site, &who.appliance, &said).await })
        });
        settle(&state, &identity, now).await?;
        let Standing { state: known, order_seq, holds: log_size, acknowledged } = checked_in.await?;
        // It had these entries, or had used these orders, when it was here before.
        let less = last.log_size < log_size || last.order_seq < acknowledged;
        if less && known != ApplianceState::RolledBack {
            rolled_back(&state, &identity, &last, log_size).await?;
        }
        if last.order_seq > order_seq {
            behind(&state, &identity, &last, order_seq).await?;
        }
        let rolled_back = less || known == ApplianceState::RolledBack;
        Answer::json(&CheckedIn {
            server_time: now.to_string(),
            clock_offset_ms,
            log_size,
            order_seq,
            rolled_back,
            order_keys: announced,
            content,
            config,
        })
    })
}

/// What is published for the appliance's site, signed by the newest key it holds.
pub(super) fn bundle(state: Arc<State>, ask: Ask, identity: Identity) -> Reply {
    Box::pin(async move {
        let kind: BundleKind = ask.part("kind")?;
        let announced = state.bundle(kind, &identity.site);
        let announced = announced.ok_or_else(|| Problem::missing(format!("no {} is published", kind.word())))?;
        let (number, who) = (announced.number, identity.clone());
        let read = state.fleet.read(move |sql| {
            let who = who.clone();
            Box::pin(async move {
                let held = sites::order_keys_held(sql, &who.site, &who.appliance).await?;
                Ok((held, bundles::bundle(sql, kind, number).await?))
            })
        });
        let (held, published) = read.await?;
        let keys = state.keys();
        let (key, public) = keys.order_for(&held);
        let signed = dsse::sign(BUNDLE, &published.bytes, key, public.id());
        let signed = signed.map_err(|error| Problem::later(&format!("the bundle cannot be signed: {error}"), 60))?;
        Answer::json(&BundleFiles { envelope: String::from_utf8_lossy(&signed).into_owned(), files: published.files })
    })
}

/// The first time a certificate is used here, the appliance's older ones end: a stolen one does not outlive a renewal.
async fn settle(state: &Arc<State>, identity: &Identity, now: Timestamp) -> Result<(), Problem> {
    if state.is_settled(&identity.serial) {
        return Ok(());
    }
    let who = identity.clone();
    let ended = state.fleet.write(move |sql| {
        let who = who.clone();
        Box::pin(async move {
            let ended = enrolments::replace_older(sql, &who.site, &who.appliance, &who.serial, now).await?;
            if ended > 0 {
                let name = format!("{}/{}", who.site, who.appliance);
                let detail = json!({"by": who.serial, "ended": ended});
                let actor = format!("appliance:{name}");
                audited(sql, (who.site.as_str(), now), (&actor, "certificate.replace", &name), detail).await?;
            }
            Ok(ended)
        })
    });
    if ended.await? > 0 {
        state.read_revoked().await?;
    }
    state.settle(&identity.serial);
    Ok(())
}

/// The appliance has used places of its sequence that this server never gave out: the server was restored from an older
/// state. It goes on after them, and says so.
async fn behind(state: &Arc<State>, identity: &Identity, last: &LastSeen, given: u64) -> Result<(), Problem> {
    tracing::error!(site = %identity.site, appliance = %identity.appliance, given, used = last.order_seq, "the server was restored from an older state");
    let (who, at, used) = (identity.clone(), last.at, last.order_seq);
    let written = state.fleet.write(move |sql| {
        let who = who.clone();
        Box::pin(async move {
            orders::go_on_after(sql, &who.site, &who.appliance, used).await?;
            let name = format!("{}/{}", who.site, who.appliance);
            let detail = json!({"orderSeq": used, "given": given});
            audited(sql, (who.site.as_str(), at), (&format!("appliance:{name}"), "server.behind", &name), detail).await
        })
    });
    Ok(written.await?)
}

/// From now on it gets no orders, until a person looks.
async fn rolled_back(
    state: &Arc<State>,
    identity: &Identity,
    last: &LastSeen,
    server_holds: u64,
) -> Result<(), Problem> {
    let (who, at) = (identity.clone(), last.at);
    let detail = json!({"logSize": last.log_size, "serverHolds": server_holds, "orderSeq": last.order_seq});
    let written = state.fleet.write(move |sql| {
        let (who, detail) = (who.clone(), detail.clone());
        Box::pin(async move {
            let (site, id) = (&who.site, &who.appliance);
            if !sites::roll_back(sql, site, id).await? {
                return Ok(());
            }
            let name = format!("{site}/{id}");
            let actor = format!("appliance:{name}");
            audited(sql, (site.as_str(), at), (&actor, "appliance.rolled_back", &name), detail).await
        })
    });
    Ok(written.await?)
}
