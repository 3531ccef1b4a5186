//! The tenant limits that the distributor asks for. Whoever keeps overrides implements [`IngestionLimits`].

use std::sync::Arc;
use std::time::Duration;

use crate::model::ids::TenantId;
use crate::services::overrides::limits::IngestionLimits as IngestionOverrides;

/// A source of tenant limits. Asked at most every ten seconds per tenant.
pub trait IngestionLimits: Send + Sync + 'static {
    /// Returns the limits in force for `tenant`.
    fn ingestion(&self, tenant: &TenantId) -> TenantLimits;

    /// Returns the number of healthy distributors; 0 when there is no distributor ring. Divides a `global` rate.
    fn distributors(&self) -> u64 {
        0
    }
}

pub type SharedIngestionLimits = Arc<dyn IngestionLimits>;

/// `ingestion.*` of a tenant (overrides).
#[derive(Debug, Clone, PartialEq)]
pub struct TenantLimits {
    pub rate_strategy: RateStrategy,
    /// Tokens per second.
    pub rate_limit_bytes: u64,
    /// Size of the bucket. A larger request can never pass.
    pub burst_size_bytes: u64,
    /// 0: the cluster's value.
    pub max_attribute_bytes: usize,
    /// Absent: the cluster's value; zero: off.
    pub artificial_delay: Option<Duration>,
    /// Send a retry hint when rate limited, if the cluster has one.
    pub retry_info_enabled: bool,
}

/// How a tenant's rate is shared among distributors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateStrategy {
    /// Each has the whole rate.
    Local,
    /// The rate is divided, the burst is not.
    Global,
}

impl From<&IngestionOverrides> for TenantLimits {
    fn from(overrides: &IngestionOverrides) -> Self {
        Self {
            rate_strategy: if overrides.rate_strategy == "global" { RateStrategy::Global } else { RateStrategy::Local },
            rate_limit_bytes: overrides.rate_limit_bytes,
            burst_size_bytes: overrides.burst_size_bytes,
            max_attribute_bytes: overrides.max_attribute_bytes,
            artificial_delay: overrides.artificial_delay.map(|delay| delay.to_std()),
            retry_info_enabled: overrides.retry_info_enabled.unwrap_or(true),
        }
    }
}

impl Default for TenantLimits {
    fn default() -> Self {
        Self {
            rate_strategy: RateStrategy::Local,
            rate_limit_bytes: 30_000_000,
            burst_size_bytes: 30_000_000,
            max_attribute_bytes: 0,
            artificial_delay: None,
            retry_info_enabled: true,
        }
    }
}

/// The same limits for every tenant.
#[derive(Debug, Clone, Default)]
pub struct FixedLimits(pub TenantLimits);

impl IngestionLimits for FixedLimits {
    fn ingestion(&self, _tenant: &TenantId) -> TenantLimits {
        self.0.clone()
    }
}
