//! Runbooks, rules and the HIPAA catalogue: content, compiled once at start, reported on like a compiler.

mod diagnostic;
mod directory;
mod load;
mod rule;
mod runbook;
mod source;

pub use diagnostic::{Diagnostic, Diagnostics};
pub use directory::{BYTES, is_yaml, read as read_dir};
pub use load::{Catalog, EMBEDDED, Files, Given, Mismatch, run_examples, run_rule_examples};
