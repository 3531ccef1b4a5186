//! Keys of 2.x (and 1.x) files that are gone or have moved: they warn once, with line and replacement, and never stop a start.

use crate::base::yaml::Document;
use crate::base::yaml::node::{Node, Path, Step};
use crate::services::overrides::legacy::{self, Scoped};

/// Keys that are dropped, and what to do instead.
const REMOVED: &[(&str, &str)] = &[
    ("use_otel_tracer", "own traces are always OpenTelemetry's; delete the key"),
    ("search_enabled", "search is always on; delete the key"),
    ("metrics_generator_enabled", "set overrides.defaults.metrics_generator.processors instead"),
    ("partition_ring_live_store", "live-stores always use the partition ring; delete the key"),
    ("distributor.receivers.opencensus", "use the otlp receiver"),
    ("distributor.search_tags_deny_list", "delete the key"),
    ("query_frontend.querier_forget_delay", "delete the key"),
    ("query_frontend.search.query_ingesters_until", "only query_frontend.search.query_backend_after decides"),
    ("query_frontend.tolerate_failed_blocks", "delete the key"),
    ("querier.search.prefer_self", "serverless search is gone; delete the key"),
    ("querier.search.external_endpoints", "serverless search is gone; delete the key"),
    ("querier.search.external_backend", "serverless search is gone; delete the key"),
    ("querier.search.external_hedge_requests_at", "serverless search is gone; delete the key"),
    ("querier.search.external_hedge_requests_up_to", "serverless search is gone; delete the key"),
    ("metrics_generator.traces_storage", "local blocks are gone: live-stores answer TraceQL metrics"),
    ("metrics_generator.traces_query_storage", "local blocks are gone: live-stores answer TraceQL metrics"),
    ("metrics_generator.query_timeout", "local blocks are gone: live-stores answer TraceQL metrics"),
    ("metrics_generator.disable_local_blocks", "local blocks are gone; delete the key"),
    ("metrics_generator.disable_grpc", "delete the key"),
    ("metrics_generator.processor.local_blocks", "local blocks are gone: live-stores answer TraceQL metrics"),
    ("overrides.defaults.metrics_generator.processor.local_blocks", "local blocks are gone: live-stores answer TraceQL metrics"),
    ("storage.trace.s3.use_v2_sdk", "delete the key"),
    ("storage.trace.block.encoding", "v2 blocks are gone; delete the key"),
    ("storage.trace.block.index_downsample_bytes", "v2 blocks are gone; delete the key"),
    ("storage.trace.block.index_page_size_bytes", "v2 blocks are gone; delete the key"),
    ("storage.trace.block.search_encoding", "v2 blocks are gone; delete the key"),
    ("storage.trace.block.search_page_size_bytes", "v2 blocks are gone; delete the key"),
    ("storage.trace.block.v2_index_downsample_bytes", "v2 blocks are gone; delete the key"),
    ("storage.trace.block.v2_index_page_size_bytes", "v2 blocks are gone; delete the key"),
    ("storage.trace.block.v2_encoding", "v2 blocks are gone; delete the key"),
    ("storage.trace.wal.encoding", "the WAL follows storage.trace.block.version; delete the key"),
    ("storage.trace.wal.v2_encoding", "the WAL follows storage.trace.block.version; delete the key"),
    ("storage.trace.wal.search_encoding", "the WAL follows storage.trace.block.version; delete the key"),
    ("storage.trace.wal.version", "the WAL follows storage.trace.block.version; delete the key"),
    ("block_builder.wal.version", "the WAL follows storage.trace.block.version; delete the key"),
    ("block_builder.block.version", "blocks follow storage.trace.block"),
    ("block_builder.block.bloom_filter_false_positive", "blocks follow storage.trace.block"),
    ("block_builder.block.bloom_filter_shard_size_bytes", "blocks follow storage.trace.block"),
    ("block_builder.block.parquet_row_group_size_bytes", "blocks follow storage.trace.block"),
    ("block_builder.block.parquet_dedicated_columns", "blocks follow storage.trace.block"),
    ("block_builder.block.search_encoding", "blocks follow storage.trace.block"),
    ("block_builder.block.search_page_size_bytes", "blocks follow storage.trace.block"),
    ("block_builder.block.v2_index_downsample_bytes", "blocks follow storage.trace.block"),
    ("block_builder.block.v2_index_page_size_bytes", "blocks follow storage.trace.block"),
    ("block_builder.block.v2_encoding", "blocks follow storage.trace.block"),
    ("compactor.compaction.v2_in_buffer_bytes", "v2 blocks are gone; delete the key"),
    ("compactor.compaction.v2_out_buffer_bytes", "v2 blocks are gone; delete the key"),
    ("compactor.compaction.v2_prefetch_traces_count", "v2 blocks are gone; delete the key"),
    ("compactor.compaction.chunk_size_bytes", "v2 blocks are gone; delete the key"),
    ("compactor.compaction.flush_size_bytes", "v2 blocks are gone; delete the key"),
];

/// Where the classic compaction rules go when no classic role runs.
const COMPACTION_TARGETS: [&str; 2] = ["backend_worker.compaction", "backend_scheduler.provider.compaction.compaction"];

/// Flat override keys of the local-blocks processor.
const FLAT_LOCAL_BLOCKS: &str = "metrics_generator_processor_local_blocks_";

/// Drops removed keys. Returns a text per key.
pub(super) fn drop_removed(root: &mut Node, document: &Document, file: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut drop = |root: &mut Node, path: &Path, instead: &str| {
        if root.remove_at(path).is_some() {
            let line = document.line_of(path).map_or(String::new(), |line| format!(":{line}"));
            warnings.push(format!("{file}{line}: {path} was removed and is ignored: {instead}"));
        }
    };
    for (key, instead) in REMOVED {
        drop(root, &Path::dotted(key), instead);
    }
    if let Some(Node::Map(overrides)) = root.get("overrides") {
        let flat: Vec<String> = overrides.iter().map(|(key, _)| key.clone()).filter(|key| key.starts_with(FLAT_LOCAL_BLOCKS)).collect();
        for key in flat {
            drop(root, &Path::dotted("overrides").key(&key), "local blocks are gone: live-stores answer TraceQL metrics");
        }
    }
    warnings
}

/// Lets `compactor.compaction` also rule the compaction of today's roles, where the file does not set their own keys. Returns a text per key.
pub(super) fn carry_over_compaction(root: &mut Node, document: &Document, file: &str) -> Vec<String> {
    let from = Path::dotted("compactor.compaction");
    let Some(Node::Map(entries)) = root.at(&from).cloned() else { return Vec::new() };
    let mut warnings = Vec::new();
    for (key, value) in entries {
        let free: Vec<&str> = COMPACTION_TARGETS.into_iter().filter(|target| root.at(&Path::dotted(target).key(&key)).is_none()).collect();
        for target in &free {
            root.set(&Path::dotted(target).key(&key), value.clone());
        }
        if !free.is_empty() {
            let path = from.key(&key);
            let line = document.line_of(&path).map_or(String::new(), |line| format!(":{line}"));
            let names: Vec<String> = free.iter().map(|target| format!("{target}.{key}")).collect();
            warnings.push(format!("{file}{line}: {path} belongs to the classic compactor and is used as {}", names.join(" and ")));
        }
    }
    // Already carried over; the classic block itself has no role here.
    root.remove_at(&from);
    warnings
}

/// The overrides block of a file, flat keys moved below `defaults`.
pub(super) struct MainOverrides {
    pub(super) scoped: Scoped,
    pub(super) is_legacy: bool,
    /// Both formats in one block: the place to point at.
    pub(super) mixed_at: Option<Path>,
}

/// Moves flat override keys of the main file to their scoped places.
pub(super) fn scope_overrides(root: &mut Node) -> MainOverrides {
    let mut result = MainOverrides { scoped: Scoped::default(), is_legacy: false, mixed_at: None };
    let Some(mut overrides) = root.get("overrides").cloned() else { return result };
    let has_flat_list = ["forwarders", "cost_attribution"].iter().any(|key| overrides.get(key).is_some());
    if !legacy::is_flat(&overrides) && !has_flat_list {
        return result;
    }
    result.is_legacy = true;
    if overrides.get("defaults").is_some() {
        result.mixed_at = Some(Path(vec![Step::Key("overrides".to_owned()), Step::Key("defaults".to_owned())]));
        return result;
    }
    let mut scoped = Scoped::take_from(&mut overrides);
    if let Some(defaults) = scoped.node.take() {
        overrides.set(&Path::dotted("defaults"), defaults);
    }
    root.set(&Path::dotted("overrides"), overrides);
    result.scoped = scoped;
    result
}
