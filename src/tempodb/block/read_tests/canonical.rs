//! Spans in one form, whether they come from a table or from OTLP JSON: ids in hex, numbers as text, defaults left out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use super::super::{dedicated, meta};
use super::text;
use crate::model::span_table::{Attrs, SpanTable, Value};
use crate::model::strings::StringPool;

/// A span with its resource and scope, independent of ids of strings: ids in hex, numbers as text, defaults left out.
pub(super) type CanonicalSpan = Json;

fn non_default(fields: impl IntoIterator<Item = (&'static str, Json)>) -> Json {
    let kept = fields
        .into_iter()
        .filter(|(_, value)| !matches!(value, Json::Null) && *value != json!("") && *value != json!("0") && *value != json!([]));
    Json::Object(kept.map(|(key, value)| (key.to_owned(), value)).collect())
}

/// `(trace id, span id, kind)` and content of every span of a table.
pub(super) fn spans_of_table(table: &SpanTable) -> Vec<((String, String, i32), CanonicalSpan)> {
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

pub(super) fn attributes_of_table(pool: &StringPool, attrs: &Attrs, owner: usize) -> Vec<Json> {
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
pub(super) fn spans_of_otlp(message: &Json) -> Vec<((String, String, i32), CanonicalSpan)> {
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

/// Applies what intake and format do to a span: long strings are cut, an empty service name is dropped, and what else the version loses.
pub(super) fn as_stored(mut span: CanonicalSpan, version: meta::BlockVersion, slots: &[dedicated::DedicatedSlot]) -> CanonicalSpan {
    use dedicated::DedicatedScope;
    let is_oldest = version == meta::BlockVersion::VParquet3;
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
            if let Some(Json::String(value)) = pair[1].get_mut("stringValue") {
                value.truncate(2048);
            }
            // Values of events and links are messages, which lose nothing.
            if is_oldest && matches!(scope, Some(DedicatedScope::Resource | DedicatedScope::Span)) && pair[1].get("bytesValue").is_some() {
                pair[1] = json!({});
            }
        }
        if version == meta::BlockVersion::VParquet5 {
            list.retain_mut(|pair| !collapses_to_nothing(pair, scope, slots));
        }
        list.sort_by_key(Json::to_string);
    };
    store(&mut span["resource"]["attributes"], Some(DedicatedScope::Resource));
    store(&mut span["scope"]["attributes"], None);
    store(&mut span["span"]["attributes"], Some(DedicatedScope::Span));
    if is_oldest {
        span["scope"]["attributes"] = Json::Null;
        span["scope"]["dropped"] = Json::Null;
        span["resource"]["dropped"] = Json::Null;
    }
    for event in span["span"]["events"].as_array_mut().into_iter().flatten() {
        store(&mut event["attributes"], Some(DedicatedScope::Event));
    }
    for link in span["span"]["links"].as_array_mut().into_iter().flatten() {
        store(&mut link["attributes"], None);
    }
    without_nulls(span)
}

/// Turns an array in a repeated dedicated column into what it reads as: a scalar if it has one element. Whether there is nothing left.
pub(super) fn collapses_to_nothing(pair: &mut Json, scope: Option<dedicated::DedicatedScope>, slots: &[dedicated::DedicatedSlot]) -> bool {
    let slot = slots.iter().find(|slot| Some(slot.scope) == scope && json!(slot.name) == pair[0]);
    let (Some(slot), Some(values)) = (slot, pair[1].get("arrayValue").and_then(Json::as_array).cloned()) else { return false };
    let kind = match slot.kind {
        dedicated::DedicatedKind::String => "stringValue",
        dedicated::DedicatedKind::Int => "intValue",
    };
    if let [one] = values.as_slice()
        && one.get(kind).is_some()
    {
        pair[1] = one.clone();
    }
    values.is_empty()
}

pub(super) fn without_nulls(value: Json) -> Json {
    match value {
        Json::Object(fields) => {
            let kept = fields.into_iter().map(|(key, value)| (key, without_nulls(value)));
            Json::Object(kept.filter(|(_, value)| !value.is_null() && *value != json!([])).collect())
        }
        Json::Array(list) => Json::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
