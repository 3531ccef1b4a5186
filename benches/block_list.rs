//! A block list of 100,000 blocks, and lookups of traces over many blocks: prints figures, CPU time unless said otherwise.
//!
//! Not a statistical benchmark: the steps are long and each is done a few times.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program to be read by people")]

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tempo_rs::base::clock::{SharedClock, SystemClock};
use tempo_rs::base::cpu_pool::CpuPool;
use tempo_rs::model::ids::{TenantId, TraceId};
use tempo_rs::model::otlp_table::{Fragment, build_table};
use tempo_rs::tempodb::backend::Backend;
use tempo_rs::tempodb::block::dedicated::default_columns;
use tempo_rs::tempodb::block::meta::{BlockId, BlockMeta, META_NAME};
use tempo_rs::tempodb::block::read::ReadMeter;
use tempo_rs::tempodb::block::write::{BlockTimes, BlockWriter, NewBlock};
use tempo_rs::tempodb::blocklist::BlockList;
use tempo_rs::tempodb::config::TraceStorageConfig;
use tempo_rs::tempodb::db::{ALL_TIMES, DbSettings, TempoDb};
use tempo_rs::tempodb::keys;
use tempo_rs::tempodb::poller::{OwnsAll, Poller, PollerSettings};
use tempo_rs::tempodb::tenant_index::TenantIndex;
use tempo_rs::tempodb::trace_filter::maintain::{MaintainSettings, maintain};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const BLOCKS: usize = 100_000;
const DAY: i64 = 24 * 60 * 60;

/// CPU milliseconds of the process.
fn cpu() -> f64 {
    fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path().join("schedstat")).fold(0.0, |sum, path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        sum + text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0) / 1e6
    })
}

fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn measured<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (before, started) = (cpu(), Instant::now());
    let result = work();
    println!("{what}: {:.2} ms CPU, {:.2} ms wall", cpu() - before, started.elapsed().as_secs_f64() * 1e3);
    result
}

async fn measured_async<T>(what: &str, work: impl Future<Output = T>) -> T {
    let (before, started) = (cpu(), Instant::now());
    let result = work.await;
    println!("{what}: {:.2} ms CPU, {:.2} ms wall", cpu() - before, started.elapsed().as_secs_f64() * 1e3);
    result
}

/// A meta as it comes from a `meta.json`, with a list of dedicated columns of its own.
fn meta(tenant: &TenantId, number: usize, now: i64) -> BlockMeta {
    let end = now - (number as i64 * 14 * DAY) / BLOCKS as i64;
    let time = |seconds| Timestamp::from_second(seconds).unwrap();
    BlockMeta {
        format: "vParquet5".to_owned(),
        block_id: BlockId::random(),
        tenant_id: tenant.to_string(),
        start_time: time(end - 1800),
        end_time: time(end),
        total_objects: 10_000 + number as i64,
        size_bytes: 30_000_000 + number as u64,
        compaction_level: (number % 4) as u32,
        index_page_size: 0,
        total_records: 3,
        bloom_shards: 2,
        footer_size_bytes: 40_000,
        dedicated_columns: default_columns().into(),
        replication_factor: 1,
    }
}

async fn block_list(cpu_pool: &CpuPool) {
    let (tenant, clock) = (TenantId::single(), Arc::new(SystemClock) as SharedClock);
    let now = Timestamp::now().as_second();
    let store = Arc::new(InMemory::new());
    let backend = Backend::new(Arc::clone(&store) as Arc<dyn ObjectStore>, "");
    let put = async |meta: &BlockMeta| {
        backend.write(&keys::block_object(&tenant, meta.block_id, META_NAME), meta.to_json()).await.unwrap();
        // As many other objects as a block has.
        for name in ["data.parquet", "bloom-0", "index"] {
            backend.write(&keys::block_object(&tenant, meta.block_id, name), "").await.unwrap();
        }
    };
    for number in 0..BLOCKS {
        put(&meta(&tenant, number, now)).await;
    }
    let list = Arc::new(BlockList::default());
    let settings = PollerSettings::from(&TraceStorageConfig::default());
    let poller =
        Poller::new(backend.clone(), settings.clone(), Arc::new(OwnsAll(true)), Arc::clone(&clock), Arc::clone(&list), cpu_pool.clone());
    measured_async("first poll, 100,000 metas read, index written", poller.poll()).await.unwrap();
    measured_async("listing alone", backend.block_ids(&tenant)).await.unwrap();
    measured_async("poll without changes, index written", poller.poll()).await.unwrap();
    for number in 0..10 {
        put(&meta(&tenant, number, now)).await;
    }
    measured_async("poll with 10 new blocks, index written", poller.poll()).await.unwrap();

    let bytes = backend.read(&keys::tenant_object(&tenant, "index.pb.zst")).await.unwrap();
    let json = backend.read(&keys::tenant_object(&tenant, "index.json.gz")).await.unwrap();
    println!("index: {} bytes zstd, {} bytes gzip", bytes.len(), json.len());
    let index = measured("decode protobuf index", || TenantIndex::from_proto_zstd(&bytes).unwrap());
    measured("decode JSON index", || TenantIndex::from_json_gzip(&json).unwrap());
    measured("encode protobuf index", || index.to_proto_zstd());
    measured("encode JSON index", || index.to_json_gzip());
    drop(index);
    let other = Arc::new(BlockList::default());
    let before = resident_bytes();
    let reader = Poller::new(backend.clone(), settings, Arc::new(OwnsAll(false)), Arc::clone(&clock), Arc::clone(&other), cpu_pool.clone());
    measured_async("poll that reads the index", reader.poll()).await.unwrap();
    measured_async("poll that reads the index again", reader.poll()).await.unwrap();
    println!("resident after reading the index: {} bytes a block", resident_bytes().saturating_sub(before) / BLOCKS as u64);

    let held = list.blocks(&tenant);
    let new = Arc::new(meta(&tenant, 5, now));
    measured("add a block while the list is held", || list.add(&tenant, Arc::clone(&new)));
    let held_too = list.blocks(&tenant);
    let marked: Vec<BlockId> = held.live.ids().skip(50_000).take(4).collect();
    measured("mark 4 blocks compacted while the list is held", || list.mark_compacted(&tenant, &marked, Timestamp::now()));
    drop((held, held_too));
    let db = TempoDb::new(backend, list, DbSettings::default(), clock);
    measured("TempoDb::blocks", || db.blocks(&tenant).len());
    let hour = measured("blocks of the last hour", || db.blocks_overlapping(&tenant, now - 3600..=now).len());
    let old = measured("blocks of an hour 10 days ago", || db.blocks_overlapping(&tenant, now - 10 * DAY..=now - 10 * DAY + 3600).len());
    println!("  which are {hour} and {old}");
    let range = BlockId(uuid::Uuid::nil())..=BlockId(uuid::Uuid::max());
    let id = TraceId([1; 16]);
    measured_async("candidates of a trace without filter", db.candidate_blocks(&tenant, id, ALL_TIMES, range.clone())).await;
    measured_async("candidates of a trace without filter, again", db.candidate_blocks(&tenant, id, ALL_TIMES, range)).await;
}

fn trace_id(number: u64) -> TraceId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    id[8..].copy_from_slice(&(number + 1).to_be_bytes());
    TraceId(id)
}

/// A resource with one span of a trace, protobuf.
fn one_span(id: TraceId) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8][..], bytes].concat();
    let mut span = [field(1, &id.0), field(2, &id.0[8..]), field(5, b"span")].concat();
    span.extend([7 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 24, 8 << 3 | 1, 0, 1, 0, 0, 0, 0, 0, 24]);
    field(1, &field(2, &field(2, &span)))
}

async fn lookups(cpu_pool: &CpuPool, blocks: u64, traces_per_block: u64, days: i64) {
    println!("\n{blocks} blocks of {traces_per_block} traces over {days} days");
    let store = Arc::new(InMemory::new()) as Arc<dyn ObjectStore>;
    let backend = Backend::new(Arc::clone(&store), "");
    let (tenant, list) = (TenantId::single(), Arc::new(BlockList::default()));
    let now = Timestamp::now().as_second();
    for number in 0..blocks {
        let ids = (0..traces_per_block).map(|trace| trace_id(number * traces_per_block + trace));
        let messages: Vec<_> = ids.map(|id| (id, one_span(id))).collect();
        let table = build_table(messages.iter().map(|(id, trace)| Fragment { trace_id: *id, trace }).collect()).table;
        let end = Timestamp::from_second(now - number as i64 * days * DAY / blocks as i64).unwrap();
        let block = NewBlock {
            times: BlockTimes::Given { start: end, end },
            ..NewBlock::new(tenant.clone(), BlockId::random(), traces_per_block as usize)
        };
        let mut writer = BlockWriter::create(backend.clone(), cpu_pool.clone(), block).await.unwrap();
        writer.append(Arc::new(table)).await.unwrap();
        list.add(&tenant, Arc::new(writer.finish().await.unwrap()));
    }
    let open = || TempoDb::new(backend.clone(), Arc::clone(&list), DbSettings::default(), Arc::new(SystemClock));
    let db = open();
    find(&db, &tenant, "without filter, first", trace_id(blocks * traces_per_block / 2)).await;
    find(&db, &tenant, "without filter, next", trace_id(blocks * traces_per_block / 3)).await;
    let before = cpu();
    let mut outcome = maintain(&db, cpu_pool, &tenant, &MaintainSettings::default()).await.unwrap();
    while outcome.is_unfinished {
        outcome = maintain(&db, cpu_pool, &tenant, &MaintainSettings::default()).await.unwrap();
    }
    let traces = (blocks * traces_per_block) as f64;
    let spent = cpu() - before;
    let objects: Vec<_> = futures::TryStreamExt::try_collect(store.list(None)).await.unwrap();
    let objects: Vec<object_store::ObjectMeta> = objects;
    let own = objects.iter().filter(|object| object.location.filename().is_some_and(|name| name.starts_with("tempo-rs.ids.")));
    let (count, bytes) = own.fold((0, 0), |(count, bytes), object| (count + 1, bytes + object.size));
    println!("filter: {count} objects, {:.2} bytes a trace; {:.0} ms CPU per 1 M traces", bytes as f64 / traces, spent / traces * 1e6);
    let db = open();
    find(&db, &tenant, "with filter, first of the process", trace_id(blocks * traces_per_block / 2)).await;
    for number in 0..3 {
        find(&db, &tenant, "with filter, next", trace_id(blocks * traces_per_block / 7 * (number + 1))).await;
    }
    let mut in_vain = 0;
    for number in 0..10_000 {
        let all = BlockId(uuid::Uuid::nil())..=BlockId(uuid::Uuid::max());
        in_vain += db.candidate_blocks(&tenant, trace_id(u64::MAX / 2 + number), ALL_TIMES, all).await.blocks.len();
    }
    println!("blocks named for 10,000 absent traces: {in_vain}");
}

async fn find(db: &TempoDb, tenant: &TenantId, what: &str, id: TraceId) {
    let (before, started) = (cpu(), Instant::now());
    let all = BlockId(uuid::Uuid::nil())..=BlockId(uuid::Uuid::max());
    let candidates = db.candidate_blocks(tenant, id, ALL_TIMES, all).await;
    let (meter, mut asked, mut opened, mut found) = (ReadMeter::default(), 0, 0, 0);
    for candidate in &candidates.blocks {
        if !candidate.is_named_by_filter {
            asked += 1;
            if !db.bloom_may_contain(tenant, &candidate.meta, id).await.unwrap() {
                continue;
            }
        }
        opened += 1;
        let reader = db.open(tenant, &candidate.meta, &meter).await.unwrap();
        found += usize::from(reader.fetch_trace(id, &meter).await.unwrap().is_some());
    }
    let requests = candidates.cost.requests + asked + meter.cost().requests;
    println!(
        "{what}: {requests} requests ({asked} blooms, {} to the filter with {} bytes), {opened} blocks opened, {found} found; {:.2} ms CPU, {:.2} ms wall",
        candidates.cost.requests,
        candidates.cost.bytes,
        cpu() - before,
        started.elapsed().as_secs_f64() * 1e3
    );
    assert_eq!(found, 1);
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cpu_pool = CpuPool::new("cpu", 1).unwrap();
    runtime.block_on(async {
        block_list(&cpu_pool).await;
        lookups(&cpu_pool, 1_000, 100, 14).await;
        lookups(&cpu_pool, 10_000, 20, 14).await;
        lookups(&cpu_pool, 20, 50_000, 1).await;
    });
}
