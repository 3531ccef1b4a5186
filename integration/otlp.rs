//! Builds traces, writes them as OTLP/JSON, and brings answers into one form that can be compared.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use tempo_rs::proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use tempo_rs::proto::tempopb::common::v1::any_value::Value as Any;
use tempo_rs::proto::tempopb::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use tempo_rs::proto::tempopb::resource::v1::Resource;
use tempo_rs::proto::tempopb::trace::v1::span::{Event, Link, SpanKind};
use tempo_rs::proto::tempopb::trace::v1::status::StatusCode;
use tempo_rs::proto::tempopb::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

/// Spans of a trace in comparable form: by span id and kind, each `{resource, scope, span}` with attributes sorted by key.
pub(crate) type Spans = BTreeMap<(String, String), Value>;

/// Nanoseconds since the epoch.
pub(crate) fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// Returns the last time that is `ago` or longer back and from which `length` nanoseconds lie within one of the windows that compaction is
/// configured to merge blocks in.
pub(crate) fn start_within_a_window(ago: u64, length: u64) -> u64 {
    const WINDOW: u64 = 12 * 3600 * 1_000_000_000;
    let start = now() - ago;
    let end = start + length;
    if start / WINDOW == end / WINDOW { start } else { end / WINDOW * WINDOW - length - 1 }
}

/// Returns `N` bytes that depend on `seed` only.
pub(crate) fn id<const N: usize>(seed: u64) -> Vec<u8> {
    StdRng::seed_from_u64(seed).random::<[u8; 16]>()[..N].to_vec()
}

pub(crate) fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn encode(batches: &[ResourceSpans]) -> Vec<u8> {
    ExportTraceServiceRequest { resource_spans: batches.to_vec() }.encode_to_vec()
}

pub(crate) fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

pub(crate) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Any::StringValue(value.to_owned()))
}

/// One resource with one scope.
pub(crate) fn batch(service: &str, spans: Vec<Span>) -> ResourceSpans {
    ResourceSpans {
        resource: Some(Resource { attributes: vec![text("service.name", service)], ..Default::default() }),
        scope_spans: vec![ScopeSpans { spans, ..Default::default() }],
        ..Default::default()
    }
}

/// A span without attributes that started just now.
pub(crate) fn span(trace_id: &[u8], seed: u64, name: &str) -> Span {
    let start = now();
    Span {
        trace_id: trace_id.to_vec(),
        span_id: id::<8>(seed),
        name: name.to_owned(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + 1_000_000,
        ..Default::default()
    }
}

/// A trace of two services that uses every field and value type; `case` is the value of the span attribute `test.case`.
pub(crate) fn rich_trace(trace_id: &[u8], case: &str) -> Vec<ResourceSpans> {
    let list = |values: Vec<Any>| {
        Any::ArrayValue(ArrayValue { values: values.into_iter().map(|value| AnyValue { value: Some(value) }).collect() })
    };
    let mut root = span(trace_id, 1, "GET /cart");
    root.kind = SpanKind::Server.into();
    root.trace_state = "vendor=value".to_owned();
    root.end_time_unix_nano = root.start_time_unix_nano + 250_000_000;
    root.attributes = vec![
        text("test.case", case),
        text("http.method", "GET"),
        text("http.url", "http://shop/cart?q=ünïcode&x=<1>"),
        attribute("http.status_code", Any::IntValue(500)),
        attribute("retries", Any::IntValue(-3)),
        attribute("ratio", Any::DoubleValue(0.125)),
        attribute("cached", Any::BoolValue(false)),
        attribute("raw", Any::BytesValue(vec![0, 1, 254, 255])),
        attribute("tags", list(vec![Any::StringValue("a".to_owned()), Any::StringValue("b".to_owned())])),
        attribute("map", Any::KvlistValue(KeyValueList { values: vec![attribute("inner", Any::IntValue(7)), text("other", "x")] })),
    ];
    root.events = vec![Event {
        time_unix_nano: root.start_time_unix_nano + 5_000,
        name: "exception".to_owned(),
        attributes: vec![text("exception.type", "IOError"), attribute("attempt", Any::IntValue(2))],
        dropped_attributes_count: 1,
    }];
    root.links = vec![Link {
        trace_id: id::<16>(77),
        span_id: id::<8>(77),
        trace_state: "a=b".to_owned(),
        attributes: vec![text("kind", "follows")],
        ..Default::default()
    }];
    root.status = Some(Status { message: "boom".to_owned(), code: StatusCode::Error.into() });
    root.dropped_attributes_count = 4;

    let mut child = span(trace_id, 2, "SELECT");
    child.parent_span_id.clone_from(&root.span_id);
    child.kind = SpanKind::Client.into();
    child.attributes = vec![text("db.system", "postgresql"), text("test.case", case)];

    let mut shop = batch("shop", vec![root]);
    shop.resource.as_mut().unwrap().attributes.extend([text("cluster", "eu-1"), attribute("host.cpus", Any::IntValue(8))]);
    shop.scope_spans[0].scope = Some(InstrumentationScope {
        name: "lib-a".to_owned(),
        version: "1.2".to_owned(),
        attributes: vec![text("scope.attribute", "s")],
        ..Default::default()
    });
    vec![shop, batch("stock", vec![child])]
}

/// Which JSON: what OTLP clients send, or what the query API answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// Ids in hex, enumerations as numbers.
    Sent,
    /// Ids in base64, enumerations by name.
    Answered,
}

/// The body of an OTLP/JSON request.
pub(crate) fn to_json(batches: &[ResourceSpans]) -> Value {
    json_of(batches, Dialect::Sent)
}

/// The comparable form of messages.
pub(crate) fn canonical_messages(batches: &[ResourceSpans]) -> Spans {
    canonical(&json_of(batches, Dialect::Answered))
}

/// The comparable form of an answer, an object with `resourceSpans` or `batches`. Fails when a span occurs twice.
pub(crate) fn canonical(trace: &Value) -> Spans {
    let mut spans = Spans::new();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let batches = if trace.get("batches").is_some() { &trace["batches"] } else { &trace["resourceSpans"] };
    for batch in list(batches) {
        for scope_spans in list(&batch["scopeSpans"]) {
            for span in list(&scope_spans["spans"]) {
                let key = (span["spanId"].to_string(), span["kind"].to_string());
                let whole = json!({
                    "resource": canonical_object(&batch["resource"]),
                    "scope": canonical_object(&scope_spans["scope"]),
                    "span": canonical_object(&span),
                });
                assert!(spans.insert(key, whole).is_none(), "twice in the answer: {span}");
            }
        }
    }
    spans
}

/// Sorts attributes, leaves out what is empty and what is not stored.
fn canonical_object(value: &Value) -> Value {
    let mut out = Map::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        let kept = match (key.as_str(), value) {
            ("flags" | "schemaUrl", _) => continue,
            ("attributes", Value::Array(attributes)) => {
                let mut attributes = attributes.clone();
                attributes.sort_by_key(|attribute| attribute["key"].to_string());
                attributes.iter().map(canonical_numbers).collect()
            }
            (_, Value::Array(items)) => items.iter().map(canonical_object).collect(),
            (_, Value::Object(_)) => canonical_object(value),
            _ => value.clone(),
        };
        let is_empty = match &kept {
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        if !is_empty {
            out.insert(key.clone(), kept);
        }
    }
    Value::Object(out)
}

/// In JSON 1 and 1.0 are the same number.
fn canonical_numbers(value: &Value) -> Value {
    match value {
        Value::Number(number) => Value::from(number.as_f64()),
        Value::Array(items) => items.iter().map(canonical_numbers).collect(),
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), canonical_numbers(value))).collect(),
        Value::Null | Value::Bool(_) | Value::String(_) => value.clone(),
    }
}

fn json_of(batches: &[ResourceSpans], dialect: Dialect) -> Value {
    let batches: Vec<_> = batches
        .iter()
        .map(|batch| {
            let resource = batch.resource.clone().unwrap_or_default();
            let scopes: Vec<_> = batch.scope_spans.iter().map(|scope| scope_json(scope, dialect)).collect();
            json!({
                "resource": fields([("attributes", attributes_json(&resource.attributes)), count("droppedAttributesCount", resource.dropped_attributes_count)]),
                "scopeSpans": scopes,
            })
        })
        .collect();
    json!({ "resourceSpans": batches })
}

fn scope_json(scope_spans: &ScopeSpans, dialect: Dialect) -> Value {
    let scope = scope_spans.scope.clone().unwrap_or_default();
    let scope = fields([
        ("name", Value::from(scope.name)),
        ("version", Value::from(scope.version)),
        ("attributes", attributes_json(&scope.attributes)),
        count("droppedAttributesCount", scope.dropped_attributes_count),
    ]);
    let spans: Vec<_> = scope_spans.spans.iter().map(|span| span_json(span, dialect)).collect();
    json!({"scope": scope, "spans": spans})
}

fn span_json(span: &Span, dialect: Dialect) -> Value {
    let id = |bytes: &[u8]| Value::from(if dialect == Dialect::Sent { hex(bytes) } else { BASE64.encode(bytes) });
    let time = |nanos: u64| if nanos == 0 { Value::Null } else { Value::from(nanos.to_string()) };
    let choice = |number: i32, name: &str| match (number, dialect) {
        (0, _) => Value::Null,
        (_, Dialect::Sent) => Value::from(number),
        (_, Dialect::Answered) => Value::from(name),
    };
    let event = |event: &Event| {
        fields([
            ("timeUnixNano", time(event.time_unix_nano)),
            ("name", Value::from(event.name.clone())),
            ("attributes", attributes_json(&event.attributes)),
            count("droppedAttributesCount", event.dropped_attributes_count),
        ])
    };
    let link = |link: &Link| {
        fields([
            ("traceId", id(&link.trace_id)),
            ("spanId", id(&link.span_id)),
            ("traceState", Value::from(link.trace_state.clone())),
            ("attributes", attributes_json(&link.attributes)),
            count("droppedAttributesCount", link.dropped_attributes_count),
        ])
    };
    let status = span.status.clone().unwrap_or_default();
    let code = status.code().as_str_name();
    fields([
        ("traceId", id(&span.trace_id)),
        ("spanId", id(&span.span_id)),
        ("traceState", Value::from(span.trace_state.clone())),
        ("parentSpanId", id(&span.parent_span_id)),
        ("name", Value::from(span.name.clone())),
        ("kind", choice(span.kind, span.kind().as_str_name())),
        ("startTimeUnixNano", time(span.start_time_unix_nano)),
        ("endTimeUnixNano", time(span.end_time_unix_nano)),
        ("attributes", attributes_json(&span.attributes)),
        count("droppedAttributesCount", span.dropped_attributes_count),
        ("events", span.events.iter().map(event).collect()),
        count("droppedEventsCount", span.dropped_events_count),
        ("links", span.links.iter().map(link).collect()),
        count("droppedLinksCount", span.dropped_links_count),
        ("status", fields([("message", Value::from(status.message)), ("code", choice(status.code, code))])),
    ])
}

fn count(name: &'static str, count: u32) -> (&'static str, Value) {
    (name, if count == 0 { Value::Null } else { Value::from(count) })
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let present = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(present.map(|(name, value)| (name.to_owned(), value)).collect())
}

fn attributes_json(attributes: &[KeyValue]) -> Value {
    attributes.iter().map(|attribute| json!({"key": attribute.key, "value": any_json(attribute.value.as_ref())})).collect()
}

fn any_json(value: Option<&AnyValue>) -> Value {
    match value.and_then(|value| value.value.as_ref()) {
        None => json!({}),
        Some(Any::StringValue(value)) => json!({"stringValue": value}),
        Some(Any::BoolValue(value)) => json!({"boolValue": value}),
        Some(Any::IntValue(value)) => json!({"intValue": value.to_string()}),
        Some(Any::DoubleValue(value)) => json!({"doubleValue": value}),
        Some(Any::ArrayValue(list)) => {
            json!({"arrayValue": {"values": list.values.iter().map(|value| any_json(Some(value))).collect::<Vec<_>>()}})
        }
        Some(Any::KvlistValue(list)) => json!({"kvlistValue": {"values": attributes_json(&list.values)}}),
        Some(Any::BytesValue(value)) => json!({"bytesValue": BASE64.encode(value)}),
        Some(Any::StringValueStrindex(value)) => json!({"stringValueStrindex": value}),
    }
}
