//! Built-in collectors for Linux hosts, one file each.

use crate::domain::finding::{Observation, ProblemKind};

use super::run::{Context, nothing};

/// Runs a collector by name.
#[expect(clippy::unused_async, reason = "collectors run programs")]
pub async fn collect(name: &str, _context: Context<'_>) -> Observation {
    nothing(ProblemKind::Missing, format!("no collector is called `{name}`"))
}
