//! Which conditions a query hands to storage.

use super::*;
use crate::traceql::ast::QueryBody;
use crate::traceql::compile;

/// Writes a request as `all(conditions) | second pass`, with markers for the flags.
fn describe(text: &str) -> String {
    let query = compile(text).unwrap();
    let request = match &query.body {
        QueryBody::Search(pipeline) => for_pipeline(pipeline),
        QueryBody::Metrics(metrics) => for_metrics_expr(metrics).remove(0),
    };
    let conditions: Vec<String> = request
        .conditions
        .iter()
        .map(|Condition { attribute, test }| match test {
            Test::Unfiltered => attribute.to_string(),
            Test::Compare { op, value } => format!("{attribute} {op} {value}"),
            Test::Exists => format!("{attribute} exists"),
            Test::NotExists => format!("{attribute} absent"),
        })
        .collect();
    let mut text = format!("{}({})", if request.all_conditions { "all" } else { "any" }, conditions.join(", "));
    if request.all_spans {
        text.push_str(" +spans");
    }
    if request.is_structural {
        text.push_str(" +tree");
    }
    for attribute in &request.second_pass {
        text.push_str(&format!(" then {attribute}"));
    }
    text
}

#[test]
fn conditions_follow_the_query() {
    for (query, expected) in [
        ("{}", "all() +spans"),
        ("{ .a = 1 && name =~ `x` }", "all(.a = 1, name =~ `x`)"),
        ("{ 1s < duration }", "all(duration > 1s)"),
        ("{ .a = 1 || .b }", "any(.a = 1, .b)"),
        ("{ .a || true }", "any(.a) +spans"),
        ("{ .a = 1 && true }", "all(.a = 1)"),
        ("{ .a = 1 && (.b = 2 || true) }", "any(.a = 1, .b = 2)"),
        ("{ .a = nil && .b != nil }", "all(.a absent, .b exists)"),
        ("{ .a + 1 = .b }", "all(.a, .b)"),
        ("{ !.a }", "all(.a)"),
        ("{ !(.a = 1) }", "all(.a) +spans"),
        ("{ .b = 1 && !(.a = 1) }", "any(.b = 1, .a)"),
        ("{ .a = 1 } >> { .a = 1 && .b = 2 }", "any(.a = 1, .b = 2) +tree"),
        ("{ .a = 1 } | by(.a) | count() > 1", "any(.a)"),
        ("{ .a = 1 } | avg(duration) > 1s", "any(.a = 1, duration)"),
        ("{ .a = 1 } | select(.b, .c) | { .d = 1 } > {}", "all(.a = 1) +tree then .b then .c then .d"),
        ("{ .a } | rate() by (.a, .b)", "all(.a) then .b"),
        ("{ .a = 1 } | quantile_over_time(duration, .5) by (.a)", "all(.a = 1) then duration then .a"),
        ("count() > 1", "any() +spans"),
    ] {
        assert_eq!(describe(query), expected, "{query}");
    }
}
