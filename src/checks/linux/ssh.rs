//! SSH server: what `sshd -T` says is in force, for everybody and for a stranger from outside, and its host keys.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::authorized_keys::{self, Line};
use super::systemd::{self, Unit};
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Cmd, Host, HostError};

const MAIN: &str = "/etc/ssh/sshd_config";
const DROPINS: &str = "/etc/ssh/sshd_config.d/";
/// A log-in of root from an address reserved for documentation: as far outside as it gets.
const STRANGER: &str = "user=root,host=stranger.invalid,addr=203.0.113.1";
const WEAK_CIPHERS: &[&str] = &["cbc", "arcfour", "blowfish", "cast128", "3des"];
const WEAK_MACS: &[&str] = &["md5", "sha1", "-96", "umac-64"];
const WEAK_EXCHANGES: &[&str] = &["group1-", "group14-sha1", "exchange-sha1"];

/// Facts: `installed`, `everybody`, `stranger`, `weak`, `host_keys`, `includes_dropins`, `key_users`, `unit`.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    facts.set("installed", host.has("sshd"));
    if !host.has("sshd") {
        return facts.into();
    }
    match effective(host, None).await {
        Ok(config) => {
            facts.learn("everybody", login(&config));
            facts.set("weak", weak(&config));
            facts.learn("host_keys", host_keys(host, &config));
            facts.learn("key_users", key_users(host, &config));
        }
        Err(error) => facts.fail_all(&["everybody", "weak", "host_keys", "key_users"], &error),
    }
    let stranger = effective(host, Some(STRANGER)).await;
    facts.learn("stranger", stranger.and_then(|config| login(&config)));
    facts.learn("includes_dropins", host.read(MAIN).map(|text| includes_dropins(&text)));
    let unit = systemd::first_installed(host, &["ssh.service", "sshd.service"]).await;
    facts.learn("unit", unit.map(|unit| unit.as_ref().map(Unit::fact)));
    facts.into()
}

/// Keywords in force, lower case; a keyword that comes several times keeps every value.
type Config = BTreeMap<String, Vec<String>>;

async fn effective(host: &Host, who: Option<&str>) -> Result<Config, HostError> {
    let cmd = match who {
        Some(who) => Cmd::new(["sshd", "-T", "-C", who]),
        None => Cmd::new(["sshd", "-T"]),
    };
    let what = cmd.line();
    let output = host.run_ok(cmd).await?;
    let mut config = Config::new();
    for line in output.stdout.lines() {
        if let Some((keyword, value)) = line.split_once(' ') {
            config.entry(keyword.to_owned()).or_default().push(value.to_owned());
        }
    }
    if config.contains_key("permitrootlogin") {
        Ok(config)
    } else {
        Err(HostError::Garbage { what, why: "not a configuration".to_owned() })
    }
}

fn login(config: &Config) -> Result<Value, HostError> {
    let absent = |keyword: &str| HostError::Garbage { what: "sshd -T".to_owned(), why: format!("no {keyword}") };
    let text = |keyword: &str| {
        config.get(keyword).and_then(|values| values.first()).map(String::as_str).ok_or_else(|| absent(keyword))
    };
    let number = |keyword: &str| text(keyword)?.parse::<u32>().map_err(|_| absent(keyword));
    // OpenSSH before 8.7 knew it as challenge-response.
    let interactive = text("kbdinteractiveauthentication").or_else(|_| text("challengeresponseauthentication"))?;
    Ok(json!({
        "root_login": text("permitrootlogin")?,
        "password": text("passwordauthentication")? == "yes" || interactive == "yes",
        "empty_password": text("permitemptypasswords")? == "yes",
        "max_auth_tries": number("maxauthtries")?,
        "alive_interval_s": number("clientaliveinterval")?,
    }))
}

fn weak(config: &Config) -> Value {
    let among = |keyword: &str, marks: &[&str]| -> Vec<String> {
        let names = config.get(keyword).into_iter().flatten().flat_map(|list| list.split(','));
        names.filter(|name| marks.iter().any(|mark| name.contains(mark))).map(str::to_owned).collect()
    };
    json!([among("ciphers", WEAK_CIPHERS), among("macs", WEAK_MACS), among("kexalgorithms", WEAK_EXCHANGES)].concat())
}

/// Private host keys that are there: readable by root alone?
fn host_keys(host: &Host, config: &Config) -> Result<Value, HostError> {
    let mut keys = Vec::new();
    for path in config.get("hostkey").into_iter().flatten() {
        match host.stat(path) {
            Ok(stat) => keys
                .push(json!({"path": path, "mode": format!("{:04o}", stat.mode), "exposed": stat.mode & 0o077 != 0})),
            // A key that is only named is not used.
            Err(HostError::Missing(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Value::Array(keys))
}

/// Whether the drop-ins are read before anything else is decided: sshd takes the first value it meets.
fn includes_dropins(text: &str) -> bool {
    let directive = |line: &str| {
        let line = line.trim();
        (!line.is_empty() && !line.starts_with('#')).then(|| line.to_owned())
    };
    text.lines().find_map(directive).is_some_and(|first| {
        let (keyword, rest) = first.split_once([' ', '\t', '=']).unwrap_or((&first, ""));
        keyword.eq_ignore_ascii_case("include")
            && rest.split_whitespace().any(|path| path.trim_matches('"').starts_with(DROPINS))
    })
}

/// Accounts somebody can log in to with a key; without one, forbidding passwords would lock everybody out.
///
/// Only keys that can be read as such count, where this sshd looks for them, of accounts it lets in. What it decides by
/// group is not known here: with `AllowGroups` or `DenyGroups` nobody is counted.
fn key_users(host: &Host, config: &Config) -> Result<u64, HostError> {
    let words = |keyword: &str| config.get(keyword).into_iter().flatten().flat_map(|list| list.split_whitespace());
    if words("allowgroups").chain(words("denygroups")).next().is_some() {
        return Ok(0);
    }
    let named = |keyword: &str, name: &str| words(keyword).any(|entry| entry.split('@').next() == Some(name));
    let allowed =
        |name: &str| (words("allowusers").next().is_none() || named("allowusers", name)) && !named("denyusers", name);
    let mut users = 0;
    for line in host.read("/etc/passwd")?.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, _, _, _, home, shell] = fields.as_slice() else { continue };
        if shell.ends_with("/nologin") || shell.ends_with("/false") || !allowed(name) {
            continue;
        }
        let patterns: Vec<&str> = words("authorizedkeysfile").collect();
        let patterns = if patterns.is_empty() { vec![".ssh/authorized_keys"] } else { patterns };
        let mut has_key = false;
        for pattern in patterns {
            let path = pattern.replace("%u", name).replace("%h", home);
            let path = if path.starts_with('/') { path } else { format!("{home}/{path}") };
            has_key |= match host.read(&path) {
                Ok(text) => authorized_keys::lines(&text).any(|line| Line::read(line).opens),
                // Not there, or not a file at all: nobody gets in by it.
                Err(HostError::Missing(_) | HostError::Garbage { .. }) => false,
                Err(error) => return Err(error),
            };
        }
        users += u64::from(has_key);
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, on_runtime};
    use super::*;

    const ID: &str = "RB-LNX-SSH-001";

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f anna\n";
    const TIGHT: &str = "port 22\npermitrootlogin prohibit-password\npasswordauthentication no\nkbdinteractiveauthentication no\n\
        permitemptypasswords no\nmaxauthtries 4\nclientaliveinterval 300\nciphers aes256-gcm@openssh.com,aes256-ctr\n\
        macs hmac-sha2-256-etm@openssh.com\nkexalgorithms curve25519-sha256\nhostkey /etc/ssh/ssh_host_ed25519_key\n";

    fn machine(config: &str) -> Tree {
        Tree::new()
            .systemd()
            .unit("ssh.service", "loaded", "active", "running", "enabled")
            .unit("sshd.service", "not-found", "inactive", "dead", "")
            .answer("sshd -T", config)
            .answer(&format!("sshd -T -C {STRANGER}"), config)
            .file(MAIN, "# x\nInclude /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n")
            .file("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")
            .file("/root/.ssh/authorized_keys", KEY)
            .file("/etc/ssh/ssh_host_ed25519_key", "x")
            .mode("/etc/ssh/ssh_host_ed25519_key", 0o600)
    }

    /// Anybody may do this to their own home; the agent must neither wait for it nor take it for a key.
    #[test]
    fn a_pipe_in_place_of_keys_is_not_waited_for() {
        let tree = machine(TIGHT).file("/etc/passwd", "eve:x:1000:1000::/home/eve:/bin/bash\n").dir("/home/eve/.ssh");
        let pipe = tree.at("/home/eve/.ssh/authorized_keys");
        rustix::fs::mkfifoat(rustix::fs::CWD, pipe, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(tree.observe(ID, &json!({})).facts["key_users"], json!(0));
    }

    #[test]
    fn only_keys_that_let_somebody_in_count() {
        let users = |tree: Tree| tree.observe(ID, &json!({})).facts["key_users"].clone();
        assert_eq!(users(machine(TIGHT)), json!(1));
        assert_eq!(users(machine(TIGHT).file("/root/.ssh/authorized_keys", "ssh-ed25519 AAAA\nnonsense\n")), json!(0));
        for (more, count) in [
            ("allowusers anna\n", 0),
            ("allowusers root@10.0.0.1\n", 1),
            ("denyusers root\n", 0),
            ("allowgroups staff\n", 0),
            ("authorizedkeysfile /etc/keys/%u\n", 0),
            ("authorizedkeysfile %h/.ssh/authorized_keys\n", 1),
        ] {
            assert_eq!(users(machine(&format!("{TIGHT}{more}"))), json!(count), "{more}");
        }
    }

    #[test]
    fn tight_passes_and_no_server_does_not_apply() {
        assert_eq!(machine(TIGHT).judge(ID, &json!({})), ("pass", vec![]));
        assert_eq!(Tree::new().judge(ID, &json!({})), ("not_applicable", vec!["not_installed".into()]));
    }

    #[test]
    fn every_weakness_has_its_word() {
        let fails = |from: &str, to: &str| machine(&TIGHT.replace(from, to)).judge(ID, &json!({})).1;
        assert_eq!(fails("permitrootlogin prohibit-password", "permitrootlogin yes"), ["root_login"]);
        assert_eq!(fails("passwordauthentication no", "passwordauthentication yes"), ["password_login"]);
        assert_eq!(fails("kbdinteractiveauthentication no", "kbdinteractiveauthentication yes"), ["password_login"]);
        assert_eq!(fails("maxauthtries 4", "maxauthtries 6"), ["auth_tries"]);
        assert_eq!(fails("clientaliveinterval 300", "clientaliveinterval 0"), ["no_idle_limit"]);
        assert_eq!(fails("permitemptypasswords no", "permitemptypasswords yes"), ["empty_passwords"]);
        assert_eq!(fails("aes256-ctr", "aes256-cbc"), ["weak_crypto"]);
        let exposed = machine(TIGHT).mode("/etc/ssh/ssh_host_ed25519_key", 0o644);
        assert_eq!(exposed.judge(ID, &json!({})).1, ["host_key_exposed"]);
    }

    #[test]
    fn a_match_block_for_strangers_counts() {
        let open = TIGHT.replace("passwordauthentication no", "passwordauthentication yes");
        let tree = machine(TIGHT).answer(&format!("sshd -T -C {STRANGER}"), &open);
        assert_eq!(tree.judge(ID, &json!({})).1, ["password_login"]);
    }

    #[test]
    fn a_broken_configuration_and_garbage_are_unknown() {
        let broken =
            machine(TIGHT).answer_with("sshd -T", 255, "", "/etc/ssh/sshd_config: line 3: Bad configuration option");
        assert_eq!(broken.judge(ID, &json!({})).0, "unknown");
        assert_eq!(machine("permitrootlogin\n").judge(ID, &json!({})).0, "unknown");
        assert_eq!(machine(&TIGHT.replace("maxauthtries 4", "maxauthtries many")).judge(ID, &json!({})).0, "unknown");
    }

    #[test]
    fn drop_ins_count_only_where_they_come_first() {
        assert!(includes_dropins("# c\n\n include \"/etc/ssh/sshd_config.d/*.conf\"\nPort 22\n"));
        assert!(!includes_dropins("Port 22\nInclude /etc/ssh/sshd_config.d/*.conf\n"));
        assert!(!includes_dropins("#Include /etc/ssh/sshd_config.d/*.conf\n"));
    }

    /// The real sshd takes the runbook's drop-in and is then without fault.
    #[test]
    fn the_drop_in_satisfies_the_real_sshd() {
        let live = Host::live();
        if !live.has("sshd") {
            eprintln!("skipped: sshd is not installed");
            return;
        }
        let runbook = include_str!("../../../runbooks/linux/RB-LNX-SSH-001.yaml");
        let (_, content) = runbook.split_once("content: |\n").unwrap();
        let (content, _) = content.split_once("        mode:").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let script =
            "ssh-keygen -q -t ed25519 -N '' -f \"$0\" && mkdir -p /run/sshd && sshd -t -f \"$1\" && sshd -T -f \"$1\"";
        let config = |extra: &str| {
            std::fs::write(at("config"), format!("{extra}\nHostKey {}\nPasswordAuthentication yes\n", at("key")))
                .unwrap();
            std::fs::remove_file(at("key")).ok();
            let output = on_runtime(live.run(Cmd::new(["sh", "-c", script, &at("key"), &at("config")]))).unwrap();
            assert!(output.success(), "{}", output.stderr);
            output.stdout
        };
        let judge = |config: &str| machine(config).judge(ID, &json!({}));
        let text = crate::domain::expr::Text::compile(content, &["settings"]).unwrap();
        let settings = json!({"max_auth_tries": 4, "allow_passwords": false});
        let written = text.render(&crate::domain::expr::Scope::new([("settings", settings)])).unwrap();
        assert_eq!(judge(&config(&written)), ("pass", vec![]));
        let (verdict, words) = judge(&config(""));
        assert_eq!(verdict, "fail");
        assert!(words.contains(&"password_login".to_owned()) && words.contains(&"weak_crypto".to_owned()), "{words:?}");
    }
}
