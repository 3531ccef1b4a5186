//! From string ids to dictionary codes.

use std::collections::HashMap;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::model::strings::{StrId, StringPool};

/// A string pool in which equal strings can be told by their ids.
///
/// Tables decoded from blocks may hold equal strings under several ids; a dictionary with two codes for one string would make readers that
/// look a literal up miss values.
pub(super) struct Strings<'a> {
    pool: &'a StringPool,
    /// The id under which a string is first found; `None`: every string has one id.
    canonical: Option<Vec<StrId>>,
    /// Code of a canonical id in the dictionary under construction; [`NO_CODE`] between columns.
    codes: Vec<u32>,
}

const NO_CODE: u32 = u32::MAX;

/// A column of strings as codes of a dictionary, in order of first appearance.
pub(super) struct Coded {
    pub(super) codes: Vec<u32>,
    pub(super) dictionary: Vec<StrId>,
}

impl<'a> Strings<'a> {
    pub(super) fn new(pool: &'a StringPool) -> Self {
        Self { pool, canonical: (!pool.is_interned()).then(|| canonical_ids(pool)), codes: vec![NO_CODE; pool.len()] }
    }

    pub(super) fn get(&self, id: StrId) -> &'a [u8] {
        self.pool.get(id)
    }

    /// Returns a table over all ids that holds `value` at every id of a named string, `T::default()` elsewhere.
    pub(super) fn table_of<T: Copy + Default>(&self, named: impl Iterator<Item = (&'a str, T)>) -> Vec<T> {
        let named: HashMap<&[u8], T, FixedState> = named.map(|(name, value)| (name.as_bytes(), value)).collect();
        let longest = named.keys().map(|name| name.len()).max().unwrap_or(0);
        let of_text = |text: &[u8]| if text.len() > longest { T::default() } else { named.get(text).copied().unwrap_or_default() };
        self.pool.iter().map(|(_, text)| of_text(text)).collect()
    }

    pub(super) fn encode(&mut self, values: &[StrId]) -> Coded {
        let mut dictionary = Vec::new();
        let codes = values.iter().map(|id| {
            let id = self.canonical.as_ref().map_or(*id, |canonical| canonical[id.index()]);
            let code = &mut self.codes[id.index()];
            if *code == NO_CODE {
                *code = dictionary.len() as u32;
                dictionary.push(id);
            }
            *code
        });
        let codes = codes.collect();
        for id in &dictionary {
            self.codes[id.index()] = NO_CODE;
        }
        Coded { codes, dictionary }
    }
}

/// Returns for each id the first one with the same string.
fn canonical_ids(pool: &StringPool) -> Vec<StrId> {
    let hasher = FixedState::default();
    let mut table: HashTable<StrId> = HashTable::with_capacity(pool.len());
    let ids = pool.iter().map(|(id, value)| {
        let entry = table.entry(hasher.hash_one(value), |other| pool.get(*other) == value, |other| hasher.hash_one(pool.get(*other)));
        *entry.or_insert(id).get()
    });
    ids.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_count_first_appearances_and_equal_strings_share_one() {
        let mut pool = StringPool::default();
        let ids = ["a", "b", "a"].map(|text| pool.push(text.as_bytes()));
        let mut strings = Strings::new(&pool);
        let coded = strings.encode(&[ids[2], ids[1], ids[0], StrId::EMPTY]);
        assert_eq!(coded.codes, [0, 1, 0, 2]);
        assert_eq!(coded.dictionary, [ids[0], ids[1], StrId::EMPTY]);
        assert_eq!(strings.encode(&[ids[1]]).codes, [0]);
        assert_eq!(strings.table_of([("a", 7u8), ("zz", 9)].into_iter()), [0, 7, 0, 7]);
    }
}
