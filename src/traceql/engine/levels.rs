//! Moving selections and single items between the levels of a table.

use std::cell::{Cell, OnceCell};

use crate::base::bitset::Bitset;
use crate::model::span_table::{Offsets, SpanTable};

use super::expr::Level;

/// The hierarchy of one table. Owner lists are made when owners are asked for often.
pub(super) struct Levels<'t> {
    table: &'t SpanTable,
    /// For each level but the first: item → owner on the level above, and how many were asked for before there was a list.
    owners: [(OnceCell<Vec<u32>>, Cell<u32>); 5],
}

/// Owners that are searched for before a list is made.
const SEARCHES: u32 = 200;

impl<'t> Levels<'t> {
    pub(super) fn new(table: &'t SpanTable) -> Self {
        Self { table, owners: Default::default() }
    }

    /// Number of items on `level`; 0 for events and links whose offsets were not read.
    pub(super) fn count(&self, level: Level) -> usize {
        match self.above(level) {
            None => self.table.trace_count(),
            Some((_, offsets)) => offsets.total(),
        }
    }

    /// Returns `bits` of level `from` as a selection of level `to`: downwards all items owned by a member, upwards all owners of a member.
    pub(super) fn convert(&self, bits: Bitset, from: Level, to: Level) -> Bitset {
        let mut bits = bits;
        let mut at = from;
        while at != to {
            let goes_up = at > to || (at == Level::Event && to == Level::Link);
            if goes_up {
                let Some((owner, offsets)) = self.above(at) else { return bits };
                bits = raise(&bits, offsets, self.count(owner));
                at = owner;
            } else {
                let below = if at == Level::Span { to } else { below(at) };
                let Some((_, offsets)) = self.above(below) else { return bits };
                bits = spread(&bits, offsets);
                at = below;
            }
        }
        bits
    }

    /// Returns the owner on level `to` of `item` on the deeper level `from`.
    pub(super) fn owner(&self, item: usize, from: Level, to: Level) -> usize {
        let (mut item, mut at) = (item, from);
        while at > to {
            let Some((owner, offsets)) = self.above(at) else { return item };
            let (owners, searched) = &self.owners[at as usize - 1];
            if searched.get() < SEARCHES {
                searched.set(searched.get() + 1);
                item = offsets.owner_of(item);
            } else {
                item = owners.get_or_init(|| owners_of(offsets))[item] as usize;
            }
            at = owner;
        }
        item
    }

    /// Returns the level above and the offsets that lead from it to `level`.
    fn above(&self, level: Level) -> Option<(Level, &'t Offsets)> {
        let table = self.table;
        match level {
            Level::Trace => None,
            Level::Resource => Some((Level::Trace, &table.traces.resources)),
            Level::Scope => Some((Level::Resource, &table.resources.scopes)),
            Level::Span => Some((Level::Scope, &table.scopes.spans)),
            Level::Event => Some((Level::Span, &table.spans.events)),
            Level::Link => Some((Level::Span, &table.spans.links)),
        }
    }
}

/// The only level below `level`, for those that have just one.
fn below(level: Level) -> Level {
    match level {
        Level::Trace => Level::Resource,
        Level::Resource => Level::Scope,
        Level::Scope => Level::Span,
        Level::Span | Level::Event | Level::Link => Level::Event,
    }
}

fn spread(bits: &Bitset, offsets: &Offsets) -> Bitset {
    let mut result = Bitset::new(offsets.total());
    let mut run = 0..0;
    for owner in bits.iter().take_while(|owner| *owner < offsets.len()) {
        let next = offsets.range(owner);
        if next.start == run.end {
            run.end = next.end;
        } else {
            result.insert_range(run);
            run = next;
        }
    }
    result.insert_range(run);
    result
}

fn raise(bits: &Bitset, offsets: &Offsets, owners: usize) -> Bitset {
    let mut result = Bitset::new(owners);
    let mut cursor = OwnerCursor::new(offsets);
    for item in bits.iter() {
        result.insert(cursor.owner_of(item));
    }
    result
}

fn owners_of(offsets: &Offsets) -> Vec<u32> {
    let mut owners = Vec::with_capacity(offsets.total());
    for owner in 0..offsets.len() {
        owners.extend(std::iter::repeat_n(owner as u32, offsets.range(owner).len()));
    }
    owners
}

/// Finds the owners of items that are asked for in ascending order.
pub(in crate::traceql) struct OwnerCursor<'t> {
    bounds: &'t [u32],
    owner: usize,
}

/// Owners passed one by one before the rest is searched.
const LINEAR_STEPS: usize = 8;

impl<'t> OwnerCursor<'t> {
    pub(in crate::traceql) fn new(offsets: &'t Offsets) -> Self {
        Self { bounds: offsets.bounds(), owner: 0 }
    }

    /// Returns the owner of `item`, which must not be below an earlier one and must have an owner.
    pub(in crate::traceql) fn owner_of(&mut self, item: usize) -> usize {
        for _ in 0..LINEAR_STEPS {
            if self.bounds[self.owner + 1] as usize > item {
                return self.owner;
            }
            self.owner += 1;
        }
        self.owner += self.bounds[self.owner + 1..].partition_point(|end| *end as usize <= item);
        self.owner
    }
}
