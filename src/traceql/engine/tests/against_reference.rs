//! Generated filters and traces: the engine against the row-by-row reference, and laws about tables and projections.

use proptest::prelude::*;

use crate::traceql::ast::{QueryBody, SpansetExpr, Stage};

use super::*;
use crate::traceql::engine::reference;

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
        "name",
        "statusMessage",
        "rootName",
        "rootServiceName",
        "event:name",
        "instrumentation:name",
        "instrumentation:version",
        "trace:id",
        "span:id",
        "span:parentID",
        "link:spanID",
        "link:traceID",
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
