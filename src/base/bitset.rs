//! A fixed-length set of small integers: one bit each, in 64-bit words.
//!
//! Invariant: bits at and above the length are zero, so counting and combining work on whole words.

use std::ops::Range;

const BITS: usize = u64::BITS as usize;

/// A subset of `0 .. len`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bitset {
    words: Vec<u64>,
    len: usize,
}

impl Bitset {
    /// Returns the empty subset of `0 .. len`.
    pub fn new(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(BITS)], len }
    }

    /// Returns all of `0 .. len`.
    pub fn full(len: usize) -> Self {
        let mut words = vec![u64::MAX; len.div_ceil(BITS)];
        if let (Some(last), rest @ 1..) = (words.last_mut(), len % BITS) {
            *last = (1 << rest) - 1;
        }
        Self { words, len }
    }

    /// Size of the universe, not the number of members.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Number of members.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn contains(&self, index: usize) -> bool {
        self.words[index / BITS] >> (index % BITS) & 1 == 1
    }

    pub fn insert(&mut self, index: usize) {
        debug_assert!(index < self.len, "index within the universe");
        self.words[index / BITS] |= 1 << (index % BITS);
    }

    /// Adds all of `range`.
    pub fn insert_range(&mut self, range: Range<usize>) {
        for_words(range, |word, mask| self.words[word] |= mask);
    }

    /// Number of members within `range`.
    pub fn count_range(&self, range: Range<usize>) -> usize {
        let mut count = 0;
        for_words(range, |word, mask| count += (self.words[word] & mask).count_ones() as usize);
        count
    }

    /// Whether any member lies within `range`.
    pub fn intersects_range(&self, range: Range<usize>) -> bool {
        let mut any = 0;
        for_words(range, |word, mask| any |= self.words[word] & mask);
        any != 0
    }

    /// Returns the members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| Ones { word: *word, base: index * BITS })
    }

    /// Returns the members in ascending order, of a set that is below `u32::MAX`.
    pub fn to_indices(&self) -> Vec<u32> {
        let mut indices = Vec::with_capacity(self.count());
        for (index, word) in self.words.iter().enumerate() {
            let base = index * BITS;
            if *word == u64::MAX {
                indices.extend(base as u32..(base + BITS) as u32);
            } else {
                indices.extend(Ones { word: *word, base }.map(|member| member as u32));
            }
        }
        indices
    }

    /// Returns the members within `range` in ascending order.
    pub fn iter_range(&self, range: Range<usize>) -> impl Iterator<Item = usize> + '_ {
        let words = if range.is_empty() { 0..0 } else { range.start / BITS..(range.end - 1) / BITS + 1 };
        words.flat_map(move |index| Ones { word: self.words[index] & word_mask(&range, index), base: index * BITS })
    }

    /// Keeps the members that are also in `other`. The universes are equal.
    pub fn intersect(&mut self, other: &Self) {
        debug_assert_eq!(self.len, other.len);
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a &= b);
    }

    /// Adds the members of `other`.
    pub fn unite(&mut self, other: &Self) {
        debug_assert_eq!(self.len, other.len);
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a |= b);
    }

    /// Removes the members of `other`.
    pub fn subtract(&mut self, other: &Self) {
        debug_assert_eq!(self.len, other.len);
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a &= !b);
    }

    /// Returns the members for which `keep` holds. Runs of members are tested without branches.
    pub fn filter(&self, mut keep: impl FnMut(usize) -> bool) -> Self {
        let mut result = Self::new(self.len);
        for (index, (word, out)) in self.words.iter().zip(&mut result.words).enumerate() {
            let base = index * BITS;
            if *word == u64::MAX {
                let mut kept = 0;
                for bit in 0..BITS {
                    kept |= u64::from(keep(base + bit)) << bit;
                }
                *out = kept;
            } else {
                for member in (Ones { word: *word, base }) {
                    *out |= u64::from(keep(member)) << (member - base);
                }
            }
        }
        result
    }

    /// Heap bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }
}

/// The set bits of a word, ascending.
struct Ones {
    word: u64,
    base: usize,
}

impl Iterator for Ones {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.word == 0 {
            return None;
        }
        let bit = self.word.trailing_zeros() as usize;
        self.word &= self.word - 1;
        Some(self.base + bit)
    }
}

/// Calls `visit` with each word that `range` touches and the bits of the range in it.
fn for_words(range: Range<usize>, mut visit: impl FnMut(usize, u64)) {
    if range.is_empty() {
        return;
    }
    for word in range.start / BITS..=(range.end - 1) / BITS {
        visit(word, word_mask(&range, word));
    }
}

/// The bits of `range` in word `index`; they overlap.
fn word_mask(range: &Range<usize>, index: usize) -> u64 {
    let base = index * BITS;
    let low = range.start.saturating_sub(base);
    let high = (range.end - base).min(BITS);
    (u64::MAX << low) & (u64::MAX >> (BITS - high))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_agree_with_single_bits(len in 1_usize..300, members in prop::collection::vec(0_usize..300, 0..40), a in 0_usize..300, b in 0_usize..300) {
            let mut set = Bitset::new(len);
            members.iter().filter(|m| **m < len).for_each(|m| set.insert(*m));
            let range = a.min(b).min(len)..a.max(b).min(len);
            let expected: Vec<usize> = range.clone().filter(|i| set.contains(*i)).collect();
            prop_assert_eq!(set.iter_range(range.clone()).collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!(set.count_range(range.clone()), expected.len());
            prop_assert_eq!(set.to_indices(), set.iter().map(|member| member as u32).collect::<Vec<_>>());
            prop_assert_eq!(set.intersects_range(range.clone()), !expected.is_empty());
            let mut with_range = Bitset::new(len);
            with_range.insert_range(range.clone());
            prop_assert_eq!(with_range.iter().collect::<Vec<_>>(), range.collect::<Vec<_>>());
            prop_assert_eq!(set.filter(|i| i % 2 == 0).iter().collect::<Vec<_>>(), set.iter().filter(|i| i % 2 == 0).collect::<Vec<_>>());
        }

        #[test]
        fn complement_partitions(len in 0_usize..300, members in prop::collection::vec(0_usize..300, 0..40)) {
            let mut set = Bitset::new(len);
            members.iter().filter(|m| **m < len).for_each(|m| set.insert(*m));
            let mut rest = Bitset::full(len);
            rest.subtract(&set);
            prop_assert_eq!(rest.count() + set.count(), len);
            rest.unite(&set);
            prop_assert_eq!(&rest, &Bitset::full(len));
            prop_assert_eq!(rest.to_indices(), (0..len as u32).collect::<Vec<_>>());
            rest.intersect(&set);
            prop_assert_eq!(rest, set);
        }
    }
}
