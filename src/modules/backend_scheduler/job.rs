//! A job from its offer to its end, and its form in files.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use crate::model::ids::{TenantId, TraceId};
use crate::services::rpc::backend_scheduler::{
    AssignedJob, Job as Assignment, JobId, JobType, Progress, RedactionMode, RedactionWork, TraceSelection, Window, Work,
};
use crate::tempodb::block::meta::{BlockId, rfc3339, unset_time};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// Waits for a worker.
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Status {
    pub(super) fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pending => "JOB_STATUS_UNSPECIFIED",
            Self::Running => "JOB_STATUS_RUNNING",
            Self::Succeeded => "JOB_STATUS_SUCCEEDED",
            Self::Failed => "JOB_STATUS_FAILED",
        }
    }

    fn number(self) -> i32 {
        match self {
            Self::Pending => 0,
            Self::Succeeded => 1,
            Self::Failed => 2,
            Self::Running => 3,
        }
    }

    fn from_number(number: i32) -> Option<Self> {
        [Self::Pending, Self::Running, Self::Succeeded, Self::Failed].into_iter().find(|status| status.number() == number)
    }
}

/// A job that the scheduler remembers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) tenant: TenantId,
    pub(super) work: Work,
    /// The redaction it is part of.
    pub(super) batch: Option<String>,
    pub(super) status: Status,
    pub(super) created: Timestamp,
    pub(super) started: Option<Timestamp>,
    pub(super) ended: Option<Timestamp>,
    pub(super) worker: String,
    /// How often it was handed out again.
    pub(super) retries: u32,
    /// Blocks written.
    pub(super) outputs: Vec<BlockId>,
    pub(super) error: String,
    /// Last sign of life of a worker that keeps its lease; `None` for workers that never give one.
    pub(super) last_seen: Option<Timestamp>,
    pub(super) progress: Progress,
}

impl Job {
    pub(super) fn new(tenant: TenantId, work: Work, batch: Option<String>, now: Timestamp) -> Self {
        Self {
            id: JobId(uuid::Uuid::new_v4().to_string()),
            tenant,
            work,
            batch,
            status: Status::Pending,
            created: now,
            started: None,
            ended: None,
            worker: String::new(),
            retries: 0,
            outputs: Vec::new(),
            error: String::new(),
            last_seen: None,
            progress: Progress::default(),
        }
    }

    pub(super) fn job_type(&self) -> JobType {
        self.work.job_type()
    }

    /// Hands the job to a worker.
    pub(super) fn assign(&mut self, worker: &str, keeps_lease: bool, now: Timestamp) {
        self.status = Status::Running;
        self.worker = worker.to_owned();
        self.started = Some(now);
        self.last_seen = keeps_lease.then_some(now);
        self.progress = Progress::default();
    }

    pub(super) fn finish(&mut self, status: Status, now: Timestamp) {
        self.status = status;
        self.ended = Some(now);
    }

    pub(super) fn assignment(&self) -> AssignedJob {
        AssignedJob { id: self.id.clone(), job: Ok(Assignment { tenant: Some(self.tenant.clone()), work: self.work.clone() }) }
    }

    pub(super) fn to_file(&self) -> JobFile {
        JobFile {
            id: self.id.0.clone(),
            job_type: self.job_type().number(),
            job_detail: self.detail(),
            status: self.status.number(),
            created_time: self.created,
            start_time: self.started.unwrap_or_else(unset_time),
            end_time: self.ended.unwrap_or_else(unset_time),
            worker_id: self.worker.clone(),
            retries: self.retries,
            error: self.error.clone(),
            keeps_lease: self.last_seen.is_some(),
        }
    }

    fn detail(&self) -> DetailFile {
        let mut detail = DetailFile {
            tenant: self.tenant.to_string(),
            batch_id: self.batch.clone().unwrap_or_default(),
            outputs: Vec::new(),
            ..DetailFile::default()
        };
        match &self.work {
            Work::Compaction { inputs } => detail.compaction = Some(CompactionFile { input: inputs.clone(), output: self.outputs.clone() }),
            Work::Retention => detail.retention = Some(RetentionFile {}),
            Work::Redaction(work) => detail.redaction = Some(RedactionFile::of(work)),
            Work::Rewrite { block } => detail.rewrite = Some(*block),
            Work::Index => {}
        }
        if detail.compaction.is_none() {
            detail.outputs.clone_from(&self.outputs);
        }
        detail
    }

    /// Reads a job back; `now` counts as its worker's last sign of life, so that a restart takes nobody's job away.
    pub(super) fn from_file(file: JobFile, now: Timestamp) -> Result<Self, String> {
        let job_type = JobType::ALL.into_iter().find(|known| known.number() == file.job_type);
        let detail = file.job_detail;
        let missing = || "job without its detail".to_owned();
        let mut outputs = detail.outputs;
        let work = match job_type.ok_or_else(|| format!("unknown job type {}", file.job_type))? {
            JobType::Compaction => {
                let compaction = detail.compaction.ok_or_else(missing)?;
                outputs = compaction.output;
                Work::Compaction { inputs: compaction.input }
            }
            JobType::Retention => Work::Retention,
            JobType::Redaction => Work::Redaction(detail.redaction.ok_or_else(missing)?.to_work()?),
            JobType::Rewrite => Work::Rewrite { block: detail.rewrite.ok_or_else(missing)? },
            JobType::Index => Work::Index,
        };
        let status = Status::from_number(file.status).ok_or_else(|| format!("unknown job status {}", file.status))?;
        let set = |time: Timestamp| (time != unset_time()).then_some(time);
        Ok(Self {
            id: JobId(file.id),
            tenant: TenantId::parse(&detail.tenant).map_err(|error| error.to_string())?,
            work,
            batch: Some(detail.batch_id).filter(|batch| !batch.is_empty()),
            status,
            created: file.created_time,
            started: set(file.start_time),
            ended: set(file.end_time),
            worker: file.worker_id,
            retries: file.retries,
            outputs,
            error: file.error,
            last_seen: file.keeps_lease.then_some(now),
            progress: Progress::default(),
        })
    }
}

/// A job as JSON. The keys are those of the compatible system; further ones are left out when they say nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct JobFile {
    id: String,
    #[serde(rename = "type")]
    job_type: i32,
    job_detail: DetailFile,
    #[serde(default)]
    status: i32,
    #[serde(with = "rfc3339", default = "unset_time")]
    created_time: Timestamp,
    #[serde(with = "rfc3339", default = "unset_time")]
    start_time: Timestamp,
    #[serde(with = "rfc3339", default = "unset_time")]
    end_time: Timestamp,
    #[serde(default)]
    worker_id: String,
    #[serde(default)]
    retries: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    error: String,
    #[serde(default, skip_serializing_if = "is_false")]
    keeps_lease: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct DetailFile {
    #[serde(default)]
    tenant: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    compaction: Option<CompactionFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retention: Option<RetentionFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    redaction: Option<RedactionFile>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    batch_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rewrite: Option<BlockId>,
    /// Blocks written by other jobs than compactions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    outputs: Vec<BlockId>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct CompactionFile {
    #[serde(default, deserialize_with = "null_is_empty")]
    input: Vec<BlockId>,
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    output: Vec<BlockId>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RetentionFile {}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RedactionFile {
    block_id: BlockId,
    /// Base64.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    trace_ids: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    query: Option<QueryFile>,
    #[serde(default, skip_serializing_if = "is_zero")]
    mode: i32,
    #[serde(default, skip_serializing_if = "is_zero_i64")]
    start_time_unix_nano: i64,
    #[serde(default, skip_serializing_if = "is_zero_i64")]
    end_time_unix_nano: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct QueryFile {
    query: String,
}

impl RedactionFile {
    fn of(work: &RedactionWork) -> Self {
        use base64::Engine as _;
        let mut file = Self {
            block_id: work.block,
            trace_ids: Vec::new(),
            query: None,
            mode: work.mode.number(),
            start_time_unix_nano: 0,
            end_time_unix_nano: 0,
        };
        match &work.traces {
            TraceSelection::Ids(ids) => {
                file.trace_ids = ids.iter().map(|id| base64::engine::general_purpose::STANDARD.encode(id.0)).collect();
            }
            TraceSelection::Query { query, window } => {
                file.query = Some(QueryFile { query: query.clone() });
                if let Some(window) = window {
                    (file.start_time_unix_nano, file.end_time_unix_nano) = (window.start_nanos, window.end_nanos);
                }
            }
        }
        file
    }

    fn to_work(&self) -> Result<RedactionWork, String> {
        use base64::Engine as _;
        let id = |text: &String| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok();
            bytes.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(TraceId).ok_or_else(|| format!("{text:?} is not a trace id"))
        };
        let window = (self.start_time_unix_nano, self.end_time_unix_nano);
        let window = (window != (0, 0)).then_some(Window { start_nanos: window.0, end_nanos: window.1 });
        let traces = match &self.query {
            Some(QueryFile { query }) => TraceSelection::Query { query: query.clone(), window },
            None => TraceSelection::Ids(self.trace_ids.iter().map(id).collect::<Result<_, _>>()?),
        };
        let mode = RedactionMode::from_number(self.mode).ok_or_else(|| format!("unknown redaction mode {}", self.mode))?;
        Ok(RedactionWork { block: self.block_id, traces, mode })
    }
}

/// Lists and maps that the compatible system never touched are `null`.
pub(super) fn null_is_empty<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &i32) -> bool {
    *value == 0
}

fn is_zero_i64(value: &i64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u128) -> BlockId {
        BlockId(uuid::Uuid::from_u128(number))
    }

    #[test]
    fn the_json_is_that_of_the_compatible_system() {
        let now = "2026-11-22T00:59:17.5Z".parse().unwrap();
        let mut job = Job::new(TenantId::parse("alpha").unwrap(), Work::Compaction { inputs: vec![block(1), block(2)] }, None, now);
        job.id = JobId("b1fc56f5-83fb-5b0a-a200-9ca61c8f15c9".to_owned());
        job.assign("worker-0", false, now);
        let text = serde_json::to_string(&job.to_file()).unwrap();
        assert_eq!(
            text,
            r#"{"id":"b1fc56f5-83fb-5b0a-a200-9ca61c8f15c9","type":1,"job_detail":{"tenant":"alpha","compaction":{"input":["00000000-0000-0000-0000-000000000001","00000000-0000-0000-0000-000000000002"]}},"status":3,"created_time":"2026-11-22T00:59:17.5Z","start_time":"2026-11-22T00:59:17.5Z","end_time":"0001-01-01T00:00:00Z","worker_id":"worker-0","retries":0}"#
        );
        assert_eq!(Job::from_file(serde_json::from_str(&text).unwrap(), now).unwrap(), job);
    }

    #[test]
    fn every_kind_of_job_comes_back_from_its_file() {
        let now: Timestamp = "2026-11-22T00:59:17Z".parse().unwrap();
        let query = TraceSelection::Query { query: "{}".to_owned(), window: Some(Window { start_nanos: 1, end_nanos: 2 }) };
        for work in [
            Work::Compaction { inputs: vec![block(1)] },
            Work::Retention,
            Work::Redaction(RedactionWork {
                block: block(3),
                traces: TraceSelection::Ids(vec![TraceId([9; 16])]),
                mode: RedactionMode::DryRun,
            }),
            Work::Redaction(RedactionWork { block: block(4), traces: query, mode: RedactionMode::Apply }),
            Work::Rewrite { block: block(5) },
            Work::Index,
        ] {
            let mut job = Job::new(TenantId::single(), work, Some("batch".to_owned()), now);
            job.assign("w", true, now);
            job.outputs = vec![block(7)];
            job.finish(Status::Failed, now);
            job.error = "why".to_owned();
            let text = serde_json::to_vec(&job.to_file()).unwrap();
            assert_eq!(Job::from_file(serde_json::from_slice(&text).unwrap(), now).unwrap(), job);
        }
    }

    #[test]
    fn files_with_nulls_are_read_and_nonsense_is_named() {
        let file = |text: &str| Job::from_file(serde_json::from_str(text).unwrap(), Timestamp::UNIX_EPOCH);
        let job = file(r#"{"id":"a","type":1,"job_detail":{"tenant":"t","compaction":{"input":null,"output":null}},"status":2}"#).unwrap();
        assert_eq!((job.work, job.status, job.started), (Work::Compaction { inputs: Vec::new() }, Status::Failed, None));
        assert_eq!(file(r#"{"id":"a","type":9,"job_detail":{"tenant":"t"}}"#).unwrap_err(), "unknown job type 9");
        assert_eq!(file(r#"{"id":"a","type":3,"job_detail":{"tenant":"t"}}"#).unwrap_err(), "job without its detail");
        assert_eq!(file(r#"{"id":"a","type":2,"job_detail":{}}"#).unwrap_err(), "no org id");
    }
}
