//! The capabilities, built from the configuration once; every role is a function over them.

pub mod enrolled;
mod identity;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value};

use crate::catalog::{Catalog, Diagnostics};
use crate::config::{Config, ConfigError, Loaded, secret};
use crate::crypto::keys::KeyError;
use crate::domain::bundle::{BundleKind, SITE_FILE};
use crate::domain::entry::SealContext;
use crate::domain::id::{CheckId, RecordId, RecordKind};
use crate::domain::plan::Plan;
use crate::domain::runbook::{Platform, Runbook};
use crate::domain::schema::nearest;
use crate::domain::window::Windows;
use crate::host::{FileLock, Host, HostError};
use crate::phi::Scrubber;
use crate::store::{DATABASE, Store, StoreError};

pub use identity::{Identity, exists as keys_exist, init as init_keys, keys_dir};

/// What every role works with.
#[derive(Debug, Clone)]
pub struct App {
    /// The configuration with its origins.
    pub loaded: Arc<Loaded>,
    /// Runbooks, rules, the HIPAA catalogue.
    pub catalog: Arc<Catalog>,
    /// The machine.
    pub host: Host,
    /// The agent's memory.
    pub store: Store,
    /// What time it is.
    pub clock: Clock,
    /// Who this appliance is.
    pub identity: Arc<Identity>,
    /// The only door out.
    pub scrubber: Arc<Scrubber>,
    /// When disruptive work may run.
    pub windows: Windows,
    /// When this process last made progress.
    pub progress: Progress,
    settings: Arc<BTreeMap<CheckId, Map<String, Value>>>,
    shown: Arc<BTreeMap<CheckId, Map<String, Value>>>,
}

/// Why the capabilities cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration does not fit the content.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The content has mistakes.
    #[error("{0}")]
    Content(#[from] Diagnostics),
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state directory cannot be used.
    #[error("{path}: {why}", path = path.display())]
    State {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// What time it is, in whole seconds of UTC: the form in which times are stored and signed.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl fmt::Debug for Clock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Clock")
    }
}

impl Clock {
    /// The machine's clock.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub fn system() -> Self {
        Self(Arc::new(Timestamp::now))
    }

    /// A clock that is set by hand.
    pub fn manual(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        let now = (self.0)();
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }
}

/// When a process last made progress, shared by all who hold the same [`App`].
#[derive(Debug, Clone)]
pub struct Progress(Arc<AtomicI64>);

impl Progress {
    fn starting(now: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(now.as_second())))
    }

    /// Progress was made now.
    pub fn made(&self, now: Timestamp) {
        self.0.store(now.as_second(), Ordering::Relaxed);
    }

    /// When it was, in seconds of the epoch.
    pub fn at(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

static NO_SETTINGS: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);

impl App {
    /// Builds the capabilities. The state directory is created where it is missing; keys must exist.
    pub fn open(loaded: Loaded, host: Host, clock: Clock) -> Result<Self, AppError> {
        let config = &loaded.config;
        let catalog = content(&loaded)?;
        let settings = check_settings(&loaded, &catalog)?;
        let shown = |(id, runbook): (&CheckId, &Runbook)| Some((id.clone(), runbook.settings.shown(settings.get(id)?)));
        let shown = catalog.runbooks.iter().filter_map(shown).collect();
        let windows = config.windows().map_err(|message| loaded.complain("site.timezone", message))?;
        let dir = config.agent.state_dir.clone();
        prepare_dir(&dir)?;
        let identity = Identity::open(&dir, &config.site, &host)?;
        let scrubber = Arc::new(identity.scrubber());
        let store = Store::open(&dir, Some(identity.log_writer()?))?;
        Ok(Self {
            catalog: Arc::new(catalog),
            host,
            store,
            progress: Progress::starting(clock.now()),
            clock,
            identity: Arc::new(identity),
            scrubber,
            windows,
            settings: Arc::new(settings),
            shown: Arc::new(shown),
            loaded: Arc::new(loaded),
        })
    }

    /// Whether a bundle of the server's would hold together with this appliance's own files: `None` where it would, or what
    /// is wrong.
    pub fn objection(&self, bundle: &enrolled::Bundle) -> Option<String> {
        let tried = || -> Result<(), AppError> {
            let (content, config) = match bundle.manifest.kind {
                BundleKind::Content => (Some(bundle.files.clone()), None),
                BundleKind::Config => (None, bundle.files.get(SITE_FILE)),
            };
            let loaded = config.map_or_else(|| Ok((*self.loaded).clone()), |text| self.loaded.over(text))?;
            let dir = loaded.config.catalog.dir.as_deref();
            let catalog = content.map(|files| Catalog::layered(files, dir)).transpose()?;
            check_settings(&loaded, catalog.as_ref().unwrap_or(&self.catalog)).map(drop)?;
            Ok(())
        };
        tried().err().map(|error| error.to_string())
    }

    /// Verifies the end of the log, and begins the log where there is none yet.
    pub async fn ready(&self) -> Result<(), AppError> {
        let (_, head, _) = self.identity.public()?;
        let known = self.store.read(move |tx| tx.check_head(&head)).await?;
        if known.is_some() {
            return if self.identity.may_begin_log() { self.identity.log_begun() } else { Ok(()) };
        }
        if !self.identity.may_begin_log() {
            let why = "holds no entry, but these keys have signed a log before: restore it from a backup. A lost log cannot be \
                       begun again under its name; a new appliance gets its own state_dir and name";
            return Err(AppError::State { path: self.state_dir().join(DATABASE), why: why.to_owned() });
        }
        let genesis = self.scrubber.scrub(self.identity.genesis()?);
        let context = self.seal_context();
        self.store.write(move |tx| tx.append(&[genesis], &context).map(drop)).await?;
        self.identity.log_begun()
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.loaded.config
    }

    /// The state directory.
    pub fn state_dir(&self) -> &Path {
        &self.config().agent.state_dir
    }

    /// The runbooks whose checks run on this host.
    pub fn checks(&self) -> impl Iterator<Item = &Runbook> {
        self.catalog
            .runbooks
            .values()
            .filter(|runbook| runbook.platform == Platform::Host && self.config().runbook(runbook.id.as_str()).enabled)
    }

    /// The settings of a runbook, complete and checked, secrets included: for what acts, not for what is shown.
    pub fn settings(&self, check: &CheckId) -> &Map<String, Value> {
        self.settings.get(check).unwrap_or(&NO_SETTINGS)
    }

    /// The same with `***` for secrets: for whatever people see or the log keeps.
    pub fn shown_settings(&self, check: &CheckId) -> &Map<String, Value> {
        self.shown.get(check).unwrap_or(&NO_SETTINGS)
    }

    /// How often a check runs here.
    pub fn every(&self, runbook: &Runbook) -> std::time::Duration {
        self.config().runbook(runbook.id.as_str()).every.map_or(runbook.detect.every, |period| period.0)
    }

    /// Held while a plan's runbook runs on its target or is recovered; `None` where somebody else holds it.
    pub fn execution_lock(&self, plan: &Plan) -> Result<Option<FileLock>, HostError> {
        FileLock::take(&self.state_dir().join("locks").join(format!("{}.{}.lock", plan.target, plan.runbook)))
    }

    /// A fresh id.
    pub fn new_id(&self, kind: RecordKind) -> Result<RecordId, AppError> {
        let mut random = [0_u8; 8];
        SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| AppError::State { path: "/dev/urandom".into(), why: "gave no randomness".to_owned() })?;
        Ok(RecordId::new(kind, random))
    }

    /// What the log adds to every statement sealed now; asked for inside the transaction that seals them.
    pub fn seal_context(&self) -> SealContext {
        self.identity.seal_context(&self.host, self.clock.now())
    }
}

/// A number from 0 to 1.
pub fn chance() -> f64 {
    let mut bytes = [0_u8; 2];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX),
        Err(_) => 0.5,
    }
}

/// The content an appliance works with: what is built in, what its server gave, its own directory.
///
/// What the server gave and cannot be verified any more is left out, and said; the server is asked for it again.
pub fn content(loaded: &Loaded) -> Result<Catalog, Diagnostics> {
    let config = &loaded.config;
    let given = enrolled::bundle(&config.agent.state_dir, BundleKind::Content).unwrap_or_else(|why| {
        tracing::error!("the server's content is left out: {why}");
        None
    });
    Catalog::layered(given.map(|bundle| bundle.files).unwrap_or_default(), config.catalog.dir.as_deref())
}

/// The settings of every runbook, complete; an unknown runbook or a wrong value is placed where it was written.
pub fn check_settings(
    loaded: &Loaded,
    catalog: &Catalog,
) -> Result<BTreeMap<CheckId, Map<String, Value>>, ConfigError> {
    for id in loaded.config.runbooks.keys() {
        if !catalog.runbooks.keys().any(|known| known.as_str() == id) {
            let near = nearest(id, catalog.runbooks.keys().map(CheckId::as_str));
            let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            let first = format!("runbooks.{id}");
            return Err(loaded.complain(&first, format!("no runbook has this id{hint}")));
        }
    }
    let mut complete = BTreeMap::new();
    for (id, runbook) in &catalog.runbooks {
        let mut given = loaded.config.runbook(id.as_str()).settings;
        for (name, value) in given.iter_mut().filter(|(name, _)| runbook.settings.is_secret(name)) {
            let failed = |why: String| loaded.complain(&format!("runbooks.{id}.settings.{name}"), why);
            *value = Value::String(secret(name, value).map_err(failed)?);
        }
        let settings = runbook
            .settings
            .check(&given)
            .map_err(|error| loaded.complain(&format!("runbooks.{id}.settings.{}", error.field), error.message))?;
        complete.insert(id.clone(), settings);
    }
    Ok(complete)
}

/// Creates the state directory with mode 0700, or refuses one that others can read.
pub fn prepare_dir(dir: &Path) -> Result<(), AppError> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
    let failed = |why: String| AppError::State { path: dir.to_owned(), why };
    if !dir.exists() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| failed(format!("cannot be created: {error}")))?;
    }
    let meta = std::fs::metadata(dir).map_err(|error| failed(format!("cannot be used: {error}")))?;
    if !meta.is_dir() {
        return Err(failed("is not a directory".to_owned()));
    }
    let me = rustix::process::geteuid();
    if meta.uid() != me.as_raw() && meta.uid() != 0 {
        return Err(failed(format!("belongs to user {}; run `chown {} {}`", meta.uid(), me.as_raw(), dir.display())));
    }
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(failed(format!("others can read it (mode {mode:04o}); run `chmod 700 {}`", dir.display())));
    }
    Ok(())
}
