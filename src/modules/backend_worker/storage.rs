//! Does jobs over the storage engine.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use metrics::counter;
use tracing::debug;

use super::engine::{Engine, JobFailure, RunningJob};
use super::filter::QueryFilter;
use super::metrics::REDACTION_BLOCK_MISSING;
use crate::base::clock::SharedClock;
use crate::base::cpu_pool::CpuPool;
use crate::model::ids::TenantId;
use crate::services::rpc::backend_scheduler::{Job, JobOutcome, RedactionMode, RedactionWork, TraceSelection, Work};
use crate::tempodb::block::bloom::BloomParams;
use crate::tempodb::block::dedicated::DedicatedColumn;
use crate::tempodb::block::meta::{BlockId, BlockVersion};
use crate::tempodb::block::side::rebuild;
use crate::tempodb::compaction::{
    CompactSettings, CompactionError, Compactor, RedactionMode as EngineMode, RedactionSelector, RedactionWindow, RewriteTarget,
};
use crate::tempodb::db::TempoDb;
use crate::tempodb::retention::{RetentionSettings, expire};

/// Tenants that a job over all tenants takes at a time unless configured.
const DEFAULT_RETENTION_CONCURRENCY: usize = 10;

/// Blocks that one job gives side objects. More would keep a compaction waiting: each is read as a whole.
const INDEXED_PER_JOB: usize = 32;

/// What the worker must know of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantLimits {
    /// Neither compaction nor retention.
    pub compaction_disabled: bool,
    /// Instead of the configured one.
    pub block_retention: Option<Duration>,
    /// 0: no limit.
    pub max_bytes_per_trace: usize,
    /// Columns that blocks are written with now.
    pub dedicated_columns: Vec<DedicatedColumn>,
}

pub type LimitsOf = Arc<dyn Fn(&TenantId) -> TenantLimits + Send + Sync>;

/// How blocks are written.
#[derive(Debug, Clone)]
pub struct WriteSettings {
    pub version: BlockVersion,
    pub bloom: BloomParams,
    /// Of one job.
    pub memory_bytes: usize,
}

/// The storage engine with the settings of jobs.
pub struct Storage {
    pub db: Arc<TempoDb>,
    pub compactor: Compactor,
    pub cpu: CpuPool,
    pub limits: LimitsOf,
    pub write: WriteSettings,
    pub retention: RetentionSettings,
    /// Tenants at a time, for jobs over all tenants; 0: 10.
    pub retention_concurrency: usize,
    pub clock: SharedClock,
}

#[async_trait]
impl Engine for Storage {
    async fn run(&self, job: &Job, running: &RunningJob) -> Result<JobOutcome, JobFailure> {
        let Some(tenant) = &job.tenant else { return self.retain_all().await };
        match &job.work {
            Work::Compaction { inputs } => self.compact(tenant, inputs, running).await,
            Work::Retention => self.retain(tenant).await,
            Work::Redaction(work) => self.redact(tenant, work).await,
            Work::Rewrite { block } => self.rewrite(tenant, *block, running).await,
            Work::Index => self.index(tenant).await,
        }
    }
}

impl Storage {
    async fn compact(&self, tenant: &TenantId, inputs: &[BlockId], running: &RunningJob) -> Result<JobOutcome, JobFailure> {
        let settings = self.compact_settings(tenant, running);
        let done = self.compactor.compact(tenant, inputs, &settings).await;
        let done = done.map_err(|error| failure("error compacting blocks", &error))?;
        Ok(JobOutcome { outputs: done.output_ids(), traces_found: 0 })
    }

    async fn rewrite(&self, tenant: &TenantId, block: BlockId, running: &RunningJob) -> Result<JobOutcome, JobFailure> {
        let target = RewriteTarget {
            version: self.write.version,
            dedicated_columns: (self.limits)(tenant).dedicated_columns,
            settings: self.compact_settings(tenant, running),
        };
        let done = self.compactor.rewrite(tenant, block, &target).await;
        let done = done.map_err(|error| failure("error rewriting block", &error))?;
        Ok(JobOutcome { outputs: done.output_ids(), traces_found: 0 })
    }

    fn compact_settings(&self, tenant: &TenantId, running: &RunningJob) -> CompactSettings {
        CompactSettings {
            bloom: self.write.bloom,
            memory_bytes: self.write.memory_bytes,
            max_trace_bytes: (self.limits)(tenant).max_bytes_per_trace,
            fallback_version: self.write.version,
            progress: Some(Arc::clone(&running.0)),
            ..CompactSettings::default()
        }
    }

    async fn redact(&self, tenant: &TenantId, work: &RedactionWork) -> Result<JobOutcome, JobFailure> {
        let selector = selector_of(&work.traces).map_err(|error| JobFailure { error, corrupt: Vec::new() })?;
        let mode = match work.mode {
            RedactionMode::Apply => EngineMode::Apply,
            RedactionMode::DryRun => EngineMode::DryRun,
        };
        let done = self.compactor.redact(tenant, work.block, &selector, mode).await;
        let done = done.map_err(|error| failure("error redacting block", &error))?;
        if done.is_missing {
            counter!(REDACTION_BLOCK_MISSING, "tenant" => tenant.to_string()).increment(1);
        }
        let outputs = done.output.iter().map(|meta| meta.block_id).collect();
        Ok(JobOutcome { outputs, traces_found: u32::try_from(done.traces_found).unwrap_or(u32::MAX) })
    }

    async fn retain(&self, tenant: &TenantId) -> Result<JobOutcome, JobFailure> {
        let limits = (self.limits)(tenant);
        if limits.compaction_disabled {
            return Ok(JobOutcome::default());
        }
        let mut settings = self.retention.clone();
        if let Some(retention) = limits.block_retention {
            settings.block_retention = SignedDuration::try_from(retention).unwrap_or(SignedDuration::MAX);
        }
        let done = expire(&self.db, tenant, &settings, self.now()).await;
        let done = done.map_err(|error| JobFailure { error: chain("error applying retention", &error), corrupt: Vec::new() })?;
        debug!(?done, "retention applied");
        Ok(JobOutcome::default())
    }

    /// Retention of every tenant that this process knows; only schedulers before the first stable version ask for it.
    async fn retain_all(&self) -> Result<JobOutcome, JobFailure> {
        let tenants = self.db.block_list().tenants();
        let concurrency = if self.retention_concurrency == 0 { DEFAULT_RETENTION_CONCURRENCY } else { self.retention_concurrency };
        let runs = stream::iter(tenants).map(|tenant| async move { self.retain(&tenant).await });
        let outcomes: Vec<_> = runs.buffer_unordered(concurrency).collect().await;
        outcomes.into_iter().find(Result::is_err).unwrap_or(Ok(JobOutcome::default()))
    }

    /// Makes side objects of some blocks that lack them; the outcome names these blocks. None: nothing is missing that can be made.
    async fn index(&self, tenant: &TenantId) -> Result<JobOutcome, JobFailure> {
        let failed =
            |error: &dyn std::error::Error| JobFailure { error: chain("error looking for side objects", error), corrupt: Vec::new() };
        let blocks = rebuild::missing(&self.db, tenant, INDEXED_PER_JOB).await.map_err(|error| failed(&error))?;
        let mut outcome = JobOutcome::default();
        for meta in blocks {
            match rebuild::rebuild(&self.db, &self.cpu, tenant, &meta).await {
                Ok(_) => outcome.outputs.push(meta.block_id),
                // Queries do without; a broken block has been reported by the reader.
                Err(error) => debug!(%tenant, block = %meta.block_id, error = &error as &dyn std::error::Error, "no side objects made"),
            }
        }
        Ok(outcome)
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.clock.now_unix_nanos())).unwrap_or(Timestamp::MAX)
    }
}

fn selector_of(traces: &TraceSelection) -> Result<RedactionSelector, String> {
    Ok(match traces {
        TraceSelection::Ids(ids) => RedactionSelector::Ids(ids.clone()),
        TraceSelection::Query { query, window } => {
            let window = window.map(|window| RedactionWindow::new(window.start_nanos, window.end_nanos)).transpose();
            let window = window.map_err(|error| error.to_string())?;
            RedactionSelector::Matching { filter: Arc::new(QueryFilter::new(query)?), window }
        }
    })
}

fn failure(what: &str, error: &CompactionError) -> JobFailure {
    JobFailure { error: chain(what, error), corrupt: error.corrupt_block().into_iter().collect() }
}

/// Returns the text of an error with all its causes.
fn chain(what: &str, error: &dyn std::error::Error) -> String {
    let mut text = format!("{what}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
