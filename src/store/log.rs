//! The evidence log of one appliance: the only code that seals statements.
//!
//! [`LogWriter::append`] gives each draft its place (`origin`, `seq`, `prev`), signs it, grows the tree and signs one
//! new checkpoint, all inside the caller's transaction. State change, entry and outbox row therefore commit together or
//! not at all. Nothing is cached between calls, so a rolled-back transaction leaves no trace.

mod statement;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde_json::{Map, Value, json};
use thiserror::Error;

pub use statement::{Statement, StatementError, genesis_prev, instant, predicate_type};

use crate::crypto::dsse::{self, DsseError, Envelope, IN_TOTO};
use crate::crypto::keys::{KeyError, KeyId, KeyName, PrivateKey, VerifierKey};
use crate::crypto::merkle::{Frontier, Hash, Node, leaf_hash};
use crate::crypto::note::{Checkpoint, Note, NoteError};
use crate::crypto::{base64, hex, jcs, json::JsonError};
use crate::domain::entry::{EntryDraft, EntryError, EntryKind, SealContext, Subject};
use crate::phi::Scrubbed;

/// The tables and triggers of the log, for the migration list of the database.
pub const MIGRATION: &str = include_str!("migrations/0001_log.sql");

/// Why the log refused to grow, or does not agree with itself.
#[derive(Debug, Error)]
pub enum LogError {
    /// The database said no.
    #[error("log database: {0}")]
    Database(#[from] rusqlite::Error),
    /// The statement may not enter the log.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The statement holds JSON outside the subset.
    #[error("statement cannot be signed: {0}")]
    Json(#[from] JsonError),
    /// The envelope would be too large.
    #[error(transparent)]
    Envelope(#[from] DsseError),
    /// A log begins with exactly one genesis, which lists the keys in use.
    #[error("{0}")]
    Genesis(&'static str),
    /// A name derived from the origin is no key name.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The stored head does not hold.
    #[error("stored head of {size} entries: {source}")]
    Head {
        /// Entries it covers.
        size: u64,
        /// What is wrong.
        source: NoteError,
    },
    /// Two parts of the log contradict each other.
    #[error("log contradicts itself: {what}: expected {expected}, found {found}; run `malachor evidence verify`")]
    Inconsistent {
        /// What was compared.
        what: String,
        /// What the one part says.
        expected: String,
        /// What the other part says.
        found: String,
    },
}

/// The entries one call added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Index of the first new entry.
    pub first: u64,
    /// Index of the last new entry.
    pub last: u64,
    /// The head that now covers them.
    pub head: Checkpoint,
}

/// Seals statements into the log of one origin; holds both private keys.
#[derive(Debug)]
pub struct LogWriter {
    origin: KeyName,
    entry_key: PrivateKey,
    head_key: PrivateKey,
    entry_public: VerifierKey,
    head_public: VerifierKey,
    entry_id: KeyId,
}

impl LogWriter {
    /// A writer for `<operator-domain>/malachor/<site>/<appliance>`.
    ///
    /// The head key carries the origin as its name, the entry key the origin followed by `/entry`.
    pub fn new(origin: KeyName, entry_key: PrivateKey, head_key: PrivateKey) -> Result<Self, LogError> {
        let entry_public = VerifierKey::ed25519(format!("{origin}/entry").parse()?, entry_key.public());
        let head_public = VerifierKey::ed25519(origin.clone(), head_key.public());
        let entry_id = entry_public.id();
        Ok(Self { origin, entry_key, head_key, entry_public, head_public, entry_id })
    }

    /// The key that entries verify under.
    pub const fn entry_key(&self) -> &VerifierKey {
        &self.entry_public
    }

    /// The key that checkpoints verify under.
    pub const fn head_key(&self) -> &VerifierKey {
        &self.head_public
    }

    /// Seals the drafts in their order, queues them for sending and signs one new head, within `tx`.
    ///
    /// The first draft of an empty log must be the genesis made by [`genesis_draft`] for these keys, and no later one
    /// may be. A clock that went back since the last entry is stated in `detail.clockWentBackSeconds`.
    pub fn append(
        &self,
        tx: &Transaction<'_>,
        drafts: &[Scrubbed<EntryDraft>],
        ctx: &SealContext,
    ) -> Result<Appended, LogError> {
        let mut tail = Tail::load(tx, &self.origin)?;
        let first = tail.frontier.size();
        for draft in drafts {
            self.seal(tx, &mut tail, draft.get(), ctx)?;
        }
        let size = tail.frontier.size();
        if size == first {
            return Err(LogError::Genesis("nothing to append: give at least one draft"));
        }
        let head = Checkpoint { origin: self.origin.clone(), size, root: tail.frontier.root() };
        tx.prepare_cached("INSERT INTO head (size, note) VALUES (?1, ?2)")?
            .execute(params![size, head.sign(&self.head_key).as_bytes()])?;
        Ok(Appended { first, last: size - 1, head })
    }

    fn seal(
        &self,
        tx: &Transaction<'_>,
        tail: &mut Tail,
        draft: &EntryDraft,
        ctx: &SealContext,
    ) -> Result<(), LogError> {
        let seq = tail.frontier.size();
        draft.validate()?;
        self.check_genesis(seq, draft)?;
        let place = statement::Place { origin: &self.origin, seq, prev: &tail.prev };
        let statement = statement::compose(draft, &tail.detail(draft, ctx), &place, ctx);
        let line = dsse::sign(IN_TOTO, &jcs::to_vec(&statement)?, &self.entry_key, self.entry_id)?;
        let leaf = leaf_hash(&line);
        tx.prepare_cached("INSERT INTO entry (seq, line, leaf) VALUES (?1, ?2, ?3)")?
            .execute(params![seq, line, leaf])?;
        tx.prepare_cached("INSERT INTO outbox (seq, queued_at) VALUES (?1, ?2)")?
            .execute(params![seq, instant(ctx.now)])?;
        let mut completed = Vec::new();
        tail.frontier.push(leaf, |node| completed.push(node));
        let mut insert = tx.prepare_cached("INSERT INTO node (level, idx, hash) VALUES (?1, ?2, ?3)")?;
        for Node { level, index, hash } in completed.into_iter().filter(|node| node.level > 0) {
            insert.execute(params![level, index, hash])?;
        }
        tail.prev = leaf;
        tail.claimed_at = Some(ctx.now);
        Ok(())
    }

    fn check_genesis(&self, seq: u64, draft: &EntryDraft) -> Result<(), LogError> {
        match (seq, draft.kind == EntryKind::Genesis) {
            (0, false) => Err(LogError::Genesis("the first entry of a log must be its genesis")),
            (1.., true) => Err(LogError::Genesis("a log has one genesis, its first entry")),
            (1.., false) => Ok(()),
            (0, true) => {
                let listed = |role: &str| draft.detail.get("keys")?.get(role)?.get("vkey")?.as_str();
                let right = listed("entry") == Some(self.entry_public.to_string().as_str())
                    && listed("head") == Some(self.head_public.to_string().as_str());
                if right { Ok(()) } else { Err(LogError::Genesis("the genesis does not list the keys in use")) }
            }
        }
    }
}

/// The first statement of a log: which keys sign its entries and heads, and which offline key may replace them.
pub fn genesis_draft(
    subject: Subject,
    (entry, head): (&VerifierKey, &VerifierKey),
    recovery: Option<&VerifierKey>,
) -> EntryDraft {
    let listed = [("entry", Some(entry)), ("head", Some(head)), ("recovery", recovery)];
    let keys: Map<String, Value> = listed
        .into_iter()
        .filter_map(|(role, key)| key.map(|key| (role.to_owned(), key)))
        .map(|(role, key)| (role, json!({"vkey": key.to_string(), "spki": base64(&key.key.to_spki_der())})))
        .collect();
    EntryDraft {
        kind: EntryKind::Genesis,
        subject,
        controls: Vec::new(),
        outcome: None,
        reason: None,
        runbook: None,
        detail: Map::from_iter([("keys".to_owned(), Value::Object(keys))]),
    }
}

/// Where the log ends: all that the next entry depends on.
struct Tail {
    frontier: Frontier,
    prev: Hash,
    claimed_at: Option<Timestamp>,
}

impl Tail {
    /// Reads the end of the log and refuses to go on from one that its own last head contradicts.
    fn load(conn: &Connection, origin: &KeyName) -> Result<Self, LogError> {
        let frontier = load_frontier(conn)?;
        let Some(last) = frontier.size().checked_sub(1) else {
            return Ok(Self { frontier, prev: genesis_prev(origin.as_str()), claimed_at: None });
        };
        let (_, note) = last_head(conn)?
            .ok_or_else(|| differs("last head", format!("one of {} entries", frontier.size()), "none"))?;
        agrees(&unverified(&note, frontier.size())?, origin, &frontier)?;
        let (line, leaf) = entry(conn, last)?;
        let broken = |what: String| differs("last entry", "a statement", what);
        let envelope = Envelope::parse(&line).map_err(|e| broken(e.to_string()))?;
        let statement = Statement::parse(&envelope.payload).map_err(|e| broken(e.to_string()))?;
        Ok(Self { frontier, prev: leaf, claimed_at: Some(statement.claimed_at) })
    }

    /// The draft's detail, with the clock's step back since the last entry if there was one.
    fn detail(&self, draft: &EntryDraft, ctx: &SealContext) -> Map<String, Value> {
        let mut detail = draft.detail.clone();
        let back = self.claimed_at.map_or(0, |last| last.as_second() - ctx.now.as_second());
        if back > 0 {
            detail.insert("clockWentBackSeconds".into(), back.into());
        }
        detail
    }
}

/// Verifies the last head against the stored tree, as is done on every start; `None` for an empty log.
///
/// Costs a few dozen reads whatever the size of the log; the whole log is checked by `malachor evidence verify`.
pub fn check_head(conn: &Connection, head_key: &VerifierKey) -> Result<Option<Checkpoint>, LogError> {
    let frontier = load_frontier(conn)?;
    let Some((size, note)) = last_head(conn)? else {
        return if frontier.size() == 0 {
            Ok(None)
        } else {
            Err(differs("last head", format!("one of {} entries", frontier.size()), "none"))
        };
    };
    let opened = Checkpoint::open(&note, std::slice::from_ref(head_key));
    let head = opened.map_err(|source| LogError::Head { size, source })?.into_inner();
    agrees(&head, &head_key.name, &frontier)?;
    if let Some(last) = frontier.size().checked_sub(1) {
        let (line, leaf) = entry(conn, last)?;
        same(&format!("leaf hash of entry {last}"), &hex(&leaf_hash(&line)), &hex(&leaf))?;
    }
    Ok(Some(head))
}

fn agrees(head: &Checkpoint, origin: &KeyName, frontier: &Frontier) -> Result<(), LogError> {
    same("origin of the last head", origin, &head.origin)?;
    same("entries covered by the last head", &frontier.size(), &head.size)?;
    same(&format!("root of {} entries", head.size), &hex(&head.root), &hex(&frontier.root()))
}

fn same<T: PartialEq + ToString>(what: &str, expected: &T, found: &T) -> Result<(), LogError> {
    if expected == found { Ok(()) } else { Err(differs(what, expected.to_string(), found.to_string())) }
}

fn differs(what: &str, expected: impl Into<String>, found: impl Into<String>) -> LogError {
    LogError::Inconsistent { what: what.into(), expected: expected.into(), found: found.into() }
}

fn unverified(note: &[u8], size: u64) -> Result<Checkpoint, LogError> {
    let read = Note::parse(note).and_then(|note| Checkpoint::parse(note.text()));
    read.map_err(|source| LogError::Head { size, source })
}

/// The edge of the stored tree, as large as the entry table is.
fn load_frontier(conn: &Connection) -> Result<Frontier, LogError> {
    let size = conn
        .prepare_cached("SELECT coalesce(max(seq) + 1, 0) FROM entry")?
        .query_row([], |row| row.get::<_, u64>(0))?;
    let mut leaf = conn.prepare_cached("SELECT leaf FROM entry WHERE seq = ?1")?;
    let mut node = conn.prepare_cached("SELECT hash FROM node WHERE level = ?1 AND idx = ?2")?;
    Frontier::load(size, |level, index| {
        let hash = match level {
            0 => leaf.query_row([index], |row| row.get::<_, Hash>(0)).optional()?,
            1.. => node.query_row(params![level, index], |row| row.get::<_, Hash>(0)).optional()?,
        };
        hash.ok_or_else(|| differs(&format!("tree node {level}/{index}"), "a hash", "none"))
    })
}

fn last_head(conn: &Connection) -> Result<Option<(u64, Vec<u8>)>, LogError> {
    let mut query = conn.prepare_cached("SELECT size, note FROM head ORDER BY size DESC LIMIT 1")?;
    Ok(query.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

fn entry(conn: &Connection, seq: u64) -> Result<(Vec<u8>, Hash), LogError> {
    let mut query = conn.prepare_cached("SELECT line, leaf FROM entry WHERE seq = ?1")?;
    Ok(query.query_row([seq], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

#[cfg(test)]
mod tests;
