//! Answers of OTLP: the success message with what was rejected, and `google.rpc.Status` with a retry hint.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use prost::Message;
use tonic::Code;

use crate::model::otlp::regroup::Rejected;
use crate::modules::distributor::error::PushError;
use crate::proto::google::rpc::{RetryInfo, Status};
use crate::proto::opentelemetry::proto::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};
use crate::services::rpc::status::grpc_code;

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// Returns the body of a success: `partial_success` is always there, and filled when spans were left out.
pub(super) fn success(rejected: &Rejected) -> ExportTraceServiceResponse {
    let error_message = rejected.first.map(|first| first.to_string()).unwrap_or_default();
    let partial_success = ExportTracePartialSuccess { rejected_spans: rejected.total() as i64, error_message };
    ExportTraceServiceResponse { partial_success: Some(partial_success) }
}

/// The same in OTLP/JSON.
pub(super) fn success_json(rejected: &Rejected) -> String {
    match rejected.first {
        None => r#"{"partialSuccess":{}}"#.to_owned(),
        Some(first) => {
            let message = serde_json::Value::from(first.to_string());
            format!(r#"{{"partialSuccess":{{"rejectedSpans":"{}","errorMessage":{message}}}}}"#, rejected.total())
        }
    }
}

/// A failure as clients see it.
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// HTTP status of OTLP/HTTP (http-api, OTLP over HTTP).
    pub(super) fn http_status(&self) -> StatusCode {
        match self.code {
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::Unimplemented => StatusCode::NOT_FOUND,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Cancelled | Code::DeadlineExceeded | Code::Aborted | Code::OutOfRange | Code::Unavailable | Code::DataLoss => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Code::Ok | Code::Unknown | Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition | Code::Internal => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    pub(super) fn status(&self) -> Status {
        let detail = |delay: Duration| {
            let delay = prost_types::Duration { seconds: delay.as_secs() as i64, nanos: delay.subsec_nanos() as i32 };
            prost_types::Any { type_url: RETRY_INFO.to_owned(), value: RetryInfo { retry_delay: Some(delay) }.encode_to_vec() }
        };
        Status { code: self.code as i32, message: self.message.clone(), details: self.retry_after.map(detail).into_iter().collect() }
    }

    pub(super) fn status_json(&self) -> String {
        let message = serde_json::Value::from(self.message.as_str());
        let details =
            self.retry_after.map(|delay| format!(r#","details":[{{"@type":"{RETRY_INFO}","retryDelay":"{}s"}}]"#, delay.as_secs_f64()));
        format!(r#"{{"code":{},"message":{message}{}}}"#, self.code as i32, details.unwrap_or_default())
    }

    /// As a gRPC status, with the details where clients look for them.
    pub(super) fn grpc_status(self) -> tonic::Status {
        if self.retry_after.is_none() {
            return tonic::Status::new(self.code, self.message);
        }
        let details = Bytes::from(self.status().encode_to_vec());
        tonic::Status::with_details(self.code, self.message, details)
    }
}

impl From<&PushError> for Failure {
    fn from(error: &PushError) -> Self {
        Self { code: grpc_code(error.class()), message: error.chain(), retry_after: error.retry_after() }
    }
}
