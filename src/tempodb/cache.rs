//! What is kept of blocks outside object storage: roles, keys, and the trait of whoever keeps it (tempodb, caches).
//!
//! Not here: caches themselves (`services::cache`).
//!
//! Invariants
//! * A cache never fails a read and never makes it wait beyond its own time limit: what it does not answer is a miss.
//! * A value is kept under a key that names the block and the bytes; blocks are immutable, so no entry is ever out of date.
//! * A cached value owns its bytes: it holds no larger buffer alive.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use metrics::{counter, histogram};

use super::block::index::INDEX_NAME;
use super::block::meta::{BlockId, BlockMeta};
use super::keys::DATA_NAME;
use super::metrics as names;
use crate::base::clock::SharedClock;
use crate::model::ids::TenantId;

/// What a cache may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CacheRole {
    /// Whole bloom filter shards.
    Bloom,
    /// Whole `index` objects.
    TraceIdIndex,
    /// Footers of `data.parquet`.
    ParquetFooter,
    ParquetColumnIndex,
    ParquetOffsetIndex,
    /// Other reads of `data.parquet` that are not too large.
    ParquetPage,
    /// Answers of query jobs over blocks.
    FrontendSearch,
}

impl CacheRole {
    pub const ALL: [Self; 7] = [
        Self::Bloom,
        Self::TraceIdIndex,
        Self::ParquetFooter,
        Self::ParquetColumnIndex,
        Self::ParquetOffsetIndex,
        Self::ParquetPage,
        Self::FrontendSearch,
    ];

    /// Returns the name in configuration files and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bloom => "bloom",
            Self::TraceIdIndex => "trace-id-index",
            Self::ParquetFooter => "parquet-footer",
            Self::ParquetColumnIndex => "parquet-column-idx",
            Self::ParquetOffsetIndex => "parquet-offset-idx",
            Self::ParquetPage => "parquet-page",
            Self::FrontendSearch => "frontend-search",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

/// Keeps values by key, perhaps.
#[async_trait]
pub trait Cache: Send + Sync + 'static {
    /// Returns the values of `keys`, in their order. Whatever goes wrong or takes too long is `None`.
    async fn get_many(&self, keys: &[String]) -> Vec<Option<Bytes>>;

    /// Keeps a value if that is possible. Never blocks, never fails.
    fn put(&self, key: String, value: Bytes);
}

pub type SharedCache = Arc<dyn Cache>;

/// Which cache has which role. Cheap to clone; by default no role is cached.
#[derive(Clone, Default)]
pub struct Caches {
    by_role: Arc<[Option<SharedCache>; CacheRole::ALL.len()]>,
}

impl fmt::Debug for Caches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(CacheRole::ALL.iter().filter(|role| self.has(**role))).finish()
    }
}

impl Caches {
    /// Gives `cache` a role.
    pub fn with(mut self, role: CacheRole, cache: SharedCache) -> Self {
        Arc::make_mut(&mut self.by_role)[role as usize] = Some(cache);
        self
    }

    /// Whether a cache has the role.
    pub fn has(&self, role: CacheRole) -> bool {
        self.of(role).is_some()
    }

    fn of(&self, role: CacheRole) -> Option<&SharedCache> {
        self.by_role[role as usize].as_ref()
    }

    pub async fn get(&self, role: CacheRole, key: String) -> Option<Bytes> {
        self.get_many(role, &[key]).await.pop().flatten()
    }

    /// Returns the values of `keys`, in their order, with one request to each server.
    pub async fn get_many(&self, role: CacheRole, keys: &[String]) -> Vec<Option<Bytes>> {
        let Some(cache) = self.of(role).filter(|_| !keys.is_empty()) else { return vec![None; keys.len()] };
        let mut found = cache.get_many(keys).await;
        found.resize(keys.len(), None);
        let (mut hits, mut hit_bytes) = (0_u64, 0_u64);
        for value in found.iter().flatten() {
            hits += 1;
            hit_bytes += value.len() as u64;
        }
        counter!(names::CACHE_REQUESTS, "role" => role.as_str(), "outcome" => "hit").increment(hits);
        counter!(names::CACHE_REQUESTS, "role" => role.as_str(), "outcome" => "miss").increment(keys.len() as u64 - hits);
        counter!(names::CACHE_REQUEST_BYTES, "role" => role.as_str(), "outcome" => "hit").increment(hit_bytes);
        found
    }

    /// Keeps a copy of what a miss, or a write, brought.
    pub fn put(&self, role: CacheRole, key: String, value: &[u8]) {
        let Some(cache) = self.of(role) else { return };
        histogram!(names::CACHE_STORE_SIZE, "role" => role.as_str()).record(value.len() as f64);
        cache.put(key, Bytes::copy_from_slice(value));
    }

    /// Counts the bytes that a miss cost.
    pub fn count_missed_bytes(&self, role: CacheRole, bytes: u64) {
        counter!(names::CACHE_REQUEST_BYTES, "role" => role.as_str(), "outcome" => "miss").increment(bytes);
    }
}

/// What of blocks is worth caching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockCacheSettings {
    /// Larger reads of `data.parquet` are not cached.
    pub max_page_bytes: u64,
    /// Bloom filters only of blocks up to this compaction level; 0: of all.
    pub bloom_max_level: u32,
    /// Bloom filters only of blocks that start no longer ago; `None`: of all.
    pub bloom_max_age: Option<Duration>,
}

impl Default for BlockCacheSettings {
    fn default() -> Self {
        Self { max_page_bytes: 1 << 20, bloom_max_level: 0, bloom_max_age: None }
    }
}

/// The caches of block reading and writing, with the conditions of their use.
#[derive(Clone, Default)]
pub struct BlockCaches {
    caches: Caches,
    settings: BlockCacheSettings,
    /// Only the age of bloom filters needs it.
    clock: Option<SharedClock>,
}

impl fmt::Debug for BlockCaches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockCaches({:?}, {:?})", self.caches, self.settings)
    }
}

impl BlockCaches {
    pub fn new(caches: Caches, settings: BlockCacheSettings, clock: SharedClock) -> Self {
        Self { caches, settings, clock: Some(clock) }
    }

    pub fn caches(&self) -> &Caches {
        &self.caches
    }

    /// Whether the bloom filter of `meta`'s block is cached.
    pub fn caches_bloom_of(&self, meta: &BlockMeta) -> bool {
        let level = self.settings.bloom_max_level;
        if !self.caches.has(CacheRole::Bloom) || (level > 0 && meta.compaction_level > level) {
            return false;
        }
        let (Some(max_age), Some(clock)) = (self.settings.bloom_max_age, &self.clock) else { return true };
        let age = i128::from(clock.now_unix_nanos()) - meta.start_time.as_nanosecond();
        age <= i128::try_from(max_age.as_nanos()).unwrap_or(i128::MAX)
    }

    /// Whether a read of `bytes` bytes of `data.parquet` is cached.
    pub fn caches_read(&self, role: CacheRole, bytes: u64) -> bool {
        self.caches.has(role) && bytes > 0 && (role != CacheRole::ParquetPage || bytes <= self.settings.max_page_bytes)
    }

    /// Keeps a bloom filter or an index that was just written, so that the first lookup finds it. Other objects are not kept.
    pub fn put_written(&self, tenant: &TenantId, meta: &BlockMeta, name: &str, bytes: &[u8]) {
        let role = match name {
            INDEX_NAME => CacheRole::TraceIdIndex,
            name if name.starts_with("bloom-") && self.caches_bloom_of(meta) => CacheRole::Bloom,
            _ => return,
        };
        self.caches.put(role, object_key(tenant, meta.block_id, name), bytes);
    }
}

/// Returns the key of a whole object: `<tenant>:<block>:<name>`.
pub fn object_key(tenant: &TenantId, block: BlockId, name: &str) -> String {
    format!("{tenant}:{block}:{name}")
}

/// Returns the key of a range of `data.parquet`: `<tenant>:<block>:data.parquet:<offset>:<length>`.
pub fn range_key(tenant: &TenantId, block: BlockId, range: &Range<u64>) -> String {
    format!("{tenant}:{block}:{DATA_NAME}:{}:{}", range.start, range.end - range.start)
}

#[cfg(test)]
pub mod testing {
    use std::collections::HashMap;

    use parking_lot::Mutex;

    use super::*;

    /// Keeps everything.
    #[derive(Default)]
    pub struct MapCache(pub Mutex<HashMap<String, Bytes>>);

    #[async_trait]
    impl Cache for MapCache {
        async fn get_many(&self, keys: &[String]) -> Vec<Option<Bytes>> {
            let entries = self.0.lock();
            keys.iter().map(|key| entries.get(key).cloned()).collect()
        }

        fn put(&self, key: String, value: Bytes) {
            self.0.lock().insert(key, value);
        }
    }

    impl MapCache {
        /// The keys, sorted.
        pub fn keys(&self) -> Vec<String> {
            let mut keys: Vec<_> = self.0.lock().keys().cloned().collect();
            keys.sort();
            keys
        }
    }

    /// A cache of its own for each of `roles`.
    pub fn caches_of(roles: &[CacheRole]) -> (Caches, HashMap<CacheRole, Arc<MapCache>>) {
        let maps: HashMap<CacheRole, Arc<MapCache>> = roles.iter().map(|role| (*role, Arc::default())).collect();
        let caches = maps.iter().fold(Caches::default(), |caches, (role, map)| caches.with(*role, map.clone()));
        (caches, maps)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::caches_of;
    use super::*;
    use crate::base::clock::ManualClock;

    #[test]
    fn roles_have_the_known_names() {
        let names: Vec<_> = CacheRole::ALL.iter().map(|role| role.as_str()).collect();
        assert_eq!(
            names,
            ["bloom", "trace-id-index", "parquet-footer", "parquet-column-idx", "parquet-offset-idx", "parquet-page", "frontend-search"]
        );
        for role in CacheRole::ALL {
            assert_eq!(CacheRole::parse(role.as_str()), Some(role));
            assert_eq!(CacheRole::ALL[role as usize], role);
        }
        assert_eq!(CacheRole::parse("none"), None);
    }

    #[test]
    fn keys_have_the_known_form() {
        let tenant = TenantId::parse("a!-_.*'()").unwrap();
        let block = BlockId::parse("346f9850-f0e5-42c3-af24-3adaedc7be98").unwrap();
        assert_eq!(object_key(&tenant, block, "bloom-3"), "a!-_.*'():346f9850-f0e5-42c3-af24-3adaedc7be98:bloom-3");
        assert_eq!(range_key(&tenant, block, &(7..12)), "a!-_.*'():346f9850-f0e5-42c3-af24-3adaedc7be98:data.parquet:7:5");
    }

    #[tokio::test]
    async fn a_role_without_cache_misses() {
        let (caches, maps) = caches_of(&[CacheRole::Bloom]);
        caches.put(CacheRole::Bloom, "k".to_owned(), b"v");
        caches.put(CacheRole::ParquetPage, "k".to_owned(), b"v");
        assert_eq!(maps[&CacheRole::Bloom].keys(), ["k"]);
        assert_eq!(caches.get(CacheRole::Bloom, "k".to_owned()).await, Some(Bytes::from_static(b"v")));
        assert_eq!(caches.get(CacheRole::ParquetPage, "k".to_owned()).await, None);
        assert_eq!(caches.get_many(CacheRole::Bloom, &["x".to_owned(), "k".to_owned()]).await, [None, Some(Bytes::from_static(b"v"))]);
    }

    #[test]
    fn bloom_filters_are_cached_under_conditions() {
        let json = r#"{"format":"vParquet5","blockID":"b1a76807-e24a-4b98-bcfd-0e2a55737f75","tenantID":"t","startTime":"2026-11-22T00:00:00Z","compactionLevel":2}"#;
        let meta = BlockMeta::from_json(json.as_bytes()).unwrap();
        let start = u64::try_from(meta.start_time.as_nanosecond()).unwrap();
        let minutes = |minutes: u64| Some(Duration::from_secs(minutes * 60));
        let (caches, _maps) = caches_of(&[CacheRole::Bloom]);
        for (bloom_max_level, bloom_max_age, is_cached) in
            [(0, None, true), (1, None, false), (2, None, true), (3, minutes(10), true), (0, minutes(9), false), (1, minutes(10), false)]
        {
            let settings = BlockCacheSettings { bloom_max_level, bloom_max_age, ..BlockCacheSettings::default() };
            let clock = Arc::new(ManualClock::at(start + 600_000_000_000));
            let block_caches = BlockCaches::new(caches.clone(), settings.clone(), clock);
            assert_eq!(block_caches.caches_bloom_of(&meta), is_cached, "{settings:?}");
        }
        assert!(!BlockCaches::default().caches_bloom_of(&meta));
    }

    #[test]
    fn only_pages_are_bounded() {
        let (caches, _maps) = caches_of(&[CacheRole::ParquetPage, CacheRole::ParquetFooter]);
        let caches = BlockCaches { caches, settings: BlockCacheSettings { max_page_bytes: 10, ..Default::default() }, clock: None };
        for (role, bytes, is_cached) in [
            (CacheRole::ParquetPage, 10, true),
            (CacheRole::ParquetPage, 11, false),
            (CacheRole::ParquetPage, 0, false),
            (CacheRole::ParquetFooter, 11, true),
            (CacheRole::ParquetOffsetIndex, 5, false),
        ] {
            assert_eq!(caches.caches_read(role, bytes), is_cached, "{role:?} {bytes}");
        }
    }
}
