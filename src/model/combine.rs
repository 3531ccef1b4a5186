//! Joins tables: pieces of a trace that sit in several tables become one row (block-format §9).
//!
//! Invariants
//! * A trace that comes in one piece is copied as it is: derived columns are neither recomputed nor compared.
//! * Pieces are joined span by span: one span per id and kind stays, the first piece's; spans are ordered by start and id, equal resources and
//!   scopes are merged, derived columns are computed anew.
//! * The result is the same whatever the order of the pieces, as long as spans with equal id and kind are equal.

use std::borrow::Borrow;

use foldhash::fast::FixedState;
use hashbrown::HashSet;

use super::definition::{Definition, Definitions, Ranks, ScopeRanks, dedupe_kind};
use super::ids::{SpanId, TraceId};
use super::same_rows::same_rows;
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

/// The spans of a trace that are known already, by id and kind as [`dedupe_kind`] gives it.
pub type SeenSpans = HashSet<(SpanId, u8), FixedState>;

/// Builds a table out of rows of other tables, which hold all columns.
pub struct Combiner<T> {
    sources: Vec<Source<T>>,
    strings: Interner,
    table: SpanTable,
    numbers: TraceNumbers,
    resource_ranks: Ranks,
    scope_ranks: ScopeRanks,
    stats: CombineStats,
}

/// What a [`Combiner`] met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CombineStats {
    /// Traces made of several pieces.
    pub joined_traces: u64,
    /// Spans left out because one with the same id and kind was kept.
    pub deduped_spans: u64,
}

/// A table to copy from, and what its string ids are called in the result.
struct Source<T> {
    table: T,
    renamed: Vec<u32>,
    derived: DerivedColumns,
}

/// Where the derived columns of a copied trace come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DerivedColumns {
    /// From the source, unchanged.
    Copied,
    /// From its spans, because the source's format lacks some of them.
    Computed,
}

/// Marks a string of a source that the result does not have yet.
const NOT_RENAMED: u32 = u32::MAX;

impl<T: Borrow<SpanTable>> Source<T> {
    fn new(table: T, derived: DerivedColumns) -> Self {
        let renamed = vec![NOT_RENAMED; table.borrow().strings.len()];
        Self { table, renamed, derived }
    }
}

impl<T: Borrow<SpanTable> + Clone> Combiner<T> {
    pub fn new(sources: &[T]) -> Self {
        let mut combiner = Self::default();
        sources.iter().for_each(|table| combiner.put_source(combiner.sources.len(), table.clone(), DerivedColumns::Copied));
        combiner
    }
}

impl<T> Default for Combiner<T> {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            strings: Interner::default(),
            table: SpanTable::default(),
            numbers: TraceNumbers::default(),
            resource_ranks: Ranks::default(),
            scope_ranks: ScopeRanks::default(),
            stats: CombineStats::default(),
        }
    }
}

impl<T: Borrow<SpanTable>> Combiner<T> {
    /// Replaces source `at`, or adds it behind the last one. The table under construction stays.
    pub fn put_source(&mut self, at: usize, table: T, derived: DerivedColumns) {
        let source = Source::new(table, derived);
        match self.sources.get_mut(at) {
            Some(place) => *place = source,
            None => self.sources.push(source),
        }
    }

    /// Returns source `at`.
    pub fn source(&self, at: usize) -> &SpanTable {
        self.sources[at].table.borrow()
    }

    /// Appends one trace: a run of [`trace_order`] with one trace id.
    pub fn push_trace(&mut self, pieces: &[(TraceId, Piece)]) {
        match pieces {
            [(_, piece)] => self.copy_trace(*piece),
            [(_, first), others @ ..] if others.iter().all(|(_, other)| self.is_same_trace(*first, *other)) => {
                self.stats.joined_traces += 1;
                self.stats.deduped_spans +=
                    others.iter().map(|(_, Piece { source, row })| self.source(*source).spans_of_trace(*row).len() as u64).sum::<u64>();
                self.copy_trace(*first);
            }
            _ => {
                self.stats.joined_traces += 1;
                self.join_trace(pieces, &mut SeenSpans::default());
            }
        }
    }

    /// Appends what of one trace is not among `seen`, and adds it there. Returns whether there was anything.
    pub fn push_unseen(&mut self, pieces: &[(TraceId, Piece)], seen: &mut SeenSpans) -> bool {
        self.join_trace(pieces, seen)
    }

    pub fn stats(&self) -> CombineStats {
        self.stats
    }

    /// Traces in the table under construction.
    pub fn trace_count(&self) -> usize {
        self.table.trace_count()
    }

    /// Spans in the table under construction.
    pub fn span_count(&self) -> usize {
        self.table.span_count()
    }

    /// Returns the table under construction and begins another from the same sources.
    pub fn take_table(&mut self) -> SpanTable {
        for source in &mut self.sources {
            source.renamed.fill(NOT_RENAMED);
        }
        let strings = self.strings.take_pool();
        SpanTable { strings, ..std::mem::take(&mut self.table) }
    }

    /// Builds the next table in the memory of one that is not needed any more. Call it before the first trace of a table.
    pub fn reuse(&mut self, mut table: SpanTable) {
        debug_assert_eq!(self.trace_count(), 0, "the table under construction has traces");
        table.clear();
        self.strings.put_pool(std::mem::take(&mut table.strings));
        self.table = table;
    }

    /// Bytes held for the table under construction.
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.strings.memory_bytes()
    }

    /// Bytes of the table under construction, without the room it has left.
    pub fn used_bytes(&self) -> usize {
        self.table.used_bytes() + self.strings.pool().used_bytes()
    }

    pub fn finish(mut self) -> SpanTable {
        self.table.strings = self.strings.into_pool();
        self.table
    }

    /// Whether two rows hold the same in the same order.
    fn is_same_trace(&self, a: Piece, b: Piece) -> bool {
        same_rows((self.source(a.source), a.row), (self.source(b.source), b.row))
    }

    fn copy_trace(&mut self, Piece { source, row }: Piece) {
        let Source { table: from, renamed, derived } = &mut self.sources[source];
        let from: &SpanTable = (*from).borrow();
        let mut rename = Renamer { from: &from.strings, renamed, strings: &mut self.strings };
        let to = &mut self.table;
        // The items of a trace are neighbours on every level.
        let (resources, scopes, spans) = (from.traces.resources.range(row), from.scopes_of_trace(row), from.spans_of_trace(row));
        to.scopes.spans.append(&from.scopes.spans, scopes.clone(), to.spans.span_id.len());
        copy_spans(from, spans, to, &mut rename);
        to.resources.scopes.append(&from.resources.scopes, resources.clone(), to.scopes.name.len());
        to.scopes.name.extend(from.scopes.name[scopes.clone()].iter().map(|&id| rename.string(id)));
        to.scopes.version.extend(from.scopes.version[scopes.clone()].iter().map(|&id| rename.string(id)));
        to.scopes.dropped_attributes.extend_from_slice(&from.scopes.dropped_attributes[scopes.clone()]);
        rename.attrs(&from.scopes.attrs, scopes, &mut to.scopes.attrs);
        to.resources.service_name.extend(from.resources.service_name[resources.clone()].iter().map(|&id| rename.string(id)));
        to.resources.dropped_attributes.extend_from_slice(&from.resources.dropped_attributes[resources.clone()]);
        rename.attrs(&from.resources.attrs, resources, &mut to.resources.attrs);
        to.traces.ids.push(from.traces.ids[row]);
        to.traces.resources.push_end(to.resources.service_name.len());
        if *derived == DerivedColumns::Computed {
            self.numbers.close_last_trace(to, self.strings.pool());
            return;
        }
        let spans = from.spans_of_trace(row);
        to.spans.nested_left.extend_from_slice(&from.spans.nested_left[spans.clone()]);
        to.spans.nested_right.extend_from_slice(&from.spans.nested_right[spans.clone()]);
        to.spans.nested_parent.extend_from_slice(&from.spans.nested_parent[spans.clone()]);
        to.spans.child_count.extend_from_slice(&from.spans.child_count[spans]);

        let traces = &mut to.traces;
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

    /// Returns whether there was any span that is not among `seen`.
    fn join_trace(&mut self, pieces: &[(TraceId, Piece)], seen: &mut SeenSpans) -> bool {
        let (mut resources, mut scopes) = (Definitions::default(), Definitions::default());
        let had_seen = !seen.is_empty();
        let mut entries = self.collect_spans(pieces, seen, &mut resources, &mut scopes);
        if entries.is_empty() && had_seen {
            return false;
        }
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
                    let Source { table: from, renamed, .. } = &mut self.sources[entry.source];
                    let from: &SpanTable = (*from).borrow();
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
        true
    }

    /// Lists the distinct spans of all pieces that are not among `seen`, the first of equals, and adds them there.
    fn collect_spans(
        &mut self,
        pieces: &[(TraceId, Piece)],
        seen: &mut SeenSpans,
        resources: &mut Definitions,
        scopes: &mut Definitions,
    ) -> Vec<JoinEntry> {
        let mut entries = Vec::new();
        for &(_, Piece { source, row }) in pieces {
            let Source { table: from, renamed, .. } = &mut self.sources[source];
            let from: &SpanTable = (*from).borrow();
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
                        } else {
                            self.stats.deduped_spans += 1;
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

    /// Renames a value that is no array, or an empty one.
    #[inline]
    fn scalar(&mut self, value: Value) -> Value {
        match value {
            Value::Str(id) => Value::Str(self.string(id)),
            Value::Json(id) => Value::Json(self.string(id)),
            Value::Int(_) | Value::Double(_) | Value::Bool(_) => value,
            Value::Array { .. } => Value::Array { start: 0, len: 0 },
        }
    }

    #[inline]
    fn value(&mut self, value: Value, from: &Attrs, to: &mut Attrs) -> Value {
        match value {
            Value::Str(_) | Value::Json(_) | Value::Int(_) | Value::Double(_) | Value::Bool(_) => self.scalar(value),
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
        let attributes = from.of.range_of_all(owners.clone());
        to.of.append(&from.of, owners, to.keys.len());
        to.keys.extend(from.keys[attributes.clone()].iter().map(|key| self.string(*key)));
        if from.elements.is_empty() {
            to.values.extend(from.values[attributes].iter().map(|value| self.scalar(*value)));
            return;
        }
        for value in &from.values[attributes] {
            let value = self.value(*value, from, to);
            to.values.push(value);
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
    let events = source.events.range_of_all(range.clone());
    spans.events.append(&source.events, range.clone(), to.events.name.len());
    to.events.time_since_start_nanos.extend_from_slice(&from.events.time_since_start_nanos[events.clone()]);
    to.events.dropped_attributes.extend_from_slice(&from.events.dropped_attributes[events.clone()]);
    to.events.name.extend(from.events.name[events.clone()].iter().map(|&id| rename.string(id)));
    rename.attrs(&from.events.attrs, events, &mut to.events.attrs);
    let links = source.links.range_of_all(range.clone());
    spans.links.append(&source.links, range, to.links.span_id.len());
    to.links.trace_id.extend_from_slice(&from.links.trace_id[links.clone()]);
    to.links.span_id.extend_from_slice(&from.links.span_id[links.clone()]);
    to.links.dropped_attributes.extend_from_slice(&from.links.dropped_attributes[links.clone()]);
    to.links.trace_state.extend(from.links.trace_state[links.clone()].iter().map(|&id| rename.string(id)));
    rename.attrs(&from.links.attrs, links, &mut to.links.attrs);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::testing::arb_span_table;

    proptest! {
        #[test]
        fn a_table_in_the_memory_of_another_is_like_a_new_one(old in arb_span_table(5), new in arb_span_table(5)) {
            let sources = [&old, &new];
            let build = |combiner: &mut Combiner<&SpanTable>, source: usize| {
                for (row, id) in sources[source].traces.ids.iter().enumerate() {
                    combiner.push_trace(&[(*id, Piece { source, row })]);
                }
                combiner.take_table()
            };
            let mut combiner = Combiner::new(&sources);
            let spare = build(&mut combiner, 0);
            combiner.reuse(spare);
            let reused = build(&mut combiner, 1);
            let fresh = build(&mut Combiner::new(&sources), 1);
            prop_assert_eq!(format!("{reused:?}"), format!("{fresh:?}"));
            prop_assert!(reused.used_bytes() <= reused.memory_bytes());
        }
    }
}
