//! Ends the life of blocks: marks those past their retention, deletes those that were replaced long enough ago, and clears away what crashed
//! writers left.
//!
//! Not here: which tenants, when (a role decides), the rule for recent data.
//!
//! Invariants
//! * Objects of a block are deleted only when it has been compacted for longer than the grace time, or when it never became visible.
//! * Objects directly below the tenant are not blocks and are never touched.

use std::sync::Arc;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use metrics::{counter, histogram};
use tokio::time::Instant;
use tracing::{info, warn};

use super::backend::BackendError;
use super::block::meta::BlockMeta;
use super::config::CompactionConfig;
use super::db::TempoDb;
use super::metrics as names;
use crate::model::ids::TenantId;

/// Blocks deleted at once: object stores limit requests per prefix.
const CONCURRENCY: usize = 8;

/// Told of each deleted block, so that it can drop what caches hold of it.
pub type DeletedBlockListener = Arc<dyn Fn(&TenantId, &BlockMeta) + Send + Sync>;

/// How long blocks live.
#[derive(Clone)]
pub struct RetentionSettings {
    /// Age of a block's end at which it is marked compacted: the tenant's override, else the configured one. Zero or less keeps blocks for ever.
    pub block_retention: SignedDuration,
    /// Time from there, or from compaction, to deletion.
    pub compacted_block_retention: SignedDuration,
    /// Age at which objects of a block that never became visible are deleted.
    pub orphan_age: SignedDuration,
    pub on_deleted: Option<DeletedBlockListener>,
}

impl From<&CompactionConfig> for RetentionSettings {
    fn from(config: &CompactionConfig) -> Self {
        let duration = |std: std::time::Duration| SignedDuration::try_from(std).unwrap_or(SignedDuration::MAX);
        Self {
            block_retention: duration(config.block_retention.to_std()),
            compacted_block_retention: duration(config.compacted_block_retention.to_std()),
            orphan_age: SignedDuration::from_hours(24),
            on_deleted: None,
        }
    }
}

/// What one run did to a tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetentionOutcome {
    /// Blocks marked compacted because of their age.
    pub marked: u64,
    /// Blocks deleted.
    pub deleted: u64,
    /// Blocks that never became visible and were deleted.
    pub orphans_deleted: u64,
    /// Blocks that could not be marked or deleted; the next run tries again.
    pub failed: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    #[error("cannot list the objects of tenant {tenant}")]
    List {
        tenant: TenantId,
        #[source]
        cause: BackendError,
    },
}

/// Applies retention to one tenant, over the block list as it stands.
///
/// A block that fails is logged, counted and left for the next run. Cancel-safe: what is half deleted keeps its meta until the end.
pub async fn expire(
    db: &TempoDb,
    tenant: &TenantId,
    settings: &RetentionSettings,
    now: Timestamp,
) -> Result<RetentionOutcome, RetentionError> {
    let started = Instant::now();
    let run = Run { db, tenant, settings, now };
    let mut outcome = RetentionOutcome::default();
    run.mark_expired(&mut outcome).await;
    run.delete_compacted(&mut outcome).await;
    let orphans = run.delete_orphans(&mut outcome).await;
    histogram!(names::RETENTION_DURATION).record(started.elapsed().as_secs_f64());
    if let Err(cause) = orphans {
        counter!(names::RETENTION_ERRORS).increment(1);
        return Err(RetentionError::List { tenant: tenant.clone(), cause });
    }
    Ok(outcome)
}

struct Run<'a> {
    db: &'a TempoDb,
    tenant: &'a TenantId,
    settings: &'a RetentionSettings,
    now: Timestamp,
}

impl Run<'_> {
    async fn mark_expired(&self, outcome: &mut RetentionOutcome) {
        if self.settings.block_retention <= SignedDuration::ZERO {
            return;
        }
        let blocks = self.db.block_list().blocks(self.tenant);
        // Owned, so that the future may move between threads.
        let is_expired = |meta: &&Arc<BlockMeta>| self.now.duration_since(meta.end_time) > self.settings.block_retention;
        let expired: Vec<_> = blocks.live.iter().filter(is_expired).cloned().collect();
        let marks = futures::stream::iter(expired).map(|meta| async move {
            // One that is gone meanwhile has been taken by a compaction or another run.
            let marked = match self.db.backend().mark_compacted(self.tenant, meta.block_id).await {
                Err(error) if !error.is_not_found() => Err(error),
                Ok(()) | Err(_) => Ok(()),
            };
            (meta, marked)
        });
        let mut marks = marks.buffer_unordered(CONCURRENCY);
        let mut marked = Vec::new();
        while let Some((meta, result)) = marks.next().await {
            match result {
                Ok(()) => marked.push(meta.block_id),
                Err(error) => self.report(&meta, &error, "block could not be marked for deletion", outcome),
            }
        }
        outcome.marked += marked.len() as u64;
        counter!(names::RETENTION_MARKED).increment(marked.len() as u64);
        self.db.block_list().mark_compacted(self.tenant, &marked, self.now);
    }

    async fn delete_compacted(&self, outcome: &mut RetentionOutcome) {
        let blocks = self.db.block_list().blocks(self.tenant);
        let grace = self.settings.compacted_block_retention;
        let due: Vec<_> = blocks.compacted.iter().filter(|block| self.now.duration_since(block.compacted_time) > grace).cloned().collect();
        let deletions = futures::stream::iter(due).map(|block| async move {
            let cleared = self.db.backend().clear_block(self.tenant, block.meta.block_id).await;
            (block, cleared)
        });
        let mut deletions = deletions.buffer_unordered(CONCURRENCY);
        while let Some((block, result)) = deletions.next().await {
            let meta = &block.meta;
            if let Err(error) = result {
                self.report(meta, &error, "compacted block could not be deleted", outcome);
                continue;
            }
            self.db.forget(meta.block_id);
            if let Some(listener) = &self.settings.on_deleted {
                listener(self.tenant, meta);
            }
            self.db.block_list().remove(self.tenant, meta.block_id);
            outcome.deleted += 1;
            counter!(names::RETENTION_DELETED).increment(1);
        }
    }

    /// Deletes blocks without any meta whose newest object is old enough: their writer crashed, and nobody knows of them.
    async fn delete_orphans(&self, outcome: &mut RetentionOutcome) -> Result<(), BackendError> {
        for block in self.db.backend().orphans(self.tenant, self.now, self.settings.orphan_age).await? {
            match self.db.backend().clear_block(self.tenant, block).await {
                Ok(()) => {
                    info!(tenant = %self.tenant, %block, "objects of a block that never became visible deleted");
                    outcome.orphans_deleted += 1;
                    counter!(names::ORPHANS_DELETED).increment(1);
                }
                Err(error) => {
                    outcome.failed += 1;
                    counter!(names::RETENTION_ERRORS).increment(1);
                    warn!(tenant = %self.tenant, %block, error = &error as &dyn std::error::Error, "orphaned block could not be deleted");
                }
            }
        }
        Ok(())
    }

    fn report(&self, meta: &BlockMeta, error: &BackendError, what: &'static str, outcome: &mut RetentionOutcome) {
        outcome.failed += 1;
        counter!(names::RETENTION_ERRORS).increment(1);
        warn!(tenant = %self.tenant, block = %meta.block_id, error = error as &dyn std::error::Error, what);
    }
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
