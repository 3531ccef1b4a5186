//! Decoded leaves to a [`SpanTable`]: which column goes where, and how many items each level has.
//!
//! Not here: attributes (`attrs`), pages (`decode`). Synchronous; all bytes are there.
//!
//! Invariants
//! * Every level takes its structure from one leaf; all other columns of the level must have as many values, or the row group is corrupt.
//! * Columns that the file lacks read as zeros or empty strings, unless they can be derived from others (`derive`).

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::decode::chunk::{self, Pages, Scratch};
use super::decode::levels::Levels;
use super::decode::sink::{Ids, IntWidth, Integer, Ints, Sink};
use super::decode::strings::{Dictionary, StrColumn};
use super::decode::{DecodeError, sink};
use super::derive::Derived;
use super::error::BlockReadError;
use super::file::{BlockFile, FileLeaf};
use super::projection::{AttrSelection, Projection};
use super::schema::{Column, Level, ValueType};
use super::selection::RowSelection;
use crate::model::ids::{SpanId, TraceId};
use crate::model::span_table::{Attrs, Offsets, SpanTable};
use crate::model::strings::{StrId, StringPool};

/// The bytes of some columns of a row group, and how to read them.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) file: Arc<BlockFile>,
    pub(super) group: usize,
    pub(super) rows: Option<RowSelection>,
    /// By position of the leaf in the file.
    pub(super) pages: HashMap<usize, LeafPages, FixedState>,
    /// Dictionaries decoded before, by position of the leaf.
    pub(super) dictionaries: HashMap<usize, Arc<Dictionary>, FixedState>,
    pub(super) verify: bool,
}

/// The fetched bytes of a leaf.
#[derive(Debug)]
pub(super) struct LeafPages {
    pub(super) pages: Vec<Pages>,
    /// All pages of the chunk are here, so that their entries must add up.
    pub(super) is_whole: bool,
}

/// A table under construction.
pub(super) struct Assembler<'a> {
    pub(super) fetched: &'a Fetched,
    pub(super) pool: StringPool,
    /// Dictionaries that were decoded on the way, for the cache.
    pub(super) decoded: Vec<(usize, Arc<Dictionary>)>,
    scratch: Scratch,
    pub(super) levels: Levels,
}

/// The leaf that tells the structure of a level; the first one in the file is used.
const SPAN_STRUCTURE: [Column; 3] = [Column::StatusCode, Column::SpanKind, Column::SpanId];
const EVENT_STRUCTURE: [Column; 3] = [Column::DroppedAttributes(Level::Event), Column::EventTime, Column::EventUnixTime];
const LINK_STRUCTURE: [Column; 2] = [Column::DroppedAttributes(Level::Link), Column::LinkSpanId];
const STATS_STRUCTURE: [Column; 2] = [Column::StatsErrorCount, Column::StatsSpanCount];

/// Returns the leaves that tell which traces and spans there are.
pub(super) fn skeleton_columns(file: &BlockFile) -> Vec<Column> {
    [Column::TraceId].into_iter().chain(structure_column(&SPAN_STRUCTURE, file)).collect()
}

fn structure_column(columns: &[Column], file: &BlockFile) -> Option<Column> {
    columns.iter().copied().find(|&column| file.leaf(column).is_some())
}

/// Returns the leaves outside attributes and the skeleton that `wanted` needs; some of them may not be in the file.
pub(super) fn columns_of(wanted: &Projection, file: &BlockFile) -> Vec<Column> {
    let projection = &*Derived::of(wanted, file).with_sources(wanted);
    let mut columns = Vec::new();
    let mut add = |wanted: bool, list: &[Column]| {
        if wanted {
            columns.extend_from_slice(list);
        }
    };
    let (t, r, s, p, e, l) =
        (&projection.traces, &projection.resources, &projection.scopes, &projection.spans, &projection.events, &projection.links);
    add(t.start, &[Column::TraceStart]);
    add(t.end, &[Column::TraceEnd]);
    add(t.duration, &[Column::TraceDuration]);
    add(t.root_service_name, &[Column::RootServiceName]);
    add(t.root_span_name, &[Column::RootSpanName]);
    add(t.service_stats, &[Column::StatsServiceName, Column::StatsSpanCount, Column::StatsErrorCount]);
    add(r.service_name, &[Column::ResourceServiceName]);
    add(r.dropped_attributes, &[Column::DroppedAttributes(Level::Resource)]);
    add(s.name, &[Column::ScopeName]);
    add(s.version, &[Column::ScopeVersion]);
    add(s.dropped_attributes, &[Column::DroppedAttributes(Level::Scope)]);
    add(p.span_id, &[Column::SpanId]);
    add(p.parent_span_id, &[Column::ParentSpanId]);
    add(p.nested_left, &[Column::NestedLeft]);
    add(p.nested_right, &[Column::NestedRight]);
    add(p.nested_parent, &[Column::NestedParent]);
    add(p.child_count, &[Column::ChildCount]);
    add(p.name, &[Column::SpanName]);
    add(p.kind, &[Column::SpanKind]);
    add(p.trace_state, &[Column::SpanTraceState]);
    add(p.start, &[Column::SpanStart]);
    add(p.duration, &[Column::SpanDuration]);
    add(p.status_code, &[Column::StatusCode]);
    add(p.status_message, &[Column::StatusMessage]);
    add(p.dropped_attributes, &[Column::DroppedAttributes(Level::Span)]);
    add(p.dropped_events, &[Column::DroppedEvents]);
    add(p.dropped_links, &[Column::DroppedLinks]);
    add(e.time_since_start, &[Column::EventTime, Column::EventUnixTime]);
    add(e.name, &[Column::EventName]);
    add(e.dropped_attributes, &[Column::DroppedAttributes(Level::Event)]);
    add(l.trace_id, &[Column::LinkTraceId]);
    add(l.span_id, &[Column::LinkSpanId]);
    add(l.trace_state, &[Column::LinkTraceState]);
    add(l.dropped_attributes, &[Column::DroppedAttributes(Level::Link)]);
    if e.any() {
        columns.extend(structure_column(&EVENT_STRUCTURE, file));
    }
    if l.any() {
        columns.extend(structure_column(&LINK_STRUCTURE, file));
        columns.push(Column::SpanLinks);
    }
    columns
}

impl<'a> Assembler<'a> {
    pub(super) fn new(fetched: &'a Fetched) -> Self {
        Self { fetched, pool: StringPool::default(), decoded: Vec::new(), scratch: Scratch::default(), levels: Levels::default() }
    }

    /// Decodes what `wanted` asks for.
    pub(super) fn assemble(&mut self, wanted: &Projection) -> Result<SpanTable, BlockReadError> {
        let derived = Derived::of(wanted, &self.fetched.file);
        let projection = &*derived.with_sources(wanted);
        let mut table = SpanTable::default();
        table.traces.ids = self.trace_ids()?;
        self.assemble_structure(&mut table)?;
        self.assemble_columns(projection, &mut table)?;
        derived.complete(&mut table, wanted);
        Ok(table)
    }

    /// Decodes columns of spans ([`Projection::is_of_spans`]) of any traces: all stand in one, whose id is zero.
    pub(super) fn assemble_spans_alone(&mut self, wanted: &Projection) -> Result<SpanTable, BlockReadError> {
        let mut starts = Ints::new(self.int_width(Column::SpanStart));
        if !self.decode_values(Column::SpanStart, &mut starts)? {
            return Err(BlockReadError::Layout("no column with the starts of spans"));
        }
        let mut table = SpanTable::default();
        table.traces.ids = vec![TraceId::default()];
        table.traces.resources = Offsets::from_bounds(vec![0, 1]);
        table.resources.scopes = Offsets::from_bounds(vec![0, 1]);
        let count = u32::try_from(starts.out.len()).map_err(|_| BlockReadError::Layout("too many spans in a row group"))?;
        table.scopes.spans = Offsets::from_bounds(vec![0, count]);
        let mut others = wanted.clone();
        others.spans.start = false;
        self.assemble_spans(&others, &mut table)?;
        table.spans.start_unix_nanos = starts.out;
        table.strings = std::mem::take(&mut self.pool);
        Ok(table)
    }

    /// Decodes further columns of the rows that `table` holds. `rest` asks for nothing that must be derived.
    pub(super) fn assemble_rest(&mut self, rest: &Projection, mut table: SpanTable) -> Result<SpanTable, BlockReadError> {
        self.pool = std::mem::take(&mut table.strings);
        self.assemble_columns(rest, &mut table)?;
        Ok(table)
    }

    /// Decodes columns below the skeleton of `table`; those that are not asked for stay as they are.
    fn assemble_columns(&mut self, projection: &Projection, table: &mut SpanTable) -> Result<(), BlockReadError> {
        self.assemble_traces(projection, table)?;
        self.assemble_resources_and_scopes(projection, table)?;
        self.assemble_spans(projection, table)?;
        self.assemble_events(projection, table)?;
        self.assemble_links(projection, table)?;
        table.strings = std::mem::take(&mut self.pool);
        Ok(())
    }

    /// Decodes the trace ids of the fetched rows.
    pub(super) fn trace_ids(&mut self) -> Result<Vec<TraceId>, BlockReadError> {
        let mut ids = Ids::new(TraceId::from_bytes);
        if self.decode_values(Column::TraceId, &mut ids)? { Ok(ids.out) } else { Err(BlockReadError::Layout("no column with trace ids")) }
    }

    fn assemble_structure(&mut self, table: &mut SpanTable) -> Result<(), BlockReadError> {
        if !self.structure(&SPAN_STRUCTURE)? {
            return Err(BlockReadError::Layout("no column tells the structure of spans"));
        }
        table.traces.resources = self.offsets(0, table.trace_count(), &SPAN_STRUCTURE)?;
        table.resources.scopes = self.offsets(1, table.traces.resources.total(), &SPAN_STRUCTURE)?;
        table.scopes.spans = self.offsets(2, table.resources.scopes.total(), &SPAN_STRUCTURE)?;
        Ok(())
    }

    fn assemble_traces(&mut self, projection: &Projection, table: &mut SpanTable) -> Result<(), BlockReadError> {
        let (want, count) = (&projection.traces, table.trace_count());
        let traces = &mut table.traces;
        self.ints(want.start, Column::TraceStart, count, &mut traces.start_unix_nanos)?;
        self.ints(want.end, Column::TraceEnd, count, &mut traces.end_unix_nanos)?;
        self.ints(want.duration, Column::TraceDuration, count, &mut traces.duration_nanos)?;
        self.strings(want.root_service_name, Column::RootServiceName, count, &mut traces.root_service_name)?;
        self.strings(want.root_span_name, Column::RootSpanName, count, &mut traces.root_span_name)?;
        if want.service_stats {
            traces.service_stats_of = self.parts_of(&STATS_STRUCTURE, 0, count)?;
            let entries = traces.service_stats_of.total();
            let stats = &mut traces.service_stats;
            self.strings(true, Column::StatsServiceName, entries, &mut stats.service_name)?;
            self.ints(true, Column::StatsSpanCount, entries, &mut stats.span_count)?;
            self.ints(true, Column::StatsErrorCount, entries, &mut stats.error_count)?;
        }
        Ok(())
    }

    fn assemble_resources_and_scopes(&mut self, projection: &Projection, table: &mut SpanTable) -> Result<(), BlockReadError> {
        let (want, count) = (&projection.resources, table.traces.resources.total());
        let resources = &mut table.resources;
        self.strings(want.service_name, Column::ResourceServiceName, count, &mut resources.service_name)?;
        self.ints(want.dropped_attributes, Column::DroppedAttributes(Level::Resource), count, &mut resources.dropped_attributes)?;
        self.attrs_of(Level::Resource, &want.attrs, count, &mut resources.attrs)?;

        let (want, count) = (&projection.scopes, table.resources.scopes.total());
        let scopes = &mut table.scopes;
        self.strings(want.name, Column::ScopeName, count, &mut scopes.name)?;
        self.strings(want.version, Column::ScopeVersion, count, &mut scopes.version)?;
        self.ints(want.dropped_attributes, Column::DroppedAttributes(Level::Scope), count, &mut scopes.dropped_attributes)?;
        self.attrs_of(Level::Scope, &want.attrs, count, &mut scopes.attrs)?;
        Ok(())
    }

    fn assemble_spans(&mut self, projection: &Projection, table: &mut SpanTable) -> Result<(), BlockReadError> {
        let (want, count) = (&projection.spans, table.span_count());
        let spans = &mut table.spans;
        self.ids(want.span_id, Column::SpanId, count, SpanId::from_bytes, &mut spans.span_id)?;
        self.ids(want.parent_span_id, Column::ParentSpanId, count, SpanId::from_bytes, &mut spans.parent_span_id)?;
        self.ints(want.nested_left, Column::NestedLeft, count, &mut spans.nested_left)?;
        self.ints(want.nested_right, Column::NestedRight, count, &mut spans.nested_right)?;
        self.ints(want.nested_parent, Column::NestedParent, count, &mut spans.nested_parent)?;
        self.ints(want.child_count, Column::ChildCount, count, &mut spans.child_count)?;
        self.strings(want.name, Column::SpanName, count, &mut spans.name)?;
        self.ints(want.kind, Column::SpanKind, count, &mut spans.kind)?;
        self.strings(want.trace_state, Column::SpanTraceState, count, &mut spans.trace_state)?;
        self.ints(want.start, Column::SpanStart, count, &mut spans.start_unix_nanos)?;
        self.ints(want.duration, Column::SpanDuration, count, &mut spans.duration_nanos)?;
        self.ints(want.status_code, Column::StatusCode, count, &mut spans.status_code)?;
        self.strings(want.status_message, Column::StatusMessage, count, &mut spans.status_message)?;
        self.ints(want.dropped_attributes, Column::DroppedAttributes(Level::Span), count, &mut spans.dropped_attributes)?;
        self.ints(want.dropped_events, Column::DroppedEvents, count, &mut spans.dropped_events)?;
        self.ints(want.dropped_links, Column::DroppedLinks, count, &mut spans.dropped_links)?;
        self.attrs_of(Level::Span, &want.attrs, count, &mut spans.attrs)?;
        Ok(())
    }

    fn assemble_events(&mut self, projection: &Projection, table: &mut SpanTable) -> Result<(), BlockReadError> {
        let want = &projection.events;
        if !want.any() {
            return Ok(());
        }
        table.spans.events = self.parts_of(&EVENT_STRUCTURE, 3, table.span_count())?;
        if want.time_since_start && self.fetched.file.leaf(Column::EventUnixTime).is_some() {
            self.event_times(table)?;
        } else {
            self.ints(want.time_since_start, Column::EventTime, table.spans.events.total(), &mut table.events.time_since_start_nanos)?;
        }
        let (events, count) = (&mut table.events, table.spans.events.total());
        self.strings(want.name, Column::EventName, count, &mut events.name)?;
        self.ints(want.dropped_attributes, Column::DroppedAttributes(Level::Event), count, &mut events.dropped_attributes)?;
        self.attrs_of(Level::Event, &want.attrs, count, &mut events.attrs)?;
        Ok(())
    }

    fn assemble_links(&mut self, projection: &Projection, table: &mut SpanTable) -> Result<(), BlockReadError> {
        let want = &projection.links;
        if !want.any() {
            return Ok(());
        }
        if self.fetched.file.leaf(Column::SpanLinks).is_some() {
            return self.stored_links(want, table);
        }
        table.spans.links = self.parts_of(&LINK_STRUCTURE, 3, table.span_count())?;
        let (links, count) = (&mut table.links, table.spans.links.total());
        self.ids(want.trace_id, Column::LinkTraceId, count, TraceId::from_bytes, &mut links.trace_id)?;
        self.ids(want.span_id, Column::LinkSpanId, count, SpanId::from_bytes, &mut links.span_id)?;
        self.strings(want.trace_state, Column::LinkTraceState, count, &mut links.trace_state)?;
        self.ints(want.dropped_attributes, Column::DroppedAttributes(Level::Link), count, &mut links.dropped_attributes)?;
        self.attrs_of(Level::Link, &want.attrs, count, &mut links.attrs)?;
        Ok(())
    }

    /// Decodes the levels of the first of `columns` that the file has.
    fn structure(&mut self, columns: &[Column]) -> Result<bool, BlockReadError> {
        let Some(&column) = columns.iter().find(|&&column| self.fetched.file.leaf(column).is_some()) else { return Ok(false) };
        self.decode_with_levels(column, &mut sink::Nothing::default())
    }

    /// Returns the offsets from `level` to the next, from the levels at hand.
    fn offsets(&self, level: u8, owners: usize, columns: &[Column]) -> Result<Offsets, BlockReadError> {
        let column = columns.iter().copied().find(|&column| self.fetched.file.leaf(column).is_some()).unwrap_or(Column::TraceId);
        let bounds = self.levels.bounds(level).map_err(|cause| self.error(column, cause))?;
        self.expect(column, bounds.len() - 1, owners)?;
        Ok(Offsets::from_bounds(bounds))
    }

    fn parts_of(&mut self, columns: &[Column], level: u8, owners: usize) -> Result<Offsets, BlockReadError> {
        if self.structure(columns)? { self.offsets(level, owners, columns) } else { Ok(Offsets::from_bounds(vec![0; owners + 1])) }
    }

    pub(super) fn ints<T: Integer + Default>(
        &mut self,
        wanted: bool,
        column: Column,
        count: usize,
        out: &mut Vec<T>,
    ) -> Result<(), BlockReadError> {
        if !wanted {
            return Ok(());
        }
        let mut sink = Ints::new(self.int_width(column));
        let present = self.decode_values(column, &mut sink)?;
        *out = self.filled(column, present, sink.out, count)?;
        Ok(())
    }

    fn ids<T: Copy + Default>(
        &mut self,
        wanted: bool,
        column: Column,
        count: usize,
        convert: fn(&[u8]) -> T,
        out: &mut Vec<T>,
    ) -> Result<(), BlockReadError> {
        if !wanted {
            return Ok(());
        }
        let mut sink = Ids::new(convert);
        let present = self.decode_values(column, &mut sink)?;
        *out = self.filled(column, present, sink.out, count)?;
        Ok(())
    }

    fn strings(&mut self, wanted: bool, column: Column, count: usize, out: &mut Vec<StrId>) -> Result<(), BlockReadError> {
        if !wanted {
            return Ok(());
        }
        let values = self.decode_strings(column, false)?;
        let present = values.is_some();
        let ids = values.unwrap_or_default().into_ids(&mut self.pool).map_err(|cause| self.error(column, cause))?;
        *out = self.filled(column, present, ids, count)?;
        Ok(())
    }

    fn attrs_of(&mut self, level: Level, selection: &AttrSelection, owners: usize, out: &mut Attrs) -> Result<(), BlockReadError> {
        if !selection.is_none() {
            *out = self.attrs(level, selection, owners)?;
        }
        Ok(())
    }

    fn filled<T: Clone + Default>(&self, column: Column, present: bool, values: Vec<T>, count: usize) -> Result<Vec<T>, BlockReadError> {
        if !present {
            return Ok(vec![T::default(); count]);
        }
        self.expect(column, values.len(), count)?;
        Ok(values)
    }

    pub(super) fn int_width(&self, column: Column) -> IntWidth {
        match self.fetched.file.leaf(column).map(|leaf| leaf.value) {
            Some(ValueType::Int32 | ValueType::UInt32) => IntWidth::Int32,
            _ => IntWidth::Int64,
        }
    }

    /// Decodes a string column; `None` when the file lacks it. Levels are left in `self.levels` if asked for.
    pub(super) fn decode_strings(&mut self, column: Column, with_levels: bool) -> Result<Option<StrColumn>, BlockReadError> {
        let Some(leaf) = self.fetched.file.leaf(column) else { return Ok(None) };
        let index = leaf.index;
        let known = self.fetched.dictionaries.get(&index).cloned();
        let was_known = known.is_some();
        let mut values = StrColumn::with_dictionary(known);
        if with_levels {
            self.decode_with_levels(column, &mut values)?
        } else {
            self.decode_values(column, &mut values)?
        };
        if let (false, Some(dictionary)) = (was_known, values.dictionary()) {
            self.decoded.push((index, dictionary));
        }
        Ok(Some(values))
    }

    /// Decodes values only. `false` when the file lacks the column.
    pub(super) fn decode_values(&mut self, column: Column, sink: &mut impl Sink) -> Result<bool, BlockReadError> {
        let Some(leaf) = self.fetched.file.leaf(column) else { return Ok(false) };
        let mut scratch = std::mem::take(&mut self.scratch);
        let decoded = self.decode(leaf, None, sink, &mut scratch);
        self.scratch = scratch;
        decoded.map(|()| true)
    }

    /// Decodes values, and levels into `self.levels`. `false` when the file lacks the column.
    pub(super) fn decode_with_levels(&mut self, column: Column, sink: &mut impl Sink) -> Result<bool, BlockReadError> {
        let Some(leaf) = self.fetched.file.leaf(column) else { return Ok(false) };
        let (mut scratch, mut levels) = (std::mem::take(&mut self.scratch), std::mem::take(&mut self.levels));
        levels.clear();
        let decoded = self.decode(leaf, Some(&mut levels), sink, &mut scratch);
        let is_valid = levels.starts_at_a_row();
        (self.scratch, self.levels) = (scratch, levels);
        decoded?;
        if is_valid { Ok(true) } else { Err(self.error(column, DecodeError::Corrupt("repetition levels"))) }
    }

    fn decode(
        &self,
        leaf: &FileLeaf,
        levels: Option<&mut Levels>,
        sink: &mut impl Sink,
        scratch: &mut Scratch,
    ) -> Result<(), BlockReadError> {
        let fetched = self.fetched;
        let (file, group) = (&fetched.file, fetched.group);
        let Some(pages) = fetched.pages.get(&leaf.index) else {
            return Err(BlockReadError::Layout("a column was not fetched"));
        };
        let shape = file.shape(group, leaf, fetched.verify)?;
        let entries = chunk::decode(&shape, &pages.pages, fetched.rows.as_ref(), levels, sink, scratch)
            .map_err(|cause| column_error(leaf, group, cause))?;
        if pages.is_whole && entries != file.entries(group, leaf)? {
            return Err(column_error(leaf, group, DecodeError::Corrupt("number of values of a column chunk")));
        }
        Ok(())
    }

    /// Checks that a column has as many values as its level has items.
    pub(super) fn expect(&self, column: Column, found: usize, wanted: usize) -> Result<(), BlockReadError> {
        if found == wanted { Ok(()) } else { Err(self.error(column, DecodeError::Corrupt("number of values of a column"))) }
    }

    pub(super) fn error(&self, column: Column, cause: DecodeError) -> BlockReadError {
        match self.fetched.file.leaf(column) {
            Some(leaf) => column_error(leaf, self.fetched.group, cause),
            None => BlockReadError::Column { column: format!("{column:?}"), group: self.fetched.group, cause },
        }
    }
}

pub(super) fn column_error(leaf: &FileLeaf, group: usize, cause: DecodeError) -> BlockReadError {
    BlockReadError::Column { column: leaf.path.clone(), group, cause }
}
