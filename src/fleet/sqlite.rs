//! The fleet store in one SQLite file: one writer thread with group commit, readers beside it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use super::sql::Inner;
use super::{FleetError, Sql, Work};

/// Transactions committed together at the most: one fsync for all of them.
const GROUP: usize = 128;
/// Connections that only read.
const READERS: usize = 2;

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/sqlite/0001_fleet.sql"),
    include_str!("migrations/sqlite/0002_bundles.sql"),
    include_str!("migrations/sqlite/0003_requests.sql"),
    include_str!("migrations/sqlite/0004_order_seq.sql"),
];

/// A unit of work; gives what is to be told once everything of the group is on disk.
type Job = Box<dyn FnOnce(&Sql) -> Told + Send>;
/// Tells the caller: with what came of it, or that the commit failed.
type Told = Box<dyn FnOnce(Result<(), FleetError>) + Send>;

/// The embedded fleet store.
#[derive(Debug)]
pub(super) struct Sqlite {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    readers: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<tokio::sync::Semaphore>,
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A writer that ended in a defect has already failed its callers.
            thread.join().ok();
        }
    }
}

impl Sqlite {
    pub(super) async fn open(path: PathBuf) -> Result<Self, FleetError> {
        tokio::task::spawn_blocking(move || Self::open_now(&path)).await.map_err(|_| gone())?
    }

    fn open_now(path: &Path) -> Result<Self, FleetError> {
        let unreachable = |why: String| FleetError::Unreachable { database: path.display().to_string(), why };
        let mut writer = connect(path, false).map_err(|error| unreachable(error.to_string()))?;
        migrate(&mut writer, path)?;
        let mut readers = Vec::new();
        for _ in 0..READERS {
            readers.push(connect(path, true).map_err(|error| unreachable(error.to_string()))?);
        }
        let (jobs, queue) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("fleet".to_owned())
            .spawn(move || write_jobs(writer, queue))
            .map_err(|error| unreachable(error.to_string()))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            readers: Arc::new(Mutex::new(readers)),
            turns: Arc::new(tokio::sync::Semaphore::new(READERS)),
        })
    }

    pub(super) async fn write<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, FleetError> {
        let (answer, told) = oneshot::channel();
        let job: Job = Box::new(move |sql| {
            let result = at_once(work(sql));
            let failed = result.is_err();
            let tell: Told = Box::new(move |committed| {
                // Nobody waits any more: what was committed is committed all the same.
                answer.send(result.and_then(|value| committed.map(|()| value))).ok();
            });
            if failed {
                roll_back(sql);
            } else {
                keep(sql);
            }
            tell
        });
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        told.await.map_err(|_| gone())?
    }

    pub(super) async fn read<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, FleetError> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| gone())?;
        let readers = Arc::clone(&self.readers);
        let reading = move || {
            let _turn = turn;
            let lock = || readers.lock().unwrap_or_else(PoisonError::into_inner);
            let connection = lock().pop().ok_or_else(gone)?;
            let shared = Arc::new(Mutex::new(connection));
            let sql = Sql(Inner::Sqlite(Arc::clone(&shared)));
            let result = control(&sql, "BEGIN").and_then(|()| at_once(work(&sql)));
            control(&sql, "COMMIT").ok();
            drop(sql);
            if let Some(connection) = Arc::into_inner(shared) {
                lock().push(connection.into_inner().unwrap_or_else(PoisonError::into_inner));
            }
            result
        };
        tokio::task::spawn_blocking(reading).await.map_err(|_| gone())?
    }
}

/// Takes whatever waits, commits it together, and only then answers.
fn write_jobs(writer: Connection, mut queue: mpsc::UnboundedReceiver<Job>) {
    let sql = Sql(Inner::Sqlite(Arc::new(Mutex::new(writer))));
    while let Some(first) = queue.blocking_recv() {
        let begun = control(&sql, "BEGIN IMMEDIATE");
        let mut told = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next {
            // Where it could not begin, each statement fails by itself and says why.
            control(&sql, "SAVEPOINT job").ok();
            told.push(job(&sql));
            next = if told.len() < GROUP { queue.try_recv().ok() } else { None };
        }
        let committed = begun.and_then(|()| control(&sql, "COMMIT"));
        if committed.is_err() {
            control(&sql, "ROLLBACK").ok();
        }
        for tell in told {
            tell(committed.clone());
        }
    }
}

fn keep(sql: &Sql) {
    control(sql, "RELEASE job").ok();
}

fn roll_back(sql: &Sql) {
    control(sql, "ROLLBACK TO job").ok();
    control(sql, "RELEASE job").ok();
}

fn control(sql: &Sql, statement: &str) -> Result<(), FleetError> {
    let Inner::Sqlite(connection) = &sql.0 else { return Err(gone()) };
    let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
    let done = connection.prepare_cached(statement).and_then(|mut statement| statement.execute([]));
    done.map(drop).map_err(|error| failed(&error))
}

/// Runs work over SQLite, which never waits: it is over after one poll.
fn at_once<T>(work: impl Future<Output = Result<T, FleetError>>) -> Result<T, FleetError> {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(FleetError::Corrupt("work of a transaction waited for something else".to_owned())),
    }
}

pub(super) fn failed(error: &rusqlite::Error) -> FleetError {
    let (database, why) = ("fleet.db".to_owned(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) if why.contains("UNIQUE") => FleetError::Exists(why),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => FleetError::Conflict,
        Some(ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => {
            FleetError::Unreachable { database, why }
        }
        Some(_) | None => FleetError::Database { database, why },
    }
}

fn gone() -> FleetError {
    FleetError::Unreachable { database: "fleet.db".to_owned(), why: "its writer is gone".to_owned() }
}

#[expect(clippy::disallowed_methods, reason = "the one place that opens the fleet's database")]
fn connect(path: &Path, read_only: bool) -> rusqlite::Result<Connection> {
    let create = if read_only {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    } else {
        private_file(path).ok();
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
    };
    let connection = Connection::open_with_flags(path, create | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(20))?;
    connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY")?;
    if !read_only {
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")?;
    }
    connection.set_prepared_statement_cache_capacity(128);
    // Without it SQLite compiles a statement that might use a partial index again each time its parameters change.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// The file exists with mode 0600 before SQLite sees it, and SQLite gives its WAL the same mode.
fn private_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), FleetError> {
    let database = path.display().to_string();
    // At once the only writer: a reader that turns into one is refused without waiting where another process wrote between.
    let begun = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate);
    let tx = begun.map_err(|error| failed(&error))?;
    let found: i64 = tx.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(|error| failed(&error))?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(FleetError::Newer { database, found, known });
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        tx.execute_batch(migration).map_err(|error| failed(&error))?;
    }
    if found == known {
        return Ok(());
    }
    tx.pragma_update(None, "user_version", known).map_err(|error| failed(&error))?;
    tx.commit().map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_before_a_migration_is_there_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.db");
        let mut connection = connect(&path, false).unwrap();
        for migration in &MIGRATIONS[..2] {
            connection.execute_batch(migration).unwrap();
        }
        let before = "INSERT INTO site VALUES ('s', 'S', 'essential', 1);
            INSERT INTO appliance (site_id, id, origin, state, entry_key, head_key, enrolled_at, next_order_seq)
                VALUES ('s', 'a', 'o', 'active', 'e', 'h', 1, 2);
            INSERT INTO request VALUES ('REQ-1', '{}', 's/a,s/b', 'r', 'p', 1, 1, 'issued', NULL, NULL);
            INSERT INTO appliance_order VALUES ('s', 'a', 1, 'ORD-1', 'REQ-1', x'00', 1, 'queued', 1, 1, '', NULL);
            PRAGMA user_version = 2;";
        connection.execute_batch(before).unwrap();
        migrate(&mut connection, &path).unwrap();
        let targets =
            "SELECT group_concat(request_id || ' ' || site_id || '/' || appliance_id, ', ') FROM request_target";
        let targets: String = connection.query_row(targets, [], |row| row.get(0)).unwrap();
        assert_eq!(targets, "REQ-1 s/a, REQ-1 s/b");
        let orders = "SELECT count(*) FROM appliance_order o JOIN request r ON r.id = o.request_id";
        let orders: i64 = connection.query_row(orders, [], |row| row.get(0)).unwrap();
        assert_eq!(orders, 1);
        let next = "SELECT next FROM order_seq WHERE site_id = 's' AND appliance_id = 'a'";
        let next: i64 = connection.query_row(next, [], |row| row.get(0)).unwrap();
        assert_eq!(next, 2, "a place is given out once");
    }
}
