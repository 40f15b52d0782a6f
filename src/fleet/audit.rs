//! Who did what: a row in the same transaction as the change, or as the refusal.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value as Json;

use super::sql::Many;
use super::{FleetError, Sql};

/// Something somebody did, or was kept from doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Audit {
    /// The site it is about; empty for the fleet as a whole.
    pub site: String,
    /// When.
    pub at: Timestamp,
    /// Who: `person:dana`, `appliance:north/front-desk`, `operator:root` at the server itself, `nobody`.
    pub actor: String,
    /// What: `site.add`, `order.ask`, …
    pub act: String,
    /// To what.
    pub object: String,
    /// `done`, `refused` or `failed`.
    pub outcome: String,
    /// Anything else, without secrets.
    pub detail: Json,
}

/// Writes a row.
pub async fn write(sql: &Sql, audit: &Audit) -> Result<(), FleetError> {
    let insert =
        "INSERT INTO audit (site_id, at, actor, act, object, outcome, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let Audit { site, at, actor, act, object, outcome, detail } = audit;
    let params =
        [site.into(), (*at).into(), actor.into(), act.into(), object.into(), outcome.into(), detail.to_string().into()];
    sql.run(insert, &params).await.map(drop)
}

/// Writes rows, in one statement where the database can.
pub async fn write_all(sql: &Sql, rows: &[Audit]) -> Result<(), FleetError> {
    let values = |row: &Audit| {
        let Audit { site, at, actor, act, object, outcome, detail } = row;
        vec![
            site.into(),
            (*at).into(),
            actor.into(),
            act.into(),
            object.into(),
            outcome.into(),
            detail.to_string().into(),
        ]
    };
    sql.run_many(&ROWS, rows.iter().map(values).collect()).await.map(drop)
}

const ROWS: Many<'static> = Many {
    table: "audit",
    columns: &[
        ("site_id", "text"),
        ("at", "int8"),
        ("actor", "text"),
        ("act", "text"),
        ("object", "text"),
        ("outcome", "text"),
        ("detail", "text"),
    ],
};

/// Rows of a site (of all where it is `None`), newest first, before a row.
pub async fn list(sql: &Sql, site: Option<&str>, before: i64, limit: i64) -> Result<Vec<(i64, Audit)>, FleetError> {
    let select = "SELECT id, site_id, at, actor, act, object, outcome, detail FROM audit
                  WHERE ($1 = '*' OR site_id = $1) AND id < $2 ORDER BY id DESC LIMIT $3";
    let rows = sql.rows(select, &[site.unwrap_or("*").into(), before.into(), limit.into()]).await?;
    rows.iter()
        .map(|row| {
            let detail = serde_json::from_str(&row.text(7)?).unwrap_or(Json::Null);
            let audit = Audit {
                site: row.text(1)?,
                at: row.time(2)?,
                actor: row.text(3)?,
                act: row.text(4)?,
                object: row.text(5)?,
                outcome: row.text(6)?,
                detail,
            };
            Ok((row.int(0)?, audit))
        })
        .collect()
}
