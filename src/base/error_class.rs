//! What kind of failure an error is, independent of protocol. `services::rpc` turns it into HTTP and gRPC status codes.

/// Classifies a failure for the caller: who is at fault, and does a retry help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The request can never succeed as it is.
    Invalid,
    Unauthenticated,
    Forbidden,
    NotFound,
    /// Something of the same name or purpose is there already.
    AlreadyExists,
    /// The state of the system or the tenant's settings forbid it; only changing them helps.
    FailedPrecondition,
    /// A limit of the tenant is reached; retry later.
    TooManyRequests,
    /// This process has no room now; retry elsewhere or later.
    Overloaded,
    /// A dependency is down or the module is starting or stopping; retry.
    Unavailable,
    TimedOut,
    Cancelled,
    /// The request uses a feature that is not built.
    Unsupported,
    Internal,
}

impl ErrorClass {
    /// Whether the same request may succeed when sent again.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::TooManyRequests | Self::Overloaded | Self::Unavailable | Self::TimedOut => true,
            Self::Invalid
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::NotFound
            | Self::AlreadyExists
            | Self::FailedPrecondition
            | Self::Cancelled
            | Self::Unsupported
            | Self::Internal => false,
        }
    }
}
