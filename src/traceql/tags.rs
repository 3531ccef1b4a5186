//! Bounded collections of distinct tag names and tag values, for autocompletion (traceql, tag autocompletion).
//!
//! Invariant: a collection never grows past its limits; what does not fit is dropped silently, as clients expect.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ast::{Attribute, Intrinsic};
use super::types::Static;

/// Bounds of one request. 0 means no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TagLimits {
    /// Bytes of all distinct items: names, or type plus text of values.
    pub max_bytes: usize,
    /// Names per scope, or values.
    pub max_items: usize,
    /// Stop after this many items in a row that were known already.
    pub max_stale: usize,
}

/// Where a tag name was found; in the order in which answers list the scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TagScope {
    Resource,
    Span,
    Event,
    Link,
    Instrumentation,
}

impl TagScope {
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

/// The intrinsics that tag names list, sorted (traceql, tag names).
pub const INTRINSIC_TAGS: [&str; 25] = [
    "duration",
    "event:name",
    "event:timeSinceStart",
    "instrumentation:name",
    "instrumentation:version",
    "kind",
    "link:spanID",
    "link:traceID",
    "name",
    "rootName",
    "rootServiceName",
    "span:duration",
    "span:id",
    "span:kind",
    "span:name",
    "span:parentID",
    "span:status",
    "span:statusMessage",
    "status",
    "statusMessage",
    "trace:duration",
    "trace:id",
    "trace:rootName",
    "trace:rootService",
    "traceDuration",
];

/// Counts against [`TagLimits`].
#[derive(Debug, Clone, Default)]
struct Budget {
    limits: TagLimits,
    bytes: usize,
    stale: usize,
    is_exhausted: bool,
}

impl Budget {
    /// Takes note of an item seen again.
    fn repeat(&mut self) {
        self.stale += 1;
        self.is_exhausted |= self.limits.max_stale > 0 && self.stale >= self.limits.max_stale;
    }

    /// Whether `bytes` more fit; if so they are taken.
    fn take(&mut self, bytes: usize, may_reach_limit: bool) -> bool {
        let next = self.bytes + bytes;
        let is_over = if may_reach_limit { next > self.limits.max_bytes } else { next >= self.limits.max_bytes };
        if self.limits.max_bytes > 0 && is_over {
            self.is_exhausted = true;
            return false;
        }
        self.bytes = next;
        self.stale = 0;
        true
    }
}

/// Distinct tag names by scope.
#[derive(Debug, Clone, Default)]
pub struct TagNames {
    names: BTreeMap<TagScope, BTreeSet<Arc<str>>>,
    budget: Budget,
}

impl TagNames {
    pub fn new(limits: TagLimits) -> Self {
        Self { names: BTreeMap::new(), budget: Budget { limits, ..Budget::default() } }
    }

    pub fn add(&mut self, scope: TagScope, name: &str) {
        if self.budget.is_exhausted {
            return;
        }
        let names = self.names.entry(scope).or_default();
        if names.contains(name) {
            self.budget.repeat();
        } else if (self.budget.limits.max_items == 0 || names.len() < self.budget.limits.max_items) && self.budget.take(name.len(), true) {
            names.insert(name.into());
        }
    }

    /// Whether nothing more will be taken, so that searching on is useless.
    pub fn is_exhausted(&self) -> bool {
        self.budget.is_exhausted
    }

    /// Returns the scopes that have names, each with its names sorted.
    pub fn into_scopes(self) -> impl Iterator<Item = (TagScope, BTreeSet<Arc<str>>)> {
        self.names.into_iter().filter(|(_, names)| !names.is_empty())
    }

    /// Returns the names of all scopes, sorted.
    pub fn into_flat(self) -> BTreeSet<Arc<str>> {
        self.names.into_values().flatten().collect()
    }
}

/// One value of a tag as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TagValue {
    /// `string`, `int`, `float`, `bool`, `duration` or `keyword`.
    pub kind: &'static str,
    pub text: Arc<str>,
}

impl TagValue {
    /// Returns the value; `None` for nil and arrays.
    pub fn new(value: &Static) -> Option<Self> {
        let (kind, text): (&'static str, Arc<str>) = match value {
            Static::String(text) => ("string", text.clone()),
            Static::Int(value) => ("int", value.to_string().into()),
            Static::Float(_) => ("float", value.to_string().into()),
            Static::Bool(value) => ("bool", value.to_string().into()),
            Static::Duration(_) => ("duration", value.to_string().into()),
            Static::Status(status) => ("keyword", status.as_str().into()),
            Static::Kind(kind) => ("keyword", kind.as_str().into()),
            Static::Nil | Static::IntArray(_) | Static::FloatArray(_) | Static::StringArray(_) | Static::BoolArray(_) => return None,
        };
        Some(Self { kind, text })
    }

    fn keyword(text: &str) -> Self {
        Self { kind: "keyword", text: text.into() }
    }
}

/// Distinct values of one tag.
#[derive(Debug, Clone, Default)]
pub struct TagValues {
    values: BTreeSet<TagValue>,
    budget: Budget,
}

impl TagValues {
    pub fn new(limits: TagLimits) -> Self {
        Self { values: BTreeSet::new(), budget: Budget { limits, ..Budget::default() } }
    }

    pub fn add(&mut self, value: TagValue) {
        if self.budget.is_exhausted {
            return;
        }
        if self.values.contains(&value) {
            self.budget.repeat();
            return;
        }
        if self.budget.take(value.kind.len() + value.text.len(), false) {
            self.values.insert(value);
            let limits = self.budget.limits;
            self.budget.is_exhausted = limits.max_items > 0 && self.values.len() >= limits.max_items;
        }
    }

    /// Whether nothing more will be taken, so that searching on is useless.
    pub fn is_exhausted(&self) -> bool {
        self.budget.is_exhausted
    }

    /// Returns the values sorted by type and text.
    pub fn into_values(self) -> BTreeSet<TagValue> {
        self.values
    }
}

/// Returns the values of tags that are answered without reading data; `None` for all others.
pub fn fixed_values(attribute: &Attribute) -> Option<Vec<TagValue>> {
    let Attribute::Intrinsic(intrinsic) = attribute else { return None };
    let words: &[&str] = match intrinsic {
        Intrinsic::Status => &["ok", "error", "unset"],
        Intrinsic::Kind => &["client", "server", "producer", "consumer", "internal", "unspecified"],
        Intrinsic::Duration
        | Intrinsic::TraceDuration
        | Intrinsic::TraceId
        | Intrinsic::SpanId
        | Intrinsic::SpanParentId
        | Intrinsic::LinkTraceId
        | Intrinsic::LinkSpanId
        | Intrinsic::Parent => &[],
        Intrinsic::Name
        | Intrinsic::StatusMessage
        | Intrinsic::SpanChildCount
        | Intrinsic::NestedSetLeft
        | Intrinsic::NestedSetRight
        | Intrinsic::NestedSetParent
        | Intrinsic::RootName
        | Intrinsic::RootServiceName
        | Intrinsic::EventName
        | Intrinsic::EventTimeSinceStart
        | Intrinsic::InstrumentationName
        | Intrinsic::InstrumentationVersion => return None,
    };
    Some(words.iter().map(|word| TagValue::keyword(word)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_per_scope_and_bounded() {
        let mut names = TagNames::new(TagLimits { max_bytes: 6, max_items: 2, max_stale: 0 });
        for (scope, name) in
            [(TagScope::Span, "b"), (TagScope::Span, "a"), (TagScope::Span, "c"), (TagScope::Resource, "a"), (TagScope::Resource, "long")]
        {
            names.add(scope, name);
        }
        assert!(names.is_exhausted());
        let scopes: Vec<_> = names.into_scopes().map(|(scope, names)| (scope, names.into_iter().collect::<Vec<_>>())).collect();
        assert_eq!(scopes, [(TagScope::Resource, vec!["a".into()]), (TagScope::Span, vec!["a".into(), "b".into()])]);
    }

    #[test]
    fn values_stop_at_bytes_items_and_staleness() {
        let value = |text: &str| TagValue { kind: "string", text: text.into() };
        let collect = |limits: TagLimits, texts: &[&str]| {
            let mut values = TagValues::new(limits);
            texts.iter().for_each(|text| values.add(value(text)));
            values.into_values().len()
        };
        assert_eq!(collect(TagLimits { max_bytes: 14, ..Default::default() }, &["a", "b", "c"]), 1);
        assert_eq!(collect(TagLimits { max_bytes: 15, ..Default::default() }, &["a", "b", "c"]), 2);
        assert_eq!(collect(TagLimits { max_items: 2, ..Default::default() }, &["a", "b", "c"]), 2);
        assert_eq!(collect(TagLimits { max_stale: 2, ..Default::default() }, &["a", "a", "b", "a", "a", "c"]), 2);
        assert_eq!(collect(TagLimits::default(), &["a", "b", "c", "a"]), 3);
    }

    #[test]
    fn intrinsic_tags_are_sorted() {
        assert!(INTRINSIC_TAGS.is_sorted());
    }
}
