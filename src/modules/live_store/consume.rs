//! Moves records of one partition from the ingest log into live traces.
//!
//! Invariant: a batch of records is either wholly in memory, with the position behind it, or not taken at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::live_traces::{Segment, merge_segments};
use super::{LiveStore, LiveStoreError, metrics as names};
use crate::model::ids::{TenantId, TraceId};
use crate::model::otlp_table::{Built, Fragment, build_table};
use crate::model::wire::{Fields, WireError};
use crate::services::ingest_log::{ConsumedRecord, LogError, Offset, PartitionId};

/// Record bytes taken at once. Bounds the memory of a batch and keeps segments worth their overhead while catching up.
const FETCH_BYTES: usize = 4 << 20;
/// Longest wait for new records; a stop does not wait for it.
const FETCH_WAIT: Duration = Duration::from_secs(5);
/// Pause after the log failed in a way that may pass.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How often a consumer that waits for memory looks again.
const MEMORY_PAUSE: Duration = Duration::from_millis(20);

impl LiveStore {
    /// Consumes `partition` from `next` on until `stop` fires or the log fails for good.
    pub(super) async fn consume(
        self: Arc<Self>,
        partition: PartitionId,
        mut next: Offset,
        stop: CancellationToken,
    ) -> Result<(), LiveStoreError> {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.wait_for_memory() => {}
            }
            let fetched = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                fetched = self.log.fetch(partition, next, FETCH_BYTES, FETCH_WAIT) => fetched,
            };
            match fetched {
                Ok(records) => {
                    let Some(last) = records.last() else { continue };
                    let behind = last.offset.next();
                    self.take_in(partition, records, behind).await?;
                    next = behind;
                    self.merge_if_many(partition).await?;
                }
                Err(failure @ LogError::OffsetOutOfRange { .. }) => {
                    error!(%partition, offset = %next, err = &failure as &dyn std::error::Error, "log lost records, starting at its begin");
                    next = self.log.offsets(partition).await?.start;
                    // The old position is behind the end: committing it would skip what is appended from now on.
                    self.state.lock().positions.insert(partition, next);
                }
                Err(failure) if failure.is_retryable() => {
                    warn!(%partition, err = &failure as &dyn std::error::Error, "log cannot be read, trying again");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// Waits while flushing lags behind so much that more spans would break the memory budget.
    async fn wait_for_memory(&self) {
        let Some(reason) = self.memory_shortage() else { return };
        self.cut_wanted.notify_one();
        let started = tokio::time::Instant::now();
        while self.memory_shortage().is_some() {
            tokio::time::sleep(MEMORY_PAUSE).await;
        }
        let waited = started.elapsed().as_secs_f64();
        counter!(names::BACK_PRESSURE_SECONDS, "reason" => reason).increment(waited.round() as u64);
        histogram!(names::BACK_PRESSURE_DURATION).record(waited);
    }

    async fn take_in(&self, partition: PartitionId, records: Vec<ConsumedRecord>, behind: Offset) -> Result<(), LiveStoreError> {
        let batches = self.cpu.run("build_segments", move || build_segments(partition, &records)).await?;
        let mut over_size = false;
        {
            let mut state = self.state.lock();
            for batch in batches {
                let tenant = batch.tenant.as_str().to_owned();
                counter!(names::RECORDS_PROCESSED, "tenant" => tenant.clone()).increment(batch.records);
                counter!(names::BYTES_RECEIVED, "tenant" => tenant.clone(), "data_type" => "trace").increment(batch.bytes);
                if batch.undecodable > 0 {
                    counter!(names::RECORDS_DROPPED, "tenant" => tenant.clone(), "reason" => "decoding_failed")
                        .increment(batch.undecodable);
                    warn!(tenant, count = batch.undecodable, "parts of records could not be decoded and were left out");
                }
                let Some(segment) = batch.segment else { continue };
                let traces = state.tenants.entry(batch.tenant).or_default();
                counter!(names::TRACES_CREATED, "tenant" => tenant).increment(traces.append(segment) as u64);
                over_size |= traces.live_bytes() >= self.config.max_block_bytes as usize;
            }
            state.positions.insert(partition, behind);
        }
        self.positions_moved.notify_waiters();
        if over_size {
            self.cut_wanted.notify_one();
        }
        Ok(())
    }

    async fn merge_if_many(&self, partition: PartitionId) -> Result<(), LiveStoreError> {
        let crowded: Vec<_> = {
            let state = self.state.lock();
            state.tenants.iter().filter_map(|(tenant, traces)| Some((tenant.clone(), traces.segments_to_merge(partition)?))).collect()
        };
        for (tenant, parts) in crowded {
            let sources = parts.clone();
            let merged = self.cpu.run("merge_segments", move || merge_segments(&sources)).await?;
            if let Some(traces) = self.state.lock().tenants.get_mut(&tenant) {
                traces.replace(&parts, merged);
            }
        }
        Ok(())
    }
}

/// What a batch of records holds for one tenant.
struct TenantBatch {
    tenant: TenantId,
    segment: Option<Segment>,
    records: u64,
    bytes: u64,
    /// Records, resources, scopes or spans that are not what they should be.
    undecodable: u64,
}

/// Groups records by tenant and builds a segment for each. Records under an invalid tenant id are counted under the single tenant.
fn build_segments(partition: PartitionId, records: &[ConsumedRecord]) -> Vec<TenantBatch> {
    let mut by_tenant = BTreeMap::<&[u8], Vec<&ConsumedRecord>>::new();
    for record in records {
        by_tenant.entry(&record.key).or_default().push(record);
    }
    by_tenant
        .into_iter()
        .map(|(key, records)| {
            let bytes = records.iter().map(|record| record.value.len() as u64).sum();
            let count = records.len() as u64;
            match std::str::from_utf8(key).ok().and_then(|key| TenantId::parse(key).ok()) {
                Some(tenant) => {
                    let (segment, undecodable) = build_segment(partition, &records);
                    TenantBatch { tenant, segment, records: count, bytes, undecodable }
                }
                None => TenantBatch { tenant: TenantId::single(), segment: None, records: count, bytes, undecodable: count },
            }
        })
        .collect()
}

/// Builds the segment of records of one tenant; `None` when they hold no span. Also returns how many things could not be decoded.
fn build_segment(partition: PartitionId, records: &[&ConsumedRecord]) -> (Option<Segment>, u64) {
    let mut fragments = Vec::new();
    let mut undecodable = 0;
    for record in records {
        undecodable += u64::from(read_push(&record.value, &mut fragments).is_err());
    }
    let Built { table, undecodable: broken, .. } = build_table(fragments);
    let first_offset = records[0].offset;
    let times = || records.iter().map(|record| record.timestamp_unix_ms);
    let (oldest, newest) = (times().min().unwrap_or_default(), times().max().unwrap_or_default());
    let segment = (table.trace_count() > 0).then(|| Segment::new(table, partition, first_offset, oldest, newest));
    (segment, undecodable + broken as u64)
}

/// Adds the traces of a `PushBytesRequest`: field 2 holds messages, field 3 their ids in the same order (wire §2.1).
fn read_push<'a>(value: &'a [u8], fragments: &mut Vec<Fragment<'a>>) -> Result<(), WireError> {
    let (mut traces, mut ids) = (Vec::new(), Vec::new());
    let mut fields = Fields::new(value);
    while let Some(field) = fields.next_field()? {
        match field.number {
            2 => traces.push(field.bytes()?),
            3 => ids.push(TraceId::from_bytes(field.bytes()?)),
            _ => {}
        }
    }
    if traces.len() != ids.len() {
        return Err(WireError::Truncated);
    }
    fragments.extend(ids.into_iter().zip(traces).map(|(trace_id, trace)| Fragment { trace_id, trace }));
    Ok(())
}
