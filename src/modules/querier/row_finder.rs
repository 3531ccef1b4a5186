//! Which rows of a row group a job reads, found with as little reading as possible.
//!
//! ```text
//! statistics, dictionaries ─▶ pages that hold a rare value ─▶ small columns of the rest ─▶ rows
//! ```

use std::sync::Arc;

use super::projection::{candidate_rows, row_group_may_match};
use crate::base::cpu_pool::CpuPool;
use crate::services::block_projection::projection_of;
use crate::services::rpc::search::Inspection;
use crate::tempodb::block::error::BlockReadError;
use crate::tempodb::block::projection::Projection;
use crate::tempodb::block::read::{BlockReader, ReadMeter};
use crate::tempodb::block::selection::RowSelection;
use crate::traceql::engine::prefilter::Prefilter;
use crate::traceql::engine::projection::FetchSpec;

/// One row in so many may be left by small columns for it to be worth reading them first. Tests have few rows, and take all that are left.
const WORTHWHILE_PART: usize = if cfg!(test) { 1 } else { 4 };

/// The rows of a row group that can match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RowsToRead {
    Nothing,
    All,
    Only(RowSelection),
}

/// Finds the rows of one job's row groups.
pub(super) struct RowFinder<'a> {
    reader: &'a BlockReader,
    fetch: &'a FetchSpec,
    meter: &'a ReadMeter,
    cpu: &'a CpuPool,
    /// Until it leaves too many rows.
    prefilter: Option<(Arc<Prefilter>, Projection)>,
    /// Traces and spans of which nothing but small columns was looked at.
    passed_over: Inspection,
}

impl RowsToRead {
    pub(super) fn is_nothing(&self) -> bool {
        *self == Self::Nothing
    }

    /// `None`: all, or nothing.
    pub(super) fn selection(&self) -> Option<&RowSelection> {
        if let Self::Only(rows) = self { Some(rows) } else { None }
    }

    fn of(rows: RowSelection) -> Self {
        if rows.is_empty() { Self::Nothing } else { Self::Only(rows) }
    }
}

impl<'a> RowFinder<'a> {
    pub(super) fn new(
        reader: &'a BlockReader,
        fetch: &'a FetchSpec,
        prefilter: Option<&Arc<Prefilter>>,
        meter: &'a ReadMeter,
        cpu: &'a CpuPool,
    ) -> Self {
        let prefilter = prefilter.map(|prefilter| (Arc::clone(prefilter), projection_of(prefilter.fetch())));
        Self { reader, fetch, meter, cpu, prefilter, passed_over: Inspection::default() }
    }

    pub(super) async fn rows_of(&mut self, group: usize) -> Result<RowsToRead, BlockReadError> {
        if !row_group_may_match(self.reader, group, self.fetch, self.meter, self.cpu).await? {
            return Ok(RowsToRead::Nothing);
        }
        if let Some(rows) = candidate_rows(self.reader, group, self.fetch, self.meter, self.cpu).await? {
            return Ok(RowsToRead::of(rows));
        }
        self.prefiltered(group).await
    }

    /// What was looked at beside the rows that were returned.
    pub(super) fn passed_over(self) -> Inspection {
        self.passed_over
    }

    async fn prefiltered(&mut self, group: usize) -> Result<RowsToRead, BlockReadError> {
        let Some((prefilter, projection)) = &self.prefilter else { return Ok(RowsToRead::All) };
        let fetched = self.reader.fetch_row_group(group, projection, None, self.meter).await?;
        let prefilter = Arc::clone(prefilter);
        let job = move || {
            let table = fetched.decode()?;
            let rows = prefilter.rows(&table);
            let traces = table.trace_count() - rows.count();
            let kept_spans: usize = rows.iter().map(|row| table.spans_of_trace(row).len()).sum();
            let spans = table.span_count() - kept_spans;
            Ok::<_, BlockReadError>((rows, Inspection { traces: traces as u64, spans: spans as u64, ..Inspection::default() }))
        };
        // A pool that fails will say so when the row group is decoded.
        let Ok(found) = self.cpu.run("prefilter_row_group", job).await else { return Ok(RowsToRead::All) };
        let (rows, passed_over) = found?;
        if rows.count() > self.reader.rows(group) / WORTHWHILE_PART {
            self.prefilter = None;
            return Ok(RowsToRead::All);
        }
        self.passed_over.add(passed_over);
        Ok(RowsToRead::of(RowSelection::from_rows(rows.iter())))
    }
}
