//! Answers that say no, as RFC 9457 problem documents: what is wrong, which field, what to do. Never what is inside.

use hyper::StatusCode;
use serde::Serialize;

use crate::blob::BlobError;
use crate::fleet::{FleetError, Kind};

/// Why a request is not answered as it wished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// A stable word.
    pub word: &'static str,
    /// A sentence for people.
    pub detail: String,
    /// The member of the request it is about, as a path.
    pub field: Option<String>,
    /// Seconds after which the same again may work.
    pub retry_after: Option<u64>,
    /// Methods the path takes, where the one that was used is not among them.
    pub allow: Option<String>,
}

/// The document itself.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Document {
    /// `about:blank` says that the status says it all; ours is a stable word.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The status.
    pub status: u16,
    /// What is wrong.
    pub detail: String,
    /// Where in the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl Problem {
    /// A problem with a word and a sentence.
    pub fn new(status: StatusCode, word: &'static str, detail: impl Into<String>) -> Self {
        Self { status, word, detail: detail.into(), field: None, retry_after: None, allow: None }
    }

    /// Something in the request is not what it must be.
    pub fn bad(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(StatusCode::BAD_REQUEST, "bad_request", detail) }
    }

    /// Nobody said who they are, or not so that it holds.
    pub fn who(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    }

    /// They may not.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// It is not there.
    pub fn missing(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// It collides with what is there.
    pub fn conflict(word: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, word, detail)
    }

    /// Not now.
    pub fn later(detail: &str, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail) }
    }

    /// The document.
    pub fn document(&self) -> Document {
        Document {
            kind: format!("urn:malachor:problem:{}", self.word),
            title: self.status.canonical_reason().unwrap_or("problem").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
            field: self.field.clone(),
        }
    }
}

impl From<FleetError> for Problem {
    /// What the database said stays in the log; whoever asked gets what they can do something about.
    fn from(error: FleetError) -> Self {
        match error.kind() {
            Kind::Transient => {
                tracing::warn!("the fleet store: {error}");
                Self::later("the store does not answer just now", 2)
            }
            Kind::NotThere => Self::missing(error.to_string()),
            Kind::Conflict => Self::conflict("exists", error.to_string()),
            Kind::Refused => Self::forbidden(error.to_string()),
            Kind::Stands => Self::conflict("conflict", error.to_string()),
            Kind::Broken => {
                tracing::error!("the fleet store: {error}");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something is wrong here; it is in the log")
            }
        }
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        tracing::error!("WORM: {error}");
        if error.is_transient() {
            Self::later("the evidence store does not answer just now", 5)
        } else {
            Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "evidence cannot be kept; it is in the log")
        }
    }
}
