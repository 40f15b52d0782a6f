//! Structures an operator needs, which no rule that goes by shape may touch.

use std::ops::Range;
use std::sync::LazyLock;

use regex::bytes::Regex;

use super::rules::compile;

/// Tags that already stand in the text. Nothing may touch one, or a second pass would change the first.
static TAGS: LazyLock<Regex> = LazyLock::new(|| compile(r"\[(?:[A-Z]{2,8}#[a-z2-7]{4}|DROPPED#[0-9]{1,8})\]"));

/// Each alternative is one structure; the order matters where one is the beginning of another.
static SAFE: LazyLock<Regex> = LazyLock::new(|| {
    compile(&format!(
        "(?:{})",
        [
            // RFC 3339, ISO 8601 and log4j timestamps
            r"\b\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?(?:Z|[+-]\d{2}:?\d{2})?",
            // Windows and Apache timestamps, and syslog's
            r"\b\d{1,2}/\d{1,2}/\d{4},? \d{1,2}:\d{2}(?::\d{2})?(?: [AP]M)?",
            r"\b\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2}(?: [+-]\d{4})?",
            r"\b[A-Z][a-z]{2} [ \d]\d(?: \d{4})? \d{2}:\d{2}:\d{2}",
            r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? \d{1,2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}",
            // GUID, SID, digest
            r"\b[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}\b",
            r"\bS-1-\d+(?:-\d+)+",
            r"\b[0-9a-f]{32,128}\b",
            r"\bSHA(?:1|256|512):[A-Za-z0-9+/=]{20,}",
            r"\b0x[0-9A-Fa-f]+\b",
            // citations, advisories, updates, runbooks
            r"\b1[0-9]{2}\.\d{3}(?:\([A-Za-z0-9]{1,4}\))+",
            r"\b(?:CVE|GHSA|RHSA|DSA|USN)-[0-9A-Za-z-]+",
            r"\bKB\d{6,7}\b",
            r"\bRB-[A-Z]+(?:-[A-Z]+)*-\d{3}\b",
            r"\bSP ?800-\d+[A-Z]?",
            // units of systemd, algorithms of SSH
            r"[A-Za-z0-9:_.\\@-]+\.(?:service|socket|timer|mount|automount|target|slice|scope|path|device|swap)\b",
            r"[a-z0-9-]+@(?:openssh\.com|libssh\.org)\b",
            // versions of four or more parts that no address has, and kernel names
            r"\b\d+\.\d+\.\d{4,}(?:\.\d+)*",
            // hardware addresses and IPv6
            r"\b(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b",
        ]
        .join("|")
    ))
});

/// Where tags stand in `line`.
pub(super) fn tags(line: &str) -> Vec<Range<usize>> {
    TAGS.find_iter(line.as_bytes()).map(|found| found.range()).collect()
}

/// Where structures stand that a rule by shape must leave alone.
pub(super) fn structures(line: &str) -> Vec<Range<usize>> {
    SAFE.find_iter(line.as_bytes()).map(|found| found.range()).collect()
}

/// Whether `range` shares a byte with one of `kept`.
pub(super) fn touches(kept: &[Range<usize>], range: &Range<usize>) -> bool {
    kept.iter().any(|keep| keep.start < range.end && range.start < keep.end)
}
