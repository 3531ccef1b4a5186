//! The distributor: receives spans, checks ids and limits, groups them by trace and appends them to the ingest log.
//!
//! ```text
//! receivers (OTLP gRPC, OTLP HTTP) ─▶ push: walk, rate limit, group, cut ─▶ place on partitions ─▶ ingest log ─▶ answer
//! ```
//!
//! Not here: what happens to spans behind the log, and the decoding of spans: a push stays OTLP bytes from socket to log.
//!
//! Invariants
//! * A push is answered OK only after the log has acknowledged every record of it.
//! * Every span of a push is in a record, or in the rejected count of the answer, or the push as a whole was refused.
//! * Bodies, decompressed bodies and records of all pushes in flight together stay within one byte budget.

pub mod config;
pub mod error;
pub mod limits;
pub mod metrics;
pub mod options;
mod placement;
pub mod push;
mod rate_limit;
pub mod receiver_config;
pub mod receivers;
mod tenants;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::base::byte_budget::ByteBudget;
use crate::base::clock::SharedClock;
use crate::base::cpu_pool::CpuPool;
use crate::services::ingest_log::SharedIngestLog;

use limits::SharedIngestionLimits;
use options::DistributorOptions;
use push::Pusher;
use receivers::{BindError, Receivers, ServeError};

/// The role: receivers in front of one [`Pusher`].
pub struct Distributor {
    options: DistributorOptions,
    pusher: Arc<Pusher>,
}

impl Distributor {
    /// Creates the role; nothing listens yet.
    pub fn new(options: DistributorOptions, limits: SharedIngestionLimits, log: SharedIngestLog, clock: SharedClock, cpu: CpuPool) -> Self {
        metrics::describe();
        let budget = ByteBudget::new("distributor_in_flight", options.max_in_flight_bytes);
        let pusher = Arc::new(Pusher::new(options.push.clone(), limits, log, clock, cpu, budget));
        Self { options, pusher }
    }

    /// The push path behind the receivers, for callers within the process.
    pub fn pusher(&self) -> Arc<Pusher> {
        Arc::clone(&self.pusher)
    }

    /// Opens all listeners, so that a port in use is known before anything runs.
    pub async fn bind(self) -> Result<BoundDistributor, BindError> {
        Ok(BoundDistributor { receivers: Receivers::bind(&self.options, self.pusher).await? })
    }
}

/// A distributor whose listeners are open.
pub struct BoundDistributor {
    pub receivers: Receivers,
}

impl BoundDistributor {
    /// Serves until `stop` fires, then lets the requests in flight end, for at most [`receivers::DRAIN_BUDGET`].
    pub async fn serve(self, stop: CancellationToken) -> Result<(), ServeError> {
        self.receivers.serve(stop).await
    }
}
