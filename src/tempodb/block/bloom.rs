//! The trace-id bloom filter of a block: objects `bloom-0` … `bloom-<n-1>` (block-format §6).
//!
//! ```text
//! shard object, all integers big-endian
//!  0  m        u64   bits
//!  8  k        u64   hash functions
//! 16  m        u64   again: length of the bit set
//! 24  words    ceil(m / 64) × u64; bit b is bit b % 64 (from the least significant) of word b / 64
//! ```
//!
//! The bytes equal those the compatible system writes for the same ids and parameters.

use crate::model::ids::TraceId;

/// Shards of a block whose meta says 0 (written by old versions).
const LEGACY_SHARDS: u32 = 10;
const MAX_SHARDS: usize = 1000;
const HEADER_BYTES: usize = 24;

/// `bloom_filter_*` of the block configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BloomParams {
    /// In (0, 1).
    pub false_positive_rate: f64,
    /// Size of one shard's bit set.
    pub shard_size_bytes: usize,
}

impl Default for BloomParams {
    fn default() -> Self {
        Self { false_positive_rate: 0.01, shard_size_bytes: 102_400 }
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BloomError {
    #[error("bloom shard of {0} bytes is shorter than its header")]
    Truncated(usize),
    #[error("bloom shard declares {bits} bits and {words_bytes} bytes of words follow")]
    LengthMismatch { bits: u64, words_bytes: usize },
    #[error("bloom shard declares {0} hash functions")]
    BadHashCount(u64),
}

/// All shards of one block, under construction.
#[derive(Debug, Clone)]
pub struct BloomBuilder {
    shards: Vec<BloomShard>,
}

impl BloomBuilder {
    /// Sizes the filter for `estimated_traces` ids.
    pub fn new(params: BloomParams, estimated_traces: usize) -> Self {
        let ln2 = std::f64::consts::LN_2;
        let n = estimated_traces.max(1) as f64;
        let estimated_bits = (-n * params.false_positive_rate.ln() / (ln2 * ln2)).ceil();
        let hashes = (ln2 * estimated_bits / n).ceil() as u64;
        let shard_bits = params.shard_size_bytes.max(1) as u64 * 8;
        let shards = ((estimated_bits / shard_bits as f64).ceil() as usize).clamp(1, MAX_SHARDS);
        Self { shards: vec![BloomShard::new(shard_bits, hashes); shards] }
    }

    pub fn insert(&mut self, id: TraceId) {
        let shard = shard_of(id, self.shards.len() as u32);
        self.shards[shard as usize].insert(id);
    }

    pub fn shard_count(&self) -> u32 {
        self.shards.len() as u32
    }

    /// Returns the objects `bloom-0`, `bloom-1`, … in order.
    pub fn shards(&self) -> &[BloomShard] {
        &self.shards
    }
}

/// Returns the shard that answers for `id`; `shard_count` is that of the meta, 0 meaning the legacy count.
pub fn shard_of(id: TraceId, shard_count: u32) -> u32 {
    fnv1_32(&id.0) % if shard_count == 0 { LEGACY_SHARDS } else { shard_count }
}

/// Returns the number of bloom objects of a block whose meta says `shard_count`.
pub fn effective_shards(shard_count: u32) -> u32 {
    if shard_count == 0 { LEGACY_SHARDS } else { shard_count }
}

/// One bloom filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BloomShard {
    bits: u64,
    hashes: u64,
    words: Vec<u64>,
}

impl BloomShard {
    fn new(bits: u64, hashes: u64) -> Self {
        Self { bits, hashes, words: vec![0; bits.div_ceil(64) as usize] }
    }

    fn insert(&mut self, id: TraceId) {
        for bit in bit_positions(id, self.hashes, self.bits) {
            self.words[(bit / 64) as usize] |= 1 << (bit % 64);
        }
    }

    /// Whether `id` may be in the block; `false` is certain.
    pub fn may_contain(&self, id: TraceId) -> bool {
        bit_positions(id, self.hashes, self.bits).all(|bit| self.words[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
    }

    /// The same filter with nothing in it.
    #[cfg(test)]
    pub(super) fn emptied(&self) -> Self {
        Self::new(self.bits, self.hashes)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.words.len() * 8);
        for number in [self.bits, self.hashes, self.bits].iter().chain(&self.words) {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    /// Reads a shard object; sizes come from the object, never from the configuration.
    pub fn decode(bytes: &[u8]) -> Result<Self, BloomError> {
        /// More hash functions than any false-positive rate above 10⁻³⁸ needs; keeps a broken object from costing time.
        const MAX_HASHES: u64 = 128;
        let (numbers, rest) = bytes.as_chunks::<8>();
        let [bits, hashes, length, words @ ..] = numbers else {
            return Err(BloomError::Truncated(bytes.len()));
        };
        let (bits, hashes, length) = (u64::from_be_bytes(*bits), u64::from_be_bytes(*hashes), u64::from_be_bytes(*length));
        if bits == 0 || length != bits || !rest.is_empty() || words.len() as u64 != bits.div_ceil(64) {
            return Err(BloomError::LengthMismatch { bits: length, words_bytes: words.len() * 8 + rest.len() });
        }
        if hashes == 0 || hashes > MAX_HASHES {
            return Err(BloomError::BadHashCount(hashes));
        }
        Ok(Self { bits, hashes, words: words.iter().map(|word| u64::from_be_bytes(*word)).collect() })
    }
}

fn bit_positions(id: TraceId, hashes: u64, bits: u64) -> impl Iterator<Item = u64> {
    let h = base_hashes(id);
    (0..hashes).map(move |i| {
        let step = h[2 + (((i + i % 2) % 4) / 2) as usize];
        h[(i % 2) as usize].wrapping_add(i.wrapping_mul(step)) % bits
    })
}

/// `murmur(id)` and `murmur(id || 0x01)`, both halves each.
fn base_hashes(id: TraceId) -> [u64; 4] {
    let mut extended = [1; 17];
    extended[..16].copy_from_slice(&id.0);
    let (h0, h1) = murmur3_x64_128(&id.0);
    let (h2, h3) = murmur3_x64_128(&extended);
    [h0, h1, h2, h3]
}

/// FNV-1 (multiply, then xor), 32 bits.
pub fn fnv1_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(2_166_136_261, |hash: u32, &byte| hash.wrapping_mul(16_777_619) ^ u32::from(byte))
}

/// MurmurHash3 x64-128 with seed 0.
fn murmur3_x64_128(bytes: &[u8]) -> (u64, u64) {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let mix1 = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let mix2 = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let (mut h1, mut h2) = (0u64, 0u64);
    let (blocks, tail) = bytes.as_chunks::<16>();
    for block in blocks {
        let [k1, k2] = halves(block);
        h1 = (h1 ^ mix1(k1)).rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 = (h2 ^ mix2(k2)).rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let mut last = [0; 16];
    last[..tail.len()].copy_from_slice(tail);
    let [k1, k2] = halves(&last);
    h2 ^= mix2(k2);
    h1 ^= mix1(k1);
    h1 ^= bytes.len() as u64;
    h2 ^= bytes.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    h1 = finish(h1);
    h2 = finish(h2);
    h1 = h1.wrapping_add(h2);
    (h1, h2.wrapping_add(h1))
}

fn halves(block: &[u8; 16]) -> [u64; 2] {
    let (low, high) = block.split_at(8);
    [low, high].map(|half| u64::from_le_bytes(half.try_into().expect("a half has 8 bytes")))
}

fn finish(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ k >> 33
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IDS: [&str; 3] = ["00000000000000000000000000000001", "0123456789abcdef0123456789abcdef", "ffeeddccbbaa99887766554433221100"];

    fn ids() -> [TraceId; 3] {
        IDS.map(|id| TraceId::from_hex(id).unwrap())
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
    }

    fn build(params: BloomParams, estimate: usize) -> BloomBuilder {
        let mut bloom = BloomBuilder::new(params, estimate);
        ids().into_iter().for_each(|id| bloom.insert(id));
        bloom
    }

    #[test]
    fn hashes_equal_the_worked_examples() {
        assert_eq!(ids().map(|id| fnv1_32(&id.0)), [0x6969_1904, 0xfce9_c525, 0xc8ac_e495]);
        assert_eq!(
            ids().map(base_hashes),
            [
                [0x23ef_f263_57c4_8224, 0x0189_7af0_aa0c_a051, 0x640e_b8eb_aa79_f30c, 0xea7a_7a80_f5fe_bcaf],
                [0x629d_e9d5_c41d_bdd4, 0xdc99_6749_9962_e4ab, 0x3cf4_fbf2_e12c_7c32, 0xe4ed_c091_4611_93e7],
                [0xab57_cf9a_8066_8914, 0xf027_d13d_7ee1_9013, 0x800b_4ffc_5862_2217, 0xe09b_2ae1_ea0a_f535],
            ]
        );
    }

    #[test]
    fn example_a_one_shard() {
        let bloom = build(BloomParams { false_positive_rate: 0.01, shard_size_bytes: 20 }, 3);
        let expected = hex("00000000000000a0 0000000000000007 00000000000000a0 4014010650014010 1114000140100000 0000000010200000");
        assert_eq!(bloom.shards().iter().map(BloomShard::encode).collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn example_b_two_shards() {
        let bloom = build(BloomParams { false_positive_rate: 0.01, shard_size_bytes: 16 }, 20);
        let expected = [
            hex("0000000000000080 0000000000000007 0000000000000080 5000001000000005 0020000000100000"),
            hex("0000000000000080 0000000000000007 0000000000000080 4000400410140000 4001000001140102"),
        ];
        assert_eq!(bloom.shards().iter().map(BloomShard::encode).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn shard_counts_of_the_default_size() {
        let shards = |traces| BloomBuilder::new(BloomParams::default(), traces).shard_count();
        assert_eq!([0, 85_000, 100_000, 1_000_000, 10_000_000].map(shards), [1, 1, 2, 12, 118]);
    }

    /// The ids of a real block give its bloom objects, byte for byte; m, k and the shard count are those of the objects.
    #[test]
    fn shards_of_real_blocks_are_reproduced() {
        let mut blocks = 0;
        // Blocks of vParquet3 have other names, but hold the same traces as those of vParquet4.
        for (folder, expected, shard_size_bytes) in [
            ("vParquet3", "vParquet4", 512),
            ("vParquet4", "vParquet4", 2048),
            ("vParquet4-compacted", "vParquet4-compacted", 102_400),
            ("vParquet5", "vParquet5", 32),
            ("vParquet5-compacted", "vParquet5-compacted", 32),
        ] {
            let text = std::fs::read(format!("testdata/blocks/expected/{expected}.json")).unwrap();
            let expected: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let params = BloomParams { false_positive_rate: 0.01, shard_size_bytes };
            for (tenant, content) in expected.as_object().unwrap() {
                for block in std::fs::read_dir(format!("testdata/blocks/{folder}/{tenant}")).unwrap() {
                    let block = block.unwrap().path();
                    let Ok(meta) = std::fs::read(block.join("meta.json")) else { continue };
                    let meta = super::super::meta::BlockMeta::from_json(&meta).unwrap();
                    let content =
                        content.as_object().unwrap().values().find(|content| content["totalObjects"] == meta.total_objects).unwrap();
                    let ids: Vec<_> = content["traces"].as_object().unwrap().keys().map(|id| TraceId::from_hex(id).unwrap()).collect();
                    // The estimate of the writer is unknown (a trace of two WAL files counts twice); any that gives the same shards will do.
                    let estimate = (ids.len()..).find(|&n| BloomBuilder::new(params, n).shard_count() == meta.bloom_shards).unwrap();
                    let mut bloom = BloomBuilder::new(params, estimate);
                    ids.iter().for_each(|id| bloom.insert(*id));
                    for (number, shard) in bloom.shards().iter().enumerate() {
                        assert_eq!(shard.encode(), std::fs::read(block.join(format!("bloom-{number}"))).unwrap(), "{block:?} {number}");
                    }
                    blocks += 1;
                }
            }
        }
        assert_eq!(blocks, 16);
    }

    #[test]
    fn broken_objects_are_refused() {
        assert_eq!(BloomShard::decode(&[0; 23]), Err(BloomError::Truncated(23)));
        let mut bytes = BloomShard::new(128, 7).encode();
        bytes.pop();
        assert_eq!(BloomShard::decode(&bytes), Err(BloomError::LengthMismatch { bits: 128, words_bytes: 15 }));
        assert_eq!(BloomShard::decode(&BloomShard::new(64, 0).encode()), Err(BloomError::BadHashCount(0)));
    }

    proptest! {
        #[test]
        fn inserted_ids_are_found_and_shards_round_trip(ids in prop::collection::vec(any::<[u8; 16]>(), 0..50)) {
            let mut bloom = BloomBuilder::new(BloomParams { false_positive_rate: 0.05, shard_size_bytes: 9 }, ids.len());
            ids.iter().for_each(|id| bloom.insert(TraceId(*id)));
            let shards: Vec<_> = bloom.shards().iter().map(|shard| BloomShard::decode(&shard.encode()).unwrap()).collect();
            prop_assert_eq!(&shards, bloom.shards());
            for id in ids {
                prop_assert!(shards[shard_of(TraceId(id), bloom.shard_count()) as usize].may_contain(TraceId(id)));
            }
        }

        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(shard) = BloomShard::decode(&bytes) {
                shard.may_contain(TraceId([7; 16]));
            }
        }
    }
}
