//! A compact set of 64-bit hashes that may say "perhaps" wrongly but never "no": a binary fuse filter (Graf and Lemire, 2022).
//!
//! Nine bits an entry, one false "perhaps" in 256, three bytes read a question. Made once from all entries.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

/// A set takes another seed when its entries cannot be placed, which happens in a few of a hundred tries.
const MAX_SEEDS: u64 = 100;
/// Entries of a set: keeps every position within 32 bits.
const MAX_ENTRIES: usize = 1 << 28;
const MAX_SEGMENT_LENGTH_LOG2: u8 = 18;
/// Bytes before the fingerprints.
const HEADER_BYTES: usize = 8 + 1 + 4;

/// The set, over bytes that may be shared with others.
#[derive(Debug, Clone)]
pub struct BinaryFuse<B> {
    layout: Layout,
    fingerprints: B,
}

#[derive(Debug, Clone, Copy)]
struct Layout {
    seed: u64,
    segment_length_log2: u8,
    /// Segments in which a first position may lie; two more follow. 0: the empty set.
    segments: u32,
}

impl Layout {
    fn for_entries(entries: usize) -> Self {
        if entries == 0 {
            return Self { seed: 0, segment_length_log2: 0, segments: 0 };
        }
        let count = entries as f64;
        let log2 = (count.ln() / 3.33_f64.ln() + 2.25).floor().clamp(2.0, f64::from(MAX_SEGMENT_LENGTH_LOG2)) as u8;
        let factor = if entries > 1 { (0.875 + 0.25 * 1e6_f64.ln() / count.ln()).max(1.125) } else { 1.125 };
        let positions = (count * factor).ceil() as u64;
        let segments = positions.div_ceil(1 << log2).saturating_sub(2).max(1);
        Self { seed: 0, segment_length_log2: log2, segments: segments as u32 }
    }

    fn positions(self) -> u64 {
        match self.segments {
            0 => 0,
            segments => u64::from(segments).saturating_add(2) << self.segment_length_log2,
        }
    }

    /// Returns what stands for an entry: three positions and a fingerprint.
    fn place(self, entry: u64) -> ([usize; 3], u8) {
        let hash = mixed(entry.wrapping_add(self.seed));
        let length = 1_u64 << self.segment_length_log2;
        let mask = length.wrapping_sub(1);
        let first_positions = u128::from(self.segments) << self.segment_length_log2;
        let first = (u128::from(hash).wrapping_mul(first_positions) >> 64) as u64;
        let second = first.wrapping_add(length) ^ (hash >> 18 & mask);
        let third = first.wrapping_add(length << 1) ^ (hash & mask);
        ([first as usize, second as usize, third as usize], (hash ^ hash >> 32) as u8)
    }
}

/// The finaliser of MurmurHash3.
fn mixed(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

impl BinaryFuse<Vec<u8>> {
    /// Makes the set of `entries`, which are sorted and freed of duplicates. `None` for more than 2^28 entries.
    pub fn new(entries: &mut Vec<u64>) -> Option<Self> {
        entries.sort_unstable();
        entries.dedup();
        if entries.len() > MAX_ENTRIES {
            return None;
        }
        let layout = Layout::for_entries(entries.len());
        (0..MAX_SEEDS).find_map(|seed| {
            let layout = Layout { seed: mixed(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)), ..layout };
            let fingerprints = fill(layout, &peel(layout, entries)?)?;
            Some(Self { layout, fingerprints })
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES.saturating_add(self.fingerprints.len()));
        out.extend_from_slice(&self.layout.seed.to_le_bytes());
        out.push(self.layout.segment_length_log2);
        out.extend_from_slice(&self.layout.segments.to_le_bytes());
        out.extend_from_slice(&self.fingerprints);
        out
    }
}

/// What is known of a position while entries are taken off: how many it has, and what they and their places in them are, xored.
#[derive(Clone, Copy, Default)]
struct Position {
    entries: u64,
    count: u32,
    places: u8,
}

/// Takes off entries that are alone in some position until none is left. Returns them with that place; `None` when some stay.
fn peel(layout: Layout, entries: &[u64]) -> Option<Vec<(u64, u8)>> {
    let mut positions = vec![Position::default(); usize::try_from(layout.positions()).ok()?];
    for &entry in entries {
        for (place, at) in (0..).zip(layout.place(entry).0) {
            let position = positions.get_mut(at)?;
            position.entries ^= entry;
            position.count = position.count.saturating_add(1);
            position.places ^= place;
        }
    }
    let mut alone: Vec<usize> = (0..).zip(&positions).filter(|(_, position)| position.count == 1).map(|(at, _)| at).collect();
    let mut order = Vec::with_capacity(entries.len());
    while let Some(at) = alone.pop() {
        let Position { entries: entry, count, places: own } = *positions.get(at)?;
        if count != 1 {
            continue;
        }
        order.push((entry, own));
        for (place, at) in (0..).zip(layout.place(entry).0) {
            let position = positions.get_mut(at)?;
            position.entries ^= entry;
            position.count = position.count.saturating_sub(1);
            position.places ^= place;
            if position.count == 1 {
                alone.push(at);
            }
        }
    }
    (order.len() == entries.len()).then_some(order)
}

/// Gives each entry, last taken off first, the byte in its own place that makes its three positions show its fingerprint.
fn fill(layout: Layout, order: &[(u64, u8)]) -> Option<Vec<u8>> {
    let mut bytes = vec![0_u8; usize::try_from(layout.positions()).ok()?];
    for &(entry, own) in order.iter().rev() {
        let (places, fingerprint) = layout.place(entry);
        let own = *places.get(usize::from(own))?;
        let [a, b, c] = places.map(|at| bytes.get(at).copied().unwrap_or_default());
        let byte = bytes.get_mut(own)?;
        *byte ^= fingerprint ^ a ^ b ^ c;
    }
    Some(bytes)
}

impl<B: AsRef<[u8]>> BinaryFuse<B> {
    /// Whether `entry` may be in the set; `false` is certain.
    pub fn contains(&self, entry: u64) -> bool {
        let bytes = self.fingerprints.as_ref();
        if bytes.is_empty() {
            return false;
        }
        let (places, fingerprint) = self.layout.place(entry);
        let shown = places.iter().map(|at| bytes.get(*at).copied().unwrap_or_default()).fold(0, |shown, byte| shown ^ byte);
        shown == fingerprint
    }

    /// Bytes of the set.
    pub fn len_bytes(&self) -> usize {
        self.fingerprints.as_ref().len()
    }
}

impl BinaryFuse<bytes::Bytes> {
    /// Reads an encoded set without copying it; `None` when it is not one.
    pub fn decode(encoded: &bytes::Bytes) -> Option<Self> {
        let (header, _) = encoded.split_first_chunk::<HEADER_BYTES>()?;
        let (seed, rest) = header.split_first_chunk::<8>()?;
        let (&log2, segments) = rest.split_first()?;
        let layout =
            Layout { seed: u64::from_le_bytes(*seed), segment_length_log2: log2, segments: u32::from_le_bytes(segments.try_into().ok()?) };
        let fingerprints = encoded.slice(HEADER_BYTES..);
        let fits = log2 <= MAX_SEGMENT_LENGTH_LOG2 && layout.positions() == fingerprints.len() as u64;
        fits.then_some(Self { layout, fingerprints })
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_missing_and_little_is_wrong() {
        for count in [0_u64, 1, 2, 3, 10, 1_000, 100_000] {
            let mut entries: Vec<u64> = (0..count).map(|entry| mixed(entry ^ 0x5555)).collect();
            let set = BinaryFuse::new(&mut entries).unwrap();
            assert!(entries.iter().all(|entry| set.contains(*entry)), "{count}");
            let wrong = (0..100_000_u64).filter(|entry| set.contains(mixed(entry ^ 0x5555_0000_0000))).count();
            assert!(wrong < 600, "{count}: {wrong}");
            if count == 100_000 {
                assert!(set.len_bytes() < 120_000, "{}", set.len_bytes());
            }
        }
    }

    proptest! {
        #[test]
        fn sets_survive_encoding(mut entries in vec(0..5_000_u64, 0..300)) {
            let set = BinaryFuse::new(&mut entries).unwrap();
            let decoded = BinaryFuse::decode(&set.encode().into()).unwrap();
            prop_assert!(entries.iter().all(|entry| decoded.contains(*entry)));
        }

        #[test]
        fn foreign_bytes_are_refused_or_harmless(bytes in vec(any::<u8>(), 0..200), entry: u64) {
            if let Some(set) = BinaryFuse::decode(&bytes.into()) {
                set.contains(entry);
            }
        }
    }
}
