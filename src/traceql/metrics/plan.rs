//! Turns a checked metrics query into its sub-queries, what they need of storage, and what is done with their series in the end.

use std::sync::Arc;

use crate::traceql::ast::{
    ArithmeticOp, Attribute, Compare, Intrinsic, MetricsExpr, MetricsFunction, MetricsNode, MetricsQuery, Query, QueryBody, SecondStage,
};
use crate::traceql::engine::EngineError;
use crate::traceql::engine::prefilter::Prefilter;
use crate::traceql::engine::projection::{FetchColumn, FetchCondition, FetchKeys, FetchKinds, FetchSpec};
use crate::traceql::engine::source::{SpanFilter, SpanSource};
use crate::traceql::rewrite::or_to_in;
use crate::traceql::types::Static;

/// A metrics query ready to run on any number of tables; clones share it.
#[derive(Debug, Clone)]
pub struct MetricsPlan(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: Vec<Part>,
    expr: PlanExpr,
    fetch: FetchSpec,
    prefilter: Option<Arc<Prefilter>>,
    exemplars: Option<u32>,
    sampling: Sampling,
    extrapolates: bool,
}

/// A sub-query: one per distinct text.
#[derive(Debug)]
pub(super) struct Part {
    /// Names the sub-query between stages ([`super::FRAGMENT_LABEL`]).
    pub(super) key: Arc<str>,
    pub(super) source: SpanSource,
    pub(super) function: Function,
    /// Grouping, with the names of the labels.
    pub(super) by: Vec<Named>,
    /// What exemplars tell about their span.
    pub(super) shown: Vec<Named>,
}

/// An attribute and its canonical text.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) name: Arc<str>,
    pub(super) attribute: Attribute,
}

#[derive(Debug)]
pub(super) enum Function {
    Count,
    Rate,
    Min(Attribute),
    Max(Attribute),
    Sum(Attribute),
    Avg(Attribute),
    Histogram(Attribute),
    Quantile { attribute: Attribute, quantiles: Vec<f64> },
    Compare(CompareFunction),
}

#[derive(Debug)]
pub(super) struct CompareFunction {
    pub(super) selection: SpanFilter,
    pub(super) top_n: usize,
    /// Spans that may be in the selection start in (start, end].
    pub(super) start: u64,
    pub(super) end: u64,
}

/// What is computed from the sub-queries.
#[derive(Debug)]
pub(super) struct PlanExpr {
    pub(super) node: PlanNode,
    pub(super) second_stages: Vec<SecondStage>,
}

#[derive(Debug)]
pub(super) enum PlanNode {
    Part(usize),
    Binary { op: ArithmeticOp, lhs: Box<PlanExpr>, rhs: Box<PlanExpr> },
    ScalarRight { op: ArithmeticOp, lhs: Box<PlanExpr>, scalar: f64 },
    ScalarLeft { op: ArithmeticOp, scalar: f64, rhs: Box<PlanExpr> },
}

/// How much of the data is looked at (metrics, sampling).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampling {
    pub(super) rate: SampleRate,
    /// Whole traces are taken or left.
    pub(super) by_trace: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum SampleRate {
    All,
    /// Less the more is found.
    Adaptive,
    /// Every n-th.
    OneIn(usize),
}

impl MetricsPlan {
    /// Plans a validated metrics query.
    ///
    /// # Errors
    /// [`EngineError::NotMetrics`] for a search query.
    pub fn new(query: &Query) -> Result<Self, EngineError> {
        // keys of sub-queries are those of the rewritten text
        let query = or_to_in(query.clone());
        let QueryBody::Metrics(metrics) = &query.body else {
            return Err(EngineError::NotMetrics);
        };
        let extrapolates = matches!(query.hint("extrapolate"), Some(Static::Bool(true)));
        let mut parts = Vec::new();
        let expr = plan_expr(metrics, &mut parts);
        let fetch = fetch(&parts, extrapolates);
        let needs_traces = parts.iter().any(|part: &Part| part.source.needs_whole_traces());
        let sampling = sampling(&query, needs_traces);
        let exemplars = match query.hint("exemplars") {
            Some(Static::Int(limit)) => u32::try_from(*limit).ok(),
            Some(Static::Bool(false)) => Some(0),
            _ => None,
        };
        // Several sub-queries need the traces of any, and samples are taken of all that there is.
        let prefilter = match parts.as_slice() {
            [only] if sampling.rate == SampleRate::All => only.source.prefilter(&fetch).map(Arc::new),
            _ => None,
        };
        Ok(Self(Arc::new(Inner { parts, expr, fetch, prefilter, exemplars, sampling, extrapolates })))
    }

    /// What [`super::RawMetrics::add`] reads. Callers may add [`super::Window::condition`].
    pub fn fetch(&self) -> &FetchSpec {
        &self.0.fetch
    }

    /// What tells traces of which no span counts before all of [`MetricsPlan::fetch`] is read.
    pub fn prefilter(&self) -> Option<&Arc<Prefilter>> {
        self.0.prefilter.as_ref()
    }

    /// Whether no span can match, so that nothing needs to be read; the answer still comes from [`super::FinalStage`].
    pub fn is_noop(&self) -> bool {
        self.0.parts.iter().all(|part| part.source.is_never())
    }

    /// Returns the number of exemplars that the query asks for (`with (exemplars=N)`, `false` is 0), which goes before a parameter.
    pub fn exemplars_hint(&self) -> Option<u32> {
        self.0.exemplars
    }

    /// Whether a span may count because of others of its trace, so that all spans of a trace must be in one table.
    pub fn needs_whole_traces(&self) -> bool {
        self.0.parts.iter().any(|part| part.source.needs_whole_traces())
    }

    /// Whether jobs and merging may stop at the series limit. If not, later stages choose among all series, and only memory bounds them.
    pub(super) fn may_cut_early(&self) -> bool {
        fn chooses(expr: &PlanExpr) -> bool {
            !expr.second_stages.is_empty()
                || match &expr.node {
                    PlanNode::Part(_) => false,
                    PlanNode::Binary { op: _, lhs, rhs } => chooses(lhs) || chooses(rhs),
                    PlanNode::ScalarRight { op: _, lhs: expr, scalar: _ } | PlanNode::ScalarLeft { op: _, scalar: _, rhs: expr } => {
                        chooses(expr)
                    }
                }
        }
        !chooses(&self.0.expr)
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.0.parts
    }

    pub(super) fn expr(&self) -> &PlanExpr {
        &self.0.expr
    }

    pub(super) fn sampling(&self) -> Sampling {
        self.0.sampling
    }

    pub(super) fn extrapolates(&self) -> bool {
        self.0.extrapolates
    }
}

impl Function {
    /// Name of an ungrouped series; histograms have none.
    pub(super) fn name(&self) -> Option<&'static str> {
        match self {
            Self::Count => Some("count_over_time"),
            Self::Rate => Some("rate"),
            Self::Min(_) => Some("min_over_time"),
            Self::Max(_) => Some("max_over_time"),
            Self::Sum(_) => Some("sum_over_time"),
            Self::Avg(_) => Some("avg_over_time"),
            Self::Histogram(_) | Self::Quantile { .. } | Self::Compare(_) => None,
        }
    }

    pub(super) fn attribute(&self) -> Option<&Attribute> {
        match self {
            Self::Count | Self::Rate | Self::Compare(_) => None,
            Self::Min(attribute)
            | Self::Max(attribute)
            | Self::Sum(attribute)
            | Self::Avg(attribute)
            | Self::Histogram(attribute)
            | Self::Quantile { attribute, quantiles: _ } => Some(attribute),
        }
    }
}

impl Part {
    fn new(query: &MetricsQuery, key: Arc<str>) -> Self {
        let source = SpanSource::new(&query.pipeline);
        let by: Vec<Named> = query.by.iter().map(Named::new).collect();
        let mut shown: Vec<Named> = Vec::new();
        let named = source.attributes().iter().chain(&query.by).chain(query.function.attribute());
        for attribute in named {
            let is_new = shown.iter().all(|known| known.attribute != *attribute);
            if is_new && *attribute != Attribute::Intrinsic(Intrinsic::TraceId) {
                shown.push(Named::new(attribute));
            }
        }
        Self { key, source, function: function(&query.function), by, shown }
    }
}

impl Named {
    pub(super) fn new(attribute: &Attribute) -> Self {
        Self { name: attribute.to_string().into(), attribute: attribute.clone() }
    }
}

fn function(function: &MetricsFunction) -> Function {
    match function.clone() {
        MetricsFunction::Rate => Function::Rate,
        MetricsFunction::CountOverTime => Function::Count,
        MetricsFunction::MinOverTime(attribute) => Function::Min(attribute),
        MetricsFunction::MaxOverTime(attribute) => Function::Max(attribute),
        MetricsFunction::SumOverTime(attribute) => Function::Sum(attribute),
        MetricsFunction::AvgOverTime(attribute) => Function::Avg(attribute),
        MetricsFunction::HistogramOverTime(attribute) => Function::Histogram(attribute),
        MetricsFunction::QuantileOverTime { attribute, quantiles } => Function::Quantile { attribute, quantiles },
        MetricsFunction::Compare(Compare { selection, top_n, start_unix_nanos, end_unix_nanos }) => {
            let nanos = |nanos: i64| u64::try_from(nanos).unwrap_or(0);
            let (start, end) = match (nanos(start_unix_nanos), nanos(end_unix_nanos)) {
                (0, 0) => (0, u64::MAX),
                bounds => bounds,
            };
            Function::Compare(CompareFunction {
                selection: SpanFilter::new(&selection),
                top_n: usize::try_from(top_n).unwrap_or(1).max(1),
                start,
                end,
            })
        }
    }
}

fn plan_expr(expr: &MetricsExpr, parts: &mut Vec<Part>) -> PlanExpr {
    let node = match &expr.node {
        MetricsNode::Query(query) => {
            let key: Arc<str> = query.to_string().into();
            let known = parts.iter().position(|part| part.key == key);
            PlanNode::Part(match known {
                Some(index) => index,
                None => {
                    parts.push(Part::new(query, key));
                    parts.len() - 1
                }
            })
        }
        MetricsNode::Binary { op, lhs, rhs } => {
            PlanNode::Binary { op: *op, lhs: Box::new(plan_expr(lhs, parts)), rhs: Box::new(plan_expr(rhs, parts)) }
        }
        MetricsNode::ScalarRight { op, lhs, scalar } => {
            PlanNode::ScalarRight { op: *op, lhs: Box::new(plan_expr(lhs, parts)), scalar: *scalar }
        }
        MetricsNode::ScalarLeft { op, scalar, rhs } => {
            PlanNode::ScalarLeft { op: *op, scalar: *scalar, rhs: Box::new(plan_expr(rhs, parts)) }
        }
    };
    PlanExpr { node, second_stages: expr.second_stages.clone() }
}

fn fetch(parts: &[Part], extrapolates: bool) -> FetchSpec {
    const NUMBERS: FetchKinds = FetchKinds { strings: false, ints: true, floats: true, bools: false };
    let mut fetch = FetchSpec::default();
    fetch.columns.insert(FetchColumn::SpanStart);
    if extrapolates {
        fetch.columns.insert(FetchColumn::TraceState);
    }
    for part in parts {
        fetch.unite(part.source.fetch());
        // attributes of `select` are only shown
        for shown in &part.shown {
            if !is_fetched(&fetch, &shown.attribute) {
                fetch.add(&shown.attribute, FetchKinds::ALL);
            }
        }
        part.by.iter().for_each(|by| fetch.add(&by.attribute, FetchKinds::ALL));
        if let Some(attribute) = part.function.attribute() {
            fetch.add(attribute, NUMBERS);
        }
        if let Function::Compare(compare) = &part.function {
            compare.selection.add_to(&mut fetch);
            add_compared(&mut fetch);
        }
    }
    fetch.conditions = common_conditions(parts);
    fetch
}

/// Whether values of `attribute` are read already, though perhaps not of all kinds.
fn is_fetched(fetch: &FetchSpec, attribute: &Attribute) -> bool {
    let mut alone = FetchSpec::default();
    alone.add(attribute, FetchKinds::default());
    let has_keys = |known: &FetchKeys, wanted: &FetchKeys| match wanted {
        FetchKeys::Only(keys) => keys.keys().all(|key| known.contains(key)),
        FetchKeys::All => *known == FetchKeys::All,
    };
    alone.columns.is_subset(&fetch.columns)
        && has_keys(&fetch.resource_attributes, &alone.resource_attributes)
        && has_keys(&fetch.scope_attributes, &alone.scope_attributes)
        && has_keys(&fetch.span_attributes, &alone.span_attributes)
        && has_keys(&fetch.event_attributes, &alone.event_attributes)
        && has_keys(&fetch.link_attributes, &alone.link_attributes)
}

/// Adds all that `compare()` counts.
fn add_compared(fetch: &mut FetchSpec) {
    fetch.resource_attributes = FetchKeys::All;
    fetch.scope_attributes = FetchKeys::All;
    fetch.span_attributes = FetchKeys::All;
    fetch.columns.extend([
        FetchColumn::ServiceName,
        FetchColumn::RootServiceName,
        FetchColumn::RootSpanName,
        FetchColumn::ScopeName,
        FetchColumn::ScopeVersion,
        FetchColumn::SpanName,
        FetchColumn::Kind,
        FetchColumn::StatusCode,
        FetchColumn::StatusMessage,
        FetchColumn::ChildCount,
    ]);
}

/// Storage may skip what no sub-query wants.
fn common_conditions(parts: &[Part]) -> Vec<FetchCondition> {
    let Some((first, rest)) = parts.split_first() else { return Vec::new() };
    let is_common = |condition: &&FetchCondition| rest.iter().all(|part| part.source.fetch().conditions.contains(condition));
    first.source.fetch().conditions.iter().filter(is_common).cloned().collect()
}

fn sampling(query: &Query, needs_traces: bool) -> Sampling {
    let rate_of = |name: &str| match query.hint(name) {
        Some(Static::Bool(true)) => Some(SampleRate::Adaptive),
        Some(Static::Float(fraction)) if 0.0 < *fraction && *fraction < 1.0 => Some(SampleRate::OneIn((1.0 / fraction) as usize)),
        _ => None,
    };
    let forced = rate_of("trace_sample").map(|rate| (rate, true)).or_else(|| rate_of("span_sample").map(|rate| (rate, false)));
    let chosen = forced.or_else(|| rate_of("sample").map(|rate| (rate, needs_traces)));
    let (rate, by_trace) = chosen.unwrap_or((SampleRate::All, false));
    Sampling { rate, by_trace }
}
