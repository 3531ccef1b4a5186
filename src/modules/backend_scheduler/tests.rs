//! The scheduler from outside: workers draw and report, operators redact, processes end and come back.

use std::collections::HashMap;
use std::time::Duration;

use jiff::SignedDuration;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::task::JoinHandle;

use super::*;
use crate::base::clock::{Clock as _, ManualClock};
use crate::model::ids::TraceId;
use crate::services::rpc::backend_scheduler::{JobOutcome, JobType, Progress, RedactionMode, Window, Work};
use crate::tempodb::backend::Backend;
use crate::tempodb::block::meta::BlockMeta;
use crate::tempodb::blocklist::BlockList;
use crate::tempodb::db::DbSettings;

const START: u64 = 1_795_400_000_000_000_000;

/// A scheduler over an empty store in memory, with a clock of its own. What runs inside waits for real, but shortly.
struct World {
    folder: tempfile::TempDir,
    db: Arc<TempoDb>,
    clock: Arc<ManualClock>,
    rules: Arc<Mutex<HashMap<TenantId, TenantRules>>>,
    config: BackendSchedulerConfig,
}

impl World {
    fn new() -> Self {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let clock = Arc::new(ManualClock::at(START));
        let folder = tempfile::tempdir().unwrap();
        let mut config = BackendSchedulerConfig {
            local_work_path: folder.path().join("work").display().to_string(),
            job_timeout: GoDuration::millis(300),
            backend_flush_interval: GoDuration::millis(20),
            ..BackendSchedulerConfig::default()
        };
        config.provider.compaction.min_cycle_interval = GoDuration::millis(20);
        config.provider.retention.interval = GoDuration::hours(1);
        config.provider.redaction.poll_interval = GoDuration::millis(20);
        let db = TempoDb::new(Backend::new(store, ""), Arc::new(BlockList::default()), DbSettings::default(), clock.clone());
        Self { folder, db: Arc::new(db), clock, rules: Arc::default(), config }
    }

    fn open(&self) -> Result<Arc<BackendScheduler>, FilesError> {
        let rules = Arc::clone(&self.rules);
        BackendScheduler::open(Parts {
            config: self.config.clone(),
            db: Arc::clone(&self.db),
            rules: Arc::new(move |tenant| rules.lock().get(tenant).cloned().unwrap_or_default()),
            block_version: BlockVersion::VParquet5,
            clock: self.clock.clone(),
            cpu: CpuPool::new("test", 1).unwrap(),
        })
    }

    async fn start(&self) -> Running {
        // What a killed one had begun may hold the lock for a moment.
        let mut opened = None;
        eventually("the work folder is free", async || {
            opened = self.open().ok();
            opened.is_some()
        })
        .await;
        let scheduler = opened.unwrap();
        scheduler.start().await;
        let stop = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(&scheduler).run(stop.clone()));
        Running { scheduler, stop, task }
    }

    fn add_block(&self, tenant: &TenantId) -> BlockId {
        let meta = self.meta(tenant, "vParquet5");
        let id = meta.block_id;
        self.db.block_list().add(tenant, Arc::new(meta));
        id
    }

    fn meta(&self, tenant: &TenantId, format: &str) -> BlockMeta {
        let end = Timestamp::from_nanosecond(i128::from(self.clock.now_unix_nanos())).unwrap() - SignedDuration::from_secs(90);
        let json = format!(
            r#"{{"format":"{format}","blockID":"{}","tenantID":"{tenant}","startTime":"{end}","endTime":"{end}","totalObjects":10,"size":1000,"replicationFactor":1}}"#,
            BlockId::random()
        );
        BlockMeta::from_json(json.as_bytes()).unwrap()
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance_nanos(seconds * 1_000_000_000);
    }

    fn disable(&self, tenant: &TenantId) {
        self.rules.lock().insert(tenant.clone(), TenantRules { compaction_disabled: true, ..TenantRules::default() });
    }

    async fn has_object(&self, key: &Key) -> bool {
        self.db.backend().head(key).await.is_ok()
    }
}

struct Running {
    scheduler: Arc<BackendScheduler>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// The process dies: nothing is saved any more.
    async fn kill(self) {
        self.task.abort();
        let _aborted = self.task.await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    async fn next(&self, worker: &str) -> Result<AssignedJob, CallError> {
        self.scheduler.next(&hello(worker)).await
    }

    /// The next job of a type; others are done at once. `None` when there is none for a while.
    async fn draw(&self, worker: &str, wanted: JobType) -> Option<(JobId, Work)> {
        loop {
            let assigned = self.next(worker).await.ok()?;
            let work = assigned.job.unwrap().work;
            if work.job_type() == wanted {
                return Some((assigned.id, work));
            }
            self.succeed(&assigned.id, worker, JobOutcome::default()).await;
        }
    }

    async fn succeed(&self, id: &JobId, worker: &str, outcome: JobOutcome) {
        self.scheduler.update(id, worker, JobReport::Succeeded(outcome)).await.unwrap();
    }

    async fn fail(&self, id: &JobId, worker: &str, corrupt: &[BlockId]) {
        let report = JobReport::Failed { error: "unreadable".to_owned(), corrupt: corrupt.to_vec() };
        self.scheduler.update(id, worker, report).await.unwrap();
    }
}

fn hello(worker: &str) -> WorkerHello {
    WorkerHello { worker: worker.to_owned(), keeps_lease: true }
}

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

fn sorted(mut blocks: Vec<BlockId>) -> Vec<BlockId> {
    blocks.sort_unstable();
    blocks
}

async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(std::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn two_blocks_of_a_level_become_one_job_and_are_not_chosen_again() {
    let world = World::new();
    let alpha = tenant("alpha");
    let blocks = sorted(vec![world.add_block(&alpha), world.add_block(&alpha)]);
    let running = world.start().await;
    let (id, work) = running.draw("w", JobType::Compaction).await.unwrap();
    assert_eq!(sorted(work.blocks().to_vec()), blocks);
    let is_saved = std::fs::read_dir(world.folder.path().join("work"))
        .unwrap()
        .any(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default().contains(&id.0));
    assert!(is_saved, "a job is on disk before its worker hears of it");
    assert!(running.draw("other", JobType::Compaction).await.is_none(), "blocks are in one job only");
    running.succeed(&id, "w", JobOutcome { outputs: vec![BlockId::random()], traces_found: 0 }).await;
    let list = world.db.block_list().blocks(&alpha);
    assert_eq!((list.live.len(), list.compacted.len()), (0, 2));
    assert!(running.draw("w", JobType::Compaction).await.is_none());
    running.stop().await;
}

#[tokio::test]
async fn without_work_a_request_waits_and_is_not_found() {
    let world = World::new();
    let running = world.start().await;
    let started = std::time::Instant::now();
    assert_eq!(running.next("w").await.unwrap_err(), CallError::new(ErrorClass::NotFound, "no jobs found"));
    assert!(started.elapsed() >= Duration::from_millis(300));
    let unknown = running.scheduler.update(&JobId("x".to_owned()), "w", JobReport::Running(Progress::default())).await;
    assert_eq!(unknown.unwrap_err(), CallError::new(ErrorClass::NotFound, "job not found"));
    running.stop().await;
}

#[tokio::test]
async fn a_worker_that_comes_back_gets_its_job_again_also_after_a_restart_of_the_scheduler() {
    let world = World::new();
    world.add_block(&tenant("alpha"));
    world.add_block(&tenant("alpha"));
    let running = world.start().await;
    let (id, work) = running.draw("w", JobType::Compaction).await.unwrap();
    assert_eq!(running.draw("w", JobType::Compaction).await.unwrap(), (id.clone(), work.clone()));
    assert!(world.open().is_err(), "one process per directory");
    running.kill().await;

    let running = world.start().await;
    assert!(running.draw("other", JobType::Compaction).await.is_none());
    assert_eq!(running.draw("w", JobType::Compaction).await.unwrap(), (id.clone(), work.clone()));
    running.stop().await;

    // The disk is lost: the copy in the backend is as new as the stop.
    assert!(world.has_object(&work_key()).await);
    std::fs::remove_dir_all(world.folder.path().join("work")).unwrap();
    let running = world.start().await;
    assert_eq!(running.draw("w", JobType::Compaction).await.unwrap(), (id, work));
    running.stop().await;
}

#[tokio::test]
async fn a_job_that_kills_its_worker_again_and_again_ends_as_failed() {
    let world = World::new();
    world.add_block(&tenant("alpha"));
    world.add_block(&tenant("alpha"));
    let running = world.start().await;
    let (id, _) = running.draw("w", JobType::Compaction).await.unwrap();
    for _retry in 0..3 {
        assert_eq!(running.draw("w", JobType::Compaction).await.unwrap().0, id);
    }
    assert!(running.draw("w", JobType::Compaction).await.is_none(), "its blocks rest");
    world.pass(61);
    assert!(running.draw("w", JobType::Compaction).await.is_some_and(|(other, _)| other != id));
    running.stop().await;
}

#[tokio::test]
async fn a_silent_worker_loses_its_job_to_the_next_one() {
    let world = World::new();
    world.add_block(&tenant("alpha"));
    world.add_block(&tenant("alpha"));
    let running = world.start().await;
    let (id, _) = running.draw("slow", JobType::Compaction).await.unwrap();
    let beat = || running.scheduler.update(&id, "slow", JobReport::Running(Progress { bytes_done: 1, bytes_total: 2 }));
    world.pass(290);
    beat().await.unwrap();
    world.pass(290);
    running.scheduler.maintain().await;
    assert!(running.draw("next", JobType::Compaction).await.is_none(), "it was heard of in time");
    world.pass(20);
    running.scheduler.maintain().await;
    assert_eq!(running.draw("next", JobType::Compaction).await.unwrap().0, id);
    assert_eq!(beat().await.unwrap_err().class, ErrorClass::FailedPrecondition);
    running.succeed(&id, "next", JobOutcome::default()).await;
    // Whoever comes late is told that all is well.
    running.succeed(&id, "slow", JobOutcome::default()).await;
    running.stop().await;
}

#[tokio::test]
async fn workers_that_give_no_sign_keep_their_job_until_it_is_dead() {
    let world = World::new();
    world.add_block(&tenant("alpha"));
    world.add_block(&tenant("alpha"));
    let running = world.start().await;
    let foreign = WorkerHello { worker: "foreign".to_owned(), keeps_lease: false };
    let id = loop {
        let assigned = running.scheduler.next(&foreign).await.unwrap();
        if assigned.job.unwrap().work.job_type() == JobType::Compaction {
            break assigned.id;
        }
        running.succeed(&assigned.id, "foreign", JobOutcome::default()).await;
    };
    world.pass(23 * 3600);
    running.scheduler.maintain().await;
    assert!(running.draw("next", JobType::Compaction).await.is_none());
    world.pass(3700);
    running.scheduler.maintain().await;
    let job = running.scheduler.state.lock().work.get(&id).cloned().unwrap();
    assert_eq!((job.status.name(), job.error.as_str()), ("JOB_STATUS_FAILED", "it ran for longer than work.dead_job_timeout"));
    running.stop().await;
}

#[tokio::test]
async fn a_flagged_block_waits_until_its_flag_is_gone() {
    let world = World::new();
    let alpha = tenant("alpha");
    let (held, _) = (world.add_block(&alpha), world.add_block(&alpha));
    let flag = keys::block_object(&alpha, held, keys::NO_COMPACT_NAME);
    world.db.backend().write(&flag, Vec::new()).await.unwrap();
    let running = world.start().await;
    assert!(running.draw("w", JobType::Compaction).await.is_none());
    assert!(running.scheduler.view_text().contains(&format!("| alpha  | {held} |")), "{}", running.scheduler.view_text());
    world.db.backend().delete(&flag).await.unwrap();
    let mut drawn = None;
    eventually("the block is chosen", async || {
        drawn = running.draw("w", JobType::Compaction).await;
        drawn.is_some()
    })
    .await;
    assert!(drawn.unwrap().1.blocks().contains(&held));
    running.stop().await;
}

#[tokio::test]
async fn a_block_found_corrupt_three_times_is_flagged_and_the_others_go_on() {
    let world = World::new();
    let alpha = tenant("alpha");
    let bad = world.add_block(&alpha);
    world.add_block(&alpha);
    world.add_block(&alpha);
    let running = world.start().await;
    let flag = keys::block_object(&alpha, bad, keys::NO_COMPACT_NAME);
    for time in 1..=3_u64 {
        assert!(!world.has_object(&flag).await);
        let (id, work) = running.draw("w", JobType::Compaction).await.unwrap();
        assert!(work.blocks().contains(&bad));
        running.fail(&id, "w", &[bad]).await;
        world.pass(60 << time);
    }
    assert!(world.has_object(&flag).await);
    let text = running.scheduler.view_text();
    assert!(text.contains("Quarantined Blocks") && text.contains("unreadable"), "{text}");
    let (_, work) = running.draw("w", JobType::Compaction).await.unwrap();
    assert!(!work.blocks().contains(&bad) && work.blocks().len() == 2);
    running.stop().await;
}

#[tokio::test]
async fn retention_jobs_come_per_tenant_and_not_for_disabled_ones() {
    let world = World::new();
    let (alpha, beta) = (tenant("alpha"), tenant("beta"));
    for tenant in [&alpha, &beta] {
        world.add_block(tenant);
        world.add_block(tenant);
    }
    world.disable(&beta);
    let running = world.start().await;
    let mut seen = Vec::new();
    while let Ok(assigned) = running.next("w").await {
        let job = assigned.job.unwrap();
        seen.push((job.tenant.unwrap().to_string(), job.work.job_type()));
        running.succeed(&assigned.id, "w", JobOutcome::default()).await;
    }
    seen.sort();
    assert_eq!(seen, [("alpha".to_owned(), JobType::Compaction), ("alpha".to_owned(), JobType::Retention)]);
    running.stop().await;
}

fn by_id(mode: RedactionMode) -> RedactionRequest {
    RedactionRequest { traces: TraceSelection::Ids(vec![TraceId([1; 16])]), mode }
}

#[tokio::test]
async fn redactions_are_refused_for_the_right_reasons() {
    let world = World::new();
    let (alpha, beta) = (tenant("alpha"), tenant("beta"));
    world.add_block(&alpha);
    world.add_block(&beta);
    world.disable(&beta);
    let running = world.start().await;
    let submit = async |tenant: &TenantId, request| {
        running
            .scheduler
            .submit_redaction(tenant, request)
            .await
            .map(|submitted| submitted.jobs_created)
            .map_err(|error| (error.class, error.message))
    };
    let refused = |class, text: &str| Err((class, text.to_owned()));
    let query = |text: &str, window| RedactionRequest {
        traces: TraceSelection::Query { query: text.to_owned(), window },
        mode: RedactionMode::Apply,
    };
    assert_eq!(submit(&tenant("nobody"), by_id(RedactionMode::Apply)).await, refused(ErrorClass::NotFound, "no blocks found for tenant"));
    assert_eq!(
        submit(&beta, by_id(RedactionMode::Apply)).await,
        refused(ErrorClass::FailedPrecondition, "compaction is disabled for this tenant")
    );
    assert_eq!(submit(&alpha, query("{ true }", None)).await, refused(ErrorClass::Invalid, "only comparisons joined by && are allowed"));
    let long_ago = Some(Window { start_nanos: 1, end_nanos: 2 });
    assert_eq!(
        submit(&alpha, query("{ span.a = 1 }", long_ago)).await,
        refused(ErrorClass::NotFound, "no blocks overlap the requested time window")
    );
    assert_eq!(submit(&alpha, by_id(RedactionMode::Apply)).await, Ok(1));
    assert_eq!(
        submit(&alpha, by_id(RedactionMode::DryRun)).await,
        refused(ErrorClass::AlreadyExists, "a redaction is already in progress for this tenant")
    );
    running.stop().await;
}

#[tokio::test]
async fn a_redaction_holds_its_tenant_until_the_last_rescan() {
    let world = World::new();
    let (alpha, beta) = (tenant("alpha"), tenant("beta"));
    let blocks = sorted(vec![world.add_block(&alpha), world.add_block(&alpha)]);
    world.add_block(&beta);
    world.add_block(&beta);
    let running = world.start().await;
    assert_eq!(running.scheduler.submit_redaction(&alpha, by_id(RedactionMode::Apply)).await.unwrap().jobs_created, 2);
    // Nothing of the tenant before it has come to rest, also after a crash; the other one is not concerned.
    running.kill().await;
    let running = world.start().await;
    let (id, work) = running.draw("w", JobType::Compaction).await.unwrap();
    running.succeed(&id, "w", JobOutcome { outputs: vec![BlockId::random()], traces_found: 0 }).await;
    assert!(!work.blocks().iter().any(|block| blocks.contains(block)));
    assert!(running.draw("w", JobType::Redaction).await.is_none());
    world.pass(121);
    let mut redacted = Vec::new();
    let mut outputs = Vec::new();
    for _block in 0..2 {
        let (id, work) = running.draw("w", JobType::Redaction).await.unwrap();
        redacted.extend_from_slice(work.blocks());
        outputs.push(world.add_block(&alpha));
        running.succeed(&id, "w", JobOutcome { outputs: vec![outputs[outputs.len() - 1]], traces_found: 2 }).await;
    }
    assert_eq!(sorted(redacted), blocks);
    assert_eq!(world.db.block_list().blocks(&alpha).compacted.len(), 2, "replaced blocks are marked");
    // Its own outputs are not looked at again, a late block is.
    let late = world.add_block(&alpha);
    eventually("the rescan is planned", async || running.scheduler.state.lock().batches[0].rescan_after.is_some()).await;
    assert!(running.draw("w", JobType::Compaction).await.is_none(), "still held");
    world.pass(301);
    let (id, work) = running.draw("w", JobType::Redaction).await.unwrap();
    assert_eq!(work.blocks(), [late]);
    running.succeed(&id, "w", JobOutcome::default()).await;
    eventually("the rescan is planned", async || running.scheduler.state.lock().batches[0].rescan_after.is_some()).await;
    world.pass(301);
    eventually("the redaction is over", async || running.scheduler.state.lock().batches.is_empty()).await;
    let mut compacted = None;
    eventually("compaction goes on", async || {
        compacted = running.draw("w", JobType::Compaction).await;
        compacted.is_some()
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn counting_neither_holds_the_tenant_nor_marks_blocks() {
    let world = World::new();
    let alpha = tenant("alpha");
    let block = world.add_block(&alpha);
    let running = world.start().await;
    running.scheduler.submit_redaction(&alpha, by_id(RedactionMode::DryRun)).await.unwrap();
    let (id, work) = running.draw("w", JobType::Redaction).await.unwrap();
    assert_eq!(work.blocks(), [block]);
    running.succeed(&id, "w", JobOutcome { outputs: Vec::new(), traces_found: 5 }).await;
    assert_eq!(world.db.block_list().blocks(&alpha).live.len(), 1);
    eventually("the redaction is over", async || running.scheduler.state.lock().batches.is_empty()).await;
    running.stop().await;
}

#[tokio::test]
async fn our_own_jobs_come_only_when_nothing_else_is_to_be_done_and_only_to_our_workers() {
    let mut world = World::new();
    world.config.provider.maintenance.interval = GoDuration::millis(20);
    world.config.provider.maintenance.rewrite_enabled = true;
    world.config.provider.maintenance.index_enabled = true;
    let alpha = tenant("alpha");
    let old = Arc::new(world.meta(&alpha, "vParquet4"));
    world.db.block_list().add(&alpha, Arc::clone(&old));
    let running = world.start().await;
    let foreign = WorkerHello { worker: "foreign".to_owned(), keeps_lease: false };
    while let Ok(assigned) = running.scheduler.next(&foreign).await {
        assert_eq!(assigned.job.unwrap().work.job_type(), JobType::Retention);
        running.succeed(&assigned.id, "foreign", JobOutcome::default()).await;
    }
    let (id, work) = running.draw("w", JobType::Rewrite).await.unwrap();
    assert_eq!(work.blocks(), [old.block_id]);
    assert!(running.draw("other", JobType::Index).await.is_none(), "one at a time");
    running.succeed(&id, "w", JobOutcome { outputs: vec![BlockId::random()], traces_found: 0 }).await;
    let (id, _) = running.draw("w", JobType::Index).await.unwrap();
    running.succeed(&id, "w", JobOutcome::default()).await;
    let mut seen = Vec::new();
    while let Ok(assigned) = running.next("w").await {
        seen.push(assigned.job.unwrap().work.job_type());
        running.succeed(&assigned.id, "w", JobOutcome::default()).await;
    }
    assert_eq!(seen.iter().filter(|kind| **kind == JobType::Index).count(), 0, "nothing has changed since");
    running.stop().await;
}

#[tokio::test]
async fn a_job_that_cannot_be_saved_is_not_handed_out() {
    let world = World::new();
    world.add_block(&tenant("alpha"));
    world.add_block(&tenant("alpha"));
    let running = world.start().await;
    eventually("something is offered", async || running.scheduler.offer.capacity() == 0).await;
    std::fs::remove_dir_all(world.folder.path().join("work")).unwrap();
    assert_eq!(running.next("w").await.unwrap_err(), CallError::internal("failed to flush cache to store"));
    assert_eq!(running.scheduler.state.lock().work.jobs().count(), 0);
    std::fs::create_dir(world.folder.path().join("work")).unwrap();
    running.next("w").await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn the_page_shows_what_runs_and_what_waits() {
    let world = World::new();
    let alpha = tenant("alpha");
    world.add_block(&alpha);
    world.add_block(&alpha);
    let running = world.start().await;
    let (id, _) = running.draw("w", JobType::Compaction).await.unwrap();
    world.pass(10);
    running.scheduler.update(&id, "w", JobReport::Running(Progress { bytes_done: 100, bytes_total: 300 })).await.unwrap();
    let text = running.scheduler.view_text();
    for line in [
        "Active Jobs\n| TENANT |",
        "Pending Jobs\n| TENANT | JOB_ID | TYPE | BLOCK_ID | BATCH_ID |",
        "| JOB_TYPE_COMPACTION | JOB_STATUS_RUNNING",
        "Tenants\n| TENANT | BLOCKS | OUTSTANDING | COMPACTION |\n| alpha  | 2      |",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let json = serde_json::to_value(running.scheduler.view()).unwrap();
    let jobs = json["active_jobs"].as_array().unwrap();
    let job = jobs.iter().find(|job| job["job_id"] == id.0.as_str()).unwrap();
    assert_eq!((&job["bytes_done"], &job["remaining_seconds"]), (&100.into(), &20.0.into()));
    running.stop().await;
}
