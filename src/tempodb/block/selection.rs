//! Which rows (traces) of a row group to read.

use std::ops::Range;

/// Ascending, disjoint, non-empty row ranges of one row group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowSelection(Vec<Range<usize>>);

impl RowSelection {
    /// Takes rows in ascending order; repeated ones count once.
    pub fn from_rows(rows: impl IntoIterator<Item = usize>) -> Self {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for row in rows {
            match ranges.last_mut() {
                Some(last) if row < last.end => debug_assert!(row + 1 == last.end, "rows are ascending"),
                Some(last) if row == last.end => last.end += 1,
                _ => ranges.push(row..row + 1),
            }
        }
        Self(ranges)
    }

    /// Selects the rows of one range.
    pub fn from_range(range: Range<usize>) -> Self {
        Self(if range.is_empty() { Vec::new() } else { vec![range] })
    }

    /// Selects the rows of ascending ranges that do not overlap.
    pub(super) fn from_ranges(ranges: impl IntoIterator<Item = Range<usize>>) -> Self {
        let mut joined: Vec<Range<usize>> = Vec::new();
        for range in ranges.into_iter().filter(|range| !range.is_empty()) {
            match joined.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => joined.push(range),
            }
        }
        Self(joined)
    }

    /// Returns the row of the row group that is at `position` among the selected ones.
    pub fn row(&self, position: usize) -> Option<usize> {
        let mut before = 0;
        self.0.iter().find_map(|range| {
            let row = range.start + position.checked_sub(before)?;
            before += range.len();
            (row < range.end).then_some(row)
        })
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of selected rows.
    pub fn len(&self) -> usize {
        self.0.iter().map(Range::len).sum()
    }

    /// The ranges in order.
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.0
    }

    /// Whether a row of `start..end` is selected.
    pub fn touches(&self, start: usize, end: usize) -> bool {
        let next = self.0.partition_point(|range| range.end <= start);
        self.0.get(next).is_some_and(|range| range.start < end)
    }

    /// Returns what is selected of `start..end`, relative to `start`.
    pub(super) fn within(&self, start: usize, end: usize) -> Vec<Range<usize>> {
        let next = self.0.partition_point(|range| range.end <= start);
        let ranges = self.0.get(next..).unwrap_or_default().iter().take_while(|range| range.start < end);
        ranges.map(|range| range.start.max(start) - start..range.end.min(end) - start).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_join_to_ranges_and_are_cut_to_pages() {
        let rows = RowSelection::from_rows([1, 2, 2, 3, 7]);
        assert_eq!(rows.ranges(), [1..4, 7..8]);
        assert_eq!(rows.len(), 4);
        assert_eq!(rows.within(2, 8), [0..2, 5..6]);
        assert!(rows.within(4, 7).is_empty());
        assert_eq!([0, 2, 3, 4].map(|position| rows.row(position)), [Some(1), Some(3), Some(7), None]);
        assert_eq!(RowSelection::from_ranges([1..3, 3..4, 7..8]), rows);
        assert!(rows.touches(0, 2) && !rows.touches(4, 7) && !rows.touches(8, 100));
    }
}
