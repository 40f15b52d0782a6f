//! The lines of `authorized_keys`, sshd(8).

use crate::crypto::{base64, sha256, sha256_hex, unbase64};

/// Characters of a key's options that are kept.
const OPTIONS_CAP: usize = 200;

/// The lines that say something.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// As `ssh-keygen -l` writes it; of a line that is no key the digest of its text.
    pub(super) fingerprint: String,
    /// Type and options.
    pub(super) what: String,
    /// It is a key.
    pub(super) opens: bool,
    /// It opens less than a shell, or not from everywhere, or not for ever.
    pub(super) limited: bool,
}

impl Line {
    /// The fingerprint of a line of `authorized_keys`, as `ssh-keygen -l` writes it, and its type and options.
    ///
    /// A line that is no key is told apart by the digest of its text: it opens nothing, but its coming is a change.
    pub(super) fn read(line: &str) -> Self {
        let words = words(line);
        let kinds = words.windows(2).enumerate().find_map(|(at, pair)| {
            let [kind, blob] = pair else { return None };
            let bytes = unbase64(blob).filter(|_| is_kind(kind))?;
            // The blob repeats its type, RFC 4253 section 6.6.
            let length = u32::try_from(kind.len()).ok()?.to_be_bytes();
            bytes.strip_prefix(&length)?.starts_with(kind.as_bytes()).then_some((at, *kind, bytes))
        });
        match kinds {
            Some((at, kind, bytes)) => {
                let fingerprint = base64(&sha256(&bytes));
                let options = words.get(..at).unwrap_or_default().join(" ");
                let limited = is_limited(&options);
                let options: String = options.chars().take(OPTIONS_CAP).collect();
                let fingerprint = format!("SHA256:{}", fingerprint.trim_end_matches('='));
                Self { fingerprint, what: format!("{kind} {options}").trim_end().to_owned(), opens: true, limited }
            }
            None => Self {
                fingerprint: format!("line {}", sha256_hex(line.as_bytes())),
                what: "not a key".to_owned(),
                opens: false,
                limited: false,
            },
        }
    }
}

fn is_kind(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| word.starts_with(prefix))
}

/// Options of sshd(8) that keep a key from being a way in for its owner.
const LIMITS: &[&str] = &["command", "from", "restrict", "no-pty", "expiry-time", "cert-authority"];

fn is_limited(options: &str) -> bool {
    let names = unquoted(options, &[',']).into_iter().map(|option| option.split('=').next().unwrap_or_default().trim());
    names.into_iter().any(|name| LIMITS.iter().any(|limit| name.eq_ignore_ascii_case(limit)))
}

/// Words apart by blanks; a quoted part stays together.
fn words(line: &str) -> Vec<&str> {
    unquoted(line, &[' ', '\t'])
}

fn unquoted<'a>(text: &'a str, apart: &[char]) -> Vec<&'a str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(|c: char| {
        let quote = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        quoted ^= quote;
        !quoted && apart.contains(&c)
    })
    .filter(|word| !word.is_empty())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made for this test; the fingerprint is what `ssh-keygen -l` says of it.
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    #[test]
    fn keys_are_named_by_fingerprint_whatever_stands_before_them() {
        let plain = Line::read(&format!("{KEY} anna@desk"));
        assert_eq!(
            (plain.fingerprint.as_str(), plain.what.as_str()),
            ("SHA256:ZkAslGjFiUHdGf/WUL8rQvkib4PTvQatUV0OUQSncCA", "ssh-ed25519")
        );
        let limited = Line::read(&format!("from=\"10.0.0.1\",command=\"run ssh-rsa AAAA\" {KEY}"));
        assert_eq!(limited.fingerprint, plain.fingerprint);
        assert!(limited.what.starts_with("ssh-ed25519 from="));
        let is_limited = |options: &str| Line::read(&format!("{options} {KEY}")).limited;
        assert!(!is_limited("no-agent-forwarding,environment=\"X=a,command=b\"") && !plain.limited);
        for options in ["from=\"10.0.0.1\"", "restrict,pty", "no-X11-forwarding,Command=\"x, y\"", "no-pty"] {
            assert!(is_limited(options), "{options}");
        }
        for odd in ["ssh-rsa", "ssh-ed25519 AAAA", "ssh-ed25519 %%%", "\"", "ecdsa- ", &"x ".repeat(10_000)] {
            let line = Line::read(odd);
            assert!(!line.opens && line.fingerprint.starts_with("line "), "{odd}");
        }
    }
}
