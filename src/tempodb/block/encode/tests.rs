//! Row groups read back with the `parquet` crate's own column readers and compared with a second, plain shredding of the same table:
//! every row as a tree, walked along the schema.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{ConvertedType, Repetition};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use parquet::schema::types::Type;
use proptest::prelude::*;

use super::super::dedicated::{self, DedicatedColumn, DedicatedKind, DedicatedScope, DedicatedSlot, SlotPlace};
use super::super::meta::BlockVersion;
use super::*;
use crate::model::ids::SpanId;
use crate::model::span_table::{Attrs, Value};
use crate::model::strings::StrId;
use crate::model::testing::arb_span_table;

/// A row, or a part of it: fields by name, each with as many values as it has.
#[derive(Debug, Clone)]
enum Tree {
    Group(HashMap<&'static str, Vec<Tree>>),
    Leaf(Cell),
}

#[derive(Debug, Clone, PartialEq)]
enum Cell {
    Bytes(Vec<u8>),
    Int(i64),
    Double(f64),
    Bool(bool),
}

/// Repetition level, definition level, value.
type Entry = (i16, i16, Option<Cell>);

fn group(fields: impl IntoIterator<Item = (&'static str, Vec<Tree>)>) -> Tree {
    Tree::Group(fields.into_iter().collect())
}

fn int(number: impl Into<i64>) -> Vec<Tree> {
    vec![Tree::Leaf(Cell::Int(number.into()))]
}

/// 64-bit patterns.
fn bits(number: u64) -> Vec<Tree> {
    int(number as i64)
}

fn bits32(number: u32) -> Vec<Tree> {
    int(number as i32)
}

fn raw(bytes: &[u8]) -> Vec<Tree> {
    vec![Tree::Leaf(Cell::Bytes(bytes.to_vec()))]
}

/// All fields that an item has in any version.
struct Rows<'a> {
    table: &'a SpanTable,
    version: BlockVersion,
    slots: Vec<DedicatedSlot>,
}

/// The attributes of an item: general list, dedicated group, fields of the item itself.
type SplitTrees = (Vec<Tree>, Tree, Vec<(&'static str, Vec<Tree>)>);

impl Rows<'_> {
    fn text(&self, id: StrId) -> Vec<Tree> {
        raw(self.table.strings.get(id))
    }

    fn trace(&self, row: usize) -> Tree {
        let traces = &self.table.traces;
        let stats = |at: usize| {
            let counts =
                [("SpanCount", bits32(traces.service_stats.span_count[at])), ("ErrorCount", bits32(traces.service_stats.error_count[at]))];
            let name = self.text(traces.service_stats.service_name[at]);
            let names = [("ServiceName", name.clone()), ("key", name), ("value", vec![group(counts.clone())])];
            group(counts.into_iter().chain(names))
        };
        group([
            ("TraceID", raw(&traces.ids[row].0)),
            ("TraceIDText", raw(traces.ids[row].to_short_hex().as_bytes())),
            ("StartTimeUnixNano", bits(traces.start_unix_nanos[row])),
            ("EndTimeUnixNano", bits(traces.end_unix_nanos[row])),
            ("DurationNano", bits(traces.duration_nanos[row])),
            ("RootServiceName", self.text(traces.root_service_name[row])),
            ("RootSpanName", self.text(traces.root_span_name[row])),
            ("ServiceStats", traces.service_stats_of.range(row).map(stats).collect()),
            ("rs", traces.resources.range(row).map(|resource| self.resource(resource)).collect()),
        ])
    }

    fn resource(&self, at: usize) -> Tree {
        let resources = &self.table.resources;
        let (attrs, dedicated, fixed) = self.attrs(&resources.attrs, at, Some(DedicatedScope::Resource));
        let fields = [
            ("ServiceName", self.text(resources.service_name[at])),
            ("Attrs", attrs),
            ("DroppedAttributesCount", bits32(resources.dropped_attributes[at])),
            ("DedicatedAttributes", vec![dedicated]),
        ];
        let resource = group(fields.into_iter().chain(fixed));
        group([("Resource", vec![resource]), ("ss", resources.scopes.range(at).map(|scope| self.scope(scope)).collect())])
    }

    fn scope(&self, at: usize) -> Tree {
        let scopes = &self.table.scopes;
        let scope = group([
            ("Name", self.text(scopes.name[at])),
            ("Version", self.text(scopes.version[at])),
            ("Attrs", self.attrs(&scopes.attrs, at, None).0),
            ("DroppedAttributesCount", bits32(scopes.dropped_attributes[at])),
        ]);
        let spans = scopes.spans.range(at);
        group([("Scope", vec![scope]), ("SpanCount", int(spans.len() as i64)), ("Spans", spans.map(|span| self.span(span)).collect())])
    }

    fn span(&self, at: usize) -> Tree {
        let spans = &self.table.spans;
        let (attrs, dedicated, fixed) = self.attrs(&spans.attrs, at, Some(DedicatedScope::Span));
        let start = spans.start_unix_nanos[at];
        let interval = |seconds: u64| {
            let nanos = seconds * 1_000_000_000;
            if start == 0 { int(0) } else { bits32((u128::from(start).div_ceil(u128::from(nanos)) - 1) as u32) }
        };
        let fields = [
            ("SpanID", raw(spans.span_id[at].as_bytes())),
            ("ParentSpanID", raw(spans.parent_span_id[at].as_bytes())),
            ("ParentID", int(spans.nested_parent[at])),
            ("NestedSetLeft", int(spans.nested_left[at])),
            ("NestedSetRight", int(spans.nested_right[at])),
            ("ChildCount", int(spans.child_count[at])),
            ("Name", self.text(spans.name[at])),
            ("Kind", int(spans.kind[at])),
            ("TraceState", self.text(spans.trace_state[at])),
            ("StartTimeUnixNano", bits(start)),
            ("DurationNano", bits(spans.duration_nanos[at])),
            ("StatusCode", int(spans.status_code[at])),
            ("StatusMessage", self.text(spans.status_message[at])),
            ("Attrs", attrs),
            ("DroppedAttributesCount", bits32(spans.dropped_attributes[at])),
            ("Events", spans.events.range(at).map(|event| self.event(event)).collect()),
            ("DroppedEventsCount", bits32(spans.dropped_events[at])),
            ("Links", spans.links.range(at).map(|link| self.link(link)).collect()),
            ("DroppedLinksCount", bits32(spans.dropped_links[at])),
            ("DedicatedAttributes", vec![dedicated]),
            ("StartTimeRounded15", interval(15)),
            ("StartTimeRounded60", interval(60)),
            ("StartTimeRounded300", interval(300)),
            ("StartTimeRounded3600", interval(3600)),
        ];
        group(fields.into_iter().chain(fixed))
    }

    fn event(&self, at: usize) -> Tree {
        let events = &self.table.events;
        let (attrs, dedicated, _) = self.attrs(&events.attrs, at, Some(DedicatedScope::Event));
        group([
            ("TimeSinceStartNano", bits(events.time_since_start_nanos[at])),
            ("Name", self.text(events.name[at])),
            ("Attrs", attrs),
            ("DroppedAttributesCount", bits32(events.dropped_attributes[at])),
            ("DedicatedAttributes", vec![dedicated]),
        ])
    }

    fn link(&self, at: usize) -> Tree {
        let links = &self.table.links;
        let trace_id = links.trace_id[at];
        group([
            ("TraceID", raw(if trace_id.is_zero() { &[] } else { &trace_id.0 })),
            ("SpanID", raw(if links.span_id[at] == SpanId::NONE { &[] } else { &links.span_id[at].0 })),
            ("TraceState", self.text(links.trace_state[at])),
            ("Attrs", self.attrs(&links.attrs, at, None).0),
            ("DroppedAttributesCount", bits32(links.dropped_attributes[at])),
        ])
    }

    /// The general list and the slots, as the ordered rules of block-format §4.4 say.
    fn attrs(&self, attrs: &Attrs, owner: usize, scope: Option<DedicatedScope>) -> SplitTrees {
        let mut general = Vec::new();
        let mut in_slots: HashMap<usize, Vec<Tree>> = HashMap::new();
        let is_repeated = self.version == BlockVersion::VParquet5;
        for (key, value) in attrs.of_owner(owner) {
            let elements = attrs.elements_of(&value);
            let name = self.table.strings.get(key);
            let of_name: Vec<usize> =
                (0..self.slots.len()).filter(|&at| Some(self.slots[at].scope) == scope && self.slots[at].name.as_bytes() == name).collect();
            let fits = |at: &usize| {
                let kind_fits = elements.iter().all(|element| match self.slots[*at].kind {
                    DedicatedKind::String => matches!(element, Value::Str(_)),
                    DedicatedKind::Int => matches!(element, Value::Int(_)),
                });
                kind_fits && (is_repeated || !matches!(value, Value::Array { .. }))
            };
            // A fixed column and a dedicated one for the same name take values of different types.
            match of_name.iter().copied().find(|at| fits(at)) {
                Some(at) => drop(in_slots.insert(at, elements.iter().map(|element| self.scalar(element)).collect())),
                None => {
                    if is_repeated {
                        of_name.iter().for_each(|at| drop(in_slots.remove(at)));
                    }
                    general.push(self.attribute(key, &value, elements));
                }
            }
        }
        let (mut dedicated, mut fixed) = (HashMap::new(), Vec::new());
        for (at, values) in in_slots {
            let slot = &self.slots[at];
            match (slot.place, slot.kind) {
                (SlotPlace::Numbered(number), DedicatedKind::String) => {
                    dedicated.insert(&*format!("String{number:02}").leak(), values);
                }
                (SlotPlace::Numbered(number), DedicatedKind::Int) => {
                    dedicated.insert(&*format!("Int{number:02}").leak(), values);
                }
                (SlotPlace::Fixed(column), _) => fixed.push((&*column.leaf_name().leak(), values)),
            }
        }
        (general, Tree::Group(dedicated), fixed)
    }

    fn scalar(&self, value: &Value) -> Tree {
        Tree::Leaf(match value {
            Value::Str(id) | Value::Json(id) => Cell::Bytes(self.table.strings.get(*id).to_vec()),
            Value::Int(number) => Cell::Int(*number),
            Value::Double(number) => Cell::Double(*number),
            Value::Bool(truth) => Cell::Bool(*truth),
            Value::Array { .. } => unreachable!("arrays hold scalars"),
        })
    }

    fn attribute(&self, key: StrId, value: &Value, elements: &[Value]) -> Tree {
        let mut fields: HashMap<&'static str, Vec<Tree>> = HashMap::new();
        for element in elements {
            let list = match element {
                Value::Str(_) => "Value",
                Value::Int(_) => "ValueInt",
                Value::Double(_) => "ValueDouble",
                Value::Bool(_) => "ValueBool",
                Value::Json(_) => "ValueUnsupported",
                Value::Array { .. } => unreachable!("arrays hold scalars"),
            };
            fields.entry(list).or_default().push(self.scalar(element));
        }
        fields.insert("Key", self.text(key));
        fields.insert("IsArray", vec![Tree::Leaf(Cell::Bool(matches!(value, Value::Array { .. })))]);
        Tree::Group(fields)
    }
}

/// What repeats in a LIST is its element, in a MAP the pair; other fields speak for themselves.
fn unwrapped(field: &Type) -> (&Type, Repetition) {
    let info = field.get_basic_info();
    match info.converted_type() {
        ConvertedType::LIST => (&field.get_fields()[0].get_fields()[0], Repetition::REPEATED),
        ConvertedType::MAP => (&field.get_fields()[0], Repetition::REPEATED),
        _ => (field, info.repetition()),
    }
}

/// Dremel's shredding, by the book: appends the entries of every leaf below `schema`.
fn shred(schema: &Type, tree: Option<&Tree>, (rep, def, max_rep): (i16, i16, i16), leaf: &mut usize, out: &mut [Vec<Entry>]) {
    if schema.is_primitive() {
        let value = tree.map(|tree| match tree {
            Tree::Leaf(cell) => cell.clone(),
            Tree::Group(_) => panic!("{} is a leaf", schema.name()),
        });
        out[*leaf].push((rep, def, value));
        *leaf += 1;
        return;
    }
    for field in schema.get_fields() {
        let values = match tree {
            Some(Tree::Group(fields)) => fields.get(field.name()).map_or(&[][..], Vec::as_slice),
            Some(Tree::Leaf(_)) => panic!("{} is a group", schema.name()),
            None => &[],
        };
        let (field, repetition) = unwrapped(field);
        let (def_step, rep_step) = match repetition {
            Repetition::REQUIRED => (0, 0),
            Repetition::OPTIONAL => (1, 0),
            Repetition::REPEATED => (1, 1),
        };
        let first_leaf = *leaf;
        if values.is_empty() {
            assert!(tree.is_none() || repetition != Repetition::REQUIRED, "{} is required", field.name());
            shred(field, None, (rep, def, max_rep + rep_step), leaf, out);
        }
        for (at, value) in values.iter().enumerate() {
            *leaf = first_leaf;
            let rep = if at == 0 { rep } else { max_rep + rep_step };
            shred(field, Some(value), (rep, def + def_step, max_rep + rep_step), leaf, out);
        }
    }
}

fn encode_file(tables: &[SpanTable], schema: &BlockSchema, settings: EncodeSettings) -> Bytes {
    let mut file = SerializedFileWriter::new(Vec::new(), schema.root(), Arc::new(WriterProperties::new())).unwrap();
    for table in tables {
        append_row_group(table, schema, settings, &mut file).unwrap();
    }
    Bytes::from(file.into_inner().unwrap())
}

fn open(file: Bytes) -> SerializedFileReader<Bytes> {
    let options = ReadOptionsBuilder::new().with_page_index().build();
    SerializedFileReader::new_with_options(file, options).unwrap()
}

fn read_column(file: &SerializedFileReader<Bytes>, group: usize, column: usize) -> Vec<Entry> {
    let max_def = file.metadata().file_metadata().schema_descr().column(column).max_def_level();
    fn all<T: DataType>(mut reader: ColumnReaderImpl<T>, max_def: i16, cell: impl Fn(&T::T) -> Cell) -> Vec<Entry> {
        let (mut defs, mut reps, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let (records, ..) = reader.read_records(usize::MAX, Some(&mut defs), Some(&mut reps), &mut values).unwrap();
        let entries = if max_def == 0 { records } else { defs.len() };
        defs.resize(entries, 0);
        reps.resize(entries, 0);
        let mut values = values.iter().map(cell);
        let entries = reps.into_iter().zip(defs).map(|(rep, def)| (rep, def, (def == max_def).then(|| values.next().unwrap()))).collect();
        assert!(values.next().is_none());
        entries
    }
    match file.get_row_group(group).unwrap().get_column_reader(column).unwrap() {
        ColumnReader::BoolColumnReader(reader) => all(reader, max_def, |value| Cell::Bool(*value)),
        ColumnReader::Int32ColumnReader(reader) => all(reader, max_def, |value| Cell::Int(i64::from(*value))),
        ColumnReader::Int64ColumnReader(reader) => all(reader, max_def, |value| Cell::Int(*value)),
        ColumnReader::DoubleColumnReader(reader) => all(reader, max_def, |value| Cell::Double(*value)),
        ColumnReader::ByteArrayColumnReader(reader) => all(reader, max_def, |value| Cell::Bytes(value.data().to_vec())),
        ColumnReader::Int96ColumnReader(_) | ColumnReader::FloatColumnReader(_) | ColumnReader::FixedLenByteArrayColumnReader(_) => {
            panic!("no such column in the schema")
        }
    }
}

fn lists() -> impl Strategy<Value = Vec<DedicatedColumn>> {
    let event = |name, kind| DedicatedColumn::new(DedicatedScope::Event, name, kind);
    let rich = vec![
        DedicatedColumn::new(DedicatedScope::Resource, "k8s.pod.name", DedicatedKind::String),
        DedicatedColumn::new(DedicatedScope::Span, "a", DedicatedKind::String).with_option("blob"),
        DedicatedColumn::new(DedicatedScope::Span, "server.port", DedicatedKind::Int).with_option("array"),
        DedicatedColumn::new(DedicatedScope::Span, "b", DedicatedKind::String),
        event("exception.type", DedicatedKind::String),
        event("attempt", DedicatedKind::Int),
    ];
    prop_oneof![Just(dedicated::default_columns()), Just(Vec::new()), Just(rich)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_column_reads_back(
        tables in prop::collection::vec(arb_span_table(12), 1..3),
        version in prop_oneof![Just(BlockVersion::VParquet4), Just(BlockVersion::VParquet5)],
        columns in lists(),
        page_size_bytes in prop_oneof![Just(1usize), Just(64), Just(1 << 20)],
        dictionary_limit_bytes in prop_oneof![Just(0usize), Just(20), Just(1 << 20)],
    ) {
        let schema = BlockSchema::new(version, &dedicated::filter_for_version(&columns, version));
        let settings = EncodeSettings { page_size_bytes, dictionary_limit_bytes, is_compressing: false, ..EncodeSettings::default() };
        let file = open(encode_file(&tables, &schema, settings));
        for (number, table) in tables.iter().enumerate() {
            let rows = Rows { table, version, slots: schema.slots().to_vec() };
            let mut expected = vec![Vec::new(); schema.leaves().len()];
            for row in 0..table.trace_count() {
                shred(&schema.root(), Some(&rows.trace(row)), (0, 0, 0), &mut 0, &mut expected);
            }
            for (column, leaf) in schema.leaves().iter().enumerate() {
                prop_assert_eq!(&read_column(&file, number, column), &expected[column], "{}", &leaf.path);
                check_statistics(&file, number, column, &expected[column])?;
            }
        }
    }

    /// A compressed page holds what the uncompressed one holds.
    #[test]
    fn compression_changes_nothing_else(table in arb_span_table(8)) {
        let schema = BlockSchema::new(BlockVersion::VParquet5, &dedicated::default_columns());
        let tables = [table];
        let files = [true, false].map(|is_compressing| {
            encode_file(&tables, &schema, EncodeSettings { page_size_bytes: 256, is_compressing, ..EncodeSettings::default() })
        });
        let pages = files.clone().map(|bytes| {
            let file = open(bytes.clone());
            let index = file.metadata().page_index_for_row_group(0);
            let columns = (0..schema.leaves().len()).map(|column| {
                let locations = index.offset_index(column).unwrap().page_locations().clone();
                let page = |offset: i64, len: i32| bytes.slice(offset as usize..offset as usize + len as usize);
                locations.iter().map(|at| page(at.offset, at.compressed_page_size)).collect::<Vec<_>>()
            });
            columns.collect::<Vec<_>>()
        });
        for (column, leaf) in schema.leaves().iter().enumerate() {
            prop_assert_eq!(pages[0][column].len(), pages[1][column].len());
            for (stored, plain) in pages[0][column].iter().zip(&pages[1][column]) {
                let Some(frame) = stored.windows(4).position(|bytes| bytes == [0x28, 0xb5, 0x2f, 0xfd]) else {
                    prop_assert_eq!(stored, plain, "{} is uncompressed", &leaf.path);
                    continue;
                };
                let body = zstd::decode_all(&stored[frame..]).unwrap();
                prop_assert!(plain.ends_with(&body), "{}", &leaf.path);
            }
        }
    }
}

/// Null count, bounds and offset index fit the entries.
fn check_statistics(file: &SerializedFileReader<Bytes>, group: usize, column: usize, entries: &[Entry]) -> Result<(), TestCaseError> {
    let metadata = file.metadata();
    let chunk = metadata.row_group(group).column(column);
    let statistics = chunk.statistics().unwrap();
    let values: Vec<&Cell> = entries.iter().filter_map(|(_, _, value)| value.as_ref()).collect();
    prop_assert_eq!(chunk.num_values(), entries.len() as i64);
    prop_assert_eq!(statistics.null_count_opt(), Some((entries.len() - values.len()) as u64));
    if let (Some(min), Some(max)) = (statistics.min_bytes_opt(), statistics.max_bytes_opt()) {
        for value in &values {
            if let Cell::Bytes(value) = value {
                prop_assert!(min <= value.as_slice() && value.as_slice() <= max);
            }
        }
    } else {
        prop_assert!(values.is_empty());
    }
    let index = metadata.page_index_for_row_group(group);
    let (offsets, pages) = (index.offset_index(column).unwrap(), index.column_index(column).unwrap());
    prop_assert_eq!(offsets.page_locations().len() as u64, pages.num_pages());
    let nulls: i64 = (0..offsets.page_locations().len()).map(|page| pages.null_count(page).unwrap()).sum();
    prop_assert_eq!(nulls, (entries.len() - values.len()) as i64);
    Ok(())
}

#[test]
fn unsigned_bounds_are_unsigned() {
    let mut table = one_trace(TraceId([1; 16]));
    table.traces.start_unix_nanos = vec![u64::MAX];
    let mut second = one_trace(TraceId([2; 16]));
    second.traces.start_unix_nanos = vec![1];
    let schema = BlockSchema::new(BlockVersion::VParquet5, &[]);
    let settings = EncodeSettings { is_compressing: false, ..EncodeSettings::default() };
    let file = open(encode_file(&[table, second], &schema, settings));
    let bounds = |group: usize| {
        let statistics = file.metadata().row_group(group).column(2).statistics().unwrap();
        (statistics.min_bytes_opt().unwrap().to_vec(), statistics.max_bytes_opt().unwrap().to_vec())
    };
    assert_eq!(bounds(0), (vec![0xff; 8], vec![0xff; 8]));
    assert_eq!(bounds(1).0, 1u64.to_le_bytes());
}

#[test]
fn rows_must_ascend() {
    let mut table = one_trace(TraceId([2; 16]));
    let schema = BlockSchema::new(BlockVersion::VParquet5, &[]);
    table.traces.ids = vec![TraceId([2; 16]), TraceId([1; 16])];
    let mut file = SerializedFileWriter::new(Vec::new(), schema.root(), Arc::new(WriterProperties::new())).unwrap();
    let refused = append_row_group(&table, &schema, EncodeSettings::default(), &mut file).unwrap_err();
    assert!(matches!(refused, EncodeError::NotAscending { .. }));
    let refused = append_row_group(&SpanTable::default(), &schema, EncodeSettings::default(), &mut file).unwrap_err();
    assert!(matches!(refused, EncodeError::Empty));
}

/// A trace without resources.
fn one_trace(id: TraceId) -> SpanTable {
    let mut table = SpanTable::default();
    let traces = &mut table.traces;
    traces.ids.push(id);
    traces.resources.push_end(0);
    traces.service_stats_of.push_end(0);
    traces.start_unix_nanos.push(0);
    traces.end_unix_nanos.push(0);
    traces.duration_nanos.push(0);
    traces.root_service_name.push(StrId::EMPTY);
    traces.root_span_name.push(StrId::EMPTY);
    table
}
