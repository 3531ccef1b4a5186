//! Runs the stages of a plan over one table: selections of spans as long as possible, lists of spans per spanset afterwards.
//!
//! Invariants
//! * The sets of one trace are adjacent and carry the same `origin` outside of joins; no set is empty.
//! * Every stage keeps the order of its input sets, so the two sides of a join can be merged by `origin`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::fast::FixedState;

use crate::base::bitset::Bitset;
use crate::traceql::ast::BinaryOp;
use crate::traceql::types::{Static, binary};

use super::EngineError;
use super::aggregate::{Bindings, scalar_value};
use super::expr::{Level, Value};
use super::filter::Evaluator;
use super::plan::{Function, Join, PlanStage, Scalar, Spansets};

/// Spans of one trace that go together, with what earlier stages said about them.
#[derive(Debug, Clone)]
pub(super) struct SpanSet {
    pub(super) row: u32,
    /// Which input set of the innermost join this comes from; the row outside of joins.
    origin: u32,
    /// Items of the table's span level.
    pub(super) spans: Vec<u32>,
    pub(super) attributes: Vec<(Arc<str>, Static)>,
}

/// Intermediate result of a pipeline.
pub(super) enum State {
    /// One set per trace: its selected spans in storage order.
    Spans(Bitset),
    Sets(Vec<SpanSet>),
}

pub(super) struct Run<'e, 't> {
    pub(super) evaluator: &'e mut Evaluator<'t>,
    pub(super) cancelled: &'e AtomicBool,
}

impl Run<'_, '_> {
    pub(super) fn stages(&mut self, stages: &[PlanStage], input: State) -> Result<State, EngineError> {
        let mut state = input;
        for stage in stages {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            if state.is_empty() {
                break;
            }
            state = match stage {
                PlanStage::Spansets(spansets) => self.spansets(spansets, state)?,
                PlanStage::Scalar { op, lhs, rhs } => {
                    self.scalar_filter(lhs, rhs, state, |lhs, rhs| binary(BinaryOp::Compare(*op), lhs, rhs) == Ok(Static::Bool(true)))
                }
                PlanStage::GroupBy { value, name } => State::Sets(self.group_by(value, name, state)),
                PlanStage::Coalesce => self.coalesce(state),
            };
        }
        Ok(state)
    }

    fn spansets(&mut self, spansets: &Spansets, input: State) -> Result<State, EngineError> {
        match spansets {
            Spansets::Filter(node) => Ok(match input {
                State::Spans(spans) => State::Spans(self.evaluator.select(node, Level::Span, &spans)),
                State::Sets(mut sets) => {
                    let kept = self.evaluator.select(node, Level::Span, &self.members(&sets));
                    sets.iter_mut().for_each(|set| set.spans.retain(|span| kept.contains(*span as usize)));
                    sets.retain(|set| !set.spans.is_empty());
                    State::Sets(sets)
                }
            }),
            Spansets::Join { op, lhs, rhs } => self.join(*op, lhs, rhs, input),
            Spansets::Pipeline(stages) => self.stages(stages, input),
        }
    }

    /// Evaluates both sides on the same input sets and unites what they keep of each.
    fn join(&mut self, op: Join, lhs: &Spansets, rhs: &Spansets, input: State) -> Result<State, EngineError> {
        match input {
            State::Spans(spans) => {
                let left = self.spansets(lhs, State::Spans(spans.clone()))?;
                if op == Join::And && left.is_empty() {
                    return Ok(State::Sets(Vec::new()));
                }
                let right = self.spansets(rhs, State::Spans(spans))?;
                if let (State::Spans(left), State::Spans(right)) = (&left, &right) {
                    return Ok(State::Sets(self.join_selections(op, left, right)));
                }
                let (left, right) = (self.sets(left), self.sets(right));
                Ok(State::Sets(join_sets(op, left, right, |origin| (origin, origin, Vec::new()))?))
            }
            State::Sets(mut inputs) => {
                let outer: Vec<u32> = inputs.iter().map(|set| set.origin).collect();
                inputs.iter_mut().enumerate().for_each(|(index, set)| set.origin = index as u32);
                let left = self.spansets(lhs, State::Sets(inputs.clone()))?;
                let right = self.spansets(rhs, State::Sets(inputs.clone()))?;
                let (left, right) = (self.sets(left), self.sets(right));
                let of_input = |origin: u32| {
                    let set = &inputs[origin as usize];
                    (set.row, outer[origin as usize], set.attributes.clone())
                };
                Ok(State::Sets(join_sets(op, left, right, of_input)?))
            }
        }
    }

    fn join_selections(&self, op: Join, left: &Bitset, right: &Bitset) -> Vec<SpanSet> {
        let table = self.evaluator.table;
        let mut sets = Vec::new();
        for row in 0..table.trace_count() {
            let range = table.spans_of_trace(row);
            let (lefts, rights) = (left.count_range(range.clone()), right.count_range(range.clone()));
            let is_kept = match op {
                Join::And => lefts > 0 && rights > 0,
                Join::Or => lefts > 0 || rights > 0,
            };
            if is_kept {
                let (first, second) = if lefts < rights { (left, right) } else { (right, left) };
                let others = second.iter_range(range.clone()).filter(|span| !first.contains(*span));
                let spans = first.iter_range(range.clone()).chain(others).map(|span| span as u32).collect();
                sets.push(SpanSet { row: row as u32, origin: row as u32, spans, attributes: Vec::new() });
            }
        }
        sets
    }

    /// Keeps the sets for which `holds(lhs, rhs)` and notes the aggregates as attributes of the set. A set without a value is dropped.
    fn scalar_filter(&mut self, lhs: &Scalar, rhs: &Scalar, input: State, holds: impl Fn(&Static, &Static) -> bool) -> State {
        let input = match (lhs, rhs, input) {
            (Scalar::Aggregate(aggregate), Scalar::Literal(literal), State::Spans(spans)) if aggregate.function == Function::Count => {
                return State::Sets(self.count_filter(&aggregate.name, &spans, |count| holds(count, literal)));
            }
            (_, _, input) => input,
        };
        let mut sets = self.sets(input);
        let members = self.members(&sets);
        let mut aggregates = Vec::new();
        lhs.aggregates(&mut aggregates);
        rhs.aggregates(&mut aggregates);
        let bindings = Bindings::new(self.evaluator, &aggregates, &members);
        sets.retain_mut(|set| {
            let Some(values) = bindings.values(self.evaluator, &set.spans) else { return false };
            let mut next = values.iter();
            let (lhs, rhs) = (scalar_value(lhs, &mut next), scalar_value(rhs, &mut next));
            let is_kept = holds(&lhs, &rhs);
            if is_kept {
                let named = aggregates.iter().zip(values).map(|(aggregate, value)| (aggregate.name.clone(), value));
                set.attributes.extend(named);
            }
            is_kept
        });
        State::Sets(sets)
    }

    fn count_filter(&self, name: &Arc<str>, spans: &Bitset, holds: impl Fn(&Static) -> bool) -> Vec<SpanSet> {
        let table = self.evaluator.table;
        let mut sets = Vec::new();
        for row in 0..table.trace_count() {
            let range = table.spans_of_trace(row);
            let count = spans.count_range(range.clone());
            let value = Static::Int(count as i64);
            if count > 0 && holds(&value) {
                let spans = spans.iter_range(range).map(|span| span as u32).collect();
                sets.push(SpanSet { row: row as u32, origin: row as u32, spans, attributes: vec![(name.clone(), value)] });
            }
        }
        sets
    }

    /// Splits each set by the value; groups stand in the order in which they first appear.
    fn group_by(&mut self, value: &Value, name: &Arc<str>, input: State) -> Vec<SpanSet> {
        let sets = self.sets(input);
        let bound = self.evaluator.bind(value, Level::Span, &self.members(&sets));
        let mut groups = Vec::with_capacity(sets.len());
        let mut group_of: HashMap<Static, usize, FixedState> = HashMap::default();
        for set in sets {
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
        groups
    }

    /// Joins the sets of each trace; duplicates stay, attributes go.
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

/// Row, outer origin and attributes of the input set that a result belongs to.
type Input = (u32, u32, Vec<(Arc<str>, Static)>);

/// Merges the sides of a join, each in ascending order of `origin`.
fn join_sets(op: Join, left: Vec<SpanSet>, right: Vec<SpanSet>, input: impl Fn(u32) -> Input) -> Result<Vec<SpanSet>, EngineError> {
    let repeats = |sets: &[SpanSet]| sets.windows(2).any(|pair| pair[0].origin == pair[1].origin);
    if repeats(&left) || repeats(&right) {
        return Err(EngineError::MultipleSpansets);
    }
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    let mut joined = Vec::new();
    loop {
        let origin = match (left.peek(), right.peek()) {
            (Some(l), Some(r)) => l.origin.min(r.origin),
            (Some(set), None) | (None, Some(set)) => set.origin,
            (None, None) => return Ok(joined),
        };
        let sides = (left.next_if(|set| set.origin == origin), right.next_if(|set| set.origin == origin));
        let spans = match sides {
            (Some(l), Some(r)) => unite(l.spans, r.spans),
            (Some(one), None) | (None, Some(one)) if op == Join::Or => one.spans,
            _ => continue,
        };
        let (row, origin, attributes) = input(origin);
        joined.push(SpanSet { row, origin, spans, attributes });
    }
}

/// The smaller list first (the right one when equal), then what only the other has.
fn unite(left: Vec<u32>, right: Vec<u32>) -> Vec<u32> {
    let (mut first, second) = if left.len() < right.len() { (left, right) } else { (right, left) };
    let mut known = first.clone();
    known.sort_unstable();
    first.extend(second.into_iter().filter(|span| known.binary_search(span).is_err()));
    first
}
