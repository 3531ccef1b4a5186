//! The query API over a querier that holds a few tables, as HTTP clients see it.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use prost::Message as _;
use serde_json::{Value as Json, json};
use tower::ServiceExt as _;

use super::config::QueryFrontendConfig;
use super::limits::QueryLimits;
use super::tenancy::Tenancy;
use super::{Parts, QueryFrontend, router};
use crate::base::clock::ManualClock;
use crate::base::cpu_pool::CpuPool;
use crate::base::duration::GoDuration;
use crate::base::error_class::ErrorClass;
use crate::model::ids::{TenantId, TraceId};
use crate::model::otlp_table::{Fragment, build_table};
use crate::model::span_table::SpanTable;
use crate::proto::tempopb;
use crate::proto::tempopb::common::v1::{AnyValue, KeyValue, any_value};
use crate::proto::tempopb::resource::v1::Resource;
use crate::proto::tempopb::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use crate::services::rpc::block_list::BlockList;
use crate::services::rpc::metrics_query::{MetricsReply, MetricsRequest, RecentMetricsReply, seconds_of};
use crate::services::rpc::querier::{FindTraceReply, FindTraceRequest, Listed, Querier, SearchPart, TracePart};
use crate::services::rpc::search::{Inspection, SearchReply, TagNamesReply, TagNamesRequest, TagValuesReply, TagValuesRequest, TimeRange};
use crate::services::rpc::status::CallError;
use crate::services::span_metrics::metrics_of_tables;
use crate::services::span_search::{search_tables, tag_names_of, tag_values_of};
use crate::tempodb::block::meta::BlockMeta;
use crate::tempodb::cache::testing::caches_of;
use crate::tempodb::cache::{CacheRole, Caches};
use crate::traceql::result::SearchRequest;

const NOW: u64 = 1_795_308_858;

/// Answers recent jobs from `recent` and every block job from `stored`, each by tenant.
#[derive(Default)]
struct TableQuerier {
    recent: Vec<(&'static str, SpanTable)>,
    stored: Vec<(&'static str, SpanTable)>,
    /// Failures to report before the first answer.
    failures: Mutex<Vec<CallError>>,
    is_stuck: bool,
    /// Every block is found broken.
    has_broken_blocks: bool,
    /// Calls of jobs over blocks.
    block_calls: Arc<AtomicUsize>,
    /// Recent data answers after the first job over a block.
    recent_waits_for_blocks: bool,
    block_called: tokio::sync::Notify,
}

impl TableQuerier {
    async fn tables(&self, tenant: &TenantId, is_recent: bool) -> Result<Vec<&SpanTable>, CallError> {
        if self.is_stuck {
            std::future::pending::<()>().await;
        }
        if let Some(error) = self.failures.lock().pop() {
            return Err(error);
        }
        self.block_calls.fetch_add(usize::from(!is_recent), Ordering::SeqCst);
        if !is_recent {
            self.block_called.notify_one();
        } else if self.recent_waits_for_blocks {
            self.block_called.notified().await;
        }
        let tables = if is_recent { &self.recent } else { &self.stored };
        Ok(tables.iter().filter(|(owner, _)| *owner == tenant.as_str()).map(|(_, table)| table).collect())
    }
}

#[async_trait]
impl Querier for TableQuerier {
    async fn find_trace(&self, tenant: &TenantId, request: FindTraceRequest, part: TracePart) -> Result<FindTraceReply, CallError> {
        let tables = self.tables(tenant, part == TracePart::Recent).await?;
        let row_of = |table: &SpanTable| table.traces.ids.iter().position(|id| *id == request.trace_id);
        let part = |table: &SpanTable| row_of(table).map(|row| crate::model::combine::combine_trace(&[(table, row)]));
        Ok(FindTraceReply { parts: tables.into_iter().filter_map(part).collect(), ..FindTraceReply::default() })
    }

    async fn search(&self, tenant: &TenantId, request: &SearchRequest, part: &SearchPart) -> Result<SearchReply, CallError> {
        let tables = self.tables(tenant, matches!(part, SearchPart::Recent)).await?;
        search_tables(tables.into_iter().map(Into::into), request, &Default::default())
    }

    async fn tag_names(&self, tenant: &TenantId, request: &TagNamesRequest, part: &SearchPart) -> Result<TagNamesReply, CallError> {
        Ok(tag_names_of(self.tables(tenant, matches!(part, SearchPart::Recent)).await?, request))
    }

    async fn tag_values(&self, tenant: &TenantId, request: &TagValuesRequest, part: &SearchPart) -> Result<TagValuesReply, CallError> {
        Ok(tag_values_of(self.tables(tenant, matches!(part, SearchPart::Recent)).await?, request))
    }

    async fn recent_metrics(&self, tenant: &TenantId, request: &MetricsRequest) -> Result<RecentMetricsReply, CallError> {
        let tables = self.tables(tenant, true).await?;
        let reply = metrics_of_tables(tables.into_iter().map(Into::into), request, &Default::default())?;
        Ok(RecentMetricsReply { reply, blocks: OneBlock.live_blocks(tenant, seconds_of(&request.window)) })
    }

    async fn metrics_of_block(
        &self,
        tenant: &TenantId,
        request: &MetricsRequest,
        _meta: &Arc<BlockMeta>,
        _row_groups: std::ops::Range<usize>,
    ) -> Result<MetricsReply, CallError> {
        if self.has_broken_blocks {
            return Ok(MetricsReply { inspection: Inspection::SKIPPED, ..MetricsReply::default() });
        }
        let tables = self.tables(tenant, false).await?;
        let reply = metrics_of_tables(tables.into_iter().map(Into::into), request, &Default::default())?;
        Ok(MetricsReply { is_whole: true, ..reply })
    }

    async fn metrics_of_replicas(
        &self,
        _tenant: &TenantId,
        _request: &MetricsRequest,
        blocks: &[Arc<BlockMeta>],
    ) -> Result<MetricsReply, CallError> {
        unreachable!("{blocks:?} have one replica")
    }

    async fn listed_tag_names(
        &self,
        _tenant: &TenantId,
        _request: &TagNamesRequest,
        blocks: &[Arc<BlockMeta>],
    ) -> Result<Listed<TagNamesReply>, CallError> {
        Ok(Listed { left: blocks.iter().map(|meta| meta.block_id).collect(), ..Listed::default() })
    }

    async fn listed_tag_values(
        &self,
        _tenant: &TenantId,
        _request: &TagValuesRequest,
        blocks: &[Arc<BlockMeta>],
    ) -> Result<Listed<TagValuesReply>, CallError> {
        Ok(Listed { left: blocks.iter().map(|meta| meta.block_id).collect(), ..Listed::default() })
    }
}

/// One block of ten minutes before now for every tenant.
struct OneBlock;

#[async_trait]
impl BlockList for OneBlock {
    async fn blocks_without_filter(&self, _tenant: &TenantId, _range: TimeRange) -> Option<usize> {
        None
    }

    fn live_blocks(&self, _tenant: &TenantId, range: TimeRange) -> Vec<Arc<BlockMeta>> {
        let meta = json!({
            "format": "vParquet5", "blockID": "b1a76807-e24a-4b98-bcfd-0e2a55737f75", "tenantID": "t", "totalObjects": 1, "size": 10,
            "startTime": "2026-11-22T00:40:00Z", "endTime": "2026-11-22T00:50:00Z", "totalRecords": 1,
        });
        let meta = Arc::new(BlockMeta::from_json(meta.to_string().as_bytes()).unwrap());
        let overlaps = range.overlaps(meta.start_time.as_second(), meta.end_time.as_second());
        overlaps.then_some(meta).into_iter().collect()
    }
}

/// How a test wants its frontend.
#[derive(Default)]
struct Setup {
    querier: TableQuerier,
    config: QueryFrontendConfig,
    limits: QueryLimits,
    is_multitenant: bool,
    caches: Caches,
}

impl Setup {
    fn frontend(self) -> axum::Router {
        let Self { querier, config, limits, is_multitenant, caches } = self;
        let tenancy = Tenancy { multitenancy_enabled: is_multitenant, multi_tenant_queries_enabled: config.multi_tenant_queries_enabled };
        let parts = Parts {
            config,
            tenancy,
            search_end_cutoff: None,
            querier: Arc::new(querier),
            caches,
            blocks: Arc::new(OneBlock),
            limits: Arc::new(move |_| limits),
            clock: Arc::new(ManualClock::at(NOW * 1_000_000_000)),
            cpu: CpuPool::new("test", 1).unwrap(),
        };
        router(Arc::new(QueryFrontend::new(parts).unwrap()), "")
    }
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Json {
        assert_eq!((self.status, self.headers["content-type"].to_str().unwrap()), (StatusCode::OK, "application/json"), "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }
}

async fn get(frontend: &axum::Router, url: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = frontend.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    Answer { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes().to_vec() }
}

fn key_value(key: &str, value: Option<AnyValue>) -> KeyValue {
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}

fn text_value(text: &str) -> Option<AnyValue> {
    Some(AnyValue { value: Some(any_value::Value::StringValue(text.into())) })
}

fn span(id: u64, parent: u64, name: &str) -> Span {
    Span {
        span_id: id.to_be_bytes().to_vec(),
        parent_span_id: if parent == 0 { Default::default() } else { parent.to_be_bytes().to_vec() },
        name: name.into(),
        kind: 2,
        start_time_unix_nano: (NOW - 60) * 1_000_000_000 + id,
        end_time_unix_nano: (NOW - 59) * 1_000_000_000,
        status: Some(Status { message: String::new(), code: if name == "bad" { 2 } else { 0 } }),
        ..Span::default()
    }
}

/// One trace of service `shop` with the given spans.
fn table(trace: u8, spans: Vec<Span>) -> SpanTable {
    let trace_id = TraceId::from_bytes(&[trace]);
    let spans = spans.into_iter().map(|span| Span { trace_id: trace_id.0.to_vec(), ..span }).collect();
    let resource = Resource { attributes: vec![key_value("service.name", text_value("shop"))], ..Resource::default() };
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let bytes =
        tempopb::Trace { resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() }] }
            .encode_to_vec();
    build_table(vec![Fragment { trace_id, trace: &bytes }]).table
}

fn with_tables(recent: Vec<SpanTable>, stored: Vec<SpanTable>) -> Setup {
    let owned = |tables: Vec<SpanTable>| tables.into_iter().map(|table| ("single-tenant", table)).collect();
    Setup { querier: TableQuerier { recent: owned(recent), stored: owned(stored), ..TableQuerier::default() }, ..Setup::default() }
}

#[tokio::test]
async fn errors_have_the_known_status_and_text() {
    let frontend = Setup::default().frontend();
    for (url, status, text) in [
        ("/api/echo", 200, "echo\n"),
        ("/api/traces/1fz", 400, "trace IDs can only contain hex characters: invalid character 'z' at position 3"),
        ("/api/traces/1", 404, ""),
        (
            "/api/v2/traces/1?q=%7B&keep_hierarchy=1",
            400,
            "invalid TraceQL query: parse error at line 1, col 2: syntax error: unexpected $end",
        ),
        ("/api/search?q=%7B", 400, "invalid TraceQL query: parse error at line 1, col 2: syntax error: unexpected $end"),
        ("/api/search?q=%7B%7Dwith(order_by=%22name%22)", 400, "invalid TraceQL query: order_by must be \"start\" or \"duration\""),
        ("/api/search?limit=0", 400, "invalid limit: must be a positive number"),
        ("/api/search?start=10", 400, "http parameter start must be before end. received start=10 end=0"),
        ("/api/search?spss=1000", 400, "spans per span set exceeds 100. received 1000"),
        ("/api/search/tags?scope=foo", 400, "invalid scope: foo"),
        ("/api/v2/search/tags?start=10", 400, "error parsing date range: only one of start and end provided: must provide both or neither"),
        ("/api/search/tag//values", 400, "please provide a non-empty tagName"),
        (
            "/api/v2/search/tag/service.name/values",
            400,
            "please provide a valid tagName: failed to parse identifier service.name: parse error at line 1, col 2: unknown identifier: service",
        ),
        ("/api/metrics/query_range?q=%7B%7D", 400, "not a metrics query"),
        ("/api/metrics/query_range", 400, "parse error : syntax error: unexpected $end"),
        ("/api/metrics/query", 400, "compiling query: parse error : syntax error: unexpected $end"),
    ] {
        let answer = get(&frontend, url, &[]).await;
        let shown = answer.text().split(", expecting").next().unwrap();
        assert_eq!((answer.status.as_u16(), shown), (status, text), "{url}");
    }
}

#[tokio::test]
async fn trace_parts_in_recent_data_and_blocks_become_one_trace() {
    let recent = table(7, vec![span(1, 0, "root"), span(2, 1, "child")]);
    let stored = table(7, vec![span(2, 1, "child"), span(3, 2, "leaf")]);
    let frontend = with_tables(vec![recent], vec![stored]).frontend();
    let v1 = get(&frontend, "/api/traces/7", &[]).await.json();
    let names = |spans: &Json| spans.as_array().unwrap().iter().map(|span| span["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&v1["batches"][0]["scopeSpans"][0]["spans"]), ["root", "child", "leaf"]);
    let v2 = get(&frontend, "/api/v2/traces/07", &[]).await.json();
    assert_eq!(v2["trace"]["resourceSpans"], v1["batches"]);
    assert_eq!(v2.get("status"), None);
    let unknown = get(&frontend, "/api/v2/traces/8", &[]).await;
    assert_eq!(unknown.text(), r#"{"trace":{},"metrics":{}}"#);
}

#[tokio::test]
async fn protobuf_and_gzip_carry_the_same_trace() {
    let frontend = with_tables(vec![table(7, (1..100).map(|id| span(id, 0, "s")).collect())], vec![]).frontend();
    let headers = [("accept", "application/protobuf"), ("accept-encoding", "gzip")];
    let answer = get(&frontend, "/api/v2/traces/7", &headers).await;
    assert_eq!(
        (answer.headers["content-encoding"].to_str().unwrap(), answer.headers["vary"].to_str().unwrap()),
        ("gzip", "Accept-Encoding")
    );
    assert_eq!(answer.headers["content-type"], "application/protobuf");
    let mut body = Vec::new();
    flate2::read::GzDecoder::new(&answer.body[..]).read_to_end(&mut body).unwrap();
    let message = tempopb::TraceByIdResponse::decode(&body[..]).unwrap();
    let trace = message.trace.unwrap();
    assert_eq!(trace.resource_spans[0].scope_spans[0].spans.len(), 99);
    let v1 = get(&frontend, "/api/traces/7", &headers[..1]).await;
    assert_eq!(v1.body, trace.encode_to_vec());
}

#[tokio::test]
async fn large_traces_are_refused_by_v1_and_cut_by_v2() {
    let spans = (1..100).map(|id| span(id, if id == 50 { 0 } else { 50 }, if id == 70 { "bad" } else { "s" })).collect();
    let mut setup = with_tables(vec![table(7, spans)], vec![]);
    setup.limits.max_bytes_per_trace = 500;
    let frontend = setup.frontend();
    let v1 = get(&frontend, "/api/traces/7", &[]).await;
    assert_eq!((v1.status.as_u16(), v1.text()), (422, "trace exceeds max size (max bytes: 500)"));
    let v2 = get(&frontend, "/api/v2/traces/7", &[]).await;
    let shown = v2.json();
    assert_eq!(
        (&shown["status"], &shown["message"]),
        (&json!("PARTIAL"), &json!("Trace exceeds maximum size of 500 bytes, a partial trace is returned"))
    );
    let spans = shown["trace"]["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    // The root and the failed span are what a reader wants to see first.
    assert!((2..10).contains(&spans.len()) && spans.iter().any(|span| span["name"] == "bad"));
    assert!(spans.iter().any(|span| span.get("parentSpanId").is_none()));
}

#[tokio::test]
async fn a_trace_of_200_000_spans_is_answered() {
    let mut setup = with_tables(vec![table(7, (1..=200_000).map(|id| span(id, id / 2, "s")).collect())], vec![]);
    setup.limits.max_bytes_per_trace = 0;
    let frontend = setup.frontend();
    let whole = get(&frontend, "/api/traces/7", &[("accept", "application/protobuf")]).await;
    let trace = tempopb::Trace::decode(&whole.body[..]).unwrap();
    assert_eq!(trace.resource_spans[0].scope_spans[0].spans.len(), 200_000);
}

#[tokio::test]
async fn a_filter_keeps_matches_and_what_is_asked_for_around_them() {
    let spans = vec![span(1, 0, "root"), span(2, 1, "bad"), span(3, 2, "leaf"), span(4, 1, "other")];
    let frontend = with_tables(vec![table(7, spans)], vec![]).frontend();
    let query = "q=%7Bstatus%3Derror%7D";
    for (more, expected) in [("", vec!["bad"]), ("&keep_hierarchy=true", vec!["root", "bad"]), ("&match_depth=-1", vec!["bad", "leaf"])] {
        let shown = get(&frontend, &format!("/api/v2/traces/7?{query}{more}"), &[]).await.json();
        let spans = shown["trace"]["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        assert_eq!(spans.iter().map(|span| span["name"].as_str().unwrap()).collect::<Vec<_>>(), expected);
        assert_eq!(shown["message"], "Trace filtered, only a subset of spans matching the filter is returned");
    }
    let all = get(&frontend, "/api/v2/traces/7?q=%7B%7D", &[]).await.json();
    assert_eq!(all.get("status"), None);
}

#[tokio::test]
async fn search_answers_once_per_trace() {
    let trace = || table(7, vec![span(1, 0, "root"), span(2, 1, "bad")]);
    let frontend = with_tables(vec![trace()], vec![trace()]).frontend();
    let answer = get(&frontend, "/api/search?q=%7Bstatus%3Derror%7D", &[]).await;
    let shown = answer.json();
    let start = (NOW - 60) * 1_000_000_000;
    let set = json!({
        "spans": [{
            "spanID": "0000000000000002", "startTimeUnixNano": (start + 2).to_string(), "durationNanos": "999999998",
            "attributes": [{"key": "status", "value": {"stringValue": "error"}}],
        }],
        "matched": 1,
    });
    assert_eq!(
        shown["traces"],
        json!([{
            "traceID": "7", "rootServiceName": "shop", "rootTraceName": "root", "startTimeUnixNano": (start + 1).to_string(), "durationMs": 999,
            "spanSet": set, "spanSets": [set], "serviceStats": {"shop": {"spanCount": 2, "errorCount": 1}},
        }])
    );
    let metrics = &shown["metrics"];
    assert_eq!(
        (&metrics["totalBlocks"], &metrics["totalJobs"], &metrics["completedJobs"], &metrics["totalBlockBytes"]),
        (&json!(1), &json!(2), &json!(2), &json!("10"))
    );
    let nothing = get(&frontend, "/api/search?q=%7Bname%3D%22nix%22%7D", &[]).await;
    assert!(nothing.text().starts_with(r#"{"traces":[],"metrics":{"#), "{}", nothing.text());
}

#[tokio::test]
async fn search_answers_in_the_order_asked_for() {
    // Trace, start after the usual one, and duration, in seconds.
    let traces = [(1, 4, 2), (2, 1, 9), (3, 9, 5), (4, 6, 1)].map(|(trace, start, duration)| {
        let start_time_unix_nano = (NOW - 60 + start) * 1_000_000_000;
        let end_time_unix_nano = start_time_unix_nano + duration * 1_000_000_000;
        table(trace, vec![Span { start_time_unix_nano, end_time_unix_nano, ..span(1, 0, "root") }])
    });
    let [a, b, c, d] = traces;
    let frontend = with_tables(vec![a, b], vec![c, d]).frontend();
    for (hints, limit, expected) in [
        ("most_recent=true", 3, vec!["3", "4", "1"]),
        (r#"order_by="start",desc=true"#, 3, vec!["3", "4", "1"]),
        (r#"order_by="start""#, 2, vec!["2", "1"]),
        (r#"order_by="duration""#, 3, vec!["4", "1", "3"]),
        (r#"order_by="duration",desc=true"#, 1, vec!["2"]),
        (r#"order_by="duration",desc=true"#, 4, vec!["2", "3", "1", "4"]),
        ("unknown=1", 1, vec!["1"]),
        ("unknown=1", 4, vec!["3", "4", "1", "2"]),
    ] {
        let hints = hints.replace('"', "%22");
        let shown = get(&frontend, &format!("/api/search?q=%7B%7Dwith({hints})&limit={limit}"), &[]).await.json();
        let ids: Vec<&str> = shown["traces"].as_array().unwrap().iter().map(|trace| trace["traceID"].as_str().unwrap()).collect();
        assert_eq!(ids, expected, "{hints}");
    }
}

#[tokio::test]
async fn a_slow_job_does_not_change_the_answer() {
    let slow = table(1, vec![span(1, 0, "root")]);
    let quick = table(2, vec![span(1, 0, "root")]);
    let mut setup = with_tables(vec![slow], vec![quick]);
    setup.querier.recent_waits_for_blocks = true;
    let shown = get(&setup.frontend(), "/api/search?q=%7B%7D&limit=1", &[]).await.json();
    assert_eq!(shown["traces"][0]["traceID"], "1", "recent data comes first, though blocks were quicker");
}

#[tokio::test]
async fn search_shows_what_a_metrics_query_counts() {
    let frontend =
        with_tables(vec![table(7, vec![span(1, 0, "root"), span(2, 1, "bad")]), table(9, vec![span(1, 0, "other")])], vec![]).frontend();
    let found = get(&frontend, "/api/search?q=%7Bstatus%3Derror%7D%7Crate()by(name)%7Ctopk(3)", &[]).await.json();
    let traces = found["traces"].as_array().unwrap();
    assert_eq!((traces.len(), &traces[0]["traceID"], &traces[0]["spanSet"]["matched"]), (1, &json!("7"), &json!(1)));
    let math = get(&frontend, "/api/search?q=(%7B%7D%7Crate())*2", &[]).await;
    assert_eq!((math.status.as_u16(), math.text()), (400, "math expressions not supported"));
}

#[tokio::test]
async fn tag_search_is_answered_without_span_sets() {
    let frontend = with_tables(vec![table(7, vec![span(1, 0, "root")]), table(9, vec![span(1, 0, "other")])], vec![]).frontend();
    let shown = get(&frontend, "/api/search?tags=service.name%3Dshop%20name%3Droot", &[]).await.json();
    assert_eq!(shown["traces"].as_array().unwrap().len(), 1);
    assert_eq!(shown["traces"][0].get("spanSets"), None);
    assert_eq!(get(&frontend, "/api/search", &[]).await.json()["traces"].as_array().unwrap().len(), 2);
    assert_eq!(get(&frontend, "/api/search?limit=1", &[]).await.json()["traces"].as_array().unwrap().len(), 1);
    let late = format!("/api/search?start={}&end={}", NOW - 30, NOW);
    assert_eq!(get(&frontend, &late, &[]).await.json()["traces"], json!([]));
}

#[tokio::test]
async fn tags_and_values() {
    let mut tagged = span(1, 0, "root");
    tagged.attributes.push(key_value("http.route", text_value("/a")));
    tagged.attributes.push(key_value("a/b", Some(AnyValue { value: Some(any_value::Value::IntValue(5)) })));
    let frontend = with_tables(vec![table(7, vec![tagged])], vec![]).frontend();
    assert_eq!(get(&frontend, "/api/search/tags", &[]).await.json()["tagNames"], json!(["a/b", "http.route", "service.name"]));
    let v2 = get(&frontend, "/api/v2/search/tags", &[]).await.json();
    let scopes: Vec<_> = v2["scopes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|scope| (scope["name"].as_str().unwrap(), scope["tags"][0].as_str().unwrap()))
        .collect();
    assert_eq!(scopes, [("resource", "service.name"), ("span", "a/b"), ("intrinsic", "duration")]);
    let only = get(&frontend, "/api/search/tags?scope=intrinsic", &[]).await.json();
    assert_eq!(only["tagNames"].as_array().unwrap().len(), 25);
    for (path, field) in [
        ("/api/search/tag/http.route/values", json!(["/a"])),
        ("/api/search/tag/a%2Fb/values", json!(["5"])),
        ("/api/search/tag/status.code/values", json!(["error", "ok", "unset"])),
        ("/api/v2/search/tag/span.http.route/values", json!([{"type": "string", "value": "/a"}])),
        ("/api/v2/search/tag/resource.service.name/values?q=%7Bname%3D%22nix%22%7D", json!([])),
        ("/api/v2/search/tag/duration/values", json!([])),
    ] {
        assert_eq!(get(&frontend, path, &[]).await.json()["tagValues"], field, "{path}");
    }
    assert_eq!(get(&frontend, "/api/v2/search/tag/duration/values", &[]).await.text(), r#"{"tagValues":[],"metrics":{}}"#);
    let kinds = get(&frontend, "/api/v2/search/tag/status/values", &[]).await.json();
    assert_eq!(kinds["tagValues"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn cut_tag_lists_are_marked() {
    let mut setup = with_tables(vec![table(7, vec![span(1, 0, "root")])], vec![]);
    setup.limits.max_bytes_per_tag_values_query = 3;
    let answer = get(&setup.frontend(), "/api/v2/search/tag/name/values", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.headers["x-tempo-truncated"].to_str().unwrap()), (200, "true"));
}

#[tokio::test]
async fn several_tenants_are_merged_and_one_is_required() {
    let recent = vec![
        ("a", table(7, vec![span(1, 0, "root")])),
        ("b", table(7, vec![span(2, 1, "child")])),
        ("c", table(9, vec![span(1, 0, "other")])),
    ];
    let setup = Setup { querier: TableQuerier { recent, ..TableQuerier::default() }, is_multitenant: true, ..Setup::default() };
    let frontend = setup.frontend();
    let missing = get(&frontend, "/api/search", &[]).await;
    assert_eq!((missing.status.as_u16(), missing.text()), (401, "no org id\n"));
    let both = get(&frontend, "/api/traces/7", &[("x-scope-orgid", "a|b")]).await.json();
    assert_eq!(both["batches"][0]["scopeSpans"][0]["spans"].as_array().unwrap().len(), 2);
    let found = get(&frontend, "/api/search", &[("x-scope-orgid", "b|c|b")]).await.json();
    assert_eq!(found["traces"].as_array().unwrap().len(), 2);
    assert_eq!(get(&frontend, "/api/search", &[("x-scope-orgid", "c")]).await.json()["traces"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn failures_of_jobs_are_retried_once_and_then_reported() {
    let fails = |errors: Vec<CallError>| {
        let mut setup = with_tables(vec![table(7, vec![span(1, 0, "root")])], vec![]);
        setup.querier.failures = Mutex::new(errors);
        setup.frontend()
    };
    let broken = || CallError::internal("disk gone");
    assert_eq!(get(&fails(vec![broken()]), "/api/traces/7", &[]).await.status.as_u16(), 200);
    let invalid = CallError::new(ErrorClass::Invalid, "unexpected");
    let answer = get(&fails(vec![invalid]), "/api/traces/7", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (500, "unexpected"));
    let answer = get(&fails(vec![broken(); 9]), "/api/traces/7", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (500, "disk gone"));
}

#[tokio::test]
async fn slow_and_denied_requests_end() {
    let setup = Setup {
        querier: TableQuerier { is_stuck: true, ..TableQuerier::default() },
        config: QueryFrontendConfig {
            api_timeout: GoDuration::millis(20),
            url_deny_list: vec!["traces/dead.*".to_owned()],
            ..QueryFrontendConfig::default()
        },
        ..Setup::default()
    };
    let frontend = setup.frontend();
    let slow = get(&frontend, "/api/traces/7", &[]).await;
    assert_eq!((slow.status.as_u16(), slow.text()), (503, "unable to process request in the configured timeout"));
    let denied = get(&frontend, "/api/traces/deadbeef", &[]).await;
    assert_eq!(denied.status.as_u16(), 400);
    assert!(denied.text().starts_with("Invalid request /api/traces/deadbeef. This query has been identified as one"));
}

#[tokio::test]
async fn too_many_jobs_are_refused() {
    let config = QueryFrontendConfig { max_outstanding_per_tenant: 0, ..QueryFrontendConfig::default() };
    let answer = get(&Setup { config, ..Setup::default() }.frontend(), "/api/search", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (429, "job queue full"));
}

#[tokio::test]
async fn jobs_asked_before_are_answered_from_the_cache() {
    let (caches, maps) = caches_of(&[CacheRole::FrontendSearch]);
    let block_calls = Arc::new(AtomicUsize::new(0));
    let querier = TableQuerier {
        stored: vec![("single-tenant", table(1, vec![span(1, 0, "get")]))],
        block_calls: Arc::clone(&block_calls),
        ..TableQuerier::default()
    };
    let frontend = Setup { querier, caches, ..Setup::default() }.frontend();
    let traces = async |query: &str| get(&frontend, &format!("/api/search?q=%7B%7D&{query}"), &[]).await.json()["traces"].clone();
    let (wide, wider) = (format!("start={}&end={NOW}", NOW - 3600), format!("start={}&end={NOW}", NOW - 7200));
    let first = traces(&wide).await;
    assert_eq!((first.as_array().unwrap().len(), block_calls.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(traces(&wider).await, first, "another range around the block");
    assert_eq!(block_calls.load(Ordering::SeqCst), 1);
    // The trace is younger than the block says, and than this range.
    assert_eq!(traces(&format!("start={}&end={}", NOW - 3600, NOW - 120)).await, json!([]));
    assert_eq!(block_calls.load(Ordering::SeqCst), 1);
    assert_eq!(traces(&format!("{wide}&limit=5")).await, first, "another question");
    assert_eq!(block_calls.load(Ordering::SeqCst), 2);
    // 00:45, within the block.
    assert_eq!(traces(&format!("start={}&end={NOW}", NOW - 558)).await, first, "a range that cuts the block");
    assert_eq!(block_calls.load(Ordering::SeqCst), 3);

    for (prefix, url) in [("st:", "/api/v2/search/tags"), ("stv:", "/api/v2/search/tag/name/values")] {
        let calls = block_calls.load(Ordering::SeqCst);
        let answer = async || {
            let mut answer = get(&frontend, &format!("{url}?{wide}"), &[]).await.json();
            answer["metrics"].take();
            answer
        };
        let first = answer().await;
        assert_eq!(answer().await, first);
        assert_eq!(block_calls.load(Ordering::SeqCst), calls + 1, "{url}");
        let keys = maps[&CacheRole::FrontendSearch].keys();
        assert!(keys.iter().any(|key| key.starts_with(&format!("{prefix}single-tenant:"))), "{keys:?}");
    }
}

/// The values of the only series of an answer.
fn samples(answer: &Json) -> Vec<f64> {
    let [series] = answer["series"].as_array().unwrap().as_slice() else { panic!("{answer}") };
    series["samples"].as_array().unwrap().iter().map(|sample| sample["value"].as_f64().unwrap_or(0.0)).collect()
}

#[tokio::test]
async fn spans_of_all_jobs_and_tenants_are_counted() {
    let spans = |first: u64, count: u64| (first..first + count).map(|id| span(id, 0, "s")).collect();
    let recent = vec![("a", table(7, spans(1, 3))), ("b", table(8, spans(1, 10)))];
    let stored = vec![("a", table(9, spans(1, 5)))];
    let setup = Setup { querier: TableQuerier { recent, stored, ..TableQuerier::default() }, is_multitenant: true, ..Setup::default() };
    let frontend = setup.frontend();
    let range = format!("start={}&end={NOW}&step=30", NOW - 600);
    let ask = async |tenants: &str, query: &str| {
        let url = format!("/api/metrics/query_range?q={query}&{range}");
        get(&frontend, &url, &[("x-scope-orgid", tenants)]).await.json()
    };
    let one = ask("a", "%7B%7D%7Ccount_over_time()").await;
    assert_eq!(samples(&one).iter().sum::<f64>(), 8.0, "{one}");
    assert_eq!(
        (&one["metrics"]["totalJobs"], &one["metrics"]["totalBlocks"], &one["metrics"]["inspectedSpans"]),
        (&json!(2), &json!(1), &json!("8"))
    );
    let both = ask("a|b", "%7B%7D%7Ccount_over_time()").await;
    assert_eq!(samples(&both).iter().sum::<f64>(), 18.0, "{both}");
    let nothing = ask("a|b", "%7Bfalse%7D%7Crate()").await;
    assert_eq!(nothing["metrics"], json!({}), "no job is needed");
    let instant =
        get(&frontend, &format!("/api/metrics/query?q=%7B%7D%7Ccount_over_time()&{range}"), &[("x-scope-orgid", "a")]).await.json();
    assert_eq!(instant["series"][0]["value"], json!(8), "{instant}");
}

#[tokio::test]
async fn jobs_over_broken_blocks_make_an_answer_partial() {
    let mut setup = with_tables(vec![table(7, vec![span(1, 0, "s")])], vec![]);
    setup.querier.has_broken_blocks = true;
    let answer = get(&setup.frontend(), "/api/metrics/query_range?q=%7B%7D%7Ccount_over_time()", &[]).await;
    assert_eq!(answer.headers["x-tempo-skipped-jobs"], "1");
    let shown = answer.json();
    assert_eq!((&shown["status"], samples(&shown).iter().sum::<f64>()), (&json!("PARTIAL"), 1.0), "{shown}");
}

#[tokio::test]
async fn series_of_blocks_asked_before_come_from_the_cache() {
    let (caches, maps) = caches_of(&[CacheRole::FrontendSearch]);
    let block_calls = Arc::new(AtomicUsize::new(0));
    let stored = vec![("single-tenant", table(1, vec![span(1, 0, "get"), span(2, 0, "put")]))];
    let querier = TableQuerier { stored, block_calls: Arc::clone(&block_calls), ..TableQuerier::default() };
    let frontend = Setup { querier, caches, ..Setup::default() }.frontend();
    let ask = async |query: &str, start: u64| {
        let url = format!("/api/metrics/query_range?q=%7B%7D%7C{query}&start={start}&end={NOW}&step=30");
        let answer = get(&frontend, &url, &[]).await.json();
        answer["series"]
            .as_array()
            .unwrap()
            .iter()
            .map(|series| samples(&json!({"series": [series]})).iter().sum::<f64>())
            .collect::<Vec<_>>()
    };
    for (query, calls) in [
        ("count_over_time()by(name)", 1),
        ("count_over_time()by(name)", 1),
        ("compare(%7Bname=%22get%22%7D,5)", 2),
        ("compare(%7Bname=%22get%22%7D,6)", 3),
    ] {
        let first = ask(query, NOW - 3600).await;
        assert_eq!(ask(query, NOW - 7200).await, first, "another range around the block");
        assert_eq!(block_calls.load(Ordering::SeqCst), calls, "{query}");
    }
    // 00:45, within the block.
    assert_eq!(ask("count_over_time()by(name)", NOW - 558).await, [1.0, 1.0]);
    assert_eq!(block_calls.load(Ordering::SeqCst), 4, "a range that cuts the block");
    let keys = maps[&CacheRole::FrontendSearch].keys();
    assert!(keys.iter().all(|key| key.starts_with("qr:single-tenant:")), "{keys:?}");
}
