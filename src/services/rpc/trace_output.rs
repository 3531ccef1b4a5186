//! Traces on their way out: one trace of a [`SpanTable`] as an OTLP `TracesData`, in protobuf or JSON (http-api §6.1).
//!
//! Written straight from the columns; no object per span. Resource attributes end with `service.name`, where the compatible system puts it.

use super::any_value::write_attribute;
use super::message::{Field, JsonFlavour, JsonWriter, MessageWriter, ProtoSize, ProtoWriter, field};
use crate::model::ids::{SpanId, TraceId};
use crate::model::span_table::{Attrs, SpanTable, Value};
use crate::model::strings::StrId;

/// What JSON calls the list of resources: `batches` in v1, `resourceSpans` in v2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceListName {
    Batches,
    ResourceSpans,
}

/// Which spans of a trace are written; resources and scopes without any are left out.
#[derive(Debug, Clone)]
pub struct SpanSelection {
    first_span: usize,
    kept: Vec<bool>,
}

impl SpanSelection {
    /// Keeps the spans of trace `row` for which `keep` holds.
    pub fn of_trace(table: &SpanTable, row: usize, keep: impl FnMut(usize) -> bool) -> Self {
        let spans = table.spans_of_trace(row);
        Self { first_span: spans.start, kept: spans.map(keep).collect() }
    }

    /// Keeps as many spans of trace `row` as fit into `max_bytes` of protobuf, the most telling first: roots, then failed spans, then by start
    /// time. What resources and scopes add is counted with their first span.
    pub fn within_bytes(table: &SpanTable, row: usize, max_bytes: usize) -> Self {
        let spans = table.spans_of_trace(row);
        let mut selection = Self { first_span: spans.start, kept: vec![false; spans.len()] };
        let mut order: Vec<usize> = spans.collect();
        let rank = |span: usize| {
            let is_root = at::<SpanId>(&table.spans.parent_span_id, span).is_none();
            let is_error = at(&table.spans.status_code, span) == 2;
            (!is_root, !is_error, at(&table.spans.start_unix_nanos, span))
        };
        order.sort_by_cached_key(|span| rank(*span));
        let trace_id = table.traces.ids[row];
        let mut opened_scopes = std::collections::HashSet::new();
        let mut bytes = 0;
        for span in order {
            let scope = table.scopes.spans.owner_of(span);
            let resource = table.resources.scopes.owner_of(scope);
            bytes += ProtoSize::of(|out| out.message(SPANS, |out| write_span(out, table, trace_id, span)));
            if opened_scopes.insert(scope) {
                bytes +=
                    ProtoSize::of(|out| write_scope(out, table, scope)) + ProtoSize::of(|out| write_resource(out, table, resource)) + 16;
            }
            if bytes > max_bytes {
                break;
            }
            selection.kept[span - selection.first_span] = true;
        }
        selection
    }

    pub fn contains(&self, span: usize) -> bool {
        self.kept[span - self.first_span]
    }

    /// Number of spans kept.
    pub fn count(&self) -> usize {
        self.kept.iter().filter(|kept| **kept).count()
    }
}

/// One trace of a table, whole or in part.
#[derive(Debug, Clone, Copy)]
pub struct TraceOutput<'a> {
    pub table: &'a SpanTable,
    pub row: usize,
    /// `None`: all spans.
    pub selection: Option<&'a SpanSelection>,
}

const RESOURCE_SPANS: Field = field(1, "resourceSpans");
const BATCHES: Field = field(1, "batches");
const SPANS: Field = field(2, "spans");

impl<'a> TraceOutput<'a> {
    /// All of trace `row`.
    pub fn whole(table: &'a SpanTable, row: usize) -> Self {
        Self { table, row, selection: None }
    }

    /// Returns the protobuf bytes.
    pub fn to_proto(self) -> Vec<u8> {
        ProtoWriter::encode(|out| self.write(out, ResourceListName::ResourceSpans))
    }

    /// Returns the number of protobuf bytes.
    pub fn proto_bytes(self) -> usize {
        ProtoSize::of(|out| self.write(out, ResourceListName::ResourceSpans))
    }

    /// Returns the JSON.
    pub fn to_json(self, list: ResourceListName) -> Vec<u8> {
        JsonWriter::encode(|out| self.write(out, list))
    }

    /// Returns the JSON of the OTLP specification.
    pub fn to_otlp_json(self) -> Vec<u8> {
        JsonWriter::encode_as(JsonFlavour::Otlp, |out| self.write(out, ResourceListName::ResourceSpans))
    }

    /// Writes the members of the trace message.
    pub fn write(self, out: &mut impl MessageWriter, list: ResourceListName) {
        let list = match list {
            ResourceListName::Batches => BATCHES,
            ResourceListName::ResourceSpans => RESOURCE_SPANS,
        };
        let resources = self.table.traces.resources.range(self.row).filter(|resource| {
            self.selection.is_none() || self.table.resources.scopes.range(*resource).any(|scope| self.keeps_scope(scope))
        });
        out.messages(list, resources, |out, resource| self.write_resource_spans(out, resource));
    }

    fn keeps_span(self, span: usize) -> bool {
        self.selection.is_none_or(|selection| selection.contains(span))
    }

    fn keeps_scope(self, scope: usize) -> bool {
        self.selection.is_none() || self.table.scopes.spans.range(scope).any(|span| self.keeps_span(span))
    }

    fn write_resource_spans(self, out: &mut impl MessageWriter, resource: usize) {
        const RESOURCE: Field = field(1, "resource");
        const SCOPE_SPANS: Field = field(2, "scopeSpans");
        out.message(RESOURCE, |out| write_resource(out, self.table, resource));
        let scopes = self.table.resources.scopes.range(resource).filter(|scope| self.keeps_scope(*scope));
        out.messages(SCOPE_SPANS, scopes, |out, scope| self.write_scope_spans(out, scope));
    }

    fn write_scope_spans(self, out: &mut impl MessageWriter, scope: usize) {
        const SCOPE: Field = field(1, "scope");
        let trace_id = self.table.traces.ids[self.row];
        out.message(SCOPE, |out| write_scope(out, self.table, scope));
        let spans = self.table.scopes.spans.range(scope).filter(|span| self.keeps_span(*span));
        out.messages(SPANS, spans, |out, span| write_span(out, self.table, trace_id, span));
    }
}

fn write_resource(out: &mut impl MessageWriter, table: &SpanTable, resource: usize) {
    const ATTRIBUTES: Field = field(1, "attributes");
    const DROPPED_ATTRIBUTES: Field = field(2, "droppedAttributesCount");
    let resources = &table.resources;
    let service_name = string_at(table, &resources.service_name, resource);
    let service_id = at(&resources.service_name, resource);
    let service = (!service_name.is_empty()).then_some((&b"service.name"[..], Value::Str(service_id)));
    let attributes = pairs(table, &resources.attrs, resource).chain(service);
    out.messages(ATTRIBUTES, attributes, |out, (key, value)| write_attribute(out, &table.strings, &resources.attrs, key, value));
    out.uint32(DROPPED_ATTRIBUTES, at(&resources.dropped_attributes, resource));
}

fn write_scope(out: &mut impl MessageWriter, table: &SpanTable, scope: usize) {
    const NAME: Field = field(1, "name");
    const VERSION: Field = field(2, "version");
    const ATTRIBUTES: Field = field(3, "attributes");
    const DROPPED_ATTRIBUTES: Field = field(4, "droppedAttributesCount");
    let scopes = &table.scopes;
    out.text(NAME, string_at(table, &scopes.name, scope));
    out.text(VERSION, string_at(table, &scopes.version, scope));
    write_attributes(out, ATTRIBUTES, table, &scopes.attrs, scope);
    out.uint32(DROPPED_ATTRIBUTES, at(&scopes.dropped_attributes, scope));
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
    out.id(TRACE_ID, &trace_id.0);
    out.id(SPAN_ID, at::<SpanId>(&spans.span_id, span).as_bytes());
    out.text(TRACE_STATE, string_at(table, &spans.trace_state, span));
    out.id(PARENT_SPAN_ID, at::<SpanId>(&spans.parent_span_id, span).as_bytes());
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
        out.id(TRACE_ID, &trace_id.0);
    }
    out.id(SPAN_ID, at::<SpanId>(&links.span_id, link).as_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::otlp_table::{Fragment, build_table};

    /// Attribute values of every kind on a resource, a scope, a span, an event and a link.
    fn sample() -> (TraceId, Vec<u8>) {
        let trace_id = TraceId([7; 16]);
        let values = [
            r#"{"stringValue":"x"}"#,
            r#"{"intValue":"-5"}"#,
            r#"{"doubleValue":0.5}"#,
            r#"{"boolValue":false}"#,
            r#"{"bytesValue":"AP8Q"}"#,
            r#"{"arrayValue":{"values":[{"stringValue":"a"},{"stringValue":""}]}}"#,
            r#"{"arrayValue":{"values":[{"intValue":"1"},{"stringValue":"a"}]}}"#,
            r#"{"kvlistValue":{"values":[{"key":"k","value":{"boolValue":true}}]}}"#,
            r#"{"arrayValue":{}}"#,
            "{}",
        ];
        let attributes = |out: &mut ProtoWriter, list: Field| {
            out.messages(list, values.iter().enumerate(), |out, (index, json)| {
                let value = super::super::any_value::AnyValue::from_protobuf_json(json.as_bytes());
                super::super::any_value::write_key_value(out, format!("k{index}").as_bytes(), &value);
            });
        };
        let bytes = ProtoWriter::encode(|out| {
            out.message(field(1, "resourceSpans"), |out| {
                out.message(field(1, "resource"), |out| attributes(out, field(1, "attributes")));
                out.message(field(2, "scopeSpans"), |out| {
                    out.message(field(1, "scope"), |out| {
                        out.text(field(1, "name"), b"lib");
                        attributes(out, field(3, "attributes"));
                    });
                    out.message(field(2, "spans"), |out| {
                        out.put_bytes(field(1, "traceId"), &trace_id.0);
                        out.put_bytes(field(2, "spanId"), &[1; 8]);
                        out.put_text(field(5, "name"), b"op");
                        out.put_enum(field(6, "kind"), 3, "");
                        out.put_fixed64(field(7, "start"), 1_000);
                        out.put_fixed64(field(8, "end"), 3_000);
                        attributes(out, field(9, "attributes"));
                        out.message(field(11, "events"), |out| {
                            out.put_fixed64(field(1, "time"), 1_500);
                            attributes(out, field(3, "attributes"));
                        });
                        out.uint32(field(12, "droppedEventsCount"), 3);
                        out.message(field(13, "links"), |out| {
                            out.put_bytes(field(1, "traceId"), &[9; 16]);
                            out.put_bytes(field(2, "spanId"), &[2; 8]);
                            attributes(out, field(4, "attributes"));
                        });
                        out.message(field(15, "status"), |out| out.put_enum(field(3, "code"), 2, ""));
                    });
                });
            });
        });
        (trace_id, bytes)
    }

    #[test]
    fn a_trace_comes_back_as_it_was_sent() {
        let (trace_id, bytes) = sample();
        let table = build_table(vec![Fragment { trace_id, trace: &bytes }]).table;
        let trace = TraceOutput::whole(&table, 0);
        assert_eq!(trace.to_proto(), bytes);
        assert_eq!(trace.proto_bytes(), bytes.len());
    }

    #[test]
    fn json_has_the_known_fields_in_order() {
        let (trace_id, bytes) = sample();
        let table = build_table(vec![Fragment { trace_id, trace: &bytes }]).table;
        let json = String::from_utf8(TraceOutput::whole(&table, 0).to_json(ResourceListName::Batches)).unwrap();
        assert!(json.starts_with(
            r#"{"batches":[{"resource":{"attributes":[{"key":"k0","value":{"stringValue":"x"}},{"key":"k1","value":{"intValue":"-5"}}"#
        ));
        let span = r#""spans":[{"traceId":"BwcHBwcHBwcHBwcHBwcHBw==","spanId":"AQEBAQEBAQE=","name":"op","kind":"SPAN_KIND_CLIENT","startTimeUnixNano":"1000","endTimeUnixNano":"3000","attributes":["#;
        assert!(json.contains(span), "{json}");
        assert!(json.ends_with(r#""status":{"code":"STATUS_CODE_ERROR"}}]}]}]}"#), "{json}");
    }

    #[test]
    fn left_out_spans_take_empty_scopes_with_them() {
        let (trace_id, bytes) = sample();
        let table = build_table(vec![Fragment { trace_id, trace: &bytes }]).table;
        let none = SpanSelection::of_trace(&table, 0, |_| false);
        let trace = TraceOutput { table: &table, row: 0, selection: Some(&none) };
        assert_eq!(trace.to_json(ResourceListName::ResourceSpans), b"{}");
        assert_eq!(SpanSelection::within_bytes(&table, 0, bytes.len() / 2).count(), 0);
        let all = SpanSelection::within_bytes(&table, 0, bytes.len() * 2);
        assert_eq!(all.count(), SpanSelection::of_trace(&table, 0, |_| true).count());
    }
}
