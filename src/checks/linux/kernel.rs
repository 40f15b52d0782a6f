//! Kernel: which one runs, and whether a restart is needed to run the one that is installed.

use serde_json::Value;

use super::nixos;
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Host, HostError};

const MARKER: &str = "/run/reboot-required";
const MODULES: &str = "/lib/modules";

/// Facts: `running`, `nixos`, `reboot_pending`, `pending_d`, `uptime_d`.
pub(super) fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    let running = host.read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned());
    facts.learn("running", running.clone());
    facts.learn("uptime_d", uptime_d(host));
    let is_nixos = nixos::is_nixos(host);
    facts.set("nixos", is_nixos);
    let pending =
        if is_nixos { nixos::reboot_pending(host) } else { running.and_then(|running| pending(host, &running)) };
    match pending {
        Ok(pending) => {
            facts.set("reboot_pending", pending);
            let since = if is_nixos { "/nix/var/nix/profiles/system" } else { MARKER };
            let age =
                host.stat(since).ok().and_then(|stat| stat.modified).map(|then| context.seconds_since(then) / 86_400);
            facts.set("pending_d", age.filter(|_| pending).map_or(Value::Null, Value::from));
        }
        Err(error) => facts.fail_all(&["reboot_pending", "pending_d"], &error),
    }
    facts.into()
}

/// Debian's marker says so; else the newest installed kernel must be the running one.
fn pending(host: &Host, running: &str) -> Result<bool, HostError> {
    if host.exists(MARKER) {
        return Ok(true);
    }
    let installed = host.list(MODULES).map_err(|error| match error {
        HostError::Missing(_) => {
            HostError::Missing("what tells whether a restart is due (a marker, installed kernels)".to_owned())
        }
        HostError::Denied(_) | HostError::Timeout { .. } | HostError::Garbage { .. } | HostError::Io { .. } => error,
    })?;
    // Left-over modules of a removed kernel do not count.
    let bootable = |name: &&String| host.exists(&format!("/boot/vmlinuz-{name}"));
    let newest = installed.iter().filter(bootable).max_by_key(|name| version(name));
    match newest {
        Some(newest) => Ok(version(newest) > version(running) || !installed.iter().any(|name| name == running)),
        None => Err(HostError::Missing("an installed kernel".to_owned())),
    }
}

/// Numbers compare as numbers: 6.1.0-9 comes before 6.1.0-10.
fn version(name: &str) -> Vec<(u64, String)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let word = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, tail) = rest.split_at(word);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (digits, tail) = tail.split_at(end);
        parts.push((digits.parse().unwrap_or(0), text.to_owned()));
        rest = tail;
    }
    parts
}

fn uptime_d(host: &Host) -> Result<u64, HostError> {
    const PATH: &str = "/proc/uptime";
    let text = host.read(PATH)?;
    let seconds: Option<u64> = text.split('.').next().and_then(|seconds| seconds.parse().ok());
    seconds
        .map(|seconds| seconds / 86_400)
        .ok_or(HostError::Garbage { what: PATH.to_owned(), why: "no number".to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::drift::tests::machine as nixos;
    use super::super::fixture::Tree;
    use super::*;

    const ID: &str = "RB-LNX-KERNEL-001";

    fn debian(running: &str, installed: &[&str]) -> Tree {
        let tree = Tree::new()
            .file("/proc/sys/kernel/osrelease", &format!("{running}\n"))
            .file("/proc/uptime", "864000.5 1.0\n");
        installed.iter().fold(tree, |tree, name| {
            tree.dir(&format!("/lib/modules/{name}")).file(&format!("/boot/vmlinuz-{name}"), "")
        })
    }

    #[test]
    fn the_newest_kernel_runs_or_waits() {
        let both = ["6.1.0-9-amd64", "6.1.0-10-amd64"];
        assert_eq!(debian("6.1.0-10-amd64", &both).judge(ID, &json!({})), ("pass", vec![]));
        assert_eq!(debian("6.1.0-9-amd64", &both).judge(ID, &json!({})), ("warn", vec!["reboot_pending".into()]));
        let gone = debian("6.1.0-9-amd64", &["6.1.0-8-amd64"]).judge(ID, &json!({}));
        assert_eq!(gone, ("warn", vec!["reboot_pending".into()]));
    }

    #[test]
    fn a_marker_that_waits_too_long_fails() {
        let young = debian("6.1.0-9-amd64", &["6.1.0-9-amd64"]).file(MARKER, "").aged(MARKER, 24);
        assert_eq!(young.judge(ID, &json!({})), ("warn", vec!["reboot_pending".into()]));
        let old = young.aged(MARKER, 24 * 20);
        assert_eq!(old.judge(ID, &json!({})), ("fail", vec!["reboot_overdue".into()]));
    }

    #[test]
    fn nixos_compares_what_was_started_with_what_is_set() {
        let running = |tree: Tree| tree.file("/proc/sys/kernel/osrelease", "6.6.1\n").file("/proc/uptime", "5.0 1.0\n");
        assert_eq!(running(nixos("a", "a", "a")).judge(ID, &json!({})), ("pass", vec![]));
        let pending = running(nixos("b", "b", "a")).finding(ID, &json!({}));
        assert_eq!(pending.observation.facts["reboot_pending"], json!(true));
    }

    #[test]
    fn neither_marker_nor_modules_is_unknown() {
        assert_eq!(Tree::new().judge(ID, &json!({})).0, "unknown");
        let container = Tree::new().file("/proc/sys/kernel/osrelease", "6.1.0\n").file("/proc/uptime", "5.0 1.0\n");
        assert_eq!(container.judge(ID, &json!({})).0, "unknown");
    }
}
