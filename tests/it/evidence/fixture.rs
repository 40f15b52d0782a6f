//! A log of 260 entries in a state directory, sealed by the real writer.

use std::path::PathBuf;

use jiff::Timestamp;
use malachor::crypto::keys::PrivateKey;
use malachor::domain::entry::{EntryDraft, EntryKind, RunbookRef, SealContext, Subject};
use malachor::phi::{Scrubbed, Scrubber};
use malachor::store::log::{LogWriter, MIGRATION, genesis_draft};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Map, json};
use tempfile::TempDir;

/// Entries of a grown log: past the edge of a tile of 256.
pub(crate) const SIZE: u64 = 260;

/// Entries of a small log.
pub(crate) const SMALL: u64 = 6;

pub(crate) struct Log {
    pub(crate) dir: TempDir,
    pub(crate) writer: LogWriter,
    /// Checkpoints signed: one for each call.
    pub(crate) heads: u64,
    /// Kept open where the WAL must stay.
    conn: Option<Connection>,
}

impl Log {
    /// Closed and checkpointed: the database is one file.
    pub(crate) fn grown() -> Self {
        Self::build("site-a", SIZE, 0).close()
    }

    /// As left by a running agent: most of it in the WAL.
    pub(crate) fn open_wal() -> Self {
        Self::build("site-a", SIZE, 0)
    }

    pub(crate) fn empty() -> Self {
        Self::build("site-a", 0, 0).close()
    }

    /// Few entries, where a test verifies thousands of times.
    pub(crate) fn small() -> Self {
        Self::build("site-a", SMALL, 0).close()
    }

    pub(crate) fn of_other_site() -> Self {
        Self::build("site-b", SIZE, 0).close()
    }

    /// The same site and keys telling another story from entry 50 on.
    pub(crate) fn rewritten() -> Self {
        Self::build("site-a", SIZE, 50).close()
    }

    /// Another story of the same log, told by someone who has its head key and nothing else.
    pub(crate) fn forged_with_the_head_key() -> Self {
        let (origin, head) = (writer("site-a").head_key().name.clone(), head_seed("site-a"));
        let forger =
            LogWriter::new(origin, PrivateKey::from_seed(&head), PrivateKey::from_seed(&head)).expect("a writer");
        Self::told_by(forger, "site-a", SMALL, 1).close()
    }

    fn build(site: &str, entries: u64, other_story_from: u64) -> Self {
        Self::told_by(writer(site), site, entries, other_story_from)
    }

    fn told_by(writer: LogWriter, site: &str, entries: u64, other_story_from: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut conn = open(&dir.path().join("malachor.db"));
        conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0")
            .unwrap();
        conn.execute_batch(MIGRATION).unwrap();
        conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let (mut next, mut heads) = (0, 0);
        while next < entries {
            // Calls of one to seven entries, so that heads fall everywhere; 100 and 200 and the edges have their own.
            let edge = [100, 200, 255, 256, 257, entries].into_iter().filter(|edge| *edge > next).min().unwrap();
            let until = (next + 1 + next % 7).min(edge);
            let drafts: Vec<_> = (next..until).map(|seq| draft(&writer, site, seq, other_story_from)).collect();
            let tx = conn.transaction().unwrap();
            writer.append(&tx, &drafts, &context(next)).unwrap();
            tx.commit().unwrap();
            (next, heads) = (until, heads + 1);
        }
        Self { dir, writer, heads, conn: Some(conn) }
    }

    fn close(mut self) -> Self {
        drop(self.conn.take());
        self
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("malachor.db")
    }

    /// Changes the database as someone with the file would, triggers or not.
    pub(crate) fn tamper(&self, sql: &str) {
        let conn = self.unguarded();
        conn.execute_batch(sql).unwrap();
    }

    /// A connection for which the guards are gone.
    pub(crate) fn unguarded(&self) -> Connection {
        let conn = open(&self.database());
        let find = "SELECT group_concat('DROP TRIGGER ' || name, ';') FROM sqlite_schema WHERE type = 'trigger'";
        let drop: Option<String> = conn.query_row(find, [], |row| row.get(0)).unwrap();
        conn.execute_batch(&drop.unwrap_or_default()).unwrap();
        conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        conn
    }

    pub(crate) fn lines(&self) -> Vec<Vec<u8>> {
        let conn = open(&self.database());
        let mut query = conn.prepare("SELECT line FROM entry ORDER BY seq").unwrap();
        query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    pub(crate) fn head(&self, size: u64) -> Vec<u8> {
        open(&self.database()).query_row("SELECT note FROM head WHERE size = ?1", [size], |row| row.get(0)).unwrap()
    }

    pub(crate) fn put_line(&self, seq: u64, line: &[u8]) {
        self.unguarded().execute("UPDATE entry SET line = ?2 WHERE seq = ?1", rusqlite::params![seq, line]).unwrap();
    }
}

fn open(path: &std::path::Path) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE).unwrap()
}

pub(crate) fn writer(site: &str) -> LogWriter {
    let origin = format!("malachor.example/malachor/{site}/appliance-1").parse().unwrap();
    let [first, ..] = malachor::crypto::sha256(site.as_bytes());
    LogWriter::new(origin, PrivateKey::from_seed(&[first; 32]), PrivateKey::from_seed(&head_seed(site))).unwrap()
}

fn head_seed(site: &str) -> [u8; 32] {
    let [first, ..] = malachor::crypto::sha256(site.as_bytes());
    [first ^ 255; 32]
}

pub(crate) fn context(seq: u64) -> SealContext {
    SealContext {
        now: Timestamp::from_second(1_767_225_600 + 60 * i64::try_from(seq).unwrap()).unwrap(),
        boot: "5f0c1c9e-0000-4000-8000-000000000001".into(),
        mono_ms: 123_456,
        agent_version: "0.1.0".into(),
        agent_sha256: "ab".repeat(32),
    }
}

pub(crate) fn draft(writer: &LogWriter, site: &str, seq: u64, other_story_from: u64) -> Scrubbed<EntryDraft> {
    let subject = Subject { name: format!("malachor:{site}/host/h1"), sha256: format!("{seq:064x}") };
    if seq == 0 {
        let keys = (writer.entry_key(), writer.head_key());
        return Scrubber::new([7; 32]).scrub(genesis_draft(subject, keys, None));
    }
    let other = other_story_from > 0 && seq >= other_story_from;
    let detail = Map::from_iter([("freeMegabytes".to_owned(), json!(seq)), ("mount".to_owned(), json!("/var — ☤"))]);
    Scrubber::new([7; 32]).scrub(EntryDraft {
        kind: EntryKind::Check,
        subject,
        controls: vec!["164.308(a)(7)(ii)(A)".into()],
        outcome: Some(if other { "fail" } else { "pass" }.into()),
        reason: None,
        runbook: Some(RunbookRef { id: "RB-DISK-001".into(), sha256: "cd".repeat(32) }),
        detail,
    })
}
