//! The array-operator rewriting: `a = 1 || a = 2` becomes `a IN [1, 2]` (traceql, planner notes).
//!
//! Applied bottom-up to every field expression of a query. Meaning is kept; evaluation gets one list instead of a chain, and canonical texts
//! of rewritten queries match those of the compatible system: a chain merges from its left end up to the first unrelated term.

use std::sync::Arc;

use super::ast::{
    Aggregate, Attribute, BinaryOp, ComparisonOp, FieldExpr, LogicalOp, MetricsExpr, MetricsFunction, MetricsNode, Pipeline, Query,
    QueryBody, ScalarExpr, SpansetExpr, Stage,
};
use super::types::Static;

/// Returns `query` with merged comparisons. It validates if `query` does.
pub fn or_to_in(mut query: Query) -> Query {
    match &mut query.body {
        QueryBody::Search(pipeline) => rewrite_pipeline(pipeline),
        QueryBody::Metrics(metrics) => rewrite_metrics(metrics),
    }
    query
}

fn rewrite_metrics(metrics: &mut MetricsExpr) {
    match &mut metrics.node {
        MetricsNode::Query(query) => {
            rewrite_pipeline(&mut query.pipeline);
            if let MetricsFunction::Compare(compare) = &mut query.function {
                rewrite_field(&mut compare.selection);
            }
        }
        MetricsNode::Binary { op: _, lhs, rhs } => {
            rewrite_metrics(lhs);
            rewrite_metrics(rhs);
        }
        MetricsNode::ScalarRight { op: _, lhs: expr, scalar: _ } | MetricsNode::ScalarLeft { op: _, scalar: _, rhs: expr } => {
            rewrite_metrics(expr)
        }
    }
}

fn rewrite_pipeline(pipeline: &mut Pipeline) {
    for stage in &mut pipeline.stages {
        match stage {
            Stage::Spanset(spanset) => rewrite_spanset(spanset),
            Stage::ScalarFilter(filter) => {
                rewrite_scalar(&mut filter.lhs);
                rewrite_scalar(&mut filter.rhs);
            }
            Stage::GroupBy(expr) => rewrite_field(expr),
            Stage::Select(_) | Stage::Coalesce => {}
        }
    }
}

fn rewrite_spanset(spanset: &mut SpansetExpr) {
    match spanset {
        SpansetExpr::Filter(expr) => rewrite_field(expr),
        SpansetExpr::Binary { op: _, lhs, rhs } => {
            rewrite_spanset(lhs);
            rewrite_spanset(rhs);
        }
        SpansetExpr::Pipeline(pipeline) => rewrite_pipeline(pipeline),
    }
}

fn rewrite_scalar(expr: &mut ScalarExpr) {
    match expr {
        ScalarExpr::Literal(_) => {}
        ScalarExpr::Aggregate(aggregate) => rewrite_aggregate(aggregate),
        ScalarExpr::Binary { op: _, lhs, rhs } => {
            rewrite_scalar(lhs);
            rewrite_scalar(rhs);
        }
        ScalarExpr::Pipeline(pipeline, aggregate) => {
            rewrite_pipeline(pipeline);
            rewrite_aggregate(aggregate);
        }
    }
}

fn rewrite_aggregate(aggregate: &mut Aggregate) {
    match aggregate {
        Aggregate::Count => {}
        Aggregate::Min(expr) | Aggregate::Max(expr) | Aggregate::Avg(expr) | Aggregate::Sum(expr) | Aggregate::CountDistinct(expr) => {
            rewrite_field(expr)
        }
    }
}

fn rewrite_field(expr: &mut FieldExpr) {
    match expr {
        FieldExpr::Literal(_) | FieldExpr::Attribute(_) => {}
        FieldExpr::Unary { op: _, operand } => rewrite_field(operand),
        FieldExpr::Binary { op: _, lhs, rhs } => {
            rewrite_field(lhs);
            rewrite_field(rhs);
        }
        FieldExpr::Logical { op, operands } => {
            operands.iter_mut().for_each(rewrite_field);
            if let Some((merged, count)) = merge_from_left(*op, operands) {
                if count == operands.len() {
                    *expr = merged;
                } else {
                    operands.splice(..count, [merged]);
                }
            }
        }
    }
}

/// Returns the merger of the longest run of operands at the left end, and how many these are; `None` below two.
fn merge_from_left(op: LogicalOp, operands: &[FieldExpr]) -> Option<(FieldExpr, usize)> {
    let first = Candidate::of(op, operands.first()?)?;
    let rest = operands[1..].iter().map_while(|operand| Candidate::of(op, operand).filter(|candidate| candidate.merges_with(&first)));
    let candidates: Vec<Candidate<'_>> = std::iter::once(Candidate::of(op, operands.first()?)?).chain(rest).collect();
    if candidates.len() < 2 {
        return None;
    }
    let values: Vec<Static> = candidates.iter().flat_map(|candidate| candidate.values.iter().cloned()).collect();
    let merged = FieldExpr::Binary {
        op: first.list_op,
        lhs: Box::new(FieldExpr::Attribute(first.attribute.clone())),
        rhs: Box::new(FieldExpr::Literal(list_of(&values)?)),
    };
    Some((merged, candidates.len()))
}

/// A comparison that can become part of a list.
struct Candidate<'a> {
    attribute: &'a Attribute,
    list_op: BinaryOp,
    values: Vec<Static>,
}

impl<'a> Candidate<'a> {
    fn of(op: LogicalOp, expr: &'a FieldExpr) -> Option<Self> {
        let FieldExpr::Binary { op: comparison, lhs, rhs } = expr else {
            return None;
        };
        let (attribute, value, is_literal_left) = match (lhs.as_ref(), rhs.as_ref()) {
            (FieldExpr::Attribute(attribute), FieldExpr::Literal(value)) => (attribute, value, false),
            (FieldExpr::Literal(value), FieldExpr::Attribute(attribute)) => (attribute, value, true),
            _ => return None,
        };
        let list_op = match (op, comparison) {
            (LogicalOp::Or, BinaryOp::Compare(ComparisonOp::Eq) | BinaryOp::In) => BinaryOp::In,
            (LogicalOp::And, BinaryOp::Compare(ComparisonOp::Ne) | BinaryOp::NotIn) => BinaryOp::NotIn,
            (LogicalOp::Or, BinaryOp::Regex | BinaryOp::MatchAny) if !is_literal_left => BinaryOp::MatchAny,
            (LogicalOp::And, BinaryOp::NotRegex | BinaryOp::MatchNone) if !is_literal_left => BinaryOp::MatchNone,
            _ => return None,
        };
        let values = value.elements().unwrap_or_else(|| vec![value.clone()]);
        let is_mergeable =
            values.iter().all(|value| matches!(value, Static::Int(_) | Static::Float(_) | Static::String(_) | Static::Bool(_)));
        is_mergeable.then_some(Self { attribute, list_op, values })
    }

    fn merges_with(&self, other: &Self) -> bool {
        let types = |candidate: &Self| candidate.values.first().map(Static::static_type);
        self.attribute == other.attribute && self.list_op == other.list_op && types(self) == types(other)
    }
}

/// Returns an array of scalars of one type; `None` for other values.
pub(super) fn list_of(values: &[Static]) -> Option<Static> {
    match values.first()? {
        Static::Int(_) => collect(values, |value| if let Static::Int(v) = value { Some(*v) } else { None }).map(Static::IntArray),
        Static::Float(_) => collect(values, |value| if let Static::Float(v) = value { Some(*v) } else { None }).map(Static::FloatArray),
        Static::String(_) => {
            collect(values, |value| if let Static::String(v) = value { Some(v.clone()) } else { None }).map(Static::StringArray)
        }
        Static::Bool(_) => collect(values, |value| if let Static::Bool(v) = value { Some(*v) } else { None }).map(Static::BoolArray),
        _ => None,
    }
}

fn collect<T>(values: &[Static], of: impl Fn(&Static) -> Option<T>) -> Option<Arc<[T]>> {
    values.iter().map(of).collect()
}
