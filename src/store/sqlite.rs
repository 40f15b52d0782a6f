//! The embedded store: one SQLite file, WAL, synchronous FULL, one writer thread, every change one transaction.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::domain::entry::{EntryDraft, SealContext};
use crate::phi::Scrubbed;

use crate::crypto::keys::VerifierKey;
use crate::crypto::note::Checkpoint;

use super::log::{Appended, LogWriter, check_head};
use super::{StoreError, migrate};

/// The database's name inside a state directory.
pub const DATABASE: &str = "malachor.db";

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A handle to the store; clones share one writer thread, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct Store {
    writer: Arc<Writer>,
    log: Option<Arc<LogWriter>>,
    path: PathBuf,
    /// What the last look at the whole file said, and when.
    sound: Arc<Mutex<Option<Soundness>>>,
}

/// When the whole file was read, and SQLite's words where it is damaged.
type Soundness = (Timestamp, Option<String>);

/// The writer thread. Dropping it waits until the database is closed, so that SQLite folds the WAL back into the file.
#[derive(Debug)]
struct Writer {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A writer that ended in a defect has already failed its callers.
            thread.join().ok();
        }
    }
}

/// One transaction: everything in it happens, or nothing.
#[derive(Debug)]
pub struct Tx<'a> {
    pub(super) sql: Transaction<'a>,
    log: Option<&'a LogWriter>,
}

impl Tx<'_> {
    /// Verifies the last head against the stored tree; `None` for an empty log.
    pub fn check_head(&self, key: &VerifierKey) -> Result<Option<Checkpoint>, StoreError> {
        check_head(&self.sql, key).map_err(StoreError::Log)
    }

    /// Seals statements into the log and queues them for the server, in this transaction.
    pub fn append(&self, drafts: &[Scrubbed<EntryDraft>], context: &SealContext) -> Result<Appended, StoreError> {
        let log = self.log.ok_or(StoreError::NoKeys)?;
        log.append(&self.sql, drafts, context).map_err(StoreError::Log)
    }
}

impl Store {
    /// Opens or creates the database of a state directory and brings its schema up to date.
    ///
    /// With a [`LogWriter`] entries can be appended. A corrupt file, a newer schema or a read-only directory is one
    /// error that names the file.
    pub fn open(dir: &Path, log: Option<LogWriter>) -> Result<Self, StoreError> {
        let path = dir.join(DATABASE);
        let mut connection = connect(&path)?;
        migrate::run(&mut connection, &path)?;
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&mut connection);
                }
            })
            .map_err(|error| StoreError::Open { path: path.clone(), why: error.to_string() })?;
        let writer = Arc::new(Writer { jobs: Some(jobs), thread: Some(thread) });
        Ok(Self { writer, log: log.map(Arc::new), path, sound: Arc::default() })
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` in one immediate transaction; an error rolls everything back.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (path, log) = (self.path.clone(), self.log.clone());
        self.job(move |connection| {
            let sql = connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(|error| StoreError::sql(&path, &error))?;
            let tx = Tx { sql, log: log.as_deref() };
            let result = work(&tx)?;
            tx.sql.commit().map_err(|error| StoreError::sql(&path, &error))?;
            Ok(result)
        })
        .await
    }

    /// Runs `work` on a consistent view without changing anything.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let path = self.path.clone();
        self.job(move |connection| {
            let sql = connection.transaction().map_err(|error| StoreError::sql(&path, &error))?;
            work(&Tx { sql, log: None })
        })
        .await
    }

    /// Takes over what the database of another state directory remembers, as it is at one moment; its log stays there.
    pub async fn remember(&self, other: &Path) -> Result<(), StoreError> {
        let (path, name) = (other.to_owned(), other.display().to_string());
        self.job(move |connection| {
            let failed = |error: rusqlite::Error| StoreError::sql(&path, &error);
            connection.execute("ATTACH DATABASE ?1 AS other", [&name]).map_err(failed)?;
            let result = copy(connection).map_err(failed);
            connection.execute("DETACH DATABASE other", []).map_err(failed)?;
            result
        })
        .await
    }

    /// Whether the database file is sound, in SQLite's own words where it is not.
    ///
    /// It reads the whole file, so it does so beside the writer and not again within `every`.
    pub async fn integrity(&self, now: Timestamp, every: SignedDuration) -> Result<Option<String>, StoreError> {
        let fresh = |(at, _): &&Soundness| now >= *at && now.duration_since(*at) < every;
        let known = self.sound.lock().unwrap_or_else(PoisonError::into_inner).as_ref().filter(fresh).cloned();
        if let Some((_, words)) = known {
            return Ok(words);
        }
        let path = self.path.clone();
        let words = tokio::task::spawn_blocking(move || quick_check(&path)).await.map_err(|_| StoreError::Gone)??;
        *self.sound.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, words.clone()));
        Ok(words)
    }

    async fn job<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Nobody waits any more: the work itself is done all the same.
            answer.send(work(connection)).ok();
        });
        self.writer.jobs.as_ref().ok_or(StoreError::Gone)?.send(job).map_err(|_| StoreError::Gone)?;
        result.await.map_err(|_| StoreError::Gone)?
    }
}

/// What is remembered beside the log, in an order that keeps every reference whole.
const REMEMBERED: &[&str] =
    &["setting", "finding", "failure", "incident", "execution", "journal", "approval", "exception", "baseline"];

fn copy(connection: &mut Connection) -> rusqlite::Result<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for table in REMEMBERED {
        let known = "SELECT count(*) FROM other.sqlite_master WHERE type = 'table' AND name = ?1";
        // One that an earlier version did not have yet.
        if tx.query_row(known, [table], |row| row.get::<_, i64>(0))? == 1 {
            tx.execute(&format!("INSERT INTO main.{table} SELECT * FROM other.{table}"), [])?;
        }
    }
    tx.commit()
}

#[expect(clippy::disallowed_methods, reason = "a connection that only reads")]
fn quick_check(path: &Path) -> Result<Option<String>, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let asked = Connection::open_with_flags(path, flags)
        .and_then(|connection| connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)));
    let words = asked.map_err(|error| StoreError::sql(path, &error))?;
    Ok((words != "ok").then_some(words))
}

#[expect(clippy::disallowed_methods, reason = "the one place that opens the database")]
fn connect(path: &Path) -> Result<Connection, StoreError> {
    let failed = |error: rusqlite::Error| StoreError::Open { path: path.to_owned(), why: error.to_string() };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    create_private(path).map_err(|error| StoreError::Open { path: path.to_owned(), why: error.to_string() })?;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(Duration::from_secs(20)).map_err(failed)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;
             PRAGMA cache_size = -2000;",
        )
        .map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// The file exists with mode 0600 before SQLite sees it, and SQLite gives its WAL the same mode.
fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
}
