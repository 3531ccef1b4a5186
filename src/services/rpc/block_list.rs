//! What is known of the blocks of a tenant without reading them.

use std::sync::Arc;

use super::search::TimeRange;
use crate::model::ids::TenantId;
use crate::tempodb::block::meta::BlockMeta;
use crate::tempodb::db::TempoDb;

/// The block list as last polled.
pub trait BlockList: Send + Sync + 'static {
    /// Returns the blocks that are not compacted away and may hold data of `range`, latest end first: together they hold everything once.
    fn live_blocks(&self, tenant: &TenantId, range: TimeRange) -> Vec<Arc<BlockMeta>>;

    /// Returns the live blocks and those compacted so recently that the list of another process may lag: nothing is missing in them, and some is twice.
    fn readable_blocks(&self, tenant: &TenantId) -> Vec<Arc<BlockMeta>> {
        self.live_blocks(tenant, TimeRange::default())
    }
}

impl BlockList for TempoDb {
    fn live_blocks(&self, tenant: &TenantId, range: TimeRange) -> Vec<Arc<BlockMeta>> {
        self.blocks_overlapping(tenant, range.seconds())
    }

    fn readable_blocks(&self, tenant: &TenantId) -> Vec<Arc<BlockMeta>> {
        self.blocks_for_lookup(tenant)
    }
}

pub type BlockListPort = Arc<dyn BlockList>;
