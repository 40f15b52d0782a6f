//! Tags: what stands where an identifier stood.

use ring::hmac;

use super::Kind;

/// The digits of a tag, five bits each.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Digits per tag: 20 bits tell the people of one practice apart and are too few to confirm a guess by.
const DIGITS: usize = 4;

/// Makes tags that are equal for equal identifiers under one key.
#[derive(Debug)]
pub(super) struct Tagger {
    key: hmac::Key,
}

impl Tagger {
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key) }
    }

    /// The tag of an identifier: `[SSN#k7f2]`. Letter case and punctuation do not change it.
    pub(super) fn tag(&self, kind: Kind, value: &str) -> String {
        let mut mac = hmac::Context::with_key(&self.key);
        mac.update(kind.word().as_bytes());
        mac.update(b"\0");
        for letter in value.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase) {
            mac.update(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
        let mac = mac.sign();
        let digits = mac.as_ref().iter().take(DIGITS).filter_map(|byte| BASE32.get(usize::from(byte % 32)));
        let mut tag = format!("[{}#", kind.word());
        tag.extend(digits.map(|digit| char::from(*digit)));
        tag.push(']');
        tag
    }
}

/// What replaces a text that cannot be read safely; the length is all that is kept of it.
pub(super) fn dropped(len: usize) -> String {
    format!("[DROPPED#{len}]")
}

/// Whether the whole text is what [`dropped`] makes.
pub(super) fn is_dropped(text: &str) -> bool {
    let digits = text.strip_prefix("[DROPPED#").and_then(|rest| rest.strip_suffix(']'));
    digits.is_some_and(|digits| !digits.is_empty() && digits.len() <= 8 && digits.bytes().all(|b| b.is_ascii_digit()))
}
