//! The page `/status/backendscheduler`: what runs, what waits, what is held back. Text for people, `?format=json` for programs.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::BackendScheduler;
use super::job::{Job, Status};
use crate::base::text_table::text_table;
use crate::services::rpc::backend_scheduler::JobType;

/// Paths served here.
pub const PATHS: [&str; 1] = ["/status/backendscheduler"];

pub fn router(scheduler: Arc<BackendScheduler>) -> Router {
    Router::new().route(PATHS[0], any(page)).with_state(scheduler)
}

#[derive(Deserialize)]
struct Parameters {
    format: Option<String>,
}

async fn page(State(scheduler): State<Arc<BackendScheduler>>, Query(parameters): Query<Parameters>) -> Response {
    let view = scheduler.view();
    if parameters.format.as_deref() == Some("json") {
        return axum::Json(view).into_response();
    }
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], view.to_text()).into_response()
}

/// All that the page shows.
#[derive(Debug, Serialize)]
pub(super) struct View {
    active_jobs: Vec<ActiveJob>,
    pending_jobs: Vec<PendingJob>,
    redactions: Vec<RedactionRow>,
    tenants: Vec<TenantRow>,
    quarantined_blocks: Vec<BlockRow>,
    held_blocks: Vec<BlockRow>,
}

#[derive(Debug, Serialize)]
struct ActiveJob {
    tenant: String,
    job_id: String,
    r#type: &'static str,
    status: &'static str,
    worker: String,
    created: String,
    start: String,
    end: String,
    retries: u32,
    bytes_done: u64,
    bytes_total: u64,
    /// Seconds left at the speed so far.
    remaining_seconds: Option<f64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

#[derive(Debug, Serialize)]
struct PendingJob {
    tenant: String,
    job_id: String,
    r#type: &'static str,
    block_id: String,
    batch_id: String,
}

#[derive(Debug, Serialize)]
struct RedactionRow {
    tenant: String,
    batch_id: String,
    mode: &'static str,
    created: String,
    generation: u32,
    jobs_left: usize,
    next_scan: String,
    traces_found: u64,
}

#[derive(Debug, Serialize)]
struct TenantRow {
    tenant: String,
    blocks: usize,
    outstanding: usize,
    compaction: &'static str,
}

#[derive(Debug, Serialize)]
struct BlockRow {
    tenant: String,
    block_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    since: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

fn time(time: Option<Timestamp>) -> String {
    // Whole seconds; what has not happened is empty.
    time.and_then(|time| Timestamp::from_second(time.as_second()).ok()).map(|time| time.to_string()).unwrap_or_default()
}

impl ActiveJob {
    fn of(job: &Job, now: Timestamp) -> Self {
        let progress = job.progress;
        let elapsed = job.started.map_or(0.0, |started| now.duration_since(started).as_secs_f64());
        let is_known = job.status == Status::Running && progress.bytes_done > 0 && progress.bytes_total >= progress.bytes_done;
        let left = (progress.bytes_total.saturating_sub(progress.bytes_done)) as f64;
        Self {
            tenant: job.tenant.to_string(),
            job_id: job.id.0.clone(),
            r#type: job.job_type().name(),
            status: job.status.name(),
            worker: job.worker.clone(),
            created: time(Some(job.created)),
            start: time(job.started),
            end: time(job.ended),
            retries: job.retries,
            bytes_done: progress.bytes_done,
            bytes_total: progress.bytes_total,
            remaining_seconds: is_known.then(|| elapsed * left / progress.bytes_done as f64),
            error: job.error.clone(),
        }
    }
}

impl BackendScheduler {
    #[cfg(test)]
    pub(super) fn view_text(&self) -> String {
        self.view().to_text()
    }

    pub(super) fn view(&self) -> View {
        let now = self.now();
        let tenants = self.db.block_list().tenants();
        let state = self.state.lock();
        let mut jobs: Vec<&Job> = state.work.jobs().collect();
        // Running first, then what ended last.
        jobs.sort_by_key(|job| (job.status.is_finished(), std::cmp::Reverse(job.ended), job.created, job.id.clone()));
        let active = jobs.iter().filter(|job| job.status != Status::Pending);
        let pending = jobs.iter().filter(|job| job.status == Status::Pending);
        let tenant_row = |tenant: &crate::model::ids::TenantId| TenantRow {
            blocks: self.db.block_list().blocks(tenant).live.len(),
            outstanding: state.outstanding.get(tenant).copied().unwrap_or(0),
            compaction: match () {
                () if (self.rules)(tenant).compaction_disabled => "disabled",
                () if state.is_frozen(tenant) => "frozen",
                () => "enabled",
            },
            tenant: tenant.to_string(),
        };
        let mut view = View {
            active_jobs: active.map(|job| ActiveJob::of(job, now)).collect(),
            pending_jobs: pending.map(|job| PendingJob::of(job)).collect(),
            redactions: Vec::new(),
            tenants: tenants.iter().map(tenant_row).collect(),
            quarantined_blocks: Vec::new(),
            held_blocks: Vec::new(),
        };
        for batch in &state.batches {
            let left = jobs.iter().filter(|job| job.batch.as_ref() == Some(&batch.id) && !job.status.is_finished());
            view.redactions.push(RedactionRow {
                tenant: batch.tenant.to_string(),
                batch_id: batch.id.clone(),
                mode: batch.request.mode.name(),
                created: time(Some(batch.created)),
                generation: batch.generation,
                jobs_left: left.count(),
                next_scan: time(batch.rescan_after),
                traces_found: batch.traces_found,
            });
        }
        for (block, quarantined) in state.health.quarantined() {
            let (tenant, since) = (quarantined.tenant.to_string(), time(Some(quarantined.since)));
            view.quarantined_blocks.push(BlockRow { tenant, block_id: block.to_string(), since, error: quarantined.error.clone() });
        }
        for (block, tenant) in state.health.held() {
            let (since, error) = (String::new(), String::new());
            view.held_blocks.push(BlockRow { tenant: tenant.to_string(), block_id: block.to_string(), since, error });
        }
        view.tenants.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        for rows in [&mut view.quarantined_blocks, &mut view.held_blocks] {
            rows.sort_by(|a, b| (&a.tenant, &a.block_id).cmp(&(&b.tenant, &b.block_id)));
        }
        view
    }
}

impl PendingJob {
    fn of(job: &Job) -> Self {
        let is_of_block = matches!(job.job_type(), JobType::Redaction | JobType::Rewrite);
        Self {
            tenant: job.tenant.to_string(),
            job_id: job.id.0.clone(),
            r#type: job.job_type().name(),
            block_id: job.work.blocks().first().filter(|_| is_of_block).map(ToString::to_string).unwrap_or_default(),
            batch_id: job.batch.clone().unwrap_or_default(),
        }
    }
}

impl View {
    fn to_text(&self) -> String {
        let active = self.active_jobs.iter().map(|job| {
            let cells = [&job.tenant, &job.job_id, job.r#type, job.status, &job.worker, &job.created, &job.start, &job.end];
            cells.map(str::to_owned)
        });
        let pending = self.pending_jobs.iter().map(|job| {
            let cells: [&str; 5] = [&job.tenant, &job.job_id, job.r#type, &job.block_id, &job.batch_id];
            cells.map(str::to_owned)
        });
        let redactions = self.redactions.iter().map(|batch| {
            let numbers = [batch.generation.to_string(), batch.jobs_left.to_string(), batch.traces_found.to_string()];
            let [generation, left, found] = numbers;
            let (mode, next) = (batch.mode.to_owned(), batch.next_scan.clone());
            [batch.tenant.clone(), batch.batch_id.clone(), mode, batch.created.clone(), generation, left, next, found]
        });
        let tenants = self
            .tenants
            .iter()
            .map(|row| [row.tenant.clone(), row.blocks.to_string(), row.outstanding.to_string(), row.compaction.to_owned()]);
        let blocks = |rows: &[BlockRow]| -> Vec<[String; 4]> {
            rows.iter().map(|row| [row.tenant.clone(), row.block_id.clone(), row.since.clone(), row.error.clone()]).collect()
        };
        let block_head = ["TENANT", "BLOCK_ID", "SINCE", "ERROR"];
        let parts = [
            ("Active Jobs", text_table(["TENANT", "JOB_ID", "TYPE", "STATUS", "WORKER", "CREATED", "START", "END"], active.collect())),
            ("Pending Jobs", text_table(["TENANT", "JOB_ID", "TYPE", "BLOCK_ID", "BATCH_ID"], pending.collect())),
            (
                "Redactions",
                text_table(
                    ["TENANT", "BATCH_ID", "MODE", "CREATED", "RESCANS", "JOBS_LEFT", "NEXT_SCAN", "TRACES_FOUND"],
                    redactions.collect(),
                ),
            ),
            ("Tenants", text_table(["TENANT", "BLOCKS", "OUTSTANDING", "COMPACTION"], tenants.collect())),
            ("Quarantined Blocks", text_table(block_head, blocks(&self.quarantined_blocks))),
            ("Held Blocks", text_table(block_head, blocks(&self.held_blocks))),
        ];
        parts.iter().map(|(title, table)| format!("{title}\n{table}\n")).collect()
    }
}
