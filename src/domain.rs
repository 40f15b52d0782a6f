//! The vocabulary as pure types: no I/O, no clock, no async.

pub mod entry;
