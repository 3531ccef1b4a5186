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

const EXAMPLES: &str = include_str!("../../../testdata/traceql/examples.yaml");

/// Examples whose observed verdict is a defect of the compatible system, with the answer given here: (id, trace → spans).
const BETTER_ANSWERS: &[(&str, &[(&str, &[&str])])] = &[
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
            let span = hits.iter().flat_map(|hit| &hit.span_sets).flat_map(|set| &set.spans).find(|span| fixture.labels[&span.span_id] == label);
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
                let spans: Vec<String> = set["spans"].as_sequence().unwrap().iter().map(|label| label.as_str().unwrap().to_owned()).collect();
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

mod against_reference {
    use proptest::prelude::*;

    use crate::traceql::ast::{QueryBody, SpansetExpr, Stage};

    use super::super::reference;
    use super::*;

    fn arb_scalar() -> impl Strategy<Value = TestValue> {
        prop_oneof![
            prop::sample::select(vec!["", "a", "b", "ab", "x"]).prop_map(|text| TestValue::Str(text.to_owned())),
            (-1_i64..3).prop_map(TestValue::Int),
            prop::sample::select(vec![-0.5, 0.0, 1.0, 1.5]).prop_map(TestValue::Double),
            any::<bool>().prop_map(TestValue::Bool),
        ]
    }

    fn arb_value() -> impl Strategy<Value = TestValue> {
        let strings = prop::collection::vec(prop::sample::select(vec!["a", "b", "x"]), 0..4)
            .prop_map(|texts| TestValue::Array(texts.into_iter().map(|text| TestValue::Str(text.to_owned())).collect()));
        let ints = prop::collection::vec(0_i64..3, 1..4).prop_map(|ints| TestValue::Array(ints.into_iter().map(TestValue::Int).collect()));
        prop_oneof![8 => arb_scalar(), 1 => strings, 1 => ints, 1 => Just(TestValue::Bytes(vec![1, 255]))]
    }

    fn arb_attributes() -> impl Strategy<Value = TestAttributes> {
        prop::collection::btree_map(prop::sample::select(vec!["k", "l", "m"]), arb_value(), 0..3)
            .prop_map(|map| map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    fn arb_resource() -> impl Strategy<Value = TestAttributes> {
        (arb_attributes(), prop::option::of(prop::sample::select(vec!["a", "shop"]))).prop_map(|(mut attributes, service)| {
            attributes.extend(service.map(|name| ("service.name".to_owned(), TestValue::Str(name.to_owned()))));
            attributes
        })
    }

    prop_compose! {
        fn arb_scope()(name in prop::sample::select(vec!["", "lib"]), version in prop::sample::select(vec!["", "1.0"]), attributes in arb_attributes()) -> TestScope {
            TestScope { name: name.to_owned(), version: version.to_owned(), attributes }
        }
    }

    prop_compose! {
        fn arb_event()(name in prop::sample::select(vec!["a", "log"]), since_start_nanos in 0_u64..3, attributes in arb_attributes()) -> TestEvent {
            TestEvent { name: name.to_owned(), since_start_nanos, attributes }
        }
    }

    prop_compose! {
        fn arb_link()(id in 1_u8..3, attributes in arb_attributes()) -> TestLink {
            TestLink { trace_id: TraceId([id; 16]), span_id: SpanId([id; 8]), attributes }
        }
    }

    prop_compose! {
        fn arb_span()(
            parent in 0_u8..4,
            resource in arb_resource(),
            scope in arb_scope(),
            (name, status_message) in (prop::sample::select(vec!["a", "ab", "x"]), prop::sample::select(vec!["", "a"])),
            (kind, status) in (0_i32..6, 0_i32..3),
            (start, duration_nanos) in (1_u64..4, 0_u64..4),
            attributes in arb_attributes(),
            events in prop::collection::vec(arb_event(), 0..3),
            links in prop::collection::vec(arb_link(), 0..2),
        ) -> TestSpan {
            TestSpan {
                id: SpanId::NONE,
                parent: SpanId([parent; 8]),
                resource,
                scope,
                name: name.to_owned(),
                kind,
                status,
                status_message: status_message.to_owned(),
                start_unix_nanos: start,
                duration_nanos,
                attributes,
                events,
                links,
            }
        }
    }

    /// Traces whose spans have ids unique in all of them.
    fn arb_traces() -> impl Strategy<Value = Vec<TestTrace>> {
        prop::collection::vec(prop::collection::vec(arb_span(), 1..8), 1..6).prop_map(|traces| {
            let mut next_span = 10_u64;
            let number = |spans: Vec<TestSpan>, trace: usize| {
                let spans = spans.into_iter().enumerate().map(|(index, span)| {
                    next_span += 1;
                    // which of several roots counts depends on the storage order
                    let parent = if index > 0 && span.parent.is_none() { SpanId([9; 8]) } else { span.parent };
                    TestSpan { id: SpanId(next_span.to_be_bytes()), parent, ..span }
                });
                TestTrace { id: TraceId([trace as u8 + 1; 16]), spans: spans.collect() }
            };
            let mut number = number;
            traces.into_iter().enumerate().map(|(trace, spans)| number(spans, trace)).collect()
        })
    }

    fn arb_attribute() -> impl Strategy<Value = String> {
        prop_oneof![
            6 => (prop::sample::select(vec![".", "span.", "resource.", "event.", "link.", "instrumentation."]), prop::sample::select(vec!["k", "l", "m", "none"]))
                .prop_map(|(scope, key)| format!("{scope}{key}")),
            1 => prop::sample::select(vec!["resource.service.name", ".service.name"]).prop_map(str::to_owned),
        ]
    }

    fn arb_literal() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["`a`", "`b`", "``", "0", "1", "2", "1.0", "1.5", "true", "false", "1ns", "-1"]).prop_map(str::to_owned)
    }

    fn arb_leaf() -> impl Strategy<Value = String> {
        let comparison = prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
        let regex = prop::sample::select(vec!["=~", "!~"]);
        let pattern = prop::sample::select(vec!["`a.*`", "`(?i)B|x`", "``"]);
        let text_intrinsic = prop::sample::select(vec![
            "name", "statusMessage", "rootName", "rootServiceName", "event:name", "instrumentation:name", "instrumentation:version", "trace:id",
            "span:id", "span:parentID", "link:spanID", "link:traceID",
        ]);
        let number_intrinsic = prop::sample::select(vec!["duration", "traceDuration", "event:timeSinceStart"]);
        prop_oneof![
            6 => (arb_attribute(), comparison.clone(), arb_literal()).prop_map(|(a, op, l)| format!("({a} {op} {l})")),
            2 => (arb_attribute(), comparison.clone(), arb_literal()).prop_map(|(a, op, l)| format!("({l} {op} {a})")),
            2 => (arb_attribute(), regex.clone(), pattern.clone()).prop_map(|(a, op, p)| format!("({a} {op} {p})")),
            1 => arb_attribute().prop_map(|a| format!("({a} != nil)")),
            1 => arb_attribute().prop_map(|a| format!("({a} = nil)")),
            1 => arb_attribute(),
            2 => (text_intrinsic.clone(), comparison.clone(), prop::sample::select(vec!["`a`", "`x`", "``", "`lib`", "`0101010101010101`", "`0000000000000000`"]))
                .prop_map(|(a, op, l)| format!("({a} {op} {l})")),
            1 => (text_intrinsic, regex, pattern).prop_map(|(a, op, p)| format!("({a} {op} {p})")),
            1 => (number_intrinsic, comparison.clone(), prop::sample::select(vec!["1", "2ns", "1.5"])).prop_map(|(a, op, l)| format!("({a} {op} {l})")),
            1 => prop::sample::select(vec!["(status = error)", "(kind != server)", "(status != ok)", "(client = kind)"]).prop_map(str::to_owned),
            2 => (arb_attribute(), comparison.clone(), arb_attribute()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            1 => (arb_attribute(), prop::sample::select(vec!["+", "-", "*", "/", "%"]), arb_literal(), comparison, prop::sample::select(vec!["1", "0.5", "duration"]))
                .prop_map(|(a, op, b, cmp, c)| format!("({a} {op} {b} {cmp} {c})")),
        ]
    }

    fn arb_filter() -> impl Strategy<Value = String> {
        arb_leaf().prop_recursive(4, 16, 3, |inner| {
            prop_oneof![
                3 => prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" && "))),
                3 => prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" || "))),
                1 => inner.clone().prop_map(|part| format!("(!{part})")),
                1 => (inner.clone(), inner).prop_map(|(a, b)| format!("({a} = {b})")),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

        #[test]
        fn filters_keep_the_same_spans(filter in arb_filter(), traces in arb_traces()) {
            let query = compile(&format!("{{ {filter} }}"));
            prop_assume!(query.is_ok());
            let query = query.unwrap();
            let QueryBody::Search(pipeline) = &query.body else { unreachable!() };
            let [Stage::Spanset(SpansetExpr::Filter(expr))] = pipeline.stages.as_slice() else { unreachable!() };
            let mut expected: Vec<SpanId> = traces
                .iter()
                .flat_map(|trace| trace.spans.iter().filter(|span| reference::keeps(expr, trace, span)).map(|span| span.id))
                .collect();
            expected.sort();
            let plan = Plan::new(&query).unwrap();
            let found = search(&plan, &table_of(&traces), 1000).unwrap();
            let mut found: Vec<SpanId> = found.iter().flat_map(|hit| &hit.span_sets).flat_map(|set| &set.spans).map(|span| span.span_id).collect();
            found.sort();
            prop_assert_eq!(found, expected, "{}", query);
        }

        #[test]
        fn repeated_dictionary_entries_change_nothing(filter in arb_filter(), traces in arb_traces()) {
            let query = compile(&format!("{{ {filter} }} | by(.k) | count() > 0"));
            prop_assume!(query.is_ok());
            let query = query.unwrap();
            let plan = Plan::new(&query).unwrap();
            let table = table_of(&traces);
            let mut repeated = table.clone();
            repeat_strings(&mut repeated);
            prop_assert_eq!(search(&plan, &table, 1000), search(&plan, &repeated, 1000));
        }

        #[test]
        fn selected_rows_and_two_passes_agree_with_one(filter in arb_filter(), traces in arb_traces(), keep in any::<u8>()) {
            let query = compile(&format!("{{ {filter} }} | select(name, span.l, event.k)"));
            prop_assume!(query.is_ok());
            let query = query.unwrap();
            let plan = Plan::new(&query).unwrap();
            let rows = |row: usize| keep >> row & 1 == 1;
            let table = table_of(&traces);
            let all = search(&plan, &table, 1000).unwrap();
            let expected: Vec<TraceHit> = all.into_iter().filter(|hit| rows(usize::from(hit.trace_id.0[0]) - 1)).collect();
            let cancelled = AtomicBool::new(false);
            let selected = Bitset::full(table.trace_count()).filter(rows);
            let options = EvaluateOptions { rows: Some(&selected), spans_per_span_set: 1000, cancelled: &cancelled };
            let matches = evaluate(&plan, &table, options).unwrap();
            let matching: Vec<TestTrace> = matches.rows().map(|row| traces[row].clone()).collect();
            prop_assert_eq!(hits(&plan, &matches, &table_of(&matching), HitRows::MatchesOnly), expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

        #[test]
        fn what_is_not_fetched_is_not_missed(filter in arb_filter(), other in arb_leaf(), traces in arb_traces()) {
            let text = format!("{{ {filter} }} && {{ {other} }} | by(.m) | select(span.k, kind, event:name)");
            let query = compile(&text);
            prop_assume!(query.is_ok());
            let query = query.unwrap();
            let plan = Plan::new(&query).unwrap();
            let table = table_of(&traces);
            let expected = search(&plan, &table, 1000).unwrap();
            let cancelled = AtomicBool::new(false);
            let options = EvaluateOptions { rows: None, spans_per_span_set: 1000, cancelled: &cancelled };
            let matches = evaluate(&plan, &projected::project(&table, plan.fetch()), options).unwrap();
            prop_assert_eq!(hits(&plan, &matches, &projected::project(&table, plan.result_fetch()), HitRows::Same), expected, "{}", query);
        }

        #[test]
        fn matching_traces_satisfy_the_conditions_for_storage(filter in arb_filter(), traces in arb_traces()) {
            let query = compile(&format!("{{ {filter} }}"));
            prop_assume!(query.is_ok());
            let query = query.unwrap();
            let plan = Plan::new(&query).unwrap();
            for hit in search(&plan, &table_of(&traces), 1).unwrap() {
                let trace = traces.iter().find(|trace| trace.id == hit.trace_id).unwrap();
                let table = table_of(std::slice::from_ref(trace));
                for condition in &plan.fetch().conditions {
                    prop_assert!(!projected::may_be_skipped(&table, condition), "{} skips by {:?}", query, condition);
                }
            }
        }
    }

    /// Gives every other mention of a string an id of its own, as decoded tables may.
    fn repeat_strings(table: &mut SpanTable) {
        let mut seen = 0_usize;
        let strings = &mut table.strings;
        let mut repeat = |id: &mut crate::model::strings::StrId| {
            seen += 1;
            if seen % 2 == 0 {
                let text = strings.get(*id).to_vec();
                *id = strings.push(&text);
            }
        };
        table.spans.name.iter_mut().for_each(&mut repeat);
        table.resources.service_name.iter_mut().for_each(&mut repeat);
        for attrs in [&mut table.spans.attrs, &mut table.resources.attrs, &mut table.events.attrs] {
            attrs.keys.iter_mut().for_each(&mut repeat);
            for value in attrs.values.iter_mut().chain(&mut attrs.elements) {
                if let crate::model::span_table::Value::Str(id) = value {
                    repeat(id);
                }
            }
        }
    }
}

/// What storage delivers for a projection, done on tables in memory.
mod projected {
    use crate::model::span_table::{Attrs, Offsets, Value};
    use crate::traceql::engine::projection::{AttributeLevel, FetchColumn, FetchCondition, FetchKeys, FetchKinds, FetchSpec, FetchTarget, FetchTest};

    use super::*;

    /// Returns `table` without what `fetch` does not name.
    pub(super) fn project(table: &SpanTable, fetch: &FetchSpec) -> SpanTable {
        let mut out = table.clone();
        let without = |column: FetchColumn| !fetch.columns.contains(&column);
        macro_rules! clear {
            ($column:ident: $($field:expr),+) => {
                if without(FetchColumn::$column) {
                    $($field = Default::default();)+
                }
            };
        }
        clear!(TraceTimes: out.traces.start_unix_nanos, out.traces.end_unix_nanos, out.traces.duration_nanos);
        clear!(RootServiceName: out.traces.root_service_name);
        clear!(RootSpanName: out.traces.root_span_name);
        clear!(ServiceStats: out.traces.service_stats, out.traces.service_stats_of);
        clear!(ServiceName: out.resources.service_name);
        clear!(ScopeName: out.scopes.name);
        clear!(ScopeVersion: out.scopes.version);
        clear!(SpanId: out.spans.span_id);
        clear!(ParentSpanId: out.spans.parent_span_id);
        clear!(NestedSet: out.spans.nested_left, out.spans.nested_right, out.spans.nested_parent);
        clear!(ChildCount: out.spans.child_count);
        clear!(SpanName: out.spans.name);
        clear!(Kind: out.spans.kind);
        clear!(SpanStart: out.spans.start_unix_nanos);
        clear!(SpanDuration: out.spans.duration_nanos);
        clear!(StatusCode: out.spans.status_code);
        clear!(StatusMessage: out.spans.status_message);
        clear!(EventName: out.events.name);
        clear!(EventTime: out.events.time_since_start_nanos);
        clear!(LinkTraceId: out.links.trace_id);
        clear!(LinkSpanId: out.links.span_id);
        if without(FetchColumn::EventOffsets) && without(FetchColumn::EventName) && without(FetchColumn::EventTime) {
            out.spans.events = Offsets::default();
        }
        if without(FetchColumn::LinkOffsets) && without(FetchColumn::LinkTraceId) && without(FetchColumn::LinkSpanId) {
            out.spans.links = Offsets::default();
        }
        for (attrs, keys) in [
            (&mut out.resources.attrs, &fetch.resource_attributes),
            (&mut out.scopes.attrs, &fetch.scope_attributes),
            (&mut out.spans.attrs, &fetch.span_attributes),
            (&mut out.events.attrs, &fetch.event_attributes),
            (&mut out.links.attrs, &fetch.link_attributes),
        ] {
            *attrs = project_attributes(&table.strings, attrs, keys);
        }
        out
    }

    fn project_attributes(strings: &crate::model::strings::StringPool, attrs: &Attrs, keys: &FetchKeys) -> Attrs {
        let mut out = Attrs::default();
        if keys.is_empty() {
            return out;
        }
        for owner in 0..attrs.of.len() {
            for (key, value) in attrs.of_owner(owner) {
                let kinds = match keys {
                    FetchKeys::All => Some(&FetchKinds::ALL),
                    FetchKeys::Only(keys) => keys.get(&*strings.text(key)),
                };
                let elements = attrs.elements_of(&value);
                if kinds.is_some_and(|kinds| elements.first().map_or(*kinds == FetchKinds::ALL, |element| is_of(kinds, element))) {
                    let value = if let Value::Array { .. } = value { out.array(elements.iter().copied()) } else { value };
                    out.push(key, value);
                }
            }
            out.close_owner();
        }
        out
    }

    fn is_of(kinds: &FetchKinds, value: &Value) -> bool {
        match value {
            Value::Str(_) => kinds.strings,
            Value::Int(_) => kinds.ints,
            Value::Double(_) => kinds.floats,
            Value::Bool(_) => kinds.bools,
            Value::Array { .. } | Value::Json(_) => false,
        }
    }

    /// Whether storage could tell from `table` alone that nothing in it matches.
    pub(super) fn may_be_skipped(table: &SpanTable, condition: &FetchCondition) -> bool {
        let attrs_of = |level: AttributeLevel| match level {
            AttributeLevel::Resource => &table.resources.attrs,
            AttributeLevel::Scope => &table.scopes.attrs,
            AttributeLevel::Span => &table.spans.attrs,
            AttributeLevel::Event => &table.events.attrs,
            AttributeLevel::Link => &table.links.attrs,
        };
        let in_attributes = |level: AttributeLevel, key: &str| {
            let attrs = attrs_of(level);
            let pairs = attrs.keys.iter().zip(&attrs.values).filter(|(id, _)| table.strings.text(**id) == key);
            pairs.flat_map(|(_, value)| if attrs.elements_of(value).is_empty() { vec![*value] } else { attrs.elements_of(value).to_vec() }).any(
                |value| match (&condition.test, value) {
                    (FetchTest::Present, _) => true,
                    (FetchTest::Strings(texts), Value::Str(id)) => texts.iter().any(|text| **text == table.strings.text(id)),
                    (FetchTest::Numbers(range), Value::Int(number)) => range.contains(&number),
                    (FetchTest::Numbers(range), Value::Double(number)) => {
                        let above = *range.start() == i64::MIN || *range.start() as f64 <= number;
                        above && (*range.end() == i64::MAX || number <= *range.end() as f64)
                    }
                    _ => false,
                },
            )
        };
        let has_text = |column: &[crate::model::strings::StrId]| match &condition.test {
            FetchTest::Strings(texts) => column.iter().any(|id| texts.iter().any(|text| **text == table.strings.text(*id))),
            _ => true,
        };
        let has_number = |numbers: Vec<i64>| match &condition.test {
            FetchTest::Numbers(range) => numbers.iter().any(|number| range.contains(number)),
            _ => true,
        };
        let nanos = |column: &[u64]| column.iter().map(|nanos| *nanos as i64).collect::<Vec<_>>();
        let ints = |column: &[i32]| column.iter().map(|number| i64::from(*number)).collect::<Vec<_>>();
        let passes = match &condition.target {
            FetchTarget::TraceId => match &condition.test {
                FetchTest::TraceIds(ids) => table.traces.ids.iter().any(|id| ids.contains(id)),
                _ => true,
            },
            FetchTarget::Attribute(level, key) => in_attributes(*level, key),
            FetchTarget::SpanOrResource(key) => {
                let in_column = &**key == "service.name" && has_text(&table.resources.service_name);
                in_column || in_attributes(AttributeLevel::Span, key) || in_attributes(AttributeLevel::Resource, key)
            }
            FetchTarget::Column(column) => match column {
                FetchColumn::TraceTimes => has_number(nanos(&table.traces.duration_nanos)),
                FetchColumn::RootServiceName => has_text(&table.traces.root_service_name),
                FetchColumn::RootSpanName => has_text(&table.traces.root_span_name),
                FetchColumn::ServiceName => has_text(&table.resources.service_name),
                FetchColumn::ScopeName => has_text(&table.scopes.name),
                FetchColumn::ScopeVersion => has_text(&table.scopes.version),
                FetchColumn::ChildCount => has_number(ints(&table.spans.child_count)),
                FetchColumn::SpanName => has_text(&table.spans.name),
                FetchColumn::Kind => has_number(ints(&table.spans.kind)),
                FetchColumn::SpanDuration => has_number(nanos(&table.spans.duration_nanos)),
                FetchColumn::StatusCode => has_number(ints(&table.spans.status_code)),
                FetchColumn::StatusMessage => has_text(&table.spans.status_message),
                FetchColumn::EventName => has_text(&table.events.name),
                FetchColumn::EventTime => has_number(nanos(&table.events.time_since_start_nanos)),
                other => panic!("no condition is made for {other:?}"),
            },
        };
        !passes
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
    let traces: Vec<TestTrace> =
        [(1, 30), (2, 10), (3, 20)].map(|(id, start)| TestTrace { id: TraceId([id; 16]), spans: (1..=5).map(|span_id| span(span_id, start)).collect() }).into();
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
