//! Stages and operators between spansets, one trace and one spanset at a time.

use std::collections::{HashMap, HashSet};

use super::tree::Tree;
use super::{Site, keeps, value};
use crate::traceql::ast::{
    Aggregate, ArithmeticOp, BinaryOp, ComparisonOp, FieldExpr, Pipeline, Relation, ScalarExpr, ScalarFilter, SpansetExpr, SpansetOp,
    Stage, StructuralForm,
};
use crate::traceql::testing::TestTrace;
use crate::traceql::types::{Static, binary, compare};

#[derive(Debug, Clone, PartialEq)]
pub(in crate::traceql::engine) struct Set {
    /// Places in the trace.
    pub(in crate::traceql::engine) spans: Vec<usize>,
    pub(in crate::traceql::engine) attributes: Vec<(String, Static)>,
}

/// An operand yields several spansets.
#[derive(Debug, PartialEq)]
pub(in crate::traceql::engine) struct Split;

type Sets = Result<Vec<Set>, Split>;

/// Returns the spansets of the trace.
pub(in crate::traceql::engine) fn search(pipeline: &Pipeline, trace: &TestTrace) -> Sets {
    stages(pipeline, trace, vec![Set { spans: (0..trace.spans.len()).collect(), attributes: Vec::new() }])
}

fn stages(pipeline: &Pipeline, trace: &TestTrace, input: Vec<Set>) -> Sets {
    let mut sets = input;
    for stage in &pipeline.stages {
        let mut next: Vec<Set> = Vec::new();
        match stage {
            Stage::Select(_) => next = sets,
            Stage::Coalesce => {
                let spans: Vec<usize> = sets.into_iter().flat_map(|set| set.spans).collect();
                next.push(Set { spans, attributes: Vec::new() });
            }
            Stage::Spanset(expr) => {
                for set in &sets {
                    next.extend(spansets(expr, trace, set)?);
                }
            }
            Stage::GroupBy(expr) => sets.iter().for_each(|set| next.extend(groups(expr, trace, set))),
            Stage::ScalarFilter(filter) => {
                for set in &sets {
                    next.extend(scalar_filter(filter, trace, set)?);
                }
            }
        }
        next.retain(|set| !set.spans.is_empty());
        sets = next;
    }
    Ok(sets)
}

fn spansets(expr: &SpansetExpr, trace: &TestTrace, set: &Set) -> Sets {
    match expr {
        SpansetExpr::Filter(filter) => {
            let spans = set.spans.iter().copied().filter(|span| keeps(filter, trace, &trace.spans[*span])).collect();
            Ok(vec![Set { spans, ..set.clone() }])
        }
        SpansetExpr::Pipeline(pipeline) => stages(pipeline, trace, vec![set.clone()]),
        SpansetExpr::Binary { op, lhs, rhs } => {
            let (left, right) = (single(spansets(lhs, trace, set)?)?, single(spansets(rhs, trace, set)?)?);
            let spans = match op {
                SpansetOp::And if left.is_empty() || right.is_empty() => Vec::new(),
                SpansetOp::And | SpansetOp::Or if left.len() < right.len() => union(&[left, right]),
                SpansetOp::And | SpansetOp::Or => union(&[right, left]),
                SpansetOp::Structural { relation, form } => structural(*relation, *form, &Tree::new(trace), &left, &right),
            };
            Ok(vec![Set { spans, ..set.clone() }])
        }
    }
}

fn single(sets: Vec<Set>) -> Result<Vec<usize>, Split> {
    if sets.len() > 1 { Err(Split) } else { Ok(sets.into_iter().next().map_or_else(Vec::new, |set| set.spans)) }
}

fn union(lists: &[Vec<usize>]) -> Vec<usize> {
    let mut all = Vec::new();
    for span in lists.iter().flatten() {
        if !all.contains(span) {
            all.push(*span);
        }
    }
    all
}

fn structural(relation: Relation, form: StructuralForm, tree: &Tree, left: &[usize], right: &[usize]) -> Vec<usize> {
    let relates = |l: usize, r: usize| tree.relates(relation, l, r);
    let has_partner = |r: &usize| left.iter().any(|l| relates(*l, *r));
    match form {
        StructuralForm::Plain => right.iter().copied().filter(|r| has_partner(r)).collect(),
        StructuralForm::Negated => right.iter().copied().filter(|r| !has_partner(r)).collect(),
        StructuralForm::Union => {
            // each span of the lower side, the left one for siblings, followed by its partners
            let is_right_lower = matches!(relation, Relation::Child | Relation::Descendant);
            let (lower, upper) = if is_right_lower { (right, left) } else { (left, right) };
            let are_pair = |low: usize, high: usize| if is_right_lower { relates(high, low) } else { relates(low, high) };
            let mut lists = Vec::new();
            for low in lower {
                let partners: Vec<usize> = upper.iter().copied().filter(|high| are_pair(*low, *high)).collect();
                if !partners.is_empty() {
                    lists.push(vec![*low]);
                    lists.push(partners);
                }
            }
            union(&lists)
        }
    }
}

fn at(trace: &TestTrace, span: usize) -> Site<'_> {
    Site { trace, span: &trace.spans[span], event: None, link: None }
}

fn groups(expr: &FieldExpr, trace: &TestTrace, set: &Set) -> Vec<Set> {
    let mut groups: Vec<Set> = Vec::new();
    let mut group_of: HashMap<Static, usize> = HashMap::new();
    for span in &set.spans {
        let key = value(expr, at(trace, *span));
        let group = *group_of.entry(key.clone()).or_insert_with(|| {
            let mut attributes = set.attributes.clone();
            attributes.push((format!("by({expr})"), key));
            groups.push(Set { spans: Vec::new(), attributes });
            groups.len() - 1
        });
        groups[group].spans.push(*span);
    }
    groups
}

/// What the scalars of a filter found out about a set.
#[derive(Default)]
struct Found {
    attributes: Vec<(String, Static)>,
    /// Of each pipeline.
    spans: Vec<Vec<usize>>,
    lacks_value: bool,
}

fn scalar_filter(filter: &ScalarFilter, trace: &TestTrace, set: &Set) -> Sets {
    let mut found = Found::default();
    let lhs = scalar(&filter.lhs, trace, set, &mut found)?;
    let rhs = scalar(&filter.rhs, trace, set, &mut found)?;
    let holds = binary(BinaryOp::Compare(filter.op), &lhs, &rhs) == Ok(Static::Bool(true));
    if found.lacks_value || !holds {
        return Ok(Vec::new());
    }
    let spans = if found.spans.is_empty() { set.spans.clone() } else { union(&found.spans) };
    let mut attributes = set.attributes.clone();
    for (at, (name, value)) in found.attributes.iter().enumerate() {
        if !found.attributes[..at].iter().any(|(earlier, _)| earlier == name) {
            attributes.push((name.clone(), value.clone()));
        }
    }
    Ok(vec![Set { spans, attributes }])
}

fn scalar(expr: &ScalarExpr, trace: &TestTrace, set: &Set, found: &mut Found) -> Result<Static, Split> {
    Ok(match expr {
        ScalarExpr::Literal(literal) => literal.clone(),
        ScalarExpr::Binary { op, lhs, rhs } => {
            let (lhs, rhs) = (scalar(lhs, trace, set, found)?, scalar(rhs, trace, set, found)?);
            binary(BinaryOp::Arithmetic(*op), &lhs, &rhs).unwrap_or(Static::Nil)
        }
        ScalarExpr::Aggregate(of) => {
            let value = aggregate(of, trace, &set.spans);
            found.lacks_value |= value.is_nil();
            found.attributes.push((of.to_string(), value.clone()));
            value
        }
        ScalarExpr::Pipeline(pipeline, of) => {
            let spans = single(stages(pipeline, trace, vec![set.clone()])?)?;
            let value = aggregate(of, trace, &spans);
            found.attributes.push((expr.to_string(), value.clone()));
            found.spans.push(spans);
            value
        }
    })
}

/// Nil when there is no value.
fn aggregate(aggregate: &Aggregate, trace: &TestTrace, spans: &[usize]) -> Static {
    let Some(operand) = aggregate.operand() else {
        return Static::Int(spans.len() as i64);
    };
    let values = spans.iter().map(|span| value(operand, at(trace, *span)));
    if let Aggregate::CountDistinct(_) = aggregate {
        let distinct: HashSet<Static> = values.filter(|value| !value.is_nil()).collect();
        return Static::Int(distinct.len() as i64);
    }
    let values: Vec<Static> = values.filter(|value| !value.is_nil() && value.elements().is_none()).collect();
    let Some(first) = values.first() else {
        return Static::Nil;
    };
    let extreme = |op| values.iter().fold(first, |best, value| if compare(op, value, best) { value } else { best }).clone();
    match aggregate {
        Aggregate::Count | Aggregate::CountDistinct(_) => unreachable!("is no fold"),
        Aggregate::Min(_) => extreme(ComparisonOp::Lt),
        Aggregate::Max(_) => extreme(ComparisonOp::Gt),
        Aggregate::Sum(_) => sum(&values),
        Aggregate::Avg(_) => match sum(&values) {
            Static::Duration(sum) => Static::Duration(sum / values.len() as i64),
            sum => Static::Float(sum.as_f64().unwrap_or(0.0) / values.len() as f64),
        },
    }
}

/// Adds up the values of the first one's type.
fn sum(values: &[Static]) -> Static {
    let mut sum = values[0].clone();
    for value in values[1..].iter().filter(|value| value.static_type() == values[0].static_type()) {
        sum = match (&sum, value) {
            (Static::Duration(a), Static::Duration(b)) => Static::Duration(a.wrapping_add(*b)),
            (Static::Int(_), _) | (Static::Float(_), _) => binary(BinaryOp::Arithmetic(ArithmeticOp::Add), &sum, value).unwrap(),
            _ => sum,
        };
    }
    sum
}
