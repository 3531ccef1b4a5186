//! Spans as flat rows: plain columns for tools that know nothing of the block format.
//!
//! Attributes, events and links are JSON texts in a column each: their keys differ from span to span.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, TimeUnit, Type as PhysicalType, ZstdLevel};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Map, Value as Json, json};

use crate::model::span_table::{Attrs, SpanTable, Value};
use crate::model::strings::StrId;

/// Spans of a row group of the file.
const ROW_GROUP_SPANS: usize = 200_000;

/// Names of the kinds and status codes, by their numbers.
const KINDS: [&str; 6] = ["unspecified", "internal", "server", "client", "producer", "consumer"];
const STATUSES: [&str; 3] = ["unset", "ok", "error"];

/// A column of the file: its name, and the value of a span.
struct FlatColumn {
    name: &'static str,
    kind: FlatKind,
}

enum FlatKind {
    Text(fn(&Row<'_>) -> String),
    Int(fn(&Row<'_>) -> i64),
    /// Nanoseconds since the epoch.
    Time(fn(&Row<'_>) -> i64),
}

/// One span of a table and where it belongs.
struct Row<'a> {
    table: &'a SpanTable,
    trace: usize,
    resource: usize,
    scope: usize,
    span: usize,
}

/// The columns, in file order.
const COLUMNS: &[FlatColumn] = &[
    FlatColumn { name: "trace_id", kind: FlatKind::Text(|row| row.table.traces.ids[row.trace].to_string()) },
    FlatColumn { name: "span_id", kind: FlatKind::Text(|row| row.table.spans.span_id[row.span].to_string()) },
    FlatColumn {
        name: "parent_span_id",
        kind: FlatKind::Text(|row| {
            let parent = row.table.spans.parent_span_id[row.span];
            if parent.is_none() { String::new() } else { parent.to_string() }
        }),
    },
    FlatColumn { name: "service_name", kind: FlatKind::Text(|row| row.text(row.table.resources.service_name[row.resource])) },
    FlatColumn { name: "name", kind: FlatKind::Text(|row| row.text(row.table.spans.name[row.span])) },
    FlatColumn { name: "kind", kind: FlatKind::Text(|row| name_of(&KINDS, row.table.spans.kind[row.span])) },
    FlatColumn { name: "status", kind: FlatKind::Text(|row| name_of(&STATUSES, row.table.spans.status_code[row.span])) },
    FlatColumn { name: "status_message", kind: FlatKind::Text(|row| row.text(row.table.spans.status_message[row.span])) },
    FlatColumn { name: "start_time", kind: FlatKind::Time(|row| row.table.spans.start_unix_nanos[row.span].cast_signed()) },
    FlatColumn { name: "end_time", kind: FlatKind::Time(|row| row.table.span_end_unix_nanos(row.span).cast_signed()) },
    FlatColumn { name: "duration_nanos", kind: FlatKind::Int(|row| row.table.spans.duration_nanos[row.span].cast_signed()) },
    FlatColumn { name: "trace_state", kind: FlatKind::Text(|row| row.text(row.table.spans.trace_state[row.span])) },
    FlatColumn { name: "scope_name", kind: FlatKind::Text(|row| row.text(row.table.scopes.name[row.scope])) },
    FlatColumn { name: "scope_version", kind: FlatKind::Text(|row| row.text(row.table.scopes.version[row.scope])) },
    FlatColumn { name: "resource_attributes", kind: FlatKind::Text(|row| row.attributes(&row.table.resources.attrs, row.resource)) },
    FlatColumn { name: "scope_attributes", kind: FlatKind::Text(|row| row.attributes(&row.table.scopes.attrs, row.scope)) },
    FlatColumn { name: "attributes", kind: FlatKind::Text(|row| row.attributes(&row.table.spans.attrs, row.span)) },
    FlatColumn { name: "events", kind: FlatKind::Text(|row| row.events().to_string()) },
    FlatColumn { name: "links", kind: FlatKind::Text(|row| row.links().to_string()) },
];

fn name_of(names: &[&str], number: i32) -> String {
    usize::try_from(number).ok().and_then(|number| names.get(number)).map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

impl Row<'_> {
    fn text(&self, id: StrId) -> String {
        self.table.strings.text(id).into_owned()
    }

    fn attributes(&self, attrs: &Attrs, owner: usize) -> String {
        Json::Object(self.attribute_map(attrs, owner)).to_string()
    }

    fn attribute_map(&self, attrs: &Attrs, owner: usize) -> Map<String, Json> {
        attrs.of_owner(owner).map(|(key, value)| (self.text(key), self.value(attrs, &value))).collect()
    }

    fn value(&self, attrs: &Attrs, value: &Value) -> Json {
        match value {
            Value::Str(text) => Json::from(self.text(*text)),
            Value::Int(number) => Json::from(*number),
            Value::Double(number) => Json::from(*number),
            Value::Bool(flag) => Json::from(*flag),
            Value::Array { .. } => attrs.elements_of(value).iter().map(|element| self.value(attrs, element)).collect(),
            Value::Json(text) => serde_json::from_slice(self.table.strings.get(*text)).unwrap_or_else(|_| Json::from(self.text(*text))),
        }
    }

    fn events(&self) -> Json {
        let (events, start) = (&self.table.events, self.table.spans.start_unix_nanos[self.span]);
        let event = |event: usize| {
            json!({
                "time_unix_nano": start.wrapping_add(events.time_since_start_nanos[event]),
                "name": self.text(events.name[event]),
                "attributes": self.attribute_map(&events.attrs, event),
            })
        };
        self.table.spans.events.range(self.span).map(event).collect()
    }

    fn links(&self) -> Json {
        let links = &self.table.links;
        let link = |link: usize| {
            json!({
                "trace_id": links.trace_id[link].to_string(),
                "span_id": links.span_id[link].to_string(),
                "attributes": self.attribute_map(&links.attrs, link),
            })
        };
        self.table.spans.links.range(self.span).map(link).collect()
    }
}

fn row_of(table: &SpanTable, trace: usize, span: usize) -> Row<'_> {
    let scope = table.scopes.spans.owner_of(span);
    Row { table, trace, resource: table.resources.scopes.owner_of(scope), scope, span }
}

/// One span as a JSON object with the columns as fields; attributes are objects.
pub(super) fn to_json(table: &SpanTable, trace: usize, span: usize) -> Json {
    let row = row_of(table, trace, span);
    let mut object = Map::new();
    for column in COLUMNS {
        let value = match column.kind {
            FlatKind::Text(text) => Json::from(text(&row)),
            FlatKind::Int(number) | FlatKind::Time(number) => Json::from(number(&row)),
        };
        object.insert(column.name.to_owned(), value);
    }
    let attrs = |attrs: &Attrs, owner: usize| Json::Object(row.attribute_map(attrs, owner));
    object.insert("resource_attributes".to_owned(), attrs(&table.resources.attrs, row.resource));
    object.insert("scope_attributes".to_owned(), attrs(&table.scopes.attrs, row.scope));
    object.insert("attributes".to_owned(), attrs(&table.spans.attrs, row.span));
    object.insert("events".to_owned(), row.events());
    object.insert("links".to_owned(), row.links());
    Json::Object(object)
}

/// A Parquet file of flat spans.
pub(super) struct FlatParquet<W: Write + Send> {
    file: SerializedFileWriter<W>,
}

impl<W: Write + Send> FlatParquet<W> {
    pub(super) fn new(sink: W) -> Result<Self, ParquetError> {
        let fields = COLUMNS.iter().map(|column| column.parquet_type()).collect::<Result<Vec<_>, _>>()?;
        let root = Arc::new(Type::group_type_builder("span").with_fields(fields).build()?);
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?)).build();
        Ok(Self { file: SerializedFileWriter::new(sink, root, Arc::new(properties))? })
    }

    /// Appends the spans of some traces of a table.
    pub(super) fn write(&mut self, table: &SpanTable, traces: &[usize]) -> anyhow::Result<()> {
        let rows: Vec<Row<'_>> =
            traces.iter().flat_map(|&trace| table.spans_of_trace(trace).map(move |span| row_of(table, trace, span))).collect();
        rows.chunks(ROW_GROUP_SPANS).try_for_each(|rows| self.write_row_group(rows))
    }

    fn write_row_group(&mut self, rows: &[Row<'_>]) -> anyhow::Result<()> {
        let mut group = self.file.next_row_group()?;
        for column in COLUMNS {
            let mut writer = group.next_column()?.ok_or_else(|| anyhow::anyhow!("the schema has fewer columns than are written"))?;
            match (&column.kind, writer.untyped()) {
                (FlatKind::Text(text), ColumnWriter::ByteArrayColumnWriter(writer)) => {
                    let values: Vec<ByteArray> = rows.iter().map(|row| ByteArray::from(text(row).into_bytes())).collect();
                    writer.write_batch(&values, None, None)?;
                }
                (FlatKind::Int(number) | FlatKind::Time(number), ColumnWriter::Int64ColumnWriter(writer)) => {
                    let values: Vec<i64> = rows.iter().map(number).collect();
                    writer.write_batch(&values, None, None)?;
                }
                _ => anyhow::bail!("column {} has another type than its schema says", column.name),
            }
            writer.close()?;
        }
        group.close()?;
        Ok(())
    }

    pub(super) fn finish(self) -> anyhow::Result<W> {
        Ok(self.file.into_inner()?)
    }
}

impl FlatColumn {
    fn parquet_type(&self) -> Result<TypePtr, ParquetError> {
        let (physical, converted, logical) = match self.kind {
            FlatKind::Text(_) => (PhysicalType::BYTE_ARRAY, ConvertedType::UTF8, Some(LogicalType::String)),
            FlatKind::Int(_) => (PhysicalType::INT64, ConvertedType::INT_64, Some(LogicalType::integer(64, true))),
            FlatKind::Time(_) => (PhysicalType::INT64, ConvertedType::NONE, Some(LogicalType::timestamp(true, TimeUnit::NANOS))),
        };
        let field = Type::primitive_type_builder(self.name, physical).with_repetition(Repetition::REQUIRED);
        Ok(Arc::new(field.with_converted_type(converted).with_logical_type(logical).build()?))
    }
}
