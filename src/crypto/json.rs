//! A strict reader for the JSON the log may hold: what RFC 8785 can write in one way only, and nothing else.
//!
//! The subset is tighter than I-JSON (RFC 7493): no floats, integers below 2^53 in size, ASCII member names, no name
//! twice, at most [`MAX_DEPTH`] levels. Two readers can then never disagree about what was signed.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use thiserror::Error;

/// Objects and arrays may nest this deep, the outermost one counted.
pub const MAX_DEPTH: usize = 16;

/// The largest integer, 2^53 - 1: the last one every JSON reader agrees about.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Why some bytes, or a value about to be signed, are outside the subset.
#[derive(Debug, Error)]
pub enum JsonError {
    /// More bytes than the caller allows.
    #[error("{size} bytes of json where at most {limit} are allowed")]
    TooLarge {
        /// Bytes given.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not JSON, or JSON outside the subset; the text says what and where.
    #[error("{0}")]
    Syntax(#[from] serde_json::Error),
    /// A value that may not be signed.
    #[error("{0}")]
    Refused(&'static str),
}

const FLOAT: &str = "a number that is not an integer below 2^53 in size; write it as a string";
const NAME: &str = "a member name that is not ascii";
const TWICE: &str = "a member name that appears twice";
const DEEP: &str = "more than 16 levels of nesting";

/// Reads one JSON value of the subset from at most `limit` bytes.
pub fn parse(bytes: &[u8], limit: usize) -> Result<Value, JsonError> {
    if bytes.len() > limit {
        return Err(JsonError::TooLarge { size: bytes.len(), limit });
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0 }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Refuses a value made in the program that [`parse`] would refuse after writing.
pub fn check(value: &Value) -> Result<(), JsonError> {
    check_at(value, 1)
}

fn check_at(value: &Value, depth: usize) -> Result<(), JsonError> {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
        Value::Number(n) if is_exact(n) => Ok(()),
        Value::Number(_) => Err(JsonError::Refused(FLOAT)),
        Value::Array(_) | Value::Object(_) if depth > MAX_DEPTH => Err(JsonError::Refused(DEEP)),
        Value::Array(items) => items.iter().try_for_each(|item| check_at(item, depth + 1)),
        Value::Object(members) => members.iter().try_for_each(|(name, member)| {
            if name.is_ascii() { check_at(member, depth + 1) } else { Err(JsonError::Refused(NAME)) }
        }),
    }
}

/// Whether a number is an integer below 2^53 in size.
pub(crate) fn is_exact(n: &serde_json::Number) -> bool {
    n.as_i64().map(i64::unsigned_abs).or(n.as_u64()).is_some_and(|size| size <= MAX_INTEGER)
}

/// Builds a [`Value`] while it can still see duplicates, floats and depth.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn inside<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth < MAX_DEPTH { Ok(Self { depth: self.depth + 1 }) } else { Err(E::custom(DEEP)) }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("json of the evidence subset")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        if value.unsigned_abs() <= MAX_INTEGER { Ok(value.into()) } else { Err(E::custom(FLOAT)) }
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        if value <= MAX_INTEGER { Ok(value.into()) } else { Err(E::custom(FLOAT)) }
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Value, E> {
        Err(E::custom(FLOAT))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut out = Vec::new();
        while let Some(item) = items.next_element_seed(inside)? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut out = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if !name.is_ascii() {
                return Err(A::Error::custom(NAME));
            }
            let value = members.next_value_seed(inside)?;
            if out.insert(name, value).is_some() {
                return Err(A::Error::custom(TWICE));
            }
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        parse(text.as_bytes(), 1 << 20).unwrap_err().to_string()
    }

    #[test]
    fn each_way_out_of_the_subset_is_named() {
        for number in ["1.0", "1e3", "-0", "9007199254740992", "-9007199254740992", "1e400", "18446744073709551616"] {
            assert!(parse(number.as_bytes(), 99).is_err(), "{number}");
        }
        assert!(refusal("[0.5]").contains("not an integer below 2^53"));
        assert!(refusal(r#"{"a":1,"a":2}"#).contains("appears twice"));
        assert!(refusal(r#"{"a":1,"\u0061":2}"#).contains("appears twice"));
        assert!(refusal(r#"{"ö":1}"#).contains("not ascii"));
        assert!(refusal("1 2").contains("trailing"));
        assert!(matches!(parse(b"[1,2]", 4), Err(JsonError::TooLarge { size: 5, limit: 4 })));
    }

    #[test]
    fn deep_input_ends_in_an_error_and_never_in_a_crash() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(parse(nested(MAX_DEPTH).as_bytes(), 1 << 20).is_ok());
        for n in [MAX_DEPTH + 1, 127, 128, 500_000] {
            assert!(parse(nested(n).as_bytes(), 1 << 20).is_err(), "{n}");
        }
        assert!(refusal(&nested(MAX_DEPTH + 1)).contains("16 levels"));
    }

    #[test]
    fn check_refuses_what_parse_refuses() {
        use serde_json::json;
        let mut deep = json!([]);
        for _ in 1..MAX_DEPTH {
            deep = json!([deep]);
        }
        assert!(check(&deep).is_ok());
        assert!(check(&json!([deep])).is_err());
        for bad in [json!({"ö": 1}), json!(0.5), json!(1_u64 << 53), json!([-(1_i64 << 53)])] {
            assert!(check(&bad).is_err(), "{bad}");
        }
        assert!(check(&json!({"a": [MAX_INTEGER, -9_007_199_254_740_991_i64, "ö", null, true]})).is_ok());
    }
}
