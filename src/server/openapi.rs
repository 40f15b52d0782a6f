//! The `OpenAPI` 3.1 document, made from the route table: what it says is what is routed.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::api::router;
use super::problem::Document;
use super::router::{Handler, Route};

/// The document.
pub fn document() -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let problem = generator.subschema_for::<Document>();
    let mut paths = Map::new();
    for route in router().routes() {
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
    let parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    let content = |schema: Option<Value>| json!({"application/json": {"schema": schema.unwrap_or(Value::Bool(true))}});
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
            "200": {"description": "Done", "content": content(answer)},
            "4XX": said_no,
            "5XX": said_no,
        },
    });
    if let (Some(schema), Some(operation)) = (request, operation.as_object_mut()) {
        operation.insert("requestBody".to_owned(), json!({"required": true, "content": content(Some(schema))}));
    }
    operation
}

fn operation_id(route: &Route) -> String {
    let words =
        route.path.split(['/', '.', '-']).map(|part| part.trim_matches(['{', '}'])).filter(|part| !part.is_empty());
    format!("{}_{}", route.method.as_str().to_ascii_lowercase(), words.collect::<Vec<_>>().join("_"))
}
