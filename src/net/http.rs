//! The HTTP client: HTTP/1.1 over TCP or TLS, kept connections, a deadline and a cap for every answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::NetError;

/// How long connecting, TLS included, may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a connection nobody uses is kept.
const IDLE: Duration = Duration::from_secs(20);
/// Connections kept to one server.
const KEPT: usize = 16;

/// A client; clones share its connections.
#[derive(Clone)]
pub struct Http {
    tls: Arc<ClientConfig>,
    idle: Arc<Mutex<BTreeMap<String, Vec<Idle>>>>,
}

struct Idle {
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Http")
    }
}

/// How long and how much.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The answer is whole by then.
    pub deadline: Duration,
    /// Bytes of its body.
    pub body: usize,
}

impl Http {
    /// A client with this TLS configuration.
    pub fn new(tls: Arc<ClientConfig>) -> Self {
        Self { tls, idle: Arc::default() }
    }

    /// Sends a request to the server its URI names, and reads the whole answer.
    ///
    /// It is sent once: a kept connection that turns out to be closed before anything was written is replaced by a fresh
    /// one, and nothing else is tried again here.
    pub async fn send(&self, request: Request<Full<Bytes>>, limits: Limits) -> Result<Response<Bytes>, NetError> {
        let to = Server::of(request.uri())?;
        let late =
            NetError::Unknown { to: to.authority.clone(), why: format!("no answer within {:?}", limits.deadline) };
        tokio::time::timeout(limits.deadline, self.exchange(&to, request, limits.body)).await.map_err(|_| late)?
    }

    async fn exchange(
        &self,
        to: &Server,
        request: Request<Full<Bytes>>,
        cap: usize,
    ) -> Result<Response<Bytes>, NetError> {
        let mut request = to.address(request)?;
        while let Some(mut sender) = self.kept(&to.key) {
            match sender.try_send_request(request).await {
                Ok(response) => return self.read(to, sender, response, cap).await,
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(to.unknown(&error.into_error())),
                },
            }
        }
        let mut sender = self.connect(to).await?;
        match sender.try_send_request(request).await {
            Ok(response) => self.read(to, sender, response, cap).await,
            Err(error) if error.message().is_some() => Err(to.not_sent(&error.into_error())),
            Err(error) => Err(to.unknown(&error.into_error())),
        }
    }

    async fn read(
        &self,
        to: &Server,
        sender: SendRequest<Full<Bytes>>,
        response: Response<hyper::body::Incoming>,
        cap: usize,
    ) -> Result<Response<Bytes>, NetError> {
        let (parts, body) = response.into_parts();
        let body =
            Limited::new(body, cap).collect().await.map_err(|error| match error.downcast::<LengthLimitError>() {
                Ok(_) => to.unknown(&format!("an answer of more than {cap} bytes")),
                Err(error) => to.unknown(&error),
            })?;
        self.keep(&to.key, sender);
        Ok(Response::from_parts(parts, body.to_bytes()))
    }

    async fn connect(&self, to: &Server) -> Result<SendRequest<Full<Bytes>>, NetError> {
        let connecting = async {
            let stream = TcpStream::connect((to.host.as_str(), to.port)).await.map_err(|error| to.not_sent(&error))?;
            stream.set_nodelay(true).map_err(|error| to.not_sent(&error))?;
            if !to.tls {
                let (sender, connection) =
                    handshake(TokioIo::new(stream)).await.map_err(|error| to.not_sent(&error))?;
                tokio::spawn(connection);
                return Ok(sender);
            }
            let name = ServerName::try_from(to.host.clone()).map_err(|error| to.not_sent(&error))?;
            let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await;
            let stream = TokioIo::new(stream.map_err(|error| to.not_sent(&error))?);
            let (sender, connection) = handshake(stream).await.map_err(|error| to.not_sent(&error))?;
            tokio::spawn(connection);
            Ok(sender)
        };
        let late = || to.not_sent(&format!("no connection within {} s", CONNECT.as_secs()));
        tokio::time::timeout(CONNECT, connecting).await.map_err(|_| late())?
    }

    fn kept(&self, key: &str) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(key)?;
        while let Some(connection) = kept.pop() {
            if connection.since.elapsed() < IDLE && connection.sender.is_ready() {
                return Some(connection.sender);
            }
        }
        None
    }

    fn keep(&self, key: &str, sender: SendRequest<Full<Bytes>>) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(key.to_owned()).or_default();
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push(Idle { sender, since: Instant::now() });
    }
}

/// The server a URI names.
struct Server {
    tls: bool,
    host: String,
    port: u16,
    authority: String,
    key: String,
}

impl Server {
    fn of(uri: &Uri) -> Result<Self, NetError> {
        let wrong = |why: &str| NetError::NotSent { to: uri.to_string(), why: why.to_owned() };
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(wrong("the URL must begin with https:// or http://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("the URL names no server"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let key = format!("{tls}:{host}:{port}");
        Ok(Self { tls, host, port, authority: authority.to_string(), key })
    }

    /// The request as it stands on the wire: path only, and the server's name in `Host`.
    fn address(&self, mut request: Request<Full<Bytes>>) -> Result<Request<Full<Bytes>>, NetError> {
        let host = HeaderValue::from_str(&self.authority).map_err(|error| self.not_sent(&error))?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        *request.uri_mut() = path.parse().map_err(|error: hyper::http::uri::InvalidUri| self.not_sent(&error))?;
        request.headers_mut().entry(HOST).or_insert(host);
        Ok(request)
    }

    fn not_sent(&self, why: &impl ToString) -> NetError {
        NetError::NotSent { to: self.authority.clone(), why: why.to_string() }
    }

    fn unknown(&self, why: &impl ToString) -> NetError {
        NetError::Unknown { to: self.authority.clone(), why: why.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::tls;

    fn client() -> Http {
        Http::new(tls::client(rustls::RootCertStore::empty(), None).unwrap())
    }

    fn limits(body: usize) -> Limits {
        Limits { deadline: Duration::from_secs(5), body }
    }

    fn get(port: u16) -> Request<Full<Bytes>> {
        Request::get(format!("http://127.0.0.1:{port}/x?y=1")).body(Full::new(Bytes::new())).unwrap()
    }

    /// Answers `answers` times on each connection, then closes it; counts connections.
    async fn server(answers: usize, body: &'static str) -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    for _ in 0..answers {
                        let mut request = [0; 4096];
                        let read = stream.read(&mut request).await.unwrap();
                        if read == 0 {
                            return;
                        }
                        let text = String::from_utf8_lossy(&request[..read]).into_owned();
                        assert!(
                            text.starts_with("GET /x?y=1 HTTP/1.1\r\n") && text.contains("host: 127.0.0.1:"),
                            "{text}"
                        );
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        (port, count)
    }

    #[tokio::test]
    async fn connections_are_kept_and_a_closed_one_is_replaced() {
        let (port, connections) = server(2, "hello").await;
        let http = client();
        for asked in 1..=5 {
            let response = http.send(get(port), limits(100)).await.unwrap();
            assert_eq!(response.body().as_ref(), b"hello");
            assert_eq!(connections.load(Ordering::SeqCst), usize::div_ceil(asked, 2));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn what_was_sent_and_what_was_not_are_different() {
        let http = client();
        assert!(matches!(http.send(get(1), limits(100)).await, Err(NetError::NotSent { .. })));
        let (port, _) = server(1, "far too much").await;
        assert!(matches!(http.send(get(port), limits(3)).await, Err(NetError::Unknown { .. })));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = get(listener.local_addr().unwrap().port());
        let patience = Limits { deadline: Duration::from_millis(200), body: 10 };
        assert!(matches!(http.send(silent, patience).await, Err(NetError::Unknown { .. })));
        let ftp = Request::get("ftp://x/").body(Full::new(Bytes::new())).unwrap();
        assert!(matches!(http.send(ftp, limits(1)).await, Err(NetError::NotSent { .. })));
    }
}
