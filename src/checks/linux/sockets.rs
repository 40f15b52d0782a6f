//! Listening sockets, from the kernel's own tables, and the program behind each.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::checks::run::{Context, Facts};
use crate::domain::finding::{Observation, ProblemKind};
use crate::host::{Host, HostError};

/// Table, protocol, and the state of a socket that waits for others: TCP listens (0A), UDP is not connected (07).
const TABLES: &[(&str, &str, &str)] = &[
    ("/proc/net/tcp", "tcp", "0A"),
    ("/proc/net/tcp6", "tcp", "0A"),
    ("/proc/net/udp", "udp", "07"),
    ("/proc/net/udp6", "udp", "07"),
];
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Facts: `listening`, `programs_known`.
pub(super) fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    match sockets(context.host) {
        Ok(sockets) => {
            let owners = owners(context.host, &sockets);
            if owners.is_err() {
                facts.problem(
                    "programs",
                    ProblemKind::Denied,
                    "the programs behind open ports cannot be seen without more rights",
                );
            }
            facts.set("programs_known", owners.is_ok());
            facts.set("listening", listening(&sockets, &owners.unwrap_or_default()));
        }
        Err(error) => facts.fail_all(&["listening", "programs_known"], &error),
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

fn sockets(host: &Host) -> Result<Vec<Socket>, HostError> {
    let (low, high) = ephemeral(host)?;
    let mut sockets = Vec::new();
    let mut tables = 0;
    for (path, protocol, state) in TABLES {
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
            // A client's own UDP socket looks like a server's, except for its port.
            let client = *protocol == "udp" && (low..=high).contains(&row.port);
            if row.state == *state && !row.loopback && !client {
                sockets.push(Socket { protocol, port: row.port, inode: row.inode.to_owned() });
            }
        }
    }
    if tables == 0 {
        return Err(HostError::Missing("/proc/net".to_owned()));
    }
    sockets.sort();
    Ok(sockets)
}

struct Row<'a> {
    port: u16,
    loopback: bool,
    state: &'a str,
    inode: &'a str,
}

/// `sl local:port remote:port state … uid timeout inode`
fn row(line: &str) -> Option<Row<'_>> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    let loopback = match address.len() {
        // Words in host order: the first octet of IPv4 comes last.
        8 => address.ends_with("7F"),
        32 => {
            address == "00000000000000000000000001000000"
                || address.starts_with("0000000000000000FFFF0000") && address.ends_with("7F")
        }
        _ => return None,
    };
    Some(Row { port: u16::from_str_radix(port, 16).ok()?, loopback, state: fields.get(3)?, inode: fields.get(9)? })
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

/// Each protocol and port once; a program of null is the kernel itself, or not known.
fn listening(sockets: &[Socket], owners: &BTreeMap<String, String>) -> Value {
    let mut seen: BTreeMap<(&str, u16), Option<&str>> = BTreeMap::new();
    for socket in sockets {
        let program = owners.get(&socket.inode).map(String::as_str).filter(|name| !name.is_empty());
        let known = seen.entry((socket.protocol, socket.port)).or_default();
        *known = known.or(program);
    }
    seen.into_iter()
        .map(|((protocol, port), program)| json!({"protocol": protocol, "port": port, "program": program}))
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
            json!([{"protocol": "tcp", "port": 22, "program": "sshd"}, {"protocol": "udp", "port": 68, "program": null}])
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
