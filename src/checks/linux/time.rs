//! Clock: which service keeps it, whether it is synchronised, how far it is off.

use super::systemd::{self, Unit};
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Cmd, Host, HostError};

const SERVICES: &[&str] =
    &["chrony.service", "chronyd.service", "systemd-timesyncd.service", "ntpsec.service", "ntpd.service"];

/// Facts: `unit`, `synchronized`, `offset_ms`, `source`.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let unit = systemd::first_installed(context.host, SERVICES).await;
    facts.learn("unit", unit.map(|unit| unit.as_ref().map(Unit::fact)));
    match clock(context.host).await {
        Ok(Clock { source, synchronized, offset_ms }) => {
            facts.set("source", source);
            facts.set("synchronized", synchronized);
            facts.set("offset_ms", offset_ms);
        }
        Err(error) => facts.fail_all(&["source", "synchronized", "offset_ms"], &error),
    }
    facts.into()
}

#[derive(Debug, PartialEq, Eq)]
struct Clock {
    source: &'static str,
    synchronized: bool,
    /// Without sign; `None` where the service does not tell.
    offset_ms: Option<u64>,
}

async fn clock(host: &Host) -> Result<Clock, HostError> {
    if host.has("chronyc") {
        let output = host.run(Cmd::new(["chronyc", "-c", "tracking"])).await?;
        if output.success() {
            return tracking(&output.stdout)
                .ok_or(HostError::Garbage { what: "chronyc -c tracking".to_owned(), why: "not 14 fields".to_owned() });
        }
    }
    systemd::booted(host)?;
    let cmd = Cmd::new(["timedatectl", "show", "-p", "NTPSynchronized"]);
    let what = cmd.line();
    let synchronized = match host.run_ok(cmd).await?.stdout.trim() {
        "NTPSynchronized=yes" => true,
        "NTPSynchronized=no" => false,
        _ => return Err(HostError::Garbage { what, why: "neither yes nor no".to_owned() }),
    };
    Ok(Clock { source: "systemd", synchronized, offset_ms: None })
}

/// Field 5 is how far the clock is off in seconds, field 14 the leap status.
fn tracking(line: &str) -> Option<Clock> {
    let fields: Vec<&str> = line.trim().split(',').collect();
    let [_, _, _, _, offset, .., leap] = fields.as_slice() else { return None };
    let synchronized = match *leap {
        "Normal" | "Insert second" | "Delete second" => true,
        "Not synchronised" => false,
        _ => return None,
    };
    let offset_ms = milliseconds(offset)?;
    (fields.len() == 14).then_some(Clock { source: "chrony", synchronized, offset_ms: Some(offset_ms) })
}

/// Whole milliseconds of a decimal number of seconds, without its sign and rounded up, so that off is never nothing.
fn milliseconds(text: &str) -> Option<u64> {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: u64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    let more = fraction.chars().skip(3).any(|digit| digit != '0');
    let whole_ms = seconds.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
    Some(whole_ms + u64::from(more))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::Tree;
    use super::*;

    const ID: &str = "RB-LNX-TIME-001";

    fn machine(unit: &str, active: &str) -> Tree {
        let tree = SERVICES
            .iter()
            .fold(Tree::new().systemd(), |tree, service| tree.unit(service, "not-found", "inactive", "dead", ""));
        tree.unit(unit, "loaded", active, "x", "enabled")
    }

    fn chrony(offset: &str, leap: &str) -> Tree {
        let line = format!(
            "A29FC801,162.159.200.1,4,1772452800.123,{offset},0.000012,0.000034,-3.1,0.0,0.1,0.01,0.001,64.2,{leap}\n"
        );
        machine("chrony.service", "active").answer("chronyc -c tracking", &line)
    }

    #[test]
    fn offsets_and_states_of_chrony() {
        assert_eq!(chrony("-0.000123456", "Normal").judge(ID, &json!({})), ("pass", vec![]));
        assert_eq!(chrony("-2.5", "Normal").judge(ID, &json!({})), ("warn", vec!["clock_off".into()]));
        assert_eq!(chrony("3600.0", "Normal").judge(ID, &json!({})), ("fail", vec!["clock_wrong".into()]));
        assert_eq!(chrony("0.0", "Not synchronised").judge(ID, &json!({})), ("fail", vec!["not_synchronized".into()]));
        assert_eq!(chrony("0.0", "What").judge(ID, &json!({})).0, "unknown");
        assert_eq!(chrony("x", "Normal").judge(ID, &json!({})).0, "unknown");
    }

    #[test]
    fn timesyncd_says_yes_or_no() {
        let show = "timedatectl show -p NTPSynchronized";
        let yes = machine("systemd-timesyncd.service", "active").answer(show, "NTPSynchronized=yes\n");
        assert_eq!(yes.judge(ID, &json!({})), ("pass", vec![]));
        let down = machine("systemd-timesyncd.service", "inactive").answer(show, "NTPSynchronized=no\n");
        assert_eq!(down.judge(ID, &json!({})), ("fail", vec!["time_service_down".into(), "not_synchronized".into()]));
    }

    #[test]
    fn no_service_at_all_was_never_configured() {
        let tree =
            machine("none.service", "inactive").answer("timedatectl show -p NTPSynchronized", "NTPSynchronized=yes\n");
        let finding = tree.finding(ID, &json!({}));
        assert!(finding.is_never_configured(), "{:?}", finding.reasons);
    }

    #[test]
    fn without_systemd_it_is_unknown() {
        assert_eq!(Tree::new().judge(ID, &json!({})).0, "unknown");
    }

    #[test]
    fn seconds_become_milliseconds() {
        assert_eq!(milliseconds("-0.0000001"), Some(1));
        assert_eq!(milliseconds("1.5"), Some(1500));
        assert_eq!(milliseconds("12"), Some(12_000));
        assert_eq!(milliseconds("0.000000000"), Some(0));
        assert_eq!(milliseconds("99999999999999999999"), None);
    }
}
