//! Clock: which service keeps it, whether it is synchronised, how far it is off, and how long ago and by how many sources
//! that was last known.

use serde_json::{Value, json};

use super::systemd::{self, Unit};
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Cmd, Host, HostError};

const SERVICES: &[&str] = &[
    "chrony.service",
    "chronyd.service",
    "systemd-timesyncd.service",
    "ntpsec.service",
    "ntp.service",
    "ntpd.service",
    "openntpd.service",
];

/// Facts: `unit`, `synchronized`, `offset_ms`, `reference_age_s` (since the clock was last compared), `sources`
/// (`{total, usable}`), `source` (who says so). Where chrony does not answer, systemd hands on what the kernel knows
/// (`adjtimex(2)`), and the other numbers are null.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    facts.learn("unit", service(context.host).await.map(|unit| unit.as_ref().map(Unit::fact)));
    match clock(context).await {
        Ok(clock) => {
            let by_chrony = clock.source == CHRONY;
            facts.set("source", clock.source);
            facts.set("synchronized", clock.synchronized);
            facts.set("offset_ms", clock.offset_ms);
            facts.set("reference_age_s", clock.reference_age_s);
            facts.learn("sources", if by_chrony { sources(context.host).await } else { Ok(Value::Null) });
        }
        Err(error) => facts.fail_all(&["source", "synchronized", "offset_ms", "reference_age_s", "sources"], &error),
    }
    facts.into()
}

/// The service that runs, else the first that is installed: several may be.
async fn service(host: &Host) -> Result<Option<Unit>, HostError> {
    let units: Vec<Unit> = systemd::show_all(host, SERVICES).await?.into_iter().filter(Unit::installed).collect();
    let up = units.iter().position(Unit::is_active).unwrap_or(0);
    Ok(units.into_iter().nth(up))
}

const CHRONY: &str = "chrony";

#[derive(Debug, PartialEq, Eq)]
struct Clock {
    source: &'static str,
    synchronized: bool,
    /// Without sign; `None` where the service does not tell.
    offset_ms: Option<u64>,
    /// `None` where it was never compared, or the service does not tell.
    reference_age_s: Option<i64>,
}

async fn clock(context: Context<'_>) -> Result<Clock, HostError> {
    let host = context.host;
    if host.has("chronyc") {
        let output = host.run(Cmd::new(["chronyc", "-c", "tracking"])).await?;
        if output.success() {
            return tracking(context, &output.stdout)
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
    Ok(Clock { source: "systemd", synchronized, offset_ms: None, reference_age_s: None })
}

/// Field 4 is when the clock was last compared, 5 how far it is off, both in seconds, field 14 the leap status.
fn tracking(context: Context<'_>, line: &str) -> Option<Clock> {
    let fields: Vec<&str> = line.trim().split(',').collect();
    let [_, _, _, compared, offset, .., leap] = fields.as_slice() else { return None };
    let synchronized = match *leap {
        "Normal" | "Insert second" | "Delete second" => true,
        "Not synchronised" => false,
        _ => return None,
    };
    let compared: i64 = compared.split('.').next()?.parse().ok()?;
    let reference_age_s = (compared > 0).then(|| context.now.as_second().saturating_sub(compared));
    let offset_ms = milliseconds(offset)?;
    (fields.len() == 14).then_some(Clock { source: CHRONY, synchronized, offset_ms: Some(offset_ms), reference_age_s })
}

/// Each line is `mode,state,name,…`; usable are the one in use (`*`), those combined with it (`+`), and good ones left out
/// (`-`), not the unreachable (`?`), the wrong (`x`) and the too variable (`~`).
async fn sources(host: &Host) -> Result<Value, HostError> {
    let cmd = Cmd::new(["chronyc", "-c", "sources"]);
    let what = cmd.line();
    let output = host.run_ok(cmd).await?;
    let states: Option<Vec<&str>> = output.stdout.lines().map(|line| line.split(',').nth(1)).collect();
    let states = states.ok_or(HostError::Garbage { what, why: "a line is not a source".to_owned() })?;
    let usable = states.iter().filter(|state| matches!(**state, "*" | "+" | "-")).count();
    Ok(json!({"total": states.len(), "usable": usable}))
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
    use super::super::fixture::Tree;
    use super::super::planned::lines;
    use super::*;

    const ID: &str = "RB-LNX-TIME-001";

    fn machine(unit: &str, active: &str) -> Tree {
        let tree = SERVICES
            .iter()
            .fold(Tree::new().systemd(), |tree, service| tree.unit(service, "not-found", "inactive", "dead", ""));
        tree.unit(unit, "loaded", active, "x", "enabled")
    }

    const TWO: &str = "^,*,10.0.0.1,3,6,377,23,0.000000722,0.000000832,0.000003932\n\
        ^,+,10.0.0.2,3,6,377,23,0.000000722,0.000000832,0.000003932\n";

    fn chrony(offset: &str, leap: &str) -> Tree {
        compared(0, offset, leap)
    }

    /// The clock was last compared so many hours ago.
    fn compared(hours: i64, offset: &str, leap: &str) -> Tree {
        let at = 1_772_452_800 - hours * 3600;
        let line = format!(
            "A29FC801,162.159.200.1,4,{at}.123,{offset},0.000012,0.000034,-3.1,0.0,0.1,0.01,0.001,64.2,{leap}\n"
        );
        machine("chrony.service", "active").answer("chronyc -c tracking", &line).answer("chronyc -c sources", TWO)
    }

    #[test]
    fn offsets_and_states_of_chrony() {
        assert_eq!(chrony("-0.000123456", "Normal").judge(ID, &json!({})), ("pass", vec![]));
        assert_eq!(chrony("-2.5", "Normal").judge(ID, &json!({})), ("warn", vec!["clock_off".into()]));
        assert_eq!(chrony("0.0", "Not synchronised").judge(ID, &json!({})), ("fail", vec!["not_synchronized".into()]));
        assert_eq!(chrony("0.0", "What").judge(ID, &json!({})).0, "unknown");
        assert_eq!(chrony("x", "Normal").judge(ID, &json!({})).0, "unknown");
    }

    #[test]
    fn far_off_is_a_check_of_its_own_and_set_right_in_the_window() {
        const STEP: &str = "RB-LNX-TIME-002";
        assert_eq!(chrony("-2.5", "Normal").judge(STEP, &json!({})), ("pass", vec![]));
        let far = chrony("3600.0", "Normal");
        assert_eq!(far.judge(STEP, &json!({})), ("fail", vec!["clock_wrong".into()]));
        let plan = far.plan(STEP, &json!({})).unwrap();
        assert!(plan.disruptive);
        assert_eq!(lines(Ok(plan)), ["chronyc makestep"]);
        let blind = chrony("3600.0", "Not synchronised").plan(STEP, &json!({}));
        assert!(blind.is_err(), "nobody knows the right time: {blind:?}");
        let timesyncd = machine("systemd-timesyncd.service", "active")
            .answer("timedatectl show -p NTPSynchronized", "NTPSynchronized=yes\n");
        assert_eq!(timesyncd.judge(STEP, &json!({})), ("not_applicable", vec!["not_told".into()]));
        assert_eq!(Tree::new().judge(STEP, &json!({})).0, "unknown");
    }

    #[test]
    fn what_was_last_compared_long_ago_is_not_known_to_be_right() {
        assert_eq!(compared(2, "0.0", "Normal").judge(ID, &json!({})), ("pass", vec![]));
        assert_eq!(compared(4, "0.0", "Normal").judge(ID, &json!({})), ("warn", vec!["reference_old".into()]));
        assert_eq!(compared(30, "0.0", "Normal").judge(ID, &json!({})), ("fail", vec!["reference_lost".into()]));
        // As chronyd 4.3 says before it has heard from anybody.
        let never = machine("chrony.service", "active")
            .answer("chronyc -c tracking", "00000000,,0,0.000000000,0.000000000,0.000000000,0.000000000,0.000,0.000,0.000,1.000000000,1.000000000,0.0,Not synchronised\n")
            .answer("chronyc -c sources", "^,?,127.0.0.1,0,0,0,4294967295,0.000000000,0.000000000,0.000000000\n");
        assert_eq!(never.judge(ID, &json!({})), ("fail", vec!["not_synchronized".into(), "few_sources".into()]));
    }

    #[test]
    fn one_source_is_believed_whatever_it_says() {
        let with = |sources: &str| chrony("0.0", "Normal").answer("chronyc -c sources", sources);
        let one = "^,*,10.0.0.1,3,6,377,23,0,0,0\n^,x,10.0.0.2,3,6,377,23,0,0,0\n^,?,10.0.0.3,0,6,0,23,0,0,0\n";
        assert_eq!(with(one).judge(ID, &json!({})), ("warn", vec!["few_sources".into()]));
        assert_eq!(with(one).judge(ID, &json!({"min_sources": 1})), ("pass", vec![]));
        assert_eq!(with("what\n").judge(ID, &json!({})), ("unknown", vec!["few_sources".into()]));
    }

    #[test]
    fn the_service_that_runs_is_the_one_that_keeps_the_clock() {
        for name in ["ntp.service", "ntpsec.service", "openntpd.service"] {
            let tree =
                machine(name, "active").unit("systemd-timesyncd.service", "loaded", "inactive", "dead", "disabled");
            let tree = tree.answer("timedatectl show -p NTPSynchronized", "NTPSynchronized=yes\n");
            assert_eq!(tree.judge(ID, &json!({})), ("pass", vec![]), "{name}");
        }
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
