//! The three tiers: who chose a runbook.

use serde::{Deserialize, Serialize};

/// Who chose the runbook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tier {
    /// A deterministic rule.
    L1,
    /// A language model, from the enabled catalogue.
    L2,
    /// A person.
    L3,
}

impl Tier {
    /// The printed word.
    pub fn word(self) -> &'static str {
        match self {
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::L3 => "L3",
        }
    }
}
