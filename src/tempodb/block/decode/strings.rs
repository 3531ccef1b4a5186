//! Byte-array columns as codes into a dictionary.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::sink::Sink;
use super::thrift::Encoding;
use super::{DecodeError, MAX_PAGE_BYTES, Result, delta, hybrid, plain};
use crate::model::strings::{StrId, StringPool};
use crate::tempodb::block::text_test::TextTest;

/// Byte strings, end to end: a dictionary page, or values that have no dictionary.
#[derive(Debug, Default)]
pub(in crate::tempodb::block) struct Dictionary {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Dictionary {
    /// Decodes the PLAIN values of a dictionary page.
    pub(super) fn decode(page: &[u8], count: usize) -> Result<Self> {
        let mut dictionary = Self { bytes: Vec::with_capacity(page.len()), ends: Vec::with_capacity(count.min(page.len() / 4)) };
        plain::byte_arrays(page, std::slice::from_ref(&(0..count)), |value| dictionary.push(value))?;
        Ok(dictionary)
    }

    /// Holds `values` in their order.
    #[cfg(test)]
    pub(in crate::tempodb::block) fn of(values: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let mut dictionary = Self::default();
        values.into_iter().for_each(|value| dictionary.push(value.as_ref()));
        dictionary
    }

    fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        // Pages are below `MAX_PAGE_BYTES` and chunks are checked against 4 GiB in `StrColumn::decode`.
        self.ends.push(self.bytes.len() as u32);
    }

    pub(in crate::tempodb::block) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(in crate::tempodb::block) fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<u32>()
    }

    pub(in crate::tempodb::block) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let value = self.bytes.get(start..end as usize).unwrap_or_default();
            start = end as usize;
            value
        })
    }

    /// Returns up to `limit` codes of entries that pass, in ascending order.
    pub(in crate::tempodb::block) fn passing(&self, test: &TextTest<'_>, limit: usize) -> Vec<u32> {
        match test.required() {
            None => self.iter().zip(0..).filter(|(value, _)| test.passes(value)).map(|(_, code)| code).take(limit).collect(),
            Some(required) => self.passing_with(required, test, limit),
        }
    }

    /// Looks for the required text in all entries at once and tests only those that contain it.
    fn passing_with(&self, required: &[u8], test: &TextTest<'_>, limit: usize) -> Vec<u32> {
        let finder = memchr::memmem::Finder::new(required);
        let (mut passing, mut from) = (Vec::new(), 0);
        while passing.len() < limit
            && let Some(hit) = finder.find(self.bytes.get(from..).unwrap_or_default()).map(|at| from + at)
        {
            let code = self.ends.partition_point(|end| *end as usize <= hit);
            let Some(end) = self.ends.get(code).map(|end| *end as usize) else { break };
            if hit + required.len() > end {
                // it reaches into the next entry
                from = hit + 1;
                continue;
            }
            if test.passes(self.get(code)) {
                passing.push(code as u32);
            }
            from = end;
        }
        passing
    }

    fn get(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(index).copied().unwrap_or(start);
        self.bytes.get(start as usize..end as usize).unwrap_or_default()
    }
}

/// The code of an empty string that is in no dictionary. Chunks have fewer entries, so it never is a real code.
const EMPTY_CODE: u32 = u32::MAX;

/// Values of a byte-array column. Codes below the dictionary's length are its entries, the next ones values of pages without dictionary.
#[derive(Debug, Default)]
pub(in crate::tempodb::block) struct StrColumn {
    dictionary: Arc<Dictionary>,
    has_dictionary: bool,
    plain: Dictionary,
    codes: Vec<u32>,
    lengths: Vec<u32>,
}

impl StrColumn {
    /// Starts with a dictionary that was decoded before.
    pub(in crate::tempodb::block) fn with_dictionary(dictionary: Option<Arc<Dictionary>>) -> Self {
        Self { has_dictionary: dictionary.is_some(), dictionary: dictionary.unwrap_or_default(), ..Self::default() }
    }

    pub(in crate::tempodb::block) fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// Number of distinct codes: all are below it, except that of the empty string.
    pub(in crate::tempodb::block) fn code_count(&self) -> usize {
        self.dictionary.len() + self.plain.len()
    }

    pub(in crate::tempodb::block) fn dictionary(&self) -> Option<Arc<Dictionary>> {
        self.has_dictionary.then(|| Arc::clone(&self.dictionary))
    }

    /// Returns all strings in code order.
    pub(in crate::tempodb::block) fn strings(&self) -> impl Iterator<Item = &[u8]> {
        self.dictionary.iter().chain(self.plain.iter())
    }

    pub(in crate::tempodb::block) fn get(&self, code: u32) -> &[u8] {
        let code = code as usize;
        match code.checked_sub(self.dictionary.len()) {
            None => self.dictionary.get(code),
            Some(code) => self.plain.get(code),
        }
    }

    /// Appends the strings to `pool` and returns the ids of all values.
    pub(in crate::tempodb::block) fn into_ids(mut self, pool: &mut StringPool) -> Result<Vec<StrId>> {
        let codes = std::mem::take(&mut self.codes);
        let mut ids = self.ids(codes.len(), pool)?;
        codes.into_iter().map(|code| ids.of(code, pool)).collect()
    }

    /// Prepares to turn about `expected` codes into ids: all strings go to `pool` as one block, or each when it is first met, if only few are.
    pub(in crate::tempodb::block) fn ids(&self, expected: usize, pool: &mut StringPool) -> Result<CodeIds<'_>> {
        let strings = self.code_count();
        let known = if expected < strings / 16 {
            Known::Map(HashMap::default())
        } else if expected < strings / 2 {
            Known::Table(vec![UNKNOWN; strings])
        } else {
            let full = DecodeError::TooLarge("string pool of a row group");
            let first = pool.push_dictionary(&self.dictionary.bytes, &self.dictionary.ends).ok_or(full)?;
            pool.push_block(&self.plain.bytes, &self.plain.ends).ok_or(full)?;
            // A dictionary may hold the empty string, whose id is fixed.
            let empty = self.strings().position(<[u8]>::is_empty).map_or(EMPTY_CODE, |code| code as u32);
            Known::Block { first: first.0, empty }
        };
        Ok(CodeIds { column: self, known })
    }

    fn push_plain(plain: &mut Dictionary, codes: &mut Vec<u32>, dictionary: usize, value: &[u8]) {
        if value.is_empty() {
            codes.push(EMPTY_CODE);
        } else {
            codes.push((dictionary + plain.len()) as u32);
            plain.push(value);
        }
    }
}

/// No id: a pool has fewer strings than bytes. Not zero, as large zeroed memory is fetched from the system anew each time.
const UNKNOWN: u32 = u32::MAX;

/// Turns codes of a column into ids of a pool.
pub(in crate::tempodb::block) struct CodeIds<'a> {
    column: &'a StrColumn,
    known: Known,
}

enum Known {
    Block {
        first: u32,
        empty: u32,
    },
    /// By code; [`UNKNOWN`] until it is met.
    Table(Vec<u32>),
    Map(HashMap<u32, u32, FixedState>),
}

impl CodeIds<'_> {
    #[inline]
    pub(in crate::tempodb::block) fn of(&mut self, code: u32, pool: &mut StringPool) -> Result<StrId> {
        let slot = match &mut self.known {
            _ if code == EMPTY_CODE => return Ok(StrId::EMPTY),
            Known::Block { empty, .. } if code == *empty => return Ok(StrId::EMPTY),
            Known::Block { first, .. } => return Ok(StrId(first.wrapping_add(code))),
            Known::Table(ids) => ids.get_mut(code as usize).ok_or(DecodeError::Corrupt("dictionary code"))?,
            Known::Map(ids) => ids.entry(code).or_insert(UNKNOWN),
        };
        if *slot == UNKNOWN {
            let value = self.column.get(code);
            if value.len() + pool.byte_len() > u32::MAX as usize {
                return Err(DecodeError::TooLarge("string pool of a row group"));
            }
            *slot = pool.push(value).0;
        }
        Ok(StrId(*slot))
    }
}

impl Sink for StrColumn {
    fn len(&self) -> usize {
        self.codes.len()
    }

    fn needs_dictionary(&self) -> bool {
        !self.has_dictionary
    }

    fn dictionary(&mut self, page: &[u8], count: usize) -> Result<()> {
        if self.plain.len() > 0 {
            return Err(DecodeError::Corrupt("dictionary behind data pages"));
        }
        self.dictionary = Arc::new(Dictionary::decode(page, count)?);
        self.has_dictionary = true;
        Ok(())
    }

    fn decode(&mut self, encoding: Encoding, values: &[u8], count: usize, ranges: &[Range<usize>]) -> Result<()> {
        let dictionary = self.dictionary.len();
        if self.plain.bytes.len().saturating_add(MAX_PAGE_BYTES) > u32::MAX as usize {
            return Err(DecodeError::TooLarge("byte arrays of a column chunk"));
        }
        let (plain, codes) = (&mut self.plain, &mut self.codes);
        match encoding {
            Encoding::Dictionary => dictionary_codes(values, count, ranges, dictionary, codes),
            Encoding::Plain => plain::byte_arrays(values, ranges, |value| Self::push_plain(plain, codes, dictionary, value)),
            Encoding::DeltaLengthByteArray => delta::delta_length_byte_arrays(values, count, ranges, &mut self.lengths, |value| {
                Self::push_plain(plain, codes, dictionary, value);
            }),
            Encoding::DeltaByteArray => {
                delta::delta_byte_arrays(values, count, ranges, MAX_PAGE_BYTES, |value| Self::push_plain(plain, codes, dictionary, value))
            }
            Encoding::Rle | Encoding::DeltaBinaryPacked => Err(DecodeError::Corrupt("encoding of a byte array column")),
        }
    }
}

/// Appends `ranges` of `count` dictionary codes, each checked to be below `limit`. The first byte of the page is the bit width.
pub(super) fn dictionary_codes(values: &[u8], count: usize, ranges: &[Range<usize>], limit: usize, codes: &mut Vec<u32>) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let (&width, runs) = values.split_first().ok_or(DecodeError::Truncated("dictionary codes"))?;
    let start = codes.len();
    hybrid::decode_u32(runs, u32::from(width), count, ranges, codes)?;
    let added = codes.get(start..).unwrap_or_default();
    let highest = added.iter().fold(0, |highest, &code| highest.max(code));
    if highest as usize >= limit && !added.is_empty() { Err(DecodeError::Corrupt("dictionary code")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_outside_the_dictionary_are_not_taken_for_distinct() {
        let plain = |texts: &[&[u8]]| -> Vec<u8> {
            texts.iter().flat_map(|text| [&(text.len() as u32).to_le_bytes()[..], text].concat()).collect()
        };
        let mut column = StrColumn::default();
        Sink::dictionary(&mut column, &plain(&[b"a", b"b"]), 2).unwrap();
        column.decode(Encoding::Plain, &plain(&[b"a", b"a"]), 2, &[Range { start: 0, end: 2 }]).unwrap();
        let mut pool = StringPool::default();
        let mut ids = column.ids(100, &mut pool).unwrap();
        let [in_dictionary, first, second] = [0, 2, 3].map(|code| ids.of(code, &mut pool).unwrap());
        assert_eq!([in_dictionary, first, second].map(|id| pool.get(id)), [b"a"; 3]);
        assert!(pool.distinct_around(in_dictionary).is_some());
        assert_eq!([first, second].map(|id| pool.distinct_around(id)), [None, None]);
    }
}
