//! Firewall: what the kernel's own ruleset lets in, for IPv4 and IPv6, and whether it is still the one we know.

use serde_json::{Value, json};

use super::nft::{Family, Gate, Ruleset, canonical};
use crate::checks::run::{Context, Facts};
use crate::crypto::sha256_hex;
use crate::domain::finding::Observation;
use crate::host::{Cmd, Host, HostError};

const RULESET_CAP: usize = 16 * 1024 * 1024;
const FROM_RULESET: [&str; 5] = ["ruleset", "ip4", "ip6", "accepted", "forward"];

/// Facts: `ruleset`, `ip4`, `ip6`, `accepted`, `forward`, `ipv6_enabled`, `legacy_tables`, `baseline`, `nixos`.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    match ruleset(host).await {
        Ok((answer, ruleset)) => tell(context, &answer, &ruleset, &mut facts),
        Err(error) => facts.fail_all(&FROM_RULESET, &error),
    }
    facts.learn("ipv6_enabled", lines(host, "/proc/net/if_inet6").map(|lines| lines > 0));
    let legacy =
        lines(host, "/proc/net/ip_tables_names").and_then(|ip4| Ok(ip4 + lines(host, "/proc/net/ip6_tables_names")?));
    facts.learn("legacy_tables", legacy);
    let path = context.text("baseline").unwrap_or_default();
    facts.learn("baseline", baseline(host, path));
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

fn tell(context: Context<'_>, answer: &Value, ruleset: &Ruleset, facts: &mut Facts) {
    let canonical = canonical(answer, &context.list("ignore_tables")).to_string();
    facts.set(
        "ruleset",
        json!({"sha256": sha256_hex(canonical.as_bytes()), "tables": ruleset.tables, "rules": ruleset.rules}),
    );
    let (ip4, ip6) = (ruleset.gate("input", Family::V4), ruleset.gate("input", Family::V6));
    let (through4, through6) = (ruleset.gate("forward", Family::V4), ruleset.gate("forward", Family::V6));
    facts.set("ip4", fact(&ip4));
    facts.set("ip6", fact(&ip6));
    facts.set("accepted", accepted(&ip4, &ip6));
    let forwarding = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];
    let on = forwarding.iter().any(|path| context.host.read(path).is_ok_and(|text| text.trim() != "0"));
    facts.set("forward", json!({"on": on, "default_drop": through4.default_drop && through6.default_drop}));
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
mod tests {
    use super::super::fixture::{Tree, on_runtime};
    use super::*;

    const ID: &str = "RB-LNX-FIREWALL-001";
    const LIST: &str = "nft -j list ruleset";

    /// What the real kernel says about a ruleset, loaded in a network namespace of its own.
    fn kernel(ruleset: &str) -> Option<String> {
        let inside = |script: &str| {
            let cmd = Cmd::new(["unshare", "--net", "sh", "-c", script]).stdin(ruleset);
            on_runtime(Host::live().run(cmd)).ok()
        };
        if !inside("nft list ruleset").is_some_and(|output| output.success()) {
            eprintln!("skipped: no nft in a network namespace of our own here");
            return None;
        }
        let output = inside("nft -f - && nft -j list ruleset").unwrap();
        assert!(output.success(), "{}", output.stderr);
        Some(output.stdout)
    }

    fn machine(answer: &str) -> Tree {
        Tree::new()
            .answer(LIST, answer)
            .file("/proc/net/if_inet6", "00000000000000000000000000000001 01 80 10 80 lo\n")
            .file("/proc/sys/net/ipv4/ip_forward", "0\n")
            .file("/etc/nftables.conf", "table inet filter {}\n")
    }

    fn judge(ruleset: &str, settings: &Value) -> Option<(&'static str, Vec<String>)> {
        Some(machine(&kernel(ruleset)?).judge(ID, settings))
    }

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    const GOOD: &str = r#"table inet filter {
        set ports { type inet_service; elements = { 443 } }
        chain input {
            type filter hook input priority 0; policy drop;
            ct state vmap { established : accept, related : accept, invalid : drop }
            iifname "lo" accept
            ip protocol icmp accept
            meta l4proto ipv6-icmp accept
            tcp dport 22 counter accept
            tcp dport @ports accept
            udp dport 546 accept
            jump extra
        }
        chain extra { tcp flags syn / syn,rst counter reject; ip6 saddr fe80::/10 udp dport 68 accept; }
        chain forward { type filter hook forward priority 0; policy drop; }
    }"#;

    #[test]
    fn a_tight_ruleset_passes() {
        let Some(found) = judge(GOOD, &json!({})) else { return };
        assert_eq!(found, ("pass", vec![]));
    }

    #[test]
    fn an_empty_ruleset_fails() {
        let Some(found) = judge("", &json!({})) else { return };
        assert_eq!(found, ("fail", words(&["no_filtering", "ipv6_open"])));
    }

    #[test]
    fn an_open_port_that_is_not_allowed_fails() {
        let open = GOOD.replace("udp dport 546 accept", "tcp dport { 3389, 5900-5910 } accept; udp dport 161 accept");
        let Some(found) = judge(&open, &json!({})) else { return };
        assert_eq!(found, ("fail", words(&["extra_accept"])));
        let set = GOOD.replace("elements = { 443 }", "elements = { 443, 23 }");
        assert_eq!(judge(&set, &json!({})).unwrap().1, words(&["extra_accept"]));
        let range = GOOD.replace("udp dport 546 accept", "tcp dport 1024-65535 accept");
        assert_eq!(judge(&range, &json!({})).unwrap().1, words(&["extra_accept"]));
        assert_eq!(judge(&range, &json!({"allowed_ranges": ["tcp 1024-65535"]})).unwrap().0, "pass");
        let protocol = GOOD.replace("udp dport 546 accept", "meta l4proto udp accept");
        assert_eq!(judge(&protocol, &json!({})).unwrap().1, words(&["extra_accept"]));
    }

    #[test]
    fn a_policy_that_accepts_fails_and_a_final_drop_is_as_good_as_a_policy() {
        let open = GOOD.replace("hook input priority 0; policy drop", "hook input priority 0; policy accept");
        let Some(found) = judge(&open, &json!({})) else { return };
        assert_eq!(found, ("fail", words(&["input_policy_accept", "ipv6_open"])));
        let last = open.replace("jump extra", "jump extra\n counter log prefix \"x\" drop");
        assert_eq!(judge(&last, &json!({})).unwrap().0, "pass");
        let nested = open
            .replace("jump extra", "jump refuse")
            .replace("chain extra {", "chain refuse { log; jump end; }\n chain end { drop; }\n chain extra {");
        assert_eq!(judge(&nested, &json!({})).unwrap().0, "pass");
        let hole = GOOD.replace("jump extra", "accept\n jump extra");
        assert_eq!(judge(&hole, &json!({})).unwrap().1, words(&["input_policy_accept", "ipv6_open"]));
        let conditional = open.replace("jump extra", "ip saddr 10.0.0.0/8 drop");
        assert_eq!(judge(&conditional, &json!({})).unwrap().1, words(&["input_policy_accept", "ipv6_open"]));
        let new = open.replace("jump extra", "ct state new drop");
        assert_eq!(judge(&new, &json!({})).unwrap().0, "pass");
    }

    #[test]
    fn ipv6_forgotten_fails() {
        let v4 = GOOD
            .replace("table inet", "table ip")
            .replace("meta l4proto ipv6-icmp accept", "")
            .replace("ip6 saddr fe80::/10 ", "");
        let Some(found) = judge(&v4, &json!({})) else { return };
        assert_eq!(found, ("fail", words(&["ipv6_open"])));
        let only_v6 = GOOD.replace("jump extra", "meta nfproto ipv6 accept\n jump extra");
        assert_eq!(judge(&only_v6, &json!({})).unwrap().1, words(&["ipv6_open"]));
    }

    #[test]
    fn a_packet_must_pass_every_chain() {
        let second = format!(
            "{GOOD}\n table inet second {{ chain input {{ type filter hook input priority 10; policy drop; ct state established,related accept; iif lo accept; tcp dport 22 accept; }}; }}"
        );
        let both = second.replace("udp dport 546 accept", "tcp dport 3389 accept");
        let Some(found) = judge(&both, &json!({})) else { return };
        assert_eq!(found, ("pass", vec![]));
    }

    #[test]
    fn narrow_accepts_and_open_forwarding_warn() {
        let narrow = GOOD.replace("udp dport 546 accept", "ip saddr 10.0.0.0/8 accept");
        let Some(found) = judge(&narrow, &json!({})) else { return };
        assert_eq!(found, ("warn", words(&["broad_accept"])));
        let router = machine(
            &kernel(&GOOD.replace("hook forward priority 0; policy drop", "hook forward priority 0; policy accept"))
                .unwrap(),
        )
        .file("/proc/sys/net/ipv4/ip_forward", "1\n");
        assert_eq!(router.judge(ID, &json!({})), ("warn", words(&["forward_open"])));
    }

    #[test]
    fn counters_and_ignored_tables_do_not_change_the_hash_but_rules_do() {
        let hash = |text: &str, ignored: &[&str]| canonical(&serde_json::from_str(text).unwrap(), ignored);
        let Some(once) = kernel(GOOD) else { return };
        let counted = once.replace("\"packets\": 0", "\"packets\": 77").replace("\"handle\": ", "\"handle\": 9");
        assert_eq!(hash(&once, &[]), hash(&counted, &[]));
        let docker = kernel(&format!("{GOOD}\n table ip docker {{ chain x {{ accept; }}; }}")).unwrap();
        assert_ne!(hash(&once, &[]), hash(&docker, &[]));
        assert_eq!(hash(&once, &[]), hash(&docker, &["ip docker"]));
        let sha = machine(&once).observe(ID, &json!({})).facts["ruleset"]["sha256"].as_str().unwrap().to_owned();
        assert_eq!(machine(&once).judge(ID, &json!({"expected_sha256": sha})).0, "pass");
        let other = json!({"expected_sha256": "0".repeat(64)});
        assert_eq!(machine(&once).judge(ID, &other), ("warn", words(&["hash_changed"])));
    }

    #[test]
    fn without_a_baseline_it_was_never_configured() {
        let tree = Tree::new().answer(LIST, r#"{"nftables": [{"metainfo": {"version": "1.0.6"}}]}"#);
        let finding = tree.finding(ID, &json!({}));
        assert!(finding.is_never_configured(), "{:?}", finding.reasons);
        let nixos = Tree::new().answer(LIST, r#"{"nftables": []}"#).file("/etc/NIXOS", "");
        assert_eq!(nixos.judge(ID, &json!({})).0, "fail");
    }

    #[test]
    fn missing_nft_denied_nft_and_garbage_are_unknown() {
        let said = |tree: Tree| {
            let finding = tree.finding(ID, &json!({}));
            (finding.verdict.word(), finding.reasons[0].say.clone())
        };
        assert_eq!(said(Tree::new().file("/etc/nftables.conf", "x")), ("unknown", "nft is not there".to_owned()));
        let denied = Tree::new().file("/etc/nftables.conf", "x").answer_with(
            LIST,
            1,
            "",
            "Operation not permitted (you must be root)",
        );
        assert!(said(denied).1.contains("you must be root"));
        for garbage in ["", "[]", "{\"nftables\": [1]}", "{\"nftables\": [{\"chain\": {}}]}"] {
            let tree = Tree::new().file("/etc/nftables.conf", "x").answer(LIST, garbage);
            assert_eq!(said(tree).0, "unknown", "{garbage}");
        }
    }
}
