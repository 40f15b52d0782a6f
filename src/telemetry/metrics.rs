//! The metrics, by name; labels come from closed sets only.

use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// One word as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Word {
    /// A verdict, an outcome or a state.
    pub is: String,
}

/// A check as a label: runbook ids are a closed set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CheckLabel {
    /// The check.
    pub check: String,
}

/// All metrics of this process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Runs of checks by verdict.
    pub checks: Family<Word, Counter>,
    /// Executions by outcome.
    pub executions: Family<Word, Counter>,
    /// Moves of incidents by the state they moved to.
    pub incidents: Family<Word, Counter>,
    /// When each check last ran, seconds of the epoch.
    pub last_run: Family<CheckLabel, Gauge>,
    /// Entries waiting for the server.
    pub outbox: Gauge,
    /// Entries in the log.
    pub log_size: Gauge,
    /// When the agent last made progress, seconds of the epoch.
    pub progress: Gauge,
    /// Passing share of the posture, 0 to 1; absent data is not a number.
    pub score: Gauge<f64, AtomicU64>,
}

/// The metrics of this process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::default);

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let m = &*METRICS;
    m.score.set(f64::NAN);
    let mut registry = Registry::with_prefix("malachor");
    registry.register("checks", "Runs of checks by verdict", m.checks.clone());
    registry.register("executions", "Executions of plans by outcome", m.executions.clone());
    registry.register("incident_moves", "Moves of incidents by new state", m.incidents.clone());
    registry.register("check_last_run_seconds", "When a check last ran, seconds of the epoch", m.last_run.clone());
    registry.register("outbox_entries", "Entries waiting for the server", m.outbox.clone());
    registry.register("log_entries", "Entries in the evidence log", m.log_size.clone());
    registry.register(
        "progress_seconds",
        "When the agent last made progress, seconds of the epoch",
        m.progress.clone(),
    );
    registry.register("score_ratio", "Passing share of the posture", m.score.clone());
    registry
});

/// All metrics as Prometheus text.
pub fn text() -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    encode(&mut text, &REGISTRY).ok();
    text
}
