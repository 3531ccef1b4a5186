//! What roles share: ports, ingest log, limits, caches, telemetry.

pub mod rpc;
