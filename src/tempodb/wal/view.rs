//! The rows of a WAL block at one moment, for readers. Cheap to clone; what is flushed or dropped later does not change it.

use std::sync::Arc;

use super::error::WalError;
use super::file::WalFile;
use super::slices::Slices;
use crate::base::cpu_pool::CpuPool;
use crate::model::combine::combine_trace;
use crate::model::ids::TraceId;
use crate::model::span_table::SpanTable;
use crate::tempodb::block::meta::BlockMeta;

#[derive(Clone)]
pub struct WalView {
    pub(super) meta: Arc<BlockMeta>,
    pub(super) files: Vec<Arc<WalFile>>,
    /// Appended and not flushed.
    pub(super) pending: Vec<Arc<SpanTable>>,
    pub(super) cpu: CpuPool,
}

impl WalView {
    pub fn meta(&self) -> &Arc<BlockMeta> {
        &self.meta
    }

    /// Flushed rows. A trace that was flushed several times counts as often.
    pub fn row_count(&self) -> usize {
        self.files.iter().map(|file| file.rows.len()).sum()
    }

    /// Bytes of the files.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Rows appended and not flushed yet, in order of arrival.
    pub fn pending(&self) -> &[Arc<SpanTable>] {
        &self.pending
    }

    /// Returns the spans of a trace, its pieces joined, flushed or not; `None` when there are none.
    pub async fn find_trace(&self, id: TraceId) -> Result<Option<SpanTable>, WalError> {
        let mut parts: Vec<(Arc<SpanTable>, usize)> = Vec::new();
        for file in &self.files {
            for row in file.rows_of(id) {
                parts.push((Arc::new(file.read(row.group, &[row.row], &self.cpu).await?), 0));
            }
        }
        for table in &self.pending {
            let rows = table.traces.ids.iter().enumerate().filter(|(_, found)| **found == id);
            parts.extend(rows.map(|(row, _)| (Arc::clone(table), row)));
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let join = move || combine_trace(&parts.iter().map(|(table, row)| (table.as_ref(), *row)).collect::<Vec<_>>());
        Ok(Some(self.cpu.run("join_wal_trace", join).await?))
    }

    /// Iterates over the flushed traces, ascending by id, in tables of about `slice_bytes`.
    pub fn slices(&self, slice_bytes: usize) -> Slices {
        Slices::new(self.files.clone(), self.cpu.clone(), slice_bytes)
    }
}
