//! Names and help texts of the live-store's metrics (metrics-exported §6).

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub(super) const RECORDS_PROCESSED: &str = "tempo_live_store_records_processed_total";
pub(super) const RECORDS_DROPPED: &str = "tempo_live_store_records_dropped_total";
pub(super) const BYTES_RECEIVED: &str = "tempo_live_store_bytes_received_total";
pub(super) const TRACES_CREATED: &str = "tempo_live_store_traces_created_total";
pub(super) const LIVE_TRACES: &str = "tempo_live_store_live_traces";
pub(super) const LIVE_TRACE_BYTES: &str = "tempo_live_store_live_trace_bytes";
pub(super) const BLOCKS_CUT: &str = "tempo_live_store_blocks_cut_total";
pub(super) const BLOCKS_COMPLETED: &str = "tempo_live_store_blocks_completed_total";
pub(super) const COMPLETE_QUEUE: &str = "tempo_live_store_complete_queue_length";
pub(super) const COMPLETION_DURATION: &str = "tempo_live_store_completion_duration_seconds";
pub(super) const COMPLETION_SIZE: &str = "tempo_live_store_completion_size_bytes";
pub(super) const FAILED_COMPLETIONS: &str = "tempo_live_store_failed_completions_total";
pub(super) const COMPLETION_RETRIES: &str = "tempo_live_store_completion_retries_total";
pub(super) const BLOCKS_FLUSHED: &str = "tempo_live_store_local_blocks_flushed_total";
pub(super) const TAKEOVER_BLOCKS: &str = "tempo_rs_live_store_takeover_blocks_total";
pub(super) const TAKEOVER_BLOCKS_LEFT: &str = "tempo_rs_live_store_takeover_blocks_left";
pub(super) const FAILED_FLUSHES: &str = "tempo_live_store_local_failed_flushes_total";
pub(super) const BACK_PRESSURE_SECONDS: &str = "tempo_live_store_back_pressure_seconds_total";
pub(super) const BACK_PRESSURE_DURATION: &str = "tempo_live_store_back_pressure_duration_seconds";
pub(super) const READY: &str = "tempo_live_store_ready";
pub(super) const CATCH_UP: &str = "tempo_live_store_catch_up_duration_seconds";
pub(super) const PARTITION_OWNED: &str = "tempo_live_store_partition_owned";

pub(super) fn describe() {
    describe_counter!(RECORDS_PROCESSED, "records consumed from the ingest log");
    describe_counter!(RECORDS_DROPPED, "records, or parts of them, that were left out");
    describe_counter!(BYTES_RECEIVED, Unit::Bytes, "bytes of consumed records");
    describe_counter!(TRACES_CREATED, "traces seen for the first time");
    describe_gauge!(LIVE_TRACES, "traces in memory");
    describe_gauge!(LIVE_TRACE_BYTES, Unit::Bytes, "bytes of traces in memory");
    describe_counter!(BLOCKS_CUT, "cuts of live traces into blocks");
    describe_counter!(BLOCKS_COMPLETED, "blocks written");
    describe_gauge!(COMPLETE_QUEUE, "cuts that are not yet blocks");
    describe_histogram!(COMPLETION_DURATION, Unit::Seconds, "time from cut to complete block");
    describe_histogram!(COMPLETION_SIZE, Unit::Bytes, "size of complete blocks");
    describe_counter!(FAILED_COMPLETIONS, "failed attempts to write a block");
    describe_counter!(COMPLETION_RETRIES, "further attempts to write a block");
    describe_counter!(BLOCKS_FLUSHED, "blocks complete in the backend");
    describe_counter!(TAKEOVER_BLOCKS, "folders found in the WAL directory of an earlier system, by outcome");
    describe_gauge!(TAKEOVER_BLOCKS_LEFT, "folders of an earlier system that are still to be taken over");
    describe_counter!(FAILED_FLUSHES, "failed attempts to bring a block to the backend");
    describe_counter!(BACK_PRESSURE_SECONDS, Unit::Seconds, "time consumers waited for memory");
    describe_histogram!(BACK_PRESSURE_DURATION, Unit::Seconds, "waits of consumers for memory");
    describe_gauge!(READY, "1 when the log has been caught up with");
    describe_gauge!(CATCH_UP, Unit::Seconds, "time from start until the log was caught up with");
    describe_gauge!(PARTITION_OWNED, "partitions consumed by this process");
}
