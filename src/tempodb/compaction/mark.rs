//! Marks inputs compacted: the step after which a block's spans are asked from its successor.

use std::time::Duration;

use futures::{StreamExt, stream};
use rand::Rng;
use tracing::warn;

use super::Compactor;
use crate::model::ids::TenantId;
use crate::tempodb::backend::{Backend, BackendError};
use crate::tempodb::block::meta::BlockId;
use crate::tempodb::clock::timestamp;

/// Attempts per block, beside the retries of the store's client.
const ATTEMPTS: u32 = 4;
/// Pause after the first failed attempt; doubles. The real pause is between half of it and all of it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Blocks marked at once.
const CONCURRENCY: usize = 4;

/// Inputs that are still live, and why the first of them is.
#[derive(Debug)]
pub struct MarkFailure {
    pub unmarked: Vec<BlockId>,
    pub cause: BackendError,
}

impl Compactor {
    /// Marks blocks compacted in the backend and in the block list. One that is compacted or gone already is fine. May be repeated.
    ///
    /// Cancel-safe: a dropped call has marked some of them.
    pub async fn mark_compacted(&self, tenant: &TenantId, blocks: &[BlockId]) -> Result<(), MarkFailure> {
        let outcome = self.mark_in_backend(tenant, blocks).await;
        let unmarked = outcome.as_ref().err().map(|failure| failure.unmarked.as_slice()).unwrap_or_default();
        let marked: Vec<BlockId> = blocks.iter().filter(|block| !unmarked.contains(block)).copied().collect();
        self.db.block_list().mark_compacted(tenant, &marked, timestamp(&self.clock));
        outcome
    }

    pub(super) async fn mark_in_backend(&self, tenant: &TenantId, blocks: &[BlockId]) -> Result<(), MarkFailure> {
        let backend = self.db.backend();
        let marks = stream::iter(blocks.to_vec()).map(|block| async move { (block, mark_with_retries(backend, tenant, block).await) });
        let outcomes: Vec<_> = marks.buffer_unordered(CONCURRENCY).collect().await;
        let failures: Vec<_> = outcomes.into_iter().filter_map(|(block, outcome)| Some((block, outcome.err()?))).collect();
        let unmarked: Vec<BlockId> = failures.iter().map(|(block, _)| *block).collect();
        match failures.into_iter().next() {
            Some((_, cause)) => Err(MarkFailure { unmarked, cause }),
            None => Ok(()),
        }
    }
}

async fn mark_with_retries(backend: &Backend, tenant: &TenantId, block: BlockId) -> Result<(), BackendError> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        match backend.mark_compacted(tenant, block).await {
            Ok(()) => return Ok(()),
            // Another job or retention was faster.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(error) => warn!(%tenant, %block, attempt, error = &error as &dyn std::error::Error, "block could not be marked compacted"),
        }
        let jitter = rand::rng().random_range(0.5..=1.0);
        tokio::time::sleep(pause.mul_f64(jitter)).await;
        pause *= 2;
    }
    Ok(())
}
