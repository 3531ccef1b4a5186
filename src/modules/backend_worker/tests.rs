//! The worker against a scheduler and an engine of our own. Time is tokio's, and stands still until it is waited for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::*;
use crate::model::ids::TenantId;
use crate::services::rpc::backend_scheduler::{BackendScheduler, Job, NO_JOBS, RedactionRequest, SubmittedRedaction, Work};
use crate::tempodb::block::meta::BlockId;

/// Hands out what it is given, notes what it hears, and answers reports with what is prepared.
#[derive(Default)]
struct Desk {
    jobs: Mutex<VecDeque<AssignedJob>>,
    heard: Mutex<Vec<(String, JobReport)>>,
    answers: Mutex<VecDeque<Result<(), CallError>>>,
}

#[async_trait]
impl BackendScheduler for Desk {
    async fn next(&self, hello: &WorkerHello) -> Result<AssignedJob, CallError> {
        assert!(hello.keeps_lease);
        if let Some(job) = self.jobs.lock().pop_front() {
            return Ok(job);
        }
        tokio::time::sleep(Duration::from_secs(15)).await;
        Err(CallError::new(ErrorClass::NotFound, NO_JOBS))
    }

    async fn update(&self, _job: &JobId, worker: &str, report: JobReport) -> Result<(), CallError> {
        self.heard.lock().push((worker.to_owned(), report));
        self.answers.lock().pop_front().unwrap_or(Ok(()))
    }

    async fn submit_redaction(&self, _tenant: &TenantId, _request: RedactionRequest) -> Result<SubmittedRedaction, CallError> {
        Err(CallError::internal("not asked for"))
    }
}

/// Takes a time for each job and notes when one is dropped.
struct Slow {
    takes: Duration,
    outcome: Result<JobOutcome, JobFailure>,
    was_dropped: AtomicBool,
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Engine for Slow {
    async fn run(&self, _job: &Job, _running: &RunningJob) -> Result<JobOutcome, JobFailure> {
        let guard = OnDrop(&self.was_dropped);
        tokio::time::sleep(self.takes).await;
        std::mem::forget(guard);
        self.outcome.clone()
    }
}

struct Setting {
    desk: Arc<Desk>,
    engine: Arc<Slow>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn job() -> AssignedJob {
    AssignedJob { id: JobId("j".to_owned()), job: Ok(Job { tenant: Some(TenantId::single()), work: Work::Retention }) }
}

fn start(jobs: Vec<AssignedJob>, takes: u64, outcome: Result<JobOutcome, JobFailure>, answers: Vec<Result<(), CallError>>) -> Setting {
    let desk = Arc::new(Desk { jobs: Mutex::new(jobs.into()), answers: Mutex::new(answers.into()), ..Desk::default() });
    let engine = Arc::new(Slow { takes: Duration::from_secs(takes), outcome, was_dropped: AtomicBool::new(false) });
    let worker = BackendWorker::new(Parts {
        config: BackendWorkerConfig::default(),
        name: "w".to_owned(),
        scheduler: desk.clone(),
        engine: engine.clone(),
    });
    let stop = CancellationToken::new();
    let task = tokio::spawn(Arc::new(worker).run(1, stop.clone()));
    Setting { desk, engine, stop, task }
}

fn running() -> (String, JobReport) {
    ("w".to_owned(), JobReport::Running(Default::default()))
}

fn succeeded() -> (String, JobReport) {
    ("w".to_owned(), JobReport::Succeeded(JobOutcome::default()))
}

#[tokio::test(start_paused = true)]
async fn jobs_are_done_and_reported_with_signs_of_life_between() {
    let setting = start(vec![job()], 70, Ok(JobOutcome::default()), Vec::new());
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(*setting.desk.heard.lock(), [running(), running(), succeeded()]);
    setting.stop.cancel();
    setting.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn failures_name_their_corrupt_blocks_and_bad_jobs_fail() {
    let block = BlockId::random();
    let failure = JobFailure { error: "broken".to_owned(), corrupt: vec![block] };
    let bad = AssignedJob { id: JobId("b".to_owned()), job: Err("unknown job type 9".to_owned()) };
    let setting = start(vec![bad, job()], 1, Err(failure), Vec::new());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let failed = |error: &str, corrupt| ("w".to_owned(), JobReport::Failed { error: error.to_owned(), corrupt });
    assert_eq!(*setting.desk.heard.lock(), [failed("unknown job type 9", Vec::new()), failed("broken", vec![block])]);
    setting.stop.cancel();
    setting.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_job_that_went_to_somebody_else_is_dropped() {
    let lost = Err(CallError::new(ErrorClass::FailedPrecondition, "gone"));
    let setting = start(vec![job()], 3_600, Ok(JobOutcome::default()), vec![Ok(()), lost]);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(setting.engine.was_dropped.load(Ordering::SeqCst));
    assert_eq!(*setting.desk.heard.lock(), [running(), running()]);
    setting.stop.cancel();
    setting.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_scheduler_that_is_away_does_not_end_a_job_and_hears_of_its_end_later() {
    let away = || Err(CallError::new(ErrorClass::Unavailable, "away"));
    let setting = start(vec![job()], 40, Ok(JobOutcome::default()), vec![away(), away(), away()]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!setting.engine.was_dropped.load(Ordering::SeqCst));
    assert_eq!(*setting.desk.heard.lock(), [running(), succeeded(), succeeded(), succeeded()]);
    setting.stop.cancel();
    setting.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn on_stop_a_short_job_ends_and_a_long_one_is_dropped() {
    for (takes, expected, waited) in [(20, vec![succeeded()], 15), (1_000, vec![running()], 30)] {
        let setting = start(vec![job()], takes, Ok(JobOutcome::default()), Vec::new());
        tokio::time::sleep(Duration::from_secs(5)).await;
        let stopped = tokio::time::Instant::now();
        setting.stop.cancel();
        setting.task.await.unwrap();
        assert_eq!(stopped.elapsed().as_secs(), waited);
        assert_eq!(*setting.desk.heard.lock(), expected);
        assert_eq!(setting.engine.was_dropped.load(Ordering::SeqCst), takes == 1_000);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_stops_at_once() {
    let setting = start(Vec::new(), 0, Ok(JobOutcome::default()), Vec::new());
    tokio::time::sleep(Duration::from_secs(100)).await;
    let stopped = tokio::time::Instant::now();
    setting.stop.cancel();
    setting.task.await.unwrap();
    assert_eq!(stopped.elapsed().as_secs(), 0);
}

#[test]
fn slots_are_bounded_by_cores_and_memory() {
    let of = |concurrency, memory_budget_bytes, default_jobs, cores| {
        slots(&BackendWorkerConfig { concurrency, memory_budget_bytes, ..BackendWorkerConfig::default() }, default_jobs, cores)
    };
    assert_eq!(of(0, 512 << 20, 1, 8), (1, 512 << 20));
    assert_eq!(of(0, 512 << 20, 8, 8), (8, 64 << 20));
    assert_eq!(of(5, 512 << 20, 1, 4), (4, 128 << 20));
    assert_eq!(of(8, 128 << 20, 1, 8), (2, 64 << 20));
    assert_eq!(of(8, 0, 1, 8), (1, 0));
}

#[test]
fn pauses_double_up_to_the_longest() {
    let mut backoff = Backoff { pause: Duration::from_millis(100), longest: Duration::from_millis(300), attempts: 0, max_attempts: 3 };
    for longest in [100, 200, 300, 300] {
        let pause = backoff.next();
        assert!(pause >= Duration::from_millis(longest / 2) && pause <= Duration::from_millis(longest), "{pause:?}");
    }
    assert!(backoff.is_exhausted());
}
