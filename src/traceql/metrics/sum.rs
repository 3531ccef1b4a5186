//! Merging series of jobs into series of the same form.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::accumulate::{Accumulator, Kind};
use super::compare::{VALUES, candidates};
use super::exemplars::Exemplars;
use super::plan::{Function, Part};
use super::raw::{divisor_of, emit, kind_of};
use super::series::{COUNT_META, FRAGMENT_LABEL, Labels, META_LABEL, Sample, Series, SeriesSet};
use super::{JobOptions, MAX_INTERVALS, MetricsPlan};
use crate::traceql::engine::EngineError;
use crate::traceql::types::Static;

/// Values and totals of a comparison above which the rare ones are forgotten.
const MAX_COMPARED: usize = 20_000;

/// Merges the results of jobs, or of other merges, into one of the same form. The order in which they come does not matter, except to which
/// exemplars are kept.
pub struct SumStage {
    plan: MetricsPlan,
    /// Series kept per sub-query, the first in the order of responses; 0: no limit.
    max_series: usize,
    states: Vec<PartState>,
    is_partial: bool,
}

/// What one sub-query has so far.
pub(super) struct PartState {
    pub(super) series: Accumulator,
    pub(super) exemplars: Exemplars,
}

impl SumStage {
    /// # Errors
    /// [`EngineError::TooManyIntervals`].
    pub fn new(plan: &MetricsPlan, options: JobOptions) -> Result<Self, EngineError> {
        let window = options.window;
        if window.intervals() > MAX_INTERVALS {
            return Err(EngineError::TooManyIntervals(MAX_INTERVALS));
        }
        let exemplars = options.exemplars.div_ceil(plan.parts().len().max(1) as u32);
        let state = |part: &Part| {
            let is_compare = matches!(part.function, Function::Compare(_));
            PartState {
                series: Accumulator::new(kind_of(&part.function), window, divisor_of(&part.function, &window), 0),
                exemplars: Exemplars::new(&window, exemplars, is_compare),
            }
        };
        let states = plan.parts().iter().map(state).collect();
        let max_series = if plan.may_cut_early() { options.max_series } else { 0 };
        Ok(Self { plan: plan.clone(), max_series, states, is_partial: false })
    }

    /// Adds series whose samples lie on the grid of the window; others are dropped.
    pub fn add(&mut self, set: SeriesSet) {
        self.is_partial |= set.partial;
        let mut of_parts: Vec<Vec<Series>> = self.states.iter().map(|_| Vec::new()).collect();
        let is_alone = of_parts.len() == 1;
        for mut series in set.series {
            let fragment = series.labels.remove(FRAGMENT_LABEL);
            let is_of = |part: &Part| is_alone || matches!(&fragment, Some(Static::String(key)) if *key == part.key);
            if let Some(part) = self.plan.parts().iter().position(is_of) {
                of_parts[part].push(series);
            }
        }
        for (part, series) in of_parts.into_iter().enumerate() {
            if kind_of(&self.plan.parts()[part].function) == Kind::Mean {
                self.add_means(part, series);
            } else {
                series.into_iter().for_each(|series| self.add_series(part, &series, None));
            }
            self.prune(part, 2);
        }
    }

    /// Means come with series of their weights; those without are dropped.
    fn add_means(&mut self, part: usize, series: Vec<Series>) {
        let is_weight = |series: &Series| matches!(series.labels.get(META_LABEL), Some(Static::String(meta)) if &**meta == COUNT_META);
        let (weights, means): (Vec<Series>, Vec<Series>) = series.into_iter().partition(is_weight);
        let mut weights_of: HashMap<Labels, Vec<Sample>, FixedState> = HashMap::default();
        for mut series in weights {
            series.labels.remove(META_LABEL);
            weights_of.insert(series.labels, series.samples);
        }
        for series in means {
            if let Some(weights) = weights_of.get(&series.labels) {
                self.add_series(part, &series, Some(weights));
            }
        }
    }

    fn add_series(&mut self, part: usize, series: &Series, weights: Option<&[Sample]>) {
        let PartState { series: known, exemplars } = &mut self.states[part];
        let window = *known.window();
        // the extra intervals that jobs read make no series
        if !series.samples.iter().any(|sample| window.interval_of_ms(sample.timestamp_ms).is_some()) {
            return;
        }
        let Some(row) = known.row(&series.labels) else { return };
        let weight_at = |timestamp_ms: i64| {
            let found = weights
                .map(|weights| weights.binary_search_by_key(&timestamp_ms, |weight| weight.timestamp_ms).map(|at| weights[at].value));
            found.map_or(Some(1.0), Result::ok)
        };
        for sample in &series.samples {
            // infinite weights would make the mean of finite values none
            if let Some(weight) = weight_at(sample.timestamp_ms).filter(|weight| weight.is_finite() && *weight > 0.0)
                && !sample.value.is_nan()
            {
                known.merge(row, *sample, weight);
            }
        }
        for exemplar in &series.exemplars {
            exemplars.add(row, exemplar.clone());
        }
    }

    /// Forgets series beyond the limit once there are more than `slack` times as many.
    fn prune(&mut self, part: usize, slack: usize) {
        let function = &self.plan.parts()[part].function;
        let PartState { series, exemplars } = &mut self.states[part];
        let kept: Vec<u32> = match function {
            // choosing goes through all values, so not after each job
            Function::Compare(compare) if slack == 1 || series.len() > MAX_COMPARED => most_frequent(series, candidates(compare.top_n)),
            Function::Compare(_) => return,
            _ if self.max_series > 0 && series.len() > self.max_series.saturating_mul(slack) => {
                self.is_partial = true;
                series.sorted().into_iter().take(self.max_series).map(|(_, row)| row).collect()
            }
            _ => return,
        };
        if kept.len() < series.len() {
            series.keep(&kept);
            let new_rows: HashMap<u32, u32, FixedState> = kept.iter().zip(0..).map(|(old, new)| (*old, new)).collect();
            exemplars.renumber(|row| new_rows.get(&row).copied());
        }
    }

    pub fn finish(mut self) -> SeriesSet {
        (0..self.states.len()).for_each(|part| self.prune(part, 1));
        let mut set = SeriesSet { series: Vec::new(), partial: self.is_partial() };
        let has_fragments = self.states.len() > 1;
        for (part, state) in self.plan.parts().iter().zip(&self.states) {
            let first = set.series.len();
            emit(kind_of(&part.function), &state.series, &state.exemplars, &mut set.series);
            if has_fragments {
                let key = Static::String(part.key.clone());
                set.series[first..].iter_mut().for_each(|series| series.labels.push(FRAGMENT_LABEL, key.clone()));
            }
        }
        set
    }

    pub(super) fn is_partial(&self) -> bool {
        self.is_partial || self.states.iter().any(|state| state.series.is_cut())
    }

    pub(super) fn states(&self) -> &[PartState] {
        &self.states
    }
}

/// Returns the rows of a comparison without the values that are not among the `keep` most frequent of their attribute and side.
pub(super) fn most_frequent(series: &Accumulator, keep: usize) -> Vec<u32> {
    type CountsAndRows = Vec<(f64, u32)>;
    let mut of_attributes: HashMap<(bool, Arc<str>), CountsAndRows, FixedState> = HashMap::default();
    let mut rows = Vec::new();
    for (labels, row) in series.sorted() {
        let mut labels = labels.iter();
        let (Some(meta), Some(attribute)) = (labels.next(), labels.next()) else { continue };
        let side = VALUES.iter().position(|value| matches!(&meta.value, Static::String(meta) if &**meta == *value));
        match side {
            Some(side) => of_attributes.entry((side == 1, attribute.name.clone())).or_default().push((series.total(row), row)),
            None => rows.push(row),
        }
    }
    for mut values in of_attributes.into_values() {
        // equal ones stay in the order of responses
        values.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        rows.extend(values.into_iter().take(keep).map(|(_, row)| row));
    }
    rows
}
