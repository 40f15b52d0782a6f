//! The listener: TLS with optional client certificates, and limits on who has how many connections for how long.

mod places;
mod prompt;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::authority::{Identity, identity};
use super::gate::{Gate, Peer};
use super::metrics::Word;
use super::own::Shown;
use super::state::{StartError, State};
use crate::host::FileLock;
use crate::net::tls::provider;
use places::{Places, Seat};
use prompt::Prompt;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a connection may be silent before the head of a request is there, with a client certificate and without.
const SILENCE: Duration = Duration::from_secs(75);
const STRANGERS_SILENCE: Duration = Duration::from_secs(10);
/// How long the other end may take nothing of an answer.
const UNREAD: Duration = Duration::from_secs(20);
/// Files the server itself has open at the most: databases, logs, evidence on its way.
const OWN_FILES: u64 = 256;
/// How long answers may take to end when the server stops.
const GRACE: Duration = Duration::from_secs(20);

/// A server that listens; dropping it ends everything it runs.
#[derive(Debug)]
pub struct Listening {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinSet<()>,
    _loops: JoinSet<()>,
    _alone: Option<FileLock>,
}

impl Listening {
    pub(super) async fn start(state: Arc<State>, loops: JoinSet<()>) -> Result<Self, StartError> {
        let wrong = |what: &str, error: &dyn std::fmt::Display| StartError(format!("{what}: {error}"));
        let alone = alone(&state)?;
        state.renew_own().await?;
        let acceptor = acceptor(&state)?;
        allow_files(state.config.connections);
        let listen = state.config.listen;
        let listener =
            TcpListener::bind(listen).await.map_err(|error| wrong(&format!("server.listen: {listen}"), &error))?;
        let address = listener.local_addr().map_err(|error| wrong("server.listen", &error))?;
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, acceptor, Arc::new(Gate::new(Arc::clone(&state)))));
        Ok(Self { address, state, accepting, _loops: loops, _alone: alone })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections and lets those that are there end; who only waits is answered at once.
    pub async fn stop(mut self) {
        self.state.stop();
        let ending = async { while self.accepting.join_next().await.is_some() {} };
        tokio::time::timeout(GRACE, ending).await.ok();
    }
}

/// One server works on an embedded store: two would each answer from what they remember of it. Commands work beside it.
fn alone(state: &State) -> Result<Option<FileLock>, StartError> {
    if state.fleet.kind() != "sqlite" {
        return Ok(None);
    }
    let wrong = |why: String| StartError(format!("server.state_dir: {why}"));
    let dir = &state.config.state_dir;
    let lock = FileLock::take(&dir.join("server.lock")).map_err(|error| wrong(error.to_string()))?;
    let taken = || format!("another server works on {}; for several, set server.store.url", dir.display());
    lock.map(Some).ok_or_else(|| wrong(taken()))
}

fn acceptor(state: &State) -> Result<TlsAcceptor, StartError> {
    let wrong = |error: &dyn std::fmt::Display| StartError(format!("server.names: {error}"));
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
        .with_cert_resolver(Arc::<Shown>::clone(&state.shown));
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

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, gate: Arc<Gate>) {
    let config = &gate.state().config;
    let places = Arc::new(Places::new(config.connections, config.connections_per_address));
    let mut connections = JoinSet::new();
    loop {
        // A server whose places are all taken still hears that it is to stop.
        let taken = tokio::select! {
            taken = next(&listener, &places) => taken,
            () = gate.state().stopped() => break,
        };
        let (stream, peer, place) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                // Out of file descriptors, most likely: others end soon.
                tracing::warn!("no connection can be taken: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(seat) = places.at(peer.ip()) else {
            crowded(gate.state(), "address");
            continue;
        };
        let (acceptor, gate, places) = (acceptor.clone(), Arc::clone(&gate), Arc::clone(&places));
        connections.spawn(async move {
            gate.state().metrics.connections.inc();
            serve(stream, (peer, seat), acceptor, &gate, &places).await;
            gate.state().metrics.connections.dec();
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
    while connections.join_next().await.is_some() {}
}

async fn next(
    listener: &TcpListener,
    places: &Places,
) -> std::io::Result<(TcpStream, SocketAddr, Option<OwnedSemaphorePermit>)> {
    let place = places.any().await;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, place))
}

/// Counts a connection that is closed because its like have too many.
fn crowded(state: &State, whose: &str) {
    state.metrics.crowded.get_or_create(&Word { is: whose.to_owned() }).inc();
}

/// What is wrong with the certificate that ended a handshake; `None` where it ended over something else.
fn bad_certificate(error: &std::io::Error) -> Option<String> {
    let rustls::Error::InvalidCertificate(why) = error.get_ref()?.downcast_ref()? else { return None };
    Some(format!("its client certificate: {why}"))
}

/// What a connection holds while it is open.
type Held = (Seat, Option<OwnedSemaphorePermit>);

/// The handshake, if it ends in time.
async fn shaken(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    gate: &Gate,
) -> Option<TlsStream<Prompt<TcpStream>>> {
    stream.set_nodelay(true).ok();
    let shaking = tokio::time::timeout(HANDSHAKE, acceptor.accept(Prompt::new(stream, UNREAD)));
    let shaken = tokio::select! {
        shaken = shaking => shaken.ok()?,
        () = gate.state().stopped() => return None,
    };
    match shaken {
        Ok(stream) => Some(stream),
        Err(error) => {
            // Who comes with a certificate that is not ours is not heard, and that stands in the trail.
            if let Some(why) = bad_certificate(&error) {
                Box::pin(gate.unheard(peer.ip(), &why)).await;
            }
            None
        }
    }
}

/// The places a connection goes on with, now that it is known whose it is.
fn seated(places: &Places, shown: Option<&Identity>, seat: Seat) -> Result<Held, &'static str> {
    match shown {
        // Many appliances may come from one address; each is counted by its certificate.
        Some(identity) => Ok((places.of(identity).ok_or("appliance")?, None)),
        None => Ok((seat, Some(places.stranger().ok_or("stranger")?))),
    }
}

async fn serve(
    stream: TcpStream,
    (peer, seat): (SocketAddr, Seat),
    acceptor: TlsAcceptor,
    gate: &Arc<Gate>,
    places: &Places,
) {
    // What the handshake needs is boxed, so that it is gone when the connection only waits, as thousands do.
    let Some(stream) = Box::pin(shaken(stream, peer, acceptor, gate)).await else { return };
    let shown: Option<Identity> =
        stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(|der| identity(der));
    let _held = match seated(places, shown.as_ref(), seat) {
        Ok(held) => held,
        Err(whose) => return crowded(gate.state(), whose),
    };
    let silence = if shown.is_some() { SILENCE } else { STRANGERS_SILENCE };
    let peer = Arc::new(Peer { address: peer.ip(), identity: shown });
    let answering = Arc::clone(gate);
    let service = service_fn(move |request| {
        let (gate, peer) = (Arc::clone(&answering), Arc::clone(&peer));
        async move { Ok::<_, std::convert::Infallible>(gate.answer(request, &peer).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    // The time runs from the end of the answer before, so it is how long a connection may be idle, too.
    http.timer(TokioTimer::new()).header_read_timeout(Some(silence)).max_buf_size(32 * 1024).keep_alive(true);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // A peer that goes away in the middle is no trouble of ours.
    tokio::select! {
        _ = &mut connection => {}
        () = gate.state().stopped() => {
            connection.as_mut().graceful_shutdown();
            connection.await.ok();
        }
    }
}
