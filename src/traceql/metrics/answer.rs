//! The final stage: from merged series to the answer of a query.

use super::accumulate::Accumulator;
use super::compare::{TOTALS, VALUES};
use super::plan::{Function, Part, PlanExpr, PlanNode};
use super::second::{Row, apply, arithmetic, combine, quantiles, with_scalar};
use super::series::{Labels, NAME_LABEL, Sample, Series, SeriesSet};
use super::sum::{PartState, SumStage, most_frequent};
use super::{JobOptions, MAX_STATE_BYTES, MetricsPlan, Window};
use crate::traceql::engine::EngineError;
use crate::traceql::types::Static;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinalOptions {
    /// Series of the answer, the first in its order; 0: no limit. Of a comparison, attributes of each side.
    pub max_series: usize,
    /// Exemplars of the answer.
    pub exemplars: u32,
}

/// The answer of a query.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FinalResult {
    /// In the order of responses. Every series has a sample.
    pub series: Vec<Series>,
    pub partial: bool,
    /// Says why the result is partial.
    pub message: Option<String>,
}

/// Computes the answer from the results of jobs or merges.
pub struct FinalStage {
    plan: MetricsPlan,
    window: Window,
    max_series: usize,
    sum: SumStage,
}

/// What is computed, and whether something had to be left out on the way.
struct Computed {
    rows: Vec<Row>,
    is_cut: bool,
}

impl FinalStage {
    /// # Errors
    /// [`EngineError::TooManyIntervals`].
    pub fn new(plan: &MetricsPlan, window: Window, options: FinalOptions) -> Result<Self, EngineError> {
        // one more than asked for tells whether there are more
        let max_series = if options.max_series == 0 { 0 } else { options.max_series.saturating_add(1) };
        let sum = SumStage::new(plan, JobOptions { window, exemplars: options.exemplars, max_series })?;
        Ok(Self { plan: plan.clone(), window, max_series: options.max_series, sum })
    }

    pub fn add(&mut self, set: SeriesSet) {
        self.sum.add(set);
    }

    /// Returns the answer as far as it is known, for streaming.
    pub fn result(&self) -> FinalResult {
        let Computed { mut rows, is_cut } = self.compute(self.plan.expr());
        rows.sort_by(|a, b| a.labels.response_order(&b.labels));
        let mut series: Vec<Series> = rows.into_iter().filter_map(|row| self.series(row)).collect();
        let is_over = self.truncate(&mut series);
        let partial = is_cut || is_over || self.sum.is_partial();
        let is_limit = is_over || (self.max_series > 0 && series.len() >= self.max_series);
        let message = partial.then(|| {
            let limit = if is_limit { format!("series limit of {}", self.max_series) } else { format!("memory limit of {} MiB", MAX_STATE_BYTES >> 20) };
            format!(
                "Response exceeds maximum {limit}, a partial response is returned. Warning: the accuracy of each individual value is not guaranteed."
            )
        });
        FinalResult { series, partial, message }
    }

    pub fn finish(self) -> FinalResult {
        self.result()
    }

    fn compute(&self, expr: &PlanExpr) -> Computed {
        let mut computed = match &expr.node {
            PlanNode::Part(index) => self.part(&self.plan.parts()[*index], &self.sum.states()[*index]),
            PlanNode::Binary { op, lhs, rhs } => {
                let (left, right) = (self.compute(lhs), self.compute(rhs));
                Computed { rows: combine(*op, left.rows, right.rows), is_cut: left.is_cut || right.is_cut }
            }
            PlanNode::ScalarRight { op, lhs, scalar } => {
                let mut computed = self.compute(lhs);
                with_scalar(&mut computed.rows, |value| arithmetic(*op, value, *scalar));
                computed
            }
            PlanNode::ScalarLeft { op, scalar, rhs } => {
                let mut computed = self.compute(rhs);
                with_scalar(&mut computed.rows, |value| arithmetic(*op, *scalar, value));
                computed
            }
        };
        expr.second_stages.iter().for_each(|stage| apply(stage, &mut computed.rows));
        computed
    }

    fn part(&self, part: &Part, state: &PartState) -> Computed {
        if part.source.is_never() {
            return Computed { rows: Vec::new(), is_cut: false };
        }
        let intervals = self.window.intervals();
        // what is made here is as large as all series with all their intervals
        let max_rows = MAX_STATE_BYTES / (intervals.max(1) * size_of::<f64>());
        let PartState { series, exemplars } = state;
        let (mut rows, is_cut) = match &part.function {
            Function::Quantile { attribute: _, quantiles: wanted } => quantiles(series, exemplars, wanted, max_rows),
            function => {
                let mut sorted = series.sorted();
                if let Function::Compare(compare) = function {
                    let kept = most_frequent(series, compare.top_n);
                    sorted.retain(|(labels, row)| is_compared(labels) && kept.contains(row));
                }
                let is_cut = sorted.len() > max_rows;
                sorted.truncate(max_rows);
                let mut of_series = exemplars.by_series();
                let row = |(labels, row): (&Labels, u32)| {
                    let exemplars = of_series.remove(&row).unwrap_or_default().into_iter().cloned().collect();
                    Row { labels: labels.clone(), values: series.dense(row), exemplars }
                };
                (sorted.into_iter().map(row).collect(), is_cut)
            }
        };
        if rows.is_empty() && part.by.is_empty() {
            rows.extend(nothing(&part.function, series));
        }
        rows.iter_mut().for_each(|row| row.place_exemplars(&self.window));
        Computed { rows, is_cut }
    }

    fn series(&self, row: Row) -> Option<Series> {
        let sample = |(interval, value): (usize, f64)| Sample { timestamp_ms: self.window.timestamp_ms(interval), value };
        let samples: Vec<Sample> = row.values.into_iter().enumerate().filter(|(_, value)| !value.is_nan()).map(sample).collect();
        (!samples.is_empty()).then_some(Series { labels: row.labels, samples, exemplars: row.exemplars })
    }

    /// Cuts `series` to the limit and says whether there were more.
    fn truncate(&self, series: &mut Vec<Series>) -> bool {
        if self.max_series == 0 {
            return false;
        }
        let is_compare = self.plan.parts().iter().any(|part| matches!(part.function, Function::Compare(_)));
        let mut kept = self.max_series;
        if is_compare {
            let attribute_of = |series: &Series| {
                let mut labels = series.labels.iter();
                (labels.next().map(|meta| meta.value.clone()), labels.next().map(|attribute| attribute.name.clone()))
            };
            let mut attributes = std::collections::HashSet::new();
            let is_over = |series: &Series| {
                attributes.insert(attribute_of(series));
                attributes.len() > self.max_series
            };
            kept = series.iter().position(is_over).unwrap_or(series.len());
        }
        let is_over = series.len() > kept;
        series.truncate(kept);
        is_over
    }
}

/// Series of a comparison that mean something.
fn is_compared(labels: &Labels) -> bool {
    let is_known = |meta: &Static| matches!(meta, Static::String(meta) if VALUES.iter().chain(&TOTALS).any(|known| *known == &**meta));
    labels.len() == 2 && labels.iter().next().is_some_and(|meta| is_known(&meta.value))
}

/// Counts without grouping exist also where nothing is counted.
fn nothing(function: &Function, series: &Accumulator) -> Option<Row> {
    let (Function::Count | Function::Rate, Some(name)) = (function, function.name()) else { return None };
    let values = vec![0.0; series.window().intervals()];
    Some(Row { labels: Labels::single(NAME_LABEL, Static::string(name)), values, exemplars: Vec::new() })
}
