//! An exclusive lock on a data directory: a file in it, mostly `lock`, which names the process that holds it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use tracing::warn;

/// A process that ends, or starts a child, holds its locks a moment longer than it wants them.
const PATIENCE: Duration = Duration::from_millis(200);

/// Name of the lock file.
pub const LOCK_NAME: &str = "lock";

/// Held until dropped. The file stays, unlocked.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

/// Why a directory could not be locked.
#[derive(Debug)]
pub enum LockFailure {
    /// Another process has it; its number when the file tells.
    Held(Option<String>),
    Io(io::Error),
}

impl DirectoryLock {
    /// Locks `directory`, which must exist. Waits up to [`PATIENCE`] for a holder that is about to let go.
    pub fn acquire(directory: &Path) -> Result<Self, LockFailure> {
        Self::acquire_file(&directory.join(LOCK_NAME))
    }

    /// Locks the directory by the file `path`: for one that several may use, each for something else.
    pub fn acquire_file(path: &Path) -> Result<Self, LockFailure> {
        let started = Instant::now();
        Self::acquire_patiently(path, || {
            std::thread::sleep(PATIENCE / 20);
            started.elapsed() < PATIENCE
        })
    }

    /// Tries again as long as `wait` says so.
    fn acquire_patiently(path: &Path, mut wait: impl FnMut() -> bool) -> Result<Self, LockFailure> {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = opened.map_err(LockFailure::Io)?;
        let mut locked = file.try_lock();
        while matches!(locked, Err(TryLockError::WouldBlock)) && wait() {
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let is_pid = file.take(20).read_to_string(&mut holder).is_ok() && holder.trim().parse::<u32>().is_ok();
                return Err(LockFailure::Held(is_pid.then(|| holder.trim().to_owned())));
            }
            Err(TryLockError::Error(cause)) => return Err(LockFailure::Io(cause)),
        }
        // The holder is named for the operator only; a full disk must not keep the directory from opening.
        if let Err(error) = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())) {
            warn!(path = %path.display(), %error, "cannot name this process in the lock file");
        }
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_directory_is_refused_and_names_the_holder() {
        let folder = tempfile::tempdir().unwrap();
        let held = DirectoryLock::acquire(folder.path()).unwrap();
        let refused = DirectoryLock::acquire(folder.path()).unwrap_err();
        assert!(matches!(refused, LockFailure::Held(Some(pid)) if pid == std::process::id().to_string()));
        drop(held);
        DirectoryLock::acquire(folder.path()).unwrap();
    }

    #[test]
    fn a_holder_that_lets_go_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut held = Some(DirectoryLock::acquire(folder.path()).unwrap());
        DirectoryLock::acquire_patiently(&folder.path().join(LOCK_NAME), || held.take().is_some()).unwrap();
        assert!(held.is_none(), "it was held at first");
    }
}
