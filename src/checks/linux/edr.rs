//! Endpoint products, by what each says of itself in its machine-readable form.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::systemd;
use crate::checks::run::Context;
use crate::host::{Cmd, Host, HostError};

const FALCON: &str = "/opt/CrowdStrike/falconctl";
const WAZUH: &str = "/var/ossec/var/run/wazuh-agentd.state";
const SENTINEL: &str = "/opt/sentinelone/bin/sentinelctl";
/// Wazuh's agent calls its manager every few seconds; after this long it is not connected, whatever its state says.
const KEEPALIVE_S: i64 = 600;

/// One product that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Product {
    name: &'static str,
    /// It looks for malware itself.
    pub(super) scans: bool,
    healthy: bool,
    say: String,
    /// Age of what it knows malware by; `None` where it does not tell.
    definitions_age_h: Option<u64>,
}

impl Product {
    /// As a fact.
    pub(super) fn fact(&self) -> Value {
        json!({
            "product": self.name, "scans": self.scans, "healthy": self.healthy, "say": self.say,
            "definitions_age_h": self.definitions_age_h,
        })
    }

    fn scanner(name: &'static str, healthy: bool, say: &str) -> Self {
        Self { name, scans: true, healthy, say: say.to_owned(), definitions_age_h: None }
    }
}

/// Every product that is installed; one that cannot be asked ends it, for then nothing is known.
pub(super) async fn products(context: Context<'_>) -> Result<Vec<Product>, HostError> {
    let host = context.host;
    let found = [falcon(host).await?, defender(host).await?, sentinel_one(host).await?, wazuh(context)?];
    Ok(found.into_iter().flatten().collect())
}

/// `CrowdStrike`: `aid="…", rfm-state=false.`: enrolled, and not in reduced functionality mode.
async fn falcon(host: &Host) -> Result<Option<Product>, HostError> {
    if !host.has(FALCON) {
        return Ok(None);
    }
    let cmd = Cmd::new([FALCON, "-g", "--aid", "--rfm-state"]);
    let what = cmd.line();
    let output = host.run_ok(cmd).await?;
    let value = |name: &str| {
        let (_, rest) = output.stdout.split_once(&format!("{name}="))?;
        let end = rest.find([',', '\n']).unwrap_or(rest.len());
        rest.get(..end).map(|value| value.trim().trim_end_matches('.').trim_matches('"'))
    };
    let (healthy, say) = match (value("aid"), value("rfm-state")) {
        (Some(""), _) => (false, "not enrolled"),
        (Some(_), Some("false")) => (true, "enrolled"),
        (Some(_), Some("true")) => (false, "reduced functionality mode"),
        _ if output.stdout.contains("aid is not set") => (false, "not enrolled"),
        _ => return Err(HostError::Garbage { what, why: "no aid and rfm-state in the answer".to_owned() }),
    };
    Ok(Some(Product::scanner("CrowdStrike Falcon", healthy, say)))
}

/// Microsoft Defender for Endpoint: its own `healthy`, and that it protects as things happen.
async fn defender(host: &Host) -> Result<Option<Product>, HostError> {
    if !host.has("mdatp") {
        return Ok(None);
    }
    let cmd = Cmd::new(["mdatp", "health", "--output", "json"]);
    let what = cmd.line();
    let health = host.run_ok(cmd).await?.json(&what)?;
    // A value an administrator manages is wrapped in an object.
    let flag = |name: &str| {
        let value = health.get(name)?;
        value.as_bool().or_else(|| value.get("value")?.as_bool())
    };
    let (healthy, say) = match (flag("healthy"), flag("realTimeProtectionEnabled")) {
        (Some(_), Some(false)) => (false, "real-time protection is off"),
        (Some(true), _) => (true, "healthy"),
        (Some(false), _) => (false, "says that it is not healthy"),
        (None, _) => return Err(HostError::Garbage { what, why: "no `healthy` in the answer".to_owned() }),
    };
    let minutes = health.get("definitionsUpdatedMinutesAgo");
    let minutes = minutes.and_then(|minutes| minutes.as_u64().or_else(|| minutes.get("value")?.as_u64()));
    let definitions_age_h = minutes.map(|minutes| minutes / 60);
    Ok(Some(Product { definitions_age_h, ..Product::scanner("Microsoft Defender", healthy, say) }))
}

/// `SentinelOne` has no machine-readable status: its unit is what can be known.
async fn sentinel_one(host: &Host) -> Result<Option<Product>, HostError> {
    if !host.exists(SENTINEL) {
        return Ok(None);
    }
    let unit = systemd::show(host, "sentinelone.service").await?;
    let healthy = unit.is_active();
    let say = if healthy { "its service runs" } else { "its service does not run" };
    Ok(Some(Product::scanner("SentinelOne", healthy, say)))
}

/// Wazuh's agent writes its state as `name='value'` lines. It watches, and leaves looking for malware to others.
fn wazuh(context: Context<'_>) -> Result<Option<Product>, HostError> {
    let host = context.host;
    if !host.exists("/var/ossec/bin/wazuh-agentd") {
        return Ok(None);
    }
    let text = match host.read(WAZUH) {
        Ok(text) => text,
        // It is written while the agent runs.
        Err(HostError::Missing(_)) => String::new(),
        Err(error) => return Err(error),
    };
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('\''))
    };
    let (healthy, say) = match value("status") {
        // The state stays as it was when the agent is killed, so it has to be fresh.
        Some("connected") => match value("last_keepalive").and_then(|then| age_s(context, then)) {
            Some(age_s) if age_s <= KEEPALIVE_S => (true, "connected".to_owned()),
            Some(_) | None => (false, "its agent has not called its manager for ten minutes".to_owned()),
        },
        Some(status) => (false, format!("{status}, not connected to its manager")),
        None => (false, "its agent does not run".to_owned()),
    };
    Ok(Some(Product { name: "Wazuh", scans: false, healthy, say, definitions_age_h: None }))
}

/// Seconds since a time written as this machine's clock on the wall shows it.
fn age_s(context: Context<'_>, text: &str) -> Option<i64> {
    let zone = context.host.read_bytes("/etc/localtime").ok();
    let zone = zone.and_then(|bytes| TimeZone::tzif("local", &bytes).ok()).unwrap_or(TimeZone::UTC);
    let then = DateTime::strptime("%Y-%m-%d %H:%M:%S", text).ok()?.to_zoned(zone).ok()?;
    Some(context.seconds_since(then.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, now, on_runtime};
    use super::*;

    const ID: &str = "RB-LNX-AV-001";
    const ASK_FALCON: &str = "/opt/CrowdStrike/falconctl -g --aid --rfm-state";
    const ASK_DEFENDER: &str = "mdatp health --output json";

    /// `ClamAV` is not there; the named answer is.
    fn with(line: &str, answer: &str) -> Tree {
        Tree::new()
            .systemd()
            .unit("clamav-daemon.service", "not-found", "inactive", "dead", "")
            .unit("clamav-freshclam.service", "not-found", "inactive", "dead", "")
            .answer(line, answer)
    }

    #[test]
    fn a_healthy_product_protects_without_clamav() {
        let falcon = with(ASK_FALCON, "aid=\"4f2a9c\", rfm-state=false.\n");
        assert_eq!(falcon.judge(ID, &json!({})), ("pass", vec![]));
        let defender = with(ASK_DEFENDER, r#"{"healthy": true, "realTimeProtectionEnabled": {"value": true}}"#);
        assert_eq!(defender.judge(ID, &json!({})), ("pass", vec![]));
    }

    #[test]
    fn a_product_that_protects_nothing_fails() {
        let unhealthy = ("fail", vec!["endpoint_unhealthy".to_owned()]);
        for answer in
            ["aid=\"4f2a9c\", rfm-state=true.\n", "aid=\"\", rfm-state=false.\n", "aid is not set, rfm-state=false.\n"]
        {
            assert_eq!(with(ASK_FALCON, answer).judge(ID, &json!({})), unhealthy, "{answer}");
        }
        for answer in [
            r#"{"healthy": false, "realTimeProtectionEnabled": true}"#,
            r#"{"healthy": true, "realTimeProtectionEnabled": {"value": false}}"#,
        ] {
            assert_eq!(with(ASK_DEFENDER, answer).judge(ID, &json!({})), unhealthy, "{answer}");
        }
    }

    #[test]
    fn an_answer_nobody_understands_is_unknown() {
        assert_eq!(with(ASK_FALCON, "usage: …\n").judge(ID, &json!({})).0, "unknown");
        assert_eq!(with(ASK_DEFENDER, "{}").judge(ID, &json!({})).0, "unknown");
    }

    #[test]
    fn definitions_grow_old_in_a_product_that_says_it_is_well() {
        let judge = |minutes: u64| {
            let said =
                json!({"healthy": true, "realTimeProtectionEnabled": true, "definitionsUpdatedMinutesAgo": minutes});
            with(ASK_DEFENDER, &said.to_string()).judge(ID, &json!({}))
        };
        assert_eq!(judge(60), ("pass", vec![]));
        assert_eq!(judge(4 * 24 * 60), ("warn", vec!["endpoint_signatures_ageing".into()]));
        assert_eq!(judge(8 * 24 * 60), ("fail", vec!["endpoint_signatures_stale".into()]));
    }

    fn wazuh(state: &str) -> Tree {
        with("true", "").file("/var/ossec/bin/wazuh-agentd", "").file(WAZUH, state)
    }

    fn state(status: &str, keepalive: &str) -> String {
        format!("# State file\nstatus='{status}'\nlast_keepalive='{keepalive}'\n")
    }

    fn healthy(tree: &Tree) -> Vec<bool> {
        let host = tree.host();
        let context =
            Context { host: &host, settings: &serde_json::Map::new(), now: now(), own: &Value::Null, before: None };
        on_runtime(products(context)).unwrap().iter().map(|product| product.healthy).collect()
    }

    #[test]
    fn wazuh_watches_and_is_no_scanner() {
        let alone = wazuh(&state("connected", "2026-03-02 11:59:00")).finding(ID, &json!({}));
        assert_eq!(super::super::fixture::words(&alone), ("fail", vec!["not_installed".into()]));
        assert!(alone.is_never_configured());
        let beside = wazuh(&state("connected", "2026-03-02 11:59:00")).unit(
            "clamav-daemon.service",
            "loaded",
            "active",
            "running",
            "enabled",
        );
        assert_eq!(beside.judge(ID, &json!({})), ("pass", vec![]));
    }

    #[test]
    fn a_state_that_is_not_fresh_is_that_of_a_dead_agent() {
        assert_eq!(healthy(&wazuh(&state("connected", "2026-03-02 11:59:00"))), [true]);
        assert_eq!(healthy(&wazuh(&state("connected", "2026-03-02 11:40:00"))), [false]);
        assert_eq!(healthy(&wazuh(&state("pending", "2026-03-02 11:59:00"))), [false]);
        for odd in ["", "status='connected'\n", "status='connected'\nlast_keepalive='soon'\n"] {
            assert_eq!(healthy(&wazuh(odd)), [false], "{odd}");
        }
        let Ok(zone) = std::fs::read("/usr/share/zoneinfo/America/Denver") else {
            return eprintln!("skipped: no time zones here");
        };
        let local = wazuh(&state("connected", "2026-03-02 04:59:00")).bytes("/etc/localtime", &zone);
        assert_eq!(healthy(&local), [true], "it writes the time of the wall");
    }

    #[test]
    fn sentinelone_is_known_by_its_unit() {
        let sentinel =
            Tree::new().systemd().file(SENTINEL, "").unit("sentinelone.service", "loaded", "active", "x", "enabled");
        assert_eq!(healthy(&sentinel), [true]);
    }
}
