//! Rewrites stored blocks: merges small ones, drops redacted traces, brings old ones to another version or other columns.
//!
//! Every job does the same: read the metas again, stream the inputs in trace order, write the output and check it, make it visible with its meta,
//! mark the inputs compacted, bring the block list up to date. Not here: which job is next ([`selector`] only proposes), who runs it, deletion
//! of what was replaced (`super::retention`).
//!
//! Invariants
//! * No span is lost: an input is marked only after every output of its spans is complete and visible.
//! * A job that fails or is dropped before its output is visible leaves no block behind; one that ends between output and marks leaves spans
//!   twice, which every reader and the next compaction drop.
//! * Memory is bounded by [`CompactSettings::memory_bytes`], whatever the size of blocks and traces.

mod error;
mod mark;
mod progress;
pub mod selector;

use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::SharedClock;
use crate::base::cpu_pool::CpuPool;
use crate::model::ids::{TenantId, TraceId};
use crate::model::span_table::SpanTable;
use crate::tempodb::backend::{Backend, BackendError};
use crate::tempodb::block::bloom::BloomParams;
use crate::tempodb::block::dedicated::DedicatedColumn;
use crate::tempodb::block::estimate::DEFAULT_ROW_GROUP_BYTES;
use crate::tempodb::block::meta::{BlockId, BlockMeta, BlockVersion};
use crate::tempodb::block::projection::Projection;
use crate::tempodb::db::TempoDb;
use crate::tempodb::keys;

pub use error::CompactionError;
pub use mark::MarkFailure;
pub use progress::{CompactionProgress, ProgressSnapshot};

/// Memory of a job unless configured otherwise: with it, merging blocks of any size stays below 300 MB for the whole process.
pub const DEFAULT_MEMORY_BYTES: usize = 160 << 20;

/// How blocks are merged.
#[derive(Debug, Clone)]
pub struct CompactSettings {
    /// Estimate at which a row group of the output ends, earlier when memory is short.
    pub row_group_bytes: usize,
    pub bloom: BloomParams,
    /// What the job may hold: stored bytes, decoded slices, tables under construction.
    pub memory_bytes: usize,
    /// The tenant's `max_bytes_per_trace`; 0: no limit. Larger traces are kept whole, counted and reported.
    pub max_trace_bytes: usize,
    /// Version of the output when the inputs' own cannot be written any more.
    pub fallback_version: BlockVersion,
    pub progress: Option<Arc<CompactionProgress>>,
}

impl Default for CompactSettings {
    fn default() -> Self {
        Self {
            row_group_bytes: DEFAULT_ROW_GROUP_BYTES,
            bloom: BloomParams::default(),
            memory_bytes: DEFAULT_MEMORY_BYTES,
            max_trace_bytes: 0,
            fallback_version: BlockVersion::VParquet5,
            progress: None,
        }
    }
}

/// What a job did.
#[derive(Debug, Clone, Default)]
pub struct CompactionOutcome {
    /// The blocks written. The first holds every trace; further ones hold parts of traces too large to be joined.
    pub outputs: Vec<Arc<BlockMeta>>,
    pub traces: u64,
    pub spans: u64,
    /// Traces that were in several inputs.
    pub combined_traces: u64,
    /// Spans dropped because an equal one was kept.
    pub deduped_spans: u64,
    /// Traces above [`CompactSettings::max_trace_bytes`]. Nothing of them is lost.
    pub oversized_traces: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub peak_memory_bytes: u64,
    pub duration: Duration,
}

impl CompactionOutcome {
    pub fn output_ids(&self) -> Vec<BlockId> {
        self.outputs.iter().map(|meta| meta.block_id).collect()
    }
}

/// Which traces to remove.
#[derive(Clone)]
pub enum RedactionSelector {
    Ids(Vec<TraceId>),
    /// Whole traces of which any span matches.
    Matching {
        filter: Arc<dyn TraceFilter>,
        window: Option<RedactionWindow>,
    },
}

/// Decides which traces of a table match a query. Implemented by whoever knows the query language.
pub trait TraceFilter: Send + Sync + 'static {
    /// The columns that [`Self::matching_rows`] looks at.
    fn projection(&self) -> Projection;

    /// Returns the rows that match, in any order. Runs on the CPU pool.
    fn matching_rows(&self, table: &SpanTable) -> Result<Vec<usize>, Box<dyn std::error::Error + Send + Sync>>;
}

/// Only traces that overlap this time are looked at; inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedactionWindow {
    start_unix_nanos: u64,
    end_unix_nanos: u64,
}

/// Why a window is refused; the texts are those of the compatible system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    #[error("window bounds must be non-negative unix nanoseconds, got start={start} end={end}")]
    Negative { start: i64, end: i64 },
    #[error("window start must be before end: start={start} end={end}")]
    Order { start: i64, end: i64 },
}

impl RedactionWindow {
    pub fn new(start_unix_nanos: i64, end_unix_nanos: i64) -> Result<Self, WindowError> {
        let (start, end) = (start_unix_nanos, end_unix_nanos);
        let (Ok(start_unix_nanos), Ok(end_unix_nanos)) = (u64::try_from(start), u64::try_from(end)) else {
            return Err(WindowError::Negative { start, end });
        };
        if start >= end {
            return Err(WindowError::Order { start, end });
        }
        Ok(Self { start_unix_nanos, end_unix_nanos })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedactionMode {
    Apply,
    /// Only count.
    DryRun,
}

#[derive(Debug, Clone, Default)]
pub struct RedactionOutcome {
    /// Traces of the block that the selector names.
    pub traces_found: u64,
    /// The block is gone, which is fine: whoever replaced it is asked instead.
    pub is_missing: bool,
    /// `None`: nothing was found, nothing is left, or only counted.
    pub output: Option<Arc<BlockMeta>>,
}

/// What a block is to become.
#[derive(Debug, Clone)]
pub struct RewriteTarget {
    pub version: BlockVersion,
    /// As configured; what the version cannot hold is left out.
    pub dedicated_columns: Vec<DedicatedColumn>,
    pub settings: CompactSettings,
}

/// Runs jobs over the blocks of one database.
pub struct Compactor {
    db: Arc<TempoDb>,
    cpu: CpuPool,
    clock: SharedClock,
}

impl Compactor {
    pub fn new(db: Arc<TempoDb>, cpu: CpuPool, clock: SharedClock) -> Self {
        Self { db, cpu, clock }
    }

    /// Merges `inputs` into one block, marks them compacted and brings the block list up to date. The first input decides over replication
    /// factor, version and dedicated columns.
    ///
    /// Dropping the future cancels the job. Until the output is visible nothing of it stays; afterwards inputs may be left unmarked.
    pub async fn compact(
        &self,
        tenant: &TenantId,
        inputs: &[BlockId],
        settings: &CompactSettings,
    ) -> Result<CompactionOutcome, CompactionError> {
        let _ = (tenant, inputs, settings, &self.cpu);
        Err(CompactionError::NotBuilt)
    }

    /// Rewrites a block without the traces of `selector`. A block that is gone is fine.
    pub async fn redact(
        &self,
        tenant: &TenantId,
        block: BlockId,
        selector: &RedactionSelector,
        mode: RedactionMode,
    ) -> Result<RedactionOutcome, CompactionError> {
        let _ = (tenant, block, selector, mode);
        Err(CompactionError::NotBuilt)
    }

    /// Rewrites a block into another version or with other dedicated columns.
    pub async fn rewrite(&self, tenant: &TenantId, block: BlockId, target: &RewriteTarget) -> Result<CompactionOutcome, CompactionError> {
        let _ = (tenant, block, target);
        Err(CompactionError::NotBuilt)
    }
}

/// Whether whoever wrote a block still holds it back from compaction.
pub async fn is_held(backend: &Backend, tenant: &TenantId, block: BlockId) -> Result<bool, BackendError> {
    match backend.head(&keys::block_object(tenant, block, keys::NO_COMPACT_NAME)).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
