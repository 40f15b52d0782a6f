//! From a finding to a proven outcome: decide, guard, execute, verify, commit.
//!
//! `heal --dry-run` is this pipeline stopped before execute; the daemon is this pipeline on a clock.

mod decide;
mod executor;
mod gap;
mod journal;
mod look;
mod own;
pub mod people;
mod pipeline;
mod proof;
mod recover;
mod snapshot;
mod steps;
mod units;

pub use decide::{Proposal, propose};
pub use executor::Outcome;
pub use journal::JournalEvent;
pub use look::look;
pub use pipeline::{CheckRun, Reach, apply, propose_to, run_check, run_confirmed};
pub use proof::{heartbeat, posture, schedule};
pub use recover::{recover, retire};
pub use steps::file_diff;

use crate::domain::incident::IllegalTransition;
use crate::host::HostError;
use crate::store::StoreError;

/// Why the pipeline itself could not go on; a failed remediation is an [`Outcome`], not an error.
#[derive(Debug, thiserror::Error)]
pub enum HealError {
    /// The store said no; nothing of the step was kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The machine said no where the pipeline itself needed it.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A defect: an event that cannot happen.
    #[error(transparent)]
    Transition(#[from] IllegalTransition),
    /// A capability said no.
    #[error(transparent)]
    App(#[from] crate::app::AppError),
    /// A defect: a check ended in a panic, which is in the log.
    #[error("it ended in a defect; the log before this line says where")]
    Defect,
    /// What a person named is not there or may not be.
    #[error("{0}")]
    Refused(String),
}
