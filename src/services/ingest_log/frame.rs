//! The form of one record in a segment file.
//!
//! All integers are little endian.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | `length`: bytes behind the checksum |
//! | 4 | 4 | CRC-32 of the bytes behind it, started from the log's seed |
//! | 8 | 8 | record offset |
//! | 16 | 8 | timestamp, ms since the Unix epoch |
//! | 24 | 2 | header count, then per header: u16 key length, key, u32 value length, value |
//! | … | 2 | key length, then the key |
//! | … | … | value, up to the end |
//!
//! The seed is random per log. Values come from clients: without the seed nobody can send a value that contains a valid frame, which
//! the search for the next frame behind a damaged place would otherwise take for a record of any tenant.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{ConsumedRecord, LogError, Offset, Record, RecordHeader};

/// Longest frame behind its checksum. Twice the largest record of a Kafka producer, so that anything a producer sends fits.
pub(super) const MAX_FRAME_BODY_BYTES: usize = 32 << 20;

/// Bytes of `length` and checksum.
const PREFIX_BYTES: usize = 8;

/// Body without headers, key and value: offset, timestamp, header count, key length.
const MIN_BODY_BYTES: usize = 20;

/// The shortest frame.
pub(super) const MIN_FRAME_BYTES: usize = 28;

/// What stands at a place of a segment file.
#[derive(Debug, PartialEq)]
pub(super) enum Decoded {
    /// A valid frame of this length.
    Frame { frame_bytes: usize, record: ConsumedRecord },
    /// The bytes end too early to tell; at least this many are needed.
    Incomplete { frame_bytes: usize },
    /// Not a frame.
    Invalid,
}

/// Returns the length of the frame that [`encode`] would write for `record`.
///
/// # Errors
/// [`LogError::RecordTooLarge`] when a length does not fit its field or the frame exceeds [`MAX_FRAME_BODY_BYTES`].
pub(super) fn frame_bytes(record: &Record) -> Result<usize, LogError> {
    let headers = record.headers.iter().map(|h| h.key.len().saturating_add(h.value.len()).saturating_add(6));
    let values = record.value.iter().map(Bytes::len);
    let body = headers.chain(values).fold(MIN_BODY_BYTES.saturating_add(record.key.len()), usize::saturating_add);
    let too_large = |bytes, limit| Err(LogError::RecordTooLarge { bytes, limit });
    let u16_limit = usize::from(u16::MAX);
    if body > MAX_FRAME_BODY_BYTES {
        return too_large(body, MAX_FRAME_BODY_BYTES);
    }
    if record.key.len() > u16_limit {
        return too_large(record.key.len(), u16_limit);
    }
    if record.headers.len() > u16_limit {
        return too_large(record.headers.len(), u16_limit);
    }
    if let Some(header) = record.headers.iter().find(|h| h.key.len() > u16_limit) {
        return too_large(header.key.len(), u16_limit);
    }
    Ok(body.saturating_add(PREFIX_BYTES))
}

/// Appends the frame of `record` to `out`. The record must have passed [`frame_bytes`].
pub(super) fn encode(out: &mut BytesMut, seed: u32, offset: Offset, record: &Record) {
    let prefix_at = out.len();
    out.put_u64_le(0); // room for length and checksum
    let body_at = out.len();
    out.put_u64_le(offset.0);
    out.put_u64_le(record.timestamp_unix_ms);
    out.put_u16_le(fits(record.headers.len()));
    for header in &record.headers {
        out.put_u16_le(fits(header.key.len()));
        out.put_slice(&header.key);
        out.put_u32_le(fits(header.value.len()));
        out.put_slice(&header.value);
    }
    out.put_u16_le(fits(record.key.len()));
    out.put_slice(&record.key);
    for slice in &record.value {
        out.put_slice(slice);
    }
    let (_, body) = out.split_at(body_at);
    let length: u32 = fits(body.len());
    let checksum = crc(seed, body);
    let (_, mut prefix) = out.split_at_mut(prefix_at);
    prefix.put_u32_le(length);
    prefix.put_u32_le(checksum);
}

/// Reads the frame at the start of `bytes`. The record's key and value are slices of `bytes`.
pub(super) fn decode(bytes: &Bytes, seed: u32) -> Decoded {
    let Some(frame_bytes) = peek_frame_bytes(bytes) else {
        return if bytes.len() < 4 { Decoded::Incomplete { frame_bytes: MIN_FRAME_BYTES } } else { Decoded::Invalid };
    };
    if bytes.len() < frame_bytes {
        return Decoded::Incomplete { frame_bytes };
    }
    let mut frame = bytes.slice(..frame_bytes);
    frame.advance(4);
    let checksum = frame.get_u32_le();
    if crc(seed, &frame) != checksum {
        return Decoded::Invalid;
    }
    match decode_body(frame) {
        Some(record) => Decoded::Frame { frame_bytes, record },
        None => Decoded::Invalid,
    }
}

/// Returns the record of a frame that this process has just encoded; its checksum is not computed again.
pub(super) fn decode_own(mut frame: Bytes) -> Option<ConsumedRecord> {
    frame.try_get_u64_le().ok()?;
    decode_body(frame)
}

/// Returns the length of the frame at the start of `bytes` by its length field; `None` if that is missing or impossible.
pub(super) fn peek_frame_bytes(mut bytes: &[u8]) -> Option<usize> {
    let body = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
    (MIN_BODY_BYTES..=MAX_FRAME_BODY_BYTES).contains(&body).then(|| body.saturating_add(PREFIX_BYTES))
}

/// Returns offset and timestamp of the frame at the start of `bytes`, unchecked.
pub(super) fn peek_position(mut bytes: &[u8]) -> Option<(Offset, u64)> {
    bytes.try_get_u64_le().ok()?;
    Some((Offset(bytes.try_get_u64_le().ok()?), bytes.try_get_u64_le().ok()?))
}

fn decode_body(mut body: Bytes) -> Option<ConsumedRecord> {
    let offset = Offset(body.try_get_u64_le().ok()?);
    let timestamp_unix_ms = body.try_get_u64_le().ok()?;
    let header_count = body.try_get_u16_le().ok()?;
    let mut headers = Vec::new();
    for _ in 0..header_count {
        let key_bytes = usize::from(body.try_get_u16_le().ok()?);
        let key = take(&mut body, key_bytes)?;
        let value_bytes = usize::try_from(body.try_get_u32_le().ok()?).ok()?;
        let value = take(&mut body, value_bytes)?;
        headers.push(RecordHeader { key, value });
    }
    let key_bytes = usize::from(body.try_get_u16_le().ok()?);
    let key = take(&mut body, key_bytes)?;
    Some(ConsumedRecord { offset, timestamp_unix_ms, key, headers, value: body })
}

fn take(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// Narrows a length that [`frame_bytes`] has checked.
fn fits<N: TryFrom<usize>>(length: usize) -> N {
    N::try_from(length).ok().expect("lengths are checked by frame_bytes before encoding")
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn arb_bytes(max: usize) -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..max).prop_map(Bytes::from)
    }

    fn arb_record() -> impl Strategy<Value = Record> {
        let header = (arb_bytes(8), arb_bytes(8)).prop_map(|(key, value)| RecordHeader { key, value });
        (arb_bytes(20), vec(header, 0..3), vec(arb_bytes(50), 0..4), any::<u64>())
            .prop_map(|(key, headers, value, timestamp_unix_ms)| Record { key, headers, value, timestamp_unix_ms })
    }

    fn encoded(seed: u32, offset: u64, record: &Record) -> Bytes {
        let mut out = BytesMut::new();
        encode(&mut out, seed, Offset(offset), record);
        out.freeze()
    }

    proptest! {
        #[test]
        fn frames_round_trip(seed: u32, offset: u64, record in arb_record()) {
            let frame = encoded(seed, offset, &record);
            prop_assert_eq!(frame.len(), frame_bytes(&record).unwrap());
            let expected = ConsumedRecord {
                offset: Offset(offset),
                timestamp_unix_ms: record.timestamp_unix_ms,
                key: record.key.clone(),
                headers: record.headers.clone(),
                value: Bytes::from(record.value.concat()),
            };
            prop_assert_eq!(decode(&frame, seed), Decoded::Frame { frame_bytes: frame.len(), record: expected.clone() });
            prop_assert_eq!(peek_position(&frame), Some((Offset(offset), record.timestamp_unix_ms)));
            prop_assert_eq!(decode_own(frame), Some(expected));
        }

        #[test]
        fn a_cut_or_flipped_frame_is_never_valid(record in arb_record(), cut: prop::sample::Index, bit: prop::sample::Index) {
            let frame = encoded(7, 42, &record);
            let cut = decode(&frame.slice(..cut.index(frame.len())), 7);
            prop_assert!(matches!(cut, Decoded::Incomplete { .. }), "{cut:?}");
            let bit = bit.index(frame.len() * 8);
            let mut flipped = BytesMut::from(&frame[..]);
            flipped[bit / 8] ^= 1 << (bit % 8);
            let flipped = decode(&flipped.freeze(), 7);
            prop_assert!(!matches!(flipped, Decoded::Frame { .. }), "{flipped:?}");
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes in arb_bytes(200), seed: u32) {
            let _ = decode(&bytes, seed);
            let _ = decode_own(bytes.clone());
            let _ = decode_body(bytes);
        }
    }

    #[test]
    fn the_layout_is_as_documented() {
        let record = Record {
            key: Bytes::from_static(b"t"),
            headers: vec![RecordHeader { key: Bytes::from_static(b"v"), value: Bytes::from_static(b"1") }],
            value: vec![Bytes::from_static(b"ab"), Bytes::from_static(b"c")],
            timestamp_unix_ms: 3,
        };
        let frame = encoded(0, 2, &record);
        let body = b"\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x01\0\x01\0v\x01\0\0\x001\x01\0tabc";
        assert_eq!(frame[..4], (body.len() as u32).to_le_bytes());
        assert_eq!(frame[4..8], crc32fast::hash(body).to_le_bytes());
        assert_eq!(&frame[8..], body);
    }

    #[test]
    fn a_frame_of_another_log_is_invalid() {
        let frame = encoded(1, 0, &Record::new(Bytes::new(), Bytes::new(), 0));
        assert_eq!(decode(&frame, 2), Decoded::Invalid);
        assert_eq!(decode(&Bytes::from_static(&[0; 64]), 0), Decoded::Invalid, "zeros are not a frame");
    }

    #[test]
    fn oversized_parts_are_refused() {
        let record = Record::new(Bytes::from(vec![0; 70_000]), Bytes::new(), 0);
        assert!(matches!(frame_bytes(&record), Err(LogError::RecordTooLarge { bytes: 70_000, limit: 65_535 })));
        let record = Record::new(Bytes::new(), Bytes::from(vec![0; MAX_FRAME_BODY_BYTES]), 0);
        assert!(matches!(frame_bytes(&record), Err(LogError::RecordTooLarge { .. })));
    }
}
