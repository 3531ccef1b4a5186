//! A live-store with a real log and real blocks in a temporary folder, and an object store that fails or waits as told.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult,
};
use parking_lot::Mutex;
use prost::Message;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::config::LiveStoreConfig;
use super::{CONSUMER_GROUP, Dependencies, LeftBehind, LiveStore, LiveStoreError, NewBlockSettings};
use crate::base::clock::{Clock, ManualClock, SystemClock};
use crate::base::cpu_pool::CpuPool;
use crate::model::ids::{TenantId, TraceId};
use crate::model::otlp::testing::tempopb::{PushBytesRequest, Trace};
use crate::model::otlp::testing::{request, scope_spans, span};
use crate::model::otlp_table::{Fragment, build_table};
use crate::model::span_table::SpanTable;
use crate::services::ingest_log::embedded::{Durability, EmbeddedLog, EmbeddedLogOptions};
use crate::services::ingest_log::{ConsumerGroup, Offset, PartitionId, Record, SharedIngestLog};
use crate::services::rpc::metrics_query::{MetricsRequest, RecentMetricsReply};
use crate::services::rpc::span_reader::SpanReader;
use crate::tempodb::backend::Backend;
use crate::tempodb::block::bloom::BloomParams;
use crate::tempodb::block::meta::BlockVersion;
use crate::tempodb::block::read::ReadMeter;
use crate::tempodb::blocklist::BlockList;
use crate::tempodb::config::TraceStorageConfig;
use crate::tempodb::db::{DbSettings, TempoDb};
use crate::tempodb::poller::{OwnsAll, Poller, PollerSettings};
use crate::traceql::metrics::Window;
use crate::traceql::result::{SearchRequest, TraceHit};

/// The time at which every clock starts: 2026-09-21.
pub(super) const NOW_NANOS: u64 = 1_790_000_000_000_000_000;
pub(super) const PARTITION: PartitionId = PartitionId(0);
/// Longest real time until something that must happen has happened.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn trace_id(number: u8) -> TraceId {
    TraceId([number; 16])
}

/// The message of a piece of a trace whose span ids are the given numbers.
pub(super) fn trace_bytes(trace: u8, spans: &[u8]) -> Vec<u8> {
    let spans = spans.iter().map(|number| {
        let mut span = span(&[trace; 16], &[*number; 8]);
        (span.start_time_unix_nano, span.end_time_unix_nano) = (NOW_NANOS, NOW_NANOS + 1000);
        span
    });
    Trace { resource_spans: request(vec![scope_spans(None, spans.collect())]).resource_spans }.encode_to_vec()
}

pub(super) fn table_of(traces: &[(u8, &[u8])]) -> SpanTable {
    let messages: Vec<_> = traces.iter().map(|(trace, spans)| trace_bytes(*trace, spans)).collect();
    let fragments = traces.iter().zip(&messages).map(|((trace, _), message)| Fragment { trace_id: trace_id(*trace), trace: message });
    build_table(fragments.collect()).table
}

/// Trace and span numbers of all spans, sorted.
pub(super) fn spans_of(table: &SpanTable) -> Vec<(u8, u8)> {
    let of_row = |row| table.spans_of_trace(row).map(move |span| (table.traces.ids[row].0[0], table.spans.span_id[span].0[0]));
    let mut spans: Vec<_> = (0..table.trace_count()).flat_map(of_row).collect();
    spans.sort_unstable();
    spans
}

/// The value of a record.
pub(super) fn push_bytes(traces: &[(u8, &[u8])]) -> Bytes {
    let ids = traces.iter().map(|(trace, _)| Bytes::copy_from_slice(&[*trace; 16])).collect();
    let traces = traces.iter().map(|(trace, spans)| trace_bytes(*trace, spans).into()).collect();
    PushBytesRequest { traces, ids, skip_metrics_generation: false }.encode_to_vec().into()
}

/// Waits for a condition, for as long as the machine may need.
pub(super) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "never came true: {what}");
        // Virtual time: the clock of these tests stands still while anything can run.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What outlives a live-store: the folder with log and blocks, and the clock.
pub(super) struct World {
    folder: TempDir,
    pub(super) clock: Arc<ManualClock>,
    pub(super) objects: Arc<FaultyStore>,
    pub(super) left_behind: LeftBehind,
}

/// A live-store at work.
pub(super) struct Started {
    pub(super) store: Arc<LiveStore>,
    pub(super) db: Arc<TempoDb>,
    pub(super) log: SharedIngestLog,
    clock: Arc<ManualClock>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), LiveStoreError>>,
}

impl World {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let inner = Arc::clone(Backend::local(folder.path().join("blocks")).unwrap().store());
        let objects = FaultyStore {
            inner,
            faults: Mutex::default(),
            keeps_all: AtomicBool::new(false),
            gate: watch::Sender::new(true),
            answers: watch::Sender::new(true),
        };
        Self { folder, clock: Arc::new(ManualClock::at(NOW_NANOS)), objects: Arc::new(objects), left_behind: LeftBehind::default() }
    }

    pub(super) async fn start(&self, config: LiveStoreConfig) -> Started {
        let options = EmbeddedLogOptions {
            path: self.folder.path().join("log"),
            durability: Durability::Process,
            sync_interval: Duration::ZERO,
            ..EmbeddedLogOptions::default()
        };
        let log: SharedIngestLog = Arc::new(EmbeddedLog::open(options).unwrap());
        let cpu = CpuPool::new("test", 1).unwrap();
        let backend = Backend::new(Arc::clone(&self.objects) as Arc<dyn ObjectStore>, "");
        let db = TempoDb::new(backend, Arc::new(BlockList::default()), DbSettings::default(), Arc::new(SystemClock));
        let db = Arc::new(db);
        let new_blocks = NewBlockSettings {
            version: BlockVersion::VParquet5,
            bloom: BloomParams::default(),
            dedicated_columns: Box::new(|_| Vec::new()),
        };
        let clock = Arc::clone(&self.clock);
        let dependencies = Dependencies {
            log: Arc::clone(&log),
            db: Arc::clone(&db),
            new_blocks,
            cpu,
            clock: clock.clone(),
            left_behind: self.left_behind.clone(),
        };
        let store = LiveStore::new(config, dependencies);
        let running = store.start().await.unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(running.run(stop.clone()));
        Started { store, db, log, clock, stop, running }
    }

    /// Names of all objects, and of whatever else lies in the folder of blocks.
    pub(super) fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut folders = vec![self.folder.path().join("blocks")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                if entry.path().is_dir() {
                    folders.push(entry.path());
                } else {
                    files.push(entry.file_name().into_string().unwrap());
                }
            }
        }
        files.sort();
        files
    }
}

impl Started {
    /// Appends a record of the single tenant and returns once it is consumed.
    pub(super) async fn push(&self, traces: &[(u8, &[u8])]) {
        let end = self.append(TenantId::single().as_str(), push_bytes(traces)).await.next();
        self.consumed(end).await;
    }

    pub(super) async fn append(&self, key: &str, value: Bytes) -> Offset {
        let record = Record::new(Bytes::copy_from_slice(key.as_bytes()), value, self.clock.now_unix_nanos() / 1_000_000);
        self.log.append(PARTITION, vec![record]).await.unwrap()
    }

    pub(super) fn position(&self) -> Offset {
        self.store.state.lock().positions[&PARTITION]
    }

    pub(super) async fn consumed(&self, end: Offset) {
        eventually("records are consumed", || self.position() >= end).await;
    }

    /// Lets time pass and has the live-store look for traces to cut.
    pub(super) fn pass(&self, time: Duration) {
        self.clock.advance_nanos(u64::try_from(time.as_nanos()).unwrap());
        self.store.cut_wanted.notify_one();
    }

    pub(super) async fn committed(&self) -> Option<u64> {
        self.log.committed(&ConsumerGroup::new(CONSUMER_GROUP), PARTITION).await.unwrap().map(|offset| offset.0)
    }

    pub(super) async fn commits(&self, offset: u64) {
        eventually("offset is committed", || self.store.state.lock().committed[&PARTITION] == Offset(offset)).await;
        assert_eq!(self.committed().await, Some(offset));
    }

    pub(super) fn block_count(&self) -> usize {
        self.db.blocks(&TenantId::single()).len()
    }

    /// Spans of a trace in memory.
    pub(super) async fn live_spans(&self, trace: u8) -> Vec<(u8, u8)> {
        let found = self.store.find_trace(&TenantId::single(), trace_id(trace)).await.unwrap();
        found.map(|table| spans_of(&table)).unwrap_or_default()
    }

    /// Spans of a trace in blocks, those of each block for themselves.
    pub(super) async fn stored_spans(&self, trace: u8) -> Vec<Vec<(u8, u8)>> {
        let (tenant, meter) = (TenantId::single(), ReadMeter::default());
        let mut pieces = Vec::new();
        for meta in self.db.blocks(&tenant) {
            let reader = self.db.open(&tenant, &meta, &meter).await.unwrap();
            pieces.extend(reader.find_trace(trace_id(trace), &meter).await.unwrap());
        }
        pieces.iter().map(spans_of).collect()
    }

    pub(super) async fn search(&self, query: &str) -> Vec<TraceHit> {
        let request = SearchRequest {
            query: query.to_owned(),
            limit: 1000,
            spans_per_span_set: 100,
            start_unix_seconds: 0,
            end_unix_seconds: 0,
            min_duration_nanos: None,
            max_duration_nanos: None,
        };
        let mut hits = self.store.search(&TenantId::single(), &request).await.unwrap().hits;
        hits.sort_by_key(|hit| hit.trace_id);
        hits
    }

    /// Number of spans that metrics count in memory, and of the blocks that they count besides.
    pub(super) async fn counted(&self) -> (f64, usize) {
        let request = MetricsRequest {
            query: "{} | count_over_time()".to_owned(),
            window: Window::instant(NOW_NANOS - 1, NOW_NANOS + 1_000_000_000),
            exemplars: 0,
            max_series: 0,
        };
        let RecentMetricsReply { reply, blocks } = self.store.metrics(&TenantId::single(), &request).await.unwrap();
        let samples = reply.series.series.iter().flat_map(|series| &series.samples);
        (samples.map(|sample| sample.value).sum(), blocks.len())
    }

    /// Polls the blocks once.
    pub(super) async fn poll(&self) {
        let settings = PollerSettings::from(&TraceStorageConfig::default());
        let cpu = CpuPool::new("poll", 1).unwrap();
        let (backend, list) = (self.db.backend().clone(), Arc::clone(self.db.block_list()));
        Poller::new(backend, settings, Arc::new(OwnsAll(true)), self.clock.clone(), list, cpu).poll().await.unwrap();
    }

    /// Numbers of the traces that a search finds in memory.
    pub(super) async fn found(&self, query: &str) -> Vec<u8> {
        self.search(query).await.iter().map(|hit| hit.trace_id.0[0]).collect()
    }

    /// Ends the live-store in order and releases the log.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        self.log.close().await.unwrap();
    }
}

/// An object store whose writes fail or wait as told.
#[derive(Debug)]
pub(super) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    /// Names of objects whose next write fails, in this order.
    pub(super) faults: Mutex<VecDeque<&'static str>>,
    /// Deletions fail.
    pub(super) keeps_all: AtomicBool,
    /// Metas are written only while this is true.
    pub(super) gate: watch::Sender<bool>,
    /// Whoever wrote a meta hears of it only while this is true.
    pub(super) answers: watch::Sender<bool>,
}

impl FaultyStore {
    pub(super) fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    pub(super) fn close_gate(&self) {
        self.gate.send_replace(false);
    }

    fn fault(&self, location: &Path) -> object_store::Result<()> {
        let name = location.filename().unwrap_or_default();
        let mut faults = self.faults.lock();
        if faults.front().is_some_and(|first| *first == name) {
            faults.pop_front();
            return Err(as_wanted());
        }
        Ok(())
    }
}

fn as_wanted() -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: "as wanted".into() }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.fault(location)?;
        if location.filename() == Some("meta.json") {
            let mut gate = self.gate.subscribe();
            let _closed = gate.wait_for(|is_open| *is_open).await.map(drop);
        }
        let written = self.inner.put_opts(location, payload, options).await;
        if location.filename() == Some("meta.json") {
            let mut answers = self.answers.subscribe();
            let _closed = answers.wait_for(|is_open| *is_open).await.map(drop);
        }
        written
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.fault(location)?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, object_store::Result<Path>>) -> BoxStream<'static, object_store::Result<Path>> {
        if self.keeps_all.load(Ordering::Relaxed) {
            return locations.map(|_| Err(as_wanted())).boxed();
        }
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Folders of blocks, by listing the objects.
pub(super) async fn block_folders(objects: &FaultyStore) -> Vec<String> {
    let listed: Vec<_> = objects.list(None).try_collect().await.unwrap();
    let mut folders: Vec<_> =
        listed.iter().filter_map(|object| object.location.parts().nth(1)).map(|part| part.as_ref().to_owned()).collect();
    folders.sort();
    folders.dedup();
    folders
}
