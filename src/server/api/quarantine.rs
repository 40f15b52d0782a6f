//! What is kept of evidence that contradicts itself, and for how long nothing more is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::evidence::standing;
use crate::crypto::sha256_hex;
use crate::fleet::{FleetError, Sql, logs, sites};
use crate::lock::{Rate, Taken};
use crate::server::authority::Identity;
use crate::server::intake::{self, Rejected};
use crate::server::problem::Problem;
use crate::server::state::{State, audited};

/// Rows kept of one appliance within a day. Rows are never deleted, so nobody may make many of them.
const ROWS: u64 = 20;
/// Bytes kept of one appliance within a day.
const BYTES: u64 = 4 * 1024 * 1024;
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A contradiction to keep.
struct Contradiction {
    who: Identity,
    why: Rejected,
    proof: Vec<u8>,
    at: Timestamp,
}

/// Keeps what the appliance signed of a contradiction, as far as there is room; else says once a day that there was one.
pub(super) async fn suspect(
    state: &Arc<State>,
    body: &Bytes,
    identity: &Identity,
    why: &Rejected,
) -> Result<(), Problem> {
    let kept = match proof(state, body, identity, why).await? {
        Some(proof) => {
            let (who, why, at) = (identity.clone(), why.clone(), state.clock.now());
            let found = Arc::new(Contradiction { who, why, proof, at });
            let keeping = state.fleet.write(move |sql| {
                let found = Arc::clone(&found);
                Box::pin(async move { keep(sql, &found).await })
            });
            keeping.await?
        }
        None => false,
    };
    if !kept {
        told(state, identity, why).await?;
    }
    Ok(())
}

async fn proof(
    state: &Arc<State>,
    body: &Bytes,
    identity: &Identity,
    why: &Rejected,
) -> Result<Option<Vec<u8>>, Problem> {
    let standing = standing(state, identity, (0, 0)).await?;
    let (body, said, why) = (body.clone(), standing.expected, why.clone());
    let fork = matches!(why, Rejected::Fork(_));
    let proof = tokio::task::spawn_blocking(move || intake::proof(&body, &why, &said)).await;
    let mut proof = proof.map_err(|_| Problem::later("verifying was interrupted", 1))?;
    // Both stories side by side: the appliance signed what this server cosigned before.
    if let (true, Some(proof), Some(followed)) = (fork, &mut proof, &standing.followed) {
        proof.extend_from_slice(b"\n");
        proof.extend_from_slice(&followed.note);
    }
    Ok(proof)
}

/// Whether it is kept; an appliance with two stories gets no orders from now on, kept or not.
async fn keep(sql: &Sql, found: &Contradiction) -> Result<bool, FleetError> {
    let Contradiction { who, why, proof, at } = found;
    let (whose, name) = ((&who.site, &who.appliance), format!("{}/{}", who.site, who.appliance));
    let actor = format!("appliance:{name}");
    if let Rejected::Fork(seq) = why
        && sites::roll_back(sql, whose.0, whose.1).await?
    {
        let detail = json!({"fork": seq});
        audited(sql, (who.site.as_str(), *at), (&actor, "appliance.rolled_back", &name), detail).await?;
    }
    let since = at.checked_sub(DAY).unwrap_or(Timestamp::MIN);
    let (rows, bytes) = logs::quarantined_since(sql, whose, since).await?;
    if rows >= ROWS || bytes.saturating_add(proof.len() as u64) > BYTES {
        return Ok(false);
    }
    let sha256 = sha256_hex(proof);
    if logs::quarantine(sql, whose, why.word(), (&sha256, proof), *at).await? {
        tracing::warn!(site = who.site.as_str(), appliance = who.appliance.as_str(), "evidence is not taken: {why}");
        let detail = json!({"why": why.to_string(), "sha256": sha256});
        audited(sql, (who.site.as_str(), *at), (&actor, "evidence.quarantine", &name), detail).await?;
    }
    Ok(true)
}

/// Writes down that something was wrong of which nothing is kept, once a day.
async fn told(state: &Arc<State>, who: &Identity, why: &Rejected) -> Result<(), Problem> {
    let name = format!("{}/{}", who.site, who.appliance);
    let once = Rate { limit: 1, window: Duration::from_hours(24) };
    if matches!(state.limiter.take(&format!("evidence-rejected:{name}"), once).await, Taken::Later { .. }) {
        return Ok(());
    }
    tracing::warn!(site = who.site.as_str(), appliance = who.appliance.as_str(), "evidence is not taken: {why}");
    let (site, why, at) = (who.site.clone(), why.to_string(), state.clock.now());
    let written = state.fleet.write(move |sql| {
        let (site, name, detail) = (site.clone(), name.clone(), json!({"why": why, "kept": false}));
        Box::pin(async move {
            let actor = format!("appliance:{name}");
            audited(sql, (site.as_str(), at), (&actor, "evidence.reject", &name), detail).await
        })
    });
    Ok(written.await?)
}
