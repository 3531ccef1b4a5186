//! Names of the caches' metrics. Those without `tempo_rs_` are known to dashboards of the compatible system.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub const MEMCACHE_DURATION: &str = "tempo_memcache_request_duration_seconds";
pub const MEMCACHE_SERVERS: &str = "tempo_memcache_client_servers";
pub const MEMCACHE_SKIPPED: &str = "tempo_memcache_client_set_skip_total";
pub const REDIS_DURATION: &str = "tempo_rediscache_request_duration_seconds";
pub const REDIS_SKIPPED: &str = "tempo_rediscache_client_set_skip_total";
pub const QUEUE_LENGTH: &str = "tempo_cache_background_queue_length";
pub const DROPPED_WRITES: &str = "tempo_cache_dropped_background_writes_total";
pub const CIRCUIT_OPENED: &str = "tempo_rs_cache_circuit_opened_total";
pub const IN_PROCESS_BYTES: &str = "tempo_rs_cache_in_process_bytes";
pub const IN_PROCESS_MAX_BYTES: &str = "tempo_rs_cache_in_process_max_bytes";

/// Buckets of the histograms: 16 µs · 4ⁿ.
pub const BUCKETS: &[(&str, &[f64])] = &[(MEMCACHE_DURATION, &REQUEST_BUCKETS), (REDIS_DURATION, &REQUEST_BUCKETS)];

const REQUEST_BUCKETS: [f64; 8] = [0.000_016, 0.000_064, 0.000_256, 0.001_024, 0.004_096, 0.016_384, 0.065_536, 0.262_144];

/// Registers help texts.
pub(super) fn describe() {
    describe_histogram!(MEMCACHE_DURATION, Unit::Seconds, "Duration of memcached requests by cache, method and outcome (200, 404, 500)");
    describe_gauge!(MEMCACHE_SERVERS, "Memcached servers known, per cache");
    describe_counter!(MEMCACHE_SKIPPED, "Values too large for the cache, or whose key memcached cannot take");
    describe_histogram!(REDIS_DURATION, Unit::Seconds, "Duration of Redis requests by method and outcome (200, 404, 500)");
    describe_counter!(REDIS_SKIPPED, "Values too large for the cache");
    describe_gauge!(QUEUE_LENGTH, "Values waiting to be written to a cache");
    describe_counter!(DROPPED_WRITES, "Values not written because too many, or too many bytes, were waiting");
    describe_counter!(CIRCUIT_OPENED, "Times a cache server was left alone because it failed repeatedly");
    describe_gauge!(IN_PROCESS_BYTES, Unit::Bytes, "Bytes kept in this process, by role");
    describe_gauge!(IN_PROCESS_MAX_BYTES, Unit::Bytes, "Bound on the bytes kept in this process, all roles together");
}
