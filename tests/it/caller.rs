//! Somebody who speaks with a server over TLS: from any loopback address, with or without a certificate and a token.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use malachor::net::tls::{client, roots};

/// A certificate chain with its key.
pub(crate) type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Who calls, and from where.
#[derive(Clone)]
pub(crate) struct Caller {
    port: u16,
    tls: Arc<ClientConfig>,
    from: Ipv4Addr,
    token: Option<String>,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Said {
    /// The body as JSON; null where it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }
}

impl Caller {
    /// Somebody without anything, who holds the server to its authority.
    pub(crate) fn new(port: u16, authority: &Path) -> Self {
        let tls = client(roots(authority).unwrap(), None).unwrap();
        Self { port, tls, from: Ipv4Addr::LOCALHOST, token: None }
    }

    /// The same with a client certificate.
    pub(crate) fn showing(&self, authority: &Path, (chain, key): &Shown) -> Self {
        let shown = (chain.clone(), key.clone_key());
        Self { tls: client(roots(authority).unwrap(), Some(shown)).unwrap(), ..self.clone() }
    }

    /// The same with a token.
    pub(crate) fn with(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The same from another loopback address.
    pub(crate) fn from(&self, from: Ipv4Addr) -> Self {
        Self { from, ..self.clone() }
    }

    /// A connection; an error says how it ended before anything was asked.
    pub(crate) async fn connect(&self) -> Result<Talk, String> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let socket = TcpSocket::new_v4().map_err(|error| said(&error))?;
        socket.bind(SocketAddr::from((self.from, 0))).map_err(|error| said(&error))?;
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let stream = socket.connect(server).await.map_err(|error| said(&error))?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream =
            TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await.map_err(|error| said(&error))?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| said(&error))?;
        tokio::spawn(connection);
        Ok(Talk { sender, token: self.token.clone() })
    }

    /// Asks once, on a connection of its own.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> Result<Said, String> {
        self.connect().await?.ask(method, path, body).await
    }
}

/// An open connection.
pub(crate) struct Talk {
    sender: SendRequest<Full<Bytes>>,
    token: Option<String>,
}

impl Talk {
    pub(crate) async fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Said, String> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.header(CONTENT_TYPE, "application/json").body(Full::new(Bytes::from(body.to_owned())));
        let asking = async {
            self.sender.ready().await?;
            let answer = self.sender.send_request(request.unwrap()).await?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>(Said { status, text: String::from_utf8_lossy(&body).into_owned() })
        };
        asking.await.map_err(|error| error.to_string())
    }
}

/// Runs async work of a test.
pub(crate) fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}
