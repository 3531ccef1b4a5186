//! Merging runs of a day: which, and how without holding them in memory.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::FixedState;

use super::TraceFilterError;
use super::lookup::Run;
use super::manifest::RunInfo;
use super::run::{RunHeader, widths_for};
use super::shard::{CorruptShard, Entry, HASH_BITS};
use super::write::{RunWriter, pack_shards, times_of};
use crate::base::cpu_pool::CpuPool;
use crate::model::ids::TenantId;
use crate::tempodb::backend::Backend;
use crate::tempodb::block::meta::{BlockId, BlockMeta};
use crate::tempodb::keys;

/// A run stays alone while it is at least this many times as large as all smaller ones together. Larger: fewer rewrites, more runs to ask.
const SIZE_RATIO: u64 = 4;

/// Entries of a slice of the hash space, which is what a merge holds in memory: 8 bytes each, and some 4 packed.
const SLICE_ENTRIES: u64 = 512 << 10;

/// Blocks whose entries are kept, and what is known of them.
pub(super) type Kept<'a> = HashMap<BlockId, &'a BlockMeta, FixedState>;

/// Returns the entries of a run that belong to blocks that are kept.
pub(super) fn kept_entries(header: &RunHeader, kept: &Kept<'_>) -> u64 {
    header.blocks.iter().filter(|(block, _)| kept.contains_key(block)).map(|(_, entries)| u64::from(*entries)).sum()
}

/// Returns which runs of a day to merge, by the entries that they keep and have; none when all is well. One alone is rewritten without what it
/// does not keep.
pub(super) fn choose(runs: &[(u64, u64)]) -> Vec<usize> {
    let mut by_size: Vec<usize> = (0..runs.len()).collect();
    by_size.sort_by_key(|run| runs[*run].0);
    let (mut chosen, mut sum) = (Vec::new(), 0_u64);
    for run in by_size {
        if !chosen.is_empty() && runs[run].0 >= sum.saturating_mul(SIZE_RATIO) {
            break;
        }
        sum += runs[run].0;
        chosen.push(run);
    }
    if chosen.len() > 1 {
        return chosen;
    }
    (0..runs.len()).find(|run| runs[*run].0 < runs[*run].1 / 2).into_iter().collect()
}

/// Writes one run with what `inputs` say of blocks that are kept; there is at least one.
pub(super) async fn merge(
    backend: &Backend,
    cpu: &CpuPool,
    tenant: &TenantId,
    inputs: &[&Run],
    kept: &Kept<'_>,
) -> Result<RunInfo, TraceFilterError> {
    let mut numbers: HashMap<BlockId, u32, FixedState> = HashMap::default();
    let mut blocks = Vec::new();
    let translations: Vec<Arc<[Option<u32>]>> = inputs
        .iter()
        .map(|run| {
            let number = |(block, _): &(BlockId, u32)| {
                kept.contains_key(block).then(|| {
                    *numbers.entry(*block).or_insert_with(|| {
                        blocks.push(*block);
                        blocks.len() as u32 - 1
                    })
                })
            };
            run.header.blocks.iter().map(number).collect()
        })
        .collect();
    let entries: u64 = inputs.iter().map(|run| kept_entries(&run.header, kept)).sum();
    let widths = widths_for(entries, blocks.len());
    let times = times_of(blocks.iter().filter_map(|block| kept.get(block).copied()));
    let slice_bits = entries.div_ceil(SLICE_ENTRIES).max(1).next_power_of_two().ilog2().min(widths.shard_bits);
    let mut sources: Vec<Source<'_>> =
        inputs.iter().zip(translations).map(|(run, translation)| Source { run, translation, read: (0..0, Bytes::new()) }).collect();
    let mut header = RunHeader::new(widths, blocks);
    let mut writer = RunWriter::new(backend, tenant, inputs.first().map_or(0, |run| run.info.day));
    for slice in 0..1_u64 << slice_bits {
        let hashes = slice << (HASH_BITS - slice_bits)..(slice + 1) << (HASH_BITS - slice_bits);
        let mut pieces = Vec::with_capacity(sources.len());
        for source in &mut sources {
            pieces.push(source.read(backend, tenant, &hashes).await?);
        }
        let shards_of_slice = 1_usize << (widths.shard_bits - slice_bits);
        let first = slice as usize * shards_of_slice;
        let packed = move || {
            let mut entries = Vec::new();
            for piece in &pieces {
                piece.unpack(&hashes, &mut entries)?;
            }
            entries.sort_unstable();
            entries.dedup();
            let bytes = pack_shards(&mut header, first..first + shards_of_slice, &entries);
            Ok::<_, String>((header, bytes))
        };
        let (with_slice, bytes) = cpu.run("merge_trace_filter", packed).await?.map_err(TraceFilterError::Run)?;
        header = with_slice;
        writer.push(&bytes).await?;
    }
    writer.finish(header, times).await
}

/// A run that is merged.
struct Source<'a> {
    run: &'a Run,
    /// The new number of each block; `None` when it is not kept.
    translation: Arc<[Option<u32>]>,
    /// Shards read last: those of a small run span several slices.
    read: (Range<usize>, Bytes),
}

impl Source<'_> {
    async fn read(&mut self, backend: &Backend, tenant: &TenantId, hashes: &Range<u64>) -> Result<Piece, TraceFilterError> {
        let header = &self.run.header;
        let shards = header.widths.shard_of(hashes.start)..header.widths.shard_of(hashes.end - 1) + 1;
        if self.read.0 != shards {
            let places = header.shards.get(shards.clone()).unwrap_or_default();
            let (Some(first), Some(last)) = (places.first(), places.last()) else {
                return Err(TraceFilterError::Run(self.run.info.name.clone()));
            };
            let range = first.offset..last.range().end;
            let key = keys::tenant_object(tenant, &self.run.info.name);
            let (buffers, _) = backend.read_ranges(&key, &[range]).await?;
            self.read = (shards.clone(), buffers.into_iter().next().unwrap_or_default());
        }
        Ok(Piece {
            name: self.run.info.name.clone(),
            header: Arc::clone(header),
            translation: Arc::clone(&self.translation),
            shards,
            bytes: self.read.1.clone(),
        })
    }
}

/// The shards of a source that a slice touches.
struct Piece {
    name: String,
    header: Arc<RunHeader>,
    translation: Arc<[Option<u32>]>,
    shards: Range<usize>,
    bytes: Bytes,
}

impl Piece {
    fn unpack(&self, hashes: &Range<u64>, out: &mut Vec<Entry>) -> Result<(), String> {
        self.try_unpack(hashes, out).map_err(|CorruptShard| self.name.clone())
    }

    fn try_unpack(&self, hashes: &Range<u64>, out: &mut Vec<Entry>) -> Result<(), CorruptShard> {
        let mut bytes = &self.bytes[..];
        for shard in self.shards.clone() {
            let length = self.header.shards.get(shard).ok_or(CorruptShard)?.bytes as usize;
            let (of_shard, rest) = bytes.split_at_checked(length).ok_or(CorruptShard)?;
            bytes = rest;
            for entry in self.header.unpack(shard, of_shard)? {
                let entry = entry?;
                let number = self.translation.get(entry.block() as usize).ok_or(CorruptShard)?;
                if let Some(number) = number.filter(|_| hashes.contains(&entry.hash())) {
                    out.push(Entry::new(entry.hash(), number));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_similar_size_are_merged_and_half_empty_ones_rewritten() {
        let full = |sizes: &[u64]| choose(&sizes.iter().map(|size| (*size, *size)).collect::<Vec<_>>());
        for (sizes, chosen) in [
            (vec![], vec![]),
            (vec![100], vec![]),
            (vec![100, 20], vec![]),
            (vec![100, 20, 5], vec![]),
            (vec![100, 20, 5, 2], vec![3, 2, 1, 0]),
            (vec![1000, 20, 5, 2], vec![3, 2, 1]),
            (vec![7, 7], vec![0, 1]),
            (vec![0, 5], vec![]),
        ] {
            assert_eq!(full(&sizes), chosen, "{sizes:?}");
        }
        assert_eq!(choose(&[(1000, 1000), (49, 100)]), [1]);
        assert_eq!(choose(&[(1000, 1000), (50, 100)]), Vec::<usize>::new());
    }

    #[test]
    fn a_day_has_few_runs_and_entries_are_rewritten_a_few_times() {
        let (mut runs, mut written, mut most): (Vec<u64>, u64, usize) = (Vec::new(), 0, 0);
        for _block in 0..10_000 {
            runs.push(10_000);
            written += 10_000;
            loop {
                let mut chosen = choose(&runs.iter().map(|size| (*size, *size)).collect::<Vec<_>>());
                if chosen.is_empty() {
                    break;
                }
                chosen.sort_unstable_by(|a, b| b.cmp(a));
                let merged = chosen.into_iter().map(|run| runs.swap_remove(run)).sum();
                written += merged;
                runs.push(merged);
            }
            most = most.max(runs.len());
        }
        let amplification = written as f64 / 100_000_000.0;
        assert!(most <= 7, "{most} runs");
        assert!(amplification < 20.0, "each entry is written {amplification} times");
    }
}
