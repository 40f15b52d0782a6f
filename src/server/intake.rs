//! Taking evidence in: strict verification, WORM, one transaction, a cosigned head as receipt.
//!
//! The body is lines as they stand in the appliance's log, an empty line, and the head that covers them. Nothing in it is
//! believed: signatures, places, chain, tree and head are computed anew from where the server stood. What the appliance
//! signed and what contradicts itself or what was seen before goes to quarantine, as proof.

use jiff::{SignedDuration, Timestamp};

use crate::crypto::dsse::{Envelope, IN_TOTO};
use crate::crypto::keys::VerifierKey;
use crate::crypto::merkle::{Frontier, Hash, Node, leaf_hash};
use crate::crypto::note::{Checkpoint, Note};
use crate::fleet::logs::{Followed, NewEntry};
use crate::store::log::{Statement, genesis_prev};

/// Bytes of one body.
pub const MAX_BODY: usize = 8 * 1024 * 1024;
/// Entries of one body.
pub const MAX_ENTRIES: usize = 1000;
/// Bytes kept as proof of one contradiction.
pub const MAX_PROOF: usize = 256 * 1024;
/// Bytes of a word an entry is found by.
const MAX_WORD: usize = 64;
/// How far ahead of the server's clock an entry may claim to be.
pub const AHEAD: SignedDuration = SignedDuration::from_mins(2);

/// Why evidence is not taken. The words are those of the offline verifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It is not evidence at all.
    #[error("MALFORMED: {0}")]
    Malformed(String),
    /// It does not begin where the server stands; nothing is wrong with it.
    #[error("SIZE_MISMATCH: the server holds {holds} entries")]
    Elsewhere {
        /// Entries the server holds.
        holds: u64,
    },
    /// A signature does not hold.
    #[error("BAD_SIGNATURE: entry {0}")]
    Signature(u64),
    /// It names another log.
    #[error("WRONG_ORIGIN: entry {seq} is of {origin}")]
    Origin {
        /// The entry.
        seq: u64,
        /// The log it names.
        origin: String,
    },
    /// Its place or its chain is broken.
    #[error("CHAIN_BREAK: entry {0}")]
    Chain(u64),
    /// It tells another story about entries the server holds.
    #[error("FORK: entry {0} is not the one the server holds")]
    Fork(u64),
    /// The head does not cover these entries.
    #[error("ROOT_MISMATCH: {0}")]
    Head(String),
    /// An entry claims a time that has not come; nothing else is wrong with it, and it is taken when it has.
    #[error("CLOCK_AHEAD: entry {0} claims a time ahead of the server's clock")]
    Ahead(u64),
}

impl Rejected {
    /// Whether somebody should know: it contradicts itself, its keys or what was seen before.
    pub fn is_suspect(&self) -> bool {
        !matches!(self, Self::Malformed(_) | Self::Elsewhere { .. } | Self::Ahead(_))
    }

    /// The stable word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "MALFORMED",
            Self::Elsewhere { .. } => "SIZE_MISMATCH",
            Self::Signature(_) => "BAD_SIGNATURE",
            Self::Origin { .. } => "WRONG_ORIGIN",
            Self::Chain(_) => "CHAIN_BREAK",
            Self::Fork(_) => "FORK",
            Self::Head(_) => "ROOT_MISMATCH",
            Self::Ahead(_) => "CLOCK_AHEAD",
        }
    }
}

/// A body taken apart; nothing in it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<'a> {
    /// The lines, without line ends.
    pub lines: Vec<&'a [u8]>,
    /// The head.
    pub head: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Takes a body apart.
    pub fn parse(body: &'a [u8]) -> Result<Self, Rejected> {
        let bad = |why: &str| Rejected::Malformed(why.to_owned());
        let end = body.windows(2).position(|two| two == b"\n\n").ok_or_else(|| bad("no empty line before the head"))?;
        let (lines, head) = body.split_at(end);
        let lines: Vec<&[u8]> = lines.split(|byte| *byte == b'\n').collect();
        if lines.len() > MAX_ENTRIES {
            return Err(bad("more entries than are taken at once"));
        }
        Ok(Self { lines, head: head.get(2..).unwrap_or_default() })
    }
}

/// Whose evidence it must be.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Name of the log.
    pub origin: String,
    /// Signs its entries.
    pub entry: VerifierKey,
    /// Signs its heads.
    pub head: VerifierKey,
}

/// A batch that verified, and where it leads.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The new entries.
    pub entries: Vec<NewEntry>,
    /// Subtrees they completed, above the leaves.
    pub nodes: Vec<Node>,
    /// The head that covers them.
    pub head: Checkpoint,
    /// Leaf hash of the last entry.
    pub last: Hash,
}

/// Verifies a batch against the edge of what the server holds.
///
/// `frontier` is that edge, `prev` the leaf hash of its last entry (`None` before the first). Entries the server holds
/// already are the caller's to compare and leave out.
pub fn verify(
    (first, batch): (u64, &Batch<'_>),
    expected: &Expected,
    mut frontier: Frontier,
    prev: Option<Hash>,
    now: Timestamp,
) -> Result<Accepted, Rejected> {
    let from = frontier.size();
    if first != from {
        return Err(Rejected::Elsewhere { holds: from });
    }
    let head = head_of(batch.head, expected)?;
    let mut prev = prev.unwrap_or_else(|| genesis_prev(&expected.origin));
    let (mut entries, mut nodes) = (Vec::with_capacity(batch.lines.len()), Vec::new());
    for (line, seq) in batch.lines.iter().zip(from..) {
        let statement = statement_of(line, seq, expected)?;
        if statement.prev != prev {
            return Err(Rejected::Chain(seq));
        }
        if statement.claimed_at.duration_since(now) > AHEAD {
            return Err(Rejected::Ahead(seq));
        }
        prev = leaf_hash(line);
        frontier.push(prev, |node| {
            if node.level > 0 {
                nodes.push(node);
            }
        });
        entries.push(NewEntry {
            seq,
            line: line.to_vec(),
            leaf: prev,
            kind: statement.kind.to_string(),
            outcome: statement.text("outcome").map(str::to_owned),
            runbook: runbook_of(&statement).map(str::to_owned),
            claimed_at: statement.claimed_at,
        });
    }
    if head.size != frontier.size() || head.root != frontier.root() {
        let why = format!("the head is of {} entries, the batch ends at {}", head.size, frontier.size());
        return Err(Rejected::Head(why));
    }
    Ok(Accepted { entries, nodes, head, last: prev })
}

/// The head, if its signature holds and it is of this log.
pub fn head_of(note: &[u8], expected: &Expected) -> Result<Checkpoint, Rejected> {
    let opened = Checkpoint::open(note, std::slice::from_ref(&expected.head));
    let head = opened.map_err(|error| Rejected::Head(error.to_string()))?.into_inner();
    if head.origin.as_str() == expected.origin {
        Ok(head)
    } else {
        Err(Rejected::Head("it is of another log".to_owned()))
    }
}

/// The statement of a line, if the appliance signed it for this place in this log.
pub fn statement_of(line: &[u8], seq: u64, expected: &Expected) -> Result<Statement, Rejected> {
    let malformed = |why: String| Rejected::Malformed(format!("entry {seq}: {why}"));
    let envelope = Envelope::parse(line).map_err(|error| malformed(error.to_string()))?;
    if !envelope.canonical {
        return Err(malformed("its envelope is not in canonical form".to_owned()));
    }
    let payload = envelope.verify(&[expected.entry.key]).map_err(|_| Rejected::Signature(seq))?;
    if payload.get().payload_type != IN_TOTO {
        return Err(malformed("it is no in-toto statement".to_owned()));
    }
    let statement = Statement::parse(&payload.get().bytes).map_err(|error| malformed(error.to_string()))?;
    if statement.origin != expected.origin {
        return Err(Rejected::Origin { seq, origin: statement.origin });
    }
    if statement.seq != seq {
        return Err(Rejected::Chain(seq));
    }
    for (name, word) in [("outcome", statement.text("outcome")), ("runbook", runbook_of(&statement))] {
        // They stand in columns of their own, and PostgreSQL keeps no NUL in a text.
        if word.is_some_and(|word| word.len() > MAX_WORD || word.contains('\0')) {
            return Err(malformed(format!("its {name} is no word of at most {MAX_WORD} bytes")));
        }
    }
    Ok(statement)
}

fn runbook_of(statement: &Statement) -> Option<&str> {
    statement.value.pointer("/predicate/runbook/id").and_then(|id| id.as_str())
}

/// What of a body proves why it is rejected: the lines it is about and the head, each only if the appliance signed it.
///
/// `None` where it signed nothing of that, so that nothing is proved: anybody can write such a body.
pub fn proof(body: &[u8], rejected: &Rejected, expected: &Expected) -> Option<Vec<u8>> {
    let batch = Batch::parse(body).ok()?;
    let first = first_seq(&batch).ok()?;
    let at = |seq: u64| batch.lines.get(usize::try_from(seq.checked_sub(first)?).ok()?).copied();
    let about = match rejected {
        Rejected::Origin { seq, .. } | Rejected::Fork(seq) => vec![at(*seq)],
        Rejected::Chain(seq) => vec![seq.checked_sub(1).and_then(at), at(*seq)],
        // The last line commits to all before it, and the head to other ones.
        Rejected::Head(_) => vec![batch.lines.last().copied()],
        Rejected::Malformed(_) | Rejected::Elsewhere { .. } | Rejected::Signature(_) | Rejected::Ahead(_) => {
            return None;
        }
    };
    let signed = |line: &&[u8]| Envelope::parse(line).is_ok_and(|line| line.verify(&[expected.entry.key]).is_ok());
    let lines: Vec<&[u8]> = about.into_iter().flatten().filter(signed).collect();
    let head = Checkpoint::open(batch.head, std::slice::from_ref(&expected.head)).ok().map(|_| batch.head);
    // A head that was not signed contradicts nothing, and no other rejection stands on the head alone.
    if lines.is_empty() || (matches!(rejected, Rejected::Head(_)) && head.is_none()) {
        return None;
    }
    let proof = [&lines.join(&b'\n')[..], b"\n\n", head.unwrap_or_default()].concat();
    (proof.len() <= MAX_PROOF).then_some(proof)
}

/// The index the first line of a batch claims, before anything is verified.
pub fn first_seq(batch: &Batch<'_>) -> Result<u64, Rejected> {
    let bad = |why: String| Rejected::Malformed(format!("first entry: {why}"));
    let line = batch.lines.first().ok_or_else(|| bad("there is none".to_owned()))?;
    let envelope = Envelope::parse(line).map_err(|error| bad(error.to_string()))?;
    Statement::parse(&envelope.payload).map(|statement| statement.seq).map_err(|error| bad(error.to_string()))
}

/// The receipt: the appliance's head with the server's cosignature under it.
pub fn receipt(
    head: &[u8],
    now: Timestamp,
    (key, public): (&crate::crypto::keys::PrivateKey, &VerifierKey),
) -> Result<Vec<u8>, Rejected> {
    let note = Note::parse(head).map_err(|error| Rejected::Head(error.to_string()))?;
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let line = crate::crypto::note::cosignature(note.text(), seconds, public, key);
    Ok([head, line.as_bytes()].concat())
}

/// Where the log stands after a batch.
pub fn followed(accepted: &Accepted, note: Vec<u8>, now: Timestamp) -> Followed {
    Followed { size: accepted.head.size, root: accepted.head.root, prev: accepted.last, note, advanced_at: now }
}
