//! One nftables rule: under which conditions it decides, and what.

use serde_json::{Value, json};

use super::nft_condition::{Around, Condition, Family, Rest, bare, elements, words};
use super::nft_fields::{address, from_interface, of_connection, of_family, opens_a_connection, protocols};
use super::ports::Ports;

/// The name of a verdict, and where it jumps to.
pub(super) type Verdict<'a> = (&'a str, Option<&'a str>);

/// Alternatives of one rule; above this it is not read further.
const ALTERNATIVES: usize = 4096;

/// Every verdict of a rule with its condition, in order; a verdict map has one for each element.
pub(super) fn verdicts<'a>(rule: &'a [Value], around: Around<'_>) -> Vec<(Condition, Verdict<'a>)> {
    let mut conditions = vec![Condition::default()];
    let mut found = Vec::new();
    for statement in rule {
        let Some((kind, body)) = statement.as_object().and_then(|object| object.iter().next()) else { continue };
        match kind.as_str() {
            "match" => conditions = both_of(&conditions, &matching(body, around)),
            "accept" | "drop" | "reject" | "return" | "queue" | "jump" | "goto" => {
                let verdict = (kind.as_str(), body.get("target").and_then(Value::as_str));
                found.extend(conditions.iter().map(|condition| (condition.clone(), verdict)));
            }
            "vmap" => {
                for condition in &conditions {
                    found.extend(mapped(body, condition, around));
                }
            }
            "xt" => match of_iptables(body) {
                Xt::Match => conditions = both_of(&conditions, &[Condition::rest(Rest::Opaque)]),
                Xt::Verdict(word) => {
                    found.extend(conditions.iter().map(|condition| (condition.clone(), (word, None))));
                }
                Xt::Nothing => {}
            },
            // Adding to a set goes on only as its own limit allows.
            "set" | "map" if !body.get("stmt").is_some_and(has_statement) => {}
            word if DECIDES_NOTHING.contains(&word) => {}
            // How often something is let in does not say who is; of what is not known here it cannot be told.
            _ => conditions = both_of(&conditions, &[Condition::loose()]),
        }
    }
    found
}

/// Statements of `libnftables-json(5)` that count, log, mark and change, and let every packet go on.
const DECIDES_NOTHING: &[&str] = &[
    "counter",
    "last",
    "log",
    "mangle",
    "comment",
    "notrack",
    "secmark",
    "ct helper",
    "ct timeout",
    "ct expectation",
    "flow",
    "dup",
];

fn has_statement(statements: &Value) -> bool {
    statements.as_array().is_none_or(|statements| !statements.is_empty())
}

fn both_of(one: &[Condition], other: &[Condition]) -> Vec<Condition> {
    if one.len().saturating_mul(other.len()) > ALTERNATIVES {
        return vec![Condition::rest(Rest::Opaque)];
    }
    one.iter().flat_map(|a| other.iter().map(move |b| a.and(b))).collect()
}

/// What iptables-nft leaves where nft has no words of its own.
enum Xt {
    Match,
    Verdict(&'static str),
    Nothing,
}

/// Targets of `iptables-extensions(8)` that decide nothing about the packet's way through this chain.
const XT_GOES_ON: &[&str] = &[
    "LOG",
    "NFLOG",
    "MARK",
    "CONNMARK",
    "CONNSECMARK",
    "SECMARK",
    "SET",
    "TCPMSS",
    "TCPOPTSTRIP",
    "CT",
    "TRACE",
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "DSCP",
    "TOS",
    "TTL",
    "HL",
    "LED",
    "RATEEST",
    "TEE",
    "ULOG",
    "HMARK",
];

fn of_iptables(body: &Value) -> Xt {
    let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
    match (text("type"), text("name")) {
        ("target", "REJECT" | "DROP" | "TARPIT") => Xt::Verdict("drop"),
        ("target", "ACCEPT") => Xt::Verdict("accept"),
        ("target", name) if XT_GOES_ON.contains(&name) => Xt::Nothing,
        ("target", _) => Xt::Verdict("queue"),
        ("match", "comment") => Xt::Nothing,
        _ => Xt::Match,
    }
}

fn mapped<'a>(body: &'a Value, outer: &Condition, around: Around<'_>) -> Vec<(Condition, Verdict<'a>)> {
    let Some(key) = body.get("key") else { return Vec::new() };
    let pairs = body.pointer("/data/set").and_then(Value::as_array);
    let Some(pairs) = pairs else {
        let name = body.get("data").and_then(Value::as_str).and_then(|name| name.strip_prefix('@'));
        return named(key, name.and_then(around.sets), outer, around);
    };
    let mut found = Vec::new();
    for pair in pairs {
        let verdict = pair.get(1).and_then(Value::as_object).and_then(|object| object.iter().next());
        let (Some(element), Some((word, to))) = (pair.get(0), verdict) else { continue };
        let verdict = (word.as_str(), to.get("target").and_then(Value::as_str));
        found.extend(alternatives(key, element, outer, around).into_iter().map(|condition| (condition, verdict)));
    }
    found
}

/// A named verdict map: accepts count as they stand; where it jumps to may change without the ruleset changing.
fn named<'a>(
    key: &Value,
    pairs: Option<Vec<Value>>,
    outer: &Condition,
    around: Around<'_>,
) -> Vec<(Condition, Verdict<'a>)> {
    let opaque = || (Condition { rest: Rest::Opaque, ..outer.clone() }, ("queue", None));
    let Some(pairs) = pairs else { return vec![opaque()] };
    let mut found = Vec::new();
    for pair in &pairs {
        let word = pair.get(1).and_then(Value::as_object).and_then(|object| object.keys().next());
        let (Some(element), Some(word)) = (pair.get(0), word) else { continue };
        let verdict = match word.as_str() {
            "accept" => ("accept", None),
            "drop" | "reject" => ("drop", None),
            _ => {
                found.push(opaque());
                continue;
            }
        };
        found.extend(alternatives(key, element, outer, around).into_iter().map(|condition| (condition, verdict)));
    }
    found
}

fn alternatives(key: &Value, element: &Value, outer: &Condition, around: Around<'_>) -> Vec<Condition> {
    let test = json!({"op": "==", "left": key, "right": bare(element)});
    both_of(std::slice::from_ref(outer), &matching(&test, around))
}

/// Under which conditions a match holds: any of them.
fn matching(body: &Value, around: Around<'_>) -> Vec<Condition> {
    let op = body.get("op").and_then(Value::as_str).unwrap_or_default();
    let (Some(left), Some(right)) = (body.get("left"), body.get("right")) else { return vec![Condition::narrow()] };
    let equal = op == "==" || op == "in";
    match left.get("concat").and_then(Value::as_array) {
        // All but some combinations: whoever is not one of them comes in.
        Some(_) if !equal => vec![Condition::loose()],
        Some(parts) => match elements(right, around) {
            Some(elements) => elements.iter().map(|element| joined(parts, element, around)).collect(),
            None => vec![Condition::rest(Rest::Opaque)],
        },
        None => vec![matched(left, op, right, around)],
    }
}

/// One combination: every part has to be what stands in its place.
fn joined(parts: &[Value], element: &Value, around: Around<'_>) -> Condition {
    let Some(values) = bare(element).get("concat").and_then(Value::as_array) else {
        return Condition::rest(Rest::Opaque);
    };
    let pairs = parts.iter().zip(values);
    pairs.fold(Condition::default(), |all, (part, value)| all.and(&matched(part, "==", value, around)))
}

fn matched(left: &Value, op: &str, right: &Value, around: Around<'_>) -> Condition {
    let equal = op == "==" || op == "in";
    let payload = |key: &str| left.get("payload").and_then(|payload| payload.get(key)).and_then(Value::as_str);
    let meta = left.pointer("/meta/key").and_then(Value::as_str);
    if let Some(holds) = opens_a_connection(left, op, right) {
        let tcp = to_ports("tcp", Some(Ports::all()));
        return tcp.and(&if holds { Condition::loose() } else { Condition::no_newcomer() });
    }
    match (payload("protocol"), payload("field"), meta) {
        (Some(protocol @ ("tcp" | "udp" | "th")), Some("dport"), _) => {
            to_ports(protocol, if equal { ports(right, around) } else { None })
        }
        // The sender chooses all of these.
        (Some(protocol @ ("tcp" | "udp" | "th")), _, _) => {
            to_ports(protocol, Some(Ports::all())).and(&Condition::loose())
        }
        (Some("ip"), Some("protocol"), _) => protocols(right, equal, around).and(&Condition::only(Family::V4)),
        (Some("ip6"), Some("nexthdr"), _) => protocols(right, equal, around).and(&Condition::only(Family::V6)),
        (_, _, Some("l4proto")) => protocols(right, equal, around),
        (Some("ip"), Some(field), _) => address(field, equal, right, around).and(&Condition::only(Family::V4)),
        (Some("ip6"), Some(field), _) => address(field, equal, right, around).and(&Condition::only(Family::V6)),
        (Some("arp"), _, _) => Condition::narrow().and(&Condition::only(Family::V4)),
        (Some(protocol @ ("icmp" | "icmpv6" | "igmp" | "sctp" | "dccp" | "udplite" | "esp" | "ah" | "comp")), _, _) => {
            Condition::protocol([protocol.to_owned()])
        }
        (Some("ether"), Some("type"), _) | (_, _, Some("nfproto" | "protocol")) if equal => of_family(right),
        (_, _, Some("iif" | "iifname")) => from_interface(right, equal, around),
        (_, _, Some("pkttype")) if equal && words(right).iter().any(|kind| kind == "host" || kind == "unicast") => {
            Condition::loose()
        }
        _ => of_connection(left, right, equal),
    }
}

/// Ports that cannot be read are every port: an accept of them is not overlooked, and a drop of them not relied on.
fn to_ports(protocol: &str, ports: Option<Ports>) -> Condition {
    let rest = if ports.is_some() { Rest::Nothing } else { Rest::Loose };
    let ports = Some(ports.unwrap_or_else(Ports::all));
    let condition = match protocol {
        "tcp" => Condition { tcp: ports, ..Condition::default() },
        "udp" => Condition { udp: ports, ..Condition::default() },
        "th" => Condition { tcp: ports.clone(), udp: ports, ..Condition::default() },
        _ => Condition::narrow(),
    };
    condition.and(&Condition::rest(rest))
}

fn ports(right: &Value, around: Around<'_>) -> Option<Ports> {
    elements(right, around)?.iter().map(range).collect::<Option<Vec<_>>>().map(Ports::of)
}

/// A port, `{"range": [a, b]}`, or one of them wrapped as `{"elem": {"val": …}}`.
fn range(element: &Value) -> Option<(u16, u16)> {
    let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    let element = bare(element);
    match element.get("range") {
        Some(ends) => Some((number(ends.get(0)?)?, number(ends.get(1)?)?)),
        None => number(element).map(|port| (port, port)),
    }
}
