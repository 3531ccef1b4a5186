//! `count`, `min`, `max`, `avg` and `sum` over the spans of a set (traceql, pipeline stages).

use std::collections::HashSet;

use foldhash::fast::FixedState;

use crate::base::bitset::Bitset;
use crate::traceql::ast::{ArithmeticOp, BinaryOp, ComparisonOp};
use crate::traceql::types::{Static, binary, compare};

use super::expr::Level;
use super::filter::Evaluator;
use super::plan::{Function, PlanAggregate, Scalar};
use super::value::Bound;

/// The aggregates of one stage, ready for all sets of a table.
pub(super) struct Bindings<'p>(Vec<(Function, Option<Bound<'p>>)>);

impl<'p> Bindings<'p> {
    pub(super) fn new(evaluator: &mut Evaluator<'_>, aggregates: &[&'p PlanAggregate], members: &Bitset) -> Self {
        let bind = |aggregate: &&'p PlanAggregate| {
            (aggregate.function, aggregate.value.as_ref().map(|value| evaluator.bind(value, Level::Span, members)))
        };
        Self(aggregates.iter().map(bind).collect())
    }

    /// Returns the values in the order of the aggregates; `None` if one of them has no value on any span.
    pub(super) fn values(&self, evaluator: &mut Evaluator<'_>, spans: &[u32]) -> Option<Vec<Static>> {
        self.0
            .iter()
            .map(|(function, bound)| match bound {
                None => Some(Static::Int(spans.len() as i64)),
                Some(bound) => {
                    if *function == Function::CountDistinct {
                        return Some(count_distinct(evaluator, bound, spans));
                    }
                    let mut state = Aggregation::new(*function);
                    for span in spans {
                        state.add(evaluator.value(bound, Level::Span, *span as usize));
                    }
                    state.finish()
                }
            })
            .collect()
    }
}

impl Function {
    /// The aggregate of no span at all.
    pub(super) fn of_nothing(self) -> Static {
        match self {
            Self::Count | Self::CountDistinct => Static::Int(0),
            Self::Min | Self::Max | Self::Avg | Self::Sum => Static::Nil,
        }
    }
}

/// Evaluates the scalar with the aggregates' values taken from `values` from left to right.
pub(super) fn scalar_value<'v>(scalar: &Scalar, values: &mut impl Iterator<Item = &'v Static>) -> Static {
    match scalar {
        Scalar::Literal(literal) => literal.clone(),
        Scalar::Aggregate(_) | Scalar::Pipeline(_) => values.next().cloned().unwrap_or(Static::Nil),
        Scalar::Arithmetic { op, lhs, rhs } => {
            let lhs = scalar_value(lhs, values);
            let rhs = scalar_value(rhs, values);
            binary(BinaryOp::Arithmetic(*op), &lhs, &rhs).unwrap_or(Static::Nil)
        }
    }
}

/// Nil is no value; an array is one.
fn count_distinct(evaluator: &mut Evaluator<'_>, bound: &Bound<'_>, spans: &[u32]) -> Static {
    let mut values: HashSet<Static, FixedState> = HashSet::default();
    for span in spans {
        let value = evaluator.value(bound, Level::Span, *span as usize);
        if !value.is_nil() {
            values.insert(value);
        }
    }
    Static::Int(values.len() as i64)
}

/// A running aggregate. Nil and arrays are skipped.
struct Aggregation {
    function: Function,
    /// Extreme or sum so far.
    value: Option<Static>,
    count: u64,
}

impl Aggregation {
    fn new(function: Function) -> Self {
        Self { function, value: None, count: 0 }
    }

    fn add(&mut self, value: Static) {
        if value.is_nil() || value.static_type().element().is_some() {
            return;
        }
        self.count += 1;
        let Some(known) = &mut self.value else {
            self.value = Some(value);
            return;
        };
        match self.function {
            Function::Min if compare(ComparisonOp::Lt, &value, known) => *known = value,
            Function::Max if compare(ComparisonOp::Gt, &value, known) => *known = value,
            Function::Min | Function::Max | Function::Count | Function::CountDistinct => {}
            Function::Sum | Function::Avg => add_same_type(known, &value),
        }
    }

    fn finish(self) -> Option<Static> {
        let value = self.value?;
        if self.function != Function::Avg {
            return Some(value);
        }
        let average = value.as_f64().unwrap_or(0.0) / self.count as f64;
        Some(match value {
            Static::Duration(sum) => Static::Duration(sum / self.count as i64),
            _ => Static::Float(average),
        })
    }
}

/// The first value decides the type of a sum; values of another type are left out.
fn add_same_type(sum: &mut Static, value: &Static) {
    match (sum, value) {
        (Static::Int(sum), Static::Int(value)) | (Static::Duration(sum), Static::Duration(value)) => *sum = sum.wrapping_add(*value),
        (Static::Float(sum), Static::Float(value)) => *sum = crate::traceql::types::float_arithmetic(ArithmeticOp::Add, *sum, *value),
        _ => {}
    }
}
