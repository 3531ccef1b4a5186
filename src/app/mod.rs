//! Composition root: configuration, module registry and dependency graph, life cycle, HTTP and gRPC servers, ops endpoints.

pub mod config;
pub mod graph;
pub mod lifecycle;
pub mod logging;

use std::process::ExitCode;

/// Runs the process described by the command line until it is told to stop.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
