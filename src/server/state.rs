//! What the server works with, built from the configuration once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Notify, watch};

use super::authority::{Authority, CA};
use super::keys::{self, ServerKeys};
use super::metrics::Metrics;
use super::own::Shown;
use super::problem::Problem;
use super::signs::Signs;
use super::stores::{open_fleet, open_limiter, open_worm};
use crate::app::{Clock, prepare_dir};
use crate::blob::Worm;
use crate::catalog::Catalog;
use crate::config::Loaded;
use crate::config::server::Server as Config;
use crate::crypto::{hex, sha256_hex};
use crate::domain::bundle::BundleKind;
use crate::domain::id::{ApplianceId, SiteId};
use crate::domain::time::signed;
use crate::fleet::audit::{self, Audit};
use crate::fleet::{Fleet, Sql, bundles, enrolments};
use crate::lock::Limiter;
use crate::wire::Announced;

/// Held by one at a time.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// Everything a request needs.
#[derive(Debug)]
pub struct State {
    /// The configuration.
    pub config: Config,
    /// First part of every log's name.
    pub operator_domain: String,
    /// What is remembered.
    pub fleet: Fleet,
    /// Where evidence is kept.
    pub worm: Worm,
    /// What counts requests.
    pub limiter: Limiter,
    /// Issues certificates.
    pub authority: Authority,
    /// Runbooks that orders may name.
    pub catalog: Catalog,
    /// What time it is.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
    /// The `OpenAPI` document of the routes that are served.
    pub(super) document: OnceLock<Bytes>,
    pub(super) shown: Arc<Shown>,
    pub(super) signs: Signs,
    keys: RwLock<Arc<ServerKeys>>,
    waiting: Mutex<BTreeMap<(SiteId, ApplianceId), Arc<Notify>>>,
    settled: Mutex<BTreeSet<String>>,
    taking: Mutex<BTreeMap<(SiteId, ApplianceId), Turn>>,
    revoked: RwLock<BTreeSet<String>>,
    revoked_read_at: AtomicI64,
    bundles: RwLock<BTreeMap<(BundleKind, Option<SiteId>), Announced>>,
    stopping: watch::Sender<bool>,
}

/// Why the server cannot start; each names the setting.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

pub(super) fn said(what: &str, error: &impl ToString) -> StartError {
    StartError(format!("{what}: {}", error.to_string()))
}

impl State {
    /// Opens every store: a wrong address, password, bucket or schema is found here and not at the first request.
    pub async fn open(loaded: &Loaded, clock: Clock) -> Result<Self, StartError> {
        let config = loaded.config.server.clone();
        let catalog =
            Catalog::load(loaded.config.catalog.dir.as_deref()).map_err(|error| said("catalog.dir", &error))?;
        prepare_dir(&config.state_dir).map_err(|error| said("server.state_dir", &error))?;
        let keys_dir = config.state_dir.join("keys");
        prepare_dir(&keys_dir).map_err(|error| said("server.state_dir", &error))?;
        let operator_domain = loaded.config.site.operator_domain.clone();
        // Two replicas may start on one folder, and both make what is missing. One whose folder is complete may be read-only.
        let making = if keys_dir.join(CA).exists() {
            None
        } else {
            Some(keys::lock(&keys_dir).await.map_err(|error| said("server.state_dir", &error))?)
        };
        let keys = ServerKeys::open(&keys_dir, &operator_domain).map_err(|error| said("server.state_dir", &error))?;
        let authority = Authority::open(&keys_dir, clock.now()).map_err(|error| said("server.state_dir", &error))?;
        drop(making);
        let fleet = open_fleet(&config).await?;
        let limiter = open_limiter(&config).await?;
        let worm = open_worm(&config).await?;
        let fingerprint = hex(&authority.fingerprint());
        let claimed = fleet.write(move |sql| {
            let fingerprint = fingerprint.clone();
            Box::pin(async move { bundles::claim(sql, &fingerprint).await })
        });
        claimed.await.map_err(|error| said("server.store", &error))?;
        Ok(Self {
            config,
            operator_domain,
            fleet,
            worm,
            limiter,
            authority,
            keys: RwLock::new(Arc::new(keys)),
            catalog,
            metrics: Metrics::new(),
            document: OnceLock::new(),
            shown: Arc::default(),
            signs: Signs::default(),
            clock,
            waiting: Mutex::default(),
            settled: Mutex::default(),
            taking: Mutex::default(),
            revoked: RwLock::default(),
            revoked_read_at: AtomicI64::new(i64::MIN),
            bundles: RwLock::default(),
            stopping: watch::Sender::new(false),
        })
    }

    /// Tells whoever waits that the server stops.
    pub(super) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Waits until the server is told to stop.
    pub async fn stopped(&self) {
        // An error would say that nobody can tell any more, and this one can.
        self.stopping.subscribe().wait_for(|stop| *stop).await.map(drop).ok();
    }

    /// What signs orders and heads.
    pub fn keys(&self) -> Arc<ServerKeys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the keys again: a rotation may have begun or ended.
    pub fn read_keys(&self) -> Result<(), crate::crypto::keys::KeyError> {
        let keys = ServerKeys::read(&self.keys_dir(), &self.operator_domain)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(())
    }

    /// Shows the server's own certificate, made anew where it must be, on all connections from now on.
    pub async fn renew_own(&self) -> Result<(), StartError> {
        let wrong = |error: &dyn std::fmt::Display| said("server.names", &error.to_string());
        let (dir, names, now) = (self.keys_dir(), &self.config.names, self.clock.now());
        let _making = if self.authority.has_own(&dir, names, now) {
            None
        } else {
            Some(keys::lock(&dir).await.map_err(|error| wrong(&error))?)
        };
        let own = self.authority.own(&dir, names, now).map_err(|error| wrong(&error))?;
        let end = self.shown.show(own).map_err(|error| wrong(&error))?;
        self.metrics.own_certificate_end.set(end.as_second());
        Ok(())
    }

    /// Where keys lie.
    pub fn keys_dir(&self) -> std::path::PathBuf {
        self.config.state_dir.join("keys")
    }

    /// Rung whenever an appliance may have something to fetch.
    pub fn bell(&self, site: &SiteId, appliance: &ApplianceId) -> Arc<Notify> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(waiting.entry((site.clone(), appliance.clone())).or_default())
    }

    /// Held by whoever takes evidence of an appliance in: one batch of a log at a time.
    pub fn taking(&self, site: &SiteId, appliance: &ApplianceId) -> Turn {
        let mut taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(taking.entry((site.clone(), appliance.clone())).or_default())
    }

    /// Rings an appliance's bell.
    pub fn ring(&self, site: &SiteId, appliance: &ApplianceId) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = waiting.get(&(site.clone(), appliance.clone())) {
            bell.notify_waiters();
        }
    }

    /// Reads again what is published.
    pub async fn read_bundles(&self) -> Result<(), crate::fleet::FleetError> {
        let manifests = self.fleet.read(|sql| Box::pin(bundles::in_force(sql))).await?;
        let announced = manifests.into_iter().map(|(manifest, bytes)| {
            ((manifest.kind, manifest.site), Announced { number: manifest.number, sha256: sha256_hex(&bytes) })
        });
        *self.bundles.write().unwrap_or_else(PoisonError::into_inner) = announced.collect();
        Ok(())
    }

    /// What is published for a site, as of at most a second ago: its own, else the fleet's.
    pub fn bundle(&self, kind: BundleKind, site: &SiteId) -> Option<Announced> {
        let all = self.bundles.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&(kind, Some(site.clone()))).or_else(|| all.get(&(kind, None))).cloned()
    }

    /// Whether this server has seen a certificate in use.
    pub fn is_settled(&self, serial: &str) -> bool {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).contains(serial)
    }

    /// A certificate is in use. As many are remembered as may be connected, several times over.
    pub fn settle(&self, serial: &str) {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        if settled.len() > 100_000 {
            settled.clear();
        }
        settled.insert(serial.to_owned());
    }

    /// Whether a certificate is revoked, as of at most a second ago.
    pub fn is_revoked(&self, serial: &str) -> bool {
        self.revoked.read().unwrap_or_else(PoisonError::into_inner).contains(serial)
    }

    /// Reads again which certificates are revoked. Until that works nobody is let in on an old list for long.
    pub async fn read_revoked(&self) -> Result<(), crate::fleet::FleetError> {
        let now = self.clock.now();
        let serials = self.fleet.read(move |sql| Box::pin(enrolments::revoked(sql, now))).await?;
        *self.revoked.write().unwrap_or_else(PoisonError::into_inner) = serials.into_iter().collect();
        self.revoked_read_at.store(now.as_second(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether the list of revoked certificates is recent enough to let anybody in by it.
    pub fn knows_revoked(&self) -> bool {
        self.clock.now().as_second().saturating_sub(self.revoked_read_at.load(Ordering::Relaxed)) <= 60
    }

    /// Until when evidence written now is kept.
    pub fn keep_until(&self) -> Timestamp {
        let keep = signed(self.config.worm.keep.0);
        self.clock.now().checked_add(keep.max(SignedDuration::from_hours(1))).unwrap_or(Timestamp::MAX)
    }

    /// Random bytes.
    pub fn random<const N: usize>(&self) -> Result<[u8; N], Problem> {
        let mut bytes = [0; N];
        let none = |_| Problem::later("the system gave no randomness", 1);
        SystemRandom::new().fill(&mut bytes).map(|()| bytes).map_err(none)
    }
}

/// Writes who did what, in the transaction that did it.
pub async fn audited(
    sql: &Sql,
    (site, at): (&str, Timestamp),
    (actor, act, object): (&str, &str, &str),
    detail: serde_json::Value,
) -> Result<(), crate::fleet::FleetError> {
    let row = Audit {
        site: site.to_owned(),
        at,
        actor: actor.to_owned(),
        act: act.to_owned(),
        object: object.to_owned(),
        outcome: "done".to_owned(),
        detail,
    };
    audit::write(sql, &row).await
}
