//! How many failed requests may be repeated, over all requests of a store together.
//!
//! Each request has its own bound of attempts. When a store is down, every request uses it up and the store gets a multiple of the usual
//! load just when it recovers. So repeats are paid from one bucket of tokens: a failure takes one, a success gives back a tenth, and time
//! gives back a little, so that a quiet process recovers too. Empty: requests fail at their first failure, and the layers above, which wait
//! longer, try again.

use std::sync::Arc;
use std::time::Instant;

use metrics::{counter, gauge};
use parking_lot::Mutex;

use crate::tempodb::metrics as names;

/// Failures in a row that are repeated.
const MAX_TOKENS: f64 = 100.0;
/// Tokens per success: so many repeats a store in trouble gets in addition to its load.
const TOKENS_PER_SUCCESS: f64 = 0.1;
const TOKENS_PER_SECOND: f64 = 1.0;

/// Shared by all requests of a store.
#[derive(Debug, Clone)]
pub(super) struct RetryBudget(Arc<Mutex<Bucket>>);

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl RetryBudget {
    pub(super) fn new() -> Self {
        gauge!(names::RETRY_BUDGET).set(MAX_TOKENS);
        Self(Arc::new(Mutex::new(Bucket { tokens: MAX_TOKENS, at: Instant::now() })))
    }

    pub(super) fn succeeded(&self) {
        let mut bucket = self.0.lock();
        bucket.add(TOKENS_PER_SUCCESS, Instant::now());
        gauge!(names::RETRY_BUDGET).set(bucket.tokens);
    }

    /// Takes note of a failure that could be repeated; false when it may not be.
    pub(super) fn may_retry(&self) -> bool {
        self.may_retry_at(Instant::now())
    }

    fn may_retry_at(&self, now: Instant) -> bool {
        let mut bucket = self.0.lock();
        bucket.add(0.0, now);
        let is_allowed = bucket.tokens >= 1.0;
        if is_allowed {
            bucket.tokens -= 1.0;
            counter!(names::BACKEND_RETRIES, "outcome" => "allowed").increment(1);
        } else {
            counter!(names::BACKEND_RETRIES, "outcome" => "refused").increment(1);
        }
        gauge!(names::RETRY_BUDGET).set(bucket.tokens);
        is_allowed
    }
}

impl Bucket {
    fn add(&mut self, tokens: f64, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + tokens + seconds * TOKENS_PER_SECOND).min(MAX_TOKENS);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_outage_is_not_multiplied_and_recovery_is_slow() {
        let budget = RetryBudget::new();
        let now = Instant::now();
        let allowed = (0..1000).filter(|_| budget.may_retry_at(now)).count();
        assert_eq!(allowed, MAX_TOKENS as usize);
        assert!(!budget.may_retry_at(now));
        assert!(budget.may_retry_at(now + Duration::from_secs(2)));
        for _success in 0..30 {
            budget.succeeded();
        }
        let later = now + Duration::from_secs(2);
        assert_eq!((0..10).filter(|_| budget.may_retry_at(later)).count(), 4);
    }
}
