//! The search examples of `testdata/traceql/examples.yaml`: their traces, and what each query must find. Run on tables, and on blocks by the
//! querier's tests.

use std::collections::BTreeMap;

use serde_norway::Value as Yaml;

use super::{TestAttributes, TestEvent, TestLink, TestScope, TestSpan, TestTrace, TestValue, table_of};
use crate::model::ids::{SpanId, TraceId};
use crate::model::span_table::SpanTable;
use crate::traceql::result::{SpanSetHit, TraceHit};
use crate::traceql::types::{Kind, Static, Status};

pub(super) const EXAMPLES: &str = include_str!("../../../testdata/traceql/examples.yaml");

/// Examples with a search verdict.
const SEARCH_EXAMPLES: usize = 241;

/// Examples that are answered differently here, with the answer in the file's own form. Most verdicts are defects of the compatible system
/// (docs/traceql.md names them), some are orders it does not promise.
const OWN_ANSWERS: &[(&str, &str)] = &[
    // both the span and the resource lack it
    ("filters-147", "[{trace: A, sets: [{spans: [a3, a5]}]}, {trace: B, sets: [{spans: [b3]}]}]"),
    // literals on the left
    ("filters-160", "[{trace: A, sets: [{spans: [a1]}]}, {trace: B, sets: [{spans: [b2]}]}]"),
    ("filters-169", "[{trace: B, sets: [{spans: [b1]}]}, {trace: C, sets: [{spans: [c1]}]}]"),
    // nil is false beside `||`
    (
        "filters-166",
        "[{trace: A, sets: [{spans: [a1, a2, a3, a4, a5]}]}, {trace: B, sets: [{spans: [b1, b2, b3]}]}, {trace: C, sets: [{spans: [c1]}]}]",
    ),
    ("filters-167", "[{trace: A, sets: [{spans: [a3]}]}, {trace: B, sets: [{spans: [b2]}]}]"),
    ("filters-168", "[{trace: A, sets: [{spans: [a3]}]}, {trace: B, sets: [{spans: [b2]}]}]"),
    // 2 ^ 3 is 8
    ("filters-178", "[]"),
    // a zero divisor gives nil
    ("filters-183", "[{trace: A, sets: [{spans: [a4]}]}, {trace: B, sets: [{spans: [b3]}]}]"),
    ("filters-184", "[]"),
    // ids are text for regular expressions, and equal in any letter case and padding
    ("intrinsics-217", "[]"),
    ("intrinsics-218", "[{trace: A, sets: [{spans: [a1]}]}]"),
    ("intrinsics-239", "[{trace: A, sets: [{spans: [a1]}]}]"),
    // different events of one span
    ("events_links-248", "[{trace: A, sets: [{spans: [a1]}]}]"),
    ("events_links-249", "[{trace: A, sets: [{spans: [a1]}]}]"),
    // arrays in arithmetic and against arrays give nil
    ("arrays-263", "[]"),
    ("arrays-264", "[]"),
    // Results keep the order of the right side, here that of storage, as in all examples of one operator. Beside another operator and in
    // wrapped pipelines the compatible system shows them as it sorted them on the way, for each operator differently.
    ("grammar-068", "[{trace: A, sets: [{spans: [a2, a3, a4, a5]}]}, {trace: B, sets: [{spans: [b2, b3]}]}]"),
    ("grammar-069", "[{trace: A, sets: [{spans: [a2, a3, a4, a5, a1]}]}, {trace: B, sets: [{spans: [b2, b3, b1]}]}]"),
    ("grammar-072", "[{trace: A, sets: [{spans: [a2, a3, a4, a5]}]}, {trace: B, sets: [{spans: [b2, b3]}]}]"),
    // A span that leads to no root stands in no relation, so it passes every negated operator, as in structural-280. The compatible system
    // leaves it out when the right side is `{}`.
    (
        "structural-274",
        "[{trace: A, sets: [{spans: [a1, a2, a4, a5]}]}, {trace: B, sets: [{spans: [b1, b2, b3]}]}, {trace: C, sets: [{spans: [c1]}]}]",
    ),
    (
        "structural-275",
        "[{trace: A, sets: [{spans: [a1, a2, a3, a5]}]}, {trace: B, sets: [{spans: [b1, b2, b3]}]}, {trace: C, sets: [{spans: [c1]}]}]",
    ),
    (
        "structural-276",
        "[{trace: A, sets: [{spans: [a1, a2, a3]}]}, {trace: B, sets: [{spans: [b1, b2, b3]}]}, {trace: C, sets: [{spans: [c1]}]}]",
    ),
    (
        "structural-277",
        "[{trace: A, sets: [{spans: [a3, a5]}]}, {trace: B, sets: [{spans: [b1, b2, b3]}]}, {trace: C, sets: [{spans: [c1]}]}]",
    ),
    (
        "structural-278",
        "[{trace: A, sets: [{spans: [a1, a2, a3, a5]}]}, {trace: B, sets: [{spans: [b1, b2, b3]}]}, {trace: C, sets: [{spans: [c1]}]}]",
    ),
    // The set is the one of group `db`, in which a5 has a client for parent. The compatible system shows the attribute of another group.
    ("pipelines-313", "[{trace: A, sets: [{spans: [a5], attrs: {\"by(resource.service.name)\": db}}]}]"),
];

/// A query and what it must find.
pub(crate) struct SearchExample {
    pub(crate) id: String,
    pub(crate) query: String,
    pub(crate) spans_per_span_set: usize,
    expected: FoundTraces,
    selected: Vec<Selected>,
}

/// What is shown of a span.
struct Selected {
    label: String,
    name: String,
    attributes: Vec<(String, Yaml)>,
}

#[derive(Debug, PartialEq, Clone)]
struct FoundSet {
    spans: Vec<String>,
    matched: u64,
    attributes: Vec<(String, Yaml)>,
}

impl FoundSet {
    /// Sets of `by` have no defined order, nor have their attributes in the examples.
    fn sort_key(&self) -> String {
        format!("{:?}", self.attributes)
    }
}

type FoundTraces = BTreeMap<String, Vec<FoundSet>>;

/// The traces of the examples and the labels that verdicts know them by.
pub(crate) struct Fixture {
    traces: Vec<TestTrace>,
    trace_labels: BTreeMap<TraceId, String>,
    span_labels: BTreeMap<SpanId, String>,
}

/// Returns all examples with a search verdict, and the traces they are about.
pub(crate) fn search_examples() -> (Fixture, Vec<SearchExample>) {
    let document: Yaml = serde_norway::from_str(EXAMPLES).unwrap();
    let examples: Vec<SearchExample> = document["examples"].as_sequence().unwrap().iter().filter_map(search_example).collect();
    assert_eq!(examples.len(), SEARCH_EXAMPLES);
    (Fixture::new(&document["fixture"]), examples)
}

fn search_example(example: &Yaml) -> Option<SearchExample> {
    let id = example["id"].as_str().unwrap().to_owned();
    let is_valid = example.get("parse")? == "ok" && example["validate"] == "ok";
    let has_verdict = example.get("matches").is_some() || example.get("execute").is_some();
    if !is_valid || !has_verdict {
        return None;
    }
    let expected = match OWN_ANSWERS.iter().find(|(own, _)| *own == id) {
        Some((_, answer)) => expected_traces(&serde_norway::from_str(answer).unwrap()),
        None => expected_traces(&example["matches"]),
    };
    let selected = example.get("selected").and_then(Yaml::as_sequence).map_or(&[][..], Vec::as_slice).iter().map(|span| Selected {
        label: text(span, "span"),
        name: text(span, "name"),
        attributes: yaml_attributes(&span["attrs"]),
    });
    Some(SearchExample {
        query: text(example, "query"),
        spans_per_span_set: example.get("request").map_or(100, |request| request["spss"].as_u64().unwrap() as usize),
        expected,
        selected: selected.collect(),
        id,
    })
}

impl SearchExample {
    /// Says how `hits` differ from the verdict.
    pub(crate) fn check(&self, fixture: &Fixture, hits: &[TraceHit]) -> Result<(), String> {
        let Self { id, query, .. } = self;
        let found = fixture.describe(hits);
        if found != self.expected {
            return Err(format!("{id} {query}\n   found {found:?}\nexpected {:?}", self.expected));
        }
        for wanted in &self.selected {
            let spans = hits.iter().flat_map(|hit| &hit.span_sets).flat_map(|set| &set.spans);
            let span = spans.into_iter().find(|span| fixture.span_labels[&span.span_id] == wanted.label).unwrap();
            let shown = sorted_attributes(span.attributes.iter().map(|(key, value)| (key.to_string(), yaml_of(value))));
            if shown != wanted.attributes || *span.name != *wanted.name {
                return Err(format!("{id} {query}: {} shows {shown:?} and name {:?}", wanted.label, span.name));
            }
        }
        Ok(())
    }
}

fn expected_traces(matches: &Yaml) -> FoundTraces {
    let sets_of = |entry: &Yaml| {
        let mut sets: Vec<FoundSet> = entry["sets"].as_sequence().unwrap().iter().map(expected_set).collect();
        sets.sort_by_key(FoundSet::sort_key);
        sets
    };
    matches.as_sequence().unwrap().iter().map(|entry| (text(entry, "trace"), sets_of(entry))).collect()
}

fn expected_set(set: &Yaml) -> FoundSet {
    let spans: Vec<String> = set["spans"].as_sequence().unwrap().iter().map(|label| label.as_str().unwrap().to_owned()).collect();
    let matched = set.get("matched").map_or(spans.len() as u64, |matched| matched.as_u64().unwrap());
    FoundSet { spans, matched, attributes: set.get("attrs").map_or_else(Vec::new, yaml_attributes) }
}

fn yaml_attributes(attributes: &Yaml) -> Vec<(String, Yaml)> {
    sorted_attributes(attributes.as_mapping().unwrap().iter().map(|(key, value)| (key.as_str().unwrap().to_owned(), value.clone())))
}

fn sorted_attributes(attributes: impl Iterator<Item = (String, Yaml)>) -> Vec<(String, Yaml)> {
    let mut list: Vec<(String, Yaml)> = attributes.collect();
    list.sort_by(|a, b| a.0.cmp(&b.0));
    list
}

/// The value as results show it on the wire.
fn yaml_of(value: &Static) -> Yaml {
    match value {
        Static::Int(value) => Yaml::from(*value),
        Static::Float(value) => Yaml::from(*value),
        Static::Bool(value) => Yaml::from(*value),
        Static::String(value) => Yaml::from(&**value),
        Static::StringArray(values) => Yaml::Sequence(values.iter().map(|value| Yaml::from(&**value)).collect()),
        Static::IntArray(values) => Yaml::Sequence(values.iter().map(|value| Yaml::from(*value)).collect()),
        Static::Nil | Static::Duration(_) | Static::Status(_) | Static::Kind(_) | Static::FloatArray(_) | Static::BoolArray(_) => {
            Yaml::from(value.to_string())
        }
    }
}

impl Fixture {
    fn new(fixture: &Yaml) -> Self {
        let t0 = fixture["t0_unix_seconds"].as_u64().unwrap() * 1_000_000_000;
        let mut this = Self { traces: Vec::new(), trace_labels: BTreeMap::new(), span_labels: BTreeMap::new() };
        for trace in fixture["traces"].as_sequence().unwrap() {
            let id = TraceId::from_hex(trace["trace_id"].as_str().unwrap()).unwrap();
            this.trace_labels.insert(id, text(trace, "label"));
            let spans = trace["spans"].as_sequence().unwrap().iter().map(|span| this.span(fixture, span, t0)).collect();
            this.traces.push(TestTrace { id, spans });
        }
        this
    }

    /// Returns all traces in one table.
    pub(crate) fn table(&self) -> SpanTable {
        table_of(&self.traces)
    }

    /// Returns each trace in a table of its own.
    pub(crate) fn table_per_trace(&self) -> Vec<SpanTable> {
        self.traces.iter().map(|trace| table_of(std::slice::from_ref(trace))).collect()
    }

    fn span(&mut self, fixture: &Yaml, span: &Yaml, t0: u64) -> TestSpan {
        let id = span_id(&text(span, "id"));
        self.span_labels.insert(id, text(span, "label"));
        let scope = &fixture["scopes"][text(span, "scope").as_str()];
        let list = |key: &str| span.get(key).and_then(Yaml::as_sequence).cloned().unwrap_or_default();
        let kind = [Kind::Internal, Kind::Client, Kind::Server, Kind::Producer, Kind::Consumer];
        let status = [Status::Error, Status::Ok, Status::Unset];
        TestSpan {
            id,
            parent: span_id(&text(span, "parent")),
            resource: attributes(&fixture["resources"][text(span, "resource").as_str()]),
            scope: TestScope { name: text(scope, "name"), version: text(scope, "version"), attributes: attributes(&scope["attrs"]) },
            name: text(span, "name"),
            kind: kind.into_iter().find(|kind| kind.as_str() == text(span, "kind")).unwrap().to_otlp(),
            status: status.into_iter().find(|status| status.as_str() == text(span, "status")).unwrap().to_otlp(),
            status_message: text(span, "message"),
            start_unix_nanos: t0 + (span["start_s"].as_f64().unwrap() * 1e9).round() as u64,
            duration_nanos: span["dur_ms"].as_u64().unwrap() * 1_000_000,
            trace_state: text(span, "tracestate"),
            attributes: attributes(&span["attrs"]),
            events: list("events")
                .iter()
                .map(|event| TestEvent {
                    name: text(event, "name"),
                    since_start_nanos: event["at_ms"].as_u64().unwrap() * 1_000_000,
                    attributes: attributes(&event["attrs"]),
                })
                .collect(),
            links: list("links")
                .iter()
                .map(|link| TestLink {
                    trace_id: TraceId::from_hex(&text(link, "trace")).unwrap(),
                    span_id: span_id(&text(link, "span")),
                    attributes: attributes(&link["attrs"]),
                })
                .collect(),
        }
    }

    /// Returns the labels of all spans found, trace by trace.
    pub(crate) fn labels(&self, hits: &[TraceHit]) -> String {
        let mut hits: Vec<&TraceHit> = hits.iter().collect();
        hits.sort_by_key(|hit| &self.trace_labels[&hit.trace_id]);
        let spans = hits.iter().flat_map(|hit| &hit.span_sets).flat_map(|set| &set.spans);
        spans.map(|span| self.span_labels[&span.span_id].as_str()).collect::<Vec<_>>().join(" ")
    }

    fn describe(&self, hits: &[TraceHit]) -> FoundTraces {
        let describe_set = |set: &SpanSetHit| FoundSet {
            spans: set.spans.iter().map(|span| self.span_labels[&span.span_id].clone()).collect(),
            matched: u64::from(set.matched),
            attributes: sorted_attributes(set.attributes.iter().map(|(key, value)| (key.to_string(), yaml_of(value)))),
        };
        let describe_sets = |hit: &TraceHit| {
            let mut sets: Vec<FoundSet> = hit.span_sets.iter().map(describe_set).collect();
            sets.sort_by_key(FoundSet::sort_key);
            sets
        };
        hits.iter().map(|hit| (self.trace_labels[&hit.trace_id].clone(), describe_sets(hit))).collect()
    }
}

fn text(mapping: &Yaml, key: &str) -> String {
    mapping.get(key).and_then(Yaml::as_str).unwrap_or("").to_owned()
}

/// No text means no id.
fn span_id(text: &str) -> SpanId {
    if text.is_empty() { SpanId::NONE } else { SpanId(u64::from_str_radix(text, 16).unwrap().to_be_bytes()) }
}

fn attributes(mapping: &Yaml) -> TestAttributes {
    let pairs = mapping.as_mapping().unwrap().iter();
    pairs.map(|(key, value)| (key.as_str().unwrap().to_owned(), test_value(value))).collect()
}

fn test_value(value: &Yaml) -> TestValue {
    match value {
        Yaml::Bool(value) => TestValue::Bool(*value),
        Yaml::Number(number) => number.as_i64().map_or_else(|| TestValue::Double(number.as_f64().unwrap()), TestValue::Int),
        Yaml::String(text) => TestValue::Str(text.clone()),
        Yaml::Sequence(elements) => TestValue::Array(elements.iter().map(test_value).collect()),
        other => panic!("no attribute value: {other:?}"),
    }
}
