//! `malachor agent`: the daemon.

use clap::Args;

use crate::agent::{self, Ended};
use crate::app::{App, Clock, init_keys, keys_exist};
use crate::host::Host;

use super::keys::named;
use super::session::{Session, block_on};
use super::{Exit, Failure};

/// Run the agent: check on a clock, heal within the guards, prove.
///
/// It runs until SIGTERM or SIGINT. On its first run it makes the appliance's keys and begins its log. One agent runs per state directory.
#[derive(Debug, Args)]
pub(super) struct Agent {}

impl Agent {
    #[expect(clippy::unused_self, reason = "every subcommand runs the same way")]
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let loaded = session.loaded()?;
        crate::telemetry::init(&loaded.config.telemetry);
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "malachor agent starts");
        let state = loaded.config.agent.state_dir.clone();
        if !keys_exist(&state) {
            named(&loaded.config.site)?;
            init_keys(&state, &loaded.config.site, None)?;
            tracing::info!("made the keys of a new appliance in {}", state.join("keys").display());
        }
        block_on(async {
            let mut app = App::open(loaded, Host::live(), Clock::system())?;
            loop {
                match agent::run(&app).await.map_err(|error| Failure::unavailable(&error))? {
                    Ended::Stopped => return Ok(Exit::Ok),
                    Ended::Reload => {
                        tracing::info!("starting again with what the server gave");
                        drop(app);
                        app = App::open(session.loaded()?, Host::live(), Clock::system())?;
                    }
                }
            }
        })
    }
}
