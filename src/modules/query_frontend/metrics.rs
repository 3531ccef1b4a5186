//! Names of the frontend's metrics; dashboards of the compatible system know them.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, histogram};

pub(super) const QUERIES: &str = "tempo_query_frontend_queries_total";
pub(super) const QUERIES_WITHIN_SLO: &str = "tempo_query_frontend_queries_within_slo_total";
pub(super) const BYTES_INSPECTED: &str = "tempo_query_frontend_bytes_inspected_total";
pub(super) const BYTES_PER_SECOND: &str = "tempo_query_frontend_bytes_processed_per_second";
pub(super) const JOBS_PER_QUERY: &str = "tempo_query_frontend_jobs_per_query";
pub(super) const QUEUE_LENGTH: &str = "tempo_query_frontend_queue_length";
pub(super) const DISCARDED_REQUESTS: &str = "tempo_query_frontend_discarded_requests_total";
pub(super) const RETRIES: &str = "tempo_query_frontend_retries";
pub(super) const JOB_CACHE_UNREADABLE: &str = "tempo_rs_query_frontend_job_cache_unreadable_total";
pub(super) const JOB_CACHE_REFUSED: &str = "tempo_rs_query_frontend_job_cache_too_large_total";

/// Registers help texts.
pub fn describe() {
    describe_counter!(QUERIES, "Queries by tenant, operation and result.");
    describe_counter!(QUERIES_WITHIN_SLO, "Queries that met their service level.");
    describe_counter!(BYTES_INSPECTED, "Bytes inspected by queries.");
    describe_counter!(BYTES_PER_SECOND, "Sum of the throughputs of queries in bytes per second.");
    describe_histogram!(JOBS_PER_QUERY, "Jobs a query was cut into.");
    describe_gauge!(QUEUE_LENGTH, "Jobs under way or waiting, by tenant.");
    describe_counter!(DISCARDED_REQUESTS, "Jobs refused because the tenant has too many.");
    describe_histogram!(RETRIES, "Failed tries of a job.");
    describe_counter!(JOB_CACHE_UNREADABLE, "Cached answers that were not read: of another build, broken, or to another question.");
    describe_counter!(JOB_CACHE_REFUSED, "Answers of jobs that were too large to be cached.");
}

/// The kinds of queries that metrics tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Traces,
    Search,
    Metadata,
    Metrics,
}

impl Operation {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Search => "search",
            Self::Metadata => "metadata",
            Self::Metrics => "metrics",
        }
    }
}

/// The service level of an operation. 0: none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct ServiceLevel {
    pub(super) duration: Option<Duration>,
    pub(super) bytes_per_second: f64,
}

impl ServiceLevel {
    fn is_met(self, elapsed: Duration, bytes: u64) -> bool {
        let is_unset = self.duration.is_none() && self.bytes_per_second == 0.0;
        is_unset
            || self.duration.is_some_and(|bound| elapsed <= bound)
            || (self.bytes_per_second > 0.0 && throughput(elapsed, bytes) >= self.bytes_per_second)
    }
}

fn throughput(elapsed: Duration, bytes: u64) -> f64 {
    bytes as f64 / elapsed.as_secs_f64().max(1e-6)
}

/// What became of a query.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueryRecord {
    pub(super) operation: Operation,
    pub(super) elapsed: Duration,
    pub(super) inspected_bytes: u64,
    pub(super) jobs: usize,
    pub(super) is_canceled: bool,
    pub(super) is_server_error: bool,
    pub(super) level: ServiceLevel,
}

impl QueryRecord {
    pub(super) fn publish(self, tenant: &str) {
        let tenant = tenant.to_owned();
        let op = self.operation.as_str();
        let result = if self.is_canceled { "canceled" } else { "completed" };
        counter!(QUERIES, "tenant" => tenant.clone(), "op" => op, "result" => result).increment(1);
        let is_within = self.is_canceled || (!self.is_server_error && self.level.is_met(self.elapsed, self.inspected_bytes));
        if is_within {
            counter!(QUERIES_WITHIN_SLO, "tenant" => tenant.clone(), "op" => op, "result" => result).increment(1);
        }
        if self.is_canceled {
            return;
        }
        counter!(BYTES_INSPECTED, "tenant" => tenant.clone(), "op" => op).increment(self.inspected_bytes);
        let per_second = throughput(self.elapsed, self.inspected_bytes);
        counter!(BYTES_PER_SECOND, "tenant" => tenant, "op" => op).increment(per_second as u64);
        histogram!(JOBS_PER_QUERY, "op" => op).record(self.jobs as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_met_by_time_or_throughput() {
        let level = ServiceLevel { duration: Some(Duration::from_secs(1)), bytes_per_second: 100.0 };
        assert!(level.is_met(Duration::from_secs(1), 0));
        assert!(level.is_met(Duration::from_secs(2), 200));
        assert!(!level.is_met(Duration::from_secs(2), 199));
        assert!(ServiceLevel::default().is_met(Duration::from_secs(99), 0));
    }
}
