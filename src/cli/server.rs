//! `malachor server`: the fleet's server, and whether its evidence store keeps what it is told to keep.

use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use jiff::Timestamp;

use crate::app::Clock;
use crate::fleet::Fleet;
use crate::fleet::sites::{self, ApplianceState};
use crate::server::keys::{ServerKeys, begin_rotation, end_rotation};
use crate::server::state::audited;
use crate::server::{self, StartError, State};

use super::output::Tint;
use super::session::Session;
use super::tenants::{listed, open, said};
use super::{Exit, Failure};

/// Run the server: appliances, evidence, orders.
///
/// It runs until SIGTERM or SIGINT. On its first start it makes its certificate authority and signing keys in
/// `server.state_dir`; without further settings everything is kept there, too.
#[derive(Debug, Args)]
pub(super) struct Server {
    #[command(subcommand)]
    pub(super) command: Option<Task>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Task {
    /// Try on the evidence store itself whether it refuses to delete and change
    CheckWorm,
    /// The keys that sign orders: who holds them, and their rotation
    #[command(subcommand)]
    Keys(Keys),
}

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// List the keys, and how many appliances hold each
    List,
    /// Begin a rotation: a new key is made, announced to the fleet, and used for whoever holds it
    Rotate(By),
    /// End a rotation: the old key counts nowhere any more
    Retire(Retire),
}

#[derive(Debug, Args)]
pub(super) struct By {
    /// Who does it [default: the user behind sudo]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Retire {
    #[command(flatten)]
    by: By,
    /// Even if appliances do not hold the new key: they have to be enrolled again
    #[arg(long)]
    force: bool,
}

impl Server {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let loaded = session.loaded()?;
        match self.command {
            Some(Task::CheckWorm) => on_runtime(check_worm(session)),
            Some(Task::Keys(keys)) => on_runtime(keys.run(session)),
            None => {
                crate::telemetry::init(&loaded.config.telemetry);
                tracing::info!(version = env!("CARGO_PKG_VERSION"), "malachor server starts");
                on_runtime(async {
                    let state = State::open(&loaded, Clock::system()).await?;
                    server::run(Arc::new(state)).await?;
                    Ok(Exit::Ok)
                })
            }
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::unavailable(&error)
    }
}

/// Runs asynchronous work on as many threads as there are cores.
pub(super) fn on_runtime<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Internal, format!("the runtime does not start: {error}")))?;
    runtime.block_on(work)
}

impl Keys {
    async fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let loaded = session.loaded()?;
        let (dir, domain) = (loaded.config.server.state_dir.join("keys"), &loaded.config.site.operator_domain);
        let own = || ServerKeys::open(&dir, domain).map_err(|error| Failure::unavailable(&error));
        let refused = |why: String| Failure::new(Exit::Usage, why);
        match self {
            Self::List => list_keys(session, &own()?).await?,
            Self::Rotate(by) => {
                let (fleet, now, who) = open(session, by.by.as_deref()).await?;
                own()?;
                begin_rotation(&dir).map_err(refused)?;
                let ids = own()?.order_ids();
                note(&fleet, now, (&who, "order_key.rotate"), &ids).await?;
                let line = format!("the next key is announced: {}", ids.last().map_or("", String::as_str));
                said(session, &json!({"schema": "malachor.done/1", "say": line}), line.clone());
            }
            Self::Retire(retire) => {
                let (fleet, now, who) = open(session, retire.by.by.as_deref()).await?;
                let ids = own()?.order_ids();
                let newest = ids.last().cloned().unwrap_or_default();
                let without = lacking(&fleet, &newest).await?;
                if ids.len() > 1 && !without.is_empty() && !retire.force {
                    let why = "do not hold the new key yet; wait for them, or --force and enrol them again";
                    return Err(refused(format!("{} {why}", without.join(", "))));
                }
                end_rotation(&dir).map_err(refused)?;
                note(&fleet, now, (&who, "order_key.retire"), &[newest]).await?;
                let line = "the old key counts nowhere any more".to_owned();
                said(session, &json!({"schema": "malachor.done/1", "say": line}), line.clone());
            }
        }
        Ok(Exit::Ok)
    }
}

async fn note(fleet: &Fleet, now: Timestamp, (who, act): (&str, &str), ids: &[String]) -> Result<(), Failure> {
    let (who, act, ids) = (who.to_owned(), act.to_owned(), ids.to_vec());
    let written = fleet.write(move |sql| {
        let (who, act, ids) = (who.clone(), act.clone(), ids.clone());
        Box::pin(async move { audited(sql, ("", now), (&who, &act, "order key"), json!({"keys": ids})).await })
    });
    Ok(written.await?)
}

/// Appliances that may speak and do not hold a key.
async fn lacking(fleet: &Fleet, key: &str) -> Result<Vec<String>, Failure> {
    let all = held_keys(fleet).await?;
    let without = all.into_iter().filter(|(_, held)| !held.iter().any(|id| id == key));
    Ok(without.map(|(name, _)| name).collect())
}

async fn held_keys(fleet: &Fleet) -> Result<Vec<(String, Vec<String>)>, Failure> {
    let read = fleet.read(|sql| {
        Box::pin(async move {
            let mut held = Vec::new();
            for one in sites::appliances(sql, None).await? {
                if one.state != ApplianceState::Revoked {
                    let keys = sites::order_keys_held(sql, &one.site, &one.id).await?;
                    held.push((format!("{}/{}", one.site, one.id), keys));
                }
            }
            Ok(held)
        })
    });
    Ok(read.await?)
}

async fn list_keys(session: &Session<'_>, keys: &ServerKeys) -> Result<(), Failure> {
    let (fleet, ..) = open(session, Some("list")).await?;
    let all = held_keys(&fleet).await?;
    let rows = keys.order_ids().into_iter().zip(keys.order_keys()).map(|(id, vkey)| {
        let (with, without): (Vec<_>, Vec<_>) = all.iter().partition(|(_, held)| held.contains(&id));
        let (held_by, without) = (with.len(), without.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
        let json =
            json!({"schema": "malachor.order_key/1", "id": id, "vkey": vkey, "held_by": held_by, "not_by": without});
        (json, vec![id, held_by.to_string(), without.join(", ")])
    });
    listed(session, &["ORDER KEY", "HELD BY", "NOT BY"], rows);
    Ok(())
}

async fn check_worm(session: &Session<'_>) -> Result<Exit, Failure> {
    let loaded = session.loaded()?;
    let kept = server::stores::open_worm(&loaded.config.server).await?;
    let proofs = kept.prove(Clock::system().now()).await.map_err(|error| Failure::unavailable(&error))?;
    let (mut broken, mut untold) = (0, 0);
    for proof in &proofs {
        let (word, tint) = match proof.holds {
            Some(true) => ("holds", Tint::Good),
            Some(false) => ("DOES NOT HOLD", Tint::Bad),
            None => ("not known", Tint::Doubt),
        };
        broken += u32::from(proof.holds == Some(false));
        untold += u32::from(proof.holds.is_none());
        if session.out.is_json() {
            session.out.json(
                &json!({"schema": "malachor.worm_proof/1", "what": proof.what, "holds": proof.holds, "say": proof.say}),
            );
        } else {
            session.out.line(format!("{:<14} {} ({})", session.out.tint(tint, word), proof.what, proof.say));
        }
    }
    Ok(match (broken, untold) {
        (1.., _) => Exit::Found,
        (0, 1..) => Exit::NotEnough,
        (0, 0) => Exit::Ok,
    })
}
