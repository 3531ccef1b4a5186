//! Which entries a column has: the repetition and definition levels of Dremel, one entry per value or missing value.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::rc::Rc;

use foldhash::fast::FixedState;

use super::rle;

/// The entries of a column or of the items of a nesting level.
///
/// Invariants
/// * `rep`, `def` have equal length; `row_starts[r] .. row_starts[r + 1]` are the entries of row `r`, never empty.
/// * An entry with `def == max_def` holds an item or value, the n-th of these the n-th; others stand for an empty list above.
#[derive(Debug, Clone)]
pub(super) struct Structure {
    pub(super) rep: Rc<Levels>,
    pub(super) def: Rc<Levels>,
    pub(super) row_starts: Rc<Vec<u32>>,
    pub(super) max_def: u8,
    pub(super) max_rep: u8,
}

/// Whether a field may have several elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repetition {
    Repeated,
    Optional,
}

/// By run and width.
type EncodedRuns = HashMap<(Range<usize>, u32), Vec<u8>, FixedState>;

/// Levels, and what runs of them look like in pages: many columns have the same levels and are cut into pages at the same rows.
#[derive(Debug)]
pub(super) struct Levels {
    values: Vec<u8>,
    encoded: RefCell<EncodedRuns>,
}

impl Levels {
    fn new(values: Vec<u8>) -> Rc<Self> {
        Rc::new(Self { values, encoded: RefCell::default() })
    }

    /// Appends a run of the levels in `width` bits each.
    pub(super) fn encode(&self, run: Range<usize>, width: u32, out: &mut Vec<u8>) {
        let mut encoded = self.encoded.borrow_mut();
        let bytes = encoded.entry((run, width)).or_insert_with_key(|(run, width)| {
            let mut bytes = Vec::new();
            rle::encode(&self.values[run.clone()], *width, &mut bytes);
            bytes
        });
        out.extend_from_slice(bytes);
    }
}

impl Deref for Levels {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.values
    }
}

impl Structure {
    /// One entry a row.
    pub(super) fn rows(count: usize) -> Self {
        let levels = Levels::new(vec![0; count]);
        Self { rep: levels.clone(), def: levels, row_starts: Rc::new((0..=count as u32).collect()), max_def: 0, max_rep: 0 }
    }

    /// The entries of a repeated field in the items of this level; `count_of` tells how many elements an item has.
    pub(super) fn repeated(&self, count_of: impl FnMut(usize) -> usize) -> Self {
        let (max_def, max_rep) = (self.max_def + 1, self.max_rep + 1);
        let items = self.def.iter().filter(|def| **def == self.max_def).count();
        let counts: Vec<u32> = (0..items).map(count_of).map(|count| count as u32).collect();
        if counts.iter().all(|count| *count <= 1) {
            let mut item = 0;
            let def = self.def.iter().map(|&def| {
                let is_item = def == self.max_def;
                item += usize::from(is_item);
                def + u8::from(is_item && counts[item - 1] == 1)
            });
            return self.below(Levels::new(def.collect()), Repetition::Repeated);
        }
        let capacity = self.rep.len() - items + counts.iter().map(|count| (*count).max(1) as usize).sum::<usize>();
        let (mut rep, mut def) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        let mut row_starts = Vec::with_capacity(self.row_starts.len());
        row_starts.push(0);
        let mut counts = counts.into_iter();
        for row in self.row_starts.windows(2) {
            for entry in row[0] as usize..row[1] as usize {
                let parent_def = self.def[entry];
                let count = if parent_def == self.max_def { counts.next().unwrap_or(0) as usize } else { 0 };
                rep.push(self.rep[entry]);
                def.push(if count == 0 { parent_def } else { max_def });
                if count > 1 {
                    rep.resize(rep.len() + count - 1, max_rep);
                    def.resize(def.len() + count - 1, max_def);
                }
            }
            row_starts.push(rep.len() as u32);
        }
        Self { rep: Levels::new(rep), def: Levels::new(def), row_starts: Rc::new(row_starts), max_def, max_rep }
    }

    /// The entries of a field in the items of this level, at most one element each. `is_present` tells by entry; it is not asked where there is no
    /// item of this level.
    pub(super) fn at_entries<T: Copy>(&self, marks: &[T], repetition: Repetition, is_present: impl Fn(T) -> bool) -> Self {
        debug_assert_eq!(marks.len(), self.def.len(), "a mark an entry");
        let def = self.def.iter().zip(marks).map(|(def, mark)| def + u8::from(is_present(*mark)));
        self.below(Levels::new(def.collect()), repetition)
    }

    /// The entries of a field that only some items of this level have, one element each. `entries` are those of the items.
    pub(super) fn at_items(&self, entries: impl Iterator<Item = usize>, repetition: Repetition) -> Self {
        let mut def = self.def.to_vec();
        for entry in entries {
            def[entry] = self.max_def + 1;
        }
        self.below(Levels::new(def), repetition)
    }

    /// The entries of a field that no item of this level has.
    pub(super) fn nowhere(&self, repetition: Repetition) -> Self {
        self.below(Rc::clone(&self.def), repetition)
    }

    fn below(&self, def: Rc<Levels>, repetition: Repetition) -> Self {
        let max_rep = self.max_rep + u8::from(repetition == Repetition::Repeated);
        Self { def, rep: self.rep.clone(), row_starts: self.row_starts.clone(), max_def: self.max_def + 1, max_rep }
    }

    /// Returns the entry of each item of this level; `None` when all entries are items.
    pub(super) fn item_entries(&self) -> Option<Vec<u32>> {
        let is_item = |def: &u8| *def == self.max_def;
        if self.def.iter().fold(true, |all, def| all & is_item(def)) {
            return None;
        }
        Some((0..).zip(self.def.iter()).filter(|(_, def)| is_item(def)).map(|(entry, _)| entry).collect())
    }

    pub(super) fn row_count(&self) -> usize {
        self.row_starts.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(structure: &Structure) -> Vec<(u8, u8)> {
        structure.rep.iter().copied().zip(structure.def.iter().copied()).collect()
    }

    /// The example of block-format §3.2: one trace, two spans, the first with one attribute.
    #[test]
    fn levels_of_the_documented_example() {
        let spans = Structure::rows(1).repeated(|_| 1).repeated(|_| 1).repeated(|_| 2);
        assert_eq!(entries(&spans), [(0, 3), (3, 3)]);
        let keys = spans.repeated(|span| [1, 0][span]);
        assert_eq!(entries(&keys), [(0, 4), (3, 3)]);
        assert_eq!(entries(&keys.repeated(|_| 1)), [(0, 5), (3, 3)]);
        assert_eq!(entries(&keys.repeated(|_| 0)), [(0, 4), (3, 3)]);
        assert_eq!(entries(&keys.nowhere(Repetition::Optional)), [(0, 4), (3, 3)]);
        assert_eq!(entries(&Structure::rows(1).repeated(|_| 1).repeated(|_| 0)), [(0, 1)]);
    }

    #[test]
    fn sparse_fields_are_marked_by_entry_or_by_item() {
        let lists = Structure::rows(3).repeated(|row| [2, 0, 1][row]);
        assert_eq!(lists.item_entries().unwrap(), [0, 1, 3]);
        assert_eq!(Structure::rows(3).item_entries(), None);
        let expected = [(0, 1), (1, 2), (0, 0), (0, 1)];
        let by_item = lists.at_items([1].into_iter(), Repetition::Repeated);
        assert_eq!((entries(&by_item), by_item.max_rep, by_item.max_def), (expected.to_vec(), 2, 2));
        let by_entry = lists.at_entries(&[false, true, false, false], Repetition::Optional, |mark| mark);
        assert_eq!((entries(&by_entry), by_entry.max_rep, by_entry.max_def), (expected.to_vec(), 1, 2));
        assert_eq!(entries(&lists.repeated(|item| usize::from(item == 1))), expected);
    }

    #[test]
    fn elements_and_rows_are_told_apart() {
        let lists = Structure::rows(3).repeated(|row| [2, 0, 1][row]);
        assert_eq!(entries(&lists), [(0, 1), (1, 1), (0, 0), (0, 1)]);
        assert_eq!(*lists.row_starts, [0, 2, 3, 4]);
        let elements = lists.repeated(|list| [3, 1, 0][list]);
        assert_eq!(entries(&elements), [(0, 2), (2, 2), (2, 2), (1, 2), (0, 0), (0, 1)]);
        assert_eq!(*elements.row_starts, [0, 4, 5, 6]);
    }
}
