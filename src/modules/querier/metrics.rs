//! Names of the querier's metrics.

use metrics::{describe_counter, describe_histogram};

pub(super) const REQUESTS_EXECUTED: &str = "tempo_querier_worker_request_executed_total";
pub(super) const BACKEND_PROCESSING: &str = "tempo_querier_backend_processing_duration_seconds";
pub(super) const SKIPPED_BLOCKS: &str = "tempo_rs_querier_skipped_blocks_total";

/// Registers help texts.
pub fn describe() {
    describe_counter!(REQUESTS_EXECUTED, "Jobs executed.");
    describe_histogram!(BACKEND_PROCESSING, "Seconds of a job over blocks, by operation and tenant.");
    describe_counter!(SKIPPED_BLOCKS, "Jobs that left out a broken block, by tenant.");
}
