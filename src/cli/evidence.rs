//! `malachor evidence`: list, show, verify, export.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::app::keys_dir;
use crate::evidence::read::ReadError;
use crate::evidence::{self, Input, Options, Trust, read};

use super::session::Session;
use super::{Exit, Failure};

/// Entries per exported segment.
const SEGMENT: u64 = 1000;

/// Evidence.
#[derive(Debug, Subcommand)]
pub(super) enum Evidence {
    /// List entries
    List(List),
    /// Show one entry, decoded
    Show(Show),
    /// Verify a log offline: signatures, chain, tree, heads, names
    Verify(Verify),
    /// Write this appliance's log as files to hand over
    Export(Export),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// State directory, database or exported files [default: this appliance's]
    path: Option<PathBuf>,
    /// First entry to show
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The entry's number
    seq: u64,
    /// State directory, database or exported files [default: this appliance's]
    path: Option<PathBuf>,
}

/// Verify a log. It opens no socket and needs no configuration where a path and a key are given.
///
/// Without a path and `--key` it looks at this appliance's own log with the keys the appliance holds (assurance A0: that
/// shows damage, not who made it). With a path and without `--key` the keys named inside the log are used: then nothing
/// ties the log to its maker, and the exit is 3.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// State directory, database, or exported files and directories [default: this appliance's state]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Public key given to you by another way: PEM or vkey file; once each for entries and heads
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// The log's name must be this
    #[arg(long, value_name = "ORIGIN")]
    expect_origin: Option<String>,
    /// A head kept from earlier that this log must contain
    #[arg(long, value_name = "FILE")]
    expect_checkpoint: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// A new or empty directory
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// State directory or database [default: this appliance's]
    path: Option<PathBuf>,
}

impl Evidence {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        match self {
            Self::List(list) => list.run(session),
            Self::Show(show) => {
                let input = Input::one(or_state(session, show.path)?);
                let entry = read::show(&input, show.seq).map_err(|error| match error {
                    ReadError::Absent(_) => Failure::usage(&format!("{error}; see `malachor evidence list`")),
                    ReadError::Source(_) | ReadError::Envelope(_) | ReadError::Statement(_) => {
                        Failure::unavailable(&error)
                    }
                })?;
                if session.out.is_json() {
                    session.out.json(&entry);
                } else {
                    session.out.pretty(&entry);
                }
                Ok(Exit::Ok)
            }
            Self::Verify(verify) => verify.run(session),
            Self::Export(export) => {
                let input = Input::one(or_state(session, export.path)?);
                let done =
                    evidence::export(&input, &export.out, SEGMENT).map_err(|error| Failure::unavailable(&error))?;
                session.out.line(format!(
                    "{} entries in {} segments, {} checkpoints in {}",
                    done.entries,
                    done.segments,
                    done.checkpoints,
                    export.out.display()
                ));
                Ok(Exit::Ok)
            }
        }
    }
}

fn or_state(session: &Session<'_>, path: Option<PathBuf>) -> Result<PathBuf, Failure> {
    match path {
        Some(path) => Ok(path),
        None => Ok(session.loaded()?.config.agent.state_dir),
    }
}

impl List {
    fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let input = Input::one(or_state(session, self.path)?);
        let entries = read::list(&input, self.from, self.limit).map_err(|error| Failure::unavailable(&error))?;
        let mut rows = vec![["SEQ", "CLAIMED AT", "KIND", "OUTCOME", "RUNBOOK", "LEAF"].map(str::to_owned).to_vec()];
        for entry in &entries {
            if session.out.is_json() {
                session.out.json(entry);
            }
            rows.push(vec![
                entry.seq.to_string(),
                entry.claimed_at.clone(),
                entry.kind.clone(),
                entry.outcome.clone().unwrap_or_default(),
                entry.runbook.clone().unwrap_or_default(),
                entry.leaf.get(..16).unwrap_or(&entry.leaf).to_owned(),
            ]);
        }
        if !session.out.is_json() {
            session.out.table(&rows);
        }
        Ok(Exit::Ok)
    }
}

impl Verify {
    fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let mut keys = self.keys;
        let mut held_here = false;
        let paths = if self.paths.is_empty() {
            // On the appliance itself its own public keys are at hand; whoever checks it elsewhere brings them.
            let state = session.loaded()?.config.agent.state_dir;
            if keys.is_empty() {
                keys = ["entry.vkey", "head.vkey"].map(|file| keys_dir(&state).join(file)).to_vec();
                held_here = true;
            }
            vec![state]
        } else {
            self.paths
        };
        let mut trust = Trust::default();
        if held_here {
            trust.held_here();
        }
        for path in &keys {
            let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
            trust.add_key(&text).map_err(|error| unreadable(path, &error))?;
        }
        if let Some(origin) = &self.expect_origin {
            trust.expect_origin(origin).map_err(|error| Failure::usage(&error))?;
        }
        if let Some(path) = &self.expect_checkpoint {
            let note = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
            trust.expect_checkpoint(&note).map_err(|error| unreadable(path, &error))?;
        }
        let report = evidence::verify(&Input { paths }, &trust, Options::default());
        if session.out.is_json() {
            session.out.json(&report.json());
        } else {
            session.out.raw(&report.text());
        }
        Ok(Exit::from_code(report.exit_code()))
    }
}

fn unreadable(path: &std::path::Path, error: &impl ToString) -> Failure {
    Failure::new(Exit::Unavailable, format!("{}: {}", path.display(), error.to_string()))
}
