//! Jobs of a query: how blocks are cut, how many jobs a tenant may have, retries.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use parking_lot::Mutex;

use super::metrics::{DISCARDED_REQUESTS, QUEUE_LENGTH, RETRIES};
use crate::base::error_class::ErrorClass;
use crate::model::ids::TenantId;
use crate::services::rpc::querier::SearchPart;
use crate::services::rpc::status::CallError;
use crate::tempodb::block::meta::{BlockId, BlockMeta};

/// A piece of a search or tag query.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) tenant: TenantId,
    pub(super) part: SearchPart,
    /// No trace of the part starts later, in seconds; `u32::MAX` for recent data.
    pub(super) newest_unix_seconds: u32,
}

/// The jobs of a query and what they cover.
#[derive(Debug, Default)]
pub(super) struct JobPlan {
    pub(super) jobs: Vec<Job>,
    pub(super) blocks: u32,
    pub(super) block_bytes: u64,
}

impl JobPlan {
    /// Adds the job for the recent data of `tenant`.
    pub(super) fn add_recent(&mut self, tenant: &TenantId) {
        self.jobs.push(Job { tenant: tenant.clone(), part: SearchPart::Recent, newest_unix_seconds: u32::MAX });
    }

    /// Returns the blocks of `tenant` that have jobs, each once.
    pub(super) fn blocks_of(&self, tenant: &TenantId) -> Vec<Arc<BlockMeta>> {
        let mut seen = HashSet::new();
        let metas = self.jobs.iter().filter(|job| job.tenant == *tenant).filter_map(|job| match &job.part {
            SearchPart::Recent => None,
            SearchPart::Block { meta, .. } => Some(meta),
        });
        metas.filter(|meta| seen.insert(meta.block_id)).cloned().collect()
    }

    /// Drops the jobs for all blocks of `tenant` but those in `left`.
    pub(super) fn keep_blocks(&mut self, tenant: &TenantId, left: &[BlockId]) {
        let left: HashSet<_> = left.iter().collect();
        self.jobs.retain(|job| match &job.part {
            SearchPart::Block { meta, .. } if job.tenant == *tenant => left.contains(&meta.block_id),
            SearchPart::Block { .. } | SearchPart::Recent => true,
        });
    }

    /// Adds the jobs for blocks of `tenant`, the first `max_blocks` (0: all) in their order.
    pub(super) fn add_blocks(&mut self, tenant: &TenantId, blocks: Vec<Arc<BlockMeta>>, target_bytes: u64, max_blocks: usize) {
        let max_blocks = if max_blocks == 0 { usize::MAX } else { max_blocks };
        for meta in blocks.into_iter().take(max_blocks) {
            self.blocks += 1;
            self.block_bytes = self.block_bytes.saturating_add(meta.size_bytes);
            // Block times are whole seconds: a trace may start within the last one.
            let newest = meta.start_time.as_second().max(meta.end_time.as_second()).saturating_add(1);
            let newest = u32::try_from(newest).unwrap_or(u32::MAX - 1);
            for row_groups in split_block(&meta, target_bytes) {
                let part = SearchPart::Block { meta: meta.clone(), row_groups };
                self.jobs.push(Job { tenant: tenant.clone(), part, newest_unix_seconds: newest });
            }
        }
    }
}

/// Returns the jobs of one block: runs of whole row groups in file order, about `target_bytes` each, at least one row group.
///
/// Row groups are taken as equally large, so jobs of a skewed block may exceed the target. The last run has no end, because the meta of foreign writers
/// may count row groups wrong; whoever executes it stops at the end of the file.
fn split_block(meta: &BlockMeta, target_bytes: u64) -> Vec<std::ops::Range<usize>> {
    let row_groups = meta.total_records.max(1) as usize;
    let row_group_bytes = (meta.size_bytes / row_groups as u64).max(1);
    let per_job = match target_bytes {
        target if meta.size_bytes <= target => row_groups,
        target => usize::try_from(target / row_group_bytes).unwrap_or(usize::MAX).max(1),
    };
    let starts = (0..row_groups).step_by(per_job);
    starts.map(|start| start..if start + per_job >= row_groups { usize::MAX } else { start + per_job }).collect()
}

/// Returns the ranges of block ids of `shards` jobs (wire, block boundaries): equal parts of the id space by the first 8 bytes.
pub(super) fn block_id_ranges(shards: usize) -> Vec<(BlockId, BlockId)> {
    let shards = shards.max(1) as u64;
    let (width, longer) = (u64::MAX / shards, u64::MAX % shards);
    let bound = |index: u64| u128::from(index * width + index.min(longer)) << 64;
    let id = |bits: u128| BlockId(uuid::Uuid::from_u128(bits));
    (0..shards).map(|index| (id(bound(index)), id(if index + 1 == shards { u128::MAX } else { bound(index + 1) - 1 }))).collect()
}

/// Counts the jobs of each tenant that are under way. Full: further jobs are refused.
#[derive(Debug)]
pub(super) struct JobSlots {
    max_per_tenant: usize,
    taken: Mutex<HashMap<TenantId, usize>>,
}

/// A job's place; given back when dropped.
#[derive(Debug)]
pub(super) struct JobSlot<'a> {
    slots: &'a JobSlots,
    tenant: &'a TenantId,
}

impl JobSlots {
    pub(super) fn new(max_per_tenant: usize) -> Self {
        Self { max_per_tenant, taken: Mutex::default() }
    }

    pub(super) fn take<'a>(&'a self, tenant: &'a TenantId) -> Result<JobSlot<'a>, CallError> {
        let mut taken = self.taken.lock();
        let count = taken.entry(tenant.clone()).or_default();
        if *count >= self.max_per_tenant {
            counter!(DISCARDED_REQUESTS, "user" => tenant.to_string()).increment(1);
            return Err(CallError::new(ErrorClass::TooManyRequests, "job queue full"));
        }
        *count += 1;
        gauge!(QUEUE_LENGTH, "user" => tenant.to_string()).set(*count as f64);
        Ok(JobSlot { slots: self, tenant })
    }
}

impl Drop for JobSlot<'_> {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock();
        if let Some(count) = taken.get_mut(self.tenant) {
            *count -= 1;
            gauge!(QUEUE_LENGTH, "user" => self.tenant.to_string()).set(*count as f64);
            if *count == 0 {
                taken.remove(self.tenant);
            }
        }
    }
}

/// Wait before a retry: this plus up to as much again, so that jobs of a failing querier do not come back all at once.
const RETRY_WAIT: Duration = Duration::from_millis(10);

/// Calls until it succeeds, fails for good or was tried `max_tries` times; failures of ours are retried, those of the request are not.
///
/// A refusal of the request by a querier becomes an internal error: the frontend has validated it (read-path, status adjustment).
pub(super) async fn with_retries<T, F>(max_tries: usize, mut call: impl FnMut() -> F) -> Result<T, CallError>
where
    F: Future<Output = Result<T, CallError>>,
{
    let mut failed = 0;
    loop {
        let error = match call().await {
            Ok(reply) => {
                histogram!(RETRIES).record(failed as f64);
                return Ok(reply);
            }
            Err(error) => error,
        };
        failed += 1;
        if failed >= max_tries.max(1) || !is_retried(error.class) {
            histogram!(RETRIES).record(failed as f64);
            return Err(adjusted(error));
        }
        tokio::time::sleep(RETRY_WAIT.mul_f64(1.0 + rand::random::<f64>())).await;
    }
}

fn is_retried(class: ErrorClass) -> bool {
    match class {
        ErrorClass::Internal | ErrorClass::Unavailable | ErrorClass::TimedOut => true,
        ErrorClass::Invalid
        | ErrorClass::Unauthenticated
        | ErrorClass::Forbidden
        | ErrorClass::NotFound
        | ErrorClass::AlreadyExists
        | ErrorClass::FailedPrecondition
        | ErrorClass::TooManyRequests
        | ErrorClass::Overloaded
        | ErrorClass::Cancelled
        | ErrorClass::Unsupported => false,
    }
}

fn adjusted(error: CallError) -> CallError {
    match error.class {
        ErrorClass::Invalid | ErrorClass::Unauthenticated | ErrorClass::Forbidden => CallError::internal(error.message),
        ErrorClass::NotFound
        | ErrorClass::AlreadyExists
        | ErrorClass::FailedPrecondition
        | ErrorClass::TooManyRequests
        | ErrorClass::Overloaded
        | ErrorClass::Unavailable
        | ErrorClass::TimedOut
        | ErrorClass::Cancelled
        | ErrorClass::Unsupported
        | ErrorClass::Internal => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_failures_of_ours_are_retried() {
        for (class, expected_calls, expected_class) in [
            (ErrorClass::Internal, 2, ErrorClass::Internal),
            (ErrorClass::Invalid, 1, ErrorClass::Internal),
            (ErrorClass::TooManyRequests, 1, ErrorClass::TooManyRequests),
        ] {
            let mut calls = 0;
            let result: Result<(), _> = with_retries(2, || {
                calls += 1;
                std::future::ready(Err(CallError::new(class, "x")))
            })
            .await;
            assert_eq!((calls, result.unwrap_err().class), (expected_calls, expected_class));
        }
        let mut calls = 0;
        let result = with_retries(2, || {
            calls += 1;
            std::future::ready(if calls == 1 { Err(CallError::internal("x")) } else { Ok(calls) })
        });
        assert_eq!(result.await, Ok(2));
    }

    #[test]
    fn slots_are_bounded_per_tenant_and_given_back() {
        let slots = JobSlots::new(1);
        let (a, b) = (TenantId::parse("a").unwrap(), TenantId::parse("b").unwrap());
        let slot = slots.take(&a).unwrap();
        assert_eq!(slots.take(&a).unwrap_err().message, "job queue full");
        assert!(slots.take(&b).is_ok());
        drop(slot);
        assert!(slots.take(&a).is_ok());
        assert!(slots.taken.lock().is_empty());
    }

    #[test]
    fn blocks_are_cut_at_row_groups() {
        let meta = |size_bytes: u64, total_records: u32| {
            let json = format!(
                r#"{{"format":"vParquet5","blockID":"b1a76807-e24a-4b98-bcfd-0e2a55737f75","tenantID":"t","size":{size_bytes},"totalRecords":{total_records}}}"#
            );
            BlockMeta::from_json(json.as_bytes()).unwrap()
        };
        for (size, row_groups, starts) in
            [(100, 4, vec![0]), (101, 4, vec![0]), (400, 4, vec![0, 1, 2, 3]), (400, 8, vec![0, 2, 4, 6]), (0, 0, vec![0])]
        {
            let jobs = split_block(&meta(size, row_groups), if size == 101 { 101 } else { 100 });
            assert_eq!(jobs.iter().map(|job| job.start).collect::<Vec<_>>(), starts);
            assert!(jobs.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert_eq!(jobs.last().map(|job| job.end), Some(usize::MAX));
        }
    }

    #[test]
    fn a_plan_follows_the_order_of_blocks_and_is_cheap() {
        let meta = |number: i64| {
            let json = format!(
                r#"{{"format":"vParquet5","blockID":"{}","tenantID":"t","size":300,"totalRecords":3,"endTime":"{}"}}"#,
                BlockId::random(),
                jiff::Timestamp::from_second(1_000_000 - number).unwrap(),
            );
            Arc::new(BlockMeta::from_json(json.as_bytes()).unwrap())
        };
        let blocks: Vec<_> = (0..100_000).map(meta).collect();
        let tenant = TenantId::single();
        let started = std::time::Instant::now();
        let mut plan = JobPlan::default();
        plan.add_blocks(&tenant, blocks.clone(), 100, 0);
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!((plan.blocks, plan.block_bytes, plan.jobs.len()), (100_000, 30_000_000, 300_000));
        assert_eq!(plan.jobs.first().map(|job| job.newest_unix_seconds), Some(1_000_001));
        assert!(plan.jobs.is_sorted_by_key(|job| std::cmp::Reverse(job.newest_unix_seconds)));
        let mut few = JobPlan::default();
        few.add_blocks(&tenant, blocks, 1000, 2);
        assert_eq!((few.blocks, few.jobs.len()), (2, 2));
    }

    #[test]
    fn block_ids_are_cut_into_ranges_without_gaps() {
        for shards in [1, 2, 3, 50] {
            let ranges = block_id_ranges(shards);
            assert_eq!(ranges.len(), shards);
            assert_eq!((ranges[0].0.0.as_u128(), ranges[shards - 1].1.0.as_u128()), (0, u128::MAX));
            for pair in ranges.windows(2) {
                assert_eq!(pair[0].1.0.as_u128() + 1, pair[1].0.0.as_u128());
            }
        }
        assert_eq!(block_id_ranges(2)[1].0.0.as_u128() >> 64, u128::from(u64::MAX / 2 + 1));
    }
}
