//! What search and tag jobs carry and return, whoever executes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::traceql::result::{SearchRequest, TraceHit};

/// The span of time a job looks at, in seconds since the epoch, both included. Both 0: all times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeRange {
    pub start_unix_seconds: u32,
    pub end_unix_seconds: u32,
}

impl TimeRange {
    /// Whether data from `start` to `end` seconds may lie in the range.
    pub fn overlaps(self, start: i64, end: i64) -> bool {
        let (start, end) = (start.min(end), end.max(start));
        self == Self::default() || (start <= i64::from(self.end_unix_seconds) && end >= i64::from(self.start_unix_seconds))
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
}

impl Inspection {
    pub fn add(&mut self, other: Self) {
        self.traces += other.traces;
        self.spans += other.spans;
        self.bytes += other.bytes;
        self.backend_reads += other.backend_reads;
        self.backend_bytes += other.backend_bytes;
    }
}

#[derive(Debug, Clone, Default)]
pub struct SearchReply {
    pub hits: Vec<TraceHit>,
    pub inspection: Inspection,
}

/// Bounds of tag lists. 0: no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TagLimits {
    /// Names per scope, or values.
    pub max_items: usize,
    /// Stop after this many items in a row that were known already.
    pub max_stale_items: usize,
    /// Bytes of distinct items.
    pub max_bytes: usize,
}

/// The level an attribute sits on, as the API names it. Order of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TagLevel {
    Resource,
    Span,
    Event,
    Link,
    Instrumentation,
}

impl TagLevel {
    pub const ALL: [Self; 5] = [Self::Resource, Self::Span, Self::Event, Self::Link, Self::Instrumentation];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resource => "resource",
            Self::Span => "span",
            Self::Event => "event",
            Self::Link => "link",
            Self::Instrumentation => "instrumentation",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagNamesRequest {
    /// Empty: nothing is asked for.
    pub levels: Vec<TagLevel>,
    /// TraceQL that narrows the spans looked at; incomplete queries are repaired or ignored, never refused.
    pub filter: String,
    pub range: TimeRange,
    pub limits: TagLimits,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagValuesRequest {
    /// A TraceQL attribute such as `resource.service.name`, or the canonical name of an intrinsic.
    pub attribute: crate::traceql::ast::Attribute,
    pub filter: String,
    pub range: TimeRange,
    pub limits: TagLimits,
}

/// Names per level, distinct.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagNamesReply {
    pub names: BTreeMap<TagLevel, BTreeSet<Arc<str>>>,
    /// A limit cut the list.
    pub truncated: bool,
    pub inspection: Inspection,
}

/// A value of a tag: the type as the API names it (`string`, `int`, `float`, `bool`, `duration`, `keyword`) and its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagValue {
    pub kind: &'static str,
    pub text: Arc<str>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagValuesReply {
    pub values: BTreeSet<TagValue>,
    pub truncated: bool,
    pub inspection: Inspection,
}
