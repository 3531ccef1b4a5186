//! A WAL block that is being written.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use metrics::{counter, histogram};
use object_store::path::Path;

use super::disk::{Disk, replace};
use super::error::WalError;
use super::file::{Source, WalFile};
use super::folder::WalFolder;
use super::view::WalView;
use super::{Wal, blocking, metrics as names};
use crate::base::cpu_pool::CpuPool;
use crate::model::combine::{Combiner, trace_order};
use crate::model::ids::TenantId;
use crate::model::span_table::SpanTable;
use crate::tempodb::backend::Backend;
use crate::tempodb::block::dedicated::{self, DedicatedColumn};
use crate::tempodb::block::encode::{EncodeSettings, RowOrder};
use crate::tempodb::block::estimate;
use crate::tempodb::block::meta::{BlockId, BlockMeta, BlockVersion, META_NAME, unset_time};
use crate::tempodb::block::write::{BlockEncoder, NewBlock, WriteError};

/// Pages of a WAL file: small, so that finding one row reads little.
const PAGE_BYTES: usize = 1024;

/// What is known of a WAL block before its first row.
#[derive(Debug, Clone)]
pub struct NewWalBlock {
    pub tenant: TenantId,
    /// Also that of the block it will become.
    pub id: BlockId,
    /// As configured; what the format cannot hold is left out.
    pub dedicated_columns: Vec<DedicatedColumn>,
    pub replication_factor: u32,
}

/// Start and end of rows, for the meta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    pub start: Timestamp,
    pub end: Timestamp,
}

/// A WAL block that takes rows. One writer; readers take a [`WalView`].
pub struct WalBlock {
    folder: PathBuf,
    /// Of the folder, in `backend`.
    name: String,
    backend: Backend,
    disk: Arc<dyn Disk>,
    cpu: CpuPool,
    tenant: TenantId,
    meta: BlockMeta,
    files: Vec<Arc<WalFile>>,
    pending: Vec<Arc<SpanTable>>,
    pending_bytes: usize,
    /// Of the file that the next flush writes.
    next_file: u64,
    /// A flush was dropped and may still be writing.
    is_broken: bool,
}

impl Wal {
    /// Creates the folder of a WAL block. Until the first flush a restart knows nothing of it.
    pub async fn create_block(&self, new: NewWalBlock) -> Result<WalBlock, WalError> {
        let version = BlockVersion::VParquet5;
        let name = WalFolder::new(new.id, new.tenant.clone(), version).name();
        let (folder, parent, disk) = (self.path.join(&name), self.path.clone(), Arc::clone(&self.disk));
        let created = folder.clone();
        blocking(move || {
            let made = disk.create_folder(&created).and_then(|()| disk.sync_folder(&parent));
            made.map_err(|cause| WalError::io("create", &created, cause))
        })
        .await?;
        let meta = BlockMeta {
            format: version.as_str().to_owned(),
            block_id: new.id,
            tenant_id: new.tenant.as_str().to_owned(),
            start_time: unset_time(),
            end_time: unset_time(),
            total_objects: 0,
            size_bytes: 0,
            compaction_level: 0,
            index_page_size: 0,
            total_records: 0,
            bloom_shards: 0,
            footer_size_bytes: 0,
            dedicated_columns: dedicated::filter_for_version(&new.dedicated_columns, version).into(),
            replication_factor: new.replication_factor,
        };
        Ok(WalBlock {
            folder,
            name,
            backend: self.backend.clone(),
            disk: Arc::clone(&self.disk),
            cpu: self.cpu.clone(),
            tenant: new.tenant,
            meta,
            files: Vec::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            next_file: 1,
            is_broken: false,
        })
    }
}

impl WalBlock {
    /// Takes rows. They are lost in a crash until [`Self::flush`] returns.
    pub fn append(&mut self, table: Arc<SpanTable>, times: TimeRange) {
        if table.trace_count() == 0 {
            return;
        }
        let is_first = self.meta.start_time == unset_time();
        self.meta.start_time = if is_first { times.start } else { self.meta.start_time.min(times.start) };
        self.meta.end_time = if is_first { times.end } else { self.meta.end_time.max(times.end) };
        self.pending_bytes += estimate::table_bytes(&table);
        self.pending.push(table);
    }

    /// Bytes of the files, and an estimate of what is not flushed: by this a block is cut.
    pub fn data_length(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum::<u64>() + self.pending_bytes as u64
    }

    /// Where the block lies, for [`Wal::drop_folder`].
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// What can be read now.
    pub fn view(&self) -> WalView {
        let meta = Arc::new(self.meta.clone());
        WalView { meta, files: self.files.clone(), pending: self.pending.clone(), cpu: self.cpu.clone() }
    }

    /// Makes all appended rows durable, as one file. After a failure they are still pending, and the next flush writes the same file.
    ///
    /// Not cancel-safe: after a dropped flush the block refuses further ones; its rows are read back after a restart.
    pub async fn flush(&mut self) -> Result<(), WalError> {
        if self.is_broken {
            return Err(WriteError::Broken(self.meta.block_id).into());
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        self.is_broken = true;
        let flushed = self.write_file().await;
        self.is_broken = false;
        let file = flushed?;
        counter!(names::FLUSHED_BYTES).increment(file.bytes);
        histogram!(names::FLUSH_DURATION).record(started.elapsed());
        self.files.push(Arc::new(file));
        self.meta.total_objects = self.files.iter().map(|file| file.rows.len() as i64).sum();
        self.pending.clear();
        self.pending_bytes = 0;
        self.next_file += 1;
        Ok(())
    }

    async fn write_file(&self) -> Result<WalFile, WalError> {
        let name = format!("{:010}", self.next_file);
        let key = Path::parse(format!("{}/{name}", self.name)).expect("tenant ids and block ids are path segments");
        let mut block = NewBlock::new(self.tenant.clone(), self.meta.block_id, 1);
        block.dedicated_columns = self.meta.dedicated_columns.to_vec();
        block.encode = EncodeSettings { page_size_bytes: PAGE_BYTES, row_order: RowOrder::Arrival, ..EncodeSettings::default() };
        let mut meta = self.meta.clone();
        let source = Source { backend: self.backend.clone(), tenant: self.tenant.clone(), meta: Arc::new(self.meta.clone()), key };
        let pending = self.pending.clone();
        let encode = move || {
            let table = in_order_of_arrival(&pending);
            let mut encoder = BlockEncoder::new(block, Vec::new())?;
            encoder.append(&table)?;
            let (bytes, _not_of_a_wal_file) = encoder.finish()?;
            Ok::<_, WriteError>((WalFile::written(source, bytes.len() as u64, &table), bytes))
        };
        let (file, bytes) = self.cpu.run("encode_wal_file", encode).await??;
        meta.total_objects += file.rows.len() as i64;
        let (disk, folder) = (Arc::clone(&self.disk), self.folder.clone());
        blocking(move || {
            let write = |name: &str, content: &[u8]| {
                let path = folder.join(name);
                replace(disk.as_ref(), &path, content).map_err(|cause| WalError::io("write", &path, cause))
            };
            write(META_NAME, &meta.to_json())?;
            write(&name, &bytes)
        })
        .await?;
        Ok(file)
    }
}

/// One table of all rows, each trace where its first piece arrived. A trace must be one row of a file: readers of the compatible system
/// find only one.
fn in_order_of_arrival(tables: &[Arc<SpanTable>]) -> SpanTable {
    let sources: Vec<&SpanTable> = tables.iter().map(AsRef::as_ref).collect();
    let order = trace_order(&sources);
    let mut traces: Vec<_> = order.chunk_by(|a, b| a.0 == b.0).collect();
    traces.sort_unstable_by_key(|pieces| (pieces[0].1.source, pieces[0].1.row));
    let mut combiner = Combiner::new(&sources);
    traces.into_iter().for_each(|pieces| combiner.push_trace(pieces));
    combiner.finish()
}
