//! `malachor config`: check, show.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::app::check_settings;
use crate::catalog::Catalog;

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
                let catalog = Catalog::load(loaded.config.catalog.dir.as_deref())?;
                check_settings(&loaded, &catalog)?;
                let file =
                    session.config_file().map_or_else(|| "the defaults".to_owned(), |file| file.display().to_string());
                session.out.line(format!(
                    "{file}: sound, with {} runbooks and {} rules",
                    catalog.runbooks.len(),
                    catalog.rules.iter().count()
                ));
            }
            Self::Show(show) => {
                for (key, value, origin) in loaded.values() {
                    if session.out.is_json() {
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
