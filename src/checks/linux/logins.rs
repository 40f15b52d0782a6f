//! Who can log in, and with which keys: compared with what a named person accepted.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::authorized_keys::{Line, lines};
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Host, HostError};

/// Groups whose members are, or can become, administrator.
const PRIVILEGED: &[&str] =
    &["root", "sudo", "wheel", "admin", "adm", "docker", "podman", "lxd", "incus-admin", "libvirt", "disk", "shadow"];

/// Facts, each a map: `accounts` (name to `uid:gid home shell`, and whether a password opens it), `groups` (privileged
/// group to its members), `keys` (`account fingerprint` to type and options; `account path` to why it cannot be read).
///
/// Accounts of a directory service are not in these files and are not seen here.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    match passwd(host) {
        Ok(accounts) => {
            facts.learn("accounts", states(host, &accounts));
            facts.learn("keys", keys(host, &accounts).await);
        }
        Err(error) => facts.fail_all(&["accounts", "keys"], &error),
    }
    facts.learn("groups", groups(host));
    facts.into()
}

struct Account {
    name: String,
    /// `uid:gid`.
    ids: String,
    home: String,
    shell: String,
}

/// The lines of passwd(5).
fn passwd(host: &Host) -> Result<Vec<Account>, HostError> {
    const PATH: &str = "/etc/passwd";
    let account = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
        let ids = format!("{}:{}", uid.parse::<u32>().ok()?, gid.parse::<u32>().ok()?);
        Some(Account { name: name.to_owned(), ids, home: home.to_owned(), shell: shell.to_owned() })
    };
    let text = host.read(PATH)?;
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with(['#', '+', '-']));
    let accounts: Option<Vec<Account>> = lines.map(account).collect();
    accounts.filter(|accounts| !accounts.is_empty()).ok_or_else(|| garbage(PATH, "a line is not an account"))
}

fn states(host: &Host, accounts: &[Account]) -> Result<Value, HostError> {
    let shadow = host.read("/etc/shadow")?;
    let mut hashes: BTreeMap<&str, &str> = BTreeMap::new();
    for line in shadow.lines().filter(|line| !line.is_empty()) {
        let (name, rest) = line.split_once(':').ok_or_else(|| garbage("/etc/shadow", "a line is not an account"))?;
        hashes.insert(name, rest.split(':').next().unwrap_or_default());
    }
    let state = |account: &Account| {
        // shadow(5): empty asks for nothing; `!` and `*` match no password. The hash itself is never a fact.
        let password = match hashes.get(account.name.as_str()) {
            None => "no password entry",
            Some(&"") => "empty password",
            Some(hash) if hash.starts_with(['!', '*']) => "password locked",
            Some(_) => "password",
        };
        (account.name.clone(), json!(format!("{} {} {}, {password}", account.ids, account.home, account.shell)))
    };
    Ok(Value::Object(accounts.iter().map(state).collect()))
}

fn groups(host: &Host) -> Result<Value, HostError> {
    let mut found = Map::new();
    for line in host.read("/etc/group")?.lines().filter(|line| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members] = fields[..] else {
            return Err(garbage("/etc/group", "a line is not a group"));
        };
        if PRIVILEGED.contains(&name) {
            found.insert(name.to_owned(), json!(format!("{gid} {members}")));
        }
    }
    Ok(Value::Object(found))
}

/// The keys that open an account: `AuthorizedKeysFile` of `sshd_config(5)` in its default places and NixOS's.
async fn keys(host: &Host, accounts: &[Account]) -> Result<Value, HostError> {
    let mut found = Map::new();
    for account in accounts {
        let home = account.home.trim_end_matches('/');
        let mut paths = vec![format!("/etc/ssh/authorized_keys.d/{}", account.name)];
        if home.starts_with('/') {
            paths.extend(["authorized_keys", "authorized_keys2"].map(|file| format!("{home}/.ssh/{file}")));
        }
        for path in paths {
            let text = match host.read(&path) {
                Ok(text) => text,
                Err(HostError::Missing(_)) => continue,
                // Anybody may put what they like into their own home: it is told, and the rest is looked at all the same.
                Err(error) => {
                    found.insert(format!("{} {path}", account.name), json!(format!("cannot be read: {error}")));
                    continue;
                }
            };
            for line in lines(&text) {
                let Line { fingerprint, what, .. } = Line::read(line);
                found.insert(format!("{} {fingerprint}", account.name), json!(what));
            }
        }
        tokio::task::yield_now().await;
    }
    Ok(Value::Object(found))
}

fn garbage(what: &str, why: &str) -> HostError {
    HostError::Garbage { what: what.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Tree;
    use super::*;

    const ID: &str = "RB-LNX-LOGINS-001";
    /// Made for this test; the fingerprint is what `ssh-keygen -l` says of it.
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    fn machine() -> Tree {
        Tree::new()
            .file("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\nanna:x:1000:1000:A:/home/anna:/bin/bash\n")
            .file("/etc/shadow", "root:*:1::::::\nanna:$y$j9T$abc:1::::::\n")
            .file("/etc/group", "root:x:0:\nsudo:x:27:anna\nusers:x:100:\n")
            .file("/home/anna/.ssh/authorized_keys", &format!("# mine\n{KEY} anna@desk\n"))
    }

    fn found(tree: &Tree) -> Value {
        tree.observe(ID, &json!({})).facts
    }

    #[test]
    fn what_was_accepted_passes_and_what_came_since_is_named() {
        let then = found(&machine());
        assert_eq!(then["accounts"]["anna"], json!("1000:1000 /home/anna /bin/bash, password"));
        assert_eq!(then["groups"], json!({"root": "0 ", "sudo": "27 anna"}));
        assert_eq!(machine().judge(ID, &json!({})), ("warn", vec!["no_baseline".into()]));
        assert_eq!(machine().baseline(ID, &then).judge(ID, &json!({})), ("pass", vec![]));
        let changes = [
            machine().file("/root/.ssh/authorized_keys", KEY),
            machine().file("/home/anna/.ssh/authorized_keys", &format!("command=\"/bin/sh -c \\\"x y\\\"\" {KEY}\n")),
            machine().file("/home/anna/.ssh/authorized_keys2", "what is this"),
            machine().file("/etc/group", "root:x:0:\nsudo:x:27:anna,ben\n"),
            machine().file("/etc/shadow", "root:$y$new:1::::::\nanna:$y$j9T$abc:1::::::\n"),
        ];
        for changed in changes {
            let later = changed.baseline(ID, &then);
            assert_eq!(later.judge(ID, &json!({})), ("fail", vec!["logins_changed".into()]));
        }
    }

    #[test]
    fn what_stands_in_place_of_keys_is_a_change_and_hides_nobody_else_s() {
        let then = found(&machine());
        let pipe = || machine().dir("/root/.ssh");
        let tree = pipe();
        rustix::fs::mkfifoat(rustix::fs::CWD, tree.at("/root/.ssh/authorized_keys"), rustix::fs::Mode::RUSR).unwrap();
        for tree in [tree, pipe().dir("/root/.ssh/authorized_keys")] {
            let keys = found(&tree)["keys"].clone();
            assert!(keys["root /root/.ssh/authorized_keys"].as_str().unwrap().contains("not a regular file"), "{keys}");
            assert_eq!(keys.as_object().unwrap().len(), 2, "and anna's key: {keys}");
            assert_eq!(tree.baseline(ID, &then).judge(ID, &json!({})), ("fail", vec!["logins_changed".into()]));
        }
    }

    #[test]
    fn a_new_password_is_no_change_and_no_hash_is_kept() {
        let then = found(&machine());
        let renewed = machine().file("/etc/shadow", "root:*:1::::::\nanna:$y$other:2::::::\n").baseline(ID, &then);
        assert_eq!(renewed.judge(ID, &json!({})), ("pass", vec![]));
        assert!(!then.to_string().contains("$y$"), "{then}");
    }

    #[test]
    fn what_cannot_be_read_is_unknown() {
        assert_eq!(Tree::new().judge(ID, &json!({})).0, "unknown");
        let then = found(&machine());
        for tree in [
            machine().file("/etc/passwd", "root:x:0\n"),
            machine().file("/etc/shadow", "nonsense\n"),
            machine().file("/etc/group", "nonsense\n"),
        ] {
            assert_eq!(tree.baseline(ID, &then).judge(ID, &json!({})).0, "unknown");
        }
    }
}
