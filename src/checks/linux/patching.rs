//! Patches: security updates that wait, how old the knowledge about them is, and how long this release is supported.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::nixos;
use super::release::Release;
use crate::checks::run::{Context, Facts};
use crate::domain::finding::{Observation, ProblemKind};
use crate::host::{Cmd, Host, HostError};

/// Whose changes show when the package index was last refreshed. The files in it carry the archive's dates instead.
const INDEX: &[&str] =
    &["/var/lib/apt/periodic/update-success-stamp", "/var/lib/apt/lists", "/var/lib/apt/lists/partial"];
const APT: [&str; 4] = ["index_age_d", "security", "updates", "held"];

/// Facts: `release`, `support_days_left`, `apt`, `index_age_d`, `security`, `updates`, `held`, `nixos`, `content_age_d`,
/// `tools`.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    match Release::read(host) {
        Ok(release) => {
            facts.learn("support_days_left", release.days_left(context.now));
            facts.set("release", json!({"id": release.id, "version": release.version}));
            facts.set("apt", release.apt);
            if release.apt {
                apt(context, &mut facts).await;
            } else {
                for name in APT {
                    facts.set(name, Value::Null);
                }
            }
        }
        Err(error) => {
            facts.fail_all(&["release", "support_days_left", "apt"], &error);
            facts.fail_all(&APT, &error);
        }
    }
    let is_nixos = nixos::is_nixos(host);
    facts.set("nixos", is_nixos);
    let built = if is_nixos { content_age(context).await.map(Value::from) } else { Ok(Value::Null) };
    facts.learn("content_age_d", built);
    facts.set(
        "tools",
        json!({"unattended_upgrade": host.has("unattended-upgrade"), "apt_get": host.has("apt-get"), "dpkg": host.has("dpkg")}),
    );
    facts.into()
}

async fn apt(context: Context<'_>, facts: &mut Facts) {
    let age = index_age(context);
    facts.learn("index_age_d", age.clone());
    let limit = context.number("index_days").unwrap_or(7);
    match age {
        Ok(age) if age > limit => {
            let say = format!("the list of packages is {age} days old, so what is missing cannot be known");
            facts.problem("security", ProblemKind::Unavailable, say.clone());
            facts.problem("updates", ProblemKind::Unavailable, say);
        }
        Ok(_) => match waiting(context.host).await {
            Ok((security, updates)) => {
                facts.set("security", security);
                facts.set("updates", updates);
            }
            Err(error) => facts.fail_all(&["security", "updates"], &error),
        },
        Err(error) => facts.fail_all(&["security", "updates"], &error),
    }
    facts.learn("held", held(context.host).await);
}

fn index_age(context: Context<'_>) -> Result<i64, HostError> {
    let changed = INDEX.iter().filter_map(|path| context.host.stat(path).ok()?.modified).max();
    let changed = changed.ok_or_else(|| HostError::Missing("the list of packages".to_owned()))?;
    Ok(context.seconds_since(changed) / 86_400)
}

/// Names of packages that a security archive would replace, and how many would be replaced in all.
async fn waiting(host: &Host) -> Result<(Value, usize), HostError> {
    let cmd = Cmd::new(["apt-get", "-s", "-o", "Debug::NoLocking=1", "upgrade"]);
    let output = host.run_ok(cmd.timeout(std::time::Duration::from_mins(2)).cap(8 * 1024 * 1024)).await?;
    let (mut security, mut all) = (Vec::new(), 0);
    for line in output.stdout.lines() {
        let Some(package) = line.strip_prefix("Inst ") else { continue };
        all += 1;
        // `name [old] (new Origin:version/suite [arch])`
        let origin = package.split_once('(').map_or("", |(_, origin)| origin);
        if origin.contains("-security") || origin.contains("-Security") {
            security.extend(package.split(' ').next());
        }
    }
    Ok((json!(security), all))
}

async fn held(host: &Host) -> Result<Value, HostError> {
    let output = host.run_ok(Cmd::new(["apt-mark", "showhold"])).await?;
    Ok(json!(output.stdout.lines().collect::<Vec<&str>>()))
}

/// Days since the packages this system was built from were published: `24.11.20250310.abcdef1`.
async fn content_age(context: Context<'_>) -> Result<i64, HostError> {
    let cmd = Cmd::new(["nixos-version", "--json"]);
    let what = cmd.line();
    let answer = context.host.run_ok(cmd).await?.json(&what)?;
    let version = answer.get("nixosVersion").and_then(Value::as_str).unwrap_or_default();
    let date = version.split('.').find_map(|part| (part.len() == 8).then(|| Date::strptime("%Y%m%d", part).ok())?);
    let published = date.and_then(|date| date.to_zoned(TimeZone::UTC).ok());
    let published = published.ok_or(HostError::Garbage { what, why: "no date in the version".to_owned() })?;
    Ok(context.seconds_since(published.timestamp()) / 86_400)
}

#[cfg(test)]
mod tests {
    use super::super::drift::tests::machine as nixos_machine;
    use super::super::fixture::{Tree, finding, words};
    use super::*;

    const ID: &str = "RB-LNX-PATCH-001";
    const UPGRADE: &str = "apt-get -s -o Debug::NoLocking=1 upgrade";
    const RECORDED: &str = "NOTE: This is only a simulation!\nReading package lists...\n\
        Inst libssl3 [3.0.11-1] (3.0.15-1 Debian-Security:12/stable-security [amd64])\n\
        Inst tzdata [2024a] (2024b Debian:12.8/stable-updates [all])\n\
        Inst openssl [3.0.2-0ubuntu1] (3.0.2-0ubuntu1.18 Ubuntu:22.04/jammy-updates, Ubuntu:22.04/jammy-security [amd64])\n\
        Conf libssl3 (3.0.15-1 Debian-Security:12/stable-security [amd64])\n";

    fn debian(version: &str, upgrade: &str, index_hours: u64) -> Tree {
        Tree::new()
            .file("/etc/os-release", &format!("ID=debian\nVERSION_ID=\"{version}\"\n"))
            .dir("/var/lib/apt/lists")
            .aged("/var/lib/apt/lists", index_hours)
            .answer(UPGRADE, upgrade)
            .answer("apt-mark showhold", "")
    }

    #[test]
    fn nothing_waiting_passes() {
        assert_eq!(debian("12", "Reading package lists...\n", 5).judge(ID, &json!({})), ("pass", vec![]));
    }

    #[test]
    fn only_security_updates_fail() {
        let finding = debian("12", RECORDED, 5).finding(ID, &json!({}));
        assert_eq!(words(&finding), ("fail", vec!["security_updates".into()]));
        let facts = &finding.observation.facts;
        assert_eq!((&facts["security"], &facts["updates"]), (&json!(["libssl3", "openssl"]), &json!(3)));
    }

    #[test]
    fn an_old_index_knows_nothing() {
        let finding = debian("12", "Reading package lists...\n", 24 * 9).finding(ID, &json!({}));
        assert_eq!(words(&finding), ("unknown", vec!["security_updates".into()]));
        assert!(finding.reasons[0].say.contains("9 days old"), "{:?}", finding.reasons);
        let ancient = debian("12", "", 24 * 40).judge(ID, &json!({}));
        assert_eq!(ancient, ("fail", vec!["security_updates".into(), "index_stale".into()]));
    }

    #[test]
    fn the_end_of_support_is_seen_coming() {
        assert_eq!(debian("10", "", 5).judge(ID, &json!({})), ("fail", vec!["end_of_life".into()]));
        assert_eq!(
            debian("15", "", 5).judge(ID, &json!({})),
            ("unknown", vec!["end_of_life".into(), "end_of_life_near".into()])
        );
        let held = debian("12", "", 5).answer("apt-mark showhold", "linux-image-amd64\n").judge(ID, &json!({}));
        assert_eq!(held, ("warn", vec!["held_packages".into()]));
    }

    #[test]
    fn nixos_is_as_old_as_its_packages() {
        let with = |version: &str| {
            nixos_machine("a", "a", "a")
                .file("/etc/os-release", "ID=nixos\nVERSION_ID=\"25.11\"\n")
                .answer("nixos-version --json", &json!({"nixosVersion": version}).to_string())
        };
        assert_eq!(with("25.11.20260220.abc").judge(ID, &json!({})), ("pass", vec![]));
        assert_eq!(with("25.11.20260120.abc").judge(ID, &json!({})), ("warn", vec!["content_ageing".into()]));
        assert_eq!(with("25.11.20251120.abc").judge(ID, &json!({})), ("fail", vec!["content_old".into()]));
        assert_eq!(with("25.11pre-git").judge(ID, &json!({})).0, "unknown");
    }

    #[test]
    fn no_release_and_no_tool_are_unknown() {
        assert_eq!(Tree::new().judge(ID, &json!({})).0, "unknown");
        let other = Tree::new().file("/etc/os-release", "ID=arch\n");
        assert_eq!(other.judge(ID, &json!({})).0, "unknown");
    }

    #[test]
    fn this_machine_answers() {
        let host = Host::live();
        if !host.has("apt-get") {
            eprintln!("skipped: no apt here");
            return;
        }
        let found = finding(&host, ID, &json!({"index_days": 3650}));
        assert!(found.observation.facts["security"].is_array(), "{:?}", found.observation.problems);
    }
}
