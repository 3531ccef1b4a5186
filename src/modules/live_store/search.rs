//! Answers queries over the segments of a tenant.
//!
//! Segments hold pieces of traces. Traces that lie in one segment are evaluated where they are; those that are split over several are joined
//! first, so that every answer is about whole traces.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;

use super::LiveStore;
use super::live_traces::Snapshot;
use crate::base::bitset::Bitset;
use crate::base::error_class::ErrorClass;
use crate::model::combine::{Combiner, combine_trace, trace_order};
use crate::model::ids::{TenantId, TraceId};
use crate::model::span_table::SpanTable;
use crate::services::rpc::search::{
    Inspection, SearchReply, TagNamesReply, TagNamesRequest, TagValuesReply, TagValuesRequest, TimeRange, time_range,
};
use crate::services::rpc::span_reader::SpanReader;
use crate::services::rpc::status::CallError;
use crate::traceql::autocomplete::extract_conditions;
use crate::traceql::engine::{EvaluateOptions, HitRows, Plan, TagSelection, evaluate, hits, tag_names, tag_values};
use crate::traceql::result::{SearchCollector, SearchOrder, SearchRequest};
use crate::traceql::tags::{TagNames, TagValues};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Condition groups of a tag filter that are evaluated. The frontend refuses more per tenant; beyond this the filter is ignored.
const MAX_CONDITION_GROUPS: usize = 1024;

#[async_trait]
impl SpanReader for LiveStore {
    async fn find_trace(&self, tenant: &TenantId, trace_id: TraceId) -> Result<Option<SpanTable>, CallError> {
        self.ensure_ready()?;
        let snapshot = self.snapshot(tenant);
        self.compute("find_live_trace", move || find_trace(&snapshot, trace_id)).await
    }

    async fn search(&self, tenant: &TenantId, request: &SearchRequest) -> Result<SearchReply, CallError> {
        self.ensure_ready()?;
        let query = crate::traceql::compile(&request.query).map_err(|error| CallError::from_chain(error.class(), &error))?;
        let plan = Plan::new(&query).map_err(|error| CallError::from_chain(error.class(), &error))?;
        let (snapshot, request) = (self.snapshot(tenant), request.clone());
        let cancelled = CancelOnDrop::default();
        let flag = Arc::clone(&cancelled.0);
        self.compute("search_live_traces", move || search(&snapshot, &plan, &request, &flag)).await?
    }

    async fn tag_names(&self, tenant: &TenantId, request: &TagNamesRequest) -> Result<TagNamesReply, CallError> {
        self.ensure_ready()?;
        let (snapshot, request) = (self.snapshot(tenant), request.clone());
        self.compute("tag_names_of_live_traces", move || find_tag_names(&snapshot, &request)).await
    }

    async fn tag_values(&self, tenant: &TenantId, request: &TagValuesRequest) -> Result<TagValuesReply, CallError> {
        self.ensure_ready()?;
        let (snapshot, request) = (self.snapshot(tenant), request.clone());
        self.compute("tag_values_of_live_traces", move || find_tag_values(&snapshot, &request)).await
    }
}

impl LiveStore {
    fn ensure_ready(&self) -> Result<(), CallError> {
        if self.is_ready() { Ok(()) } else { Err(CallError::new(ErrorClass::Unavailable, "live-store is starting")) }
    }

    async fn compute<T: Send + 'static>(&self, name: &'static str, job: impl FnOnce() -> T + Send + 'static) -> Result<T, CallError> {
        self.cpu.run(name, job).await.map_err(|failure| CallError::from_chain(ErrorClass::Internal, &failure))
    }
}

/// Tells a running evaluation that nobody waits for it any more.
#[derive(Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

fn find_trace(snapshot: &Snapshot, trace_id: TraceId) -> Option<SpanTable> {
    let parts: Vec<_> = snapshot
        .segments
        .iter()
        .filter_map(|segment| Some((&segment.table, segment.table.traces.ids.binary_search(&trace_id).ok()?)))
        .collect();
    (!parts.is_empty()).then(|| combine_trace(&parts))
}

fn search(snapshot: &Snapshot, plan: &Plan, request: &SearchRequest, cancelled: &AtomicBool) -> Result<SearchReply, CallError> {
    // Memory is cheap to search, and answers that do not change from one call to the next are worth it.
    let mut collector = SearchCollector::new(request.limit, SearchOrder::MostRecent);
    let mut inspection = Inspection::default();
    for part in parts(snapshot, time_range(request)) {
        let rows = part.rows(request);
        let options = EvaluateOptions { rows: rows.as_ref(), spans_per_span_set: request.spans_per_span_set, cancelled };
        let mut matches = evaluate(plan, part.table(), options).map_err(|error| CallError::from_chain(error.class(), &error))?;
        inspection.traces += matches.inspected.traces;
        inspection.spans += matches.inspected.spans;
        inspection.bytes += matches.inspected.bytes;
        matches.traces.retain(|trace| collector.wants(trace.trace_id, trace.start_unix_nanos));
        matches.keep_newest(request.limit);
        hits(plan, &matches, part.table(), HitRows::Same).into_iter().for_each(|hit| collector.add(hit));
    }
    Ok(SearchReply { hits: collector.finish(), inspection })
}

fn find_tag_names(snapshot: &Snapshot, request: &TagNamesRequest) -> TagNamesReply {
    let selection = selection(&request.filter);
    let mut names = TagNames::new(request.limits);
    let mut inspection = Inspection::default();
    for part in parts(snapshot, request.range) {
        tag_names(part.table(), &request.scopes, &selection, &mut names);
        inspect(&mut inspection, part.table());
    }
    TagNamesReply { truncated: names.is_exhausted(), names: names.into_scopes().collect(), inspection }
}

fn find_tag_values(snapshot: &Snapshot, request: &TagValuesRequest) -> TagValuesReply {
    let selection = selection(&request.filter);
    let mut values = TagValues::new(request.limits);
    let mut inspection = Inspection::default();
    for part in parts(snapshot, request.range) {
        tag_values(part.table(), &request.attribute, &selection, &mut values);
        inspect(&mut inspection, part.table());
    }
    TagValuesReply { truncated: values.is_exhausted(), values: values.into_values(), inspection }
}

/// Returns which spans a filter lets through; all when it cannot be used.
fn selection(filter: &str) -> TagSelection {
    extract_conditions(filter, MAX_CONDITION_GROUPS).map(|filter| TagSelection::new(&filter)).unwrap_or_default()
}

fn inspect(inspection: &mut Inspection, table: &SpanTable) {
    inspection.traces += table.trace_count() as u64;
    inspection.spans += table.span_count() as u64;
    inspection.bytes += table.memory_bytes() as u64;
}

/// A table to look at.
enum Part<'a> {
    /// A segment, of which traces that are split over several segments do not count.
    Segment { table: &'a SpanTable, snapshot: &'a Snapshot },
    /// The split traces, joined.
    Joined(SpanTable),
}

impl Part<'_> {
    fn table(&self) -> &SpanTable {
        match self {
            Self::Segment { table, .. } => table,
            Self::Joined(table) => table,
        }
    }

    /// The rows that a search looks at; `None`: all.
    fn rows(&self, request: &SearchRequest) -> Option<Bitset> {
        let in_time = request.rows(self.table());
        match self {
            Self::Segment { table, snapshot } if !snapshot.split.is_empty() => {
                let rows = in_time.unwrap_or_else(|| Bitset::full(table.trace_count()));
                Some(rows.filter(|row| !snapshot.split.contains(&table.traces.ids[row])))
            }
            _ => in_time,
        }
    }
}

/// Returns the tables whose traces may lie in `range`, newest segments first.
fn parts<'a>(snapshot: &'a Snapshot, range: TimeRange) -> Vec<Part<'a>> {
    let overlaps = |table: &SpanTable| {
        let start = table.traces.start_unix_nanos.iter().min().copied().unwrap_or(0) / NANOS_PER_SECOND;
        let end = table.traces.end_unix_nanos.iter().max().copied().unwrap_or(0) / NANOS_PER_SECOND;
        range.overlaps(start as i64, end as i64)
    };
    let joined = (!snapshot.split.is_empty()).then(|| Part::Joined(join_split_traces(snapshot)));
    let segments = snapshot.segments.iter().rev().map(|segment| &segment.table);
    joined.into_iter().chain(segments.map(|table| Part::Segment { table, snapshot })).filter(|part| overlaps(part.table())).collect()
}

fn join_split_traces(snapshot: &Snapshot) -> SpanTable {
    let tables: Vec<_> = snapshot.segments.iter().map(|segment| &segment.table).collect();
    let mut combiner = Combiner::new(&tables);
    for trace in trace_order(&tables).chunk_by(|a, b| a.0 == b.0).filter(|trace| snapshot.split.contains(&trace[0].0)) {
        combiner.push_trace(trace);
    }
    combiner.finish()
}
