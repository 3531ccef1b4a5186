//! Why a push is refused, and what the client is told.

use std::time::Duration;

use crate::base::byte_budget::BudgetExhausted;
use crate::base::cpu_pool::CpuPoolError;
use crate::base::error_class::ErrorClass;
use crate::model::ids::{TenantId, TenantIdError};
use crate::model::otlp::json::JsonError;
use crate::model::otlp::regroup::{InvalidSpan, RegroupError};
use crate::model::otlp::splice::EntryTooLarge;
use crate::services::ingest_log::{LogError, PartitionId};

use super::rate_limit::Rate;

/// A refused push. The texts of tenancy, ids and rate limits are those clients of the compatible system match on.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("no org id")]
    NoTenant,
    #[error("no org id")]
    RepeatedTenant,
    #[error("multiple org IDs present")]
    MultipleTenants,
    #[error(transparent)]
    BadTenant(#[from] TenantIdError),
    #[error(transparent)]
    Malformed(#[from] RegroupError),
    #[error(transparent)]
    BadJson(#[from] JsonError),
    #[error("{0}")]
    BadBody(String),
    #[error("{0}")]
    NoValidSpan(InvalidSpan),
    #[error("{}", rate_limited(.tenant, *.bytes, .rate))]
    RateLimited {
        tenant: TenantId,
        bytes: u64,
        rate: Rate,
        /// Absent: send no hint.
        retry_after: Option<Duration>,
    },
    #[error(transparent)]
    EntryTooLarge(#[from] EntryTooLarge),
    #[error("regrouped request of {bytes} bytes exceeds the maximum of {limit}")]
    RegroupedTooLarge { bytes: u64, limit: u64 },
    #[error(transparent)]
    NoMemory(#[from] BudgetExhausted),
    #[error("more than {limit} tenants are active")]
    TooManyTenants { limit: usize },
    #[error("no active partition")]
    NoPartition,
    #[error("cannot append to partition {partition}")]
    Append {
        partition: PartitionId,
        #[source]
        cause: LogError,
    },
    #[error("append to partition {partition} took longer than {timeout:?}")]
    AppendTimedOut { partition: PartitionId, timeout: Duration },
    #[error(transparent)]
    Cpu(#[from] CpuPoolError),
    #[error("body was not received within {0:?}")]
    BodyTimedOut(Duration),
}

impl PushError {
    /// The single place where this error meets status codes and retry advice.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoTenant => ErrorClass::Unauthenticated,
            Self::RepeatedTenant
            | Self::MultipleTenants
            | Self::BadTenant(_)
            | Self::Malformed(_)
            | Self::BadJson(_)
            | Self::BadBody(_)
            | Self::NoValidSpan(_)
            | Self::RegroupedTooLarge { .. }
            | Self::EntryTooLarge(_) => ErrorClass::Invalid,
            Self::RateLimited { .. } => ErrorClass::TooManyRequests,
            // Not "overloaded": OTLP clients retry ResourceExhausted only with a hint, Unavailable always.
            Self::NoMemory(_)
            | Self::TooManyTenants { .. }
            | Self::NoPartition
            | Self::AppendTimedOut { .. }
            | Self::BodyTimedOut(_)
            | Self::Cpu(CpuPoolError::Stopped) => ErrorClass::Unavailable,
            Self::Cpu(CpuPoolError::Panicked(_)) => ErrorClass::Internal,
            Self::Append { cause, .. } => cause.class(),
        }
    }

    /// When the client should try again, if it is to be told.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The text with all causes, for the client and the log.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

fn rate_limited(tenant: &TenantId, bytes: u64, rate: &Rate) -> String {
    let Rate { local, global, burst } = rate;
    let limits = format!("(local: {local} bytes/s, global: {global} bytes/s, burst: {burst} bytes)");
    if bytes > *local && bytes > *burst {
        format!(
            "RATE_LIMITED: batch size ({bytes} bytes) exceeds ingestion limit {limits} while adding {bytes} bytes for user {tenant}. \
             consider reducing batch size or increasing rate limit."
        )
    } else {
        format!(
            "RATE_LIMITED: ingestion rate limit {limits} exceeded while adding {bytes} bytes for user {tenant}. \
             consider increasing the limit or reducing ingestion rate."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_limit_texts_are_pinned() {
        let error = |bytes, local, burst| {
            let rate = Rate { local, global: 0, burst };
            PushError::RateLimited { tenant: TenantId::single(), bytes, rate, retry_after: None }.to_string()
        };
        assert_eq!(
            error(97, 100, 100),
            "RATE_LIMITED: ingestion rate limit (local: 100 bytes/s, global: 0 bytes/s, burst: 100 bytes) exceeded while adding 97 bytes \
             for user single-tenant. consider increasing the limit or reducing ingestion rate."
        );
        assert_eq!(
            error(101, 100, 100),
            "RATE_LIMITED: batch size (101 bytes) exceeds ingestion limit (local: 100 bytes/s, global: 0 bytes/s, burst: 100 bytes) while \
             adding 101 bytes for user single-tenant. consider reducing batch size or increasing rate limit."
        );
        assert!(error(101, 200, 100).starts_with("RATE_LIMITED: ingestion rate limit"));
    }
}
