//! Search requests and results, and how results of several tables become one answer (traceql, search results; read-path, combining).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::base::bitset::Bitset;
use crate::model::ids::{SpanId, TraceId};
use crate::model::span_table::SpanTable;

use super::order::{Direction, KeyBounds, Rank, SearchOrder, SortKey};
use super::types::Static;

/// A search as the engine and its callers see it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SearchRequest {
    pub query: String,
    /// Greatest number of traces; at least 1.
    pub limit: usize,
    /// Spans listed per spanset; 0: the default of 3.
    pub spans_per_span_set: usize,
    /// Traces that overlap `start ..= end` count. Both 0: no bound.
    pub start_unix_seconds: u32,
    pub end_unix_seconds: u32,
    /// Bounds on the duration of the trace, inclusive.
    pub min_duration_nanos: Option<u64>,
    pub max_duration_nanos: Option<u64>,
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

impl SearchRequest {
    /// Whether [`SearchRequest::rows`] reads the trace times, so that they must be fetched in the first pass.
    pub fn needs_trace_times(&self) -> bool {
        self.start_unix_seconds > 0 || self.end_unix_seconds > 0 || self.min_duration_nanos.is_some() || self.max_duration_nanos.is_some()
    }

    /// Returns the rows of `table` within the time range and duration bounds; `None` when there is no bound.
    pub fn rows(&self, table: &SpanTable) -> Option<Bitset> {
        let traces = &table.traces;
        if !self.needs_trace_times() || traces.start_unix_nanos.len() < table.trace_count() {
            return None;
        }
        let start = u64::from(self.start_unix_seconds) * NANOS_PER_SECOND;
        let end = match self.end_unix_seconds {
            0 => u64::MAX,
            end => u64::from(end) * NANOS_PER_SECOND,
        };
        let (shortest, longest) = (self.min_duration_nanos.unwrap_or(0), self.max_duration_nanos.unwrap_or(u64::MAX));
        Some(Bitset::full(table.trace_count()).filter(|row| {
            let duration = traces.duration_nanos[row];
            traces.start_unix_nanos[row] <= end && traces.end_unix_nanos[row] >= start && (shortest..=longest).contains(&duration)
        }))
    }
}

/// A matching trace.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceHit {
    pub trace_id: TraceId,
    /// Empty when no root span was seen.
    pub root_service_name: Arc<str>,
    pub root_trace_name: Arc<str>,
    pub start_unix_nanos: u64,
    pub duration_nanos: u64,
    /// Over the whole trace as it was stored.
    pub service_stats: BTreeMap<Arc<str>, ServiceStats>,
    /// Never empty. The wire's deprecated `spanSet` is the first of these.
    pub span_sets: Vec<SpanSetHit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServiceStats {
    pub span_count: u32,
    pub error_count: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SpanSetHit {
    /// The first spans of the set.
    pub spans: Vec<SpanHit>,
    /// Number of spans in the set before it was cut.
    pub matched: u32,
    /// `by(…)`, `count()` and the like with their values, in the order of the stages.
    pub attributes: Vec<(Arc<str>, Static)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SpanHit {
    pub span_id: SpanId,
    /// Empty unless the query mentions the name.
    pub name: Arc<str>,
    pub start_unix_nanos: u64,
    pub duration_nanos: u64,
    /// Bare keys; one key may stand here for two scopes.
    pub attributes: Vec<(Arc<str>, Static)>,
}

impl TraceHit {
    /// Returns the duration as results show it.
    pub fn duration_ms(&self) -> u32 {
        u32::try_from(self.duration_nanos / 1_000_000).unwrap_or(u32::MAX)
    }

    pub fn rank(&self, order: SearchOrder) -> Rank {
        order.rank(self.trace_id, self.start_unix_nanos, self.duration_nanos)
    }

    /// Takes over what `other`, a result for another part of the same trace, knows.
    pub fn merge(&mut self, other: Self) {
        debug_assert_eq!(self.trace_id, other.trace_id);
        for (known, more) in [(&mut self.root_service_name, other.root_service_name), (&mut self.root_trace_name, other.root_trace_name)] {
            if known.is_empty() {
                *known = more;
            }
        }
        // 0 stands for "not known"
        if self.start_unix_nanos == 0 || (other.start_unix_nanos != 0 && other.start_unix_nanos < self.start_unix_nanos) {
            self.start_unix_nanos = other.start_unix_nanos;
        }
        self.duration_nanos = self.duration_nanos.max(other.duration_nanos);
        for (service, more) in other.service_stats {
            let known = self.service_stats.entry(service).or_default();
            known.span_count = known.span_count.max(more.span_count);
            known.error_count = known.error_count.max(more.error_count);
        }
        for more in other.span_sets {
            match self.span_sets.iter_mut().find(|known| known.is_same_group(&more)) {
                Some(known) if more.matched > known.matched => *known = more,
                Some(_) => {}
                None => self.span_sets.push(more),
            }
        }
    }
}

impl SpanSetHit {
    /// Sets are the same group when their `by(…)` attributes agree.
    fn is_same_group(&self, other: &Self) -> bool {
        let groups = |set: &'_ Self| -> Vec<(Arc<str>, Static)> {
            set.attributes.iter().filter(|(key, _)| key.starts_with("by")).cloned().collect()
        };
        groups(self) == groups(other)
    }
}

/// Collects hits of many tables and processes into one answer of at most `limit` traces.
///
/// Of traces that lie wholly in one part, the answer is the first `limit` of all in the order of ranks, whatever the order of the parts. When a
/// trace comes in pieces, its pieces are merged as they come, and its rank is that of what is known so far. Longest and oldest first that is
/// still the right one, since pieces only lengthen a trace and let it begin earlier; but the spans of a piece that ranked too low are not shown
/// when a later one gets the trace in. Shortest and newest first, a trace that turns out to be longer or older may have kept another one out.
#[derive(Debug)]
pub struct SearchCollector {
    limit: usize,
    order: SearchOrder,
    hits: HashMap<TraceId, TraceHit>,
    /// The rank of each hit; empty for [`SearchOrder::FirstFound`].
    ranks: BTreeSet<Rank>,
}

impl SearchCollector {
    pub fn new(limit: usize, order: SearchOrder) -> Self {
        Self { limit: limit.max(1), order, hits: HashMap::new(), ranks: BTreeSet::new() }
    }

    /// Whether the answer has a hit for the trace.
    pub fn holds(&self, trace_id: TraceId) -> bool {
        self.hits.contains_key(&trace_id)
    }

    /// Whether a hit for the trace would change the answer. Lets callers skip reading results that would be dropped.
    pub fn wants(&self, trace_id: TraceId, start_unix_nanos: u64, duration_nanos: u64) -> bool {
        !self.is_full() || self.is_before_last(self.order.rank(trace_id, start_unix_nanos, duration_nanos)) || self.holds(trace_id)
    }

    /// Whether a trace that is not held yet and whose key lies within `bounds` may change the answer.
    pub fn wants_within(&self, bounds: KeyBounds) -> bool {
        !self.is_full() || bounds.first_place(self.order).is_some_and(|first| self.is_before_last(first))
    }

    /// Returns the rows of `table` that may change the answer, by their times; `None`: all may.
    pub fn wanted_rows(&self, table: &SpanTable) -> Option<Bitset> {
        let traces = &table.traces;
        let has_times = traces.start_unix_nanos.len() >= table.trace_count() && traces.duration_nanos.len() >= table.trace_count();
        let wants = |row: usize| self.wants(traces.ids[row], traces.start_unix_nanos[row], traces.duration_nanos[row]);
        (self.is_full() && has_times).then(|| Bitset::full(table.trace_count()).filter(wants))
    }

    /// Returns how many traces that are not held yet one part may bring. More of them would be dropped.
    pub fn room(&self) -> usize {
        match self.order {
            SearchOrder::FirstFound => self.limit.saturating_sub(self.hits.len()),
            SearchOrder::By(..) => self.limit,
        }
    }

    /// Adds what one part has; of its hits, the first in the order come first.
    pub fn add_all(&mut self, mut hits: Vec<TraceHit>) {
        hits.sort_by_key(|hit| hit.rank(self.order));
        hits.into_iter().for_each(|hit| self.add(hit));
    }

    /// Adds a hit: known traces are merged, new ones are taken while there is room or, in an order, if they come before the last one.
    pub fn add(&mut self, hit: TraceHit) {
        if !self.wants(hit.trace_id, hit.start_unix_nanos, hit.duration_nanos) {
            return;
        }
        let rank = match self.hits.get_mut(&hit.trace_id) {
            Some(known) => {
                self.ranks.remove(&known.rank(self.order));
                known.merge(hit);
                known.rank(self.order)
            }
            None => {
                let rank = hit.rank(self.order);
                self.hits.insert(hit.trace_id, hit);
                rank
            }
        };
        if self.order != SearchOrder::FirstFound {
            self.ranks.insert(rank);
            if self.hits.len() > self.limit
                && let Some(last) = self.ranks.pop_last()
            {
                self.hits.remove(&last.trace_id());
            }
        }
    }

    fn is_full(&self) -> bool {
        self.hits.len() >= self.limit
    }

    fn is_before_last(&self, rank: Rank) -> bool {
        self.ranks.last().is_some_and(|last| rank < *last)
    }

    /// Whether the search may end although parts are outstanding. `completed_through_unix_seconds`: everything newer has been searched;
    /// `u32::MAX` while nothing is known.
    pub fn can_stop(&self, completed_through_unix_seconds: u32) -> bool {
        match self.order {
            SearchOrder::FirstFound => self.is_full(),
            // What is outstanding starts before the boundary.
            SearchOrder::By(SortKey::Start, Direction::Descending) if completed_through_unix_seconds != u32::MAX => {
                let boundary = u64::from(completed_through_unix_seconds) * NANOS_PER_SECOND;
                !self.wants_within(KeyBounds { min: 0, max: boundary.saturating_sub(1) })
            }
            // A trace may be older than its part says, for it may have come late, and of durations a part says nothing.
            SearchOrder::By(..) => false,
        }
    }

    /// Returns the hits in their order; [`SearchOrder::FirstFound`] shows the newest first.
    pub fn finish(self) -> Vec<TraceHit> {
        let mut hits: Vec<TraceHit> = self.hits.into_values().collect();
        hits.sort_unstable_by_key(|hit| hit.rank(self.order));
        hits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hit(id: u8, start: u64) -> TraceHit {
        TraceHit {
            trace_id: TraceId([id; 16]),
            root_service_name: "".into(),
            root_trace_name: "root".into(),
            start_unix_nanos: start,
            duration_nanos: 1,
            service_stats: BTreeMap::from([("a".into(), ServiceStats { span_count: u32::from(id), error_count: 0 })]),
            span_sets: vec![set("by(name)", "x", 1)],
        }
    }

    fn set(key: &str, value: &str, matched: u32) -> SpanSetHit {
        SpanSetHit {
            spans: Vec::new(),
            matched,
            attributes: vec![(key.into(), Static::string(value)), ("count()".into(), Static::Int(i64::from(matched)))],
        }
    }

    #[test]
    fn parts_of_a_trace_become_one() {
        let mut known = hit(1, 20);
        let mut other = hit(1, 10);
        other.root_service_name = "shop".into();
        other.root_trace_name = "ignored".into();
        other.duration_nanos = 7_000_000;
        other.service_stats =
            BTreeMap::from([("a".into(), ServiceStats { span_count: 0, error_count: 2 }), ("b".into(), ServiceStats::default())]);
        other.span_sets = vec![set("by(name)", "x", 3), set("by(name)", "y", 1)];
        known.merge(other);
        assert_eq!((&*known.root_service_name, &*known.root_trace_name), ("shop", "root"));
        assert_eq!((known.start_unix_nanos, known.duration_ms()), (10, 7));
        assert_eq!(known.service_stats.get("a"), Some(&ServiceStats { span_count: 1, error_count: 2 }));
        assert_eq!(known.span_sets.iter().map(|set| set.matched).collect::<Vec<_>>(), [3, 1]);
    }

    #[test]
    fn first_found_keeps_what_came_first_and_merges_into_it() {
        let mut collector = SearchCollector::new(2, SearchOrder::FirstFound);
        for (id, start) in [(1, 10), (2, 20), (3, 30), (1, 5)] {
            collector.add(hit(id, start));
        }
        assert!(collector.can_stop(u32::MAX));
        assert_eq!(starts(collector), [20, 5]);
    }

    #[test]
    fn most_recent_keeps_the_newest_and_waits_for_newer_parts() {
        let mut collector = SearchCollector::new(2, SearchOrder::MOST_RECENT);
        for (id, seconds) in [(1, 10), (2, 20), (3, 30), (1, 40)] {
            collector.add(hit(id, seconds * NANOS_PER_SECOND));
        }
        assert!(!collector.wants(TraceId([9; 16]), 30 * NANOS_PER_SECOND - 1, 7));
        assert!(!collector.can_stop(u32::MAX));
        assert!(!collector.can_stop(31));
        assert!(collector.can_stop(30));
        assert_eq!(starts(collector), [40 * NANOS_PER_SECOND, 30 * NANOS_PER_SECOND]);
    }

    #[test]
    fn pieces_of_a_trace_change_its_place() {
        let order = |key, direction| SearchCollector::new(2, SearchOrder::By(key, direction));
        let timed = |id: u8, start: u64, duration_nanos: u64| TraceHit { duration_nanos, ..hit(id, start) };
        let ids = |collector: SearchCollector| collector.finish().iter().map(|hit| hit.trace_id.0[0]).collect::<Vec<_>>();
        let mut longest = order(SortKey::Duration, Direction::Descending);
        [timed(1, 1, 10), timed(2, 1, 20), timed(3, 1, 5), timed(3, 2, 30)].into_iter().for_each(|hit| longest.add(hit));
        assert_eq!(ids(longest), [3, 2], "a piece that came too early is not missed");
        let mut oldest = order(SortKey::Start, Direction::Ascending);
        [timed(1, 10, 1), timed(2, 20, 1), timed(2, 5, 1), timed(3, 7, 1), timed(4, 0, 1)].into_iter().for_each(|hit| oldest.add(hit));
        assert_eq!(ids(oldest), [2, 3]);
    }

    proptest! {
        #[test]
        fn answers_are_the_first_of_all(
            times in prop::collection::vec((0_u64..6, 0_u64..6), 0..30),
            limit in 1_usize..8,
            cuts in prop::collection::vec(0_usize..30, 0..4),
            by_duration: bool,
            descends: bool,
        ) {
            let key = if by_duration { SortKey::Duration } else { SortKey::Start };
            let order = SearchOrder::By(key, if descends { Direction::Descending } else { Direction::Ascending });
            let hits = times.iter().enumerate().map(|(id, (start, duration))| TraceHit { duration_nanos: *duration, ..hit(id as u8, *start) });
            let hits: Vec<TraceHit> = hits.collect();
            let mut expected = hits.clone();
            expected.sort_by_key(|hit| {
                let value = if by_duration { hit.duration_nanos } else { hit.start_unix_nanos };
                let is_unknown = !by_duration && value == 0;
                (is_unknown, if descends { -(value as i64) } else { value as i64 }, hit.trace_id)
            });
            expected.truncate(limit);
            let mut collector = SearchCollector::new(limit, order);
            for (index, hit) in hits.iter().enumerate() {
                let value = if by_duration { hit.duration_nanos } else { hit.start_unix_nanos };
                let wants = collector.wants(hit.trace_id, hit.start_unix_nanos, hit.duration_nanos);
                let around = KeyBounds { min: value.saturating_sub(1), max: value + 1 };
                prop_assert!(!wants || collector.wants_within(around), "{around:?}");
                if cuts.contains(&index) {
                    collector.add(hit.clone());
                }
            }
            collector.add_all(hits.into_iter().rev().collect());
            prop_assert_eq!(collector.finish(), expected);
        }
    }

    fn starts(collector: SearchCollector) -> Vec<u64> {
        collector.finish().iter().map(|hit| hit.start_unix_nanos).collect()
    }

    #[test]
    fn traces_count_when_they_overlap_the_range() {
        let mut table = SpanTable::default();
        for (id, start, end) in [(1, 10, 20), (2, 20, 21), (3, 31, 40)] {
            table.traces.ids.push(TraceId([id; 16]));
            table.traces.start_unix_nanos.push(start * NANOS_PER_SECOND);
            table.traces.end_unix_nanos.push(end * NANOS_PER_SECOND);
            table.traces.duration_nanos.push((end - start) * NANOS_PER_SECOND);
        }
        let rows = |request: SearchRequest| request.rows(&table).map(|rows| rows.iter().collect::<Vec<_>>());
        assert_eq!(rows(SearchRequest::default()), None);
        assert_eq!(rows(SearchRequest { start_unix_seconds: 20, end_unix_seconds: 30, ..Default::default() }), Some(vec![0, 1]));
        assert_eq!(rows(SearchRequest { start_unix_seconds: 21, end_unix_seconds: 31, ..Default::default() }), Some(vec![1, 2]));
        assert_eq!(rows(SearchRequest { min_duration_nanos: Some(9 * NANOS_PER_SECOND), ..Default::default() }), Some(vec![0, 2]));
    }
}
