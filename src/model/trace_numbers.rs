//! What is derived from the spans of one trace: nested-set numbers, root span, time span, service statistics (block-format §4.1, 4.2, 4.6).

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::ids::SpanId;
use super::span_table::{Offsets, ServiceStats, SpanTable, Value};
use super::strings::{StrId, StringPool};

/// OTLP `SPAN_KIND_SERVER` and `SPAN_KIND_CLIENT`.
const KIND_SERVER: i32 = 2;
const KIND_CLIENT: i32 = 3;
/// OTLP `STATUS_CODE_ERROR`.
const STATUS_ERROR: i32 = 2;

/// Link attribute by which the OpenTracing bridge marks a link to the real parent.
const REF_TYPE_KEY: &[u8] = b"opentracing.ref_type";
const REF_TYPE_CHILD_OF: &[u8] = b"child_of";

/// Buffers that are reused from trace to trace.
#[derive(Debug, Default)]
pub(super) struct TraceNumbers {
    by_id: Vec<(u64, u32)>,
    parents: Vec<Option<u32>>,
    child_ends: Vec<u32>,
    children: Vec<u32>,
    open: Vec<(u32, u32)>,
}

impl TraceNumbers {
    /// Fills the trace-level columns and the nested-set columns for the last trace of `table`, whose spans, links and resources are complete
    /// and whose id is pushed; its strings are in `strings`. Appends one row to each trace-level column.
    pub(super) fn close_last_trace(&mut self, table: &mut SpanTable, strings: &StringPool) {
        let row = table.traces.ids.len() - 1;
        push_time_span(table, row);
        push_service_stats(table, row, strings);
        push_root(table, row, strings);
        self.number_nested_sets(table, row);
    }

    /// Finds the children of all spans of a trace. `false` when they are not to be numbered: no root, or an id that is used more than twice.
    fn relate(&mut self, ids: &[SpanId], parent_ids: &[SpanId], kinds: &[i32]) -> bool {
        let has_root = parent_ids.iter().any(SpanId::is_none);
        if !has_root || !self.index_by_id(ids) {
            return false;
        }
        self.find_parents(parent_ids, kinds);
        self.collect_children(ids.len());
        true
    }

    fn put_child_counts(&self, child_count: &mut [i32]) {
        for (count, ends) in child_count.iter_mut().zip(self.child_ends.windows(2)) {
            *count = (ends[1] - ends[0]) as i32;
        }
    }

    /// Appends nested-set numbers and child counts for the spans of trace `row`.
    fn number_nested_sets(&mut self, table: &mut SpanTable, row: usize) {
        let range = table.spans_of_trace(row);
        let spans = &mut table.spans;
        let end = range.end;
        spans.nested_left.resize(end, 0);
        spans.nested_right.resize(end, 0);
        spans.nested_parent.resize(end, 0);
        spans.child_count.resize(end, 0);
        let (ids, parent_ids, kinds) = (&spans.span_id[range.clone()], &spans.parent_span_id[range.clone()], &spans.kind[range.clone()]);
        if !self.relate(ids, parent_ids, kinds) {
            return;
        }

        let left = &mut spans.nested_left[range.clone()];
        let right = &mut spans.nested_right[range.clone()];
        let parent = &mut spans.nested_parent[range.clone()];
        self.put_child_counts(&mut spans.child_count[range]);

        let mut counter = 1;
        let mut take_number = || {
            counter += 1;
            counter - 1
        };
        for root in (0..left.len()).filter(|&node| parent_ids[node].is_none()) {
            left[root] = take_number();
            parent[root] = -1;
            self.open.push((root as u32, self.child_ends[root]));
            while let Some((node, next)) = self.open.last_mut() {
                let at = *node as usize;
                if *next < self.child_ends[at + 1] {
                    let child = self.children[*next as usize] as usize;
                    *next += 1;
                    left[child] = take_number();
                    parent[child] = left[at];
                    self.open.push((child as u32, self.child_ends[child]));
                } else {
                    right[at] = take_number();
                    self.open.pop();
                }
            }
        }
    }

    /// Sorts the spans by id. `false` when an id is used more than twice: such a trace is not numbered.
    fn index_by_id(&mut self, ids: &[SpanId]) -> bool {
        self.by_id.clear();
        self.by_id.extend(ids.iter().zip(0..).map(|(id, index)| (u64::from_be_bytes(id.0), index)));
        self.by_id.sort_unstable();
        !self.by_id.windows(3).any(|three| three[0].0 == three[2].0)
    }

    fn find_parents(&mut self, parent_ids: &[SpanId], kinds: &[i32]) {
        self.parents.clear();
        for (node, parent_id) in parent_ids.iter().enumerate() {
            let parent = if parent_id.is_none() { None } else { self.find_parent(*parent_id, kinds[node], kinds) };
            self.parents.push(parent);
        }
    }

    /// Returns the span with id `parent_id`. Of a client and a server sharing it, the client is the parent of servers, the server of all others.
    fn find_parent(&self, parent_id: SpanId, child_kind: i32, kinds: &[i32]) -> Option<u32> {
        let key = u64::from_be_bytes(parent_id.0);
        let first = self.by_id.partition_point(|(id, _)| *id < key);
        let mut candidates = self.by_id[first..].iter().take_while(|(id, _)| *id == key).map(|(_, index)| *index);
        match (candidates.next(), candidates.next()) {
            (Some(a), Some(b)) => {
                let wanted = if child_kind == KIND_SERVER { KIND_CLIENT } else { KIND_SERVER };
                [a, b].into_iter().find(|&index| kinds[index as usize] == wanted)
            }
            (only, _) => only,
        }
    }

    /// Groups nodes by parent, in storage order: children of node `n` are `children[child_ends[n] .. child_ends[n + 1]]`.
    fn collect_children(&mut self, nodes: usize) {
        self.child_ends.clear();
        self.child_ends.resize(nodes + 2, 0);
        for parent in self.parents.iter().flatten() {
            self.child_ends[*parent as usize + 2] += 1;
        }
        for node in 2..self.child_ends.len() {
            self.child_ends[node] += self.child_ends[node - 1];
        }
        self.children.clear();
        self.children.resize(self.child_ends[nodes + 1] as usize, 0);
        for (node, parent) in self.parents.iter().enumerate() {
            if let Some(parent) = parent {
                let slot = &mut self.child_ends[*parent as usize + 1];
                self.children[*slot as usize] = node as u32;
                *slot += 1;
            }
        }
        self.child_ends.pop();
    }
}

/// Fills the child counts of a decoded table from its span ids, parents and kinds, which are all there.
pub fn derive_child_counts(table: &mut SpanTable) {
    let mut numbers = TraceNumbers::default();
    let mut child_count = vec![0; table.span_count()];
    for row in 0..table.trace_count() {
        let (range, spans) = (table.spans_of_trace(row), &table.spans);
        if numbers.relate(&spans.span_id[range.clone()], &spans.parent_span_id[range.clone()], &spans.kind[range.clone()]) {
            numbers.put_child_counts(&mut child_count[range]);
        }
    }
    table.spans.child_count = child_count;
}

/// Fills the service statistics of a decoded table from its service names and status codes, which are all there.
pub fn derive_service_stats(table: &mut SpanTable) {
    let strings = std::mem::take(&mut table.strings);
    // Statistics are collected by id, and a decoded name may have several.
    let mut first_ids: HashMap<&[u8], StrId, FixedState> = HashMap::default();
    for name in &mut table.resources.service_name {
        *name = *first_ids.entry(strings.get(*name)).or_insert(*name);
    }
    drop(first_ids);
    table.traces.service_stats_of = Offsets::default();
    table.traces.service_stats = ServiceStats::default();
    for row in 0..table.trace_count() {
        push_service_stats(table, row, &strings);
    }
    table.strings = strings;
}

fn push_time_span(table: &mut SpanTable, row: usize) {
    let (mut start, mut end) = (0, 0);
    for span in table.spans_of_trace(row) {
        let span_start = table.spans.start_unix_nanos[span];
        if start == 0 || span_start < start {
            start = span_start;
        }
        end = end.max(table.span_end_unix_nanos(span));
    }
    table.traces.start_unix_nanos.push(start);
    table.traces.end_unix_nanos.push(end);
    table.traces.duration_nanos.push(end.wrapping_sub(start));
}

fn push_service_stats(table: &mut SpanTable, row: usize, strings: &StringPool) {
    let stats = &mut table.traces.service_stats;
    let first = stats.service_name.len();
    for resource in table.traces.resources.range(row) {
        let service = table.resources.service_name[resource];
        let scopes = table.resources.scopes.range(resource);
        let bounds = table.scopes.spans.bounds();
        let spans = bounds[scopes.start] as usize..bounds[scopes.end] as usize;
        let errors = table.spans.status_code[spans.clone()].iter().filter(|&&code| code == STATUS_ERROR).count() as u32;
        let known = stats.service_name[first..].iter().position(|&known| known == service);
        let entry = known.map_or(stats.service_name.len(), |position| first + position);
        if known.is_none() {
            stats.service_name.push(service);
            stats.span_count.push(0);
            stats.error_count.push(0);
        }
        stats.span_count[entry] += spans.len() as u32;
        stats.error_count[entry] += errors;
    }
    let mut sorted: Vec<_> =
        (first..stats.service_name.len()).map(|i| (stats.service_name[i], stats.span_count[i], stats.error_count[i])).collect();
    sorted.sort_unstable_by_key(|(service, ..)| strings.get(*service));
    for (offset, (service, spans, errors)) in sorted.into_iter().enumerate() {
        stats.service_name[first + offset] = service;
        stats.span_count[first + offset] = spans;
        stats.error_count[first + offset] = errors;
    }
    let end = stats.service_name.len();
    table.traces.service_stats_of.push_end(end);
}

/// The last span without a parent and without a `child_of` link into its own trace is the root.
fn push_root(table: &mut SpanTable, row: usize, strings: &StringPool) {
    let mut root = (StrId::EMPTY, StrId::EMPTY);
    'resources: for resource in table.traces.resources.range(row).rev() {
        for scope in table.resources.scopes.range(resource).rev() {
            for span in table.scopes.spans.range(scope).rev() {
                if table.spans.parent_span_id[span].is_none() && !has_child_of_link(table, row, span, strings) {
                    root = (table.resources.service_name[resource], table.spans.name[span]);
                    break 'resources;
                }
            }
        }
    }
    table.traces.root_service_name.push(root.0);
    table.traces.root_span_name.push(root.1);
}

fn has_child_of_link(table: &SpanTable, row: usize, span: usize, strings: &StringPool) -> bool {
    table.spans.links.range(span).filter(|&link| table.links.trace_id[link] == table.traces.ids[row]).any(|link| {
        table.links.attrs.of_owner(link).any(|(key, value)| {
            strings.get(key) == REF_TYPE_KEY && matches!(value, Value::Str(text) if strings.get(text) == REF_TYPE_CHILD_OF)
        })
    })
}
