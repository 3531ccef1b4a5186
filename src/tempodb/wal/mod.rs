//! The write-ahead log of roles that have no ingest log of their own to come back to: rows on local disk until they are a block.
//!
//! ```text
//! <path>/
//!   lock                                    held while the directory is open
//!   <block id>+<tenant>+<version>/          one folder a WAL block
//!     meta.json                             written anew before every file
//!     0000000001, 0000000002, …             one Parquet file a flush, rows in order of arrival
//!     meta.deleted.json                     tombstone: meta.json renamed
//!   blocks/<tenant>/<block id>/…            complete blocks that are kept here, and `flushed` once they are in the backend
//! ```
//!
//! With the embedded ingest log that log is the write-ahead log, and none is written here; `all` only reads what the compatible system
//! left ([`Wal::replay`], [`complete`]).
//!
//! Invariants
//! * A row is durable when [`head::WalBlock::flush`] returns. Files appear under their name whole or not at all, so a file that is there is flushed.
//! * Files can be read by the compatible system: they are written by the encoder of blocks, with all columns of the version.
//! * A folder is dropped by renaming its meta first. Whatever is interrupted afterwards, the next start removes the rest and reads none of it.
//! * Nothing is read as a whole: see [`slices`] for the memory that completing a block takes.

pub mod error;
mod disk;
mod folder;
mod file;
pub mod view;
pub mod slices;
pub mod head;
mod replay;
pub mod complete;
pub mod local_blocks;
mod metrics;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::metrics::gauge;
use parking_lot::Mutex;
use tracing::warn;

use self::disk::{Disk, RealDisk};
use self::error::WalError;
pub use self::folder::WalFolder;
use self::metrics as names;
use crate::base::cpu_pool::CpuPool;
use crate::base::directory_lock::{DirectoryLock, LOCK_NAME};
use crate::tempodb::backend::Backend;
use crate::tempodb::block::meta::META_NAME;

/// The meta of a dropped folder.
const TOMBSTONE_NAME: &str = "meta.deleted.json";
/// Folder of complete blocks.
const BLOCKS_NAME: &str = "blocks";

/// An open write-ahead log directory.
pub struct Wal {
    path: PathBuf,
    /// Over `path`; reads only.
    backend: Backend,
    disk: Arc<dyn Disk>,
    cpu: CpuPool,
    blocks_folder: BlocksFolder,
    /// Dropped folders and the time (Unix nanoseconds) at which they are removed.
    tombstones: Mutex<Vec<(u64, PathBuf)>>,
    _lock: DirectoryLock,
}

/// Whose the folder `blocks` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlocksFolder {
    /// It holds complete blocks of this log.
    Own,
    /// It is something else, such as the backend itself: it is not looked into, and nothing of it is ever removed.
    Foreign,
}

impl Wal {
    /// Opens the directory, creating it when it is missing. Blocks.
    ///
    /// # Errors
    /// [`WalError::Locked`] when another process has it open.
    pub fn open(path: &Path, blocks_folder: BlocksFolder, cpu: CpuPool) -> Result<Self, WalError> {
        Self::open_with(path, blocks_folder, cpu, Arc::new(RealDisk))
    }

    fn open_with(path: &Path, blocks_folder: BlocksFolder, cpu: CpuPool, disk: Arc<dyn Disk>) -> Result<Self, WalError> {
        names::describe();
        let backend = Backend::local(path)?;
        let lock = DirectoryLock::acquire(path).map_err(|failure| WalError::lock(path, failure))?;
        Ok(Self { path: path.to_owned(), backend, disk, cpu, blocks_folder, tombstones: Mutex::default(), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a log at `path` has its complete blocks.
    pub fn blocks_path(path: &Path) -> PathBuf {
        path.join(BLOCKS_NAME)
    }

    /// Whether there is anything to read back below `path`: a WAL block or a complete block. Looks without locking. Blocks.
    pub fn holds_blocks(path: &Path, blocks_folder: BlocksFolder) -> Result<bool, WalError> {
        let has_wal_block = entries(path)?.iter().any(|name| WalFolder::parse(name).is_some());
        if has_wal_block || blocks_folder == BlocksFolder::Foreign {
            return Ok(has_wal_block);
        }
        let blocks = Self::blocks_path(path);
        let has_local_block = |tenant: &String| entries(&blocks.join(tenant)).is_ok_and(|blocks| !blocks.is_empty());
        Ok(entries(&blocks)?.iter().any(has_local_block))
    }

    /// Lists the WAL blocks by folder name. Other folders are none of ours: they are named in the log and left alone. Blocks.
    pub fn folders(&self) -> Result<Vec<WalFolder>, WalError> {
        let mut folders = Vec::new();
        for name in entries(&self.path)? {
            match WalFolder::parse(&name) {
                Some(folder) => folders.push(folder),
                None if [LOCK_NAME, BLOCKS_NAME].contains(&name.as_str()) => {}
                None => warn!(path = %self.path.display(), name, "unowned file entry ignored during wal replay"),
            }
        }
        Ok(folders)
    }

    /// Removes what earlier runs dropped, WAL blocks and complete blocks. Returns their number. Blocks.
    pub fn clear_tombstones(&self) -> Result<usize, WalError> {
        let mut candidates: Vec<PathBuf> = Vec::new();
        let wal_blocks = entries(&self.path)?.into_iter().filter(|name| WalFolder::parse(name).is_some());
        candidates.extend(wal_blocks.map(|name| self.path.join(name)));
        candidates.extend(self.local_blocks()?.into_iter().map(|block| block.path));
        let mut removed = 0;
        for folder in candidates {
            if folder.join(TOMBSTONE_NAME).exists() {
                self.remove(&folder)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Drops a folder: it is not read any more from the next start on, and removed by [`Self::reclaim`] after `grace`, so that
    /// queries that read it can end. Blocks.
    pub fn drop_folder(&self, folder: &Path, now_unix_nanos: u64, grace: Duration) -> Result<(), WalError> {
        let (meta, tombstone) = (folder.join(META_NAME), folder.join(TOMBSTONE_NAME));
        match self.disk.rename(&meta, &tombstone) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            outcome => outcome.map_err(|cause| WalError::io("drop", folder, cause))?,
        }
        self.disk.sync_folder(folder).map_err(|cause| WalError::io("sync", folder, cause))?;
        let due = now_unix_nanos.saturating_add(u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX));
        let mut tombstones = self.tombstones.lock();
        tombstones.push((due, folder.to_owned()));
        gauge!(names::TOMBSTONES).set(tombstones.len() as f64);
        Ok(())
    }

    /// Removes dropped folders whose grace is over. Those that cannot be removed now are tried again. Blocks.
    pub fn reclaim(&self, now_unix_nanos: u64) {
        let due: Vec<_> = self.tombstones.lock().extract_if(.., |(due, _)| *due <= now_unix_nanos).collect();
        for (due, folder) in due {
            if let Err(failure) = self.remove(&folder) {
                warn!(err = &failure as &dyn std::error::Error, "dropped folder could not be removed, trying again later");
                self.tombstones.lock().push((due, folder));
            }
        }
        gauge!(names::TOMBSTONES).set(self.tombstones.lock().len() as f64);
    }

    fn remove(&self, folder: &Path) -> Result<(), WalError> {
        self.disk.remove_folder(folder).map_err(|cause| WalError::io("remove", folder, cause))
    }

    /// The folder of a WAL block.
    pub fn path_of(&self, folder: &WalFolder) -> PathBuf {
        self.path.join(folder.name())
    }
}

/// Names in a folder, sorted; none when the folder does not exist. Names that are not UTF-8 are left out.
fn entries(folder: &Path) -> Result<Vec<String>, WalError> {
    let failed = |cause| WalError::io("list", folder, cause);
    let listed = match std::fs::read_dir(folder) {
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => return Ok(Vec::new()),
        listed => listed.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in listed {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Runs blocking I/O.
async fn blocking<T: Send + 'static>(job: impl FnOnce() -> Result<T, WalError> + Send + 'static) -> Result<T, WalError> {
    tokio::task::spawn_blocking(job).await.map_err(|_| WalError::ShuttingDown)?
}
