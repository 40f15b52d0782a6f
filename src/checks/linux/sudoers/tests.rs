//! sudo's rules, by their grammar and as the real converter tells them.

use super::super::fixture::Tree;
use super::*;

/// Rules and whom they free, by the grammar of sudoers(5); `cvtsudoers` 1.9.13 agrees.
const RULES: &[(&str, &[&str])] = &[
    ("root ALL=(ALL:ALL) NOPASSWD: ALL", &[]),
    ("a ALL=(ALL) NOPASSWD:ALL", &["a"]),
    ("a ALL = NOPASSWD: SETENV: ALL", &["a"]),
    ("a ALL=(ALL) \\\n NOPASSWD: ALL", &["a"]),
    ("a ALL=(ALL) NOPASSWD: /bin/ls, ALL", &["a"]),
    ("a ALL=(ALL) /bin/ls, NOPASSWD: ALL, /bin/cat", &["a"]),
    ("#1000 ALL=(ALL) NOPASSWD: ALL", &["#1000"]),
    ("a, %wheel ALL=(ALL) NOPASSWD: ALL", &["%wheel", "a"]),
    ("Defaults !authenticate", &["everybody"]),
    ("Defaults:ben env_reset, !authenticate", &["ben"]),
    ("Defaults exempt_group=staff", &["%staff"]),
    ("a ALL=(root) NOPASSWD: /bin/bash", &["a"]),
    ("a ALL=NOPASSWD: /usr/bin/python3.11, /bin/ls", &["a"]),
    ("a ALL=NOPASSWD: /usr/bin/vim /etc/motd", &["a"]),
    ("a ALL=NOPASSWD: /bin/bash -c *", &["a"]),
    ("a ALL=NOPASSWD: /usr/sbin/", &["a"]),
    ("Cmnd_Alias SH = /bin/ls, /bin/sh\nUser_Alias ADM = a, b\nADM ALL = NOPASSWD: SH", &["a", "b"]),
    ("a ALL=NOPASSWD: /bin/bash /opt/backup.sh", &[]),
    ("a ALL=NOPASSWD: NOEXEC: /usr/bin/less /var/log/syslog", &[]),
    ("a ALL=(www) NOPASSWD: ALL", &[]),
    ("a ALL=(:adm) NOPASSWD: ALL", &[]),
    ("a ALL=NOPASSWD: /bin/ls, PASSWD: ALL", &[]),
    ("a ALL=(ALL) NOPASSWD: !/bin/sh, /usr/bin/systemctl restart x", &[]),
    ("# a ALL=(ALL) NOPASSWD: ALL", &[]),
    ("a ALL=(ALL) ALL # NOPASSWD: ALL", &[]),
    ("@include sudoers.more", &["more"]),
    ("#include /opt/rules", &["opt"]),
    ("#includedir /etc/sudoers.d", &["dir"]),
];

fn machine(rules: &str) -> Tree {
    Tree::new()
        .file(SUDOERS, rules)
        .file("/etc/sudoers.more", "more ALL=NOPASSWD: ALL\n")
        .file("/opt/rules", "opt ALL=NOPASSWD: ALL\n")
        .file("/etc/sudoers.d/x", "dir ALL=NOPASSWD: ALL\n")
        .file("/etc/sudoers.d/x.bak", "old ALL=NOPASSWD: ALL\n")
}

fn freed(rules: &[Rule]) -> Vec<String> {
    let who: BTreeSet<String> = rules.iter().flat_map(Rule::free).map(|(who, _)| who).collect();
    who.into_iter().collect()
}

#[test]
fn rules_are_read_as_sudo_reads_them() {
    for (rules, who) in RULES {
        assert_eq!(freed(&read(&machine(&format!("{rules}\n")).host()).unwrap()), *who, "{rules}");
    }
}

#[test]
fn what_is_not_understood_is_not_taken_for_safe() {
    for rules in
        ["nonsense", "a ALL", "a ALL=NOPASSWD: sha224:abc /bin/bash", "a ALL=ROLE=x /bin/ls", "a ALL = a : b = c"]
    {
        assert!(read(&machine(rules).host()).is_err(), "{rules}");
    }
    assert!(read(&machine("@include /etc/sudoers").host()).is_err());
    assert!(read(&machine("@include /no/such/file").host()).is_err());
}

/// As cvtsudoers 1.9.13 answers.
#[test]
fn the_converter_is_believed_where_it_is_there() {
    let answer = json!({
        "Defaults": [{"Options": [{"env_reset": true}]}, {"Binding": [{"username": "ben"}], "Options": [{"authenticate": false}]}],
        "User_Specs": [
            {"User_List": [{"username": "anna"}, {"userid": 1000}, {"usergroup": "wheel"}], "Cmnd_Specs": [{
                "runasusers": [{"username": "ALL"}], "Options": [{"authenticate": false}],
                "Commands": [{"command": "/bin/ls"}, {"command": "ALL"}]}]},
            {"User_List": [{"username": "carl"}], "Cmnd_Specs": [{"runasusers": [{"username": "www"}],
                "Options": [{"authenticate": false}], "Commands": [{"command": "ALL"}, {"command": "/bin/su", "negated": true}]}]},
            {"User_List": [{"username": "e"}], "Cmnd_Specs": [{"Options": [{"authenticate": false}],
                "Commands": [{"command": "/bin/bash", "sha224": "0GomF8mNN3wlDt1HD9XldjJ3SNgpFdbjO1+NsQ=="}]}]},
            {"User_List": [{"username": "f"}], "Cmnd_Specs": [{"Options": [{"authenticate": true}],
                "Commands": [{"command": "ALL"}]}]}
        ]
    });
    let tree = machine("nonsense").answer("cvtsudoers -f json -e /etc/sudoers", &answer.to_string());
    let rules = super::super::fixture::on_runtime(converted(&tree.host())).unwrap();
    assert_eq!(freed(&rules), ["#1000", "%wheel", "anna", "ben", "e"]);
}

/// The real converter, where it is installed, agrees with the grammar.
#[test]
fn the_real_converter_agrees() {
    let live = Host::live();
    if !live.has("cvtsudoers") {
        eprintln!("skipped: cvtsudoers is not installed");
        return;
    }
    for (rules, who) in RULES.iter().filter(|(rules, _)| !rules.contains("include")) {
        let cmd = Cmd::new(["cvtsudoers", "-f", "json", "-e", "-"]).stdin(format!("{rules}\n"));
        let output = super::super::fixture::on_runtime(live.run_ok(cmd)).unwrap();
        let tree = machine("x").answer("cvtsudoers -f json -e /etc/sudoers", &output.stdout);
        let rules_read = super::super::fixture::on_runtime(converted(&tree.host())).unwrap();
        assert_eq!(freed(&rules_read), *who, "{rules}");
    }
}
