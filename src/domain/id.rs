//! Names of things, parsed once at the edge.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name that does not have the form it must have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not {expected}")]
pub struct BadId {
    value: String,
    expected: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text form.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                let valid: fn(&str) -> bool = $ok;
                if valid(text) { Ok(Self(text.to_owned())) } else { Err(BadId { value: text.to_owned(), expected: $expected }) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.pad(&self.0)
            }
        }
    };
}

text_id!(
    /// A runbook's id, which is also its check's id: `RB-LNX-FIREWALL-001`.
    CheckId,
    "a runbook id like RB-LNX-FIREWALL-001 (RB, one to three words of capitals, three digits)",
    is_check_id
);
text_id!(
    /// What is checked: `host`, or the configured name of a Windows server.
    Target,
    "a target name (lower case letters, digits, `-` and `.`, at most 63)",
    |text| is_slug(text, 63)
);
text_id!(
    /// A rule's id: `L1-FIREWALL-RESTORE`.
    RuleId,
    "a rule id (capitals, digits and `-`, at most 64)",
    |text| !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'-')
);
text_id!(
    /// An incident, an execution, an approval or an exception: `INC-…`, `EXE-…`, `APR-…`, `EXC-…`.
    RecordId,
    "a record id like INC-5f0c81a2b3c4d5e6",
    |text| text.len() >= 12
        && text.len() <= 40
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
);
text_id!(
    /// A practice's id, the tenant: lower case, as in the log's name.
    SiteId,
    "a site id (lower case letters, digits, `-` and `.`, at most 63, no empty part)",
    |text| is_slug(text, 63) && text.split('.').all(|part| !part.is_empty())
);
text_id!(
    /// An appliance's id within its site.
    ApplianceId,
    "an appliance id (lower case letters, digits, `-` and `.`, at most 63, no empty part)",
    |text| is_slug(text, 63) && text.split('.').all(|part| !part.is_empty())
);
text_id!(
    /// A person's short name, as it stands in the audit trail and in keys.
    PersonId,
    "a person's id (lower case letters, digits, `-`, `.` and `_`, at most 63)",
    |text| is_slug(&text.replace('_', "-"), 63)
);
text_id!(
    /// An order, or the request that orders came from: `ORD-…`, `REQ-…`.
    OrderId,
    "an order id like ORD-5f0c81a2b3c4d5e6",
    |text| (text.starts_with("ORD-") || text.starts_with("REQ-"))
        && text.len() == 20
        && text.bytes().skip(4).all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
);
text_id!(
    /// The stable fingerprint of a drift: 32 hex digits.
    PatternSignature,
    "a pattern signature (32 hex digits)",
    |text| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
);

impl Target {
    /// The machine Malachor runs on.
    pub fn host() -> Self {
        Self("host".to_owned())
    }
}

impl OrderId {
    /// An order's id from 8 random bytes.
    pub fn order(random: [u8; 8]) -> Self {
        Self(format!("ORD-{:016x}", u64::from_be_bytes(random)))
    }

    /// A request's id from 8 random bytes.
    pub fn request(random: [u8; 8]) -> Self {
        Self(format!("REQ-{:016x}", u64::from_be_bytes(random)))
    }
}

impl RecordId {
    /// Builds an id from its kind and 8 random bytes.
    pub fn new(kind: RecordKind, random: [u8; 8]) -> Self {
        Self(format!("{}-{:016x}", kind.prefix(), u64::from_be_bytes(random)))
    }
}

/// What a [`RecordId`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// An open drift.
    Incident,
    /// One run of a plan.
    Execution,
    /// A question to a person.
    Approval,
    /// A waiver.
    Exception,
}

impl RecordKind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Incident => "INC",
            Self::Execution => "EXE",
            Self::Approval => "APR",
            Self::Exception => "EXC",
        }
    }
}

fn is_check_id(text: &str) -> bool {
    let words: Vec<&str> = text.split('-').collect();
    let [first, middle @ .., last] = words.as_slice() else { return false };
    *first == "RB"
        && (1..=3).contains(&middle.len())
        && middle
            .iter()
            .all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()))
        && last.len() == 3
        && last.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_slug(text: &str, max: usize) -> bool {
    !text.is_empty()
        && text.len() <= max
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_parsed_strictly() {
        for good in ["RB-BACKUP-001", "RB-LNX-SSH-001", "RB-WIN-PATCH-001"] {
            assert!(good.parse::<CheckId>().is_ok(), "{good}");
        }
        for bad in ["", "RB", "RB-001", "rb-backup-001", "RB-BACKUP-1", "RB-A-B-C-D-001", "RB--001", "RB-../../x-001"] {
            assert!(bad.parse::<CheckId>().is_err(), "{bad}");
        }
        for (id, good) in
            [("dr.lee_2", true), ("", false), ("Lee", false), ("a:b", false), ("a/b", false), ("a b", false)]
        {
            assert_eq!(id.parse::<PersonId>().is_ok(), good, "{id}");
        }
        assert!("x".repeat(64).parse::<PersonId>().is_err());
        assert_eq!(
            "x".parse::<CheckId>().unwrap_err().to_string(),
            "`x` is not a runbook id like RB-LNX-FIREWALL-001 (RB, one to three words of capitals, three digits)"
        );
    }
}
