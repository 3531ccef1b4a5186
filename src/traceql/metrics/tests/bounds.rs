//! What happens at limits: of series, memory and windows; sampling; numbers that are none.

use super::*;
use crate::model::ids::{SpanId, TraceId};
use crate::model::span_table::Value;
use crate::traceql::testing::{TestSpan, TestTrace, TestValue, table_of};

const SECOND: u64 = 1_000_000_000;

/// Traces of one span each, a second apart, with a number and a name of its own.
fn numbered(range: std::ops::Range<u64>) -> Vec<TestTrace> {
    let trace = |n: u64| {
        let mut id = [1; 16];
        id[8..].copy_from_slice(&n.to_be_bytes());
        let attributes = vec![("n".to_owned(), TestValue::Int(n as i64)), ("id".to_owned(), TestValue::Str(format!("id-{n:06}")))];
        let span = TestSpan { id: SpanId((n + 1).to_be_bytes()), start_unix_nanos: n * SECOND, attributes, ..TestSpan::default() };
        TestTrace { id: TraceId(id), spans: vec![span] }
    };
    range.map(trace).collect()
}

fn job(traces: &[TestTrace], window: Window) -> Job {
    Job { tables: traces.chunks(100).map(table_of).collect(), window, merge: None }
}

#[test]
fn series_are_limited_and_the_first_stay() {
    let window = Window::range(1, 2_000 * SECOND, 100 * SECOND);
    let jobs = [job(&numbered(0..1_000), window), job(&numbered(1_000..2_000), window)];
    let by_id = plan("{} | count_over_time() by (span.id)");
    let options = FinalOptions { max_series: 50, exemplars: 0 };
    let found = answer(&by_id, window, options, &jobs);
    assert_eq!((found.series.len(), found.partial), (50, true));
    assert_eq!(
        found.message.unwrap(),
        "Response exceeds maximum series limit of 50, a partial response is returned. Warning: the accuracy of each individual value is not guaranteed."
    );
    assert_eq!(found.series[0].labels.to_string(), r#"{"span.id"="id-000001"}"#);
    // a job ends early
    let set = raw(&by_id, JobOptions { window, exemplars: 0, max_series: 50 }, &jobs[0].tables);
    assert_eq!((set.series.len(), set.partial), (50, true));
    // just as many is not too many
    let few = answer(&by_id, window, FinalOptions { max_series: 1_999, exemplars: 0 }, &jobs);
    assert_eq!((few.series.len(), few.partial, few.message), (1_999, false, None));
    // a choice of few among many is made among all of them
    let top = answer(&plan("{} | max_over_time(span.n) by (span.id) | topk(1)"), Window::instant(1, 2_000 * SECOND), options, &jobs);
    assert_eq!((top.series.len(), top.partial), (1, false));
    assert_eq!(top.series[0].samples[0].value, 1_999.0);
}

#[test]
fn merging_in_any_order_keeps_the_same_series() {
    let window = Window::range(1, 300 * SECOND, 100 * SECOND);
    let by_id = plan("{} | count_over_time() by (span.id)");
    let sets: Vec<SeriesSet> = (0..6)
        .map(|part| raw(&by_id, JobOptions { window, exemplars: 0, max_series: 0 }, &[table_of(&numbered(part * 50..part * 50 + 50))]))
        .collect();
    let merged = |order: [usize; 6]| {
        let mut sum = SumStage::new(&by_id, JobOptions { window, exemplars: 0, max_series: 20 }).unwrap();
        order.iter().for_each(|at| sum.add(sets[*at].clone()));
        sum.finish()
    };
    let first = merged([0, 1, 2, 3, 4, 5]);
    assert_eq!((first.series.len(), first.partial), (20, true));
    assert_eq!(merged([5, 3, 1, 4, 2, 0]), first);
}

#[test]
fn memory_is_limited() {
    // a million intervals: each series has an index of 62 kB
    let window = Window::range(1, 3_000 * SECOND, 3_000_000);
    assert_eq!(window.intervals(), MAX_INTERVALS);
    let jobs = [job(&numbered(0..3_000), window)];
    let set = raw(&plan("{} | count_over_time() by (span.id)"), JobOptions { window, exemplars: 0, max_series: 0 }, &jobs[0].tables);
    assert!(set.series.len() < 2_500 && set.series.len() > 1_500, "{}", set.series.len());
    assert!(set.partial);
    let found = answer(&plan("{} | count_over_time() by (span.id)"), window, FinalOptions { max_series: 0, exemplars: 0 }, &jobs);
    assert_eq!((found.series.len(), found.partial), (MAX_STATE_BYTES / (8 * MAX_INTERVALS), true));
    assert!(found.message.unwrap().starts_with("Response exceeds maximum memory limit of 128 MiB, a partial response"));
    let too_fine = Window::range(1, 2_000 * SECOND, 1);
    let options = JobOptions { window: too_fine, exemplars: 0, max_series: 0 };
    let refused = RawMetrics::new(&plan("{} | rate()"), options).map(|_| ()).unwrap_err();
    assert_eq!(refused.to_string(), "step is too small: a query may have 1000000 intervals");
}

/// Decoded tables may name a text by several ids, here by one of its own for each span.
#[test]
fn compare_counts_texts_whatever_their_ids() {
    let span = |n: u64| {
        // text i occurs i times, so that the frequent ones of a hundred are known
        let text = (0..100).find(|i| n < i * (i + 1) / 2).unwrap_or(100);
        let attributes = ["k", "other"].map(|key| (key.to_owned(), TestValue::Str(format!("text {text}")))).to_vec();
        TestSpan { id: SpanId((n + 1).to_be_bytes()), start_unix_nanos: 5 * SECOND, attributes, ..TestSpan::default() }
    };
    let table = table_of(&[TestTrace { id: TraceId([1; 16]), spans: (0..5_050).map(span).collect() }]);
    let renamed = |first: usize| {
        let mut renamed = table.clone();
        for value in &mut renamed.spans.attrs.values[first..] {
            if let Value::Str(id) = value {
                *id = renamed.strings.push(table.strings.get(*id));
            }
        }
        renamed
    };
    let window = Window::instant(SECOND, 10 * SECOND);
    let series = |table: SpanTable| {
        let set = raw(&plan("{} | compare({ span.k = `text 7` }, 5)"), JobOptions { window, exemplars: 0, max_series: 0 }, &[table]);
        let mut series: Vec<_> = set.series.iter().map(|series| format!("{:?} {:?}", series.labels, series.samples)).collect();
        series.sort();
        series
    };
    let expected = series(table.clone());
    assert!(expected.iter().any(|series| series.contains("text 99")) && !expected.iter().any(|series| series.contains("text 30")));
    for first in [0, 1, 5_000] {
        assert_eq!(series(renamed(first)), expected, "{first}");
    }
}

#[test]
fn compare_counts_the_same_in_one_walk_or_two() {
    let trace = |id: u8, second: u64| {
        let span = |n: u64| TestSpan {
            id: SpanId((n + 1).to_be_bytes()),
            start_unix_nanos: second * SECOND,
            attributes: vec![("k".to_owned(), TestValue::Str(format!("text {}", n % 7)))],
            ..TestSpan::default()
        };
        TestTrace { id: TraceId([id; 16]), spans: (0..20).map(span).collect() }
    };
    let (near, far) = (trace(1, 5), trace(2, 500_000));
    let window = Window::range(SECOND, 600_000 * SECOND, SECOND);
    let series = |tables: &[SpanTable]| {
        let set = raw(&plan("{} | compare({ span.k = `text 3` }, 5)"), JobOptions { window, exemplars: 0, max_series: 0 }, tables);
        let mut series: Vec<_> = set.series.iter().map(|series| format!("{:?} {:?}", series.labels, series.samples)).collect();
        series.sort();
        series
    };
    let apart = series(&[table_of(std::slice::from_ref(&near)), table_of(std::slice::from_ref(&far))]);
    assert!(apart.iter().any(|series| series.contains("text 6")), "{apart:?}");
    // So far apart that no value has room for what it counts in each interval between.
    assert_eq!(series(&[table_of(&[near, far])]), apart);
}

#[test]
fn absurd_windows_have_no_points() {
    let table = [table_of(&numbered(0..5))];
    for (start, end, step, instant) in
        [(0, 0, 0, false), (9, 5, 1, false), (u64::MAX, u64::MAX, 1, true), (u64::MAX - 1, u64::MAX, u64::MAX, false), (1, 5, 0, false)]
    {
        let window = Window { start, end, step, instant };
        for query in
            ["{} | rate() by (name)", "{} | quantile_over_time(duration, .5)", "{} | avg_over_time(span.n)", "{} | compare({ name = `x` })"]
        {
            let jobs = [Job { tables: table.to_vec(), window, merge: Some(0) }];
            let found = answer(&plan(query), window, FinalOptions { max_series: 1, exemplars: 5 }, &jobs);
            assert_eq!(found.series, [], "{query} {window:?}");
        }
    }
}

#[test]
fn infinite_and_missing_numbers() {
    let value = |n: u64, value: f64| {
        let attributes = vec![("v".to_owned(), TestValue::Double(value))];
        TestSpan { id: SpanId([n as u8; 8]), start_unix_nanos: 5 * SECOND + n, attributes, ..TestSpan::default() }
    };
    let window = Window::instant(SECOND, 10 * SECOND);
    let of = |query: &str, values: &[f64]| {
        let spans = values.iter().enumerate().map(|(n, v)| value(n as u64 + 1, *v)).collect();
        let traces = [TestTrace { id: TraceId([1; 16]), spans }];
        let jobs = [job(&traces, window), job(&[], window)];
        let found = answer(&plan(query), window, FinalOptions { max_series: 0, exemplars: 0 }, &jobs);
        found.series.first().map(|series| series.samples[0].value)
    };
    let inf = f64::INFINITY;
    for (query, values, expected) in [
        ("{} | sum_over_time(span.v)", &[1.0, inf, 2.0][..], Some(inf)),
        ("{} | avg_over_time(span.v)", &[1.0, inf, 2.0], Some(inf)),
        ("{} | avg_over_time(span.v)", &[1.0, f64::NAN, 2.0], Some(1.5)),
        ("{} | sum_over_time(span.v)", &[f64::NAN], None),
        ("{} | sum_over_time(span.v)", &[inf, -inf], None),
        ("{} | min_over_time(span.v)", &[f64::NAN, -inf, 0.0], Some(-inf)),
        ("{} | sum_over_time(span.v)", &[1e16, 1.0, -1e16], Some(1.0)),
        ("{} | count_over_time()", &[f64::NAN, inf], Some(2.0)),
    ] {
        assert_eq!(of(query, values), expected, "{query} of {values:?}");
    }
}

#[test]
fn samples_stand_for_what_is_left_out() {
    let window = Window::instant(1, 20_000 * SECOND);
    let jobs = [job(&numbered(1..1_001), window)];
    let value = |query: &str| answer(&plan(query), window, FinalOptions { max_series: 0, exemplars: 0 }, &jobs).series[0].samples[0].value;
    assert_eq!(value("{} | count_over_time() with (sample=0.1)"), 1_000.0);
    assert_eq!(value("{} | count_over_time() with (trace_sample=0.25)"), 1_000.0);
    assert_eq!(value("{} | max_over_time(span.n) with (sample=0.5)"), 999.0);
    assert_eq!(value("{} | avg_over_time(span.n) with (span_sample=0.5)"), 500.0);
    // what is rare is looked for everywhere
    assert_eq!(value("{ span.n = 777 } | count_over_time() with (sample=true)"), 1.0);
    let all = value("{} | count_over_time() with (sample=true)");
    assert!((all - 1_000.0).abs() < 50.0, "{all}");
}

#[test]
fn plans_know_what_they_need() {
    assert!(plan("{ false } | rate()").is_noop());
    assert_eq!(plan("{} | rate() with (exemplars=7)").exemplars_hint(), Some(7));
    assert_eq!(plan("{} | rate() with (exemplars=false)").exemplars_hint(), Some(0));
    assert_eq!(plan("{} | rate() with (exemplars=true)").exemplars_hint(), None);
    assert!(plan("{} | count() > 2 | rate()").needs_whole_traces());
    assert!(!plan("{} | by(name) | rate()").needs_whole_traces());
    let search = MetricsPlan::new(&compile("{}").unwrap()).map(|_| ()).unwrap_err();
    assert_eq!(search.to_string(), "not a metrics query");
    let window = Window::range(1, 10 * SECOND, SECOND);
    let found = answer(&plan("{ false } | rate()"), window, FinalOptions { max_series: 0, exemplars: 0 }, &[job(&numbered(0..5), window)]);
    assert_eq!(found, FinalResult::default());
    let both = plan("({ status = error } | rate()) / ({ span.n > 3 } | rate())");
    assert!(both.fetch().conditions.is_empty());
    assert!(!plan("({ span.n > 3 } | rate()) / ({ span.n > 3 } | count_over_time())").fetch().conditions.is_empty());
}
