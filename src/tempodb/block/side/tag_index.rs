//! Answers "which tags and values are there?" over all blocks of a tenant from memory.
//!
//! Blocks are joined when they are first asked for ([`super::merged_tags`]): the first question after a start reads an object a block, later ones only those
//! of new blocks. A question about part of a bucket's blocks asks their objects one by one.
//!
//! Invariants
//! * What a question leaves over is answered by nobody here: the caller reads those blocks.
//! * Tags of vanished blocks are forgotten with their bucket, or after [`GONE_SECONDS`]: compaction keeps them in the blocks that follow, deletion does not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::FixedState;
use futures::stream::{self, StreamExt as _};
use metrics::gauge;
use parking_lot::Mutex;

use super::AttrScope;
use super::merged_tags::{Mask, MergedTags};
use super::store::SideObjects;
use super::tags::{BlockTags, TagItem, TagList};
use crate::base::clock::SharedClock;
use crate::base::cpu_pool::{CpuPool, CpuPoolError};
use crate::model::ids::TenantId;
use crate::tempodb::block::meta::{BlockId, BlockMeta};
use crate::tempodb::block::read::ReadMeter;
use crate::tempodb::metrics as names;

/// A bucket that holds tags of vanished blocks is made anew after this long.
const GONE_SECONDS: u64 = 600;
/// Objects read at the same time: enough to hide the latency of object storage.
const READS_AT_ONCE: usize = 64;
/// Objects joined in one go on the CPU pool.
const BLOCKS_A_STEP: usize = 64;
/// Bytes of all tenants together. Beyond it, the tenant not asked for longest is forgotten.
const MAX_BYTES: usize = 128 << 20;
/// Blocks may claim to end at any time; the buckets cover at most two years.
const MAX_AGE_SECONDS: u64 = 2 * 365 * 86_400;

/// The joined tags of tenants that were asked for.
pub struct TagIndex {
    clock: SharedClock,
    tenants: Mutex<HashMap<TenantId, (Arc<Tenant>, u64)>>,
}

struct Tenant {
    /// Held while objects are read, so that questions at the same time read them once.
    reading: tokio::sync::Mutex<()>,
    merged: Mutex<MergedTags>,
}

/// The blocks that a question is about.
pub struct AskedBlocks<'a> {
    pub tenant: &'a TenantId,
    /// All blocks that there are.
    pub live: &'a [Arc<BlockMeta>],
    pub asked: &'a [Arc<BlockMeta>],
}

/// Adds a name to what collects them.
pub type AddName<A> = fn(&mut A, AttrScope, &[u8]);
/// Adds a value of a list.
pub type AddValue<A> = fn(&mut A, &TagList, &TagItem);

type BlockSet = HashSet<BlockId, FixedState>;

/// Who answers for which of the asked blocks.
struct Split {
    tenant: Arc<Tenant>,
    /// Buckets all of whose blocks are asked for.
    whole: Mask,
    whole_blocks: BlockSet,
    /// Blocks of other buckets, with their own tags.
    single: Vec<(BlockId, Arc<BlockTags>)>,
    /// Blocks without usable object.
    left: Vec<BlockId>,
}

impl TagIndex {
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, tenants: Mutex::default() }
    }

    /// Collects names of `scopes` into `names`. Returns it with the blocks that are left.
    pub async fn names<A: Send + 'static>(
        &self,
        side: &SideObjects,
        blocks: AskedBlocks<'_>,
        scopes: Vec<AttrScope>,
        (mut names, add): (A, AddName<A>),
        cpu: &CpuPool,
        meter: &ReadMeter,
    ) -> Result<(A, Vec<BlockId>), CpuPoolError> {
        let split = self.split(side, &blocks, cpu, meter).await?;
        let collect = move || {
            let Split { tenant, whole, whole_blocks, single, mut left } = split;
            let leave = |block| {
                if whole_blocks.contains(&block) {
                    left.push(block);
                }
            };
            tenant.merged.lock().names(&scopes, whole, |scope, key| add(&mut names, scope, key), leave);
            for (block, tags) in single {
                tags.names(&scopes, |scope, key| add(&mut names, scope, key));
                if !tags.has_all_lists {
                    left.push(block);
                }
            }
            (names, left)
        };
        cpu.run("collect_tag_names", collect).await
    }

    /// Collects values of `lists` into `values`. Returns it with the blocks that are left.
    pub async fn values<A: Send + 'static>(
        &self,
        side: &SideObjects,
        blocks: AskedBlocks<'_>,
        lists: Vec<TagList>,
        (mut values, add): (A, AddValue<A>),
        cpu: &CpuPool,
        meter: &ReadMeter,
    ) -> Result<(A, Vec<BlockId>), CpuPoolError> {
        let split = self.split(side, &blocks, cpu, meter).await?;
        let collect = move || {
            let Split { tenant, whole, whole_blocks, single, left } = split;
            let mut left: BlockSet = left.into_iter().collect();
            let merged = tenant.merged.lock();
            for list in &lists {
                let leave = |block| {
                    if whole_blocks.contains(&block) {
                        left.insert(block);
                    }
                };
                merged.values(std::slice::from_ref(list), whole, |value| add(&mut values, list, value), leave);
            }
            drop(merged);
            for (block, tags) in single {
                let mut is_complete = tags.has_all_lists;
                for list in &lists {
                    let Some(found) = tags.lists.get(list) else { continue };
                    found.values.iter().for_each(|value| add(&mut values, list, value));
                    is_complete &= found.is_complete;
                }
                if !is_complete {
                    left.insert(block);
                }
            }
            (values, left.into_iter().collect())
        };
        cpu.run("collect_tag_values", collect).await
    }

    async fn split(&self, side: &SideObjects, blocks: &AskedBlocks<'_>, cpu: &CpuPool, meter: &ReadMeter) -> Result<Split, CpuPoolError> {
        let now = self.clock.now_unix_seconds();
        let tenant = self.tenant(blocks, now);
        let live: BlockSet = blocks.live.iter().map(|meta| meta.block_id).collect();
        {
            let _reading = tenant.reading.lock().await;
            tenant.merged.lock().forget_gone(&live, now);
            let missing = tenant.missing(blocks.asked);
            for step in missing.chunks(BLOCKS_A_STEP) {
                let read = read_tags(side, blocks.tenant, step, cpu, meter).await;
                let found: Vec<_> = read.into_iter().map(|(meta, tags)| (meta.block_id, end_of(meta, now), tags)).collect();
                let joined = Arc::clone(&tenant);
                let join = move || {
                    let mut merged = joined.merged.lock();
                    found.iter().for_each(|(block, end, tags)| merged.add(*block, *end, tags, now));
                };
                cpu.run("join_tags", join).await?;
            }
        }
        self.bound(blocks.tenant);
        let asked: HashMap<BlockId, &Arc<BlockMeta>, FixedState> = blocks.asked.iter().map(|meta| (meta.block_id, meta)).collect();
        let (mut whole, mut whole_blocks, mut partly) = (0, BlockSet::default(), Vec::new());
        for (bit, bucket) in tenant.merged.lock().buckets() {
            if bucket.blocks.iter().all(|block| asked.contains_key(block) || !live.contains(block)) {
                whole |= bit;
                whole_blocks.extend(bucket.blocks.iter().filter(|block| asked.contains_key(*block)));
            } else {
                partly.extend(bucket.blocks.iter().filter_map(|block| asked.get(block).copied()));
            }
        }
        let read = read_tags(side, blocks.tenant, &partly, cpu, meter).await;
        let single: Vec<_> = read.into_iter().map(|(meta, tags)| (meta.block_id, tags)).collect();
        // Whoever came in neither way is left, also when buckets were forgotten while joining.
        let answered: BlockSet = single.iter().map(|(block, _)| *block).chain(whole_blocks.iter().copied()).collect();
        let left = asked.into_keys().filter(|block| !answered.contains(block)).collect();
        Ok(Split { tenant, whole, whole_blocks, single, left })
    }

    fn tenant(&self, blocks: &AskedBlocks<'_>, now: u64) -> Arc<Tenant> {
        let mut tenants = self.tenants.lock();
        let (tenant, used) = tenants.entry(blocks.tenant.clone()).or_insert_with(|| {
            let merged = MergedTags::new(blocks.live.iter().map(|meta| end_of(meta, now)));
            (Arc::new(Tenant { reading: tokio::sync::Mutex::default(), merged: Mutex::new(merged) }), now)
        });
        *used = now;
        Arc::clone(tenant)
    }

    /// Forgets tenants until the rest fits; never the one that is asked for.
    fn bound(&self, asked: &TenantId) {
        let mut tenants = self.tenants.lock();
        loop {
            let bytes: usize = tenants.values().map(|(tenant, _)| tenant.merged.lock().bytes()).sum();
            gauge!(names::SIDE_TAG_INDEX_BYTES).set(bytes as f64);
            let others = tenants.iter().filter(|(tenant, _)| *tenant != asked);
            let oldest = others.min_by_key(|(_, (_, used))| *used).map(|(tenant, _)| tenant.clone());
            match oldest {
                Some(oldest) if bytes > MAX_BYTES => drop(tenants.remove(&oldest)),
                _ => return,
            }
        }
    }
}

/// Returns the blocks that have tags, with these.
async fn read_tags<'a>(
    side: &SideObjects,
    tenant: &TenantId,
    metas: &[&'a Arc<BlockMeta>],
    cpu: &CpuPool,
    meter: &ReadMeter,
) -> Vec<(&'a Arc<BlockMeta>, Arc<BlockTags>)> {
    let reads: Vec<_> = metas.iter().map(|meta| side.tags(tenant, meta, cpu, meter)).collect();
    let read: Vec<_> = stream::iter(reads).buffered(READS_AT_ONCE).collect().await;
    metas.iter().copied().zip(read).filter_map(|(meta, tags)| Some((meta, tags?))).collect()
}

impl Tenant {
    /// Returns those of `asked` that are not joined yet.
    fn missing<'a>(&self, asked: &'a [Arc<BlockMeta>]) -> Vec<&'a Arc<BlockMeta>> {
        let merged = self.merged.lock();
        let joined: BlockSet = merged.buckets().flat_map(|(_, bucket)| bucket.blocks.iter().copied()).collect();
        asked.iter().filter(|meta| !joined.contains(&meta.block_id)).collect()
    }
}

impl MergedTags {
    /// Clears buckets whose blocks have all vanished, or some of them for long.
    fn forget_gone(&mut self, live: &BlockSet, now: u64) {
        let gone = self.buckets().filter(|(_, bucket)| {
            let is_old = now.saturating_sub(bucket.since_unix_seconds) >= GONE_SECONDS;
            let mut blocks = bucket.blocks.iter();
            if is_old { blocks.any(|block| !live.contains(block)) } else { blocks.all(|block| !live.contains(block)) }
        });
        let gone = gone.fold(0, |mask, (bit, _)| mask | bit);
        self.clear(gone);
    }
}

fn end_of(meta: &BlockMeta, now: u64) -> u64 {
    u64::try_from(meta.end_time.as_second()).unwrap_or(0).clamp(now.saturating_sub(MAX_AGE_SECONDS), now)
}
