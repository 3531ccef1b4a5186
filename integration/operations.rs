//! What operators look at, and how the process stops.

use std::time::Duration;

use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::otlp;
use crate::process::Place;
use crate::wait::{SOON, VISIBLE, eventually};

#[test]
fn status_pages() {
    let place = Place::new();
    let tempo = place.start();
    let client = tempo.client();
    let get = |path: &str| {
        let answer = client.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.text()
    };
    assert_eq!(get("/ready"), "ready\n");
    assert_eq!(get("/api/echo"), "echo\n");
    assert!(get("/status/version").starts_with("GET /status/version\n"));
    let services = get("/status/services");
    for service in ["distributor", "live-store", "querier", "query-frontend", "server", "store"] {
        assert!(
            services.lines().any(|line| line.contains(&format!("| {service} ")) && line.contains("Running")),
            "{service} in {services}"
        );
    }
    let endpoints = get("/status/endpoints");
    for path in ["/ready", "/metrics", "/api/search", "/api/traces/{traceID}", "/api/v2/traces/{traceID}"] {
        assert!(endpoints.contains(path), "{path} in {endpoints}");
    }
    let whole = get("/status");
    for part in ["version", "services", "endpoints", "runtime_config", "config"] {
        assert!(whole.contains(&format!("GET /status/{part}\n")), "{part}");
    }
    let build = client.get("/api/status/buildinfo").json();
    for key in ["version", "revision", "branch", "buildUser", "buildDate", "goVersion"] {
        assert!(build[key].is_string(), "{key} in {build}");
    }
    let (compatible, own) = build["version"].as_str().unwrap().split_once('+').unwrap();
    assert!(compatible.split('.').all(|part| part.parse::<u32>().is_ok()) && own.starts_with("tempo-rs."), "{build}");

    assert_eq!(client.get("/status/nonsense").status, 404);
    let unknown = client.get("/nonsense");
    assert_eq!((unknown.status, unknown.text().as_str()), (404, "404 page not found\n"));
}

#[test]
fn shown_configuration() {
    let place = Place::new();
    let tempo = place.start();
    let client = tempo.client();
    let yaml = |path: &str| -> serde_json::Value {
        let text = client.get(path).text();
        let body = text.strip_prefix("GET /status/config\n").unwrap_or_else(|| panic!("{text}"));
        serde_norway::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
    };
    let diff = yaml("/status/config?mode=diff");
    assert_eq!(diff["server"]["http_listen_port"], place.http_port());
    assert_eq!(diff["storage"]["trace"]["backend"], "local");
    assert!(diff["server"].get("log_level").is_none(), "{diff}");
    assert!(diff.get("memberlist").is_none(), "{diff}");
    let whole = yaml("/status/config");
    assert_eq!(whole["server"]["log_level"], "info");
    assert_eq!(whole["server"]["http_listen_port"], place.http_port());
    assert_eq!(yaml("/status/config?mode=defaults")["server"]["http_listen_port"], 3200);
    let wrong = client.get("/status/config?mode=x");
    assert_eq!(wrong.status, 500);
    assert_eq!(wrong.text().trim_end(), "unknown value for mode query parameter: x");
}

#[test]
fn metrics_count_what_was_received() {
    let place = Place::new();
    let tempo = place.start();
    let client = tempo.client();
    client.push(&otlp::rich_trace(&otlp::id::<16>(5_000), "metrics"));
    let value = |series: &str| -> Option<f64> {
        let text = client.get("/metrics").text();
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    };
    eventually("spans are counted", VISIBLE, || value("tempo_distributor_spans_received_total{tenant=\"single-tenant\"}") == Some(2.0));
    assert!(value("tempo_distributor_bytes_received_total{tenant=\"single-tenant\"}").is_some_and(|bytes| bytes > 100.0));
    assert!(value("process_resident_memory_bytes").is_some_and(|bytes| bytes > 1e6));
}

#[test]
fn grpc_health_is_serving() {
    let place = Place::with(|wishes| wishes.multitenancy = true);
    let _tempo = place.start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let status = runtime.block_on(async {
        let address = format!("http://127.0.0.1:{}", place.grpc_port());
        let channel = Endpoint::new(address).unwrap().connect().await.unwrap();
        // Without a tenant, and with any service name.
        let request = HealthCheckRequest { service: String::new() };
        HealthClient::new(channel).check(request).await.unwrap().into_inner().status
    });
    assert_eq!(status, i32::from(ServingStatus::Serving));
}

#[test]
fn an_idle_process_stops_within_two_seconds_of_sigterm() {
    let place = Place::new();
    let ended = place.start().terminate(Duration::from_secs(2));
    assert_eq!(ended.code(), Some(0), "{ended}");
}

#[test]
fn what_was_acknowledged_before_sigterm_is_found_after_it() {
    let place = Place::new();
    let tempo = place.start();
    let ids: Vec<_> = (5_100..5_110).map(otlp::id::<16>).collect();
    for id in &ids {
        tempo.client().push(&otlp::rich_trace(id, "stop"));
    }
    assert_eq!(tempo.terminate(SOON).code(), Some(0));
    let tempo = place.start();
    for id in &ids {
        eventually("found after the restart", SOON, || tempo.client().trace(id).len() == 2);
    }
}
