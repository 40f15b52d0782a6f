//! Malachor.

pub mod agent;
pub mod app;
pub mod catalog;
pub mod checks;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod domain;
pub mod evidence;
pub mod heal;
pub mod host;
pub mod phi;
pub mod store;
pub mod telemetry;
