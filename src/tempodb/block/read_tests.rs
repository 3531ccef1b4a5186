//! Reads real blocks and compares them with what went in and with what the compatible system says of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object_store::memory::InMemory;
use pretty_assertions::assert_eq;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::meta::META_NAME;
use super::projection::{AttrKey, AttrSelection, Projection, ValueKinds};
use super::prune::{IntColumn, Range, StringColumn};
use super::read::*;
use super::selection::RowSelection;
use super::write::{BlockEncoder, NewBlock};
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
        if expected[5].is_null() {
            found[5] = Json::Null;
        }
    }
    assert_eq!(found, expected, "{what}");
}

#[tokio::test]
async fn every_trace_is_found_and_random_ids_are_not() {
    for folder in ["vParquet5", "vParquet5-compacted"] {
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
    for folder in ["vParquet5", "vParquet5-compacted"] {
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

/// A span with its resource and scope, independent of ids of strings: ids in hex, numbers as text, defaults left out.
type CanonicalSpan = Json;

fn non_default(fields: impl IntoIterator<Item = (&'static str, Json)>) -> Json {
    let kept = fields
        .into_iter()
        .filter(|(_, value)| !matches!(value, Json::Null) && *value != json!("") && *value != json!("0") && *value != json!([]));
    Json::Object(kept.map(|(key, value)| (key.to_owned(), value)).collect())
}

/// `(trace id, span id, kind)` and content of every span of a table.
fn spans_of_table(table: &SpanTable) -> Vec<((String, String, i32), CanonicalSpan)> {
    let pool = &table.strings;
    let mut found = Vec::new();
    for row in 0..table.trace_count() {
        for resource in table.traces.resources.range(row) {
            let mut attributes = attributes_of_table(pool, &table.resources.attrs, resource);
            let service = text(pool, table.resources.service_name[resource]);
            if !service.is_empty() {
                attributes.push(json!(["service.name", { "stringValue": service }]));
            }
            let resource_json = non_default([
                ("attributes", json!(attributes)),
                ("dropped", json!(table.resources.dropped_attributes[resource].to_string())),
            ]);
            for scope in table.resources.scopes.range(resource) {
                let scope_json = non_default([
                    ("name", json!(text(pool, table.scopes.name[scope]))),
                    ("version", json!(text(pool, table.scopes.version[scope]))),
                    ("attributes", json!(attributes_of_table(pool, &table.scopes.attrs, scope))),
                    ("dropped", json!(table.scopes.dropped_attributes[scope].to_string())),
                ]);
                for span in table.scopes.spans.range(scope) {
                    let key = (table.traces.ids[row].to_string(), table.spans.span_id[span].to_string(), table.spans.kind[span]);
                    let content = json!({ "resource": resource_json, "scope": scope_json, "span": span_of_table(table, span) });
                    found.push((key, content));
                }
            }
        }
    }
    found
}

fn span_of_table(table: &SpanTable, span: usize) -> Json {
    let (pool, s, e, l) = (&table.strings, &table.spans, &table.events, &table.links);
    let events: Vec<Json> = s
        .events
        .range(span)
        .map(|event| {
            non_default([
                ("time", json!(s.start_unix_nanos[span].wrapping_add(e.time_since_start_nanos[event]).to_string())),
                ("name", json!(text(pool, e.name[event]))),
                ("attributes", json!(attributes_of_table(pool, &e.attrs, event))),
                ("dropped", json!(e.dropped_attributes[event].to_string())),
            ])
        })
        .collect();
    let links: Vec<Json> = s
        .links
        .range(span)
        .map(|link| {
            non_default([
                ("trace", if l.trace_id[link].is_zero() { Json::Null } else { json!(l.trace_id[link].to_string()) }),
                ("span", if l.span_id[link].is_none() { Json::Null } else { json!(l.span_id[link].to_string()) }),
                ("state", json!(text(pool, l.trace_state[link]))),
                ("attributes", json!(attributes_of_table(pool, &l.attrs, link))),
                ("dropped", json!(l.dropped_attributes[link].to_string())),
            ])
        })
        .collect();
    non_default([
        ("parent", if s.parent_span_id[span].is_none() { Json::Null } else { json!(s.parent_span_id[span].to_string()) }),
        ("name", json!(text(pool, s.name[span]))),
        ("state", json!(text(pool, s.trace_state[span]))),
        ("start", json!(s.start_unix_nanos[span].to_string())),
        ("end", json!(table.span_end_unix_nanos(span).to_string())),
        ("code", json!(s.status_code[span].to_string())),
        ("message", json!(text(pool, s.status_message[span]))),
        ("attributes", json!(attributes_of_table(pool, &s.attrs, span))),
        ("dropped", json!(s.dropped_attributes[span].to_string())),
        ("dropped_events", json!(s.dropped_events[span].to_string())),
        ("dropped_links", json!(s.dropped_links[span].to_string())),
        ("events", json!(events)),
        ("links", json!(links)),
    ])
}

fn attributes_of_table(pool: &StringPool, attrs: &Attrs, owner: usize) -> Vec<Json> {
    attrs.of_owner(owner).map(|(key, value)| json!([text(pool, key), value_of_table(pool, attrs, value)])).collect()
}

fn value_of_table(pool: &StringPool, attrs: &Attrs, value: Value) -> Json {
    match value {
        Value::Str(id) => json!({ "stringValue": text(pool, id) }),
        Value::Int(value) => json!({ "intValue": value.to_string() }),
        Value::Double(value) => json!({ "doubleValue": double_text(value) }),
        Value::Bool(value) => json!({ "boolValue": value }),
        Value::Array { .. } => {
            let values: Vec<Json> = attrs.elements_of(&value).iter().map(|&element| value_of_table(pool, attrs, element)).collect();
            json!({ "arrayValue": values })
        }
        Value::Json(id) if pool.get(id).is_empty() => json!({}),
        Value::Json(id) => {
            serde_json::from_slice(pool.get(id)).map_or_else(|_| json!({ "json": text(pool, id) }), |json| canonical_value(&json))
        }
    }
}

fn double_text(value: f64) -> String {
    format!("{value:?}")
}

/// OTLP JSON of an `AnyValue` to the form of [`value_of_table`].
fn canonical_value(value: &Json) -> Json {
    let Some((kind, content)) = value.as_object().and_then(|fields| fields.iter().next()) else { return json!({}) };
    match kind.as_str() {
        "intValue" => json!({ kind: content.as_str().map_or_else(|| content.to_string(), str::to_owned) }),
        "doubleValue" => {
            let number = content.as_f64().unwrap_or_else(|| match content.as_str() {
                Some("NaN") => f64::NAN,
                Some("Infinity") => f64::INFINITY,
                Some("-Infinity") => f64::NEG_INFINITY,
                other => other.unwrap().parse().unwrap(),
            });
            json!({ kind: double_text(number) })
        }
        "arrayValue" => {
            json!({ kind: content["values"].as_array().map_or_else(Vec::new, |values| values.iter().map(canonical_value).collect()) })
        }
        "kvlistValue" => json!({ kind: canonical_attributes(&content["values"]) }),
        "stringValue" | "boolValue" | "bytesValue" => json!({ kind: content }),
        other => panic!("unknown value {other}"),
    }
}

fn canonical_attributes(list: &Json) -> Vec<Json> {
    list.as_array().map_or_else(Vec::new, |list| list.iter().map(|pair| json!([pair["key"], canonical_value(&pair["value"])])).collect())
}

/// Ids are hex in requests and base64 in responses.
fn id_text(id: &Json, hex_digits: usize) -> Json {
    let Some(id) = id.as_str().filter(|id| !id.is_empty()) else { return Json::Null };
    let is_hex = id.len().is_multiple_of(2) && id.chars().all(|c| c.is_ascii_hexdigit()) && id.len() >= 8;
    let hex = if is_hex { id.to_owned() } else { STANDARD.decode(id).unwrap().iter().map(|byte| format!("{byte:02x}")).collect() };
    json!(format!("{hex:0>hex_digits$}"))
}

fn number_text(value: &Json) -> Json {
    match value {
        Json::Null => json!("0"),
        Json::String(text) => json!(text),
        other => json!(other.to_string()),
    }
}

fn enum_number(value: &Json, names: &[&str]) -> i32 {
    match value {
        Json::Null => 0,
        Json::String(name) => names.iter().position(|known| known == name).unwrap() as i32,
        number => number.as_i64().unwrap() as i32,
    }
}

const KINDS: [&str; 6] =
    ["SPAN_KIND_UNSPECIFIED", "SPAN_KIND_INTERNAL", "SPAN_KIND_SERVER", "SPAN_KIND_CLIENT", "SPAN_KIND_PRODUCER", "SPAN_KIND_CONSUMER"];
const CODES: [&str; 3] = ["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"];

/// The spans of an OTLP JSON message in the form of [`spans_of_table`].
fn spans_of_otlp(message: &Json) -> Vec<((String, String, i32), CanonicalSpan)> {
    let list = |value: &Json| value.as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for resource in list(&message["resourceSpans"]) {
        let resource_json = non_default([
            ("attributes", json!(canonical_attributes(&resource["resource"]["attributes"]))),
            ("dropped", number_text(&resource["resource"]["droppedAttributesCount"])),
        ]);
        for scope in list(&resource["scopeSpans"]) {
            let s = &scope["scope"];
            let scope_json = non_default([
                ("name", s["name"].clone()),
                ("version", s["version"].clone()),
                ("attributes", json!(canonical_attributes(&s["attributes"]))),
                ("dropped", number_text(&s["droppedAttributesCount"])),
            ]);
            for span in list(&scope["spans"]) {
                let kind = enum_number(&span["kind"], &KINDS);
                let id = |value: &Json, digits| id_text(value, digits).as_str().unwrap_or_default().to_owned();
                let events: Vec<Json> = list(&span["events"])
                    .iter()
                    .map(|e| {
                        non_default([
                            ("time", number_text(&e["timeUnixNano"])),
                            ("name", e["name"].clone()),
                            ("attributes", json!(canonical_attributes(&e["attributes"]))),
                            ("dropped", number_text(&e["droppedAttributesCount"])),
                        ])
                    })
                    .collect();
                let links: Vec<Json> = list(&span["links"])
                    .iter()
                    .map(|l| {
                        non_default([
                            ("trace", id_text(&l["traceId"], 32)),
                            ("span", id_text(&l["spanId"], 16)),
                            ("state", l["traceState"].clone()),
                            ("attributes", json!(canonical_attributes(&l["attributes"]))),
                            ("dropped", number_text(&l["droppedAttributesCount"])),
                        ])
                    })
                    .collect();
                let content = non_default([
                    ("parent", id_text(&span["parentSpanId"], 16)),
                    ("name", span["name"].clone()),
                    ("state", span["traceState"].clone()),
                    ("start", number_text(&span["startTimeUnixNano"])),
                    ("end", number_text(&span["endTimeUnixNano"])),
                    ("code", json!(enum_number(&span["status"]["code"], &CODES).to_string())),
                    ("message", span["status"]["message"].clone()),
                    ("attributes", json!(canonical_attributes(&span["attributes"]))),
                    ("dropped", number_text(&span["droppedAttributesCount"])),
                    ("dropped_events", number_text(&span["droppedEventsCount"])),
                    ("dropped_links", number_text(&span["droppedLinksCount"])),
                    ("events", json!(events)),
                    ("links", json!(links)),
                ]);
                let key = (id(&span["traceId"], 32), id(&span["spanId"], 16), kind);
                found.push((key, json!({ "resource": resource_json, "scope": scope_json, "span": content })));
            }
        }
    }
    found
}

/// Applies what intake and format do to a span: long strings are cut, an empty service name is dropped, dedicated arrays lose their shape.
fn as_stored(mut span: CanonicalSpan, slots: &[dedicated::DedicatedSlot]) -> CanonicalSpan {
    use dedicated::{DedicatedKind, DedicatedScope};
    let store = |attributes: &mut Json, scope: Option<DedicatedScope>| {
        let Some(list) = attributes.as_array_mut() else { return };
        list.retain(|pair| !(scope == Some(DedicatedScope::Resource) && *pair == json!(["service.name", { "stringValue": "" }])));
        if scope == Some(DedicatedScope::Resource) {
            // The last text wins; others in generic attributes stay.
            let is_text = |pair: &Json| pair[0] == json!("service.name") && pair[1].get("stringValue").is_some();
            let mut left = list.iter().filter(|pair| is_text(pair)).count();
            list.retain(|pair| {
                left -= usize::from(is_text(pair));
                !is_text(pair) || left == 0
            });
        }
        for pair in list.iter_mut() {
            if let Json::String(value) = &mut pair[1]["stringValue"] {
                value.truncate(2048);
            }
            if let Some(fields) = pair[1].as_object_mut() {
                fields.retain(|_, value| !value.is_null());
            }
        }
        list.retain_mut(|pair| {
            let slot = slots.iter().find(|slot| Some(slot.scope) == scope && json!(slot.name) == pair[0]);
            let (Some(slot), Some(values)) = (slot, pair[1]["arrayValue"].as_array().cloned()) else {
                if let Some(fields) = pair[1].as_object_mut() {
                    fields.retain(|_, value| !value.is_null());
                }
                return true;
            };
            let kind = match slot.kind {
                DedicatedKind::String => "stringValue",
                DedicatedKind::Int => "intValue",
            };
            match values.as_slice() {
                [] => false,
                [one] if one.get(kind).is_some() => {
                    pair[1] = one.clone();
                    true
                }
                _ => true,
            }
        });
        list.sort_by_key(Json::to_string);
    };
    store(&mut span["resource"]["attributes"], Some(DedicatedScope::Resource));
    store(&mut span["scope"]["attributes"], None);
    store(&mut span["span"]["attributes"], Some(DedicatedScope::Span));
    for event in span["span"]["events"].as_array_mut().into_iter().flatten() {
        store(&mut event["attributes"], Some(DedicatedScope::Event));
    }
    for link in span["span"]["links"].as_array_mut().into_iter().flatten() {
        store(&mut link["attributes"], None);
    }
    without_nulls(span)
}

fn without_nulls(value: Json) -> Json {
    match value {
        Json::Object(fields) => {
            let kept = fields.into_iter().map(|(key, value)| (key, without_nulls(value)));
            Json::Object(kept.filter(|(_, value)| !value.is_null() && *value != json!([])).collect())
        }
        Json::Array(list) => Json::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
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
    let mut by_tenant: BTreeMap<String, Vec<BlockReader>> = BTreeMap::new();
    for (tenant, opened) in open_all("vParquet5").await {
        by_tenant.entry(tenant).or_default().push(opened.reader);
    }
    for (tenant, readers) in by_tenant {
        let slots = readers[0].file().slots().to_vec();
        let mut sent: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for wave in 1..=3 {
            for (key, span) in spans_of_otlp(&load(&format!("input/{tenant}-wave{wave}.json"))) {
                sent.entry(key).or_default().insert(as_stored(span, &slots).to_string());
            }
        }
        let mut seen = BTreeSet::new();
        for reader in &readers {
            for (key, span) in all_spans(reader).await {
                let span = as_stored(span, &[]).to_string();
                let candidates = &sent[&key];
                if !candidates.contains(&span) {
                    assert_eq!(
                        serde_json::from_str::<Json>(&span).unwrap(),
                        serde_json::from_str::<Json>(candidates.first().unwrap()).unwrap(),
                        "{tenant} {key:?}"
                    );
                }
                seen.insert(key);
            }
        }
        assert_eq!(seen.len(), sent.len(), "{tenant}");
    }
}

/// The API gives one of two spans with the same id a new one, which is not the block's matter.
const SHARED_SPAN_ID: &str = "alpha-7a4048564530d59284c50552cdb3b7a7.json";

#[tokio::test]
async fn spans_equal_those_of_the_trace_api() {
    let mut spans: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for (tenant, opened) in open_all("vParquet5").await {
        for (key, span) in all_spans(&opened.reader).await {
            spans.entry((tenant.clone(), key)).or_default().insert(without_nulls(span).to_string());
        }
    }
    let mut compared = 0;
    for entry in std::fs::read_dir(Path::new(ROOT).join("api/vParquet5")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let (tenant, _) = name.split_once('-').unwrap();
        if name == SHARED_SPAN_ID {
            continue;
        }
        for (key, span) in spans_of_otlp(&load(&format!("api/vParquet5/{name}"))["trace"]) {
            let span = without_nulls(span);
            let found = spans.get(&(tenant.to_owned(), key.clone())).unwrap_or_else(|| panic!("{name} {key:?} is in no block"));
            if !found.contains(&span.to_string()) {
                assert_eq!(serde_json::from_str::<Json>(found.first().unwrap()).unwrap(), span, "{name} {key:?}");
            }
            compared += 1;
        }
    }
    assert!(compared > 40, "{compared}");
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
    for (tenant, Opened { reader, .. }) in open_all("vParquet5").await {
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
                .map(|&key| text(&all.strings, key))
                .collect();
            let used: Vec<&str> = used.iter().map(String::as_str).collect();
            for keys in used.chunks(1).chain(used.chunks(3)).chain([&["no such key"][..]]) {
                let mut projection = Projection::default();
                projection.spans.attrs = AttrSelection::keys(keys.iter().copied());
                projection.resources.attrs = AttrSelection::keys(keys.iter().copied());
                projection.events.attrs = AttrSelection::keys(keys.iter().copied());
                let some = reader.read_row_group(group, &projection, None, &meter).await.unwrap();
                assert_eq!(some.span_count(), all.span_count());
                assert!(some.spans.name.is_empty() && some.scopes.attrs.keys.is_empty());
                let pairs = [
                    (&some.spans.attrs, &all.spans.attrs),
                    (&some.resources.attrs, &all.resources.attrs),
                    (&some.events.attrs, &all.events.attrs),
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
    for (_, Opened { reader, .. }) in open_all("vParquet5").await {
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
    for (tenant, Opened { reader, .. }) in open_all("vParquet5-compacted").await {
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
async fn other_versions_are_refused_by_name() {
    let backend = Backend::local(Path::new(ROOT).join("vParquet5")).unwrap();
    let reader = open(&backend, "alpha", "a0a76807-e24a-4b98-bcfd-0e2a55737f75", ReadOptions::default()).await;
    let tenant = TenantId::parse("alpha").unwrap();
    for (format, text) in [
        ("vParquet4", "reading blocks of version vParquet4 is not supported yet"),
        ("vParquet3", "reading blocks of version vParquet3 is not supported yet"),
        ("v2", "v2 is not a valid block version"),
    ] {
        let meta = meta::BlockMeta { format: format.to_owned(), ..(**reader.meta()).clone() };
        let error = BlockReader::open(&backend, &tenant, meta.into(), ReadOptions::default(), &ReadMeter::default()).await.unwrap_err();
        assert_eq!(error.to_string(), text);
        assert!(!error.is_corrupt());
    }
}

#[tokio::test]
async fn pruning_keeps_what_is_there_and_drops_what_is_not() {
    for (tenant, Opened { reader, .. }) in open_all("vParquet5").await {
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
            for span in 0..table.span_count() {
                for (key, value) in table.spans.attrs.of_owner(span) {
                    let (level, key) = (schema::Level::Span, pool.get(key).to_vec());
                    match value {
                        Value::Str(id) => {
                            let column = StringColumn::Attr(level, key);
                            assert!(reader.row_group_may_contain(group, &column, &|value| value == pool.get(id), &meter).await.unwrap());
                        }
                        Value::Int(value) => match reader.int_range(group, &IntColumn::Attr(level, key)).unwrap() {
                            Range::Within(bounds) => assert!((bounds.min..=bounds.max).contains(&i128::from(value))),
                            Range::Unknown => {}
                            Range::Empty => panic!("an int is there"),
                        },
                        Value::Double(_) | Value::Bool(_) | Value::Array { .. } | Value::Json(_) => {}
                    }
                }
            }
            let absent = StringColumn::Attr(schema::Level::Span, b"no.such.key".to_vec());
            assert!(!reader.row_group_may_contain(group, &absent, &|_| true, &meter).await.unwrap());
            let Range::Within(bounds) = reader.int_range(group, &IntColumn::SpanDuration).unwrap() else { panic!("durations have bounds") };
            assert_eq!(bounds.max, i128::from(*table.spans.duration_nanos.iter().max().unwrap()));
            assert_eq!(bounds.min, i128::from(*table.spans.duration_nanos.iter().min().unwrap()));
        }
    }
}

/// The objects of a block in memory, to be damaged.
struct Stored {
    meta: meta::BlockMeta,
    data: Vec<u8>,
    others: Vec<(String, Vec<u8>)>,
}

impl Stored {
    /// Writes `tables` with our own writer, a row group each.
    fn write(tables: &[SpanTable], dedicated_columns: Vec<dedicated::DedicatedColumn>) -> Self {
        let traces = tables.iter().map(SpanTable::trace_count).sum();
        let new = NewBlock { dedicated_columns, ..NewBlock::new(TenantId::single(), meta::BlockId::random(), traces) };
        let mut encoder = BlockEncoder::new(new, Vec::new()).unwrap();
        for table in tables {
            encoder.append(table).unwrap();
        }
        let (data, finished) = encoder.finish().unwrap();
        let blooms = (0..).zip(finished.blooms).map(|(shard, bytes)| (keys::bloom_name(shard), bytes));
        let others = blooms.chain([(index::INDEX_NAME.to_owned(), finished.index)]).collect();
        Self { meta: finished.meta, data, others }
    }

    fn load(tenant: &str, block: &str) -> Self {
        let folder = Path::new(ROOT).join("vParquet5").join(tenant).join(block);
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let meta = meta::BlockMeta::from_json(&read(META_NAME)).unwrap();
        let blooms = (0..meta.bloom_shards).map(keys::bloom_name);
        let others = blooms.chain([index::INDEX_NAME.to_owned()]).map(|name| (name.clone(), read(&name))).collect();
        Self { meta, data: read(keys::DATA_NAME), others }
    }

    async fn open(&self, options: ReadOptions) -> Result<BlockReader, error::BlockReadError> {
        let backend = Backend::new(Arc::new(InMemory::new()), "");
        let (tenant, id) = (TenantId::single(), self.meta.block_id);
        backend.write(&keys::block_object(&tenant, id, keys::DATA_NAME), self.data.clone()).await.unwrap();
        for (name, bytes) in &self.others {
            backend.write(&keys::block_object(&tenant, id, name), bytes.clone()).await.unwrap();
        }
        BlockReader::open(&backend, &tenant, Arc::new(self.meta.clone()), options, &ReadMeter::default()).await
    }
}

fn without_checksums() -> ReadOptions {
    ReadOptions { verify_checksums: false, ..ReadOptions::default() }
}

async fn tables_of(reader: &BlockReader) -> Vec<SpanTable> {
    let mut tables = Vec::new();
    for group in 0..reader.row_groups() {
        tables.push(reader.read_row_group(group, &Projection::all(), None, &ReadMeter::default()).await.unwrap());
    }
    tables
}

#[tokio::test]
async fn what_our_writer_makes_of_real_blocks_reads_the_same() {
    for (tenant, Opened { reader, .. }) in open_all("vParquet5").await {
        let tables = tables_of(&reader).await;
        let written = Stored::write(&tables, reader.meta().dedicated_columns.to_vec());
        let again = written.open(ReadOptions::default()).await.unwrap();
        let meter = ReadMeter::default();
        for (group, (table, reread)) in tables.iter().zip(tables_of(&again).await).enumerate() {
            for (row, (sent, found)) in (0..table.trace_count()).map(|row| (row, (summary(table, row), summary(&reread, row)))) {
                assert_eq!(found, sent, "{tenant} {group} {row}");
            }
            assert_eq!(spans_of_table(&reread), spans_of_table(table), "{tenant} {group}");
            for &id in &table.traces.ids {
                let found = again.find_trace(id, &meter).await.unwrap().unwrap();
                assert_eq!(found.traces.ids, [id]);
            }
            // Dictionaries of our own blocks answer, too.
            assert!(!again.row_group_may_contain(group, &StringColumn::SpanName, &|name| name == b"no such name", &meter).await.unwrap());
            let name = table.spans.name[0];
            let name = table.strings.get(name);
            assert!(again.row_group_may_contain(group, &StringColumn::SpanName, &|found| found == name, &meter).await.unwrap());
        }
    }
}

/// Does everything that a reader can do; results do not matter.
async fn exercise(stored: &Stored, options: ReadOptions) -> Result<(), error::BlockReadError> {
    let reader = stored.open(options).await?;
    let meter = ReadMeter::default();
    let mut outcome = Ok(());
    for group in 0..reader.row_groups().min(4) {
        let rows = RowSelection::from_rows([0, 2, 3]);
        let mut keys = Projection::default();
        keys.spans.attrs = AttrSelection::keys(["http.method", "a"]);
        for (projection, rows) in [(Projection::all(), None), (Projection::all(), Some(&rows)), (keys, None)] {
            outcome = outcome.and(reader.read_row_group(group, &projection, rows, &meter).await.map(drop));
        }
        let column = StringColumn::Attr(schema::Level::Span, b"http.method".to_vec());
        outcome = outcome.and(reader.row_group_may_contain(group, &column, &|_| false, &meter).await.map(drop));
        outcome = outcome.and(reader.int_range(group, &IntColumn::SpanDuration).map(drop));
    }
    outcome.and(reader.find_trace(TraceId::from_hex("91678a").unwrap_or_default(), &meter).await.map(drop))
}

#[tokio::test]
async fn a_flipped_bit_is_noticed_or_changes_nothing() {
    let mut stored = Stored::load("alpha", "ddf5ebac-38d4-46dd-b64c-c75f25473644");
    let whole = spans_of_table(&tables_of(&stored.open(ReadOptions::default()).await.unwrap()).await[0]);
    let mut noticed = 0;
    for at in (100..stored.data.len() / 2).step_by(701) {
        stored.data[at] ^= 0x10;
        let reader = stored.open(ReadOptions::default()).await.unwrap();
        match reader.read_row_group(0, &Projection::all(), None, &ReadMeter::default()).await {
            // Statistics in page headers and columns that are not read.
            Ok(table) => assert_eq!(spans_of_table(&table), whole, "{at}"),
            Err(error) => {
                assert!(error.is_corrupt());
                noticed += 1;
            }
        }
        stored.data[at] ^= 0x10;
    }
    assert!(noticed >= 10, "{noticed}");
}

fn damaged(data: &[u8], damage: &[(usize, u8, usize)]) -> Vec<u8> {
    let mut data = data.to_vec();
    for &(at, value, length) in damage {
        let at = at % data.len();
        let end = (at + length).min(data.len());
        data[at..end].fill(value);
    }
    data
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn written_tables_read_the_same(table in crate::model::testing::arb_span_table(6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let stored = Stored::write(std::slice::from_ref(&table), Vec::new());
            let reader = stored.open(ReadOptions::default()).await.unwrap();
            let again = tables_of(&reader).await.remove(0);
            prop_assert_eq!(&again.traces.ids, &table.traces.ids);
            prop_assert_eq!(spans_of_table(&again), spans_of_table(&table));
            for row in 0..table.trace_count() {
                prop_assert_eq!(summary(&again, row), summary(&table, row));
                let rows = RowSelection::from_range(row..row + 1);
                let one = reader.read_row_group(0, &Projection::all(), Some(&rows), &ReadMeter::default()).await.unwrap();
                prop_assert_eq!(summary(&one, 0), summary(&table, row));
            }
            Ok(())
        })?;
    }

    #[test]
    fn damaged_blocks_never_panic(damage in prop::collection::vec((any::<usize>(), any::<u8>(), 1_usize..9), 1..6), ours in any::<bool>(), cut in any::<Option<u16>>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut stored = Stored::load("beta", "daee1b73-8553-4698-888c-3e28752dc459");
        if ours {
            let tables = runtime.block_on(async { tables_of(&stored.open(ReadOptions::default()).await.unwrap()).await });
            stored = Stored::write(&tables, stored.meta.dedicated_columns.to_vec());
        }
        stored.data = damaged(&stored.data, &damage);
        if let Some(cut) = cut {
            stored.data.truncate(stored.data.len().saturating_sub(usize::from(cut)));
        }
        let _ = runtime.block_on(exercise(&stored, without_checksums()));
    }

    #[test]
    fn damaged_footers_never_panic(damage in prop::collection::vec((any::<usize>(), any::<u8>(), 1_usize..4), 1..4)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut stored = Stored::load("beta", "daee1b73-8553-4698-888c-3e28752dc459");
        // Page indexes lie before the footer and are about as long.
        let start = stored.data.len().saturating_sub(stored.meta.footer_size_bytes as usize * 2);
        let tail = damaged(&stored.data[start..], &damage);
        stored.data.splice(start.., tail);
        let _ = runtime.block_on(exercise(&stored, without_checksums()));
    }
}
