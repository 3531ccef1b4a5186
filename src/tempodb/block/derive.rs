//! What old files lack and queries ask for, from what they have: service statistics, child counts, event times relative to their span, links.
//!
//! The columns that this takes are read besides those that were asked for, and dropped again at the end.

use std::borrow::Cow;

use super::assemble::Assembler;
use super::attrs::restricted;
use super::decode::DecodeError;
use super::error::BlockReadError;
use super::file::BlockFile;
use super::projection::{LinkColumns, Projection};
use super::schema::Column;
use crate::model::link::push_stored_links;
use crate::model::span_table::{Links, Offsets, SpanTable};
use crate::model::trace_numbers::{derive_child_counts, derive_service_stats};

/// What of a projection has no column in a file but can be derived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Derived {
    service_stats: bool,
    child_counts: bool,
    event_times: bool,
}

impl Derived {
    pub(super) fn of(wanted: &Projection, file: &BlockFile) -> Self {
        let lacks = |column| file.leaf(column).is_none();
        Self {
            service_stats: wanted.traces.service_stats && lacks(Column::StatsServiceName),
            child_counts: wanted.spans.child_count && lacks(Column::ChildCount),
            event_times: wanted.events.time_since_start && !lacks(Column::EventUnixTime),
        }
    }

    /// Adds the columns to derive from.
    pub(super) fn with_sources(self, wanted: &Projection) -> Cow<'_, Projection> {
        if self == Self::default() {
            return Cow::Borrowed(wanted);
        }
        let mut all = wanted.clone();
        all.resources.service_name |= self.service_stats;
        all.spans.status_code |= self.service_stats;
        all.spans.span_id |= self.child_counts;
        all.spans.parent_span_id |= self.child_counts;
        all.spans.kind |= self.child_counts;
        all.spans.start |= self.event_times;
        Cow::Owned(all)
    }

    /// Fills what is derived from whole columns, and empties those that were read only for that.
    pub(super) fn complete(self, table: &mut SpanTable, wanted: &Projection) {
        if self.service_stats {
            derive_service_stats(table);
        }
        if self.child_counts {
            derive_child_counts(table);
        }
        if self == Self::default() {
            return;
        }
        let spans = &mut table.spans;
        keep_if(wanted.resources.service_name, &mut table.resources.service_name);
        keep_if(wanted.spans.status_code, &mut spans.status_code);
        keep_if(wanted.spans.span_id, &mut spans.span_id);
        keep_if(wanted.spans.parent_span_id, &mut spans.parent_span_id);
        keep_if(wanted.spans.kind, &mut spans.kind);
        keep_if(wanted.spans.start, &mut spans.start_unix_nanos);
    }
}

fn keep_if<T>(is_wanted: bool, column: &mut Vec<T>) {
    if !is_wanted {
        *column = Vec::new();
    }
}

impl Assembler<'_> {
    /// Decodes absolute event times; the events of each span are known, and the starts of the spans.
    pub(super) fn event_times(&mut self, table: &mut SpanTable) -> Result<(), BlockReadError> {
        let mut times = Vec::new();
        self.ints(true, Column::EventUnixTime, table.spans.events.total(), &mut times)?;
        for (span, start) in table.spans.start_unix_nanos.iter().enumerate() {
            for time in &mut times[table.spans.events.range(span)] {
                *time = u64::wrapping_sub(*time, *start);
            }
        }
        table.events.time_since_start_nanos = times;
        Ok(())
    }

    /// Decodes links that are stored as one message a span.
    pub(super) fn stored_links(&mut self, wanted: &LinkColumns, table: &mut SpanTable) -> Result<(), BlockReadError> {
        let column = Column::SpanLinks;
        let Some(messages) = self.decode_strings(column, false)? else { return Ok(()) };
        self.expect(column, messages.codes().len(), table.span_count())?;
        self.expect_room(column, messages.strings().map(<[u8]>::len).sum())?;
        let (mut links, mut of) = (Links::default(), Offsets::default());
        for &code in messages.codes() {
            let pushed = push_stored_links(messages.get(code), &mut self.pool, &mut links);
            pushed.map_err(|_| self.error(column, DecodeError::Corrupt("links of a span")))?;
            of.push_end(links.span_id.len());
        }
        keep_if(wanted.trace_id, &mut links.trace_id);
        keep_if(wanted.span_id, &mut links.span_id);
        keep_if(wanted.trace_state, &mut links.trace_state);
        keep_if(wanted.dropped_attributes, &mut links.dropped_attributes);
        links.attrs = restricted(links.attrs, &wanted.attrs, &self.pool);
        table.spans.links = of;
        table.links = links;
        Ok(())
    }
}
