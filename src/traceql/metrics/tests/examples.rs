//! The metrics examples of `testdata/traceql/examples.yaml`, over one table and over many.

use serde_norway::Value as Yaml;

use super::*;
use crate::model::ids::{SpanId, TraceId};
use crate::model::strings::StrId;
use crate::traceql::testing::{TestAttributes, TestEvent, TestScope, TestSpan, TestTrace, TestValue, table_of};
use crate::traceql::types::{Kind, Status};

const EXAMPLES: &str = include_str!("../../../../testdata/traceql/examples.yaml");
const NANOS_PER_SECOND: f64 = 1e9;

/// Examples with a metrics verdict.
const EXPECTED_RUNS: usize = 55;

/// Verdicts that are defects of the compatible system, with the answers given here.
const BETTER_ANSWERS: &[(&str, &str)] = &[
    // a span without the attribute leaves a sum alone
    ("metrics-340", r#"[{labels: "{__name__=\"sum_over_time\"}", samples: {20: 13}}]"#),
];

/// An attribute that a condition names is counted once: (example, label text, what the compatible system says, what is said here).
const COUNTED_TWICE: (&str, &str, f64, f64) = ("metrics-348", "name=", 2.0, 1.0);

#[test]
fn examples_give_their_verdicts() {
    let document: Yaml = serde_norway::from_str(EXAMPLES).unwrap();
    let traces = fixture(&document["fixture"]);
    let t0 = document["fixture"]["t0_unix_seconds"].as_u64().unwrap();
    let (mut runs, mut skipped, mut failures) = (0, Vec::new(), Vec::new());
    for example in document["examples"].as_sequence().unwrap() {
        let (id, Some(_)) = (example["id"].as_str().unwrap(), example.get("series")) else { continue };
        let query = compile(example["query"].as_str().unwrap()).unwrap();
        let plan = match MetricsPlan::new(&query) {
            Ok(plan) => plan,
            Err(error) => {
                skipped.push(format!("{id}: {error}"));
                continue;
            }
        };
        runs += 1;
        let window = window_of(example, t0);
        let expected = verdict(id, example, t0);
        for job_count in [1, 3, 17] {
            let jobs = jobs(&traces, window, job_count);
            let found = answer(&plan, window, FinalOptions { max_series: 0, exemplars: 0 }, &jobs);
            assert!(found.series.is_sorted_by(|a, b| a.labels.response_order(&b.labels).is_lt()), "{id}");
            let mut described = described(&found.series);
            described.sort_by(|a, b| a.0.cmp(&b.0));
            if found.partial || !same_to_twelve_digits(&described, &expected) {
                failures.push(format!("{id} {query} in {job_count} jobs\n   found {described:?}\nexpected {expected:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(runs + skipped.len(), EXPECTED_RUNS, "skipped {skipped:?}");
}

fn same_to_twelve_digits(a: &[(String, Vec<(i64, f64)>)], b: &[(String, Vec<(i64, f64)>)]) -> bool {
    let rounded = |all: &[(String, Vec<(i64, f64)>)]| {
        let round = |(ms, value): &(i64, f64)| (*ms, (value * 1e11).round() / 1e11);
        all.iter().map(|(labels, samples)| (labels.clone(), samples.iter().map(round).collect())).collect::<Vec<_>>()
    };
    same(&rounded(a), &rounded(b))
}

fn jobs(traces: &[TestTrace], window: Window, count: usize) -> Vec<Job> {
    let job = |job: usize| {
        let of_job: Vec<TestTrace> =
            traces.iter().enumerate().filter(|(at, _)| at % count == job).map(|(_, trace)| trace.clone()).collect();
        Job { tables: vec![with_trace_state(&of_job)], window, merge: (job % 2 == 1).then_some(job % 3) }
    };
    (0..count).map(job).collect()
}

/// The only span of the fixture with a trace state.
fn with_trace_state(traces: &[TestTrace]) -> SpanTable {
    let mut table = table_of(traces);
    let sampled = SpanId(*b"\xb2\0\0\0\0\0\0\x02");
    if let Some(span) = table.spans.span_id.iter().position(|id| *id == sampled) {
        let state: StrId = table.strings.push(b"ot=th:8");
        table.spans.trace_state[span] = state;
    }
    table
}

fn window_of(example: &Yaml, t0: u64) -> Window {
    let seconds = |key: &str, default: u64| example.get("request").map_or(default, |request| request[key].as_u64().unwrap());
    let nanos = |seconds: u64| (t0 + seconds) * 1_000_000_000;
    let (start, end, step) = (nanos(seconds("start", 0)), nanos(seconds("end", 60)), seconds("step", 20) * 1_000_000_000);
    let instant = example.get("request").is_some_and(|request| request["type"] == "instant");
    Window { start, end, step, instant }
}

fn verdict(id: &str, example: &Yaml, t0: u64) -> Vec<(String, Vec<(i64, f64)>)> {
    let better = BETTER_ANSWERS.iter().find(|(better, _)| *better == id).map(|(_, answer)| serde_norway::from_str::<Yaml>(answer).unwrap());
    let series = better.as_ref().unwrap_or(&example["series"]);
    let (twice_id, twice_label, wrong, right) = COUNTED_TWICE;
    let mut expected: Vec<(String, Vec<(i64, f64)>)> = Vec::new();
    for series in series.as_sequence().unwrap() {
        let labels = series["labels"].as_str().unwrap().to_owned();
        let mut samples: Vec<(i64, f64)> = series["samples"]
            .as_mapping()
            .unwrap()
            .iter()
            .map(|(second, value)| ((t0 + second.as_u64().unwrap()) as i64 * 1_000, value.as_f64().unwrap()))
            .collect();
        if id == twice_id && labels.contains(&format!(", {twice_label}")) {
            samples.iter_mut().filter(|(_, value)| *value == wrong).for_each(|(_, value)| *value = right);
        }
        expected.push((labels, samples));
    }
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    expected
}

fn fixture(fixture: &Yaml) -> Vec<TestTrace> {
    let t0 = fixture["t0_unix_seconds"].as_u64().unwrap() * 1_000_000_000;
    let trace = |trace: &Yaml| TestTrace {
        id: TraceId::from_hex(trace["trace_id"].as_str().unwrap()).unwrap(),
        spans: trace["spans"].as_sequence().unwrap().iter().map(|span| fixture_span(fixture, span, t0)).collect(),
    };
    fixture["traces"].as_sequence().unwrap().iter().map(trace).collect()
}

fn fixture_span(fixture: &Yaml, span: &Yaml, t0: u64) -> TestSpan {
    let text = |key: &str| span.get(key).and_then(Yaml::as_str).unwrap_or("").to_owned();
    let id = |key: &str| u64::from_str_radix(&text(key), 16).map_or(SpanId::NONE, |id| SpanId(id.to_be_bytes()));
    let scope = &fixture["scopes"][text("scope").as_str()];
    let events = span.get("events").and_then(Yaml::as_sequence).cloned().unwrap_or_default();
    let kinds = [Kind::Internal, Kind::Client, Kind::Server, Kind::Producer, Kind::Consumer];
    let statuses = [Status::Error, Status::Ok, Status::Unset];
    TestSpan {
        id: id("id"),
        parent: id("parent"),
        resource: attributes(&fixture["resources"][text("resource").as_str()]),
        scope: TestScope {
            name: scope["name"].as_str().unwrap().to_owned(),
            version: scope["version"].as_str().unwrap().to_owned(),
            attributes: attributes(&scope["attrs"]),
        },
        name: text("name"),
        kind: kinds.into_iter().find(|kind| kind.as_str() == text("kind")).unwrap().to_otlp(),
        status: statuses.into_iter().find(|status| status.as_str() == text("status")).unwrap().to_otlp(),
        status_message: text("message"),
        start_unix_nanos: t0 + (span["start_s"].as_f64().unwrap() * NANOS_PER_SECOND).round() as u64,
        duration_nanos: span["dur_ms"].as_u64().unwrap() * 1_000_000,
        attributes: attributes(&span["attrs"]),
        events: events
            .iter()
            .map(|event| TestEvent {
                name: event["name"].as_str().unwrap().to_owned(),
                since_start_nanos: event["at_ms"].as_u64().unwrap() * 1_000_000,
                attributes: attributes(&event["attrs"]),
            })
            .collect(),
        ..TestSpan::default()
    }
}

fn attributes(mapping: &Yaml) -> TestAttributes {
    mapping.as_mapping().unwrap().iter().map(|(key, value)| (key.as_str().unwrap().to_owned(), test_value(value))).collect()
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
