//! A tenant above its rate is told so in a way that clients understand and retry.

use serde_json::{Value, json};
use tempo_rs::proto::tempopb::trace::v1::ResourceSpans;
use tonic::Code;

use crate::client::JSON;
use crate::otlp;
use crate::process::Place;
use crate::wait::{VISIBLE, eventually};

const RATE: u64 = 2_000;

fn large_trace() -> Vec<ResourceSpans> {
    let id = otlp::id::<16>(11_000);
    vec![otlp::batch("limits", (0..100).map(|number| otlp::span(&id, number, "over the limit")).collect())]
}

#[test]
fn pushes_above_the_rate_are_refused_with_the_time_to_wait() {
    let place = Place::with(|wishes| wishes.rate_limit_bytes = RATE);
    let tempo = place.start();
    let client = tempo.client();
    let answer = client.post_traces(JSON, None, otlp::to_json(&large_trace()).to_string().as_bytes());
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert_eq!(answer.retry_after.as_deref(), Some("5"));
    let status: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(status["code"], 8);
    assert!(status["message"].as_str().unwrap().starts_with("RATE_LIMITED: batch size ("), "{status}");
    assert_eq!(status["details"], json!([{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "5s"}]));

    let refused = client.push_grpc(large_trace(), None).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let size = otlp::encode(&large_trace()).len();
    let expected = format!(
        "RATE_LIMITED: batch size ({size} bytes) exceeds ingestion limit (local: {RATE} bytes/s, global: 0 bytes/s, burst: {RATE} bytes) \
         while adding {size} bytes for user single-tenant. consider reducing batch size or increasing rate limit."
    );
    assert_eq!(refused.message(), expected);
    assert!(!refused.details().is_empty());

    // Spans are counted, not requests; and what fits is taken.
    let id = otlp::id::<16>(11_001);
    client.push(&[otlp::batch("limits", vec![otlp::span(&id, 1, "fits")])]);
    eventually("what fits is found", VISIBLE, || client.trace(&id).len() == 1);
    let metrics = client.get("/metrics").text();
    let discarded = metrics.lines().find(|line| line.starts_with("tempo_discarded_spans_total{") && line.contains("rate_limited"));
    assert!(discarded.is_some_and(|line| line.ends_with(" 200")), "{discarded:?}");
    // What was offered is counted before the limit, what was taken after it.
    assert!(
        client.metric("tempo_distributor_ingress_bytes_total", "")
            >= client.metric("tempo_distributor_bytes_received_total", "") + 2.0 * size as f64
    );
}
