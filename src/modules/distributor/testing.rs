//! A log in memory, and a distributor in front of it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use prost::Message;

use super::Distributor;
use super::limits::{FixedLimits, TenantLimits};
use super::options::DistributorOptions;
use crate::base::clock::ManualClock;
use crate::base::cpu_pool::CpuPool;
use crate::model::otlp::testing::tempopb::{PushBytesRequest, Trace};
use crate::services::ingest_log::{ConsumedRecord, ConsumerGroup, IngestLog, Lag, LogError, Offset, OffsetRange, PartitionId, Record};

/// The time of every test: 2026-09-21, in nanoseconds.
pub(super) const NOW: u64 = 1_790_000_000_000_000_000;

/// Keeps what is appended, or fails as told.
#[derive(Default)]
pub(super) struct MemoryLog {
    pub(super) partitions: u32,
    pub(super) failure: Mutex<Option<LogError>>,
    /// Appends never end.
    pub(super) hangs: bool,
    pub(super) records: Mutex<Vec<(PartitionId, Record)>>,
}

impl MemoryLog {
    pub(super) fn with_partitions(partitions: u32) -> Self {
        Self { partitions, ..Self::default() }
    }

    /// Decoded records in the order of their appending.
    pub(super) fn decoded(&self) -> Vec<(PartitionId, String, PushBytesRequest)> {
        let decode = |(partition, record): &(PartitionId, Record)| {
            let key = String::from_utf8(record.key.to_vec()).unwrap();
            (*partition, key, PushBytesRequest::decode(record.value.concat().as_slice()).unwrap())
        };
        self.records.lock().iter().map(decode).collect()
    }

    /// Spans of all records.
    pub(super) fn span_count(&self) -> usize {
        let traces = self.decoded().into_iter().flat_map(|(_, _, record)| record.traces);
        let spans = traces.map(|trace| {
            let trace = Trace::decode(trace).unwrap();
            trace.resource_spans.iter().flat_map(|rs| &rs.scope_spans).map(|ss| ss.spans.len()).sum::<usize>()
        });
        spans.sum()
    }
}

#[async_trait]
impl IngestLog for MemoryLog {
    fn partitions(&self) -> Vec<PartitionId> {
        (0..self.partitions).map(PartitionId).collect()
    }

    async fn append(&self, partition: PartitionId, records: Vec<Record>) -> Result<Offset, LogError> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        if let Some(failure) = self.failure.lock().clone() {
            return Err(failure);
        }
        let mut kept = self.records.lock();
        let first = Offset(kept.len() as u64);
        kept.extend(records.into_iter().map(|record| (partition, record)));
        Ok(first)
    }

    async fn fetch(&self, _: PartitionId, _: Offset, _: usize, _: Duration) -> Result<Vec<ConsumedRecord>, LogError> {
        Err(LogError::Closed)
    }

    async fn register_group(&self, _: &ConsumerGroup) -> Result<(), LogError> {
        Err(LogError::Closed)
    }

    async fn commit(&self, _: &ConsumerGroup, _: PartitionId, _: Offset) -> Result<(), LogError> {
        Err(LogError::Closed)
    }

    async fn committed(&self, _: &ConsumerGroup, _: PartitionId) -> Result<Option<Offset>, LogError> {
        Err(LogError::Closed)
    }

    async fn offsets(&self, _: PartitionId) -> Result<OffsetRange, LogError> {
        Err(LogError::Closed)
    }

    async fn lag(&self, _: &ConsumerGroup, _: PartitionId) -> Result<Lag, LogError> {
        Err(LogError::Closed)
    }

    async fn close(&self) -> Result<(), LogError> {
        Ok(())
    }
}

/// A distributor over `log` whose clock stands at [`NOW`].
pub(super) fn distributor(options: DistributorOptions, limits: TenantLimits, log: Arc<dyn IngestLog>) -> Distributor {
    let cpu = CpuPool::new("test", 1).unwrap();
    Distributor::new(options, Arc::new(FixedLimits(limits)), log, Arc::new(ManualClock::at(NOW)), cpu)
}
