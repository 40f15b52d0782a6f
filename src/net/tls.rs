//! TLS as all of us speak it: rustls on ring, never a process-wide default.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// A file that does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {why}")]
pub struct TlsError {
    /// The file, or what takes its place.
    pub file: String,
    /// What is wrong with it.
    pub why: String,
}

impl TlsError {
    /// An error about a file.
    pub fn new(file: &str, why: &(impl ToString + ?Sized)) -> Self {
        Self { file: file.to_owned(), why: why.to_string() }
    }
}

/// The only cryptography there is.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Roots from a PEM file; one without a certificate is an error, for it would trust nobody and say so only later.
pub fn roots(file: &Path) -> Result<RootCertStore, TlsError> {
    let name = file.display().to_string();
    let pem = std::fs::read(file).map_err(|error| TlsError::new(&name, &error))?;
    roots_of(&name, &pem)
}

/// The same from the text itself.
pub fn roots_of(name: &str, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_of(name, pem)? {
        roots.add(certificate).map_err(|error| TlsError::new(name, &error))?;
    }
    Ok(roots)
}

/// The certificates of a PEM text, at least one.
pub fn certificates_of(name: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err(TlsError::new(name, "holds no certificate")),
        Ok(all) => Ok(all),
        Err(error) => Err(TlsError::new(name, &error)),
    }
}

/// The private key of a PEM text.
pub fn key_of(name: &str, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| TlsError::new(name, &error))
}

/// A client that holds servers to these roots; with a certificate it shows who it is.
pub fn client(
    roots: RootCertStore,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let wrong = |error: rustls::Error| TlsError::new("tls", &error);
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(wrong)?,
    };
    Ok(Arc::new(config))
}
