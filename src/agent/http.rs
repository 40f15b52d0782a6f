//! Metrics and a minimal health answer on a loopback address.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::telemetry::metrics;

/// Ends the listener when dropped.
#[derive(Debug)]
pub(super) struct Server(AbortHandle);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How soon it tries again where somebody else holds the address.
const AGAIN: std::time::Duration = std::time::Duration::from_mins(1);

/// Listens on a loopback address; the configuration refuses any other.
///
/// Any local user can take a port before us: then there are no metrics for a while, and everything else goes on.
pub(super) fn serve(address: SocketAddr) -> Server {
    let task = tokio::spawn(async move {
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(error) => tracing::error!("no metrics: telemetry.metrics: {address}: {error}"),
            }
            tokio::time::sleep(AGAIN).await;
        };
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            tokio::spawn(async move {
                let mut http = hyper::server::conn::http1::Builder::new();
                http.timer(TokioTimer::new())
                    .header_read_timeout(std::time::Duration::from_secs(5))
                    .max_buf_size(16 * 1024);
                // A reader that goes away in the middle is no trouble of ours.
                http.serve_connection(TokioIo::new(stream), service_fn(answer)).await.ok();
            });
        }
    });
    Server(task.abort_handle())
}

async fn answer(request: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            (StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics::text())
        }
        (&Method::GET, "/health") => (StatusCode::OK, "application/json", "{\"status\":\"ok\"}\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "/metrics or /health\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    Ok(response)
}
