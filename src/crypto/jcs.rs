//! RFC 8785 canonical JSON for the subset of [`super::json`]: one value, one way to write it.
//!
//! The canonical form serves to produce stable bytes only. Verification works on the bytes received, never on bytes
//! made again from what they mean.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::json::{self, JsonError};

/// Writes a value of the subset in its canonical form.
pub fn to_vec(value: &Value) -> Result<Vec<u8>, JsonError> {
    json::check(value)?;
    let mut out = Vec::with_capacity(1024);
    emit(value, &mut out);
    Ok(out)
}

/// Writes a value that [`json::parse`] returned, or whose member names may be any text (sorted by UTF-16 units).
///
/// Numbers are written as they stand: only integers below 2^53 in size have their RFC 8785 form here.
pub fn emit(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(n) => out.extend_from_slice(n.to_string().as_bytes()),
        Value::String(s) => string(s, out),
        Value::Array(items) => list(b'[', items, out, emit, b']'),
        Value::Object(members) => {
            let member = |(name, value): &(&String, &Value), out: &mut Vec<u8>| {
                string(name, out);
                out.push(b':');
                emit(value, out);
            };
            list(b'{', &sorted(members), out, member, b'}');
        }
    }
}

/// Members in the order of their names' UTF-16 code units (RFC 8785 §3.2.3), which for ASCII is the map's own order.
fn sorted(members: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut order: Vec<_> = members.iter().collect();
    if !members.keys().all(|name| name.is_ascii()) {
        order.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    }
    order
}

fn list<T>(open: u8, items: &[T], out: &mut Vec<u8>, mut emit: impl FnMut(&T, &mut Vec<u8>), close: u8) {
    out.push(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        emit(item, out);
    }
    out.push(close);
}

/// A string with the shortest escapes (RFC 8785 §3.2.2.2): everything but `"`, `\` and controls stands for itself.
pub(super) fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for piece in text.split_inclusive(|c: char| c < ' ' || c == '"' || c == '\\') {
        let last = piece.as_bytes().last().copied().unwrap_or_default();
        let Some(escape) = escape(last) else {
            out.extend_from_slice(piece.as_bytes());
            continue;
        };
        out.extend_from_slice(piece.as_bytes().split_last().map_or(&[], |(_, plain)| plain));
        out.extend_from_slice(escape.as_bytes());
    }
    out.push(b'"');
}

fn escape(byte: u8) -> Option<Cow<'static, str>> {
    Some(match byte {
        b'"' => Cow::Borrowed("\\\""),
        b'\\' => Cow::Borrowed("\\\\"),
        0x08 => Cow::Borrowed("\\b"),
        b'\t' => Cow::Borrowed("\\t"),
        b'\n' => Cow::Borrowed("\\n"),
        0x0c => Cow::Borrowed("\\f"),
        b'\r' => Cow::Borrowed("\\r"),
        0..0x20 => Cow::Owned(format!("\\u{byte:04x}")),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-9_007_199_254_740_991_i64..=9_007_199_254_740_991).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\\x00-\\x7f]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::btree_map("[\\x00-\\x7f]{0,8}", inner, 0..8)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_and_written_the_same(value in any_json()) {
            let bytes = to_vec(&value).unwrap();
            let again = json::parse(&bytes, bytes.len()).unwrap();
            prop_assert_eq!(&again, &value);
            prop_assert_eq!(to_vec(&again).unwrap(), bytes);
        }
    }

    #[test]
    fn escapes_are_the_shortest() {
        let bytes = to_vec(&json!("a\"\\\u{8}\t\n\u{c}\r\u{0}\u{1f}\u{7f}/€😂")).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), "\"a\\\"\\\\\\b\\t\\n\\f\\r\\u0000\\u001f\u{7f}/€😂\"");
    }

    #[test]
    fn floats_are_refused_with_the_reason() {
        assert!(to_vec(&json!({"a": 1.5})).unwrap_err().to_string().contains("write it as a string"));
    }
}
