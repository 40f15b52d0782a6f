//! What the auditor brings: keys, and what is expected of the log.

use std::str::FromStr as _;

use serde_json::Value;

use crate::crypto::dsse::Envelope;
use crate::crypto::keys::{KeyError, KeyName, PublicKey, SignatureType, VerifierKey};
use crate::crypto::note::{Checkpoint, Note, NoteError};
use crate::store::log::Statement;

/// Everything that came from outside the evidence. Without a key in it nothing is ever fully verified.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    keys: Vec<TrustedKey>,
    pub(super) origin: Option<KeyName>,
    pub(super) checkpoint: Option<Expected>,
}

/// A key the auditor trusts; a verifier key also says what for.
#[derive(Debug, Clone)]
struct TrustedKey {
    key: PublicKey,
    vkey: Option<VerifierKey>,
}

/// A head the auditor holds from an earlier time or from another place.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) head: Checkpoint,
    pub(super) note: Vec<u8>,
}

impl Trust {
    /// Trusts a key file: one SPKI PEM block, or C2SP verifier keys, one a line.
    pub fn add_key(&mut self, text: &str) -> Result<(), KeyError> {
        if text.trim_start().starts_with("-----BEGIN") {
            self.keys.push(TrustedKey { key: PublicKey::from_spki_pem(text)?, vkey: None });
            return Ok(());
        }
        let lines: Vec<_> = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
        if lines.is_empty() {
            return Err(KeyError::Vkey("the file is empty"));
        }
        for line in lines {
            let vkey = VerifierKey::from_str(line)?;
            self.keys.push(TrustedKey { key: vkey.key, vkey: Some(vkey) });
        }
        Ok(())
    }

    /// Demands that the log has this origin.
    pub fn expect_origin(&mut self, origin: &str) -> Result<(), KeyError> {
        self.origin = Some(origin.parse()?);
        Ok(())
    }

    /// Demands that the log extends this signed checkpoint.
    pub fn expect_checkpoint(&mut self, note: &[u8]) -> Result<(), NoteError> {
        let head = Checkpoint::parse(Note::parse(note)?.text())?;
        self.checkpoint = Some(Expected { head, note: note.to_vec() });
        Ok(())
    }
}

/// The keys and the origin one log is held to.
#[derive(Debug)]
pub(super) struct Keyring {
    /// May sign entries.
    pub(super) entry: Vec<PublicKey>,
    /// May sign heads.
    pub(super) head: Vec<VerifierKey>,
    /// Whether a key came from outside the log.
    pub(super) pinned: bool,
    /// The only origin anything may name.
    pub(super) origin: Option<String>,
}

impl Keyring {
    /// Settles who may sign what, given the first entry of the log.
    ///
    /// A trusted key that the genesis gives one role cannot take the other. The head key that a genesis signed by a
    /// trusted key lists is trusted with it. Without trusted keys the log vouches for itself, which is worth A0.
    pub(super) fn settle(trust: &Trust, first: Option<&[u8]>) -> Self {
        let envelope = first.and_then(|line| Envelope::parse(line).ok());
        let claimed = envelope.as_ref().and_then(|envelope| Statement::parse(&envelope.payload).ok());
        let given: Vec<PublicKey> = trust.keys.iter().map(|trusted| trusted.key).collect();
        let pinned = !given.is_empty();
        let proved = envelope.is_some_and(|envelope| envelope.verify(&given).is_ok());
        let listed = |role| claimed.as_ref().filter(|_| proved || !pinned)?.listed_key(role);
        let (entry, head) = (listed("entry"), listed("head"));
        let origin = trust.origin.as_ref().map(ToString::to_string).or(claimed.as_ref().map(|c| c.origin.clone()));
        let only = |role: &Option<VerifierKey>, other: &Option<VerifierKey>, key: &PublicKey| {
            let is = |vkey: &Option<VerifierKey>| vkey.as_ref().is_some_and(|vkey| vkey.key == *key);
            is(role) && !is(other)
        };
        let mut ring = Self { entry: Vec::new(), head: Vec::new(), pinned, origin };
        ring.entry.extend(given.iter().filter(|key| !only(&head, &entry, key)));
        let may_head = trust.keys.iter().filter(|trusted| !only(&entry, &head, &trusted.key));
        ring.head = may_head.filter_map(|trusted| ring.named(trusted)).collect();
        if !pinned {
            ring.entry.extend(entry.map(|vkey| vkey.key));
        }
        let known = |vkey: &VerifierKey| ring.head.contains(vkey) || vkey.kind != SignatureType::Ed25519;
        let listed = head.filter(|vkey| !known(vkey));
        ring.head.extend(listed);
        ring
    }

    /// A trusted key as a head key: by its own name, or by the origin when it has none.
    fn named(&self, trusted: &TrustedKey) -> Option<VerifierKey> {
        match &trusted.vkey {
            Some(vkey) => (vkey.kind == SignatureType::Ed25519).then(|| vkey.clone()),
            None => Some(VerifierKey::ed25519(self.origin.as_deref()?.parse().ok()?, trusted.key)),
        }
    }

    /// The keys by fingerprint, for the report.
    pub(super) fn describe(&self) -> Value {
        let entry: Vec<_> = self.entry.iter().map(PublicKey::fingerprint).collect();
        let mut head: Vec<_> = self.head.iter().map(|vkey| vkey.key.fingerprint()).collect();
        head.dedup();
        serde_json::json!({"pinned": self.pinned, "entryKeys": entry, "headKeys": head, "origin": self.origin})
    }
}
