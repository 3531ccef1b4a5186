//! The database of one process: a backend and the list of its blocks.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, BackendError};
use super::block::bloom::BloomParams;
use super::block::dedicated::{self, DedicatedColumn};
use super::block::meta::{BlockMeta, META_NAME};
use super::config::TraceStorageConfig;
use crate::model::ids::TenantId;

pub struct TempoDb {
    backend: Backend,
    blocks: RwLock<HashMap<TenantId, Vec<Arc<BlockMeta>>>>,
}

impl TempoDb {
    pub async fn open(config: &TraceStorageConfig) -> Result<Arc<Self>, BackendError> {
        let backend = Backend::local(&config.local.path)?;
        Ok(Arc::new(Self { backend, blocks: RwLock::default() }))
    }

    pub async fn poll_first(&self) -> Result<(), BackendError> {
        for tenant in self.backend.tenants().await? {
            for id in self.backend.block_ids(&tenant).await?.live {
                let bytes = self.backend.read(&self.backend.block_key(&tenant, id, META_NAME)).await?;
                if let Ok(meta) = BlockMeta::from_json(&bytes) {
                    self.add_block(&tenant, meta);
                }
            }
        }
        Ok(())
    }

    pub async fn run(&self, stop: CancellationToken) {
        stop.cancelled().await;
    }

    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    pub fn add_block(&self, tenant: &TenantId, meta: BlockMeta) {
        self.blocks.write().entry(tenant.clone()).or_default().push(Arc::new(meta));
    }

    pub fn live_blocks(&self, tenant: &TenantId) -> Vec<Arc<BlockMeta>> {
        self.blocks.read().get(tenant).cloned().unwrap_or_default()
    }

    pub fn dedicated_columns(&self, _tenant: &TenantId) -> Vec<DedicatedColumn> {
        dedicated::default_columns()
    }

    pub fn bloom_params(&self) -> BloomParams {
        BloomParams::default()
    }
}
