//! A column chunk, or chosen pages of it, into a [`Sink`].

use std::ops::Range;
use std::slice::from_ref;

use bytes::Bytes;

use super::levels::{Levels, count_equal};
use super::page::{LeafShape, next_page};
use super::sink::Sink;
use super::strings::Dictionary;
use super::thrift::PageKind;
use super::{DecodeError, Result};
use crate::tempodb::block::selection::RowSelection;

/// Consecutive pages.
#[derive(Debug, Clone)]
pub(in crate::tempodb::block) struct Pages {
    /// Row of the row group that the first data page starts at; `None`: the one behind the previous pages.
    pub(in crate::tempodb::block) first_row: Option<usize>,
    /// Every row of the pages is wanted, whatever rows are selected: nothing is cut off, which spares the levels.
    pub(in crate::tempodb::block) is_wanted_whole: bool,
    pub(in crate::tempodb::block) bytes: Bytes,
}

/// Scratch memory that is reused from chunk to chunk.
#[derive(Debug, Default)]
pub(in crate::tempodb::block) struct Scratch {
    page: Vec<u8>,
    levels: Levels,
}

/// Decodes `pages` into `sink`; levels go to `levels` when given. Only the rows of `rows` are kept.
///
/// Returns the number of level entries that were in the pages, kept or not.
pub(in crate::tempodb::block) fn decode(
    shape: &LeafShape,
    pages: &[Pages],
    rows: Option<&RowSelection>,
    mut levels: Option<&mut Levels>,
    sink: &mut impl Sink,
    scratch: &mut Scratch,
) -> Result<usize> {
    let mut entries = 0_usize;
    let mut row = 0_usize;
    for run in pages {
        let mut bytes = &run.bytes[..];
        row = run.first_row.unwrap_or(row);
        let rows = rows.filter(|_| !run.is_wanted_whole);
        let want_levels = levels.is_some() || rows.is_some();
        while !bytes.is_empty() {
            let page = next_page(&mut bytes, shape.verify)?;
            match page.header.kind {
                PageKind::Index => continue,
                PageKind::Dictionary => {
                    if sink.needs_dictionary() {
                        sink.dictionary(page.dictionary(shape.codec, &mut scratch.page)?, page.header.num_values)?;
                    }
                    continue;
                }
                PageKind::DataV1 | PageKind::DataV2 => {}
            }
            entries = entries.saturating_add(page.header.num_values);
            if entries > shape.max_entries {
                return Err(DecodeError::TooLarge("number of values of a column chunk"));
            }
            let target = match &mut levels {
                Some(levels) => &mut **levels,
                None => {
                    scratch.levels.clear();
                    &mut scratch.levels
                }
            };
            let level_start = target.len();
            let data = page.data(shape, want_levels, target, &mut scratch.page)?;
            let all = 0..data.count;
            let cut = rows.map(|rows| Cut::of(shape, target, level_start, page.header.num_values, row, rows));
            let wanted = cut.as_ref().map_or(from_ref(&all), |cut| &cut.values);
            let value_start = sink.len();
            sink.decode(data.encoding, data.values, data.count, wanted)?;
            if sink.len() != value_start + wanted.iter().map(Range::len).sum::<usize>() {
                return Err(DecodeError::Corrupt("number of values of a page"));
            }
            if let Some(cut) = cut {
                target.keep(level_start, &cut.entries);
                row += cut.rows_in_page;
            }
        }
    }
    Ok(entries)
}

/// Decodes only the dictionary at the start of `bytes`. `None` when there is a data page instead.
pub(in crate::tempodb::block) fn decode_dictionary(shape: &LeafShape, mut bytes: &[u8]) -> Result<Option<Dictionary>> {
    let page = next_page(&mut bytes, shape.verify)?;
    if page.header.kind != PageKind::Dictionary {
        return Ok(None);
    }
    let mut scratch = Vec::new();
    let values = page.dictionary(shape.codec, &mut scratch)?;
    Dictionary::decode(values, page.header.num_values).map(Some)
}

/// Which entries and values of a page belong to selected rows.
struct Cut {
    entries: Vec<Range<usize>>,
    values: Vec<Range<usize>>,
    rows_in_page: usize,
}

impl Cut {
    fn of(shape: &LeafShape, levels: &Levels, start: usize, count: usize, first_row: usize, rows: &RowSelection) -> Self {
        if shape.max_repetition == 0 {
            let kept = rows.within(first_row, first_row + count);
            return Self { entries: kept.clone(), values: kept, rows_in_page: count };
        }
        let repetition = levels.repetition.get(start..).unwrap_or_default();
        let definition = levels.definition.get(start..).unwrap_or_default();
        let rows_in_page = count_equal(repetition, 0);
        let (mut entries, mut values) = (Vec::new(), Vec::new());
        let (mut counted, mut value) = (0, 0);
        let values_in = |range: Range<usize>| count_equal(definition.get(range).unwrap_or_default(), shape.max_definition);
        let mut starts = memchr::memchr_iter(0, repetition).chain([repetition.len()]).enumerate();
        let mut start_of = |row: usize| starts.by_ref().find(|(at, _)| *at == row).map(|(_, start)| start);
        let mut previous_end = None;
        for kept in rows.within(first_row, first_row + rows_in_page) {
            // Ranges neither touch nor overlap, so each bound is met once on the way.
            let Some(from) = start_of(kept.start) else { break };
            let Some(to) = start_of(kept.end) else { break };
            debug_assert!(previous_end.is_none_or(|end| end < kept.start), "ranges are apart");
            previous_end = Some(kept.end);
            let first = value + values_in(counted..from);
            value = first + values_in(from..to);
            counted = to;
            entries.push(from..to);
            values.push(first..value);
        }
        Self { entries, values, rows_in_page }
    }
}
