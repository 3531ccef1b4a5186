//! Brings a single block to another version or other dedicated columns. Blocks that differ in these never compact together, so after a change of
//! the configuration the old ones would stay apart until their retention.

use super::error::CompactionError;
use super::{CompactionOutcome, Compactor, RewriteTarget, count_failure};
use crate::model::ids::TenantId;
use crate::tempodb::block::dedicated;
use crate::tempodb::block::meta::{BlockId, BlockMeta};
use crate::tempodb::block::read::ReadMeter;
use crate::tempodb::block::write::NewBlock;

impl RewriteTarget {
    /// Whether a block differs from what it would be if it were written now.
    pub fn differs_from(&self, meta: &BlockMeta) -> bool {
        let columns = dedicated::filter_for_version(&self.dedicated_columns, self.version);
        meta.version().is_ok_and(|version| version != self.version) || meta.dedicated_columns[..] != columns[..]
    }
}

impl Compactor {
    /// Rewrites a block and marks it compacted. Its level stays: it has been merged no further than before, and shall meet the blocks of its
    /// level that are written now. A block that is as it should be is left alone, and the outcome has no output.
    ///
    /// Fails for a block that is held back. Dropping the future cancels, as in [`Compactor::compact`].
    pub async fn rewrite(&self, tenant: &TenantId, block: BlockId, target: &RewriteTarget) -> Result<CompactionOutcome, CompactionError> {
        let outcome = self.rewrite_block(tenant, block, target).await;
        count_failure(&outcome);
        outcome
    }

    async fn rewrite_block(&self, tenant: &TenantId, block: BlockId, target: &RewriteTarget) -> Result<CompactionOutcome, CompactionError> {
        let meta = self.read_free_meta(tenant, block).await?;
        if !target.differs_from(&meta) {
            return Ok(CompactionOutcome::default());
        }
        let level = meta.compaction_level;
        let reader = self.open_input(tenant, meta, &ReadMeter::default()).await?;
        let like = self.output_like(tenant, std::slice::from_ref(&reader), level, &target.settings);
        let output = NewBlock { version: target.version, dedicated_columns: target.dedicated_columns.clone(), ..like };
        self.replace(tenant, vec![reader], Vec::new(), output, &target.settings).await
    }
}
