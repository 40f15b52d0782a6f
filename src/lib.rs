//! Malachor.
pub mod crypto;
pub mod domain;
pub mod evidence;
pub mod phi;
pub mod store;
