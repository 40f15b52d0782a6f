//! Rulesets as the real kernel tells them, judged.

use super::super::fixture::{Tree, on_runtime};
use super::*;

const ID: &str = "RB-LNX-FIREWALL-001";
const LIST: &str = "nft -j list ruleset";
const TRIED: &str = "unshare --net -- nft -i -j";

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
        .file("/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
        .file("/proc/net/tcp", "head\n")
        .file("/proc/net/route", "head\nwan0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n")
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

/// Each of these lets in whoever likes, whatever it looks like.
#[test]
fn conditions_everybody_meets_are_no_conditions() {
    let with = |rule: &str| judge(&GOOD.replace("udp dport 546 accept", rule), &json!({}));
    for rule in [
        "ct state != invalid accept",
        "ct state { new, established } accept",
        "ct direction original accept",
        "meta l4proto != icmp accept",
        "tcp sport 1024-65535 accept",
        "tcp flags syn accept",
        "tcp flags & (fin|syn|rst|ack) == syn accept",
        "meta pkttype host accept",
        "ip saddr 0.0.0.0/0 accept",
        "ip6 saddr ::/0 accept",
        "ip6 saddr 2000::/3 accept",
        "ip saddr { 0.0.0.0/1, 128.0.0.0/2 } accept",
        "ip saddr 1.0.0.0-223.255.255.255 accept",
        "ip saddr != 10.0.0.1 accept",
        "ip daddr 10.0.0.1 accept",
        "fib daddr type local accept",
        "iifname != \"lo\" accept",
        "iifname \"wan0\" accept",
        "iifname \"wa*\" accept",
        "iifname { \"lan0\", \"wan0\" } accept",
        "iifname != \"lan0\" accept",
        "limit rate 50/second accept",
        "tcp dport != 22 accept",
        "meta l4proto . th dport vmap { tcp . 23 : accept, udp . 53 : drop }",
        "ip saddr . tcp dport { 10.0.0.1 . 3389 } accept",
    ] {
        let Some((verdict, words)) = with(rule) else { return };
        let said =
            words.iter().any(|word| ["extra_accept", "input_policy_accept", "ipv6_open"].contains(&word.as_str()));
        assert!(verdict == "fail" && said, "{rule}: {verdict} {words:?}");
    }
    for (rule, verdict) in [
        ("meta l4proto . th dport vmap { tcp . 22 : accept, udp . 546 : accept, tcp . 23 : drop }", "pass"),
        ("tcp flags & (fin|syn|rst|ack) != syn accept", "pass"),
        ("tcp flags & (syn|ack) == ack accept", "pass"),
        ("ct state != new accept", "pass"),
        ("ct direction reply accept", "pass"),
        ("ip daddr 224.0.0.0/4 accept", "warn"),
        ("iifname \"lan0\" accept", "warn"),
        ("ip saddr 10.0.0.0/8 meta l4proto tcp accept", "warn"),
    ] {
        assert_eq!(with(rule).unwrap().0, verdict, "{rule}");
    }
}

#[test]
fn a_drop_counts_only_where_nobody_gets_around_it() {
    let open = GOOD.replace("policy drop", "policy accept");
    for (rule, word) in [
        ("iifname != \"lo\" drop", "pass"),
        ("tcp sport 1-65535 drop", "fail"),
        ("iifname \"wan0\" drop", "fail"),
        ("limit rate over 5/second drop", "fail"),
        ("ip saddr != 10.0.0.1 drop", "fail"),
        ("meta pkttype host drop", "fail"),
    ] {
        let ruleset = open
            .replace("jump extra", rule)
            .replace("hook forward priority 0; policy accept", "hook forward priority 0; policy drop");
        let Some((verdict, words)) = judge(&ruleset, &json!({})) else { return };
        assert_eq!(verdict, word, "{rule}: {words:?}");
    }
}

/// What `nft -j list ruleset` of 1.0.6 says about rules iptables-nft 1.8.9 made.
#[test]
fn targets_of_iptables_are_verdicts() {
    let ruleset = |rule: &str, policy: &str| {
        let chain = |name: &str, hook: &str, policy: &str| {
            json!({"chain": {"family": "inet", "table": "filter",
            "name": name, "type": "filter", "hook": hook, "prio": 0, "policy": policy}})
        };
        let rule: Value = serde_json::from_str(rule).unwrap();
        let of = |expr: Value| json!({"rule": {"family": "inet", "table": "filter", "chain": "INPUT", "expr": expr}});
        let lo =
            json!([{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}}, {"accept": null}]);
        let known = json!([{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"accept": null}]);
        json!({"nftables": [{"table": {"family": "inet", "name": "filter"}}, chain("INPUT", "input", policy),
            chain("FORWARD", "forward", "drop"), of(lo), of(known), of(rule)]})
        .to_string()
    };
    let reject = r#"[{"counter": {"packets": 0, "bytes": 0}}, {"xt": {"type": "target", "name": "REJECT"}}]"#;
    assert_eq!(machine(&ruleset(reject, "accept")).judge(ID, &json!({})), ("pass", vec![]));
    let log = reject.replace("REJECT", "LOG");
    assert_eq!(machine(&ruleset(&log, "accept")).judge(ID, &json!({})).0, "fail");
    assert_eq!(machine(&ruleset(&log, "drop")).judge(ID, &json!({})).0, "pass");
    let unread = r#"[{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}},
        {"xt": {"type": "match", "name": "multiport"}}, {"accept": null}]"#;
    assert_eq!(machine(&ruleset(unread, "drop")).judge(ID, &json!({})), ("warn", words(&["unreadable_rules"])));
    let foreign = machine(&ruleset(reject, "accept")).observe(ID, &json!({})).facts["foreign"].clone();
    assert_eq!(foreign, json!(["inet filter (iptables)"]));
}

#[test]
fn rules_of_the_old_iptables_fail() {
    let Some(good) = kernel(GOOD) else { return };
    let with = |saved: &str| {
        machine(&good)
            .file("/proc/net/ip_tables_names", "filter\n")
            .answer("iptables-legacy-save", saved)
            .judge(ID, &json!({}))
    };
    assert_eq!(with("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"), ("pass", vec![]), "a table without rules");
    let rules = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -j ACCEPT\nCOMMIT\n";
    assert_eq!(with(rules), ("fail", words(&["legacy_rules"])));
    let no_tool = machine(&good).file("/proc/net/ip_tables_names", "filter\n");
    assert_eq!(no_tool.judge(ID, &json!({})), ("unknown", words(&["legacy_rules"])));
}

/// Which prerequisites of healing do not hold.
fn refused(tree: &Tree, settings: &Value) -> Vec<String> {
    super::super::fixture::refusals(ID, settings, tree)
}

#[test]
fn healing_loads_only_a_ruleset_that_would_pass() {
    let Some(good) = kernel(GOOD) else { return };
    let stock = "flush ruleset\ntable inet filter { chain input { type filter hook input priority 0; }; }";
    let tried = |baseline: &str| machine("{\"nftables\": []}").answer(TRIED, &kernel(baseline).unwrap());
    assert_eq!(refused(&tried(GOOD), &json!({})), Vec::<String>::new());
    assert!(refused(&tried(stock), &json!({}))[0].contains("everybody in"));
    let wide = GOOD.replace("udp dport 546 accept", "tcp dport 3389 accept");
    assert!(refused(&tried(&wide), &json!({}))[0].contains("3389"));
    let no_trial = machine(&good).answer_with(TRIED, 1, "", "unshare: unshare failed: Operation not permitted");
    assert!(refused(&no_trial, &json!({}))[0].contains("Operation not permitted"));
    let broken = machine(&good).answer_with(TRIED, 0, "{\"nftables\": []}", "x.nft:1:1-1: Error: syntax error");
    assert!(refused(&broken, &json!({}))[0].contains("syntax error"));
}

#[test]
fn healing_shuts_out_no_session_and_wipes_nobody_s_rules() {
    let Some(good) = kernel(GOOD) else { return };
    let session = |port: &str| {
        machine(&good)
            .answer(TRIED, &good)
            .file("/proc/net/tcp", &format!("head\n   0: 0A00000A:{port} 0B00000A:D431 01 0:0 0:0 0 0 0 7 1 0\n"))
    };
    assert_eq!(refused(&session("0016"), &json!({})), Vec::<String>::new());
    assert!(refused(&session("08AE"), &json!({}))[0].contains("2222"));
    for (table, owner) in [
        ("table ip filter { chain ufw-user-input { accept; }; }", "ip filter (ufw)"),
        ("table ip nat { chain DOCKER { accept; }; }", "ip nat (docker)"),
        ("table inet f2b-table { chain x { accept; }; }", "inet f2b-table (fail2ban)"),
        ("table ip filter { chain INPUT { accept; }; }", "ip filter (iptables)"),
    ] {
        let running = kernel(&format!("{GOOD}\n{table}")).unwrap();
        let said = refused(&machine(&running).answer(TRIED, &good), &json!({}));
        assert!(said.len() == 1 && said[0].contains(owner), "{said:?}");
    }
}

/// The real nft, in a namespace of its own: the host's own ruleset is not touched.
#[test]
fn a_file_is_tried_where_it_filters_nothing() {
    if kernel("").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.nft").display().to_string();
    let before = on_runtime(ruleset(&Host::live())).map(|(_, ruleset)| ruleset.rules).ok();
    std::fs::write(&path, format!("flush ruleset\n{GOOD}\n")).unwrap();
    let (_, tested) = on_runtime(tried(&Host::live(), &path)).unwrap();
    assert!(tested.gate("input", Family::V4, &[]).default_drop);
    std::fs::write(&path, "table inet filter { nonsense }").unwrap();
    assert!(on_runtime(tried(&Host::live(), &path)).is_err());
    assert!(on_runtime(tried(&Host::live(), "/no/such/file")).is_err());
    assert_eq!(on_runtime(ruleset(&Host::live())).map(|(_, ruleset)| ruleset.rules).ok(), before);
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
