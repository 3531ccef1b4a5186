//! `analyse …`: which attributes take most room, and the list of dedicated columns that follows.

use std::collections::{BTreeMap, HashSet};

use clap::{Args, Subcommand};
use serde_json::json;

use super::output::{Cell, Output, Table};
use super::progress::Progress;
use super::storage::{BlockArguments, ListedBlock, Storage, parse_tenant};
use crate::model::ids::TenantId;
use crate::model::span_table::{Attrs, SpanTable, Value};
use crate::tempodb::block::dedicated::{MAX_INT_SLOTS, MAX_STRING_SLOTS};
use crate::tempodb::block::meta::BlockMeta;
use crate::tempodb::block::projection::{AttrSelection, EventColumns, Projection, ResourceColumns, SpanColumns};
use crate::tempodb::block::read::ReadMeter;

/// Distinct values remembered of an attribute; with more it counts as one of many values.
const MAX_DISTINCT: usize = 10_000;
/// An attribute whose values repeat less often than this is stored better without a dictionary.
const BLOB_MAX_REPEATS: u64 = 2;

#[derive(Debug, Subcommand)]
pub(super) enum AnalyseCommand {
    /// One block.
    Block {
        #[command(flatten)]
        block: BlockArguments,
        #[command(flatten)]
        options: AnalyseOptions,
    },
    /// The latest blocks of a tenant.
    Blocks {
        #[arg(value_parser = parse_tenant)]
        tenant_id: TenantId,
        /// Most blocks read.
        #[arg(long, default_value_t = 10)]
        max_blocks: usize,
        /// Only blocks of at least this level.
        #[arg(long, default_value_t = 0)]
        min_compaction_level: u32,
        #[command(flatten)]
        options: AnalyseOptions,
    },
}

#[derive(Debug, Args)]
pub(super) struct AnalyseOptions {
    /// Attributes shown of each scope.
    #[arg(long, default_value_t = 15)]
    num_attr: usize,
    /// Average bytes from which an attribute of rarely repeated texts gets the option blob.
    #[arg(long, default_value_t = 128)]
    blob_threshold: u64,
    /// Least share of all attribute bytes of its scope, in percent, that a suggested column must have.
    #[arg(long, default_value_t = 2.0)]
    min_percent: f64,
}

/// What is known of an attribute.
#[derive(Debug, Default)]
struct Usage {
    count: u64,
    bytes: u64,
    ints: u64,
    strings: u64,
    arrays: u64,
    distinct: HashSet<u64>,
}

/// Attributes by scope and key.
type Usages = BTreeMap<&'static str, BTreeMap<String, Usage>>;

impl AnalyseCommand {
    pub(super) async fn run(self, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        let (tenant, blocks, options) = match self {
            Self::Block { block, options } => {
                let listed = storage.block(&block.tenant_id, block.block_id).await?;
                (block.tenant_id, vec![listed], options)
            }
            Self::Blocks { tenant_id, max_blocks, min_compaction_level, options } => {
                let mut blocks = storage.blocks(&tenant_id, false).await?;
                blocks.retain(|block| block.meta.compaction_level >= min_compaction_level);
                blocks.truncate(max_blocks);
                (tenant_id, blocks, options)
            }
        };
        anyhow::ensure!(!blocks.is_empty(), "tenant {tenant} has no such block");
        let usages = measure(&tenant, &blocks, storage).await?;
        let dedicated = dedicated_of(&blocks[0].meta);
        print_usages(&usages, &dedicated, &options, out)?;
        print_suggestion(&usages, &options, out)
    }
}

fn dedicated_of(meta: &BlockMeta) -> HashSet<(String, String)> {
    meta.dedicated_columns.iter().map(|column| (column.scope.clone(), column.name.clone())).collect()
}

async fn measure(tenant: &TenantId, blocks: &[ListedBlock], storage: &Storage) -> anyhow::Result<Usages> {
    let all = || AttrSelection::All;
    let wanted = Projection {
        resources: ResourceColumns { attrs: all(), ..ResourceColumns::default() },
        spans: SpanColumns { attrs: all(), ..SpanColumns::default() },
        events: EventColumns { attrs: all(), ..EventColumns::default() },
        ..Projection::default()
    };
    let progress = Progress::new("blocks", blocks.len());
    let mut usages = Usages::new();
    for block in blocks {
        let reader = storage.reader(tenant, &block.meta).await?;
        for group in 0..reader.row_groups() {
            let table = reader.read_row_group(group, &wanted, None, &ReadMeter::default()).await?;
            for (scope, attrs) in [("resource", &table.resources.attrs), ("span", &table.spans.attrs), ("event", &table.events.attrs)] {
                add(usages.entry(scope).or_default(), &table, attrs);
            }
        }
        progress.step();
    }
    Ok(usages)
}

fn add(usages: &mut BTreeMap<String, Usage>, table: &SpanTable, attrs: &Attrs) {
    use std::hash::BuildHasher as _;
    let hasher = foldhash::fast::FixedState::default();
    // By string id, so that a key is looked up by its text once.
    let mut of_table: BTreeMap<u32, Usage> = BTreeMap::new();
    for (key, value) in attrs.keys.iter().zip(&attrs.values) {
        let usage = of_table.entry(key.0).or_default();
        usage.count += 1;
        usage.arrays += u64::from(matches!(value, Value::Array { .. }));
        for element in attrs.elements_of(value) {
            match element {
                Value::Str(text) => {
                    usage.strings += 1;
                    let text = table.strings.get(*text);
                    usage.bytes += text.len() as u64;
                    if usage.distinct.len() < MAX_DISTINCT {
                        usage.distinct.insert(hasher.hash_one(text));
                    }
                }
                Value::Int(_) => {
                    usage.ints += 1;
                    usage.bytes += 8;
                }
                Value::Double(_) => usage.bytes += 8,
                Value::Bool(_) => usage.bytes += 1,
                Value::Json(text) => usage.bytes += table.strings.get(*text).len() as u64,
                Value::Array { .. } => {}
            }
        }
    }
    for (key, found) in of_table {
        let usage = usages.entry(table.strings.text(crate::model::strings::StrId(key)).into_owned()).or_default();
        usage.count += found.count;
        usage.bytes += found.bytes;
        usage.ints += found.ints;
        usage.strings += found.strings;
        usage.arrays += found.arrays;
        let room = MAX_DISTINCT.saturating_sub(usage.distinct.len());
        usage.distinct.extend(found.distinct.into_iter().take(room));
    }
}

fn by_size(usages: &BTreeMap<String, Usage>) -> Vec<(&String, &Usage)> {
    let mut sorted: Vec<_> = usages.iter().collect();
    sorted.sort_by_key(|(_, usage)| std::cmp::Reverse(usage.bytes));
    sorted
}

fn share(usage: &Usage, total: u64) -> f64 {
    usage.bytes as f64 * 100.0 / total.max(1) as f64
}

fn print_usages(usages: &Usages, dedicated: &HashSet<(String, String)>, options: &AnalyseOptions, out: &mut Output) -> anyhow::Result<()> {
    let mut table = Table::new(&["Scope", "Attribute", "Type", "Count", "Bytes", "Percent of scope", "Average", "Distinct", "Dedicated"]);
    for (scope, of_scope) in usages {
        let total: u64 = of_scope.values().map(|usage| usage.bytes).sum();
        for (key, usage) in by_size(of_scope).into_iter().take(options.num_attr) {
            let distinct = match usage.distinct.len() {
                MAX_DISTINCT.. => Cell::from(format!("> {MAX_DISTINCT}")),
                count => Cell::from(count),
            };
            table.push([
                (*scope).into(),
                key.as_str().into(),
                usage.kind().into(),
                usage.count.into(),
                Cell::Bytes(usage.bytes),
                share(usage, total).into(),
                Cell::Bytes(usage.bytes / usage.count.max(1)),
                distinct,
                dedicated.contains(&((*scope).to_owned(), key.clone())).into(),
            ]);
        }
    }
    out.table(&table)
}

impl Usage {
    fn kind(&self) -> &'static str {
        if self.ints > 0 && self.ints >= self.strings {
            "int"
        } else if self.strings > 0 {
            "string"
        } else {
            "other"
        }
    }

    fn options(&self, options: &AnalyseOptions) -> Vec<&'static str> {
        let is_unique = self.distinct.len() >= MAX_DISTINCT || self.strings < self.distinct.len() as u64 * BLOB_MAX_REPEATS;
        let is_blob = self.kind() == "string" && is_unique && self.bytes / self.count.max(1) >= options.blob_threshold;
        [(self.arrays > 0, "array"), (is_blob, "blob")].into_iter().filter(|(applies, _)| *applies).map(|(_, option)| option).collect()
    }
}

/// A suggested column.
struct Suggestion<'a> {
    scope: &'static str,
    name: &'a str,
    kind: &'static str,
    options: Vec<&'static str>,
}

fn suggestions<'a>(usages: &'a Usages, options: &AnalyseOptions) -> Vec<Suggestion<'a>> {
    let mut suggested = Vec::new();
    for (scope, of_scope) in usages {
        let total: u64 = of_scope.values().map(|usage| usage.bytes).sum();
        for (kind, slots) in [("string", MAX_STRING_SLOTS), ("int", MAX_INT_SLOTS)] {
            let fitting =
                by_size(of_scope).into_iter().filter(|(_, usage)| usage.kind() == kind && share(usage, total) >= options.min_percent);
            suggested.extend(fitting.take(slots).map(|(name, usage)| Suggestion { scope, name, kind, options: usage.options(options) }));
        }
    }
    suggested
}

fn print_suggestion(usages: &Usages, options: &AnalyseOptions, out: &mut Output) -> anyhow::Result<()> {
    let suggested = suggestions(usages, options);
    if out.is_json() {
        let columns: Vec<_> = suggested
            .iter()
            .map(|column| json!({"scope": column.scope, "name": column.name, "type": column.kind, "options": column.options}))
            .collect();
        return out.json(&json!({ "parquet_dedicated_columns": columns }));
    }
    out.line("\nSuggestion for storage.trace.block (or overrides.<tenant>.storage):\n\nparquet_dedicated_columns:")?;
    for Suggestion { scope, name, kind, options } in suggested {
        let options = if options.is_empty() { String::new() } else { format!(", options: [{}]", options.join(", ")) };
        out.line(&format!("  - {{scope: {scope}, name: {}, type: {kind}{options}}}", serde_json::to_string(name)?))?;
    }
    Ok(())
}
