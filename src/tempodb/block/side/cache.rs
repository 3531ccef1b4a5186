//! A map that forgets what was not asked for lately.
//!
//! Two generations: what is used moves to the young one; when that holds half of the bound it becomes the old one, and the old one goes. Takes no
//! list of uses, so that it serves hundreds of thousands of small entries.

use std::collections::HashMap;
use std::hash::Hash;

use foldhash::fast::FixedState;
use parking_lot::Mutex;

#[derive(Debug)]
pub(super) struct RecentlyUsed<K, V> {
    max_bytes: usize,
    generations: Mutex<Generations<K, V>>,
}

#[derive(Debug)]
struct Generations<K, V> {
    young: HashMap<K, (V, usize), FixedState>,
    young_bytes: usize,
    old: HashMap<K, (V, usize), FixedState>,
    old_bytes: usize,
}

impl<K: Hash + Eq, V: Clone> RecentlyUsed<K, V> {
    pub(super) fn new(max_bytes: usize) -> Self {
        let generations = Generations { young: HashMap::default(), young_bytes: 0, old: HashMap::default(), old_bytes: 0 };
        Self { max_bytes, generations: Mutex::new(generations) }
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        let mut generations = self.generations.lock();
        if let Some((value, _)) = generations.young.get(key) {
            return Some(value.clone());
        }
        let (key, (value, bytes)) = generations.old.remove_entry(key)?;
        generations.old_bytes -= bytes;
        self.insert(&mut generations, key, value.clone(), bytes);
        Some(value)
    }

    /// Keeps `value` unless it alone takes more than a quarter of the room.
    pub(super) fn put(&self, key: K, value: V, bytes: usize) {
        if bytes > self.max_bytes / 4 {
            return;
        }
        let mut generations = self.generations.lock();
        generations.remove(&key);
        self.insert(&mut generations, key, value, bytes);
    }

    pub(super) fn remove(&self, key: &K) {
        self.generations.lock().remove(key);
    }

    /// Bytes of what is kept, as told by those who put it here.
    pub(super) fn bytes(&self) -> usize {
        let generations = self.generations.lock();
        generations.young_bytes + generations.old_bytes
    }

    fn insert(&self, generations: &mut Generations<K, V>, key: K, value: V, bytes: usize) {
        if generations.young_bytes + bytes > self.max_bytes / 2 {
            generations.old = std::mem::take(&mut generations.young);
            generations.old_bytes = std::mem::take(&mut generations.young_bytes);
        }
        generations.young.insert(key, (value, bytes));
        generations.young_bytes += bytes;
    }
}

impl<K: Hash + Eq, V> Generations<K, V> {
    fn remove(&mut self, key: &K) {
        self.young_bytes -= self.young.remove(key).map_or(0, |(_, bytes)| bytes);
        self.old_bytes -= self.old.remove(key).map_or(0, |(_, bytes)| bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_bound_holds() {
        let cache = RecentlyUsed::new(1_000);
        for key in 0..100 {
            cache.put(key, key, 100);
            assert!(cache.bytes() <= 1_000);
            assert_eq!(cache.get(&0), Some(0), "after {key}");
        }
        assert_eq!((cache.get(&50), cache.get(&99)), (None, Some(99)));
        cache.put(200, 1, 251);
        assert_eq!(cache.get(&200), None);
        cache.remove(&0);
        assert_eq!(cache.get(&0), None);
        cache.put(1, 7, 10);
        cache.put(1, 8, 20);
        assert_eq!(cache.get(&1), Some(8));
    }
}
