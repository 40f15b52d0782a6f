//! `malachor dev`: the agent role on this host with state in a directory of its own, changing nothing.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::app::{App, Clock, init_keys, keys_dir, keys_exist};
use crate::domain::finding::Posture;
use crate::domain::runbook::Runbook;
use crate::evidence::{Input, Options, Trust, verify};
use crate::heal::{self, CheckRun, Reach};
use crate::host::Host;

use super::check::print_finding;
use super::output::{Printer, Tint};
use super::session::{Session, block_on, observing};
use super::{Exit, Failure};

/// Check this host with state in ./malachor-dev, changing nothing on it.
///
/// State, keys and log go into a directory of their own. With `--once` it runs one cycle, else it stays on the clock.
/// Mode is observe: nothing on the host is changed. What would heal each incident is shown.
#[derive(Debug, Args)]
pub(super) struct Dev {
    /// One cycle, then stop
    #[arg(long)]
    once: bool,
    /// Where state goes
    #[arg(long, value_name = "DIR", default_value = "malachor-dev")]
    dir: PathBuf,
}

impl Dev {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let dir = std::path::absolute(&self.dir).map_err(|error| Failure::unavailable(&error))?;
        let loaded = observing(session.loaded()?, "dev")
            .with_flag("agent.state_dir", "--dir", |config| config.agent.state_dir.clone_from(&dir));
        let mut telemetry = loaded.config.telemetry.clone();
        if self.once && telemetry.level == crate::config::Level::Info {
            telemetry.level = crate::config::Level::Error;
        }
        crate::telemetry::init(&telemetry);
        if !keys_exist(&dir) {
            init_keys(&dir, &loaded.config.site, None)?;
        }
        write_config(&dir)?;
        block_on(async {
            let app = App::open(loaded, Host::live(), Clock::system())?;
            if self.once {
                cycle(&app, session.out).await?;
                return prove(&app, session.out);
            }
            session.out.note("on the clock, mode observe; stop with Ctrl-C");
            crate::agent::run(&app).await.map_err(|error| Failure::unavailable(&error))?;
            Ok(Exit::Ok)
        })
    }
}

/// A configuration for the other commands to work on this state.
fn write_config(dir: &std::path::Path) -> Result<(), Failure> {
    let path = dir.join("malachor.toml");
    if path.exists() {
        return Ok(());
    }
    let text = format!(
        "# Made by `malachor dev`.\nrole = \"agent\"\n\n[agent]\nstate_dir = {:?}\n\n[heal]\nmode = \"observe\"\n",
        dir.display().to_string()
    );
    std::fs::write(&path, text).map_err(|error| Failure::new(Exit::Unavailable, format!("{}: {error}", path.display())))
}

/// Every check once, with posture, incidents and their plans.
async fn cycle(app: &App, out: &Printer) -> Result<(), Failure> {
    app.ready().await?;
    heal::recover(app).await?;
    heal::schedule(app).await?;
    let mut runs: Vec<(&Runbook, CheckRun)> = Vec::new();
    if !out.is_json() {
        out.line(out.tint(Tint::Strong, "Checks"));
    }
    for runbook in app.checks() {
        let run = heal::run_check(app, runbook, Reach::Record).await?;
        if out.is_json() {
            out.json(&json!({"schema": "malachor.finding/1", "finding": run.known.finding, "hipaa": runbook.hipaa}));
        } else {
            print_finding(out, runbook, &run.known.finding);
        }
        runs.push((runbook, run));
    }
    heal::heartbeat(app).await?;
    let posture = heal::posture(app).await?;
    if out.is_json() {
        out.json(&json!({"schema": "malachor.posture/1", "posture": posture, "score": posture.score()}));
        return Ok(());
    }
    let Posture { pass, warn, fail, unknown, not_applicable, .. } = posture;
    let score = posture.score().map_or_else(|| "no data".to_owned(), |score| format!("{score} %"));
    out.line(format!(
        "\n{} {score}  ({pass} pass, {warn} warn, {fail} fail, {unknown} unknown, {not_applicable} not applicable)",
        out.tint(Tint::Strong, "Posture")
    ));
    incidents(app, out).await
}

/// What is open, and the plan that would heal it.
async fn incidents(app: &App, out: &Printer) -> Result<(), Failure> {
    let open = app.store.read(|tx| tx.incidents(false)).await?;
    out.line(format!("\n{}", out.tint(Tint::Strong, "Incidents")));
    if open.is_empty() {
        out.line("  none");
    }
    for incident in open {
        out.line(format!("  {} {} ({}): {}", incident.id, incident.check, incident.severity.word(), incident.note));
        match &incident.plan {
            None => out.line("      no plan: a person has to act"),
            Some(plan) => {
                out.line(format!("      would run {} by {}: {}", plan.runbook, plan.tier.word(), plan.reason));
                for step in &plan.steps {
                    out.line(format!("      ~ {}", step.line()));
                }
            }
        }
    }
    Ok(())
}

/// The log as anyone can check it, with the keys this appliance shows.
fn prove(app: &App, out: &Printer) -> Result<Exit, Failure> {
    let mut trust = Trust::default();
    trust.held_here();
    let (entry, head, _) = app.identity.public()?;
    for key in [entry, head] {
        trust.add_key(&key.to_string()).map_err(|error| Failure::unavailable(&error))?;
    }
    let report = verify(&Input::one(app.state_dir()), &trust, Options::default());
    if out.is_json() {
        out.json(&report.json());
    } else {
        out.line(format!("\n{}", out.tint(Tint::Strong, "Evidence")));
        out.raw(&report.text());
        let config = app.state_dir().join("malachor.toml");
        out.line(format!(
            "\nKeys {}\nMore  malachor --config {} incident list | heal --dry-run | evidence list",
            keys_dir(app.state_dir()).display(),
            config.display()
        ));
    }
    Ok(Exit::from_code(report.exit_code()))
}
