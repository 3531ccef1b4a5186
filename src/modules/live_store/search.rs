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
use crate::services::rpc::metrics_query::{MetricsRequest, RecentMetricsReply, seconds_of};
use crate::services::rpc::search::{SearchReply, TagNamesReply, TagNamesRequest, TagValuesReply, TagValuesRequest, TimeRange, time_range};
use crate::services::rpc::span_reader::SpanReader;
use crate::services::rpc::status::CallError;
use crate::services::span_metrics::metrics_of_tables;
use crate::services::span_search::{SearchedTable, search_tables, tag_names_of, tag_values_of};
use crate::tempodb::db::overlapping;
use crate::traceql::result::SearchRequest;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

#[async_trait]
impl SpanReader for LiveStore {
    async fn find_trace(&self, tenant: &TenantId, trace_id: TraceId) -> Result<Option<SpanTable>, CallError> {
        self.ensure_ready()?;
        let snapshot = self.snapshot(tenant);
        self.compute("find_live_trace", move || find_trace(&snapshot, trace_id)).await
    }

    async fn search(&self, tenant: &TenantId, request: &SearchRequest) -> Result<SearchReply, CallError> {
        self.ensure_ready()?;
        let (snapshot, request) = (self.snapshot(tenant), request.clone());
        let cancelled = CancelOnDrop::default();
        let flag = Arc::clone(&cancelled.0);
        let job = move || search_tables(Tables::new(snapshot).whole_traces(time_range(&request)), &request, &flag);
        self.compute("search_live_traces", job).await?
    }

    async fn metrics(&self, tenant: &TenantId, request: &MetricsRequest) -> Result<RecentMetricsReply, CallError> {
        self.ensure_ready()?;
        let ((snapshot, listed), request) = (self.snapshot_with_blocks(tenant), request.clone());
        let cancelled = CancelOnDrop::default();
        let flag = Arc::clone(&cancelled.0);
        let job = move || {
            let range = seconds_of(&request.window);
            let blocks = overlapping(&listed, range.seconds());
            // Pieces are joined even for queries that need no whole traces: a span that came twice counts once.
            let reply = metrics_of_tables(Tables::new(snapshot).whole_traces(range), &request, &flag)?;
            Ok(RecentMetricsReply { reply, blocks })
        };
        self.compute("count_live_spans", job).await?
    }

    async fn tag_names(&self, tenant: &TenantId, request: &TagNamesRequest) -> Result<TagNamesReply, CallError> {
        self.ensure_ready()?;
        let (snapshot, request) = (self.snapshot(tenant), request.clone());
        self.compute("tag_names_of_live_traces", move || tag_names_of(Tables::new(snapshot).segments(request.range), &request)).await
    }

    async fn tag_values(&self, tenant: &TenantId, request: &TagValuesRequest) -> Result<TagValuesReply, CallError> {
        self.ensure_ready()?;
        let (snapshot, request) = (self.snapshot(tenant), request.clone());
        self.compute("tag_values_of_live_traces", move || tag_values_of(Tables::new(snapshot).segments(request.range), &request)).await
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

/// The segments of a snapshot, and the traces that are split over several of them as one more table.
struct Tables {
    snapshot: Snapshot,
    joined: Option<SpanTable>,
}

impl Tables {
    fn new(snapshot: Snapshot) -> Self {
        let joined = (!snapshot.split.is_empty()).then(|| join_split_traces(&snapshot));
        Self { snapshot, joined }
    }

    /// Whole traces: in segments, those that are split do not count. Newest first; what cannot be in `range` is left out.
    fn whole_traces(&self, range: TimeRange) -> impl Iterator<Item = SearchedTable<'_>> {
        let split = &self.snapshot.split;
        let segments = self.snapshot.segments.iter().rev().map(move |segment| {
            let table = &segment.table;
            let rows = (!split.is_empty()).then(|| Bitset::full(table.trace_count()).filter(|row| !split.contains(&table.traces.ids[row])));
            SearchedTable { rows, ..SearchedTable::from(table) }
        });
        let joined = self.joined.iter().map(SearchedTable::from);
        joined.chain(segments).filter(move |searched| may_overlap(searched.table, range))
    }

    /// All segments in which something of `range` may be.
    fn segments(&self, range: TimeRange) -> impl Iterator<Item = &SpanTable> {
        self.snapshot.segments.iter().rev().map(|segment| &segment.table).filter(move |table| may_overlap(table, range))
    }
}

fn may_overlap(table: &SpanTable, range: TimeRange) -> bool {
    let start = table.traces.start_unix_nanos.iter().min().copied().unwrap_or(0) / NANOS_PER_SECOND;
    let end = table.traces.end_unix_nanos.iter().max().copied().unwrap_or(0) / NANOS_PER_SECOND;
    range.overlaps(start as i64, end as i64)
}

fn join_split_traces(snapshot: &Snapshot) -> SpanTable {
    let tables: Vec<_> = snapshot.segments.iter().map(|segment| &segment.table).collect();
    let mut combiner = Combiner::new(&tables);
    for trace in trace_order(&tables).chunk_by(|a, b| a.0 == b.0).filter(|trace| snapshot.split.contains(&trace[0].0)) {
        combiner.push_trace(trace);
    }
    combiner.finish()
}
