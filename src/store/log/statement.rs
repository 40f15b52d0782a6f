//! The signed words: an in-toto Statement v1 with our predicate, written from a draft and read back.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::crypto::keys::KeyName;
use crate::crypto::{hex, json, merkle::Hash, sha256, unhex};
use crate::domain::entry::{EntryDraft, EntryKind, SealContext};

const STATEMENT: &str = "https://in-toto.io/Statement/v1";

/// The predicate type of a log: `https://<operator-domain>/malachor/evidence/v1`, the domain being the origin's first part.
pub fn predicate_type(origin: &str) -> String {
    let domain = origin.split('/').next().unwrap_or(origin);
    format!("https://{domain}/malachor/evidence/v1")
}

/// The `prev` of a first entry, which binds the whole chain to its log.
pub fn genesis_prev(origin: &str) -> Hash {
    sha256(format!("malachor/genesis/v1\n{origin}\n").as_bytes())
}

/// A time as the log writes it: RFC 3339, UTC, whole seconds.
pub fn instant(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// The place an entry takes.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) origin: &'a KeyName,
    pub(super) seq: u64,
    pub(super) prev: &'a Hash,
}

/// The whole statement of a draft at its place.
pub(super) fn compose(draft: &EntryDraft, detail: &Map<String, Value>, place: &Place<'_>, ctx: &SealContext) -> Value {
    let mut predicate = json!({
        "origin": place.origin.as_str(),
        "seq": place.seq,
        "prev": hex(place.prev),
        "kind": draft.kind.as_str(),
        "claimedAt": instant(ctx.now),
        "boot": ctx.boot,
        "mono": ctx.mono_ms,
        "agent": {"version": ctx.agent_version, "sha256": ctx.agent_sha256},
        "controls": draft.controls,
        "detail": detail,
    });
    if let Value::Object(members) = &mut predicate {
        let runbook = draft.runbook.as_ref().map(|r| json!({"id": r.id, "sha256": r.sha256}));
        let optional = [
            ("outcome", draft.outcome.clone().map(Value::from)),
            ("reason", draft.reason.clone().map(Value::from)),
            ("runbook", runbook),
        ];
        members.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    }
    json!({
        "_type": STATEMENT,
        "subject": [{"name": draft.subject.name, "digest": {"sha256": draft.subject.sha256}}],
        "predicateType": predicate_type(place.origin.as_str()),
        "predicate": predicate,
    })
}

/// Why a payload is not a statement of a log.
#[derive(Debug, Error)]
pub enum StatementError {
    /// Not JSON, or outside the subset.
    #[error(transparent)]
    Json(#[from] json::JsonError),
    /// A member is absent or of another type or form.
    #[error("`{0}` is missing or not what it must be")]
    Field(&'static str),
}

/// A statement as read: the members that place it in its log, and the rest as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// Which log it claims to be part of.
    pub origin: String,
    /// Its index there.
    pub seq: u64,
    /// The leaf hash before it.
    pub prev: Hash,
    /// What it is about.
    pub kind: EntryKind,
    /// When it was sealed, by the appliance's clock.
    pub claimed_at: Timestamp,
    /// Everything that was signed.
    pub value: Value,
}

impl Statement {
    /// Reads a payload; unknown members are kept in `value` and never relied on.
    pub fn parse(payload: &[u8]) -> Result<Self, StatementError> {
        let value = json::parse(payload, crate::crypto::dsse::MAX_PAYLOAD)?;
        let text = |path: &'static str| {
            value.pointer(path).and_then(Value::as_str).ok_or(StatementError::Field(path.trim_start_matches('/')))
        };
        if text("/_type")? != STATEMENT {
            return Err(StatementError::Field("_type"));
        }
        let origin = text("/predicate/origin")?.to_owned();
        if text("/predicateType")? != predicate_type(&origin) {
            return Err(StatementError::Field("predicateType"));
        }
        let seq = value.pointer("/predicate/seq").and_then(Value::as_u64);
        Ok(Self {
            origin,
            seq: seq.ok_or(StatementError::Field("predicate/seq"))?,
            prev: unhex(text("/predicate/prev")?).ok_or(StatementError::Field("predicate/prev"))?,
            kind: text("/predicate/kind")?.parse().map_err(|_| StatementError::Field("predicate/kind"))?,
            claimed_at: text("/predicate/claimedAt")?
                .parse()
                .map_err(|_| StatementError::Field("predicate/claimedAt"))?,
            value,
        })
    }

    /// A string member of the predicate, if it is there.
    pub fn text(&self, member: &str) -> Option<&str> {
        self.value.get("predicate")?.get(member)?.as_str()
    }

    /// What the statement is about, by name.
    pub fn subject(&self) -> Option<&str> {
        self.value.pointer("/subject/0/name")?.as_str()
    }

    /// The verifier key a genesis lists under `role` (`entry`, `head` or `recovery`).
    pub fn listed_key(&self, role: &str) -> Option<crate::crypto::keys::VerifierKey> {
        self.value.pointer(&format!("/predicate/detail/keys/{role}/vkey"))?.as_str()?.parse().ok()
    }
}
