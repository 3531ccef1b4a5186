//! Encodes the tables of a block: spans per second, and the stored bytes a span on the way.
//!
//! `TEMPO_RS_BENCH_CORPUS` names a recorded corpus to use instead of generated traces; `TEMPO_RS_BENCH_COLUMNS=1` lists the size of each column.

#![expect(clippy::print_stdout, reason = "a benchmark reports")]

mod corpus;

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use tempo_rs::model::ids::TenantId;
use tempo_rs::model::span_table::SpanTable;
use tempo_rs::tempodb::block::estimate::DEFAULT_ROW_GROUP_BYTES;
use tempo_rs::tempodb::block::meta::BlockId;
use tempo_rs::tempodb::block::write::{BlockEncoder, NewBlock};

const GENERATED_SPANS: usize = 200_000;

fn encode(tables: &[SpanTable]) -> Vec<u8> {
    let traces = tables.iter().map(SpanTable::trace_count).sum();
    let block = NewBlock::new(TenantId::single(), BlockId::random(), traces);
    let mut encoder = BlockEncoder::new(block, Vec::new()).expect("the schema is valid");
    tables.iter().for_each(|table| encoder.append(table).expect("the tables are valid"));
    encoder.finish().expect("there are traces").0
}

fn write_block(c: &mut Criterion) {
    let mut pieces = match std::env::var("TEMPO_RS_BENCH_CORPUS") {
        Ok(path) => corpus::read(&path),
        Err(_) => corpus::generate(GENERATED_SPANS, 1),
    };
    let tables = corpus::tables(&mut pieces, DEFAULT_ROW_GROUP_BYTES);
    drop(pieces);
    let spans: usize = tables.iter().map(SpanTable::span_count).sum();
    let cpu_before = thread_cpu_seconds();
    let file = encode(&tables);
    let cpu_seconds = thread_cpu_seconds() - cpu_before;
    println!(
        "{spans} spans, {} row groups, {:.1} bytes a span, {:.2} CPU-s per 1M spans",
        tables.len(),
        file.len() as f64 / spans as f64,
        cpu_seconds * 1e6 / spans as f64
    );
    if std::env::var_os("TEMPO_RS_BENCH_COLUMNS").is_some() {
        print_columns(Bytes::from(file), spans);
    }
    let mut group = c.benchmark_group("block_write");
    group.throughput(Throughput::Elements(spans as u64)).sample_size(10).measurement_time(Duration::from_secs(20));
    group.bench_function("encode", |b| b.iter(|| encode(black_box(&tables))));
    group.finish();
}

/// CPU time of this thread, which a busy machine does not distort; 0 where the system does not tell.
fn thread_cpu_seconds() -> f64 {
    let nanos = std::fs::read_to_string("/proc/thread-self/schedstat").ok().and_then(|line| line.split(' ').next()?.parse::<f64>().ok());
    nanos.unwrap_or(0.0) / 1e9
}

fn print_columns(file: Bytes, spans: usize) {
    let reader = SerializedFileReader::new(file).expect("the file was just written");
    let mut sizes: Vec<(i64, i64, String)> = Vec::new();
    for group in reader.metadata().row_groups() {
        sizes.resize(group.num_columns(), Default::default());
        for (size, column) in sizes.iter_mut().zip(group.columns()) {
            size.0 += column.compressed_size();
            size.1 += column.dictionary_page_offset().map_or(0, |dictionary| column.data_page_offset() - dictionary);
            size.2 = column.column_path().string();
        }
    }
    sizes.sort_by(|a, b| b.cmp(a));
    for (bytes, dictionary_bytes, path) in sizes.iter().take(25) {
        println!("{:8.2} {:8.2} {path}", *bytes as f64 / spans as f64, *dictionary_bytes as f64 / spans as f64);
    }
}

criterion_group!(benches, write_block);
criterion_main!(benches);
