//! Metrics over blocks in which a span may occur several times: those that classic ingesters of a replication factor above one have written.
//!
//! The blocks are read side by side in the order of their traces, pieces of a trace are joined, and a span counts once (by trace, span id and kind).
//! That takes all columns and no row can be skipped, so such blocks are costly until they are old; what compaction writes here is no cheaper,
//! because the blocks beside it may hold the same spans.
//!
//! Memory: a slice of every block, together [`SLICE_BYTES`] and a row each, and as much again for their pages.

use std::sync::Arc;
use std::time::Instant;

use futures::future::try_join_all;

use super::blocks::{JobError, inspection, observe};
use super::{CancelOnDrop, Querier};
use crate::model::combine::{Combiner, DerivedColumns, Piece};
use crate::model::ids::{TenantId, TraceId};
use crate::model::span_table::SpanTable;
use crate::services::rpc::metrics_query::{MetricsReply, MetricsRequest};
use crate::services::rpc::search::Inspection;
use crate::services::rpc::status::CallError;
use crate::services::span_metrics::{job_options, plan_metrics};
use crate::services::span_search::{engine_error, inspection_of};
use crate::tempodb::block::error::BlockReadError;
use crate::tempodb::block::meta::BlockMeta;
use crate::tempodb::block::projection::Projection;
use crate::tempodb::block::read::ReadMeter;
use crate::tempodb::block::scan::{RowScan, ScanLimits};
use crate::tempodb::compaction::derived_columns;
use crate::traceql::metrics::RawMetrics;

/// Memory of the decoded slices of all blocks.
const SLICE_BYTES: u64 = 64 << 20;

/// One block on its way.
struct Input {
    meta: Arc<BlockMeta>,
    scan: RowScan,
    derived: DerivedColumns,
    slice: Arc<SpanTable>,
    /// First row of the slice that is not counted.
    row: usize,
    last_id: Option<TraceId>,
    is_ended: bool,
}

impl Querier {
    pub(super) async fn count_replicas(
        &self,
        tenant: &TenantId,
        request: &MetricsRequest,
        blocks: &[Arc<BlockMeta>],
    ) -> Result<MetricsReply, CallError> {
        let started = Instant::now();
        let plan = plan_metrics(&request.query)?;
        let mut raw = RawMetrics::new(&plan, job_options(request, request.window)).map_err(engine_error)?;
        let (meter, cancel) = (ReadMeter::default(), CancelOnDrop::default());
        let mut seen = Inspection::default();
        let mut inputs = Vec::new();
        for meta in blocks {
            let opened = self.open_input(tenant, meta, blocks.len() as u64, &meter).await;
            match self.or_skipped(tenant, meta, opened)? {
                Some(input) => inputs.push(input),
                None => seen.add(Inspection::SKIPPED),
            }
        }
        loop {
            let filled = try_join_all(inputs.iter_mut().map(|input| self.fill(tenant, input, &meter))).await?;
            filled.into_iter().filter(|is_broken| *is_broken).for_each(|_| seen.add(Inspection::SKIPPED));
            inputs.retain(|input| !input.is_ended);
            // Up to here every block has shown what it has.
            let Some(bound) = inputs.iter().filter_map(|input| input.last_id).min() else { break };
            let part = next_part(&mut inputs, bound);
            let cancelled = Arc::clone(&cancel.0);
            let (counted, inspected) = self
                .on_cpu("count_replicas", move || {
                    let table = part.join();
                    let inspected = raw.add(&table, None, &cancelled).map_err(engine_error)?;
                    Ok::<_, CallError>((raw, inspected))
                })
                .await??;
            raw = counted;
            seen.add(inspection_of(inspected));
            if raw.is_full() {
                break;
            }
        }
        observe("metrics", tenant, started);
        let series = self.on_cpu("finish_series", move || raw.finish()).await?;
        let inspection = Inspection { traces: seen.traces, spans: seen.spans, skipped_jobs: seen.skipped_jobs, ..inspection(&meter) };
        Ok(MetricsReply { series, inspection, is_whole: false })
    }

    async fn open_input(&self, tenant: &TenantId, meta: &Arc<BlockMeta>, blocks: u64, meter: &ReadMeter) -> Result<Input, JobError> {
        let reader = self.db.open(tenant, meta, meter).await?;
        let share = SLICE_BYTES / blocks.max(1);
        Ok(Input {
            meta: Arc::clone(meta),
            scan: RowScan::new(reader, Projection::all(), ScanLimits { fetch_bytes: share, slice_bytes: share }),
            derived: derived_columns(meta),
            slice: Arc::default(),
            row: 0,
            last_id: None,
            is_ended: false,
        })
    }

    /// Reads the next slice if the last one is used up. Returns whether the block turned out to be broken, which ends it.
    async fn fill(&self, tenant: &TenantId, input: &mut Input, meter: &ReadMeter) -> Result<bool, CallError> {
        while input.row == input.slice.trace_count() && !input.is_ended {
            let next = self.next_slice(input, meter).await;
            match self.or_skipped(tenant, &input.meta, next)? {
                Some(Some(slice)) => {
                    input.last_id = slice.traces.ids.last().copied().or(input.last_id);
                    (input.slice, input.row) = (Arc::new(slice), 0);
                }
                Some(None) => input.is_ended = true,
                None => {
                    input.is_ended = true;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn next_slice(&self, input: &mut Input, meter: &ReadMeter) -> Result<Option<SpanTable>, JobError> {
        input.slice = Arc::default();
        let Some(fetched) = input.scan.fetch_next(meter).await? else { return Ok(None) };
        let decoded = self.on_cpu("decode_slice", move || fetched.decode()).await??;
        let slice = input.scan.keep(decoded);
        let ids = input.last_id.iter().chain(&slice.traces.ids);
        if !ids.clone().zip(ids.skip(1)).all(|(a, b)| a < b) {
            return Err(BlockReadError::Layout("traces are not in the order of their ids").into());
        }
        Ok(Some(slice))
    }
}

/// Rows that are counted together.
struct Part {
    sources: Vec<(Arc<SpanTable>, DerivedColumns)>,
    /// Sorted by trace.
    rows: Vec<(TraceId, Piece)>,
}

/// Takes the rows of traces up to `bound` from all slices.
fn next_part(inputs: &mut [Input], bound: TraceId) -> Part {
    let mut rows = Vec::new();
    for (source, input) in inputs.iter_mut().enumerate() {
        let ids = &input.slice.traces.ids;
        let end = ids.partition_point(|id| *id <= bound);
        rows.extend((input.row..end).map(|row| (ids[row], Piece { source, row })));
        input.row = end.max(input.row);
    }
    rows.sort_by_key(|(id, _)| *id);
    Part { sources: inputs.iter().map(|input| (Arc::clone(&input.slice), input.derived)).collect(), rows }
}

impl Part {
    /// Joins the pieces of each trace.
    fn join(self) -> SpanTable {
        let mut combiner = Combiner::default();
        for (at, (slice, derived)) in self.sources.into_iter().enumerate() {
            combiner.put_source(at, slice, derived);
        }
        for trace in self.rows.chunk_by(|a, b| a.0 == b.0) {
            combiner.push_trace(trace);
        }
        combiner.finish()
    }
}
