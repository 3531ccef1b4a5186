//! Operators between spansets: both sides see the same input, and what they keep of it comes together per input set.

use crate::base::bitset::Bitset;
use crate::traceql::ast::{Relation, SpansetOp, StructuralForm};

use super::super::EngineError;
use super::super::plan::Spansets;
use super::super::structure::{Index, Numbers, pairs};
use super::{Fork, Run, SpanSet, State, refuse_split, unite};

/// When fewer than one in this many traces have a span on the left side, the right side looks at those only.
const FEW_TRACES: usize = 4;

impl Run<'_, '_> {
    pub(super) fn join(&mut self, op: SpansetOp, lhs: &Spansets, rhs: &Spansets, input: State) -> Result<State, EngineError> {
        let fork = Fork::new(input);
        let left = self.spansets(lhs, fork.input())?;
        let mut right_input = fork.input();
        // A right side that may fail must see everything, so that failing does not depend on how traces are spread over tables.
        if needs_both_sides(op) && !rhs.may_split() {
            if left.is_empty() {
                return Ok(left);
            }
            self.keep_traces_of(&left, &mut right_input);
        }
        let right = self.spansets(rhs, right_input)?;
        match (op, left, right) {
            (SpansetOp::Structural { relation, form: StructuralForm::Plain }, left, State::Spans(right)) => {
                Ok(State::Spans(self.related(relation, left, right, true)?))
            }
            (SpansetOp::Structural { relation, form: StructuralForm::Negated }, left, State::Spans(right)) => {
                Ok(State::Spans(self.related(relation, left, right, false)?))
            }
            (SpansetOp::And | SpansetOp::Or, State::Spans(left), State::Spans(right)) => {
                Ok(State::Sets(self.join_selections(op, &left, &right)))
            }
            (op, left, right) => Ok(State::Sets(self.join_sets(op, left, right, &fork)?)),
        }
    }

    /// Removes spans of traces in which `left` has none, if that is most of them.
    fn keep_traces_of(&self, left: &State, input: &mut State) {
        let table = self.evaluator.table;
        let (State::Spans(left), State::Spans(input)) = (left, input) else { return };
        let is_kept = |row: &usize| left.intersects_range(table.spans_of_trace(*row));
        let rows: Vec<usize> = (0..table.trace_count()).filter(is_kept).collect();
        if rows.len() * FEW_TRACES < table.trace_count() {
            let mut kept = Bitset::new(input.len());
            rows.into_iter().for_each(|row| kept.insert_range(table.spans_of_trace(row)));
            input.intersect(&kept);
        }
    }

    /// Returns the spans of `right` that are (`wanted`) or are not related to one of `left` in the same trace.
    fn related(&mut self, relation: Relation, left: State, right: Bitset, wanted: bool) -> Result<Bitset, EngineError> {
        let table = self.evaluator.table;
        let left = match left {
            State::Spans(spans) => spans,
            State::Sets(sets) => {
                refuse_split(&sets)?;
                self.members(&sets)
            }
        };
        let mut related = Bitset::new(right.len());
        let mut index = Index::new(Numbers::new(table), relation);
        for row in 0..table.trace_count() {
            let of_trace = table.spans_of_trace(row);
            if !right.intersects_range(of_trace.clone()) || !left.intersects_range(of_trace.clone()) {
                continue;
            }
            self.pulse.work(of_trace.len())?;
            index.fill(left.iter_range(of_trace.clone()).map(|span| span as u32));
            for span in right.iter_range(of_trace) {
                if index.relates_to(span as u32) {
                    related.insert(span);
                }
            }
        }
        if wanted {
            return Ok(related);
        }
        let mut unrelated = right;
        unrelated.subtract(&related);
        Ok(unrelated)
    }

    fn join_selections(&self, op: SpansetOp, left: &Bitset, right: &Bitset) -> Vec<SpanSet> {
        let table = self.evaluator.table;
        let mut sets = Vec::new();
        for row in 0..table.trace_count() {
            let range = table.spans_of_trace(row);
            let (lefts, rights) = (left.count_range(range.clone()), right.count_range(range.clone()));
            let is_kept = if op == SpansetOp::And { lefts > 0 && rights > 0 } else { lefts > 0 || rights > 0 };
            if is_kept {
                let (first, second) = if lefts < rights { (left, right) } else { (right, left) };
                let others = second.iter_range(range.clone()).filter(|span| !first.contains(*span));
                let spans = first.iter_range(range.clone()).chain(others).map(|span| span as u32).collect();
                sets.push(SpanSet { row: row as u32, origin: row as u32, spans, attributes: Vec::new() });
            }
        }
        sets
    }

    /// Merges the sides, each in ascending order of `origin`.
    fn join_sets(&mut self, op: SpansetOp, left: State, right: State, fork: &Fork) -> Result<Vec<SpanSet>, EngineError> {
        let (left, right) = (self.sets(left), self.sets(right));
        refuse_split(&left)?;
        refuse_split(&right)?;
        let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
        let mut joined = Vec::new();
        loop {
            let origin = match (left.peek(), right.peek()) {
                (Some(l), Some(r)) => l.origin.min(r.origin),
                (Some(set), None) | (None, Some(set)) => set.origin,
                (None, None) => return Ok(joined),
            };
            let spans_of = |set: SpanSet| (set.row, set.spans);
            let lefts = left.next_if(|set| set.origin == origin).map(spans_of);
            let rights = right.next_if(|set| set.origin == origin).map(spans_of);
            let spans = match (lefts, rights) {
                (Some((row, lefts)), Some((_, rights))) => self.combine(op, row, lefts, rights)?,
                (Some((_, lefts)), None) if op == SpansetOp::Or => lefts,
                (None, Some((_, rights))) if op == SpansetOp::Or || is_negated(op) => rights,
                (Some(_), None) | (None, Some(_)) | (None, None) => continue,
            };
            if !spans.is_empty() {
                joined.push(fork.set(origin, spans));
            }
        }
    }

    /// Applies the operator to two sets of trace `row`.
    fn combine(&mut self, op: SpansetOp, row: u32, left: Vec<u32>, right: Vec<u32>) -> Result<Vec<u32>, EngineError> {
        let table = self.evaluator.table;
        let numbers = Numbers::new(table);
        match op {
            SpansetOp::And | SpansetOp::Or => {
                // the smaller side first, the right one when they are equal
                let (mut first, second) = if left.len() < right.len() { (left, right) } else { (right, left) };
                unite(&mut first, second);
                Ok(first)
            }
            SpansetOp::Structural { relation, form: StructuralForm::Union } => {
                pairs(numbers, relation, &left, &right, table.spans_of_trace(row as usize), &mut self.pulse)
            }
            SpansetOp::Structural { relation, form } => {
                self.pulse.work(left.len() + right.len())?;
                let mut index = Index::new(numbers, relation);
                index.fill(left.into_iter());
                let wanted = form == StructuralForm::Plain;
                let mut kept = right;
                kept.retain(|span| index.relates_to(*span) == wanted);
                Ok(kept)
            }
        }
    }
}

/// Whether nothing comes out of a trace that has no span on the left side, whatever the right side holds.
fn needs_both_sides(op: SpansetOp) -> bool {
    op != SpansetOp::Or && !is_negated(op)
}

fn is_negated(op: SpansetOp) -> bool {
    matches!(op, SpansetOp::Structural { relation: _, form: StructuralForm::Negated })
}
