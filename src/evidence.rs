//! Evidence for a stranger: verify, read and hand over a log, offline and without trusting its maker.
//!
//! [`verify()`] takes what the log says as claims: every hash is computed again, every signature is checked strictly,
//! and a key counts only if it came from outside the log. [`export()`] writes the files an auditor is given,
//! [`read`] shows single entries.

pub mod export;
pub mod read;
pub mod report;
pub mod source;
pub mod trust;
pub mod verify;

pub use export::export;
pub use report::{Bad, Report, Verdict};
pub use source::{Input, SourceError};
pub use trust::Trust;
pub use verify::{Options, verify};
