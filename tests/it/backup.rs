//! Backups healed with a real restic, whose secrets come from a file and are seen nowhere.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::place::{Place, stderr, stdout};
use crate::skip::skipped;

const CHECK: &str = "RB-BACKUP-001";
const PASSWORD: &str = "correct-horse-7Qz";

fn has_restic() -> bool {
    let found = Command::new("restic").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        skipped("backups with restic", "restic is not installed");
    }
    found
}

/// A practice that backs up one directory to `repository`, with what restic needs in a file of variables.
fn practice(repository: &str) -> Place {
    let place = Place::new("");
    place.write("my files/chart.txt", "a patient's chart");
    let env_file = place.write("restic.env", &format!("# for restic\nRESTIC_PASSWORD=\"{PASSWORD}\"\n"));
    let at = |name: &str| place.dir.path().join(name).display().to_string();
    let secret = place.write("repository", &repository.replace("PLACE", &at("")));
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = format!(
        "[site]\nid = \"clinic\"\n[agent]\nstate_dir = {:?}\n[heal]\nmode = \"heal\"\n[runbooks.{CHECK}]\nsettings = {{ repository = {{ file = {:?} }}, env_file = {:?}, paths = [{:?}], offsite = true }}\n",
        at("state"),
        secret,
        env_file,
        at("my files")
    );
    place.write("malachor.toml", &config);
    place.ok(&["keys", "init"]);
    place
}

/// Every file below a directory in which the bytes are found.
fn holding(dir: &Path, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(&path, bytes));
        } else if std::fs::read(&path).unwrap().windows(bytes.len()).any(|window| window == bytes) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// All there is to see: the plan, what healing says, the incident, the exported evidence.
fn shown(place: &Place) -> String {
    let mut all = String::new();
    for args in [
        &["--json", "heal", "--dry-run", "--check", CHECK][..],
        &["heal", "--dry-run", "--check", CHECK],
        &["heal", "--apply", "--by", "tester", "--check", CHECK],
        &["--json", "heal", "--apply", "--by", "tester", "--check", CHECK],
        &["--json", "check", "run", CHECK],
        &["--json", "incident", "list"],
        &["--json", "evidence", "list"],
        &["evidence", "export", "--out", &place.dir.path().join("state/out").display().to_string()],
    ] {
        let output = place.run(args);
        all.push_str(&stdout(&output));
        all.push_str(&stderr(&output));
    }
    all
}

#[test]
fn a_backup_is_made_with_a_password_from_a_file_and_the_password_is_nowhere() {
    if !has_restic() {
        return;
    }
    let place = practice("PLACE/my backups/repo");
    let repository = place.dir.path().join("my backups/repo");
    let init = Command::new("restic")
        .args(["-r", repository.to_str().unwrap(), "init"])
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .unwrap();
    assert!(init.status.success(), "{}", stderr(&init));
    let all = shown(&place);
    assert!(all.contains("RESTIC_REPOSITORY=*** restic backup") && all.contains("healed: the check passes"), "{all}");
    let verdict = place.ok(&["check", "run", CHECK]);
    assert!(verdict.contains("pass"), "{verdict}");
    for secret in [PASSWORD, "my backups/repo"] {
        assert!(!all.contains(secret), "{secret}: {all}");
        assert_eq!(holding(&place.dir.path().join("state"), secret.as_bytes()), [""; 0], "{secret}");
    }
    place.ok(&["evidence", "verify"]);
}

#[test]
fn a_store_that_does_not_answer_does_not_give_away_its_password() {
    if !has_restic() {
        return;
    }
    // Nobody listens on port 1 of this machine.
    let place = practice("rest:http://clinic:hunter2-9Kx@127.0.0.1:1/");
    let all = shown(&place);
    assert!(all.contains("connection refused"), "{all}");
    for secret in [PASSWORD, "hunter2-9Kx"] {
        assert!(!all.contains(secret), "{secret}: {all}");
        assert_eq!(holding(&place.dir.path().join("state"), secret.as_bytes()), [""; 0], "{secret}");
    }
}
