//! The values of one column: how a page of them is encoded, and what their bounds are.

use std::ops::Range;

use parquet::basic::Encoding;
use parquet::data_type::ByteArray;
use parquet::file::statistics::{Statistics, ValueStatistics};

use super::delta::{self, DeltaInt};
use super::page::{put_codes, put_plain_byte_arrays};
use crate::model::ids::SpanId;

/// Bytes of a byte-array bound in the column index: enough to prune, small enough for thousands of pages.
const PAGE_BOUND_BYTES: usize = 16;
/// Bytes of a byte-array bound in the chunk statistics.
const CHUNK_BOUND_BYTES: usize = 64;
/// Values encoded on trial to guess the size of the others.
const SAMPLE: usize = 4096;

/// Values of a column, nulls left out.
pub(super) trait ColumnValues {
    type Bound: Copy;

    fn len(&self) -> usize;

    /// Bytes that `values` will take in a page, roughly.
    fn size_bytes(&self, values: Range<usize>) -> usize;

    /// Appends `values` to a page.
    fn encode(&mut self, values: Range<usize>, out: &mut Vec<u8>) -> Encoding;

    /// Least and greatest of `values`; `None` when there is none (or no comparable one).
    fn bounds(&mut self, values: Range<usize>) -> Option<(Self::Bound, Self::Bound)>;

    /// The bounds of two runs together.
    fn widen(&self, a: (Self::Bound, Self::Bound), b: (Self::Bound, Self::Bound)) -> (Self::Bound, Self::Bound);

    /// The bounds as the column index stores them.
    fn index_bytes(&self, bounds: (Self::Bound, Self::Bound)) -> (Vec<u8>, Vec<u8>);

    /// Bounds for a page of values that cannot be compared: nothing may be pruned by them.
    fn unbounded(&self) -> (Vec<u8>, Vec<u8>) {
        (Vec::new(), Vec::new())
    }

    fn statistics(&self, bounds: Option<(Self::Bound, Self::Bound)>, nulls: u64) -> Statistics;

    /// Number of entries and the PLAIN page body of the dictionary, if there is one.
    fn dictionary(&self) -> Option<(usize, Vec<u8>)> {
        None
    }
}

/// Integers, delta binary packed.
pub(super) struct Ints<'a, T> {
    values: &'a [T],
    /// Of a thousand values.
    sampled_size_bytes: usize,
}

/// An integer column type with its order and storage form.
pub(super) trait IntValue: DeltaInt + Ord {
    fn le_bytes(self) -> Vec<u8>;
    fn statistics(bounds: Option<(Self, Self)>, nulls: u64) -> Statistics;
}

macro_rules! int_value {
    ($type:ty, $stored:ty, $statistics:path) => {
        impl IntValue for $type {
            fn le_bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }

            fn statistics(bounds: Option<(Self, Self)>, nulls: u64) -> Statistics {
                let (min, max) = bounds.unzip();
                $statistics(min.map(|min| min as $stored), max.map(|max| max as $stored), None, Some(nulls), false)
            }
        }
    };
}

int_value!(i32, i32, Statistics::int32);
int_value!(u32, i32, Statistics::int32);
int_value!(i64, i64, Statistics::int64);
int_value!(u64, i64, Statistics::int64);

impl<'a, T: IntValue> Ints<'a, T> {
    pub(super) fn new(values: &'a [T]) -> Self {
        let sample = &values[..values.len().min(SAMPLE)];
        let mut bytes = Vec::new();
        delta::encode(sample, &mut bytes);
        Self { values, sampled_size_bytes: bytes.len() * 1000 / sample.len().max(1) }
    }
}

impl<T: IntValue> ColumnValues for Ints<'_, T> {
    type Bound = T;

    fn len(&self) -> usize {
        self.values.len()
    }

    fn size_bytes(&self, values: Range<usize>) -> usize {
        values.len() * self.sampled_size_bytes / 1000
    }

    fn encode(&mut self, values: Range<usize>, out: &mut Vec<u8>) -> Encoding {
        delta::encode(&self.values[values], out);
        Encoding::DELTA_BINARY_PACKED
    }

    fn bounds(&mut self, values: Range<usize>) -> Option<(T, T)> {
        let values = &self.values[values];
        let first = *values.first()?;
        Some(values.iter().fold((first, first), |(min, max), &value| (min.min(value), max.max(value))))
    }

    fn widen(&self, a: (T, T), b: (T, T)) -> (T, T) {
        (a.0.min(b.0), a.1.max(b.1))
    }

    fn index_bytes(&self, (min, max): (T, T)) -> (Vec<u8>, Vec<u8>) {
        (min.le_bytes(), max.le_bytes())
    }

    fn statistics(&self, bounds: Option<(T, T)>, nulls: u64) -> Statistics {
        T::statistics(bounds, nulls)
    }
}

/// Floating-point numbers, PLAIN.
pub(super) struct Doubles(pub(super) Vec<f64>);

impl ColumnValues for Doubles {
    type Bound = f64;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn size_bytes(&self, values: Range<usize>) -> usize {
        values.len() * size_of::<f64>()
    }

    fn encode(&mut self, values: Range<usize>, out: &mut Vec<u8>) -> Encoding {
        for value in &self.0[values] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        Encoding::PLAIN
    }

    /// NaN is no bound; zeros are widened to both signs, as the format asks for.
    fn bounds(&mut self, values: Range<usize>) -> Option<(f64, f64)> {
        let mut numbers = self.0[values].iter().copied().filter(|value| !value.is_nan());
        let first = numbers.next()?;
        let (min, max) = numbers.fold((first, first), |(min, max), value| (min.min(value), max.max(value)));
        Some((if min == 0.0 { -0.0 } else { min }, if max == 0.0 { 0.0 } else { max }))
    }

    fn widen(&self, a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
        let (min, max) = (a.0.min(b.0), a.1.max(b.1));
        (if min == 0.0 { -0.0 } else { min }, if max == 0.0 { 0.0 } else { max })
    }

    fn index_bytes(&self, (min, max): (f64, f64)) -> (Vec<u8>, Vec<u8>) {
        (min.to_le_bytes().to_vec(), max.to_le_bytes().to_vec())
    }

    fn unbounded(&self) -> (Vec<u8>, Vec<u8>) {
        self.index_bytes((f64::NEG_INFINITY, f64::INFINITY))
    }

    fn statistics(&self, bounds: Option<(f64, f64)>, nulls: u64) -> Statistics {
        let (min, max) = bounds.unzip();
        Statistics::double(min, max, None, Some(nulls), false)
    }
}

/// Truth values, PLAIN: one bit each.
pub(super) struct Bools(pub(super) Vec<bool>);

impl ColumnValues for Bools {
    type Bound = bool;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn size_bytes(&self, values: Range<usize>) -> usize {
        values.len() / 8
    }

    fn encode(&mut self, values: Range<usize>, out: &mut Vec<u8>) -> Encoding {
        out.extend(self.0[values].chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit))));
        Encoding::PLAIN
    }

    fn bounds(&mut self, values: Range<usize>) -> Option<(bool, bool)> {
        let values = &self.0[values];
        (!values.is_empty()).then(|| (!values.contains(&false), values.contains(&true)))
    }

    fn widen(&self, a: (bool, bool), b: (bool, bool)) -> (bool, bool) {
        (a.0 && b.0, a.1 || b.1)
    }

    fn index_bytes(&self, (min, max): (bool, bool)) -> (Vec<u8>, Vec<u8>) {
        (vec![u8::from(min)], vec![u8::from(max)])
    }

    fn statistics(&self, bounds: Option<(bool, bool)>, nulls: u64) -> Statistics {
        let (min, max) = bounds.unzip();
        Statistics::boolean(min, max, None, Some(nulls), false)
    }
}

/// Byte arrays without dictionary: DELTA_LENGTH_BYTE_ARRAY.
pub(super) struct ByteArrays<'a>(pub(super) Vec<&'a [u8]>);

impl<'a> ColumnValues for ByteArrays<'a> {
    type Bound = &'a [u8];

    fn len(&self) -> usize {
        self.0.len()
    }

    fn size_bytes(&self, values: Range<usize>) -> usize {
        self.0[values].iter().map(|value| value.len() + 1).sum()
    }

    fn encode(&mut self, values: Range<usize>, out: &mut Vec<u8>) -> Encoding {
        delta::encode_byte_arrays(self.0[values].iter().copied(), out);
        Encoding::DELTA_LENGTH_BYTE_ARRAY
    }

    fn bounds(&mut self, values: Range<usize>) -> Option<(&'a [u8], &'a [u8])> {
        bounds_of(self.0[values].iter().copied())
    }

    fn widen(&self, a: (&'a [u8], &'a [u8]), b: (&'a [u8], &'a [u8])) -> (&'a [u8], &'a [u8]) {
        (a.0.min(b.0), a.1.max(b.1))
    }

    fn index_bytes(&self, (min, max): (&'a [u8], &'a [u8])) -> (Vec<u8>, Vec<u8>) {
        (lower_bound(min, PAGE_BOUND_BYTES), upper_bound(max, PAGE_BOUND_BYTES))
    }

    fn statistics(&self, bounds: Option<(&'a [u8], &'a [u8])>, nulls: u64) -> Statistics {
        byte_array_statistics(bounds, nulls)
    }
}

/// Span ids, as byte arrays of eight bytes or none.
pub(super) struct SpanIds<'a>(pub(super) &'a [SpanId]);

impl<'a> ColumnValues for SpanIds<'a> {
    type Bound = &'a SpanId;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn size_bytes(&self, values: Range<usize>) -> usize {
        self.0[values].iter().map(|id| if id.is_none() { 1 } else { 1 + size_of::<SpanId>() }).sum()
    }

    fn encode(&mut self, values: Range<usize>, out: &mut Vec<u8>) -> Encoding {
        delta::encode_byte_arrays(self.0[values].iter().map(SpanId::as_bytes), out);
        Encoding::DELTA_LENGTH_BYTE_ARRAY
    }

    /// No id, which is stored as nothing, comes first in both orders.
    fn bounds(&mut self, values: Range<usize>) -> Option<(&'a SpanId, &'a SpanId)> {
        let number = |id: &SpanId| u64::from_be_bytes(id.0);
        let values = &self.0[values];
        let first = values.first()?;
        let widen = |(min, max): (&'a SpanId, &'a SpanId), id: &'a SpanId| {
            (if number(id) < number(min) { id } else { min }, if number(id) > number(max) { id } else { max })
        };
        Some(values.iter().fold((first, first), widen))
    }

    fn widen(&self, a: (&'a SpanId, &'a SpanId), b: (&'a SpanId, &'a SpanId)) -> (&'a SpanId, &'a SpanId) {
        (a.0.min(b.0), a.1.max(b.1))
    }

    fn index_bytes(&self, (min, max): (&'a SpanId, &'a SpanId)) -> (Vec<u8>, Vec<u8>) {
        (min.as_bytes().to_vec(), max.as_bytes().to_vec())
    }

    fn statistics(&self, bounds: Option<(&'a SpanId, &'a SpanId)>, nulls: u64) -> Statistics {
        byte_array_statistics(bounds.map(|(min, max)| (min.as_bytes(), max.as_bytes())), nulls)
    }
}

/// Strings as codes of a dictionary.
///
/// The dictionary holds as many of the first strings as fit its limit. A page with any other string is stored PLAIN; since codes count first
/// appearances, these are the later pages.
pub(super) struct CodedStrings<'a> {
    codes: Vec<u32>,
    /// All distinct strings by code.
    strings: Vec<&'a [u8]>,
    /// The first so many strings are in the dictionary page.
    in_dictionary: usize,
    /// Number of the run in which [`Self::bounds`] last met a code.
    seen_in_run: Vec<u32>,
    run: u32,
}

impl<'a> CodedStrings<'a> {
    pub(super) fn new(codes: Vec<u32>, strings: Vec<&'a [u8]>, dictionary_limit_bytes: usize) -> Self {
        let mut size_bytes = 0;
        let fits = |string: &&[u8]| {
            size_bytes += string.len() + 4;
            size_bytes <= dictionary_limit_bytes
        };
        let in_dictionary = strings.iter().copied().take_while(fits).count();
        let seen_in_run = vec![0; strings.len()];
        Self { codes, strings, in_dictionary, seen_in_run, run: 0 }
    }
}

impl<'a> ColumnValues for CodedStrings<'a> {
    type Bound = &'a [u8];

    fn len(&self) -> usize {
        self.codes.len()
    }

    fn size_bytes(&self, values: Range<usize>) -> usize {
        let codes = &self.codes[values];
        if self.in_dictionary == self.strings.len() || codes.iter().all(|&code| (code as usize) < self.in_dictionary) {
            return codes.len() * super::rle::bit_width(self.in_dictionary as u32) as usize / 8;
        }
        codes.iter().map(|&code| self.strings[code as usize].len() + 4).sum()
    }

    fn encode(&mut self, values: Range<usize>, out: &mut Vec<u8>) -> Encoding {
        let codes = &self.codes[values];
        let max = codes.iter().copied().max();
        match max {
            Some(max) if (max as usize) < self.in_dictionary => {
                put_codes(codes, max, out);
                Encoding::RLE_DICTIONARY
            }
            _ => {
                put_plain_byte_arrays(codes.iter().map(|&code| self.strings[code as usize]), out);
                Encoding::PLAIN
            }
        }
    }

    /// Compares each distinct string once.
    fn bounds(&mut self, values: Range<usize>) -> Option<(&'a [u8], &'a [u8])> {
        self.run += 1;
        let (run, seen, strings) = (self.run, &mut self.seen_in_run, &self.strings);
        let is_new = |code: &&u32| std::mem::replace(&mut seen[**code as usize], run) != run;
        bounds_of(self.codes[values].iter().filter(is_new).map(|&code| strings[code as usize]))
    }

    fn widen(&self, a: (&'a [u8], &'a [u8]), b: (&'a [u8], &'a [u8])) -> (&'a [u8], &'a [u8]) {
        (a.0.min(b.0), a.1.max(b.1))
    }

    fn index_bytes(&self, (min, max): (&'a [u8], &'a [u8])) -> (Vec<u8>, Vec<u8>) {
        (lower_bound(min, PAGE_BOUND_BYTES), upper_bound(max, PAGE_BOUND_BYTES))
    }

    fn statistics(&self, bounds: Option<(&'a [u8], &'a [u8])>, nulls: u64) -> Statistics {
        byte_array_statistics(bounds, nulls)
    }

    fn dictionary(&self) -> Option<(usize, Vec<u8>)> {
        let strings = &self.strings[..self.in_dictionary];
        let mut body = Vec::new();
        put_plain_byte_arrays(strings.iter().copied(), &mut body);
        (!strings.is_empty()).then_some((strings.len(), body))
    }
}

fn bounds_of<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<(&'a [u8], &'a [u8])> {
    let first = values.next()?;
    Some(values.fold((first, first), |(min, max), value| (min.min(value), max.max(value))))
}

/// Returns at most `limit` bytes that are ≤ `min`.
fn lower_bound(min: &[u8], limit: usize) -> Vec<u8> {
    min[..min.len().min(limit)].to_vec()
}

/// Returns about `limit` bytes that are ≥ `max`: cut, then incremented. Only a prefix of 0xff bytes makes it longer.
fn upper_bound(max: &[u8], limit: usize) -> Vec<u8> {
    if max.len() <= limit {
        return max.to_vec();
    }
    let mut bound = max[..limit].to_vec();
    while let Some(last) = bound.pop() {
        if last < u8::MAX {
            bound.push(last + 1);
            return bound;
        }
    }
    max.to_vec()
}

fn byte_array_statistics(bounds: Option<(&[u8], &[u8])>, nulls: u64) -> Statistics {
    let (min, max) = bounds.unzip();
    let is_exact = |value: Option<&[u8]>| value.is_some_and(|value| value.len() <= CHUNK_BOUND_BYTES);
    let stored_min = min.map(|min| ByteArray::from(lower_bound(min, CHUNK_BOUND_BYTES)));
    let stored_max = max.map(|max| ByteArray::from(upper_bound(max, CHUNK_BOUND_BYTES)));
    let statistics = ValueStatistics::new(stored_min, stored_max, None, Some(nulls), false);
    statistics.with_min_is_exact(is_exact(min)).with_max_is_exact(is_exact(max)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_bounds_still_bound() {
        assert_eq!(lower_bound(b"abcdef", 3), b"abc");
        assert_eq!(upper_bound(b"abcdef", 3), b"abd");
        assert_eq!(upper_bound(b"a\xff\xffx", 3), b"b");
        assert_eq!(upper_bound(b"\xff\xff\xffx", 3), b"\xff\xff\xffx");
        assert_eq!(upper_bound(b"abc", 3), b"abc");
    }

    #[test]
    fn nan_is_no_bound_and_zero_has_both_signs() {
        assert_eq!(Doubles(vec![f64::NAN]).bounds(0..1), None);
        let (min, max) = Doubles(vec![0.0, f64::NAN, -0.0]).bounds(0..3).unwrap();
        assert!(min.is_sign_negative() && max.is_sign_positive());
    }

    #[test]
    fn pages_beyond_the_dictionary_are_plain() {
        let strings: Vec<&[u8]> = vec![b"aaaa", b"bbbb", b"cccc"];
        let mut coded = CodedStrings::new(vec![0, 1, 1, 2], strings, 16);
        assert_eq!(coded.dictionary().unwrap().0, 2);
        let mut page = Vec::new();
        assert_eq!(coded.encode(0..3, &mut page), Encoding::RLE_DICTIONARY);
        page.clear();
        assert_eq!(coded.encode(2..4, &mut page), Encoding::PLAIN);
        assert_eq!(page, b"\x04\0\0\0bbbb\x04\0\0\0cccc");
        assert_eq!(coded.bounds(0..4), Some((b"aaaa".as_slice(), b"cccc".as_slice())));
        assert_eq!(coded.bounds(1..3), Some((b"bbbb".as_slice(), b"bbbb".as_slice())));
    }
}
