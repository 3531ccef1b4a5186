//! One trace by its id: found in recent data and blocks, combined, cut to the limit or to a filter (http-api §6.1, §6.2).

use futures::stream::{self, StreamExt as _};

use super::limits::QueryLimits;
use super::request::{SpanFilterParams, TraceMode, TraceParams};
use super::respond::{Answer, Format, WriteMessage};
use super::shared_span_ids::split_shared_span_ids;
use super::span_filter::shown_spans;
use super::{QueryFrontend, Reply, jobs};
use crate::base::error_class::ErrorClass;
use crate::model::combine::combine_trace;
use crate::model::ids::TenantId;
use crate::model::span_table::SpanTable;
use crate::services::rpc::message::{Field, MessageWriter, field};
use crate::services::rpc::querier::{FindTraceReply, FindTraceRequest, TracePart};
use crate::services::rpc::search::{Inspection, TimeRange};
use crate::services::rpc::status::CallError;
use crate::services::rpc::trace_output::{ResourceListName, SpanSelection, TraceOutput};
use crate::traceql::engine::{EvaluateOptions, Plan, evaluate};

/// Blocks that one job asks by their bloom filters, when a trace filter covers the others.
const BLOCKS_PER_JOB: usize = 64;

/// The two shapes of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TraceApi {
    /// The bare trace; 404 when there is none, never a part.
    V1,
    /// Trace, metrics and status; always 200.
    V2,
}

/// A request for a trace after its parameters were read.
#[derive(Debug)]
pub(super) struct TraceQuery {
    pub(super) api: TraceApi,
    pub(super) format: Format,
    pub(super) params: TraceParams,
    pub(super) filter: Option<(SpanFilterParams, Plan)>,
}

impl QueryFrontend {
    pub(super) async fn trace_by_id(&self, tenants: &[TenantId], limits: QueryLimits, query: TraceQuery) -> Result<Reply, CallError> {
        let (found, jobs) = self.find_trace(tenants, &query.params).await?;
        let inspection = found.inspection;
        let max_bytes = limits.max_bytes_per_trace;
        let answer = self.on_cpu("render_trace", move || render(found, &query, max_bytes)).await??;
        Ok(Reply { answer, inspection, jobs })
    }

    /// Asks everywhere the trace may be. All jobs must answer.
    async fn find_trace(&self, tenants: &[TenantId], params: &TraceParams) -> Result<(FindTraceReply, usize), CallError> {
        let range = params.window.map_or_else(TimeRange::default, |window| TimeRange {
            start_unix_seconds: u32::try_from(window.start).unwrap_or(u32::MAX),
            end_unix_seconds: u32::try_from(window.end).unwrap_or(u32::MAX),
        });
        let request = FindTraceRequest { trace_id: params.trace_id, range };
        let mut parts: Vec<(TenantId, TracePart)> = Vec::new();
        for tenant in tenants {
            parts.extend(self.trace_parts(tenant, params.mode, range).await.into_iter().map(|part| (tenant.clone(), part)));
        }
        let jobs = parts.len();
        let concurrent = match self.config.trace_by_id.concurrent_shards {
            0 => jobs.max(1),
            shards => shards,
        };
        let mut replies = stream::iter(parts)
            .map(|(tenant, part)| async move {
                let _slot = self.slots.take(&tenant)?;
                jobs::with_retries(self.config.max_retries, || self.querier.find_trace(&tenant, request, part)).await
            })
            .buffer_unordered(concurrent);
        let mut found = FindTraceReply::default();
        while let Some(reply) = replies.next().await {
            let reply = reply?;
            found.parts.extend(reply.parts);
            found.inspection.add(reply.inspection);
            found.skipped_blocks.extend(reply.skipped_blocks);
        }
        Ok((found, jobs))
    }

    async fn trace_parts(&self, tenant: &TenantId, mode: TraceMode, range: TimeRange) -> Vec<TracePart> {
        let mut parts = Vec::new();
        if matches!(mode, TraceMode::All | TraceMode::Recent) {
            parts.push(TracePart::Recent);
        }
        if matches!(mode, TraceMode::All | TraceMode::Blocks) {
            let config = &self.config.trace_by_id;
            let shards = match config.blocks_per_shard as usize {
                0 => config.query_shards.saturating_sub(1),
                per_shard => {
                    let in_range = self.blocks.live_blocks(tenant, range).len();
                    in_range.div_ceil(per_shard).min(self.config.max_outstanding_per_tenant.saturating_sub(1))
                }
            };
            // A filter answers for all blocks at once: only those that it does not cover are worth to be divided.
            let shards = match self.blocks.blocks_without_filter(tenant, range).await {
                Some(blocks) => blocks.div_ceil(BLOCKS_PER_JOB).clamp(1, shards.max(1)),
                None => shards,
            };
            parts.extend(jobs::block_id_ranges(shards).into_iter().map(|(first, last)| TracePart::Blocks { first, last }));
        }
        parts
    }
}

/// Combines what was found and writes the answer. CPU work, linear in the number of spans.
fn render(found: FindTraceReply, query: &TraceQuery, max_bytes: u64) -> Result<Answer, CallError> {
    let FindTraceReply { parts, inspection, skipped_blocks } = found;
    let Some(mut table) = combined(parts) else {
        let answer = match query.api {
            TraceApi::V1 => Answer::empty(http::StatusCode::NOT_FOUND),
            TraceApi::V2 => {
                let message = TraceMessage { trace: None, inspection, reasons: Vec::new() };
                Answer::ok(query.format, query.format.encode(&message))
            }
        };
        return Ok(answer);
    };
    split_shared_span_ids(&mut table, 0);
    let limit = usize::try_from(max_bytes).ok().filter(|bytes| *bytes > 0).unwrap_or(usize::MAX);
    let is_too_large = TraceOutput::whole(&table, 0).proto_bytes() > limit;
    if query.api == TraceApi::V1 {
        if is_too_large {
            let text = format!("trace exceeds max size (max bytes: {max_bytes})");
            return Ok(Answer::text(http::StatusCode::UNPROCESSABLE_ENTITY, text));
        }
        let trace = TraceOutput::whole(&table, 0);
        let body = match query.format {
            Format::Json => trace.to_json(ResourceListName::Batches),
            Format::Protobuf => trace.to_proto(),
        };
        return Ok(Answer::ok(query.format, body));
    }
    let mut reasons = Vec::new();
    let mut selection = is_too_large.then(|| SpanSelection::within_bytes(&table, 0, limit));
    if is_too_large {
        reasons.push(format!("Trace exceeds maximum size of {max_bytes} bytes, a partial trace is returned"));
    }
    if !skipped_blocks.is_empty() {
        reasons.push(format!("{} unreadable blocks were left out, a partial trace is returned", skipped_blocks.len()));
    }
    if let Some((params, plan)) = &query.filter {
        let shown = filtered(&table, params, plan)?;
        if shown.iter().any(|shown| !shown) {
            reasons.push("Trace filtered, only a subset of spans matching the filter is returned".to_owned());
            let first = table.spans_of_trace(0).start;
            let within = selection.take();
            let keep = |span: usize| shown[span - first] && within.as_ref().is_none_or(|within| within.contains(span));
            selection = Some(SpanSelection::of_trace(&table, 0, keep));
        }
    }
    let trace = TraceOutput { table: &table, row: 0, selection: selection.as_ref() };
    let message = TraceMessage { trace: Some(trace), inspection, reasons };
    Ok(Answer::ok(query.format, query.format.encode(&message)))
}

fn combined(mut parts: Vec<SpanTable>) -> Option<SpanTable> {
    parts.retain(|part| part.trace_count() > 0 && !part.spans_of_trace(0).is_empty());
    match parts.len() {
        0 | 1 => parts.pop(),
        _ => Some(combine_trace(&parts.iter().map(|part| (part, 0)).collect::<Vec<_>>())),
    }
}

/// Returns for each span of the trace whether the filter shows it.
fn filtered(table: &SpanTable, params: &SpanFilterParams, plan: &Plan) -> Result<Vec<bool>, CallError> {
    let cancelled = std::sync::atomic::AtomicBool::new(false);
    let options = EvaluateOptions { rows: None, spans_per_span_set: usize::MAX, cancelled: &cancelled };
    let matches = evaluate(plan, table, options).map_err(|error| CallError::from_chain(error.class(), &error))?;
    let range = table.spans_of_trace(0);
    let mut matched = vec![false; range.len()];
    for span in matches.traces.iter().flat_map(|trace| &trace.span_sets).flat_map(|set| &set.spans) {
        matched[*span as usize] = true;
    }
    Ok(shown_spans(table, range, &matched, params))
}

/// `TraceByIDResponse`
struct TraceMessage<'a> {
    trace: Option<TraceOutput<'a>>,
    inspection: Inspection,
    /// Why the trace is not complete; none when it is.
    reasons: Vec<String>,
}

impl WriteMessage for TraceMessage<'_> {
    fn write(&self, out: &mut impl MessageWriter) {
        const TRACE: Field = field(1, "trace");
        const METRICS: Field = field(2, "metrics");
        const STATUS: Field = field(3, "status");
        const MESSAGE: Field = field(4, "message");
        out.message(TRACE, |out| {
            if let Some(trace) = self.trace {
                trace.write(out, ResourceListName::ResourceSpans);
            }
        });
        out.message(METRICS, |out| {
            out.uint64(field(1, "inspectedBytes"), self.inspection.bytes);
            out.uint64(field(2, "backendReads"), self.inspection.backend_reads);
            out.uint64(field(3, "backendBytes"), self.inspection.backend_bytes);
        });
        out.enumeration(STATUS, i32::from(!self.reasons.is_empty()), "PARTIAL");
        out.text(MESSAGE, self.reasons.join("; ").as_bytes());
    }
}

/// Refuses what needs a part of the system that is not built.
pub(super) fn check_mode(params: &TraceParams) -> Result<(), CallError> {
    match params.mode {
        TraceMode::All | TraceMode::Recent | TraceMode::Blocks => Ok(()),
        TraceMode::External => Err(CallError::new(ErrorClass::Unsupported, "external trace sources are not supported yet")),
    }
}
