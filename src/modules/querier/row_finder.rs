//! Reads of a row group what a query needs, of the rows that can match, in steps of which each may rule out the next.
//!
//! ```text
//! statistics, dictionaries ─▶ pages that hold a rare value ─▶ small columns ─▶ the other columns of the rows that are left
//! ```

use std::sync::Arc;

use super::Querier;
use super::blocks::JobError;
use super::projection::{candidate_rows, row_group_may_match};
use crate::model::span_table::SpanTable;
use crate::services::block_projection::projection_of;
use crate::services::rpc::search::Inspection;
use crate::tempodb::block::error::BlockReadError;
use crate::tempodb::block::projection::Projection;
use crate::tempodb::block::read::{BlockReader, FetchedRest, FetchedRowGroup, FetchedSpans, ReadMeter};
use crate::tempodb::block::selection::RowSelection;
use crate::traceql::engine::prefilter::Prefilter;
use crate::traceql::engine::projection::FetchSpec;

/// One row in so many may be left by small columns for it to be worth to select rows.
const WORTHWHILE_PART: usize = 4;

/// In a row group with no more rows it does not matter.
const FEW_ROWS: usize = 64;

/// What is read of one job's row groups.
pub(super) struct RowFinder<'a> {
    querier: &'a Querier,
    reader: &'a BlockReader,
    fetch: &'a FetchSpec,
    wanted: &'a Projection,
    meter: &'a ReadMeter,
    /// Until it leaves too many rows.
    prefilter: Option<(Arc<Prefilter>, Projection)>,
    /// Traces and spans of which nothing but small columns was looked at.
    passed_over: Inspection,
}

/// The rows of a row group that can match, not decoded yet.
pub(super) struct FoundRows {
    /// `None`: all.
    pub(super) rows: Option<RowSelection>,
    /// How many they are.
    pub(super) traces: usize,
    columns: Columns,
}

enum Columns {
    All(FetchedRowGroup),
    Spans(FetchedSpans),
    /// What completes a table of small columns.
    Rest(FetchedRest, Box<SpanTable>),
}

impl FoundRows {
    /// CPU-bound.
    pub(super) fn decode(self) -> Result<SpanTable, BlockReadError> {
        match self.columns {
            Columns::All(fetched) => fetched.decode(),
            Columns::Spans(fetched) => fetched.decode(),
            Columns::Rest(fetched, table) => fetched.decode(*table),
        }
    }
}

impl<'a> RowFinder<'a> {
    /// Reads `wanted`, which has all that `fetch` and `prefilter` name.
    pub(super) fn new(
        querier: &'a Querier,
        reader: &'a BlockReader,
        fetch: &'a FetchSpec,
        wanted: &'a Projection,
        prefilter: Option<&Arc<Prefilter>>,
        meter: &'a ReadMeter,
    ) -> Self {
        let prefilter = prefilter.map(|prefilter| (Arc::clone(prefilter), projection_of(prefilter.fetch())));
        Self { querier, reader, fetch, wanted, meter, prefilter, passed_over: Inspection::default() }
    }

    /// Fetches the rows of a row group that can match; `None`: there are none. Without `needs_traces`, all spans may come in one trace.
    pub(super) async fn fetch(&mut self, group: usize, needs_traces: bool) -> Result<Option<FoundRows>, JobError> {
        let cpu = &self.querier.cpu;
        if !row_group_may_match(self.reader, group, self.fetch, self.meter, cpu).await? {
            return Ok(None);
        }
        let rows = candidate_rows(self.reader, group, self.fetch, self.meter, cpu).await?;
        if rows.as_ref().is_some_and(RowSelection::is_empty) {
            return Ok(None);
        }
        if rows.is_none()
            && let Some((prefilter, small)) = self.prefilter.take()
        {
            return self.prefiltered(group, prefilter, small).await;
        }
        let columns = if rows.is_none() && !needs_traces && self.wanted.is_of_spans() {
            Columns::Spans(self.reader.fetch_spans(group, self.wanted, self.meter).await?)
        } else {
            Columns::All(self.reader.fetch_row_group(group, self.wanted, rows.as_ref(), self.meter).await?)
        };
        Ok(Some(self.found(group, rows, columns)))
    }

    fn found(&self, group: usize, rows: Option<RowSelection>, columns: Columns) -> FoundRows {
        let traces = rows.as_ref().map_or_else(|| self.reader.rows(group), RowSelection::len);
        FoundRows { rows, traces, columns }
    }

    /// What was looked at beside the rows that were returned.
    pub(super) fn passed_over(self) -> Inspection {
        self.passed_over
    }

    /// Keeps the prefilter for the next row group if it leaves few rows of this one.
    async fn prefiltered(&mut self, group: usize, prefilter: Arc<Prefilter>, small: Projection) -> Result<Option<FoundRows>, JobError> {
        let fetched = self.reader.fetch_row_group(group, &small, None, self.meter).await?;
        let filter = Arc::clone(&prefilter);
        let job = move || prefilter_table(&filter, fetched.decode()?);
        let Prefiltered { rows, table, passed_over } = self.querier.on_cpu("prefilter_row_group", job).await??;
        self.passed_over.add(passed_over);
        let is_few = rows.is_some();
        let found = if rows.as_ref().is_some_and(RowSelection::is_empty) {
            None
        } else {
            let rest = self.reader.fetch_rest(group, self.wanted, &small, rows.as_ref(), self.meter).await?;
            Some(self.found(group, rows, Columns::Rest(rest, Box::new(table))))
        };
        if is_few {
            self.prefilter = Some((prefilter, small));
        }
        Ok(found)
    }
}

/// A table of small columns, cut down to the rows that can match.
struct Prefiltered {
    /// `None`: all, because too many can.
    rows: Option<RowSelection>,
    table: SpanTable,
    passed_over: Inspection,
}

fn prefilter_table(prefilter: &Prefilter, mut table: SpanTable) -> Result<Prefiltered, BlockReadError> {
    let (traces, spans) = (table.trace_count(), table.span_count());
    let rows = prefilter.rows(&table);
    if traces > FEW_ROWS && rows.count() > traces / WORTHWHILE_PART {
        return Ok(Prefiltered { rows: None, table, passed_over: Inspection::default() });
    }
    table.keep_rows(rows.iter());
    let passed_over =
        Inspection { traces: (traces - table.trace_count()) as u64, spans: (spans - table.span_count()) as u64, ..Inspection::default() };
    Ok(Prefiltered { rows: Some(RowSelection::from_rows(rows.iter())), table, passed_over })
}
