//! Names of the storage engine's metrics. Those without `tempo_rs_` are known to dashboards of the compatible system.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub const POLL_ERRORS: &str = "tempodb_blocklist_poll_errors_total";
pub const POLL_DURATION: &str = "tempodb_blocklist_poll_duration_seconds";
pub const BLOCKLIST_LENGTH: &str = "tempodb_blocklist_length";
pub const INDEX_ERRORS: &str = "tempodb_blocklist_tenant_index_errors_total";
pub const INDEX_BUILDER: &str = "tempodb_blocklist_tenant_index_builder";
pub const INDEX_AGE: &str = "tempodb_blocklist_tenant_index_age_seconds";
pub const BACKEND_OBJECTS: &str = "tempodb_backend_objects_total";
pub const BACKEND_BYTES: &str = "tempodb_backend_bytes_total";
pub const FOREIGN_OBJECTS: &str = "tempo_rs_tempodb_foreign_objects";
pub const CORRUPT_METAS: &str = "tempo_rs_tempodb_corrupt_metas_total";
pub const CORRUPT_READS: &str = "tempo_rs_tempodb_corrupt_reads_total";
pub const QUARANTINED_BLOCKS: &str = "tempo_rs_tempodb_quarantined_blocks_total";
pub const CACHE_REQUESTS: &str = "tempodb_cache_requests_total";
pub const CACHE_REQUEST_BYTES: &str = "tempodb_cache_request_bytes_total";
pub const CACHE_STORE_SIZE: &str = "tempodb_cache_store_size_bytes";
pub const BACKEND_REQUEST_DURATION: &str = "tempodb_backend_request_duration_seconds";
pub const HEDGED_REQUESTS: &str = "tempodb_backend_hedged_roundtrips_total";
pub const BACKEND_RETRIES: &str = "tempo_rs_tempodb_backend_retries_total";
pub const RETRY_BUDGET: &str = "tempo_rs_tempodb_backend_retry_budget";
pub const COALESCE_GAP: &str = "tempo_rs_tempodb_coalesce_gap_bytes";
pub const OPEN_READERS: &str = "tempo_rs_tempodb_open_readers";
pub const COMPACTION_BLOCKS: &str = "tempodb_compaction_blocks_total";
pub const COMPACTION_OBJECTS_WRITTEN: &str = "tempodb_compaction_objects_written_total";
pub const COMPACTION_BYTES_WRITTEN: &str = "tempodb_compaction_bytes_written_total";
pub const COMPACTION_ERRORS: &str = "tempodb_compaction_errors_total";
pub const COMPACTION_OBJECTS_COMBINED: &str = "tempodb_compaction_objects_combined_total";
pub const COMPACTION_SPANS_DEDUPED: &str = "tempodb_compaction_spans_deduped_total";
pub const COMPACTION_OUTPUT_SIZE: &str = "tempodb_compaction_output_block_size_bytes";
/// Set by the scheduler, which knows what is outstanding.
pub const COMPACTION_OUTSTANDING: &str = "tempodb_compaction_outstanding_blocks";
pub const COMPACTION_OVERSIZED: &str = "tempo_rs_tempodb_compaction_oversized_traces_total";
pub const COMPACTION_SPLIT: &str = "tempo_rs_tempodb_compaction_split_traces_total";
pub const COMPACTION_DURATION: &str = "tempo_rs_tempodb_compaction_duration_seconds";
pub const COMPACTION_MEMORY: &str = "tempo_rs_tempodb_compaction_peak_memory_bytes";
pub const RETENTION_DURATION: &str = "tempodb_retention_duration_seconds";
pub const RETENTION_ERRORS: &str = "tempodb_retention_errors_total";
pub const RETENTION_MARKED: &str = "tempodb_retention_marked_for_deletion_total";
pub const RETENTION_DELETED: &str = "tempodb_retention_deleted_total";
pub const ORPHANS_DELETED: &str = "tempo_rs_tempodb_orphaned_blocks_deleted_total";
pub const FILTER_LOOKUPS: &str = "tempo_rs_trace_filter_lookups_total";
pub const FILTER_CANDIDATES: &str = "tempo_rs_trace_filter_candidates_total";
pub const FILTER_FALSE_POSITIVES: &str = "tempo_rs_trace_filter_false_positives_total";
pub const FILTER_READ_BYTES: &str = "tempo_rs_trace_filter_read_bytes_total";
pub const FILTER_WRITTEN_BYTES: &str = "tempo_rs_trace_filter_written_bytes_total";
pub const FILTER_ERRORS: &str = "tempo_rs_trace_filter_errors_total";
pub const FILTER_HEADER_BYTES: &str = "tempo_rs_trace_filter_header_bytes";
pub const FILTER_BYTES: &str = "tempo_rs_trace_filter_bytes";
pub const FILTER_RUNS: &str = "tempo_rs_trace_filter_runs";
pub const FILTER_UNCOVERED: &str = "tempo_rs_trace_filter_uncovered_blocks";
pub const FILTER_MAINTENANCE: &str = "tempo_rs_trace_filter_maintenance_seconds";
pub const BLOOM_LOOKUPS: &str = "tempo_rs_tempodb_bloom_lookups_total";
pub const SIDE_REQUESTS: &str = "tempo_rs_side_objects_requests_total";
pub const SIDE_CACHE_BYTES: &str = "tempo_rs_side_objects_cache_bytes";
pub const SIDE_TAG_INDEX_BYTES: &str = "tempo_rs_side_objects_tag_index_bytes";
pub const SIDE_SKIPPED_ROW_GROUPS: &str = "tempo_rs_side_objects_skipped_row_groups_total";
pub const SIDE_SAVED_REQUESTS: &str = "tempo_rs_side_objects_saved_requests_total";
pub const SIDE_SAVED_BYTES: &str = "tempo_rs_side_objects_saved_bytes_total";

/// Buckets of the histograms that dashboards expect.
pub const BUCKETS: &[(&str, &[f64])] = &[
    (BACKEND_REQUEST_DURATION, &[0.005, 0.02, 0.08, 0.32, 1.28, 5.12]),
    (CACHE_STORE_SIZE, &CACHE_STORE_SIZES),
    (COMPACTION_OUTPUT_SIZE, &DOUBLING_MIB),
    (COMPACTION_MEMORY, &DOUBLING_MIB),
    (COMPACTION_DURATION, &[0.25, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0]),
    (RETENTION_DURATION, &[0.25, 0.5, 1.0, 2.0, 4.0, 8.0]),
];

/// 512 bytes and their doubles.
const CACHE_STORE_SIZES: [f64; 15] = {
    let mut sizes = [512.0; 15];
    let mut at = 1;
    while at < sizes.len() {
        sizes[at] = sizes[at - 1] * 2.0;
        at += 1;
    }
    sizes
};

/// 1 MiB and its doubles.
const DOUBLING_MIB: [f64; 10] = {
    let mut sizes = [1_048_576.0; 10];
    let mut at = 1;
    while at < sizes.len() {
        sizes[at] = sizes[at - 1] * 2.0;
        at += 1;
    }
    sizes
};

/// Registers help texts, and the series that alerts need from the start.
pub fn describe() {
    describe_counter!(POLL_ERRORS, "Failed polls of the block list, per tenant");
    describe_histogram!(POLL_DURATION, Unit::Seconds, "Duration of a poll of all tenants");
    describe_gauge!(BLOCKLIST_LENGTH, "Live blocks per tenant");
    describe_counter!(INDEX_ERRORS, "Tenant indexes that could not be read or written, per tenant");
    describe_gauge!(INDEX_BUILDER, "1 while this process builds the tenant's index");
    describe_gauge!(INDEX_AGE, Unit::Seconds, "Age of the tenant index that was last used, per tenant");
    describe_gauge!(BACKEND_OBJECTS, "Traces in blocks, per tenant and status");
    describe_gauge!(BACKEND_BYTES, Unit::Bytes, "Bytes in blocks, per tenant and status");
    describe_gauge!(FOREIGN_OBJECTS, "Objects in a tenant's folder that belong to no block, as last listed");
    describe_counter!(CORRUPT_METAS, "Block metas that could not be read and whose block was left out, per tenant");
    describe_counter!(CORRUPT_READS, "Reads that found a block corrupt, per tenant");
    describe_counter!(QUARANTINED_BLOCKS, "Blocks found corrupt so often that they are not read any more, per tenant");
    describe_counter!(CACHE_REQUESTS, "Keys asked of caches, by role and outcome (hit, miss)");
    describe_counter!(
        CACHE_REQUEST_BYTES,
        Unit::Bytes,
        "Bytes that caches had (hit), and that object storage brought instead (miss), by role"
    );
    describe_histogram!(CACHE_STORE_SIZE, Unit::Bytes, "Size of values handed to caches, by role");
    describe_counter!(QUARANTINED_BLOCKS, "Blocks found corrupt while reading, per tenant");
    describe_histogram!(BACKEND_REQUEST_DURATION, Unit::Seconds, "Duration of requests to the object store, by method and status");
    describe_counter!(HEDGED_REQUESTS, "Reads sent a second time because the first answer was slow");
    describe_counter!(BACKEND_RETRIES, "Failed requests that may be repeated, by whether the retry budget allowed it");
    describe_gauge!(RETRY_BUDGET, "Failed requests that may still be repeated");
    describe_gauge!(COALESCE_GAP, Unit::Bytes, "Bytes between two ranges that are read along rather than asked for separately");
    describe_gauge!(OPEN_READERS, "Blocks whose footer is kept in memory");
    metrics::counter!(CORRUPT_READS).absolute(0);
    describe_counter!(FILTER_LOOKUPS, "Lookups of a trace that a trace filter answered");
    describe_counter!(FILTER_CANDIDATES, "Blocks that trace filters named");
    describe_counter!(FILTER_FALSE_POSITIVES, "Blocks that trace filters named and that did not hold the trace");
    describe_counter!(FILTER_READ_BYTES, Unit::Bytes, "Bytes of trace filters read by lookups");
    describe_counter!(FILTER_WRITTEN_BYTES, Unit::Bytes, "Bytes of trace filters written, merges included");
    describe_counter!(FILTER_ERRORS, "Failures of trace filters, per reason; blocks are then asked one by one");
    describe_gauge!(FILTER_HEADER_BYTES, Unit::Bytes, "Memory of the headers of trace filters");
    describe_gauge!(FILTER_BYTES, Unit::Bytes, "Bytes of the trace filter in the backend, per tenant");
    describe_gauge!(FILTER_RUNS, "Objects of the trace filter, per tenant");
    describe_gauge!(FILTER_UNCOVERED, "Live blocks that the trace filter does not cover, per tenant");
    describe_histogram!(FILTER_MAINTENANCE, Unit::Seconds, "Duration of bringing the trace filter of a tenant up to date");
    describe_counter!(BLOOM_LOOKUPS, "Bloom filters of blocks asked for a trace");
    describe_counter!(
        SIDE_REQUESTS,
        "Questions to side objects, per object and outcome: hit (in memory), miss (read), absent, corrupt, failed"
    );
    describe_gauge!(SIDE_CACHE_BYTES, Unit::Bytes, "Side objects kept in memory");
    describe_gauge!(SIDE_TAG_INDEX_BYTES, Unit::Bytes, "Tags of all blocks of the tenants that were asked for, joined in memory");
    describe_counter!(SIDE_SKIPPED_ROW_GROUPS, "Row groups that a query did not read because of side objects");
    describe_counter!(
        SIDE_SAVED_REQUESTS,
        "Requests to the object store that side objects made needless: at least one a block that was not opened"
    );
    describe_counter!(SIDE_SAVED_BYTES, Unit::Bytes, "Bytes of these requests: the footers of the blocks that were not opened");
    metrics::counter!(QUARANTINED_BLOCKS).absolute(0);
    describe_compaction();
    describe_retention();
}

fn describe_compaction() {
    describe_counter!(COMPACTION_BLOCKS, "Blocks compacted, per highest level of the inputs");
    describe_counter!(COMPACTION_OBJECTS_WRITTEN, "Traces written by compaction, per highest level of the inputs");
    describe_counter!(COMPACTION_BYTES_WRITTEN, Unit::Bytes, "Bytes written by compaction, per highest level of the inputs");
    describe_counter!(COMPACTION_ERRORS, "Failed compactions");
    describe_counter!(COMPACTION_OBJECTS_COMBINED, "Traces that were in several inputs, per highest level of the inputs");
    describe_counter!(COMPACTION_SPANS_DEDUPED, "Spans dropped by compaction because an equal one was kept, per replication factor");
    describe_histogram!(COMPACTION_OUTPUT_SIZE, Unit::Bytes, "Size of blocks written by compaction");
    describe_gauge!(COMPACTION_OUTSTANDING, "Blocks that the selector would compact now, per tenant");
    describe_counter!(COMPACTION_OVERSIZED, "Traces above the tenant's limit that were kept whole, per tenant");
    describe_counter!(COMPACTION_SPLIT, "Traces kept in several blocks because joining them would take too much memory, per tenant");
    describe_histogram!(COMPACTION_DURATION, Unit::Seconds, "Duration of compactions");
    describe_histogram!(COMPACTION_MEMORY, Unit::Bytes, "Most memory that a compaction held in its buffers and tables");
    metrics::counter!(COMPACTION_ERRORS).absolute(0);
}

fn describe_retention() {
    describe_histogram!(RETENTION_DURATION, Unit::Seconds, "Duration of a retention run over one tenant");
    describe_counter!(RETENTION_ERRORS, "Blocks that could not be marked or deleted");
    describe_counter!(RETENTION_MARKED, "Blocks marked compacted because of their age");
    describe_counter!(RETENTION_DELETED, "Blocks deleted");
    describe_counter!(ORPHANS_DELETED, "Blocks deleted that never became visible");
    for name in [RETENTION_ERRORS, RETENTION_MARKED, RETENTION_DELETED] {
        metrics::counter!(name).absolute(0);
    }
    metrics::counter!(HEDGED_REQUESTS).absolute(0);
}
