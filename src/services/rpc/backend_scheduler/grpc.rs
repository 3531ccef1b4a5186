//! The port between processes: `tempopb.BackendScheduler`, served for a local scheduler and called for a remote one.

use std::time::Duration;

use async_trait::async_trait;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::wire;
use super::{AssignedJob, BackendScheduler, BackendSchedulerPort, JobId, JobReport, RedactionRequest, SubmittedRedaction, WorkerHello};
use crate::base::error_class::ErrorClass;
use crate::model::ids::TenantId;
use crate::proto::tempopb::backend_scheduler_client::BackendSchedulerClient;
use crate::proto::tempopb::backend_scheduler_server::{BackendScheduler as Service, BackendSchedulerServer};
use crate::proto::tempopb::{
    NextJobRequest, NextJobResponse, SubmitRedactionRequest, SubmitRedactionResponse, UpdateJobStatusRequest, UpdateJobStatusResponse,
};
use crate::services::grpc_client::config::GrpcClientConfig;
use crate::services::rpc::snappy_requests::SnappyRequests;
use crate::services::rpc::status::{CallError, class_of, grpc_code};

const TENANT_KEY: &str = "x-scope-orgid";
/// Longer than any scheduler lets a worker wait for a job.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves a scheduler of this process to workers and operators elsewhere.
pub struct SchedulerService {
    scheduler: BackendSchedulerPort,
    is_multitenant: bool,
}

impl SchedulerService {
    /// Returns the service to add to the gRPC server. Without multitenancy every request belongs to the single tenant.
    pub fn server(scheduler: BackendSchedulerPort, is_multitenant: bool) -> SnappyRequests<BackendSchedulerServer<Self>> {
        let server = BackendSchedulerServer::new(Self { scheduler, is_multitenant });
        SnappyRequests(server.accept_compressed(CompressionEncoding::Gzip).send_compressed(CompressionEncoding::Gzip))
    }

    fn tenant_of(&self, metadata: &MetadataMap) -> Result<TenantId, CallError> {
        if !self.is_multitenant {
            return Ok(TenantId::single());
        }
        let text = metadata.get(TENANT_KEY).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if text.is_empty() {
            return Err(CallError::new(ErrorClass::Unauthenticated, "no org id"));
        }
        TenantId::parse(text).map_err(|error| CallError::new(ErrorClass::Invalid, error.to_string()))
    }
}

fn status(error: CallError) -> Status {
    Status::new(grpc_code(error.class), error.message)
}

#[async_trait]
impl Service for SchedulerService {
    async fn next(&self, request: Request<NextJobRequest>) -> Result<Response<NextJobResponse>, Status> {
        let NextJobRequest { worker_id, keeps_lease } = request.into_inner();
        let assigned = self.scheduler.next(&WorkerHello { worker: worker_id, keeps_lease }).await.map_err(status)?;
        Ok(Response::new(wire::to_next_response(&assigned)))
    }

    async fn update_job(&self, request: Request<UpdateJobStatusRequest>) -> Result<Response<UpdateJobStatusResponse>, Status> {
        let (job, worker, report) = wire::from_update_request(request.into_inner()).map_err(status)?;
        self.scheduler.update(&job, &worker, report).await.map_err(status)?;
        Ok(Response::new(UpdateJobStatusResponse { success: true }))
    }

    async fn submit_redaction(&self, request: Request<SubmitRedactionRequest>) -> Result<Response<SubmitRedactionResponse>, Status> {
        let tenant = self.tenant_of(request.metadata()).map_err(status)?;
        let request = wire::from_submit_request(request.into_inner()).map_err(status)?;
        let SubmittedRedaction { batch_id, jobs_created } = self.scheduler.submit_redaction(&tenant, request).await.map_err(status)?;
        Ok(Response::new(SubmitRedactionResponse { batch_id, jobs_created: i32::try_from(jobs_created).unwrap_or(i32::MAX) }))
    }
}

/// A scheduler in another process. Connects when first called, and again after a failure.
pub struct RemoteScheduler(BackendSchedulerClient<Channel>);

#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("{address:?} is not an address of a backend scheduler")]
    Invalid {
        address: String,
        #[source]
        cause: tonic::transport::Error,
    },
    #[error("TLS to the backend scheduler is not supported yet")]
    Tls,
}

impl RemoteScheduler {
    /// `address` is `host:port`, also with `dns:///` before it. Must be called within a runtime.
    pub fn new(address: &str, config: &GrpcClientConfig) -> Result<Self, AddressError> {
        if config.tls_enabled {
            return Err(AddressError::Tls);
        }
        let target = format!("http://{}", address.trim_start_matches("dns:///"));
        let endpoint = Endpoint::from_shared(target).map_err(|cause| AddressError::Invalid { address: address.to_owned(), cause })?;
        let endpoint = endpoint.connect_timeout(config.connect_timeout.to_std()).timeout(CALL_TIMEOUT);
        let mut client = BackendSchedulerClient::new(endpoint.connect_lazy())
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(config.max_recv_msg_size)
            .max_encoding_message_size(config.max_send_msg_size);
        if config.grpc_compression == "gzip" {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        Ok(Self(client))
    }
}

fn error_of(status: Status) -> CallError {
    CallError::new(class_of(status.code()), status.message())
}

#[async_trait]
impl BackendScheduler for RemoteScheduler {
    async fn next(&self, hello: &WorkerHello) -> Result<AssignedJob, CallError> {
        let request = NextJobRequest { worker_id: hello.worker.clone(), keeps_lease: hello.keeps_lease };
        let response = self.0.clone().next(request).await.map_err(error_of)?;
        Ok(wire::from_next_response(response.into_inner()))
    }

    async fn update(&self, job: &JobId, worker: &str, report: JobReport) -> Result<(), CallError> {
        let request = wire::to_update_request(job, worker, report);
        self.0.clone().update_job(request).await.map(drop).map_err(error_of)
    }

    async fn submit_redaction(&self, tenant: &TenantId, request: RedactionRequest) -> Result<SubmittedRedaction, CallError> {
        let mut message = Request::new(wire::to_submit_request(&request));
        let value = tenant.as_str().parse().map_err(|_| CallError::new(ErrorClass::Invalid, "tenant ID is not a header value"))?;
        message.metadata_mut().insert(TENANT_KEY, value);
        let response = self.0.clone().submit_redaction(message).await.map_err(error_of)?.into_inner();
        Ok(SubmittedRedaction { batch_id: response.batch_id, jobs_created: usize::try_from(response.jobs_created).unwrap_or(0) })
    }
}
