//! One job: reads the inputs, merges, writes and checks the outputs. What comes of them (marks, block list) is the caller's matter.
//!
//! ```text
//! input 0 ─ fetch, decode ─▶ slices ─┐
//! input 1 ─ fetch, decode ─▶ slices ─┼─▶ merge ─▶ tables ─▶ encode, upload ─▶ check ─▶ meta
//! input n ─ …                        ┘
//! ```
//!
//! All three stages run at once; each waits when the next one has no place, so that memory is what the places hold:
//! two slices and the stored pages of each input, a table of the output that is merged and one that is encoded.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use futures::future::{try_join_all, try_join3};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing::warn;

use super::check::check_output;
use super::error::CompactionError;
use super::memory::{Account, Held};
use super::merge::{MergeLimits, MergeStats, Merger, SliceRef, Step};
use super::progress::CompactionProgress;
use super::{CompactSettings, Compactor};
use crate::base::cpu_pool::CpuPool;
use crate::model::combine::DerivedColumns;
use crate::model::ids::{TenantId, TraceId};
use crate::model::span_table::SpanTable;
use crate::tempodb::backend::Backend;
use crate::tempodb::block::error::BlockReadError;
use crate::tempodb::block::meta::{BlockId, BlockMeta, BlockVersion};
use crate::tempodb::block::projection::Projection;
use crate::tempodb::block::read::{BlockReader, ReadMeter, ReadOptions};
use crate::tempodb::block::scan::{RowScan, ScanLimits};
use crate::tempodb::block::write::{BlockWriter, CompactionFlag, NewBlock, SealedBlock, WriteError};
use crate::tempodb::blocklist::HeldBlocks;

/// Decoded slices of an input: one is merged while the next is decoded.
const SLICES_PER_INPUT: usize = 2;
/// Tables of the output: one is encoded while the next is merged.
const TABLES: usize = 2;

/// Used memory of a table under construction, however much the job has: more would only make row groups larger than they should be.
const TABLE_BYTES: u64 = 28 << 20;
/// Memory of the decoded slices of all inputs, if no row needs more.
const SLICE_BYTES: u64 = 42 << 20;
/// Stored pages held of all inputs.
const FETCHED_BYTES: u64 = 12 << 20;

/// How the memory of a job is divided, in hundredths. The rest is what encoding and decoding take on the way.
mod share {
    /// A table of the output, of which there are [`super::TABLES`], or a joined row.
    pub(super) const TABLE: u64 = 15;
    /// What of it may be in use when a row group ends: columns grow by doubling.
    pub(super) const TABLE_USED: u64 = 10;
    /// Stored pages of all inputs.
    pub(super) const FETCHED: u64 = 14;
    /// Decoded slices of all inputs. A single row may take the place of all slices of its input.
    pub(super) const SLICES: u64 = 56;
}

/// What to do.
pub(super) struct JobPlan {
    pub(super) tenant: TenantId,
    pub(super) inputs: Vec<Arc<BlockReader>>,
    /// Traces to leave out.
    pub(super) removed: Vec<TraceId>,
    /// The output, but for its id.
    pub(super) output: NewBlock,
    pub(super) settings: CompactSettings,
    pub(super) progress: Arc<CompactionProgress>,
}

/// What was done.
pub(super) struct JobResult {
    /// Complete and visible.
    pub(super) outputs: Vec<Arc<BlockMeta>>,
    pub(super) stats: MergeStats,
}

impl Compactor {
    /// Opens an input for a job.
    pub(super) async fn open_input(
        &self,
        tenant: &TenantId,
        meta: Arc<BlockMeta>,
        meter: &ReadMeter,
    ) -> Result<Arc<BlockReader>, CompactionError> {
        let block = meta.block_id;
        // Not one of the database's readers: what is read once should not push out what queries keep.
        let opened = BlockReader::open(self.db.backend(), tenant, meta, ReadOptions::default(), meter).await;
        opened.map(Arc::new).map_err(|cause| CompactionError::Read { block, cause })
    }

    /// Merges and writes. On return the outputs are visible; an error or a dropped call leaves none, unless it comes while metas are written.
    /// The outputs are held in the block list, where they are not entered.
    pub(super) async fn run_job(&self, plan: JobPlan, held: &mut HeldBlocks) -> Result<JobResult, CompactionError> {
        let backend = self.db.backend().clone();
        let mut unpublished = Unpublished { backend, tenant: plan.tenant.clone(), blocks: Vec::new() };
        let outcome = self.write_outputs(&plan, &mut unpublished, held).await;
        if outcome.is_err() {
            unpublished.clear().await;
        }
        outcome
    }

    async fn write_outputs(
        &self,
        plan: &JobPlan,
        unpublished: &mut Unpublished,
        held: &mut HeldBlocks,
    ) -> Result<JobResult, CompactionError> {
        let (sealed, stats) = self.merge_inputs(plan, unpublished).await?;
        unpublished.blocks.iter().for_each(|block| held.add(*block));
        for block in &sealed {
            check_output(self.db.backend(), &self.cpu, &plan.tenant, block).await?;
        }
        // A meta whose write was given up may still arrive, and must not find its block deleted. What is left then is complete, or an orphan.
        unpublished.blocks.clear();
        let mut outputs = Vec::new();
        for block in sealed {
            outputs.push(Arc::new(block.publish().await?));
        }
        Ok(JobResult { outputs, stats })
    }

    async fn merge_inputs(&self, plan: &JobPlan, unpublished: &mut Unpublished) -> Result<(Vec<SealedBlock>, MergeStats), CompactionError> {
        let memory = plan.settings.memory_bytes as u64;
        let part_of = |share: u64, most: u64| (memory * share / 100).min(most);
        let inputs = plan.inputs.len().max(1) as u64;
        let (mut readers, mut slices) = (Vec::new(), Vec::new());
        for input in &plan.inputs {
            let limits = ScanLimits {
                fetch_bytes: part_of(share::FETCHED, FETCHED_BYTES) / inputs,
                slice_bytes: part_of(share::SLICES, SLICE_BYTES) / inputs / SLICES_PER_INPUT as u64,
            };
            let (sender, receiver) = channel(1);
            let reader = InputReader {
                block: input.meta().block_id,
                scan: RowScan::new(Arc::clone(input), Projection::all(), limits),
                cpu: self.cpu.clone(),
                slice_bytes: limits.slice_bytes,
                row_limit: part_of(share::SLICES, u64::MAX) / inputs,
                last_id: None,
                progress: Arc::clone(&plan.progress),
            };
            readers.push(reader.run(sender));
            slices.push(receiver);
        }
        let limits = MergeLimits {
            row_group_bytes: plan.settings.row_group_bytes,
            table_bytes: part_of(share::TABLE_USED, TABLE_BYTES) as usize,
            row_bytes: part_of(share::TABLE, u64::MAX) as usize,
            max_trace_bytes: plan.settings.max_trace_bytes,
        };
        let derived: Vec<_> = plan.inputs.iter().map(|input| derived_columns(input.meta())).collect();
        let merger = Merger::new(&derived, &plan.removed, limits);
        let (tables, finished) = channel(1);
        let spare = SpareTables::new(2 * limits.table_bytes);
        let writing = self.write_tables(plan, finished, &spare, unpublished);
        let merging = merge(self.cpu.clone(), merger, slices, (tables, &spare), &plan.progress);
        // A reader that fails closes its channel, which the merge takes for the end of the input. Its error makes the whole fail all the same.
        let (_, stats, sealed) = try_join3(try_join_all(readers), merging, writing).await?;
        Ok((sealed, stats))
    }

    async fn write_tables(
        &self,
        plan: &JobPlan,
        mut tables: Receiver<(usize, Held<SpanTable>)>,
        spare: &SpareTables,
        unpublished: &mut Unpublished,
    ) -> Result<Vec<SealedBlock>, CompactionError> {
        let mut writers: BTreeMap<usize, BlockWriter> = BTreeMap::new();
        while let Some((part, table)) = tables.recv().await {
            if let Entry::Vacant(place) = writers.entry(part) {
                let id = BlockId::random();
                unpublished.blocks.push(id);
                // Parts of large traces must not meet again: they would be split again, and every such round rewrites the rest of the block, too.
                let compaction = if part == 0 { CompactionFlag::Allowed } else { CompactionFlag::Held };
                let block = NewBlock { id, compaction, ..plan.output.clone() };
                place.insert(self.db.create_block(self.cpu.clone(), block).await?);
            }
            let writer = writers.get_mut(&part).ok_or(WriteError::Broken(plan.output.id))?;
            let (table, account) = table.into_parts();
            let before = writer.size_bytes();
            let table = Arc::new(table);
            writer.append(Arc::clone(&table)).await?;
            Arc::into_inner(table).into_iter().for_each(|table| spare.put(table));
            plan.progress.add_written(writer.size_bytes().saturating_sub(before));
            drop(account);
        }
        let mut sealed = Vec::new();
        for (_, writer) in writers {
            sealed.push(writer.seal().await?);
        }
        Ok(sealed)
    }
}

/// Returns what whoever joins traces does with derived columns of a block: those that its format lacks, or that were computed by other rules, are
/// computed anew.
pub fn derived_columns(input: &BlockMeta) -> DerivedColumns {
    if input.version() == Ok(BlockVersion::VParquet5) { DerivedColumns::Copied } else { DerivedColumns::Computed }
}

/// Reads one input.
struct InputReader {
    block: BlockId,
    scan: RowScan,
    cpu: CpuPool,
    slice_bytes: u64,
    row_limit: u64,
    last_id: Option<TraceId>,
    progress: Arc<CompactionProgress>,
}

impl InputReader {
    /// Hands out slices until the end, or until nobody takes them.
    async fn run(mut self, slices: Sender<Held<SpanTable>>) -> Result<(), CompactionError> {
        let places = Arc::new(Semaphore::new(SLICES_PER_INPUT));
        let meter = ReadMeter::default();
        let mut account = Account::new(&self.progress);
        while let Ok(mut place) = Arc::clone(&places).acquire_owned().await {
            let fetched = self.scan.fetch_next(&meter).await.map_err(|cause| self.failure(cause))?;
            account.set(self.scan.held_bytes());
            let Some(fetched) = fetched else { break };
            if fetched.estimated_bytes > self.row_limit {
                return Err(CompactionError::TraceTooLarge { block: self.block, needed: fetched.estimated_bytes, limit: self.row_limit });
            }
            if fetched.estimated_bytes > self.slice_bytes {
                // A large row waits until no other slice of this input is held.
                let Ok(others) = Arc::clone(&places).acquire_many_owned(SLICES_PER_INPUT as u32 - 1).await else { break };
                place.merge(others);
            }
            let stored_bytes = fetched.stored_bytes;
            let decoded = self.cpu.run("decode_slice", move || fetched.decode()).await?.map_err(|cause| self.failure(cause))?;
            let table = self.scan.keep(decoded);
            self.check_order(&table).map_err(|cause| self.failure(cause))?;
            self.progress.add_read(stored_bytes);
            let bytes = table.memory_bytes();
            if slices.send(Held::new(table, bytes, &self.progress, place)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The merge relies on it, and foreign blocks are not to be trusted.
    fn check_order(&mut self, table: &SpanTable) -> Result<(), BlockReadError> {
        let ids = self.last_id.iter().chain(&table.traces.ids);
        let is_ascending = ids.clone().zip(ids.skip(1)).all(|(a, b)| a < b);
        if !is_ascending {
            return Err(BlockReadError::Layout("traces are not in the order of their ids"));
        }
        self.last_id = table.traces.ids.last().copied().or(self.last_id);
        Ok(())
    }

    fn failure(&self, cause: BlockReadError) -> CompactionError {
        CompactionError::Read { block: self.block, cause }
    }
}

/// Runs the merge on the CPU pool, a slice at a time.
async fn merge(
    cpu: CpuPool,
    mut merger: Merger,
    mut slices: Vec<Receiver<Held<SpanTable>>>,
    (tables, spare): (Sender<(usize, Held<SpanTable>)>, &SpareTables),
    progress: &Arc<CompactionProgress>,
) -> Result<MergeStats, CompactionError> {
    let places = Arc::new(Semaphore::new(TABLES));
    let mut reported = MergeStats::default();
    // A place is taken before the table that fills it is begun.
    let Ok(mut place) = Arc::clone(&places).acquire_owned().await else { return Ok(reported) };
    let mut account = Account::new(progress);
    loop {
        let step;
        (merger, step) = cpu
            .run("merge_slices", move || {
                let step = merger.advance();
                (merger, step)
            })
            .await?;
        account.set(merger.memory_bytes() as u64);
        let stats = merger.stats();
        progress.add_merged(stats.traces - reported.traces, stats.spans - reported.spans);
        reported = stats;
        match step {
            Step::NeedSlice(at) => match slices[at].recv().await {
                Some(slice) => merger.put_slice(at, SliceRef::new(slice)),
                None => merger.end_input(at),
            },
            Step::Table { part, table } => {
                let bytes = table.memory_bytes();
                // Nobody takes it when writing has failed, whose error counts.
                let _closed = tables.send((part, Held::new(*table, bytes, progress, place))).await;
                let Ok(next) = Arc::clone(&places).acquire_owned().await else { break };
                place = next;
                spare.take().into_iter().for_each(|table| merger.reuse(table));
            }
            Step::Done => break,
        }
    }
    Ok(reported)
}

/// Tables that are written: the next ones are built in their memory, which costs less than to give it back and to take it anew.
struct SpareTables {
    tables: Mutex<Vec<SpanTable>>,
    /// Larger ones are not kept.
    max_bytes: usize,
}

impl SpareTables {
    fn new(max_bytes: usize) -> Self {
        Self { tables: Mutex::default(), max_bytes }
    }

    fn put(&self, table: SpanTable) {
        if table.memory_bytes() <= self.max_bytes {
            self.tables.lock().push(table);
        }
    }

    fn take(&self) -> Option<SpanTable> {
        self.tables.lock().pop()
    }
}

/// Blocks whose objects are removed when the job ends before their metas are due.
struct Unpublished {
    backend: Backend,
    tenant: TenantId,
    blocks: Vec<BlockId>,
}

impl Unpublished {
    async fn clear(&mut self) {
        for block in std::mem::take(&mut self.blocks) {
            clear(&self.backend, &self.tenant, block).await;
        }
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        // The job was cancelled. Without a runtime nothing can be done; retention finds what is left.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        for block in std::mem::take(&mut self.blocks) {
            let (backend, tenant) = (self.backend.clone(), self.tenant.clone());
            runtime.spawn(async move { clear(&backend, &tenant, block).await });
        }
    }
}

async fn clear(backend: &Backend, tenant: &TenantId, block: BlockId) {
    if let Err(failure) = backend.clear_block(tenant, block).await {
        warn!(%tenant, %block, error = &failure as &dyn std::error::Error, "objects of an unfinished block could not be removed");
    }
}
