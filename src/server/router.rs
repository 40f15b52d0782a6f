//! The route table. A route's handler says who may call it, so that one without a principal cannot be written; the table
//! also yields the `OpenAPI` document and the test that calls each route as everybody else.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::authority::Identity;
use super::problem::Problem;
use super::state::State;
use crate::domain::role::Deed;
use crate::fleet::BoxFuture;
use crate::fleet::people::Caller;

/// Bytes of a request's body, unless its route takes more.
pub const BODY: usize = 64 * 1024;

/// An answer that says yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// Media type of the body.
    pub kind: &'static str,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// A JSON answer.
    pub fn json(value: &impl Serialize) -> Result<Self, Problem> {
        let failed = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the answer cannot be written");
        let body = serde_json::to_vec(value).map_err(failed)?.into();
        Ok(Self { status: StatusCode::OK, kind: "application/json", body })
    }

    /// Text of some media type.
    pub fn text(kind: &'static str, text: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, kind, body: text.into() }
    }
}

/// What was asked, once it is known by whom.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Values of the `{…}` parts of the path.
    pub path: BTreeMap<&'static str, String>,
    /// Query parameters.
    pub query: BTreeMap<String, String>,
    /// The body.
    pub body: Bytes,
    /// Where the connection comes from; for limits before anybody is known.
    pub peer: std::net::IpAddr,
}

impl Ask {
    /// The body as JSON; unknown members, wrong types and deep nesting are refused with the path of the member.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        if has_nul(&self.body) {
            return Err(Problem::bad(".", "the character NUL stands in no text"));
        }
        let mut reader = serde_json::Deserializer::from_slice(&self.body);
        let value = serde_path_to_error::deserialize(&mut reader)
            .map_err(|error| Problem::bad(member(&error), error.inner().to_string()))?;
        reader.end().map_err(|error| Problem::bad(".", error.to_string()))?;
        Ok(value)
    }

    /// A part of the path, parsed.
    pub fn part<T: std::str::FromStr>(&self, name: &'static str) -> Result<T, Problem>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.path.get(name).map_or("", String::as_str);
        text.parse().map_err(|error: T::Err| Problem::bad(name, error.to_string()))
    }

    /// A query parameter that is a number.
    pub fn number(&self, asked: Number) -> Result<i64, Problem> {
        let Number { name, default, least, most } = asked;
        let Some(text) = self.query.get(name) else { return Ok(default) };
        let wrong = || Problem::bad(name, format!("`{text}` is not a whole number from {least} to {most}"));
        text.parse().ok().filter(|number| (least..=most).contains(number)).ok_or_else(wrong)
    }
}

/// The member an error is about; the whole body where it is no JSON, for then nobody can say which.
fn member(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let path = error.path().to_string();
    if error.inner().is_data() && !path.contains('?') { path } else { ".".to_owned() }
}

/// A whole number a query may give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    /// Name of the parameter.
    pub name: &'static str,
    /// What it is where nobody says.
    pub default: i64,
    /// The least.
    pub least: i64,
    /// The most.
    pub most: i64,
}

/// A query parameter of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// A number.
    Number(Number),
    /// `site`: only what is of this one.
    Site,
    /// `before`: only what came before this request.
    Before,
}

impl Query {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Number(number) => number.name,
            Self::Site => "site",
            Self::Before => "before",
        }
    }
}

type Future = BoxFuture<'static, Result<Answer, Problem>>;

/// What answers, and who may call it.
#[derive(Clone)]
pub enum Handler {
    /// Anybody, for what says nothing about anybody.
    Anyone(fn(Arc<State>, Ask) -> Future),
    /// Whoever has an enrolment token; the handler uses it up.
    Token(fn(Arc<State>, Ask) -> Future),
    /// An appliance, known by its certificate.
    Appliance(fn(Arc<State>, Ask, Identity) -> Future),
    /// A person with a role that allows the deed; where, the handler asks their sites.
    Person(Deed, fn(Arc<State>, Ask, Caller) -> Future),
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Handler")
    }
}

/// How much room a route's callers have; each class is counted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Check-ins and long polls.
    Presence,
    /// Evidence.
    Evidence,
    /// Asking for orders and plans.
    Orders,
    /// Enrolment and certificates.
    Enrolment,
    /// Reading.
    Reading,
}

impl Class {
    /// The word in keys and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Presence => "presence",
            Self::Evidence => "evidence",
            Self::Orders => "orders",
            Self::Enrolment => "enrolment",
            Self::Reading => "reading",
        }
    }
}

/// One route.
#[derive(Clone)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with `{name}` for parts that vary.
    pub path: &'static str,
    /// Who may call it, and what answers.
    pub handler: Handler,
    /// How much room its callers have.
    pub class: Class,
    /// Bytes of its body at the most.
    pub body: usize,
    /// One sentence for the `OpenAPI` document.
    pub summary: &'static str,
    /// Schemas of request and answer; `None` where the body is not JSON or there is none.
    pub schemas: (Option<SchemaOf>, Option<SchemaOf>),
    /// Media types of request and answer.
    pub kinds: (&'static str, &'static str),
    /// Query parameters it reads.
    pub query: &'static [Query],
}

/// Gives a type's schema.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The schema of a type.
pub fn schema<T: JsonSchema>() -> Option<SchemaOf> {
    Some(|generator| generator.subschema_for::<T>())
}

impl std::fmt::Debug for Route {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {} ({})", self.method, self.path, self.principal())
    }
}

impl Route {
    /// A route whose body is small JSON or nothing.
    pub fn new(method: Method, path: &'static str, class: Class, handler: Handler, summary: &'static str) -> Self {
        let kinds = ("application/json", "application/json");
        Self { method, path, handler, class, body: BODY, summary, schemas: (None, None), kinds, query: &[] }
    }

    /// With the schemas of its request and answer.
    #[must_use]
    pub fn with(mut self, request: Option<SchemaOf>, answer: Option<SchemaOf>) -> Self {
        self.schemas = (request, answer);
        self
    }

    /// With room for a larger body, which is not JSON.
    #[must_use]
    pub fn taking(mut self, bytes: usize, kind: &'static str) -> Self {
        (self.body, self.kinds.0) = (bytes, kind);
        self
    }

    /// With an answer that is not JSON.
    #[must_use]
    pub fn answering(mut self, kind: &'static str) -> Self {
        self.kinds.1 = kind;
        self
    }

    /// With query parameters.
    #[must_use]
    pub fn asking(mut self, query: &'static [Query]) -> Self {
        self.query = query;
        self
    }

    /// Refuses what a query names and the route does not read: a filter that is misspelt must not look like one that holds.
    pub fn reads(&self, query: &BTreeMap<String, String>) -> Result<(), Problem> {
        let unread = query.keys().find(|name| self.query.iter().all(|known| known.name() != name.as_str()));
        unread.map_or(Ok(()), |name| Err(Problem::bad(name, "this path has no such query parameter")))
    }

    /// Who may call it, in words.
    pub fn principal(&self) -> String {
        match &self.handler {
            Handler::Anyone(_) => "anyone".to_owned(),
            Handler::Token(_) => "enrolment token".to_owned(),
            Handler::Appliance(_) => "appliance".to_owned(),
            Handler::Person(deed, _) => format!("person: {deed:?}"),
        }
    }

    /// The values of its `{…}` parts, if it is the one asked for.
    fn matches(&self, path: &str) -> Option<BTreeMap<&'static str, String>> {
        let (mut ours, mut theirs) = (self.path.split('/'), path.split('/'));
        let mut values = BTreeMap::new();
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return Some(values),
                (Some(our), Some(their)) => match our.strip_prefix('{').and_then(|our| our.strip_suffix('}')) {
                    Some(name) if !their.is_empty() => drop(values.insert(name, their.to_owned())),
                    None if our == their => {}
                    Some(_) | None => return None,
                },
                (Some(_), None) | (None, Some(_)) => return None,
            }
        }
    }
}

/// All routes.
#[derive(Debug, Clone)]
pub struct Router(Vec<Route>);

impl Router {
    /// A table of routes.
    pub fn new(routes: Vec<Route>) -> Self {
        Self(routes)
    }

    /// The routes in the order of the table.
    pub fn routes(&self) -> &[Route] {
        &self.0
    }

    /// The route for a request with the values of its path; a problem where there is none.
    pub fn find(&self, method: &Method, path: &str) -> Result<(&Route, BTreeMap<&'static str, String>), Problem> {
        let mut allowed = Vec::new();
        for route in &self.0 {
            if let Some(values) = route.matches(path) {
                if route.method == *method {
                    return Ok((route, values));
                }
                allowed.push(route.method.to_string());
            }
        }
        if allowed.is_empty() {
            Err(Problem::missing("there is nothing at this path"))
        } else {
            let allowed = allowed.join(", ");
            let detail = format!("this path takes {allowed}");
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail);
            Err(Problem { allow: Some(allowed), ..problem })
        }
    }
}

/// Reads a query string; what cannot be decoded is left out.
pub fn query_of(text: &str) -> BTreeMap<String, String> {
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter_map(|(name, value)| Some((decoded(name)?, decoded(value)?)))
        .collect()
}

/// Whether a string of a JSON text holds U+0000, which PostgreSQL cannot keep in a text.
fn has_nul(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        let escape = rest.get(at + 1..).unwrap_or_default();
        if escape.starts_with(b"u0000") {
            return true;
        }
        // A backslash that is escaped itself begins nothing.
        rest = escape.get(1..).unwrap_or_default();
    }
    false
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody(_: Arc<State>, _: Ask) -> Future {
        Box::pin(async { Ok(Answer::text("text/plain", "")) })
    }

    #[test]
    fn a_path_finds_its_route_its_values_or_what_it_takes() {
        let route = |method, path| Route::new(method, path, Class::Reading, Handler::Anyone(nobody), "");
        let router = Router::new(vec![
            route(Method::GET, "/a/{id}/b"),
            route(Method::POST, "/a/{id}/b"),
            route(Method::GET, "/a"),
        ]);
        let (found, values) = router.find(&Method::POST, "/a/x7/b").unwrap();
        assert_eq!((&found.method, values["id"].as_str()), (&Method::POST, "x7"));
        for missing in ["/", "/a/", "/a//b", "/a/x/b/", "/a/x/c", "/A", ""] {
            assert_eq!(router.find(&Method::GET, missing).unwrap_err().status, StatusCode::NOT_FOUND, "{missing}");
        }
        let wrong = router.find(&Method::DELETE, "/a/x/b").unwrap_err();
        assert_eq!((wrong.status.as_u16(), wrong.detail.as_str()), (405, "this path takes GET, POST"));
    }

    #[test]
    fn queries_are_read_or_left_out() {
        let query = query_of("wait=25&name=a%20b+c&bad=%zz&none&x=%&nul=a%00");
        assert_eq!(
            query.into_iter().collect::<Vec<_>>(),
            [("name".into(), "a b c".into()), ("wait".into(), "25".into())]
        );
    }

    #[test]
    fn a_query_names_only_what_the_route_reads() {
        let route = Route::new(Method::GET, "/a", Class::Reading, Handler::Anyone(nobody), "").asking(&[Query::Site]);
        assert!(route.reads(&query_of("site=x")).is_ok() && route.reads(&query_of("")).is_ok());
        assert_eq!(route.reads(&query_of("site=x&limt=5")).unwrap_err().field.as_deref(), Some("limt"));
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[expect(dead_code, reason = "only read")]
        inner: Vec<Inner>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only read")]
        count: u8,
    }

    fn asking(body: &str) -> Ask {
        let (path, query) = (BTreeMap::new(), BTreeMap::new());
        Ask { path, query, body: body.to_owned().into(), peer: [127, 0, 0, 1].into() }
    }

    #[test]
    fn a_wrong_member_is_named() {
        let read = |body: &str| asking(body).json::<Body>().unwrap_err();
        assert_eq!(read(r#"{"inner":[{"count":1},{"count":"x"}]}"#).field.as_deref(), Some("inner[1].count"));
        assert!(read(r#"{"inner":[{"count":1,"more":2}]}"#).detail.contains("unknown field `more`"));
        assert!(read(r#"{"inner":[]} x"#).detail.contains("trailing"));
        assert!(read(r#"{"inner":["a\u0000"]}"#).detail.contains("NUL"));
        assert!(read(r#"{"inner":["\\\u0000"]}"#).detail.contains("NUL"));
        assert!(!read(r#"{"inner":["\\u0000"]}"#).detail.contains("NUL"), "a backslash and letters");
        for broken in ["", r#"{"inner":[{"count":"#, r#"{"inner":[{"count":1}"#, r#"{"inner"#, "{"] {
            assert_eq!(read(broken).field.as_deref(), Some("."), "{broken}");
        }
        // Whatever its type: nothing nested so deep is read to its end.
        let deep = asking(&"[".repeat(100_000)).json::<serde_json::Value>().unwrap_err();
        assert!(deep.detail.contains("recursion limit exceeded"), "{}", deep.detail);
    }
}
