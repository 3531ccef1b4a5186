//! A line on standard error that tells how far long work has come. Silent unless standard error is a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Shortest time between two updates of the line.
const UPDATE_INTERVAL: Duration = Duration::from_millis(100);
const BAR_WIDTH: usize = 30;

/// Progress towards a known number of steps.
pub(super) struct Progress {
    what: &'static str,
    total: u64,
    done: AtomicU64,
    started: Instant,
    /// When the line was last written; `None` when nobody watches.
    shown: Option<Mutex<Instant>>,
}

impl Progress {
    pub(super) fn new(what: &'static str, total: usize) -> Self {
        let started = Instant::now();
        let shown = std::io::stderr().is_terminal().then(|| Mutex::new(started));
        Self { what, total: total as u64, done: AtomicU64::new(0), started, shown }
    }

    /// One more step is done.
    pub(super) fn step(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(shown) = &self.shown else { return };
        let mut shown = shown.lock();
        if shown.elapsed() >= UPDATE_INTERVAL {
            *shown = Instant::now();
            self.write(&self.line(done, self.started.elapsed()));
        }
    }

    fn line(&self, done: u64, elapsed: Duration) -> String {
        let total = self.total.max(1);
        let filled = (done.min(total) as usize * BAR_WIDTH) / total as usize;
        let left = elapsed.as_secs_f64() / done.max(1) as f64 * total.saturating_sub(done) as f64;
        format!("{} [{:<BAR_WIDTH$}] {done}/{} {left:.0}s left", self.what, "#".repeat(filled), self.total)
    }

    fn write(&self, line: &str) {
        // Nobody is hurt when the terminal is gone.
        let _closed = write!(std::io::stderr(), "\r\x1b[2K{line}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            self.write("");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_share_and_time_left() {
        let progress = Progress { what: "blocks", total: 4, done: AtomicU64::new(0), started: Instant::now(), shown: None };
        assert_eq!(progress.line(1, Duration::from_secs(2)), format!("blocks [{:<30}] 1/4 6s left", "#######"));
        assert_eq!(progress.line(4, Duration::from_secs(8)), format!("blocks [{}] 4/4 0s left", "#".repeat(30)));
    }
}
