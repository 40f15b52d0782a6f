//! Accounts and privileges: who is root besides root, who needs no password, who may become root without one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::sudoers;
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Host, HostError};

/// Facts: `superusers`, `duplicate_ids`, `empty_passwords`, `shadow_exposed`, `sudo` (null where it is not installed), `without_password` (`[{who, what}]`), `docker_members`, `docker_socket`.
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
    facts.learn("sudo", sudoers::valid(host).await);
    facts.learn("without_password", sudoers::without_password(host).await);
    facts.learn("docker_members", members(host, "docker"));
    facts.learn("docker_socket", docker_socket(host));
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

/// Who can start containers, which is as good as being root: whoever may write to docker's socket.
///
/// Null where there is no socket; else its mode and group, and whether others than root and that group may write to it.
fn docker_socket(host: &Host) -> Result<Value, HostError> {
    match host.stat("/run/docker.sock") {
        Ok(stat) => {
            let group = group_name(host, stat.gid)?;
            Ok(json!({
                "mode": format!("{:04o}", stat.mode), "owner": stat.uid, "group": group, "open": stat.mode & 0o002 != 0,
                "members": if stat.mode & 0o020 == 0 || stat.gid == 0 { 0 } else { members(host, &group)? },
            }))
        }
        Err(HostError::Missing(_)) => Ok(Value::Null),
        Err(error) => Err(error),
    }
}

fn group_name(host: &Host, gid: u32) -> Result<String, HostError> {
    let text = host.read("/etc/group")?;
    let name = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(gid)).then(|| name.to_owned())
    });
    Ok(name.unwrap_or_else(|| gid.to_string()))
}

/// Accounts besides root in a group: those it lists, and those whose own group it is.
fn members(host: &Host, group: &str) -> Result<usize, HostError> {
    let (groups, accounts) = (host.read("/etc/group")?, host.read("/etc/passwd")?);
    let mut lines = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let line = lines.find(|fields| fields.first() == Some(&group)).unwrap_or_default();
    let [_, _, gid, listed] = line[..] else { return Ok(0) };
    let mut names: BTreeSet<&str> = listed.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    names.extend(accounts.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, own) = (fields.next()?, fields.nth(2)?);
        (own == gid).then_some(name)
    }));
    Ok(names.iter().filter(|name| **name != "root").count())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Tree;
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
            .file("/etc/sudoers", sudoers)
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
        assert_eq!(free.judge(ID, &json!({"may_skip_password": ["anna"]})).0, "pass");
        let broken = machine(PASSWD, SHADOW, "nonsense\n").answer_with("visudo -c -q", 1, "", "");
        let words = ["sudoers_invalid", "root_without_password"].map(str::to_owned).to_vec();
        assert_eq!(broken.judge(ID, &json!({})).1, words, "nobody can say what it gives");
        let mistake = machine(PASSWD, SHADOW, "a ALL=(ALL) ALL\n").answer_with("visudo -c -q", 1, "", "");
        assert_eq!(mistake.judge(ID, &json!({})).1, ["sudoers_invalid"]);
        let exposed = machine(PASSWD, SHADOW, "").mode("/etc/shadow", 0o644);
        assert_eq!(exposed.judge(ID, &json!({})).1, ["shadow_exposed"]);
        let docker = machine(PASSWD, SHADOW, "").file("/etc/group", "docker:x:999:anna,ben\n");
        assert_eq!(docker.judge(ID, &json!({})), ("warn", vec!["docker_is_root".into()]));
    }

    #[test]
    fn whoever_may_write_to_docker_s_socket_is_root() {
        let socket =
            |mode: u32| machine(PASSWD, SHADOW, "").file("/run/docker.sock", "").mode("/run/docker.sock", mode);
        assert_eq!(socket(0o660).judge(ID, &json!({})), ("pass", vec![]));
        assert_eq!(socket(0o666).judge(ID, &json!({})), ("fail", vec!["docker_open".into()]));
        let own = machine(&PASSWD.replace("1000:1000", "1000:999"), SHADOW, "");
        assert_eq!(own.judge(ID, &json!({})), ("warn", vec!["docker_is_root".into()]), "it is her own group");
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
        assert_eq!(no_tool.file("/etc/sudoers", "").judge(ID, &json!({})).0, "unknown");
    }
}
