//! Patches: security updates that wait and since when, how old the knowledge about them is, and how long this release is
//! supported.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::history::History;
use super::release::Release;
use super::{nixos, systemd};
use crate::checks::run::{Context, Facts, HISTORY};
use crate::domain::finding::{Observation, ProblemKind};
use crate::host::{Cmd, Host, HostError};

const LISTS: &str = "/var/lib/apt/lists";
const APT: [&str; 6] = ["index_age_d", "security", "waiting", "updates", "held", "broken"];
/// The kind of [`History`] with when each package was first seen to wait.
const WAITING: &str = "waiting";
/// Packages remembered.
const MOST: usize = 1000;

/// Facts: `release`, `support_days_left`, `apt`, `index_age_d` (days since the security archive signed the newest index
/// that is here), `security`, `waiting` (`[{package, days}]`, days since each was first seen to wait), `updates`, `held`,
/// `broken` (packages that are only half installed), `nixos`, `content_age_d`, `tools`, `history`.
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
        json!({
            "unattended_upgrade": host.has("unattended-upgrade"), "apt_get": host.has("apt-get"), "dpkg": host.has("dpkg"),
            "systemd_run": systemd::booted(host).is_ok() && host.has("systemd-run"),
            "apt_conf": host.exists("/etc/apt/apt.conf"),
        }),
    );
    facts.into()
}

async fn apt(context: Context<'_>, facts: &mut Facts) {
    const NAMES: [&str; 3] = ["security", "waiting", "updates"];
    let age = index_age(context);
    facts.learn("index_age_d", age.clone());
    let limit = context.number("index_days").unwrap_or(7);
    match age {
        Ok(age) if age > limit => {
            let say = format!("the list of security updates is {age} days old, so what is missing cannot be known");
            for name in NAMES {
                facts.problem(name, ProblemKind::Unavailable, say.clone());
            }
        }
        Ok(_) => match waiting(context.host).await {
            Ok((security, updates)) => {
                since(context, &security, facts);
                facts.set("security", security);
                facts.set("updates", updates);
            }
            Err(error) => facts.fail_all(&NAMES, &error),
        },
        Err(error) => facts.fail_all(&NAMES, &error),
    }
    facts.learn("held", held(context.host).await);
    facts.learn("broken", broken(context.host).await);
}

/// Days since the newest index of a security archive that is here was signed. Without one nothing is known, however new
/// the others are; and when it was fetched says nothing, for a mirror may have handed out an old one.
fn index_age(context: Context<'_>) -> Result<i64, HostError> {
    let host = context.host;
    let mut newest: Option<Timestamp> = None;
    for name in host.list(LISTS)?.iter().filter(|name| name.ends_with("_InRelease") || name.ends_with("_Release")) {
        let path = format!("{LISTS}/{name}");
        let head = host.head(&path, 4096)?;
        let text = String::from_utf8_lossy(&head);
        if is_for_security(&text) {
            let signed = signed(&text).ok_or(HostError::Garbage { what: path, why: "no date in it".to_owned() })?;
            newest = newest.max(Some(signed));
        }
    }
    let newest = newest.ok_or_else(|| HostError::Missing("a list of security updates".to_owned()))?;
    Ok(context.seconds_since(newest) / 86_400)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
}

fn is_for_security(text: &str) -> bool {
    ["Suite", "Codename"].iter().any(|name| field(text, name).is_some_and(|suite| suite.ends_with("-security")))
        || field(text, "Label") == Some("Debian-Security")
}

fn signed(text: &str) -> Option<Timestamp> {
    let date = DateTime::strptime("%a, %d %b %Y %H:%M:%S UTC", field(text, "Date")?).ok()?;
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// Names of packages that a security archive would replace, and how many would be replaced or added in all.
async fn waiting(host: &Host) -> Result<(Vec<String>, usize), HostError> {
    // New packages, too: a kernel with another ABI is one.
    let cmd = Cmd::new(["apt-get", "-s", "-o", "Debug::NoLocking=1", "--with-new-pkgs", "upgrade"]);
    let output = host.run_ok(cmd.timeout(std::time::Duration::from_mins(2)).cap(8 * 1024 * 1024)).await?;
    let (mut security, mut all) = (Vec::new(), 0);
    for line in output.stdout.lines() {
        let Some(package) = line.strip_prefix("Inst ") else { continue };
        all += 1;
        // `name [old] (new Origin:version/suite [arch])`
        let origin = package.split_once('(').map_or("", |(_, origin)| origin);
        if origin.contains("-security") || origin.contains("-Security") {
            security.extend(package.split(' ').next().map(str::to_owned));
        }
    }
    Ok((security, all))
}

/// How long each package has been waiting, by when it was first seen to: a newer version does not begin anew.
fn since(context: Context<'_>, security: &[String], facts: &mut Facts) {
    let mut history = History::of(context);
    let known = history.latest(WAITING).and_then(|sample| sample.value.get("since")).cloned().unwrap_or_default();
    let known = |package: &str| {
        let at: Timestamp = known.get(package)?.as_str()?.parse().ok()?;
        (at <= context.now).then_some(at)
    };
    let since: BTreeMap<&str, Timestamp> =
        security.iter().take(MOST).map(|name| (name.as_str(), known(name).unwrap_or(context.now))).collect();
    let days = |at: &Timestamp| context.seconds_since(*at) / 86_400;
    facts.set("waiting", since.iter().map(|(name, at)| json!({"package": name, "days": days(at)})).collect::<Value>());
    let since: Value = since.iter().map(|(name, at)| ((*name).to_owned(), json!(at.to_string()))).collect();
    history.replace(WAITING, context.now, json!({"since": since}));
    facts.set(HISTORY, history.fact());
}

async fn held(host: &Host) -> Result<Value, HostError> {
    let output = host.run_ok(Cmd::new(["apt-mark", "showhold"])).await?;
    Ok(json!(output.stdout.lines().collect::<Vec<&str>>()))
}

/// Packages an interrupted installation left half done: `dpkg --audit` indents them below a paragraph about what is wrong.
async fn broken(host: &Host) -> Result<Value, HostError> {
    let output = host.run(Cmd::new(["dpkg", "--audit"])).await?;
    let names: Vec<&str> =
        output.stdout.lines().filter_map(|line| line.strip_prefix(' ')?.split_whitespace().next()).collect();
    match (output.success(), names.is_empty()) {
        (true, true) if output.stdout.trim().is_empty() => Ok(json!([])),
        (_, false) => Ok(json!(names)),
        (true | false, true) => {
            Err(HostError::Io { what: "dpkg --audit".to_owned(), why: output.first_line().to_owned() })
        }
    }
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
    use super::super::fixture::{Tree, finding, now, on_runtime, words};
    use super::super::planned::lines;
    use super::*;
    use crate::domain::plan::{Plan, PlannedAction};

    const ID: &str = "RB-LNX-PATCH-001";
    const UPGRADE: &str = "apt-get -s -o Debug::NoLocking=1 --with-new-pkgs upgrade";
    const INDEX: &str = "/var/lib/apt/lists/mirror.example_debian-security_dists_bookworm-security_InRelease";
    const RECORDED: &str = "NOTE: This is only a simulation!\nReading package lists...\n\
        Inst libssl3 [3.0.11-1] (3.0.15-1 Debian-Security:12/stable-security [amd64])\n\
        Inst tzdata [2024a] (2024b Debian:12.8/stable-updates [all])\n\
        Inst openssl [3.0.2-0ubuntu1] (3.0.2-0ubuntu1.18 Ubuntu:22.04/jammy-updates, Ubuntu:22.04/jammy-security [amd64])\n\
        Conf libssl3 (3.0.15-1 Debian-Security:12/stable-security [amd64])\n";

    fn index(suite: &str, hours: u64) -> String {
        let date = now() - jiff::SignedDuration::from_hours(i64::try_from(hours).unwrap());
        let date = date.strftime("%a, %d %b %Y %H:%M:%S UTC");
        format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\nSuite: {suite}\nDate: {date}\nMD5Sum:\n"
        )
    }

    fn debian(version: &str, upgrade: &str, index_hours: u64) -> Tree {
        Tree::new()
            .file("/etc/os-release", &format!("ID=debian\nVERSION_ID=\"{version}\"\n"))
            .file(INDEX, &index("stable-security", index_hours))
            .answer(UPGRADE, upgrade)
            .answer("apt-mark showhold", "")
            .answer("dpkg --audit", "")
    }

    /// A machine on which two updates have been seen to wait for so many days.
    fn waited(days: i64) -> Tree {
        let at = now() - jiff::SignedDuration::from_hours(24 * days + 1);
        let since = json!({"libssl3": at.to_string(), "openssl": at.to_string(), "gone": at.to_string()});
        let history = json!([{"at": at.to_string(), "value": {"kind": "waiting", "since": since}}]);
        debian("12", RECORDED, 5).before(6, json!({"history": history}))
    }

    #[test]
    fn nothing_waiting_passes() {
        assert_eq!(debian("12", "Reading package lists...\n", 5).judge(ID, &json!({})), ("pass", vec![]));
    }

    #[test]
    fn security_updates_are_installed_soon_and_missed_after_a_fortnight() {
        let first = debian("12", RECORDED, 5).finding(ID, &json!({}));
        assert_eq!(words(&first), ("warn", vec!["updates_seen".into()]));
        let facts = &first.observation.facts;
        assert_eq!((&facts["security"], &facts["updates"]), (&json!(["libssl3", "openssl"]), &json!(3)));
        assert_eq!(waited(1).judge(ID, &json!({})), ("fail", vec!["security_updates".into()]));
        assert_eq!(waited(14).judge(ID, &json!({})), ("fail", vec!["security_updates".into()]));
        let both = ("fail", vec!["security_updates".to_owned(), "updates_overdue".to_owned()]);
        assert_eq!(waited(15).judge(ID, &json!({})), both);
        assert_eq!(waited(15).judge(ID, &json!({"overdue_days": 30})).1, ["security_updates"]);
        let patient = json!({"install_days": 10});
        assert_eq!(waited(9).judge(ID, &patient), ("warn", vec!["updates_seen".into()]));
    }

    #[test]
    fn clocks_run_on_from_first_sight_and_end_with_the_package() {
        let facts = waited(3).observe(ID, &json!({})).facts;
        assert_eq!(facts["waiting"], json!([{"package": "libssl3", "days": 3}, {"package": "openssl", "days": 3}]));
        let since = facts["history"][0]["value"]["since"].as_object().unwrap();
        assert_eq!(since.keys().collect::<Vec<_>>(), ["libssl3", "openssl"], "what is installed is forgotten");
        let stale = waited(3).file(INDEX, &index("stable-security", 24 * 9)).observe(ID, &json!({})).facts;
        assert_eq!(stale["history"], Value::Null, "nothing was learned, so what is known stays");
        let ahead = json!([{"at": "2026-03-02T11:00:00Z", "value": {"kind": "waiting", "since": {"libssl3": "2030-01-01T00:00:00Z"}}}]);
        let odd = debian("12", RECORDED, 5).before(6, json!({"history": ahead})).observe(ID, &json!({})).facts;
        assert_eq!(odd["waiting"][0]["days"], json!(0));
    }

    #[test]
    fn only_an_index_of_a_security_archive_tells_of_security_updates() {
        let unknown = (
            "unknown",
            vec!["updates_seen".to_owned(), "security_updates".into(), "updates_overdue".into(), "index_stale".into()],
        );
        let other = debian("12", "", 5).file(INDEX, &index("stable", 5));
        assert_eq!(other.judge(ID, &json!({})), unknown, "the other archives are as new as can be");
        let partial = debian("12", "", 24 * 9).dir("/var/lib/apt/lists/partial").aged("/var/lib/apt/lists/partial", 0);
        assert_eq!(partial.file("/var/lib/apt/periodic/update-success-stamp", "").judge(ID, &json!({})).0, "unknown");
        let old = "Label: Debian-Security\nSuite: oldstable/updates\nDate: Mon, 02 Mar 2026 10:00:00 UTC\n";
        assert_eq!(debian("12", "", 5).file(INDEX, old).judge(ID, &json!({})), ("pass", vec![]));
        let undated = debian("12", "", 5).file(INDEX, "Suite: stable-security\nDate: yesterday\n");
        assert_eq!(undated.judge(ID, &json!({})).0, "unknown");
    }

    #[test]
    fn an_old_index_knows_nothing() {
        let finding = debian("12", "Reading package lists...\n", 24 * 9).finding(ID, &json!({}));
        let three = ["updates_seen", "security_updates", "updates_overdue"].map(str::to_owned);
        assert_eq!(words(&finding), ("unknown", three.to_vec()));
        assert!(finding.reasons[0].say.contains("9 days old"), "{:?}", finding.reasons);
        let ancient = debian("12", "", 24 * 40).judge(ID, &json!({}));
        assert_eq!(ancient.0, "fail");
        assert!(ancient.1.contains(&"index_stale".to_owned()), "{ancient:?}");
    }

    #[test]
    fn half_installed_packages_fail() {
        let audit = "The following packages are only half configured, probably due to problems\nconfiguring them the first time.\n libc6:amd64  GNU C Library\n\n";
        let broken = debian("12", "", 5).answer("dpkg --audit", audit);
        let finding = broken.finding(ID, &json!({}));
        assert_eq!(words(&finding), ("fail", vec!["packages_broken".into()]));
        assert_eq!(finding.observation.facts["broken"], json!(["libc6:amd64"]));
        let odd = debian("12", "", 5).answer_with("dpkg --audit", 2, "", "dpkg: error: no such database");
        assert_eq!(odd.judge(ID, &json!({})).0, "unknown");
    }

    fn healable() -> Tree {
        ["unattended-upgrade --help", "systemd-run --help"]
            .iter()
            .fold(waited(3), |tree, line| tree.answer(line, ""))
            .systemd()
    }

    fn content(plan: &Plan) -> &str {
        let file = plan.steps.iter().find_map(|step| match &step.action {
            PlannedAction::File { content, .. } => Some(content.as_str()),
            PlannedAction::Exec { .. }
            | PlannedAction::Unit { .. }
            | PlannedAction::NftLoad { .. }
            | PlannedAction::Restore => None,
        });
        file.unwrap()
    }

    #[test]
    fn what_installs_updates_outlives_the_agent_and_is_tried_out_first() {
        let steps = lines(healable().plan(ID, &json!({})));
        assert_eq!(steps[0], "apt-get -q update");
        assert!(steps[1].starts_with("write /run/malachor-apt.conf"), "{steps:?}");
        assert_eq!(steps[2], "APT_CONFIG=/run/malachor-apt.conf unattended-upgrade --dry-run");
        assert_eq!(
            steps[3],
            "systemd-run --wait --collect --quiet --unit=malachor-security-updates --setenv=APT_CONFIG=/run/malachor-apt.conf unattended-upgrade"
        );
        assert_eq!(steps[4], "dpkg --audit");
        assert!(waited(3).plan(ID, &json!({})).is_err(), "without the tools there is no plan");
    }

    /// The real apt reads the machine's own settings after those of `APT_CONFIG`, and still ours are what counts.
    #[test]
    fn our_settings_win_over_the_machines_own() {
        let plan = healable().file("/etc/apt/apt.conf", "").plan(ID, &json!({})).unwrap();
        assert!(content(&plan).contains("#include \"/etc/apt/apt.conf\";"));
        if !Host::live().has("apt-config") {
            return eprintln!("skipped: no apt here");
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::create_dir(at("parts")).unwrap();
        let own = "Unattended-Upgrade::Automatic-Reboot \"true\";\nAcquire::http::Proxy \"http://proxy:3142\";\n\
            Unattended-Upgrade::Allowed-Origins { \"Debian:stable\"; };\nUnattended-Upgrade::Update-Days { \"Mon\"; };\n";
        std::fs::write(at("parts/50unattended-upgrades"), own).unwrap();
        let ours = content(&healable().plan(ID, &json!({})).unwrap()).replace("/run/malachor-apt.conf", &at("ours"));
        std::fs::write(at("ours"), format!("Dir::Etc::parts \"{}\";\n{ours}", at("parts"))).unwrap();
        let dump = Cmd::new(["apt-config", "dump"]).env("APT_CONFIG", at("ours"));
        let said = on_runtime(Host::live().run_ok(dump)).unwrap().stdout;
        let values = |name: &str| {
            let lines =
                said.lines().filter_map(|line| line.strip_prefix(name)?.trim_start_matches("::").strip_prefix(' '));
            lines.map(|value| value.trim_matches(['"', ';'])).filter(|value| !value.is_empty()).collect::<Vec<&str>>()
        };
        assert_eq!(values("Unattended-Upgrade::Automatic-Reboot"), ["false"], "{said}");
        assert_eq!(
            (values("Unattended-Upgrade::Allowed-Origins"), values("Unattended-Upgrade::Update-Days")),
            (vec![], vec![])
        );
        let patterns = values("Unattended-Upgrade::Origins-Pattern");
        assert!(!patterns.is_empty() && patterns.iter().all(|one| one.contains("ecurity")), "{patterns:?}");
        assert_eq!(values("Acquire::http::Proxy"), ["http://proxy:3142"], "and the rest of its own stays");
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
