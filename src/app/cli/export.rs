//! `export`: spans of a tenant in a file that other tools read.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::flat_spans::{self, FlatParquet};
use super::output::{Cell, Output, Table};
use super::progress::Progress;
use super::storage::{ListedBlock, Storage, parse_block, parse_tenant, parse_time};
use crate::model::ids::TenantId;
use crate::model::span_table::SpanTable;
use crate::services::rpc::trace_output::TraceOutput;
use crate::tempodb::block::meta::BlockId;
use crate::tempodb::block::projection::Projection;
use crate::tempodb::block::read::ReadMeter;

#[derive(Debug, Args)]
pub(super) struct ExportCommand {
    #[arg(value_parser = parse_tenant)]
    tenant_id: TenantId,
    /// File to write; it must not exist.
    #[arg(long, short)]
    output: PathBuf,
    #[arg(long, value_enum, default_value_t = Format::Parquet)]
    format: Format,
    /// Only this block.
    #[arg(long, value_parser = parse_block)]
    block: Option<BlockId>,
    /// Only traces that end at or after this time.
    #[arg(long, value_parser = parse_time)]
    start: Option<Timestamp>,
    /// Only traces that start at or before this time.
    #[arg(long, value_parser = parse_time)]
    end: Option<Timestamp>,
}

/// Forms of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One row a span with plain columns; attributes as JSON. For DuckDB, pandas, Spark.
    Parquet,
    /// One JSON object a line and span, the same fields as the Parquet file.
    Json,
    /// One OTLP/JSON message a line and trace, as the collector's file exporter writes it.
    OtlpJson,
    /// OTLP protobuf messages, each behind its length (4 bytes, big endian), as the collector's file exporter writes it.
    Otlp,
}

/// A file being written.
enum Sink {
    Parquet(FlatParquet<File>),
    Lines(BufWriter<File>, Format),
}

impl ExportCommand {
    pub(super) async fn run(self, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        let blocks = self.concerned(storage).await?;
        let file = File::create_new(&self.output).with_context(|| format!("cannot create {}", self.output.display()))?;
        let mut sink = match self.format {
            Format::Parquet => Sink::Parquet(FlatParquet::new(file)?),
            format @ (Format::Json | Format::OtlpJson | Format::Otlp) => Sink::Lines(BufWriter::new(file), format),
        };
        let progress = Progress::new("blocks", blocks.len());
        let (mut traces, mut spans) = (0_u64, 0_u64);
        for block in &blocks {
            let reader = storage.reader(&self.tenant_id, &block.meta).await?;
            for group in 0..reader.row_groups() {
                let table = reader.read_row_group(group, &Projection::all(), None, &ReadMeter::default()).await?;
                let rows: Vec<usize> = (0..table.trace_count()).filter(|row| self.wants(&table, *row)).collect();
                traces += rows.len() as u64;
                spans += rows.iter().map(|row| table.spans_of_trace(*row).len() as u64).sum::<u64>();
                sink.write(&table, &rows)?;
            }
            progress.step();
        }
        drop(progress);
        let bytes = sink.finish()?;
        let mut table = Table::new(&["File", "Blocks", "Traces", "Spans", "Bytes"]);
        table.push([self.output.display().to_string().into(), blocks.len().into(), traces.into(), spans.into(), Cell::Bytes(bytes)]);
        out.record(&table)
    }

    /// The blocks that may hold wanted traces. A trace with pieces in several blocks is written piece by piece.
    async fn concerned(&self, storage: &Storage) -> anyhow::Result<Vec<ListedBlock>> {
        if let Some(block) = self.block {
            return Ok(vec![storage.block(&self.tenant_id, block).await?]);
        }
        let mut blocks = storage.blocks(&self.tenant_id, false).await?;
        blocks.retain(|block| {
            let (start, end) = (block.meta.start_time, block.meta.end_time);
            // A start behind the end says nothing (block-format §2).
            let starts_in_time = start > end || self.end.is_none_or(|bound| start <= bound);
            starts_in_time && self.start.is_none_or(|bound| end >= bound)
        });
        Ok(blocks)
    }

    fn wants(&self, table: &SpanTable, row: usize) -> bool {
        let nanos = |time: Timestamp| time.as_nanosecond();
        self.start.is_none_or(|bound| i128::from(table.traces.end_unix_nanos[row]) >= nanos(bound))
            && self.end.is_none_or(|bound| i128::from(table.traces.start_unix_nanos[row]) <= nanos(bound))
    }
}

impl Sink {
    fn write(&mut self, table: &SpanTable, rows: &[usize]) -> anyhow::Result<()> {
        match self {
            Self::Parquet(file) => file.write(table, rows),
            Self::Lines(file, format) => rows.iter().try_for_each(|row| write_trace(file, *format, table, *row)),
        }
    }

    fn finish(self) -> anyhow::Result<u64> {
        let file = match self {
            Self::Parquet(file) => file.finish()?,
            Self::Lines(file, _) => file.into_inner().map_err(|error| error.into_error())?,
        };
        file.sync_all()?;
        Ok(file.metadata()?.len())
    }
}

fn write_trace(out: &mut impl Write, format: Format, table: &SpanTable, row: usize) -> anyhow::Result<()> {
    let trace = TraceOutput::whole(table, row);
    match format {
        Format::Parquet => unreachable!("has a sink of its own"),
        Format::Json => {
            for span in table.spans_of_trace(row) {
                serde_json::to_writer(&mut *out, &flat_spans::to_json(table, row, span))?;
                out.write_all(b"\n")?;
            }
        }
        Format::OtlpJson => {
            out.write_all(&trace.to_otlp_json())?;
            out.write_all(b"\n")?;
        }
        Format::Otlp => {
            let message = trace.to_proto();
            out.write_all(&u32::try_from(message.len()).context("a trace exceeds 4 GiB")?.to_be_bytes())?;
            out.write_all(&message)?;
        }
    }
    Ok(())
}
