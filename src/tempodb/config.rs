//! `storage.trace:` and the storage settings that roles carry in their own blocks (WAL, compaction).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::config_block::{config_block, text};
use crate::base::duration::GoDuration;
use crate::base::secret::Secret;
use crate::base::tls::impl_client_tls;

config_block! {
    /// `storage:`.
    pub struct StorageConfig {
        /// Trace storage.
        trace: TraceStorageConfig = TraceStorageConfig::default(),
    }

    /// `storage.trace:`.
    pub struct TraceStorageConfig {
        /// `local`, `gcs`, `s3` or `azure`.
        backend: String = String::new(),
        /// Job pool (querier, `all`).
        pool: PoolConfig = PoolConfig::default(),
        /// Write-ahead log directory of roles that do not name their own.
        wal: WalConfig = WalConfig::at("/var/tempo/wal"),
        /// How blocks are written.
        block: BlockConfig = BlockConfig::default(),
        /// How blocks are read.
        search: BlockSearchConfig = BlockSearchConfig::default(),
        /// Interval of re-reading the block list.
        blocklist_poll: GoDuration = GoDuration::minutes(5),
        /// Blocks read in parallel per tenant; 0: 50.
        blocklist_poll_concurrency: usize = 50,
        /// Tenants polled in parallel; 0: 1.
        blocklist_poll_tenant_concurrency: usize = 0,
        /// List the backend when a tenant index is unusable.
        blocklist_poll_fallback: bool = true,
        /// Members that build tenant indexes.
        blocklist_poll_tenant_index_builders: usize = 2,
        /// Older indexes are not used; 0: any age.
        blocklist_poll_stale_tenant_index: GoDuration = GoDuration::ZERO,
        /// Random delay between block reads, in milliseconds.
        blocklist_poll_jitter_ms: u64 = 0,
        /// Failed polls in a row per tenant before the poll counts as failed.
        blocklist_poll_tolerate_consecutive_errors: u32 = 1,
        /// Tenants that may fail in a poll.
        blocklist_poll_tolerate_tenant_failures: u32 = 1,
        /// Delete what is left of tenants without blocks.
        empty_tenant_deletion_enabled: bool = false,
        /// Age of that; 0: 12h.
        empty_tenant_deletion_age: GoDuration = GoDuration::ZERO,
        /// Legacy: `memcached` or `redis`; use `cache:`.
        cache: String = String::new(),
        /// Legacy: writing behind.
        background_cache: BackgroundCacheConfig = BackgroundCacheConfig::default(),
        /// Legacy cache client.
        #[serde(skip_serializing_if = "Option::is_none")]
        memcached: Option<MemcachedConfig> = None,
        /// Legacy cache client.
        #[serde(skip_serializing_if = "Option::is_none")]
        redis: Option<RedisConfig> = None,
        /// Above 0: bloom filters are cached only for blocks up to this compaction level.
        cache_min_compaction_level: u8 = 0,
        /// Bloom filters are cached only for younger blocks; 0: for all.
        cache_max_block_age: GoDuration = GoDuration::ZERO,
        /// Backend `local`.
        local: LocalBackendConfig = LocalBackendConfig::default(),
        /// Backend `gcs`.
        gcs: GcsBackendConfig = GcsBackendConfig::default(),
        /// Backend `s3`.
        s3: S3BackendConfig = S3BackendConfig::default(),
        /// Backend `azure`.
        azure: AzureBackendConfig = AzureBackendConfig::default(),
    }

    /// `storage.trace.pool`.
    pub struct PoolConfig {
        /// Jobs run at once.
        max_workers: usize = 400,
        /// Jobs waiting.
        queue_depth: usize = 20_000,
    }

    /// A write-ahead log. Its format follows `storage.trace.block.version`.
    pub struct WalConfig {
        /// Directory, exclusively locked.
        path: String = String::new(),
        /// Span times further from now than this do not widen the start and end of a block.
        ingestion_time_range_slack: GoDuration = GoDuration::minutes(2),
    }

    /// `storage.trace.block`.
    pub struct BlockConfig {
        /// Between 0 and 1, both excluded.
        bloom_filter_false_positive: f64 = 0.01,
        /// Size of one bloom filter shard.
        bloom_filter_shard_size_bytes: u64 = 102_400,
        /// Write format: `vParquet4` or `vParquet5`.
        version: String = text("vParquet5"),
        /// Estimated bytes of a row group.
        parquet_row_group_size_bytes: u64 = 100_000_000,
        /// Attributes with a column of their own; a list in the file replaces the default one.
        parquet_dedicated_columns: Vec<DedicatedColumnConfig> = DedicatedColumnConfig::default_list(),
    }

    /// `storage.trace.search`.
    pub struct BlockSearchConfig {
        /// Accepted, no effect.
        chunk_size_bytes: u64 = 1_000_000,
        /// Accepted, no effect.
        prefetch_trace_count: u64 = 1000,
        /// Read buffers per file.
        read_buffer_count: usize = 32,
        /// Size of a read buffer.
        read_buffer_size_bytes: u64 = 1_048_576,
        /// Legacy cache roles.
        cache_control: CacheControlConfig = CacheControlConfig::default(),
    }

    /// `storage.trace.search.cache_control`; errors without a legacy cache.
    pub struct CacheControlConfig {
        /// Cache Parquet footers.
        footer: bool = false,
        /// Cache column indexes.
        column_index: bool = false,
        /// Cache offset indexes.
        offset_index: bool = false,
    }

    /// Background writing of caches.
    pub struct BackgroundCacheConfig {
        /// Writers.
        writeback_goroutines: usize = 10,
        /// Batches of keys waiting; further ones are dropped.
        writeback_buffer: usize = 10_000,
    }

    /// A memcached client.
    pub struct MemcachedConfig {
        /// Host for SRV discovery.
        host: String = String::new(),
        /// SRV service name, usually `memcached`.
        service: String = String::new(),
        /// Comma-separated `host:port`, `dns+…`, `dnssrv+…`, `dnssrvnoa+…`; wins over `host`.
        addresses: String = String::new(),
        /// Limit of a request.
        timeout: GoDuration = GoDuration::millis(100),
        /// Limit for connecting; 0: `timeout`.
        connect_timeout: GoDuration = GoDuration::ZERO,
        /// Idle connections per server.
        max_idle_conns: usize = 100,
        /// Negative: idle connections are never closed.
        min_idle_conns_headroom_percentage: f64 = -1.0,
        /// Larger items are not stored; 0: unlimited.
        max_item_size: u64 = 0,
        /// Interval of discovery.
        update_interval: GoDuration = GoDuration::minutes(1),
        /// Jump hash over sorted servers.
        consistent_hash: bool = false,
        /// Failures in a row that open the circuit; 0: off.
        circuit_breaker_consecutive_failures: u32 = 0,
        /// Time the circuit stays open.
        circuit_breaker_timeout: GoDuration = GoDuration::ZERO,
        /// Interval after which the count starts anew.
        circuit_breaker_interval: GoDuration = GoDuration::ZERO,
        /// Use TLS.
        tls_enabled: bool = false,
        /// Client certificate file; needs the key too.
        tls_cert_path: String = String::new(),
        /// Key file of the client certificate.
        tls_key_path: String = String::new(),
        /// CA bundle; empty: system roots.
        tls_ca_path: String = String::new(),
        /// Expected name in the server certificate.
        tls_server_name: String = String::new(),
        /// Accept any server certificate.
        tls_insecure_skip_verify: bool = false,
        /// Restricts cipher suites, comma-separated IANA names.
        tls_cipher_suites: String = String::new(),
        /// `VersionTLS10` … `VersionTLS13`.
        tls_min_version: String = String::new(),
        /// Expiry; 0: none.
        ttl: GoDuration = GoDuration::ZERO,
    }

    /// A redis client.
    pub struct RedisConfig {
        /// Cluster seeds or the single node, comma-separated.
        endpoint: String = String::new(),
        /// Limit of a request; 0: 100ms.
        timeout: GoDuration = GoDuration::ZERO,
        /// Expiry; 0: `ttl`.
        expiration: GoDuration = GoDuration::ZERO,
        /// Database; single node only.
        db: u32 = 0,
        /// Connections.
        pool_size: usize = 0,
        /// Idle connections kept.
        min_idle_conns: usize = 0,
        /// User.
        username: String = String::new(),
        /// Password.
        password: Secret<String> = Secret::default(),
        /// False: cluster client.
        single_node: bool = false,
        /// Use TLS.
        tls_enabled: bool = false,
        /// Client certificate file; needs the key too.
        tls_cert_path: String = String::new(),
        /// Key file of the client certificate.
        tls_key_path: String = String::new(),
        /// CA bundle; empty: system roots.
        tls_ca_path: String = String::new(),
        /// Expected name in the server certificate.
        tls_server_name: String = String::new(),
        /// Accept any server certificate.
        tls_insecure_skip_verify: bool = false,
        /// Restricts cipher suites, comma-separated IANA names.
        tls_cipher_suites: String = String::new(),
        /// `VersionTLS10` … `VersionTLS13`.
        tls_min_version: String = String::new(),
        /// Idle connections are closed after this; 0: never.
        conn_max_idle_time: GoDuration = GoDuration::ZERO,
        /// Connections are closed after this; 0: never.
        conn_max_lifetime: GoDuration = GoDuration::ZERO,
        /// Read from the nearest node; cluster only.
        route_by_latency: bool = false,
        /// Read from a random node; cluster only.
        route_randomly: bool = false,
        /// Read from replicas; cluster only.
        read_only: bool = false,
        /// Redirects followed; 0: 3, -1: none.
        max_redirects: i32 = 0,
        /// Larger items are not stored; 0: unlimited.
        max_item_size: u64 = 0,
        /// Expiry; 0: none.
        ttl: GoDuration = GoDuration::ZERO,
    }

    /// `storage.trace.local`.
    pub struct LocalBackendConfig {
        /// Directory that holds a folder per tenant.
        path: String = String::new(),
    }

    /// `storage.trace.gcs`.
    pub struct GcsBackendConfig {
        /// Bucket.
        bucket_name: String = String::new(),
        /// Key prefix.
        prefix: String = String::new(),
        /// Bytes of an upload request.
        chunk_buffer_size: u64 = 10_485_760,
        /// Another API address.
        endpoint: String = String::new(),
        /// Delay of a second request; 0: none.
        hedge_requests_at: GoDuration = GoDuration::ZERO,
        /// Requests at once with hedging.
        hedge_requests_up_to: u32 = 2,
        /// No authentication, no certificate check.
        insecure: bool = false,
        /// Cache control of written objects.
        object_cache_control: String = String::new(),
        /// Metadata of written objects.
        object_metadata: BTreeMap<String, String> = BTreeMap::new(),
        /// Listings at once.
        list_blocks_concurrency: usize = 3,
        /// Attempts of deletions and markings.
        max_retries: u32 = 3,
    }

    /// `storage.trace.s3`.
    pub struct S3BackendConfig {
        /// Client certificate file; needs the key too.
        tls_cert_path: String = String::new(),
        /// Key file of the client certificate.
        tls_key_path: String = String::new(),
        /// CA bundle; empty: system roots.
        tls_ca_path: String = String::new(),
        /// Expected name in the server certificate.
        tls_server_name: String = String::new(),
        /// Accept any server certificate.
        tls_insecure_skip_verify: bool = false,
        /// Restricts cipher suites, comma-separated IANA names.
        tls_cipher_suites: String = String::new(),
        /// `VersionTLS10` … `VersionTLS13`.
        tls_min_version: String = text("VersionTLS12"),
        /// Bucket.
        bucket: String = String::new(),
        /// Key prefix.
        prefix: String = String::new(),
        /// `host[:port]` without scheme.
        endpoint: String = String::new(),
        /// Region.
        region: String = String::new(),
        /// Empty: credential chain.
        access_key: String = String::new(),
        /// Secret of `access_key`.
        secret_key: Secret<String> = Secret::default(),
        /// Session token of temporary credentials.
        session_token: Secret<String> = Secret::default(),
        /// Plain HTTP.
        insecure: bool = false,
        /// Bytes of an upload part; 0: library default.
        part_size: u64 = 0,
        /// Delay of a second request; 0: none.
        hedge_requests_at: GoDuration = GoDuration::ZERO,
        /// Requests at once with hedging.
        hedge_requests_up_to: u32 = 2,
        /// Attempts.
        retry_max_attempts: u32 = 10,
        /// First pause between attempts.
        retry_backoff_initial: GoDuration = GoDuration::millis(200),
        /// Longest pause between attempts.
        retry_backoff_max: GoDuration = GoDuration::seconds(1),
        /// Old request signing.
        signature_v2: bool = false,
        /// Path-style addressing.
        forcepathstyle: bool = false,
        /// IPv4 and IPv6 endpoints.
        enable_dual_stack: bool = false,
        /// 0: auto, 1: DNS, 2: path.
        bucket_lookup_type: u8 = 0,
        /// Tags of written objects.
        tags: BTreeMap<String, String> = BTreeMap::new(),
        /// Storage class of written objects.
        storage_class: String = String::new(),
        /// Metadata of written objects.
        metadata: BTreeMap<String, String> = BTreeMap::new(),
        /// Deprecated, no effect.
        native_aws_auth_enabled: bool = false,
        /// Listings at once.
        list_blocks_concurrency: usize = 3,
        /// Encryption at rest.
        sse: S3SseConfig = S3SseConfig::default(),
    }

    /// `storage.trace.s3.sse`.
    pub struct S3SseConfig {
        /// `SSE-KMS`, `SSE-S3`, `SSE-C`; empty: none.
        r#type: String = String::new(),
        /// Key id of SSE-KMS.
        kms_key_id: String = String::new(),
        /// Context of SSE-KMS, JSON.
        kms_encryption_context: String = String::new(),
        /// Key of SSE-C.
        encryption_key: Secret<String> = Secret::default(),
    }

    /// `storage.trace.azure`.
    pub struct AzureBackendConfig {
        /// Account.
        storage_account_name: String = String::new(),
        /// Account key.
        storage_account_key: Secret<String> = Secret::default(),
        /// Use the machine's managed identity.
        use_managed_identity: bool = false,
        /// Use a federated token.
        use_federated_token: bool = false,
        /// Id of a user-assigned identity.
        user_assigned_id: String = String::new(),
        /// Container.
        container_name: String = String::new(),
        /// Key prefix.
        prefix: String = String::new(),
        /// Domain of the account.
        endpoint_suffix: String = text("blob.core.windows.net"),
        /// Upload buffers.
        max_buffers: usize = 4,
        /// Size of an upload buffer.
        buffer_size: u64 = 3_145_728,
        /// Delay of a second request; 0: none.
        hedge_requests_at: GoDuration = GoDuration::ZERO,
        /// Requests at once with hedging.
        hedge_requests_up_to: u32 = 2,
    }

    /// Compaction and retention (`backend_worker.compaction`, `backend_scheduler.provider.compaction.compaction`, `compactor.compaction`).
    pub struct CompactionConfig {
        /// Time bucket within which blocks merge; 0 is an error.
        compaction_window: GoDuration = GoDuration::hours(1),
        /// Most traces per output block.
        max_compaction_objects: u64 = 6_000_000,
        /// Largest output block.
        max_block_bytes: u64 = 107_374_182_400,
        /// Age of deletion.
        block_retention: GoDuration = GoDuration::hours(336),
        /// Time replaced blocks are kept.
        compacted_block_retention: GoDuration = GoDuration::hours(1),
        /// Parallel retention workers; 0: 10, with a warning.
        retention_concurrency: usize = 10,
        /// Length of a tenant's turn; only the classic compaction loop.
        max_time_per_tenant: GoDuration = GoDuration::minutes(5),
        /// Pause between rounds; only the classic compaction loop.
        compaction_cycle: GoDuration = GoDuration::seconds(30),
    }
}

impl_client_tls!(S3BackendConfig, MemcachedConfig, RedisConfig);

impl WalConfig {
    /// A log with a default directory.
    pub fn at(path: &str) -> Self {
        Self { path: text(path), ..Self::default() }
    }
}

/// An attribute with a column of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DedicatedColumnConfig {
    /// `resource`, `span` or `event`.
    pub scope: String,
    /// Attribute name without scope.
    pub name: String,
    /// `string` or `int`.
    pub r#type: String,
    /// `array`, `blob`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// Most dedicated columns per type and scope; further ones are ignored with a warning.
const MAX_DEDICATED_COLUMNS: [(&str, usize); 2] = [("string", 20), ("int", 5)];

impl DedicatedColumnConfig {
    fn default_list() -> Vec<Self> {
        [
            ("resource", "k8s.cluster.name", "string"),
            ("resource", "k8s.namespace.name", "string"),
            ("resource", "k8s.pod.name", "string"),
            ("resource", "k8s.container.name", "string"),
            ("span", "http.request.method", "string"),
            ("span", "http.response.status_code", "int"),
            ("span", "url.path", "string"),
            ("span", "url.route", "string"),
            ("span", "server.address", "string"),
            ("span", "server.port", "int"),
            ("span", "http.method", "string"),
            ("span", "http.url", "string"),
            ("span", "http.route", "string"),
            ("span", "http.status_code", "int"),
        ]
        .into_iter()
        .map(|(scope, name, kind)| Self { scope: text(scope), name: text(name), r#type: text(kind), options: Vec::new() })
        .collect()
    }

    /// Returns the first defect of a list, in the compatible system's words.
    pub fn validate_list(columns: &[Self]) -> Result<(), String> {
        const PREFIX: &str = "invalid dedicated attribute columns";
        let mut seen = std::collections::BTreeSet::new();
        for column in columns {
            if column.name.is_empty() {
                return Err(format!("{PREFIX}: empty name"));
            }
            if !["string", "int"].contains(&column.r#type.as_str()) {
                return Err(format!("{PREFIX}: unsupported dedicated column type '{}'", column.r#type));
            }
            if !["resource", "span", "event"].contains(&column.scope.as_str()) {
                return Err(format!("{PREFIX}: unsupported dedicated column scope '{}'", column.scope));
            }
            if let Some(option) = column.options.iter().find(|option| !["array", "blob"].contains(&option.as_str())) {
                return Err(format!("{PREFIX}: invalid option '{option}'"));
            }
            if !seen.insert((&column.scope, &column.name)) {
                return Err(format!("{PREFIX}: duplicate name '{}' for scope '{}'", column.name, column.scope));
            }
        }
        Ok(())
    }

    /// Returns one text per (type, scope) with more columns than can be stored; the surplus is ignored.
    pub fn surplus(columns: &[Self]) -> Vec<String> {
        let mut warnings = Vec::new();
        for scope in ["resource", "span", "event"] {
            for (kind, max) in MAX_DEDICATED_COLUMNS {
                let count = columns.iter().filter(|column| column.scope == scope && column.r#type == kind).count();
                if count > max {
                    warnings.push(format!(
                        "invalid dedicated attribute columns: number of columns with type '{kind}' and scope '{scope}' must be <= {max} but was {count}"
                    ));
                }
            }
        }
        warnings
    }
}
