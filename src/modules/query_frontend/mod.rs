//! Answers the query API: validates requests, cuts them into jobs for queriers, merges the answers.
//!
//! Not here: reading data (the querier behind [`Querier`](crate::services::rpc::querier::Querier)), evaluating TraceQL, streaming (not
//! supported yet).
//!
//! Invariants
//! * Nothing is remembered between requests except the number of jobs under way; answers of jobs over blocks are kept in a cache, when one has that role.
//! * Recent data and blocks are both asked for the whole time range; what both hold is shown once. Metrics count spans: they ask the blocks that the
//!   answer for recent data names, and no others, so that every span counts once.
//! * Dropping a request's future cancels all its jobs.
//! * Memory: the replies of the jobs under way, the answer, and its encoded form.

mod complete;
pub mod config;
mod http_routes;
mod jobs;
mod job_cache;
mod cached_reply;
mod cached_series;
pub mod limits;
pub mod metrics;
mod metrics_answer;
mod metrics_params;
mod metrics_query;
mod params;
mod request;
mod respond;
mod search;
mod shared_span_ids;
mod span_filter;
mod tags;
mod tags_param;
pub mod tenancy;
mod trace_by_id;

#[cfg(test)]
mod tests;

use std::time::Duration;

use regex::Regex;

use crate::base::clock::SharedClock;
use crate::base::cpu_pool::CpuPool;
use crate::services::rpc::block_list::BlockListPort;
use crate::services::rpc::querier::QuerierPort;
use crate::services::rpc::search::Inspection;
use crate::services::rpc::status::CallError;
use crate::tempodb::cache::Caches;

use config::QueryFrontendConfig;
use job_cache::JobCache;
use jobs::JobSlots;
use limits::{LimitsOf, QueryLimits};
use metrics_params::MetricsLimits;
use request::RequestLimits;
use respond::Answer;
use tenancy::Tenancy;

pub use http_routes::{PATHS, router};

/// What a query-frontend is built of.
pub struct Parts {
    pub config: QueryFrontendConfig,
    pub tenancy: Tenancy,
    /// `query_end_cutoff` if the configuration file sets it: search, tags and tag values then leave out the youngest data.
    pub search_end_cutoff: Option<Duration>,
    pub querier: QuerierPort,
    /// For answers of jobs.
    pub caches: Caches,
    pub blocks: BlockListPort,
    pub limits: LimitsOf,
    pub clock: SharedClock,
    pub cpu: CpuPool,
}

/// Why a query-frontend cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("query_frontend.url_deny_list: {pattern:?} is not a regular expression")]
    DenyList {
        pattern: String,
        #[source]
        cause: regex::Error,
    },
}

/// Answers queries. Shared by all requests.
pub struct QueryFrontend {
    config: QueryFrontendConfig,
    tenancy: Tenancy,
    search_end_cutoff: Option<Duration>,
    querier: QuerierPort,
    job_cache: JobCache,
    blocks: BlockListPort,
    limits: LimitsOf,
    clock: SharedClock,
    cpu: CpuPool,
    slots: JobSlots,
    denied_urls: Vec<Regex>,
}

/// The outcome of one query.
struct Reply {
    answer: Answer,
    inspection: Inspection,
    jobs: usize,
}

impl QueryFrontend {
    /// # Errors
    /// When a pattern of the deny list is no regular expression.
    pub fn new(parts: Parts) -> Result<Self, BuildError> {
        let Parts { config, tenancy, search_end_cutoff, querier, caches, blocks, limits, clock, cpu } = parts;
        let compile = |pattern: &String| Regex::new(pattern).map_err(|cause| BuildError::DenyList { pattern: pattern.clone(), cause });
        let denied_urls = config.url_deny_list.iter().map(compile).collect::<Result<_, _>>()?;
        let slots = JobSlots::new(config.max_outstanding_per_tenant);
        let job_cache = JobCache::new(caches);
        Ok(Self { config, tenancy, search_end_cutoff, querier, job_cache, blocks, limits, clock, cpu, slots, denied_urls })
    }

    /// Returns what the requests of tenants with `limits` are checked against.
    fn request_limits(&self, limits: QueryLimits) -> RequestLimits {
        let search = &self.config.search;
        let max_duration_seconds = match limits.max_search_seconds {
            0 => search.max_duration.to_std().as_secs(),
            seconds => seconds,
        };
        RequestLimits {
            default_result_limit: search.default_result_limit,
            max_result_limit: search.max_result_limit,
            default_spans_per_span_set: search.default_spans_per_span_set,
            max_spans_per_span_set: search.max_spans_per_span_set,
            max_duration_seconds,
            max_query_bytes: self.config.max_query_expression_size_bytes,
            query_end_cutoff_seconds: self.search_end_cutoff.map(|cutoff| cutoff.as_secs()),
        }
    }

    /// Returns what the metrics requests of tenants with `limits` are checked against.
    fn metrics_limits(&self, limits: QueryLimits) -> MetricsLimits {
        let config = &self.config.metrics;
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        MetricsLimits {
            max_duration_nanos: match limits.max_metrics_seconds {
                0 => nanos(config.max_duration.to_std()),
                seconds => nanos(Duration::from_secs(seconds)),
            },
            max_intervals: config.max_intervals,
            max_exemplars: config.max_exemplars,
            max_series: config.max_response_series,
            query_end_cutoff_nanos: nanos(self.config.query_end_cutoff.to_std()),
        }
    }

    /// Runs CPU work on the pool.
    async fn on_cpu<T: Send + 'static>(&self, name: &'static str, work: impl FnOnce() -> T + Send + 'static) -> Result<T, CallError> {
        self.cpu.run(name, work).await.map_err(|error| CallError::internal(error.to_string()))
    }
}
