//! Takes in one OTLP request as the distributor does: walk and group, then splice into a record.
//!
//! The request resembles a collector's batch: 500 spans of about 30 traces under 20 services, 14 resource and 7 span attributes, about 300 bytes
//! a span. `walk/spans` reports spans per second (its inverse is the tracked ns per span), `walk/bytes` bytes per second.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempo_rs::model::otlp::regroup::regroup;
use tempo_rs::proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use tempo_rs::proto::tempopb::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use tempo_rs::proto::tempopb::resource::v1::Resource;
use tempo_rs::proto::tempopb::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

const SERVICES: usize = 20;
const TRACES: usize = 30;
const SPANS: usize = 500;
const MAX_ATTRIBUTE_BYTES: usize = 2048;
const MAX_RECORD_BYTES: u64 = 15_983_616;

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) }), key_strindex: 0 }
}

fn int(key: &str, value: i64) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Value::IntValue(value)) }), key_strindex: 0 }
}

fn span(rng: &mut StdRng, trace: usize) -> Span {
    let start = 1_790_000_000_000_000_000 + rng.random_range(0..1_000_000_000);
    Span {
        trace_id: (trace as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes().to_vec(),
        span_id: rng.random::<u64>().max(1).to_be_bytes().to_vec(),
        parent_span_id: rng.random::<u64>().to_be_bytes().to_vec(),
        name: "GET /api/products/{id}".to_owned(),
        kind: 2,
        start_time_unix_nano: start,
        end_time_unix_nano: start + rng.random_range(1..50_000_000),
        attributes: vec![
            text("http.request.method", "GET"),
            text("http.route", "/api/products/{id}"),
            text("url.path", &format!("/api/products/{}", rng.random_range(0..10_000))),
            int("http.response.status_code", 200),
            text("server.address", "shop.example.com"),
            text("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64)"),
            text("session.id", &format!("{:016x}", rng.random::<u64>())),
        ],
        status: Some(Status::default()),
        ..Span::default()
    }
}

fn batch() -> Bytes {
    let rng = &mut StdRng::seed_from_u64(1);
    let mut resource_spans: Vec<_> = (0..SERVICES)
        .map(|service| {
            let mut attributes = vec![text("service.name", &format!("service-{service}")), int("process.pid", 1000)];
            attributes.extend((0..12).map(|index| text(&format!("k8s.attribute.{index}"), "eu-west-1-a-6c9f7d")));
            let scope = InstrumentationScope { name: "instrumentation".to_owned(), version: "1.38.0".to_owned(), ..Default::default() };
            ResourceSpans {
                resource: Some(Resource { attributes, ..Default::default() }),
                scope_spans: vec![ScopeSpans { scope: Some(scope), spans: Vec::new(), schema_url: String::new() }],
                schema_url: String::new(),
            }
        })
        .collect();
    for index in 0..SPANS {
        let trace = 1 + index * TRACES / SPANS;
        let service = rng.random_range(0..SERVICES);
        let span = span(rng, trace);
        resource_spans[service].scope_spans[0].spans.push(span);
    }
    ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
}

fn take_in(c: &mut Criterion) {
    let request = batch();
    let per_span = request.len() / SPANS;
    for (unit, throughput) in [("spans", Throughput::Elements(SPANS as u64)), ("bytes", Throughput::Bytes(request.len() as u64))] {
        let mut group = c.benchmark_group(format!("otlp_{per_span}_bytes_a_span"));
        group.throughput(throughput);
        group.bench_function(format!("walk/{unit}"), |b| {
            b.iter(|| regroup(black_box(request.clone()), MAX_ATTRIBUTE_BYTES).expect("the batch is well-formed"))
        });
        group.bench_function(format!("walk_and_splice/{unit}"), |b| {
            b.iter(|| {
                let walked = regroup(black_box(request.clone()), MAX_ATTRIBUTE_BYTES).expect("the batch is well-formed");
                let plans = walked.plan(0..walked.traces().len(), false, MAX_RECORD_BYTES).expect("the batch fits");
                plans.iter().map(|plan| walked.record(plan)).collect::<Vec<_>>()
            })
        });
        group.finish();
    }
}

criterion_group!(benches, take_in);
criterion_main!(benches);
