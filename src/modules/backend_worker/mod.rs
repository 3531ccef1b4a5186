//! Executes compaction and retention jobs.

pub mod config;
