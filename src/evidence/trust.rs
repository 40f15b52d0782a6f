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
    held_here: bool,
    pub(super) origin: Option<KeyName>,
    pub(super) checkpoint: Option<Expected>,
}

/// Where the keys came from that a log is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pin {
    /// The log itself: it vouches for itself.
    Log,
    /// The appliance that is looked at: whoever can change its log can change them, too.
    Appliance,
    /// The auditor, by another way.
    Auditor,
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

/// What a key may sign, where its name says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Entry,
    Head,
    /// The offline recovery key signs neither.
    Recovery,
}

impl TrustedKey {
    fn role(&self) -> Option<Role> {
        let name = self.vkey.as_ref()?.name.as_str();
        Some(match name.rsplit_once('/') {
            Some((_, "entry")) => Role::Entry,
            Some((_, "recovery")) => Role::Recovery,
            Some(_) | None => Role::Head,
        })
    }
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

    /// Says that the keys are the ones this appliance itself holds, which prove nothing to anybody else.
    pub fn held_here(&mut self) {
        self.held_here = true;
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
    /// Where the keys came from.
    pub(super) pin: Pin,
    /// The only origin anything may name.
    pub(super) origin: Option<String>,
}

impl Keyring {
    /// Settles who may sign what, given the first entry of the log.
    ///
    /// A verifier key's name says what it may sign: `<origin>/entry` entries, `<origin>` heads. A key without a name (PEM)
    /// may sign either, but never the other than a genesis it signed gives it. The head key that a genesis signed by a
    /// trusted entry key lists is trusted with it. Without trusted keys the log vouches for itself, which is worth A0.
    pub(super) fn settle(trust: &Trust, first: Option<&[u8]>) -> Self {
        let envelope = first.and_then(|line| Envelope::parse(line).ok());
        let claimed = envelope.as_ref().and_then(|envelope| Statement::parse(&envelope.payload).ok());
        let for_entries = |trusted: &&TrustedKey| trusted.role().is_none_or(|role| role == Role::Entry);
        let for_heads = |trusted: &&TrustedKey| trusted.role().is_none_or(|role| role == Role::Head);
        let given: Vec<PublicKey> = trust.keys.iter().filter(for_entries).map(|trusted| trusted.key).collect();
        let pin = match (trust.keys.is_empty(), trust.held_here) {
            (true, _) => Pin::Log,
            (false, true) => Pin::Appliance,
            (false, false) => Pin::Auditor,
        };
        let proved = envelope.is_some_and(|envelope| envelope.verify(&given).is_ok());
        let listed = |role| claimed.as_ref().filter(|_| proved || pin == Pin::Log)?.listed_key(role);
        let (entry, head) = (listed("entry"), listed("head"));
        let origin = trust.origin.as_ref().map(ToString::to_string).or(claimed.as_ref().map(|c| c.origin.clone()));
        // Our logs have one key for entries and another for heads: one for both is somebody's who has only one of them.
        if entry.as_ref().zip(head.as_ref()).is_some_and(|(entry, head)| entry.key == head.key) {
            return Self { entry: Vec::new(), head: Vec::new(), pin, origin };
        }
        let only = |role: &Option<VerifierKey>, other: &Option<VerifierKey>, key: &PublicKey| {
            let is = |vkey: &Option<VerifierKey>| vkey.as_ref().is_some_and(|vkey| vkey.key == *key);
            is(role) && !is(other)
        };
        let mut ring = Self { entry: Vec::new(), head: Vec::new(), pin, origin };
        ring.entry.extend(given.iter().filter(|key| !only(&head, &entry, key)));
        let may_head = trust.keys.iter().filter(for_heads).filter(|trusted| !only(&entry, &head, &trusted.key));
        ring.head = may_head.filter_map(|trusted| ring.named(trusted)).collect();
        if pin == Pin::Log {
            ring.entry.extend(entry.map(|vkey| vkey.key));
        }
        let known = |vkey: &VerifierKey| ring.head.contains(vkey) || vkey.kind != SignatureType::Ed25519;
        // Whoever brings several keys brought the right one for heads, too: another one is not taken on the log's word.
        let several = trust.keys.iter().filter(|trusted| trusted.role() != Some(Role::Recovery)).count() > 1;
        let brought = |vkey: &VerifierKey| trust.keys.iter().any(|trusted| trusted.key == vkey.key);
        let listed = head.filter(|vkey| !known(vkey) && (!several || brought(vkey)));
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
        serde_json::json!({"pinned": self.pin == Pin::Auditor, "entryKeys": entry, "headKeys": head, "origin": self.origin})
    }
}
