//! Configuration: defaults < TOML file < `MALACHOR__SECTION__KEY` < flags, each value with its origin.
//!
//! Secrets are never values here: keys live in files of the state directory, passwords in files and credentials that
//! settings name.

mod bounded;
mod load;
mod place;
mod secret;
pub mod server;
mod server_layer;
mod trusted;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::guard::Limits;
use crate::domain::mode::Mode;
use crate::domain::time::{parse_duration, show_duration, signed};
use crate::domain::window::{Window, Windows};

pub use bounded::{bytes_of, text_of};
pub use load::{Loaded, load, load_without_content};
pub use place::{ConfigError, Origin};
pub use secret::{SOURCES, Secret, secret};
pub use trusted::trusted;

/// Everything that can be configured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What plain `malachor` runs.
    pub role: Role,
    /// The practice.
    pub site: Site,
    /// The agent.
    pub agent: Agent,
    /// Healing.
    pub heal: Heal,
    /// Content.
    pub catalog: CatalogConfig,
    /// The server.
    pub server: server::Server,
    /// Logs and metrics.
    pub telemetry: Telemetry,
    /// Per runbook: on or off, mode, interval, settings.
    pub runbooks: BTreeMap<String, RunbookConfig>,
}

/// A role of this program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Checks, heals and proves on this appliance.
    #[default]
    Agent,
    /// Looks after a fleet of them.
    Server,
}

/// The practice and this appliance; together they name the log for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Site {
    /// Domain of whoever operates Malachor; first part of the log's origin.
    pub operator_domain: String,
    /// The site's id.
    pub id: String,
    /// The appliance's id.
    pub appliance: String,
    /// IANA time zone of the practice, for maintenance windows.
    pub timezone: String,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            operator_domain: "malachor.example".to_owned(),
            id: "dev".to_owned(),
            appliance: "this-host".to_owned(),
            timezone: "UTC".to_owned(),
        }
    }
}

impl Site {
    /// Name of this appliance's log: `<operator-domain>/malachor/<site>/<appliance>`.
    pub fn origin(&self) -> String {
        format!("{}/malachor/{}/{}", self.operator_domain, self.id, self.appliance)
    }
}

/// The agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Agent {
    /// Where state, log and keys live; created with mode 0700.
    pub state_dir: PathBuf,
    /// How often a signed heartbeat with the posture enters the log.
    pub heartbeat: Period,
    /// How far a check's start may wander from its interval, in percent.
    pub jitter_percent: u8,
    /// How often the server hears how this appliance is, and says what is new; orders come at once.
    pub check_in: Period,
    /// Entries that may wait for the server before changes of findings are left out of the log, with a signed record of it.
    pub outbox_entries: u64,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/malachor"),
            heartbeat: Period(Duration::from_hours(1)),
            jitter_percent: 10,
            check_in: Period(Duration::from_mins(1)),
            outbox_entries: 250_000,
        }
    }
}

/// Healing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Heal {
    /// observe, approve or heal; the strictest of all that apply wins.
    pub mode: Mode,
    /// Executions on this appliance within an hour.
    pub executions_per_hour: u32,
    /// pass → fail changes that count as flapping.
    pub flap_count: u32,
    /// Within this time.
    pub flap_within: Period,
    /// How long a question to a person stays open.
    pub approval_expires: Period,
    /// When disruptive work may run, in the site's time zone.
    pub windows: Vec<WindowConfig>,
}

impl Default for Heal {
    fn default() -> Self {
        Self {
            mode: Mode::Observe,
            executions_per_hour: 20,
            flap_count: 3,
            flap_within: Period(Duration::from_hours(24)),
            approval_expires: Period(Duration::from_hours(24)),
            windows: Vec::new(),
        }
    }
}

impl Heal {
    /// The limits the guards work with.
    pub fn limits(&self) -> Limits {
        Limits {
            executions_per_hour: self.executions_per_hour,
            flap_count: self.flap_count,
            flap_within: signed(self.flap_within.0),
        }
    }
}

/// A recurring maintenance window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowConfig {
    /// Days on which it starts: `mon` … `sun`.
    pub days: Vec<Day>,
    /// Local start, `22:00`.
    pub start: Time,
    /// Local end; at or before the start means the next day.
    pub end: Time,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl From<Day> for Weekday {
    fn from(day: Day) -> Self {
        match day {
            Day::Mon => Self::Monday,
            Day::Tue => Self::Tuesday,
            Day::Wed => Self::Wednesday,
            Day::Thu => Self::Thursday,
            Day::Fri => Self::Friday,
            Day::Sat => Self::Saturday,
            Day::Sun => Self::Sunday,
        }
    }
}

/// Content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CatalogConfig {
    /// A directory of runbooks and rules that override and extend the built-in ones.
    pub dir: Option<PathBuf>,
}

/// Logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// error, warn, info, debug or trace.
    pub level: Level,
    /// text, json, or auto: text on a terminal, json elsewhere.
    pub format: Format,
    /// Loopback address of the Prometheus text; written as empty text for none.
    #[serde(serialize_with = "written_address", deserialize_with = "address")]
    pub metrics: Option<std::net::SocketAddr>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { level: Level::Info, format: Format::Auto, metrics: Some(([127, 0, 0, 1], 9464).into()) }
    }
}

fn address<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<std::net::SocketAddr>, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |_| format!("`{text}` is no address; write 127.0.0.1:9464, or \"\" for none");
    text.parse().map(Some).map_err(wrong).map_err(serde::de::Error::custom)
}

#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
fn written_address<S: serde::Serializer>(address: &Option<std::net::SocketAddr>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&address.map_or_else(String::new, |address| address.to_string()))
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How it is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// One runbook's part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunbookConfig {
    /// Whether its check runs at all.
    pub enabled: bool,
    /// A stricter mode for this runbook.
    pub mode: Option<Mode>,
    /// Another interval.
    pub every: Option<Period>,
    /// The runbook's settings, as `malachor runbook show` lists them.
    pub settings: Map<String, Value>,
}

impl Default for RunbookConfig {
    fn default() -> Self {
        Self { enabled: true, mode: None, every: None, settings: Map::new() }
    }
}

/// A duration written as `5m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Period(pub Duration);

impl TryFrom<String> for Period {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_duration(&text).map(Self).ok_or_else(|| format!("`{text}` is not a duration; write 30s, 5m, 26h or 30d"))
    }
}

impl From<Period> for String {
    fn from(period: Period) -> Self {
        show_duration(period.0)
    }
}

impl Config {
    /// The maintenance windows, in the site's time zone.
    pub fn windows(&self) -> Result<Windows, String> {
        let zone = TimeZone::get(&self.site.timezone).map_err(|_| {
            format!("site.timezone: `{}` is not an IANA time zone such as America/New_York", self.site.timezone)
        })?;
        let windows = self
            .heal
            .windows
            .iter()
            .map(|window| {
                let days = window.days.iter().map(|day| Weekday::from(*day)).collect();
                Window::new(days, window.start, window.end).map_err(|error| format!("heal.windows: {error}"))
            })
            .collect::<Result<_, _>>()?;
        Ok(Windows::new(zone, windows))
    }

    /// The part of a runbook; the default where none is written.
    pub fn runbook(&self, id: &str) -> RunbookConfig {
        self.runbooks.get(id).cloned().unwrap_or_default()
    }

    /// What cannot be said in types.
    pub fn check(&self) -> Result<(), String> {
        self.windows()?;
        let slug = |text: &str| {
            !text.is_empty()
                && text.len() <= 63
                && text.split('.').all(|label| !label.is_empty())
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        for (key, value) in [
            ("site.operator_domain", &self.site.operator_domain),
            ("site.id", &self.site.id),
            ("site.appliance", &self.site.appliance),
        ] {
            if !slug(value) {
                return Err(format!(
                    "{key}: `{value}` is not words of lower case letters, digits and `-` with `.` between them (at most 63 characters)"
                ));
            }
        }
        if self.telemetry.metrics.is_some_and(|address| !address.ip().is_loopback()) {
            return Err(
                "telemetry.metrics: only a loopback address; put a proxy with authentication in front".to_owned()
            );
        }
        if self.server.orders_per_site == 0 {
            return Err("server.orders_per_site: at least 1".to_owned());
        }
        if self.server.names.is_empty() {
            return Err("server.names: at least the one name appliances call this server by".to_owned());
        }
        if self.server.store.connections == 0 {
            return Err("server.store.connections: at least 1".to_owned());
        }
        if self.agent.check_in.0 < Duration::from_secs(1) {
            return Err("agent.check_in: at least 1s".to_owned());
        }
        if self.agent.jitter_percent > 50 {
            return Err("agent.jitter_percent: at most 50".to_owned());
        }
        if self.heal.flap_count < 2 {
            return Err("heal.flap_count: at least 2".to_owned());
        }
        Ok(())
    }
}
