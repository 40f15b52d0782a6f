//! What is kept on disk.

pub mod log;
