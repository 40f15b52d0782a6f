//! A log as exported: segments `<first12>-<last12>.intoto.jsonl` and signed checkpoints.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{CHECKPOINT, CHECKPOINTS, RawEntry, RawHead, SEGMENT_SUFFIX, SourceError, Spot, io_error, name_of};
use crate::crypto::dsse::MAX_LINE;
use crate::crypto::note::{Checkpoint, MAX_NOTE, Note};

/// Folders inside folders that are looked into: `kit/seg/…`.
const MAX_DEPTH: usize = 4;

struct Segment {
    first: u64,
    last: u64,
    path: PathBuf,
    name: Arc<str>,
}

struct OpenSegment {
    reader: BufReader<File>,
    /// What the name claims about the first line; taken with it.
    first: Option<u64>,
    path: PathBuf,
    name: Arc<str>,
    line: u64,
}

pub(in crate::evidence) struct Files {
    segments: VecDeque<Segment>,
    open: Option<OpenSegment>,
    heads: BTreeMap<(u64, String), PathBuf>,
    end: Option<u64>,
}

impl Files {
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, SourceError> {
        let mut files = BTreeSet::new();
        for path in paths {
            gather(path, &name_of(path), 0, &mut files)?;
        }
        let (mut segments, mut heads) = (Vec::new(), BTreeMap::new());
        for (name, path) in files {
            if name.ends_with(SEGMENT_SUFFIX) {
                segments.push(segment(name, path)?);
            } else {
                heads.insert((claimed_size(&path)?, name), path);
            }
        }
        if segments.is_empty() {
            return Err(SourceError::Foreign {
                path: paths.first().map_or_else(String::new, |path| name_of(path)),
                why: "no segment `<first12>-<last12>.intoto.jsonl` and no malachor.db here",
            });
        }
        segments.sort_by(|a, b| (a.first, a.last, &a.name).cmp(&(b.first, b.last, &b.name)));
        let end = segments.iter().map(|segment| segment.last.saturating_add(1)).max();
        Ok(Self { segments: segments.into(), open: None, heads, end })
    }

    pub(super) fn seek(&mut self, seq: u64) {
        self.open = None;
        self.segments.retain(|segment| segment.last >= seq);
    }

    pub(super) const fn claimed_end(&self) -> Option<u64> {
        self.end
    }

    pub(super) fn entries(&mut self, max: usize) -> Result<Vec<RawEntry>, SourceError> {
        let mut out = Vec::new();
        while out.len() < max {
            if self.open.is_none() {
                let Some(segment) = self.segments.pop_front() else { break };
                self.open = Some(OpenSegment::open(segment)?);
            }
            match self.open.as_mut().map_or(Ok(None), OpenSegment::next_entry)? {
                Some(entry) => out.push(entry),
                None => self.open = None,
            }
        }
        Ok(out)
    }

    pub(super) fn heads(&mut self, size: u64) -> Result<Vec<RawHead>, SourceError> {
        let mut out = Vec::new();
        while let Some(entry) = self.heads.first_entry()
            && entry.key().0 <= size
        {
            let ((size, name), path) = entry.remove_entry();
            out.push(RawHead { size, note: read_note(&path)?, spot: Spot { file: name.into(), line: None } });
        }
        Ok(out)
    }
}

impl OpenSegment {
    fn open(segment: Segment) -> Result<Self, SourceError> {
        let Segment { first, path, name, .. } = segment;
        let reader = BufReader::with_capacity(1 << 18, File::open(&path).map_err(io_error(&path))?);
        Ok(Self { reader, first: Some(first), path, name, line: 0 })
    }

    fn next_entry(&mut self) -> Result<Option<RawEntry>, SourceError> {
        let line = capped_line(&mut self.reader).map_err(io_error(&self.path))?;
        self.line += 1;
        let spot = Spot { file: Arc::clone(&self.name), line: Some(self.line) };
        Ok(line.map(|line| RawEntry { seq: self.first.take(), line, leaf: None, spot }))
    }
}

/// One line without its end; of a line too long to be an entry only the first [`MAX_LINE`] + 1 bytes are kept.
fn capped_line(reader: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if reader.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.pop_if(|last| *last == b'\n').is_none() && line.len() > MAX_LINE {
        reader.skip_until(b'\n')?;
    }
    Ok(Some(line))
}

/// Collects evidence files under a path, by their names inside the input.
fn gather(path: &Path, name: &str, depth: usize, out: &mut BTreeSet<(String, PathBuf)>) -> Result<(), SourceError> {
    if path.is_dir() {
        if depth >= MAX_DEPTH {
            return Ok(());
        }
        for item in fs::read_dir(path).map_err(io_error(path))? {
            let path = item.map_err(io_error(path))?.path();
            let inside = name_of(&path);
            let name = if depth == 0 { inside } else { format!("{name}/{inside}") };
            gather(&path, &name, depth + 1, out)?;
        }
        return Ok(());
    }
    let parent = path.parent().map(name_of).unwrap_or_default();
    let is_text = path.extension().is_some_and(|extension| extension == "txt");
    let is_head = name_of(path) == CHECKPOINT || (parent == CHECKPOINTS && is_text);
    let is_segment = name.ends_with(SEGMENT_SUFFIX);
    if is_head || is_segment || depth == 0 {
        let meta = fs::metadata(path).map_err(io_error(path))?;
        if !meta.is_file() {
            // Reading a pipe would wait for whoever writes it.
            return Err(SourceError::Foreign { path: name.into(), why: "is not a regular file" });
        }
    }
    match (is_head || is_segment, depth) {
        (true, _) => {
            out.insert((name.into(), path.into()));
            Ok(())
        }
        (false, 0) => {
            let why = "neither a segment (.intoto.jsonl), a checkpoint (checkpoints/*.txt), nor a database";
            Err(SourceError::Foreign { path: name.into(), why })
        }
        (false, 1..) => Ok(()),
    }
}

fn segment(name: String, path: PathBuf) -> Result<Segment, SourceError> {
    let file = name_of(&path);
    let number = |text: &str| (text.len() >= 12).then(|| text.parse::<u64>().ok()).flatten();
    let range = file.strip_suffix(SEGMENT_SUFFIX).and_then(|stem| stem.split_once('-'));
    match range.and_then(|(first, last)| Some((number(first)?, number(last)?))) {
        Some((first, last)) if first <= last => Ok(Segment { first, last, path, name: name.into() }),
        Some(_) | None => {
            Err(SourceError::Foreign { path: name, why: "segments are named `<first12>-<last12>.intoto.jsonl`" })
        }
    }
}

/// The size in a checkpoint's file name, or else in its text; an unreadable one comes last.
fn claimed_size(path: &Path) -> Result<u64, SourceError> {
    if let Some(size) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok()) {
        return Ok(size);
    }
    let note = read_note(path)?;
    Ok(Note::parse(&note).and_then(|note| Checkpoint::parse(note.text())).map_or(u64::MAX, |head| head.size))
}

fn read_note(path: &Path) -> Result<Vec<u8>, SourceError> {
    let mut note = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_NOTE as u64 + 1).read_to_end(&mut note)).map_err(io_error(path))?;
    Ok(note)
}
