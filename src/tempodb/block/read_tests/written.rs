//! What our writer makes of tables is what comes back, and damage to it is noticed.

use std::sync::Arc;

use object_store::memory::InMemory;
use parquet::file::reader::FileReader as _;
use parquet::record::{Field, Row, RowAccessor as _};
use pretty_assertions::assert_eq;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::tempodb::block::encode::EncodeSettings;
use crate::tempodb::block::write::{BlockEncoder, NewBlock};

/// The objects of a block in memory, to be damaged.
struct Stored {
    meta: meta::BlockMeta,
    data: Vec<u8>,
    others: Vec<(String, Vec<u8>)>,
}

impl Stored {
    /// Writes `tables` with our own writer, a row group each.
    fn write(version: meta::BlockVersion, tables: &[SpanTable], dedicated_columns: Vec<dedicated::DedicatedColumn>) -> Self {
        let traces = tables.iter().map(SpanTable::trace_count).sum();
        Self::encode(NewBlock { version, dedicated_columns, ..NewBlock::new(TenantId::single(), meta::BlockId::random(), traces) }, tables)
    }

    fn encode(new: NewBlock, tables: &[SpanTable]) -> Self {
        let version = new.version;
        let mut encoder = BlockEncoder::new(new, Vec::new()).unwrap();
        for table in tables {
            encoder.append(table).unwrap();
        }
        let (data, finished) = encoder.finish().unwrap();
        assert_eq!(finished.meta.version(), Ok(version));
        let blooms = (0..).zip(finished.blooms).map(|(shard, bytes)| (keys::bloom_name(shard), bytes));
        let others = blooms.chain([(index::INDEX_NAME.to_owned(), finished.index)]).collect();
        Self { meta: finished.meta, data, others }
    }

    /// `block` is the path of a fixture block.
    fn load(block: &str) -> Self {
        let folder = Path::new(ROOT).join(block);
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let meta = meta::BlockMeta::from_json(&read(META_NAME)).unwrap();
        let blooms = (0..meta.bloom_shards).map(keys::bloom_name);
        let others = blooms.chain([index::INDEX_NAME.to_owned()]).map(|name| (name.clone(), read(&name))).collect();
        Self { meta, data: read(keys::DATA_NAME), others }
    }

    async fn open(&self, options: ReadOptions) -> Result<BlockReader, error::BlockReadError> {
        let backend = Backend::new(Arc::new(InMemory::new()), "");
        let (tenant, id) = (TenantId::single(), self.meta.block_id);
        backend.write(&keys::block_object(&tenant, id, keys::DATA_NAME), self.data.clone()).await.unwrap();
        for (name, bytes) in &self.others {
            backend.write(&keys::block_object(&tenant, id, name), bytes.clone()).await.unwrap();
        }
        BlockReader::open(&backend, &tenant, Arc::new(self.meta.clone()), options, &ReadMeter::default()).await
    }
}

fn without_checksums() -> ReadOptions {
    ReadOptions { verify_checksums: false, ..ReadOptions::default() }
}

async fn tables_of(reader: &BlockReader) -> Vec<SpanTable> {
    let mut tables = Vec::new();
    for group in 0..reader.row_groups() {
        tables.push(reader.read_row_group(group, &Projection::all(), None, &ReadMeter::default()).await.unwrap());
    }
    tables
}

const WRITTEN: [meta::BlockVersion; 2] = [meta::BlockVersion::VParquet4, meta::BlockVersion::VParquet5];

/// Blocks of every version, each rewritten into those that can be written. Where attributes have their columns differs, hence their order.
#[tokio::test]
async fn what_our_writer_makes_of_real_blocks_reads_the_same() {
    for ((tenant, reader), version) in readers_of_all().await.iter().flat_map(|block| WRITTEN.map(|version| (block, version))) {
        let tables = tables_of(reader).await;
        let written = Stored::write(version, &tables, reader.meta().dedicated_columns.to_vec());
        let again = written.open(ReadOptions::default()).await.unwrap();
        let (slots, meter) = (again.file().slots().to_vec(), ReadMeter::default());
        let stored = |table: &SpanTable, slots: &[dedicated::DedicatedSlot]| -> Vec<_> {
            spans_of_table(table).into_iter().map(|(key, span)| (key, as_stored(span, version, slots))).collect()
        };
        for (group, (table, reread)) in tables.iter().zip(tables_of(&again).await).enumerate() {
            for (row, (sent, found)) in (0..table.trace_count()).map(|row| (row, (summary(table, row), summary(&reread, row)))) {
                // Child counts of rootless traces are undefined in blocks of others (block-format §4.6).
                let is_rootless = sent["spans"].as_array().unwrap().iter().all(|span| span[2] == 0);
                if !is_rootless {
                    assert_eq!(found, sent, "{tenant} {version} {group} {row}");
                }
            }
            assert_eq!(stored(&reread, &[]), stored(table, &slots), "{tenant} {version} {group}");
            for &id in &table.traces.ids {
                let found = again.find_trace(id, &meter).await.unwrap().unwrap();
                assert_eq!(found.traces.ids, [id]);
            }
            // Dictionaries of our own blocks answer, too.
            assert!(!again.row_group_may_contain(group, &StringColumn::SpanName, &|name| name == b"no such name", &meter).await.unwrap());
            let name = table.spans.name[0];
            let name = table.strings.get(name);
            assert!(again.row_group_may_contain(group, &StringColumn::SpanName, &|found| found == name, &meter).await.unwrap());
        }
    }
}

fn member<'a>(group: &'a Row, name: &str) -> &'a Field {
    group.get_column_iter().find(|(found, _)| *found == name).unwrap().1
}

fn group(field: &Field) -> &Row {
    if let Field::Group(group) = field { group } else { panic!("{field:?} is no group") }
}

fn elements(field: &Field) -> &[Field] {
    if let Field::ListInternal(list) = field { list.elements() } else { panic!("{field:?} is no list") }
}

/// The `parquet` crate's own readers rebuild the rows of our files from their schema alone. Uncompressed: it is built without codecs.
#[tokio::test]
async fn records_of_our_files_are_read_by_the_parquet_crate() {
    for ((tenant, reader), version) in readers_of_all().await.iter().flat_map(|block| WRITTEN.map(|version| (block, version))) {
        let tables = tables_of(reader).await;
        let new = NewBlock {
            version,
            dedicated_columns: reader.meta().dedicated_columns.to_vec(),
            encode: EncodeSettings { is_compressing: false, ..EncodeSettings::default() },
            ..NewBlock::new(TenantId::single(), meta::BlockId::random(), 100)
        };
        let written = Stored::encode(new, &tables);
        let file = parquet::file::serialized_reader::SerializedFileReader::new(bytes::Bytes::from(written.data)).unwrap();
        let mut rows = file.get_row_iter(None).unwrap();
        for table in &tables {
            for row in 0..table.trace_count() {
                let record = rows.next().unwrap().unwrap();
                assert_eq!(record.get_bytes(0).unwrap().data(), table.traces.ids[row].0, "{tenant} {version}");
                assert_eq!(record.get_ulong(2).unwrap(), table.traces.start_unix_nanos[row]);
                let mut names = Vec::new();
                for scope in elements(member(&record, "rs")).iter().flat_map(|resource| elements(member(group(resource), "ss"))) {
                    for span in elements(member(group(scope), "Spans")) {
                        let Field::Str(name) = member(group(span), "Name") else { panic!("names are strings") };
                        names.push(name.clone());
                    }
                }
                let wanted: Vec<_> = table.spans_of_trace(row).map(|span| text(&table.strings, table.spans.name[span])).collect();
                assert_eq!(names, wanted, "{tenant} {version}");
            }
        }
        assert!(rows.next().is_none());
    }
}

/// What the rules of block-format §4.4 and §8 make of an attribute list: those without a slot first, then the slots in their order.
fn in_stored_order(
    list: &[Json],
    scope: dedicated::DedicatedScope,
    version: meta::BlockVersion,
    slots: &[dedicated::DedicatedSlot],
) -> Vec<Json> {
    let is_repeated = version == meta::BlockVersion::VParquet5;
    let (mut general, mut in_slots) = (Vec::new(), vec![None; slots.len()]);
    for pair in list {
        let fits = |at: &usize| {
            let kind = match slots[*at].kind {
                dedicated::DedicatedKind::String => "stringValue",
                dedicated::DedicatedKind::Int => "intValue",
            };
            let of_kind = |value: &Json| value.get(kind).is_some();
            of_kind(&pair[1]) || is_repeated && pair[1].get("arrayValue").is_some_and(|list| list.as_array().unwrap().iter().all(of_kind))
        };
        let of_key: Vec<usize> = (0..slots.len()).filter(|&at| slots[at].scope == scope && json!(slots[at].name) == pair[0]).collect();
        match of_key.iter().copied().find(|at| fits(at)) {
            Some(at) => in_slots[at] = Some(pair.clone()),
            None => {
                if is_repeated {
                    of_key.iter().for_each(|&at| in_slots[at] = None);
                }
                general.push(pair.clone());
            }
        }
    }
    let mut found = in_slots.into_iter().flatten().collect::<Vec<_>>();
    if is_repeated {
        found.retain_mut(|pair| !collapses_to_nothing(pair, Some(scope), slots));
    }
    general.extend(found);
    general
}

/// A span of a table as it comes back from a block.
fn as_written(mut span: CanonicalSpan, version: meta::BlockVersion, slots: &[dedicated::DedicatedSlot]) -> CanonicalSpan {
    use dedicated::DedicatedScope;
    let store = |item: &mut Json, scope| {
        let Some(list) = item.get("attributes").and_then(Json::as_array) else { return };
        // The service name is no attribute of a table, it is only shown as one.
        let (service, others): (Vec<_>, Vec<_>) = list.iter().cloned().partition(|pair| pair[0] == "service.name");
        let mut stored = in_stored_order(&others, scope, version, slots);
        stored.extend(service);
        if stored.is_empty() {
            item.as_object_mut().unwrap().remove("attributes");
        } else {
            item["attributes"] = json!(stored);
        }
    };
    store(&mut span["resource"], DedicatedScope::Resource);
    store(&mut span["span"], DedicatedScope::Span);
    for event in span["span"].get_mut("events").and_then(Json::as_array_mut).into_iter().flatten() {
        store(event, DedicatedScope::Event);
    }
    span
}

/// Lists with every kind and option.
fn arb_columns() -> impl Strategy<Value = Vec<dedicated::DedicatedColumn>> {
    use dedicated::{DedicatedColumn, DedicatedKind, DedicatedScope};
    let rich = vec![
        DedicatedColumn::new(DedicatedScope::Resource, "a", DedicatedKind::String).with_option("array"),
        DedicatedColumn::new(DedicatedScope::Resource, "attempt", DedicatedKind::Int),
        DedicatedColumn::new(DedicatedScope::Span, "a", DedicatedKind::String).with_option("blob"),
        DedicatedColumn::new(DedicatedScope::Span, "server.port", DedicatedKind::Int).with_option("array"),
        DedicatedColumn::new(DedicatedScope::Span, "http.status_code", DedicatedKind::String),
        DedicatedColumn::new(DedicatedScope::Event, "exception.type", DedicatedKind::String).with_option("blob"),
        DedicatedColumn::new(DedicatedScope::Event, "attempt", DedicatedKind::Int),
    ];
    prop_oneof![Just(dedicated::default_columns()), Just(Vec::new()), Just(rich)]
}

#[test]
fn blobs_have_no_dictionary() {
    let blob = dedicated::DedicatedColumn::new(dedicated::DedicatedScope::Span, "b", dedicated::DedicatedKind::String).with_option("blob");
    let schema = schema::BlockSchema::new(meta::BlockVersion::VParquet5, &[blob]);
    let column = schema::Column::Dedicated(dedicated::DedicatedScope::Span, dedicated::DedicatedKind::String, 1);
    let leaf = &schema.leaves()[schema.position(column).unwrap()];
    assert_eq!((leaf.encoding, leaf.codec), (schema::LeafEncoding::DeltaLength, schema::LeafCodec::Zstd));
}

/// Does everything that a reader can do; results do not matter.
async fn exercise(stored: &Stored, options: ReadOptions) -> Result<(), error::BlockReadError> {
    let reader = stored.open(options).await?;
    let meter = ReadMeter::default();
    let mut outcome = Ok(());
    for group in 0..reader.row_groups().min(4) {
        let rows = RowSelection::from_rows([0, 2, 3]);
        let mut keys = Projection::default();
        keys.spans.attrs = AttrSelection::keys(["http.method", "a"]);
        for (projection, rows) in [(Projection::all(), None), (Projection::all(), Some(&rows)), (keys, None)] {
            outcome = outcome.and(reader.read_row_group(group, &projection, rows, &meter).await.map(drop));
        }
        let column = StringColumn::Attr(schema::Level::Span, b"http.method".to_vec());
        outcome = outcome.and(reader.row_group_may_contain(group, &column, &|_| false, &meter).await.map(drop));
        outcome = outcome.and(reader.int_range(group, &IntColumn::SpanDuration).map(drop));
    }
    outcome.and(reader.find_trace(TraceId::from_hex("91678a").unwrap_or_default(), &meter).await.map(drop))
}

#[tokio::test]
async fn a_flipped_bit_is_noticed_or_changes_nothing() {
    let mut stored = Stored::load("vParquet5/alpha/ddf5ebac-38d4-46dd-b64c-c75f25473644");
    let whole = spans_of_table(&tables_of(&stored.open(ReadOptions::default()).await.unwrap()).await[0]);
    let mut noticed = 0;
    for at in (100..stored.data.len() / 2).step_by(701) {
        stored.data[at] ^= 0x10;
        let reader = stored.open(ReadOptions::default()).await.unwrap();
        match reader.read_row_group(0, &Projection::all(), None, &ReadMeter::default()).await {
            // Statistics in page headers and columns that are not read.
            Ok(table) => assert_eq!(spans_of_table(&table), whole, "{at}"),
            Err(error) => {
                assert!(error.is_corrupt());
                noticed += 1;
            }
        }
        stored.data[at] ^= 0x10;
    }
    assert!(noticed >= 10, "{noticed}");
}

/// A block of each version.
const SMALL_BLOCKS: [&str; 3] = [
    "vParquet3/beta/235cddd3-0a73-4b79-a90c-a03175c4a087",
    "vParquet4/beta/5613c934-c130-4eda-93d3-bb298aea5b28",
    "vParquet5/beta/daee1b73-8553-4698-888c-3e28752dc459",
];

fn damaged(data: &[u8], damage: &[(usize, u8, usize)]) -> Vec<u8> {
    let mut data = data.to_vec();
    for &(at, value, length) in damage {
        let at = at % data.len();
        let end = (at + length).min(data.len());
        data[at..end].fill(value);
    }
    data
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn written_tables_read_the_same(
        table in crate::model::testing::arb_span_table(6),
        version in prop::sample::select(&WRITTEN[..]),
        columns in arb_columns(),
    ) {
        let mut table = table;
        if version == meta::BlockVersion::VParquet4 {
            // Not stored.
            crate::model::trace_numbers::derive_child_counts(&mut table);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let stored = Stored::write(version, std::slice::from_ref(&table), columns);
            let reader = stored.open(ReadOptions::default()).await.unwrap();
            let again = tables_of(&reader).await.remove(0);
            prop_assert_eq!(&again.traces.ids, &table.traces.ids);
            let slots = reader.file().slots();
            let wanted: Vec<_> = spans_of_table(&table).into_iter().map(|(key, span)| (key, as_written(span, version, slots))).collect();
            prop_assert_eq!(spans_of_table(&again), wanted);
            for row in 0..table.trace_count() {
                prop_assert_eq!(summary(&again, row), summary(&table, row));
                let rows = RowSelection::from_range(row..row + 1);
                let one = reader.read_row_group(0, &Projection::all(), Some(&rows), &ReadMeter::default()).await.unwrap();
                prop_assert_eq!(summary(&one, 0), summary(&table, row));
            }
            Ok(())
        })?;
    }

    #[test]
    fn damaged_blocks_never_panic(
        block in prop::sample::select(&SMALL_BLOCKS[..]),
        damage in prop::collection::vec((any::<usize>(), any::<u8>(), 1_usize..9), 1..6),
        ours in any::<bool>(),
        cut in any::<Option<u16>>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut stored = Stored::load(block);
        if ours {
            let tables = runtime.block_on(async { tables_of(&stored.open(ReadOptions::default()).await.unwrap()).await });
            let version = stored.meta.version().ok().filter(|version| version.is_writable()).unwrap_or(meta::BlockVersion::VParquet5);
            stored = Stored::write(version, &tables, stored.meta.dedicated_columns.to_vec());
        }
        stored.data = damaged(&stored.data, &damage);
        if let Some(cut) = cut {
            stored.data.truncate(stored.data.len().saturating_sub(usize::from(cut)));
        }
        let _ = runtime.block_on(exercise(&stored, without_checksums()));
    }

    #[test]
    fn damaged_footers_never_panic(
        block in prop::sample::select(&SMALL_BLOCKS[..]),
        damage in prop::collection::vec((any::<usize>(), any::<u8>(), 1_usize..4), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut stored = Stored::load(block);
        // Page indexes lie before the footer and are about as long.
        let start = stored.data.len().saturating_sub(stored.meta.footer_size_bytes as usize * 2);
        let tail = damaged(&stored.data[start..], &damage);
        stored.data.splice(start.., tail);
        let _ = runtime.block_on(exercise(&stored, without_checksums()));
    }
}
