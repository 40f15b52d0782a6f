//! `malachor dev`: server and appliance on this host with state in a directory of their own, changing nothing.

mod server;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::agent::Ended;
use crate::app::{App, Clock, enrolled, init_keys, keys_dir, keys_exist};
use crate::config::Loaded;
use crate::domain::finding::Posture;
use crate::domain::runbook::Runbook;
use crate::evidence::{Input, Options, Trust, verify};
use crate::heal::{self, CheckRun, Reach};
use crate::host::Host;
use crate::uplink::Known;

use super::check::print_finding;
use super::output::{Printer, Tint};
use super::session::{Session, block_on, observing};
use super::{Exit, Failure};

/// Check this host, with a server of its own, changing nothing on it.
///
/// A server and an appliance in one process on loopback, enrolled with each other; state, keys, logs and evidence go into a
/// directory of their own. With `--once` it runs one cycle, else it stays on the clock. Mode is observe: nothing on the host
/// is changed. What would heal each incident is shown.
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
        let loaded = here(session, &dir)?;
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
            let server = server::start(&loaded, &dir).await?;
            let mut app = App::open(loaded, Host::live(), Clock::system())?;
            server.know(&app).await?;
            cycle(&app, session.out).await?;
            hand_over(&app, session.out).await?;
            if self.once {
                return prove(&app, session.out);
            }
            session.out.note(server.hint());
            session.out.note("on the clock, mode observe; stop with Ctrl-C");
            while crate::agent::run(&app).await.map_err(|error| Failure::unavailable(&error))? == Ended::Reload {
                drop(app);
                app = App::open(here(session, &dir)?, Host::live(), Clock::system())?;
            }
            server.stop().await;
            Ok(Exit::Ok)
        })
    }
}

/// The configuration with state in the directory.
fn here(session: &Session<'_>, dir: &Path) -> Result<Loaded, Failure> {
    let place = |loaded: Loaded| {
        let dir = dir.to_owned();
        loaded.with_flag("agent.state_dir", "--dir", |config| config.agent.state_dir = dir)
    };
    let mut loaded = session.loaded()?;
    // What the server gave lies in that directory and not where the configuration says.
    match enrolled::config(dir) {
        Ok(Some(text)) => loaded = loaded.over(&text)?,
        Ok(None) => {}
        Err(why) => session.out.note(format!("the server's configuration is left out: {why}")),
    }
    Ok(place(observing(loaded, "dev")))
}

/// A configuration for the other commands to work on this state.
fn write_config(dir: &Path) -> Result<(), Failure> {
    let path = dir.join("malachor.toml");
    if path.exists() {
        return Ok(());
    }
    let text = format!(
        "# Made by `malachor dev`.\nrole = \"agent\"\n\n[agent]\nstate_dir = {:?}\n\n[heal]\nmode = \"observe\"\n\n\
         [server]\nstate_dir = {:?}\n",
        dir.display().to_string(),
        dir.join("fleet").display().to_string()
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

/// Hands the evidence over, and says what the server holds.
async fn hand_over(app: &App, out: &Printer) -> Result<(), Failure> {
    let known = crate::uplink::once(app).await.map_err(|error| Failure::unavailable(&error))?;
    let size = app.store.read(|tx| tx.log_size()).await?;
    let Known { url, site, appliance, held } = known;
    if out.is_json() {
        out.json(&json!({
            "schema": "malachor.known/1", "url": url, "site": site, "appliance": appliance, "held": held, "log_size": size,
        }));
        return Ok(());
    }
    out.line(format!("\n{}", out.tint(Tint::Strong, "Server")));
    out.line(format!("  {url} knows {site}/{appliance}, and holds {held} of {size} entries: verified, kept, cosigned"));
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
