//! The order in which a search looks at row groups, so that it can leave out as many as possible.

use crate::tempodb::block::error::BlockReadError;
use crate::tempodb::block::prune::{IntColumn, Range};
use crate::tempodb::block::read::BlockReader;
use crate::traceql::order::{KeyBounds, SearchOrder, SortKey};

/// A row group, and what its statistics say of the key by which traces are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OrderedGroup {
    pub(super) group: usize,
    pub(super) bounds: KeyBounds,
}

/// Returns row groups of a block in the order in which they are searched: in that of the file, or those first that may hold what is wanted most.
pub(super) fn in_search_order(
    reader: &BlockReader,
    groups: impl IntoIterator<Item = usize>,
    order: SearchOrder,
) -> Result<Vec<OrderedGroup>, BlockReadError> {
    let bounds = |group: usize| {
        let column = match order {
            SearchOrder::FirstFound => return Ok(KeyBounds::UNKNOWN),
            SearchOrder::By(SortKey::Start, _) => IntColumn::TraceStart,
            SearchOrder::By(SortKey::Duration, _) => IntColumn::TraceDuration,
        };
        reader.int_range(group, &column).map(bounds_of)
    };
    let groups = groups.into_iter().map(|group| Ok(OrderedGroup { group, bounds: bounds(group)? }));
    let mut groups = groups.collect::<Result<Vec<_>, BlockReadError>>()?;
    groups.sort_by_key(|group| group.bounds.first_place(order));
    Ok(groups)
}

fn bounds_of(range: Range) -> KeyBounds {
    match range {
        Range::Within(known) => match (u64::try_from(known.min), u64::try_from(known.max)) {
            (Ok(min), Ok(max)) => KeyBounds { min, max },
            // Large ones were written as negative ones.
            _ => KeyBounds::UNKNOWN,
        },
        // A trace without a value counts as 0.
        Range::Empty | Range::Unknown => KeyBounds::UNKNOWN,
    }
}
