//! What the server does by itself, each loop with the time of its last success in the metrics.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::state::State;
use crate::domain::role::Sites;
use crate::fleet::{logs, orders};

/// How often each loop comes round.
const EVERY: Duration = Duration::from_secs(1);
/// How often the server looks whether its certificate must be renewed; half of its life is left then.
const DAY: Duration = Duration::from_hours(24);
/// How often replicas look whether another one queued something.
const LOOK: Duration = Duration::from_millis(150);

/// Starts the loops; they end with what this gives.
pub(super) fn spawn(state: &Arc<State>) -> JoinSet<()> {
    let mut loops = JoinSet::new();
    let revoked = Arc::clone(state);
    loops.spawn(async move {
        loop {
            match revoked.read_revoked().await {
                Ok(()) => revoked.metrics.did("revocations", revoked.clock.now()),
                Err(error) => tracing::warn!("which certificates are revoked cannot be read: {error}"),
            }
            if let Err(error) = revoked.read_keys() {
                tracing::error!("the keys cannot be read again; those read before stay in use: {error}");
            }
            revoked.metrics.limiter_degraded.set(i64::from(revoked.limiter.is_degraded()));
            tokio::time::sleep(EVERY).await;
        }
    });
    let own = Arc::clone(state);
    loops.spawn(async move {
        loop {
            tokio::time::sleep(DAY).await;
            match own.renew_own().await {
                Ok(()) => own.metrics.did("own_certificate", own.clock.now()),
                Err(error) => tracing::error!("the server's certificate cannot be renewed: {error}"),
            }
        }
    });
    let bundles = Arc::clone(state);
    loops.spawn(async move {
        loop {
            match bundles.read_bundles().await {
                Ok(()) => bundles.metrics.did("bundles", bundles.clock.now()),
                Err(error) => tracing::warn!("what is published cannot be read: {error}"),
            }
            tokio::time::sleep(EVERY).await;
        }
    });
    let expiring = Arc::clone(state);
    loops.spawn(async move {
        loop {
            let now = expiring.clock.now();
            let expired = expiring.fleet.write(move |sql| {
                Box::pin(async move {
                    orders::expire(sql, now).await?;
                    orders::expire_requests(sql, now).await
                })
            });
            match expired.await {
                Ok(_) => expiring.metrics.did("order_expiry", now),
                Err(error) => tracing::warn!("orders cannot be expired: {error}"),
            }
            match expiring.fleet.look(|sql| Box::pin(logs::quarantined(sql, &Sites::All))).await {
                Ok(rows) => drop(expiring.metrics.quarantined.set(i64::try_from(rows).unwrap_or(i64::MAX))),
                Err(error) => tracing::warn!("what is in quarantine cannot be counted: {error}"),
            }
            tokio::time::sleep(10 * EVERY).await;
        }
    });
    if state.fleet.kind() == "postgresql" {
        let looking = Arc::clone(state);
        loops.spawn(async move {
            loop {
                match looking.fleet.read(|sql| Box::pin(orders::queued(sql))).await {
                    Ok(waiting) => {
                        for (site, appliance) in waiting {
                            looking.ring(&site, &appliance);
                        }
                        looking.metrics.did("order_watch", looking.clock.now());
                    }
                    Err(error) => tracing::warn!("new orders cannot be looked for: {error}"),
                }
                tokio::time::sleep(LOOK).await;
            }
        });
    }
    loops
}
