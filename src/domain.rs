//! The rules of the field, pure: no I/O, no clock, no randomness, no async.
//!
//! Everything here takes its time, ids and facts as values, so every rule can be tried with any input in a test.

pub mod baseline;
pub mod bundle;
pub mod control;
pub mod entry;
pub mod exception;
pub mod expr;
pub mod finding;
pub mod guard;
pub mod id;
pub mod incident;
pub mod mode;
pub mod order;
pub mod plan;
pub mod planning;
pub mod role;
pub mod rule;
pub mod runbook;
pub mod schema;
pub mod signature;
pub mod tier;
pub mod time;
pub mod window;
