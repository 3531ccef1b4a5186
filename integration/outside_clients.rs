//! What clients of others send comes back as they sent it.

use serde_json::{Value, json};

use crate::otlp::{Spans, canonical};
use crate::parts;
use crate::process::{Place, Tempo};
use crate::wait::{SOON, eventually};

/// All traces of a service, as spans by id.
fn spans_of(tempo: &Tempo<'_>, service: &str) -> Vec<Spans> {
    let client = tempo.client();
    let ids = client.search(&[("q", &format!("{{ resource.service.name = \"{service}\" }}")), ("limit", "1000")]);
    ids.iter().map(|id| canonical(&client.get(&format!("/api/v2/traces/{id}")).json()["trace"])).collect()
}

#[test]
fn python_sdk() {
    let place = Place::new();
    let tempo = place.start();
    let client = tempo.client();
    let mut sent = Vec::new();
    for (protocol, compression) in [("grpc", "none"), ("grpc", "gzip"), ("http", "none"), ("http", "gzip")] {
        let endpoint = if protocol == "grpc" { client.otlp_grpc_url() } else { client.otlp_http_url() };
        let output: Value = serde_json::from_str(&parts::python("sdk_push.py", &[protocol, endpoint, compression])).unwrap();
        let spans = canonical(&output);
        assert_eq!(spans.len(), 30);
        sent.push((format!("sdk-{protocol}-{compression}"), spans));
    }
    let check = |tempo: &Tempo<'_>| {
        for (service, spans) in &sent {
            eventually(&format!("all traces of {service} are found"), SOON, || spans_of(tempo, service).len() == 10);
            let answered: Spans = spans_of(tempo, service).into_iter().flatten().collect();
            pretty_assertions::assert_eq!(&answered, spans, "{service}");
        }
    };
    check(&tempo);
    tempo.flush();
    drop(tempo);
    check(&place.start());
}

#[test]
fn telemetrygen() {
    let place = Place::new();
    let tempo = place.start();
    let client = tempo.client();
    for protocol in ["grpc", "http"] {
        let url = if protocol == "grpc" { client.otlp_grpc_url() } else { client.otlp_http_url() };
        let (endpoint, service) =
            (format!("--otlp-endpoint={}", url.trim_start_matches("http://")), format!("--service=generated-{protocol}"));
        let mut arguments =
            vec!["traces", &endpoint, &service, "--otlp-insecure", "--traces=25", "--child-spans=3", "--span-links=2", "--rate=0"];
        arguments.extend(["--status-code=Error", "--span-duration=3ms", "--otlp-attributes=zone=\"eu\"", "--otlp-attributes=cpus=8"]);
        arguments.extend([
            "--telemetry-attributes=user=\"alice\"",
            "--telemetry-attributes=premium=true",
            "--telemetry-attributes=tries=3",
        ]);
        if protocol == "http" {
            arguments.push("--otlp-http");
        }
        parts::telemetrygen(&arguments);
    }
    let check = |tempo: &Tempo<'_>| {
        for protocol in ["grpc", "http"] {
            let service = format!("generated-{protocol}");
            eventually(&format!("all traces of {service} are found"), SOON, || spans_of(tempo, &service).len() == 25);
            for spans in spans_of(tempo, &service) {
                check_generated(&service, &spans);
            }
        }
    };
    check(&tempo);
    tempo.flush();
    drop(tempo);
    check(&place.start());
}

/// A trace of telemetrygen: a client span `lets-go` with three server spans below it.
fn check_generated(service: &str, spans: &Spans) {
    assert_eq!(spans.len(), 4, "{spans:#?}");
    let named = |name: &str| spans.values().filter(|span| span["span"]["name"].as_str().unwrap().starts_with(name)).collect::<Vec<_>>();
    let [root] = named("lets-go")[..] else { panic!("{spans:#?}") };
    assert_eq!(root["span"]["kind"], "SPAN_KIND_CLIENT");
    assert!(root["span"].get("parentSpanId").is_none());
    let children = named("okey-dokey-");
    assert_eq!(children.len(), 3);
    assert!(
        children.iter().all(|child| child["span"]["parentSpanId"] == root["span"]["spanId"] && child["span"]["kind"] == "SPAN_KIND_SERVER")
    );
    for whole in spans.values() {
        assert_eq!(
            whole["resource"]["attributes"],
            json!([
                {"key": "cpus", "value": {"intValue": "8"}},
                {"key": "service.name", "value": {"stringValue": service}},
                {"key": "zone", "value": {"stringValue": "eu"}},
            ])
        );
        assert_eq!(whole["scope"], json!({"name": "telemetrygen"}));
        let span = &whole["span"];
        let peer = if span["kind"] == "SPAN_KIND_CLIENT" { "telemetrygen-server" } else { "telemetrygen-client" };
        assert_eq!(
            span["attributes"],
            json!([
                {"key": "network.peer.address", "value": {"stringValue": "1.2.3.4"}},
                {"key": "premium", "value": {"boolValue": true}},
                {"key": "service.peer.name", "value": {"stringValue": peer}},
                {"key": "tries", "value": {"intValue": "3"}},
                {"key": "user", "value": {"stringValue": "alice"}},
            ])
        );
        assert_eq!(span["status"], json!({"code": "STATUS_CODE_ERROR"}));
        let time = |field: &str| span[field].as_str().unwrap().parse::<u64>().unwrap();
        assert!(time("endTimeUnixNano") - time("startTimeUnixNano") >= 3_000_000, "{span}");
    }
}
