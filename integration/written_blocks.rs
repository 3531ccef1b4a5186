//! Blocks written from the spans that the compatible system was sent hold what its blocks hold.
//!
//! Compared are the columns of a trace, its nested set and its service statistics, by span id and kind. One known difference: of spans with
//! the same id and kind in one request we keep one, the other system keeps all until the trace is joined from several pieces. Another: we
//! order all spans of a joined trace by time, it keeps pieces one behind the other, so children of a span may be numbered in another order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use tempo_rs::base::cpu_pool::CpuPool;
use tempo_rs::model::combine::{Combiner, merge_tables, trace_order};
use tempo_rs::model::ids::{TenantId, TraceId};
use tempo_rs::model::otlp::json::request_from_json;
use tempo_rs::model::otlp::regroup::regroup;
use tempo_rs::model::otlp_table::{Fragment, build_table};
use tempo_rs::model::span_table::SpanTable;
use tempo_rs::tempodb::backend::Backend;
use tempo_rs::tempodb::block::bloom::BloomParams;
use tempo_rs::tempodb::block::meta::{BlockId, BlockMeta};
use tempo_rs::tempodb::block::projection::Projection;
use tempo_rs::tempodb::block::read::{BlockReader, ReadMeter, ReadOptions};
use tempo_rs::tempodb::block::write::{BlockWriter, NewBlock};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/blocks");

/// The limit under which the fixtures were taken in.
const MAX_ATTRIBUTE_BYTES: usize = 2048;

/// The trace that was sent with the same span twice in one request.
const DUPLICATE_IN_ONE_REQUEST: &str = "0977276d0ba5ff89733e6a7852289154";

/// The requests of which the blocks with an expectation were made: the block with more traces holds waves 1 and 2.
const FIRST_WAVES: [u8; 2] = [1, 2];
const LAST_WAVES: [u8; 1] = [3];

fn load(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(Path::new(FIXTURES).join(path)).expect("fixture")).expect("JSON")
}

/// The traces of one request, as they go through the intake.
fn table_of_wave(tenant: &str, wave: u8) -> SpanTable {
    let body = std::fs::read(Path::new(FIXTURES).join(format!("input/{tenant}-wave{wave}.json"))).expect("fixture");
    let request = regroup(request_from_json(&body).expect("OTLP/JSON").into(), MAX_ATTRIBUTE_BYTES).expect("OTLP");
    let pieces: Vec<_> = (0..request.traces().len()).map(|index| request.trace_message(index)).collect();
    let fragments = pieces.iter().map(|(trace_id, trace)| Fragment { trace_id: *trace_id, trace });
    let built = build_table(fragments.collect());
    assert_eq!(built.undecodable, 0);
    built.table
}

/// Writes a block of row groups with the given numbers of traces, and opens it.
async fn written(tenant: &str, like: &BlockMeta, table: &SpanTable, row_groups: &[usize]) -> BlockReader {
    let backend = Backend::new(Arc::new(object_store::memory::InMemory::new()), "");
    let tenant = TenantId::parse(tenant).expect("tenant");
    let block = NewBlock {
        version: like.version().expect("version"),
        dedicated_columns: like.dedicated_columns.to_vec(),
        bloom: BloomParams { shard_size_bytes: 32, ..BloomParams::default() },
        ..NewBlock::new(tenant.clone(), BlockId::random(), table.trace_count())
    };
    let cpu = CpuPool::new("test", 1).expect("thread");
    let mut writer = BlockWriter::create(backend.clone(), cpu, block).await.expect("upload begins");
    let sources = [table];
    let mut rest = &trace_order(&sources)[..];
    for rows in row_groups {
        let (group, later) = rest.split_at(*rows);
        let mut combiner = Combiner::new(&sources);
        group.chunk_by(|a, b| a.0 == b.0).for_each(|trace| combiner.push_trace(trace));
        writer.append(Arc::new(combiner.finish())).await.expect("row group is written");
        rest = later;
    }
    assert!(rest.is_empty(), "the block has as many traces as expected");
    let meta = writer.finish().await.expect("block is complete");
    BlockReader::open(&backend, &tenant, Arc::new(meta), ReadOptions::default(), &ReadMeter::default()).await.expect("block opens")
}

/// A trace in the form of the expectations: spans by id and kind, batches in no particular order.
fn summary(table: &SpanTable, row: usize) -> Value {
    let text = |id| table.strings.text(id).into_owned();
    let (traces, s) = (&table.traces, &table.spans);
    let stats: BTreeMap<String, _> = traces
        .service_stats_of
        .range(row)
        .map(|at| {
            (text(traces.service_stats.service_name[at]), [traces.service_stats.span_count[at], traces.service_stats.error_count[at]])
        })
        .collect();
    let batches: Vec<Value> = traces
        .resources
        .range(row)
        .map(|resource| {
            let scopes = table.resources.scopes.range(resource).map(|scope| table.scopes.spans.range(scope).len());
            json!([text(table.resources.service_name[resource]), scopes.collect::<Vec<_>>()])
        })
        .collect();
    let spans: Vec<Value> = table
        .spans_of_trace(row)
        .map(|span| {
            json!([
                s.span_id[span].to_string(),
                s.kind[span],
                s.nested_left[span],
                s.nested_right[span],
                s.nested_parent[span],
                s.child_count[span]
            ])
        })
        .collect();
    in_order(json!({
        "text": traces.ids[row].to_short_hex(),
        "start": traces.start_unix_nanos[row].to_string(),
        "end": traces.end_unix_nanos[row].to_string(),
        "duration": traces.duration_nanos[row].to_string(),
        "rootService": text(traces.root_service_name[row]),
        "rootName": text(traces.root_span_name[row]),
        "stats": stats,
        "batches": batches,
        "spans": spans,
    }))
}

fn in_order(mut trace: Value) -> Value {
    for list in ["spans", "batches"] {
        trace[list].as_array_mut().expect("list").sort_by_key(Value::to_string);
    }
    for batch in trace["batches"].as_array_mut().expect("list") {
        batch[1].as_array_mut().expect("list").sort_by_key(Value::as_u64);
    }
    trace
}

/// How a trace came together in a block.
#[derive(Clone, Copy, PartialEq)]
enum Origin {
    OneRequest,
    Joined,
}

/// Replaces nested-set numbers by what they say whatever the order of children: parent, number of descendants, and the parent's interval
/// being around the own one. Other numbers than those of a nested set stay as they are and compare unequal.
fn without_order_of_children(trace: &mut Value) {
    let spans = trace["spans"].as_array().expect("list").clone();
    for span in trace["spans"].as_array_mut().expect("list") {
        let number = |span: &Value, at: usize| span[at].as_i64().expect("number");
        let (left, right, parent_left) = (number(span, 2), number(span, 3), number(span, 4));
        if left == 0 {
            continue;
        }
        let parent = spans.iter().find(|other| parent_left > 0 && number(other, 2) == parent_left);
        let is_inside = parent.is_none_or(|parent| parent_left < left && right < number(parent, 3));
        span[2] = json!(parent.map_or_else(|| json!(parent_left), |parent| json!([parent[0], parent[1]])));
        span[3] = json!((right - left) / 2);
        span[4] = json!(is_inside);
    }
}

/// Compares a trace; child counts that the expectation leaves open (null) do not count.
fn assert_trace(table: &SpanTable, row: usize, expected: &Value, origin: Origin, what: &str) {
    let (mut found, mut expected) = (summary(table, row), in_order(expected.clone()));
    if origin == Origin::Joined {
        without_order_of_children(&mut found);
        without_order_of_children(&mut expected);
    }
    for (found, expected) in found["spans"].as_array_mut().expect("list").iter_mut().zip(expected["spans"].as_array().expect("list")) {
        // Only vParquet5 has the column.
        found.as_array_mut().expect("list").truncate(expected.as_array().expect("list").len());
        if expected.get(5).is_some_and(Value::is_null) {
            found[5] = Value::Null;
        }
    }
    assert_eq!(found, expected, "{what}");
}

/// Of a trace with a span that was sent twice: everything but what counts spans.
fn assert_trace_without_duplicates(table: &SpanTable, row: usize, expected: &Value) {
    let found = summary(table, row);
    for column in ["text", "start", "end", "duration", "rootService", "rootName"] {
        assert_eq!(found[column], expected[column], "{column}");
    }
    let ids = |trace: &Value| {
        trace["spans"].as_array().expect("list").iter().map(|span| json!([span[0], span[1]]).to_string()).collect::<Vec<_>>()
    };
    let (found, expected) = (ids(&found), ids(expected));
    assert_eq!((found.len(), expected.len()), (2, 3));
    assert_eq!(BTreeSet::from_iter(found), BTreeSet::from_iter(expected));
}

#[tokio::test]
async fn written_blocks_hold_what_the_compatible_system_writes() {
    for version in ["vParquet4", "vParquet5"] {
        check_version(version).await;
    }
}

async fn check_version(version: &str) {
    let (mut compared, mut joined, mut with_duplicates) = (0, 0, 0);
    for (tenant, blocks) in load(&format!("expected/{version}.json")).as_object().expect("tenants") {
        let largest = blocks.as_object().expect("blocks").values().filter_map(|block| block["totalObjects"].as_u64()).max();
        for (block, expected) in blocks.as_object().expect("blocks") {
            let waves = if expected["totalObjects"].as_u64() == largest { &FIRST_WAVES[..] } else { &LAST_WAVES[..] };
            let tables: Vec<_> = waves.iter().map(|wave| table_of_wave(tenant, *wave)).collect();
            let table = merge_tables(&tables.iter().collect::<Vec<_>>());
            let row_groups: Vec<usize> = serde_json::from_value(expected["rowGroupRows"].clone()).expect("numbers");
            let meta = std::fs::read(Path::new(FIXTURES).join(format!("{version}/{tenant}/{block}/meta.json"))).expect("meta");
            let reader = written(tenant, &BlockMeta::from_json(&meta).expect("meta"), &table, &row_groups).await;

            let meter = ReadMeter::default();
            let traces = expected["traces"].as_object().expect("traces");
            let mut ids = Vec::new();
            for (group, rows) in row_groups.iter().enumerate() {
                let read = reader.read_row_group(group, &Projection::all(), None, &meter).await.expect("row group decodes");
                assert_eq!(read.trace_count(), *rows);
                for row in 0..read.trace_count() {
                    let id = read.traces.ids[row].to_string();
                    if id == DUPLICATE_IN_ONE_REQUEST {
                        assert_trace_without_duplicates(&read, row, &traces[&id]);
                        with_duplicates += 1;
                    } else {
                        let pieces = tables.iter().filter(|table| table.traces.ids.contains(&read.traces.ids[row])).count();
                        let origin = if pieces > 1 { Origin::Joined } else { Origin::OneRequest };
                        assert_trace(&read, row, &traces[&id], origin, &format!("{version} {tenant} {block} {id}"));
                        compared += 1;
                        joined += usize::from(origin == Origin::Joined);
                    }
                    ids.push(id);
                }
            }
            assert_eq!(ids, traces.keys().cloned().collect::<Vec<_>>());
            for id in &ids {
                let found = reader.find_trace(TraceId::from_hex(id).expect("hex"), &meter).await.expect("block can be read");
                assert_eq!(found.map(|table| table.traces.ids[0].to_string()).as_ref(), Some(id));
            }
        }
    }
    assert_eq!((compared, joined, with_duplicates), (128, 7, 1));
}
