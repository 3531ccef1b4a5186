//! The loops that find work and offer it. Each waits until a worker draws its offer, in the order of coming; none ends by itself.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::Timestamp;
use metrics::{counter, gauge};
use tokio::time::Instant;
use tracing::{error, warn};

use super::compaction::{Backlog, Fairness, Plan};
use super::job::Status;
use super::metrics as names;
use super::state::Offer;
use super::{BackendScheduler, at_least};
use crate::model::ids::TenantId;
use crate::services::rpc::backend_scheduler::{JobId, JobType, Work};
use crate::tempodb::block::meta::{BlockId, BlockMeta};
use crate::tempodb::blocklist::TenantBlocks;
use crate::tempodb::compaction::selector::{SelectorSettings, select};
use crate::tempodb::compaction::{CompactSettings, RewriteTarget, is_held};

/// Flags looked at together.
const FLAG_CONCURRENCY: usize = 16;
/// Shortest pause of a loop, whatever the configuration says.
const MIN_PAUSE: Duration = Duration::from_millis(10);
/// Rewrites offered per round: they are a background matter, and each is a whole block read and written.
const REWRITES_PER_ROUND: usize = 8;

impl BackendScheduler {
    /// Offers compactions: a round goes through all tenants, and a new one begins when it is done or has become old.
    pub(super) async fn provide_compaction(&self) {
        let settings = &self.config.provider.compaction;
        let mut fairness = Fairness::default();
        loop {
            self.look_at_flags_again().await;
            let mut plan = self.plan().await;
            let replan_at = Instant::now() + at_least(settings.measure_interval, MIN_PAUSE);
            if plan.is_empty() {
                counter!(names::COMPACTION_EMPTY_CYCLE).increment(1);
            }
            fairness.retain(|tenant| !self.db.block_list().blocks(tenant).live.is_empty());
            let is_done = tokio::time::timeout_at(replan_at, self.offer_plan(&mut plan, &mut fairness)).await.is_ok();
            if is_done {
                tokio::time::sleep(at_least(settings.min_cycle_interval, MIN_PAUSE)).await;
            }
        }
    }

    async fn offer_plan(&self, plan: &mut Plan, fairness: &mut Fairness) {
        while let Some((tenant, inputs, is_turn_over)) = plan.next(fairness) {
            if self.hold_flagged(&tenant, &inputs).await {
                counter!(names::COMPACTION_EMPTY_JOB).increment(1);
            } else {
                let offer = Offer { provider: "0", tenant: tenant.clone(), work: Work::Compaction { inputs }, pending: None };
                if self.offer.send(offer).await.is_err() {
                    return;
                }
                counter!(names::COMPACTION_JOBS_CREATED, "tenant" => tenant.to_string()).increment(1);
            }
            if is_turn_over {
                counter!(names::COMPACTION_TENANT_RESET, "tenant" => tenant.to_string()).increment(1);
            }
        }
    }

    /// Selects stripes of all tenants, and publishes how many blocks wait.
    pub(super) async fn plan(&self) -> Plan {
        let now = self.now();
        let tenants = self.db.block_list().tenants();
        let (busy, frozen) = {
            let state = self.state.lock();
            let mut busy = state.work.busy_blocks();
            busy.extend(state.health.excluded(now));
            let frozen: HashSet<TenantId> = tenants.iter().filter(|tenant| state.is_frozen(tenant)).cloned().collect();
            (busy, frozen)
        };
        let mut inputs = Vec::new();
        for tenant in tenants.into_iter().filter(|tenant| !frozen.contains(tenant)) {
            let rules = (self.rules)(&tenant);
            if !rules.compaction_disabled {
                let blocks = self.db.block_list().blocks(&tenant);
                inputs.push((tenant, blocks, self.selector_settings(rules.compaction_window)));
            }
        }
        let selected = self.cpu.run("select_blocks", move || select_all(inputs, &busy, now)).await;
        let backlogs = selected.unwrap_or_else(|error| {
            error!(%error, "blocks to compact could not be selected");
            Vec::new()
        });
        self.publish_outstanding(&backlogs);
        Plan::new(backlogs, self.config.provider.compaction.max_jobs_per_tenant)
    }

    fn selector_settings(&self, window: Option<Duration>) -> SelectorSettings {
        let config = &self.config.provider.compaction;
        let mut settings = SelectorSettings {
            min_input_blocks: config.min_input_blocks,
            max_input_blocks: config.max_input_blocks,
            max_level: config.max_compaction_level,
            ..SelectorSettings::from(&config.compaction)
        };
        if let Some(window) = window {
            settings.window_seconds = i64::try_from(window.as_secs()).unwrap_or(i64::MAX).max(1);
        }
        settings
    }

    fn publish_outstanding(&self, backlogs: &[Backlog]) {
        let mut state = self.state.lock();
        let gone = state.outstanding.keys().filter(|tenant| !backlogs.iter().any(|backlog| backlog.tenant == **tenant));
        gone.for_each(|tenant| gauge!(names::OUTSTANDING_BLOCKS, "tenant" => tenant.to_string()).set(0.0));
        state.outstanding = backlogs.iter().map(|backlog| (backlog.tenant.clone(), backlog.outstanding())).collect();
        for (tenant, blocks) in &state.outstanding {
            gauge!(names::OUTSTANDING_BLOCKS, "tenant" => tenant.to_string()).set(*blocks as f64);
        }
    }

    /// Notes which of `blocks` are held back by their flag; returns whether any is.
    async fn hold_flagged(&self, tenant: &TenantId, blocks: &[BlockId]) -> bool {
        let looks = stream::iter(blocks.to_vec()).map(|block| async move { (block, is_held(self.db.backend(), tenant, block).await) });
        let looks: Vec<_> = looks.buffer_unordered(FLAG_CONCURRENCY).collect().await;
        let mut is_any_held = false;
        for (block, is_held) in looks {
            match is_held {
                Ok(false) => {}
                Ok(true) => {
                    is_any_held = true;
                    self.state.lock().health.hold(tenant, block);
                }
                Err(error) => {
                    is_any_held = true;
                    warn!(%tenant, %block, error = &error as &dyn std::error::Error, "flag of a block cannot be looked at, leaving it out");
                }
            }
        }
        is_any_held
    }

    /// Lets go of blocks whose flag is gone.
    async fn look_at_flags_again(&self) {
        let held: Vec<(BlockId, TenantId)> = self.state.lock().health.held().map(|(block, tenant)| (*block, tenant.clone())).collect();
        let looks = stream::iter(held).map(|(block, tenant)| async move { (block, is_held(self.db.backend(), &tenant, block).await) });
        let looks: Vec<_> = looks.buffer_unordered(FLAG_CONCURRENCY).collect().await;
        let mut state = self.state.lock();
        for (block, is_held) in looks {
            if let Ok(false) = is_held {
                state.health.release(block);
            }
        }
    }

    /// Offers a retention job per tenant, at once and then at intervals.
    pub(super) async fn provide_retention(&self) {
        loop {
            let mut tenants = self.db.block_list().tenants();
            tenants.sort();
            for tenant in tenants {
                let is_wanted = {
                    let state = self.state.lock();
                    !state.is_frozen(&tenant) && !state.work.has_unfinished(&tenant, JobType::Retention)
                };
                if is_wanted && !(self.rules)(&tenant).compaction_disabled {
                    let offer = Offer { provider: "1", tenant, work: Work::Retention, pending: None };
                    if self.offer.send(offer).await.is_err() {
                        return;
                    }
                }
            }
            tokio::time::sleep(at_least(self.config.provider.retention.interval, MIN_PAUSE)).await;
        }
    }

    /// Brings redactions forward and offers their jobs once their tenant has come to rest.
    pub(super) async fn provide_redaction(&self) {
        loop {
            tokio::time::sleep(at_least(self.config.provider.redaction.poll_interval, MIN_PAUSE)).await;
            self.advance_redactions().await;
            for (id, tenant, work) in self.redaction_jobs() {
                let offer = Offer { provider: "2", tenant, work, pending: Some(id) };
                if self.offer.send(offer).await.is_err() {
                    return;
                }
            }
        }
    }

    pub(super) async fn advance_redactions(&self) {
        let (now, timing) = (self.now(), self.timing());
        let is_change = {
            let mut state = self.state.lock();
            let state = &mut *state;
            let before = state.batches.clone();
            state.batches.retain_mut(|batch| {
                let blocks = self.db.block_list().blocks(&batch.tenant);
                let concerned = super::redaction::concerned(blocks.live.iter().map(|meta| &**meta), &batch.request.traces);
                !batch.advance(&concerned, &mut state.work, timing, now)
            });
            let is_change = before != state.batches;
            state.batches_changed |= is_change;
            is_change
        };
        if is_change {
            self.save_or_warn().await;
        }
    }

    fn redaction_jobs(&self) -> Vec<(JobId, TenantId, Work)> {
        let now = self.now();
        let state = self.state.lock();
        let is_ready =
            |batch: &Option<String>| state.batches.iter().any(|ready| Some(&ready.id) == batch.as_ref() && ready.quiesce_until <= now);
        let jobs = state.work.jobs().filter(|job| job.status == Status::Pending && job.retries == 0 && is_ready(&job.batch));
        let mut jobs: Vec<_> = jobs.map(|job| (job.created, job.id.clone(), job.tenant.clone(), job.work.clone())).collect();
        jobs.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        jobs.into_iter().map(|(_, id, tenant, work)| (id, tenant, work)).collect()
    }

    /// Offers our own kinds of jobs while there is nothing better to do, one after the other.
    pub(super) async fn provide_maintenance(&self) {
        loop {
            tokio::time::sleep(at_least(self.config.provider.maintenance.interval, MIN_PAUSE)).await;
            if !self.state.lock().is_idle() {
                continue;
            }
            let mut tenants = self.db.block_list().tenants();
            tenants.sort();
            tenants.retain(|tenant| !(self.rules)(tenant).compaction_disabled);
            for tenant in &tenants {
                for work in self.maintenance_of(tenant) {
                    if !self.state.lock().is_idle() {
                        break;
                    }
                    if self.offer.send(Offer { provider: "3", tenant: tenant.clone(), work, pending: None }).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    pub(super) fn maintenance_of(&self, tenant: &TenantId) -> Vec<Work> {
        let config = &self.config.provider.maintenance;
        let mut work = Vec::new();
        if config.rewrite_enabled {
            let blocks = self.db.block_list().blocks(tenant);
            let dedicated_columns = (self.rules)(tenant).dedicated_columns;
            let target = RewriteTarget { version: self.block_version, dedicated_columns, settings: CompactSettings::default() };
            let excluded = self.state.lock().health.excluded(self.now());
            let is_old = |meta: &&Arc<BlockMeta>| {
                // What was rewritten and still differs cannot hold what it lacks.
                target.differs_from(meta) && !excluded.contains(&meta.block_id) && !self.was_rewritten(meta.block_id)
            };
            let old = blocks.live.iter().filter(is_old).take(REWRITES_PER_ROUND);
            work.extend(old.map(|meta| Work::Rewrite { block: meta.block_id }));
        }
        if config.index_enabled && self.state.lock().indexed.get(tenant) != Some(&self.fingerprint(tenant)) {
            work.push(Work::Index);
        }
        work
    }

    fn was_rewritten(&self, block: BlockId) -> bool {
        self.state.lock().work.jobs().any(|job| {
            job.job_type() == JobType::Rewrite
                && job.status == Status::Succeeded
                && (job.outputs.contains(&block) || job.work.blocks().contains(&block))
        })
    }

    /// Changes with the live blocks of a tenant.
    pub(super) fn fingerprint(&self, tenant: &TenantId) -> u64 {
        let blocks = self.db.block_list().blocks(tenant);
        let mut ids: Vec<BlockId> = blocks.live.iter().map(|meta| meta.block_id).collect();
        ids.sort_unstable();
        let mut hasher = DefaultHasher::new();
        ids.hash(&mut hasher);
        hasher.finish()
    }
}

/// Selects the stripes of each tenant. CPU work.
fn select_all(inputs: Vec<(TenantId, Arc<TenantBlocks>, SelectorSettings)>, busy: &HashSet<BlockId>, now: Timestamp) -> Vec<Backlog> {
    let backlog = |(tenant, blocks, settings): (TenantId, Arc<TenantBlocks>, SelectorSettings)| {
        let live: Vec<_> = blocks.live.iter().cloned().collect();
        let stripes = select(&tenant, &live, &settings, now, |block| busy.contains(&block));
        let stripes = stripes.iter().map(|stripe| stripe.block_ids()).collect();
        Backlog { blocks: blocks.live.len(), stripes, tenant }
    };
    inputs.into_iter().map(backlog).collect()
}
