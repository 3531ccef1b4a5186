//! `ingester:` (classic write path).

use crate::base::config_block::{config_block, text};
use crate::base::duration::GoDuration;
use crate::services::ring::config::{LifecyclerConfig, PartitionRingConfig};

config_block! {
    /// `ingester:`.
    pub struct IngesterConfig {
        /// Membership in the ingester ring.
        lifecycler: LifecyclerConfig = LifecyclerConfig::default(),
        /// Partitions, only with Kafka.
        partition_ring: PartitionRingConfig = PartitionRingConfig::default(),
        /// Flush workers.
        concurrent_flushes: usize = 4,
        /// Interval of the check for what is to be cut or flushed.
        flush_check_period: GoDuration = GoDuration::seconds(10),
        /// Limit of one flush.
        flush_op_timeout: GoDuration = GoDuration::minutes(5),
        /// Silence until a live trace is cut.
        trace_idle_period: GoDuration = GoDuration::seconds(5),
        /// Age until a live trace is cut.
        trace_live_period: GoDuration = GoDuration::seconds(30),
        /// Age until the head block is cut.
        max_block_duration: GoDuration = GoDuration::minutes(30),
        /// Size until the head block is cut.
        max_block_bytes: u64 = 524_288_000,
        /// Time a flushed block is kept.
        complete_block_timeout: GoDuration = GoDuration::minutes(15),
        /// Ring key.
        override_ring_key: String = text("ring"),
        /// Flush to the backend before the process ends.
        flush_all_on_shutdown: bool = false,
        /// Flush to the backend at all.
        flush_object_storage: bool = true,
    }
}
