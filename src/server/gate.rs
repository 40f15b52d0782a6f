//! Between a connection and a handler: which route, who calls, whether they may, whether they have room. Whoever is turned
//! away where a principal was needed leaves a row in the audit trail.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Request, Response, StatusCode};
use serde_json::json;

use super::authority::Identity;
use super::bodies::Bodies;
use super::problem::Problem;
use super::router::{Answer, Ask, Class, Handler, Route, Router, query_of};
use super::state::State;
use super::whose::Whose;
use crate::crypto::sha256;
use crate::domain::id::SiteId;
use crate::fleet::audit::{self, Audit};
use crate::fleet::people::{self, Caller};
use crate::lock::{Rate, Taken};

/// How long a body may take to arrive.
const BODY: Duration = Duration::from_secs(30);
/// First word of an API token.
pub(super) const TOKEN: &str = "mlc_";

/// Answers that turn somebody away.
const REFUSED: [StatusCode; 3] = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND];
/// Longest path that stands in the audit trail.
const OBJECT: usize = 200;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    /// From a client certificate our authority signed.
    pub(super) identity: Option<Identity>,
}

/// Who an audit row of a refusal names.
struct Who {
    actor: String,
    site: String,
    address: IpAddr,
}

impl Who {
    /// Whoever the connection says it is, which is nobody without a certificate.
    fn at(peer: &Peer) -> Self {
        let (actor, site) = peer.identity.as_ref().map_or_else(
            || ("nobody".to_owned(), String::new()),
            |identity| (format!("appliance:{}/{}", identity.site, identity.appliance), identity.site.to_string()),
        );
        Self { actor, site, address: peer.address }
    }
}

/// Tokens that are looked for in the store, from one address within a minute, and were not known to hold before: a stranger
/// makes up as many as they like, and each would be a question to the database.
const STRANGER: Rate = Rate { limit: 120, window: Duration::from_mins(1) };

/// Lets requests through to their handlers.
#[derive(Debug)]
pub(super) struct Gate {
    state: Arc<State>,
    router: Router,
    bodies: Bodies,
    /// Hashes of tokens that held when they were last looked up, so as many as there are people's programs. They are
    /// looked up all the same; only those who bring none of them are counted as strangers.
    known: Mutex<BTreeSet<[u8; 32]>>,
}

impl Gate {
    pub(super) fn new(state: Arc<State>) -> Self {
        let router = super::api::router();
        state.document.get_or_init(|| super::openapi::document(&router).to_string().into());
        Self { state, router, bodies: Bodies::default(), known: Mutex::default() }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Response<Full<Bytes>> {
        let (class, result) = match self.router.find(request.method(), request.uri().path()) {
            Ok((route, path)) => (route.class.word(), self.call(route, path, request, peer).await),
            Err(problem) => ("none", Err(problem)),
        };
        let response = written(result);
        let status = format!("{}xx", response.status().as_u16() / 100);
        let asked = super::metrics::Asked { class: class.to_owned(), status };
        self.state.metrics.requests.get_or_create(&asked).inc();
        response
    }

    /// What is not needed while a handler waits is boxed: thousands wait at a time.
    async fn call(
        &self,
        route: &Route,
        path: std::collections::BTreeMap<&'static str, String>,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> Result<Answer, Problem> {
        let state = Arc::clone(&self.state);
        let object = request.uri().path().to_owned();
        let stranger = Who::at(peer);
        let (who, answered) = match &route.handler {
            Handler::Anyone(handler) | Handler::Token(handler) => {
                self.room(route, Whose::Address(peer.address)).await?;
                (stranger, handler(state, Box::pin(ask(route, path, request, peer)).await?).await)
            }
            Handler::Appliance(handler) => {
                let identity = match self.appliance(peer) {
                    Ok(identity) => identity,
                    Err(problem) => return Err(Box::pin(self.turned_away(route, &object, &stranger, problem)).await),
                };
                self.room(route, Whose::Appliance(&identity.site, &identity.appliance)).await?;
                let name = format!("{}/{}", identity.site, identity.appliance);
                let _body = Box::pin(self.bodies.room(&name, route.body)).await?;
                (stranger, handler(state, Box::pin(ask(route, path, request, peer)).await?, identity).await)
            }
            Handler::Person(deed, handler) => {
                let caller = match Box::pin(self.person(&request, peer.address)).await {
                    Ok(caller) => caller,
                    Err(problem) => return Err(Box::pin(self.turned_away(route, &object, &stranger, problem)).await),
                };
                // A site's auditors see who was kept from it.
                let site = path.get("site").filter(|site| site.parse::<SiteId>().is_ok()).cloned().unwrap_or_default();
                let who = Who { actor: format!("person:{}", caller.person), site, ..stranger };
                if let Some(role) = caller.roles.refusing(*deed) {
                    let problem = Problem::forbidden(format!("the role `{role}` does not allow this"));
                    return Err(Box::pin(self.turned_away(route, &object, &who, problem)).await);
                }
                self.room(route, Whose::Person(&caller.person)).await?;
                (who, handler(state, Box::pin(ask(route, path, request, peer)).await?, caller).await)
            }
        };
        match answered {
            // What is not theirs looks like what is not there, so the trail keeps both.
            Err(problem) if REFUSED.contains(&problem.status) => {
                Err(Box::pin(self.turned_away(route, &object, &who, problem)).await)
            }
            answered => answered,
        }
    }

    /// Who the certificate says it is, if it still holds.
    fn appliance(&self, peer: &Peer) -> Result<Identity, Problem> {
        let identity = peer.identity.clone();
        let identity = identity.ok_or_else(|| Problem::who("this needs a client certificate; enrol the appliance"))?;
        if self.state.clock.now() >= identity.not_after {
            return Err(Problem::who("the client certificate has expired; enrol the appliance again"));
        }
        if !self.state.knows_revoked() {
            return Err(Problem::later("whether the certificate is revoked cannot be told just now", 5));
        }
        if self.state.is_revoked(&identity.serial) {
            return Err(Problem::who("the client certificate is revoked"));
        }
        Ok(identity)
    }

    /// Who the token says it is.
    async fn person(&self, request: &Request<Incoming>, address: IpAddr) -> Result<Caller, Problem> {
        let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = given.and_then(|value| value.strip_prefix("Bearer ")).filter(|token| token.starts_with(TOKEN));
        let token = token.ok_or_else(|| Problem::who("this needs a token: `Authorization: Bearer mlc_…`"))?;
        let (hash, now) = (sha256(token.as_bytes()), self.state.clock.now());
        if !self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&hash) {
            let key = format!("stranger:{}", Whose::Address(address));
            if let Taken::Later { after } = self.state.limiter.take(&key, STRANGER).await {
                return Err(too_many(STRANGER, after));
            }
        }
        let known =
            self.state.fleet.look(move |sql| Box::pin(async move { people::caller(sql, &hash, now).await })).await?;
        self.remember(hash, known.is_some());
        let caller = known.ok_or_else(|| Problem::who("the token is not known, revoked or too old"))?;
        let fleet = self.state.fleet.clone();
        // Nobody waits for it, and nothing is lost with it.
        tokio::spawn(async move {
            fleet.change(move |sql| Box::pin(async move { people::used(sql, &hash, now).await })).await.ok()
        });
        Ok(caller)
    }

    fn remember(&self, hash: [u8; 32], holds: bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if holds {
            known.insert(hash);
        } else {
            known.remove(&hash);
        }
    }

    /// Whether the caller has room in the route's class; each class has its own, so that none starves another.
    async fn room(&self, route: &Route, who: Whose<'_>) -> Result<(), Problem> {
        let rate = rate(route.class);
        match self.state.limiter.take(&format!("{}:{who}", route.class.word()), rate).await {
            Taken::Allowed { .. } => Ok(()),
            Taken::Later { after } => {
                let label = super::metrics::Word { is: route.class.word().to_owned() };
                self.state.metrics.limited.get_or_create(&label).inc();
                Err(too_many(rate, after))
            }
        }
    }

    /// Notes that a connection ended before anybody could speak on it: with a certificate that is not ours, or too old.
    pub(super) async fn unheard(&self, address: IpAddr, why: &str) {
        let stranger = Who { actor: "nobody".to_owned(), site: String::new(), address };
        let detail = json!({"why": why, "peer": address.to_string()});
        self.refused(&stranger, ("tls", ""), detail).await;
    }

    async fn turned_away(&self, route: &Route, object: &str, who: &Who, problem: Problem) -> Problem {
        // That something does not answer just now is no refusal, and where it is the store, no row could be written.
        if REFUSED.contains(&problem.status) {
            let address = who.address.to_string();
            let detail = json!({"status": problem.status.as_u16(), "why": problem.detail, "peer": address});
            self.refused(who, (&format!("{} {}", route.method, route.path), object), detail).await;
        }
        problem
    }

    async fn refused(&self, who: &Who, (act, object): (&str, &str), detail: serde_json::Value) {
        let row = Audit {
            site: who.site.clone(),
            at: self.state.clock.now(),
            actor: who.actor.clone(),
            act: act.to_owned(),
            object: object.chars().take(OBJECT).collect(),
            outcome: "refused".to_owned(),
            detail,
        };
        // A flood of refusals is counted, and does not fill the disk.
        let few = Rate { limit: 10, window: Duration::from_mins(1) };
        let key = format!("turned-away:{}:{}", who.actor, Whose::Address(who.address));
        if matches!(self.state.limiter.take(&key, few).await, Taken::Later { .. }) {
            return;
        }
        let written = self.state.fleet.change(move |sql| {
            let row = row.clone();
            Box::pin(async move { audit::write(sql, &row).await })
        });
        if let Err(error) = written.await {
            tracing::error!("a refusal could not be audited: {error}");
        }
    }
}

fn too_many(rate: Rate, after: Duration) -> Problem {
    let detail = format!("{} within {} s are allowed", rate.limit, rate.window.as_secs());
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail);
    Problem { retry_after: Some(after.as_secs().saturating_add(1)), ..problem }
}

/// How much room each class has, per identity.
fn rate(class: Class) -> Rate {
    let (limit, window) = match class {
        // A check-in a minute and a long poll after another, with headroom for a restart.
        Class::Presence => (120, Duration::from_mins(1)),
        // Each site has less room than that, whoever asks.
        Class::Orders => (60, Duration::from_mins(5)),
        Class::Enrolment => (20, Duration::from_mins(5)),
        Class::Evidence | Class::Reading => (600, Duration::from_mins(1)),
    };
    Rate { limit, window }
}

async fn ask(
    route: &Route,
    path: std::collections::BTreeMap<&'static str, String>,
    request: Request<Incoming>,
    peer: &Peer,
) -> Result<Ask, Problem> {
    let query = query_of(request.uri().query().unwrap_or_default());
    route.reads(&query)?;
    let reading = Limited::new(request.into_body(), route.body).collect();
    let slow = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body did not arrive in time");
    let body = tokio::time::timeout(BODY, reading).await.map_err(slow)?.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let detail = format!("at most {} bytes are taken here", route.body);
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
        } else {
            Problem::bad("body", "it ended early")
        }
    })?;
    Ok(Ask { path, query, body: body.to_bytes(), peer: peer.address })
}

fn written(result: Result<Answer, Problem>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    let answer = match result {
        Ok(answer) => answer,
        Err(problem) => {
            if let Some(seconds) = problem.retry_after {
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            if let Some(methods) = problem.allow.as_deref().and_then(|methods| HeaderValue::from_str(methods).ok()) {
                headers.insert(ALLOW, methods);
            }
            if problem.status == StatusCode::UNAUTHORIZED {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"malachor\""));
            }
            let body = serde_json::to_vec(&problem.document()).unwrap_or_default();
            Answer { status: problem.status, kind: "application/problem+json", body: body.into() }
        }
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.kind));
    *response.status_mut() = answer.status;
    *response.body_mut() = Full::new(answer.body);
    response
}
