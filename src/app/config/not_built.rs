//! Keys that parse but have no effect: because the feature does not exist yet, or because it has none in the compatible system either.

use crate::base::yaml::node::{Node, Path};

/// Keys of features that do not exist yet, by prefix. One warning each when something below is set away from its default. Building a feature
/// removes its lines here; a test lists what is left.
pub(super) const NOT_BUILT_YET: &[&str] = &[
    "internal_server",
    "server.http_listen_conn_limit",
    "server.grpc_listen_conn_limit",
    "server.proxy_protocol_enabled",
    "server.tls_cipher_suites",
    "server.tls_min_version",
    "server.http_tls_config",
    "server.grpc_tls_config",
    "server.report_grpc_codes_in_instrumentation_label_enabled",
    "server.http_log_closed_connections_without_response_enabled",
    "server.grpc_server_num_workers",
    "server.log_source_ips_enabled",
    "server.log_source_ips_full",
    "server.log_source_ips_header",
    "server.log_source_ips_regex",
    "server.log_request_headers",
    "server.log_request_at_info_level_enabled",
    "server.log_request_exclude_headers_list",
    "server.trace_request_headers",
    "server.trace_request_exclude_headers_list",
    "server.cluster_validation",
    "server.create_new_traces",
    "server.http_server_read_timeout",
    "server.http_server_read_header_timeout",
    "server.http_server_write_timeout",
    "server.http_server_idle_timeout",
    "server.grpc_server_max_recv_msg_size",
    "server.grpc_server_max_send_msg_size",
    "server.grpc_server_max_concurrent_streams",
    "server.grpc_server_max_connection_idle",
    "server.grpc_server_max_connection_age",
    "server.grpc_server_max_connection_age_grace",
    "server.grpc_server_keepalive_time",
    "server.grpc_server_keepalive_timeout",
    "server.grpc_server_min_time_between_pings",
    "server.grpc_server_ping_without_stream_allowed",
    "memory",
    "span_profiling",
    "stream_over_http_enabled",
    "distributor.ring",
    "distributor.receivers.jaeger",
    "distributor.receivers.zipkin",
    "distributor.receivers.kafka",
    "distributor.receivers.otlp.protocols.grpc.tls",
    "distributor.receivers.otlp.protocols.http.tls",
    "distributor.override_ring_key",
    "distributor.log_received_spans",
    "distributor.log_discarded_spans",
    "distributor.metric_received_spans",
    "distributor.forwarders",
    "distributor.usage",
    "distributor.kafka_config",
    "distributor.ingester_write_path_enabled",
    "distributor.kafka_write_path_enabled",
    "distributor.extend_writes",
    "ingest.enabled",
    "ingest.kafka",
    "live_store.ring",
    "live_store.partition_ring",
    "live_store.commit_interval",
    "live_store.query_block_concurrency",
    "live_store.complete_block_timeout",
    "live_store.block_reclaim_grace",
    "live_store.flush_op_timeout",
    "live_store.wal.ingestion_time_range_slack",
    "storage.trace.wal.ingestion_time_range_slack",
    "live_store.remove_owner_on_shutdown",
    "live_store.readiness_max_wait",
    "live_store.readiness_target_lag",
    "live_store.fail_on_high_lag",
    "live_store_client",
    "querier.trace_by_id.external",
    "querier.partition_ring",
    "querier.frontend_worker",
    "querier.shuffle_sharding_ingesters_enabled",
    "querier.shuffle_sharding_ingesters_lookback_period",
    "querier.query_relevant_ingesters",
    "querier.secondary_ingester_ring",
    "querier.query_live_store",
    "query_frontend.allowed_headers",
    "query_frontend.log_query_request_headers",
    "query_frontend.mcp_server",
    "query_frontend.metrics.streaming_shards",
    "query_frontend.weights",
    "query_frontend.trace_by_id.external_enabled",
    "query_frontend.trace_by_id.span_pruning_enabled",
    "query_frontend.trace_by_id.span_pruning_enabled_by_default",
    "metrics_generator",
    "block_builder",
    "ingester",
    "ingester_client",
    "compactor",
    "storage.trace.pool",
    "storage.trace.block.parquet_row_group_size_bytes",
    "storage.trace.search.read_buffer_count",
    "memberlist",
    "backend_scheduler_client.grpc_client_config.rate_limit",
    "backend_scheduler_client.grpc_client_config.rate_limit_burst",
    "backend_scheduler_client.grpc_client_config.backoff_on_ratelimits",
    "backend_scheduler_client.grpc_client_config.backoff_config",
    "backend_scheduler_client.grpc_client_config.initial_stream_window_size",
    "backend_scheduler_client.grpc_client_config.initial_connection_window_size",
    "backend_scheduler_client.grpc_client_config.tls_cert_path",
    "backend_scheduler_client.grpc_client_config.tls_key_path",
    "backend_scheduler_client.grpc_client_config.tls_ca_path",
    "backend_scheduler_client.grpc_client_config.tls_server_name",
    "backend_scheduler_client.grpc_client_config.tls_insecure_skip_verify",
    "backend_scheduler_client.grpc_client_config.tls_cipher_suites",
    "backend_scheduler_client.grpc_client_config.tls_min_version",
    "backend_scheduler_client.grpc_client_config.connect_backoff_base_delay",
    "backend_scheduler_client.grpc_client_config.connect_backoff_max_delay",
    "backend_scheduler_client.grpc_client_config.cluster_validation",
    "backend_worker.override_ring_key",
    "backend_worker.ring",
    "overrides.user_configurable_overrides",
    "overrides.defaults.metrics_generator",
    "overrides.defaults.forwarders",
    "overrides.defaults.cost_attribution",
    "overrides.defaults.gateway",
    "overrides.defaults.adaptive_traces",
    "overrides.defaults.read.span_pruning_enabled",
    "auth",
    "gateway",
    "lbac",
    "admin_api",
    "admin_client",
    "tokengen",
    "audit",
    "usage",
    "license",
    "otlp_gateway",
    "adaptive_traces",
    "ui",
];

/// Keys whose values are only partly built: key, values that work.
pub(super) const BUILT_VALUES: &[(&str, &[&str])] =
    &[("target", &["all", "all-3.0", "backend-scheduler", "backend-worker"]), ("overrides.defaults.ingestion.rate_strategy", &["local"])];

/// Keys that have no effect in the compatible system either, or that tempo-rs never gives one.
pub(super) const INERT: &[&str] = &[
    "enable_go_runtime_metrics",
    "live_store.shutdown_marker_dir",
    "metrics_generator_client",
    "server.grpc_server_recv_buffer_pools_enabled",
    "ingest.kafka.consumer_group_offset_commit_interval",
    "ingest.kafka.target_consumer_lag_at_startup",
    "ingest.kafka.max_consumer_lag_at_startup",
    "querier.extra_query_delay",
    "querier.metrics.concurrent_blocks",
    "querier.metrics.time_overlap_cutoff",
    "live_store.metrics.time_overlap_cutoff",
    "query_frontend.metrics.query_backend_after",
    "query_frontend.metrics.interval",
    "backend_scheduler.provider.compaction.compaction.max_time_per_tenant",
    "backend_scheduler.provider.compaction.compaction.compaction_cycle",
    "backend_scheduler.provider.compaction.compaction.compacted_block_retention",
    "backend_scheduler.provider.compaction.compaction.retention_concurrency",
    "backend_worker.compaction.max_time_per_tenant",
    "backend_worker.compaction.compaction_cycle",
    "backend_worker.compaction.compaction_window",
    "backend_worker.compaction.max_compaction_objects",
    "backend_worker.compaction.max_block_bytes",
    "query_frontend.search.timeout",
    "query_frontend.rf1_after",
    "storage.trace.search.chunk_size_bytes",
    "storage.trace.search.prefetch_trace_count",
    "storage.trace.s3.native_aws_auth_enabled",
    "usage_report",
];

/// Returns one text per entry of [`NOT_BUILT_YET`] and [`BUILT_VALUES`] that `config` uses.
pub(super) fn unbuilt_in_use(config: &Node, defaults: &Node) -> Vec<String> {
    let changed = changed_keys(config, defaults);
    let mut texts = Vec::new();
    for prefix in NOT_BUILT_YET {
        let keys: Vec<&str> = changed.iter().map(String::as_str).filter(|key| is_below(key, prefix)).collect();
        if !keys.is_empty() {
            texts.push(format!("not supported yet, has no effect: {}", keys.join(", ")));
        }
    }
    for (key, values) in BUILT_VALUES {
        if let Some(Node::Text(value)) = config.at(&Path::dotted(key)) {
            // A target may be a list.
            for value in value.split(',').map(str::trim).filter(|value| !values.contains(value)) {
                texts.push(format!("not supported yet: {key}: {value}"));
            }
        }
    }
    texts
}

/// Returns the keys without effect that `config` sets.
pub(super) fn inert_in_use(config: &Node, defaults: &Node) -> Vec<String> {
    let changed = changed_keys(config, defaults);
    changed.into_iter().filter(|key| INERT.iter().any(|prefix| is_below(key, prefix))).collect()
}

fn changed_keys(config: &Node, defaults: &Node) -> Vec<String> {
    let mut keys = Vec::new();
    if let Some(difference) = config.difference(defaults) {
        difference.for_each_leaf(&Path::default(), &mut |path, _| keys.push(path.to_string()));
    }
    keys
}

fn is_below(key: &str, prefix: &str) -> bool {
    key.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::config::Config;

    /// Keys that are absent from the serialised defaults because they are optional.
    const OPTIONAL: &[&str] = &[
        "distributor.kafka_config",
        "distributor.receivers.jaeger",
        "distributor.receivers.zipkin",
        "distributor.receivers.kafka",
        "distributor.receivers.otlp.protocols.grpc.tls",
        "distributor.receivers.otlp.protocols.http.tls",
        "distributor.ingester_write_path_enabled",
        "distributor.kafka_write_path_enabled",
        "ingest.enabled",
        "querier.query_live_store",
        "metrics_generator_client",
        "query_frontend.rf1_after",
        "overrides.defaults.gateway",
        "overrides.defaults.adaptive_traces",
        "overrides.defaults.read.span_pruning_enabled",
    ];

    #[test]
    fn what_is_left_is_listed_and_exists() {
        let defaults = Node::of(&Config::default()).unwrap();
        for key in NOT_BUILT_YET.iter().chain(INERT).chain(BUILT_VALUES.iter().map(|(key, _)| key)) {
            println!("{key}");
            assert!(defaults.at(&Path::dotted(key)).is_some() || OPTIONAL.contains(key), "{key} is no key");
        }
    }

    #[test]
    fn prefixes_end_at_keys() {
        assert!(is_below("a.b", "a") && is_below("a[0]", "a") && is_below("a", "a") && !is_below("ab", "a"));
    }
}
