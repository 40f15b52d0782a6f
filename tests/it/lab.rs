//! Tests on a real host with systemd as PID 1.

mod guards;
mod harness;
mod heals;
mod practice;
mod restarts;

pub(crate) use harness::Lab;

#[test]
fn a_lab_is_a_real_host() {
    let Some(lab) = Lab::boot("smoke") else { return };

    lab.write("/etc/systemd/system/beacon.service", "[Service]\nExecStart=/bin/sleep infinity\n", 0o644);
    lab.ok(&["systemctl", "daemon-reload"]);
    lab.ok(&["systemctl", "start", "beacon.service"]);
    assert_eq!(lab.ok(&["systemctl", "is-active", "beacon.service"]).trim(), "active");
    lab.ok(&["systemctl", "stop", "beacon.service"]);
    assert_eq!(lab.run(&["systemctl", "is-active", "beacon.service"]).status.code(), Some(3));

    lab.ok(&["logger", "-t", "beacon", "the lab speaks"]);
    lab.ok(&["journalctl", "--sync"]);
    assert!(lab.ok(&["journalctl", "-t", "beacon", "-o", "cat", "--no-pager"]).contains("the lab speaks"));

    lab.ok(&["nft", "add", "table", "inet", "beacon"]);
    assert!(lab.ok(&["nft", "list", "tables"]).contains("table inet beacon"));
}

#[test]
fn a_snapshot_tells_a_change_from_none() {
    let Some(lab) = Lab::boot("snapshot") else { return };

    let before = lab.snapshot();
    lab.ok(&["systemctl", "is-system-running"]);
    assert_eq!(Lab::changes(&before, &lab.snapshot()), Vec::<String>::new());

    lab.write("/etc/ssh/sshd_config.d/10-drift.conf", "PasswordAuthentication yes\n", 0o600);
    lab.ok(&["systemctl", "stop", "cron.service"]);
    let changes = Lab::changes(&before, &lab.snapshot());
    assert!(changes.contains(&"/etc/ssh/sshd_config.d/10-drift.conf".to_owned()), "{changes:?}");
    assert!(changes.contains(&"unit cron.service".to_owned()), "{changes:?}");
    assert_eq!(lab.read("/etc/ssh/sshd_config.d/10-drift.conf"), "PasswordAuthentication yes\n");
}

#[test]
fn the_binary_runs_inside() {
    let Some(lab) = Lab::boot("binary") else { return };
    let path = lab.install_binary();
    assert!(lab.run(&[path, "--help"]).status.success());
}

/// What systemd, journald, sshd and the kernel really answer can be read, and a fault shows under its word.
#[test]
fn collectors_read_a_real_host() {
    let Some(lab) = Lab::boot("collectors") else { return };
    let path = lab.install_binary();
    lab.ok(&[path, "keys", "init"]);
    let check = |id: &str| {
        let out = lab.run(&[path, "--json", "check", "run", id]);
        let line: serde_json::Value = serde_json::from_slice(&out.stdout).expect("one finding");
        let reasons = line["finding"]["reasons"].as_array().expect("reasons").clone();
        let words =
            reasons.iter().filter_map(|reason| reason["word"].as_str()).map(str::to_owned).collect::<Vec<String>>();
        assert_eq!(line["finding"]["observation"]["problems"], serde_json::json!([]), "{id}");
        (line["finding"]["verdict"].as_str().expect("a verdict").to_owned(), words)
    };
    let passes = |id: &str| assert_eq!(check(id), ("pass".to_owned(), vec![]), "{id}");
    for id in ["RB-SERVICE-001", "RB-LNX-LOGGING-001", "RB-LNX-PORTS-001", "RB-LNX-ACCESS-001"] {
        passes(id);
    }
    for id in ["RB-LNX-SSH-001", "RB-LNX-TIME-001", "RB-LNX-FIREWALL-001", "RB-LNX-AV-001", "RB-LNX-SESSION-001"] {
        assert_eq!(check(id).0, "fail", "{id}: Debian as it comes");
    }

    lab.ok(&["systemctl", "stop", "syslog.socket", "rsyslog.service"]);
    let (verdict, words) = check("RB-LNX-LOGGING-001");
    assert!(verdict == "fail" && words.contains(&"syslog_down".to_owned()), "{words:?}");
    lab.ok(&["systemctl", "start", "rsyslog.service"]);
    passes("RB-LNX-LOGGING-001");

    lab.write("/etc/systemd/system/broken.service", "[Service]\nExecStart=/bin/false\n", 0o644);
    lab.ok(&["systemctl", "daemon-reload"]);
    lab.run(&["systemctl", "start", "broken.service"]);
    lab.run(&["sh", "-c", "while systemctl is-active -q broken.service; do sleep 0.1; done"]);
    assert_eq!(check("RB-SERVICE-001"), ("fail".to_owned(), vec!["unit_failed".to_owned()]));
}

/// Somebody gets in and stays: a new administrator, a key, a job, a program with root's rights. All are named.
#[test]
fn whoever_stays_behind_is_found_against_what_was_accepted() {
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f x\n";
    let Some(lab) = Lab::boot("baseline") else { return };
    let path = lab.install_binary();
    lab.ok(&[path, "keys", "init"]);
    let (logins, files) = ("RB-LNX-LOGINS-001", "RB-LNX-FIM-001");
    for check in [logins, files] {
        assert!(lab.ok(&[path, "check", "run", check]).contains("Nobody has accepted"));
        lab.ok(&[path, "baseline", "accept", check, "--reason", "handed over", "--by", "anna"]);
        assert!(lab.ok(&[path, "check", "run", check]).contains("pass"));
    }
    lab.ok(&["useradd", "--create-home", "--groups", "sudo", "ben"]);
    lab.ok(&["mkdir", "-p", "/root/.ssh"]);
    lab.write("/root/.ssh/authorized_keys", KEY, 0o600);
    lab.write("/etc/cron.d/updates", "* * * * * root /usr/local/bin/helper\n", 0o644);
    lab.ok(&["cp", "/bin/sh", "/usr/local/bin/helper"]);
    lab.ok(&["chmod", "4755", "/usr/local/bin/helper"]);
    let found = |check: &str, names: &[&str]| {
        let output = lab.run(&[path, "check", "run", check]);
        let text = String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(output.status.code(), Some(1), "{text}");
        for name in names {
            assert!(text.contains(name), "{name} is not in: {text}");
        }
    };
    found(logins, &["ben", "sudo", "root SHA256:ZkAslGjFiUHdGf/WUL8rQvkib4PTvQatUV0OUQSncCA"]);
    found(files, &["/etc/cron.d/updates", "/root/.ssh/authorized_keys", "/usr/local/bin/helper", "/etc/passwd"]);
    lab.ok(&[path, "evidence", "verify"]);
}

const RULESET: &str = "flush ruleset
table inet filter {
  chain input {
    type filter hook input priority 0; policy drop;
    ct state established,related accept
    iif lo accept
    tcp dport 22 accept
  }
  chain forward { type filter hook forward priority 0; policy drop; }
}
";

/// What ships heals a Debian as it comes, and has nothing left to do the second time.
#[test]
fn shipped_runbooks_heal_a_real_host() {
    let Some(lab) = Lab::boot("runbooks") else { return };
    let path = lab.install_binary();
    lab.ok(&[path, "keys", "init"]);
    lab.write("/etc/malachor/config.toml", "[site]\nid = \"clinic\"\n[heal]\nmode = \"heal\"\n", 0o644);
    lab.ok(&["mkdir", "-p", "/root/.ssh"]);
    lab.write(
        "/root/.ssh/authorized_keys",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f anna\n",
        0o600,
    );
    lab.write("/etc/nftables.conf", RULESET, 0o644);
    lab.ok(&["systemctl", "stop", "syslog.socket", "rsyslog.service"]);
    lab.ok(&["sh", "-c", "rm -rf /var/log/journal; systemctl restart systemd-journald"]);

    for id in ["RB-LNX-SESSION-001", "RB-LNX-SSH-001", "RB-LNX-FIREWALL-001", "RB-LNX-LOGGING-001"] {
        // Some want to see a failure twice before they call it drift.
        assert_eq!(lab.run(&[path, "check", "run", id]).status.code(), Some(1), "{id}");
        lab.run(&[path, "check", "run", id]);
        let healed = lab.ok(&[path, "heal", "--apply", "--by", "anna", "--check", id]);
        assert!(healed.contains("1 healed"), "{id}: {healed}");
        lab.ok(&[path, "check", "run", id]);
        let again = lab.ok(&[path, "heal", "--apply", "--by", "anna", "--check", id]);
        assert!(again.contains("0 healed, 0 did not help"), "{id}: {again}");
    }
}
