//! One file of a WAL block: which rows it has, and a reader of them.

use std::sync::Arc;

use object_store::path::Path;
use tokio::sync::OnceCell;

use super::error::WalError;
use crate::base::cpu_pool::CpuPool;
use crate::model::ids::{TenantId, TraceId};
use crate::model::span_table::SpanTable;
use crate::tempodb::backend::Backend;
use crate::tempodb::block::meta::BlockMeta;
use crate::tempodb::block::projection::Projection;
use crate::tempodb::block::read::{BlockReader, ReadMeter, ReadOptions};
use crate::tempodb::block::selection::RowSelection;

/// Where a trace, or a piece of one, lies in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: TraceId,
    pub(super) spans: u32,
    pub(super) group: u32,
    pub(super) row: u32,
}

/// What is needed to open a file.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) backend: Backend,
    pub(super) tenant: TenantId,
    pub(super) meta: Arc<BlockMeta>,
    pub(super) key: Path,
}

impl Source {
    pub(super) fn name(&self) -> String {
        self.key.to_string()
    }

    async fn open(&self) -> Result<BlockReader, WalError> {
        // All files of a WAL block have its id, by which a shared cache would mix their dictionaries up: the default caches none.
        let (options, meter) = (ReadOptions::default(), ReadMeter::default());
        let meta = Arc::clone(&self.meta);
        let opened = BlockReader::open_at(&self.backend, &self.tenant, meta, self.key.clone(), options, &meter);
        opened.await.map_err(|cause| WalError::read(self.name(), cause))
    }
}

pub(super) struct WalFile {
    source: Source,
    pub(super) bytes: u64,
    /// Ascending by id; pieces of a trace in their order.
    pub(super) rows: Vec<Row>,
    reader: OnceCell<BlockReader>,
}

impl WalFile {
    /// A file that was just written from `table`.
    pub(super) fn written(source: Source, bytes: u64, table: &SpanTable) -> Self {
        Self { source, bytes, rows: sorted(rows_of(table, 0).collect()), reader: OnceCell::new() }
    }

    /// Opens a file and lists its rows. Memory: one row group's ids and levels.
    pub(super) async fn open(source: Source, bytes: u64, cpu: &CpuPool) -> Result<Self, WalError> {
        let reader = source.open().await?;
        let mut rows = Vec::new();
        for group in 0..reader.row_groups() {
            let failed = |cause| WalError::read(source.name(), cause);
            let fetched = reader.fetch_row_group(group, &Projection::default(), None, &ReadMeter::default()).await.map_err(failed)?;
            let table = cpu.run("list_wal_rows", move || fetched.decode()).await?.map_err(failed)?;
            rows.extend(rows_of(&table, group as u32));
        }
        Ok(Self { source, bytes, rows: sorted(rows), reader: OnceCell::new_with(Some(reader)) })
    }

    pub(super) fn name(&self) -> String {
        self.source.name()
    }

    /// The rows of a trace.
    pub(super) fn rows_of(&self, id: TraceId) -> &[Row] {
        let start = self.rows.partition_point(|row| row.id < id);
        let count = self.rows.get(start..).unwrap_or_default().iter().take_while(|row| row.id == id).count();
        self.rows.get(start..start + count).unwrap_or_default()
    }

    /// Reads all columns of rows of one row group, given ascending.
    pub(super) async fn read(&self, group: u32, rows: &[u32], cpu: &CpuPool) -> Result<SpanTable, WalError> {
        let failed = |cause| WalError::read(self.name(), cause);
        let reader = self.reader.get_or_try_init(|| self.source.open()).await?;
        let selection = RowSelection::from_rows(rows.iter().map(|row| *row as usize));
        let (all, meter) = (Projection::all(), ReadMeter::default());
        let fetched = reader.fetch_row_group(group as usize, &all, Some(&selection), &meter).await.map_err(failed)?;
        cpu.run("decode_wal_rows", move || fetched.decode()).await?.map_err(failed)
    }
}

fn rows_of(table: &SpanTable, group: u32) -> impl Iterator<Item = Row> + '_ {
    let row = move |(row, &id)| Row { id, spans: table.spans_of_trace(row).len() as u32, group, row: row as u32 };
    table.traces.ids.iter().enumerate().map(row)
}

fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_key(|row| (row.id, row.group, row.row));
    rows
}
