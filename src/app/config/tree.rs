//! The whole configuration.

use crate::app::config::server::ServerConfig;
use crate::base::config_block::{config_block, text};
use crate::base::duration::GoDuration;
use crate::base::yaml::FreeForm;
use crate::modules::backend_scheduler::config::{BackendSchedulerClientConfig, BackendSchedulerConfig};
use crate::modules::backend_worker::config::BackendWorkerConfig;
use crate::modules::block_builder::config::BlockBuilderConfig;
use crate::modules::compactor::config::CompactorConfig;
use crate::modules::distributor::config::DistributorConfig;
use crate::modules::ingester::config::IngesterConfig;
use crate::modules::live_store::config::LiveStoreConfig;
use crate::modules::metrics_generator::config::MetricsGeneratorConfig;
use crate::modules::querier::config::QuerierConfig;
use crate::modules::query_frontend::config::QueryFrontendConfig;
use crate::services::cache::config::CacheConfig;
use crate::services::ingest_log::config::IngestConfig;
use crate::services::live_store_client::config::RingClientConfig;
use crate::services::memberlist::config::MemberlistConfig;
use crate::services::overrides::config::OverridesConfig;
use crate::services::usage_report::config::UsageReportConfig;
use crate::tempodb::config::StorageConfig;

use super::reserved;

config_block! {
    /// The configuration file.
    pub struct Config {
        /// Module to run, or several separated by commas.
        target: String = text("all"),
        /// Prefix of API routes.
        http_api_prefix: String = String::new(),
        /// Require `X-Scope-OrgID`; otherwise the tenant is `single-tenant`.
        multitenancy_enabled: bool = false,
        /// Deprecated alias of the above; either one enables.
        auth_enabled: bool = false,
        /// Not-ready pause before stopping.
        shutdown_delay: GoDuration = GoDuration::ZERO,
        /// Serve gRPC on the HTTP port too.
        stream_over_http_enabled: bool = false,
        /// More runtime metrics.
        enable_go_runtime_metrics: bool = false,
        /// Link own profiles to own spans.
        span_profiling: bool = false,
        /// Memory budget.
        memory: MemoryConfig = MemoryConfig::default(),
        /// Identity of this cluster in realms and licences.
        cluster_name: String = text("tempo"),
        /// HTTP and gRPC servers.
        server: ServerConfig = ServerConfig::default(),
        /// Readiness on a port of its own.
        internal_server: ServerConfig = ServerConfig::internal(),
        /// Intake.
        distributor: DistributorConfig = DistributorConfig::default(),
        /// Connections to live-stores.
        live_store_client: RingClientConfig = RingClientConfig::default(),
        /// Query execution.
        querier: QuerierConfig = QuerierConfig::default(),
        /// Query sharding.
        query_frontend: QueryFrontendConfig = QueryFrontendConfig::default(),
        /// Metrics from spans.
        metrics_generator: MetricsGeneratorConfig = MetricsGeneratorConfig::default(),
        /// Deprecated since 3.0, accepted and ignored.
        #[serde(skip_serializing_if = "Option::is_none")]
        metrics_generator_client: Option<FreeForm> = None,
        /// The log between distributor and consumers.
        ingest: IngestConfig = IngestConfig::default(),
        /// Log to blocks.
        block_builder: BlockBuilderConfig = BlockBuilderConfig::default(),
        /// Recent data.
        live_store: LiveStoreConfig = LiveStoreConfig::default(),
        /// Classic: recent data, replicated.
        ingester: IngesterConfig = IngesterConfig::default(),
        /// Classic: connections to ingesters.
        ingester_client: RingClientConfig = RingClientConfig::default(),
        /// Classic: ring-owned compaction.
        compactor: CompactorConfig = CompactorConfig::default(),
        /// Blocks.
        storage: StorageConfig = StorageConfig::default(),
        /// Per-tenant limits.
        overrides: OverridesConfig = OverridesConfig::default(),
        /// Gossip.
        memberlist: MemberlistConfig = MemberlistConfig::default(),
        /// Accepted; nothing is reported.
        usage_report: UsageReportConfig = UsageReportConfig::default(),
        /// Caches.
        cache: CacheConfig = CacheConfig::default(),
        /// Planning of compaction and retention.
        backend_scheduler: BackendSchedulerConfig = BackendSchedulerConfig::default(),
        /// Connection to the scheduler.
        backend_scheduler_client: BackendSchedulerClientConfig = BackendSchedulerClientConfig::default(),
        /// Execution of compaction and retention.
        backend_worker: BackendWorkerConfig = BackendWorkerConfig::default(),
        /// Authentication. This and the blocks below: keys and defaults of `reserved.yaml`, none of them has an effect yet.
        auth: FreeForm = reserved::block("auth"),
        /// Reverse proxy.
        gateway: FreeForm = reserved::block("gateway"),
        /// Label-based access.
        lbac: FreeForm = reserved::block("lbac"),
        /// Administration.
        admin_api: FreeForm = reserved::block("admin_api"),
        /// Store of administration.
        admin_client: FreeForm = reserved::block("admin_client"),
        /// Token generator.
        tokengen: FreeForm = reserved::block("tokengen"),
        /// Audit log.
        audit: FreeForm = reserved::block("audit"),
        /// Billing.
        usage: FreeForm = reserved::block("usage"),
        /// Licence.
        license: FreeForm = reserved::block("license"),
        /// OTLP gateway.
        otlp_gateway: FreeForm = reserved::block("otlp_gateway"),
        /// Sampling.
        adaptive_traces: FreeForm = reserved::block("adaptive_traces"),
        /// Web UI.
        ui: FreeForm = reserved::block("ui"),
    }

    /// `memory:`.
    pub struct MemoryConfig {
        /// Accepted: the memory budget always exists.
        automemlimit_enabled: bool = false,
        /// Share of the cgroup's (else the machine's) memory that is used.
        automemlimit_ratio: f64 = 0.8,
    }
}

impl Config {
    /// True when requests must name their tenant.
    pub fn is_multitenant(&self) -> bool {
        self.multitenancy_enabled || self.auth_enabled
    }
}
