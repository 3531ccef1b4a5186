//! What the worker needs of whoever does the work. Tests put something else in its place.

use std::sync::Arc;

use async_trait::async_trait;

use crate::services::rpc::backend_scheduler::{Job, JobOutcome, Progress};
use crate::tempodb::block::meta::BlockId;
use crate::tempodb::compaction::CompactionProgress;

/// Does jobs. Dropping a returned future cancels the job.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    async fn run(&self, job: &Job, running: &RunningJob) -> Result<JobOutcome, JobFailure>;
}

/// Why a job failed, for the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFailure {
    pub error: String,
    /// Blocks that cannot be read because they are broken.
    pub corrupt: Vec<BlockId>,
}

/// How far a job is.
#[derive(Debug, Clone, Default)]
pub struct RunningJob(pub Arc<CompactionProgress>);

impl RunningJob {
    pub fn progress(&self) -> Progress {
        let snapshot = self.0.snapshot();
        Progress { bytes_done: snapshot.bytes_read, bytes_total: snapshot.bytes_total }
    }
}
