//! Which traces an answer keeps when more match than it may hold, and how it is sorted (docs/traceql.md, hints).

use super::ast::Query;
use super::engine::EngineError;
use super::types::Static;
use crate::model::ids::TraceId;

/// Which traces an answer keeps when there are more than the limit, and how it is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchOrder {
    /// The first that are found, shown newest first. What costs the same is taken newest first, too.
    FirstFound,
    By(SortKey, Direction),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortKey {
    /// Start of the trace. Traces whose start is not known (0) come last.
    Start,
    /// Duration of the trace.
    Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Ascending,
    Descending,
}

/// The place of a trace in an order; smaller ones come first. Equal keys are told apart by trace id, so no two traces share a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(u64, TraceId);

impl Rank {
    pub fn trace_id(self) -> TraceId {
        self.1
    }
}

impl SearchOrder {
    /// The newest, as `most_recent=true` asks for.
    pub const MOST_RECENT: Self = Self::By(SortKey::Start, Direction::Descending);

    /// Returns the order that the hints of `query` ask for. `order_by` counts before `most_recent`; hints of another type are ignored.
    pub fn of(query: &Query) -> Result<Self, EngineError> {
        let is_set = |hint: &str| matches!(query.hint(hint), Some(Static::Bool(true)));
        let key = match query.hint("order_by") {
            Some(Static::String(name)) => match &**name {
                "start" => SortKey::Start,
                "duration" => SortKey::Duration,
                _ => return Err(EngineError::UnknownOrder),
            },
            _ if is_set("most_recent") => return Ok(Self::MOST_RECENT),
            _ => return Ok(Self::FirstFound),
        };
        Ok(Self::By(key, if is_set("desc") { Direction::Descending } else { Direction::Ascending }))
    }

    /// Returns the place of a trace.
    pub fn rank(self, trace_id: TraceId, start_unix_nanos: u64, duration_nanos: u64) -> Rank {
        let (key, direction) = match self {
            Self::FirstFound => (SortKey::Start, Direction::Descending),
            Self::By(key, direction) => (key, direction),
        };
        let place = match (key, direction) {
            (SortKey::Start, Direction::Ascending) if start_unix_nanos == 0 => u64::MAX,
            (SortKey::Start, direction) => direction.place(start_unix_nanos),
            (SortKey::Duration, direction) => direction.place(duration_nanos),
        };
        Rank(place, trace_id)
    }
}

impl Direction {
    fn place(self, key: u64) -> u64 {
        match self {
            Self::Ascending => key,
            Self::Descending => u64::MAX - key,
        }
    }
}

/// Between which values the key of traces lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyBounds {
    pub min: u64,
    pub max: u64,
}

impl KeyBounds {
    pub const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    /// Returns a place that none of the traces is before; `None`: there is no order to tell.
    pub fn first_place(self, order: SearchOrder) -> Option<Rank> {
        match order {
            SearchOrder::FirstFound => None,
            SearchOrder::By(_, direction) => Some(Rank(direction.place(self.min).min(direction.place(self.max)), TraceId([0; 16]))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_name_the_order() {
        use {Direction::*, SortKey::*};
        for (hints, expected) in [
            ("", Ok(SearchOrder::FirstFound)),
            ("with (desc=true)", Ok(SearchOrder::FirstFound)),
            ("with (most_recent=true)", Ok(SearchOrder::MOST_RECENT)),
            ("with (most_recent=false)", Ok(SearchOrder::FirstFound)),
            ("with (order_by=`start`, desc=true)", Ok(SearchOrder::MOST_RECENT)),
            ("with (order_by=\"start\")", Ok(SearchOrder::By(Start, Ascending))),
            ("with (most_recent=true, order_by=\"duration\")", Ok(SearchOrder::By(Duration, Ascending))),
            ("with (desc=true, order_by=\"duration\")", Ok(SearchOrder::By(Duration, Descending))),
            ("with (order_by=\"duration\", desc=\"yes\")", Ok(SearchOrder::By(Duration, Ascending))),
            ("with (order_by=1)", Ok(SearchOrder::FirstFound)),
            ("with (order_by=\"name\")", Err(EngineError::UnknownOrder)),
        ] {
            let query = crate::traceql::compile(&format!("{{}} {hints}")).unwrap();
            assert_eq!(SearchOrder::of(&query), expected, "{hints}");
        }
    }

    #[test]
    fn traces_of_unknown_start_come_last() {
        let id = TraceId([1; 16]);
        for direction in [Direction::Ascending, Direction::Descending] {
            let order = SearchOrder::By(SortKey::Start, direction);
            assert!(order.rank(id, 0, 5) > order.rank(id, 5, 0), "{direction:?}");
        }
    }
}
