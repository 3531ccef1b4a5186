//! Builds a [`SpanTable`] from OTLP bytes: one pass over the wire, strings interned once, no object per span.
//!
//! Not here: splitting requests by trace (`model::otlp`), joining tables (`model::combine`).
//!
//! Invariants
//! * Rows are strictly ascending by trace id; all fragments of a trace become one row.
//! * Equal resources, and equal scopes of a resource, are merged; order of first occurrence is kept. Resource and scope attributes are
//!   sorted by key (block-format §4.7).
//! * A span occurs once per trace, span id and kind: the log delivers at least once.
//! * A span that does not decode is left out whole and counted; its neighbours stay.

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};

use super::any_value::{KeyValue, push_attr};
use super::definition::{Definition, Definitions, Ranks, ScopeRanks, dedupe_kind};
use super::ids::{SpanId, TraceId};
use super::link::push_link;
use super::span_table::{Attrs, SpanTable, Value};
use super::strings::{Interner, StrId};
use super::trace_numbers::TraceNumbers;
use super::wire::{FieldValue, Fields, WireError};

/// The resource attribute that has a column of its own.
const SERVICE_NAME: &[u8] = b"service.name";

/// Up to this many spans of a trace, duplicates are looked for by scanning; larger traces use a hash set.
const SCANNED_SPANS: usize = 24;

/// A piece of one trace: an OTLP `TracesData` message whose spans all belong to `trace_id`.
#[derive(Debug, Clone, Copy)]
pub struct Fragment<'a> {
    pub trace_id: TraceId,
    pub trace: &'a [u8],
}

/// A built table and what had to be left out of it.
#[derive(Debug, Default)]
pub struct Built {
    pub table: SpanTable,
    /// Spans left out because they are there already.
    pub duplicate_spans: usize,
    /// Spans, scopes or resources left out because their bytes are not OTLP.
    pub undecodable: usize,
}

/// Builds one table from fragments in any order.
pub fn build_table(mut fragments: Vec<Fragment<'_>>) -> Built {
    fragments.sort_by_key(|fragment| fragment.trace_id);
    let mut builder = TableBuilder::default();
    for trace in fragments.chunk_by(|a, b| a.trace_id == b.trace_id) {
        builder.add_trace(trace);
    }
    builder.finish()
}

#[derive(Default)]
struct TableBuilder<'a> {
    strings: Interner,
    table: SpanTable,
    resources: DecodedDefinitions<'a>,
    scopes: DecodedDefinitions<'a>,
    entries: Vec<Entry<'a>>,
    resource_ranks: Ranks,
    scope_ranks: ScopeRanks,
    seen: HashSet<(SpanId, u8), FixedState>,
    numbers: TraceNumbers,
    duplicate_spans: usize,
    undecodable: usize,
}

/// A span on its way into the table. Ranks order the resources of a trace, and the scopes of a resource, by first occurrence.
#[derive(Clone, Copy)]
struct Entry<'a> {
    resource_rank: u32,
    scope_rank: u32,
    resource: u32,
    scope: u32,
    span: &'a [u8],
}

impl<'a> TableBuilder<'a> {
    fn add_trace(&mut self, fragments: &[Fragment<'a>]) {
        self.entries.clear();
        self.resource_ranks.start_trace();
        self.scope_ranks.start_trace();
        for fragment in fragments {
            self.undecodable += usize::from(self.collect_fragment(fragment.trace).is_err());
        }
        if !self.entries.is_sorted_by_key(|entry| (entry.resource_rank, entry.scope_rank)) {
            self.entries.sort_by_key(|entry| (entry.resource_rank, entry.scope_rank));
        }
        self.emit_trace(fragments[0].trace_id);
    }

    fn collect_fragment(&mut self, trace: &'a [u8]) -> Result<(), WireError> {
        let mut fields = Fields::new(trace);
        while let Some(field) = fields.next_field()? {
            if field.number == 1 {
                self.collect_resource_spans(field.bytes()?)?;
            }
        }
        Ok(())
    }

    fn collect_resource_spans(&mut self, message: &'a [u8]) -> Result<(), WireError> {
        let resource_bytes = last_message(message, 1)?;
        let resource = self.resources.define(resource_bytes, &mut self.strings, DefinitionKind::Resource)?;
        let canonical_resource = self.resources.set.canonical(resource);
        let resource_rank = self.resource_ranks.rank(canonical_resource);
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next_field()? {
            if field.number != 2 {
                continue;
            }
            let scope_spans = field.bytes()?;
            let scope = self.scopes.define(last_message(scope_spans, 1)?, &mut self.strings, DefinitionKind::Scope)?;
            let scope_rank = self.scope_ranks.rank(canonical_resource, self.scopes.set.canonical(scope));
            let mut spans = Fields::new(scope_spans);
            while let Some(span) = spans.next_field()? {
                if span.number == 2 {
                    self.entries.push(Entry { resource_rank, scope_rank, resource, scope, span: span.bytes()? });
                }
            }
        }
        Ok(())
    }

    fn emit_trace(&mut self, trace_id: TraceId) {
        let entries = std::mem::take(&mut self.entries);
        let first_span = self.table.spans.span_id.len();
        self.seen = HashSet::default();
        for resource in entries.chunk_by(|a, b| a.resource_rank == b.resource_rank) {
            let scopes_before = self.table.scopes.name.len();
            for scope in resource.chunk_by(|a, b| a.scope_rank == b.scope_rank) {
                let spans_before = self.table.spans.span_id.len();
                for entry in scope {
                    self.push_span(entry.span, first_span);
                }
                if self.table.spans.span_id.len() > spans_before {
                    self.scopes.set.get(scope[0].scope).push_scope(&mut self.table);
                }
            }
            if self.table.scopes.name.len() > scopes_before {
                self.resources.set.get(resource[0].resource).push_resource(&mut self.table);
            }
        }
        self.entries = entries;
        if self.table.spans.span_id.len() > first_span {
            self.table.traces.ids.push(trace_id);
            self.table.traces.resources.push_end(self.table.resources.service_name.len());
            self.numbers.close_last_trace(&mut self.table, self.strings.pool());
        }
    }

    /// Appends one span unless it is broken or already among the trace's spans from `first_span` on.
    fn push_span(&mut self, message: &[u8], first_span: usize) {
        let mark = Mark::of(&self.table);
        let span = match self.parse_span(message) {
            Ok(span) => span,
            Err(_broken) => {
                self.undecodable += 1;
                return mark.roll_back(&mut self.table);
            }
        };
        if self.is_duplicate(&span, first_span) {
            self.duplicate_spans += 1;
            return mark.roll_back(&mut self.table);
        }
        span.push_to(&mut self.table);
    }

    fn is_duplicate(&mut self, span: &SpanHead, first_span: usize) -> bool {
        let spans = &self.table.spans;
        let known = first_span..spans.span_id.len();
        if known.len() < SCANNED_SPANS {
            return known.into_iter().any(|i| spans.span_id[i] == span.span_id && dedupe_kind(spans.kind[i]) == dedupe_kind(span.kind));
        }
        if self.seen.is_empty() {
            self.seen.extend(known.map(|i| (spans.span_id[i], dedupe_kind(spans.kind[i]))));
        }
        !self.seen.insert((span.span_id, dedupe_kind(span.kind)))
    }

    /// Reads a span: attributes, events and links go to the table at once, the rest is returned.
    fn parse_span(&mut self, message: &[u8]) -> Result<SpanHead, WireError> {
        let mut span = SpanHead::default();
        let mut end_unix_nanos = 0;
        let first_event = self.table.events.name.len();
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next_field()? {
            match field.number {
                2 => span.span_id = SpanId::from_bytes(field.bytes()?),
                3 => span.trace_state = self.strings.intern(field.bytes()?),
                4 => span.parent_span_id = SpanId::from_bytes(field.bytes()?),
                5 => span.name = self.strings.intern(field.bytes()?),
                6 => span.kind = field.varint()? as i32,
                7 => span.start_unix_nanos = field.fixed64()?,
                8 => end_unix_nanos = field.fixed64()?,
                9 => push_attr(field.bytes()?, &mut self.strings, &mut self.table.spans.attrs)?,
                10 => span.dropped_attributes = field.varint()? as u32,
                11 => self.parse_event(field.bytes()?)?,
                12 => span.dropped_events = field.varint()? as u32,
                13 => push_link(field.bytes()?, &mut self.strings, &mut self.table.links)?,
                14 => span.dropped_links = field.varint()? as u32,
                15 => (span.status_code, span.status_message) = self.parse_status(field.bytes()?)?,
                _ => {}
            }
        }
        span.duration_nanos = end_unix_nanos.wrapping_sub(span.start_unix_nanos);
        for time in &mut self.table.events.time_since_start_nanos[first_event..] {
            *time = time.wrapping_sub(span.start_unix_nanos);
        }
        Ok(span)
    }

    /// Appends an event whose time is still absolute: the span's start may come later on the wire.
    fn parse_event(&mut self, message: &[u8]) -> Result<(), WireError> {
        let (mut time, mut name, mut dropped) = (0, StrId::EMPTY, 0);
        let events = &mut self.table.events;
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next_field()? {
            match field.number {
                1 => time = field.fixed64()?,
                2 => name = self.strings.intern(field.bytes()?),
                3 => push_attr(field.bytes()?, &mut self.strings, &mut events.attrs)?,
                4 => dropped = field.varint()? as u32,
                _ => {}
            }
        }
        events.attrs.close_owner();
        events.time_since_start_nanos.push(time);
        events.name.push(name);
        events.dropped_attributes.push(dropped);
        Ok(())
    }

    fn parse_status(&mut self, message: &[u8]) -> Result<(i32, StrId), WireError> {
        let mut status = (0, StrId::EMPTY);
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next_field()? {
            match field.number {
                2 => status.1 = self.strings.intern(field.bytes()?),
                3 => status.0 = field.varint()? as i32,
                _ => {}
            }
        }
        Ok(status)
    }

    fn finish(mut self) -> Built {
        self.table.strings = self.strings.into_pool();
        Built { table: self.table, duplicate_spans: self.duplicate_spans, undecodable: self.undecodable }
    }
}

/// The fixed-size part of a span.
#[derive(Default)]
struct SpanHead {
    span_id: SpanId,
    parent_span_id: SpanId,
    name: StrId,
    kind: i32,
    trace_state: StrId,
    start_unix_nanos: u64,
    duration_nanos: u64,
    status_code: i32,
    status_message: StrId,
    dropped_attributes: u32,
    dropped_events: u32,
    dropped_links: u32,
}

impl SpanHead {
    /// Completes the span whose attributes, events and links are the last ones in `table`.
    fn push_to(&self, table: &mut SpanTable) {
        let spans = &mut table.spans;
        spans.span_id.push(self.span_id);
        spans.parent_span_id.push(self.parent_span_id);
        spans.name.push(self.name);
        spans.kind.push(self.kind);
        spans.trace_state.push(self.trace_state);
        spans.start_unix_nanos.push(self.start_unix_nanos);
        spans.duration_nanos.push(self.duration_nanos);
        spans.status_code.push(self.status_code);
        spans.status_message.push(self.status_message);
        spans.dropped_attributes.push(self.dropped_attributes);
        spans.dropped_events.push(self.dropped_events);
        spans.dropped_links.push(self.dropped_links);
        spans.events.push_end(table.events.name.len());
        spans.links.push_end(table.links.span_id.len());
        spans.attrs.close_owner();
    }
}

/// Lengths to return to when a span turns out to be unwanted.
struct Mark {
    span_attrs: AttrMark,
    events: usize,
    event_attrs: AttrMark,
    links: usize,
    link_attrs: AttrMark,
}

struct AttrMark {
    owners: usize,
    pairs: usize,
    elements: usize,
}

impl AttrMark {
    fn of(attrs: &Attrs) -> Self {
        Self { owners: attrs.of.len(), pairs: attrs.keys.len(), elements: attrs.elements.len() }
    }

    fn roll_back(&self, attrs: &mut Attrs) {
        attrs.of.truncate(self.owners);
        attrs.keys.truncate(self.pairs);
        attrs.values.truncate(self.pairs);
        attrs.elements.truncate(self.elements);
    }
}

impl Mark {
    fn of(table: &SpanTable) -> Self {
        Self {
            span_attrs: AttrMark::of(&table.spans.attrs),
            events: table.events.name.len(),
            event_attrs: AttrMark::of(&table.events.attrs),
            links: table.links.span_id.len(),
            link_attrs: AttrMark::of(&table.links.attrs),
        }
    }

    fn roll_back(&self, table: &mut SpanTable) {
        self.span_attrs.roll_back(&mut table.spans.attrs);
        table.events.time_since_start_nanos.truncate(self.events);
        table.events.name.truncate(self.events);
        table.events.dropped_attributes.truncate(self.events);
        self.event_attrs.roll_back(&mut table.events.attrs);
        table.links.trace_id.truncate(self.links);
        table.links.span_id.truncate(self.links);
        table.links.trace_state.truncate(self.links);
        table.links.dropped_attributes.truncate(self.links);
        self.link_attrs.roll_back(&mut table.links.attrs);
    }
}

/// Resources or scopes met so far. They repeat from trace to trace, so equal bytes are decoded once.
#[derive(Default)]
struct DecodedDefinitions<'a> {
    by_bytes: HashMap<&'a [u8], u32, FixedState>,
    set: Definitions,
}

#[derive(Clone, Copy, PartialEq)]
enum DefinitionKind {
    Resource,
    Scope,
}

impl<'a> DecodedDefinitions<'a> {
    fn define(&mut self, message: &'a [u8], strings: &mut Interner, kind: DefinitionKind) -> Result<u32, WireError> {
        if let Some(&known) = self.by_bytes.get(message) {
            return Ok(known);
        }
        let index = self.set.add(Definition::parse(message, strings, kind)?);
        self.by_bytes.insert(message, index);
        Ok(index)
    }
}

impl Definition {
    fn parse(message: &[u8], strings: &mut Interner, kind: DefinitionKind) -> Result<Self, WireError> {
        let mut definition = Self::default();
        let mut pairs = Vec::new();
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next_field()? {
            match (kind, field.number, field.value) {
                (DefinitionKind::Resource, 1, FieldValue::Bytes(pair)) | (DefinitionKind::Scope, 3, FieldValue::Bytes(pair)) => {
                    let pair = KeyValue::parse(pair)?;
                    let (key, value) = pair.store(strings, &mut definition.attrs)?;
                    match value {
                        Value::Str(service) if kind == DefinitionKind::Resource && pair.key == SERVICE_NAME => definition.name = service,
                        _ => pairs.push((pair.key, key, value)),
                    }
                }
                (DefinitionKind::Scope, 1, FieldValue::Bytes(name)) => definition.name = strings.intern(name),
                (DefinitionKind::Scope, 2, FieldValue::Bytes(version)) => definition.version = strings.intern(version),
                (DefinitionKind::Resource, 2, FieldValue::Varint(count)) | (DefinitionKind::Scope, 4, FieldValue::Varint(count)) => {
                    definition.dropped = count as u32;
                }
                (DefinitionKind::Resource, 1..=2, _) | (DefinitionKind::Scope, 1..=4, _) => {
                    return Err(WireError::WrongType { field: field.number });
                }
                _ => {}
            }
        }
        pairs.sort_by_key(|(key, ..)| *key);
        pairs.into_iter().for_each(|(_, key, value)| definition.attrs.push(key, value));
        Ok(definition)
    }
}

/// Returns the last occurrence of message field `number`, empty when there is none.
fn last_message(message: &[u8], number: u32) -> Result<&[u8], WireError> {
    let mut found: &[u8] = &[];
    let mut fields = Fields::new(message);
    while let Some(field) = fields.next_field()? {
        if field.number == number {
            found = field.bytes()?;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::combine::{combine_trace, merge_tables};
    use super::super::wire::{put_bytes, put_tag, put_varint};
    use super::*;

    fn fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
        put_tag(out, field, 1);
        out.extend_from_slice(&value.to_le_bytes());
    }

    fn string_attr(key: &str, value: &str) -> Vec<u8> {
        let (mut any, mut pair) = (Vec::new(), Vec::new());
        put_bytes(&mut any, 1, value.as_bytes());
        put_bytes(&mut pair, 1, key.as_bytes());
        put_bytes(&mut pair, 2, &any);
        pair
    }

    #[derive(Debug, Clone)]
    struct TestSpan {
        service: u8,
        scope: u8,
        id: u8,
        parent: u8,
        kind: i32,
        start: u64,
        attr: Option<String>,
    }

    fn encode(span: &TestSpan) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 2, &[0, 0, 0, 0, 0, 0, 0, span.id]);
        if span.parent != 0 {
            put_bytes(&mut out, 4, &[0, 0, 0, 0, 0, 0, 0, span.parent]);
        }
        put_bytes(&mut out, 5, format!("op-{}", span.id).as_bytes());
        put_tag(&mut out, 6, 0);
        put_varint(&mut out, span.kind as u64);
        let mut event = Vec::new();
        fixed64(&mut event, 1, span.start + 5);
        put_bytes(&mut event, 2, b"event");
        put_bytes(&mut out, 11, &event);
        fixed64(&mut out, 7, span.start);
        fixed64(&mut out, 8, span.start + 10);
        if let Some(attr) = &span.attr {
            put_bytes(&mut out, 9, &string_attr("key", attr));
        }
        out
    }

    /// One OTLP message with a `ResourceSpans` per span.
    fn trace_of(spans: &[TestSpan]) -> Vec<u8> {
        let mut trace = Vec::new();
        for span in spans {
            let (mut resource, mut scope, mut scope_spans, mut resource_spans) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            put_bytes(&mut resource, 1, &string_attr("zone", "z"));
            put_bytes(&mut resource, 1, &string_attr("service.name", &format!("service-{}", span.service)));
            put_bytes(&mut scope, 1, format!("scope-{}", span.scope).as_bytes());
            put_bytes(&mut scope_spans, 1, &scope);
            put_bytes(&mut scope_spans, 2, &encode(span));
            put_bytes(&mut resource_spans, 1, &resource);
            put_bytes(&mut resource_spans, 2, &scope_spans);
            put_bytes(&mut trace, 1, &resource_spans);
        }
        trace
    }

    fn table_of(traces: &[(u8, &[TestSpan])]) -> SpanTable {
        let encoded: Vec<_> = traces.iter().map(|(id, spans)| (TraceId([*id; 16]), trace_of(spans))).collect();
        let built = build_table(encoded.iter().map(|(trace_id, trace)| Fragment { trace_id: *trace_id, trace }).collect());
        assert_eq!(built.undecodable, 0);
        built.table
    }

    fn scalar_text(table: &SpanTable, value: Value) -> String {
        match value {
            Value::Str(id) | Value::Json(id) => table.strings.text(id).into_owned(),
            other => format!("{other:?}"),
        }
    }

    /// Everything a trace says, without ids of strings and without order of spans.
    fn describe(table: &SpanTable, row: usize) -> Vec<String> {
        let text = |id| table.strings.text(id).into_owned();
        let traces = &table.traces;
        let mut lines = vec![format!(
            "{} {} {} {} {}",
            traces.ids[row],
            traces.start_unix_nanos[row],
            traces.duration_nanos[row],
            text(traces.root_service_name[row]),
            text(traces.root_span_name[row])
        )];
        for stat in traces.service_stats_of.range(row) {
            lines.push(format!("{} {}", text(traces.service_stats.service_name[stat]), traces.service_stats.span_count[stat]));
        }
        for resource in traces.resources.range(row) {
            for scope in table.resources.scopes.range(resource) {
                for span in table.scopes.spans.range(scope) {
                    let attrs: Vec<_> =
                        table.spans.attrs.of_owner(span).map(|(key, value)| (text(key), scalar_text(table, value))).collect();
                    let events: Vec<_> = table.spans.events.range(span).map(|event| table.events.time_since_start_nanos[event]).collect();
                    lines.push(format!(
                        "{} {} {} {} {} {attrs:?} {events:?} {}",
                        text(table.resources.service_name[resource]),
                        text(table.scopes.name[scope]),
                        table.spans.span_id[span],
                        text(table.spans.name[span]),
                        table.spans.kind[span],
                        table.spans.child_count[span],
                    ));
                }
            }
        }
        lines.sort();
        lines
    }

    fn span(id: u8, parent: u8) -> TestSpan {
        TestSpan { service: 1, scope: 1, id, parent, kind: 1, start: u64::from(id), attr: None }
    }

    #[test]
    fn nested_sets_follow_the_format() {
        // Root 1, children 2 (with child 4) and 3, orphan 5.
        let spans = [span(1, 0), span(2, 1), span(3, 1), span(4, 2), span(5, 99)];
        let table = table_of(&[(1, &spans)]);
        let numbers: Vec<_> = (0..5)
            .map(|i| (table.spans.nested_left[i], table.spans.nested_right[i], table.spans.nested_parent[i], table.spans.child_count[i]))
            .collect();
        assert_eq!(numbers, [(1, 8, -1, 2), (2, 5, 1, 1), (6, 7, 1, 0), (3, 4, 2, 0), (0, 0, 0, 0)]);
        assert_eq!(table.strings.text(table.traces.root_span_name[0]), "op-1");
    }

    #[test]
    fn a_server_sharing_its_clients_id_becomes_its_child() {
        let client = TestSpan { kind: 3, ..span(2, 1) };
        let server = TestSpan { kind: 2, service: 2, ..span(2, 2) };
        let inner = span(4, 2);
        let table = table_of(&[(1, &[span(1, 0), client, server, inner])]);
        let left = |id: u8, kind: i32| {
            let at = (0..4).find(|&i| table.spans.span_id[i].0[7] == id && table.spans.kind[i] == kind).unwrap();
            (table.spans.nested_left[at], table.spans.nested_parent[at])
        };
        assert_eq!((left(1, 1), left(2, 3), left(2, 2), left(4, 1)), ((1, -1), (2, 1), (3, 2), (4, 3)));
    }

    #[test]
    fn ids_used_three_times_and_rootless_traces_are_not_numbered() {
        let triple = [span(1, 0), TestSpan { kind: 2, ..span(1, 0) }, TestSpan { kind: 3, ..span(1, 0) }];
        assert!(table_of(&[(1, &triple)]).spans.nested_left.iter().all(|&left| left == 0));
        assert_eq!(table_of(&[(1, &[span(1, 2), span(2, 1)])]).spans.nested_left, [0, 0]);
        assert_eq!(table_of(&[(1, &[span(1, 0), span(2, 2)])]).spans.nested_left, [1, 0]);
    }

    #[test]
    fn scopes_keep_their_order_under_each_resource() {
        let of = |service, scope, id| TestSpan { service, scope, start: u64::from(id), ..span(id, 0) };
        let spans = [of(1, 1, 1), of(2, 2, 2), of(2, 1, 3), of(1, 2, 4), of(2, 2, 5)];
        let order = |table: &SpanTable| table.spans.span_id.iter().map(|id| id.0[7]).collect::<Vec<_>>();
        let whole = table_of(&[(1, &spans)]);
        assert_eq!((order(&whole), whole.scopes.name.len()), (vec![1, 4, 2, 5, 3], 4));
        let pieces = [table_of(&[(1, &spans[..2])]), table_of(&[(1, &spans[2..])])];
        assert_eq!(order(&merge_tables(&[&pieces[0], &pieces[1]])), [1, 4, 2, 5, 3]);
    }

    #[test]
    fn broken_spans_leave_no_trace_in_the_table() {
        let mut broken = encode(&TestSpan { attr: Some("x".to_owned()), ..span(2, 1) });
        broken.extend_from_slice(&[0x4a, 0x05, 0x0a]);
        let (mut scope_spans, mut resource_spans, mut trace) = (Vec::new(), Vec::new(), Vec::new());
        put_bytes(&mut scope_spans, 2, &broken);
        put_bytes(&mut scope_spans, 2, &encode(&span(3, 1)));
        put_bytes(&mut resource_spans, 2, &scope_spans);
        put_bytes(&mut trace, 1, &resource_spans);
        let built = build_table(vec![Fragment { trace_id: TraceId([1; 16]), trace: &trace }]);
        assert_eq!((built.undecodable, built.table.span_count()), (1, 1));
        assert_eq!((built.table.spans.attrs.keys.len(), built.table.events.name.len()), (0, 1));
    }

    fn arb_span() -> impl Strategy<Value = TestSpan> {
        (0..3u8, 0..2u8, 1..40u8, 0..40u8, 0..4i32, 0..1000u64, proptest::option::of("[ab]{0,3}"))
            .prop_map(|(service, scope, id, parent, kind, start, attr)| TestSpan { service, scope, id, parent, kind, start, attr })
    }

    /// Spans whose content is decided by id and kind, so that it does not matter which of equal ones stays.
    fn arb_spans() -> impl Strategy<Value = Vec<TestSpan>> {
        proptest::collection::vec(arb_span(), 1..60).prop_map(|spans| {
            let mut by_key = std::collections::BTreeMap::new();
            spans.into_iter().map(|span| by_key.entry((span.id, dedupe_kind(span.kind))).or_insert(span).clone()).collect()
        })
    }

    proptest! {
        #[test]
        fn any_bytes_build_a_table(trace: Vec<u8>) {
            build_table(vec![Fragment { trace_id: TraceId([1; 16]), trace: &trace }]);
        }

        #[test]
        fn each_span_is_there_once(spans in arb_spans()) {
            let table = table_of(&[(1, &spans)]);
            let wanted: std::collections::BTreeSet<_> = spans.iter().map(|span| (span.id, span.kind)).collect();
            let found: Vec<_> = (0..table.span_count()).map(|i| (table.spans.span_id[i].0[7], table.spans.kind[i])).collect();
            prop_assert_eq!(found.len(), wanted.len());
            prop_assert_eq!(found.into_iter().collect::<std::collections::BTreeSet<_>>(), wanted);
        }

        #[test]
        fn joining_pieces_equals_building_the_whole(spans in arb_spans(), cut in 0..60usize) {
            let (a, b) = spans.split_at(cut.min(spans.len()));
            prop_assume!(!a.is_empty() && !b.is_empty());
            let (left, right) = (table_of(&[(1, a), (3, a)]), table_of(&[(1, b), (2, b)]));
            let mut ordered = spans.clone();
            ordered.sort_by_key(|span| (span.start, span.id, span.kind));
            let whole = table_of(&[(1, &ordered), (2, b), (3, a)]);
            let merged = merge_tables(&[&left, &right]);
            let mirrored = combine_trace(&[(&right, 0), (&left, 0)]);
            for row in 0..3 {
                prop_assert_eq!(describe(&merged, row), describe(&whole, row));
            }
            prop_assert_eq!(describe(&mirrored, 0), describe(&whole, 0));
        }
    }
}
