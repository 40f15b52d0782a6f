//! The ruleset file that healing would load: tried in a network namespace of its own before anything relies on it, and
//! whether loading it would wipe rules of other programs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::nft::Ruleset;
use super::sockets::Session;
use crate::host::{Cmd, Host, HostError};

const RULESET_CAP: usize = 16 * 1024 * 1024;

/// Chains other programs keep, by how their names begin, and whose they are.
const OWNERS: &[(&str, &str)] = &[
    ("ufw", "ufw"),
    ("DOCKER", "docker"),
    ("LIBVIRT_", "libvirt"),
    ("f2b-", "fail2ban"),
    ("KUBE-", "kubernetes"),
    ("CNI-", "container networks"),
    ("NETAVARK", "podman"),
    ("ts-", "tailscale"),
    ("nixos-fw", "the NixOS firewall"),
];
/// Tables other programs keep, by how their names begin.
const OWNED_TABLES: &[(&str, &str)] = &[
    ("docker", "docker"),
    ("libvirt", "libvirt"),
    ("f2b", "fail2ban"),
    ("firewalld", "firewalld"),
    ("netavark", "podman"),
    ("kube", "kubernetes"),
    ("nixos-fw", "the NixOS firewall"),
];
/// Base chains as iptables names them.
const OF_IPTABLES: &[&str] = &["INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"];

/// What the kernel makes of a ruleset file, loaded where it filters nothing: its answer to `nft -j list ruleset`.
///
/// A file that names an interface by `iif` loads only where that interface is, and is therefore not known.
pub(super) async fn tried(host: &Host, path: &str) -> Result<(Value, Ruleset), HostError> {
    if path.contains(['"', '\\', '\n', '*', '?', '[']) {
        return Err(garbage(path, "a name that cannot be given to nft"));
    }
    // Only its interactive form runs two commands one after the other; it would keep a history at home, and has none here.
    let cmd = Cmd::new(["unshare", "--net", "--", "nft", "-i", "-j"])
        .stdin(format!("include \"{path}\"\nlist ruleset\n"))
        .env("HOME", "/proc")
        .cap(RULESET_CAP);
    let what = cmd.line();
    let output = host.run_ok(cmd).await?;
    // nft ends with success even if it could not read the file.
    if !output.stderr.trim().is_empty() {
        return Err(garbage(path, output.first_line()));
    }
    let answer = output.json(&what)?;
    let ruleset = Ruleset::parse(&answer).ok_or_else(|| garbage(&what, "JSON that is not a ruleset"))?;
    Ok((answer, ruleset))
}

/// Tables of the running ruleset that other programs made and a flush would wipe, with whose they are.
pub(super) fn foreign(answer: &Value, running: &Ruleset, ignored: &[&str], baseline: Option<&Ruleset>) -> Value {
    let mut found: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let mut note = |table: String, owner| found.entry(table).or_default().insert(owner);
    for table in &running.tables {
        let name = table.split(' ').nth(1).unwrap_or_default();
        if let Some((_, owner)) = OWNED_TABLES.iter().find(|(start, _)| name.starts_with(start)) {
            note(table.clone(), owner);
        } else if ignored.contains(&table.as_str()) {
            note(table.clone(), "another program");
        }
    }
    for (family, table, chain) in running.places() {
        let table = format!("{family} {table}");
        if let Some((_, owner)) = OWNERS.iter().find(|(start, _)| chain.starts_with(start)) {
            note(table, owner);
        } else if OF_IPTABLES.contains(&chain.as_str())
            && !baseline.is_some_and(|baseline| baseline.tables.contains(&table))
        {
            note(table, "iptables");
        }
    }
    for rule in answer.get("nftables").and_then(Value::as_array).into_iter().flatten().filter_map(|it| it.get("rule")) {
        let expr = rule.get("expr").and_then(Value::as_array);
        if expr.is_some_and(|expr| expr.iter().any(|statement| statement.get("xt").is_some())) {
            let text = |key: &str| rule.get(key).and_then(Value::as_str).unwrap_or_default();
            note(format!("{} {}", text("family"), text("table")), "iptables");
        }
    }
    found
        .into_iter()
        .map(|(table, owners)| json!(format!("{table} ({})", owners.into_iter().collect::<Vec<_>>().join(", "))))
        .collect()
}

/// Ports of sessions that a ruleset would not let in again.
pub(super) fn shuts_out(sessions: &[Session], opened: impl Fn(&Session) -> bool) -> BTreeSet<u16> {
    sessions.iter().filter(|session| !opened(session)).map(|session| session.port).collect()
}

/// Rules of the old iptables, which the kernel keeps beside nftables: 0 where no table of theirs is loaded.
pub(super) async fn legacy_rules(host: &Host) -> Result<usize, HostError> {
    let mut rules = 0;
    for (names, tool) in
        [("/proc/net/ip_tables_names", "iptables-legacy-save"), ("/proc/net/ip6_tables_names", "ip6tables-legacy-save")]
    {
        match host.read(names) {
            Ok(text) if text.trim().is_empty() => continue,
            Ok(_) => {}
            Err(HostError::Missing(_)) => continue,
            Err(error) => return Err(error),
        }
        let output = host.run_ok(Cmd::new([tool])).await?;
        // `:INPUT DROP [0:0]` is a policy; one that accepts is no rule.
        let policy = |line: &&str| line.starts_with(':') && line.split(' ').nth(1) == Some("DROP");
        rules += output.stdout.lines().filter(|line| line.starts_with("-A ") || policy(line)).count();
    }
    Ok(rules)
}

fn garbage(what: &str, why: &str) -> HostError {
    HostError::Garbage { what: what.to_owned(), why: why.to_owned() }
}
