//! Generated traces and queries. Strategies are boxed: unboxed, their value trees fill the stack of a test.

use proptest::prelude::*;

use super::{TestAttributes, TestEvent, TestLink, TestScope, TestSpan, TestTrace, TestValue, table_of};
use crate::model::ids::{SpanId, TraceId};
use crate::model::span_table::SpanTable;

fn arb_scalar() -> BoxedStrategy<TestValue> {
    prop_oneof![
        prop::sample::select(vec!["", "a", "b", "ab", "x"]).prop_map(|text| TestValue::Str(text.to_owned())),
        (-1_i64..3).prop_map(TestValue::Int),
        prop::sample::select(vec![-0.5, 0.0, 1.0, 1.5]).prop_map(TestValue::Double),
        any::<bool>().prop_map(TestValue::Bool),
    ]
    .boxed()
}

fn arb_value() -> BoxedStrategy<TestValue> {
    let strings = prop::collection::vec(prop::sample::select(vec!["a", "b", "x"]), 0..4)
        .prop_map(|texts| TestValue::Array(texts.into_iter().map(|text| TestValue::Str(text.to_owned())).collect()));
    let ints = prop::collection::vec(0_i64..3, 1..4).prop_map(|ints| TestValue::Array(ints.into_iter().map(TestValue::Int).collect()));
    prop_oneof![8 => arb_scalar(), 1 => strings, 1 => ints, 1 => Just(TestValue::Bytes(vec![1, 255]))].boxed()
}

fn arb_attributes() -> BoxedStrategy<TestAttributes> {
    prop::collection::btree_map(prop::sample::select(vec!["k", "l", "m"]), arb_value(), 0..3)
        .prop_map(|map| map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
        .boxed()
}

fn arb_resource() -> BoxedStrategy<TestAttributes> {
    (arb_attributes(), prop::option::of(prop::sample::select(vec!["a", "shop"])))
        .prop_map(|(mut attributes, service)| {
            attributes.extend(service.map(|name| ("service.name".to_owned(), TestValue::Str(name.to_owned()))));
            attributes
        })
        .boxed()
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
        scope in arb_scope().boxed(),
        (name, status_message) in (prop::sample::select(vec!["a", "ab", "x"]), prop::sample::select(vec!["", "a"])),
        (kind, status) in (0_i32..6, 0_i32..3),
        (start, duration_nanos) in (1_u64..4, 0_u64..4),
        attributes in arb_attributes(),
        events in prop::collection::vec(arb_event().boxed(), 0..3),
        links in prop::collection::vec(arb_link().boxed(), 0..2),
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
            trace_state: String::new(),
            attributes,
            events,
            links,
        }
    }
}

/// Traces whose spans have ids unique in all of them.
pub(in crate::traceql) fn arb_traces() -> BoxedStrategy<Vec<TestTrace>> {
    prop::collection::vec(prop::collection::vec(arb_span().boxed(), 1..8), 1..6)
        .prop_map(|traces| {
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
        .boxed()
}

fn arb_attribute() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (prop::sample::select(vec![".", "span.", "resource.", "event.", "link.", "instrumentation."]), prop::sample::select(vec!["k", "l", "m", "none"]))
            .prop_map(|(scope, key)| format!("{scope}{key}")),
        1 => prop::sample::select(vec!["resource.service.name", ".service.name"]).prop_map(str::to_owned),
        1 => (prop::sample::select(vec!["parent.", "parent.span.", "parent.resource.", "root.", "root.span.", "root.resource."]), prop::sample::select(vec!["k", "l"]))
            .prop_map(|(scope, key)| format!("{scope}{key}")),
    ]
}

/// Comparisons spelled as words: lists, and parts of texts.
pub(in crate::traceql) fn arb_words() -> BoxedStrategy<String> {
    let texts = prop::sample::select(vec!["(`a`, `b`)", "[`x`, ``]", "(`ab`)"]);
    let numbers = prop::sample::select(vec!["(1, 2)", "[0]", "(1.5, 0.5)", "(-1, 7)", "(true)", "(1ns, 2ns)"]);
    let within = prop::sample::select(vec!["in", "not in"]);
    let part = prop::sample::select(vec!["contains", "icontains", "startswith", "istartswith", "endswith", "iendswith", "iequals"]);
    let text_attribute = prop_oneof![3 => arb_attribute(), 1 => prop::sample::select(vec!["name", "event:name", "rootName", "span:id"]).prop_map(str::to_owned)];
    prop_oneof![
        (text_attribute, within.clone(), texts).prop_map(|(a, op, list)| format!("({a} {op} {list})")),
        (arb_attribute(), within.clone(), numbers).prop_map(|(a, op, list)| format!("({a} {op} {list})")),
        (prop::sample::select(vec!["duration", "kind", "status"]), within).prop_map(|(a, op)| match a {
            "kind" => format!("(kind {op} (server, client))"),
            "status" => format!("(status {op} [error])"),
            _ => format!("(duration {op} (1ns, 3ns))"),
        }),
        (arb_attribute(), prop::sample::select(vec!["", "not "]), part, prop::sample::select(vec!["`a`", "`B`", "`x`", "``"]))
            .prop_map(|(a, not, op, text)| format!("({a} {not}{op} {text})")),
        (arb_attribute(), prop::sample::select(vec!["MATCH ANY", "MATCH NONE"]), prop::sample::select(vec!["[`a.*`, `x`]", "[`.*b`]"]))
            .prop_map(|(a, op, list)| format!("({a} {op} {list})")),
    ]
    .boxed()
}

fn arb_literal() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["`a`", "`b`", "``", "0", "1", "2", "1.0", "1.5", "true", "false", "1ns", "-1"]).prop_map(str::to_owned)
}

pub(in crate::traceql) fn arb_leaf() -> BoxedStrategy<String> {
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
        3 => arb_words(),
        2 => (arb_attribute(), comparison.clone(), arb_attribute()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
        1 => (arb_attribute(), prop::sample::select(vec!["+", "-", "*", "/", "%"]), arb_literal(), comparison, prop::sample::select(vec!["1", "0.5", "duration"]))
            .prop_map(|(a, op, b, cmp, c)| format!("({a} {op} {b} {cmp} {c})")),
    ].boxed()
}

pub(in crate::traceql) fn arb_filter() -> BoxedStrategy<String> {
    arb_leaf()
        .prop_recursive(4, 16, 3, |inner| {
            prop_oneof![
                3 => prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" && "))),
                3 => prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" || "))),
                1 => inner.clone().prop_map(|part| format!("(!{part})")),
                1 => (inner.clone(), inner).prop_map(|(a, b)| format!("({a} = {b})")),
            ]
        })
        .boxed()
}

/// Where a span stands: parent (0: root; beyond the trace: nobody), and whether it shares the id of the span before.
type Place = (usize, bool);

/// Turns lists of spans into forests: several roots, orphans, cycles, ids that two or three spans share.
pub(in crate::traceql) fn arb_forests() -> BoxedStrategy<Vec<TestTrace>> {
    let places = prop::collection::vec((0_usize..9, prop::bool::weighted(0.12)), 8);
    (arb_traces(), prop::collection::vec(places, 6))
        .prop_map(|(traces, places)| {
            traces.into_iter().zip(places).map(|(trace, places)| in_stored_order(forest(trace, &places))).collect()
        })
        .boxed()
}

fn forest(mut trace: TestTrace, places: &[Place]) -> TestTrace {
    let id_of = |number: usize| SpanId((number as u64).to_be_bytes());
    let count = trace.spans.len();
    for (at, (parent, shares_id)) in places.iter().copied().enumerate().take(count) {
        // mostly upwards, so that trees get deep
        let parent = if parent == 8 { count + 1 } else { parent % (at + 2) };
        let before = at.checked_sub(1).map(|before| trace.spans[before].id);
        let kind = trace.spans[at].kind;
        let is_taken = |id: SpanId| trace.spans[..at].iter().any(|span| span.id == id && span.kind == kind);
        let id = before.filter(|id| shares_id && !is_taken(*id)).unwrap_or(id_of(at + 1));
        let span = &mut trace.spans[at];
        (span.id, span.parent) = (id, if parent == 0 { SpanId::NONE } else { id_of(parent) });
    }
    trace
}

/// Orders spans as tables do: by resource, then by scope, each in order of first occurrence.
fn in_stored_order(trace: TestTrace) -> TestTrace {
    let spans = trace.spans.clone();
    let rank = |span: &TestSpan| {
        let has_resource = |other: &TestSpan| other.resource == span.resource;
        let same_scope = |a: &TestScope, b: &TestScope| (&a.name, &a.version, &a.attributes) == (&b.name, &b.version, &b.attributes);
        let resource = spans.iter().position(has_resource);
        (resource, spans.iter().position(|other| has_resource(other) && same_scope(&other.scope, &span.scope)))
    };
    let mut ordered = trace;
    ordered.spans.sort_by_key(rank);
    ordered
}

fn arb_structural_filter() -> BoxedStrategy<String> {
    prop_oneof![
        3 => Just("{}".to_owned()),
        6 => prop::sample::select(vec![
            "{ name = `a` }", "{ name =~ `a.*` }", "{ kind = server }", "{ kind != client }", "{ duration > 1 }", "{ .k = 1 }", "{ .k != nil }",
            "{ .l = `a` }", "{ span.k = nil }", "{ nestedSetParent = -1 }", "{ nestedSetLeft > 3 }", "{ span:childCount > 0 }",
            "{ resource.service.name = `shop` }", "{ status = error }", "{ false }", "{ parent.k = 1 }", "{ root.resource.service.name != `a` }", "{ parent.k = nil }", "{ parent.span.k >= root.k }", "{ name in (`a`, `x`) }", "{ .k not in (1, 2) }", "{ kind in (server, client) }", "{ name icontains `A` }", "{ .l not startswith `a` }", "{ parent.m + 1 > .m }", "{ parent.duration != nil || root.k }", "{ nestedSetRight - nestedSetLeft = 1 }",
        ])
        .prop_map(str::to_owned),
        1 => arb_filter().prop_map(|filter| format!("{{ {filter} }}")),
    ].boxed()
}

fn arb_operator() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["&&", "||", ">", ">>", "<", "<<", "~", "!>", "!>>", "!<", "!<<", "!~", "&>", "&>>", "&<", "&<<", "&~"])
}

fn arb_aggregate() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "count()",
        "count()",
        "avg(duration)",
        "max(.k)",
        "min(span.l)",
        "sum(.k)",
        "sum(duration)",
        "avg(.m)",
        "max(nestedSetLeft)",
        "min(.k + 1)",
        "count_distinct(.k)",
        "count_distinct(name)",
        "count_distinct(root.l)",
        "sum(parent.k)",
        "count_distinct(event.k)",
        "max(event:timeSinceStart)",
        "count_distinct(link.l)",
        "avg(span:childCount)",
    ])
}

fn arb_comparison() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="])
}

fn arb_stage() -> BoxedStrategy<String> {
    let number = prop::sample::select(vec!["0", "1", "2", "1.5", "-1", "2ns"]);
    prop_oneof![
        3 => arb_structural_filter(),
        3 => (arb_aggregate(), arb_comparison(), number.clone()).prop_map(|(a, op, n)| format!("{a} {op} {n}")),
        1 => (arb_aggregate(), arb_comparison(), arb_aggregate()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        1 => (arb_aggregate(), prop::sample::select(vec!["+", "-", "*", "/", "%"]), arb_aggregate(), arb_comparison(), number)
            .prop_map(|(a, plus, b, op, n)| format!("{n} {op} {a} {plus} {b}")),
        1 => (arb_aggregate(), arb_comparison(), arb_aggregate()).prop_map(|(a, op, b)| format!("({a} + 1) * 2 {op} {b} / 2 ^ 2")),
        2 => prop::sample::select(vec!["by(.k)", "by(name)", "by(nestedSetParent)", "by(kind = server)", "by(.l)", "by(parent.k)", "by(root.resource.l)", "by(event.k)", "by(link.l)", "by(status)", "by(.k + 1)"]).prop_map(str::to_owned),
        1 => Just("coalesce()".to_owned()),
        1 => prop::sample::select(vec!["select(span.l, kind)", "select(parent.k, event.k, link:spanID)", "select(name)"]).prop_map(str::to_owned),
        1 => (arb_structural_filter(), arb_operator(), arb_structural_filter(), arb_operator(), arb_structural_filter())
            .prop_map(|(a, one, b, two, c)| format!("{a} {one} {b} {two} {c}")),
        2 => (arb_structural_filter(), arb_operator(), arb_structural_filter()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
    ].boxed()
}

/// Operands stand in parentheses, so that wrapped pipelines may stand beside them.
fn arb_spansets() -> BoxedStrategy<String> {
    arb_structural_filter()
        .prop_recursive(4, 12, 2, |inner| {
            prop_oneof![
                6 => (inner.clone(), arb_operator(), inner.clone()).prop_map(|(a, op, b)| format!("({a}) {op} ({b})")),
                2 => (inner.clone(), arb_stage()).prop_map(|(a, stage)| format!("{a} | {stage}")),
                1 => (inner, arb_stage(), arb_stage()).prop_map(|(a, one, two)| format!("{a} | {one} | {two}")),
            ]
        })
        .boxed()
}

pub(crate) fn arb_query() -> BoxedStrategy<String> {
    let scalar = |(pipeline, aggregate): (String, &str)| format!("({pipeline} | {aggregate})");
    let pipeline_scalar = (arb_spansets(), arb_aggregate()).prop_map(scalar).boxed();
    prop_oneof![
        6 => (arb_spansets(), prop::collection::vec(arb_stage(), 0..4)).prop_map(|(first, stages)| {
            std::iter::once(first).chain(stages).collect::<Vec<_>>().join(" | ")
        }),
        1 => (pipeline_scalar.clone(), arb_comparison(), prop::sample::select(vec!["0", "1", "2", "1ns"])).prop_map(|(a, op, n)| format!("{a} {op} {n}")),
        1 => (pipeline_scalar.clone(), arb_comparison(), pipeline_scalar.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        1 => (pipeline_scalar.clone(), pipeline_scalar, arb_comparison()).prop_map(|(a, b, op)| format!("({a} + {b}) {op} {a}")),
    ].boxed()
}

/// Forests, each trace in a table of its own.
pub(crate) fn arb_tables() -> impl Strategy<Value = Vec<SpanTable>> {
    arb_forests().prop_map(|traces| traces.iter().map(|trace| table_of(std::slice::from_ref(trace))).collect())
}
