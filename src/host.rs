//! The only code that touches the machine: files below a root, programs with a deadline and a cap.
//!
//! Every collector takes a [`Host`], so the same code runs on the live machine and on a tree of recorded files and
//! recorded program answers. Nothing here judges.

mod exec;
mod files;
mod leftovers;
mod lock;
mod secrets;
mod tls;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::domain::finding::ProblemKind;

pub use exec::{Cmd, Output};
pub use files::{FileKind, FsUsage, Stat};
pub use lock::FileLock;
pub use secrets::{Secrets, env_file_variables};
pub use tls::TlsGreeting;

/// Why something could not be read or run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The file or program is not there.
    #[error("{0} is not there")]
    Missing(String),
    /// The right is missing.
    #[error("no permission for {0}")]
    Denied(String),
    /// The program was stopped at its deadline.
    #[error("{what} gave no answer within {seconds} s and was stopped")]
    Timeout {
        /// The program.
        what: String,
        /// Its deadline.
        seconds: u64,
    },
    /// The answer cannot be read.
    #[error("{what}: {why}")]
    Garbage {
        /// The file or program.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Anything else the system said.
    #[error("{what}: {why}")]
    Io {
        /// The file or program.
        what: String,
        /// The system's words.
        why: String,
    },
}

impl HostError {
    /// The kind of obstacle, for a [`crate::domain::finding::Problem`].
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::Missing(_) => ProblemKind::Missing,
            Self::Denied(_) => ProblemKind::Denied,
            Self::Timeout { .. } => ProblemKind::Timeout,
            Self::Garbage { .. } => ProblemKind::Garbage,
            Self::Io { .. } => ProblemKind::Unavailable,
        }
    }

    pub(crate) fn from_io(what: &str, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        if matches!(error.kind(), Kind::NotFound | Kind::NotADirectory) {
            Self::Missing(what.to_owned())
        } else if error.kind() == Kind::PermissionDenied {
            Self::Denied(what.to_owned())
        } else {
            Self::Io { what: what.to_owned(), why: error.to_string() }
        }
    }
}

/// The machine, or a recorded one.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
    programs: Programs,
}

#[derive(Debug, Clone)]
enum Programs {
    Live,
    /// Answers by argv joined with spaces.
    Recorded(BTreeMap<String, Output>),
}

impl Host {
    /// The machine Malachor runs on.
    pub fn live() -> Self {
        Self { root: PathBuf::from("/"), programs: Programs::Live }
    }

    /// A tree of recorded files; programs answer from `answers`, any other is missing.
    pub fn recorded(root: impl Into<PathBuf>, answers: BTreeMap<String, Output>) -> Self {
        Self { root: root.into(), programs: Programs::Recorded(answers) }
    }

    /// Whether this is the live machine, where sockets and kernel interfaces are ours.
    pub fn is_live(&self) -> bool {
        matches!(self.programs, Programs::Live)
    }

    /// Where an absolute path of the host lies for us.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(Path::new(path.trim_start_matches('/')))
    }
}
