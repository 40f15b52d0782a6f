//! Drift on a real host, seen and healed by the shipped runbooks while the agent runs, and proven.

use super::practice::Practice;

fn repaired(practice: &Practice, check: &str) {
    let actions = practice.actions();
    let last = actions.last().expect("an action");
    assert_eq!((&last["outcome"], &last["runbook"]["id"]), (&"repaired".into(), &check.into()), "{actions:#?}");
    assert_eq!(last["detail"]["tier"], "L1");
    assert!(last["detail"]["after"] == "pass" || last["detail"]["after"] == "warn", "{last:#}");
    practice.proves();
}

#[test]
fn a_stopped_scanner_is_started() {
    const CHECK: &str = "RB-LNX-AV-001";
    let settings = "units = [\"av-standin.service\"]";
    let Some(mut practice) = Practice::open("heal-av", CHECK, settings, "") else { return };
    practice.lab.write("/etc/systemd/system/av-standin.service", "[Service]\nExecStart=/bin/sleep infinity\n", 0o644);
    practice.lab.ok(&["systemctl", "daemon-reload"]);
    practice.lab.ok(&["systemctl", "start", "av-standin.service"]);
    practice.start();
    practice.until_passes();
    practice.lab.ok(&["systemctl", "stop", "av-standin.service"]);
    practice.until_newest_is("resolved");
    assert_eq!(practice.lab.ok(&["systemctl", "is-active", "av-standin.service"]).trim(), "active");
    repaired(&practice, CHECK);
    assert_eq!(practice.actions().last().unwrap()["detail"]["change"], "corrective");
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

#[test]
fn a_flushed_ruleset_is_loaded_again_and_the_dead_man_goes_home() {
    const CHECK: &str = "RB-LNX-FIREWALL-001";
    let Some(mut practice) = Practice::open("heal-firewall", CHECK, "", "") else { return };
    practice.lab.write("/etc/nftables.conf", RULESET, 0o644);
    practice.lab.ok(&["nft", "-f", "/etc/nftables.conf"]);
    let baseline = ruleset(&practice);
    practice.start();
    practice.until_passes();
    practice.lab.ok(&["nft", "flush", "ruleset"]);
    practice.until_newest_is("resolved");
    assert_eq!(ruleset(&practice), baseline);
    let timers = practice.lab.ok(&["systemctl", "list-units", "--all", "--no-legend", "malachor-revert-*"]);
    assert_eq!(timers, "", "the dead man's timer is stopped");
    assert_eq!(practice.lab.ok(&["ls", "/var/lib/malachor/work"]), "", "its copy is gone");
    repaired(&practice, CHECK);
}

fn ruleset(practice: &Practice) -> String {
    practice.lab.ok(&["nft", "--stateless", "list", "ruleset"])
}

#[test]
fn weakened_ssh_is_closed_again() {
    const CHECK: &str = "RB-LNX-SSH-001";
    const MAIN: &str = "/etc/ssh/sshd_config";
    const DROP_IN: &str = "/etc/ssh/sshd_config.d/00-malachor.conf";
    let Some(mut practice) = Practice::open("heal-ssh", CHECK, "", "") else { return };
    practice.lab.write(
        "/root/.ssh/authorized_keys",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f anna\n",
        0o600,
    );
    let main = practice.lab.read(MAIN);
    assert!(main.contains("\nInclude /etc/ssh/sshd_config.d/*.conf"), "Debian reads drop-ins first");
    practice.lab.write(MAIN, &format!("{main}\nPasswordAuthentication yes\nPermitRootLogin yes\n"), 0o644);
    practice.lab.ok(&["systemctl", "restart", "ssh.service"]);
    let started = |practice: &Practice| practice.lab.ok(&["systemctl", "show", "-P", "MainPID", "ssh.service"]);
    let pid = started(&practice);
    practice.start();
    practice.until_newest_is("resolved");
    let effective = practice.lab.ok(&["sshd", "-T"]);
    for line in ["passwordauthentication no", "permitrootlogin without-password", "maxauthtries 4"] {
        assert!(effective.lines().any(|found| found == line), "{line} in\n{effective}");
    }
    assert!(practice.lab.read(DROP_IN).contains("PasswordAuthentication no"));
    assert_eq!(started(&practice), pid, "reloaded, so nobody was thrown out");
    repaired(&practice, CHECK);
}

#[test]
fn silent_logs_speak_again() {
    const CHECK: &str = "RB-LNX-LOGGING-001";
    let Some(mut practice) = Practice::open("heal-logging", CHECK, "", "") else { return };
    practice.start();
    practice.until_passes();
    practice.lab.ok(&["systemctl", "stop", "syslog.socket", "rsyslog.service"]);
    practice.until_newest_is("resolved");
    assert_eq!(practice.lab.ok(&["systemctl", "is-active", "rsyslog.service"]).trim(), "active");
    let journal = ["systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-journald-audit.socket"];
    practice.lab.ok(&[&["systemctl", "stop"], &journal[..], &["systemd-journald.service"]].concat());
    practice.until_incident(2, "resolved");
    practice.lab.ok(&["logger", "-t", "beacon", "the journal is back"]);
    practice.lab.ok(&["journalctl", "--sync"]);
    assert!(practice.lab.ok(&["journalctl", "-t", "beacon", "-o", "cat", "--no-pager"]).contains("is back"));
    repaired(&practice, CHECK);
}

#[test]
fn a_stale_backup_is_made_anew() {
    const CHECK: &str = "RB-BACKUP-001";
    let settings = "repository = { file = \"/etc/backup.repo\" }\npassword_file = \"/etc/backup.pass\"\nunit = \"practice-backup.service\"\npaths = [\"/srv/patients\"]";
    let Some(mut practice) = Practice::open("heal-backup", CHECK, settings, "") else { return };
    let lab = &practice.lab;
    lab.write("/etc/backup.pass", "correct horse\n", 0o600);
    lab.write("/etc/backup.repo", "/srv/backup\n", 0o600);
    lab.write("/srv/patients/chart.txt", "chart\n", 0o600);
    let restic = ["restic", "--repo", "/srv/backup", "--password-file", "/etc/backup.pass", "--no-cache"];
    lab.ok(&[&restic[..], &["init"]].concat());
    lab.ok(&[&restic[..], &["backup", "--time", "2024-01-01 12:00:00", "/srv/patients"]].concat());
    let unit = format!(
        "[Service]\nType=oneshot\nExecStart={} backup /srv/patients\n",
        restic.join(" ").replacen("restic", "/usr/bin/restic", 1)
    );
    lab.write("/etc/systemd/system/practice-backup.service", &unit, 0o644);
    practice.start();
    practice.until_newest_is("resolved");
    let snapshots = practice.lab.ok(&[&restic[..], &["snapshots", "--json"]].concat());
    let snapshots: serde_json::Value = serde_json::from_str(&snapshots).unwrap();
    assert_eq!(snapshots.as_array().unwrap().len(), 2, "one run, one fresh snapshot");
    repaired(&practice, CHECK);
}

#[test]
fn a_full_disk_gets_room() {
    const CHECK: &str = "RB-DISK-001";
    const FULL: &str = "/var/cache/apt/archives";
    let settings = format!("also = [\"{FULL}\"]\nignore = [\"/\"]");
    let Some(mut practice) = Practice::open("heal-disk", CHECK, &settings, "") else { return };
    practice.lab.ok(&["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", FULL]);
    practice.lab.ok(&["mkdir", &format!("{FULL}/partial")]);
    practice.start();
    practice.until_passes();
    practice.lab.run(&["dd", "if=/dev/zero", &format!("of={FULL}/huge_1.0_amd64.deb"), "bs=1M"]);
    practice.until_newest_is("resolved");
    let used = practice.lab.ok(&["df", "--output=pcent", FULL]);
    let used: u32 = used.lines().last().unwrap().trim().trim_end_matches('%').parse().unwrap();
    assert!(used < 85, "{used} %");
    repaired(&practice, CHECK);
}

#[test]
fn a_certificate_that_runs_out_is_renewed() {
    const CHECK: &str = "RB-CERT-001";
    let settings = "paths = [\"/etc/practice/tls.pem\"]\nrenew_unit = \"renew.service\"";
    let Some(mut practice) = Practice::open("heal-cert", CHECK, settings, "") else { return };
    let make = |days: &str| -> Vec<String> {
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=ehr",
        ]
        .iter()
        .chain(&["-keyout", "/etc/practice/tls.key", "-out", "/etc/practice/tls.pem", "-days", days])
        .map(|word| (*word).to_owned())
        .collect()
    };
    practice.lab.ok(&["mkdir", "-p", "/etc/practice"]);
    let now = make("1");
    practice.lab.ok(&now.iter().map(String::as_str).collect::<Vec<_>>());
    let unit = format!("[Service]\nType=oneshot\nExecStart=/usr/bin/{}\n", make("90").join(" "));
    practice.lab.write("/etc/systemd/system/renew.service", &unit, 0o644);
    practice.start();
    practice.until_newest_is("resolved");
    practice.lab.ok(&["openssl", "x509", "-in", "/etc/practice/tls.pem", "-noout", "-checkend", "6912000"]);
    repaired(&practice, CHECK);
}
