//! The embedded log: [`IngestLog`] over local files, for producers and consumers in one process. Not replicated.
//!
//! ```text
//! <path>/lock                     held exclusively while the log is open; names the process
//! <path>/meta.json                number of partitions and the checksum seed, fixed at first start
//! <path>/commit.json              committed offsets of all groups
//! <path>/<partition>/<base>.seg   frames of the records from offset <base> on (20 digits)
//! ```
//!
//! One thread per partition writes ([`super::writer`]); readers that are caught up are served from memory, others from the files
//! ([`super::partition`]). Memory: `tail_bytes`, plus `queue_bytes` per partition, plus what callers have fetched.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::commits::Commits;
use super::files::{DiskFiles, Files};
use super::metrics::PartitionMetrics;
use super::partition::Partition;
use super::store::{Deletion, Store};
use super::writer::{AppendRequest, Writer};
use super::{ConsumedRecord, ConsumerGroup, IngestLog, Lag, LogError, Offset, OffsetRange, PartitionId, Record, frame};
use crate::base::clock::{SharedClock, SystemClock};
use crate::base::directory_lock::{DirectoryLock, LockFailure};

/// Appends that may wait for one writer, besides the bound on their bytes. Full: appends wait.
const QUEUE_APPENDS: usize = 4096;

/// Time between two rounds of retention and lag metrics.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// Longest wait of a fetch at the end of a partition, so that any `max_wait` is a valid time.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

const META_VERSION: u32 = 1;

/// When an append is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// After a group fsync: survives power loss.
    #[default]
    Disk,
    /// After `write(2)`: survives the death of the process, not of the machine.
    Process,
}

/// How an embedded log is laid out and bounded. Defaults are those of `ingest.embedded`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedLogOptions {
    /// Directory of the log, exclusively locked while it is open.
    pub path: PathBuf,
    /// Number of partitions; fixed once the log holds records.
    pub partitions: u32,
    /// A new segment file begins when this many bytes would be exceeded.
    pub segment_bytes: u64,
    /// All segments together. When committed segments do not make room, appends fail with [`LogError::Full`].
    pub max_bytes: u64,
    /// Longest time that a group of appends is collected before its fsync. Only appends that are already waiting are collected.
    pub sync_interval: Duration,
    pub durability: Durability,
    /// Consumer groups of this process: what one of them has not committed is never deleted. More may register later.
    pub groups: Vec<ConsumerGroup>,
    /// Keeps committed segments for this long after their last record, as long as `max_bytes` allows.
    pub retain_committed: Duration,
    /// Records kept in memory for consumers that are caught up, in bytes over all partitions.
    pub tail_bytes: usize,
    /// Bytes of appends that may wait for one partition's writer. Full: appends wait.
    pub queue_bytes: usize,
}

impl Default for EmbeddedLogOptions {
    fn default() -> Self {
        Self {
            path: PathBuf::from("/var/tempo/ingest"),
            partitions: 1,
            segment_bytes: 64 << 20,
            max_bytes: 20 << 30,
            sync_interval: Duration::from_millis(10),
            durability: Durability::Disk,
            groups: Vec::new(),
            retain_committed: Duration::ZERO,
            tail_bytes: 32 << 20,
            queue_bytes: 64 << 20,
        }
    }
}

impl EmbeddedLogOptions {
    fn check(&self) -> Result<(), LogError> {
        let problem = |option, problem| Err(LogError::InvalidOption { option, problem });
        match self {
            Self { partitions: 0, .. } => problem("partitions", "must be at least 1"),
            Self { segment_bytes: 0, .. } => problem("segment_bytes", "must be positive"),
            Self { queue_bytes: 0, .. } => problem("queue_bytes", "must be positive"),
            _ if self.max_bytes < self.segment_bytes => problem("max_bytes", "must be at least segment_bytes"),
            _ if u32::try_from(self.queue_bytes).is_err() => problem("queue_bytes", "must be below 4 GiB"),
            _ => Ok(()),
        }
    }
}

/// An open embedded log. Dropping it finishes queued appends and releases the directory, as [`IngestLog::close`] does.
pub struct EmbeddedLog {
    store: Arc<Store>,
    /// By partition number. Empty once the log is closed.
    queues: Mutex<Vec<Queue>>,
    running: Mutex<Option<Running>>,
}

/// The way to one writer.
#[derive(Clone)]
struct Queue {
    requests: mpsc::Sender<AppendRequest>,
    /// Free bytes.
    room: Arc<Semaphore>,
}

/// What must end before another process may open the directory.
struct Running {
    writers: Vec<JoinHandle<()>>,
    _lock: DirectoryLock,
}

impl EmbeddedLog {
    /// Opens or creates the log in `options.path`. Blocks while the last segment of each partition is read.
    ///
    /// # Errors
    /// [`LogError::Locked`] when another process has it open; [`LogError::PartitionsChanged`] when it holds records in another number
    /// of partitions; [`LogError::Corrupt`] when its small files cannot be read.
    pub fn open(options: EmbeddedLogOptions) -> Result<Self, LogError> {
        Self::open_with(options, Arc::new(SystemClock), Box::new(DiskFiles))
    }

    pub(super) fn open_with(options: EmbeddedLogOptions, clock: SharedClock, files: Box<dyn Files>) -> Result<Self, LogError> {
        options.check()?;
        if options.durability == Durability::Process {
            warn!(path = %options.path.display(), "log is not synced before acknowledging: a power loss loses acknowledged records");
        }
        std::fs::create_dir_all(&options.path).map_err(|cause| LogError::io("create", &options.path, cause))?;
        let lock = lock_directory(&options.path)?;
        let meta = Meta::open(&options, files.as_ref())?;
        let commits = Commits::open(options.path.join("commit.json"))?;
        options.groups.iter().for_each(|group| commits.register(group));

        let tail_bytes = options.tail_bytes / options.partitions as usize;
        let mut partitions = Vec::new();
        let mut positions = Vec::new();
        for id in (0..options.partitions).map(PartitionId) {
            let directory = options.path.join(id.to_string());
            let committed = commits.highest(id).unwrap_or_default();
            let metrics = PartitionMetrics::new(id, options.queue_bytes);
            let (partition, position) = Partition::open(id, directory, meta.crc_seed, committed, tail_bytes, metrics, files.as_ref())?;
            partitions.push(partition);
            positions.push((id, position));
        }
        files.sync_directory(&options.path).map_err(|cause| LogError::io("sync", &options.path, cause))?;

        let store = Arc::new(Store::new(options, clock, files, commits, partitions));
        let mut queues = Vec::new();
        let mut writers = Vec::new();
        for (id, position) in positions {
            let (requests, queue) = mpsc::channel(QUEUE_APPENDS);
            let writer = Writer::new(store.clone(), id, position);
            let thread = std::thread::Builder::new().name(format!("ingest-log-{id}")).spawn(move || writer.run(queue));
            writers.push(thread.map_err(|cause| LogError::io("start the writer of", &store.options.path, cause))?);
            queues.push(Queue { requests, room: Arc::new(Semaphore::new(store.options.queue_bytes)) });
        }
        store.publish_lags();
        Ok(Self { store, queues: Mutex::new(queues), running: Mutex::new(Some(Running { writers, _lock: lock })) })
    }

    /// Deletes what is committed and old, and publishes the lag metrics, every second until `stop` fires.
    pub async fn run(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(HOUSEKEEPING_INTERVAL) => {}
            }
            let store = self.store.clone();
            let round = tokio::task::spawn_blocking(move || {
                store.delete_committed(Deletion::ByAge);
                store.publish_lags();
            });
            if let Err(error) = round.await {
                warn!(%error, "log housekeeping ended early");
            }
        }
    }

    /// Returns what is held from `from` on; empty at the end.
    async fn read(&self, partition: PartitionId, from: Offset, max_bytes: usize) -> Result<Vec<ConsumedRecord>, LogError> {
        if let Some(records) = self.store.partition(partition)?.read_memory(from, max_bytes)? {
            return Ok(records);
        }
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || store.partition(partition)?.read_blocking(from, max_bytes));
        read.await.unwrap_or(Err(LogError::Closed)) // the runtime is shutting down
    }

    fn queue(&self, partition: PartitionId) -> Result<Queue, LogError> {
        self.store.partition(partition)?;
        self.queues.lock().get(partition.0 as usize).cloned().ok_or(LogError::Closed)
    }

    /// Closes the queues and returns what is to be waited for; `None` if that has been done before.
    fn begin_close(&self) -> Option<Running> {
        self.queues.lock().clear();
        self.running.lock().take()
    }

    fn check_open(&self) -> Result<(), LogError> {
        if self.queues.lock().is_empty() { Err(LogError::Closed) } else { Ok(()) }
    }
}

impl Running {
    /// Waits for the writers, which end when their queues are closed and empty, and releases the directory. Blocks for a write and an fsync.
    fn finish(self) {
        for writer in self.writers {
            if writer.join().is_err() {
                warn!("a log writer panicked");
            }
        }
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        if let Some(running) = self.begin_close() {
            running.finish();
        }
    }
}

#[async_trait]
impl IngestLog for EmbeddedLog {
    fn partitions(&self) -> Vec<PartitionId> {
        self.store.partitions.iter().map(|partition| partition.id).collect()
    }

    async fn append(&self, partition: PartitionId, records: Vec<Record>) -> Result<Offset, LogError> {
        let queue = self.queue(partition)?;
        let metrics = &self.store.partition(partition)?.metrics;
        if records.is_empty() {
            return Ok(self.store.partition(partition)?.range().end);
        }
        let sizes = records.iter().map(frame::frame_bytes).sum::<Result<usize, LogError>>();
        let frame_bytes = sizes.inspect_err(|error| metrics.append_failed(error))?;
        let limit = self.store.options.queue_bytes;
        let permits = u32::try_from(frame_bytes.min(limit)).expect("queue_bytes is checked to be below 4 GiB");
        let room = queue.room.clone().acquire_many_owned(permits).await.map_err(|_| LogError::Closed)?;
        metrics.queue_bytes.set(limit.saturating_sub(queue.room.available_permits()) as f64);
        let (answer, answered) = oneshot::channel();
        let request = AppendRequest { records, frame_bytes, answer, room };
        queue.requests.send(request).await.map_err(|_| LogError::Closed)?;
        let result = answered.await.unwrap_or(Err(LogError::Closed));
        metrics.queue_bytes.set(limit.saturating_sub(queue.room.available_permits()) as f64);
        result
    }

    async fn fetch(
        &self,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
        max_wait: Duration,
    ) -> Result<Vec<ConsumedRecord>, LogError> {
        let deadline = tokio::time::Instant::now() + max_wait.min(LONGEST_WAIT);
        let mut end = self.store.partition(partition)?.subscribe();
        loop {
            self.check_open()?;
            end.mark_unchanged();
            let records = self.read(partition, from, max_bytes).await?;
            if !records.is_empty() {
                return Ok(records);
            }
            let has_grown = tokio::time::timeout_at(deadline, end.changed()).await;
            if !matches!(has_grown, Ok(Ok(()))) {
                return Ok(Vec::new());
            }
        }
    }

    async fn register_group(&self, group: &ConsumerGroup) -> Result<(), LogError> {
        self.check_open()?;
        self.store.commits.register(group);
        Ok(())
    }

    async fn commit(&self, group: &ConsumerGroup, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        self.check_open()?;
        let OffsetRange { start, end } = self.store.partition(partition)?.range();
        if next > end {
            return Err(LogError::OffsetOutOfRange { partition, offset: next, start, end });
        }
        let (store, group) = (self.store.clone(), group.clone());
        let work = tokio::task::spawn_blocking(move || {
            let result = match store.commits.commit(store.files.as_ref(), &group, partition, next) {
                // The commit itself may free the space that its file needs: what a group has processed is safe to delete either way.
                Err(error) if error.is_disk_full() => {
                    store.delete_committed(Deletion::ForSpace);
                    store.commits.commit(store.files.as_ref(), &group, partition, next)
                }
                result => result,
            };
            if result.is_ok() {
                store.delete_committed(Deletion::ByAge);
                super::metrics::publish_lag(&group, partition, store.lag(&group, store.partition(partition)?));
            }
            result
        });
        work.await.unwrap_or(Err(LogError::Closed)) // the runtime is shutting down
    }

    async fn committed(&self, group: &ConsumerGroup, partition: PartitionId) -> Result<Option<Offset>, LogError> {
        self.store.partition(partition)?;
        Ok(self.store.commits.committed(group, partition))
    }

    async fn offsets(&self, partition: PartitionId) -> Result<OffsetRange, LogError> {
        Ok(self.store.partition(partition)?.range())
    }

    async fn lag(&self, group: &ConsumerGroup, partition: PartitionId) -> Result<Lag, LogError> {
        Ok(self.store.lag(group, self.store.partition(partition)?))
    }

    async fn close(&self) -> Result<(), LogError> {
        let Some(running) = self.begin_close() else { return Ok(()) };
        tokio::task::spawn_blocking(|| running.finish()).await.map_err(|_| LogError::Closed)
    }
}

/// `meta.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    version: u32,
    partitions: u32,
    crc_seed: u32,
}

impl Meta {
    fn open(options: &EmbeddedLogOptions, files: &dyn Files) -> Result<Self, LogError> {
        let path = options.path.join("meta.json");
        let stored = match std::fs::read(&path) {
            Ok(bytes) => Some(Self::parse(&bytes, &path)?),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => None,
            Err(cause) => return Err(LogError::io("read", &path, cause)),
        };
        match stored {
            Some(meta) if meta.partitions == options.partitions => return Ok(meta),
            Some(meta) if !is_empty(options, meta.partitions)? => {
                return Err(LogError::PartitionsChanged {
                    path: options.path.clone(),
                    stored: meta.partitions,
                    wanted: options.partitions,
                });
            }
            None if !is_empty(options, options.partitions)? => {
                return Err(LogError::Corrupt { path, problem: "it is missing, but there are log segments".to_owned() });
            }
            Some(_) | None => {}
        }
        let meta = Self { version: META_VERSION, partitions: options.partitions, crc_seed: rand::random() };
        let content = serde_json::to_vec(&meta).expect("three numbers are always serializable");
        files.replace(&path, &content).map_err(|cause| LogError::io("write", &path, cause))?;
        Ok(meta)
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, LogError> {
        let corrupt = |problem| LogError::Corrupt { path: path.to_owned(), problem };
        let meta: Self = serde_json::from_slice(bytes).map_err(|cause| corrupt(cause.to_string()))?;
        if meta.version == META_VERSION { Ok(meta) } else { Err(corrupt(format!("version {} is not known", meta.version))) }
    }
}

/// Whether no partition has a record, and none ever had: offsets start at zero.
fn is_empty(options: &EmbeddedLogOptions, partitions: u32) -> Result<bool, LogError> {
    for partition in 0..partitions {
        let directory = options.path.join(partition.to_string());
        let bases = match super::segment::list_segments(&directory) {
            Ok(bases) => bases,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => continue,
            Err(cause) => return Err(LogError::io("list", &directory, cause)),
        };
        for base in bases {
            let path = super::segment::segment_path(&directory, base);
            let length = std::fs::metadata(&path).map_err(|cause| LogError::io("open", &path, cause))?.len();
            if length > 0 || base > Offset(0) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Takes the directory for this process. The lock ends with what is returned, also when the process is killed.
fn lock_directory(directory: &Path) -> Result<DirectoryLock, LogError> {
    DirectoryLock::acquire(directory).map_err(|failure| match failure {
        LockFailure::Held(holder) => LogError::Locked { path: directory.to_owned(), holder },
        LockFailure::Io(cause) => LogError::io("lock", directory, cause),
    })
}
