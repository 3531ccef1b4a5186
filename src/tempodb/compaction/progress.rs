//! How far a running job is, for whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one job. Written by the job, read by anyone at any time.
#[derive(Debug, Default)]
pub struct CompactionProgress {
    bytes_total: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    traces: AtomicU64,
    spans: AtomicU64,
    memory_bytes: AtomicU64,
    peak_memory_bytes: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProgressSnapshot {
    /// Stored bytes of all inputs.
    pub bytes_total: u64,
    /// Stored bytes of the inputs that are decoded.
    pub bytes_read: u64,
    /// Bytes of `data.parquet` uploaded or on their way.
    pub bytes_written: u64,
    /// Traces merged.
    pub traces: u64,
    /// Spans merged, after duplicates were dropped.
    pub spans: u64,
    /// Memory of the job's buffers and tables, now and at most.
    pub memory_bytes: u64,
    pub peak_memory_bytes: u64,
}

impl CompactionProgress {
    pub fn snapshot(&self) -> ProgressSnapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProgressSnapshot {
            bytes_total: load(&self.bytes_total),
            bytes_read: load(&self.bytes_read),
            bytes_written: load(&self.bytes_written),
            traces: load(&self.traces),
            spans: load(&self.spans),
            memory_bytes: load(&self.memory_bytes),
            peak_memory_bytes: load(&self.peak_memory_bytes),
        }
    }

    pub fn start(&self, bytes_total: u64) {
        self.bytes_total.fetch_add(bytes_total, Ordering::Relaxed);
    }

    pub fn add_read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn add_written(&self, bytes: u64) {
        self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn add_merged(&self, traces: u64, spans: u64) {
        self.traces.fetch_add(traces, Ordering::Relaxed);
        self.spans.fetch_add(spans, Ordering::Relaxed);
    }

    pub fn take_memory(&self, bytes: u64) {
        let now = self.memory_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak_memory_bytes.fetch_max(now, Ordering::Relaxed);
    }

    pub fn give_memory(&self, bytes: u64) {
        self.memory_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}
