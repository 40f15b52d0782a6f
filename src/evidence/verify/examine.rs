//! What can be said about one entry or one head alone.

use jiff::Timestamp;

use crate::crypto::dsse::{Envelope, IN_TOTO, VerifyError};
use crate::crypto::jcs;
use crate::crypto::merkle::{Hash, leaf_hash};
use crate::crypto::note::{Checkpoint, NoteError};
use crate::domain::entry::EntryKind;
use crate::evidence::report::{Finding, Reason};
use crate::evidence::source::{RawEntry, RawHead};
use crate::evidence::trust::Keyring;
use crate::store::log::Statement;

/// An entry whose signature verified, as far as the walk needs it.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) seq: u64,
    pub(super) prev: Hash,
    pub(super) kind: EntryKind,
    pub(super) claimed_at: Timestamp,
}

/// The result of examining one entry.
#[derive(Debug)]
pub(super) struct Examined {
    /// Computed from the line, never taken from the container.
    pub(super) leaf: Hash,
    pub(super) facts: Result<Facts, Finding>,
    /// A finding that leaves the place of the entry usable: it belongs to another log.
    pub(super) foreign: Option<Finding>,
    /// Whether line and payload are in their canonical form.
    pub(super) canonical: bool,
}

/// A head that verified, or why not.
pub(super) type ExaminedHead = Result<Checkpoint, Finding>;

pub(super) fn entry(raw: &RawEntry, ring: &Keyring) -> Examined {
    let leaf = leaf_hash(&raw.line);
    match statement(raw, ring) {
        Err(finding) => Examined { leaf, facts: Err(finding), foreign: None, canonical: true },
        Ok((statement, canonical)) => {
            let Statement { seq, prev, kind, claimed_at, .. } = statement;
            let foreign = wrong_origin(&statement.origin, ring);
            Examined { leaf, facts: Ok(Facts { seq, prev, kind, claimed_at }), foreign, canonical }
        }
    }
}

/// The statement inside a line whose signature holds, and whether both are canonical.
fn statement(raw: &RawEntry, ring: &Keyring) -> Result<(Statement, bool), Finding> {
    let malformed = |why: String| Finding::new(Reason::Malformed, "a dsse envelope with a statement of the log", why);
    let envelope = Envelope::parse(&raw.line).map_err(|e| malformed(e.to_string()))?;
    let hint = envelope.signatures.iter().map(|s| s.keyid.clone()).collect::<Vec<_>>().join(", ");
    let tidy = envelope.canonical;
    let payload = envelope.verify(&ring.entry).map_err(|e| bad_signature(e, &hint, ring))?;
    if payload.get().payload_type != IN_TOTO {
        return Err(malformed(format!("payload type {}", payload.get().payload_type)));
    }
    let statement = Statement::parse(&payload.get().bytes).map_err(|e| malformed(e.to_string()))?;
    let mut canonical = Vec::with_capacity(payload.get().bytes.len());
    jcs::emit(&statement.value, &mut canonical);
    Ok((statement, tidy && canonical == payload.get().bytes))
}

fn bad_signature(error: VerifyError, hint: &str, ring: &Keyring) -> Finding {
    let trusted = ring.entry.iter().map(|key| format!("spki sha256 {}", key.fingerprint())).collect::<Vec<_>>();
    let expected = match trusted.as_slice() {
        [] => "a signature by a trusted entry key; none was given that may sign entries".to_owned(),
        some => format!("a signature by {}", some.join(" or ")),
    };
    match error {
        VerifyError::Unsigned => Finding::new(Reason::Unsigned, expected, "no signature"),
        VerifyError::BadSignature => {
            Finding::new(Reason::BadSignature, expected, format!("signature with key id {hint} verifies under none"))
        }
    }
}

fn wrong_origin(found: &str, ring: &Keyring) -> Option<Finding> {
    let expected = ring.origin.as_deref().filter(|expected| *expected != found)?;
    Some(Finding::new(Reason::WrongOrigin, format!("origin {expected}"), format!("origin {found}")))
}

pub(super) fn head(raw: &RawHead, ring: &Keyring) -> ExaminedHead {
    let opened = Checkpoint::open(&raw.note, &ring.head).map_err(|error| {
        let reason = match error {
            NoteError::Malformed(_) | NoteError::NotCheckpoint(_) => Reason::Malformed,
            NoteError::BadSignature(_) => Reason::BadSignature,
            NoteError::Unsigned => Reason::Unsigned,
        };
        let keys = ring.head.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        Finding::new(reason, format!("a checkpoint signed by {keys}"), error.to_string())
    })?;
    let signer = *opened.signer();
    let head = opened.into_inner();
    if let Some(finding) = wrong_origin(head.origin.as_str(), ring) {
        return Err(finding);
    }
    if !ring.head.iter().any(|vkey| vkey.key == signer && vkey.name == head.origin) {
        let expected = format!("a head key of {}", head.origin);
        return Err(Finding::new(Reason::Unsigned, expected, "a key that speaks for another log"));
    }
    if raw.size != head.size {
        let expected = format!("a head of {} entries", raw.size);
        return Err(Finding::new(Reason::SeqMismatch, expected, format!("a head of {} entries", head.size)));
    }
    Ok(head)
}
