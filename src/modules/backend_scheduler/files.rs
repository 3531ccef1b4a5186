//! The local copy of the scheduler's memory: `shard_000.json` … `shard_255.json` and `batches.pb` in a directory that one process owns.
//!
//! A file is replaced as a whole: written beside, synced, renamed. After a crash it has its old or its new content.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tracing::warn;

use super::work::{SHARDS, ShardFile};
use crate::base::directory_lock::{DirectoryLock, LockFailure};

const BATCHES_NAME: &str = "batches.pb";
const LOCK_NAME: &str = "backend-scheduler.lock";

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("backend_scheduler.local_work_path {path} is in use by another process")]
    Locked { path: PathBuf },
    #[error("cannot {operation} {path}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// The directory, locked until this is dropped or the process ends.
#[derive(Debug)]
pub(super) struct WorkFiles {
    directory: PathBuf,
    _lock: DirectoryLock,
}

/// What was saved by an earlier process.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) shards: Vec<ShardFile>,
    /// Empty when there were none.
    pub(super) batches: Vec<u8>,
}

impl WorkFiles {
    pub(super) fn open(directory: &Path) -> Result<Self, FilesError> {
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |cause| FilesError::Io { operation, path, cause }
        };
        fs::create_dir_all(directory).map_err(failed("create", directory))?;
        let path = directory.join(LOCK_NAME);
        match DirectoryLock::acquire_file(&path) {
            Ok(lock) => Ok(Self { directory: directory.to_owned(), _lock: lock }),
            Err(LockFailure::Held(_)) => Err(FilesError::Locked { path: directory.to_owned() }),
            Err(LockFailure::Io(cause)) => Err(FilesError::Io { operation: "lock", path, cause }),
        }
    }

    /// Returns `None` when no shard was ever saved here. Files that cannot be read are left out with a warning: jobs can be found anew.
    pub(super) fn load(&self) -> Option<Saved> {
        let mut shards = Vec::new();
        let mut is_any = false;
        for path in (0..SHARDS).map(|shard| self.shard_path(shard)) {
            let Some(bytes) = read(&path) else { continue };
            is_any = true;
            match serde_json::from_slice(&bytes) {
                Ok(shard) => shards.push(shard),
                Err(error) => warn!(path = %path.display(), %error, "saved jobs cannot be read, starting without them"),
            }
        }
        is_any.then(|| Saved { shards, batches: read(&self.directory.join(BATCHES_NAME)).unwrap_or_default() })
    }

    pub(super) fn write_shard(&self, shard: usize, content: &[u8]) -> Result<(), FilesError> {
        self.replace(&self.shard_path(shard), content)
    }

    pub(super) fn write_batches(&self, content: &[u8]) -> Result<(), FilesError> {
        self.replace(&self.directory.join(BATCHES_NAME), content)
    }

    fn shard_path(&self, shard: usize) -> PathBuf {
        self.directory.join(format!("shard_{shard:03}.json"))
    }

    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), FilesError> {
        let replace = || {
            let temporary = path.with_extension("tmp");
            let mut file = File::create(&temporary)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            File::open(&self.directory)?.sync_all()
        };
        replace().map_err(|cause| FilesError::Io { operation: "write", path: path.to_owned(), cause })
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            warn!(path = %path.display(), %error, "a saved file cannot be read, starting without it");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_belongs_to_one_process_and_broken_files_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("work");
        let files = WorkFiles::open(&directory).unwrap();
        let refused = WorkFiles::open(&directory).unwrap_err();
        assert_eq!(refused.to_string(), format!("backend_scheduler.local_work_path {} is in use by another process", directory.display()));
        assert!(files.load().is_none());
        files.write_shard(3, br#"{"jobs":{}}"#).unwrap();
        files.write_shard(4, b"{").unwrap();
        files.write_batches(b"abc").unwrap();
        drop(files);
        let saved = WorkFiles::open(&directory).unwrap().load().unwrap();
        assert_eq!((saved.shards.len(), saved.batches), (1, b"abc".to_vec()));
    }
}
