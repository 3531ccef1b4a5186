//! Times of a metrics query: the data window, the grid of intervals, and how requests and jobs are cut (metrics, time model).
//!
//! Arithmetic saturates: no window, however absurd, overflows.

use crate::base::error_class::ErrorClass;
use crate::traceql::engine::projection::{FetchColumn, FetchCondition, FetchTarget, FetchTest};
use crate::traceql::print::go_duration;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
pub(super) const NANOS_PER_MILLI: u64 = 1_000_000;

/// Spans whose start lies in (start, end] count. Times are unix nanoseconds.
///
/// A range window has a grid of intervals that starts at the last multiple of `step` at or before `start` and ends at the first at or after
/// `end`; interval `i` covers (left, right] and is reported at its right edge. An instant window is one interval, reported at `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub start: u64,
    pub end: u64,
    /// Of an instant window, the length of the request: what `rate()` divides by, also in a job that covers a part of it.
    pub step: u64,
    pub instant: bool,
}

/// Why a window cannot be queried. The texts are those of the compatible system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    #[error("start required")]
    NoStart,
    #[error("end required")]
    NoEnd,
    #[error("step required")]
    NoStep,
    #[error("end must be greater than start")]
    Empty,
    #[error("query window falls entirely within query_end_cutoff")]
    WithinCutoff,
    #[error("step of {} is too small, minimum step for given range is {}", go(*.step), go(*.minimum))]
    StepTooSmall { step: u64, minimum: u64 },
    #[error("metrics query time range exceeds the maximum allowed duration of {}", go(*.maximum))]
    RangeTooLong { maximum: u64 },
}

impl WindowError {
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Invalid
    }
}

fn go(nanos: u64) -> String {
    go_duration(i64::try_from(nanos).unwrap_or(i64::MAX))
}

impl Window {
    pub fn range(start: u64, end: u64, step: u64) -> Self {
        Self { start, end, step, instant: false }
    }

    /// Returns the window of an instant query: its only interval is as long as the window.
    pub fn instant(start: u64, end: u64) -> Self {
        Self { start, end, step: end.saturating_sub(start), instant: true }
    }

    /// Checks that there is something to query.
    pub fn check(&self) -> Result<(), WindowError> {
        if self.start == 0 {
            return Err(WindowError::NoStart);
        }
        if self.end == 0 {
            return Err(WindowError::NoEnd);
        }
        if self.end <= self.start {
            return Err(WindowError::Empty);
        }
        if self.step == 0 { Err(WindowError::NoStep) } else { Ok(()) }
    }

    /// Checks that there are at most `max` steps in the window, if `max` is not 0. To be called before alignment.
    pub fn check_step(&self, max: u64) -> Result<(), WindowError> {
        let length = self.end.saturating_sub(self.start);
        if self.instant || max == 0 || length.checked_div(self.step).is_some_and(|steps| steps <= max) {
            return Ok(());
        }
        Err(WindowError::StepTooSmall { step: self.step, minimum: length / max })
    }

    /// Checks that the window is at most `maximum` nanoseconds long, if `maximum` is not 0. To be called before alignment.
    pub fn check_length(&self, maximum: u64) -> Result<(), WindowError> {
        if maximum > 0 && self.end.saturating_sub(self.start) > maximum { Err(WindowError::RangeTooLong { maximum }) } else { Ok(()) }
    }

    /// Number of intervals; 0 for an empty window.
    pub fn intervals(&self) -> usize {
        if self.end <= self.start {
            return 0;
        }
        if self.instant {
            return 1;
        }
        let (Some(first), Some(last)) = (self.start.checked_div(self.step), self.end.checked_div(self.step)) else { return 0 };
        let last = if self.end.is_multiple_of(self.step) { last } else { last.saturating_add(1) };
        usize::try_from(last - first).unwrap_or(usize::MAX)
    }

    /// Whether a span that starts at `nanos` counts.
    pub fn contains(&self, nanos: u64) -> bool {
        self.start < nanos && nanos <= self.end
    }

    /// Returns the interval of a span that starts at `nanos`; `None` if it does not count.
    pub fn interval_of(&self, nanos: u64) -> Option<usize> {
        if !self.contains(nanos) {
            return None;
        }
        if self.instant {
            return Some(0);
        }
        let first = self.start.checked_div(self.step)?;
        // an edge belongs to the interval that ends there
        usize::try_from((nanos - 1) / self.step - first).ok()
    }

    /// Returns the interval that is reported at the sample time `ms`; `None` outside of the grid. Parts of a query may have been evaluated
    /// over a smaller window, so that an instant sample may lie anywhere in it.
    pub fn interval_of_ms(&self, ms: i64) -> Option<usize> {
        let nanos = u64::try_from(ms).ok()?.checked_mul(NANOS_PER_MILLI)?;
        let (start, end) = (self.start / NANOS_PER_MILLI * NANOS_PER_MILLI, self.end / NANOS_PER_MILLI * NANOS_PER_MILLI);
        if self.instant {
            return (start <= nanos && nanos <= end).then_some(0);
        }
        // sample times are edges cut to milliseconds, so theirs is the first edge that is not before them
        let first = self.start.checked_div(self.step)?;
        let edge = nanos.div_ceil(self.step);
        let interval = usize::try_from(edge.checked_sub(first)?.checked_sub(1)?).ok()?;
        (interval < self.intervals()).then_some(interval)
    }

    /// Returns the time at which interval `index` is reported.
    pub fn timestamp_ms(&self, index: usize) -> i64 {
        let nanos = if self.instant {
            u128::from(self.end)
        } else {
            let first = u128::from(self.start.checked_div(self.step).unwrap_or(0));
            (first + index as u128 + 1) * u128::from(self.step)
        };
        i64::try_from(nanos / u128::from(NANOS_PER_MILLI)).unwrap_or(i64::MAX)
    }

    /// Returns the window widened to whole steps, with one leading interval more: the grid of the response. Instant windows stay.
    pub fn aligned(&self) -> Self {
        if self.instant || self.step == 0 {
            return *self;
        }
        let start = self.start - self.start % self.step;
        let end = self.end.checked_next_multiple_of(self.step).unwrap_or(u64::MAX);
        Self { start, end, ..*self }.with_leading_step()
    }

    /// Returns the window begun one step earlier, unless it is instant or begins with the first step.
    pub fn with_leading_step(&self) -> Self {
        if self.instant || self.start <= self.step { *self } else { Self { start: self.start - self.step, ..*self } }
    }

    /// Returns the window without what is younger than `cutoff` before `now`. An instant window is shortened by whole seconds.
    pub fn clamped_to_cutoff(&self, now: u64, cutoff: u64) -> Result<Self, WindowError> {
        let limit = now.saturating_sub(cutoff);
        if self.start >= limit {
            return Err(WindowError::WithinCutoff);
        }
        let mut clamped = *self;
        if self.instant && self.end > limit {
            clamped.end = self.end.saturating_sub((self.end - limit).div_ceil(NANOS_PER_SECOND).saturating_mul(NANOS_PER_SECOND));
            clamped.step = clamped.end.saturating_sub(clamped.start);
        } else {
            clamped.end = self.end.min(limit);
        }
        if clamped.end <= clamped.start { Err(WindowError::WithinCutoff) } else { Ok(clamped) }
    }

    /// Returns the window that is answered for this request: without what is younger than `cutoff`, then [`Window::aligned`], ending on a
    /// step that is wholly older than the cutoff.
    pub fn for_response(&self, now: u64, cutoff: u64) -> Result<Self, WindowError> {
        let aligned = self.clamped_to_cutoff(now, cutoff)?.aligned();
        let limit = now.saturating_sub(cutoff);
        if aligned.instant || aligned.end <= limit {
            return Ok(aligned);
        }
        let end = limit - limit.checked_rem(aligned.step).unwrap_or(0);
        if end <= aligned.start { Err(WindowError::WithinCutoff) } else { Ok(Self { end, ..aligned }) }
    }

    /// Returns the part in which spans of a block may start, whose times are known in whole seconds; `None` if there is none. Widened to whole
    /// steps as far as this window goes.
    pub fn trimmed_to_block(&self, start_seconds: u64, end_seconds: u64) -> Option<Self> {
        let start = start_seconds.saturating_mul(NANOS_PER_SECOND).saturating_sub(1);
        let end = end_seconds.saturating_add(1).saturating_mul(NANOS_PER_SECOND);
        self.trimmed(start, end)
    }

    /// Returns the part within (start, end], widened to whole steps as far as this window goes; `None` if there is none.
    pub fn trimmed(&self, start: u64, end: u64) -> Option<Self> {
        let (start, end) = if self.instant || self.step == 0 {
            (start, end)
        } else {
            (start - start % self.step, end.checked_next_multiple_of(self.step).unwrap_or(u64::MAX))
        };
        let trimmed = Self { start: self.start.max(start), end: self.end.min(end), ..*self };
        (trimmed.start < trimmed.end).then_some(trimmed)
    }

    /// Returns what storage may skip by: some span must start within the window.
    pub fn condition(&self) -> FetchCondition {
        let nanos = |nanos: u64| i64::try_from(nanos).unwrap_or(i64::MAX);
        let within = nanos(self.start.saturating_add(1))..=nanos(self.end);
        FetchCondition { target: FetchTarget::Column(FetchColumn::SpanStart), test: FetchTest::Numbers(within) }
    }
}

/// Returns the step, in nanoseconds, of a request that names none.
pub fn default_step(start: u64, end: u64) -> u64 {
    /// Intervals aimed at.
    const INTERVALS: u64 = 240;
    const MINUTE: u64 = 60 * NANOS_PER_SECOND;
    const SHORTEST: u64 = 50 * NANOS_PER_MILLI;
    let length = end.saturating_sub(start);
    let base = length / INTERVALS;
    if length < MINUTE {
        return if base > SHORTEST { base - base % SHORTEST } else { SHORTEST };
    }
    let granularities = [60 * MINUTE, 5 * MINUTE, MINUTE, 15 * NANOS_PER_SECOND, 5 * NANOS_PER_SECOND, NANOS_PER_SECOND];
    granularities.into_iter().find(|granularity| base > *granularity).map_or(NANOS_PER_SECOND, |granularity| base - base % granularity)
}

/// Finds the intervals of many spans, as [`Window::interval_of`] does: fast when neighbours are mostly in the same one.
pub(super) struct IntervalFinder {
    window: Window,
    /// Where the grid starts.
    origin: u64,
    /// The interval found last covers (after, until].
    after: u64,
    until: u64,
    last: u32,
}

impl IntervalFinder {
    pub(super) fn new(window: &Window) -> Self {
        let origin = window.start - window.start.checked_rem(window.step).unwrap_or(0);
        Self { window: *window, origin, after: u64::MAX, until: 0, last: 0 }
    }

    #[inline]
    pub(super) fn interval_of(&mut self, nanos: u64) -> Option<u32> {
        if self.after < nanos && nanos <= self.until { Some(self.last) } else { self.find(nanos) }
    }

    fn find(&mut self, nanos: u64) -> Option<u32> {
        let Window { start, end, step, instant } = self.window;
        let interval = u32::try_from(self.window.interval_of(nanos)?).ok()?;
        self.last = interval;
        (self.after, self.until) = if instant {
            (start, end)
        } else {
            let left = self.origin + u64::from(interval) * step;
            (left.max(start), left.saturating_add(step).min(end))
        };
        Some(interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = NANOS_PER_SECOND;

    #[test]
    fn edges_belong_to_the_interval_that_ends_there() {
        let window = Window::range(103 * S, 147 * S, 10 * S);
        assert_eq!(window.intervals(), 5);
        let at = |nanos: u64| window.interval_of(nanos);
        assert_eq!(
            [at(103 * S), at(103 * S + 1), at(110 * S), at(110 * S + 1), at(147 * S), at(147 * S + 1)],
            [None, Some(0), Some(0), Some(1), Some(4), None]
        );
        assert_eq!((0..5).map(|i| window.timestamp_ms(i)).collect::<Vec<_>>(), [110_000, 120_000, 130_000, 140_000, 150_000]);
        assert_eq!([110_000, 150_000, 100_000, 160_000, -1].map(|ms| window.interval_of_ms(ms)), [Some(0), Some(4), None, None, None]);
        let instant = Window::instant(100 * S, 160 * S);
        assert_eq!((instant.intervals(), instant.step, instant.timestamp_ms(0)), (1, 60 * S, 160_000));
        assert_eq!([100 * S, 100 * S + 1, 160 * S].map(|nanos| instant.interval_of(nanos)), [None, Some(0), Some(0)]);
    }

    #[test]
    fn sample_times_lead_back_to_their_intervals() {
        for step in [1, 7, 999_999, 1_000_001, 2_500_000, 333_333_333, S, 15 * S] {
            let window = Window::range(1_700_000_000 * S + 3, 1_700_000_000 * S + 3 + step.saturating_mul(5), step);
            for interval in 0..window.intervals() {
                let found = window.interval_of_ms(window.timestamp_ms(interval));
                if step >= NANOS_PER_MILLI {
                    assert_eq!(found, Some(interval), "step {step}");
                }
            }
        }
    }

    #[test]
    fn neighbours_are_found_in_their_intervals() {
        for window in [Window::range(105 * S, 147 * S, 10 * S), Window::instant(105 * S, 147 * S)] {
            let mut finder = IntervalFinder::new(&window);
            for nanos in (100 * S..150 * S).step_by(S as usize / 2).chain([147 * S + 1, 110 * S, 110 * S + 1, 105 * S, 147 * S]) {
                assert_eq!(finder.interval_of(nanos), window.interval_of(nanos).map(|interval| interval as u32), "{nanos}");
            }
        }
    }

    #[test]
    fn absurd_windows_do_not_overflow() {
        for (start, end, step) in [(0, 0, 0), (1, u64::MAX, 1), (u64::MAX, 1, 5), (u64::MAX - 1, u64::MAX, u64::MAX), (5, 9, 0)] {
            for instant in [false, true] {
                let window = Window { start, end, step, instant };
                let _ = (window.check(), window.check_step(10), window.check_length(1), window.intervals(), window.condition());
                let _ = (window.aligned().with_leading_step(), window.clamped_to_cutoff(7, 5), window.for_response(u64::MAX, 1));
                let _ = (window.trimmed_to_block(0, u64::MAX), window.trimmed(end, start), default_step(start, end));
                for nanos in [0, 1, end, u64::MAX] {
                    let _ = (IntervalFinder::new(&window).interval_of(nanos), window.interval_of(nanos));
                    let _ = (window.interval_of_ms(nanos as i64), window.timestamp_ms(nanos as usize));
                }
            }
        }
    }

    #[test]
    fn responses_are_aligned_and_older_than_the_cutoff() {
        let window = Window::range(101 * S, 147 * S, 10 * S);
        assert_eq!(window.aligned(), Window::range(90 * S, 150 * S, 10 * S));
        assert_eq!(window.for_response(1_000 * S, 30 * S), Ok(Window::range(90 * S, 150 * S, 10 * S)));
        assert_eq!(window.for_response(175 * S, 30 * S), Ok(Window::range(90 * S, 140 * S, 10 * S)));
        assert_eq!(window.for_response(130 * S, 30 * S), Err(WindowError::WithinCutoff));
        assert_eq!(Window::range(5 * S, 8 * S, 10 * S).aligned(), Window::range(0, 10 * S, 10 * S));
        let instant = Window::instant(100 * S, 150 * S);
        assert_eq!(instant.for_response(175 * S + 1, 30 * S), Ok(Window::instant(100 * S, 145 * S)));
        assert_eq!(instant.for_response(174 * S + 1, 30 * S), Ok(Window::instant(100 * S, 144 * S)));
    }

    #[test]
    fn blocks_trim_outward_to_steps() {
        let window = Window::range(90 * S, 150 * S, 10 * S);
        assert_eq!(window.trimmed_to_block(113, 125), Some(Window::range(110 * S, 130 * S, 10 * S)));
        assert_eq!(window.trimmed_to_block(0, 1_000), Some(window));
        assert_eq!(window.trimmed_to_block(151, 160), None);
        let instant = Window::instant(100 * S, 150 * S);
        let trimmed = instant.trimmed_to_block(110, 120).unwrap();
        assert_eq!((trimmed.start, trimmed.end, trimmed.step, trimmed.instant), (110 * S - 1, 121 * S, 50 * S, true));
    }

    #[test]
    fn default_steps() {
        let step = |length: u64| default_step(1_000 * S, 1_000 * S + length);
        assert_eq!(
            [step(30 * S), step(12 * S), step(3_600 * S), step(86_400 * S), step(7 * 86_400 * S), step(120 * S)],
            [100 * NANOS_PER_MILLI, 50 * NANOS_PER_MILLI, 15 * S, 300 * S, 2_400 * S, S]
        );
    }

    #[test]
    fn limits_have_their_texts() {
        let day = Window::range(S, 86_401 * S, S);
        assert_eq!(day.check_step(10_000).unwrap_err().to_string(), "step of 1s is too small, minimum step for given range is 8.64s");
        assert_eq!(day.check_step(0), Ok(()));
        assert_eq!(
            day.check_length(3_600 * S).unwrap_err().to_string(),
            "metrics query time range exceeds the maximum allowed duration of 1h0m0s"
        );
        assert_eq!(Window::range(0, 5, 1).check().unwrap_err().to_string(), "start required");
        assert_eq!(Window::range(5, 5, 1).check().unwrap_err().to_string(), "end must be greater than start");
    }
}
