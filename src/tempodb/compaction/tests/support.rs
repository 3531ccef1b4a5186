//! Blocks made of tables, and what is in them, span by span.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::super::*;
use crate::base::clock::ManualClock;
use crate::model::span_table::{Attrs, SpanTable, Value};
use crate::tempodb::block::read::ReadOptions;
use crate::tempodb::block::write::BlockWriter;
use crate::tempodb::blocklist::BlockList;
use crate::tempodb::db::DbSettings;

pub(super) static CPU: LazyLock<CpuPool> = LazyLock::new(|| CpuPool::new("test", 2).unwrap());

/// 2026-11-27T12:00:00Z.
pub(super) const NOW_UNIX_NANOS: u64 = 1_795_780_800_000_000_000;

pub(super) fn tenant() -> TenantId {
    TenantId::parse("t").unwrap()
}

/// A database over `store`, and a compactor of it.
pub(super) struct World {
    pub(super) db: Arc<TempoDb>,
    pub(super) compactor: Compactor,
}

impl World {
    pub(super) fn over(store: Arc<dyn ObjectStore>) -> Self {
        let clock: SharedClock = Arc::new(ManualClock::at(NOW_UNIX_NANOS));
        let db = TempoDb::new(Backend::new(store, ""), Arc::new(BlockList::default()), DbSettings::default(), clock.clone());
        let db = Arc::new(db);
        Self { compactor: Compactor::new(Arc::clone(&db), CPU.clone(), clock), db }
    }

    pub(super) fn in_memory() -> Self {
        Self::over(Arc::new(InMemory::new()))
    }

    /// Writes a block of `tables`, one row group each, and lists it.
    pub(super) async fn write(&self, tables: &[SpanTable]) -> Arc<BlockMeta> {
        self.write_as(NewBlock::new(tenant(), BlockId::random(), 10), tables).await
    }

    pub(super) async fn write_as(&self, block: NewBlock, tables: &[SpanTable]) -> Arc<BlockMeta> {
        let mut writer = BlockWriter::create(self.db.backend().clone(), CPU.clone(), block).await.unwrap();
        for table in tables {
            writer.append(Arc::new(table.clone())).await.unwrap();
        }
        let meta = Arc::new(writer.finish().await.unwrap());
        self.db.block_list().add(&tenant(), Arc::clone(&meta));
        meta
    }

    pub(super) async fn open(&self, meta: &Arc<BlockMeta>) -> BlockReader {
        let (backend, options) = (self.db.backend(), ReadOptions::default());
        BlockReader::open(backend, &tenant(), Arc::clone(meta), options, &ReadMeter::default()).await.unwrap()
    }

    /// Returns the metas of the live blocks that are in the backend.
    pub(super) async fn live(&self) -> Vec<Arc<BlockMeta>> {
        let ids = self.db.backend().block_ids(&tenant()).await.unwrap().live;
        let mut metas = Vec::new();
        for id in ids {
            metas.push(self.compactor.read_meta(&tenant(), id).await.unwrap());
        }
        metas.sort_by_key(|meta| meta.block_id);
        metas
    }

    /// Returns the spans of blocks, and how many of them are there more than once.
    pub(super) async fn spans(&self, metas: &[Arc<BlockMeta>]) -> (Spans, usize) {
        let (mut spans, mut repeated) = (Spans::new(), 0);
        for meta in metas {
            let reader = self.open(meta).await;
            let mut last = None;
            for group in 0..reader.row_groups() {
                let table = reader.read_row_group(group, &Projection::all(), None, &ReadMeter::default()).await.unwrap();
                for &id in &table.traces.ids {
                    assert!(last < Some(id), "ids ascend");
                    last = Some(id);
                }
                repeated += add_spans(&table, &mut spans);
            }
        }
        (spans, repeated)
    }

    /// Returns whether a lookup by id finds the trace in the block.
    pub(super) async fn finds(&self, meta: &Arc<BlockMeta>, id: TraceId) -> bool {
        self.open(meta).await.find_trace(id, &ReadMeter::default()).await.unwrap().is_some()
    }
}

/// By trace, every span as text.
pub(super) type Spans = BTreeMap<TraceId, BTreeSet<String>>;

/// Adds the spans of a table and returns how many were there.
pub(super) fn add_spans(table: &SpanTable, spans: &mut Spans) -> usize {
    let mut repeated = 0;
    for row in 0..table.trace_count() {
        let of_trace = spans.entry(table.traces.ids[row]).or_default();
        for resource in table.traces.resources.range(row) {
            for scope in table.resources.scopes.range(resource) {
                for span in table.scopes.spans.range(scope) {
                    if !of_trace.insert(describe(table, resource, scope, span)) {
                        repeated += 1;
                    }
                }
            }
        }
    }
    repeated
}

fn describe(table: &SpanTable, resource: usize, scope: usize, span: usize) -> String {
    let text = |id| String::from_utf8_lossy(table.strings.get(id)).into_owned();
    let spans = &table.spans;
    let events: Vec<_> = spans
        .events
        .range(span)
        .map(|event| (table.events.time_since_start_nanos[event], text(table.events.name[event]), attrs(table, &table.events.attrs, event)))
        .collect();
    let links: Vec<_> = spans
        .links
        .range(span)
        .map(|link| (table.links.trace_id[link], table.links.span_id[link], attrs(table, &table.links.attrs, link)))
        .collect();
    let ids = (spans.span_id[span], spans.parent_span_id[span], spans.kind[span], text(spans.name[span]));
    let times = (spans.start_unix_nanos[span], spans.duration_nanos[span], spans.status_code[span], text(spans.status_message[span]));
    let counts = (text(spans.trace_state[span]), spans.dropped_attributes[span], spans.dropped_events[span], spans.dropped_links[span]);
    let resource = (text(table.resources.service_name[resource]), attrs(table, &table.resources.attrs, resource));
    let scope = (text(table.scopes.name[scope]), text(table.scopes.version[scope]), attrs(table, &table.scopes.attrs, scope));
    format!("{ids:?} {times:?} {counts:?} {:?} {events:?} {links:?} in {resource:?} {scope:?}", attrs(table, &spans.attrs, span))
}

/// In an order of their own: joining sorts them by key.
fn attrs(table: &SpanTable, attrs: &Attrs, owner: usize) -> Vec<String> {
    let value = |value: &Value| match value {
        Value::Str(id) => format!("{:?}", table.strings.get(*id)),
        Value::Json(id) => format!("json {:?}", table.strings.get(*id)),
        Value::Double(number) => format!("{:x}", number.to_bits()),
        other => format!("{other:?}"),
    };
    let mut texts: Vec<String> = attrs
        .of_owner(owner)
        .map(|(key, of_key)| {
            let elements: Vec<_> = attrs.elements_of(&of_key).iter().map(value).collect();
            let is_array = matches!(of_key, Value::Array { .. });
            format!("{:?} {is_array} {elements:?}", table.strings.get(key))
        })
        .collect();
    texts.sort();
    texts
}
