//! Pushes as a whole: a distributor in front of a log in memory.

use std::future::Future;

use prost::Message;

use super::*;
use crate::base::error_class::ErrorClass;
use crate::model::otlp::testing::{request, scope_spans, span, text};
use crate::modules::distributor::options::DistributorOptions;
use crate::modules::distributor::testing::{MemoryLog, NOW, distributor};
use crate::services::ingest_log::IngestLog;
use crate::services::ingest_log::embedded::{EmbeddedLog, EmbeddedLogOptions};

const SOURCE: Source = Source { receiver: "test", transport: "none" };

fn options(change: impl FnOnce(&mut DistributorOptions)) -> DistributorOptions {
    let mut options = DistributorOptions::default();
    change(&mut options);
    options
}

fn with(log: &Arc<MemoryLog>, options: DistributorOptions, limits: TenantLimits) -> Arc<Pusher> {
    distributor(options, limits, log.clone()).pusher()
}

fn one_partition() -> Arc<MemoryLog> {
    Arc::new(MemoryLog::with_partitions(1))
}

async fn push(pusher: &Arc<Pusher>, body: Vec<u8>) -> Result<Rejected, PushError> {
    let memory = pusher.budget().try_reserve(body.len() as u64)?;
    pusher.push(Push { tenant: TenantId::single(), body: body.into(), skip_metrics_generation: false, source: SOURCE, memory }).await
}

fn two_traces() -> Vec<u8> {
    request(vec![scope_spans(None, vec![span(&[1; 16], &[1; 8]), span(&[2; 16], &[2; 8]), span(&[1; 16], &[3; 8])])]).encode_to_vec()
}

/// Runs `work` with a metrics recorder of its own and returns the exposition.
fn metrics_of<F: Future<Output = ()>>(work: impl FnOnce() -> F) -> String {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(work()));
    recorder.handle().render()
}

#[track_caller]
fn assert_metric(exposition: &str, line: &str) {
    assert!(exposition.lines().any(|got| got == line), "{line} is not in\n{exposition}");
}

#[tokio::test]
async fn traces_of_a_batch_become_entries_of_one_record() {
    let log = one_partition();
    assert_eq!(push(&with(&log, options(|_| {}), TenantLimits::default()), two_traces()).await.unwrap(), Rejected::default());
    let records = log.decoded();
    assert_eq!(records.len(), 1);
    let (_, key, record) = &records[0];
    assert_eq!(key, "single-tenant");
    assert_eq!(record.ids, [vec![1; 16], vec![2; 16]]);
    assert_eq!(log.span_count(), 3);
    assert_eq!(log.records.lock()[0].1.timestamp_unix_ms, NOW / 1_000_000);
}

#[tokio::test]
async fn records_are_split_and_keep_the_skip_flag() {
    let log = one_partition();
    let pusher = with(&log, options(|options| options.push.max_record_bytes = 150), TenantLimits::default());
    let memory = pusher.budget().try_reserve(0).unwrap();
    let push = Push { tenant: TenantId::single(), body: two_traces().into(), skip_metrics_generation: true, source: SOURCE, memory };
    pusher.push(push).await.unwrap();
    let records = log.decoded();
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|(_, _, record)| record.skip_metrics_generation));
    assert_eq!(log.span_count(), 3);
}

#[tokio::test]
async fn traces_are_spread_over_partitions() {
    let log = Arc::new(MemoryLog::with_partitions(3));
    let spans = (1..=60).map(|id| span(&[id; 16], &[1; 8])).collect();
    push(&with(&log, options(|_| {}), TenantLimits::default()), request(vec![scope_spans(None, spans)]).encode_to_vec()).await.unwrap();
    let mut partitions: Vec<_> = log.decoded().iter().map(|(partition, ..)| partition.0).collect();
    partitions.sort_unstable();
    assert_eq!(partitions, [0, 1, 2]);
    assert_eq!(log.span_count(), 60);
}

#[test]
fn invalid_spans_are_rejected_one_by_one() {
    let log = one_partition();
    let exposition = metrics_of(|| async {
        let body = request(vec![scope_spans(None, vec![span(&[1; 16], &[1; 8]), span(&[1; 16], &[0; 8]), span(&[1; 3], &[1; 8])])]);
        let rejected = push(&with(&log, options(|_| {}), TenantLimits::default()), body.encode_to_vec()).await.unwrap();
        assert_eq!((rejected.total(), rejected.invalid_span_id, rejected.invalid_trace_id), (2, 1, 1));
        assert_eq!(rejected.first.unwrap().to_string(), "span ids must be 64 bit and not all zero, received 0 bits");
    });
    assert_eq!(log.span_count(), 1);
    assert_metric(&exposition, r#"tempo_discarded_spans_total{reason="invalid_span_id",tenant="single-tenant"} 1"#);
    assert_metric(&exposition, r#"tempo_discarded_spans_total{reason="invalid_trace_id",tenant="single-tenant"} 1"#);
    assert_metric(&exposition, r#"tempo_distributor_spans_received_total{tenant="single-tenant"} 3"#);
    assert_metric(&exposition, r#"tempo_receiver_accepted_spans{receiver="test",transport="none"} 1"#);
    assert_metric(&exposition, r#"tempo_receiver_refused_spans{receiver="test",transport="none"} 2"#);
}

#[tokio::test]
async fn a_batch_without_valid_span_is_refused() {
    let log = one_partition();
    let body = request(vec![scope_spans(None, vec![span(&[1; 8], &[1; 8])])]).encode_to_vec();
    let error = push(&with(&log, options(|_| {}), TenantLimits::default()), body).await.unwrap_err();
    assert_eq!((error.class(), error.to_string().as_str()), (ErrorClass::Invalid, "trace ids must be 128 bit, received 64 bits"));
    assert!(log.records.lock().is_empty());
}

#[test]
fn rate_limit_refuses_whole_batches_and_counts_spans() {
    let log = one_partition();
    let bytes = two_traces().len() as u64;
    let exposition = metrics_of(|| async {
        let limits = TenantLimits { rate_limit_bytes: 1, burst_size_bytes: bytes, ..TenantLimits::default() };
        let pusher = with(&log, options(|_| {}), limits);
        push(&pusher, two_traces()).await.unwrap();
        let error = push(&pusher, two_traces()).await.unwrap_err();
        assert!(error.to_string().starts_with("RATE_LIMITED: ingestion rate limit (local: 1 bytes/s, global: 0 bytes/s"), "{error}");
        assert_eq!((error.class(), error.retry_after()), (ErrorClass::TooManyRequests, Some(Duration::from_secs(5))));
    });
    assert_eq!(log.records.lock().len(), 1);
    assert_metric(&exposition, r#"tempo_discarded_spans_total{reason="rate_limited",tenant="single-tenant"} 3"#);
    assert_metric(&exposition, &format!(r#"tempo_distributor_ingress_bytes_total{{tenant="single-tenant"}} {}"#, 2 * bytes));
    assert_metric(&exposition, &format!(r#"tempo_distributor_bytes_received_total{{tenant="single-tenant"}} {bytes}"#));
}

#[tokio::test]
async fn the_retry_hint_can_be_switched_off() {
    let limits = TenantLimits { rate_limit_bytes: 0, burst_size_bytes: 0, retry_info_enabled: false, ..TenantLimits::default() };
    let error = push(&with(&one_partition(), options(|_| {}), limits.clone()), two_traces()).await.unwrap_err();
    assert_eq!(error.retry_after(), None);
    let limits = TenantLimits { retry_info_enabled: true, ..limits };
    let no_hint = options(|options| options.push.retry_after = Duration::ZERO);
    let error = push(&with(&one_partition(), no_hint, limits), two_traces()).await.unwrap_err();
    assert_eq!(error.retry_after(), None);
}

#[test]
fn empty_requests_succeed_and_count_nothing_else() {
    let log = one_partition();
    let exposition = metrics_of(|| async {
        let limits = TenantLimits { rate_limit_bytes: 0, burst_size_bytes: 0, ..TenantLimits::default() };
        push(&with(&log, options(|_| {}), limits), request(Vec::new()).encode_to_vec()).await.unwrap();
    });
    assert!(log.records.lock().is_empty());
    assert!(!exposition.contains("tempo_discarded_spans_total{"), "{exposition}");
    assert_metric(&exposition, r#"tempo_distributor_spans_received_total{tenant="single-tenant"} 0"#);
}

#[test]
fn long_attributes_are_cut_by_the_tenants_limit() {
    let log = one_partition();
    let exposition = metrics_of(|| async {
        let mut long = span(&[1; 16], &[1; 8]);
        long.attributes.push(text("a-very-long-key", "and a long value"));
        let limits = TenantLimits { max_attribute_bytes: 12, ..TenantLimits::default() };
        push(&with(&log, options(|_| {}), limits), request(vec![scope_spans(None, vec![long])]).encode_to_vec()).await.unwrap();
    });
    assert_metric(&exposition, r#"tempo_distributor_attributes_truncated_total{tenant="single-tenant",scope="span"} 2"#);
    assert!(!exposition.contains(r#"scope="resource""#));
}

#[tokio::test]
async fn failures_of_the_log_are_retryable() {
    let log = one_partition();
    let pusher = with(&log, options(|_| {}), TenantLimits::default());
    *log.failure.lock() = Some(LogError::Full { limit: 7 });
    let error = push(&pusher, two_traces()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unavailable);
    assert!(error.chain().starts_with("cannot append to partition 0: ingest log is full"), "{}", error.chain());
    *log.failure.lock() = Some(LogError::RecordTooLarge { bytes: 2, limit: 1 });
    assert_eq!(push(&pusher, two_traces()).await.unwrap_err().class(), ErrorClass::Invalid);
    *log.failure.lock() = None;
    push(&pusher, two_traces()).await.unwrap();
    assert_eq!(pusher.budget().used(), 0);
    let none = Arc::new(MemoryLog::with_partitions(0));
    let error = push(&with(&none, options(|_| {}), TenantLimits::default()), two_traces()).await.unwrap_err();
    assert!(matches!(error, PushError::NoPartition));
}

#[tokio::test]
async fn a_log_that_hangs_is_given_up() {
    let log = Arc::new(MemoryLog { partitions: 1, hangs: true, ..MemoryLog::default() });
    let pusher = with(&log, options(|options| options.push.write_timeout = Duration::from_millis(10)), TenantLimits::default());
    let error = push(&pusher, two_traces()).await.unwrap_err();
    assert_eq!((error.class(), error.to_string().as_str()), (ErrorClass::Unavailable, "append to partition 0 took longer than 10ms"));
    assert_eq!(pusher.budget().used(), 0);
}

#[tokio::test]
async fn pushes_are_padded_to_the_artificial_delay() {
    let limits = TenantLimits { artificial_delay: Some(Duration::from_millis(40)), ..TenantLimits::default() };
    let started = Instant::now();
    push(&with(&one_partition(), options(|_| {}), limits), two_traces()).await.unwrap();
    // A tenth less than wanted, counted from a moment after the start.
    assert!(started.elapsed() >= Duration::from_millis(30));
}

#[tokio::test]
async fn requests_that_multiply_by_regrouping_are_bounded() {
    let mut body = request(vec![scope_spans(None, (0..200u8).map(|id| span(&[id + 1; 16], &[1; 8])).collect())]);
    body.resource_spans[0].resource.as_mut().unwrap().attributes.push(text("large", &"x".repeat(2000)));
    let tight = options(|options| options.max_in_flight_bytes = 300_000);
    let error = push(&with(&one_partition(), tight, TenantLimits::default()), body.encode_to_vec()).await.unwrap_err();
    assert!(matches!(error, PushError::RegroupedTooLarge { limit: 150_000, .. }), "{error}");
}

#[tokio::test]
async fn large_requests_take_the_pool_and_give_the_same() {
    let log = one_partition();
    let spans = (0..20_000u32).map(|id| span(&[&[1; 12][..], &id.to_be_bytes()].concat(), &[1; 8])).collect();
    let body = request(vec![scope_spans(Some("lib"), spans)]).encode_to_vec();
    assert!(body.len() > INLINE_BYTES);
    push(&with(&log, options(|_| {}), TenantLimits::default()), body).await.unwrap();
    assert_eq!(log.span_count(), 20_000);
}

#[tokio::test]
async fn acknowledged_spans_are_in_the_embedded_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = Arc::new(EmbeddedLog::open(EmbeddedLogOptions { path: folder.path().to_owned(), ..EmbeddedLogOptions::default() }).unwrap());
    let pusher = distributor(options(|_| {}), TenantLimits::default(), log.clone()).pusher();
    push(&pusher, two_traces()).await.unwrap();
    let records = log.fetch(PartitionId(0), Default::default(), 1 << 20, Duration::ZERO).await.unwrap();
    let walked = regroup(two_traces().into(), 0).unwrap();
    let expected = walked.record(&walked.plan(0..2, false, u64::MAX).unwrap()[0]).concat();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].key.as_ref(), records[0].value.as_ref()), (&b"single-tenant"[..], expected.as_slice()));
    log.close().await.unwrap();
}

#[test]
fn log_lines_are_gated_by_the_second() {
    let gate = LineGate::new(2);
    let passed: Vec<_> = [5, 5, 5, 6, 6, 6].into_iter().map(|second| gate.pass(second)).collect();
    assert_eq!(passed, [true, true, false, true, true, false]);
}
