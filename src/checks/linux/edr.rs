//! Endpoint products, by what each says of itself in its machine-readable form.

use serde_json::{Value, json};

use super::systemd;
use crate::host::{Cmd, Host, HostError};

const FALCON: &str = "/opt/CrowdStrike/falconctl";
const WAZUH: &str = "/var/ossec/var/run/wazuh-agentd.state";
const SENTINEL: &str = "/opt/sentinelone/bin/sentinelctl";

/// One product that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Product {
    name: &'static str,
    healthy: bool,
    say: String,
}

impl Product {
    /// As a fact.
    pub(super) fn fact(&self) -> Value {
        json!({"product": self.name, "healthy": self.healthy, "say": self.say})
    }
}

/// Every product that is installed; one that cannot be asked ends it, for then nothing is known.
pub(super) async fn products(host: &Host) -> Result<Vec<Product>, HostError> {
    let found = [falcon(host).await?, defender(host).await?, sentinel_one(host).await?, wazuh(host)?];
    Ok(found.into_iter().flatten().collect())
}

/// CrowdStrike: `aid="…", rfm-state=false.`: enrolled, and not in reduced functionality mode.
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
    Ok(Some(Product { name: "CrowdStrike Falcon", healthy, say: say.to_owned() }))
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
    Ok(Some(Product { name: "Microsoft Defender", healthy, say: say.to_owned() }))
}

/// SentinelOne has no machine-readable status: its unit is what can be known.
async fn sentinel_one(host: &Host) -> Result<Option<Product>, HostError> {
    if !host.exists(SENTINEL) {
        return Ok(None);
    }
    let unit = systemd::show(host, "sentinelone.service").await?;
    let healthy = unit.is_active();
    let say = if healthy { "its service runs" } else { "its service does not run" };
    Ok(Some(Product { name: "SentinelOne", healthy, say: say.to_owned() }))
}

/// Wazuh's agent writes its state as `name='value'` lines.
fn wazuh(host: &Host) -> Result<Option<Product>, HostError> {
    if !host.exists("/var/ossec/bin/wazuh-agentd") {
        return Ok(None);
    }
    let text = match host.read(WAZUH) {
        Ok(text) => text,
        // It is written while the agent runs.
        Err(HostError::Missing(_)) => String::new(),
        Err(error) => return Err(error),
    };
    let status = text.lines().find_map(|line| line.strip_prefix("status=")).map(|value| value.trim_matches('\''));
    let (healthy, say) = match status {
        Some("connected") => (true, "connected".to_owned()),
        Some(status) => (false, format!("{status}, not connected to its manager")),
        None => (false, "its agent does not run".to_owned()),
    };
    Ok(Some(Product { name: "Wazuh", healthy, say }))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, on_runtime};
    use super::*;

    const ID: &str = "RB-LNX-AV-001";
    const ASK_FALCON: &str = "/opt/CrowdStrike/falconctl -g --aid --rfm-state";
    const ASK_DEFENDER: &str = "mdatp health --output json";

    /// ClamAV is not there; the named answer is.
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
    fn wazuh_and_sentinelone_by_state_and_unit() {
        let found =
            |tree: &Tree| on_runtime(products(&tree.host())).map(|list| list.iter().map(|p| p.healthy).collect());
        let wazuh = Tree::new().file("/var/ossec/bin/wazuh-agentd", "");
        assert_eq!(found(&wazuh), Ok(vec![false]));
        let state = |status: &str| format!("# State file\nstatus='{status}'\nlast_keepalive='2026-03-02 11:59:00'\n");
        assert_eq!(
            found(&Tree::new().file("/var/ossec/bin/wazuh-agentd", "").file(WAZUH, &state("connected"))),
            Ok(vec![true])
        );
        assert_eq!(
            found(&Tree::new().file("/var/ossec/bin/wazuh-agentd", "").file(WAZUH, &state("pending"))),
            Ok(vec![false])
        );
        let sentinel =
            Tree::new().systemd().file(SENTINEL, "").unit("sentinelone.service", "loaded", "active", "x", "enabled");
        assert_eq!(found(&sentinel), Ok(vec![true]));
    }
}
