//! Complete blocks that are kept beside the write-ahead log: `blocks/<tenant>/<block id>/…`, the same objects as in the backend.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use futures::TryStreamExt;
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{ObjectStoreExt, WriteMultipart};

use super::disk::replace;
use super::error::WalError;
use super::{BlocksFolder, TOMBSTONE_NAME, Wal, entries};
use crate::model::ids::TenantId;
use crate::tempodb::backend::{Backend, BackendError};
use crate::tempodb::block::bloom;
use crate::tempodb::block::index::INDEX_NAME;
use crate::tempodb::block::meta::{BlockId, BlockMeta, COMPACTED_META_NAME, META_NAME};
use crate::tempodb::block::read::{BlockReader, ReadMeter, ReadOptions};
use crate::tempodb::keys::{self, DATA_NAME, NO_COMPACT_NAME};

/// Tells that the block is in the backend, and since when.
const FLUSHED_NAME: &str = "flushed";
/// Parts of a copy in flight.
const UPLOADS_IN_FLIGHT: usize = 4;

/// The folder of a complete block.
#[derive(Debug, Clone)]
pub struct LocalBlock {
    pub tenant: TenantId,
    pub id: BlockId,
    pub path: PathBuf,
}

impl Wal {
    /// Where complete blocks are written to and read from.
    pub fn local_backend(&self) -> Result<Backend, WalError> {
        Ok(Backend::local(Self::blocks_path(&self.path))?)
    }

    /// Lists the folders named like a block of a tenant, complete or not. Blocks.
    pub fn local_blocks(&self) -> Result<Vec<LocalBlock>, WalError> {
        let root = Self::blocks_path(&self.path);
        let mut blocks = Vec::new();
        if self.blocks_folder == BlocksFolder::Foreign {
            return Ok(blocks);
        }
        for name in entries(&root)? {
            let Some(tenant) = TenantId::parse(&name).ok().filter(|tenant| tenant.as_str() == name) else { continue };
            for block in entries(&root.join(&name))? {
                if let Some(id) = BlockId::parse(&block) {
                    blocks.push(LocalBlock { tenant: tenant.clone(), id, path: root.join(&name).join(block) });
                }
            }
        }
        Ok(blocks)
    }

    /// Notes that a complete block is in the backend. Blocks.
    pub fn mark_flushed(&self, block: &LocalBlock, when: Timestamp) -> Result<(), WalError> {
        let path = block.path.join(FLUSHED_NAME);
        replace(self.disk.as_ref(), &path, when.to_string().as_bytes()).map_err(|cause| WalError::io("write", &path, cause))
    }
}

impl LocalBlock {
    /// Whether the block is in the backend. Blocks.
    pub fn is_flushed(&self) -> bool {
        self.path.join(FLUSHED_NAME).exists()
    }

    /// Whether the block was never finished: it has no meta. Blocks.
    pub fn is_unfinished(&self) -> bool {
        let is_missing = |name: &&str| std::fs::metadata(self.path.join(name)).is_err_and(|error| error.kind() == ErrorKind::NotFound);
        [META_NAME, COMPACTED_META_NAME, TOMBSTONE_NAME].iter().all(is_missing)
    }
}

/// Whether the backend has the block, live or compacted.
pub async fn exists(backend: &Backend, tenant: &TenantId, id: BlockId) -> Result<bool, BackendError> {
    for name in [META_NAME, COMPACTED_META_NAME] {
        match backend.head(&keys::block_object(tenant, id, name)).await {
            Ok(_) => return Ok(true),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Reads the meta of a block and checks what can be checked without decoding spans: sizes, footer, columns, bloom filters.
pub async fn check(backend: &Backend, tenant: &TenantId, id: BlockId) -> Result<BlockMeta, WalError> {
    let invalid = |problem: String| WalError::InvalidBlock(id.to_string(), problem);
    let bytes = backend.read(&keys::block_object(tenant, id, META_NAME)).await?;
    let meta = BlockMeta::from_json(&bytes).map_err(|error| invalid(error.to_string()))?;
    if meta.block_id != id || meta.tenant_id != tenant.as_str() {
        return Err(invalid("its meta belongs to another block".to_owned()));
    }
    let data = backend.head(&keys::block_object(tenant, id, DATA_NAME)).await?.size_bytes;
    if data != meta.size_bytes {
        return Err(invalid(format!("meta says {} bytes, {DATA_NAME} has {data}", meta.size_bytes)));
    }
    let opened = BlockReader::open(backend, tenant, Arc::new(meta.clone()), ReadOptions::default(), &ReadMeter::default()).await;
    opened.map_err(|cause| WalError::read(keys::block_object(tenant, id, DATA_NAME).to_string(), cause))?;
    for shard in 0..bloom::effective_shards(meta.bloom_shards) {
        backend.head(&keys::block_object(tenant, id, &keys::bloom_name(shard))).await?;
    }
    Ok(meta)
}

/// Copies a block, its meta last. Repeating it after a crash writes the same objects again.
pub async fn copy(from: &Backend, to: &Backend, tenant: &TenantId, id: BlockId) -> Result<(), WalError> {
    let folder = keys::block_folder(tenant, id);
    let listed = from.store().list(Some(&folder)).try_collect::<Vec<_>>().await;
    let failed = |operation, key: &Path, cause| BackendError::Store { operation, key: key.to_string(), cause };
    let objects = listed.map_err(|cause| failed("list", &folder, cause))?;
    let data = keys::block_object(tenant, id, DATA_NAME);
    let stream = from.store().get(&data).await.map_err(|cause| failed("read", &data, cause))?.into_stream();
    let upload = to.store().put_multipart(&data).await.map_err(|cause| failed("write", &data, cause))?;
    let mut upload = WriteMultipart::new(upload);
    let copied = async {
        futures::pin_mut!(stream);
        while let Some(part) = stream.try_next().await? {
            upload.wait_for_capacity(UPLOADS_IN_FLIGHT).await?;
            upload.put(part);
        }
        upload.finish().await
    };
    copied.await.map_err(|cause| failed("copy", &data, cause))?;
    for object in objects {
        let name = object.location.filename().unwrap_or_default();
        if is_copied(name) {
            to.write(&object.location, from.read(&object.location).await?).await?;
        }
    }
    let meta = keys::block_object(tenant, id, META_NAME);
    Ok(to.write(&meta, from.read(&meta).await?).await?)
}

/// Whether an object belongs to the block wherever it is, besides data and meta.
fn is_copied(name: &str) -> bool {
    [NO_COMPACT_NAME, INDEX_NAME].contains(&name) || name.starts_with("bloom-") || name.starts_with("tempo-rs.")
}
