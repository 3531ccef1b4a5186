//! What is known of one partition: its segments, its durable end, and its most recent records in memory.
//!
//! Shared between the partition's writer, which alone extends it, and any number of readers. Everything in here is durable.
//!
//! Invariants
//! * Segments are ordered by base and cover disjoint offset ranges: one ends where the next begins.
//! * The tail holds the records directly below the end, without gaps.
//! * The last segment is never removed: its name keeps the offset when the partition is empty.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{error, warn};

use super::files::{Files, SegmentFile};
use super::metrics::PartitionMetrics;
use super::segment::{self, FrameReader, IndexEntry, SparseIndex};
use super::{ConsumedRecord, LogError, Offset, OffsetRange, PartitionId};

/// Smallest and largest read of a segment file. Large enough that system calls do not matter, small enough for a memory budget.
const READ_CHUNK_BYTES: std::ops::RangeInclusive<usize> = (64 << 10)..=(8 << 20);

/// Memory of a record in the tail besides its key, headers and value.
const RECORD_OVERHEAD_BYTES: usize = size_of::<ConsumedRecord>();

pub(super) struct Partition {
    pub(super) id: PartitionId,
    pub(super) directory: PathBuf,
    pub(super) seed: u32,
    pub(super) metrics: PartitionMetrics,
    tail_limit_bytes: usize,
    state: Mutex<State>,
    /// The durable end. Readers at the end wait for it to change.
    end: watch::Sender<Offset>,
}

struct State {
    segments: VecDeque<Segment>,
    tail: Tail,
}

struct Segment {
    base: Offset,
    /// Bytes that count: all durable frames.
    bytes: u64,
    first_timestamp_unix_ms: Option<u64>,
    /// `None` for a segment of an earlier run until it is first read.
    index: Option<SparseIndex>,
}

/// Where the writer goes on after opening.
pub(super) struct WritePosition {
    pub(super) next: Offset,
    pub(super) active: Option<ActiveSegment>,
}

/// The segment that is written to.
pub(super) struct ActiveSegment {
    pub(super) file: Box<dyn SegmentFile>,
    pub(super) path: PathBuf,
    /// Bytes written, durable or not.
    pub(super) bytes: u64,
    /// Bytes known to be durable.
    pub(super) synced_bytes: u64,
}

/// How a fetch is to be answered.
enum Plan {
    Records(Vec<ConsumedRecord>),
    /// At the end: wait.
    CaughtUp,
    File(FileRange),
}

/// A piece of a segment file to be read from `from` on.
struct FileRange {
    base: Offset,
    limit: u64,
    end: Offset,
    from: Offset,
    start_at: Option<IndexEntry>,
}

impl Partition {
    /// Opens the partition's directory, creating it if needed, and cuts an unfinished write off its end.
    ///
    /// `committed` is the highest offset that any group has committed. Offsets go on above it, even if the records below are gone, so
    /// that no group takes a new record for one it has already processed.
    pub(super) fn open(
        id: PartitionId,
        directory: PathBuf,
        seed: u32,
        committed: Offset,
        tail_limit_bytes: usize,
        metrics: PartitionMetrics,
        files: &dyn Files,
    ) -> Result<(Self, WritePosition), LogError> {
        std::fs::create_dir_all(&directory).map_err(|cause| LogError::io("create", &directory, cause))?;
        let bases = segment::list_segments(&directory).map_err(|cause| LogError::io("list", &directory, cause))?;
        let mut segments = VecDeque::with_capacity(bases.len());
        for base in bases {
            let path = segment::segment_path(&directory, base);
            let describe = || Ok((std::fs::metadata(&path)?.len(), segment::first_timestamp(&path)?));
            let (bytes, first_timestamp_unix_ms) = describe().map_err(|cause| LogError::io("open", &path, cause))?;
            segments.push_back(Segment { base, bytes, first_timestamp_unix_ms, index: None });
        }
        let (end, _) = watch::channel(Offset(0));
        let partition =
            Self { id, directory, seed, metrics, tail_limit_bytes, state: Mutex::new(State { segments, tail: Tail::default() }), end };
        let mut position = partition.recover_end(files)?;
        if committed > position.next {
            warn!(partition = %id, end = %position.next, %committed, "log ends below a committed offset; offsets continue at the commit");
            position = WritePosition { next: committed, active: None };
        }
        partition.end.send_replace(position.next);
        Ok((partition, position))
    }

    /// Scans the last segment, cuts what is not a whole frame, and makes what remains durable.
    fn recover_end(&self, files: &dyn Files) -> Result<WritePosition, LogError> {
        let mut state = self.state.lock();
        let Some(last) = state.segments.back_mut() else {
            return Ok(WritePosition { next: Offset(0), active: None });
        };
        let path = segment::segment_path(&self.directory, last.base);
        let scan = segment::scan(&path, self.seed, last.bytes, Offset(u64::MAX)).map_err(|cause| LogError::io("read", &path, cause))?;
        if scan.torn_bytes > 0 {
            self.metrics.cut_bytes.increment(scan.torn_bytes);
            warn!(path = %path.display(), bytes = scan.torn_bytes, "cutting an unfinished write off the log");
        }
        if scan.damaged_bytes > 0 {
            error!(path = %path.display(), bytes = scan.damaged_bytes, "log segment is damaged; its other records are kept");
        }
        let open = || {
            let mut file = files.open_at(&path, scan.valid_bytes)?;
            file.sync()?;
            files.sync_directory(&self.directory)?;
            Ok(file)
        };
        let file = open().map_err(|cause| LogError::io("recover", &path, cause))?;
        last.bytes = scan.valid_bytes;
        last.index = Some(scan.index);
        if scan.valid_bytes == 0 {
            last.first_timestamp_unix_ms = None;
        }
        let active = ActiveSegment { file, path, bytes: scan.valid_bytes, synced_bytes: scan.valid_bytes };
        Ok(WritePosition { next: scan.next_offset.unwrap_or(last.base), active: Some(active) })
    }

    pub(super) fn range(&self) -> OffsetRange {
        let state = self.state.lock();
        let end = *self.end.borrow();
        OffsetRange { start: state.segments.front().map_or(end, |first| first.base.min(end)), end }
    }

    /// Returns a handle that tells when the end moves.
    pub(super) fn subscribe(&self) -> watch::Receiver<Offset> {
        self.end.subscribe()
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.state.lock().segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Announces a new, empty last segment. One of the same base, left behind by a failed write, is forgotten.
    pub(super) fn add_segment(&self, base: Offset) {
        let mut state = self.state.lock();
        if state.segments.back().is_some_and(|last| last.base == base) {
            state.segments.pop_back();
        }
        debug_assert!(state.segments.back().is_none_or(|last| last.base < base), "segments are in order");
        state.segments.push_back(Segment { base, bytes: 0, first_timestamp_unix_ms: None, index: Some(SparseIndex::default()) });
        self.metrics.segments.set(state.segments.len() as f64);
    }

    /// Makes durable records of the last segment visible: each with its position in the file, which now has `segment_bytes`.
    pub(super) fn publish(&self, records: Vec<(u64, ConsumedRecord)>, segment_bytes: u64) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut end = *self.end.borrow();
        let segment = state.segments.back_mut().expect("the writer adds a segment before it writes records");
        segment.bytes = segment_bytes;
        for (position, record) in records {
            debug_assert_eq!(record.offset, end, "records are published in order");
            end = record.offset.next();
            let timestamp_unix_ms = record.timestamp_unix_ms;
            segment.first_timestamp_unix_ms.get_or_insert(timestamp_unix_ms);
            if let Some(index) = &mut segment.index {
                index.push(IndexEntry { offset: record.offset, position, timestamp_unix_ms });
            }
            state.tail.push(record, self.tail_limit_bytes);
        }
        self.metrics.tail_bytes.set(state.tail.bytes as f64);
        self.end.send_replace(end);
    }

    /// Returns records from `from` on that are held now, at least one unless `from` is the end, and about `max_bytes` at most. May read a file.
    pub(super) fn read_blocking(&self, mut from: Offset, max_bytes: usize) -> Result<Vec<ConsumedRecord>, LogError> {
        loop {
            let range = match self.plan(from, max_bytes)? {
                Plan::Records(records) => return Ok(records),
                Plan::CaughtUp => return Ok(Vec::new()),
                Plan::File(range) => range,
            };
            let path = segment::segment_path(&self.directory, range.base);
            match self.read_file(&range, max_bytes) {
                Ok(records) if records.is_empty() => from = range.end, // the rest of this segment is damaged
                Ok(records) => return Ok(records),
                // Removed since it was looked up: the plan moves on to what is held now.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound && self.range().start > range.base => {}
                Err(cause) => return Err(LogError::io("read", &path, cause)),
            }
        }
    }

    /// Returns records if memory has them (possibly none, at the end); `None` if a file must be read.
    pub(super) fn read_memory(&self, from: Offset, max_bytes: usize) -> Result<Option<Vec<ConsumedRecord>>, LogError> {
        match self.plan(from, max_bytes)? {
            Plan::Records(records) => Ok(Some(records)),
            Plan::CaughtUp => Ok(Some(Vec::new())),
            Plan::File(_) => Ok(None),
        }
    }

    fn plan(&self, from: Offset, max_bytes: usize) -> Result<Plan, LogError> {
        let state = self.state.lock();
        let end = *self.end.borrow();
        let start = state.segments.front().map_or(end, |first| first.base.min(end));
        if from > end {
            return Err(LogError::OffsetOutOfRange { partition: self.id, offset: from, start, end });
        }
        if from < start {
            self.metrics.skipped_records.increment(start.0 - from.0);
        }
        let from = from.max(start);
        if from == end {
            return Ok(Plan::CaughtUp);
        }
        if let Some(records) = state.tail.find(from, max_bytes) {
            self.metrics.tail_fetches.increment(1);
            return Ok(Plan::Records(records));
        }
        let at = state.segments.partition_point(|segment| segment.base <= from).saturating_sub(1);
        let segment = state.segments.get(at).expect("an offset from the start on is in a segment");
        let segment_end = state.segments.get(at + 1).map_or(end, |next| next.base);
        let start_at = segment
            .index
            .as_ref()
            .map(|index| index.find(from).unwrap_or(IndexEntry { offset: segment.base, position: 0, timestamp_unix_ms: 0 }));
        Ok(Plan::File(FileRange { base: segment.base, limit: segment.bytes, end: segment_end, from, start_at }))
    }

    fn read_file(&self, range: &FileRange, max_bytes: usize) -> io::Result<Vec<ConsumedRecord>> {
        let path = segment::segment_path(&self.directory, range.base);
        let start_at = match range.start_at {
            Some(entry) => Some(entry),
            None => self.build_index(range)?.find(range.from),
        };
        let chunk_bytes = max_bytes.clamp(*READ_CHUNK_BYTES.start(), *READ_CHUNK_BYTES.end());
        let mut reader = FrameReader::open(&path, self.seed, range.limit, range.end, chunk_bytes)?;
        if let Some(entry) = start_at {
            reader.seek(entry);
        }
        let mut records = Vec::new();
        let mut total_bytes = 0;
        while total_bytes < max_bytes.max(1) {
            let Some(frame) = reader.next_frame()? else { break };
            if frame.record.offset >= range.from {
                total_bytes += usize::try_from(frame.frame_bytes).unwrap_or(usize::MAX);
                records.push(frame.record);
            }
        }
        if reader.damaged_bytes > 0 {
            self.metrics.damaged_bytes.increment(reader.damaged_bytes);
            error!(path = %path.display(), bytes = reader.damaged_bytes, "stepped over a damaged place of the log");
        }
        self.metrics.file_fetches.increment(1);
        Ok(records)
    }

    /// Reads a segment of an earlier run once, to know where its records are.
    fn build_index(&self, range: &FileRange) -> io::Result<SparseIndex> {
        let path = segment::segment_path(&self.directory, range.base);
        let scan = segment::scan(&path, self.seed, range.limit, range.end)?;
        let mut state = self.state.lock();
        if let Some(segment) = state.segments.iter_mut().find(|segment| segment.base == range.base) {
            segment.index = Some(scan.index.clone());
        }
        Ok(scan.index)
    }

    /// Takes the oldest segments out of the list whose records are all below `floor` and produced at or before `produced_until_unix_ms`,
    /// and returns their paths and total size. The caller removes the files.
    pub(super) fn take_deletable(&self, floor: Offset, produced_until_unix_ms: u64) -> (Vec<PathBuf>, u64) {
        let mut state = self.state.lock();
        let mut taken = (Vec::new(), 0);
        while let (Some(first), Some(second)) = (state.segments.front(), state.segments.get(1)) {
            // The last record of a segment is older than the first of the next.
            let is_young = second.first_timestamp_unix_ms.is_none_or(|timestamp| timestamp > produced_until_unix_ms);
            if second.base > floor || (is_young && produced_until_unix_ms != u64::MAX) {
                break;
            }
            taken.0.push(segment::segment_path(&self.directory, first.base));
            taken.1 += first.bytes;
            state.segments.pop_front();
        }
        self.metrics.segments.set(state.segments.len() as f64);
        taken
    }

    /// Returns the timestamp of the record at `offset`, or of one shortly before it; `None` at the end.
    pub(super) fn timestamp_near(&self, offset: Offset) -> Option<u64> {
        let state = self.state.lock();
        if offset >= *self.end.borrow() {
            return None;
        }
        if let Some(record) = state.tail.get(offset) {
            return Some(record.timestamp_unix_ms);
        }
        let at = state.segments.partition_point(|segment| segment.base <= offset).saturating_sub(1);
        let segment = state.segments.get(at)?;
        let indexed = segment.index.as_ref().and_then(|index| index.find(offset)).map(|entry| entry.timestamp_unix_ms);
        indexed.or(segment.first_timestamp_unix_ms)
    }
}

/// The most recent records of a partition.
#[derive(Default)]
struct Tail {
    records: VecDeque<ConsumedRecord>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, record: ConsumedRecord, limit_bytes: usize) {
        self.bytes += record_bytes(&record);
        self.records.push_back(record);
        while self.bytes > limit_bytes
            && let Some(oldest) = self.records.pop_front()
        {
            self.bytes -= record_bytes(&oldest);
        }
    }

    fn position(&self, offset: Offset) -> Option<usize> {
        let first = self.records.front()?.offset;
        usize::try_from(offset.0.checked_sub(first.0)?).ok().filter(|at| *at < self.records.len())
    }

    fn get(&self, offset: Offset) -> Option<&ConsumedRecord> {
        self.records.get(self.position(offset)?)
    }

    fn find(&self, from: Offset, max_bytes: usize) -> Option<Vec<ConsumedRecord>> {
        let mut total_bytes = 0;
        let mut found = Vec::new();
        for record in self.records.iter().skip(self.position(from)?) {
            if total_bytes >= max_bytes && !found.is_empty() {
                break;
            }
            total_bytes += record_bytes(record);
            found.push(record.clone());
        }
        Some(found)
    }
}

fn record_bytes(record: &ConsumedRecord) -> usize {
    let headers: usize = record.headers.iter().map(|header| header.key.len() + header.value.len()).sum();
    RECORD_OVERHEAD_BYTES + record.key.len() + headers + record.value.len()
}
