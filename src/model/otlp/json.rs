//! Turns an OTLP/JSON push request into OTLP bytes, field by field, without building objects.
//!
//! One description of each message ([`Shape`]) drives the reader. Rules (OTLP specification, JSON encoding; http-api, OTLP over HTTP): ids are hex,
//! bytes base64, 64-bit integers a number or a string, enums a number or a name; names are camel or snake case, unknown ones are ignored,
//! `null` is the default. A value of another type is an error with its position.
//!
//! Bounds: the output is never longer than the text, and values nest at most as deep as `serde_json` recurses (128).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, de};

use crate::model::wire::{put_bytes, put_tag, put_varint, varint_len};

/// Why a text is not an OTLP/JSON request: the decoder's message with line and column.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct JsonError(#[from] serde_json::Error);

/// Returns the request as an `ExportTraceServiceRequest` message.
pub fn request_from_json(text: &[u8]) -> Result<Vec<u8>, JsonError> {
    let mut out = Vec::with_capacity(text.len() / 2);
    let mut decoder = serde_json::Deserializer::from_slice(text);
    Message { shape: &REQUEST, out: &mut out }.deserialize(&mut decoder)?;
    decoder.end()?;
    Ok(out)
}

/// Returns one attribute value as an `AnyValue` message.
pub(in crate::model) fn any_value_from_json(text: &[u8]) -> Result<Vec<u8>, JsonError> {
    let mut out = Vec::with_capacity(text.len() / 2);
    let mut decoder = serde_json::Deserializer::from_slice(text);
    Message { shape: &ANY_VALUE, out: &mut out }.deserialize(&mut decoder)?;
    decoder.end()?;
    Ok(out)
}

/// A message: what its fields are called, how they are numbered, what they hold.
struct Shape {
    name: &'static str,
    fields: &'static [Field],
}

struct Field {
    camel: &'static str,
    snake: &'static str,
    number: u32,
    kind: Kind,
}

enum Kind {
    Text,
    /// Hex of an id of this many bytes; empty for none.
    Id(usize),
    Fixed64,
    Fixed32,
    Uint32,
    /// Names in order of their numbers.
    Enum(&'static [&'static str]),
    /// Members of `AnyValue` are written even when they have their default value.
    OneofText,
    /// Base64.
    OneofBytes,
    OneofBool,
    OneofInt64,
    OneofDouble,
    Message(&'static Shape),
    /// A list of one of the other kinds.
    List(&'static Kind),
}

const fn field(camel: &'static str, snake: &'static str, number: u32, kind: Kind) -> Field {
    Field { camel, snake, number, kind }
}

static REQUEST: Shape = Shape {
    name: "ExportTraceServiceRequest",
    fields: &[field("resourceSpans", "resource_spans", 1, Kind::List(&Kind::Message(&RESOURCE_SPANS)))],
};

static RESOURCE_SPANS: Shape = Shape {
    name: "ResourceSpans",
    fields: &[
        field("resource", "resource", 1, Kind::Message(&RESOURCE)),
        field("scopeSpans", "scope_spans", 2, Kind::List(&Kind::Message(&SCOPE_SPANS))),
        field("schemaUrl", "schema_url", 3, Kind::Text),
    ],
};

static RESOURCE: Shape = Shape {
    name: "Resource",
    fields: &[
        field("attributes", "attributes", 1, ATTRIBUTES),
        field("droppedAttributesCount", "dropped_attributes_count", 2, Kind::Uint32),
        field("entityRefs", "entity_refs", 3, Kind::List(&Kind::Message(&ENTITY_REF))),
    ],
};

static ENTITY_REF: Shape = Shape {
    name: "EntityRef",
    fields: &[
        field("schemaUrl", "schema_url", 1, Kind::Text),
        field("type", "type", 2, Kind::Text),
        field("idKeys", "id_keys", 3, Kind::List(&Kind::OneofText)),
        field("descriptionKeys", "description_keys", 4, Kind::List(&Kind::OneofText)),
    ],
};

static SCOPE_SPANS: Shape = Shape {
    name: "ScopeSpans",
    fields: &[
        field("scope", "scope", 1, Kind::Message(&SCOPE)),
        field("spans", "spans", 2, Kind::List(&Kind::Message(&SPAN))),
        field("schemaUrl", "schema_url", 3, Kind::Text),
    ],
};

static SCOPE: Shape = Shape {
    name: "InstrumentationScope",
    fields: &[
        field("name", "name", 1, Kind::Text),
        field("version", "version", 2, Kind::Text),
        field("attributes", "attributes", 3, ATTRIBUTES),
        field("droppedAttributesCount", "dropped_attributes_count", 4, Kind::Uint32),
    ],
};

const SPAN_KINDS: Kind = Kind::Enum(&[
    "SPAN_KIND_UNSPECIFIED",
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_SERVER",
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_CONSUMER",
]);

static SPAN: Shape = Shape {
    name: "Span",
    fields: &[
        field("traceId", "trace_id", 1, Kind::Id(16)),
        field("spanId", "span_id", 2, Kind::Id(8)),
        field("traceState", "trace_state", 3, Kind::Text),
        field("parentSpanId", "parent_span_id", 4, Kind::Id(8)),
        field("flags", "flags", 16, Kind::Fixed32),
        field("name", "name", 5, Kind::Text),
        field("kind", "kind", 6, SPAN_KINDS),
        field("startTimeUnixNano", "start_time_unix_nano", 7, Kind::Fixed64),
        field("endTimeUnixNano", "end_time_unix_nano", 8, Kind::Fixed64),
        field("attributes", "attributes", 9, ATTRIBUTES),
        field("droppedAttributesCount", "dropped_attributes_count", 10, Kind::Uint32),
        field("events", "events", 11, Kind::List(&Kind::Message(&EVENT))),
        field("droppedEventsCount", "dropped_events_count", 12, Kind::Uint32),
        field("links", "links", 13, Kind::List(&Kind::Message(&LINK))),
        field("droppedLinksCount", "dropped_links_count", 14, Kind::Uint32),
        field("status", "status", 15, Kind::Message(&STATUS)),
    ],
};

static EVENT: Shape = Shape {
    name: "Event",
    fields: &[
        field("timeUnixNano", "time_unix_nano", 1, Kind::Fixed64),
        field("name", "name", 2, Kind::Text),
        field("attributes", "attributes", 3, ATTRIBUTES),
        field("droppedAttributesCount", "dropped_attributes_count", 4, Kind::Uint32),
    ],
};

static LINK: Shape = Shape {
    name: "Link",
    fields: &[
        field("traceId", "trace_id", 1, Kind::Id(16)),
        field("spanId", "span_id", 2, Kind::Id(8)),
        field("traceState", "trace_state", 3, Kind::Text),
        field("attributes", "attributes", 4, ATTRIBUTES),
        field("droppedAttributesCount", "dropped_attributes_count", 5, Kind::Uint32),
        field("flags", "flags", 6, Kind::Fixed32),
    ],
};

static STATUS: Shape = Shape {
    name: "Status",
    fields: &[
        field("message", "message", 2, Kind::Text),
        field("code", "code", 3, Kind::Enum(&["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"])),
    ],
};

const ATTRIBUTES: Kind = Kind::List(&Kind::Message(&KEY_VALUE));

static KEY_VALUE: Shape =
    Shape { name: "KeyValue", fields: &[field("key", "key", 1, Kind::Text), field("value", "value", 2, Kind::Message(&ANY_VALUE))] };

static ANY_VALUE: Shape = Shape {
    name: "AnyValue",
    fields: &[
        field("stringValue", "string_value", 1, Kind::OneofText),
        field("boolValue", "bool_value", 2, Kind::OneofBool),
        field("intValue", "int_value", 3, Kind::OneofInt64),
        field("doubleValue", "double_value", 4, Kind::OneofDouble),
        field("arrayValue", "array_value", 5, Kind::Message(&ARRAY_VALUE)),
        field("kvlistValue", "kvlist_value", 6, Kind::Message(&KEY_VALUE_LIST)),
        field("bytesValue", "bytes_value", 7, Kind::OneofBytes),
    ],
};

static ARRAY_VALUE: Shape = Shape { name: "ArrayValue", fields: &[field("values", "values", 1, Kind::List(&Kind::Message(&ANY_VALUE)))] };

static KEY_VALUE_LIST: Shape =
    Shape { name: "KeyValueList", fields: &[field("values", "values", 1, Kind::List(&Kind::Message(&KEY_VALUE)))] };

/// Reads an object into the fields of a message.
struct Message<'o> {
    shape: &'static Shape,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object ({})", self.shape.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key_seed(Name(self.shape))? {
            match field {
                Some(field) => map.next_value_seed(Value { field, kind: &field.kind, out: self.out })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Finds a field by its name.
struct Name(&'static Shape);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<&'static Field>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<&'static Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.fields.iter().find(|field| field.camel == name || field.snake == name))
    }
}

/// Reads the value of a field, or one element of a list.
struct Value<'o> {
    field: &'static Field,
    kind: &'static Kind,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Value<'_> {
    fn bad<E: Error>(&self, problem: impl fmt::Display) -> E {
        E::custom(format_args!("{}: {problem}", self.field.camel))
    }

    fn put_varint_field(self, value: u64) {
        put_tag(self.out, self.field.number, 0);
        put_varint(self.out, value);
    }

    fn put_fixed64_field(self, bytes: [u8; 8]) {
        put_tag(self.out, self.field.number, 1);
        self.out.extend_from_slice(&bytes);
    }

    /// Writes an integer; `None` from a conversion is a value out of the field's range.
    fn integer<E: Error>(self, value: i128) -> Result<(), E> {
        let out_of_range = |this: &Self| this.bad::<E>(format_args!("{value} is out of range"));
        match self.kind {
            Kind::Fixed64 => match u64::try_from(value) {
                Ok(0) => Ok(()),
                Ok(value) => {
                    self.put_fixed64_field(value.to_le_bytes());
                    Ok(())
                }
                Err(_) => Err(out_of_range(&self)),
            },
            Kind::Fixed32 => match u32::try_from(value) {
                Ok(0) => Ok(()),
                Ok(value) => {
                    put_tag(self.out, self.field.number, 5);
                    self.out.extend_from_slice(&value.to_le_bytes());
                    Ok(())
                }
                Err(_) => Err(out_of_range(&self)),
            },
            Kind::Uint32 => match u32::try_from(value) {
                Ok(0) => Ok(()),
                Ok(value) => {
                    self.put_varint_field(u64::from(value));
                    Ok(())
                }
                Err(_) => Err(out_of_range(&self)),
            },
            Kind::Enum(_) => match i32::try_from(value) {
                Ok(0) => Ok(()),
                // A negative enum number is sign-extended to 64 bits on the wire.
                Ok(value) => {
                    self.put_varint_field(i64::from(value) as u64);
                    Ok(())
                }
                Err(_) => Err(out_of_range(&self)),
            },
            Kind::OneofInt64 => match i64::try_from(value) {
                Ok(value) => {
                    self.put_varint_field(value as u64);
                    Ok(())
                }
                Err(_) => Err(out_of_range(&self)),
            },
            Kind::OneofDouble => {
                self.put_fixed64_field((value as f64).to_le_bytes());
                Ok(())
            }
            _ => Err(E::invalid_type(de::Unexpected::Other("a number"), &self)),
        }
    }

    fn is_integer(&self) -> bool {
        matches!(self.kind, Kind::Fixed64 | Kind::Fixed32 | Kind::Uint32 | Kind::Enum(_) | Kind::OneofInt64)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::Text | Kind::OneofText => "a string",
            Kind::OneofBytes => "a base64 string",
            Kind::Id(_) => "a hex string",
            Kind::Fixed64 | Kind::OneofInt64 => "an integer or a string with one",
            Kind::Fixed32 | Kind::Uint32 => "an integer",
            Kind::Enum(_) => "an enum number or name",
            Kind::OneofBool => "a boolean",
            Kind::OneofDouble => "a number",
            Kind::Message(_) => "an object",
            Kind::List(_) => "an array",
        };
        write!(f, "{what} for {}", self.field.camel)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.kind {
            Kind::OneofBool => {
                self.put_varint_field(u64::from(value));
                Ok(())
            }
            _ => Err(E::invalid_type(de::Unexpected::Bool(value), &self)),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.integer(i128::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.integer(i128::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.kind {
            Kind::OneofDouble => {
                self.put_fixed64_field(value.to_le_bytes());
                Ok(())
            }
            // 1e9 is an integer in JSON, and exact below 2^63.
            _ if self.is_integer() && value.fract() == 0.0 && value.abs() < 9.3e18 => self.integer(value as i128),
            _ => Err(E::invalid_type(de::Unexpected::Float(value), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match self.kind {
            Kind::Text => {
                if !text.is_empty() {
                    put_bytes(self.out, self.field.number, text.as_bytes());
                }
            }
            Kind::OneofText => put_bytes(self.out, self.field.number, text.as_bytes()),
            Kind::OneofBytes => {
                let bytes = from_base64(text).ok_or_else(|| self.bad("not base64"))?;
                put_bytes(self.out, self.field.number, &bytes);
            }
            Kind::Id(len) => {
                let mut id = [0; 16];
                match from_hex(text, &mut id) {
                    Some(0) => {}
                    Some(got) if got == *len => put_bytes(self.out, self.field.number, &id[..got]),
                    Some(_) => return Err(self.bad(format_args!("invalid length, expected {} hex digits", len * 2))),
                    None if text.len() > 2 * id.len() => {
                        return Err(self.bad(format_args!("invalid length, expected {} hex digits", len * 2)));
                    }
                    None => return Err(self.bad("not a hex string")),
                }
            }
            Kind::Enum(names) => {
                let number = match names.iter().position(|name| *name == text) {
                    Some(number) => number as i128,
                    None => text.parse::<i32>().map(i128::from).map_err(|_| self.bad(format_args!("unknown value {text:?}")))?,
                };
                return self.integer(number);
            }
            Kind::Fixed64 | Kind::OneofInt64 | Kind::Fixed32 | Kind::Uint32 => {
                let value = text.parse::<i128>().map_err(|_| self.bad(format_args!("{text:?} is not an integer")))?;
                return self.integer(value);
            }
            Kind::OneofDouble => {
                let value = match text {
                    "NaN" => f64::NAN,
                    "Infinity" => f64::INFINITY,
                    "-Infinity" => f64::NEG_INFINITY,
                    _ => text.parse().map_err(|_| self.bad(format_args!("{text:?} is not a number")))?,
                };
                self.put_fixed64_field(value.to_le_bytes());
            }
            Kind::OneofBool | Kind::Message(_) | Kind::List(_) => return Err(E::invalid_type(de::Unexpected::Str(text), &self)),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Kind::List(kind) = self.kind else { return Err(A::Error::invalid_type(de::Unexpected::Seq, &self)) };
        while items.next_element_seed(Value { field: self.field, kind, out: self.out })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Kind::Message(shape) = self.kind else { return Err(A::Error::invalid_type(de::Unexpected::Map, &self)) };
        put_tag(self.out, self.field.number, 2);
        // Most messages are shorter than 128 bytes, so one byte is left for the length; a longer one is moved.
        let at = self.out.len();
        self.out.push(0);
        Message { shape, out: self.out }.visit_map(map)?;
        let len = self.out.len() - at - 1;
        let prefix = varint_len(len as u64);
        self.out.resize(self.out.len() + prefix - 1, 0);
        self.out.copy_within(at + 1..at + 1 + len, at + prefix);
        let mut encoded = Vec::with_capacity(prefix);
        put_varint(&mut encoded, len as u64);
        self.out[at..at + prefix].copy_from_slice(&encoded);
        Ok(())
    }
}

/// Writes the bytes of a hex text to the start of `out` and returns how many; `None` when it is not hex or too long.
fn from_hex(text: &str, out: &mut [u8]) -> Option<usize> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || digits.len() / 2 > out.len() {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(digits.len() / 2)
}

/// Accepts the standard and the URL alphabet, with and without padding, as protobuf's JSON mapping does.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let engines = [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD];
    engines.into_iter().find_map(|engine| engine.decode(text).ok())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::model::otlp::testing::tempopb::{ExportTraceServiceRequest, Value as AnyValue};

    fn decode(text: &str) -> ExportTraceServiceRequest {
        ExportTraceServiceRequest::decode(request_from_json(text.as_bytes()).unwrap().as_slice()).unwrap()
    }

    fn error(text: &str) -> String {
        request_from_json(text.as_bytes()).unwrap_err().to_string()
    }

    fn value(json: &str) -> Result<AnyValue, String> {
        let text = format!(r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"k","value":{json}}}]}}}}]}}"#);
        let bytes = request_from_json(text.as_bytes()).map_err(|error| error.to_string())?;
        let request = ExportTraceServiceRequest::decode(bytes.as_slice()).unwrap();
        Ok(request.resource_spans[0].resource.as_ref().unwrap().attributes[0].value.clone().unwrap().value.unwrap())
    }

    #[test]
    fn a_whole_request_is_read() {
        let request = decode(
            r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}],"droppedAttributesCount":2},
                "scope_spans":[{"scope":{"name":"lib","version":"1"},"schemaUrl":"s","spans":[{
                "traceId":"0102030405060708090a0b0c0d0e0F10","spanId":"0102030405060708","parentSpanId":"","name":"get","kind":"SPAN_KIND_SERVER",
                "startTimeUnixNano":"1790000000000000001","end_time_unix_nano":1790000000000000002,"flags":257,"traceState":null,
                "events":[{"timeUnixNano":5,"name":"e"}],"links":[{"traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"0000000000000001"}],
                "status":{"code":2,"message":"no"},"unknown":{"a":[1,{}]}}]}],"schemaUrl":"r"}]}"#,
        );
        let resource_spans = &request.resource_spans[0];
        assert_eq!(resource_spans.resource.as_ref().unwrap().dropped_attributes_count, 2);
        assert_eq!((resource_spans.schema_url.as_str(), resource_spans.scope_spans[0].schema_url.as_str()), ("r", "s"));
        let span = &resource_spans.scope_spans[0].spans[0];
        assert_eq!(span.trace_id, (1..=16).collect::<Vec<u8>>());
        assert_eq!((span.kind, span.flags, span.name.as_str()), (2, 257, "get"));
        assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (1_790_000_000_000_000_001, 1_790_000_000_000_000_002));
        assert_eq!(span.status.as_ref().map(|status| (status.code, status.message.as_str())), Some((2, "no")));
        assert_eq!((span.events[0].time_unix_nano, span.links[0].span_id.last()), (5, Some(&1)));
        assert!(span.parent_span_id.is_empty());
    }

    #[test]
    fn values_lose_nothing() {
        assert_eq!(value(r#"{"stringValue":""}"#), Ok(AnyValue::StringValue(String::new())));
        assert_eq!(value(r#"{"intValue":"-9223372036854775808"}"#), Ok(AnyValue::IntValue(i64::MIN)));
        assert_eq!(value(r#"{"intValue":9007199254740993}"#), Ok(AnyValue::IntValue(9_007_199_254_740_993)));
        assert_eq!(value(r#"{"intValue":1e3}"#), Ok(AnyValue::IntValue(1000)));
        assert_eq!(value(r#"{"boolValue":false}"#), Ok(AnyValue::BoolValue(false)));
        assert_eq!(value(r#"{"doubleValue":2}"#), Ok(AnyValue::DoubleValue(2.0)));
        assert_eq!(value(r#"{"doubleValue":"-Infinity"}"#), Ok(AnyValue::DoubleValue(f64::NEG_INFINITY)));
        assert_eq!(value(r#"{"doubleValue":0.1234567890123456789}"#), Ok(AnyValue::DoubleValue(0.123_456_789_012_345_68)));
        assert_eq!(value(r#"{"bytesValue":"-_8"}"#), Ok(AnyValue::BytesValue(vec![0xfb, 0xff])));
        let Ok(AnyValue::ArrayValue(list)) = value(r#"{"arrayValue":{"values":[{"intValue":1},{"kvlistValue":{"values":[]}}]}}"#) else {
            panic!("not a list")
        };
        assert_eq!(list.values.len(), 2);
    }

    proptest::proptest! {
        #[test]
        fn doubles_round_trip(number: f64) {
            proptest::prop_assume!(number.is_finite());
            proptest::prop_assert_eq!(value(&format!(r#"{{"doubleValue":{number:?}}}"#)), Ok(AnyValue::DoubleValue(number)));
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = request_from_json(text.as_bytes());
        }

        #[test]
        fn long_messages_get_their_length(text in "[a-z]{0,400}", repeat in 0usize..60) {
            let spans = vec![format!(r#"{{"name":"{text}"}}"#); repeat].join(",");
            let request = decode(&format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{spans}]}}]}}]}}"#));
            let read = &request.resource_spans[0].scope_spans[0].spans;
            proptest::prop_assert_eq!(read.len(), repeat);
            proptest::prop_assert!(read.iter().all(|span| span.name == text));
        }
    }

    #[test]
    fn wrong_types_are_refused_with_position() {
        let span = |fields: &str| format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{fields}}}]}}]}}]}}"#);
        let cases = [
            (span(r#""traceId":"0102""#), "traceId: invalid length, expected 32 hex digits at line 1"),
            (span(&format!(r#""traceId":"{}""#, "0".repeat(34))), "traceId: invalid length, expected 32 hex digits"),
            (span(r#""spanId":"0102030405060708090a0b0c0d0e0f10""#), "spanId: invalid length, expected 16 hex digits"),
            (span(r#""spanId":"zz02030405060708""#), "spanId: not a hex string"),
            (span(r#""spanId":7"#), "invalid type: a number, expected a hex string for spanId"),
            (span(r#""name":7"#), "invalid type: a number, expected a string for name"),
            (span(r#""kind":"SERVER""#), "kind: unknown value \"SERVER\""),
            (span(r#""startTimeUnixNano":"soon""#), "startTimeUnixNano: \"soon\" is not an integer"),
            (span(r#""startTimeUnixNano":-1"#), "startTimeUnixNano: -1 is out of range"),
            (span(r#""startTimeUnixNano":1.5"#), "invalid type: floating point `1.5`, expected an integer"),
            (span(r#""attributes":{}"#), "invalid type: map, expected an array for attributes"),
            (span(r#""status":[]"#), "invalid type: sequence, expected an object for status"),
            ("[]".to_owned(), "invalid type: sequence, expected an object (ExportTraceServiceRequest)"),
            ("{".to_owned(), "EOF while parsing an object at line 1 column 1"),
            ("{} x".to_owned(), "trailing characters at line 1 column 4"),
        ];
        for (text, expected) in cases {
            let got = error(&text);
            assert!(got.starts_with(expected), "{text}: {got}");
        }
        assert!(value(r#"{"intValue":9223372036854775808}"#).unwrap_err().starts_with("intValue: 9223372036854775808 is out of range"));
        let deep = value(&format!("{}{{}}{}", r#"{"arrayValue":{"values":["#.repeat(100), "]}}".repeat(100)));
        assert!(deep.unwrap_err().starts_with("recursion limit exceeded"));
    }

    #[test]
    fn empty_requests_are_empty() {
        assert_eq!(request_from_json(b"{}").unwrap(), b"");
        assert_eq!(request_from_json(br#"{"resourceSpans":[]}"#).unwrap(), b"");
        assert_eq!(request_from_json(br#"{"resourceSpans":null}"#).unwrap(), b"");
    }
}
