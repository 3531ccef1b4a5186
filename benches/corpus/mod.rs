//! Traces for benchmarks: a seeded generator of what a shop's services send, or a file of recorded push requests.
//!
//! A recorded corpus is a file of OTLP `ExportTraceServiceRequest` bodies, each preceded by its length (u32, little-endian).

use bytes::Bytes;
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempo_rs::model::ids::TraceId;
use tempo_rs::model::otlp::regroup::regroup;
use tempo_rs::model::otlp_table::{Fragment, build_table};
use tempo_rs::model::span_table::SpanTable;
use tempo_rs::proto::tempopb::Trace;
use tempo_rs::proto::tempopb::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use tempo_rs::proto::tempopb::resource::v1::Resource;
use tempo_rs::proto::tempopb::trace::v1::span::Event;
use tempo_rs::proto::tempopb::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use tempo_rs::tempodb::block::estimate;

const SERVICES: [&str; 12] =
    ["frontend", "checkout", "cart", "payment", "shipping", "catalog", "currency", "email", "auth", "inventory", "search", "pricing"];
const ROUTES: [&str; 6] = ["/", "/api/cart", "/api/checkout", "/api/products/{id}", "/api/search", "/healthz"];
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
const TABLES: [&str; 5] = ["orders", "users", "cart_items", "products", "payments"];
const START_UNIX_NANOS: u64 = 1_790_000_000_000_000_000;
const MAX_ATTRIBUTE_BYTES: usize = 2048;

/// A trace id and a part of that trace, an OTLP `TracesData` message.
pub(crate) type Piece = (TraceId, Vec<u8>);

/// Returns at least `spans` spans of random traces, 18 spans each on average. The same seed gives the same bytes.
pub(crate) fn generate(spans: usize, seed: u64) -> Vec<Piece> {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut pieces = Vec::new();
    let mut total = 0;
    while total < spans {
        let size = (3.0 - 15.0 * rng.random_range(0.0001f64..1.0).ln()).min(200.0) as usize;
        pieces.push(trace(rng, size, START_UNIX_NANOS + total as u64 * 60_000));
        total += size;
    }
    pieces
}

/// Reads a recorded corpus and groups its requests by trace, as the intake does.
pub(crate) fn read(path: &str) -> Vec<Piece> {
    let mut bytes = Bytes::from(std::fs::read(path).expect("the corpus can be read"));
    let mut pieces = Vec::new();
    while bytes.len() >= 4 {
        let length = u32::from_le_bytes(bytes.split_to(4)[..].try_into().expect("four bytes"));
        let request = regroup(bytes.split_to(length as usize), MAX_ATTRIBUTE_BYTES).expect("the corpus holds OTLP requests");
        pieces.extend((0..request.traces().len()).map(|index| request.trace_message(index)));
    }
    pieces
}

/// Builds the tables of a block's row groups from pieces in any order; each ends when its estimate exceeds `row_group_bytes`.
pub(crate) fn tables(pieces: &mut [Piece], row_group_bytes: usize) -> Vec<SpanTable> {
    /// Traces looked at together, to find the estimate of one.
    const SAMPLE: usize = 1000;
    pieces.sort_by_key(|(id, _)| *id);
    let build = |pieces: &[Piece]| {
        let fragments = pieces.iter().map(|(trace_id, trace)| Fragment { trace_id: *trace_id, trace });
        build_table(fragments.collect()).table
    };
    let sample = build(&pieces[..pieces.len().min(SAMPLE)]);
    let traces_each = (row_group_bytes * sample.trace_count() / estimate::table_bytes(&sample)).max(1);
    let mut tables = Vec::new();
    let mut rest = &*pieces;
    while !rest.is_empty() {
        let last = rest.chunk_by(|a, b| a.0 == b.0).take(traces_each).map(<[Piece]>::len).sum();
        tables.push(build(&rest[..last]));
        rest = &rest[last..];
    }
    tables
}

fn trace(rng: &mut StdRng, size: usize, at: u64) -> Piece {
    let id = TraceId(rng.random());
    let mut resource_spans: Vec<(usize, ResourceSpans)> = Vec::new();
    let mut spans: Vec<(Vec<u8>, usize, u64, u64)> = Vec::new();
    let is_failing = rng.random_bool(0.03);
    for number in 0..size {
        let (parent, service, start, duration) = if number == 0 {
            (Vec::new(), rng.random_range(0..3), at, rng.random_range(20_000_000u64..200_000_000))
        } else {
            let (parent, service, start, duration) = &spans[rng.random_range(0..number)];
            let service = if rng.random_bool(0.5) { rng.random_range(0..SERVICES.len()) } else { *service };
            let shorter = (*duration as f64 * rng.random_range(0.1..0.9)) as u64;
            (parent.clone(), service, start + rng.random_range(0..=duration - shorter), shorter)
        };
        let span_id = rng.random::<[u8; 8]>().to_vec();
        spans.push((span_id.clone(), service, start, duration));
        let span = span(
            rng,
            is_failing,
            Span {
                trace_id: id.0.to_vec(),
                span_id,
                parent_span_id: parent,
                start_time_unix_nano: start,
                end_time_unix_nano: start + duration,
                ..Span::default()
            },
        );
        match resource_spans.iter_mut().find(|(of, _)| *of == service) {
            Some((_, group)) => group.scope_spans[0].spans.push(span),
            None => resource_spans.push((service, resource(rng, service, span))),
        }
    }
    let resource_spans = resource_spans.into_iter().map(|(_, group)| group).collect();
    (id, Trace { resource_spans }.encode_to_vec())
}

fn resource(rng: &mut StdRng, service: usize, span: Span) -> ResourceSpans {
    let (name, pod) = (SERVICES[service], rng.random_range(0..8));
    let attributes = vec![
        text("service.name", name),
        text("service.version", format!("1.{}.0", pod % 3)),
        text("k8s.namespace.name", "prod"),
        text("k8s.cluster.name", format!("eu-west-{}", pod % 4)),
        text("k8s.pod.name", format!("{name}-6c9f7d-{pod:04x}")),
        text("k8s.container.name", name),
        text("host.name", format!("node-{pod:02}")),
        text("telemetry.sdk.language", "go"),
        text("telemetry.sdk.version", "1.38.0"),
        int("process.pid", 1000 + pod),
    ];
    let scope = InstrumentationScope { name: "instrumentation/http".to_owned(), version: "0.61.0".to_owned(), ..Default::default() };
    ResourceSpans {
        resource: Some(Resource { attributes, ..Default::default() }),
        scope_spans: vec![ScopeSpans { scope: Some(scope), spans: vec![span], schema_url: String::new() }],
        schema_url: String::new(),
    }
}

/// Gives a span one of three faces: server, database client, internal work.
fn span(rng: &mut StdRng, is_failing: bool, mut span: Span) -> Span {
    if span.parent_span_id.is_empty() || rng.random_bool(0.3) {
        let (method, route) = (METHODS[rng.random_range(0..4)], ROUTES[rng.random_range(0..6)]);
        let code = if is_failing && rng.random_bool(0.5) { 500 } else { 200 };
        span.kind = 2;
        span.name = format!("{method} {route}");
        span.attributes = vec![
            text("http.request.method", method),
            text("http.route", route),
            int("http.response.status_code", code),
            text("http.url", format!("https://shop.example.com{route}?u={}", rng.random_range(0..100_000))),
            text("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/128.0"),
            text("client.address", format!("10.{}.{}.{}", rng.random_range(0..4), rng.random_range(0..256), rng.random_range(0..256))),
            text("user.id", format!("u-{:06}", rng.random_range(0..50_000))),
        ];
    } else if rng.random_bool(0.4) {
        let table = TABLES[rng.random_range(0..5)];
        span.kind = 3;
        span.name = format!("SELECT {table}");
        span.attributes = vec![
            text("db.system", "postgresql"),
            text("db.operation", "SELECT"),
            text("db.sql.table", table),
            text("db.statement", format!("SELECT * FROM {table} WHERE id = {} AND status = 'active'", rng.random_range(0..1_000_000))),
            int("db.rows", rng.random_range(0..500)),
        ];
    } else {
        span.kind = 1;
        span.name = "process".to_owned();
        span.attributes = vec![
            text("thread.name", format!("worker-{}", rng.random_range(0..16))),
            int("items", rng.random_range(0..40)),
            attribute("cache.hit", Value::BoolValue(rng.random_bool(0.7))),
            attribute("cost", Value::DoubleValue(rng.random_range(0.0..10.0))),
            text("request.id", format!("{:016x}", rng.random::<u64>())),
        ];
    }
    span.status = Some(Status::default());
    if is_failing && rng.random_bool(0.3) {
        span.status = Some(Status { code: 2, message: "upstream failed: connection reset by peer".to_owned() });
        let attributes = vec![text("exception.type", "java.io.IOException"), text("exception.message", "connection reset by peer")];
        span.events.push(Event { time_unix_nano: span.start_time_unix_nano, name: "exception".to_owned(), attributes, ..Event::default() });
    }
    span
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn int(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}
