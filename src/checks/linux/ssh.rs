//! SSH server: what `sshd -T` says is in force, for everybody and for a stranger from outside, and its host keys.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::ssh_keys::key_users;
use super::ssh_views::{self, MAIN, STRANGER};
use super::systemd::{self, Unit};
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Cmd, Host, HostError};

const DROPINS: &str = "/etc/ssh/sshd_config.d/";
/// What healing writes.
const OURS: &str = "/etc/ssh/sshd_config.d/00-malachor.conf";
const WEAK: &[(&str, &[&str])] = &[
    ("ciphers", &["cbc", "arcfour", "blowfish", "cast128", "3des"]),
    ("macs", &["md5", "sha1", "-96", "umac-64"]),
    ("kexalgorithms", &["group1-", "group14-sha1", "exchange-sha1"]),
];

/// Facts: `installed`, `everybody` (what holds where no `Match` block speaks), `views` (`[{who, …}]`: everybody, a stranger,
/// and whomever a block can speak of), `views_left_out`, `algorithms` (by keyword `{weak, rest}`), `host_keys`, `ours`
/// (keyword to value in the file healing writes), `includes_dropins`, `key_users`, `unit`.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    facts.set("installed", host.has("sshd"));
    if !host.has("sshd") {
        return facts.into();
    }
    match effective(host, None).await {
        Ok(config) => {
            facts.learn("everybody", login("everybody", &config));
            facts.set("algorithms", algorithms(&config));
            facts.learn("host_keys", host_keys(host, &config));
            facts.learn("key_users", key_users(host, &config));
        }
        Err(error) => facts.fail_all(&["everybody", "algorithms", "host_keys", "key_users"], &error),
    }
    match views(host).await {
        Ok((views, left_out)) => {
            facts.set("views", views);
            facts.set("views_left_out", left_out);
        }
        Err(error) => facts.fail_all(&["views", "views_left_out"], &error),
    }
    facts.learn("ours", ours(host));
    facts.learn("includes_dropins", host.read(MAIN).map(|text| includes_dropins(&text)));
    let unit = systemd::first_installed(host, &["ssh.service", "sshd.service"]).await;
    facts.learn("unit", unit.map(|unit| unit.as_ref().map(Unit::fact)));
    facts.into()
}

/// Keywords in force, lower case; a keyword that comes several times keeps every value.
pub(super) type Config = BTreeMap<String, Vec<String>>;

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

async fn views(host: &Host) -> Result<(Value, usize), HostError> {
    let asked = ssh_views::views(host)?;
    let mut views = vec![
        login("everybody", &effective(host, None).await?)?,
        login(STRANGER, &effective(host, Some(STRANGER)).await?)?,
    ];
    for who in asked.questions {
        views.push(login(&who, &effective(host, Some(&who)).await?)?);
    }
    Ok((Value::Array(views), asked.left_out))
}

fn login(who: &str, config: &Config) -> Result<Value, HostError> {
    let absent = |keyword: &str| HostError::Garbage { what: "sshd -T".to_owned(), why: format!("no {keyword}") };
    let text = |keyword: &str| {
        config.get(keyword).and_then(|values| values.first()).map(String::as_str).ok_or_else(|| absent(keyword))
    };
    let number = |keyword: &str| text(keyword)?.parse::<u32>().map_err(|_| absent(keyword));
    // OpenSSH before 8.7 knew it as challenge-response.
    let interactive = text("kbdinteractiveauthentication").or_else(|_| text("challengeresponseauthentication"))?;
    let (typed, interactive) = (text("passwordauthentication")? == "yes", interactive == "yes");
    let methods = text("authenticationmethods").unwrap_or("any");
    Ok(json!({
        "who": who,
        "root_login": text("permitrootlogin")?,
        "password": by_password(methods, typed, interactive),
        "typed": typed,
        "interactive": interactive,
        "methods": methods,
        "empty_password": text("permitemptypasswords")? == "yes",
        "max_auth_tries": number("maxauthtries")?,
        "alive_interval_s": number("clientaliveinterval")?,
        "alive_count": number("clientalivecountmax").unwrap_or(3),
    }))
}

/// Whether something typed is enough: a list of methods that asks for a key as well is a second factor.
fn by_password(methods: &str, typed: bool, interactive: bool) -> bool {
    if methods == "any" {
        return typed || interactive;
    }
    methods.split_whitespace().any(|list| {
        let names: Vec<&str> = list.split(',').map(|method| method.split(':').next().unwrap_or_default()).collect();
        !names.contains(&"publickey")
            && names
                .iter()
                .any(|name| (*name == "password" && typed) || (*name == "keyboard-interactive" && interactive))
    })
}

/// Weak algorithms that are offered, and what is left without them, in the server's own order.
fn algorithms(config: &Config) -> Value {
    let split = |(keyword, marks): &(&str, &[&str])| {
        let names = config.get(*keyword).into_iter().flatten().flat_map(|list| list.split(','));
        let (weak, rest): (Vec<&str>, Vec<&str>) = names.partition(|name| marks.iter().any(|mark| name.contains(mark)));
        ((*keyword).to_owned(), json!({"weak": weak, "rest": rest}))
    };
    Value::Object(WEAK.iter().map(split).collect())
}

/// What healing may write.
pub(super) const DIRECTIVES: &[&str] = &[
    "permitrootlogin",
    "passwordauthentication",
    "kbdinteractiveauthentication",
    "permitemptypasswords",
    "maxauthtries",
    "clientaliveinterval",
    "clientalivecountmax",
    "ciphers",
    "macs",
    "kexalgorithms",
];

/// What healing wrote before, by keyword, null where it did not: it is kept, since it is why those settings are right now.
fn ours(host: &Host) -> Result<Value, HostError> {
    let text = match host.read(OURS) {
        Err(HostError::Missing(_)) => String::new(),
        other => other?,
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let pairs: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(' ')).collect();
    let value = |directive: &str| {
        let pair = pairs.iter().find(|(keyword, _)| keyword.eq_ignore_ascii_case(directive));
        // The form `-name*` takes from the defaults, not from what is in force.
        pair.filter(|(_, value)| !value.starts_with('-')).map(|(_, value)| *value)
    };
    Ok(Value::Object(DIRECTIVES.iter().map(|directive| ((*directive).to_owned(), json!(value(directive)))).collect()))
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

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, on_runtime, refusals, written};
    use super::*;

    const ID: &str = "RB-LNX-SSH-001";

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f anna\n";
    const TIGHT: &str = "port 22\npermitrootlogin prohibit-password\npasswordauthentication no\nkbdinteractiveauthentication no\n\
        permitemptypasswords no\nmaxauthtries 4\nclientaliveinterval 300\nclientalivecountmax 3\nciphers aes256-gcm@openssh.com,aes256-ctr\n\
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
            ("pubkeyauthentication no\n", 0),
        ] {
            assert_eq!(users(machine(&format!("{TIGHT}{more}"))), json!(count), "{more}");
        }
        let keys = |text: &str| users(machine(TIGHT).file("/root/.ssh/authorized_keys", text));
        assert_eq!(keys(&format!("command=\"backup\" {KEY}")), json!(0));
        assert_eq!(keys(&format!("from=\"10.0.0.1\" {KEY}")), json!(0));
        assert_eq!(users(machine(TIGHT).mode("/root/.ssh/authorized_keys", 0o666)), json!(0), "sshd does not use it");
        let anna = |config: &str| {
            machine(config)
                .file("/etc/passwd", "root:x:0:0::/root:/bin/bash\nanna:x:1000:1000::/home/anna:/bin/bash\n")
                .file("/root/.ssh/authorized_keys", "")
                .file("/home/anna/.ssh/authorized_keys", KEY)
        };
        assert_eq!(users(anna(TIGHT)), json!(0), "she cannot become root");
        assert_eq!(users(anna(TIGHT).file("/etc/group", "sudo:x:27:anna\n")), json!(1));
        assert_eq!(users(anna(TIGHT).file("/etc/sudoers", "anna ALL=(ALL:ALL) ALL\n")), json!(1));
        let no_root = TIGHT.replace("permitrootlogin prohibit-password", "permitrootlogin no");
        assert_eq!(users(machine(&no_root)), json!(0), "root may not log in at all");
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
        assert!(refusals(ID, &json!({}), &tree)[0].contains("Match"), "a file that comes first does not change it");
    }

    #[test]
    fn a_match_block_for_one_account_counts() {
        let who = "user=anna,host=stranger.invalid,addr=203.0.113.1";
        let tree = machine(TIGHT)
            .file("/etc/passwd", "root:x:0:0::/root:/bin/bash\nanna:x:1000:1000::/home/anna:/bin/bash\n")
            .file(MAIN, "Include /etc/ssh/sshd_config.d/*.conf\nMatch Group staff\n MaxAuthTries 9\n");
        assert_eq!(tree.judge(ID, &json!({})).0, "unknown", "she was not asked about");
        let tries = tree.answer(&format!("sshd -T -C {who}"), &TIGHT.replace("maxauthtries 4", "maxauthtries 9"));
        assert_eq!(tries.judge(ID, &json!({})).1, ["auth_tries"]);
    }

    #[test]
    fn a_key_and_something_typed_is_no_log_in_by_password() {
        let open = TIGHT.replace("passwordauthentication no", "passwordauthentication yes");
        let open = open.replace("kbdinteractiveauthentication no", "kbdinteractiveauthentication yes");
        let with = |methods: &str| machine(&format!("{open}authenticationmethods {methods}\n"));
        assert_eq!(with("publickey,keyboard-interactive publickey,password").judge(ID, &json!({})), ("pass", vec![]));
        assert_eq!(with("any").judge(ID, &json!({})).1, ["password_login"]);
        let either = with("publickey,keyboard-interactive:pam password");
        assert_eq!(either.judge(ID, &json!({})).1, ["password_login"]);
        assert!(refusals(ID, &json!({}), &either)[0].contains("AuthenticationMethods"));
    }

    #[test]
    fn only_what_fails_is_written_and_what_was_written_stays() {
        let directives = |tree: &Tree| {
            let text = written(ID, &json!({}), tree);
            text.lines()
                .filter(|line| !line.starts_with('#') && !line.is_empty())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let with = |from: &str, to: &str| machine(&TIGHT.replace(from, to));
        let never =
            TIGHT.replace("permitrootlogin prohibit-password", "permitrootlogin no").replace("tries 4", "tries 2");
        let loose = never.replace("clientaliveinterval 300", "clientaliveinterval 0");
        assert_eq!(directives(&machine(&loose)), ["ClientAliveInterval 300"]);
        let ciphers = with("aes256-ctr", "aes256-ctr,aes256-cbc,arcfour128");
        assert_eq!(directives(&ciphers), ["Ciphers aes256-gcm@openssh.com,aes256-ctr"]);
        assert_eq!(refusals(ID, &json!({}), &ciphers), Vec::<String>::new());
        let none = with("ciphers aes256-gcm@openssh.com,aes256-ctr", "ciphers aes256-cbc");
        assert!(refusals(ID, &json!({}), &none)[0].contains("only weak"));
        let before = with("maxauthtries 4", "maxauthtries 6")
            .file(OURS, "# x\nPermitRootLogin prohibit-password\nMaxAuthTries 6\n");
        assert_eq!(directives(&before), ["PermitRootLogin prohibit-password", "MaxAuthTries 4"]);
        let passwords = with("passwordauthentication no", "passwordauthentication yes");
        assert_eq!(directives(&passwords), ["PasswordAuthentication no"]);
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
        let now = config("");
        let written = written(ID, &json!({}), &machine(&now));
        assert_eq!(judge(&config(&written)), ("pass", vec![]), "{written}");
        let (verdict, words) = judge(&now);
        assert_eq!(verdict, "fail");
        assert!(words.contains(&"password_login".to_owned()) && words.contains(&"weak_crypto".to_owned()), "{words:?}");
    }
}
