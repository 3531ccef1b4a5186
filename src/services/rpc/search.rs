//! What search and tag jobs carry and return, whoever executes them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::traceql::ast::Attribute;
use crate::traceql::result::{SearchRequest, TraceHit};
use crate::traceql::tags::{TagLimits, TagScope, TagValue};

/// The span of time a job looks at, in seconds since the epoch, both included. Both 0: all times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeRange {
    pub start_unix_seconds: u32,
    pub end_unix_seconds: u32,
}

impl TimeRange {
    /// Returns the first and the last second.
    pub fn seconds(self) -> RangeInclusive<i64> {
        if self == Self::default() { i64::MIN..=i64::MAX } else { self.start_unix_seconds.into()..=self.end_unix_seconds.into() }
    }

    /// Whether data from `start` to `end` seconds may lie in the range. A start after the end, which blocks of late data have, says nothing:
    /// it is the time of the push less the slack, and the data is older (block-format §2).
    pub fn overlaps(self, start: i64, end: i64) -> bool {
        let starts_in_time = start > end || start <= i64::from(self.end_unix_seconds);
        self == Self::default() || (starts_in_time && end >= i64::from(self.start_unix_seconds))
    }
}

/// Returns the time range of a search request.
pub fn time_range(request: &SearchRequest) -> TimeRange {
    TimeRange { start_unix_seconds: request.start_unix_seconds, end_unix_seconds: request.end_unix_seconds }
}

/// What a job looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inspection {
    pub traces: u64,
    pub spans: u64,
    pub bytes: u64,
    /// Requests to object storage and the bytes they brought.
    pub backend_reads: u64,
    pub backend_bytes: u64,
    /// Jobs that were given up because their block is broken: the answer is incomplete by what it holds.
    pub skipped_jobs: u64,
}

impl Inspection {
    /// What a job over a broken block looked at.
    pub const SKIPPED: Self = Self { traces: 0, spans: 0, bytes: 0, backend_reads: 0, backend_bytes: 0, skipped_jobs: 1 };

    pub fn add(&mut self, other: Self) {
        self.traces += other.traces;
        self.spans += other.spans;
        self.bytes += other.bytes;
        self.backend_reads += other.backend_reads;
        self.backend_bytes += other.backend_bytes;
        self.skipped_jobs += other.skipped_jobs;
    }
}

#[derive(Debug, Clone, Default)]
pub struct SearchReply {
    pub hits: Vec<TraceHit>,
    pub inspection: Inspection,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagNamesRequest {
    /// Empty: nothing is asked for.
    pub scopes: Vec<TagScope>,
    /// TraceQL that narrows the spans looked at; incomplete queries are repaired or ignored, never refused. Empty: all spans.
    pub filter: String,
    pub range: TimeRange,
    pub limits: TagLimits,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagValuesRequest {
    pub attribute: Attribute,
    /// See [`TagNamesRequest::filter`].
    pub filter: String,
    pub range: TimeRange,
    pub limits: TagLimits,
}

/// Distinct names by scope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagNamesReply {
    pub names: BTreeMap<TagScope, BTreeSet<Arc<str>>>,
    /// A limit cut the list.
    pub truncated: bool,
    pub inspection: Inspection,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagValuesReply {
    pub values: BTreeSet<TagValue>,
    pub truncated: bool,
    pub inspection: Inspection,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_overlap_in_whole_seconds() {
        let range = TimeRange { start_unix_seconds: 10, end_unix_seconds: 20 };
        for ((start, end), overlaps) in
            [((20, 30), true), ((21, 30), false), ((0, 10), true), ((0, 9), false), ((25, 15), true), ((35, 25), true), ((35, 5), false)]
        {
            assert_eq!(range.overlaps(start, end), overlaps, "{start} {end}");
        }
        assert!(TimeRange::default().overlaps(5, 6));
    }
}
