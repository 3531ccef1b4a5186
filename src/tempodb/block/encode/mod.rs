//! Encodes a [`SpanTable`] as one row group of a file.
//!
//! The pages are made here, straight from interned string ids and offsets, and spliced into the file with the `parquet` crate's
//! `append_column`; its typed writers hash and clone every string value, which costs more than all the rest. Footer, column and offset index stay the
//! crate's.
//!
//! Invariants
//! * Pages hold whole rows, and every column of a row group has the same rows: offset-index lookups depend on it.
//! * A column chunk is built, appended and dropped before the next one: memory is the table, its levels and one chunk.

mod attributes;
mod chunk;
mod columns;
mod delta;
mod levels;
mod packing;
mod page;
mod rle;
mod strings;
mod values;

use std::io::Write;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;

use self::columns::Columns;
use self::page::PageWriter;
use super::schema::BlockSchema;
use crate::model::ids::TraceId;
use crate::model::span_table::SpanTable;

#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("cannot compress a page")]
    Compress(#[source] std::io::Error),
    #[error("a page of {0} bytes exceeds what the format can hold")]
    PageTooLarge(usize),
    #[error("traces must ascend by id: {next} follows {last}")]
    NotAscending { last: TraceId, next: TraceId },
    #[error("a row group needs at least one trace")]
    Empty,
    #[error("column {0} is of a version that is only read")]
    ReadOnlyColumn(String),
    #[error("cannot write the parquet file")]
    Parquet(#[from] ParquetError),
}

/// How pages are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeSettings {
    /// Size of a page before compression, reached by its last row.
    pub page_size_bytes: usize,
    /// Largest dictionary of a column in a row group; values beyond it are stored plain. Readers must unpack a dictionary as a whole.
    pub dictionary_limit_bytes: usize,
    /// Off: every column uncompressed.
    pub is_compressing: bool,
    pub row_order: RowOrder,
}

/// In which order traces may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// Strictly ascending by id, as blocks must be.
    Ascending,
    /// As they come: files of the write-ahead log only.
    Arrival,
}

impl Default for EncodeSettings {
    /// A dictionary of 8 MiB holds all attribute values of a row group on the reference corpus, so that a query for a value that is not there
    /// ends with the dictionary, and one for a rare value compares codes. 1 MiB would save 0.4 % of the space and cost ten times in such queries.
    fn default() -> Self {
        Self { page_size_bytes: 256 << 10, dictionary_limit_bytes: 8 << 20, is_compressing: true, row_order: RowOrder::Ascending }
    }
}

/// Appends `table` as the next row group. Its traces must ascend by id, unless the settings allow otherwise.
pub fn append_row_group<W: Write + Send>(
    table: &SpanTable,
    schema: &BlockSchema,
    settings: EncodeSettings,
    file: &mut SerializedFileWriter<W>,
) -> Result<(), EncodeError> {
    if table.trace_count() == 0 {
        return Err(EncodeError::Empty);
    }
    if settings.row_order == RowOrder::Ascending
        && let Some(pair) = table.traces.ids.windows(2).find(|pair| pair[0] >= pair[1])
    {
        return Err(EncodeError::NotAscending { last: pair[0], next: pair[1] });
    }
    let mut columns = Columns::new(table, schema, settings);
    let mut pages = PageWriter::new(settings.is_compressing)?;
    let mut row_group = file.next_row_group()?;
    for (leaf, descriptor) in schema.leaves().iter().zip(schema.descriptor().columns()) {
        let chunk = columns.encode(leaf, descriptor.clone(), &mut pages)?;
        let bytes = Bytes::from(chunk.bytes);
        row_group.append_column(&bytes, chunk.close)?;
        // Not a copy: nobody else has them.
        pages.spare_chunk = Vec::from(bytes);
    }
    row_group.close()?;
    Ok(())
}

#[cfg(test)]
mod tests;
