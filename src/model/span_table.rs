//! The one in-memory form of spans: columns, dictionary-coded strings, offsets from each level to the next.
//!
//! ```text
//! traces ─▶ resources ─▶ scopes ─▶ spans ─▶ events, links       each with attributes (owner ▶ key, value)
//! ```
//!
//! Item `i` of a level owns the items `offsets.range(i)` of the next. The live head is a [`SpanTable`], a row group of a block decodes into
//! one, the block writer encodes from one and the TraceQL engine evaluates one.
//!
//! Invariants
//! * The columns of a level have equal length, except in a table that was decoded with a projection: a column that was not asked for is empty.
//!   Offsets are always complete down to the deepest level that was asked for; `traces.ids` and the span count are always there.
//! * Every [`StrId`] belongs to `strings`. In a table built from OTLP or by combining, equal strings have equal ids; in a decoded one they need not.
//! * A string attribute `service.name` of a resource is in `resources.service_name`, not among its attributes.

use std::ops::Range;

use super::ids::{SpanId, TraceId};
use super::strings::{StrId, StringPool};

/// Spans of any number of traces, in columns.
#[derive(Debug, Clone, Default)]
pub struct SpanTable {
    pub strings: StringPool,
    pub traces: Traces,
    pub resources: Resources,
    pub scopes: Scopes,
    pub spans: Spans,
    pub events: Events,
    pub links: Links,
}

/// One row a trace.
#[derive(Debug, Clone, Default)]
pub struct Traces {
    pub ids: Vec<TraceId>,
    /// trace → resources
    pub resources: Offsets,
    /// trace → `service_stats`
    pub service_stats_of: Offsets,
    /// Earliest span start (block-format §4.1: a zero start is replaced by the next span's).
    pub start_unix_nanos: Vec<u64>,
    /// Latest span end.
    pub end_unix_nanos: Vec<u64>,
    /// end − start, wrapping.
    pub duration_nanos: Vec<u64>,
    pub root_service_name: Vec<StrId>,
    pub root_span_name: Vec<StrId>,
    pub service_stats: ServiceStats,
}

/// Spans and errors per service of a trace, sorted by service name within the trace.
#[derive(Debug, Clone, Default)]
pub struct ServiceStats {
    pub service_name: Vec<StrId>,
    pub span_count: Vec<u32>,
    pub error_count: Vec<u32>,
}

#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// resource → scopes
    pub scopes: Offsets,
    /// Empty when absent: the stored format knows no difference.
    pub service_name: Vec<StrId>,
    pub dropped_attributes: Vec<u32>,
    pub attrs: Attrs,
}

/// Instrumentation scopes; one without content stands for an absent scope.
#[derive(Debug, Clone, Default)]
pub struct Scopes {
    /// scope → spans
    pub spans: Offsets,
    pub name: Vec<StrId>,
    pub version: Vec<StrId>,
    pub dropped_attributes: Vec<u32>,
    pub attrs: Attrs,
}

#[derive(Debug, Clone, Default)]
pub struct Spans {
    pub span_id: Vec<SpanId>,
    /// [`SpanId::NONE`] for a root.
    pub parent_span_id: Vec<SpanId>,
    /// Nested-set numbers and the left number of the parent: −1 root, 0 unknown (block-format §4.6).
    pub nested_left: Vec<i32>,
    pub nested_right: Vec<i32>,
    pub nested_parent: Vec<i32>,
    pub child_count: Vec<i32>,
    pub name: Vec<StrId>,
    /// OTLP enum number, 0…5 as defined today.
    pub kind: Vec<i32>,
    pub trace_state: Vec<StrId>,
    pub start_unix_nanos: Vec<u64>,
    /// end − start, wrapping.
    pub duration_nanos: Vec<u64>,
    /// 0 unset, 1 ok, 2 error.
    pub status_code: Vec<i32>,
    pub status_message: Vec<StrId>,
    pub dropped_attributes: Vec<u32>,
    pub dropped_events: Vec<u32>,
    pub dropped_links: Vec<u32>,
    /// span → events
    pub events: Offsets,
    /// span → links
    pub links: Offsets,
    pub attrs: Attrs,
}

#[derive(Debug, Clone, Default)]
pub struct Events {
    /// event time − span start, wrapping.
    pub time_since_start_nanos: Vec<u64>,
    pub name: Vec<StrId>,
    pub dropped_attributes: Vec<u32>,
    pub attrs: Attrs,
}

#[derive(Debug, Clone, Default)]
pub struct Links {
    /// The zero id stands for an absent one.
    pub trace_id: Vec<TraceId>,
    pub span_id: Vec<SpanId>,
    pub trace_state: Vec<StrId>,
    pub dropped_attributes: Vec<u32>,
    pub attrs: Attrs,
}

/// Attributes of all owners of one level, grouped by owner in owner order.
#[derive(Debug, Clone, Default)]
pub struct Attrs {
    /// owner → attributes
    pub of: Offsets,
    pub keys: Vec<StrId>,
    pub values: Vec<Value>,
    /// Elements of [`Value::Array`]; scalars of one type per array.
    pub elements: Vec<Value>,
}

/// An attribute value as the block format knows it (block-format §4.3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    Str(StrId),
    Int(i64),
    Double(f64),
    Bool(bool),
    /// Elements `start .. start + len` of [`Attrs::elements`]: strings, ints, doubles or bools, all of one type; may be empty.
    Array {
        start: u32,
        len: u32,
    },
    /// Bytes, key-value lists, mixed or nested arrays, and values without content: the protobuf JSON of the OTLP `AnyValue`.
    Json(StrId),
}

impl Attrs {
    /// Returns the (key, value) pairs of `owner`.
    pub fn of_owner(&self, owner: usize) -> impl ExactSizeIterator<Item = (StrId, Value)> + '_ {
        let range = self.of.range(owner);
        self.keys[range.clone()].iter().copied().zip(self.values[range].iter().copied())
    }

    /// Returns the elements of an array value; a scalar is its own single element.
    pub fn elements_of<'a>(&'a self, value: &'a Value) -> &'a [Value] {
        match value {
            Value::Array { start, len } => &self.elements[*start as usize..(*start + *len) as usize],
            scalar => std::slice::from_ref(scalar),
        }
    }

    /// Adds an attribute to the owner under construction; [`Attrs::close_owner`] ends it.
    pub fn push(&mut self, key: StrId, value: Value) {
        self.keys.push(key);
        self.values.push(value);
    }

    /// Stores `elements` and returns the array value naming them.
    pub fn array(&mut self, elements: impl IntoIterator<Item = Value>) -> Value {
        let start = self.elements.len();
        self.elements.extend(elements);
        Value::Array { start: start as u32, len: (self.elements.len() - start) as u32 }
    }

    /// Ends the list of the current owner, which may be empty.
    pub fn close_owner(&mut self) {
        self.of.push_end(self.keys.len());
    }

    fn bytes(&self, which: Bytes) -> usize {
        self.of.bytes(which) + which.of(&self.keys) + which.of(&self.values) + which.of(&self.elements)
    }

    fn clear(&mut self) {
        let Self { of, keys, values, elements } = self;
        of.truncate(0);
        keys.clear();
        values.clear();
        elements.clear();
    }
}

/// Maps each item of a level to a contiguous run of the next level's items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offsets(Vec<u32>);

impl Default for Offsets {
    fn default() -> Self {
        Self(vec![0])
    }
}

impl Offsets {
    /// Number of owners closed so far.
    pub fn len(&self) -> usize {
        self.0.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the run of `owner`.
    pub fn range(&self, owner: usize) -> Range<usize> {
        self.0[owner] as usize..self.0[owner + 1] as usize
    }

    /// Returns the run of neighbouring owners together.
    pub fn range_of_all(&self, owners: Range<usize>) -> Range<usize> {
        self.0[owners.start] as usize..self.0[owners.end] as usize
    }

    /// Closes the current owner: its run ends before item `end` of the next level.
    pub fn push_end(&mut self, end: usize) {
        debug_assert!(end >= self.total(), "runs do not overlap");
        self.0.push(u32::try_from(end).expect("a table holds less than 2^32 items a level"));
    }

    /// Closes as many owners as `owners` of another table has, with runs of the same lengths; the first begins at item `start`.
    pub fn append(&mut self, from: &Self, owners: Range<usize>, start: usize) {
        debug_assert!(start >= self.total(), "runs do not overlap");
        let bounds = &from.0[owners.start..=owners.end];
        let end = start + (bounds[bounds.len() - 1] - bounds[0]) as usize;
        assert!(u32::try_from(end).is_ok(), "a table holds less than 2^32 items a level");
        self.0.extend(bounds[1..].iter().map(|bound| bound - bounds[0] + start as u32));
    }

    /// Number of items that all closed owners have.
    pub fn total(&self) -> usize {
        self.0[self.0.len() - 1] as usize
    }

    /// Returns the owner of `item` by binary search.
    pub fn owner_of(&self, item: usize) -> usize {
        self.0.partition_point(|&end| end as usize <= item) - 1
    }

    /// Forgets all owners from `owners` on.
    pub fn truncate(&mut self, owners: usize) {
        self.0.truncate(owners + 1);
    }

    /// Takes ascending bounds, the first 0 and the last the number of items; one more than owners.
    pub fn from_bounds(bounds: Vec<u32>) -> Self {
        assert!(bounds.first() == Some(&0), "bounds start at the first item");
        debug_assert!(bounds.is_sorted(), "runs do not overlap");
        Self(bounds)
    }

    /// The raw bounds: owner `i` has items `bounds[i] .. bounds[i + 1]`.
    pub fn bounds(&self) -> &[u32] {
        &self.0
    }

    fn bytes(&self, which: Bytes) -> usize {
        which.of(&self.0)
    }
}

impl SpanTable {
    pub fn trace_count(&self) -> usize {
        self.traces.ids.len()
    }

    pub fn span_count(&self) -> usize {
        self.scopes.spans.total()
    }

    /// Returns the spans of trace `row`; they are contiguous.
    pub fn spans_of_trace(&self, row: usize) -> Range<usize> {
        self.scopes.spans.range_of_all(self.scopes_of_trace(row))
    }

    /// Returns the scopes of trace `row`; they are contiguous.
    pub fn scopes_of_trace(&self, row: usize) -> Range<usize> {
        self.resources.scopes.range_of_all(self.traces.resources.range(row))
    }

    /// Returns the end time of `span`, wrapping as it came in.
    pub fn span_end_unix_nanos(&self, span: usize) -> u64 {
        self.spans.start_unix_nanos[span].wrapping_add(self.spans.duration_nanos[span])
    }

    /// Heap bytes held by all columns.
    pub fn memory_bytes(&self) -> usize {
        self.strings.memory_bytes() + self.bytes(Bytes::Held)
    }

    /// Heap bytes of what is in the columns.
    pub fn used_bytes(&self) -> usize {
        self.strings.used_bytes() + self.bytes(Bytes::Used)
    }

    fn bytes(&self, which: Bytes) -> usize {
        let (t, r, s, p, e, l) = (&self.traces, &self.resources, &self.scopes, &self.spans, &self.events, &self.links);
        let traces = which.of(&t.ids)
            + t.resources.bytes(which)
            + t.service_stats_of.bytes(which)
            + which.of(&t.start_unix_nanos) * 3
            + which.of(&t.root_service_name) * 2
            + which.of(&t.service_stats.service_name) * 3;
        let resources = r.scopes.bytes(which) + which.of(&r.service_name) * 2 + r.attrs.bytes(which);
        let scopes = s.spans.bytes(which) + which.of(&s.name) * 3 + s.attrs.bytes(which);
        let spans = which.of(&p.span_id) * 4
            + which.of(&p.nested_left) * 4
            + which.of(&p.name) * 8
            + p.events.bytes(which)
            + p.links.bytes(which)
            + p.attrs.bytes(which);
        let events = which.of(&e.time_since_start_nanos) + which.of(&e.name) * 2 + e.attrs.bytes(which);
        let links = which.of(&l.trace_id) + which.of(&l.span_id) + which.of(&l.trace_state) * 2 + l.attrs.bytes(which);
        traces + resources + scopes + spans + events + links
    }

    /// Removes everything but keeps the memory.
    pub fn clear(&mut self) {
        let Self { strings, traces, resources, scopes, spans, events, links } = self;
        strings.clear();
        traces.clear();
        resources.clear();
        scopes.clear();
        spans.clear();
        events.clear();
        links.clear();
    }
}

/// Gives a part of a table a `clear` that keeps memory; every field is named, so that none can be forgotten.
macro_rules! clearable {
    ($part:ident: $($column:ident)*; $($offsets:ident)*; $($inner:ident)*; $($attrs:ident)?) => {
        impl $part {
            fn clear(&mut self) {
                let Self { $($column,)* $($offsets,)* $($inner,)* $($attrs,)? } = self;
                $($column.clear();)*
                $($offsets.truncate(0);)*
                $($inner.clear();)*
                $($attrs.clear();)?
            }
        }
    };
}

/// Calls a macro for each part of a table, with the names of its columns; its offsets; parts with items of their own; attributes of its items.
macro_rules! for_each_part {
    ($then:ident) => {
        $then!(
            Traces:
            ids start_unix_nanos end_unix_nanos duration_nanos root_service_name root_span_name;
            resources service_stats_of;
            service_stats;
        );
        $then!(ServiceStats: service_name span_count error_count;;;);
        $then!(Resources: service_name dropped_attributes; scopes; ; attrs);
        $then!(Scopes: name version dropped_attributes; spans; ; attrs);
        $then!(
            Spans:
            span_id parent_span_id nested_left nested_right nested_parent child_count name kind trace_state start_unix_nanos
            duration_nanos status_code status_message dropped_attributes dropped_events dropped_links;
            events links;
            ;
            attrs
        );
        $then!(Events: time_since_start_nanos name dropped_attributes; ; ; attrs);
        $then!(Links: trace_id span_id trace_state dropped_attributes; ; ; attrs);
    };
}
pub(super) use for_each_part;

for_each_part!(clearable);

/// Which bytes of a column are counted.
#[derive(Clone, Copy)]
enum Bytes {
    Held,
    Used,
}

impl Bytes {
    fn of<T>(self, column: &Vec<T>) -> usize {
        size_of::<T>()
            * match self {
                Self::Held => column.capacity(),
                Self::Used => column.len(),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_find_owners_across_empty_runs() {
        let mut offsets = Offsets::default();
        for end in [2, 2, 5] {
            offsets.push_end(end);
        }
        assert_eq!(offsets.range(1), 2..2);
        assert_eq!([0, 1, 2, 4].map(|item| offsets.owner_of(item)), [0, 0, 2, 2]);
        assert_eq!(offsets.total(), 5);
    }
}
