//! Single entries, decoded for reading. Nothing here is verified; that is [`super::verify()`]'s work.

use serde_json::{Value, json};
use thiserror::Error;

use super::source::{Input, RawEntry, Source, SourceError};
use crate::crypto::dsse::{DsseError, Envelope};
use crate::crypto::hex;
use crate::crypto::merkle::leaf_hash;
use crate::store::log::{Statement, StatementError, instant};

/// Entries held in memory at a time.
const CHUNK: usize = 256;

/// Why an entry cannot be shown.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The log cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is no such entry.
    #[error("no entry {0} in this log")]
    Absent(u64),
    /// Not an envelope.
    #[error(transparent)]
    Envelope(#[from] DsseError),
    /// Not a statement.
    #[error(transparent)]
    Statement(#[from] StatementError),
}

/// One line of a listing.
#[derive(Debug, serde::Serialize, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Index in the log.
    pub seq: u64,
    /// When, by the appliance's clock.
    pub claimed_at: String,
    /// What it is about.
    pub kind: String,
    /// How it went.
    pub outcome: Option<String>,
    /// Why, or what a person decided.
    pub reason: Option<String>,
    /// What was looked at.
    pub subject: String,
    /// The runbook's id.
    pub runbook: Option<String>,
    /// Leaf hash, computed now.
    pub leaf: String,
}

/// The entries from index `from` on, at most `limit`.
pub fn list(input: &Input, from: u64, limit: usize) -> Result<Vec<Listed>, ReadError> {
    let mut out = Vec::new();
    each(input, from, |raw, statement, _| {
        out.push(Listed {
            seq: statement.seq,
            claimed_at: instant(statement.claimed_at),
            kind: statement.kind.to_string(),
            outcome: statement.text("outcome").map(Into::into),
            reason: statement.text("reason").map(Into::into),
            subject: statement.subject().unwrap_or_default().into(),
            runbook: statement.value.pointer("/predicate/runbook/id").and_then(Value::as_str).map(Into::into),
            leaf: hex(&leaf_hash(&raw.line)),
        });
        out.len() < limit
    })?;
    Ok(out)
}

/// One entry in full: its statement, its signatures, and the leaf hash by which proofs name it.
pub fn show(input: &Input, seq: u64) -> Result<Value, ReadError> {
    let mut found = None;
    each(input, seq, |raw, statement, envelope| {
        if statement.seq == seq {
            let signatures: Vec<_> =
                envelope.signatures.iter().map(|s| json!({"keyid": s.keyid, "sig": hex(&s.sig)})).collect();
            found = Some(json!({
                "schema": "malachor.entry/1",
                "seq": seq,
                "leaf": hex(&leaf_hash(&raw.line)),
                "payload_type": envelope.payload_type,
                "signatures": signatures,
                "statement": statement.value,
            }));
        }
        statement.seq < seq
    })?;
    found.ok_or(ReadError::Absent(seq))
}

/// Walks decoded entries from an index on until the visitor has enough.
fn each(
    input: &Input,
    from: u64,
    mut visit: impl FnMut(&RawEntry, &Statement, &Envelope) -> bool,
) -> Result<(), ReadError> {
    let mut source = Source::open(input)?;
    source.seek(from);
    loop {
        let chunk = source.entries(CHUNK)?;
        if chunk.is_empty() {
            return Ok(());
        }
        for raw in &chunk {
            let envelope = Envelope::parse(&raw.line)?;
            let statement = Statement::parse(&envelope.payload)?;
            if statement.seq >= from && !visit(raw, &statement, &envelope) {
                return Ok(());
            }
        }
    }
}
