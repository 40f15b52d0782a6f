//! `site`, `enroll-token`, `user`, `token`: who belongs to the fleet, on the server itself. Each act is audited.

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::app::Clock;
use crate::crypto::{hex, sha256};
use crate::domain::id::{ApplianceId, PersonId, SiteId};
use crate::domain::role::{Role, Sites};
use crate::fleet::people::{self, Person};
use crate::fleet::sites::{self, PlanTier};
use crate::fleet::{Fleet, FleetError, Kind, Sql};
use crate::server::problem::Problem;
use crate::server::state::audited;
use crate::server::stores::open_fleet;
use crate::server::{State, enrolment};

use super::server::on_runtime;
use super::session::Session;
use super::{Exit, Failure};

/// Longest life of an API token.
const TOKEN_DAYS: u16 = 365;

/// Sites.
#[derive(Debug, Subcommand)]
pub(super) enum Site {
    /// Add a site
    Add(AddSite),
    /// List sites
    List,
}

#[derive(Debug, Args)]
pub(super) struct AddSite {
    /// Its id, for ever: lower case letters, digits, `-` and `.`
    id: SiteId,
    /// What people call it
    #[arg(long)]
    name: String,
    /// essential, professional or enterprise
    #[arg(long, default_value = "essential")]
    tier: PlanTier,
    /// Who does it [default: the user behind sudo]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Make a one-time token with which an appliance enrols.
///
/// The token is shown once, holds for `server.token_life`, and names this server, the site and the appliance. Run
/// `malachor enroll TOKEN` on the appliance.
#[derive(Debug, Args)]
pub(super) struct EnrollToken {
    /// The site
    #[arg(long)]
    site: SiteId,
    /// The appliance's id within it
    #[arg(long)]
    appliance: ApplianceId,
    /// Let it take the place of one that is enrolled
    #[arg(long)]
    again: bool,
    /// Who does it [default: the user behind sudo]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// People.
#[derive(Debug, Subcommand)]
pub(super) enum User {
    /// Add a person
    Add(AddUser),
    /// List people
    List,
    /// End what a person may do, with all their tokens
    End(Named),
}

#[derive(Debug, Args)]
pub(super) struct AddUser {
    /// Short name, as it stands in the audit trail: lower case letters, digits, `-`, `.` and `_`
    id: PersonId,
    /// Full name
    #[arg(long)]
    name: String,
    /// viewer, auditor, technician or admin
    #[arg(long)]
    role: Role,
    /// A site they may act on; once each, or `*` for all
    #[arg(long = "site", value_name = "ID", required = true)]
    sites: Vec<String>,
    /// Who does it [default: the user behind sudo]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// Its id
    id: String,
    /// Who does it [default: the user behind sudo]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// API tokens.
#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a token for a person's program; it is shown once
    Add(AddToken),
    /// List tokens
    List,
    /// End a token
    Revoke(Named),
}

#[derive(Debug, Args)]
pub(super) struct AddToken {
    /// Whose
    #[arg(long)]
    user: String,
    /// What for
    #[arg(long)]
    name: String,
    /// A role that narrows it: it does only what this and its person's role both allow [default: the person's]
    #[arg(long)]
    role: Option<Role>,
    /// A site it may act on, of its person's; once each [default: all of theirs]
    #[arg(long = "site", value_name = "ID")]
    sites: Vec<SiteId>,
    /// For how many days
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=i64::from(TOKEN_DAYS)))]
    days: u16,
    /// Who does it [default: the user behind sudo]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl From<FleetError> for Failure {
    fn from(error: FleetError) -> Self {
        let exit = match error.kind() {
            Kind::Transient | Kind::Broken => Exit::Unavailable,
            Kind::NotThere | Kind::Conflict | Kind::Refused | Kind::Stands => Exit::Usage,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit = if problem.status.is_server_error() { Exit::Unavailable } else { Exit::Usage };
        Self::new(exit, problem.detail)
    }
}

/// The store, the time, and who acts as `operator:NAME`.
pub(super) async fn open(session: &Session<'_>, by: Option<&str>) -> Result<(Fleet, Timestamp, String), Failure> {
    let loaded = session.loaded()?;
    let fleet = open_fleet(&loaded.config.server).await?;
    Ok((fleet, Clock::system().now(), format!("operator:{}", session.who(by)?)))
}

/// One answer, for programs or for people.
pub(super) fn said(session: &Session<'_>, json: &serde_json::Value, line: String) {
    if session.out.is_json() {
        session.out.json(json);
    } else {
        session.out.line(line);
    }
}

/// A list: one JSON object a line for programs, or one table for people. Each row gives both.
pub(super) fn listed(
    session: &Session<'_>,
    heads: &[&str],
    rows: impl IntoIterator<Item = (serde_json::Value, Vec<String>)>,
) {
    let mut table = vec![heads.iter().map(|head| (*head).to_owned()).collect::<Vec<_>>()];
    for (json, cells) in rows {
        if session.out.is_json() {
            session.out.json(&json);
        }
        table.push(cells);
    }
    if !session.out.is_json() {
        session.out.table(&table);
    }
}

impl Site {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        on_runtime(async {
            match self {
                Self::Add(add) => {
                    let (fleet, now, who) = open(session, add.by.as_deref()).await?;
                    let site = sites::Site { id: add.id, name: add.name, tier: add.tier, created_at: now };
                    enrolment::add_site(&fleet, &site, &who).await?;
                    let line = format!("{} ({}), {}", site.id, site.name, site.tier.word());
                    said(session, &json!({"schema": "malachor.site/1", "site": site}), line);
                }
                Self::List => {
                    let (fleet, ..) = open(session, Some("list")).await?;
                    let all = fleet.read(|sql| Box::pin(sites::sites(sql))).await?;
                    let rows = all.iter().map(|site| {
                        let tier = site.tier.word().to_owned();
                        let cells = vec![site.id.to_string(), site.name.clone(), tier, site.created_at.to_string()];
                        (json!({"schema": "malachor.site/1", "site": site}), cells)
                    });
                    listed(session, &["SITE", "NAME", "TIER", "SINCE"], rows);
                }
            }
            Ok(Exit::Ok)
        })
    }
}

impl EnrollToken {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        on_runtime(async {
            let who = format!("operator:{}", session.who(self.by.as_deref())?);
            let state = State::open(&session.loaded()?, Clock::system()).await?;
            let made = enrolment::token(&state, (self.site, self.appliance), self.again, &who).await?;
            if session.out.is_json() {
                let expires_at = made.expires_at.to_string();
                session
                    .out
                    .json(&json!({"schema": "malachor.enroll_token/1", "token": made.text, "expires_at": expires_at}));
            } else {
                session.out.line(&made.text);
                session.out.note(format!(
                    "holds once, until {}; run `malachor enroll TOKEN` on the appliance",
                    made.expires_at
                ));
            }
            Ok(Exit::Ok)
        })
    }
}

impl User {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        on_runtime(async {
            match self {
                Self::Add(add) => {
                    let (fleet, now, who) = open(session, add.by.as_deref()).await?;
                    let text =
                        if add.sites.iter().any(|site| site == "*") { "*".to_owned() } else { add.sites.join(",") };
                    let sites = Sites::read(&text)
                        .ok_or_else(|| Failure::new(Exit::Usage, format!("`{text}` names no sites")))?;
                    let person = Person {
                        id: add.id.to_string(),
                        name: add.name,
                        role: add.role,
                        sites,
                        created_by: who,
                        created_at: now,
                        ended_at: None,
                    };
                    let added = person.clone();
                    fleet
                        .write(move |sql| {
                            let person = person.clone();
                            Box::pin(async move {
                                if let Sites::Some(named) = &person.sites {
                                    for id in named {
                                        sites::site(sql, id).await?;
                                    }
                                }
                                people::add_person(sql, &person).await?;
                                let detail = json!({"role": person.role.word(), "sites": person.sites.stored()});
                                audited(sql, ("", now), (&person.created_by, "person.add", &person.id), detail).await
                            })
                        })
                        .await?;
                    let line = format!("{} is {} on {}", added.id, added.role, added.sites.stored());
                    said(session, &json!({"schema": "malachor.done/1", "say": line}), line.clone());
                }
                Self::List => {
                    let (fleet, ..) = open(session, Some("list")).await?;
                    let all = fleet.read(|sql| Box::pin(people::people(sql))).await?;
                    let rows = all.iter().map(|person| {
                        let (sites, ended) = (person.sites.stored(), person.ended_at.map(|at| at.to_string()));
                        let json = json!({"schema": "malachor.user/1", "id": person.id, "name": person.name, "role": person.role, "sites": sites, "ended_at": ended});
                        let (role, since) = (person.role.to_string(), person.created_at.to_string());
                        (json, vec![person.id.clone(), person.name.clone(), role, sites, since, ended.unwrap_or_default()])
                    });
                    listed(session, &["USER", "NAME", "ROLE", "SITES", "SINCE", "ENDED"], rows);
                }
                Self::End(named) => {
                    let (fleet, now, who) = open(session, named.by.as_deref()).await?;
                    let id = named.id.clone();
                    fleet
                        .write(move |sql| {
                            let (id, who) = (id.clone(), who.clone());
                            Box::pin(async move {
                                people::end_person(sql, &id, now).await?;
                                audited(sql, ("", now), (&who, "person.end", &id), json!({})).await
                            })
                        })
                        .await?;
                    let line = format!("{} may do nothing any more", named.id);
                    said(session, &json!({"schema": "malachor.done/1", "say": line}), line.clone());
                }
            }
            Ok(Exit::Ok)
        })
    }
}

impl Token {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        on_runtime(async {
            match self {
                Self::Add(add) => {
                    let (fleet, now, who) = open(session, add.by.as_deref()).await?;
                    let secret = secret()?;
                    let token = new_token(&secret, (&add.user, &add.name), (now, add.days));
                    let (id, expires_at) = (token.id.clone(), token.expires_at);
                    let sites = add.sites;
                    fleet
                        .write(move |sql| {
                            let (mut token, who, sites) = (token.clone(), who.clone(), sites.clone());
                            Box::pin(async move {
                                let person = people::person(sql, &token.person).await?;
                                token.role = add.role.unwrap_or(person.role);
                                token.sites = narrowed(sql, sites, person).await?;
                                token.created_by.clone_from(&who);
                                people::add_token(sql, &token).await?;
                                let expires = token.expires_at.to_string();
                                let detail =
                                    json!({"user": token.person, "role": token.role.word(), "sites": token.sites.stored(), "expires": expires});
                                audited(sql, ("", now), (&who, "token.add", &token.id), detail).await
                            })
                        })
                        .await?;
                    if session.out.is_json() {
                        session.out.json(&json!({"schema": "malachor.token_text/1", "id": id, "token": secret, "expires_at": expires_at.to_string()}));
                    } else {
                        session.out.line(&secret);
                        session.out.note(format!("{id} holds until {expires_at}; it is not shown again"));
                    }
                }
                Self::List => {
                    let (fleet, ..) = open(session, Some("list")).await?;
                    let all = fleet.read(|sql| Box::pin(people::tokens(sql))).await?;
                    let rows = all.iter().map(|token| {
                        let time = |time: Option<Timestamp>| time.map(|at| at.to_string()).unwrap_or_default();
                        let cells = vec![
                            token.id.clone(),
                            token.person.clone(),
                            token.name.clone(),
                            token.role.clone(),
                            token.sites.clone(),
                            token.expires_at.to_string(),
                            time(token.used_at),
                            time(token.revoked_at),
                        ];
                        (json!({"schema": "malachor.token/1", "token": token}), cells)
                    });
                    let heads = ["TOKEN", "USER", "NAME", "ROLE", "SITES", "EXPIRES", "USED", "REVOKED"];
                    listed(session, &heads, rows);
                }
                Self::Revoke(named) => {
                    let (fleet, now, who) = open(session, named.by.as_deref()).await?;
                    let id = named.id.clone();
                    fleet
                        .write(move |sql| {
                            let (id, who) = (id.clone(), who.clone());
                            Box::pin(async move {
                                people::revoke_token(sql, &id, now).await?;
                                audited(sql, ("", now), (&who, "token.revoke", &id), json!({})).await
                            })
                        })
                        .await?;
                    let line = format!("{} does not hold any more", named.id);
                    said(session, &json!({"schema": "malachor.done/1", "say": line}), line.clone());
                }
            }
            Ok(Exit::Ok)
        })
    }
}

/// The sites of a token: those that are named, which must be its person's, or all of theirs.
async fn narrowed(sql: &Sql, named: Vec<SiteId>, person: Person) -> Result<Sites, FleetError> {
    if named.is_empty() {
        return Ok(person.sites);
    }
    for id in &named {
        sites::site(sql, id).await?;
        if !person.sites.includes(id) {
            return Err(FleetError::Refused(format!("{} may not act on {id}", person.id)));
        }
    }
    Ok(Sites::Some(named))
}

/// A token for a person's program with everything the person may; only its hash is kept.
pub(super) fn new_token(secret: &str, (person, name): (&str, &str), (now, days): (Timestamp, u16)) -> people::Token {
    let hash = sha256(secret.as_bytes());
    people::Token {
        hash,
        id: format!("TOK-{}", hex(&hash).get(..12).unwrap_or_default()),
        person: person.to_owned(),
        name: name.to_owned(),
        role: Role::Admin,
        sites: Sites::All,
        created_by: format!("operator:{person}"),
        created_at: now,
        expires_at: now.checked_add(SignedDuration::from_hours(24 * i64::from(days))).unwrap_or(now),
    }
}

/// An API token nobody can guess.
pub(super) fn secret() -> Result<String, Failure> {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut random = [0_u8; 32];
    let none = |_| Failure::new(Exit::Unavailable, "the system gave no randomness");
    SystemRandom::new().fill(&mut random).map_err(none)?;
    Ok(format!("mlc_{}", hex(&random)))
}
