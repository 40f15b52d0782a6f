//! Enrolment: once, with a token, to the server whose authority the token names.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::CONTENT_TYPE;
use rcgen::{CertificateParams, KeyPair};

use super::link::{answered, write, write_client};
use super::{Link, UplinkError, own, pinned};
use crate::app::Identity;
use crate::app::enrolled::About;
use crate::crypto::{base64, sha256, unhex};
use crate::net::http::{Http, Limits};
use crate::net::tls::{certificates_of, key_of};
use crate::wire::{Enrol, Enrolled, Keys, Proof, Renew, Renewed, Token, proof_text};

/// Enrols this appliance; what it gets is kept in the state directory.
///
/// The key of the client certificate is made here and never leaves.
pub async fn enrol(state: &Path, identity: &Identity, token: &Token) -> Result<(), UplinkError> {
    let wrong = |what: &str| UplinkError::Own(format!("the token's {what} cannot be read"));
    let fingerprint: [u8; 32] = unhex(&token.authority).ok_or_else(|| wrong("authority"))?;
    let (pair, csr) = request()?;
    let (entry, head, recovery) = identity.public().map_err(|error| own("keys", error))?;
    let origin = identity.origin().to_string();
    let (by_entry, by_head) = identity.sign_both(proof_text(&origin, &token.secret, &csr).as_bytes());
    let asked = Enrol {
        secret: token.secret.clone(),
        csr: base64(&csr),
        origin,
        keys: Keys { entry: entry.to_string(), head: head.to_string(), recovery: recovery.map(|key| key.to_string()) },
        proof: Proof { entry: base64(&by_entry), head: base64(&by_head) },
    };
    let body = serde_json::to_vec(&asked).map_err(|error| own("request", error))?;
    let request = Request::post(format!("{}/v1/enrol", token.url))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| own("request", error))?;
    let http = Http::new(pinned::client(fingerprint).map_err(|error| own("tls", error))?);
    let limits = Limits { deadline: Duration::from_secs(30), body: 64 * 1024 };
    let answer = http.send(request, limits).await?;
    let enrolled: Enrolled = answered(answer.status().as_u16(), answer.body())?;
    let authority =
        certificates_of("authority", enrolled.authority.as_bytes()).map_err(|error| own("answer", error))?;
    if authority.first().map(|der| sha256(der)) != Some(fingerprint) {
        return Err(UplinkError::Answer("its authority is not the one the token names".to_owned()));
    }
    let about = About {
        url: token.url.clone(),
        site: token.site.clone(),
        appliance: token.appliance.clone(),
        order_keys: enrolled.order_keys,
        witness_key: enrolled.witness_key,
    };
    write(state, &about, (&pair.serialize_pem(), &enrolled.certificate), &enrolled.authority)
}

/// Gets a new client certificate for a new key, before the old one ends.
pub(super) async fn renew(state: &Path, link: &Link) -> Result<(), UplinkError> {
    let (pair, csr) = request()?;
    let renewed: Renewed = link.post("/v1/certificate", &Renew { csr: base64(&csr) }).await?;
    // A certificate that is not for this key would lock the appliance out.
    let chain = certificates_of("certificate", renewed.certificate.as_bytes());
    let key = key_of("key", pair.serialize_pem().as_bytes());
    let (chain, key) = (chain.map_err(|error| own("answer", error))?, key.map_err(|error| own("key", error))?);
    crate::net::tls::client(rustls::RootCertStore::empty(), Some((chain, key)))
        .map_err(|error| own("answer", error))?;
    write_client(state, &pair.serialize_pem(), &renewed.certificate)
}

/// A new key, and the request for a certificate that it signs.
fn request() -> Result<(KeyPair, Vec<u8>), UplinkError> {
    let wrong = |error: rcgen::Error| own("certificate request", error);
    let pair = KeyPair::generate().map_err(wrong)?;
    let csr = CertificateParams::new(Vec::new()).and_then(|params| params.serialize_request(&pair)).map_err(wrong)?;
    Ok((pair, csr.der().to_vec()))
}
