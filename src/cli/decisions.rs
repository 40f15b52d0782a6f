//! `approve`, `reject`, `mode`, `kill-switch`: what people decide.

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::domain::id::RecordId;
use crate::domain::mode;
use crate::heal::people;
use crate::shown;
use crate::store::{Setting, StoreError, Tx};

use super::session::Session;
use super::{Exit, Failure};

/// Say yes to the plan an incident waits with: to exactly this plan, once.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  malachor incident show INC-0123456789abcdef\n  malachor approve INC-0123456789abcdef 9c41d7e2 --by dr.lee"
)]
pub(super) struct Approve {
    /// The incident
    incident: RecordId,
    /// The plan you read: the digits `incident show` prints
    plan: String,
    /// Who decides [default: the user behind sudo]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Say no to the plan an incident waits with.
#[derive(Debug, Args)]
pub(super) struct Reject {
    /// The incident
    incident: RecordId,
    /// Who decides [default: the user behind sudo]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl Approve {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        answer(session, &self.incident, people::Answer::Approve { plan: self.plan }, self.by.as_deref())
    }
}

impl Reject {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        answer(session, &self.incident, people::Answer::Reject, self.by.as_deref())
    }
}

fn answer(
    session: &Session<'_>,
    incident: &RecordId,
    answer: people::Answer,
    by: Option<&str>,
) -> Result<Exit, Failure> {
    let who = session.who(by)?;
    let approval = session.block_on(async {
        let app = session.app()?;
        app.ready().await?;
        Ok(people::answer(&app, incident, answer, &who).await?)
    })?;
    if session.out.is_json() {
        session.out.json(&json!({"schema": "malachor.approval/1", "approval": approval}));
    } else {
        let plan = short(&approval.plan_sha256);
        session.out.line(format!("{incident} {} by {who}; it holds for plan {plan}, once", approval.state));
    }
    Ok(Exit::Ok)
}

fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

/// Show or set how far healing may go by itself.
///
/// The strictest of the configured mode, the runbook's and this one wins.
#[derive(Debug, Args)]
pub(super) struct Mode {
    /// observe, approve or heal; shows the mode where none is given
    mode: Option<mode::Mode>,
    /// Who decides [default: the user behind sudo]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl Mode {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let who = self.mode.map(|_| session.who(self.by.as_deref())).transpose()?;
        let (mode, by, switch) = session.block_on(async {
            let app = session.app_whatever_the_content()?;
            app.ready().await?;
            if let (Some(mode), Some(who)) = (self.mode, &who) {
                people::set_mode(&app, mode, who).await?;
            }
            let asked = app.store.read(|tx| Ok((tx.setting(people::MODE)?, Thrown::read(tx)?)));
            let (set, switch) = asked.await?;
            let configured = app.config().heal.mode;
            let by_configuration = (configured, app.loaded.origin("heal.mode").to_string());
            let (mode, by) = match set.and_then(|set| Some((set.value.parse::<mode::Mode>().ok()?, set.changed_by))) {
                Some((mode, by)) if mode.strictest(configured) == mode => (mode, by),
                Some(_) | None => by_configuration,
            };
            Ok((mode, by, switch))
        })?;
        if session.out.is_json() {
            let switch = if switch.on { "on" } else { "off" };
            session
                .out
                .json(&json!({"schema": "malachor.mode/1", "mode": mode.word(), "by": by, "kill_switch": switch}));
        } else {
            session.out.line(format!("mode {}, set by {}", mode.word(), shown::piece(&by)));
            if switch.on {
                session.out.line(switch.say());
            }
            if let Some(asked) = self.mode.filter(|asked| *asked != mode) {
                session.out.note(format!("{} is recorded, but the configuration is stricter", asked.word()));
            }
        }
        Ok(Exit::Ok)
    }
}

/// Stop all healing on this appliance, or allow it again; without `on` or `off`, show how it stands.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  malachor kill-switch on --by dr.lee")]
pub(super) struct KillSwitch {
    /// on stops everything; off allows it again; shows the state where none is given
    state: Option<Switch>,
    /// Who decides [default: the user behind sudo]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// How the kill switch stands, and who put it so.
struct Thrown {
    on: bool,
    set: Option<Setting>,
}

impl Thrown {
    fn read(tx: &Tx<'_>) -> Result<Self, StoreError> {
        let set = tx.setting(people::KILL_SWITCH)?;
        Ok(Self { on: set.as_ref().is_some_and(|set| set.value == "on"), set })
    }

    fn say(&self) -> String {
        let word = if self.on { "on: nothing is healed" } else { "off: healing is allowed" };
        let by = self
            .set
            .as_ref()
            .map_or_else(String::new, |set| format!(" (by {}, {})", shown::piece(&set.changed_by), set.changed_at));
        format!("kill switch {word}{by}")
    }
}

impl KillSwitch {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let who = self.state.map(|_| session.who(self.by.as_deref())).transpose()?;
        let now = session.block_on(async {
            let app = session.app_whatever_the_content()?;
            app.ready().await?;
            if let (Some(state), Some(who)) = (self.state, &who) {
                people::set_kill_switch(&app, state == Switch::On, who).await?;
            }
            Ok(app.store.read(Thrown::read).await?)
        })?;
        if session.out.is_json() {
            let (state, set) = (if now.on { "on" } else { "off" }, now.set.as_ref());
            session.out.json(&json!({
                "schema": "malachor.kill_switch/1", "state": state, "by": set.map(|set| &set.changed_by),
                "at": set.map(|set| set.changed_at),
            }));
        } else {
            session.out.line(now.say());
        }
        Ok(Exit::Ok)
    }
}
