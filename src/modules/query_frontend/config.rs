//! `query_frontend:`.

use crate::base::config_block::config_block;
use crate::base::duration::GoDuration;

/// Names that `skip_ast_transformations` may contain.
pub const AST_TRANSFORMATIONS: [&str; 2] = ["all", "or_to_in"];

config_block! {
    /// `query_frontend:`.
    pub struct QueryFrontendConfig {
        /// Jobs waiting per tenant; beyond: 429.
        max_outstanding_per_tenant: usize = 2000,
        /// Jobs handed over at once.
        max_batch_size: usize = 7,
        /// Request headers to log, comma-separated.
        log_query_request_headers: String = String::new(),
        /// Attempts of a job, the first included.
        max_retries: usize = 2,
        /// Limit of an API request; 0: off.
        api_timeout: GoDuration = GoDuration::ZERO,
        /// Regular expressions; matching URLs answer 400.
        url_deny_list: Vec<String> = Vec::new(),
        /// Largest streamed message in bytes.
        max_grpc_streaming_packet_size: usize = 1_048_576,
        /// Longest query text in bytes.
        max_query_expression_size_bytes: usize = 131_072,
        /// Only these request headers pass on; empty: all.
        allowed_headers: Vec<String> = Vec::new(),
        /// Deprecated, ignored: RFC 3339 time.
        #[serde(skip_serializing_if = "String::is_empty")]
        rf1_after: String = String::new(),
        /// Never query data newer than now minus this. Absent: 30s for metrics, no cut-off for search and tags.
        query_end_cutoff: GoDuration = GoDuration::seconds(30),
        /// Not a key: `query_end_cutoff` was set, so that it also holds for search and tags.
        #[serde(skip)]
        is_query_end_cutoff_set: bool = false,
        /// See [`AST_TRANSFORMATIONS`].
        skip_ast_transformations: Vec<String> = Vec::new(),
        /// Tenants `a|b`.
        multi_tenant_queries_enabled: bool = true,
        /// Tasks that merge answers.
        response_consumers: usize = 10,
        /// Model context protocol.
        mcp_server: McpServerConfig = McpServerConfig::default(),
        /// Search and tags.
        search: FrontendSearchConfig = FrontendSearchConfig::default(),
        /// Traces by id.
        trace_by_id: FrontendTraceByIdConfig = FrontendTraceByIdConfig::default(),
        /// TraceQL metrics.
        metrics: FrontendMetricsConfig = FrontendMetricsConfig::default(),
        /// Cost of queries.
        weights: WeightsConfig = WeightsConfig::default(),
    }

    /// `mcp_server`.
    pub struct McpServerConfig {
        /// Serve `/api/mcp`; tracing data then goes to a language model.
        enabled: bool = false,
    }

    /// `query_frontend.search`.
    pub struct FrontendSearchConfig {
        /// Jobs of a query at once; > 0.
        concurrent_jobs: usize = 1000,
        /// Bytes of a job; > 0.
        target_bytes_per_job: u64 = 104_857_600,
        /// Results without `limit`.
        default_result_limit: u32 = 20,
        /// Largest `limit`; 0: unlimited.
        max_result_limit: u32 = 262_144,
        /// Longest range; 0: unlimited.
        max_duration: GoDuration = GoDuration::hours(168),
        /// Newer data is taken from live-stores; at least `query_end_cutoff`.
        query_backend_after: GoDuration = GoDuration::minutes(15),
        /// Time shards of recent data.
        ingester_shards: usize = 3,
        /// Ordered shards; > 0.
        most_recent_shards: usize = 200,
        /// Spans per span set without `spss`.
        default_spans_per_span_set: u32 = 3,
        /// Largest `spss`; 0: unlimited.
        max_spans_per_span_set: u32 = 100,
        /// Accepted, no effect.
        timeout: GoDuration = GoDuration::ZERO,
        /// Service level of the duration; 0: none.
        duration_slo: GoDuration = GoDuration::ZERO,
        /// Service level of the throughput in bytes per second; 0: none.
        throughput_bytes_slo: f64 = 0.0,
        /// The same for tag queries.
        metadata_slo: SloConfig = SloConfig::default(),
    }

    /// A service level.
    pub struct SloConfig {
        /// Of the duration; 0: none.
        duration_slo: GoDuration = GoDuration::ZERO,
        /// Of the throughput in bytes per second; 0: none.
        throughput_bytes_slo: f64 = 0.0,
    }

    /// `query_frontend.trace_by_id`.
    pub struct FrontendTraceByIdConfig {
        /// 2 … 100000.
        query_shards: usize = 50,
        /// 0: `query_shards`.
        concurrent_shards: usize = 0,
        /// Blocks per shard; 0: fixed number of shards.
        blocks_per_shard: u32 = 30,
        /// Service level of the duration; 0: none.
        duration_slo: GoDuration = GoDuration::ZERO,
        /// Service level of the throughput in bytes per second; 0: none.
        throughput_bytes_slo: f64 = 0.0,
        /// Ask `querier.trace_by_id.external` too.
        external_enabled: bool = false,
        /// Experimental master switch.
        span_pruning_enabled: bool = false,
        /// Default of the request parameter.
        span_pruning_enabled_by_default: bool = false,
    }

    /// `query_frontend.metrics`.
    pub struct FrontendMetricsConfig {
        /// Jobs of a query at once; > 0.
        concurrent_jobs: usize = 1000,
        /// Bytes of a job; > 0.
        target_bytes_per_job: u64 = 104_857_600,
        /// Longest range; 0: unlimited.
        max_duration: GoDuration = GoDuration::hours(24),
        /// Newer data is taken from live-stores.
        query_backend_after: GoDuration = GoDuration::minutes(15),
        /// Alignment of jobs; > 0.
        interval: GoDuration = GoDuration::minutes(5),
        /// Exemplars of an answer.
        max_exemplars: u32 = 100,
        /// Series of an answer; 0: unlimited.
        max_response_series: usize = 0,
        /// Time shards of a streamed answer.
        streaming_shards: usize = 200,
        /// Range divided by step; 0: off.
        max_intervals: u64 = 10_000,
        /// Service level of the duration; 0: none.
        duration_slo: GoDuration = GoDuration::ZERO,
        /// Service level of the throughput in bytes per second; 0: none.
        throughput_bytes_slo: f64 = 0.0,
    }

    /// `query_frontend.weights`.
    pub struct WeightsConfig {
        /// Costly requests count more.
        request_with_weights: bool = true,
        /// Retries count more.
        retry_with_weights: bool = true,
        /// Conditions per weight step.
        max_traceql_conditions: usize = 4,
        /// Regular expressions per weight step.
        max_regex_conditions: usize = 1,
    }
}

impl QueryFrontendConfig {
    /// Returns the start errors of this block, in the compatible system's words.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, text: String| {
            if !holds {
                problems.push(text);
            }
        };
        let fixed = str::to_owned;
        require(
            (2..=100_000).contains(&self.trace_by_id.query_shards),
            fixed("frontend query shards should be between 2 and 100000 (both inclusive)"),
        );
        require(self.search.concurrent_jobs > 0, fixed("frontend search concurrent requests should be greater than 0"));
        require(self.search.target_bytes_per_job > 0, fixed("frontend search target bytes per request should be greater than 0"));
        require(self.search.most_recent_shards > 0, fixed("most recent shards must be greater than 0"));
        require(self.metrics.concurrent_jobs > 0, fixed("frontend metrics concurrent requests should be greater than 0"));
        require(self.metrics.target_bytes_per_job > 0, fixed("frontend metrics target bytes per request should be greater than 0"));
        require(self.metrics.interval > GoDuration::ZERO, fixed("frontend metrics interval should be greater than 0"));
        for backend_after in [self.search.query_backend_after, self.metrics.query_backend_after] {
            require(
                backend_after >= self.query_end_cutoff,
                format!("QueryBackendAfter ({backend_after}) must be greater than query end cutoff ({})", self.query_end_cutoff),
            );
        }
        problems
    }
}
