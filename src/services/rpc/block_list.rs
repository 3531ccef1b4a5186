//! What is known of the blocks of a tenant without reading them.

use std::sync::Arc;

use async_trait::async_trait;

use super::search::TimeRange;
use crate::model::ids::TenantId;
use crate::tempodb::block::meta::BlockMeta;
use crate::tempodb::db::TempoDb;

/// The block list as last polled.
#[async_trait]
pub trait BlockList: Send + Sync + 'static {
    /// Returns the blocks that are not compacted away and may hold data of `range`, latest end first: together they hold everything once.
    fn live_blocks(&self, tenant: &TenantId, range: TimeRange) -> Vec<Arc<BlockMeta>>;

    /// Returns how many blocks of `range` a lookup of a trace must ask one by one; `None` when all, because the tenant has no trace filter.
    async fn blocks_without_filter(&self, tenant: &TenantId, range: TimeRange) -> Option<usize>;
}

#[async_trait]
impl BlockList for TempoDb {
    fn live_blocks(&self, tenant: &TenantId, range: TimeRange) -> Vec<Arc<BlockMeta>> {
        self.blocks_overlapping(tenant, range.seconds())
    }

    async fn blocks_without_filter(&self, tenant: &TenantId, range: TimeRange) -> Option<usize> {
        self.uncovered_blocks(tenant, range.seconds()).await
    }
}

pub type BlockListPort = Arc<dyn BlockList>;
