//! The judge of rulesets against the kernel itself: real packets over a cable between two namespaces.

use super::super::fixture::on_runtime;
use super::tests::kernel;
use super::*;

/// Two namespaces and a cable: what a stranger's connection really meets, for each ruleset given as a file.
///
/// `refused` is the kernel's own answer where nothing listens, so the packet came in; without an answer it was dropped.
const PROBE: &str = r#"
ip link set lo up
unshare --net sleep 120 & far=$!
mine=$(readlink /proc/$$/ns/net)
for _ in $(seq 100); do [ "$(readlink /proc/$far/ns/net)" != "$mine" ] && break; sleep 0.05; done
ip link add wan0 type veth peer name far0 netns $far || exit 77
ip address add 10.99.0.1/24 dev wan0 && ip link set wan0 up
nsenter --net=/proc/$far/ns/net ip address add 10.99.0.2/24 dev far0
nsenter --net=/proc/$far/ns/net ip link set far0 up
for ruleset; do
  nft -f "$ruleset" || exit 1
  nsenter --net=/proc/$far/ns/net timeout 2 bash -c 'exec 3<>/dev/tcp/10.99.0.1/7777' 2>&1 | grep -q refused && echo in || echo out
done
"#;

/// The walk and the kernel agree about a real packet.
#[test]
fn a_packet_goes_the_way_the_walk_says() {
    let dir = tempfile::tempdir().unwrap();
    let ruleset = |rule: &str| {
        format!(
            "flush ruleset\ntable inet filter {{ set protocols {{ type inet_proto; elements = {{ tcp }} }}\n\
             set seen {{ type ipv4_addr; flags dynamic; }}\n\
             chain input {{ type filter hook input priority 0; policy drop; ct state established,related accept; {rule}; }}; }}"
        )
    };
    let rules = [
        "ct state != invalid accept",
        "meta l4proto != icmp accept",
        "meta l4proto 0-255 accept",
        "meta l4proto @protocols accept",
        "tcp sport 1024-65535 accept",
        "tcp flags & (fin|syn|rst|ack) == syn accept",
        "tcp flags { syn, ack } accept",
        "meta pkttype host accept",
        "ip saddr 0.0.0.0/0 accept",
        "ip daddr 10.99.0.1 accept",
        "fib daddr type local accept",
        "iifname \"wa*\" accept",
        "iifname != \"lo\" accept",
        "limit rate 50/second accept",
        "tcp option maxseg exists accept",
        "tcp dport != 22 accept",
        "meta l4proto . th dport vmap { tcp . 7777 : accept, udp . 53 : drop }",
        "add @seen { ip saddr } accept",
        "tcp dport 22 accept",
        "tcp flags & (fin|syn|rst|ack) != syn accept",
        "ct state != new accept",
        "ct direction reply accept",
    ];
    let files = rules.iter().enumerate().map(|(number, rule)| {
        let path = dir.path().join(format!("{number}.nft"));
        std::fs::write(&path, ruleset(rule)).unwrap();
        path.display().to_string()
    });
    let argv = ["unshare", "--net", "bash", "-c", PROBE, "probe"].map(str::to_owned).into_iter().chain(files);
    let cmd = Cmd::new(argv).timeout(std::time::Duration::from_mins(1));
    let output = match on_runtime(Host::live().run(cmd)) {
        Ok(output) if output.success() => output,
        other => return eprintln!("skipped: no namespaces with a cable between them here: {other:?}"),
    };
    let answers: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(answers.len(), rules.len(), "{}", output.stderr);
    for (rule, answer) in rules.iter().zip(answers) {
        let kernel: Value = serde_json::from_str(&kernel(&ruleset(rule)).unwrap()).unwrap();
        let gate = Ruleset::parse(&kernel).unwrap().gate("input", Family::V4, &["wan0".to_owned()]);
        let walk = if !gate.default_drop || gate.opened.tcp.has(7777) { "in" } else { "out" };
        assert_eq!(walk, answer, "{rule}");
    }
}
