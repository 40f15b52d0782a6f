//! The rules of the field, pure: no I/O, no clock, no randomness, no async.
//!
//! Everything here takes its time, ids and facts as values, so every rule can be tried with any input in a test.

pub mod control;
//entry
//exception
pub mod expr;
pub mod finding;
//guard
pub mod id;
//incident
//mode
pub mod plan;
pub mod rule;
pub mod runbook;
pub mod schema;
//signature
pub mod time;
//window
