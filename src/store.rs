//! What the agent remembers: an append-only log of signed entries beside findings, incidents, executions and
//! decisions, in one embedded database.

use std::path::{Path, PathBuf};

mod exchange;
pub mod log;
mod migrate;
mod records;
mod sqlite;

pub use exchange::UsedOrder;
pub use records::{Approval, Execution, KnownFinding, Mark, Setting};
pub use sqlite::{DATABASE, Store, Tx};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be opened or created.
    #[error("{path}: cannot be opened: {why}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
    /// A newer Malachor wrote it.
    #[error("{path}: schema {found} is newer than this program knows ({known}); use a newer malachor", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: usize,
        /// Ours.
        known: usize,
    },
    /// SQLite said no.
    #[error("{path}: {why}", path = path.display())]
    Sql {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        why: String,
        /// The disk is full or read-only: try again when there is room.
        no_room: bool,
    },
    /// A stored value cannot be read back.
    #[error("the database holds something this program did not write: {0}")]
    Corrupt(String),
    /// What was to be changed is not there.
    #[error("{0}")]
    NotThere(String),
    /// The log refused the entry.
    #[error(transparent)]
    Log(#[from] log::LogError),
    /// Entries cannot be signed without keys.
    #[error("this command opened the state directory without signing keys")]
    NoKeys,
    /// The writer thread ended.
    #[error("the store's writer is gone")]
    Gone,
}

impl StoreError {
    fn sql(path: &Path, error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        let no_room = matches!(
            error.sqlite_error_code(),
            Some(Code::DiskFull | Code::ReadOnly | Code::CannotOpen | Code::SystemIoFailure)
        );
        Self::Sql { path: path.to_owned(), why: error.to_string(), no_room }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::sql(Path::new(DATABASE), &error)
    }
}
