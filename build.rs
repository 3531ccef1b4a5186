//! Compiles `proto/` to Rust; no `protoc` is needed.

use std::error::Error;

const FILES: &[&str] = &[
    "tempopb/tempo.proto",
    "tempopb/backendwork.proto",
    "frontend/frontend.proto",
    "httpgrpc/httpgrpc.proto",
    "google/rpc/status.proto",
    "opentelemetry/proto/collector/trace/v1/trace_service.proto",
];

/// Messages whose byte fields are slices of the received buffer instead of copies.
const SLICED: &[&str] = &[".tempopb.PushBytesRequest", ".tempopb.TraceBytes", ".httpgrpc"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let mut config = tonic_prost_build::Config::new();
    config.bytes(SLICED.iter().copied());
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    Ok(())
}
