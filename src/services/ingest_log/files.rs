//! The file operations of the log that change something on disk. Tests replace them by ones that fail, tear and count.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

/// Creates, appends to, replaces and removes files.
pub(super) trait Files: Send + Sync + 'static {
    /// Creates an empty segment for appending; what was there is discarded.
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>>;

    /// Opens a segment for appending at `length_bytes`. What lies behind is cut off, durably.
    fn open_at(&self, path: &Path, length_bytes: u64) -> io::Result<Box<dyn SegmentFile>>;

    /// Makes the creation, renaming and removal of files in `directory` durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;

    /// Replaces a small file as a whole: after a crash it has either the old or the new content. Durable on return.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// A segment open for appending.
pub(super) trait SegmentFile: Send {
    /// Writes some of `bytes` at the end and returns how many; like [`Write::write`].
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Makes everything written durable.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file to `length_bytes`; writing goes on there.
    fn truncate(&mut self, length_bytes: u64) -> io::Result<()>;
}

/// The file system.
pub(super) struct DiskFiles;

impl Files for DiskFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(OpenOptions::new().write(true).create(true).truncate(true).open(path)?))
    }

    fn open_at(&self, path: &Path, length_bytes: u64) -> io::Result<Box<dyn SegmentFile>> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        if file.metadata()?.len() != length_bytes {
            file.set_len(length_bytes)?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::Start(length_bytes))?;
        Ok(Box::new(file))
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |directory| self.sync_directory(directory))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
}

impl SegmentFile for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(self, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length_bytes: u64) -> io::Result<()> {
        self.set_len(length_bytes)?;
        self.seek(SeekFrom::Start(length_bytes)).map(|_| ())
    }
}
