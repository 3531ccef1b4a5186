//! How far two ranges of an object may lie apart and still be read with one request.
//!
//! A request costs a round trip, bytes in between cost transfer time: the break-even gap is latency × throughput. Both are measured on the
//! requests of this process: small ones tell the latency, large ones the throughput.

use std::time::Duration;

use metrics::gauge;
use parking_lot::Mutex;

use crate::tempodb::metrics as names;

/// Requests up to this size take as long as a round trip.
const SMALL_BYTES: u64 = 64 << 10;
/// Requests from this size on tell the throughput.
const LARGE_BYTES: u64 = 512 << 10;
/// Weight of a new measurement.
const WEIGHT: f64 = 0.1;

/// Smallest and largest gap; equal ones need no measuring.
#[derive(Debug, Clone, Copy)]
pub(super) struct GapBounds {
    pub(super) least: u64,
    pub(super) most: u64,
}

impl GapBounds {
    /// A round trip is a system call.
    pub(super) const LOCAL: Self = Self { least: 64 << 10, most: 64 << 10 };
    /// From a fast store nearby (1 ms, 250 MB/s) to a distant one (50 ms, 80 MB/s).
    pub(super) const OBJECT_STORE: Self = Self { least: 256 << 10, most: 4 << 20 };
}

#[derive(Debug)]
pub(super) struct CoalesceGap {
    bounds: GapBounds,
    measured: Mutex<Measured>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Measured {
    latency_seconds: Option<f64>,
    bytes_per_second: Option<f64>,
}

impl CoalesceGap {
    pub(super) fn new(bounds: GapBounds) -> Self {
        Self { bounds, measured: Mutex::default() }
    }

    /// The gap to use now. Until both figures are known it is the geometric mean of the bounds.
    pub(super) fn bytes(&self) -> u64 {
        let GapBounds { least, most } = self.bounds;
        let measured = *self.measured.lock();
        match (measured.latency_seconds, measured.bytes_per_second) {
            (Some(latency), Some(speed)) => ((latency * speed) as u64).clamp(least, most),
            _ => ((least as f64 * most as f64).sqrt() as u64).clamp(least, most),
        }
    }

    /// Takes note of a request that took `duration`.
    pub(super) fn observe(&self, bytes: u64, duration: Duration) {
        if self.bounds.least == self.bounds.most {
            return;
        }
        let seconds = duration.as_secs_f64();
        let mut measured = self.measured.lock();
        if bytes <= SMALL_BYTES {
            measured.latency_seconds = Some(smoothed(measured.latency_seconds, seconds));
        } else if bytes >= LARGE_BYTES {
            let transfer = (seconds - measured.latency_seconds.unwrap_or_default()).max(seconds / 10.0);
            measured.bytes_per_second = Some(smoothed(measured.bytes_per_second, bytes as f64 / transfer.max(1e-6)));
        } else {
            return;
        }
        drop(measured);
        gauge!(names::COALESCE_GAP).set(self.bytes() as f64);
    }
}

fn smoothed(before: Option<f64>, now: f64) -> f64 {
    before.map_or(now, |before| before + WEIGHT * (now - before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap_after(latency_ms: u64, bytes_per_second: u64) -> u64 {
        let gap = CoalesceGap::new(GapBounds::OBJECT_STORE);
        for _request in 0..50 {
            gap.observe(1000, Duration::from_millis(latency_ms));
            let bytes = 8 << 20;
            gap.observe(bytes, Duration::from_millis(latency_ms) + Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64));
        }
        gap.bytes()
    }

    #[test]
    fn the_gap_is_what_a_round_trip_transfers_within_the_bounds() {
        let mb = 1_000_000;
        let near = |value: u64, expected: u64| value.abs_diff(expected) < expected / 20;
        assert!(near(gap_after(10, 100 * mb), mb), "{}", gap_after(10, 100 * mb));
        assert_eq!(gap_after(1, 50 * mb), GapBounds::OBJECT_STORE.least);
        assert_eq!(gap_after(200, 100 * mb), GapBounds::OBJECT_STORE.most);
        assert_eq!(CoalesceGap::new(GapBounds::OBJECT_STORE).bytes(), 1 << 20);
        let local = CoalesceGap::new(GapBounds::LOCAL);
        local.observe(1, Duration::from_secs(1));
        assert_eq!(local.bytes(), 64 << 10);
    }
}
