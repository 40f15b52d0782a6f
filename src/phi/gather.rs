//! Collects what every detector found in a line into spans that do not overlap.

use std::ops::Range;

use super::rules::{self, Trust};
use super::{Span, safe, segments};

/// Every identifier in `line`, in order, apart from each other, at character boundaries.
pub(super) fn spans(line: &str) -> Vec<Span> {
    let mut found = Vec::new();
    let look = rules::first_look(line);
    if look.is_clean() {
        return found;
    }
    let tags = safe::tags(line);
    let structures = safe::structures(line);
    let mut keep = |span: Span, trust: Trust| {
        if trust == Trust::Label || !safe::touches(&structures, &span.range) {
            found.extend(outside(&tags, &span));
        }
    };
    if look.segments {
        for span in segments::find(line) {
            keep(span, Trust::Label);
        }
    }
    for (span, trust) in rules::apply(line, &look) {
        keep(span, trust);
    }
    if found.iter().any(|span| span.kind.is_proof()) {
        for span in rules::company(line) {
            if !safe::touches(&structures, &span.range) {
                found.extend(outside(&tags, &span));
            }
        }
    }
    merge(line, found)
}

/// The parts of `span` that are not yet tags and hold a letter or digit.
fn outside(tags: &[Range<usize>], span: &Span) -> Vec<Span> {
    let mut parts = Vec::new();
    let mut at = span.range.start;
    for tag in tags.iter().filter(|tag| tag.start < span.range.end && span.range.start < tag.end) {
        parts.push(at..tag.start.max(at));
        at = tag.end;
    }
    parts.push(at..span.range.end.max(at));
    parts.into_iter().filter(|range| !range.is_empty()).map(|range| Span { kind: span.kind, range }).collect()
}

/// Joins spans that overlap; the one that starts first, or else the longer, names the whole.
fn merge(line: &str, mut found: Vec<Span>) -> Vec<Span> {
    for span in &mut found {
        span.range = line.floor_char_boundary(span.range.start)..line.ceil_char_boundary(span.range.end);
    }
    found.retain(|span| line.get(span.range.clone()).is_some_and(|text| text.chars().any(char::is_alphanumeric)));
    found.sort_by(|a, b| (a.range.start, b.range.end, a.kind).cmp(&(b.range.start, a.range.end, b.kind)));
    let mut merged: Vec<Span> = Vec::new();
    for span in found {
        match merged.last_mut() {
            Some(last) if span.range.start < last.range.end => last.range.end = last.range.end.max(span.range.end),
            _ => merged.push(span),
        }
    }
    merged
}
