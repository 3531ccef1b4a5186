//! Filters that compare scalars: aggregates over the filtered sets, or over what pipelines keep of them.

use std::sync::Arc;

use crate::base::bitset::Bitset;
use crate::traceql::ast::ComparisonOp;
use crate::traceql::types::Static;

use super::super::EngineError;
use super::super::aggregate::{Bindings, scalar_value};
use super::super::plan::{Function, PipelineScalar, PlanAggregate, Scalar};
use super::{Attributes, Fork, Run, SpanSet, State, holds, refuse_split, unite};

impl Run<'_, '_> {
    /// Keeps the sets for which `lhs OP rhs` holds and notes the aggregates as attributes of the set. A set without a value is dropped.
    pub(super) fn scalar_filter(&mut self, op: ComparisonOp, lhs: &Scalar, rhs: &Scalar, input: State) -> Result<State, EngineError> {
        if !lhs.pipelines().is_empty() || !rhs.pipelines().is_empty() {
            return self.pipelines_filter(op, lhs, rhs, input);
        }
        let input = match (lhs, rhs, input) {
            (Scalar::Aggregate(aggregate), Scalar::Literal(literal), State::Spans(spans)) if aggregate.function == Function::Count => {
                return Ok(State::Sets(self.count_filter(&aggregate.name, &spans, |count| holds(op, count, literal))));
            }
            (_, _, input) => input,
        };
        let mut sets = self.sets(input);
        let members = self.members(&sets);
        let aggregates: Vec<&PlanAggregate> = lhs.aggregates().into_iter().chain(rhs.aggregates()).collect();
        let bindings = Bindings::new(self.evaluator, &aggregates, &members);
        let mut outcome = Ok(());
        sets.retain_mut(|set| {
            outcome = outcome.and_then(|()| self.pulse.work(set.spans.len()));
            if outcome.is_err() {
                return false;
            }
            let Some(values) = bindings.values(self.evaluator, &set.spans) else { return false };
            let is_kept = compares(op, lhs, rhs, &values);
            if is_kept {
                note(&mut set.attributes, aggregates.iter().map(|aggregate| &aggregate.name).zip(values));
            }
            is_kept
        });
        outcome.map(|()| State::Sets(sets))
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

    /// Keeps an input set for which the comparison holds, as the spans that any of the pipelines kept of it, those of the first pipeline first.
    /// A pipeline that keeps nothing counts 0; its other aggregates are nil, so that no comparison with them holds.
    fn pipelines_filter(&mut self, op: ComparisonOp, lhs: &Scalar, rhs: &Scalar, input: State) -> Result<State, EngineError> {
        let pipelines: Vec<&PipelineScalar> = lhs.pipelines().into_iter().chain(rhs.pipelines()).collect();
        let fork = Fork::new(input);
        let mut results = Vec::with_capacity(pipelines.len());
        for pipeline in &pipelines {
            results.push(self.pipeline_scalars(pipeline, fork.input())?.into_iter().peekable());
        }
        let mut kept = Vec::new();
        while let Some(origin) = results.iter_mut().filter_map(|sets| sets.peek().map(|(set, _)| set.origin)).min() {
            let (mut spans, mut values) = (Vec::new(), Vec::with_capacity(pipelines.len()));
            for (pipeline, sets) in pipelines.iter().zip(&mut results) {
                match sets.next_if(|(set, _)| set.origin == origin) {
                    Some((set, value)) => {
                        values.push(value);
                        unite(&mut spans, set.spans);
                    }
                    None => values.push(pipeline.aggregate.function.of_nothing()),
                }
            }
            if compares(op, lhs, rhs, &values) {
                let mut set = fork.set(origin, spans);
                note(&mut set.attributes, pipelines.iter().map(|pipeline| &pipeline.aggregate.name).zip(values));
                kept.push(set);
            }
        }
        Ok(State::Sets(kept))
    }

    /// Returns what the pipeline keeps, with the aggregate of each set; nil when it has no value.
    fn pipeline_scalars(&mut self, pipeline: &PipelineScalar, input: State) -> Result<Vec<(SpanSet, Static)>, EngineError> {
        let state = self.stages(&pipeline.stages, input)?;
        let sets = self.sets(state);
        refuse_split(&sets)?;
        let members = self.members(&sets);
        let bindings = Bindings::new(self.evaluator, &[&pipeline.aggregate], &members);
        let mut scalars = Vec::with_capacity(sets.len());
        for set in sets {
            self.pulse.work(set.spans.len())?;
            let value = bindings.values(self.evaluator, &set.spans).and_then(|values| values.into_iter().next());
            scalars.push((set, value.unwrap_or(Static::Nil)));
        }
        Ok(scalars)
    }
}

/// Compares two scalars whose aggregates have these values, from left to right.
fn compares(op: ComparisonOp, lhs: &Scalar, rhs: &Scalar, values: &[Static]) -> bool {
    let mut next = values.iter();
    let (lhs, rhs) = (scalar_value(lhs, &mut next), scalar_value(rhs, &mut next));
    holds(op, &lhs, &rhs)
}

/// Notes values as attributes of a set; one that is used twice in the same filter once.
fn note<'n>(attributes: &mut Attributes, values: impl Iterator<Item = (&'n Arc<str>, Static)>) {
    let before = attributes.len();
    for (name, value) in values {
        if !attributes[before..].iter().any(|(known, _)| known == name) {
            attributes.push((name.clone(), value));
        }
    }
}
