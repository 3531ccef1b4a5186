//! Jobs over blocks.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use ::metrics::{counter, histogram};
use futures::stream::{self, StreamExt as _};
use tracing::warn;

use super::metrics::{BACKEND_PROCESSING, SKIPPED_BLOCKS};
use super::pruning::{candidate_groups, probes_of};
use super::row_finder::RowFinder;
use super::row_group_order::{OrderedGroup, in_search_order};
use super::{CancelOnDrop, Querier};
use crate::model::ids::TenantId;
use crate::model::span_table::SpanTable;
use crate::services::block_projection::projection_of;
use crate::services::rpc::querier::{FindTraceReply, FindTraceRequest};
use crate::services::rpc::search::{Inspection, SearchReply, TagNamesReply, TagNamesRequest, TagValuesReply, TagValuesRequest};
use crate::services::rpc::status::CallError;
use crate::services::span_search::{Place, SearchedTable, inspection_of, plan_search, tag_selection, wanted_matches};
use crate::tempodb::block::error::BlockReadError;
use crate::tempodb::block::meta::{BlockId, BlockMeta};
use crate::tempodb::block::read::{BlockReader, ReadMeter};
use crate::tempodb::block::selection::RowSelection;
use crate::tempodb::db::DbError;
use crate::tempodb::metrics::FILTER_FALSE_POSITIVES;
use crate::tempodb::trace_filter::lookup::Candidate;
use crate::traceql::engine::projection::FetchColumn;
use crate::traceql::engine::{self, HitRows, hits};
use crate::traceql::order::SearchOrder;
use crate::traceql::result::{SearchCollector, SearchRequest};
use crate::traceql::tags::{TagNames, TagValues};

/// Blocks of one trace lookup that are asked at the same time: enough to hide the latency of object storage.
const BLOCKS_AT_ONCE: usize = 16;

/// Why a job over a block gave up.
pub(super) enum JobError {
    Open(DbError),
    Block(BlockReadError),
    Call(CallError),
}

impl From<DbError> for JobError {
    fn from(error: DbError) -> Self {
        Self::Open(error)
    }
}

impl From<BlockReadError> for JobError {
    fn from(error: BlockReadError) -> Self {
        Self::Block(error)
    }
}

impl From<CallError> for JobError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl Querier {
    /// Looks into all blocks of a range of ids that may hold the trace.
    pub(super) async fn find_in_blocks(
        &self,
        tenant: &TenantId,
        request: FindTraceRequest,
        first: BlockId,
        last: BlockId,
    ) -> Result<FindTraceReply, CallError> {
        let started = Instant::now();
        let candidates = self.db.candidate_blocks(tenant, request.trace_id, request.range.seconds(), first..=last).await;
        let mut found = stream::iter(candidates.blocks)
            .map(|candidate| async move {
                let meter = ReadMeter::default();
                let found = self.find_in_candidate(tenant, request, &candidate, &meter).await;
                let part = self.or_skipped(tenant, &candidate.meta, found)?;
                Ok::<_, CallError>((candidate.meta.block_id, part, inspection(&meter)))
            })
            .buffer_unordered(BLOCKS_AT_ONCE);
        let mut reply = FindTraceReply::default();
        let cost = candidates.cost;
        reply.inspection.add(Inspection { backend_reads: cost.requests, backend_bytes: cost.bytes, ..Inspection::default() });
        while let Some(outcome) = found.next().await {
            let (block, part, inspection) = outcome?;
            reply.inspection.add(inspection);
            match part {
                Some(part) => reply.parts.extend(part),
                None => {
                    reply.skipped_blocks.push(block);
                    reply.inspection.add(Inspection::SKIPPED);
                }
            }
        }
        observe("traces", tenant, started);
        Ok(reply)
    }

    async fn find_in_candidate(
        &self,
        tenant: &TenantId,
        request: FindTraceRequest,
        candidate: &Candidate,
        meter: &ReadMeter,
    ) -> Result<Option<SpanTable>, JobError> {
        let (meta, id) = (&candidate.meta, request.trace_id);
        // A block is opened only if it may hold the trace.
        if !candidate.is_named_by_filter && !self.db.bloom_may_contain(tenant, meta, id).await? {
            return Ok(None);
        }
        let reader = self.db.open(tenant, meta, meter).await?;
        let Some(fetched) = reader.fetch_trace(id, meter).await? else {
            if candidate.is_named_by_filter {
                counter!(FILTER_FALSE_POSITIVES).increment(1);
            }
            return Ok(None);
        };
        Ok(Some(self.on_cpu("decode_trace", move || fetched.decode()).await??))
    }

    /// Turns a broken block into `None`, logged and counted; other errors go to the caller.
    pub(super) fn or_skipped<T>(&self, tenant: &TenantId, meta: &BlockMeta, outcome: Result<T, JobError>) -> Result<Option<T>, CallError> {
        let error = match outcome {
            Ok(value) => return Ok(Some(value)),
            Err(JobError::Call(error)) => return Err(error),
            Err(JobError::Block(error)) => self.db.failure(tenant, meta.block_id, error),
            Err(JobError::Open(error)) => error,
        };
        if !error.is_corrupt() {
            return Err(CallError::from_chain(error.class(), &error));
        }
        counter!(SKIPPED_BLOCKS, "tenant" => tenant.to_string()).increment(1);
        warn!(%tenant, block = %meta.block_id, error = &error as &dyn std::error::Error, "broken block left out of a query");
        Ok(None)
    }

    pub(super) async fn search_block(
        &self,
        tenant: &TenantId,
        request: &SearchRequest,
        meta: &Arc<BlockMeta>,
        row_groups: Range<usize>,
    ) -> Result<SearchReply, CallError> {
        let started = Instant::now();
        let outcome = self.try_search_block(tenant, request, meta, row_groups).await;
        observe("search", tenant, started);
        Ok(self
            .or_skipped(tenant, meta, outcome)?
            .unwrap_or_else(|| SearchReply { inspection: Inspection::SKIPPED, ..SearchReply::default() }))
    }

    async fn try_search_block(
        &self,
        tenant: &TenantId,
        request: &SearchRequest,
        meta: &Arc<BlockMeta>,
        row_groups: Range<usize>,
    ) -> Result<SearchReply, JobError> {
        let plan = Arc::new(plan_search(request)?);
        if plan.is_noop() {
            return Ok(SearchReply::default());
        }
        let request = Arc::new(request.clone());
        let mut fetch = plan.fetch().clone();
        if plan.order() != SearchOrder::FirstFound || request.needs_trace_times() {
            fetch.columns.insert(FetchColumn::TraceTimes);
        }
        let (conditions, results) = (projection_of(&fetch), projection_of(plan.result_fetch()));
        let meter = ReadMeter::default();
        let cancel = CancelOnDrop::default();
        let promising = candidate_groups(self.db.side(), tenant, meta, &row_groups, &probes_of(&fetch, &request), &meter).await;
        if promising.as_ref().is_some_and(Vec::is_empty) {
            return Ok(SearchReply { hits: Vec::new(), inspection: inspection(&meter) });
        }
        let reader = self.db.open(tenant, meta, &meter).await?;
        let mut collector = SearchCollector::new(request.limit, plan.order());
        let mut seen = Inspection::default();
        let in_file = groups(&reader, row_groups);
        let promising = promising.unwrap_or_else(|| in_file.clone().collect()).into_iter().filter(|group| in_file.contains(group));
        let mut finder = RowFinder::new(self, &reader, &fetch, &conditions, plan.prefilter(), &meter);
        for OrderedGroup { group, bounds } in in_search_order(&reader, promising, plan.order())? {
            // A block holds a trace once, so none of these is held.
            if !plan.may_refuse() && !collector.wants_within(bounds) {
                continue;
            }
            let Some(found) = finder.fetch(group, true).await? else { continue };
            let selection = found.rows.clone();
            let task = (Arc::clone(&plan), Arc::clone(&request), Arc::clone(&cancel.0));
            let (kept, matches, table) = self
                .on_cpu("search_row_group", move || {
                    let (plan, request, cancelled) = task;
                    let mut table = found.decode()?;
                    let searched = SearchedTable { table: &table, rows: None, place: Place::Block };
                    let matches = wanted_matches(&plan, &request, searched, &collector, &cancelled)?;
                    table.keep_rows(matches.rows());
                    Ok::<_, JobError>((collector, matches, table))
                })
                .await??;
            collector = kept;
            seen.add(inspection_of(matches.inspected));
            if matches.traces.is_empty() {
                continue;
            }
            let rows = RowSelection::from_rows(matches.rows().filter_map(|row| match &selection {
                Some(selection) => selection.row(row),
                None => Some(row),
            }));
            let rest = reader.fetch_rest(group, &results, &conditions, Some(&rows), &meter).await?;
            let plan = Arc::clone(&plan);
            let show = move || Ok::<_, BlockReadError>(hits(&plan, &matches, &rest.decode(table)?, HitRows::MatchesOnly));
            let found = self.on_cpu("show_matches", show).await??;
            collector.add_all(found);
            // What row groups of an order are left is told by their bounds.
            if collector.can_stop(u32::MAX) {
                break;
            }
        }
        seen.add(finder.passed_over());
        let inspection = Inspection { traces: seen.traces, spans: seen.spans, ..inspection(&meter) };
        Ok(SearchReply { hits: collector.finish(), inspection })
    }

    pub(super) async fn tag_names_of_block(
        &self,
        tenant: &TenantId,
        request: &TagNamesRequest,
        meta: &Arc<BlockMeta>,
        row_groups: Range<usize>,
    ) -> Result<TagNamesReply, CallError> {
        let started = Instant::now();
        let outcome = self.try_tag_names(tenant, request, meta, row_groups).await;
        observe("tags", tenant, started);
        Ok(self
            .or_skipped(tenant, meta, outcome)?
            .unwrap_or_else(|| TagNamesReply { inspection: Inspection::SKIPPED, ..TagNamesReply::default() }))
    }

    async fn try_tag_names(
        &self,
        tenant: &TenantId,
        request: &TagNamesRequest,
        meta: &Arc<BlockMeta>,
        row_groups: Range<usize>,
    ) -> Result<TagNamesReply, JobError> {
        let selection = Arc::new(tag_selection(&request.filter));
        let projection = projection_of(&selection.names_fetch(&request.scopes));
        let meter = ReadMeter::default();
        let reader = self.db.open(tenant, meta, &meter).await?;
        let mut names = TagNames::new(request.limits);
        for group in groups(&reader, row_groups) {
            let fetched = reader.fetch_row_group(group, &projection, None, &meter).await?;
            let (selection, scopes) = (Arc::clone(&selection), request.scopes.clone());
            names = self
                .on_cpu("tag_names", move || {
                    engine::tag_names(&fetched.decode()?, &scopes, &selection, &mut names);
                    Ok::<_, BlockReadError>(names)
                })
                .await??;
            if names.is_exhausted() {
                break;
            }
        }
        Ok(TagNamesReply { truncated: names.is_exhausted(), names: names.into_scopes().collect(), inspection: inspection(&meter) })
    }

    pub(super) async fn tag_values_of_block(
        &self,
        tenant: &TenantId,
        request: &TagValuesRequest,
        meta: &Arc<BlockMeta>,
        row_groups: Range<usize>,
    ) -> Result<TagValuesReply, CallError> {
        let started = Instant::now();
        let outcome = self.try_tag_values(tenant, request, meta, row_groups).await;
        observe("tag_values", tenant, started);
        Ok(self
            .or_skipped(tenant, meta, outcome)?
            .unwrap_or_else(|| TagValuesReply { inspection: Inspection::SKIPPED, ..TagValuesReply::default() }))
    }

    async fn try_tag_values(
        &self,
        tenant: &TenantId,
        request: &TagValuesRequest,
        meta: &Arc<BlockMeta>,
        row_groups: Range<usize>,
    ) -> Result<TagValuesReply, JobError> {
        let selection = Arc::new(tag_selection(&request.filter));
        let projection = projection_of(&selection.values_fetch(&request.attribute));
        let meter = ReadMeter::default();
        let reader = self.db.open(tenant, meta, &meter).await?;
        let mut values = TagValues::new(request.limits);
        for group in groups(&reader, row_groups) {
            let fetched = reader.fetch_row_group(group, &projection, None, &meter).await?;
            let (selection, attribute) = (Arc::clone(&selection), request.attribute.clone());
            values = self
                .on_cpu("tag_values", move || {
                    engine::tag_values(&fetched.decode()?, &attribute, &selection, &mut values);
                    Ok::<_, BlockReadError>(values)
                })
                .await??;
            if values.is_exhausted() {
                break;
            }
        }
        Ok(TagValuesReply { truncated: values.is_exhausted(), values: values.into_values(), inspection: inspection(&meter) })
    }
}

/// Returns the row groups of a job that the file has.
pub(super) fn groups(reader: &BlockReader, row_groups: Range<usize>) -> Range<usize> {
    row_groups.start.min(reader.row_groups())..row_groups.end.min(reader.row_groups())
}

pub(super) fn inspection(meter: &ReadMeter) -> Inspection {
    let cost = meter.cost();
    Inspection { bytes: meter.inspected_bytes(), backend_reads: cost.requests, backend_bytes: cost.bytes, ..Inspection::default() }
}

pub(super) fn observe(operation: &'static str, tenant: &TenantId, started: Instant) {
    histogram!(BACKEND_PROCESSING, "operation" => operation, "tenant" => tenant.to_string()).record(started.elapsed());
}
