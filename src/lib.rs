//! Malachor.
pub mod catalog;
pub mod checks;
pub mod config;
pub mod crypto;
pub mod domain;
pub mod host;
pub mod phi;
