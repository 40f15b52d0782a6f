//! NixOS generations, from the links that make them: what is set for the next start, what runs, what was started.

use serde_json::{Value, json};

use crate::checks::run::Context;
use crate::host::{Host, HostError};

const PROFILE: &str = "/nix/var/nix/profiles/system";
const CURRENT: &str = "/run/current-system";
const BOOTED: &str = "/run/booted-system";
/// What only a restart replaces.
const BOOT_PARTS: &[&str] = &["kernel", "initrd", "kernel-modules"];

/// Whether this is NixOS.
pub(super) fn is_nixos(host: &Host) -> bool {
    host.exists("/etc/NIXOS") || host.exists(PROFILE)
}

/// Store paths of profile, current and booted system, and the profile's generation.
pub(super) fn generations(context: Context<'_>) -> Result<Value, HostError> {
    let host = context.host;
    let link = host.read_link(PROFILE)?;
    let number: Option<u64> = link.strip_prefix("system-").and_then(|rest| rest.strip_suffix("-link")?.parse().ok());
    let number =
        number.ok_or(HostError::Garbage { what: PROFILE.to_owned(), why: "not a link to a generation".to_owned() })?;
    let profile = host.read_link(&format!("/nix/var/nix/profiles/{link}"))?;
    let set = host.stat(PROFILE)?.modified;
    Ok(json!({
        "generation": number, "profile": profile, "current": host.read_link(CURRENT)?, "booted": host.read_link(BOOTED)?,
        "set_age_d": set.map(|set| context.seconds_since(set) / 86_400),
    }))
}

/// Whether the next start would bring another kernel than the one that runs.
pub(super) fn reboot_pending(host: &Host) -> Result<bool, HostError> {
    let link = host.read_link(PROFILE)?;
    let (booted, profile) = (host.read_link(BOOTED)?, host.read_link(&format!("/nix/var/nix/profiles/{link}"))?);
    for part in BOOT_PARTS {
        if host.read_link(&format!("{booted}/{part}"))? != host.read_link(&format!("{profile}/{part}"))? {
            return Ok(true);
        }
    }
    Ok(false)
}
