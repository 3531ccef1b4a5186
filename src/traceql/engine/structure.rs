//! Structural operators between spans of one trace, decided by the nested-set numbers of storage (traceql, structural operators).
//!
//! ```text
//! a (1,6) ── b (2,3)        left and right number; a child carries the left number of its parent, a root −1.
//!        └── c (4,5)        A span lies below another iff its interval lies within the other's.
//! ```
//!
//! One side is put into an [`Index`] sorted by the number that decides, the other is looked up in it: n log n for any shape of tree.
//!
//! Invariants
//! * A number of 0 (not read, or the span is not connected to a root) relates to nothing.
//! * Whatever the numbers are, work and memory stay n log n: broken ones give odd answers and nothing worse.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::bitset::Bitset;
use crate::model::span_table::SpanTable;
use crate::traceql::ast::Relation;

use super::EngineError;
use super::projection::FetchColumn;

/// Looks at the flag of cancelled queries once in a while.
pub(super) struct Pulse<'c> {
    cancelled: &'c AtomicBool,
    left: usize,
}

/// Items of work between two looks: well below a millisecond.
const ITEMS_PER_LOOK: usize = 1 << 14;

impl<'c> Pulse<'c> {
    pub(super) fn new(cancelled: &'c AtomicBool) -> Self {
        Self { cancelled, left: ITEMS_PER_LOOK }
    }

    /// Counts `items` of work.
    pub(super) fn work(&mut self, items: usize) -> Result<(), EngineError> {
        if let Some(left) = self.left.checked_sub(items) {
            self.left = left;
            return Ok(());
        }
        self.look()
    }

    /// Fails when the query was cancelled.
    pub(super) fn look(&mut self) -> Result<(), EngineError> {
        self.left = ITEMS_PER_LOOK;
        if self.cancelled.load(Ordering::Relaxed) { Err(EngineError::Cancelled) } else { Ok(()) }
    }
}

/// Returns the numbers by which an operator decides.
pub(super) fn numbers_of(relation: Relation) -> &'static [FetchColumn] {
    match relation {
        Relation::Child | Relation::Parent => &[FetchColumn::NestedLeft, FetchColumn::NestedParent],
        Relation::Descendant | Relation::Ancestor => &[FetchColumn::NestedLeft, FetchColumn::NestedRight],
        Relation::Sibling => &[FetchColumn::NestedParent],
    }
}

/// The nested-set numbers of a table.
#[derive(Clone, Copy)]
pub(super) struct Numbers<'t> {
    left: &'t [i32],
    right: &'t [i32],
    parent: &'t [i32],
}

impl<'t> Numbers<'t> {
    pub(super) fn new(table: &'t SpanTable) -> Self {
        let spans = &table.spans;
        Self { left: &spans.nested_left, right: &spans.nested_right, parent: &spans.nested_parent }
    }

    pub(super) fn left(self, span: u32) -> i32 {
        number(self.left, span)
    }

    fn right(self, span: u32) -> i32 {
        number(self.right, span)
    }

    /// The left number of the parent; −1 for a root.
    pub(super) fn parent(self, span: u32) -> i32 {
        number(self.parent, span)
    }
}

fn number(column: &[i32], span: u32) -> i32 {
    column.get(span as usize).copied().unwrap_or(0)
}

/// The spans of the left side of an operator within one trace. Reused from trace to trace.
pub(super) struct Index<'t> {
    numbers: Numbers<'t>,
    relation: Relation,
    /// Sorted: the number that decides, and what else it takes ([`Index::fill`]).
    entries: Vec<(i32, u32)>,
}

impl<'t> Index<'t> {
    pub(super) fn new(numbers: Numbers<'t>, relation: Relation) -> Self {
        Self { numbers, relation, entries: Vec::new() }
    }

    /// Takes the spans of another left side.
    pub(super) fn fill(&mut self, spans: impl Iterator<Item = u32>) {
        let Self { numbers, relation, entries } = self;
        let numbers = *numbers;
        entries.clear();
        match relation {
            Relation::Child | Relation::Ancestor => entries.extend(spans.map(|span| (numbers.left(span), span))),
            Relation::Descendant => entries.extend(spans.map(|span| (numbers.left(span), numbers.right(span).max(0) as u32))),
            Relation::Parent | Relation::Sibling => entries.extend(spans.map(|span| (numbers.parent(span), span))),
        }
        entries.retain(|(number, _)| *number > 0 || (*relation == Relation::Sibling && *number == ROOT));
        if !entries.is_sorted() {
            entries.sort_unstable();
        }
        if *relation == Relation::Descendant {
            keep_outermost(entries);
        }
    }

    /// Whether the operator returns `span` of the right side.
    pub(super) fn relates_to(&self, span: u32) -> bool {
        let numbers = self.numbers;
        match self.relation {
            Relation::Child => self.has(numbers.parent(span)),
            Relation::Parent => self.has(numbers.left(span)),
            Relation::Descendant => {
                let left = numbers.left(span);
                let before = self.entries.partition_point(|(start, _)| *start < left);
                let right = numbers.right(span);
                left > 0 && right > 0 && before > 0 && right < self.entries[before - 1].1 as i32
            }
            Relation::Ancestor => {
                let left = numbers.left(span);
                let behind = self.entries.partition_point(|(start, _)| *start <= left);
                left > 0 && self.entries.get(behind).is_some_and(|(start, _)| *start < numbers.right(span))
            }
            Relation::Sibling => {
                let parent = numbers.parent(span);
                let first = self.entries.partition_point(|(known, _)| *known < parent);
                let is_other = |at: usize| self.entries.get(at).is_some_and(|(known, other)| *known == parent && *other != span);
                parent != 0 && (is_other(first) || is_other(first + 1))
            }
        }
    }

    fn has(&self, number: i32) -> bool {
        number > 0 && self.entries.binary_search_by_key(&number, |(known, _)| *known).is_ok()
    }
}

/// Parent number of a root.
pub(super) const ROOT: i32 = -1;

/// Keeps the intervals that lie within no other. `entries` are (left, right) in ascending order.
fn keep_outermost(entries: &mut Vec<(i32, u32)>) {
    let mut end = 0;
    entries.retain(|(_, right)| {
        let is_outside = *right > end;
        end = end.max(*right);
        is_outside
    });
}

/// Returns the spans of both sides that take part in a pair, as they are discovered: each span of the lower side (the left one for siblings)
/// followed by its partners in their order. `of_trace` are the spans of the trace, both sides among them.
pub(super) fn pairs(
    numbers: Numbers<'_>,
    relation: Relation,
    left: &[u32],
    right: &[u32],
    of_trace: Range<usize>,
    pulse: &mut Pulse<'_>,
) -> Result<Vec<u32>, EngineError> {
    let mut found = Discovered { first: of_trace.start, seen: Bitset::new(of_trace.len()), spans: Vec::new() };
    match relation {
        Relation::Child => parents_of(numbers, right, left, &mut found, pulse)?,
        Relation::Parent => parents_of(numbers, left, right, &mut found, pulse)?,
        Relation::Descendant => ancestors_of(numbers, right, left, of_trace, &mut found, pulse)?,
        Relation::Ancestor => ancestors_of(numbers, left, right, of_trace, &mut found, pulse)?,
        Relation::Sibling => siblings_of(numbers, left, right, &mut found, pulse)?,
    }
    Ok(found.spans)
}

/// Spans of one trace in the order in which they were first added.
struct Discovered {
    /// Span that bit 0 of `seen` stands for.
    first: usize,
    seen: Bitset,
    spans: Vec<u32>,
}

impl Discovered {
    fn has(&self, span: u32) -> bool {
        self.seen.contains(span as usize - self.first)
    }

    fn add(&mut self, span: u32) {
        if !self.has(span) {
            self.seen.insert(span as usize - self.first);
            self.spans.push(span);
        }
    }
}

fn parents_of(
    numbers: Numbers<'_>,
    children: &[u32],
    parents: &[u32],
    found: &mut Discovered,
    pulse: &mut Pulse<'_>,
) -> Result<(), EngineError> {
    let mut by_left: Vec<(i32, u32)> = parents.iter().map(|span| (numbers.left(*span), *span)).filter(|(left, _)| *left > 0).collect();
    by_left.sort_unstable();
    for child in children {
        pulse.work(1)?;
        if let Ok(at) = by_left.binary_search_by_key(&numbers.parent(*child), |(left, _)| *left) {
            found.add(*child);
            found.add(by_left[at].1);
        }
    }
    Ok(())
}

/// Climbs from each span to the next ancestor and stops at one that was found before: with it all its own ancestors were.
fn ancestors_of(
    numbers: Numbers<'_>,
    spans: &[u32],
    ancestors: &[u32],
    of_trace: Range<usize>,
    found: &mut Discovered,
    pulse: &mut Pulse<'_>,
) -> Result<(), EngineError> {
    const NONE: u32 = u32::MAX;
    let index = |span: u32| span as usize - of_trace.start;
    // Place of each ancestor in the order of its side.
    let mut places = vec![NONE; of_trace.len()];
    ancestors.iter().zip(0..).for_each(|(span, place)| places[index(*span)] = place);
    let mut by_left: Vec<(i32, u32)> =
        spans.iter().chain(ancestors).map(|span| (numbers.left(*span), *span)).filter(|(left, _)| *left > 0).collect();
    by_left.sort_unstable();
    by_left.dedup();
    let mut nearest = vec![NONE; of_trace.len()];
    let mut open: Vec<u32> = Vec::new();
    for (left, span) in by_left {
        pulse.work(1)?;
        while open.last().is_some_and(|top| numbers.right(*top) < left) {
            open.pop();
        }
        nearest[index(span)] = open.last().copied().unwrap_or(NONE);
        if places[index(span)] != NONE {
            open.push(span);
        }
    }
    let mut climbed = Vec::new();
    for span in spans {
        pulse.work(1)?;
        let mut at = nearest[index(*span)];
        if at == NONE {
            continue;
        }
        found.add(*span);
        while at != NONE && !found.has(at) {
            climbed.push(at);
            at = nearest[index(at)];
        }
        climbed.sort_unstable_by_key(|span| places[index(*span)]);
        climbed.drain(..).for_each(|ancestor| found.add(ancestor));
    }
    Ok(())
}

fn siblings_of(
    numbers: Numbers<'_>,
    spans: &[u32],
    others: &[u32],
    found: &mut Discovered,
    pulse: &mut Pulse<'_>,
) -> Result<(), EngineError> {
    // Stable: siblings keep the order of their side.
    let mut by_parent: Vec<(i32, u32)> =
        others.iter().map(|span| (numbers.parent(*span), *span)).filter(|(parent, _)| *parent != 0).collect();
    by_parent.sort_by_key(|(parent, _)| *parent);
    let mut is_listed = Bitset::new(by_parent.len());
    for span in spans {
        pulse.work(1)?;
        let parent = numbers.parent(*span);
        let first = by_parent.partition_point(|(known, _)| *known < parent);
        let family = by_parent[first..].iter().take_while(|(known, _)| *known == parent).map(|(_, other)| *other);
        if !family.clone().take(2).any(|other| other != *span) {
            continue;
        }
        found.add(*span);
        // A second member finds the same siblings, and the first is found already.
        if !is_listed.contains(first) {
            is_listed.insert(first);
            family.filter(|other| other != span).for_each(|other| found.add(other));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Broken numbers, as a foreign block may hold them.
    #[test]
    fn any_numbers_are_bounded_work() {
        let spans: Vec<u32> = (0..4000).collect();
        let garbage = |seed: i64| spans.iter().map(|span| ((i64::from(*span) * seed) % 1009 - 3) as i32).collect::<Vec<_>>();
        let (left, right, parent) = (garbage(7919), garbage(104_729), garbage(31));
        let numbers = Numbers { left: &left, right: &right, parent: &parent };
        let cancelled = AtomicBool::new(false);
        for relation in [Relation::Child, Relation::Parent, Relation::Descendant, Relation::Ancestor, Relation::Sibling] {
            let mut index = Index::new(numbers, relation);
            index.fill(spans.iter().copied());
            let related = spans.iter().filter(|span| index.relates_to(**span)).count();
            let found = pairs(numbers, relation, &spans, &spans, 0..spans.len(), &mut Pulse::new(&cancelled)).unwrap();
            assert!(related <= spans.len() && found.len() <= spans.len());
        }
    }

    #[test]
    fn cancelled_queries_stop_within_a_trace() {
        let spans: Vec<u32> = (0..2 * ITEMS_PER_LOOK as u32).collect();
        let ones = vec![1; spans.len()];
        let numbers = Numbers { left: &ones, right: &ones, parent: &ones };
        let cancelled = AtomicBool::new(true);
        for relation in [Relation::Child, Relation::Descendant, Relation::Sibling] {
            let outcome = pairs(numbers, relation, &spans, &spans, 0..spans.len(), &mut Pulse::new(&cancelled));
            assert_eq!(outcome, Err(EngineError::Cancelled));
        }
    }
}
