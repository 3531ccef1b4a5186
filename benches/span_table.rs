//! What a live-store does with every span: building tables from OTLP records, and merging tables.
//!
//! A batch has the records of a few seconds; merging takes the tables of several batches, once with all traces apart and once with every
//! trace split over all of them. Throughput is spans per second (its inverse is the tracked ns per span) or bytes of OTLP per second.
//! `TEMPO_RS_BENCH_CORPUS` names a recorded corpus to use instead of generated traces.

#![expect(clippy::print_stdout, reason = "a benchmark reports")]

#[expect(dead_code, reason = "the block benchmarks cut row groups, this one does not")]
mod corpus;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use tempo_rs::model::combine::merge_tables;
use tempo_rs::model::otlp_table::{Fragment, build_table};
use tempo_rs::model::span_table::SpanTable;
use tempo_rs::proto::tempopb::Trace;

use crate::corpus::Piece;

const GENERATED_SPANS: usize = 20_000;
/// Traces of one batch.
const BATCH_TRACES: usize = 250;
/// Batches merged at once.
const MERGED_BATCHES: usize = 4;

fn build(pieces: &[Piece]) -> SpanTable {
    let built = build_table(pieces.iter().map(|(trace_id, trace)| Fragment { trace_id: *trace_id, trace }).collect());
    assert_eq!(built.undecodable, 0);
    built.table
}

/// Deals the spans of every trace out to `MERGED_BATCHES` tables.
fn split(pieces: &[Piece]) -> Vec<SpanTable> {
    let part = |number: usize| {
        let of_trace = |(id, trace): &Piece| {
            let mut trace = Trace::decode(trace.as_slice()).expect("the corpus holds traces");
            let spans = trace.resource_spans.iter_mut().flat_map(|resource| &mut resource.scope_spans).map(|scope| &mut scope.spans);
            let mut at = 0;
            spans.for_each(|spans| {
                spans.retain(|_| {
                    at += 1;
                    at % MERGED_BATCHES == number
                });
            });
            (*id, trace.encode_to_vec())
        };
        build(&pieces.iter().map(of_trace).collect::<Vec<_>>())
    };
    (0..MERGED_BATCHES).map(part).collect()
}

fn spans_of(tables: &[SpanTable]) -> u64 {
    tables.iter().map(|table| table.span_count() as u64).sum()
}

fn span_table(c: &mut Criterion) {
    let pieces = match std::env::var("TEMPO_RS_BENCH_CORPUS") {
        Ok(path) => corpus::read(&path),
        Err(_) => corpus::generate(GENERATED_SPANS, 1),
    };
    let batch = &pieces[..pieces.len().min(BATCH_TRACES)];
    let bytes: u64 = batch.iter().map(|(_, trace)| trace.len() as u64).sum();
    let table = build(batch);
    let (spans, memory) = (table.span_count() as u64, table.memory_bytes() as u64);
    println!("a batch of {spans} spans: {} bytes of OTLP and {} bytes of memory a span", bytes / spans, memory / spans);

    let mut group = c.benchmark_group("span_table");
    for (unit, throughput) in [("spans", Throughput::Elements(spans)), ("bytes", Throughput::Bytes(bytes))] {
        group.throughput(throughput);
        group.bench_function(format!("build/{unit}"), |b| b.iter(|| build(black_box(batch))));
    }
    let apart: Vec<_> = pieces.chunks(BATCH_TRACES).take(MERGED_BATCHES).map(build).collect();
    let split = split(batch);
    for (name, tables) in [("merge_apart", apart), ("merge_split", split)] {
        let sources: Vec<_> = tables.iter().collect();
        group.throughput(Throughput::Elements(spans_of(&tables)));
        group.bench_function(name, |b| b.iter(|| merge_tables(black_box(&sources))));
    }
    group.finish();
}

criterion_group!(benches, span_table);
criterion_main!(benches);
