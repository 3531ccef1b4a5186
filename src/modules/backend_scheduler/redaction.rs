//! Redactions: an operator's wish to remove traces, as one job per block and as many rescans as it takes.
//!
//! ```text
//! submit ─ jobs for all blocks ─ quiescence ─ jobs run ─ rescan_delay ─ blocks that are new: again ─ … ─ nothing new: done
//! ```
//!
//! While a redaction is applied, its tenant gets no other jobs: they would move traces past it. What ran already is rescanned afterwards.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};
use prost::Message;
use tracing::{info, warn};

use super::job::{Job, Status};
use super::work::WorkCache;
use crate::model::ids::{TenantId, TraceId};
use crate::proto::tempopb::{RedactionBatch, RedactionBatches, TraceQlSelector};
use crate::services::rpc::backend_scheduler::{
    JobId, JobType, RedactionMode, RedactionRequest, RedactionWork, TraceSelection, Window, Work,
};
use crate::tempodb::block::meta::{BlockId, BlockMeta};

/// Timing of redactions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// From submission to the first job.
    pub(super) quiescence: SignedDuration,
    /// From the last job to the next look at the block list.
    pub(super) rescan_delay: SignedDuration,
    pub(super) max_generations: u32,
}

/// A redaction under way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Batch {
    pub(super) id: String,
    pub(super) tenant: TenantId,
    pub(super) request: RedactionRequest,
    pub(super) created: Timestamp,
    /// Compactions that ran when it was submitted; their outputs come with a rescan.
    pub(super) skipped_jobs: Vec<JobId>,
    pub(super) quiesce_until: Timestamp,
    /// When the block list is gone through again; `None` while jobs are left.
    pub(super) rescan_after: Option<Timestamp>,
    /// Rescans so far.
    pub(super) generation: u32,
    /// Blocks that need not be looked at any more.
    pub(super) done: HashSet<BlockId>,
    pub(super) traces_found: u64,
}

impl Batch {
    /// Starts a redaction over `blocks`; those that other jobs have wait for a rescan.
    pub(super) fn start(
        tenant: &TenantId,
        request: RedactionRequest,
        blocks: &[BlockId],
        work: &mut WorkCache,
        timing: Timing,
        now: Timestamp,
    ) -> (Self, usize) {
        let running = work.jobs().filter(|job| job.tenant == *tenant && job.status == Status::Running);
        let skipped: Vec<_> = running.filter(|job| job.job_type() != JobType::Retention).map(|job| job.id.clone()).collect();
        // A count disturbs nobody and need not wait for anybody.
        let quiescence = if request.mode == RedactionMode::Apply { timing.quiescence } else { SignedDuration::ZERO };
        let batch = Self {
            id: uuid::Uuid::new_v4().to_string(),
            tenant: tenant.clone(),
            request,
            created: now,
            skipped_jobs: skipped,
            quiesce_until: now.saturating_add(quiescence).unwrap_or(Timestamp::MAX),
            rescan_after: None,
            generation: 0,
            done: HashSet::new(),
            traces_found: 0,
        };
        let jobs = batch.add_jobs(blocks, work, now);
        (batch, jobs)
    }

    /// Whether other jobs of the tenant must wait.
    pub(super) fn freezes(&self) -> bool {
        self.request.mode == RedactionMode::Apply
    }

    fn add_jobs(&self, blocks: &[BlockId], work: &mut WorkCache, now: Timestamp) -> usize {
        let busy = unfinished_blocks(work);
        let mut added = 0;
        for block in blocks.iter().filter(|block| !busy.contains(block)) {
            let redaction = RedactionWork { block: *block, traces: self.request.traces.clone(), mode: self.request.mode };
            work.insert(Job::new(self.tenant.clone(), Work::Redaction(redaction), Some(self.id.clone()), now));
            added += 1;
        }
        added
    }

    /// A job of the batch succeeded: neither its block nor what replaced it need be looked at again.
    pub(super) fn succeeded(&mut self, block: BlockId, outputs: &[BlockId], traces_found: u32) {
        self.done.insert(block);
        self.done.extend(outputs);
        self.traces_found += u64::from(traces_found);
    }

    /// Goes on when the jobs are done. Returns whether the batch is at its end. `blocks`: what the tenant has now and the window concerns.
    pub(super) fn advance(&mut self, blocks: &[BlockId], work: &mut WorkCache, timing: Timing, now: Timestamp) -> bool {
        let is_own = |job: &&Job| job.batch.as_deref() == Some(&self.id);
        if work.jobs().filter(is_own).any(|job| !job.status.is_finished()) {
            return false;
        }
        // Counting again would count twice.
        if !self.freezes() {
            return true;
        }
        let Some(rescan_after) = self.rescan_after else {
            self.rescan_after = Some(now.saturating_add(timing.rescan_delay).unwrap_or(Timestamp::MAX));
            return false;
        };
        if now < rescan_after || self.skipped_jobs.iter().any(|id| work.get(id).is_some_and(|job| job.status == Status::Running)) {
            return false;
        }
        let left: Vec<BlockId> = blocks.iter().copied().filter(|block| !self.done.contains(block)).collect();
        if left.is_empty() {
            info!(tenant = %self.tenant, batch = self.id, traces = self.traces_found, "redaction is complete");
            return true;
        }
        if self.generation >= timing.max_generations {
            warn!(tenant = %self.tenant, batch = self.id, blocks = left.len(), "redaction ends although blocks are left: too many rescans");
            return true;
        }
        self.generation += 1;
        self.rescan_after = None;
        self.add_jobs(&left, work, now);
        false
    }

    fn to_message(&self) -> RedactionBatch {
        let mut message = RedactionBatch {
            batch_id: self.id.clone(),
            tenant_id: self.tenant.to_string(),
            created_at_unix_nano: nanos(self.created),
            skipped_compaction_job_ids: self.skipped_jobs.iter().map(|id| id.0.clone()).collect(),
            rescan_after_unix_nano: self.rescan_after.map_or(0, nanos),
            mode: self.request.mode.number(),
            quiesce_until_unix_nano: nanos(self.quiesce_until),
            generation: self.generation,
            done_block_ids: self.done.iter().map(|block| block.0.as_bytes().to_vec()).collect(),
            traces_found: self.traces_found,
            ..RedactionBatch::default()
        };
        match &self.request.traces {
            TraceSelection::Ids(ids) => message.trace_ids = ids.iter().map(|id| id.0.to_vec()).collect(),
            TraceSelection::Query { query, window } => {
                message.query = Some(TraceQlSelector { query: query.clone() });
                if let Some(window) = window {
                    (message.start_time_unix_nano, message.end_time_unix_nano) = (window.start_nanos, window.end_nanos);
                }
            }
        }
        message
    }

    fn from_message(message: RedactionBatch) -> Option<Self> {
        let window = (message.start_time_unix_nano, message.end_time_unix_nano);
        let traces = match message.query {
            Some(TraceQlSelector { query }) => {
                let window = (window != (0, 0)).then_some(Window { start_nanos: window.0, end_nanos: window.1 });
                TraceSelection::Query { query, window }
            }
            None => TraceSelection::Ids(message.trace_ids.iter().map(|id| TraceId::from_bytes(id)).collect()),
        };
        let block = |id: &Vec<u8>| uuid::Uuid::from_slice(id).ok().map(BlockId);
        Some(Self {
            id: message.batch_id,
            tenant: TenantId::parse(&message.tenant_id).ok()?,
            request: RedactionRequest { traces, mode: RedactionMode::from_number(message.mode)? },
            created: time(message.created_at_unix_nano),
            skipped_jobs: message.skipped_compaction_job_ids.into_iter().map(JobId).collect(),
            quiesce_until: time(message.quiesce_until_unix_nano),
            rescan_after: (message.rescan_after_unix_nano != 0).then(|| time(message.rescan_after_unix_nano)),
            generation: message.generation,
            done: message.done_block_ids.iter().filter_map(block).collect(),
            traces_found: message.traces_found,
        })
    }
}

fn unfinished_blocks(work: &WorkCache) -> HashSet<BlockId> {
    work.jobs().filter(|job| !job.status.is_finished()).flat_map(|job| job.work.blocks().iter().copied()).collect()
}

/// Returns the blocks that a selection concerns: with a window, those that overlap it.
pub(super) fn concerned<'a>(blocks: impl IntoIterator<Item = &'a BlockMeta>, traces: &TraceSelection) -> Vec<BlockId> {
    let window = match traces {
        TraceSelection::Query { window: Some(window), .. } => Some(*window),
        TraceSelection::Query { window: None, .. } | TraceSelection::Ids(_) => None,
    };
    // Times of a block are whole seconds; its end reaches to the end of its second.
    let overlaps = |meta: &&BlockMeta| {
        window.is_none_or(|window| {
            meta.start_time.as_second() <= window.end_nanos.div_euclid(1_000_000_000)
                && meta.end_time.as_second() >= window.start_nanos.div_euclid(1_000_000_000)
        })
    };
    blocks.into_iter().filter(overlaps).map(|meta| meta.block_id).collect()
}

/// Returns the content of `batches.pb`.
pub(super) fn to_bytes(batches: &[Batch]) -> Vec<u8> {
    RedactionBatches { batches: batches.iter().map(Batch::to_message).collect() }.encode_to_vec()
}

/// Reads `batches.pb`; what makes no sense is left out with a warning.
pub(super) fn from_bytes(bytes: &[u8]) -> Vec<Batch> {
    match RedactionBatches::decode(bytes) {
        Ok(file) => file.batches.into_iter().filter_map(Batch::from_message).collect(),
        Err(error) => {
            warn!(%error, "saved redactions cannot be read, starting without them");
            Vec::new()
        }
    }
}

fn nanos(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

fn time(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing =
        Timing { quiescence: SignedDuration::from_secs(120), rescan_delay: SignedDuration::from_secs(300), max_generations: 2 };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn block(number: u128) -> BlockId {
        BlockId(uuid::Uuid::from_u128(number))
    }

    fn request(mode: RedactionMode) -> RedactionRequest {
        RedactionRequest { traces: TraceSelection::Ids(vec![TraceId([1; 16])]), mode }
    }

    /// Ends all jobs of the batch; the replaced block has the number plus 100.
    fn finish_jobs(batch: &mut Batch, work: &mut WorkCache, status: Status) -> usize {
        let jobs: Vec<Job> = work.jobs().filter(|job| job.batch.is_some() && !job.status.is_finished()).cloned().collect();
        for job in &jobs {
            work.get_mut(&job.id).unwrap().finish(status, at(0));
            if status == Status::Succeeded {
                let old = job.work.blocks()[0];
                batch.succeeded(old, &[BlockId(uuid::Uuid::from_u128(old.0.as_u128() + 100))], 1);
            }
        }
        jobs.len()
    }

    #[test]
    fn late_blocks_and_outputs_of_running_jobs_are_rescanned_until_nothing_is_new() {
        let mut work = WorkCache::default();
        let tenant = TenantId::single();
        let mut running = Job::new(tenant.clone(), Work::Compaction { inputs: vec![block(1), block(2)] }, None, at(0));
        running.assign("w", true, at(0));
        work.insert(running.clone());
        let blocks = [block(1), block(2), block(3)];
        let (mut batch, jobs) = Batch::start(&tenant, request(RedactionMode::Apply), &blocks, &mut work, TIMING, at(10));
        assert_eq!((jobs, batch.quiesce_until), (1, at(130)), "blocks of the running job are left out");
        assert_eq!(batch.skipped_jobs, [running.id.clone()]);
        assert!(!batch.advance(&blocks, &mut work, TIMING, at(200)));
        assert_eq!(finish_jobs(&mut batch, &mut work, Status::Succeeded), 1);
        assert!(!batch.advance(&blocks, &mut work, TIMING, at(200)));
        assert_eq!(batch.rescan_after, Some(at(500)));
        let now = [block(103), block(4)];
        assert!(!batch.advance(&now, &mut work, TIMING, at(600)), "the skipped job still runs");
        assert_eq!(batch.generation, 0);
        work.get_mut(&running.id).unwrap().finish(Status::Succeeded, at(610));
        assert!(!batch.advance(&now, &mut work, TIMING, at(620)));
        assert_eq!((batch.generation, batch.rescan_after), (1, None));
        assert_eq!(finish_jobs(&mut batch, &mut work, Status::Succeeded), 1, "only the new block");
        assert!(!batch.advance(&[block(103), block(104)], &mut work, TIMING, at(700)));
        assert!(batch.advance(&[block(103), block(104)], &mut work, TIMING, at(1_000)));
        assert_eq!(batch.traces_found, 2);
    }

    #[test]
    fn failed_blocks_are_tried_again_but_not_for_ever() {
        let mut work = WorkCache::default();
        let (mut batch, _) = Batch::start(&TenantId::single(), request(RedactionMode::Apply), &[block(1)], &mut work, TIMING, at(0));
        for generation in 0..=2 {
            let now = at(i64::from(generation) * 1_000 + 200);
            assert_eq!(finish_jobs(&mut batch, &mut work, Status::Failed), 1);
            assert!(!batch.advance(&[block(1)], &mut work, TIMING, now));
            let is_over = batch.advance(&[block(1)], &mut work, TIMING, at(now.as_second() + 300));
            assert_eq!(is_over, generation == 2);
        }
    }

    #[test]
    fn counting_is_over_with_its_jobs() {
        let mut work = WorkCache::default();
        let (mut batch, jobs) = Batch::start(&TenantId::single(), request(RedactionMode::DryRun), &[block(1)], &mut work, TIMING, at(7));
        assert_eq!((jobs, batch.quiesce_until, batch.freezes()), (1, at(7), false));
        assert!(!batch.advance(&[block(1)], &mut work, TIMING, at(8)));
        finish_jobs(&mut batch, &mut work, Status::Succeeded);
        assert!(batch.advance(&[block(1)], &mut work, TIMING, at(8)));
    }

    #[test]
    fn batches_come_back_from_their_file() {
        let window = Some(Window { start_nanos: 5, end_nanos: 6 });
        let query = RedactionRequest { traces: TraceSelection::Query { query: "{}".to_owned(), window }, mode: RedactionMode::DryRun };
        let mut work = WorkCache::default();
        let (mut first, _) = Batch::start(&TenantId::single(), request(RedactionMode::Apply), &[block(1)], &mut work, TIMING, at(3));
        first.succeeded(block(1), &[block(2)], 3);
        first.rescan_after = Some(at(9));
        let (second, _) = Batch::start(&TenantId::single(), query, &[], &mut work, TIMING, at(4));
        let batches = vec![first, second];
        assert_eq!(from_bytes(&to_bytes(&batches)), batches);
        assert_eq!(from_bytes(&[0xff]), []);
    }

    #[test]
    fn a_window_concerns_the_blocks_it_overlaps() {
        let meta = |number: u128, start: i64, end: i64| {
            let (start, end) = (at(start), at(end));
            let json =
                format!(r#"{{"format":"vParquet5","blockID":"{}","tenantID":"t","startTime":"{start}","endTime":"{end}"}}"#, block(number));
            BlockMeta::from_json(json.as_bytes()).unwrap()
        };
        let metas = [meta(1, 10, 20), meta(2, 20, 30), meta(3, 31, 40)];
        let window = Some(Window { start_nanos: 20_900_000_000, end_nanos: 30_000_000_000 });
        let query = TraceSelection::Query { query: "{}".to_owned(), window };
        assert_eq!(concerned(&metas, &query), [block(1), block(2)]);
        assert_eq!(concerned(&metas, &request(RedactionMode::Apply).traces).len(), 3);
    }
}
