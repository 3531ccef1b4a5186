//! Reading a block: everything, one attribute, one trace.
//!
//! Reads the first block below `TEMPO_RS_BENCH_BLOCKS` (a local backend root; the small blocks of the tests by default), so that figures
//! for large foreign blocks can be had without keeping them in the repository.

#![expect(clippy::unwrap_used, reason = "a bench stops at the first surprise")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tempo_rs::tempodb::backend::Backend;
use tempo_rs::tempodb::block::dictionary_cache::DictionaryCache;
use tempo_rs::tempodb::block::meta::{BlockMeta, META_NAME};
use tempo_rs::tempodb::block::projection::{AttrKey, AttrSelection, Projection, ValueKinds};
use tempo_rs::tempodb::block::prune::StringColumn;
use tempo_rs::tempodb::block::read::{BlockReader, ReadMeter, ReadOptions};
use tempo_rs::tempodb::block::schema::Level;
use tempo_rs::tempodb::keys;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const DICTIONARY_CACHE_BYTES: usize = 128 << 20;

async fn open(cache_bytes: usize) -> BlockReader {
    let root = std::env::var("TEMPO_RS_BENCH_BLOCKS").unwrap_or_else(|_| "testdata/blocks/vParquet5".to_owned());
    let backend = Backend::local(root).unwrap();
    let tenant = backend.tenants().await.unwrap().remove(0);
    let block = backend.block_ids(&tenant).await.unwrap().live[0];
    let meta = BlockMeta::from_json(&backend.read(&keys::block_object(&tenant, block, META_NAME)).await.unwrap()).unwrap();
    let options = ReadOptions { dictionaries: Arc::new(DictionaryCache::new(cache_bytes)), ..ReadOptions::default() };
    BlockReader::open(&backend, &tenant, meta.into(), options, &ReadMeter::default()).await.unwrap()
}

fn attribute(key: &str) -> Projection {
    let mut projection = Projection::default();
    projection.spans.attrs = AttrSelection::Keys(vec![AttrKey { key: key.as_bytes().to_vec(), kinds: ValueKinds::STR }]);
    projection
}

fn block_read(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let meter = ReadMeter::default();
    let cold = runtime.block_on(open(0));
    let warm = runtime.block_on(open(DICTIONARY_CACHE_BYTES));
    let all = runtime.block_on(cold.fetch_row_group(0, &Projection::all(), None, &meter)).unwrap();
    let table = all.decode().unwrap();
    // A key that is not dedicated, of a string.
    let pool = &table.strings;
    let mut counts = std::collections::HashMap::<Vec<u8>, usize>::new();
    for (&key, value) in table.spans.attrs.keys.iter().zip(&table.spans.attrs.values) {
        if matches!(value, tempo_rs::model::span_table::Value::Str(_)) {
            *counts.entry(pool.get(key).to_vec()).or_default() += 1;
        }
    }
    let is_generic = |key: &Vec<u8>| cold.meta().dedicated_columns.iter().all(|column| column.name.as_bytes() != *key);
    let key = counts.into_iter().filter(|(key, _)| is_generic(key)).max_by_key(|(_, count)| *count).unwrap().0;
    let key = String::from_utf8(key).unwrap();
    let ids = [1, 3, 5, 7].map(|eighth| table.traces.ids[table.trace_count() * eighth / 8]);

    let mut group = c.benchmark_group("block_read");
    group.throughput(Throughput::Elements(table.span_count() as u64));
    group.bench_function("all_columns", |b| b.iter(|| black_box(all.decode().unwrap())));
    for (name, reader) in [("cold", &cold), ("warm", &warm)] {
        let one = runtime.block_on(reader.fetch_row_group(0, &attribute(&key), None, &meter)).unwrap();
        group.bench_function(format!("one_string_attribute/{name}"), |b| b.iter(|| black_box(one.decode().unwrap())));
        let mut names = Projection::default();
        names.spans.name = true;
        names.resources.service_name = true;
        let names = runtime.block_on(reader.fetch_row_group(0, &names, None, &meter)).unwrap();
        group.bench_function(format!("name_and_service/{name}"), |b| b.iter(|| black_box(names.decode().unwrap())));
        let column = StringColumn::Attr(Level::Span, key.clone().into_bytes());
        group.bench_function(format!("absent_value/{name}"), |b| {
            b.iter(|| {
                let found = runtime.block_on(reader.row_group_may_contain(0, &column, &|value| value == b"no such value", &meter));
                assert!(!found.unwrap());
            });
        });
        let absent = StringColumn::Attr(Level::Span, b"no.such.key".to_vec());
        group.bench_function(format!("absent_key/{name}"), |b| {
            b.iter(|| assert!(!runtime.block_on(reader.row_group_may_contain(0, &absent, &|_| true, &meter)).unwrap()));
        });
        group.bench_function(format!("trace_by_id/{name}"), |b| {
            let mut next = ids.iter().cycle();
            b.iter(|| black_box(runtime.block_on(reader.find_trace(*next.next().unwrap(), &meter)).unwrap().unwrap()));
        });
    }
    group.bench_function("open", |b| b.iter(|| black_box(runtime.block_on(open(0)))));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = block_read
}
criterion_main!(benches);
