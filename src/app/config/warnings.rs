//! Settings that are legal but hardly right. `-config.verify` fails on any of them.

use crate::app::config::Config;
use crate::app::config::targets::Targets;
use crate::base::duration::GoDuration;
use crate::modules::query_frontend::config::AST_TRANSFORMATIONS;
use crate::tempodb::config::DedicatedColumnConfig;

/// Something the operator should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub message: String,
    /// More words; may be empty.
    pub explain: String,
}

impl Warning {
    pub(super) fn new(message: impl Into<String>, explain: impl Into<String>) -> Self {
        Self { message: message.into(), explain: explain.into() }
    }
}

/// Returns the warnings about a decoded configuration, in the order and words of the compatible system, then our own.
pub(super) fn collect(config: &Config, targets: &Targets, is_legacy_overrides: bool) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |holds: bool, message: &str, explain: &str| {
        if holds {
            warnings.push(Warning::new(message, explain));
        }
    };
    let trace = &config.storage.trace;
    warn(
        config.live_store.complete_block_timeout < trace.blocklist_poll,
        "live_store.complete_block_timeout < storage.trace.blocklist_poll",
        "traces may be missing between the flush of a block and the next poll",
    );
    warn(
        config.backend_worker.compaction.block_retention < trace.blocklist_poll,
        "backend_worker.compaction.compacted_block_timeout < storage.trace.blocklist_poll",
        "queriers may read blocks that are deleted already",
    );
    warn(
        config.backend_worker.compaction.retention_concurrency == 0,
        "backend_worker.Compactor.RetentionConcurrency must be greater than zero. Using default.",
        "default=10",
    );
    warn(
        trace.blocklist_poll_concurrency == 0,
        "c.StorageConfig.Trace.BlocklistPollConcurrency must be greater than zero. Using default.",
        "default=50",
    );
    warn(
        config.distributor.log_received_spans.enabled,
        "Span logging is enabled. This is for debugging only and not recommended for production deployments.",
        "",
    );
    warn(
        config.distributor.log_discarded_spans.enabled,
        "Span logging for discarded traces is enabled. This is for debugging only and not recommended for production deployments.",
        "",
    );
    warn(
        trace.backend == "local" && !targets.is_all(),
        "Local backend will not correctly retrieve traces with a distributed deployment unless all components have access to the same disk. You should probably be using object storage as a backend.",
        "",
    );
    warn(
        config.query_frontend.mcp_server.enabled,
        "c.Frontend.MCPServer.Enabled is enabled.",
        "tracing data is passed to a language model",
    );
    let columns = &trace.block.parquet_dedicated_columns;
    if let Err(text) = DedicatedColumnConfig::validate_list(columns) {
        warn(true, &text, "Tempo will not start with an invalid dedicated attribute column configuration");
    }
    for text in DedicatedColumnConfig::surplus(columns) {
        warn(true, &text, "the surplus is ignored");
    }
    warn(has_storage_conflict(config), "Trace storage conflicts with user-configurable overrides storage", "");
    warn(
        is_legacy_overrides,
        "DEPRECATED: Legacy (flat, unscoped) overrides format is in use and will be removed in a future release.",
        "set overrides.enable_legacy_overrides: true to keep using it for now",
    );
    warn(
        trace.backend == "s3" && trace.s3.native_aws_auth_enabled,
        "c.StorageConfig.Trace.S3.NativeAWSAuthEnabled is deprecated and will be removed in a future release.",
        "the key has no effect",
    );
    warn(
        !trace.cache.is_empty(),
        "c.StorageConfig.Trace.Cache is deprecated and will be removed in a future release.",
        "use the cache block",
    );
    let by_id = &config.query_frontend.trace_by_id;
    warn(
        by_id.concurrent_shards > by_id.query_shards,
        "c.Frontend.TraceByID.ConcurrentShards greater than query_shards is invalid. concurrent_shards will be set to query_shards",
        "",
    );
    warn(
        config.backend_scheduler.work.prune_age.as_nanos() <= trace.blocklist_poll.as_nanos().saturating_mul(2),
        "c.BackendScheduler.Work.PruneAge must be greater than 2x the storage.trace.blocklist_poll duration",
        "jobs may be forgotten before their result is seen",
    );
    warn(
        !config.block_builder.assigned_partitions.is_empty() && config.block_builder.partitions_per_instance > 0,
        "Block-builder partition assigment is configured by c.BlockBuilder.PartitionAssigment and c.BlockBuilder.PartitionsPerInstance",
        "the assigned partitions win",
    );
    for name in config.query_frontend.skip_ast_transformations.iter().filter(|name| !AST_TRANSFORMATIONS.contains(&name.as_str())) {
        warn(
            true,
            &format!("unknown AST transformation \"{name}\" in query_frontend.skip_ast_transformations"),
            &format!("valid transformation names are: {}", AST_TRANSFORMATIONS.join(", ")),
        );
    }
    warn(
        !config.query_frontend.rf1_after.is_empty(),
        "query_frontend.rf1_after is deprecated and will be removed in a future release.",
        "the key has no effect",
    );
    for key in config.overrides.defaults.zero_rate_keys() {
        warn(true, &format!("overrides.defaults.ingestion.{key} is 0: every push is rejected"), "set it to a positive number of bytes");
    }
    warn(
        config.ingest.embedded.sync_interval > GoDuration::seconds(1),
        "ingest.embedded.sync_interval is above one second: every push waits that long for its acknowledgement",
        "",
    );
    for module in targets.internal() {
        warn(true, &format!("selected target {module} is an internal module, is this intended?"), "");
    }
    warnings
}

/// True when user-configurable overrides would be written among the blocks.
fn has_storage_conflict(config: &Config) -> bool {
    let (trace, user) = (&config.storage.trace, &config.overrides.user_configurable_overrides);
    let client = &user.client;
    if !user.enabled || trace.backend != client.backend {
        return false;
    }
    match client.backend.as_str() {
        "local" => trace.local.path == client.local.path,
        "gcs" => (&trace.gcs.bucket_name, &trace.gcs.prefix) == (&client.gcs.bucket_name, &client.gcs.prefix),
        "s3" => (&trace.s3.bucket, &trace.s3.prefix) == (&client.s3.bucket, &client.s3.prefix),
        "azure" => {
            (&trace.azure.storage_account_name, &trace.azure.container_name, &trace.azure.prefix)
                == (&client.azure.storage_account_name, &client.azure.container_name, &client.azure.prefix)
        }
        _ => false,
    }
}
