//! Malachor.
pub mod phi;
