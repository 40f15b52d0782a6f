//! Requests people make, the orders that come from them, and what became of each.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::sql::{Many, one_of, within};
use super::{FleetError, Row, Sql, Value};
use crate::domain::id::{ApplianceId, OrderId, SiteId};
use crate::domain::order::OrderState;
use crate::domain::role::Sites;

/// What somebody asked for; one order for each appliance it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// Its id.
    pub id: OrderId,
    /// The verb, as the JSON that stands in each order.
    pub verb: String,
    /// Which appliances: settled when it was asked. In a list, those of the sites it was asked for.
    pub target: Vec<(SiteId, ApplianceId)>,
    /// Why.
    pub reason: String,
    /// Who asked.
    pub asked_by: String,
    /// When.
    pub asked_at: Timestamp,
    /// For how long it waits for a second person, and then its orders hold, in seconds.
    pub life_s: i64,
    /// waiting, issued, rejected or expired.
    pub state: String,
    /// Who decided, where a second person had to.
    pub decided_by: Option<String>,
    /// When.
    pub decided_at: Option<Timestamp>,
}

impl Request {
    /// Whether it has waited for a second person for as long as it may.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        now.duration_since(self.asked_at).as_secs() >= self.life_s
    }
}

/// One order to one appliance, as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredOrder {
    /// The site.
    pub site: SiteId,
    /// The appliance.
    pub appliance: ApplianceId,
    /// Its place in the appliance's sequence.
    pub seq: u64,
    /// Its id.
    pub id: OrderId,
    /// The request it came from.
    pub request: OrderId,
    /// The signed bytes.
    #[serde(skip)]
    pub envelope: Vec<u8>,
    /// Until when it holds.
    pub expires_at: Timestamp,
    /// Where it stands.
    pub state: OrderState,
    /// When it was signed.
    pub queued_at: Timestamp,
    /// When it last moved.
    pub changed_at: Timestamp,
    /// What the appliance said last.
    pub say: String,
    /// The appliance's signed report.
    #[serde(skip)]
    pub report: Option<Vec<u8>>,
}

const REQUEST: &str = "id, verb, reason, asked_by, asked_at, life_s, state, decided_by, decided_at";

/// Writes a request.
pub async fn add_request(sql: &Sql, request: &Request) -> Result<(), FleetError> {
    let insert = "INSERT INTO request (id, verb, reason, asked_by, asked_at, life_s, state, decided_by, decided_at)
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let params = [
        request.id.as_str().into(),
        (&request.verb).into(),
        (&request.reason).into(),
        (&request.asked_by).into(),
        request.asked_at.into(),
        request.life_s.into(),
        (&request.state).into(),
        request.decided_by.clone().into(),
        request.decided_at.into(),
    ];
    sql.run(insert, &params).await?;
    let target =
        |(site, id): &(SiteId, ApplianceId)| vec![request.id.as_str().into(), site.as_str().into(), id.as_str().into()];
    sql.run_many(&TARGETS, request.target.iter().map(target).collect()).await.map(drop)
}

const TARGETS: Many<'static> =
    Many { table: "request_target", columns: &[("request_id", "text"), ("site_id", "text"), ("appliance_id", "text")] };

/// Decides a request that waits; one that does not wait any more is refused.
pub async fn decide_request(sql: &Sql, id: &OrderId, state: &str, who: &str, now: Timestamp) -> Result<(), FleetError> {
    let update = "UPDATE request SET state = $1, decided_by = $2, decided_at = $3 WHERE id = $4 AND state = 'waiting'";
    match sql.run(update, &[state.into(), who.into(), now.into(), id.as_str().into()]).await? {
        0 => Err(FleetError::Stands(format!("request {id} does not wait for a second person any more"))),
        _ => Ok(()),
    }
}

/// Ends requests nobody decided in time; says how many.
pub async fn expire_requests(sql: &Sql, now: Timestamp) -> Result<u64, FleetError> {
    let update = "UPDATE request SET state = 'expired', decided_at = $1
                  WHERE state = 'waiting' AND asked_at + life_s * 1000 <= $1";
    sql.run(update, &[now.into()]).await
}

/// One request.
pub async fn request(sql: &Sql, id: &OrderId) -> Result<Request, FleetError> {
    let row = sql.row(&format!("SELECT {REQUEST} FROM request WHERE id = $1"), &[id.as_str().into()]).await?;
    let row = row.ok_or_else(|| FleetError::NotThere(format!("there is no request {id}")))?;
    let mut request = request_of(&row)?;
    request.target = targets(sql, &[&request.id], &Sites::All).await?.remove(&request.id).unwrap_or_default();
    Ok(request)
}

/// Requests for appliances of these sites, newest first, from the one after `before` on, with their orders there.
pub async fn requests(
    sql: &Sql,
    sites: &Sites,
    before: Option<&OrderId>,
    limit: i64,
) -> Result<Vec<(Request, Vec<StoredOrder>)>, FleetError> {
    let mut params: Vec<Value> = vec![before.map_or("", OrderId::as_str).into(), limit.into()];
    let theirs = within("t.site_id", sites, &mut params);
    let select = format!(
        "SELECT {REQUEST} FROM request r
         WHERE ($1 = '' OR (r.asked_at, r.id) < (SELECT b.asked_at, b.id FROM request b WHERE b.id = $1))
         AND EXISTS (SELECT 1 FROM request_target t WHERE t.request_id = r.id AND {theirs})
         ORDER BY r.asked_at DESC, r.id DESC LIMIT $2"
    );
    let mut found: Vec<Request> = sql.rows(&select, &params).await?.iter().map(request_of).collect::<Result<_, _>>()?;
    let ids: Vec<&OrderId> = found.iter().map(|request| &request.id).collect();
    let mut targets = targets(sql, &ids, sites).await?;
    let mut orders = orders_of(sql, &ids, sites).await?;
    for request in &mut found {
        request.target = targets.remove(&request.id).unwrap_or_default();
    }
    let with = |request: Request| {
        let its = orders.remove(&request.id).unwrap_or_default();
        (request, its)
    };
    Ok(found.into_iter().map(with).collect())
}

/// The appliances of these sites that requests were settled on.
async fn targets(
    sql: &Sql,
    requests: &[&OrderId],
    sites: &Sites,
) -> Result<BTreeMap<OrderId, Vec<(SiteId, ApplianceId)>>, FleetError> {
    let mut params = Vec::new();
    let these = one_of("request_id", requests.iter().map(|id| id.as_str()), &mut params);
    let theirs = within("site_id", sites, &mut params);
    let select = format!(
        "SELECT request_id, site_id, appliance_id FROM request_target WHERE {these} AND {theirs}
         ORDER BY request_id, site_id, appliance_id"
    );
    let mut found: BTreeMap<OrderId, Vec<_>> = BTreeMap::new();
    for row in sql.rows(&select, &params).await? {
        found.entry(row.parse(0)?).or_default().push((row.parse(1)?, row.parse(2)?));
    }
    Ok(found)
}

fn request_of(row: &Row) -> Result<Request, FleetError> {
    Ok(Request {
        id: row.parse(0)?,
        verb: row.text(1)?,
        target: Vec::new(),
        reason: row.text(2)?,
        asked_by: row.text(3)?,
        asked_at: row.time(4)?,
        life_s: row.int(5)?,
        state: row.text(6)?,
        decided_by: row.maybe_text(7)?,
        decided_at: row.maybe_time(8)?,
    })
}

/// Goes on after a place in an appliance's sequence that was used, whoever gave it out.
pub async fn go_on_after(sql: &Sql, site: &SiteId, id: &ApplianceId, used: u64) -> Result<(), FleetError> {
    let update = "UPDATE order_seq SET next = $1 WHERE site_id = $2 AND appliance_id = $3 AND next < $1";
    sql.run(update, &[used.saturating_add(1).into(), site.as_str().into(), id.as_str().into()]).await.map(drop)
}

/// Takes the next place in an appliance's sequence.
pub async fn next_seq(sql: &Sql, site: &SiteId, id: &ApplianceId) -> Result<u64, FleetError> {
    let update = "UPDATE order_seq SET next = next + 1 WHERE site_id = $1 AND appliance_id = $2 RETURNING next - 1";
    let row = sql.row(update, &[site.as_str().into(), id.as_str().into()]).await?;
    row.ok_or_else(|| FleetError::NotThere(format!("no appliance is called `{site}/{id}`")))?.count(0)
}

/// Takes the next place in the sequence of each appliance a request was settled on.
pub async fn next_seqs(sql: &Sql, request: &OrderId) -> Result<BTreeMap<(SiteId, ApplianceId), u64>, FleetError> {
    let update = "UPDATE order_seq SET next = next + 1
                  WHERE (site_id, appliance_id) IN (SELECT t.site_id, t.appliance_id FROM request_target t WHERE t.request_id = $1)
                  RETURNING site_id, appliance_id, next - 1";
    let rows = sql.rows(update, &[request.as_str().into()]).await?;
    rows.iter().map(|row| Ok(((row.parse(0)?, row.parse(1)?), row.count(2)?))).collect()
}

/// Ids of the order keys that each appliance of a request holds: given at enrolment, told at check-ins.
pub async fn keys_held(
    sql: &Sql,
    request: &OrderId,
) -> Result<BTreeMap<(SiteId, ApplianceId), Vec<String>>, FleetError> {
    let select = "SELECT a.site_id, a.id, a.order_key_seen FROM request_target t
                  JOIN appliance a ON a.site_id = t.site_id AND a.id = t.appliance_id WHERE t.request_id = $1
                  ORDER BY a.site_id, a.id";
    let rows = sql.rows(select, &[request.as_str().into()]).await?;
    rows.iter().map(|row| Ok(((row.parse(0)?, row.parse(1)?), row.words(2)?))).collect()
}

/// Writes an order.
pub async fn add_order(sql: &Sql, order: &StoredOrder) -> Result<(), FleetError> {
    add_orders(sql, std::slice::from_ref(order)).await
}

/// Writes orders, in one statement where the database can.
pub async fn add_orders(sql: &Sql, orders: &[StoredOrder]) -> Result<(), FleetError> {
    let values = |order: &StoredOrder| {
        vec![
            order.site.as_str().into(),
            order.appliance.as_str().into(),
            order.seq.into(),
            order.id.as_str().into(),
            order.request.as_str().into(),
            order.envelope.clone().into(),
            order.expires_at.into(),
            order.state.word().into(),
            order.queued_at.into(),
            order.changed_at.into(),
            (&order.say).into(),
        ]
    };
    sql.run_many(&ORDERS, orders.iter().map(values).collect()).await.map(drop)
}

const ORDERS: Many<'static> = Many {
    table: "appliance_order",
    columns: &[
        ("site_id", "text"),
        ("appliance_id", "text"),
        ("seq", "int8"),
        ("id", "text"),
        ("request_id", "text"),
        ("envelope", "bytea"),
        ("expires_at", "int8"),
        ("state", "text"),
        ("queued_at", "int8"),
        ("changed_at", "int8"),
        ("say", "text"),
    ],
};

const ORDER: &str =
    "site_id, appliance_id, seq, id, request_id, envelope, expires_at, state, queued_at, changed_at, say, report";

/// Orders an appliance has not acknowledged yet, in their order. What it fetched and lost is handed out again. One that came
/// back with less than it had gets none: it must not act before a person looked.
pub async fn waiting(
    sql: &Sql,
    site: &SiteId,
    id: &ApplianceId,
    now: Timestamp,
) -> Result<Vec<StoredOrder>, FleetError> {
    let select = format!(
        "SELECT {ORDER} FROM appliance_order WHERE site_id = $1 AND appliance_id = $2 AND state IN ('queued', 'delivered')
         AND expires_at > $3
         AND EXISTS (SELECT 1 FROM appliance a WHERE a.site_id = $1 AND a.id = $2 AND a.state = 'active')
         ORDER BY seq LIMIT 100"
    );
    let rows = sql.rows(&select, &[site.as_str().into(), id.as_str().into(), now.into()]).await?;
    rows.iter().map(order_of).collect()
}

/// Marks orders as handed out.
pub async fn delivered(
    sql: &Sql,
    site: &SiteId,
    id: &ApplianceId,
    up_to: u64,
    now: Timestamp,
) -> Result<(), FleetError> {
    let update = "UPDATE appliance_order SET state = 'delivered', changed_at = $1
                  WHERE site_id = $2 AND appliance_id = $3 AND seq <= $4 AND state = 'queued'";
    sql.run(update, &[now.into(), site.as_str().into(), id.as_str().into(), up_to.into()]).await.map(drop)
}

/// One order of a site's appliance.
pub async fn order(sql: &Sql, site: &SiteId, id: &OrderId) -> Result<StoredOrder, FleetError> {
    let select = format!("SELECT {ORDER} FROM appliance_order WHERE id = $1 AND site_id = $2 FOR UPDATE");
    let row = sql.row(&select, &[id.as_str().into(), site.as_str().into()]).await?;
    row.map_or_else(|| Err(FleetError::NotThere(format!("there is no order {id}"))), |row| order_of(&row))
}

/// The orders of requests to appliances of these sites, by site and appliance.
pub async fn orders_of(
    sql: &Sql,
    requests: &[&OrderId],
    sites: &Sites,
) -> Result<BTreeMap<OrderId, Vec<StoredOrder>>, FleetError> {
    let mut params = Vec::new();
    let these = one_of("request_id", requests.iter().map(|id| id.as_str()), &mut params);
    let theirs = within("site_id", sites, &mut params);
    let select = format!(
        "SELECT {ORDER} FROM appliance_order WHERE {these} AND {theirs} ORDER BY request_id, site_id, appliance_id, seq"
    );
    let mut found: BTreeMap<OrderId, Vec<StoredOrder>> = BTreeMap::new();
    for row in sql.rows(&select, &params).await? {
        let order = order_of(&row)?;
        found.entry(order.request.clone()).or_default().push(order);
    }
    Ok(found)
}

/// Moves an order on.
pub async fn put_order_state(
    sql: &Sql,
    order: &StoredOrder,
    state: OrderState,
    (say, report): (&str, Option<Vec<u8>>),
    now: Timestamp,
) -> Result<(), FleetError> {
    let update = "UPDATE appliance_order SET state = $1, say = $2, report = coalesce($3, report), changed_at = $4
                  WHERE site_id = $5 AND appliance_id = $6 AND seq = $7";
    let params = [
        state.word().into(),
        say.into(),
        report.into(),
        now.into(),
        order.site.as_str().into(),
        order.appliance.as_str().into(),
        order.seq.into(),
    ];
    sql.run_one(update, &params, "the order is gone").await
}

/// Ends orders nobody began in time; says how many.
pub async fn expire(sql: &Sql, now: Timestamp) -> Result<u64, FleetError> {
    let update = "UPDATE appliance_order SET state = 'expired', say = 'nobody began in time', changed_at = $1
                  WHERE state IN ('queued', 'delivered') AND expires_at <= $1";
    sql.run(update, &[now.into()]).await
}

fn order_of(row: &Row) -> Result<StoredOrder, FleetError> {
    let state = row.text(7)?;
    Ok(StoredOrder {
        site: row.parse(0)?,
        appliance: row.parse(1)?,
        seq: row.count(2)?,
        id: row.parse(3)?,
        request: row.parse(4)?,
        envelope: row.bytes(5)?,
        expires_at: row.time(6)?,
        state: OrderState::read(&state).ok_or_else(|| FleetError::Corrupt(format!("order state `{state}`")))?,
        queued_at: row.time(8)?,
        changed_at: row.time(9)?,
        say: row.text(10)?,
        report: row.maybe_bytes(11)?,
    })
}

/// Appliances for which something is queued.
pub async fn queued(sql: &Sql) -> Result<Vec<(SiteId, ApplianceId)>, FleetError> {
    let select = "SELECT DISTINCT site_id, appliance_id FROM appliance_order WHERE state = 'queued' LIMIT 10000";
    sql.rows(select, &[]).await?.iter().map(|row| Ok((row.parse(0)?, row.parse(1)?))).collect()
}

/// The last order an appliance said that it has; 0 before the first.
pub async fn last_acknowledged(sql: &Sql, site: &SiteId, id: &ApplianceId) -> Result<u64, FleetError> {
    let select = "SELECT coalesce(max(seq), 0) FROM appliance_order WHERE site_id = $1 AND appliance_id = $2
                  AND state NOT IN ('queued', 'delivered', 'expired')";
    let row = sql.row(select, &[site.as_str().into(), id.as_str().into()]).await?;
    row.map_or(Ok(0), |row| row.count(0))
}
