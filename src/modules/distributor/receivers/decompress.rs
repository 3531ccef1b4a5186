//! Undoes the compression of bodies, within a limit on the output, a limit on the ratio and the memory budget.

use std::io::{self, Read};

use crate::base::byte_budget::{BudgetExhausted, Reservation};
use crate::modules::distributor::error::PushError;

/// Output may be this many times larger than the input, once it exceeds [`RATIO_FREE_BYTES`]. Traces compress by 5 to 100.
const MAX_RATIO: usize = 500;
const RATIO_FREE_BYTES: usize = 1 << 20;
/// Largest zstd window: 8 MiB, what the format recommends every decoder to support.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Bytes decompressed between two checks.
const CHUNK_BYTES: usize = 64 << 10;

/// A compression that receivers take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    /// zlib; a raw deflate stream is recognised, too.
    Deflate,
    Zstd,
    /// The framed form, or for HTTP also one raw block.
    Snappy,
}

impl Encoding {
    /// Reads a header value; `None` for what is not supported.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Self::Identity),
            "gzip" => Some(Self::Gzip),
            "deflate" | "zlib" => Some(Self::Deflate),
            "zstd" => Some(Self::Zstd),
            "snappy" | "x-snappy-framed" => Some(Self::Snappy),
            _ => None,
        }
    }
}

/// Why a body was not decompressed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecompressError {
    #[error("decompressed body exceeds the limit of {limit} bytes")]
    TooLarge { limit: usize },
    #[error("body is compressed more than {MAX_RATIO} times")]
    Ratio,
    #[error("cannot decompress body: {0}")]
    Corrupt(#[from] io::Error),
    #[error(transparent)]
    NoMemory(#[from] BudgetExhausted),
}

impl From<DecompressError> for PushError {
    fn from(error: DecompressError) -> Self {
        match error {
            DecompressError::NoMemory(error) => error.into(),
            error => Self::BadBody(error.to_string()),
        }
    }
}

/// Start of a framed snappy stream.
const SNAPPY_STREAM: &[u8] = b"\xff\x06\x00\x00sNaPpY";

/// Returns the decompressed `input`, at most `limit` bytes, whose memory is added to `memory`.
pub(super) fn decompress(encoding: Encoding, input: &[u8], limit: usize, memory: &mut Reservation) -> Result<Vec<u8>, DecompressError> {
    let bound = Bound { limit, ratio_limit: input.len().saturating_mul(MAX_RATIO).max(RATIO_FREE_BYTES) };
    match encoding {
        Encoding::Identity => {
            memory.grow(input.len() as u64)?;
            Ok(input.to_vec())
        }
        Encoding::Gzip => bound.read(flate2::read::MultiGzDecoder::new(input), memory),
        Encoding::Deflate if is_zlib(input) => bound.read(flate2::read::ZlibDecoder::new(input), memory),
        Encoding::Deflate => bound.read(flate2::read::DeflateDecoder::new(input), memory),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            bound.read(decoder, memory)
        }
        Encoding::Snappy if input.is_empty() || input.starts_with(SNAPPY_STREAM) => {
            bound.read(snap::read::FrameDecoder::new(input), memory)
        }
        Encoding::Snappy => {
            let len = snap::raw::decompress_len(input).map_err(io::Error::from)?;
            bound.check(len)?;
            memory.grow(len as u64)?;
            Ok(snap::raw::Decoder::new().decompress_vec(input).map_err(io::Error::from)?)
        }
    }
}

fn is_zlib(input: &[u8]) -> bool {
    matches!(input, [cmf, flags, ..] if cmf & 0x0f == 8 && (u16::from(*cmf) << 8 | u16::from(*flags)) % 31 == 0)
}

struct Bound {
    limit: usize,
    ratio_limit: usize,
}

impl Bound {
    fn check(&self, len: usize) -> Result<(), DecompressError> {
        if len > self.limit {
            Err(DecompressError::TooLarge { limit: self.limit })
        } else if len > self.ratio_limit {
            Err(DecompressError::Ratio)
        } else {
            Ok(())
        }
    }

    fn read(&self, mut decoder: impl Read, memory: &mut Reservation) -> Result<Vec<u8>, DecompressError> {
        let mut out = Vec::new();
        loop {
            let len = out.len();
            out.resize(len + CHUNK_BYTES, 0);
            let read = decoder.read(&mut out[len..])?;
            out.truncate(len + read);
            if read == 0 {
                return Ok(out);
            }
            self.check(out.len())?;
            memory.grow(read as u64)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::base::byte_budget::ByteBudget;

    const ALL: [Encoding; 4] = [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd, Encoding::Snappy];

    fn compress(encoding: Encoding, data: &[u8]) -> Vec<u8> {
        match encoding {
            Encoding::Identity => data.to_vec(),
            Encoding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Deflate => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Zstd => zstd::encode_all(data, 1).unwrap(),
            Encoding::Snappy => {
                let mut encoder = snap::write::FrameEncoder::new(Vec::new());
                encoder.write_all(data).unwrap();
                encoder.into_inner().unwrap()
            }
        }
    }

    fn undo(encoding: Encoding, input: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
        decompress(encoding, input, limit, &mut ByteBudget::new("test", 64 << 20).try_reserve(0).unwrap())
    }

    #[test]
    fn every_encoding_round_trips_up_to_the_limit() {
        let data: Vec<u8> = (0..200_000u32).flat_map(|number| (number % 1000).to_le_bytes()).collect();
        for encoding in ALL {
            let packed = compress(encoding, &data);
            assert_eq!(undo(encoding, &packed, data.len()).unwrap(), data, "{encoding:?}");
            assert!(matches!(undo(encoding, &packed, data.len() - 1), Err(DecompressError::TooLarge { .. })), "{encoding:?}");
            assert!(undo(encoding, &packed[..packed.len() / 2], data.len()).is_err(), "{encoding:?}");
            let mut memory = ByteBudget::new("test", 100_000).try_reserve(0).unwrap();
            assert!(matches!(decompress(encoding, &packed, data.len(), &mut memory), Err(DecompressError::NoMemory(_))));
        }
        let block = snap::raw::Encoder::new().compress_vec(&data).unwrap();
        assert_eq!(undo(Encoding::Snappy, &block, data.len()).unwrap(), data);
        let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        raw.write_all(&data).unwrap();
        assert_eq!(undo(Encoding::Deflate, &raw.finish().unwrap(), data.len()).unwrap(), data);
    }

    #[test]
    fn bombs_are_refused_by_their_ratio() {
        let bomb = compress(Encoding::Zstd, &vec![0; 16 << 20]);
        assert!(matches!(undo(Encoding::Zstd, &bomb, usize::MAX), Err(DecompressError::Ratio)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decompressed_or_refused(bytes: Vec<u8>) {
            for encoding in ALL {
                let _ = undo(encoding, &bytes, 1 << 16);
            }
        }
    }
}
