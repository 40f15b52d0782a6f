//! rusoto compiles only with a TLS connector of this name, and the real one brings a second TLS stack.
//!
//! This one has its shape and refuses every connection: S3 requests go out through Malachor's own dispatcher, and should
//! anything ever reach rusoto's built-in client, it fails instead of talking past our trust settings.

use std::future::{Ready, ready};
use std::io;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use hyper::Uri;
use hyper::client::connect::HttpConnector;
use hyper::service::Service;

/// A connector that connects to nothing.
#[derive(Debug)]
pub struct HttpsConnector<T>(PhantomData<fn() -> T>);

impl<T> Clone for HttpsConnector<T> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl HttpsConnector<HttpConnector> {
    /// A connector that connects to nothing.
    #[allow(clippy::new_without_default, reason = "the shape rusoto asks for")]
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: Service<Uri>> Service<Uri> for HttpsConnector<T> {
    type Response = T::Response;
    type Error = io::Error;
    type Future = Ready<Result<T::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(Err(io::Error::other("rusoto's built-in client is switched off")))
    }
}
