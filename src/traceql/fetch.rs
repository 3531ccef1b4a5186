//! What a query needs from storage: the attributes it reads and the conditions that narrow the spans (traceql, fetch conditions).
//!
//! A request may be answered with more spans than asked for; the evaluator decides. It must not be answered with fewer.
//! Unlike the compatible system, a literal on the left flips the operator, every `||` ends [`FetchRequest::all_conditions`], and a branch that
//! is constantly true asks for all spans; there each of these loses matches.

use super::ast::{
    Attribute, BinaryOp, FieldExpr, Intrinsic, LogicalOp, MetricsExpr, MetricsFunction, MetricsQuery, Pipeline, ScalarExpr, SpansetExpr,
    SpansetOp, Stage, UnaryOp,
};
use super::types::Static;

/// What to read for one pipeline.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FetchRequest {
    /// A span is a candidate if any of them holds, or all of them if `all_conditions`.
    pub conditions: Vec<Condition>,
    /// Whether a span that fails one condition cannot match.
    pub all_conditions: bool,
    /// Whether every span is a candidate, whatever the conditions say.
    pub all_spans: bool,
    /// Whether the evaluator needs parents and nested-set numbers.
    pub is_structural: bool,
    /// Attributes to read for matching spans only; never repeats one that `conditions` reads unfiltered.
    pub second_pass: Vec<Attribute>,
}

/// An attribute to read, and what is known about the values that matter.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pub attribute: Attribute,
    pub test: Test,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// Read all values.
    Unfiltered,
    /// `attribute OP value`; comparison, regex and list operators.
    Compare {
        op: BinaryOp,
        value: Static,
    },
    Exists,
    NotExists,
}

/// Returns what a search reads.
pub fn for_pipeline(pipeline: &Pipeline) -> FetchRequest {
    let mut request = FetchRequest { all_conditions: true, ..FetchRequest::default() };
    request.add_pipeline(pipeline);
    request.normalize();
    request
}

/// Returns what one sub-query of a metrics query reads: its pipeline, the measured and the grouping attributes. `compare()` reads everything
/// in its second pass, which is the engine's business.
pub fn for_metrics(query: &MetricsQuery) -> FetchRequest {
    let mut request = FetchRequest { all_conditions: true, ..FetchRequest::default() };
    request.add_pipeline(&query.pipeline);
    if let MetricsFunction::Compare(compare) = &query.function {
        compare.selection.visit_attributes(&mut |attribute| request.second_pass.push(attribute.clone()));
    }
    request.second_pass.extend(query.function.attribute().into_iter().chain(&query.by).cloned());
    request.normalize();
    request
}

/// Returns what each sub-query of a metrics expression reads, left to right.
pub fn for_metrics_expr(metrics: &MetricsExpr) -> Vec<FetchRequest> {
    metrics.queries().into_iter().map(for_metrics).collect()
}

impl FetchRequest {
    fn add_pipeline(&mut self, pipeline: &Pipeline) {
        let mut stages = pipeline.stages.iter();
        for stage in stages.by_ref() {
            match stage {
                Stage::Spanset(spanset) => self.add_spanset(spanset),
                Stage::ScalarFilter(filter) => {
                    self.all_conditions = false;
                    self.add_scalar(&filter.lhs);
                    self.add_scalar(&filter.rhs);
                }
                Stage::GroupBy(expr) => {
                    self.all_conditions = false;
                    self.add_unfiltered(expr);
                }
                Stage::Coalesce => {}
                Stage::Select(attributes) => {
                    self.second_pass.extend(attributes.iter().cloned());
                    break;
                }
            }
        }
        // What follows a select only sees spans that matched before it.
        let rest = Pipeline { stages: stages.cloned().collect() };
        rest.visit_attributes(&mut |attribute| self.second_pass.push(attribute.clone()));
        self.is_structural |= rest.stages.iter().any(|stage| matches!(stage, Stage::Spanset(spanset) if is_structural(spanset)));
        if !matches!(pipeline.stages.first(), Some(Stage::Spanset(_))) {
            self.all_spans = true;
        }
    }

    fn add_spanset(&mut self, spanset: &SpansetExpr) {
        match spanset {
            SpansetExpr::Filter(expr) => self.add_filter(expr),
            SpansetExpr::Binary { op, lhs, rhs } => {
                self.all_conditions = false;
                self.is_structural |= matches!(op, SpansetOp::Structural { .. });
                self.add_spanset(lhs);
                self.add_spanset(rhs);
            }
            SpansetExpr::Pipeline(pipeline) => self.add_pipeline(pipeline),
        }
    }

    fn add_scalar(&mut self, expr: &ScalarExpr) {
        match expr {
            ScalarExpr::Literal(_) => {}
            ScalarExpr::Aggregate(aggregate) => {
                if let Some(expr) = aggregate.operand() {
                    self.add_unfiltered(expr);
                }
            }
            ScalarExpr::Binary { op: _, lhs, rhs } => {
                self.add_scalar(lhs);
                self.add_scalar(rhs);
            }
            ScalarExpr::Pipeline(pipeline, aggregate) => {
                self.add_pipeline(pipeline);
                if let Some(expr) = aggregate.operand() {
                    self.add_unfiltered(expr);
                }
            }
        }
    }

    fn add_filter(&mut self, expr: &FieldExpr) {
        self.all_spans |= is_open(expr);
        self.add_field(expr);
    }

    fn add_field(&mut self, expr: &FieldExpr) {
        match expr {
            FieldExpr::Literal(_) => {}
            FieldExpr::Attribute(attribute) => self.push(attribute, Test::Unfiltered),
            FieldExpr::Unary { op: UnaryOp::Exists, operand } => self.add_existence(operand, Test::Exists),
            FieldExpr::Unary { op: UnaryOp::NotExists, operand } => self.add_existence(operand, Test::NotExists),
            FieldExpr::Unary { op: UnaryOp::Not | UnaryOp::Negate, operand } => self.add_unfiltered(operand),
            FieldExpr::Binary { .. } => match comparison(expr) {
                Some(condition) => self.conditions.push(condition),
                None => self.add_unfiltered(expr),
            },
            FieldExpr::Logical { op, operands } => {
                // The attributes of an open operand must be read and need not be there.
                let has_open = operands.iter().any(|operand| operand.references_span() && is_open(operand));
                self.all_conditions &= *op == LogicalOp::And && !has_open;
                operands.iter().for_each(|operand| self.add_field(operand));
            }
        }
    }

    fn add_existence(&mut self, operand: &FieldExpr, test: Test) {
        match operand {
            FieldExpr::Attribute(attribute) => self.push(attribute, test),
            other => self.add_unfiltered(other),
        }
    }

    /// Reads the attributes of `expr` whatever their values.
    fn add_unfiltered(&mut self, expr: &FieldExpr) {
        expr.visit_attributes(&mut |attribute| self.conditions.push(Condition { attribute: attribute.clone(), test: Test::Unfiltered }));
    }

    fn push(&mut self, attribute: &Attribute, test: Test) {
        self.conditions.push(Condition { attribute: attribute.clone(), test });
    }

    /// Drops repetitions. When any condition suffices, an unfiltered one makes the others of its attribute pointless.
    fn normalize(&mut self) {
        let mut kept: Vec<Condition> = Vec::with_capacity(self.conditions.len());
        for condition in std::mem::take(&mut self.conditions) {
            if !kept.contains(&condition) {
                kept.push(condition);
            }
        }
        let is_unfiltered = |conditions: &[Condition], attribute: &Attribute| {
            conditions.iter().any(|condition| condition.test == Test::Unfiltered && condition.attribute == *attribute)
        };
        if !self.all_conditions {
            let all = kept.clone();
            kept.retain(|condition| condition.test == Test::Unfiltered || !is_unfiltered(&all, &condition.attribute));
        }
        self.conditions = kept;
        let mut second_pass: Vec<Attribute> = Vec::new();
        for attribute in std::mem::take(&mut self.second_pass) {
            if !second_pass.contains(&attribute) && !is_unfiltered(&self.conditions, &attribute) {
                second_pass.push(attribute);
            }
        }
        self.second_pass = second_pass;
    }
}

/// Whether `expr` can be true for a span for which none of its conditions holds.
fn is_open(expr: &FieldExpr) -> bool {
    match expr {
        FieldExpr::Literal(value) => *value == Static::Bool(true),
        FieldExpr::Attribute(_) => false,
        FieldExpr::Unary { op: UnaryOp::Exists, operand } => !is_value(operand),
        FieldExpr::Unary { op: UnaryOp::NotExists | UnaryOp::Not, operand } => !matches!(**operand, FieldExpr::Attribute(_)),
        FieldExpr::Unary { op: UnaryOp::Negate, operand: _ } => false,
        FieldExpr::Binary { op: _, lhs, rhs } => !is_value(lhs) || !is_value(rhs) || !expr.references_span(),
        FieldExpr::Logical { op: LogicalOp::And, operands } => operands.iter().all(is_open),
        FieldExpr::Logical { op: LogicalOp::Or, operands } => operands.iter().any(is_open),
    }
}

/// Whether `expr` has no useful value unless its attributes are there: attributes, numbers and arithmetic on them.
fn is_value(expr: &FieldExpr) -> bool {
    match expr {
        FieldExpr::Literal(_) | FieldExpr::Attribute(_) => true,
        FieldExpr::Unary { op, operand } => *op == UnaryOp::Negate && is_value(operand),
        FieldExpr::Binary { op, lhs, rhs } => matches!(op, BinaryOp::Arithmetic(_)) && is_value(lhs) && is_value(rhs),
        FieldExpr::Logical { .. } => false,
    }
}

fn is_structural(spanset: &SpansetExpr) -> bool {
    match spanset {
        SpansetExpr::Filter(_) => false,
        SpansetExpr::Binary { op, lhs, rhs } => matches!(op, SpansetOp::Structural { .. }) || is_structural(lhs) || is_structural(rhs),
        SpansetExpr::Pipeline(pipeline) => {
            pipeline.stages.iter().any(|stage| matches!(stage, Stage::Spanset(inner) if is_structural(inner)))
        }
    }
}

/// Returns `attribute OP literal` as a condition, with the operator flipped when the literal stands on the left.
pub(super) fn comparison(expr: &FieldExpr) -> Option<Condition> {
    let FieldExpr::Binary { op, lhs, rhs } = expr else {
        return None;
    };
    if matches!(op, BinaryOp::Arithmetic(_)) {
        return None;
    }
    let (attribute, op, value) = match (lhs.as_ref(), rhs.as_ref()) {
        (FieldExpr::Attribute(attribute), FieldExpr::Literal(value)) => (attribute, *op, value),
        (FieldExpr::Literal(value), FieldExpr::Attribute(attribute)) => match op {
            BinaryOp::Compare(op) => (attribute, BinaryOp::Compare(op.flipped()), value),
            _ => return None,
        },
        _ => return None,
    };
    Some(Condition { attribute: attribute.clone(), test: Test::Compare { op, value: value.clone() } })
}

/// Whether reading `attribute` needs the tree of the trace.
pub fn needs_tree(attribute: &Attribute) -> bool {
    matches!(
        attribute,
        Attribute::Intrinsic(Intrinsic::NestedSetLeft | Intrinsic::NestedSetRight | Intrinsic::NestedSetParent | Intrinsic::SpanChildCount)
    )
}

#[cfg(test)]
mod tests;
