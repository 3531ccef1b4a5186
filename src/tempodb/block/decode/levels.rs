//! Repetition and definition levels of a column chunk, and the structure they spell.
//!
//! With bare repeated fields each nesting level adds one to both levels. Level `l` has an item wherever an entry's repetition is at most
//! `l` and its definition at least `l`; the item's own parts are the entries up to the next such one. Work is done on masks of 64 entries.

use std::ops::Range;

use super::{DecodeError, Result};

/// Entries looked at together.
pub(in crate::tempodb::block) const WORD: usize = 64;

/// Levels of consecutive pages of one leaf. Both vectors have one byte an entry.
#[derive(Debug, Default)]
pub(in crate::tempodb::block) struct Levels {
    pub(super) repetition: Vec<u8>,
    pub(super) definition: Vec<u8>,
}

/// The levels of up to 64 entries; missing ones read as "continues an absent item" and so never count.
pub(in crate::tempodb::block) struct Word {
    repetition: [u8; WORD],
    definition: [u8; WORD],
}

impl Word {
    /// Bit `i`: entry `i` starts an item of `level`.
    pub(in crate::tempodb::block) fn items(&self, level: u8) -> u64 {
        !at_least(&self.repetition, level + 1) & at_least(&self.definition, level)
    }

    /// Bit `i`: entry `i` carries a value, given the leaf's maximum definition level.
    pub(in crate::tempodb::block) fn values(&self, max_definition: u8) -> u64 {
        at_least(&self.definition, max_definition)
    }
}

impl Levels {
    pub(in crate::tempodb::block) fn len(&self) -> usize {
        self.definition.len()
    }

    pub(in crate::tempodb::block) fn clear(&mut self) {
        self.repetition.clear();
        self.definition.clear();
    }

    /// Whether levels of a leaf with repetition were decoded and start at a row, as the walks below assume.
    pub(in crate::tempodb::block) fn starts_at_a_row(&self) -> bool {
        self.repetition.first().is_none_or(|&level| level == 0) && self.repetition.len() == self.definition.len()
    }

    pub(in crate::tempodb::block) fn words(&self) -> impl Iterator<Item = Word> + '_ {
        self.repetition
            .chunks(WORD)
            .zip(self.definition.chunks(WORD))
            .map(|(repetition, definition)| Word { repetition: padded(repetition, u8::MAX >> 1), definition: padded(definition, 0) })
    }

    /// Returns, for each item of `level`, the index of its first item of `level + 1`, and at the end the number of those.
    pub(in crate::tempodb::block) fn bounds(&self, level: u8) -> Result<Vec<u32>> {
        let mut bounds = Vec::with_capacity(self.len() / 2);
        let mut in_word = [0; WORD];
        let mut items = 0_u32;
        for word in self.words() {
            let (mut owners, parts) = (word.items(level), word.items(level + 1));
            let parts_here = parts.count_ones();
            if owners == parts {
                bounds.extend(items..items + parts_here);
            } else {
                let mut found = 0;
                while owners != 0 {
                    let at = owners.trailing_zeros();
                    // a look at the mask is cheaper than counting its bits
                    let before = if parts == u64::MAX { at } else { (parts & ((1 << at) - 1)).count_ones() };
                    if let Some(slot) = in_word.get_mut(found) {
                        *slot = items + before;
                    }
                    found += 1;
                    owners &= owners - 1;
                }
                bounds.extend_from_slice(in_word.get(..found).unwrap_or_default());
            }
            items += parts_here;
        }
        if bounds.first().copied().unwrap_or(items) != 0 {
            return Err(DecodeError::Corrupt("repetition levels"));
        }
        bounds.push(items);
        Ok(bounds)
    }

    /// Returns the items of `level` that own some items of `level + 1`, given by their numbers in ascending order, and how many items of `level`
    /// there are. Cheaper than [`Levels::bounds`] when few are asked for.
    pub(in crate::tempodb::block) fn owners_of(&self, level: u8, parts: &[u32]) -> Result<(Vec<u32>, usize)> {
        let mut owners = Vec::with_capacity(parts.len());
        let (mut owners_before, mut parts_before) = (0_u32, 0_u32);
        for word in self.words() {
            let (starts, parts_here) = (word.items(level), word.items(level + 1));
            let parts_behind = parts_before + parts_here.count_ones();
            while let Some(part) = parts.get(owners.len()).filter(|part| **part < parts_behind) {
                let bit = 1_u64 << nth_one(parts_here, (part - parts_before) as usize);
                let owner = (owners_before + (starts & (bit | (bit - 1))).count_ones()).checked_sub(1);
                owners.push(owner.ok_or(DecodeError::Corrupt("repetition levels"))?);
            }
            owners_before += starts.count_ones();
            parts_before = parts_behind;
        }
        if owners.len() == parts.len() { Ok((owners, owners_before as usize)) } else { Err(DecodeError::Corrupt("number of attributes")) }
    }

    /// Keeps only `ranges` of the entries from `start` on (relative to it).
    pub(super) fn keep(&mut self, start: usize, ranges: &[Range<usize>]) {
        keep(&mut self.repetition, start, ranges);
        keep(&mut self.definition, start, ranges);
    }
}

/// Moves `ranges` (ascending, disjoint, relative to `start`) of `column` together behind `start` and drops the rest.
pub(super) fn keep<T: Copy>(column: &mut Vec<T>, start: usize, ranges: &[Range<usize>]) {
    let mut end = start;
    for range in ranges {
        let (from, to) = ((start + range.start).min(column.len()), (start + range.end).min(column.len()));
        column.copy_within(from..to.max(from), end);
        end += to.saturating_sub(from);
    }
    column.truncate(end);
}

/// Walks ascending, disjoint ranges alongside consecutive runs of what they select from.
pub(super) struct RangeCursor<'r>(pub(super) &'r [Range<usize>]);

impl RangeCursor<'_> {
    /// Whether a range touches items before `end`, of those that were not walked past.
    #[inline]
    pub(super) fn touches(&self, end: usize) -> bool {
        self.0.first().is_some_and(|range| range.start < end)
    }

    /// Whether item `at` is in a range. Items are asked for one after the other.
    pub(super) fn includes(&mut self, at: usize) -> bool {
        let mut is_included = false;
        self.walk(at..at + 1, |part| is_included |= !part.is_empty());
        is_included
    }

    /// Calls `visit` with the parts of ranges within `run`, relative to its start, and walks past it.
    #[inline]
    pub(super) fn walk(&mut self, run: Range<usize>, mut visit: impl FnMut(Range<usize>)) {
        while let Some((range, behind)) = self.0.split_first().filter(|(range, _)| range.start < run.end) {
            visit(range.start.max(run.start) - run.start..range.end.min(run.end).saturating_sub(run.start));
            if range.end > run.end {
                break;
            }
            self.0 = behind;
        }
    }
}

/// Returns how many of `levels` equal `level`. Sums runs in bytes, which cannot overflow and compiles to vector code.
pub(super) fn count_equal(levels: &[u8], level: u8) -> usize {
    let in_run = |run: &[u8]| run.iter().fold(0_u8, |sum, &found| sum.wrapping_add(u8::from(found == level)));
    levels.chunks(usize::from(u8::MAX)).map(|run| usize::from(in_run(run))).sum()
}

/// Position of the `n`-th set bit, which exists.
pub(in crate::tempodb::block) fn nth_one(mut bits: u64, n: usize) -> u32 {
    if bits == u64::MAX {
        return n as u32;
    }
    for _ in 0..n {
        bits &= bits - 1;
    }
    bits.trailing_zeros().min(WORD as u32 - 1)
}

fn padded(levels: &[u8], fill: u8) -> [u8; WORD] {
    match levels.first_chunk::<WORD>() {
        Some(word) => *word,
        None => {
            let mut word = [fill; WORD];
            for (to, from) in word.iter_mut().zip(levels) {
                *to = *from;
            }
            word
        }
    }
}

/// Bit `i`: `levels[i] >= bound`. Levels and bound are below 128.
#[inline]
fn at_least(levels: &[u8; WORD], bound: u8) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    let add = u64::from(0x80 - bound).wrapping_mul(LOW);
    let mut mask = 0;
    for (at, bytes) in levels.as_chunks::<8>().0.iter().enumerate() {
        // The sum stays below 256 in each byte; its top bit is the answer, and the product collects the eight of them in its top byte.
        let answers = (u64::from_le_bytes(*bytes).wrapping_add(add) >> 7) & LOW;
        mask |= (answers.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * at);
    }
    mask
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// block-format §3.2 continued: trace {resource {scope {2 spans}, scope {}}, resource {}}, trace {} at a span-level leaf.
    #[test]
    fn levels_spell_the_tree() {
        let levels = Levels { repetition: vec![0, 3, 2, 1, 0], definition: vec![3, 3, 2, 1, 0] };
        assert_eq!(levels.bounds(0).unwrap(), [0, 2, 2]);
        assert_eq!(levels.bounds(1).unwrap(), [0, 2, 2]);
        assert_eq!(levels.bounds(2).unwrap(), [0, 2, 2]);
        let orphan = Levels { repetition: vec![0, 3, 0], definition: vec![0, 3, 3] };
        assert_eq!(orphan.bounds(2), Err(DecodeError::Corrupt("repetition levels")));
    }

    proptest! {
        #[test]
        fn masks_equal_comparisons(levels in prop::collection::vec(0_u8..=7, 0..64), bound in 0_u8..=8) {
            let mask = at_least(&padded(&levels, 0), bound);
            for (i, &level) in levels.iter().enumerate() {
                prop_assert_eq!(mask >> i & 1 == 1, level >= bound);
            }
        }

        #[test]
        fn counts_equal_a_loop(levels in prop::collection::vec(0_u8..=2, 0..1000)) {
            prop_assert_eq!(count_equal(&levels, 1), levels.iter().filter(|&&level| level == 1).count());
        }

        #[test]
        fn any_levels_give_ascending_bounds(entries in prop::collection::vec((0_u8..=5, 0_u8..=5), 0..300), every in 1_usize..5) {
            let (repetition, definition) = entries.into_iter().unzip();
            let levels = Levels { repetition, definition };
            if let Ok(bounds) = levels.bounds(2) {
                prop_assert!(bounds.is_sorted() && !bounds.is_empty());
                let parts: Vec<u32> = (0..bounds[bounds.len() - 1]).step_by(every).collect();
                let (owners, count) = levels.owners_of(2, &parts).unwrap();
                prop_assert_eq!(count, bounds.len() - 1);
                for (part, owner) in parts.iter().zip(owners) {
                    prop_assert!((bounds[owner as usize]..bounds[owner as usize + 1]).contains(part));
                }
            }
        }
    }
}
