//! The thread that writes one partition.
//!
//! It takes waiting appends, writes their frames, and makes the whole group durable with one fsync; only then are the records published
//! and the appends answered. While the fsync runs the next group gathers in the queue, so the group size follows the load by itself.
//!
//! Invariants
//! * After an error the file ends at the last good frame, or it is never written again and its leftovers are ignored by readers.
//! * An fsync that failed is not tried again on the same file: the kernel may have dropped the pages. The group fails and a new segment begins.
//! * An offset is given away again only if its record was neither acknowledged nor visible.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::warn;

use super::embedded::Durability;
use super::files::SegmentFile;
use super::partition::{ActiveSegment, Partition, WritePosition};
use super::segment::segment_path;
use super::store::{Deletion, Store};
use super::{ConsumedRecord, LogError, Offset, PartitionId, Record, frame};

/// Written but not yet durable bytes after which a group is closed: bounds the dirty pages that one fsync must write.
const GROUP_BYTES: u64 = 32 << 20;

/// An append on its way to the writer.
pub(super) struct AppendRequest {
    pub(super) records: Vec<Record>,
    /// Length of all frames.
    pub(super) frame_bytes: usize,
    pub(super) answer: oneshot::Sender<Result<Offset, LogError>>,
    /// Room in the partition's queue, given back when the append is answered.
    pub(super) room: OwnedSemaphorePermit,
}

/// An append that is written but not durable.
struct Written {
    /// Position in the file and record.
    records: Vec<(u64, ConsumedRecord)>,
    first: Offset,
    bytes: u64,
    answer: oneshot::Sender<Result<Offset, LogError>>,
    room: OwnedSemaphorePermit,
}

pub(super) struct Writer {
    store: Arc<Store>,
    id: PartitionId,
    active: Option<ActiveSegment>,
    /// Offset of the next record to write.
    next: Offset,
    group: Vec<Written>,
}

impl Writer {
    pub(super) fn new(store: Arc<Store>, id: PartitionId, position: WritePosition) -> Self {
        Self { store, id, active: position.active, next: position.next, group: Vec::new() }
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<AppendRequest>) {
        while let Some(request) = queue.blocking_recv() {
            let started = Instant::now();
            self.write(request);
            while self.unsynced_bytes() < GROUP_BYTES && started.elapsed() < self.store.options.sync_interval {
                let Ok(request) = queue.try_recv() else { break };
                self.write(request);
            }
            self.finish_group();
        }
        self.close_active();
    }

    fn partition(&self) -> &Partition {
        self.store.partition(self.id).expect("a writer is started per partition of the store")
    }

    fn unsynced_bytes(&self) -> u64 {
        self.group.iter().map(|written| written.bytes).sum()
    }

    /// Writes an append into the current group, or answers it with an error.
    fn write(&mut self, request: AppendRequest) {
        let AppendRequest { records, frame_bytes, answer, room } = request;
        match self.try_write(&records, frame_bytes) {
            Ok((first, records)) => {
                self.group.push(Written { records, first, bytes: frame_bytes as u64, answer, room });
            }
            Err(error) => {
                self.partition().metrics.append_failed(&error);
                let _ = answer.send(Err(error)); // the caller may have left
            }
        }
    }

    fn try_write(&mut self, records: &[Record], frame_bytes: usize) -> Result<(Offset, Vec<(u64, ConsumedRecord)>), LogError> {
        self.make_room(frame_bytes as u64)?;
        self.ensure_active(frame_bytes as u64)?;
        let seed = self.partition().seed;
        let first = self.next;
        let mut buffer = BytesMut::with_capacity(frame_bytes);
        let mut ends = Vec::with_capacity(records.len());
        for (offset, record) in (first.0..).zip(records) {
            frame::encode(&mut buffer, seed, Offset(offset), record);
            ends.push(buffer.len());
        }
        debug_assert_eq!(buffer.len(), frame_bytes);
        let buffer = buffer.freeze();
        let active = self.active.as_mut().expect("ensure_active leaves a segment or an error");
        let start = active.bytes;
        if let Err(cause) = write_all(active.file.as_mut(), &buffer) {
            let error = LogError::io("append to", &active.path, cause);
            self.undo_partial_write();
            return Err(error);
        }
        active.bytes += frame_bytes as u64;
        self.store.take_space(frame_bytes as u64);
        self.next = Offset(first.0 + records.len() as u64);
        Ok((first, split_frames(&buffer, &ends, start)))
    }

    /// Deletes committed segments if the log has reached its size, including the active one if all of it is committed.
    fn make_room(&mut self, bytes: u64) -> Result<(), LogError> {
        if self.store.has_space(bytes) {
            return Ok(());
        }
        self.store.delete_committed(Deletion::ForSpace);
        if !self.store.has_space(bytes) && self.active.as_ref().is_some_and(|active| active.bytes > 0) {
            self.finish_group();
            if self.store.deletion_floor(self.id).is_some_and(|floor| floor >= self.next) {
                self.start_segment()?;
                self.store.delete_committed(Deletion::ForSpace);
            }
        }
        if self.store.has_space(bytes) { Ok(()) } else { Err(LogError::Full { limit: self.store.options.max_bytes }) }
    }

    /// Begins a new segment if there is none or the current one has no room for `bytes`.
    fn ensure_active(&mut self, bytes: u64) -> Result<(), LogError> {
        let limit = self.store.options.segment_bytes;
        let fits = self.active.as_ref().is_some_and(|active| active.bytes == 0 || active.bytes.saturating_add(bytes) <= limit);
        if fits { Ok(()) } else { self.start_segment() }
    }

    fn start_segment(&mut self) -> Result<(), LogError> {
        self.finish_group();
        self.close_active();
        let partition = self.partition();
        let path = segment_path(&partition.directory, self.next);
        let create = || {
            let file = self.store.files.create(&path)?;
            self.store.files.sync_directory(&partition.directory)?;
            Ok(file)
        };
        let file = create().map_err(|cause| LogError::io("create", &path, cause))?;
        partition.add_segment(self.next);
        self.active = Some(ActiveSegment { file, path, bytes: 0, synced_bytes: 0 });
        Ok(())
    }

    /// Leaves the active segment, durable also where acknowledgements do not wait for it.
    fn close_active(&mut self) {
        if let Some(mut active) = self.active.take()
            && active.synced_bytes < active.bytes
            && let Err(error) = active.file.sync()
        {
            warn!(path = %active.path.display(), %error, "cannot sync a log segment");
        }
    }

    /// Removes what a failed write may have left behind the last whole append.
    fn undo_partial_write(&mut self) {
        let Some(active) = &mut self.active else { return };
        if let Err(error) = active.file.truncate(active.bytes) {
            warn!(path = %active.path.display(), %error, "cannot cut a failed write off; beginning a new log segment");
            self.finish_group();
            self.active = None;
        }
    }

    /// Makes the group durable, publishes its records and answers its appends.
    fn finish_group(&mut self) {
        if self.group.is_empty() {
            return;
        }
        match self.sync_active() {
            Ok(segment_bytes) => self.publish_group(segment_bytes),
            Err(error) => self.fail_group(&error),
        }
        debug_assert!(self.group.is_empty(), "a finished group is answered");
    }

    /// Returns the length of the segment whose records may be published.
    fn sync_active(&mut self) -> Result<u64, LogError> {
        let active = self.active.as_mut().expect("a group is written to the active segment");
        if self.store.options.durability == Durability::Disk {
            let started = Instant::now();
            active.file.sync().map_err(|cause| LogError::io("sync", &active.path, cause))?;
            active.synced_bytes = active.bytes;
            let metrics = &self.store.partition(self.id)?.metrics;
            metrics.syncs.increment(1);
            metrics.sync_seconds.record(started.elapsed());
        }
        Ok(active.bytes)
    }

    fn publish_group(&mut self, segment_bytes: u64) {
        let group = std::mem::take(&mut self.group);
        let partition = self.partition();
        let mut records = Vec::with_capacity(group.iter().map(|written| written.records.len()).sum());
        let mut answers = Vec::with_capacity(group.len());
        let mut bytes = 0;
        for written in group {
            records.extend(written.records);
            bytes += written.bytes;
            answers.push((written.answer, written.first, written.room));
        }
        partition.metrics.appended_records.increment(records.len() as u64);
        partition.metrics.appended_bytes.increment(bytes);
        partition.publish(records, segment_bytes);
        for (answer, first, _room) in answers {
            let _ = answer.send(Ok(first)); // the caller may have left
        }
    }

    /// Gives up the segment behind its last durable frame and answers the group with `error`. Its offsets are free again.
    fn fail_group(&mut self, error: &LogError) {
        let group = std::mem::take(&mut self.group);
        if let Some(mut active) = self.active.take() {
            // Best effort: what stays is ignored, because the next segment begins at these offsets.
            if let Err(error) = active.file.truncate(active.synced_bytes) {
                warn!(path = %active.path.display(), %error, "cannot cut a group that failed to sync off its log segment");
            }
        }
        if let Some(first) = group.first() {
            self.next = first.first;
        }
        self.store.give_back_space(group.iter().map(|written| written.bytes).sum());
        for written in group {
            self.partition().metrics.append_failed(error);
            let _ = written.answer.send(Err(error.clone())); // the caller may have left
        }
    }
}

fn write_all(file: &mut dyn SegmentFile, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the records of consecutive frames that end at `ends`, with their positions in the file; the first stands at `start`.
fn split_frames(buffer: &Bytes, ends: &[usize], start: u64) -> Vec<(u64, ConsumedRecord)> {
    let mut begin = 0;
    let records = ends.iter().map(|end| {
        let at = std::mem::replace(&mut begin, *end);
        let record = frame::decode_own(buffer.slice(at..*end)).expect("a frame that was just encoded can be decoded");
        (start + at as u64, record)
    });
    records.collect()
}
