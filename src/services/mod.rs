//! What roles share: ports, ingest log, limits, caches, telemetry.

pub mod block_projection;
pub mod cache;
pub mod client_tls;
pub mod grpc_client;
pub mod ingest_log;
pub mod live_store_client;
pub mod memberlist;
pub mod overrides;
pub mod ring;
pub mod rpc;
pub mod span_metrics;
pub mod span_search;
pub mod usage_report;
