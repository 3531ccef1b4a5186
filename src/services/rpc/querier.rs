//! What a query-frontend may ask of a querier: one job of a query at a time.
//!
//! Requests are self-contained (a block job names its block and carries its meta), so a remote querier needs no state of the frontend.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;

use super::metrics_query::{MetricsReply, MetricsRequest, RecentMetricsReply};
use super::search::{Inspection, SearchReply, TagNamesReply, TagNamesRequest, TagValuesReply, TagValuesRequest, TimeRange};
use super::status::CallError;
use crate::model::ids::{TenantId, TraceId};
use crate::model::span_table::SpanTable;
use crate::tempodb::block::meta::{BlockId, BlockMeta};
use crate::traceql::result::SearchRequest;

/// The data one job looks at.
#[derive(Debug, Clone)]
pub enum SearchPart {
    /// Whatever live-stores and ingesters hold.
    Recent,
    /// A run of row groups of one block.
    Block { meta: Arc<BlockMeta>, row_groups: Range<usize> },
}

/// Where a job looks for a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TracePart {
    Recent,
    /// Blocks of the querier's own list with `first <= id <= last`.
    Blocks {
        first: BlockId,
        last: BlockId,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FindTraceRequest {
    pub trace_id: TraceId,
    pub range: TimeRange,
}

/// What a job found of a trace; each table has it in row 0.
#[derive(Debug, Clone, Default)]
pub struct FindTraceReply {
    pub parts: Vec<SpanTable>,
    pub inspection: Inspection,
    /// Blocks that could not be read because they are broken; the answer is incomplete by what they hold.
    pub skipped_blocks: Vec<BlockId>,
}

/// What is known of some blocks without opening them, and the blocks of which it is not all.
#[derive(Debug, Clone, Default)]
pub struct Listed<T> {
    pub reply: T,
    pub left: Vec<BlockId>,
}

/// A querier. Dropping a returned future cancels the job.
#[async_trait]
pub trait Querier: Send + Sync + 'static {
    async fn find_trace(&self, tenant: &TenantId, request: FindTraceRequest, part: TracePart) -> Result<FindTraceReply, CallError>;

    async fn search(&self, tenant: &TenantId, request: &SearchRequest, part: &SearchPart) -> Result<SearchReply, CallError>;

    async fn tag_names(&self, tenant: &TenantId, request: &TagNamesRequest, part: &SearchPart) -> Result<TagNamesReply, CallError>;

    async fn tag_values(&self, tenant: &TenantId, request: &TagValuesRequest, part: &SearchPart) -> Result<TagValuesReply, CallError>;

    /// Evaluates a metrics query over recent spans, and tells the blocks that have all the others.
    async fn recent_metrics(&self, tenant: &TenantId, request: &MetricsRequest) -> Result<RecentMetricsReply, CallError>;

    /// Evaluates a metrics query over a run of row groups of one block.
    async fn metrics_of_block(
        &self,
        tenant: &TenantId,
        request: &MetricsRequest,
        meta: &Arc<BlockMeta>,
        row_groups: Range<usize>,
    ) -> Result<MetricsReply, CallError>;

    /// Evaluates a metrics query over blocks that may hold the same spans; each counts once.
    async fn metrics_of_replicas(
        &self,
        tenant: &TenantId,
        request: &MetricsRequest,
        blocks: &[Arc<BlockMeta>],
    ) -> Result<MetricsReply, CallError>;

    /// Answers a request without filter for many blocks at once, as far as their tag lists tell.
    async fn listed_tag_names(
        &self,
        tenant: &TenantId,
        request: &TagNamesRequest,
        blocks: &[Arc<BlockMeta>],
    ) -> Result<Listed<TagNamesReply>, CallError>;

    async fn listed_tag_values(
        &self,
        tenant: &TenantId,
        request: &TagValuesRequest,
        blocks: &[Arc<BlockMeta>],
    ) -> Result<Listed<TagValuesReply>, CallError>;
}

pub type QuerierPort = Arc<dyn Querier>;
