//! Metrics jobs.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use futures::future::try_join_all;

use super::blocks::{JobError, groups, inspection, observe};
use super::pruning::{candidate_groups, condition_probes};
use super::row_finder::RowFinder;
use super::{CancelOnDrop, Querier};
use crate::model::ids::TenantId;
use crate::services::block_projection::projection_of;
use crate::services::rpc::metrics_query::{MetricsReply, MetricsRequest, RecentMetricsReply, seconds_of};
use crate::services::rpc::search::Inspection;
use crate::services::rpc::status::CallError;
use crate::services::span_metrics::{job_options, plan_metrics};
use crate::services::span_search::{engine_error, inspection_of};
use crate::tempodb::block::error::BlockReadError;
use crate::tempodb::block::meta::BlockMeta;
use crate::tempodb::block::prune::{IntColumn, Range as Known};
use crate::tempodb::block::read::{BlockReader, ReadMeter};
use crate::traceql::engine::Inspected;
use crate::traceql::metrics::{RawMetrics, SumStage, Window};

impl Querier {
    pub(super) async fn metrics_of_recent(&self, tenant: &TenantId, request: &MetricsRequest) -> Result<RecentMetricsReply, CallError> {
        if self.span_readers.is_empty() {
            let blocks = self.db.blocks_overlapping(tenant, seconds_of(&request.window).seconds());
            return Ok(RecentMetricsReply { blocks, ..RecentMetricsReply::default() });
        }
        let mut replies = try_join_all(self.span_readers.iter().map(|reader| reader.metrics(tenant, request))).await?;
        match replies.pop() {
            Some(only) if replies.is_empty() => Ok(only),
            last => {
                replies.extend(last);
                let request = request.clone();
                self.on_cpu("sum_recent_series", move || sum_of_recent(&request, replies)).await?
            }
        }
    }

    pub(super) async fn count_block(
        &self,
        tenant: &TenantId,
        request: &MetricsRequest,
        meta: &Arc<BlockMeta>,
        row_groups: Range<usize>,
    ) -> Result<MetricsReply, CallError> {
        let started = Instant::now();
        let outcome = self.try_count_block(tenant, request, meta, row_groups).await;
        observe("metrics", tenant, started);
        Ok(self
            .or_skipped(tenant, meta, outcome)?
            .unwrap_or_else(|| MetricsReply { inspection: Inspection::SKIPPED, ..MetricsReply::default() }))
    }

    async fn try_count_block(
        &self,
        tenant: &TenantId,
        request: &MetricsRequest,
        meta: &Arc<BlockMeta>,
        row_groups: Range<usize>,
    ) -> Result<MetricsReply, JobError> {
        let plan = plan_metrics(&request.query)?;
        if plan.is_noop() {
            return Ok(MetricsReply::default());
        }
        let mut fetch = plan.fetch().clone();
        fetch.conditions.push(request.window.condition());
        let projection = projection_of(&fetch);
        let meter = ReadMeter::default();
        let cancel = CancelOnDrop::default();
        let promising = candidate_groups(self.db.side(), tenant, meta, &row_groups, &condition_probes(&fetch), &meter).await;
        if promising.as_ref().is_some_and(Vec::is_empty) {
            return Ok(MetricsReply { inspection: inspection(&meter), ..MetricsReply::default() });
        }
        let reader = self.db.open(tenant, meta, &meter).await?;
        let in_file = groups(&reader, row_groups);
        let starts = span_starts(&reader, in_file.clone())?;
        let Some((window, is_whole)) = window_of(request.window, &starts) else {
            return Ok(MetricsReply { inspection: inspection(&meter), ..MetricsReply::default() });
        };
        let mut raw = RawMetrics::new(&plan, job_options(request, window)).map_err(engine_error)?;
        let mut seen = Inspection::default();
        let mut finder = RowFinder::new(self, &reader, &fetch, &projection, plan.prefilter(), &meter);
        for group in promising.unwrap_or_else(|| in_file.clone().collect()).into_iter().filter(|group| in_file.contains(group)) {
            if raw.is_full() {
                break;
            }
            let (first, last) = bounds_of(&reader.int_range(group, &IntColumn::SpanStart)?).unwrap_or((0, u64::MAX));
            let Some(found) = finder.fetch(group, raw.needs_traces(first, last)).await? else { continue };
            let traces = found.traces as u64;
            let cancelled = Arc::clone(&cancel.0);
            let (counted, inspected) = self
                .on_cpu("count_row_group", move || {
                    let table = found.decode()?;
                    let inspected = raw.add(&table, None, &cancelled).map_err(engine_error)?;
                    Ok::<_, JobError>((raw, inspected))
                })
                .await??;
            raw = counted;
            seen.add(inspection_of(Inspected { traces, ..inspected }));
        }
        seen.add(finder.passed_over());
        let series = self.on_cpu("finish_series", move || raw.finish()).await?;
        let inspection = Inspection { traces: seen.traces, spans: seen.spans, ..inspection(&meter) };
        Ok(MetricsReply { series, inspection, is_whole })
    }
}

/// Joins what several hold, each with the blocks that it knows.
fn sum_of_recent(request: &MetricsRequest, replies: Vec<RecentMetricsReply>) -> Result<RecentMetricsReply, CallError> {
    let plan = plan_metrics(&request.query)?;
    let mut sum = SumStage::new(&plan, job_options(request, request.window)).map_err(engine_error)?;
    let (mut inspection, mut blocks, mut known) = (Inspection::default(), Vec::new(), HashSet::new());
    for reply in replies {
        inspection.add(reply.reply.inspection);
        sum.add(reply.reply.series);
        blocks.extend(reply.blocks.into_iter().filter(|meta| known.insert(meta.block_id)));
    }
    Ok(RecentMetricsReply { reply: MetricsReply { series: sum.finish(), inspection, is_whole: false }, blocks })
}

/// Returns the bounds of the times at which spans of some row groups start, from the footer alone.
fn span_starts(reader: &BlockReader, row_groups: Range<usize>) -> Result<Known, BlockReadError> {
    let mut all = Known::Empty;
    for group in row_groups {
        all = all.or(reader.int_range(group, &IntColumn::SpanStart)?);
    }
    Ok(all)
}

/// Returns the part of a window in which spans with these starts can lie, and whether all of them do; `None`: none does.
fn window_of(window: Window, starts: &Known) -> Option<(Window, bool)> {
    let Some((min, max)) = bounds_of(starts) else { return (*starts != Known::Empty).then_some((window, false)) };
    let is_whole = window.contains(min) && window.contains(max);
    Some((window.trimmed(min.saturating_sub(1), max)?, is_whole))
}

/// Returns the first and the last of known times; `None`: they are not known, or none.
fn bounds_of(times: &Known) -> Option<(u64, u64)> {
    let Known::Within(bounds) = times else { return None };
    Some((u64::try_from(bounds.min).ok()?, u64::try_from(bounds.max).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tempodb::block::prune::IntBounds;

    const S: u64 = 1_000_000_000;

    #[test]
    fn jobs_look_at_no_more_than_their_spans() {
        let window = Window::range(90 * S, 150 * S, 10 * S);
        let within = |min: u64, max: u64| Known::Within(IntBounds { min: i128::from(min), max: i128::from(max) });
        assert_eq!(window_of(window, &within(113 * S, 125 * S)), Some((Window::range(110 * S, 130 * S, 10 * S), true)));
        assert_eq!(window_of(window, &within(80 * S, 125 * S)), Some((Window::range(90 * S, 130 * S, 10 * S), false)));
        assert_eq!(window_of(window, &within(90 * S, 90 * S)), None, "the start is not part of the window");
        assert_eq!(window_of(window, &within(151 * S, 200 * S)), None);
        assert_eq!(window_of(window, &Known::Unknown), Some((window, false)));
        assert_eq!(window_of(window, &Known::Empty), None);
    }
}
