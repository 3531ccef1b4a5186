//! Input that is huge, broken or malicious is stored or refused with the right status; the process lives and its memory stays bounded.

use std::io::{Read, Write};
use std::net::TcpStream;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use serde_json::{Value, json};
use tempo_rs::proto::google::rpc::Status;
use tempo_rs::proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceResponse;
use tempo_rs::proto::tempopb::TraceByIdResponse;
use tempo_rs::proto::tempopb::common::v1::any_value::Value as Any;
use tempo_rs::proto::tempopb::trace::v1::{ResourceSpans, Span};
use tonic::Code;

use crate::client::{Client, JSON, PROTOBUF};
use crate::otlp::{self, hex};
use crate::process::{Place, Tempo};
use crate::wait::{SOON, VISIBLE, eventually};

const MAX_MEMORY_BYTES: u64 = 600 << 20;

/// The service still takes and finds a trace, and has not used too much memory.
fn check_healthy(tempo: &mut Tempo<'_>, seed: u64) {
    assert!(tempo.is_running());
    let id = otlp::id::<16>(seed);
    tempo.client().push(&otlp::rich_trace(&id, "healthy"));
    eventually("a normal trace is found", VISIBLE * 5, || tempo.client().trace(&id).len() == 2);
    let peak = tempo.peak_memory();
    assert!(peak <= MAX_MEMORY_BYTES, "{} MiB of memory were used", peak >> 20);
}

/// Span ids of a trace, through protobuf: JSON of a huge trace would be slow to read here.
fn span_count(client: &Client, id: &[u8]) -> usize {
    let answer: TraceByIdResponse = client.get_protobuf(&format!("/api/v2/traces/{}", hex(id))).message();
    let batches: Vec<ResourceSpans> = answer.trace.map(|trace| trace.resource_spans).unwrap_or_default();
    batches.iter().flat_map(|batch| &batch.scope_spans).map(|scope| scope.spans.len()).sum()
}

#[test]
fn a_trace_of_200_000_spans() {
    const SPANS: u64 = 200_000;
    const PER_REQUEST: u64 = 20_000;
    let place = Place::new();
    let mut tempo = place.start();
    let client = tempo.client();
    let id = otlp::id::<16>(10_000);
    let small = otlp::id::<8>(1);
    for first in (0..SPANS).step_by(usize::try_from(PER_REQUEST).unwrap()) {
        let spans = (first..first + PER_REQUEST).map(|number| numbered(&id, number, &small)).collect();
        client.push(&[otlp::batch("huge", spans)]);
    }
    let count = usize::try_from(SPANS).unwrap();
    eventually("the whole trace is found", SOON, || span_count(&client, &id) == count);
    eventually("found by search", SOON, || client.search(&[("q", "{ resource.service.name = \"huge\" }")]) == [hex(&id)]);
    tempo.flush();
    eventually("the whole trace is found in blocks", SOON, || span_count(&client, &id) == count);
    check_healthy(&mut tempo, 10_001);
}

/// A small span whose id is its number.
fn numbered(trace_id: &[u8], number: u64, parent: &[u8]) -> Span {
    let start = otlp::now();
    Span {
        trace_id: trace_id.to_vec(),
        span_id: (number + 1).to_be_bytes().to_vec(),
        parent_span_id: parent.to_vec(),
        name: "n".to_owned(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + 1,
        ..Default::default()
    }
}

#[test]
fn huge_and_many_attributes() {
    let place = Place::new();
    let mut tempo = place.start();
    let client = tempo.client();
    let id = otlp::id::<16>(10_100);
    let mut long_text = otlp::span(&id, 1, "long text");
    long_text.attributes = vec![otlp::text("long", &"ü".repeat(2_500_000)), otlp::text(&"k".repeat(100_000), "v")];
    client.push(&[otlp::batch("attributes", vec![long_text])]);
    let mut long_bytes = otlp::span(&id, 2, "long bytes");
    long_bytes.attributes = vec![otlp::attribute("raw", Any::BytesValue(vec![7; 5_000_000]))];
    client.push(&[otlp::batch("attributes", vec![long_bytes])]);
    let mut many = otlp::span(&id, 3, "many");
    many.attributes = (0..20_000).map(|number| otlp::text(&format!("key-{number}"), &format!("value-{number}"))).collect();
    client.push(&[otlp::batch("attributes", vec![many])]);

    let check = |client: &Client| {
        eventually("all three spans are found", SOON, || client.trace(&id).len() == 3);
        for whole in client.trace(&id).values() {
            let span = &whole["span"];
            let attributes = span["attributes"].as_array().unwrap();
            let value = |key: &str| attributes.iter().find(|attribute| attribute["key"] == key).map(|attribute| &attribute["value"]);
            match span["name"].as_str().unwrap() {
                "long text" => {
                    // Keys and texts are cut at 2,048 bytes, at a character boundary.
                    assert_eq!(value("long").unwrap()["stringValue"].as_str().unwrap(), "ü".repeat(1024));
                    assert!(value(&"k".repeat(2048)).is_some());
                }
                "long bytes" => assert!(value("raw").unwrap()["bytesValue"].as_str().unwrap().len() > 6_600_000),
                _ => {
                    assert_eq!(attributes.len(), 20_000);
                    assert_eq!(value("key-19999").unwrap()["stringValue"], "value-19999");
                }
            }
        }
        let query = "{ span.key-12345 = \"value-12345\" }";
        eventually("found by one of the attributes", SOON, || client.search(&[("q", query)]) == [hex(&id)]);
    };
    check(&client);
    tempo.flush();
    check(&client);
    check_healthy(&mut tempo, 10_101);
}

#[test]
fn one_request_with_100_000_traces() {
    const TRACES: u128 = 100_000;
    let place = Place::new();
    let mut tempo = place.start();
    let client = tempo.client();
    let id = |number: u128| (number << 64 | 1).to_be_bytes().to_vec();
    let spans = (1..=TRACES).map(|number| numbered(&id(number), u64::try_from(number).unwrap(), &[])).collect();
    client.push(&[otlp::batch("tiny", spans)]);
    let check = |client: &Client| {
        for number in (1..=TRACES).step_by(5_003) {
            eventually("a tiny trace is found", SOON, || span_count(client, &id(number)) == 1);
        }
    };
    check(&client);
    tempo.flush();
    check(&client);
    let query = "{ resource.service.name = \"tiny\" }";
    eventually("search finds them", SOON, || client.search(&[("q", query), ("limit", "1000")]).len() == 1000);
    check_healthy(&mut tempo, 10_201);
}

/// Posts JSON that must be refused with 400 and a status body of code 3 that contains `text`.
fn assert_refused_json(client: &Client, body: &[u8], text: &str) {
    let shown = String::from_utf8_lossy(&body[..body.len().min(200)]);
    let answer = client.post_traces(JSON, None, body);
    assert_eq!(answer.status, 400, "{shown}: {}", answer.text());
    assert_eq!(answer.content_type, JSON, "{shown}");
    let status: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(status["code"], 3, "{shown}: {status}");
    let message = status["message"].as_str().unwrap();
    assert!(!message.is_empty() && message.contains(text), "{shown}: {message}");
}

/// The same for protobuf.
fn assert_refused_protobuf(client: &Client, body: &[u8], text: &str) {
    let answer = client.post_traces(PROTOBUF, None, body);
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.content_type, PROTOBUF);
    let status = Status::decode(&*answer.body).unwrap();
    assert_eq!(status.code, 3, "{status:?}");
    assert!(!status.message.is_empty() && status.message.contains(text), "{status:?}");
}

#[test]
fn ids_of_wrong_length() {
    let place = Place::new();
    let mut tempo = place.start();
    let client = tempo.client();
    let good = otlp::span(&otlp::id::<16>(10_300), 1, "good");
    let one = |change: &dyn Fn(&mut Span)| {
        let mut span = good.clone();
        change(&mut span);
        otlp::encode(&[otlp::batch("ids", vec![span])])
    };
    assert_refused_protobuf(&client, &one(&|span| span.trace_id.clear()), "trace ids must be 128 bit, received 0 bits");
    assert_refused_protobuf(&client, &one(&|span| span.trace_id.truncate(8)), "trace ids must be 128 bit, received 64 bits");
    assert_refused_protobuf(&client, &one(&|span| span.trace_id.push(1)), "trace ids must be 128 bit, received 136 bits");
    assert_refused_protobuf(&client, &one(&|span| span.span_id.clear()), "span ids must be 64 bit and not all zero, received 0 bits");
    assert_refused_protobuf(&client, &one(&|span| span.span_id.truncate(4)), "span ids must be 64 bit and not all zero, received 32 bits");
    assert_refused_protobuf(&client, &one(&|span| span.span_id = vec![0; 8]), "span ids must be 64 bit and not all zero");

    let json = |trace_id: &str, span_id: &str| {
        let span = json!({"traceId": trace_id, "spanId": span_id, "name": "x"});
        json!({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).to_string().into_bytes()
    };
    let (trace_id, span_id) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    assert_refused_json(&client, &json(trace_id, "0000000000000000"), "span ids must be 64 bit and not all zero, received 0 bits");
    assert_refused_json(&client, &json(trace_id, ""), "span ids must be 64 bit and not all zero, received 0 bits");
    assert_refused_json(&client, &json("", span_id), "trace ids must be 128 bit, received 0 bits");
    assert_refused_json(&client, &json("0af7", span_id), "");
    assert_refused_json(&client, &json(&"x".repeat(32), span_id), "");

    let refused = client.push_grpc(vec![otlp::batch("ids", vec![Span::default()])], None).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    // One bad span does not take the others with it.
    let mut bad = good.clone();
    bad.span_id.clear();
    let answer = client.post_traces(PROTOBUF, None, &otlp::encode(&[otlp::batch("ids", vec![good.clone(), bad])]));
    let accepted = answer.message::<ExportTraceServiceResponse>().partial_success.unwrap();
    assert_eq!(accepted.rejected_spans, 1);
    assert_eq!(accepted.error_message, "span ids must be 64 bit and not all zero, received 0 bits");
    eventually("the good span is found", VISIBLE, || client.trace(&good.trace_id).len() == 1);
    check_healthy(&mut tempo, 10_301);
}

#[test]
fn broken_bodies() {
    let place = Place::new();
    let mut tempo = place.start();
    let client = tempo.client();
    let whole = otlp::encode(&otlp::rich_trace(&otlp::id::<16>(10_400), "broken"));

    // Cut anywhere, a body never is a whole message, as its only field is one of known length … until the second batch begins.
    let first = otlp::encode(&otlp::rich_trace(&otlp::id::<16>(10_400), "broken")[..1]).len();
    for length in (1..first).step_by(7) {
        assert_refused_protobuf(&client, &whole[..length], "");
    }
    // Lengths that lie, at the top and inside; wrong wire types; an endless varint; deep nesting.
    for body in [
        &b"\x0a\xff\xff\xff\xff\x0f"[..],
        b"\x0a\x05\x12\xff\xff\x7f\x00",
        b"\x0a\x06\x12\x04\x12\x02\x0a\x10",
        b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\x0b\x0b\x0b",
        b"not protobuf at all",
    ] {
        assert_refused_protobuf(&client, body, "");
    }
    assert_refused_protobuf(&client, &otlp::encode(&[otlp::batch("deep", vec![deep_span(1_000)])]), "");

    for body in [
        "",
        "{",
        "[]",
        "null null",
        r#"{"resourceSpans": 1}"#,
        r#"{"resourceSpans": [{"scopeSpans": {}}]}"#,
        r#"{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": 7}]}]}]}"#,
        r#"{"resourceSpans": [{"scopeSpans": [{"spans": [{"startTimeUnixNano": "yesterday"}]}]}]}"#,
        r#"{"resourceSpans": [{"scopeSpans": [{"spans": [{"attributes": [{"key": "k", "value": {"intValue": "1.5x"}}]}]}]}]}"#,
        r#"{"resourceSpans": [{"resource": {"attributes": [{"key": ["k"]}]}}]}"#,
    ] {
        assert_refused_json(&client, body.as_bytes(), "");
    }
    assert_refused_json(&client, "[".repeat(1_000_000).as_bytes(), "");
    let mut not_utf8 = br#"{"resourceSpans": [{"schemaUrl": "x"#.to_vec();
    not_utf8.extend(b"\xff\"}]}");
    assert_refused_json(&client, &not_utf8, "");

    // Nothing to store is fine.
    for (content_type, body) in [(PROTOBUF, &b""[..]), (JSON, b"{}"), (JSON, br#"{"resourceSpans": []}"#)] {
        assert_eq!(client.post_traces(content_type, None, body).status, 200);
    }
    let other = client.post_traces("text/plain", None, b"x");
    assert_eq!(other.status, 415);
    assert_eq!(other.text(), "415 unsupported media type, supported: [application/json, application/x-protobuf]");
    check_healthy(&mut tempo, 10_401);
}

/// A span with an attribute value nested to this depth.
fn deep_span(depth: usize) -> Span {
    use tempo_rs::proto::tempopb::common::v1::{AnyValue, ArrayValue};
    let mut value = Any::BoolValue(true);
    for _ in 0..depth {
        value = Any::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(value) }] });
    }
    let mut span = otlp::span(&otlp::id::<16>(10_402), 1, "deep");
    span.attributes = vec![otlp::attribute("deep", value)];
    span
}

#[test]
fn compression_bombs_and_oversized_bodies() {
    let place = Place::new();
    let mut tempo = place.start();
    let client = tempo.client();

    let megabyte = vec![0; 1 << 20];
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    (0..256).for_each(|_| gzip.write_all(&megabyte).unwrap());
    let mut zstd = zstd::Encoder::new(Vec::new(), 3).unwrap();
    (0..256).for_each(|_| zstd.write_all(&megabyte).unwrap());
    for (encoding, bomb) in [("gzip", gzip.finish().unwrap()), ("zstd", zstd.finish().unwrap())] {
        assert!(bomb.len() < 1 << 20);
        let answer = client.post_traces(PROTOBUF, Some(encoding), &bomb);
        assert!([400, 413].contains(&answer.status), "{encoding}: {} {}", answer.status, answer.text());
    }
    for encoding in ["gzip", "deflate", "zstd"] {
        let answer = client.post_traces(PROTOBUF, Some(encoding), b"this is not compressed");
        assert_eq!(answer.status, 400, "{encoding}: {}", answer.text());
    }
    let answer = client.post_traces(PROTOBUF, Some("rot13"), b"");
    assert!([400, 415].contains(&answer.status), "{} {}", answer.status, answer.text());

    // Larger than the limit of 20 MiB. The answer may come before all is sent, which some clients see as a broken connection.
    let oversized = vec![0; 21 << 20];
    if let Ok(answer) = client.try_post_traces(PROTOBUF, None, &oversized) {
        assert!([400, 413].contains(&answer.status), "{}", answer.status);
    }
    // Larger than the 4 MiB of a gRPC message.
    let mut span = otlp::span(&otlp::id::<16>(10_500), 1, "large");
    span.attributes = vec![otlp::text("large", &"x".repeat(5 << 20))];
    let refused = client.push_grpc(vec![otlp::batch("large", vec![span])], None).unwrap_err();
    assert!([Code::ResourceExhausted, Code::OutOfRange].contains(&refused.code()), "{refused}");
    check_healthy(&mut tempo, 10_501);
}

#[test]
fn hostile_queries() {
    let place = Place::new();
    let mut tempo = place.start();
    let client = tempo.client();
    client.push(&otlp::rich_trace(&otlp::id::<16>(10_600), "query"));
    for query in ["{", "{ span.x = }", "}{", "{ .a = \"\\", "{} | rate(", "\u{0}", "{ span.x =~ \"(\" }"] {
        let answer = client.ask("/api/search", &[("q", query)]);
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        assert!(answer.text().contains("invalid TraceQL query"), "{query}: {}", answer.text());
    }
    let deep = format!("{{ {}true{} }}", "(".repeat(5_000), ")".repeat(5_000));
    assert_eq!(client.ask("/api/search", &[("q", &deep)]).status, 400);
    // Longer than the client here would send.
    let mut connection = TcpStream::connect(("127.0.0.1", place.http_port())).unwrap();
    let query = "(".repeat(100_000);
    write!(connection, "GET /api/search?q={query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 414") || answer.starts_with("HTTP/1.1 400"), "{answer}");
    for (name, value) in
        [("limit", "0"), ("limit", "x"), ("limit", "300000"), ("spss", "1000"), ("start", "1"), ("minDuration", "5"), ("tags", "a=1 a=2")]
    {
        let answer = client.ask("/api/search", &[(name, value)]);
        assert_eq!(answer.status, 400, "{name}={value}: {}", answer.text());
    }
    check_healthy(&mut tempo, 10_601);
}
