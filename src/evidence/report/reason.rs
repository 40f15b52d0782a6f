//! The stable words of a report: reasons, verdicts with their exit codes, and places.

/// Why an entry or a head is bad, or why the whole is not enough; the words are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Bytes that are no envelope, statement or checkpoint.
    Malformed,
    /// No signature, or none by a key we know.
    Unsigned,
    /// A signature that does not verify under any key that may make it.
    BadSignature,
    /// Part of another log.
    WrongOrigin,
    /// Not at the index it states.
    SeqMismatch,
    /// Does not name the entry before it.
    ChainBreak,
    /// The leaf hash stored beside it is not its own.
    LeafMismatch,
    /// A stored tree node is not what the entries give.
    NodeMismatch,
    /// Entries that must exist are not there.
    Missing,
    /// A signed head covers more entries than there are.
    TailMissing,
    /// A signed head has another root than the entries.
    RootMismatch,
    /// Two signed heads contradict each other.
    Fork,
    /// The log does not extend the head the auditor holds.
    ExpectedHeadMismatch,
    /// No key came from outside the log.
    KeyNotPinned,
    /// Entries that no head covers.
    TailNotCovered,
    /// Nothing to verify.
    NothingToCheck,
    /// The input cannot be read.
    Unreadable,
    /// The verifier itself failed.
    Internal,
}

impl Reason {
    /// The stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "MALFORMED",
            Self::Unsigned => "UNSIGNED",
            Self::BadSignature => "BAD_SIGNATURE",
            Self::WrongOrigin => "WRONG_ORIGIN",
            Self::SeqMismatch => "SEQ_MISMATCH",
            Self::ChainBreak => "CHAIN_BREAK",
            Self::LeafMismatch => "LEAF_MISMATCH",
            Self::NodeMismatch => "NODE_MISMATCH",
            Self::Missing => "MISSING",
            Self::TailMissing => "TAIL_MISSING",
            Self::RootMismatch => "ROOT_MISMATCH",
            Self::Fork => "FORK",
            Self::ExpectedHeadMismatch => "EXPECTED_HEAD_MISMATCH",
            Self::KeyNotPinned => "KEY_NOT_PINNED",
            Self::TailNotCovered => "TAIL_NOT_COVERED",
            Self::NothingToCheck => "NOTHING_TO_CHECK",
            Self::Unreadable => "UNREADABLE",
            Self::Internal => "INTERNAL",
        }
    }
}

/// The verdict, each with its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// 0: every check passed, under a key from outside.
    Verified,
    /// 1: the evidence contradicts itself or the key.
    Contradicted,
    /// 3: intact, but not enough to say yes.
    NotEnough,
    /// 4: unreadable.
    Unreadable,
    /// 5: the verifier failed.
    Internal,
}

impl Verdict {
    /// The exit code of `malachor evidence verify`; 2 is left to wrong usage.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Verified => 0,
            Self::Contradicted => 1,
            Self::NotEnough => 3,
            Self::Unreadable => 4,
            Self::Internal => 5,
        }
    }

    /// The words of the last line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "VERIFIED",
            Self::Contradicted => "NOT VERIFIED",
            Self::NotEnough => "INTACT, NOT ENOUGH",
            Self::Unreadable => "UNREADABLE",
            Self::Internal => "NOT FINISHED",
        }
    }
}

/// Where something is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The entry with this index.
    Entry(u64),
    /// The head that covers this many entries.
    Head(u64),
}

impl At {
    /// Log order: a head comes right after the last entry it covers.
    pub(super) const fn order(self) -> (u64, u8) {
        match self {
            Self::Entry(seq) => (seq, 0),
            Self::Head(size) => (size.saturating_sub(1), 1),
        }
    }
}
