//! Series under construction: labels to rows, rows and intervals to cells. All stages add into one of these and read series out of it.
//!
//! Invariants
//! * Cells, row index and labels together stay below [`MAX_STATE_BYTES`], checked before they grow. What does not fit is left out and
//!   [`Accumulator::is_cut`] says so.
//! * Memory is taken for runs of intervals in which a series has something, so many short-lived series over a long window stay small.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::MAX_STATE_BYTES;
use super::series::{COUNT_META, Labels, META_LABEL, Sample};
use super::window::Window;
use crate::traceql::types::Static;

/// What a cell holds and how two meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A count; 0 when nothing was added.
    Count,
    Min,
    Max,
    /// A compensated sum of values times weights, and the compensation.
    Sum,
    /// Compensated sum of values times weights, compensation, sum of weights.
    Mean,
}

impl Kind {
    /// Numbers in a cell.
    fn width(self) -> usize {
        match self {
            Self::Count | Self::Min | Self::Max => 1,
            Self::Sum => 2,
            Self::Mean => 3,
        }
    }

    /// Content of a new cell.
    fn empty(self) -> f64 {
        match self {
            Self::Count | Self::Mean => 0.0,
            Self::Min | Self::Max | Self::Sum => f64::NAN,
        }
    }
}

pub(super) struct Accumulator {
    kind: Kind,
    window: Window,
    /// What values are divided by when they are read, and multiplied with when they are merged: the seconds of a rate. Adding counts instead of
    /// rates makes the result independent of the order.
    divisor: f64,
    /// Rows of this many series at most; 0: no limit.
    max_series: usize,
    rows: HashMap<Labels, u32, FixedState>,
    label_bytes: usize,
    grid: Grid,
    is_cut: bool,
}

impl Accumulator {
    pub(super) fn new(kind: Kind, window: Window, divisor: f64, max_series: usize) -> Self {
        let grid = Grid::new(kind.width(), kind.empty(), window.intervals());
        Self { kind, window, divisor, max_series, rows: HashMap::default(), label_bytes: 0, grid, is_cut: false }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether something was left out.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    /// Returns the row of `labels`, a new one if need be and there is room.
    pub(super) fn row(&mut self, labels: &Labels) -> Option<u32> {
        if let Some(row) = self.rows.get(labels) {
            return Some(*row);
        }
        let bytes = labels.memory_bytes() + size_of::<(Labels, u32)>();
        let is_full = self.max_series > 0 && self.rows.len() >= self.max_series;
        if is_full || self.memory_bytes() + bytes > MAX_STATE_BYTES {
            self.is_cut = true;
            return None;
        }
        let row = self.grid.add_row();
        self.rows.insert(labels.clone(), row);
        self.label_bytes += bytes;
        Some(row)
    }

    /// Adds one observation, or a merged value, with its weight. For counts the weight is what is added.
    #[inline]
    pub(super) fn add(&mut self, row: u32, interval: usize, value: f64, weight: f64) {
        if !self.grid.has_cell(row, interval) && !self.make_cell(row, interval) {
            return;
        }
        let cell = self.grid.cell_mut(row, interval);
        match (self.kind, cell) {
            (Kind::Count, [count]) => *count += weight,
            // `min` and `max` return the other operand for NaN
            (Kind::Min, [least]) => *least = least.min(value),
            (Kind::Max, [greatest]) => *greatest = greatest.max(value),
            (Kind::Sum, [sum, compensation]) if sum.is_nan() => (*sum, *compensation) = (value * weight, 0.0),
            (Kind::Sum, [sum, compensation]) => add_compensated(sum, compensation, value * weight),
            (Kind::Mean, [sum, compensation, weights]) => {
                add_compensated(sum, compensation, value * weight);
                *weights += weight;
            }
            _ => debug_assert!(false, "cells have the width of their kind"),
        }
    }

    /// Returns whether there was room.
    #[cold]
    fn make_cell(&mut self, row: u32, interval: usize) -> bool {
        let has_room = self.memory_bytes() < MAX_STATE_BYTES && self.grid.add_run(row, interval);
        self.is_cut |= !has_room;
        has_room
    }

    /// Merges a sample as another accumulator of this kind gave it. One outside of the window is dropped.
    pub(super) fn merge(&mut self, row: u32, sample: Sample, weight: f64) {
        if let Some(interval) = self.window.interval_of_ms(sample.timestamp_ms) {
            match self.kind {
                Kind::Count => self.add(row, interval, 0.0, self.undivided(sample.value)),
                Kind::Min | Kind::Max | Kind::Sum => self.add(row, interval, sample.value, 1.0),
                Kind::Mean => self.add(row, interval, sample.value, weight),
            }
        }
    }

    /// Returns the count that gave this rate.
    fn undivided(&self, rate: f64) -> f64 {
        /// Relative error of dividing and multiplying again.
        const ROUNDING: f64 = 1e-12;
        if self.divisor == 1.0 {
            return rate;
        }
        let count = rate * self.divisor;
        let whole = count.round();
        if (count - whole).abs() <= ROUNDING * whole.abs() { whole } else { count }
    }

    /// Returns the value of a cell; NaN for none.
    pub(super) fn value(&self, row: u32, interval: usize) -> f64 {
        match (self.kind, self.grid.cell(row, interval)) {
            (Kind::Count, Some([count])) => *count / self.divisor,
            (Kind::Count, _) => 0.0,
            (Kind::Min | Kind::Max, Some([value])) => *value,
            (Kind::Sum, Some([sum, compensation])) => sum + compensation,
            (Kind::Mean, Some([sum, compensation, weights])) if *weights > 0.0 => (sum + compensation) / weights,
            _ => f64::NAN,
        }
    }

    /// Returns the sum of the weights of a mean.
    fn weight(&self, row: u32, interval: usize) -> f64 {
        match self.grid.cell(row, interval) {
            Some([_, _, weights]) => *weights,
            _ => 0.0,
        }
    }

    /// Returns the samples of a series as they are sent: those of a count that are not 0, and all other values.
    pub(super) fn samples(&self, row: u32) -> Vec<Sample> {
        let is_sent = |value: &f64| !value.is_nan() && (self.kind != Kind::Count || *value != 0.0);
        self.samples_of(row, |interval| self.value(row, interval), is_sent)
    }

    /// Returns the weights that go with [`Accumulator::samples`] of a mean.
    pub(super) fn weights(&self, row: u32) -> Vec<Sample> {
        self.samples_of(
            row,
            |interval| if self.value(row, interval).is_nan() { 0.0 } else { self.weight(row, interval) },
            |weight| *weight > 0.0,
        )
    }

    fn samples_of(&self, row: u32, value: impl Fn(usize) -> f64, is_sent: impl Fn(&f64) -> bool) -> Vec<Sample> {
        let intervals = self.grid.used_intervals(row);
        let sample = |interval: usize| Sample { timestamp_ms: self.window.timestamp_ms(interval), value: value(interval) };
        intervals.map(sample).filter(|sample| is_sent(&sample.value)).collect()
    }

    /// Returns all values of a series, NaN for none.
    pub(super) fn dense(&self, row: u32) -> Vec<f64> {
        let mut values = vec![if self.kind == Kind::Count { 0.0 } else { f64::NAN }; self.window.intervals()];
        self.grid.used_intervals(row).for_each(|interval| values[interval] = self.value(row, interval));
        values
    }

    /// Returns the sum over all intervals.
    pub(super) fn total(&self, row: u32) -> f64 {
        self.grid.used_intervals(row).map(|interval| self.value(row, interval)).filter(|value| !value.is_nan()).sum()
    }

    pub(super) fn used_intervals(&self, row: u32) -> impl Iterator<Item = usize> + '_ {
        self.grid.used_intervals(row)
    }

    /// Returns the series in the order of responses.
    pub(super) fn sorted(&self) -> Vec<(&Labels, u32)> {
        let mut sorted: Vec<(&Labels, u32)> = self.rows.iter().map(|(labels, row)| (labels, *row)).collect();
        sorted.sort_unstable_by(|(a, _), (b, _)| a.response_order(b));
        sorted
    }

    /// Keeps the series of `rows`, which are renumbered in that order.
    pub(super) fn keep(&mut self, rows: &[u32]) {
        let mut new_rows = vec![None; self.rows.len()];
        let mut grid = Grid::new(self.kind.width(), self.kind.empty(), self.window.intervals());
        for row in rows {
            new_rows[*row as usize] = Some(grid.add_row());
            grid.copy_row(&self.grid, *row);
        }
        self.rows.retain(|_, row| match new_rows[*row as usize] {
            Some(new) => {
                *row = new;
                true
            }
            None => false,
        });
        self.label_bytes = self.rows.keys().map(|labels| labels.memory_bytes() + size_of::<(Labels, u32)>()).sum();
        self.grid = grid;
    }

    fn memory_bytes(&self) -> usize {
        self.label_bytes + self.grid.memory_bytes()
    }
}

/// Returns `labels` as those of the weights of a mean.
pub(super) fn weight_labels(labels: &Labels) -> Labels {
    let mut labels = labels.clone();
    labels.push(META_LABEL, Static::string(COUNT_META));
    labels
}

/// Adds after Neumaier. An infinite sum stays.
fn add_compensated(sum: &mut f64, compensation: &mut f64, value: f64) {
    let total = *sum + value;
    if total.is_finite() {
        *compensation += if sum.abs() >= value.abs() { (*sum - total) + value } else { (value - total) + *sum };
    }
    *sum = total;
}

/// Cells by row and interval, in runs of intervals.
struct Grid {
    width: usize,
    empty: f64,
    intervals: usize,
    /// Intervals of a run, as a power of two.
    run_bits: u32,
    runs_per_row: usize,
    /// By row and run: where its cells are; [`Grid::NO_RUN`] for none.
    runs: Vec<u32>,
    cells: Vec<f64>,
}

impl Grid {
    const NO_RUN: u32 = u32::MAX;
    /// Long enough that the index is small beside the cells, short enough that a series with one span costs half a kilobyte.
    const MAX_RUN_BITS: u32 = 6;

    fn new(width: usize, empty: f64, intervals: usize) -> Self {
        let run_bits = intervals.max(1).next_power_of_two().trailing_zeros().min(Self::MAX_RUN_BITS);
        Self { width, empty, intervals, run_bits, runs_per_row: intervals.div_ceil(1 << run_bits), runs: Vec::new(), cells: Vec::new() }
    }

    fn add_row(&mut self) -> u32 {
        let row = self.runs.len() / self.runs_per_row.max(1);
        self.runs.resize(self.runs.len() + self.runs_per_row.max(1), Self::NO_RUN);
        row as u32
    }

    fn run_cells(&self) -> usize {
        self.width << self.run_bits
    }

    fn cell(&self, row: u32, interval: usize) -> Option<&[f64]> {
        let run = self.run(row, interval);
        if run == Self::NO_RUN {
            return None;
        }
        let at = self.place(run, interval);
        Some(&self.cells[at..at + self.width])
    }

    fn run(&self, row: u32, interval: usize) -> u32 {
        self.runs[row as usize * self.runs_per_row + (interval >> self.run_bits)]
    }

    fn has_cell(&self, row: u32, interval: usize) -> bool {
        self.run(row, interval) != Self::NO_RUN
    }

    /// Adds the run of a cell. Returns whether there are numbers left for it.
    fn add_run(&mut self, row: u32, interval: usize) -> bool {
        let cells = self.run_cells();
        let next = self.cells.len() / cells;
        if next >= Self::NO_RUN as usize {
            return false;
        }
        self.runs[row as usize * self.runs_per_row + (interval >> self.run_bits)] = next as u32;
        self.cells.resize(self.cells.len() + cells, self.empty);
        true
    }

    /// Returns where a cell that is there begins.
    fn place(&self, run: u32, interval: usize) -> usize {
        run as usize * self.run_cells() + (interval & ((1 << self.run_bits) - 1)) * self.width
    }

    fn cell_mut(&mut self, row: u32, interval: usize) -> &mut [f64] {
        let at = self.place(self.run(row, interval), interval);
        &mut self.cells[at..at + self.width]
    }

    /// Returns the intervals of the runs that a row has.
    fn used_intervals(&self, row: u32) -> impl Iterator<Item = usize> + '_ {
        let first = row as usize * self.runs_per_row;
        let used = (0..self.runs_per_row).filter(move |run| self.runs[first + run] != Self::NO_RUN);
        used.flat_map(|run| run << self.run_bits..((run + 1) << self.run_bits).min(self.intervals))
    }

    /// Appends the cells of `row` of a grid of the same shape to the row added last.
    fn copy_row(&mut self, other: &Self, row: u32) {
        let cells = self.run_cells();
        let last = self.runs.len() - self.runs_per_row;
        for run in 0..self.runs_per_row {
            let from = other.runs[row as usize * self.runs_per_row + run];
            if from != Self::NO_RUN {
                self.runs[last + run] = (self.cells.len() / cells) as u32;
                self.cells.extend_from_slice(&other.cells[from as usize * cells..(from as usize + 1) * cells]);
            }
        }
    }

    fn memory_bytes(&self) -> usize {
        self.runs.len() * size_of::<u32>() + self.cells.len() * size_of::<f64>()
    }
}
