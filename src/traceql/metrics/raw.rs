//! The raw stage: spans of tables become series.

use std::sync::atomic::AtomicBool;

use crate::base::bitset::Bitset;
use crate::model::span_table::SpanTable;
use crate::traceql::engine::{EngineError, Inspected};

use super::{JobOptions, MAX_INTERVALS, MetricsPlan, SeriesSet};

/// The series of one job.
pub struct RawMetrics {
    plan: MetricsPlan,
    options: JobOptions,
}

impl RawMetrics {
    /// # Errors
    /// [`EngineError::TooManyIntervals`].
    pub fn new(plan: &MetricsPlan, options: JobOptions) -> Result<Self, EngineError> {
        if options.window.intervals() > MAX_INTERVALS {
            return Err(EngineError::TooManyIntervals(MAX_INTERVALS));
        }
        Ok(Self { plan: plan.clone(), options })
    }

    /// Counts the spans of `table`, which holds at least what [`MetricsPlan::fetch`] names, of the traces in `rows`; `None`: of all. Tables of
    /// one job must not share spans.
    pub fn add(&mut self, table: &SpanTable, rows: Option<&Bitset>, cancelled: &AtomicBool) -> Result<Inspected, EngineError> {
        let _ = (&self.plan, self.options, table, rows, cancelled);
        Err(EngineError::Unsupported("metrics evaluation"))
    }

    /// Whether further tables would not be looked at, because a limit is reached.
    pub fn is_full(&self) -> bool {
        false
    }

    pub fn finish(self) -> SeriesSet {
        SeriesSet::default()
    }
}
