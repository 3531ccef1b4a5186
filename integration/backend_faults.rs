//! A store in trouble while blocks are written: nothing acknowledged is lost, no block is half visible, and all is well once the store is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use serde_json::json;
use tempo_rs::model::ids::TenantId;
use tempo_rs::proto::tempopb::trace::v1::ResourceSpans;
use tempo_rs::tempodb::backend::Backend;
use tempo_rs::tempodb::block::meta::{BlockId, BlockMeta};
use tempo_rs::tempodb::config::TraceStorageConfig;
use tempo_rs::tempodb::keys;

use crate::client::Client;
use crate::faults::{Fault, FaultyFront, Seen, Toxiproxy};
use crate::otlp;
use crate::process::{Place, Tempo};
use crate::stores::{Store, StoreKind};
use crate::wait::{SOON, eventually};

/// The live-store waits up to half a minute between attempts.
const HEALED: Duration = Duration::from_secs(90);
/// Quick failures: the test is about what the process does after the store's own client gave up.
const FEW_ATTEMPTS: &str = "retry_max_attempts: 2, retry_backoff_initial: 50ms, retry_backoff_max: 100ms";
const SPANS: u64 = 20;
const TEXTS: u64 = 16;
/// Longer attributes are cut.
const TEXT_BYTES: u64 = 960;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(future)
}

/// A trace of some 300 KB that compresses to half.
fn trace(seed: u64) -> (Vec<u8>, Vec<ResourceSpans>) {
    let id = otlp::id::<16>(seed);
    let noise = |number: u64| (0..TEXT_BYTES / 32).map(|part| otlp::hex(&otlp::id::<16>(number * 1_000 + part))).collect::<String>();
    let spans = (0..SPANS).map(|number| {
        let mut span = otlp::span(&id, seed * 1_000 + number, "work");
        let first = (seed * 1_000 + number) * TEXTS;
        span.attributes = (0..TEXTS).map(|text| otlp::text(&format!("k{text}"), &noise(first + text))).collect();
        span
    });
    (id.clone(), vec![otlp::batch("faults", spans.collect())])
}

fn push(client: &Client, seeds: std::ops::Range<u64>) -> BTreeMap<Vec<u8>, Vec<ResourceSpans>> {
    let traces: BTreeMap<_, _> = seeds.map(trace).collect();
    traces.values().for_each(|batches| client.push(batches));
    traces
}

/// Every block that has a meta is whole, and their traces are those pushed.
fn assert_whole(config: &TraceStorageConfig, traces: usize) {
    let tenant = TenantId::parse("single-tenant").unwrap();
    let objects = block_on(async {
        let backend = Backend::from_config(config).unwrap();
        let ids = backend.block_ids(&tenant).await.unwrap();
        let mut stored = 0;
        for id in &ids.live {
            stored += assert_block_is_whole(&backend, &tenant, *id).await;
        }
        stored
    });
    assert!(objects >= traces, "{objects} traces in blocks, {traces} pushed");
}

async fn assert_block_is_whole(backend: &Backend, tenant: &TenantId, id: BlockId) -> usize {
    let read = async |name: &str| -> Bytes {
        let key = keys::block_object(tenant, id, name);
        backend.read(&key).await.unwrap_or_else(|error| panic!("{key}: {error}"))
    };
    let meta = BlockMeta::from_json(&read("meta.json").await).unwrap();
    let data = read("data.parquet").await;
    assert_eq!(data.len() as u64, meta.size_bytes);
    assert_eq!((&data[..4], &data[data.len() - 4..]), (&b"PAR1"[..], &b"PAR1"[..]));
    read("index").await;
    for shard in 0..meta.bloom_shards {
        read(&keys::bloom_name(shard)).await;
    }
    meta.total_objects as usize
}

fn assert_found(client: &Client, traces: &BTreeMap<Vec<u8>, Vec<ResourceSpans>>) {
    for (id, batches) in traces {
        assert_eq!(client.trace(id).len(), otlp::canonical_messages(batches).len(), "{}", otlp::hex(id));
    }
}

/// Restarts over an empty log, so that only the store can answer.
fn assert_found_in_store<'a>(place: &'a Place, tempo: Tempo<'_>, traces: &BTreeMap<Vec<u8>, Vec<ResourceSpans>>) -> Tempo<'a> {
    tempo.kill();
    std::fs::remove_dir_all(place.log_dir()).unwrap();
    let tempo = place.start();
    assert_found(&tempo.client(), traces);
    tempo
}

fn s3_behind_proxy() -> (Store, Toxiproxy, Place) {
    let store = StoreKind::S3.start();
    let proxy = Toxiproxy::start(store.port);
    let place = Place::with(|wishes| wishes.backend = Some(store.yaml(proxy.port, FEW_ATTEMPTS)));
    (store, proxy, place)
}

#[test]
fn connections_that_are_slow_drip_or_break_lose_nothing() {
    let (store, proxy, place) = s3_behind_proxy();
    let tempo = place.start();
    let client = tempo.client();
    let mut traces = BTreeMap::new();
    let disturbances = [
        ("latency", "downstream", json!({"latency": 300, "jitter": 200})),
        ("bandwidth", "upstream", json!({"rate": 300})),
        ("slicer", "downstream", json!({"average_size": 100, "size_variation": 50, "delay": 2000})),
        ("reset_peer", "upstream", json!({"timeout": 20})),
    ];
    for (round, (kind, stream, attributes)) in (0..).zip(&disturbances) {
        traces.extend(push(&client, round * 10 + 1..round * 10 + 6));
        proxy.add(kind, stream, attributes);
        let flushing = {
            let client = client.with_timeout(HEALED);
            std::thread::spawn(move || client.get("/flush").status)
        };
        if *kind == "reset_peer" {
            eventually("writing fails", SOON, || tempo.log().contains("block could not be written, trying again"));
        } else {
            eventually("a block is written all the same", HEALED, || flushing.is_finished());
        }
        proxy.heal();
        assert_eq!(flushing.join().unwrap(), 204, "{kind}");
    }
    assert_found(&client, &traces);
    assert_whole(&config_of(&store), traces.len());
    assert_found_in_store(&place, tempo, &traces);
}

#[test]
fn a_store_that_is_gone_for_a_while_gets_the_blocks_later() {
    let (store, proxy, place) = s3_behind_proxy();
    let tempo = place.start();
    let client = tempo.client();
    let traces = push(&client, 100..106);
    proxy.set_enabled(false);
    let flushing = {
        let client = client.with_timeout(HEALED);
        std::thread::spawn(move || client.get("/flush").status)
    };
    eventually("writing fails twice", SOON, || tempo.log().matches("block could not be written, trying again").count() >= 2);
    assert_found(&client, &traces);
    // Killed meanwhile: the log still has everything.
    tempo.kill();
    drop(flushing);
    proxy.heal();
    let tempo = place.start();
    tempo.flush();
    assert_whole(&config_of(&store), traces.len());
    assert_found_in_store(&place, tempo, &traces);
}

#[test]
fn answers_that_fail_or_get_lost_leave_no_half_block_and_the_meta_comes_last() {
    let store = StoreKind::S3.start();
    let front = FaultyFront::start(store.port);
    let place = Place::with(|wishes| wishes.backend = Some(store.yaml(front.port, FEW_ATTEMPTS)));
    let tempo = place.start();
    let client = tempo.client();
    let mut traces = BTreeMap::new();
    let mut seed = 1_000;
    for object in ["data.parquet", "bloom-0", "/index", "meta.json"] {
        for fault in [Fault::Status(503), Fault::LostAnswer] {
            traces.extend(push(&client, seed..seed + 2));
            seed += 2;
            // More than the attempts of one request: the block fails, too.
            disturb_writes(&front, object, 3, fault);
            assert_eq!(client.with_timeout(HEALED).get("/flush").status, 204, "{object} {fault:?}");
            assert!(front.faults() > 0, "{object} {fault:?}: nothing was disturbed");
            front.heal();
            assert_whole(&config_of(&store), traces.len());
        }
    }
    assert_found(&client, &traces);
    assert_meta_is_last(&front.seen());
    assert_found_in_store(&place, tempo, &traces);
}

/// In each block the last object written is its meta, and it is written only where there is none.
fn assert_meta_is_last(seen: &[Seen]) {
    let mut last: BTreeMap<BlockId, (&str, bool)> = BTreeMap::new();
    for write in seen.iter().filter(|seen| seen.method == "PUT") {
        let path = write.target.split('?').next().unwrap();
        let mut segments = path.rsplit('/');
        let (name, folder) = (segments.next().unwrap(), segments.next().unwrap_or_default());
        if let Some(block) = BlockId::parse(folder) {
            last.insert(block, (name, write.headers.contains_key("if-none-match")));
        }
    }
    assert!(!last.is_empty() && last.values().all(|last| *last == ("meta.json", true)), "{last:?}");
}

/// The first `count` writes to an object of this name, or with this in their query, go wrong.
fn disturb_writes(front: &FaultyFront, part: &'static str, count: usize, fault: Fault) {
    let done = AtomicUsize::new(0);
    front.rule(move |seen| {
        let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
        let is_meant = (seen.method == "PUT" || seen.method == "POST") && (path.ends_with(part) || query.contains(part));
        (is_meant && done.fetch_add(1, Ordering::SeqCst) < count).then_some(fault)
    });
}

#[test]
fn uploads_in_parts_survive_some_failures_and_leave_nothing_after_too_many() {
    const PART: usize = 5 << 20;
    let store = StoreKind::S3.start();
    let front = FaultyFront::start(store.port);
    let mut config = store.config_at(front.port, "");
    config.s3.part_size = PART as u64;
    config.s3.retry_max_attempts = 3;
    block_on(async {
        let backend = Backend::from_config(&config).unwrap();
        let key = Path::from("t/large");
        let written = Bytes::from((0..12_u32 << 20).map(|position| (position % 249) as u8).collect::<Vec<_>>());
        let upload = async || {
            let mut upload = backend.upload(key.clone());
            upload.write(written.clone()).await?;
            upload.finish().await
        };
        for part in ["uploads", "partNumber=2", "partNumber=3", "uploadId"] {
            for (count, is_whole) in [(2, true), (20, false)] {
                disturb_writes(&front, part, count, Fault::Status(503));
                assert_eq!(upload().await.is_ok(), is_whole, "{part} {count}");
                front.heal();
                if is_whole {
                    assert_eq!(backend.read(&key).await.unwrap(), written, "{part}");
                    backend.delete(&key).await.unwrap();
                }
                assert!(backend.head(&key).await.unwrap_err().is_not_found(), "{part} {count}");
            }
        }
        let parts = front.seen().into_iter().filter(|seen| seen.target.contains("partNumber=1"));
        assert!(parts.into_iter().all(|seen| seen.headers["content-length"] == PART.to_string()));
    });
}

#[test]
fn an_outage_is_not_multiplied_by_retries() {
    let store = StoreKind::S3.start();
    let front = FaultyFront::start(store.port);
    let mut config = store.config_at(front.port, "");
    config.s3.retry_max_attempts = 10;
    config.s3.retry_backoff_initial = tempo_rs::base::duration::GoDuration::millis(1);
    config.s3.retry_backoff_max = tempo_rs::base::duration::GoDuration::millis(2);
    front.rule(|_| Some(Fault::Status(503)));
    block_on(async {
        let backend = Backend::from_config(&config).unwrap();
        let reads = (0..300).map(|number| {
            let backend = backend.clone();
            async move { backend.read(&Path::from(format!("t/{number}"))).await }
        });
        let outcomes = futures::future::join_all(reads).await;
        assert!(outcomes.iter().all(Result::is_err));
        // Ten attempts for each would be 3000.
        assert!((300..=420).contains(&front.faults()), "{}", front.faults());
        front.heal();
        let key = Path::from("t/x");
        backend.write(&key, "healed").await.unwrap();
        let left: Vec<_> = backend.store().list(None).map_ok(|object| object.location).try_collect().await.unwrap();
        assert_eq!(left, [key]);
    });
}

fn config_of(store: &Store) -> TraceStorageConfig {
    store.config("some/prefix")
}
