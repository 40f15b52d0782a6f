//! Signatures, canonical bytes and Merkle trees: everything that lets a stranger check what we say.
//!
//! The formats are public ones, written by hand because each is small and no library offers exactly the strict subset:
//! DSSE ([`dsse`]), RFC 8785 ([`jcs`]) over a tight JSON subset ([`json`]), C2SP signed notes and checkpoints
//! ([`note`]), RFC 6962 trees with RFC 9162 proofs ([`merkle`]), Ed25519 keys in the files OpenSSL writes ([`keys`]).
//!
//! One rule decides what a valid signature is: ed25519-dalek's `verify_strict`. Whatever it accepts, every other common
//! library accepts too, so "Malachor says valid" never meets "openssl says invalid".

pub mod dsse;
pub mod jcs;
pub mod json;
pub mod keys;
pub mod merkle;
pub mod note;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use keys::PublicKey;

/// A value whose exact bytes were covered by a signature that verified; only this module makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    signer: PublicKey,
}

impl<T> Verified<T> {
    const fn new(value: T, signer: PublicKey) -> Self {
        Self { value, signer }
    }

    /// The value the signature covers.
    pub const fn get(&self) -> &T {
        &self.value
    }

    /// The key whose signature verified.
    pub const fn signer(&self) -> &PublicKey {
        &self.signer
    }

    /// Takes the value out; the trust does not travel with it.
    pub fn into_inner(self) -> T {
        self.value
    }
}

/// The SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    out
}

/// The SHA-256 of some bytes in lower-case hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&sha256(bytes))
}

/// Bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibble = |n: u8| char::from(DIGITS.get(usize::from(n)).copied().unwrap_or_default());
    bytes.iter().flat_map(|b| [nibble(b >> 4), nibble(b & 15)]).collect()
}

/// Reads exactly `N` bytes from lower-case hexadecimal; `None` for any other text.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let nibble = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    if pairs.len() != N {
        return None;
    }
    let mut out = [0; N];
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(out)
}

/// Standard base64 with padding, the only alphabet we write.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Reads padded base64 in the standard or the URL-safe alphabet, as DSSE asks of a reader.
pub fn unbase64(text: &str) -> Option<Vec<u8>> {
    let engine = if text.bytes().any(|c| c == b'-' || c == b'_') { &URL_SAFE } else { &STANDARD };
    engine.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_lower_case_and_exact() {
        assert_eq!(hex(&[0, 0x9f, 0xff]), "009fff");
        assert_eq!(unhex("009fff"), Some([0, 0x9f, 0xff]));
        for bad in ["009FFF", "009ff", "009fff0", "009fff00", "zz9fff", ""] {
            assert_eq!(unhex::<3>(bad), None, "{bad}");
        }
    }

    #[test]
    fn both_alphabets_are_read_and_one_is_written() {
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
        assert_eq!(unbase64("+/8=").as_deref(), Some(&[0xfb, 0xff][..]));
        assert_eq!(unbase64("-_8=").as_deref(), Some(&[0xfb, 0xff][..]));
        for bad in ["+_8=", "+/8", "+/9=", "+/8=\n", " +/8="] {
            assert_eq!(unbase64(bad), None, "{bad}");
        }
    }
}
