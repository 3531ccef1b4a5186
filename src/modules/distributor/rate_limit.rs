//! A token bucket of bytes. Plain arithmetic: the caller brings the time.

use super::limits::{RateStrategy, TenantLimits};

/// The rate in force and the figures that a refusal names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens per second of this process.
    pub local: u64,
    /// local × number of distributors under `global`, else 0.
    pub global: u64,
    pub burst: u64,
}

impl Rate {
    /// Divides a `global` rate by the number of distributors; 0 of them means that there is no ring, and the rate stays whole.
    pub(super) fn of(limits: &TenantLimits, distributors: u64) -> Self {
        let burst = limits.burst_size_bytes;
        match (limits.rate_strategy, distributors) {
            (RateStrategy::Local, _) | (RateStrategy::Global, 0) => Self { local: limits.rate_limit_bytes, global: 0, burst },
            (RateStrategy::Global, count) => {
                let local = limits.rate_limit_bytes / count;
                Self { local, global: local.saturating_mul(count), burst }
            }
        }
    }
}

/// Holds at most `burst` tokens and gains `local` per second. Starts full.
#[derive(Debug)]
pub(super) struct TokenBucket {
    tokens: f64,
    filled_at_unix_nanos: u64,
}

impl TokenBucket {
    pub(super) fn full(rate: Rate, now_unix_nanos: u64) -> Self {
        Self { tokens: rate.burst as f64, filled_at_unix_nanos: now_unix_nanos }
    }

    /// Takes `bytes` tokens if all are there. A clock that steps back adds nothing.
    pub(super) fn try_take(&mut self, bytes: u64, rate: Rate, now_unix_nanos: u64) -> bool {
        let elapsed = now_unix_nanos.saturating_sub(self.filled_at_unix_nanos);
        self.filled_at_unix_nanos = now_unix_nanos;
        let gained = elapsed as f64 / 1e9 * rate.local as f64;
        self.tokens = (self.tokens + gained).min(rate.burst as f64);
        let allowed = bytes as f64 <= self.tokens;
        if allowed {
            self.tokens -= bytes as f64;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn takes_burst_then_rate() {
        let rate = Rate { local: 10, global: 0, burst: 20 };
        let mut bucket = TokenBucket::full(rate, 0);
        assert!(!bucket.try_take(21, rate, 0));
        assert!(bucket.try_take(20, rate, 0));
        assert!(!bucket.try_take(1, rate, 0));
        assert!(!bucket.try_take(6, rate, SECOND / 2));
        assert!(bucket.try_take(5, rate, SECOND / 2));
        assert!(!bucket.try_take(21, rate, 100 * SECOND));
        assert!(bucket.try_take(20, rate, 100 * SECOND));
        assert!(!bucket.try_take(1, rate, 99 * SECOND));
    }

    #[test]
    fn global_rates_are_divided_and_the_burst_is_not() {
        let limits =
            TenantLimits { rate_strategy: RateStrategy::Global, rate_limit_bytes: 100, burst_size_bytes: 7, ..TenantLimits::default() };
        assert_eq!(Rate::of(&limits, 3), Rate { local: 33, global: 99, burst: 7 });
        assert_eq!(Rate::of(&limits, 0), Rate { local: 100, global: 0, burst: 7 });
        assert_eq!(Rate::of(&TenantLimits { rate_strategy: RateStrategy::Local, ..limits }, 3), Rate { local: 100, global: 0, burst: 7 });
    }
}
