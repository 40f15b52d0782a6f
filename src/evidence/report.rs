//! What a verification found: one value, printed for people and for machines, equal for equal input.

mod reason;
mod text;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

pub use reason::{At, Reason, Verdict};

use super::source::{Container, Spot};
use super::trust::{Keyring, Pin};
use crate::crypto::hex;
use crate::crypto::merkle::{Hash, empty_root};
use crate::domain::entry::EntryKind;
use crate::store::log::instant;

/// Bad places listed one by one; beyond this they are counted.
pub const MAX_LISTED: usize = 1000;

/// What was expected and what was found instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    reason: Reason,
    expected: String,
    actual: String,
    notes: Vec<String>,
}

impl Finding {
    pub(super) fn new(reason: Reason, expected: impl Into<String>, actual: impl Into<String>) -> Self {
        Self { reason, expected: expected.into(), actual: actual.into(), notes: Vec::new() }
    }

    /// With the signed notes that contradict each other.
    pub(super) fn with_notes<'a>(mut self, notes: impl IntoIterator<Item = &'a Vec<u8>>) -> Self {
        self.notes = notes.into_iter().map(|note| String::from_utf8_lossy(note).into_owned()).collect();
        self
    }
}

/// One bad place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// Entry or head.
    pub at: At,
    /// Why.
    pub reason: Reason,
    /// File inside the input, empty if it stands in none.
    pub file: String,
    /// Line in that file, from 1.
    pub line: Option<u64>,
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub actual: String,
    /// Signed notes that show the contradiction.
    pub notes: Vec<String>,
}

/// Why intact evidence is not enough, or why there is no evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shortfall {
    reason: Reason,
    say: String,
}

impl Shortfall {
    pub(super) const fn unreadable(say: String) -> Self {
        Self { reason: Reason::Unreadable, say }
    }

    pub(super) fn internal(say: &str) -> Self {
        Self { reason: Reason::Internal, say: say.into() }
    }

    pub(super) fn nothing() -> Self {
        Self { reason: Reason::NothingToCheck, say: "no entry in this input".into() }
    }

    pub(super) fn tail(covered: u64, entries: u64) -> Self {
        let say = match covered {
            0 => format!("no head covers any of the {entries} entries"),
            _ => format!("entries {covered}..={} are covered by no head", entries.saturating_sub(1)),
        };
        Self { reason: Reason::TailNotCovered, say }
    }

    pub(super) fn unpinned() -> Self {
        let say = "the keys came from the log itself; give one you got elsewhere with --key";
        Self { reason: Reason::KeyNotPinned, say: say.into() }
    }
}

/// One thing that is checked for every entry or head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Check {
    Signatures,
    Chain,
    Origin,
    Stored,
    HeadSignatures,
    Heads,
    Expected,
}

impl Check {
    const ALL: [Self; 7] =
        [Self::Signatures, Self::Chain, Self::Origin, Self::Stored, Self::HeadSignatures, Self::Heads, Self::Expected];

    const fn id(self) -> &'static str {
        match self {
            Self::Signatures => "signatures",
            Self::Chain => "chain",
            Self::Origin => "origin",
            Self::Stored => "stored_hashes",
            Self::HeadSignatures => "head_signatures",
            Self::Heads => "merkle_root",
            Self::Expected => "expected_checkpoint",
        }
    }
}

/// How far a check came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) done: u64,
    pub(super) total: u64,
}

impl Row {
    const fn status(self) -> &'static str {
        match (self.total, self.done == self.total) {
            (0, _) => "n/a",
            (_, true) => "PASS",
            (_, false) => "FAIL",
        }
    }
}

/// The result of one verification.
#[derive(Debug, Clone)]
pub struct Report {
    label: String,
    container: Option<Container>,
    trust: Value,
    pin: Pin,
    pub(super) entries: u64,
    pub(super) root: Hash,
    rows: BTreeMap<Check, Row>,
    bad: Vec<Bad>,
    bad_total: u64,
    lints: Vec<(u64, Spot)>,
    lint_total: u64,
    period: Option<(Timestamp, Timestamp)>,
    declared_gaps: u64,
    shortfalls: Vec<Shortfall>,
    verdict: Verdict,
}

impl Report {
    pub(super) fn new(label: String) -> Self {
        Self {
            label,
            container: None,
            trust: Value::Null,
            pin: Pin::Log,
            entries: 0,
            root: empty_root(),
            rows: Check::ALL.into_iter().map(|check| (check, Row::default())).collect(),
            bad: Vec::new(),
            bad_total: 0,
            lints: Vec::new(),
            lint_total: 0,
            period: None,
            declared_gaps: 0,
            shortfalls: Vec::new(),
            verdict: Verdict::Internal,
        }
    }

    pub(super) fn begin(&mut self, container: Container, ring: &Keyring) {
        self.container = Some(container);
        self.trust = ring.describe();
        self.pin = ring.pin;
    }

    pub(super) fn row(&mut self, check: Check) -> &mut Row {
        self.rows.entry(check).or_default()
    }

    pub(super) fn claimed(&mut self, time: Timestamp, kind: EntryKind) {
        let (first, last) = self.period.unwrap_or((time, time));
        self.period = Some((first.min(time), last.max(time)));
        self.declared_gaps += u64::from(kind == EntryKind::Gap);
    }

    pub(super) fn lint(&mut self, seq: u64, spot: Spot) {
        self.lint_total += 1;
        if self.lints.len() < MAX_LISTED {
            self.lints.push((seq, spot));
        }
    }

    pub(super) fn bad(&mut self, at: At, finding: Finding, spot: &Spot) {
        self.bad_total += 1;
        if self.bad.len() < MAX_LISTED {
            let Finding { reason, expected, actual, notes } = finding;
            let (file, line) = (spot.file.to_string(), spot.line);
            self.bad.push(Bad { at, reason, file, line, expected, actual, notes });
        }
    }

    pub(super) fn short(&mut self, shortfall: Shortfall) {
        self.shortfalls.push(shortfall);
    }

    /// Ends a verification that could not go on.
    pub(super) fn stop(&mut self, shortfall: Shortfall) {
        self.shortfalls.push(shortfall);
    }

    /// Puts everything in order and derives the verdict; what was contradicted stays so whatever else is wrong.
    pub(super) fn conclude(&mut self) {
        self.bad.sort_by_key(|bad| bad.at.order());
        self.shortfalls.sort_by_key(|shortfall| shortfall.reason);
        let short = |reason| self.shortfalls.iter().any(|shortfall| shortfall.reason == reason);
        self.verdict = if self.bad_total > 0 {
            Verdict::Contradicted
        } else if short(Reason::Internal) {
            Verdict::Internal
        } else if short(Reason::Unreadable) {
            Verdict::Unreadable
        } else if !self.shortfalls.is_empty() || self.entries == 0 || !self.all_done() {
            Verdict::NotEnough
        } else {
            Verdict::Verified
        };
    }

    /// Nothing is verified unless every check that had work finished all of it, and the essential ones had work.
    fn all_done(&self) -> bool {
        let had_work = |check| self.rows.get(&check).is_some_and(|row| row.total > 0);
        self.rows.values().all(|row| row.done == row.total)
            && [Check::Signatures, Check::Chain, Check::HeadSignatures, Check::Heads].into_iter().all(had_work)
    }

    /// The verdict.
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The exit code of the verdict: 0, 1, 3, 4 or 5.
    pub const fn exit_code(&self) -> u8 {
        self.verdict.exit_code()
    }

    /// The first bad place in log order.
    pub fn first_bad(&self) -> Option<&Bad> {
        self.bad.first()
    }

    /// The bad places in log order, at most [`MAX_LISTED`].
    pub fn bad_places(&self) -> &[Bad] {
        &self.bad
    }

    /// Entries read.
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// Why the evidence is not enough or not readable, by reason.
    pub fn shortfalls(&self) -> impl Iterator<Item = Reason> {
        self.shortfalls.iter().map(|shortfall| shortfall.reason)
    }

    /// A0: the log, or the appliance that made it, vouches for itself. A1: a key came from outside.
    pub const fn assurance(&self) -> &'static str {
        match self.pin {
            Pin::Log | Pin::Appliance => "A0",
            Pin::Auditor => "A1",
        }
    }

    /// The report as `malachor.verify/1`: members sorted, no clock, no path outside the input.
    pub fn json(&self) -> Value {
        let checks: Vec<_> = self.rows.iter().map(|(check, row)| row_json(*check, *row)).collect();
        let place = |(seq, spot): &(u64, Spot)| json!({"seq": seq, "file": &*spot.file, "line": spot.line});
        let period =
            self.period.map(|(first, last)| json!({"claimedFirst": instant(first), "claimedLast": instant(last)}));
        json!({
            "schema": "malachor.verify/1",
            "verdict": self.verdict.as_str(),
            "exit": self.exit_code(),
            "assurance": self.assurance(),
            "input": {
                "container": self.container.map(|container| container.to_string()),
                "entries": self.entries,
                "root": hex(&self.root),
            },
            "trust": self.trust,
            "period": period,
            "checks": checks,
            "firstBad": self.bad.first().map(bad_json),
            "bad": self.bad.iter().map(bad_json).collect::<Vec<_>>(),
            "badTotal": self.bad_total,
            "declaredGaps": self.declared_gaps,
            "lints": {"NON_CANONICAL": self.lints.iter().map(place).collect::<Vec<_>>(), "total": self.lint_total},
            "shortfalls": self
                .shortfalls
                .iter()
                .map(|s| json!({"reason": s.reason.as_str(), "say": s.say}))
                .collect::<Vec<_>>(),
        })
    }

    /// The report for people, about twenty lines.
    pub fn text(&self) -> String {
        text::write(self)
    }
}

fn row_json(check: Check, row: Row) -> Value {
    json!({"id": check.id(), "status": row.status(), "done": row.done, "total": row.total})
}

fn bad_json(bad: &Bad) -> Value {
    let mut out = Map::new();
    match bad.at {
        At::Entry(seq) => out.insert("seq".into(), seq.into()),
        At::Head(size) => out.insert("head".into(), size.into()),
    };
    out.insert("reason".into(), bad.reason.as_str().into());
    out.insert("file".into(), bad.file.clone().into());
    out.insert("line".into(), bad.line.into());
    out.insert("expected".into(), bad.expected.clone().into());
    out.insert("actual".into(), bad.actual.clone().into());
    if !bad.notes.is_empty() {
        out.insert("notes".into(), bad.notes.clone().into());
    }
    Value::Object(out)
}
