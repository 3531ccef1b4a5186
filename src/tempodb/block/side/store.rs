//! Reads side objects and keeps them in memory.
//!
//! Whoever asks gets `None` for an object that is of no use, whatever the reason: absent ones are looked for again after a while, broken ones never,
//! and a failed read counts for one question only.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::FixedState;
use metrics::{counter, gauge};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore};
use parking_lot::Mutex;
use tracing::warn;

use super::cache::RecentlyUsed;
use super::container::SideError;
use super::pruning::{BlockSummary, GroupFilter, Probe};
use super::tags::BlockTags;
use super::{PRUNING_NAME, TAGS_NAME};
use crate::base::clock::SharedClock;
use crate::base::cpu_pool::CpuPool;
use crate::model::ids::TenantId;
use crate::tempodb::backend::{Backend, ReadCost};
use crate::tempodb::block::meta::{BlockId, BlockMeta};
use crate::tempodb::block::read::ReadMeter;
use crate::tempodb::keys::block_object;
use crate::tempodb::metrics as names;

/// Bytes of the first read: summaries of all row groups, and in most blocks all filters.
const FIRST_READ_BYTES: u64 = 256 << 10;
/// Larger objects are not ours.
const MAX_OBJECT_BYTES: u64 = 256 << 20;
/// Somebody may make an object that was absent.
const ABSENT_SECONDS: u64 = 600;
/// A block whose objects could not be made is tried again after this long.
const RETRY_SECONDS: u64 = 3_600;
/// Blocks of which is known whether they have objects. Full: all are forgotten and asked for again.
const MAX_PRESENCES: usize = 1_000_000;
/// What remembering an absent object takes.
const MARK_BYTES: usize = 64;

/// The side objects of all blocks.
pub struct SideObjects {
    backend: Backend,
    clock: SharedClock,
    cache: RecentlyUsed<(BlockId, Part), Entry>,
    /// Blocks that have objects, or need none made, until then.
    presences: Mutex<HashMap<BlockId, (bool, u64), FixedState>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Summary,
    Filter(usize),
    Tags,
}

#[derive(Debug, Clone)]
enum Entry {
    Summary(Arc<BlockSummary>),
    /// `None`: the row group has no filter.
    Filter(Option<Arc<GroupFilter>>),
    Tags(Arc<BlockTags>),
    /// There is nothing to use until then.
    Useless {
        until_unix_seconds: u64,
    },
}

/// Why there is nothing to use.
enum Useless {
    Absent,
    Broken(SideError),
    Failed(object_store::Error),
}

impl From<SideError> for Useless {
    fn from(error: SideError) -> Self {
        Self::Broken(error)
    }
}

impl From<object_store::Error> for Useless {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::Absent,
            error => Self::Failed(error),
        }
    }
}

impl SideObjects {
    /// Keeps at most `max_bytes` in memory.
    pub fn new(backend: Backend, clock: SharedClock, max_bytes: usize) -> Self {
        Self { backend, clock, cache: RecentlyUsed::new(max_bytes), presences: Mutex::default() }
    }

    /// Returns the summaries of a block's row groups.
    pub async fn summary(&self, tenant: &TenantId, meta: &BlockMeta, meter: &ReadMeter) -> Option<Arc<BlockSummary>> {
        match self.known(meta.block_id, Part::Summary, PRUNING_NAME) {
            Some(Entry::Summary(summary)) => return Some(summary),
            Some(_) => return None,
            None => {}
        }
        let read = self.read_summary(tenant, meta, meter).await;
        self.noted(tenant, meta.block_id, Part::Summary, PRUNING_NAME, read)
    }

    async fn read_summary(&self, tenant: &TenantId, meta: &BlockMeta, meter: &ReadMeter) -> Result<Arc<BlockSummary>, Useless> {
        let key = block_object(tenant, meta.block_id, PRUNING_NAME);
        let (mut bytes, size) = self.read_start(&key, FIRST_READ_BYTES, meter).await?;
        let mut parsed = BlockSummary::parse(&bytes, meta.size_bytes, bytes.len() as u64 == size)?;
        if parsed.is_none() {
            bytes = self.read_start(&key, size.min(MAX_OBJECT_BYTES), meter).await?.0;
            parsed = BlockSummary::parse(&bytes, meta.size_bytes, true)?;
        }
        let summary = Arc::new(parsed.ok_or(SideError::Corrupt("it ends early"))?);
        self.keep(meta.block_id, Part::Summary, Entry::Summary(Arc::clone(&summary)), summary.memory_bytes());
        for group in 0..summary.groups.len() {
            let range = summary.filter_range(group)?;
            // A slice would keep all that was read in memory.
            let Some(found) = bytes.get(range.start as usize..range.end as usize) else { break };
            self.keep_filter(meta.block_id, &summary, group, Bytes::copy_from_slice(found))?;
        }
        Ok(summary)
    }

    /// Returns the filter of a row group.
    async fn filter(
        &self,
        tenant: &TenantId,
        meta: &BlockMeta,
        summary: &BlockSummary,
        group: usize,
        meter: &ReadMeter,
    ) -> Option<Arc<GroupFilter>> {
        match self.known(meta.block_id, Part::Filter(group), PRUNING_NAME) {
            Some(Entry::Filter(filter)) => return filter,
            Some(_) => return None,
            None => {}
        }
        let read = async {
            let key = block_object(tenant, meta.block_id, PRUNING_NAME);
            let range = summary.filter_range(group)?;
            if range.is_empty() {
                return Ok(self.keep_filter(meta.block_id, summary, group, Bytes::new())?);
            }
            let bytes = self.backend.store().get_opts(&key, bounded(range)).await?.bytes().await?;
            meter.add(ReadCost { requests: 1, bytes: bytes.len() as u64 });
            Ok(self.keep_filter(meta.block_id, summary, group, bytes)?)
        };
        let read = read.await;
        self.noted(tenant, meta.block_id, Part::Filter(group), PRUNING_NAME, read)?
    }

    fn keep_filter(
        &self,
        block: BlockId,
        summary: &BlockSummary,
        group: usize,
        bytes: Bytes,
    ) -> Result<Option<Arc<GroupFilter>>, SideError> {
        let size = bytes.len() + MARK_BYTES;
        let filter = if bytes.is_empty() { None } else { Some(Arc::new(summary.decode_filter(group, &bytes)?)) };
        self.keep(block, Part::Filter(group), Entry::Filter(filter.clone()), size);
        Ok(filter)
    }

    /// Whether a trace of the row group may pass all of `probes`. The filter is fetched only if it may decide.
    pub async fn group_may_match(
        &self,
        tenant: &TenantId,
        meta: &BlockMeta,
        summary: &BlockSummary,
        group: usize,
        probes: &[Probe],
        meter: &ReadMeter,
    ) -> bool {
        let Some(known) = summary.groups.get(group) else { return true };
        if probes.iter().any(|probe| !probe.may_pass(known, None)) {
            return false;
        }
        if !probes.iter().any(|probe| probe.needs_filter(known)) {
            return true;
        }
        let filter = self.filter(tenant, meta, summary, group, meter).await;
        probes.iter().all(|probe| probe.may_pass(known, filter.as_deref()))
    }

    /// Returns the tags of a block.
    pub async fn tags(&self, tenant: &TenantId, meta: &BlockMeta, cpu: &CpuPool, meter: &ReadMeter) -> Option<Arc<BlockTags>> {
        match self.known(meta.block_id, Part::Tags, TAGS_NAME) {
            Some(Entry::Tags(tags)) => return Some(tags),
            Some(_) => return None,
            None => {}
        }
        let read = async {
            let key = block_object(tenant, meta.block_id, TAGS_NAME);
            let (bytes, size) = self.read_start(&key, FIRST_READ_BYTES * 4, meter).await?;
            if bytes.len() as u64 != size {
                return Err(SideError::Corrupt("it is too large").into());
            }
            let data_bytes = meta.size_bytes;
            // A pool that fails will say so where data is decoded.
            let tags = cpu.run("decode_tags", move || BlockTags::decode(&bytes, data_bytes)).await.map_err(|_| Useless::Absent)??;
            let tags = Arc::new(tags);
            self.keep(meta.block_id, Part::Tags, Entry::Tags(Arc::clone(&tags)), tags.memory_bytes());
            Ok(tags)
        };
        let read = read.await;
        self.noted(tenant, meta.block_id, Part::Tags, TAGS_NAME, read)
    }

    /// Whether a block has its objects, or could not be given any lately; `None`: not known.
    pub(super) fn known_presence(&self, block: BlockId) -> Option<bool> {
        let (is_present, until) = *self.presences.lock().get(&block)?;
        (self.clock.now_unix_seconds() < until).then_some(is_present)
    }

    pub(super) fn note_presence(&self, block: BlockId, is_present: bool) {
        let until = if is_present { u64::MAX } else { self.clock.now_unix_seconds().saturating_add(ABSENT_SECONDS) };
        self.remember_presence(block, is_present, until);
    }

    /// Takes note of new objects of a block, or of the failure to make them.
    pub(super) fn note_rebuilt(&self, block: BlockId, is_made: bool) {
        self.cache.remove(&(block, Part::Summary));
        self.cache.remove(&(block, Part::Tags));
        let until = if is_made { u64::MAX } else { self.clock.now_unix_seconds().saturating_add(RETRY_SECONDS) };
        self.remember_presence(block, true, until);
    }

    fn remember_presence(&self, block: BlockId, is_present: bool, until: u64) {
        let mut presences = self.presences.lock();
        if presences.len() >= MAX_PRESENCES {
            presences.clear();
        }
        presences.insert(block, (is_present, until));
    }

    /// Reads the first bytes of an object. Returns them and its size.
    async fn read_start(&self, key: &Path, bytes: u64, meter: &ReadMeter) -> Result<(Bytes, u64), Useless> {
        let got = self.backend.store().get_opts(key, bounded(0..bytes)).await?;
        let size = got.meta.size;
        let bytes = got.bytes().await?;
        meter.add(ReadCost { requests: 1, bytes: bytes.len() as u64 });
        Ok((bytes, size))
    }

    fn known(&self, block: BlockId, part: Part, object: &'static str) -> Option<Entry> {
        let entry = self.cache.get(&(block, part))?;
        if let Entry::Useless { until_unix_seconds } = entry
            && self.clock.now_unix_seconds() >= until_unix_seconds
        {
            return None;
        }
        count(object, "hit");
        Some(entry)
    }

    fn keep(&self, block: BlockId, part: Part, entry: Entry, bytes: usize) {
        self.cache.put((block, part), entry, bytes + MARK_BYTES);
        gauge!(names::SIDE_CACHE_BYTES).set(self.cache.bytes() as f64);
    }

    /// Counts and remembers how reading an object ended.
    fn noted<T>(&self, tenant: &TenantId, block: BlockId, part: Part, object: &'static str, read: Result<T, Useless>) -> Option<T> {
        let until_unix_seconds = match read {
            Ok(value) => {
                count(object, "miss");
                return Some(value);
            }
            Err(Useless::Failed(error)) => {
                count(object, "failed");
                warn!(%tenant, %block, object, error = &error as &dyn std::error::Error, "cannot read a side object; going on without");
                return None;
            }
            Err(Useless::Absent) => {
                count(object, "absent");
                self.clock.now_unix_seconds().saturating_add(ABSENT_SECONDS)
            }
            Err(Useless::Broken(error)) => {
                count(object, "corrupt");
                warn!(%tenant, %block, object, %error, "side object left aside");
                // One of a later version is somebody's good work.
                if !matches!(error, SideError::UnknownVersion(_)) {
                    self.remember_presence(block, false, u64::MAX);
                }
                u64::MAX
            }
        };
        self.keep(block, part, Entry::Useless { until_unix_seconds }, 0);
        None
    }
}

fn bounded(range: std::ops::Range<u64>) -> GetOptions {
    GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() }
}

fn count(object: &'static str, outcome: &'static str) {
    counter!(names::SIDE_REQUESTS, "object" => object, "outcome" => outcome).increment(1);
}
