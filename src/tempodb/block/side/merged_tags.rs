//! The tags of many blocks of a tenant, joined: each value once, with a bit for every bucket of time in which it occurs.
//!
//! Invariants
//! * At most [`MAX_BUCKETS`] buckets, [`MAX_LIST_BYTES`] a list and [`MAX_BYTES`] in all. What does not fit makes the list of that block incomplete.
//! * A bucket's bit is set only for what a block of the bucket holds. Blocks that have vanished count until the bucket is cleared.

use std::collections::{HashMap, HashSet};

use foldhash::fast::FixedState;

use super::tags::{BlockTags, TagItem, TagList};
use super::{AttrScope, TextColumn};
use crate::tempodb::block::meta::BlockId;

/// As many as a mask has bits.
const MAX_BUCKETS: usize = u128::BITS as usize;
/// Buckets of a tenant when its index is made: there is room for as many days more as it has now, and half as many again.
const FIRST_BUCKETS: u64 = 50;
/// Shortest time of a bucket.
const BUCKET_SECONDS: u64 = 6 * 3_600;
/// Bytes of the values of a list: more than an answer may hold.
const MAX_LIST_BYTES: usize = 4 << 20;
/// Bytes of all values of a tenant.
const MAX_BYTES: usize = 48 << 20;
/// What a value takes beside its text.
const VALUE_BYTES: usize = 64;

/// A set of buckets.
pub(super) type Mask = u128;

#[derive(Debug)]
pub(super) struct MergedTags {
    bucket_seconds: u64,
    buckets: Vec<Bucket>,
    lists: HashMap<TagList, MergedList, FixedState>,
    /// Blocks that hold more attributes than their object lists.
    without_all_lists: HashSet<BlockId, FixedState>,
    bytes: usize,
}

/// The blocks that end in a span of time. A bucket without blocks is free.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    number: u64,
    pub(super) blocks: HashSet<BlockId, FixedState>,
    /// When the first of the blocks came.
    pub(super) since_unix_seconds: u64,
}

#[derive(Debug, Default)]
struct MergedList {
    buckets: Mask,
    values: HashMap<TagItem, Mask, FixedState>,
    bytes: usize,
    /// Blocks that hold more values than are here.
    incomplete: HashSet<BlockId, FixedState>,
}

impl MergedTags {
    /// `ends` are the times at which the tenant's blocks end.
    pub(super) fn new(ends: impl Iterator<Item = u64> + Clone) -> Self {
        let span = ends.clone().max().unwrap_or(0).saturating_sub(ends.min().unwrap_or(0));
        let mut bucket_seconds = BUCKET_SECONDS;
        while span / bucket_seconds > FIRST_BUCKETS {
            bucket_seconds = bucket_seconds.saturating_mul(2);
        }
        Self::with_buckets(bucket_seconds)
    }

    fn with_buckets(bucket_seconds: u64) -> Self {
        let buckets = (0..MAX_BUCKETS).map(|_| Bucket::default()).collect();
        Self { bucket_seconds, buckets, lists: HashMap::default(), without_all_lists: HashSet::default(), bytes: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the buckets in use, with their bits.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (Mask, &Bucket)> {
        self.buckets.iter().enumerate().filter(|(_, bucket)| !bucket.blocks.is_empty()).map(|(at, bucket)| (1 << at, bucket))
    }

    /// Adds the tags of a block. When time has outgrown the buckets, everything is forgotten and longer ones begin.
    pub(super) fn add(&mut self, block: BlockId, end_unix_seconds: u64, tags: &BlockTags, now_unix_seconds: u64) {
        let at = match self.bucket_of(end_unix_seconds) {
            Some(at) => at,
            None => {
                *self = Self::with_buckets(self.bucket_seconds.saturating_mul(2));
                0
            }
        };
        let bucket = &mut self.buckets[at];
        if bucket.blocks.is_empty() {
            bucket.number = end_unix_seconds / self.bucket_seconds;
            bucket.since_unix_seconds = now_unix_seconds;
        }
        bucket.blocks.insert(block);
        if !tags.has_all_lists {
            self.without_all_lists.insert(block);
        }
        for (list, found) in &tags.lists {
            let merged = match self.lists.get_mut(list) {
                Some(merged) => merged,
                None => {
                    self.bytes += VALUE_BYTES * 2;
                    self.lists.entry(list.clone()).or_default()
                }
            };
            merged.buckets |= 1 << at;
            let mut fits = found.is_complete;
            for value in &found.values {
                fits &= merged.add(value, 1 << at, &mut self.bytes);
            }
            if !fits {
                merged.incomplete.insert(block);
            }
        }
    }

    fn bucket_of(&self, end_unix_seconds: u64) -> Option<usize> {
        let number = end_unix_seconds / self.bucket_seconds;
        let known = self.buckets.iter().position(|bucket| bucket.number == number && !bucket.blocks.is_empty());
        known.or_else(|| self.buckets.iter().position(|bucket| bucket.blocks.is_empty()))
    }

    /// Forgets the buckets of `mask`.
    pub(super) fn clear(&mut self, mask: Mask) {
        if mask == 0 {
            return;
        }
        for at in (0..MAX_BUCKETS).filter(|at| mask & (1 << at) != 0) {
            for block in std::mem::take(&mut self.buckets[at]).blocks {
                self.without_all_lists.remove(&block);
                for list in self.lists.values_mut() {
                    list.incomplete.remove(&block);
                }
            }
        }
        let bytes = &mut self.bytes;
        self.lists.retain(|_, list| {
            list.buckets &= !mask;
            list.values.retain(|value, buckets| {
                *buckets &= !mask;
                if *buckets == 0 {
                    list.bytes -= value.len_bytes() + VALUE_BYTES;
                    *bytes -= value.len_bytes() + VALUE_BYTES;
                }
                *buckets != 0
            });
            if list.buckets == 0 {
                *bytes -= VALUE_BYTES * 2;
            }
            list.buckets != 0
        });
    }

    /// Calls `found` with the attributes of `scopes` that occur in `mask`. Blocks that hold others too are handed to `incomplete`.
    pub(super) fn names(
        &self,
        scopes: &[AttrScope],
        mask: Mask,
        mut found: impl FnMut(AttrScope, &[u8]),
        mut incomplete: impl FnMut(BlockId),
    ) {
        for (list, merged) in self.lists.iter().filter(|(_, merged)| merged.buckets & mask != 0) {
            match list {
                TagList::Attr(scope, key) if scopes.contains(scope) => found(*scope, key),
                TagList::Column(TextColumn::ServiceName) if scopes.contains(&AttrScope::Resource) => {
                    if merged.values.iter().any(|(value, buckets)| buckets & mask != 0 && value.len_bytes() > 0) {
                        found(AttrScope::Resource, super::SERVICE_NAME);
                    }
                }
                TagList::Attr(..) | TagList::Column(_) => {}
            }
        }
        self.without_all_lists.iter().for_each(|block| incomplete(*block));
    }

    /// Calls `found` with the values of `lists` that occur in `mask`. Blocks that hold others too are handed to `incomplete`.
    pub(super) fn values(&self, lists: &[TagList], mask: Mask, mut found: impl FnMut(&TagItem), mut incomplete: impl FnMut(BlockId)) {
        for list in lists {
            let Some(merged) = self.lists.get(list) else { continue };
            merged.values.iter().filter(|(_, buckets)| *buckets & mask != 0).for_each(|(value, _)| found(value));
            merged.incomplete.iter().for_each(|block| incomplete(*block));
        }
        self.without_all_lists.iter().for_each(|block| incomplete(*block));
    }
}

impl MergedList {
    /// Whether there was room for the value.
    fn add(&mut self, value: &TagItem, bit: Mask, total_bytes: &mut usize) -> bool {
        if let Some(buckets) = self.values.get_mut(value) {
            *buckets |= bit;
            return true;
        }
        let bytes = value.len_bytes() + VALUE_BYTES;
        if self.bytes + bytes > MAX_LIST_BYTES || *total_bytes + bytes > MAX_BYTES {
            return false;
        }
        self.values.insert(value.clone(), bit);
        self.bytes += bytes;
        *total_bytes += bytes;
        true
    }
}
