//! The metrics examples of `testdata/traceql/examples.yaml`, over one table and over many.

use serde_norway::Value as Yaml;

use super::*;
use crate::model::ids::SpanId;
use crate::traceql::testing::examples::search_examples;

const EXAMPLES: &str = include_str!("../../../../testdata/traceql/examples.yaml");

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
    let (fixture, _) = search_examples();
    let whole = vec![with_trace_state(fixture.table())];
    let traces: Vec<SpanTable> = fixture.table_per_trace().into_iter().map(with_trace_state).collect();
    let t0: u64 = document["fixture"]["t0_unix_seconds"].as_u64().unwrap();
    let (mut runs, mut failures) = (0, Vec::new());
    for example in document["examples"].as_sequence().unwrap() {
        let (id, Some(_)) = (example["id"].as_str().unwrap(), example.get("series")) else { continue };
        let query = compile(example["query"].as_str().unwrap()).unwrap();
        let plan = MetricsPlan::new(&query).unwrap();
        runs += 1;
        let window = window_of(example, t0);
        let expected = verdict(id, example, t0);
        for job_count in [1, 3, 17] {
            let jobs = jobs(if job_count == 1 { &whole } else { &traces }, window, job_count);
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
    assert_eq!(runs, EXPECTED_RUNS);
}

fn same_to_twelve_digits(a: &[(String, Vec<(i64, f64)>)], b: &[(String, Vec<(i64, f64)>)]) -> bool {
    let rounded = |all: &[(String, Vec<(i64, f64)>)]| {
        let round = |(ms, value): &(i64, f64)| (*ms, (value * 1e11).round() / 1e11);
        all.iter().map(|(labels, samples)| (labels.clone(), samples.iter().map(round).collect())).collect::<Vec<_>>()
    };
    same(&rounded(a), &rounded(b))
}

fn jobs(tables: &[SpanTable], window: Window, count: usize) -> Vec<Job> {
    let job = |job: usize| {
        let of_job = tables.iter().enumerate().filter(|(at, _)| at % count == job).map(|(_, table)| table.clone()).collect();
        Job { tables: of_job, window, merge: (job % 2 == 1).then_some(job % 3) }
    };
    (0..count).map(job).collect()
}

/// Adds what the fixture's builder leaves out: the only trace state.
fn with_trace_state(mut table: SpanTable) -> SpanTable {
    let sampled = SpanId(*b"\xb2\0\0\0\0\0\0\x02");
    if let Some(span) = table.spans.span_id.iter().position(|id| *id == sampled) {
        table.spans.trace_state[span] = table.strings.push(b"ot=th:8");
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
