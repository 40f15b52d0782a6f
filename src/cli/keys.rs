//! `malachor keys`: make and show the appliance's keys.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::app::{Identity, init_keys, keys_dir};
use crate::config::Site;
use crate::crypto::keys::VerifierKey;
use crate::host::Host;

use super::session::Session;
use super::{Exit, Failure};

/// Keys.
#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Make the keys of a new appliance; existing keys are never replaced
    Init(Init),
    /// Show the public keys: PEM, C2SP vkey, ssh `allowed_signers`
    Show,
}

#[derive(Debug, Args)]
pub(super) struct Init {
    /// Also make an offline recovery key and write its private part here; take it away from the appliance
    #[arg(long, value_name = "FILE")]
    recovery: Option<PathBuf>,
}

impl Keys {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let loaded = session.loaded()?;
        let state = &loaded.config.agent.state_dir;
        if let Self::Init(init) = &self {
            named(&loaded.config.site)?;
            init_keys(state, &loaded.config.site, init.recovery.as_deref())?;
            session.out.note(format!(
                "made the keys of {} in {}",
                loaded.config.site.origin(),
                keys_dir(state).display()
            ));
            if let Some(path) = &init.recovery {
                session
                    .out
                    .note(format!("recovery key in {}: keep it offline, away from this appliance", path.display()));
            }
        }
        let identity = Identity::open(state, &loaded.config.site, &Host::live())?;
        let (entry, head, recovery) = identity.public()?;
        for (role, key) in [("entry", Some(entry)), ("head", Some(head)), ("recovery", recovery)] {
            if let Some(key) = key {
                show(session, role, &key);
            }
        }
        Ok(Exit::Ok)
    }
}

/// Refuses the names of the examples: a log keeps its name for ever.
pub(super) fn named(site: &Site) -> Result<(), Failure> {
    if *site != (Site { timezone: site.timezone.clone(), ..Site::default() }) {
        return Ok(());
    }
    let message = "set operator_domain, id and appliance in [site] first: they name this appliance's log for ever";
    Err(Failure::new(Exit::Usage, message))
}

fn show(session: &Session<'_>, role: &str, key: &VerifierKey) {
    let (pem, ssh) = (key.key.to_spki_pem(), key.key.to_allowed_signers(key.name.as_str(), "malachor-evidence"));
    if session.out.is_json() {
        session.out.json(&json!({
            "schema": "malachor.key/1", "role": role, "vkey": key.to_string(), "spki": pem, "allowedSigners": ssh.trim_end(),
            "fingerprint": key.key.fingerprint(),
        }));
        return;
    }
    session.out.line(format!("{role} key, SPKI sha256 {}", key.key.fingerprint()));
    session.out.line(format!("vkey             {key}"));
    session.out.line(format!("allowed_signers  {}", ssh.trim_end()));
    session.out.raw(&pem);
}
