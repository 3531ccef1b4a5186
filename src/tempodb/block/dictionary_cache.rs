//! Decoded dictionaries of foreign blocks have hundreds of thousands of entries and are needed again by the next query: a bounded cache.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use parking_lot::Mutex;

use super::decode::strings::Dictionary;
use super::meta::BlockId;

/// Names the dictionary of a column chunk: block, row group, position of the leaf.
pub(super) type DictionaryKey = (BlockId, usize, usize);

/// Decoded dictionaries, least recently used ones dropped first when their bytes exceed the bound.
#[derive(Debug)]
pub struct DictionaryCache {
    max_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<DictionaryKey, (Arc<Dictionary>, u64), FixedState>,
    bytes: usize,
    clock: u64,
}

impl DictionaryCache {
    /// `max_bytes` 0 keeps nothing.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, state: Mutex::default() }
    }

    /// Heap bytes of what is kept.
    pub fn memory_bytes(&self) -> usize {
        self.state.lock().bytes
    }

    pub(super) fn get(&self, key: DictionaryKey) -> Option<Arc<Dictionary>> {
        let mut state = self.state.lock();
        state.clock += 1;
        let now = state.clock;
        let (dictionary, used) = state.entries.get_mut(&key)?;
        *used = now;
        Some(Arc::clone(dictionary))
    }

    /// Keeps `dictionary` unless it is there already or alone takes more than half of the room.
    pub(super) fn put(&self, key: DictionaryKey, dictionary: &Arc<Dictionary>) {
        let bytes = dictionary.memory_bytes();
        if bytes > self.max_bytes / 2 {
            return;
        }
        let mut state = self.state.lock();
        state.clock += 1;
        let now = state.clock;
        if state.entries.contains_key(&key) {
            return;
        }
        state.entries.insert(key, (Arc::clone(dictionary), now));
        state.bytes += bytes;
        while state.bytes > self.max_bytes {
            // Entries are few and large, so a scan is cheaper than an order kept.
            let Some(oldest) = state.entries.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key) else { break };
            if let Some((dropped, _)) = state.entries.remove(&oldest) {
                state.bytes -= dropped.memory_bytes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dictionary() -> Arc<Dictionary> {
        Arc::new(Dictionary::of((0..100_u32).map(u32::to_le_bytes)))
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let (id, bytes) = (BlockId::random(), dictionary().memory_bytes());
        let cache = DictionaryCache::new(bytes * 4);
        for group in 0..4 {
            cache.put((id, group, 0), &dictionary());
            cache.put((id, group, 0), &dictionary());
        }
        assert_eq!(cache.memory_bytes(), bytes * 4);
        assert!(cache.get((id, 0, 0)).is_some());
        cache.put((id, 4, 0), &dictionary());
        assert_eq!([0, 1, 2, 3, 4].map(|group| cache.get((id, group, 0)).is_some()), [true, false, true, true, true]);
        assert_eq!(cache.memory_bytes(), bytes * 4);
    }

    #[test]
    fn what_does_not_fit_is_not_kept() {
        let cache = DictionaryCache::new(dictionary().memory_bytes() * 2 - 1);
        cache.put((BlockId::random(), 0, 0), &dictionary());
        assert_eq!(cache.memory_bytes(), 0);
    }
}
