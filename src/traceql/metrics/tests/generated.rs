//! Generated queries over generated spans, spread over jobs and merges in any way: always the answer of the reference.

use proptest::prelude::*;

use super::reference::{Attr, Expr, Filter, Function, Second, Simple, evaluate};
use super::*;
use crate::model::ids::{SpanId, TraceId};
use crate::traceql::ast::{ArithmeticOp, ComparisonOp};
use crate::traceql::testing::metrics_examples::{same_series, series_texts};
use crate::traceql::testing::{TestAttributes, TestEvent, TestScope, TestSpan, TestTrace, TestValue, table_of};
use crate::traceql::types::Static;

const SECOND: u64 = 1_000_000_000;
/// Of all windows and spans.
const BASE: u64 = 1_000_000 * SECOND;

fn arb_value() -> impl Strategy<Value = TestValue> {
    let scalar = prop_oneof![
        prop::sample::select(vec!["", "a", "b"]).prop_map(|text| TestValue::Str(text.to_owned())),
        (-1_i64..9).prop_map(TestValue::Int),
        prop::sample::select(vec![-0.5, 0.0, 1.5]).prop_map(TestValue::Double),
        any::<bool>().prop_map(TestValue::Bool),
    ];
    let ints = prop::collection::vec(0_i64..9, 0..3).prop_map(|ints| TestValue::Array(ints.into_iter().map(TestValue::Int).collect()));
    prop_oneof![8 => scalar, 1 => ints, 1 => Just(TestValue::Bytes(vec![1]))]
}

fn arb_attributes() -> impl Strategy<Value = TestAttributes> {
    prop::collection::btree_map(prop::sample::select(vec!["k", "n"]), arb_value(), 0..3)
        .prop_map(|map| map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

prop_compose! {
    fn arb_span()(
        (mut resource, service) in (arb_attributes(), prop::option::of(prop::sample::select(vec!["shop", "cart", "nil"]))),
        (scope_name, scope_attributes) in (prop::sample::select(vec!["", "lib"]), arb_attributes()),
        name in prop::sample::select(vec!["a", "b", "x"]),
        (kind, status) in (0_i32..6, 0_i32..3),
        // on edges of intervals, and beside them
        (start_s, beside) in (0_u64..60, prop::sample::select(vec![0_u64, 1, SECOND - 1])),
        duration_nanos in prop::sample::select(vec![0_u64, 1, 2, 3, 4, 5, 1000]),
        attributes in arb_attributes(),
        events in prop::collection::vec((prop::sample::select(vec!["log", "exception"]), 0_u64..9), 0..3),
    ) -> TestSpan {
        resource.extend(service.map(|name| ("service.name".to_owned(), TestValue::Str(name.to_owned()))));
        let event = |(name, since_start_nanos): (&str, u64)| TestEvent { name: name.to_owned(), since_start_nanos, ..TestEvent::default() };
        TestSpan {
            resource,
            scope: TestScope { name: scope_name.to_owned(), version: String::new(), attributes: scope_attributes },
            name: name.to_owned(),
            kind,
            status,
            start_unix_nanos: BASE + start_s * SECOND + beside,
            duration_nanos,
            attributes,
            events: events.into_iter().map(event).collect(),
            ..TestSpan::default()
        }
    }
}

fn arb_traces() -> impl Strategy<Value = Vec<TestTrace>> {
    prop::collection::vec(prop::collection::vec(arb_span(), 1..7), 0..9).prop_map(|traces| {
        let mut next_span = 0_u64;
        let mut trace = |(at, spans): (usize, Vec<TestSpan>)| {
            let number = |span: TestSpan| {
                next_span += 1;
                TestSpan { id: SpanId(next_span.to_be_bytes()), ..span }
            };
            TestTrace { id: TraceId([at as u8 + 1; 16]), spans: spans.into_iter().map(number).collect() }
        };
        traces.into_iter().enumerate().map(&mut trace).collect()
    })
}

fn arb_window() -> impl Strategy<Value = Window> {
    let range = (0_u64..30, 1_u64..50, prop::sample::select(vec![1, 5, 7, 10, 100]), 0_u64..2)
        .prop_map(|(start, length, step, off)| Window::range(BASE + start * SECOND + off, BASE + (start + length) * SECOND, step * SECOND));
    let instant =
        (0_u64..30, 1_u64..50).prop_map(|(start, length)| Window::instant(BASE + start * SECOND, BASE + (start + length) * SECOND));
    prop_oneof![4 => range, 1 => instant]
}

fn arb_filter() -> impl Strategy<Value = Filter> {
    prop::sample::select(vec![
        Filter::All,
        Filter::All,
        Filter::Error,
        Filter::HasK,
        Filter::NamedAOrX,
        Filter::Long,
        Filter::MoreThanTwo,
        Filter::AAndX,
        Filter::TwoOfAName,
    ])
}

fn arb_measured() -> impl Strategy<Value = Attr> {
    prop::sample::select(vec![Attr::Duration, Attr::SpanN, Attr::AnyK, Attr::SpanK, Attr::EventTime, Attr::Name, Attr::ResourceK])
}

fn arb_by() -> impl Strategy<Value = Vec<Attr>> {
    let all = vec![
        Attr::Name,
        Attr::Kind,
        Attr::Status,
        Attr::Duration,
        Attr::Service,
        Attr::SpanK,
        Attr::AnyK,
        Attr::ResourceK,
        Attr::ScopeK,
        Attr::ScopeName,
        Attr::EventName,
    ];
    prop_oneof![2 => Just(Vec::new()), 5 => prop::sample::subsequence(all, 1..=3).prop_shuffle()]
}

fn arb_second() -> impl Strategy<Value = Second> {
    let op = prop::sample::select(vec![ComparisonOp::Eq, ComparisonOp::Ne, ComparisonOp::Lt, ComparisonOp::Ge, ComparisonOp::Gt]);
    prop_oneof![
        (1_usize..4).prop_map(Second::Top),
        (1_usize..4).prop_map(Second::Bottom),
        (op, prop::sample::select(vec![0.0, 1.0, 1.5])).prop_map(|(op, scalar)| Second::Keep(op, scalar)),
    ]
}

fn arb_function() -> impl Strategy<Value = Function> {
    let quantiles = prop::collection::vec(prop::sample::select(vec![0.0, 0.25, 0.5, 0.9, 1.0]), 1..3).prop_map(|mut quantiles| {
        quantiles.sort_by(f64::total_cmp);
        quantiles.dedup();
        quantiles
    });
    prop_oneof![
        2 => Just(Function::Count),
        2 => Just(Function::Rate),
        1 => arb_measured().prop_map(Function::Min),
        1 => arb_measured().prop_map(Function::Max),
        1 => arb_measured().prop_map(Function::Sum),
        1 => arb_measured().prop_map(Function::Avg),
        1 => arb_measured().prop_map(Function::Histogram),
        1 => (arb_measured(), quantiles).prop_map(|(attr, quantiles)| Function::Quantile(attr, quantiles)),
    ]
}

fn arb_simple() -> impl Strategy<Value = Simple> {
    (arb_filter(), arb_function(), arb_by(), prop::collection::vec(arb_second(), 0..3)).prop_map(|(filter, function, by, second)| {
        // sums of fractions depend on the order in the last digit, which ties would show
        let is_exact = matches!(function, Function::Count | Function::Rate | Function::Histogram(_) | Function::Min(_) | Function::Max(_));
        Simple { filter, function, by, second: if is_exact { second } else { Vec::new() } }
    })
}

fn arb_expr() -> impl Strategy<Value = Expr> {
    let op = || prop::sample::select(vec![ArithmeticOp::Add, ArithmeticOp::Sub, ArithmeticOp::Mul, ArithmeticOp::Div]);
    let simple = arb_simple().prop_map(Expr::Simple).boxed();
    let compare = (arb_filter(), arb_filter(), 1_usize..4).prop_map(|(filter, selection, top_n)| {
        // only filters are selections
        let selection = if selection.text().contains('|') && !selection.text().contains("||") || selection.text().contains("&&") {
            Filter::Error
        } else {
            selection
        };
        Expr::Simple(Simple { filter, function: Function::Compare(selection, top_n), by: Vec::new(), second: Vec::new() })
    });
    let scalar = || prop::sample::select(vec![0.0, 2.0, 0.5]);
    let arithmetic = simple.clone().prop_recursive(2, 4, 2, move |inner| {
        prop_oneof![
            3 => (op(), inner.clone(), inner.clone()).prop_map(|(op, a, b)| Expr::Binary(op, Box::new(a), Box::new(b))),
            1 => (op(), inner.clone(), scalar()).prop_map(|(op, a, b)| Expr::Right(op, Box::new(a), b)),
            1 => (op(), scalar(), inner).prop_map(|(op, a, b)| Expr::Left(op, a, Box::new(b))),
        ]
    });
    prop_oneof![4 => simple, 1 => compare, 2 => arithmetic]
}

/// Which job and which table of it each trace goes to, whether jobs read more than asked for, and what each is merged by.
type Spread = (Vec<(usize, usize)>, Vec<(bool, Option<usize>)>);

fn arb_spread() -> impl Strategy<Value = Spread> {
    let places = prop::collection::vec((0_usize..5, 0_usize..2), 9);
    let jobs = prop::collection::vec((any::<bool>(), prop::option::of(0_usize..2)), 5);
    (places, jobs)
}

fn spread(traces: &[TestTrace], window: Window, (places, jobs): &Spread) -> Vec<Job> {
    let table = |job: usize, table: usize| {
        let here = traces.iter().zip(places).filter(|(_, place)| **place == (job, table)).map(|(trace, _)| trace.clone());
        table_of(&here.collect::<Vec<_>>())
    };
    // as the frontend has it: a window that does not begin on an edge would get spans of before into its first interval
    let is_aligned = window.start.is_multiple_of(window.step);
    let job = |(index, (reads_more, merge)): (usize, &(bool, Option<usize>))| Job {
        tables: (0..2).map(|at| table(index, at)).collect(),
        window: if *reads_more && is_aligned { window.with_leading_step() } else { window },
        merge: *merge,
    };
    jobs.iter().enumerate().map(job).collect()
}

/// Labels that the reference does not know about.
fn is_known(labels: &str) -> bool {
    !["rootName", "rootServiceName", "span:childCount"].iter().any(|name| labels.contains(name))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(700))]

    #[test]
    fn answers_are_those_of_the_reference(expr in arb_expr(), traces in arb_traces(), window in arb_window(), how in arb_spread()) {
        let text = expr.text();
        let plan = plan(&text);
        let expected = evaluate(&expr, &traces, window);
        let options = FinalOptions { max_series: 0, exemplars: 0 };
        let whole = [Job { tables: vec![table_of(&traces)], window, merge: None }];
        for jobs in [&whole[..], &spread(&traces, window, &how)] {
            let found = answer(&plan, window, options, jobs);
            let mut described = series_texts(&found.series);
            described.retain(|(labels, _)| is_known(labels));
            prop_assert!(!found.partial);
            prop_assert!(same_series(&described, &expected), "{}\n   found {:?}\nexpected {:?}", text, described, expected);
        }
    }

    #[test]
    fn exemplars_belong_to_points(by in arb_by(), function in arb_function(), traces in arb_traces(), window in arb_window(), limit in 0_u32..12, how in arb_spread()) {
        let text = Simple { filter: Filter::All, function, by, second: Vec::new() }.text();
        let plan = plan(&text);
        let found = answer(&plan, window, FinalOptions { max_series: 0, exemplars: limit }, &spread(&traces, window, &how));
        let mut count = 0;
        for series in &found.series {
            for exemplar in &series.exemplars {
                count += 1;
                // the time is cut to milliseconds, and so may lie on the edge that the span is behind
                let nanos = exemplar.timestamp_ms as u64 * 1_000_000;
                let intervals = [nanos, nanos + 1].map(|nanos| window.interval_of(nanos).map(|interval| window.timestamp_ms(interval)));
                let sample = series.samples.iter().find(|sample| intervals.contains(&Some(sample.timestamp_ms)));
                prop_assert!(sample.is_some() && !exemplar.value.is_nan(), "{}: {:?} in {:?}", text, exemplar, series);
                let Some(Static::String(id)) = exemplar.labels.get(TRACE_ID_LABEL) else { panic!("an exemplar names its trace") };
                prop_assert!(traces.iter().any(|trace| trace.id.to_short_hex() == **id));
            }
        }
        prop_assert!(count <= limit as usize);
        prop_assert!(!window.instant || count == 0);
        // an exemplar of what a job read before the window may have taken the only place
        let reads_more = how.1.iter().any(|(reads_more, _)| *reads_more);
        if !window.instant && !reads_more && limit > 0 && text.starts_with("{} | count_over_time()") && traces.iter().flat_map(|trace| &trace.spans).any(|span| window.contains(span.start_unix_nanos)) {
            prop_assert!(count > 0, "{}", text);
        }
    }
}
