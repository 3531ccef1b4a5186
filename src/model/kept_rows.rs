//! Cuts a table down to some of its traces, in place: for what is read of few traces after all of them were looked at.

use std::ops::Range;

use super::span_table::{Attrs, Events, Links, Offsets, Resources, Scopes, ServiceStats, SpanTable, Spans, Traces, for_each_part};

impl SpanTable {
    /// Keeps the traces in `rows`, ascending. Columns that were not decoded stay empty; strings stay as they are.
    pub fn keep_rows(&mut self, rows: impl IntoIterator<Item = usize>) {
        let Self { strings: _, traces, resources, scopes, spans, events, links } = self;
        let rows: Runs = rows.into_iter().collect();
        let kept_stats = traces.service_stats_of.keep(&rows);
        let kept_resources = traces.resources.keep(&rows);
        let kept_scopes = resources.scopes.keep(&kept_resources);
        let kept_spans = scopes.spans.keep(&kept_scopes);
        let kept_events = spans.events.keep(&kept_spans);
        let kept_links = spans.links.keep(&kept_spans);
        traces.keep(&rows);
        traces.service_stats.keep(&kept_stats);
        resources.keep(&kept_resources);
        scopes.keep(&kept_scopes);
        spans.keep(&kept_spans);
        events.keep(&kept_events);
        links.keep(&kept_links);
    }
}

/// Ascending runs of items, apart from each other.
#[derive(Debug, Default)]
struct Runs(Vec<Range<usize>>);

impl FromIterator<usize> for Runs {
    fn from_iter<I: IntoIterator<Item = usize>>(items: I) -> Self {
        let mut runs = Self::default();
        items.into_iter().for_each(|item| runs.push(item..item + 1));
        runs
    }
}

impl Runs {
    fn push(&mut self, run: Range<usize>) {
        match self.0.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => self.0.push(run),
        }
    }
}

impl Offsets {
    /// Keeps the owners in `owners` and returns the items they own; nothing when the level was not decoded.
    fn keep(&mut self, owners: &Runs) -> Runs {
        let mut items = Runs::default();
        if self.is_empty() {
            return items;
        }
        let mut kept = Self::default();
        for run in &owners.0 {
            let of_run = self.range_of_all(run.clone());
            kept.append(self, run.clone(), kept.total());
            if !of_run.is_empty() {
                items.push(of_run);
            }
        }
        *self = kept;
        items
    }
}

/// Moves the kept items of a column together and gives back the memory of the others, as few are left for long; one that was not decoded has none.
fn keep_items<T: Copy>(column: &mut Vec<T>, runs: &Runs) {
    if column.is_empty() {
        return;
    }
    let mut end = 0;
    for run in &runs.0 {
        column.copy_within(run.clone(), end);
        end += run.len();
    }
    column.truncate(end);
    column.shrink_to_fit();
}

impl Attrs {
    /// Array elements stay as they are.
    fn keep(&mut self, owners: &Runs) {
        let Self { of, keys, values, elements: _ } = self;
        let kept = of.keep(owners);
        keep_items(keys, &kept);
        keep_items(values, &kept);
    }
}

macro_rules! kept {
    ($part:ident: $($column:ident)*; $($elsewhere:ident)*; $($inner:ident)*; $($attrs:ident)?) => {
        impl $part {
            fn keep(&mut self, runs: &Runs) {
                let Self { $($column,)* $($elsewhere: _,)* $($inner: _,)* $($attrs,)? } = self;
                $(keep_items($column, runs);)*
                $($attrs.keep(runs);)?
            }
        }
    };
}

for_each_part!(kept);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::combine::{Combiner, Piece};
    use crate::model::testing::arb_span_table;

    proptest! {
        #[test]
        fn kept_rows_are_those_that_are_copied(table in arb_span_table(6), choice in any::<u8>()) {
            let rows: Vec<usize> = (0..table.trace_count()).filter(|row| choice >> row & 1 == 1).collect();
            let copied = |table: &SpanTable, rows: &[usize]| {
                let mut combiner = Combiner::new(&[table]);
                rows.iter().for_each(|row| combiner.push_trace(&[(table.traces.ids[*row], Piece { source: 0, row: *row })]));
                format!("{:?}", combiner.finish())
            };
            let mut kept = table.clone();
            kept.keep_rows(rows.iter().copied());
            let all: Vec<usize> = (0..rows.len()).collect();
            prop_assert_eq!(copied(&kept, &all), copied(&table, &rows));
        }

        #[test]
        fn columns_that_are_not_there_stay_empty(table in arb_span_table(3)) {
            let mut bare = SpanTable::default();
            bare.traces.ids = table.traces.ids.clone();
            bare.traces.resources = table.traces.resources.clone();
            bare.keep_rows(0..table.trace_count());
            prop_assert_eq!((bare.trace_count(), bare.span_count(), bare.spans.events.len()), (table.trace_count(), 0, 0));
        }
    }
}
