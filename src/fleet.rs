//! What the server remembers of its fleet: sites, appliances, certificates, orders, logs, people, and who did what.
//!
//! One set of verbs over two databases: SQLite for one machine, PostgreSQL for many replicas. A verb is an async function
//! over a [`Sql`] transaction in the SQL both understand; [`Fleet::write`] runs it in one transaction, and whatever
//! changes state writes its [`audit`] row in the same one. The tenant stands in every key.

pub mod audit;
pub mod bundles;
pub mod enrolments;
pub mod logs;
pub mod orders;
pub mod people;
mod postgres;
mod row;
pub mod sites;
mod sql;
mod sqlite;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

pub use row::{Row, Value};
pub use sql::Sql;

/// Why the fleet store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FleetError {
    /// The database cannot be reached or opened; try again.
    #[error("{database}: {why}")]
    Unreachable {
        /// Which, without a password.
        database: String,
        /// Its words.
        why: String,
    },
    /// A newer Malachor wrote it.
    #[error("{database}: schema {found} is newer than this program knows ({known}); use a newer malachor")]
    Newer {
        /// Which.
        database: String,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A migration that was applied is not the one this program carries.
    #[error("{database}: migration {version} was changed after it was applied")]
    Changed {
        /// Which.
        database: String,
        /// The migration.
        version: i64,
    },
    /// Two transactions wanted the same; the same again may work.
    #[error("somebody else changed it at the same moment")]
    Conflict,
    /// It is there already.
    #[error("{0}")]
    Exists(String),
    /// It is not there.
    #[error("{0}")]
    NotThere(String),
    /// It may not be, whoever asks.
    #[error("{0}")]
    Refused(String),
    /// Things stand so that it cannot be done.
    #[error("{0}")]
    Stands(String),
    /// A stored value cannot be read back.
    #[error("the database holds something this program did not write: {0}")]
    Corrupt(String),
    /// Anything else the database said; a defect of ours, or of it.
    #[error("{database}: {why}")]
    Database {
        /// Which.
        database: String,
        /// Its words.
        why: String,
    },
}

/// What retries and answers ask about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The same again may work.
    Transient,
    /// What was asked for is not there.
    NotThere,
    /// It collides with what is there.
    Conflict,
    /// It may not be.
    Refused,
    /// Not as things stand.
    Stands,
    /// Nobody can go on before somebody looks.
    Broken,
}

impl FleetError {
    /// What follows from it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unreachable { .. } | Self::Conflict => Kind::Transient,
            Self::Exists(_) => Kind::Conflict,
            Self::NotThere(_) => Kind::NotThere,
            Self::Refused(_) => Kind::Refused,
            Self::Stands(_) => Kind::Stands,
            Self::Newer { .. } | Self::Changed { .. } | Self::Corrupt(_) | Self::Database { .. } => Kind::Broken,
        }
    }
}

/// Where the fleet store is.
#[derive(Debug, Clone)]
pub enum Place {
    /// A SQLite file, made where it is missing.
    File(PathBuf),
    /// A PostgreSQL database.
    Postgres(postgres::Connection),
}

pub use postgres::Connection as PostgresConnection;

/// A handle to the fleet store; clones share it.
#[derive(Debug, Clone)]
pub struct Fleet(Arc<Backend>);

#[derive(Debug)]
enum Backend {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
}

/// Work under way.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Work in one transaction. Run again from the start where the database asks for it, so it changes nothing outside.
pub trait Work<T>: for<'a> Fn(&'a Sql) -> BoxFuture<'a, Result<T, FleetError>> + Send + Sync + 'static {}

impl<T, F> Work<T> for F where F: for<'a> Fn(&'a Sql) -> BoxFuture<'a, Result<T, FleetError>> + Send + Sync + 'static {}

impl Fleet {
    /// Opens the store and brings its schema up to date; a newer schema or a changed migration is refused.
    pub async fn open(place: Place) -> Result<Self, FleetError> {
        let backend = match place {
            Place::File(path) => Backend::Sqlite(sqlite::Sqlite::open(path).await?),
            Place::Postgres(connection) => Backend::Postgres(postgres::Postgres::open(connection).await?),
        };
        Ok(Self(Arc::new(backend)))
    }

    /// Runs work in one transaction: all of it happens and is on disk, or nothing.
    pub async fn write<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, FleetError> {
        match &*self.0 {
            Backend::Sqlite(sqlite) => sqlite.write(work).await,
            Backend::Postgres(postgres) => postgres.write(work).await,
        }
    }

    /// Runs work on a consistent view; it changes nothing.
    pub async fn read<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, FleetError> {
        match &*self.0 {
            Backend::Sqlite(sqlite) => sqlite.read(work).await,
            Backend::Postgres(postgres) => postgres.read(work).await,
        }
    }

    /// Runs a verb of one statement that changes something. The statement is a transaction by itself, which spares
    /// PostgreSQL two ways there and back; a verb of more statements is refused there.
    pub async fn change<T: Send + 'static>(&self, verb: impl Work<T>) -> Result<T, FleetError> {
        match &*self.0 {
            Backend::Sqlite(sqlite) => sqlite.write(verb).await,
            Backend::Postgres(postgres) => postgres.change(verb).await,
        }
    }

    /// Runs a verb of one statement that changes nothing.
    pub async fn look<T: Send + 'static>(&self, verb: impl Work<T>) -> Result<T, FleetError> {
        match &*self.0 {
            Backend::Sqlite(sqlite) => sqlite.read(verb).await,
            Backend::Postgres(postgres) => postgres.look(verb).await,
        }
    }

    /// Asks the database for a sign of life; SQLite's writer, for a file that is only read keeps nothing.
    pub async fn ping(&self) -> Result<(), FleetError> {
        self.change(|sql| Box::pin(async move { sql.rows("SELECT 1", &[]).await.map(drop) })).await
    }

    /// Its kind, in a word.
    pub fn kind(&self) -> &'static str {
        match &*self.0 {
            Backend::Sqlite(_) => "sqlite",
            Backend::Postgres(_) => "postgresql",
        }
    }
}
