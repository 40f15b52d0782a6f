//! Making sites and one-time tokens; what a token carries to the appliance.

use jiff::Timestamp;
use serde_json::json;

use super::problem::Problem;
use super::state::{State, audited};
use crate::crypto::{hex, sha256};
use crate::domain::id::{ApplianceId, SiteId};
use crate::domain::time::signed;
use crate::fleet::enrolments::{self, EnrolToken};
use crate::fleet::sites::{self, ApplianceState, Site};
use crate::fleet::{Fleet, FleetError, logs, orders};
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
                enrolments::add_token(sql, &kept).await?;
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
    if site.name.trim().is_empty() {
        return Err(FleetError::Refused(format!("the site `{}` needs a name", site.id)));
    }
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

/// Ends an appliance's right to speak, and to be enrolled again with a token that was made before.
pub async fn revoke(
    fleet: &Fleet,
    (site, appliance): (SiteId, ApplianceId),
    who: &str,
    now: Timestamp,
) -> Result<(), FleetError> {
    let who = who.to_owned();
    fleet
        .write(move |sql| {
            let (site, appliance, who) = (site.clone(), appliance.clone(), who.clone());
            Box::pin(async move {
                enrolments::revoke(sql, &site, &appliance, now).await?;
                enrolments::void_tokens(sql, &site, &appliance, now).await?;
                let name = format!("{site}/{appliance}");
                audited(sql, (site.as_str(), now), (&who, "appliance.revoke", &name), json!({})).await
            })
        })
        .await
}

/// Lets an appliance that had come back with an older state act again, because a person looked.
///
/// Refused while it still has less than the server holds of it: its log would tell two stories under one name.
pub async fn release(
    fleet: &Fleet,
    (site, appliance): (SiteId, ApplianceId),
    (who, reason): (&str, &str),
    now: Timestamp,
) -> Result<(), FleetError> {
    let (who, reason) = (who.to_owned(), reason.trim().to_owned());
    if reason.is_empty() {
        return Err(FleetError::Refused("a reason is needed: what was found, and why it may act again".to_owned()));
    }
    fleet
        .write(move |sql| {
            let (site, appliance, who, reason) = (site.clone(), appliance.clone(), who.clone(), reason.clone());
            Box::pin(async move {
                let name = format!("{site}/{appliance}");
                let known = sites::appliance(sql, &site, &appliance).await?;
                let known = known.ok_or_else(|| FleetError::NotThere(format!("no appliance is called `{name}`")))?;
                if known.state != ApplianceState::RolledBack {
                    let why = format!("{name} is {}; only what came back with an older state is released", known.state.word());
                    return Err(FleetError::Stands(why));
                }
                let holds = logs::size(sql, &site, &appliance).await?;
                let used = orders::last_acknowledged(sql, &site, &appliance).await?;
                let has = known.last.as_ref().map_or((0, 0), |last| (last.log_size, last.order_seq));
                if has.0 < holds || has.1 < used {
                    let why = format!(
                        "{name} still has {} entries and {} used orders where the server knows {holds} and {used}: restore a newer \
                         state on it, or enrol it under a new name and revoke this one",
                        has.0, has.1
                    );
                    return Err(FleetError::Stands(why));
                }
                sites::set_state(sql, &site, &appliance, ApplianceState::Active).await?;
                audited(sql, (site.as_str(), now), (&who, "appliance.release", &name), json!({"reason": reason})).await
            })
        })
        .await
}
