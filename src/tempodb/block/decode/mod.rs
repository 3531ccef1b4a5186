//! Parquet pages to plain vectors: everything below the footer and the page indexes.
//!
//! Not here: the footer, column and offset indexes (the `parquet` crate), which columns mean what (`block::assemble`).
//!
//! Invariants
//! * Input is foreign: every length is checked before use, and no byte sequence panics or allocates more than the limits below.
//! * Levels and dictionary codes are decoded in bulk; nothing allocates per value.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub(super) mod chunk;
pub(super) mod codec;
pub(super) mod levels;
pub(super) mod page;
pub(super) mod sink;
pub(super) mod strings;

mod delta;
mod hybrid;
mod plain;
mod thrift;

#[cfg(test)]
mod testing;

/// Level entries of one column chunk. A row group of the default size has some ten millions; run-length coding would let a few bytes claim 2^31.
pub(super) const MAX_CHUNK_ENTRIES: usize = 1 << 27;

/// Decompressed size of one page. Only dictionary pages, which have no limit in the format, come near.
const MAX_PAGE_BYTES: usize = 1 << 29;

/// Pages up to this size may compress without limit (levels of all-equal pages do); see [`MAX_RATIO`].
const FREE_RATIO_BYTES: usize = 1 << 26;

/// Decompressed over compressed size of larger pages.
const MAX_RATIO: usize = 4096;

/// Why bytes of a column chunk cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{0} is cut short")]
    Truncated(&'static str),
    #[error("corrupt {0}")]
    Corrupt(&'static str),
    #[error("page checksum does not match its bytes")]
    Checksum,
    #[error("{0} exceeds its limit")]
    TooLarge(&'static str),
    #[error("{0} is not supported yet")]
    Unsupported(&'static str),
}

type Result<T> = std::result::Result<T, DecodeError>;

/// Splits off the first `len` bytes.
fn take<'a>(bytes: &mut &'a [u8], len: usize, what: &'static str) -> Result<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(len).ok_or(DecodeError::Truncated(what))?;
    *bytes = tail;
    Ok(head)
}

/// Reads a LEB128 number of at most 64 bits.
fn varint(bytes: &mut &[u8], what: &'static str) -> Result<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(DecodeError::Truncated(what))?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(DecodeError::Corrupt(what))
}

fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ (value as i64 & 1).wrapping_neg()
}
