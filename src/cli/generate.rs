//! Completions and manual pages, made from the command line's own description.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use super::session::Session;
use super::{Exit, Failure};

/// Print completions for a shell.
#[derive(Debug, Args)]
pub(super) struct Completions {
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, session: &Session<'_>, command: &mut clap::Command) -> Exit {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, command, "malachor", &mut script);
        session.out.raw(&String::from_utf8_lossy(&script));
        Exit::Ok
    }
}

/// Print the manual page, or write one per command into a directory.
#[derive(Debug, Args)]
pub(super) struct Man {
    /// Directory for all pages
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(self, session: &Session<'_>, command: clap::Command) -> Result<Exit, Failure> {
        let Some(dir) = self.out else {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page).map_err(|error| Failure::unavailable(&error))?;
            session.out.raw(&String::from_utf8_lossy(&page));
            return Ok(Exit::Ok);
        };
        std::fs::create_dir_all(&dir)
            .and_then(|()| clap_mangen::generate_to(command, &dir))
            .map_err(|error| Failure::new(Exit::Unavailable, format!("{}: {error}", dir.display())))?;
        session.out.note(format!("manual pages are in {}", dir.display()));
        Ok(Exit::Ok)
    }
}
