//! Enrolment tokens that end before anybody used them.

use jiff::Timestamp;

use super::{FleetError, Sql};
use crate::domain::id::{ApplianceId, SiteId};

/// Voids the tokens of an appliance that nobody used.
pub async fn void_tokens(sql: &Sql, site: &SiteId, id: &ApplianceId, now: Timestamp) -> Result<(), FleetError> {
    let update = "UPDATE enrol_token SET expires_at = $1
                  WHERE site_id = $2 AND appliance_id = $3 AND used_at IS NULL AND expires_at > $1";
    sql.run(update, &[now.into(), site.as_str().into(), id.as_str().into()]).await.map(drop)
}
