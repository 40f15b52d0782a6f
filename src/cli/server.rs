//! `malachor server`: the fleet's server, and whether its evidence store keeps what it is told to keep.

use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::app::Clock;
use crate::server::{self, StartError, State};

use super::output::Tint;
use super::session::Session;
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
}

impl Server {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let loaded = session.loaded()?;
        match self.command {
            Some(Task::CheckWorm) => on_runtime(check_worm(session)),
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

async fn check_worm(session: &Session<'_>) -> Result<Exit, Failure> {
    let loaded = session.loaded()?;
    let kept = server::state::open_worm(&loaded.config.server).await?;
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
