//! Messages for tests, and a generator of them.

use proptest::prelude::*;

/// The generated types that tests of this layer compare with.
pub(crate) mod tempopb {
    pub(crate) use crate::proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
    pub(crate) use crate::proto::tempopb::common::v1::{
        AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value,
    };
    pub(crate) use crate::proto::tempopb::resource::v1::Resource;
    pub(crate) use crate::proto::tempopb::trace::v1::span::{Event, Link};
    pub(crate) use crate::proto::tempopb::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
    pub(crate) use crate::proto::tempopb::{PushBytesRequest, Trace};
}

use tempopb::*;

fn key_value(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}

pub(crate) fn text(key: &str, value: &str) -> KeyValue {
    key_value(key, Value::StringValue(value.to_owned()))
}

pub(crate) fn int(key: &str, value: i64) -> KeyValue {
    key_value(key, Value::IntValue(value))
}

pub(crate) fn list(key: &str, values: &[&str]) -> KeyValue {
    let values = values.iter().map(|value| AnyValue { value: Some(Value::StringValue((*value).to_owned())) }).collect();
    key_value(key, Value::ArrayValue(ArrayValue { values }))
}

pub(crate) fn span(trace_id: &[u8], span_id: &[u8]) -> Span {
    Span { trace_id: trace_id.to_vec(), span_id: span_id.to_vec(), name: "span".to_owned(), ..Span::default() }
}

pub(crate) fn scope_spans(name: Option<&str>, spans: Vec<Span>) -> ScopeSpans {
    let scope = name.map(|name| InstrumentationScope { name: name.to_owned(), ..InstrumentationScope::default() });
    ScopeSpans { scope, spans, schema_url: String::new() }
}

/// A request with one resource.
pub(crate) fn request(scope_spans: Vec<ScopeSpans>) -> ExportTraceServiceRequest {
    let resource = Resource { attributes: vec![text("service.name", "shop")], ..Resource::default() };
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans, schema_url: String::new() }] }
}

pub(crate) fn is_valid(span: &Span) -> bool {
    let given = |id: &[u8], len: usize| id.len() == len && id.iter().any(|byte| *byte != 0);
    given(&span.trace_id, 16) && given(&span.span_id, 8)
}

/// Cuts attributes of a decoded request and returns the number of cuts by resource, scope, span, event, link. Spans that are not valid do not count.
pub(crate) fn cut(request: &mut ExportTraceServiceRequest, limit: usize) -> (u64, u64, u64, u64, u64) {
    let mut counts = (0, 0, 0, 0, 0);
    for resource_spans in &mut request.resource_spans {
        counts.0 += resource_spans.resource.as_mut().map_or(0, |resource| cut_all(&mut resource.attributes, limit));
        for scope_spans in &mut resource_spans.scope_spans {
            counts.1 += scope_spans.scope.as_mut().map_or(0, |scope| cut_all(&mut scope.attributes, limit));
            for span in scope_spans.spans.iter_mut().filter(|span| is_valid(span)) {
                counts.2 += cut_all(&mut span.attributes, limit);
                counts.3 += span.events.iter_mut().map(|event| cut_all(&mut event.attributes, limit)).sum::<u64>();
                counts.4 += span.links.iter_mut().map(|link| cut_all(&mut link.attributes, limit)).sum::<u64>();
            }
        }
    }
    counts
}

fn cut_all(attributes: &mut [KeyValue], limit: usize) -> u64 {
    let cut = |text: &mut String| {
        let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap();
        let cut = end < text.len();
        text.truncate(end);
        u64::from(cut)
    };
    let mut count = 0;
    for attribute in attributes {
        count += cut(&mut attribute.key);
        if let Some(AnyValue { value: Some(Value::StringValue(text)) }) = &mut attribute.value {
            count += cut(text);
        }
    }
    count
}

fn arb_value() -> impl Strategy<Value = Option<Value>> {
    let leaf = prop_oneof![
        Just(None),
        "[a-zé日]{0,30}".prop_map(|text| Some(Value::StringValue(text))),
        any::<i64>().prop_map(|value| Some(Value::IntValue(value))),
        any::<bool>().prop_map(|value| Some(Value::BoolValue(value))),
        any::<i32>().prop_map(|value| Some(Value::DoubleValue(f64::from(value) / 8.0))),
        prop::collection::vec(any::<u8>(), 0..6).prop_map(|bytes| Some(Value::BytesValue(bytes))),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        let values = prop::collection::vec(inner, 0..3);
        prop_oneof![
            values.clone().prop_map(|values| {
                let values = values.into_iter().map(|value| AnyValue { value }).collect();
                Some(Value::ArrayValue(ArrayValue { values }))
            }),
            values.prop_map(|values| {
                let pair = |value| KeyValue { key: "nested".to_owned(), value: Some(AnyValue { value }), key_strindex: 0 };
                Some(Value::KvlistValue(KeyValueList { values: values.into_iter().map(pair).collect() }))
            }),
        ]
    })
}

fn arb_attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let attribute =
        ("[a-cü]{0,12}", arb_value()).prop_map(|(key, value)| KeyValue { key, value: Some(AnyValue { value }), key_strindex: 0 });
    prop::collection::vec(attribute, 0..4)
}

fn arb_id(len: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        9 => (1u8..5).prop_map(move |byte| vec![byte; len]),
        1 => prop_oneof![Just(vec![0; len]), Just(Vec::new()), Just(vec![1; len / 2])],
    ]
}

fn arb_span() -> impl Strategy<Value = Span> {
    let event = (any::<u64>(), "[a-z]{0,5}", arb_attributes(), 0u32..3).prop_map(|(time_unix_nano, name, attributes, dropped)| Event {
        time_unix_nano,
        name,
        attributes,
        dropped_attributes_count: dropped,
    });
    let link = (arb_id(16), arb_id(8), "[a-z]{0,3}", arb_attributes(), any::<u32>()).prop_map(
        |(trace_id, span_id, trace_state, attributes, flags)| Link {
            trace_id,
            span_id,
            trace_state,
            attributes,
            dropped_attributes_count: 0,
            flags,
        },
    );
    let status = prop::option::of(("[a-z]{0,4}", 0i32..3).prop_map(|(message, code)| Status { message, code }));
    (
        (arb_id(16), arb_id(8), arb_id(8), "[a-z]{0,20}", 0i32..6, any::<u64>(), any::<u64>()),
        (arb_attributes(), prop::collection::vec(event, 0..2), prop::collection::vec(link, 0..2), status, any::<u32>()),
    )
        .prop_map(|((trace_id, span_id, parent_span_id, name, kind, start, end), (attributes, events, links, status, flags))| Span {
            trace_id,
            span_id,
            trace_state: String::new(),
            parent_span_id,
            flags,
            name,
            kind,
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            attributes,
            dropped_attributes_count: flags % 3,
            events,
            dropped_events_count: flags % 2,
            links,
            dropped_links_count: 0,
            status,
        })
}

/// Any request of up to 3 resources, 3 scopes each, 5 spans each, over few trace ids; one id in ten is invalid.
pub(crate) fn arb_request() -> impl Strategy<Value = ExportTraceServiceRequest> {
    let scope = prop::option::of(("[ab]{0,1}", "[12]{0,1}", prop::option::of(Just(text("scope.key", "a value of a scope")))).prop_map(
        |(name, version, attribute)| InstrumentationScope {
            name,
            version,
            attributes: attribute.into_iter().collect(),
            dropped_attributes_count: 0,
        },
    ));
    let schema_url = "[s]{0,1}";
    let scope_spans = (scope, prop::collection::vec(arb_span(), 0..5), schema_url).prop_map(|(scope, spans, schema_url)| ScopeSpans {
        scope,
        spans,
        schema_url,
    });
    let resource = prop::option::of((arb_attributes(), 0u32..2).prop_map(|(attributes, dropped)| Resource {
        attributes,
        dropped_attributes_count: dropped,
        entity_refs: vec![],
    }));
    let resource_spans = (resource, prop::collection::vec(scope_spans, 0..4), schema_url)
        .prop_map(|(resource, scope_spans, schema_url)| ResourceSpans { resource, scope_spans, schema_url });
    prop::collection::vec(resource_spans, 0..4).prop_map(|resource_spans| ExportTraceServiceRequest { resource_spans })
}
