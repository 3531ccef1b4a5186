//! The leaves of each version in file order: the tables of block-format §3.4, §3.5 and §3.6.

use super::super::dedicated::{DedicatedKind, DedicatedScope, DedicatedSlot, FixedColumn, MAX_STRING_SLOTS_V4, SlotPlace};
use super::ValueType::{Bytes, Int32, Int64, String, UInt32, UInt64};
use super::{AttrPart, Column, Leaf, LeafCodec, LeafEncoding, LeafRepetition, Level, ValueType};

/// Path of an element below a LIST.
const ELEMENT: &str = ".list.element";

pub(super) fn vparquet5(slots: &[DedicatedSlot]) -> Vec<Leaf> {
    let mut list = LeafList::new(Lists::Bare);
    list.add_trace();
    list.add(Column::StatsServiceName, Level::ServiceStats, "ServiceName", String);
    list.add(Column::StatsSpanCount, Level::ServiceStats, "SpanCount", UInt32);
    list.add(Column::StatsErrorCount, Level::ServiceStats, "ErrorCount", UInt32);

    list.add(Column::ResourceServiceName, Level::Resource, "ServiceName", String);
    list.add_attrs(Level::Resource);
    list.add(Column::DroppedAttributes(Level::Resource), Level::Resource, "DroppedAttributesCount", Int32);
    list.add_slots(slots, DedicatedScope::Resource, Level::Resource);

    list.add_scope();
    list.add_attrs(Level::Scope);
    list.add(Column::DroppedAttributes(Level::Scope), Level::Scope, "DroppedAttributesCount", Int32);

    list.add_span_head(ChildCounts::Stored);
    list.add_attrs(Level::Span);
    list.add(Column::DroppedAttributes(Level::Span), Level::Span, "DroppedAttributesCount", Int32);

    list.add(Column::EventTime, Level::Event, "TimeSinceStartNano", UInt64);
    list.add(Column::EventName, Level::Event, "Name", String);
    list.add_attrs(Level::Event);
    list.add(Column::DroppedAttributes(Level::Event), Level::Event, "DroppedAttributesCount", Int32);
    list.add_slots(slots, DedicatedScope::Event, Level::Event);
    list.add(Column::DroppedEvents, Level::Span, "DroppedEventsCount", Int32);

    list.add_links();
    list.add(Column::DroppedLinks, Level::Span, "DroppedLinksCount", Int32);

    list.add_slots(slots, DedicatedScope::Span, Level::Span);
    list.add(Column::StartRounded15, Level::Span, "StartTimeRounded15", UInt32);
    list.add(Column::StartRounded60, Level::Span, "StartTimeRounded60", UInt32);
    list.add(Column::StartRounded300, Level::Span, "StartTimeRounded300", UInt32);
    list.add(Column::StartRounded3600, Level::Span, "StartTimeRounded3600", UInt32);
    list.add(Column::ScopeSpanCount, Level::Scope, "SpanCount", Int32).at("rs.ss.SpanCount");
    list.leaves
}

/// All slots are there, used or not.
pub(super) fn vparquet4() -> Vec<Leaf> {
    let mut list = LeafList::new(Lists::Annotated);
    list.add_trace();
    list.add(Column::StatsServiceName, Level::ServiceStats, "key", String);
    list.add(Column::StatsSpanCount, Level::ServiceStats, "value.SpanCount", UInt32);
    list.add(Column::StatsErrorCount, Level::ServiceStats, "value.ErrorCount", UInt32);

    list.add_attrs(Level::Resource);
    list.add(Column::DroppedAttributes(Level::Resource), Level::Resource, "DroppedAttributesCount", Int32);
    list.add(Column::ResourceServiceName, Level::Resource, "ServiceName", String);
    list.add_fixed_and_slots(DedicatedScope::Resource, Level::Resource);

    list.add_scope();
    list.add_attrs(Level::Scope);
    list.add(Column::DroppedAttributes(Level::Scope), Level::Scope, "DroppedAttributesCount", Int32);

    list.add_span_head(ChildCounts::Derived);
    list.add_attrs(Level::Span);
    list.add(Column::DroppedAttributes(Level::Span), Level::Span, "DroppedAttributesCount", Int32);

    list.add(Column::EventTime, Level::Event, "TimeSinceStartNano", UInt64);
    list.add(Column::EventName, Level::Event, "Name", String);
    list.add_attrs(Level::Event);
    list.add(Column::DroppedAttributes(Level::Event), Level::Event, "DroppedAttributesCount", Int32);
    list.add(Column::DroppedEvents, Level::Span, "DroppedEventsCount", Int32);

    list.add_links();
    list.add(Column::DroppedLinks, Level::Span, "DroppedLinksCount", Int32);
    list.add_fixed_and_slots(DedicatedScope::Span, Level::Span);
    list.leaves
}

/// Never written, so encodings do not matter.
pub(super) fn vparquet3() -> Vec<Leaf> {
    let mut list = LeafList::new(Lists::Annotated);
    list.add_trace();

    list.add_single_attrs(Level::Resource);
    list.add(Column::ResourceServiceName, Level::Resource, "ServiceName", String);
    list.add_fixed_and_slots(DedicatedScope::Resource, Level::Resource);

    list.add_scope();

    list.add_span_head(ChildCounts::Derived);
    list.add_single_attrs(Level::Span);
    list.add(Column::DroppedAttributes(Level::Span), Level::Span, "DroppedAttributesCount", Int32);

    list.add(Column::EventUnixTime, Level::Event, "TimeUnixNano", UInt64);
    list.add(Column::EventName, Level::Event, "Name", String);
    list.add_attr_part(Level::Event, AttrPart::Key);
    list.add_attr_part(Level::Event, AttrPart::ValueMessage);
    list.add(Column::DroppedAttributes(Level::Event), Level::Event, "DroppedAttributesCount", Int32);
    list.add(Column::DroppedEvents, Level::Span, "DroppedEventsCount", Int32);

    list.add(Column::SpanLinks, Level::Span, "Links", Bytes);
    list.add(Column::DroppedLinks, Level::Span, "DroppedLinksCount", Int32);
    list.add_fixed_and_slots(DedicatedScope::Span, Level::Span);
    list.leaves
}

/// How a version spells lists.
#[derive(Clone, Copy, PartialEq)]
enum Lists {
    /// vParquet5: repeated fields.
    Bare,
    /// LIST and MAP groups.
    Annotated,
}

#[derive(PartialEq)]
enum ChildCounts {
    Stored,
    Derived,
}

struct LeafList {
    lists: Lists,
    leaves: Vec<Leaf>,
}

impl LeafList {
    fn new(lists: Lists) -> Self {
        Self { lists, leaves: Vec::new() }
    }

    /// Path of the items of a level, as the prefix of their fields.
    fn path(&self, level: Level) -> std::string::String {
        let element = match self.lists {
            Lists::Bare => "",
            Lists::Annotated => ELEMENT,
        };
        let spans = format!("rs{element}.ss{element}.Spans{element}.");
        match (level, self.lists) {
            (Level::Trace, _) => std::string::String::new(),
            (Level::ServiceStats, Lists::Bare) => "ServiceStats.".to_owned(),
            (Level::ServiceStats, Lists::Annotated) => "ServiceStats.key_value.".to_owned(),
            (Level::Resource, _) => format!("rs{element}.Resource."),
            (Level::Scope, _) => format!("rs{element}.ss{element}.Scope."),
            (Level::Span, _) => spans,
            (Level::Event, _) => format!("{spans}Events{element}."),
            (Level::Link, _) => format!("{spans}Links{element}."),
        }
    }

    /// Appends a required leaf with the encoding usual for its type.
    fn add(&mut self, column: Column, level: Level, name: &str, value: ValueType) -> &mut Leaf {
        let encoding = match value {
            Bytes => LeafEncoding::DeltaLength,
            String => LeafEncoding::Dictionary,
            Int32 | UInt32 | Int64 | UInt64 => LeafEncoding::DeltaBinaryPacked,
            ValueType::Double | ValueType::Bool => LeafEncoding::Plain,
        };
        let path = format!("{}{name}", self.path(level));
        self.leaves.push(Leaf {
            column,
            path,
            level,
            value,
            repetition: LeafRepetition::Required,
            max_def: level.depth(),
            max_rep: level.depth(),
            codec: LeafCodec::Zstd,
            encoding,
        });
        self.leaves.last_mut().expect("pushed above")
    }

    fn add_trace(&mut self) {
        self.add(Column::TraceId, Level::Trace, "TraceID", Bytes).uncompressed();
        self.add(Column::TraceIdText, Level::Trace, "TraceIDText", String).delta_length();
        self.add(Column::TraceStart, Level::Trace, "StartTimeUnixNano", UInt64).uncompressed();
        self.add(Column::TraceEnd, Level::Trace, "EndTimeUnixNano", UInt64).uncompressed();
        self.add(Column::TraceDuration, Level::Trace, "DurationNano", UInt64).uncompressed();
        self.add(Column::RootServiceName, Level::Trace, "RootServiceName", String);
        self.add(Column::RootSpanName, Level::Trace, "RootSpanName", String);
    }

    fn add_scope(&mut self) {
        self.add(Column::ScopeName, Level::Scope, "Name", String);
        self.add(Column::ScopeVersion, Level::Scope, "Version", String);
    }

    /// Appends the leaves of a span before its attributes.
    fn add_span_head(&mut self, child_counts: ChildCounts) {
        self.add(Column::SpanId, Level::Span, "SpanID", Bytes).uncompressed();
        self.add(Column::ParentSpanId, Level::Span, "ParentSpanID", Bytes);
        self.add(Column::NestedParent, Level::Span, "ParentID", Int32);
        self.add(Column::NestedLeft, Level::Span, "NestedSetLeft", Int32);
        self.add(Column::NestedRight, Level::Span, "NestedSetRight", Int32);
        if child_counts == ChildCounts::Stored {
            self.add(Column::ChildCount, Level::Span, "ChildCount", Int32);
        }
        self.add(Column::SpanName, Level::Span, "Name", String);
        self.add(Column::SpanKind, Level::Span, "Kind", Int64);
        self.add(Column::SpanTraceState, Level::Span, "TraceState", String);
        self.add(Column::SpanStart, Level::Span, "StartTimeUnixNano", UInt64).uncompressed();
        self.add(Column::SpanDuration, Level::Span, "DurationNano", UInt64).uncompressed();
        self.add(Column::StatusCode, Level::Span, "StatusCode", Int64);
        self.add(Column::StatusMessage, Level::Span, "StatusMessage", String);
    }

    fn add_links(&mut self) {
        self.add(Column::LinkTraceId, Level::Link, "TraceID", Bytes);
        self.add(Column::LinkSpanId, Level::Link, "SpanID", Bytes);
        self.add(Column::LinkTraceState, Level::Link, "TraceState", String);
        self.add_attrs(Level::Link);
        self.add(Column::DroppedAttributes(Level::Link), Level::Link, "DroppedAttributesCount", Int32);
    }

    /// Appends an attribute list whose values are lists.
    fn add_attrs(&mut self, level: Level) {
        for part in [AttrPart::Key, AttrPart::IsArray] {
            self.add_attr_part(level, part);
        }
        for part in [AttrPart::Value, AttrPart::ValueInt, AttrPart::ValueDouble, AttrPart::ValueBool] {
            let lists = self.lists;
            self.add_attr_part(level, part).repeated(lists);
        }
        self.add_attr_part(level, AttrPart::ValueUnsupported).optional().delta_length();
    }

    /// Appends an attribute list with at most one value an attribute.
    fn add_single_attrs(&mut self, level: Level) {
        self.add_attr_part(level, AttrPart::Key);
        for part in
            [AttrPart::Value, AttrPart::ValueInt, AttrPart::ValueDouble, AttrPart::ValueBool, AttrPart::ValueKvList, AttrPart::ValueArray]
        {
            self.add_attr_part(level, part).optional();
        }
    }

    fn add_attr_part(&mut self, level: Level, part: AttrPart) -> &mut Leaf {
        let (name, value) = match part {
            AttrPart::Key => ("Key", String),
            AttrPart::IsArray => ("IsArray", ValueType::Bool),
            AttrPart::Value => ("Value", String),
            AttrPart::ValueInt => ("ValueInt", Int64),
            AttrPart::ValueDouble => ("ValueDouble", ValueType::Double),
            AttrPart::ValueBool => ("ValueBool", ValueType::Bool),
            AttrPart::ValueUnsupported => ("ValueUnsupported", String),
            AttrPart::ValueKvList => ("ValueKVList", String),
            AttrPart::ValueArray => ("ValueArray", String),
            AttrPart::ValueMessage => ("Value", Bytes),
        };
        let list = match self.lists {
            Lists::Bare => "Attrs".to_owned(),
            Lists::Annotated => format!("Attrs{ELEMENT}"),
        };
        let leaf = self.add(Column::Attr(level, part), level, &format!("{list}.{name}"), value);
        leaf.max_def += 1;
        leaf.max_rep += 1;
        leaf
    }

    /// Appends the used slots of a scope: strings first, then ints.
    fn add_slots(&mut self, slots: &[DedicatedSlot], scope: DedicatedScope, level: Level) {
        for kind in DedicatedKind::ALL {
            for slot in slots.iter().filter(|slot| slot.scope == scope && slot.kind == kind) {
                let SlotPlace::Numbered(number) = slot.place else { continue };
                let lists = self.lists;
                let leaf = self.add_numbered_slot(scope, kind, number, level);
                leaf.repeated(lists);
                if slot.is_blob {
                    leaf.delta_length();
                }
            }
        }
    }

    /// Appends the fixed columns of a scope and then all of its slots.
    fn add_fixed_and_slots(&mut self, scope: DedicatedScope, level: Level) {
        for fixed in FixedColumn::ALL.into_iter().filter(|fixed| fixed.scope() == scope) {
            self.add_slot(Column::Fixed(fixed), level, &fixed.leaf_name(), fixed.kind()).optional();
        }
        for number in 1..=MAX_STRING_SLOTS_V4 as u8 {
            self.add_numbered_slot(scope, DedicatedKind::String, number, level).optional();
        }
    }

    fn add_slot(&mut self, column: Column, level: Level, name: &str, kind: DedicatedKind) -> &mut Leaf {
        let value = match kind {
            DedicatedKind::String => String,
            DedicatedKind::Int => Int64,
        };
        self.add(column, level, name, value)
    }

    fn add_numbered_slot(&mut self, scope: DedicatedScope, kind: DedicatedKind, number: u8, level: Level) -> &mut Leaf {
        let name = match kind {
            DedicatedKind::String => format!("DedicatedAttributes.String{number:02}"),
            DedicatedKind::Int => format!("DedicatedAttributes.Int{number:02}"),
        };
        self.add_slot(Column::Dedicated(scope, kind, number), level, &name, kind)
    }
}

impl Leaf {
    fn uncompressed(&mut self) {
        self.codec = LeafCodec::Uncompressed;
    }

    fn delta_length(&mut self) {
        self.encoding = LeafEncoding::DeltaLength;
    }

    fn at(&mut self, path: &str) {
        self.path = path.to_owned();
    }

    fn repeated(&mut self, lists: Lists) {
        match lists {
            Lists::Bare => self.repetition = LeafRepetition::Repeated,
            // The list repeats, not its element.
            Lists::Annotated => self.path.push_str(ELEMENT),
        }
        self.max_def += 1;
        self.max_rep += 1;
    }

    fn optional(&mut self) -> &mut Self {
        self.repetition = LeafRepetition::Optional;
        self.max_def += 1;
        self
    }
}
