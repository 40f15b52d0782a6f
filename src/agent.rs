//! The agent role: checks on a clock, heals within the guards, proves; stops cleanly and says how it is.

mod core;
mod driver;
mod http;

pub use driver::{AgentError, Ended, run};
