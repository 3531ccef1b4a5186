//! What the distributor needs to know, with defaults filled in.

use std::time::Duration;

/// Settings of the role.
#[derive(Debug, Clone, PartialEq)]
pub struct DistributorOptions {
    /// Absent: no OTLP over gRPC.
    pub otlp_grpc: Option<GrpcOptions>,
    /// Absent: no OTLP over HTTP.
    pub otlp_http: Option<HttpOptions>,
    pub push: PushOptions,
    /// Bytes of bodies and records in flight, all requests together. Full: refuse, retryable.
    pub max_in_flight_bytes: u64,
}

/// An OTLP/gRPC listener.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcOptions {
    pub endpoint: String,
    /// Largest message, before and after decompression.
    pub max_message_bytes: usize,
    /// Streams per connection; 0: unlimited.
    pub max_concurrent_streams: u32,
}

/// An OTLP/HTTP listener.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpOptions {
    pub endpoint: String,
    pub traces_url_path: String,
    /// Largest body, before and after decompression.
    pub max_body_bytes: usize,
    pub read_header_timeout: Duration,
}

/// Settings of the push path.
#[derive(Debug, Clone, PartialEq)]
pub struct PushOptions {
    /// Off: everything belongs to one tenant.
    pub multitenancy: bool,
    /// Longer attribute keys and string values are cut; 0: no limit. A tenant's own limit wins.
    pub max_attribute_bytes: usize,
    /// Retry hint on rate limiting; zero: none.
    pub retry_after: Duration,
    /// Requests are padded to this latency; zero: off. A tenant's own value wins.
    pub artificial_delay: Duration,
    /// Largest value of a record (`producer_max_record_size_bytes`).
    pub max_record_bytes: u64,
    /// Longest wait for the log's acknowledgement (`write_timeout`).
    pub write_timeout: Duration,
}

impl Default for DistributorOptions {
    fn default() -> Self {
        Self { otlp_grpc: None, otlp_http: None, push: PushOptions::default(), max_in_flight_bytes: 128 << 20 }
    }
}

impl Default for GrpcOptions {
    fn default() -> Self {
        Self { endpoint: "localhost:4317".to_owned(), max_message_bytes: 4 << 20, max_concurrent_streams: 0 }
    }
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            endpoint: "localhost:4318".to_owned(),
            traces_url_path: "/v1/traces".to_owned(),
            max_body_bytes: 20 << 20,
            read_header_timeout: Duration::from_secs(60),
        }
    }
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            multitenancy: false,
            max_attribute_bytes: 2048,
            retry_after: Duration::from_secs(5),
            artificial_delay: Duration::ZERO,
            max_record_bytes: 15_983_616,
            write_timeout: Duration::from_secs(10),
        }
    }
}
