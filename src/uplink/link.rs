//! The connection to the server as enrolment left it: address, certificate, pinned authority and keys.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{UplinkError, own, read};
use crate::crypto::keys::VerifierKey;
use crate::domain::id::{ApplianceId, SiteId};
use crate::host::Host;
use crate::net::http::{Http, Limits};
use crate::net::tls::{certificates_of, client, key_of, roots_of};

/// Files of a state directory's `server` folder.
const ABOUT: &str = "server.json";
const CERTIFICATE: &str = "client.pem";
const KEY: &str = "client.key";
const AUTHORITY: &str = "authority.pem";
/// Longest answer.
const ANSWER: usize = 4 * 1024 * 1024;

/// What is known of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct About {
    pub(super) url: String,
    pub(super) site: SiteId,
    pub(super) appliance: ApplianceId,
    pub(super) order_keys: Vec<String>,
    pub(super) witness_key: String,
}

/// A connection to the server.
#[derive(Debug, Clone)]
pub struct Link {
    about: About,
    http: Http,
    /// Keys that sign orders.
    pub order_keys: Vec<VerifierKey>,
    /// The key that cosigns heads.
    pub witness_key: VerifierKey,
}

/// The folder of a state directory with what enrolment left.
pub(super) fn folder(state: &Path) -> PathBuf {
    state.join("server")
}

/// Whether this appliance has a server.
pub fn is_enrolled(state: &Path) -> bool {
    folder(state).join(ABOUT).exists()
}

impl Link {
    /// Reads what enrolment left.
    pub fn open(state: &Path) -> Result<Self, UplinkError> {
        let dir = folder(state);
        let file = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map_err(|error| own(path.display(), error))
        };
        let about: About =
            serde_json::from_slice(&file(ABOUT)?).map_err(|error| own(dir.join(ABOUT).display(), error))?;
        let (chain, key) = (file(CERTIFICATE)?, file(KEY)?);
        let wrong = |error: crate::net::tls::TlsError| own(dir.display(), error);
        let identity = (certificates_of(CERTIFICATE, &chain).map_err(wrong)?, key_of(KEY, &key).map_err(wrong)?);
        let roots = roots_of(AUTHORITY, &file(AUTHORITY)?).map_err(wrong)?;
        let http = Http::new(client(roots, Some(identity)).map_err(wrong)?);
        let vkey = |text: &String| text.parse().map_err(|error| own(dir.join(ABOUT).display(), error));
        let order_keys = about.order_keys.iter().map(vkey).collect::<Result<_, _>>()?;
        let witness_key = vkey(&about.witness_key)?;
        Ok(Self { about, http, order_keys, witness_key })
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

/// Writes what enrolment gave; the file that says there is a server comes last.
pub(super) fn write(
    state: &Path,
    about: &About,
    key: &str,
    certificate: &str,
    authority: &str,
) -> Result<(), UplinkError> {
    let dir = folder(state);
    crate::app::prepare_dir(&dir).map_err(|error| own(dir.display(), error))?;
    let about = serde_json::to_string_pretty(about).map_err(|error| own(ABOUT, error))?;
    for (name, text) in [(KEY, key), (CERTIFICATE, certificate), (AUTHORITY, authority), (ABOUT, &about)] {
        let path = dir.join(name).display().to_string();
        Host::live().replace(&path, text.as_bytes(), 0o600, None).map_err(|error| own(&path, error))?;
    }
    Ok(())
}
