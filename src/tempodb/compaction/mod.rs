//! Rewrites stored blocks: merges small ones, drops redacted traces, brings old ones to another version or other columns.
//!
//! Every job does the same: read the metas again, stream the inputs in trace order, write the output and check it, make it visible with its meta,
//! mark the inputs compacted, bring the block list up to date. Not here: which job is next ([`selector`] only proposes), who runs it, deletion
//! of what was replaced (`super::retention`).
//!
//! Invariants
//! * No span is lost: an input is marked only after every output of its spans is complete and visible.
//! * A job that fails or is dropped before its output is visible leaves no block behind; one that ends between output and marks leaves spans
//!   twice in the backend, which every reader and the next compaction drop. The block list of this process never has them twice: outputs take the
//!   place of the inputs at once, and inputs that could not be marked stay out of it.
//! * Memory is bounded by [`CompactSettings::memory_bytes`], whatever the size of blocks and traces.

pub mod selector;
mod job;
mod merge;
mod memory;
mod check;
mod mark;
mod redact;
mod rewrite;
mod progress;
mod error;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use tracing::warn;

use crate::base::clock::SharedClock;
use crate::base::cpu_pool::CpuPool;
use crate::model::ids::{TenantId, TraceId};
use crate::model::span_table::SpanTable;
use crate::tempodb::backend::{Backend, BackendError};
use crate::tempodb::block::bloom::BloomParams;
use crate::tempodb::block::dedicated::DedicatedColumn;
use crate::tempodb::block::estimate::DEFAULT_ROW_GROUP_BYTES;
use crate::tempodb::block::meta::{BlockId, BlockMeta, BlockVersion, META_NAME};
use crate::tempodb::block::projection::Projection;
use crate::tempodb::block::read::{BlockReader, ReadMeter};
use crate::tempodb::block::write::{BlockTimes, NewBlock};
use crate::tempodb::clock::timestamp;
use crate::tempodb::db::TempoDb;
use crate::tempodb::keys;
use crate::tempodb::metrics as names;

use job::{JobPlan, JobResult};

pub use error::CompactionError;
pub use job::derived_columns;
pub use mark::MarkFailure;
pub use progress::{CompactionProgress, ProgressSnapshot};

/// Memory of a job unless configured otherwise. Blocks of any size take about a quarter of it; the rest is for single large traces.
pub const DEFAULT_MEMORY_BYTES: usize = 512 << 20;

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
    /// Traces too large to be joined within the job's memory: they stay in several blocks.
    pub split_traces: u64,
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
    /// Fails when an input is gone or held back. Dropping the future cancels the job: until the output is visible nothing of it stays; from
    /// then on inputs may be left unmarked.
    pub async fn compact(
        &self,
        tenant: &TenantId,
        inputs: &[BlockId],
        settings: &CompactSettings,
    ) -> Result<CompactionOutcome, CompactionError> {
        let outcome = self.compact_blocks(tenant, inputs, settings).await;
        count_failure(&outcome);
        outcome
    }

    async fn compact_blocks(
        &self,
        tenant: &TenantId,
        inputs: &[BlockId],
        settings: &CompactSettings,
    ) -> Result<CompactionOutcome, CompactionError> {
        let mut readers: Vec<Arc<BlockReader>> = Vec::new();
        let meter = ReadMeter::default();
        for &block in inputs {
            if readers.iter().all(|reader| reader.meta().block_id != block) {
                let meta = self.read_free_meta(tenant, block).await?;
                readers.push(self.open_input(tenant, meta, &meter).await?);
            }
        }
        let highest = readers.iter().map(|reader| reader.meta().compaction_level).max().ok_or(CompactionError::NoInputs)?;
        let output = self.output_like(tenant, &readers, highest.saturating_add(1), settings);
        self.replace(tenant, readers, Vec::new(), output, settings).await
    }

    /// Reads the meta of a block that may be compacted.
    async fn read_free_meta(&self, tenant: &TenantId, block: BlockId) -> Result<Arc<BlockMeta>, CompactionError> {
        let meta = self.read_meta(tenant, block).await?;
        match is_held(self.db.backend(), tenant, block).await {
            Ok(false) => Ok(meta),
            Ok(true) => Err(CompactionError::Held { block }),
            Err(cause) => Err(CompactionError::Meta { block, cause }),
        }
    }

    /// Reads the meta of a live block: what the block list says may be minutes old.
    async fn read_meta(&self, tenant: &TenantId, block: BlockId) -> Result<Arc<BlockMeta>, CompactionError> {
        let bytes = match self.db.backend().read(&keys::block_object(tenant, block, META_NAME)).await {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Err(CompactionError::Gone { block }),
            Err(cause) => return Err(CompactionError::Meta { block, cause }),
        };
        let meta = BlockMeta::from_json(&bytes).map_err(|cause| CompactionError::CorruptMeta { block, cause })?;
        // Everything else goes by the place of the object, and so does this.
        Ok(Arc::new(BlockMeta { block_id: block, ..meta }))
    }

    /// Returns the block that replaces `inputs`, which are not none, but for its id.
    fn output_like(&self, tenant: &TenantId, inputs: &[Arc<BlockReader>], level: u32, settings: &CompactSettings) -> NewBlock {
        let first = inputs[0].meta();
        let metas = || inputs.iter().map(|input| input.meta());
        let start = metas().map(|meta| meta.start_time).min().unwrap_or(first.start_time);
        let end = metas().map(|meta| meta.end_time).max().unwrap_or(first.end_time);
        // Rows as the files have them: what a meta says need not be true, and this takes memory.
        let traces = inputs.iter().map(|input| (0..input.row_groups()).map(|group| input.rows(group)).sum::<usize>()).sum();
        NewBlock {
            version: first.version().ok().filter(|version| version.is_writable()).unwrap_or(settings.fallback_version),
            dedicated_columns: first.dedicated_columns.to_vec(),
            bloom: settings.bloom,
            compaction_level: level,
            replication_factor: first.replication_factor,
            times: BlockTimes::Given { start, end },
            ..NewBlock::new(tenant.clone(), BlockId::random(), traces)
        }
    }

    /// Writes `inputs` without `removed` into `output`, and puts it into their place. Nothing is written when nothing is left.
    async fn replace(
        &self,
        tenant: &TenantId,
        inputs: Vec<Arc<BlockReader>>,
        removed: Vec<TraceId>,
        output: NewBlock,
        settings: &CompactSettings,
    ) -> Result<CompactionOutcome, CompactionError> {
        let started = Instant::now();
        let progress = settings.progress.clone().unwrap_or_default();
        let metas: Vec<Arc<BlockMeta>> = inputs.iter().map(|input| Arc::clone(input.meta())).collect();
        progress.start(metas.iter().map(|meta| meta.size_bytes).sum());
        let plan = JobPlan { tenant: tenant.clone(), inputs, removed, output, settings: settings.clone(), progress: Arc::clone(&progress) };
        let ids: Vec<BlockId> = metas.iter().map(|meta| meta.block_id).collect();
        // From here until the list has changed, polls would show the spans twice, or not at all.
        let mut held = self.db.block_list().hold(tenant, &ids);
        let JobResult { outputs, stats } = self.run_job(plan, &mut held).await?;
        let marked = self.mark_in_backend(tenant, &ids).await;
        self.db.block_list().replace(tenant, &outputs, &ids, timestamp(&self.clock));
        let counters = progress.snapshot();
        let outcome = CompactionOutcome {
            bytes_written: outputs.iter().map(|meta| meta.size_bytes).sum(),
            outputs,
            traces: stats.traces,
            spans: stats.spans,
            combined_traces: stats.combined_traces,
            deduped_spans: stats.deduped_spans,
            oversized_traces: stats.oversized_traces,
            split_traces: stats.split_traces,
            bytes_read: counters.bytes_read,
            peak_memory_bytes: counters.peak_memory_bytes,
            duration: started.elapsed(),
        };
        record(tenant, &metas, &outcome);
        match marked {
            Ok(()) => Ok(outcome),
            Err(MarkFailure { unmarked, cause }) => {
                held.leave(&unmarked);
                Err(CompactionError::Unmarked { unmarked, outcome: Box::new(outcome), cause })
            }
        }
    }
}

/// Counts a job that failed.
fn count_failure<T>(outcome: &Result<T, CompactionError>) {
    if outcome.is_err() {
        counter!(names::COMPACTION_ERRORS).increment(1);
    }
}

fn record(tenant: &TenantId, inputs: &[Arc<BlockMeta>], outcome: &CompactionOutcome) {
    let level = inputs.iter().map(|meta| meta.compaction_level).max().unwrap_or(0).to_string();
    let factor = inputs.first().map_or(0, |meta| meta.replication_factor).to_string();
    counter!(names::COMPACTION_BLOCKS, "level" => level.clone()).increment(inputs.len() as u64);
    counter!(names::COMPACTION_OBJECTS_WRITTEN, "level" => level.clone()).increment(outcome.traces);
    counter!(names::COMPACTION_BYTES_WRITTEN, "level" => level.clone()).increment(outcome.bytes_written);
    counter!(names::COMPACTION_OBJECTS_COMBINED, "level" => level).increment(outcome.combined_traces);
    counter!(names::COMPACTION_SPANS_DEDUPED, "replication_factor" => factor).increment(outcome.deduped_spans);
    histogram!(names::COMPACTION_DURATION).record(outcome.duration.as_secs_f64());
    histogram!(names::COMPACTION_MEMORY).record(outcome.peak_memory_bytes as f64);
    for output in &outcome.outputs {
        histogram!(names::COMPACTION_OUTPUT_SIZE).record(output.size_bytes as f64);
    }
    if outcome.oversized_traces > 0 {
        counter!(names::COMPACTION_OVERSIZED, "tenant" => tenant.to_string()).increment(outcome.oversized_traces);
        warn!(%tenant, traces = outcome.oversized_traces, "traces larger than the tenant's limit were compacted, and kept whole");
    }
    if outcome.split_traces > 0 {
        counter!(names::COMPACTION_SPLIT, "tenant" => tenant.to_string()).increment(outcome.split_traces);
        warn!(%tenant, traces = outcome.split_traces, "traces too large to be joined were left in several blocks");
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
