//! `live_store:`.

use crate::base::config_block::{config_block, text};
use crate::base::duration::GoDuration;
use crate::services::ring::config::{PartitionRingConfig, RingConfig};
use crate::tempodb::config::WalConfig;

config_block! {
    /// `live_store:`.
    pub struct LiveStoreConfig {
        /// Instance ring (key `live-store`).
        ring: RingConfig = RingConfig::default(),
        /// Partition ring (key `livestore-partitions`).
        partition_ring: PartitionRingConfig = PartitionRingConfig::default(),
        /// TraceQL metrics.
        metrics: LiveStoreMetricsConfig = LiveStoreMetricsConfig::default(),
        /// Interval of offset commits; 0: synchronous.
        commit_interval: GoDuration = GoDuration::seconds(5),
        /// Write-ahead log. The embedded ingest log is one itself: then only what an earlier system left here is taken over at start.
        wal: WalConfig = WalConfig::at("/var/tempo/live-store/traces"),
        /// Blocks read at once per query; > 0.
        query_block_concurrency: usize = 10,
        /// Time completed blocks are kept; > 0.
        complete_block_timeout: GoDuration = GoDuration::minutes(20),
        /// Blocks completed at once; > 0.
        complete_block_concurrency: usize = 2,
        /// Deletion of files is delayed by this for readers; > 0.
        block_reclaim_grace: GoDuration = GoDuration::minutes(2),
        /// Marker that tells a wanted stop from a crash.
        shutdown_marker_dir: String = text("/var/tempo/live-store/shutdown-marker"),
        /// Interval of the check for what is to be cut; > 0.
        flush_check_period: GoDuration = GoDuration::seconds(5),
        /// Clean-up interval (the name is historical); > 0.
        flush_op_timeout: GoDuration = GoDuration::minutes(5),
        /// Longest buffering of a trace; > 0.
        max_trace_live: GoDuration = GoDuration::seconds(30),
        /// Silence until a trace is cut; > 0, at most `max_trace_live`.
        max_trace_idle: GoDuration = GoDuration::seconds(5),
        /// Bytes of traces in memory, all tenants together; consuming waits above it; 0: off.
        max_live_traces_bytes: u64 = 250_000_000,
        /// Age limit of the head block; > 0.
        max_block_duration: GoDuration = GoDuration::seconds(30),
        /// Size limit of the head block; > 0.
        max_block_bytes: u64 = 52_428_800,
        /// Lag below which this instance is ready; 0: ready at once.
        readiness_target_lag: GoDuration = GoDuration::ZERO,
        /// Longest wait for that lag.
        readiness_max_wait: GoDuration = GoDuration::minutes(30),
        /// Fail queries whose answer could be incomplete.
        fail_on_high_lag: bool = true,
        /// Leave the partition ring on stop.
        remove_owner_on_shutdown: bool = true,
    }

    /// `live_store.metrics`, `querier.metrics` (there with one more key).
    pub struct LiveStoreMetricsConfig {
        /// 0 … 1; below it trace time columns are skipped.
        time_overlap_cutoff: f64 = 0.2,
    }
}

impl LiveStoreConfig {
    /// Returns the start errors of this block. `has_own_process`: the target is not `all`, so the instance id must carry a number.
    pub fn validate(&self, has_own_process: bool) -> Vec<String> {
        let mut problems = Vec::new();
        for (key, value) in [
            ("complete_block_timeout", self.complete_block_timeout),
            ("block_reclaim_grace", self.block_reclaim_grace),
            ("flush_check_period", self.flush_check_period),
            ("flush_op_timeout", self.flush_op_timeout),
            ("max_trace_live", self.max_trace_live),
            ("max_trace_idle", self.max_trace_idle),
            ("max_block_duration", self.max_block_duration),
        ] {
            if value <= GoDuration::ZERO {
                problems.push(format!("{key} must be greater than 0, got {value}"));
            }
        }
        for (key, is_zero) in [
            ("query_blocks", self.query_block_concurrency == 0),
            ("complete_block_concurrency", self.complete_block_concurrency == 0),
            ("max_block_bytes", self.max_block_bytes == 0),
        ] {
            if is_zero {
                problems.push(format!("{key} must be greater than 0, got 0"));
            }
        }
        if self.max_trace_idle > self.max_trace_live {
            problems
                .push(format!("max_trace_idle ({}) cannot be greater than max_trace_live ({})", self.max_trace_idle, self.max_trace_live));
        }
        let ends_in_number = self
            .ring
            .instance_id
            .rsplit_once('-')
            .is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
        if has_own_process && !ends_in_number {
            problems.push(format!("ingester ID {} doesn't match regular expression \"-([0-9]+)$\"", self.ring.instance_id));
        }
        problems
    }
}
