//! Executes query jobs over recent data and blocks.
//!
//! Not here: cutting queries into jobs and merging their answers (the query-frontend), the language (`traceql`), the block format (`tempodb`).
//!
//! Invariants
//! * At most `max_concurrent_queries` jobs run at once; others wait in order of arrival until their time is over.
//! * A job over a block decodes one row group at a time, first the columns of the query's conditions, then what results show of the matches.
//! * Dropping a job's future ends it: fetches are dropped, and CPU work stops before its next stage.
//! * A broken block is left out, logged and counted; it fails no query.

mod blocks;
pub mod config;
mod listed_tags;
pub mod metrics;
mod projection;
mod row_group_order;
mod pruning;
mod replicas;
mod row_finder;
mod series;
#[cfg(test)]
mod side_tests;
#[cfg(test)]
mod series_tests;
#[cfg(test)]
mod source_tests;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::metrics::counter;
use async_trait::async_trait;
use futures::future::try_join_all;
use tokio::sync::Semaphore;

use crate::base::cpu_pool::CpuPool;
use crate::model::ids::TenantId;
use crate::services::rpc::metrics_query::{MetricsReply, MetricsRequest, RecentMetricsReply};
use crate::services::rpc::querier::{FindTraceReply, FindTraceRequest, Listed, Querier as QuerierApi, SearchPart, TracePart};
use crate::services::rpc::search::{SearchReply, TagNamesReply, TagNamesRequest, TagValuesReply, TagValuesRequest};
use crate::services::rpc::span_reader::SpanReaderPort;
use crate::services::rpc::status::CallError;
use crate::tempodb::block::meta::BlockMeta;
use crate::tempodb::db::TempoDb;
use crate::traceql::result::SearchRequest;

use config::QuerierConfig;

/// What a querier is built of.
pub struct Parts {
    pub config: QuerierConfig,
    /// Everybody who holds recent data; all are asked.
    pub span_readers: Vec<SpanReaderPort>,
    pub db: Arc<TempoDb>,
    pub cpu: CpuPool,
}

/// A querier in this process.
pub struct Querier {
    config: QuerierConfig,
    span_readers: Vec<SpanReaderPort>,
    db: Arc<TempoDb>,
    cpu: CpuPool,
    places: Semaphore,
}

/// Set when the job's future is dropped.
#[derive(Debug, Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Querier {
    pub fn new(parts: Parts) -> Self {
        let Parts { config, span_readers, db, cpu } = parts;
        let places = Semaphore::new(config.max_concurrent_queries.max(1));
        Self { config, span_readers, db, cpu, places }
    }

    /// Runs a job when there is a place, within `limit` including the wait.
    async fn run<T>(&self, limit: Option<Duration>, job: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        let placed = async {
            let _place = self.places.acquire().await.map_err(|_closed| CallError::cancelled())?;
            counter!(metrics::REQUESTS_EXECUTED).increment(1);
            job.await
        };
        match limit {
            None => placed.await,
            Some(limit) => tokio::time::timeout(limit, placed).await.unwrap_or_else(|_elapsed| Err(CallError::timed_out())),
        }
    }

    fn search_limit(&self) -> Option<Duration> {
        self.config.search.query_timeout.positive()
    }

    /// Runs CPU work on the pool; it is skipped when the job has ended before it began.
    async fn on_cpu<T: Send + 'static>(&self, name: &'static str, work: impl FnOnce() -> T + Send + 'static) -> Result<T, CallError> {
        self.cpu.run(name, work).await.map_err(|error| CallError::internal(error.to_string()))
    }

    async fn find_recent(&self, tenant: &TenantId, request: FindTraceRequest) -> Result<FindTraceReply, CallError> {
        let parts = try_join_all(self.span_readers.iter().map(|reader| reader.find_trace(tenant, request.trace_id))).await?;
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        let mut reply = FindTraceReply { parts, ..FindTraceReply::default() };
        reply.inspection.bytes = reply.parts.iter().map(|part| part.memory_bytes() as u64).sum();
        Ok(reply)
    }

    async fn search_recent(&self, tenant: &TenantId, request: &SearchRequest) -> Result<SearchReply, CallError> {
        let replies = try_join_all(self.span_readers.iter().map(|reader| reader.search(tenant, request))).await?;
        let mut all = SearchReply::default();
        for reply in replies {
            all.inspection.add(reply.inspection);
            all.hits.extend(reply.hits);
        }
        Ok(all)
    }

    async fn recent_tag_names(&self, tenant: &TenantId, request: &TagNamesRequest) -> Result<TagNamesReply, CallError> {
        let replies = try_join_all(self.span_readers.iter().map(|reader| reader.tag_names(tenant, request))).await?;
        let mut all = TagNamesReply::default();
        for reply in replies {
            all.inspection.add(reply.inspection);
            all.truncated |= reply.truncated;
            for (scope, names) in reply.names {
                all.names.entry(scope).or_default().extend(names);
            }
        }
        Ok(all)
    }

    async fn recent_tag_values(&self, tenant: &TenantId, request: &TagValuesRequest) -> Result<TagValuesReply, CallError> {
        let replies = try_join_all(self.span_readers.iter().map(|reader| reader.tag_values(tenant, request))).await?;
        let mut all = TagValuesReply::default();
        for reply in replies {
            all.inspection.add(reply.inspection);
            all.truncated |= reply.truncated;
            all.values.extend(reply.values);
        }
        Ok(all)
    }
}

#[async_trait]
impl QuerierApi for Querier {
    async fn find_trace(&self, tenant: &TenantId, request: FindTraceRequest, part: TracePart) -> Result<FindTraceReply, CallError> {
        let limit = self.config.trace_by_id.query_timeout.positive();
        match part {
            TracePart::Recent => self.run(limit, self.find_recent(tenant, request)).await,
            TracePart::Blocks { first, last } => self.run(limit, self.find_in_blocks(tenant, request, first, last)).await,
        }
    }

    async fn search(&self, tenant: &TenantId, request: &SearchRequest, part: &SearchPart) -> Result<SearchReply, CallError> {
        match part {
            SearchPart::Recent => self.run(self.search_limit(), self.search_recent(tenant, request)).await,
            SearchPart::Block { meta, row_groups } => {
                self.run(self.search_limit(), self.search_block(tenant, request, meta, row_groups.clone())).await
            }
        }
    }

    async fn tag_names(&self, tenant: &TenantId, request: &TagNamesRequest, part: &SearchPart) -> Result<TagNamesReply, CallError> {
        match part {
            SearchPart::Recent => self.run(self.search_limit(), self.recent_tag_names(tenant, request)).await,
            SearchPart::Block { meta, row_groups } => {
                self.run(self.search_limit(), self.tag_names_of_block(tenant, request, meta, row_groups.clone())).await
            }
        }
    }

    async fn tag_values(&self, tenant: &TenantId, request: &TagValuesRequest, part: &SearchPart) -> Result<TagValuesReply, CallError> {
        match part {
            SearchPart::Recent => self.run(self.search_limit(), self.recent_tag_values(tenant, request)).await,
            SearchPart::Block { meta, row_groups } => {
                self.run(self.search_limit(), self.tag_values_of_block(tenant, request, meta, row_groups.clone())).await
            }
        }
    }

    async fn recent_metrics(&self, tenant: &TenantId, request: &MetricsRequest) -> Result<RecentMetricsReply, CallError> {
        self.run(self.search_limit(), self.metrics_of_recent(tenant, request)).await
    }

    async fn metrics_of_block(
        &self,
        tenant: &TenantId,
        request: &MetricsRequest,
        meta: &Arc<BlockMeta>,
        row_groups: Range<usize>,
    ) -> Result<MetricsReply, CallError> {
        self.run(self.search_limit(), self.count_block(tenant, request, meta, row_groups)).await
    }

    async fn metrics_of_replicas(
        &self,
        tenant: &TenantId,
        request: &MetricsRequest,
        blocks: &[Arc<BlockMeta>],
    ) -> Result<MetricsReply, CallError> {
        self.run(self.search_limit(), self.count_replicas(tenant, request, blocks)).await
    }

    async fn listed_tag_names(
        &self,
        tenant: &TenantId,
        request: &TagNamesRequest,
        blocks: &[Arc<BlockMeta>],
    ) -> Result<Listed<TagNamesReply>, CallError> {
        self.run(self.search_limit(), self.tag_names_of_lists(tenant, request, blocks)).await
    }

    async fn listed_tag_values(
        &self,
        tenant: &TenantId,
        request: &TagValuesRequest,
        blocks: &[Arc<BlockMeta>],
    ) -> Result<Listed<TagValuesReply>, CallError> {
        self.run(self.search_limit(), self.tag_values_of_lists(tenant, request, blocks)).await
    }
}
