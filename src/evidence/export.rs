//! A log as files to hand over: segments, every checkpoint, and the newest one by itself.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use thiserror::Error;

use super::source::{CHECKPOINT, CHECKPOINTS, Input, RawEntry, SEGMENT_SUFFIX, Source, SourceError};

/// Entries held in memory at a time.
const CHUNK: usize = 1024;
/// The folder of segments.
const SEGMENTS: &str = "seg";

/// Why nothing could be handed over.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The log cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The files cannot be written.
    #[error("write {path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// What the file system said.
        source: std::io::Error,
    },
    /// The target holds something already.
    #[error("{0} is not empty: evidence is only written to a new or empty folder")]
    NotEmpty(String),
    /// A row cannot be a line of a segment.
    #[error("entry {0} holds a line end or is out of order; run `malachor evidence verify` first")]
    Unfit(u64),
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Entries, each exactly once.
    pub entries: u64,
    /// Segment files.
    pub segments: u64,
    /// Checkpoint files.
    pub checkpoints: u64,
}

/// Writes a log into a new or empty folder: the same log gives the same bytes, entry for entry as signed.
///
/// Nothing is verified on the way: what is broken is handed over broken. What cannot be handed over whole leaves nothing.
pub fn export(input: &Input, folder: &Path, entries_per_segment: u64) -> Result<Exported, ExportError> {
    let io = |source| ExportError::Io { path: folder.display().to_string(), source };
    let existed = folder.exists();
    if existed && fs::read_dir(folder).map_err(io)?.next().is_some() {
        return Err(ExportError::NotEmpty(folder.display().to_string()));
    }
    let source = Source::open(input)?;
    let written = fs::create_dir_all(folder.join(SEGMENTS))
        .and_then(|()| fs::create_dir_all(folder.join(CHECKPOINTS)))
        .map_err(io)
        .and_then(|()| write(source, folder, entries_per_segment));
    if written.is_err() {
        // Only what was made here: the folder was empty.
        for part in [SEGMENTS, CHECKPOINTS] {
            fs::remove_dir_all(folder.join(part)).ok();
        }
        fs::remove_file(folder.join(CHECKPOINT)).ok();
        if !existed {
            fs::remove_dir(folder).ok();
        }
    }
    written
}

fn write(mut source: Source, folder: &Path, entries_per_segment: u64) -> Result<Exported, ExportError> {
    let mut out = Segments { folder, limit: entries_per_segment.max(1), open: None, next: 0, written: 0 };
    loop {
        let chunk = source.entries(CHUNK)?;
        if chunk.is_empty() {
            break;
        }
        chunk.iter().try_for_each(|entry| out.push(entry))?;
    }
    out.close()?;
    let checkpoints = heads(&mut source, folder)?;
    source.finish()?;
    Ok(Exported { entries: out.next, segments: out.written, checkpoints })
}

fn heads(source: &mut Source, folder: &Path) -> Result<u64, ExportError> {
    let heads = source.heads(u64::MAX)?;
    for head in &heads {
        write_new(&folder.join(CHECKPOINTS).join(format!("{:012}.txt", head.size)), &head.note)?;
    }
    if let Some(last) = heads.last() {
        write_new(&folder.join(CHECKPOINT), &last.note)?;
    }
    Ok(heads.len() as u64)
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let write = || OpenOptions::new().write(true).create_new(true).open(path)?.write_all(bytes);
    write().map_err(|source| ExportError::Io { path: path.display().to_string(), source })
}

struct Segments<'a> {
    folder: &'a Path,
    limit: u64,
    open: Option<(BufWriter<File>, u64)>,
    next: u64,
    written: u64,
}

impl Segments<'_> {
    const PARTIAL: &'static str = "seg/partial";

    fn push(&mut self, entry: &RawEntry) -> Result<(), ExportError> {
        let seq = entry.seq.unwrap_or(self.next);
        if seq != self.next || entry.line.contains(&b'\n') {
            return Err(ExportError::Unfit(seq));
        }
        if self.open.is_none() {
            let file = File::create_new(self.folder.join(Self::PARTIAL)).map_err(|e| self.failed(e))?;
            self.open = Some((BufWriter::new(file), seq));
        }
        if let Some((file, _)) = &mut self.open {
            let written = file.write_all(&entry.line).and_then(|()| file.write_all(b"\n"));
            written.map_err(|e| self.failed(e))?;
        }
        self.next += 1;
        if self.next.is_multiple_of(self.limit) { self.close() } else { Ok(()) }
    }

    /// Gives the finished segment its name.
    fn close(&mut self) -> Result<(), ExportError> {
        let Some((mut file, first)) = self.open.take() else { return Ok(()) };
        let name = format!("seg/{first:012}-{:012}{SEGMENT_SUFFIX}", self.next - 1);
        let renamed = file.flush().and_then(|()| fs::rename(self.folder.join(Self::PARTIAL), self.folder.join(name)));
        renamed.map_err(|e| self.failed(e))?;
        self.written += 1;
        Ok(())
    }

    fn failed(&self, source: std::io::Error) -> ExportError {
        ExportError::Io { path: self.folder.join("seg").display().to_string(), source }
    }
}
