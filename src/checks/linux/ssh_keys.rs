//! Who would still get in, and become root, if passwords were forbidden.

use std::collections::BTreeSet;

use super::authorized_keys::{self, Line};
use super::ssh::Config;
use super::sudoers::to_root;
use crate::checks::run::Context;
use crate::host::{FileKind, Host, HostError};

/// Accounts that get in with a key of their own and can become root; without one, nobody could put anything right.
///
/// Only keys that can be read as such and open a shell from anywhere count, where this sshd looks for them and would use
/// them, of accounts it lets in. What it decides by group is not known here: with `AllowGroups` or `DenyGroups` nobody
/// is counted. Root counts where it may log in by key now: healing forbids it only its password. Others count where sudo
/// gives them everything, and where it asks for a password, only if they have one.
pub(super) async fn key_users(context: Context<'_>, config: &Config) -> Result<u64, HostError> {
    let host = context.host;
    let words = |keyword: &str| config.get(keyword).into_iter().flatten().flat_map(|list| list.split_whitespace());
    let no_keys = words("pubkeyauthentication").next() == Some("no");
    if no_keys || words("allowgroups").chain(words("denygroups")).next().is_some() {
        return Ok(0);
    }
    let named = |keyword: &str, name: &str| words(keyword).any(|entry| entry.split('@').next() == Some(name));
    let allowed =
        |name: &str| (words("allowusers").next().is_none() || named("allowusers", name)) && !named("denyusers", name);
    let root = words("permitrootlogin").next();
    let root = root.is_some_and(|root| ["yes", "prohibit-password", "without-password"].contains(&root));
    let (rules, groups, passwords) = (to_root(host).await?, optional(host, "/etc/group")?, Passwords::read(context)?);
    let mut users = 0;
    for line in host.read("/etc/passwd")?.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, shell] = fields.as_slice() else { continue };
        let called = names_in_rules((name, uid, gid), &groups);
        let by_sudo =
            || rules.iter().any(|(who, asks)| called.contains(who) && (!asks || passwords.usable.contains(*name)));
        let becomes_root = if *uid == "0" { root } else { by_sudo() };
        let enters = !shell.ends_with("/nologin") && !shell.ends_with("/false") && !passwords.expired.contains(*name);
        if !enters || !allowed(name) || !becomes_root {
            continue;
        }
        let patterns: Vec<&str> = words("authorizedkeysfile").collect();
        let patterns = if patterns.is_empty() { vec![".ssh/authorized_keys"] } else { patterns };
        let mut has_key = false;
        for pattern in patterns {
            let path = pattern.replace("%u", name).replace("%h", home);
            let path = if path.starts_with('/') { path } else { format!("{home}/{path}") };
            has_key |= opens(host, home, &path)?;
        }
        users += u64::from(has_key);
    }
    Ok(users)
}

/// sshd uses no keys others may write, or whose directory up to the home they may: `StrictModes` in `sshd_config(5)`.
fn opens(host: &Host, home: &str, path: &str) -> Result<bool, HostError> {
    let mut above = path;
    loop {
        match host.stat(above) {
            Ok(stat) if stat.kind != FileKind::Link && stat.mode & 0o022 != 0 => return Ok(false),
            Ok(_) => {}
            Err(HostError::Missing(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        match above.rsplit_once('/') {
            Some((dir, _)) if above != home && !dir.is_empty() => above = dir,
            Some(_) | None => break,
        }
    }
    match host.read(path) {
        Ok(text) => Ok(authorized_keys::lines(&text).map(Line::read).any(|line| line.opens && !line.limited)),
        // Not there, or not a file at all: nobody gets in by it.
        Err(HostError::Missing(_) | HostError::Garbage { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What sudo's rules may call an account: its name and number, and its groups'.
fn names_in_rules((name, uid, gid): (&str, &str, &str), groups: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::from([name.to_owned(), format!("#{uid}"), format!("%#{gid}"), "ALL".to_owned()]);
    for line in groups.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [group, _, number, members] = fields.as_slice()
            && (*number == gid || members.split(',').any(|member| member == name))
        {
            names.extend([format!("%{group}"), format!("%#{number}")]);
        }
    }
    names
}

/// Accounts by what shadow(5) says of them.
struct Passwords {
    usable: BTreeSet<String>,
    expired: BTreeSet<String>,
}

impl Passwords {
    fn read(context: Context<'_>) -> Result<Self, HostError> {
        let mut passwords = Self { usable: BTreeSet::new(), expired: BTreeSet::new() };
        for line in optional(context.host, "/etc/shadow")?.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let (Some(name), Some(hash)) = (fields.first(), fields.get(1)) else { continue };
            if !hash.is_empty() && !hash.starts_with(['!', '*']) {
                passwords.usable.insert((*name).to_owned());
            }
            let day = fields.get(7).and_then(|day| day.parse::<i64>().ok());
            if day.is_some_and(|day| day <= context.now.as_second() / 86_400) {
                passwords.expired.insert((*name).to_owned());
            }
        }
        Ok(passwords)
    }
}

fn optional(host: &Host, path: &str) -> Result<String, HostError> {
    match host.read(path) {
        Err(HostError::Missing(_)) => Ok(String::new()),
        other => other,
    }
}
