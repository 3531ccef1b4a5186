//! Jobs, reports and requests as messages of `tempopb`. Foreign messages are checked here; what comes out is valid.

use super::{
    AssignedJob, Job, JobId, JobOutcome, JobReport, JobType, Progress, RedactionMode, RedactionRequest, RedactionWork, TraceSelection,
    Window, Work,
};
use crate::base::error_class::ErrorClass;
use crate::model::ids::{TenantId, TraceId};
use crate::proto::tempopb::{
    CompactionDetail, JobDetail, JobStatus, NextJobResponse, RedactionDetail, RedactionResult, RetentionDetail, RewriteDetail,
    SubmitRedactionRequest, TraceQlSelector, UpdateJobStatusRequest, submit_redaction_request::Selector,
};
use crate::services::rpc::status::CallError;
use crate::tempodb::block::meta::BlockId;

fn invalid(text: impl Into<String>) -> CallError {
    CallError::new(ErrorClass::Invalid, text)
}

/// Our end of a job that was handed out: the message for a worker.
pub(super) fn to_next_response(assigned: &AssignedJob) -> NextJobResponse {
    let job_id = assigned.id.0.clone();
    match &assigned.job {
        Ok(job) => NextJobResponse { job_id, r#type: job.work.job_type().number(), detail: Some(to_detail(job)) },
        Err(_) => NextJobResponse { job_id, ..NextJobResponse::default() },
    }
}

fn to_detail(job: &Job) -> JobDetail {
    let mut detail = JobDetail { tenant: job.tenant.as_ref().map(ToString::to_string).unwrap_or_default(), ..JobDetail::default() };
    match &job.work {
        Work::Compaction { inputs } => {
            detail.compaction = Some(CompactionDetail { input: inputs.iter().map(BlockId::to_string).collect(), output: Vec::new() });
        }
        Work::Retention => detail.retention = Some(RetentionDetail {}),
        Work::Redaction(work) => {
            let (trace_ids, query, window) = split_selection(&work.traces);
            detail.redaction = Some(RedactionDetail {
                block_id: work.block.to_string(),
                trace_ids,
                query,
                mode: work.mode.number(),
                start_time_unix_nano: window.map_or(0, |window| window.start_nanos),
                end_time_unix_nano: window.map_or(0, |window| window.end_nanos),
            });
        }
        Work::Rewrite { block } => detail.rewrite = Some(RewriteDetail { block_id: block.to_string() }),
        Work::Index => {}
    }
    detail
}

/// A job as another scheduler sent it.
pub(super) fn from_next_response(response: NextJobResponse) -> AssignedJob {
    AssignedJob { id: JobId(response.job_id), job: job_of(response.r#type, response.detail.unwrap_or_default()) }
}

fn job_of(number: i32, detail: JobDetail) -> Result<Job, String> {
    let job_type = JobType::ALL.into_iter().find(|known| known.number() == number).ok_or_else(|| format!("unknown job type {number}"))?;
    let tenant = match detail.tenant.as_str() {
        "" if job_type == JobType::Retention => None,
        text => Some(TenantId::parse(text).map_err(|error| error.to_string())?),
    };
    let missing = || format!("{} without its detail", job_type.name());
    let work = match job_type {
        JobType::Compaction => {
            let inputs = block_ids(&detail.compaction.ok_or_else(missing)?.input)?;
            if inputs.is_empty() {
                return Err("compaction of no blocks".to_owned());
            }
            Work::Compaction { inputs }
        }
        JobType::Retention => Work::Retention,
        JobType::Redaction => {
            let redaction = detail.redaction.ok_or_else(missing)?;
            let mode = RedactionMode::from_number(redaction.mode).ok_or_else(|| format!("unknown redaction mode {}", redaction.mode))?;
            let window = (redaction.start_time_unix_nano, redaction.end_time_unix_nano);
            let traces = selection(&redaction.trace_ids, redaction.query, window).map_err(|error| error.message)?;
            Work::Redaction(RedactionWork { block: block_id(&redaction.block_id)?, traces, mode })
        }
        JobType::Rewrite => Work::Rewrite { block: block_id(&detail.rewrite.ok_or_else(missing)?.block_id)? },
        JobType::Index => Work::Index,
    };
    Ok(Job { tenant, work })
}

fn block_id(text: &str) -> Result<BlockId, String> {
    BlockId::parse(text).ok_or_else(|| format!("{text:?} is not a block id"))
}

fn block_ids(texts: &[String]) -> Result<Vec<BlockId>, String> {
    texts.iter().map(|text| block_id(text)).collect()
}

/// A report as a message to another scheduler.
pub(super) fn to_update_request(job: &JobId, worker: &str, report: JobReport) -> UpdateJobStatusRequest {
    let mut request = UpdateJobStatusRequest { job_id: job.0.clone(), worker_id: worker.to_owned(), ..UpdateJobStatusRequest::default() };
    match report {
        JobReport::Running(progress) => {
            request.status = JobStatus::Running.into();
            (request.bytes_done, request.bytes_total) = (progress.bytes_done, progress.bytes_total);
        }
        JobReport::Succeeded(outcome) => {
            request.status = JobStatus::Succeeded.into();
            if !outcome.outputs.is_empty() {
                let output = outcome.outputs.iter().map(BlockId::to_string).collect();
                request.compaction = Some(CompactionDetail { input: Vec::new(), output });
            }
            if outcome.traces_found > 0 {
                request.redaction = Some(RedactionResult { traces_found: i32::try_from(outcome.traces_found).unwrap_or(i32::MAX) });
            }
        }
        JobReport::Failed { error, corrupt } => {
            request.status = JobStatus::Failed.into();
            request.error = error;
            request.corrupt_block_ids = corrupt.iter().map(BlockId::to_string).collect();
        }
    }
    request
}

/// A report of a worker.
pub(super) fn from_update_request(request: UpdateJobStatusRequest) -> Result<(JobId, String, JobReport), CallError> {
    let report = match JobStatus::try_from(request.status) {
        Ok(JobStatus::Running) => JobReport::Running(Progress { bytes_done: request.bytes_done, bytes_total: request.bytes_total }),
        Ok(JobStatus::Succeeded) => JobReport::Succeeded(JobOutcome {
            outputs: block_ids(&request.compaction.unwrap_or_default().output).map_err(invalid)?,
            traces_found: request.redaction.map_or(0, |result| u32::try_from(result.traces_found).unwrap_or(0)),
        }),
        Ok(JobStatus::Failed) => {
            JobReport::Failed { error: request.error, corrupt: block_ids(&request.corrupt_block_ids).map_err(invalid)? }
        }
        Ok(JobStatus::Unspecified) | Err(_) => return Err(invalid("invalid job status")),
    };
    Ok((JobId(request.job_id), request.worker_id, report))
}

/// An operator's request as a message to another scheduler.
pub(super) fn to_submit_request(request: &RedactionRequest) -> SubmitRedactionRequest {
    let (trace_ids, query, window) = split_selection(&request.traces);
    SubmitRedactionRequest {
        tenant_id: String::new(),
        trace_ids,
        mode: request.mode.number(),
        start_time_unix_nano: window.map_or(0, |window| window.start_nanos),
        end_time_unix_nano: window.map_or(0, |window| window.end_nanos),
        selector: query.map(Selector::Query),
    }
}

pub(super) fn from_submit_request(request: SubmitRedactionRequest) -> Result<RedactionRequest, CallError> {
    let mode = RedactionMode::from_number(request.mode).ok_or_else(|| invalid(format!("unknown redaction mode {}", request.mode)))?;
    let query = request.selector.map(|Selector::Query(query)| query);
    let traces = selection(&request.trace_ids, query, (request.start_time_unix_nano, request.end_time_unix_nano))?;
    Ok(RedactionRequest { traces, mode })
}

pub(super) fn split_selection(traces: &TraceSelection) -> (Vec<Vec<u8>>, Option<TraceQlSelector>, Option<Window>) {
    match traces {
        TraceSelection::Ids(ids) => (ids.iter().map(|id| id.0.to_vec()).collect(), None, None),
        TraceSelection::Query { query, window } => (Vec::new(), Some(TraceQlSelector { query: query.clone() }), *window),
    }
}

/// Puts the parts of a selection together: either ids of 16 bytes, or a query with an optional window; 0 and 0 is no window.
pub(super) fn selection(
    trace_ids: &[Vec<u8>],
    query: Option<TraceQlSelector>,
    (start, end): (i64, i64),
) -> Result<TraceSelection, CallError> {
    let query = query.map(|selector| selector.query).filter(|query| !query.is_empty());
    if start < 0 || end < 0 {
        return Err(invalid(format!("window bounds must be non-negative unix nanoseconds, got start={start} end={end}")));
    }
    let window = ((start, end) != (0, 0)).then_some(Window { start_nanos: start, end_nanos: end });
    if window.is_some() && start >= end {
        return Err(invalid(format!("window start must be before end: start={start} end={end}")));
    }
    match (trace_ids, query) {
        ([], None) => Err(invalid("either trace IDs or a query must be given")),
        ([], Some(query)) => Ok(TraceSelection::Query { query, window }),
        (_, Some(_)) => Err(invalid("trace IDs and a query cannot be given together")),
        (_, None) if window.is_some() => Err(invalid("a time window cannot be combined with an explicit trace ID list")),
        (ids, None) => {
            let id = |bytes: &Vec<u8>| match <[u8; 16]>::try_from(bytes.as_slice()) {
                Ok(id) => Ok(TraceId(id)),
                Err(_) => Err(invalid(format!("trace IDs must be 16 bytes, got {}", bytes.len()))),
            };
            Ok(TraceSelection::Ids(ids.iter().map(id).collect::<Result<_, _>>()?))
        }
    }
}
