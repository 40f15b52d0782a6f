//! What sudo lets people do as root without a password: asked of `cvtsudoers`, else read by the grammar of sudoers(5).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::ssh_views::files;
use crate::host::{Cmd, Host, HostError};

const SUDOERS: &str = "/etc/sudoers";
/// Files that include files, and names that stand for names.
const NESTED: u32 = 16;
/// Programs that run what they are told: with free arguments each is a shell of root.
const SHELLS: &[&str] = &[
    "sh",
    "bash",
    "dash",
    "ash",
    "zsh",
    "ksh",
    "mksh",
    "fish",
    "csh",
    "tcsh",
    "busybox",
    "python",
    "perl",
    "ruby",
    "lua",
    "node",
    "php",
    "tclsh",
    "expect",
    "gdb",
    "awk",
    "gawk",
    "mawk",
    "sed",
    "find",
    "xargs",
    "env",
    "nice",
    "nohup",
    "timeout",
    "time",
    "strace",
    "script",
    "tmux",
    "screen",
    "ssh",
    "rsync",
    "tar",
    "tee",
    "dd",
    "cp",
    "mv",
    "install",
    "chmod",
    "chown",
    "docker",
    "podman",
    "nsenter",
    "unshare",
    "chroot",
    "systemd-run",
    "socat",
    "git",
    "make",
    "setpriv",
    "runuser",
    "doas",
];
/// Programs in which a shell is a few keys away, whatever their arguments.
const ESCAPES: &[&str] =
    &["su", "sudo", "vi", "vim", "nvim", "view", "rvim", "emacs", "nano", "less", "more", "man", "visudo", "vipw"];

/// Fact: null where sudo is not installed, else `{valid}`.
pub(super) async fn valid(host: &Host) -> Result<Value, HostError> {
    if !installed(host)? {
        return Ok(Value::Null);
    }
    let valid = host.run(Cmd::new(["visudo", "-c", "-q"])).await?.success();
    Ok(json!({"valid": valid}))
}

/// Fact: who may do everything as root without a password, `[{who, what}]`.
pub(super) async fn without_password(host: &Host) -> Result<Value, HostError> {
    if !installed(host)? {
        return Ok(json!([]));
    }
    let rules = match converted(host).await {
        Ok(rules) => rules,
        // sudo-rs and old versions do not bring it, and it says nothing about rules with a mistake.
        Err(_) => read(host)?,
    };
    let free: BTreeSet<(String, String)> = rules.iter().flat_map(Rule::free).collect();
    Ok(free.into_iter().map(|(who, what)| json!({"who": who, "what": what})).collect())
}

fn installed(host: &Host) -> Result<bool, HostError> {
    match host.read(SUDOERS) {
        Ok(_) => Ok(true),
        Err(HostError::Missing(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What one rule gives.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Rule {
    who: Vec<String>,
    as_root: bool,
    asks: bool,
    no_exec: bool,
    commands: Vec<String>,
}

impl Rule {
    /// Who gets everything, or a program as good as everything, without being asked for a password.
    fn free(&self) -> Vec<(String, String)> {
        let mut free = Vec::new();
        for command in self.commands.iter().filter(|_| self.as_root && !self.asks) {
            if is_everything(command, self.no_exec) {
                // Root needs no password to be root.
                let others = self.who.iter().filter(|who| *who != "root" && *who != "#0");
                free.extend(others.map(|who| (who.clone(), command.clone())));
            }
        }
        free
    }
}

fn is_everything(command: &str, no_exec: bool) -> bool {
    let (program, arguments) = command.split_once(' ').map_or((command, None), |(program, rest)| (program, Some(rest)));
    let name = program.rsplit('/').next().unwrap_or_default();
    let plain = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    // A directory or a pattern stands for every program in it.
    let many = program.ends_with('/') || name.contains(['*', '?', '[']) || program.starts_with('^');
    let any_arguments = arguments.is_none_or(|arguments| arguments == "\"\"" || arguments.contains(['*', '^']));
    command == "ALL"
        || many
        || (SHELLS.contains(&plain) && any_arguments)
        || (ESCAPES.contains(&plain) && (!no_exec || ["su", "sudo"].contains(&plain)))
}

/// The rules as sudo's own converter tells them, with aliases resolved and includes followed.
async fn converted(host: &Host) -> Result<Vec<Rule>, HostError> {
    let cmd = Cmd::new(["cvtsudoers", "-f", "json", "-e", SUDOERS]);
    let what = cmd.line();
    let output = host.run_ok(cmd).await?;
    // Of files without a rule it says nothing at all.
    if output.stdout.trim().is_empty() {
        return Ok(Vec::new());
    }
    let answer = output.json(&what)?;
    if !answer.is_object() {
        return Err(HostError::Garbage { what, why: "JSON that is not rules".to_owned() });
    }
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut rules = Vec::new();
    for defaults in list(&answer, "Defaults") {
        let bound = list(&defaults, "Binding");
        for option in list(&defaults, "Options") {
            if let Some(group) = option.get("exempt_group").and_then(Value::as_str) {
                rules.push(exempt(vec![format!("%{group}")]));
            }
            if option.get("authenticate") == Some(&Value::Bool(false)) {
                rules.push(exempt(if bound.is_empty() { vec!["everybody".to_owned()] } else { names(&bound) }));
            }
        }
    }
    for spec in list(&answer, "User_Specs") {
        let who = names(&list(&spec, "User_List"));
        for given in list(&spec, "Cmnd_Specs") {
            let option = |name: &str| {
                list(&given, "Options").iter().find_map(|option| option.get(name).and_then(Value::as_bool))
            };
            let plain = |command: &&Value| command.get("negated") != Some(&Value::Bool(true));
            let command = |command: &Value| command.get("command").and_then(Value::as_str).map(str::to_owned);
            let run_as = given.get("runasusers").map(|_| names(&list(&given, "runasusers")));
            rules.push(Rule {
                who: who.clone(),
                as_root: runs_as_root(run_as.as_deref(), given.get("runasgroups").is_some()),
                asks: option("authenticate") != Some(false),
                no_exec: option("noexec") == Some(true),
                commands: list(&given, "Commands").iter().filter(plain).filter_map(command).collect(),
            });
        }
    }
    Ok(rules)
}

fn exempt(who: Vec<String>) -> Rule {
    Rule { who, as_root: true, asks: false, no_exec: false, commands: vec!["ALL".to_owned()] }
}

/// Members of a list in the words of sudoers: `anna`, `%wheel`, `#1000`.
fn names(list: &[Value]) -> Vec<String> {
    let name = |member: &Value| {
        let negated = member.get("negated") == Some(&Value::Bool(true));
        let (kind, value) = member.as_object()?.iter().find(|(kind, _)| *kind != "negated")?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let sign = match kind.as_str() {
            "userid" => "#",
            "usergroup" => "%",
            "usergid" => "%#",
            "netgroup" => "+",
            _ => "",
        };
        Some(format!("{}{sign}{text}", if negated { "!" } else { "" }))
    };
    list.iter().filter_map(name).collect()
}

/// No list of users means root, but a list of groups alone means oneself.
fn runs_as_root(users: Option<&[String]>, groups: bool) -> bool {
    match users {
        None => !groups,
        Some(users) => {
            let has = |names: &[&str]| users.iter().any(|user| names.contains(&user.as_str()));
            has(&["root", "#0", "ALL"]) && !has(&["!root", "!#0"])
        }
    }
}

#[derive(Debug, Default)]
struct Read {
    rules: Vec<Rule>,
    /// Names that stand for commands, users or those one may become.
    aliases: BTreeMap<String, Vec<String>>,
}

/// The rules by their grammar. An error where a line is not understood: then nobody can tell.
fn read(host: &Host) -> Result<Vec<Rule>, HostError> {
    let mut read = Read::default();
    let mut lines = Vec::new();
    gather(host, SUDOERS, 0, &mut lines)?;
    let garbage = |line: &str| HostError::Garbage { what: SUDOERS.to_owned(), why: format!("not understood: {line}") };
    for line in &lines {
        read.line(line).ok_or_else(|| garbage(line))?;
    }
    let Read { rules, aliases } = read;
    let resolve =
        |names: Vec<String>| -> Vec<String> { names.iter().flat_map(|name| resolved(name, &aliases, 0)).collect() };
    Ok(rules
        .into_iter()
        .map(|rule| Rule { who: resolve(rule.who.clone()), commands: resolve(rule.commands.clone()), ..rule })
        .collect())
}

fn resolved(name: &str, aliases: &BTreeMap<String, Vec<String>>, depth: u32) -> Vec<String> {
    match aliases.get(name).filter(|_| depth < NESTED) {
        Some(names) => names.iter().flat_map(|name| resolved(name, aliases, depth + 1)).collect(),
        None => vec![name.to_owned()],
    }
}

/// Every line that says something, of this file and of those it includes.
fn gather(host: &Host, path: &str, depth: u32, lines: &mut Vec<String>) -> Result<(), HostError> {
    if depth > NESTED {
        return Err(HostError::Garbage { what: path.to_owned(), why: "files include each other".to_owned() });
    }
    let text = host.read(path)?.replace("\\\n", " ");
    for line in text.lines().map(str::trim) {
        let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = rest.trim().trim_matches('"');
        match word {
            "@include" | "#include" => {
                let path = if rest.starts_with('/') { rest.to_owned() } else { format!("/etc/{rest}") };
                gather(host, &path, depth + 1, lines)?;
            }
            "@includedir" | "#includedir" => {
                // sudo skips names with a dot and those that end in `~`.
                let skipped = |file: &String| {
                    file.rsplit('/').next().is_some_and(|name| name.contains('.') || name.ends_with('~'))
                };
                for file in files(host, &format!("{rest}/*"))?.iter().filter(|file| !skipped(file)) {
                    gather(host, file, depth + 1, lines)?;
                }
            }
            _ => {
                // `#1000` is an account, anything else after `#` a remark.
                let number = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
                let mut said = String::new();
                for (at, part) in line.split('#').enumerate() {
                    if at > 0 && !number(part) {
                        break;
                    }
                    said.push_str(if at > 0 { "#" } else { "" });
                    said.push_str(part);
                }
                let said = said.trim();
                if !said.is_empty() {
                    lines.push(said.to_owned());
                }
            }
        }
    }
    Ok(())
}

impl Read {
    fn line(&mut self, line: &str) -> Option<()> {
        if let Some(rest) = line.strip_prefix("Defaults") {
            self.defaults(rest);
            return Some(());
        }
        let (first, rest) = line.split_once([' ', '\t'])?;
        if ["User_Alias", "Runas_Alias", "Host_Alias", "Cmnd_Alias", "Cmd_Alias"].contains(&first) {
            for definition in rest.split(" : ") {
                let (name, members) = definition.split_once('=')?;
                self.aliases.insert(name.trim().to_owned(), parts(members));
            }
            return Some(());
        }
        let (left, right) = line.split_once('=')?;
        // `who, who host, host`: the blank between the lists is the one no comma stands at.
        let left = left.replace(", ", ",").replace(" ,", ",");
        let who = parts(left.split_whitespace().next()?);
        self.given(&who, right)
    }

    fn defaults(&mut self, rest: &str) {
        let (bound, options) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
        for option in parts(options) {
            if option.replace(' ', "") == "!authenticate" {
                let who = match bound.strip_prefix(':') {
                    Some(names) => parts(names),
                    None => vec!["everybody".to_owned()],
                };
                self.rules.push(exempt(who));
            } else if let Some((name, group)) = option.split_once('=')
                && name.trim() == "exempt_group"
            {
                self.rules.push(exempt(vec![format!("%{}", group.trim().trim_matches('"'))]));
            }
        }
    }

    /// `(run as) TAG: command, TAG: command`; tags and whom it runs as hold for what follows.
    fn given(&mut self, who: &[String], right: &str) -> Option<()> {
        let mut rule = Rule { who: who.to_vec(), as_root: true, asks: true, ..Rule::default() };
        for part in parts(right) {
            let mut part = part.as_str();
            loop {
                part = part.trim_start();
                if let Some(rest) = part.strip_prefix('(') {
                    let (list, rest) = rest.split_once(')')?;
                    let (users, groups) = list.split_once(':').map_or((list, ""), |(users, groups)| (users, groups));
                    let users = Some(parts(users)).filter(|users| !users.is_empty());
                    rule.as_root = runs_as_root(users.as_deref(), !groups.trim().is_empty());
                    part = rest;
                    continue;
                }
                let word = |c: char| c.is_ascii_uppercase() || c == '_';
                let end = part.find(|c| !word(c)).unwrap_or(part.len());
                let (tag, rest) = part.split_at(end);
                let Some(rest) = rest.trim_start().strip_prefix(':').filter(|_| !tag.is_empty()) else { break };
                match tag {
                    "NOPASSWD" => rule.asks = false,
                    "PASSWD" => rule.asks = true,
                    "NOEXEC" => rule.no_exec = true,
                    "EXEC" => rule.no_exec = false,
                    _ => {}
                }
                part = rest;
            }
            let alias = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            let known = part.starts_with(['/', '!', '^']) || (!part.is_empty() && part.chars().all(alias));
            // Digests, options such as ROLE= and a second list of hosts are for sudo's own converter.
            if (!known && !part.starts_with("sudoedit")) || part.contains(" = ") || part.contains(" : ") {
                return None;
            }
            if !part.starts_with('!') {
                self.rules.push(Rule { commands: vec![part.to_owned()], ..rule.clone() });
            }
        }
        Some(())
    }
}

/// Parts between commas that are not escaped, quoted or in brackets.
fn parts(text: &str) -> Vec<String> {
    let (mut depth, mut escaped, mut quoted) = (0_u32, false, false);
    text.split(|c: char| {
        let plain = !escaped;
        escaped = c == '\\' && plain;
        match c {
            '(' if plain && !quoted => depth += 1,
            ')' if plain && !quoted => depth = depth.saturating_sub(1),
            '"' if plain => quoted = !quoted,
            _ => {}
        }
        c == ',' && plain && !quoted && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
    .map(str::to_owned)
    .collect()
}

#[cfg(test)]
mod tests;
