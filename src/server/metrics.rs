//! What the server counts, by name; labels come from closed sets only.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A route class and what became of the request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Asked {
    /// The class of the route.
    pub class: String,
    /// The status, by its first digit: `2xx`.
    pub status: String,
}

/// One word as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Word {
    /// A loop, a reason, a state.
    pub is: String,
}

/// All metrics of the server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests.
    pub requests: Family<Asked, Counter>,
    /// Requests that were told to come later.
    pub limited: Family<Word, Counter>,
    /// Entries taken in.
    pub entries: Counter,
    /// Evidence that was not taken, by reason.
    pub rejected: Family<Word, Counter>,
    /// Rows in quarantine.
    pub quarantined: Gauge,
    /// Connections now.
    pub connections: Gauge,
    /// Connections closed because an address, an appliance or all strangers had too many.
    pub crowded: Family<Word, Counter>,
    /// Until when the certificate the server shows holds, seconds of the epoch.
    pub own_certificate_end: Gauge,
    /// When each background loop last did its work, seconds of the epoch.
    pub loops: Family<Word, Gauge>,
    /// Whether the limiter counts in this process alone although it should not.
    pub limiter_degraded: Gauge,
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("malachor_server");
        let (requests, limited, rejected) = (Family::default(), Family::default(), Family::default());
        let (crowded, quarantined) = (Family::default(), Gauge::default());
        let end = Gauge::default();
        let (entries, connections, loops, degraded) =
            (Counter::default(), Gauge::default(), Family::default(), Gauge::default());
        registry.register("requests", "Requests by class and status", requests.clone());
        registry.register("limited", "Requests told to come later, by class", limited.clone());
        registry.register("entries", "Entries of evidence taken in", entries.clone());
        registry.register("rejected", "Evidence not taken, by reason", rejected.clone());
        registry.register("quarantined", "Contradictions of evidence that are kept as proof", quarantined.clone());
        registry.register("connections", "Connections now", connections.clone());
        registry.register("crowded", "Connections closed because their like had too many", crowded.clone());
        registry.register("own_certificate_end_seconds", "Until when the server's certificate holds", end.clone());
        registry.register("loop_last_success_seconds", "When a background loop last did its work", loops.clone());
        registry.register("limiter_degraded", "1 while limits are counted in this process alone", degraded.clone());
        Self {
            registry,
            requests,
            limited,
            entries,
            rejected,
            quarantined,
            connections,
            crowded,
            loops,
            own_certificate_end: end,
            limiter_degraded: degraded,
        }
    }

    /// A background loop did its work.
    pub fn did(&self, what: &str, now: jiff::Timestamp) {
        self.loops.get_or_create(&Word { is: what.to_owned() }).set(now.as_second());
    }

    /// All metrics as Prometheus text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        encode(&mut text, &self.registry).ok();
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
