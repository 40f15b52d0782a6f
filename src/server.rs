//! The server: a fleet of appliances, tenants kept apart by certificate, evidence into WORM, signed orders out.
//!
//! One process, any number of replicas: all state is in the stores. [`router`] names each route's principal; `gate` finds
//! out who calls before a handler is reached; nothing in a request's body or path ever selects a tenant.

pub mod api;
pub mod authority;
mod bodies;
mod counted;
pub mod enrolment;
mod gate;
pub mod intake;
pub mod issue;
mod jobs;
pub mod keys;
mod listen;
pub mod metrics;
pub mod openapi;
mod own;
pub mod problem;
pub mod publish;
pub mod router;
mod signs;
pub mod state;
pub mod stores;
mod whose;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

pub use listen::Listening;
pub use state::{StartError, State};

/// Runs the server until SIGTERM or SIGINT; what is being answered is answered.
pub async fn run(state: Arc<State>) -> Result<(), StartError> {
    let wrong = |error: std::io::Error| StartError(error.to_string());
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate()).map_err(wrong)?, signal(SignalKind::interrupt()).map_err(wrong)?);
    let listening = start(state).await?;
    tracing::info!(address = %listening.address(), "the server is ready");
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: what is being answered is answered");
    listening.stop().await;
    Ok(())
}

/// Starts listening and the background loops; dropping what it gives ends them.
pub async fn start(state: Arc<State>) -> Result<Listening, StartError> {
    state.read_revoked().await.map_err(|error| StartError(format!("server.store: {error}")))?;
    state.read_bundles().await.map_err(|error| StartError(format!("server.store: {error}")))?;
    let loops = jobs::spawn(&state);
    Listening::start(state, loops).await
}

/// Where a server listens.
pub type Address = SocketAddr;
