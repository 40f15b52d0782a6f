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
    ("cali-", "Calico"),
    ("sshguard", "sshguard"),
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
    ("lxd", "LXD"),
    ("incus", "Incus"),
    ("crowdsec", "CrowdSec"),
    ("sshguard", "sshguard"),
    ("wg-quick", "WireGuard"),
    ("cilium", "Cilium"),
];
/// Base chains as iptables names them.
const OF_IPTABLES: &[&str] = &["INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"];

/// A chain nobody else has.
const PROBE: &str = "malachor_probe";
/// Interfaces a namespace is given so that rules with `iif` load there.
const INTERFACES: usize = 32;

/// A ruleset file as the kernel took it.
#[derive(Debug)]
pub(super) struct Trial {
    /// What was there after it was loaded.
    pub(super) ruleset: Ruleset,
    /// What went when it was loaded.
    pub(super) replaces: Replaces,
}

/// What loading a file takes away of what was loaded before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replaces {
    /// Every table, other programs' ones too.
    Everything,
    /// The tables it has itself.
    OwnTables,
    /// Less than that: what was opened by hand stays open.
    Nothing,
}

impl Replaces {
    /// As a fact.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::OwnTables => "own tables",
            Self::Nothing => "nothing",
        }
    }
}

/// Loads a ruleset file where it filters nothing, once by itself and once over rules that it ought to replace.
pub(super) async fn tried(host: &Host, path: &str) -> Result<Trial, HostError> {
    let ruleset = loaded(host, path, None).await?;
    let tables = ruleset.tables.iter().map(String::as_str);
    let probe = |table: &str| format!("table {table} {{ chain {PROBE} {{ counter; }}; }}");
    let probes = tables.chain(["inet malachor_probe"]).map(probe).collect::<Vec<_>>().join("\n");
    let over = loaded(host, path, Some(&probes)).await?;
    let left: Vec<String> =
        over.ruled().filter(|place| place.2 == PROBE).map(|(family, table, _)| format!("{family} {table}")).collect();
    let replaces = if left.is_empty() {
        Replaces::Everything
    } else if left.iter().any(|table| ruleset.tables.contains(table)) {
        Replaces::Nothing
    } else {
        Replaces::OwnTables
    };
    Ok(Trial { ruleset, replaces })
}

/// What the kernel lists after a file was loaded over other rules, in a network namespace that ends with the program.
async fn loaded(host: &Host, path: &str, over: Option<&str>) -> Result<Ruleset, HostError> {
    let output = host.run_ok(question(path, over, &[])).await?;
    let output = if output.stdout.trim().is_empty() && output.stderr.contains("Interface does not exist") {
        let names = host.list("/sys/class/net")?;
        let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| *name != "lo").take(INTERFACES).collect();
        host.run_ok(question(path, over, &names)).await?
    } else {
        output
    };
    // Of what it ran, `find` does not tell the status.
    if output.stdout.trim().is_empty() {
        return Err(garbage(path, output.first_line()));
    }
    let answer = output.json(path)?;
    Ruleset::parse(&answer).ok_or_else(|| garbage(path, "JSON that is not a ruleset"))
}

/// `find` is the program that runs others one after the other, each only if the one before succeeded.
fn question(path: &str, over: Option<&str>, interfaces: &[&str]) -> Cmd {
    let mut argv = vec!["unshare".to_owned(), "--net".to_owned(), "find".to_owned(), path.to_owned()];
    let mut run = |program: &[&str]| {
        argv.push("-exec".to_owned());
        argv.extend(program.iter().map(|word| (*word).to_owned()));
        argv.push(";".to_owned());
    };
    for (index, name) in interfaces.iter().enumerate() {
        run(&["ip", "link", "add", name, "type", "veth", "peer", "name", &format!("mlchr{index}")]);
    }
    if over.is_some() {
        run(&["nft", "-f", "-"]);
    }
    run(&["nft", "-f", "{}"]);
    run(&["nft", "-j", "list", "ruleset"]);
    argv.splice(4..4, ["-maxdepth".to_owned(), "0".to_owned()]);
    let cmd = Cmd::new(argv).cap(RULESET_CAP);
    match over {
        Some(rules) => cmd.stdin(rules),
        None => cmd,
    }
}

/// Tables of the running ruleset that somebody else made and loading the file would wipe, with whose they are.
///
/// Where it is not known what the file does, the tables of known programs are told.
pub(super) fn foreign(answer: &Value, running: &Ruleset, ignored: &[&str], file: Option<&Trial>) -> Value {
    let mut found: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let in_file = |table: &String| file.is_some_and(|file| file.ruleset.tables.contains(table));
    let stays = |table: &String| {
        file.is_some_and(|file| match file.replaces {
            Replaces::Everything => false,
            Replaces::OwnTables => !file.ruleset.tables.contains(table),
            Replaces::Nothing => true,
        })
    };
    let mut note = |table: String, owner| {
        if !stays(&table) {
            found.entry(table).or_default().insert(owner);
        }
    };
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
        } else if OF_IPTABLES.contains(&chain.as_str()) && !in_file(&table) {
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
    if file.is_some() {
        // Whoever made a table the file does not have would miss it.
        let unknown: BTreeSet<String> = running.ruled().map(|(family, table, _)| format!("{family} {table}")).collect();
        for table in unknown.into_iter().filter(|table| !in_file(table) && !stays(table)) {
            found.entry(table).or_insert_with(|| BTreeSet::from(["not in the file"]));
        }
    }
    found
        .into_iter()
        .map(|(table, owners)| json!(format!("{table} ({})", owners.into_iter().collect::<Vec<_>>().join(", "))))
        .collect()
}

/// Programs by which technicians come in; a socket unit listens for them in their name.
const WAYS_IN: &[&str] = &["sshd", "sshd-session", "dropbear", "cockpit-ws", "cockpit-tls", "xrdp", "systemd"];

/// Ports of sessions that a ruleset would not let in again, as far as somebody may need them to get in at all: those that
/// are allowed, and those of a way in or of a program that is not known. Closing any other is what it is loaded for.
pub(super) fn shuts_out(
    sessions: &[Session],
    (allowed, programs): (&[u16], &BTreeMap<u16, String>),
    opened: impl Fn(&Session) -> bool,
) -> BTreeSet<u16> {
    let needed = |session: &&Session| {
        allowed.contains(&session.port)
            || programs.get(&session.port).is_none_or(|program| WAYS_IN.contains(&program.as_str()))
    };
    sessions.iter().filter(|session| !opened(session)).filter(needed).map(|session| session.port).collect()
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
