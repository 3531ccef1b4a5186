//! The stored blocks as one thing: which blocks a question concerns, and traces by id over all of them.
//!
//! Not here: queries (they read row groups of the blocks named here), merging the pieces of a trace, recent data.
//!
//! Invariants
//! * At most `max_open_readers` footers are kept; the one not used for longest goes first.
//! * A block found corrupt is counted, logged and not opened again by this process; answers name it as failed.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use metrics::{counter, gauge};
use parking_lot::Mutex;
use tracing::warn;

use super::backend::Backend;
use super::block::dictionary_cache::DictionaryCache;
use super::block::error::BlockReadError;
use super::block::meta::{BlockId, BlockMeta, is_preview};
use super::block::read::{BlockReader, ReadMeter, ReadOptions};
use super::blocklist::BlockList;
use super::metrics as names;
use crate::base::clock::SharedClock;
use crate::base::cpu_pool::{CpuPool, CpuPoolError};
use crate::base::error_class::ErrorClass;
use crate::model::ids::{TenantId, TraceId};
use crate::model::span_table::SpanTable;

/// Blocks that are asked for one trace at the same time.
const LOOKUP_CONCURRENCY: usize = 16;

/// Corrupt blocks remembered. Full: all are forgotten and found again, which costs a read each.
const MAX_QUARANTINED: usize = 10_000;

/// Sizes of what is kept in memory.
#[derive(Debug, Clone)]
pub struct DbSettings {
    /// Footers kept open; a footer takes some 100 KB.
    pub max_open_readers: usize,
    /// Decoded dictionaries; that of all attribute values in a foreign block alone takes some 10 MB.
    pub dictionary_cache_bytes: usize,
    pub verify_checksums: bool,
    /// Compacted blocks are still asked for this long, because others may not know their successor yet: twice the poll interval.
    pub compacted_grace: SignedDuration,
}

impl Default for DbSettings {
    fn default() -> Self {
        Self {
            max_open_readers: 256,
            dictionary_cache_bytes: 64 << 20,
            verify_checksums: true,
            compacted_grace: SignedDuration::from_mins(10),
        }
    }
}

/// A span of time, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    pub start: Timestamp,
    pub end: Timestamp,
}

impl TimeRange {
    /// Whether a block may hold spans of this time.
    ///
    /// A start after the end means late data, whose true start the meta does not tell (block-format §2): only the end counts then.
    pub fn may_hold(&self, meta: &BlockMeta) -> bool {
        let starts_in_time = meta.start_time <= self.end || meta.start_time > meta.end_time;
        starts_in_time && meta.end_time >= self.start
    }
}

/// The parts of a trace that were found, and the blocks that could not be asked.
#[derive(Debug, Default)]
pub struct TracePieces {
    /// One row each, in no particular order.
    pub pieces: Vec<SpanTable>,
    pub failed: Vec<(BlockId, DbError)>,
    /// Blocks asked.
    pub blocks: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error(transparent)]
    Read(#[from] Arc<BlockReadError>),
    #[error("block was found corrupt before")]
    Quarantined,
    #[error(transparent)]
    Cpu(#[from] CpuPoolError),
}

impl DbError {
    /// Whether the block itself is broken, so that trying again is useless.
    pub fn is_corrupt(&self) -> bool {
        match self {
            Self::Read(error) => error.is_corrupt(),
            Self::Quarantined => true,
            Self::Cpu(_) => false,
        }
    }

    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Read(error) => error.class(),
            Self::Quarantined | Self::Cpu(_) => ErrorClass::Internal,
        }
    }
}

/// All blocks of all tenants.
pub struct TempoDb {
    backend: Backend,
    list: Arc<BlockList>,
    settings: DbSettings,
    options: ReadOptions,
    clock: SharedClock,
    cpu: CpuPool,
    readers: Mutex<Readers>,
    quarantined: Mutex<HashMap<BlockId, TenantId>>,
}

#[derive(Default)]
struct Readers {
    open: HashMap<BlockId, (Arc<BlockReader>, u64)>,
    uses: u64,
}

impl TempoDb {
    pub fn new(backend: Backend, list: Arc<BlockList>, settings: DbSettings, clock: SharedClock, cpu: CpuPool) -> Self {
        names::describe();
        let dictionaries = Arc::new(DictionaryCache::new(settings.dictionary_cache_bytes));
        let options = ReadOptions { verify_checksums: settings.verify_checksums, dictionaries };
        Self { backend, list, settings, options, clock, cpu, readers: Mutex::default(), quarantined: Mutex::default() }
    }

    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    pub fn block_list(&self) -> &Arc<BlockList> {
        &self.list
    }

    /// Returns the live blocks of a tenant that may hold spans of `range`, latest end first, then by id. Previews are left out.
    pub fn blocks(&self, tenant: &TenantId, range: Option<TimeRange>) -> Vec<Arc<BlockMeta>> {
        let blocks = self.list.blocks(tenant);
        let concerned = blocks.live.iter().filter(|meta| !is_preview(&meta.format) && range.is_none_or(|range| range.may_hold(meta)));
        let mut metas: Vec<_> = concerned.cloned().collect();
        metas.sort_by(|a, b| b.end_time.cmp(&a.end_time).then(a.block_id.cmp(&b.block_id)));
        metas
    }

    /// Returns a reader, from memory when the block is open.
    pub async fn open(&self, tenant: &TenantId, meta: &Arc<BlockMeta>, meter: &ReadMeter) -> Result<Arc<BlockReader>, DbError> {
        if self.quarantined.lock().contains_key(&meta.block_id) {
            return Err(DbError::Quarantined);
        }
        if let Some(reader) = self.readers.lock().get(meta.block_id) {
            return Ok(reader);
        }
        let opened = BlockReader::open(&self.backend, tenant, Arc::clone(meta), self.options.clone(), meter).await;
        let reader = opened.map(Arc::new).map_err(|error| self.failure(tenant, meta.block_id, error))?;
        self.readers.lock().put(meta.block_id, &reader, self.settings.max_open_readers);
        Ok(reader)
    }

    /// Looks a trace up in all blocks of a tenant that may hold it: live ones, and compacted ones for a while.
    pub async fn find_trace(&self, tenant: &TenantId, id: TraceId, range: Option<TimeRange>, meter: &ReadMeter) -> TracePieces {
        let metas = self.blocks_for_lookup(tenant, range);
        let mut found = TracePieces { blocks: metas.len(), ..TracePieces::default() };
        let mut lookups = stream::iter(metas)
            .map(|meta| async move {
                let piece = self.find_in_block(tenant, &meta, id, meter).await;
                (meta.block_id, piece)
            })
            .buffer_unordered(LOOKUP_CONCURRENCY);
        while let Some((block, piece)) = lookups.next().await {
            match piece {
                Ok(Some(table)) => found.pieces.push(table),
                Ok(None) => {}
                Err(error) => found.failed.push((block, error)),
            }
        }
        drop(lookups);
        found
    }

    /// Returns the blocks of [`TempoDb::blocks`] and those compacted within the grace time: nothing is missing in them, some of it is twice.
    pub fn blocks_for_lookup(&self, tenant: &TenantId, range: Option<TimeRange>) -> Vec<Arc<BlockMeta>> {
        let mut metas = self.blocks(tenant, range);
        let now = Timestamp::from_nanosecond(i128::from(self.clock.now_unix_nanos())).unwrap_or(Timestamp::MAX);
        let blocks = self.list.blocks(tenant);
        let recent = blocks.compacted.iter().filter(|block| now.duration_since(block.compacted_time) <= self.settings.compacted_grace);
        let recent = recent.filter(|block| !is_preview(&block.meta.format) && range.is_none_or(|range| range.may_hold(&block.meta)));
        metas.extend(recent.map(|block| Arc::new(block.meta.clone())));
        metas
    }

    async fn find_in_block(
        &self,
        tenant: &TenantId,
        meta: &Arc<BlockMeta>,
        id: TraceId,
        meter: &ReadMeter,
    ) -> Result<Option<SpanTable>, DbError> {
        let reader = self.open(tenant, meta, meter).await?;
        let fetched = reader.fetch_trace(id, meter).await.map_err(|error| self.failure(tenant, meta.block_id, error))?;
        let Some(fetched) = fetched else { return Ok(None) };
        let decoded = self.cpu.run("decode_trace", move || fetched.decode()).await?;
        decoded.map(Some).map_err(|error| self.failure(tenant, meta.block_id, error))
    }

    /// Takes note of a failed read: a corrupt block is not opened again.
    pub fn failure(&self, tenant: &TenantId, block: BlockId, error: BlockReadError) -> DbError {
        if error.is_corrupt() {
            counter!(names::QUARANTINED_BLOCKS, "tenant" => tenant.to_string()).increment(1);
            warn!(%tenant, %block, error = &error as &dyn std::error::Error, "block quarantined");
            let mut quarantined = self.quarantined.lock();
            if quarantined.len() >= MAX_QUARANTINED {
                quarantined.clear();
            }
            quarantined.insert(block, tenant.clone());
            self.readers.lock().open.remove(&block);
        }
        DbError::Read(Arc::new(error))
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

    use super::super::keys;
    use super::super::poller::{OwnsAll, Poller, PollerSettings};
    use super::*;
    use crate::base::clock::ManualClock;
    use crate::tempodb::config::TraceStorageConfig;

    /// A copy of the fixture blocks, and a database over it after one poll. The files go with the folder.
    async fn open(folder: &str, settings: DbSettings) -> (TempoDb, tempfile::TempDir) {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&Path::new("testdata/blocks").join(folder), copy.path());
        let backend = Backend::local(copy.path()).unwrap();
        let list = Arc::new(BlockList::default());
        let clock = Arc::new(ManualClock::at(1_795_400_000_000_000_000));
        let settings_of_poller = PollerSettings::from(&TraceStorageConfig::default());
        let poller = Poller::new(backend.clone(), settings_of_poller, Arc::new(OwnsAll(true)), clock.clone(), Arc::clone(&list));
        poller.poll().await.unwrap();
        (TempoDb::new(backend, list, settings, clock, CpuPool::new("test", 1).unwrap()), copy)
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

    /// Trace ids with the number of blocks that hold them.
    fn expected() -> HashMap<TraceId, usize> {
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read("testdata/blocks/expected/vParquet5.json").unwrap()).unwrap();
        let mut counts = HashMap::new();
        for block in json["alpha"].as_object().unwrap().values() {
            for id in block["traces"].as_object().unwrap().keys() {
                *counts.entry(TraceId::from_hex(id).unwrap()).or_default() += 1;
            }
        }
        counts
    }

    #[tokio::test]
    async fn traces_are_found_in_every_block_that_has_a_piece() {
        let (db, _folder) = open("vParquet5", DbSettings { max_open_readers: 1, ..DbSettings::default() }).await;
        assert_eq!(db.blocks(&alpha(), None).len(), 2);
        for (id, blocks) in expected() {
            let found = db.find_trace(&alpha(), id, None, &ReadMeter::default()).await;
            assert_eq!((found.pieces.len(), found.failed.len(), found.blocks), (blocks, 0, 2), "{id}");
            assert!(found.pieces.iter().all(|piece| piece.traces.ids == [id]));
        }
        assert_eq!(db.readers.lock().open.len(), 1);
        let unknown = db.find_trace(&TenantId::parse("nobody").unwrap(), TraceId([1; 16]), None, &ReadMeter::default()).await;
        assert_eq!(unknown.blocks, 0);
    }

    #[tokio::test]
    async fn a_broken_block_is_named_and_the_others_answer() {
        let (db, folder) = open("vParquet5", DbSettings::default()).await;
        let broken = db.blocks(&alpha(), None)[0].block_id;
        let data = folder.path().join(keys::block_object(&alpha(), broken, keys::DATA_NAME).as_ref());
        let mut bytes = std::fs::read(&data).unwrap();
        let footer = bytes.len() - 1000;
        bytes[footer - 10_000..footer].fill(0xff);
        std::fs::write(&data, bytes).unwrap();
        let (id, _) = expected().into_iter().find(|(_, blocks)| *blocks == 2).unwrap();
        for _repeated in 0..2 {
            let found = db.find_trace(&alpha(), id, None, &ReadMeter::default()).await;
            assert_eq!(found.pieces.len(), 1);
            assert_eq!(found.failed.iter().map(|(block, _)| *block).collect::<Vec<_>>(), [broken]);
        }
        assert!(matches!(db.find_trace(&alpha(), id, None, &ReadMeter::default()).await.failed[0].1, DbError::Quarantined));
    }

    #[tokio::test]
    async fn blocks_are_chosen_by_time() {
        let (db, _folder) = open("vParquet5", DbSettings::default()).await;
        let all = db.blocks(&alpha(), None);
        assert!(all[0].end_time >= all[1].end_time);
        let second = SignedDuration::from_secs(1);
        let at = |start: Timestamp, end: Timestamp| db.blocks(&alpha(), Some(TimeRange { start, end })).len();
        let (first_start, last_end) = (all.iter().map(|meta| meta.start_time).min().unwrap(), all[0].end_time);
        assert_eq!(at(first_start, last_end), 2);
        assert_eq!(at(last_end + second, last_end + second), 0);
        assert_eq!(at(first_start - second, first_start - second), 0);
        let late = BlockMeta { start_time: last_end, end_time: first_start, ..(*all[0]).clone() };
        let range = TimeRange { start: first_start - second * 60, end: first_start - second };
        assert!(range.may_hold(&late) && !TimeRange { start: first_start + second, ..range }.may_hold(&late));
    }
}
