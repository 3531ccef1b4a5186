//! The operations of the write-ahead log that change something on disk. Tests replace them by ones that die in between.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Folders of the log are readable by their owner only.
const FOLDER_MODE: u32 = 0o700;

pub(super) trait Disk: Send + Sync + 'static {
    /// Creates a folder below an existing one.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Writes a file as a whole and makes its content durable, but not its name.
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes names in `folder` durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// Removes a folder with all in it; one that is gone is fine.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
}

/// Puts a file in place at once: after a crash it has either the old content, or none, or the new one. Durable on return.
pub(super) fn replace(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    disk.write(&temporary, content)?;
    disk.rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |folder| disk.sync_folder(folder))
}

/// The file system.
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(FOLDER_MODE).create(path)
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(content)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }
}
