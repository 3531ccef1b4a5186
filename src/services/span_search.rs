//! Search and tag jobs over tables in memory: what live-stores and ingesters answer with. CPU work; run it on the pool.
//!
//! A trace may be spread over several tables; its hits are merged.

use std::sync::atomic::AtomicBool;

use crate::base::bitset::Bitset;
use crate::base::error_class::ErrorClass;
use crate::model::span_table::SpanTable;
use crate::services::rpc::search::{Inspection, SearchReply, TagNamesReply, TagNamesRequest, TagValuesReply, TagValuesRequest};
use crate::services::rpc::status::CallError;
use crate::traceql::autocomplete::extract_conditions;
use crate::traceql::engine::{self, EngineError, EvaluateOptions, HitRows, Inspected, Matches, Plan, TagSelection, evaluate, hits};
use crate::traceql::order::SearchOrder;
use crate::traceql::result::{SearchCollector, SearchRequest};
use crate::traceql::rewrite::or_to_in;
use crate::traceql::tags::{TagNames, TagValues};

/// Returns the plan of a search job. Fails with [`ErrorClass::Invalid`] or, for parts of the language that are not built, [`ErrorClass::Unsupported`].
pub fn plan_search(request: &SearchRequest) -> Result<Plan, CallError> {
    let query = crate::traceql::compile(&request.query)
        .map_err(|error| CallError::new(ErrorClass::Invalid, format!("invalid TraceQL query: {error}")))?;
    Plan::new(&or_to_in(query)).map_err(engine_error)
}

pub fn engine_error(error: EngineError) -> CallError {
    CallError::from_chain(error.class(), &error)
}

/// Returns the selection of a tag job; a filter that cannot be understood selects all spans.
pub fn tag_selection(filter: &str) -> TagSelection {
    extract_conditions(filter, usize::MAX).map(|filter| TagSelection::new(&filter)).unwrap_or_default()
}

/// A table to search: all of it, or some rows.
pub struct SearchedTable<'a> {
    pub table: &'a SpanTable,
    /// Rows that count; `None`: all.
    pub rows: Option<Bitset>,
    pub place: Place,
}

/// Where what results show of a table is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Every trace costs the same.
    Memory,
    /// A block, from which neighbours are read together.
    Block,
}

impl<'a> From<&'a SpanTable> for SearchedTable<'a> {
    fn from(table: &'a SpanTable) -> Self {
        Self { table, rows: None, place: Place::Memory }
    }
}

/// Evaluates one table and keeps only matches that would change the answer. An order needs the trace times in the table.
pub fn wanted_matches(
    plan: &Plan,
    request: &SearchRequest,
    searched: SearchedTable<'_>,
    collector: &SearchCollector,
    cancelled: &AtomicBool,
) -> Result<Matches, CallError> {
    let SearchedTable { table, rows, place } = searched;
    let wanted = if plan.may_refuse() { None } else { collector.wanted_rows(table) };
    let rows = [rows, request.rows(table), wanted].into_iter().flatten().reduce(|mut all, rows| {
        all.intersect(&rows);
        all
    });
    if rows.as_ref().is_some_and(Bitset::is_empty) {
        return Ok(Matches::default());
    }
    let options = EvaluateOptions { rows: rows.as_ref(), spans_per_span_set: request.spans_per_span_set, cancelled };
    let mut matches = evaluate(plan, table, options).map_err(engine_error)?;
    matches.traces.retain(|trace| collector.wants(trace.trace_id, trace.start_unix_nanos, trace.duration_nanos));
    // Traces that are held already are merged and take no room.
    let held = matches.traces.iter().filter(|trace| collector.holds(trace.trace_id)).count();
    // Without an order the newest are as good as any, but to show 20 traces from all over a row group takes twice the time of 20 neighbours.
    let are_ranked = plan.order() != SearchOrder::FirstFound || place == Place::Memory;
    matches.keep_smallest(collector.room().saturating_add(held), |trace| {
        let rank = are_ranked.then(|| plan.order().rank(trace.trace_id, trace.start_unix_nanos, trace.duration_nanos));
        (!collector.holds(trace.trace_id), rank, trace.row)
    });
    Ok(matches)
}

/// Returns the inspection of an evaluation in memory.
pub fn inspection_of(inspected: Inspected) -> Inspection {
    Inspection { traces: inspected.traces, spans: inspected.spans, bytes: inspected.bytes, ..Inspection::default() }
}

/// Searches `tables`, newest data first.
pub fn search_tables<'a>(
    tables: impl IntoIterator<Item = SearchedTable<'a>>,
    request: &SearchRequest,
    cancelled: &AtomicBool,
) -> Result<SearchReply, CallError> {
    let plan = plan_search(request)?;
    let mut collector = SearchCollector::new(request.limit, plan.order());
    let mut inspection = Inspection::default();
    for searched in tables {
        let table = searched.table;
        let matches = wanted_matches(&plan, request, searched, &collector, cancelled)?;
        inspection.add(inspection_of(matches.inspected));
        collector.add_all(hits(&plan, &matches, table, HitRows::Same));
        // Nothing is known about the times of the tables that are left, so only a search without order ends early.
        if collector.can_stop(u32::MAX) {
            break;
        }
    }
    Ok(SearchReply { hits: collector.finish(), inspection })
}

/// Collects tag names of `tables`.
pub fn tag_names_of<'a>(tables: impl IntoIterator<Item = &'a SpanTable>, request: &TagNamesRequest) -> TagNamesReply {
    let selection = tag_selection(&request.filter);
    let mut names = TagNames::new(request.limits);
    let mut inspection = Inspection::default();
    for table in tables {
        if names.is_exhausted() {
            break;
        }
        inspection.bytes += table.memory_bytes() as u64;
        engine::tag_names(table, &request.scopes, &selection, &mut names);
    }
    TagNamesReply { truncated: names.is_exhausted(), names: names.into_scopes().collect(), inspection }
}

/// Collects values of a tag of `tables`.
pub fn tag_values_of<'a>(tables: impl IntoIterator<Item = &'a SpanTable>, request: &TagValuesRequest) -> TagValuesReply {
    let selection = tag_selection(&request.filter);
    let mut values = TagValues::new(request.limits);
    let mut inspection = Inspection::default();
    for table in tables {
        if values.is_exhausted() {
            break;
        }
        inspection.bytes += table.memory_bytes() as u64;
        engine::tag_values(table, &request.attribute, &selection, &mut values);
    }
    TagValuesReply { truncated: values.is_exhausted(), values: values.into_values(), inspection }
}
