//! All routes. Appliances speak under `/v1` with their certificates, people and programs under `/api` with tokens.

mod appliance;
mod enrol;
mod evidence;
mod operator;
mod orders;
mod quarantine;
mod root;

use hyper::Method;

use super::intake::MAX_BODY;
use super::router::{Class, Handler, Query, Route, Router, schema};
use crate::domain::role::Deed;

/// Media type of entries and the head that covers them.
const EVIDENCE: &str = "application/vnd.malachor.evidence";

/// The route table.
pub fn router() -> Router {
    use Handler::{Anyone, Appliance, Person, Token};
    let (get, post) = (|| Method::GET, || Method::POST);
    Router::new(vec![
        Route::new(get(), "/health", Class::Reading, Anyone(root::health), "Whether the process answers; nothing else"),
        Route::new(get(), "/ready", Class::Reading, Anyone(root::ready), "Whether every store answers")
            .with(None, schema::<crate::wire::Ready>()),
        Route::new(get(), "/openapi.json", Class::Reading, Anyone(root::openapi), "This document"),
        Route::new(
            get(),
            "/metrics",
            Class::Reading,
            Person(Deed::SeeFleet, root::metrics),
            "Metrics as Prometheus text",
        )
        .answering(root::METRICS),
        Route::new(
            get(),
            "/runbooks",
            Class::Reading,
            Person(Deed::SeeFleet, root::runbooks),
            "The runbooks orders may name",
        )
        .with(None, schema::<Vec<crate::wire::RunbookLine>>()),
        Route::new(
            get(),
            "/stats",
            Class::Reading,
            Person(Deed::SeeFleet, root::stats),
            "Counts of the fleet; null where nothing is known",
        )
        .with(None, schema::<crate::wire::Stats>()),
        Route::new(
            post(),
            "/v1/enrol",
            Class::Enrolment,
            Token(enrol::enrol),
            "Makes an appliance known, once, with a token",
        )
        .with(schema::<crate::wire::Enrol>(), schema::<crate::wire::Enrolled>()),
        Route::new(
            post(),
            "/v1/certificate",
            Class::Enrolment,
            Appliance(enrol::renew),
            "A new client certificate before the old one ends",
        )
        .with(schema::<crate::wire::Renew>(), schema::<crate::wire::Renewed>()),
        Route::new(
            post(),
            "/v1/check-in",
            Class::Presence,
            Appliance(appliance::check_in),
            "Says how the appliance is",
        )
        .with(schema::<crate::wire::CheckIn>(), schema::<crate::wire::CheckedIn>()),
        Route::new(
            get(),
            "/v1/bundles/{kind}",
            Class::Presence,
            Appliance(appliance::bundle),
            "The content or configuration published for the appliance's site",
        )
        .with(None, schema::<crate::wire::BundleFiles>()),
        Route::new(
            get(),
            "/v1/log",
            Class::Evidence,
            Appliance(evidence::log),
            "How far the server follows the appliance's log",
        )
        .with(None, schema::<crate::wire::LogState>()),
        Route::new(
            post(),
            "/v1/evidence",
            Class::Evidence,
            Appliance(evidence::take),
            "Hands over entries and the head that covers them",
        )
        .taking(MAX_BODY, EVIDENCE)
        .with(None, schema::<crate::wire::Receipt>()),
        Route::new(
            get(),
            "/v1/orders",
            Class::Presence,
            Appliance(orders::fetch),
            "Signed orders; with `wait` seconds it waits for one",
        )
        .asking(&[Query::Number(orders::WAIT)])
        .with(None, schema::<crate::wire::Orders>()),
        Route::new(
            post(),
            "/v1/orders/{id}",
            Class::Presence,
            Appliance(orders::report),
            "What became of an order, signed by the appliance",
        )
        .with(schema::<crate::wire::Signed>(), schema::<crate::wire::Empty>()),
        Route::new(get(), "/api/sites", Class::Reading, Person(Deed::SeeFleet, operator::sites), "Sites")
            .with(None, schema::<Vec<crate::wire::SiteLine>>()),
        Route::new(post(), "/api/sites", Class::Reading, Person(Deed::ManageFleet, operator::add_site), "Adds a site")
            .with(schema::<crate::wire::AddSite>(), schema::<crate::wire::SiteLine>()),
        Route::new(
            get(),
            "/api/appliances",
            Class::Reading,
            Person(Deed::SeeFleet, operator::appliances),
            "Appliances and when they were last seen",
        )
        .with(None, schema::<Vec<crate::wire::ApplianceLine>>()),
        Route::new(
            post(),
            "/api/sites/{site}/appliances/{appliance}/token",
            Class::Reading,
            Person(Deed::ManageFleet, operator::enrol_token),
            "A one-time enrolment token",
        )
        .with(schema::<crate::wire::AskToken>(), schema::<crate::wire::TokenText>()),
        Route::new(
            post(),
            "/api/sites/{site}/appliances/{appliance}/release",
            Class::Reading,
            Person(Deed::ManageFleet, operator::release),
            "Lets an appliance that came back with an older state act again",
        )
        .with(schema::<crate::wire::Because>(), schema::<crate::wire::Empty>()),
        Route::new(
            post(),
            "/api/sites/{site}/appliances/{appliance}/revoke",
            Class::Reading,
            Person(Deed::ManageFleet, operator::revoke),
            "Ends an appliance's right to speak",
        )
        .with(None, schema::<crate::wire::Empty>()),
        Route::new(
            get(),
            "/api/orders",
            Class::Reading,
            Person(Deed::SeeOrders, operator::requests),
            "Requests and what became of their orders",
        )
        .asking(&[Query::Number(operator::REQUESTS), Query::Before])
        .with(None, schema::<Vec<crate::wire::RequestLine>>()),
        Route::new(
            post(),
            "/api/orders",
            Class::Orders,
            Person(Deed::Order, operator::ask),
            "Asks for an order; dangerous ones wait for a second person",
        )
        .with(schema::<crate::wire::AskOrder>(), schema::<crate::wire::RequestLine>()),
        Route::new(
            post(),
            "/api/orders/{id}/decision",
            Class::Orders,
            Person(Deed::ApproveOrder, operator::decide),
            "A second person's yes or no",
        )
        .with(schema::<crate::wire::Decide>(), schema::<crate::wire::RequestLine>()),
        Route::new(
            get(),
            "/api/audit",
            Class::Reading,
            Person(Deed::SeeAudit, operator::audit),
            "Who did what, newest first",
        )
        .asking(&[Query::Number(operator::ROWS), Query::Number(operator::BEFORE), Query::Site])
        .with(None, schema::<Vec<crate::wire::AuditLine>>()),
    ])
}
