//! The examples of the language run on tables, and the engine against the row-by-row reference.

use std::sync::atomic::AtomicBool;

use crate::base::bitset::Bitset;
use crate::model::ids::{SpanId, TraceId};
use crate::model::span_table::SpanTable;
use crate::traceql::order::SearchOrder;
use crate::traceql::result::TraceHit;
use crate::traceql::testing::examples::{SearchExample, search_examples};
use crate::traceql::testing::{TestSpan, TestTrace, TestValue, table_of};

use super::*;

mod against_reference;
mod generated_queries;
mod projected;

#[test]
fn examples_give_their_verdicts() {
    let (fixture, examples) = search_examples();
    let table = fixture.table();
    let check = |example: &SearchExample| {
        let plan = Plan::new(&compile(&example.query).map_err(|error| format!("{} {error}", example.id))?).unwrap();
        example.check(&fixture, &search(&plan, &table, example.spans_per_span_set).unwrap())
    };
    let failures: Vec<String> = examples.iter().filter_map(|example| check(example).err()).collect();
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), examples.len(), failures.join("\n"));
}

#[test]
fn extensions_find_their_spans() {
    let (fixture, _) = search_examples();
    let table = fixture.table();
    const A: &str = "a1 a2 a3 a4 a5";
    for (query, expected) in [
        // ids in any form
        ("{ trace:id = `000000A11CE00000000000000000000000001` }", A),
        ("{ trace:id = `a11ce00000000000000000000000001` && trace:id != `C0ffee00000000000000000000000003` }", A),
        ("{ trace:id in (`0A11CE00000000000000000000000001`, `ff`) }", A),
        ("{ trace:id not in (`0A11CE00000000000000000000000001`, `00C0FFEE00000000000000000000000003`) }", "b1 b2 b3"),
        ("{ span:id in (`A100000000000001`, `c100000000000001`) || span:parentID = `A400000000000004` }", "a1 a5 c1"),
        ("{ link:traceID = `0B0B0000000000000000000000000002` }", "a1"),
        // lists
        ("{ name in (`load`, `save`) }", "a2 a3"),
        ("{ name NOT IN [`load`, `save`] && trace:rootName contains `cart` }", "a1 a4 a5"),
        ("{ kind in (server, producer) }", "a1 b1 b2"),
        ("{ duration not in (1s, 2s, 300ms) && kind = client }", "a4 b3"),
        ("{ span.http.status_code in (200, 503) }", "a1 b1 b2"),
        ("{ span.http.status_code not in (200, 503) }", "a2"),
        ("{ span.http.status_code - 1 in (199, -1) }", "a1 b2"),
        ("{ name MATCH ANY [`lo.*`, `.*ch`] }", "a2 a5"),
        // parts of texts
        ("{ name icontains `GET` }", "a1"),
        ("{ name contains `/` }", "a1 b1"),
        ("{ name startswith `s` }", "a3"),
        ("{ name istartswith `s` }", "a3 a4"),
        ("{ name endswith `t` || name iequals `select` }", "a1 a4"),
        ("{ span.http.method not contains `OS` }", "a1"),
        ("{ name contains `.` }", ""),
        // relatives
        ("{ parent.foo = `bar` }", "a2 a3 a5 b2 b3"),
        ("{ parent.resource.service.name != resource.service.name }", "a2 a3 a4 b3"),
        ("{ root.span.http.method = `GET` }", A),
        ("{ parent.foo = nil }", "a1 b1 c1"),
        ("{ root.foo != nil && kind = client }", "a2 a4 b3"),
        ("{} | by(parent.resource.service.name) | count() > 1", "a2 a3 b2 b3"),
        // scalars
        ("{} | count_distinct(resource.service.name) > 2", A),
        ("{ kind = internal } | count_distinct(span.none) = 0", "a3 a5"),
        ("({ kind = client } | count()) > ({ kind = internal } | count())", "b3"),
        ("({ kind = client } | count()) = ({ kind = internal } | count())", "a2 a4 a3 a5"),
        ("({ status = error } | max(duration)) >= ({} | avg(duration))", "a3 a1 a2 a4 a5 b1 b2 b3"),
        ("{} | max(duration) > avg(duration) * 2", A),
        ("{} | 3 < count()", A),
    ] {
        let plan = Plan::new(&compile(query).unwrap_or_else(|error| panic!("{query}: {error}"))).unwrap();
        assert_eq!(fixture.labels(&search(&plan, &table, 100).unwrap()), expected, "{query}");
    }
    let plan = Plan::new(&compile("{ name = `load` } | select(parent.foo, root.resource.cluster, span.foo)").unwrap()).unwrap();
    let hits = search(&plan, &table, 0).unwrap();
    let shown: Vec<String> = hits[0].span_sets[0].spans[0].attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(shown, ["parent.foo=`bar`", "root.cluster=`eu-1`", "foo=`baz`"]);
}

#[test]
fn documented_queries_can_be_planned() {
    let mut queries = 0;
    for page in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap() {
        let path = page.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().starts_with("traceql") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for block in text.split("```traceql\n").skip(1) {
            // several queries in a block stand apart by blank lines
            for query in block.split("```").next().unwrap().split("\n\n").filter(|query| !query.trim().is_empty()) {
                let parsed = crate::traceql::compile(query).unwrap_or_else(|error| panic!("{path:?}: {query}: {error}"));
                assert!(matches!(Plan::new(&parsed), Ok(_) | Err(EngineError::MathExpression)), "{query}");
                queries += 1;
            }
        }
    }
    assert!(queries >= 40, "only {queries} queries found");
}

fn compile(query: &str) -> Result<crate::traceql::ast::Query, crate::traceql::QueryError> {
    crate::traceql::compile(query).map(crate::traceql::rewrite::or_to_in)
}

pub(super) fn search(plan: &Plan, table: &SpanTable, spss: usize) -> Result<Vec<TraceHit>, EngineError> {
    let cancelled = AtomicBool::new(false);
    let matches = evaluate(plan, table, EvaluateOptions { rows: None, spans_per_span_set: spss, cancelled: &cancelled })?;
    Ok(hits(plan, &matches, table, HitRows::Same))
}

#[test]
fn tags_come_from_passing_spans() {
    use crate::traceql::autocomplete::{extract_conditions, parse_tag};
    use crate::traceql::tags::{TagLimits, TagNames, TagScope, TagValues};

    let table = search_examples().0.table();
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
fn queries_without_an_answer_are_refused() {
    let plan = |query: &str| Plan::new(&compile(query).unwrap());
    let table = table_of(&two_names());
    let math = plan("({} | rate()) / ({} | count_over_time())").map(|_| ()).unwrap_err();
    assert_eq!((math.to_string().as_str(), math.class()), ("math expressions not supported", ErrorClass::Invalid));
    let cancelled = AtomicBool::new(true);
    let options = EvaluateOptions { rows: None, spans_per_span_set: 0, cancelled: &cancelled };
    assert_eq!(evaluate(&plan("{}").unwrap(), &table, options), Err(EngineError::Cancelled));
    for split in [
        "({} | by(name)) && ({})",
        "({ false }) && ({} | by(name))",
        "({} | by(name)) > ({ false })",
        "({ false }) &>> ({} | by(name))",
        "({} | by(name)) !~ ({})",
        "({} | by(name) | count()) > 1",
    ] {
        assert_eq!(search(&plan(split).unwrap(), &table, 0), Err(EngineError::MultipleSpansets), "{split}");
    }
}

#[test]
fn metrics_queries_search_their_pipeline() {
    let table = table_of(&two_names());
    let answer = |query: &str| search(&Plan::new(&compile(query).unwrap()).unwrap(), &table, 0).unwrap();
    assert_eq!(answer("{ name = `a` } | rate() by (name) | topk(3)"), answer("{ name = `a` }"));
    assert_eq!(answer("{} | by(name) | quantile_over_time(duration, .5) > 1"), answer("{} | by(name)"));
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
    assert_eq!(plan.order(), SearchOrder::MOST_RECENT);
    let mut matches = evaluate(&plan, &table, EvaluateOptions { rows: None, spans_per_span_set: 0, cancelled: &cancelled }).unwrap();
    assert_eq!((matches.inspected.traces, matches.inspected.spans), (3, 15));
    matches.keep_smallest(2, |trace| plan.order().rank(trace.trace_id, trace.start_unix_nanos, trace.duration_nanos));
    assert_eq!(matches.rows().collect::<Vec<_>>(), [0, 2]);
    let set = &hits(&plan, &matches, &table, HitRows::Same)[1].span_sets[0];
    assert_eq!((set.spans.len(), set.matched), (DEFAULT_SPANS_PER_SPAN_SET, 5));
    assert!(Plan::new(&compile("{ false } | {}").unwrap()).unwrap().is_noop());
}
