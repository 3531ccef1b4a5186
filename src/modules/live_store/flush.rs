//! Cuts live traces into blocks and commits what is in them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge, histogram};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, error, info, warn};

use super::live_traces::CutTraces;
use super::{LiveStore, LiveStoreError, State, metrics as names};
use crate::model::combine::Piece;
use crate::model::ids::{TenantId, TraceId};
use crate::services::ingest_log::{LogError, Offset, PartitionId};
use crate::tempodb::block::meta::{BlockId, BlockMeta};
use crate::tempodb::block::write::{NewBlock, WriteError};

/// First pause between attempts to write a block; doubles up to [`LONGEST_RETRY_PAUSE`].
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Bound of the pauses between attempts to write a block.
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(30);

/// Memory of the table handed to the block writer at once, which becomes a row group.
const ROW_GROUP_TABLE_BYTES: usize = 128 << 20;

/// Why a tenant's live traces are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CutReason {
    Age,
    Size,
    Memory,
    Demand,
}

impl CutReason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Age => "max_block_duration",
            Self::Size => "max_block_bytes",
            Self::Memory => "max_live_traces_bytes",
            Self::Demand => "demand",
        }
    }
}

impl LiveStore {
    /// Looks for tenants to cut, regularly and when asked, until `stop` fires; then lets flushes under way end.
    pub(super) async fn cut_and_flush(self: Arc<Self>) -> Result<(), LiveStoreError> {
        let slots = Arc::new(Semaphore::new(self.config.complete_block_concurrency.max(1)));
        let mut check = tokio::time::interval(self.config.flush_check_period.to_std());
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => break,
                _ = check.tick() => {}
                () = self.cut_wanted.notified() => {}
            }
            self.publish_gauges();
            while let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
                let Some((tenant, cut)) = self.cut_most_urgent() else { break };
                let store = Arc::clone(&self);
                self.flushes.spawn(async move { store.flush(tenant, cut, slot).await });
            }
            self.commit_or_warn().await;
        }
        self.flushes.close();
        self.flushes.wait().await;
        Ok(())
    }

    /// Puts everything that is acknowledged now into blocks, of `tenant` or of all tenants. Returns whether that was done: not when the log
    /// does not tell its end, nor when the live-store stops meanwhile. A dropped call leaves its flush running.
    pub async fn flush_now(self: &Arc<Self>, tenant: Option<&TenantId>) -> bool {
        let Ok(ends) = self.log_ends().await else { return false };
        tokio::select! {
            () = self.stopping.cancelled() => return false,
            () = self.wait_until_consumed(&ends) => {}
        }
        let tenants: Vec<_> =
            self.state.lock().tenants.keys().filter(|name| tenant.is_none_or(|wanted| wanted == *name)).cloned().collect();
        let mut is_flushed = true;
        for tenant in tenants {
            is_flushed &= self.flush_tenant(&tenant).await;
        }
        self.commit_or_warn().await;
        is_flushed
    }

    async fn log_ends(&self) -> Result<BTreeMap<PartitionId, Offset>, LogError> {
        let mut ends = BTreeMap::new();
        for partition in self.log.partitions() {
            ends.insert(partition, self.log.offsets(partition).await?.end);
        }
        Ok(ends)
    }

    async fn flush_tenant(self: &Arc<Self>, tenant: &TenantId) -> bool {
        let cut = loop {
            let ended = self.flush_ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            {
                // A flush under way may give traces that still grow back to the live ones, so it has to end first.
                let mut state = self.state.lock();
                let is_flushing = state.tenants.get(tenant).is_some_and(|traces| traces.cut_count() > 0);
                if !is_flushing {
                    break self.cut(&mut state, tenant, CutReason::Demand);
                }
            }
            tokio::select! {
                () = self.stopping.cancelled() => return false,
                () = ended => {}
            }
        };
        let Some(cut) = cut else { return true };
        let (store, tenant) = (Arc::clone(self), tenant.clone());
        let flush = self.flushes.spawn(async move { store.write_until_done(&tenant, cut).await });
        flush.await.unwrap_or(false)
    }

    /// Cuts the tenant that needs it most; `None` when no tenant does.
    fn cut_most_urgent(&self) -> Option<(TenantId, CutTraces)> {
        let memory_is_short = self.memory_shortage().is_some();
        let oldest_allowed = self.now_unix_ms().saturating_sub(millis(self.config.max_block_duration.to_std()));
        let mut due: Vec<_> = {
            let state = self.state.lock();
            let reason = |bytes: usize, oldest: Option<u64>| {
                if bytes as u64 >= self.config.max_block_bytes {
                    Some(CutReason::Size)
                } else if memory_is_short && bytes > 0 {
                    Some(CutReason::Memory)
                } else if oldest.is_some_and(|oldest| oldest <= oldest_allowed) {
                    Some(CutReason::Age)
                } else {
                    None
                }
            };
            let tenants = state.tenants.iter();
            tenants
                .filter_map(|(tenant, traces)| {
                    let bytes = traces.live_bytes();
                    Some((bytes, tenant.clone(), reason(bytes, traces.oldest_live_unix_ms())?))
                })
                .collect()
        };
        due.sort_by_key(|(bytes, ..)| std::cmp::Reverse(*bytes));
        due.into_iter().find_map(|(_, tenant, reason)| Some((tenant.clone(), self.cut(&mut self.state.lock(), &tenant, reason)?)))
    }

    fn cut(&self, state: &mut State, tenant: &TenantId, reason: CutReason) -> Option<CutTraces> {
        let now = self.now_unix_ms();
        let (idle_since, live_since) = match reason {
            // Traces that still get spans wait for the next block, so that most traces end up in one.
            CutReason::Age => (
                now.saturating_sub(millis(self.config.max_trace_idle.to_std())),
                now.saturating_sub(millis(self.config.max_trace_live.to_std())),
            ),
            CutReason::Size | CutReason::Memory | CutReason::Demand => (u64::MAX, u64::MAX),
        };
        let cut = state.tenants.get_mut(tenant)?.cut(idle_since, live_since)?;
        counter!(names::BLOCKS_CUT, "reason" => reason.as_str()).increment(1);
        debug!(%tenant, reason = reason.as_str(), spans = cut.span_count(), "live traces cut");
        Some(cut)
    }

    async fn flush(self: Arc<Self>, tenant: TenantId, cut: CutTraces, slot: OwnedSemaphorePermit) {
        self.write_until_done(&tenant, cut).await;
        drop(slot);
        self.cut_wanted.notify_one();
    }

    /// Writes the block of a cut, trying again until it is complete or the live-store stops. Returns whether it is complete; a cut given
    /// up stays in memory and in the log.
    async fn write_until_done(&self, tenant: &TenantId, cut: CutTraces) -> bool {
        let cut = Arc::new(cut);
        // All attempts write the same objects, so that one that could not clean up behind itself leaves nothing for good.
        let block = BlockId::random();
        // A poll may find the block before its traces leave memory.
        let _held = self.db.block_list().hold(tenant, &[block]);
        let started = Instant::now();
        let mut pause = FIRST_RETRY_PAUSE;
        while let Err(failure) = self.write_cut(tenant, &cut, block).await {
            counter!(names::FAILED_COMPLETIONS).increment(1);
            counter!(names::FAILED_FLUSHES).increment(1);
            error!(%tenant, %block, err = &failure as &dyn std::error::Error, pause = ?pause, "block could not be written, trying again");
            tokio::select! {
                () = self.stopping.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_RETRY_PAUSE);
            counter!(names::COMPLETION_RETRIES).increment(1);
        }
        histogram!(names::COMPLETION_DURATION).record(started.elapsed().as_secs_f64());
        self.flush_ended.notify_waiters();
        true
    }

    /// Writes the block of a cut, and then lists it and lets go of the traces in memory, at once for whoever holds the state.
    async fn write_cut(&self, tenant: &TenantId, cut: &Arc<CutTraces>, block: BlockId) -> Result<(), WriteError> {
        let started = Instant::now();
        let source = Arc::clone(cut);
        let (order, growing) = self.cpu.run("order_cut", move || (source.order(), source.growing())).await?;
        let mut written = None;
        if !order.is_empty() {
            let meta = self.write_block(tenant, cut, block, order).await?;
            counter!(names::BLOCKS_COMPLETED).increment(1);
            counter!(names::BLOCKS_FLUSHED).increment(1);
            histogram!(names::COMPLETION_SIZE).record(meta.size_bytes as f64);
            let seconds = started.elapsed().as_secs_f64();
            info!(%tenant, block = %meta.block_id, traces = meta.total_objects, bytes = meta.size_bytes, seconds, "block complete");
            written = Some(Arc::new(meta));
        }
        let mut state = self.state.lock();
        if let Some(meta) = written {
            self.db.block_list().add(tenant, meta);
        }
        if let Some(traces) = state.tenants.get_mut(tenant) {
            traces.finish_cut(cut.id, growing);
            if traces.is_empty() {
                state.tenants.remove(tenant);
                gauge!(names::LIVE_TRACES, "tenant" => tenant.as_str().to_owned()).set(0.0);
                gauge!(names::LIVE_TRACE_BYTES, "tenant" => tenant.as_str().to_owned()).set(0.0);
            }
        }
        Ok(())
    }

    /// Writes one block, a row group at a time. A failed attempt leaves nothing behind, as far as the backend allows.
    async fn write_block(
        &self,
        tenant: &TenantId,
        cut: &Arc<CutTraces>,
        id: BlockId,
        order: Vec<(TraceId, Piece)>,
    ) -> Result<BlockMeta, WriteError> {
        let block = NewBlock {
            version: self.new_blocks.version,
            dedicated_columns: (self.new_blocks.dedicated_columns)(tenant),
            bloom: self.new_blocks.bloom,
            ..NewBlock::new(tenant.clone(), id, order.len())
        };
        let written = self.write_row_groups(block, cut, Arc::new(order)).await;
        if written.is_err()
            && let Err(failure) = self.db.backend().clear_block(tenant, id).await
        {
            warn!(%tenant, block = %id, err = &failure as &dyn std::error::Error, "objects of a failed block could not be removed");
        }
        written
    }

    async fn write_row_groups(
        &self,
        block: NewBlock,
        cut: &Arc<CutTraces>,
        order: Arc<Vec<(TraceId, Piece)>>,
    ) -> Result<BlockMeta, WriteError> {
        let mut writer = self.db.create_block(self.cpu.clone(), block).await?;
        let mut done = 0;
        while done < order.len() {
            let (source, rows) = (Arc::clone(cut), Arc::clone(&order));
            let (table, taken) = self.cpu.run("build_row_group", move || source.build_table(&rows[done..], ROW_GROUP_TABLE_BYTES)).await?;
            if let Err(failure) = writer.append(Arc::new(table)).await {
                // The first failure tells more than that of giving up.
                let _second_failure = writer.abort().await;
                return Err(failure);
            }
            done += taken;
        }
        writer.finish().await
    }

    async fn commit_or_warn(&self) {
        if let Err(failure) = self.commit().await {
            warn!(err = &failure as &dyn std::error::Error, "offsets could not be committed, trying again later");
        }
    }

    /// Commits, per partition, the first offset that is not in a finished block.
    pub(super) async fn commit(&self) -> Result<(), LiveStoreError> {
        let moved: Vec<(_, Offset)> = {
            let state = self.state.lock();
            let safe = |partition, position| {
                let held = state.tenants.values().filter_map(|traces| traces.first_offset(partition)).min();
                held.unwrap_or(position)
            };
            let all = state.positions.iter().map(|(&partition, &position)| (partition, safe(partition, position)));
            all.filter(|(partition, offset)| state.committed.get(partition) != Some(offset)).collect()
        };
        for (partition, offset) in moved {
            self.log.commit(&self.group, partition, offset).await?;
            self.state.lock().committed.insert(partition, offset);
        }
        Ok(())
    }

    fn now_unix_ms(&self) -> u64 {
        self.clock.now_unix_nanos() / 1_000_000
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
