//! Metrics queries: recent spans first, then the blocks that have all others, summed as they come (read-path §8).
//!
//! Who holds recent spans answers with the blocks of the same moment. Blocks that are written or merged afterwards hold no span that is
//! missing there, and are not asked; blocks that are replaced meanwhile can still be read.

use std::sync::Arc;

use futures::stream::{self, StreamExt as _};

use super::job_cache::Question;
use super::jobs::{self, Job, JobPlan};
use super::metrics_answer::{InstantMessage, LeftOut, RangeMessage};
use super::metrics_params::{MetricsApi, MetricsParams};
use super::respond::{Answer, Format};
use super::search::SearchTotals;
use super::{QueryFrontend, Reply};
use crate::model::ids::TenantId;
use crate::services::rpc::metrics_query::{MetricsReply, MetricsRequest, RecentMetricsReply, seconds_within};
use crate::services::rpc::querier::SearchPart;
use crate::services::rpc::status::CallError;
use crate::services::span_search::engine_error;
use crate::tempodb::block::meta::BlockMeta;
use crate::traceql::metrics::{FinalOptions, FinalStage, MetricsPlan, SeriesSet};

/// A job may find this many times the series of the answer, so that an answer that is cut holds the first series in order, with all of their values.
const JOB_SERIES_FACTOR: usize = 16;

/// Blocks of several replicas that a query joins. Their traces are read side by side, which takes memory for each; further ones are left out, and the
/// answer says so.
const MAX_REPLICA_BLOCKS: usize = 64;

/// Exemplars asked of a block, in parts of its share: some blocks have none.
const EXEMPLAR_SURPLUS: f64 = 1.2;

/// The jobs of a query over stored blocks.
#[derive(Default)]
struct MetricsJobs {
    plan: JobPlan,
    /// Blocks by tenant that may hold the same spans, because several ingesters wrote each of them.
    replicas: Vec<(TenantId, Vec<Arc<BlockMeta>>)>,
    /// Blocks of several replicas that are not looked at.
    left_out: usize,
}

impl MetricsJobs {
    fn add(&mut self, tenant: &TenantId, blocks: Vec<Arc<BlockMeta>>, target_bytes: u64) {
        let (mut replicas, blocks): (Vec<_>, Vec<_>) = blocks.into_iter().partition(|meta| meta.replication_factor > 1);
        self.left_out += replicas.len().saturating_sub(MAX_REPLICA_BLOCKS);
        replicas.truncate(MAX_REPLICA_BLOCKS);
        if !replicas.is_empty() {
            self.replicas.push((tenant.clone(), replicas));
        }
        self.plan.add_blocks(tenant, blocks, target_bytes, 0);
    }
}

/// What the jobs of a query share.
struct Jobs<'a> {
    request: &'a MetricsRequest,
    /// Seconds that the blocks of all jobs cover together.
    block_seconds: f64,
}

impl QueryFrontend {
    pub(super) async fn metrics(
        &self,
        tenants: &[TenantId],
        api: MetricsApi,
        params: MetricsParams,
        format: Format,
    ) -> Result<Reply, CallError> {
        let MetricsParams { text, query, window, exemplars, max_series } = params;
        let plan = MetricsPlan::new(&query).map_err(engine_error)?;
        let mut stage = FinalStage::new(&plan, window, FinalOptions { max_series, exemplars }).map_err(engine_error)?;
        let request = MetricsRequest { query: text, window, exemplars, max_series: max_series.saturating_mul(JOB_SERIES_FACTOR) };
        let (mut totals, mut jobs) = (SearchTotals::default(), MetricsJobs::default());
        if !plan.is_noop() {
            stage = self.count_recent(tenants, &request, stage, &mut jobs, &mut totals).await?;
            stage = self.count_replicas(&jobs, &request, stage, &mut totals).await?;
            stage = self.count_blocks(jobs.plan, &request, stage, &mut totals).await?;
        }
        let left_out = LeftOut { broken_jobs: totals.inspection.skipped_jobs, replica_blocks: jobs.left_out };
        let (inspection, jobs) = (totals.inspection, totals.jobs);
        let render = move || {
            let message = RangeMessage::new(stage.finish(), totals, left_out);
            match api {
                MetricsApi::Range => format.encode(&message),
                MetricsApi::Instant => format.encode(&InstantMessage(message)),
            }
        };
        let body = self.on_cpu("render_series", render).await?;
        Ok(Reply { answer: Answer::ok(format, body), inspection, jobs })
    }

    /// Counts the recent spans of all tenants, and plans the jobs over their blocks.
    async fn count_recent(
        &self,
        tenants: &[TenantId],
        request: &MetricsRequest,
        mut stage: FinalStage,
        jobs: &mut MetricsJobs,
        totals: &mut SearchTotals,
    ) -> Result<FinalStage, CallError> {
        totals.jobs += tenants.len();
        let mut replies = stream::iter(tenants.to_vec())
            .map(|tenant| async move {
                let reply = {
                    let _slot = self.slots.take(&tenant)?;
                    jobs::with_retries(self.config.max_retries, || self.querier.recent_metrics(&tenant, request)).await?
                };
                Ok::<_, CallError>((tenant, reply))
            })
            .buffer_unordered(self.config.metrics.concurrent_jobs.max(1));
        while let Some(reply) = replies.next().await {
            let (tenant, RecentMetricsReply { reply, blocks }) = reply?;
            totals.completed_jobs += 1;
            totals.inspection.add(reply.inspection);
            jobs.add(&tenant, blocks, self.config.metrics.target_bytes_per_job);
            stage = self.add_series(stage, reply.series).await?;
        }
        Ok(stage)
    }

    /// Counts the spans of blocks that may hold the same ones, one tenant after the other: such a job takes much memory.
    async fn count_replicas(
        &self,
        jobs: &MetricsJobs,
        request: &MetricsRequest,
        mut stage: FinalStage,
        totals: &mut SearchTotals,
    ) -> Result<FinalStage, CallError> {
        for (tenant, blocks) in &jobs.replicas {
            totals.jobs += 1;
            totals.blocks += u32::try_from(blocks.len()).unwrap_or(u32::MAX);
            totals.block_bytes += blocks.iter().map(|meta| meta.size_bytes).sum::<u64>();
            let reply = {
                let _slot = self.slots.take(tenant)?;
                jobs::with_retries(self.config.max_retries, || self.querier.metrics_of_replicas(tenant, request, blocks)).await?
            };
            totals.completed_jobs += 1;
            totals.inspection.add(reply.inspection);
            stage = self.add_series(stage, reply.series).await?;
        }
        Ok(stage)
    }

    /// Runs the jobs over blocks, some at a time, newest blocks first.
    async fn count_blocks(
        &self,
        plan: JobPlan,
        request: &MetricsRequest,
        mut stage: FinalStage,
        totals: &mut SearchTotals,
    ) -> Result<FinalStage, CallError> {
        totals.blocks += plan.blocks;
        totals.block_bytes += plan.block_bytes;
        totals.jobs += plan.jobs.len();
        let jobs = &Jobs { request, block_seconds: plan.jobs.iter().filter_map(seconds_of_job).sum() };
        let mut replies = stream::iter(plan.jobs)
            .map(|job| async move {
                let _slot = self.slots.take(&job.tenant)?;
                self.metrics_job(&job, jobs).await
            })
            .buffer_unordered(self.config.metrics.concurrent_jobs.max(1));
        while let Some(reply) = replies.next().await {
            let reply = reply?;
            totals.completed_jobs += 1;
            totals.inspection.add(reply.inspection);
            stage = self.add_series(stage, reply.series).await?;
        }
        Ok(stage)
    }

    async fn add_series(&self, mut stage: FinalStage, series: SeriesSet) -> Result<FinalStage, CallError> {
        if series == SeriesSet::default() {
            return Ok(stage);
        }
        let add = move || {
            stage.add(series);
            stage
        };
        self.on_cpu("add_series", add).await
    }

    async fn metrics_job(&self, job: &Job, jobs: &Jobs<'_>) -> Result<MetricsReply, CallError> {
        let SearchPart::Block { meta, row_groups } = &job.part else { return Ok(MetricsReply::default()) };
        let request = MetricsRequest { exemplars: jobs.exemplars_of(job), ..jobs.request.clone() };
        let ask = || {
            jobs::with_retries(self.config.max_retries, || self.querier.metrics_of_block(&job.tenant, &request, meta, row_groups.clone()))
        };
        self.job_cache.get_or_ask(&Question::metrics(&request), job, seconds_within(&request.window), ask).await
    }
}

/// Returns the seconds that a job covers: as many of its block as it has of the row groups.
fn seconds_of_job(job: &Job) -> Option<f64> {
    let SearchPart::Block { meta, row_groups } = &job.part else { return None };
    let all = meta.total_records.max(1) as usize;
    let part = row_groups.end.min(all).saturating_sub(row_groups.start).max(1) as f64 / all as f64;
    let seconds = meta.end_time.as_second().saturating_sub(meta.start_time.as_second()).max(0) + 1;
    Some(seconds as f64 * part.min(1.0))
}

impl Jobs<'_> {
    /// Returns how many exemplars a job is asked for: its share by the time that it covers. Rounded up to a power of two, so that cached answers
    /// serve queries over other times, too.
    fn exemplars_of(&self, job: &Job) -> u32 {
        let Some(seconds) = seconds_of_job(job).filter(|_| self.request.exemplars > 0) else { return 0 };
        let share = f64::from(self.request.exemplars) * EXEMPLAR_SURPLUS * seconds / self.block_seconds.max(1.0);
        (share.ceil() as u32).max(1).checked_next_power_of_two().unwrap_or(u32::MAX).min(self.request.exemplars)
    }
}
