//! Reading the certificates a TLS listener shows. Nothing is trusted and nothing is sent: the handshake ends there.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{AlertDescription, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, SignatureScheme};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Host, HostError, Programs};

/// How long a listener may take to show its certificates.
const PATIENCE: Duration = Duration::from_secs(3);
/// Certificates kept of one chain.
const CHAIN: usize = 16;

/// What a listener showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsGreeting {
    /// `TLS 1.3`, `TLS 1.2`, or `older`, of which nothing more is read.
    pub protocol: &'static str,
    /// The chain as DER, the listener's own certificate first; empty where the protocol is older.
    pub chain: Vec<Vec<u8>>,
}

impl Host {
    /// Greets the TLS listener at an address of this machine; on a recorded machine it is the answer to `tls ADDRESS`,
    /// the protocol in the first line and the chain as PEM.
    pub async fn tls_greeting(&self, at: SocketAddr) -> Result<TlsGreeting, HostError> {
        let what = format!("the listener at {at}");
        match &self.programs {
            Programs::Live => match tokio::time::timeout(PATIENCE, greet(at)).await {
                Ok(greeting) => greeting.map_err(|error| HostError::Io { what, why: error.to_string() }),
                Err(_) => Err(HostError::Timeout { what, seconds: PATIENCE.as_secs() }),
            },
            Programs::Recorded(answers) => {
                let said = &answers.get(&format!("tls {at}")).ok_or(HostError::Missing(what))?.stdout;
                let known = ["TLS 1.3", "TLS 1.2"].into_iter().find(|known| said.starts_with(known));
                let pems = x509_parser::pem::Pem::iter_from_buffer(said.as_bytes());
                Ok(TlsGreeting {
                    protocol: known.unwrap_or(OLDER),
                    chain: pems.filter_map(|pem| pem.ok().map(|pem| pem.contents)).collect(),
                })
            }
        }
    }
}

const OLDER: &str = "older";

async fn greet(at: SocketAddr) -> std::io::Result<TlsGreeting> {
    let seen = Arc::new(Reader::default());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(at).await?;
    let end = connector.connect(ServerName::IpAddress(at.ip().into()), stream).await;
    let greeting = seen.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match (end, greeting) {
        (Ok(mut stream), Some(greeting)) => {
            // What was asked for is known; how it hangs up does not matter.
            stream.shutdown().await.ok();
            Ok(greeting)
        }
        // One that wants a certificate of ours has shown its own before it refuses.
        (Err(_), Some(greeting)) => Ok(greeting),
        (Err(error), None) if is_too_old(&error) => Ok(TlsGreeting { protocol: OLDER, chain: Vec::new() }),
        (Err(error), None) => Err(error),
        (Ok(_), None) => Err(std::io::Error::other("it showed no certificate")),
    }
}

fn is_too_old(error: &std::io::Error) -> bool {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(
        error,
        Some(
            Error::AlertReceived(AlertDescription::ProtocolVersion)
                | Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13)
        )
    )
}

/// Notes what is shown and says yes to all of it: there is nothing to protect on this connection.
#[derive(Debug, Default)]
struct Reader(Mutex<Option<TlsGreeting>>);

impl Reader {
    fn signed(&self, protocol: &'static str) -> HandshakeSignatureValid {
        if let Some(greeting) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            greeting.protocol = protocol;
        }
        HandshakeSignatureValid::assertion()
    }
}

impl ServerCertVerifier for Reader {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = std::iter::once(own).chain(others).take(CHAIN).map(|one| one.to_vec()).collect();
        let greeting = TlsGreeting { protocol: OLDER, chain };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(greeting);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _own: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(self.signed("TLS 1.2"))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _own: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(self.signed("TLS 1.3"))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider: CryptoProvider = rustls::crypto::ring::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}
