//! Plans compaction and retention.

pub mod config;
