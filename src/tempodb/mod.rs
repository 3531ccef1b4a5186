//! The storage engine: backends, blocks, block list. Usable without any role.

pub mod backend;
pub mod block;
pub mod blocklist;
pub mod cache;
mod clock;
pub mod compaction;
pub mod config;
pub mod db;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod keys;
pub mod metrics;
pub mod poller;
pub mod retention;
pub mod sorted_blocks;
pub mod tenant_index;
pub mod trace_filter;
pub mod wal;
