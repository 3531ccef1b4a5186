//! The anonymous usage report of the compatible system. Its keys are accepted; tempo-rs never reports.

pub mod config;
