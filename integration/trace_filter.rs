//! A trace is found among many blocks with few requests: by the trace filter, and without one by bloom filters and one block.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use futures::stream::BoxStream;
use http::Request;
use http_body_util::BodyExt as _;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult,
};
use parking_lot::Mutex;
use tempo_rs::base::clock::SystemClock;
use tempo_rs::base::cpu_pool::CpuPool;
use tempo_rs::model::ids::TenantId;
use tempo_rs::model::otlp::regroup::regroup;
use tempo_rs::model::otlp_table::{Fragment, build_table};
use tempo_rs::modules::querier::{self, Querier};
use tempo_rs::modules::query_frontend::limits::QueryLimits;
use tempo_rs::modules::query_frontend::tenancy::Tenancy;
use tempo_rs::modules::query_frontend::{self, QueryFrontend};
use tempo_rs::tempodb::backend::Backend;
use tempo_rs::tempodb::block::meta::{BlockId, BlockMeta};
use tempo_rs::tempodb::block::write::{BlockWriter, NewBlock};
use tempo_rs::tempodb::blocklist::BlockList;
use tempo_rs::tempodb::cache::Caches;
use tempo_rs::tempodb::db::{DbSettings, TempoDb};
use tempo_rs::tempodb::trace_filter::maintain::{MaintainSettings, maintain};
use tower::ServiceExt as _;

use crate::client::Client;
use crate::otlp;
use crate::process::Place;
use crate::wait::eventually;

/// Counts reading requests by what they read.
#[derive(Default)]
struct CountingStore {
    inner: InMemory,
    reads: Mutex<BTreeMap<&'static str, usize>>,
}

impl CountingStore {
    fn count(&self, key: &Path, requests: usize) {
        let kind = match key.filename().unwrap_or_default() {
            name if name.starts_with("tempo-rs.ids.") => "filter",
            name if name.starts_with("bloom-") => "bloom",
            _ => "block",
        };
        *self.reads.lock().entry(kind).or_default() += requests;
    }

    fn take(&self) -> BTreeMap<&'static str, usize> {
        std::mem::take(&mut self.reads.lock())
    }
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountingStore")
    }
}

impl fmt::Debug for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountingStore")
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.count(location, 1);
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        self.count(location, ranges.len());
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, object_store::Result<Path>>) -> BoxStream<'static, object_store::Result<Path>> {
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

/// Writes a block with one trace of one span.
async fn write_block(store: &Arc<dyn ObjectStore>, cpu: &CpuPool, tenant: &TenantId, trace_id: &[u8], seed: u64) -> BlockMeta {
    let batches = vec![otlp::batch("filtered", vec![otlp::span(trace_id, seed, "only")])];
    let request = regroup(otlp::encode(&batches).into(), 2048).unwrap();
    let (trace_id, message) = request.trace_message(0);
    let table = build_table(vec![Fragment { trace_id, trace: &message }]).table;
    let block = NewBlock::new(tenant.clone(), BlockId::random(), 1);
    let mut writer = BlockWriter::create(Backend::new(Arc::clone(store), ""), cpu.clone(), block).await.unwrap();
    writer.append(Arc::new(table)).await.unwrap();
    writer.finish().await.unwrap()
}

fn api(db: Arc<TempoDb>, cpu: CpuPool) -> axum::Router {
    let parts = querier::Parts { config: Default::default(), span_readers: Vec::new(), db: Arc::clone(&db), cpu: cpu.clone() };
    let frontend = QueryFrontend::new(query_frontend::Parts {
        config: Default::default(),
        tenancy: Tenancy { multitenancy_enabled: false, multi_tenant_queries_enabled: false },
        search_end_cutoff: None,
        querier: Arc::new(Querier::new(parts)),
        caches: Caches::default(),
        blocks: db,
        limits: Arc::new(|_| QueryLimits::default()),
        clock: Arc::new(SystemClock),
        cpu,
    });
    query_frontend::router(Arc::new(frontend.unwrap()), "")
}

async fn status(api: &axum::Router, id: &[u8]) -> u16 {
    let url = format!("/api/traces/{}?mode=blocks", otlp::hex(id));
    let request = Request::builder().uri(url).body(Body::empty()).unwrap();
    let response = api.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(status != 200 || !body.is_empty());
    status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_over_a_thousand_blocks_reads_one() {
    const BLOCKS: u64 = 1000;
    let counting = Arc::new(CountingStore::default());
    let store = Arc::clone(&counting) as Arc<dyn ObjectStore>;
    let (cpu, tenant) = (CpuPool::new("test", 2).unwrap(), TenantId::single());
    let list = Arc::new(BlockList::default());
    for number in 0..BLOCKS {
        list.add(&tenant, Arc::new(write_block(&store, &cpu, &tenant, &otlp::id::<16>(number), number).await));
    }
    let (looked_up, absent) = (otlp::id::<16>(417), otlp::id::<16>(BLOCKS + 1));
    let db = Arc::new(TempoDb::new(Backend::new(Arc::clone(&store), ""), Arc::clone(&list), DbSettings::default(), Arc::new(SystemClock)));
    let without = api(Arc::clone(&db), cpu.clone());
    counting.take();
    assert_eq!(status(&without, &looked_up).await, 200);
    let reads = counting.take();
    assert_eq!(reads["bloom"], 1000);
    // Bloom filters name a block in vain now and then, which costs its footer and index.
    assert!(reads["block"] <= 60, "{reads:?}");
    assert!(reads["filter"] <= 49, "the absent manifest, at most once per job: {reads:?}");

    let outcome = maintain(&db, &cpu, &tenant, &MaintainSettings::default()).await.unwrap();
    assert_eq!((outcome.covered_blocks, outcome.unreadable_blocks), (1000, 0));
    // A process that begins: manifest, header and shard of one or two runs (the blocks may end on two days), and the block.
    let db = Arc::new(TempoDb::new(Backend::new(Arc::clone(&store), ""), list, DbSettings::default(), Arc::new(SystemClock)));
    let with = api(db, cpu);
    counting.take();
    assert_eq!(status(&with, &looked_up).await, 200);
    let reads = counting.take();
    assert_eq!(reads.get("bloom"), None);
    assert!(reads["filter"] <= 5 && reads["block"] <= 6, "{reads:?}");
    assert_eq!(status(&with, &absent).await, 404);
    let reads = counting.take();
    assert_eq!((reads.get("bloom"), reads.get("block")), (None, None));
    assert!(reads.get("filter").is_none_or(|reads| *reads <= 2), "{reads:?}");
}

fn is_covered(client: &Client) -> bool {
    let metrics = client.get("/metrics").text();
    metrics.lines().any(|line| line.starts_with("tempo_rs_trace_filter_uncovered_blocks{") && line.ends_with(" 0"))
}

#[test]
fn the_binary_makes_and_uses_a_filter() {
    const BLOCKS: u64 = 300;
    let place = Place::new();
    fs::create_dir_all(place.blocks_dir()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store: Arc<dyn ObjectStore> = Arc::new(object_store::local::LocalFileSystem::new_with_prefix(place.blocks_dir()).unwrap());
        let cpu = CpuPool::new("test", 2).unwrap();
        for number in 0..BLOCKS {
            write_block(&store, &cpu, &TenantId::single(), &otlp::id::<16>(50_000 + number), number).await;
        }
    });
    let tempo = place.start();
    let client = tempo.client();
    eventually("the filter covers all blocks", Duration::from_secs(60), || is_covered(&client));
    for number in (0..BLOCKS).step_by(7) {
        assert!(!client.trace(&otlp::id::<16>(50_000 + number)).is_empty());
    }
    assert_eq!(client.trace(&otlp::id::<16>(1)).len(), 0);
    let metric = |name: &str| client.metric(name, "");
    assert!(metric("tempo_rs_trace_filter_lookups_total") >= 44.0);
    assert!(metric("tempo_rs_trace_filter_candidates_total") >= 43.0);
    assert_eq!(metric("tempo_rs_trace_filter_false_positives_total"), 0.0);
    assert_eq!(metric("tempo_rs_tempodb_bloom_lookups_total"), 0.0);
    assert!(metric("tempo_rs_trace_filter_read_bytes_total") > 0.0);
    // The objects are no blocks to anybody: a second start finds the same blocks and the filter as it was.
    let objects = || {
        let entries = fs::read_dir(place.blocks_dir().join("single-tenant")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.starts_with("tempo-rs."));
        names.sort();
        names
    };
    let before = objects();
    assert!(before.len() >= 2, "{before:?}");
    drop(tempo);
    let tempo = place.start();
    let client = tempo.client();
    eventually("the filter is known again", Duration::from_secs(60), || is_covered(&client));
    assert_eq!(objects(), before);
    assert!(!client.trace(&otlp::id::<16>(50_001)).is_empty());
}
