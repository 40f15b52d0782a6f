//! Firewall: what the kernel's own ruleset lets in, for IPv4 and IPv6, and whether it is still the one we know.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::nft::{Gate, Ruleset, canonical};
use super::nft_baseline::{Trial, foreign, legacy_rules, shuts_out, tried};
use super::nft_condition::Family;
use super::sockets::{self, Session};
use crate::checks::run::{Context, Facts};
use crate::crypto::sha256_hex;
use crate::domain::finding::Observation;
use crate::host::{Cmd, Host, HostError};

const RULESET_CAP: usize = 16 * 1024 * 1024;
const FROM_RULESET: [&str; 6] = ["ruleset", "ip4", "ip6", "accepted", "forward", "foreign"];

/// Facts: `ruleset`, `ip4`, `ip6`, `accepted`, `forward`, `foreign` (tables other programs made), `ipv6_enabled`,
/// `legacy_rules`, `sessions` (local TCP ports other machines are connected to), `baseline`, `nixos`.
///
/// `baseline.judged` is what the ruleset file would do, as `{ip4, ip6, accepted, extra, shuts_out, replaces}`: `extra` is
/// what it opens and the settings do not allow, `shuts_out` the ports of sessions it would refuse, `replaces` what goes when
/// it is loaded; null where it could not be tried.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    let outside = outside(host);
    let sessions = sockets::sessions(host);
    let path = context.text("baseline").unwrap_or_default();
    let baseline = baseline(host, path);
    let there = baseline.as_ref().is_ok_and(|baseline| baseline.get("exists") == Some(&Value::Bool(true)));
    let trial = if there { Some(tried(host, path).await) } else { None };
    let file = trial.as_ref().and_then(|trial| trial.as_ref().ok());
    match ruleset(host).await {
        Ok((answer, ruleset)) => {
            tell(context, &answer, &ruleset, (&outside, &mut facts));
            facts.set("foreign", foreign(&answer, &ruleset, &context.list("ignore_tables"), file));
        }
        Err(error) => facts.fail_all(&FROM_RULESET, &error),
    }
    let judged = match (file, &sessions) {
        (Some(trial), Ok(sessions)) => {
            judged(context, trial, (&outside, &sessions.iter().copied().collect::<Vec<_>>()))
        }
        _ => Value::Null,
    };
    let why = match trial {
        Some(Err(error)) => json!(error.to_string()),
        Some(Ok(_)) | None => Value::Null,
    };
    facts.learn(
        "baseline",
        baseline.map(|mut baseline| {
            if let Some(baseline) = baseline.as_object_mut() {
                baseline.insert("judged".to_owned(), judged);
                baseline.insert("why_not".to_owned(), why);
            }
            baseline
        }),
    );
    facts.learn("ipv6_enabled", lines(host, "/proc/net/if_inet6").map(|lines| lines > 0));
    facts.learn("legacy_rules", legacy_rules(host).await);
    facts.learn(
        "sessions",
        sessions.map(|sessions| json!(sessions.iter().map(|session| session.port).collect::<BTreeSet<_>>())),
    );
    facts.set("nixos", host.exists("/etc/NIXOS"));
    facts.into()
}

async fn ruleset(host: &Host) -> Result<(Value, Ruleset), HostError> {
    let cmd = Cmd::new(["nft", "-j", "list", "ruleset"]).cap(RULESET_CAP);
    let what = cmd.line();
    let answer = host.run_ok(cmd).await?.json(&what)?;
    let ruleset = Ruleset::parse(&answer)
        .ok_or_else(|| HostError::Garbage { what, why: "JSON that is not a ruleset".to_owned() })?;
    Ok((answer, ruleset))
}

fn tell(context: Context<'_>, answer: &Value, ruleset: &Ruleset, (outside, facts): (&[String], &mut Facts)) {
    let canonical = canonical(answer, &context.list("ignore_tables")).to_string();
    facts.set(
        "ruleset",
        json!({"sha256": sha256_hex(canonical.as_bytes()), "tables": ruleset.tables, "rules": ruleset.rules}),
    );
    let gate = |hook: &str, family| ruleset.gate(hook, family, outside);
    let (ip4, ip6) = (gate("input", Family::V4), gate("input", Family::V6));
    let (through4, through6) = (gate("forward", Family::V4), gate("forward", Family::V6));
    facts.set("ip4", fact(&ip4));
    facts.set("ip6", fact(&ip6));
    facts.set("accepted", accepted(&ip4, &ip6));
    let forwarding = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];
    let on = forwarding.iter().any(|path| context.host.read(path).is_ok_and(|text| text.trim() != "0"));
    facts.set("forward", json!({"on": on, "default_drop": through4.default_drop && through6.default_drop}));
}

/// What a ruleset that is not loaded would do.
fn judged(context: Context<'_>, trial: &Trial, (outside, sessions): (&[String], &[Session])) -> Value {
    let ruleset = &trial.ruleset;
    let (ip4, ip6) = (ruleset.gate("input", Family::V4, outside), ruleset.gate("input", Family::V6, outside));
    let accepted = accepted(&ip4, &ip6);
    let allowed = |setting: &str| context.settings.get(setting).and_then(Value::as_array).cloned().unwrap_or_default();
    let extra: Vec<Value> = [("tcp", "allowed_tcp"), ("udp", "allowed_udp"), ("ranges", "allowed_ranges")]
        .into_iter()
        .flat_map(|(kind, setting)| {
            let allowed = allowed(setting);
            let open = accepted.get(kind).and_then(Value::as_array).cloned().unwrap_or_default();
            open.into_iter().filter(move |port| !allowed.contains(port))
        })
        .collect();
    let opened = |session: &Session| {
        let gate = if session.v6 { &ip6 } else { &ip4 };
        !gate.filtered || !gate.default_drop || gate.opened.tcp.has(session.port)
    };
    let tcp: Vec<u16> = serde_json::from_value(Value::Array(allowed("allowed_tcp"))).unwrap_or_default();
    let shuts_out = shuts_out(sessions, (&tcp, &sockets::programs(context.host)), opened);
    json!({
        "ip4": fact(&ip4), "ip6": fact(&ip6), "extra": extra, "shuts_out": shuts_out, "accepted": accepted,
        "replaces": trial.replaces.word(),
    })
}

/// What the running ruleset lets in, for whoever asks about single ports.
pub(super) struct Reach {
    ip4: Gate,
    ip6: Gate,
}

/// How far one can reach in; `None` where the ruleset is not known.
pub(super) async fn reach(host: &Host) -> Option<Reach> {
    let (_, ruleset) = ruleset(host).await.ok()?;
    let outside = outside(host);
    let gate = |family| ruleset.gate("input", family, &outside);
    Some(Reach { ip4: gate(Family::V4), ip6: gate(Family::V6) })
}

impl Reach {
    /// Whether some other machine reaches a port, over IPv4 or IPv6.
    pub(super) fn lets_in(&self, protocol: &str, port: u16) -> bool {
        [&self.ip4, &self.ip6].into_iter().any(|gate| {
            let ports = if protocol == "tcp" { &gate.opened.tcp } else { &gate.opened.udp };
            !gate.default_drop || gate.opened.narrow + gate.opened.opaque > 0 || ports.has(port)
        })
    }

    /// TCP ports that are open one by one; `None` where nothing is filtered.
    pub(super) fn tcp_ports(&self) -> Option<Vec<u16>> {
        let drops = self.ip4.default_drop || self.ip6.default_drop;
        drops.then(|| self.ip4.opened.tcp.or(Some(&self.ip6.opened.tcp)).split().0)
    }
}

/// Interfaces with a default route, which is where the outside is; none where the tables cannot be read.
fn outside(host: &Host) -> Vec<String> {
    let mut names = Vec::new();
    for line in host.read("/proc/net/route").unwrap_or_default().lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [name, "00000000", _, _, _, _, _, "00000000", ..] = fields.as_slice() {
            names.push((*name).to_owned());
        }
    }
    for line in host.read("/proc/net/ipv6_route").unwrap_or_default().lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // The kernel keeps a refusing route of the same form at `lo`.
        if let [target, "00", .., name] = fields.as_slice()
            && target.bytes().all(|byte| byte == b'0')
            && *name != "lo"
        {
            names.push((*name).to_owned());
        }
    }
    names.sort();
    names.dedup();
    names
}

fn fact(gate: &Gate) -> Value {
    json!({
        "filtered": gate.filtered, "default_drop": gate.default_drop, "established": gate.opened.established,
        "loopback": gate.opened.loopback, "narrow": gate.opened.narrow, "opaque": gate.opened.opaque,
    })
}

/// Ports open over IPv4 or IPv6: short ranges port by port, long ones as `tcp 1024-65535`.
fn accepted(ip4: &Gate, ip6: &Gate) -> Value {
    let (tcp, tcp_ranges) = ip4.opened.tcp.or(Some(&ip6.opened.tcp)).split();
    let (udp, udp_ranges) = ip4.opened.udp.or(Some(&ip6.opened.udp)).split();
    let named = |protocol: &'static str| move |range: String| format!("{protocol} {range}");
    let ranges: Vec<String> =
        tcp_ranges.into_iter().map(named("tcp")).chain(udp_ranges.into_iter().map(named("udp"))).collect();
    json!({"tcp": tcp, "udp": udp, "ranges": ranges})
}

/// Lines of a kernel file that is only there where the feature is.
fn lines(host: &Host, path: &str) -> Result<usize, HostError> {
    match host.read(path) {
        Ok(text) => Ok(text.lines().count()),
        Err(HostError::Missing(_)) => Ok(0),
        Err(error) => Err(error),
    }
}

/// The ruleset file that healing would load: there, root's, and writable by nobody else.
fn baseline(host: &Host, path: &str) -> Result<Value, HostError> {
    match host.stat(path) {
        Ok(stat) => {
            let content = host.read_bytes(path)?;
            let safe = stat.mode & 0o022 == 0 && (stat.uid == 0 || !host.is_live());
            Ok(json!({"path": path, "exists": true, "safe": safe, "sha256": sha256_hex(&content)}))
        }
        Err(HostError::Missing(_)) => Ok(json!({"path": path, "exists": false, "safe": false, "sha256": null})),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod probe;
#[cfg(test)]
mod tests;
