//! DSSE 1.0.2 envelopes: one line of JSON whose signature covers type and payload through the pre-authentication
//! encoding (PAE), so no byte needs to be canonical for the signature to hold.

use std::borrow::Cow;

use serde::Deserialize;
use thiserror::Error;

use super::keys::{KeyId, PrivateKey, PublicKey};
use super::{Verified, base64, unbase64};

/// The payload type of an in-toto Statement.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// The longest line a tlog-tiles entry bundle can carry (its length prefix has 16 bits).
pub const MAX_LINE: usize = 65_535;
/// The longest payload; larger raw output belongs in a blob named by its hash.
pub const MAX_PAYLOAD: usize = 32 * 1024;
/// Signatures one envelope may carry.
const MAX_SIGNATURES: usize = 8;

/// Why a line is not an envelope, or an envelope cannot be made.
#[derive(Debug, Error)]
pub enum DsseError {
    /// The line does not fit a log entry.
    #[error("line of {0} bytes; a log entry holds at most {MAX_LINE}")]
    Line(usize),
    /// The payload is larger than allowed.
    #[error("payload of {0} bytes; at most {MAX_PAYLOAD} are allowed, put the rest into a blob named by its sha-256")]
    Payload(usize),
    /// Not the JSON of an envelope.
    #[error("not a dsse envelope: {0}")]
    Json(#[from] serde_json::Error),
    /// A field does not decode.
    #[error("`{0}` of the envelope is not what it must be")]
    Field(&'static str),
}

/// No signature of an envelope counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// The envelope carries none.
    #[error("the envelope carries no signature")]
    Unsigned,
    /// None verifies under a trusted key.
    #[error("no signature verifies under a trusted key")]
    BadSignature,
}

/// The bytes a DSSE signature covers.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// Signs a payload and writes the envelope as one line of canonical JSON, without a line end.
///
/// `payload_type` must need no JSON escape; ours are constants.
pub fn sign(payload_type: &str, payload: &[u8], key: &PrivateKey, id: KeyId) -> Result<Vec<u8>, DsseError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(DsseError::Payload(payload.len()));
    }
    let line = write(&base64(payload), payload_type, &id.to_string(), &base64(&key.sign(&pae(payload_type, payload))));
    if line.len() > MAX_LINE { Err(DsseError::Line(line.len())) } else { Ok(line.into_bytes()) }
}

/// The canonical line: member names in RFC 8785 order, no white space.
fn write(payload: &str, payload_type: &str, keyid: &str, sig: &str) -> String {
    format!(
        r#"{{"payload":"{payload}","payloadType":"{payload_type}","signatures":[{{"keyid":"{keyid}","sig":"{sig}"}}]}}"#
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    #[serde(borrow)]
    payload: Cow<'a, str>,
    #[serde(borrow, rename = "payloadType")]
    payload_type: Cow<'a, str>,
    #[serde(borrow)]
    signatures: Vec<WireSignature<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSignature<'a> {
    #[serde(borrow, default)]
    keyid: Cow<'a, str>,
    #[serde(borrow)]
    sig: Cow<'a, str>,
}

/// One signature as read; the key id is a hint that nobody signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeSignature {
    /// The hint.
    pub keyid: String,
    /// The 64 bytes of Ed25519.
    pub sig: [u8; 64],
}

/// An envelope as read; nothing in it is trusted until [`Envelope::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Media type of the payload.
    pub payload_type: String,
    /// The exact bytes that were signed.
    pub payload: Vec<u8>,
    /// Every signature found.
    pub signatures: Vec<EnvelopeSignature>,
    /// Whether the line is byte for byte what [`sign`] would have written.
    pub canonical: bool,
}

/// The payload of an envelope that verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// Media type.
    pub payload_type: String,
    /// The exact bytes that were signed.
    pub bytes: Vec<u8>,
}

impl Envelope {
    /// Reads one line, accepting base64 in both alphabets.
    pub fn parse(line: &[u8]) -> Result<Self, DsseError> {
        if line.len() > MAX_LINE {
            return Err(DsseError::Line(line.len()));
        }
        let wire: Wire<'_> = serde_json::from_slice(line)?;
        if wire.signatures.len() > MAX_SIGNATURES {
            return Err(DsseError::Field("signatures"));
        }
        let payload = unbase64(&wire.payload).ok_or(DsseError::Field("payload"))?;
        if payload.len() > MAX_PAYLOAD {
            return Err(DsseError::Payload(payload.len()));
        }
        let canonical = match wire.signatures.as_slice() {
            [one] => write(&wire.payload, &wire.payload_type, &one.keyid, &one.sig).as_bytes() == line,
            _ => true,
        };
        let signatures = wire.signatures.iter().map(WireSignature::decode).collect::<Result<_, _>>()?;
        Ok(Self { payload_type: wire.payload_type.into_owned(), payload, signatures, canonical })
    }

    /// The payload, if some signature verifies strictly under one of the keys.
    pub fn verify(self, keys: &[PublicKey]) -> Result<Verified<Payload>, VerifyError> {
        if self.signatures.is_empty() {
            return Err(VerifyError::Unsigned);
        }
        let message = pae(&self.payload_type, &self.payload);
        let mut pairs = self.signatures.iter().flat_map(|s| keys.iter().map(move |key| (key, &s.sig)));
        let signer = pairs.find(|(key, sig)| key.verify(&message, sig).is_ok()).ok_or(VerifyError::BadSignature)?.0;
        Ok(Verified::new(Payload { payload_type: self.payload_type, bytes: self.payload }, *signer))
    }
}

impl WireSignature<'_> {
    fn decode(&self) -> Result<EnvelopeSignature, DsseError> {
        let sig = unbase64(&self.sig).and_then(|bytes| bytes.try_into().ok()).ok_or(DsseError::Field("sig"))?;
        Ok(EnvelopeSignature { keyid: self.keyid.to_string(), sig })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> (PrivateKey, Vec<u8>) {
        let key = PrivateKey::from_seed(&[7; 32]);
        let line = sign(IN_TOTO, b"{\"\xc3\xbf\xc3\xbe\":1}", &key, KeyId([1, 2, 3, 4])).unwrap();
        (key, line)
    }

    #[test]
    fn what_is_signed_verifies_in_both_alphabets() {
        let (key, line) = line();
        let envelope = Envelope::parse(&line).unwrap();
        assert!(envelope.canonical);
        assert_eq!(envelope.signatures[0].keyid, "01020304");
        let mut url: serde_json::Value = serde_json::from_slice(&line).unwrap();
        for field in ["/payload", "/signatures/0/sig"] {
            let field = url.pointer_mut(field).unwrap();
            *field = field.as_str().unwrap().replace('+', "-").replace('/', "_").into();
        }
        let (plain, url) = (String::from_utf8(line).unwrap(), url.to_string());
        assert_ne!(plain, url);
        for text in [plain, url] {
            let payload = Envelope::parse(text.as_bytes()).unwrap().verify(&[key.public()]).unwrap();
            assert_eq!(payload.get().bytes, b"{\"\xc3\xbf\xc3\xbe\":1}");
            assert_eq!(payload.signer(), &key.public());
        }
    }

    #[test]
    fn another_key_no_signature_and_foreign_members_are_refused() {
        let (_, line) = line();
        let other = PrivateKey::from_seed(&[8; 32]).public();
        assert_eq!(Envelope::parse(&line).unwrap().verify(&[other]), Err(VerifyError::BadSignature));
        let bare = br#"{"payload":"","payloadType":"x","signatures":[]}"#;
        assert_eq!(Envelope::parse(bare).unwrap().verify(&[other]), Err(VerifyError::Unsigned));
        for bad in [
            r#"{"payload":"","payloadType":"x","signatures":[],"ots_status":"legacy"}"#,
            r#"{"payload":"","payload":"","payloadType":"x","signatures":[]}"#,
            r#"{"payload":"","payloadType":"x","signatures":[{"sig":"AA=="}]}"#,
            r#"{"payload":"","payloadType":"x"}"#,
        ] {
            assert!(Envelope::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_capped_on_both_sides() {
        let key = PrivateKey::from_seed(&[7; 32]);
        let full = sign(IN_TOTO, &vec![b'x'; MAX_PAYLOAD], &key, KeyId([0; 4])).unwrap();
        assert!(full.len() <= MAX_LINE && Envelope::parse(&full).is_ok());
        assert!(sign(IN_TOTO, &vec![b'x'; MAX_PAYLOAD + 1], &key, KeyId([0; 4])).is_err());
        assert!(matches!(Envelope::parse(&vec![b' '; MAX_LINE + 1]), Err(DsseError::Line(_))));
    }
}
