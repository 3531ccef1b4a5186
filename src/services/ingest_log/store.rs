//! What the writers and the handle of one embedded log share: options, partitions, commits and the space on disk; and retention.
//!
//! A segment is deleted when every holding group has committed past its records and `retain_committed` has passed, or at once when the log
//! has reached `max_bytes`. Records that a group still needs are never deleted: then appends fail, and lag and fill level show why.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::{info, warn};

use super::commits::{Commits, Holders};
use super::embedded::EmbeddedLogOptions;
use super::files::Files;
use super::metrics::{self, LogMetrics};
use super::partition::Partition;
use super::{ConsumerGroup, Lag, LogError, Offset, PartitionId};
use crate::base::clock::SharedClock;

/// How long after opening the groups of an earlier run hold records without having registered. Roles register when they are built;
/// later than this a group belongs to a role that is configured away.
const UNREGISTERED_HOLD: Duration = Duration::from_secs(600);

/// How urgently committed segments are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deletion {
    /// Those older than `retain_committed`.
    ByAge,
    /// All: space is needed.
    ForSpace,
}

pub(super) struct Store {
    pub(super) options: EmbeddedLogOptions,
    pub(super) clock: SharedClock,
    pub(super) files: Box<dyn Files>,
    pub(super) commits: Commits,
    /// By partition number.
    pub(super) partitions: Vec<Partition>,
    used_bytes: AtomicU64,
    opened_unix_ms: u64,
    metrics: LogMetrics,
}

impl Store {
    pub(super) fn new(
        options: EmbeddedLogOptions,
        clock: SharedClock,
        files: Box<dyn Files>,
        commits: Commits,
        partitions: Vec<Partition>,
    ) -> Self {
        let used_bytes = partitions.iter().map(Partition::bytes).sum();
        let metrics = LogMetrics::new(options.max_bytes);
        let opened_unix_ms = unix_ms(&clock);
        let store = Self { options, clock, files, commits, partitions, used_bytes: AtomicU64::new(0), opened_unix_ms, metrics };
        store.take_space(used_bytes);
        store
    }

    pub(super) fn partition(&self, id: PartitionId) -> Result<&Partition, LogError> {
        let index = usize::try_from(id.0).ok();
        index.and_then(|index| self.partitions.get(index)).ok_or(LogError::UnknownPartition { partition: id })
    }

    pub(super) fn take_space(&self, bytes: u64) {
        let used = self.used_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.metrics.bytes.set(used as f64);
    }

    pub(super) fn give_back_space(&self, bytes: u64) {
        let used = self.used_bytes.fetch_sub(bytes, Ordering::Relaxed).saturating_sub(bytes);
        self.metrics.bytes.set(used as f64);
    }

    /// Whether `bytes` more fit below `max_bytes`. Writers of several partitions may together exceed it by one group each.
    pub(super) fn has_space(&self, bytes: u64) -> bool {
        self.used_bytes.load(Ordering::Relaxed).saturating_add(bytes) <= self.options.max_bytes
    }

    /// Returns the offset below which a partition's records may be deleted.
    pub(super) fn deletion_floor(&self, partition: PartitionId) -> Option<Offset> {
        let hold_ms = u64::try_from(UNREGISTERED_HOLD.as_millis()).unwrap_or(u64::MAX);
        let is_settled = unix_ms(&self.clock) >= self.opened_unix_ms.saturating_add(hold_ms);
        self.commits.floor(partition, if is_settled { Holders::Registered } else { Holders::All })
    }

    /// Deletes committed segments of all partitions. Blocks. A file that cannot be removed is left behind and taken up again when the log
    /// is next opened.
    pub(super) fn delete_committed(&self, deletion: Deletion) {
        for partition in &self.partitions {
            if let Some(floor) = self.deletion_floor(partition.id) {
                self.delete_below(partition, floor, deletion);
            }
        }
    }

    /// Deletes the segments of a partition that end at or below `floor`. Blocks.
    fn delete_below(&self, partition: &Partition, floor: Offset, deletion: Deletion) {
        let retain = self.options.retain_committed;
        let produced_until_unix_ms = match deletion {
            Deletion::ByAge if !retain.is_zero() => {
                unix_ms(&self.clock).saturating_sub(u64::try_from(retain.as_millis()).unwrap_or(u64::MAX))
            }
            Deletion::ByAge | Deletion::ForSpace => u64::MAX,
        };
        let (paths, bytes) = partition.take_deletable(floor, produced_until_unix_ms);
        if paths.is_empty() {
            return;
        }
        for path in &paths {
            if let Err(error) = self.files.remove(path) {
                warn!(path = %path.display(), %error, "cannot remove a log segment");
            }
        }
        self.give_back_space(bytes);
        info!(partition = %partition.id, segments = paths.len(), bytes, "deleted committed log segments");
    }

    pub(super) fn lag(&self, group: &ConsumerGroup, partition: &Partition) -> Lag {
        let range = partition.range();
        let position = self.commits.committed(group, partition.id).unwrap_or(range.start).max(range.start);
        let time = partition.timestamp_near(position).map_or(0, |timestamp| unix_ms(&self.clock).saturating_sub(timestamp));
        Lag { records: range.end.0.saturating_sub(position.0), time: Duration::from_millis(time) }
    }

    pub(super) fn publish_lags(&self) {
        for group in self.commits.registered() {
            for partition in &self.partitions {
                metrics::publish_lag(&group, partition.id, self.lag(&group, partition));
            }
        }
    }
}

fn unix_ms(clock: &SharedClock) -> u64 {
    clock.now_unix_nanos() / 1_000_000
}
