//! The appliance's side of the server: enrolment, check-ins, evidence, orders. Pull only: the appliance always calls.
//!
//! Everything works without it. What waits for the server waits in the log; what the server asks for enters the pipeline
//! at the guards, like a person standing at the appliance.

mod enrol;
mod link;
mod orders;
mod pinned;
mod pull;
mod push;
mod run;

use serde::de::DeserializeOwned;

pub use crate::app::enrolled::is_enrolled;
pub use enrol::enrol;
pub use link::Link;
pub use run::{Known, look, once, run};

use crate::net::NetError;
use crate::store::StoreError;

/// Why the server could not be asked, or what it said.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// No answer.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The server said no.
    #[error("the server says {status}: {detail}")]
    Said {
        /// The HTTP status.
        status: u16,
        /// Its words.
        detail: String,
    },
    /// Its answer cannot be believed or read.
    #[error("the server's answer: {0}")]
    Answer(String),
    /// The appliance's own files or memory.
    #[error("{0}")]
    Own(String),
    /// The appliance's store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn own(what: impl std::fmt::Display, why: impl std::fmt::Display) -> UplinkError {
    UplinkError::Own(format!("{what}: {why}"))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, UplinkError> {
    serde_json::from_slice(body).map_err(|error| UplinkError::Answer(error.to_string()))
}
