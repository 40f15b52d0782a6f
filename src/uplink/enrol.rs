//! Enrolment: once, with a token, to the server whose authority the token names.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::CONTENT_TYPE;
use rcgen::{CertificateParams, KeyPair};

use super::link::{About, answered, write};
use super::{UplinkError, own, pinned};
use crate::app::Identity;
use crate::crypto::{base64, sha256, unhex};
use crate::net::http::{Http, Limits};
use crate::net::tls::certificates_of;
use crate::wire::{Enrol, Enrolled, Keys, Proof, Token, proof_text};

/// Enrols this appliance; what it gets is kept in the state directory.
///
/// The key of the client certificate is made here and never leaves.
pub async fn enrol(state: &Path, identity: &Identity, token: &Token) -> Result<(), UplinkError> {
    let wrong = |what: &str| UplinkError::Own(format!("the token's {what} cannot be read"));
    let fingerprint: [u8; 32] = unhex(&token.authority).ok_or_else(|| wrong("authority"))?;
    let pair = KeyPair::generate().map_err(|error| own("client key", error))?;
    let params = CertificateParams::new(Vec::new()).map_err(|error| own("certificate request", error))?;
    let csr = params.serialize_request(&pair).map_err(|error| own("certificate request", error))?;
    let csr = csr.der().to_vec();
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
    write(state, &about, &pair.serialize_pem(), &enrolled.certificate, &enrolled.authority)
}
