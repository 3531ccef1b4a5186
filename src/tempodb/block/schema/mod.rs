//! The columns of a `data.parquet`: which leaves, in which order, how nested, how we store them (block-format §3.3 to §3.6).
//!
//! The versions have most columns in common; [`leaves`] lists them in the order of each, and [`Column`] says what a leaf holds whatever its
//! path. Where vParquet5 has a bare repeated field, the older ones have a Parquet LIST or MAP of required parts, which adds the same levels.
//!
//! Not here: where values come from (`encode`), how other writers encode the same columns (files say so themselves).
//!
//! Invariants
//! * Path, order, repetition and type of the leaves are a contract: other readers address columns by position. Codec and encoding are our choice.
//! * A leaf's repetition level is the number of `repeated` fields on its path, its definition level that plus one for an optional leaf.

mod leaves;
mod tree;

use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as PhysicalType};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, TypePtr};

use super::dedicated::{self, DedicatedColumn, DedicatedKind, DedicatedScope, DedicatedSlot, FixedColumn, SlotPlace};
use super::meta::BlockVersion;

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
    /// vParquet3: a key-value list as JSON.
    ValueKvList,
    /// vParquet3: an array of any kind as JSON.
    ValueArray,
    /// vParquet3, events: every value as protobuf, or as JSON in old blocks.
    ValueMessage,
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
    /// Relative to the start of the span.
    EventTime,
    /// vParquet3: since the epoch.
    EventUnixTime,
    EventName,
    LinkTraceId,
    LinkSpanId,
    LinkTraceState,
    /// vParquet3: all links of a span as protobuf.
    SpanLinks,
    /// Of a resource, scope, span, event or link.
    DroppedAttributes(Level),
    /// Of a resource, scope, span, event or link.
    Attr(Level, AttrPart),
    /// The slot's number is 1-based.
    Dedicated(DedicatedScope, DedicatedKind, u8),
    /// vParquet3 and vParquet4.
    Fixed(FixedColumn),
}

impl Column {
    /// Returns the column with the values of `slot`.
    pub fn of_slot(slot: &DedicatedSlot) -> Self {
        match slot.place {
            SlotPlace::Numbered(number) => Self::Dedicated(slot.scope, slot.kind, number),
            SlotPlace::Fixed(fixed) => Self::Fixed(fixed),
        }
    }
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
}

/// All columns of a block of a version with a given list of dedicated columns.
#[derive(Debug, Clone)]
pub struct BlockSchema {
    version: BlockVersion,
    leaves: Vec<Leaf>,
    slots: Vec<DedicatedSlot>,
    descriptor: SchemaDescPtr,
}

impl BlockSchema {
    /// `dedicated` is the list of the block's meta.
    pub fn new(version: BlockVersion, dedicated: &[DedicatedColumn]) -> Self {
        let slots = dedicated::assign_slots(dedicated, version);
        let leaves = match version {
            BlockVersion::VParquet3 => leaves::vparquet3(),
            BlockVersion::VParquet4 => leaves::vparquet4(),
            BlockVersion::VParquet5 => leaves::vparquet5(&slots),
        };
        let descriptor = Arc::new(SchemaDescriptor::new(tree::root_of(&leaves)));
        Self { version, leaves, slots, descriptor }
    }

    pub fn version(&self) -> BlockVersion {
        self.version
    }

    /// The columns in file order.
    pub fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    /// The attributes that have a column of their own: dedicated ones in list order, then fixed ones.
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

#[cfg(test)]
mod tests {
    use parquet::file::reader::FileReader;
    use parquet::file::serialized_reader::SerializedFileReader;
    use parquet::schema::printer::print_schema;
    use parquet::schema::types::Type;

    use super::super::meta::BlockMeta;
    use super::*;

    #[test]
    fn levels_of_the_table_equal_those_of_the_schema() {
        for (version, leaves, fields) in
            [(BlockVersion::VParquet3, 76, 8), (BlockVersion::VParquet4, 103, 9), (BlockVersion::VParquet5, 92, 9)]
        {
            let schema = BlockSchema::new(version, &dedicated::default_columns());
            assert_eq!((schema.leaves().len(), schema.root().get_fields().len()), (leaves, fields), "{version}");
            for (leaf, column) in schema.leaves().iter().zip(schema.descriptor().columns()) {
                assert_eq!(leaf.path, column.path().string());
                let (found, wanted) = ((leaf.max_def, leaf.max_rep), (column.max_def_level(), column.max_rep_level()));
                assert_eq!((i16::from(found.0), i16::from(found.1)), wanted, "{version} {}", leaf.path);
            }
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
            "vParquet3/alpha/19af9707-4792-470c-8b91-eb0d72e6906e",
            "vParquet4/alpha/a52965fd-3beb-41d1-bad3-11e1b066d538",
            "vParquet4-compacted/beta/2babd2a3-7a85-488b-926b-5bd62f701a16",
            "vParquet5/alpha/a0a76807-e24a-4b98-bcfd-0e2a55737f75",
            "vParquet5/beta/d99333a4-b0f0-40ac-a8f6-0908cd6aa039",
            "vParquet5-compacted/beta/55cb4ce1-2a4d-4567-8891-bfad371a6a4c",
        ] {
            let folder = format!("testdata/blocks/{block}");
            let meta = BlockMeta::from_json(&std::fs::read(format!("{folder}/meta.json")).unwrap()).unwrap();
            let file = SerializedFileReader::new(std::fs::File::open(format!("{folder}/data.parquet")).unwrap()).unwrap();
            let schema = BlockSchema::new(meta.version().unwrap(), &meta.dedicated_columns);
            let theirs = file.metadata().file_metadata().schema_descr();
            // Compared as text: the file gives lengths to integer types, which mean nothing.
            pretty_assertions::assert_eq!(printed(&schema.root()), printed(theirs.root_schema()), "{block}");
            let paths = |schema: &SchemaDescriptor| schema.columns().iter().map(|column| column.path().string()).collect::<Vec<_>>();
            assert_eq!(paths(schema.descriptor()), paths(theirs), "{block}");
        }
    }

    /// The tables of the format description: path, physical and logical type, repetition of the leaf, its maximum levels.
    #[test]
    fn columns_equal_those_of_the_format() {
        for version in BlockVersion::ALL {
            let table = std::fs::read_to_string(format!("testdata/blocks/columns/{version}.txt")).unwrap();
            let wanted: Vec<String> =
                table.lines().filter(|line| !line.starts_with('#')).map(|line| line.replace("[]", ".list.element")).collect();
            let schema = BlockSchema::new(version, &dedicated::filter_for_version(&dedicated::default_columns(), version));
            let found: Vec<String> = schema.descriptor().columns().iter().map(|column| described(column)).collect();
            pretty_assertions::assert_eq!(found, wanted, "{version}");
        }
    }

    fn described(column: &parquet::schema::types::ColumnDescriptor) -> String {
        let logical = match column.logical_type_ref() {
            None => "-".to_owned(),
            Some(LogicalType::String) => "STRING".to_owned(),
            Some(other) => match column.converted_type() {
                ConvertedType::INT_32 => "INT32".to_owned(),
                ConvertedType::UINT_32 => "UINT32".to_owned(),
                ConvertedType::INT_64 => "INT64".to_owned(),
                ConvertedType::UINT_64 => "UINT64".to_owned(),
                converted => format!("{other:?} {converted}"),
            },
        };
        let repetition = match column.self_type().get_basic_info().repetition() {
            Repetition::REQUIRED => "req",
            Repetition::OPTIONAL => "opt",
            Repetition::REPEATED => "rep",
        };
        let (def, rep) = (column.max_def_level(), column.max_rep_level());
        format!("{} {} {logical} {repetition} {def} {rep}", column.path().string(), column.physical_type())
    }
}
