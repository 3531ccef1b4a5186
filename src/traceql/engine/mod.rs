//! Evaluates search queries over [`SpanTable`]s, columns at a time.
//!
//! ```text
//! Query ─ Plan::new ─▶ Plan ─ fetch() ─▶ storage ─▶ SpanTable ─ evaluate ─▶ Matches ─▶ SpanTable of the matches ─ hits ─▶ TraceHit
//! ```
//!
//! Two passes keep blocks cheap: [`evaluate`] reads only the columns of conditions, [`hits`] reads what results show, and only for traces
//! that are returned. For tables in memory both take the same table.
//!
//! Not here: reading storage, time ranges of blocks, combining results ([`super::result`]), metrics functions.
//!
//! Invariants
//! * Dictionary ids are compared, not strings: a condition meets each distinct string at most once, literals are searched once per table.
//! * Memory per table: a few bits per item and operand, 4 bytes per span in a spanset, and one value per group of `by`.
//! * Time per table: n log n in its spans for every operator, whatever the shape of the traces.
//! * No table makes the engine panic: columns that were not read have no values.

mod aggregate;
pub(in crate::traceql) mod columns;
mod condition;
mod expr;
mod filter;
mod levels;
mod pipeline;
mod plan;
pub mod prefilter;
pub mod projection;
mod pruning;
mod relatives;
mod scan;
mod shown;
pub(in crate::traceql) mod source;
mod structure;
mod tags;
mod value;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::base::bitset::Bitset;
use crate::base::error_class::ErrorClass;
use crate::model::ids::TraceId;
use crate::model::span_table::SpanTable;

use super::result::TraceHit;
use super::types::Static;
use expr::Level;
use filter::Evaluator;
use pipeline::{Run, SpanSet, State};

pub use plan::Plan;
pub use tags::{TagSelection, tag_names, tag_values};

/// Why a query has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Arithmetic over metrics given to a search.
    #[error("math expressions not supported")]
    MathExpression,
    #[error("spanset operators are not supported for multiple spansets per trace. consider using coalesce()")]
    MultipleSpansets,
    #[error("step is too small: a query may have {0} intervals")]
    TooManyIntervals(usize),
    #[error("not a metrics query")]
    NotMetrics,
    #[error("order_by must be \"start\" or \"duration\"")]
    UnknownOrder,
    #[error("query was cancelled")]
    Cancelled,
}

impl EngineError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::MathExpression | Self::MultipleSpansets | Self::TooManyIntervals(_) | Self::NotMetrics | Self::UnknownOrder => {
                ErrorClass::Invalid
            }
            Self::Cancelled => ErrorClass::Cancelled,
        }
    }
}

/// Spans listed per spanset when a request does not say.
pub const DEFAULT_SPANS_PER_SPAN_SET: usize = 3;

/// The circumstances of one evaluation.
#[derive(Debug, Clone, Copy)]
pub struct EvaluateOptions<'a> {
    /// Rows to look at; `None`: all.
    pub rows: Option<&'a Bitset>,
    /// Spans kept per spanset after counting; 0 means [`DEFAULT_SPANS_PER_SPAN_SET`].
    pub spans_per_span_set: usize,
    /// Looked at before each stage and within long ones.
    pub cancelled: &'a AtomicBool,
}

/// The traces of a table that match, in row order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Matches {
    pub traces: Vec<MatchedTrace>,
    pub inspected: Inspected,
}

#[derive(Debug, Clone, PartialEq)]
pub struct MatchedTrace {
    /// Row of the evaluated table.
    pub row: usize,
    pub trace_id: TraceId,
    /// Start and duration of the trace if the evaluated table has them, else 0.
    pub start_unix_nanos: u64,
    pub duration_nanos: u64,
    pub span_sets: Vec<MatchedSet>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct MatchedSet {
    /// The first spans of the set, counted from the first span of the trace, so that they mean the same in a table of the matches only.
    pub spans: Vec<u32>,
    /// Number of spans in the set before it was cut.
    pub matched: u32,
    /// `by(…)`, `count()` and the like with their values.
    pub attributes: Vec<(Arc<str>, Static)>,
}

/// What an evaluation looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inspected {
    pub traces: u64,
    pub spans: u64,
    /// Heap bytes of the table; storage that knows the bytes it read reports those instead.
    pub bytes: u64,
}

impl Inspected {
    pub fn add(&mut self, other: Self) {
        self.traces += other.traces;
        self.spans += other.spans;
        self.bytes += other.bytes;
    }
}

impl Matches {
    /// Returns the rows in ascending order: what the second pass has to read.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.traces.iter().map(|trace| trace.row)
    }

    /// Keeps the `count` traces with the smallest keys.
    pub fn keep_smallest<K: Ord>(&mut self, count: usize, key: impl FnMut(&MatchedTrace) -> K) {
        if self.traces.len() > count {
            self.traces.select_nth_unstable_by_key(count, key);
            self.traces.truncate(count);
            self.traces.sort_unstable_by_key(|trace| trace.row);
        }
    }
}

/// Finds the matching traces of `table`, which holds at least what [`Plan::fetch`] names.
pub fn evaluate(plan: &Plan, table: &SpanTable, options: EvaluateOptions<'_>) -> Result<Matches, EngineError> {
    let mut evaluator = Evaluator::new(table);
    let (spans, traces) = match options.rows {
        None => (Bitset::full(table.span_count()), table.trace_count()),
        Some(rows) => (evaluator.levels.convert(rows.clone(), Level::Trace, Level::Span), rows.count()),
    };
    let inspected = Inspected { traces: traces as u64, spans: spans.count() as u64, bytes: table.memory_bytes() as u64 };
    let mut run = Run::new(&mut evaluator, options.cancelled);
    let state = run.stages(&plan.stages, State::Spans(spans))?;
    let limit = match options.spans_per_span_set {
        0 => DEFAULT_SPANS_PER_SPAN_SET,
        limit => limit,
    };
    let traces = match state {
        State::Spans(spans) => matches_of_selection(table, &spans, limit),
        State::Sets(sets) => matches_of_sets(table, sets, limit),
    };
    Ok(Matches { traces, inspected })
}

fn matches_of_selection(table: &SpanTable, spans: &Bitset, limit: usize) -> Vec<MatchedTrace> {
    let mut traces = Vec::new();
    for row in 0..table.trace_count() {
        let range = table.spans_of_trace(row);
        let matched = spans.count_range(range.clone()) as u32;
        if matched > 0 {
            let first = range.start;
            let kept = spans.iter_range(range).take(limit).map(|span| (span - first) as u32).collect();
            let set = MatchedSet { spans: kept, matched, attributes: Vec::new() };
            traces.push(matched_trace(table, row, vec![set]));
        }
    }
    traces
}

fn matches_of_sets(table: &SpanTable, sets: Vec<SpanSet>, limit: usize) -> Vec<MatchedTrace> {
    let mut traces: Vec<MatchedTrace> = Vec::new();
    for set in sets {
        let row = set.row as usize;
        let first = table.spans_of_trace(row).start as u32;
        let kept = set.spans.iter().take(limit).map(|span| span - first).collect();
        let set = MatchedSet { spans: kept, matched: set.spans.len() as u32, attributes: set.attributes };
        match traces.last_mut().filter(|trace| trace.row == row) {
            Some(trace) => trace.span_sets.push(set),
            None => traces.push(matched_trace(table, row, vec![set])),
        }
    }
    traces
}

fn matched_trace(table: &SpanTable, row: usize, span_sets: Vec<MatchedSet>) -> MatchedTrace {
    let nanos = |column: &[u64]| column.get(row).copied().unwrap_or(0);
    let (start_unix_nanos, duration_nanos) = (nanos(&table.traces.start_unix_nanos), nanos(&table.traces.duration_nanos));
    MatchedTrace { row, trace_id: table.traces.ids[row], start_unix_nanos, duration_nanos, span_sets }
}

/// Which rows of the table given to [`hits`] are the matching traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HitRows {
    /// It is the table that was evaluated, or one with the same rows.
    Same,
    /// It holds the matching traces only, in the order of [`Matches::traces`].
    MatchesOnly,
}

/// Returns the search results of `matches`. `table` holds at least what [`Plan::result_fetch`] names, all spans of each trace included.
pub fn hits(plan: &Plan, matches: &Matches, table: &SpanTable, rows: HitRows) -> Vec<TraceHit> {
    let mut evaluator = Evaluator::new(table);
    let row_of = |index: usize, trace: &MatchedTrace| match rows {
        HitRows::Same => trace.row,
        HitRows::MatchesOnly => index,
    };
    matches.traces.iter().enumerate().map(|(index, trace)| shown::trace_hit(plan, trace, &mut evaluator, row_of(index, trace))).collect()
}
