//! `malachor doctor`: is everything here that this appliance needs?

use clap::Args;
use serde_json::json;

use crate::app::{App, AppError, check_settings, keys_exist};
use crate::config::Loaded;
use crate::host::{Cmd, Host};
use crate::shown;
use crate::store::{DATABASE, StoreError};
use crate::uplink;

use super::output::{Tint, fold};
use super::session::Session;
use super::{Exit, Failure};

/// Check that everything this appliance needs is there.
///
/// Each trouble comes with its cure. Exit 1 on any trouble.
#[derive(Debug, Args)]
pub(super) struct Doctor {}

/// How one thing stands.
enum Health {
    Good(String),
    Trouble { what: String, cure: &'static str },
    Missing { what: String, means: &'static str },
}

const KEEP: &str = "keep the directory as it is, restore it from its backup, and run `malachor evidence verify`";

impl Doctor {
    #[expect(clippy::unused_self, reason = "every subcommand runs the same way")]
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let (configuration, loaded) = config(session);
        let mut found = vec![("configuration", configuration)];
        let opened = loaded.map(|loaded| open(session, loaded));
        session.block_on(async {
            match &opened {
                Some(Ok(app)) => {
                    found.push(("state, keys", state(app)));
                    found.push(("log", log(app).await));
                    found.push(("database", database(app).await));
                    found.push(("records", records(app).await));
                    found.push(("room", room(app)));
                    found.push(("server", server(app).await));
                }
                Some(Err((what, cure))) => {
                    found.push(("state, keys", Health::Trouble { what: what.clone(), cure }));
                }
                None => {}
            }
            for (tool, means) in TOOLS {
                found.push((tool, tool_there(tool, means).await));
            }
            Ok(())
        })?;
        Ok(report(session, &found))
    }
}

/// Programs the built-in checks use, and what is unknown without them.
const TOOLS: [(&str, &str); 6] = [
    ("systemctl", "units, and every heal that starts one"),
    ("journalctl", "logging continuity"),
    ("nft", "the firewall"),
    ("sshd", "the SSH server, if there is one"),
    ("restic", "backups made with restic"),
    ("chronyc", "the clock's offset"),
];

/// How the configuration stands, and the part of it with which the state can be looked at all the same.
fn config(session: &Session<'_>) -> (Health, Option<Loaded>) {
    let checked = session.loaded().and_then(|loaded| {
        let catalog = session.catalog()?;
        check_settings(&loaded, &catalog)?;
        Ok((catalog, loaded))
    });
    match checked {
        Ok((catalog, loaded)) => {
            let (runbooks, rules) = (catalog.runbooks.len(), catalog.rules.iter().count());
            (Health::Good(format!("sound; {runbooks} runbooks, {rules} rules")), Some(loaded))
        }
        Err(failure) => {
            let cure = "mend the line it names; `malachor config check` shows it again";
            (Health::Trouble { what: failure.message, cure }, session.loaded_without_content().ok())
        }
    }
}

/// The appliance here, or why there is none and what to do about just that.
fn open(session: &Session<'_>, loaded: Loaded) -> Result<App, (String, &'static str)> {
    let dir = loaded.config.agent.state_dir.clone();
    if !keys_exist(&dir) {
        return Err(if dir.join(DATABASE).exists() {
            let cure = "restore the keys folder from its backup: new keys cannot go on with this log";
            (format!("{}: there is a database and no keys", dir.display()), cure)
        } else {
            let cure = "`malachor keys init` makes an appliance's keys; name a configuration with --config";
            (format!("{}: no appliance here", dir.display()), cure)
        });
    }
    session.open_there(loaded).map_err(|error| {
        let cure = match &error {
            AppError::Config(_) | AppError::Content(_) => {
                "mend the line it names; `malachor config check` shows it again"
            }
            AppError::Keys(_) => "restore the keys folder from its backup",
            AppError::State { .. } => "do what it says, or restore the state directory from its backup",
            AppError::Store(StoreError::Newer { .. }) => "use the version of Malachor that wrote it, or a later one",
            AppError::Store(
                StoreError::Open { .. }
                | StoreError::Sql { .. }
                | StoreError::Corrupt(_)
                | StoreError::Log(_)
                | StoreError::NotThere(_)
                | StoreError::Gone
                | StoreError::NoKeys,
            ) => KEEP,
        };
        (error.to_string(), cure)
    })
}

fn state(app: &App) -> Health {
    Health::Good(format!("{} of {}", app.state_dir().display(), app.identity.origin()))
}

async fn log(app: &App) -> Health {
    let key = match app.identity.public() {
        Ok((_, head, _)) => head,
        Err(error) => {
            return Health::Trouble { what: error.to_string(), cure: "restore the keys folder from its backup" };
        }
    };
    match app.store.read(move |tx| tx.check_head(&key)).await {
        Ok(Some(head)) => Health::Good(format!("{} entries, last head holds", head.size)),
        Ok(None) if !app.identity.may_begin_log() => {
            Health::Trouble { what: "empty, but these keys have signed a log before".to_owned(), cure: KEEP }
        }
        Ok(None) => Health::Missing { what: "empty".to_owned(), means: "it begins when the agent starts" },
        Err(error) => Health::Trouble { what: error.to_string(), cure: KEEP },
    }
}

/// Whether everything that is remembered can be read: pages can be sound and a row in them not.
async fn records(app: &App) -> Health {
    let read = app.store.read(|tx| {
        let sizes = [
            ("findings", tx.findings().map(|rows| rows.len())),
            ("incidents", tx.incidents(true).map(|rows| rows.len())),
            ("exceptions", tx.exceptions().map(|rows| rows.len())),
            ("questions", tx.approvals(&[]).map(|rows| rows.len())),
        ];
        Ok(sizes)
    });
    let sizes = match read.await {
        Ok(sizes) => sizes,
        Err(error) => return Health::Trouble { what: error.to_string(), cure: KEEP },
    };
    let unreadable = |(what, size): &(&str, Result<usize, StoreError>)| {
        size.as_ref().err().map(|error| format!("{what}: a row cannot be read: {error}"))
    };
    let wrong: Vec<String> = sizes.iter().filter_map(unreadable).collect();
    if !wrong.is_empty() {
        return Health::Trouble { what: wrong.join("; "), cure: KEEP };
    }
    let said = sizes.iter().filter_map(|(what, size)| Some(format!("{} {what}", size.as_ref().ok()?)));
    Health::Good(said.collect::<Vec<_>>().join(", "))
}

async fn database(app: &App) -> Health {
    match app.store.integrity(app.clock.now(), jiff::SignedDuration::ZERO).await {
        Ok(None) => Health::Good("sound".to_owned()),
        Ok(Some(words)) => Health::Trouble { what: words, cure: "restore the state directory from its backup" },
        Err(error) => {
            Health::Trouble { what: error.to_string(), cure: "look at the disk; restore from backup if it is damaged" }
        }
    }
}

fn room(app: &App) -> Health {
    let dir = app.state_dir().display().to_string();
    match app.host.fs_usage(&dir) {
        Ok(usage) if usage.bytes_available < 200 * 1024 * 1024 => Health::Trouble {
            what: format!("{} MiB left for {dir}", usage.bytes_available >> 20),
            cure: "make room; the log needs a few MiB a day",
        },
        Ok(usage) => Health::Good(format!("{} MiB left", usage.bytes_available >> 20)),
        Err(error) => Health::Trouble { what: error.to_string(), cure: "mount the file system of the state directory" },
    }
}

/// Whether the server can be spoken with, and for how long.
async fn server(app: &App) -> Health {
    if !uplink::is_enrolled(app.state_dir()) {
        return Health::Missing { what: "none".to_owned(), means: "nobody outside sees how this appliance is" };
    }
    let size = app.store.read(|tx| tx.log_size()).await;
    match (uplink::look(app).await, size) {
        (Ok((known, until)), Ok(size)) => {
            let days = until.duration_since(app.clock.now()).as_hours() / 24;
            let held = known.held;
            Health::Good(format!(
                "{} holds {held} of {size} entries; the certificate holds {days} more days",
                known.url
            ))
        }
        (Err(error), _) => Health::Trouble {
            what: error.to_string(),
            cure: "everything goes on here and waits for it; look at the network, and at `malachor appliance list` on the server",
        },
        (_, Err(error)) => Health::Trouble { what: error.to_string(), cure: KEEP },
    }
}

async fn tool_there(tool: &str, means: &'static str) -> Health {
    // Asking any of them for nothing in particular shows whether it can be started at all.
    match Host::live().run(Cmd::new([tool, "--version"])).await {
        Ok(_) => Health::Good("there".to_owned()),
        Err(error) => Health::Missing { what: error.to_string(), means },
    }
}

fn report(session: &Session<'_>, found: &[(&str, Health)]) -> Exit {
    let mut exit = Exit::Ok;
    for (what, health) in found {
        let (status, symbol, tint, say, cure) = match health {
            Health::Good(text) => ("good", "✔", Tint::Good, text.clone(), None),
            Health::Trouble { what, cure } => ("trouble", "✖", Tint::Bad, what.trim_end().to_owned(), Some(*cure)),
            Health::Missing { what, means } => {
                ("missing", "–", Tint::Faint, format!("{what}; without it: {means}"), None)
            }
        };
        if status == "trouble" {
            exit = Exit::Found;
        }
        if session.out.is_json() {
            session.out.json(
                &json!({"schema": "malachor.doctor/1", "what": what, "status": status, "say": say, "cure": cure}),
            );
            continue;
        }
        // A complaint of several lines points at a place in them: it stays as it is.
        let lines: Vec<String> = say.lines().map(shown::piece).collect();
        let say = if let [line] = lines.as_slice() { fold(line, 90, &" ".repeat(17)) } else { lines.join("\n    ") };
        session.out.line(format!("{} {what:<14} {say}", session.out.tint(tint, symbol)));
        if let Some(cure) = cure {
            session.out.line(format!("    → {}", fold(cure, 90, "      ")));
        }
    }
    exit
}
