//! A kept connection with as little of its own as can be: TLS, requests made beforehand, answers read to their length.

use std::io::{Error, ErrorKind};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A connection that is kept.
pub(crate) struct Line {
    stream: TlsStream<TcpStream>,
}

impl Line {
    pub(crate) async fn open(port: u16, tls: &Arc<ClientConfig>) -> Result<Self, Error> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").map_err(Error::other)?;
        Ok(Self { stream: TlsConnector::from(Arc::clone(tls)).connect(name, stream).await? })
    }

    /// Sends a whole request and reads the whole answer: its body, where it says yes.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, Error> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let mut got = Vec::with_capacity(1024);
        let (head, length) = loop {
            if self.stream.read_buf(&mut got).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") {
                break (end + 4, length(&got[..end])?);
            }
        };
        while got.len() < head + length {
            if self.stream.read_buf(&mut got).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        if got.starts_with(b"HTTP/1.1 200 ") {
            return Ok(got.split_off(head));
        }
        Err(Error::other(String::from_utf8_lossy(&got).into_owned()))
    }
}

fn length(head: &[u8]) -> Result<usize, Error> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let found = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    found.and_then(|length| length.trim().parse().ok()).ok_or_else(|| Error::other("an answer without a length"))
}

/// The bytes of a request.
pub(crate) fn request(method: &str, path: &str, token: Option<&str>, body: &[u8]) -> Vec<u8> {
    let token = token.map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{token}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
