//! Generated queries on generated forests: whole pipelines against the row-by-row reference.
//!
//! `PROPTEST_CASES` sets the number of pairs of query and trace set.

use proptest::prelude::*;

use super::*;
use crate::traceql::ast::QueryBody;
use crate::traceql::engine::reference::pipeline::{Set, Split, search as reference_search};
use crate::traceql::testing::generated::{arb_forests, arb_query};

/// Pairs of query and trace set when the environment does not say.
const CASES: u32 = 2000;

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    ProptestConfig { cases, max_global_rejects: cases.saturating_mul(20), ..ProptestConfig::default() }
}

/// What the reference finds: per matching trace its place and sets.
fn expected(pipeline: &crate::traceql::ast::Pipeline, traces: &[TestTrace]) -> Result<Vec<(usize, Vec<Set>)>, Split> {
    let mut found = Vec::new();
    for (row, trace) in traces.iter().enumerate() {
        let sets = reference_search(pipeline, trace)?;
        if !sets.is_empty() {
            found.push((row, sets));
        }
    }
    Ok(found)
}

fn found(matches: Matches) -> Vec<(usize, Vec<Set>)> {
    let set_of = |set: MatchedSet| {
        assert_eq!(set.spans.len(), set.matched as usize);
        let attributes = set.attributes.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
        Set { spans: set.spans.into_iter().map(|span| span as usize).collect(), attributes }
    };
    matches.traces.into_iter().map(|trace| (trace.row, trace.span_sets.into_iter().map(set_of).collect())).collect()
}

fn evaluate_all(plan: &Plan, table: &SpanTable) -> Result<Matches, EngineError> {
    let cancelled = AtomicBool::new(false);
    evaluate(plan, table, EvaluateOptions { rows: None, spans_per_span_set: usize::MAX, cancelled: &cancelled })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn queries_find_what_the_reference_finds(text in arb_query(), traces in arb_forests()) {
        let query = compile(&text);
        prop_assume!(query.is_ok());
        let query = query.unwrap();
        let QueryBody::Search(pipeline) = &query.body else { unreachable!() };
        let table = table_of(&traces);
        let stored: Vec<SpanId> = traces.iter().flat_map(|trace| &trace.spans).map(|span| span.id).collect();
        prop_assert_eq!(&table.spans.span_id, &stored, "the reference knows the order of storage");
        let plan = Plan::new(&query).unwrap();
        match (evaluate_all(&plan, &table), expected(pipeline, &traces)) {
            (Ok(matches), Ok(expected)) => {
                // one trace at a time, as the smallest shards see them, and only what was asked for
                for (row, trace) in traces.iter().enumerate() {
                    let alone = projected::project(&table_of(std::slice::from_ref(trace)), plan.fetch());
                    let alone = evaluate_all(&plan, &alone).unwrap();
                    let of_row: Vec<MatchedTrace> = matches.traces.iter().filter(|found| found.row == row).cloned().collect();
                    prop_assert_eq!(alone.traces.into_iter().map(|trace| trace.span_sets).collect::<Vec<_>>(), of_row.into_iter().map(|trace| trace.span_sets).collect::<Vec<_>>(), "{} sharded", query);
                }
                for found in &matches.traces {
                    let alone = table_of(std::slice::from_ref(&traces[found.row]));
                    for condition in &plan.fetch().conditions {
                        prop_assert!(!projected::may_be_skipped(&alone, condition), "{} skips by {:?}", query, condition);
                    }
                }
                prop_assert_eq!(found(matches), expected, "{}", query);
            }
            (Err(EngineError::MultipleSpansets), Err(Split)) => {}
            (found, expected) => prop_assert!(false, "{}: found {:?}, expected {:?}", query, found, expected),
        }
    }

    #[test]
    fn printed_queries_read_back(text in arb_query()) {
        if let Ok(query) = crate::traceql::compile(&text) {
            prop_assert_eq!(crate::traceql::compile(&query.to_string()), Ok(query));
        }
    }
}

/// A trace of `count` spans, the first of which is the root.
fn shaped(count: usize, parent_of: impl Fn(usize) -> usize) -> SpanTable {
    let span = |at: usize| TestSpan {
        id: SpanId((at as u64 + 1).to_be_bytes()),
        parent: if at == 0 { SpanId::NONE } else { SpanId((parent_of(at) as u64 + 1).to_be_bytes()) },
        name: if at.is_multiple_of(2) { "a" } else { "b" }.to_owned(),
        start_unix_nanos: 1,
        attributes: vec![("request.id".to_owned(), TestValue::Int(at as i64))],
        ..TestSpan::default()
    };
    table_of(&[TestTrace { id: TraceId([1; 16]), spans: (0..count).map(span).collect() }])
}

/// Anything quadratic would take 10^10 steps here.
#[test]
fn huge_traces_of_any_shape_take_n_log_n() {
    const SPANS: usize = 100_000;
    let count = |table: &SpanTable, text: &str| {
        let cancelled = AtomicBool::new(false);
        let plan = Plan::new(&compile(text).unwrap()).unwrap();
        let matches = evaluate(&plan, table, EvaluateOptions { rows: None, spans_per_span_set: 1, cancelled: &cancelled }).unwrap();
        matches.traces.iter().flat_map(|trace| &trace.span_sets).map(|set| set.matched as usize).sum::<usize>()
    };
    let chain = shaped(SPANS, |at| at - 1);
    let star = shaped(SPANS, |_| 0);
    // twigs hang from a chain of half the spans
    let comb = shaped(SPANS, |at| if at <= SPANS / 2 { at - 1 } else { at - SPANS / 2 });
    for (operator, [of_chain, of_star, of_comb]) in [
        (">", [SPANS - 1; 3]),
        (">>", [SPANS - 1; 3]),
        ("<", [SPANS - 1, 1, SPANS / 2]),
        ("<<", [SPANS - 1, 1, SPANS / 2]),
        ("~", [0, SPANS - 1, SPANS - 2]),
        ("!>>", [1; 3]),
        ("!~", [SPANS, 1, 2]),
        ("&>", [SPANS; 3]),
        ("&>>", [SPANS; 3]),
        ("&<<", [SPANS; 3]),
        ("&~", [0, SPANS - 1, SPANS - 2]),
    ] {
        let query = format!("{{}} {operator} {{}}");
        assert_eq!([count(&chain, &query), count(&star, &query), count(&comb, &query)], [of_chain, of_star, of_comb], "{query}");
    }
    let all = ["{}"; 40].join(" >> ");
    assert_eq!([count(&chain, &all), count(&star, &all)], [SPANS - 39, 0]);
    assert_eq!(count(&comb, "({} && { name = `a` }) >> ({ name = `b` } || {})"), SPANS - 1);
    assert_eq!(count(&star, "{} | by(span.request.id)"), SPANS);
    assert_eq!(count(&star, "{} | by(span.request.id) | {} >> {}"), 0);
    let terms: Vec<String> = (0..1000).map(|term| format!("(span.request.id = {term} && name != `{term}`)")).collect();
    assert_eq!(count(&star, &format!("{{ {} }}", terms.join(" || "))), 1000);
}
