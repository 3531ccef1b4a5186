//! What the distributor remembers of each tenant: its token bucket, its limits, its metric handles.
//!
//! Bound: at most [`MAX_TENANTS`] tenants. A tenant that pushed nothing for [`IDLE_NANOS`] is forgotten when room is needed; when all are
//! active, pushes of further tenants are refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Histogram, counter, histogram};
use parking_lot::{Mutex, RwLock};

use crate::model::ids::TenantId;
use crate::model::otlp::attributes::AttributeOwner;

use super::error::PushError;
use super::limits::{SharedIngestionLimits, TenantLimits};
use super::metrics as names;
use super::rate_limit::{Rate, TokenBucket};

/// Tenants remembered at once.
const MAX_TENANTS: usize = 20_000;
/// A tenant silent for this long may be forgotten: by then its bucket is full again.
const IDLE_NANOS: u64 = 10 * 60 * 1_000_000_000;
/// Limits are asked for again after this time (write-path, rate limiting).
const LIMITS_FRESH_NANOS: u64 = 10 * 1_000_000_000;

pub(super) struct Tenants {
    limits: SharedIngestionLimits,
    known: RwLock<HashMap<TenantId, Arc<Tenant>>>,
}

pub(super) struct Tenant {
    pub(super) id: TenantId,
    pub(super) metrics: TenantMetrics,
    admission: Mutex<Admission>,
    last_push_unix_nanos: AtomicU64,
}

struct Admission {
    limits: Arc<TenantLimits>,
    rate: Rate,
    read_at_unix_nanos: u64,
    bucket: TokenBucket,
}

/// Handles of a tenant's series, looked up once.
pub(super) struct TenantMetrics {
    pub(super) ingress_bytes: Counter,
    pub(super) bytes_received: Counter,
    pub(super) spans_received: Counter,
    pub(super) distance_future: Histogram,
    pub(super) distance_past: Histogram,
}

impl TenantMetrics {
    fn new(tenant: &TenantId) -> Self {
        let tenant = tenant.as_str().to_owned();
        Self {
            ingress_bytes: counter!(names::INGRESS_BYTES, "tenant" => tenant.clone()),
            bytes_received: counter!(names::BYTES_RECEIVED, "tenant" => tenant.clone()),
            spans_received: counter!(names::SPANS_RECEIVED, "tenant" => tenant.clone()),
            distance_future: histogram!(names::DISTANCE_FUTURE, "tenant" => tenant.clone()),
            distance_past: histogram!(names::DISTANCE_PAST, "tenant" => tenant),
        }
    }
}

impl Tenants {
    pub(super) fn new(limits: SharedIngestionLimits) -> Self {
        Self { limits, known: RwLock::default() }
    }

    /// Returns what is known of `id`, creating it at its first push.
    pub(super) fn get(&self, id: &TenantId, now: u64) -> Result<Arc<Tenant>, PushError> {
        if let Some(tenant) = self.known.read().get(id) {
            tenant.last_push_unix_nanos.store(now, Ordering::Relaxed);
            return Ok(Arc::clone(tenant));
        }
        let admission = self.admission(id, now, None);
        let mut known = self.known.write();
        if known.len() >= MAX_TENANTS {
            known.retain(|_, tenant| now.saturating_sub(tenant.last_push_unix_nanos.load(Ordering::Relaxed)) < IDLE_NANOS);
            if known.len() >= MAX_TENANTS {
                counter!(names::TENANTS_REFUSED).increment(1);
                return Err(PushError::TooManyTenants { limit: MAX_TENANTS });
            }
        }
        let tenant = known.entry(id.clone()).or_insert_with(|| {
            Arc::new(Tenant {
                id: id.clone(),
                metrics: TenantMetrics::new(id),
                admission: Mutex::new(admission),
                last_push_unix_nanos: AtomicU64::new(now),
            })
        });
        Ok(Arc::clone(tenant))
    }

    fn admission(&self, id: &TenantId, now: u64, bucket: Option<TokenBucket>) -> Admission {
        let limits = Arc::new(self.limits.ingestion(id));
        let rate = Rate::of(&limits, self.limits.distributors());
        let bucket = bucket.unwrap_or_else(|| TokenBucket::full(rate, now));
        Admission { limits, rate, read_at_unix_nanos: now, bucket }
    }

    /// Returns the tenant's limits, at most ten seconds old.
    pub(super) fn limits_of(&self, tenant: &Tenant, now: u64) -> Arc<TenantLimits> {
        let mut admission = tenant.admission.lock();
        if now.saturating_sub(admission.read_at_unix_nanos) >= LIMITS_FRESH_NANOS {
            let fresh = self.admission(&tenant.id, now, None);
            admission.limits = fresh.limits;
            admission.rate = fresh.rate;
            admission.read_at_unix_nanos = now;
        }
        Arc::clone(&admission.limits)
    }
}

impl Tenant {
    /// Takes `bytes` from the tenant's bucket. Refused: the rate in force.
    pub(super) fn admit(&self, bytes: u64, now: u64) -> Result<(), Rate> {
        let mut admission = self.admission.lock();
        let rate = admission.rate;
        if admission.bucket.try_take(bytes, rate, now) { Ok(()) } else { Err(rate) }
    }

    pub(super) fn count_discarded(&self, reason: &'static str, spans: usize) {
        if spans > 0 {
            counter!(names::DISCARDED_SPANS, "reason" => reason, "tenant" => self.id.as_str().to_owned()).increment(spans as u64);
        }
    }

    pub(super) fn count_cuts(&self, owner: AttributeOwner, cuts: u64) {
        if cuts > 0 {
            counter!(names::ATTRIBUTES_TRUNCATED, "tenant" => self.id.as_str().to_owned(), "scope" => owner.as_str()).increment(cuts);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::modules::distributor::limits::{FixedLimits, IngestionLimits};

    #[test]
    fn limits_are_read_again_after_ten_seconds() {
        struct Growing(AtomicU64);
        impl IngestionLimits for Growing {
            fn ingestion(&self, _tenant: &TenantId) -> TenantLimits {
                TenantLimits { rate_limit_bytes: self.0.fetch_add(1, Ordering::Relaxed), ..TenantLimits::default() }
            }
        }
        let tenants = Tenants::new(Arc::new(Growing(AtomicU64::new(1))));
        let tenant = tenants.get(&TenantId::single(), 0).unwrap();
        assert_eq!(tenants.limits_of(&tenant, LIMITS_FRESH_NANOS - 1).rate_limit_bytes, 1);
        assert_eq!(tenants.limits_of(&tenant, LIMITS_FRESH_NANOS).rate_limit_bytes, 2);
        assert_eq!(tenants.limits_of(&tenant, LIMITS_FRESH_NANOS + 1).rate_limit_bytes, 2);
    }

    #[test]
    fn idle_tenants_make_room_and_active_ones_do_not() {
        let tenants = Tenants::new(Arc::new(FixedLimits::default()));
        let id = |number: usize| TenantId::parse(&format!("t{number}")).unwrap();
        for number in 0..MAX_TENANTS {
            tenants.get(&id(number), 0).unwrap();
        }
        assert!(matches!(tenants.get(&id(MAX_TENANTS), IDLE_NANOS - 1), Err(PushError::TooManyTenants { .. })));
        assert!(tenants.get(&id(0), IDLE_NANOS - 1).is_ok());
        assert!(tenants.get(&id(MAX_TENANTS), IDLE_NANOS).is_ok());
        assert_eq!(tenants.known.read().len(), 2);
    }
}
