//! Keeps the [`BlockList`] up to date: reads the tenant index, or lists the backend and writes the index for others (tempodb, polling).
//!
//! Not here: who builds which index (the caller hands in [`IndexOwnership`]), compaction, retention.
//!
//! Invariants
//! * A tenant that cannot be polled keeps its previous list; too many of them and all lists stay as they were.
//! * A meta that cannot be parsed leaves out its block, is counted and logged, and never fails the tenant. Metas are immutable and read once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::FixedState;
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use metrics::{counter, gauge, histogram};
use rand::Rng;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::backend::{Backend, BackendError, BlockIds};
use super::block::meta::{BlockId, BlockMeta, COMPACTED_META_NAME, CompactedBlockMeta, META_NAME};
use super::blocklist::{BlockList, Listing, TenantBlocks};
use super::clock::timestamp;
use super::config::TraceStorageConfig;
use super::keys;
use super::metrics as names;
use super::tenant_index::{JSON_NAME, PROTO_NAME, TenantIndex, TenantIndexError};
use crate::base::clock::SharedClock;
use crate::base::cpu_pool::{CpuPool, CpuPoolError};
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

/// Age at which a tenant without blocks is deleted unless the configuration says otherwise.
const EMPTY_TENANT_AGE: Duration = Duration::from_secs(12 * 60 * 60);

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
    /// What is left of a tenant without blocks and index is deleted once all of it is older than this; `None`: never.
    pub empty_tenant_deletion_age: Option<Duration>,
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
            empty_tenant_deletion_age: config
                .empty_tenant_deletion_enabled
                .then(|| config.empty_tenant_deletion_age.positive().unwrap_or(EMPTY_TENANT_AGE)),
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
    #[error(transparent)]
    Cpu(#[from] CpuPoolError),
}

#[derive(Debug, thiserror::Error)]
pub enum IndexReadError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Content(#[from] TenantIndexError),
    #[error("tenant index created at {0} is stale")]
    Stale(Timestamp),
    #[error(transparent)]
    Cpu(#[from] CpuPoolError),
}

#[derive(Debug, thiserror::Error)]
enum IndexWriteError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Cpu(#[from] CpuPoolError),
}

/// Polls all tenants at intervals.
pub struct Poller {
    backend: Backend,
    settings: PollerSettings,
    ownership: Arc<dyn IndexOwnership>,
    clock: SharedClock,
    list: Arc<BlockList>,
    cpu: CpuPool,
}

/// What a fetch of a block's meta gave.
enum Fetched {
    Live(Arc<BlockMeta>),
    Compacted(Arc<CompactedBlockMeta>),
    /// Gone meanwhile, or unreadable.
    Nothing,
}

impl Poller {
    pub fn new(
        backend: Backend,
        settings: PollerSettings,
        ownership: Arc<dyn IndexOwnership>,
        clock: SharedClock,
        list: Arc<BlockList>,
        cpu: CpuPool,
    ) -> Self {
        Self { backend, settings, ownership, clock, list, cpu }
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
                    self.report(&tenant, &blocks).await?;
                    polled.insert(tenant, blocks);
                }
                Err(error) => {
                    warn!(%tenant, error = &error as &dyn std::error::Error, "tenant could not be polled, keeping its previous list");
                    failures += 1;
                    if failures > self.settings.tolerate_tenant_failures {
                        return Err(PollError::TooManyFailures);
                    }
                    polled.insert(tenant.clone(), self.list.blocks(&tenant));
                }
            }
        }
        drop(results);
        for tenant in self.list.tenants().iter().filter(|tenant| !polled.contains_key(tenant)) {
            self.report(tenant, &Arc::default()).await?;
        }
        self.list.apply_poll(polled);
        histogram!(names::POLL_DURATION).record(started.elapsed().as_secs_f64());
        Ok(())
    }

    async fn poll_tenant_with_retries(&self, tenant: &TenantId) -> Result<Arc<TenantBlocks>, PollError> {
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

    async fn poll_tenant(&self, tenant: &TenantId) -> Result<Arc<TenantBlocks>, PollError> {
        let is_builder = self.builds_index(tenant);
        gauge!(names::INDEX_BUILDER, "tenant" => tenant.to_string()).set(f64::from(u8::from(is_builder)));
        if !is_builder {
            match self.read_index(tenant).await {
                Ok(blocks) => return Ok(blocks),
                Err(cause) => {
                    counter!(names::INDEX_ERRORS, "tenant" => tenant.to_string()).increment(1);
                    if !self.settings.fallback {
                        return Err(PollError::Index { tenant: tenant.clone(), cause });
                    }
                    info!(%tenant, error = &cause as &dyn std::error::Error, "tenant index cannot be used, listing the backend");
                }
            }
        }
        let failed = |cause| PollError::Tenant { tenant: tenant.clone(), cause };
        let ids = self.backend.block_ids(tenant).await.map_err(failed)?;
        gauge!(names::FOREIGN_OBJECTS, "tenant" => tenant.to_string()).set(ids.foreign_objects as f64);
        if is_builder && self.is_to_be_deleted(&ids) {
            info!(%tenant, foreign_objects = ids.foreign_objects, "deleting what is left of a tenant without blocks");
            self.backend.clear_tenant(tenant).await.map_err(failed)?;
            return Ok(Arc::default());
        }
        let (previous, now) = (self.list.blocks(tenant), self.now());
        let (known, unknown) = self.cpu.run("compare_block_list", move || known_blocks(&previous, ids, now)).await?;
        let blocks = Arc::new(self.fetch_unknown(tenant, known, unknown).await.map_err(failed)?);
        if let Err(error) = self.write_index(tenant, &blocks).await {
            counter!(names::INDEX_ERRORS, "tenant" => tenant.to_string()).increment(1);
            warn!(%tenant, error = &error as &dyn std::error::Error, "tenant index could not be written");
        }
        Ok(blocks)
    }

    /// Whether this process builds the index of the tenant, and does what else must be done once per tenant.
    pub fn builds_index(&self, tenant: &TenantId) -> bool {
        (0..self.settings.index_builders).any(|number| self.ownership.owns(index_job_hash(number, tenant)))
    }

    fn is_to_be_deleted(&self, ids: &BlockIds) -> bool {
        let Some(age) = self.settings.empty_tenant_deletion_age.and_then(|age| SignedDuration::try_from(age).ok()) else { return false };
        let is_empty = ids.live.is_empty() && ids.compacted.is_empty() && !ids.has_index;
        is_empty && ids.youngest.is_some_and(|youngest| self.now().duration_since(youngest) > age)
    }

    /// Reads the tenant index: the protobuf form, or if there is none the JSON form.
    async fn read_index(&self, tenant: &TenantId) -> Result<Arc<TenantBlocks>, IndexReadError> {
        let index = match self.backend.read(&keys::tenant_object(tenant, PROTO_NAME)).await {
            Ok(bytes) => self.cpu.run("decode_tenant_index", move || TenantIndex::from_proto_zstd(&bytes)).await??,
            Err(error) if error.is_not_found() => {
                let bytes = self.backend.read(&keys::tenant_object(tenant, JSON_NAME)).await?;
                self.cpu.run("decode_tenant_index", move || TenantIndex::from_json_gzip(&bytes)).await??
            }
            Err(error) => return Err(error.into()),
        };
        let age = self.now().duration_since(index.created_at);
        gauge!(names::INDEX_AGE, "tenant" => tenant.to_string()).set(age.as_secs_f64());
        match self.settings.stale_index.and_then(|bound| SignedDuration::try_from(bound).ok()) {
            Some(bound) if age > bound => Err(IndexReadError::Stale(index.created_at)),
            _ => {
                let list = Arc::clone(&self.list);
                let previous = self.list.blocks(tenant);
                Ok(self.cpu.run("apply_tenant_index", move || Arc::new(from_index(index, &previous, &list))).await?)
            }
        }
    }

    /// Writes both forms, or deletes them, and what else we keep of the tenant, when there are no blocks.
    async fn write_index(&self, tenant: &TenantId, blocks: &Arc<TenantBlocks>) -> Result<(), IndexWriteError> {
        let (proto, json) = (keys::tenant_object(tenant, PROTO_NAME), keys::tenant_object(tenant, JSON_NAME));
        if blocks.is_empty() {
            for (name, _) in blocks.listing.iter().flat_map(|listing| &listing.own_objects) {
                self.backend.delete(&keys::tenant_object(tenant, name)).await?;
            }
            self.backend.delete(&proto).await?;
            return Ok(self.backend.delete(&json).await?);
        }
        let (created_at, blocks) = (self.now(), Arc::clone(blocks));
        let encode = move || {
            let (metas, compacted) = (blocks.live.iter().cloned().collect(), blocks.compacted.iter().cloned().collect());
            let index = TenantIndex { created_at, metas, compacted };
            (index.to_proto_zstd(), index.to_json_gzip())
        };
        let (proto_bytes, json_bytes) = self.cpu.run("encode_tenant_index", encode).await?;
        self.backend.write(&proto, proto_bytes).await?;
        self.backend.write(&json, json_bytes).await?;
        gauge!(names::INDEX_AGE, "tenant" => tenant.to_string()).set(0.0);
        Ok(())
    }

    /// Reads the metas of unknown blocks and adds them to the known ones.
    async fn fetch_unknown(
        &self,
        tenant: &TenantId,
        mut blocks: TenantBlocks,
        unknown: Vec<Unknown>,
    ) -> Result<TenantBlocks, BackendError> {
        let mut fetches = stream::iter(unknown)
            .map(|(id, compacted_at)| self.fetch(tenant, id, compacted_at))
            .buffer_unordered(self.settings.concurrency.max(1));
        while let Some(fetched) = fetches.next().await {
            match fetched? {
                Fetched::Live(meta) => blocks.live.insert(meta),
                Fetched::Compacted(meta) => blocks.compacted.insert(meta),
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

    /// Returns the meta unless it is broken or that of another block.
    fn parse(&self, tenant: &TenantId, id: BlockId, bytes: &[u8]) -> Option<BlockMeta> {
        let problem = match BlockMeta::from_json(bytes) {
            Ok(mut meta) if meta.block_id == id => {
                self.list.share_columns(&mut meta);
                return Some(meta);
            }
            Ok(meta) => format!("it names block {}", meta.block_id),
            Err(error) => error.to_string(),
        };
        counter!(names::CORRUPT_METAS, "tenant" => tenant.to_string()).increment(1);
        warn!(%tenant, block = %id, problem, "block meta is corrupt, leaving the block out");
        None
    }

    async fn report(&self, tenant: &TenantId, blocks: &Arc<TenantBlocks>) -> Result<(), CpuPoolError> {
        let blocks = Arc::clone(blocks);
        let length = blocks.live.len();
        let sum = move || (sum(blocks.live.iter().map(Arc::as_ref)), sum(blocks.compacted.iter().map(|compacted| &compacted.meta)));
        let (live, compacted) = self.cpu.run("sum_block_list", sum).await?;
        let tenant = tenant.to_string();
        gauge!(names::BLOCKLIST_LENGTH, "tenant" => tenant.clone()).set(length as f64);
        for (status, (objects, bytes)) in [("live", live), ("compacted", compacted)] {
            gauge!(names::BACKEND_OBJECTS, "tenant" => tenant.clone(), "status" => status).set(objects);
            gauge!(names::BACKEND_BYTES, "tenant" => tenant.clone(), "status" => status).set(bytes);
        }
        Ok(())
    }

    fn now(&self) -> Timestamp {
        timestamp(&self.clock)
    }
}

/// Adds up traces and bytes, as floats: metas are foreign, and their numbers may not add up in integers.
fn sum<'a>(metas: impl Iterator<Item = &'a BlockMeta>) -> (f64, f64) {
    metas.fold((0.0, 0.0), |(objects, bytes), meta| (objects + meta.total_objects as f64, bytes + meta.size_bytes as f64))
}

/// A block whose meta must be read, and when it was compacted if the listing showed that.
type Unknown = (BlockId, Option<Timestamp>);

/// Returns what the previous list tells of the listed blocks, and those it does not know.
fn known_blocks(previous: &TenantBlocks, ids: BlockIds, now: Timestamp) -> (TenantBlocks, Vec<Unknown>) {
    let compacted: HashMap<BlockId, Timestamp, FixedState> = ids.compacted.into_iter().collect();
    // During the switch a block has both metas.
    let live: HashSet<BlockId, FixedState> = ids.live.into_iter().filter(|id| !compacted.contains_key(id)).collect();
    let listing = Listing { no_compact: ids.no_compact.into_iter().collect(), own_objects: ids.own_objects };
    let mut blocks = TenantBlocks { live: previous.live.clone(), compacted: previous.compacted.clone(), ..TenantBlocks::default() };
    blocks.listing = Some(Arc::new(listing));
    let not_live: Vec<BlockId> = previous.live.ids().filter(|id| !live.contains(id)).collect();
    let not_compacted: Vec<BlockId> = previous.compacted.ids().filter(|id| !compacted.contains_key(id)).collect();
    let gone = blocks.live.remove(&not_live);
    blocks.compacted.remove(&not_compacted);
    for meta in gone.into_iter().filter(|meta| compacted.contains_key(&meta.block_id)) {
        blocks.compacted.insert(Arc::new(CompactedBlockMeta { meta: (*meta).clone(), compacted_time: now }));
    }
    let mut unknown = Vec::new();
    if blocks.live.len() < live.len() {
        let known: HashSet<BlockId, FixedState> = blocks.live.ids().collect();
        unknown.extend(live.into_iter().filter(|id| !known.contains(id)).map(|id| (id, None)));
    }
    if blocks.compacted.len() < compacted.len() {
        let known: HashSet<BlockId, FixedState> = blocks.compacted.ids().collect();
        unknown.extend(compacted.into_iter().filter(|(id, _)| !known.contains(id)).map(|(id, at)| (id, Some(at))));
    }
    (blocks, unknown)
}

/// Returns the blocks of an index. Metas that are known stay the same objects, so that the old and the new list share them.
fn from_index(index: TenantIndex, previous: &TenantBlocks, list: &BlockList) -> TenantBlocks {
    let known: HashMap<BlockId, &Arc<BlockMeta>, FixedState> = previous.live.iter().map(|meta| (meta.block_id, meta)).collect();
    let live = index.metas.into_iter().map(|mut meta| match known.get(&meta.block_id) {
        Some(known) if **known == meta => Arc::clone(known),
        _ => {
            list.share_columns(Arc::make_mut(&mut meta));
            meta
        }
    });
    let compacted = index.compacted.into_iter().map(|mut compacted| {
        list.share_columns(&mut Arc::make_mut(&mut compacted).meta);
        compacted
    });
    TenantBlocks::new(live, compacted)
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
