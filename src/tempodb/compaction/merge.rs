//! Merges slices of several blocks in trace order: the synchronous core of a job.
//!
//! The caller brings slices as they are asked for and takes finished tables; nothing here waits. A trace that is in several inputs becomes one
//! row, unless that row would take more than a row may: then its pieces stay apart, each in a part of its own, and only spans that are in
//! several pieces are dropped. Parts become separate blocks, because a trace occurs once in a block; readers join what all blocks have.
//!
//! Invariants
//! * Each part gets its traces strictly ascending by id. Part 0 has every trace.
//! * A table under construction uses at most `table_bytes` and one row.

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashSet;

use super::memory::Held;
use crate::model::combine::{Combiner, DerivedColumns, Piece, SeenSpans};
use crate::model::ids::TraceId;
use crate::model::span_table::SpanTable;
use crate::tempodb::block::estimate;

/// Bytes that remembering a span takes while the pieces of a large trace are written.
const SEEN_SPAN_BYTES: usize = 24;

/// Sizes that steer a merge.
#[derive(Debug, Clone, Copy)]
pub(super) struct MergeLimits {
    /// Estimate at which a row group ends.
    pub(super) row_group_bytes: usize,
    /// Used memory at which a row group ends.
    pub(super) table_bytes: usize,
    /// Memory of a joined row above which the pieces stay apart.
    pub(super) row_bytes: usize,
    /// The tenant's limit; 0: none.
    pub(super) max_trace_bytes: usize,
}

/// What a merge has met so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct MergeStats {
    pub(super) traces: u64,
    pub(super) spans: u64,
    pub(super) combined_traces: u64,
    pub(super) deduped_spans: u64,
    pub(super) oversized_traces: u64,
    pub(super) split_traces: u64,
    pub(super) dropped_traces: u64,
}

/// What the merge wants next.
pub(super) enum Step {
    /// The next slice of this input, or word that there is none.
    NeedSlice(usize),
    /// A row group of a part is complete.
    Table { part: usize, table: Box<SpanTable> },
    /// All inputs are at their end and all tables are out.
    Done,
}

/// A slice as the combiner holds it.
type Slice = Arc<Held<SpanTable>>;

impl Borrow<SpanTable> for SliceRef {
    fn borrow(&self) -> &SpanTable {
        self.0.get()
    }
}

/// A slice on loan to the combiner.
#[derive(Clone)]
pub(super) struct SliceRef(Slice);

impl SliceRef {
    pub(super) fn new(table: Held<SpanTable>) -> Self {
        Self(Arc::new(table))
    }
}

/// Where an input is in its slice.
struct Input {
    rows: usize,
    row: usize,
    bytes_per_estimate: f64,
    is_ended: bool,
    derived: DerivedColumns,
}

/// The pieces of a large trace that are still to be written.
struct Split {
    parts: VecDeque<Vec<(TraceId, Piece)>>,
    number: usize,
    seen: SeenSpans,
}

pub(super) struct Merger {
    inputs: Vec<Input>,
    combiner: Combiner<SliceRef>,
    /// Estimate of the table under construction.
    estimate: usize,
    /// The large trace being written, if any; its pieces are those at hand.
    split: Option<Split>,
    limits: MergeLimits,
    removed: HashSet<TraceId, FixedState>,
    stats: MergeStats,
    pieces: Vec<(TraceId, Piece)>,
}

impl Merger {
    /// `derived` says of each input what is done with its derived columns. Traces of `removed` are left out.
    pub(super) fn new(derived: &[DerivedColumns], removed: &[TraceId], limits: MergeLimits) -> Self {
        let input = |derived: &DerivedColumns| Input { rows: 0, row: 0, bytes_per_estimate: 0.0, is_ended: false, derived: *derived };
        Self {
            inputs: derived.iter().map(input).collect(),
            combiner: Combiner::default(),
            estimate: 0,
            split: None,
            limits,
            removed: removed.iter().copied().collect(),
            stats: MergeStats::default(),
            pieces: Vec::new(),
        }
    }

    /// Gives input `at` its next slice, whose traces ascend by id.
    pub(super) fn put_slice(&mut self, at: usize, slice: SliceRef) {
        let table: &SpanTable = slice.borrow();
        let input = &mut self.inputs[at];
        input.rows = table.trace_count();
        input.row = 0;
        input.bytes_per_estimate = table.memory_bytes() as f64 / estimate::table_bytes(table).max(1) as f64;
        self.combiner.put_source(at, slice, input.derived);
    }

    /// Input `at` has no more slices.
    pub(super) fn end_input(&mut self, at: usize) {
        self.inputs[at].is_ended = true;
        self.put_nothing(at);
    }

    fn put_nothing(&mut self, at: usize) {
        self.combiner.put_source(at, SliceRef::new(Held::free(SpanTable::default())), DerivedColumns::Copied);
    }

    /// Builds the next table in the memory of one that is written. Call it when a table was handed out.
    pub(super) fn reuse(&mut self, table: SpanTable) {
        self.combiner.reuse(table);
    }

    /// Memory of the table under construction.
    pub(super) fn memory_bytes(&self) -> usize {
        self.combiner.memory_bytes()
    }

    pub(super) fn stats(&self) -> MergeStats {
        let combined = self.combiner.stats();
        MergeStats {
            combined_traces: self.stats.combined_traces + combined.joined_traces,
            deduped_spans: combined.deduped_spans,
            ..self.stats
        }
    }

    /// Merges until something is needed or complete.
    pub(super) fn advance(&mut self) -> Step {
        loop {
            if let Some(step) = self.continue_split() {
                return step;
            }
            if let Some(at) = self.inputs.iter().position(|input| !input.is_ended && input.row == input.rows) {
                // Lets go of the slice that is used up.
                self.put_nothing(at);
                return Step::NeedSlice(at);
            }
            let Some(id) = self.next_id() else {
                return if self.combiner.trace_count() == 0 { Step::Done } else { self.cut() };
            };
            self.find_pieces(id);
            if self.removed.contains(&id) {
                self.stats.dropped_traces += 1;
                self.consume();
                continue;
            }
            let (estimate, memory) = self.sizes();
            let is_split = self.pieces.len() > 1 && memory > self.limits.row_bytes;
            let is_full =
                self.estimate + estimate > self.limits.row_group_bytes || self.combiner.used_bytes() + memory > self.limits.table_bytes;
            if (is_full || is_split) && self.combiner.trace_count() > 0 {
                return self.cut();
            }
            self.stats.traces += 1;
            if self.limits.max_trace_bytes > 0 && estimate > self.limits.max_trace_bytes {
                self.stats.oversized_traces += 1;
            }
            if is_split {
                self.begin_split();
                continue;
            }
            let before = self.combiner.span_count();
            self.combiner.push_trace(&self.pieces);
            self.stats.spans += (self.combiner.span_count() - before) as u64;
            self.estimate += estimate;
            self.consume();
        }
    }

    fn next_id(&self) -> Option<TraceId> {
        let ids = self.inputs.iter().enumerate().filter(|(_, input)| input.row < input.rows);
        ids.map(|(at, input)| self.combiner.source(at).traces.ids[input.row]).min()
    }

    fn find_pieces(&mut self, id: TraceId) {
        self.pieces.clear();
        for (source, input) in self.inputs.iter().enumerate() {
            if input.row < input.rows && self.combiner.source(source).traces.ids[input.row] == id {
                self.pieces.push((id, Piece { source, row: input.row }));
            }
        }
    }

    fn consume(&mut self) {
        for (_, piece) in &self.pieces {
            self.inputs[piece.source].row += 1;
        }
    }

    /// Returns estimate and memory of the pieces at hand.
    fn sizes(&self) -> (usize, usize) {
        let sizes = self.pieces.iter().map(|(_, piece)| self.piece_sizes(*piece));
        sizes.fold((0, 0), |(estimate, memory), (more, bytes)| (estimate + more, memory + bytes))
    }

    fn piece_sizes(&self, piece: Piece) -> (usize, usize) {
        let estimate = estimate::trace_bytes(self.combiner.source(piece.source), piece.row);
        (estimate, (estimate as f64 * self.inputs[piece.source].bytes_per_estimate) as usize)
    }

    fn cut(&mut self) -> Step {
        self.estimate = 0;
        Step::Table { part: 0, table: Box::new(self.combiner.take_table()) }
    }

    /// Distributes the pieces of a large trace over parts, as many to one as a row may take.
    fn begin_split(&mut self) {
        self.stats.split_traces += 1;
        let mut pieces: Vec<_> = self.pieces.iter().map(|piece| (self.piece_sizes(piece.1).1, *piece)).collect();
        pieces.sort_by_key(|(memory, _)| std::cmp::Reverse(*memory));
        let mut parts: VecDeque<(usize, Vec<(TraceId, Piece)>)> = VecDeque::new();
        for (memory, piece) in pieces {
            match parts.iter_mut().find(|(taken, _)| *taken + memory <= self.limits.row_bytes) {
                Some((taken, part)) => {
                    *taken += memory;
                    part.push(piece);
                }
                None => parts.push_back((memory, vec![piece])),
            }
        }
        let parts = parts.into_iter().map(|(_, part)| part).collect();
        self.split = Some(Split { parts, number: 0, seen: SeenSpans::default() });
    }

    /// Builds the next part of the large trace at hand; `None` when there is no such trace any more.
    fn continue_split(&mut self) -> Option<Step> {
        let split = self.split.as_mut()?;
        while let Some(part) = split.parts.pop_front() {
            if split.seen.len() * SEEN_SPAN_BYTES > self.limits.row_bytes {
                // From here on spans may stay twice; readers drop them.
                split.seen = SeenSpans::default();
            }
            if self.combiner.push_unseen(&part, &mut split.seen) {
                self.stats.spans += self.combiner.span_count() as u64;
                let part = split.number;
                split.number += 1;
                return Some(Step::Table { part, table: Box::new(self.combiner.take_table()) });
            }
        }
        self.split = None;
        self.consume();
        None
    }
}
