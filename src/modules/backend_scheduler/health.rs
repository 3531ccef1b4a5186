//! Blocks that compaction leaves alone: those held by their flag, those that made jobs fail a moment ago, and those found corrupt again and again.
//!
//! Not here: writing the flag of a quarantined block, reading flags.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use crate::model::ids::TenantId;
use crate::tempodb::block::meta::BlockId;

/// Jobs that may fail because of a corrupt block until it is excluded: a read may have been cut short by the network.
const MAX_CORRUPT: u32 = 3;
/// Blocks remembered each way. Full: all are forgotten, and found again at the price of some failed jobs.
const MAX_BLOCKS: usize = 100_000;
const FIRST_COOL_DOWN: SignedDuration = SignedDuration::from_mins(1);
const LONGEST_COOL_DOWN: SignedDuration = SignedDuration::from_hours(1);

#[derive(Debug, Default)]
pub(super) struct BlockHealth {
    strikes: HashMap<BlockId, Strikes>,
    held: HashMap<BlockId, TenantId>,
    quarantined: HashMap<BlockId, Quarantined>,
}

#[derive(Debug)]
struct Strikes {
    corrupt: u32,
    failures: u32,
    /// Not in a job before this.
    until: Timestamp,
}

/// A block that was excluded for good.
#[derive(Debug, Clone)]
pub(super) struct Quarantined {
    pub(super) tenant: TenantId,
    pub(super) since: Timestamp,
    /// What the last job said.
    pub(super) error: String,
}

impl BlockHealth {
    /// A job over `blocks` failed. Each is left alone for a while, longer with every failure.
    pub(super) fn failed(&mut self, blocks: &[BlockId], now: Timestamp) {
        make_room(&mut self.strikes);
        for block in blocks {
            let strikes = self.strikes.entry(*block).or_insert(Strikes { corrupt: 0, failures: 0, until: now });
            strikes.failures += 1;
            let cool_down = FIRST_COOL_DOWN * (1 << strikes.failures.saturating_sub(1).min(6));
            strikes.until = now.saturating_add(cool_down.min(LONGEST_COOL_DOWN)).unwrap_or(Timestamp::MAX);
        }
    }

    /// A job found `block` corrupt. Returns whether this was once too often.
    pub(super) fn corrupt(&mut self, tenant: &TenantId, block: BlockId, error: &str, now: Timestamp) -> bool {
        let strikes = self.strikes.entry(block).or_insert(Strikes { corrupt: 0, failures: 0, until: now });
        strikes.corrupt += 1;
        if strikes.corrupt < MAX_CORRUPT || self.quarantined.contains_key(&block) {
            return false;
        }
        make_room(&mut self.quarantined);
        self.quarantined.insert(block, Quarantined { tenant: tenant.clone(), since: now, error: error.to_owned() });
        true
    }

    pub(super) fn succeeded(&mut self, blocks: &[BlockId]) {
        for block in blocks {
            self.strikes.remove(block);
        }
    }

    /// Notes that the flag of a block is there.
    pub(super) fn hold(&mut self, tenant: &TenantId, block: BlockId) {
        make_room(&mut self.held);
        self.held.insert(block, tenant.clone());
    }

    /// Notes that the flag of a block is gone; a quarantine ends with it.
    pub(super) fn release(&mut self, block: BlockId) {
        self.held.remove(&block);
        self.quarantined.remove(&block);
        self.strikes.remove(&block);
    }

    pub(super) fn held(&self) -> impl Iterator<Item = (&BlockId, &TenantId)> {
        self.held.iter()
    }

    pub(super) fn quarantined(&self) -> impl Iterator<Item = (&BlockId, &Quarantined)> {
        self.quarantined.iter()
    }

    /// Blocks that must not be in a job now.
    pub(super) fn excluded(&self, now: Timestamp) -> HashSet<BlockId> {
        let cooling = self.strikes.iter().filter(|(_, strikes)| strikes.until > now).map(|(block, _)| *block);
        cooling.chain(self.held.keys().copied()).chain(self.quarantined.keys().copied()).collect()
    }

    /// Forgets failures that no longer matter, and what is known of blocks that are gone.
    pub(super) fn prune(&mut self, now: Timestamp, is_live: impl Fn(&TenantId, BlockId) -> bool) {
        self.strikes.retain(|_, strikes| strikes.until.saturating_add(LONGEST_COOL_DOWN * 2).is_ok_and(|forget| forget > now));
        self.held.retain(|block, tenant| is_live(tenant, *block));
        self.quarantined.retain(|block, quarantined| is_live(&quarantined.tenant, *block));
    }
}

fn make_room<V>(map: &mut HashMap<BlockId, V>) {
    if map.len() >= MAX_BLOCKS {
        map.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn failed_blocks_rest_longer_each_time() {
        let mut health = BlockHealth::default();
        let block = BlockId::random();
        let is_excluded = |health: &BlockHealth, second| health.excluded(at(second)).contains(&block);
        health.failed(&[block], at(0));
        assert!(is_excluded(&health, 59) && !is_excluded(&health, 60));
        health.failed(&[block], at(100));
        assert!(is_excluded(&health, 219) && !is_excluded(&health, 220));
        for _ in 0..20 {
            health.failed(&[block], at(1_000));
        }
        assert!(is_excluded(&health, 4_599) && !is_excluded(&health, 4_600), "at most an hour");
        health.succeeded(&[block]);
        assert!(!is_excluded(&health, 1_001));
    }

    #[test]
    fn the_third_corruption_excludes_a_block_until_its_flag_is_gone() {
        let (mut health, tenant, block) = (BlockHealth::default(), TenantId::single(), BlockId::random());
        assert!(!health.corrupt(&tenant, block, "bad", at(0)));
        assert!(!health.corrupt(&tenant, block, "bad", at(1)));
        assert!(health.corrupt(&tenant, block, "worse", at(2)));
        assert!(!health.corrupt(&tenant, block, "worse", at(3)), "only once");
        health.prune(at(1_000_000), |_, _| true);
        assert!(health.excluded(at(1_000_000)).contains(&block));
        health.release(block);
        assert!(health.excluded(at(1_000_000)).is_empty());
    }

    #[test]
    fn what_is_known_of_gone_blocks_is_forgotten() {
        let (mut health, tenant, block) = (BlockHealth::default(), TenantId::single(), BlockId::random());
        health.hold(&tenant, block);
        health.prune(at(0), |_, _| true);
        assert_eq!(health.held().count(), 1);
        health.prune(at(0), |_, _| false);
        assert_eq!(health.held().count(), 0);
    }
}
