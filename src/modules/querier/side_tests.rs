//! Side objects change what a query reads, never what it answers.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use object_store::memory::InMemory;
use proptest::prelude::*;

use super::config::QuerierConfig;
use super::{Parts, Querier};
use crate::base::clock::ManualClock;
use crate::base::cpu_pool::CpuPool;
use crate::model::ids::{TenantId, TraceId};
use crate::model::otlp_table::{Fragment, build_table};
use crate::model::span_table::{SpanTable, Value};
use crate::model::testing::arb_span_table;
use crate::model::wire::put_bytes;
use crate::services::rpc::querier::{Querier as _, SearchPart};
use crate::services::rpc::search::{SearchReply, TagNamesRequest, TagValuesRequest, TimeRange};
use crate::tempodb::backend::Backend;
use crate::tempodb::block::meta::{BlockId, BlockMeta};
use crate::tempodb::block::side::rebuild::{missing, rebuild};
use crate::tempodb::block::side::{AttrScope, PRUNING_NAME, TAGS_NAME};
use crate::tempodb::block::write::{BlockWriter, NewBlock};
use crate::tempodb::blocklist::BlockList;
use crate::tempodb::db::{DbSettings, TempoDb};
use crate::tempodb::keys::block_object;
use crate::traceql::ast::{Attribute, AttributeScope, Intrinsic};
use crate::traceql::autocomplete::parse_tag;
use crate::traceql::result::SearchRequest;
use crate::traceql::tags::{TagLimits, TagScope};

/// Blocks in memory, and a querier that has read none of them.
pub(super) struct Place {
    backend: Backend,
    pub(super) tenant: TenantId,
    pub(super) metas: Vec<Arc<BlockMeta>>,
    cpu: CpuPool,
}

impl Place {
    /// Every element of `blocks` is a block, every table in it a row group.
    pub(super) async fn new(blocks: &[&[SpanTable]]) -> Self {
        let (tenant, cpu) = (TenantId::single(), CpuPool::new("test", 1).unwrap());
        let backend = Backend::new(Arc::new(InMemory::new()), "");
        let mut metas = Vec::new();
        for tables in blocks {
            let block = NewBlock::new(tenant.clone(), BlockId::random(), 100);
            let mut writer = BlockWriter::create(backend.clone(), cpu.clone(), block).await.unwrap();
            for table in *tables {
                writer.append(Arc::new(table.clone())).await.unwrap();
            }
            metas.push(Arc::new(writer.finish().await.unwrap()));
        }
        Self { backend, tenant, metas, cpu }
    }

    fn db(&self) -> Arc<TempoDb> {
        let list = BlockList::default();
        self.metas.iter().for_each(|meta| list.add(&self.tenant, Arc::clone(meta)));
        let clock = Arc::new(ManualClock::at(1_795_400_000_000_000_000));
        Arc::new(TempoDb::new(self.backend.clone(), Arc::new(list), DbSettings::default(), clock))
    }

    pub(super) fn querier(&self) -> Querier {
        Querier::new(Parts { config: QuerierConfig::default(), span_readers: Vec::new(), db: self.db(), cpu: self.cpu.clone() })
    }

    async fn delete_side_objects(&self) {
        for meta in &self.metas {
            for name in [TAGS_NAME, PRUNING_NAME] {
                self.backend.delete(&block_object(&self.tenant, meta.block_id, name)).await.unwrap();
            }
        }
    }

    async fn search(&self, querier: &Querier, request: &SearchRequest) -> SearchReply {
        let part = SearchPart::Block { meta: Arc::clone(&self.metas[0]), row_groups: 0..usize::MAX };
        querier.search(&self.tenant, request, &part).await.unwrap()
    }
}

pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

const SCOPES: [(AttrScope, AttributeScope); 5] = [
    (AttrScope::Resource, AttributeScope::Resource),
    (AttrScope::Scope, AttributeScope::Instrumentation),
    (AttrScope::Span, AttributeScope::Span),
    (AttrScope::Event, AttributeScope::Event),
    (AttrScope::Link, AttributeScope::Link),
];

/// Conditions on what the table holds, and on what it does not.
fn conditions(table: &SpanTable) -> Vec<String> {
    let plain = |text: &[u8]| std::str::from_utf8(text).ok().filter(|text| text.chars().all(|c| c.is_ascii_lowercase())).map(str::to_owned);
    let mut conditions = BTreeSet::new();
    let levels = [&table.resources.attrs, &table.scopes.attrs, &table.spans.attrs, &table.events.attrs, &table.links.attrs];
    for (attrs, (_, scope)) in levels.into_iter().zip(SCOPES) {
        for (key, value) in attrs.keys.iter().zip(&attrs.values).take(6) {
            let attribute = Attribute::named(scope, &*table.strings.text(*key));
            let unscoped = Attribute::named(AttributeScope::Unscoped, &*table.strings.text(*key));
            conditions.insert(format!("{attribute} != nil"));
            for element in attrs.elements_of(value) {
                let literal = match element {
                    Value::Str(id) => plain(table.strings.get(*id)).map(|text| format!("\"{text}\"")),
                    Value::Int(number) if *number >= 0 => Some(number.to_string()),
                    Value::Bool(value) => Some(value.to_string()),
                    _ => None,
                };
                let Some(literal) = literal else { continue };
                conditions.extend([
                    format!("{attribute} = {literal}"),
                    format!("{unscoped} = {literal}"),
                    format!("{attribute} != {literal}"),
                ]);
                if !matches!(element, Value::Bool(_)) {
                    conditions.insert(format!("{attribute} >= {literal}"));
                }
            }
        }
    }
    let texts =
        |column: &[crate::model::strings::StrId]| column.iter().take(3).filter_map(|id| plain(table.strings.get(*id))).collect::<Vec<_>>();
    for (name, column) in [
        ("name", &table.spans.name),
        ("statusMessage", &table.spans.status_message),
        ("rootName", &table.traces.root_span_name),
        ("rootServiceName", &table.traces.root_service_name),
        ("resource.service.name", &table.resources.service_name),
        ("event:name", &table.events.name),
        ("instrumentation:name", &table.scopes.name),
        ("instrumentation:version", &table.scopes.version),
    ] {
        conditions.extend(texts(column).into_iter().map(|text| format!("{name} = \"{text}\"")));
        conditions.insert(format!("{name} = \"nowhere\""));
    }
    conditions.extend(["error", "ok", "unset"].map(|status| format!("status = {status}")));
    conditions.extend(["client", "server", "internal"].map(|kind| format!("kind = {kind}")));
    conditions.extend(["span.nothing = 1", "duration > 1h", "traceDuration < 1000h", "span.a = 0.5", "duration < 1ns"].map(str::to_owned));
    conditions.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn searches_find_the_same_with_and_without(table in arb_span_table(4), seconds: Range<u32>) {
        block_on(async {
            let place = Place::new(&[std::slice::from_ref(&table)]).await;
            let with = place.querier();
            let conditions = conditions(&table);
            let mut queries: Vec<String> = conditions.iter().map(|condition| format!("{{ {condition} }}")).collect();
            for pair in conditions.windows(2) {
                queries.push(format!("{{ {} && {} }}", pair[0], pair[1]));
                queries.push(format!("{{ {} || {} }}", pair[0], pair[1]));
                queries.push(format!("{{ {} }} && {{ {} }}", pair[0], pair[1]));
            }
            let requests: Vec<_> = queries.into_iter().enumerate().map(|(at, query)| SearchRequest {
                query,
                limit: 20,
                start_unix_seconds: if at % 5 == 4 { seconds.start } else { 0 },
                end_unix_seconds: if at % 5 == 4 { seconds.end } else { 0 },
                min_duration_nanos: (at % 7 == 6).then_some(u64::from(seconds.start)),
                ..SearchRequest::default()
            }).collect();
            let mut found = Vec::new();
            for request in &requests {
                found.push(place.search(&with, request).await.hits);
            }
            place.delete_side_objects().await;
            let without = place.querier();
            for (request, found) in requests.iter().zip(found) {
                let expected = place.search(&without, request).await.hits;
                prop_assert_eq!(found, expected, "{:?}", request);
            }
            Ok(())
        })?;
    }

    #[test]
    fn tag_lists_hold_what_blocks_hold(table in arb_span_table(4)) {
        block_on(async {
            let place = Place::new(&[std::slice::from_ref(&table)]).await;
            // Made from the block: the format keeps one of several equal keys, which the writer's table still has.
            rebuild(&place.db(), &place.cpu, &place.tenant, &place.metas[0]).await.unwrap();
            let querier = place.querier();
            let part = SearchPart::Block { meta: Arc::clone(&place.metas[0]), row_groups: 0..usize::MAX };
            let request = TagNamesRequest {
                scopes: TagScope::ALL.to_vec(),
                filter: String::new(),
                range: TimeRange::default(),
                limits: TagLimits::default(),
            };
            let listed = querier.listed_tag_names(&place.tenant, &request, &place.metas).await.unwrap();
            let expected = querier.tag_names(&place.tenant, &request, &part).await.unwrap();
            prop_assert_eq!(&listed.reply.names, &expected.names);
            prop_assert!(listed.left.is_empty());
            let keys = expected.names.values().flatten().cloned().collect::<BTreeSet<_>>();
            let scopes = SCOPES.iter().map(|(_, scope)| *scope).chain([AttributeScope::Unscoped]);
            let named = keys.iter().flat_map(|key| scopes.clone().map(move |scope| Attribute::named(scope, key.clone())));
            let columns = [Intrinsic::Name, Intrinsic::StatusMessage, Intrinsic::RootName, Intrinsic::RootServiceName, Intrinsic::EventName,
                Intrinsic::InstrumentationName, Intrinsic::InstrumentationVersion];
            for attribute in named.chain(columns.map(Attribute::Intrinsic)) {
                let request = TagValuesRequest { attribute, filter: String::new(), range: TimeRange::default(), limits: TagLimits::default() };
                let listed = querier.listed_tag_values(&place.tenant, &request, &place.metas).await.unwrap();
                let expected = querier.tag_values(&place.tenant, &request, &part).await.unwrap();
                prop_assert_eq!(&listed.reply.values, &expected.values, "{}", request.attribute);
                prop_assert!(listed.left.is_empty());
            }
            Ok(())
        })?;
    }
}

/// An OTLP message of fields given as (number, content).
fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    fields.iter().for_each(|(number, content)| put_bytes(&mut out, *number, content));
    out
}

fn attribute(key: &str, value: &str) -> Vec<u8> {
    message(&[(1, key.as_bytes()), (2, &message(&[(1, value.as_bytes())]))])
}

/// Traces `ids` of one span each, whose attribute `user` is the number of the trace and `color` is `color`.
fn users(ids: Range<u128>, color: &str) -> SpanTable {
    let trace = |id: u128| {
        let (user, color) = (attribute("user", &id.to_string()), attribute("color", color));
        let span = message(&[(2, &(id as u64).to_be_bytes()), (9, &user), (9, &color)]);
        message(&[(1, &message(&[(2, &message(&[(2, &span)]))]))])
    };
    let traces: Vec<_> = ids.clone().map(trace).collect();
    let fragments = ids.zip(&traces).map(|(id, trace)| Fragment { trace_id: TraceId(id.to_be_bytes()), trace });
    build_table(fragments.collect()).table
}

fn search(query: &str) -> SearchRequest {
    SearchRequest { query: query.to_owned(), limit: 20, ..SearchRequest::default() }
}

#[tokio::test]
async fn a_value_that_is_not_there_costs_one_read_and_then_none() {
    let place = Place::new(&[&[users(1..3_000, "red"), users(3_000..6_000, "blue")]]).await;
    let querier = place.querier();
    let reply = place.search(&querier, &search("{ span.user = \"nobody\" }")).await;
    assert_eq!((reply.hits.len(), reply.inspection.backend_reads), (0, 1));
    for absent in
        ["{ span.user = \"anybody\" }", "{ resource.user = \"5\" }", "{ span.other != nil }", "{ duration > 1s }", "{ status = error }"]
    {
        let reply = place.search(&querier, &search(absent)).await;
        assert_eq!((reply.hits.len(), reply.inspection.backend_reads), (0, 0), "{absent}");
    }
    // Only the row group that has it is looked at.
    for (present, rows) in [("{ span.user = \"5\" }", 2_999), ("{ span.color = \"blue\" }", 3_000)] {
        let reply = place.search(&querier, &search(present)).await;
        assert!(!reply.hits.is_empty() && (1..=rows).contains(&reply.inspection.traces), "{present}: {:?}", reply.inspection);
    }
}

#[tokio::test]
async fn broken_objects_are_as_good_as_none() {
    let place = Place::new(&[&[users(1..50, "red")], &[users(1..60, "blue")]]).await;
    let request = search("{ span.color = \"red\" }");
    let other = |name| block_object(&place.tenant, place.metas[1].block_id, name);
    for name in [PRUNING_NAME, TAGS_NAME] {
        let key = block_object(&place.tenant, place.metas[0].block_id, name);
        let whole = place.backend.read(&key).await.unwrap().to_vec();
        let of_other = place.backend.read(&other(name)).await.unwrap().to_vec();
        let flipped = (0..whole.len()).step_by(7).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            bytes
        });
        let cut = [0, 3, 19, 40, whole.len() / 2, whole.len() - 1].map(|length| whole[..length].to_vec());
        for bytes in flipped.chain(cut).chain([of_other]) {
            place.backend.write(&key, bytes).await.unwrap();
            let querier = place.querier();
            assert_eq!(place.search(&querier, &request).await.hits.len(), 20);
            assert!(place.search(&querier, &search("{ span.color = \"green\" }")).await.hits.is_empty());
            let values = TagValuesRequest {
                attribute: parse_tag("span.color").unwrap(),
                filter: String::new(),
                range: TimeRange::default(),
                limits: TagLimits::default(),
            };
            let listed = querier.listed_tag_values(&place.tenant, &values, &place.metas).await.unwrap();
            let found: Vec<_> = listed.reply.values.iter().map(|value| &*value.text).collect();
            match listed.left.as_slice() {
                [] => assert_eq!(found, ["blue", "red"]),
                [left] => assert_eq!((*left, found), (place.metas[0].block_id, vec!["blue"])),
                more => panic!("{more:?}"),
            }
        }
        place.backend.write(&key, whole).await.unwrap();
    }
}

#[tokio::test]
async fn missing_objects_are_found_and_made() {
    let place = Place::new(&[&[users(1..50, "red")], &[users(1..60, "blue")]]).await;
    let db = place.db();
    assert!(missing(&db, &place.tenant, 10).await.unwrap().is_empty());
    place.delete_side_objects().await;
    assert!(missing(&db, &place.tenant, 10).await.unwrap().is_empty(), "asked once a block");
    let db = place.db();
    assert_eq!(missing(&db, &place.tenant, 1).await.unwrap().len(), 1);
    let found = missing(&db, &place.tenant, 10).await.unwrap();
    assert_eq!(found.len(), 2);
    for meta in &found {
        let rebuilt = rebuild(&db, &place.cpu, &place.tenant, meta).await.unwrap();
        assert!(rebuilt.spans > 40 && rebuilt.written_bytes > 100 && rebuilt.read.requests > 0, "{rebuilt:?}");
    }
    assert!(missing(&db, &place.tenant, 10).await.unwrap().is_empty());
    let querier = place.querier();
    assert_eq!(place.search(&querier, &search("{ span.color = \"green\" }")).await.inspection.backend_reads, 1);
    // A block that goes meanwhile leaves nothing behind.
    let gone = &place.metas[1];
    db.open(&place.tenant, gone, &Default::default()).await.unwrap();
    place.backend.delete(&block_object(&place.tenant, gone.block_id, "meta.json")).await.unwrap();
    rebuild(&db, &place.cpu, &place.tenant, gone).await.unwrap_err();
    for name in [TAGS_NAME, PRUNING_NAME] {
        let looked = place.backend.head(&block_object(&place.tenant, gone.block_id, name)).await;
        assert!(looked.is_err_and(|error| error.is_not_found()), "{name}");
    }
}

#[tokio::test]
async fn many_values_make_a_list_incomplete_and_the_block_answers() {
    let place = Place::new(&[&[users(1..3_000, "red")], &[users(1..60, "blue")]]).await;
    let querier = place.querier();
    let request = |tag: &str| TagValuesRequest {
        attribute: parse_tag(tag).unwrap(),
        filter: String::new(),
        range: TimeRange::default(),
        limits: TagLimits::default(),
    };
    let colors = querier.listed_tag_values(&place.tenant, &request("span.color"), &place.metas).await.unwrap();
    assert_eq!((colors.reply.values.len(), colors.left.len()), (2, 0));
    let users = querier.listed_tag_values(&place.tenant, &request("span.user"), &place.metas).await.unwrap();
    assert_eq!(users.left, [place.metas[0].block_id]);
    assert!(users.reply.values.len() >= 100);
    // Of one block only, though both end at the same time.
    let one = querier.listed_tag_values(&place.tenant, &request("span.color"), &place.metas[1..]).await.unwrap();
    assert_eq!(one.reply.values.iter().map(|value| &*value.text).collect::<Vec<_>>(), ["blue"]);
}
