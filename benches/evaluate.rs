//! Evaluates one query per operator, and one per metrics function, on a table in memory, first pass only.
//!
//! The table resembles a row group: 6,000 traces of 16 spans of 20 services, 10 resource and 7 span attributes, an event on every fourth
//! span. Throughput is spans per second (its inverse is the tracked ns per span); traces are never cut short by a limit.

use std::hint::black_box;
use std::sync::atomic::AtomicBool;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempo_rs::model::ids::TraceId;
use tempo_rs::model::otlp_table::{Fragment, build_table};
use tempo_rs::model::span_table::SpanTable;
use tempo_rs::model::wire::{put_bytes, put_tag, put_varint};
use tempo_rs::traceql::engine::{EvaluateOptions, Plan, evaluate};
use tempo_rs::traceql::metrics::{JobOptions, MetricsPlan, RawMetrics, Window};
use tempo_rs::traceql::{compile, rewrite};

/// Spans start within a second from here.
const START: u64 = 1_790_000_000_000_000_000;
const TRACES: usize = 6_000;
const SPANS_PER_TRACE: usize = 16;
const SERVICES: usize = 20;

const QUERIES: &[(&str, &str)] = &[
    ("all", "{}"),
    ("service", "{ resource.service.name = `service-7` }"),
    ("status", "{ status = error }"),
    ("duration", "{ duration > 40ms }"),
    ("name_regex", "{ name =~ `.*orders.*` }"),
    ("attribute", "{ span.http.status_code = 500 }"),
    ("attribute_unscoped", "{ .http.method = `POST` }"),
    ("rare_value", "{ span.session.id = `session-4711` }"),
    ("absent_value", "{ span.session.id = `nobody` }"),
    ("statement_regex", "{ span.db.statement =~ `.*WHERE id = 99.*` }"),
    ("conjunction", "{ resource.service.name = `service-7` && span.http.status_code >= 500 && duration > 10ms }"),
    ("disjunction", "{ status = error || span.http.status_code >= 500 || duration > 49ms }"),
    ("missing", "{ span.http.status_code = nil }"),
    ("event", "{ event:name = `exception` && event.level = `error` }"),
    ("computed", "{ span.http.status_code + 1 > 500 }"),
    ("spanset_and", "{ status = error } && { span.http.method = `POST` }"),
    ("count", "{} | count() > 20"),
    ("avg_duration", "{} | avg(duration) > 30ms"),
    ("by_service", "{} | by(resource.service.name) | count() > 3"),
    ("child", "{ resource.service.name = `service-7` } > { status = error }"),
    ("descendant", "{ resource.service.name = `service-7` } >> { status = error }"),
    ("all_descendants", "{} >> {}"),
    ("ancestor", "{ status = error } << {}"),
    ("sibling", "{ status = error } ~ {}"),
    ("not_descendant", "{ status = error } !>> {}"),
    ("union_descendant", "{ resource.service.name = `service-7` } &>> { status = error }"),
    ("parent_attribute", "{ parent.http.status_code = 500 }"),
    ("list", "{ span.http.status_code in (404, 500) }"),
    ("contains", "{ span.db.statement contains `id = 99` }"),
    ("by_name", "{} | by(name) | count() > 3"),
];

const METRICS: &[(&str, &str)] = &[
    ("rate", "{} | rate()"),
    ("rate_by_service", "{} | rate() by (resource.service.name)"),
    ("rate_by_two", "{} | rate() by (resource.service.name, span.http.status_code)"),
    ("rate_by_many", "{} | rate() by (span.session.id)"),
    ("errors_rate", "{ status = error } | rate()"),
    ("max", "{} | max_over_time(duration) by (resource.service.name)"),
    ("sum_attribute", "{} | sum_over_time(span.rows)"),
    ("avg", "{} | avg_over_time(duration) by (name)"),
    ("quantile_by_service", "{} | quantile_over_time(duration, .9) by (resource.service.name)"),
    ("histogram", "{} | histogram_over_time(duration)"),
    ("compare", "{} | compare({ status = error })"),
];

fn metrics(c: &mut Criterion) {
    let table = table();
    let cancelled = AtomicBool::new(false);
    let window = Window::range(START - 1, START + 1_000_000_000, 50_000_000);
    let options = JobOptions { window, exemplars: 100, max_series: 1_000 };
    let mut group = c.benchmark_group("metrics");
    group.throughput(Throughput::Elements(table.span_count() as u64));
    for (name, query) in METRICS {
        let plan = MetricsPlan::new(&compile(query).expect("the query is valid")).expect("it is a metrics query");
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                let mut raw = RawMetrics::new(&plan, options).expect("the window is small");
                raw.add(black_box(&table), None, &cancelled).expect("nothing cancels it");
                raw.finish()
            })
        });
    }
    group.finish();
}

fn operators(c: &mut Criterion) {
    let table = table();
    let cancelled = AtomicBool::new(false);
    let options = EvaluateOptions { rows: None, spans_per_span_set: 3, cancelled: &cancelled };
    let mut group = c.benchmark_group("evaluate");
    group.throughput(Throughput::Elements(table.span_count() as u64));
    for (name, query) in QUERIES {
        let plan = Plan::new(&rewrite::or_to_in(compile(query).expect("the query is valid"))).expect("the query is supported");
        group.bench_function(BenchmarkId::from_parameter(name), |b| b.iter(|| evaluate(black_box(&plan), black_box(&table), options)));
    }
    group.finish();
}

fn table() -> SpanTable {
    let rng = &mut StdRng::seed_from_u64(1);
    let ids: Vec<TraceId> = (0..TRACES).map(|_| TraceId(rng.random())).collect();
    let traces: Vec<Vec<u8>> = ids.iter().map(|id| trace(rng, id)).collect();
    build_table(ids.iter().zip(&traces).map(|(trace_id, trace)| Fragment { trace_id: *trace_id, trace }).collect()).table
}

fn trace(rng: &mut StdRng, id: &TraceId) -> Vec<u8> {
    let mut out = Vec::new();
    let ids: Vec<[u8; 8]> = (0..SPANS_PER_TRACE).map(|_| rng.random()).collect();
    for index in 0..SPANS_PER_TRACE {
        let parent = if index == 0 { None } else { Some(ids[rng.random_range(0..index)]) };
        let service = rng.random_range(0..SERVICES);
        let (mut resource, mut scope_spans, mut resource_spans) = (Vec::new(), Vec::new(), Vec::new());
        put_bytes(&mut resource, 1, &text("service.name", &format!("service-{service}")));
        for key in 0..9 {
            put_bytes(&mut resource, 1, &text(&format!("resource.key.{key}"), &format!("value-{}", service * key)));
        }
        put_bytes(&mut scope_spans, 2, &span(rng, id, ids[index], parent));
        put_bytes(&mut resource_spans, 1, &resource);
        put_bytes(&mut resource_spans, 2, &scope_spans);
        put_bytes(&mut out, 1, &resource_spans);
    }
    out
}

fn span(rng: &mut StdRng, id: &TraceId, span_id: [u8; 8], parent: Option<[u8; 8]>) -> Vec<u8> {
    let start: u64 = START + rng.random_range(0..1_000_000_000);
    let mut out = Vec::new();
    put_bytes(&mut out, 1, &id.0);
    put_bytes(&mut out, 2, &span_id);
    if let Some(parent) = parent {
        put_bytes(&mut out, 4, &parent);
    }
    put_bytes(
        &mut out,
        5,
        format!("GET /api/{}/{}", ["orders", "carts", "users"][rng.random_range(0..3)], rng.random_range(0..50)).as_bytes(),
    );
    put_tag(&mut out, 6, 0);
    put_varint(&mut out, rng.random_range(1..6));
    for (field, time) in [(7, start), (8, start + rng.random_range(1..50_000_000))] {
        put_tag(&mut out, field, 1);
        out.extend_from_slice(&time.to_le_bytes());
    }
    put_bytes(&mut out, 9, &text("http.method", ["GET", "POST"][rng.random_range(0..2)]));
    put_bytes(&mut out, 9, &int("http.status_code", [200, 200, 200, 404, 500][rng.random_range(0..5)]));
    put_bytes(&mut out, 9, &text("session.id", &format!("session-{}", rng.random_range(0..30_000))));
    put_bytes(&mut out, 9, &text("db.statement", &format!("SELECT name FROM things WHERE id = {}", rng.random_range(0..20_000))));
    put_bytes(&mut out, 9, &text("server.address", "shop.example.com"));
    put_bytes(&mut out, 9, &int("rows", rng.random_range(0..100)));
    put_bytes(&mut out, 9, &text("user_agent", "Mozilla/5.0 (X11; Linux x86_64)"));
    if rng.random_range(0..4) == 0 {
        let mut event = Vec::new();
        put_bytes(&mut event, 2, ["exception", "log"][rng.random_range(0..2)].as_bytes());
        put_bytes(&mut event, 3, &text("level", ["error", "info"][rng.random_range(0..2)]));
        put_bytes(&mut out, 11, &event);
    }
    let mut status = Vec::new();
    put_tag(&mut status, 3, 0);
    put_varint(&mut status, [0, 0, 0, 2][rng.random_range(0..4)]);
    put_bytes(&mut out, 15, &status);
    out
}

fn text(key: &str, value: &str) -> Vec<u8> {
    let mut any = Vec::new();
    put_bytes(&mut any, 1, value.as_bytes());
    attribute(key, &any)
}

fn int(key: &str, value: i64) -> Vec<u8> {
    let mut any = Vec::new();
    put_tag(&mut any, 3, 0);
    put_varint(&mut any, value as u64);
    attribute(key, &any)
}

fn attribute(key: &str, any: &[u8]) -> Vec<u8> {
    let mut pair = Vec::new();
    put_bytes(&mut pair, 1, key.as_bytes());
    put_bytes(&mut pair, 2, any);
    pair
}

criterion_group!(benches, operators, metrics);
criterion_main!(benches);
