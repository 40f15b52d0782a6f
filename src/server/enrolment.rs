//! Making sites and one-time tokens; what a token carries to the appliance.

use jiff::Timestamp;
use serde_json::json;

use super::problem::Problem;
use super::state::{State, audited};
use crate::crypto::{hex, sha256};
use crate::domain::id::{ApplianceId, SiteId};
use crate::domain::time::signed;
use crate::fleet::sites::{self, EnrolToken, Site};
use crate::fleet::{Fleet, FleetError};
use crate::wire::Token;

/// A token just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The text, which nobody can read again later.
    pub text: String,
    /// Until when it holds.
    pub expires_at: Timestamp,
}

/// Makes a one-time token for an appliance.
pub async fn token(
    state: &State,
    (site, appliance): (SiteId, ApplianceId),
    again: bool,
    who: &str,
) -> Result<Made, Problem> {
    let secret = hex(&state.random::<32>()?);
    let now = state.clock.now();
    let expires_at = now.checked_add(signed(state.config.token_life.0)).unwrap_or(now);
    let kept = EnrolToken {
        hash: sha256(secret.as_bytes()),
        site: site.clone(),
        appliance: appliance.clone(),
        again,
        created_by: who.to_owned(),
        created_at: now,
        expires_at,
    };
    let who = who.to_owned();
    state
        .fleet
        .write(move |sql| {
            let (kept, who) = (kept.clone(), who.clone());
            Box::pin(async move {
                sites::add_token(sql, &kept).await?;
                let name = format!("{}/{}", kept.site, kept.appliance);
                let detail = json!({"again": kept.again, "expires": kept.expires_at.to_string()});
                audited(sql, (kept.site.as_str(), now), (&who, "enrolment.token", &name), detail).await
            })
        })
        .await?;
    let host = state.config.names.first().map_or("localhost", String::as_str);
    let port = state.config.public_port.unwrap_or_else(|| state.config.listen.port());
    let token = Token {
        url: format!("https://{host}:{port}"),
        authority: hex(&state.authority.fingerprint()),
        operator_domain: state.operator_domain.clone(),
        site,
        appliance,
        secret,
    };
    Ok(Made { text: token.text(), expires_at })
}

/// Adds a site.
pub async fn add_site(fleet: &Fleet, site: &Site, who: &str) -> Result<(), FleetError> {
    let (site, who) = (site.clone(), who.to_owned());
    fleet
        .write(move |sql| {
            let (site, who) = (site.clone(), who.clone());
            Box::pin(async move {
                sites::add_site(sql, &site).await?;
                let detail = json!({"name": site.name, "tier": site.tier.word()});
                audited(sql, (site.id.as_str(), site.created_at), (&who, "site.add", site.id.as_str()), detail).await
            })
        })
        .await
}
