//! Carries out what the schedule says, one task per check, until it is told to stop.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::app::{App, AppError, chance};
use crate::domain::id::CheckId;
use crate::domain::incident::IncidentState;
use crate::heal::{self, HealError, Reach};
use crate::host::{FileLock, HostError};
use crate::telemetry::metrics::METRICS;
use crate::uplink;

use super::core::{Core, Due};
use super::http;

/// How long running work may take to end after the first signal.
const GRACE: Duration = Duration::from_mins(1);
/// How often the agent makes sure that it lives, at least.
const PULSE: Duration = Duration::from_secs(10);
/// How soon a check runs again while its incident waits for a window, a pause or another attempt, or is recovered.
const WAITING: Duration = Duration::from_mins(5);
/// How soon a check runs again for a fresh yes: whatever becomes of it, not in a loop.
const GRANTED: Duration = Duration::from_secs(15);

/// Why the agent could not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Another agent holds the state directory.
    #[error("{0}: another agent is running on this state directory")]
    Taken(String),
    /// The state directory cannot be locked.
    #[error(transparent)]
    Lock(#[from] HostError),
    /// A capability failed at start.
    #[error(transparent)]
    App(#[from] AppError),
    /// The pipeline failed at start.
    #[error(transparent)]
    Heal(#[from] HealError),
    /// Signals or the metrics address cannot be had.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Why the agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// Its server gave it content or configuration: it is to be started again with them.
    Reload,
}

/// Runs the agent until SIGTERM or SIGINT, or until its server gave it something new; a second signal ends it at once.
pub async fn run(app: &App) -> Result<Ended, AgentError> {
    let taken = || AgentError::Taken(app.state_dir().display().to_string());
    let _lock = FileLock::take(&app.state_dir().join("agent.lock"))?.ok_or_else(taken)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    app.ready().await?;
    heal::schedule(app).await?;
    heal::retire(app).await?;
    let server = app.config().telemetry.metrics.map(http::serve);
    tracing::info!(checks = app.checks().count(), mode = app.config().heal.mode.word(), "the agent is ready");
    notify(&[NotifyState::Ready, NotifyState::Status("checking")]);
    let mut tasks: JoinSet<(Option<CheckId>, Result<(), HealError>)> = JoinSet::new();
    // Verifying what was interrupted may take minutes; nothing waits for it but its own check.
    let interrupted = app.clone();
    tasks.spawn(async move { (None, heal::recover(&interrupted).await.map(drop)) });
    let checks = app.checks().map(|runbook| (runbook.id.clone(), app.every(runbook)));
    let (stop, stopping) = watch::channel(false);
    let mut conversation = tokio::spawn(uplink::run(app.clone(), stopping));
    let mut talking = true;
    let mut ended = Ended::Stopped;
    let mut core = Core::new(checks, app.config().agent.heartbeat.0, app.config().agent.jitter_percent);
    let start = Instant::now();
    loop {
        for due in core.poll(start.elapsed(), chance) {
            spawn(app, &mut tasks, due);
        }
        let wake = (start + core.next()).min(Instant::now() + PULSE);
        tokio::select! {
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => settle(&mut core, ended),
            () = tokio::time::sleep_until(wake) => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            heard = &mut conversation, if talking => {
                talking = false;
                match heard {
                    Ok(true) => {
                        ended = Ended::Reload;
                        break;
                    }
                    Ok(false) => {}
                    Err(_) => tracing::error!("speaking with the server ended in a defect; it begins again with the agent"),
                }
            }
        }
        for (check, pause) in pulse(app).await {
            core.hasten(&check, pause);
        }
    }
    if ended == Ended::Stopped {
        notify(&[NotifyState::Stopping]);
    }
    tracing::info!(running = tasks.len(), "stopping: what runs is brought to its end");
    stop.send(true).ok();
    let finish = async {
        while tasks.join_next().await.is_some() {}
        if talking && conversation.await.is_err() {
            tracing::error!("speaking with the server ended in a defect");
        }
    };
    tokio::select! {
        () = finish => tracing::info!("stopped"),
        () = tokio::time::sleep(GRACE) => tracing::warn!("stopped with work unfinished; it is verified at the next start"),
        _ = terminate.recv() => tracing::warn!("stopped at once; what ran is verified at the next start"),
        _ = interrupt.recv() => tracing::warn!("stopped at once; what ran is verified at the next start"),
    }
    drop(server);
    Ok(ended)
}

fn spawn(app: &App, tasks: &mut JoinSet<(Option<CheckId>, Result<(), HealError>)>, due: Due) {
    let app = app.clone();
    tasks.spawn(async move {
        match due {
            Due::Heartbeat => {
                let noticed = heal::people::notices(&app).await;
                (None, noticed.and(heal::heartbeat(&app).await))
            }
            Due::Check(id) => {
                let result = match app.catalog.runbooks.get(&id) {
                    Some(_) => apart(app, id.clone()).await,
                    None => Ok(()),
                };
                (Some(id), result)
            }
        }
    });
}

/// Runs a check on a thread of its own: what blocks in it, such as a dead network file system, blocks nothing else.
async fn apart(app: App, id: CheckId) -> Result<(), HealError> {
    let runtime = tokio::runtime::Handle::current();
    let run = move || {
        let Some(runbook) = app.catalog.runbooks.get(&id) else { return Ok(()) };
        runtime.block_on(heal::run_check(&app, runbook, Reach::Heal)).map(drop)
    };
    match tokio::task::spawn_blocking(run).await {
        Ok(result) => result,
        // The check runs again at its next turn: a defect in one run is not the end of all of them.
        Err(error) if error.is_panic() => Err(HealError::Defect),
        // The runtime is going away; what ran is verified at the next start.
        Err(_) => Ok(()),
    }
}

fn settle(core: &mut Core, ended: Result<(Option<CheckId>, Result<(), HealError>), tokio::task::JoinError>) {
    match ended {
        Ok((check, result)) => {
            if let Some(check) = &check {
                core.ended(check);
            }
            if let Err(error) = result {
                let what = check.as_ref().map_or("heartbeat or recovery", CheckId::as_str);
                tracing::error!(what, "{what} could not be recorded: {error}");
            }
        }
        Err(error) => tracing::error!("a task ended in a defect: {error}"),
    }
}

/// Progress is proven by the store's answer; only then is the watchdog fed. Says which checks are to run sooner: those
/// with a fresh yes within seconds, those whose incident waits for something within minutes.
async fn pulse(app: &App) -> Vec<(CheckId, Duration)> {
    let asked = app.store.read(|tx| {
        let granted: Vec<_> = tx.approvals(&["granted"])?.into_iter().map(|approval| approval.incident).collect();
        Ok((tx.outbox()?.0, tx.log_size()?, tx.incidents(false)?, granted))
    });
    match asked.await {
        Ok((waiting, size, incidents, granted)) => {
            METRICS.outbox.set(i64::try_from(waiting).unwrap_or(i64::MAX));
            METRICS.log_size.set(i64::try_from(size).unwrap_or(i64::MAX));
            app.progress.made(app.clock.now());
            METRICS.progress.set(app.progress.at());
            notify(&[NotifyState::Watchdog]);
            let sooner = incidents.into_iter().filter_map(|incident| match incident.state {
                IncidentState::WaitingApproval if granted.contains(&incident.id) => Some((incident.check, GRANTED)),
                IncidentState::Open
                | IncidentState::WaitingWindow
                | IncidentState::Healing
                | IncidentState::Verifying => Some((incident.check, WAITING)),
                IncidentState::WaitingApproval
                | IncidentState::Planned
                | IncidentState::Resolved
                | IncidentState::Escalated
                | IncidentState::Suppressed => None,
            });
            sooner.collect()
        }
        Err(error) => {
            tracing::error!("the store does not answer: {error}");
            Vec::new()
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell.
    sd_notify::notify(states).ok();
}
