//! `querier:`.

use crate::base::backoff::BackoffConfig;
use crate::base::config_block::config_block;
use crate::base::duration::GoDuration;
use crate::base::hostname::hostname;
use crate::base::size::ByteSize;
use crate::services::grpc_client::config::GrpcClientConfig;

config_block! {
    /// `querier:`.
    pub struct QuerierConfig {
        /// Search, tags and metrics jobs.
        search: QuerierSearchConfig = QuerierSearchConfig::default(),
        /// Traces by id.
        trace_by_id: QuerierTraceByIdConfig = QuerierTraceByIdConfig::default(),
        /// TraceQL metrics.
        metrics: QuerierMetricsConfig = QuerierMetricsConfig::default(),
        /// How live-stores are asked.
        partition_ring: QuerierPartitionRingConfig = QuerierPartitionRingConfig::default(),
        /// Accepted, no effect.
        extra_query_delay: GoDuration = GoDuration::ZERO,
        /// Jobs at once.
        max_concurrent_queries: usize = 20,
        /// Connection to query-frontends.
        frontend_worker: FrontendWorkerConfig = FrontendWorkerConfig::default(),
        /// Classic path: ask only the tenant's ingesters.
        shuffle_sharding_ingesters_enabled: bool = false,
        /// Classic path: how far back a tenant's shard may have differed.
        shuffle_sharding_ingesters_lookback_period: GoDuration = GoDuration::hours(1),
        /// Classic path: ask only ingesters that may hold a trace.
        query_relevant_ingesters: bool = false,
        /// Classic path: key of a second ingester ring.
        secondary_ingester_ring: String = String::new(),
        /// 2.x: ask live-stores. Absent: decided by the target.
        #[serde(skip_serializing_if = "Option::is_none")]
        query_live_store: Option<bool> = None,
    }

    /// `querier.search`.
    pub struct QuerierSearchConfig {
        /// Limit of a job; also for tags and metrics.
        query_timeout: GoDuration = GoDuration::seconds(30),
    }

    /// `querier.trace_by_id`.
    pub struct QuerierTraceByIdConfig {
        /// Limit of a job.
        query_timeout: GoDuration = GoDuration::seconds(10),
        /// A second source of traces.
        external: ExternalTracesConfig = ExternalTracesConfig::default(),
    }

    /// `querier.trace_by_id.external`.
    pub struct ExternalTracesConfig {
        /// Base URL; empty: none.
        endpoint: String = String::new(),
        /// Limit of a request.
        timeout: GoDuration = GoDuration::seconds(10),
    }

    /// `querier.metrics`.
    pub struct QuerierMetricsConfig {
        /// Accepted, no effect.
        concurrent_blocks: usize = 2,
        /// 0 … 1; below it trace time columns are skipped.
        time_overlap_cutoff: f64 = 0.2,
    }

    /// `querier.partition_ring`.
    pub struct QuerierPartitionRingConfig {
        /// Ask one owner per partition first.
        minimize_requests: bool = true,
        /// Then ask the next one after this time.
        hedging_delay: GoDuration = GoDuration::seconds(3),
        /// Zone that is asked first.
        preferred_zone: String = String::new(),
    }

    /// `querier.frontend_worker`.
    pub struct FrontendWorkerConfig {
        /// Required unless the frontend runs in the same process.
        frontend_address: String = String::new(),
        /// Interval of discovery.
        dns_lookup_duration: GoDuration = GoDuration::seconds(10),
        /// Streams per frontend unless `match_max_concurrent`.
        parallelism: usize = 2,
        /// Spread `max_concurrent_queries` over the frontends.
        match_max_concurrent: bool = true,
        /// Name shown to frontends.
        id: String = hostname(),
        /// Connection settings.
        grpc_client_config: GrpcClientConfig = GrpcClientConfig {
            max_send_msg_size: 16_777_216,
            backoff_config: BackoffConfig::with(GoDuration::millis(100), GoDuration::seconds(1), 5),
            initial_stream_window_size: ByteSize(0),
            initial_connection_window_size: ByteSize(0),
            connect_timeout: GoDuration::ZERO,
            connect_backoff_base_delay: GoDuration::ZERO,
            connect_backoff_max_delay: GoDuration::ZERO,
            ..GrpcClientConfig::default()
        },
    }
}
