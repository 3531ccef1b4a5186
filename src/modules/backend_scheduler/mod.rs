//! The backend scheduler: decides what is to be compacted, deleted, redacted, rewritten and indexed, and hands it out job by job.
//!
//! ```text
//! providers ─ offer ─▶ channel of one ─▶ Next: still wanted? ─▶ job, saved ─▶ worker ─▶ UpdateJob ─▶ saved, pruned after a while
//! ```
//!
//! Not here: doing the work (the worker), which blocks go together (`tempodb::compaction::selector`).
//!
//! Invariants
//! * A job is on disk before a worker hears of it. A block is in at most one unfinished job.
//! * A worker that comes back under its name gets its unfinished job again. One that keeps a lease and falls silent loses it to the next.
//! * A tenant with a redaction to be applied gets no other jobs.
//! * There is one scheduler: a second process cannot have its directory.

mod compaction;
pub mod config;
mod files;
mod health;
mod job;
pub(crate) mod metrics;
mod providers;
mod redaction;
mod redaction_query;
mod state;
pub mod status;

#[cfg(test)]
mod tests;
mod work;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::metrics::{counter, histogram};
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use object_store::path::Path as Key;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::config::BackendSchedulerConfig;
pub use self::files::FilesError;
use self::files::WorkFiles;
use self::metrics as names;
use self::redaction::{Batch, Timing};
use self::state::{Offer, State, TenantState};
use self::work::WorkFile;
use crate::base::clock::SharedClock;
use crate::base::cpu_pool::CpuPool;
use crate::base::duration::GoDuration;
use crate::base::error_class::ErrorClass;
use crate::model::ids::TenantId;
use crate::services::rpc::backend_scheduler::{
    AssignedJob, BackendScheduler as Port, JobId, JobReport, NO_JOBS, RedactionRequest, SubmittedRedaction, TraceSelection, Work,
    WorkerHello,
};
use crate::services::rpc::status::CallError;
use crate::tempodb::block::dedicated::DedicatedColumn;
use crate::tempodb::block::meta::{BlockId, BlockVersion};
use crate::tempodb::db::TempoDb;
use crate::tempodb::keys;

/// Time for the last copy of the work cache on stop.
const LAST_FLUSH_LIMIT: Duration = Duration::from_secs(10);
/// Times of redactions are multiples of the maintenance interval.
const QUIESCENCE_INTERVALS: i32 = 2;

/// What the scheduler must know of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantRules {
    /// Neither compaction nor retention.
    pub compaction_disabled: bool,
    /// Instead of the configured one.
    pub compaction_window: Option<Duration>,
    /// Columns that blocks are written with now.
    pub dedicated_columns: Vec<DedicatedColumn>,
}

pub type RulesOf = Arc<dyn Fn(&TenantId) -> TenantRules + Send + Sync>;

/// What a scheduler is made of.
pub struct Parts {
    pub config: BackendSchedulerConfig,
    pub db: Arc<TempoDb>,
    pub rules: RulesOf,
    /// Version that blocks are written in now.
    pub block_version: BlockVersion,
    pub clock: SharedClock,
    pub cpu: CpuPool,
}

/// The scheduler. Share it as `Arc`.
pub struct BackendScheduler {
    config: BackendSchedulerConfig,
    db: Arc<TempoDb>,
    rules: RulesOf,
    block_version: BlockVersion,
    clock: SharedClock,
    cpu: CpuPool,
    state: Arc<Mutex<State>>,
    files: Arc<Mutex<WorkFiles>>,
    offer: mpsc::Sender<Offer>,
    offers: tokio::sync::Mutex<mpsc::Receiver<Offer>>,
}

impl BackendScheduler {
    /// Takes the directory of the work cache. Fails when another process has it.
    pub fn open(parts: Parts) -> Result<Arc<Self>, FilesError> {
        names::describe();
        let files = WorkFiles::open(Path::new(&parts.config.local_work_path))?;
        // One: what is offered early is stale when it is drawn.
        let (offer, offers) = mpsc::channel(1);
        Ok(Arc::new(Self {
            config: parts.config,
            db: parts.db,
            rules: parts.rules,
            block_version: parts.block_version,
            clock: parts.clock,
            cpu: parts.cpu,
            state: Arc::default(),
            files: Arc::new(Mutex::new(files)),
            offer,
            offers: tokio::sync::Mutex::new(offers),
        }))
    }

    /// Brings back what an earlier process knew: from the local files, else from the backend, else nothing.
    pub async fn start(&self) {
        let now = self.now();
        let local = {
            let files = Arc::clone(&self.files);
            tokio::task::spawn_blocking(move || files.lock().load()).await.ok().flatten()
        };
        let (shards, batches, origin) = match local {
            Some(saved) => (saved.shards, saved.batches, "local files"),
            None => match self.load_from_backend().await {
                Some((shards, batches)) => (shards, batches, "backend"),
                None => return,
            },
        };
        let mut state = self.state.lock();
        state.work.load(shards, now);
        state.batches = redaction::from_bytes(&batches);
        info!(origin, jobs = state.work.jobs().count(), redactions = state.batches.len(), "work cache loaded");
    }

    async fn load_from_backend(&self) -> Option<(Vec<work::ShardFile>, Vec<u8>)> {
        use base64::Engine as _;
        let bytes = match self.db.backend().read(&work_key()).await {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return None,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "copy of the work cache cannot be read, starting without it");
                return None;
            }
        };
        match serde_json::from_slice::<WorkFile>(&bytes) {
            Ok(file) => Some((file.shards, base64::engine::general_purpose::STANDARD.decode(file.batches).unwrap_or_default())),
            Err(error) => {
                warn!(%error, "copy of the work cache is broken, starting without it");
                None
            }
        }
    }

    /// Makes offers and keeps house until `stop` fires; then saves everything a last time.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.provide_compaction() => {}
            () = self.provide_retention() => {}
            () = self.provide_redaction() => {}
            () = self.provide_maintenance() => {}
            () = self.keep_house() => {}
            () = self.keep_copy() => {}
        }
        if let Err(error) = self.save().await {
            error!(error = &error as &dyn std::error::Error, "work cache could not be saved");
        }
        if tokio::time::timeout(LAST_FLUSH_LIMIT, self.flush_to_backend()).await.is_err() {
            warn!("copy of the work cache could not be written in time");
        }
    }

    /// Ends leases and dead jobs, forgets old ones, flags broken blocks.
    async fn keep_house(&self) {
        let mut ticks = tokio::time::interval(at_least(self.config.maintenance_interval, Duration::from_millis(10)));
        loop {
            ticks.tick().await;
            self.maintain().await;
        }
    }

    async fn maintain(&self) {
        let now = self.now();
        let db = Arc::clone(&self.db);
        {
            let mut state = self.state.lock();
            let state = &mut *state;
            state.expire(now, signed(self.config.work.dead_job_timeout));
            state.work.prune(now, signed(self.config.work.prune_age));
            state.health.prune(now, |tenant, block| is_live(&db, tenant, block));
            state.indexed.retain(|tenant, _| !db.block_list().blocks(tenant).live.is_empty());
            state.publish();
        }
        self.save_or_warn().await;
    }

    /// Copies the work cache to the backend again and again, for the case that the local directory is lost.
    async fn keep_copy(&self) {
        let mut ticks = tokio::time::interval(at_least(self.config.backend_flush_interval, Duration::from_millis(10)));
        loop {
            ticks.tick().await;
            self.flush_to_backend().await;
        }
    }

    async fn flush_to_backend(&self) {
        use base64::Engine as _;
        let json = {
            let state = self.state.lock();
            let batches = if state.batches.is_empty() { Vec::new() } else { redaction::to_bytes(&state.batches) };
            state.work.to_work_json(base64::engine::general_purpose::STANDARD.encode(batches))
        };
        histogram!(names::WORK_CACHE_BYTES).record(json.len() as f64);
        match self.db.backend().write(&work_key(), json).await {
            Ok(()) => counter!(names::WORK_FLUSHES).increment(1),
            Err(error) => {
                counter!(names::WORK_FLUSHES_FAILED).increment(1);
                warn!(error = &error as &dyn std::error::Error, "copy of the work cache could not be written");
            }
        }
    }

    /// Writes what has changed to the local files. Dropping the future does not stop the writing.
    async fn save(&self) -> Result<(), FilesError> {
        let (files, state) = (Arc::clone(&self.files), Arc::clone(&self.state));
        let written = tokio::task::spawn_blocking(move || {
            // Taken first, so that what is written later is newer.
            let files = files.lock();
            let (shards, batches) = {
                let mut state = state.lock();
                let batches = std::mem::take(&mut state.batches_changed).then(|| redaction::to_bytes(&state.batches));
                (state.work.take_changed(), batches)
            };
            let write = || {
                batches.as_ref().map_or(Ok(()), |batches| files.write_batches(batches))?;
                shards.iter().try_for_each(|(shard, content)| files.write_shard(*shard, content))
            };
            write().inspect_err(|_| {
                let mut state = state.lock();
                state.batches_changed |= batches.is_some();
                state.work.mark_changed(shards.iter().map(|(shard, _)| *shard));
            })
        });
        // A panic in the closure has been reported by the runtime.
        written.await.unwrap_or(Ok(()))
    }

    async fn save_or_warn(&self) {
        if let Err(error) = self.save().await {
            warn!(error = &error as &dyn std::error::Error, "work cache could not be saved, trying again soon");
        }
    }

    /// Saves a job that is about to be handed out.
    async fn save_assigned(&self, assigned: AssignedJob) -> Result<AssignedJob, CallError> {
        match self.save().await {
            Ok(()) => Ok(assigned),
            Err(cause) => {
                error!(error = &cause as &dyn std::error::Error, "work cache could not be saved");
                self.state.lock().withdraw(&assigned.id);
                Err(CallError::internal("failed to flush cache to store"))
            }
        }
    }

    fn tenant_state(&self, tenant: &TenantId) -> TenantState {
        TenantState { is_disabled: (self.rules)(tenant).compaction_disabled }
    }

    /// Flags blocks, so that nobody tries to compact them again, not even after a restart.
    async fn flag(&self, tenant: &TenantId, blocks: &[BlockId]) {
        for block in blocks {
            counter!(names::BLOCKS_QUARANTINED).increment(1);
            error!(%tenant, %block, "block is broken and excluded from compaction");
            let key = keys::block_object(tenant, *block, keys::NO_COMPACT_NAME);
            match self.db.backend().write(&key, Vec::new()).await {
                Ok(()) => self.state.lock().health.hold(tenant, *block),
                Err(error) => {
                    warn!(%tenant, %block, error = &error as &dyn std::error::Error, "block could not be flagged; excluded until a restart");
                }
            }
        }
    }

    fn timing(&self) -> Timing {
        let redaction = &self.config.provider.redaction;
        Timing {
            quiescence: signed(self.config.maintenance_interval).saturating_mul(QUIESCENCE_INTERVALS),
            rescan_delay: signed(redaction.rescan_delay),
            max_generations: redaction.max_rescan_generations,
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.clock.now_unix_nanos())).unwrap_or(Timestamp::MAX)
    }

    /// Looks for a job that exists already and suits the worker.
    fn known_job(&self, hello: &WorkerHello) -> Option<AssignedJob> {
        let now = self.now();
        let mut state = self.state.lock();
        let is_live = |tenant: &TenantId, block| is_live(&self.db, tenant, block);
        state.resume(hello, now).or_else(|| state.take_returned(hello, now, |tenant| self.tenant_state(tenant), is_live))
    }

    fn accept(&self, offer: &Offer, hello: &WorkerHello) -> Option<AssignedJob> {
        let (now, tenant_state) = (self.now(), self.tenant_state(&offer.tenant));
        let fingerprint = (offer.work == Work::Index).then(|| self.fingerprint(&offer.tenant));
        let mut state = self.state.lock();
        if fingerprint.is_some() && state.indexed.get(&offer.tenant).copied() == fingerprint {
            // Offered before the last one succeeded.
            return None;
        }
        let assigned = state.accept(offer, hello, now, tenant_state, |block| is_live(&self.db, &offer.tenant, block))?;
        if let Some(fingerprint) = fingerprint {
            state.indexing.insert(assigned.id.clone(), fingerprint);
        }
        Some(assigned)
    }
}

#[async_trait]
impl Port for BackendScheduler {
    async fn next(&self, hello: &WorkerHello) -> Result<AssignedJob, CallError> {
        if let Some(assigned) = self.known_job(hello) {
            return self.save_assigned(assigned).await;
        }
        let deadline = Instant::now() + self.config.job_timeout.to_std();
        loop {
            let drawn = tokio::time::timeout_at(deadline, async { self.offers.lock().await.recv().await }).await;
            let Ok(Some(offer)) = drawn else {
                counter!(names::JOBS_NOT_FOUND, "worker_id" => hello.worker.clone()).increment(1);
                return Err(CallError::new(ErrorClass::NotFound, NO_JOBS));
            };
            counter!(names::JOBS_MERGED, "id" => offer.provider).increment(1);
            // From drawing to here nothing waits: an offer is either a job or dropped.
            if let Some(assigned) = self.accept(&offer, hello) {
                debug!(tenant = %offer.tenant, job = %assigned.id, worker = hello.worker, "job handed out");
                return self.save_assigned(assigned).await;
            }
        }
    }

    async fn update(&self, job: &JobId, worker: &str, report: JobReport) -> Result<(), CallError> {
        let now = self.now();
        let consequences = self.state.lock().report(job, worker, report, now)?;
        if let Some(tenant) = &consequences.tenant {
            self.db.block_list().mark_compacted(tenant, &consequences.replaced, now);
            self.flag(tenant, &consequences.quarantined).await;
        }
        if consequences.is_change {
            // The job is over in memory; a file that lags only makes a restarted worker find its inputs gone.
            self.save_or_warn().await;
        }
        Ok(())
    }

    async fn submit_redaction(&self, tenant: &TenantId, request: RedactionRequest) -> Result<SubmittedRedaction, CallError> {
        if let TraceSelection::Query { query, .. } = &request.traces {
            redaction_query::check(query).map_err(|reason| CallError::new(ErrorClass::Invalid, reason))?;
        }
        if (self.rules)(tenant).compaction_disabled {
            return Err(CallError::new(ErrorClass::FailedPrecondition, "compaction is disabled for this tenant"));
        }
        let blocks = self.db.block_list().blocks(tenant);
        let concerned = redaction::concerned(blocks.live.iter().map(|meta| &**meta), &request.traces);
        let submitted = {
            let mut state = self.state.lock();
            let state = &mut *state;
            if state.batches.iter().any(|batch| batch.tenant == *tenant) {
                return Err(CallError::new(ErrorClass::AlreadyExists, "a redaction is already in progress for this tenant"));
            }
            if blocks.live.is_empty() {
                return Err(CallError::new(ErrorClass::NotFound, "no blocks found for tenant"));
            }
            if concerned.is_empty() {
                return Err(CallError::new(ErrorClass::NotFound, "no blocks overlap the requested time window"));
            }
            let (batch, jobs_created) = Batch::start(tenant, request, &concerned, &mut state.work, self.timing(), self.now());
            info!(%tenant, batch = batch.id, jobs = jobs_created, mode = batch.request.mode.name(), "redaction submitted");
            let submitted = SubmittedRedaction { batch_id: batch.id.clone(), jobs_created };
            state.batches.push(batch);
            state.batches_changed = true;
            submitted
        };
        if let Err(cause) = self.save().await {
            error!(error = &cause as &dyn std::error::Error, "redaction could not be saved");
            let mut state = self.state.lock();
            let of_batch: Vec<JobId> =
                state.work.jobs().filter(|job| job.batch.as_ref() == Some(&submitted.batch_id)).map(|job| job.id.clone()).collect();
            of_batch.iter().for_each(|id| state.work.remove(id));
            state.batches.retain(|batch| batch.id != submitted.batch_id);
            return Err(CallError::internal("failed to flush cache to store"));
        }
        Ok(submitted)
    }
}

/// The copy of the work cache, at the root of the backend.
fn work_key() -> Key {
    Key::from("work.json")
}

fn is_live(db: &TempoDb, tenant: &TenantId, block: BlockId) -> bool {
    db.block_list().blocks(tenant).live.iter().any(|meta| meta.block_id == block)
}

fn signed(duration: GoDuration) -> SignedDuration {
    SignedDuration::from_nanos(duration.as_nanos())
}

/// Intervals of loops must not be zero.
fn at_least(duration: GoDuration, least: Duration) -> Duration {
    duration.to_std().max(least)
}
