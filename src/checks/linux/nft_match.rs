//! One nftables rule: under which conditions it decides, and what.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::nft::Family;
use super::ports::Ports;

/// What a packet has to be; the empty condition holds for every new packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Condition {
    /// Comes from this machine itself.
    pub(super) loopback: bool,
    /// Belongs to a connection that is already there.
    pub(super) established: bool,
    /// TCP to one of these ports.
    pub(super) tcp: Option<Ports>,
    /// UDP to one of these ports.
    pub(super) udp: Option<Ports>,
    /// One of these protocols.
    pub(super) protocols: Option<BTreeSet<String>>,
    /// IPv4 only, IPv6 only.
    family: [bool; 2],
    /// Whatever else it has to be.
    pub(super) rest: Rest,
}

/// What a condition asks beyond ports, protocols and connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rest {
    /// Nothing more.
    #[default]
    Nothing,
    /// Something only some packets are: an address, an interface, a rate.
    Narrow,
    /// Something that cannot be read.
    Opaque,
}

/// The name of a verdict, and where it jumps to.
pub(super) type Verdict<'a> = (&'a str, Option<&'a str>);

/// Looks up the elements of a named set.
pub(super) type Sets<'a> = dyn Fn(&str) -> Option<Vec<Value>> + 'a;

impl Condition {
    /// Holds for every new packet of a family.
    pub(super) fn is_empty(&self, family: Family) -> bool {
        let rest = Self { family: Self::default().family, ..self.clone() };
        rest == Self::default() && !self.never(family)
    }

    /// Can hold for no packet of a family.
    pub(super) fn never(&self, family: Family) -> bool {
        let [only_v4, only_v6] = self.family;
        match family {
            Family::V4 => only_v6,
            Family::V6 => only_v4,
        }
    }

    /// Both conditions at once.
    pub(super) fn and(&self, other: &Self) -> Self {
        Self {
            loopback: self.loopback || other.loopback,
            established: self.established || other.established,
            tcp: both(self.tcp.as_ref(), other.tcp.as_ref(), Ports::and),
            udp: both(self.udp.as_ref(), other.udp.as_ref(), Ports::and),
            protocols: both(self.protocols.as_ref(), other.protocols.as_ref(), |a, b| a & b),
            family: [self.family[0] || other.family[0], self.family[1] || other.family[1]],
            rest: self.rest.max(other.rest),
        }
    }

    fn narrow() -> Self {
        Self { rest: Rest::Narrow, ..Self::default() }
    }

    fn only(family: Family) -> Self {
        Self { family: [family == Family::V4, family == Family::V6], ..Self::default() }
    }

    fn protocol(names: impl IntoIterator<Item = String>) -> Self {
        Self { protocols: Some(names.into_iter().collect()), ..Self::default() }
    }
}

fn both<T: Clone>(a: Option<&T>, b: Option<&T>, and: impl Fn(&T, &T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(and(a, b)),
        (one, None) | (None, one) => one.cloned(),
    }
}

/// Every verdict of a rule with its condition, in order; a verdict map has one for each element.
pub(super) fn verdicts<'a>(rule: &'a [Value], sets: &Sets<'_>) -> Vec<(Condition, Verdict<'a>)> {
    let mut condition = Condition::default();
    let mut found = Vec::new();
    for statement in rule {
        let Some((kind, body)) = statement.as_object().and_then(|object| object.iter().next()) else { continue };
        match kind.as_str() {
            "match" => condition = condition.and(&matching(body, sets)),
            "accept" | "drop" | "reject" | "return" | "queue" | "jump" | "goto" => {
                found.push((condition.clone(), (kind.as_str(), body.get("target").and_then(Value::as_str))));
            }
            "vmap" => found.extend(mapped(body, &condition, sets)),
            "xt" => condition.rest = Rest::Opaque,
            "limit" | "ct count" | "quota" => condition.rest = condition.rest.max(Rest::Narrow),
            // Counting, logging and marking decide nothing.
            _ => {}
        }
    }
    found
}

fn mapped<'a>(body: &'a Value, outer: &Condition, sets: &Sets<'_>) -> Vec<(Condition, Verdict<'a>)> {
    let Some(key) = body.get("key") else { return Vec::new() };
    let pairs = body.pointer("/data/set").and_then(Value::as_array);
    let Some(pairs) = pairs else {
        // A named map: what it decides may change without the ruleset changing.
        return vec![(Condition { rest: Rest::Opaque, ..outer.clone() }, ("queue", None))];
    };
    let verdict = |pair: &'a Value| {
        let (element, verdict) = (pair.get(0)?, pair.get(1)?.as_object()?.iter().next()?);
        let test = json!({"op": "==", "left": key, "right": element});
        let target = verdict.1.get("target").and_then(Value::as_str);
        Some((outer.and(&matching(&test, sets)), (verdict.0.as_str(), target)))
    };
    pairs.iter().filter_map(verdict).collect()
}

fn matching(body: &Value, sets: &Sets<'_>) -> Condition {
    let op = body.get("op").and_then(Value::as_str).unwrap_or_default();
    let (Some(left), Some(right)) = (body.get("left"), body.get("right")) else { return Condition::narrow() };
    let equal = op == "==" || op == "in";
    let payload = |key: &str| left.get("payload").and_then(|payload| payload.get(key)).and_then(Value::as_str);
    let meta = left.pointer("/meta/key").and_then(Value::as_str);
    if let (Some(protocol), Some("dport")) = (payload("protocol"), payload("field")) {
        return to_ports(protocol, if equal { ports(right, sets) } else { Some(Ports::all()) });
    }
    match (payload("protocol"), payload("field"), meta) {
        (Some("ip"), Some("protocol"), _) if equal => {
            Condition::protocol(words(right)).and(&Condition::only(Family::V4))
        }
        (Some("ip6"), Some("nexthdr"), _) if equal => {
            Condition::protocol(words(right)).and(&Condition::only(Family::V6))
        }
        (Some("ip" | "arp"), _, _) => Condition::narrow().and(&Condition::only(Family::V4)),
        (Some("ip6"), _, _) => Condition::narrow().and(&Condition::only(Family::V6)),
        (Some(protocol @ ("icmp" | "icmpv6" | "igmp")), _, _) => Condition::protocol([protocol.to_owned()]),
        (_, _, Some("l4proto")) if equal => Condition::protocol(words(right)),
        (_, _, Some("nfproto" | "protocol")) if equal => of_family(right),
        (_, _, Some("iif" | "iifname")) if equal && right == "lo" => {
            Condition { loopback: true, ..Condition::default() }
        }
        _ if left.pointer("/ct/key").is_some_and(|key| key == "state") && equal => state(right),
        _ => Condition::narrow(),
    }
}

fn of_family(right: &Value) -> Condition {
    match right.as_str() {
        Some("ipv4" | "ip") => Condition::only(Family::V4),
        Some("ipv6" | "ip6") => Condition::only(Family::V6),
        _ => Condition::narrow(),
    }
}

/// `new` is what this walk is about and therefore no condition at all.
fn state(right: &Value) -> Condition {
    let states = words(right);
    if states.iter().any(|state| state == "new" || state == "untracked") {
        Condition::default()
    } else if !states.is_empty() && states.iter().all(|state| state == "established" || state == "related") {
        Condition { established: true, ..Condition::default() }
    } else {
        Condition::narrow()
    }
}

/// Ports that cannot be read are every port: an accept of them is not overlooked.
fn to_ports(protocol: &str, ports: Option<Ports>) -> Condition {
    let ports = Some(ports.unwrap_or_else(Ports::all));
    match protocol {
        "tcp" => Condition { tcp: ports, ..Condition::default() },
        "udp" => Condition { udp: ports, ..Condition::default() },
        "th" => Condition { tcp: ports.clone(), udp: ports, ..Condition::default() },
        _ => Condition::narrow(),
    }
}

fn ports(right: &Value, sets: &Sets<'_>) -> Option<Ports> {
    if let Some(name) = right.as_str().and_then(|text| text.strip_prefix('@')) {
        return sets(name)?.iter().map(range).collect::<Option<Vec<_>>>().map(Ports::of);
    }
    match right.get("set").and_then(Value::as_array) {
        Some(elements) => elements.iter().map(range).collect::<Option<Vec<_>>>().map(Ports::of),
        None => range(right).map(|range| Ports::of([range])),
    }
}

/// A port, `{"range": [a, b]}`, or one of them wrapped as `{"elem": {"val": …}}`.
fn range(element: &Value) -> Option<(u16, u16)> {
    let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    let element = element.pointer("/elem/val").unwrap_or(element);
    match element.get("range") {
        Some(ends) => Some((number(ends.get(0)?)?, number(ends.get(1)?)?)),
        None => number(element).map(|port| (port, port)),
    }
}

fn words(right: &Value) -> Vec<String> {
    let list = right.get("set").or(Some(right)).and_then(Value::as_array);
    match list {
        Some(list) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        None => right.as_str().map(str::to_owned).into_iter().collect(),
    }
}
