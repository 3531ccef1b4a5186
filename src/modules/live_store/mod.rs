//! The live-store: consumes the ingest log, answers queries over recent spans, and writes them into blocks.
//!
//! Not here: the log (`services::ingest_log`), the block format (`tempodb`), query evaluation (`traceql`).
//!
//! Invariants
//! * A span is answered from memory from the moment its record is consumed until the block that holds it is in the block list; a query that
//!   takes its snapshot here first and the block list afterwards misses nothing. While the state is locked the two never overlap.
//! * The offset of a partition is committed only up to the first record whose spans are not in a finished block. The log is the write-ahead
//!   log: after a crash everything behind the committed offset is consumed again.
//! * No acknowledged span is dropped because of age, size or number; when memory runs short the live-store stops consuming.

pub mod config;
mod error;
mod metrics;
mod takeover;
mod live_traces;
mod consume;
mod flush;
mod search;
pub mod http;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use ::metrics::gauge;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use self::config::LiveStoreConfig;
pub use self::error::LiveStoreError;
use self::live_traces::{LiveTraces, Snapshot};
use self::metrics as names;
pub use self::takeover::LeftBehind;
use crate::base::clock::SharedClock;
use crate::base::cpu_pool::CpuPool;
use crate::model::ids::TenantId;
use crate::services::ingest_log::{ConsumerGroup, Offset, PartitionId, SharedIngestLog};
use crate::tempodb::block::bloom::BloomParams;
use crate::tempodb::block::dedicated::DedicatedColumn;
use crate::tempodb::block::meta::BlockVersion;
use crate::tempodb::blocklist::TenantBlocks;
use crate::tempodb::db::TempoDb;

/// Group under which a live-store without an ordinal in its name commits.
const CONSUMER_GROUP: &str = "live-store";

/// Everything a live-store works with.
pub struct Dependencies {
    pub log: SharedIngestLog,
    pub db: Arc<TempoDb>,
    pub new_blocks: NewBlockSettings,
    pub cpu: CpuPool,
    pub clock: SharedClock,
    pub left_behind: LeftBehind,
}

/// How blocks are written.
pub struct NewBlockSettings {
    pub version: BlockVersion,
    pub bloom: BloomParams,
    /// Attributes of a tenant that get a column of their own.
    pub dedicated_columns: ColumnsOfTenant,
}

/// Tells the dedicated columns of a tenant as they are configured now.
pub type ColumnsOfTenant = Box<dyn Fn(&TenantId) -> Vec<DedicatedColumn> + Send + Sync>;

pub struct LiveStore {
    config: LiveStoreConfig,
    log: SharedIngestLog,
    db: Arc<TempoDb>,
    new_blocks: NewBlockSettings,
    cpu: CpuPool,
    clock: SharedClock,
    left_behind: LeftBehind,
    group: ConsumerGroup,
    state: Mutex<State>,
    /// Signalled when a position moved, for those who wait for the log to be caught up with.
    positions_moved: Notify,
    /// Signalled when live traces should be looked at before the next regular check.
    cut_wanted: Notify,
    /// Signalled when a block is complete and its traces are gone from memory.
    flush_ended: Notify,
    flushes: TaskTracker,
    /// Fires when consuming and flushing should end.
    stopping: CancellationToken,
}

#[derive(Default)]
struct State {
    tenants: BTreeMap<TenantId, LiveTraces>,
    /// First offset of each partition that is not consumed.
    positions: BTreeMap<PartitionId, Offset>,
    committed: BTreeMap<PartitionId, Offset>,
    is_caught_up: bool,
}

/// The tasks of a started live-store.
pub struct Running {
    store: Arc<LiveStore>,
    tasks: JoinSet<Result<(), LiveStoreError>>,
}

impl LiveStore {
    pub fn new(config: LiveStoreConfig, with: Dependencies) -> Arc<Self> {
        metrics::describe();
        gauge!(names::READY).set(0.0);
        Arc::new(Self {
            config,
            log: with.log,
            db: with.db,
            new_blocks: with.new_blocks,
            cpu: with.cpu,
            clock: with.clock,
            left_behind: with.left_behind,
            group: ConsumerGroup::new(CONSUMER_GROUP),
            state: Mutex::default(),
            positions_moved: Notify::new(),
            cut_wanted: Notify::new(),
            flush_ended: Notify::new(),
            flushes: TaskTracker::new(),
            stopping: CancellationToken::new(),
        })
    }

    /// Takes over what an earlier system left, starts consuming and returns once everything that was in the log at the call is in memory.
    pub async fn start(self: &Arc<Self>) -> Result<Running, LiveStoreError> {
        let started = Instant::now();
        self.log.register_group(&self.group).await?;
        self.take_over().await?;
        let mut running = Running { store: Arc::clone(self), tasks: JoinSet::new() };
        let mut targets = BTreeMap::new();
        for partition in self.log.partitions() {
            let range = self.log.offsets(partition).await?;
            let committed = self.log.committed(&self.group, partition).await?;
            let from = committed.unwrap_or(range.start).clamp(range.start, range.end);
            info!(%partition, offset = %from, end = %range.end, "consuming the ingest log");
            gauge!(names::PARTITION_OWNED, "partition" => partition.to_string(), "zone" => CONSUMER_GROUP).set(1.0);
            {
                let mut state = self.state.lock();
                state.positions.insert(partition, from);
                state.committed.insert(partition, from);
            }
            targets.insert(partition, range.end);
            running.tasks.spawn(Arc::clone(self).consume(partition, from, self.stopping.clone()));
        }
        running.tasks.spawn(Arc::clone(self).cut_and_flush());
        tokio::select! {
            () = self.wait_until_consumed(&targets) => {}
            failure = running.first_failure() => return Err(failure),
        }
        self.state.lock().is_caught_up = true;
        gauge!(names::CATCH_UP).set(started.elapsed().as_secs_f64());
        gauge!(names::READY).set(1.0);
        Ok(running)
    }

    /// Whether the log was caught up with since the start. Until then answers are incomplete.
    pub fn is_ready(&self) -> bool {
        self.state.lock().is_caught_up
    }

    async fn wait_until_consumed(&self, targets: &BTreeMap<PartitionId, Offset>) {
        loop {
            let moved = self.positions_moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let reached = {
                let state = self.state.lock();
                targets.iter().all(|(partition, end)| state.positions.get(partition).is_some_and(|position| position >= end))
            };
            if reached {
                return;
            }
            moved.await;
        }
    }

    fn has_live_traces(&self, tenant: &TenantId) -> bool {
        self.state.lock().tenants.contains_key(tenant)
    }

    fn snapshot(&self, tenant: &TenantId) -> Snapshot {
        self.state.lock().tenants.get(tenant).map(LiveTraces::snapshot).unwrap_or_default()
    }

    /// Returns the spans in memory and the blocks of the same moment: a flush lists its block and lets go of its spans while it holds the state.
    fn snapshot_with_blocks(&self, tenant: &TenantId) -> (Snapshot, Arc<TenantBlocks>) {
        let state = self.state.lock();
        let snapshot = state.tenants.get(tenant).map(LiveTraces::snapshot).unwrap_or_default();
        (snapshot, self.db.block_list().blocks(tenant))
    }

    /// Why no more spans should be taken into memory now, as the reason of the back-pressure metric.
    fn memory_shortage(&self) -> Option<&'static str> {
        let state = self.state.lock();
        let limit = self.config.max_live_traces_bytes;
        let flushes = self.config.complete_block_concurrency;
        let bytes: usize = state.tenants.values().map(LiveTraces::total_bytes).sum();
        if limit > 0 && bytes as u64 >= limit {
            Some("waiting_for_live_traces")
        } else if state
            .tenants
            .values()
            .any(|traces| traces.cut_count() >= flushes && traces.live_bytes() as u64 >= self.config.max_block_bytes)
        {
            // A further block is full while as many as may be written at once are being written.
            Some("waiting_for_wal")
        } else {
            None
        }
    }

    fn publish_gauges(&self) {
        let state = self.state.lock();
        for (tenant, traces) in &state.tenants {
            gauge!(names::LIVE_TRACES, "tenant" => tenant.as_str().to_owned()).set(traces.trace_count() as f64);
            gauge!(names::LIVE_TRACE_BYTES, "tenant" => tenant.as_str().to_owned()).set(traces.total_bytes() as f64);
        }
        let waiting: usize = state.tenants.values().map(LiveTraces::cut_count).sum();
        gauge!(names::COMPLETE_QUEUE).set(waiting as f64);
    }
}

impl Running {
    /// Works until `stop` fires or a task fails. Live traces are not flushed on stop: the log keeps them.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), LiveStoreError> {
        let outcome = tokio::select! {
            () = stop.cancelled() => Ok(()),
            failure = self.first_failure() => Err(failure),
        };
        self.store.stopping.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        gauge!(names::READY).set(0.0);
        self.store.commit().await?;
        outcome
    }

    async fn first_failure(&mut self) -> LiveStoreError {
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => return failure,
                Err(panicked) => return panicked.into(),
            }
        }
        std::future::pending().await
    }
}
