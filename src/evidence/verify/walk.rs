//! The walk in log order: index, chain, tree and heads.

use std::collections::VecDeque;

use super::examine::{Examined, ExaminedHead, Facts};
use crate::crypto::hex;
use crate::crypto::keys::VerifierKey;
use crate::crypto::merkle::{Frontier, Hash, Node};
use crate::crypto::note::{Checkpoint, Note};
use crate::domain::entry::EntryKind;
use crate::evidence::report::{At, Check, Finding, Reason, Report, Shortfall};
use crate::evidence::source::{Container, RawEntry, RawHead, Source, SourceError, Spot};
use crate::evidence::trust::{Expected, Keyring, Pin};
use crate::store::log::genesis_prev;

pub(super) struct Walk<'a> {
    ring: &'a Keyring,
    expected: Option<&'a Expected>,
    report: &'a mut Report,
    /// The index the next entry must have.
    next: u64,
    /// Leaf hash of the entry before, unknown after a hole.
    prev: Option<Hash>,
    frontier: Frontier,
    /// No entry was missing or out of place so far: the frontier is that of the log.
    whole: bool,
    heads: VecDeque<(RawHead, ExaminedHead)>,
    /// The last head that verified, for forks.
    last_head: Option<(Checkpoint, Vec<u8>)>,
    /// Entries covered by the newest head whose root is right.
    covered: u64,
    /// Later roots follow from the first wrong one and are counted, not listed.
    root_failed: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(ring: &'a Keyring, expected: Option<&'a Expected>, report: &'a mut Report) -> Self {
        let prev = ring.origin.as_deref().map(genesis_prev);
        Self {
            ring,
            expected,
            report,
            next: 0,
            prev,
            frontier: Frontier::default(),
            whole: true,
            heads: VecDeque::new(),
            last_head: None,
            covered: 0,
            root_failed: false,
        }
    }

    /// The largest size a head can have that this chunk lets us check.
    pub(super) fn reach(&self, chunk: &[RawEntry]) -> u64 {
        let claimed = chunk.iter().filter_map(|raw| raw.seq).max().unwrap_or_default();
        claimed.saturating_add(1).max(self.next.saturating_add(chunk.len() as u64))
    }

    /// Takes one examined chunk with the heads that fall into it.
    pub(super) fn chunk(
        &mut self,
        chunk: &[RawEntry],
        examined: Vec<Examined>,
        heads: Vec<RawHead>,
        opened: Vec<ExaminedHead>,
        source: &Source,
    ) -> Result<(), SourceError> {
        self.heads.extend(heads.into_iter().zip(opened));
        for (raw, examined) in chunk.iter().zip(examined) {
            self.entry(raw, examined, source)?;
            self.due_heads();
        }
        Ok(())
    }

    fn entry(&mut self, raw: &RawEntry, examined: Examined, source: &Source) -> Result<(), SourceError> {
        self.hole_before(raw);
        let at = self.next;
        self.report.entries += 1;
        for check in [Check::Signatures, Check::Chain, Check::Origin] {
            self.report.row(check).total += 1;
        }
        if !examined.canonical {
            self.report.lint(at, raw.spot.clone());
        }
        let mut keeps_place = true;
        match examined.facts {
            Err(finding) => self.bad(At::Entry(at), finding, &raw.spot),
            Ok(facts) => {
                self.report.row(Check::Signatures).done += 1;
                self.report.claimed(facts.claimed_at, facts.kind);
                match examined.foreign {
                    Some(finding) => self.bad(At::Entry(at), finding, &raw.spot),
                    None => self.report.row(Check::Origin).done += 1,
                }
                keeps_place = self.place(&facts, raw);
            }
        }
        if keeps_place { self.grow(raw, examined.leaf, source) } else { Ok(()) }
    }

    /// Notices entries the container itself leaves out, and jumps over them.
    fn hole_before(&mut self, raw: &RawEntry) {
        if let Some(claimed) = raw.seq.filter(|claimed| *claimed > self.next) {
            let expected = format!("entries {}..={}", self.next, claimed - 1);
            self.bad(At::Entry(self.next), Finding::new(Reason::Missing, expected, "none"), &raw.spot);
            self.jump(claimed);
        }
    }

    fn jump(&mut self, to: u64) {
        (self.next, self.prev, self.whole) = (to, None, false);
    }

    /// Checks index and chain of a signed statement; `false` if it stands where another entry belongs.
    fn place(&mut self, facts: &Facts, raw: &RawEntry) -> bool {
        let at = self.next;
        let claims_place = raw.seq.is_some_and(|claimed| claimed == at);
        if facts.seq != at {
            let finding = Finding::new(Reason::SeqMismatch, format!("seq {at}"), format!("seq {}", facts.seq));
            self.bad(At::Entry(at), finding, &raw.spot);
            if !claims_place && facts.seq > at {
                self.jump(facts.seq);
            }
            return claims_place || facts.seq > at;
        }
        if (facts.kind == EntryKind::Genesis) != (at == 0) {
            let expected = if at == 0 { "the genesis of the log" } else { "no second genesis" };
            let finding = Finding::new(Reason::ChainBreak, expected, format!("a {} entry", facts.kind));
            self.bad(At::Entry(at), finding, &raw.spot);
            return true;
        }
        match self.prev {
            Some(prev) if prev != facts.prev => {
                let (expected, actual) = (format!("prev {}", hex(&prev)), format!("prev {}", hex(&facts.prev)));
                self.bad(At::Entry(at), Finding::new(Reason::ChainBreak, expected, actual), &raw.spot);
            }
            Some(_) => self.report.row(Check::Chain).done += 1,
            None => {}
        }
        true
    }

    /// Adds the leaf and compares what the container stores beside it.
    fn grow(&mut self, raw: &RawEntry, leaf: Hash, source: &Source) -> Result<(), SourceError> {
        let at = self.next;
        if let Some(stored) = &raw.leaf {
            self.stored(At::Entry(at), Reason::LeafMismatch, "leaf hash", &leaf, Some(stored), &raw.spot);
        }
        let mut completed = Vec::new();
        self.frontier.push(leaf, |node| completed.push(node));
        if self.whole && source.container() == Container::Database {
            for node in completed.iter().filter(|node| node.level > 0) {
                self.node(at, node, source, &raw.spot)?;
            }
        }
        (self.next, self.prev) = (at.saturating_add(1), Some(leaf));
        Ok(())
    }

    fn node(&mut self, at: u64, node: &Node, source: &Source, spot: &Spot) -> Result<(), SourceError> {
        let stored = source.node(node)?;
        let what = format!("tree node {}/{}", node.level, node.index);
        self.stored(At::Entry(at), Reason::NodeMismatch, &what, &node.hash, stored.as_ref(), spot);
        Ok(())
    }

    fn stored(&mut self, at: At, reason: Reason, what: &str, made: &Hash, stored: Option<&Vec<u8>>, spot: &Spot) {
        let row = self.report.row(Check::Stored);
        row.total += 1;
        if stored.is_some_and(|stored| stored == made) {
            row.done += 1;
            return;
        }
        let actual = stored.map_or_else(|| "none stored".into(), |stored| format!("{what} {}", hex(stored)));
        self.bad(at, Finding::new(reason, format!("{what} {}", hex(made)), actual), spot);
    }

    /// Checks every waiting head that the entries walked so far can decide.
    fn due_heads(&mut self) {
        self.expected_head();
        while let Some((raw, opened)) = self.heads.pop_front_if(|(raw, _)| raw.size <= self.next) {
            self.head(raw, opened);
        }
    }

    fn head(&mut self, raw: RawHead, opened: ExaminedHead) {
        self.report.row(Check::Heads).total += 1;
        self.report.row(Check::HeadSignatures).total += 1;
        let at = At::Head(raw.size);
        let head = match opened {
            Ok(head) => head,
            Err(finding) => return self.bad(at, finding, &raw.spot),
        };
        self.report.row(Check::HeadSignatures).done += 1;
        if let Some((last, note)) = self.last_head.take_if(|(last, _)| last.size == head.size && last.root != head.root)
        {
            let finding = Finding::new(Reason::Fork, format!("root {}", hex(&last.root)), root_of(&head));
            self.bad(at, finding.with_notes([&note, &raw.note]), &raw.spot);
        }
        if head.size > self.next {
            let (expected, actual) = (format!("{} entries", head.size), format!("{} entries", self.next));
            self.bad(at, Finding::new(Reason::TailMissing, expected, actual), &raw.spot);
        } else if self.whole && head.root == self.frontier.root() {
            self.report.row(Check::Heads).done += 1;
            self.covered = head.size;
        } else if !std::mem::replace(&mut self.root_failed, true) {
            let finding = Finding::new(Reason::RootMismatch, root_of(&head), self.made_root());
            self.bad(at, finding, &raw.spot);
        }
        self.last_head = Some((head, raw.note));
    }

    fn made_root(&self) -> String {
        if self.whole {
            format!("root {} of the entries", hex(&self.frontier.root()))
        } else {
            "no root: entries before it are missing or out of place".into()
        }
    }

    /// Compares the head the auditor brought as soon as its size is reached.
    fn expected_head(&mut self) {
        let Some(expected) = self.expected.take_if(|expected| expected.head.size <= self.next) else { return };
        let row = self.report.row(Check::Expected);
        row.total = 1;
        if self.whole && expected.head.size == self.next && expected.head.root == self.frontier.root() {
            row.done = 1;
            if let Some(finding) = foreign_expected(expected, self.ring) {
                self.report.row(Check::Expected).done = 0;
                self.bad(At::Head(expected.head.size), finding, &outside());
            }
            return;
        }
        let reason = if signed(expected, &self.ring.head) { Reason::Fork } else { Reason::ExpectedHeadMismatch };
        let finding = Finding::new(reason, root_of(&expected.head), self.made_root());
        let ours = self.heads.front().filter(|(raw, _)| raw.size == expected.head.size).map(|(raw, _)| &raw.note);
        let finding = finding.with_notes(std::iter::once(&expected.note).chain(ours));
        self.bad(At::Head(expected.head.size), finding, &outside());
    }

    /// Settles what only the end of the input can decide.
    pub(super) fn finish(
        mut self,
        heads: Vec<RawHead>,
        opened: Vec<ExaminedHead>,
        source: &Source,
    ) -> Result<(), SourceError> {
        self.heads.extend(heads.into_iter().zip(opened));
        if let Some(end) = source.claimed_end().filter(|end| *end > self.next) {
            let expected = format!("entries {}..={}", self.next, end - 1);
            self.bad(At::Entry(self.next), Finding::new(Reason::Missing, expected, "none"), &outside());
        }
        self.due_heads();
        for (raw, opened) in std::mem::take(&mut self.heads) {
            self.head(raw, opened);
        }
        if let Some(expected) = self.expected.take() {
            self.report.row(Check::Expected).total = 1;
            let (wanted, found) = (format!("{} entries or more", expected.head.size), format!("{} entries", self.next));
            let finding = Finding::new(Reason::ExpectedHeadMismatch, wanted, found).with_notes([&expected.note]);
            self.bad(At::Head(expected.head.size), finding, &outside());
        }
        self.surplus_nodes(source)?;
        self.shortfalls();
        Ok(())
    }

    /// Nodes that no entry accounts for; a complete tree of n leaves has n - popcount(n) of them above the leaves.
    fn surplus_nodes(&mut self, source: &Source) -> Result<(), SourceError> {
        let size = self.frontier.size();
        let expected = size - u64::from(size.count_ones());
        let found = source.node_count()?;
        if self.whole && found > expected {
            let finding = Finding::new(Reason::NodeMismatch, format!("{expected} tree nodes"), format!("{found}"));
            self.bad(At::Entry(size.saturating_sub(1)), finding, &outside());
        }
        Ok(())
    }

    fn shortfalls(&mut self) {
        self.report.root = self.frontier.root();
        if self.report.entries == 0 {
            self.report.short(Shortfall::nothing());
        } else if self.covered < self.next && !self.root_failed {
            self.report.short(Shortfall::tail(self.covered, self.next));
        }
        if self.ring.pin == Pin::Log {
            self.report.short(Shortfall::unpinned());
        }
    }

    fn bad(&mut self, at: At, finding: Finding, spot: &Spot) {
        self.report.bad(at, finding, spot);
    }
}

fn root_of(head: &Checkpoint) -> String {
    format!("root {} of {} entries", hex(&head.root), head.size)
}

fn signed(expected: &Expected, keys: &[VerifierKey]) -> bool {
    Note::parse(&expected.note).and_then(|note| note.verify(keys)).is_ok()
}

/// Whether the head the auditor brought is of another log, or carries a false signature of this log's key.
fn foreign_expected(expected: &Expected, ring: &Keyring) -> Option<Finding> {
    let found = expected.head.origin.as_str();
    if let Some(origin) = ring.origin.as_deref().filter(|origin| *origin != found) {
        return Some(Finding::new(Reason::WrongOrigin, format!("origin {origin}"), format!("origin {found}")));
    }
    let verified = Note::parse(&expected.note).and_then(|note| note.verify(&ring.head));
    let error = verified.err().filter(|e| matches!(e, crate::crypto::note::NoteError::BadSignature(_)))?;
    Some(Finding::new(Reason::BadSignature, "the expected checkpoint to be signed", error.to_string()))
}

/// The place of what stands in no file of the input.
fn outside() -> Spot {
    Spot { file: "".into(), line: None }
}
