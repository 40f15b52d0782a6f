//! Guards: each may refuse a plan, make it wait, or ask a person. All are asked, in order, and every answer is shown.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::incident::backoff;
use super::mode::Mode;
use super::plan::Plan;
use super::tier::Tier;
use super::time::{show_duration, signed};
use super::window::WindowState;

/// The guards in the order they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardName {
    /// The switch that stops everything.
    KillSwitch,
    /// observe, approve, heal: the strictest wins.
    Mode,
    /// An exception that keeps healing away.
    Exception,
    /// The runbook allows this tier to choose it.
    Tier,
    /// The runbook is the one the plan was made from.
    Runbook,
    /// Conditions over the facts.
    Prerequisites,
    /// The clock can be trusted for windows and cooldowns.
    Clock,
    /// One execution per target and runbook; disruptive ones alone on their target.
    InFlight,
    /// It comes and goes.
    Flap,
    /// Attempts left.
    Attempts,
    /// Pause since the last attempt.
    Cooldown,
    /// Executions per hour on this appliance.
    BlastRadius,
    /// Disruptive work only in a maintenance window.
    Window,
    /// A named person's yes.
    Approval,
}

/// What a guard says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardVerdict {
    /// Go on.
    Pass,
    /// Not now; perhaps from this instant.
    Wait(Option<Timestamp>),
    /// A person has to say yes.
    Ask,
    /// Not at all.
    Refuse,
    /// Not by a machine any more: a person has to act.
    Escalate,
    /// Healing this stops: it comes and goes.
    Suppress,
}

impl GuardVerdict {
    /// The printed word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Wait(_) => "wait",
            Self::Ask => "ask",
            Self::Refuse => "refuse",
            Self::Escalate => "escalate",
            Self::Suppress => "suppress",
        }
    }
}

/// One guard's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardAnswer {
    /// Which guard.
    pub guard: GuardName,
    /// What it says.
    pub verdict: GuardVerdict,
    /// Why, in a sentence.
    pub say: String,
}

/// A yes or its absence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approved {
    /// Nobody was asked, or nobody answered yet.
    Pending,
    /// This person said yes to exactly this plan and these facts.
    By(String),
    /// This person asks for it although another one said no to what the machine had proposed.
    Overruling {
        /// Who asks.
        who: String,
        /// Who had said no.
        rejected_by: String,
    },
    /// This person said no.
    Rejected(String),
}

/// Everything the guards look at.
#[derive(Debug, Clone)]
pub struct GuardInput<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Now.
    pub now: Timestamp,
    /// The kill switch, with who threw it.
    pub kill_switch: Option<String>,
    /// The strictest mode in force.
    pub mode: Mode,
    /// The exception that keeps healing away, if any.
    pub exception: Option<String>,
    /// The tiers the runbook allows.
    pub tiers: &'a [Tier],
    /// Hash of the runbook as loaded.
    pub runbook_sha256: &'a str,
    /// Prerequisites that do not hold, or cannot be told, in words.
    pub unmet: Vec<String>,
    /// Why the clock cannot be trusted, if so.
    pub clock_trouble: Option<String>,
    /// Executions under way on this target: runbook and whether disruptive.
    pub in_flight: &'a [(String, bool)],
    /// When this finding turned from pass to fail.
    pub failed_at: &'a [Timestamp],
    /// Attempts made with this runbook hash.
    pub attempts: u32,
    /// Attempts until a person is asked.
    pub max_attempts: u32,
    /// Pause after an attempt.
    pub cooldown: Duration,
    /// When the last attempt ended.
    pub last_attempt_at: Option<Timestamp>,
    /// Executions in the last hour.
    pub executions_last_hour: u32,
    /// Limits of this site.
    pub limits: Limits,
    /// The maintenance window.
    pub window: WindowState,
    /// The approval.
    pub approved: Approved,
}

/// Limits of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Executions per hour.
    pub executions_per_hour: u32,
    /// pass → fail changes that count as flapping.
    pub flap_count: u32,
    /// Within this time.
    pub flap_within: SignedDuration,
}

/// What follows from all answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Run it.
    Go,
    /// Not now.
    Wait(Option<Timestamp>, String),
    /// Ask a person.
    Ask(String),
    /// Not at all by itself; the plan stays shown.
    Refuse(String),
    /// A person has to act.
    Escalate(String),
    /// Stop healing this; a person has to act.
    Suppress(String),
}

type Said = (GuardVerdict, String);

/// Asks every guard, in order.
pub fn ask(input: &GuardInput<'_>) -> Vec<GuardAnswer> {
    let asked: [(GuardName, Said); 14] = [
        (GuardName::KillSwitch, kill_switch(input)),
        (GuardName::Mode, mode(input)),
        (GuardName::Exception, exception(input)),
        (GuardName::Tier, tier(input)),
        (GuardName::Runbook, runbook(input)),
        (GuardName::Prerequisites, prerequisites(input)),
        (GuardName::Clock, clock(input)),
        (GuardName::InFlight, in_flight(input)),
        (GuardName::Flap, flap(input)),
        (GuardName::Attempts, attempts(input)),
        (GuardName::Cooldown, cooldown(input)),
        (GuardName::BlastRadius, blast_radius(input)),
        (GuardName::Window, window(input)),
        (GuardName::Approval, approval(input)),
    ];
    asked.into_iter().map(|(guard, (verdict, say))| GuardAnswer { guard, verdict, say }).collect()
}

/// What follows: the gravest answer, the first of its kind. Suppress > escalate > refuse > wait > ask > go.
///
/// A person is asked before the maintenance window opens, not in the middle of the night: asking goes before waiting
/// where the window is all there is to wait for.
pub fn decide(answers: &[GuardAnswer]) -> Decision {
    let first = |wanted: fn(&GuardVerdict) -> bool| answers.iter().find(|answer| wanted(&answer.verdict));
    if let Some(answer) = first(|verdict| matches!(verdict, GuardVerdict::Refuse)) {
        // A switch, a mode or an exception says "hands off": then nothing else is decided either.
        if matches!(answer.guard, GuardName::KillSwitch | GuardName::Mode | GuardName::Exception) {
            return Decision::Refuse(answer.say.clone());
        }
    }
    if let Some(answer) = first(|verdict| matches!(verdict, GuardVerdict::Suppress)) {
        return Decision::Suppress(answer.say.clone());
    }
    if let Some(answer) = first(|verdict| matches!(verdict, GuardVerdict::Escalate)) {
        return Decision::Escalate(answer.say.clone());
    }
    if let Some(answer) = first(|verdict| matches!(verdict, GuardVerdict::Refuse)) {
        return Decision::Refuse(answer.say.clone());
    }
    let waits: Vec<_> = answers
        .iter()
        .filter_map(|answer| match &answer.verdict {
            GuardVerdict::Wait(until) => Some((*until, &answer.say)),
            GuardVerdict::Pass
            | GuardVerdict::Ask
            | GuardVerdict::Refuse
            | GuardVerdict::Escalate
            | GuardVerdict::Suppress => None,
        })
        .collect();
    let question = first(|verdict| matches!(verdict, GuardVerdict::Ask));
    let only_window = answers
        .iter()
        .all(|answer| answer.guard == GuardName::Window || !matches!(answer.verdict, GuardVerdict::Wait(_)));
    if let (Some((_, say)), false) = (waits.first(), question.is_some() && only_window) {
        let until = waits
            .iter()
            .map(|(until, _)| *until)
            .try_fold(None, |latest: Option<Timestamp>, until| until.map(|until| latest.max(Some(until))));
        return Decision::Wait(until.flatten(), (*say).clone());
    }
    match question {
        Some(answer) => Decision::Ask(answer.say.clone()),
        None => Decision::Go,
    }
}

fn pass(say: impl Into<String>) -> Said {
    (GuardVerdict::Pass, say.into())
}

fn kill_switch(input: &GuardInput<'_>) -> Said {
    match &input.kill_switch {
        Some(who) => (GuardVerdict::Refuse, format!("the kill switch is on (thrown by {who})")),
        None => pass("the kill switch is off"),
    }
}

fn mode(input: &GuardInput<'_>) -> Said {
    match input.mode {
        Mode::Observe => (GuardVerdict::Refuse, "mode is observe: nothing is changed".to_owned()),
        Mode::Approve => pass("mode is approve: a named person decides"),
        Mode::Heal => pass("mode is heal"),
    }
}

fn exception(input: &GuardInput<'_>) -> Said {
    match &input.exception {
        Some(exception) => (GuardVerdict::Refuse, format!("exception {exception} keeps healing away")),
        None => pass("no exception"),
    }
}

fn tier(input: &GuardInput<'_>) -> Said {
    let tier = input.plan.tier;
    if input.tiers.contains(&tier) {
        pass(format!("{} may choose this runbook", tier.word()))
    } else {
        (GuardVerdict::Escalate, format!("{} may not choose this runbook", tier.word()))
    }
}

fn runbook(input: &GuardInput<'_>) -> Said {
    if input.plan.runbook_sha256 == input.runbook_sha256 {
        pass("the runbook is the one the plan was made from")
    } else {
        (GuardVerdict::Refuse, "the runbook changed after the plan was made".to_owned())
    }
}

fn prerequisites(input: &GuardInput<'_>) -> Said {
    match input.unmet.first() {
        Some(first) => (GuardVerdict::Escalate, format!("cannot be healed here: {first}")),
        None => pass("all prerequisites hold"),
    }
}

fn clock(input: &GuardInput<'_>) -> Said {
    match &input.clock_trouble {
        Some(why) if input.plan.disruptive => {
            (GuardVerdict::Wait(None), format!("no disruptive work while the clock is wrong: {why}"))
        }
        Some(why) => pass(format!("the clock is wrong ({why}), but this is not disruptive")),
        None => pass("the clock moves forward"),
    }
}

fn in_flight(input: &GuardInput<'_>) -> Said {
    let same = input.in_flight.iter().any(|(runbook, _)| *runbook == input.plan.runbook.as_str());
    let disruptive = input.in_flight.iter().any(|(_, disruptive)| *disruptive);
    if same {
        (GuardVerdict::Wait(None), "this runbook is already running on this target".to_owned())
    } else if disruptive || (input.plan.disruptive && !input.in_flight.is_empty()) {
        (GuardVerdict::Wait(None), "disruptive work runs alone on its target".to_owned())
    } else {
        pass("nothing else is running that matters")
    }
}

fn flap(input: &GuardInput<'_>) -> Said {
    let Limits { flap_count, flap_within, .. } = input.limits;
    let hours = flap_within.as_hours();
    if super::incident::is_flapping(input.failed_at, flap_count, flap_within, input.now) {
        (GuardVerdict::Suppress, format!("it comes and goes: failed {flap_count} times or more within {hours} h"))
    } else {
        pass(format!("not flapping (fewer than {flap_count} failures within {hours} h)"))
    }
}

fn attempts(input: &GuardInput<'_>) -> Said {
    if input.attempts >= input.max_attempts {
        (GuardVerdict::Escalate, format!("{} of {} attempts did not help", input.attempts, input.max_attempts))
    } else {
        pass(format!("attempt {} of {}", input.attempts + 1, input.max_attempts))
    }
}

fn cooldown(input: &GuardInput<'_>) -> Said {
    let (Some(last), true) = (input.last_attempt_at, input.attempts > 0) else {
        return pass("no attempt before");
    };
    if input.cooldown.is_zero() {
        return pass("a person does not wait");
    }
    if input.now < last {
        // Nobody can tell how long ago it was; the attempts are counted all the same.
        return pass("the last attempt lies in the future: the clock went back");
    }
    let pause = backoff(input.cooldown, input.attempts);
    let until = last.checked_add(signed(pause)).unwrap_or(Timestamp::MAX);
    if input.now < until {
        (GuardVerdict::Wait(Some(until)), format!("pausing {} after attempt {}", show_duration(pause), input.attempts))
    } else {
        pass(format!("{} since the last attempt", show_duration(pause)))
    }
}

fn blast_radius(input: &GuardInput<'_>) -> Said {
    let (done, limit) = (input.executions_last_hour, input.limits.executions_per_hour);
    if done >= limit {
        (GuardVerdict::Wait(None), format!("{done} executions within the last hour; the limit is {limit}"))
    } else {
        pass(format!("{done} of {limit} executions within the last hour"))
    }
}

fn window(input: &GuardInput<'_>) -> Said {
    if !input.plan.disruptive {
        return pass("not disruptive, needs no window");
    }
    match input.window {
        WindowState::OpenUntil(until) => pass(format!("the maintenance window is open until {until}")),
        WindowState::ClosedUntil(from) => {
            (GuardVerdict::Wait(Some(from)), format!("disruptive: waits for the maintenance window at {from}"))
        }
        // No window will ever open, so a person's yes stands in for it.
        WindowState::Never => match &input.approved {
            Approved::By(who) | Approved::Overruling { who, .. } => {
                pass(format!("no maintenance window is configured; {who} said now"))
            }
            Approved::Pending | Approved::Rejected(_) => {
                (GuardVerdict::Ask, "disruptive, and no maintenance window is configured".to_owned())
            }
        },
    }
}

fn approval(input: &GuardInput<'_>) -> Said {
    let needed = input.plan.approval
        || input.mode == Mode::Approve
        || matches!((input.plan.disruptive, input.window), (true, WindowState::Never));
    match (&input.approved, needed) {
        (Approved::By(who), _) => pass(format!("approved by {who}")),
        (Approved::Overruling { who, rejected_by }, _) => {
            pass(format!("{who} asks for it; {rejected_by} said no to an earlier plan"))
        }
        (Approved::Rejected(who), _) => (GuardVerdict::Escalate, format!("rejected by {who}")),
        (Approved::Pending, true) => (GuardVerdict::Ask, "needs a named person's yes".to_owned()),
        (Approved::Pending, false) => pass("needs no approval"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::plan::Origin;
    use proptest::prelude::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_767_225_600).unwrap()
    }

    fn plan(disruptive: bool, approval: bool) -> Plan {
        Plan {
            version: 1,
            incident: "INC-0011223344556677".parse().unwrap(),
            target: super::super::id::Target::host(),
            runbook: "RB-DISK-001".parse().unwrap(),
            runbook_sha256: "aa".into(),
            tier: Tier::L1,
            origin: Origin::Rule("L1-DISK-CLEAN".parse().unwrap()),
            reason: String::new(),
            params: serde_json::Map::new(),
            disruptive,
            approval,
            steps: Vec::new(),
            rollback: Vec::new(),
            drift: "00112233445566778899aabbccddeeff".parse().unwrap(),
        }
    }

    fn input(plan: &Plan) -> GuardInput<'_> {
        GuardInput {
            plan,
            now: now(),
            kill_switch: None,
            mode: Mode::Heal,
            exception: None,
            tiers: &[Tier::L1, Tier::L3],
            runbook_sha256: "aa",
            unmet: Vec::new(),
            clock_trouble: None,
            in_flight: &[],
            failed_at: &[],
            attempts: 0,
            max_attempts: 3,
            cooldown: Duration::from_mins(10),
            last_attempt_at: None,
            executions_last_hour: 0,
            limits: Limits { executions_per_hour: 10, flap_count: 3, flap_within: SignedDuration::from_hours(24) },
            window: WindowState::Never,
            approved: Approved::Pending,
        }
    }

    fn decision(change: impl FnOnce(&mut GuardInput<'_>)) -> Decision {
        let plan = plan(false, false);
        let mut input = input(&plan);
        change(&mut input);
        decide(&ask(&input))
    }

    #[test]
    fn each_guard_can_stop_a_plan() {
        assert_eq!(decision(|_| {}), Decision::Go);
        assert!(matches!(decision(|i| i.kill_switch = Some("m.ortiz".into())), Decision::Refuse(_)));
        assert!(matches!(decision(|i| i.mode = Mode::Observe), Decision::Refuse(_)));
        assert!(matches!(decision(|i| i.mode = Mode::Approve), Decision::Ask(_)));
        assert!(matches!(decision(|i| i.exception = Some("EXC-1".into())), Decision::Refuse(_)));
        assert!(matches!(decision(|i| i.tiers = &[Tier::L3]), Decision::Escalate(_)));
        assert!(matches!(decision(|i| i.runbook_sha256 = "bb"), Decision::Refuse(_)));
        assert!(matches!(decision(|i| i.unmet = vec!["no baseline".into()]), Decision::Escalate(_)));
        assert!(matches!(decision(|i| i.failed_at = &[Timestamp::MIN]), Decision::Go));
        assert!(matches!(decision(|i| i.attempts = 3), Decision::Escalate(_)));
        assert!(matches!(decision(|i| i.executions_last_hour = 10), Decision::Wait(None, _)));
        assert!(matches!(decision(|i| i.approved = Approved::Rejected("x".into())), Decision::Escalate(_)));
    }

    #[test]
    fn a_disruptive_plan_waits_for_its_window_or_a_person() {
        let plan = plan(true, false);
        let from = now() + SignedDuration::from_hours(3);
        let with = |window, approved| decide(&ask(&GuardInput { window, approved, ..input(&plan) }));
        assert!(
            matches!(with(WindowState::ClosedUntil(from), Approved::Pending), Decision::Wait(Some(until), _) if until == from)
        );
        assert_eq!(with(WindowState::OpenUntil(from), Approved::Pending), Decision::Go);
        assert!(matches!(with(WindowState::Never, Approved::Pending), Decision::Ask(_)));
        assert_eq!(with(WindowState::Never, Approved::By("m.ortiz".into())), Decision::Go, "nothing else can open it");
    }

    #[test]
    fn a_person_is_asked_before_the_window_opens_and_it_is_waited_for_after_the_yes() {
        let plan = plan(true, true);
        let from = now() + SignedDuration::from_hours(30);
        let with = |approved, attempts| {
            let window = WindowState::ClosedUntil(from);
            decide(&ask(&GuardInput { window, approved, attempts, last_attempt_at: Some(now()), ..input(&plan) }))
        };
        assert!(matches!(with(Approved::Pending, 0), Decision::Ask(_)));
        assert!(matches!(with(Approved::By("m.ortiz".into()), 0), Decision::Wait(Some(until), _) if until == from));
        assert!(matches!(with(Approved::Pending, 1), Decision::Wait(..)), "nobody is asked during a pause");
    }

    #[test]
    fn three_failures_suppress_and_hands_off_beats_everything() {
        let failed = [now(), now(), now()];
        let plan = plan(false, false);
        let flapping = GuardInput { failed_at: &failed, ..input(&plan) };
        assert!(matches!(decide(&ask(&flapping)), Decision::Suppress(_)));
        let switched = GuardInput { kill_switch: Some("x".into()), ..flapping };
        assert!(matches!(decide(&ask(&switched)), Decision::Refuse(_)));
    }

    proptest! {
        /// Whatever else is true: never in observe mode, never with the switch on, never without a needed yes,
        /// never disruptive outside a window without one.
        #[test]
        fn go_only_when_nothing_speaks_against_it(
            kill in any::<bool>(), mode in proptest::sample::select(vec![Mode::Observe, Mode::Approve, Mode::Heal]),
            disruptive in any::<bool>(), needs in any::<bool>(), approved in any::<bool>(), opens in 0u8..3,
            attempts in 0u32..5, executions in 0u32..20, ago in 0i64..10_000,
        ) {
            let plan = plan(disruptive, needs);
            let window = match opens {
                0 => WindowState::Never,
                1 => WindowState::OpenUntil(Timestamp::MAX),
                _ => WindowState::ClosedUntil(Timestamp::MAX),
            };
            let input = GuardInput {
                kill_switch: kill.then(|| "x".to_owned()), mode, attempts, executions_last_hour: executions, window,
                approved: if approved { Approved::By("a".into()) } else { Approved::Pending },
                last_attempt_at: Some(now() - SignedDuration::from_secs(ago)),
                ..input(&plan)
            };
            let answers = ask(&input);
            prop_assert_eq!(answers.len(), 14);
            if decide(&answers) == Decision::Go {
                prop_assert!(answers.iter().all(|answer| answer.verdict == GuardVerdict::Pass));
                prop_assert!(!kill && mode != Mode::Observe && attempts < 3 && executions < 10);
                prop_assert!(!disruptive || opens == 1 || (opens == 0 && approved));
                prop_assert!(approved || (!needs && mode == Mode::Heal));
                prop_assert!(attempts == 0 || ago >= i64::try_from(backoff(input.cooldown, attempts).as_secs()).unwrap());
            }
            // A yes is never in vain: what asks without it never asks with it.
            let yes = decide(&ask(&GuardInput { approved: Approved::By("a".into()), ..input }));
            prop_assert!(!matches!(yes, Decision::Ask(_)), "{:?}", yes);
        }
    }
}
