//! What one nftables rule asks of a packet.

use std::collections::BTreeSet;

use serde_json::Value;

use super::ports::Ports;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    /// Whether a table of this kind sees its packets.
    pub(super) fn sees(self, table: &str) -> bool {
        table == "inet"
            || match self {
                Self::V4 => table == "ip",
                Self::V6 => table == "ip6",
            }
    }
}

/// What a packet has to be; the empty condition holds for every new packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Condition {
    /// Comes from this machine itself.
    pub(super) loopback: bool,
    /// Comes from another machine, which is who this is about and therefore no condition for them.
    pub(super) outsider: bool,
    /// Belongs to a connection that is already there.
    pub(super) established: bool,
    /// TCP to one of these ports.
    pub(super) tcp: Option<Ports>,
    /// UDP to one of these ports.
    pub(super) udp: Option<Ports>,
    /// One of these protocols.
    pub(super) protocols: Option<BTreeSet<String>>,
    /// IPv4 only, IPv6 only.
    pub(super) family: [bool; 2],
    /// Whatever else it has to be.
    pub(super) rest: Rest,
}

/// What a condition asks beyond ports, protocols and connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rest {
    /// Nothing more.
    #[default]
    Nothing,
    /// Something the sender can choose or nearly every packet is: it keeps nobody out, but a drop on it is not sure.
    Loose,
    /// Something only some packets are: an address, an interface, a mark.
    Narrow,
    /// Something that cannot be read.
    Opaque,
}

/// What a rule is read against.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// Looks up the elements of a named set or map.
    pub(super) sets: &'a dyn Fn(&str) -> Option<Vec<Value>>,
    /// Interfaces the outside comes in by: those with a default route.
    pub(super) outside: &'a [String],
}

impl Condition {
    /// Holds for every new packet of a family.
    pub(super) fn is_empty(&self, family: Family) -> bool {
        let rest = Self { family: Self::default().family, outsider: false, ..self.clone() };
        rest == Self::default() && !self.never(family)
    }

    /// Can hold for no packet of a family.
    pub(super) fn never(&self, family: Family) -> bool {
        let [only_v4, only_v6] = self.family;
        if self.loopback && self.outsider {
            return true;
        }
        match family {
            Family::V4 => only_v6,
            Family::V6 => only_v4,
        }
    }

    /// Both conditions at once.
    pub(super) fn and(&self, other: &Self) -> Self {
        Self {
            loopback: self.loopback || other.loopback,
            outsider: self.outsider || other.outsider,
            established: self.established || other.established,
            tcp: both(self.tcp.as_ref(), other.tcp.as_ref(), Ports::and),
            udp: both(self.udp.as_ref(), other.udp.as_ref(), Ports::and),
            protocols: both(self.protocols.as_ref(), other.protocols.as_ref(), |a, b| a & b),
            family: [self.family[0] || other.family[0], self.family[1] || other.family[1]],
            rest: self.rest.max(other.rest),
        }
    }

    pub(super) fn rest(rest: Rest) -> Self {
        Self { rest, ..Self::default() }
    }

    pub(super) fn narrow() -> Self {
        Self::rest(Rest::Narrow)
    }

    pub(super) fn loose() -> Self {
        Self::rest(Rest::Loose)
    }

    /// Holds for connections that are there, and for nobody who wants to begin one.
    pub(super) fn no_newcomer() -> Self {
        Self { established: true, ..Self::default() }
    }

    pub(super) fn only(family: Family) -> Self {
        Self { family: [family == Family::V4, family == Family::V6], ..Self::default() }
    }

    pub(super) fn protocol(names: impl IntoIterator<Item = String>) -> Self {
        Self { protocols: Some(names.into_iter().collect()), ..Self::default() }
    }
}

fn both<T: Clone>(a: Option<&T>, b: Option<&T>, and: impl Fn(&T, &T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(and(a, b)),
        (one, None) | (None, one) => one.cloned(),
    }
}

/// An element without its timeout, counter and comment.
pub(super) fn bare(element: &Value) -> &Value {
    element.pointer("/elem/val").unwrap_or(element)
}

/// The elements of a set, by name or as it stands; a single value is its own set.
pub(super) fn elements(right: &Value, around: Around<'_>) -> Option<Vec<Value>> {
    if let Some(name) = right.as_str().and_then(|text| text.strip_prefix('@')) {
        return (around.sets)(name);
    }
    match right.get("set") {
        Some(Value::Array(elements)) => Some(elements.clone()),
        Some(one) => Some(vec![one.clone()]),
        None => Some(vec![right.clone()]),
    }
}

/// The words of a set, or the one word it is.
pub(super) fn words(right: &Value) -> Vec<String> {
    let set = right.get("set").unwrap_or(right);
    match set.as_array() {
        Some(list) => list.iter().filter_map(|word| bare(word).as_str()).map(str::to_owned).collect(),
        None => set.as_str().map(str::to_owned).into_iter().collect(),
    }
}
