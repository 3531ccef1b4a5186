//! What jobs of TraceQL metrics queries carry and return, whoever executes them.

use std::sync::Arc;

use super::search::{Inspection, TimeRange};
use crate::tempodb::block::meta::BlockMeta;
use crate::traceql::metrics::{SeriesSet, Window};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A question to spans, wherever they are.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricsRequest {
    /// TraceQL text of a metrics query.
    pub query: String,
    pub window: Window,
    /// Exemplars at most.
    pub exemplars: u32,
    /// Series at most: bounds the memory of a job. Further ones are left out, and the reply says so.
    pub max_series: usize,
}

#[derive(Debug, Clone, Default)]
pub struct MetricsReply {
    pub series: SeriesSet,
    pub inspection: Inspection,
    /// Every span that was looked at lies in the window, so that the reply holds for any other window around it, too.
    pub is_whole: bool,
}

/// What spans in memory give, and where all others are. Both belong to one moment: together they are every acknowledged span, once.
#[derive(Debug, Clone, Default)]
pub struct RecentMetricsReply {
    pub reply: MetricsReply,
    /// The blocks listed at that moment that may hold spans of the window.
    pub blocks: Vec<Arc<BlockMeta>>,
}

/// Returns the whole seconds that have any part in the window.
pub fn seconds_of(window: &Window) -> TimeRange {
    let seconds = |nanos: u64| u32::try_from(nanos).unwrap_or(u32::MAX);
    TimeRange {
        start_unix_seconds: seconds(window.start / NANOS_PER_SECOND),
        end_unix_seconds: seconds(window.end.div_ceil(NANOS_PER_SECOND)).max(1),
    }
}

/// Returns the whole seconds that lie in the window.
pub fn seconds_within(window: &Window) -> TimeRange {
    let seconds = |nanos: u64| u32::try_from(nanos).unwrap_or(u32::MAX);
    TimeRange {
        start_unix_seconds: seconds(window.start.div_ceil(NANOS_PER_SECOND)),
        end_unix_seconds: seconds(window.end / NANOS_PER_SECOND),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_have_outer_and_inner_seconds() {
        let window = Window::instant(1_500_000_000, 3_500_000_000);
        assert_eq!(seconds_of(&window), TimeRange { start_unix_seconds: 1, end_unix_seconds: 4 });
        assert_eq!(seconds_within(&window), TimeRange { start_unix_seconds: 2, end_unix_seconds: 3 });
        let exact = Window::instant(1_000_000_000, 3_000_000_000);
        assert_eq!((seconds_of(&exact), seconds_within(&exact)), (seconds_within(&exact), seconds_of(&exact)));
    }
}
