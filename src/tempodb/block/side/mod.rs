//! Objects of our own beside those of a block: what is in it, at a hundredth of its size. Other readers ignore them.
//!
//! | object | answers | file |
//! |--|--|--|
//! | `tempo-rs.pruning` | "may this row group match?", without opening the block | [`pruning`] |
//! | `tempo-rs.tags` | "which attributes and values are there?", for autocompletion | [`tags`] |
//!
//! [`builder`] makes both while a block is written; [`container`] is their frame; [`survey`] the walk over a row group that both begin with.
//! [`store`] reads and keeps them, [`tag_index`] joins the tags of all blocks of a tenant, [`rebuild`] makes them for blocks that lack them.
//!
//! Invariants
//! * They are never needed: an object that is absent, corrupt, of an unknown version or of another `data.parquet` changes cost, not answers.
//! * "No" is certain, "perhaps" may be wrong.

pub mod builder;
mod survey;
pub mod pruning;
pub mod tags;
mod hash;
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::tempodb) mod fuzz;
mod container;
pub mod store;
mod cache;
pub mod tag_index;
mod merged_tags;
pub mod rebuild;

use super::prune::StringColumn;
use super::schema::Level;
use crate::model::span_table::{Attrs, SpanTable};
use crate::model::strings::StrId;

pub use container::SideError;

pub const TAGS_NAME: &str = "tempo-rs.tags";
pub const PRUNING_NAME: &str = "tempo-rs.pruning";

/// The resource attribute that is a column.
const SERVICE_NAME: &[u8] = b"service.name";

/// Where attributes stand. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AttrScope {
    Resource = 0,
    Scope = 1,
    Span = 2,
    Event = 3,
    Link = 4,
}

impl AttrScope {
    pub const ALL: [Self; 5] = [Self::Resource, Self::Scope, Self::Span, Self::Event, Self::Link];

    fn attrs_of(self, table: &SpanTable) -> &Attrs {
        match self {
            Self::Resource => &table.resources.attrs,
            Self::Scope => &table.scopes.attrs,
            Self::Span => &table.spans.attrs,
            Self::Event => &table.events.attrs,
            Self::Link => &table.links.attrs,
        }
    }

    /// `None` for levels without attributes.
    pub fn of_level(level: Level) -> Option<Self> {
        match level {
            Level::Resource => Some(Self::Resource),
            Level::Scope => Some(Self::Scope),
            Level::Span => Some(Self::Span),
            Level::Event => Some(Self::Event),
            Level::Link => Some(Self::Link),
            Level::Trace | Level::ServiceStats => None,
        }
    }
}

/// A column of strings that is no attribute. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TextColumn {
    RootServiceName = 0,
    RootSpanName = 1,
    /// Empty where a resource has no service name.
    ServiceName = 2,
    ScopeName = 3,
    ScopeVersion = 4,
    SpanName = 5,
    StatusMessage = 6,
    EventName = 7,
}

impl TextColumn {
    pub const ALL: [Self; 8] = [
        Self::RootServiceName,
        Self::RootSpanName,
        Self::ServiceName,
        Self::ScopeName,
        Self::ScopeVersion,
        Self::SpanName,
        Self::StatusMessage,
        Self::EventName,
    ];

    fn of(self, table: &SpanTable) -> &[StrId] {
        match self {
            Self::RootServiceName => &table.traces.root_service_name,
            Self::RootSpanName => &table.traces.root_span_name,
            Self::ServiceName => &table.resources.service_name,
            Self::ScopeName => &table.scopes.name,
            Self::ScopeVersion => &table.scopes.version,
            Self::SpanName => &table.spans.name,
            Self::StatusMessage => &table.spans.status_message,
            Self::EventName => &table.events.name,
        }
    }

    /// `None` for attributes.
    pub fn of_column(column: &StringColumn) -> Option<Self> {
        match column {
            StringColumn::RootServiceName => Some(Self::RootServiceName),
            StringColumn::RootSpanName => Some(Self::RootSpanName),
            StringColumn::ServiceName => Some(Self::ServiceName),
            StringColumn::ScopeName => Some(Self::ScopeName),
            StringColumn::ScopeVersion => Some(Self::ScopeVersion),
            StringColumn::SpanName => Some(Self::SpanName),
            StringColumn::EventName => Some(Self::EventName),
            StringColumn::Attr(..) => None,
        }
    }
}
