//! The appliance's conversation with its server: it lasts as long as the agent and never holds anything else up.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use super::pull::{self, Pulled};
use super::{Link, UplinkError, enrol, is_enrolled, orders, push};
use crate::app::{App, chance};
use crate::crypto::sha256;
use crate::domain::bundle::BundleKind;
use crate::domain::id::{ApplianceId, SiteId};
use crate::wire::{Announced, CheckedIn, LogState};

/// How often an appliance without a server looks whether it has one.
const LOOK: Duration = Duration::from_secs(10);
/// Seconds an order request waits at the server.
const WAIT: u64 = 25;
/// Pauses after a failure, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(5));

/// Why a conversation ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It goes on.
    Again,
    /// Keys or certificate changed: a new connection is made with them.
    Connect,
    /// Content or configuration changed: the pipeline starts again with them.
    Reload,
}

type Dealt = Result<(orders::After, orders::Refused), UplinkError>;
type Dealing = JoinHandle<Dealt>;

/// What is remembered from one check-in to the next, and need not survive a restart.
#[derive(Debug, Default)]
struct Memory {
    recovered: bool,
    told: Option<Value>,
    /// Bundles that did not hold: each is refused once, and not fetched again every minute.
    refused: BTreeMap<BundleKind, Announced>,
    orders: orders::Refused,
    /// Orders that are being carried out.
    dealing: Option<Dealing>,
}

impl Memory {
    /// What follows from orders that were carried out.
    fn settle(&mut self, dealt: Result<Dealt, JoinError>) -> Result<Next, UplinkError> {
        self.dealing = None;
        let (after, refused) = dealt.map_err(|error| super::own("orders", error))??;
        self.orders = refused;
        Ok(match after {
            orders::After::Nothing => Next::Again,
            orders::After::Connect => Next::Connect,
            orders::After::Reload => Next::Reload,
        })
    }

    /// Brings what is being carried out to its end; whether the pipeline has to start again because of it.
    async fn finish(&mut self) -> bool {
        if self.dealing.is_none() {
            return false;
        }
        let dealt = ended(&mut self.dealing).await;
        self.settle(dealt).is_ok_and(|next| next == Next::Reload)
    }
}

/// Speaks with the server until `stop` turns true; waits for enrolment where there is no server yet.
///
/// Whatever fails is logged and tried again after a pause that doubles, a random part of which is waited, so that a fleet
/// does not come back all at once. What had begun when it is stopped is brought to its end. `true` where the pipeline has
/// to start again because the server gave it something new.
pub async fn run(app: App, stop: watch::Receiver<bool>) -> bool {
    let mut memory = Memory::default();
    let reload = speak(&app, stop, &mut memory).await;
    memory.finish().await || reload
}

async fn speak(app: &App, stop: watch::Receiver<bool>, memory: &mut Memory) -> bool {
    let mut pause = PAUSES.0;
    while !*stop.borrow() {
        if !is_enrolled(app.state_dir()) {
            rest(LOOK, stop.clone()).await;
            continue;
        }
        let link = match Link::open(app.state_dir()) {
            Ok(link) => link,
            Err(error) => {
                tracing::error!("the server cannot be spoken with: {error}");
                rest(PAUSES.1, stop.clone()).await;
                continue;
            }
        };
        tracing::info!(url = link.url(), site = %link.site(), appliance = %link.appliance(), "speaking with the server");
        loop {
            match converse(app, &link, stop.clone(), memory).await {
                Ok(Next::Again) => pause = PAUSES.0,
                Ok(Next::Connect) => break,
                Ok(Next::Reload) => return true,
                Err(error) => {
                    let part = pause.mul_f64(chance());
                    tracing::warn!(again_ms = part.as_millis(), "the server: {error}");
                    rest(part, stop.clone()).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
            if *stop.borrow() {
                return false;
            }
        }
    }
    false
}

/// How a server knows an appliance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its address.
    pub url: String,
    /// The site it knows this appliance by.
    pub site: SiteId,
    /// The name it knows this appliance by.
    pub appliance: ApplianceId,
    /// Entries it holds, verified, kept and cosigned.
    pub held: u64,
}

/// Asks the server how far it follows this appliance's log, and tells nothing; until when the client certificate holds.
pub async fn look(app: &App) -> Result<(Known, Timestamp), UplinkError> {
    let link = Link::open(app.state_dir())?;
    let log: LogState = link.get("/v1/log", Duration::from_secs(10)).await?;
    let known = Known {
        url: link.url().to_owned(),
        site: link.site().clone(),
        appliance: link.appliance().clone(),
        held: log.size,
    };
    Ok((known, link.life.1))
}

/// One check-in, and everything handed over that waits.
pub async fn once(app: &App) -> Result<Known, UplinkError> {
    let link = Link::open(app.state_dir())?;
    let mut told = None;
    let heard = push::check_in(app, &link, &mut told).await?;
    let held = push::push(app, &link, &heard).await?;
    // Once more, so that the server knows that nothing waits.
    push::check_in(app, &link, &mut told).await?;
    Ok(Known { url: link.url().to_owned(), site: link.site().clone(), appliance: link.appliance().clone(), held })
}

/// One check-in with what waits handed over, then orders until the next one is due.
async fn converse(
    app: &App,
    link: &Link,
    stop: watch::Receiver<bool>,
    memory: &mut Memory,
) -> Result<Next, UplinkError> {
    if !memory.recovered {
        orders::recover(app).await?;
        memory.recovered = true;
    }
    let heard = push::check_in(app, link, &mut memory.told).await?;
    // Evidence that is not taken just now keeps neither certificates nor orders waiting: a stop must come through.
    hand_over(app, link, &heard).await;
    if let Err(error) = orders::tell(app, link).await {
        tracing::warn!("reports on orders wait: {error}");
    }
    let next = renewed(app, link, &heard, memory).await?;
    if next != Next::Again {
        hand_over(app, link, &heard).await;
        return Ok(next);
    }
    if heard.rolled_back {
        // It would take orders it has used before; a person has to look first.
        rest(app.config().agent.check_in.0, stop).await;
        return Ok(Next::Again);
    }
    let until = Instant::now() + app.config().agent.check_in.0.mul_f64(0.9 + 0.2 * chance());
    while Instant::now() < until && !*stop.borrow() {
        let mut stopping = stop.clone();
        let left = until.saturating_duration_since(Instant::now()).as_secs().clamp(1, WAIT);
        let fetched = tokio::select! {
            fetched = orders::ask(link, left) => fetched?,
            dealt = ended(&mut memory.dealing), if memory.dealing.is_some() => {
                let next = memory.settle(dealt)?;
                hand_over(app, link, &heard).await;
                if next == Next::Again { continue }
                return Ok(next);
            }
            () = stopped(&mut stopping) => return Ok(Next::Again),
        };
        let new = fetched.orders.iter().any(|order| !memory.orders.contains(&sha256(order.as_bytes())));
        // Orders are carried out one after another, but a stop waits for none of them.
        if memory.dealing.is_some() && new && orders::stop_at_once(app, link, &fetched).await? {
            continue;
        }
        if fetched.orders.is_empty() {
            continue;
        }
        if memory.dealing.is_some() || !new {
            // They are handed out until they are used: not asked for in a loop.
            rest(PAUSES.0, stop.clone()).await;
            continue;
        }
        // Checks may block, and healing takes its time: check-ins and evidence go on beside it.
        let (own, its, refused) = (app.clone(), link.clone(), memory.orders.clone());
        let runtime = tokio::runtime::Handle::current();
        let dealing = move || runtime.block_on(orders::deal(&own, &its, (fetched, refused)));
        memory.dealing = Some(tokio::task::spawn_blocking(dealing));
    }
    Ok(Next::Again)
}

/// Waits for orders that are being carried out, where there are any.
async fn ended(dealing: &mut Option<Dealing>) -> Result<Dealt, JoinError> {
    match dealing {
        Some(dealing) => dealing.await,
        None => std::future::pending().await,
    }
}

/// Hands over what waits; what is not taken waits for the next time.
async fn hand_over(app: &App, link: &Link, heard: &CheckedIn) {
    if let Err(error) = push::push(app, link, heard).await {
        tracing::warn!("evidence waits: {error}");
    }
}

/// Takes over what the server announced: keys, then a certificate, then content and configuration.
async fn renewed(app: &App, link: &Link, heard: &CheckedIn, memory: &mut Memory) -> Result<Next, UplinkError> {
    if let Some(announced) = &heard.order_keys {
        pull::take_keys(app, link, announced).await?;
        return Ok(Next::Connect);
    }
    if link.is_old(app.clock.now()) {
        enrol::renew(app.state_dir(), link).await?;
        tracing::info!("the client certificate was renewed");
        return Ok(Next::Connect);
    }
    if heard.rolled_back {
        return Ok(Next::Again);
    }
    let mut reload = false;
    for (kind, announced) in [(BundleKind::Content, &heard.content), (BundleKind::Config, &heard.config)] {
        let Some(announced) = announced else { continue };
        if pull::held(app, kind).as_ref() == Some(announced) || memory.refused.get(&kind) == Some(announced) {
            continue;
        }
        match pull::pull(app, link, kind).await? {
            Pulled::Adopted(_) => reload = true,
            Pulled::Refused(_) => drop(memory.refused.insert(kind, announced.clone())),
            Pulled::Same => {}
        }
    }
    Ok(if reload { Next::Reload } else { Next::Again })
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error says that whoever could tell is gone, which is a stop, too.
    stop.wait_for(|stop| *stop).await.map(drop).ok();
}

async fn rest(pause: Duration, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = stopped(&mut stop) => {}
    }
}
