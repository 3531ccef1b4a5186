//! Makes a block of a WAL block: its traces in order, their pieces joined, under the same id.

use std::sync::Arc;

use metrics::{counter, gauge};
use tracing::{info, warn};

use super::error::WalError;
use super::metrics as names;
use super::slices::Slices;
use super::view::WalView;
use crate::model::ids::TenantId;
use crate::tempodb::backend::Backend;
use crate::tempodb::block::meta::{BlockMeta, unset_time};
use crate::tempodb::block::write::{BlockTimes, BlockWriter, NewBlock};

/// A block made of a WAL block.
#[derive(Debug)]
pub struct Completion {
    pub meta: BlockMeta,
    /// Passes over the files.
    pub slices: usize,
    /// Most memory that tables held at once.
    pub peak_table_bytes: usize,
    /// Files that turned out to be corrupt, whose rows are not in the block.
    pub lost_files: Vec<String>,
}

/// What the block of a WAL block begins with: id, times and replication factor are those of the WAL block, the rest is the caller's.
pub fn new_block(tenant: &TenantId, view: &WalView) -> NewBlock {
    let meta = view.meta();
    let is_sane = meta.start_time != unset_time() && meta.start_time <= meta.end_time;
    NewBlock {
        dedicated_columns: meta.dedicated_columns.to_vec(),
        replication_factor: meta.replication_factor,
        // A range that is the wrong way round would hide the block from queries; that of the traces is as good.
        times: if is_sane { BlockTimes::Given { start: meta.start_time, end: meta.end_time } } else { BlockTimes::default() },
        ..NewBlock::new(tenant.clone(), meta.block_id, view.row_count())
    }
}

/// Writes the flushed rows of `view` as `block` into `backend`. `None` when no file could be read.
///
/// Repeating it after a crash writes the same objects again. Memory: see [`super::slices`], and one encoded row group.
pub async fn complete(mut view: WalView, backend: &Backend, block: NewBlock, slice_bytes: usize) -> Result<Option<Completion>, WalError> {
    let mut lost_files = Vec::new();
    while view.row_count() > 0 {
        match write(&view, backend, block.clone(), slice_bytes).await {
            Ok((meta, slices)) => {
                counter!(names::COMPLETED_BLOCKS).increment(1);
                gauge!(names::COMPLETION_TABLE_BYTES).set(slices.peak_bytes() as f64);
                info!(block = %meta.block_id, traces = meta.total_objects, bytes = meta.size_bytes, passes = slices.count(), "WAL block completed");
                let (slices, peak_table_bytes) = (slices.count(), slices.peak_bytes());
                return Ok(Some(Completion { meta, slices, peak_table_bytes, lost_files }));
            }
            Err(WalError::Read { file, cause }) if cause.is_corrupt() && view.files.iter().any(|known| known.name() == file) => {
                counter!(names::REPLAY_WARNINGS).increment(1);
                warn!(file, err = &cause as &dyn std::error::Error, "received warning while replaying block. partial replay likely.");
                view.files.retain(|other| other.name() != file);
                lost_files.push(file);
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(None)
}

async fn write(view: &WalView, backend: &Backend, block: NewBlock, slice_bytes: usize) -> Result<(BlockMeta, Slices), WalError> {
    let id = block.id;
    let mut slices = view.slices(slice_bytes);
    let mut writer = BlockWriter::create(backend.clone(), view.cpu.clone(), block).await?;
    loop {
        let appended = match slices.next().await {
            Ok(None) => break,
            Ok(Some(table)) => writer.append(Arc::new(table)).await.map_err(WalError::from),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = appended {
            if let Err(second) = writer.abort().await {
                warn!(block = %id, err = &second as &dyn std::error::Error, "objects of a failed block could not be removed");
            }
            return Err(failure);
        }
    }
    Ok((writer.finish().await?, slices))
}
