//! Joins tables: pieces of a trace that sit in several tables become one row (block-format §9).
//!
//! Invariants
//! * A trace that comes in one piece is copied as it is: derived columns are neither recomputed nor compared.
//! * Pieces are joined span by span: one span per id and kind stays, the first piece's; spans are ordered by start and id, equal resources and
//!   scopes are merged, derived columns are computed anew.
//! * The result is the same whatever the order of the pieces, as long as spans with equal id and kind are equal.

use foldhash::fast::FixedState;
use hashbrown::HashSet;

use super::definition::{Definition, Definitions, Ranks, ScopeRanks, dedupe_kind};
use super::ids::{SpanId, TraceId};
use super::span_table::{Attrs, SpanTable, Value};
use super::strings::{Interner, StrId, StringPool};
use super::trace_numbers::TraceNumbers;

/// A trace, or a part of one: row `row` of source table `source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub source: usize,
    pub row: usize,
}

/// Returns the trace whose pieces are the given rows, as a table of one row. `parts` is not empty; all parts have the same trace id.
pub fn combine_trace(parts: &[(&SpanTable, usize)]) -> SpanTable {
    let sources: Vec<_> = parts.iter().map(|(table, _)| *table).collect();
    let mut combiner = Combiner::new(&sources);
    let pieces: Vec<_> =
        parts.iter().enumerate().map(|(source, (table, row))| (table.traces.ids[*row], Piece { source, row: *row })).collect();
    combiner.push_trace(&pieces);
    combiner.finish()
}

/// Merges tables whose rows ascend by trace id into one such table.
pub fn merge_tables(sources: &[&SpanTable]) -> SpanTable {
    let mut combiner = Combiner::new(sources);
    for trace in trace_order(sources).chunk_by(|a, b| a.0 == b.0) {
        combiner.push_trace(trace);
    }
    combiner.finish()
}

/// Returns the rows of `sources` in ascending order of trace id; the pieces of a trace stand next to each other, in order of their sources.
pub fn trace_order(sources: &[&SpanTable]) -> Vec<(TraceId, Piece)> {
    let mut order: Vec<(TraceId, Piece)> = Vec::with_capacity(sources.iter().map(|table| table.trace_count()).sum());
    for (source, table) in sources.iter().enumerate() {
        order.extend(table.traces.ids.iter().enumerate().map(|(row, &id)| (id, Piece { source, row })));
    }
    order.sort_by_key(|(id, _)| *id);
    order
}

/// Builds a table out of rows of other tables, which hold all columns.
pub struct Combiner<'a> {
    sources: Vec<Source<'a>>,
    strings: Interner,
    table: SpanTable,
    numbers: TraceNumbers,
    resource_ranks: Ranks,
    scope_ranks: ScopeRanks,
}

/// A table to copy from, and what its string ids are called in the result.
struct Source<'a> {
    table: &'a SpanTable,
    renamed: Vec<u32>,
}

/// Marks a string of a source that the result does not have yet.
const NOT_RENAMED: u32 = u32::MAX;

impl<'a> Combiner<'a> {
    pub fn new(sources: &[&'a SpanTable]) -> Self {
        Self {
            sources: sources.iter().map(|table| Source { table, renamed: vec![NOT_RENAMED; table.strings.len()] }).collect(),
            strings: Interner::default(),
            table: SpanTable::default(),
            numbers: TraceNumbers::default(),
            resource_ranks: Ranks::default(),
            scope_ranks: ScopeRanks::default(),
        }
    }

    /// Appends one trace: a run of [`trace_order`] with one trace id.
    pub fn push_trace(&mut self, pieces: &[(TraceId, Piece)]) {
        match pieces {
            [(_, piece)] => self.copy_trace(*piece),
            _ => self.join_trace(pieces),
        }
    }

    /// Bytes the table under construction holds.
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.strings.memory_bytes()
    }

    pub fn finish(mut self) -> SpanTable {
        self.table.strings = self.strings.into_pool();
        self.table
    }

    fn copy_trace(&mut self, Piece { source, row }: Piece) {
        let Source { table: from, renamed } = &mut self.sources[source];
        let mut rename = Renamer { from: &from.strings, renamed, strings: &mut self.strings };
        let to = &mut self.table;
        for resource in from.traces.resources.range(row) {
            for scope in from.resources.scopes.range(resource) {
                copy_spans(from, from.scopes.spans.range(scope), to, &mut rename);
                to.scopes.spans.push_end(to.spans.span_id.len());
                to.scopes.name.push(rename.string(from.scopes.name[scope]));
                to.scopes.version.push(rename.string(from.scopes.version[scope]));
                to.scopes.dropped_attributes.push(from.scopes.dropped_attributes[scope]);
                rename.attrs(&from.scopes.attrs, scope..scope + 1, &mut to.scopes.attrs);
            }
            to.resources.scopes.push_end(to.scopes.name.len());
            to.resources.service_name.push(rename.string(from.resources.service_name[resource]));
            to.resources.dropped_attributes.push(from.resources.dropped_attributes[resource]);
            rename.attrs(&from.resources.attrs, resource..resource + 1, &mut to.resources.attrs);
        }
        let spans = from.spans_of_trace(row);
        to.spans.nested_left.extend_from_slice(&from.spans.nested_left[spans.clone()]);
        to.spans.nested_right.extend_from_slice(&from.spans.nested_right[spans.clone()]);
        to.spans.nested_parent.extend_from_slice(&from.spans.nested_parent[spans.clone()]);
        to.spans.child_count.extend_from_slice(&from.spans.child_count[spans]);

        let traces = &mut to.traces;
        traces.ids.push(from.traces.ids[row]);
        traces.resources.push_end(to.resources.service_name.len());
        traces.start_unix_nanos.push(from.traces.start_unix_nanos[row]);
        traces.end_unix_nanos.push(from.traces.end_unix_nanos[row]);
        traces.duration_nanos.push(from.traces.duration_nanos[row]);
        traces.root_service_name.push(rename.string(from.traces.root_service_name[row]));
        traces.root_span_name.push(rename.string(from.traces.root_span_name[row]));
        for entry in from.traces.service_stats_of.range(row) {
            traces.service_stats.service_name.push(rename.string(from.traces.service_stats.service_name[entry]));
            traces.service_stats.span_count.push(from.traces.service_stats.span_count[entry]);
            traces.service_stats.error_count.push(from.traces.service_stats.error_count[entry]);
        }
        traces.service_stats_of.push_end(traces.service_stats.service_name.len());
    }

    fn join_trace(&mut self, pieces: &[(TraceId, Piece)]) {
        let (mut resources, mut scopes) = (Definitions::default(), Definitions::default());
        let mut entries = self.collect_spans(pieces, &mut resources, &mut scopes);
        entries.sort_by_key(|entry| (entry.start_unix_nanos, entry.span_id, entry.kind));
        self.resource_ranks.start_trace();
        self.scope_ranks.start_trace();
        for entry in &mut entries {
            let resource = resources.canonical(entry.resource);
            entry.resource_rank = self.resource_ranks.rank(resource);
            entry.scope_rank = self.scope_ranks.rank(resource, scopes.canonical(entry.scope));
        }
        entries.sort_by_key(|entry| (entry.resource_rank, entry.scope_rank));

        for resource in entries.chunk_by(|a, b| a.resource_rank == b.resource_rank) {
            for scope in resource.chunk_by(|a, b| a.scope_rank == b.scope_rank) {
                for entry in scope {
                    let Source { table: from, renamed } = &mut self.sources[entry.source];
                    let mut rename = Renamer { from: &from.strings, renamed, strings: &mut self.strings };
                    copy_spans(from, entry.span..entry.span + 1, &mut self.table, &mut rename);
                }
                scopes.get(scope[0].scope).push_scope(&mut self.table);
            }
            resources.get(resource[0].resource).push_resource(&mut self.table);
        }
        self.table.traces.ids.push(pieces[0].0);
        self.table.traces.resources.push_end(self.table.resources.service_name.len());
        self.numbers.close_last_trace(&mut self.table, self.strings.pool());
    }

    /// Lists the distinct spans of all pieces, the first of equals.
    fn collect_spans(&mut self, pieces: &[(TraceId, Piece)], resources: &mut Definitions, scopes: &mut Definitions) -> Vec<JoinEntry> {
        let mut entries = Vec::new();
        let mut seen = HashSet::with_hasher(FixedState::default());
        for &(_, Piece { source, row }) in pieces {
            let Source { table: from, renamed } = &mut self.sources[source];
            let mut rename = Renamer { from: &from.strings, renamed, strings: &mut self.strings };
            for resource_index in from.traces.resources.range(row) {
                let resource = resources.add(Definition {
                    name: rename.string(from.resources.service_name[resource_index]),
                    dropped: from.resources.dropped_attributes[resource_index],
                    attrs: rename.sorted_attrs(&from.resources.attrs, resource_index),
                    ..Definition::default()
                });
                for scope_index in from.resources.scopes.range(resource_index) {
                    let scope = scopes.add(Definition {
                        name: rename.string(from.scopes.name[scope_index]),
                        version: rename.string(from.scopes.version[scope_index]),
                        dropped: from.scopes.dropped_attributes[scope_index],
                        attrs: rename.sorted_attrs(&from.scopes.attrs, scope_index),
                        ..Definition::default()
                    });
                    for span in from.scopes.spans.range(scope_index) {
                        let (span_id, kind) = (from.spans.span_id[span], dedupe_kind(from.spans.kind[span]));
                        if seen.insert((span_id, kind)) {
                            let start_unix_nanos = from.spans.start_unix_nanos[span];
                            let (resource_rank, scope_rank) = (0, 0);
                            entries.push(JoinEntry {
                                source,
                                span,
                                span_id,
                                kind,
                                start_unix_nanos,
                                resource,
                                scope,
                                resource_rank,
                                scope_rank,
                            });
                        }
                    }
                }
            }
        }
        entries
    }
}

/// A span on its way into a joined trace.
struct JoinEntry {
    source: usize,
    span: usize,
    span_id: SpanId,
    kind: u8,
    start_unix_nanos: u64,
    resource: u32,
    scope: u32,
    resource_rank: u32,
    scope_rank: u32,
}

/// Translates string ids of a source into those of the result.
struct Renamer<'a> {
    from: &'a StringPool,
    renamed: &'a mut [u32],
    strings: &'a mut Interner,
}

impl Renamer<'_> {
    #[inline]
    fn string(&mut self, id: StrId) -> StrId {
        let slot = &mut self.renamed[id.index()];
        if *slot == NOT_RENAMED {
            *slot = self.strings.intern(self.from.get(id)).0;
        }
        StrId(*slot)
    }

    #[inline]
    fn value(&mut self, value: Value, from: &Attrs, to: &mut Attrs) -> Value {
        match value {
            Value::Str(id) => Value::Str(self.string(id)),
            Value::Json(id) => Value::Json(self.string(id)),
            Value::Int(_) | Value::Double(_) | Value::Bool(_) => value,
            Value::Array { .. } => {
                let start = to.elements.len();
                for &element in from.elements_of(&value) {
                    let element = self.value(element, from, to);
                    to.elements.push(element);
                }
                Value::Array { start: start as u32, len: (to.elements.len() - start) as u32 }
            }
        }
    }

    /// Appends the attributes of `owners`.
    fn attrs(&mut self, from: &Attrs, owners: std::ops::Range<usize>, to: &mut Attrs) {
        for owner in owners {
            for (key, value) in from.of_owner(owner) {
                let value = self.value(value, from, to);
                to.push(self.string(key), value);
            }
            to.close_owner();
        }
    }

    fn sorted_attrs(&mut self, from: &Attrs, owner: usize) -> Attrs {
        let mut pairs: Vec<_> = from.of_owner(owner).collect();
        pairs.sort_by_key(|(key, _)| self.from.get(*key));
        let mut attrs = Attrs::default();
        for (key, value) in pairs {
            let value = self.value(value, from, &mut attrs);
            attrs.push(self.string(key), value);
        }
        attrs
    }
}

/// Appends spans with their events, links and attributes, but without nested-set columns.
fn copy_spans(from: &SpanTable, range: std::ops::Range<usize>, to: &mut SpanTable, rename: &mut Renamer<'_>) {
    let (source, spans) = (&from.spans, &mut to.spans);
    spans.span_id.extend_from_slice(&source.span_id[range.clone()]);
    spans.parent_span_id.extend_from_slice(&source.parent_span_id[range.clone()]);
    spans.kind.extend_from_slice(&source.kind[range.clone()]);
    spans.start_unix_nanos.extend_from_slice(&source.start_unix_nanos[range.clone()]);
    spans.duration_nanos.extend_from_slice(&source.duration_nanos[range.clone()]);
    spans.status_code.extend_from_slice(&source.status_code[range.clone()]);
    spans.dropped_attributes.extend_from_slice(&source.dropped_attributes[range.clone()]);
    spans.dropped_events.extend_from_slice(&source.dropped_events[range.clone()]);
    spans.dropped_links.extend_from_slice(&source.dropped_links[range.clone()]);
    spans.name.extend(source.name[range.clone()].iter().map(|&id| rename.string(id)));
    spans.trace_state.extend(source.trace_state[range.clone()].iter().map(|&id| rename.string(id)));
    spans.status_message.extend(source.status_message[range.clone()].iter().map(|&id| rename.string(id)));
    rename.attrs(&source.attrs, range.clone(), &mut spans.attrs);
    for span in range {
        let events = source.events.range(span);
        if !events.is_empty() {
            to.events.time_since_start_nanos.extend_from_slice(&from.events.time_since_start_nanos[events.clone()]);
            to.events.dropped_attributes.extend_from_slice(&from.events.dropped_attributes[events.clone()]);
            to.events.name.extend(from.events.name[events.clone()].iter().map(|&id| rename.string(id)));
            rename.attrs(&from.events.attrs, events, &mut to.events.attrs);
        }
        to.spans.events.push_end(to.events.name.len());
        let links = source.links.range(span);
        if !links.is_empty() {
            to.links.trace_id.extend_from_slice(&from.links.trace_id[links.clone()]);
            to.links.span_id.extend_from_slice(&from.links.span_id[links.clone()]);
            to.links.dropped_attributes.extend_from_slice(&from.links.dropped_attributes[links.clone()]);
            to.links.trace_state.extend(from.links.trace_state[links.clone()].iter().map(|&id| rename.string(id)));
            rename.attrs(&from.links.attrs, links, &mut to.links.attrs);
        }
        to.spans.links.push_end(to.links.span_id.len());
    }
}
