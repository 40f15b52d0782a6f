//! The system journal's files: whether what is written now survives a restart, and how far back they reach.

use jiff::Timestamp;

use crate::checks::run::Context;
use crate::host::{Host, HostError};

const KEPT: &str = "/var/log/journal";
const LOST: &str = "/run/log/journal";
/// `head_entry_realtime` and `tail_entry_realtime` in a file's header, microseconds (systemd's journal file format).
const FIRST: usize = 184;
const LAST: usize = 192;

/// Journal files of this machine.
#[derive(Debug)]
pub(super) struct Journals {
    kept: Span,
    lost: Span,
}

/// First and last entry of the files in one place; `None` where there is none.
#[derive(Debug, Default)]
struct Span {
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

impl Journals {
    pub(super) fn read(host: &Host) -> Result<Self, HostError> {
        let machine = host.read("/etc/machine-id")?;
        let machine = machine.trim();
        let found = Self { kept: span(host, KEPT, machine)?, lost: span(host, LOST, machine)? };
        if found.kept.last.or(found.lost.last).is_none() {
            return Err(HostError::Missing("a journal of this machine with an entry in it".to_owned()));
        }
        Ok(found)
    }

    /// Whether what is logged now goes to the disk: the newest entry is there and not in memory, and it is not an old one
    /// either, of a time before the journal went somewhere else.
    ///
    /// Files alone prove nothing: those on the disk stay when the journal moves to memory, and the other way round.
    pub(super) fn persistent(&self, context: Context<'_>, current_s: i64) -> bool {
        let newest_is_kept = self.kept.last >= self.lost.last;
        newest_is_kept && self.kept.last.is_some_and(|last| context.seconds_since(last) <= current_s)
    }

    /// Age in days of the oldest entry: on the disk, or in memory where nothing is on the disk.
    pub(super) fn oldest_age_d(&self, context: Context<'_>) -> Option<i64> {
        self.kept.first.or(self.lost.first).map(|first| context.seconds_since(first) / 86_400)
    }
}

fn span(host: &Host, dir: &str, machine: &str) -> Result<Span, HostError> {
    let dir = format!("{dir}/{machine}");
    let names = match host.list(&dir) {
        Ok(names) => names,
        Err(HostError::Missing(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut span = Span::default();
    for name in names.iter().filter(|name| name.ends_with(".journal")) {
        let path = format!("{dir}/{name}");
        let head = host.head(&path, 256)?;
        let garbage = || HostError::Garbage { what: path.clone(), why: "not a journal file".to_owned() };
        if !head.starts_with(b"LPKSHHRH") {
            return Err(garbage());
        }
        let (first, last) = (micros(&head, FIRST).ok_or_else(garbage)?, micros(&head, LAST).ok_or_else(garbage)?);
        // A file without entries yet has neither.
        if first > 0 && last > 0 {
            let time = |micros| Timestamp::from_microsecond(micros).map_err(|_| garbage());
            let (first, last) = (time(first)?, time(last)?);
            span.first = Some(span.first.map_or(first, |known| known.min(first)));
            span.last = span.last.max(Some(last));
        }
    }
    Ok(span)
}

fn micros(head: &[u8], at: usize) -> Option<i64> {
    let word = <[u8; 8]>::try_from(head.get(at..at + 8)?).ok()?;
    i64::try_from(u64::from_le_bytes(word)).ok()
}
