//! The listener: TLS with optional client certificates, a limit on connections and on how long a handshake takes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::authority::{Identity, identity};
use super::gate::{Gate, Peer};
use super::state::{StartError, State};
use crate::net::tls::provider;

/// How long a handshake, or the head of a request, may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Files the server itself has open at the most: databases, logs, evidence on its way.
const OWN_FILES: u64 = 256;
/// How long answers may take to end when the server stops.
const GRACE: Duration = Duration::from_secs(20);

/// A server that listens; dropping it ends everything it runs.
#[derive(Debug)]
pub struct Listening {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinSet<()>,
    _loops: JoinSet<()>,
}

impl Listening {
    pub(super) async fn start(state: Arc<State>, loops: JoinSet<()>) -> Result<Self, StartError> {
        let wrong = |what: &str, error: &dyn std::fmt::Display| StartError(format!("{what}: {error}"));
        let acceptor = acceptor(&state)?;
        allow_files(state.config.connections);
        let listen = state.config.listen;
        let listener =
            TcpListener::bind(listen).await.map_err(|error| wrong(&format!("server.listen: {listen}"), &error))?;
        let address = listener.local_addr().map_err(|error| wrong("server.listen", &error))?;
        let (stop, stopping) = watch::channel(false);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, acceptor, Arc::new(Gate::new(state)), stopping));
        Ok(Self { address, stop, accepting, _loops: loops })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections and lets those that are there end.
    pub async fn stop(mut self) {
        self.stop.send(true).ok();
        let ending = async { while self.accepting.join_next().await.is_some() {} };
        tokio::time::timeout(GRACE, ending).await.ok();
    }
}

fn acceptor(state: &State) -> Result<TlsAcceptor, StartError> {
    let wrong = |error: &dyn std::fmt::Display| StartError(format!("server.names: {error}"));
    let (chain, key) = state
        .authority
        .own(&state.keys_dir(), &state.config.names, state.clock.now())
        .map_err(|error| wrong(&error))?;
    let mut roots = RootCertStore::empty();
    roots.add(state.authority.der().clone()).map_err(|error| wrong(&error))?;
    // A certificate is asked for and not demanded: who enrols has none yet, and people come with tokens.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| wrong(&error))?;
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| wrong(&error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Each connection is an open file, and what a process may open is often far less than it could ask for.
fn allow_files(connections: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("the limit on open files cannot be raised: {error}");
    }
    let wanted = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(OWN_FILES);
    if let Some(most) = limit.maximum.filter(|most| *most < wanted) {
        tracing::warn!("server.connections is {connections}, and only {most} files may be open; raise LimitNOFILE");
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, gate: Arc<Gate>, mut stopping: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(gate.state().config.connections.max(1)));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stopping) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: others end soon.
                tracing::warn!("no connection can be taken: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, gate, stopping) = (acceptor.clone(), Arc::clone(&gate), stopping.clone());
        connections.spawn(async move {
            gate.state().metrics.connections.inc();
            serve(stream, peer, acceptor, &gate, stopping).await;
            gate.state().metrics.connections.dec();
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
    while connections.join_next().await.is_some() {}
}

/// Waits until the server is told to stop.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error says that whoever could tell is gone, which is a stop, too.
    stopping.wait_for(|stop| *stop).await.map(drop).ok();
}

/// What is wrong with the certificate that ended a handshake; `None` where it ended over something else.
fn bad_certificate(error: &std::io::Error) -> Option<String> {
    let rustls::Error::InvalidCertificate(why) = error.get_ref()?.downcast_ref()? else { return None };
    Some(format!("its client certificate: {why}"))
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    gate: &Arc<Gate>,
    mut stopping: watch::Receiver<bool>,
) {
    stream.set_nodelay(true).ok();
    // Who does not finish the handshake in time, or comes with a certificate that is not ours, is not heard. What it needs
    // is boxed, so that it is gone when the connection only waits, as thousands do.
    let shaking = Box::pin(tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)));
    let stream = match shaking.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            if let Some(why) = bad_certificate(&error) {
                Box::pin(gate.unheard(peer.ip(), &why)).await;
            }
            return;
        }
        Err(_) => return,
    };
    let shown: Option<Identity> =
        stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(|der| identity(der));
    let peer = Arc::new(Peer { address: peer.ip(), identity: shown });
    let gate = Arc::clone(gate);
    let service = service_fn(move |request| {
        let (gate, peer) = (Arc::clone(&gate), Arc::clone(&peer));
        async move { Ok::<_, std::convert::Infallible>(gate.answer(request, &peer).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Some(Duration::from_secs(75)))
        .max_buf_size(32 * 1024)
        .keep_alive(true);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // A peer that goes away in the middle is no trouble of ours.
    tokio::select! {
        _ = &mut connection => {}
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await.ok();
        }
    }
}
