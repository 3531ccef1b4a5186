//! What backend workers and operators ask of the backend scheduler: the next job, a report about a job, a redaction.
//!
//! In one process the scheduler is called directly. Between processes the port speaks `tempopb.BackendScheduler` ([`grpc`]), so that workers and
//! schedulers of the compatible system can take either side; what they do not know travels in fields from 100 on.
//!
//! Not here: what jobs there are and when (the scheduler), how they are done (the worker).

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::status::CallError;
use crate::model::ids::{TenantId, TraceId};
use crate::proto::tempopb;
use crate::tempodb::block::meta::BlockId;

pub mod grpc;
mod wire;
#[cfg(test)]
mod tests;

/// Names a job; the scheduler makes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub String);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What kind of work a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobType {
    Compaction,
    Retention,
    Redaction,
    Rewrite,
    Index,
}

impl JobType {
    pub const ALL: [Self; 5] = [Self::Compaction, Self::Retention, Self::Redaction, Self::Rewrite, Self::Index];

    /// The name that metrics and the status page show.
    pub fn name(self) -> &'static str {
        self.wire().as_str_name()
    }

    /// The number in messages and files.
    pub fn number(self) -> i32 {
        self.wire().into()
    }

    /// Whether only workers of this program know it.
    pub fn is_own(self) -> bool {
        match self {
            Self::Compaction | Self::Retention | Self::Redaction => false,
            Self::Rewrite | Self::Index => true,
        }
    }

    fn wire(self) -> tempopb::JobType {
        match self {
            Self::Compaction => tempopb::JobType::Compaction,
            Self::Retention => tempopb::JobType::Retention,
            Self::Redaction => tempopb::JobType::Redaction,
            Self::Rewrite => tempopb::JobType::Rewrite,
            Self::Index => tempopb::JobType::Index,
        }
    }
}

/// What a worker is to do for a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Merge blocks into one.
    Compaction { inputs: Vec<BlockId> },
    /// Mark old blocks and delete marked ones.
    Retention,
    /// Take traces out of a block.
    Redaction(RedactionWork),
    /// Bring a block to the version and columns that are written now.
    Rewrite { block: BlockId },
    /// Make side objects that are missing.
    Index,
}

impl Work {
    pub fn job_type(&self) -> JobType {
        match self {
            Self::Compaction { .. } => JobType::Compaction,
            Self::Retention => JobType::Retention,
            Self::Redaction(_) => JobType::Redaction,
            Self::Rewrite { .. } => JobType::Rewrite,
            Self::Index => JobType::Index,
        }
    }

    /// The blocks that the job reads and replaces.
    pub fn blocks(&self) -> &[BlockId] {
        match self {
            Self::Compaction { inputs } => inputs,
            Self::Redaction(RedactionWork { block, .. }) | Self::Rewrite { block } => std::slice::from_ref(block),
            Self::Retention | Self::Index => &[],
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedactionWork {
    pub block: BlockId,
    pub traces: TraceSelection,
    pub mode: RedactionMode,
}

/// Which traces a redaction takes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceSelection {
    /// Never empty.
    Ids(Vec<TraceId>),
    /// Whole traces of which a span matches.
    Query { query: String, window: Option<Window> },
}

/// A time range in Unix nanoseconds, both ends included; `0 <= start < end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub start_nanos: i64,
    pub end_nanos: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RedactionMode {
    Apply,
    /// Only count.
    DryRun,
}

impl RedactionMode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Apply => tempopb::RedactionMode::Apply.as_str_name(),
            Self::DryRun => tempopb::RedactionMode::DryRun.as_str_name(),
        }
    }

    pub fn number(self) -> i32 {
        match self {
            Self::Apply => tempopb::RedactionMode::Apply.into(),
            Self::DryRun => tempopb::RedactionMode::DryRun.into(),
        }
    }

    pub fn from_number(number: i32) -> Option<Self> {
        match tempopb::RedactionMode::try_from(number).ok()? {
            tempopb::RedactionMode::Apply => Some(Self::Apply),
            tempopb::RedactionMode::DryRun => Some(Self::DryRun),
        }
    }
}

/// A worker that asks for work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerHello {
    /// Unique and stable: who comes back under its name gets its unfinished job again.
    pub worker: String,
    /// It reports [`JobReport::Running`] every half minute, and knows our own job types.
    pub keeps_lease: bool,
}

/// A job handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignedJob {
    pub id: JobId,
    /// The error says why this is no job that a worker can do.
    pub job: Result<Job, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// `None`: all tenants; only old schedulers send that, and only for retention.
    pub tenant: Option<TenantId>,
    pub work: Work,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    pub bytes_done: u64,
    /// 0 when not known.
    pub bytes_total: u64,
}

/// What a worker says of its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobReport {
    Running(Progress),
    Succeeded(JobOutcome),
    Failed {
        error: String,
        /// Blocks that cannot be read because they are broken.
        corrupt: Vec<BlockId>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobOutcome {
    /// Blocks written.
    pub outputs: Vec<BlockId>,
    /// Of a redaction: traces that matched.
    pub traces_found: u32,
}

/// An operator's wish to remove traces of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedactionRequest {
    pub traces: TraceSelection,
    pub mode: RedactionMode,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubmittedRedaction {
    pub batch_id: String,
    pub jobs_created: usize,
}

/// The backend scheduler.
#[async_trait]
pub trait BackendScheduler: Send + Sync + 'static {
    /// Waits for a job; [`NO_JOBS`] as not found when there is none for some time. May be dropped: a job already chosen comes with the next call.
    async fn next(&self, hello: &WorkerHello) -> Result<AssignedJob, CallError>;

    /// Takes a report. Not found: nobody knows the job. Failed precondition: the job went to another worker, and this one is to stop.
    async fn update(&self, job: &JobId, worker: &str, report: JobReport) -> Result<(), CallError>;

    async fn submit_redaction(&self, tenant: &TenantId, request: RedactionRequest) -> Result<SubmittedRedaction, CallError>;
}

pub type BackendSchedulerPort = Arc<dyn BackendScheduler>;

/// Text of the error when there is nothing to do; the normal state of an idle system.
pub const NO_JOBS: &str = "no jobs found";
/// Text of the error for a job that nobody knows.
pub const JOB_NOT_FOUND: &str = "job not found";
