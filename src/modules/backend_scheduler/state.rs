//! What the scheduler knows, and every change of it. Plain data and plain functions: no I/O, no time of its own.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use metrics::{counter, gauge, histogram};
use tracing::{info, warn};

use super::health::BlockHealth;
use super::job::{Job, Status};
use super::metrics as names;
use super::redaction::Batch;
use super::work::WorkCache;
use crate::base::error_class::ErrorClass;
use crate::model::ids::TenantId;
use crate::services::rpc::backend_scheduler::{AssignedJob, JOB_NOT_FOUND, JobId, JobReport, JobType, RedactionMode, Work, WorkerHello};
use crate::services::rpc::status::CallError;
use crate::tempodb::block::meta::BlockId;

/// A worker that reports every half minute and has been silent for so long has lost its job.
pub(super) const LEASE: SignedDuration = SignedDuration::from_mins(5);
/// A job handed out again more often than this ends as failed: it may be what kills its workers.
const MAX_RETRIES: u32 = 3;

/// A job that a provider would like to be done.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) provider: &'static str,
    pub(super) tenant: TenantId,
    pub(super) work: Work,
    /// The job exists already and waits.
    pub(super) pending: Option<JobId>,
}

/// What a tenant may have done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TenantState {
    pub(super) is_disabled: bool,
}

/// What follows from a report outside of this state.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Consequences {
    /// Blocks that are compacted now.
    pub(super) replaced: Vec<BlockId>,
    pub(super) tenant: Option<TenantId>,
    /// Blocks to be flagged.
    pub(super) quarantined: Vec<BlockId>,
    /// Whether there is anything to save.
    pub(super) is_change: bool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) work: WorkCache,
    pub(super) batches: Vec<Batch>,
    /// Whether the batches differ from their file.
    pub(super) batches_changed: bool,
    pub(super) health: BlockHealth,
    /// Blocks that wait for compaction, by tenant, as last measured.
    pub(super) outstanding: HashMap<TenantId, usize>,
    /// Fingerprint of the block list for which a tenant's index job succeeded last, and of those under way.
    pub(super) indexed: HashMap<TenantId, u64>,
    pub(super) indexing: HashMap<JobId, u64>,
    /// Label sets whose gauges are published.
    published: HashSet<(TenantId, JobType)>,
}

impl State {
    /// Whether only redaction jobs of a tenant may run.
    pub(super) fn is_frozen(&self, tenant: &TenantId) -> bool {
        self.batches.iter().any(|batch| batch.tenant == *tenant && batch.freezes())
    }

    /// Whether nothing more important than our own job types runs, waits, or is about to come.
    pub(super) fn is_idle(&self) -> bool {
        let is_busy = self.work.jobs().any(|job| !job.status.is_finished() && (!job.job_type().is_own() || job.status == Status::Running));
        !is_busy && self.batches.is_empty() && self.outstanding.values().all(|blocks| *blocks == 0)
    }

    /// Returns the unfinished job of a worker that asks for work, if it may have it once more.
    pub(super) fn resume(&mut self, hello: &WorkerHello, now: Timestamp) -> Option<AssignedJob> {
        let id = self.work.running_of(&hello.worker)?;
        let job = self.work.get_mut(&id)?;
        if job.retries >= MAX_RETRIES {
            let error = format!("handed out {} times without coming to an end", job.retries + 1);
            self.fail(&id, &error, now);
            return None;
        }
        job.retries += 1;
        job.last_seen = hello.keeps_lease.then_some(now);
        let labels =
            [("tenant", job.tenant.to_string()), ("job_type", job.job_type().name().to_owned()), ("worker_id", hello.worker.clone())];
        counter!(names::JOBS_RETRY, &labels).increment(1);
        Some(job.assignment())
    }

    /// Hands out a job that was taken from a silent worker. `is_live` tells whether a block is there.
    pub(super) fn take_returned(
        &mut self,
        hello: &WorkerHello,
        now: Timestamp,
        tenant_state: impl Fn(&TenantId) -> TenantState,
        is_live: impl Fn(&TenantId, BlockId) -> bool,
    ) -> Option<AssignedJob> {
        let is_returned = |job: &&Job| job.status == Status::Pending && job.retries > 0;
        let suits = |job: &&Job| hello.keeps_lease || !job.job_type().is_own();
        let returned: Vec<JobId> = self.work.jobs().filter(is_returned).filter(suits).map(|job| job.id.clone()).collect();
        for id in returned {
            let job = self.work.get(&id)?;
            let (tenant, is_redaction) = (job.tenant.clone(), job.job_type() == JobType::Redaction);
            let is_wanted = is_redaction || !(self.is_frozen(&tenant) || tenant_state(&tenant).is_disabled);
            // A redaction of a block that is gone is the worker's matter: it says so and is done.
            let is_possible = is_redaction || job.work.blocks().iter().all(|block| is_live(&tenant, *block));
            if !is_wanted || !is_possible {
                self.fail(&id, "its worker fell silent, and its blocks are gone or its tenant is held meanwhile", now);
                continue;
            }
            let job = self.work.get_mut(&id)?;
            job.assign(&hello.worker, hello.keeps_lease, now);
            return Some(job.assignment());
        }
        None
    }

    /// Makes a job of an offer, unless it is no longer wanted.
    pub(super) fn accept(
        &mut self,
        offer: &Offer,
        hello: &WorkerHello,
        now: Timestamp,
        tenant_state: TenantState,
        is_live: impl Fn(BlockId) -> bool,
    ) -> Option<AssignedJob> {
        let job_type = offer.work.job_type();
        if let Some(id) = &offer.pending {
            // Drawn before, or ended with its batch.
            let job = self.work.get_mut(id).filter(|job| job.status == Status::Pending)?;
            job.assign(&hello.worker, hello.keeps_lease, now);
            count(names::JOBS_CREATED, job);
            return Some(job.assignment());
        }
        let busy = self.work.busy_blocks();
        let excluded = self.health.excluded(now);
        let blocks_free = offer.work.blocks().iter().all(|block| is_live(*block) && !busy.contains(block) && !excluded.contains(block));
        let is_wanted = match job_type {
            JobType::Compaction => blocks_free,
            JobType::Retention => !self.work.has_unfinished(&offer.tenant, job_type),
            JobType::Rewrite => hello.keeps_lease && blocks_free && self.is_idle(),
            JobType::Index => hello.keeps_lease && !self.work.has_unfinished(&offer.tenant, job_type) && self.is_idle(),
            // These wait as jobs from the beginning.
            JobType::Redaction => false,
        };
        if !is_wanted || tenant_state.is_disabled || self.is_frozen(&offer.tenant) {
            counter!(names::JOBS_DROPPED, "tenant" => offer.tenant.to_string(), "job_type" => job_type.name()).increment(1);
            return None;
        }
        let mut job = Job::new(offer.tenant.clone(), offer.work.clone(), None, now);
        job.assign(&hello.worker, hello.keeps_lease, now);
        count(names::JOBS_CREATED, &job);
        let assigned = job.assignment();
        self.work.insert(job);
        Some(assigned)
    }

    /// Takes back a job that could not be saved: nobody has heard of it.
    pub(super) fn withdraw(&mut self, id: &JobId) {
        let is_part_of_batch = self.work.get(id).is_some_and(|job| job.batch.is_some());
        if is_part_of_batch {
            if let Some(job) = self.work.get_mut(id) {
                job.status = Status::Pending;
            }
        } else {
            self.work.remove(id);
        }
    }

    /// Takes a worker's report.
    pub(super) fn report(&mut self, id: &JobId, worker: &str, report: JobReport, now: Timestamp) -> Result<Consequences, CallError> {
        let job = self.work.get_mut_unsaved(id).ok_or_else(|| CallError::new(ErrorClass::NotFound, JOB_NOT_FOUND))?;
        let is_other = job.status == Status::Running && !worker.is_empty() && job.worker != worker;
        if let JobReport::Running(progress) = report {
            if is_other || job.status.is_finished() {
                return Err(CallError::new(ErrorClass::FailedPrecondition, "the job belongs to another worker or has ended"));
            }
            let was_lost = job.status == Status::Pending;
            if was_lost {
                // It was silent for too long, but nobody else has begun.
                job.status = Status::Running;
            }
            job.last_seen = Some(now);
            job.progress = progress;
            return Ok(Consequences { is_change: was_lost, ..Consequences::default() });
        }
        if job.status.is_finished() {
            // The answer to an earlier report was lost, or two workers had the job.
            return Ok(Consequences::default());
        }
        if is_other && matches!(report, JobReport::Failed { .. }) {
            return Err(CallError::new(ErrorClass::FailedPrecondition, "the job belongs to another worker"));
        }
        Ok(match report {
            JobReport::Running(_) => Consequences::default(),
            JobReport::Succeeded(outcome) => self.succeed(id, outcome.outputs, outcome.traces_found, now),
            JobReport::Failed { error, corrupt } => {
                let tenant = job.tenant.clone();
                let of_job: Vec<BlockId> = corrupt.into_iter().filter(|block| job.work.blocks().contains(block)).collect();
                self.fail(id, &error, now);
                let quarantined = of_job.into_iter().filter(|block| self.health.corrupt(&tenant, *block, &error, now)).collect();
                Consequences { tenant: Some(tenant), quarantined, is_change: true, replaced: Vec::new() }
            }
        })
    }

    fn succeed(&mut self, id: &JobId, outputs: Vec<BlockId>, traces_found: u32, now: Timestamp) -> Consequences {
        let Some(job) = self.work.get_mut(id) else { return Consequences::default() };
        job.outputs = outputs;
        job.finish(Status::Succeeded, now);
        count(names::JOBS_COMPLETED, job);
        observe_duration(job, now);
        let job = job.clone();
        self.health.succeeded(job.work.blocks());
        let mut replaced = job.work.blocks().to_vec();
        match &job.work {
            Work::Redaction(work) => {
                let labels = [("tenant", job.tenant.to_string()), ("mode", work.mode.name().to_owned())];
                counter!(names::REDACTION_TRACES_FOUND, &labels).increment(u64::from(traces_found));
                let batch = self.batches.iter_mut().find(|batch| Some(&batch.id) == job.batch.as_ref());
                if let Some(batch) = batch {
                    batch.succeeded(work.block, &job.outputs, traces_found);
                    self.batches_changed = true;
                }
                if work.mode == RedactionMode::DryRun || (traces_found == 0 && job.outputs.is_empty()) {
                    replaced.clear();
                }
            }
            Work::Index => {
                // One that still found something to do is repeated.
                if let Some(fingerprint) = self.indexing.remove(id)
                    && job.outputs.is_empty()
                {
                    self.indexed.insert(job.tenant.clone(), fingerprint);
                }
            }
            // A rewrite that wrote nothing found nothing to do.
            Work::Rewrite { .. } if job.outputs.is_empty() => replaced.clear(),
            Work::Compaction { .. } | Work::Rewrite { .. } | Work::Retention => {}
        }
        Consequences { replaced, tenant: Some(job.tenant), quarantined: Vec::new(), is_change: true }
    }

    /// Ends a job as failed. Its blocks rest for a while.
    fn fail(&mut self, id: &JobId, error: &str, now: Timestamp) {
        let Some(job) = self.work.get_mut(id) else { return };
        job.error = error.to_owned();
        job.finish(Status::Failed, now);
        count(names::JOBS_FAILED, job);
        observe_duration(job, now);
        warn!(tenant = %job.tenant, job = %id, job_type = job.job_type().name(), worker = job.worker, error, "job failed");
        let blocks = job.work.blocks().to_vec();
        self.health.failed(&blocks, now);
        self.indexing.remove(id);
    }

    /// Takes jobs from workers that fell silent and ends those that run for too long. Returns whether anything changed.
    pub(super) fn expire(&mut self, now: Timestamp, dead_after: SignedDuration) -> bool {
        let age = |since: Option<Timestamp>| since.map_or(SignedDuration::ZERO, |since| now.duration_since(since));
        let running = || self.work.jobs().filter(|job| job.status == Status::Running);
        let dead: Vec<JobId> = running().filter(|job| age(job.started) > dead_after).map(|job| job.id.clone()).collect();
        let silent: Vec<JobId> = running().filter(|job| age(job.last_seen) > LEASE).map(|job| job.id.clone()).collect();
        for id in &dead {
            self.fail(id, "it ran for longer than work.dead_job_timeout", now);
        }
        for id in silent.iter().filter(|id| !dead.contains(id)) {
            let Some(job) = self.work.get_mut(id) else { continue };
            counter!(names::LEASES_LOST).increment(1);
            info!(tenant = %job.tenant, job = %id, worker = job.worker, "worker fell silent, its job goes to the next one");
            job.retries += 1;
            job.status = Status::Pending;
            if job.retries > MAX_RETRIES {
                self.fail(id, "several workers fell silent over it", now);
            }
        }
        !dead.is_empty() || !silent.is_empty()
    }

    /// Publishes how many jobs run and wait.
    pub(super) fn publish(&mut self) {
        let mut counts: HashMap<(TenantId, JobType), (u32, u32)> = self.published.drain().map(|labels| (labels, (0, 0))).collect();
        for job in self.work.jobs() {
            let (running, pending) = counts.entry((job.tenant.clone(), job.job_type())).or_default();
            match job.status {
                Status::Running => *running += 1,
                Status::Pending => *pending += 1,
                Status::Succeeded | Status::Failed => {}
            }
        }
        for ((tenant, job_type), (running, pending)) in counts {
            let labels = [("tenant", tenant.to_string()), ("job_type", job_type.name().to_owned())];
            gauge!(names::JOBS_ACTIVE, &labels).set(running);
            gauge!(names::JOBS_PENDING, &labels).set(pending);
            if running + pending > 0 {
                self.published.insert((tenant, job_type));
            }
        }
        gauge!(names::REDACTION_BATCHES).set(self.batches.len() as f64);
        gauge!(names::BLOCKS_HELD).set(self.health.held().count() as f64);
    }
}

fn count(name: &'static str, job: &Job) {
    counter!(name, "tenant" => job.tenant.to_string(), "job_type" => job.job_type().name()).increment(1);
}

fn observe_duration(job: &Job, now: Timestamp) {
    histogram!(names::JOB_DURATION, "job_type" => job.job_type().name()).record(now.duration_since(job.created).as_secs_f64().max(0.0));
}
