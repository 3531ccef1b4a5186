//! Which blocks hold a trace, without asking each of them: per tenant and day, runs of hashed trace ids with the numbers of their blocks.
//!
//! ```text
//! <tenant>/tempo-rs.ids.manifest             the runs there are
//! <tenant>/tempo-rs.ids.<day>.<uuid>         a run: shards of sorted hashes, and a header with the covered blocks
//! ```
//!
//! A lookup reads one shard per run. Blocks that no run covers are asked by their bloom filters, as they would be without all this; other
//! readers of the bucket ignore the objects.
//!
//! [`maintain`](maintain::maintain) covers new blocks with new runs and merges runs of a day so that each is several times as large as the next
//! smaller one: a day then has few runs, and an entry is rewritten a few times instead of with every new block.
//!
//! Not here: reading the trace itself, who calls `maintain` and when.
//!
//! Invariants
//! * A run covers a block only if it holds every trace id of it. The header of the run decides, not the manifest.
//! * A run that is missing, broken or unreadable covers nothing: its blocks are asked by bloom filter. The filter never hides a trace.
//! * Runs are immutable, and their objects are deleted only some time after the last manifest named them.

mod shard;
mod run;
mod manifest;
mod cache;
pub mod lookup;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
mod write;
mod merge;
pub mod maintain;
#[cfg(test)]
mod tests;

use super::backend::BackendError;
use crate::base::cpu_pool::CpuPoolError;

/// Seconds of a window. Runs hold the blocks that end in one window, so that retention lets go of whole runs.
const WINDOW_SECONDS: i64 = 24 * 60 * 60;

#[derive(Debug, thiserror::Error)]
pub enum TraceFilterError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Cpu(#[from] CpuPoolError),
    #[error("cannot upload {name}")]
    Upload {
        name: String,
        #[source]
        cause: object_store::Error,
    },
    #[error("run {0} is missing or corrupt")]
    Run(String),
}
