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
use crate::base::bitset::Bitset;
use crate::tempodb::block::dedicated::DedicatedKind;

/// Different values beyond which next to every page is taken to hold one.
const MAX_VALUES: usize = 512;

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
        if !file.is_all_dictionary(group, leaf)? || file.has_encoded_values(group, *level)? {
            return Ok(None);
        }
        let Some(dictionary) = self.cached_dictionary(group, leaf) else { return Ok(None) };
        let Some(locations) = self.group_index(group, meter).await?.pages(leaf.index) else { return Ok(None) };
        let ranges: Vec<_> = locations.pages.iter().map(|(range, _)| range.clone()).collect();
        let starts = locations.pages.iter().map(|(_, row)| *row);
        let ends = locations.pages.iter().skip(1).map(|(_, row)| *row).chain([self.rows(group)]);
        let rows: Vec<_> = starts.zip(ends).map(|(start, end)| start..end).collect();
        let pages = rows.into_iter().zip(self.read(ranges, meter).await?).collect();
        let verify = self.options().verify_checksums;
        Ok(Some(Candidates { file: Arc::clone(file), group, leaf: leaf.clone(), dictionary, pages, verify }))
    }
}

impl Candidates {
    /// Returns the rows of the pages that hold a value which satisfies `test`; all when many values do. CPU-bound.
    pub fn rows(&self, test: &(dyn Fn(&[u8]) -> bool + Sync)) -> Result<RowSelection, BlockReadError> {
        let passing = self.dictionary.iter().enumerate().filter(|(_, value)| test(value)).map(|(code, _)| code);
        let passing: Vec<usize> = passing.take(MAX_VALUES + 1).collect();
        if passing.len() > MAX_VALUES {
            return Ok(RowSelection::from_range(0..self.pages.last().map_or(0, |(rows, _)| rows.end)));
        }
        let mut is_passing = Bitset::new(self.dictionary.len());
        passing.into_iter().for_each(|code| is_passing.insert(code));
        let shape = self.file.shape(self.group, &self.leaf, self.verify)?;
        let mut scratch = Scratch::default();
        let mut rows = Vec::new();
        for (page_rows, bytes) in &self.pages {
            let mut values = StrColumn::with_dictionary(Some(Arc::clone(&self.dictionary)));
            let page = [Pages { first_row: Some(page_rows.start), bytes: bytes.clone() }];
            decode(&shape, &page, None, None, &mut values, &mut scratch).map_err(|cause| column_error(&self.leaf, self.group, cause))?;
            // Codes are foreign: a value that is not in the dictionary after all may have any.
            let passes = |code: &u32| (*code as usize) < is_passing.len() && is_passing.contains(*code as usize);
            if values.codes().iter().any(passes) {
                rows.push(page_rows.clone());
            }
        }
        Ok(RowSelection::from_ranges(rows))
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::model::ids::{TenantId, TraceId};
    use crate::model::otlp_table::{Fragment, build_table};
    use crate::model::wire::put_bytes;
    use crate::tempodb::backend::Backend;
    use crate::tempodb::block::dictionary_cache::DictionaryCache;
    use crate::tempodb::block::meta::BlockId;
    use crate::tempodb::block::read::ReadOptions;
    use crate::tempodb::block::schema::Level;
    use crate::tempodb::block::write::{BlockEncoder, NewBlock};
    use crate::tempodb::keys::{DATA_NAME, block_object};

    /// Traces of one span with two attributes each: more entries than a page takes.
    const TRACES: usize = 20_000;

    /// An OTLP message of fields given as (number, content).
    fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        fields.iter().for_each(|(number, content)| put_bytes(&mut out, *number, content));
        out
    }

    fn attribute(key: &str, value: &str) -> Vec<u8> {
        message(&[(1, key.as_bytes()), (2, &message(&[(1, value.as_bytes())]))])
    }

    async fn block_of_users() -> BlockReader {
        let trace = |user: usize| {
            let (id, color) = (attribute("user.id", &format!("u-{user}")), attribute("color", "red"));
            let span = message(&[(2, &(user as u64 + 1).to_be_bytes()), (9, &id), (9, &color)]);
            message(&[(1, &message(&[(2, &message(&[(2, &span)]))]))])
        };
        let traces: Vec<_> = (0..TRACES).map(trace).collect();
        let fragment = |(user, trace)| Fragment { trace_id: TraceId((user as u128 + 1).to_be_bytes()), trace };
        let table = build_table(traces.iter().map(Vec::as_slice).enumerate().map(fragment).collect()).table;
        let (tenant, id) = (TenantId::single(), BlockId::random());
        let mut encoder = BlockEncoder::new(NewBlock::new(tenant.clone(), id, TRACES), Vec::new()).unwrap();
        encoder.append(&table).unwrap();
        let (data, finished) = encoder.finish().unwrap();
        let backend = Backend::new(Arc::new(InMemory::new()), "");
        backend.write(&block_object(&tenant, id, DATA_NAME), data).await.unwrap();
        let options = ReadOptions { dictionaries: Arc::new(DictionaryCache::new(64 << 20)), ..ReadOptions::default() };
        BlockReader::open(&backend, &tenant, Arc::new(finished.meta), options, &ReadMeter::default()).await.unwrap()
    }

    #[tokio::test]
    async fn only_pages_that_hold_the_value_are_candidates() {
        let (block, meter) = (block_of_users().await, ReadMeter::default());
        let column = StringColumn::Attr(Level::Span, b"user.id".to_vec());
        assert!(block.fetch_candidates(0, &column, &meter).await.unwrap().is_none(), "no dictionary in the cache yet");
        for user in [0, 9_999, TRACES - 1] {
            let wanted = format!("u-{user}");
            let test = |value: &[u8]| value == wanted.as_bytes();
            assert!(block.row_group_may_contain(0, &column, &test, &meter).await.unwrap());
            let rows = block.fetch_candidates(0, &column, &meter).await.unwrap().unwrap().rows(&test).unwrap();
            assert!(rows.touches(user, user + 1) && rows.len() < TRACES, "{user}: {rows:?}");
        }
        let everybody = block.fetch_candidates(0, &column, &meter).await.unwrap().unwrap().rows(&|value| value == b"red").unwrap();
        assert_eq!(everybody, RowSelection::from_range(0..TRACES));
        let many = block.fetch_candidates(0, &column, &meter).await.unwrap().unwrap().rows(&|value| value.starts_with(b"u-1")).unwrap();
        assert_eq!(many, RowSelection::from_range(0..TRACES));
        let nobody = block.fetch_candidates(0, &column, &meter).await.unwrap().unwrap().rows(&|value| value == b"u-x").unwrap();
        assert!(nobody.is_empty());
    }
}
