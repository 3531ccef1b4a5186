//! Traces on their way out: one trace of a [`SpanTable`] as an OTLP `TracesData`, in protobuf or JSON (http-api §6.1).
//!
//! Written straight from the columns; no object per span. Resource attributes end with `service.name`, where the compatible system puts it.

use super::any_value::write_attribute;
use super::message::{Field, JsonWriter, MessageWriter, ProtoWriter, field};
use crate::model::ids::{SpanId, TraceId};
use crate::model::span_table::{Attrs, SpanTable, Value};
use crate::model::strings::StrId;

/// What JSON calls the list of resources: `batches` in v1, `resourceSpans` in v2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceListName {
    Batches,
    ResourceSpans,
}

const RESOURCE_SPANS: Field = field(1, "resourceSpans");
const BATCHES: Field = field(1, "batches");

/// Returns the protobuf bytes of trace `row`.
pub fn trace_proto(table: &SpanTable, row: usize) -> Vec<u8> {
    ProtoWriter::encode(|out| write_trace(out, table, row, ResourceListName::ResourceSpans))
}

/// Returns the JSON of trace `row`.
pub fn trace_json(table: &SpanTable, row: usize, list: ResourceListName) -> Vec<u8> {
    JsonWriter::encode(|out| write_trace(out, table, row, list))
}

/// Writes the members of the trace message.
pub fn write_trace(out: &mut impl MessageWriter, table: &SpanTable, row: usize, list: ResourceListName) {
    let list = match list {
        ResourceListName::Batches => BATCHES,
        ResourceListName::ResourceSpans => RESOURCE_SPANS,
    };
    let trace_id = table.traces.ids[row];
    out.messages(list, table.traces.resources.range(row), |out, resource| write_resource_spans(out, table, trace_id, resource));
}

fn write_resource_spans(out: &mut impl MessageWriter, table: &SpanTable, trace_id: TraceId, resource: usize) {
    const RESOURCE: Field = field(1, "resource");
    const SCOPE_SPANS: Field = field(2, "scopeSpans");
    const ATTRIBUTES: Field = field(1, "attributes");
    const DROPPED_ATTRIBUTES: Field = field(2, "droppedAttributesCount");
    let resources = &table.resources;
    out.message(RESOURCE, |out| {
        let service_name = resources.service_name.get(resource).copied().unwrap_or(StrId::EMPTY);
        let service = (service_name != StrId::EMPTY && !table.strings.get(service_name).is_empty())
            .then_some((&b"service.name"[..], Value::Str(service_name)));
        let attributes = pairs(table, &resources.attrs, resource).chain(service);
        out.messages(ATTRIBUTES, attributes, |out, (key, value)| write_attribute(out, &table.strings, &resources.attrs, key, value));
        out.uint32(DROPPED_ATTRIBUTES, at(&resources.dropped_attributes, resource));
    });
    out.messages(SCOPE_SPANS, resources.scopes.range(resource), |out, scope| write_scope_spans(out, table, trace_id, scope));
}

fn write_scope_spans(out: &mut impl MessageWriter, table: &SpanTable, trace_id: TraceId, scope: usize) {
    const SCOPE: Field = field(1, "scope");
    const SPANS: Field = field(2, "spans");
    const NAME: Field = field(1, "name");
    const VERSION: Field = field(2, "version");
    const ATTRIBUTES: Field = field(3, "attributes");
    const DROPPED_ATTRIBUTES: Field = field(4, "droppedAttributesCount");
    let scopes = &table.scopes;
    out.message(SCOPE, |out| {
        out.text(NAME, string_at(table, &scopes.name, scope));
        out.text(VERSION, string_at(table, &scopes.version, scope));
        write_attributes(out, ATTRIBUTES, table, &scopes.attrs, scope);
        out.uint32(DROPPED_ATTRIBUTES, at(&scopes.dropped_attributes, scope));
    });
    out.messages(SPANS, scopes.spans.range(scope), |out, span| write_span(out, table, trace_id, span));
}

/// In the order in which the compatible system declares the fields, which is the order of its JSON.
fn write_span(out: &mut impl MessageWriter, table: &SpanTable, trace_id: TraceId, span: usize) {
    const TRACE_ID: Field = field(1, "traceId");
    const SPAN_ID: Field = field(2, "spanId");
    const TRACE_STATE: Field = field(3, "traceState");
    const PARENT_SPAN_ID: Field = field(4, "parentSpanId");
    const NAME: Field = field(5, "name");
    const KIND: Field = field(6, "kind");
    const START: Field = field(7, "startTimeUnixNano");
    const END: Field = field(8, "endTimeUnixNano");
    const ATTRIBUTES: Field = field(9, "attributes");
    const DROPPED_ATTRIBUTES: Field = field(10, "droppedAttributesCount");
    const EVENTS: Field = field(11, "events");
    const DROPPED_EVENTS: Field = field(12, "droppedEventsCount");
    const LINKS: Field = field(13, "links");
    const DROPPED_LINKS: Field = field(14, "droppedLinksCount");
    const STATUS: Field = field(15, "status");
    const STATUS_MESSAGE: Field = field(2, "message");
    const STATUS_CODE: Field = field(3, "code");
    let spans = &table.spans;
    let start = at(&spans.start_unix_nanos, span);
    out.bytes(TRACE_ID, &trace_id.0);
    out.bytes(SPAN_ID, at::<SpanId>(&spans.span_id, span).as_bytes());
    out.text(TRACE_STATE, string_at(table, &spans.trace_state, span));
    out.bytes(PARENT_SPAN_ID, at::<SpanId>(&spans.parent_span_id, span).as_bytes());
    out.text(NAME, string_at(table, &spans.name, span));
    let kind = at(&spans.kind, span);
    out.enumeration(KIND, kind, &kind_name(kind));
    out.fixed64(START, start);
    out.fixed64(END, start.wrapping_add(at(&spans.duration_nanos, span)));
    write_attributes(out, ATTRIBUTES, table, &spans.attrs, span);
    out.uint32(DROPPED_ATTRIBUTES, at(&spans.dropped_attributes, span));
    if span < spans.events.len() {
        out.messages(EVENTS, spans.events.range(span), |out, event| write_event(out, table, start, event));
    }
    out.uint32(DROPPED_EVENTS, at(&spans.dropped_events, span));
    if span < spans.links.len() {
        out.messages(LINKS, spans.links.range(span), |out, link| write_link(out, table, link));
    }
    out.uint32(DROPPED_LINKS, at(&spans.dropped_links, span));
    out.message(STATUS, |out| {
        out.text(STATUS_MESSAGE, string_at(table, &spans.status_message, span));
        let code = at(&spans.status_code, span);
        out.enumeration(STATUS_CODE, code, &status_name(code));
    });
}

fn write_event(out: &mut impl MessageWriter, table: &SpanTable, span_start: u64, event: usize) {
    const TIME: Field = field(1, "timeUnixNano");
    const NAME: Field = field(2, "name");
    const ATTRIBUTES: Field = field(3, "attributes");
    const DROPPED_ATTRIBUTES: Field = field(4, "droppedAttributesCount");
    let events = &table.events;
    out.fixed64(TIME, span_start.wrapping_add(at(&events.time_since_start_nanos, event)));
    out.text(NAME, string_at(table, &events.name, event));
    write_attributes(out, ATTRIBUTES, table, &events.attrs, event);
    out.uint32(DROPPED_ATTRIBUTES, at(&events.dropped_attributes, event));
}

fn write_link(out: &mut impl MessageWriter, table: &SpanTable, link: usize) {
    const TRACE_ID: Field = field(1, "traceId");
    const SPAN_ID: Field = field(2, "spanId");
    const TRACE_STATE: Field = field(3, "traceState");
    const ATTRIBUTES: Field = field(4, "attributes");
    const DROPPED_ATTRIBUTES: Field = field(5, "droppedAttributesCount");
    let links = &table.links;
    let trace_id = at::<TraceId>(&links.trace_id, link);
    if !trace_id.is_zero() {
        out.bytes(TRACE_ID, &trace_id.0);
    }
    out.bytes(SPAN_ID, at::<SpanId>(&links.span_id, link).as_bytes());
    out.text(TRACE_STATE, string_at(table, &links.trace_state, link));
    write_attributes(out, ATTRIBUTES, table, &links.attrs, link);
    out.uint32(DROPPED_ATTRIBUTES, at(&links.dropped_attributes, link));
}

fn write_attributes(out: &mut impl MessageWriter, list: Field, table: &SpanTable, attrs: &Attrs, owner: usize) {
    out.messages(list, pairs(table, attrs, owner), |out, (key, value)| write_attribute(out, &table.strings, attrs, key, value));
}

/// Returns the attributes of `owner`; none when the column was not asked for.
fn pairs<'a>(table: &'a SpanTable, attrs: &'a Attrs, owner: usize) -> impl Iterator<Item = (&'a [u8], Value)> {
    (owner < attrs.of.len()).then(|| attrs.of_owner(owner)).into_iter().flatten().map(|(key, value)| (table.strings.get(key), value))
}

/// Returns the value of a column, or the default when the column was not asked for.
fn at<T: Copy + Default>(column: &[T], index: usize) -> T {
    column.get(index).copied().unwrap_or_default()
}

fn string_at<'a>(table: &'a SpanTable, column: &[StrId], index: usize) -> &'a [u8] {
    table.strings.get(at(column, index))
}

/// Returns the OTLP name of a span kind; numbers without a name are printed as such.
fn kind_name(kind: i32) -> std::borrow::Cow<'static, str> {
    match kind {
        0 => "SPAN_KIND_UNSPECIFIED".into(),
        1 => "SPAN_KIND_INTERNAL".into(),
        2 => "SPAN_KIND_SERVER".into(),
        3 => "SPAN_KIND_CLIENT".into(),
        4 => "SPAN_KIND_PRODUCER".into(),
        5 => "SPAN_KIND_CONSUMER".into(),
        other => other.to_string().into(),
    }
}

fn status_name(code: i32) -> std::borrow::Cow<'static, str> {
    match code {
        0 => "STATUS_CODE_UNSET".into(),
        1 => "STATUS_CODE_OK".into(),
        2 => "STATUS_CODE_ERROR".into(),
        other => other.to_string().into(),
    }
}
