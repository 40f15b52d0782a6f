//! What systemd says about its units, by `systemctl show`: key=value, never prose.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::host::{Cmd, Host, HostError};

const PROPERTIES: &str = "Id,LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts";

/// Refuses where systemd is not the service manager, as `sd_booted(3)` tells it.
pub(super) fn booted(host: &Host) -> Result<(), HostError> {
    if host.exists("/run/systemd/system") {
        return Ok(());
    }
    Err(HostError::Io { what: "systemd".to_owned(), why: "this machine was not booted with it".to_owned() })
}

/// One unit as systemd sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    /// As asked for.
    pub(super) name: String,
    /// `loaded`, `not-found`, `masked`, …
    pub(super) load: String,
    /// `active`, `inactive`, `failed`, …
    pub(super) active: String,
    /// `running`, `exited`, `dead`, …
    pub(super) sub: String,
    /// `enabled`, `disabled`, `static`, `masked`, …; empty where there is no unit file.
    pub(super) enabled: String,
    /// `success`, or what ended its last run.
    pub(super) result: String,
    /// Automatic restarts since it was loaded.
    pub(super) restarts: i64,
}

impl Unit {
    /// Whether a unit file (or a generator) provides it.
    pub(super) fn installed(&self) -> bool {
        self.load != "not-found"
    }

    /// Whether it is up.
    pub(super) fn is_active(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading")
    }

    /// Whether it is locked against starting.
    pub(super) fn is_masked(&self) -> bool {
        self.load == "masked" || self.enabled.starts_with("masked")
    }

    /// All of it as a fact.
    pub(super) fn fact(&self) -> Value {
        json!({
            "unit": self.name, "load": self.load, "active": self.active, "sub": self.sub, "enabled": self.enabled,
            "masked": self.is_masked(), "installed": self.installed(),
            "up": self.is_active(), "result": self.result, "restarts": self.restarts,
        })
    }
}

/// Asks for one unit; a unit that does not exist is an answer, not an error.
pub(super) async fn show(host: &Host, name: &str) -> Result<Unit, HostError> {
    booted(host)?;
    let cmd = Cmd::new(["systemctl", "show", "--no-pager", "-p", PROPERTIES, "--", name]);
    let what = cmd.line();
    let output = host.run_ok(cmd).await?;
    let block = blocks(&output.stdout).into_iter().next().unwrap_or_default();
    unit(name, &block).ok_or_else(|| HostError::Garbage { what, why: "no unit properties in the answer".to_owned() })
}

/// Asks for several units; the first that cannot be asked for ends it.
pub(super) async fn show_all(host: &Host, names: &[&str]) -> Result<Vec<Unit>, HostError> {
    let mut units = Vec::new();
    for name in names {
        units.push(show(host, name).await?);
    }
    Ok(units)
}

/// The first of several names that is installed.
pub(super) async fn first_installed(host: &Host, names: &[&str]) -> Result<Option<Unit>, HostError> {
    Ok(show_all(host, names).await?.into_iter().find(Unit::installed))
}

/// Units as a list of facts.
pub(super) fn facts(units: &[Unit]) -> Value {
    units.iter().map(Unit::fact).collect()
}

/// Key=value blocks, separated by empty lines.
pub(super) fn blocks(text: &str) -> Vec<BTreeMap<&str, &str>> {
    let pairs = |part| str::lines(part).filter_map(|line| line.split_once('=')).collect::<BTreeMap<_, _>>();
    text.split("\n\n").map(pairs).filter(|block| !block.is_empty()).collect()
}

fn unit(name: &str, block: &BTreeMap<&str, &str>) -> Option<Unit> {
    let text = |key| block.get(key).map(|value| (*value).to_owned());
    Some(Unit {
        name: name.to_owned(),
        load: text("LoadState")?,
        active: text("ActiveState")?,
        sub: text("SubState")?,
        enabled: text("UnitFileState").unwrap_or_default(),
        result: text("Result").unwrap_or_default(),
        restarts: block.get("NRestarts").and_then(|count| count.parse().ok()).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, on_runtime};
    use super::*;
    use crate::domain::finding::ProblemKind;

    #[test]
    fn without_systemd_it_is_unavailable() {
        let error = on_runtime(show(&Tree::new().host(), "ssh.service")).unwrap_err();
        assert_eq!(error.kind(), ProblemKind::Unavailable);
        assert!(error.to_string().contains("not booted"), "{error}");
    }

    #[test]
    fn a_unit_that_is_not_there_is_an_answer() {
        let tree = Tree::new().systemd().unit("x.service", "not-found", "inactive", "dead", "");
        let unit = on_runtime(show(&tree.host(), "x.service")).unwrap();
        assert!(!unit.installed() && !unit.is_active());
    }

    #[test]
    fn garbage_is_garbage() {
        let line = format!("systemctl show --no-pager -p {PROPERTIES} -- x.service");
        let tree = Tree::new().systemd().answer(&line, "hello");
        assert_eq!(on_runtime(show(&tree.host(), "x.service")).unwrap_err().kind(), ProblemKind::Garbage);
    }
}
