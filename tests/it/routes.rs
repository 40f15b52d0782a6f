//! Every route, called as everybody who may not call it: refused, told nothing, and written down.
//!
//! The routes come from the program's own table; one that is not in the list below fails the first test.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use malachor::crypto::sha256;
use malachor::domain::bundle::{BundleKind, SITE_FILE};
use malachor::domain::role::{Role, Sites, may};
use malachor::fleet::enrolments::{self, EnrolToken};
use malachor::fleet::people::{self, Person, Token};
use malachor::fleet::{self, Place};
use malachor::server::api;
use malachor::server::authority::{Authority, identity};
use malachor::server::publish::{Draft, publish};
use malachor::server::router::{Handler, Route};

use crate::caller::{Caller, Shown, on_runtime};
use crate::enrolled::Enrolled;
use crate::serving::Fleet;

/// What another tenant, or a part of the fleet, gets from a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// It says nothing about anybody.
    Nobody,
    /// It works on what the caller's token or certificate names, whatever the request says.
    Own,
    /// It names a thing: another tenant's is not there.
    Named,
    /// It is about all sites: who has some of them may not.
    Fleet,
}

use Reach::{Fleet as Whole, Named, Nobody, Own};

const ROUTES: &[(&str, &str, Reach)] = &[
    ("GET /health", "anyone", Nobody),
    ("GET /ready", "anyone", Nobody),
    ("GET /openapi.json", "anyone", Nobody),
    ("GET /metrics", "person: SeeFleet", Whole),
    ("GET /runbooks", "person: SeeFleet", Nobody),
    ("GET /stats", "person: SeeFleet", Own),
    ("POST /v1/enrol", "enrolment token", Own),
    ("POST /v1/certificate", "appliance", Own),
    ("POST /v1/check-in", "appliance", Own),
    ("GET /v1/bundles/{kind}", "appliance", Own),
    ("GET /v1/log", "appliance", Own),
    ("POST /v1/evidence", "appliance", Own),
    ("GET /v1/orders", "appliance", Own),
    ("POST /v1/orders/{id}", "appliance", Named),
    ("GET /api/sites", "person: SeeFleet", Own),
    ("POST /api/sites", "person: ManageFleet", Whole),
    ("GET /api/appliances", "person: SeeFleet", Own),
    ("POST /api/sites/{site}/appliances/{appliance}/token", "person: ManageFleet", Named),
    ("POST /api/sites/{site}/appliances/{appliance}/release", "person: ManageFleet", Named),
    ("POST /api/sites/{site}/appliances/{appliance}/revoke", "person: ManageFleet", Named),
    ("GET /api/orders", "person: SeeOrders", Own),
    ("POST /api/orders", "person: Order", Named),
    ("POST /api/orders/{id}/decision", "person: ApproveOrder", Named),
    ("GET /api/audit", "person: SeeAudit", Own),
];

/// Words of the other tenant alone: its names, and the reason of an order to it.
const SECRET: [&str; 3] = ["zebra", "okapi", "numbat"];

fn name(route: &Route) -> String {
    format!("{} {}", route.method, route.path)
}

fn reach(route: &Route) -> Reach {
    ROUTES.iter().find(|(known, ..)| *known == name(route)).unwrap_or_else(|| panic!("{route:?} is not classified")).2
}

/// A fleet of two sites: `clinic`, whose people and appliance ask, and `zebra`, whom they must not reach.
struct World {
    _server: Fleet,
    store: fleet::Fleet,
    authority: PathBuf,
    /// Nobody, before they take anything along.
    nobody: Caller,
    /// Everything everywhere.
    quagga: String,
    clinic: Enrolled,
    zebra: Enrolled,
    /// An order to the other site's appliance, and a request that waits for a second person.
    order: String,
    waiting: String,
    places: AtomicU32,
}

/// A refusal that must stand in the trail.
#[derive(Debug)]
struct Refusal {
    from: Ipv4Addr,
    act: String,
    actor: String,
    status: u16,
}

impl World {
    async fn new() -> Self {
        let server = Fleet::start();
        let authority = server.place.dir.path().join("fleet/keys/ca.pem");
        let store = fleet::Fleet::open(Place::File(server.place.dir.path().join("fleet/fleet.db"))).await.unwrap();
        let nobody = Caller::new(server.port, &authority);
        let mut world = Self {
            _server: server,
            store,
            authority,
            nobody,
            quagga: String::new(),
            clinic: Enrolled::new("clinic", "front"),
            zebra: Enrolled::new("zebra", "okapi"),
            order: String::new(),
            waiting: String::new(),
            places: AtomicU32::new(0),
        };
        world.quagga = world.person("quagga", Role::Admin, Sites::All).await;
        world.people().await
    }

    async fn people(mut self) -> Self {
        for (site, called) in [("clinic", "Elm Street"), ("zebra", "Zebra Dental")] {
            let body = format!(r#"{{"id": "{site}", "name": "{called}", "tier": "essential"}}"#);
            self.done("POST", "/api/sites", &body).await;
        }
        let token = self.done("POST", "/api/sites/clinic/appliances/front/token", "{}").await;
        self.clinic.enrol(&self.nobody, token["token"].as_str().unwrap()).await;
        let token = self.done("POST", "/api/sites/zebra/appliances/okapi/token", "{}").await;
        self.zebra.enrol(&self.nobody, token["token"].as_str().unwrap()).await;
        let ask = |verb: &str| format!(r#"{{"verb": {verb}, "target": ["zebra/okapi"], "reason": "numbat"}}"#);
        let request = self.done("POST", "/api/orders", &ask(r#"{"do": "run_checks", "checks": []}"#)).await;
        self.order = request["orders"][0]["id"].as_str().unwrap().to_owned();
        let request = self.done("POST", "/api/orders", &ask(r#"{"do": "rotate_keys"}"#)).await;
        assert_eq!(request["state"], "waiting");
        self.waiting = request["id"].as_str().unwrap().to_owned();
        self
    }

    async fn done(&self, method: &str, path: &str, body: &str) -> Value {
        let said = self.nobody.with(&self.quagga).ask(method, path, body).await.unwrap();
        assert_eq!(said.status, 200, "{method} {path}: {said:?}");
        said.json()
    }

    /// A person with a token that holds.
    async fn person(&self, id: &str, role: Role, sites: Sites) -> String {
        let (name, now) = (id.to_owned(), Timestamp::now());
        let person = Person {
            id: name.clone(),
            name,
            role,
            sites: sites.clone(),
            created_by: "test".to_owned(),
            created_at: now,
            ended_at: None,
        };
        let added = self.store.write(move |sql| {
            let person = person.clone();
            Box::pin(async move { people::add_person(sql, &person).await })
        });
        added.await.unwrap();
        self.token(id, role, sites, now + SignedDuration::from_hours(1)).await
    }

    async fn token(&self, person: &str, role: Role, sites: Sites, expires_at: Timestamp) -> String {
        let text = format!("mlc_{person}-{}", self.places.fetch_add(1, Ordering::Relaxed));
        let token = Token {
            hash: sha256(text.as_bytes()),
            id: text.replace("mlc_", "TOK-"),
            person: person.to_owned(),
            name: "test".to_owned(),
            role,
            sites,
            created_by: "test".to_owned(),
            created_at: Timestamp::now(),
            expires_at,
        };
        let added = self.store.write(move |sql| {
            let token = token.clone();
            Box::pin(async move { people::add_token(sql, &token).await })
        });
        added.await.unwrap();
        text
    }

    /// An address nobody has called from: refusals are counted by caller and address.
    fn place(&self) -> Ipv4Addr {
        Ipv4Addr::from(0x7f01_0000 + self.places.fetch_add(1, Ordering::Relaxed))
    }

    fn showing(&self, shown: &Shown) -> Caller {
        self.nobody.showing(&self.authority, shown)
    }

    /// A certificate of the server's own authority, for the clinic's appliance.
    fn certificate(&self, now: Timestamp, life: SignedDuration) -> Shown {
        let authority = Authority::open(self.authority.parent().unwrap(), now).unwrap();
        self.signed_by(&authority, now, life)
    }

    fn signed_by(&self, authority: &Authority, now: Timestamp, life: SignedDuration) -> Shown {
        let (site, name) = (self.clinic.site.parse().unwrap(), self.clinic.name.parse().unwrap());
        let issued = authority.issue(&self.clinic.request(), (&site, &name), (now, life)).unwrap();
        self.clinic.showing(&issued.pem)
    }

    /// The path and a body that would do, about the other tenant's things.
    fn request(&self, route: &Route) -> (String, String) {
        let id = if route.path.starts_with("/v1/") { &self.order } else { &self.waiting };
        let path = route.path.replace("{site}", "zebra").replace("{appliance}", "okapi").replace("{id}", id);
        let path = path.replace("{kind}", "config");
        let body = match name(route).as_str() {
            "POST /v1/enrol" => Enrolled::new("clinic", "new").body("no such secret"),
            "POST /v1/certificate" => {
                format!(r#"{{"csr": "{}"}}"#, malachor::crypto::base64(&self.clinic.request()))
            }
            "POST /v1/check-in" => Enrolled::check_in(0),
            "POST /v1/orders/{id}" => self.clinic.report(&self.order, 1),
            "POST /api/sites" => r#"{"id": "other", "name": "Other", "tier": "essential"}"#.to_owned(),
            "POST /api/sites/{site}/appliances/{appliance}/token" => r#"{"again": true}"#.to_owned(),
            "POST /api/sites/{site}/appliances/{appliance}/release" => r#"{"reason": "mine"}"#.to_owned(),
            "POST /api/orders" => {
                r#"{"verb": {"do": "run_checks", "checks": []}, "target": ["zebra/okapi"], "reason": "mine"}"#
                    .to_owned()
            }
            "POST /api/orders/{id}/decision" => r#"{"approve": true}"#.to_owned(),
            _ => String::new(),
        };
        (path, body)
    }

    /// All rows of the trail that say `refused`, newest first.
    async fn refused(&self) -> Vec<Value> {
        let (mut rows, mut before) = (Vec::new(), i64::MAX);
        loop {
            let page = self.done("GET", &format!("/api/audit?limit=1000&before={before}"), "").await;
            let page = page.as_array().unwrap().clone();
            let Some(last) = page.last() else { return rows };
            before = last["id"].as_i64().unwrap();
            rows.extend(page.into_iter().filter(|row| row["outcome"] == "refused"));
        }
    }

    /// Each refusal has its row, and there are no others.
    async fn written_down(&self, refusals: &[Refusal]) {
        let rows = self.refused().await;
        for refusal in refusals {
            let from = refusal.from.to_string();
            let its = |row: &&Value| row["detail"]["peer"] == from.as_str() && row["act"] == refusal.act.as_str();
            let its: Vec<&Value> = rows.iter().filter(its).collect();
            let [row] = its.as_slice() else { panic!("{refusal:?} left {its:?}") };
            assert_eq!(row["actor"], refusal.actor.as_str(), "{refusal:?}: {row}");
            if refusal.status > 0 {
                assert_eq!(row["detail"]["status"], refusal.status, "{refusal:?}: {row}");
            }
        }
        assert_eq!(rows.len(), refusals.len(), "refusals nobody asked for: {rows:?}");
    }
}

fn tells_nothing(what: &str, text: &str) {
    for word in SECRET {
        assert!(!text.to_lowercase().contains(word), "{what} says `{word}`: {text}");
    }
}

#[test]
fn every_route_is_classified_and_served_as_the_table_says() {
    let router = api::router();
    let table: Vec<(String, String)> = router.routes().iter().map(|route| (name(route), route.principal())).collect();
    let listed: Vec<(String, String)> =
        ROUTES.iter().map(|(route, principal, _)| ((*route).to_owned(), (*principal).to_owned())).collect();
    assert_eq!(listed, table, "a new route says here what others get from it");
    let fleet = Fleet::start();
    let nobody = Caller::new(fleet.port, &fleet.place.dir.path().join("fleet/keys/ca.pem"));
    let document = on_runtime(nobody.ask("GET", "/openapi.json", "")).unwrap().json();
    let mut served = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let principal = operation["x-principal"].as_str().unwrap().to_owned();
            let open = operation["security"].as_array().unwrap().is_empty();
            assert_eq!(open, ["anyone", "enrolment token"].contains(&principal.as_str()), "{method} {path}");
            served.push((format!("{} {path}", method.to_uppercase()), principal));
        }
    }
    served.sort();
    let mut table = table;
    table.sort();
    assert_eq!(served, table);
    // What is not in the table is not there, whatever the method.
    on_runtime(async {
        for (method, path, status) in [
            ("GET", "/", 404),
            ("GET", "/api", 404),
            ("GET", "/api/people", 404),
            ("GET", "/fleet.db", 404),
            ("GET", "/api/../fleet/fleet.db", 404),
            ("DELETE", "/api/sites", 405),
            ("HEAD", "/api/sites", 405),
            ("OPTIONS", "/api/sites", 405),
            ("TRACE", "/health", 405),
        ] {
            assert_eq!(nobody.ask(method, path, "").await.unwrap().status, status, "{method} {path}");
        }
    });
}

/// Somebody who is not let in: who they are, and who they say they are in the trail.
struct Stranger {
    what: &'static str,
    caller: Caller,
    actor: &'static str,
    /// Routes of this kind let them in.
    but: &'static str,
}

async fn strangers(world: &World) -> Vec<Stranger> {
    let all = || Sites::All;
    let now = Timestamp::now();
    let expired = world.token("quagga", Role::Admin, all(), now - SignedDuration::from_secs(5)).await;
    let revoked = world.token("quagga", Role::Admin, all(), now + SignedDuration::from_hours(1)).await;
    let ended = world.person("gone", Role::Admin, all()).await;
    let (id, now) = (revoked.replace("mlc_", "TOK-"), now);
    let taken = world.store.write(move |sql| {
        let id = id.clone();
        Box::pin(async move {
            people::revoke_token(sql, &id, now).await?;
            people::end_person(sql, "gone", now).await
        })
    });
    taken.await.unwrap();
    let with = |token: &str| world.nobody.with(token);
    let stranger = |what, caller, actor, but| Stranger { what, caller, actor, but };
    vec![
        stranger("without anything", world.nobody.clone(), "nobody", ""),
        stranger("with a made-up token", with("mlc_made-up"), "nobody", ""),
        stranger("with half a token", with("mlc_"), "nobody", ""),
        stranger("with an expired token", with(&expired), "nobody", ""),
        stranger("with a revoked token", with(&revoked), "nobody", ""),
        stranger("with an ended person's token", with(&ended), "nobody", ""),
        stranger("a person at an appliance's routes", with(&world.quagga), "nobody", "person"),
        stranger(
            "an appliance at a person's routes",
            world.showing(&world.clinic.shown()),
            "appliance:clinic/front",
            "appliance",
        ),
    ]
}

#[test]
fn who_is_not_let_in_learns_nothing_and_is_written_down() {
    on_runtime(async {
        let world = World::new().await;
        let mut refusals = Vec::new();
        // It opens its connection while its certificate still holds.
        let (late, life) = (world.place(), SignedDuration::from_secs(3));
        let soon_over = world.showing(&world.certificate(Timestamp::now(), life)).from(late);
        let mut open = soon_over.connect().await.unwrap();
        assert_eq!(open.ask("GET", "/v1/log", "").await.unwrap().status, 200);

        for stranger in strangers(&world).await {
            for route in api::router().routes() {
                refusals.extend(refused(&world, &stranger, route).await);
            }
        }
        viewers(&world, &mut refusals).await;
        enrolments(&world, &mut refusals).await;
        not_at_all(&world, &mut refusals).await;

        // A certificate that was revoked.
        let revoked = Stranger {
            what: "with a revoked certificate",
            caller: world.showing(&world.clinic.shown()),
            actor: "appliance:clinic/front",
            but: "",
        };
        assert_eq!(revoked.caller.ask("GET", "/v1/log", "").await.unwrap().status, 200);
        world.done("POST", "/api/sites/clinic/appliances/front/revoke", "").await;
        for route in api::router().routes() {
            refusals.extend(refused(&world, &revoked, route).await);
        }

        // One whose time ran out in the middle of a connection.
        tokio::time::sleep(Duration::from_secs(3)).await;
        for route in api::router().routes().iter().filter(|route| route.principal() == "appliance") {
            let (path, body) = world.request(route);
            let said = open.ask(route.method.as_str(), &path, &body).await.unwrap();
            assert_eq!(said.status, 401, "{route:?} on an old connection: {said:?}");
            assert!(said.text.contains("expired"), "{said:?}");
            let actor = "appliance:clinic/front".to_owned();
            refusals.push(Refusal { from: late, act: name(route), actor, status: 401 });
        }
        world.written_down(&refusals).await;
    });
}

/// Calls a route as a stranger; gives the refusal that must be in the trail.
async fn refused(world: &World, stranger: &Stranger, route: &Route) -> Option<Refusal> {
    let expected = match &route.handler {
        Handler::Anyone(_) => 200,
        Handler::Token(_) => 403,
        Handler::Appliance(_) if stranger.but == "appliance" => return None,
        Handler::Person(..) if stranger.but == "person" => return None,
        Handler::Appliance(_) | Handler::Person(..) => 401,
    };
    let (path, body) = world.request(route);
    let from = world.place();
    let said = stranger.caller.from(from).ask(route.method.as_str(), &path, &body).await.unwrap();
    assert_eq!(said.status, expected, "{route:?} {}: {said:?}", stranger.what);
    tells_nothing(&name(route), &said.text);
    (expected != 200).then(|| Refusal { from, act: name(route), actor: stranger.actor.to_owned(), status: expected })
}

/// People whose role does not allow it.
async fn viewers(world: &World, refusals: &mut Vec<Refusal>) {
    for (id, role) in [("vera", Role::Viewer), ("ada", Role::Auditor), ("tom", Role::Technician)] {
        let token = world.person(id, role, Sites::All).await;
        for route in api::router().routes() {
            let Handler::Person(deed, _) = &route.handler else { continue };
            if may(role, *deed) {
                continue;
            }
            let ((path, body), from) = (world.request(route), world.place());
            let said = world.nobody.with(&token).from(from).ask(route.method.as_str(), &path, &body).await.unwrap();
            assert_eq!(said.status, 403, "{route:?} as {role}: {said:?}");
            tells_nothing(&name(route), &said.text);
            refusals.push(Refusal { from, act: name(route), actor: format!("person:{id}"), status: 403 });
        }
    }
}

/// Enrolment tokens that hold no more, or not for this.
async fn enrolments(world: &World, refusals: &mut Vec<Refusal>) {
    let now = Timestamp::now();
    let over = EnrolToken {
        hash: sha256(b"over"),
        site: "clinic".parse().unwrap(),
        appliance: "back".parse().unwrap(),
        again: false,
        created_by: "test".to_owned(),
        created_at: now,
        expires_at: now - SignedDuration::from_secs(5),
    };
    let used = EnrolToken { hash: sha256(b"used"), expires_at: now + SignedDuration::from_hours(1), ..over.clone() };
    let elsewhere = EnrolToken { hash: sha256(b"elsewhere"), appliance: "side".parse().unwrap(), ..used.clone() };
    let added = world.store.write(move |sql| {
        let tokens = [over.clone(), used.clone(), elsewhere.clone()];
        Box::pin(async move {
            for token in &tokens {
                enrolments::add_token(sql, token).await?;
            }
            Ok(())
        })
    });
    added.await.unwrap();
    let back = Enrolled::new("clinic", "back");
    assert_eq!(world.nobody.ask("POST", "/v1/enrol", &back.body("used")).await.unwrap().status, 200);
    for (secret, body) in [
        ("over", back.body("over")),
        ("used", back.body("used")),
        ("for another site", Enrolled::new("zebra", "okapi").body("elsewhere")),
    ] {
        let from = world.place();
        let said = world.nobody.from(from).ask("POST", "/v1/enrol", &body).await.unwrap();
        assert_eq!(said.status, 403, "{secret}: {said:?}");
        refusals.push(Refusal { from, act: "POST /v1/enrol".to_owned(), actor: "nobody".to_owned(), status: 403 });
    }
}

/// Certificates of another authority, or too old, end the handshake.
async fn not_at_all(world: &World, refusals: &mut Vec<Refusal>) {
    let (now, day) = (Timestamp::now(), SignedDuration::from_hours(24));
    let own = tempfile::tempdir().unwrap();
    let forged = Authority::open(own.path(), now).unwrap();
    for (what, shown) in [
        ("its own authority", world.signed_by(&forged, now, day)),
        ("a certificate of last week", world.certificate(now - 7 * day, day)),
    ] {
        let from = world.place();
        let said = world.showing(&shown).from(from).ask("GET", "/health", "").await;
        assert!(said.is_err(), "{what}: {said:?}");
        refusals.push(Refusal { from, act: "tls".to_owned(), actor: "nobody".to_owned(), status: 0 });
    }
}

/// What a caller gets about the other tenant's things must be what it gets about things that are not there.
fn as_if_it_were_not_there(what: &str, real: &str, made_up: &str) {
    assert_eq!(real.replace("zebra", "yak").replace("okapi", "gnu"), made_up, "{what}");
}

#[test]
fn another_tenants_things_are_not_there() {
    on_runtime(async {
        let world = World::new().await;
        let evidence = world.zebra.log().await.batch(0, 100).await.unwrap();
        let zebra = world.showing(&world.zebra.shown());
        assert_eq!(zebra.ask("POST", "/v1/evidence", &evidence).await.unwrap().status, 200);
        let draft = Draft {
            kind: BundleKind::Config,
            site: Some("zebra".parse().unwrap()),
            files: BTreeMap::from([(SITE_FILE.to_owned(), "[heal]\nmode = \"observe\" # numbat\n".to_owned())]),
            by: "operator:test".to_owned(),
        };
        publish(&world.store, draft, Timestamp::now()).await.unwrap();
        let lee = world.person("lee", Role::Admin, Sites::read("clinic").unwrap()).await;
        let lee = world.nobody.with(&lee);
        let mut refusals = Vec::new();
        for route in api::router().routes() {
            if !matches!(route.handler, Handler::Person(..)) {
                continue;
            }
            let ((path, body), from) = (world.request(route), world.place());
            let said = lee.from(from).ask(route.method.as_str(), &path, &body).await.unwrap();
            let refused = |status| Refusal { from, act: name(route), actor: "person:lee".to_owned(), status };
            match reach(route) {
                Nobody | Own => {
                    assert_eq!(said.status, 200, "{route:?}: {said:?}");
                    tells_nothing(&name(route), &said.text);
                }
                Whole => {
                    assert_eq!(said.status, 403, "{route:?}: {said:?}");
                    tells_nothing(&name(route), &said.text);
                    refusals.push(refused(403));
                }
                Named => {
                    assert_eq!(said.status, 404, "{route:?}: {said:?}");
                    refusals.push(refused(404));
                    let made_up = |text: &str| {
                        let text = text.replace("zebra", "yak").replace("okapi", "gnu");
                        text.replace(&world.waiting, "REQ-0123456789abcdef")
                    };
                    let from = world.place();
                    let other =
                        lee.from(from).ask(route.method.as_str(), &made_up(&path), &made_up(&body)).await.unwrap();
                    assert_eq!(other.status, 404, "{route:?}: {other:?}");
                    as_if_it_were_not_there(&name(route), &made_up(&said.text), &other.text);
                    refusals.push(Refusal { from, ..refused(404) });
                }
            }
        }
        let stats = lee.ask("GET", "/stats", "").await.unwrap().json();
        assert_eq!((&stats["sites"], &stats["appliances"]), (&Value::from(1), &Value::from(1)), "{stats}");
        // What was kept as proof is counted over the caller's own sites.
        assert_eq!(stats["quarantined"], 0, "{stats}");
        // What is wrong with a request is named, and how things stand is no question of who asks.
        let target = |target: &str| {
            format!(r#"{{"verb": {{"do": "run_checks", "checks": []}}, "target": {target}, "reason": "x"}}"#)
        };
        for (method, path, body, status, field) in [
            ("POST", "/api/orders", target("[]"), 400, "target"),
            ("POST", "/api/orders", target(r#"["tier:golden"]"#), 400, "target"),
            ("POST", "/api/orders", r#"{"verb": {"#.to_owned(), 400, "."),
            ("GET", "/api/orders?limt=5", String::new(), 400, "limt"),
            ("GET", "/api/orders?before=x", String::new(), 400, "before"),
        ] {
            let said = lee.ask(method, path, &body).await.unwrap();
            assert_eq!((said.status, &said.json()["field"]), (status, &Value::from(field)), "{path}: {said:?}");
        }
        let release = "/api/sites/clinic/appliances/front/release";
        let said = lee.ask("POST", release, r#"{"reason": "looked"}"#).await.unwrap();
        assert_eq!(said.status, 409, "{said:?}");
        let said = lee.ask("POST", "/api/sites/clinic/appliances/front/token", "{}").await.unwrap();
        assert!(said.status == 409 && !said.text.contains("--"), "{said:?}");
        // What is published is known within a second.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let published = zebra.ask("GET", "/v1/bundles/config", "").await.unwrap();
        assert!(published.status == 200 && published.text.contains("numbat"), "{published:?}");
        appliances(&world, &evidence, &mut refusals).await;
        world.written_down(&refusals).await;

        // The other site's own auditor sees what was asked of it, and who was kept from it; nothing of this one.
        let otto = world.person("otto", Role::Auditor, Sites::read("zebra").unwrap()).await;
        let rows = world.nobody.with(&otto).ask("GET", "/api/audit?limit=1000", "").await.unwrap().json();
        let rows = rows.as_array().unwrap();
        assert!(rows.iter().all(|row| row["site"] == "zebra"), "{rows:?}");
        let asked = rows.iter().find(|row| row["act"] == "order.ask" && row["object"] == world.waiting.as_str());
        assert_eq!(asked.unwrap()["detail"]["target"], serde_json::json!(["zebra/okapi"]), "{rows:?}");
        let kept_out = |row: &&Value| row["outcome"] == "refused" && row["actor"] == "person:lee";
        assert!(rows.iter().filter(kept_out).count() >= 3, "{rows:?}");

        // Whoever sees all sites sees what the others did not: the fleet had it to show.
        for path in ["/api/sites", "/api/appliances", "/api/orders", "/api/audit"] {
            assert!(world.done("GET", path, "").await.to_string().contains("zebra"), "{path}");
        }
        let all = world.done("GET", "/api/appliances", "").await;
        let okapi = all.as_array().unwrap().iter().find(|one| one["id"] == "okapi").unwrap().clone();
        assert_eq!((&okapi["state"], &okapi["held"]), (&Value::from("active"), &Value::from(1)), "{okapi}");
        assert_eq!(okapi["last_seen_at"], Value::Null, "nobody checked in for it: {okapi}");
    });
}

/// An appliance with its own certificate and the other tenant's things.
async fn appliances(world: &World, evidence: &str, refusals: &mut Vec<Refusal>) {
    let front = world.showing(&world.clinic.shown());
    for route in api::router().routes().iter().filter(|route| route.principal() == "appliance") {
        let ((path, mut body), from) = (world.request(route), world.place());
        if route.path == "/v1/evidence" {
            evidence.clone_into(&mut body);
        }
        let said = front.from(from).ask(route.method.as_str(), &path, &body).await.unwrap();
        tells_nothing(&name(route), &said.text);
        let json = said.json();
        match route.path {
            "/v1/certificate" => {
                let pem = json["certificate"].as_str().unwrap();
                let der = malachor::net::tls::certificates_of("", pem.as_bytes()).unwrap();
                assert_eq!(identity(&der[0]).unwrap().site.as_str(), "clinic");
            }
            "/v1/check-in" => assert_eq!((&json["log_size"], &json["order_seq"]), (&0.into(), &0.into()), "{json}"),
            "/v1/log" => assert_eq!(json["size"], 0, "{json}"),
            "/v1/evidence" => assert_eq!(said.status, 422, "{said:?}"),
            "/v1/orders" => assert_eq!(json["orders"], Value::Array(Vec::new()), "{json}"),
            "/v1/orders/{id}" | "/v1/bundles/{kind}" => {
                assert_eq!(said.status, 404, "{said:?}");
                refusals.push(Refusal { from, act: name(route), actor: "appliance:clinic/front".into(), status: 404 });
            }
            other => panic!("{other} is a route of appliances: what does it show of other tenants?"),
        }
    }
    // Nor does another appliance of the same site speak for it.
    let mut kudu = Enrolled::new("zebra", "kudu");
    let token = world.done("POST", "/api/sites/zebra/appliances/kudu/token", "{}").await;
    kudu.enrol(&world.nobody, token["token"].as_str().unwrap()).await;
    let (path, from) = (format!("/v1/orders/{}", world.order), world.place());
    let said = world.showing(&kudu.shown()).from(from).ask("POST", &path, &kudu.report(&world.order, 1)).await.unwrap();
    assert_eq!(said.status, 403, "{said:?}");
    let (act, actor) = ("POST /v1/orders/{id}".to_owned(), "appliance:zebra/kudu".to_owned());
    refusals.push(Refusal { from, act, actor, status: 403 });
    let requests = world.done("GET", "/api/orders", "").await;
    let mut orders = requests.as_array().unwrap().iter().flat_map(|one| one["orders"].as_array().unwrap());
    let order = orders.find(|order| order["id"] == world.order.as_str()).unwrap();
    assert_eq!(order["state"], "queued", "nobody's word moved it: {order}");
}

#[test]
fn strangers_do_not_ask_the_store_without_end_and_nobody_else_pays_for_it() {
    on_runtime(async {
        let world = World::new().await;
        let place = world.place();
        let quagga = world.nobody.with(&world.quagga).from(place);
        assert_eq!(quagga.ask("GET", "/api/sites", "").await.unwrap().status, 200);
        let mut said = BTreeMap::<u16, u32>::new();
        let mut open = world.nobody.from(place).with("mlc_made-up").connect().await.unwrap();
        for _ in 0..130 {
            *said.entry(open.ask("GET", "/api/sites", "").await.unwrap().status).or_default() += 1;
        }
        assert_eq!(said, BTreeMap::from([(401, 120), (429, 10)]));
        // Who was let in before still is, from there; and strangers from elsewhere get their answer.
        assert_eq!(quagga.ask("GET", "/api/sites", "").await.unwrap().status, 200);
        assert_eq!(
            world.nobody.from(world.place()).with("mlc_x").ask("GET", "/api/sites", "").await.unwrap().status,
            401
        );
    });
}
