//! Checks attributes on the wire and cuts keys and string values that are too long.
//!
//! The check walks a message once and tells whether anything has to be cut; only then is the message rewritten. Cut are keys and string
//! values of attributes themselves. Strings within arrays and key-value lists, and byte values, are never cut (write-path, attribute truncation).
//!
//! Invariant: whatever passes [`check_attribute`] is a well-formed `KeyValue` with at most [`MAX_VALUE_DEPTH`] levels of lists in its value.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use crate::model::wire::{FieldValue, Fields, WireError, put_bytes};

/// Arrays and key-value lists within one another. Each level takes up to three protobuf messages, and common decoders refuse messages that
/// are nested more than 100 deep.
pub const MAX_VALUE_DEPTH: u32 = 30;

/// The limit that never cuts.
pub const NO_LIMIT: usize = usize::MAX;

/// What an attribute belongs to; the `scope` label of the truncation counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeOwner {
    Resource,
    Scope,
    Span,
    Event,
    Link,
}

impl AttributeOwner {
    pub const ALL: [Self; 5] = [Self::Resource, Self::Scope, Self::Span, Self::Event, Self::Link];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resource => "resource",
            Self::Scope => "scope",
            Self::Span => "span",
            Self::Event => "event",
            Self::Link => "link",
        }
    }
}

/// Cuts made. A key and a value count separately.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cuts {
    pub resource: u64,
    pub scope: u64,
    pub span: u64,
    pub event: u64,
    pub link: u64,
    /// The start of the first cut key (or of the key whose value was cut), for the log.
    pub example: Option<String>,
}

/// Bytes of a key shown as example.
const EXAMPLE_BYTES: usize = 64;

impl Cuts {
    pub fn of(&self, owner: AttributeOwner) -> u64 {
        match owner {
            AttributeOwner::Resource => self.resource,
            AttributeOwner::Scope => self.scope,
            AttributeOwner::Span => self.span,
            AttributeOwner::Event => self.event,
            AttributeOwner::Link => self.link,
        }
    }

    pub fn total(&self) -> u64 {
        AttributeOwner::ALL.into_iter().fold(0, |sum, owner| sum.saturating_add(self.of(owner)))
    }

    fn count(&mut self, owner: AttributeOwner, key: &[u8]) {
        let slot = match owner {
            AttributeOwner::Resource => &mut self.resource,
            AttributeOwner::Scope => &mut self.scope,
            AttributeOwner::Span => &mut self.span,
            AttributeOwner::Event => &mut self.event,
            AttributeOwner::Link => &mut self.link,
        };
        *slot = slot.saturating_add(1);
        if self.example.is_none() {
            self.example = Some(String::from_utf8_lossy(cut_at_char(key, EXAMPLE_BYTES)).into_owned());
        }
    }
}

/// Checks a `KeyValue`; returns whether its key or string value exceeds `limit` bytes.
#[inline]
pub(super) fn check_attribute(key_value: &[u8], limit: usize) -> Result<bool, WireError> {
    if let Some(longest) = short_string_attribute(key_value) {
        return Ok(longest > limit);
    }
    check_key_value(key_value, limit, MAX_VALUE_DEPTH)
}

/// Recognises the most frequent form, key and string value in this order and each shorter than 128 bytes, and returns the longer length.
#[inline]
fn short_string_attribute(key_value: &[u8]) -> Option<usize> {
    let [0x0a, key_len @ 0..=0x7f, rest @ ..] = key_value else { return None };
    let (_key, rest) = rest.split_at_checked(usize::from(*key_len))?;
    let [0x12, value_len @ 0..=0x7f, 0x0a, text_len @ 0..=0x7f, text @ ..] = rest else { return None };
    let text_len = usize::from(*text_len);
    (text.len() == text_len && usize::from(*value_len) == text_len.saturating_add(2)).then_some(text_len.max(usize::from(*key_len)))
}

fn check_key_value(key_value: &[u8], limit: usize, depth: u32) -> Result<bool, WireError> {
    let mut fields = Fields::new(key_value);
    let mut too_long = false;
    while let Some(field) = fields.next_field()? {
        match field.number {
            1 => too_long |= field.bytes()?.len() > limit,
            2 => too_long |= check_any_value(field.bytes()?, limit, depth)?,
            _ => {}
        }
    }
    Ok(too_long)
}

fn check_any_value(value: &[u8], limit: usize, depth: u32) -> Result<bool, WireError> {
    let mut fields = Fields::new(value);
    let mut too_long = false;
    while let Some(field) = fields.next_field()? {
        match field.number {
            1 => too_long |= field.bytes()?.len() > limit,
            2 | 3 => drop(field.varint()?),
            4 => drop(field.fixed64()?),
            5 | 6 => {
                let depth = depth.checked_sub(1).ok_or(WireError::TooDeep)?;
                let mut items = Fields::new(field.bytes()?);
                while let Some(item) = items.next_field()? {
                    match (field.number, item.number) {
                        (5, 1) => drop(check_any_value(item.bytes()?, NO_LIMIT, depth)?),
                        (6, 1) => drop(check_key_value(item.bytes()?, NO_LIMIT, depth)?),
                        _ => {}
                    }
                }
            }
            7 => drop(field.bytes()?),
            _ => {}
        }
    }
    Ok(too_long)
}

/// Rewrites a message: fields of `parts` are rewritten by their rule, all others are copied.
pub(super) fn rewrite(
    message: &[u8],
    out: &mut Vec<u8>,
    mut nested: impl FnMut(u32, &[u8]) -> Result<Option<Vec<u8>>, WireError>,
) -> Result<(), WireError> {
    let mut fields = Fields::new(message);
    loop {
        let before = fields.rest();
        let Some(field) = fields.next_field()? else { return Ok(()) };
        if let FieldValue::Bytes(bytes) = field.value
            && let Some(replaced) = nested(field.number, bytes)?
        {
            put_bytes(out, field.number, &replaced);
        } else {
            let taken = before.len().saturating_sub(fields.rest().len());
            out.extend_from_slice(before.get(..taken).unwrap_or_default());
        }
    }
}

/// Returns the `KeyValue` with key and string value cut to `limit` bytes at a character boundary.
pub(super) fn cut_attribute(key_value: &[u8], limit: usize, owner: AttributeOwner, cuts: &mut Cuts) -> Result<Vec<u8>, WireError> {
    let mut key: &[u8] = &[];
    let mut fields = Fields::new(key_value);
    while let Some(field) = fields.next_field()? {
        if field.number == 1 {
            key = field.bytes()?;
        }
    }
    let mut cut = |text: &[u8]| {
        (text.len() > limit).then(|| {
            cuts.count(owner, key);
            cut_at_char(text, limit).to_vec()
        })
    };
    let mut out = Vec::with_capacity(key_value.len());
    rewrite(key_value, &mut out, |number, bytes| match number {
        1 => Ok(cut(bytes)),
        2 => {
            let mut value = Vec::with_capacity(bytes.len());
            rewrite(bytes, &mut value, |number, text| Ok(if number == 1 { cut(text) } else { None }))?;
            Ok(Some(value))
        }
        _ => Ok(None),
    })?;
    Ok(out)
}

/// Returns a message whose attributes are in `field`, with all of them cut.
pub(super) fn cut_attributes_of(
    message: &[u8],
    attributes: u32,
    limit: usize,
    owner: AttributeOwner,
    cuts: &mut Cuts,
) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(message.len());
    rewrite(
        message,
        &mut out,
        |number, bytes| {
            if number == attributes { cut_attribute(bytes, limit, owner, cuts).map(Some) } else { Ok(None) }
        },
    )?;
    Ok(out)
}

/// Returns at most `limit` bytes from the start of `text`, never splitting a UTF-8 sequence. Bytes that are not UTF-8 are cut anywhere.
fn cut_at_char(text: &[u8], limit: usize) -> &[u8] {
    let Some(head) = text.get(..limit) else { return text };
    let Some(next) = text.get(limit) else { return text };
    if next & 0xc0 != 0x80 {
        return head;
    }
    // A continuation byte follows: the sequence began within the last three bytes.
    let start = head.iter().rev().take(3).position(|byte| byte & 0xc0 != 0x80);
    match start {
        Some(back) => head.get(..limit.saturating_sub(back).saturating_sub(1)).unwrap_or(head),
        None => head,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::model::otlp::testing::{int, list, text};
    use crate::model::wire::put_varint;

    #[test]
    fn cuts_keys_and_strings_at_character_boundaries() {
        let cases: &[(&str, usize, &str)] =
            &[("abc", 3, "abc"), ("abcd", 3, "abc"), ("aé", 2, "a"), ("é", 1, ""), ("日本", 5, "日"), ("a😀b", 4, "a"), ("a😀b", 5, "a😀")];
        for (given, limit, expected) in cases {
            assert_eq!(cut_at_char(given.as_bytes(), *limit), expected.as_bytes(), "{given} at {limit}");
        }
        assert_eq!(cut_at_char(&[0x80; 9], 5).len(), 5);
    }

    #[test]
    fn only_long_attributes_need_a_cut() {
        let check = |attribute: &tempopb::KeyValue, limit| check_attribute(&attribute.encode_to_vec(), limit);
        assert_eq!(check(&text("key", "value"), 5), Ok(false));
        assert_eq!(check(&text("key", "value"), 4), Ok(true));
        assert_eq!(check(&text("a-long-key", ""), 5), Ok(true));
        assert_eq!(check(&int("key", 1), 3), Ok(false));
        assert_eq!(check(&text("k", &"x".repeat(300)), 299), Ok(true));
        assert_eq!(check(&list("k", &["a long text within a list"]), 3), Ok(false));
    }

    #[test]
    fn rewriting_keeps_everything_else() {
        let mut cuts = Cuts::default();
        let long = text("a-long-key", "ein längerer Wert");
        let cut = cut_attribute(&long.encode_to_vec(), 6, AttributeOwner::Event, &mut cuts).unwrap();
        assert_eq!(tempopb::KeyValue::decode(cut.as_slice()).unwrap(), text("a-long", "ein l"));
        assert_eq!((cuts.event, cuts.total(), cuts.example.as_deref()), (2, 2, Some("a-long-key")));
        let kept = list("k", &["a long text within a list"]).encode_to_vec();
        assert_eq!(cut_attribute(&kept, 3, AttributeOwner::Span, &mut cuts).unwrap(), kept);
        assert_eq!(cuts.span, 0);
    }

    #[test]
    fn deep_values_are_refused() {
        let mut value = vec![0x0a, 1, b'x'];
        for level in 0..=MAX_VALUE_DEPTH {
            let attribute = key_value(&value);
            assert_eq!(check_attribute(&attribute, 10), Ok(false), "level {level}");
            value = wrap(5, &wrap(1, &value));
        }
        assert_eq!(check_attribute(&key_value(&value), 10), Err(WireError::TooDeep));
        assert_eq!(check_attribute(&[0x0a, 9, 1], 10), Err(WireError::Truncated));
        assert_eq!(check_attribute(&[0x08, 9], 10), Err(WireError::WrongType { field: 1 }));
    }

    fn wrap(number: u32, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, u64::from(number) << 3 | 2);
        put_varint(&mut out, bytes.len() as u64);
        out.extend_from_slice(bytes);
        out
    }

    fn key_value(value: &[u8]) -> Vec<u8> {
        let mut out = wrap(1, b"key");
        out.extend(wrap(2, value));
        out
    }

    use crate::model::otlp::testing::tempopb;
}
