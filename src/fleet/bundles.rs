//! Content and configuration as they were published, and whose fleet this is.

use std::collections::BTreeMap;

use super::{FleetError, Row, Sql};
use crate::domain::bundle::{BundleKind, Manifest};

/// A published bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// What it is.
    pub manifest: Manifest,
    /// The bytes that are signed.
    pub bytes: Vec<u8>,
    /// Its files, by name.
    pub files: BTreeMap<String, String>,
}

/// The number the next bundle of a kind gets.
pub async fn next_number(sql: &Sql, kind: BundleKind) -> Result<u64, FleetError> {
    let select = "SELECT coalesce(max(number), 0) + 1 FROM bundle WHERE kind = $1";
    let row = sql.row(select, &[kind.word().into()]).await?;
    row.map_or(Ok(1), |row| row.count(0))
}

/// Keeps a bundle; somebody who published at the same moment gets [`FleetError::Exists`].
pub async fn publish(sql: &Sql, published: &Published) -> Result<(), FleetError> {
    let insert = "INSERT INTO bundle (kind, number, site_id, manifest, files, made_by, made_at)
                  VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let manifest = &published.manifest;
    let files = serde_json::to_string(&published.files).unwrap_or_default();
    let params = [
        manifest.kind.word().into(),
        manifest.number.into(),
        manifest.site.as_ref().map_or("", |site| site.as_str()).into(),
        published.bytes.clone().into(),
        (&files).into(),
        (&manifest.by).into(),
        manifest.made_at.into(),
    ];
    sql.run(insert, &params).await.map(drop)
}

/// What is in force: the newest of each kind for each site, and for the fleet (a site's own goes first).
///
/// Each with the bytes that are signed.
pub async fn in_force(sql: &Sql) -> Result<Vec<(Manifest, Vec<u8>)>, FleetError> {
    let select = "SELECT manifest FROM bundle AS b
                  WHERE number = (SELECT max(number) FROM bundle WHERE kind = b.kind AND site_id = b.site_id)
                  ORDER BY kind, site_id";
    sql.rows(select, &[]).await?.iter().map(|row| Ok((manifest_of(&row.bytes(0)?)?, row.bytes(0)?))).collect()
}

/// One bundle.
pub async fn bundle(sql: &Sql, kind: BundleKind, number: u64) -> Result<Published, FleetError> {
    let select = "SELECT manifest, files FROM bundle WHERE kind = $1 AND number = $2";
    let row = sql.row(select, &[kind.word().into(), number.into()]).await?;
    let missing = || FleetError::NotThere(format!("there is no {} {number}", kind.word()));
    published_of(&row.ok_or_else(missing)?)
}

fn published_of(row: &Row) -> Result<Published, FleetError> {
    let (bytes, files) = (row.bytes(0)?, row.text(1)?);
    let files = serde_json::from_str(&files).map_err(|error| FleetError::Corrupt(format!("files: {error}")))?;
    Ok(Published { manifest: manifest_of(&bytes)?, bytes, files })
}

fn manifest_of(bytes: &[u8]) -> Result<Manifest, FleetError> {
    Manifest::read(bytes).map_err(|error| FleetError::Corrupt(format!("manifest: {error}")))
}

/// Whose fleet this is: the authority that was here first. Another one is refused, for its appliances would be strangers.
pub async fn claim(sql: &Sql, fingerprint: &str) -> Result<(), FleetError> {
    let insert = "INSERT INTO authority (one, fingerprint) VALUES (1, $1) ON CONFLICT (one) DO NOTHING";
    sql.run(insert, &[fingerprint.into()]).await?;
    let row = sql.row("SELECT fingerprint FROM authority", &[]).await?;
    match row.map(|row| row.text(0)).transpose()? {
        Some(first) if first == fingerprint => Ok(()),
        first => Err(FleetError::Refused(format!(
            "the fleet belongs to a server with the authority {}, not to this one with {fingerprint}; give every replica the same keys folder",
            first.unwrap_or_default()
        ))),
    }
}
