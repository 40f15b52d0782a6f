//! Logs and metrics: one function per event writes both.

pub mod events;
mod logs;
pub mod metrics;

pub use logs::init;
