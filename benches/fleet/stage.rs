//! The server with a fleet that is enrolled already. Enrolment is limited per address, so appliances, people and their
//! tokens are put into the store before the server starts, through the same library.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use malachor::crypto::keys::{PrivateKey, VerifierKey};
use malachor::crypto::sha256;
use malachor::domain::id::{ApplianceId, SiteId};
use malachor::domain::role::{Role, Sites};
use malachor::fleet::enrolments::{self, Certificate, EnrolToken};
use malachor::fleet::people::{self, Person};
use malachor::fleet::sites::{self, EvidenceKeys, PlanTier, Site};
use malachor::fleet::{Fleet, Sql};
use malachor::net::tls::{certificates_of, key_of, provider};
use malachor::server::authority::Authority;
use malachor::server::keys::ServerKeys;
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::database::Databases;
use super::line::Line;
use super::process::{self, Resident};

/// Appliances of one site.
const A_SITE: usize = 10;
/// People who may ask for orders.
const PEOPLE: usize = 100;
/// Handshakes at a time; the server gives each five seconds.
const HANDSHAKES: usize = 64;

/// A server under load; it ends with this value.
pub(crate) struct Stage {
    server: Child,
    pub(crate) port: u16,
    /// What people hold the server to.
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) appliances: Vec<Appliance>,
    /// Ids of the keys that sign orders, which appliances say they hold.
    pub(crate) order_keys: Vec<String>,
    /// Tokens of people.
    pub(crate) tokens: Vec<String>,
    dir: TempDir,
}

/// One enrolled appliance.
#[derive(Clone)]
pub(crate) struct Appliance {
    pub(crate) site: SiteId,
    pub(crate) id: ApplianceId,
    pub(crate) origin: String,
    pub(crate) tls: Arc<ClientConfig>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.server.kill().and_then(|()| self.server.wait()).ok();
    }
}

impl Appliance {
    /// The keys of its log: of entries, and of heads.
    pub(crate) fn keys(&self) -> (PrivateKey, PrivateKey) {
        let key = |what: &str| PrivateKey::from_seed(&sha256(format!("{what} of {}", self.origin).as_bytes()));
        (key("entry"), key("head"))
    }

    fn public(&self) -> EvidenceKeys {
        let (entry, head) = self.keys();
        let named = |name: String, key: &PrivateKey| {
            VerifierKey::ed25519(name.parse().expect("a key's name"), key.public()).to_string()
        };
        let (entry, head) = (named(format!("{}/entry", self.origin), &entry), named(self.origin.clone(), &head));
        EvidenceKeys { entry, head, recovery: None }
    }
}

impl Stage {
    /// Enrols so many appliances and starts the server.
    pub(crate) async fn set(databases: &Databases, appliances: usize) -> Self {
        // Not below /tmp, which may be memory: syncing to disk is part of what is measured.
        let dir = tempfile::Builder::new().prefix("malachor-bench-").tempdir_in(".").expect("a directory");
        let folder = dir.path().canonicalize().expect("its path").join("fleet");
        private_dir(&folder);
        private_dir(&folder.join("keys"));
        let (place, store) = databases.make(&folder).await;
        let fleet = Fleet::open(place).await.expect("the store");
        let keys = ServerKeys::open(&folder.join("keys"), "bench.example").expect("the server's keys");
        let authority = Authority::open(&folder.join("keys"), Timestamp::now()).expect("an authority");
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).expect("a root");
        let roots = Arc::new(roots);
        let appliances = enrol(&fleet, &authority, &roots, appliances).await;
        let tokens = hire(&fleet).await;
        drop(fleet);
        let port = free_port();
        let config = dir.path().join("malachor.toml");
        let text = format!(
            "role = \"server\"\n[site]\nid = \"operator\"\noperator_domain = \"bench.example\"\n[server]\nlisten = \"127.0.0.1:{port}\"\nnames = [\"localhost\"]\nconnections_per_address = 0\nstate_dir = \"{}\"\n{store}",
            folder.display()
        );
        std::fs::write(&config, text).expect("a configuration");
        let server = start(&config, &dir.path().join("log"));
        let stage =
            Self { server, port, tls: client(&roots, None), appliances, order_keys: keys.order_ids(), tokens, dir };
        stage.until_ready().await;
        stage
    }

    async fn until_ready(&self) {
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server does not start:\n{}", self.log());
    }

    /// What the server wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Seconds of a core that the server has used.
    pub(crate) fn cpu(&self) -> f64 {
        process::cpu(self.server.id())
    }

    /// The server's resident memory.
    pub(crate) fn resident(&self) -> Resident {
        process::resident(self.server.id())
    }

    /// A folder on the same disk as the server's.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A connection of each appliance, in their order.
    pub(crate) async fn connect(&self) -> Vec<Line> {
        let places = Arc::new(Semaphore::new(HANDSHAKES));
        let mut connecting = JoinSet::new();
        for (n, appliance) in self.appliances.iter().enumerate() {
            let (places, tls, port) = (Arc::clone(&places), Arc::clone(&appliance.tls), self.port);
            connecting.spawn(async move {
                let _place = places.acquire_owned().await.expect("a place");
                (n, Line::open(port, &tls).await.expect("a connection"))
            });
        }
        let mut lines = connecting.join_all().await;
        lines.sort_by_key(|(n, _)| *n);
        lines.into_iter().map(|(_, line)| line).collect()
    }
}

async fn enrol(fleet: &Fleet, authority: &Authority, roots: &Arc<RootCertStore>, count: usize) -> Vec<Appliance> {
    let now = Timestamp::now();
    let (mut appliances, mut known) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for n in 0..count {
        let site: SiteId = format!("practice-{:04}", n / A_SITE).parse().expect("a site");
        let id: ApplianceId = format!("box-{}", n % A_SITE).parse().expect("an appliance");
        let key = rcgen::KeyPair::generate().expect("a key");
        let request = rcgen::CertificateParams::default().serialize_request(&key).expect("a request");
        let life = (now, SignedDuration::from_hours(24));
        let issued = authority.issue(request.der(), (&site, &id), life).expect("a certificate");
        let tls = client(roots, Some((&issued.pem, &key.serialize_pem())));
        let origin = format!("bench.example/malachor/{site}/{id}");
        let appliance = Appliance { site, id, origin, tls };
        let certificate =
            Certificate { serial: issued.serial, not_before: issued.not_before, not_after: issued.not_after };
        known.push((appliance.clone(), appliance.public(), certificate));
        appliances.push(appliance);
    }
    for some in known.chunks(10 * A_SITE) {
        let some = some.to_vec();
        let written = fleet.write(move |sql| {
            let some = some.clone();
            Box::pin(async move {
                for (appliance, keys, certificate) in &some {
                    put(sql, appliance, keys, certificate, now).await?;
                }
                Ok(())
            })
        });
        written.await.expect("appliances in the store");
    }
    appliances
}

async fn put(
    sql: &Sql,
    appliance: &Appliance,
    keys: &EvidenceKeys,
    certificate: &Certificate,
    now: Timestamp,
) -> Result<(), malachor::fleet::FleetError> {
    if appliance.id.as_str() == "box-0" {
        let (id, name) = (appliance.site.clone(), appliance.site.to_string());
        sites::add_site(sql, &Site { id, name, tier: PlanTier::Professional, created_at: now }).await?;
    }
    let token = EnrolToken {
        hash: [0; 32],
        site: appliance.site.clone(),
        appliance: appliance.id.clone(),
        again: false,
        created_by: "bench".to_owned(),
        created_at: now,
        expires_at: now,
    };
    enrolments::enrol(sql, &token, (&appliance.origin, keys), certificate, now).await
}

/// People who may ask for orders, as the limit is counted for each of them; gives their tokens.
async fn hire(fleet: &Fleet) -> Vec<String> {
    let tokens: Vec<String> = (0..PEOPLE).map(|n| format!("mlc_bench{n:060}")).collect();
    let (now, given) = (Timestamp::now(), tokens.clone());
    let written = fleet.write(move |sql| {
        let given = given.clone();
        Box::pin(async move {
            for (n, token) in given.iter().enumerate() {
                let (id, by) = (format!("person-{n}"), "bench".to_owned());
                let person = Person {
                    id: id.clone(),
                    name: id.clone(),
                    role: Role::Technician,
                    sites: Sites::All,
                    created_by: by.clone(),
                    created_at: now,
                    ended_at: None,
                };
                people::add_person(sql, &person).await?;
                let token = people::Token {
                    hash: sha256(token.as_bytes()),
                    id: format!("token-{n}"),
                    person: id,
                    name: "bench".to_owned(),
                    role: Role::Technician,
                    sites: Sites::All,
                    created_by: by,
                    created_at: now,
                    expires_at: now + SignedDuration::from_hours(24),
                };
                people::add_token(sql, &token).await?;
            }
            Ok(())
        })
    });
    written.await.expect("people in the store");
    tokens
}

fn client(roots: &Arc<RootCertStore>, identity: Option<(&str, &str)>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("tls")
        .with_root_certificates(Arc::clone(roots));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates_of("client", certificate.as_bytes()).expect("a certificate");
            builder.with_client_auth_cert(chain, key_of("client", key.as_bytes()).expect("a key")).expect("an identity")
        }
    };
    // Each connects once; a cache for each of thousands would fill this process's memory.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn start(config: &Path, log: &Path) -> Child {
    let log = std::fs::File::create(log).expect("a log");
    Command::new(env!("CARGO_BIN_EXE_malachor"))
        .args(["server", "--config"])
        .arg(config)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the server starts")
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its number").port()
}

fn private_dir(path: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(path).expect("a private directory");
}
