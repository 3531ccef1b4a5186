//! Runs the stages of a plan over one table: selections of spans as long as possible, lists of spans per spanset afterwards.
//!
//! Invariants
//! * The sets of one trace are adjacent and carry the same `origin` outside of joins; no set is empty, no two of a trace share a span.
//! * Every stage keeps the order of its input sets, so the results of a [`Fork`] can be merged by `origin`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use foldhash::fast::FixedState;

use crate::base::bitset::Bitset;
use crate::traceql::ast::ComparisonOp;
use crate::traceql::types::Static;

use super::EngineError;
use super::expr::{Level, Node, Value};
use super::filter::Evaluator;
use super::plan::{PlanStage, Spansets};
use super::structure::Pulse;

mod join;
mod scalar;

/// Spans of one trace that go together, with what earlier stages said about them.
#[derive(Debug, Clone)]
pub(super) struct SpanSet {
    pub(super) row: u32,
    /// Which input set of the innermost fork this comes from; the row outside of forks.
    origin: u32,
    /// Items of the table's span level.
    pub(super) spans: Vec<u32>,
    pub(super) attributes: Attributes,
}

/// Keys and values of a spanset.
type Attributes = Vec<(Arc<str>, Static)>;

/// Intermediate result of a pipeline.
#[derive(Clone)]
pub(super) enum State {
    /// One set per trace: its selected spans in storage order.
    Spans(Bitset),
    Sets(Vec<SpanSet>),
}

pub(super) struct Run<'e, 't> {
    pub(super) evaluator: &'e mut Evaluator<'t>,
    pulse: Pulse<'e>,
}

impl<'e, 't> Run<'e, 't> {
    pub(super) fn new(evaluator: &'e mut Evaluator<'t>, cancelled: &'e AtomicBool) -> Self {
        Self { evaluator, pulse: Pulse::new(cancelled) }
    }

    pub(super) fn stages(&mut self, stages: &[PlanStage], input: State) -> Result<State, EngineError> {
        let mut state = input;
        for stage in stages {
            self.pulse.look()?;
            if state.is_empty() {
                break;
            }
            state = match stage {
                PlanStage::Spansets(spansets) => self.spansets(spansets, state)?,
                PlanStage::Scalar { op, lhs, rhs } => self.scalar_filter(*op, lhs, rhs, state)?,
                PlanStage::GroupBy { value, name } => State::Sets(self.group_by(value, name, state)?),
                PlanStage::Coalesce => self.coalesce(state),
            };
        }
        Ok(state)
    }

    fn spansets(&mut self, spansets: &Spansets, input: State) -> Result<State, EngineError> {
        match spansets {
            Spansets::Filter(node) => Ok(self.filter(node, input)),
            Spansets::Join { op, lhs, rhs } => {
                self.pulse.look()?;
                self.join(*op, lhs, rhs, input)
            }
            Spansets::Pipeline(stages) => self.stages(stages, input),
        }
    }

    fn filter(&mut self, node: &Node, input: State) -> State {
        match input {
            State::Spans(spans) => State::Spans(self.evaluator.select(node, Level::Span, &spans)),
            State::Sets(mut sets) => {
                let kept = self.evaluator.select(node, Level::Span, &self.members(&sets));
                sets.iter_mut().for_each(|set| set.spans.retain(|span| kept.contains(*span as usize)));
                sets.retain(|set| !set.spans.is_empty());
                State::Sets(sets)
            }
        }
    }

    /// Splits each set by the value; groups stand in the order in which they first appear.
    fn group_by(&mut self, value: &Value, name: &Arc<str>, input: State) -> Result<Vec<SpanSet>, EngineError> {
        let sets = self.sets(input);
        let bound = self.evaluator.bind(value, Level::Span, &self.members(&sets));
        let mut groups = Vec::with_capacity(sets.len());
        let mut group_of: HashMap<Static, usize, FixedState> = HashMap::default();
        for set in sets {
            self.pulse.work(set.spans.len())?;
            group_of.clear();
            for span in set.spans {
                let value = self.evaluator.value(&bound, Level::Span, span as usize);
                let group = *group_of.entry(value).or_insert_with_key(|value| {
                    let mut attributes = set.attributes.clone();
                    attributes.push((name.clone(), value.clone()));
                    groups.push(SpanSet { row: set.row, origin: set.origin, spans: Vec::new(), attributes });
                    groups.len() - 1
                });
                groups[group].spans.push(span);
            }
        }
        Ok(groups)
    }

    /// Joins the sets of each trace; attributes go.
    fn coalesce(&self, input: State) -> State {
        let State::Sets(sets) = input else { return input };
        let mut joined: Vec<SpanSet> = Vec::new();
        for set in sets {
            match joined.last_mut().filter(|last| last.origin == set.origin && last.row == set.row) {
                Some(last) => last.spans.extend(set.spans),
                None => joined.push(SpanSet { attributes: Vec::new(), ..set }),
            }
        }
        State::Sets(joined)
    }

    /// Returns the state as sets.
    fn sets(&self, state: State) -> Vec<SpanSet> {
        match state {
            State::Sets(sets) => sets,
            State::Spans(spans) => {
                let table = self.evaluator.table;
                let rows = (0..table.trace_count()).filter(|row| spans.intersects_range(table.spans_of_trace(*row)));
                rows.map(|row| SpanSet {
                    row: row as u32,
                    origin: row as u32,
                    spans: spans.iter_range(table.spans_of_trace(row)).map(|span| span as u32).collect(),
                    attributes: Vec::new(),
                })
                .collect()
            }
        }
    }

    pub(super) fn members(&self, sets: &[SpanSet]) -> Bitset {
        let mut members = Bitset::new(self.evaluator.table.span_count());
        sets.iter().flat_map(|set| &set.spans).for_each(|span| members.insert(*span as usize));
        members
    }
}

impl State {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Spans(spans) => spans.is_empty(),
            Self::Sets(sets) => sets.is_empty(),
        }
    }
}

/// An input that goes through several pipelines whose results come together again, told apart by `origin`.
struct Fork {
    input: State,
    /// For sets: the origin each had before.
    outer: Vec<u32>,
}

impl Fork {
    fn new(input: State) -> Self {
        match input {
            State::Spans(_) => Self { input, outer: Vec::new() },
            State::Sets(mut sets) => {
                let outer = sets.iter().map(|set| set.origin).collect();
                sets.iter_mut().zip(0..).for_each(|(set, index)| set.origin = index);
                Self { input: State::Sets(sets), outer }
            }
        }
    }

    /// Returns a copy of the input for one of the pipelines.
    fn input(&self) -> State {
        self.input.clone()
    }

    /// Returns a set made of results of `origin`, with the attributes that its input had.
    fn set(&self, origin: u32, spans: Vec<u32>) -> SpanSet {
        match &self.input {
            State::Spans(_) => SpanSet { row: origin, origin, spans, attributes: Vec::new() },
            State::Sets(inputs) => {
                let input = &inputs[origin as usize];
                SpanSet { row: input.row, origin: self.outer[origin as usize], spans, attributes: input.attributes.clone() }
            }
        }
    }
}

/// Refuses results in which an input set became several.
fn refuse_split(sets: &[SpanSet]) -> Result<(), EngineError> {
    let is_split = sets.windows(2).any(|pair| pair[0].origin == pair[1].origin);
    if is_split { Err(EngineError::MultipleSpansets) } else { Ok(()) }
}

/// Appends what `spans` does not hold yet.
fn unite(spans: &mut Vec<u32>, others: Vec<u32>) {
    let mut known = spans.clone();
    known.sort_unstable();
    spans.extend(others.into_iter().filter(|span| known.binary_search(span).is_err()));
}

/// Whether a comparison of two scalars holds.
fn holds(op: ComparisonOp, lhs: &Static, rhs: &Static) -> bool {
    use crate::traceql::ast::BinaryOp;
    use crate::traceql::types::binary;
    binary(BinaryOp::Compare(op), lhs, rhs) == Ok(Static::Bool(true))
}
