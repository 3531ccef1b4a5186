//! Turns a checked query into the stages that are evaluated, what they need of storage, and what results show.

use std::sync::Arc;

use super::projection::{FetchColumn, FetchKinds, FetchSpec};
use crate::traceql::ast::{
    Aggregate, ArithmeticOp, Attribute, ComparisonOp, Intrinsic, Pipeline, Query, QueryBody, ScalarExpr, SpansetExpr, SpansetOp, Stage,
};
use crate::traceql::types::Static;

use super::EngineError;
use super::condition::Condition;
use super::expr::{Node, Value};
use super::pruning;

/// A search query ready to run on any number of tables.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) stages: Vec<PlanStage>,
    pub(super) shown: Vec<Shown>,
    pub(super) shows_name: bool,
    fetch: FetchSpec,
    result_fetch: FetchSpec,
    most_recent: bool,
}

#[derive(Debug, Clone)]
pub(super) enum PlanStage {
    Spansets(Spansets),
    Scalar { op: ComparisonOp, lhs: Scalar, rhs: Scalar },
    GroupBy { value: Value, name: Arc<str> },
    Coalesce,
}

/// What yields at most one spanset per input spanset, or several after a `by` inside.
#[derive(Debug, Clone)]
pub(super) enum Spansets {
    Filter(Node),
    Join { op: Join, lhs: Box<Spansets>, rhs: Box<Spansets> },
    Pipeline(Vec<PlanStage>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    And,
    Or,
}

#[derive(Debug, Clone)]
pub(super) enum Scalar {
    Literal(Static),
    Aggregate(PlanAggregate),
    Arithmetic { op: ArithmeticOp, lhs: Box<Scalar>, rhs: Box<Scalar> },
}

#[derive(Debug, Clone)]
pub(super) struct PlanAggregate {
    pub(super) function: Function,
    /// `None` for `count()`.
    pub(super) value: Option<Value>,
    /// Canonical text: the key of the spanset attribute.
    pub(super) name: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Count,
    Min,
    Max,
    Avg,
    Sum,
}

/// An attribute listed with each span of a result (traceql, per span).
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) attribute: Attribute,
    /// The bare name, without scope.
    pub(super) key: Arc<str>,
    /// Only values that pass one of these are listed; `None`: all.
    pub(super) conditions: Option<Vec<Condition>>,
}

impl Plan {
    /// Plans a validated search query. Fails with [`EngineError::Unsupported`] for structural operators and metrics.
    pub fn new(query: &Query) -> Result<Self, EngineError> {
        let QueryBody::Search(pipeline) = &query.body else {
            return Err(EngineError::Unsupported("metrics evaluation"));
        };
        let stages = stages(pipeline)?;
        let mut fetch = FetchSpec::default();
        visit_stages(&stages, &mut |attribute, condition| fetch.add(attribute, condition.map_or(FetchKinds::ALL, Condition::kinds)));
        fetch.conditions = pruning::conditions(&stages);
        let mut shown = ShownList::default();
        visit_stages(&stages, &mut |attribute, condition| shown.add(attribute, condition));
        selected(pipeline, &mut |attribute| shown.add(attribute, None));
        let ShownList { list: shown, shows_name } = shown;
        let result_fetch = result_fetch(&shown, shows_name);
        let most_recent = matches!(query.hint("most_recent"), Some(Static::Bool(true)));
        Ok(Self { stages, shown, shows_name, fetch, result_fetch, most_recent })
    }

    /// What [`evaluate`](super::evaluate) reads. With a time range or duration bound in the request, add [`FetchColumn::TraceTimes`].
    pub fn fetch(&self) -> &FetchSpec {
        &self.fetch
    }

    /// What [`hits`](super::hits) reads of the matching traces.
    pub fn result_fetch(&self) -> &FetchSpec {
        &self.result_fetch
    }

    /// Whether no span of any trace can match, so that nothing needs to be read.
    pub fn is_noop(&self) -> bool {
        self.stages.iter().any(|stage| matches!(stage, PlanStage::Spansets(spansets) if spansets.is_never()))
    }

    /// Whether the query asks for the newest traces (`with (most_recent=true)`).
    pub fn most_recent(&self) -> bool {
        self.most_recent
    }
}

impl Spansets {
    pub(super) fn is_never(&self) -> bool {
        match self {
            Self::Filter(node) => matches!(node, Node::Const(false)),
            Self::Join { op: Join::And, lhs, rhs } => lhs.is_never() || rhs.is_never(),
            Self::Join { op: Join::Or, lhs, rhs } => lhs.is_never() && rhs.is_never(),
            Self::Pipeline(_) => false,
        }
    }

    fn visit(&self, visit: &mut dyn FnMut(&Attribute, Option<&Condition>)) {
        match self {
            Self::Filter(node) => node.visit(visit),
            Self::Join { op: _, lhs, rhs } => {
                lhs.visit(visit);
                rhs.visit(visit);
            }
            Self::Pipeline(stages) => visit_stages(stages, visit),
        }
    }
}

impl Scalar {
    pub(super) fn aggregates<'s>(&'s self, found: &mut Vec<&'s PlanAggregate>) {
        match self {
            Self::Literal(_) => {}
            Self::Aggregate(aggregate) => found.push(aggregate),
            Self::Arithmetic { op: _, lhs, rhs } => {
                lhs.aggregates(found);
                rhs.aggregates(found);
            }
        }
    }
}

pub(super) fn visit_stages(stages: &[PlanStage], visit: &mut dyn FnMut(&Attribute, Option<&Condition>)) {
    for stage in stages {
        match stage {
            PlanStage::Spansets(spansets) => spansets.visit(visit),
            PlanStage::Scalar { op: _, lhs, rhs } => {
                let mut aggregates = Vec::new();
                lhs.aggregates(&mut aggregates);
                rhs.aggregates(&mut aggregates);
                aggregates.iter().filter_map(|aggregate| aggregate.value.as_ref()).for_each(|value| value.visit(visit));
            }
            PlanStage::GroupBy { value, name: _ } => value.visit(visit),
            PlanStage::Coalesce => {}
        }
    }
}

pub(super) fn stages(pipeline: &Pipeline) -> Result<Vec<PlanStage>, EngineError> {
    let mut stages = Vec::with_capacity(pipeline.stages.len());
    for stage in &pipeline.stages {
        match stage {
            Stage::Spanset(expr) => stages.push(PlanStage::Spansets(spansets(expr)?)),
            Stage::ScalarFilter(filter) => {
                stages.push(PlanStage::Scalar { op: filter.op, lhs: scalar(&filter.lhs)?, rhs: scalar(&filter.rhs)? });
            }
            Stage::GroupBy(expr) => stages.push(PlanStage::GroupBy { value: Value::new(expr), name: format!("by({expr})").into() }),
            Stage::Select(_) => {}
            Stage::Coalesce => stages.push(PlanStage::Coalesce),
        }
    }
    Ok(stages)
}

fn spansets(expr: &SpansetExpr) -> Result<Spansets, EngineError> {
    Ok(match expr {
        SpansetExpr::Filter(expr) => Spansets::Filter(Node::new(expr)),
        SpansetExpr::Pipeline(pipeline) => Spansets::Pipeline(stages(pipeline)?),
        SpansetExpr::Binary { op, lhs, rhs } => {
            let op = match op {
                SpansetOp::And => Join::And,
                SpansetOp::Or => Join::Or,
                SpansetOp::Structural { .. } => return Err(EngineError::Unsupported("structural operators")),
            };
            Spansets::Join { op, lhs: Box::new(spansets(lhs)?), rhs: Box::new(spansets(rhs)?) }
        }
    })
}

fn scalar(expr: &ScalarExpr) -> Result<Scalar, EngineError> {
    Ok(match expr {
        ScalarExpr::Literal(literal) => Scalar::Literal(literal.clone()),
        ScalarExpr::Aggregate(aggregate) => Scalar::Aggregate(plan_aggregate(aggregate)),
        ScalarExpr::Binary { op, lhs, rhs } => Scalar::Arithmetic { op: *op, lhs: Box::new(scalar(lhs)?), rhs: Box::new(scalar(rhs)?) },
        ScalarExpr::Pipeline(..) => return Err(EngineError::Unsupported("scalar filters over pipelines")),
    })
}

fn plan_aggregate(aggregate: &Aggregate) -> PlanAggregate {
    let function = match aggregate {
        Aggregate::Count => Function::Count,
        Aggregate::Min(_) => Function::Min,
        Aggregate::Max(_) => Function::Max,
        Aggregate::Avg(_) => Function::Avg,
        Aggregate::Sum(_) => Function::Sum,
    };
    PlanAggregate { function, value: aggregate.operand().map(Value::new), name: aggregate.to_string().into() }
}

/// Calls `visit` for the attributes of all `select` stages.
pub(super) fn selected(pipeline: &Pipeline, visit: &mut dyn FnMut(&Attribute)) {
    fn in_spansets(expr: &SpansetExpr, visit: &mut dyn FnMut(&Attribute)) {
        match expr {
            SpansetExpr::Filter(_) => {}
            SpansetExpr::Binary { op: _, lhs, rhs } => {
                in_spansets(lhs, visit);
                in_spansets(rhs, visit);
            }
            SpansetExpr::Pipeline(pipeline) => selected(pipeline, visit),
        }
    }
    for stage in &pipeline.stages {
        match stage {
            Stage::Select(attributes) => attributes.iter().for_each(&mut *visit),
            Stage::Spanset(expr) => in_spansets(expr, visit),
            Stage::ScalarFilter(_) | Stage::GroupBy(_) | Stage::Coalesce => {}
        }
    }
}

#[derive(Default)]
struct ShownList {
    list: Vec<Shown>,
    shows_name: bool,
}

impl ShownList {
    fn add(&mut self, attribute: &Attribute, condition: Option<&Condition>) {
        // an existence test reads all values
        let condition = condition.filter(|condition| !matches!(condition, Condition::Exists));
        let key = match attribute {
            Attribute::Named(named) => named.name.clone(),
            Attribute::Intrinsic(Intrinsic::Name) => {
                self.shows_name = true;
                return;
            }
            Attribute::Intrinsic(
                Intrinsic::Duration
                | Intrinsic::TraceDuration
                | Intrinsic::RootName
                | Intrinsic::RootServiceName
                | Intrinsic::TraceId
                | Intrinsic::SpanId
                | Intrinsic::Parent,
            ) => return,
            Attribute::Intrinsic(_) => attribute.to_string().into(),
        };
        let conditions = condition.map(|condition| vec![condition.clone()]);
        match self.list.iter_mut().find(|shown| shown.attribute == *attribute) {
            None => self.list.push(Shown { attribute: attribute.clone(), key, conditions }),
            Some(shown) => match (&mut shown.conditions, conditions) {
                (Some(known), Some(more)) => known.extend(more),
                (known, _) => *known = None,
            },
        }
    }
}

fn result_fetch(shown: &[Shown], shows_name: bool) -> FetchSpec {
    let mut fetch = FetchSpec::default();
    fetch.columns.extend([
        FetchColumn::TraceTimes,
        FetchColumn::RootServiceName,
        FetchColumn::RootSpanName,
        FetchColumn::ServiceStats,
        FetchColumn::SpanId,
        FetchColumn::SpanStart,
        FetchColumn::SpanDuration,
    ]);
    if shows_name {
        fetch.columns.insert(FetchColumn::SpanName);
    }
    for shown in shown {
        let kinds = |conditions: &Vec<Condition>| conditions.iter().map(Condition::kinds).fold(FetchKinds::default(), FetchKinds::union);
        fetch.add(&shown.attribute, shown.conditions.as_ref().map_or(FetchKinds::ALL, kinds));
    }
    fetch
}
