//! Tests on a real host with systemd as PID 1.

mod harness;

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
