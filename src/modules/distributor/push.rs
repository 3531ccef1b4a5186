//! One push, step by step. The order of the steps is observable through counters (write-path, "one push, step by step").
//!
//! The computing part ([`Pusher::prepare`]) is a plain function; large requests run it on the CPU pool. Around it [`Pusher::push`] waits for
//! the ingest log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use metrics::{counter, histogram};
use tokio::time::Instant;

use crate::base::byte_budget::{ByteBudget, Reservation};
use crate::base::clock::SharedClock;
use crate::base::cpu_pool::CpuPool;
use crate::model::ids::TenantId;
use crate::model::otlp::attributes::AttributeOwner;
use crate::model::otlp::regroup::{Regrouped, Rejected, regroup};
use crate::services::ingest_log::{LogError, PartitionId, Record, SharedIngestLog};

use super::error::PushError;
use super::limits::{SharedIngestionLimits, TenantLimits};
use super::metrics as names;
use super::options::PushOptions;
use super::placement::place;
use super::tenants::{Tenant, Tenants};

/// Requests up to this size are walked where they are received; larger ones on the CPU pool. About a third of a millisecond.
const INLINE_BYTES: usize = 512 << 10;

/// Log lines per second about refused pushes. The others are counted.
const REFUSAL_LINES_PER_SECOND: u64 = 10;

/// How spans came in; the labels of the receiver counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub receiver: &'static str,
    pub transport: &'static str,
}

/// A push request as received.
pub struct Push {
    pub tenant: TenantId,
    /// An `ExportTraceServiceRequest` message.
    pub body: Bytes,
    /// The request asked for no metrics from its spans (`no-generate-metrics`).
    pub skip_metrics_generation: bool,
    pub source: Source,
    /// The memory of `body`.
    pub memory: Reservation,
}

/// The push path.
pub struct Pusher {
    options: PushOptions,
    tenants: Tenants,
    log: SharedIngestLog,
    clock: SharedClock,
    cpu: CpuPool,
    budget: ByteBudget,
    refusals: LineGate,
    truncations: LineGate,
}

/// Records by the partition they go to.
type PlacedRecords = Vec<(PartitionId, Vec<Record>)>;

/// A push that is ready to be appended.
struct Prepared {
    tenant: Arc<Tenant>,
    limits: Arc<TenantLimits>,
    rejected: Rejected,
    span_count: usize,
    records: PlacedRecords,
    /// Bodies and records stay counted until the log has answered.
    _memory: [Option<Reservation>; 2],
}

impl Pusher {
    pub(super) fn new(
        options: PushOptions,
        limits: SharedIngestionLimits,
        log: SharedIngestLog,
        clock: SharedClock,
        cpu: CpuPool,
        budget: ByteBudget,
    ) -> Self {
        Self {
            options,
            tenants: Tenants::new(limits),
            log,
            clock,
            cpu,
            budget,
            refusals: LineGate::new(REFUSAL_LINES_PER_SECOND),
            truncations: LineGate::new(1),
        }
    }

    /// Whether requests must name a tenant.
    pub fn multitenancy(&self) -> bool {
        self.options.multitenancy
    }

    /// The budget that bodies are taken from.
    pub fn budget(&self) -> &ByteBudget {
        &self.budget
    }

    pub(super) fn cpu(&self) -> &CpuPool {
        &self.cpu
    }

    /// Takes in a request and returns which spans of it were left out. Everything else is on the log's disk then.
    ///
    /// Cancel-safe in so far as a dropped push may or may not be appended; a client that retries may duplicate.
    pub async fn push(self: &Arc<Self>, push: Push) -> Result<Rejected, PushError> {
        let started = Instant::now();
        let (source, tenant_id) = (push.source, push.tenant.clone());
        let outcome = self.prepare_and_append(push, started).await;
        histogram!(names::PUSH_DURATION).record(started.elapsed());
        let labels = [("receiver", source.receiver), ("transport", source.transport)];
        match outcome {
            Ok((span_count, rejected)) => {
                counter!(names::ACCEPTED_SPANS, &labels).increment(span_count.saturating_sub(rejected.total()) as u64);
                if rejected.total() > 0 {
                    counter!(names::REFUSED_SPANS, &labels).increment(rejected.total() as u64);
                }
                Ok(rejected)
            }
            Err((span_count, error)) => {
                counter!(names::REFUSED_SPANS, &labels).increment(span_count as u64);
                self.log_refusal(Some(&tenant_id), &error);
                Err(error)
            }
        }
    }

    /// Logs that a push, or a request that never became one, was refused.
    pub(super) fn log_refusal(&self, tenant: Option<&TenantId>, error: &PushError) {
        if self.refusals.pass(self.clock.now_unix_seconds()) {
            let tenant = tenant.map_or("", TenantId::as_str);
            tracing::warn!(tenant, error = error.chain(), "pusher failed to consume trace data");
        } else {
            counter!(names::DROPPED_LOG_LINES).increment(1);
        }
    }

    async fn prepare_and_append(self: &Arc<Self>, push: Push, started: Instant) -> Result<(usize, Rejected), (usize, PushError)> {
        let prepared = if push.body.len() <= INLINE_BYTES {
            self.prepare(push)
        } else {
            let pusher = Arc::clone(self);
            let result = self.cpu.run("regroup_push", move || pusher.prepare(push)).await;
            result.unwrap_or_else(|error| Err((0, error.into())))
        };
        let Some(mut prepared) = prepared? else { return Ok((0, Rejected::default())) };
        let records = std::mem::take(&mut prepared.records);
        let appended = self.append(records).await;
        self.delay(&prepared, started).await;
        match appended {
            Ok(()) => Ok((prepared.span_count, prepared.rejected)),
            Err(error) => Err((prepared.span_count, error)),
        }
    }

    /// Steps 2 to 13. `None`: nothing to append. Errors carry the number of spans they cost.
    fn prepare(&self, push: Push) -> Result<Option<Prepared>, (usize, PushError)> {
        let Push { tenant, body, skip_metrics_generation, memory, .. } = push;
        let now = self.clock.now_unix_nanos();
        let tenant = self.tenants.get(&tenant, now).map_err(|error| (0, error))?;
        let limits = self.tenants.limits_of(&tenant, now);
        let bytes = body.len() as u64;
        let max_attribute_bytes =
            if limits.max_attribute_bytes > 0 { limits.max_attribute_bytes } else { self.options.max_attribute_bytes };
        let walked = regroup(body, max_attribute_bytes).map_err(|error| (0, error.into()))?;
        tenant.metrics.ingress_bytes.increment(bytes);
        if walked.span_count == 0 {
            return Ok(None);
        }
        let refuse = |error: PushError| (walked.span_count, error);
        if let Err(rate) = tenant.admit(bytes, now) {
            tenant.count_discarded("rate_limited", walked.span_count);
            let hint = limits.retry_info_enabled && !self.options.retry_after.is_zero();
            let retry_after = hint.then_some(self.options.retry_after);
            return Err(refuse(PushError::RateLimited { tenant: tenant.id.clone(), bytes, rate, retry_after }));
        }
        tenant.metrics.bytes_received.increment(bytes);
        tenant.metrics.spans_received.increment(walked.span_count as u64);
        tenant.count_discarded("invalid_trace_id", walked.rejected.invalid_trace_id);
        tenant.count_discarded("invalid_span_id", walked.rejected.invalid_span_id);
        if let (Some(first), true) = (walked.rejected.first, walked.traces().is_empty()) {
            return Err(refuse(PushError::NoValidSpan(first)));
        }
        self.observe(&tenant, &walked, now);
        let (records, reserved) = self.records(&tenant.id, &walked, skip_metrics_generation, now).map_err(refuse)?;
        Ok(Some(Prepared {
            tenant,
            limits,
            rejected: walked.rejected,
            span_count: walked.span_count,
            records,
            _memory: [Some(memory), Some(reserved)],
        }))
    }

    fn observe(&self, tenant: &Tenant, walked: &Regrouped, now: u64) {
        AttributeOwner::ALL.into_iter().for_each(|owner| tenant.count_cuts(owner, walked.cuts.of(owner)));
        if let Some(example) = &walked.cuts.example
            && self.truncations.pass(now / 1_000_000_000)
        {
            tracing::warn!(tenant = %tenant.id, example, count = walked.cuts.total(), "attributes truncated");
        }
        histogram!(names::TRACES_PER_BATCH).record(walked.traces().len() as f64);
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        for trace in walked.traces() {
            if trace.max_end_unix_nanos > now {
                tenant.metrics.distance_future.record(seconds(trace.max_end_unix_nanos - now));
            }
            if trace.min_start_unix_nanos < now {
                tenant.metrics.distance_past.record(seconds(now - trace.min_start_unix_nanos));
            }
        }
    }

    /// Places traces on partitions and writes their records.
    fn records(
        &self,
        tenant: &TenantId,
        walked: &Regrouped,
        skip_metrics_generation: bool,
        now: u64,
    ) -> Result<(PlacedRecords, Reservation), PushError> {
        let partitions = self.log.partitions();
        let mut placed: Vec<Vec<usize>> = vec![Vec::new(); partitions.len()];
        for (index, trace) in walked.traces().iter().enumerate() {
            let partition = place(tenant, trace.id, &partitions).ok_or(PushError::NoPartition)?;
            placed[partition].push(index);
        }
        let mut plans = Vec::new();
        for (partition, traces) in partitions.into_iter().zip(placed) {
            if !traces.is_empty() {
                plans.push((partition, walked.plan(traces, skip_metrics_generation, self.options.max_record_bytes)?));
            }
        }
        // A resource is repeated for each trace below it, so few bytes can become many: ask for the room before writing.
        let bytes: u64 = plans.iter().flat_map(|(_, plans)| plans).map(|plan| plan.value_bytes).sum();
        let limit = self.budget.limit() / 2;
        if bytes > limit {
            return Err(PushError::RegroupedTooLarge { bytes, limit });
        }
        let reserved = self.budget.try_reserve(bytes)?;
        let key = Bytes::copy_from_slice(tenant.as_str().as_bytes());
        let record =
            |plan| Record { key: key.clone(), headers: Vec::new(), value: walked.record(plan), timestamp_unix_ms: now / 1_000_000 };
        let records = plans.iter().map(|(partition, plans)| (*partition, plans.iter().map(record).collect())).collect();
        Ok((records, reserved))
    }

    /// Appends to all partitions at once; fails if one fails.
    async fn append(&self, records: PlacedRecords) -> Result<(), PushError> {
        let started = Instant::now();
        let count: usize = records.iter().map(|(_, records)| records.len()).sum();
        let appends = records.into_iter().map(|(partition, records)| self.append_to(partition, records));
        let outcome: Result<(), PushError> = join_all(appends).await.into_iter().collect();
        histogram!(names::WRITE_LATENCY).record(started.elapsed());
        histogram!(names::RECORDS_PER_REQUEST).record(count as f64);
        outcome
    }

    async fn append_to(&self, partition: PartitionId, records: Vec<Record>) -> Result<(), PushError> {
        let (count, bytes) = (records.len() as u64, records.iter().map(Record::value_bytes).sum::<usize>() as u64);
        let timeout = self.options.write_timeout;
        let failure = match tokio::time::timeout(timeout, self.log.append(partition, records)).await {
            Ok(Ok(_offset)) => {
                counter!(names::WRITE_BYTES, "partition" => format!("partition_{partition}")).increment(bytes);
                counter!(names::PRODUCE_RECORDS).increment(count);
                return Ok(());
            }
            Ok(Err(cause)) => PushError::Append { partition, cause },
            Err(_elapsed) => PushError::AppendTimedOut { partition, timeout },
        };
        counter!(names::PRODUCE_FAILURES, "reason" => failure_reason(&failure)).increment(count);
        Err(failure)
    }

    /// Pads the push to the wanted latency, give or take ten percent.
    async fn delay(&self, prepared: &Prepared, started: Instant) {
        let target = prepared.limits.artificial_delay.unwrap_or(self.options.artificial_delay);
        if target.is_zero() {
            return;
        }
        let wait = target.saturating_sub(started.elapsed()).mul_f64(rand::random_range(0.9..1.1));
        if wait > Duration::ZERO {
            tokio::time::sleep(wait).await;
            histogram!(names::ADDED_LATENCY, "tenant" => prepared.tenant.id.as_str().to_owned()).record(wait);
        }
    }
}

/// The `reason` of a failed append, in the words dashboards know.
fn failure_reason(error: &PushError) -> &'static str {
    match error {
        PushError::AppendTimedOut { .. } => "timeout",
        PushError::Append { cause: LogError::RecordTooLarge { .. }, .. } => "record-too-large",
        PushError::Append { cause: LogError::Full { .. } | LogError::DiskFull { .. }, .. } => "buffer-full",
        _ => "other",
    }
}

/// Lets a number of log lines pass each second.
struct LineGate {
    per_second: u64,
    /// Second in the upper 40 bits, lines in the lower 24.
    state: AtomicU64,
}

impl LineGate {
    const LINE_BITS: u32 = 24;

    fn new(per_second: u64) -> Self {
        Self { per_second, state: AtomicU64::new(0) }
    }

    fn pass(&self, now_seconds: u64) -> bool {
        let count = |state: u64| {
            let (second, lines) = (state >> Self::LINE_BITS, state & ((1 << Self::LINE_BITS) - 1));
            let lines = if second == now_seconds { lines } else { 0 };
            (lines < self.per_second).then_some(now_seconds << Self::LINE_BITS | (lines + 1))
        };
        self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_ok()
    }
}

#[cfg(test)]
#[path = "push_tests.rs"]
mod tests;
