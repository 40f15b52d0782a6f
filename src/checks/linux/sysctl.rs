//! Kernel settings that make break-ins harder, as they are in force now, and modules that must not be loaded.

use serde_json::{Value, json};

use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Host, HostError};

/// What a setting of the kernel has to be.
enum Wanted {
    /// Exactly this.
    Is(i64),
    /// This or more.
    Least(i64),
    /// This or less.
    Most(i64),
}

/// Settings of every Linux host: `proc(5)`, the kernel's `admin-guide/sysctl` and `networking/ip-sysctl`.
const SETTINGS: &[(&str, Wanted)] = &[
    ("kernel.randomize_va_space", Wanted::Is(2)),
    ("kernel.kptr_restrict", Wanted::Least(1)),
    ("kernel.dmesg_restrict", Wanted::Is(1)),
    ("kernel.yama.ptrace_scope", Wanted::Least(1)),
    ("fs.protected_symlinks", Wanted::Is(1)),
    ("fs.protected_hardlinks", Wanted::Is(1)),
    ("net.ipv4.tcp_syncookies", Wanted::Least(1)),
    ("net.ipv4.icmp_echo_ignore_broadcasts", Wanted::Is(1)),
];

/// Settings every interface has, those to come (`default`) included: one that is open is enough, whatever `all` says.
const OF_INTERFACES: &[(&str, &str, Wanted)] = &[
    ("net.ipv4.conf", "accept_redirects", Wanted::Is(0)),
    ("net.ipv4.conf", "accept_source_route", Wanted::Is(0)),
    ("net.ipv6.conf", "accept_redirects", Wanted::Is(0)),
    // Below zero not even what the kernel still takes of it.
    ("net.ipv6.conf", "accept_source_route", Wanted::Most(0)),
];

/// Facts: `settings` (`[{name, value, wanted, ok}]`; a setting this kernel does not have is left out), `core`
/// (`{suid_dumpable, pattern, exposed}`), `loaded` (names of `settings.forbidden_modules` that are loaded).
pub(super) fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    let skipped = context.list("skip");
    facts.learn("settings", settings(host, &skipped));
    facts.learn("core", core(host));
    facts.learn("loaded", loaded(host, &context.list("forbidden_modules")));
    facts.into()
}

fn settings(host: &Host, skipped: &[&str]) -> Result<Vec<Value>, HostError> {
    let mut found = Vec::new();
    for (name, wanted) in SETTINGS.iter().filter(|(name, _)| !skipped.contains(name)) {
        found.extend(setting(host, name, wanted)?);
    }
    for (group, last, wanted) in OF_INTERFACES {
        // Who leaves out `all` means every interface.
        if skipped.contains(&format!("{group}.all.{last}").as_str()) {
            continue;
        }
        let interfaces = match host.list(&path(group)) {
            Ok(interfaces) => interfaces,
            // Without IPv6 there are none.
            Err(HostError::Missing(_)) if host.exists("/proc/sys/kernel/osrelease") => continue,
            Err(error) => return Err(error),
        };
        // Nobody else sends to this one.
        for interface in interfaces.iter().filter(|interface| *interface != "lo") {
            // sysctl(8) writes a dot within a name as a slash.
            let name = format!("{group}.{}.{last}", interface.replace('.', "/"));
            if !skipped.contains(&name.as_str()) {
                found.extend(setting(host, &name, wanted)?);
            }
        }
    }
    Ok(found)
}

fn setting(host: &Host, name: &str, wanted: &Wanted) -> Result<Option<Value>, HostError> {
    let path = path(name);
    let value = match number(host, &path) {
        Ok(value) => value,
        // Without IPv6 or Yama there is nothing to set; without `/proc` nothing is known at all.
        Err(HostError::Missing(_)) if host.exists("/proc/sys/kernel/osrelease") => return Ok(None),
        Err(error) => return Err(error),
    };
    let (ok, least) = match wanted {
        Wanted::Is(wanted) => (value == *wanted, wanted),
        Wanted::Least(wanted) => (value >= *wanted, wanted),
        Wanted::Most(wanted) => (value <= *wanted, wanted),
    };
    Ok(Some(json!({"name": name, "value": value, "wanted": least, "ok": ok})))
}

fn path(name: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    format!("/proc/sys/{}", name.chars().map(swap).collect::<String>())
}

fn number(host: &Host, path: &str) -> Result<i64, HostError> {
    let text = host.read(path)?;
    text.trim().parse().map_err(|_| HostError::Garbage { what: path.to_owned(), why: "no whole number".to_owned() })
}

/// Memory of privileged programs that crash: 0 writes none, 1 writes it for everybody, 2 for root only and only to a
/// program or an absolute path (`proc(5)`, `/proc/sys/fs/suid_dumpable`).
fn core(host: &Host) -> Result<Value, HostError> {
    let dumpable = number(host, "/proc/sys/fs/suid_dumpable")?;
    let pattern = host.read("/proc/sys/kernel/core_pattern")?.trim().to_owned();
    let safe = dumpable == 0 || (dumpable == 2 && pattern.starts_with(['|', '/']));
    Ok(json!({"suid_dumpable": dumpable, "pattern": pattern, "exposed": !safe}))
}

fn loaded(host: &Host, forbidden: &[&str]) -> Result<Value, HostError> {
    let modules = match host.read("/proc/modules") {
        Ok(text) => text,
        // A kernel without loadable modules has loaded none.
        Err(HostError::Missing(_)) if host.exists("/proc/sys/kernel/osrelease") => String::new(),
        Err(error) => return Err(error),
    };
    let names: Vec<&str> = modules.lines().filter_map(|line| line.split(' ').next()).collect();
    // The kernel writes `_` where people write `-`.
    Ok(forbidden
        .iter()
        .filter(|name| names.contains(&name.replace('-', "_").as_str()))
        .map(|name| json!(name))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Tree;
    use super::*;

    const ID: &str = "RB-LNX-SYSCTL-001";

    fn hardened() -> Tree {
        let tree = Tree::new()
            .file("/proc/sys/kernel/osrelease", "6.1.0\n")
            .file("/proc/sys/fs/suid_dumpable", "0\n")
            .file("/proc/sys/kernel/core_pattern", "core\n")
            .file("/proc/modules", "usb_storage 81920 0 - Live 0x0000000000000000\nxfs 1 0 - Live 0x0\n");
        let tree = ["all", "default", "lo", "eth0", "eth0.7"].iter().fold(tree, |tree, interface| {
            OF_INTERFACES.iter().fold(tree, |tree, (group, last, _)| {
                tree.file(
                    &format!("{}/{interface}/{last}", path(group)),
                    if *interface == "lo" { "1\n" } else { "0\n" },
                )
            })
        });
        SETTINGS.iter().fold(tree, |tree, (name, wanted)| {
            let (Wanted::Is(value) | Wanted::Least(value) | Wanted::Most(value)) = wanted;
            tree.file(&path(name), &format!("{value}\n"))
        })
    }

    #[test]
    fn a_hardened_kernel_passes_and_each_weakened_setting_fails() {
        assert_eq!(hardened().judge(ID, &json!({})), ("pass", vec![]));
        for (name, wanted) in SETTINGS {
            let (Wanted::Is(value) | Wanted::Least(value) | Wanted::Most(value)) = wanted;
            let weak = hardened().file(&path(name), &format!("{}\n", value - 1));
            assert_eq!(weak.judge(ID, &json!({})), ("fail", vec!["weak_setting".into()]), "{name}");
            assert_eq!(weak.judge(ID, &json!({"skip": [name]})).0, "pass", "{name} is skipped");
        }
        assert_eq!(hardened().file(&path("kernel.kptr_restrict"), "2\n").judge(ID, &json!({})).0, "pass");
    }

    #[test]
    fn every_interface_counts_and_those_to_come_do_too() {
        for interface in ["all", "default", "eth0", "eth0/7"] {
            for (group, last, _) in OF_INTERFACES {
                let name = format!("{group}.{interface}.{last}");
                let weak = hardened().file(&path(&name), "1\n");
                assert_eq!(weak.judge(ID, &json!({})), ("fail", vec!["weak_setting".into()]), "{name}");
                let file = super::super::fixture::written(ID, &json!({}), &weak);
                assert!(file.lines().any(|line| line.trim_start_matches('-') == format!("{name} = 0")), "{file}");
                assert_eq!(weak.judge(ID, &json!({"skip": [name]})).0, "pass");
                let all = format!("{group}.all.{last}");
                assert_eq!(weak.judge(ID, &json!({"skip": [all]})).0, "pass");
            }
        }
        assert_eq!(
            hardened().file(&path("net.ipv6.conf.eth0.accept_source_route"), "-1\n").judge(ID, &json!({})).0,
            "pass"
        );
        assert_eq!(hardened().file(&path("net.ipv4.tcp_syncookies"), "2\n").judge(ID, &json!({})).0, "pass");
    }

    #[test]
    fn memory_of_privileged_programs_stays_with_root() {
        let with = |dumpable: &str, pattern: &str| {
            hardened()
                .file("/proc/sys/fs/suid_dumpable", dumpable)
                .file("/proc/sys/kernel/core_pattern", pattern)
                .judge(ID, &json!({}))
        };
        assert_eq!(with("1\n", "core\n"), ("fail", vec!["core_exposed".into()]));
        assert_eq!(with("2\n", "core\n"), ("fail", vec!["core_exposed".into()]));
        assert_eq!(with("2\n", "|/lib/systemd/systemd-coredump %P\n").0, "pass");
    }

    #[test]
    fn forbidden_modules_are_named_as_people_write_them() {
        let forbidden = json!({"forbidden_modules": ["usb-storage", "firewire-core"]});
        assert_eq!(hardened().judge(ID, &forbidden), ("fail", vec!["module_loaded".into()]));
        let none = json!({"forbidden_modules": ["firewire-core"]});
        assert_eq!(hardened().judge(ID, &none), ("pass", vec![]));
    }

    #[test]
    fn without_proc_and_with_garbage_it_is_unknown() {
        assert_eq!(Tree::new().judge(ID, &json!({})).0, "unknown");
        assert_eq!(hardened().file(&path("kernel.dmesg_restrict"), "yes\n").judge(ID, &json!({})).0, "unknown");
    }
}
