//! Sites and their appliances: who they are, what they said last.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{FleetError, Row, Sql};
use crate::domain::id::{ApplianceId, SiteId};

/// What a practice pays for; it decides how long detail is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanTier {
    /// The smallest.
    Essential,
    /// The usual.
    Professional,
    /// The largest.
    Enterprise,
}

impl PlanTier {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Essential, Self::Professional, Self::Enterprise];

    /// The stored and printed word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Essential => "essential",
            Self::Professional => "professional",
            Self::Enterprise => "enterprise",
        }
    }
}

impl std::str::FromStr for PlanTier {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|tier| tier.word() == word);
        found.ok_or_else(|| format!("`{word}` is no tier; there are essential, professional and enterprise"))
    }
}

/// A practice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Site {
    /// Its id, the tenant.
    pub id: SiteId,
    /// What people call it.
    pub name: String,
    /// What it pays for.
    pub tier: PlanTier,
    /// Since when.
    pub created_at: Timestamp,
}

/// Whether an appliance is listened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplianceState {
    /// Yes.
    Active,
    /// It came back with an older state than it had: its evidence is taken, and it gets no orders until a person looks.
    RolledBack,
    /// No more.
    Revoked,
}

impl ApplianceState {
    /// The stored and printed word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::RolledBack => "rolled_back",
            Self::Revoked => "revoked",
        }
    }

    pub(super) fn read(word: &str) -> Option<Self> {
        [Self::Active, Self::RolledBack, Self::Revoked].into_iter().find(|state| state.word() == word)
    }
}

/// The keys an appliance showed when it was enrolled, as C2SP verifier keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceKeys {
    /// Signs entries.
    pub entry: String,
    /// Signs heads.
    pub head: String,
    /// The offline recovery key.
    pub recovery: Option<String>,
}

/// An enrolled agent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Appliance {
    /// Its site.
    pub site: SiteId,
    /// Its id within the site.
    pub id: ApplianceId,
    /// Name of its log.
    pub origin: String,
    /// Whether it is listened to.
    pub state: ApplianceState,
    /// Its evidence keys.
    pub keys: EvidenceKeys,
    /// When it was enrolled, last.
    pub enrolled_at: Timestamp,
    /// What it said last; `None` before its first check-in.
    pub last: Option<LastSeen>,
}

/// What an appliance says of itself when it checks in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LastSeen {
    /// When, by the server's clock.
    pub at: Timestamp,
    /// Version of its program.
    pub version: String,
    /// Ids of the order keys it verifies with.
    pub order_keys: Vec<String>,
    /// The last order it used.
    pub order_seq: u64,
    /// How far its clock is ahead of the server's, in milliseconds.
    pub clock_offset_ms: i64,
    /// Entries it has not handed over yet.
    pub outbox_depth: u64,
    /// Entries of its log.
    pub log_size: u64,
    /// Its posture, as JSON.
    pub posture: Option<String>,
    /// Its inventory, as JSON; sent when it changed.
    pub inventory: Option<String>,
}

/// Adds a site.
pub async fn add_site(sql: &Sql, site: &Site) -> Result<(), FleetError> {
    let insert = "INSERT INTO site (id, name, tier, created_at) VALUES ($1, $2, $3, $4)";
    let params = [site.id.as_str().into(), (&site.name).into(), site.tier.word().into(), site.created_at.into()];
    match sql.run(insert, &params).await {
        Err(FleetError::Exists(_)) => Err(FleetError::Exists(format!("there is a site `{}` already", site.id))),
        result => result.map(drop),
    }
}

/// All sites, by id.
pub async fn sites(sql: &Sql) -> Result<Vec<Site>, FleetError> {
    let rows = sql.rows("SELECT id, name, tier, created_at FROM site ORDER BY id", &[]).await?;
    rows.iter().map(site_of).collect()
}

/// One site.
pub async fn site(sql: &Sql, id: &SiteId) -> Result<Site, FleetError> {
    let row = sql.row("SELECT id, name, tier, created_at FROM site WHERE id = $1", &[id.as_str().into()]).await?;
    row.map_or_else(|| Err(FleetError::NotThere(format!("no site is called `{id}`"))), |row| site_of(&row))
}

fn site_of(row: &Row) -> Result<Site, FleetError> {
    Ok(Site { id: row.parse(0)?, name: row.text(1)?, tier: row.parse(2)?, created_at: row.time(3)? })
}

const APPLIANCE: &str =
    "site_id, id, origin, state, entry_key, head_key, recovery_key, enrolled_at, last_seen_at, version,
    order_key_seen, order_seq_seen, clock_offset_ms, outbox_depth, log_size, posture, inventory";

/// One appliance.
pub async fn appliance(sql: &Sql, site: &SiteId, id: &ApplianceId) -> Result<Option<Appliance>, FleetError> {
    let select = format!("SELECT {APPLIANCE} FROM appliance WHERE site_id = $1 AND id = $2");
    let row = sql.row(&select, &[site.as_str().into(), id.as_str().into()]).await?;
    row.map(|row| appliance_of(&row)).transpose()
}

/// The appliances of a site, of all where it is `None`, by site and id.
pub async fn appliances(sql: &Sql, site: Option<&SiteId>) -> Result<Vec<Appliance>, FleetError> {
    let select = format!("SELECT {APPLIANCE} FROM appliance WHERE ($1 = '*' OR site_id = $1) ORDER BY site_id, id");
    let rows = sql.rows(&select, &[site.map_or("*", SiteId::as_str).into()]).await?;
    rows.iter().map(appliance_of).collect()
}

/// An appliance by its name alone, without what it said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// Its site.
    pub site: SiteId,
    /// Its id within the site.
    pub id: ApplianceId,
    /// Whether it is listened to.
    pub state: ApplianceState,
}

/// All appliances by name: what they said of themselves may be long, and whoever looks for one does not need it.
pub async fn enrolled(sql: &Sql) -> Result<Vec<Enrolled>, FleetError> {
    let rows = sql.rows("SELECT site_id, id, state FROM appliance ORDER BY site_id, id", &[]).await?;
    rows.iter().map(|row| Ok(Enrolled { site: row.parse(0)?, id: row.parse(1)?, state: state_of(row, 2)? })).collect()
}

/// Name and keys of an appliance's log.
pub async fn log_keys(sql: &Sql, site: &SiteId, id: &ApplianceId) -> Result<(String, EvidenceKeys), FleetError> {
    let select = "SELECT origin, entry_key, head_key, recovery_key FROM appliance WHERE site_id = $1 AND id = $2";
    let row = sql.row(select, &[site.as_str().into(), id.as_str().into()]).await?;
    let row = row.ok_or_else(|| FleetError::NotThere("the appliance is not enrolled".to_owned()))?;
    Ok((row.text(0)?, EvidenceKeys { entry: row.text(1)?, head: row.text(2)?, recovery: row.maybe_text(3)? }))
}

pub(super) fn state_of(row: &Row, column: usize) -> Result<ApplianceState, FleetError> {
    let word = row.text(column)?;
    ApplianceState::read(&word).ok_or_else(|| FleetError::Corrupt(format!("appliance state `{word}`")))
}

fn appliance_of(row: &Row) -> Result<Appliance, FleetError> {
    let last = match row.maybe_time(8)? {
        None => None,
        Some(at) => Some(LastSeen {
            at,
            version: row.maybe_text(9)?.unwrap_or_default(),
            order_keys: row.words(10)?,
            order_seq: row.count(11)?,
            clock_offset_ms: row.int(12)?,
            outbox_depth: row.count(13)?,
            log_size: row.count(14)?,
            posture: row.maybe_text(15)?,
            inventory: row.maybe_text(16)?,
        }),
    };
    Ok(Appliance {
        site: row.parse(0)?,
        id: row.parse(1)?,
        origin: row.text(2)?,
        state: state_of(row, 3)?,
        keys: EvidenceKeys { entry: row.text(4)?, head: row.text(5)?, recovery: row.maybe_text(6)? },
        enrolled_at: row.time(7)?,
        last,
    })
}

/// What the server knows of an appliance that checks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether it is listened to.
    pub state: ApplianceState,
    /// The last place given out in its sequence of orders.
    pub order_seq: u64,
    /// Entries the server holds of its log.
    pub holds: u64,
    /// The last order it said that it has; 0 before the first.
    pub acknowledged: u64,
}

/// Writes down what an appliance said, and says how it stands, in one statement. Without an inventory the one it sent
/// before stays.
pub async fn check_in(sql: &Sql, site: &SiteId, id: &ApplianceId, said: &LastSeen) -> Result<Standing, FleetError> {
    let update = "UPDATE appliance SET last_seen_at = $1, version = $2, order_key_seen = $3, order_seq_seen = $4,
                  clock_offset_ms = $5, outbox_depth = $6, log_size = $7, posture = $8,
                  inventory = coalesce($9, inventory) WHERE site_id = $10 AND id = $11 AND state <> 'revoked'
                  RETURNING state,
                  coalesce((SELECT s.next FROM order_seq s WHERE s.site_id = $10 AND s.appliance_id = $11), 1) - 1,
                  coalesce((SELECT l.size FROM log l WHERE l.site_id = $10 AND l.appliance_id = $11), 0),
                  coalesce((SELECT max(o.seq) FROM appliance_order o WHERE o.site_id = $10 AND o.appliance_id = $11
                            AND o.state NOT IN ('queued', 'delivered', 'expired')), 0)";
    let params = [
        said.at.into(),
        (&said.version).into(),
        said.order_keys.join(",").into(),
        said.order_seq.into(),
        said.clock_offset_ms.into(),
        said.outbox_depth.into(),
        said.log_size.into(),
        said.posture.clone().into(),
        said.inventory.clone().into(),
        site.as_str().into(),
        id.as_str().into(),
    ];
    let row = sql.row(update, &params).await?;
    let row = row.ok_or_else(|| FleetError::NotThere("the appliance is not enrolled".to_owned()))?;
    Ok(Standing {
        state: state_of(&row, 0)?,
        order_seq: row.count(1)?,
        holds: row.count(2)?,
        acknowledged: row.count(3)?,
    })
}

/// Ids of the order keys an appliance holds: given at enrolment, told at check-ins.
pub async fn order_keys_held(sql: &Sql, site: &SiteId, id: &ApplianceId) -> Result<Vec<String>, FleetError> {
    let select = "SELECT order_key_seen FROM appliance WHERE site_id = $1 AND id = $2";
    let row = sql.row(select, &[site.as_str().into(), id.as_str().into()]).await?;
    row.map_or(Ok(Vec::new()), |row| row.words(0))
}

/// Writes down which order keys an appliance was given.
pub async fn hold_order_keys(sql: &Sql, site: &SiteId, id: &ApplianceId, held: &[String]) -> Result<(), FleetError> {
    let update = "UPDATE appliance SET order_key_seen = $1 WHERE site_id = $2 AND id = $3";
    let params = [held.join(",").into(), site.as_str().into(), id.as_str().into()];
    sql.run_one(update, &params, "the appliance is not enrolled").await
}

/// From now on an appliance gets no orders; one that is not listened to any more stays so. Says whether it is new.
pub async fn roll_back(sql: &Sql, site: &SiteId, id: &ApplianceId) -> Result<bool, FleetError> {
    let update = "UPDATE appliance SET state = 'rolled_back' WHERE site_id = $1 AND id = $2 AND state = 'active'";
    sql.run(update, &[site.as_str().into(), id.as_str().into()]).await.map(|changed| changed > 0)
}

/// Sets whether an appliance is listened to.
pub async fn set_state(sql: &Sql, site: &SiteId, id: &ApplianceId, state: ApplianceState) -> Result<(), FleetError> {
    let update = "UPDATE appliance SET state = $1 WHERE site_id = $2 AND id = $3";
    let params = [state.word().into(), site.as_str().into(), id.as_str().into()];
    sql.run_one(update, &params, "the appliance is not enrolled").await
}
