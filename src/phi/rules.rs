//! Runs the rules: one cheap look at the line, then the judges of the rules that matched.

use std::ops::Range;
use std::sync::LazyLock;

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use super::patterns::{self, Rule};
use super::{Kind, Span, names, segments};

/// How a hit came about, which decides what may overrule it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// A label in the text says what the value is; it holds even for a GUID.
    Label,
    /// The shape says it; a structure known to be safe overrules it.
    Shape,
}

/// One hit of a pattern: the group `v`, and where there is one the label in group `k`.
pub(super) struct Hit<'a> {
    pub(super) line: &'a str,
    pub(super) label: &'a str,
    pub(super) range: Range<usize>,
}

impl<'a> Hit<'a> {
    pub(super) fn text(&self) -> &'a str {
        self.line.get(self.range.clone()).unwrap_or_default()
    }

    pub(super) fn before(&self) -> &'a str {
        self.line.get(..self.range.start).unwrap_or_default()
    }

    pub(super) fn after(&self) -> &'a str {
        self.line.get(self.range.end..).unwrap_or_default()
    }

    pub(super) fn is(&self, kind: Kind, sure: bool) -> Option<Span> {
        sure.then(|| Span { kind, range: self.range.clone() })
    }

    pub(super) fn part(&self, kind: Kind, part: Option<Range<usize>>) -> Option<Span> {
        part.map(|part| Span { kind, range: self.range.start + part.start..self.range.start + part.end })
    }

    /// Whether the number stands alone: no digit, and no joint to another number, on either side.
    pub(super) fn alone(&self) -> bool {
        let joint = |c: char| matches!(c, '-' | '.' | '_' | '+' | ':');
        let mut before = self.before().chars().rev();
        let mut after = self.after().chars();
        let left = before.next().is_none_or(|c| !joint(c) || !before.next().is_some_and(|c| c.is_ascii_alphanumeric()));
        left && after.next().is_none_or(|c| !joint(c) || !after.next().is_some_and(|c| c.is_ascii_alphanumeric()))
    }

    /// Whether the word before says that this is the number of a thing.
    pub(super) fn of_a_thing(&self) -> bool {
        const THINGS: &[&str] = &[
            "ticket", "part", "sku", "order", "invoice", "nist", "sp", "po", "model", "build", "version", "rev",
            "release", "case", "article", "firmware", "uptime", "port", "pid", "serial", "asset", "files", "rfc",
        ];
        let word = self.before().trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let word = word.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        THINGS.iter().any(|thing| thing.eq_ignore_ascii_case(word))
    }
}

/// Says what a hit is, if it is an identifier.
pub(super) type Judge = fn(&Hit) -> Option<Span>;

struct Rules {
    first: RegexSet,
    each: Vec<Rule>,
}

/// What the first look at a line saw.
#[derive(Debug)]
pub(super) struct Look {
    /// The rules whose pattern matches somewhere, by number.
    rules: Vec<usize>,
    /// Whether a segment of HL7, X12 or DICOM begins here.
    pub(super) segments: bool,
}

impl Look {
    /// Whether there is nothing to look at again.
    pub(super) fn is_clean(&self) -> bool {
        self.rules.is_empty() && !self.segments
    }
}

static COMPANY: LazyLock<Vec<Rule>> = LazyLock::new(patterns::company);

/// The set is compiled at the first line, a rule at its first hit: a program that starts does not wait for all.
static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let each = patterns::table();
    let patterns = each.iter().map(|rule| rule.pattern.as_str()).chain([segments::BEGINNING]);
    Rules { first: compile_set(patterns), each }
});

/// Which rules may have something to say about `line`; this is all that a clean line costs.
pub(super) fn first_look(line: &str) -> Look {
    let segment = RULES.each.len();
    let mut rules: Vec<usize> = RULES.first.matches(line.as_bytes()).into_iter().collect();
    let segments = rules.last() == Some(&segment);
    rules.retain(|rule| *rule != segment);
    Look { rules, segments }
}

/// Every hit of the rules a first look named.
pub(super) fn apply(line: &str, look: &Look) -> Vec<(Span, Trust)> {
    let mut found = Vec::new();
    for rule in look.rules.iter().filter_map(|rule| RULES.each.get(*rule)) {
        found.extend(judged(line, rule).map(|span| (span, rule.trust)));
    }
    found
}

/// What is an identifier in a line that holds a proof.
pub(super) fn company(line: &str) -> Vec<Span> {
    let mut found: Vec<Span> = COMPANY.iter().flat_map(|rule| judged(line, rule)).collect();
    found.extend(names::in_company(line).into_iter().map(|range| Span { kind: Kind::Name, range }));
    found
}

fn judged<'a>(line: &'a str, rule: &'a Rule) -> impl Iterator<Item = Span> {
    rule.regex().captures_iter(line.as_bytes()).filter_map(move |captures| {
        let value = captures.name("v")?;
        let label = captures.name("k").and_then(|label| line.get(label.range())).unwrap_or_default();
        let range = line.floor_char_boundary(value.start())..line.ceil_char_boundary(value.end());
        (rule.judge)(&Hit { line, label, range })
    })
}

/// Compiles a pattern over bytes: `\w`, `\b` and classes mean ASCII.
#[expect(clippy::expect_used, reason = "the patterns are constants and a test compiles every one")]
pub(super) fn compile(pattern: &str) -> Regex {
    RegexBuilder::new(pattern).unicode(false).build().expect("a constant pattern compiles")
}

#[expect(clippy::expect_used, reason = "the patterns are constants and a test compiles every one")]
fn compile_set<'a>(patterns: impl Iterator<Item = &'a str>) -> RegexSet {
    RegexSetBuilder::new(patterns).unicode(false).build().expect("constant patterns compile")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles_and_names_its_value() {
        for rule in RULES.each.iter().chain(COMPANY.iter()) {
            assert!(rule.regex().capture_names().flatten().any(|name| name == "v"), "{}", rule.pattern);
        }
    }
}
