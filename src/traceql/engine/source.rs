//! The spans that a pipeline keeps, for parts of the language that count spans instead of listing traces (metrics).

use std::sync::atomic::AtomicBool;

use super::projection::{FetchKinds, FetchSpec};
use crate::base::bitset::Bitset;
use crate::model::span_table::SpanTable;
use crate::traceql::ast::{Attribute, FieldExpr, Pipeline};

use super::EngineError;
use super::condition::Condition;
use super::expr::{Level, Node};
use super::filter::Evaluator;
use super::pipeline::{Run, State};
use super::plan::{PlanStage, Spansets, fetch_of, selected, stages, visit_stages};
use super::prefilter::Prefilter;

pub(in crate::traceql) use super::levels::OwnerCursor;

/// A pipeline ready to run on any number of tables.
#[derive(Debug, Clone)]
pub(in crate::traceql) struct SpanSource {
    stages: Vec<PlanStage>,
    fetch: FetchSpec,
    /// Attributes that the pipeline names, each once.
    attributes: Vec<Attribute>,
}

impl SpanSource {
    pub(in crate::traceql) fn new(pipeline: &Pipeline) -> Self {
        let mut stages = stages(pipeline);
        let mut attributes = Vec::new();
        let mut name = |attribute: &Attribute| {
            if !attributes.contains(attribute) {
                attributes.push(attribute.clone());
            }
        };
        visit_stages(&stages, &mut |attribute, _| name(attribute));
        selected(pipeline, &mut name);
        // the last groups keep the same spans as no groups
        while matches!(stages.last(), Some(PlanStage::GroupBy { .. } | PlanStage::Coalesce)) {
            stages.pop();
        }
        Self { fetch: fetch_of(&stages), stages, attributes }
    }

    /// What [`TableSpans::select`] reads.
    pub(in crate::traceql) fn fetch(&self) -> &FetchSpec {
        &self.fetch
    }

    pub(in crate::traceql) fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// Returns what tells traces of which no span is kept before all of `fetch` is read.
    pub(in crate::traceql) fn prefilter(&self, fetch: &FetchSpec) -> Option<Prefilter> {
        Prefilter::new(&self.stages, fetch)
    }

    /// Whether no span of any trace is kept.
    pub(in crate::traceql) fn is_never(&self) -> bool {
        self.stages.iter().any(|stage| matches!(stage, PlanStage::Spansets(spansets) if spansets.is_never()))
    }

    /// Whether a span may be kept because of others of its trace. If not, spans that do not count can be left out beforehand.
    pub(in crate::traceql) fn needs_whole_traces(&self) -> bool {
        !self.stages.iter().all(|stage| matches!(stage, PlanStage::Spansets(Spansets::Filter(_))))
    }
}

/// An expression that splits spans in two.
#[derive(Debug, Clone)]
pub(in crate::traceql) struct SpanFilter(Node);

impl SpanFilter {
    pub(in crate::traceql) fn new(expr: &FieldExpr) -> Self {
        Self(Node::new(expr))
    }

    pub(in crate::traceql) fn add_to(&self, fetch: &mut FetchSpec) {
        self.0.visit(&mut |attribute, condition| fetch.add(attribute, condition.map_or(FetchKinds::ALL, Condition::kinds)));
    }
}

/// The spans of one table: which are kept, and (in [`super::columns`]) what they hold.
pub(in crate::traceql) struct TableSpans<'t> {
    pub(super) evaluator: Evaluator<'t>,
}

impl<'t> TableSpans<'t> {
    pub(in crate::traceql) fn new(table: &'t SpanTable) -> Self {
        Self { evaluator: Evaluator::new(table) }
    }

    pub(in crate::traceql) fn table(&self) -> &'t SpanTable {
        self.evaluator.table
    }

    /// Returns the spans of traces in `rows`; `None`: of all.
    pub(in crate::traceql) fn of_rows(&self, rows: Option<&Bitset>) -> Bitset {
        match rows {
            None => Bitset::full(self.evaluator.table.span_count()),
            Some(rows) => self.evaluator.levels.convert(rows.clone(), Level::Trace, Level::Span),
        }
    }

    /// Returns the spans that are in any set of the result for `input`.
    pub(in crate::traceql) fn select(&mut self, source: &SpanSource, input: Bitset, cancelled: &AtomicBool) -> Result<Bitset, EngineError> {
        let mut run = Run::new(&mut self.evaluator, cancelled);
        Ok(match run.stages(&source.stages, State::Spans(input))? {
            State::Spans(spans) => spans,
            State::Sets(sets) => run.members(&sets),
        })
    }

    /// Returns the members of `spans` for which the expression holds.
    pub(in crate::traceql) fn filter(&mut self, filter: &SpanFilter, spans: &Bitset) -> Bitset {
        self.evaluator.select(&filter.0, Level::Span, spans)
    }
}
