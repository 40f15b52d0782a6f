//! Units as systemd sees them, in its machine-readable form.

use std::time::Duration;

use crate::host::{Cmd, Host, HostError};

/// A unit as systemd sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnitState {
    pub(super) loaded: bool,
    pub(super) active: bool,
    pub(super) failed: bool,
    pub(super) file_state: String,
}

/// Asks systemd for a unit's state, in its machine-readable form.
pub(super) async fn unit_state(host: &Host, unit: &str) -> Result<UnitState, HostError> {
    let argv = ["systemctl", "show", "--property=LoadState,ActiveState,UnitFileState", "--", unit];
    let output = host.run_ok(Cmd::new(argv)).await?;
    let value = |name: &str| {
        output.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default().to_owned()
    };
    let (load, active) = (value("LoadState"), value("ActiveState"));
    if load.is_empty() {
        return Err(HostError::Garbage { what: format!("systemctl show {unit}"), why: "no LoadState".to_owned() });
    }
    Ok(UnitState {
        // A masked unit is known to systemd and can be unmasked.
        loaded: load == "loaded" || load == "masked",
        active: matches!(active.as_str(), "active" | "reloading"),
        failed: active == "failed",
        file_state: value("UnitFileState"),
    })
}

/// Runs one systemctl verb that must succeed.
pub(super) async fn systemctl(host: &Host, verb: &str, unit: &str) -> Result<(), HostError> {
    host.run_ok(Cmd::new(["systemctl", verb, "--", unit]).timeout(Duration::from_secs(90))).await.map(drop)
}
