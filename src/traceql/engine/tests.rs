//! The examples of the language run on tables, and the engine against the row-by-row reference.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use serde_norway::Value as Yaml;

use crate::base::bitset::Bitset;
use crate::model::ids::{SpanId, TraceId};
use crate::model::span_table::SpanTable;
use crate::traceql::result::{SpanSetHit, TraceHit};
use crate::traceql::testing::{TestAttributes, TestEvent, TestLink, TestScope, TestSpan, TestTrace, TestValue, table_of};
use crate::traceql::types::{Kind, Static, Status};

use super::*;

mod against_reference;
mod projected;

const EXAMPLES: &str = include_str!("../../../testdata/traceql/examples.yaml");

/// Traces and their matching spans.
type Answer = &'static [(&'static str, &'static [&'static str])];

/// Examples whose observed verdict is a defect of the compatible system, with the answer given here: (id, trace → spans).
const BETTER_ANSWERS: &[(&str, Answer)] = &[
    // both the span and the resource lack it
    ("filters-147", &[("A", &["a3", "a5"]), ("B", &["b3"])]),
    // literals on the left
    ("filters-160", &[("A", &["a1"]), ("B", &["b2"])]),
    ("filters-169", &[("B", &["b1"]), ("C", &["c1"])]),
    // nil is false beside `||`
    ("filters-166", &[("A", &["a1", "a2", "a3", "a4", "a5"]), ("B", &["b1", "b2", "b3"]), ("C", &["c1"])]),
    ("filters-167", &[("A", &["a3"]), ("B", &["b2"])]),
    ("filters-168", &[("A", &["a3"]), ("B", &["b2"])]),
    // 2 ^ 3 is 8
    ("filters-178", &[]),
    // a zero divisor gives nil
    ("filters-183", &[("A", &["a4"]), ("B", &["b3"])]),
    ("filters-184", &[]),
    // ids are text for regular expressions, and equal in any letter case and padding
    ("intrinsics-217", &[]),
    ("intrinsics-218", &[("A", &["a1"])]),
    ("intrinsics-239", &[("A", &["a1"])]),
    // different events of one span
    ("events_links-248", &[("A", &["a1"])]),
    ("events_links-249", &[("A", &["a1"])]),
    // arrays in arithmetic and against arrays give nil
    ("arrays-263", &[]),
    ("arrays-264", &[]),
];

/// Examples in scope that must have run; grows when structural operators and metrics are supported.
const EXPECTED_RUNS: usize = 211;

#[test]
fn examples_give_their_verdicts() {
    let document: Yaml = serde_norway::from_str(EXAMPLES).unwrap();
    let fixture = Fixture::new(&document["fixture"]);
    let table = table_of(&fixture.traces);
    let mut skipped: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut runs, mut failures) = (0, Vec::new());
    for example in document["examples"].as_sequence().unwrap() {
        match run_example(&fixture, &table, example) {
            Outcome::Skipped(reason) => *skipped.entry(reason).or_default() += 1,
            Outcome::Passed => runs += 1,
            Outcome::Failed(text) => failures.push(text),
        }
    }
    println!("{runs} examples ran, skipped: {skipped:?}");
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), runs + failures.len(), failures.join("\n"));
    assert!(runs >= EXPECTED_RUNS, "only {runs} examples ran; skipped: {skipped:?}");
}

enum Outcome {
    Passed,
    Failed(String),
    Skipped(&'static str),
}

fn run_example(fixture: &Fixture, table: &SpanTable, example: &Yaml) -> Outcome {
    let id = example["id"].as_str().unwrap();
    if example.get("parse").is_none() {
        return Outcome::Skipped("no query");
    }
    if example["parse"] != "ok" || example["validate"] != "ok" {
        return Outcome::Skipped("invalid query");
    }
    if example.get("matches").is_none() && example.get("execute").is_none() {
        return Outcome::Skipped("no search verdict");
    }
    let query = example["query"].as_str().unwrap();
    let parsed = match compile(query) {
        Ok(parsed) => parsed,
        Err(error) => return Outcome::Failed(format!("{id} {query}: {error}")),
    };
    let plan = match Plan::new(&parsed) {
        Ok(plan) => plan,
        Err(EngineError::Unsupported(reason)) => return Outcome::Skipped(reason),
        Err(error) => return Outcome::Failed(format!("{id} {query}: {error}")),
    };
    let spss = example.get("request").map_or(100, |request| request["spss"].as_u64().unwrap() as usize);
    let hits = match search(&plan, table, spss) {
        Ok(hits) => hits,
        Err(error) => return Outcome::Failed(format!("{id} {query}: {error}")),
    };
    let found = fixture.describe(&hits);
    let expected = match BETTER_ANSWERS.iter().find(|(better, _)| *better == id) {
        Some((_, traces)) => traces
            .iter()
            .map(|(trace, spans)| {
                let labels = spans.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>();
                (trace.to_string(), vec![FoundSet { matched: labels.len() as u64, spans: labels, attributes: Vec::new() }])
            })
            .collect(),
        None => expected_traces(&example["matches"]),
    };
    if found != expected {
        return Outcome::Failed(format!("{id} {query}\n   found {found:?}\nexpected {expected:?}"));
    }
    if let Some(selected) = example.get("selected").and_then(Yaml::as_sequence) {
        for wanted in selected {
            let label = wanted["span"].as_str().unwrap();
            let span =
                hits.iter().flat_map(|hit| &hit.span_sets).flat_map(|set| &set.spans).find(|span| fixture.labels[&span.span_id] == label);
            let span = span.unwrap();
            let mut found: Vec<(String, Yaml)> = span.attributes.iter().map(|(key, value)| (key.to_string(), yaml_of(value))).collect();
            found.sort_by(|a, b| a.0.cmp(&b.0));
            if found != yaml_attributes(&wanted["attrs"]) || &*span.name != wanted["name"].as_str().unwrap() {
                return Outcome::Failed(format!("{id} {query}: {label} shows {found:?} and name {:?}", span.name));
            }
        }
    }
    Outcome::Passed
}

fn compile(query: &str) -> Result<crate::traceql::ast::Query, crate::traceql::QueryError> {
    crate::traceql::compile(query).map(crate::traceql::rewrite::or_to_in)
}

pub(super) fn search(plan: &Plan, table: &SpanTable, spss: usize) -> Result<Vec<TraceHit>, EngineError> {
    let cancelled = AtomicBool::new(false);
    let matches = evaluate(plan, table, EvaluateOptions { rows: None, spans_per_span_set: spss, cancelled: &cancelled })?;
    Ok(hits(plan, &matches, table, HitRows::Same))
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

fn expected_traces(matches: &Yaml) -> FoundTraces {
    let sets_of = |entry: &Yaml| {
        let mut sets: Vec<FoundSet> = entry["sets"]
            .as_sequence()
            .unwrap()
            .iter()
            .map(|set| {
                let spans: Vec<String> =
                    set["spans"].as_sequence().unwrap().iter().map(|label| label.as_str().unwrap().to_owned()).collect();
                let matched = set.get("matched").map_or(spans.len() as u64, |matched| matched.as_u64().unwrap());
                FoundSet { spans, matched, attributes: set.get("attrs").map_or_else(Vec::new, yaml_attributes) }
            })
            .collect();
        sets.sort_by_key(FoundSet::sort_key);
        sets
    };
    let entries = matches.as_sequence().unwrap().iter();
    entries.map(|entry| (entry["trace"].as_str().unwrap().to_owned(), sets_of(entry))).collect()
}

fn yaml_attributes(attributes: &Yaml) -> Vec<(String, Yaml)> {
    let mut list: Vec<(String, Yaml)> =
        attributes.as_mapping().unwrap().iter().map(|(key, value)| (key.as_str().unwrap().to_owned(), value.clone())).collect();
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

/// The traces of the examples file.
struct Fixture {
    traces: Vec<TestTrace>,
    trace_labels: BTreeMap<TraceId, String>,
    labels: BTreeMap<SpanId, String>,
}

impl Fixture {
    fn new(fixture: &Yaml) -> Self {
        let t0 = fixture["t0_unix_seconds"].as_u64().unwrap() * 1_000_000_000;
        let mut this = Self { traces: Vec::new(), trace_labels: BTreeMap::new(), labels: BTreeMap::new() };
        for trace in fixture["traces"].as_sequence().unwrap() {
            let id = TraceId::from_hex(trace["trace_id"].as_str().unwrap()).unwrap();
            this.trace_labels.insert(id, trace["label"].as_str().unwrap().to_owned());
            let spans = trace["spans"].as_sequence().unwrap().iter().map(|span| this.span(fixture, span, t0)).collect();
            this.traces.push(TestTrace { id, spans });
        }
        this
    }

    fn span(&mut self, fixture: &Yaml, span: &Yaml, t0: u64) -> TestSpan {
        let text = |key: &str| span.get(key).and_then(Yaml::as_str).unwrap_or("").to_owned();
        let id = condition::span_id_from_hex(&text("id")).unwrap();
        self.labels.insert(id, text("label"));
        let scope = &fixture["scopes"][text("scope").as_str()];
        let list = |key: &str| span.get(key).and_then(Yaml::as_sequence).cloned().unwrap_or_default();
        let kind = [Kind::Internal, Kind::Client, Kind::Server, Kind::Producer, Kind::Consumer];
        let status = [Status::Error, Status::Ok, Status::Unset];
        TestSpan {
            id,
            parent: condition::span_id_from_hex(&text("parent")).unwrap_or(SpanId::NONE),
            resource: attributes(&fixture["resources"][text("resource").as_str()]),
            scope: TestScope {
                name: scope["name"].as_str().unwrap().to_owned(),
                version: scope["version"].as_str().unwrap().to_owned(),
                attributes: attributes(&scope["attrs"]),
            },
            name: text("name"),
            kind: kind.into_iter().find(|kind| kind.as_str() == text("kind")).unwrap().to_otlp(),
            status: status.into_iter().find(|status| status.as_str() == text("status")).unwrap().to_otlp(),
            status_message: text("message"),
            start_unix_nanos: t0 + (span["start_s"].as_f64().unwrap() * 1e9).round() as u64,
            duration_nanos: span["dur_ms"].as_u64().unwrap() * 1_000_000,
            attributes: attributes(&span["attrs"]),
            events: list("events")
                .iter()
                .map(|event| TestEvent {
                    name: event["name"].as_str().unwrap().to_owned(),
                    since_start_nanos: event["at_ms"].as_u64().unwrap() * 1_000_000,
                    attributes: attributes(&event["attrs"]),
                })
                .collect(),
            links: list("links")
                .iter()
                .map(|link| TestLink {
                    trace_id: TraceId::from_hex(link["trace"].as_str().unwrap()).unwrap(),
                    span_id: condition::span_id_from_hex(link["span"].as_str().unwrap()).unwrap(),
                    attributes: attributes(&link["attrs"]),
                })
                .collect(),
        }
    }

    fn describe(&self, hits: &[TraceHit]) -> FoundTraces {
        let describe_set = |set: &SpanSetHit| {
            let mut attributes: Vec<(String, Yaml)> = set.attributes.iter().map(|(key, value)| (key.to_string(), yaml_of(value))).collect();
            attributes.sort_by(|a, b| a.0.cmp(&b.0));
            FoundSet {
                spans: set.spans.iter().map(|span| self.labels[&span.span_id].clone()).collect(),
                matched: u64::from(set.matched),
                attributes,
            }
        };
        let describe_sets = |hit: &TraceHit| {
            let mut sets: Vec<FoundSet> = hit.span_sets.iter().map(describe_set).collect();
            sets.sort_by_key(FoundSet::sort_key);
            sets
        };
        hits.iter().map(|hit| (self.trace_labels[&hit.trace_id].clone(), describe_sets(hit))).collect()
    }
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

#[test]
fn tags_come_from_passing_spans() {
    use crate::traceql::autocomplete::{extract_conditions, parse_tag};
    use crate::traceql::tags::{TagLimits, TagNames, TagScope, TagValues};

    let document: Yaml = serde_norway::from_str(EXAMPLES).unwrap();
    let table = table_of(&Fixture::new(&document["fixture"]).traces);
    let names = |scope: TagScope, filter: &str| {
        let selection = TagSelection::new(&extract_conditions(filter, 100).unwrap());
        let mut names = TagNames::new(TagLimits::default());
        tag_names(&projected::project(&table, &selection.names_fetch(&[scope])), &[scope], &selection, &mut names);
        names.into_flat().iter().map(|name| name.to_string()).collect::<Vec<_>>().join(" ")
    };
    let values = |tag: &str, filter: &str| {
        let (tag, selection) = (parse_tag(tag).unwrap(), TagSelection::new(&extract_conditions(filter, 100).unwrap()));
        let mut values = TagValues::new(TagLimits::default());
        tag_values(&projected::project(&table, &selection.values_fetch(&tag)), &tag, &selection, &mut values);
        values.into_values().iter().map(|value| format!("{}:{}", value.kind, value.text)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(TagScope::Resource, ""), "cluster foo replicas service.name");
    assert_eq!(names(TagScope::Resource, "{ name = `job` }"), "service.name");
    assert_eq!(names(TagScope::Span, "{ kind = consumer || name = `fetch` }"), "db.rows foo");
    assert_eq!(names(TagScope::Event, ""), "level");
    assert_eq!(names(TagScope::Link, "{ span.foo = `bar` && .unfinished = "), "rel");
    assert_eq!(names(TagScope::Instrumentation, "{ resource.cluster = `eu-2` && status = error }"), "");
    assert_eq!(values("resource.service.name", ""), "string:batch string:cart string:db string:shop");
    assert_eq!(values(".foo", "{ resource.service.name = `shop` }"), "string:bar string:res-foo");
    assert_eq!(values("span.foo", ""), "int:7 string:bar string:baz");
    assert_eq!(values("span.tags", ""), "string:blue string:green string:red");
    assert_eq!(values("span.ratio", ""), "float:0.5 float:1.5 float:2.0");
    assert_eq!(values("span.retry", ""), "bool:false bool:true");
    assert_eq!(values("name", "{ status = error }"), "string:POST /pay string:save");
    assert_eq!(values("event.level", "{ name = `GET /cart` }"), "string:error string:info");
    assert_eq!(values("status", ""), "");
}

#[test]
fn unsupported_and_cancelled_queries_are_refused() {
    let plan = |query: &str| Plan::new(&compile(query).unwrap()).map(|_| ());
    assert_eq!(plan("{} >> {}"), Err(EngineError::Unsupported("structural operators")));
    assert_eq!(plan("{} | rate()").unwrap_err().to_string(), "metrics evaluation not supported yet");
    let cancelled = AtomicBool::new(true);
    let options = EvaluateOptions { rows: None, spans_per_span_set: 0, cancelled: &cancelled };
    let table = table_of(&[TestTrace { id: TraceId([1; 16]), spans: vec![TestSpan { id: SpanId([1; 8]), ..TestSpan::default() }] }]);
    assert_eq!(evaluate(&Plan::new(&compile("{}").unwrap()).unwrap(), &table, options), Err(EngineError::Cancelled));
    let grouped = Plan::new(&compile("({} | by(name)) && ({})").unwrap()).unwrap();
    assert_eq!(search(&grouped, &table_of(&two_names()), 0), Err(EngineError::MultipleSpansets));
}

fn two_names() -> Vec<TestTrace> {
    let span = |id: u8, name: &str| TestSpan { id: SpanId([id; 8]), name: name.to_owned(), ..TestSpan::default() };
    vec![TestTrace { id: TraceId([1; 16]), spans: vec![span(1, "a"), span(2, "b")] }]
}

#[test]
fn default_cut_and_newest_traces() {
    let span = |id: u8, start: u64| TestSpan { id: SpanId([id; 8]), start_unix_nanos: start, ..TestSpan::default() };
    let traces: Vec<TestTrace> = [(1, 30), (2, 10), (3, 20)]
        .map(|(id, start)| TestTrace { id: TraceId([id; 16]), spans: (1..=5).map(|span_id| span(span_id, start)).collect() })
        .into();
    let table = table_of(&traces);
    let cancelled = AtomicBool::new(false);
    let plan = Plan::new(&compile("{} with (most_recent=true)").unwrap()).unwrap();
    assert!(plan.most_recent());
    let mut matches = evaluate(&plan, &table, EvaluateOptions { rows: None, spans_per_span_set: 0, cancelled: &cancelled }).unwrap();
    assert_eq!((matches.inspected.traces, matches.inspected.spans), (3, 15));
    matches.keep_newest(2);
    assert_eq!(matches.rows().collect::<Vec<_>>(), [0, 2]);
    let set = &hits(&plan, &matches, &table, HitRows::Same)[1].span_sets[0];
    assert_eq!((set.spans.len(), set.matched), (DEFAULT_SPANS_PER_SPAN_SET, 5));
    assert!(Plan::new(&compile("{ false } | {}").unwrap()).unwrap().is_noop());
}
