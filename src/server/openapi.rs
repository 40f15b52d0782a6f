//! The `OpenAPI` 3.1 document, made from the route table: what it says is what is routed.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::problem::Document;
use super::router::{Handler, Number, Query, Route, Router};
use crate::domain::bundle::BundleKind;
use crate::wire::{ID, ORDER_ID};

/// The document of a route table.
pub fn document(router: &Router) -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let problem = generator.subschema_for::<Document>();
    let mut paths = Map::new();
    for route in router.routes() {
        let mut schema = |of: Option<super::router::SchemaOf>| of.map(|of| of(&mut generator).to_value());
        let (request, answer) = (schema(route.schemas.0), schema(route.schemas.1));
        let operation = operation(route, request, answer, problem.as_value());
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(route.method.as_str().to_ascii_lowercase(), operation);
        }
    }
    let schemas = generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Malachor server",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Appliances speak under /v1 with client certificates, people and programs under /api with tokens.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "certificate": {"type": "mutualTLS", "description": "A client certificate from enrolment; it is the tenant"},
                "token": {"type": "http", "scheme": "bearer", "description": "An API token, mlc_…"},
            },
        },
    })
}

fn operation(route: &Route, request: Option<Value>, answer: Option<Value>, problem: &Value) -> Value {
    let security = match route.handler {
        Handler::Anyone(_) | Handler::Token(_) => json!([]),
        Handler::Appliance(_) => json!([{"certificate": []}]),
        Handler::Person(..) => json!([{"token": []}]),
    };
    let parts = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parts = parts.map(|name| json!({"name": name, "in": "path", "required": true, "schema": part(name)}));
    let parameters: Vec<Value> = parts.chain(route.query.iter().map(query)).collect();
    let content = |kind: &str, schema: Option<Value>| json!({kind: {"schema": schema.unwrap_or(Value::Bool(true))}});
    let said_no =
        json!({"description": "A problem (RFC 9457)", "content": {"application/problem+json": {"schema": problem}}});
    let mut operation = json!({
        "summary": route.summary,
        "description": format!("At most {} bytes.", route.body),
        "operationId": operation_id(route),
        "x-principal": route.principal(),
        "security": security,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done", "content": content(route.kinds.1, answer)},
            "4XX": said_no,
            "5XX": said_no,
        },
    });
    let text = (route.kinds.0 != "application/json").then(|| json!({"type": "string"}));
    if let (Some(schema), Some(operation)) = (request.or(text), operation.as_object_mut()) {
        let body = json!({"required": true, "content": content(route.kinds.0, Some(schema))});
        operation.insert("requestBody".to_owned(), body);
    }
    operation
}

/// The schema of a part of the path: ids, in the form they have.
fn part(name: &str) -> Value {
    match name {
        "kind" => json!({"type": "string", "enum": BundleKind::ALL.map(BundleKind::word)}),
        "id" => json!({"type": "string", "pattern": ORDER_ID}),
        _ => json!({"type": "string", "pattern": ID, "maxLength": 63}),
    }
}

fn query(query: &Query) -> Value {
    match query {
        Query::Site => json!({"name": "site", "in": "query", "schema": {"type": "string", "pattern": ID}}),
        Query::Before => json!({"name": "before", "in": "query", "schema": {"type": "string", "pattern": ORDER_ID}}),
        Query::Number(Number { name, default, least, most }) => {
            let schema = json!({"type": "integer", "default": default, "minimum": least, "maximum": most});
            json!({"name": name, "in": "query", "schema": schema})
        }
    }
}

fn operation_id(route: &Route) -> String {
    let words =
        route.path.split(['/', '.', '-']).map(|part| part.trim_matches(['{', '}'])).filter(|part| !part.is_empty());
    format!("{}_{}", route.method.as_str().to_ascii_lowercase(), words.collect::<Vec<_>>().join("_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::order::Verb;

    #[test]
    fn the_verbs_in_the_document_are_those_that_are_read() {
        let document = document(&crate::server::api::router());
        let verbs = document.pointer("/components/schemas/AskOrder/properties/verb/oneOf").unwrap();
        let verbs: Vec<&Value> = verbs.as_array().unwrap().iter().collect();
        let sample = json!({"checks": [], "check": "RB-DISK-001", "params": {}, "on": true});
        for verb in &verbs {
            let word = verb.pointer("/properties/do/const").unwrap();
            let mut order = Map::from_iter([("do".to_owned(), word.clone())]);
            for name in
                verb["required"].as_array().unwrap().iter().filter_map(Value::as_str).filter(|name| *name != "do")
            {
                order.insert(name.to_owned(), sample[name].clone());
            }
            let read: Verb = serde_json::from_value(order.into()).unwrap();
            assert_eq!(read.word(), word);
        }
        // Whoever names none of them is told all there are.
        let all = serde_json::from_value::<Verb>(json!({"do": "x"})).unwrap_err().to_string();
        assert_eq!(all.matches('`').count() / 2 - 1, verbs.len(), "{all}");
    }
}
