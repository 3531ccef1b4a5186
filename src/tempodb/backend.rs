//! Objects of tenants and blocks in an object store (tempodb, backend layout).
//!
//! ```text
//! [<prefix>/]<tenant>/<block id>/<object>      meta.json, data.parquet, bloom-N, index, …
//! [<prefix>/]<tenant>/index.pb.zst             tenant index, and index.json.gz
//! ```
//!
//! Not here: what is in the objects. Writing order and atomicity of blocks are the writer's matter.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use super::block::meta::{BlockId, COMPACTED_META_NAME, META_NAME};
use super::keys;
use super::tenant_index::{JSON_NAME, PROTO_NAME};
use crate::base::error_class::ErrorClass;
use crate::model::ids::TenantId;

/// Objects directly under the prefix that are not tenants.
const NOT_TENANTS: [&str; 2] = ["tempo_cluster_seed.json", "work.json"];

/// Ranges of one object closer than this are read with one request: below it, a round trip costs more than the bytes between.
const COALESCE_GAP_BYTES: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Clients of the compatible system match on this text.
    #[error("does not exist")]
    NotFound { key: String },
    #[error("cannot {operation} {key}")]
    Store {
        operation: &'static str,
        key: String,
        #[source]
        cause: object_store::Error,
    },
    #[error("read of {key} returned {read} bytes instead of {wanted}")]
    ShortRead { key: String, wanted: u64, read: u64 },
    #[error("cannot open the local backend at {path}")]
    Open {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
}

impl BackendError {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::Store { .. } | Self::ShortRead { .. } => ErrorClass::Unavailable,
            Self::Open { .. } => ErrorClass::Internal,
        }
    }
}

/// What a listing says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub size_bytes: u64,
    pub last_modified: Timestamp,
}

/// The ids of a tenant's blocks, from one listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIds {
    pub live: Vec<BlockId>,
    /// With the time their meta was replaced, which is the object's modification time.
    pub compacted: Vec<(BlockId, Timestamp)>,
    /// Blocks with a flag that forbids to compact them.
    pub no_compact: Vec<BlockId>,
    /// Names and times of objects of ours that stand directly below the tenant.
    pub own_objects: Vec<(String, Timestamp)>,
    /// Whether there is a tenant index.
    pub has_index: bool,
    /// When the youngest of all objects was written.
    pub youngest: Option<Timestamp>,
    /// Objects in folders that are not named like a block; nothing else makes us look at them.
    pub foreign_objects: usize,
}

/// An object store with the keys of the block format. Cheap to clone.
#[derive(Clone)]
pub struct Backend {
    store: Arc<dyn ObjectStore>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({})", self.store)
    }
}

impl Backend {
    /// `prefix` may hold slashes; empty for none.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        let prefix = Path::from(prefix);
        Self { store: if prefix.is_root() { store } else { Arc::new(PrefixStore::new(store, prefix)) } }
    }

    /// Opens a folder as backend and creates it when it is missing.
    pub fn local(path: impl Into<PathBuf>) -> Result<Self, BackendError> {
        let path = path.into();
        std::fs::create_dir_all(&path).map_err(|cause| BackendError::Open { path: path.clone(), cause })?;
        let store = LocalFileSystem::new_with_prefix(&path)
            .map_err(|cause| BackendError::Open { path, cause: std::io::Error::other(cause) })?
            // What a block replaces, such as the ingest log, is deleted once the block is written: it must be on disk by then.
            .with_fsync(true)
            .with_automatic_cleanup(true);
        Ok(Self::new(Arc::new(store), ""))
    }

    /// The store, keys of which begin with the tenant.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Reads a whole object.
    pub async fn read(&self, key: &Path) -> Result<Bytes, BackendError> {
        let got = self.store.get(key).await.map_err(|cause| store_error("read", key, cause))?;
        got.bytes().await.map_err(|cause| store_error("read", key, cause))
    }

    /// Reads `ranges` of an object, in their order; close ones share a request. Returns the buffers and what it cost.
    pub async fn read_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<(Vec<Bytes>, ReadCost), BackendError> {
        let requests = coalesce(ranges);
        let buffers = self.store.get_ranges(key, &requests).await.map_err(|cause| store_error("read", key, cause))?;
        let mut cost = ReadCost::default();
        for (request, buffer) in requests.iter().zip(&buffers) {
            let (wanted, read) = (request.end - request.start, buffer.len() as u64);
            if wanted != read {
                return Err(BackendError::ShortRead { key: key.to_string(), wanted, read });
            }
            cost.requests += 1;
            cost.bytes += read;
        }
        let slices = ranges.iter().map(|range| {
            let at = requests.partition_point(|request| request.end < range.end).min(requests.len().saturating_sub(1));
            match (requests.get(at), buffers.get(at)) {
                (Some(request), Some(buffer)) if !range.is_empty() => {
                    buffer.slice((range.start - request.start) as usize..(range.end - request.start) as usize)
                }
                _ => Bytes::new(),
            }
        });
        Ok((slices.collect(), cost))
    }

    pub async fn write(&self, key: &Path, bytes: impl Into<Bytes>) -> Result<(), BackendError> {
        let payload = PutPayload::from_bytes(bytes.into());
        self.store.put(key, payload).await.map(drop).map_err(|cause| store_error("write", key, cause))
    }

    /// Deletes an object; one that does not exist is fine.
    pub async fn delete(&self, key: &Path) -> Result<(), BackendError> {
        match self.store.delete(key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(cause) => Err(store_error("delete", key, cause)),
        }
    }

    /// Returns size and time of an object.
    pub async fn head(&self, key: &Path) -> Result<ObjectInfo, BackendError> {
        let meta = self.store.head(key).await.map_err(|cause| store_error("look at", key, cause))?;
        Ok(ObjectInfo { size_bytes: meta.size, last_modified: to_timestamp(&meta) })
    }

    /// Makes a live block compacted: its meta gets the other name. A block that already is stays so.
    pub async fn mark_compacted(&self, tenant: &TenantId, block: BlockId) -> Result<(), BackendError> {
        let from = keys::block_object(tenant, block, META_NAME);
        let to = keys::block_object(tenant, block, COMPACTED_META_NAME);
        // Copy, then delete: in between the block is in both lists, which readers expect. A rewrite gives the copy its own time.
        match self.read(&from).await {
            Ok(meta) => self.write(&to, meta).await?,
            Err(error) if error.is_not_found() => {
                self.head(&to).await?;
            }
            Err(error) => return Err(error),
        }
        self.delete(&from).await
    }

    /// Deletes every object of a block, its metas last, so that an interrupted deletion can be repeated.
    pub async fn clear_block(&self, tenant: &TenantId, block: BlockId) -> Result<(), BackendError> {
        let folder = keys::block_folder(tenant, block);
        let mut listed = self.store.list(Some(&folder));
        let (mut metas, mut others) = (Vec::new(), Vec::new());
        while let Some(object) = listed.next().await {
            let key = object.map_err(|cause| store_error("list", &folder, cause))?.location;
            let is_meta = [META_NAME, COMPACTED_META_NAME].contains(&key.filename().unwrap_or_default());
            if is_meta { metas.push(key) } else { others.push(key) }
        }
        for key in others.iter().chain(&metas) {
            self.delete(key).await?;
        }
        Ok(())
    }

    /// Returns the blocks of a tenant that have objects, but no meta, and whose newest object is older than `age`: what crashed writers left.
    pub async fn orphans(&self, tenant: &TenantId, now: Timestamp, age: SignedDuration) -> Result<Vec<BlockId>, BackendError> {
        let folder = keys::tenant_folder(tenant);
        let depth = folder.parts().count();
        let mut listed = self.store.list(Some(&folder));
        // `None`: the block has a meta.
        let mut newest: HashMap<BlockId, Option<Timestamp>> = HashMap::new();
        while let Some(object) = listed.next().await {
            let object = match object {
                Ok(object) => object,
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(cause) => return Err(store_error("list", &folder, cause)),
            };
            let mut parts = object.location.parts().skip(depth);
            let (Some(block), Some(name), None) = (parts.next(), parts.next(), parts.next()) else { continue };
            let Some(block) = BlockId::parse(block.as_ref()) else { continue };
            let is_meta = [META_NAME, COMPACTED_META_NAME].contains(&name.as_ref());
            let entry = newest.entry(block).or_insert(Some(Timestamp::MIN));
            *entry = if is_meta { None } else { entry.map(|time| time.max(to_timestamp(&object))) };
        }
        let orphans = newest.into_iter().filter(|(_, newest)| newest.is_some_and(|newest| now.duration_since(newest) > age));
        Ok(orphans.map(|(block, _)| block).collect())
    }

    /// Deletes every object of a tenant.
    pub async fn clear_tenant(&self, tenant: &TenantId) -> Result<(), BackendError> {
        let folder = keys::tenant_folder(tenant);
        let mut listed = self.store.list(Some(&folder));
        while let Some(object) = listed.next().await {
            let key = object.map_err(|cause| store_error("list", &folder, cause))?.location;
            self.delete(&key).await?;
        }
        Ok(())
    }

    /// Lists the tenants: the folders under the prefix that have a valid tenant name. Others are left out.
    pub async fn tenants(&self) -> Result<Vec<TenantId>, BackendError> {
        let listed = self.store.list_with_delimiter(None).await;
        let listed = listed.map_err(|cause| store_error("list", &Path::default(), cause))?;
        let names = listed.common_prefixes.iter().filter_map(|folder| folder.filename());
        Ok(names.filter(|name| !NOT_TENANTS.contains(name)).filter_map(parse_tenant).collect())
    }

    /// Lists the blocks of a tenant by their metas. Objects that belong to no block are counted and otherwise ignored.
    pub async fn block_ids(&self, tenant: &TenantId) -> Result<BlockIds, BackendError> {
        let folder = keys::tenant_folder(tenant);
        let depth = folder.parts().count();
        let mut listed = self.store.list(Some(&folder));
        let mut ids = BlockIds::default();
        while let Some(object) = listed.next().await {
            let object = match object {
                Ok(object) => object,
                // A file that is deleted while a folder is walked.
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(cause) => return Err(store_error("list", &folder, cause)),
            };
            let at = to_timestamp(&object);
            ids.youngest = ids.youngest.max(Some(at));
            let mut parts = object.location.parts().skip(depth);
            match (parts.next(), parts.next(), parts.next()) {
                (Some(block), Some(name), None) => match BlockId::parse(block.as_ref()) {
                    Some(id) if name.as_ref() == META_NAME => ids.live.push(id),
                    Some(id) if name.as_ref() == COMPACTED_META_NAME => ids.compacted.push((id, at)),
                    Some(id) if name.as_ref() == keys::NO_COMPACT_NAME => ids.no_compact.push(id),
                    Some(_) => {}
                    None => ids.foreign_objects += 1,
                },
                (Some(name), None, None) if name.as_ref().starts_with(keys::OWN_PREFIX) => {
                    ids.own_objects.push((name.as_ref().to_owned(), at));
                }
                (Some(name), None, None) => ids.has_index |= [PROTO_NAME, JSON_NAME].contains(&name.as_ref()),
                _ => ids.foreign_objects += 1,
            }
        }
        Ok(ids)
    }
}

/// What reading cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadCost {
    /// Requests to the store.
    pub requests: u64,
    /// Bytes requested.
    pub bytes: u64,
}

impl std::ops::AddAssign for ReadCost {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
    }
}

/// A folder name is a tenant only in exactly the form we would write.
fn parse_tenant(name: &str) -> Option<TenantId> {
    TenantId::parse(name).ok().filter(|tenant| tenant.as_str() == name)
}

/// Joins ranges that overlap or are close; ascending.
fn coalesce(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
    sorted.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(COALESCE_GAP_BYTES) => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

fn to_timestamp(meta: &object_store::ObjectMeta) -> Timestamp {
    let time = meta.last_modified;
    Timestamp::new(time.timestamp(), time.timestamp_subsec_nanos() as i32).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn store_error(operation: &'static str, key: &Path, cause: object_store::Error) -> BackendError {
    match cause {
        object_store::Error::NotFound { .. } => BackendError::NotFound { key: key.to_string() },
        cause => BackendError::Store { operation, key: key.to_string(), cause },
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).unwrap()
    }

    #[test]
    fn close_ranges_share_a_request() {
        let far = COALESCE_GAP_BYTES * 3;
        assert_eq!(coalesce(&[far..far + 5, 10..20, 15..18, 30..40, 7..7]), [10..40, far..far + 5]);
    }

    #[tokio::test]
    async fn ranges_come_back_in_the_order_asked_for() {
        let backend = Backend::new(Arc::new(InMemory::new()), "");
        let key = keys::tenant_object(&tenant("t"), "object");
        let content: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
        backend.write(&key, content.clone()).await.unwrap();
        let ranges = [150_000..150_010, 5..9, 7..20, 3..3, 0..200_000];
        let (buffers, _) = backend.read_ranges(&key, &ranges).await.unwrap();
        for (range, buffer) in ranges.iter().zip(buffers) {
            assert_eq!(buffer, content[range.start as usize..range.end as usize]);
        }
        let (_, cost) = backend.read_ranges(&key, &[0..10, 190_000..190_010]).await.unwrap();
        assert_eq!(cost, ReadCost { requests: 2, bytes: 20 });
    }

    #[tokio::test]
    async fn foreign_objects_are_neither_tenants_nor_blocks() {
        let store = Arc::new(InMemory::new());
        let backend = Backend::new(store.clone(), "some/prefix");
        let id = BlockId::random();
        let put = async |key: &str| store.put(&Path::from(format!("some/prefix/{key}")), "x".into()).await.unwrap();
        for key in
            ["work.json", "a/index.pb.zst", "a/not-a-block/meta.json", "a/x/y/z/meta.json", "tempo_cluster_seed.json", "b:c/x/meta.json"]
        {
            put(key).await;
        }
        put(&format!("a/{id}/meta.json")).await;
        put(&format!("a/{id}/data.parquet")).await;
        put(&format!("a/{}/meta.json", id.to_string().to_uppercase())).await;
        assert_eq!(backend.tenants().await.unwrap(), [tenant("a")]);
        let ids = backend.block_ids(&tenant("a")).await.unwrap();
        assert_eq!((ids.live, ids.compacted.len(), ids.foreign_objects), (vec![id], 0, 3));
    }

    #[tokio::test]
    async fn a_block_becomes_compacted_and_is_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let backend = Backend::local(folder.path()).unwrap();
        let (tenant, id) = (tenant("a"), BlockId::random());
        for object in [META_NAME, "data.parquet"] {
            backend.write(&keys::block_object(&tenant, id, object), object.to_owned()).await.unwrap();
        }
        for _repeated in 0..2 {
            backend.mark_compacted(&tenant, id).await.unwrap();
            let ids = backend.block_ids(&tenant).await.unwrap();
            assert_eq!((ids.live.len(), ids.compacted.len()), (0, 1));
        }
        assert!(backend.mark_compacted(&tenant, BlockId::random()).await.unwrap_err().is_not_found());
        backend.clear_block(&tenant, id).await.unwrap();
        assert_eq!(backend.block_ids(&tenant).await.unwrap(), BlockIds::default());
        assert!(!folder.path().join("a").join(id.to_string()).exists());
    }
}
