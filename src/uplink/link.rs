//! The connection to the server as enrolment left it: address, certificate, pinned authority and keys.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{UplinkError, own, read};
use crate::app::enrolled::{self, About, folder};
use crate::crypto::keys::VerifierKey;
use crate::domain::id::{ApplianceId, SiteId};
use crate::net::http::{Http, Limits};
use crate::net::tls::{TlsError, certificates_of, client, key_of, roots_of};
use crate::wire::EARLIER_S;

/// The client certificate with its key, in one file so that both change at once.
const CLIENT: &str = "client.pem";
/// The authority the server is held to.
const AUTHORITY: &str = "authority.pem";
/// Longest answer.
const ANSWER: usize = 4 * 1024 * 1024;

/// A connection to the server.
#[derive(Debug, Clone)]
pub struct Link {
    pub(super) about: About,
    http: Http,
    /// Keys that sign orders.
    pub order_keys: Vec<VerifierKey>,
    /// The key that cosigns heads.
    pub witness_key: VerifierKey,
    /// From when to when the client certificate holds.
    pub life: (Timestamp, Timestamp),
}

impl Link {
    /// Reads what enrolment left.
    pub fn open(state: &Path) -> Result<Self, UplinkError> {
        let dir = folder(state);
        let file = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map_err(|error| own(path.display(), error))
        };
        let about = enrolled::about(state).map_err(UplinkError::Own)?;
        let client_pem = file(CLIENT)?;
        let wrong = |error: TlsError| own(dir.display(), error);
        let chain = certificates_of(CLIENT, &client_pem).map_err(wrong)?;
        let life = chain.first().and_then(|der| life_of(der));
        let life = life.ok_or_else(|| own(dir.join(CLIENT).display(), "holds no certificate"))?;
        let identity = (chain, key_of(CLIENT, &client_pem).map_err(wrong)?);
        let roots = roots_of(AUTHORITY, &file(AUTHORITY)?).map_err(wrong)?;
        let http = Http::new(client(roots, Some(identity)).map_err(wrong)?);
        let order_keys = about.order_keys().map_err(UplinkError::Own)?;
        let witness_key = about.witness_key.parse().map_err(|error| own("witness key", error))?;
        Ok(Self { about, http, order_keys, witness_key, life })
    }

    /// Whether two thirds of the client certificate's life, from when it was issued, are over.
    pub fn is_old(&self, now: Timestamp) -> bool {
        let (from, to) = (self.life.0.as_second().saturating_add(EARLIER_S), self.life.1.as_second());
        now.as_second() >= from.saturating_add(to.saturating_sub(from) / 3 * 2)
    }

    /// The site.
    pub fn site(&self) -> &SiteId {
        &self.about.site
    }

    /// The appliance.
    pub fn appliance(&self) -> &ApplianceId {
        &self.about.appliance
    }

    /// The server's address.
    pub fn url(&self) -> &str {
        &self.about.url
    }

    /// Posts JSON.
    pub async fn post<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, UplinkError> {
        let body = serde_json::to_vec(body).map_err(|error| own("request", error))?;
        self.send(Method::POST, path, "application/json", body.into(), Duration::from_secs(30)).await
    }

    /// Posts bytes.
    pub async fn post_bytes<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, UplinkError> {
        self.send(Method::POST, path, "application/vnd.malachor.evidence", body.into(), Duration::from_mins(1)).await
    }

    /// Gets JSON; the answer may take `patience`.
    pub async fn get<T: serde::de::DeserializeOwned>(&self, path: &str, patience: Duration) -> Result<T, UplinkError> {
        self.send(Method::GET, path, "application/json", Bytes::new(), patience).await
    }

    async fn send<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        kind: &'static str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<T, UplinkError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.about.url))
            .header(CONTENT_TYPE, kind)
            .body(Full::new(body))
            .map_err(|error| own("request", error))?;
        let answer = self.http.send(request, Limits { deadline, body: ANSWER }).await?;
        answered(answer.status().as_u16(), answer.body())
    }
}

/// An answer that says yes, read; or what the server said instead.
pub(super) fn answered<T: serde::de::DeserializeOwned>(status: u16, body: &[u8]) -> Result<T, UplinkError> {
    if (200..300).contains(&status) {
        return read(body);
    }
    let problem: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let text = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let field = text("field");
    let detail = if field.is_empty() { text("detail") } else { format!("{field}: {}", text("detail")) };
    Err(UplinkError::Said { status, detail: detail.chars().filter(|c| !c.is_control()).take(300).collect() })
}

/// From when to when a certificate holds.
fn life_of(der: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    Some((at(certificate.validity().not_before)?, at(certificate.validity().not_after)?))
}

/// Writes what enrolment gave; the file that says there is a server comes last.
pub(super) fn write(
    state: &Path,
    about: &About,
    (key, certificate): (&str, &str),
    authority: &str,
) -> Result<(), UplinkError> {
    write_client(state, key, certificate)?;
    enrolled::keep(state, AUTHORITY, authority.as_bytes()).map_err(UplinkError::Own)?;
    enrolled::keep_about(state, about).map_err(UplinkError::Own)
}

/// Writes a client certificate with its key.
pub(super) fn write_client(state: &Path, key: &str, certificate: &str) -> Result<(), UplinkError> {
    enrolled::keep(state, CLIENT, format!("{certificate}{key}").as_bytes()).map_err(UplinkError::Own)
}
