//! Search requests and results, and how results of several tables become one answer (traceql, search results; read-path, combining).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::base::bitset::Bitset;
use crate::model::ids::{SpanId, TraceId};
use crate::model::span_table::SpanTable;

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
    /// Whole milliseconds.
    pub duration_ms: u32,
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
        self.duration_ms = self.duration_ms.max(other.duration_ms);
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

/// Which traces an answer keeps when there are more than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchOrder {
    /// The first that are found.
    FirstFound,
    /// The newest by start time.
    MostRecent,
}

/// Collects hits of many tables and processes into one answer of at most `limit` traces.
#[derive(Debug)]
pub struct SearchCollector {
    limit: usize,
    order: SearchOrder,
    hits: HashMap<TraceId, TraceHit>,
    /// Start and id of each hit, oldest first; kept for [`SearchOrder::MostRecent`] only.
    by_start: BTreeSet<(u64, TraceId)>,
}

impl SearchCollector {
    pub fn new(limit: usize, order: SearchOrder) -> Self {
        Self { limit: limit.max(1), order, hits: HashMap::new(), by_start: BTreeSet::new() }
    }

    /// Whether a hit for the trace would change the answer. Lets callers skip reading results that would be dropped.
    pub fn wants(&self, trace_id: TraceId, start_unix_nanos: u64) -> bool {
        self.hits.len() < self.limit
            || self.hits.contains_key(&trace_id)
            || match self.order {
                SearchOrder::FirstFound => false,
                SearchOrder::MostRecent => self.by_start.first().is_some_and(|oldest| *oldest < (start_unix_nanos, trace_id)),
            }
    }

    /// Adds a hit: known traces are merged, new ones are taken while there is room or, in most-recent order, if they are newer than the oldest.
    pub fn add(&mut self, hit: TraceHit) {
        if !self.wants(hit.trace_id, hit.start_unix_nanos) {
            return;
        }
        let trace_id = hit.trace_id;
        let start = match self.hits.get_mut(&trace_id) {
            Some(known) => {
                self.by_start.remove(&(known.start_unix_nanos, trace_id));
                known.merge(hit);
                known.start_unix_nanos
            }
            None => {
                let start = hit.start_unix_nanos;
                self.hits.insert(trace_id, hit);
                start
            }
        };
        if self.order == SearchOrder::MostRecent {
            self.by_start.insert((start, trace_id));
            if self.hits.len() > self.limit
                && let Some((_, oldest)) = self.by_start.pop_first()
            {
                self.hits.remove(&oldest);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.hits.len()
    }

    pub fn is_empty(&self) -> bool {
        self.hits.is_empty()
    }

    /// Whether the search may end although parts are outstanding. `completed_through_unix_seconds`: everything newer has been searched;
    /// `u32::MAX` while nothing is known.
    pub fn can_stop(&self, completed_through_unix_seconds: u32) -> bool {
        if self.hits.len() < self.limit {
            return false;
        }
        match self.order {
            SearchOrder::FirstFound => true,
            SearchOrder::MostRecent => {
                let boundary = u64::from(completed_through_unix_seconds) * NANOS_PER_SECOND;
                completed_through_unix_seconds != u32::MAX && self.by_start.first().is_some_and(|(oldest, _)| *oldest >= boundary)
            }
        }
    }

    /// Returns the hits, newest first; equal starts by trace id.
    pub fn finish(self) -> Vec<TraceHit> {
        let mut hits: Vec<TraceHit> = self.hits.into_values().collect();
        hits.sort_unstable_by_key(|hit| (std::cmp::Reverse(hit.start_unix_nanos), hit.trace_id));
        hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(id: u8, start: u64) -> TraceHit {
        TraceHit {
            trace_id: TraceId([id; 16]),
            root_service_name: "".into(),
            root_trace_name: "root".into(),
            start_unix_nanos: start,
            duration_ms: 1,
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
        other.duration_ms = 7;
        other.service_stats =
            BTreeMap::from([("a".into(), ServiceStats { span_count: 0, error_count: 2 }), ("b".into(), ServiceStats::default())]);
        other.span_sets = vec![set("by(name)", "x", 3), set("by(name)", "y", 1)];
        known.merge(other);
        assert_eq!((&*known.root_service_name, &*known.root_trace_name), ("shop", "root"));
        assert_eq!((known.start_unix_nanos, known.duration_ms), (10, 7));
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
        let mut collector = SearchCollector::new(2, SearchOrder::MostRecent);
        for (id, seconds) in [(1, 10), (2, 20), (3, 30), (1, 40)] {
            collector.add(hit(id, seconds * NANOS_PER_SECOND));
        }
        assert!(!collector.wants(TraceId([9; 16]), 30 * NANOS_PER_SECOND - 1));
        assert!(!collector.can_stop(u32::MAX));
        assert!(!collector.can_stop(31));
        assert!(collector.can_stop(30));
        assert_eq!(starts(collector), [40 * NANOS_PER_SECOND, 30 * NANOS_PER_SECOND]);
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
