//! TraceQL metrics: spans of tables become series, in three stages that may run in different processes.
//!
//! ```text
//! Query ─ MetricsPlan ─▶ RawMetrics per job: SpanTable, SpanTable, … ─▶ SeriesSet ┐
//!                        RawMetrics per job: SpanTable, …            ─▶ SeriesSet ┴─ SumStage ─▶ SeriesSet ─ FinalStage ─▶ FinalResult
//! ```
//!
//! All stages of a query are made from equal plans. Windows of jobs are parts of the window of the response, with the same step. A
//! [`SumStage`] may be left out, and may be repeated; neither that nor how spans are spread over jobs changes counts.
//!
//! Not here: reading storage, requests and their defaults, wire forms (serving does that).
//!
//! Invariants
//! * No I/O, no clock: the same tables give the same series.
//! * Each stage holds at most [`MAX_STATE_BYTES`] of series. At that bound, and at `max_series`, it goes on without what does not fit and its
//!   result is `partial`.

mod window;
mod series;
mod plan;
mod raw;
mod compare;
mod accumulate;
mod exemplars;
mod tracestate;
mod sum;
mod second;
mod answer;

#[cfg(test)]
mod tests;

pub use answer::{FinalOptions, FinalResult, FinalStage};
pub use plan::MetricsPlan;
pub use raw::RawMetrics;
pub use series::{
    BUCKET_LABEL, COUNT_META, Exemplar, FRAGMENT_LABEL, Label, Labels, META_LABEL, NAME_LABEL, QUANTILE_LABEL, Sample, Series, SeriesSet,
    TRACE_ID_LABEL,
};
pub use sum::SumStage;
pub use window::{Window, WindowError, default_step};

/// Series of one stage of one query, in bytes. Ten thousand series of a thousand intervals take 80 MB.
pub const MAX_STATE_BYTES: usize = 128 << 20;

/// Intervals of one query. Requests are usually held to far fewer; this bounds what a single series can take.
pub const MAX_INTERVALS: usize = 1_000_000;

/// The circumstances of one job, or of merging some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobOptions {
    pub window: Window,
    /// Greatest number of exemplars.
    pub exemplars: u32,
    /// The job ends early once it has this many series; 0: no limit.
    pub max_series: usize,
}
