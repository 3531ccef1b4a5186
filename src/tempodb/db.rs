//! The stored blocks as one thing: which there are, and readers of them.
//!
//! Not here: queries and lookups (they ask the readers opened here), merging the pieces of a trace, recent data.
//!
//! Invariants
//! * At most `max_open_readers` footers are kept; the one not used for longest goes first.
//! * A block found corrupt is counted and logged each time, and after [`QUARANTINE_AFTER`] times not opened again by this process
//!   ([`DbError::Quarantined`]): bytes may have been damaged on their way, and then reading them again helps.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use jiff::SignedDuration;
use metrics::{counter, gauge};
use parking_lot::Mutex;
use tracing::warn;

use super::backend::{Backend, BackendError};
use super::block::dictionary_cache::DictionaryCache;
use super::block::error::BlockReadError;
use super::block::meta::{BlockId, BlockMeta, is_preview};
use super::block::read::{BlockReader, ReadMeter, ReadOptions, bloom_may_contain};
use super::block::side::store::SideObjects;
use super::block::side::tag_index::TagIndex;
use super::block::write::{BlockWriter, NewBlock, WriteError};
use super::blocklist::{BlockList, TenantBlocks};
use super::cache::{BlockCacheSettings, BlockCaches, Caches};
use super::trace_filter::lookup::{Candidates, TraceFilters, TraceQuery};
use super::{keys, metrics as names};
use crate::base::clock::SharedClock;
use crate::base::cpu_pool::CpuPool;
use crate::base::error_class::ErrorClass;
use crate::model::ids::{TenantId, TraceId};

/// For callers that want all blocks.
pub const ALL_TIMES: RangeInclusive<i64> = i64::MIN..=i64::MAX;

/// Times that a block must be found corrupt before it is given up.
const QUARANTINE_AFTER: u32 = 3;

/// Corrupt blocks remembered. Full: all are forgotten and found again, which costs some reads each.
const MAX_CORRUPT: usize = 10_000;

/// Sizes of what is kept in memory.
#[derive(Debug, Clone)]
pub struct DbSettings {
    /// Footers kept open; a footer takes some 100 KB.
    pub max_open_readers: usize,
    /// Decoded dictionaries; that of all attribute values in a foreign block alone takes some 10 MB.
    pub dictionary_cache_bytes: usize,
    /// Side objects; a block's take about a byte a span, and only what is asked for is kept.
    pub side_cache_bytes: usize,
    pub verify_checksums: bool,
    /// Compacted blocks are still asked for this long, because others may not know their successor yet: twice the poll interval.
    pub compacted_grace: SignedDuration,
    /// Caches of block objects, and what is worth keeping there.
    pub caches: Caches,
    pub cached: BlockCacheSettings,
}

impl Default for DbSettings {
    fn default() -> Self {
        Self {
            max_open_readers: 256,
            dictionary_cache_bytes: 64 << 20,
            side_cache_bytes: 32 << 20,
            verify_checksums: true,
            compacted_grace: SignedDuration::from_mins(10),
            caches: Caches::default(),
            cached: BlockCacheSettings::default(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error(transparent)]
    Read(#[from] Arc<BlockReadError>),
    #[error("block was found corrupt before")]
    Quarantined,
}

impl DbError {
    /// Whether the block itself is broken, so that trying again is useless.
    pub fn is_corrupt(&self) -> bool {
        match self {
            Self::Read(error) => error.is_corrupt(),
            Self::Quarantined => true,
        }
    }

    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Read(error) => error.class(),
            Self::Quarantined => ErrorClass::Internal,
        }
    }
}

/// Returns the live ones of `blocks` that may hold data of `range`, in seconds: latest end first, then by id. Previews are left out.
pub fn overlapping(blocks: &TenantBlocks, range: RangeInclusive<i64>) -> Vec<Arc<BlockMeta>> {
    blocks.live.overlapping(range).filter(|meta| !is_preview(&meta.format)).cloned().collect()
}

/// All blocks of all tenants.
pub struct TempoDb {
    backend: Backend,
    list: Arc<BlockList>,
    settings: DbSettings,
    options: ReadOptions,
    clock: SharedClock,
    side: SideObjects,
    tags: TagIndex,
    readers: Mutex<Readers>,
    filters: TraceFilters,
    /// How often blocks were found corrupt.
    corrupt: Mutex<HashMap<BlockId, u32>>,
}

#[derive(Default)]
struct Readers {
    open: HashMap<BlockId, (Arc<BlockReader>, u64)>,
    uses: u64,
}

impl TempoDb {
    pub fn new(backend: Backend, list: Arc<BlockList>, settings: DbSettings, clock: SharedClock) -> Self {
        names::describe();
        let dictionaries = Arc::new(DictionaryCache::new(settings.dictionary_cache_bytes));
        let caches = Arc::new(BlockCaches::new(settings.caches.clone(), settings.cached.clone(), Arc::clone(&clock)));
        let options = ReadOptions { verify_checksums: settings.verify_checksums, dictionaries, caches };
        let side = SideObjects::new(backend.clone(), Arc::clone(&clock), settings.side_cache_bytes);
        let tags = TagIndex::new(Arc::clone(&clock));
        let (readers, corrupt) = (Mutex::default(), Mutex::default());
        Self { backend, list, settings, options, clock, side, tags, readers, filters: TraceFilters::default(), corrupt }
    }

    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Begins a block in this database's object storage; its bloom filter and index are cached when it is done.
    pub async fn create_block(&self, cpu: CpuPool, block: NewBlock) -> Result<BlockWriter, WriteError> {
        let writer = BlockWriter::create(self.backend.clone(), cpu, block).await?;
        Ok(writer.cached_in(Arc::clone(&self.options.caches)))
    }

    /// The objects that say what is in blocks without opening them.
    pub fn side(&self) -> &SideObjects {
        &self.side
    }

    /// The tags of all blocks of a tenant, joined.
    pub fn tags(&self) -> &TagIndex {
        &self.tags
    }

    pub fn block_list(&self) -> &Arc<BlockList> {
        &self.list
    }

    /// Returns the live blocks of a tenant, latest end first, then by id. Previews are left out.
    pub fn blocks(&self, tenant: &TenantId) -> Vec<Arc<BlockMeta>> {
        self.blocks_overlapping(tenant, ALL_TIMES)
    }

    /// Returns those of [`TempoDb::blocks`] that may hold data of `range`, in seconds.
    pub fn blocks_overlapping(&self, tenant: &TenantId, range: RangeInclusive<i64>) -> Vec<Arc<BlockMeta>> {
        overlapping(&self.list.blocks(tenant), range)
    }

    /// Whether a block must not be compacted: as the last listing of the backend showed, or asked when it did not show the block.
    pub async fn is_no_compact(&self, tenant: &TenantId, block: BlockId) -> Result<bool, BackendError> {
        if let Some(known) = self.list.blocks(tenant).no_compact(block) {
            return Ok(known);
        }
        match self.backend.head(&keys::block_object(tenant, block, keys::NO_COMPACT_NAME)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns a reader, from memory when the block is open.
    pub async fn open(&self, tenant: &TenantId, meta: &Arc<BlockMeta>, meter: &ReadMeter) -> Result<Arc<BlockReader>, DbError> {
        if self.is_quarantined(meta.block_id) {
            return Err(DbError::Quarantined);
        }
        if let Some(reader) = self.readers.lock().get(meta.block_id) {
            return Ok(reader);
        }
        let mut options = self.options.clone();
        if self.corrupt.lock().contains_key(&meta.block_id) {
            // The damage may be in a cache.
            options.caches = Arc::default();
        }
        let opened = BlockReader::open(&self.backend, tenant, Arc::clone(meta), options, meter).await;
        let reader = opened.map(Arc::new).map_err(|error| self.failure(tenant, meta.block_id, error))?;
        self.readers.lock().put(meta.block_id, &reader, self.settings.max_open_readers);
        Ok(reader)
    }

    /// Opens a reader that is not kept and uses no caches, for whoever goes through many blocks once.
    pub async fn open_apart(&self, tenant: &TenantId, meta: &Arc<BlockMeta>, meter: &ReadMeter) -> Result<BlockReader, DbError> {
        if self.is_quarantined(meta.block_id) {
            return Err(DbError::Quarantined);
        }
        let options = ReadOptions { verify_checksums: self.settings.verify_checksums, ..ReadOptions::default() };
        let opened = BlockReader::open(&self.backend, tenant, Arc::clone(meta), options, meter).await;
        opened.map_err(|error| self.failure(tenant, meta.block_id, error))
    }

    /// Returns the blocks that may hold a trace: those the filter of the tenant names, and those it does not cover. Blocks compacted within the
    /// grace time are among them: nothing is missing, some of it is twice.
    pub async fn candidate_blocks(
        &self,
        tenant: &TenantId,
        id: TraceId,
        range: RangeInclusive<i64>,
        blocks: RangeInclusive<BlockId>,
    ) -> Candidates {
        let now = self.now_seconds();
        let compacted_since = (now as i64).saturating_sub(self.settings.compacted_grace.as_secs());
        let query = TraceQuery { id, range, blocks, compacted_since };
        self.filters.candidates(&self.backend, tenant, self.list.blocks(tenant), now, &query).await
    }

    /// Returns how many live blocks of a range the filter of the tenant does not cover; `None` when there is no filter.
    pub async fn uncovered_blocks(&self, tenant: &TenantId, range: RangeInclusive<i64>) -> Option<usize> {
        self.filters.uncovered(&self.backend, tenant, self.list.blocks(tenant), self.now_seconds(), &range).await
    }

    pub(super) fn trace_filters(&self) -> &TraceFilters {
        &self.filters
    }

    pub(super) fn now_seconds(&self) -> u64 {
        self.clock.now_unix_seconds()
    }

    /// Asks the bloom filter of a block; `false` is certain.
    pub async fn bloom_may_contain(&self, tenant: &TenantId, meta: &BlockMeta, id: TraceId) -> Result<bool, DbError> {
        if self.is_quarantined(meta.block_id) {
            return Err(DbError::Quarantined);
        }
        counter!(names::BLOOM_LOOKUPS).increment(1);
        let asked = bloom_may_contain(&self.backend, tenant, meta, id, &self.options).await;
        asked.map_err(|error| self.failure(tenant, meta.block_id, error))
    }

    /// Lets go of everything kept of a block, because its objects are deleted.
    pub fn forget(&self, block: BlockId) {
        self.readers.lock().open.remove(&block);
        self.corrupt.lock().remove(&block);
    }

    /// Takes note of a failed read. A corrupt block is read anew the next time, and given up after some times.
    pub fn failure(&self, tenant: &TenantId, block: BlockId, error: BlockReadError) -> DbError {
        if error.is_corrupt() {
            self.readers.lock().open.remove(&block);
            counter!(names::CORRUPT_READS, "tenant" => tenant.to_string()).increment(1);
            let times = self.count_corrupt(block);
            warn!(%tenant, %block, times, error = &error as &dyn std::error::Error, "block is corrupt");
            if times == QUARANTINE_AFTER {
                counter!(names::QUARANTINED_BLOCKS, "tenant" => tenant.to_string()).increment(1);
                warn!(%tenant, %block, "block quarantined");
            }
        }
        DbError::Read(Arc::new(error))
    }

    /// Whether a block was found corrupt so often that it is not opened any more.
    pub fn is_quarantined(&self, block: BlockId) -> bool {
        self.corrupt.lock().get(&block).is_some_and(|&times| times >= QUARANTINE_AFTER)
    }

    fn count_corrupt(&self, block: BlockId) -> u32 {
        let mut corrupt = self.corrupt.lock();
        if corrupt.len() >= MAX_CORRUPT && !corrupt.contains_key(&block) {
            corrupt.clear();
        }
        let times = corrupt.entry(block).or_default();
        *times += 1;
        *times
    }
}

impl Readers {
    fn get(&mut self, block: BlockId) -> Option<Arc<BlockReader>> {
        self.uses += 1;
        let uses = self.uses;
        let (reader, used) = self.open.get_mut(&block)?;
        *used = uses;
        Some(Arc::clone(reader))
    }

    fn put(&mut self, block: BlockId, reader: &Arc<BlockReader>, bound: usize) {
        self.uses += 1;
        self.open.insert(block, (Arc::clone(reader), self.uses));
        while self.open.len() > bound {
            let Some(oldest) = self.open.iter().min_by_key(|(_, (_, used))| *used).map(|(block, _)| *block) else { break };
            self.open.remove(&oldest);
        }
        gauge!(names::OPEN_READERS).set(self.open.len() as f64);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::poller::{OwnsAll, Poller, PollerSettings};
    use super::*;
    use crate::base::clock::ManualClock;
    use crate::base::cpu_pool::CpuPool;
    use crate::model::ids::TraceId;
    use crate::tempodb::backend::ReadCost;
    use crate::tempodb::cache::CacheRole;
    use crate::tempodb::cache::testing::caches_of;
    use crate::tempodb::config::TraceStorageConfig;

    /// A copy of the fixture blocks, and a database over it after one poll. The files go with the folder.
    async fn open(folder: &str, settings: DbSettings) -> (TempoDb, tempfile::TempDir) {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&Path::new("testdata/blocks").join(folder), copy.path());
        let backend = Backend::local(copy.path()).unwrap();
        let list = Arc::new(BlockList::default());
        let clock = Arc::new(ManualClock::at(1_795_400_000_000_000_000));
        let cpu = CpuPool::new("test", 1).unwrap();
        let settings_of_poller = PollerSettings::from(&TraceStorageConfig::default());
        let poller = Poller::new(backend.clone(), settings_of_poller, Arc::new(OwnsAll(true)), clock.clone(), Arc::clone(&list), cpu);
        poller.poll().await.unwrap();
        (TempoDb::new(backend, list, settings, clock), copy)
    }

    fn copy_folder(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                std::fs::create_dir(&target).unwrap();
                copy_folder(&entry.path(), &target);
            } else {
                std::fs::write(&target, std::fs::read(entry.path()).unwrap()).unwrap();
            }
        }
    }

    fn alpha() -> TenantId {
        TenantId::parse("alpha").unwrap()
    }

    /// The traces of each block.
    fn expected() -> HashMap<BlockId, Vec<TraceId>> {
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read("testdata/blocks/expected/vParquet5.json").unwrap()).unwrap();
        let blocks = json["alpha"].as_object().unwrap().iter();
        let ids =
            |block: &serde_json::Value| block["traces"].as_object().unwrap().keys().map(|id| TraceId::from_hex(id).unwrap()).collect();
        blocks.map(|(block, value)| (BlockId(block.parse().unwrap()), ids(value))).collect()
    }

    /// Looks a trace up as callers do: a failed read is reported back.
    async fn find(db: &TempoDb, meta: &Arc<BlockMeta>, id: TraceId) -> Result<bool, DbError> {
        let reader = db.open(&alpha(), meta, &ReadMeter::default()).await?;
        let found = reader.find_trace(id, &ReadMeter::default()).await.map_err(|error| db.failure(&alpha(), meta.block_id, error))?;
        Ok(found.is_some_and(|table| table.traces.ids == [id]))
    }

    #[tokio::test]
    async fn traces_are_found_in_every_block_that_has_a_piece() {
        let (db, _folder) = open("vParquet5", DbSettings { max_open_readers: 1, ..DbSettings::default() }).await;
        let (metas, expected) = (db.blocks(&alpha()), expected());
        assert_eq!(metas.len(), 2);
        for id in expected.values().flatten() {
            for meta in &metas {
                assert_eq!(find(&db, meta, *id).await.unwrap(), expected[&meta.block_id].contains(id), "{id} in {}", meta.block_id);
            }
        }
        assert_eq!(db.blocks(&TenantId::parse("nobody").unwrap()).len(), 0);
    }

    #[tokio::test]
    async fn the_reader_not_used_for_longest_is_closed() {
        for (bound, kept) in [(1, vec![1]), (2, vec![0, 1])] {
            let (db, _folder) = open("vParquet5", DbSettings { max_open_readers: bound, ..DbSettings::default() }).await;
            let (metas, meter) = (db.blocks(&alpha()), ReadMeter::default());
            let mut first = Vec::new();
            for meta in &metas {
                first.push(db.open(&alpha(), meta, &meter).await.unwrap());
            }
            assert_eq!(db.readers.lock().open.len(), kept.len());
            for index in kept {
                let again = db.open(&alpha(), &metas[index], &meter).await.unwrap();
                assert!(Arc::ptr_eq(&first[index], &again), "{index} of {bound}");
            }
        }
    }

    #[tokio::test]
    async fn a_broken_block_is_quarantined_after_some_tries_and_the_others_answer() {
        let (db, folder) = open("vParquet5", DbSettings::default()).await;
        let metas = db.blocks(&alpha());
        let (broken, whole) = (&metas[0], &metas[1]);
        let data = folder.path().join(keys::block_object(&alpha(), broken.block_id, keys::DATA_NAME).as_ref());
        let mut bytes = std::fs::read(&data).unwrap();
        let footer = bytes.len() - 1000;
        bytes[footer - 10_000..footer].fill(0xff);
        std::fs::write(&data, bytes).unwrap();
        let expected = expected();
        for _ in 0..QUARANTINE_AFTER {
            assert!(!db.is_quarantined(broken.block_id));
            let failure = find(&db, broken, expected[&broken.block_id][0]).await.unwrap_err();
            assert!(matches!(&failure, DbError::Read(_)) && failure.is_corrupt(), "{failure:?}");
            assert!(!db.readers.lock().open.contains_key(&broken.block_id));
        }
        let again = find(&db, broken, expected[&broken.block_id][0]).await.unwrap_err();
        assert!(matches!(again, DbError::Quarantined) && again.is_corrupt(), "{again:?}");
        assert!(find(&db, whole, expected[&whole.block_id][0]).await.unwrap());
    }

    #[tokio::test]
    async fn what_is_cached_is_not_read_again() {
        let (caches, maps) = caches_of(&CacheRole::ALL);
        let settings = DbSettings { caches, ..DbSettings::default() };
        let (db, folder) = open("vParquet5", settings.clone()).await;
        let (metas, expected) = (db.blocks(&alpha()), expected());
        let look_all_up = async |db: &TempoDb| {
            let meter = ReadMeter::default();
            for meta in &metas {
                for id in &expected[&meta.block_id] {
                    let reader = db.open(&alpha(), meta, &meter).await.unwrap();
                    assert!(reader.find_trace(*id, &meter).await.unwrap().is_some());
                }
            }
            meter
        };
        let first = look_all_up(&db).await;
        assert!(first.cost().requests > 0);
        for meta in &metas {
            std::fs::remove_dir_all(folder.path().join(keys::block_folder(&alpha(), meta.block_id).as_ref())).unwrap();
        }
        // Another process with the same caches: it could not read a byte of the blocks.
        let again = TempoDb::new(db.backend().clone(), Arc::clone(db.block_list()), settings, Arc::clone(&db.clock));
        let second = look_all_up(&again).await;
        assert_eq!(second.cost(), ReadCost::default());
        assert!(second.inspected_bytes() > 0);

        let roles = [CacheRole::ParquetFooter, CacheRole::ParquetOffsetIndex, CacheRole::ParquetColumnIndex, CacheRole::ParquetPage];
        assert!(roles.iter().all(|role| maps[role].keys().iter().all(|key| key.starts_with("alpha:") && key.contains(":data.parquet:"))));
        for meta in &metas {
            let footer = meta.size_bytes - 8 - u64::from(meta.footer_size_bytes);
            let key = format!("alpha:{}:data.parquet:{footer}:{}", meta.block_id, meta.footer_size_bytes);
            assert!(maps[&CacheRole::ParquetFooter].keys().contains(&key));
            assert!(maps[&CacheRole::Bloom].keys().contains(&format!("alpha:{}:bloom-0", meta.block_id)));
            assert!(maps[&CacheRole::TraceIdIndex].keys().contains(&format!("alpha:{}:index", meta.block_id)));
        }
    }

    #[tokio::test]
    async fn blocks_come_latest_first() {
        let (db, _folder) = open("vParquet5", DbSettings::default()).await;
        let all = db.blocks(&alpha());
        assert!(all[0].end_time >= all[1].end_time);
    }
}
