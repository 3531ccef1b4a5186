//! The raw stage: spans of tables become series, one table at a time, columns at a time.
//!
//! ```text
//! pipeline ─▶ selected spans ─▶ (span, interval) in the window ─▶ group of each span ─▶ cells of (group, interval) ─▶ rows of series
//! ```
//!
//! A group is a tuple of codes of one table; its labels are looked up once per table.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::atomic::AtomicBool;

use foldhash::fast::FixedState;

use super::accumulate::{Accumulator, Kind, weight_labels};
use super::compare::RawCompare;
use super::exemplars::Exemplars;
use super::plan::{Function, Part, SampleRate};
use super::series::{BUCKET_LABEL, Exemplar, FRAGMENT_LABEL, Labels, NAME_LABEL, Series, SeriesSet, TRACE_ID_LABEL, label_value};
use super::tracestate::Multipliers;
use super::window::{IntervalFinder, NANOS_PER_MILLI};
use super::{JobOptions, MAX_INTERVALS, MetricsPlan, Window};
use crate::base::bitset::Bitset;
use crate::model::span_table::SpanTable;
use crate::traceql::engine::columns::{Bucket, measured};
use crate::traceql::engine::source::TableSpans;
use crate::traceql::engine::{EngineError, Inspected};
use crate::traceql::types::Static;

const NANOS_PER_SECOND: f64 = 1e9;

/// The series of one job.
pub struct RawMetrics {
    plan: MetricsPlan,
    window: Window,
    states: Vec<State>,
    sampler: Sampler,
}

/// What one sub-query has so far.
#[expect(clippy::large_enum_variant, reason = "there is one per sub-query, and the large variant is the usual one")]
enum State {
    Series { series: Accumulator, exemplars: Exemplars },
    Compare(Box<RawCompare>),
}

/// Spans of one table that count, in ascending order, with their intervals.
pub(super) struct Chosen {
    pub(super) spans: Vec<u32>,
    pub(super) intervals: Vec<u32>,
    /// What each span stands for beside [`Chosen::factor`]; empty: 1.
    pub(super) weights: Vec<f64>,
    pub(super) factor: f64,
}

impl RawMetrics {
    /// # Errors
    /// [`EngineError::TooManyIntervals`].
    pub fn new(plan: &MetricsPlan, options: JobOptions) -> Result<Self, EngineError> {
        let window = options.window;
        if window.intervals() > MAX_INTERVALS {
            return Err(EngineError::TooManyIntervals(MAX_INTERVALS));
        }
        let max_series = if plan.may_cut_early() { options.max_series } else { 0 };
        let exemplars = options.exemplars.div_ceil(plan.parts().len().max(1) as u32);
        let state = |part: &Part| match &part.function {
            Function::Compare(_) => State::Compare(Box::new(RawCompare::new(window, exemplars))),
            function => State::Series {
                series: Accumulator::new(kind_of(function), window, divisor_of(function, &window), max_series),
                exemplars: Exemplars::new(&window, exemplars, false),
            },
        };
        let states = plan.parts().iter().map(state).collect();
        let sampler = Sampler::new(plan.sampling().rate);
        Ok(Self { plan: plan.clone(), window, states, sampler })
    }

    /// Counts the spans of `table`, which holds at least what [`MetricsPlan::fetch`] names, of the traces in `rows`; `None`: of all. Tables of
    /// one job must not share spans.
    pub fn add(&mut self, table: &SpanTable, rows: Option<&Bitset>, cancelled: &AtomicBool) -> Result<Inspected, EngineError> {
        let mut spans = TableSpans::new(table);
        let (input, factor) = self.sampler.sample(&spans, table, rows, self.plan.sampling().by_trace);
        let traces = rows.map_or(table.trace_count(), Bitset::count);
        let inspected = Inspected { traces: traces as u64, spans: input.count() as u64, bytes: table.memory_bytes() as u64 };
        let mut multipliers = self.plan.extrapolates().then(|| Multipliers::new(table));
        let mut matched = 0;
        for (part, state) in self.plan.parts().iter().zip(&mut self.states) {
            if part.source.is_never() || state.is_full() {
                continue;
            }
            let selected = spans.select(&part.source, input.clone(), cancelled)?;
            let mut chosen = choose(&selected, &table.spans.start_unix_nanos, &self.window);
            chosen.factor = factor;
            if let Some(multipliers) = &mut multipliers {
                chosen.weights = multipliers.of_spans(&chosen.spans);
            }
            matched += chosen.spans.len();
            if chosen.spans.is_empty() {
                continue;
            }
            match (state, &part.function) {
                (State::Compare(compare), Function::Compare(function)) => compare.add(function, &mut spans, &chosen),
                (State::Compare(_), _) => {}
                (State::Series { series, exemplars }, function) => {
                    let rows = add_series(part, function, &mut spans, &chosen, series);
                    add_exemplars(part, &mut spans, &chosen, &rows, exemplars);
                }
            }
        }
        self.sampler.learn(input.count(), matched);
        Ok(inspected)
    }

    /// Whether the next table, of spans that start within these bounds (nanoseconds), must tell which trace a span is of.
    pub fn needs_traces(&self, first: u64, last: u64) -> bool {
        let wants_exemplars = |state: &State| match state {
            State::Series { series: _, exemplars } => exemplars.has_much_room(first, last),
            State::Compare(_) => true,
        };
        self.plan.needs_whole_traces() || self.plan.sampling().by_trace || self.states.iter().any(wants_exemplars)
    }

    /// Whether further tables would not be looked at, because a limit is reached.
    pub fn is_full(&self) -> bool {
        !self.states.is_empty() && self.states.iter().all(State::is_full)
    }

    pub fn finish(self) -> SeriesSet {
        let mut set = SeriesSet::default();
        let has_fragments = self.plan.parts().len() > 1;
        for (part, state) in self.plan.parts().iter().zip(&self.states) {
            set.partial |= state.is_full();
            let first = set.series.len();
            match state {
                State::Series { series, exemplars } => emit(kind_of(&part.function), series, exemplars, &mut set.series),
                State::Compare(compare) => compare.emit(&mut set.series),
            }
            if has_fragments {
                let key = Static::String(part.key.clone());
                set.series[first..].iter_mut().for_each(|series| series.labels.push(FRAGMENT_LABEL, key.clone()));
            }
        }
        set
    }
}

impl State {
    fn is_full(&self) -> bool {
        match self {
            Self::Series { series, exemplars: _ } => series.is_cut(),
            Self::Compare(compare) => compare.is_cut(),
        }
    }
}

pub(super) fn kind_of(function: &Function) -> Kind {
    match function {
        Function::Count | Function::Rate | Function::Histogram(_) | Function::Quantile { .. } | Function::Compare(_) => Kind::Count,
        Function::Min(_) => Kind::Min,
        Function::Max(_) => Kind::Max,
        Function::Sum(_) => Kind::Sum,
        Function::Avg(_) => Kind::Mean,
    }
}

pub(super) fn divisor_of(function: &Function, window: &Window) -> f64 {
    if matches!(function, Function::Rate) && window.step > 0 { window.step as f64 / NANOS_PER_SECOND } else { 1.0 }
}

/// Writes the series of `accumulator` as they are sent; those without samples are left out.
pub(super) fn emit(kind: Kind, accumulator: &Accumulator, exemplars: &Exemplars, out: &mut Vec<Series>) {
    let mut exemplars = exemplars.by_series();
    for (labels, row) in accumulator.sorted() {
        let samples = accumulator.samples(row);
        if samples.is_empty() {
            continue;
        }
        if kind == Kind::Mean {
            out.push(Series { labels: weight_labels(labels), samples: accumulator.weights(row), exemplars: Vec::new() });
        }
        let exemplars = exemplars.remove(&row).unwrap_or_default().into_iter().cloned().collect();
        out.push(Series { labels: labels.clone(), samples, exemplars });
    }
}

/// Returns the selected spans within the window and their intervals.
fn choose(selected: &Bitset, starts: &[u64], window: &Window) -> Chosen {
    /// Marks a span outside the window.
    const OUTSIDE: u32 = u32::MAX;
    let mut chosen = Chosen { spans: Vec::new(), intervals: Vec::new(), weights: Vec::new(), factor: 1.0 };
    if starts.len() < selected.len() {
        return chosen;
    }
    chosen.spans = selected.to_indices();
    let mut finder = IntervalFinder::new(window);
    let mut all_inside = true;
    chosen.intervals.extend(chosen.spans.iter().map(|span| {
        let interval = finder.interval_of(starts[*span as usize]);
        all_inside &= interval.is_some();
        interval.unwrap_or(OUTSIDE)
    }));
    if !all_inside {
        let mut is_inside = chosen.intervals.iter().map(|interval| *interval != OUTSIDE);
        chosen.spans.retain(|_| is_inside.next().unwrap_or(false));
        chosen.intervals.retain(|interval| *interval != OUTSIDE);
    }
    chosen
}

/// No row: the span is not counted, or there was no room for its series.
const NO_ROW: u32 = u32::MAX;

/// Adds to the series of `part` and returns the rows of the spans.
fn add_series(part: &Part, function: &Function, spans: &mut TableSpans<'_>, chosen: &Chosen, series: &mut Accumulator) -> Rows {
    let buckets = match function {
        Function::Histogram(attribute) | Function::Quantile { attribute, quantiles: _ } => Some(spans.buckets(attribute, &chosen.spans)),
        _ => None,
    };
    let values = match function {
        Function::Min(attribute) | Function::Max(attribute) | Function::Sum(attribute) | Function::Avg(attribute) => {
            Some(spans.numbers(attribute, &chosen.spans))
        }
        _ => None,
    };
    let groups = Groups::new(part, buckets, spans, &chosen.spans);
    let row_of_group = rows_of_groups(part, &groups, values.as_deref(), spans, series);
    match values {
        None => count(&groups, &row_of_group, chosen, series),
        Some(values) => {
            for (at, value) in values.into_iter().enumerate() {
                let row = row_of_group[groups.of(at)];
                if row != NO_ROW && !value.is_nan() {
                    series.add(row, chosen.intervals[at] as usize, value, chosen.weight(at));
                }
            }
        }
    }
    Rows { groups, row_of_group }
}

/// Which row each chosen span belongs to.
struct Rows {
    groups: Groups,
    row_of_group: Vec<u32>,
}

impl Rows {
    fn of(&self, at: usize) -> u32 {
        self.row_of_group[self.groups.of(at)]
    }
}

impl Chosen {
    pub(super) fn weight(&self, at: usize) -> f64 {
        self.factor * self.weights.get(at).copied().unwrap_or(1.0)
    }
}

/// Counts spans per group and interval: in a table of this size if it is not much larger than the number of spans, else in the series.
fn count(groups: &Groups, row_of_group: &[u32], chosen: &Chosen, series: &mut Accumulator) {
    /// Cells that are always few enough.
    const SMALL: usize = 1 << 16;
    let intervals = series.window().intervals();
    let cells = groups.len.saturating_mul(intervals);
    if cells > SMALL.max(chosen.spans.len().saturating_mul(2)) {
        for (at, interval) in chosen.intervals.iter().enumerate() {
            let row = row_of_group[groups.of(at)];
            if row != NO_ROW {
                series.add(row, *interval as usize, 0.0, chosen.weight(at));
            }
        }
        return;
    }
    let mut counts = vec![0.0; cells];
    let intervals_of = chosen.intervals.iter().map(|interval| *interval as usize);
    match &groups.of_spans {
        None => add_to_cells(&mut counts, intervals_of, &chosen.weights),
        Some(of_spans) => {
            let cells = of_spans.iter().zip(intervals_of).map(|(group, interval)| *group as usize * intervals + interval);
            add_to_cells(&mut counts, cells, &chosen.weights);
        }
    }
    for (cell, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0.0) {
        let row = row_of_group[cell / intervals];
        if row != NO_ROW {
            series.add(row, cell % intervals, 0.0, count * chosen.factor);
        }
    }
}

/// Adds the weights of spans (none: 1) to their cells.
fn add_to_cells(counts: &mut [f64], cells: impl Iterator<Item = usize>, weights: &[f64]) {
    if !weights.is_empty() {
        cells.zip(weights).for_each(|(cell, weight)| counts[cell] += weight);
        return;
    }
    // Neighbours are mostly in the same cell, and adding to it again and again would wait for memory.
    let (mut current, mut run) = (0, 0_u32);
    for cell in cells {
        if cell != current {
            counts[current] += f64::from(std::mem::take(&mut run));
            current = cell;
        }
        run += 1;
    }
    if run > 0 {
        counts[current] += f64::from(run);
    }
}

/// The group of each span: a tuple of codes of the `by` attributes, and of the bucket for histograms.
struct Groups {
    /// `None`: all are in the only one.
    of_spans: Option<Vec<u32>>,
    len: usize,
    /// Codes per group, `width` each; empty when the group is the only code.
    tuples: Vec<u32>,
    width: usize,
    columns: Vec<GroupColumn>,
}

enum GroupColumn {
    Attribute(crate::traceql::engine::columns::Codes),
    Bucket,
}

impl Groups {
    fn new(part: &Part, buckets: Option<Vec<u32>>, spans: &mut TableSpans<'_>, chosen: &[u32]) -> Self {
        let mut groups = Self { of_spans: None, len: 1, tuples: Vec::new(), width: 0, columns: Vec::new() };
        for by in &part.by {
            let mut codes = spans.codes(&by.attribute, chosen);
            let of_spans = std::mem::take(&mut codes.of_spans);
            let len = codes.len();
            groups.refine(of_spans, len, GroupColumn::Attribute(codes));
        }
        if let Some(buckets) = buckets {
            groups.refine(buckets, Bucket::CODES, GroupColumn::Bucket);
        }
        groups
    }

    fn of(&self, at: usize) -> usize {
        self.of_spans.as_ref().map_or(0, |of_spans| of_spans[at] as usize)
    }

    /// Splits the groups by a further column of codes below `len`.
    fn refine(&mut self, codes: Vec<u32>, len: usize, column: GroupColumn) {
        /// Tuples that are numbered in an array.
        const DENSE: usize = 1 << 20;
        self.columns.push(column);
        self.width += 1;
        let Some(of_spans) = &mut self.of_spans else {
            (self.of_spans, self.len) = (Some(codes), len);
            return;
        };
        if self.width == 2 {
            self.tuples = (0..self.len as u32).collect();
        }
        let mut refined = Refined { tuples: Vec::new(), len: 0 };
        let pairs = self.len.saturating_mul(len);
        if pairs <= DENSE {
            let mut known = vec![NO_ROW; pairs];
            for (group, code) in of_spans.iter_mut().zip(codes) {
                let number = &mut known[*group as usize * len + code as usize];
                if *number == NO_ROW {
                    *number = refined.add(&self.tuples, self.width - 1, *group, code);
                }
                *group = *number;
            }
        } else {
            let mut known: HashMap<u64, u32, FixedState> = HashMap::default();
            for (group, code) in of_spans.iter_mut().zip(codes) {
                let pair = u64::from(*group) << 32 | u64::from(code);
                *group = *known.entry(pair).or_insert_with(|| refined.add(&self.tuples, self.width - 1, *group, code));
            }
        }
        (self.tuples, self.len) = (refined.tuples, refined.len);
    }

    fn codes(&self, group: usize) -> &[u32] {
        &self.tuples[group * self.width..(group + 1) * self.width]
    }

    /// Returns the labels of `group`; `None` if its spans do not count.
    fn labels(&self, part: &Part, group: usize, spans: &mut TableSpans<'_>) -> Option<Labels> {
        let single = [group as u32];
        let codes = if self.width > 1 { self.codes(group) } else { &single[..self.width] };
        let mut labels = Labels::new();
        let mut bucket = None;
        for (at, (code, column)) in codes.iter().zip(&self.columns).enumerate() {
            match column {
                GroupColumn::Bucket if *code == 0 => return None,
                GroupColumn::Bucket => bucket = Some(Bucket::bound(*code)),
                GroupColumn::Attribute(_) if *code == 0 => {}
                GroupColumn::Attribute(values) => labels.push(part.by[at].name.clone(), label_value(values.value(*code, spans))),
            }
        }
        if labels.is_empty() {
            match (part.by.first(), part.function.name()) {
                (Some(by), _) => labels.push(by.name.clone(), Static::Nil),
                (None, Some(name)) => labels.push(NAME_LABEL, Static::string(name)),
                (None, None) => {}
            }
        }
        if let Some(bucket) = bucket {
            labels.push(BUCKET_LABEL, Static::Float(bucket));
        }
        Some(labels)
    }
}

/// Groups being numbered.
struct Refined {
    tuples: Vec<u32>,
    len: usize,
}

impl Refined {
    fn add(&mut self, tuples: &[u32], width: usize, group: u32, code: u32) -> u32 {
        self.tuples.extend_from_slice(&tuples[group as usize * width..(group as usize + 1) * width]);
        self.tuples.push(code);
        self.len += 1;
        self.len as u32 - 1
    }
}

/// Returns the rows of the groups that have spans, and values if the function wants them.
fn rows_of_groups(part: &Part, groups: &Groups, values: Option<&[f64]>, spans: &mut TableSpans<'_>, series: &mut Accumulator) -> Vec<u32> {
    let mut is_used = Bitset::new(groups.len);
    let mut last = None;
    match (&groups.of_spans, values) {
        (None, None) => is_used.insert(0),
        (of_spans, values) => {
            for at in 0..of_spans.as_ref().map_or(0, Vec::len).max(values.map_or(0, <[f64]>::len)) {
                let group = groups.of(at);
                if last != Some(group) && values.is_none_or(|values| !values[at].is_nan()) {
                    is_used.insert(group);
                    last = Some(group);
                }
            }
        }
    }
    let mut rows = vec![NO_ROW; groups.len];
    for group in is_used.iter() {
        // once there was no room, labels of further groups are not worth making
        if !series.is_cut()
            && let Some(labels) = groups.labels(part, group, spans)
        {
            rows[group] = series.row(&labels).unwrap_or(NO_ROW);
        }
    }
    rows
}

/// Offers one span of each trace as an exemplar.
fn add_exemplars(part: &Part, spans: &mut TableSpans<'_>, chosen: &Chosen, rows: &Rows, exemplars: &mut Exemplars) {
    for_one_span_per_trace(spans.table(), chosen, exemplars, |at, exemplars| {
        let (span, row) = (chosen.spans[at], rows.of(at));
        let timestamp_ms = (spans.table().spans.start_unix_nanos[span as usize] / NANOS_PER_MILLI) as i64;
        if row == NO_ROW || !exemplars.has_room(row, timestamp_ms) {
            return;
        }
        let mut labels = Labels::new();
        for shown in &part.shown {
            let value = spans.value_of(&shown.attribute, span);
            if !value.is_nil() {
                labels.push(shown.name.clone(), label_value(value));
            }
        }
        labels.push(TRACE_ID_LABEL, trace_id(spans.table(), span));
        let value = exemplar_value(&part.function, spans, span);
        exemplars.add(row, Exemplar { labels, timestamp_ms, value });
    });
}

/// Calls `offer` with the position of one chosen span of each trace, taken by the trace id so that it is any of them, yet always the same.
pub(super) fn for_one_span_per_trace(
    table: &SpanTable,
    chosen: &Chosen,
    exemplars: &mut Exemplars,
    mut offer: impl FnMut(usize, &mut Exemplars),
) {
    let mut at = 0;
    for row in 0..table.trace_count() {
        if exemplars.is_full() || at == chosen.spans.len() {
            return;
        }
        let Range { start, end } = table.spans_of_trace(row);
        let most = (at + end - start).min(chosen.spans.len());
        let count = chosen.spans[at..most].partition_point(|span| (*span as usize) < end);
        if count > 0 {
            let pick = FixedState::default().hash_one(table.traces.ids[row]) as usize % count;
            offer(at + pick, exemplars);
            at += count;
        }
    }
}

pub(super) fn trace_id(table: &SpanTable, span: u32) -> Static {
    let scope = table.scopes.spans.owner_of(span as usize);
    let row = table.traces.resources.owner_of(table.resources.scopes.owner_of(scope));
    Static::string(table.traces.ids[row].to_short_hex())
}

/// Returns what was measured on the span; NaN for functions that only count.
fn exemplar_value(function: &Function, spans: &mut TableSpans<'_>, span: u32) -> f64 {
    let Some(attribute) = function.attribute() else { return f64::NAN };
    let value = spans.value_of(attribute, span);
    match (function, &value) {
        (Function::Histogram(_), _) => f64::NAN,
        // buckets of all durations are in seconds
        (Function::Quantile { .. }, Static::Duration(nanos)) => *nanos as f64 / NANOS_PER_SECOND,
        _ => measured(attribute, &value).unwrap_or(f64::NAN),
    }
}

/// Leaves out spans or traces, and says what those that are taken stand for.
struct Sampler {
    rate: SampleRate,
    seen: usize,
    /// Spans looked at and found so far.
    sampled: usize,
    matched: usize,
}

impl Sampler {
    fn new(rate: SampleRate) -> Self {
        Self { rate, seen: 0, sampled: 0, matched: 0 }
    }

    /// Returns every how many-th entry is taken of the next table. An adaptive sample takes all until something is found, then the fewer the
    /// larger the share that matches, down to one in ten.
    fn one_in(&self) -> usize {
        const FEWEST: usize = 10;
        match self.rate {
            SampleRate::All => 1,
            SampleRate::OneIn(n) => n.max(1),
            SampleRate::Adaptive => (self.matched * FEWEST).div_ceil(self.sampled.max(1)).clamp(1, FEWEST),
        }
    }

    fn sample(&mut self, spans: &TableSpans<'_>, table: &SpanTable, rows: Option<&Bitset>, by_trace: bool) -> (Bitset, f64) {
        let n = self.one_in();
        if n == 1 {
            return (spans.of_rows(rows), 1.0);
        }
        let (all, kept);
        let mut take = |_: usize| {
            self.seen += 1;
            (self.seen - 1).is_multiple_of(n)
        };
        let input = if by_trace {
            let every = rows.cloned().unwrap_or_else(|| Bitset::full(table.trace_count()));
            let taken = every.filter(&mut take);
            (all, kept) = (every.count(), taken.count());
            spans.of_rows(Some(&taken))
        } else {
            let every = spans.of_rows(rows);
            let taken = every.filter(&mut take);
            (all, kept) = (every.count(), taken.count());
            taken
        };
        (input, if kept == 0 { 1.0 } else { all as f64 / kept as f64 })
    }

    fn learn(&mut self, sampled: usize, matched: usize) {
        self.sampled += sampled;
        self.matched += matched;
    }
}
