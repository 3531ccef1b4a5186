//! TraceQL metrics over tables in memory: what live-stores and ingesters answer with. CPU work; run it on the pool.

use std::sync::atomic::AtomicBool;

use super::span_search::{SearchedTable, engine_error, inspection_of};
use crate::base::error_class::ErrorClass;
use crate::services::rpc::metrics_query::{MetricsReply, MetricsRequest};
use crate::services::rpc::search::Inspection;
use crate::services::rpc::status::CallError;
use crate::traceql::metrics::{JobOptions, MetricsPlan, RawMetrics, Window};

/// Returns the plan of a metrics job. Fails with [`ErrorClass::Invalid`] or, for parts of the language that are not built, [`ErrorClass::Unsupported`].
pub fn plan_metrics(query: &str) -> Result<MetricsPlan, CallError> {
    let query = crate::traceql::compile(query).map_err(|error| CallError::new(ErrorClass::Invalid, format!("compiling query: {error}")))?;
    MetricsPlan::new(&query).map_err(engine_error)
}

/// Returns the options of a job over the part of the request's window that is `window`.
pub fn job_options(request: &MetricsRequest, window: Window) -> JobOptions {
    JobOptions { window, exemplars: request.exemplars, max_series: request.max_series }
}

/// Counts the spans of `tables`, each of which holds whole traces.
pub fn metrics_of_tables<'a>(
    tables: impl IntoIterator<Item = SearchedTable<'a>>,
    request: &MetricsRequest,
    cancelled: &AtomicBool,
) -> Result<MetricsReply, CallError> {
    let plan = plan_metrics(&request.query)?;
    let mut raw = RawMetrics::new(&plan, job_options(request, request.window)).map_err(engine_error)?;
    let mut inspection = Inspection::default();
    for SearchedTable { table, rows, place: _ } in tables {
        let inspected = raw.add(table, rows.as_ref(), cancelled).map_err(engine_error)?;
        inspection.add(inspection_of(inspected));
        if raw.is_full() {
            break;
        }
    }
    Ok(MetricsReply { series: raw.finish(), inspection, is_whole: false })
}
