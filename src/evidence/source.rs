//! Where evidence is read from: a state directory, a database file, or exported files.
//!
//! A source hands out raw bytes in the order the container claims and judges nothing. It never writes: not to the
//! database, not to the directory it lies in.

mod database;
mod files;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use database::Database;
use files::Files;

use crate::crypto::merkle::Node;

/// The name of the database in a state directory.
pub const DATABASE: &str = "malachor.db";
/// How exported segments end.
pub(super) const SEGMENT_SUFFIX: &str = ".intoto.jsonl";
/// The folder of exported checkpoints, and the name of a lone one.
pub(super) const CHECKPOINTS: &str = "checkpoints";
pub(super) const CHECKPOINT: &str = "checkpoint.txt";

/// What to read: one state directory or database file, or any number of exported files and directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// As named by the caller; only last components ever show in a report.
    pub paths: Vec<PathBuf>,
}

impl Input {
    /// A single path.
    pub fn one(path: impl Into<PathBuf>) -> Self {
        Self { paths: vec![path.into()] }
    }

    /// The name of a path that holds a whole log where others are given beside it: then neither could be left out.
    pub fn whole_among_others(&self) -> Result<Option<String>, SourceError> {
        if self.paths.len() < 2 {
            return Ok(None);
        }
        for path in &self.paths {
            if path.join(DATABASE).is_file() || database::is_database(path)? {
                return Ok(Some(name_of(path)));
            }
        }
        Ok(None)
    }

    /// What to call the input in a report.
    pub fn label(&self) -> String {
        self.paths.iter().map(|path| name_of(path)).collect::<Vec<_>>().join(" ")
    }
}

/// Why an input cannot be read as evidence.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// What it said.
        source: std::io::Error,
    },
    /// The database cannot be read.
    #[error("{DATABASE}: {0}")]
    Database(#[from] rusqlite::Error),
    /// A file that is no evidence.
    #[error("{path}: {why}")]
    Foreign {
        /// Which file.
        path: String,
        /// What was expected.
        why: &'static str,
    },
    /// Someone wrote while we read.
    #[error("{0} changed while it was read; run again, or copy it first")]
    Changed(String),
    /// A whole log beside other paths.
    #[error("{0} holds a whole log: verify it by itself, and the other paths by themselves")]
    Mixed(String),
    /// No path was given.
    #[error("nothing to read: name a state directory, a database or exported files")]
    Nothing,
}

/// Which container the evidence came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// SQLite, with stored hashes beside the entries.
    Database,
    /// Segments and checkpoints.
    Files,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Database => "database",
            Self::Files => "files",
        })
    }
}

/// Where in the input something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    /// Path inside the input.
    pub(super) file: Arc<str>,
    /// Line, counted from 1; rows of a database have none.
    pub(super) line: Option<u64>,
}

/// One entry as the container holds it.
#[derive(Debug)]
pub(super) struct RawEntry {
    /// The index the container claims, where it claims one.
    pub(super) seq: Option<u64>,
    pub(super) line: Vec<u8>,
    /// The leaf hash stored beside it, if any.
    pub(super) leaf: Option<Vec<u8>>,
    pub(super) spot: Spot,
}

/// One head as the container holds it.
#[derive(Debug)]
pub(super) struct RawHead {
    /// The size the container claims.
    pub(super) size: u64,
    pub(super) note: Vec<u8>,
    pub(super) spot: Spot,
}

/// An open input.
pub(super) enum Source {
    Database(Database),
    Files(Files),
}

impl Source {
    pub(super) fn open(input: &Input) -> Result<Self, SourceError> {
        Self::open_how(input, false)
    }

    /// The same, but of a database a private copy: somebody writes it.
    pub(super) fn open_copied(input: &Input) -> Result<Self, SourceError> {
        Self::open_how(input, true)
    }

    fn open_how(input: &Input, copied: bool) -> Result<Self, SourceError> {
        match input.paths.as_slice() {
            [] => Err(SourceError::Nothing),
            [dir] if dir.join(DATABASE).is_file() => Database::open(&dir.join(DATABASE), copied).map(Self::Database),
            [file] if database::is_database(file)? => Database::open(file, copied).map(Self::Database),
            paths => match input.whole_among_others()? {
                Some(name) => Err(SourceError::Mixed(name)),
                None => Files::open(paths).map(Self::Files),
            },
        }
    }

    pub(super) const fn container(&self) -> Container {
        match self {
            Self::Database(_) => Container::Database,
            Self::Files(_) => Container::Files,
        }
    }

    /// Goes on at the entry with this index, as far as the container can tell; earlier ones may still come.
    pub(super) fn seek(&mut self, seq: u64) {
        match self {
            Self::Database(database) => database.seek(seq),
            Self::Files(files) => files.seek(seq),
        }
    }

    /// The next entries, at most `max`; none at the end.
    pub(super) fn entries(&mut self, max: usize) -> Result<Vec<RawEntry>, SourceError> {
        match self {
            Self::Database(database) => database.entries(max),
            Self::Files(files) => files.entries(max),
        }
    }

    /// The heads not handed out yet whose claimed size is at most `size`, the smallest first.
    pub(super) fn heads(&mut self, size: u64) -> Result<Vec<RawHead>, SourceError> {
        match self {
            Self::Database(database) => database.heads(size),
            Self::Files(files) => files.heads(size),
        }
    }

    /// How many entries the container claims to hold beyond doubt, if it says so.
    pub(super) fn claimed_end(&self) -> Option<u64> {
        match self {
            Self::Database(_) => None,
            Self::Files(files) => files.claimed_end(),
        }
    }

    /// The stored hash of a tree node above the leaves; only a database stores any.
    pub(super) fn node(&self, node: &Node) -> Result<Option<Vec<u8>>, SourceError> {
        match self {
            Self::Database(database) => database.node(node),
            Self::Files(_) => Ok(None),
        }
    }

    /// How many tree nodes are stored.
    pub(super) fn node_count(&self) -> Result<u64, SourceError> {
        match self {
            Self::Database(database) => database.node_count(),
            Self::Files(_) => Ok(0),
        }
    }

    /// Fails if the input was written to since it was opened.
    pub(super) fn finish(&self) -> Result<(), SourceError> {
        match self {
            Self::Database(database) => database.finish(),
            Self::Files(_) => Ok(()),
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| ".".into(), |name| name.to_string_lossy().into_owned())
}

fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> SourceError {
    let path = name_of(path);
    move |source| SourceError::Io { path, source }
}
