//! What an nftables ruleset means: who may come in, told from the kernel's JSON and not from a file.
//!
//! The walk errs on the side of "open": what the sender can choose keeps nobody out, and a drop under any condition is not
//! relied on.

use std::collections::BTreeMap;

use serde_json::Value;

use super::nft_condition::{Around, Condition, Family, Rest};
use super::nft_match::verdicts;
use super::ports::Ports;

/// Deepest nesting of chains; the kernel allows 16.
const DEPTH: u32 = 16;
/// Chain visits of one walk: far above any real ruleset, far below a hang.
const VISITS: u32 = 5_000;

/// A ruleset, its chains by table.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    pub(super) tables: Vec<String>,
    pub(super) rules: usize,
    chains: BTreeMap<Place, Chain>,
    sets: BTreeMap<Place, Vec<Value>>,
}

/// Family, table and name of a chain or set.
pub(super) type Place = (String, String, String);

#[derive(Debug, Default)]
struct Chain {
    hook: Option<String>,
    policy: Option<String>,
    rules: Vec<Vec<Value>>,
}

/// What one hook lets through for one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gate {
    /// Some chain looks at these packets.
    pub(super) filtered: bool,
    /// What nothing accepts is dropped.
    pub(super) default_drop: bool,
    /// What is accepted.
    pub(super) opened: Opened,
}

/// What the accepting rules let through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) established: bool,
    pub(super) loopback: bool,
    pub(super) tcp: Ports,
    pub(super) udp: Ports,
    /// Accepting rules bound to something other than a port: an address, an interface, a mark.
    pub(super) narrow: u32,
    /// Accepting rules with a match that cannot be read, as iptables leaves them.
    pub(super) opaque: u32,
}

/// What becomes of a packet that no earlier rule decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Continue,
    Accept,
    Drop,
}

impl Ruleset {
    /// Reads the answer of `nft -j list ruleset`.
    pub(super) fn parse(answer: &Value) -> Option<Self> {
        let mut ruleset = Self::default();
        for object in answer.get("nftables")?.as_array()? {
            let (kind, object) = object.as_object()?.iter().next()?;
            let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
            match kind.as_str() {
                "table" => ruleset.tables.push(format!("{} {}", text("family")?, text("name")?)),
                "chain" => {
                    let chain = ruleset.chains.entry((text("family")?, text("table")?, text("name")?)).or_default();
                    (chain.hook, chain.policy) = (text("hook"), text("policy"));
                }
                "rule" => {
                    let place = (text("family")?, text("table")?, text("chain")?);
                    ruleset.chains.entry(place).or_default().rules.push(object.get("expr")?.as_array()?.clone());
                    ruleset.rules += 1;
                }
                "set" | "map" => {
                    let elements = object.get("elem").and_then(Value::as_array).cloned().unwrap_or_default();
                    ruleset.sets.insert((text("family")?, text("table")?, text("name")?), elements);
                }
                _ => {}
            }
        }
        Some(ruleset)
    }

    /// What a hook lets through: a packet must pass every chain there, so one that drops is enough.
    ///
    /// `outside` names the interfaces with a default route.
    pub(super) fn gate(&self, hook: &str, family: Family, outside: &[String]) -> Gate {
        let mut gate = Gate { filtered: false, default_drop: false, opened: Opened::default() };
        for (place, chain) in self.chains.iter().filter(|(place, chain)| chain.is_at(hook) && family.sees(&place.0)) {
            gate.filtered = true;
            let accepts = chain.policy.as_deref() != Some("drop");
            let mut walk =
                Walk { ruleset: self, family, place, outside, accepts, opened: Opened::default(), visits: 0 };
            let drops = match walk.chain(chain, &Condition::default(), 0) {
                Fate::Drop => true,
                Fate::Accept => false,
                Fate::Continue => !accepts,
            };
            if drops {
                gate.opened = if gate.default_drop { gate.opened.and(&walk.opened) } else { walk.opened };
                gate.default_drop = true;
            }
        }
        gate
    }

    fn set(&self, place: &Place, name: &str) -> Option<Vec<Value>> {
        self.sets.get(&(place.0.clone(), place.1.clone(), name.to_owned())).cloned()
    }

    /// Chains that hold a rule.
    pub(super) fn ruled(&self) -> impl Iterator<Item = &Place> {
        self.chains.iter().filter(|(_, chain)| !chain.rules.is_empty()).map(|(place, _)| place)
    }

    /// Chains by family, table and name.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.chains.keys()
    }
}

impl Chain {
    fn is_at(&self, hook: &str) -> bool {
        self.hook.as_deref() == Some(hook)
    }
}

impl Opened {
    /// What both let through.
    fn and(&self, other: &Self) -> Self {
        Self {
            established: self.established && other.established,
            loopback: self.loopback && other.loopback,
            tcp: self.tcp.and(&other.tcp),
            udp: self.udp.and(&other.udp),
            narrow: self.narrow.min(other.narrow),
            opaque: self.opaque.min(other.opaque),
        }
    }
}

struct Walk<'a> {
    ruleset: &'a Ruleset,
    family: Family,
    place: &'a Place,
    outside: &'a [String],
    /// What the policy says to whatever comes to the end of the chain or is sent there.
    accepts: bool,
    opened: Opened,
    visits: u32,
}

impl Walk<'_> {
    fn chain(&mut self, chain: &Chain, outer: &Condition, depth: u32) -> Fate {
        self.visits += 1;
        if depth > DEPTH || self.visits > VISITS {
            self.opened.opaque += 1;
            return Fate::Continue;
        }
        for rule in &chain.rules {
            let (ruleset, place) = (self.ruleset, self.place);
            let sets = |name: &str| ruleset.set(place, name);
            for (condition, verdict) in verdicts(rule, Around { sets: &sets, outside: self.outside }) {
                let always = condition.is_empty(self.family);
                let both = outer.and(&condition);
                if both.never(self.family) {
                    continue;
                }
                let fate = match verdict {
                    ("accept", _) => {
                        self.accept(&both);
                        Fate::Accept
                    }
                    ("drop" | "reject", _) => Fate::Drop,
                    ("jump" | "goto", target) => self.jump(target.unwrap_or_default(), &both, depth),
                    ("return", _) if always => return Fate::Continue,
                    // From the first chain it returns to the policy, past every rule that follows.
                    ("return", _) if depth == 0 => {
                        if self.accepts {
                            self.accept(&both);
                        }
                        Fate::Continue
                    }
                    // A packet handed back or to a program: what becomes of it cannot be told.
                    _ => {
                        self.opened.opaque += 1;
                        Fate::Continue
                    }
                };
                if always && fate != Fate::Continue {
                    // A rule for other machines leaves this one's own packets alone.
                    self.opened.loopback |= condition.outsider;
                    return fate;
                }
                if always && verdict.0 == "goto" {
                    return Fate::Continue;
                }
            }
        }
        Fate::Continue
    }

    fn jump(&mut self, target: &str, condition: &Condition, depth: u32) -> Fate {
        let place = (self.place.0.clone(), self.place.1.clone(), target.to_owned());
        match self.ruleset.chains.get(&place) {
            Some(chain) => self.chain(chain, condition, depth + 1),
            None => Fate::Continue,
        }
    }

    fn accept(&mut self, condition: &Condition) {
        let opened = &mut self.opened;
        let has = |name: &str| condition.protocols.as_ref().is_none_or(|protocols| protocols.contains(name));
        if condition.loopback {
            opened.loopback = true;
        } else if condition.established {
            opened.established = true;
        } else if condition.tcp.is_some() || condition.udp.is_some() {
            // `th dport` is of both, unless the protocol is asked for beside it.
            opened.tcp = opened.tcp.or(condition.tcp.as_ref().filter(|_| has("tcp")));
            opened.udp = opened.udp.or(condition.udp.as_ref().filter(|_| has("udp")));
        } else {
            match condition.rest {
                Rest::Nothing | Rest::Loose => {
                    opened.tcp = opened.tcp.or(has("tcp").then(Ports::all).as_ref());
                    opened.udp = opened.udp.or(has("udp").then(Ports::all).as_ref());
                }
                // Nobody can connect to anything but these two.
                Rest::Narrow | Rest::Opaque if !has("tcp") && !has("udp") => {}
                Rest::Narrow => opened.narrow += 1,
                Rest::Opaque => opened.opaque += 1,
            }
        }
    }
}

/// The ruleset without what changes by itself: handles, counters, elements that come and go, ignored tables.
pub(super) fn canonical(answer: &Value, ignored: &[&str]) -> Value {
    let objects = answer.get("nftables").and_then(Value::as_array).into_iter().flatten();
    objects.filter(|object| !is_ignored(object, ignored)).map(steady).collect()
}

fn is_ignored(object: &Value, ignored: &[&str]) -> bool {
    let Some((kind, object)) = object.as_object().and_then(|object| object.iter().next()) else { return false };
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let table = format!("{} {}", text("family"), text(if kind == "table" { "name" } else { "table" }));
    kind == "metainfo" || ignored.contains(&table.as_str())
}

fn steady(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let comes_and_goes = object.get("flags").is_some_and(|flags| {
                flags.as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "timeout" || flag == "dynamic"))
            });
            let keep = |key: &str| {
                let counts = matches!(key, "handle" | "index" | "packets" | "bytes" | "used" | "expires");
                !counts && (key != "elem" || !comes_and_goes)
            };
            Value::Object(
                object.iter().filter(|(key, _)| keep(key)).map(|(key, value)| (key.clone(), steady(value))).collect(),
            )
        }
        Value::Array(list) => list.iter().map(steady).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}
