//! Turns a checked query into the stages that are evaluated, what they need of storage, and what results show.

use std::sync::Arc;

use super::prefilter::Prefilter;
use super::projection::{FetchColumn, FetchKinds, FetchSpec};
use crate::traceql::ast::{
    Aggregate, ArithmeticOp, Attribute, ComparisonOp, Intrinsic, MetricsNode, Owner, Pipeline, Query, QueryBody, Relation, ScalarExpr,
    SpansetExpr, SpansetOp, Stage, StructuralForm,
};
use crate::traceql::order::SearchOrder;
use crate::traceql::types::Static;

use super::EngineError;
use super::condition::Condition;
use super::expr::{Node, Value};
use super::pruning;
use super::structure::numbers_of;

/// A search query ready to run on any number of tables.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) stages: Vec<PlanStage>,
    pub(super) shown: Vec<Shown>,
    pub(super) shows_name: bool,
    fetch: FetchSpec,
    result_fetch: FetchSpec,
    prefilter: Option<Arc<Prefilter>>,
    order: SearchOrder,
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
    Join { op: SpansetOp, lhs: Box<Spansets>, rhs: Box<Spansets> },
    Pipeline(Vec<PlanStage>),
}

#[derive(Debug, Clone)]
pub(super) enum Scalar {
    Literal(Static),
    Aggregate(PlanAggregate),
    Arithmetic {
        op: ArithmeticOp,
        lhs: Box<Scalar>,
        rhs: Box<Scalar>,
    },
    /// The aggregate of what the stages keep of the input.
    Pipeline(PipelineScalar),
}

#[derive(Debug, Clone)]
pub(super) struct PipelineScalar {
    pub(super) stages: Vec<PlanStage>,
    /// Named after the whole pipeline.
    pub(super) aggregate: PlanAggregate,
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
    CountDistinct,
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
    /// Plans a validated query. Of a metrics query, the pipeline before the function is searched; arithmetic over several has none.
    pub fn new(query: &Query) -> Result<Self, EngineError> {
        let pipeline = match &query.body {
            QueryBody::Search(pipeline) => pipeline,
            QueryBody::Metrics(metrics) => match &metrics.node {
                MetricsNode::Query(metrics) => &metrics.pipeline,
                MetricsNode::Binary { .. } | MetricsNode::ScalarLeft { .. } | MetricsNode::ScalarRight { .. } => {
                    return Err(EngineError::MathExpression);
                }
            },
        };
        let stages = stages(pipeline);
        let fetch = fetch_of(&stages);
        let mut shown = ShownList::default();
        visit_stages(&stages, &mut |attribute, condition| shown.add(attribute, condition));
        selected(pipeline, &mut |attribute| shown.add(attribute, None));
        let ShownList { list: shown, shows_name } = shown;
        let result_fetch = result_fetch(&shown, shows_name);
        let prefilter = Prefilter::new(&stages, &fetch).map(Arc::new);
        Ok(Self { stages, shown, shows_name, fetch, result_fetch, prefilter, order: SearchOrder::of(query)? })
    }

    /// What [`evaluate`](super::evaluate) reads. With a time range or duration bound in the request, add [`FetchColumn::TraceTimes`].
    pub fn fetch(&self) -> &FetchSpec {
        &self.fetch
    }

    /// What tells traces that cannot match before all of [`Plan::fetch`] is read.
    pub fn prefilter(&self) -> Option<&Arc<Prefilter>> {
        self.prefilter.as_ref()
    }

    /// What [`hits`](super::hits) reads of the matching traces.
    pub fn result_fetch(&self) -> &FetchSpec {
        &self.result_fetch
    }

    /// Whether no span of any trace can match, so that nothing needs to be read.
    pub fn is_noop(&self) -> bool {
        let mut certain = self.stages.iter().take_while(|stage| !stage.may_fail());
        certain.any(|stage| matches!(stage, PlanStage::Spansets(spansets) if spansets.is_never()))
    }

    /// Whether the query may refuse its spans. Then all traces must be looked at, even those that would not change the answer.
    pub fn may_refuse(&self) -> bool {
        self.stages.iter().any(PlanStage::may_fail)
    }

    /// Which of the matching traces are wanted.
    pub fn order(&self) -> SearchOrder {
        self.order
    }
}

/// Returns what evaluating the stages reads.
pub(super) fn fetch_of(stages: &[PlanStage]) -> FetchSpec {
    let mut fetch = FetchSpec::default();
    stages.iter().for_each(|stage| stage.visit_relations(&mut |relation| fetch.columns.extend(numbers_of(relation).iter().copied())));
    visit_stages(stages, &mut |attribute, condition| fetch.add(attribute, condition.map_or(FetchKinds::ALL, Condition::kinds)));
    fetch.conditions = pruning::conditions(stages);
    fetch
}

impl PlanStage {
    fn may_split(&self) -> bool {
        match self {
            Self::GroupBy { .. } => true,
            Self::Spansets(spansets) => spansets.may_split(),
            Self::Scalar { op: _, lhs, rhs } => {
                let may_split = |scalar: &PipelineScalar| scalar.stages.iter().any(Self::may_split);
                lhs.pipelines().into_iter().chain(rhs.pipelines()).any(may_split)
            }
            Self::Coalesce => false,
        }
    }

    /// Whether the stage may refuse its input. Then it must see all of it, so that refusing does not depend on what storage left out.
    pub(super) fn may_fail(&self) -> bool {
        match self {
            Self::Spansets(Spansets::Filter(_)) | Self::GroupBy { .. } | Self::Coalesce => false,
            Self::Spansets(Spansets::Pipeline(stages)) => stages.iter().any(Self::may_fail),
            Self::Spansets(Spansets::Join { .. }) | Self::Scalar { .. } => self.may_split(),
        }
    }

    fn visit_relations(&self, visit: &mut dyn FnMut(Relation)) {
        match self {
            Self::Spansets(spansets) => spansets.visit_relations(visit),
            Self::Scalar { op: _, lhs, rhs } => {
                let pipelines = lhs.pipelines().into_iter().chain(rhs.pipelines());
                pipelines.flat_map(|scalar| &scalar.stages).for_each(|stage| stage.visit_relations(visit));
            }
            Self::GroupBy { .. } | Self::Coalesce => {}
        }
    }
}

impl Spansets {
    /// Whether no span can come out.
    pub(super) fn is_never(&self) -> bool {
        match self {
            Self::Filter(node) => matches!(node, Node::Const(false)),
            Self::Join { op, lhs, rhs } => match op {
                SpansetOp::Or => lhs.is_never() && rhs.is_never(),
                SpansetOp::Structural { relation: _, form: StructuralForm::Negated } => rhs.is_never(),
                SpansetOp::And | SpansetOp::Structural { relation: _, form: StructuralForm::Plain | StructuralForm::Union } => {
                    lhs.is_never() || rhs.is_never()
                }
            },
            Self::Pipeline(_) => false,
        }
    }

    /// Whether a `by` is inside: then several spansets may come out for one that goes in, or it may fail because they did further in.
    pub(super) fn may_split(&self) -> bool {
        match self {
            Self::Filter(_) => false,
            Self::Join { op: _, lhs, rhs } => lhs.may_split() || rhs.may_split(),
            Self::Pipeline(stages) => stages.iter().any(PlanStage::may_split),
        }
    }

    fn visit_relations(&self, visit: &mut dyn FnMut(Relation)) {
        match self {
            Self::Filter(_) => {}
            Self::Join { op, lhs, rhs } => {
                if let SpansetOp::Structural { relation, form: _ } = op {
                    visit(*relation);
                }
                lhs.visit_relations(visit);
                rhs.visit_relations(visit);
            }
            Self::Pipeline(stages) => stages.iter().for_each(|stage| stage.visit_relations(visit)),
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
    /// Returns the aggregates over the filtered set itself, from left to right.
    pub(super) fn aggregates(&self) -> Vec<&PlanAggregate> {
        self.leaves(&|leaf| if let Self::Aggregate(aggregate) = leaf { Some(aggregate) } else { None })
    }

    /// Returns the pipelines from left to right.
    pub(super) fn pipelines(&self) -> Vec<&PipelineScalar> {
        self.leaves(&|leaf| if let Self::Pipeline(pipeline) = leaf { Some(pipeline) } else { None })
    }

    fn leaves<'s, T>(&'s self, wanted: &impl Fn(&'s Self) -> Option<&'s T>) -> Vec<&'s T> {
        match self {
            Self::Arithmetic { op: _, lhs, rhs } => {
                let mut found = lhs.leaves(wanted);
                found.extend(rhs.leaves(wanted));
                found
            }
            leaf => wanted(leaf).into_iter().collect(),
        }
    }

    fn visit(&self, visit: &mut dyn FnMut(&Attribute, Option<&Condition>)) {
        match self {
            Self::Literal(_) => {}
            Self::Aggregate(aggregate) => aggregate.visit(visit),
            Self::Arithmetic { op: _, lhs, rhs } => {
                lhs.visit(visit);
                rhs.visit(visit);
            }
            Self::Pipeline(PipelineScalar { stages, aggregate }) => {
                visit_stages(stages, visit);
                aggregate.visit(visit);
            }
        }
    }
}

impl PlanAggregate {
    fn visit(&self, visit: &mut dyn FnMut(&Attribute, Option<&Condition>)) {
        if let Some(value) = &self.value {
            value.visit(visit);
        }
    }
}

pub(super) fn visit_stages(stages: &[PlanStage], visit: &mut dyn FnMut(&Attribute, Option<&Condition>)) {
    for stage in stages {
        match stage {
            PlanStage::Spansets(spansets) => spansets.visit(visit),
            PlanStage::Scalar { op: _, lhs, rhs } => {
                lhs.visit(visit);
                rhs.visit(visit);
            }
            PlanStage::GroupBy { value, name: _ } => value.visit(visit),
            PlanStage::Coalesce => {}
        }
    }
}

pub(super) fn stages(pipeline: &Pipeline) -> Vec<PlanStage> {
    let plan = |stage: &Stage| match stage {
        Stage::Spanset(expr) => Some(PlanStage::Spansets(spansets(expr))),
        Stage::ScalarFilter(filter) => Some(PlanStage::Scalar { op: filter.op, lhs: scalar(&filter.lhs), rhs: scalar(&filter.rhs) }),
        Stage::GroupBy(expr) => Some(PlanStage::GroupBy { value: Value::new(expr), name: format!("by({expr})").into() }),
        Stage::Select(_) => None,
        Stage::Coalesce => Some(PlanStage::Coalesce),
    };
    pipeline.stages.iter().filter_map(plan).collect()
}

fn spansets(expr: &SpansetExpr) -> Spansets {
    match expr {
        SpansetExpr::Filter(expr) => Spansets::Filter(Node::new(expr)),
        SpansetExpr::Pipeline(pipeline) => Spansets::Pipeline(stages(pipeline)),
        SpansetExpr::Binary { op, lhs, rhs } => Spansets::Join { op: *op, lhs: Box::new(spansets(lhs)), rhs: Box::new(spansets(rhs)) },
    }
}

fn scalar(expr: &ScalarExpr) -> Scalar {
    match expr {
        ScalarExpr::Literal(literal) => Scalar::Literal(literal.clone()),
        ScalarExpr::Aggregate(aggregate) => Scalar::Aggregate(plan_aggregate(aggregate)),
        ScalarExpr::Binary { op, lhs, rhs } => Scalar::Arithmetic { op: *op, lhs: Box::new(scalar(lhs)), rhs: Box::new(scalar(rhs)) },
        ScalarExpr::Pipeline(pipeline, aggregate) => {
            let aggregate = PlanAggregate { name: expr.to_string().into(), ..plan_aggregate(aggregate) };
            Scalar::Pipeline(PipelineScalar { stages: stages(pipeline), aggregate })
        }
    }
}

fn plan_aggregate(aggregate: &Aggregate) -> PlanAggregate {
    let function = match aggregate {
        Aggregate::Count => Function::Count,
        Aggregate::Min(_) => Function::Min,
        Aggregate::Max(_) => Function::Max,
        Aggregate::Avg(_) => Function::Avg,
        Aggregate::Sum(_) => Function::Sum,
        Aggregate::CountDistinct(_) => Function::CountDistinct,
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
    fn in_scalar(expr: &ScalarExpr, visit: &mut dyn FnMut(&Attribute)) {
        match expr {
            ScalarExpr::Literal(_) | ScalarExpr::Aggregate(_) => {}
            ScalarExpr::Binary { op: _, lhs, rhs } => {
                in_scalar(lhs, visit);
                in_scalar(rhs, visit);
            }
            ScalarExpr::Pipeline(pipeline, _) => selected(pipeline, visit),
        }
    }
    for stage in &pipeline.stages {
        match stage {
            Stage::Select(attributes) => attributes.iter().for_each(&mut *visit),
            Stage::Spanset(expr) => in_spansets(expr, visit),
            Stage::ScalarFilter(filter) => {
                in_scalar(&filter.lhs, visit);
                in_scalar(&filter.rhs, visit);
            }
            Stage::GroupBy(_) | Stage::Coalesce => {}
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
            Attribute::Named(named) => match named.owner {
                Owner::Itself => named.name.clone(),
                Owner::Parent => format!("parent.{}", named.name).into(),
                Owner::Root => format!("root.{}", named.name).into(),
            },
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
