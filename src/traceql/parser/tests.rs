//! The corpus of `testdata/traceql/examples.yaml` (verdicts of the compatible system), laws, and hostile input.

use std::fmt::Write;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::traceql::ast::{Attribute, AttributeScope, LogicalOp, QueryBody, Stage, UnaryOp};
use crate::traceql::autocomplete::{Condition, extract_conditions};
use crate::traceql::error::QueryErrorKind;
use crate::traceql::print::cache_text;
use crate::traceql::{compile, rewrite, validate};

#[derive(Deserialize)]
struct Corpus {
    examples: Vec<Example>,
}

#[derive(Deserialize)]
struct Example {
    id: String,
    query: String,
    parse: Option<String>,
    validate: Option<String>,
    error: Option<String>,
    canonical: Option<String>,
    rewritten: Option<String>,
    groups: Option<Vec<Vec<String>>>,
    normalized: Option<String>,
}

fn corpus() -> Vec<Example> {
    let text = include_str!("../../../testdata/traceql/examples.yaml");
    let corpus: Corpus = serde_norway::from_str(text).unwrap();
    corpus.examples
}

/// Examples whose canonical text is a defect of the compatible system that is not copied, with the text printed here.
const FIXED_DEFECTS: &[(&str, &str)] = &[
    // `2 ^ 3` was computed as 3 ^ 2
    ("filters-178", "{ false }"),
];

/// Examples that the compatible system refuses as not supported yet, and that are valid here.
const EXTENSIONS: &[&str] = &["type_check-114", "type_check-123", "type_check-124", "type_check-125", "type_check-126"];

#[test]
fn corpus_verdicts_and_texts() {
    let mut failures = String::new();
    let mut checked = 0;
    for example in corpus() {
        let Some(expected_parse) = example.parse.as_deref() else {
            continue;
        };
        checked += 1;
        let mut check = |what: &str, found: &str, expected: &str| {
            if found != expected {
                let _ = writeln!(failures, "{} {}: {what}\n  found    {found}\n  expected {expected}", example.id, example.query);
            }
        };
        let query = match parse(&example.query) {
            Ok(query) => query,
            Err(error) => {
                check("parse", "error", expected_parse);
                check("error", &error.to_string(), example.error.as_deref().unwrap_or(""));
                continue;
            }
        };
        check("parse", "ok", expected_parse);
        let fixed = FIXED_DEFECTS.iter().find(|(id, _)| *id == example.id).map(|(_, text)| *text);
        check("canonical", &query.to_string(), fixed.or(example.canonical.as_deref()).unwrap_or(&example.query));
        let (verdict, error) = match validate(&query) {
            Ok(()) => ("ok", String::new()),
            Err(error) if error.kind == QueryErrorKind::Unsupported => ("unsupported", error.to_string()),
            Err(error) => ("error", error.to_string()),
        };
        let is_extension = EXTENSIONS.contains(&example.id.as_str());
        let (expected, expected_error) =
            if is_extension { (Some("ok"), None) } else { (example.validate.as_deref(), example.error.as_deref()) };
        check("validate", verdict, expected.unwrap_or("ok"));
        check("error", &error, expected_error.unwrap_or(""));
        if verdict == "ok" {
            let canonical = query.to_string();
            let rewritten = rewrite::or_to_in(query);
            check("rewritten", &rewritten.to_string(), example.rewritten.as_deref().unwrap_or(&canonical));
            check("rewritten validates", &format!("{:?}", validate(&rewritten)), "Ok(())");
        }
    }
    assert!(failures.is_empty(), "{failures}");
    assert_eq!(checked, 391);
}

#[test]
fn corpus_autocompletion() {
    let mut checked = 0;
    for example in corpus() {
        let Some(groups) = example.groups else {
            continue;
        };
        checked += 1;
        let filter = extract_conditions(&example.query, 100).unwrap();
        let found: Vec<Vec<String>> = filter.groups.iter().map(|group| group.iter().map(describe).collect()).collect();
        assert_eq!((found, Some(filter.normalized)), (groups, example.normalized), "{} {}", example.id, example.query);
    }
    assert_eq!(checked, 13);
}

fn describe(condition: &Condition) -> String {
    format!("{} {} {}", condition.attribute, condition.op, condition.value)
}

#[test]
fn errors_name_the_place() {
    for (text, error) in [
        ("{ link:x = 1 }", "parse error at line 1, col 8: syntax error: unexpected IDENTIFIER, expecting traceID or spanID"),
        ("{} | quantile_over_time(duration)", "parse error at line 1, col 33: syntax error: unexpected ), expecting ,"),
        ("{}\n| by(.a", "parse error at line 2, col 8: syntax error: unexpected $end"),
        ("{} | count() > 1s + 1", "parse error at line 1, col 21: duration cannot be used in scalar arithmetic"),
        ("{} | count() > 1 / 0", "parse error at line 1, col 20: division by zero"),
        ("{ \"a\" = .b /* }", "parse error at line 1, col 12: comment not terminated"),
        ("({} | compare({})) / ({} | rate())", "`compare()` cannot be used with second stage functions"),
        ("{} | compare({}, 1, 0, 5)", "compare() timestamps must be positive integer unix nanoseconds"),
        ("{ .a = 1 && .b = 2 && 3 }", "binary operations must operate on the same type: ((.a = 1) && (.b = 2)) && 3"),
        ("{ name || .a }", "illegal operation for the given types: name || .a"),
        ("{ name =~ \"x{1001}\" }", "invalid regex: `x{1001}`"),
        ("5 > 3", "parse error at line 1, col 6: syntax error: unexpected $end"),
        ("{} > ({} | {})", "parse error at line 1, col 10: syntax error: unexpected |"),
        ("{} with (sample=1s, x)", "parse error at line 1, col 22: syntax error: unexpected ), expecting ="),
    ] {
        assert_eq!(compile(text).map(|query| query.to_string()).map_err(|error| error.to_string()), Err(error.to_owned()), "{text}");
    }
}

#[test]
fn words_compare_and_print_as_what_they_stand_for() {
    for (text, canonical) in [
        ("{ name in (`a`) }", "{ name IN [`a`] }"),
        ("{ .a not in (1, -2) || name NOT IN [`x`, \"y`\"] }", "{ (.a NOT IN [1, -2]) || (name NOT IN [`x`, \"y`\"]) }"),
        ("{ .a IN [1.5, 2.0] && .b in (true) }", "{ (.a IN [1.5, 2.0]) && (.b IN [true]) }"),
        ("{ status not in (ok, unset) && duration in (1s) }", "{ ((status != ok) && (status != unset)) && (duration = 1s) }"),
        ("{ name contains `a.b` && .a not iendswith `(c)` }", "{ (name =~ `.*a\\.b.*`) && (.a !~ `.*(?i:\\(c\\))`) }"),
        ("{ .a MATCH NONE [`x`, `y.*`] }", "{ .a MATCH NONE [`x`, `y.*`] }"),
        ("{ parent.a > root.resource.\"b c\" }", "{ parent.a > root.resource.\"b c\" }"),
        ("{ 1 + .a in (2) = true }", "{ ((1 + .a) IN [2]) = true }"),
        ("{} | count_distinct(.a) > count() / 2", "{ true }|(count_distinct(.a)) > ((count()) / 2)"),
    ] {
        let query = compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(query.to_string(), canonical);
        assert_eq!(parse(canonical), Ok(query), "{text}");
    }
    for (text, error) in [
        ("{ name in () }", "parse error at line 1, col 12: syntax error: unexpected )"),
        ("{ name in (`a`, 1) }", "parse error at line 1, col 18: the elements of a list must be of one type"),
        ("{ kind in (server, ok) }", "parse error at line 1, col 22: the elements of a list must be of one type"),
        ("{ -duration in (1s) }", "parse error at line 1, col 19: this list can only be compared with an attribute"),
        ("{ name contains 1 }", "parse error at line 1, col 17: syntax error: unexpected INTEGER, expecting STRING"),
        ("{ duration contains `a` }", "binary operations must operate on the same type: duration =~ `.*a.*`"),
        ("{ .a MATCH ANY [1] }", "illegal operation for the given types: .a MATCH ANY [1]"),
        ("{ name IN [`a`) }", "parse error at line 1, col 15: syntax error: unexpected )"),
        ("{ parent.event.a = root.span }", ""),
    ] {
        assert_eq!(compile(text).map_or_else(|error| error.to_string(), |_| String::new()), error, "{text}");
    }
}

#[test]
fn groupings_and_aggregates_are_limited() {
    let query = |stages: usize| format!("{{}} | {}", vec!["by(.a)"; stages].join(" | "));
    assert!(compile(&query(64)).is_ok());
    assert_eq!(compile(&query(65)).unwrap_err().to_string(), "query has more than 64 groupings and aggregates");
}

#[test]
fn different_queries_print_differently() {
    for (one, other) in [
        ("{ .a = \"x` || .b = `y\" }", "{ .a = `x` || .b = `y` }"),
        ("{ (-2) ^ .b = 1 }", "{ -2 ^ .b = 1 }"),
        ("{} | quantile_over_time(duration, 0.999999)", "{} | quantile_over_time(duration, 1)"),
        ("{} | compare({}, 5)", "{} | compare({}, 6)"),
    ] {
        let (one, other) = (parse(one).unwrap(), parse(other).unwrap());
        assert_ne!(cache_text(&one), cache_text(&other));
    }
}

#[test]
fn long_chains_are_shallow_and_deep_nesting_is_refused() {
    let chain = format!("{{ {} }}", vec![".a = 1 && .b"; 8000].join(" && "));
    assert!(compile(&chain).is_ok());
    let deep = [
        format!("{{ {}true{} }}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("{{ {}.a }}", "!".repeat(100_000)),
        format!("{{ .a = {} }}", "-".repeat(100_000)),
        format!("{{ {} = 1 }}", vec![".a"; 50_000].join(" ^ ")),
        format!("{{ {} = 1 }}", vec![".a"; 50_000].join(" + ")),
        format!("{{ {} }}", vec![".a && .b || .c"; 20_000].join(" && ")),
        format!("{}{{}}", "(".repeat(100_000)),
        vec!["{}"; 50_000].join(" > "),
        format!("({{}} | rate()){}", " + 1".repeat(50_000)),
        format!("{{}} | count() > {}1", "-".repeat(100_000)),
        "x".repeat(MAX_QUERY_BYTES + 1),
    ];
    for text in deep {
        let error = compile(&text).map(|_| ()).unwrap_err();
        assert_eq!(error.kind, QueryErrorKind::Invalid, "{}…", &text[..40]);
    }
    // The deepest accepted trees pass through checker and printer.
    for text in [
        format!("{{ {}.a = 1{} }}", "(".repeat(MAX_DEPTH - 8), ")".repeat(MAX_DEPTH - 8)),
        format!("{{ {} = 1 }}", vec![".a"; MAX_DEPTH - 1].join(" + ")),
        vec!["{}"; MAX_DEPTH].join(" > "),
        format!("{}{{}}{}", "(".repeat(MAX_DEPTH - 8), ")".repeat(MAX_DEPTH - 8)),
        format!("{{}} | count() > {}1", "-".repeat(MAX_DEPTH - 8)),
    ] {
        let query = compile(&text).unwrap();
        assert!(!query.to_string().is_empty() && rewrite::or_to_in(query.clone()) == query);
    }
}

#[test]
fn wrapped_filters_meet_wrapped_pipelines() {
    for text in ["({}) > ({} | {})", "({} | {}) > ({}) > ({} | {})", "(({} | {}) > ({})) && ({})", "({} | count()) + ({} | sum(.a)) > 3"] {
        let query = parse(text).unwrap();
        assert_eq!(parse(&query.to_string()).unwrap(), query, "{text}");
    }
}

// Laws

fn arb_string() -> BoxedStrategy<String> {
    prop_oneof!["[a-z]{0,5}", "[ -~]{0,8}", ".{0,4}"].boxed()
}

fn arb_literal() -> BoxedStrategy<Static> {
    prop_oneof![
        // the smallest integer and duration cannot be written
        (-i64::MAX..=i64::MAX).prop_map(Static::Int),
        (-i64::MAX..=i64::MAX).prop_map(Static::Duration),
        (-9_i64..9).prop_map(Static::Int),
        proptest::num::f64::ANY.prop_map(Static::Float),
        arb_string().prop_map(Static::string),
        any::<bool>().prop_map(Static::Bool),
        Just(Static::Status(crate::traceql::types::Status::Error)),
        Just(Static::Kind(crate::traceql::types::Kind::Server)),
    ]
    .boxed()
}

/// Query text of an attribute. An unscoped name does not start with a digit: `.5` is a number.
fn arb_attribute() -> BoxedStrategy<String> {
    let scope = prop_oneof![
        Just("."),
        Just("span."),
        Just("resource."),
        Just("event."),
        Just("link."),
        Just("instrumentation."),
        Just("parent."),
        Just("parent.span.")
    ];
    let name =
        prop_oneof!["[a-z.]{0,4}[a-z]", "[^0-9].{0,4}"].prop_map(|name| format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")));
    let intrinsic = prop_oneof![
        Just("name"),
        Just("span:id"),
        Just("trace:id"),
        Just("duration"),
        Just("status"),
        Just("event:name"),
        Just("link:spanID")
    ];
    prop_oneof![(scope, name).prop_map(|(scope, name)| format!("{scope}{name}")), intrinsic.prop_map(str::to_owned)].boxed()
}

fn arb_field() -> BoxedStrategy<String> {
    let leaf = prop_oneof![arb_literal().prop_map(|value| FieldExpr::Literal(value).to_string()), arb_attribute()];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let op = prop_oneof![
            Just("+"),
            Just("-"),
            Just("*"),
            Just("/"),
            Just("%"),
            Just("^"),
            Just("="),
            Just("!="),
            Just("<"),
            Just(">="),
            Just("=~"),
            Just("!~"),
            Just("&&"),
            Just("||"),
            Just("&&"),
            Just("||"),
        ];
        prop_oneof![
            (inner.clone(), op.clone(), inner.clone()).prop_map(|(lhs, op, rhs)| format!("{lhs} {op} {rhs}")),
            (inner.clone(), op, inner.clone()).prop_map(|(lhs, op, rhs)| format!("({lhs}) {op} ({rhs})")),
            inner.clone().prop_map(|operand| format!("!{operand}")),
            inner.clone().prop_map(|operand| format!("-{operand}")),
            inner.clone().prop_map(|operand| format!("({operand}) = nil")),
            inner.prop_map(|operand| format!("nil != {operand}")),
        ]
        .boxed()
    })
    .boxed()
}

fn arb_query() -> BoxedStrategy<String> {
    let filter = arb_field().prop_map(|field| format!("{{ {field} }}"));
    let op = prop_oneof![Just("&&"), Just("||"), Just(">"), Just("<<"), Just("!>>"), Just("&~"), Just("!~")];
    let spanset = filter
        .prop_recursive(3, 6, 2, move |inner| {
            prop_oneof![
                (inner.clone(), op.clone(), inner.clone()).prop_map(|(lhs, op, rhs)| format!("{lhs} {op} {rhs}")),
                inner.prop_map(|inner| format!("({inner})")),
            ]
            .boxed()
        })
        .boxed();
    let scalar = prop_oneof![
        Just("count() > 2"),
        Just("avg(duration) + 1 > -1.5s"),
        Just("3 * (max(.a) - 2) <= 1.0 / 0"),
        Just("min(.a) = max(.b)")
    ];
    let stage = prop_oneof![
        spanset.clone(),
        scalar.prop_map(str::to_owned),
        arb_field().prop_map(|field| format!("by({field})")),
        (arb_attribute(), arb_attribute()).prop_map(|(a, b)| format!("select({a}, {b})")),
        Just("coalesce()".to_owned()),
    ]
    .boxed();
    let pipeline = (spanset, prop::collection::vec(stage, 0..3)).prop_map(|(first, rest)| [vec![first], rest].concat().join(" | ")).boxed();
    let second = prop_oneof![Just(""), Just(" | topk(3)"), Just(" > 1.5"), Just(" | bottomk(2) <= 100ms | topk(1)")];
    let function = (
        prop_oneof![
            Just("rate()".to_owned()),
            arb_attribute().prop_map(|a| format!("quantile_over_time({a}, .5, .12345678)")),
            arb_attribute().prop_map(|a| format!("sum_over_time({a})"))
        ],
        prop_oneof![Just(String::new()), arb_attribute().prop_map(|a| format!(" by ({a}, name)"))],
        second.clone(),
    )
        .prop_map(|(function, by, second)| format!("{function}{by}{second}"))
        .boxed();
    let metrics = (pipeline.clone(), function).prop_map(|(pipeline, function)| format!("{pipeline} | {function}")).boxed();
    let arithmetic = (metrics.clone(), metrics.clone(), prop_oneof![Just("+"), Just("/"), Just("* 2 -")], second)
        .prop_map(|(l, r, op, second)| format!("({l}) {op} ({r}){second}"))
        .boxed();
    let wrapped = (pipeline.clone(), pipeline.clone()).prop_map(|(l, r)| format!("({l} | count() > 0) >> ({r})"));
    let hints = prop_oneof![Just(""), Just(" with (a=1, b=`x`)"), Just(" with (most_recent=true)")];
    (prop_oneof![pipeline, metrics, arithmetic, wrapped], hints).prop_map(|(query, hints)| query + hints).boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn canonical_text_parses_to_the_same_query(text in arb_query()) {
        let query = parse(&text).map_err(|error| TestCaseError::fail(format!("{error}: {text}")))?;
        let canonical = query.to_string();
        // folding may produce the one integer that has no literal
        if !canonical.contains("-9223372036854775808") && !canonical.contains("-2562047h47m16.854775808s") {
            let again = parse(&canonical).map_err(|error| TestCaseError::fail(format!("{error}: {canonical}")))?;
            prop_assert_eq!(&again, &query, "{}", canonical);
            prop_assert_eq!(validate(&again), validate(&query));
        }
        if validate(&query).is_ok() {
            prop_assert_eq!(validate(&rewrite::or_to_in(query)), Ok(()));
        }
    }

    #[test]
    fn no_text_panics(text in "[ -~\n`\"'µä]{0,80}") {
        let _ = compile(&text);
        let _ = extract_conditions(&text, 10);
    }

    #[test]
    fn no_mutated_query_panics(text in arb_query(), cut in 0..200_usize, length in 0..20_usize, insert in "[ -~]{0,3}") {
        let mut chars: Vec<char> = text.chars().collect();
        let start = cut.min(chars.len());
        let end = (start + length).min(chars.len());
        chars.splice(start..end, insert.chars());
        let mutated: String = chars.into_iter().collect();
        if let Ok(query) = parse(&mutated) {
            let _ = validate(&query);
            let _ = (query.to_string(), cache_text(&query), rewrite::or_to_in(query));
        }
        let _ = extract_conditions(&mutated, 10);
    }
}

#[test]
fn chains_are_flat_and_constants_folded() {
    let query = parse("{ .a || (1 + 1 = 2) || .b = nil }").unwrap();
    let attribute = |name: &str| FieldExpr::Attribute(Attribute::named(AttributeScope::Unscoped, name));
    let absent = FieldExpr::Unary { op: UnaryOp::NotExists, operand: Box::new(attribute("b")) };
    let operands = vec![attribute("a"), FieldExpr::Literal(Static::Bool(true)), absent];
    let filter = SpansetExpr::Filter(FieldExpr::Logical { op: LogicalOp::Or, operands });
    assert_eq!(query.body, QueryBody::Search(Pipeline { stages: vec![Stage::Spanset(filter)] }));
    let rewritten = rewrite::or_to_in(parse("{ .a = 1 || 2 = .a || .b = 3 || .a = 4 }").unwrap());
    assert_eq!(rewritten.to_string(), "{ ((.a IN [1, 2]) || (.b = 3)) || (.a = 4) }");
}
