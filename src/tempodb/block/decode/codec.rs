//! Decompression of page bodies, bounded by the size in the page header.

#![deny(clippy::arithmetic_side_effects)]

use std::cell::RefCell;
use std::io::Read;

use zstd::bulk::Decompressor;

use super::{DecodeError, FREE_RATIO_BYTES, MAX_PAGE_BYTES, MAX_RATIO, Result};

/// How the pages of a chunk are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tempodb::block) enum Codec {
    Uncompressed,
    Snappy,
    Gzip,
    Zstd,
    /// A codec of the format that we do not read; the name is for the message.
    Unsupported(&'static str),
}

/// Decompresses `body` to exactly `size` bytes in `out`, whose old content is dropped.
pub(super) fn decompress(codec: Codec, body: &[u8], size: usize, out: &mut Vec<u8>) -> Result<()> {
    check_size(body.len(), size)?;
    out.clear();
    let written = match codec {
        Codec::Uncompressed => {
            out.extend_from_slice(body);
            body.len()
        }
        Codec::Snappy => {
            if snap::raw::decompress_len(body).map_err(|_| DecodeError::Corrupt("snappy page"))? != size {
                return Err(DecodeError::Corrupt("snappy page"));
            }
            out.resize(size, 0);
            snap::raw::Decoder::new().decompress(body, out).map_err(|_| DecodeError::Corrupt("snappy page"))?
        }
        Codec::Gzip => {
            let limit = (size as u64).saturating_add(1);
            flate2::read::MultiGzDecoder::new(body).take(limit).read_to_end(out).map_err(|_| DecodeError::Corrupt("gzip page"))?
        }
        Codec::Zstd => {
            out.reserve_exact(size);
            unzstd(body, out).map_err(|_| DecodeError::Corrupt("zstd page"))?
        }
        Codec::Unsupported(name) => return Err(DecodeError::Unsupported(name)),
    };
    if written == size { Ok(()) } else { Err(DecodeError::Corrupt("page size")) }
}

thread_local! {
    /// Making a decompression context costs as much as unpacking a small page, so each thread keeps one.
    static ZSTD: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Unpacks into the capacity that `out` has.
fn unzstd(body: &[u8], out: &mut Vec<u8>) -> std::io::Result<usize> {
    ZSTD.with_borrow_mut(|kept| {
        let mut decoder = kept.take().map_or_else(Decompressor::new, Ok)?;
        let written = decoder.decompress_to_buffer(body, out);
        *kept = Some(decoder);
        written
    })
}

fn check_size(compressed: usize, size: usize) -> Result<()> {
    let ratio_cap = compressed.saturating_mul(MAX_RATIO).max(FREE_RATIO_BYTES);
    if size > MAX_PAGE_BYTES.min(ratio_cap) { Err(DecodeError::TooLarge("decompressed page")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_gives_back_the_bytes_or_refuses_a_wrong_size() {
        let plain = b"abcabcabcabcabcabc".repeat(50);
        let gzip = {
            use std::io::Write;
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&plain).unwrap();
            encoder.finish().unwrap()
        };
        let cases = [
            (Codec::Uncompressed, plain.clone()),
            (Codec::Snappy, snap::raw::Encoder::new().compress_vec(&plain).unwrap()),
            (Codec::Gzip, gzip),
            (Codec::Zstd, zstd::bulk::compress(&plain, 1).unwrap()),
        ];
        for (codec, body) in cases {
            let mut out = vec![1, 2, 3];
            decompress(codec, &body, plain.len(), &mut out).unwrap();
            assert_eq!(out, plain, "{codec:?}");
            assert!(decompress(codec, &body, plain.len() - 1, &mut out).is_err(), "{codec:?}");
            assert!(decompress(codec, &body, plain.len() + 1, &mut out).is_err(), "{codec:?}");
            assert!(decompress(codec, &body[..body.len() / 2], plain.len(), &mut out).is_err(), "{codec:?}");
        }
    }

    #[test]
    fn sizes_beyond_the_caps_are_refused_before_allocation() {
        let mut out = Vec::new();
        assert_eq!(decompress(Codec::Zstd, &[0; 10], 1 << 30, &mut out), Err(DecodeError::TooLarge("decompressed page")));
        assert_eq!(decompress(Codec::Snappy, &[0; 10], 1 << 28, &mut out), Err(DecodeError::TooLarge("decompressed page")));
    }
}
