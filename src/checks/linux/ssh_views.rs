//! Who an SSH server may treat differently: the accounts, addresses and groups its `Match` blocks can speak of.

use std::collections::BTreeSet;

use crate::host::{Host, HostError};

/// The main configuration.
pub(super) const MAIN: &str = "/etc/ssh/sshd_config";
/// A log-in of root from an address reserved for documentation: as far outside as it gets.
pub(super) const STRANGER: &str = "user=root,host=stranger.invalid,addr=203.0.113.1";
const OUTSIDE: &str = "203.0.113.1";
const HOST: &str = "stranger.invalid";
/// Accounts and questions asked at most; every one is a run of sshd.
const ACCOUNTS: usize = 50;
const QUESTIONS: usize = 100;
/// Files that include files.
const NESTED: u32 = 8;

/// What `sshd -T -C` is asked, besides for a stranger, and how many more there would have been.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Views {
    pub(super) questions: Vec<String>,
    pub(super) left_out: usize,
}

/// One question for every login account, and for everything a `Match` line names; none where there is no such line.
pub(super) fn views(host: &Host) -> Result<Views, HostError> {
    let mut named = Named::default();
    read(host, MAIN, 0, &mut named)?;
    if !named.any {
        return Ok(Views::default());
    }
    let mut users = login_accounts(host)?;
    users.extend(named.users.iter().cloned());
    let mut left_out = users.len().saturating_sub(ACCOUNTS);
    // Those a line speaks of come first.
    let (first, rest): (Vec<&String>, Vec<&String>) =
        users.iter().partition(|user| named.users.contains(*user) || *user == "root");
    let users: Vec<&String> = first.into_iter().chain(rest).take(ACCOUNTS).collect();
    let mut asked: BTreeSet<String> = BTreeSet::new();
    let mut questions = Vec::new();
    let mut ask = |user: &str, host: &str, addr: &str, more: &str| {
        let question = format!("user={user},host={host},addr={addr}{more}");
        if question != STRANGER && asked.insert(question.clone()) {
            questions.push(question);
        }
    };
    for user in &users {
        ask(user, HOST, OUTSIDE, "");
    }
    for addr in &named.addresses {
        for user in &users {
            ask(user, HOST, addr, "");
        }
    }
    for name in &named.hosts {
        ask("root", name, OUTSIDE, "");
    }
    for here in &named.local {
        ask("root", HOST, OUTSIDE, here);
    }
    left_out += questions.len().saturating_sub(QUESTIONS);
    questions.truncate(QUESTIONS);
    Ok(Views { questions, left_out })
}

#[derive(Debug, Default)]
struct Named {
    any: bool,
    users: BTreeSet<String>,
    addresses: BTreeSet<String>,
    hosts: BTreeSet<String>,
    /// `,lport=2222` and the like.
    local: BTreeSet<String>,
}

fn read(host: &Host, path: &str, depth: u32, named: &mut Named) -> Result<(), HostError> {
    if depth > NESTED {
        return Err(HostError::Garbage { what: path.to_owned(), why: "files include each other".to_owned() });
    }
    for line in host.read(path)?.lines() {
        let line = line.trim();
        let (keyword, rest) = line.split_once([' ', '\t', '=']).unwrap_or((line, ""));
        if keyword.eq_ignore_ascii_case("include") {
            for pattern in rest.split_whitespace() {
                for file in files(host, pattern.trim_matches('"'))? {
                    read(host, &file, depth + 1, named)?;
                }
            }
        } else if keyword.eq_ignore_ascii_case("match") {
            named.any = true;
            note(rest, named);
        }
    }
    Ok(())
}

/// The files a pattern stands for; `*` counts in the last part.
pub(super) fn files(host: &Host, pattern: &str) -> Result<Vec<String>, HostError> {
    let pattern = if pattern.starts_with('/') { pattern.to_owned() } else { format!("/etc/ssh/{pattern}") };
    let Some((dir, last)) = pattern.rsplit_once('/') else { return Ok(Vec::new()) };
    let Some((start, end)) = last.split_once('*') else {
        return Ok(if host.exists(&pattern) { vec![pattern] } else { Vec::new() });
    };
    let names = match host.list(dir) {
        Ok(names) => names,
        Err(HostError::Missing(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let fits = |name: &&String| {
        name.len() >= start.len() + end.len()
            && name.starts_with(start)
            && name.ends_with(end)
            && !name.starts_with('.')
    };
    let mut files: Vec<String> = names.iter().filter(fits).map(|name| format!("{dir}/{name}")).collect();
    files.sort();
    Ok(files)
}

/// `User a,b Address 10.0.0.0/8`: words by twos. Groups need no note, since their members are asked for one by one.
fn note(rest: &str, named: &mut Named) {
    let rest = rest.replace('=', " ");
    let mut words = rest.split_whitespace();
    while let (Some(what), Some(patterns)) = (words.next(), words.next()) {
        let plain = patterns.trim_matches('"').split(',').map(|pattern| pattern.trim_start_matches('!'));
        match what.to_ascii_lowercase().as_str() {
            "user" => named.users.extend(
                // A pattern stands for accounts that are asked for anyhow.
                plain.filter(|name| is_plain(name) && !name.is_empty()).map(str::to_owned),
            ),
            "address" => named.addresses.extend(plain.filter_map(an_address)),
            "host" => named.hosts.extend(plain.map(|name| name.replace(['*', '?'], "x")).filter(|name| is_plain(name))),
            "localaddress" => {
                named.local.extend(plain.filter_map(an_address).map(|address| format!(",laddr={address}")));
            }
            "localport" => {
                let ports = plain.filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
                named.local.extend(ports.map(|port| format!(",lport={port}")));
            }
            _ => {}
        }
    }
}

fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// One address a pattern stands for: `10.0.0.0/8` is one itself, in `10.*` a number takes the star's place.
fn an_address(pattern: &str) -> Option<String> {
    let base = pattern.split('/').next().unwrap_or_default();
    if base.parse::<std::net::IpAddr>().is_ok() {
        return Some(base.to_owned());
    }
    let mut parts: Vec<String> = base.split('.').map(|part| part.replace(['*', '?'], "1")).collect();
    parts.resize(parts.len().max(4), "1".to_owned());
    let address = parts.join(".");
    address.parse::<std::net::Ipv4Addr>().is_ok().then_some(address)
}

/// Accounts with a shell.
fn login_accounts(host: &Host) -> Result<BTreeSet<String>, HostError> {
    let text = host.read("/etc/passwd")?;
    let accounts = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, _, _, _, _, shell] = fields.as_slice() else { return None };
        (!shell.ends_with("/nologin") && !shell.ends_with("/false") && is_plain(name)).then(|| (*name).to_owned())
    });
    Ok(accounts.collect())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Tree;
    use super::*;

    fn asked(config: &str) -> Vec<String> {
        let passwd = "root:x:0:0::/root:/bin/bash\nanna:x:1:1::/home/anna:/bin/sh\nwww:x:2:2::/:/usr/sbin/nologin\n";
        let tree = Tree::new()
            .file("/etc/passwd", passwd)
            .file(MAIN, config)
            .file("/etc/ssh/sshd_config.d/x.conf", "Match Address 10.0.0.0/8,192.168.*\n PasswordAuthentication yes\n");
        let views = views(&tree.host()).unwrap();
        assert_eq!(views.left_out, 0);
        views.questions
    }

    #[test]
    fn what_a_block_can_speak_of_is_asked_for() {
        assert_eq!(asked("PermitRootLogin no\n# Match User x\n"), Vec::<String>::new());
        assert_eq!(asked("Match Group staff\n"), ["user=anna,host=stranger.invalid,addr=203.0.113.1"]);
        let all = asked("include sshd_config.d/*.conf\nmatch user ben,!carl,d* LocalPort 2222\n");
        for question in [
            "user=anna,host=stranger.invalid,addr=203.0.113.1",
            "user=ben,host=stranger.invalid,addr=192.168.1.1",
            "user=carl,host=stranger.invalid,addr=203.0.113.1",
            "user=root,host=stranger.invalid,addr=10.0.0.0",
            "user=root,host=stranger.invalid,addr=203.0.113.1,lport=2222",
        ] {
            assert!(all.iter().any(|asked| asked == question), "{question}: {all:?}");
        }
    }

    #[test]
    fn files_that_include_each_other_end() {
        let tree = Tree::new().file(MAIN, "Include /etc/ssh/sshd_config\n").file("/etc/passwd", "");
        assert!(views(&tree.host()).is_err());
    }
}
