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
use super::text_test::TextTest;
use crate::base::bitset::Bitset;
use crate::tempodb::block::dedicated::DedicatedKind;

/// Different values beyond which next to every page is taken to hold one.
const MAX_VALUES: usize = 512;

/// Codes stand in the order in which values first occur: one from this part of the dictionary, the first of so many, is taken to occur nearly
/// everywhere.
const FREQUENT_PART: usize = 64;

/// Pages of which each holds a value before the others are taken to do so, too.
const ENOUGH_PAGES: usize = 4;

/// The values of an attribute that pass a test, by their codes.
#[derive(Debug)]
pub struct CandidateValues {
    dictionary: Arc<Dictionary>,
    leaf: FileLeaf,
    group: usize,
}

/// The fetched values of an attribute column, not decoded yet.
#[derive(Debug)]
pub struct Candidates {
    file: Arc<BlockFile>,
    values: CandidateValues,
    codes: Vec<u32>,
    /// Rows and bytes of each data page.
    pages: Vec<(Range<usize>, Bytes)>,
    verify: bool,
}

impl BlockReader {
    /// Returns the values that `column` may have. `None` when their codes do not tell rows: other columns than generic attributes, values outside
    /// the dictionary, or a dictionary that is not in the cache, where [`StringProbe`](super::prune::StringProbe) leaves it.
    pub fn candidate_values(&self, group: usize, column: &StringColumn) -> Result<Option<CandidateValues>, BlockReadError> {
        let StringColumn::Attr(level, key) = column else { return Ok(None) };
        let file = self.file();
        if group >= self.row_groups() || slots_of(file, *level, key, DedicatedKind::String).next().is_some() {
            return Ok(None);
        }
        let Some(leaf) = file.leaf(Column::Attr(*level, AttrPart::Value)) else { return Ok(None) };
        if !file.is_all_dictionary(group, leaf)? || file.has_encoded_values(group, *level)? {
            return Ok(None);
        }
        Ok(self.cached_dictionary(group, leaf).map(|dictionary| CandidateValues { dictionary, leaf: leaf.clone(), group }))
    }

    /// Fetches what tells the rows in which values with `codes` occur. `None` when the file does not tell where its pages are.
    pub async fn fetch_candidates(
        &self,
        values: CandidateValues,
        codes: Vec<u32>,
        meter: &ReadMeter,
    ) -> Result<Option<Candidates>, BlockReadError> {
        let Some(locations) = self.group_index(values.group, meter).await?.pages(values.leaf.index) else { return Ok(None) };
        let ranges: Vec<_> = locations.pages.iter().map(|(range, _)| range.clone()).collect();
        let starts = locations.pages.iter().map(|(_, row)| *row);
        let ends = locations.pages.iter().skip(1).map(|(_, row)| *row).chain([self.rows(values.group)]);
        let rows: Vec<_> = starts.zip(ends).map(|(start, end)| start..end).collect();
        let pages = rows.into_iter().zip(self.read(ranges, meter).await?).collect();
        Ok(Some(Candidates { file: Arc::clone(self.file()), values, codes, pages, verify: self.options().verify_checksums }))
    }
}

impl CandidateValues {
    /// Returns the codes of the values that pass; `None` when they are many or frequent, so that hardly a page is without one. CPU-bound.
    pub fn codes(&self, test: &TextTest<'_>) -> Option<Vec<u32>> {
        let codes = self.dictionary.passing(test, MAX_VALUES + 1);
        let is_frequent = codes.first().is_some_and(|first| (*first as usize) < self.dictionary.len() / FREQUENT_PART);
        (codes.len() <= MAX_VALUES && !is_frequent).then_some(codes)
    }
}

impl Candidates {
    /// Returns the rows of the pages that hold one of the values; `None` when the first pages all do. CPU-bound.
    pub fn rows(&self) -> Result<Option<RowSelection>, BlockReadError> {
        let CandidateValues { dictionary, leaf, group } = &self.values;
        let mut is_passing = Bitset::new(dictionary.len());
        self.codes.iter().for_each(|code| is_passing.insert(*code as usize));
        let shape = self.file.shape(*group, leaf, self.verify)?;
        let mut scratch = Scratch::default();
        let mut rows = Vec::new();
        for (at, (page_rows, bytes)) in self.pages.iter().enumerate() {
            if at == ENOUGH_PAGES && rows.len() == ENOUGH_PAGES {
                return Ok(None);
            }
            let mut values = StrColumn::with_dictionary(Some(Arc::clone(dictionary)));
            let page = [Pages { first_row: Some(page_rows.start), is_wanted_whole: false, bytes: bytes.clone() }];
            decode(&shape, &page, None, None, &mut values, &mut scratch).map_err(|cause| column_error(leaf, *group, cause))?;
            // Codes are foreign: a value that is not in the dictionary after all may have any.
            let passes = |code: &u32| (*code as usize) < is_passing.len() && is_passing.contains(*code as usize);
            if values.codes().iter().any(passes) {
                rows.push(page_rows.clone());
            }
        }
        Ok(Some(RowSelection::from_ranges(rows)))
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
    const TRACES: usize = 60_000;

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
        assert!(block.candidate_values(0, &column).unwrap().is_none(), "no dictionary in the cache yet");
        assert!(block.row_group_may_contain(0, &column, &|value| value == b"u-7", &meter).await.unwrap());
        let codes = |wanted: fn(&[u8]) -> bool| block.candidate_values(0, &column).unwrap().unwrap().codes(&TextTest::new(wanted));
        for (user, name) in [(5_000, "u-5000"), (9_999, "u-9999"), (TRACES - 1, "u-59999")] {
            let values = block.candidate_values(0, &column).unwrap().unwrap();
            let codes = values.codes(&TextTest::new(|value| value == name.as_bytes())).unwrap();
            let rows = block.fetch_candidates(values, codes, &meter).await.unwrap().unwrap().rows().unwrap().unwrap();
            assert!(rows.touches(user, user + 1) && rows.len() < TRACES, "{user}: {rows:?}");
        }
        assert_eq!(codes(|value| value == b"red"), None, "what comes first is frequent");
        assert_eq!(codes(|value| value.ends_with(b"7")), None, "too many");
        assert_eq!(codes(|value| value == b"u-x"), Some(Vec::new()));
    }

    #[tokio::test]
    async fn values_in_the_first_pages_are_taken_to_be_everywhere() {
        let (block, meter) = (block_of_users().await, ReadMeter::default());
        let column = StringColumn::Attr(Level::Span, b"user.id".to_vec());
        assert!(block.row_group_may_contain(0, &column, &|value| value == b"red", &meter).await.unwrap());
        let red = block.candidate_values(0, &column).unwrap().unwrap();
        let all = (0..red.dictionary.len() as u32).collect();
        let candidates = block.fetch_candidates(red, all, &meter).await.unwrap().unwrap();
        assert!(candidates.pages.len() > ENOUGH_PAGES, "{} pages", candidates.pages.len());
        assert_eq!(candidates.rows().unwrap(), None);
    }
}
