//! Type and range rules of a parsed query (traceql, validation). The first error wins: depth first, left before right.
//!
//! Error texts quote the canonical text of the offending part, so they show folded constants.

use super::ast::{
    Aggregate, Attribute, AttributeScope, BinaryOp, Compare, FieldExpr, Intrinsic, LogicalOp, MetricsExpr, MetricsFunction, MetricsNode,
    MetricsQuery, Pipeline, Query, QueryBody, ScalarExpr, SecondStage, SpansetExpr, Stage, UnaryOp,
};
use super::error::QueryError;
use super::regex::Pattern;
use super::types::{Static, StaticType, expression_type};

type Checked = Result<(), QueryError>;

/// Groupings and aggregates of a query. Every spanset keeps a value for each, and a grouping may make a spanset of every span.
const MAX_NOTED_VALUES: usize = 64;

/// Attributes in `by (…)` of a metrics function, and of those that need a label of their own.
const MAX_METRICS_GROUPING: usize = 5;
const MAX_METRICS_GROUPING_WITH_OWN_LABEL: usize = 4;

/// Greatest number of values per attribute that `compare()` reports.
const MAX_COMPARE_TOP_N: i64 = 1000;

/// Checks that `query` can be evaluated.
///
/// # Errors
/// `Invalid`, or `Unsupported` for what the language has and the engine has not.
pub fn validate(query: &Query) -> Result<(), QueryError> {
    match &query.body {
        QueryBody::Search(pipeline) => check_search(pipeline),
        QueryBody::Metrics(metrics) => check_metrics(metrics, true),
    }
}

fn check_search(pipeline: &Pipeline) -> Checked {
    check_pipeline(pipeline)?;
    if noted_values(pipeline) > MAX_NOTED_VALUES {
        return Err(QueryError::invalid(format!("query has more than {MAX_NOTED_VALUES} groupings and aggregates")));
    }
    Ok(())
}

/// Number of values that spansets may carry at the end.
fn noted_values(pipeline: &Pipeline) -> usize {
    fn of_spanset(spanset: &SpansetExpr) -> usize {
        match spanset {
            SpansetExpr::Filter(_) => 0,
            SpansetExpr::Binary { op: _, lhs, rhs } => of_spanset(lhs) + of_spanset(rhs),
            SpansetExpr::Pipeline(pipeline) => noted_values(pipeline),
        }
    }
    fn of_scalar(scalar: &ScalarExpr) -> usize {
        match scalar {
            ScalarExpr::Literal(_) => 0,
            ScalarExpr::Aggregate(_) => 1,
            ScalarExpr::Binary { op: _, lhs, rhs } => of_scalar(lhs) + of_scalar(rhs),
            ScalarExpr::Pipeline(pipeline, _) => noted_values(pipeline) + 1,
        }
    }
    let of_stage = |stage: &Stage| match stage {
        Stage::Spanset(spanset) => of_spanset(spanset),
        Stage::ScalarFilter(filter) => of_scalar(&filter.lhs) + of_scalar(&filter.rhs),
        Stage::GroupBy(_) => 1,
        Stage::Select(_) | Stage::Coalesce => 0,
    };
    pipeline.stages.iter().map(of_stage).sum()
}

/// Whether `op` may join operands of these types.
pub(super) fn are_operands_legal(op: BinaryOp, left: StaticType, right: StaticType) -> bool {
    left.matches(right) && left.allows(op) && right.allows(op)
}

fn check_pipeline(pipeline: &Pipeline) -> Checked {
    for stage in &pipeline.stages {
        match stage {
            Stage::Spanset(spanset) => check_spanset(spanset)?,
            Stage::ScalarFilter(filter) => {
                check_scalar(&filter.lhs)?;
                check_scalar(&filter.rhs)?;
            }
            Stage::GroupBy(expr) => {
                check_field(expr)?;
                if !expr.references_span() {
                    return Err(QueryError::invalid(format!("grouping field expressions must reference the span: by({expr})")));
                }
            }
            Stage::Select(attributes) => attributes.iter().try_for_each(check_attribute)?,
            Stage::Coalesce => {}
        }
    }
    Ok(())
}

fn check_spanset(spanset: &SpansetExpr) -> Checked {
    match spanset {
        SpansetExpr::Filter(expr) => check_filter(expr),
        SpansetExpr::Binary { op: _, lhs, rhs } => {
            check_spanset(lhs)?;
            check_spanset(rhs)
        }
        SpansetExpr::Pipeline(pipeline) => check_pipeline(pipeline),
    }
}

fn check_filter(expr: &FieldExpr) -> Checked {
    check_field(expr)?;
    match expression_type(expr) {
        StaticType::Boolean | StaticType::Attribute => Ok(()),
        _ => Err(QueryError::invalid(format!("span filter field expressions must resolve to a boolean: {{ {expr} }}"))),
    }
}

fn check_scalar(expr: &ScalarExpr) -> Checked {
    match expr {
        ScalarExpr::Literal(_) => Ok(()),
        ScalarExpr::Aggregate(aggregate) => check_aggregate(aggregate),
        ScalarExpr::Binary { op: _, lhs, rhs } => {
            check_scalar(lhs)?;
            check_scalar(rhs)
        }
        ScalarExpr::Pipeline(pipeline, aggregate) => {
            check_pipeline(pipeline)?;
            check_aggregate(aggregate)
        }
    }
}

fn check_aggregate(aggregate: &Aggregate) -> Checked {
    let Some(expr) = aggregate.operand() else {
        return Ok(());
    };
    check_field(expr)?;
    let operand_type = expression_type(expr);
    let takes_any = matches!(aggregate, Aggregate::CountDistinct(_));
    if !takes_any && !operand_type.is_numeric() && operand_type != StaticType::Attribute {
        return Err(QueryError::invalid(format!("aggregate field expressions must resolve to a number type: {aggregate}")));
    }
    if !expr.references_span() {
        return Err(QueryError::invalid(format!("aggregate field expressions must reference the span: {aggregate}")));
    }
    Ok(())
}

fn check_field(expr: &FieldExpr) -> Checked {
    match expr {
        FieldExpr::Literal(_) => Ok(()),
        FieldExpr::Attribute(attribute) => check_attribute(attribute),
        FieldExpr::Unary { op, operand } => check_unary(expr, *op, operand),
        FieldExpr::Binary { op, lhs, rhs } => check_binary(expr, *op, lhs, rhs),
        FieldExpr::Logical { op, operands } => check_logical(*op, operands),
    }
}

fn check_attribute(attribute: &Attribute) -> Checked {
    match attribute {
        Attribute::Intrinsic(Intrinsic::Parent) => Err(QueryError::unsupported("intrinsic (parent)")),
        Attribute::Intrinsic(_) => Ok(()),
        Attribute::Named(_) => Ok(()),
    }
}

fn check_unary(expr: &FieldExpr, op: UnaryOp, operand: &FieldExpr) -> Checked {
    check_field(operand)?;
    if op == UnaryOp::NotExists {
        check_can_be_nil(operand)?;
    }
    if !expression_type(operand).allows_unary(op) {
        return Err(QueryError::invalid(format!("illegal operation for the given type: {expr}")));
    }
    Ok(())
}

fn check_can_be_nil(operand: &FieldExpr) -> Checked {
    let FieldExpr::Attribute(attribute) = operand else {
        return Ok(());
    };
    match attribute {
        Attribute::Intrinsic(_) => Err(QueryError::invalid(format!("{attribute}=nil is not valid because intrinsics cannot be nil"))),
        Attribute::Named(named) if named.scope == AttributeScope::Resource && &*named.name == "service.name" => {
            Err(QueryError::invalid(format!("{attribute}=nil is not valid because {attribute} cannot be nil")))
        }
        Attribute::Named(_) => Ok(()),
    }
}

fn check_binary(expr: &FieldExpr, op: BinaryOp, lhs: &FieldExpr, rhs: &FieldExpr) -> Checked {
    check_field(lhs)?;
    check_field(rhs)?;
    let (left, right) = (expression_type(lhs), expression_type(rhs));
    if !left.matches(right) {
        return Err(QueryError::invalid(format!("binary operations must operate on the same type: {expr}")));
    }
    if !are_operands_legal(op, left, right) {
        return Err(QueryError::invalid(format!("illegal operation for the given types: {expr}")));
    }
    match op {
        BinaryOp::Regex | BinaryOp::NotRegex | BinaryOp::MatchAny | BinaryOp::MatchNone => check_patterns(rhs),
        BinaryOp::Arithmetic(_) | BinaryOp::Compare(_) | BinaryOp::In | BinaryOp::NotIn => Ok(()),
    }
}

fn check_patterns(rhs: &FieldExpr) -> Checked {
    let is_valid = match rhs {
        FieldExpr::Literal(Static::String(pattern)) => Pattern::compile(pattern).is_ok(),
        FieldExpr::Literal(Static::StringArray(patterns)) => patterns.iter().all(|pattern| Pattern::compile(pattern).is_ok()),
        _ => return Err(QueryError::invalid(format!("invalid type for =~ or !~: {rhs}"))),
    };
    if is_valid { Ok(()) } else { Err(QueryError::invalid(format!("invalid regex: {rhs}"))) }
}

/// Checks a chain as the pairs it stands for: `a`, `b`, `a && b`, `c`, `(a && b) && c`, …
fn check_logical(op: LogicalOp, operands: &[FieldExpr]) -> Checked {
    for (at, operand) in operands.iter().enumerate() {
        check_field(operand)?;
        let left = match at {
            0 => continue,
            1 => expression_type(&operands[0]),
            _ => StaticType::Boolean,
        };
        let right = expression_type(operand);
        let pair = || FieldExpr::Logical { op, operands: operands[..=at].to_vec() };
        if !left.matches(right) {
            return Err(QueryError::invalid(format!("binary operations must operate on the same type: {}", pair())));
        }
        if !left.allows_logical() || !right.allows_logical() {
            return Err(QueryError::invalid(format!("illegal operation for the given types: {}", pair())));
        }
    }
    Ok(())
}

fn check_metrics(metrics: &MetricsExpr, is_whole_query: bool) -> Checked {
    match &metrics.node {
        MetricsNode::Query(query) => {
            check_metrics_query(query)?;
            let is_compare = matches!(query.function, MetricsFunction::Compare(_));
            if is_compare && (!metrics.second_stages.is_empty() || !is_whole_query) {
                return Err(QueryError::invalid("`compare()` cannot be used with second stage functions"));
            }
        }
        MetricsNode::Binary { op: _, lhs, rhs } => {
            check_metrics(lhs, false)?;
            check_metrics(rhs, false)?;
        }
        MetricsNode::ScalarRight { op: _, lhs: expr, scalar: _ } | MetricsNode::ScalarLeft { op: _, scalar: _, rhs: expr } => {
            check_metrics(expr, false)?
        }
    }
    for stage in &metrics.second_stages {
        match stage {
            SecondStage::TopK(limit) | SecondStage::BottomK(limit) if *limit <= 0 => {
                return Err(QueryError::invalid("limit must be greater than 0"));
            }
            SecondStage::TopK(_) | SecondStage::BottomK(_) | SecondStage::Filter { .. } => {}
        }
    }
    Ok(())
}

fn check_metrics_query(query: &MetricsQuery) -> Checked {
    check_search(&query.pipeline)?;
    if let Some(attribute) = query.function.attribute() {
        check_attribute(attribute)?;
    }
    query.by.iter().try_for_each(check_attribute)?;
    let max_grouping = match &query.function {
        MetricsFunction::QuantileOverTime { .. } | MetricsFunction::HistogramOverTime(_) | MetricsFunction::AvgOverTime(_) => {
            MAX_METRICS_GROUPING_WITH_OWN_LABEL
        }
        MetricsFunction::Rate
        | MetricsFunction::CountOverTime
        | MetricsFunction::MinOverTime(_)
        | MetricsFunction::MaxOverTime(_)
        | MetricsFunction::SumOverTime(_)
        | MetricsFunction::Compare(_) => MAX_METRICS_GROUPING,
    };
    if query.by.len() > max_grouping {
        return Err(QueryError::unsupported(format!("metrics group by {} values", query.by.len())));
    }
    match &query.function {
        MetricsFunction::QuantileOverTime { attribute: _, quantiles } => {
            match quantiles.iter().find(|quantile| !(0.0..=1.0).contains(*quantile)) {
                Some(quantile) => Err(QueryError::invalid(format!("quantile must be between 0 and 1: {quantile}"))),
                None => Ok(()),
            }
        }
        MetricsFunction::Compare(compare) => check_compare(compare),
        MetricsFunction::Rate
        | MetricsFunction::CountOverTime
        | MetricsFunction::MinOverTime(_)
        | MetricsFunction::MaxOverTime(_)
        | MetricsFunction::SumOverTime(_)
        | MetricsFunction::AvgOverTime(_)
        | MetricsFunction::HistogramOverTime(_) => Ok(()),
    }
}

fn check_compare(compare: &Compare) -> Checked {
    check_filter(&compare.selection)?;
    if !(1..=MAX_COMPARE_TOP_N).contains(&compare.top_n) {
        return Err(QueryError::invalid("compare() top number of values must be an integer between 1 and 1000"));
    }
    let (start, end) = (compare.start_unix_nanos, compare.end_unix_nanos);
    if start == 0 && end == 0 {
        return Ok(());
    }
    if start <= 0 || end <= 0 {
        return Err(QueryError::invalid("compare() timestamps must be positive integer unix nanoseconds"));
    }
    if end <= start {
        return Err(QueryError::invalid("compare() end timestamp must be greater than start timestamp"));
    }
    Ok(())
}
