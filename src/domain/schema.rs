//! Typed values: what a runbook's settings and parameters may be. Nothing reaches a step unchecked.

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Longest text value.
const MAX_TEXT: usize = 4096;
/// Longest list value.
const MAX_ITEMS: usize = 256;
/// What stands in the place of a secret wherever it could be seen.
pub const HIDDEN: &str = "***";

/// The fields a runbook declares, by name.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    fields: BTreeMap<String, Field>,
}

/// One declared field.
#[derive(Debug, Clone)]
pub struct Field {
    kind: Kind,
    default: Value,
    optional: bool,
    /// Nobody may see its value: not in a plan, a sentence, an argument or evidence.
    pub secret: bool,
    /// One sentence for a person.
    pub help: String,
}

#[derive(Debug, Clone)]
enum Kind {
    Text { pattern: Option<Regex> },
    Choice(Vec<String>),
    Integer { min: i64, max: i64 },
    Bool,
    List(Box<Kind>),
    Map(Box<Kind>),
}

/// A field as written in YAML.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldSource {
    #[serde(rename = "type")]
    kind: Option<KindWord>,
    #[serde(rename = "enum")]
    choices: Option<Vec<String>>,
    pattern: Option<String>,
    min: Option<i64>,
    max: Option<i64>,
    items: Option<Box<FieldSource>>,
    #[serde(default)]
    default: Option<Value>,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    secret: bool,
    #[serde(default)]
    help: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum KindWord {
    String,
    Integer,
    Bool,
    List,
    Map,
}

/// A value that is not what the schema says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadValue {
    /// The field's name.
    pub field: String,
    /// What is wrong and what is expected.
    pub message: String,
}

impl Schema {
    /// Compiles a schema; the first field that makes no sense is named.
    pub fn compile(source: BTreeMap<String, FieldSource>) -> Result<Self, BadValue> {
        let mut fields = BTreeMap::new();
        for (name, source) in source {
            let field = Field::compile(source)
                .map_err(|message| BadValue { field: name.clone(), message: format!("`{name}`: {message}") })?;
            fields.insert(name, field);
        }
        Ok(Self { fields })
    }

    /// The declared fields by name.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Field)> {
        self.fields.iter().map(|(name, field)| (name.as_str(), field))
    }

    /// Whether a field is declared secret.
    pub fn is_secret(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|field| field.secret)
    }

    /// The values as anyone may see them: `***` for each secret one that is set.
    pub fn shown(&self, values: &Map<String, Value>) -> Map<String, Value> {
        let mut shown = values.clone();
        for (_, value) in shown.iter_mut().filter(|(name, value)| self.is_secret(name) && !value.is_null()) {
            *value = Value::String(HIDDEN.to_owned());
        }
        shown
    }

    /// Checks given values and fills in defaults.
    pub fn check(&self, given: &Map<String, Value>) -> Result<Map<String, Value>, BadValue> {
        if let Some(unknown) = given.keys().find(|name| !self.fields.contains_key(*name)) {
            let message = match nearest(unknown, self.fields.keys().map(String::as_str)) {
                Some(near) => format!("`{unknown}` is not known here; did you mean `{near}`?"),
                None => format!("`{unknown}` is not known here"),
            };
            return Err(BadValue { field: unknown.clone(), message });
        }
        let mut complete = Map::new();
        for (name, field) in &self.fields {
            let value = given.get(name).unwrap_or(&field.default);
            field
                .check(value)
                .map_err(|message| BadValue { field: name.clone(), message: format!("`{name}` {message}") })?;
            complete.insert(name.clone(), value.clone());
        }
        Ok(complete)
    }
}

impl Field {
    /// The default value; null where there is none.
    pub fn default(&self) -> &Value {
        &self.default
    }

    fn compile(source: FieldSource) -> Result<Self, String> {
        let (optional, secret, help) = (source.optional, source.secret, source.help.clone());
        let default = source.default.clone().unwrap_or(Value::Null);
        let field = Self { kind: Kind::compile(source)?, default, optional, secret, help };
        if secret && !matches!(field.kind, Kind::Text { .. }) {
            return Err("only a `string` can be secret".to_owned());
        }
        if !field.default.is_null() {
            field.kind.check(&field.default).map_err(|message| format!("the default {message}"))?;
        }
        Ok(field)
    }

    fn check(&self, value: &Value) -> Result<(), String> {
        match value {
            Value::Null if self.optional => Ok(()),
            Value::Null => Err(format!("is missing; expected {}", self.kind.describe())),
            value if self.secret => self
                .kind
                .check(value)
                .map_err(|_| format!("is a secret that is not as expected; expected {}", self.kind.describe())),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                self.kind.check(value)
            }
        }
    }
}

impl Kind {
    fn compile(source: FieldSource) -> Result<Self, String> {
        let word = match (source.kind, &source.choices) {
            (Some(word), _) => word,
            (None, Some(_)) => KindWord::String,
            (None, None) => return Err("needs a `type` or an `enum`".to_owned()),
        };
        match (word, source.choices) {
            (KindWord::String, Some(choices)) if !choices.is_empty() => Ok(Self::Choice(choices)),
            (KindWord::String, None) => {
                let pattern = source.pattern.map(|text| Regex::new(&format!("^(?:{text})$"))).transpose();
                Ok(Self::Text { pattern: pattern.map_err(|error| format!("the pattern does not compile: {error}"))? })
            }
            (_, Some(_)) => Err("`enum` goes with strings and is not empty".to_owned()),
            (KindWord::Integer, None) => {
                let (min, max) = (source.min.unwrap_or(i64::MIN), source.max.unwrap_or(i64::MAX));
                if min > max { Err(format!("min {min} is above max {max}")) } else { Ok(Self::Integer { min, max }) }
            }
            (KindWord::Bool, None) => Ok(Self::Bool),
            (KindWord::List | KindWord::Map, None) => {
                let items = source.items.ok_or("a list or map needs `items`")?;
                let items = Box::new(Self::compile(*items)?);
                Ok(if word == KindWord::List { Self::List(items) } else { Self::Map(items) })
            }
        }
    }

    fn check(&self, value: &Value) -> Result<(), String> {
        let wrong = || Err(format!("is {}; expected {}", brief(value), self.describe()));
        match self {
            Self::Text { pattern } => match value.as_str() {
                Some(text) if text.len() > MAX_TEXT => Err(format!("is longer than {MAX_TEXT} bytes")),
                Some(text) if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') => {
                    Err("holds control characters".to_owned())
                }
                Some(text) if pattern.as_ref().is_none_or(|pattern| pattern.is_match(text)) => Ok(()),
                _ => wrong(),
            },
            Self::Choice(choices) => match value.as_str() {
                Some(text) if choices.iter().any(|choice| choice == text) => Ok(()),
                _ => wrong(),
            },
            Self::Integer { min, max } => match value.as_i64() {
                Some(number) if (*min..=*max).contains(&number) => Ok(()),
                _ => wrong(),
            },
            Self::Bool => {
                if value.is_boolean() {
                    Ok(())
                } else {
                    wrong()
                }
            }
            Self::List(items) => match value.as_array() {
                Some(list) if list.len() > MAX_ITEMS => Err(format!("has more than {MAX_ITEMS} items")),
                Some(list) => {
                    list.iter().try_for_each(|item| items.check(item).map_err(|message| format!("item {message}")))
                }
                None => wrong(),
            },
            Self::Map(items) => match value.as_object() {
                Some(map) if map.len() > MAX_ITEMS => Err(format!("has more than {MAX_ITEMS} members")),
                Some(map) => map.iter().try_for_each(|(key, item)| {
                    items.check(item).map_err(|message| format!("member `{key}` {message}"))
                }),
                None => wrong(),
            },
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Text { pattern: Some(pattern) } => format!("text that matches {}", pattern.as_str()),
            Self::Text { pattern: None } => "text".to_owned(),
            Self::Choice(choices) => format!("one of {}", choices.join(", ")),
            Self::Integer { min: i64::MIN, max: i64::MAX } => "a whole number".to_owned(),
            Self::Integer { min, max: i64::MAX } => format!("a whole number from {min}"),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Bool => "true or false".to_owned(),
            Self::List(items) => format!("a list of {}", items.describe()),
            Self::Map(items) => format!("a table of {}", items.describe()),
        }
    }
}

/// The candidate nearest in spelling, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(word.len()).div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        let mut next = vec![before];
        for (right, above) in b.iter().zip(row.iter().skip(1)) {
            let here = (diagonal + usize::from(left != *right)).min(before + 1).min(above + 1);
            next.push(here);
            diagonal = *above;
            before = here;
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

fn brief(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= 60 { format!("`{text}`") } else { format!("`{}…`", text.chars().take(60).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema(yaml: &str) -> Result<Schema, BadValue> {
        Schema::compile(serde_saphyr::from_str(yaml).unwrap())
    }

    fn check(yaml: &str, given: &Value) -> Result<Value, String> {
        let given = given.as_object().unwrap();
        schema(yaml).unwrap().check(given).map(Value::Object).map_err(|error| error.to_string())
    }

    const PROFILES: &str = "profiles: { type: list, items: { enum: [Domain, Private] }, default: [Domain] }";

    #[test]
    fn values_are_checked_and_defaults_filled_in() {
        assert_eq!(check(PROFILES, &json!({})).unwrap(), json!({"profiles": ["Domain"]}));
        assert_eq!(check(PROFILES, &json!({"profiles": ["Private"]})).unwrap(), json!({"profiles": ["Private"]}));
        assert_eq!(
            check(PROFILES, &json!({"profiles": ["x; rm -rf /"]})).unwrap_err(),
            "`profiles` item is `\"x; rm -rf /\"`; expected one of Domain, Private"
        );
        assert_eq!(
            check(PROFILES, &json!({"profile": []})).unwrap_err(),
            "`profile` is not known here; did you mean `profiles`?"
        );
    }

    #[test]
    fn patterns_are_anchored_and_numbers_bounded() {
        let yaml = "unit: { type: string, pattern: '[a-z]+\\.service' }\nport: { type: integer, min: 1, max: 65535, default: 22 }";
        assert!(check(yaml, &json!({"unit": "ssh.service"})).is_ok());
        assert!(check(yaml, &json!({"unit": "x ssh.service --now"})).is_err());
        assert!(check(yaml, &json!({"unit": "ssh.service", "port": 70000})).is_err());
        assert!(check(yaml, &json!({"unit": "ssh.service", "port": "22"})).is_err());
        assert_eq!(
            check(yaml, &json!({})).unwrap_err(),
            "`unit` is missing; expected text that matches ^(?:[a-z]+\\.service)$"
        );
    }

    #[test]
    fn a_secret_is_never_shown() {
        let schema = schema("key: { type: string, pattern: '[a-z]+', optional: true, secret: true }").unwrap();
        let set = json!({"key": "hunter"}).as_object().unwrap().clone();
        assert_eq!(Value::Object(schema.shown(&set)), json!({"key": "***"}));
        let unset = schema.check(&Map::new()).unwrap();
        assert_eq!(Value::Object(schema.shown(&unset)), json!({"key": null}));
        let wrong = schema.check(json!({"key": "hunter2"}).as_object().unwrap()).unwrap_err().to_string();
        assert!(!wrong.contains("hunter"), "{wrong}");
    }

    #[test]
    fn a_schema_that_makes_no_sense_is_refused() {
        for bad in [
            "a: { }",
            "a: { type: list }",
            "a: { type: integer, min: 3, max: 1 }",
            "a: { type: bool, default: 3 }",
            "a: { type: string, pattern: '(' }",
            "a: { enum: [] }",
            "a: { type: integer, secret: true }",
        ] {
            assert!(schema(bad).is_err(), "{bad}");
        }
    }
}
