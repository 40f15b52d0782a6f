//! `malachor config`: check, show.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::app::check_settings;
use crate::catalog::Catalog;
use crate::config::SOURCES;
use crate::domain::id::CheckId;
use crate::domain::schema::HIDDEN;
use crate::shown;

use super::session::Session;
use super::{Exit, Failure};

/// Configuration.
#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Check the configuration and the content it names; mistakes are shown with file and line
    Check,
    /// Show every value
    Show(Show),
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// Where each value comes from
    #[arg(long)]
    origin: bool,
}

impl Config {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let loaded = session.loaded()?;
        match self {
            Self::Check => {
                let catalog = crate::app::content(&loaded)?;
                check_settings(&loaded, &catalog)?;
                let file =
                    session.config_file().map_or_else(|| "the defaults".to_owned(), |file| file.display().to_string());
                let (runbooks, rules) = (catalog.runbooks.len(), catalog.rules.iter().count());
                if session.out.is_json() {
                    session.out.json(&json!({
                        "schema": "malachor.config_check/1", "file": session.config_file(), "runbooks": runbooks, "rules": rules,
                    }));
                } else {
                    session
                        .out
                        .line(format!("{}: sound, with {runbooks} runbooks and {rules} rules", shown::piece(&file)));
                }
            }
            Self::Show(show) => {
                // What is secret says the content; broken content must not be the reason to show it.
                let catalog = session.catalog().or_else(|_| Ok::<_, Failure>(Catalog::load(None)?))?;
                for (key, value, origin) in loaded.values() {
                    let value = if may_be_seen(&key, &catalog) { value } else { format!("\"{HIDDEN}\"") };
                    if session.out.is_json() {
                        let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
                        session.out.json(&json!({"schema": "malachor.config/1", "key": key, "value": value, "origin": origin.to_string()}));
                    } else if show.origin {
                        session.out.line(format!("{key} = {value}  # {origin}"));
                    } else {
                        session.out.line(format!("{key} = {value}"));
                    }
                }
            }
        }
        Ok(Exit::Ok)
    }
}

/// Whether a value may be shown: of the runbooks' settings only those that are known not to be secret, and of secrets where
/// they are kept.
fn may_be_seen(key: &str, catalog: &Catalog) -> bool {
    let setting = key.strip_prefix("runbooks.").and_then(|rest| rest.split_once(".settings."));
    let Some((runbook, setting)) = setting else { return true };
    let (name, source) = setting.split_once('.').unwrap_or((setting, ""));
    let runbook = runbook.parse::<CheckId>().ok().and_then(|id| catalog.runbooks.get(&id));
    let field = runbook.and_then(|runbook| runbook.settings.fields().find(|(field, _)| *field == name));
    field.is_some_and(|(_, field)| !field.secret || SOURCES.contains(&source))
}
