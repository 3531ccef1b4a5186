//! Attribute values on their way out: an OTLP `AnyValue` written as protobuf or JSON.
//!
//! Scalars and arrays of scalars are written from the table; what the block format keeps as protobuf JSON text is parsed first.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::Value as Json;

use super::message::{Field, MessageWriter, field};
use crate::model::span_table::{Attrs, Value};
use crate::model::strings::StringPool;

const STRING_VALUE: Field = field(1, "stringValue");
const BOOL_VALUE: Field = field(2, "boolValue");
const INT_VALUE: Field = field(3, "intValue");
const DOUBLE_VALUE: Field = field(4, "doubleValue");
const ARRAY_VALUE: Field = field(5, "arrayValue");
const KVLIST_VALUE: Field = field(6, "kvlistValue");
const BYTES_VALUE: Field = field(7, "bytesValue");
const VALUES: Field = field(1, "values");
const KEY: Field = field(1, "key");
const VALUE: Field = field(2, "value");

/// An OTLP `AnyValue` of its own, independent of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyValue {
    /// No member of the oneof is set.
    None,
    Text(Vec<u8>),
    Bool(bool),
    Int(i64),
    Double(f64),
    Array(Vec<AnyValue>),
    KvList(Vec<(String, AnyValue)>),
    Bytes(Vec<u8>),
}

impl AnyValue {
    /// Parses protobuf JSON. A text that is none is kept as a string, so that nothing that is stored is hidden from the reader.
    pub fn from_protobuf_json(text: &[u8]) -> Self {
        if text.is_empty() {
            return Self::None;
        }
        serde_json::from_slice::<Json>(text).ok().and_then(|json| from_json(&json)).unwrap_or_else(|| Self::Text(text.to_vec()))
    }

    /// Writes the members of the message.
    pub fn write(&self, out: &mut impl MessageWriter) {
        match self {
            Self::None => {}
            Self::Text(text) => out.put_text(STRING_VALUE, text),
            Self::Bool(value) => out.put_bool(BOOL_VALUE, *value),
            Self::Int(value) => out.put_int64(INT_VALUE, *value),
            Self::Double(value) => out.put_double(DOUBLE_VALUE, *value),
            Self::Array(values) => {
                out.message(ARRAY_VALUE, |out| out.messages(VALUES, values, |out, value| value.write(out)));
            }
            Self::KvList(entries) => out.message(KVLIST_VALUE, |out| {
                out.messages(VALUES, entries, |out, (key, value)| write_key_value(out, key.as_bytes(), value));
            }),
            Self::Bytes(bytes) => out.put_bytes(BYTES_VALUE, bytes),
        }
    }
}

/// Writes the members of an OTLP `KeyValue`.
pub fn write_key_value(out: &mut impl MessageWriter, key: &[u8], value: &AnyValue) {
    out.text(KEY, key);
    out.message(VALUE, |out| value.write(out));
}

/// Writes the members of the `KeyValue` of a table's attribute.
pub fn write_attribute(out: &mut impl MessageWriter, strings: &StringPool, attrs: &Attrs, key: &[u8], value: Value) {
    out.text(KEY, key);
    out.message(VALUE, |out| write_value(out, strings, attrs, value));
}

fn write_value(out: &mut impl MessageWriter, strings: &StringPool, attrs: &Attrs, value: Value) {
    match value {
        Value::Str(id) => out.put_text(STRING_VALUE, strings.get(id)),
        Value::Bool(value) => out.put_bool(BOOL_VALUE, value),
        Value::Int(value) => out.put_int64(INT_VALUE, value),
        Value::Double(value) => out.put_double(DOUBLE_VALUE, value),
        Value::Array { .. } => out.message(ARRAY_VALUE, |out| {
            out.messages(VALUES, attrs.elements_of(&value), |out, element| write_value(out, strings, attrs, *element));
        }),
        Value::Json(id) => AnyValue::from_protobuf_json(strings.get(id)).write(out),
    }
}

/// `None` for JSON that is no `AnyValue`. The parser bounds the depth.
fn from_json(json: &Json) -> Option<AnyValue> {
    let object = json.as_object()?;
    let Some((name, value)) = object.iter().next() else { return Some(AnyValue::None) };
    Some(match name.as_str() {
        "stringValue" | "string_value" => AnyValue::Text(value.as_str()?.as_bytes().to_vec()),
        "boolValue" | "bool_value" => AnyValue::Bool(value.as_bool()?),
        "intValue" | "int_value" => AnyValue::Int(value.as_i64().or_else(|| value.as_str()?.parse().ok())?),
        "doubleValue" | "double_value" => AnyValue::Double(double_from_json(value)?),
        "bytesValue" | "bytes_value" => {
            let text = value.as_str()?;
            AnyValue::Bytes(STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()?)
        }
        "arrayValue" | "array_value" => AnyValue::Array(list_of(value)?.iter().map(from_json).collect::<Option<_>>()?),
        "kvlistValue" | "kvlist_value" => AnyValue::KvList(list_of(value)?.iter().map(key_value_from_json).collect::<Option<_>>()?),
        _ => return None,
    })
}

fn list_of(json: &Json) -> Option<&[Json]> {
    match json.as_object()?.get("values") {
        None | Some(Json::Null) => Some(&[]),
        Some(values) => values.as_array().map(Vec::as_slice),
    }
}

fn key_value_from_json(json: &Json) -> Option<(String, AnyValue)> {
    let object = json.as_object()?;
    let key = object.get("key").and_then(Json::as_str).unwrap_or_default().to_owned();
    Some((key, object.get("value").map_or(Some(AnyValue::None), from_json)?))
}

fn double_from_json(json: &Json) -> Option<f64> {
    json.as_f64().or_else(|| match json.as_str()? {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        text => text.parse().ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::message::JsonWriter;
    use super::*;

    #[test]
    fn stored_json_comes_back_as_itself() {
        for text in [
            r#"{"bytesValue":"AP8Q"}"#,
            r#"{"bytesValue":""}"#,
            r#"{"kvlistValue":{"values":[{"key":"a","value":{"stringValue":"x"}},{"key":"n","value":{"intValue":"1"}}]}}"#,
            r#"{"kvlistValue":{}}"#,
            r#"{"arrayValue":{"values":[{"stringValue":"/a"},{"intValue":"1"},{"doubleValue":"NaN"},{}]}}"#,
            "{}",
        ] {
            let json = JsonWriter::encode(|out| AnyValue::from_protobuf_json(text.as_bytes()).write(out));
            assert_eq!(String::from_utf8(json).unwrap(), text);
        }
    }

    #[test]
    fn broken_json_is_shown_as_text() {
        assert_eq!(AnyValue::from_protobuf_json(b"{oops"), AnyValue::Text(b"{oops".to_vec()));
        assert_eq!(AnyValue::from_protobuf_json(br#"{"intValue":"x"}"#), AnyValue::Text(br#"{"intValue":"x"}"#.to_vec()));
        assert_eq!(AnyValue::from_protobuf_json(b""), AnyValue::None);
    }
}
