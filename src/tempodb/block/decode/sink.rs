//! Where decoded values go: one growing vector per leaf column.

use std::ops::Range;
use std::slice::from_ref;

use super::levels::keep;
use super::strings::{Dictionary, dictionary_codes};
use super::thrift::Encoding;
use super::{DecodeError, MAX_PAGE_BYTES, Result, delta, plain};

/// A vector of values that pages are appended to.
pub(in crate::tempodb::block) trait Sink {
    fn len(&self) -> usize;

    /// Whether a dictionary page is still to be decoded.
    fn needs_dictionary(&self) -> bool {
        true
    }

    /// Takes the dictionary page of the chunk: `count` PLAIN values.
    fn dictionary(&mut self, page: &[u8], count: usize) -> Result<()>;

    /// Appends `ranges` (ascending, disjoint) of the `count` values of a data page. After an error the content is unspecified.
    fn decode(&mut self, encoding: Encoding, values: &[u8], count: usize, ranges: &[Range<usize>]) -> Result<()>;
}

/// Counts values and keeps none: for leaves of which only the levels matter.
#[derive(Default)]
pub(in crate::tempodb::block) struct Nothing {
    count: usize,
}

impl Sink for Nothing {
    fn len(&self) -> usize {
        self.count
    }

    fn dictionary(&mut self, _page: &[u8], _count: usize) -> Result<()> {
        Ok(())
    }

    fn decode(&mut self, _encoding: Encoding, _values: &[u8], _count: usize, ranges: &[Range<usize>]) -> Result<()> {
        self.count += ranges.iter().map(Range::len).sum::<usize>();
        Ok(())
    }
}

/// Physical width of an integer column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tempodb::block) enum IntWidth {
    Int32,
    Int64,
}

/// Integers, converted to what the table wants; a narrower type takes the low bits.
pub(in crate::tempodb::block) struct Ints<T> {
    pub(in crate::tempodb::block) out: Vec<T>,
    width: IntWidth,
    dictionary: Vec<T>,
    codes: Vec<u32>,
}

/// Integer types of table columns.
pub(in crate::tempodb::block) trait Integer: Copy {
    fn truncate(value: i64) -> Self;
}

macro_rules! integers {
    ($($t:ty)*) => { $(impl Integer for $t { fn truncate(value: i64) -> Self { value as $t } })* };
}
integers!(i32 u32 i64 u64);

impl<T: Integer> Ints<T> {
    pub(in crate::tempodb::block) fn new(width: IntWidth) -> Self {
        Self { out: Vec::new(), width, dictionary: Vec::new(), codes: Vec::new() }
    }

    fn plain(width: IntWidth, values: &[u8], ranges: &[Range<usize>], out: &mut Vec<T>) -> Result<()> {
        match width {
            IntWidth::Int32 => plain::fixed(values, ranges, out, |bytes| T::truncate(i64::from(i32::from_le_bytes(bytes)))),
            IntWidth::Int64 => plain::fixed(values, ranges, out, |bytes| T::truncate(i64::from_le_bytes(bytes))),
        }
    }
}

impl<T: Integer> Sink for Ints<T> {
    fn len(&self) -> usize {
        self.out.len()
    }

    fn dictionary(&mut self, page: &[u8], count: usize) -> Result<()> {
        self.dictionary.clear();
        Self::plain(self.width, page, from_ref(&(0..count)), &mut self.dictionary)
    }

    fn decode(&mut self, encoding: Encoding, mut values: &[u8], count: usize, ranges: &[Range<usize>]) -> Result<()> {
        match encoding {
            Encoding::Plain => Self::plain(self.width, values, ranges, &mut self.out),
            Encoding::DeltaBinaryPacked => {
                self.out.reserve(ranges.iter().map(Range::len).sum());
                let (out, width) = (&mut self.out, self.width);
                delta::integers(&mut values, count, ranges, |values| match width {
                    IntWidth::Int32 => out.extend(values.iter().map(|value| T::truncate(i64::from(*value as i32)))),
                    IntWidth::Int64 => out.extend(values.iter().map(|value| T::truncate(*value))),
                })
            }
            Encoding::Dictionary => lookup(&self.dictionary, &mut self.codes, values, count, ranges, &mut self.out),
            Encoding::Rle | Encoding::DeltaLengthByteArray | Encoding::DeltaByteArray => {
                Err(DecodeError::Corrupt("encoding of an integer column"))
            }
        }
    }
}

#[derive(Default)]
pub(in crate::tempodb::block) struct Doubles {
    pub(in crate::tempodb::block) out: Vec<f64>,
    dictionary: Vec<f64>,
    codes: Vec<u32>,
}

impl Sink for Doubles {
    fn len(&self) -> usize {
        self.out.len()
    }

    fn dictionary(&mut self, page: &[u8], count: usize) -> Result<()> {
        self.dictionary.clear();
        plain::fixed(page, from_ref(&(0..count)), &mut self.dictionary, f64::from_le_bytes)
    }

    fn decode(&mut self, encoding: Encoding, values: &[u8], count: usize, ranges: &[Range<usize>]) -> Result<()> {
        match encoding {
            Encoding::Plain => plain::fixed(values, ranges, &mut self.out, f64::from_le_bytes),
            Encoding::Dictionary => lookup(&self.dictionary, &mut self.codes, values, count, ranges, &mut self.out),
            Encoding::Rle | Encoding::DeltaBinaryPacked | Encoding::DeltaLengthByteArray | Encoding::DeltaByteArray => {
                Err(DecodeError::Corrupt("encoding of a double column"))
            }
        }
    }
}

#[derive(Default)]
pub(in crate::tempodb::block) struct Bools {
    pub(in crate::tempodb::block) out: Vec<bool>,
}

impl Sink for Bools {
    fn len(&self) -> usize {
        self.out.len()
    }

    fn dictionary(&mut self, _page: &[u8], _count: usize) -> Result<()> {
        Err(DecodeError::Corrupt("dictionary of a boolean column"))
    }

    fn decode(&mut self, encoding: Encoding, values: &[u8], count: usize, ranges: &[Range<usize>]) -> Result<()> {
        let start = self.out.len();
        match encoding {
            Encoding::Plain => plain::booleans(values, count, &mut self.out)?,
            Encoding::Rle => plain::rle_booleans(values, count, &mut self.out)?,
            Encoding::Dictionary | Encoding::DeltaBinaryPacked | Encoding::DeltaLengthByteArray | Encoding::DeltaByteArray => {
                return Err(DecodeError::Corrupt("encoding of a boolean column"));
            }
        }
        keep(&mut self.out, start, ranges);
        Ok(())
    }
}

/// Ids of fixed size, made from byte arrays.
pub(in crate::tempodb::block) struct Ids<T> {
    pub(in crate::tempodb::block) out: Vec<T>,
    convert: fn(&[u8]) -> T,
    dictionary: Vec<T>,
    scratch: Vec<u32>,
}

impl<T> Ids<T> {
    pub(in crate::tempodb::block) fn new(convert: fn(&[u8]) -> T) -> Self {
        Self { out: Vec::new(), convert, dictionary: Vec::new(), scratch: Vec::new() }
    }
}

impl<T: Copy> Sink for Ids<T> {
    fn len(&self) -> usize {
        self.out.len()
    }

    fn dictionary(&mut self, page: &[u8], count: usize) -> Result<()> {
        let dictionary = Dictionary::decode(page, count)?;
        self.dictionary = dictionary.iter().map(self.convert).collect();
        Ok(())
    }

    fn decode(&mut self, encoding: Encoding, values: &[u8], count: usize, ranges: &[Range<usize>]) -> Result<()> {
        let (out, convert) = (&mut self.out, self.convert);
        match encoding {
            Encoding::Plain => plain::byte_arrays(values, ranges, |value| out.push(convert(value))),
            Encoding::DeltaLengthByteArray => {
                out.reserve(ranges.iter().map(Range::len).sum());
                delta::delta_length_byte_arrays(values, count, ranges, &mut self.scratch, |value| out.push(convert(value)))
            }
            Encoding::DeltaByteArray => delta::delta_byte_arrays(values, count, ranges, MAX_PAGE_BYTES, |value| out.push(convert(value))),
            Encoding::Dictionary => lookup(&self.dictionary, &mut self.scratch, values, count, ranges, out),
            Encoding::Rle | Encoding::DeltaBinaryPacked => Err(DecodeError::Corrupt("encoding of a byte array column")),
        }
    }
}

fn lookup<T: Copy>(
    dictionary: &[T],
    codes: &mut Vec<u32>,
    values: &[u8],
    count: usize,
    ranges: &[Range<usize>],
    out: &mut Vec<T>,
) -> Result<()> {
    codes.clear();
    dictionary_codes(values, count, ranges, dictionary.len(), codes)?;
    out.reserve(codes.len());
    out.extend(codes.iter().filter_map(|&code| dictionary.get(code as usize).copied()));
    Ok(())
}
