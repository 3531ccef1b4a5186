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
    }
}

impl BackendWorkerConfig {
    /// Returns the start errors of this block. `needs_address`: the scheduler runs in another process.
    pub fn validate(&self, needs_address: bool) -> Vec<String> {
        let mut problems = Vec::new();
        if needs_address && self.backend_scheduler_addr.is_empty() {
            problems.push("backend scheduler address is required".to_owned());
        }
        if self.backoff.min_period <= GoDuration::ZERO {
            problems.push("positive backoff min period required".to_owned());
        }
        if self.backoff.max_period <= GoDuration::ZERO {
            problems.push("positive backoff max period required".to_owned());
        }
        problems
    }
}
