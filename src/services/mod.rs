//! What roles share: ports, ingest log, limits, caches, telemetry.

pub mod ingest_log;
pub mod rpc;
