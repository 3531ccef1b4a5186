//! Writing runs: entries to shards, shards to an object.

use std::ops::Range;
use std::sync::Arc;

use object_store::{ObjectStoreExt as _, WriteMultipart};

use super::TraceFilterError;
use super::manifest::RunInfo;
use super::run::{MAGIC, RunHeader, widths_for};
use super::shard::{Entry, pack};
use crate::base::cpu_pool::CpuPool;
use crate::model::ids::TenantId;
use crate::tempodb::backend::Backend;
use crate::tempodb::block::meta::{BlockId, BlockMeta};
use crate::tempodb::keys;

/// Smaller objects are written by one request, larger ones in parts of this size.
const PART_BYTES: usize = 8 << 20;
/// Parts that are uploaded at the same time.
const PARTS_AT_ONCE: usize = 2;

/// Packs the entries of a range of shards, which are sorted and different, and notes the shards in the header.
pub(super) fn pack_shards(header: &mut RunHeader, shards: Range<usize>, mut entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * 4);
    for shard in shards {
        let end = header.widths.first_hash(shard + 1);
        let (of_shard, rest) = entries.split_at(entries.partition_point(|entry| entry.hash() < end));
        let packed = pack(header.widths, shard, of_shard);
        header.add_shard(of_shard, &packed);
        bytes.extend_from_slice(&packed);
        entries = rest;
    }
    debug_assert!(entries.is_empty(), "all entries belong to the shards");
    bytes
}

/// Writes a run of entries that are in memory. Their block numbers are positions in `blocks`.
pub(super) async fn write_run(
    backend: &Backend,
    cpu: &CpuPool,
    tenant: &TenantId,
    day: i64,
    blocks: &[Arc<BlockMeta>],
    mut entries: Vec<Entry>,
) -> Result<RunInfo, TraceFilterError> {
    let ids: Vec<BlockId> = blocks.iter().map(|meta| meta.block_id).collect();
    let packed = move || {
        entries.sort_unstable();
        entries.dedup();
        let widths = widths_for(entries.len() as u64, ids.len());
        let mut header = RunHeader::new(widths, ids);
        let bytes = pack_shards(&mut header, 0..1 << widths.shard_bits, &entries);
        (header, bytes)
    };
    let (header, bytes) = cpu.run("pack_trace_filter", packed).await?;
    let mut writer = RunWriter::new(backend, tenant, day);
    writer.push(&bytes).await?;
    writer.finish(header, times_of(blocks.iter().map(Arc::as_ref))).await
}

/// Returns the range of times that blocks may hold data of, in seconds.
pub(super) fn times_of<'a>(blocks: impl Iterator<Item = &'a BlockMeta>) -> (i64, i64) {
    blocks.fold((i64::MAX, i64::MIN), |(first, last), meta| {
        let (start, end) = (meta.start_time.as_second(), meta.end_time.as_second());
        // A start after the end, which blocks of late data have, says nothing.
        (first.min(if start > end { i64::MIN } else { start }), last.max(end))
    })
}

/// An object under construction. Dropped without [`RunWriter::finish`], it leaves nothing that anybody reads.
pub(super) struct RunWriter<'a> {
    backend: &'a Backend,
    tenant: &'a TenantId,
    name: String,
    day: i64,
    buffer: Vec<u8>,
    upload: Option<WriteMultipart>,
    written: u64,
}

impl<'a> RunWriter<'a> {
    pub(super) fn new(backend: &'a Backend, tenant: &'a TenantId, day: i64) -> Self {
        let written = MAGIC.len() as u64;
        Self { backend, tenant, name: RunInfo::new_name(day), day, buffer: MAGIC.to_vec(), upload: None, written }
    }

    pub(super) async fn push(&mut self, bytes: &[u8]) -> Result<(), TraceFilterError> {
        self.written += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < PART_BYTES {
            return Ok(());
        }
        let mut upload = match self.upload.take() {
            Some(upload) => upload,
            None => {
                let key = keys::tenant_object(self.tenant, &self.name);
                let upload = self.backend.store().put_multipart(&key).await.map_err(|cause| self.failed(cause))?;
                WriteMultipart::new_with_chunk_size(upload, PART_BYTES)
            }
        };
        upload.wait_for_capacity(PARTS_AT_ONCE).await.map_err(|cause| self.failed(cause))?;
        upload.write(&self.buffer);
        self.buffer.clear();
        self.upload = Some(upload);
        Ok(())
    }

    /// Writes the header and returns the run as a manifest names it.
    pub(super) async fn finish(mut self, header: RunHeader, times: (i64, i64)) -> Result<RunInfo, TraceFilterError> {
        debug_assert_eq!(header.shards.last().map(|last| last.range().end), Some(self.written));
        let encoded = header.encode();
        self.buffer.extend_from_slice(&encoded);
        match self.upload.take() {
            Some(mut upload) => {
                upload.write(&self.buffer);
                upload.finish().await.map_err(|cause| self.failed(cause))?;
            }
            None => {
                let bytes = std::mem::take(&mut self.buffer);
                self.backend.write(&keys::tenant_object(self.tenant, &self.name), bytes).await?;
            }
        }
        let header_bytes = encoded.len() as u64;
        let size_bytes = self.written + header_bytes;
        Ok(RunInfo { name: self.name, day: self.day, size_bytes, header_bytes, entries: header.entries, start: times.0, end: times.1 })
    }

    fn failed(&self, cause: object_store::Error) -> TraceFilterError {
        TraceFilterError::Upload { name: self.name.clone(), cause }
    }
}
