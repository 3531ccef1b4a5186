//! Conditions that every matching trace satisfies somewhere, by which storage may skip whole runs of traces.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::projection::{AttributeLevel, FetchColumn, FetchCondition, FetchTarget, FetchTest, SERVICE_NAME, column_of};
use crate::model::ids::TraceId;
use crate::traceql::ast::{Attribute, AttributeScope, ComparisonOp, Intrinsic, SpansetOp, StructuralForm};
use crate::traceql::types::Static;

use super::condition::Condition;
use super::expr::{Node, Test};
use super::plan::{PlanStage, Spansets};

/// Returns the conditions implied by the stages: each of [`required_filters`] must keep some span.
pub(super) fn conditions(stages: &[PlanStage]) -> Vec<FetchCondition> {
    let mut found = Vec::new();
    required_filters(stages).into_iter().for_each(|filter| of_node(filter, &mut found));
    found
}

/// Returns the filters that each keep some span of every matching trace, up to a stage that may fail.
pub(super) fn required_filters(stages: &[PlanStage]) -> Vec<&Node> {
    let mut found = Vec::new();
    of_stages(stages, &mut found);
    found
}

fn of_stages<'p>(stages: &'p [PlanStage], found: &mut Vec<&'p Node>) {
    for stage in stages.iter().take_while(|stage| !stage.may_fail()) {
        match stage {
            PlanStage::Spansets(spansets) => of_spansets(spansets, found),
            PlanStage::Scalar { op: _, lhs, rhs } => {
                let pipelines: Vec<_> = lhs.pipelines().into_iter().chain(rhs.pipelines()).collect();
                // the spans of a result come from any of several pipelines, but certainly from a single one
                if let [only] = pipelines.as_slice() {
                    of_stages(&only.stages, found);
                }
            }
            PlanStage::GroupBy { .. } | PlanStage::Coalesce => {}
        }
    }
}

fn of_spansets<'p>(spansets: &'p Spansets, found: &mut Vec<&'p Node>) {
    match spansets {
        Spansets::Filter(node) => found.push(node),
        Spansets::Join { op, lhs, rhs } => match op {
            SpansetOp::And | SpansetOp::Structural { relation: _, form: StructuralForm::Plain | StructuralForm::Union } => {
                of_spansets(lhs, found);
                of_spansets(rhs, found);
            }
            // the left side may be empty
            SpansetOp::Structural { relation: _, form: StructuralForm::Negated } => of_spansets(rhs, found),
            SpansetOp::Or => {}
        },
        Spansets::Pipeline(stages) => of_stages(stages, found),
    }
}

fn of_node(node: &Node, found: &mut Vec<FetchCondition>) {
    match node {
        Node::All(nodes) => nodes.iter().for_each(|node| of_node(node, found)),
        Node::On(_, node) => of_node(node, found),
        Node::Test(test) => found.extend(of_test(test).filter(|condition| !found.contains(condition))),
        Node::Const(_) | Node::Any(_) | Node::Not(_) | Node::Compare { .. } | Node::Present { .. } => {}
    }
}

fn of_test(test: &Test) -> Option<FetchCondition> {
    match &test.attribute {
        Attribute::Intrinsic(Intrinsic::TraceId) => {
            let ids: Option<Vec<TraceId>> = exact_texts(&test.condition)?.iter().map(|text| TraceId::from_hex(text)).collect();
            Some(FetchCondition { target: FetchTarget::TraceId, test: FetchTest::TraceIds(ids?) })
        }
        Attribute::Intrinsic(intrinsic) => {
            let column = column_of(*intrinsic)?;
            Some(FetchCondition { target: FetchTarget::Column(column), test: of_column(*intrinsic, &test.condition)? })
        }
        Attribute::Named(named) => {
            let key = named.name.clone();
            let is_service = &*named.name == SERVICE_NAME;
            let target = match named.scope {
                AttributeScope::Unscoped => FetchTarget::SpanOrResource(key),
                AttributeScope::Resource if is_service => FetchTarget::Column(FetchColumn::ServiceName),
                AttributeScope::Resource => FetchTarget::Attribute(AttributeLevel::Resource, key),
                AttributeScope::Span => FetchTarget::Attribute(AttributeLevel::Span, key),
                AttributeScope::Event => FetchTarget::Attribute(AttributeLevel::Event, key),
                AttributeScope::Link => FetchTarget::Attribute(AttributeLevel::Link, key),
                AttributeScope::Instrumentation => FetchTarget::Attribute(AttributeLevel::Scope, key),
            };
            let test = of_value(&test.condition)?;
            // A service name that is no string is not in the column, and an absent one is there all the same.
            if is_service && !matches!(test, FetchTest::Strings(_) | FetchTest::Patterns(_)) {
                return None;
            }
            Some(FetchCondition { target, test })
        }
    }
}

fn of_value(condition: &Condition) -> Option<FetchTest> {
    match condition {
        Condition::Missing => None,
        // floats between the literal and the next integer pass `<` and `>` too, so the literal itself is within
        Condition::Compare(ComparisonOp::Eq, Static::Int(literal)) => Some(FetchTest::Numbers(*literal..=*literal)),
        Condition::Compare(ComparisonOp::Lt | ComparisonOp::Le, Static::Int(literal)) => Some(FetchTest::Numbers(i64::MIN..=*literal)),
        Condition::Compare(ComparisonOp::Gt | ComparisonOp::Ge, Static::Int(literal)) => Some(FetchTest::Numbers(*literal..=i64::MAX)),
        _ => of_text(condition).or(Some(FetchTest::Present)),
    }
}

fn of_column(intrinsic: Intrinsic, condition: &Condition) -> Option<FetchTest> {
    match intrinsic {
        Intrinsic::Name
        | Intrinsic::StatusMessage
        | Intrinsic::RootName
        | Intrinsic::RootServiceName
        | Intrinsic::EventName
        | Intrinsic::InstrumentationName
        | Intrinsic::InstrumentationVersion => of_text(condition),
        Intrinsic::Status | Intrinsic::Kind => match condition {
            Condition::Compare(ComparisonOp::Eq, Static::Status(status)) => exactly(i64::from(status.to_otlp())),
            Condition::Compare(ComparisonOp::Eq, Static::Kind(kind)) => exactly(i64::from(kind.to_otlp())),
            _ => None,
        }
        // numbers outside OTLP count as unset and unspecified, so these say nothing about the stored number
        .filter(|test| *test != FetchTest::Numbers(0..=0)),
        Intrinsic::Duration | Intrinsic::TraceDuration | Intrinsic::EventTimeSinceStart | Intrinsic::SpanChildCount => match condition {
            Condition::Compare(op, Static::Int(literal) | Static::Duration(literal)) => range(*op, *literal).map(FetchTest::Numbers),
            _ => None,
        },
        // three columns in one
        Intrinsic::NestedSetLeft | Intrinsic::NestedSetRight | Intrinsic::NestedSetParent => None,
        Intrinsic::SpanId
        | Intrinsic::SpanParentId
        | Intrinsic::LinkTraceId
        | Intrinsic::LinkSpanId
        | Intrinsic::TraceId
        | Intrinsic::Parent => None,
    }
}

fn of_text(condition: &Condition) -> Option<FetchTest> {
    match condition {
        Condition::Matches { patterns, wanted: true } => Some(FetchTest::Patterns(patterns.clone())),
        _ => exact_texts(condition).map(FetchTest::Strings),
    }
}

fn exact_texts(condition: &Condition) -> Option<Vec<Arc<str>>> {
    let (texts, wanted) = condition.exact_texts()?;
    wanted.then(|| texts.into_iter().cloned().collect())
}

fn exactly(number: i64) -> Option<FetchTest> {
    Some(FetchTest::Numbers(number..=number))
}

/// Returns the numbers `n` with `n OP literal`; `None` when that excludes next to nothing or everything.
fn range(op: ComparisonOp, literal: i64) -> Option<RangeInclusive<i64>> {
    match op {
        ComparisonOp::Eq => Some(literal..=literal),
        ComparisonOp::Ne => None,
        ComparisonOp::Lt => Some(i64::MIN..=literal.checked_sub(1)?),
        ComparisonOp::Le => Some(i64::MIN..=literal),
        ComparisonOp::Gt => Some(literal.checked_add(1)?..=i64::MAX),
        ComparisonOp::Ge => Some(literal..=i64::MAX),
    }
}
