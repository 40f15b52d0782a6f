//! rusoto's requests through our own client.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use http02::{HeaderMap, HeaderName, StatusCode};
use hyper::Request;
use rusoto_core::ByteStream;
use rusoto_core::request::{DispatchSignedRequest, DispatchSignedRequestFuture, HttpDispatchError, HttpResponse};
use rusoto_core::signature::{SignedRequest, SignedRequestPayload};

use crate::net::http::{Http, Limits};

/// Bytes of one answer.
const ANSWER: usize = 256 * 1024 * 1024;

/// Sends what rusoto signed.
#[derive(Debug, Clone)]
pub(super) struct Dispatch {
    http: Http,
    patience: Duration,
}

impl Dispatch {
    pub(super) fn new(http: Http, patience: Duration) -> Self {
        Self { http, patience }
    }
}

fn failed(why: &impl ToString) -> HttpDispatchError {
    HttpDispatchError::new(why.to_string())
}

impl DispatchSignedRequest for Dispatch {
    fn dispatch(&self, request: SignedRequest, timeout: Option<Duration>) -> DispatchSignedRequestFuture {
        let (http, deadline) = (self.http.clone(), timeout.unwrap_or(self.patience));
        Box::pin(async move {
            let request = ours(request)?;
            let answer = http.send(request, Limits { deadline, body: ANSWER }).await.map_err(|error| failed(&error))?;
            theirs(&answer)
        })
    }
}

fn ours(mut request: SignedRequest) -> Result<Request<Full<Bytes>>, HttpDispatchError> {
    let body = match request.payload.take() {
        None => Bytes::new(),
        Some(SignedRequestPayload::Buffer(body)) => body,
        // A stream is signed without its content.
        Some(SignedRequestPayload::Stream(_)) => return Err(failed(&"a body that is not signed is not sent")),
    };
    let mut uri = format!("{}://{}{}", request.scheme(), request.hostname(), request.canonical_path());
    if !request.canonical_query_string().is_empty() {
        uri.push('?');
        uri.push_str(request.canonical_query_string());
    }
    let mut built = Request::builder().method(request.method()).uri(uri);
    for (name, values) in request.headers() {
        // The client counts the body itself.
        for value in values.iter().filter(|_| name != "content-length") {
            built = built.header(name.as_str(), value.as_slice());
        }
    }
    built.body(Full::new(body)).map_err(|error| failed(&error))
}

fn theirs(answer: &hyper::Response<Bytes>) -> Result<HttpResponse, HttpDispatchError> {
    let status = StatusCode::from_u16(answer.status().as_u16()).map_err(|error| failed(&error))?;
    let mut headers = HeaderMap::<String>::with_capacity(answer.headers().len());
    for (name, value) in answer.headers() {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).map_err(|error| failed(&error))?;
        headers.append(name, String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    Ok(HttpResponse { status, headers, body: ByteStream::from(answer.body().to_vec()) })
}
