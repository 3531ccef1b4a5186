//! Entry points for fuzzing: each takes foreign bytes of one kind and reads them as far as it goes. Errors are fine, panics are not.
//!
//! Only in tests and with the feature `fuzzing`; `fuzz/` has the targets for libFuzzer. A crasher becomes a file in
//! `testdata/fuzz/<target>/`, which [`smoke`] replays.

#[cfg(test)]
mod seeds;
#[cfg(test)]
mod smoke;

use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;
use uuid::Uuid;

use super::backend::Backend;
use super::block::bloom::BloomShard;
use super::block::index::RowGroupIndex;
use super::block::meta::{BlockId, BlockMeta, BlockVersion, CompactedBlockMeta, unset_time};
use super::block::projection::Projection;
use super::block::read::{BlockReader, ReadMeter, ReadOptions};
use super::block::selection::RowSelection;
use super::block::{dedicated, fuzz as pages, side};
use super::keys::{DATA_NAME, block_object};
use super::tenant_index::TenantIndex;
use super::trace_filter;
use super::wal::WalFolder;
use crate::model::ids::{TenantId, TraceId};

/// Reads bytes of one kind.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Target); 13] = [
    ("block_meta", block_meta),
    ("row_group_index", row_group_index),
    ("bloom_shard", bloom_shard),
    ("tenant_index_proto", tenant_index_proto),
    ("tenant_index_json", tenant_index_json),
    ("parquet_file", parquet_file),
    ("data_pages", data_pages),
    ("wal_folder", wal_folder),
    ("side_pruning", side_pruning),
    ("side_tags", side_tags),
    ("trace_filter_manifest", trace_filter_manifest),
    ("trace_filter_header", trace_filter_header),
    ("trace_filter_shard", trace_filter_shard),
];

const ANY_ID: TraceId = TraceId([7; 16]);

/// `meta.json` of a block, live or compacted.
pub fn block_meta(bytes: &[u8]) {
    if let Ok(meta) = BlockMeta::from_json(bytes) {
        let again = BlockMeta::from_json(&meta.to_json()).expect("what we write can be read");
        assert_eq!(meta, again);
        let _unknown = meta.version();
    }
    let _broken = serde_json::from_slice::<CompactedBlockMeta>(bytes);
}

/// The object `index`.
pub fn row_group_index(bytes: &[u8]) {
    if let Ok(index) = RowGroupIndex::from_json(bytes) {
        let _none = index.row_group_of(ANY_ID);
    }
}

/// An object `bloom-N`.
pub fn bloom_shard(bytes: &[u8]) {
    if let Ok(shard) = BloomShard::decode(bytes) {
        let _either = shard.may_contain(ANY_ID);
        assert_eq!(shard.encode(), bytes);
    }
}

/// `index.pb.zst`, as it stands and before compression.
pub fn tenant_index_proto(bytes: &[u8]) {
    let _broken = TenantIndex::from_proto_zstd(bytes);
    if let Ok(packed) = zstd::bulk::compress(bytes, 1) {
        written_and_read(TenantIndex::from_proto_zstd(&packed).ok());
    }
}

/// `index.json.gz`, as it stands and before compression.
pub fn tenant_index_json(bytes: &[u8]) {
    let _broken = TenantIndex::from_json_gzip(bytes);
    written_and_read(serde_json::from_slice(bytes).ok());
}

fn written_and_read(index: Option<TenantIndex>) {
    let Some(index) = index else { return };
    let again = TenantIndex::from_proto_zstd(&index.to_proto_zstd()).expect("what we write can be read");
    assert_eq!(again, index);
    let again = TenantIndex::from_json_gzip(&index.to_json_gzip()).expect("what we write can be read");
    assert_eq!(again, index);
}

/// A whole `data.parquet`: footer, page indexes, a lookup, some rows, and all columns of all row groups. Checksums are not compared, so that
/// broken pages reach the decoders.
pub fn parquet_file(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without I/O needs nothing");
    runtime.block_on(async {
        for version in BlockVersion::ALL {
            // Most files fit one version only.
            if let Some(reader) = open(bytes, version).await {
                read_all(&reader).await;
            }
        }
    });
}

async fn read_all(reader: &BlockReader) {
    let meter = ReadMeter::default();
    for group in 0..reader.row_groups() {
        let _broken = reader.read_row_group(group, &Projection::all(), None, &meter).await;
        let middle = reader.rows(group) / 2;
        let some = RowSelection::from_range(middle..middle + 1);
        let _broken = reader.read_row_group(group, &Projection::all(), Some(&some), &meter).await;
    }
    if let Ok(Some(found)) = reader.fetch_trace(ANY_ID, &meter).await {
        let _broken = found.decode();
    }
}

/// Opens a block of one object.
async fn open(data: &[u8], version: BlockVersion) -> Option<BlockReader> {
    let (tenant, id) = (TenantId::single(), BlockId(Uuid::nil()));
    let backend = Backend::new(Arc::new(InMemory::new()), "");
    let written = backend.write(&block_object(&tenant, id, DATA_NAME), Bytes::copy_from_slice(data)).await;
    written.expect("memory takes everything");
    let (options, meter) = (ReadOptions { verify_checksums: false, ..ReadOptions::default() }, ReadMeter::default());
    BlockReader::open(&backend, &tenant, Arc::new(meta_of(version, id, &tenant)), options, &meter).await.ok()
}

/// A meta that leaves all sizes to the file.
fn meta_of(version: BlockVersion, block_id: BlockId, tenant: &TenantId) -> BlockMeta {
    BlockMeta {
        format: version.as_str().to_owned(),
        block_id,
        tenant_id: tenant.to_string(),
        start_time: unset_time(),
        end_time: unset_time(),
        total_objects: 0,
        size_bytes: 0,
        compaction_level: 0,
        index_page_size: 0,
        total_records: 0,
        bloom_shards: 0,
        footer_size_bytes: 0,
        dedicated_columns: dedicated::default_columns().into(),
        replication_factor: 1,
    }
}

/// Pages of one column chunk; see [`pages::decode`] for the first bytes.
pub fn data_pages(bytes: &[u8]) {
    pages::decode(bytes);
}

/// Name and `meta.json` of a WAL folder, one after the other, parted by a line end.
pub fn wal_folder(bytes: &[u8]) {
    let (name, meta) = match bytes.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[][..]),
    };
    if let Ok(name) = std::str::from_utf8(name)
        && let Some(folder) = WalFolder::parse(name)
    {
        assert_eq!(folder.name(), name);
    }
    block_meta(meta);
}

/// `tempo-rs.pruning`.
pub fn side_pruning(bytes: &[u8]) {
    side::fuzz::pruning(bytes);
}

/// `tempo-rs.tags`.
pub fn side_tags(bytes: &[u8]) {
    side::fuzz::tags(bytes);
}

/// `tempo-rs.ids.manifest`.
pub fn trace_filter_manifest(bytes: &[u8]) {
    trace_filter::fuzz::manifest(bytes);
}

/// The header of a run of the trace filter.
pub fn trace_filter_header(bytes: &[u8]) {
    trace_filter::fuzz::run_header(bytes);
}

/// A shard of a run of the trace filter.
pub fn trace_filter_shard(bytes: &[u8]) {
    trace_filter::fuzz::shard(bytes);
}
