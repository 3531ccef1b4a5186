//! OTLP attribute values: from the wire into [`Value`], and the protobuf JSON kept for values without a column (block-format §4.3).
//! vParquet3 stores some values as such messages or as their JSON: [`stored_value`].
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::otlp::json::any_value_from_json;
use super::span_table::{Attrs, Value};
use super::strings::{AddString, StrId};
use super::wire::{Field, FieldValue, Fields, WireError};

/// Nesting of arrays and key-value lists. Clients stay below 10; each level costs one small stack frame.
const MAX_VALUE_DEPTH: u32 = 64;

/// One attribute as it came in: key, and the undecoded `AnyValue` (`None` when the field is missing).
pub(super) struct KeyValue<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: Option<&'a [u8]>,
}

impl<'a> KeyValue<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, WireError> {
        let mut pair = Self { key: &[], value: None };
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next_field()? {
            match field.number {
                1 => pair.key = field.bytes()?,
                2 => pair.value = Some(field.bytes()?),
                _ => {}
            }
        }
        Ok(pair)
    }

    /// Interns the pair; array elements go to `attrs`. A pair without a value is kept with empty JSON, as the block format does.
    pub(super) fn store(&self, strings: &mut impl AddString, attrs: &mut Attrs) -> Result<(StrId, Value), WireError> {
        let value = match self.value {
            Some(value) => store_value(value, strings, &mut attrs.elements)?,
            None => Value::Json(StrId::EMPTY),
        };
        Ok((strings.add(self.key), value))
    }
}

/// Appends an undecoded `KeyValue` to the owner under construction.
pub(super) fn push_attr(pair: &[u8], strings: &mut impl AddString, attrs: &mut Attrs) -> Result<(), WireError> {
    let (key, value) = KeyValue::parse(pair)?.store(strings, attrs)?;
    attrs.push(key, value);
    Ok(())
}

/// The content of an `AnyValue`. Of repeated oneof fields the last counts, as protobuf demands.
enum AnyValue<'a> {
    None,
    String(&'a [u8]),
    Bool(bool),
    Int(i64),
    Double(f64),
    Array(&'a [u8]),
    KeyValueList(&'a [u8]),
    Bytes(&'a [u8]),
}

impl<'a> AnyValue<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, WireError> {
        let mut value = Self::None;
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next_field()? {
            value = Self::of_field(&field)?.unwrap_or(value);
        }
        Ok(value)
    }

    fn of_field(field: &Field<'a>) -> Result<Option<Self>, WireError> {
        Ok(Some(match (field.number, field.value) {
            (1, FieldValue::Bytes(text)) => Self::String(text),
            (2, FieldValue::Varint(value)) => Self::Bool(value != 0),
            (3, FieldValue::Varint(value)) => Self::Int(value as i64),
            (4, FieldValue::Fixed64(bits)) => Self::Double(f64::from_bits(bits)),
            (5, FieldValue::Bytes(array)) => Self::Array(array),
            (6, FieldValue::Bytes(list)) => Self::KeyValueList(list),
            (7, FieldValue::Bytes(bytes)) => Self::Bytes(bytes),
            (1..=7, _) => return Err(WireError::WrongType { field: field.number }),
            _ => return Ok(None),
        }))
    }
}

/// Returns the value of a stored `AnyValue`: protobuf, or the protobuf JSON of one. JSON that is none stays as it is. Elements of an array go to
/// `elements`, everything else to `strings`, which takes at most [`MAX_GROWTH`] times the length of `stored`.
pub fn stored_value(stored: &[u8], strings: &mut impl AddString, elements: &mut Vec<Value>) -> Result<Value, WireError> {
    // No field of the message has a tag that is a brace.
    if stored.first() != Some(&b'{') {
        return store_value(stored, strings, elements);
    }
    match any_value_from_json(stored) {
        Ok(message) => store_value(&message, strings, elements),
        Err(_not_this_message) => Ok(Value::Json(strings.add(stored))),
    }
}

/// JSON of a value takes at most so many times the bytes of its message: `{"boolValue":false}` for four, six for a control character.
pub const MAX_GROWTH: usize = 16;

fn store_value(message: &[u8], strings: &mut impl AddString, elements: &mut Vec<Value>) -> Result<Value, WireError> {
    Ok(match AnyValue::parse(message)? {
        AnyValue::String(text) => Value::Str(strings.add(text)),
        AnyValue::Bool(value) => Value::Bool(value),
        AnyValue::Int(value) => Value::Int(value),
        AnyValue::Double(value) => Value::Double(value),
        AnyValue::Array(array) => match store_scalars(array, strings, elements)? {
            Some(value) => value,
            None => store_json(message, strings)?,
        },
        AnyValue::None | AnyValue::KeyValueList(_) | AnyValue::Bytes(_) => store_json(message, strings)?,
    })
}

/// Stores an array whose elements are scalars of one type; `None` for any other array.
fn store_scalars(array: &[u8], strings: &mut impl AddString, elements: &mut Vec<Value>) -> Result<Option<Value>, WireError> {
    let start = elements.len();
    let mut fields = Fields::new(array);
    while let Some(field) = fields.next_field()? {
        if field.number != 1 {
            continue;
        }
        let element = match AnyValue::parse(field.bytes()?)? {
            AnyValue::String(text) => Value::Str(strings.add(text)),
            AnyValue::Bool(value) => Value::Bool(value),
            AnyValue::Int(value) => Value::Int(value),
            AnyValue::Double(value) => Value::Double(value),
            AnyValue::None | AnyValue::Array(_) | AnyValue::KeyValueList(_) | AnyValue::Bytes(_) => {
                elements.truncate(start);
                return Ok(None);
            }
        };
        if elements.get(start).is_some_and(|first| std::mem::discriminant(first) != std::mem::discriminant(&element)) {
            elements.truncate(start);
            return Ok(None);
        }
        elements.push(element);
    }
    let len = elements.len().saturating_sub(start);
    Ok(Some(Value::Array { start: start as u32, len: len as u32 }))
}

fn store_json(message: &[u8], strings: &mut impl AddString) -> Result<Value, WireError> {
    let mut json = Vec::new();
    write_json(message, &mut json, 0)?;
    Ok(Value::Json(strings.add(&json)))
}

/// Writes an `AnyValue` as compact protobuf JSON.
fn write_json(message: &[u8], out: &mut Vec<u8>, depth: u32) -> Result<(), WireError> {
    if depth >= MAX_VALUE_DEPTH {
        return Err(WireError::TooDeep);
    }
    let deeper = depth.saturating_add(1);
    match AnyValue::parse(message)? {
        AnyValue::None => out.extend_from_slice(b"{"),
        AnyValue::String(text) => {
            out.extend_from_slice(b"{\"stringValue\":");
            write_json_string(text, out);
        }
        AnyValue::Bool(value) => out.extend_from_slice(format!("{{\"boolValue\":{value}").as_bytes()),
        AnyValue::Int(value) => out.extend_from_slice(format!("{{\"intValue\":\"{value}\"").as_bytes()),
        AnyValue::Double(value) => {
            out.extend_from_slice(b"{\"doubleValue\":");
            write_json_double(value, out);
        }
        AnyValue::Array(array) => {
            out.extend_from_slice(b"{\"arrayValue\":{");
            write_json_list(array, out, |value, out| write_json(value, out, deeper))?;
            out.push(b'}');
        }
        AnyValue::KeyValueList(list) => {
            out.extend_from_slice(b"{\"kvlistValue\":{");
            write_json_list(list, out, |pair, out| write_json_pair(pair, out, deeper))?;
            out.push(b'}');
        }
        AnyValue::Bytes(bytes) => {
            out.extend_from_slice(b"{\"bytesValue\":\"");
            out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            out.push(b'"');
        }
    }
    out.push(b'}');
    Ok(())
}

/// Writes `"values":[…]` for the elements of field 1; nothing when there are none.
fn write_json_list(
    message: &[u8],
    out: &mut Vec<u8>,
    mut write: impl FnMut(&[u8], &mut Vec<u8>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    let mut opening: &[u8] = b"\"values\":[";
    let mut fields = Fields::new(message);
    while let Some(field) = fields.next_field()? {
        if field.number == 1 {
            out.extend_from_slice(opening);
            write(field.bytes()?, out)?;
            opening = b",";
        }
    }
    if opening == b"," {
        out.push(b']');
    }
    Ok(())
}

fn write_json_pair(message: &[u8], out: &mut Vec<u8>, depth: u32) -> Result<(), WireError> {
    let pair = KeyValue::parse(message)?;
    let mut opening: &[u8] = b"{";
    if !pair.key.is_empty() {
        out.extend_from_slice(b"{\"key\":");
        write_json_string(pair.key, out);
        opening = b",";
    }
    if let Some(value) = pair.value {
        out.extend_from_slice(opening);
        out.extend_from_slice(b"\"value\":");
        write_json(value, out, depth)?;
    } else if opening == b"{" {
        out.push(b'{');
    }
    out.push(b'}');
    Ok(())
}

fn write_json_string(text: &[u8], out: &mut Vec<u8>) {
    serde_json::to_writer(out, &String::from_utf8_lossy(text)).expect("a string is JSON and a Vec takes it");
}

fn write_json_double(value: f64, out: &mut Vec<u8>) {
    if value.is_nan() {
        out.extend_from_slice(b"\"NaN\"");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" });
    } else {
        out.extend_from_slice(serde_json::Value::from(value).to_string().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::strings::Interner;
    use super::super::wire::{put_bytes, put_tag, put_varint};
    use super::*;

    fn string_value(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, text.as_bytes());
        out
    }

    fn int_value(value: i64) -> Vec<u8> {
        let mut out = Vec::new();
        put_tag(&mut out, 3, 0);
        put_varint(&mut out, value as u64);
        out
    }

    fn wrap(field: u32, elements: &[Vec<u8>]) -> Vec<u8> {
        let mut list = Vec::new();
        elements.iter().for_each(|element| put_bytes(&mut list, 1, element));
        let mut out = Vec::new();
        put_bytes(&mut out, field, &list);
        out
    }

    fn stored(message: &[u8]) -> (Value, Interner, Attrs) {
        let (mut strings, mut attrs) = (Interner::default(), Attrs::default());
        let value = store_value(message, &mut strings, &mut attrs.elements).unwrap();
        (value, strings, attrs)
    }

    fn json_of(message: &[u8]) -> String {
        match stored(message) {
            (Value::Json(id), strings, _) => strings.pool().text(id).into_owned(),
            (other, ..) => panic!("not stored as JSON: {other:?}"),
        }
    }

    #[test]
    fn homogeneous_arrays_have_columns() {
        let (value, _, attrs) = stored(&wrap(5, &[int_value(1), int_value(-2)]));
        assert_eq!(value, Value::Array { start: 0, len: 2 });
        assert_eq!(attrs.elements, [Value::Int(1), Value::Int(-2)]);
        assert_eq!(stored(&wrap(5, &[])).0, Value::Array { start: 0, len: 0 });
    }

    #[test]
    fn other_values_become_protobuf_json() {
        assert_eq!(json_of(&[]), "{}");
        assert_eq!(json_of(&[0x3a, 3, 0, 255, 16]), r#"{"bytesValue":"AP8Q"}"#);
        assert_eq!(json_of(&[0x3a, 0]), r#"{"bytesValue":""}"#);
        assert_eq!(json_of(&wrap(6, &[])), r#"{"kvlistValue":{}}"#);
        let mut pair = Vec::new();
        put_bytes(&mut pair, 1, b"a");
        put_bytes(&mut pair, 2, &string_value("x"));
        assert_eq!(json_of(&wrap(6, &[pair])), r#"{"kvlistValue":{"values":[{"key":"a","value":{"stringValue":"x"}}]}}"#);
        assert_eq!(
            json_of(&wrap(5, &[string_value("/a"), int_value(1)])),
            r#"{"arrayValue":{"values":[{"stringValue":"/a"},{"intValue":"1"}]}}"#
        );
    }

    #[test]
    fn missing_value_and_deep_nesting() {
        let (mut strings, mut attrs) = (Interner::default(), Attrs::default());
        let pair = KeyValue { key: b"k", value: None };
        assert_eq!(pair.store(&mut strings, &mut attrs).unwrap().1, Value::Json(StrId::EMPTY));
        let mut deep = string_value("x");
        for _ in 0..100 {
            deep = wrap(5, &[deep]);
        }
        assert_eq!(store_value(&deep, &mut strings, &mut attrs.elements), Err(WireError::TooDeep));
    }

    #[test]
    fn stored_messages_and_their_json_are_the_same_value() {
        let stored = |bytes: &[u8]| {
            let (mut strings, mut elements) = (Interner::default(), Vec::new());
            let value = stored_value(bytes, &mut strings, &mut elements).unwrap();
            match value {
                Value::Str(id) | Value::Json(id) => (format!("{:?}", std::mem::discriminant(&value)), strings.pool().text(id).into_owned()),
                other => (format!("{other:?}"), format!("{elements:?}")),
            }
        };
        for (message, json) in [
            (string_value("x"), r#"{"stringValue":"x"}"#),
            (int_value(-7), r#"{"intValue":"-7"}"#),
            (wrap(5, &[int_value(1), int_value(2)]), r#"{"arrayValue":{"values":[{"intValue":"1"},{"intValue":2}]}}"#),
            (wrap(5, &[]), r#"{"arrayValue":{}}"#),
            (wrap(5, &[string_value("a"), int_value(1)]), r#"{ "arrayValue": {"values":[{"stringValue":"a"},{"intValue":"1"}]}}"#),
            (wrap(6, &[]), r#"{"kvlistValue":{}}"#),
            (Vec::new(), "{}"),
        ] {
            assert_eq!(stored(&message), stored(json.as_bytes()), "{json}");
        }
        assert_eq!(stored(b"{\"stringValue\":").1, "{\"stringValue\":");
    }
}
