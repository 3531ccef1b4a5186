//! One description of a message, two encodings: a message is written through [`MessageWriter`], either as protobuf or as the JSON that the
//! compatible system prints (http-api §3.2), so that the two forms cannot differ in content.
//!
//! `put_*` writes a field even if it holds the default (members of a oneof); the methods without prefix leave defaults out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::model::wire::{put_bytes, put_tag, put_varint, varint_len};

/// Number and JSON name of a field.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub number: u32,
    pub name: &'static str,
}

pub const fn field(number: u32, name: &'static str) -> Field {
    Field { number, name }
}

/// Members of a map entry on the wire.
const MAP_KEY: Field = field(1, "key");
const MAP_VALUE: Field = field(2, "value");

/// Receives the fields of one message in the order of their declaration, which JSON keeps.
pub trait MessageWriter: Sized {
    fn put_text(&mut self, field: Field, value: &[u8]);
    fn put_bytes(&mut self, field: Field, value: &[u8]);
    /// Trace and span ids are bytes, which one flavour of JSON prints in another way.
    fn put_id(&mut self, field: Field, id: &[u8]) {
        self.put_bytes(field, id);
    }
    fn put_bool(&mut self, field: Field, value: bool);
    fn put_double(&mut self, field: Field, value: f64);
    fn put_int64(&mut self, field: Field, value: i64);
    fn put_uint64(&mut self, field: Field, value: u64);
    fn put_fixed64(&mut self, field: Field, value: u64);
    fn put_uint32(&mut self, field: Field, value: u32);
    /// `name` is what JSON prints.
    fn put_enum(&mut self, field: Field, number: i32, name: &str);
    /// Writes a message, empty or not.
    fn message(&mut self, field: Field, write: impl FnOnce(&mut Self));
    /// Writes a list of messages; an empty one is left out.
    fn messages<T>(&mut self, field: Field, items: impl IntoIterator<Item = T>, write: impl FnMut(&mut Self, T));
    /// Like [`MessageWriter::messages`], but JSON prints `[]` for an empty list.
    fn messages_or_empty<T>(&mut self, field: Field, items: impl IntoIterator<Item = T>, write: impl FnMut(&mut Self, T));
    /// Writes a list of strings; JSON prints `[]` for an empty one.
    fn texts_or_empty<'a>(&mut self, field: Field, items: impl IntoIterator<Item = &'a [u8]>);
    /// Writes a map with string keys, which must come sorted; an empty one is left out.
    fn map<'a, T>(&mut self, field: Field, entries: impl IntoIterator<Item = (&'a [u8], T)>, write: impl FnMut(&mut Self, T));

    fn text(&mut self, field: Field, value: &[u8]) {
        if !value.is_empty() {
            self.put_text(field, value);
        }
    }

    fn bytes(&mut self, field: Field, value: &[u8]) {
        if !value.is_empty() {
            self.put_bytes(field, value);
        }
    }

    fn id(&mut self, field: Field, id: &[u8]) {
        if !id.is_empty() {
            self.put_id(field, id);
        }
    }

    fn double(&mut self, field: Field, value: f64) {
        if value != 0.0 || value.is_sign_negative() {
            self.put_double(field, value);
        }
    }

    fn uint64(&mut self, field: Field, value: u64) {
        if value != 0 {
            self.put_uint64(field, value);
        }
    }

    fn int64(&mut self, field: Field, value: i64) {
        if value != 0 {
            self.put_int64(field, value);
        }
    }

    fn fixed64(&mut self, field: Field, value: u64) {
        if value != 0 {
            self.put_fixed64(field, value);
        }
    }

    fn uint32(&mut self, field: Field, value: u32) {
        if value != 0 {
            self.put_uint32(field, value);
        }
    }

    fn enumeration(&mut self, field: Field, number: i32, name: &str) {
        if number != 0 {
            self.put_enum(field, number, name);
        }
    }
}

/// Writes protobuf.
#[derive(Debug, Default)]
pub struct ProtoWriter {
    out: Vec<u8>,
}

impl ProtoWriter {
    /// Returns the bytes of the message that `write` describes.
    pub fn encode(write: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut writer = Self::default();
        write(&mut writer);
        writer.out
    }

    fn put_number(&mut self, field: Field, value: u64) {
        put_tag(&mut self.out, field.number, 0);
        put_varint(&mut self.out, value);
    }
}

impl MessageWriter for ProtoWriter {
    fn put_text(&mut self, field: Field, value: &[u8]) {
        put_bytes(&mut self.out, field.number, value);
    }

    fn put_bytes(&mut self, field: Field, value: &[u8]) {
        put_bytes(&mut self.out, field.number, value);
    }

    fn put_bool(&mut self, field: Field, value: bool) {
        self.put_number(field, u64::from(value));
    }

    fn put_double(&mut self, field: Field, value: f64) {
        put_tag(&mut self.out, field.number, 1);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    fn put_int64(&mut self, field: Field, value: i64) {
        self.put_number(field, value as u64);
    }

    fn put_uint64(&mut self, field: Field, value: u64) {
        self.put_number(field, value);
    }

    fn put_fixed64(&mut self, field: Field, value: u64) {
        put_tag(&mut self.out, field.number, 1);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    fn put_uint32(&mut self, field: Field, value: u32) {
        self.put_number(field, u64::from(value));
    }

    fn put_enum(&mut self, field: Field, number: i32, _name: &str) {
        self.put_number(field, i64::from(number) as u64);
    }

    /// The content is written first with one byte left for its length, and moved when the length takes more.
    fn message(&mut self, field: Field, write: impl FnOnce(&mut Self)) {
        put_tag(&mut self.out, field.number, 2);
        let at = self.out.len();
        self.out.push(0);
        write(self);
        let len = self.out.len() - at - 1;
        let len_bytes = varint_len(len as u64);
        if len_bytes > 1 {
            self.out.resize(self.out.len() + len_bytes - 1, 0);
            self.out.copy_within(at + 1..at + 1 + len, at + len_bytes);
        }
        let mut rest = len;
        for byte in &mut self.out[at..at + len_bytes] {
            *byte = rest as u8 | 0x80;
            rest >>= 7;
        }
        self.out[at + len_bytes - 1] &= 0x7f;
    }

    fn messages<T>(&mut self, field: Field, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        for item in items {
            self.message(field, |writer| write(writer, item));
        }
    }

    fn messages_or_empty<T>(&mut self, field: Field, items: impl IntoIterator<Item = T>, write: impl FnMut(&mut Self, T)) {
        self.messages(field, items, write);
    }

    fn texts_or_empty<'a>(&mut self, field: Field, items: impl IntoIterator<Item = &'a [u8]>) {
        for item in items {
            self.put_text(field, item);
        }
    }

    fn map<'a, T>(&mut self, field: Field, entries: impl IntoIterator<Item = (&'a [u8], T)>, mut write: impl FnMut(&mut Self, T)) {
        for (key, value) in entries {
            self.message(field, |writer| {
                writer.text(MAP_KEY, key);
                writer.message(MAP_VALUE, |writer| write(writer, value));
            });
        }
    }
}

/// Counts the bytes that [`ProtoWriter`] would write.
#[derive(Debug, Default)]
pub struct ProtoSize {
    bytes: usize,
}

impl ProtoSize {
    /// Returns the size of the message that `write` describes.
    pub fn of(write: impl FnOnce(&mut Self)) -> usize {
        let mut size = Self::default();
        write(&mut size);
        size.bytes
    }

    fn add(&mut self, field: Field, value_bytes: usize) {
        self.bytes += varint_len(u64::from(field.number) << 3) + value_bytes;
    }

    fn add_bytes(&mut self, field: Field, len: usize) {
        self.add(field, varint_len(len as u64) + len);
    }
}

impl MessageWriter for ProtoSize {
    fn put_text(&mut self, field: Field, value: &[u8]) {
        self.add_bytes(field, value.len());
    }

    fn put_bytes(&mut self, field: Field, value: &[u8]) {
        self.add_bytes(field, value.len());
    }

    fn put_bool(&mut self, field: Field, _value: bool) {
        self.add(field, 1);
    }

    fn put_double(&mut self, field: Field, _value: f64) {
        self.add(field, 8);
    }

    fn put_int64(&mut self, field: Field, value: i64) {
        self.add(field, varint_len(value as u64));
    }

    fn put_uint64(&mut self, field: Field, value: u64) {
        self.add(field, varint_len(value));
    }

    fn put_fixed64(&mut self, field: Field, _value: u64) {
        self.add(field, 8);
    }

    fn put_uint32(&mut self, field: Field, value: u32) {
        self.add(field, varint_len(u64::from(value)));
    }

    fn put_enum(&mut self, field: Field, number: i32, _name: &str) {
        self.add(field, varint_len(i64::from(number) as u64));
    }

    fn message(&mut self, field: Field, write: impl FnOnce(&mut Self)) {
        let content = Self::of(write);
        self.add_bytes(field, content);
    }

    fn messages<T>(&mut self, field: Field, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        for item in items {
            self.message(field, |size| write(size, item));
        }
    }

    fn messages_or_empty<T>(&mut self, field: Field, items: impl IntoIterator<Item = T>, write: impl FnMut(&mut Self, T)) {
        self.messages(field, items, write);
    }

    fn texts_or_empty<'a>(&mut self, field: Field, items: impl IntoIterator<Item = &'a [u8]>) {
        for item in items {
            self.put_text(field, item);
        }
    }

    fn map<'a, T>(&mut self, field: Field, entries: impl IntoIterator<Item = (&'a [u8], T)>, mut write: impl FnMut(&mut Self, T)) {
        for (key, value) in entries {
            self.message(field, |size| {
                size.text(MAP_KEY, key);
                size.message(MAP_VALUE, |size| write(size, value));
            });
        }
    }
}

/// The two flavours of JSON for protobuf messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonFlavour {
    /// Of the query API (http-api §3.2): ids in base64, enums by name.
    Protobuf,
    /// Of the OTLP specification: ids in hex, enums by number.
    Otlp,
}

/// Writes compact JSON.
#[derive(Debug)]
pub struct JsonWriter {
    out: Vec<u8>,
    flavour: JsonFlavour,
    /// Whether the object under construction has a field.
    has_field: bool,
}

impl JsonWriter {
    /// Returns the text of the message that `write` describes, as the query API prints it.
    pub fn encode(write: impl FnOnce(&mut Self)) -> Vec<u8> {
        Self::encode_as(JsonFlavour::Protobuf, write)
    }

    /// Returns the text of the message that `write` describes.
    pub fn encode_as(flavour: JsonFlavour, write: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut writer = Self { out: Vec::new(), flavour, has_field: false };
        writer.object(write);
        writer.out
    }

    fn object(&mut self, write: impl FnOnce(&mut Self)) {
        self.out.push(b'{');
        self.has_field = false;
        write(self);
        self.out.push(b'}');
        self.has_field = true;
    }

    fn key(&mut self, field: Field) {
        if self.has_field {
            self.out.push(b',');
        }
        self.has_field = true;
        self.out.push(b'"');
        self.out.extend_from_slice(field.name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn put_quoted_display(&mut self, field: Field, value: impl std::fmt::Display) {
        self.key(field);
        self.out.push(b'"');
        self.push_display(value);
        self.out.push(b'"');
    }

    fn push_display(&mut self, value: impl std::fmt::Display) {
        use std::io::Write as _;
        write!(self.out, "{value}").expect("writing to memory succeeds");
    }
}

impl MessageWriter for JsonWriter {
    fn put_text(&mut self, field: Field, value: &[u8]) {
        self.key(field);
        push_json_string(&mut self.out, value);
    }

    fn put_bytes(&mut self, field: Field, value: &[u8]) {
        self.key(field);
        let text_len = value.len().div_ceil(3) * 4;
        self.out.push(b'"');
        let at = self.out.len();
        self.out.resize(at + text_len, 0);
        STANDARD.encode_slice(value, &mut self.out[at..]).expect("the room was measured");
        self.out.push(b'"');
    }

    fn put_id(&mut self, field: Field, id: &[u8]) {
        match self.flavour {
            JsonFlavour::Protobuf => self.put_bytes(field, id),
            JsonFlavour::Otlp => {
                self.key(field);
                self.out.push(b'"');
                id.iter().for_each(|byte| self.push_display(format_args!("{byte:02x}")));
                self.out.push(b'"');
            }
        }
    }

    fn put_bool(&mut self, field: Field, value: bool) {
        self.key(field);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn put_double(&mut self, field: Field, value: f64) {
        self.key(field);
        self.out.extend_from_slice(json_double(value).as_bytes());
    }

    fn put_int64(&mut self, field: Field, value: i64) {
        self.put_quoted_display(field, value);
    }

    fn put_uint64(&mut self, field: Field, value: u64) {
        self.put_quoted_display(field, value);
    }

    fn put_fixed64(&mut self, field: Field, value: u64) {
        self.put_quoted_display(field, value);
    }

    fn put_uint32(&mut self, field: Field, value: u32) {
        self.key(field);
        self.push_display(value);
    }

    fn put_enum(&mut self, field: Field, number: i32, name: &str) {
        match self.flavour {
            JsonFlavour::Protobuf => self.put_text(field, name.as_bytes()),
            JsonFlavour::Otlp => {
                self.key(field);
                self.push_display(number);
            }
        }
    }

    fn message(&mut self, field: Field, write: impl FnOnce(&mut Self)) {
        self.key(field);
        self.object(write);
    }

    fn messages<T>(&mut self, field: Field, items: impl IntoIterator<Item = T>, write: impl FnMut(&mut Self, T)) {
        let mut items = items.into_iter().peekable();
        if items.peek().is_some() {
            self.messages_or_empty(field, items, write);
        }
    }

    fn messages_or_empty<T>(&mut self, field: Field, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        self.key(field);
        self.out.push(b'[');
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.object(|writer| write(writer, item));
        }
        self.out.push(b']');
        self.has_field = true;
    }

    fn texts_or_empty<'a>(&mut self, field: Field, items: impl IntoIterator<Item = &'a [u8]>) {
        self.key(field);
        self.out.push(b'[');
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            push_json_string(&mut self.out, item);
        }
        self.out.push(b']');
    }

    fn map<'a, T>(&mut self, field: Field, entries: impl IntoIterator<Item = (&'a [u8], T)>, mut write: impl FnMut(&mut Self, T)) {
        let mut entries = entries.into_iter().peekable();
        if entries.peek().is_none() {
            return;
        }
        self.key(field);
        self.out.push(b'{');
        for (index, (key, value)) in entries.enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            push_json_string(&mut self.out, key);
            self.out.push(b':');
            self.object(|writer| write(writer, value));
        }
        self.out.push(b'}');
        self.has_field = true;
    }
}

/// Appends `text` quoted and escaped like Go's encoder: HTML characters and line separators too, invalid UTF-8 as U+FFFD.
fn push_json_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        push_escaped(out, chunk.valid());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    out.push(b'"');
}

fn push_escaped(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let (escape, taken): (&[u8], usize) = match byte {
            b'"' => (b"\\\"", 1),
            b'\\' => (b"\\\\", 1),
            b'\n' => (b"\\n", 1),
            b'\r' => (b"\\r", 1),
            b'\t' => (b"\\t", 1),
            0x08 => (b"\\b", 1),
            0x0c => (b"\\f", 1),
            0xe2 if bytes[at..].starts_with("\u{2028}".as_bytes()) => (b"\\u2028", 3),
            0xe2 if bytes[at..].starts_with("\u{2029}".as_bytes()) => (b"\\u2029", 3),
            b'<' | b'>' | b'&' | ..0x20 => (b"", 1),
            _ => continue,
        };
        out.extend_from_slice(&bytes[copied..at]);
        if escape.is_empty() {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        } else {
            out.extend_from_slice(escape);
        }
        copied = at + taken;
    }
    out.extend_from_slice(&bytes[copied..]);
}

/// Returns `value` as Go's encoder prints it: shortest digits, exponents below 1e-6 and from 1e21, names for what JSON lacks.
fn json_double(value: f64) -> String {
    if value.is_nan() {
        return "\"NaN\"".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" }.to_owned();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{value:e}");
        return if size >= 1e21 { text.replace('e', "e+") } else { text };
    }
    format!("{value}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::wire::{FieldValue, Fields};

    fn json_text(text: &[u8]) -> String {
        let mut out = Vec::new();
        push_json_string(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_escaped_like_the_compatible_system() {
        assert_eq!(json_text(b"<root span & \"x\">\n"), r#""\u003croot span \u0026 \"x\"\u003e\n""#);
        assert_eq!(json_text("a\u{2028}b\u{1}".as_bytes()), r#""a\u2028b\u0001""#);
        assert_eq!(json_text(b"a\xff\xfeb"), r#""a\ufffd\ufffdb""#);
        assert_eq!(json_text("žluť".as_bytes()), "\"žluť\"");
    }

    #[test]
    fn doubles_use_the_shortest_form() {
        let cases = [(2.0, "2"), (0.5, "0.5"), (f64::MAX, "1.7976931348623157e+308"), (1e21, "1e+21"), (1e20, "100000000000000000000")];
        for (value, text) in cases {
            assert_eq!(json_double(value), text);
        }
        assert_eq!(json_double(1e-7), "1e-7");
        assert_eq!(json_double(0.000001), "0.000001");
        assert_eq!(json_double(f64::NAN), "\"NaN\"");
        assert_eq!(json_double(f64::NEG_INFINITY), "\"-Infinity\"");
    }

    proptest! {
        #[test]
        fn message_lengths_hold_for_any_size(sizes in proptest::collection::vec(0usize..40_000, 0..4)) {
            let bytes = ProtoWriter::encode(|writer| {
                writer.message(field(1, "a"), |writer| {
                    for size in &sizes {
                        writer.message(field(2, "b"), |writer| writer.put_text(field(3, "c"), &vec![7; *size]));
                    }
                });
            });
            let mut outer = Fields::new(&bytes);
            let inner = outer.next_field().unwrap().unwrap().bytes().unwrap();
            prop_assert_eq!(outer.next_field(), Ok(None));
            let mut inner = Fields::new(inner);
            for size in &sizes {
                let item = inner.next_field().unwrap().unwrap().bytes().unwrap();
                let text = Fields::new(item).next_field().unwrap().unwrap();
                prop_assert!(matches!(text.value, FieldValue::Bytes(bytes) if bytes.len() == *size));
            }
            prop_assert_eq!(inner.next_field(), Ok(None));
        }

        #[test]
        fn any_string_is_valid_json(text: String) {
            prop_assert_eq!(serde_json::from_str::<String>(&json_text(text.as_bytes())).unwrap(), text);
        }
    }
}
