//! The stable fingerprint of a drift: what went wrong, not where or when.

use super::finding::{Finding, Verdict};
use super::id::PatternSignature;
use super::runbook::Platform;

/// Longest part of a sentence that counts.
const CUT: usize = 200;

/// The text a drift's signature is the hash of: check, platform, and per failing reason its word and masked sentence.
///
/// No host name, number, address, time or identifier survives [`normalise`], so the same trouble on two machines has
/// one signature.
pub fn signature_text(finding: &Finding, platform: Platform) -> String {
    let mut lines: Vec<String> = finding
        .reasons
        .iter()
        .filter(|reason| reason.verdict == Verdict::Fail)
        .map(|reason| format!("{} {}", reason.word, normalise(&reason.say)))
        .collect();
    lines.sort();
    lines.dedup();
    format!("malachor/signature/v1\n{}\n{}\n{}\n", finding.check, platform.word(), lines.join("\n"))
}

/// The first 128 bits of a SHA-256 as a signature.
pub fn from_sha256(hex: &str) -> Option<PatternSignature> {
    hex.get(..32)?.parse().ok()
}

/// Masks everything that names a machine, a moment or a value: each run of characters that holds a digit becomes `#`.
pub fn normalise(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut word = String::new();
    for c in text.chars().chain(std::iter::once(' ')) {
        if c.is_alphanumeric() || matches!(c, '.' | ':' | '-' | '_' | '/' | '#') {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            masked.push_str(if word.chars().any(|c| c.is_ascii_digit() || c == '#') { "#" } else { &word });
            word.clear();
        }
        if !c.is_whitespace() {
            masked.push(c);
        } else if !masked.is_empty() && !masked.ends_with(' ') {
            masked.push(' ');
        }
    }
    masked.trim_end().to_lowercase().chars().take(CUT).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_masked_and_words_stay() {
        assert_eq!(normalise("Backup is 52 h old (limit 48 h)"), "backup is # h old (limit # h)");
        assert_eq!(
            normalise("rsyslog.service is down on 10.0.0.5 since 2026-01-02T03:04:05Z"),
            "rsyslog.service is down on # since #"
        );
        assert_eq!(normalise("Nearly full: /, /var"), "nearly full: /, /var");
    }

    proptest! {
        #[test]
        fn normalising_is_idempotent_and_leaves_no_digit(text in "\\PC{0,300}") {
            let once = normalise(&text);
            prop_assert!(!once.chars().any(|c| c.is_ascii_digit()));
            prop_assert!(once.chars().count() <= CUT);
            prop_assert_eq!(normalise(&once), once);
        }

        #[test]
        fn numbers_do_not_matter(a in 0u64..1_000_000, b in 0u64..1_000_000) {
            prop_assert_eq!(normalise(&format!("{a} units failed at 10:{a}")), normalise(&format!("{b} units failed at 10:{b}")));
        }
    }
}
