//! Generated filters: the engine against the row-by-row reference, and laws about tables and projections.

use proptest::prelude::*;

use crate::traceql::ast::{QueryBody, SpansetExpr, Stage};

use super::*;
use crate::traceql::engine::reference;
use crate::traceql::testing::generated::{arb_filter, arb_leaf, arb_traces, arb_words};

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
    fn generated_words_are_queries(words in arb_words()) {
        prop_assert!(compile(&format!("{{ {words} }}")).is_ok(), "{}", words);
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
        if seen.is_multiple_of(2) {
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
