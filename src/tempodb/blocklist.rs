//! Which blocks there are: per tenant the live ones and those that were replaced, as last polled, plus what this process did since.
//!
//! Not here: how the lists are obtained (`poller`).
//!
//! Invariants
//! * A block of a tenant is in at most one of the two lists.
//! * A change made here is seen at once and survives exactly one poll: the poll may have listed the backend before the change.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::RwLock;

use super::block::meta::{BlockId, BlockMeta, CompactedBlockMeta};
use crate::model::ids::TenantId;

/// The blocks of one tenant at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantBlocks {
    pub live: Vec<Arc<BlockMeta>>,
    pub compacted: Vec<Arc<CompactedBlockMeta>>,
}

impl TenantBlocks {
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.compacted.is_empty()
    }
}

/// The lists of all tenants. Share it as `Arc<BlockList>`.
#[derive(Debug, Default)]
pub struct BlockList(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    tenants: HashMap<TenantId, Arc<TenantBlocks>>,
    changes: HashMap<TenantId, Changes>,
}

/// What this process did to the blocks of a tenant since the last poll was applied.
#[derive(Debug, Default, Clone)]
struct Changes {
    added: Vec<Arc<BlockMeta>>,
    compacted: Vec<Arc<CompactedBlockMeta>>,
    removed: HashSet<BlockId>,
}

impl BlockList {
    /// Tenants that have any block.
    pub fn tenants(&self) -> Vec<TenantId> {
        self.0.read().tenants.keys().cloned().collect()
    }

    /// Returns the blocks of a tenant; none for an unknown one.
    pub fn blocks(&self, tenant: &TenantId) -> Arc<TenantBlocks> {
        self.0.read().tenants.get(tenant).cloned().unwrap_or_default()
    }

    /// Adds a block that this process has written.
    pub fn add(&self, tenant: &TenantId, meta: Arc<BlockMeta>) {
        self.change(tenant, |changes| {
            changes.removed.remove(&meta.block_id);
            changes.added.push(meta);
        });
    }

    /// Moves blocks from the live list to the compacted one; unknown ids are ignored.
    pub fn mark_compacted(&self, tenant: &TenantId, blocks: &[BlockId], now: Timestamp) {
        let known = self.blocks(tenant);
        let compacted = known.live.iter().filter(|meta| blocks.contains(&meta.block_id));
        let compacted: Vec<_> =
            compacted.map(|meta| Arc::new(CompactedBlockMeta { meta: (**meta).clone(), compacted_time: now })).collect();
        self.change(tenant, |changes| {
            changes.added.retain(|meta| !blocks.contains(&meta.block_id));
            changes.compacted.extend(compacted);
        });
    }

    /// Forgets a block whose objects this process has deleted.
    pub fn remove(&self, tenant: &TenantId, block: BlockId) {
        self.change(tenant, |changes| {
            changes.added.retain(|meta| meta.block_id != block);
            changes.compacted.retain(|compacted| compacted.meta.block_id != block);
            changes.removed.insert(block);
        });
    }

    /// Replaces all lists by those of a poll, with the changes since the last one applied on top; these are then forgotten.
    pub fn apply_poll(&self, polled: HashMap<TenantId, TenantBlocks>) {
        let mut state = self.0.write();
        let changes = std::mem::take(&mut state.changes);
        state.tenants = polled.into_iter().map(|(tenant, blocks)| (tenant, Arc::new(blocks))).collect();
        for (tenant, changes) in changes {
            apply(state.tenants.entry(tenant).or_default(), &changes);
        }
        state.tenants.retain(|_, blocks| !blocks.is_empty());
    }

    fn change(&self, tenant: &TenantId, record: impl FnOnce(&mut Changes)) {
        let mut state = self.0.write();
        let changes = state.changes.entry(tenant.clone()).or_default();
        record(changes);
        let changes = changes.clone();
        let blocks = state.tenants.entry(tenant.clone()).or_default();
        apply(blocks, &changes);
        if blocks.is_empty() {
            state.tenants.remove(tenant);
        }
    }
}

/// Brings `changes` into the lists. May be repeated.
fn apply(blocks: &mut Arc<TenantBlocks>, changes: &Changes) {
    let blocks = Arc::make_mut(blocks);
    let is_gone = |id: &BlockId| changes.removed.contains(id);
    let listed: HashSet<BlockId> = blocks.live.iter().map(|meta| meta.block_id).collect();
    // A block that the poll found compacted is not live again because this process wrote it a moment ago.
    let polled_compacted: HashSet<BlockId> = blocks.compacted.iter().map(|compacted| compacted.meta.block_id).collect();
    let new = changes.added.iter().filter(|meta| !listed.contains(&meta.block_id) && !polled_compacted.contains(&meta.block_id));
    blocks.live.extend(new.cloned());
    let new = changes.compacted.iter().filter(|compacted| !polled_compacted.contains(&compacted.meta.block_id));
    blocks.compacted.extend(new.cloned());
    blocks.compacted.retain(|compacted| !is_gone(&compacted.meta.block_id));
    let compacted: HashSet<BlockId> = blocks.compacted.iter().map(|compacted| compacted.meta.block_id).collect();
    blocks.live.retain(|meta| !is_gone(&meta.block_id) && !compacted.contains(&meta.block_id));
}

#[cfg(test)]
mod tests {
    use super::super::block::meta::unset_time;
    use super::*;

    fn meta() -> Arc<BlockMeta> {
        let json = format!(r#"{{"format":"vParquet5","blockID":"{}","tenantID":"t"}}"#, BlockId::random());
        Arc::new(BlockMeta::from_json(json.as_bytes()).unwrap())
    }

    fn tenant() -> TenantId {
        TenantId::parse("t").unwrap()
    }

    fn polled(live: &[&Arc<BlockMeta>]) -> HashMap<TenantId, TenantBlocks> {
        let live = live.iter().map(|meta| Arc::clone(meta)).collect();
        HashMap::from([(tenant(), TenantBlocks { live, compacted: Vec::new() })])
    }

    fn live(list: &BlockList) -> Vec<BlockId> {
        list.blocks(&tenant()).live.iter().map(|meta| meta.block_id).collect()
    }

    #[test]
    fn an_added_block_survives_one_poll_that_did_not_see_it() {
        let list = BlockList::default();
        let (a, b) = (meta(), meta());
        list.add(&tenant(), Arc::clone(&a));
        assert_eq!(live(&list), [a.block_id]);
        list.apply_poll(polled(&[&b]));
        assert_eq!(live(&list), [b.block_id, a.block_id]);
        list.apply_poll(polled(&[&b]));
        assert_eq!(live(&list), [b.block_id]);
    }

    #[test]
    fn compacted_and_removed_blocks_do_not_come_back_with_the_next_poll() {
        let list = BlockList::default();
        let (a, b) = (meta(), meta());
        list.apply_poll(polled(&[&a, &b]));
        list.mark_compacted(&tenant(), &[a.block_id], unset_time());
        assert_eq!((live(&list), list.blocks(&tenant()).compacted.len()), (vec![b.block_id], 1));
        list.apply_poll(polled(&[&a, &b]));
        assert_eq!((live(&list), list.blocks(&tenant()).compacted.len()), (vec![b.block_id], 1));
        list.remove(&tenant(), b.block_id);
        list.remove(&tenant(), a.block_id);
        assert!(list.tenants().is_empty());
        list.apply_poll(polled(&[&b]));
        assert!(list.tenants().is_empty());
    }

    #[test]
    fn a_tenant_without_blocks_disappears() {
        let list = BlockList::default();
        list.apply_poll(polled(&[&meta()]));
        assert_eq!(list.tenants(), [tenant()]);
        list.apply_poll(polled(&[]));
        assert!(list.tenants().is_empty());
    }
}
