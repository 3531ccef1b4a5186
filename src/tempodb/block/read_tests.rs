//! Reads real blocks and compares them with what went in and with what the compatible system says of them.

mod canonical;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pretty_assertions::assert_eq;
use serde_json::{Value as Json, json};

use self::canonical::*;
use super::meta::META_NAME;
use super::projection::{AttrKey, AttrSelection, Projection, ValueKinds};
use super::prune::{IntColumn, Range, StringColumn};
use super::read::*;
use super::selection::RowSelection;
use super::*;
use crate::model::ids::{TenantId, TraceId};
use crate::model::span_table::{Attrs, SpanTable, Value};
use crate::model::strings::StringPool;
use crate::tempodb::backend::Backend;
use crate::tempodb::keys;

pub(super) const ROOT: &str = "testdata/blocks";

fn load(path: &str) -> Json {
    serde_json::from_slice(&std::fs::read(Path::new(ROOT).join(path)).unwrap()).unwrap()
}

struct Opened {
    reader: BlockReader,
    expected: Json,
}

/// Opens all blocks of a folder that `expected` describes.
async fn open_all(folder: &str) -> Vec<(String, Opened)> {
    let backend = Backend::local(Path::new(ROOT).join(folder)).unwrap();
    let mut opened = Vec::new();
    for (tenant, blocks) in load(&format!("expected/{folder}.json")).as_object().unwrap() {
        for (block, expected) in blocks.as_object().unwrap() {
            let reader = open(&backend, tenant, block, ReadOptions::default()).await;
            opened.push((tenant.clone(), Opened { reader, expected: expected.clone() }));
        }
    }
    assert!(!opened.is_empty());
    opened
}

/// Blocks that the same spans went into.
const VERSIONS: [&str; 3] = ["vParquet3", "vParquet4", "vParquet5"];
/// Blocks that `expected` describes.
const DESCRIBED: [&str; 4] = ["vParquet4", "vParquet4-compacted", "vParquet5", "vParquet5-compacted"];

/// Opens all blocks of a folder.
async fn readers_of(folder: &str) -> Vec<(String, BlockReader)> {
    let root = Path::new(ROOT).join(folder);
    let backend = Backend::local(&root).unwrap();
    let mut readers = Vec::new();
    for tenant in ["alpha", "beta"] {
        for block in std::fs::read_dir(root.join(tenant)).unwrap() {
            let block = block.unwrap();
            if block.path().join(META_NAME).exists() {
                let reader = open(&backend, tenant, block.file_name().to_str().unwrap(), ReadOptions::default()).await;
                readers.push((tenant.to_owned(), reader));
            }
        }
    }
    assert!(!readers.is_empty());
    readers
}

async fn readers_of_all() -> Vec<(String, BlockReader)> {
    let mut readers = Vec::new();
    for folder in VERSIONS {
        readers.extend(readers_of(folder).await.into_iter().map(|(tenant, reader)| (format!("{folder} {tenant}"), reader)));
    }
    readers
}

async fn open(backend: &Backend, tenant: &str, block: &str, options: ReadOptions) -> BlockReader {
    let tenant = TenantId::parse(tenant).unwrap();
    let id = meta::BlockId::parse(block).unwrap();
    let meta = backend.read(&keys::block_object(&tenant, id, META_NAME)).await.unwrap();
    let meta = meta::BlockMeta::from_json(&meta).unwrap();
    BlockReader::open(backend, &tenant, meta.into(), options, &ReadMeter::default()).await.unwrap()
}

fn text(pool: &StringPool, id: crate::model::strings::StrId) -> String {
    pool.text(id).into_owned()
}

/// A trace of a table in the form of `expected`, without `text`.
fn summary(table: &SpanTable, row: usize) -> Json {
    let pool = &table.strings;
    let stats: serde_json::Map<String, Json> = table
        .traces
        .service_stats_of
        .range(row)
        .map(|at| {
            let stats = &table.traces.service_stats;
            (text(pool, stats.service_name[at]), json!([stats.span_count[at], stats.error_count[at]]))
        })
        .collect();
    let batches: Vec<Json> = table
        .traces
        .resources
        .range(row)
        .map(|resource| {
            let counts: Vec<usize> = table.resources.scopes.range(resource).map(|scope| table.scopes.spans.range(scope).len()).collect();
            json!([text(pool, table.resources.service_name[resource]), counts])
        })
        .collect();
    let spans: Vec<Json> = table
        .spans_of_trace(row)
        .map(|span| {
            let s = &table.spans;
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
    json!({
        "start": table.traces.start_unix_nanos[row].to_string(),
        "end": table.traces.end_unix_nanos[row].to_string(),
        "duration": table.traces.duration_nanos[row].to_string(),
        "rootService": text(pool, table.traces.root_service_name[row]),
        "rootName": text(pool, table.traces.root_span_name[row]),
        "stats": stats,
        "batches": batches,
        "spans": spans,
    })
}

/// `expected` marks child counts that are undefined with null: they are not compared.
fn assert_summary(table: &SpanTable, row: usize, expected: &Json, what: &str) {
    let mut found = summary(table, row);
    let mut expected = expected.clone();
    expected.as_object_mut().unwrap().remove("text");
    for (found, expected) in found["spans"].as_array_mut().unwrap().iter_mut().zip(expected["spans"].as_array().unwrap()) {
        // Only vParquet5 has the column.
        found.as_array_mut().unwrap().truncate(expected.as_array().unwrap().len());
        if expected.get(5).is_some_and(Json::is_null) {
            found[5] = Json::Null;
        }
    }
    assert_eq!(found, expected, "{what}");
}

#[tokio::test]
async fn every_trace_is_found_and_random_ids_are_not() {
    for folder in DESCRIBED {
        for (tenant, Opened { reader, expected }) in open_all(folder).await {
            let traces = expected["traces"].as_object().unwrap();
            for (id, expected) in traces {
                let id = TraceId::from_hex(id).unwrap();
                let table = reader.find_trace(id, &ReadMeter::default()).await.unwrap().expect("every expected trace is there");
                assert_eq!(table.traces.ids, [id]);
                assert_summary(&table, 0, expected, &format!("{folder} {tenant} {id}"));
            }
            for seed in 0..200_u128 {
                let id = TraceId((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes());
                assert!(reader.find_trace(id, &ReadMeter::default()).await.unwrap().is_none());
                // The same without the help of the bloom filter.
                assert!(!traces.contains_key(&id.to_string()));
            }
        }
    }
}

#[tokio::test]
async fn row_groups_decode_to_all_traces_in_order() {
    for folder in DESCRIBED {
        for (tenant, Opened { reader, expected }) in open_all(folder).await {
            let groups = expected["rowGroupRows"].as_array().unwrap();
            assert_eq!(reader.row_groups(), groups.len());
            let mut ids = Vec::new();
            for (group, rows) in groups.iter().enumerate() {
                let table = reader.read_row_group(group, &Projection::all(), None, &ReadMeter::default()).await.unwrap();
                assert_eq!(json!(table.trace_count()), *rows);
                assert_eq!(reader.rows(group), table.trace_count());
                for row in 0..table.trace_count() {
                    let id = table.traces.ids[row].to_string();
                    assert_summary(&table, row, &expected["traces"][&id], &format!("{folder} {tenant} {id}"));
                    ids.push(id);
                }
            }
            assert!(ids.is_sorted());
            assert_eq!(json!(ids.len()), expected["totalObjects"]);
            let beyond = reader.read_row_group(groups.len(), &Projection::all(), None, &ReadMeter::default()).await.unwrap();
            assert_eq!(beyond.trace_count(), 0);
        }
    }
}

/// A trace without what depends on the order of spans and on resources being merged, which vParquet3 does not do.
fn unordered(mut summary: Json) -> Json {
    let fields = summary.as_object_mut().unwrap();
    fields.remove("batches");
    let spans = fields["spans"].as_array_mut().unwrap();
    for span in spans.iter_mut() {
        let (left, right) = (span[2].as_i64().unwrap(), span[3].as_i64().unwrap());
        // The number of descendants does not depend on the order of children.
        *span = json!([span[0], span[1], right - left, span[4].as_i64().unwrap().signum(), span[5]]);
    }
    spans.sort_by_key(Json::to_string);
    summary
}

#[tokio::test]
async fn old_blocks_say_the_same_of_traces() {
    let meter = ReadMeter::default();
    let newer = readers_of("vParquet4").await;
    let mut compared = 0;
    for (tenant, reader) in readers_of("vParquet3").await {
        let is_twin = |other: &&(String, BlockReader)| (&other.0, other.1.meta().total_objects) == (&tenant, reader.meta().total_objects);
        let (_, twin) = newer.iter().find(is_twin).unwrap();
        let table = reader.read_row_group(0, &Projection::all(), None, &meter).await.unwrap();
        let wanted = twin.read_row_group(0, &Projection::all(), None, &meter).await.unwrap();
        assert_eq!(table.traces.ids, wanted.traces.ids);
        for row in 0..table.trace_count() {
            assert_eq!(unordered(summary(&table, row)), unordered(summary(&wanted, row)), "{tenant} {}", table.traces.ids[row]);
            let found = reader.find_trace(table.traces.ids[row], &meter).await.unwrap().unwrap();
            assert_eq!(summary(&found, 0), summary(&table, row));
            compared += 1;
        }
        assert!(reader.find_trace(TraceId([0xee; 16]), &meter).await.unwrap().is_none());
    }
    assert_eq!(compared, 67 + 26 + 23 + 13);
}

/// Columns that are derived do not bring the ones they are derived from.
#[tokio::test]
async fn derived_columns_come_alone() {
    let meter = ReadMeter::default();
    for folder in VERSIONS {
        for (_, reader) in readers_of(folder).await {
            let all = reader.read_row_group(0, &Projection::all(), None, &meter).await.unwrap();
            let mut projection = Projection::default();
            projection.traces.service_stats = true;
            projection.spans.child_count = true;
            projection.events.time_since_start = true;
            projection.links.span_id = true;
            let some = reader.read_row_group(0, &projection, None, &meter).await.unwrap();
            assert_eq!(some.spans.child_count, all.spans.child_count, "{folder}");
            assert_eq!(some.events.time_since_start_nanos, all.events.time_since_start_nanos, "{folder}");
            assert_eq!(some.links.span_id, all.links.span_id, "{folder}");
            assert_eq!(some.traces.service_stats.span_count, all.traces.service_stats.span_count, "{folder}");
            assert!(some.resources.service_name.is_empty() && some.spans.status_code.is_empty() && some.spans.kind.is_empty());
            assert!(some.spans.span_id.is_empty() && some.spans.parent_span_id.is_empty() && some.spans.start_unix_nanos.is_empty());
            assert!(some.links.trace_id.is_empty() && some.links.attrs.keys.is_empty());
        }
    }
}

async fn all_spans(reader: &BlockReader) -> Vec<((String, String, i32), CanonicalSpan)> {
    let mut spans = Vec::new();
    for group in 0..reader.row_groups() {
        let table = reader.read_row_group(group, &Projection::all(), None, &ReadMeter::default()).await.unwrap();
        spans.extend(spans_of_table(&table));
    }
    spans
}

#[tokio::test]
async fn spans_equal_those_that_were_sent() {
    for folder in VERSIONS {
        let mut by_tenant: BTreeMap<String, Vec<BlockReader>> = BTreeMap::new();
        for (tenant, reader) in readers_of(folder).await {
            by_tenant.entry(tenant).or_default().push(reader);
        }
        for (tenant, readers) in by_tenant {
            let (version, slots) = (readers[0].meta().version().unwrap(), readers[0].file().slots().to_vec());
            let mut sent: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
            for wave in 1..=3 {
                for (key, span) in spans_of_otlp(&load(&format!("input/{tenant}-wave{wave}.json"))) {
                    sent.entry(key).or_default().insert(as_stored(span, version, &slots).to_string());
                }
            }
            let mut seen = BTreeSet::new();
            for reader in &readers {
                for (key, span) in all_spans(reader).await {
                    let span = as_stored(span, version, &[]).to_string();
                    let candidates = &sent[&key];
                    if !candidates.contains(&span) {
                        assert_eq!(
                            serde_json::from_str::<Json>(&span).unwrap(),
                            serde_json::from_str::<Json>(candidates.first().unwrap()).unwrap(),
                            "{folder} {tenant} {key:?}"
                        );
                    }
                    seen.insert(key);
                }
            }
            assert_eq!(seen.len(), sent.len(), "{folder} {tenant}");
        }
    }
}

/// The API gives one of two spans with the same id a new one, which is not the block's matter.
const SHARED_SPAN_ID: &str = "alpha-7a4048564530d59284c50552cdb3b7a7.json";

#[tokio::test]
async fn spans_equal_those_of_the_trace_api() {
    for folder in ["vParquet4", "vParquet5"] {
        let mut spans: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (tenant, opened) in open_all(folder).await {
            for (key, span) in all_spans(&opened.reader).await {
                spans.entry((tenant.clone(), key)).or_default().insert(service_name_last(without_nulls(span)).to_string());
            }
        }
        let mut compared = 0;
        for entry in std::fs::read_dir(Path::new(ROOT).join("api").join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let (tenant, _) = name.split_once('-').unwrap();
            if name == SHARED_SPAN_ID {
                continue;
            }
            for (key, span) in spans_of_otlp(&load(&format!("api/{folder}/{name}"))["trace"]) {
                let span = service_name_last(without_nulls(span));
                let found = spans.get(&(tenant.to_owned(), key.clone())).unwrap_or_else(|| panic!("{name} {key:?} is in no block"));
                if !found.contains(&span.to_string()) {
                    assert_eq!(serde_json::from_str::<Json>(found.first().unwrap()).unwrap(), span, "{folder} {name} {key:?}");
                }
                compared += 1;
            }
        }
        assert!(compared > 40, "{folder} {compared}");
    }
}

/// Where `service.name` stands among the other resource attributes is the matter of who shows a trace.
fn service_name_last(mut span: CanonicalSpan) -> CanonicalSpan {
    if let Some(attributes) = span["resource"]["attributes"].as_array_mut() {
        let (service, mut others): (Vec<_>, Vec<_>) =
            attributes.drain(..).partition(|pair| pair[0] == "service.name" && pair[1].get("stringValue").is_some());
        others.extend(service);
        *attributes = others;
    }
    span
}

/// Attributes of a table restricted to `keys`, by owner.
fn restricted(pool: &StringPool, attrs: &Attrs, keys: &[&str]) -> Vec<Vec<Json>> {
    (0..attrs.of.len())
        .map(|owner| attributes_of_table(pool, attrs, owner).into_iter().filter(|pair| keys.contains(&pair[0].as_str().unwrap())).collect())
        .collect()
}

fn every(pool: &StringPool, attrs: &Attrs) -> Vec<Vec<Json>> {
    (0..attrs.of.len()).map(|owner| attributes_of_table(pool, attrs, owner)).collect()
}

#[tokio::test]
async fn chosen_keys_give_the_same_attributes_as_all() {
    for (tenant, reader) in readers_of_all().await {
        for group in 0..reader.row_groups() {
            let meter = ReadMeter::default();
            let all = reader.read_row_group(group, &Projection::all(), None, &meter).await.unwrap();
            let used: BTreeSet<String> = all
                .spans
                .attrs
                .keys
                .iter()
                .chain(&all.resources.attrs.keys)
                .chain(&all.events.attrs.keys)
                .chain(&all.links.attrs.keys)
                .map(|&key| text(&all.strings, key))
                .collect();
            let used: Vec<&str> = used.iter().map(String::as_str).collect();
            for keys in used.chunks(1).chain(used.chunks(3)).chain([&["no such key"][..]]) {
                let mut projection = Projection::default();
                projection.spans.attrs = AttrSelection::keys(keys.iter().copied());
                projection.resources.attrs = AttrSelection::keys(keys.iter().copied());
                projection.events.attrs = AttrSelection::keys(keys.iter().copied());
                projection.links.attrs = AttrSelection::keys(keys.iter().copied());
                let some = reader.read_row_group(group, &projection, None, &meter).await.unwrap();
                assert_eq!(some.span_count(), all.span_count());
                assert!(some.spans.name.is_empty() && some.scopes.attrs.keys.is_empty());
                let pairs = [
                    (&some.spans.attrs, &all.spans.attrs),
                    (&some.resources.attrs, &all.resources.attrs),
                    (&some.events.attrs, &all.events.attrs),
                    (&some.links.attrs, &all.links.attrs),
                ];
                for (some_attrs, all_attrs) in pairs {
                    assert_eq!(every(&some.strings, some_attrs), restricted(&all.strings, all_attrs, keys), "{tenant} {group} {keys:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn kinds_leave_out_other_values_only() {
    for (_, reader) in readers_of_all().await {
        let all = reader.read_row_group(0, &Projection::all(), None, &ReadMeter::default()).await.unwrap();
        for (kinds, name) in [
            (ValueKinds::STR, "stringValue"),
            (ValueKinds::INT, "intValue"),
            (ValueKinds::DOUBLE, "doubleValue"),
            (ValueKinds::BOOL, "boolValue"),
        ] {
            let keys: BTreeSet<String> = all.spans.attrs.keys.iter().map(|&key| text(&all.strings, key)).collect();
            let mut projection = Projection::default();
            let selection = keys.iter().map(|key| AttrKey { key: key.as_bytes().to_vec(), kinds }).collect();
            projection.spans.attrs = AttrSelection::Keys(selection);
            let some = reader.read_row_group(0, &projection, None, &ReadMeter::default()).await.unwrap();
            let mut wanted = every(&all.strings, &all.spans.attrs);
            for owner in &mut wanted {
                owner.retain(|pair| match pair[1]["arrayValue"].as_array() {
                    Some(values) => !values.is_empty() && values.iter().all(|value| value.get(name).is_some()),
                    None => pair[1].get(name).is_some(),
                });
            }
            assert_eq!(every(&some.strings, &some.spans.attrs), wanted, "{name}");
        }
    }
}

#[tokio::test]
async fn selected_rows_equal_those_of_the_whole_row_group() {
    for (tenant, reader) in readers_of_all().await.into_iter().chain(readers_of("vParquet5-compacted").await) {
        for group in 0..reader.row_groups() {
            let meter = ReadMeter::default();
            let all = reader.read_row_group(group, &Projection::all(), None, &meter).await.unwrap();
            let rows: Vec<usize> = (0..all.trace_count()).filter(|row| row % 5 < 2 || row % 7 == 3).collect();
            let selection = RowSelection::from_rows(rows.iter().copied());
            let some = reader.read_row_group(group, &Projection::all(), Some(&selection), &meter).await.unwrap();
            let ids: Vec<TraceId> = rows.iter().map(|&row| all.traces.ids[row]).collect();
            assert_eq!(some.traces.ids, ids);
            let wanted: Vec<_> =
                spans_of_table(&all).into_iter().filter(|((trace, ..), _)| ids.iter().any(|id| id.to_string() == *trace)).collect();
            assert_eq!(spans_of_table(&some), wanted, "{tenant} {group}");
            for (at, &row) in rows.iter().enumerate() {
                assert_eq!(summary(&some, at), summary(&all, row));
            }
            let none = reader.read_row_group(group, &Projection::all(), Some(&RowSelection::default()), &meter).await.unwrap();
            assert_eq!((none.trace_count(), none.span_count()), (0, 0));
        }
    }
}

#[tokio::test]
async fn opening_takes_one_request_and_lookups_read_little() {
    let backend = Backend::local(Path::new(ROOT).join("vParquet5")).unwrap();
    let meter = ReadMeter::default();
    let tenant = TenantId::parse("alpha").unwrap();
    let id = meta::BlockId::parse("a0a76807-e24a-4b98-bcfd-0e2a55737f75").unwrap();
    let meta = meta::BlockMeta::from_json(&backend.read(&keys::block_object(&tenant, id, META_NAME)).await.unwrap()).unwrap();
    let (size, footer) = (meta.size_bytes, u64::from(meta.footer_size_bytes));
    let reader = BlockReader::open(&backend, &tenant, meta.clone().into(), ReadOptions::default(), &meter).await.unwrap();
    assert_eq!((meter.cost().requests, meter.cost().bytes), (1, footer));
    let trace = TraceId::from_hex("91678a").unwrap();
    assert!(reader.find_trace(trace, &meter).await.unwrap().is_some());
    assert!(meter.cost().bytes < size, "{:?} of {size}", meter.cost());
    // A meta without sizes costs a request more.
    let bare = meta::BlockMeta { footer_size_bytes: 0, size_bytes: 0, ..meta };
    let reader = BlockReader::open(&backend, &tenant, bare.into(), ReadOptions::default(), &meter).await.unwrap();
    assert!(reader.find_trace(trace, &meter).await.unwrap().is_some());
}

#[tokio::test]
async fn previews_are_empty_and_unknown_versions_refused() {
    let backend = Backend::local(Path::new(ROOT).join("vParquet5")).unwrap();
    let reader = open(&backend, "alpha", "a0a76807-e24a-4b98-bcfd-0e2a55737f75", ReadOptions::default()).await;
    let (tenant, meter) = (TenantId::parse("alpha").unwrap(), ReadMeter::default());
    for format in ["v2", "vParquet2", "vparquet5"] {
        let meta = meta::BlockMeta { format: format.to_owned(), ..(**reader.meta()).clone() };
        let error = BlockReader::open(&backend, &tenant, meta.into(), ReadOptions::default(), &meter).await.unwrap_err();
        assert_eq!(error.to_string(), format!("{format} is not a valid block version"));
        assert!(!error.is_corrupt());
    }
    let meta = meta::BlockMeta { format: "vParquet5-preview7".to_owned(), ..(**reader.meta()).clone() };
    let preview = BlockReader::open(&backend, &tenant, meta.into(), ReadOptions::default(), &meter).await.unwrap();
    assert_eq!((preview.row_groups(), preview.rows(0)), (0, 0));
    assert!(preview.find_trace(TraceId::from_hex("91678a").unwrap(), &meter).await.unwrap().is_none());
    assert_eq!(preview.read_row_group(0, &Projection::all(), None, &meter).await.unwrap().trace_count(), 0);
    assert_eq!(meter.cost().requests, 0);
}

fn check_range(range: Range, value: i128) {
    match range {
        Range::Within(bounds) => assert!((bounds.min..=bounds.max).contains(&value)),
        Range::Unknown => {}
        Range::Empty => panic!("an int is there"),
    }
}

async fn check_not_pruned(
    reader: &BlockReader,
    group: usize,
    level: schema::Level,
    pool: &StringPool,
    (key, value): (crate::model::strings::StrId, &Value),
    what: &str,
) {
    let key = pool.get(key).to_vec();
    match *value {
        Value::Str(id) => {
            let column = StringColumn::Attr(level, key);
            let is_value = |value: &[u8]| value == pool.get(id);
            assert!(reader.row_group_may_contain(group, &column, &is_value, &ReadMeter::default()).await.unwrap(), "{what} {column:?}");
        }
        Value::Int(value) => check_range(reader.int_range(group, &IntColumn::Attr(level, key)).unwrap(), value.into()),
        Value::Double(_) | Value::Bool(_) | Value::Array { .. } | Value::Json(_) => {}
    }
}

/// Fixed columns answer like dedicated ones.
#[tokio::test]
async fn fixed_columns_prune() {
    let meter = ReadMeter::default();
    for (tenant, reader) in readers_of("vParquet4").await {
        let table = reader.read_row_group(0, &Projection::all(), None, &meter).await.unwrap();
        for (level, attrs, key) in
            [(schema::Level::Span, &table.spans.attrs, "http.method"), (schema::Level::Resource, &table.resources.attrs, "k8s.pod.name")]
        {
            let column = StringColumn::Attr(level, key.as_bytes().to_vec());
            let is_there = |value: &[u8]| {
                attrs.keys.iter().zip(&attrs.values).any(|(id, found)| {
                    table.strings.get(*id) == key.as_bytes() && matches!(found, Value::Str(id) if table.strings.get(*id) == value)
                })
            };
            let has_any = attrs
                .keys
                .iter()
                .zip(&attrs.values)
                .any(|(id, value)| table.strings.get(*id) == key.as_bytes() && matches!(value, Value::Str(_)));
            assert_eq!(reader.row_group_may_contain(0, &column, &is_there, &meter).await.unwrap(), has_any, "{tenant} {key}");
            assert!(!reader.row_group_may_contain(0, &column, &|_| false, &meter).await.unwrap(), "{tenant} {key}");
        }
        let codes = reader.int_range(0, &IntColumn::Attr(schema::Level::Span, b"http.status_code".to_vec())).unwrap();
        assert!(matches!(codes, Range::Within(_)), "{tenant} {codes:?}");
    }
}

#[tokio::test]
async fn pruning_keeps_what_is_there_and_drops_what_is_not() {
    for (tenant, reader) in readers_of_all().await {
        let meter = ReadMeter::default();
        for group in 0..reader.row_groups() {
            let table = reader.read_row_group(group, &Projection::all(), None, &meter).await.unwrap();
            let pool = &table.strings;
            for &name in &table.spans.name {
                let found =
                    reader.row_group_may_contain(group, &StringColumn::SpanName, &|value| value == pool.get(name), &meter).await.unwrap();
                assert!(found, "{tenant}");
            }
            assert!(
                !reader.row_group_may_contain(group, &StringColumn::SpanName, &|value| value == b"no such name", &meter).await.unwrap()
            );
            let levels = [
                (schema::Level::Resource, &table.resources.attrs),
                (schema::Level::Scope, &table.scopes.attrs),
                (schema::Level::Span, &table.spans.attrs),
                (schema::Level::Event, &table.events.attrs),
                (schema::Level::Link, &table.links.attrs),
            ];
            for (level, attrs) in levels {
                for (owner, (key, value)) in (0..attrs.of.len()).flat_map(|owner| attrs.of_owner(owner).map(move |pair| (owner, pair))) {
                    for element in attrs.elements_of(&value) {
                        check_not_pruned(&reader, group, level, pool, (key, element), &format!("{tenant} {level:?} {owner}")).await;
                    }
                }
            }
            if !table.events.name.is_empty() {
                check_range(
                    reader.int_range(group, &IntColumn::EventTimeSinceStart).unwrap(),
                    table.events.time_since_start_nanos[0].into(),
                );
            }
            let absent = StringColumn::Attr(schema::Level::Span, b"no.such.key".to_vec());
            assert!(!reader.row_group_may_contain(group, &absent, &|_| true, &meter).await.unwrap());
            let Range::Within(bounds) = reader.int_range(group, &IntColumn::SpanDuration).unwrap() else { panic!("durations have bounds") };
            assert_eq!(bounds.max, i128::from(*table.spans.duration_nanos.iter().max().unwrap()));
            assert_eq!(bounds.min, i128::from(*table.spans.duration_nanos.iter().min().unwrap()));
        }
    }
}
