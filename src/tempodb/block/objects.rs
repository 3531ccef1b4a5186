//! The objects of one block as readers want them: from a cache when it has them, else from object storage.
//!
//! Ranges of `data.parquet` are cached as they are wanted (a footer, a dictionary, a data page, a whole chunk), not as requests join them: these
//! come from the file's own structure and are the same for every query.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;

use super::index::INDEX_NAME;
use super::meta::{BlockId, BlockMeta};
use super::read::ReadMeter;
use crate::model::ids::TenantId;
use crate::tempodb::backend::{Backend, BackendError};
use crate::tempodb::cache::{self, BlockCaches, CacheRole};
use crate::tempodb::keys::{self, DATA_NAME};

/// The objects of a block, read through the caches.
#[derive(Debug)]
pub(super) struct BlockObjects {
    backend: Backend,
    caches: Arc<BlockCaches>,
    tenant: TenantId,
    block: BlockId,
    data: Path,
}

impl BlockObjects {
    pub(super) fn new(backend: &Backend, caches: Arc<BlockCaches>, tenant: &TenantId, block: BlockId) -> Self {
        let data = keys::block_object(tenant, block, DATA_NAME);
        Self { backend: backend.clone(), caches, tenant: tenant.clone(), block, data }
    }

    /// Takes another file for `data.parquet`.
    pub(super) fn with_data(self, data: Path) -> Self {
        Self { data, ..self }
    }

    /// Returns the size of `data.parquet`.
    pub(super) async fn data_size(&self) -> Result<u64, BackendError> {
        Ok(self.backend.head(&self.data).await?.size_bytes)
    }

    pub(super) async fn bloom(&self, meta: &BlockMeta, shard: u32) -> Result<Bytes, BackendError> {
        let role = self.caches.caches_bloom_of(meta).then_some(CacheRole::Bloom);
        self.whole(role, &keys::bloom_name(shard)).await
    }

    pub(super) async fn index(&self) -> Result<Bytes, BackendError> {
        let role = self.caches.caches().has(CacheRole::TraceIdIndex).then_some(CacheRole::TraceIdIndex);
        self.whole(role, INDEX_NAME).await
    }

    async fn whole(&self, role: Option<CacheRole>, name: &str) -> Result<Bytes, BackendError> {
        let object = keys::block_object(&self.tenant, self.block, name);
        let Some(role) = role else { return self.backend.read(&object).await };
        let (caches, key) = (self.caches.caches(), cache::object_key(&self.tenant, self.block, name));
        if let Some(bytes) = caches.get(role, key.clone()).await {
            return Ok(bytes);
        }
        let bytes = self.backend.read(&object).await?;
        caches.count_missed_bytes(role, bytes.len() as u64);
        caches.put(role, key, &bytes);
        Ok(bytes)
    }

    /// Reads ranges of `data.parquet`, each under its role, in their order.
    pub(super) async fn ranges(&self, wanted: &[(CacheRole, Range<u64>)], meter: &ReadMeter) -> Result<Vec<Bytes>, BackendError> {
        let (mut buffers, keys) = self.cached_ranges(wanted, meter).await;
        let missing: Vec<usize> = (0..wanted.len()).filter(|&at| buffers[at].is_none()).collect();
        if !missing.is_empty() {
            let ranges: Vec<_> = missing.iter().map(|&at| wanted[at].1.clone()).collect();
            let (read, cost) = self.backend.read_ranges(&self.data, &ranges).await?;
            meter.add(cost);
            for (&at, bytes) in missing.iter().zip(read) {
                if let Some(key) = &keys[at] {
                    let role = wanted[at].0;
                    self.caches.caches().count_missed_bytes(role, bytes.len() as u64);
                    self.caches.caches().put(role, key.clone(), &bytes);
                }
                buffers[at] = Some(bytes);
            }
        }
        Ok(buffers.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// Returns what the caches have, and the key of each range that may be cached.
    async fn cached_ranges(&self, wanted: &[(CacheRole, Range<u64>)], meter: &ReadMeter) -> (Vec<Option<Bytes>>, Vec<Option<String>>) {
        let mut buffers = vec![None; wanted.len()];
        let key_of = |(role, range): &(CacheRole, Range<u64>)| {
            let is_cached = self.caches.caches_read(*role, range.end - range.start);
            is_cached.then(|| cache::range_key(&self.tenant, self.block, range))
        };
        let keys: Vec<_> = wanted.iter().map(key_of).collect();
        for role in CacheRole::ALL {
            let asked: Vec<usize> = (0..wanted.len()).filter(|&at| wanted[at].0 == role && keys[at].is_some()).collect();
            if asked.is_empty() {
                continue;
            }
            let asked_keys: Vec<String> = asked.iter().filter_map(|&at| keys[at].clone()).collect();
            for (at, value) in asked.into_iter().zip(self.caches.caches().get_many(role, &asked_keys).await) {
                let range = &wanted[at].1;
                // A value of another length is not what was stored here.
                buffers[at] = value.filter(|value| value.len() as u64 == range.end - range.start);
                if buffers[at].is_some() {
                    meter.add_cached(range.end - range.start);
                }
            }
        }
        (buffers, keys)
    }
}
