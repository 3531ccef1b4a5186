//! A named budget of bytes for buffers whose sizes vary: whoever holds memory holds a reservation, and what does not fit is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, counter, gauge};

/// A reservation that does not fit now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("memory budget {name} of {limit} bytes is used up")]
pub struct BudgetExhausted {
    pub name: &'static str,
    pub limit: u64,
}

/// A budget; clones share it. Full: refuse.
#[derive(Clone)]
pub struct ByteBudget(Arc<Shared>);

struct Shared {
    name: &'static str,
    limit: u64,
    used: AtomicU64,
    used_metric: Gauge,
    refused_metric: Counter,
}

impl ByteBudget {
    /// Creates a budget of `limit` bytes. `name` is its label in metrics.
    pub fn new(name: &'static str, limit: u64) -> Self {
        gauge!("tempo_rs_memory_budget_limit_bytes", "budget" => name).set(limit as f64);
        Self(Arc::new(Shared {
            name,
            limit,
            used: AtomicU64::new(0),
            used_metric: gauge!("tempo_rs_memory_budget_used_bytes", "budget" => name),
            refused_metric: counter!("tempo_rs_memory_budget_refused_total", "budget" => name),
        }))
    }

    /// Takes `bytes` until the reservation is dropped.
    pub fn try_reserve(&self, bytes: u64) -> Result<Reservation, BudgetExhausted> {
        let mut reservation = Reservation { budget: self.clone(), bytes: 0 };
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// Bytes reserved now.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }
}

/// Bytes taken from a budget; given back on drop.
pub struct Reservation {
    budget: ByteBudget,
    bytes: u64,
}

impl Reservation {
    /// Takes `more` bytes. On failure the reservation stays as it is.
    pub fn grow(&mut self, more: u64) -> Result<(), BudgetExhausted> {
        let shared = &self.budget.0;
        let fits = |used: u64| used.checked_add(more).filter(|used| *used <= shared.limit);
        match shared.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => {
                self.bytes += more;
                shared.used_metric.increment(more as f64);
                Ok(())
            }
            Err(_) => {
                shared.refused_metric.increment(1);
                Err(BudgetExhausted { name: shared.name, limit: shared.limit })
            }
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.0.used_metric.decrement(self.bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_until_something_is_given_back() {
        let budget = ByteBudget::new("test", 10);
        let mut first = budget.try_reserve(6).unwrap();
        assert!(budget.try_reserve(5).is_err());
        first.grow(4).unwrap();
        assert_eq!(first.grow(1), Err(BudgetExhausted { name: "test", limit: 10 }));
        assert_eq!((first.bytes(), budget.used()), (10, 10));
        drop(first);
        assert!(budget.try_reserve(u64::MAX).is_err());
        assert_eq!(budget.try_reserve(10).unwrap().bytes(), 10);
        assert_eq!(budget.used(), 0);
    }
}
