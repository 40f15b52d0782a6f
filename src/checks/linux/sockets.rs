//! Listening sockets, from the kernel's own tables, and the program behind each.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::firewall::{self, Reach};
use super::history::History;
use crate::checks::run::{Context, Facts};
use crate::domain::finding::{Observation, ProblemKind};
use crate::host::{Host, HostError};

/// Table and protocol. A socket that waits for others: TCP listens (0A), UDP is not connected (07).
const TABLES: &[(&str, &str)] =
    &[("/proc/net/tcp", "tcp"), ("/proc/net/tcp6", "tcp"), ("/proc/net/udp", "udp"), ("/proc/net/udp6", "udp")];
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// A UDP socket on a port the kernel hands out is a client's, unless it is still there after this long.
const CLIENT: SignedDuration = SignedDuration::from_mins(5);
/// Looks remembered: the oldest must be older than that, however often somebody looks by hand.
const LOOKS: usize = 3;

/// Facts: `listening` (`[{protocol, port, program, reachable}]`; `reachable` is null where the ruleset is not known),
/// `programs_known`, `open_unused` (TCP ports the ruleset opens and nothing listens on; null where nothing is filtered),
/// `history` (UDP sockets on ports the kernel hands out).
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let mut history = History::of(context);
    let known = |socket: &Socket| {
        let key = json!(socket.key());
        history.0.iter().any(|look| {
            context.now.duration_since(look.at) >= CLIENT
                && look.value.as_array().is_some_and(|look| look.contains(&key))
        })
    };
    let reach = firewall::reach(context.host).await;
    match sockets(context.host) {
        Ok((mut sockets, fleeting)) => {
            sockets.extend(fleeting.iter().filter(|socket| known(socket)).cloned());
            sockets.sort();
            history.add(context.now, fleeting.iter().map(|socket| json!(socket.key())).collect(), CLIENT, LOOKS);
            facts.set("history", history.fact());
            let owners = owners(context.host, &sockets);
            if owners.is_err() {
                facts.problem(
                    "programs",
                    ProblemKind::Denied,
                    "the programs behind open ports cannot be seen without more rights",
                );
            }
            facts.set("programs_known", owners.is_ok());
            facts.set("open_unused", reach.as_ref().map_or(Value::Null, |reach| unused(reach, &sockets)));
            facts.set("listening", listening(&sockets, &owners.unwrap_or_default(), reach.as_ref()));
        }
        Err(error) => facts.fail_all(&["listening", "programs_known", "open_unused"], &error),
    }
    facts.into()
}

/// One socket others can reach.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Socket {
    protocol: &'static str,
    port: u16,
    inode: String,
}

impl Socket {
    /// Tells this socket from another one on the same port.
    fn key(&self) -> String {
        format!("{} {}", self.port, self.inode)
    }
}

/// A connection another machine began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Session {
    /// Our port.
    pub(super) port: u16,
    /// It came over IPv6.
    pub(super) v6: bool,
}

/// TCP connections other machines hold to this one, each port once per family.
pub(super) fn sessions(host: &Host) -> Result<BTreeSet<Session>, HostError> {
    let (low, high) = ephemeral(host)?;
    let (mut listening, mut held) = (BTreeSet::new(), BTreeSet::new());
    each_row(host, |path, protocol, row| {
        if protocol == "tcp" && row.state == "0A" {
            listening.insert(row.port);
        } else if protocol == "tcp" && row.state == "01" && !row.from_here {
            held.insert(Session { port: row.port, v6: path.ends_with('6') && !row.mapped });
        }
    })?;
    held.retain(|session| listening.contains(&session.port) || !(low..=high).contains(&session.port));
    Ok(held)
}

/// Sockets that wait for others; apart, UDP sockets that may be a client's own.
fn sockets(host: &Host) -> Result<(Vec<Socket>, Vec<Socket>), HostError> {
    let (low, high) = ephemeral(host)?;
    let (mut waiting, mut fleeting) = (Vec::new(), Vec::new());
    each_row(host, |_, protocol, row| {
        let waits = if protocol == "tcp" { "0A" } else { "07" };
        if row.state != waits || row.loopback {
            return;
        }
        let socket = Socket { protocol, port: row.port, inode: row.inode.to_owned() };
        // A client's own UDP socket looks like a server's, except for its port.
        let client = protocol == "udp" && (low..=high).contains(&row.port);
        if client { fleeting.push(socket) } else { waiting.push(socket) }
    })?;
    Ok((waiting, fleeting))
}

fn each_row(host: &Host, mut each: impl FnMut(&str, &'static str, &Row<'_>)) -> Result<(), HostError> {
    let mut tables = 0;
    for (path, protocol) in TABLES {
        let text = match host.read(path) {
            Ok(text) => text,
            // A kernel without IPv6 has no tables for it.
            Err(HostError::Missing(_)) => continue,
            Err(error) => return Err(error),
        };
        tables += 1;
        for line in text.lines().skip(1) {
            let row = row(line).ok_or_else(|| HostError::Garbage {
                what: (*path).to_owned(),
                why: "a line is not a socket".to_owned(),
            })?;
            each(path, protocol, &row);
        }
    }
    if tables == 0 {
        return Err(HostError::Missing("/proc/net".to_owned()));
    }
    Ok(())
}

struct Row<'a> {
    port: u16,
    loopback: bool,
    /// The other side is this machine.
    from_here: bool,
    /// IPv4 in the tables of IPv6.
    mapped: bool,
    state: &'a str,
    inode: &'a str,
}

/// `sl local:port remote:port state … uid timeout inode`
fn row(line: &str) -> Option<Row<'_>> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    let (remote, _) = fields.get(2)?.split_once(':')?;
    Some(Row {
        port: u16::from_str_radix(port, 16).ok()?,
        loopback: is_loopback(address)?,
        from_here: is_loopback(remote)? || remote == address,
        mapped: is_mapped(address),
        state: fields.get(3)?,
        inode: fields.get(9)?,
    })
}

fn is_mapped(address: &str) -> bool {
    address.len() == 32 && address.starts_with("0000000000000000FFFF0000")
}

/// Words in host order: the first octet of IPv4 comes last. `None` for what is no address.
fn is_loopback(address: &str) -> Option<bool> {
    match address.len() {
        8 => Some(address.ends_with("7F")),
        32 => Some(address == "00000000000000000000000001000000" || is_mapped(address) && address.ends_with("7F")),
        _ => None,
    }
}

fn ephemeral(host: &Host) -> Result<(u16, u16), HostError> {
    let text = host.read(EPHEMERAL)?;
    let mut numbers = text.split_whitespace().map(str::parse::<u16>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(low)), Some(Ok(high))) => Ok((low, high)),
        _ => Err(HostError::Garbage { what: EPHEMERAL.to_owned(), why: "not two ports".to_owned() }),
    }
}

/// Programs by the inode of their socket; an error where some process does not let us look.
fn owners(host: &Host, sockets: &[Socket]) -> Result<BTreeMap<String, String>, HostError> {
    let wanted: BTreeSet<&str> = sockets.iter().map(|socket| socket.inode.as_str()).collect();
    let mut owners = BTreeMap::new();
    for process in host.list("/proc")?.iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
        let dir = format!("/proc/{process}/fd");
        let descriptors = match host.list(&dir) {
            Ok(descriptors) => descriptors,
            Err(error @ HostError::Denied(_)) => return Err(error),
            // It ended while we looked.
            Err(_) => continue,
        };
        for descriptor in descriptors {
            let Ok(target) = host.read_link(&format!("{dir}/{descriptor}")) else { continue };
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            if let Some(inode) = inode.filter(|inode| wanted.contains(inode)) {
                let program = host.read_link(&format!("/proc/{process}/exe")).unwrap_or_default();
                owners.insert(inode.to_owned(), program.rsplit('/').next().unwrap_or_default().to_owned());
            }
        }
    }
    Ok(owners)
}

/// TCP ports that are open for nobody: whatever starts there next is reachable at once.
fn unused(reach: &Reach, sockets: &[Socket]) -> Value {
    let used = |port: &u16| sockets.iter().any(|socket| socket.protocol == "tcp" && socket.port == *port);
    reach
        .tcp_ports()
        .map_or(Value::Null, |ports| json!(ports.into_iter().filter(|port| !used(port)).collect::<Vec<_>>()))
}

/// Each protocol and port once; a program of null is the kernel itself, or not known.
fn listening(sockets: &[Socket], owners: &BTreeMap<String, String>, reach: Option<&Reach>) -> Value {
    let mut seen: BTreeMap<(&str, u16), Option<&str>> = BTreeMap::new();
    for socket in sockets {
        let program = owners.get(&socket.inode).map(String::as_str).filter(|name| !name.is_empty());
        let known = seen.entry((socket.protocol, socket.port)).or_default();
        *known = known.or(program);
    }
    seen.into_iter()
        .map(|((protocol, port), program)| {
            let reachable = reach.map(|reach| reach.lets_in(protocol, port));
            json!({"protocol": protocol, "port": port, "program": program, "reachable": reachable})
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, finding};
    use super::*;

    const ID: &str = "RB-LNX-PORTS-001";
    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn line(address: &str, state: &str, inode: u32) -> String {
        format!(
            "   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0\n"
        )
    }

    fn machine(tcp: &str, udp: &str) -> Tree {
        Tree::new()
            .file("/proc/net/tcp", &format!("{HEAD}{tcp}"))
            .file("/proc/net/udp", &format!("{HEAD}{udp}"))
            .file(EPHEMERAL, "32768\t60999\n")
    }

    #[test]
    fn only_what_others_can_reach_counts() {
        let tcp =
            [line("00000000:0016", "0A", 1), line("0100007F:1538", "0A", 2), line("0A00000A:1F90", "01", 3)].concat();
        let udp = [line("00000000:9C40", "07", 4), line("00000000:0044", "07", 5)].concat();
        let tree = machine(&tcp, &udp).link("/proc/77/fd/3", "socket:[1]").link("/proc/77/exe", "/usr/sbin/sshd");
        let found = tree.finding(ID, &json!({}));
        assert_eq!(found.verdict.word(), "pass", "{:?}", found.reasons);
        assert_eq!(
            found.observation.facts["listening"],
            json!([
                {"protocol": "tcp", "port": 22, "program": "sshd", "reachable": null},
                {"protocol": "udp", "port": 68, "program": null, "reachable": null}
            ])
        );
    }

    #[test]
    fn what_is_not_allowed_and_what_is_not_encrypted_fail() {
        let tcp = [line("00000000:0017", "0A", 1), line("00000000:1F90", "0A", 2)].concat();
        assert_eq!(
            machine(&tcp, "").judge(ID, &json!({})),
            ("fail", vec!["unexpected_port".into(), "cleartext_service".into()])
        );
        let allowed = json!({"allowed_tcp": [8080, 23]});
        assert_eq!(machine(&tcp, "").judge(ID, &allowed), ("fail", vec!["cleartext_service".into()]));
    }

    #[test]
    fn a_server_on_a_port_the_kernel_hands_out_is_told_by_staying() {
        let udp = line("00000000:9C40", "07", 4);
        let mut first = machine("", &udp).observe(ID, &json!({})).facts;
        assert_eq!(first["history"][0]["value"], json!(["40000 4"]));
        first["history"][0]["at"] = json!("2026-03-02T11:50:00Z");
        assert_eq!(first["listening"], json!([]), "it may be a client's");
        assert_eq!(machine("", &udp).before(1, first.clone()).judge(ID, &json!({})).1, ["unexpected_port"]);
        let other = machine("", &line("00000000:9C40", "07", 5)).before(1, first.clone());
        assert_eq!(other.judge(ID, &json!({})).0, "pass", "another socket that came to the same port");
        let again =
            machine("", &udp).before(0, json!({"history": [{"at": "2026-03-02T11:59:00Z", "value": ["40000 4"]}]}));
        assert_eq!(again.judge(ID, &json!({})).0, "pass", "somebody looked twice within a minute");
    }

    #[test]
    fn sessions_are_connections_others_began() {
        let from =
            |local: &str, remote: &str| line(local, "01", 3).replace("00000000:0000 01", &format!("{remote} 01"));
        let tcp = [
            line("00000000:9C41", "0A", 1),
            from("0A00000A:0016", "0B00000A:D431"),
            from("0A00000A:9C41", "0B00000A:D432"),
            from("0A00000A:D433", "0B00000A:01BB"),
            from("0100007F:1538", "0100007F:D434"),
            from("0A00000A:1539", "0A00000A:D435"),
        ]
        .concat();
        let tree = machine(&tcp, "");
        let ports: Vec<u16> = sessions(&tree.host()).unwrap().into_iter().map(|session| session.port).collect();
        assert_eq!(ports, [22, 40001]);
    }

    #[test]
    fn what_is_open_and_what_listens_are_held_against_each_other() {
        let rules = r#"{"nftables": [{"table": {"family": "inet", "name": "f"}},
            {"chain": {"family": "inet", "table": "f", "name": "in", "hook": "input", "policy": "drop"}},
            {"rule": {"family": "inet", "table": "f", "chain": "in", "expr": [{"match": {"op": "==", "left":
                {"payload": {"protocol": "tcp", "field": "dport"}}, "right": {"set": [22, 443]}}}, {"accept": null}]}}]}"#;
        let tcp = [line("00000000:0016", "0A", 1), line("00000000:1F90", "0A", 2)].concat();
        let tree = machine(&tcp, "").answer("nft -j list ruleset", rules);
        let found = tree.finding(ID, &json!({"allowed_tcp": [22, 8080]}));
        assert_eq!(super::super::fixture::words(&found), ("warn", vec!["open_unused".into()]));
        assert_eq!(found.observation.facts["open_unused"], json!([443]));
        assert_eq!(found.observation.facts["listening"][0]["reachable"], json!(true));
        assert_eq!(found.observation.facts["listening"][1]["reachable"], json!(false));
    }

    #[test]
    fn ipv6_is_read_too() {
        let v6 = format!(
            "{HEAD}{}{}",
            line("00000000000000000000000000000000:0D3D", "0A", 1),
            line("00000000000000000000000001000000:1538", "0A", 2)
        );
        let tree = machine("", "").file("/proc/net/tcp6", &v6);
        assert_eq!(tree.judge(ID, &json!({})).1, ["unexpected_port"]);
    }

    #[test]
    fn garbage_and_missing_tables_are_unknown() {
        assert_eq!(Tree::new().judge(ID, &json!({})).0, "unknown");
        assert_eq!(Tree::new().file(EPHEMERAL, "1 2").judge(ID, &json!({})).0, "unknown");
        assert_eq!(machine("nonsense\n", "").judge(ID, &json!({})).0, "unknown");
    }

    #[test]
    fn a_real_listener_is_found_with_its_program() {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = finding(&Host::live(), ID, &json!({}));
        let list = found.observation.facts["listening"].as_array().unwrap().clone();
        let ours = list.iter().find(|socket| socket["port"] == json!(port)).unwrap();
        assert!(ours["program"].as_str().is_some_and(|name| name.starts_with("malachor")), "{ours}");
    }
}
