//! Finds the traces that a redaction's query names.

use std::error::Error;
use std::sync::atomic::AtomicBool;

use crate::model::span_table::SpanTable;
use crate::services::block_projection::projection_of;
use crate::tempodb::block::projection::Projection;
use crate::tempodb::compaction::TraceFilter;
use crate::traceql::engine::{EvaluateOptions, Plan, evaluate};

/// A compiled query.
pub(super) struct QueryFilter(Plan);

impl QueryFilter {
    pub(super) fn new(query: &str) -> Result<Self, String> {
        let compiled = crate::traceql::compile(query).map_err(|error| format!("invalid TraceQL query: {error}"))?;
        Ok(Self(Plan::new(&compiled).map_err(|error| error.to_string())?))
    }
}

impl TraceFilter for QueryFilter {
    fn projection(&self) -> Projection {
        projection_of(self.0.fetch())
    }

    fn matching_rows(&self, table: &SpanTable) -> Result<Vec<usize>, Box<dyn Error + Send + Sync>> {
        // A job that is dropped ends between row groups.
        let cancelled = AtomicBool::new(false);
        let options = EvaluateOptions { rows: None, spans_per_span_set: 1, cancelled: &cancelled };
        Ok(evaluate(&self.0, table, options)?.rows().collect())
    }
}
