//! Opened blocks, kept for the next job: a footer is read and parsed once while its block is in use.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::model::ids::TenantId;
use crate::tempodb::backend::Backend;
use crate::tempodb::block::error::BlockReadError;
use crate::tempodb::block::meta::{BlockId, BlockMeta};
use crate::tempodb::block::read::{BlockReader, ReadMeter, ReadOptions};

/// Blocks kept open; the one opened first goes first. A parsed footer takes some 100 KB, so this is about 25 MB.
const MAX_OPEN_BLOCKS: usize = 256;

type Key = (TenantId, BlockId);

#[derive(Debug, Default)]
struct Kept {
    readers: HashMap<Key, Arc<BlockReader>>,
    order: VecDeque<Key>,
}

/// Opens blocks and keeps them.
#[derive(Debug)]
pub(super) struct OpenBlocks {
    backend: Backend,
    options: ReadOptions,
    kept: Mutex<Kept>,
}

impl OpenBlocks {
    pub(super) fn new(backend: Backend, options: ReadOptions) -> Self {
        Self { backend, options, kept: Mutex::default() }
    }

    /// Returns the reader of a block. Two callers at once may both open it; one of the readers is kept.
    pub(super) async fn open(
        &self,
        tenant: &TenantId,
        meta: &Arc<BlockMeta>,
        meter: &ReadMeter,
    ) -> Result<Arc<BlockReader>, BlockReadError> {
        let key = (tenant.clone(), meta.block_id);
        if let Some(reader) = self.kept.lock().readers.get(&key) {
            return Ok(Arc::clone(reader));
        }
        let reader = Arc::new(BlockReader::open(&self.backend, tenant, Arc::clone(meta), self.options.clone(), meter).await?);
        let mut kept = self.kept.lock();
        if kept.readers.insert(key.clone(), Arc::clone(&reader)).is_none() {
            kept.order.push_back(key);
        }
        if kept.order.len() > MAX_OPEN_BLOCKS
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.readers.remove(&oldest);
        }
        Ok(reader)
    }

    /// Drops a block that turned out to be unreadable or gone, so that the next job looks anew.
    pub(super) fn forget(&self, tenant: &TenantId, block: BlockId) {
        let key = (tenant.clone(), block);
        let mut kept = self.kept.lock();
        kept.readers.remove(&key);
        kept.order.retain(|known| *known != key);
    }
}
