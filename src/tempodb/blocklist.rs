//! Which blocks there are: per tenant the live ones and those that were replaced, as last polled, plus what this process did since.
//!
//! Not here: how the lists are obtained (`poller`), their order (`sorted_blocks`).
//!
//! Invariants
//! * A block of a tenant is in at most one of the two lists.
//! * A change made here is seen at once and survives exactly one poll: the poll may have listed the backend before the change.
//! * Blocks that are [held](BlockList::hold) change only by calls, not by polls. Whoever writes or replaces blocks holds them, so that at every
//!   moment the live blocks have every stored span of this process once.
//! * A change costs the same however long the list is, but for a scan of ids; who holds an older list keeps it.
//! * Equal lists of dedicated columns are kept once. They are by far the largest part of a meta.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};

use super::block::meta::{BlockId, BlockMeta, ColumnLists, CompactedBlockMeta};
use super::sorted_blocks::SortedBlocks;
use crate::model::ids::TenantId;

/// The blocks of one tenant at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantBlocks {
    pub live: SortedBlocks<BlockMeta>,
    pub compacted: SortedBlocks<CompactedBlockMeta>,
    /// What the listing of the backend showed besides; `None` when the blocks come from a tenant index.
    pub listing: Option<Arc<Listing>>,
    /// Blocks that this process wrote and the listing did not show.
    pub(super) unlisted: HashSet<BlockId>,
}

/// What a listing of the backend says of a tenant besides its metas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Blocks with a flag that forbids to compact them.
    pub no_compact: HashSet<BlockId>,
    /// Names and times of objects of ours that stand directly below the tenant.
    pub own_objects: Vec<(String, Timestamp)>,
}

impl TenantBlocks {
    pub fn new(live: impl IntoIterator<Item = Arc<BlockMeta>>, compacted: impl IntoIterator<Item = Arc<CompactedBlockMeta>>) -> Self {
        Self { live: live.into_iter().collect(), compacted: compacted.into_iter().collect(), ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.compacted.is_empty()
    }

    /// Whether the block must not be compacted. `None`: the list does not tell, the backend must be asked.
    pub fn no_compact(&self, block: BlockId) -> Option<bool> {
        let listing = self.listing.as_ref().filter(|_| !self.unlisted.contains(&block))?;
        Some(listing.no_compact.contains(&block))
    }

    fn add(&mut self, meta: &Arc<BlockMeta>) {
        // A block that the poll found compacted is not live again because this process wrote it a moment ago.
        if !self.live.contains(meta) && !self.compacted.contains(meta) {
            self.live.insert(Arc::clone(meta));
            self.unlisted.insert(meta.block_id);
        }
    }

    fn mark_compacted(&mut self, blocks: &[Arc<CompactedBlockMeta>]) {
        let ids: Vec<BlockId> = blocks.iter().map(|compacted| compacted.meta.block_id).collect();
        self.live.remove(&ids);
        for compacted in blocks {
            self.compacted.insert(Arc::clone(compacted));
        }
    }

    fn remove(&mut self, blocks: &[BlockId]) {
        self.live.remove(blocks);
        self.compacted.remove(blocks);
        for block in blocks {
            self.unlisted.remove(block);
        }
    }
}

/// The lists of all tenants. Share it as `Arc<BlockList>`.
#[derive(Debug, Default)]
pub struct BlockList {
    state: RwLock<State>,
    columns: Mutex<ColumnLists>,
}

#[derive(Debug, Default)]
struct State {
    tenants: HashMap<TenantId, Arc<TenantBlocks>>,
    changes: HashMap<TenantId, Changes>,
    /// Blocks that polls leave as they are, with the number of those who want it so.
    held: HashMap<TenantId, HashMap<BlockId, usize>>,
}

/// What this process did to the blocks of a tenant since the last poll was applied.
#[derive(Debug, Default)]
struct Changes {
    added: Vec<Arc<BlockMeta>>,
    compacted: Vec<Arc<CompactedBlockMeta>>,
    removed: HashSet<BlockId>,
}

/// Keeps blocks as they are listed until it is dropped. See [`BlockList::hold`].
#[derive(Debug)]
pub struct HeldBlocks {
    list: Arc<BlockList>,
    tenant: TenantId,
    blocks: Vec<BlockId>,
}

impl HeldBlocks {
    /// Holds one more block.
    pub fn add(&mut self, block: BlockId) {
        *self.list.state.write().held.entry(self.tenant.clone()).or_default().entry(block).or_default() += 1;
        self.blocks.push(block);
    }

    /// Lets some blocks be held until they are removed from the list: what the backend says of them is known to be wrong until then.
    pub fn leave(&mut self, blocks: &[BlockId]) {
        self.blocks.retain(|block| !blocks.contains(block));
    }
}

impl Drop for HeldBlocks {
    fn drop(&mut self) {
        let mut state = self.list.state.write();
        let Some(held) = state.held.get_mut(&self.tenant) else { return };
        for block in &self.blocks {
            if let Some(holders) = held.get_mut(block) {
                *holders -= 1;
                if *holders == 0 {
                    held.remove(block);
                }
            }
        }
        if held.is_empty() {
            state.held.remove(&self.tenant);
        }
    }
}

impl TenantBlocks {
    /// Gives `blocks` the state that they have in `before`: live, compacted, or not there.
    fn restore(&mut self, blocks: &[BlockId], before: &Self) {
        self.live.remove(blocks);
        self.compacted.remove(blocks);
        before.live.clone().remove(blocks).into_iter().for_each(|meta| self.live.insert(meta));
        before.compacted.clone().remove(blocks).into_iter().for_each(|compacted| self.compacted.insert(compacted));
    }
}

impl Changes {
    fn mark_compacted(&mut self, listed: &mut TenantBlocks, blocks: &[BlockId], now: Timestamp) {
        let marked = listed.live.remove(blocks).into_iter();
        let marked: Vec<_> = marked.map(|meta| Arc::new(CompactedBlockMeta { meta: (*meta).clone(), compacted_time: now })).collect();
        marked.iter().for_each(|compacted| listed.compacted.insert(Arc::clone(compacted)));
        self.added.retain(|meta| !blocks.contains(&meta.block_id));
        self.compacted.extend(marked);
    }
}

impl BlockList {
    /// Tenants that have any block.
    pub fn tenants(&self) -> Vec<TenantId> {
        self.state.read().tenants.keys().cloned().collect()
    }

    /// Returns the blocks of a tenant; none for an unknown one.
    pub fn blocks(&self, tenant: &TenantId) -> Arc<TenantBlocks> {
        self.state.read().tenants.get(tenant).cloned().unwrap_or_default()
    }

    /// Makes `meta` share its list of dedicated columns with the blocks that have the same.
    pub fn share_columns(&self, meta: &mut BlockMeta) {
        meta.dedicated_columns = self.columns.lock().share(Arc::clone(&meta.dedicated_columns));
    }

    /// Adds a block that this process has written.
    pub fn add(&self, tenant: &TenantId, mut meta: Arc<BlockMeta>) {
        self.share_columns(Arc::make_mut(&mut meta));
        self.change(tenant, |blocks, changes| {
            blocks.add(&meta);
            changes.removed.remove(&meta.block_id);
            changes.added.push(meta);
        });
    }

    /// Keeps `blocks` as they are listed now, live, compacted or not at all, whatever polls find, until the returned value is dropped. Calls of
    /// this list change them as ever. For who writes blocks, or replaces some by others: what the backend shows in the middle of it is not true.
    pub fn hold(self: &Arc<Self>, tenant: &TenantId, blocks: &[BlockId]) -> HeldBlocks {
        let mut held = HeldBlocks { list: Arc::clone(self), tenant: tenant.clone(), blocks: Vec::new() };
        blocks.iter().for_each(|block| held.add(*block));
        held
    }

    /// Lists `outputs`, which hold all spans of `inputs`, and moves these to the compacted list. Nobody sees a state between.
    pub fn replace(&self, tenant: &TenantId, outputs: &[Arc<BlockMeta>], inputs: &[BlockId], now: Timestamp) {
        let outputs = outputs.iter().cloned().map(|mut meta| {
            self.share_columns(Arc::make_mut(&mut meta));
            meta
        });
        let outputs: Vec<_> = outputs.collect();
        self.change(tenant, |listed, changes| {
            for meta in outputs {
                listed.add(&meta);
                changes.added.push(meta);
            }
            changes.mark_compacted(listed, inputs, now);
        });
    }

    /// Moves blocks from the live list to the compacted one; unknown ids are ignored.
    pub fn mark_compacted(&self, tenant: &TenantId, blocks: &[BlockId], now: Timestamp) {
        self.change(tenant, |listed, changes| changes.mark_compacted(listed, blocks, now));
    }

    /// Forgets a block whose objects this process has deleted.
    pub fn remove(&self, tenant: &TenantId, block: BlockId) {
        self.change(tenant, |blocks, changes| {
            blocks.remove(&[block]);
            changes.added.retain(|meta| meta.block_id != block);
            changes.compacted.retain(|compacted| compacted.meta.block_id != block);
            changes.removed.insert(block);
        });
        if let Some(held) = self.state.write().held.get_mut(tenant) {
            held.remove(&block);
        }
    }

    /// Replaces all lists by those of a poll, with the changes since the last one applied on top; these are then forgotten.
    pub fn apply_poll<B: Into<Arc<TenantBlocks>>>(&self, polled: HashMap<TenantId, B>) {
        let mut state = self.state.write();
        let changes = std::mem::take(&mut state.changes);
        let polled = polled.into_iter().map(|(tenant, blocks)| (tenant, blocks.into())).collect();
        let before = std::mem::replace(&mut state.tenants, polled);
        for (tenant, changes) in changes {
            let blocks = Arc::make_mut(state.tenants.entry(tenant).or_default());
            changes.added.iter().for_each(|meta| blocks.add(meta));
            blocks.mark_compacted(&changes.compacted);
            blocks.remove(&changes.removed.into_iter().collect::<Vec<_>>());
        }
        let State { tenants, held, .. } = &mut *state;
        for (tenant, held) in held {
            let held: Vec<BlockId> = held.keys().copied().collect();
            let blocks = Arc::make_mut(tenants.entry(tenant.clone()).or_default());
            blocks.restore(&held, &before.get(tenant).cloned().unwrap_or_default());
        }
        state.tenants.retain(|_, blocks| !blocks.is_empty());
    }

    fn change(&self, tenant: &TenantId, change: impl FnOnce(&mut TenantBlocks, &mut Changes)) {
        let mut state = self.state.write();
        let State { tenants, changes, .. } = &mut *state;
        let blocks = tenants.entry(tenant.clone()).or_default();
        change(Arc::make_mut(blocks), changes.entry(tenant.clone()).or_default());
        if blocks.is_empty() {
            tenants.remove(tenant);
        }
    }
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
        HashMap::from([(tenant(), TenantBlocks::new(live.iter().map(|meta| Arc::clone(meta)), []))])
    }

    fn live(list: &BlockList) -> HashSet<BlockId> {
        list.blocks(&tenant()).live.ids().collect()
    }

    fn set<const N: usize>(metas: [&Arc<BlockMeta>; N]) -> HashSet<BlockId> {
        metas.into_iter().map(|meta| meta.block_id).collect()
    }

    #[test]
    fn an_added_block_survives_one_poll_that_did_not_see_it() {
        let list = BlockList::default();
        let (a, b) = (meta(), meta());
        list.add(&tenant(), Arc::clone(&a));
        assert_eq!(live(&list), set([&a]));
        list.apply_poll(polled(&[&b]));
        assert_eq!(live(&list), set([&a, &b]));
        list.apply_poll(polled(&[&b]));
        assert_eq!(live(&list), set([&b]));
    }

    #[test]
    fn compacted_and_removed_blocks_do_not_come_back_with_the_next_poll() {
        let list = BlockList::default();
        let (a, b) = (meta(), meta());
        list.apply_poll(polled(&[&a, &b]));
        list.mark_compacted(&tenant(), &[a.block_id], unset_time());
        assert_eq!((live(&list), list.blocks(&tenant()).compacted.len()), (set([&b]), 1));
        list.apply_poll(polled(&[&a, &b]));
        assert_eq!((live(&list), list.blocks(&tenant()).compacted.len()), (set([&b]), 1));
        list.remove(&tenant(), b.block_id);
        list.remove(&tenant(), a.block_id);
        assert!(list.tenants().is_empty());
        list.apply_poll(polled(&[&b]));
        assert!(list.tenants().is_empty());
    }

    #[test]
    fn held_blocks_change_by_calls_only() {
        let list = Arc::new(BlockList::default());
        let (input, output, other) = (meta(), meta(), meta());
        let compacted = |meta: &Arc<BlockMeta>| Arc::new(CompactedBlockMeta { meta: (**meta).clone(), compacted_time: unset_time() });
        let between = || HashMap::from([(tenant(), TenantBlocks::new([Arc::clone(&output), Arc::clone(&other)], [compacted(&input)]))]);
        list.apply_poll(polled(&[&input]));
        let held = list.hold(&tenant(), &[input.block_id, output.block_id]);
        list.apply_poll(between());
        assert_eq!(live(&list), set([&input, &other]), "the output is not listed, the input still is");
        list.replace(&tenant(), &[Arc::clone(&output)], &[input.block_id], unset_time());
        assert_eq!(live(&list), set([&output, &other]));
        for _ in 0..2 {
            list.apply_poll(polled(&[&input, &other]));
            assert_eq!(live(&list), set([&output, &other]), "a poll that lags behind");
        }
        drop(held);
        list.apply_poll(polled(&[&other]));
        assert_eq!(live(&list), set([&other]));
        assert!(list.state.read().held.is_empty());
    }

    #[test]
    fn blocks_that_are_left_are_held_until_they_are_removed() {
        let list = Arc::new(BlockList::default());
        let (input, output) = (meta(), meta());
        list.apply_poll(polled(&[&input]));
        let mut held = list.hold(&tenant(), &[input.block_id]);
        held.add(output.block_id);
        list.replace(&tenant(), &[Arc::clone(&output)], &[input.block_id], unset_time());
        held.leave(&[input.block_id]);
        drop(held);
        for _ in 0..3 {
            list.apply_poll(polled(&[&input, &output]));
            assert_eq!(live(&list), set([&output]), "the mark is missing in the backend");
        }
        list.remove(&tenant(), input.block_id);
        assert!(list.state.read().held.values().all(HashMap::is_empty));
    }

    #[test]
    fn a_tenant_without_blocks_disappears() {
        let list = BlockList::default();
        list.apply_poll(polled(&[&meta()]));
        assert_eq!(list.tenants(), [tenant()]);
        list.apply_poll(polled(&[]));
        assert!(list.tenants().is_empty());
    }

    #[test]
    fn flags_are_known_of_listed_blocks_only() {
        let list = BlockList::default();
        let (flagged, free, written) = (meta(), meta(), meta());
        let listing = Listing { no_compact: HashSet::from([flagged.block_id]), ..Listing::default() };
        let of_index = TenantBlocks::new([Arc::clone(&flagged), Arc::clone(&free)], []);
        let listed = TenantBlocks { listing: Some(Arc::new(listing)), ..of_index.clone() };
        list.add(&tenant(), Arc::clone(&written));
        for (poll, expected) in [(listed, [Some(true), Some(false), None]), (of_index, [None; 3])] {
            list.apply_poll(HashMap::from([(tenant(), poll)]));
            let blocks = list.blocks(&tenant());
            assert_eq!([&flagged, &free, &written].map(|meta| blocks.no_compact(meta.block_id)), expected);
        }
    }

    /// Bounds are far above what is needed, for slow machines and unoptimised builds; `benches/block_list.rs` prints the figures.
    #[test]
    fn changes_of_a_long_list_are_cheap() {
        let list = BlockList::default();
        let template = (*meta()).clone();
        let of_second = |second| {
            let end_time = Timestamp::from_second(second).unwrap();
            Arc::new(BlockMeta { block_id: BlockId::random(), start_time: end_time, end_time, ..template.clone() })
        };
        let metas = (0..100_000).map(of_second);
        list.apply_poll(HashMap::from([(tenant(), TenantBlocks::new(metas, []))]));
        let before = list.blocks(&tenant());
        let marked: Vec<BlockId> = before.live.ids().step_by(30_000).collect();
        let started = std::time::Instant::now();
        for second in 0..20 {
            let _held = list.blocks(&tenant());
            list.add(&tenant(), of_second(second * 5000));
        }
        list.mark_compacted(&tenant(), &marked, unset_time());
        assert!(started.elapsed() < std::time::Duration::from_secs(2), "{:?}", started.elapsed());
        let after = list.blocks(&tenant());
        assert_eq!((before.live.len(), after.live.len(), after.compacted.len()), (100_000, 100_016, 4));
    }

    #[test]
    fn equal_column_lists_are_kept_once() {
        let list = BlockList::default();
        let columns = super::super::block::dedicated::default_columns;
        for _ in 0..3 {
            list.add(&tenant(), Arc::new(BlockMeta { dedicated_columns: columns().into(), ..(*meta()).clone() }));
        }
        let blocks = list.blocks(&tenant());
        assert!(blocks.live.iter().all(|meta| Arc::ptr_eq(&meta.dedicated_columns, &blocks.live[0].dedicated_columns)));
    }
}
