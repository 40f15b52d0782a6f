//! The only door out: nothing leaves the machine unless it is a [`Scrubbed`] value, and only this module makes one.
//!
//! Entries, log lines, prompts, tickets and uploads take `Scrubbed<T>` in their signatures, so forgetting to scrub
//! does not compile. Order of events for evidence: scrub, freeze the bytes, sign, store, never touch again.
//!
//! An identifier becomes a tag such as `[SSN#k7f2]`: its kind and four characters of a keyed MAC, so that two
//! mentions of one person can be matched without telling who. What an operator needs stays readable: timestamps,
//! process ids, versions, GUIDs, hashes, private addresses, unit names, citations.
//!
//! How a line is read: rules with a label or a checksum of their own find *proofs*; segments of HL7, X12 and DICOM are
//! read by field; and a line that holds a proof is read again for shapes that mean a person only in such company
//! (`Doe, Jane`, a date, a public address). Structures known to be safe are never touched by a rule that goes by shape.

mod entry;
mod fields;
mod gather;
mod json;
mod kind;
mod names;
mod patterns;
mod rules;
mod safe;
mod segments;
mod tag;
mod valid;

#[cfg(test)]
mod tests;

use std::ops::Range;

use kind::Kind;
use tag::Tagger;

/// The longest text that is read; a longer one is dropped whole and only its length is kept.
pub const MAX_TEXT: usize = 64 * 1024;

/// How often a text may be read again before it is dropped: each round reads what the round before left.
const MAX_ROUNDS: usize = 6;

/// A value that went through the scrubber. It cannot be built anywhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrubbed<T>(T);

impl<T> Scrubbed<T> {
    /// The scrubbed value.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// Takes the scrubbed value out, for the last step before it is written or sent.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// A type whose free text the scrubber knows how to reach.
pub trait Scrub: Sized {
    /// Replaces every identifier found in the text this value carries.
    #[must_use]
    fn scrub(self, scrubber: &Scrubber) -> Self;
}

impl Scrub for String {
    fn scrub(self, scrubber: &Scrubber) -> Self {
        scrubber.text(&self)
    }
}

impl<T: Scrub> Scrub for Vec<T> {
    fn scrub(self, scrubber: &Scrubber) -> Self {
        self.into_iter().map(|item| item.scrub(scrubber)).collect()
    }
}

impl<T: Scrub> Scrub for Option<T> {
    fn scrub(self, scrubber: &Scrubber) -> Self {
        self.map(|item| item.scrub(scrubber))
    }
}

/// One identifier found in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    kind: Kind,
    range: Range<usize>,
}

/// The detectors and the key of the tags.
#[derive(Debug)]
pub struct Scrubber {
    tagger: Tagger,
}

impl Scrubber {
    /// A scrubber whose tags can be compared wherever the same key is used; one key per site and day is meant.
    pub fn new(key: [u8; 32]) -> Self {
        Self { tagger: Tagger::new(key) }
    }

    /// A scrubber for one run without a site key: `random` must be fresh, and its tags mean nothing afterwards.
    pub fn ephemeral(random: [u8; 32]) -> Self {
        Self::new(random)
    }

    /// Scrubs a value and marks it as such.
    pub fn scrub<T: Scrub>(&self, value: T) -> Scrubbed<T> {
        Scrubbed(value.scrub(self))
    }

    /// Replaces every identifier found in `text`.
    ///
    /// A second pass changes nothing; a JSON object, array or string stays valid JSON. Text longer than
    /// [`MAX_TEXT`], before or after, becomes `[DROPPED#len]`.
    pub fn text(&self, text: &str) -> String {
        if tag::is_dropped(text) {
            return text.to_owned();
        }
        if text.len() > MAX_TEXT {
            return tag::dropped(text.len());
        }
        let mut current = text.to_owned();
        for _ in 0..MAX_ROUNDS {
            let Some(next) = self.round(&current) else { return current };
            if next.len() > MAX_TEXT {
                break;
            }
            current = next;
        }
        tag::dropped(text.len())
    }

    /// One pass over the text, as JSON or line by line; `None` when nothing was found.
    fn round(&self, text: &str) -> Option<String> {
        if let Some(scrubbed) = self.json(text) {
            return Some(scrubbed);
        }
        let mut out = String::new();
        let mut changed = false;
        for line in text.split_inclusive(['\n', '\r']) {
            let whole = line.len() == text.len();
            let as_json = if whole { None } else { self.json(line) };
            match as_json.or_else(|| self.line(line)) {
                Some(scrubbed) => {
                    changed = true;
                    out.push_str(&scrubbed);
                }
                None => out.push_str(line),
            }
        }
        changed.then(|| keep_json(text, out))
    }

    /// The JSON that the text is or ends with, each member read by its name; `None` when nothing was found in it.
    fn json(&self, text: &str) -> Option<String> {
        let whole = text.trim_start().starts_with(['{', '[']);
        let start = if whole { text.len() - text.trim_start().len() } else { text.find("{\"")? };
        let (before, rest) = text.split_at_checked(start)?;
        let (body, after) = rest.split_at_checked(rest.trim_end().len())?;
        let value: serde_json::Value = serde_json::from_str(body).ok()?;
        let scrubbed = value.clone().scrub(self);
        (scrubbed != value).then(|| format!("{before}{scrubbed}{after}"))
    }

    /// One pass over one line; `None` when nothing was found.
    fn line(&self, line: &str) -> Option<String> {
        let spans = gather::spans(line);
        if spans.is_empty() {
            return None;
        }
        let mut out = String::with_capacity(line.len());
        let mut at = 0;
        for span in spans {
            out.push_str(line.get(at..span.range.start)?);
            out.push_str(&self.tagger.tag(span.kind, line.get(span.range.clone())?));
            at = span.range.end;
        }
        out.push_str(line.get(at..)?);
        Some(keep_json(line, out))
    }

    fn tag(&self, kind: Kind, value: &str) -> String {
        self.tagger.tag(kind, value)
    }
}

/// `after`; but where tags broke the JSON that `before` was, nothing of it can be kept.
fn keep_json(before: &str, after: String) -> String {
    if !before.trim_start().starts_with(['{', '[', '"']) || !json::is_valid(before) || json::is_valid(&after) {
        return after;
    }
    serde_json::Value::String(tag::dropped(before.len())).to_string()
}
