//! `malachor exception`: waivers with scope, reason, owner and expiry.

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::domain::exception::{self, Effect, Scope, parse_expiry};
use crate::domain::id::{CheckId, RecordId, RecordKind, Target};
use crate::heal::people;

use super::session::{Session, readable};
use super::{Exit, Failure};

/// Exceptions.
#[derive(Debug, Subcommand)]
pub(super) enum Exception {
    /// Accept a named risk for a while
    Add(Box<Add>),
    /// List exceptions with the days they have left
    List,
    /// End one before its time
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// Only this runbook
    #[arg(long, value_name = "ID")]
    runbook: Option<CheckId>,
    /// Only this target
    #[arg(long, value_name = "NAME")]
    target: Option<Target>,
    /// Only this citation, e.g. 164.312(b)
    #[arg(long, value_name = "CITATION")]
    control: Option<String>,
    /// Why the risk is accepted
    #[arg(long)]
    reason: String,
    /// What is done instead
    #[arg(long)]
    compensating: Option<String>,
    /// Who carries the risk
    #[arg(long)]
    owner: String,
    /// Who agreed; not the owner
    #[arg(long)]
    approver: String,
    /// Last day (2027-01-31, UTC) or instant; at most 365 days
    #[arg(long)]
    expires: String,
    /// What it does
    #[arg(long, value_enum, default_value = "both")]
    effect: EffectWord,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum EffectWord {
    /// Not in the score, opens no incident
    Silence,
    /// Counts, but is not healed
    NoHeal,
    /// Both
    Both,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    id: RecordId,
    /// Who decides [default: the user behind sudo]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl Exception {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        match self {
            Self::Add(add) => add.run(session),
            Self::List => list(session),
            Self::Remove(remove) => remove.run(session),
        }
    }
}

impl Add {
    fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let words = [
            ("--reason", Some(&self.reason)),
            ("--compensating", self.compensating.as_ref()),
            ("--owner", Some(&self.owner)),
            ("--approver", Some(&self.approver)),
        ];
        words
            .into_iter()
            .filter_map(|(flag, text)| Some((flag, text?)))
            .try_for_each(|(flag, text)| readable(flag, text))?;
        if let Some(target) = self.target.as_ref().filter(|target| **target != Target::host()) {
            let say =
                format!("nothing here is called `{target}`; the targets of this appliance are: {}", Target::host());
            return Err(Failure::usage(&say));
        }
        let expires = parse_expiry(&self.expires).map_err(|error| Failure::usage(&error))?;
        let added = session.block_on(async {
            let app = session.app()?;
            app.ready().await?;
            let id = app.new_id(RecordKind::Exception)?;
            let exception = exception::Exception {
                id,
                scope: Scope { runbook: self.runbook, target: self.target, control: self.control },
                reason: self.reason,
                compensating: self.compensating,
                owner: self.owner,
                approver: self.approver,
                created: app.clock.now(),
                expires,
                effect: match self.effect {
                    EffectWord::Silence => Effect::Silence,
                    EffectWord::NoHeal => Effect::NoHeal,
                    EffectWord::Both => Effect::Both,
                },
            };
            people::add_exception(&app, exception.clone()).await?;
            Ok(exception)
        })?;
        if session.out.is_json() {
            session.out.json(&as_json(&added, added.created));
        } else {
            session.out.line(format!("{} until {expires}", added.id));
        }
        Ok(Exit::Ok)
    }
}

impl Remove {
    fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let who = session.who(self.by.as_deref())?;
        session.block_on(async {
            let app = session.app()?;
            app.ready().await?;
            Ok(people::remove_exception(&app, &self.id, &who).await?)
        })?;
        if session.out.is_json() {
            session.out.json(&json!({"schema": "malachor.exception_removed/1", "id": self.id, "by": who}));
        } else {
            session.out.line(format!("{} removed by {who}", self.id));
        }
        Ok(Exit::Ok)
    }
}

fn as_json(exception: &exception::Exception, now: Timestamp) -> Value {
    json!({
        "schema": "malachor.exception/1", "exception": exception, "in_force": exception.in_force(now),
        "days_left": exception.days_left(now),
    })
}

fn list(session: &Session<'_>) -> Result<Exit, Failure> {
    let (exceptions, now) = session.block_on(async {
        let app = session.app()?;
        let now = app.clock.now();
        Ok((app.store.read(|tx| tx.exceptions()).await?, now))
    })?;
    let mut rows =
        vec![["EXCEPTION", "STATE", "SCOPE", "EFFECT", "OWNER", "APPROVER", "REASON"].map(str::to_owned).to_vec()];
    for exception in &exceptions {
        let left = exception.days_left(now);
        let state = match (exception.in_force(now), left) {
            (true, 0) => "ends today".to_owned(),
            (true, _) => format!("{left} d left"),
            (false, _) => "expired".to_owned(),
        };
        if session.out.is_json() {
            session.out.json(&as_json(exception, now));
        }
        let Scope { runbook, target, control } = &exception.scope;
        let scope =
            [runbook.as_ref().map(ToString::to_string), target.as_ref().map(ToString::to_string), control.clone()];
        let effect = serde_json::to_value(exception.effect)
            .ok()
            .and_then(|word| word.as_str().map(str::to_owned))
            .unwrap_or_default();
        rows.push(vec![
            exception.id.to_string(),
            state,
            scope.into_iter().flatten().collect::<Vec<_>>().join(" "),
            effect,
            exception.owner.clone(),
            exception.approver.clone(),
            exception.reason.clone(),
        ]);
    }
    if session.out.is_json() {
        return Ok(Exit::Ok);
    }
    if exceptions.is_empty() {
        session.out.note("there is no exception");
    } else {
        session.out.table(&rows);
    }
    Ok(Exit::Ok)
}
