//! The one table from [`ErrorClass`] to protocol status, and the error that every port returns.

use http::StatusCode;
use tonic::Code;

use crate::base::error_class::ErrorClass;

/// The status of a request whose client went away; not a registered code, but what dashboards of the compatible system know.
pub const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Returns the HTTP status of a failure.
pub fn http_status(class: ErrorClass) -> StatusCode {
    match class {
        ErrorClass::Invalid => StatusCode::BAD_REQUEST,
        ErrorClass::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorClass::Forbidden => StatusCode::FORBIDDEN,
        ErrorClass::NotFound => StatusCode::NOT_FOUND,
        ErrorClass::AlreadyExists => StatusCode::CONFLICT,
        ErrorClass::FailedPrecondition => StatusCode::PRECONDITION_FAILED,
        ErrorClass::TooManyRequests | ErrorClass::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        ErrorClass::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorClass::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        ErrorClass::Cancelled => StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::BAD_REQUEST),
        ErrorClass::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorClass::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Returns the gRPC code of a failure.
pub fn grpc_code(class: ErrorClass) -> Code {
    match class {
        ErrorClass::Invalid => Code::InvalidArgument,
        ErrorClass::Unauthenticated => Code::Unauthenticated,
        ErrorClass::Forbidden => Code::PermissionDenied,
        ErrorClass::NotFound => Code::NotFound,
        ErrorClass::AlreadyExists => Code::AlreadyExists,
        ErrorClass::FailedPrecondition => Code::FailedPrecondition,
        ErrorClass::TooManyRequests | ErrorClass::Overloaded => Code::ResourceExhausted,
        ErrorClass::Unavailable => Code::Unavailable,
        ErrorClass::TimedOut => Code::DeadlineExceeded,
        ErrorClass::Cancelled => Code::Cancelled,
        ErrorClass::Unsupported => Code::Unimplemented,
        ErrorClass::Internal => Code::Internal,
    }
}

/// Returns the class of a status that another process answered with.
pub fn class_of(code: Code) -> ErrorClass {
    match code {
        Code::InvalidArgument | Code::OutOfRange => ErrorClass::Invalid,
        Code::Unauthenticated => ErrorClass::Unauthenticated,
        Code::PermissionDenied => ErrorClass::Forbidden,
        Code::NotFound => ErrorClass::NotFound,
        Code::AlreadyExists => ErrorClass::AlreadyExists,
        Code::FailedPrecondition => ErrorClass::FailedPrecondition,
        Code::ResourceExhausted => ErrorClass::Overloaded,
        Code::Unavailable | Code::Aborted => ErrorClass::Unavailable,
        Code::DeadlineExceeded => ErrorClass::TimedOut,
        Code::Cancelled => ErrorClass::Cancelled,
        Code::Unimplemented => ErrorClass::Unsupported,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => ErrorClass::Internal,
    }
}

/// Why a call through a port failed. Survives a trip over the network: a class and a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    pub class: ErrorClass,
    pub message: String,
}

impl CallError {
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }

    /// Wraps an error of a lower layer with the text of its whole chain of causes.
    pub fn from_chain(class: ErrorClass, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Self { class, message }
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Internal, message)
    }

    pub fn cancelled() -> Self {
        Self::new(ErrorClass::Cancelled, "context canceled")
    }

    pub fn timed_out() -> Self {
        Self::new(ErrorClass::TimedOut, "context deadline exceeded")
    }
}
