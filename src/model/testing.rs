//! Arbitrary tables for property tests: every value type, empty levels, repeated keys, invalid UTF-8.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::ids::{SpanId, TraceId};
use super::span_table::{Attrs, SpanTable, Value};
use super::strings::{Interner, StrId};

/// Attribute keys; some name dedicated columns of the default list.
const KEYS: [&str; 8] = ["a", "b", "http.method", "http.status_code", "k8s.pod.name", "server.port", "exception.type", "attempt"];

/// Returns tables of 1 to `max_traces` traces, strictly ascending by id. The derived columns hold arbitrary numbers.
pub(crate) fn arb_span_table(max_traces: usize) -> impl Strategy<Value = SpanTable> {
    btree_map(any::<[u8; 16]>(), arb_trace(), 1..=max_traces).prop_map(|traces| {
        let mut builder = Builder::default();
        for (id, trace) in traces {
            builder.add_trace(TraceId(id), trace);
        }
        SpanTable { strings: builder.strings.into_pool(), ..builder.table }
    })
}

type Text = Vec<u8>;
type Attributes = Vec<(usize, AnyValue)>;
type Resource = (Text, u32, Attributes, Vec<Scope>);
type Link = (Option<[u8; 16]>, [u8; 8], Text, u32, Attributes);

#[derive(Debug, Clone)]
enum AnyValue {
    Str(Text),
    Int(i64),
    Double(f64),
    Bool(bool),
    Strs(Vec<Text>),
    Ints(Vec<i64>),
    Doubles(Vec<f64>),
    Bools(Vec<bool>),
    Json(Text),
}

#[derive(Debug, Clone)]
struct Trace {
    times: (u64, u64),
    root: (Text, Text),
    stats: Vec<(Text, u32, u32)>,
    resources: Vec<Resource>,
}

#[derive(Debug, Clone)]
struct Scope {
    names: (Text, Text),
    dropped: u32,
    attrs: Attributes,
    spans: Vec<Span>,
}

#[derive(Debug, Clone)]
struct Span {
    ids: ([u8; 8], Option<[u8; 8]>),
    nested: [i32; 4],
    texts: (Text, Text, Text),
    enums: (i32, i32),
    times: (u64, u64),
    dropped: [u32; 3],
    attrs: Attributes,
    events: Vec<(u64, Text, u32, Attributes)>,
    links: Vec<Link>,
}

fn arb_text() -> impl Strategy<Value = Text> {
    prop_oneof![4 => "[a-c]{0,2}".prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..40)]
}

fn arb_value() -> impl Strategy<Value = AnyValue> {
    let double = any::<f64>().prop_filter("NaN is not equal to itself", |number| !number.is_nan());
    prop_oneof![
        4 => arb_text().prop_map(AnyValue::Str),
        2 => any::<i64>().prop_map(AnyValue::Int),
        1 => double.clone().prop_map(AnyValue::Double),
        1 => any::<bool>().prop_map(AnyValue::Bool),
        1 => vec(arb_text(), 0..4).prop_map(AnyValue::Strs),
        1 => vec(any::<i64>(), 0..4).prop_map(AnyValue::Ints),
        1 => vec(double, 0..4).prop_map(AnyValue::Doubles),
        1 => vec(any::<bool>(), 0..4).prop_map(AnyValue::Bools),
        1 => arb_text().prop_map(AnyValue::Json),
    ]
}

fn arb_attrs() -> impl Strategy<Value = Attributes> {
    vec((0..KEYS.len(), arb_value()), 0..4)
}

fn arb_trace() -> impl Strategy<Value = Trace> {
    let resource = (arb_text(), any::<u32>(), arb_attrs(), vec(arb_scope(), 0..3));
    let stats = vec((arb_text(), any::<u32>(), any::<u32>()), 0..3);
    (any::<(u64, u64)>(), (arb_text(), arb_text()), stats, vec(resource, 0..3)).prop_map(|(times, root, stats, resources)| Trace {
        times,
        root,
        stats,
        resources,
    })
}

fn arb_scope() -> impl Strategy<Value = Scope> {
    ((arb_text(), arb_text()), any::<u32>(), arb_attrs(), vec(arb_span(), 0..4)).prop_map(|(names, dropped, attrs, spans)| Scope {
        names,
        dropped,
        attrs,
        spans,
    })
}

fn arb_span() -> impl Strategy<Value = Span> {
    let event = (any::<u64>(), arb_text(), any::<u32>(), arb_attrs());
    let link = (any::<Option<[u8; 16]>>(), any::<[u8; 8]>(), arb_text(), any::<u32>(), arb_attrs());
    let fixed = (any::<([u8; 8], Option<[u8; 8]>)>(), any::<[i32; 4]>(), (0..6, 0..3), any::<(u64, u64)>(), any::<[u32; 3]>());
    (fixed, (arb_text(), arb_text(), arb_text()), arb_attrs(), vec(event, 0..3), vec(link, 0..2)).prop_map(
        |((ids, nested, enums, times, dropped), texts, attrs, events, links)| Span {
            ids,
            nested,
            texts,
            enums,
            times,
            dropped,
            attrs,
            events,
            links,
        },
    )
}

#[derive(Default)]
struct Builder {
    strings: Interner,
    table: SpanTable,
}

impl Builder {
    fn add_trace(&mut self, id: TraceId, trace: Trace) {
        for (service, attrs_dropped, attrs, scopes) in trace.resources {
            for scope in scopes {
                self.add_scope(scope);
            }
            let resources = &mut self.table.resources;
            resources.scopes.push_end(self.table.scopes.name.len());
            resources.service_name.push(self.strings.intern(&service));
            resources.dropped_attributes.push(attrs_dropped);
            add_attrs(&mut self.strings, &mut resources.attrs, attrs);
        }
        let traces = &mut self.table.traces;
        traces.ids.push(id);
        traces.resources.push_end(self.table.resources.service_name.len());
        traces.start_unix_nanos.push(trace.times.0);
        traces.end_unix_nanos.push(trace.times.1);
        traces.duration_nanos.push(trace.times.1.wrapping_sub(trace.times.0));
        traces.root_service_name.push(self.strings.intern(&trace.root.0));
        traces.root_span_name.push(self.strings.intern(&trace.root.1));
        for (service, spans, errors) in trace.stats {
            traces.service_stats.service_name.push(self.strings.intern(&service));
            traces.service_stats.span_count.push(spans);
            traces.service_stats.error_count.push(errors);
        }
        traces.service_stats_of.push_end(traces.service_stats.service_name.len());
    }

    fn add_scope(&mut self, scope: Scope) {
        for span in scope.spans {
            self.add_span(span);
        }
        let scopes = &mut self.table.scopes;
        scopes.spans.push_end(self.table.spans.span_id.len());
        scopes.name.push(self.strings.intern(&scope.names.0));
        scopes.version.push(self.strings.intern(&scope.names.1));
        scopes.dropped_attributes.push(scope.dropped);
        add_attrs(&mut self.strings, &mut scopes.attrs, scope.attrs);
    }

    fn add_span(&mut self, span: Span) {
        let (events, links) = (&mut self.table.events, &mut self.table.links);
        for (time, name, dropped, attrs) in span.events {
            events.time_since_start_nanos.push(time);
            events.name.push(self.strings.intern(&name));
            events.dropped_attributes.push(dropped);
            add_attrs(&mut self.strings, &mut events.attrs, attrs);
        }
        for (trace_id, span_id, trace_state, dropped, attrs) in span.links {
            links.trace_id.push(TraceId(trace_id.unwrap_or_default()));
            links.span_id.push(SpanId(span_id));
            links.trace_state.push(self.strings.intern(&trace_state));
            links.dropped_attributes.push(dropped);
            add_attrs(&mut self.strings, &mut links.attrs, attrs);
        }
        let spans = &mut self.table.spans;
        spans.events.push_end(events.name.len());
        spans.links.push_end(links.span_id.len());
        spans.span_id.push(SpanId(span.ids.0));
        spans.parent_span_id.push(SpanId(span.ids.1.unwrap_or_default()));
        let [left, right, parent, children] = span.nested;
        spans.nested_left.push(left);
        spans.nested_right.push(right);
        spans.nested_parent.push(parent);
        spans.child_count.push(children);
        spans.name.push(self.strings.intern(&span.texts.0));
        spans.trace_state.push(self.strings.intern(&span.texts.1));
        spans.status_message.push(self.strings.intern(&span.texts.2));
        spans.kind.push(span.enums.0);
        spans.status_code.push(span.enums.1);
        spans.start_unix_nanos.push(span.times.0);
        spans.duration_nanos.push(span.times.1);
        let [attributes, events, links] = span.dropped;
        spans.dropped_attributes.push(attributes);
        spans.dropped_events.push(events);
        spans.dropped_links.push(links);
        add_attrs(&mut self.strings, &mut spans.attrs, span.attrs);
    }
}

fn add_attrs(strings: &mut Interner, attrs: &mut Attrs, list: Attributes) {
    for (key, value) in list {
        let key = strings.intern(KEYS[key].as_bytes());
        let mut text = |text: Text| -> StrId { strings.intern(&text) };
        let value = match value {
            AnyValue::Str(value) => Value::Str(text(value)),
            AnyValue::Int(value) => Value::Int(value),
            AnyValue::Double(value) => Value::Double(value),
            AnyValue::Bool(value) => Value::Bool(value),
            AnyValue::Strs(values) => attrs.array(values.into_iter().map(|value| Value::Str(text(value))).collect::<Vec<_>>()),
            AnyValue::Ints(values) => attrs.array(values.into_iter().map(Value::Int)),
            AnyValue::Doubles(values) => attrs.array(values.into_iter().map(Value::Double)),
            AnyValue::Bools(values) => attrs.array(values.into_iter().map(Value::Bool)),
            AnyValue::Json(value) => Value::Json(text(value)),
        };
        attrs.push(key, value);
    }
    attrs.close_owner();
}
