//! C2SP signed notes and the checkpoints they carry.
//!
//! A note is text, a blank line and signature lines. Signatures of keys we do not know are ignored; a failing signature
//! of a key we do know rejects the note (C2SP signed-note). A checkpoint is a note whose text has exactly three lines:
//! origin, size, root. Extension lines are refused, because nobody audits them.

use thiserror::Error;

use super::keys::{BadSignature, KeyId, KeyName, PrivateKey, SignatureType, VerifierKey};
use super::merkle::Hash;
use super::{Verified, base64, unbase64};

/// The longest note: a checkpoint with a hundred signature lines stays far below.
pub const MAX_NOTE: usize = 64 * 1024;
/// Signature lines one note may carry.
pub const MAX_SIGNATURES: usize = 100;

/// Why a note or checkpoint is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoteError {
    /// Not the form of a signed note.
    #[error("not a signed note: {0}")]
    Malformed(&'static str),
    /// The text is not a checkpoint of three lines.
    #[error("not a checkpoint: {0}")]
    NotCheckpoint(&'static str),
    /// A key we know did not make the signature under its name.
    #[error("signature of known key {0} does not verify")]
    BadSignature(String),
    /// No key we know signed.
    #[error("no signature by a known key")]
    Unsigned,
}

/// One signature line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    /// Who claims to have signed.
    pub name: KeyName,
    /// Which key, as a hint.
    pub id: KeyId,
    /// What follows the key id; its meaning depends on the key's type.
    pub body: Vec<u8>,
}

/// A note as read; nothing in it is trusted until [`Note::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    /// The signature lines in their order.
    pub signatures: Vec<NoteSignature>,
}

impl Note {
    /// Reads a note of at most [`MAX_NOTE`] bytes and [`MAX_SIGNATURES`] signature lines.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > MAX_NOTE {
            return Err(NoteError::Malformed("longer than 64 KiB"));
        }
        let whole = std::str::from_utf8(bytes).map_err(|_| NoteError::Malformed("not utf-8"))?;
        if whole.contains(|c: char| c < ' ' && c != '\n') {
            return Err(NoteError::Malformed("a control character"));
        }
        let (text, lines) = whole.rsplit_once("\n\n").ok_or(NoteError::Malformed("no blank line"))?;
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Malformed("no line end at the end"))?;
        let signatures = lines.split('\n').map(signature_line).collect::<Result<Vec<_>, _>>()?;
        if signatures.len() > MAX_SIGNATURES {
            return Err(NoteError::Malformed("more than 100 signatures"));
        }
        Ok(Self { text: format!("{text}\n"), signatures })
    }

    /// The signed text, its last line end included.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text, if some known key signed it and every line of a known key holds.
    pub fn verify(self, keys: &[VerifierKey]) -> Result<Verified<String>, NoteError> {
        let mut signer = None;
        for line in &self.signatures {
            for key in keys.iter().filter(|key| key.id() == line.id && key.name == line.name) {
                line.check(key, &self.text).map_err(|_| NoteError::BadSignature(key.to_string()))?;
                signer = signer.or(Some(key.key));
            }
        }
        signer.map(|key| Verified::new(self.text, key)).ok_or(NoteError::Unsigned)
    }
}

impl NoteSignature {
    /// Checks the line by the rule of the key's signature type.
    fn check(&self, key: &VerifierKey, text: &str) -> Result<(), BadSignature> {
        match key.kind {
            SignatureType::Ed25519 => {
                let sig = self.body.as_slice().try_into().map_err(|_| BadSignature)?;
                key.key.verify(text.as_bytes(), sig)
            }
            SignatureType::CosignatureV1 => {
                let (time, sig) = self.body.split_first_chunk::<8>().ok_or(BadSignature)?;
                let sig = sig.try_into().map_err(|_| BadSignature)?;
                let message = format!("cosignature/v1\ntime {}\n{text}", u64::from_be_bytes(*time));
                key.key.verify(message.as_bytes(), sig)
            }
        }
    }
}

fn signature_line(line: &str) -> Result<NoteSignature, NoteError> {
    let bad = NoteError::Malformed("a signature line that is not `— name base64`");
    let (name, blob) = line.strip_prefix("— ").and_then(|rest| rest.split_once(' ')).ok_or(bad.clone())?;
    let name = name.parse().map_err(|_| bad.clone())?;
    // The spec knows one alphabet and one form: a line that reads the same with another byte would be another note.
    let blob = unbase64(blob).filter(|bytes| base64(bytes) == blob).ok_or(bad.clone())?;
    let (id, body) = blob.split_first_chunk::<4>().filter(|(_, body)| !body.is_empty()).ok_or(bad)?;
    Ok(NoteSignature { name, id: KeyId(*id), body: body.to_vec() })
}

/// Signs note text (which must end in a line end) with a plain Ed25519 key.
pub fn sign(text: &str, name: &KeyName, key: &PrivateKey) -> String {
    let id = VerifierKey::ed25519(name.clone(), key.public()).id();
    let blob = [id.0.as_slice(), &key.sign(text.as_bytes())].concat();
    format!("{text}\n— {name} {}\n", base64(&blob))
}

/// A witness's line for a note: it has seen this text at this time, in whole seconds of the epoch (C2SP `cosignature/v1`).
///
/// Whoever calls it answers for what a cosignature says: that this head extends every head cosigned before it.
pub fn cosignature(text: &str, seconds: u64, witness: &VerifierKey, key: &PrivateKey) -> String {
    let message = format!("cosignature/v1\ntime {seconds}\n{text}");
    let blob = [witness.id().0.as_slice(), &seconds.to_be_bytes(), &key.sign(message.as_bytes())].concat();
    format!("— {} {}\n", witness.name, base64(&blob))
}

/// The head of a log: this many entries have this root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: KeyName,
    /// Entries covered.
    pub size: u64,
    /// RFC 6962 root.
    pub root: Hash,
}

impl Checkpoint {
    /// Reads the three lines of a checkpoint.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root), Some(""), None) =
            (lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(NoteError::NotCheckpoint("expected exactly origin, size and root"));
        };
        let origin = origin.parse().map_err(|_| NoteError::NotCheckpoint("the origin cannot name a log"))?;
        let number = size.parse::<u64>().ok().filter(|n| n.to_string() == size);
        let size = number.ok_or(NoteError::NotCheckpoint("the size is not a plain decimal number"))?;
        let root = unbase64(root).filter(|bytes| base64(bytes) == root).and_then(|bytes| bytes.try_into().ok());
        Ok(Self { origin, size, root: root.ok_or(NoteError::NotCheckpoint("the root is not 32 bytes of base64"))? })
    }

    /// The three lines.
    pub fn to_text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, base64(&self.root))
    }

    /// The signed note, under the origin as key name.
    pub fn sign(&self, key: &PrivateKey) -> String {
        sign(&self.to_text(), &self.origin, key)
    }

    /// Reads a signed checkpoint and verifies it under one of the keys.
    pub fn open(note: &[u8], keys: &[VerifierKey]) -> Result<Verified<Self>, NoteError> {
        let text = Note::parse(note)?.verify(keys)?;
        Ok(Verified::new(Self::parse(text.get())?, *text.signer()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> (VerifierKey, Checkpoint, String) {
        let key = PrivateKey::from_seed(&[7; 32]);
        let checkpoint = Checkpoint { origin: "malachor.example/log".parse().unwrap(), size: 12, root: [9; 32] };
        let note = checkpoint.sign(&key);
        (VerifierKey::ed25519(checkpoint.origin.clone(), key.public()), checkpoint, note)
    }

    #[test]
    fn a_checkpoint_goes_round() {
        let (key, checkpoint, note) = signed();
        let opened = Checkpoint::open(note.as_bytes(), std::slice::from_ref(&key)).unwrap();
        assert_eq!((opened.get(), opened.signer()), (&checkpoint, &key.key));
    }

    #[test]
    fn unknown_signatures_are_ignored_and_a_failing_known_one_rejects() {
        let (key, _, note) = signed();
        let keys = std::slice::from_ref(&key);
        let stranger = "— witness.example/w zzzzzzzzzzzzzzzz\n";
        assert!(Checkpoint::open(format!("{note}{stranger}").as_bytes(), keys).is_ok());
        assert_eq!(Checkpoint::open(note.as_bytes(), &[]), Err(NoteError::Unsigned));
        let other = sign("x\n", &key.name, &PrivateKey::from_seed(&[7; 32]));
        let stale = other.lines().last().unwrap();
        let mixed = format!("{note}{stale}\n");
        assert!(matches!(Checkpoint::open(mixed.as_bytes(), keys), Err(NoteError::BadSignature(_))));
    }

    #[test]
    fn a_checkpoint_has_three_plain_lines() {
        let root = base64(&[9; 32]);
        for bad in [
            format!("o\n1\n{root}\nextension\n"),
            format!("o\n1\n{root}"),
            format!("o\n01\n{root}\n"),
            format!("o\n+1\n{root}\n"),
            format!("o\n-1\n{root}\n"),
            format!("o\n99999999999999999999\n{root}\n"),
            format!("o o\n1\n{root}\n"),
            format!("\n1\n{root}\n"),
            "o\n1\nAAAA\n".into(),
            "o\n1\n".into(),
            String::new(),
        ] {
            assert!(Checkpoint::parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hostile_notes_are_refused() {
        let (_, _, note) = signed();
        let many = note.clone() + &"— a zzzzzzzzzzzz\n".repeat(MAX_SIGNATURES);
        for bad in ["", "\n", "x\n\n", "x\n\n— a\n", "x\n\n- a zzzzzzzzzzzz\n", &note[..note.len() - 1], &many] {
            assert!(Note::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Note::parse(note.replace("12", "1\t2").as_bytes()).is_err());
        assert!(Note::parse(&vec![b'x'; MAX_NOTE + 1]).is_err());
    }
}
