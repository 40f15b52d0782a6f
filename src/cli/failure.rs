//! Exit statuses, and which error means which.

use std::process::ExitCode;

use crate::app::AppError;
use crate::catalog::Diagnostics;
use crate::config::ConfigError;
use crate::heal::HealError;
use crate::store::StoreError;

/// The exit statuses of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// All well.
    Ok = 0,
    /// It ran and found something: drift, a non-empty plan, evidence that contradicts itself.
    Found = 1,
    /// Bad usage or configuration.
    Usage = 2,
    /// Not enough to say: unknown, refused by a guard, uncovered.
    NotEnough = 3,
    /// Input unreadable, or something needed is not reachable.
    Unavailable = 4,
    /// A defect.
    Internal = 5,
    /// Interrupted by a signal.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// clap's own: help and version are well, anything else is usage.
    pub(super) fn from_clap(error: &clap::Error) -> Self {
        if error.use_stderr() { Self::Usage } else { Self::Ok }
    }

    /// The status of a verifier's report.
    pub(super) fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Ok,
            1 => Self::Found,
            2 => Self::Usage,
            3 => Self::NotEnough,
            4 => Self::Unavailable,
            _ => Self::Internal,
        }
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
pub struct Failure {
    /// The exit status.
    pub exit: Exit,
    /// What to tell a person.
    pub message: String,
}

impl Failure {
    /// A failure in words.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Something could not be read or reached.
    pub fn unavailable(error: &impl ToString) -> Self {
        Self::new(Exit::Unavailable, error.to_string())
    }

    /// The command line asks for something that cannot be.
    pub fn usage(error: &impl ToString) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<Diagnostics> for Failure {
    fn from(error: Diagnostics) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Self {
        match error {
            AppError::Config(error) => error.into(),
            AppError::Content(error) => error.into(),
            AppError::Store(error) => error.into(),
            AppError::Keys(_) | AppError::State { .. } => Self::unavailable(&error),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let exit = match &error {
            StoreError::NotThere(_) => Exit::Usage,
            StoreError::Gone | StoreError::NoKeys => Exit::Internal,
            StoreError::Open { .. }
            | StoreError::Newer { .. }
            | StoreError::Sql { .. }
            | StoreError::Corrupt(_)
            | StoreError::Log(_) => Exit::Unavailable,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<HealError> for Failure {
    fn from(error: HealError) -> Self {
        match error {
            HealError::Store(error) => error.into(),
            HealError::Host(error) => Self::unavailable(&error),
            HealError::App(error) => error.into(),
            HealError::Transition(_) | HealError::Defect => Self::new(Exit::Internal, error.to_string()),
            HealError::Refused(message) => Self::new(Exit::Usage, message),
        }
    }
}
