//! `backend_scheduler:` and `backend_scheduler_client:`.

use crate::base::config_block::{config_block, text};
use crate::base::duration::GoDuration;
use crate::services::grpc_client::config::GrpcClientConfig;
use crate::tempodb::compaction::selector::DEFAULT_MAX_INPUT_BLOCKS;
use crate::tempodb::config::CompactionConfig;

config_block! {
    /// `backend_scheduler:`.
    pub struct BackendSchedulerConfig {
        /// Book-keeping of jobs.
        work: WorkConfig = WorkConfig::default(),
        /// Interval of book-keeping.
        maintenance_interval: GoDuration = GoDuration::minutes(1),
        /// Interval of saving the work cache to the backend.
        backend_flush_interval: GoDuration = GoDuration::minutes(1),
        /// What makes jobs.
        provider: ProviderConfig = ProviderConfig::default(),
        /// How long a request for a job waits.
        job_timeout: GoDuration = GoDuration::seconds(15),
        /// Directory of the work cache.
        local_work_path: String = text("/var/tempo"),
    }

    /// `work:`.
    pub struct WorkConfig {
        /// Finished jobs are forgotten after this; > 0.
        prune_age: GoDuration = GoDuration::hours(1),
        /// Silent jobs count as failed after this.
        dead_job_timeout: GoDuration = GoDuration::hours(24),
    }

    /// `provider:`.
    pub struct ProviderConfig {
        /// Deletion of old blocks.
        retention: RetentionProviderConfig = RetentionProviderConfig::default(),
        /// Merging of blocks.
        compaction: CompactionProviderConfig = CompactionProviderConfig::default(),
        /// Removal of traces on demand.
        redaction: RedactionProviderConfig = RedactionProviderConfig::default(),
        /// What is done while there is nothing better to do.
        maintenance: MaintenanceProviderConfig = MaintenanceProviderConfig::default(),
    }

    /// `provider.retention`.
    pub struct RetentionProviderConfig {
        /// Interval of retention jobs.
        interval: GoDuration = GoDuration::hours(1),
    }

    /// `provider.compaction`.
    pub struct CompactionProviderConfig {
        /// Interval of measuring; > 0, at most half of `work.prune_age`.
        measure_interval: GoDuration = GoDuration::minutes(1),
        /// Rules of merging.
        compaction: CompactionConfig = CompactionConfig::default(),
        /// Jobs of a tenant before the next one's turn; > 0.
        max_jobs_per_tenant: usize = 1000,
        /// Fewest blocks of a job.
        min_input_blocks: usize = 2,
        /// Most blocks of a job.
        max_input_blocks: usize = DEFAULT_MAX_INPUT_BLOCKS,
        /// Blocks of this level are not merged further; 0: no limit.
        max_compaction_level: u32 = 0,
        /// Shortest time between rounds; > 0.
        min_cycle_interval: GoDuration = GoDuration::seconds(30),
    }

    /// `provider.redaction`.
    pub struct RedactionProviderConfig {
        /// Interval of looking for requests.
        poll_interval: GoDuration = GoDuration::seconds(2),
        /// Blocks are scanned again after this; below `work.prune_age`.
        rescan_delay: GoDuration = GoDuration::minutes(5),
        /// Number of repeated scans.
        max_rescan_generations: u32 = 5,
    }

    /// `provider.maintenance`.
    pub struct MaintenanceProviderConfig {
        /// Interval of looking for such work.
        interval: GoDuration = GoDuration::minutes(10),
        /// Rewrite blocks of other versions or with other dedicated columns than those written now.
        rewrite_enabled: bool = false,
        /// Make side objects that are missing.
        index_enabled: bool = true,
    }

    /// `backend_scheduler_client:`.
    pub struct BackendSchedulerClientConfig {
        /// Connection settings.
        grpc_client_config: GrpcClientConfig = GrpcClientConfig::default(),
    }
}

impl BackendSchedulerConfig {
    /// Returns the start errors of this block.
    pub fn validate(&self) -> Vec<String> {
        let (work, compaction, redaction) = (&self.work, &self.provider.compaction, &self.provider.redaction);
        let mut problems = Vec::new();
        let mut require = |holds: bool, text: &str| {
            if !holds {
                problems.push(text.to_owned());
            }
        };
        require(work.prune_age > GoDuration::ZERO, "positive prune age required");
        require(!self.local_work_path.is_empty(), "local_work_path must be set");
        require(compaction.max_jobs_per_tenant > 0, "max_jobs_per_tenant must be greater than 0");
        require(
            compaction.min_cycle_interval > GoDuration::ZERO,
            "min_cycle_interval must be greater than 0, otherwise planning never pauses",
        );
        require(compaction.measure_interval > GoDuration::ZERO, "measure_interval must be greater than 0");
        require(compaction.compaction.compaction_window > GoDuration::ZERO, "compaction_window must be greater than 0");
        require(
            2 <= compaction.min_input_blocks && compaction.min_input_blocks <= compaction.max_input_blocks,
            "provider.compaction.min_input_blocks must be at least 2 and at most max_input_blocks",
        );
        require(self.job_timeout > GoDuration::ZERO, "job_timeout must be greater than 0");
        require(self.maintenance_interval > GoDuration::ZERO, "maintenance_interval must be greater than 0");
        require(self.backend_flush_interval > GoDuration::ZERO, "backend_flush_interval must be greater than 0");
        require(self.provider.retention.interval > GoDuration::ZERO, "provider.retention.interval must be greater than 0");
        require(redaction.poll_interval > GoDuration::ZERO, "provider.redaction.poll_interval must be greater than 0");
        require(self.provider.maintenance.interval > GoDuration::ZERO, "provider.maintenance.interval must be greater than 0");
        require(
            compaction.measure_interval.as_nanos() <= work.prune_age.as_nanos() / 2,
            "provider.compaction.measure_interval must be no more than half of work.prune_age; finished jobs would be forgotten before they are counted",
        );
        require(
            work.prune_age > redaction.rescan_delay,
            "work.prune_age must be greater than provider.redaction.rescan_delay, otherwise finished redactions are forgotten before the rescan",
        );
        problems
    }
}
