//! Stops asking a server that does not answer: after some failures in a row it is left alone for a while.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// When a circuit opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CircuitSettings {
    /// Failures in a row that open it; at least 1.
    pub(super) failures: u32,
    /// Time without requests.
    pub(super) open_for: Duration,
    /// Failures longer ago than this do not count; `None`: all count.
    pub(super) interval: Option<Duration>,
}

impl Default for CircuitSettings {
    /// What protects queries when nothing is configured: a server that swallows requests costs this many timeouts, once in a while.
    fn default() -> Self {
        Self { failures: 10, open_for: Duration::from_secs(10), interval: None }
    }
}

/// The state of one server.
#[derive(Debug)]
pub(super) struct Circuit {
    settings: CircuitSettings,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    first_failure: Option<Instant>,
    open_until: Option<Instant>,
}

impl Circuit {
    pub(super) fn new(settings: CircuitSettings) -> Self {
        Self { settings, state: Mutex::default() }
    }

    /// Whether a request may be sent. When the time of an open circuit is over, one request is let through to try; the next follows only if it
    /// succeeds, or as much time later.
    pub(super) fn allows(&self) -> bool {
        let mut state = self.state.lock();
        let now = Instant::now();
        match state.open_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                state.open_until = Some(now + self.settings.open_for);
                true
            }
        }
    }

    pub(super) fn succeeded(&self) {
        *self.state.lock() = State::default();
    }

    /// Returns whether this failure opened the circuit.
    pub(super) fn failed(&self) -> bool {
        let mut state = self.state.lock();
        let now = Instant::now();
        let is_old = |first: Instant| self.settings.interval.is_some_and(|interval| now - first > interval);
        if state.first_failure.is_none_or(is_old) {
            state.failures = 0;
            state.first_failure = Some(now);
        }
        state.failures = state.failures.saturating_add(1);
        let opens = state.open_until.is_none() && state.failures >= self.settings.failures.max(1);
        if opens {
            state.open_until = Some(now + self.settings.open_for);
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn circuit(interval: Option<Duration>) -> Circuit {
        Circuit::new(CircuitSettings { failures: 2, open_for: 10 * SECOND, interval })
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_a_trial_closes_it() {
        let circuit = circuit(None);
        assert!(!circuit.failed());
        circuit.succeeded();
        assert!(!circuit.failed() && circuit.allows());
        assert!(circuit.failed() && !circuit.allows());
        tokio::time::advance(10 * SECOND).await;
        assert_eq!((circuit.allows(), circuit.allows()), (true, false), "one trial");
        circuit.failed();
        tokio::time::advance(9 * SECOND).await;
        assert!(!circuit.allows());
        tokio::time::advance(SECOND).await;
        assert!(circuit.allows());
        circuit.succeeded();
        assert!(circuit.allows() && circuit.allows());
    }

    #[tokio::test(start_paused = true)]
    async fn old_failures_do_not_count() {
        let circuit = circuit(Some(5 * SECOND));
        circuit.failed();
        tokio::time::advance(6 * SECOND).await;
        assert!(!circuit.failed() && circuit.allows());
        assert!(circuit.failed());
    }
}
