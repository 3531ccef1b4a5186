//! Merges two blocks: spans per second, and with blocks on disk the cost of a whole process.
//!
//! `TEMPO_RS_BENCH_BLOCKS` names a folder. If it does not exist, two blocks are written there, from the recorded corpus that
//! `TEMPO_RS_BENCH_CORPUS` names or from generated traces, and nothing is measured. If it does, its blocks are merged once, and CPU-seconds per
//! million spans, peak resident memory and spans per second are printed; the folder is then as before. Without it small blocks are merged in memory.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench stops at the first surprise and reports")]

mod corpus;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use object_store::memory::InMemory;
use tempo_rs::base::clock::SystemClock;
use tempo_rs::base::cpu_pool::CpuPool;
use tempo_rs::model::ids::TenantId;
use tempo_rs::model::span_table::SpanTable;
use tempo_rs::tempodb::backend::Backend;
use tempo_rs::tempodb::block::estimate::DEFAULT_ROW_GROUP_BYTES;
use tempo_rs::tempodb::block::meta::{BlockId, COMPACTED_META_NAME, META_NAME};
use tempo_rs::tempodb::block::write::{BlockWriter, NewBlock};
use tempo_rs::tempodb::blocklist::BlockList;
use tempo_rs::tempodb::compaction::{CompactSettings, CompactionOutcome, Compactor};
use tempo_rs::tempodb::db::{DbSettings, TempoDb};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const GENERATED_SPANS: usize = 100_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match std::env::var("TEMPO_RS_BENCH_BLOCKS") {
        Ok(folder) if Path::new(&folder).exists() => runtime.block_on(merge_folder(Path::new(&folder))),
        Ok(folder) => drop(runtime.block_on(write_blocks(&Backend::local(&folder).unwrap()))),
        Err(_) => bench(&runtime),
    }
}

fn bench(runtime: &tokio::runtime::Runtime) {
    let backend = Backend::new(Arc::new(InMemory::new()), "");
    let blocks = runtime.block_on(write_blocks(&backend));
    let spans = runtime.block_on(merge(&backend, &blocks)).spans;
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("compaction");
    group.throughput(Throughput::Elements(spans)).sample_size(10).measurement_time(Duration::from_secs(20));
    group.bench_function("merge two blocks", |b| {
        b.iter_batched(
            || runtime.block_on(restore(&backend)),
            |()| runtime.block_on(merge(&backend, &blocks)),
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
    criterion.final_summary();
}

fn cpu() -> CpuPool {
    CpuPool::new("cpu", 2).unwrap()
}

/// Writes two blocks, as if a live-store had cut twice: traces that were under way are in both.
async fn write_blocks(backend: &Backend) -> Vec<BlockId> {
    let mut pieces = match std::env::var("TEMPO_RS_BENCH_CORPUS") {
        Ok(path) => corpus::read(&path),
        Err(_) => corpus::generate(GENERATED_SPANS, 1),
    };
    let mut later = pieces.split_off(pieces.len() / 2);
    let mut blocks = Vec::new();
    for pieces in [&mut pieces, &mut later] {
        let tables = corpus::tables(pieces, DEFAULT_ROW_GROUP_BYTES);
        let traces = tables.iter().map(SpanTable::trace_count).sum();
        let block = NewBlock::new(TenantId::single(), BlockId::random(), traces);
        blocks.push(block.id);
        let mut writer = BlockWriter::create(backend.clone(), cpu(), block).await.unwrap();
        for table in tables {
            writer.append(Arc::new(table)).await.unwrap();
        }
        let meta = writer.finish().await.unwrap();
        println!("block of {} traces, {} bytes, {} row groups", meta.total_objects, meta.size_bytes, meta.total_records);
    }
    blocks
}

async fn merge(backend: &Backend, blocks: &[BlockId]) -> CompactionOutcome {
    let clock = Arc::new(SystemClock);
    let db = TempoDb::new(backend.clone(), Arc::new(BlockList::default()), DbSettings::default(), clock.clone());
    let compactor = Compactor::new(Arc::new(db), cpu(), clock);
    let settings = CompactSettings {
        memory_bytes: std::env::var("TEMPO_RS_BENCH_MEMORY")
            .map_or(CompactSettings::default().memory_bytes, |bytes| bytes.parse().unwrap()),
        ..CompactSettings::default()
    };
    compactor.compact(&TenantId::single(), blocks, &settings).await.unwrap()
}

async fn merge_folder(folder: &Path) {
    let backend = Backend::local(folder).unwrap();
    restore(&backend).await;
    let tenant = TenantId::single();
    let blocks = backend.block_ids(&tenant).await.unwrap().live;
    let before = cpu_seconds();
    let outcome = merge(&backend, &blocks).await;
    let cpu_seconds = cpu_seconds() - before;
    let spans = outcome.spans as f64;
    for meta in &outcome.outputs {
        println!("{} bytes, {:.1} a span, {} row groups", meta.size_bytes, meta.size_bytes as f64 / spans, meta.total_records);
    }
    println!(
        "{spans} spans in {} traces, {} joined, {} spans twice\n{:.2} CPU-s per 1M spans, {:.0} spans/s, {} MB accounted, {} MB peak resident",
        outcome.traces,
        outcome.combined_traces,
        outcome.deduped_spans,
        cpu_seconds * 1e6 / spans,
        spans / outcome.duration.as_secs_f64(),
        outcome.peak_memory_bytes >> 20,
        peak_resident_kib() >> 10
    );
    restore(&backend).await;
}

/// Makes what was compacted live again and removes what came of it.
async fn restore(backend: &Backend) {
    let tenant = TenantId::single();
    let ids = backend.block_ids(&tenant).await.unwrap();
    if ids.compacted.is_empty() {
        return;
    }
    for id in ids.live {
        backend.clear_block(&tenant, id).await.unwrap();
    }
    let key = |id, name| tempo_rs::tempodb::keys::block_object(&tenant, id, name);
    for (id, _) in ids.compacted {
        let meta = backend.read(&key(id, COMPACTED_META_NAME)).await.unwrap();
        backend.write(&key(id, META_NAME), meta).await.unwrap();
        backend.delete(&key(id, COMPACTED_META_NAME)).await.unwrap();
    }
}

/// CPU time of the process; 0 where the system does not tell.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split(' ').skip(12).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn peak_resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}
