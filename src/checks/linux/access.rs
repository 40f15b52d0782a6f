//! Accounts and privileges: who is root besides root, who needs no password, who may become root without one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Cmd, Host, HostError};

const SUDOERS: &str = "/etc/sudoers";
const SUDOERS_DIR: &str = "/etc/sudoers.d";

/// Facts: `superusers`, `duplicate_ids`, `empty_passwords`, `shadow_exposed`, `sudo`, `docker_members`.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    match accounts(host) {
        Ok(accounts) => {
            facts.set("superusers", superusers(&accounts));
            facts.set("duplicate_ids", duplicates(&accounts));
        }
        Err(error) => facts.fail_all(&["superusers", "duplicate_ids"], &error),
    }
    facts.learn("empty_passwords", empty_passwords(host));
    facts.learn("shadow_exposed", host.stat("/etc/shadow").map(|stat| stat.mode & 0o037 != 0));
    facts.learn("sudo", sudo(host).await);
    facts.learn("docker_members", members(host, "docker"));
    facts.into()
}

struct Account {
    name: String,
    uid: u32,
    password: String,
}

fn accounts(host: &Host) -> Result<Vec<Account>, HostError> {
    const PATH: &str = "/etc/passwd";
    let account = |line: &str| {
        let mut fields = line.split(':');
        let (name, password, uid) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
        Some(Account { name: name.to_owned(), uid, password: password.to_owned() })
    };
    let text = host.read(PATH)?;
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with(['#', '+', '-']));
    let accounts: Option<Vec<Account>> = lines.map(account).collect();
    accounts
        .filter(|accounts| !accounts.is_empty())
        .ok_or(HostError::Garbage { what: PATH.to_owned(), why: "a line is not an account".to_owned() })
}

fn superusers(accounts: &[Account]) -> Value {
    accounts
        .iter()
        .filter(|account| account.uid == 0 && account.name != "root")
        .map(|account| json!(account.name))
        .collect()
}

fn duplicates(accounts: &[Account]) -> Value {
    let mut by_id: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for account in accounts {
        by_id.entry(account.uid).or_default().push(&account.name);
    }
    by_id
        .into_iter()
        .filter(|(_, names)| names.len() > 1)
        .map(|(uid, names)| json!({"uid": uid, "names": names}))
        .collect()
}

/// Accounts whose password is empty: nothing has to be typed.
fn empty_passwords(host: &Host) -> Result<Value, HostError> {
    const PATH: &str = "/etc/shadow";
    let mut names: Vec<String> =
        accounts(host)?.into_iter().filter(|account| account.password.is_empty()).map(|account| account.name).collect();
    for line in host.read(PATH)?.lines().filter(|line| !line.is_empty()) {
        let mut fields = line.split(':');
        match (fields.next(), fields.next()) {
            (Some(name), Some("")) => names.push(name.to_owned()),
            (Some(_), Some(_)) => {}
            _ => return Err(HostError::Garbage { what: PATH.to_owned(), why: "a line is not an account".to_owned() }),
        }
    }
    Ok(json!(names))
}

/// sudo's rules: null where it is not installed.
async fn sudo(host: &Host) -> Result<Value, HostError> {
    let main = match host.read(SUDOERS) {
        Ok(text) => text,
        Err(HostError::Missing(_)) => return Ok(Value::Null),
        Err(error) => return Err(error),
    };
    let mut files = vec![(SUDOERS.to_owned(), main)];
    match host.list(SUDOERS_DIR) {
        Ok(names) => {
            // sudo skips names with a dot and those that end in `~`.
            for name in names.iter().filter(|name| !name.contains('.') && !name.ends_with('~')) {
                let path = format!("{SUDOERS_DIR}/{name}");
                files.push((path.clone(), host.read(&path)?));
            }
        }
        Err(HostError::Missing(_)) => {}
        Err(error) => return Err(error),
    }
    let free: Vec<&str> = files.iter().filter(|(_, text)| gives_all(text)).map(|(path, _)| path.as_str()).collect();
    let valid = host.run(Cmd::new(["visudo", "-c", "-q"])).await?.success();
    Ok(json!({"valid": valid, "everything_without_password": free}))
}

/// Whether a rule lets somebody run everything without a password.
fn gives_all(text: &str) -> bool {
    let joined = text.replace("\\\n", " ");
    joined.lines().any(|line| {
        let rule = line.split('#').next().unwrap_or_default();
        rule.split("NOPASSWD:").skip(1).any(|rest| {
            let first = rest.split(',').next().unwrap_or_default();
            // Other tags may stand between.
            first.split(':').next_back().is_some_and(|command| command.trim() == "ALL")
        })
    })
}

fn members(host: &Host, group: &str) -> Result<usize, HostError> {
    let text = host.read("/etc/group")?;
    let line = text.lines().find_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
    let members = line.and_then(|line| line.rsplit(':').next()).unwrap_or_default();
    Ok(members.split(',').filter(|name| !name.is_empty()).count())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, on_runtime};
    use super::*;

    const ID: &str = "RB-LNX-ACCESS-001";
    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\nanna:x:1000:1000::/home/anna:/bin/bash\n";

    fn machine(passwd: &str, shadow: &str, sudoers: &str) -> Tree {
        Tree::new()
            .file("/etc/passwd", passwd)
            .file("/etc/shadow", shadow)
            .mode("/etc/shadow", 0o640)
            .file("/etc/group", "root:x:0:\ndocker:x:999:\n")
            .file(SUDOERS, sudoers)
            .answer("visudo -c -q", "")
    }

    const SHADOW: &str = "root:*:1::::::\nanna:$y$j9T$abc:1::::::\n";

    #[test]
    fn plain_accounts_pass() {
        assert_eq!(machine(PASSWD, SHADOW, "root ALL=(ALL:ALL) ALL\n").judge(ID, &json!({})), ("pass", vec![]));
    }

    #[test]
    fn every_way_to_be_root_has_its_word() {
        let second = format!("{PASSWD}toor:x:0:0::/root:/bin/sh\n");
        assert_eq!(machine(&second, SHADOW, "").judge(ID, &json!({})).1, ["extra_superuser", "duplicate_id"]);
        assert_eq!(machine(&second, SHADOW, "").judge(ID, &json!({"superusers": ["toor"]})).1, ["duplicate_id"]);
        assert_eq!(machine(PASSWD, "anna::1::::::\n", "").judge(ID, &json!({})).1, ["empty_password"]);
        let free = machine(PASSWD, SHADOW, "anna ALL=(ALL) NOPASSWD: ALL\n");
        assert_eq!(free.judge(ID, &json!({})).1, ["root_without_password"]);
        assert_eq!(free.judge(ID, &json!({"may_skip_password": ["/etc/sudoers"]})).0, "pass");
        let broken = machine(PASSWD, SHADOW, "nonsense\n").answer_with("visudo -c -q", 1, "", "");
        assert_eq!(broken.judge(ID, &json!({})).1, ["sudoers_invalid"]);
        let exposed = machine(PASSWD, SHADOW, "").mode("/etc/shadow", 0o644);
        assert_eq!(exposed.judge(ID, &json!({})).1, ["shadow_exposed"]);
        let docker = machine(PASSWD, SHADOW, "").file("/etc/group", "docker:x:999:anna,ben\n");
        assert_eq!(docker.judge(ID, &json!({})), ("warn", vec!["docker_is_root".into()]));
    }

    #[test]
    fn rules_are_read_as_sudo_reads_them() {
        assert!(gives_all("a ALL=(ALL) NOPASSWD:ALL"));
        assert!(gives_all("a ALL = NOPASSWD: SETENV: ALL"));
        assert!(gives_all("a ALL=(ALL) \\\n NOPASSWD: ALL"));
        assert!(gives_all("a ALL=(ALL) /bin/ls, NOPASSWD: ALL, /bin/cat"));
        assert!(!gives_all("# a ALL=(ALL) NOPASSWD: ALL"));
        assert!(!gives_all("a ALL=(ALL) NOPASSWD: /usr/bin/systemctl restart x"));
        assert!(!gives_all("a ALL=(ALL) ALL"));
    }

    #[test]
    fn what_cannot_be_read_is_unknown_and_no_sudo_is_fine() {
        assert_eq!(Tree::new().judge(ID, &json!({})).0, "unknown");
        assert_eq!(machine("nonsense", SHADOW, "").judge(ID, &json!({})).0, "unknown");
        let no_tool = Tree::new()
            .file("/etc/passwd", PASSWD)
            .file("/etc/shadow", SHADOW)
            .mode("/etc/shadow", 0o600)
            .file("/etc/group", "");
        assert_eq!(no_tool.judge(ID, &json!({})), ("pass", vec![]));
        assert_eq!(no_tool.file(SUDOERS, "").judge(ID, &json!({})).0, "unknown");
    }

    #[test]
    fn the_real_visudo_is_asked() {
        let live = Host::live();
        if !live.has("visudo") {
            eprintln!("skipped: visudo is not installed");
            return;
        }
        assert!(on_runtime(sudo(&live)).unwrap()["valid"].is_boolean());
    }
}
