//! Classic ring-owned compaction.

pub mod config;
