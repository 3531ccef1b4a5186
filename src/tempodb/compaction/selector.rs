//! Which blocks of a tenant to merge next: the time-window selector.
//!
//! Blocks are grouped by the window their end time lies in. In windows of the last 24 hours only blocks of one compaction level meet, so that
//! every trace is rewritten a logarithmic number of times; in older ones all do, so that few blocks remain. Small blocks come first.
//!
//! Pure: block list in, stripes out. Not here: whether a block is held back by its flag (`super::is_held`), who runs the job.
//!
//! Invariants
//! * The blocks of a stripe agree in window, replication factor, version and dedicated columns; in recent windows also in level.
//! * A block is in at most one stripe. Windows never mix, so that retention stays precise to about a window.
//! * Groups and orders are compared as text, because the compatible system does and both may select from one bucket.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::model::ids::TenantId;
use crate::tempodb::block::dedicated;
use crate::tempodb::block::meta::{BlockId, BlockMeta};
use crate::tempodb::config::CompactionConfig;

/// Windows younger than this are active: blocks still arrive, and levels are kept apart.
const ACTIVE_AGE: SignedDuration = SignedDuration::from_hours(24);

/// A job of many blocks costs as much as one of few, and the more there are, the less often a span is written anew.
pub const DEFAULT_MAX_INPUT_BLOCKS: usize = 16;

/// Bounds of a stripe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectorSettings {
    /// Whole seconds; the tenant's override or the configured one. 0 is taken as 1.
    pub window_seconds: i64,
    /// Traces of all blocks of a stripe.
    pub max_objects: u64,
    /// Bytes of all blocks of a stripe.
    pub max_bytes: u64,
    pub min_input_blocks: usize,
    pub max_input_blocks: usize,
    /// Blocks at this level or above are left alone; 0: no limit.
    pub max_level: u32,
}

impl Default for SelectorSettings {
    fn default() -> Self {
        Self::from(&CompactionConfig::default())
    }
}

impl From<&CompactionConfig> for SelectorSettings {
    /// Takes the bounds on blocks from their defaults: they are configured elsewhere.
    fn from(config: &CompactionConfig) -> Self {
        Self {
            window_seconds: i64::try_from(config.compaction_window.to_std().as_secs()).unwrap_or(i64::MAX),
            max_objects: config.max_compaction_objects,
            max_bytes: config.max_block_bytes,
            min_input_blocks: 2,
            max_input_blocks: DEFAULT_MAX_INPUT_BLOCKS,
            max_level: 0,
        }
    }
}

/// Blocks to merge into one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stripe {
    /// In order of merging: the first one decides over version, replication factor and dedicated columns.
    pub blocks: Vec<Arc<BlockMeta>>,
    /// What the classic compactors look up in their ring to see whose job this is.
    pub hash: String,
}

impl Stripe {
    pub fn block_ids(&self) -> Vec<BlockId> {
        self.blocks.iter().map(|meta| meta.block_id).collect()
    }

    pub fn size_bytes(&self) -> u64 {
        self.blocks.iter().map(|meta| meta.size_bytes).sum()
    }
}

/// Returns all stripes of `blocks`, most urgent first. `is_busy` names blocks that other jobs have.
pub fn select(
    tenant: &TenantId,
    blocks: &[Arc<BlockMeta>],
    settings: &SelectorSettings,
    now: Timestamp,
    is_busy: impl Fn(BlockId) -> bool,
) -> Vec<Stripe> {
    let idle = blocks.iter().filter(|meta| !is_busy(meta.block_id));
    let mut entries: Vec<_> = idle.filter_map(|meta| Entry::of(tenant, meta, settings, now)).collect();
    entries.sort_by(|a, b| a.group.cmp(&b.group).then_with(|| a.order.cmp(&b.order)));

    let mut stripes = Vec::new();
    let mut rest = entries.as_slice();
    while let [first, ..] = rest {
        let length = stripe_length(rest, settings);
        if length < 2 {
            rest = &rest[1..];
            continue;
        }
        let (taken, others) = rest.split_at(length);
        rest = others;
        if length >= settings.min_input_blocks {
            stripes.push(Stripe { blocks: taken.iter().map(|entry| Arc::clone(&entry.meta)).collect(), hash: first.hash.clone() });
        }
    }
    stripes
}

/// Returns how many of `entries` go together with the first one.
fn stripe_length(entries: &[Entry], settings: &SelectorSettings) -> usize {
    let Some(first) = entries.first() else { return 0 };
    let (mut objects, mut bytes) = (0_u64, 0_u64);
    let fits = |entry: &&Entry| {
        objects = objects.saturating_add(u64::try_from(entry.meta.total_objects).unwrap_or(0));
        bytes = bytes.saturating_add(entry.meta.size_bytes);
        entry.is_like(first) && objects <= settings.max_objects && bytes <= settings.max_bytes
    };
    entries.iter().take(settings.max_input_blocks).take_while(fits).count()
}

/// A block with its place in the order.
struct Entry {
    meta: Arc<BlockMeta>,
    group: String,
    order: String,
    hash: String,
    dedicated_hash: u64,
}

impl Entry {
    /// `None` for blocks that are not to be compacted now.
    fn of(tenant: &TenantId, meta: &Arc<BlockMeta>, settings: &SelectorSettings, now: Timestamp) -> Option<Self> {
        let BlockMeta { compaction_level: level, replication_factor: factor, format, .. } = &**meta;
        // Previews are unknown versions, too.
        meta.version().ok()?;
        if settings.max_level > 0 && *level >= settings.max_level {
            return None;
        }
        let window_of = |time: Timestamp| time.as_second() / settings.window_seconds.max(1);
        let window = window_of(meta.end_time);
        let active = window_of(now.saturating_sub(ACTIVE_AGE).unwrap_or(Timestamp::MIN));
        let age = padded_hex(window_of(now) - window);
        let objects = padded_hex(meta.total_objects);
        let dedicated_hash = dedicated::hash(&meta.dedicated_columns);
        let (group, order, hash) = match window.cmp(&active) {
            // Its blocks are about to change from one regime to the other.
            std::cmp::Ordering::Equal => return None,
            std::cmp::Ordering::Greater => (
                format!("A-{level}-{age}-{factor}"),
                format!("{objects}-{format}-{dedicated_hash:016X}"),
                format!("{tenant}-{level}-{window}-{factor}"),
            ),
            std::cmp::Ordering::Less => (
                format!("B-{age}-{factor}"),
                format!("{level}-{objects}-{format}-{dedicated_hash:016X}"),
                format!("{tenant}-{window}-{factor}"),
            ),
        };
        Some(Self { meta: Arc::clone(meta), group, order, hash, dedicated_hash })
    }

    fn is_like(&self, other: &Self) -> bool {
        self.group == other.group && self.meta.format == other.meta.format && self.dedicated_hash == other.dedicated_hash
    }
}

/// Sixteen digits, the sign among them: a window in the future sorts before all others.
fn padded_hex(number: i64) -> String {
    if number < 0 { format!("-{:015X}", number.unsigned_abs()) } else { format!("{number:016X}") }
}

#[cfg(test)]
#[path = "selector_tests.rs"]
mod tests;
