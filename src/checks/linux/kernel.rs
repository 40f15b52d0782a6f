//! Kernel: which one runs, whether a restart is needed to run the one that is installed and since when, and which services
//! still run what an update replaced.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::history::History;
use super::nixos;
use crate::checks::run::{Context, Facts, HISTORY};
use crate::domain::finding::Observation;
use crate::host::{Cmd, Host, HostError};

const MARKER: &str = "/run/reboot-required";
const MODULES: &str = "/lib/modules";
const PENDING: &str = "pending";

/// Facts: `running`, `nixos`, `reboot_pending`, `pending_d` (days since it was first seen to be, or since what brought it
/// came, whichever is longer), `uptime_d`, `outdated` (services to restart; null without needrestart) and `history`.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    let running = host.read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned());
    facts.learn("running", running.clone());
    facts.learn("uptime_d", uptime_d(host));
    let is_nixos = nixos::is_nixos(host);
    facts.set("nixos", is_nixos);
    let pending = if is_nixos { on_nixos(host) } else { running.and_then(|running| pending(host, &running)) };
    match pending {
        Ok(pending) => {
            facts.set("reboot_pending", pending.is_some());
            remember(context, pending, &mut facts);
        }
        Err(error) => facts.fail_all(&["reboot_pending", "pending_d"], &error),
    }
    facts.learn("outdated", outdated(host).await);
    facts.into()
}

/// A restart that is due.
struct Pending {
    /// When what makes it due came; `None` where nothing tells.
    since: Option<Timestamp>,
}

/// Dates begin anew with every further update, so the first sight of it counts, too.
fn remember(context: Context<'_>, pending: Option<Pending>, facts: &mut Facts) {
    let mut history = History::of(context);
    let Some(pending) = pending else {
        facts.set("pending_d", Value::Null);
        return facts.set(HISTORY, History::default().fact());
    };
    let seen = history.latest(PENDING).map_or(context.now, |sample| sample.at);
    history.replace(PENDING, seen, json!({}));
    let since = pending.since.map_or(seen, |since| since.min(seen));
    facts.set("pending_d", context.seconds_since(since) / 86_400);
    facts.set(HISTORY, history.fact());
}

fn changed(host: &Host, path: &str) -> Option<Timestamp> {
    host.stat(path).ok()?.modified
}

fn on_nixos(host: &Host) -> Result<Option<Pending>, HostError> {
    let pending = nixos::reboot_pending(host)?;
    Ok(pending.then(|| Pending { since: changed(host, "/nix/var/nix/profiles/system") }))
}

/// Debian's marker says so; else the newest installed kernel must be the running one.
fn pending(host: &Host, running: &str) -> Result<Option<Pending>, HostError> {
    if host.exists(MARKER) {
        return Ok(Some(Pending { since: changed(host, MARKER) }));
    }
    let installed = host.list(MODULES).map_err(|error| match error {
        HostError::Missing(_) => {
            HostError::Missing("what tells whether a restart is due (a marker, installed kernels)".to_owned())
        }
        HostError::Denied(_) | HostError::Timeout { .. } | HostError::Garbage { .. } | HostError::Io { .. } => error,
    })?;
    // Left-over modules of a removed kernel do not count.
    let bootable = |name: &&String| host.exists(&format!("/boot/vmlinuz-{name}"));
    let newest = installed.iter().filter(bootable).max_by_key(|name| version(name));
    let newest = newest.ok_or_else(|| HostError::Missing("an installed kernel".to_owned()))?;
    if version(newest) > version(running) {
        // dpkg notes when it unpacked the package; the kernel itself carries the date it was built at.
        let noted = changed(host, &format!("/var/lib/dpkg/info/linux-image-{newest}.list"));
        return Ok(Some(Pending { since: noted.or_else(|| changed(host, &format!("/boot/vmlinuz-{newest}"))) }));
    }
    let gone = !installed.iter().any(|name| name == running);
    Ok(gone.then_some(Pending { since: None }))
}

/// Services that needrestart(1) would restart, in its batch mode, which only lists.
async fn outdated(host: &Host) -> Result<Value, HostError> {
    if !host.has("needrestart") {
        return Ok(Value::Null);
    }
    let cmd = Cmd::new(["needrestart", "-b", "-r", "l"]).timeout(Duration::from_secs(90));
    let what = cmd.line();
    let output = host.run_ok(cmd).await?;
    let value = |name: &'static str| {
        output.stdout.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
    };
    if value("NEEDRESTART-VER").next().is_none() {
        return Err(HostError::Garbage { what, why: "not the answer of its batch mode".to_owned() });
    }
    Ok(value("NEEDRESTART-SVC").take(200).collect())
}

/// Numbers compare as numbers: 6.1.0-9 comes before 6.1.0-10.
fn version(name: &str) -> Vec<(u64, String)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let word = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, tail) = rest.split_at(word);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (digits, tail) = tail.split_at(end);
        parts.push((digits.parse().unwrap_or(0), text.to_owned()));
        rest = tail;
    }
    parts
}

fn uptime_d(host: &Host) -> Result<u64, HostError> {
    const PATH: &str = "/proc/uptime";
    let text = host.read(PATH)?;
    let seconds: Option<u64> = text.split('.').next().and_then(|seconds| seconds.parse().ok());
    seconds
        .map(|seconds| seconds / 86_400)
        .ok_or(HostError::Garbage { what: PATH.to_owned(), why: "no number".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::super::drift::tests::machine as nixos;
    use super::super::fixture::{Tree, now, words};
    use super::*;

    const ID: &str = "RB-LNX-KERNEL-001";

    fn debian(running: &str, installed: &[&str]) -> Tree {
        let tree = Tree::new()
            .file("/proc/sys/kernel/osrelease", &format!("{running}\n"))
            .file("/proc/uptime", "864000.5 1.0\n");
        installed.iter().fold(tree, |tree, name| {
            tree.dir(&format!("/lib/modules/{name}")).file(&format!("/boot/vmlinuz-{name}"), "")
        })
    }

    #[test]
    fn the_newest_kernel_runs_or_waits() {
        let both = ["6.1.0-9-amd64", "6.1.0-10-amd64"];
        assert_eq!(debian("6.1.0-10-amd64", &both).judge(ID, &json!({})), ("pass", vec![]));
        assert_eq!(debian("6.1.0-9-amd64", &both).judge(ID, &json!({})), ("warn", vec!["reboot_pending".into()]));
        let gone = debian("6.1.0-9-amd64", &["6.1.0-8-amd64"]).judge(ID, &json!({}));
        assert_eq!(gone, ("warn", vec!["reboot_pending".into()]));
    }

    fn days(tree: &Tree) -> Value {
        tree.observe(ID, &json!({})).facts["pending_d"].clone()
    }

    #[test]
    fn without_a_marker_the_kernel_itself_tells_how_long_it_has_waited() {
        let (kernel, list) = ("/boot/vmlinuz-6.1.0-10-amd64", "/var/lib/dpkg/info/linux-image-6.1.0-10-amd64.list");
        let waiting = || debian("6.1.0-9-amd64", &["6.1.0-9-amd64", "6.1.0-10-amd64"]).aged(kernel, 24 * 20);
        assert_eq!(waiting().judge(ID, &json!({})), ("fail", vec!["reboot_overdue".into()]));
        let installed = waiting().file(list, "").aged(list, 24 * 3);
        assert_eq!((days(&waiting()), days(&installed)), (json!(20), json!(3)), "built earlier than installed");
    }

    #[test]
    fn the_first_sight_of_it_counts_where_dates_begin_anew() {
        let seen = |days: i64| {
            let at = now() - jiff::SignedDuration::from_hours(24 * days);
            json!({"history": [{"at": at.to_string(), "value": {"kind": "pending"}}]})
        };
        let marked = || debian("6.1.0-9-amd64", &["6.1.0-9-amd64"]).file(MARKER, "").aged(MARKER, 1);
        assert_eq!((days(&marked()), days(&marked().before(1, seen(16)))), (json!(0), json!(16)));
        let gone = || debian("6.1.0-9-amd64", &["6.1.0-8-amd64"]);
        assert_eq!((days(&gone()), days(&gone().before(1, seen(2)))), (json!(0), json!(2)));
        let set = "/nix/var/nix/profiles/system";
        let nixos =
            || nixos("b", "b", "a").file("/proc/sys/kernel/osrelease", "6.6.1\n").file("/proc/uptime", "5.0 1.0\n");
        assert!(nixos().host().exists(set));
        assert_eq!(days(&nixos().before(1, seen(40))), json!(40), "a new generation since then changes nothing");
        let done = debian("6.1.0-9-amd64", &["6.1.0-9-amd64"]).before(1, seen(16)).observe(ID, &json!({})).facts;
        assert_eq!((&done["pending_d"], &done["history"]), (&Value::Null, &json!([])));
    }

    #[test]
    fn services_that_run_what_was_replaced_are_named() {
        let with = |said: &str| debian("6.1.0-9-amd64", &["6.1.0-9-amd64"]).answer("needrestart -b -r l", said);
        let said = "NEEDRESTART-VER: 3.6\nNEEDRESTART-KCUR: 6.1.0\nNEEDRESTART-KSTA: 1\nNEEDRESTART-SVC: cron.service\nNEEDRESTART-SVC: ssh.service\n";
        let found = with(said).finding(ID, &json!({}));
        assert_eq!(words(&found), ("warn", vec!["services_outdated".into()]));
        assert_eq!(found.observation.facts["outdated"], json!(["cron.service", "ssh.service"]));
        assert_eq!(with("NEEDRESTART-VER: 3.6\n").judge(ID, &json!({})), ("pass", vec![]));
        assert_eq!(with("").judge(ID, &json!({})), ("unknown", vec!["services_outdated".into()]));
    }

    #[test]
    fn a_marker_that_waits_too_long_fails() {
        let young = debian("6.1.0-9-amd64", &["6.1.0-9-amd64"]).file(MARKER, "").aged(MARKER, 24);
        assert_eq!(young.judge(ID, &json!({})), ("warn", vec!["reboot_pending".into()]));
        let old = young.aged(MARKER, 24 * 20);
        assert_eq!(old.judge(ID, &json!({})), ("fail", vec!["reboot_overdue".into()]));
    }

    #[test]
    fn nixos_compares_what_was_started_with_what_is_set() {
        let running = |tree: Tree| tree.file("/proc/sys/kernel/osrelease", "6.6.1\n").file("/proc/uptime", "5.0 1.0\n");
        assert_eq!(running(nixos("a", "a", "a")).judge(ID, &json!({})), ("pass", vec![]));
        let pending = running(nixos("b", "b", "a")).finding(ID, &json!({}));
        assert_eq!(pending.observation.facts["reboot_pending"], json!(true));
    }

    #[test]
    fn neither_marker_nor_modules_is_unknown() {
        assert_eq!(Tree::new().judge(ID, &json!({})).0, "unknown");
        let container = Tree::new().file("/proc/sys/kernel/osrelease", "6.1.0\n").file("/proc/uptime", "5.0 1.0\n");
        assert_eq!(container.judge(ID, &json!({})).0, "unknown");
    }
}
