//! The recent spans of one tenant: segments, each a small table built from a batch of log records.
//!
//! A trace may have pieces in several segments; such traces are known by id, so that queries join only those and scan the rest in place.
//!
//! Invariants
//! * A record's spans are in exactly one segment from the moment the record is consumed until the block that holds them is in the block list.
//! * `first_offset` of a segment is at or below the offset of every record whose spans it holds. The smallest one over all segments is
//!   therefore safe to commit.
//! * Segments that are being flushed do not change; new pieces of their traces go to new segments.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};

use crate::model::combine::{Combiner, Piece, merge_tables, trace_order};
use crate::model::ids::TraceId;
use crate::model::span_table::SpanTable;
use crate::services::ingest_log::{Offset, PartitionId};

/// More segments than this are merged: each costs a look-up per query.
const MAX_SEGMENTS: usize = 48;

/// Spans of consecutive records of one partition.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) table: SpanTable,
    pub(super) partition: PartitionId,
    pub(super) first_offset: Offset,
    /// Timestamps of the oldest and newest record.
    pub(super) oldest_unix_ms: u64,
    pub(super) newest_unix_ms: u64,
    bytes: usize,
}

impl Segment {
    pub(super) fn new(table: SpanTable, partition: PartitionId, first_offset: Offset, oldest_unix_ms: u64, newest_unix_ms: u64) -> Self {
        let bytes = table.memory_bytes();
        Self { table, partition, first_offset, oldest_unix_ms, newest_unix_ms, bytes }
    }

    fn merged(segments: &[Arc<Self>]) -> Self {
        let tables: Vec<_> = segments.iter().map(|segment| &segment.table).collect();
        Self::covering(merge_tables(&tables), segments)
    }

    /// A segment whose spans come from `sources`, which are not empty and of one partition.
    fn covering(table: SpanTable, sources: &[Arc<Self>]) -> Self {
        Self::new(
            table,
            sources[0].partition,
            sources.iter().map(|source| source.first_offset).min().unwrap_or_default(),
            sources.iter().map(|source| source.oldest_unix_ms).min().unwrap_or_default(),
            sources.iter().map(|source| source.newest_unix_ms).max().unwrap_or_default(),
        )
    }
}

/// Names a cut: the segments that one flush takes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CutId(pub(super) u64);

/// What queries look at: all segments of a tenant at one moment, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) segments: Vec<Arc<Segment>>,
    /// Traces with pieces in more than one segment.
    pub(super) split: Arc<HashSet<TraceId, FixedState>>,
}

/// Segments of one tenant, live and being flushed.
#[derive(Debug, Default)]
pub(super) struct LiveTraces {
    live: Vec<Arc<Segment>>,
    /// Segments that a flush has taken and whose block is not listed yet.
    cuts: BTreeMap<CutId, Vec<Arc<Segment>>>,
    /// trace → number of segments that hold pieces of it
    pieces: HashMap<TraceId, u32, FixedState>,
    split: Arc<HashSet<TraceId, FixedState>>,
    next_cut: u64,
}

/// Segments handed to a flush.
pub(super) struct CutTraces {
    pub(super) id: CutId,
    segments: Vec<Arc<Segment>>,
    growing: HashSet<TraceId, FixedState>,
}

impl LiveTraces {
    /// Adds a segment and returns how many of its traces are new here.
    pub(super) fn append(&mut self, segment: Segment) -> usize {
        let new = self.count_pieces(&segment.table);
        self.live.push(Arc::new(segment));
        new
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let cut = self.cuts.values().flatten();
        Snapshot { segments: cut.chain(&self.live).cloned().collect(), split: Arc::clone(&self.split) }
    }

    /// Bytes of segments that no flush has taken yet.
    pub(super) fn live_bytes(&self) -> usize {
        self.live.iter().map(|segment| segment.bytes).sum()
    }

    /// Bytes of all segments.
    pub(super) fn total_bytes(&self) -> usize {
        self.live_bytes() + self.cuts.values().flatten().map(|segment| segment.bytes).sum::<usize>()
    }

    pub(super) fn trace_count(&self) -> usize {
        self.pieces.len()
    }

    /// Flushes under way.
    pub(super) fn cut_count(&self) -> usize {
        self.cuts.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty() && self.cuts.is_empty()
    }

    /// Timestamp of the oldest record that no flush has taken yet.
    pub(super) fn oldest_live_unix_ms(&self) -> Option<u64> {
        self.live.iter().map(|segment| segment.oldest_unix_ms).min()
    }

    /// The offset below which every record of `partition` is in a finished block; `None` when nothing of it is held.
    pub(super) fn first_offset(&self, partition: PartitionId) -> Option<Offset> {
        let cut = self.cuts.values().flatten();
        cut.chain(&self.live).filter(|segment| segment.partition == partition).map(|segment| segment.first_offset).min()
    }

    /// Returns live segments of `partition` that should become one, when there are too many.
    pub(super) fn segments_to_merge(&self, partition: PartitionId) -> Option<Vec<Arc<Segment>>> {
        let mut own: Vec<_> = self.live.iter().filter(|segment| segment.partition == partition).cloned().collect();
        if own.len() <= MAX_SEGMENTS {
            return None;
        }
        own.sort_by_key(|segment| segment.bytes);
        own.truncate(MAX_SEGMENTS * 3 / 4);
        Some(own)
    }

    /// Puts `merged` in the place of `parts`, unless one of them was cut meanwhile.
    pub(super) fn replace(&mut self, parts: &[Arc<Segment>], merged: Segment) {
        let is_part = |segment: &Arc<Segment>| parts.iter().any(|part| Arc::ptr_eq(part, segment));
        if self.live.iter().filter(|segment| is_part(segment)).count() == parts.len() {
            self.live.retain(|segment| !is_part(segment));
            parts.iter().for_each(|part| self.forget_pieces(&part.table));
            self.append(merged);
        }
    }

    /// Takes all live segments for a flush. Traces that got spans after `idle_since_unix_ms` stay live, unless their first spans came
    /// before `live_since_unix_ms`. `None` when there is nothing to take.
    pub(super) fn cut(&mut self, idle_since_unix_ms: u64, live_since_unix_ms: u64) -> Option<CutTraces> {
        if self.live.iter().all(|segment| segment.newest_unix_ms > idle_since_unix_ms && segment.oldest_unix_ms > live_since_unix_ms) {
            return None; // all traces may still grow
        }
        let segments = std::mem::take(&mut self.live);
        let mut growing = HashSet::default();
        for segment in segments.iter().filter(|segment| segment.newest_unix_ms > idle_since_unix_ms) {
            growing.extend(segment.table.traces.ids.iter().copied());
        }
        for segment in segments.iter().filter(|segment| segment.oldest_unix_ms <= live_since_unix_ms) {
            segment.table.traces.ids.iter().for_each(|id| {
                growing.remove(id);
            });
        }
        let id = CutId(self.next_cut);
        self.next_cut += 1;
        self.cuts.insert(id, segments.clone());
        Some(CutTraces { id, segments, growing })
    }

    /// Removes the segments of a cut whose block is in the block list, and makes `growing`, the traces left out of it, live again.
    pub(super) fn finish_cut(&mut self, id: CutId, growing: Vec<Segment>) {
        let Some(segments) = self.cuts.remove(&id) else { return };
        segments.iter().for_each(|segment| self.forget_pieces(&segment.table));
        for segment in growing {
            self.append(segment);
        }
    }

    fn count_pieces(&mut self, table: &SpanTable) -> usize {
        let mut new = 0;
        for id in &table.traces.ids {
            let count = self.pieces.entry(*id).or_default();
            *count += 1;
            match *count {
                1 => new += 1,
                2 => {
                    Arc::make_mut(&mut self.split).insert(*id);
                }
                _ => {}
            }
        }
        new
    }

    fn forget_pieces(&mut self, table: &SpanTable) {
        for id in &table.traces.ids {
            let Some(count) = self.pieces.get_mut(id) else { continue };
            *count -= 1;
            match *count {
                0 => {
                    self.pieces.remove(id);
                }
                1 => {
                    Arc::make_mut(&mut self.split).remove(id);
                }
                _ => {}
            }
        }
    }
}

/// Merges segments; work for the CPU pool.
pub(super) fn merge_segments(segments: &[Arc<Segment>]) -> Segment {
    Segment::merged(segments)
}

impl CutTraces {
    /// The traces for the block, in order; those that still grow are left out.
    pub(super) fn order(&self) -> Vec<(TraceId, Piece)> {
        let mut order = trace_order(&self.tables());
        if !self.growing.is_empty() {
            order.retain(|(id, _)| !self.growing.contains(id));
        }
        order
    }

    /// Builds a table of at least `table_bytes` from the begin of `order`, unless that ends before. Also returns how much of it was taken.
    pub(super) fn build_table(&self, order: &[(TraceId, Piece)], table_bytes: usize) -> (SpanTable, usize) {
        let mut combiner = Combiner::new(&self.tables());
        let mut taken = 0;
        for trace in order.chunk_by(|a, b| a.0 == b.0) {
            combiner.push_trace(trace);
            taken += trace.len();
            if combiner.memory_bytes() >= table_bytes {
                break;
            }
        }
        (combiner.finish(), taken)
    }

    /// The traces that still grow, as segments of their own, one per partition.
    pub(super) fn growing(&self) -> Vec<Segment> {
        let mut by_partition = BTreeMap::<PartitionId, Vec<Arc<Segment>>>::new();
        for segment in &self.segments {
            if segment.table.traces.ids.iter().any(|id| self.growing.contains(id)) {
                by_partition.entry(segment.partition).or_default().push(Arc::clone(segment));
            }
        }
        by_partition.into_values().map(|segments| self.growing_of(&segments)).collect()
    }

    fn growing_of(&self, segments: &[Arc<Segment>]) -> Segment {
        let tables: Vec<_> = segments.iter().map(|segment| &segment.table).collect();
        let mut combiner = Combiner::new(&tables);
        for trace in trace_order(&tables).chunk_by(|a, b| a.0 == b.0) {
            if self.growing.contains(&trace[0].0) {
                combiner.push_trace(trace);
            }
        }
        Segment::covering(combiner.finish(), segments)
    }

    /// Spans taken, growing traces included.
    pub(super) fn span_count(&self) -> usize {
        self.segments.iter().map(|segment| segment.table.span_count()).sum()
    }

    fn tables(&self) -> Vec<&SpanTable> {
        self.segments.iter().map(|segment| &segment.table).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::super::testing::{PARTITION, spans_of, table_of, trace_id};
    use super::*;

    const OTHER_PARTITION: PartitionId = PartitionId(1);

    /// A record of one span per trace; the span bears the number of the record, which is also its offset and time.
    fn segment(number: u8, partition: PartitionId, traces: &[u8]) -> Segment {
        let traces: Vec<_> = traces.iter().map(|trace| (*trace, std::slice::from_ref(&number))).collect();
        let time = u64::from(number);
        Segment::new(table_of(&traces), partition, Offset(time), time, time)
    }

    fn spans(traces: &LiveTraces) -> Vec<(u8, u8)> {
        let mut spans: Vec<_> = traces.snapshot().segments.iter().flat_map(|segment| spans_of(&segment.table)).collect();
        spans.sort_unstable();
        spans
    }

    /// The spans of the block of a cut, built in tables as small as possible.
    fn block_of(cut: &CutTraces) -> Vec<(u8, u8)> {
        let (order, mut done, mut spans) = (cut.order(), 0, Vec::new());
        let mut last = None;
        while done < order.len() {
            let (table, taken) = cut.build_table(&order[done..], 1);
            assert!(taken > 0 && table.traces.ids.first().copied() > last);
            last = table.traces.ids.last().copied();
            spans.extend(spans_of(&table));
            done += taken;
        }
        spans
    }

    #[test]
    fn traces_with_two_pieces_are_split_until_one_is_gone() {
        let mut traces = LiveTraces::default();
        assert_eq!(traces.append(segment(0, PARTITION, &[1, 2])), 2);
        let before = traces.snapshot();
        assert_eq!(traces.append(segment(1, PARTITION, &[2, 3])), 1);
        assert_eq!((traces.trace_count(), traces.snapshot().split.contains(&trace_id(2))), (3, true));
        assert!(before.split.is_empty(), "a snapshot stays as it is");
        let parts = traces.live.clone();
        traces.replace(&parts, merge_segments(&parts));
        assert_eq!((traces.trace_count(), traces.live.len(), traces.snapshot().split.len()), (3, 1, 0));
        assert_eq!(traces.first_offset(PARTITION), Some(Offset(0)));
        assert_eq!(traces.first_offset(OTHER_PARTITION), None);
    }

    #[test]
    fn a_merge_of_segments_cut_meanwhile_is_thrown_away() {
        let mut traces = LiveTraces::default();
        traces.append(segment(0, PARTITION, &[1]));
        traces.append(segment(1, PARTITION, &[1]));
        let parts = traces.live.clone();
        let cut = traces.cut(u64::MAX, u64::MAX).unwrap();
        traces.append(segment(2, PARTITION, &[1]));
        traces.replace(&parts, merge_segments(&parts));
        assert_eq!(spans(&traces), [(1, 0), (1, 1), (1, 2)]);
        traces.finish_cut(cut.id, cut.growing());
        assert_eq!((spans(&traces), traces.snapshot().split.len()), (vec![(1, 2)], 0));
    }

    #[test]
    fn a_cut_leaves_out_traces_with_late_spans_unless_they_are_old() {
        let mut traces = LiveTraces::default();
        traces.append(segment(10, PARTITION, &[1, 2, 3]));
        traces.append(segment(20, PARTITION, &[2, 4]));
        traces.append(segment(30, PARTITION, &[3, 5]));
        assert!(traces.cut(9, 9).is_none(), "all may still grow");
        let cut = traces.cut(25, 9).unwrap();
        assert_eq!((cut.span_count(), block_of(&cut)), (7, vec![(1, 10), (2, 10), (2, 20), (4, 20)]));
        traces.finish_cut(cut.id, cut.growing());
        assert_eq!(spans(&traces), [(3, 10), (3, 30), (5, 30)]);
        assert_eq!((traces.first_offset(PARTITION), traces.oldest_live_unix_ms()), (Some(Offset(10)), Some(10)));
        let cut = traces.cut(25, 10).unwrap();
        assert_eq!(block_of(&cut).len(), 3);
        traces.finish_cut(cut.id, cut.growing());
        assert!(traces.is_empty() && traces.cut(u64::MAX, u64::MAX).is_none());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Append {
            other_partition: bool,
            traces: BTreeSet<u8>,
        },
        /// Takes parts to merge: every live segment of a partition whose bit is set.
        BeginMerge {
            other_partition: bool,
            chosen: u16,
        },
        EndMerge,
        Cut {
            idle_since: u64,
            live_since: u64,
        },
        /// Ends one of the flushes under way.
        Finish {
            index: usize,
        },
    }

    fn arb_step() -> impl Strategy<Value = Step> {
        let traces = prop::collection::btree_set(0..12u8, 1..5);
        prop_oneof![
            5 => (any::<bool>(), traces).prop_map(|(other_partition, traces)| Step::Append { other_partition, traces }),
            2 => (any::<bool>(), any::<u16>()).prop_map(|(other_partition, chosen)| Step::BeginMerge { other_partition, chosen }),
            2 => Just(Step::EndMerge),
            2 => (0..60u64, 0..60u64).prop_map(|(idle_since, live_since)| Step::Cut { idle_since, live_since }),
            2 => (0..4usize).prop_map(|index| Step::Finish { index }),
        ]
    }

    /// What must hold after each step; `held` are the spans that are not in a block, with the partition of their record.
    fn check(traces: &LiveTraces, held: &BTreeSet<(u8, u8, PartitionId)>) -> Result<(), TestCaseError> {
        prop_assert_eq!(spans(traces), held.iter().map(|(trace, number, _)| (*trace, *number)).collect::<Vec<_>>());
        let snapshot = traces.snapshot();
        let mut pieces = BTreeMap::<TraceId, u32>::new();
        for segment in &snapshot.segments {
            segment.table.traces.ids.iter().for_each(|id| *pieces.entry(*id).or_default() += 1);
        }
        prop_assert_eq!(traces.trace_count(), pieces.len());
        prop_assert!(pieces.iter().all(|(id, count)| traces.pieces.get(id) == Some(count)));
        let split: BTreeSet<_> = pieces.iter().filter(|(_, count)| **count > 1).map(|(id, _)| *id).collect();
        prop_assert_eq!(snapshot.split.iter().copied().collect::<BTreeSet<_>>(), split);
        for partition in [PARTITION, OTHER_PARTITION] {
            let first_held = held.iter().filter(|span| span.2 == partition).map(|span| Offset(u64::from(span.1))).min();
            match (traces.first_offset(partition), first_held) {
                (Some(safe), Some(first_held)) => prop_assert!(safe <= first_held, "{safe} passes {first_held}"),
                (safe, first_held) => prop_assert_eq!(safe, first_held),
            }
        }
        prop_assert_eq!(traces.is_empty(), held.is_empty());
        prop_assert!(traces.live_bytes() <= traces.total_bytes());
        Ok(())
    }

    proptest! {
        #[test]
        fn every_span_is_held_once_until_its_block_is_done(steps in prop::collection::vec(arb_step(), 1..60)) {
            let mut traces = LiveTraces::default();
            let mut held = BTreeSet::<(u8, u8, PartitionId)>::new();
            let (mut merges, mut flushes) = (Vec::new(), Vec::<CutTraces>::new());
            let partition_of = |is_other| if is_other { OTHER_PARTITION } else { PARTITION };
            for (number, step) in (0..).zip(steps) {
                match step {
                    Step::Append { other_partition, traces: ids } => {
                        let partition = partition_of(other_partition);
                        let known: BTreeSet<u8> = held.iter().map(|(trace, ..)| *trace).collect();
                        let new = traces.append(segment(number, partition, &ids.iter().copied().collect::<Vec<_>>()));
                        prop_assert_eq!(new, ids.difference(&known).count());
                        held.extend(ids.into_iter().map(|trace| (trace, number, partition)));
                    }
                    Step::BeginMerge { other_partition, chosen } => {
                        let own = traces.live.iter().filter(|segment| segment.partition == partition_of(other_partition));
                        let parts: Vec<_> = own.enumerate().filter(|(at, _)| chosen >> (at % 16) & 1 == 1).map(|(_, part)| Arc::clone(part)).collect();
                        if !parts.is_empty() {
                            let merged = merge_segments(&parts);
                            merges.push((parts, merged));
                        }
                    }
                    Step::EndMerge => if let Some((parts, merged)) = merges.pop() {
                        traces.replace(&parts, merged);
                    },
                    Step::Cut { idle_since, live_since } => flushes.extend(traces.cut(idle_since, live_since)),
                    Step::Finish { index } => if !flushes.is_empty() {
                        let flush = flushes.remove(index % flushes.len());
                        let written = block_of(&flush);
                        for (trace, number) in &written {
                            let before = held.len();
                            held.retain(|(held_trace, held_number, _)| (held_trace, held_number) != (trace, number));
                            prop_assert_eq!(before, held.len() + 1);
                        }
                        traces.finish_cut(flush.id, flush.growing());
                    },
                }
                check(&traces, &held)?;
            }
        }
    }
}
