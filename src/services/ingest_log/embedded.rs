//! The embedded log (local files). Filled in by the following commits.

use std::path::PathBuf;
use std::time::Duration;

use super::ConsumerGroup;

/// When an append is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// After a group fsync: survives power loss.
    #[default]
    Disk,
    /// After `write(2)`: survives the death of the process, not of the machine.
    Process,
}

/// How an embedded log is laid out and bounded. Defaults are those of `ingest.embedded`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedLogOptions {
    /// Directory of the log, exclusively locked while it is open.
    pub path: PathBuf,
    /// Number of partitions; fixed once the log holds records.
    pub partitions: u32,
    /// A new segment file begins when this many bytes would be exceeded.
    pub segment_bytes: u64,
    /// All segments together. When committed segments do not make room, appends fail with `LogError::Full`.
    pub max_bytes: u64,
    /// Longest time that a group of appends is collected before its fsync. An idle log never waits.
    pub sync_interval: Duration,
    pub durability: Durability,
    /// Consumer groups of this process: what none of them has committed is never deleted. More may register later.
    pub groups: Vec<ConsumerGroup>,
    /// Keeps committed segments for this long after their last record, as long as `max_bytes` allows.
    pub retain_committed: Duration,
    /// Records kept in memory for consumers that are caught up, in bytes over all partitions.
    pub tail_bytes: usize,
    /// Bytes of appends that may wait for one partition's writer. Full: appends wait.
    pub queue_bytes: usize,
}

impl Default for EmbeddedLogOptions {
    fn default() -> Self {
        Self {
            path: PathBuf::from("/var/tempo/ingest"),
            partitions: 1,
            segment_bytes: 64 << 20,
            max_bytes: 20 << 30,
            sync_interval: Duration::from_millis(10),
            durability: Durability::Disk,
            groups: Vec::new(),
            retain_committed: Duration::ZERO,
            tail_bytes: 32 << 20,
            queue_bytes: 64 << 20,
        }
    }
}
