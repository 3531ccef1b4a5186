//! `compactor:` (classic).

use crate::base::config_block::{config_block, text};
use crate::services::ring::config::ShardingRingConfig;
use crate::tempodb::config::CompactionConfig;

config_block! {
    /// `compactor:`.
    pub struct CompactorConfig {
        /// Do not compact.
        disabled: bool = false,
        /// Divides the work; an empty store means alone.
        ring: ShardingRingConfig = ShardingRingConfig::default(),
        /// Rules of merging and retention.
        compaction: CompactionConfig = CompactionConfig::default(),
        /// Ring key.
        override_ring_key: String = text("compactor"),
    }
}
