//! Which spans become exemplars (metrics, exemplars).
//!
//! The window is cut into equal time slots, two exemplars each, so that they spread over it whatever the order in which spans come.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::series::Exemplar;
use super::window::{NANOS_PER_MILLI, Window};

/// More are never kept, whatever a request asks for.
const MAX_EXEMPLARS: u32 = 100_000;
/// The same where the limit is that of each series.
const MAX_PER_SERIES: u32 = 1_000;
const PER_SLOT: u8 = 2;

/// The exemplars of one sub-query.
pub(super) struct Exemplars {
    limit: usize,
    /// The limit holds for each series instead of all together.
    is_per_series: bool,
    start_ms: i64,
    end_ms: i64,
    slot_ms: i64,
    slots: usize,
    /// By series (0 when they share): filled slots and how many there are.
    filled: HashMap<u32, (Vec<u8>, usize), FixedState>,
    kept: Vec<(u32, Exemplar)>,
}

impl Exemplars {
    /// Instant queries have none.
    pub(super) fn new(window: &Window, limit: u32, is_per_series: bool) -> Self {
        let most = if is_per_series { MAX_PER_SERIES } else { MAX_EXEMPLARS };
        let limit = if window.instant { 0 } else { limit.min(most) as usize };
        let slots = (limit / PER_SLOT as usize).max(1);
        let ms = |nanos: u64| i64::try_from(nanos / NANOS_PER_MILLI).unwrap_or(i64::MAX);
        let (start_ms, end_ms) = (ms(window.start), ms(window.end));
        let slot_ms = ((end_ms - start_ms) / slots as i64).max(1);
        Self { limit, is_per_series, start_ms, end_ms, slot_ms, slots, filled: HashMap::default(), kept: Vec::new() }
    }

    /// Whether an exemplar of the series at that time would be kept.
    pub(super) fn has_room(&self, series: u32, timestamp_ms: i64) -> bool {
        // Jobs look at more than what was asked for.
        if self.limit == 0 || timestamp_ms < self.start_ms || timestamp_ms > self.end_ms {
            return false;
        }
        match self.filled.get(&self.group(series)) {
            None => true,
            Some((slots, count)) => *count < self.limit && slots[self.slot(timestamp_ms)] < PER_SLOT,
        }
    }

    /// Whether no exemplar would be kept any more.
    pub(super) fn is_full(&self) -> bool {
        self.limit == 0 || (!self.is_per_series && self.kept.len() >= self.limit)
    }

    /// Whether more than a few exemplars of spans that start within these bounds (nanoseconds) would be kept. Slots at the edges and those of
    /// times without spans are never filled.
    pub(super) fn has_much_room(&self, first: u64, last: u64) -> bool {
        const FEW: usize = 10;
        if self.is_full() {
            return false;
        }
        let Some((slots, _)) = self.filled.get(&self.group(0)).filter(|_| !self.is_per_series) else { return true };
        let slot = |nanos: u64| self.slot(i64::try_from(nanos / NANOS_PER_MILLI).unwrap_or(i64::MAX));
        let slots = &slots[slot(first)..=slot(last.max(first))];
        slots.iter().filter(|filled| **filled < PER_SLOT).count() * FEW > slots.len()
    }

    pub(super) fn add(&mut self, series: u32, exemplar: Exemplar) {
        if !self.has_room(series, exemplar.timestamp_ms) {
            return;
        }
        let (slot, slots) = (self.slot(exemplar.timestamp_ms), self.slots);
        let (filled, count) = self.filled.entry(self.group(series)).or_insert_with(|| (vec![0; slots], 0));
        filled[slot] += 1;
        *count += 1;
        self.kept.push((series, exemplar));
    }

    /// Returns the exemplars by series, each in order of time.
    pub(super) fn by_series(&self) -> HashMap<u32, Vec<&Exemplar>, FixedState> {
        let mut by_series: HashMap<u32, Vec<&Exemplar>, FixedState> = HashMap::default();
        for (series, exemplar) in &self.kept {
            by_series.entry(*series).or_default().push(exemplar);
        }
        by_series.values_mut().for_each(|exemplars| exemplars.sort_by_key(|exemplar| exemplar.timestamp_ms));
        by_series
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(u32, Exemplar)> {
        self.kept.iter()
    }

    /// Renames series; exemplars of those that map to nothing go.
    pub(super) fn renumber(&mut self, new: impl Fn(u32) -> Option<u32>) {
        let kept = std::mem::take(&mut self.kept);
        self.filled.clear();
        for (series, exemplar) in kept {
            if let Some(series) = new(series) {
                self.add(series, exemplar);
            }
        }
    }

    fn group(&self, series: u32) -> u32 {
        if self.is_per_series { series } else { 0 }
    }

    fn slot(&self, timestamp_ms: i64) -> usize {
        let slot = timestamp_ms.saturating_sub(self.start_ms).max(0) / self.slot_ms;
        (slot as usize).min(self.slots - 1)
    }
}
