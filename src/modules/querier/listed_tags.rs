//! Tag names and values from the tag lists of blocks, without opening the blocks.

use std::sync::Arc;
use std::time::Instant;

use super::Querier;
use super::blocks::{inspection, observe};
use crate::model::ids::TenantId;
use crate::services::rpc::querier::Listed;
use crate::services::rpc::search::{TagNamesReply, TagNamesRequest, TagValuesReply, TagValuesRequest};
use crate::services::rpc::status::CallError;
use crate::tempodb::block::meta::BlockMeta;
use crate::tempodb::block::read::ReadMeter;
use crate::tempodb::block::side::tag_index::AskedBlocks;
use crate::tempodb::block::side::tags::{TagItem, TagList};
use crate::tempodb::block::side::{AttrScope, TextColumn};
use crate::traceql::ast::{Attribute, AttributeScope, Intrinsic};
use crate::traceql::engine::projection::SERVICE_NAME;
use crate::traceql::tags::{TagLimits, TagNames, TagScope, TagValue, TagValues};
use crate::traceql::types::Static;

impl Querier {
    pub(super) async fn tag_names_of_lists(
        &self,
        tenant: &TenantId,
        request: &TagNamesRequest,
        blocks: &[Arc<BlockMeta>],
    ) -> Result<Listed<TagNamesReply>, CallError> {
        let (started, meter) = (Instant::now(), ReadMeter::default());
        let scopes = request.scopes.iter().copied().map(attr_scope).collect();
        let live = self.db.blocks(tenant);
        let asked = AskedBlocks { tenant, live: &live, asked: blocks };
        let names = (TagNames::new(unhurried(request.limits)), add_name as fn(&mut _, _, &_));
        let answer = self.db.tags().names(self.db.side(), asked, scopes, names, &self.cpu, &meter).await;
        let (names, left) = answer.map_err(|error| CallError::internal(error.to_string()))?;
        observe("listed_tags", tenant, started);
        let truncated = names.is_exhausted();
        let reply = TagNamesReply { truncated, names: names.into_scopes().collect(), inspection: inspection(&meter) };
        Ok(Listed { reply, left })
    }

    pub(super) async fn tag_values_of_lists(
        &self,
        tenant: &TenantId,
        request: &TagValuesRequest,
        blocks: &[Arc<BlockMeta>],
    ) -> Result<Listed<TagValuesReply>, CallError> {
        let (started, meter) = (Instant::now(), ReadMeter::default());
        let Some(lists) = lists_of(&request.attribute) else {
            return Ok(Listed { reply: TagValuesReply::default(), left: blocks.iter().map(|meta| meta.block_id).collect() });
        };
        let live = self.db.blocks(tenant);
        let asked = AskedBlocks { tenant, live: &live, asked: blocks };
        let values = (TagValues::new(unhurried(request.limits)), add_value as fn(&mut _, &_, &_));
        let answer = self.db.tags().values(self.db.side(), asked, lists, values, &self.cpu, &meter).await;
        let (values, left) = answer.map_err(|error| CallError::internal(error.to_string()))?;
        observe("listed_tag_values", tenant, started);
        let truncated = values.is_exhausted();
        let reply = TagValuesReply { truncated, values: values.into_values(), inspection: inspection(&meter) };
        Ok(Listed { reply, left })
    }
}

/// Looking on costs nothing here, so known items are no reason to stop.
fn unhurried(limits: TagLimits) -> TagLimits {
    TagLimits { max_stale: 0, ..limits }
}

fn add_name(names: &mut TagNames, scope: AttrScope, key: &[u8]) {
    names.add(tag_scope(scope), &String::from_utf8_lossy(key));
}

fn add_value(values: &mut TagValues, list: &TagList, item: &TagItem) {
    let value = match item {
        // An empty service name means that there is none.
        TagItem::Str(text) if text.is_empty() && *list == TagList::Column(TextColumn::ServiceName) => return,
        TagItem::Str(text) => Some(TagValue { kind: "string", text: String::from_utf8_lossy(text).into() }),
        TagItem::Bool(value) => TagValue::new(&Static::Bool(*value)),
        TagItem::Int(value) => TagValue::new(&Static::Int(*value)),
        TagItem::Double(bits) => TagValue::new(&Static::Float(f64::from_bits(*bits))),
    };
    value.into_iter().for_each(|value| values.add(value));
}

fn attr_scope(scope: TagScope) -> AttrScope {
    match scope {
        TagScope::Resource => AttrScope::Resource,
        TagScope::Span => AttrScope::Span,
        TagScope::Event => AttrScope::Event,
        TagScope::Link => AttrScope::Link,
        TagScope::Instrumentation => AttrScope::Scope,
    }
}

fn tag_scope(scope: AttrScope) -> TagScope {
    match scope {
        AttrScope::Resource => TagScope::Resource,
        AttrScope::Span => TagScope::Span,
        AttrScope::Event => TagScope::Event,
        AttrScope::Link => TagScope::Link,
        AttrScope::Scope => TagScope::Instrumentation,
    }
}

/// Returns the lists that together hold the values of an attribute; `None` when there are no such lists.
fn lists_of(attribute: &Attribute) -> Option<Vec<TagList>> {
    let named = match attribute {
        Attribute::Named(named) => named,
        Attribute::Intrinsic(intrinsic) => return Some(vec![TagList::Column(column_of(*intrinsic)?)]),
    };
    let scopes: &[AttrScope] = match named.scope {
        AttributeScope::Unscoped => &[AttrScope::Resource, AttrScope::Span, AttrScope::Scope],
        AttributeScope::Resource => &[AttrScope::Resource],
        AttributeScope::Span => &[AttrScope::Span],
        AttributeScope::Event => &[AttrScope::Event],
        AttributeScope::Link => &[AttrScope::Link],
        AttributeScope::Instrumentation => &[AttrScope::Scope],
    };
    let list = |scope: &AttrScope| match scope {
        AttrScope::Resource if &*named.name == SERVICE_NAME => TagList::Column(TextColumn::ServiceName),
        scope => TagList::attr(*scope, named.name.as_bytes()),
    };
    Some(scopes.iter().map(list).collect())
}

fn column_of(intrinsic: Intrinsic) -> Option<TextColumn> {
    match intrinsic {
        Intrinsic::Name => Some(TextColumn::SpanName),
        Intrinsic::StatusMessage => Some(TextColumn::StatusMessage),
        Intrinsic::RootName => Some(TextColumn::RootSpanName),
        Intrinsic::RootServiceName => Some(TextColumn::RootServiceName),
        Intrinsic::EventName => Some(TextColumn::EventName),
        Intrinsic::InstrumentationName => Some(TextColumn::ScopeName),
        Intrinsic::InstrumentationVersion => Some(TextColumn::ScopeVersion),
        Intrinsic::Duration
        | Intrinsic::Status
        | Intrinsic::Kind
        | Intrinsic::SpanId
        | Intrinsic::SpanParentId
        | Intrinsic::SpanChildCount
        | Intrinsic::NestedSetLeft
        | Intrinsic::NestedSetRight
        | Intrinsic::NestedSetParent
        | Intrinsic::TraceDuration
        | Intrinsic::TraceId
        | Intrinsic::EventTimeSinceStart
        | Intrinsic::LinkTraceId
        | Intrinsic::LinkSpanId
        | Intrinsic::Parent => None,
    }
}
