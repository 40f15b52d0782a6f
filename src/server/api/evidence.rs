//! Evidence: how far the server follows, and taking in what is new.

use std::sync::Arc;

use crate::blob::Key;
use crate::crypto::merkle::{Frontier, leaf_hash};
use crate::crypto::sha256_hex;
use crate::fleet::logs::{self, Advance, Followed, Segment};
use crate::fleet::{BoxFuture, FleetError, sites};
use crate::server::authority::Identity;
use crate::server::intake::{self, Accepted, Batch, Expected, Rejected};
use crate::server::metrics::Word;
use crate::server::problem::Problem;
use crate::server::router::{Answer, Ask};
use crate::server::state::State;
use crate::wire::{LogState, Receipt};
use bytes::Bytes;

use super::quarantine;

type Reply = BoxFuture<'static, Result<Answer, Problem>>;

pub(super) fn log(state: Arc<State>, _: Ask, identity: Identity) -> Reply {
    Box::pin(async move {
        let followed = state
            .fleet
            .look(move |sql| {
                let identity = identity.clone();
                Box::pin(async move { logs::followed(sql, &identity.site, &identity.appliance).await })
            })
            .await?;
        let note = followed.as_ref().map(|followed| String::from_utf8_lossy(&followed.note).into_owned());
        Answer::json(&LogState { size: followed.map_or(0, |followed| followed.size), note })
    })
}

/// Where the server stands with a log, and what its evidence must be.
pub(super) struct Standing {
    pub(super) expected: Expected,
    pub(super) followed: Option<Followed>,
    frontier: Frontier,
    /// Leaf hashes of the entries the batch brings again.
    known: Vec<[u8; 32]>,
}

pub(super) fn take(state: Arc<State>, ask: Ask, identity: Identity) -> Reply {
    Box::pin(async move {
        match take_in(&state, &ask.body, &identity).await {
            Ok(receipt) => Answer::json(&receipt),
            Err(Stop::Problem(problem)) => Err(problem),
            Err(Stop::Rejected(rejected)) => Err(reject(&state, &ask.body, &identity, &rejected).await?),
        }
    })
}

enum Stop {
    Problem(Problem),
    Rejected(Rejected),
}

impl From<Rejected> for Stop {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

impl<E: Into<Problem>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Problem(error.into())
    }
}

async fn take_in(state: &Arc<State>, body: &Bytes, identity: &Identity) -> Result<Receipt, Stop> {
    let first = {
        let batch = Batch::parse(body)?;
        (intake::first_seq(&batch)?, batch.lines.len() as u64)
    };
    // Two at once would both reach WORM, and the slower one's object would be nobody's.
    let taking = state.taking(&identity.site, &identity.appliance);
    let _turn = taking.lock().await;
    let standing = standing(state, identity, first).await?;
    let now = state.clock.now();
    let (checked, body_) = (body.clone(), body.clone());
    // Signatures take their time; others are answered meanwhile.
    let (expected, frontier, known) = (standing.expected.clone(), standing.frontier, standing.known);
    let (holds, prev) = (frontier.size(), standing.followed.as_ref().map(|followed| followed.prev));
    let verified = tokio::task::spawn_blocking(move || {
        let mut batch = Batch::parse(&checked)?;
        if first.0 > holds {
            return Err(Rejected::Elsewhere { holds });
        }
        let again = usize::try_from(holds - first.0).unwrap_or(usize::MAX).min(batch.lines.len());
        let brought: Vec<_> = batch.lines.drain(..again).map(leaf_hash).collect();
        if let Some(at) = brought.iter().zip(&known).position(|(brought, known)| brought != known) {
            // Only what the appliance signed is another story of its; anybody can send other bytes.
            let (seq, batch) = (first.0 + at as u64, Batch::parse(&checked)?);
            intake::statement_of(batch.lines.get(at).copied().unwrap_or_default(), seq, &expected)?;
            return Err(Rejected::Fork(seq));
        }
        if batch.lines.is_empty() {
            // All of it was here before: the head must be one of ours, too.
            intake::head_of(batch.head, &expected)?;
            return Ok(None);
        }
        intake::verify((holds, &batch), &expected, frontier, prev, now).map(Some)
    });
    let verified = verified.await.map_err(|_| Problem::later("verifying was interrupted", 1))??;
    let Some(accepted) = verified else {
        let followed = standing.followed.ok_or(Rejected::Elsewhere { holds: 0 })?;
        return Ok(Receipt { size: followed.size, note: String::from_utf8_lossy(&followed.note).into_owned() });
    };
    let head = Batch::parse(&body_)?.head.to_vec();
    still_at(state, identity, holds).await?;
    let segment = keep(state, identity, &accepted).await?;
    let now = state.clock.now();
    let note = intake::receipt(&head, now, state.keys().witness())?;
    let (size, count) = (accepted.head.size, accepted.entries.len() as u64);
    let step = Advance {
        from: holds,
        now: intake::followed(&accepted, note.clone(), now),
        entries: accepted.entries,
        nodes: accepted.nodes,
        segment,
    };
    advance(state, identity, step).await?;
    state.metrics.entries.inc_by(count);
    Ok(Receipt { size, note: String::from_utf8_lossy(&note).into_owned() })
}

pub(super) async fn standing(
    state: &Arc<State>,
    identity: &Identity,
    (first, count): (u64, u64),
) -> Result<Standing, Problem> {
    let who = identity.clone();
    let read = state.fleet.read(move |sql| {
        let who = who.clone();
        Box::pin(async move {
            let named = sites::log_keys(sql, &who.site, &who.appliance).await?;
            let followed = logs::followed(sql, &who.site, &who.appliance).await?;
            let size = followed.as_ref().map_or(0, |followed| followed.size);
            let edge: Vec<(u8, u64)> = (0..64_u8)
                .rev()
                .filter(|level| size >> level & 1 == 1)
                .map(|level| (level, (size >> level) - 1))
                .collect();
            let hashes = logs::nodes(sql, &who.site, &who.appliance, &edge).await?;
            let known = if first < size && count > 0 {
                logs::leaves(sql, &who.site, &who.appliance, (first, (first + count - 1).min(size - 1))).await?
            } else {
                Vec::new()
            };
            Ok((named, followed, hashes, known))
        })
    });
    let ((origin, keys), followed, hashes, known) = read.await?;
    let size = followed.as_ref().map_or(0, |followed| followed.size);
    let mut hashes = hashes.into_iter();
    let missing = || Problem::later("the log's edge is not there", 5);
    let frontier = Frontier::load(size, |_, _| hashes.next().ok_or_else(missing))?;
    let key = |text: &str| text.parse().map_err(|_| Problem::later("the appliance's keys cannot be read", 60));
    let expected = Expected { origin, entry: key(&keys.entry)?, head: key(&keys.head)? };
    Ok(Standing { expected, followed, frontier, known })
}

/// Writes the new entries into WORM before anything says that the server holds them.
async fn keep(state: &Arc<State>, identity: &Identity, accepted: &Accepted) -> Result<Segment, Problem> {
    let lines: Vec<&[u8]> = accepted.entries.iter().flat_map(|entry| [entry.line.as_slice(), b"\n"]).collect();
    let body = Bytes::from(lines.concat());
    let (first, last) = (accepted.head.size - accepted.entries.len() as u64, accepted.head.size - 1);
    let sha256 = sha256_hex(&body);
    let short = sha256.get(..16).unwrap_or_default();
    let name = format!("v1/{}/{}/seg/{first:012}-{last:012}.{short}.intoto.jsonl", identity.site, identity.appliance);
    let key = Key::new(name).ok_or_else(|| Problem::later("no name for the segment", 60))?;
    let kept = state.worm.put(&key, body, state.keep_until()).await?;
    Ok(Segment { first, last, key: key.to_string(), sha256, version: kept.version, keep_until: kept.until })
}

/// Another server of the fleet may have gone on with the log meanwhile: then nothing of this goes into WORM.
async fn still_at(state: &Arc<State>, identity: &Identity, holds: u64) -> Result<(), Problem> {
    let who = identity.clone();
    let size = state.fleet.look(move |sql| {
        let who = who.clone();
        Box::pin(async move { logs::size(sql, &who.site, &who.appliance).await })
    });
    if size.await? == holds { Ok(()) } else { Err(overtaken()) }
}

fn overtaken() -> Problem {
    let detail = "the same log was advanced at the same moment; ask where it stands";
    Problem::conflict("somebody_was_faster", detail)
}

async fn advance(state: &Arc<State>, identity: &Identity, step: Advance) -> Result<(), Problem> {
    let (who, step) = (identity.clone(), Arc::new(step));
    let advanced = state.fleet.write(move |sql| {
        let (who, step) = (who.clone(), Arc::clone(&step));
        Box::pin(async move { logs::advance(sql, &who.site, &who.appliance, &step).await })
    });
    match advanced.await {
        Err(FleetError::Conflict) => Err(overtaken()),
        result => Ok(result?),
    }
}

/// Tells why, and keeps what contradicts itself as proof.
async fn reject(
    state: &Arc<State>,
    body: &Bytes,
    identity: &Identity,
    rejected: &Rejected,
) -> Result<Problem, Problem> {
    state.metrics.rejected.get_or_create(&Word { is: rejected.word().to_owned() }).inc();
    if let Rejected::Elsewhere { holds } = rejected {
        return Ok(Problem::conflict("size_mismatch", format!("the server holds {holds} entries; begin there")));
    }
    if matches!(rejected, Rejected::Ahead(_)) {
        let problem = Problem::new(hyper::StatusCode::UNPROCESSABLE_ENTITY, "clock_ahead", rejected.to_string());
        return Ok(Problem { retry_after: Some(60), ..problem });
    }
    if rejected.is_suspect() {
        quarantine::suspect(state, body, identity, rejected).await?;
    }
    let status = hyper::StatusCode::UNPROCESSABLE_ENTITY;
    Ok(Problem::new(status, "evidence_rejected", rejected.to_string()))
}
