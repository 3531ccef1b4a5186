//! The answers of jobs as bytes, for the cache: protobuf messages of our own, read with care because caches are shared.
//!
//! Unknown fields are skipped; anything else that does not fit makes the whole reply unreadable.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::sync::Arc;

use crate::model::ids::{SpanId, TraceId};
use crate::model::wire::{Field, Fields, put_bytes, put_tag, put_varint};
use crate::services::rpc::search::{Inspection, SearchReply, TagNamesReply, TagValuesReply};
use crate::traceql::result::{ServiceStats, SpanHit, SpanSetHit, TraceHit};
use crate::traceql::tags::{TagScope, TagValue};
use crate::traceql::types::{Kind, Static, Status};

/// A reply that can be cached. What reading it cost is not kept: a hit costs nothing.
pub(super) trait CachedReply: Sized {
    /// Whether nothing was left out because it is broken.
    fn is_complete(&self) -> bool;

    fn encode(&self) -> Vec<u8>;

    /// `None` when the bytes are not such a reply.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

pub(super) fn put_uint(out: &mut Vec<u8>, number: u32, value: u64) {
    put_tag(out, number, 0);
    put_varint(out, value);
}

pub(super) fn put_message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut message = Vec::new();
    write(&mut message);
    put_bytes(out, number, &message);
}

/// Calls `read` with each field; `None` as soon as one does not fit.
pub(super) fn each_field(bytes: &[u8], mut read: impl FnMut(&Field<'_>) -> Option<()>) -> Option<()> {
    let mut fields = Fields::new(bytes);
    while let Some(field) = fields.next_field().ok()? {
        read(&field)?;
    }
    Some(())
}

fn text_of(field: &Field<'_>) -> Option<Arc<str>> {
    Some(std::str::from_utf8(field.bytes().ok()?).ok()?.into())
}

pub(super) fn uint_of(field: &Field<'_>) -> Option<u64> {
    field.varint().ok()
}

fn u32_of(field: &Field<'_>) -> Option<u32> {
    u32::try_from(uint_of(field)?).ok()
}

impl CachedReply for SearchReply {
    fn is_complete(&self) -> bool {
        self.inspection.skipped_jobs == 0
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.hits.iter().for_each(|hit| put_message(&mut out, 1, |out| put_hit(out, hit)));
        put_uint(&mut out, 2, self.inspection.traces);
        put_uint(&mut out, 3, self.inspection.spans);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reply = Self::default();
        each_field(bytes, |field| {
            match field.number {
                1 => reply.hits.push(hit_of(field)?),
                2 => reply.inspection.traces = uint_of(field)?,
                3 => reply.inspection.spans = uint_of(field)?,
                _ => {}
            }
            Some(())
        })?;
        Some(reply)
    }
}

fn put_hit(out: &mut Vec<u8>, hit: &TraceHit) {
    put_bytes(out, 1, &hit.trace_id.0);
    put_bytes(out, 2, hit.root_service_name.as_bytes());
    put_bytes(out, 3, hit.root_trace_name.as_bytes());
    put_uint(out, 4, hit.start_unix_nanos);
    put_uint(out, 5, hit.duration_nanos);
    for (service, stats) in &hit.service_stats {
        put_message(out, 6, |out| {
            put_bytes(out, 1, service.as_bytes());
            put_uint(out, 2, u64::from(stats.span_count));
            put_uint(out, 3, u64::from(stats.error_count));
        });
    }
    for set in &hit.span_sets {
        put_message(out, 7, |out| {
            set.spans.iter().for_each(|span| put_message(out, 1, |out| put_span(out, span)));
            put_uint(out, 2, u64::from(set.matched));
            put_attributes(out, 3, &set.attributes);
        });
    }
}

fn hit_of(field: &Field<'_>) -> Option<TraceHit> {
    let empty: Arc<str> = "".into();
    let mut hit = TraceHit {
        trace_id: TraceId([0; 16]),
        root_service_name: Arc::clone(&empty),
        root_trace_name: empty,
        start_unix_nanos: 0,
        duration_nanos: 0,
        service_stats: Default::default(),
        span_sets: Vec::new(),
    };
    each_field(field.bytes().ok()?, |field| {
        match field.number {
            1 => hit.trace_id = TraceId(field.bytes().ok()?.try_into().ok()?),
            2 => hit.root_service_name = text_of(field)?,
            3 => hit.root_trace_name = text_of(field)?,
            4 => hit.start_unix_nanos = uint_of(field)?,
            5 => hit.duration_nanos = uint_of(field)?,
            6 => {
                let (mut service, mut stats) = (Arc::from(""), ServiceStats::default());
                each_field(field.bytes().ok()?, |field| {
                    match field.number {
                        1 => service = text_of(field)?,
                        2 => stats.span_count = u32_of(field)?,
                        3 => stats.error_count = u32_of(field)?,
                        _ => {}
                    }
                    Some(())
                })?;
                hit.service_stats.insert(service, stats);
            }
            7 => hit.span_sets.push(span_set_of(field)?),
            _ => {}
        }
        Some(())
    })?;
    Some(hit)
}

fn span_set_of(field: &Field<'_>) -> Option<SpanSetHit> {
    let mut set = SpanSetHit { spans: Vec::new(), matched: 0, attributes: Vec::new() };
    each_field(field.bytes().ok()?, |field| {
        match field.number {
            1 => set.spans.push(span_of(field)?),
            2 => set.matched = u32_of(field)?,
            3 => set.attributes.push(attribute_of(field)?),
            _ => {}
        }
        Some(())
    })?;
    Some(set)
}

fn put_span(out: &mut Vec<u8>, span: &SpanHit) {
    put_bytes(out, 1, &span.span_id.0);
    put_bytes(out, 2, span.name.as_bytes());
    put_uint(out, 3, span.start_unix_nanos);
    put_uint(out, 4, span.duration_nanos);
    put_attributes(out, 5, &span.attributes);
}

fn span_of(field: &Field<'_>) -> Option<SpanHit> {
    let mut span = SpanHit { span_id: SpanId::NONE, name: "".into(), start_unix_nanos: 0, duration_nanos: 0, attributes: Vec::new() };
    each_field(field.bytes().ok()?, |field| {
        match field.number {
            1 => span.span_id = SpanId(field.bytes().ok()?.try_into().ok()?),
            2 => span.name = text_of(field)?,
            3 => span.start_unix_nanos = uint_of(field)?,
            4 => span.duration_nanos = uint_of(field)?,
            5 => span.attributes.push(attribute_of(field)?),
            _ => {}
        }
        Some(())
    })?;
    Some(span)
}

fn put_attributes(out: &mut Vec<u8>, number: u32, attributes: &[(Arc<str>, Static)]) {
    attributes.iter().for_each(|(key, value)| put_attribute(out, number, key, value));
}

pub(super) fn put_attribute(out: &mut Vec<u8>, number: u32, key: &str, value: &Static) {
    put_message(out, number, |out| {
        put_bytes(out, 1, key.as_bytes());
        put_value(out, value);
    });
}

/// Numbers of the types, in field 2. Values stand in field 3, those of arrays one after another; each text of an array in a field 3 of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ValueType {
    Nil = 0,
    Int = 1,
    Float = 2,
    String = 3,
    Bool = 4,
    Duration = 5,
    Status = 6,
    Kind = 7,
    IntArray = 8,
    FloatArray = 9,
    StringArray = 10,
    BoolArray = 11,
}

impl ValueType {
    const ALL: [Self; 12] = [
        Self::Nil,
        Self::Int,
        Self::Float,
        Self::String,
        Self::Bool,
        Self::Duration,
        Self::Status,
        Self::Kind,
        Self::IntArray,
        Self::FloatArray,
        Self::StringArray,
        Self::BoolArray,
    ];
}

fn put_value(out: &mut Vec<u8>, value: &Static) {
    let mut put = |kind: ValueType, bytes: &[u8]| {
        put_uint(out, 2, kind as u64);
        put_bytes(out, 3, bytes);
    };
    match value {
        Static::Nil => put_uint(out, 2, ValueType::Nil as u64),
        Static::Int(value) => put(ValueType::Int, &value.to_le_bytes()),
        Static::Float(value) => put(ValueType::Float, &value.to_le_bytes()),
        Static::String(text) => put(ValueType::String, text.as_bytes()),
        Static::Bool(value) => put(ValueType::Bool, &[u8::from(*value)]),
        Static::Duration(nanos) => put(ValueType::Duration, &nanos.to_le_bytes()),
        Static::Status(status) => put(ValueType::Status, &[status.to_otlp() as u8]),
        Static::Kind(kind) => put(ValueType::Kind, &[kind.to_otlp() as u8]),
        Static::IntArray(values) => put(ValueType::IntArray, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()),
        Static::FloatArray(values) => put(ValueType::FloatArray, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()),
        Static::BoolArray(values) => put(ValueType::BoolArray, &values.iter().map(|value| u8::from(*value)).collect::<Vec<_>>()),
        Static::StringArray(values) => {
            put_uint(out, 2, ValueType::StringArray as u64);
            values.iter().for_each(|text| put_bytes(out, 3, text.as_bytes()));
        }
    }
}

pub(super) fn attribute_of(field: &Field<'_>) -> Option<(Arc<str>, Static)> {
    let (mut key, mut kind) = (Arc::from(""), ValueType::Nil);
    let mut values: Vec<&[u8]> = Vec::new();
    let mut fields = Fields::new(field.bytes().ok()?);
    while let Some(field) = fields.next_field().ok()? {
        match field.number {
            1 => key = text_of(&field)?,
            2 => kind = *ValueType::ALL.get(usize::try_from(uint_of(&field)?).ok()?)?,
            3 => values.push(field.bytes().ok()?),
            _ => {}
        }
    }
    Some((key, value_of(kind, &values)?))
}

fn value_of(kind: ValueType, values: &[&[u8]]) -> Option<Static> {
    let text = |bytes: &[u8]| Some(Arc::<str>::from(std::str::from_utf8(bytes).ok()?));
    let bool_of = |byte: u8| (byte < 2).then_some(byte == 1);
    let single = match values {
        [] if matches!(kind, ValueType::Nil) => return Some(Static::Nil),
        _ if kind == ValueType::StringArray => {
            return Some(Static::StringArray(values.iter().map(|bytes| text(bytes)).collect::<Option<_>>()?));
        }
        [single] => *single,
        _ => return None,
    };
    let byte = || match single {
        [byte] => Some(*byte),
        _ => None,
    };
    let int = || Some(i64::from_le_bytes(single.try_into().ok()?));
    let eights = || {
        let (chunks, rest) = single.as_chunks::<8>();
        rest.is_empty().then_some(chunks)
    };
    Some(match kind {
        ValueType::Nil | ValueType::StringArray => return None,
        ValueType::Int => Static::Int(int()?),
        ValueType::Float => Static::Float(f64::from_le_bytes(single.try_into().ok()?)),
        ValueType::String => Static::String(text(single)?),
        ValueType::Bool => Static::Bool(bool_of(byte()?)?),
        ValueType::Duration => Static::Duration(int()?),
        ValueType::Status => Static::Status(Status::from_otlp(i32::from(byte()?))),
        ValueType::Kind => Static::Kind(Kind::from_otlp(i32::from(byte()?))),
        ValueType::IntArray => Static::IntArray(eights()?.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()),
        ValueType::FloatArray => Static::FloatArray(eights()?.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()),
        ValueType::BoolArray => Static::BoolArray(single.iter().map(|byte| bool_of(*byte)).collect::<Option<_>>()?),
    })
}

impl CachedReply for TagNamesReply {
    fn is_complete(&self) -> bool {
        self.inspection.skipped_jobs == 0
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (scope, names) in &self.names {
            put_message(&mut out, 1, |out| {
                put_bytes(out, 1, scope.as_str().as_bytes());
                names.iter().for_each(|name| put_bytes(out, 2, name.as_bytes()));
            });
        }
        put_uint(&mut out, 2, u64::from(self.truncated));
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reply = Self { inspection: Inspection::default(), ..Self::default() };
        each_field(bytes, |field| {
            match field.number {
                1 => {
                    let (mut scope, mut names) = (None, std::collections::BTreeSet::new());
                    each_field(field.bytes().ok()?, |field| {
                        match field.number {
                            1 => {
                                let name = text_of(field)?;
                                scope = Some(TagScope::ALL.into_iter().find(|scope| scope.as_str() == &*name)?);
                            }
                            2 => drop(names.insert(text_of(field)?)),
                            _ => {}
                        }
                        Some(())
                    })?;
                    reply.names.insert(scope?, names);
                }
                2 => reply.truncated = uint_of(field)? != 0,
                _ => {}
            }
            Some(())
        })?;
        Some(reply)
    }
}

/// The types of tag values.
const TAG_VALUE_TYPES: [&str; 6] = ["string", "int", "float", "bool", "duration", "keyword"];

impl CachedReply for TagValuesReply {
    fn is_complete(&self) -> bool {
        self.inspection.skipped_jobs == 0
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for value in &self.values {
            put_message(&mut out, 1, |out| {
                put_bytes(out, 1, value.kind.as_bytes());
                put_bytes(out, 2, value.text.as_bytes());
            });
        }
        put_uint(&mut out, 2, u64::from(self.truncated));
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reply = Self::default();
        each_field(bytes, |field| {
            match field.number {
                1 => {
                    let (mut kind, mut text) = (None, None);
                    each_field(field.bytes().ok()?, |field| {
                        match field.number {
                            1 => kind = Some(*TAG_VALUE_TYPES.iter().find(|kind| field.bytes() == Ok(kind.as_bytes()))?),
                            2 => text = Some(text_of(field)?),
                            _ => {}
                        }
                        Some(())
                    })?;
                    reply.values.insert(TagValue { kind: kind?, text: text? });
                }
                2 => reply.truncated = uint_of(field)? != 0,
                _ => {}
            }
            Some(())
        })?;
        Some(reply)
    }
}

#[cfg(test)]
pub(super) mod testing {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn arb_text() -> impl Strategy<Value = Arc<str>> {
        ".{0,8}".prop_map(Arc::from)
    }

    pub(in super::super) fn arb_static() -> impl Strategy<Value = Static> {
        let floats = || any::<i32>().prop_map(|value| f64::from(value) / 7.0);
        prop_oneof![
            Just(Static::Nil),
            any::<i64>().prop_map(Static::Int),
            floats().prop_map(Static::Float),
            arb_text().prop_map(Static::String),
            any::<bool>().prop_map(Static::Bool),
            any::<i64>().prop_map(Static::Duration),
            (0..3).prop_map(|code| Static::Status(Status::from_otlp(code))),
            (0..6).prop_map(|code| Static::Kind(Kind::from_otlp(code))),
            prop::collection::vec(any::<i64>(), 0..4).prop_map(|values| Static::IntArray(values.into())),
            prop::collection::vec(floats(), 0..4).prop_map(|values| Static::FloatArray(values.into())),
            prop::collection::vec(arb_text(), 0..4).prop_map(|values| Static::StringArray(values.into())),
            prop::collection::vec(any::<bool>(), 0..4).prop_map(|values| Static::BoolArray(values.into())),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::testing::{arb_static, arb_text};
    use super::*;

    fn arb_attributes() -> impl Strategy<Value = Vec<(Arc<str>, Static)>> {
        prop::collection::vec((arb_text(), arb_static()), 0..4)
    }

    fn arb_hit() -> impl Strategy<Value = TraceHit> {
        let span = (any::<[u8; 8]>(), arb_text(), any::<u64>(), any::<u64>(), arb_attributes()).prop_map(
            |(id, name, start_unix_nanos, duration_nanos, attributes)| SpanHit {
                span_id: SpanId(id),
                name,
                start_unix_nanos,
                duration_nanos,
                attributes,
            },
        );
        let set = (prop::collection::vec(span, 0..3), any::<u32>(), arb_attributes()).prop_map(|(spans, matched, attributes)| SpanSetHit {
            spans,
            matched,
            attributes,
        });
        let stats = (arb_text(), any::<u32>(), any::<u32>())
            .prop_map(|(service, span_count, error_count)| (service, ServiceStats { span_count, error_count }));
        let facts = (any::<[u8; 16]>(), arb_text(), arb_text(), any::<u64>(), any::<u64>());
        (facts, prop::collection::vec(stats, 0..3), prop::collection::vec(set, 0..3)).prop_map(|(facts, stats, span_sets)| TraceHit {
            trace_id: TraceId(facts.0),
            root_service_name: facts.1,
            root_trace_name: facts.2,
            start_unix_nanos: facts.3,
            duration_nanos: facts.4,
            service_stats: stats.into_iter().collect::<BTreeMap<_, _>>(),
            span_sets,
        })
    }

    proptest! {
        #[test]
        fn search_replies_round_trip(hits in prop::collection::vec(arb_hit(), 0..4), traces: u64, spans: u64, bytes: u64) {
            let inspection = Inspection { traces, spans, bytes, backend_reads: 3, ..Inspection::default() };
            let read = SearchReply::decode(&SearchReply { hits: hits.clone(), inspection }.encode()).unwrap();
            prop_assert_eq!(read.hits, hits);
            prop_assert_eq!(read.inspection, Inspection { traces, spans, ..Inspection::default() }, "a hit costs nothing");
        }

        #[test]
        fn tag_replies_round_trip(names in prop::collection::btree_set(arb_text(), 0..5), truncated: bool, scope in 0..5_usize, kind in 0..6_usize) {
            let values = names.iter().map(|text| TagValue { kind: TAG_VALUE_TYPES[kind], text: Arc::clone(text) }).collect();
            let reply = TagNamesReply { names: [(TagScope::ALL[scope], names)].into(), truncated, ..Default::default() };
            prop_assert_eq!(TagNamesReply::decode(&reply.encode()), Some(reply));
            let reply = TagValuesReply { values, truncated, ..Default::default() };
            prop_assert_eq!(TagValuesReply::decode(&reply.encode()), Some(reply));
        }

        #[test]
        fn any_bytes_are_a_reply_or_none(bytes: Vec<u8>, at: prop::sample::Index, hit in arb_hit()) {
            let _either = (SearchReply::decode(&bytes), TagNamesReply::decode(&bytes), TagValuesReply::decode(&bytes));
            let mut encoded = SearchReply { hits: vec![hit], ..SearchReply::default() }.encode();
            let at = at.index(encoded.len());
            encoded[at] ^= 0x55;
            let _either = SearchReply::decode(&encoded);
        }
    }
}
