//! Traces in plain structs for tests, and the tables made of them.

pub(crate) mod examples;
pub(crate) mod generated;
pub(crate) mod metrics_examples;

use crate::model::ids::{SpanId, TraceId};
use crate::model::otlp_table::{Fragment, build_table};
use crate::model::span_table::SpanTable;
use crate::model::wire::{put_bytes, put_tag, put_varint};

#[derive(Debug, Clone, Default)]
pub(super) struct TestTrace {
    pub(super) id: TraceId,
    pub(super) spans: Vec<TestSpan>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct TestSpan {
    pub(super) id: SpanId,
    /// [`SpanId::NONE`] for a root.
    pub(super) parent: SpanId,
    pub(super) resource: TestAttributes,
    pub(super) scope: TestScope,
    pub(super) name: String,
    /// OTLP numbers.
    pub(super) kind: i32,
    pub(super) status: i32,
    pub(super) status_message: String,
    pub(super) start_unix_nanos: u64,
    pub(super) duration_nanos: u64,
    pub(super) trace_state: String,
    pub(super) attributes: TestAttributes,
    pub(super) events: Vec<TestEvent>,
    pub(super) links: Vec<TestLink>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct TestScope {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) attributes: TestAttributes,
}

#[derive(Debug, Clone, Default)]
pub(super) struct TestEvent {
    pub(super) name: String,
    pub(super) since_start_nanos: u64,
    pub(super) attributes: TestAttributes,
}

#[derive(Debug, Clone, Default)]
pub(super) struct TestLink {
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
    pub(super) attributes: TestAttributes,
}

pub(super) type TestAttributes = Vec<(String, TestValue)>;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TestValue {
    Str(String),
    Int(i64),
    Double(f64),
    Bool(bool),
    Array(Vec<TestValue>),
    Bytes(Vec<u8>),
}

/// Builds the table of `traces` as the live head does: through OTLP bytes. Rows are sorted by trace id.
pub(super) fn table_of(traces: &[TestTrace]) -> SpanTable {
    let encoded: Vec<Vec<u8>> = traces.iter().map(encode_trace).collect();
    let fragments = traces.iter().zip(&encoded).map(|(trace, bytes)| Fragment { trace_id: trace.id, trace: bytes }).collect();
    let built = build_table(fragments);
    assert_eq!((built.duplicate_spans, built.undecodable), (0, 0), "test traces are well formed");
    built.table
}

/// A trace of one span, in a table of its own; the id is `id` 16 times.
pub(crate) fn trace_of(id: u8, start_unix_nanos: u64, duration_nanos: u64) -> SpanTable {
    let span = TestSpan { id: SpanId([id; 8]), name: "root".to_owned(), start_unix_nanos, duration_nanos, ..TestSpan::default() };
    table_of(&[TestTrace { id: TraceId([id; 16]), spans: vec![span] }])
}

fn encode_trace(trace: &TestTrace) -> Vec<u8> {
    let mut out = Vec::new();
    for span in &trace.spans {
        let mut resource = Vec::new();
        put_attributes(&mut resource, 1, &span.resource);
        let mut scope = Vec::new();
        put_bytes(&mut scope, 1, span.scope.name.as_bytes());
        put_bytes(&mut scope, 2, span.scope.version.as_bytes());
        put_attributes(&mut scope, 3, &span.scope.attributes);
        let mut scope_spans = Vec::new();
        put_bytes(&mut scope_spans, 1, &scope);
        put_bytes(&mut scope_spans, 2, &encode_span(trace.id, span));
        let mut resource_spans = Vec::new();
        put_bytes(&mut resource_spans, 1, &resource);
        put_bytes(&mut resource_spans, 2, &scope_spans);
        put_bytes(&mut out, 1, &resource_spans);
    }
    out
}

fn encode_span(trace_id: TraceId, span: &TestSpan) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, &trace_id.0);
    put_bytes(&mut out, 2, &span.id.0);
    put_bytes(&mut out, 3, span.trace_state.as_bytes());
    put_bytes(&mut out, 4, span.parent.as_bytes());
    put_bytes(&mut out, 5, span.name.as_bytes());
    put_number(&mut out, 6, span.kind as u64);
    put_fixed64(&mut out, 7, span.start_unix_nanos);
    put_fixed64(&mut out, 8, span.start_unix_nanos + span.duration_nanos);
    put_attributes(&mut out, 9, &span.attributes);
    for event in &span.events {
        let mut message = Vec::new();
        put_fixed64(&mut message, 1, span.start_unix_nanos + event.since_start_nanos);
        put_bytes(&mut message, 2, event.name.as_bytes());
        put_attributes(&mut message, 3, &event.attributes);
        put_bytes(&mut out, 11, &message);
    }
    for link in &span.links {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, &link.trace_id.0);
        put_bytes(&mut message, 2, &link.span_id.0);
        put_attributes(&mut message, 4, &link.attributes);
        put_bytes(&mut out, 13, &message);
    }
    let mut status = Vec::new();
    put_bytes(&mut status, 2, span.status_message.as_bytes());
    put_number(&mut status, 3, span.status as u64);
    put_bytes(&mut out, 15, &status);
    out
}

fn put_attributes(out: &mut Vec<u8>, field: u32, attributes: &TestAttributes) {
    for (key, value) in attributes {
        let mut pair = Vec::new();
        put_bytes(&mut pair, 1, key.as_bytes());
        put_bytes(&mut pair, 2, &encode_value(value));
        put_bytes(out, field, &pair);
    }
}

fn encode_value(value: &TestValue) -> Vec<u8> {
    let mut out = Vec::new();
    match value {
        TestValue::Str(text) => put_bytes(&mut out, 1, text.as_bytes()),
        TestValue::Bool(value) => put_number(&mut out, 2, u64::from(*value)),
        TestValue::Int(value) => put_number(&mut out, 3, *value as u64),
        TestValue::Double(value) => put_fixed64(&mut out, 4, value.to_bits()),
        TestValue::Array(elements) => {
            let mut array = Vec::new();
            elements.iter().for_each(|element| put_bytes(&mut array, 1, &encode_value(element)));
            put_bytes(&mut out, 5, &array);
        }
        TestValue::Bytes(bytes) => put_bytes(&mut out, 7, bytes),
    }
    out
}

fn put_number(out: &mut Vec<u8>, field: u32, value: u64) {
    put_tag(out, field, 0);
    put_varint(out, value);
}

fn put_fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    put_tag(out, field, 1);
    out.extend_from_slice(&value.to_le_bytes());
}
