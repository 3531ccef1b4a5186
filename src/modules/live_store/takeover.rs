//! Takes over what the compatible system left in its write-ahead log: WAL blocks and complete blocks that are not in the backend.
//!
//! Happens before the live-store is ready, so that no query misses a trace and memory is that of one WAL block at a time. Pushes wait for
//! nothing: the ingest log takes them meanwhile. A log of 1 GB takes some ten seconds a core.
//!
//! Invariants
//! * A folder goes only after the backend has its block, under the same id. A crash in between repeats the block, or finds it and skips.
//! * What fails stays where it is and is tried again at the next start; the rest is taken over, and the live-store starts.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use tracing::{error, info, warn};

use super::{LiveStore, LiveStoreError, metrics as names};
use crate::tempodb::block::write::NewBlock;
use crate::tempodb::wal::error::WalError;
use crate::tempodb::wal::local_blocks::{self, LocalBlock};
use crate::tempodb::wal::slices::DEFAULT_SLICE_BYTES;
use crate::tempodb::wal::{BlocksFolder, Wal, WalFolder, complete};

/// Where to look.
#[derive(Debug, Clone, Default)]
pub struct LeftBehind {
    /// Write-ahead log directories of the compatible system's live-store and ingester. Those that do not exist are not created.
    pub wal_paths: Vec<PathBuf>,
    /// Folder of the backend, when it is a local one: never taken for complete blocks of a log.
    pub backend_path: Option<PathBuf>,
}

impl LeftBehind {
    fn blocks_folder(&self, wal_path: &Path) -> BlocksFolder {
        let blocks = Wal::blocks_path(wal_path);
        let Some(backend) = &self.backend_path else { return BlocksFolder::Own };
        let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let (blocks, backend) = (real(&blocks), real(backend));
        if blocks.starts_with(&backend) || backend.starts_with(&blocks) { BlocksFolder::Foreign } else { BlocksFolder::Own }
    }
}

/// What became of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Replayed,
    Copied,
    AlreadyStored,
    Dropped,
    Failed,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Copied => "copied",
            Self::AlreadyStored => "already_stored",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }
}

impl LiveStore {
    /// Brings into the backend what is found in the directories of [`LeftBehind`]. Finding nothing, it leaves no trace.
    pub(super) async fn take_over(&self) -> Result<(), LiveStoreError> {
        for path in &self.left_behind.wal_paths {
            let (looked_at, blocks_folder) = (path.clone(), self.left_behind.blocks_folder(path));
            let found = blocking(move || Wal::holds_blocks(&looked_at, blocks_folder)).await;
            match found {
                Ok(false) => {}
                Ok(true) => {
                    let (path, cpu) = (path.clone(), self.cpu.clone());
                    let wal = blocking(move || Wal::open(&path, blocks_folder, cpu)).await?;
                    self.take_over_log(Arc::new(wal)).await?;
                }
                // The defaults name directories that may be somebody else's.
                Err(failure) => warn!(err = &failure as &dyn Error, "cannot look for blocks of an earlier system"),
            }
        }
        Ok(())
    }

    async fn take_over_log(&self, wal: Arc<Wal>) -> Result<(), LiveStoreError> {
        let started = Instant::now();
        let listed = Arc::clone(&wal);
        let (blocks, folders) = blocking(move || {
            listed.clear_tombstones()?;
            Ok((listed.local_blocks()?, listed.folders()?))
        })
        .await?;
        let mut left = blocks.len() + folders.len();
        info!(path = %wal.path().display(), wal_blocks = folders.len(), complete_blocks = blocks.len(), "taking over the blocks of an earlier system");
        // Complete blocks first: a WAL block that had just been completed is then found in the backend.
        for block in blocks {
            gauge!(names::TAKEOVER_BLOCKS_LEFT).set(left as f64);
            let taken = self.take_local_block(&wal, &block).await;
            self.finish(&wal, &block.path, taken).await;
            left -= 1;
        }
        for folder in folders {
            gauge!(names::TAKEOVER_BLOCKS_LEFT).set(left as f64);
            let taken = self.take_wal_block(&wal, &folder).await;
            self.finish(&wal, &wal.path_of(&folder), taken).await;
            left -= 1;
        }
        gauge!(names::TAKEOVER_BLOCKS_LEFT).set(0.0);
        info!(path = %wal.path().display(), seconds = started.elapsed().as_secs_f64(), "blocks of an earlier system are taken over");
        Ok(())
    }

    async fn take_local_block(&self, wal: &Arc<Wal>, block: &LocalBlock) -> Result<Outcome, WalError> {
        let looked_at = block.clone();
        let (is_flushed, is_unfinished) = blocking(move || Ok((looked_at.is_flushed(), looked_at.is_unfinished()))).await?;
        if is_unfinished {
            return Ok(Outcome::Dropped);
        }
        let (tenant, backend) = (&block.tenant, self.db.backend());
        if is_flushed || local_blocks::exists(backend, tenant, block.id).await? {
            return Ok(Outcome::AlreadyStored);
        }
        let local = wal.local_backend()?;
        let meta = local_blocks::check(&local, tenant, block.id).await?;
        local_blocks::copy(&local, backend, tenant, block.id).await?;
        self.db.block_list().add(tenant, Arc::new(meta));
        Ok(Outcome::Copied)
    }

    async fn take_wal_block(&self, wal: &Arc<Wal>, folder: &WalFolder) -> Result<Outcome, WalError> {
        let (tenant, backend) = (&folder.tenant, self.db.backend());
        if local_blocks::exists(backend, tenant, folder.block).await? {
            return Ok(Outcome::AlreadyStored);
        }
        let Some(view) = wal.replay(folder).await? else { return Ok(Outcome::Dropped) };
        let block = NewBlock {
            dedicated_columns: (self.new_blocks.dedicated_columns)(tenant),
            bloom: self.new_blocks.bloom,
            ..complete::new_block(tenant, &view)
        };
        match complete::complete(view, backend, block, DEFAULT_SLICE_BYTES).await? {
            Some(completion) => {
                self.db.block_list().add(tenant, Arc::new(completion.meta));
                Ok(Outcome::Replayed)
            }
            None => Ok(Outcome::Dropped),
        }
    }

    /// Removes what is done with. A failure leaves the folder for the next start.
    async fn finish(&self, wal: &Arc<Wal>, folder: &Path, taken: Result<Outcome, WalError>) {
        let (wal, removed, now) = (Arc::clone(wal), folder.to_owned(), self.clock.now_unix_nanos());
        let remove = move || {
            // Nobody reads these folders, so they need no grace.
            wal.drop_folder(&removed, now, Duration::ZERO)?;
            wal.reclaim(now);
            Ok(())
        };
        let outcome = match taken {
            Ok(outcome) => blocking(remove).await.map(|()| outcome),
            Err(failure) => Err(failure),
        };
        match &outcome {
            Ok(outcome) => info!(path = %folder.display(), outcome = outcome.as_str(), "block of an earlier system taken over"),
            Err(failure) => {
                error!(path = %folder.display(), err = failure as &dyn Error, "block of an earlier system could not be taken over; it stays");
            }
        }
        counter!(names::TAKEOVER_BLOCKS, "outcome" => outcome.unwrap_or(Outcome::Failed).as_str()).increment(1);
    }
}

async fn blocking<T: Send + 'static>(job: impl FnOnce() -> Result<T, WalError> + Send + 'static) -> Result<T, WalError> {
    tokio::task::spawn_blocking(job).await.map_err(|_| WalError::ShuttingDown)?
}
