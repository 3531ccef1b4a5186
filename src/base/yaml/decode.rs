//! Decodes a tree into structs and gathers all problems.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::node::{Node, Path, Step};
use super::{Document, Problem};
use crate::base::duration::GO_DURATION_TYPE;

/// After this many problems decoding gives up: the file is something else altogether.
pub const MAX_PROBLEMS: usize = 100;

/// Bare integers below this many nanoseconds where a duration is expected were hardly meant.
const TINY_DURATION_NANOS: i64 = 1_000_000;

/// What decoding found.
pub struct Decoded<T> {
    /// `None` when even a tree without the faulty values cannot be decoded.
    pub value: Option<T>,
    pub problems: Vec<Problem>,
    /// Values that are legal but hardly meant.
    pub oddities: Vec<Problem>,
}

/// Decodes `root`, a tree that `document` was laid over. Lines and raw scalars come from the document.
pub fn decode<T: DeserializeOwned>(root: &Node, document: Option<&Document>) -> Decoded<T> {
    let mut problems: Vec<Problem> = Vec::new();
    let mut skip = HashSet::new();
    loop {
        let context = Context { document, skip: &skip, unknown: RefCell::default(), oddities: RefCell::default() };
        let result = T::deserialize(NodeDecoder { node: root, path: Path::default(), context: &context });
        let (unknown, oddities) = (context.unknown.into_inner(), context.oddities.into_inner());
        let (value, is_done) = match result {
            Ok(value) => (Some(value), true),
            Err(error) => {
                let path = error.path.unwrap_or_default();
                let is_stuck = path.0.is_empty() || !skip.insert(path.clone());
                problems.push(Problem { path, line: None, message: error.message, is_unknown_key: false });
                (None, is_stuck || problems.len() >= MAX_PROBLEMS)
            }
        };
        if !is_done {
            continue;
        }
        problems.extend(unknown);
        let mut oddities = oddities;
        for problem in problems.iter_mut().chain(&mut oddities) {
            problem.line = document.and_then(|document| document.line_of(&problem.path));
        }
        problems.sort_by(|a, b| (a.line, &a.path).cmp(&(b.line, &b.path)));
        problems.truncate(MAX_PROBLEMS);
        return Decoded { value, problems, oddities };
    }
}

struct Context<'a> {
    document: Option<&'a Document>,
    /// Nodes known to be faulty: treated as absent.
    skip: &'a HashSet<Path>,
    unknown: RefCell<Vec<Problem>>,
    oddities: RefCell<Vec<Problem>>,
}

/// An error of serde, with the innermost path once it is known.
#[derive(Debug)]
struct DecodeError {
    path: Option<Path>,
    message: String,
}

impl DecodeError {
    fn at(mut self, path: &Path) -> Self {
        self.path.get_or_insert_with(|| path.clone());
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: None, message: message.to_string() }
    }
}

struct NodeDecoder<'a> {
    node: &'a Node,
    path: Path,
    context: &'a Context<'a>,
}

impl NodeDecoder<'_> {
    fn wrong_type(&self, expected: &str) -> DecodeError {
        let found = match self.node {
            Node::Null => "nothing".to_owned(),
            Node::Bool(value) => format!("{value}"),
            Node::Int(value) => format!("{value}"),
            Node::UInt(value) => format!("{value}"),
            Node::Float(value) => format!("{value}"),
            Node::Text(value) => format!("{value:?}"),
            Node::List(_) => "a list".to_owned(),
            Node::Map(_) => "a mapping".to_owned(),
        };
        DecodeError { path: Some(self.path.clone()), message: format!("expected {expected}, found {found}") }
    }

    fn integer(&self) -> Result<i128, DecodeError> {
        let number = match self.node {
            Node::Null => Some(0),
            Node::Int(value) => Some(i128::from(*value)),
            Node::UInt(value) => Some(i128::from(*value)),
            Node::Float(value) => whole(*value),
            Node::Text(text) => parse_integer(text),
            Node::Bool(_) | Node::List(_) | Node::Map(_) => None,
        };
        number.ok_or_else(|| self.wrong_type("an integer"))
    }

    fn integer_within(&self, min: i128, max: i128) -> Result<i128, DecodeError> {
        let number = self.integer()?;
        if (min..=max).contains(&number) {
            return Ok(number);
        }
        let expected =
            if max == i128::from(u64::MAX) { "an integer of 0 or more".to_owned() } else { format!("an integer from {min} to {max}") };
        Err(self.wrong_type(&expected))
    }
}

/// The integer a float spelling such as `1e6` stands for.
fn whole(value: f64) -> Option<i128> {
    // Above 2^53 neighbours differ by more than one, so the spelling would not be what is stored.
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked first")]
    (value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0).then_some(value as i128)
}

/// YAML 1.1 integers: decimal, `0x`, `0o`, leading-zero octal, `_` separators; and integral float spellings.
fn parse_integer(text: &str) -> Option<i128> {
    let plain = text.trim().replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', rest @ ..] if !rest.is_empty() && rest.iter().all(u8::is_ascii_digit) => (8, digits),
        _ => (10, digits),
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok().or_else(|| digits.parse::<f64>().ok().and_then(whole))?;
    Some(sign * number)
}

/// YAML 1.1 booleans.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => Some(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => Some(false),
        _ => None,
    }
}

macro_rules! deserialize_integers {
    ($($method:ident $visit:ident $ty:ty;)+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            let number = self.integer_within(i128::from(<$ty>::MIN), i128::from(<$ty>::MAX))?;
            let number = <$ty>::try_from(number).map_err(|_| self.wrong_type("an integer"))?;
            visitor.$visit(number).map_err(|error: DecodeError| error.at(&self.path))
        }
    )+};
}

impl<'de> Deserializer<'de> for NodeDecoder<'_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let path = self.path.clone();
        match self.node {
            Node::Null => visitor.visit_unit(),
            Node::Bool(value) => visitor.visit_bool(*value),
            Node::Int(value) => visitor.visit_i64(*value),
            Node::UInt(value) => visitor.visit_u64(*value),
            Node::Float(value) => visitor.visit_f64(*value),
            Node::Text(value) => visitor.visit_str(value),
            Node::List(items) => visitor.visit_seq(Items { items: items.iter().enumerate(), path: self.path, context: self.context }),
            Node::Map(entries) => visitor.visit_map(Entries::new(entries, None, self.path, self.context)),
        }
        .map_err(|error| error.at(&path))
    }

    deserialize_integers! {
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let number = match self.node {
            Node::Null => Some(0.0),
            Node::Float(value) => Some(*value),
            Node::Int(value) => i32::try_from(*value).ok().map(f64::from).or_else(|| value.to_string().parse().ok()),
            Node::UInt(value) => value.to_string().parse().ok(),
            Node::Text(text) => text.trim().parse().ok(),
            Node::Bool(_) | Node::List(_) | Node::Map(_) => None,
        };
        visitor.visit_f64(number.ok_or_else(|| self.wrong_type("a number"))?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let value = match self.node {
            Node::Null => Some(false),
            Node::Bool(value) => Some(*value),
            Node::Text(text) => parse_bool(text),
            Node::Int(_) | Node::UInt(_) | Node::Float(_) | Node::List(_) | Node::Map(_) => None,
        };
        visitor.visit_bool(value.ok_or_else(|| self.wrong_type("true or false"))?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let text = match self.node {
            Node::Null => String::new(),
            Node::Text(text) => text.clone(),
            Node::Bool(_) | Node::Int(_) | Node::UInt(_) | Node::Float(_) => {
                let raw = self.context.document.and_then(|document| document.raw_scalar(&self.path));
                raw.unwrap_or_else(|| match self.node {
                    Node::Bool(value) => value.to_string(),
                    Node::Int(value) => value.to_string(),
                    Node::UInt(value) => value.to_string(),
                    Node::Float(value) => value.to_string(),
                    Node::Null | Node::Text(_) | Node::List(_) | Node::Map(_) => String::new(),
                })
            }
            Node::List(_) | Node::Map(_) => return Err(self.wrong_type("a text")),
        };
        visitor.visit_string(text).map_err(|error: DecodeError| error.at(&self.path))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if *self.node == Node::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        if name == GO_DURATION_TYPE {
            match self.node {
                Node::Null => {
                    return visitor.visit_newtype_struct(0_i64.into_deserializer()).map_err(|error: DecodeError| error.at(&self.path));
                }
                Node::Int(nanos) if *nanos != 0 && nanos.abs() < TINY_DURATION_NANOS => self.context.oddities.borrow_mut().push(Problem {
                    path: self.path.clone(),
                    line: None,
                    message: format!("{nanos} without a unit means {nanos} nanoseconds; write for example \"{nanos}s\""),
                    is_unknown_key: false,
                }),
                // Flags and quoted numbers: a bare integer is nanoseconds there too.
                Node::Text(text) if text.parse::<i64>().is_ok() => {
                    let nanos = text.parse::<i64>().unwrap_or(0);
                    return visitor.visit_newtype_struct(nanos.into_deserializer()).map_err(|error: DecodeError| error.at(&self.path));
                }
                _ => {}
            }
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let items: &[Node] = match self.node {
            Node::Null => &[],
            Node::List(items) => items,
            _ => return Err(self.wrong_type("a list")),
        };
        visitor.visit_seq(Items { items: items.iter().enumerate(), path: self.path, context: self.context })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let entries: &[(String, Node)] = match self.node {
            Node::Null => &[],
            Node::Map(entries) => entries,
            _ => return Err(self.wrong_type("a mapping")),
        };
        visitor.visit_map(Entries::new(entries, None, self.path, self.context))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let entries: &[(String, Node)] = match self.node {
            Node::Null => &[],
            Node::Map(entries) => entries,
            _ => return Err(self.wrong_type("a mapping")),
        };
        visitor.visit_map(Entries::new(entries, Some(fields), self.path, self.context))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self.node {
            Node::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()).map_err(|error: DecodeError| error.at(&self.path)),
            _ => Err(self.wrong_type("a text")),
        }
    }

    forward_to_deserialize_any! { char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any i128 u128 }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
    path: Path,
    context: &'a Context<'a>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = DecodeError;
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        for (index, node) in self.items.by_ref() {
            let path = self.path.child(Step::Index(index));
            if self.context.skip.contains(&path) {
                continue;
            }
            return seed
                .deserialize(NodeDecoder { node, path: path.clone(), context: self.context })
                .map(Some)
                .map_err(|error| error.at(&path));
        }
        Ok(None)
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, (String, Node)>,
    /// The keys of a struct; `None`: any key goes.
    fields: Option<&'static [&'static str]>,
    value: Option<(&'a Node, Path)>,
    path: Path,
    context: &'a Context<'a>,
}

impl<'a> Entries<'a> {
    fn new(entries: &'a [(String, Node)], fields: Option<&'static [&'static str]>, path: Path, context: &'a Context<'a>) -> Self {
        Self { entries: entries.iter(), fields, value: None, path, context }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        for (key, node) in self.entries.by_ref() {
            let path = self.path.key(key);
            if self.context.skip.contains(&path) {
                continue;
            }
            if let Some(fields) = self.fields.filter(|fields| !fields.contains(&key.as_str())) {
                self.context.unknown.borrow_mut().push(Problem {
                    message: unknown_key_message(key, fields),
                    path,
                    line: None,
                    is_unknown_key: true,
                });
                continue;
            }
            self.value = Some((node, path.clone()));
            return seed.deserialize(key.as_str().into_deserializer()).map(Some).map_err(|error: DecodeError| error.at(&path));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let (node, path) = self.value.take().ok_or_else(|| de::Error::custom("value asked for before its key"))?;
        seed.deserialize(NodeDecoder { node, path: path.clone(), context: self.context }).map_err(|error| error.at(&path))
    }
}

fn unknown_key_message(key: &str, fields: &[&str]) -> String {
    match nearest(key, fields) {
        Some(nearest) => format!("unknown key {key:?}, did you mean {nearest:?}?"),
        None => format!("unknown key {key:?}"),
    }
}

/// Returns the candidate that is most like `word`, unless none is much like it.
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    /// Similarity below which a suggestion confuses more than it helps.
    const MIN_SIMILARITY: f64 = 0.6;
    candidates
        .iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(word, candidate), *candidate))
        .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
