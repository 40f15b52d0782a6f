//! People and the tokens their programs speak with; only hashes of tokens are kept.

use jiff::Timestamp;
use serde::Serialize;

use super::{FleetError, Row, Sql};
use crate::domain::role::{Role, Roles, Sites};

/// Somebody who may act on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Short name, as it stands in the audit trail.
    pub id: String,
    /// Full name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Where.
    pub sites: Sites,
    /// Who added them.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// Since when they may do nothing any more.
    pub ended_at: Option<Timestamp>,
}

/// A token of a person; it may do no more than they may, and less if it was made so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// Its id, for lists and the audit trail.
    pub id: String,
    /// Whose.
    pub person: String,
    /// What for.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Where.
    pub sites: Sites,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// Until when it holds.
    pub expires_at: Timestamp,
}

/// A token as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedToken {
    /// Its id.
    pub id: String,
    /// Whose.
    pub person: String,
    /// What for.
    pub name: String,
    /// What it may do.
    pub role: String,
    /// Where.
    pub sites: String,
    /// Until when it holds.
    pub expires_at: Timestamp,
    /// When it was last used, within a minute.
    pub used_at: Option<Timestamp>,
    /// Since when it does not hold any more.
    pub revoked_at: Option<Timestamp>,
}

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The person.
    pub person: String,
    /// The token.
    pub token: String,
    /// Their roles; what both allow may be done.
    pub roles: Roles,
    /// Where both of them may.
    pub sites: Sites,
}

/// Adds a person.
pub async fn add_person(sql: &Sql, person: &Person) -> Result<(), FleetError> {
    let insert = "INSERT INTO person (id, name, role, sites, created_by, created_at) VALUES ($1, $2, $3, $4, $5, $6)";
    let params = [
        (&person.id).into(),
        (&person.name).into(),
        person.role.word().into(),
        person.sites.stored().into(),
        (&person.created_by).into(),
        person.created_at.into(),
    ];
    match sql.run(insert, &params).await {
        Err(FleetError::Exists(_)) => Err(FleetError::Exists(format!("there is a person `{}` already", person.id))),
        result => result.map(drop),
    }
}

/// All people, by id.
pub async fn people(sql: &Sql) -> Result<Vec<Person>, FleetError> {
    let select = "SELECT id, name, role, sites, created_by, created_at, ended_at FROM person ORDER BY id";
    sql.rows(select, &[]).await?.iter().map(person_of).collect()
}

/// One person.
pub async fn person(sql: &Sql, id: &str) -> Result<Person, FleetError> {
    let select = "SELECT id, name, role, sites, created_by, created_at, ended_at FROM person WHERE id = $1";
    let row = sql.row(select, &[id.into()]).await?;
    row.map_or_else(|| Err(FleetError::NotThere(format!("nobody is called `{id}`"))), |row| person_of(&row))
}

/// Ends what a person may do, with all their tokens.
pub async fn end_person(sql: &Sql, id: &str, now: Timestamp) -> Result<(), FleetError> {
    let update = "UPDATE person SET ended_at = $1 WHERE id = $2 AND ended_at IS NULL";
    sql.run_one(update, &[now.into(), id.into()], &format!("nobody active is called `{id}`")).await?;
    let update = "UPDATE api_token SET revoked_at = $1 WHERE person_id = $2 AND revoked_at IS NULL";
    sql.run(update, &[now.into(), id.into()]).await.map(drop)
}

fn person_of(row: &Row) -> Result<Person, FleetError> {
    Ok(Person {
        id: row.text(0)?,
        name: row.text(1)?,
        role: row.parse(2)?,
        sites: sites_of(row, 3)?,
        created_by: row.text(4)?,
        created_at: row.time(5)?,
        ended_at: row.maybe_time(6)?,
    })
}

fn sites_of(row: &Row, column: usize) -> Result<Sites, FleetError> {
    let text = row.text(column)?;
    Sites::read(&text).ok_or_else(|| FleetError::Corrupt(format!("sites `{text}`")))
}

/// Adds a token.
pub async fn add_token(sql: &Sql, token: &Token) -> Result<(), FleetError> {
    let insert = "INSERT INTO api_token (hash, id, person_id, name, role, sites, created_by, created_at, expires_at)
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let params = [
        (&token.hash).into(),
        (&token.id).into(),
        (&token.person).into(),
        (&token.name).into(),
        token.role.word().into(),
        token.sites.stored().into(),
        (&token.created_by).into(),
        token.created_at.into(),
        token.expires_at.into(),
    ];
    sql.run(insert, &params).await.map(drop)
}

/// Ends a token.
pub async fn revoke_token(sql: &Sql, id: &str, now: Timestamp) -> Result<(), FleetError> {
    let update = "UPDATE api_token SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL";
    sql.run_one(update, &[now.into(), id.into()], &format!("no token in force is called `{id}`")).await
}

/// All tokens, newest first.
pub async fn tokens(sql: &Sql) -> Result<Vec<ListedToken>, FleetError> {
    let select = "SELECT id, person_id, name, role, sites, expires_at, used_at, revoked_at FROM api_token
                  ORDER BY created_at DESC, id";
    let rows = sql.rows(select, &[]).await?;
    rows.iter()
        .map(|row| {
            Ok(ListedToken {
                id: row.text(0)?,
                person: row.text(1)?,
                name: row.text(2)?,
                role: row.text(3)?,
                sites: row.text(4)?,
                expires_at: row.time(5)?,
                used_at: row.maybe_time(6)?,
                revoked_at: row.maybe_time(7)?,
            })
        })
        .collect()
}

/// Who speaks with a token; `None` for one that is not known, over, or whose person is.
pub async fn caller(sql: &Sql, hash: &[u8; 32], now: Timestamp) -> Result<Option<Caller>, FleetError> {
    let select =
        "SELECT p.id, t.id, p.role, t.role, p.sites, t.sites FROM api_token t JOIN person p ON p.id = t.person_id
                  WHERE t.hash = $1 AND t.revoked_at IS NULL AND t.expires_at > $2 AND p.ended_at IS NULL";
    let Some(row) = sql.row(select, &[hash.into(), now.into()]).await? else { return Ok(None) };
    let roles = Roles { person: row.parse(2)?, token: row.parse(3)? };
    let sites = match (sites_of(&row, 4)?, sites_of(&row, 5)?) {
        (Sites::All, sites) | (sites, Sites::All) => sites,
        (Sites::Some(theirs), its) => Sites::Some(theirs.into_iter().filter(|site| its.includes(site)).collect()),
    };
    Ok(Some(Caller { person: row.text(0)?, token: row.text(1)?, roles, sites }))
}

/// Notes that a token was used; at most once a minute, for it is only there to show which ones nobody uses.
pub async fn used(sql: &Sql, hash: &[u8; 32], now: Timestamp) -> Result<(), FleetError> {
    let minute_ago = now.checked_sub(jiff::SignedDuration::from_mins(1)).unwrap_or(Timestamp::MIN);
    let update = "UPDATE api_token SET used_at = $1 WHERE hash = $2 AND (used_at IS NULL OR used_at < $3)";
    sql.run(update, &[now.into(), hash.into(), minute_ago.into()]).await.map(drop)
}
