//! Segment files: their names, their sparse index, and reading frames from them past damaged places.
//!
//! A segment is named by the offset of its first record, 20 digits and `.seg`, and holds frames back to back ([`super::frame`]).
//!
//! What a reader makes of bytes that are no frame: if a valid frame with a higher offset follows in the same segment, the bytes between
//! are damage and are stepped over; if none follows, they are the rest of an unfinished write. Nothing acknowledged is lost that is
//! still readable, and the end of the last segment is found.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::frame::{self, Decoded};
use super::{ConsumedRecord, Offset};

/// Distance between index entries. A lookup reads at most this much, plus one record, before the record it is after.
const INDEX_STEP_BYTES: u64 = 16 << 10;

/// Bytes read at once while a whole segment is scanned.
pub(super) const SCAN_CHUNK_BYTES: usize = 1 << 20;

const SUFFIX: &str = ".seg";

/// Returns the file of the segment that starts at `base`.
pub(super) fn segment_path(directory: &Path, base: Offset) -> PathBuf {
    directory.join(format!("{:020}{SUFFIX}", base.0))
}

/// Returns the base offsets of the segments in `directory`, ascending. Other files are ignored.
pub(super) fn list_segments(directory: &Path) -> io::Result<Vec<Offset>> {
    let mut bases = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).filter(|digits| digits.len() == 20);
        bases.extend(digits.and_then(|digits| digits.parse().ok()).map(Offset));
    }
    bases.sort_unstable();
    Ok(bases)
}

/// Where a record begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) offset: Offset,
    pub(super) position: u64,
    pub(super) timestamp_unix_ms: u64,
}

/// Places of some records of a segment, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct SparseIndex(Vec<IndexEntry>);

impl SparseIndex {
    /// Notes a record if the last noted one is far enough away. Records come in order.
    pub(super) fn push(&mut self, entry: IndexEntry) {
        if self.0.last().is_none_or(|last| entry.position >= last.position + INDEX_STEP_BYTES) {
            self.0.push(entry);
        }
    }

    /// Returns the last noted record at or below `offset`.
    pub(super) fn find(&self, offset: Offset) -> Option<IndexEntry> {
        let above = self.0.partition_point(|entry| entry.offset <= offset);
        above.checked_sub(1).and_then(|at| self.0.get(at)).copied()
    }
}

/// A frame and where it stands.
#[derive(Debug)]
pub(super) struct FrameAt {
    pub(super) position: u64,
    pub(super) frame_bytes: u64,
    pub(super) record: ConsumedRecord,
}

/// Reads the frames of one segment in order.
pub(super) struct FrameReader {
    file: File,
    seed: u32,
    /// Bytes of the file that count.
    limit: u64,
    /// Frames from this offset on are leftovers of failed writes; the next segment has the true ones.
    end: Offset,
    chunk_bytes: usize,
    chunk: Bytes,
    /// Where `chunk` begins in the file.
    chunk_at: u64,
    position: u64,
    /// Lowest offset that the next frame may have.
    expected: Offset,
    /// Behind the last valid frame.
    pub(super) valid_end: u64,
    /// Bytes stepped over between valid frames.
    pub(super) damaged_bytes: u64,
}

impl FrameReader {
    /// Opens a segment. Only the first `limit` bytes and offsets below `end` count.
    pub(super) fn open(path: &Path, seed: u32, limit: u64, end: Offset, chunk_bytes: usize) -> io::Result<Self> {
        let file = File::open(path)?;
        let limit = limit.min(file.metadata()?.len());
        Ok(Self {
            file,
            seed,
            limit,
            end,
            chunk_bytes,
            chunk: Bytes::new(),
            chunk_at: 0,
            position: 0,
            expected: Offset(0),
            valid_end: 0,
            damaged_bytes: 0,
        })
    }

    /// Continues at a known frame.
    pub(super) fn seek(&mut self, entry: IndexEntry) {
        self.position = entry.position;
        self.valid_end = entry.position;
        self.expected = entry.offset;
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns the next valid frame; `None` when no more follows in this segment.
    pub(super) fn next_frame(&mut self) -> io::Result<Option<FrameAt>> {
        while self.position < self.limit {
            match frame::decode(&self.rest_of_chunk(), self.seed) {
                Decoded::Frame { record, .. } if record.offset >= self.end => return Ok(None),
                Decoded::Frame { frame_bytes, record } if record.offset >= self.expected => {
                    let (position, frame_bytes) = (self.position, frame_bytes as u64);
                    self.damaged_bytes += position - self.valid_end;
                    self.position += frame_bytes;
                    self.valid_end = self.position;
                    self.expected = record.offset.next();
                    return Ok(Some(FrameAt { position, frame_bytes, record }));
                }
                Decoded::Incomplete { frame_bytes } if frame_bytes as u64 <= self.limit - self.position => self.load(frame_bytes)?,
                Decoded::Frame { .. } | Decoded::Incomplete { .. } | Decoded::Invalid => {
                    self.position = self.find_next_frame()?.unwrap_or(self.limit);
                }
            }
        }
        Ok(None)
    }

    fn rest_of_chunk(&self) -> Bytes {
        let start = self.position.checked_sub(self.chunk_at).and_then(|start| usize::try_from(start).ok());
        start.filter(|start| *start <= self.chunk.len()).map_or_else(Bytes::new, |start| self.chunk.slice(start..))
    }

    /// Reads at least `needed_bytes` from the position on; the file has them.
    fn load(&mut self, needed_bytes: usize) -> io::Result<()> {
        let available = usize::try_from(self.limit - self.position).unwrap_or(usize::MAX);
        self.chunk = self.read_bytes(self.position, needed_bytes.max(self.chunk_bytes).min(available))?;
        self.chunk_at = self.position;
        Ok(())
    }

    fn read_bytes(&mut self, position: u64, length: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; length];
        self.file.seek(SeekFrom::Start(position))?;
        self.file.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }

    /// Returns where the first valid frame behind the current position begins. Reads the rest of the segment into memory, once per damage.
    fn find_next_frame(&mut self) -> io::Result<Option<u64>> {
        let length = usize::try_from(self.limit - self.position).map_err(io::Error::other)?;
        let rest = self.read_bytes(self.position, length)?;
        let highest = Offset(self.expected.0.saturating_add((length / frame::MIN_FRAME_BYTES) as u64)).min(self.end);
        for at in 1..length.saturating_sub(frame::MIN_FRAME_BYTES - 1) {
            let candidate = rest.get(at..).unwrap_or_default();
            let is_plausible = frame::peek_frame_bytes(candidate).is_some_and(|bytes| bytes <= candidate.len())
                && frame::peek_position(candidate).is_some_and(|(offset, _)| (self.expected..=highest).contains(&offset));
            if is_plausible && matches!(frame::decode(&rest.slice(at..), self.seed), Decoded::Frame { .. }) {
                self.chunk = rest;
                self.chunk_at = self.position;
                return Ok(Some(self.position + at as u64));
            }
        }
        Ok(None)
    }
}

/// What a segment holds, found by reading all of it.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) index: SparseIndex,
    /// Behind the last valid frame; what follows in the file is an unfinished write.
    pub(super) valid_bytes: u64,
    /// Bytes behind `valid_bytes`.
    pub(super) torn_bytes: u64,
    pub(super) damaged_bytes: u64,
    /// The offset behind the last valid frame; `None` without any.
    pub(super) next_offset: Option<Offset>,
}

/// Reads a whole segment and checks every frame.
pub(super) fn scan(path: &Path, seed: u32, limit: u64, end: Offset) -> io::Result<Scan> {
    let mut reader = FrameReader::open(path, seed, limit, end, SCAN_CHUNK_BYTES)?;
    let mut index = SparseIndex::default();
    let mut next_offset = None;
    while let Some(FrameAt { position, record, .. }) = reader.next_frame()? {
        let timestamp_unix_ms = record.timestamp_unix_ms;
        index.push(IndexEntry { offset: record.offset, position, timestamp_unix_ms });
        next_offset = Some(record.offset.next());
    }
    Ok(Scan {
        index,
        valid_bytes: reader.valid_end,
        torn_bytes: reader.limit() - reader.valid_end,
        damaged_bytes: reader.damaged_bytes,
        next_offset,
    })
}

/// Returns the timestamp of a segment's first record without checking it; `None` for an empty segment.
pub(super) fn first_timestamp(path: &Path) -> io::Result<Option<u64>> {
    let mut head = [0; frame::MIN_FRAME_BYTES];
    match File::open(path)?.read_exact(&mut head) {
        Ok(()) => Ok(frame::peek_position(&head).map(|(_, timestamp)| timestamp)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}
