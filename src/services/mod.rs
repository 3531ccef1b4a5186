//! What roles share: ports, ingest log, limits, caches, telemetry.

pub mod ingest_log;
pub mod rpc;
pub mod grpc_client;
pub mod live_store_client;
pub mod ring;
pub mod memberlist;
pub mod overrides;
pub mod cache;
pub mod usage_report;
