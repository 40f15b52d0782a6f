//! `malachor heal`: the plan, or the plan carried out.

use clap::Args;
use serde_json::json;

use crate::app::App;
use crate::domain::finding::Verdict;
use crate::domain::guard::{Decision, GuardVerdict};
use crate::domain::id::{CheckId, Target};
use crate::domain::plan::{Plan, PlannedAction};
use crate::domain::runbook::Runbook;
use crate::heal::{self, CheckRun, Outcome, Proposal};
use crate::host::Host;

use super::check::select;
use super::output::{Printer, Tint, fold};
use super::session::Session;
use super::{Exit, Failure};

/// Plan or run remediations.
///
/// `--dry-run` looks at the host, shows what would be done if you applied it, every guard's answer and the exact steps,
/// what the agent would do by itself, and changes nothing: exit 0 nothing to do, 1 something fails, 3 something is
/// unknown. `--apply` runs the same plan, verifies it with the same check, undoes it if it did not help, and records
/// everything: exit 0 healed or nothing to do, 1 it did not help, 3 a guard said no, there is no plan, or something is
/// unknown.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub(super) struct Heal {
    /// Show the plan; change nothing
    #[arg(short = 'n', long, group = "what")]
    dry_run: bool,
    /// Carry the plan out, as the named person
    #[arg(long, group = "what")]
    apply: bool,
    /// Only this check
    #[arg(long, value_name = "ID")]
    check: Vec<CheckId>,
    /// Only this target
    #[arg(long, value_name = "NAME")]
    target: Option<Target>,
    /// Who decides [default: the user behind sudo]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Whose plan `--dry-run` shows where nobody is named.
const SOMEBODY: &str = "whoever applies it";

/// Whether a plan was only shown, or tried, and what came of it.
#[derive(Clone, Copy)]
enum Done<'a> {
    PlanOnly,
    /// `None` where a guard kept it from starting.
    Tried(Option<&'a Outcome>),
}

impl Done<'_> {
    fn word(self) -> Option<&'static str> {
        match self {
            Self::PlanOnly | Self::Tried(None) => None,
            Self::Tried(Some(outcome)) => Some(outcome.word()),
        }
    }
}

/// What all checks together came to.
#[derive(Default)]
struct Tally {
    plans: u32,
    destructive: u32,
    unknown: u32,
    unplanned: u32,
    healed: u32,
    unhelped: u32,
    refused: u32,
}

impl Heal {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        if let Some(target) = self.target.as_ref().filter(|target| **target != Target::host()) {
            return Err(Failure::new(
                Exit::Usage,
                format!("no target is called `{target}`; this appliance knows `host`"),
            ));
        }
        session
            .block_on(async { if self.apply { self.carry_out(session).await } else { self.plan_only(session).await } })
    }

    async fn plan_only(&self, session: &Session<'_>) -> Result<Exit, Failure> {
        let scratch = session.scratch()?;
        scratch.ready().await?;
        let app = &scratch.app;
        let who = session.who(self.by.as_deref()).unwrap_or_else(|_| SOMEBODY.to_owned());
        let mut tally = Tally::default();
        for runbook in select(app.checks(), &self.check)? {
            let run = heal::run_confirmed(app, runbook).await?;
            tally.unknown += u32::from(run.known.finding.verdict == Verdict::Unknown);
            let Some(proposal) = heal::propose_to(app, &run, &who, &serde_json::Map::new()).await? else { continue };
            tally.count(&proposal);
            let alone = alone(app, &run).await?;
            show(session.out, &app.host, (runbook, &run), (&proposal, alone.as_ref()), Done::PlanOnly);
        }
        if !session.out.is_json() {
            let Tally { plans, destructive, unknown, unplanned, .. } = tally;
            session.out.line(format!(
                "Plan: {plans} to run, {destructive} disruptive; {unplanned} failing without a plan, {unknown} unknown. \
                 Nothing was changed."
            ));
        }
        Ok(match tally {
            Tally { plans: 1.., .. } | Tally { unplanned: 1.., .. } => Exit::Found,
            Tally { unknown: 1.., .. } => Exit::NotEnough,
            Tally { .. } => Exit::Ok,
        })
    }

    async fn carry_out(&self, session: &Session<'_>) -> Result<Exit, Failure> {
        let who = session.who(self.by.as_deref())?;
        let app = session.app()?;
        app.ready().await?;
        heal::recover(&app).await?;
        let mut tally = Tally::default();
        for runbook in select(app.checks(), &self.check)? {
            let run = heal::run_confirmed(&app, runbook).await?;
            tally.unknown += u32::from(run.known.finding.verdict == Verdict::Unknown);
            let Some(proposal) = heal::propose_to(&app, &run, &who, &serde_json::Map::new()).await? else { continue };
            let outcome = heal::apply(&app, &run, &proposal).await?;
            match &outcome {
                Some(outcome) if outcome.helped() => tally.healed += 1,
                Some(Outcome::NotStarted(_)) | None => tally.refused += 1,
                Some(_) => tally.unhelped += 1,
            }
            show(session.out, &app.host, (runbook, &run), (&proposal, None), Done::Tried(outcome.as_ref()));
        }
        if !session.out.is_json() {
            let Tally { healed, unhelped, refused, unknown, .. } = tally;
            session.out.line(format!(
                "Applied: {healed} healed, {unhelped} did not help, {refused} not run; {unknown} unknown."
            ));
        }
        Ok(match tally {
            Tally { unhelped: 1.., .. } => Exit::Found,
            Tally { refused: 1.., .. } | Tally { unknown: 1.., .. } => Exit::NotEnough,
            Tally { .. } => Exit::Ok,
        })
    }
}

impl Tally {
    fn count(&mut self, proposal: &Proposal) {
        match &proposal.plan {
            Ok(plan) => {
                self.plans += 1;
                self.destructive += u32::from(plan.disruptive);
            }
            Err(_) => self.unplanned += 1,
        }
    }
}

/// What the agent would do by itself; for an incident that already waits for a person it is worked out again.
async fn alone(app: &App, run: &CheckRun) -> Result<Option<Proposal>, Failure> {
    if let Some(proposal) = &run.proposal {
        return Ok(Some(proposal.clone()));
    }
    let (app_, finding, now) = (app.clone(), run.known.finding.clone(), app.clock.now());
    let proposal = app.store.read(move |tx| {
        let Some(incident) = tx.open_incident(&finding.check, &finding.target)? else { return Ok(None) };
        heal::propose(&app_, tx, &incident, &finding, now).map(Some)
    });
    Ok(proposal.await?)
}

fn show(
    out: &Printer,
    host: &Host,
    (runbook, run): (&Runbook, &CheckRun),
    (proposal, alone): (&Proposal, Option<&Proposal>),
    done: Done<'_>,
) {
    if out.is_json() {
        let plan = proposal.plan.as_ref().ok();
        let why_no_plan = proposal.plan.as_ref().err();
        out.json(&json!({
            "schema": "malachor.plan/1", "check": run.known.finding.check, "verdict": run.known.finding.verdict,
            "reasons": run.known.finding.reasons, "plan": plan, "noPlan": why_no_plan, "guards": proposal.answers,
            "decision": decision_word(&proposal.decision), "outcome": done.word(),
            "alone": alone.map(|alone| json!({"decision": decision_word(&alone.decision), "say": decision_say(&alone.decision)})),
        }));
        return;
    }
    super::check::print_finding(out, runbook, &run.known.finding);
    match &proposal.plan {
        Err(why) => out.line(format!("    no plan: {why}")),
        Ok(plan) => show_plan(out, host, plan, proposal),
    }
    if let Some(alone) = alone {
        out.line(format!("    → the agent by itself: {}", decision_say(&alone.decision)));
    }
    match done {
        Done::PlanOnly => {}
        Done::Tried(None) => out.line(format!("  = not run: {}", decision_say(&proposal.decision))),
        Done::Tried(Some(outcome)) => out.line(format!("  = {}", outcome_say(outcome))),
    }
    out.line("");
}

fn show_plan(out: &Printer, host: &Host, plan: &Plan, proposal: &Proposal) {
    let kind = if plan.disruptive { ", disruptive" } else { "" };
    out.line(format!("    {} by {} for {}{kind}: {}", plan.runbook, plan.tier.word(), plan.target, plan.reason));
    for answer in &proposal.answers {
        let (symbol, tint) = match answer.verdict {
            GuardVerdict::Pass => ("✔", Tint::Good),
            GuardVerdict::Wait(_) | GuardVerdict::Ask => ("…", Tint::Doubt),
            GuardVerdict::Refuse | GuardVerdict::Escalate | GuardVerdict::Suppress => ("✖", Tint::Bad),
        };
        let guard = serde_json::to_value(answer.guard)
            .ok()
            .and_then(|name| name.as_str().map(str::to_owned))
            .unwrap_or_default();
        out.line(format!(
            "      {} {guard:<13} {}",
            out.tint(tint, symbol),
            fold(&answer.say, 80, "                      ")
        ));
    }
    for step in &plan.steps {
        let sign = if plan.approval { "!" } else { "~" };
        out.line(format!("    {} {}", out.tint(Tint::Strong, sign), step.line()));
        if let PlannedAction::File { path, content, .. } = &step.action
            && let Some(diff) = heal::file_diff(host, path, content)
        {
            for line in diff.lines() {
                out.line(format!("        {line}"));
            }
        }
    }
    out.line("    ✓ then the check runs again");
    for step in &plan.rollback {
        out.line(format!("    {} if it does not help: {}", out.tint(Tint::Faint, "↺"), step.line()));
    }
    out.line(format!("    → applied by a person: {}", decision_say(&proposal.decision)));
}

fn decision_word(decision: &Decision) -> &'static str {
    match decision {
        Decision::Go => "go",
        Decision::Wait(..) => "wait",
        Decision::Ask(_) => "ask",
        Decision::Refuse(_) => "refuse",
        Decision::Escalate(_) => "escalate",
        Decision::Suppress(_) => "suppress",
    }
}

fn decision_say(decision: &Decision) -> String {
    match decision {
        Decision::Go => "would run now".to_owned(),
        Decision::Wait(Some(until), why) => format!("waits until {until}: {why}"),
        Decision::Wait(None, why) => format!("waits: {why}"),
        Decision::Ask(why) => format!("asks a person: {why}"),
        Decision::Refuse(why) => format!("does not run: {why}"),
        Decision::Escalate(why) => format!("goes to a person: {why}"),
        Decision::Suppress(why) => format!("stops, goes to a person: {why}"),
    }
}

fn outcome_say(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Repaired => "healed: the check passes again".to_owned(),
        Outcome::Kept => "the check passes; nothing had to be changed".to_owned(),
        Outcome::Undone(why) => format!("undone: {why}"),
        Outcome::Failed(why) => format!("failed: {why}"),
        Outcome::NotStarted(why) => format!("not run: {why}"),
    }
}
