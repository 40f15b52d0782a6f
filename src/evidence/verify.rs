//! The offline verifier: one pass, bounded memory, no trust in anything stored.
//!
//! A chunk of entries and the heads that fall into it are examined in parallel (bytes, signatures, form) while the next
//! chunk is read; then one walk in log order checks what connects them (index, chain, tree, heads). The walk goes on
//! after a failure, so that the report can name the first bad entry and count the rest.

mod examine;
mod walk;

use std::num::NonZeroUsize;
use std::thread;

use examine::{Examined, ExaminedHead, entry, head};
use walk::Walk;

use super::report::{Report, Shortfall};
use super::source::{Input, RawEntry, RawHead, Source, SourceError};
use super::trust::{Keyring, Trust};

/// How often what changed meanwhile is read again.
const TRIES: u32 = 5;
/// Entries held in memory at a time; with lines of 64 KiB that is 64 MiB, twice.
const CHUNK: usize = 1024;

/// How to verify, without influence on the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Threads that check signatures.
    pub jobs: NonZeroUsize,
}

impl Default for Options {
    fn default() -> Self {
        Self { jobs: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN) }
    }
}

/// Verifies a log against what the auditor trusts and expects.
///
/// Opens no socket, writes nothing, reads no clock: the same input and trust give the same report.
///
/// What was read while somebody wrote it says nothing, neither good nor bad: it is read again, and where that goes on it is
/// unreadable.
pub fn verify(input: &Input, trust: &Trust, options: Options) -> Report {
    let mut tries = 0;
    loop {
        let mut report = Report::new(input.label());
        let opened = if tries == 0 { Source::open(input) } else { Source::open_copied(input) };
        match opened.map_err(Stop::from).and_then(|source| run(source, trust, options, &mut report)) {
            Ok(()) => {}
            Err(Stop::Unreadable(SourceError::Changed(_))) if tries < TRIES => {
                tries += 1;
                continue;
            }
            Err(Stop::Unreadable(error @ SourceError::Changed(_))) => {
                report = Report::new(input.label());
                report.stop(Shortfall::unreadable(error.to_string()));
            }
            Err(Stop::Unreadable(error)) => report.stop(Shortfall::unreadable(error.to_string())),
            Err(Stop::Internal) => report.stop(Shortfall::internal("a verifying thread died")),
        }
        report.conclude();
        return report;
    }
}

enum Stop {
    Unreadable(SourceError),
    Internal,
}

impl From<SourceError> for Stop {
    fn from(error: SourceError) -> Self {
        Self::Unreadable(error)
    }
}

fn run(mut source: Source, trust: &Trust, options: Options, report: &mut Report) -> Result<(), Stop> {
    let read = read(&mut source, trust, options, report);
    // That it changed goes first: it may be why something could not be read.
    source.finish()?;
    read
}

fn read(source: &mut Source, trust: &Trust, options: Options, report: &mut Report) -> Result<(), Stop> {
    let mut chunk = source.entries(CHUNK)?;
    let ring = Keyring::settle(trust, chunk.first().map(|first| first.line.as_slice()));
    report.begin(source.container(), &ring);
    let mut walk = Walk::new(&ring, trust.checkpoint.as_ref(), report);
    while !chunk.is_empty() {
        let heads = source.heads(walk.reach(&chunk))?;
        let (examined, opened, next) = examine_chunk(&chunk, &heads, &ring, options, || source.entries(CHUNK))?;
        walk.chunk(&chunk, examined, heads, opened, source)?;
        chunk = next?;
    }
    let heads = source.heads(u64::MAX)?;
    let opened = heads.iter().map(|raw| head(raw, &ring)).collect();
    walk.finish(heads, opened, source)?;
    Ok(())
}

type Chunk = (Vec<Examined>, Vec<ExaminedHead>, Result<Vec<RawEntry>, SourceError>);

/// Examines a chunk on `jobs` threads while this one reads ahead.
fn examine_chunk(
    chunk: &[RawEntry],
    heads: &[RawHead],
    ring: &Keyring,
    options: Options,
    read_ahead: impl FnOnce() -> Result<Vec<RawEntry>, SourceError>,
) -> Result<Chunk, Stop> {
    thread::scope(|scope| {
        let share = |length: usize| length.div_ceil(options.jobs.get()).max(1);
        let entries: Vec<_> = chunk
            .chunks(share(chunk.len()))
            .map(|part| scope.spawn(|| part.iter().map(|raw| entry(raw, ring)).collect::<Vec<_>>()))
            .collect();
        let opened: Vec<_> = heads
            .chunks(share(heads.len()))
            .map(|part| scope.spawn(|| part.iter().map(|raw| head(raw, ring)).collect::<Vec<_>>()))
            .collect();
        let next = read_ahead();
        let (mut all, mut all_heads) = (Vec::with_capacity(chunk.len()), Vec::with_capacity(heads.len()));
        for part in entries {
            all.extend(part.join().map_err(|_| Stop::Internal)?);
        }
        for part in opened {
            all_heads.extend(part.join().map_err(|_| Stop::Internal)?);
        }
        Ok((all, all_heads, next))
    })
}
