//! What a querier may ask of whoever holds recent spans.
//!
//! Live-stores and ingesters implement [`SpanReader`]. They answer from everything acknowledged that is not yet listed in the block list, so that
//! a querier that asks them and the blocks sees no gap; overlap is fine, answers are merged without duplicates. Metrics count, so overlap is not
//! fine there: their answer names the blocks that belong to it.

use std::sync::Arc;

use async_trait::async_trait;

use super::metrics_query::{MetricsRequest, RecentMetricsReply};
use super::search::{SearchReply, TagNamesReply, TagNamesRequest, TagValuesReply, TagValuesRequest};
use super::status::CallError;
use crate::model::ids::{TenantId, TraceId};
use crate::model::span_table::SpanTable;
use crate::traceql::result::SearchRequest;

#[async_trait]
pub trait SpanReader: Send + Sync + 'static {
    /// Returns what is held of the trace, as row 0 of a table of its own; `None` when there is nothing. Never reads object storage of others.
    async fn find_trace(&self, tenant: &TenantId, trace_id: TraceId) -> Result<Option<SpanTable>, CallError>;

    async fn search(&self, tenant: &TenantId, request: &SearchRequest) -> Result<SearchReply, CallError>;

    async fn metrics(&self, tenant: &TenantId, request: &MetricsRequest) -> Result<RecentMetricsReply, CallError>;

    async fn tag_names(&self, tenant: &TenantId, request: &TagNamesRequest) -> Result<TagNamesReply, CallError>;

    async fn tag_values(&self, tenant: &TenantId, request: &TagValuesRequest) -> Result<TagValuesReply, CallError>;
}

pub type SpanReaderPort = Arc<dyn SpanReader>;
