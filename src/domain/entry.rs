//! What an appliance states: one entry of its log, before and apart from signing.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde_json::{Map, Value};
use thiserror::Error;

/// What a statement is about; stored as its snake-case word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// The first entry: which keys may speak for this log.
    Genesis,
    /// A check ran, or should have.
    Check,
    /// A runbook was executed, refused or handed on.
    Action,
    /// Signed proof of life with the posture.
    Heartbeat,
    /// Which checks are due when, so that a missing one shows.
    Schedule,
    /// A key was added, retired or declared compromised.
    Key,
    /// Entries were removed under a retention policy.
    Prune,
    /// The appliance knows of a time it could not observe.
    Gap,
}

impl EntryKind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Self; 8] =
        [Self::Genesis, Self::Check, Self::Action, Self::Heartbeat, Self::Schedule, Self::Key, Self::Prune, Self::Gap];

    /// The stored word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Genesis => "genesis",
            Self::Check => "check",
            Self::Action => "action",
            Self::Heartbeat => "heartbeat",
            Self::Schedule => "schedule",
            Self::Key => "key",
            Self::Prune => "prune",
            Self::Gap => "gap",
        }
    }

    /// The words `outcome` may hold for this kind; none means it must be absent.
    ///
    /// Checks use the verdicts of findings and `notrun`; actions say what became of the execution, and
    /// `recorded` for a person's decision.
    pub const fn outcomes(self) -> &'static [&'static str] {
        match self {
            Self::Check => &["pass", "warn", "fail", "unknown", "not_applicable", "notrun"],
            Self::Action => &["repaired", "kept", "undone", "failed", "refused", "deferred", "escalated", "recorded"],
            Self::Genesis | Self::Heartbeat | Self::Schedule | Self::Key | Self::Prune | Self::Gap => &[],
        }
    }
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EntryKind {
    type Err = EntryError;

    fn from_str(word: &str) -> Result<Self, EntryError> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| EntryError::Kind(word.into()))
    }
}

/// Why a statement may not enter the log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EntryError {
    /// A word that is no kind.
    #[error("`{0}` is not a kind of entry")]
    Kind(String),
    /// A word outside the vocabulary of the kind.
    #[error("outcome `{outcome}` does not belong to a {kind} entry; allowed: {allowed}", allowed = kind.outcomes().join(", "))]
    Outcome {
        /// The kind.
        kind: EntryKind,
        /// What was given, `none` when absent.
        outcome: String,
    },
    /// Not 64 lower-case hexadecimal digits.
    #[error("{field} `{value}` is not a sha-256 in lower-case hexadecimal")]
    Digest {
        /// Which field.
        field: &'static str,
        /// What was given.
        value: String,
    },
}

/// One statement before it has its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryDraft {
    /// What it is about.
    pub kind: EntryKind,
    /// What was looked at, and the digest of what was seen.
    pub subject: Subject,
    /// HIPAA specifications it speaks to, e.g. `164.312(b)`.
    pub controls: Vec<String>,
    /// A word of [`EntryKind::outcomes`].
    pub outcome: Option<String>,
    /// Why, in words.
    pub reason: Option<String>,
    /// The runbook that checked or acted.
    pub runbook: Option<RunbookRef>,
    /// Anything else, in the JSON subset of the log.
    pub detail: Map<String, Value>,
}

impl EntryDraft {
    /// Refuses an outcome outside the kind's vocabulary and digests that are none.
    pub fn validate(&self) -> Result<(), EntryError> {
        let allowed = self.kind.outcomes();
        let fits = self.outcome.as_deref().map_or(allowed.is_empty(), |word| allowed.contains(&word));
        if !fits {
            let outcome = self.outcome.clone().unwrap_or_else(|| "none".into());
            return Err(EntryError::Outcome { kind: self.kind, outcome });
        }
        digest("subject sha256", &self.subject.sha256)?;
        self.runbook.as_ref().map_or(Ok(()), |runbook| digest("runbook sha256", &runbook.sha256))
    }
}

fn digest(field: &'static str, value: &str) -> Result<(), EntryError> {
    let hex = value.len() == 64 && value.bytes().all(|c| c.is_ascii_digit() || matches!(c, b'a'..=b'f'));
    if hex { Ok(()) } else { Err(EntryError::Digest { field, value: value.into() }) }
}

/// What a statement is about: an in-toto subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// `malachor:<site>/host/<pseudonym>`.
    pub name: String,
    /// SHA-256 of the raw observation, in hexadecimal.
    pub sha256: String,
}

/// A runbook at one exact version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunbookRef {
    /// Its id, e.g. `RB-DISK-001`.
    pub id: String,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
}

/// What the program knows about itself when it seals a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealContext {
    /// When it is sealed, by the appliance's clock: what the statement claims, in whole seconds of UTC.
    pub now: Timestamp,
    /// The boot id: monotonic times compare within one boot only.
    pub boot: String,
    /// Milliseconds since boot.
    pub mono_ms: u64,
    /// Version of the agent.
    pub agent_version: String,
    /// SHA-256 of the agent's binary, in hexadecimal.
    pub agent_sha256: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_go_round_by_their_words() {
        for kind in EntryKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert!("Genesis".parse::<EntryKind>().is_err());
    }

    #[test]
    fn outcomes_and_digests_are_checked() {
        let draft = |kind, outcome: Option<&str>, sha256: String| EntryDraft {
            kind,
            subject: Subject { name: "malachor:s/host/h".into(), sha256 },
            controls: vec![],
            outcome: outcome.map(Into::into),
            reason: None,
            runbook: None,
            detail: Map::new(),
        };
        let good = "0".repeat(64);
        assert!(draft(EntryKind::Check, Some("pass"), good.clone()).validate().is_ok());
        assert!(draft(EntryKind::Gap, None, good.clone()).validate().is_ok());
        let message = draft(EntryKind::Check, Some("repaired"), good.clone()).validate().unwrap_err().to_string();
        assert!(message.contains("`repaired`") && message.contains("notrun"), "{message}");
        assert!(draft(EntryKind::Check, None, good.clone()).validate().is_err());
        assert!(draft(EntryKind::Gap, Some("pass"), good).validate().is_err());
        assert!(draft(EntryKind::Gap, None, "A".repeat(64)).validate().is_err());
    }
}
