//! Shards that were read a moment ago: bounded by bytes.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::FixedState;
use parking_lot::Mutex;

/// Run and number of the shard.
pub(super) type ShardKey = (Arc<str>, usize);

type Generation = HashMap<ShardKey, Bytes, FixedState>;

/// Two generations: what is used moves to the young one, and when that is half as large as the bound, the old one is dropped.
#[derive(Debug)]
pub(super) struct ShardCache {
    max_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    young: Generation,
    young_bytes: usize,
    old: Generation,
}

impl ShardCache {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, state: Mutex::default() }
    }

    pub(super) fn get(&self, key: &ShardKey) -> Option<Bytes> {
        let mut state = self.state.lock();
        if let Some(bytes) = state.young.get(key) {
            return Some(bytes.clone());
        }
        let (key, bytes) = state.old.remove_entry(key)?;
        state.put(key, bytes.clone(), self.max_bytes / 2);
        Some(bytes)
    }

    pub(super) fn put(&self, key: ShardKey, bytes: Bytes) {
        self.state.lock().put(key, bytes, self.max_bytes / 2);
    }
}

impl State {
    fn put(&mut self, key: ShardKey, bytes: Bytes, half: usize) {
        // The key counts too: small tenants have small shards.
        let size = bytes.len() + key.0.len();
        if size > half {
            return;
        }
        if self.young_bytes + size > half {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(key, bytes).is_none() {
            self.young_bytes += size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_bound_holds() {
        let cache = ShardCache::new(1000);
        let key = |n: usize| (Arc::from("run"), n);
        cache.put(key(0), Bytes::from(vec![0; 97]));
        for n in 1..100 {
            cache.put(key(n), Bytes::from(vec![0; 97]));
            assert!(cache.get(&key(0)).is_some(), "{n}");
            let state = cache.state.lock();
            assert!(state.young.len() + state.old.len() <= 10);
        }
        assert!(cache.get(&key(1)).is_none());
        cache.put(key(200), Bytes::from(vec![0; 600]));
        assert!(cache.get(&key(200)).is_none(), "too large");
    }
}
