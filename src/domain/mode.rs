//! How far Malachor may go by itself.

use serde::{Deserialize, Serialize};

/// What may be done about drift, from least to most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Look and report; nothing on the target is changed.
    #[default]
    Observe,
    /// Change only what a named person approved.
    Approve,
    /// Heal within the guards.
    Heal,
}

impl Mode {
    /// The strictest of several: the least that any of them allows.
    #[must_use]
    pub fn strictest(self, other: Self) -> Self {
        self.min(other)
    }

    /// The printed word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Approve => "approve",
            Self::Heal => "heal",
        }
    }
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "observe" => Ok(Self::Observe),
            "approve" => Ok(Self::Approve),
            "heal" => Ok(Self::Heal),
            _ => Err(format!("`{text}` is not a mode; expected observe, approve or heal")),
        }
    }
}
