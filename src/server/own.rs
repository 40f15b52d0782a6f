//! The certificate the server shows: replaced while it runs, long before it ends.

use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::authority::end_of;
use crate::net::tls::provider;

/// What new connections are shown; nothing before the first.
#[derive(Debug, Default)]
pub(super) struct Shown(RwLock<Option<Arc<CertifiedKey>>>);

impl Shown {
    /// Shows another one from now on; says until when it holds.
    pub(super) fn show(
        &self,
        (chain, key): (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    ) -> Result<Timestamp, rustls::Error> {
        let end = chain.first().and_then(|own| end_of(own)).unwrap_or(Timestamp::MIN);
        let key = CertifiedKey::from_der(chain, key, &provider())?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(key));
        Ok(end)
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
