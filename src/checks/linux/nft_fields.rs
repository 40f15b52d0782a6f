//! What single matches of an nftables rule keep out: addresses, interfaces, protocols, flags, states.

use serde_json::Value;

use super::nft_condition::{Around, Condition, Family, bare, elements, words};

/// Matches on what the kernel knows about the connection and the way back; everything else is narrow, or all but it.
pub(super) fn of_connection(left: &Value, right: &Value, equal: bool) -> Condition {
    let fib = |key: &str| left.pointer(&format!("/fib/{key}"));
    match left.pointer("/ct/key").and_then(Value::as_str) {
        Some("state") => return state(right, equal),
        // Who begins a connection is its original direction.
        Some("direction") if (right == "original") == equal => return Condition::default(),
        Some("direction") => return Condition::no_newcomer(),
        Some(_) | None => {}
    }
    if of_the_senders_choice(left) {
        return Condition::loose();
    }
    let to_us = fib("flags").is_some_and(|flags| words(flags).iter().any(|flag| flag == "daddr"));
    match fib("result").and_then(Value::as_str) {
        Some("type") if to_us && equal && words(right).iter().any(|kind| kind == "local") => Condition::loose(),
        // A sender whose answer goes out where it came in: every honest one.
        Some("oif" | "oifname") => Condition::loose(),
        _ if equal => Condition::narrow(),
        _ => Condition::loose(),
    }
}

/// Whether the sender, the hour or chance decides what it compares: headers and options, lengths, the clock, a counter.
fn of_the_senders_choice(left: &Value) -> bool {
    let meta = left.pointer("/meta/key").and_then(Value::as_str);
    let kind = left.as_object().and_then(|object| object.keys().next()).map_or("", String::as_str);
    ["exthdr", "tcp option", "ip option", "sctp chunk", "osf", "numgen", "jhash", "symhash", "rt", "socket"]
        .contains(&kind)
        || meta.is_some_and(|key| {
            ["length", "priority", "random", "cpu", "iiftype", "time", "day", "hour", "rtclassid"].contains(&key)
        })
}

/// Of a match on TCP's flags, whether the first packet of a connection (SYN alone) has them; `None` for another match.
pub(super) fn opens_a_connection(left: &Value, op: &str, right: &Value) -> Option<bool> {
    let is_flags = |value: &Value| {
        value.pointer("/payload/protocol").is_some_and(|it| it == "tcp")
            && value.pointer("/payload/field").is_some_and(|it| it == "flags")
    };
    let mask = match left.get("&").and_then(Value::as_array) {
        Some(sides) => {
            sides.first().filter(|side| is_flags(side))?;
            Some(flags(sides.get(1)?))
        }
        None if is_flags(left) => None,
        None => return None,
    };
    let has: &[&str] = if mask.is_none_or(|mask| mask.iter().any(|flag| flag == "syn")) { &["syn"] } else { &[] };
    // Each element of a set is a combination of its own.
    let alternatives: Vec<Vec<String>> = match right.get("set").and_then(Value::as_array) {
        Some(elements) => elements.iter().map(|element| flags(bare(element))).collect(),
        None => vec![flags(right)],
    };
    let same = alternatives.iter().any(|wanted| wanted == has);
    Some(match op {
        "==" => same,
        "!=" => !same,
        _ => has.iter().any(|flag| alternatives.iter().flatten().any(|wanted| wanted == flag)),
    })
}

/// `syn`, `["syn", "ack"]`, or both joined by `|`.
fn flags(value: &Value) -> Vec<String> {
    let joined = value.get("|").and_then(Value::as_array);
    joined.map_or_else(|| words(value), |sides| sides.iter().flat_map(flags).collect())
}

/// IP's own fields. Where to is always here, and most fields are the sender's choice; only where from tells people apart.
pub(super) fn address(field: &str, equal: bool, right: &Value, around: Around<'_>) -> Condition {
    if !equal {
        return Condition::loose();
    }
    let spans = || elements(right, around).unwrap_or_default().iter().map(Span::of).max().unwrap_or(Span::Some);
    match field {
        "saddr" | "daddr" => match spans() {
            Span::Everybody => Condition::default(),
            Span::Most => Condition::loose(),
            Span::Some if field == "daddr" => Condition::loose(),
            Span::Many | Span::Some => Condition::narrow(),
        },
        // Set to their most by the sender, they show that no router is between.
        "ttl" | "hoplimit" => Condition::narrow(),
        _ => Condition::loose(),
    }
}

/// How much of the address space an element is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Span {
    /// An address or a network.
    Some,
    /// Addresses of many at once: multicast and broadcast.
    Many,
    /// More than anybody's own networks, such as `0.0.0.0/1` or `2000::/3`.
    Most,
    /// All of it.
    Everybody,
}

impl Span {
    fn of(element: &Value) -> Self {
        let element = bare(element);
        let address = |value: &Value| value.as_str()?.parse::<std::net::IpAddr>().ok();
        if let Some(prefix) = element.get("prefix") {
            let length = prefix.get("len").and_then(Value::as_u64).unwrap_or_default();
            return match prefix.get("addr").and_then(address) {
                _ if length == 0 => Self::Everybody,
                Some(address) if address.is_multicast() => Self::Many,
                Some(std::net::IpAddr::V4(_)) if length < 8 => Self::Most,
                Some(std::net::IpAddr::V6(_)) if length < 7 => Self::Most,
                Some(_) | None => Self::Some,
            };
        }
        if let Some(ends) = element.get("range") {
            let (from, to) = (ends.get(0).and_then(address), ends.get(1).and_then(address));
            return match (from, to) {
                (Some(std::net::IpAddr::V4(from)), Some(std::net::IpAddr::V4(to)))
                    if to.to_bits().saturating_sub(from.to_bits()) >> 25 == 0 =>
                {
                    Self::Some
                }
                (Some(std::net::IpAddr::V6(from)), Some(std::net::IpAddr::V6(to)))
                    if to.to_bits().saturating_sub(from.to_bits()) >> 121 == 0 =>
                {
                    Self::Some
                }
                _ => Self::Most,
            };
        }
        match address(element) {
            Some(std::net::IpAddr::V4(one)) if one.is_broadcast() || one.is_multicast() => Self::Many,
            Some(std::net::IpAddr::V6(one)) if one.is_multicast() => Self::Many,
            Some(_) | None => Self::Some,
        }
    }
}

pub(super) fn from_interface(right: &Value, equal: bool, around: Around<'_>) -> Condition {
    let names: Vec<String> =
        elements(right, around).unwrap_or_default().iter().flat_map(|name| words(bare(name))).collect();
    let only_lo = !names.is_empty() && names.iter().all(|name| name == "lo");
    let outside = |name: &String| match name.strip_suffix('*') {
        Some(start) => around.outside.iter().any(|known| known.starts_with(start)),
        None => around.outside.contains(name),
    };
    match (equal, only_lo) {
        (true, true) => Condition { loopback: true, ..Condition::default() },
        (false, true) => Condition { outsider: true, ..Condition::default() },
        (true, false) if names.iter().any(outside) => Condition::loose(),
        // All but the inside ones: the outside comes in by it.
        (false, false) if !names.iter().any(outside) => Condition::loose(),
        (true | false, false) => Condition::narrow(),
    }
}

/// The protocols a packet may be of; all but some are still every other one, and of a set that is not known it is any.
pub(super) fn protocols(right: &Value, equal: bool, around: Around<'_>) -> Condition {
    let Some(named) = names(right, around) else { return Condition::loose() };
    if equal {
        return Condition::protocol(named);
    }
    let others = ["tcp", "udp", "other"].map(str::to_owned);
    Condition::protocol(others.into_iter().filter(|protocol| !named.contains(protocol)))
}

/// Protocols by name, whatever form the kernel's answer has.
fn names(right: &Value, around: Around<'_>) -> Option<Vec<String>> {
    let mut found = Vec::new();
    for element in elements(right, around)? {
        let element = bare(&element);
        let ends = element.get("range").map(|ends| (number(ends.get(0)), number(ends.get(1))));
        match (ends, number(Some(element)), element.as_str()) {
            (Some((from, to)), _, _) => {
                let (from, to) = (from?, to?);
                found.extend(
                    [(6, "tcp"), (17, "udp")]
                        .into_iter()
                        .filter(|(it, _)| (from..=to).contains(it))
                        .map(|(_, name)| name.to_owned()),
                );
                found.push("other".to_owned());
            }
            (None, Some(6), _) => found.push("tcp".to_owned()),
            (None, Some(17), _) => found.push("udp".to_owned()),
            (None, Some(number), _) => found.push(number.to_string()),
            (None, None, Some(name)) => found.push(name.to_owned()),
            (None, None, None) => return None,
        }
    }
    Some(found)
}

/// A protocol's number, where it is written as one or is one of the two that matter.
fn number(value: Option<&Value>) -> Option<u64> {
    match value?.as_str() {
        Some("tcp") => Some(6),
        Some("udp") => Some(17),
        Some(_) => None,
        None => value?.as_u64(),
    }
}

pub(super) fn of_family(right: &Value) -> Condition {
    match right.as_str() {
        Some("ipv4" | "ip") => Condition::only(Family::V4),
        Some("ipv6" | "ip6") => Condition::only(Family::V6),
        _ => Condition::narrow(),
    }
}

/// `new` is what this walk is about and therefore no condition at all.
fn state(right: &Value, equal: bool) -> Condition {
    let states = words(right);
    let new = states.iter().any(|state| state == "new" || state == "untracked");
    let known = states.iter().all(|state| state == "established" || state == "related");
    match (equal, new) {
        (true, true) | (false, false) => Condition::default(),
        (false, true) => Condition::no_newcomer(),
        (true, false) if !states.is_empty() && known => Condition::no_newcomer(),
        (true, false) => Condition::narrow(),
    }
}
