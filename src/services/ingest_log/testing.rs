//! A file layer that fails, tears and counts, and a log on top of it.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::embedded::{EmbeddedLog, EmbeddedLogOptions};
use super::files::{DiskFiles, Files, SegmentFile};
use super::{ConsumedRecord, IngestLog, LogError, Offset, PartitionId, Record};
use crate::base::clock::ManualClock;

pub(super) const P0: PartitionId = PartitionId(0);

/// Real files in a real directory, with faults that the test sets.
#[derive(Clone, Default)]
pub(super) struct FaultyFiles(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<Faults>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct Faults {
    /// Bytes that can still be written before the disk is full.
    pub(super) free_bytes: Option<usize>,
    /// Bytes that one write takes at most.
    pub(super) write_limit: Option<usize>,
    /// Syncs that will fail.
    pub(super) failing_syncs: u32,
    pub(super) is_truncate_broken: bool,
    /// While set, syncs wait.
    are_syncs_held: bool,
    /// Syncs that are waiting.
    waiting_syncs: u32,
    /// Nothing works any more: the process is about to die.
    pub(super) is_dead: bool,
    pub(super) syncs: u32,
    /// Durable length of each segment file.
    synced: HashMap<PathBuf, u64>,
}

impl FaultyFiles {
    pub(super) fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.0.state.lock());
        self.0.changed.notify_all();
    }

    pub(super) fn get<T>(&self, read: impl FnOnce(&Faults) -> T) -> T {
        read(&self.0.state.lock())
    }

    /// Makes syncs wait until the guard is dropped. Drop it before the log, whose writer waits too.
    pub(super) fn hold_syncs(&self) -> HeldSyncs {
        self.set(|faults| faults.are_syncs_held = true);
        HeldSyncs(self.clone())
    }

    /// Waits until `count` syncs are held.
    pub(super) fn wait_for_held_syncs(&self, count: u32) {
        let mut state = self.0.state.lock();
        while state.waiting_syncs < count {
            self.0.changed.wait(&mut state);
        }
    }

    /// Loses power after the log is gone: of each file keeps the durable part and some of the rest, of which a byte may be wrong.
    pub(super) fn crash(&self, kept_of_rest: f64, flips_a_byte: bool) {
        let mut state = self.0.state.lock();
        for (path, synced) in &state.synced {
            let Ok(mut content) = std::fs::read(path) else { continue };
            let synced = usize::try_from(*synced).unwrap().min(content.len());
            let kept = synced + ((content.len() - synced) as f64 * kept_of_rest) as usize;
            content.truncate(kept);
            if flips_a_byte && let Some(byte) = content[synced..].last_mut() {
                *byte ^= 0x10;
            }
            std::fs::write(path, content).unwrap();
        }
        *state = Faults::default();
    }

    fn check_alive(&self) -> io::Result<()> {
        if self.get(|faults| faults.is_dead) { Err(io::Error::other("dead")) } else { Ok(()) }
    }

    /// Takes up to `bytes` of the free space.
    fn allow_write(&self, bytes: usize) -> io::Result<usize> {
        self.check_alive()?;
        let mut state = self.0.state.lock();
        let allowed = bytes.min(state.write_limit.unwrap_or(bytes)).min(state.free_bytes.unwrap_or(bytes));
        if allowed == 0 && bytes > 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.free_bytes = state.free_bytes.map(|free| free - allowed);
        Ok(allowed)
    }
}

/// Syncs wait while this lives; also a failing test lets them go.
pub(super) struct HeldSyncs(FaultyFiles);

impl Drop for HeldSyncs {
    fn drop(&mut self) {
        self.0.set(|faults| faults.are_syncs_held = false);
    }
}

struct FaultyFile {
    files: FaultyFiles,
    path: PathBuf,
    inner: Box<dyn SegmentFile>,
    length: u64,
}

impl Files for FaultyFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        self.check_alive()?;
        let inner = DiskFiles.create(path)?;
        self.set(|faults| _ = faults.synced.insert(path.to_owned(), 0));
        Ok(Box::new(FaultyFile { files: self.clone(), path: path.to_owned(), inner, length: 0 }))
    }

    fn open_at(&self, path: &Path, length: u64) -> io::Result<Box<dyn SegmentFile>> {
        self.check_alive()?;
        let inner = DiskFiles.open_at(path, length)?;
        self.set(|faults| _ = faults.synced.insert(path.to_owned(), 0));
        Ok(Box::new(FaultyFile { files: self.clone(), path: path.to_owned(), inner, length }))
    }

    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        self.check_alive()
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.check_alive()?;
        if self.get(|faults| faults.free_bytes).is_some_and(|free| free < content.len()) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        std::fs::write(path, content)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check_alive()?;
        let bytes = std::fs::metadata(path)?.len();
        self.set(|faults| faults.free_bytes = faults.free_bytes.map(|free| free + bytes as usize));
        DiskFiles.remove(path)
    }
}

impl SegmentFile for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let allowed = self.files.allow_write(bytes.len())?;
        let written = self.inner.write(&bytes[..allowed])?;
        self.length += written as u64;
        Ok(written)
    }

    fn sync(&mut self) -> io::Result<()> {
        let shared = self.files.0.clone();
        let mut state = shared.state.lock();
        state.waiting_syncs += 1;
        shared.changed.notify_all();
        while state.are_syncs_held {
            shared.changed.wait(&mut state);
        }
        state.waiting_syncs -= 1;
        if state.is_dead || state.failing_syncs > 0 {
            state.failing_syncs = state.failing_syncs.saturating_sub(1);
            return Err(io::Error::other("sync failed"));
        }
        state.syncs += 1;
        state.synced.insert(self.path.clone(), self.length);
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.files.check_alive()?;
        if self.files.get(|faults| faults.is_truncate_broken) {
            return Err(io::Error::other("truncate failed"));
        }
        self.length = length;
        self.inner.truncate(length)
    }
}

/// A directory with a log in it that can be closed, crashed and opened again.
pub(super) struct Bench {
    pub(super) directory: tempfile::TempDir,
    pub(super) options: EmbeddedLogOptions,
    pub(super) clock: Arc<ManualClock>,
    pub(super) files: FaultyFiles,
}

impl Bench {
    /// Small segments, no memory tail: every read goes through the files.
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options =
            EmbeddedLogOptions { path: directory.path().join("log"), segment_bytes: 400, tail_bytes: 0, ..EmbeddedLogOptions::default() };
        Self { directory, options, clock: Arc::new(ManualClock::at(1_000_000_000_000)), files: FaultyFiles::default() }
    }

    pub(super) fn try_open(&self) -> Result<EmbeddedLog, LogError> {
        EmbeddedLog::open_with(self.options.clone(), self.clock.clone(), Box::new(self.files.clone()))
    }

    pub(super) fn open(&self) -> EmbeddedLog {
        self.try_open().unwrap()
    }

    /// Returns the bytes of all segment files of partition 0.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.segments().iter().map(|path| std::fs::metadata(path).unwrap().len()).sum()
    }

    /// Returns the segment files of partition 0, ascending.
    pub(super) fn segments(&self) -> Vec<PathBuf> {
        let directory = self.options.path.join("0");
        let bases = super::segment::list_segments(&directory).unwrap();
        bases.into_iter().map(|base| super::segment::segment_path(&directory, base)).collect()
    }
}

pub(super) fn record(value: &str) -> Record {
    Record::new(Bytes::from_static(b"tenant"), Bytes::copy_from_slice(value.as_bytes()), 1_000_000)
}

pub(super) async fn append(log: &EmbeddedLog, value: &str) -> Result<Offset, LogError> {
    log.append(P0, vec![record(value)]).await
}

/// Reads partition 0 from `from` to its end in steps of one record or more.
pub(super) async fn read_from(log: &EmbeddedLog, from: u64) -> Vec<ConsumedRecord> {
    let mut all: Vec<ConsumedRecord> = Vec::new();
    let mut next = Offset(from);
    loop {
        let records = log.fetch(P0, next, 100, std::time::Duration::ZERO).await.unwrap();
        let Some(last) = records.last() else { return all };
        next = last.offset.next();
        all.extend(records);
    }
}

/// Returns the offsets and values of partition 0 from its start.
pub(super) async fn contents(log: &EmbeddedLog) -> Vec<(u64, String)> {
    let records = read_from(log, 0).await;
    records.into_iter().map(|record| (record.offset.0, String::from_utf8(record.value.to_vec()).unwrap())).collect()
}
