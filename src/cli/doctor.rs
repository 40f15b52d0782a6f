//! `malachor doctor`: is everything here that this appliance needs?

use clap::Args;
use serde_json::json;

use crate::app::App;
use crate::host::{Cmd, Host};

use super::output::Tint;
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

impl Doctor {
    #[expect(clippy::unused_self, reason = "every subcommand runs the same way")]
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let mut found = vec![("configuration", config(session))];
        let app = session.app();
        found.push(("state, keys", state(&app)));
        session.block_on(async {
            if let Ok(app) = &app {
                found.push(("log", log(app).await));
                found.push(("database", database(app).await));
                found.push(("room", room(app)));
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

fn config(session: &Session<'_>) -> Health {
    match session.loaded().and_then(|loaded| Ok((session.catalog()?, loaded))) {
        Ok((catalog, _)) => {
            Health::Good(format!("sound; {} runbooks, {} rules", catalog.runbooks.len(), catalog.rules.iter().count()))
        }
        Err(failure) => Health::Trouble {
            what: failure.message,
            cure: "mend the line it names; `malachor config check` shows it again",
        },
    }
}

fn state(app: &Result<App, Failure>) -> Health {
    match app {
        Ok(app) => Health::Good(format!("{} of {}", app.state_dir().display(), app.identity.origin())),
        Err(failure) => Health::Trouble {
            what: failure.message.clone(),
            cure: "`malachor keys init` makes an appliance's keys; name a configuration with --config",
        },
    }
}

async fn log(app: &App) -> Health {
    let key = match app.identity.public() {
        Ok((_, head, _)) => head,
        Err(error) => return Health::Trouble { what: error.to_string(), cure: "restore the keys folder" },
    };
    match app.store.read(move |tx| tx.check_head(&key)).await {
        Ok(Some(head)) => Health::Good(format!("{} entries, last head holds", head.size)),
        Ok(None) => Health::Missing { what: "empty".to_owned(), means: "it begins when the agent starts" },
        Err(error) => Health::Trouble {
            what: error.to_string(),
            cure: "keep the directory as it is and run `malachor evidence verify`",
        },
    }
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
        let (status, symbol, tint, text) = match health {
            Health::Good(text) => ("good", "✔", Tint::Good, text.clone()),
            Health::Trouble { what, cure } => ("trouble", "✖", Tint::Bad, format!("{what}\n    → {cure}")),
            Health::Missing { what, means } => ("missing", "–", Tint::Faint, format!("{what}; without it: {means}")),
        };
        if status == "trouble" {
            exit = Exit::Found;
        }
        if session.out.is_json() {
            session.out.json(&json!({"schema": "malachor.doctor/1", "what": what, "status": status, "say": text}));
        } else {
            session.out.line(format!("{} {what:<14} {text}", session.out.tint(tint, symbol)));
        }
    }
    exit
}
