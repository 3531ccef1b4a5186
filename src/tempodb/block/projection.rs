//! What of a row group to decode.

/// Columns to decode, per level. Nothing is asked for by default; trace ids and the number of spans always come.
///
/// Asking for a column of a level brings the offsets down to that level. What is not asked for stays empty in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Projection {
    pub traces: TraceColumns,
    pub resources: ResourceColumns,
    pub scopes: ScopeColumns,
    pub spans: SpanColumns,
    pub events: EventColumns,
    pub links: LinkColumns,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TraceColumns {
    pub start: bool,
    pub end: bool,
    pub duration: bool,
    pub root_service_name: bool,
    pub root_span_name: bool,
    pub service_stats: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceColumns {
    pub service_name: bool,
    pub dropped_attributes: bool,
    pub attrs: AttrSelection,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScopeColumns {
    pub name: bool,
    pub version: bool,
    pub dropped_attributes: bool,
    pub attrs: AttrSelection,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpanColumns {
    pub span_id: bool,
    pub parent_span_id: bool,
    pub nested_left: bool,
    pub nested_right: bool,
    pub nested_parent: bool,
    pub child_count: bool,
    pub name: bool,
    pub kind: bool,
    pub trace_state: bool,
    pub start: bool,
    pub duration: bool,
    pub status_code: bool,
    pub status_message: bool,
    pub dropped_attributes: bool,
    pub dropped_events: bool,
    pub dropped_links: bool,
    pub attrs: AttrSelection,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventColumns {
    /// Only which span has how many events; implied by the other fields.
    pub offsets: bool,
    pub time_since_start: bool,
    pub name: bool,
    pub dropped_attributes: bool,
    pub attrs: AttrSelection,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkColumns {
    /// Only which span has how many links; implied by the other fields.
    pub offsets: bool,
    pub trace_id: bool,
    pub span_id: bool,
    pub trace_state: bool,
    pub dropped_attributes: bool,
    pub attrs: AttrSelection,
}

/// Which attributes of a level to decode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AttrSelection {
    /// None; the attribute columns stay empty, offsets included.
    #[default]
    None,
    /// Only attributes with these keys, each listed once. In a table decoded with this, `Attrs` holds nothing else.
    Keys(Vec<AttrKey>),
    All,
}

impl AttrSelection {
    /// Selects the attributes of `keys` with any value.
    pub fn keys<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Keys(keys.into_iter().map(|key| AttrKey { key: key.as_bytes().to_vec(), kinds: ValueKinds::ALL }).collect())
    }

    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// Selects nothing if all is among `known`.
    fn leave_out(&mut self, known: &Self) {
        let is_known = match (&*self, known) {
            (Self::None, _) | (_, Self::All) => true,
            (Self::Keys(wanted), Self::Keys(known)) => {
                wanted.iter().all(|wanted| known.iter().any(|known| known.key == wanted.key && known.kinds.contains(wanted.kinds)))
            }
            (Self::All, Self::Keys(_) | Self::None) | (Self::Keys(_), Self::None) => false,
        };
        if is_known {
            *self = Self::None;
        }
    }
}

/// One attribute key and the kinds of values of interest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttrKey {
    pub key: Vec<u8>,
    /// Attributes of `key` whose value is of another kind may be missing in the table: their columns are not read.
    pub kinds: ValueKinds,
}

/// A set of value kinds; an array is of the kind of its elements.
///
/// Empty arrays have no kind, they come only with [`ValueKinds::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValueKinds(u8);

impl ValueKinds {
    pub const NONE: Self = Self(0);
    pub const STR: Self = Self(1);
    pub const INT: Self = Self(2);
    pub const DOUBLE: Self = Self(4);
    pub const BOOL: Self = Self(8);
    /// What is stored as JSON: bytes, maps, mixed arrays, nothing.
    pub const JSON: Self = Self(16);
    pub const ALL: Self = Self(31);

    /// The set as a number that may be stored.
    pub(super) fn bits(self) -> u8 {
        self.0
    }

    /// Reads [`ValueKinds::bits`]; unknown kinds are left out.
    pub(super) fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL.0)
    }

    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl Projection {
    /// Everything that the table can hold.
    pub fn all() -> Self {
        Self {
            traces: TraceColumns {
                start: true,
                end: true,
                duration: true,
                root_service_name: true,
                root_span_name: true,
                service_stats: true,
            },
            resources: ResourceColumns { service_name: true, dropped_attributes: true, attrs: AttrSelection::All },
            scopes: ScopeColumns { name: true, version: true, dropped_attributes: true, attrs: AttrSelection::All },
            spans: SpanColumns {
                span_id: true,
                parent_span_id: true,
                nested_left: true,
                nested_right: true,
                nested_parent: true,
                child_count: true,
                name: true,
                kind: true,
                trace_state: true,
                start: true,
                duration: true,
                status_code: true,
                status_message: true,
                dropped_attributes: true,
                dropped_events: true,
                dropped_links: true,
                attrs: AttrSelection::All,
            },
            events: EventColumns { offsets: true, time_since_start: true, name: true, dropped_attributes: true, attrs: AttrSelection::All },
            links: LinkColumns {
                offsets: true,
                trace_id: true,
                span_id: true,
                trace_state: true,
                dropped_attributes: true,
                attrs: AttrSelection::All,
            },
        }
    }
}

/// Leaves columns out that are known.
macro_rules! leave_out {
    ($wanted:expr, $known:expr, $($column:ident)*) => { $($wanted.$column &= !$known.$column;)* };
}

impl Projection {
    /// Returns what of this is not in a table that was decoded with `known`. A level of attributes, events or links of which anything is
    /// missing is asked for as a whole.
    pub(super) fn without(&self, known: &Self) -> Self {
        let mut rest = self.clone();
        leave_out!(rest.traces, known.traces, start end duration root_service_name root_span_name service_stats);
        leave_out!(rest.resources, known.resources, service_name dropped_attributes);
        leave_out!(rest.scopes, known.scopes, name version dropped_attributes);
        leave_out!(rest.spans, known.spans, span_id parent_span_id nested_left nested_right nested_parent child_count name kind trace_state start duration);
        leave_out!(rest.spans, known.spans, status_code status_message dropped_attributes dropped_events dropped_links);
        rest.resources.attrs.leave_out(&known.resources.attrs);
        rest.scopes.attrs.leave_out(&known.scopes.attrs);
        rest.spans.attrs.leave_out(&known.spans.attrs);
        let mut events = rest.events.clone();
        leave_out!(events, known.events, offsets time_since_start name dropped_attributes);
        events.attrs.leave_out(&known.events.attrs);
        if !events.any() {
            rest.events = events;
        }
        let mut links = rest.links.clone();
        leave_out!(links, known.links, offsets trace_id span_id trace_state dropped_attributes);
        links.attrs.leave_out(&known.links.attrs);
        if !links.any() {
            rest.links = links;
        }
        rest
    }
}

impl Projection {
    /// Whether this is the start and other plain columns of spans, and nothing else.
    pub fn is_of_spans(&self) -> bool {
        let spans = &self.spans;
        spans.start && !spans.child_count && spans.attrs.is_none() && *self == Self { spans: spans.clone(), ..Self::default() }
    }
}

impl EventColumns {
    pub(super) fn any(&self) -> bool {
        self.offsets || self.time_since_start || self.name || self.dropped_attributes || !self.attrs.is_none()
    }
}

impl LinkColumns {
    pub(super) fn any(&self) -> bool {
        self.offsets || self.trace_id || self.span_id || self.trace_state || self.dropped_attributes || !self.attrs.is_none()
    }
}
