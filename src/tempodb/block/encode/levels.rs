//! Which entries a column has: the repetition and definition levels of Dremel, one entry per value or missing value.

/// The entries of a column or of the items of a nesting level.
///
/// Invariants
/// * `rep`, `def` have equal length; `row_starts[r] .. row_starts[r + 1]` are the entries of row `r`, never empty.
/// * An entry with `def == max_def` holds an item or value, the n-th of these the n-th; others stand for an empty list above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Structure {
    pub(super) rep: Vec<u8>,
    pub(super) def: Vec<u8>,
    pub(super) row_starts: Vec<u32>,
    pub(super) max_def: u8,
    pub(super) max_rep: u8,
}

impl Structure {
    /// One entry a row.
    pub(super) fn rows(count: usize) -> Self {
        Self { rep: vec![0; count], def: vec![0; count], row_starts: (0..=count as u32).collect(), max_def: 0, max_rep: 0 }
    }

    /// The entries of a repeated field in the items of this level; `count_of` tells how many elements an item has.
    pub(super) fn repeated(&self, mut count_of: impl FnMut(usize) -> usize) -> Self {
        let (max_def, max_rep) = (self.max_def + 1, self.max_rep + 1);
        let capacity = self.rep.len() + self.rep.len() / 8;
        let mut nested =
            Self { rep: Vec::with_capacity(capacity), def: Vec::with_capacity(capacity), row_starts: Vec::new(), max_def, max_rep };
        nested.row_starts.reserve(self.row_starts.len());
        nested.row_starts.push(0);
        let mut item = 0;
        for row in self.row_starts.windows(2) {
            for entry in row[0] as usize..row[1] as usize {
                let (rep, def) = (self.rep[entry], self.def[entry]);
                let count = if def == self.max_def {
                    item += 1;
                    count_of(item - 1)
                } else {
                    0
                };
                nested.rep.push(rep);
                nested.def.push(if count == 0 { def } else { max_def });
                if count > 1 {
                    nested.rep.resize(nested.rep.len() + count - 1, max_rep);
                    nested.def.resize(nested.def.len() + count - 1, max_def);
                }
            }
            nested.row_starts.push(nested.rep.len() as u32);
        }
        nested
    }

    /// The entries of an optional field in the items of this level.
    pub(super) fn optional(&self, mut is_present: impl FnMut(usize) -> bool) -> Self {
        let max_def = self.max_def + 1;
        let mut item = 0;
        let def = self.def.iter().map(|&def| {
            let is_item = def == self.max_def;
            item += usize::from(is_item);
            def + u8::from(is_item && is_present(item - 1))
        });
        Self { def: def.collect(), rep: self.rep.clone(), row_starts: self.row_starts.clone(), max_def, max_rep: self.max_rep }
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
        assert_eq!(entries(&keys.optional(|_| false)), [(0, 4), (3, 3)]);
        assert_eq!(entries(&Structure::rows(1).repeated(|_| 1).repeated(|_| 0)), [(0, 1)]);
    }

    #[test]
    fn elements_and_rows_are_told_apart() {
        let lists = Structure::rows(3).repeated(|row| [2, 0, 1][row]);
        assert_eq!(entries(&lists), [(0, 1), (1, 1), (0, 0), (0, 1)]);
        assert_eq!(lists.row_starts, [0, 2, 3, 4]);
        let elements = lists.repeated(|list| [3, 1, 0][list]);
        assert_eq!(entries(&elements), [(0, 2), (2, 2), (2, 2), (1, 2), (0, 0), (0, 1)]);
        assert_eq!(elements.row_starts, [0, 4, 5, 6]);
    }
}
