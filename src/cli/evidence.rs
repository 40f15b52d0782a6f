//! `malachor evidence`: list, show, verify, export.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::app::keys_dir;
use crate::config::{bytes_of, text_of};
use crate::crypto::note::MAX_NOTE;
use crate::evidence::export::Exported;
use crate::evidence::read::ReadError;
use crate::evidence::{self, Input, Options, SourceError, Trust, read};
use crate::shown;

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
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
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
                let Exported { entries, segments, checkpoints } = done;
                let folder = export.out.display().to_string();
                if session.out.is_json() {
                    session.out.json(&json!({
                        "schema": "malachor.export/1", "entries": entries, "segments": segments, "checkpoints": checkpoints,
                        "folder": folder,
                    }));
                } else {
                    let folder = shown::piece(&folder);
                    session.out.line(format!(
                        "{entries} entries in {segments} segments, {checkpoints} checkpoints in {folder}"
                    ));
                }
                Ok(Exit::Ok)
            }
        }
    }
}

/// A value with the name of its form.
#[derive(serde::Serialize)]
struct Schema<'a, T> {
    schema: &'static str,
    #[serde(flatten)]
    of: &'a T,
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
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let entries = read::list(&input, self.from, limit).map_err(|error| Failure::unavailable(&error))?;
        let head = ["SEQ", "CLAIMED AT", "KIND", "OUTCOME", "RUNBOOK", "LEAF", "WHAT"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for entry in &entries {
            if session.out.is_json() {
                session.out.json(&Schema { schema: "malachor.entry_listed/1", of: entry });
            }
            rows.push(vec![
                entry.seq.to_string(),
                entry.claimed_at.clone(),
                entry.kind.clone(),
                entry.outcome.clone().unwrap_or_default(),
                entry.runbook.clone().unwrap_or_default(),
                entry.leaf.get(..16).unwrap_or(&entry.leaf).to_owned(),
                entry.reason.clone().unwrap_or_default(),
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
            let text = text_of(path, MAX_NOTE as u64).map_err(|error| unreadable(path, &error))?;
            trust.add_key(&text).map_err(|error| unreadable(path, &error))?;
        }
        if let Some(origin) = &self.expect_origin {
            trust.expect_origin(origin).map_err(|error| Failure::usage(&error))?;
        }
        if let Some(path) = &self.expect_checkpoint {
            let note = bytes_of(path, MAX_NOTE as u64).map_err(|error| unreadable(path, &error))?;
            let not_one = |error| unreadable(path, &format!("is not a signed checkpoint: {error}"));
            trust.expect_checkpoint(&note).map_err(not_one)?;
        }
        let input = Input { paths };
        if let Ok(Some(name)) = input.whole_among_others() {
            return Err(Failure::usage(&SourceError::Mixed(name)));
        }
        let report = evidence::verify(&input, &trust, Options::default());
        if session.out.is_json() {
            session.out.json(&report.json());
        } else {
            session.out.raw(&report.text());
        }
        Ok(Exit::from_code(report.exit_code()))
    }
}

fn unreadable(path: &std::path::Path, error: &impl ToString) -> Failure {
    Failure::new(Exit::Unavailable, format!("{}: {}", shown::piece(&path.display().to_string()), error.to_string()))
}
