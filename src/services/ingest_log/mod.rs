//! The ingest log: partitions of records that distributors append to and that block-builders, live-stores, metrics-generators and
//! samplers consume, each consumer group at its own pace.
//!
//! [`IngestLog`] is the boundary. [`EmbeddedLog`](embedded::EmbeddedLog) implements it with local files for deployments where producers
//! and consumers share a process; a Kafka client implements the same trait. Consumers are written once against the trait.
//!
//! Not here: what a record's value means (an encoded `PushBytesRequest` for spans), which partition a trace belongs to (the ring).
//!
//! Invariants
//! * An append is answered only when its records are durable: after the fsync of its group, or after the brokers' acknowledgement.
//! * A record is visible to consumers only after it is durable, so a consumer never sees an offset that a crash could give away again.
//! * Offsets of a partition only grow. They may have gaps: removed or damaged records leave a hole, which consumers step over.
//! * Delivery is at least once: after a crash a consumer starts again at its committed offset.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use error::LogError;

mod commits;
pub mod config;
#[cfg(test)]
mod crash_simulation;
pub mod embedded;
mod error;
mod files;
mod frame;
pub mod metrics;
mod partition;
mod segment;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod writer;

/// Number of a partition, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Position of a record in its partition, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// The position behind this one: what a consumer commits after processing this record.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Name under which consumers share committed offsets: `block-builder`, `metrics-generator`, a live-store's instance id without ordinal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerGroup(Arc<str>);

impl ConsumerGroup {
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConsumerGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A named value beside a record's value. Span records have none; the adaptive-traces log marks its record version with one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHeader {
    pub key: Bytes,
    pub value: Bytes,
}

/// A record to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Tenant id bytes for span records. At most 65,535 bytes.
    pub key: Bytes,
    pub headers: Vec<RecordHeader>,
    /// The value as consecutive slices, so that a producer can splice parts of a request buffer without joining them first.
    pub value: Vec<Bytes>,
    /// When the record was produced, in milliseconds since the Unix epoch. Consumers take it as the ingestion time.
    pub timestamp_unix_ms: u64,
}

impl Record {
    /// A record without headers whose value is one slice.
    pub fn new(key: Bytes, value: Bytes, timestamp_unix_ms: u64) -> Self {
        Self { key, headers: Vec::new(), value: vec![value], timestamp_unix_ms }
    }

    /// Length of the value in bytes.
    pub fn value_bytes(&self) -> usize {
        self.value.iter().map(Bytes::len).sum()
    }
}

/// A record as read back. Its `Bytes` share one buffer with the records of the same read; keep copies, not slices, for the long run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumedRecord {
    pub offset: Offset,
    pub timestamp_unix_ms: u64,
    pub key: Bytes,
    pub headers: Vec<RecordHeader>,
    pub value: Bytes,
}

/// Where a partition begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    /// The oldest offset that may still be held.
    pub start: Offset,
    /// The offset that the next appended record will get.
    pub end: Offset,
}

/// How far a consumer group is behind in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// Records between the committed offset (or the partition's start) and its end.
    pub records: u64,
    /// Age of the first record that is not committed; zero when caught up.
    pub time: Duration,
}

/// A partitioned, durable log of records with consumer groups.
#[async_trait]
pub trait IngestLog: Send + Sync + 'static {
    /// Returns the partitions that may be written and read, ascending.
    fn partitions(&self) -> Vec<PartitionId>;

    /// Appends records as one unit of acknowledgement and returns the offset of the first, once all are durable. The others follow
    /// without a gap in the embedded log; with Kafka they only follow in order.
    ///
    /// Waits while too much is queued for the partition. After an error nothing of the call is visible, except that a crash or a lost
    /// answer may have left some of the records behind: producers that retry may duplicate. An empty list returns the end offset.
    /// Not cancel-safe: records of a dropped call may still be appended.
    async fn append(&self, partition: PartitionId, records: Vec<Record>) -> Result<Offset, LogError>;

    /// Returns records from `from` on, in offset order: at least one when there is any, otherwise about `max_bytes` at most.
    ///
    /// At the end of the partition it waits up to `max_wait` for new records, then returns an empty list. An offset that is no longer
    /// held is moved forward to the oldest held one. Continue at the last returned offset's [`Offset::next`]. Cancel-safe.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`] when `from` is behind the end.
    async fn fetch(
        &self,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
        max_wait: Duration,
    ) -> Result<Vec<ConsumedRecord>, LogError>;

    /// Announces that this process consumes for `group`. From then on records are kept until the group has committed them. Call it
    /// before the first fetch. With Kafka it does nothing.
    async fn register_group(&self, group: &ConsumerGroup) -> Result<(), LogError>;

    /// Stores `next`, the first offset that `group` has not processed, and returns once that is durable. It may move backwards.
    async fn commit(&self, group: &ConsumerGroup, partition: PartitionId, next: Offset) -> Result<(), LogError>;

    /// Returns the committed offset of `group`; `None` before its first commit, when a consumer begins at the partition's start.
    async fn committed(&self, group: &ConsumerGroup, partition: PartitionId) -> Result<Option<Offset>, LogError>;

    /// Returns the first held offset and the end of a partition.
    async fn offsets(&self, partition: PartitionId) -> Result<OffsetRange, LogError>;

    /// Returns how far `group` is behind, by its committed offset.
    async fn lag(&self, group: &ConsumerGroup, partition: PartitionId) -> Result<Lag, LogError>;

    /// Finishes the appends already queued and releases the log. Later calls fail with [`LogError::Closed`].
    async fn close(&self) -> Result<(), LogError>;
}

/// The log as handed to roles.
pub type SharedIngestLog = Arc<dyn IngestLog>;
