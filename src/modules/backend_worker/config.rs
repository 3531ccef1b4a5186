//! `backend_worker:`.

use crate::base::backoff::BackoffConfig;
use crate::base::config_block::{config_block, text};
use crate::base::duration::GoDuration;
use crate::services::ring::config::ShardingRingConfig;
use crate::tempodb::config::CompactionConfig;

config_block! {
    /// `backend_worker:`.
    pub struct BackendWorkerConfig {
        /// Required unless the scheduler runs in the same process.
        backend_scheduler_addr: String = String::new(),
        /// Pauses between requests for jobs.
        backoff: BackoffConfig = BackoffConfig::with(GoDuration::millis(100), GoDuration::minutes(1), 0),
        /// Used when executing jobs.
        compaction: CompactionConfig = CompactionConfig::default(),
        /// Ring key.
        override_ring_key: String = text("backend-worker"),
        /// A store that is not empty shards tenant polling.
        ring: ShardingRingConfig = ShardingRingConfig::default(),
        /// Time a running job gets on stop; 0: it is aborted.
        finish_on_shutdown_timeout: GoDuration = GoDuration::seconds(30),
        /// Jobs at a time; 0: one in `all`, else as many as there are cores. Never more than cores, nor than memory allows.
        concurrency: usize = 0,
        /// Memory of all jobs together; each gets an equal share, and there are as many as have 64 MiB.
        memory_budget_bytes: u64 = 512 << 20,
    }
}

/// Below this, merging would write tiny row groups.
pub(super) const LEAST_JOB_MEMORY_BYTES: u64 = 64 << 20;

impl BackendWorkerConfig {
    /// Returns the start errors of this block. `needs_address`: the scheduler runs in another process. `blocklist_poll`: how old the list of a
    /// reader may be.
    pub fn validate(&self, needs_address: bool, blocklist_poll: GoDuration) -> Vec<String> {
        let mut problems = Vec::new();
        let kept = self.compaction.compacted_block_retention;
        if kept.as_nanos() <= blocklist_poll.as_nanos().saturating_mul(2) {
            problems.push(format!(
                "compaction.compacted_block_retention ({kept}) must be greater than twice storage.trace.blocklist_poll ({blocklist_poll}), otherwise queries meet deleted blocks"
            ));
        }
        if needs_address && self.backend_scheduler_addr.is_empty() {
            problems.push("backend scheduler address is required".to_owned());
        }
        if self.backoff.min_period <= GoDuration::ZERO {
            problems.push("positive backoff min period required".to_owned());
        }
        if self.memory_budget_bytes < LEAST_JOB_MEMORY_BYTES {
            problems.push(format!("memory_budget_bytes must be at least {LEAST_JOB_MEMORY_BYTES}"));
        }
        if self.backoff.max_period <= GoDuration::ZERO {
            problems.push("positive backoff max period required".to_owned());
        }
        problems
    }
}
