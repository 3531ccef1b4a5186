//! Names and help texts of the backend scheduler's metrics (metrics-exported §11).

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub(super) const JOBS_CREATED: &str = "tempo_backend_scheduler_jobs_created_total";
pub(super) const JOBS_COMPLETED: &str = "tempo_backend_scheduler_jobs_completed_total";
pub(super) const JOBS_FAILED: &str = "tempo_backend_scheduler_jobs_failed_total";
pub(super) const JOBS_DROPPED: &str = "tempo_backend_scheduler_jobs_dropped_total";
pub(super) const JOBS_ACTIVE: &str = "tempo_backend_scheduler_jobs_active";
pub(super) const JOBS_PENDING: &str = "tempo_backend_scheduler_jobs_pending";
pub(super) const JOBS_RETRY: &str = "tempo_backend_scheduler_jobs_retry_total";
pub(super) const JOBS_NOT_FOUND: &str = "tempo_backend_scheduler_jobs_not_found_total";
pub(super) const JOB_DURATION: &str = "tempo_backend_scheduler_job_duration_seconds";
pub(super) const JOBS_MERGED: &str = "tempo_backend_scheduler_provider_jobs_merged_total";
pub(super) const WORK_FLUSHES: &str = "tempo_backend_scheduler_work_flushes_total";
pub(super) const WORK_FLUSHES_FAILED: &str = "tempo_backend_scheduler_work_flushes_failed_total";
pub(super) const WORK_CACHE_BYTES: &str = "tempo_backend_scheduler_work_cache_file_size_bytes";
pub(super) const REDACTION_TRACES_FOUND: &str = "tempo_backend_scheduler_redaction_traces_found_total";
pub(super) const COMPACTION_JOBS_CREATED: &str = "tempo_backend_scheduler_compaction_jobs_created_total";
pub(super) const COMPACTION_TENANT_RESET: &str = "tempo_backend_scheduler_compaction_tenant_reset_total";
pub(super) const COMPACTION_EMPTY_JOB: &str = "tempo_backend_scheduler_compaction_tenant_empty_job_total";
pub(super) const COMPACTION_EMPTY_CYCLE: &str = "tempo_backend_scheduler_compaction_empty_tenant_cycle_total";
pub(super) const OUTSTANDING_BLOCKS: &str = "tempodb_compaction_outstanding_blocks";
/// Ours.
pub(super) const LEASES_LOST: &str = "tempo_rs_backend_scheduler_leases_lost_total";
pub(super) const BLOCKS_QUARANTINED: &str = "tempo_rs_backend_scheduler_blocks_quarantined_total";
pub(super) const BLOCKS_HELD: &str = "tempo_rs_backend_scheduler_blocks_held";
pub(super) const REDACTION_BATCHES: &str = "tempo_rs_backend_scheduler_redaction_batches";

/// Buckets of histograms that are not in seconds or last long.
pub(crate) const BUCKETS: &[(&str, &[f64])] = &[
    (JOB_DURATION, &[1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0]),
    (
        WORK_CACHE_BYTES,
        &[
            1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131072.0, 262144.0, 524288.0, 1048576.0, 2097152.0, 4194304.0,
            8388608.0, 16777216.0, 33554432.0,
        ],
    ),
];

pub(super) fn describe() {
    describe_counter!(JOBS_CREATED, "jobs handed to a worker for the first time");
    describe_counter!(JOBS_COMPLETED, "jobs that succeeded");
    describe_counter!(JOBS_FAILED, "jobs that failed");
    describe_counter!(JOBS_DROPPED, "jobs that were no longer wanted when a worker could have had them");
    describe_gauge!(JOBS_ACTIVE, "jobs that workers have");
    describe_gauge!(JOBS_PENDING, "jobs that wait for a worker");
    describe_counter!(JOBS_RETRY, "jobs handed to a worker again");
    describe_counter!(JOBS_NOT_FOUND, "requests of workers for which there was no job");
    describe_histogram!(JOB_DURATION, Unit::Seconds, "time from creation to completion of a job");
    describe_counter!(JOBS_MERGED, "jobs offered, by provider");
    describe_counter!(WORK_FLUSHES, "copies of the work cache written to the backend");
    describe_counter!(WORK_FLUSHES_FAILED, "copies of the work cache that could not be written to the backend");
    describe_histogram!(WORK_CACHE_BYTES, Unit::Bytes, "size of the work cache in the backend");
    describe_counter!(REDACTION_TRACES_FOUND, "traces that redactions found");
    describe_counter!(COMPACTION_JOBS_CREATED, "compaction jobs offered");
    describe_counter!(COMPACTION_TENANT_RESET, "turns of a tenant that ended");
    describe_counter!(COMPACTION_EMPTY_JOB, "turns of a tenant that gave no job");
    describe_counter!(COMPACTION_EMPTY_CYCLE, "rounds in which no tenant had anything to compact");
    describe_gauge!(OUTSTANDING_BLOCKS, "blocks that wait for compaction");
    describe_counter!(LEASES_LOST, "jobs taken from workers that fell silent");
    describe_counter!(BLOCKS_QUARANTINED, "blocks excluded from compaction because they are broken");
    describe_gauge!(BLOCKS_HELD, "blocks that their flag keeps from being compacted");
    describe_gauge!(REDACTION_BATCHES, "redactions under way");
    for name in [WORK_FLUSHES, WORK_FLUSHES_FAILED, COMPACTION_EMPTY_JOB, COMPACTION_EMPTY_CYCLE, LEASES_LOST, BLOCKS_QUARANTINED] {
        metrics::counter!(name).absolute(0);
    }
}
