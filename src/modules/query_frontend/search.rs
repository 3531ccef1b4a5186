//! Search: jobs over recent data and blocks, newest first, until enough traces are found (read-path §6, http-api §6.3).
//!
//! Recent data and blocks are both asked for the whole range and merged by trace id: what is being flushed may show up on both sides, and
//! never on neither.

use futures::stream::{self, StreamExt as _};

use super::job_cache::{Question, within_range};
use super::jobs::{self, Job, JobPlan};
use super::limits::QueryLimits;
use super::request::{RECENT_SECONDS, SearchParams, Window};
use super::respond::{Answer, Format, WriteMessage};
use super::{QueryFrontend, Reply};
use crate::base::error_class::ErrorClass;
use crate::model::ids::{TenantId, TraceId};
use crate::services::rpc::any_value::{AnyValue, write_key_value};
use crate::services::rpc::message::{Field, MessageWriter, field};
use crate::services::rpc::querier::SearchPart;
use crate::services::rpc::search::{Inspection, SearchReply, TimeRange, time_range};
use crate::services::rpc::status::CallError;
use crate::traceql::ast::{MetricsNode, Query, QueryBody};
use crate::traceql::order::SearchOrder;
use crate::traceql::result::{SearchCollector, SearchRequest, SpanSetHit, TraceHit};
use crate::traceql::types::Static;

/// The service name of a trace whose root is not known.
const ROOT_SPAN_NOT_YET_RECEIVED: &str = "<root span not yet received>";

impl QueryFrontend {
    pub(super) async fn search(
        &self,
        tenants: &[TenantId],
        limits: QueryLimits,
        params: SearchParams,
        format: Format,
    ) -> Result<Reply, CallError> {
        let (query, text) = search_query(params.query)?;
        let order = SearchOrder::of(&query).map_err(invalid_query)?;
        let plan = self.search_jobs(tenants, params.window);
        let recent = SearchRequest {
            query: text,
            limit: params.limit as usize,
            spans_per_span_set: params.spans_per_span_set as usize,
            ..SearchRequest::default()
        };
        let range = self.block_range(params.window);
        let in_blocks =
            SearchRequest { start_unix_seconds: range.start_unix_seconds, end_unix_seconds: range.end_unix_seconds, ..recent.clone() };
        let recent = if params.window.is_some() { in_blocks.clone() } else { recent };
        let totals = SearchTotals { blocks: plan.blocks, block_bytes: plan.block_bytes, jobs: plan.jobs.len(), ..SearchTotals::default() };
        let question = Question::search(&query, &in_blocks);
        let (hits, totals) = self.run_search(plan.jobs, &recent, &in_blocks, &question, order, totals).await?;
        let (inspection, jobs) = (totals.inspection, totals.jobs);
        let message = SearchMessage { hits, totals, with_span_sets: !params.is_tag_search, left_pad: limits.left_pad_trace_ids };
        let body = self.on_cpu("render_search", move || format.encode(&message)).await?;
        Ok(Reply { answer: Answer::ok(format, body), inspection, jobs })
    }

    /// Returns the jobs over everything that may hold data of `window`.
    pub(super) fn search_jobs(&self, tenants: &[TenantId], window: Option<Window>) -> JobPlan {
        self.job_plan(tenants, window, 0)
    }

    /// See [`QueryFrontend::search_jobs`]; with at most `max_blocks` blocks per tenant (0: all).
    pub(super) fn job_plan(&self, tenants: &[TenantId], window: Option<Window>, max_blocks: usize) -> JobPlan {
        let mut plan = JobPlan::default();
        let range = self.block_range(window);
        for tenant in tenants {
            plan.add_recent(tenant);
        }
        for tenant in tenants {
            let blocks = self.blocks.live_blocks(tenant, range);
            plan.add_blocks(tenant, blocks, self.config.search.target_bytes_per_job, max_blocks);
        }
        plan.jobs.sort_by_key(|job| std::cmp::Reverse(job.newest_unix_seconds));
        plan
    }

    /// The range in which blocks are looked at. A request without time wants recent data: blocks then complete what live-stores have let go of.
    pub(super) fn block_range(&self, window: Option<Window>) -> TimeRange {
        let now = self.clock.now_unix_seconds();
        let window = window.unwrap_or(Window { start: now.saturating_sub(RECENT_SECONDS), end: now });
        // A range that ends now includes what is younger than the last full second.
        let end = if window.end >= now { window.end.saturating_add(1) } else { window.end };
        let seconds = |seconds: u64| u32::try_from(seconds).unwrap_or(u32::MAX);
        TimeRange { start_unix_seconds: seconds(window.start), end_unix_seconds: seconds(end) }
    }

    /// Runs the jobs, some at a time, until all are done or the answer cannot change any more. Jobs that are not needed are dropped.
    ///
    /// Replies are taken in the order of the jobs, newest first, so that the answer does not depend on which job is quicker.
    async fn run_search(
        &self,
        jobs: Vec<Job>,
        recent: &SearchRequest,
        in_blocks: &SearchRequest,
        question: &Question,
        order: SearchOrder,
        mut totals: SearchTotals,
    ) -> Result<(Vec<TraceHit>, SearchTotals), CallError> {
        debug_assert!(time_range(in_blocks) != TimeRange::default());
        let newest: Vec<u32> = jobs.iter().map(|job| job.newest_unix_seconds).collect();
        debug_assert!(newest.is_sorted_by(|a, b| a >= b), "the next job is the newest of those that are left");
        let mut replies = stream::iter(jobs)
            .map(|job| async move {
                let _slot = self.slots.take(&job.tenant)?;
                let request = match job.part {
                    SearchPart::Recent => recent,
                    SearchPart::Block { .. } => in_blocks,
                };
                self.search_job(&job, request, question).await
            })
            .buffered(self.config.search.concurrent_jobs.max(1));
        let mut collector = SearchCollector::new(recent.limit, order);
        for completed_through in newest.into_iter().skip(1).map(Some).chain([None]) {
            let Some(reply) = replies.next().await.transpose()? else { break };
            totals.completed_jobs += 1;
            totals.inspection.add(reply.inspection);
            collector.add_all(reply.hits);
            if completed_through.is_none_or(|completed_through| collector.can_stop(completed_through)) {
                break;
            }
        }
        Ok((collector.finish(), totals))
    }

    /// Runs a job; one over a block that was asked the same before is answered from the cache.
    async fn search_job(&self, job: &Job, request: &SearchRequest, question: &Question) -> Result<SearchReply, CallError> {
        let Some(key) = self.job_cache.key(question, job, time_range(request)) else { return self.ask_search(job, request).await };
        let reply = match self.job_cache.get(&key).await {
            Some(reply) => reply,
            None => {
                // Without a time range, so that the answer holds for every range around the block.
                let unbounded = SearchRequest { start_unix_seconds: 0, end_unix_seconds: 0, ..request.clone() };
                let reply = self.ask_search(job, &unbounded).await?;
                self.job_cache.put(&key, &reply);
                reply
            }
        };
        match within_range(reply, request) {
            Some(reply) => Ok(reply),
            None => self.ask_search(job, request).await,
        }
    }

    async fn ask_search(&self, job: &Job, request: &SearchRequest) -> Result<SearchReply, CallError> {
        jobs::with_retries(self.config.max_retries, || self.querier.search(&job.tenant, request, &job.part)).await
    }
}

/// Parses a query for search; returns it with its text. Of a metrics query that is one pipeline, search shows the spans that are counted
/// (traceql-metrics §1.3).
fn search_query(text: String) -> Result<(Query, String), CallError> {
    let query = crate::traceql::compile(&text).map_err(invalid_query)?;
    let QueryBody::Metrics(metrics) = query.body else { return Ok((query, text)) };
    match metrics.node {
        MetricsNode::Query(counted) => {
            let query = Query { body: QueryBody::Search(counted.pipeline), hints: query.hints };
            let text = query.to_string();
            Ok((query, text))
        }
        MetricsNode::Binary { .. } | MetricsNode::ScalarRight { .. } | MetricsNode::ScalarLeft { .. } => {
            Err(CallError::new(ErrorClass::Invalid, "math expressions not supported"))
        }
    }
}

fn invalid_query(error: impl std::fmt::Display) -> CallError {
    CallError::new(ErrorClass::Invalid, format!("invalid TraceQL query: {error}"))
}

/// Sums of `SearchMetrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SearchTotals {
    pub(super) inspection: Inspection,
    pub(super) blocks: u32,
    pub(super) block_bytes: u64,
    pub(super) jobs: usize,
    pub(super) completed_jobs: u32,
}

impl SearchTotals {
    /// Writes the members of `SearchMetrics`.
    pub(super) fn write(&self, out: &mut impl MessageWriter) {
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        out.uint32(field(1, "inspectedTraces"), count(self.inspection.traces));
        out.uint64(field(2, "inspectedBytes"), self.inspection.bytes);
        out.uint32(field(3, "totalBlocks"), self.blocks);
        out.uint32(field(4, "completedJobs"), self.completed_jobs);
        out.uint32(field(5, "totalJobs"), count(self.jobs as u64));
        out.uint64(field(6, "totalBlockBytes"), self.block_bytes);
        out.uint64(field(7, "inspectedSpans"), self.inspection.spans);
        out.uint64(field(8, "backendReads"), self.inspection.backend_reads);
        out.uint64(field(9, "backendBytes"), self.inspection.backend_bytes);
    }
}

/// `SearchResponse`
struct SearchMessage {
    hits: Vec<TraceHit>,
    totals: SearchTotals,
    with_span_sets: bool,
    left_pad: bool,
}

impl WriteMessage for SearchMessage {
    fn write(&self, out: &mut impl MessageWriter) {
        const TRACES: Field = field(1, "traces");
        const METRICS: Field = field(2, "metrics");
        out.messages_or_empty(TRACES, &self.hits, |out, hit| self.write_trace(out, hit));
        out.message(METRICS, |out| self.totals.write(out));
    }
}

impl SearchMessage {
    fn write_trace(&self, out: &mut impl MessageWriter, hit: &TraceHit) {
        const SPAN_SET: Field = field(6, "spanSet");
        const SPAN_SETS: Field = field(7, "spanSets");
        const SERVICE_STATS: Field = field(8, "serviceStats");
        let root_service = if hit.root_service_name.is_empty() { ROOT_SPAN_NOT_YET_RECEIVED } else { &hit.root_service_name };
        out.text(field(1, "traceID"), trace_id_text(hit.trace_id, self.left_pad).as_bytes());
        out.text(field(2, "rootServiceName"), root_service.as_bytes());
        out.text(field(3, "rootTraceName"), hit.root_trace_name.as_bytes());
        out.uint64(field(4, "startTimeUnixNano"), hit.start_unix_nanos);
        out.uint32(field(5, "durationMs"), hit.duration_ms());
        if !self.with_span_sets {
            return;
        }
        if let Some(first) = hit.span_sets.first() {
            out.message(SPAN_SET, |out| write_span_set(out, first));
        }
        out.messages(SPAN_SETS, &hit.span_sets, write_span_set);
        out.map(SERVICE_STATS, hit.service_stats.iter().map(|(service, stats)| (service.as_bytes(), stats)), |out, stats| {
            out.uint32(field(1, "spanCount"), stats.span_count);
            out.uint32(field(2, "errorCount"), stats.error_count);
        });
    }
}

fn trace_id_text(id: TraceId, left_pad: bool) -> String {
    if left_pad { id.to_string() } else { id.to_short_hex() }
}

fn write_span_set<W: MessageWriter>(out: &mut W, set: &SpanSetHit) {
    out.messages(field(1, "spans"), &set.spans, |out, span| {
        out.text(field(1, "spanID"), span.span_id.to_string().as_bytes());
        out.text(field(2, "name"), span.name.as_bytes());
        out.uint64(field(3, "startTimeUnixNano"), span.start_unix_nanos);
        out.uint64(field(4, "durationNanos"), span.duration_nanos);
        write_attributes(out, field(5, "attributes"), &span.attributes);
    });
    out.uint32(field(2, "matched"), set.matched);
    write_attributes(out, field(3, "attributes"), &set.attributes);
}

fn write_attributes(out: &mut impl MessageWriter, list: Field, attributes: &[(std::sync::Arc<str>, Static)]) {
    out.messages(list, attributes, |out, (key, value)| write_key_value(out, key.as_bytes(), &any_value(value)));
}

/// Returns the OTLP form of a value: what OTLP has no type for is text (traceql, per span).
pub(super) fn any_value(value: &Static) -> AnyValue {
    let text = |text: &str| AnyValue::Text(text.as_bytes().to_vec());
    match value {
        Static::Int(value) => AnyValue::Int(*value),
        Static::Float(value) => AnyValue::Double(*value),
        Static::Bool(value) => AnyValue::Bool(*value),
        Static::String(value) => text(value),
        Static::Nil => text("nil"),
        Static::Duration(nanos) => text(&crate::traceql::print::go_duration(*nanos)),
        Static::Status(status) => text(status.as_str()),
        Static::Kind(kind) => text(kind.as_str()),
        Static::IntArray(values) => AnyValue::Array(values.iter().map(|value| AnyValue::Int(*value)).collect()),
        Static::FloatArray(values) => AnyValue::Array(values.iter().map(|value| AnyValue::Double(*value)).collect()),
        Static::StringArray(values) => AnyValue::Array(values.iter().map(|value| text(value)).collect()),
        Static::BoolArray(values) => AnyValue::Array(values.iter().map(|value| AnyValue::Bool(*value)).collect()),
    }
}
