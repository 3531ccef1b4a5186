//! `query blocks`, `query trace-summary` and `search …`: questions to blocks, without a running process.

use std::collections::BTreeMap;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use futures::stream::{self, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value as Json;

use super::output::{Cell, Output, Table};
use super::progress::Progress;
use super::storage::{CONCURRENCY, ListedBlock, Storage, parse_tenant, parse_time, parse_trace_id};
use crate::model::combine::combine_trace;
use crate::model::ids::{TenantId, TraceId};
use crate::model::span_table::{Attrs, SpanTable, Value};
use crate::modules::querier::{self, Querier};
use crate::services::rpc::querier::{Querier as _, SearchPart};
use crate::services::rpc::trace_output::{ResourceListName, TraceOutput};
use crate::tempodb::block::meta::BlockId;
use crate::tempodb::block::read::ReadMeter;
use crate::traceql::order::SearchOrder;
use crate::traceql::result::{SearchCollector, SearchRequest};

/// Attribute keys shown by a summary.
const LARGEST_KEYS: usize = 10;

#[derive(Debug, Args)]
pub(super) struct TraceArguments {
    #[arg(value_parser = parse_trace_id)]
    trace_id: TraceId,
    #[arg(value_parser = parse_tenant)]
    tenant_id: TenantId,
}

#[derive(Debug, Subcommand)]
pub(super) enum SearchCommand {
    /// Traces with spans or resources that carry an attribute.
    Blocks {
        /// Attribute name without scope.
        name: String,
        value: String,
        #[command(flatten)]
        range: SearchRange,
    },
    /// Traces that match a TraceQL query.
    Traceql {
        query: String,
        #[command(flatten)]
        range: SearchRange,
    },
}

#[derive(Debug, Args)]
pub(super) struct SearchRange {
    /// RFC 3339, seconds since 1970, `now`, or `now-1h`.
    #[arg(value_parser = parse_time)]
    start: Timestamp,
    #[arg(value_parser = parse_time)]
    end: Timestamp,
    #[arg(value_parser = parse_tenant)]
    tenant_id: TenantId,
    /// Most traces found.
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

/// A trace as the blocks have it.
struct FoundTrace {
    /// Blocks with a piece, and the piece's spans.
    blocks: Vec<(BlockId, usize)>,
    /// The trace in row 0.
    table: SpanTable,
}

impl TraceArguments {
    /// Prints the trace as JSON and the blocks that hold it on standard error.
    pub(super) async fn run(self, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        let found = self.find(storage).await?;
        for (block, spans) in &found.blocks {
            crate::app::complain(&format!("block {block}: {spans} spans"));
        }
        let json: Json = serde_json::from_slice(&TraceOutput::whole(&found.table, 0).to_json(ResourceListName::ResourceSpans))?;
        out.json(&json)
    }

    pub(super) async fn summarise(self, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        let FoundTrace { blocks, table } = self.find(storage).await?;
        let (traces, strings) = (&table.traces, &table.strings);
        let start = Timestamp::from_nanosecond(i128::from(traces.start_unix_nanos[0]))?;
        let services = traces.service_stats_of.range(0).len();
        let errors: u64 = traces.service_stats.error_count[traces.service_stats_of.range(0)].iter().map(|&count| u64::from(count)).sum();
        let mut summary =
            Table::new(&["Trace ID", "Blocks", "Spans", "Errors", "Services", "Bytes", "Start", "Duration", "Root service", "Root span"]);
        summary.push([
            self.trace_id.to_string().into(),
            blocks.len().into(),
            table.span_count().into(),
            errors.into(),
            services.into(),
            Cell::Bytes(TraceOutput::whole(&table, 0).proto_bytes() as u64),
            start.into(),
            Cell::Duration(SignedDuration::from_nanos(i64::try_from(traces.duration_nanos[0]).unwrap_or(i64::MAX))),
            strings.text(traces.root_service_name[0]).into_owned().into(),
            strings.text(traces.root_span_name[0]).into_owned().into(),
        ]);
        out.record(&summary)?;
        out.line("")?;
        out.table(&largest_keys(&table))
    }

    async fn find(&self, storage: &Storage) -> anyhow::Result<FoundTrace> {
        let blocks = storage.blocks(&self.tenant_id, false).await?;
        let progress = Progress::new("blocks", blocks.len());
        let asked = stream::iter(blocks).map(|block| {
            let progress = &progress;
            async move {
                let found = self.find_in(storage, &block).await;
                progress.step();
                (block.meta.block_id, found)
            }
        });
        let mut asked = asked.buffer_unordered(CONCURRENCY);
        let (mut blocks, mut parts) = (Vec::new(), Vec::new());
        while let Some((block, found)) = asked.next().await {
            match found {
                Ok(Some(part)) => {
                    blocks.push((block, part.span_count()));
                    parts.push(part);
                }
                Ok(None) => {}
                Err(problem) => crate::app::complain(&format!("block {block} is left out: {problem:#}")),
            }
        }
        drop(asked);
        drop(progress);
        anyhow::ensure!(!parts.is_empty(), "tenant {} has no trace {}", self.tenant_id, self.trace_id);
        let rows: Vec<_> = parts.iter().map(|part| (part, 0)).collect();
        Ok(FoundTrace { blocks, table: combine_trace(&rows) })
    }

    async fn find_in(&self, storage: &Storage, block: &ListedBlock) -> anyhow::Result<Option<SpanTable>> {
        let reader = storage.reader(&self.tenant_id, &block.meta).await?;
        Ok(reader.find_trace(self.trace_id, &ReadMeter::default()).await?)
    }
}

/// The attribute keys that take most bytes, over all levels.
fn largest_keys(table: &SpanTable) -> Table {
    let mut keys: BTreeMap<(&str, String), (u64, u64)> = BTreeMap::new();
    let levels: [(&str, &Attrs); 5] = [
        ("resource", &table.resources.attrs),
        ("instrumentation", &table.scopes.attrs),
        ("span", &table.spans.attrs),
        ("event", &table.events.attrs),
        ("link", &table.links.attrs),
    ];
    for (scope, attrs) in levels {
        for (key, value) in attrs.keys.iter().zip(&attrs.values) {
            let bytes: u64 = attrs.elements_of(value).iter().map(|element| value_bytes(table, element)).sum();
            let (count, total) = keys.entry((scope, table.strings.text(*key).into_owned())).or_default();
            *count += 1;
            *total += bytes;
        }
    }
    let mut largest: Vec<_> = keys.into_iter().collect();
    largest.sort_by_key(|(_, (_, bytes))| std::cmp::Reverse(*bytes));
    let mut shown = Table::new(&["Scope", "Attribute", "Count", "Bytes"]);
    for ((scope, key), (count, bytes)) in largest.into_iter().take(LARGEST_KEYS) {
        shown.push([scope.into(), key.into(), count.into(), Cell::Bytes(bytes)]);
    }
    shown
}

fn value_bytes(table: &SpanTable, value: &Value) -> u64 {
    match value {
        Value::Str(text) | Value::Json(text) => table.strings.get(*text).len() as u64,
        Value::Int(_) | Value::Double(_) => 8,
        Value::Bool(_) => 1,
        Value::Array { .. } => 0,
    }
}

impl SearchCommand {
    pub(super) async fn run(self, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        match self {
            Self::Blocks { name, value, range } => range.search(attribute_query(&name, &value), storage, out).await,
            Self::Traceql { query, range } => range.search(query, storage, out).await,
        }
    }
}

/// The query for an attribute whose value may be a text or a number.
fn attribute_query(name: &str, value: &str) -> String {
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let name = quote(name);
    let as_text = format!("{{ .{name} = {} }}", quote(value));
    if value.parse::<f64>().is_ok() || value == "true" || value == "false" {
        format!("{as_text} || {{ .{name} = {value} }}")
    } else {
        as_text
    }
}

impl SearchRange {
    async fn search(self, query: String, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        let compiled = crate::traceql::compile(&query).map_err(|error| anyhow::anyhow!("invalid TraceQL query: {error}"))?;
        let order = match SearchOrder::of(&compiled)? {
            // All blocks are searched anyway.
            SearchOrder::FirstFound => SearchOrder::MOST_RECENT,
            order => order,
        };
        let seconds = |time: Timestamp| u32::try_from(time.as_second()).context("times must lie between 1970 and 2106");
        let (start, end) = (seconds(self.start)?, seconds(self.end)?);
        let request =
            SearchRequest { query, limit: self.limit.max(1), start_unix_seconds: start, end_unix_seconds: end, ..SearchRequest::default() };
        let blocks = storage.blocks(&self.tenant_id, false).await?;
        let range = crate::services::rpc::search::time_range(&request);
        let concerned: Vec<_> =
            blocks.into_iter().filter(|block| range.overlaps(block.meta.start_time.as_second(), block.meta.end_time.as_second())).collect();
        let db = storage.db(&self.tenant_id, &concerned);
        let querier = Querier::new(querier::Parts {
            config: querier::config::QuerierConfig::default(),
            span_readers: Vec::new(),
            db,
            cpu: storage.cpu.clone(),
        });
        let progress = Progress::new("blocks", concerned.len());
        let (mut collector, mut skipped) = (SearchCollector::new(request.limit, order), 0);
        for block in concerned {
            let row_groups = 0..block.meta.total_records as usize;
            let part = SearchPart::Block { meta: block.meta, row_groups };
            let reply = querier.search(&self.tenant_id, &request, &part).await.map_err(|error| anyhow::anyhow!(error.message))?;
            skipped += reply.inspection.skipped_jobs;
            collector.add_all(reply.hits);
            progress.step();
        }
        drop(progress);
        if skipped > 0 {
            crate::app::complain(&format!("{skipped} corrupt blocks were left out"));
        }
        let mut table = Table::new(&["Trace ID", "Root service", "Root span", "Start", "Duration ms", "Matched spans"]);
        for hit in collector.finish() {
            let matched: u32 = hit.span_sets.iter().map(|set| set.matched).sum();
            table.push([
                hit.trace_id.to_string().into(),
                (&*hit.root_service_name).into(),
                (&*hit.root_trace_name).into(),
                Timestamp::from_nanosecond(i128::from(hit.start_unix_nanos))?.into(),
                hit.duration_ms().into(),
                matched.into(),
            ]);
        }
        out.table(&table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attribute_queries_are_valid_for_any_name_and_value() {
        for (name, value) in [("http.route", "/a"), ("a b\"c", "x\\y\""), ("retry", "5"), ("flag", "true"), ("ratio", "1.5")] {
            let query = attribute_query(name, value);
            assert!(crate::traceql::compile(&query).is_ok(), "{query}");
        }
        assert_eq!(attribute_query("retry", "5"), r#"{ ."retry" = "5" } || { ."retry" = 5 }"#);
    }
}
