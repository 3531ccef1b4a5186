//! The limits of tenants that queries respect.

use std::sync::Arc;

use crate::model::ids::TenantId;

/// Limits on the queries of one tenant. 0: no limit, except where said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryLimits {
    /// A larger trace is refused (v1) or shown in part (v2); protobuf bytes.
    pub max_bytes_per_trace: u64,
    /// Longest time range of search, tags and tag values in seconds. 0: what the configuration says.
    pub max_search_seconds: u64,
    /// Longest time range of metrics queries in seconds. 0: what the configuration says.
    pub max_metrics_seconds: u64,
    /// Bytes of distinct names or values of a tag query.
    pub max_bytes_per_tag_values_query: u64,
    /// Alternatives of the filter of a tag query.
    pub max_condition_groups_per_tag_query: usize,
    /// Blocks that a tag query looks at, newest first.
    pub max_blocks_per_tag_values_query: usize,
    /// Search answers show trace ids with 32 digits.
    pub left_pad_trace_ids: bool,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            max_bytes_per_trace: 5_000_000,
            max_search_seconds: 0,
            max_metrics_seconds: 0,
            max_bytes_per_tag_values_query: 1_000_000,
            max_condition_groups_per_tag_query: 100,
            max_blocks_per_tag_values_query: 0,
            left_pad_trace_ids: false,
        }
    }
}

impl QueryLimits {
    /// Returns the limits of a query over several tenants: of each limit the most generous.
    fn or(self, other: Self) -> Self {
        let larger = |a: u64, b: u64| if a == 0 || b == 0 { 0 } else { a.max(b) };
        let larger_count = |a: usize, b: usize| if a == 0 || b == 0 { 0 } else { a.max(b) };
        Self {
            max_bytes_per_trace: larger(self.max_bytes_per_trace, other.max_bytes_per_trace),
            max_search_seconds: self.max_search_seconds.max(other.max_search_seconds),
            max_metrics_seconds: self.max_metrics_seconds.max(other.max_metrics_seconds),
            max_bytes_per_tag_values_query: larger(self.max_bytes_per_tag_values_query, other.max_bytes_per_tag_values_query),
            max_condition_groups_per_tag_query: larger_count(
                self.max_condition_groups_per_tag_query,
                other.max_condition_groups_per_tag_query,
            ),
            max_blocks_per_tag_values_query: larger_count(self.max_blocks_per_tag_values_query, other.max_blocks_per_tag_values_query),
            left_pad_trace_ids: self.left_pad_trace_ids || other.left_pad_trace_ids,
        }
    }
}

/// Tells the limits of a tenant as they are now.
pub type LimitsOf = Arc<dyn Fn(&TenantId) -> QueryLimits + Send + Sync>;

/// Returns the limits of a query over `tenants`.
pub(super) fn limits_of_all(limits_of: &LimitsOf, tenants: &[TenantId]) -> QueryLimits {
    tenants.iter().map(|tenant| limits_of(tenant)).reduce(QueryLimits::or).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_tenants_have_the_most_generous_limits() {
        let limits_of: LimitsOf = Arc::new(|tenant| match tenant.as_str() {
            "a" => QueryLimits { max_bytes_per_trace: 0, ..QueryLimits::default() },
            _ => QueryLimits { max_search_seconds: 7, ..QueryLimits::default() },
        });
        let tenants = ["a", "b"].map(|id| TenantId::parse(id).unwrap());
        let limits = limits_of_all(&limits_of, &tenants);
        assert_eq!((limits.max_bytes_per_trace, limits.max_search_seconds), (0, 7));
    }
}
