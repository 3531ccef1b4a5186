//! `compare()`: how often each value of each attribute occurs among selected spans and among the others (metrics, compare).
//!
//! Tables are gone through twice ([`tally`]): first every value is counted without intervals, then those that may be among the most frequent are
//! counted per interval. Values are dictionary ids until one of them gets a series.
//!
//! Invariants
//! * Per job: [`CANDIDATES`] times as many values as are reported, of each attribute and side, so that merging jobs finds the right ones unless
//!   frequencies are close.
//! * An attribute is counted once per span, whatever conditions name it. Events and links are left out, and so are durations and ids.

mod tally;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::accumulate::{Accumulator, Kind};
use super::exemplars::Exemplars;
use super::plan::CompareFunction;
use super::raw::{Chosen, emit, for_one_span_per_trace, trace_id};
use super::series::{Exemplar, Labels, META_LABEL, Series, TRACE_ID_LABEL};
use super::window::{NANOS_PER_MILLI, Window};
use crate::base::bitset::Bitset;
use crate::model::span_table::SpanTable;
use crate::traceql::engine::source::TableSpans;
use crate::traceql::types::Static;
use tally::{Buffers, NO_ROW, Tally, Total, values_of};

/// Values kept per attribute and side before the end, as a multiple of those reported.
const CANDIDATES: usize = 4;
/// At least so many.
const MIN_CANDIDATES: usize = 32;

/// Values of `__meta_type`, by side.
pub(super) const VALUES: [&str; 2] = ["baseline", "selection"];
pub(super) const TOTALS: [&str; 2] = ["baseline_total", "selection_total"];

/// Number of values to keep of each attribute and side until the end.
pub(super) fn candidates(top_n: usize) -> usize {
    (top_n * CANDIDATES).max(MIN_CANDIDATES)
}

/// The counts of one job.
pub(super) struct RawCompare {
    series: Accumulator,
    /// By side; attached to the totals of all attributes they name.
    exemplars: [Exemplars; 2],
    buffers: Buffers,
}

impl RawCompare {
    pub(super) fn new(window: Window, exemplars: u32) -> Self {
        let sides = [(); 2].map(|()| Exemplars::new(&window, exemplars, false));
        Self { series: Accumulator::new(Kind::Count, window, 1.0, 0), exemplars: sides, buffers: Buffers::default() }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.series.is_cut()
    }

    pub(super) fn add(&mut self, function: &CompareFunction, spans: &mut TableSpans<'_>, chosen: &Chosen) {
        if chosen.spans.is_empty() {
            return;
        }
        let table = spans.table();
        let is_selected = selected(function, spans, chosen);
        let tally = Tally::new(table, chosen, &is_selected, std::mem::take(&mut self.buffers));
        let mut rows = vec![[None; 2]; tally.keys().len()];
        for Total { key, side, interval, weight } in tally.totals() {
            let labels = || meta_labels(TOTALS[side], &tally.keys()[key], Static::Nil);
            let row = *rows[key][side].get_or_insert_with(|| self.series.row(&labels()).unwrap_or(NO_ROW));
            if row != NO_ROW {
                self.series.add(row, interval, 0.0, weight);
            }
        }
        let rows = self.rows(&tally, function.top_n);
        tally.count(&rows, |row, interval, weight| self.series.add(row, interval, 0.0, weight));
        self.buffers = tally.into_buffers();
        self.add_exemplars(table, chosen, &is_selected);
    }

    /// Gives series to the most frequent values. Returns them by value and side.
    fn rows(&mut self, tally: &Tally<'_>, top_n: usize) -> Vec<[u32; 2]> {
        let mut rows = vec![[NO_ROW; 2]; tally.len()];
        for side in 0..2 {
            for (name, values) in tally.keys().iter().zip(tally.frequent(side, candidates(top_n))) {
                for value in values {
                    let labels = meta_labels(VALUES[side], name, tally.label(value));
                    rows[value as usize][side] = self.series.row(&labels).unwrap_or(NO_ROW);
                }
            }
        }
        rows
    }

    fn add_exemplars(&mut self, table: &SpanTable, chosen: &Chosen, is_selected: &[bool]) {
        let [baseline, selection] = &mut self.exemplars;
        for (side, exemplars) in [(false, baseline), (true, selection)] {
            let positions: Vec<usize> = (0..chosen.spans.len()).filter(|at| is_selected[*at] == side).collect();
            let of_side = Chosen {
                spans: positions.iter().map(|at| chosen.spans[*at]).collect(),
                intervals: Vec::new(),
                weights: Vec::new(),
                factor: 1.0,
            };
            for_one_span_per_trace(table, &of_side, exemplars, |at, exemplars| {
                let span = of_side.spans[at];
                let timestamp_ms = (table.spans.start_unix_nanos[span as usize] / NANOS_PER_MILLI) as i64;
                if exemplars.has_room(0, timestamp_ms) {
                    exemplars.add(0, Exemplar { labels: attributes_of(table, span), timestamp_ms, value: f64::NAN });
                }
            });
        }
    }

    pub(super) fn emit(&self, out: &mut Vec<Series>) {
        let first = out.len();
        emit(Kind::Count, &self.series, &Exemplars::new(self.series.window(), 0, false), out);
        for series in &mut out[first..] {
            let Some(side) = side_of_total(&series.labels) else { continue };
            let Some(attribute) = series.labels.iter().nth(1) else { continue };
            let about = self.exemplars[side].iter().map(|(_, exemplar)| exemplar);
            series.exemplars.extend(about.filter(|exemplar| exemplar.labels.get(&attribute.name).is_some()).cloned());
            series.exemplars.sort_by_key(|exemplar| exemplar.timestamp_ms);
        }
    }
}

/// Which of the two totals these labels name.
fn side_of_total(labels: &Labels) -> Option<usize> {
    let Some(Static::String(meta)) = labels.get(META_LABEL) else { return None };
    TOTALS.iter().position(|total| *total == &**meta)
}

fn meta_labels(meta: &str, name: &Arc<str>, value: Static) -> Labels {
    let mut labels = Labels::single(META_LABEL, Static::string(meta));
    labels.push(name.clone(), value);
    labels
}

fn selected(function: &CompareFunction, spans: &mut TableSpans<'_>, chosen: &Chosen) -> Vec<bool> {
    let mut all = Bitset::new(spans.table().span_count());
    chosen.spans.iter().for_each(|span| all.insert(*span as usize));
    let passed = spans.filter(&function.selection, &all);
    let starts = &spans.table().spans.start_unix_nanos;
    let is_in_time = |span: usize| function.start < starts[span] && starts[span] <= function.end;
    chosen.spans.iter().map(|span| passed.contains(*span as usize) && is_in_time(*span as usize)).collect()
}

/// Returns all that is counted of one span, as labels of an exemplar.
fn attributes_of(table: &SpanTable, span: u32) -> Labels {
    let by_name: BTreeMap<Arc<str>, Static> = values_of(table, span).into_iter().collect();
    let mut all = Labels::new();
    by_name.into_iter().for_each(|(name, value)| all.push(name, value));
    all.push(TRACE_ID_LABEL, trace_id(table, span));
    all
}
