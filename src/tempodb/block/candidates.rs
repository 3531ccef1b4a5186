//! Which rows of a row group may hold a string value of an attribute: those of the pages in which its dictionary code occurs.
//!
//! Only the codes of one column are decoded for that, no levels and no keys, so that a query for a rare value decodes the other columns of a few
//! pages instead of all.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::assemble::column_error;
use super::decode::chunk::{Pages, Scratch, decode};
use super::decode::strings::{Dictionary, StrColumn};
use super::error::BlockReadError;
use super::file::{BlockFile, FileLeaf};
use super::prune::{StringColumn, slots_of};
use super::read::{BlockReader, ReadMeter};
use super::schema::{AttrPart, Column};
use super::selection::RowSelection;
use crate::tempodb::block::dedicated::DedicatedKind;

/// The fetched values of an attribute column, not decoded yet.
#[derive(Debug)]
pub struct Candidates {
    file: Arc<BlockFile>,
    group: usize,
    leaf: FileLeaf,
    dictionary: Arc<Dictionary>,
    /// Rows and bytes of each data page.
    pages: Vec<(Range<usize>, Bytes)>,
    verify: bool,
}

impl BlockReader {
    /// Fetches what tells the rows in which a value of `column` may satisfy a test. `None` when its codes do not tell: other columns than generic
    /// attributes, values outside the dictionary, or a dictionary that is not in the cache, where
    /// [`StringProbe`](super::prune::StringProbe) leaves it.
    pub async fn fetch_candidates(
        &self,
        group: usize,
        column: &StringColumn,
        meter: &ReadMeter,
    ) -> Result<Option<Candidates>, BlockReadError> {
        let StringColumn::Attr(level, key) = column else { return Ok(None) };
        let file = self.file();
        if group >= self.row_groups() || slots_of(file, *level, key, DedicatedKind::String).next().is_some() {
            return Ok(None);
        }
        let Some(leaf) = file.leaf(Column::Attr(*level, AttrPart::Value)) else { return Ok(None) };
        if !file.is_all_dictionary(group, leaf)? {
            return Ok(None);
        }
        let Some(dictionary) = self.cached_dictionary(group, leaf) else { return Ok(None) };
        let Some(locations) = self.group_index(group, meter).await?.pages(leaf.index) else { return Ok(None) };
        let ranges: Vec<_> = locations.pages.iter().map(|(range, _)| range.clone()).collect();
        let starts = locations.pages.iter().map(|(_, row)| *row);
        let ends = locations.pages.iter().skip(1).map(|(_, row)| *row).chain([self.rows(group)]);
        let rows: Vec<_> = starts.zip(ends).map(|(start, end)| start..end).collect();
        let pages = rows.into_iter().zip(self.read(&ranges, meter).await?).collect();
        let verify = self.options().verify_checksums;
        Ok(Some(Candidates { file: Arc::clone(file), group, leaf: leaf.clone(), dictionary, pages, verify }))
    }
}

impl Candidates {
    /// Returns the rows of the pages that hold a value which satisfies `test`. CPU-bound.
    pub fn rows(&self, test: &(dyn Fn(&[u8]) -> bool + Sync)) -> Result<RowSelection, BlockReadError> {
        let codes: Vec<u32> = (0..).zip(self.dictionary.iter()).filter(|(_, value)| test(value)).map(|(code, _)| code).collect();
        let shape = self.file.shape(self.group, &self.leaf, self.verify)?;
        let mut scratch = Scratch::default();
        let mut rows = Vec::new();
        for (page_rows, bytes) in &self.pages {
            let mut values = StrColumn::with_dictionary(Some(Arc::clone(&self.dictionary)));
            let page = [Pages { first_row: Some(page_rows.start), bytes: bytes.clone() }];
            decode(&shape, &page, None, None, &mut values, &mut scratch).map_err(|cause| column_error(&self.leaf, self.group, cause))?;
            if values.codes().iter().any(|code| codes.contains(code)) {
                rows.push(page_rows.clone());
            }
        }
        Ok(RowSelection::from_ranges(rows))
    }
}
