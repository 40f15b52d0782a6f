//! The appliance's conversation with its server: it lasts as long as the agent and never holds anything else up.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Link, UplinkError, is_enrolled, orders, push};
use crate::app::App;

/// How often the server hears how this appliance is, and gets what waits.
const EVERY: Duration = Duration::from_mins(1);
/// Seconds an order request waits at the server.
const WAIT: u64 = 25;
/// Pauses after a failure, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(5));

/// Speaks with the server until `stop` turns true; returns at once where there is none.
///
/// Whatever fails is logged and tried again after a pause that doubles. What had begun when it is stopped is brought to
/// its end.
pub async fn run(app: App, stop: watch::Receiver<bool>) {
    if !is_enrolled(app.state_dir()) {
        return;
    }
    let link = match Link::open(app.state_dir()) {
        Ok(link) => link,
        Err(error) => {
            tracing::error!("the server cannot be spoken with: {error}");
            return;
        }
    };
    tracing::info!(url = link.url(), site = %link.site(), appliance = %link.appliance(), "speaking with the server");
    let mut recovered = false;
    let mut pause = PAUSES.0;
    while !*stop.borrow() {
        match converse(&app, &link, stop.clone(), &mut recovered).await {
            Ok(()) => pause = PAUSES.0,
            Err(error) => {
                tracing::warn!(again_s = pause.as_secs(), "the server: {error}");
                rest(pause, stop.clone()).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

/// One check-in with what waits handed over, then orders until the next one is due.
async fn converse(
    app: &App,
    link: &Link,
    stop: watch::Receiver<bool>,
    recovered: &mut bool,
) -> Result<(), UplinkError> {
    if !*recovered {
        orders::recover(app).await?;
        *recovered = true;
    }
    let heard = push::check_in(app, link).await?;
    if heard.rolled_back {
        // It would take orders it has used before; a person has to look first.
        rest(EVERY, stop).await;
        return Ok(());
    }
    push::push(app, link).await?;
    orders::tell(app, link).await?;
    let until = Instant::now() + EVERY;
    while Instant::now() < until && !*stop.borrow() {
        let mut stopping = stop.clone();
        let fetched = tokio::select! {
            fetched = orders::ask(link, WAIT) => fetched?,
            _ = stopping.wait_for(|stop| *stop) => return Ok(()),
        };
        if fetched.orders.is_empty() {
            continue;
        }
        // Checks may block; here they block nothing but the next order.
        let (own, its, runtime) = (app.clone(), link.clone(), tokio::runtime::Handle::current());
        let dealt = tokio::task::spawn_blocking(move || runtime.block_on(orders::deal(&own, &its, &fetched)));
        dealt.await.map_err(|error| super::own("orders", error))??;
        push::push(app, link).await?;
    }
    Ok(())
}

async fn rest(pause: Duration, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
