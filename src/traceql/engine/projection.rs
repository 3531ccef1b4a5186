//! What storage must deliver for a query: columns, attribute keys, and conditions by which it may skip data.
//!
//! A plain description without knowledge of any file format. The engine reads nothing that its [`FetchSpec`] does not name; a
//! [`SpanTable`](crate::model::span_table::SpanTable) that holds more is fine.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::model::ids::TraceId;

use crate::traceql::ast::{Attribute, AttributeScope, Intrinsic, Owner};
use crate::traceql::regex::Pattern;
use crate::traceql::types::Static;

/// The parts of a table that one pass over a row group needs. Trace ids and the offsets down to spans are always needed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FetchSpec {
    pub columns: BTreeSet<FetchColumn>,
    pub resource_attributes: FetchKeys,
    /// Attributes of instrumentation scopes.
    pub scope_attributes: FetchKeys,
    pub span_attributes: FetchKeys,
    pub event_attributes: FetchKeys,
    pub link_attributes: FetchKeys,
    /// All must hold somewhere in a run of rows for any of its traces to match: a row group (or page range) in which no item passes one of
    /// them may be skipped. They may hold on different items. Nothing else follows from them: a delivered row need not pass.
    pub conditions: Vec<FetchCondition>,
}

/// Fixed columns, named after those of the table. `EventName` and the like imply the offsets from spans to events or links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FetchColumn {
    /// Start, end and duration of the trace.
    TraceTimes,
    RootServiceName,
    RootSpanName,
    ServiceStats,
    /// `resources.service_name`
    ServiceName,
    ScopeName,
    ScopeVersion,
    SpanId,
    ParentSpanId,
    NestedLeft,
    NestedRight,
    /// The left number of the parent.
    NestedParent,
    ChildCount,
    SpanName,
    Kind,
    SpanStart,
    SpanDuration,
    StatusCode,
    StatusMessage,
    TraceState,
    /// Only the offsets from spans to events and links.
    EventOffsets,
    LinkOffsets,
    EventName,
    EventTime,
    LinkTraceId,
    LinkSpanId,
}

/// The attributes wanted of one level.
#[derive(Debug, Clone, PartialEq)]
pub enum FetchKeys {
    /// Attributes with these keys, as far as their values are of the given kinds; none when empty.
    Only(BTreeMap<Arc<str>, FetchKinds>),
    All,
}

/// Kinds of attribute values; an array is of the kind of its elements. Attributes of other kinds may be delivered or left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FetchKinds {
    pub strings: bool,
    pub ints: bool,
    pub floats: bool,
    pub bools: bool,
}

impl FetchKinds {
    /// Every value that can be compared, empty arrays included.
    pub const ALL: Self = Self { strings: true, ints: true, floats: true, bools: true };

    /// Returns the kinds of the values that are compared with `literal`.
    pub fn compared_with(literal: &Static) -> Self {
        let none = Self::default();
        match literal {
            Static::String(_) | Static::StringArray(_) => Self { strings: true, ..none },
            Static::Int(_) | Static::IntArray(_) => Self { ints: true, floats: true, ..none },
            Static::Float(_) | Static::FloatArray(_) => Self { floats: true, ..none },
            Static::Bool(_) | Static::BoolArray(_) => Self { bools: true, ..none },
            Static::Nil | Static::Duration(_) | Static::Status(_) | Static::Kind(_) => none,
        }
    }

    pub fn union(self, other: Self) -> Self {
        Self {
            strings: self.strings || other.strings,
            ints: self.ints || other.ints,
            floats: self.floats || other.floats,
            bools: self.bools || other.bools,
        }
    }
}

impl Default for FetchKeys {
    fn default() -> Self {
        Self::Only(BTreeMap::new())
    }
}

impl FetchKeys {
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Only(keys) if keys.is_empty())
    }

    pub fn contains(&self, key: &str) -> bool {
        match self {
            Self::Only(keys) => keys.contains_key(key),
            Self::All => true,
        }
    }

    fn add(&mut self, key: &Arc<str>, kinds: FetchKinds) {
        if let Self::Only(keys) = self {
            let known = keys.entry(key.clone()).or_default();
            *known = known.union(kinds);
        }
    }

    fn unite(&mut self, other: &Self) {
        match other {
            Self::Only(keys) => keys.iter().for_each(|(key, kinds)| self.add(key, *kinds)),
            Self::All => *self = Self::All,
        }
    }
}

/// "Some item has a value of `target` that passes `test`."
#[derive(Debug, Clone, PartialEq)]
pub struct FetchCondition {
    pub target: FetchTarget,
    pub test: FetchTest,
}

#[derive(Debug, Clone, PartialEq)]
pub enum FetchTarget {
    Column(FetchColumn),
    /// The trace id, tested with [`FetchTest::TraceIds`] only.
    TraceId,
    Attribute(AttributeLevel, Arc<str>),
    /// A span or a resource attribute of this key; for `service.name` also the column.
    SpanOrResource(Arc<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AttributeLevel {
    Resource,
    Scope,
    Span,
    Event,
    Link,
}

#[derive(Debug, Clone, PartialEq)]
pub enum FetchTest {
    /// A string, or a string element of an array, that equals one of these.
    Strings(Vec<Arc<str>>),
    /// A string, or a string element of an array, that matches one of these.
    Patterns(Vec<Pattern>),
    /// For columns: the stored number lies within (OTLP numbers of kind and status, nanoseconds as `i64`). For attributes: an integer or a
    /// float, or such an element, lies within; `i64::MIN` and `i64::MAX` mean no bound for floats.
    Numbers(RangeInclusive<i64>),
    /// One of these ids.
    TraceIds(Vec<TraceId>),
    /// Any value at all.
    Present,
}

impl FetchSpec {
    /// Adds what reading values of `kinds` of `attribute` takes.
    pub fn add(&mut self, attribute: &Attribute, kinds: FetchKinds) {
        match attribute {
            Attribute::Named(named) => {
                let key = &named.name;
                if named.owner != Owner::Itself {
                    // related spans are found by these
                    self.columns.extend([FetchColumn::NestedLeft, FetchColumn::NestedParent]);
                }
                match named.scope {
                    AttributeScope::Unscoped => {
                        // a span attribute of any kind hides the resource attribute
                        self.span_attributes.add(key, FetchKinds::ALL);
                        self.add_resource_key(key, kinds);
                    }
                    AttributeScope::Span => self.span_attributes.add(key, kinds),
                    AttributeScope::Resource => self.add_resource_key(key, kinds),
                    AttributeScope::Event => {
                        self.event_attributes.add(key, kinds);
                        self.columns.insert(FetchColumn::EventOffsets);
                    }
                    AttributeScope::Link => {
                        self.link_attributes.add(key, kinds);
                        self.columns.insert(FetchColumn::LinkOffsets);
                    }
                    AttributeScope::Instrumentation => self.scope_attributes.add(key, kinds),
                }
            }
            Attribute::Intrinsic(intrinsic) => self.columns.extend(column_of(*intrinsic)),
        }
    }

    /// Adds everything of `other` except its conditions.
    pub fn unite(&mut self, other: &Self) {
        self.columns.extend(&other.columns);
        self.resource_attributes.unite(&other.resource_attributes);
        self.scope_attributes.unite(&other.scope_attributes);
        self.span_attributes.unite(&other.span_attributes);
        self.event_attributes.unite(&other.event_attributes);
        self.link_attributes.unite(&other.link_attributes);
    }

    /// `service.name` has a column of its own, and only what is there counts: a value that is no string does not.
    fn add_resource_key(&mut self, key: &Arc<str>, kinds: FetchKinds) {
        if &**key == SERVICE_NAME {
            self.columns.insert(FetchColumn::ServiceName);
        } else {
            self.resource_attributes.add(key, kinds);
        }
    }
}

/// The resource attribute that has a column of its own.
pub const SERVICE_NAME: &str = "service.name";

/// Returns the column that holds `intrinsic`; `None` for the trace id, which is always there, and for `parent`.
pub fn column_of(intrinsic: Intrinsic) -> Option<FetchColumn> {
    Some(match intrinsic {
        Intrinsic::Duration => FetchColumn::SpanDuration,
        Intrinsic::Name => FetchColumn::SpanName,
        Intrinsic::Status => FetchColumn::StatusCode,
        Intrinsic::StatusMessage => FetchColumn::StatusMessage,
        Intrinsic::Kind => FetchColumn::Kind,
        Intrinsic::SpanId => FetchColumn::SpanId,
        Intrinsic::SpanParentId => FetchColumn::ParentSpanId,
        Intrinsic::SpanChildCount => FetchColumn::ChildCount,
        Intrinsic::NestedSetLeft => FetchColumn::NestedLeft,
        Intrinsic::NestedSetRight => FetchColumn::NestedRight,
        Intrinsic::NestedSetParent => FetchColumn::NestedParent,
        Intrinsic::RootName => FetchColumn::RootSpanName,
        Intrinsic::RootServiceName => FetchColumn::RootServiceName,
        Intrinsic::TraceDuration => FetchColumn::TraceTimes,
        Intrinsic::EventName => FetchColumn::EventName,
        Intrinsic::EventTimeSinceStart => FetchColumn::EventTime,
        Intrinsic::LinkTraceId => FetchColumn::LinkTraceId,
        Intrinsic::LinkSpanId => FetchColumn::LinkSpanId,
        Intrinsic::InstrumentationName => FetchColumn::ScopeName,
        Intrinsic::InstrumentationVersion => FetchColumn::ScopeVersion,
        Intrinsic::TraceId | Intrinsic::Parent => return None,
    })
}
