//! The backend worker: asks the scheduler for jobs and does them, one per slot, as many slots as memory and cores allow.
//!
//! Not here: what is to be done (the scheduler), how a block is merged or deleted (`tempodb`).
//!
//! Invariants
//! * A slot has a name that is unique and stable, so that a restarted worker gets its unfinished job again.
//! * While a job runs, the scheduler hears of it every half minute; when it says that the job is somebody else's, the job is dropped.
//! * On stop a job may run for `finish_on_shutdown_timeout`; then it is dropped and comes again. A worker without a job stops at once.

pub mod config;
pub mod engine;
mod filter;
mod metrics;
pub mod storage;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use ::metrics::counter;
use rand::Rng;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use self::config::{BackendWorkerConfig, LEAST_JOB_MEMORY_BYTES};
use self::engine::{Engine, JobFailure, RunningJob};
use self::metrics as names;
use crate::base::error_class::ErrorClass;
use crate::services::rpc::backend_scheduler::{AssignedJob, BackendSchedulerPort, JobId, JobOutcome, JobReport, WorkerHello};
use crate::services::rpc::status::CallError;

/// The scheduler takes a job away after ten of these without a word.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// What a worker is made of.
pub struct Parts {
    pub config: BackendWorkerConfig,
    /// Stable and unique: the host's name.
    pub name: String,
    pub scheduler: BackendSchedulerPort,
    pub engine: Arc<dyn Engine>,
}

pub struct BackendWorker {
    config: BackendWorkerConfig,
    name: String,
    scheduler: BackendSchedulerPort,
    engine: Arc<dyn Engine>,
    heartbeat: Duration,
}

/// Returns how many jobs run at a time and how much memory each may use. `default_jobs` applies when none is configured.
pub fn slots(config: &BackendWorkerConfig, default_jobs: usize, cores: usize) -> (usize, u64) {
    let wanted = if config.concurrency == 0 { default_jobs } else { config.concurrency };
    let fitting = usize::try_from(config.memory_budget_bytes / LEAST_JOB_MEMORY_BYTES).unwrap_or(usize::MAX);
    let jobs = wanted.min(cores).min(fitting).max(1);
    (jobs, config.memory_budget_bytes / jobs as u64)
}

impl BackendWorker {
    pub fn new(parts: Parts) -> Self {
        names::describe();
        Self { config: parts.config, name: parts.name, scheduler: parts.scheduler, engine: parts.engine, heartbeat: HEARTBEAT }
    }

    /// Does jobs in `slots` at a time until `stop` fires and what runs has ended or run out of time.
    pub async fn run(self: Arc<Self>, slots: usize, stop: CancellationToken) {
        let mut tasks = tokio::task::JoinSet::new();
        for slot in 0..slots {
            // The first slot has the name that a worker with one job has.
            let name = if slot == 0 { self.name.clone() } else { format!("{}-{slot}", self.name) };
            let (worker, stop) = (Arc::clone(&self), stop.clone());
            tasks.spawn(async move { worker.work(&name, &stop).await });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn work(&self, name: &str, stop: &CancellationToken) {
        let hello = WorkerHello { worker: name.to_owned(), keeps_lease: true };
        let mut backoff = self.backoff();
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                next = self.scheduler.next(&hello) => next,
            };
            match next {
                Ok(assigned) => {
                    backoff = self.backoff();
                    counter!(names::JOBS).increment(1);
                    self.do_job(name, assigned, stop).await;
                }
                // The scheduler has waited for a job on our behalf: nothing is wrong, and there is no need to wait longer than that.
                Err(error) if error.class == ErrorClass::NotFound => {
                    debug!(worker = name, "no job");
                    backoff = self.backoff();
                    self.pause(&mut backoff, stop).await;
                }
                Err(error) => {
                    counter!(names::CALL_RETRIES).increment(1);
                    warn!(worker = name, error = error.message, "backend scheduler gave no job");
                    self.pause(&mut backoff, stop).await;
                }
            }
        }
    }

    async fn do_job(&self, worker: &str, assigned: AssignedJob, stop: &CancellationToken) {
        let id = assigned.id;
        let job = match assigned.job {
            Ok(job) => job,
            Err(problem) => {
                counter!(names::BAD_JOBS, "status" => "invalid").increment(1);
                warn!(worker, job = %id, problem, "job cannot be done");
                let _reported = self.report(worker, &id, JobReport::Failed { error: problem, corrupt: Vec::new() }, stop).await;
                return;
            }
        };
        let tenant = job.tenant.as_ref().map_or("all", |tenant| tenant.as_str());
        let span = info_span!("job", tenant, job = %id, job_type = job.work.job_type().name());
        async {
            debug!("job begins");
            let running = RunningJob::default();
            let Some(outcome) = self.run_with_heartbeat(worker, &id, &running, self.engine.run(&job, &running), stop).await else { return };
            let report = match outcome {
                Ok(outcome) => {
                    info!(outputs = outcome.outputs.len(), traces_found = outcome.traces_found, "job done");
                    JobReport::Succeeded(outcome)
                }
                Err(failure) => {
                    warn!(error = failure.error, corrupt = ?failure.corrupt, "job failed");
                    JobReport::Failed { error: failure.error, corrupt: failure.corrupt }
                }
            };
            let _reported = self.report(worker, &id, report, stop).await;
        }
        .instrument(span)
        .await;
    }

    /// Waits for the job, telling the scheduler that it goes on. `None`: it was dropped, because it is somebody else's or the time to stop is over.
    async fn run_with_heartbeat(
        &self,
        worker: &str,
        id: &JobId,
        running: &RunningJob,
        job: impl Future<Output = Result<JobOutcome, JobFailure>>,
        stop: &CancellationToken,
    ) -> Option<Result<JobOutcome, JobFailure>> {
        let mut beats = tokio::time::interval(self.heartbeat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beats.tick().await; // the first one is immediate
        let beat = async {
            loop {
                beats.tick().await;
                match self.scheduler.update(id, worker, JobReport::Running(running.progress())).await {
                    Ok(()) => {}
                    Err(error) if error.class == ErrorClass::FailedPrecondition || error.class == ErrorClass::NotFound => return error,
                    Err(error) => debug!(error = error.message, "backend scheduler did not hear that the job goes on"),
                }
            }
        };
        let out_of_time = async {
            stop.cancelled().await;
            tokio::time::sleep(self.config.finish_on_shutdown_timeout.to_std()).await;
        };
        tokio::select! {
            biased;
            outcome = job => Some(outcome),
            lost = beat => {
                warn!(reason = lost.message, "job dropped: it is not this worker's any more");
                None
            }
            () = out_of_time => {
                info!("job dropped: the process stops; it comes again");
                None
            }
        }
    }

    /// Reports until the scheduler has heard it, or says that it does not want to know; after a stop only once more.
    async fn report(&self, worker: &str, id: &JobId, report: JobReport, stop: &CancellationToken) -> Result<(), CallError> {
        let mut backoff = self.backoff();
        loop {
            let error = match self.scheduler.update(id, worker, report.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let is_final = matches!(error.class, ErrorClass::NotFound | ErrorClass::FailedPrecondition | ErrorClass::Invalid);
            if is_final || stop.is_cancelled() || backoff.is_exhausted() {
                warn!(error = error.message, "backend scheduler does not take the report of a job");
                return Err(error);
            }
            counter!(names::CALL_RETRIES).increment(1);
            self.pause(&mut backoff, stop).await;
        }
    }

    fn backoff(&self) -> Backoff {
        let config = &self.config.backoff;
        Backoff { pause: config.min_period.to_std(), longest: config.max_period.to_std(), attempts: 0, max_attempts: config.max_retries }
    }

    async fn pause(&self, backoff: &mut Backoff, stop: &CancellationToken) {
        let pause = backoff.next();
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Pauses that double, with jitter.
struct Backoff {
    pause: Duration,
    longest: Duration,
    attempts: u32,
    /// 0: no limit.
    max_attempts: u32,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        let pause = self.pause.min(self.longest);
        self.pause = (pause * 2).min(self.longest);
        pause.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    fn is_exhausted(&self) -> bool {
        self.max_attempts > 0 && self.attempts >= self.max_attempts
    }
}
