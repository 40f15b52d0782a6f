//! Who would still get in, and become root, if passwords were forbidden.

use std::collections::BTreeSet;

use super::authorized_keys::{self, Line};
use super::ssh::Config;
use super::ssh_views::files;
use crate::host::{FileKind, Host, HostError};

/// Groups whose members become root by `sudo` or `su`, as distributions set them up.
const TO_ROOT: &[&str] = &["sudo", "wheel", "admin"];

/// Accounts that get in with a key of their own and can become root; without one, nobody could put anything right.
///
/// Only keys that can be read as such and open a shell from anywhere count, where this sshd looks for them and would use
/// them, of accounts it lets in. What it decides by group is not known here: with `AllowGroups` or `DenyGroups` nobody
/// is counted. Root counts where it may log in by key now: healing forbids it only its password.
pub(super) fn key_users(host: &Host, config: &Config) -> Result<u64, HostError> {
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
    let sudoers = to_root(host)?;
    let mut users = 0;
    for line in host.read("/etc/passwd")?.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, shell] = fields.as_slice() else { continue };
        let becomes_root = if *uid == "0" { root } else { sudoers.has(name, gid) };
        if shell.ends_with("/nologin") || shell.ends_with("/false") || !allowed(name) || !becomes_root {
            continue;
        }
        let patterns: Vec<&str> = words("authorizedkeysfile").collect();
        let patterns = if patterns.is_empty() { vec![".ssh/authorized_keys"] } else { patterns };
        let mut has_key = false;
        for pattern in patterns {
            let path = pattern.replace("%u", name).replace("%h", home);
            let path = if path.starts_with('/') { path } else { format!("{home}/{path}") };
            has_key |= opens(host, &path)?;
        }
        users += u64::from(has_key);
    }
    Ok(users)
}

fn opens(host: &Host, path: &str) -> Result<bool, HostError> {
    match host.stat(path) {
        // sshd does not use keys others may write, `StrictModes` in sshd_config(5).
        Ok(stat) if stat.kind != FileKind::Link && stat.mode & 0o022 != 0 => return Ok(false),
        Ok(_) => {}
        Err(HostError::Missing(_)) => return Ok(false),
        Err(error) => return Err(error),
    }
    match host.read(path) {
        Ok(text) => Ok(authorized_keys::lines(&text).map(Line::read).any(|line| line.opens && !line.limited)),
        // Not there, or not a file at all: nobody gets in by it.
        Err(HostError::Missing(_) | HostError::Garbage { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

struct ToRoot {
    names: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl ToRoot {
    fn has(&self, name: &str, gid: &str) -> bool {
        self.names.contains(name) || self.groups.contains(gid)
    }
}

/// Members of the groups that may, and whoever sudo's rules name with everything.
fn to_root(host: &Host) -> Result<ToRoot, HostError> {
    let mut may = ToRoot { names: BTreeSet::new(), groups: BTreeSet::new() };
    let group = match host.read("/etc/group") {
        Err(HostError::Missing(_)) => String::new(),
        other => other?,
    };
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [name, _, gid, members] = fields.as_slice()
            && TO_ROOT.contains(name)
        {
            may.groups.insert((*gid).to_owned());
            may.names.extend(members.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
        }
    }
    let mut rules = vec!["/etc/sudoers".to_owned()];
    rules.extend(files(host, "/etc/sudoers.d/*")?);
    for path in rules {
        let text = match host.read(&path) {
            Err(HostError::Missing(_)) => continue,
            other => other?,
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some(who), Some("ALL")) = (words.next(), line.split([' ', '\t', '=', ':', ')']).next_back()) {
                may.names.insert(who.to_owned());
            }
        }
    }
    Ok(may)
}
