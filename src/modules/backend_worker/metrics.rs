//! Names and help texts of the backend worker's metrics (metrics-exported §11).

use metrics::describe_counter;

pub(super) const JOBS: &str = "tempo_backend_worker_jobs_total";
pub(super) const BAD_JOBS: &str = "tempo_backend_worker_bad_jobs_received_total";
pub(super) const CALL_RETRIES: &str = "tempo_backend_worker_call_retries_total";
pub(super) const REDACTION_BLOCK_MISSING: &str = "tempo_backend_worker_redaction_block_missing_total";

pub(super) fn describe() {
    describe_counter!(JOBS, "jobs received");
    describe_counter!(BAD_JOBS, "jobs received that nobody can do");
    describe_counter!(CALL_RETRIES, "calls to the backend scheduler that had to be repeated");
    describe_counter!(REDACTION_BLOCK_MISSING, "blocks to be redacted that were gone");
    for name in [JOBS, CALL_RETRIES] {
        metrics::counter!(name).absolute(0);
    }
}
