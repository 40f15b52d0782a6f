//! Ed25519 keys in the forms other tools read: PKCS#8 and SPKI PEM (RFC 8410), C2SP vkey, OpenSSH `allowed_signers`.
//!
//! A public key is refused at load when it is low-order, mixed-order or not written in its one canonical way; the rest
//! of the program never meets such a key. A private key is never printed, is wiped when dropped, and lives in a file
//! only its owner may read.

mod file;
mod pem;

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{base64, hex, sha256, unbase64, unhex};

/// DER before the 32 bytes of a public key: `SubjectPublicKeyInfo`, id-Ed25519 (RFC 8410 §4).
const SPKI: &[u8; 12] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
/// DER before the 32 bytes of a private key: PKCS#8 version 1, id-Ed25519 (RFC 8410 §7).
const PKCS8: &[u8; 16] = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";

/// Why a key cannot be used, made or stored.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The text is not a PEM block of the kind asked for.
    #[error("not a `{0}` pem block")]
    Pem(&'static str),
    /// The block holds another kind of key.
    #[error("not an ed25519 key in its rfc 8410 form")]
    NotEd25519,
    /// A point that would let a signature mean two things.
    #[error("public key {0} is weak, of mixed order or not canonical; it cannot be trusted, make a new one")]
    Unsafe(String),
    /// Not `name+hash+base64`, or the hash does not belong to the rest.
    #[error("not a c2sp verifier key: {0}")]
    Vkey(&'static str),
    /// Not usable as the name of a key or a log.
    #[error("`{0}` cannot name a key: it is empty or holds a space or a `+`")]
    Name(String),
    /// The file could be read by others.
    #[error("private key {path} has mode {mode:04o}: only its owner may read it; run: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The folder could be changed or listed by others.
    #[error("key folder {path} has mode {mode:04o}: only its owner may enter it; run: chmod 700 {path}")]
    OpenFolder {
        /// The folder.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The file system said no.
    #[error("key file {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What it said.
        source: std::io::Error,
    },
    /// The system has no randomness to give.
    #[error("the system gave no random bytes")]
    NoRandomness,
}

/// A signature did not verify under a key, strictly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("signature does not verify")]
pub struct BadSignature;

/// A public key that passed the load checks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Takes the 32 bytes of RFC 8032, refusing weak, mixed-order and non-canonical points.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Unsafe(hex(bytes)))?;
        let point = key.to_edwards();
        if key.is_weak() || !point.is_torsion_free() || point.compress().as_bytes() != bytes {
            return Err(KeyError::Unsafe(hex(bytes)));
        }
        Ok(Self(key))
    }

    /// The 32 bytes of RFC 8032.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Reads a `PUBLIC KEY` PEM block as OpenSSL writes it.
    pub fn from_spki_pem(text: &str) -> Result<Self, KeyError> {
        Self::from_spki_der(&pem::decode("PUBLIC KEY", text)?)
    }

    /// Reads the DER inside such a block.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        let point = der.strip_prefix(SPKI).and_then(|rest| rest.try_into().ok()).ok_or(KeyError::NotEd25519)?;
        Self::from_bytes(point)
    }

    /// The key as a `SubjectPublicKeyInfo`, 44 bytes of DER.
    pub fn to_spki_der(&self) -> Vec<u8> {
        [SPKI.as_slice(), self.as_bytes()].concat()
    }

    /// The key as a `PUBLIC KEY` PEM block.
    pub fn to_spki_pem(&self) -> String {
        pem::encode("PUBLIC KEY", &self.to_spki_der()).to_string()
    }

    /// SHA-256 of the `SubjectPublicKeyInfo` in hexadecimal: the fingerprint printed on contracts and reports.
    pub fn fingerprint(&self) -> String {
        hex(&sha256(&self.to_spki_der()))
    }

    /// One line of an OpenSSH `allowed_signers` file that trusts this key for one namespace only.
    pub fn to_allowed_signers(&self, principal: &str, namespace: &str) -> String {
        let field = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes(), bytes].concat();
        let blob = [field(b"ssh-ed25519"), field(self.as_bytes())].concat();
        format!("{principal} namespaces=\"{namespace}\" ssh-ed25519 {}\n", base64(&blob))
    }

    /// Accepts exactly what ed25519-dalek's `verify_strict` accepts.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| BadSignature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", hex(self.as_bytes()))
    }
}

/// A private key: prints as `***`, wiped on drop.
pub struct PrivateKey(SigningKey);

impl PrivateKey {
    /// Makes a key from the system's randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        SystemRandom::new().fill(seed.as_mut()).map_err(|_| KeyError::NoRandomness)?;
        Ok(Self::from_seed(&seed))
    }

    /// The key that belongs to an RFC 8032 seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Reads a `PRIVATE KEY` PEM block (PKCS#8 version 1, as `openssl genpkey -algorithm ed25519` writes it).
    pub fn from_pkcs8_pem(text: &str) -> Result<Self, KeyError> {
        let der = pem::decode("PRIVATE KEY", text)?;
        let seed = der.strip_prefix(PKCS8).and_then(|rest| rest.try_into().ok()).ok_or(KeyError::NotEd25519)?;
        Ok(Self::from_seed(seed))
    }

    /// The key as a `PRIVATE KEY` PEM block, wiped when dropped.
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", &Zeroizing::new([PKCS8.as_slice(), self.0.as_bytes()].concat()))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs; Ed25519 is deterministic, so the same message gives the same signature.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The name of a key or a log, as C2SP signed-note allows it: not empty, no white space, no `+`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyName(String);

impl KeyName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if text.is_empty() || text.contains(bad) { Err(KeyError::Name(text.into())) } else { Ok(Self(text.into())) }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The four bytes by which notes and envelopes hint at a key; a hint, never proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 4]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// What a signature line of a note holds, by the type byte of the C2SP registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureType {
    /// 0x01: Ed25519 over the note text.
    Ed25519,
    /// 0x04: Ed25519 over the note text and the witness's time (`cosignature/v1`).
    CosignatureV1,
}

impl SignatureType {
    /// The byte in the key id and in the vkey.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::CosignatureV1 => 0x04,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Ed25519, Self::CosignatureV1].into_iter().find(|kind| kind.byte() == byte)
    }
}

/// A public key with its name and use: what C2SP calls a verifier key, `name+hash+base64(type ‖ key)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    /// Who signs; for a log's head key this is the origin.
    pub name: KeyName,
    /// What the key signs.
    pub kind: SignatureType,
    /// The key.
    pub key: PublicKey,
}

impl VerifierKey {
    /// A key that signs notes or entries with plain Ed25519.
    pub const fn ed25519(name: KeyName, key: PublicKey) -> Self {
        Self { name, kind: SignatureType::Ed25519, key }
    }

    /// A key that cosigns checkpoints (C2SP `cosignature/v1`).
    pub const fn cosigner(name: KeyName, key: PublicKey) -> Self {
        Self { name, kind: SignatureType::CosignatureV1, key }
    }

    /// The first four bytes of `SHA-256(name ‖ 0x0A ‖ type ‖ key)`.
    pub fn id(&self) -> KeyId {
        let [a, b, c, d, ..] = sha256(&[self.name.0.as_bytes(), b"\n", &self.body()].concat());
        KeyId([a, b, c, d])
    }

    fn body(&self) -> Vec<u8> {
        [&[self.kind.byte()], self.key.as_bytes().as_slice()].concat()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}+{}", self.name, self.id(), base64(&self.body()))
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(body)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError::Vkey("expected name+hash+key"));
        };
        let body = unbase64(body).ok_or(KeyError::Vkey("the key is not base64"))?;
        let (kind, key) = body.split_first().ok_or(KeyError::Vkey("the key is empty"))?;
        let kind = SignatureType::from_byte(*kind).ok_or(KeyError::Vkey("a signature type we do not know"))?;
        let key = key.try_into().map_err(|_| KeyError::Vkey("the key is not 32 bytes"))?;
        let vkey = Self { name: name.parse()?, kind, key: PublicKey::from_bytes(key)? };
        if unhex(id) == Some(vkey.id().0) { Ok(vkey) } else { Err(KeyError::Vkey("the hash is not that of the key")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c2sp_example_key_reads_and_writes() {
        let text = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
        let key: VerifierKey = text.parse().unwrap();
        assert_eq!((key.name.as_str(), key.id().to_string().as_str()), ("example.com/foo", "530d903a"));
        assert_eq!(key.to_string(), text);
        for bad in ["", "a+b", &text.replace("530d", "530e"), &text.replace("AekyeRr", "B+kyeRr"), &text[..60]] {
            assert!(bad.parse::<VerifierKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn pem_forms_go_round_and_refuse_each_other() {
        let key = PrivateKey::from_seed(&[7; 32]);
        let (private, public) = (key.to_pkcs8_pem(), key.public().to_spki_pem());
        assert_eq!(PrivateKey::from_pkcs8_pem(&private).unwrap().public(), key.public());
        assert_eq!(PublicKey::from_spki_pem(&public).unwrap(), key.public());
        assert!(PublicKey::from_spki_pem(&private).is_err());
        assert!(PrivateKey::from_pkcs8_pem(&public).is_err());
        assert_eq!(format!("{key:?}"), "***");
    }

    #[test]
    fn weak_mixed_order_and_non_canonical_keys_are_refused() {
        use ed25519_dalek::VerifyingKey;
        // The eight-torsion point of order 8, alone and added to a good key.
        let torsion = unhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05").unwrap();
        let good = PrivateKey::from_seed(&[7; 32]).public();
        let mixed = good.0.to_edwards() + VerifyingKey::from_bytes(&torsion).unwrap().to_edwards();
        let mut one_plus_p = [0xff; 32];
        (one_plus_p[0], one_plus_p[31]) = (0xee, 0x7f);
        for bad in [torsion, mixed.compress().0, one_plus_p, [0; 32]] {
            assert!(matches!(PublicKey::from_bytes(&bad), Err(KeyError::Unsafe(_))), "{}", hex(&bad));
        }
    }
}
