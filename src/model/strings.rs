//! Dictionary coding: byte strings stored once, named by small ids.
//!
//! Strings are raw bytes: traces carry invalid UTF-8, and nothing here validates it.

use std::hash::BuildHasher;
use std::ops::Range;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// Names a string of one [`StringPool`]. Equal ids mean equal strings; the reverse holds only in a pool filled by an [`Interner`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StrId(pub u32);

impl StrId {
    /// The empty string; present in every pool.
    pub const EMPTY: Self = Self(0);

    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Byte strings, end to end in one buffer. Id 0 is always the empty string.
///
/// Holds at most 4 GiB and `u32::MAX` strings; pools live for one row group or head segment, whose budget is far below.
#[derive(Debug, Clone)]
pub struct StringPool {
    bytes: Vec<u8>,
    /// `ends[i]` is the end of string `i`; string 0 is empty, so `ends[0] == 0`.
    ends: Vec<u32>,
    /// No string is known to be here twice, because an [`Interner`] brought them all.
    is_interned: bool,
    /// Ids of whole dictionaries, ascending.
    dictionaries: Vec<Range<u32>>,
}

impl Default for StringPool {
    fn default() -> Self {
        Self { bytes: Vec::new(), ends: vec![0], is_interned: true, dictionaries: Vec::new() }
    }
}

impl StringPool {
    /// Returns the string of `id`. Panics when `id` is not of this pool, which is a bug of the caller.
    pub fn get(&self, id: StrId) -> &[u8] {
        let index = id.index();
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.bytes[start..self.ends[index] as usize]
    }

    /// Returns the string with invalid UTF-8 replaced.
    pub fn text(&self, id: StrId) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.get(id))
    }

    /// Whether equal strings have equal ids throughout.
    pub fn is_interned(&self) -> bool {
        self.is_interned
    }

    /// Returns the ids around `id` of which none means the same string as another, as far as writers of dictionaries keep to that; `None` when
    /// `id` may have equals anywhere.
    pub fn distinct_around(&self, id: StrId) -> Option<Range<u32>> {
        if self.is_interned {
            return Some(0..self.ends.len() as u32);
        }
        let at = self.dictionaries.partition_point(|ids| ids.end <= id.0);
        self.dictionaries.get(at).filter(|ids| ids.contains(&id.0)).cloned()
    }

    /// Stores `value` without looking for an equal one; the empty string gets [`StrId::EMPTY`].
    pub fn push(&mut self, value: &[u8]) -> StrId {
        if value.is_empty() {
            return StrId::EMPTY;
        }
        self.is_interned = false;
        self.push_new(value)
    }

    fn push_new(&mut self, value: &[u8]) -> StrId {
        let id = StrId(u32::try_from(self.ends.len()).expect("a pool holds less than 2^32 strings"));
        self.bytes.extend_from_slice(value);
        self.ends.push(u32::try_from(self.bytes.len()).expect("a pool holds less than 4 GiB"));
        id
    }

    /// Stores many strings at once: string `i` is the bytes from `ends[i - 1]` (0 for the first) to `ends[i]` of `bytes`, and gets the id
    /// `first + i`, also when it is empty or known. `None`, and nothing stored, when the pool would exceed its limits.
    pub fn push_block(&mut self, bytes: &[u8], ends: &[u32]) -> Option<StrId> {
        debug_assert!(ends.is_sorted() && ends.last().is_none_or(|&end| end as usize == bytes.len()), "ends are those of the strings");
        let base = self.bytes.len() as u32;
        u32::try_from(self.bytes.len() + bytes.len()).ok()?;
        u32::try_from(self.ends.len() + ends.len()).ok()?;
        let first = StrId(self.ends.len() as u32);
        self.is_interned = false;
        self.bytes.extend_from_slice(bytes);
        self.ends.extend(ends.iter().map(|end| base + end));
        Some(first)
    }

    /// Stores a dictionary, of which no two strings are equal, as [`StringPool::push_block`] does.
    pub fn push_dictionary(&mut self, bytes: &[u8], ends: &[u32]) -> Option<StrId> {
        let first = self.push_block(bytes, ends)?;
        self.dictionaries.push(first.0..self.ends.len() as u32);
        Some(first)
    }

    /// Bytes of all strings together.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Number of strings, the empty one included.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether only the empty string is here.
    pub fn is_empty(&self) -> bool {
        self.ends.len() == 1
    }

    /// Heap bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<u32>()
    }

    /// Heap bytes in use.
    pub fn used_bytes(&self) -> usize {
        self.bytes.len() + self.ends.len() * size_of::<u32>()
    }

    /// Forgets all strings but keeps their memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.truncate(1);
        self.is_interned = true;
        self.dictionaries.clear();
    }

    /// Returns all strings in id order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (StrId, &[u8])> {
        (0..self.ends.len()).map(|index| {
            let id = StrId(index as u32);
            (id, self.get(id))
        })
    }
}

/// Takes strings and names them.
pub trait AddString {
    fn add(&mut self, value: &[u8]) -> StrId;
}

impl AddString for StringPool {
    fn add(&mut self, value: &[u8]) -> StrId {
        self.push(value)
    }
}

impl AddString for Interner {
    fn add(&mut self, value: &[u8]) -> StrId {
        self.intern(value)
    }
}

/// Fills a [`StringPool`] so that equal strings get equal ids.
#[derive(Debug, Clone, Default)]
pub struct Interner {
    pool: StringPool,
    table: HashTable<Entry>,
    hasher: FixedState,
}

/// A string with its hash, so that neither growing the table nor passing over another string has to look at the pool.
#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u32,
    id: StrId,
}

impl Entry {
    /// Spreads the hash over the bits that the table looks at: the lowest and the highest.
    fn table_hash(self) -> u64 {
        u64::from(self.hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl Interner {
    pub fn intern(&mut self, value: &[u8]) -> StrId {
        if value.is_empty() {
            return StrId::EMPTY;
        }
        let hash = self.hasher.hash_one(value) as u32;
        let wanted = Entry { hash, id: StrId::EMPTY };
        let is_wanted = |entry: &Entry| entry.hash == hash && self.pool.get(entry.id) == value;
        match self.table.entry(wanted.table_hash(), is_wanted, |entry| entry.table_hash()) {
            hashbrown::hash_table::Entry::Occupied(known) => known.get().id,
            hashbrown::hash_table::Entry::Vacant(place) => {
                let id = self.pool.push_new(value);
                place.insert(Entry { hash, id });
                id
            }
        }
    }

    /// Returns the id of `value` if it was interned.
    pub fn find(&self, value: &[u8]) -> Option<StrId> {
        if value.is_empty() {
            return Some(StrId::EMPTY);
        }
        self.find_hashed(self.hasher.hash_one(value) as u32, value)
    }

    fn find_hashed(&self, hash: u32, value: &[u8]) -> Option<StrId> {
        let wanted = Entry { hash, id: StrId::EMPTY };
        let is_wanted = |entry: &Entry| entry.hash == hash && self.pool.get(entry.id) == value;
        self.table.find(wanted.table_hash(), is_wanted).map(|entry| entry.id)
    }

    pub fn pool(&self) -> &StringPool {
        &self.pool
    }

    pub fn into_pool(self) -> StringPool {
        self.pool
    }

    /// Returns all strings and begins anew, with the memory of the table.
    pub fn take_pool(&mut self) -> StringPool {
        self.table.clear();
        std::mem::take(&mut self.pool)
    }

    /// Begins anew with the memory of a pool.
    pub fn put_pool(&mut self, mut pool: StringPool) {
        pool.clear();
        self.table.clear();
        self.pool = pool;
    }

    /// Heap bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.pool.memory_bytes() + self.table.capacity() * (size_of::<Entry>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_keeps_the_order_of_its_strings() {
        let mut pool = StringPool::default();
        pool.push(b"x");
        let first = pool.push_block(b"abc", &[1, 1, 3]).unwrap();
        let strings: Vec<_> = (first.0..first.0 + 3).map(|id| pool.get(StrId(id))).collect();
        assert!(!pool.is_interned());
        assert_eq!(strings, [&b"a"[..], b"", b"bc"]);
    }

    #[test]
    fn only_dictionaries_and_interners_are_known_to_be_distinct() {
        let mut pool = StringPool::default();
        assert_eq!(pool.distinct_around(StrId::EMPTY), Some(0..1));
        let dictionary = pool.push_dictionary(b"ab", &[1, 2]).unwrap();
        let values = pool.push_block(b"aa", &[1, 2]).unwrap();
        let found = [StrId::EMPTY, dictionary, StrId(dictionary.0 + 1), values].map(|id| pool.distinct_around(id));
        assert_eq!(found, [None, Some(1..3), Some(1..3), None]);
    }

    #[test]
    fn equal_strings_share_an_id() {
        let mut interner = Interner::default();
        let a = interner.intern(b"a");
        let b = interner.intern(b"b\xff");
        assert_eq!(interner.intern(b"a"), a);
        assert_ne!(a, b);
        assert_eq!(interner.intern(b""), StrId::EMPTY);
        assert_eq!(interner.pool().get(b), b"b\xff");
        assert_eq!(interner.find(b"missing"), None);
        assert_eq!(interner.pool().len(), 3);
        assert!(interner.into_pool().is_interned());
    }
}
