//! How appliances become known, and stop being: one-time tokens, client certificates.

use jiff::Timestamp;

use super::sites::{ApplianceState, EvidenceKeys, appliance, site, state_of};
use super::{FleetError, Sql};
use crate::domain::id::{ApplianceId, SiteId};

/// A one-time right to enrol one appliance. Only its hash is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolToken {
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// The site.
    pub site: SiteId,
    /// The appliance it makes known.
    pub appliance: ApplianceId,
    /// Whether it may take the place of one that is enrolled.
    pub again: bool,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// Until when it holds.
    pub expires_at: Timestamp,
}

/// Adds a token.
pub async fn add_token(sql: &Sql, token: &EnrolToken) -> Result<(), FleetError> {
    site(sql, &token.site).await?;
    let known = appliance(sql, &token.site, &token.appliance).await?.is_some();
    if known && !token.again {
        let name = format!("{}/{}", token.site, token.appliance);
        return Err(FleetError::Exists(format!(
            "{name} is enrolled already; only a token made to enrol it again lets it take its own place"
        )));
    }
    let insert = "INSERT INTO enrol_token (hash, site_id, appliance_id, again, created_by, created_at, expires_at)
                  VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let params = [
        (&token.hash).into(),
        token.site.as_str().into(),
        token.appliance.as_str().into(),
        token.again.into(),
        (&token.created_by).into(),
        token.created_at.into(),
        token.expires_at.into(),
    ];
    sql.run(insert, &params).await.map(drop)
}

/// Uses a token up: once, and only in its time. Whoever comes second finds it used.
pub async fn use_token(sql: &Sql, hash: &[u8; 32], now: Timestamp) -> Result<EnrolToken, FleetError> {
    let refused = || FleetError::Refused("the enrolment token is not known, used already, or too old".to_owned());
    let update = "UPDATE enrol_token SET used_at = $1 WHERE hash = $2 AND used_at IS NULL AND expires_at > $1";
    if sql.run(update, &[now.into(), hash.into()]).await? == 0 {
        return Err(refused());
    }
    let select =
        "SELECT site_id, appliance_id, again, created_by, created_at, expires_at FROM enrol_token WHERE hash = $1";
    let row = sql.row(select, &[hash.into()]).await?.ok_or_else(refused)?;
    Ok(EnrolToken {
        hash: *hash,
        site: row.parse(0)?,
        appliance: row.parse(1)?,
        again: row.flag(2)?,
        created_by: row.text(3)?,
        created_at: row.time(4)?,
        expires_at: row.time(5)?,
    })
}

/// Voids the tokens of an appliance that nobody used.
pub async fn void_tokens(sql: &Sql, site: &SiteId, id: &ApplianceId, now: Timestamp) -> Result<(), FleetError> {
    let update = "UPDATE enrol_token SET expires_at = $1
                  WHERE site_id = $2 AND appliance_id = $3 AND used_at IS NULL AND expires_at > $1";
    sql.run(update, &[now.into(), site.as_str().into(), id.as_str().into()]).await.map(drop)
}

/// A client certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// From when it holds.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
}

/// Makes an appliance known with its keys, its log's name and its certificate.
///
/// The same appliance again gets a new certificate and the old ones are revoked; its log goes on only under the keys it
/// has, so other keys are refused: a new appliance gets a new name.
pub async fn enrol(
    sql: &Sql,
    token: &EnrolToken,
    (origin, keys): (&str, &EvidenceKeys),
    certificate: &Certificate,
    now: Timestamp,
) -> Result<(), FleetError> {
    let (site, id) = (&token.site, &token.appliance);
    match appliance(sql, site, id).await? {
        None => {
            let insert =
                "INSERT INTO appliance (site_id, id, origin, state, entry_key, head_key, recovery_key, enrolled_at)
                          VALUES ($1, $2, $3, 'active', $4, $5, $6, $7)";
            let params = [
                site.as_str().into(),
                id.as_str().into(),
                origin.into(),
                (&keys.entry).into(),
                (&keys.head).into(),
                keys.recovery.clone().into(),
                now.into(),
            ];
            sql.run(insert, &params).await?;
            let places = "INSERT INTO order_seq (site_id, appliance_id, next) VALUES ($1, $2, 1)";
            sql.run(places, &[site.as_str().into(), id.as_str().into()]).await?;
        }
        Some(known) => {
            if !token.again {
                return Err(FleetError::Refused(format!("{site}/{id} is enrolled already")));
            }
            if known.keys != *keys || known.origin != origin {
                let why = "comes with other evidence keys than its log was begun with; enrol it under another name";
                return Err(FleetError::Refused(format!("{site}/{id} {why}")));
            }
            revoke_certificates(sql, site, id, now).await?;
            let update = "UPDATE appliance SET state = 'active', enrolled_at = $1 WHERE site_id = $2 AND id = $3";
            sql.run_one(update, &[now.into(), site.as_str().into(), id.as_str().into()], "the appliance is gone")
                .await?;
        }
    }
    add_certificate(sql, site, id, certificate, now).await
}

/// Writes down a certificate that was issued.
pub async fn add_certificate(
    sql: &Sql,
    site: &SiteId,
    id: &ApplianceId,
    certificate: &Certificate,
    now: Timestamp,
) -> Result<(), FleetError> {
    let insert = "INSERT INTO certificate (site_id, appliance_id, serial, not_before, not_after, issued_at)
                  VALUES ($1, $2, $3, $4, $5, $6)";
    let params = [
        site.as_str().into(),
        id.as_str().into(),
        (&certificate.serial).into(),
        certificate.not_before.into(),
        certificate.not_after.into(),
        now.into(),
    ];
    sql.run(insert, &params).await.map(drop)
}

async fn revoke_certificates(sql: &Sql, site: &SiteId, id: &ApplianceId, now: Timestamp) -> Result<(), FleetError> {
    let update =
        "UPDATE certificate SET revoked_at = $1 WHERE site_id = $2 AND appliance_id = $3 AND revoked_at IS NULL";
    sql.run(update, &[now.into(), site.as_str().into(), id.as_str().into()]).await.map(drop)
}

/// Ends an appliance's right to speak.
pub async fn revoke(sql: &Sql, site: &SiteId, id: &ApplianceId, now: Timestamp) -> Result<(), FleetError> {
    let update = "UPDATE appliance SET state = 'revoked' WHERE site_id = $1 AND id = $2";
    let missing = format!("no appliance is called `{site}/{id}`");
    sql.run_one(update, &[site.as_str().into(), id.as_str().into()], &missing).await?;
    revoke_certificates(sql, site, id, now).await
}

/// Serials of certificates that are revoked and would still hold.
pub async fn revoked(sql: &Sql, now: Timestamp) -> Result<Vec<String>, FleetError> {
    let select = "SELECT serial FROM certificate WHERE revoked_at IS NOT NULL AND not_after > $1 ORDER BY serial";
    sql.rows(select, &[now.into()]).await?.iter().map(|row| row.text(0)).collect()
}

/// Whether an appliance may go on under a certificate, asked where it cannot change before the transaction ends.
pub async fn may_go_on(sql: &Sql, site: &SiteId, id: &ApplianceId, serial: &str) -> Result<(), FleetError> {
    let refused = || FleetError::Refused("the client certificate is revoked".to_owned());
    let select = "SELECT state FROM appliance WHERE site_id = $1 AND id = $2 FOR UPDATE";
    let row = sql.row(select, &[site.as_str().into(), id.as_str().into()]).await?.ok_or_else(refused)?;
    let select = "SELECT revoked_at FROM certificate WHERE site_id = $1 AND appliance_id = $2 AND serial = $3";
    let known = sql.row(select, &[site.as_str().into(), id.as_str().into(), serial.into()]).await?;
    let held = known.map(|row| row.maybe_time(0)).transpose()?;
    if state_of(&row, 0)? == ApplianceState::Revoked || held != Some(None) { Err(refused()) } else { Ok(()) }
}

/// A certificate is in use: those of the appliance that were issued before it are revoked. Says how many.
pub async fn replace_older(
    sql: &Sql,
    site: &SiteId,
    id: &ApplianceId,
    serial: &str,
    now: Timestamp,
) -> Result<u64, FleetError> {
    let update = "UPDATE certificate SET revoked_at = $1 WHERE site_id = $2 AND appliance_id = $3 AND serial <> $4
                  AND revoked_at IS NULL AND issued_at <= (SELECT c.issued_at FROM certificate c WHERE c.serial = $4)";
    sql.run(update, &[now.into(), site.as_str().into(), id.as_str().into(), serial.into()]).await
}
