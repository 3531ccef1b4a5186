//! The columns of a vParquet5 `data.parquet`: which leaves, in which order, how nested, how we store them (block-format §3.3, §3.4).
//!
//! Not here: where values come from (`encode`), how other writers encode the same columns (files say so themselves), vParquet3 and
//! vParquet4, which we only read.
//!
//! Invariants
//! * Path, order, repetition and type of the leaves are a contract: other readers address columns by position. Codec and encoding are our choice.
//! * A leaf's repetition level is the number of `repeated` fields on its path, its definition level that plus one for an optional leaf.

use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as PhysicalType};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type, TypePtr};

use super::dedicated::{self, DedicatedColumn, DedicatedKind, DedicatedScope, DedicatedSlot};
use super::meta::BlockVersion;

/// Name of the root schema element.
pub const ROOT_NAME: &str = "Trace";

/// Groups that repeat; all other groups are required and add no level.
const REPEATED_GROUPS: [&str; 7] = ["ServiceStats", "rs", "ss", "Spans", "Attrs", "Events", "Links"];

/// The items whose fields a leaf holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    Trace,
    ServiceStats,
    Resource,
    Scope,
    Span,
    Event,
    Link,
}

impl Level {
    /// `repeated` groups from the root to an item of this level: 0 for a trace, 3 for a span.
    pub fn depth(self) -> u8 {
        match self {
            Self::Trace => 0,
            Self::ServiceStats | Self::Resource => 1,
            Self::Scope => 2,
            Self::Span => 3,
            Self::Event | Self::Link => 4,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Trace => "",
            Self::ServiceStats => "ServiceStats.",
            Self::Resource => "rs.Resource.",
            Self::Scope => "rs.ss.Scope.",
            Self::Span => "rs.ss.Spans.",
            Self::Event => "rs.ss.Spans.Events.",
            Self::Link => "rs.ss.Spans.Links.",
        }
    }
}

/// A leaf of an attribute list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttrPart {
    Key,
    IsArray,
    Value,
    ValueInt,
    ValueDouble,
    ValueBool,
    ValueUnsupported,
}

impl AttrPart {
    pub const ALL: [Self; 7] =
        [Self::Key, Self::IsArray, Self::Value, Self::ValueInt, Self::ValueDouble, Self::ValueBool, Self::ValueUnsupported];

    fn name(self) -> &'static str {
        match self {
            Self::Key => "Key",
            Self::IsArray => "IsArray",
            Self::Value => "Value",
            Self::ValueInt => "ValueInt",
            Self::ValueDouble => "ValueDouble",
            Self::ValueBool => "ValueBool",
            Self::ValueUnsupported => "ValueUnsupported",
        }
    }
}

/// What a leaf holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Column {
    TraceId,
    TraceIdText,
    TraceStart,
    TraceEnd,
    TraceDuration,
    RootServiceName,
    RootSpanName,
    StatsServiceName,
    StatsSpanCount,
    StatsErrorCount,
    ResourceServiceName,
    ScopeName,
    ScopeVersion,
    ScopeSpanCount,
    SpanId,
    ParentSpanId,
    NestedParent,
    NestedLeft,
    NestedRight,
    ChildCount,
    SpanName,
    SpanKind,
    SpanTraceState,
    SpanStart,
    SpanDuration,
    StatusCode,
    StatusMessage,
    DroppedEvents,
    DroppedLinks,
    StartRounded15,
    StartRounded60,
    StartRounded300,
    StartRounded3600,
    EventTime,
    EventName,
    LinkTraceId,
    LinkSpanId,
    LinkTraceState,
    /// Of a resource, scope, span, event or link.
    DroppedAttributes(Level),
    /// Of a resource, scope, span, event or link.
    Attr(Level, AttrPart),
    /// The slot's number is 1-based.
    Dedicated(DedicatedScope, DedicatedKind, u8),
}

/// Physical and logical type of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueType {
    Bytes,
    String,
    Int32,
    UInt32,
    Int64,
    UInt64,
    Double,
    Bool,
}

impl ValueType {
    pub fn physical(self) -> PhysicalType {
        match self {
            Self::Bytes | Self::String => PhysicalType::BYTE_ARRAY,
            Self::Int32 | Self::UInt32 => PhysicalType::INT32,
            Self::Int64 | Self::UInt64 => PhysicalType::INT64,
            Self::Double => PhysicalType::DOUBLE,
            Self::Bool => PhysicalType::BOOLEAN,
        }
    }

    fn logical(self) -> (ConvertedType, Option<LogicalType>) {
        let integer = |bit_width, is_signed| Some(LogicalType::integer(bit_width, is_signed));
        match self {
            Self::Bytes | Self::Double | Self::Bool => (ConvertedType::NONE, None),
            Self::String => (ConvertedType::UTF8, Some(LogicalType::String)),
            Self::Int32 => (ConvertedType::INT_32, integer(32, true)),
            Self::UInt32 => (ConvertedType::UINT_32, integer(32, false)),
            Self::Int64 => (ConvertedType::INT_64, integer(64, true)),
            Self::UInt64 => (ConvertedType::UINT_64, integer(64, false)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeafRepetition {
    Required,
    Optional,
    Repeated,
}

impl LeafRepetition {
    fn parquet(self) -> Repetition {
        match self {
            Self::Required => Repetition::REQUIRED,
            Self::Optional => Repetition::OPTIONAL,
            Self::Repeated => Repetition::REPEATED,
        }
    }
}

/// How our writer compresses a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeafCodec {
    Uncompressed,
    /// Level 1.
    Zstd,
}

/// How our writer encodes the values of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeafEncoding {
    /// A dictionary while it stays small, delta-length byte arrays otherwise.
    Dictionary,
    DeltaLength,
    DeltaBinaryPacked,
    Plain,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    pub column: Column,
    /// Dotted path from the root, which itself is not part of it.
    pub path: String,
    /// The items it belongs to; attribute leaves name the attributes' owner.
    pub level: Level,
    pub value: ValueType,
    pub repetition: LeafRepetition,
    pub max_def: u8,
    pub max_rep: u8,
    pub codec: LeafCodec,
    pub encoding: LeafEncoding,
    /// Whether bounds in a file can be trusted. Not for blobs: the compatible system stores empty strings as their bounds; ours are real.
    pub has_bounds: bool,
}

/// All columns of a block with a given list of dedicated columns.
#[derive(Debug, Clone)]
pub struct BlockSchema {
    leaves: Vec<Leaf>,
    slots: Vec<DedicatedSlot>,
    descriptor: SchemaDescPtr,
}

impl BlockSchema {
    /// `dedicated` is the list of the block's meta.
    pub fn new(dedicated: &[DedicatedColumn]) -> Self {
        let slots = dedicated::assign_slots(dedicated, BlockVersion::VParquet5);
        let leaves = leaves(&slots);
        let fields = fields_of(&leaves, 0);
        let root = Type::group_type_builder(ROOT_NAME).with_fields(fields).build().expect("the groups have names and fields");
        let descriptor = Arc::new(SchemaDescriptor::new(Arc::new(root)));
        Self { leaves, slots, descriptor }
    }

    /// The columns in file order.
    pub fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    /// The dedicated columns that have a place in the file, in list order.
    pub fn slots(&self) -> &[DedicatedSlot] {
        &self.slots
    }

    pub fn descriptor(&self) -> &SchemaDescPtr {
        &self.descriptor
    }

    /// The root schema element.
    pub fn root(&self) -> TypePtr {
        self.descriptor.root_schema_ptr()
    }

    /// Returns the position of `column`; `None` for a slot that is not in use.
    pub fn position(&self, column: Column) -> Option<usize> {
        self.leaves.iter().position(|leaf| leaf.column == column)
    }
}

fn leaves(slots: &[DedicatedSlot]) -> Vec<Leaf> {
    use ValueType::{Bytes, Int32, Int64, String, UInt32, UInt64};
    let mut list = LeafList::default();
    list.add(Column::TraceId, Level::Trace, "TraceID", Bytes).uncompressed();
    list.add(Column::TraceIdText, Level::Trace, "TraceIDText", String).delta_length();
    list.add(Column::TraceStart, Level::Trace, "StartTimeUnixNano", UInt64).uncompressed();
    list.add(Column::TraceEnd, Level::Trace, "EndTimeUnixNano", UInt64).uncompressed();
    list.add(Column::TraceDuration, Level::Trace, "DurationNano", UInt64).uncompressed();
    list.add(Column::RootServiceName, Level::Trace, "RootServiceName", String);
    list.add(Column::RootSpanName, Level::Trace, "RootSpanName", String);
    list.add(Column::StatsServiceName, Level::ServiceStats, "ServiceName", String);
    list.add(Column::StatsSpanCount, Level::ServiceStats, "SpanCount", UInt32);
    list.add(Column::StatsErrorCount, Level::ServiceStats, "ErrorCount", UInt32);

    list.add(Column::ResourceServiceName, Level::Resource, "ServiceName", String);
    list.add_attrs(Level::Resource);
    list.add(Column::DroppedAttributes(Level::Resource), Level::Resource, "DroppedAttributesCount", Int32);
    list.add_slots(slots, DedicatedScope::Resource, Level::Resource);

    list.add(Column::ScopeName, Level::Scope, "Name", String);
    list.add(Column::ScopeVersion, Level::Scope, "Version", String);
    list.add_attrs(Level::Scope);
    list.add(Column::DroppedAttributes(Level::Scope), Level::Scope, "DroppedAttributesCount", Int32);

    list.add(Column::SpanId, Level::Span, "SpanID", Bytes).uncompressed();
    list.add(Column::ParentSpanId, Level::Span, "ParentSpanID", Bytes);
    list.add(Column::NestedParent, Level::Span, "ParentID", Int32);
    list.add(Column::NestedLeft, Level::Span, "NestedSetLeft", Int32);
    list.add(Column::NestedRight, Level::Span, "NestedSetRight", Int32);
    list.add(Column::ChildCount, Level::Span, "ChildCount", Int32);
    list.add(Column::SpanName, Level::Span, "Name", String);
    list.add(Column::SpanKind, Level::Span, "Kind", Int64);
    list.add(Column::SpanTraceState, Level::Span, "TraceState", String);
    list.add(Column::SpanStart, Level::Span, "StartTimeUnixNano", UInt64).uncompressed();
    list.add(Column::SpanDuration, Level::Span, "DurationNano", UInt64).uncompressed();
    list.add(Column::StatusCode, Level::Span, "StatusCode", Int64);
    list.add(Column::StatusMessage, Level::Span, "StatusMessage", String);
    list.add_attrs(Level::Span);
    list.add(Column::DroppedAttributes(Level::Span), Level::Span, "DroppedAttributesCount", Int32);

    list.add(Column::EventTime, Level::Event, "TimeSinceStartNano", UInt64);
    list.add(Column::EventName, Level::Event, "Name", String);
    list.add_attrs(Level::Event);
    list.add(Column::DroppedAttributes(Level::Event), Level::Event, "DroppedAttributesCount", Int32);
    list.add_slots(slots, DedicatedScope::Event, Level::Event);
    list.add(Column::DroppedEvents, Level::Span, "DroppedEventsCount", Int32);

    list.add(Column::LinkTraceId, Level::Link, "TraceID", Bytes);
    list.add(Column::LinkSpanId, Level::Link, "SpanID", Bytes);
    list.add(Column::LinkTraceState, Level::Link, "TraceState", String);
    list.add_attrs(Level::Link);
    list.add(Column::DroppedAttributes(Level::Link), Level::Link, "DroppedAttributesCount", Int32);
    list.add(Column::DroppedLinks, Level::Span, "DroppedLinksCount", Int32);

    list.add_slots(slots, DedicatedScope::Span, Level::Span);
    list.add(Column::StartRounded15, Level::Span, "StartTimeRounded15", UInt32);
    list.add(Column::StartRounded60, Level::Span, "StartTimeRounded60", UInt32);
    list.add(Column::StartRounded300, Level::Span, "StartTimeRounded300", UInt32);
    list.add(Column::StartRounded3600, Level::Span, "StartTimeRounded3600", UInt32);
    list.add(Column::ScopeSpanCount, Level::Scope, "SpanCount", Int32).at("rs.ss.SpanCount");
    list.0
}

#[derive(Default)]
struct LeafList(Vec<Leaf>);

impl LeafList {
    /// Appends a required leaf with the encoding usual for its type.
    fn add(&mut self, column: Column, level: Level, name: &str, value: ValueType) -> &mut Leaf {
        let encoding = match value {
            ValueType::Bytes => LeafEncoding::DeltaLength,
            ValueType::String => LeafEncoding::Dictionary,
            ValueType::Int32 | ValueType::UInt32 | ValueType::Int64 | ValueType::UInt64 => LeafEncoding::DeltaBinaryPacked,
            ValueType::Double | ValueType::Bool => LeafEncoding::Plain,
        };
        self.0.push(Leaf {
            column,
            path: format!("{}{name}", level.path()),
            level,
            value,
            repetition: LeafRepetition::Required,
            max_def: level.depth(),
            max_rep: level.depth(),
            codec: LeafCodec::Zstd,
            encoding,
            has_bounds: true,
        });
        self.0.last_mut().expect("pushed above")
    }

    fn add_attrs(&mut self, level: Level) {
        for part in AttrPart::ALL {
            let value = match part {
                AttrPart::Key | AttrPart::Value | AttrPart::ValueUnsupported => ValueType::String,
                AttrPart::IsArray | AttrPart::ValueBool => ValueType::Bool,
                AttrPart::ValueInt => ValueType::Int64,
                AttrPart::ValueDouble => ValueType::Double,
            };
            let leaf = self.add(Column::Attr(level, part), level, &format!("Attrs.{}", part.name()), value);
            leaf.max_def += 1;
            leaf.max_rep += 1;
            match part {
                AttrPart::Key | AttrPart::IsArray => {}
                AttrPart::Value | AttrPart::ValueInt | AttrPart::ValueDouble | AttrPart::ValueBool => leaf.repeated(),
                AttrPart::ValueUnsupported => leaf.optional(),
            }
        }
    }

    /// Appends the used slots of a scope: strings first, then ints.
    fn add_slots(&mut self, slots: &[DedicatedSlot], scope: DedicatedScope, level: Level) {
        for kind in DedicatedKind::ALL {
            for slot in slots.iter().filter(|slot| slot.scope == scope && slot.kind == kind) {
                let column = Column::Dedicated(scope, kind, slot.number as u8);
                let value = match kind {
                    DedicatedKind::String => ValueType::String,
                    DedicatedKind::Int => ValueType::Int64,
                };
                let leaf = self.add(column, level, &format!("DedicatedAttributes.{}", slot.leaf_name()), value);
                leaf.repeated();
                if slot.is_blob {
                    leaf.delta_length();
                    leaf.has_bounds = false;
                }
            }
        }
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

    fn repeated(&mut self) {
        self.repetition = LeafRepetition::Repeated;
        self.max_def += 1;
        self.max_rep += 1;
    }

    fn optional(&mut self) {
        self.repetition = LeafRepetition::Optional;
        self.encoding = LeafEncoding::DeltaLength;
        self.max_def += 1;
    }

    fn parquet_type(&self, name: &str) -> Type {
        let (converted, logical) = self.value.logical();
        Type::primitive_type_builder(name, self.value.physical())
            .with_repetition(self.repetition.parquet())
            .with_converted_type(converted)
            .with_logical_type(logical)
            .build()
            .expect("type and annotation fit")
    }
}

/// Builds the schema elements of `leaves`, whose paths agree in the first `depth` segments. Leaves of one group stand together.
fn fields_of(leaves: &[Leaf], depth: usize) -> Vec<TypePtr> {
    let segment = |leaf: &Leaf| leaf.path.split('.').nth(depth).map(str::to_owned).expect("groups end above their leaves");
    let mut fields = Vec::new();
    for group in leaves.chunk_by(|a, b| segment(a) == segment(b)) {
        let name = segment(&group[0]);
        let is_leaf = group[0].path.split('.').count() == depth + 1;
        let field = if is_leaf {
            group[0].parquet_type(&name)
        } else {
            let repetition = if REPEATED_GROUPS.contains(&name.as_str()) { Repetition::REPEATED } else { Repetition::REQUIRED };
            Type::group_type_builder(&name)
                .with_repetition(repetition)
                .with_fields(fields_of(group, depth + 1))
                .build()
                .expect("the groups have names and fields")
        };
        fields.push(Arc::new(field));
    }
    fields
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::FileReader;
    use parquet::file::serialized_reader::SerializedFileReader;
    use parquet::schema::printer::print_schema;

    use super::super::meta::BlockMeta;
    use super::*;

    #[test]
    fn levels_of_the_table_equal_those_of_the_schema() {
        let schema = BlockSchema::new(&dedicated::default_columns());
        assert_eq!(schema.leaves().len(), 92);
        assert_eq!(schema.root().get_fields().len(), 9);
        for (leaf, column) in schema.leaves().iter().zip(schema.descriptor().columns()) {
            assert_eq!(leaf.path, column.path().string());
            assert_eq!(
                (i16::from(leaf.max_def), i16::from(leaf.max_rep)),
                (column.max_def_level(), column.max_rep_level()),
                "{}",
                leaf.path
            );
        }
    }

    fn printed(root: &Type) -> String {
        let mut text = Vec::new();
        print_schema(&mut text, root);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn columns_equal_those_of_real_blocks() {
        for block in [
            "vParquet5/alpha/a0a76807-e24a-4b98-bcfd-0e2a55737f75",
            "vParquet5/beta/d99333a4-b0f0-40ac-a8f6-0908cd6aa039",
            "vParquet5-compacted/beta/55cb4ce1-2a4d-4567-8891-bfad371a6a4c",
        ] {
            let folder = format!("testdata/blocks/{block}");
            let meta = BlockMeta::from_json(&std::fs::read(format!("{folder}/meta.json")).unwrap()).unwrap();
            let file = SerializedFileReader::new(std::fs::File::open(format!("{folder}/data.parquet")).unwrap()).unwrap();
            let schema = BlockSchema::new(&meta.dedicated_columns);
            let theirs = file.metadata().file_metadata().schema_descr();
            // Compared as text: the file gives lengths to integer types, which mean nothing.
            pretty_assertions::assert_eq!(printed(&schema.root()), printed(theirs.root_schema()), "{block}");
            let paths = |schema: &SchemaDescriptor| schema.columns().iter().map(|column| column.path().string()).collect::<Vec<_>>();
            assert_eq!(paths(schema.descriptor()), paths(theirs), "{block}");
        }
    }
}
