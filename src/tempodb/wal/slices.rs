//! The traces of a WAL block in ascending order, a slice of the id space at a time.
//!
//! Rows lie in order of arrival in many files, so every slice goes over all files and reads the pages that hold its rows: as many passes
//! as slices. That costs CPU where sorted runs would cost disk, and blocks are cut long before it matters (50 MiB of files are four passes).
//!
//! Memory, whatever the size of the log: for one WAL block at a time
//! * 32 bytes a row, to know where it lies (and as much once more while sorting),
//! * the decoded rows of a slice, at most twice `slice_bytes` (or one trace, when that is larger), and the table they are joined to,
//! * the pages of one window of one file, about [`WINDOW_BYTES`], and the dictionaries of its columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::WalError;
use super::file::WalFile;
use crate::base::cpu_pool::CpuPool;
use crate::model::combine::merge_tables;
use crate::model::ids::TraceId;
use crate::model::span_table::SpanTable;

/// Memory of the decoded rows of a slice, as roles use it.
pub const DEFAULT_SLICE_BYTES: usize = 64 << 20;

/// Bytes of a file that are fetched at once, by the file's average row.
pub const WINDOW_BYTES: u64 = 16 << 20;

/// Decoded bytes for a stored one, assumed for the first slice. Traces of instrumented services decode to five to seven times their size.
const FIRST_EXPANSION: u64 = 8;

/// The least that a span takes in a table.
const MIN_SPAN_BYTES: u64 = 150;

/// Where a row lies in the block.
#[derive(Debug, Clone, Copy)]
struct RowRef {
    id: TraceId,
    spans: u32,
    file: u32,
    group: u32,
    row: u32,
}

pub struct Slices {
    files: Vec<Arc<WalFile>>,
    cpu: CpuPool,
    /// Ascending by id, pieces of a trace in order of their files.
    rows: Vec<RowRef>,
    next: usize,
    slice_bytes: usize,
    /// Table bytes of a span, as last measured.
    span_bytes: u64,
    count: usize,
    peak_bytes: usize,
}

impl Slices {
    pub(super) fn new(files: Vec<Arc<WalFile>>, cpu: CpuPool, slice_bytes: usize) -> Self {
        let mut rows = Vec::with_capacity(files.iter().map(|file| file.rows.len()).sum());
        for (number, file) in files.iter().enumerate() {
            rows.extend(file.rows.iter().map(|row| RowRef {
                id: row.id,
                spans: row.spans,
                file: number as u32,
                group: row.group,
                row: row.row,
            }));
        }
        rows.sort_unstable_by_key(|row| (row.id, row.file, row.group, row.row));
        let spans: u64 = rows.iter().map(|row| u64::from(row.spans)).sum();
        let bytes: u64 = files.iter().map(|file| file.bytes).sum();
        let span_bytes = (bytes.saturating_mul(FIRST_EXPANSION) / spans.max(1)).max(MIN_SPAN_BYTES);
        Self { files, cpu, rows, next: 0, slice_bytes: slice_bytes.max(1), span_bytes, count: 0, peak_bytes: 0 }
    }

    /// Slices so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Most memory that tables held at once so far.
    pub fn peak_bytes(&self) -> usize {
        self.peak_bytes
    }

    /// Returns the next slice; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<SpanTable>, WalError> {
        if self.next >= self.rows.len() {
            return Ok(None);
        }
        let tables = loop {
            let end = self.cut();
            match self.read(end).await? {
                Some(tables) => {
                    self.next = end;
                    break tables;
                }
                // The rows were larger than thought; a smaller slice will do.
                None => self.span_bytes = self.span_bytes.saturating_mul(2),
            }
        };
        let decoded: usize = tables.iter().map(SpanTable::memory_bytes).sum();
        let merged = self.cpu.run("join_wal_rows", move || merge_tables(&tables.iter().collect::<Vec<_>>())).await?;
        self.peak_bytes = self.peak_bytes.max(decoded + merged.memory_bytes());
        self.span_bytes = (decoded as u64 / (merged.span_count() as u64).max(1)).max(MIN_SPAN_BYTES);
        self.count += 1;
        Ok(Some(merged))
    }

    /// Returns the end of the next slice: whole traces, at least one.
    fn cut(&self) -> usize {
        let most_spans = (self.slice_bytes as u64 / self.span_bytes).max(1);
        let (mut end, mut spans) = (self.next, 0);
        for trace in self.rows[self.next..].chunk_by(|a, b| a.id == b.id) {
            let more: u64 = trace.iter().map(|row| u64::from(row.spans) + 1).sum();
            if end > self.next && spans + more > most_spans {
                break;
            }
            spans += more;
            end += trace.len();
        }
        end
    }

    /// Reads the rows up to `end`, file by file; `None` when they take far more memory than they may and can be cut.
    async fn read(&self, end: usize) -> Result<Option<Vec<SpanTable>>, WalError> {
        let slice = &self.rows[self.next..end];
        let is_one_trace = slice.first().map(|row| row.id) == slice.last().map(|row| row.id);
        let mut wanted: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
        for row in slice {
            wanted.entry((row.file, row.group)).or_default().push(row.row);
        }
        let (mut tables, mut bytes) = (Vec::new(), 0);
        for ((file, group), mut rows) in wanted {
            rows.sort_unstable();
            let file = &self.files[file as usize];
            let window_rows = window_rows(file);
            for window in rows.chunk_by(|first, next| first / window_rows == next / window_rows) {
                let table = file.read(group, window, &self.cpu).await?;
                bytes += table.memory_bytes();
                tables.push(table);
                if bytes > self.slice_bytes.saturating_mul(2) && !is_one_trace {
                    return Ok(None);
                }
            }
        }
        Ok(Some(tables))
    }
}

/// Consecutive rows of a file whose pages are fetched at once.
fn window_rows(file: &WalFile) -> u32 {
    let rows = file.rows.len() as u64;
    let window = (rows.saturating_mul(WINDOW_BYTES) / file.bytes.max(1)).max(1);
    u32::try_from(window).unwrap_or(u32::MAX)
}
