//! Keeps the [`BlockList`] up to date: reads the tenant index, or lists the backend and writes the index for others (tempodb, polling).
//!
//! Not here: who builds which index (the caller hands in [`IndexOwnership`]), compaction, retention.
//!
//! Invariants
//! * A tenant that cannot be polled keeps its previous list; too many of them and all lists stay as they were.
//! * A meta that cannot be parsed leaves out its block, is counted and logged, and never fails the tenant. Metas are immutable and read once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use metrics::{counter, gauge, histogram};
use rand::Rng;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::backend::{Backend, BackendError};
use super::block::meta::{BlockId, BlockMeta, COMPACTED_META_NAME, CompactedBlockMeta, META_NAME};
use super::blocklist::{BlockList, TenantBlocks};
use super::config::TraceStorageConfig;
use super::keys;
use super::metrics as names;
use super::tenant_index::{JSON_NAME, PROTO_NAME, TenantIndex, TenantIndexError};
use crate::base::clock::SharedClock;
use crate::model::ids::TenantId;

/// Decides which process builds an index, by the hash of a job name.
pub trait IndexOwnership: Send + Sync + 'static {
    /// `hash` is the 32-bit hash that the compatible system looks up in its ring.
    fn owns(&self, hash: u32) -> bool;
}

/// For the only process that builds indexes (`true`), and for roles that never do (`false`).
#[derive(Debug, Clone, Copy)]
pub struct OwnsAll(pub bool);

impl IndexOwnership for OwnsAll {
    fn owns(&self, _hash: u32) -> bool {
        self.0
    }
}

/// How to poll; see the keys `blocklist_poll*`.
#[derive(Debug, Clone)]
pub struct PollerSettings {
    pub interval: Duration,
    /// Metas of a tenant fetched at once.
    pub concurrency: usize,
    pub tenant_concurrency: usize,
    /// Whether to list the backend when the index cannot be read.
    pub fallback: bool,
    pub index_builders: usize,
    /// `None`: an index of any age will do.
    pub stale_index: Option<Duration>,
    pub jitter: Duration,
    pub tolerate_consecutive_errors: u32,
    pub tolerate_tenant_failures: u32,
    /// Leave out blocks that must not be compacted; for the scheduler.
    pub skip_no_compact: bool,
}

impl From<&TraceStorageConfig> for PollerSettings {
    fn from(config: &TraceStorageConfig) -> Self {
        let or = |value: usize, default: usize| if value == 0 { default } else { value };
        Self {
            interval: config.blocklist_poll.to_std(),
            concurrency: or(config.blocklist_poll_concurrency, 50),
            tenant_concurrency: or(config.blocklist_poll_tenant_concurrency, 1),
            fallback: config.blocklist_poll_fallback,
            index_builders: config.blocklist_poll_tenant_index_builders,
            stale_index: config.blocklist_poll_stale_tenant_index.positive(),
            jitter: Duration::from_millis(config.blocklist_poll_jitter_ms),
            tolerate_consecutive_errors: config.blocklist_poll_tolerate_consecutive_errors,
            tolerate_tenant_failures: config.blocklist_poll_tolerate_tenant_failures,
            skip_no_compact: false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PollError {
    #[error("cannot list the tenants")]
    Tenants(#[source] BackendError),
    #[error("cannot poll tenant {tenant}")]
    Tenant {
        tenant: TenantId,
        #[source]
        cause: BackendError,
    },
    #[error("cannot read the index of tenant {tenant}")]
    Index {
        tenant: TenantId,
        #[source]
        cause: IndexReadError,
    },
    #[error("too many tenant failures; abandoning polling cycle")]
    TooManyFailures,
}

#[derive(Debug, thiserror::Error)]
pub enum IndexReadError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Content(#[from] TenantIndexError),
    #[error("tenant index created at {0} is stale")]
    Stale(Timestamp),
}

/// Polls all tenants at intervals.
pub struct Poller {
    backend: Backend,
    settings: PollerSettings,
    ownership: Arc<dyn IndexOwnership>,
    clock: SharedClock,
    list: Arc<BlockList>,
}

/// What a fetch of a block's meta gave.
enum Fetched {
    Live(Arc<BlockMeta>),
    Compacted(Arc<CompactedBlockMeta>),
    /// Gone meanwhile, unreadable, or to be skipped.
    Nothing,
}

impl Poller {
    pub fn new(
        backend: Backend,
        settings: PollerSettings,
        ownership: Arc<dyn IndexOwnership>,
        clock: SharedClock,
        list: Arc<BlockList>,
    ) -> Self {
        Self { backend, settings, ownership, clock, list }
    }

    /// Polls every interval until `stop` fires. The first poll is the caller's, at start ([`Self::poll`]).
    pub async fn run(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.settings.interval) => {}
            }
            // Dropping a poll leaves the lists as they were, and at worst an index object that is one poll newer.
            tokio::select! {
                () = stop.cancelled() => return,
                polled = self.poll() => {
                    if let Err(error) = polled {
                        error!(error = &error as &dyn std::error::Error, "poll of the block list failed");
                    }
                }
            }
        }
    }

    /// Polls all tenants once and applies the result.
    pub async fn poll(&self) -> Result<(), PollError> {
        let started = tokio::time::Instant::now();
        let tenants = self.backend.tenants().await.map_err(PollError::Tenants)?;
        let mut polled = HashMap::with_capacity(tenants.len());
        let mut failures = 0_u32;
        let mut results = stream::iter(tenants)
            .map(|tenant| async move {
                let blocks = self.poll_tenant_with_retries(&tenant).await;
                (tenant, blocks)
            })
            .buffer_unordered(self.settings.tenant_concurrency.max(1));
        while let Some((tenant, blocks)) = results.next().await {
            match blocks {
                Ok(blocks) => {
                    self.report(&tenant, &blocks);
                    polled.insert(tenant, blocks);
                }
                Err(error) => {
                    warn!(%tenant, error = &error as &dyn std::error::Error, "tenant could not be polled, keeping its previous list");
                    failures += 1;
                    if failures > self.settings.tolerate_tenant_failures {
                        return Err(PollError::TooManyFailures);
                    }
                    polled.insert(tenant.clone(), (*self.list.blocks(&tenant)).clone());
                }
            }
        }
        drop(results);
        for tenant in self.list.tenants().iter().filter(|tenant| !polled.contains_key(tenant)) {
            self.report(tenant, &TenantBlocks::default());
        }
        self.list.apply_poll(polled);
        histogram!(names::POLL_DURATION).record(started.elapsed().as_secs_f64());
        Ok(())
    }

    async fn poll_tenant_with_retries(&self, tenant: &TenantId) -> Result<TenantBlocks, PollError> {
        let mut left = self.settings.tolerate_consecutive_errors;
        loop {
            match self.poll_tenant(tenant).await {
                Ok(blocks) => return Ok(blocks),
                Err(error) => {
                    counter!(names::POLL_ERRORS, "tenant" => tenant.to_string()).increment(1);
                    if left == 0 {
                        return Err(error);
                    }
                    left -= 1;
                }
            }
        }
    }

    async fn poll_tenant(&self, tenant: &TenantId) -> Result<TenantBlocks, PollError> {
        let is_builder = self.builds_index(tenant);
        gauge!(names::INDEX_BUILDER, "tenant" => tenant.to_string()).set(f64::from(u8::from(is_builder)));
        if !is_builder {
            match self.read_index(tenant).await {
                Ok(index) => return Ok(from_index(index)),
                Err(cause) => {
                    counter!(names::INDEX_ERRORS, "tenant" => tenant.to_string()).increment(1);
                    if !self.settings.fallback {
                        return Err(PollError::Index { tenant: tenant.clone(), cause });
                    }
                    info!(%tenant, error = &cause as &dyn std::error::Error, "tenant index cannot be used, listing the backend");
                }
            }
        }
        let blocks = self.list_blocks(tenant).await.map_err(|cause| PollError::Tenant { tenant: tenant.clone(), cause })?;
        // In skip mode the list lacks blocks that others must see.
        if !self.settings.skip_no_compact
            && let Err(error) = self.write_index(tenant, &blocks).await
        {
            counter!(names::INDEX_ERRORS, "tenant" => tenant.to_string()).increment(1);
            warn!(%tenant, error = &error as &dyn std::error::Error, "tenant index could not be written");
        }
        Ok(blocks)
    }

    fn builds_index(&self, tenant: &TenantId) -> bool {
        (0..self.settings.index_builders).any(|number| self.ownership.owns(index_job_hash(number, tenant)))
    }

    /// Reads the tenant index: the protobuf form, or if there is none the JSON form.
    async fn read_index(&self, tenant: &TenantId) -> Result<TenantIndex, IndexReadError> {
        let index = match self.backend.read(&keys::tenant_object(tenant, PROTO_NAME)).await {
            Ok(bytes) => TenantIndex::from_proto_zstd(&bytes)?,
            Err(error) if error.is_not_found() => {
                TenantIndex::from_json_gzip(&self.backend.read(&keys::tenant_object(tenant, JSON_NAME)).await?)?
            }
            Err(error) => return Err(error.into()),
        };
        let age = self.now().duration_since(index.created_at);
        gauge!(names::INDEX_AGE, "tenant" => tenant.to_string()).set(age.as_secs_f64());
        match self.settings.stale_index.and_then(|bound| SignedDuration::try_from(bound).ok()) {
            Some(bound) if age > bound => Err(IndexReadError::Stale(index.created_at)),
            _ => Ok(index),
        }
    }

    /// Writes both forms, or deletes them when there are no blocks.
    async fn write_index(&self, tenant: &TenantId, blocks: &TenantBlocks) -> Result<(), BackendError> {
        let (proto, json) = (keys::tenant_object(tenant, PROTO_NAME), keys::tenant_object(tenant, JSON_NAME));
        if blocks.is_empty() {
            self.backend.delete(&proto).await?;
            return self.backend.delete(&json).await;
        }
        let index = TenantIndex {
            created_at: self.now(),
            metas: blocks.live.iter().map(|meta| (**meta).clone()).collect(),
            compacted: blocks.compacted.iter().map(|compacted| (**compacted).clone()).collect(),
        };
        self.backend.write(&proto, index.to_proto_zstd()).await?;
        self.backend.write(&json, index.to_json_gzip()).await
    }

    /// Lists the tenant's blocks; metas known from before are not read again.
    async fn list_blocks(&self, tenant: &TenantId) -> Result<TenantBlocks, BackendError> {
        let ids = self.backend.block_ids(tenant).await?;
        gauge!(names::FOREIGN_OBJECTS, "tenant" => tenant.to_string()).set(ids.foreign_objects as f64);
        let previous = self.list.blocks(tenant);
        let live: HashMap<BlockId, &Arc<BlockMeta>> = previous.live.iter().map(|meta| (meta.block_id, meta)).collect();
        let compacted: HashMap<BlockId, &Arc<CompactedBlockMeta>> =
            previous.compacted.iter().map(|compacted| (compacted.meta.block_id, compacted)).collect();
        let mut blocks = TenantBlocks::default();
        let mut unknown = Vec::new();
        let now_compacted: HashMap<BlockId, Timestamp> = ids.compacted.iter().copied().collect();
        for &(id, at) in &ids.compacted {
            match (compacted.get(&id), live.get(&id)) {
                (Some(known), _) => blocks.compacted.push(Arc::clone(known)),
                (None, Some(meta)) => {
                    blocks.compacted.push(Arc::new(CompactedBlockMeta { meta: (***meta).clone(), compacted_time: self.now() }));
                }
                (None, None) => unknown.push((id, Some(at))),
            }
        }
        for id in ids.live.into_iter().filter(|id| !now_compacted.contains_key(id)) {
            match live.get(&id) {
                // The flag is not part of the meta and may have come or gone.
                Some(meta) if !self.settings.skip_no_compact => blocks.live.push(Arc::clone(meta)),
                _ => unknown.push((id, None)),
            }
        }
        let mut fetches = stream::iter(unknown)
            .map(|(id, compacted_at)| self.fetch(tenant, id, compacted_at))
            .buffer_unordered(self.settings.concurrency.max(1));
        while let Some(fetched) = fetches.next().await {
            match fetched? {
                Fetched::Live(meta) => blocks.live.push(meta),
                Fetched::Compacted(meta) => blocks.compacted.push(meta),
                Fetched::Nothing => {}
            }
        }
        drop(fetches);
        Ok(blocks)
    }

    /// Reads a meta. `compacted_at` is the time of its compacted meta, if the listing showed one.
    async fn fetch(&self, tenant: &TenantId, id: BlockId, compacted_at: Option<Timestamp>) -> Result<Fetched, BackendError> {
        if !self.settings.jitter.is_zero() {
            let delay = rand::rng().random_range(Duration::ZERO..=self.settings.jitter);
            tokio::time::sleep(delay).await;
        }
        if compacted_at.is_none() {
            if self.settings.skip_no_compact && self.exists(&keys::block_object(tenant, id, keys::NO_COMPACT_NAME)).await? {
                return Ok(Fetched::Nothing);
            }
            match self.backend.read(&keys::block_object(tenant, id, META_NAME)).await {
                Ok(bytes) => return Ok(self.parse(tenant, id, &bytes).map_or(Fetched::Nothing, |meta| Fetched::Live(Arc::new(meta)))),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        // It may have been compacted since it was listed.
        let key = keys::block_object(tenant, id, COMPACTED_META_NAME);
        let bytes = match self.backend.read(&key).await {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(Fetched::Nothing),
            Err(error) => return Err(error),
        };
        let compacted_time = match compacted_at {
            Some(at) => at,
            None => match self.backend.head(&key).await {
                Ok(info) => info.last_modified,
                Err(error) if error.is_not_found() => return Ok(Fetched::Nothing),
                Err(error) => return Err(error),
            },
        };
        let compacted = self.parse(tenant, id, &bytes).map(|meta| CompactedBlockMeta { meta, compacted_time });
        Ok(compacted.map_or(Fetched::Nothing, |compacted| Fetched::Compacted(Arc::new(compacted))))
    }

    async fn exists(&self, key: &object_store::path::Path) -> Result<bool, BackendError> {
        match self.backend.head(key).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns the meta unless it is broken or that of another block.
    fn parse(&self, tenant: &TenantId, id: BlockId, bytes: &[u8]) -> Option<BlockMeta> {
        let problem = match BlockMeta::from_json(bytes) {
            Ok(meta) if meta.block_id == id => return Some(meta),
            Ok(meta) => format!("it names block {}", meta.block_id),
            Err(error) => error.to_string(),
        };
        counter!(names::CORRUPT_METAS, "tenant" => tenant.to_string()).increment(1);
        warn!(%tenant, block = %id, problem, "block meta is corrupt, leaving the block out");
        None
    }

    fn report(&self, tenant: &TenantId, blocks: &TenantBlocks) {
        let compacted = || blocks.compacted.iter().map(|compacted| &compacted.meta);
        let live = || blocks.live.iter().map(|meta| &**meta);
        let tenant = tenant.to_string();
        gauge!(names::BLOCKLIST_LENGTH, "tenant" => tenant.clone()).set(blocks.live.len() as f64);
        // Summed as floats: metas are foreign, and their numbers may not add up in integers.
        let set = |status: &'static str, objects: f64, bytes: f64| {
            gauge!(names::BACKEND_OBJECTS, "tenant" => tenant.clone(), "status" => status).set(objects);
            gauge!(names::BACKEND_BYTES, "tenant" => tenant.clone(), "status" => status).set(bytes);
        };
        let objects = |metas: &mut dyn Iterator<Item = &BlockMeta>| metas.map(|meta| meta.total_objects as f64).sum();
        let bytes = |metas: &mut dyn Iterator<Item = &BlockMeta>| metas.map(|meta| meta.size_bytes as f64).sum();
        set("live", objects(&mut live()), bytes(&mut live()));
        set("compacted", objects(&mut compacted()), bytes(&mut compacted()));
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.clock.now_unix_nanos())).unwrap_or(Timestamp::MAX)
    }
}

fn from_index(index: TenantIndex) -> TenantBlocks {
    TenantBlocks { live: index.metas.into_iter().map(Arc::new).collect(), compacted: index.compacted.into_iter().map(Arc::new).collect() }
}

/// Returns the hash by which the builder with `number` of a tenant's index is chosen.
pub fn index_job_hash(number: usize, tenant: &TenantId) -> u32 {
    fnv1a_32(format!("build-tenant-index-{number}-{tenant}").as_bytes())
}

/// FNV-1a (xor, then multiply), 32 bits; the bloom filter uses the other order.
fn fnv1a_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(2_166_136_261, |hash: u32, &byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619))
}

#[cfg(test)]
#[path = "poller_tests.rs"]
mod tests;
