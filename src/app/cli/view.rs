//! `view …` and `list column`: the inside of a block's objects.

use std::io::Read;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::{Buf as _, Bytes};
use clap::{Args, Subcommand};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::file::statistics::Statistics;
use parquet::schema::printer::print_schema;
use serde_json::{Value, json};

use super::output::{Cell, Output, Table};
use super::storage::{BlockArguments, ListedBlock, Storage};
use crate::tempodb::block::index::{INDEX_NAME, RowGroupIndex};
use crate::tempodb::keys::{self, DATA_NAME};

/// Bytes behind the footer of a Parquet file: its length and the magic.
const TAIL_BYTES: u64 = 8;
/// Values of a batch when a column is read.
const BATCH: usize = 1024;

#[derive(Debug, Subcommand)]
pub(super) enum ViewCommand {
    /// The Parquet schema of a block.
    Schema(BlockArguments),
    /// The last trace id of each row group.
    Index(BlockArguments),
    /// The Parquet footer: writer, row groups, column chunks.
    Footer(BlockArguments),
}

#[derive(Debug, Args)]
pub(super) struct ColumnArguments {
    #[command(flatten)]
    block: BlockArguments,
    /// Print the values of this column, such as TraceID or rs.ss.Spans.Name, instead of the list of columns.
    #[arg(long)]
    column: Option<String>,
    /// Most values printed.
    #[arg(long, default_value_t = 10_000)]
    limit: usize,
}

impl ViewCommand {
    pub(super) async fn run(self, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        match self {
            Self::Schema(block) => schema(&block, storage, out).await,
            Self::Index(block) => index(&block, storage, out).await,
            Self::Footer(block) => footer(&block, storage, out).await,
        }
    }
}

async fn schema(block: &BlockArguments, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
    let metadata = read_footer(storage, block).await?;
    let mut text = Vec::new();
    print_schema(&mut text, metadata.file_metadata().schema());
    out.text(&String::from_utf8_lossy(&text))
}

pub(super) async fn index(block: &BlockArguments, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
    let bytes = storage.backend.read(&keys::block_object(&block.tenant_id, block.block_id, INDEX_NAME)).await;
    let index = RowGroupIndex::from_json(&bytes.context("the block has no index object")?)?;
    let mut table = Table::new(&["Row group", "Last trace ID"]);
    for (group, id) in index.last_ids.iter().enumerate() {
        table.push([group.into(), id.to_string().into()]);
    }
    out.table(&table)
}

async fn footer(block: &BlockArguments, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
    let metadata = read_footer(storage, block).await?;
    let file = metadata.file_metadata();
    let groups: Vec<Value> = metadata
        .row_groups()
        .iter()
        .map(|group| {
            json!({
                "rows": group.num_rows(),
                "bytes": group.total_byte_size(),
                "compressedBytes": group.compressed_size(),
                "sortingColumns": group.sorting_columns().map_or(0, Vec::len),
                "columns": group.columns().iter().map(chunk_json).collect::<Vec<_>>(),
            })
        })
        .collect();
    out.json(&json!({
        "version": file.version(),
        "createdBy": file.created_by(),
        "rows": file.num_rows(),
        "columns": file.schema_descr().num_columns(),
        "rowGroups": groups,
    }))
}

fn chunk_json(chunk: &ColumnChunkMetaData) -> Value {
    json!({
        "path": chunk.column_path().string(),
        "type": chunk.column_type().to_string(),
        "codec": format!("{}", chunk.compression()),
        "encodings": encodings(chunk),
        "values": chunk.num_values(),
        "nulls": chunk.statistics().and_then(Statistics::null_count_opt),
        "bytes": chunk.uncompressed_size(),
        "compressedBytes": chunk.compressed_size(),
        "dataPageOffset": chunk.data_page_offset(),
        "dictionaryPageOffset": chunk.dictionary_page_offset(),
        "offsetIndexOffset": chunk.offset_index_offset(),
        "columnIndexOffset": chunk.column_index_offset(),
    })
}

fn encodings(chunk: &ColumnChunkMetaData) -> String {
    chunk.encodings().map(|encoding| encoding.to_string()).collect::<Vec<_>>().join(" ")
}

async fn read_footer(storage: &Storage, block: &BlockArguments) -> anyhow::Result<ParquetMetaData> {
    let listed = storage.block(&block.tenant_id, block.block_id).await?;
    footer_of(storage, block, &listed).await
}

async fn footer_of(storage: &Storage, block: &BlockArguments, listed: &ListedBlock) -> anyhow::Result<ParquetMetaData> {
    let size = listed.meta.size_bytes;
    let end = size.checked_sub(TAIL_BYTES).context("the size in meta.json is too small for a Parquet file")?;
    let start = end.checked_sub(u64::from(listed.meta.footer_size_bytes)).context("the footer size in meta.json exceeds the file")?;
    let bytes = read_range(storage, block, start..end).await?;
    ParquetMetaDataReader::decode_metadata(&bytes).context("the footer cannot be parsed")
}

async fn read_range(storage: &Storage, block: &BlockArguments, range: std::ops::Range<u64>) -> anyhow::Result<Bytes> {
    let key = keys::block_object(&block.tenant_id, block.block_id, DATA_NAME);
    let (buffers, _) = storage.backend.read_ranges(&key, &[range]).await?;
    Ok(buffers.into_iter().next().unwrap_or_default())
}

impl ColumnArguments {
    pub(super) async fn run(self, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        let listed = storage.block(&self.block.tenant_id, self.block.block_id).await?;
        let metadata = footer_of(storage, &self.block, &listed).await?;
        match &self.column {
            Some(path) => self.print_values(path, &metadata, storage, out).await,
            None => out.table(&columns_table(&metadata)),
        }
    }

    async fn print_values(&self, path: &str, metadata: &ParquetMetaData, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        let columns = metadata.file_metadata().schema_descr().columns();
        let column = columns.iter().position(|column| column.path().string() == path);
        let column = column.with_context(|| format!("the block has no column {path}; `list column` without --column lists them"))?;
        let mut table = Table::new(&["Row group", "Value"]);
        let mut left = self.limit;
        for (number, group) in metadata.row_groups().iter().enumerate() {
            let chunk = group.column(column);
            let (start, length) = chunk.byte_range();
            let bytes = read_range(storage, &self.block, start..start.saturating_add(length)).await?;
            let pages = SerializedPageReader::new(Arc::new(ChunkAt { start, bytes }), chunk, group.num_rows() as usize, None)?;
            let values = read_values(get_column_reader(Arc::clone(&columns[column]), Box::new(pages)), left)?;
            left -= values.len();
            values.into_iter().for_each(|value| table.push([number.into(), value.into()]));
        }
        out.table(&table)
    }
}

fn columns_table(metadata: &ParquetMetaData) -> Table {
    let mut table = Table::new(&["Column", "Type", "Codec", "Encodings", "Values", "Nulls", "Bytes", "Compressed"]);
    for column in 0..metadata.file_metadata().schema_descr().num_columns() {
        let chunks = || metadata.row_groups().iter().map(|group| group.column(column));
        let Some(first) = chunks().next() else { break };
        let sum = |part: fn(&ColumnChunkMetaData) -> i64| chunks().map(part).sum::<i64>().max(0) as u64;
        let nulls: u64 = chunks().filter_map(|chunk| chunk.statistics().and_then(Statistics::null_count_opt)).sum();
        table.push([
            first.column_path().string().into(),
            first.column_type().to_string().into(),
            first.compression().to_string().into(),
            encodings(first).into(),
            sum(ColumnChunkMetaData::num_values).into(),
            nulls.into(),
            Cell::Bytes(sum(ColumnChunkMetaData::uncompressed_size)),
            Cell::Bytes(sum(ColumnChunkMetaData::compressed_size)),
        ]);
    }
    table
}

/// Reads up to `limit` values, nulls left out, as text.
fn read_values(reader: ColumnReader, limit: usize) -> Result<Vec<String>, ParquetError> {
    let bytes_text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        Ok(_) | Err(_) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    match reader {
        ColumnReader::BoolColumnReader(reader) => texts(reader, limit, |value| value.to_string()),
        ColumnReader::Int32ColumnReader(reader) => texts(reader, limit, |value| value.to_string()),
        ColumnReader::Int64ColumnReader(reader) => texts(reader, limit, |value| value.to_string()),
        ColumnReader::Int96ColumnReader(reader) => texts(reader, limit, |value| value.to_string()),
        ColumnReader::FloatColumnReader(reader) => texts(reader, limit, |value| value.to_string()),
        ColumnReader::DoubleColumnReader(reader) => texts(reader, limit, |value| value.to_string()),
        ColumnReader::ByteArrayColumnReader(reader) => texts(reader, limit, |value| bytes_text(value.data())),
        ColumnReader::FixedLenByteArrayColumnReader(reader) => texts(reader, limit, |value| bytes_text(value.data())),
    }
}

fn texts<T: DataType>(mut reader: ColumnReaderImpl<T>, limit: usize, text: impl Fn(&T::T) -> String) -> Result<Vec<String>, ParquetError> {
    let mut all = Vec::new();
    while all.len() < limit {
        let (mut values, mut definitions, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
        let (records, _, _) = reader.read_records(BATCH, Some(&mut definitions), Some(&mut repetitions), &mut values)?;
        if records == 0 {
            break;
        }
        all.extend(values.iter().take(limit - all.len()).map(&text));
    }
    Ok(all)
}

/// A part of a file, addressed by offsets of the whole file.
struct ChunkAt {
    start: u64,
    bytes: Bytes,
}

impl Length for ChunkAt {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkAt {
    fn at(&self, offset: u64) -> Result<usize, ParquetError> {
        let at = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok()).filter(|at| *at <= self.bytes.len());
        at.ok_or_else(|| ParquetError::EOF("read outside the column chunk".to_owned()))
    }
}

impl ChunkReader for ChunkAt {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(Box::new(self.bytes.slice(self.at(start)?..).reader()))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let at = self.at(start)?;
        let end = at.checked_add(length).filter(|end| *end <= self.bytes.len());
        Ok(self.bytes.slice(at..end.ok_or_else(|| ParquetError::EOF("read outside the column chunk".to_owned()))?))
    }
}
