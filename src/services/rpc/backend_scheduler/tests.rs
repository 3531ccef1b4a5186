//! Tests of the port: the bytes of messages, what is refused, and both forms against one scheduler.

use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::grpc::{RemoteScheduler, SchedulerService};
use super::wire::*;
use super::*;
use crate::base::error_class::ErrorClass;
use crate::proto::tempopb::{JobDetail, NextJobResponse, SubmitRedactionRequest, TraceQlSelector, UpdateJobStatusRequest};
use crate::services::grpc_client::config::GrpcClientConfig;

fn block(number: u128) -> BlockId {
    BlockId(uuid::Uuid::from_u128(number))
}

fn job(work: Work) -> AssignedJob {
    AssignedJob { id: JobId("j".to_owned()), job: Ok(Job { tenant: Some(TenantId::parse("t").unwrap()), work }) }
}

/// A field of protobuf with a length: tag, length, content.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
    bytes.extend(content);
    bytes
}

#[test]
fn jobs_have_the_bytes_of_the_compatible_system() {
    let id = "00000000-0000-0000-0000-000000000007";
    let message = to_next_response(&job(Work::Compaction { inputs: vec![block(7)] })).encode_to_vec();
    let detail = [field(1, b"t"), field(2, &field(1, id.as_bytes()))].concat();
    assert_eq!(message, [field(1, b"j"), vec![2 << 3, 1], field(3, &detail)].concat());

    let message = to_next_response(&job(Work::Retention)).encode_to_vec();
    assert_eq!(message, [field(1, b"j"), vec![2 << 3, 2], field(3, &[field(1, b"t"), field(3, b"")].concat())].concat());

    let traces = TraceSelection::Query { query: "{}".to_owned(), window: Some(Window { start_nanos: 1, end_nanos: 2 }) };
    let message = to_next_response(&job(Work::Redaction(RedactionWork { block: block(7), traces, mode: RedactionMode::DryRun })));
    let redaction = [field(1, id.as_bytes()), field(3, &field(1, b"{}")), vec![4 << 3, 1, 5 << 3, 1, 6 << 3, 2]].concat();
    let detail = [field(1, b"t"), field(4, &redaction)].concat();
    assert_eq!(message.encode_to_vec(), [field(1, b"j"), vec![2 << 3, 3], field(3, &detail)].concat());
}

#[test]
fn reports_have_the_bytes_of_the_compatible_system() {
    let outcome = JobOutcome { outputs: vec![block(9)], traces_found: 3 };
    let message = to_update_request(&JobId("j".to_owned()), "", JobReport::Succeeded(outcome)).encode_to_vec();
    let output = field(2, b"00000000-0000-0000-0000-000000000009");
    assert_eq!(message, [field(1, b"j"), vec![2 << 3, 1], field(4, &output), field(5, &[1 << 3, 3])].concat());

    let failed = JobReport::Failed { error: "e".to_owned(), corrupt: Vec::new() };
    let message = to_update_request(&JobId("j".to_owned()), "", failed).encode_to_vec();
    assert_eq!(message, [field(1, b"j"), vec![2 << 3, 2], field(3, b"e")].concat());
}

#[test]
fn a_submission_has_the_bytes_of_the_compatible_system() {
    let ids = RedactionRequest { traces: TraceSelection::Ids(vec![TraceId([5; 16])]), mode: RedactionMode::DryRun };
    assert_eq!(to_submit_request(&ids).encode_to_vec(), [field(2, &[5; 16]), vec![4 << 3, 1]].concat());
    let bytes = [field(1, b"ignored"), field(3, &field(1, b"{}")), vec![5 << 3, 1, 6 << 3, 2]].concat();
    let expected = TraceSelection::Query { query: "{}".to_owned(), window: Some(Window { start_nanos: 1, end_nanos: 2 }) };
    let decoded = from_submit_request(SubmitRedactionRequest::decode(&*bytes).unwrap()).unwrap();
    assert_eq!(decoded, RedactionRequest { traces: expected, mode: RedactionMode::Apply });
}

#[test]
fn messages_round_trip() {
    let ids = TraceSelection::Ids(vec![TraceId([1; 16]), TraceId([2; 16])]);
    for work in [
        Work::Compaction { inputs: vec![block(1), block(2)] },
        Work::Retention,
        Work::Redaction(RedactionWork { block: block(3), traces: ids, mode: RedactionMode::Apply }),
        Work::Rewrite { block: block(4) },
        Work::Index,
    ] {
        let assigned = job(work);
        assert_eq!(from_next_response(to_next_response(&assigned)), assigned);
    }
    for report in [
        JobReport::Running(Progress { bytes_done: 5, bytes_total: 6 }),
        JobReport::Succeeded(JobOutcome { outputs: vec![block(1)], traces_found: 2 }),
        JobReport::Failed { error: "broken".to_owned(), corrupt: vec![block(3)] },
    ] {
        let id = JobId("j".to_owned());
        assert_eq!(from_update_request(to_update_request(&id, "w", report.clone())).unwrap(), (id, "w".to_owned(), report));
    }
}

#[test]
fn jobs_that_nobody_can_do_are_named() {
    let problem = |number, detail| from_next_response(NextJobResponse { job_id: "j".to_owned(), r#type: number, detail }).job.unwrap_err();
    let of_tenant = |tenant: &str| Some(JobDetail { tenant: tenant.to_owned(), ..JobDetail::default() });
    assert_eq!(problem(0, None), "unknown job type 0");
    assert_eq!(problem(1, None), "no org id");
    assert_eq!(problem(1, of_tenant("t")), "JOB_TYPE_COMPACTION without its detail");
    assert_eq!(problem(3, of_tenant("t")), "JOB_TYPE_REDACTION without its detail");
    let response = NextJobResponse { job_id: "j".to_owned(), r#type: 2, detail: None };
    assert_eq!(from_next_response(response).job, Ok(Job { tenant: None, work: Work::Retention }), "old schedulers name no tenant");
}

#[test]
fn wrong_requests_are_refused() {
    let refused = |ids: &[usize], query: &str, window| {
        let ids: Vec<_> = ids.iter().map(|length| vec![1; *length]).collect();
        selection(&ids, Some(TraceQlSelector { query: query.to_owned() }), window).unwrap_err().message
    };
    assert_eq!(refused(&[], "", (0, 0)), "either trace IDs or a query must be given");
    assert_eq!(refused(&[16], "{}", (0, 0)), "trace IDs and a query cannot be given together");
    assert_eq!(refused(&[16, 8], "", (0, 0)), "trace IDs must be 16 bytes, got 8");
    assert_eq!(refused(&[16], "", (1, 2)), "a time window cannot be combined with an explicit trace ID list");
    assert_eq!(refused(&[], "{}", (-1, 2)), "window bounds must be non-negative unix nanoseconds, got start=-1 end=2");
    assert_eq!(refused(&[], "{}", (2, 2)), "window start must be before end: start=2 end=2");
    let status = from_update_request(UpdateJobStatusRequest { status: 9, ..UpdateJobStatusRequest::default() }).unwrap_err();
    assert_eq!((status.class, status.message.as_str()), (ErrorClass::Invalid, "invalid job status"));
}

/// Answers with what it was asked.
#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

#[async_trait]
impl BackendScheduler for Recorder {
    async fn next(&self, hello: &WorkerHello) -> Result<AssignedJob, CallError> {
        self.0.lock().push(format!("next {} {}", hello.worker, hello.keeps_lease));
        if hello.keeps_lease { Ok(job(Work::Index)) } else { Err(CallError::new(ErrorClass::NotFound, NO_JOBS)) }
    }

    async fn update(&self, job: &JobId, worker: &str, report: JobReport) -> Result<(), CallError> {
        self.0.lock().push(format!("update {job} {worker} {report:?}"));
        Err(CallError::new(ErrorClass::FailedPrecondition, "gone"))
    }

    async fn submit_redaction(&self, tenant: &TenantId, request: RedactionRequest) -> Result<SubmittedRedaction, CallError> {
        self.0.lock().push(format!("submit {tenant} {request:?}"));
        Ok(SubmittedRedaction { batch_id: "b".to_owned(), jobs_created: 4 })
    }
}

#[tokio::test]
async fn the_remote_form_behaves_like_the_local_one() {
    let recorder = Arc::new(Recorder::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = SchedulerService::server(recorder.clone(), true);
    let server = tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)));
    let remote = RemoteScheduler::new(&address, &GrpcClientConfig::default()).unwrap();
    let mut heard = Vec::new();
    for form in [&*recorder as &dyn BackendScheduler, &remote] {
        let hello = |keeps_lease| WorkerHello { worker: "w".to_owned(), keeps_lease };
        assert_eq!(form.next(&hello(true)).await.unwrap(), job(Work::Index));
        assert_eq!(form.next(&hello(false)).await.unwrap_err(), CallError::new(ErrorClass::NotFound, NO_JOBS));
        let refused = form.update(&JobId("j".to_owned()), "w", JobReport::Running(Progress::default())).await.unwrap_err();
        assert_eq!(refused, CallError::new(ErrorClass::FailedPrecondition, "gone"));
        let request = RedactionRequest { traces: TraceSelection::Ids(vec![TraceId([7; 16])]), mode: RedactionMode::Apply };
        let submitted = form.submit_redaction(&TenantId::parse("a").unwrap(), request).await.unwrap();
        assert_eq!(submitted, SubmittedRedaction { batch_id: "b".to_owned(), jobs_created: 4 });
        heard.push(std::mem::take(&mut *recorder.0.lock()));
    }
    assert_eq!(heard[0], heard[1]);
    server.abort();
}
