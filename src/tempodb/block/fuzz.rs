//! Column chunks as fuzzing sees them: a few bytes that choose the shape, then the pages.

use bytes::Bytes;

use super::decode::chunk::{self, Pages, Scratch};
use super::decode::codec::Codec;
use super::decode::levels::Levels;
use super::decode::page::LeafShape;
use super::decode::sink::{Bools, Doubles, Ids, IntWidth, Ints, Sink};
use super::decode::strings::StrColumn;
use super::selection::RowSelection;
use crate::model::ids::SpanId;
use crate::model::strings::StringPool;

/// Entries that the footer would allow, so that a case stays small.
const MAX_ENTRIES: usize = 1 << 16;

/// The first four bytes are codec, levels (three bits each), type of the values, and rows that are wanted (0: all).
pub(in crate::tempodb) fn decode(bytes: &[u8]) {
    let Some((&[codec, levels, kind, rows], pages)) = bytes.split_first_chunk::<4>() else { return };
    let codec = match codec % 4 {
        0 => Codec::Uncompressed,
        1 => Codec::Snappy,
        2 => Codec::Gzip,
        _ => Codec::Zstd,
    };
    let (max_repetition, max_definition) = (levels & 7, (levels >> 3) & 7);
    let shape = LeafShape { max_repetition, max_definition, codec, verify: false, max_entries: MAX_ENTRIES };
    let rows = (rows > 0).then(|| RowSelection::from_range(usize::from(rows / 2)..usize::from(rows)));
    let pages = [Pages { first_row: None, is_wanted_whole: false, bytes: Bytes::copy_from_slice(pages) }];
    match kind % 6 {
        0 => into(&shape, &pages, rows.as_ref(), &mut Ints::<u64>::new(IntWidth::Int64)),
        1 => into(&shape, &pages, rows.as_ref(), &mut Ints::<i32>::new(IntWidth::Int32)),
        2 => into(&shape, &pages, rows.as_ref(), &mut Ids::new(SpanId::from_bytes)),
        3 => into(&shape, &pages, rows.as_ref(), &mut Doubles::default()),
        4 => into(&shape, &pages, rows.as_ref(), &mut Bools::default()),
        _ => {
            let mut strings = StrColumn::with_dictionary(None);
            into(&shape, &pages, rows.as_ref(), &mut strings);
            let _broken = strings.into_ids(&mut StringPool::default());
        }
    }
}

fn into(shape: &LeafShape, pages: &[Pages], rows: Option<&RowSelection>, sink: &mut impl Sink) {
    let (mut levels, mut scratch) = (Levels::default(), Scratch::default());
    if chunk::decode(shape, pages, rows, Some(&mut levels), sink, &mut scratch).is_err() {
        return;
    }
    assert!(sink.len() <= MAX_ENTRIES && levels.len() <= MAX_ENTRIES, "more entries than the footer allows");
    if levels.starts_at_a_row() {
        for level in 0..shape.max_repetition {
            let _broken = levels.bounds(level);
        }
    }
}
