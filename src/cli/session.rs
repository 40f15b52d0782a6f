//! What every command starts from: the layered configuration, the printer, the person at the keyboard.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};

use crate::app::{App, AppError, Clock, content, enrolled, init_keys, keys_exist};
use crate::catalog::Catalog;
use crate::config::{Config, Level, Loaded, Role, load, load_without_content, trusted};
use crate::domain::mode::Mode;
use crate::host::Host;
use crate::shown;
use crate::store::DATABASE;

use super::output::Printer;
use super::{Exit, Failure, Global};

/// Where the configuration is looked for.
const DEFAULT_CONFIG: &str = "/etc/malachor/config.toml";

/// One invocation.
pub(super) struct Session<'a> {
    pub(super) out: &'a Printer,
    global: Global,
    env: Vec<(String, String)>,
}

impl<'a> Session<'a> {
    pub(super) fn new(global: Global, env: Vec<(String, String)>, out: &'a Printer) -> Result<Self, Failure> {
        if let Some(path) = &global.config
            && !path.is_file()
        {
            return Err(Failure::new(Exit::Usage, format!("{}: there is no such configuration file", path.display())));
        }
        Ok(Self { out, global, env })
    }

    /// The configuration file in use.
    pub(super) fn config_file(&self) -> Option<PathBuf> {
        let default = Path::new(DEFAULT_CONFIG);
        self.global.config.clone().or_else(|| default.is_file().then(|| default.to_owned()))
    }

    /// The layered configuration.
    pub(super) fn loaded(&self) -> Result<Loaded, Failure> {
        let file = self.trusted_file()?;
        let own = load(file.as_deref(), self.env.iter().cloned())?;
        let loaded = match enrolled::config(&own.config.agent.state_dir) {
            Ok(None) => own,
            Ok(Some(text)) => own.over(&text)?,
            // What it forbade is not known any more: nothing is changed until the server said it again.
            Err(why) => {
                self.out.note(format!("the server's configuration cannot be read, so nothing is healed: {why}"));
                observing(own, "server")
            }
        };
        Ok(self.leveled(loaded))
    }

    fn trusted_file(&self) -> Result<Option<PathBuf>, Failure> {
        let file = self.config_file();
        if let Some(file) = &file {
            trusted(file).map_err(|why| Failure::usage(&why))?;
        }
        Ok(file)
    }

    /// With the flags that say how much is logged.
    fn leveled(&self, loaded: Loaded) -> Loaded {
        let level = match (self.global.quiet, self.global.verbose) {
            (true, _) => Some((Level::Error, "--quiet")),
            (false, 0) => None,
            (false, 1) => Some((Level::Debug, "--verbose")),
            (false, _) => Some((Level::Trace, "--verbose")),
        };
        match level {
            None => loaded,
            Some((level, flag)) => loaded.with_flag("telemetry.level", flag, |config| config.telemetry.level = level),
        }
    }

    pub(super) fn role(&self) -> Result<Role, Failure> {
        Ok(self.loaded()?.config.role)
    }

    /// The content the configuration names.
    pub(super) fn catalog(&self) -> Result<Catalog, Failure> {
        Ok(content(&self.loaded()?)?)
    }

    /// The content the configuration names; where that is broken, what is built in, for work on other files.
    pub(super) fn catalog_or_built_in(&self) -> Result<Catalog, Failure> {
        self.catalog().or_else(|failure| {
            let message = failure.message.trim_end();
            self.out.note(format!(
                "{message}\nthe configured content is left out: the files are held to the built-in content"
            ));
            Ok(Catalog::load(None)?)
        })
    }

    /// Who is at the keyboard: as given, else the user behind sudo, else the user.
    pub(super) fn who(&self, given: Option<&str>) -> Result<String, Failure> {
        let variable = |name: &str| self.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let who = given
            .map(str::to_owned)
            .or_else(|| variable("SUDO_USER"))
            .or_else(|| variable("USER"))
            .or_else(|| variable("LOGNAME"))
            .filter(|name| !name.trim().is_empty())
            .ok_or_else(|| Failure::new(Exit::Usage, "a decision needs a name: give `--by NAME`"))?;
        readable("--by", &who)?;
        Ok(who)
    }

    /// The capabilities on the real state, which a command other than the agent never creates.
    pub(super) fn app(&self) -> Result<App, Failure> {
        self.open(self.loaded()?)
    }

    /// The same for what must be possible always: where content or the part of a runbook is broken, with what is built in.
    pub(super) fn app_whatever_the_content(&self) -> Result<App, Failure> {
        let failure = match self.app() {
            Err(failure) if failure.exit == Exit::Usage => failure,
            opened => return opened,
        };
        let opened = self.loaded_without_content().and_then(|loaded| self.open(loaded));
        let Ok(app) = opened else { return Err(failure) };
        let message = failure.message.trim_end();
        self.out.note(format!(
            "{message}\nthis is done all the same, with the built-in content and no settings of runbooks"
        ));
        Ok(app)
    }

    /// The layered configuration without content and the parts of runbooks.
    pub(super) fn loaded_without_content(&self) -> Result<Loaded, Failure> {
        let file = self.trusted_file()?;
        Ok(self.leveled(load_without_content(file.as_deref(), self.env.iter().cloned())?))
    }

    fn open(&self, loaded: Loaded) -> Result<App, Failure> {
        let state = loaded.config.agent.state_dir.clone();
        if !keys_exist(&state) {
            let hint = "run `malachor keys init`, start the agent, or name a configuration with --config";
            return Err(Failure::new(Exit::Unavailable, format!("{}: no appliance here; {hint}", state.display())));
        }
        Ok(self.open_there(loaded)?)
    }

    /// The capabilities on a state that is there, or why not.
    pub(super) fn open_there(&self, loaded: Loaded) -> Result<App, AppError> {
        self.quiet_logs(&loaded.config);
        App::open(loaded, Host::live(), Clock::system())
    }

    /// The capabilities on a private copy of the state: the pipeline runs as ever and nothing of it is kept.
    pub(super) fn scratch(&self) -> Result<Scratch, Failure> {
        let loaded = self.loaded()?;
        self.quiet_logs(&loaded.config);
        let state = loaded.config.agent.state_dir.clone();
        let io = |error: std::io::Error| Failure::unavailable(&format!("temporary directory: {error}"));
        let database = state.join(DATABASE);
        let private = std::fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix("malachor-plan-").permissions(private).tempdir().map_err(io)?;
        let path = dir.path().to_owned();
        let loaded = loaded.with_flag("agent.state_dir", "--dry-run", |config| config.agent.state_dir = path);
        init_keys(dir.path(), &loaded.config.site, None)?;
        enrolled::copy_content(&state, dir.path()).map_err(|why| Failure::unavailable(&why))?;
        let app = App::open(loaded, Host::live(), Clock::system())?;
        Ok(Scratch { app, original: database.is_file().then_some(database), dir })
    }

    /// Commands other than the agent log only what is wrong, unless asked.
    fn quiet_logs(&self, config: &Config) {
        let mut telemetry = config.telemetry.clone();
        if self.global.verbose == 0 {
            telemetry.level = Level::Error;
        }
        crate::telemetry::init(&telemetry);
    }

    /// Runs asynchronous work to its end on one thread, or until somebody interrupts it: programs it started end with it.
    pub(super) fn block_on<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let Self { .. } = self;
        block_on(async {
            let stop = |kind| signal(kind).map_err(|error| Failure::new(Exit::Internal, error.to_string()));
            let (mut interrupt, mut terminate) = (stop(SignalKind::interrupt())?, stop(SignalKind::terminate())?);
            let interrupted = || Failure::new(Exit::Interrupted, "interrupted; what ran is verified at the next run");
            tokio::select! {
                result = work => result,
                _ = interrupt.recv() => Err(interrupted()),
                _ = terminate.recv() => Err(interrupted()),
            }
        })
    }
}

/// Refuses words of a decision that would not be read as they were written.
pub(super) fn readable(flag: &str, text: &str) -> Result<(), Failure> {
    let shown = shown::piece(text);
    if shown == text {
        return Ok(());
    }
    Err(Failure::new(Exit::Usage, format!("{flag}: control characters are not recorded: `{shown}`")))
}

/// A private copy of the state, removed when dropped.
pub(super) struct Scratch {
    pub(super) app: App,
    /// The database whose memory it takes over.
    original: Option<std::path::PathBuf>,
    dir: tempfile::TempDir,
}

impl Scratch {
    /// Takes over what is remembered, and begins a log of its own.
    pub(super) async fn ready(&self) -> Result<(), Failure> {
        debug_assert!(self.dir.path().is_dir());
        if let Some(original) = &self.original {
            self.app.store.remember(original).await?;
        }
        Ok(self.app.ready().await?)
    }
}

/// Runs asynchronous work to its end; one thread for everything but the agent's checks: an idle agent costs little.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Internal, format!("the runtime does not start: {error}")))?;
    let result = runtime.block_on(work);
    // A check that hangs in the kernel must not keep the program from ending.
    runtime.shutdown_background();
    result
}

/// The strictest mode, for what must not change the host.
pub(super) fn observing(loaded: Loaded, flag: &str) -> Loaded {
    loaded.with_flag("heal.mode", flag, |config| config.heal.mode = Mode::Observe)
}
