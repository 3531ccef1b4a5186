//! A cache in this process: bounded bytes, frequently used values stay.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use metrics::gauge;

use super::metrics as names;
use crate::tempodb::cache::{Cache, CacheRole, SharedCache};

/// Memory of an entry beside its key and value.
const ENTRY_BYTES: usize = 128;

/// One bound for all roles. Keys of different roles differ, or name the same bytes.
#[derive(Clone)]
pub(super) struct InProcessCache {
    entries: moka::sync::Cache<String, (CacheRole, Bytes)>,
}

impl InProcessCache {
    /// `max_bytes` bounds keys and values together.
    pub(super) fn new(max_bytes: u64) -> Self {
        gauge!(names::IN_PROCESS_MAX_BYTES).set(max_bytes as f64);
        let entries = moka::sync::Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|key: &String, (_, value): &(CacheRole, Bytes)| u32::try_from(entry_bytes(key, value)).unwrap_or(u32::MAX))
            .eviction_listener(|key: Arc<String>, (role, value): (CacheRole, Bytes), _cause| {
                gauge!(names::IN_PROCESS_BYTES, "role" => role.as_str()).decrement(entry_bytes(&key, &value) as f64);
            })
            .build();
        Self { entries }
    }

    /// This cache for one role; `behind` is asked for what is not here.
    pub(super) fn for_role(&self, role: CacheRole, behind: Option<SharedCache>) -> SharedCache {
        Arc::new(RoleView { cache: self.clone(), role, behind })
    }

    fn get(&self, key: &str) -> Option<Bytes> {
        self.entries.get(key).map(|(_, value)| value)
    }

    fn put(&self, role: CacheRole, key: String, value: Bytes) {
        gauge!(names::IN_PROCESS_BYTES, "role" => role.as_str()).increment(entry_bytes(&key, &value) as f64);
        self.entries.insert(key, (role, value));
    }
}

fn entry_bytes(key: &str, value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_BYTES
}

struct RoleView {
    cache: InProcessCache,
    role: CacheRole,
    behind: Option<SharedCache>,
}

#[async_trait]
impl Cache for RoleView {
    async fn get_many(&self, keys: &[String]) -> Vec<Option<Bytes>> {
        let mut found: Vec<_> = keys.iter().map(|key| self.cache.get(key)).collect();
        let Some(behind) = &self.behind else { return found };
        let missing: Vec<usize> = (0..keys.len()).filter(|&at| found[at].is_none()).collect();
        if missing.is_empty() {
            return found;
        }
        let missing_keys: Vec<_> = missing.iter().map(|&at| keys[at].clone()).collect();
        for (at, value) in missing.into_iter().zip(behind.get_many(&missing_keys).await) {
            if let Some(value) = value {
                self.cache.put(self.role, keys[at].clone(), value.clone());
                found[at] = Some(value);
            }
        }
        found
    }

    fn put(&self, key: String, value: Bytes) {
        if let Some(behind) = &self.behind {
            behind.put(key.clone(), value.clone());
        }
        self.cache.put(self.role, key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tempodb::cache::testing::MapCache;

    fn value(bytes: usize) -> Bytes {
        Bytes::from(vec![7; bytes])
    }

    #[tokio::test]
    async fn bytes_are_bounded_and_what_is_used_stays() {
        let cache = InProcessCache::new(10_000);
        let view = cache.for_role(CacheRole::Bloom, None);
        view.put("often".to_owned(), value(1000));
        for number in 0..100 {
            for _ in 0..3 {
                assert!(view.get_many(&["often".to_owned()]).await[0].is_some(), "{number}");
            }
            view.put(format!("k{number}"), value(1000));
            cache.entries.run_pending_tasks();
        }
        assert!(cache.entries.weighted_size() <= 10_000);
        assert!(view.get_many(&["often".to_owned()]).await[0].is_some());
        view.put("huge".to_owned(), value(20_000));
        cache.entries.run_pending_tasks();
        assert_eq!(view.get_many(&["huge".to_owned()]).await, [None]);
    }

    #[tokio::test]
    async fn what_is_behind_is_asked_once() {
        let behind = Arc::new(MapCache::default());
        behind.put("a".to_owned(), value(1));
        let view = InProcessCache::new(10_000).for_role(CacheRole::Bloom, Some(behind.clone()));
        let keys = ["b".to_owned(), "a".to_owned()];
        assert_eq!(view.get_many(&keys).await, [None, Some(value(1))]);
        behind.0.lock().clear();
        assert_eq!(view.get_many(&keys).await, [None, Some(value(1))]);
        view.put("b".to_owned(), value(2));
        assert_eq!(behind.keys(), ["b"]);
        assert_eq!(view.get_many(&keys).await, [Some(value(2)), Some(value(1))]);
    }
}
