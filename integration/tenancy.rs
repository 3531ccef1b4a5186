//! `X-Scope-OrgID`: tenants see only their own data on every path, and nothing works without a tenant.

use tonic::Code;

use crate::client::{Client, JSON, PROTOBUF};
use crate::otlp::{self, hex};
use crate::process::Place;
use crate::wait::{SOON, VISIBLE, eventually};

fn place() -> Place {
    Place::with(|wishes| wishes.multitenancy = true)
}

/// Pushes the trace with `id` for one tenant; its case is the tenant's name.
fn push(client: &Client, way: &str, id: &[u8], tenant: &str) {
    let trace = otlp::rich_trace(id, tenant);
    let client = client.tenant(tenant);
    match way {
        "json" => assert_eq!(client.post_traces(JSON, None, otlp::to_json(&trace).to_string().as_bytes()).status, 200),
        "grpc" => assert!(client.push_grpc(trace, None).is_ok()),
        _ => client.push(&trace),
    }
}

#[test]
fn tenants_see_only_their_own_data() {
    let place = place();
    let tempo = place.start();
    let client = tempo.client();
    let ids: Vec<_> = ["json", "grpc", "protobuf"].iter().zip(4_000..).map(|(way, seed)| (*way, otlp::id::<16>(seed))).collect();
    for (way, id) in &ids {
        // The same id for both tenants.
        push(&client, way, id, "team-a");
        push(&client, way, id, "team-b");
        for tenant in ["team-a", "team-b"] {
            eventually(&format!("{way} {tenant}"), VISIBLE, || !client.tenant(tenant).trace(id).is_empty());
        }
    }
    let only_b = otlp::id::<16>(4_100);
    push(&client, "protobuf", &only_b, "team-b");
    eventually("visible", VISIBLE, || !client.tenant("team-b").trace(&only_b).is_empty());

    check(&client, &ids, &only_b);
    tempo.flush();
    check(&client, &ids, &only_b);
    assert!(!place.blocks_of("team-a").is_empty() && !place.blocks_of("team-b").is_empty());
    assert!(place.blocks_of("single-tenant").is_empty());
    drop(tempo);
    check(&place.start().client(), &ids, &only_b);
}

fn check(client: &Client, ids: &[(&str, Vec<u8>)], only_b: &[u8]) {
    for (tenant, count) in [("team-a", 3), ("team-b", 4)] {
        let client = client.tenant(tenant);
        let other = if tenant == "team-a" { "team-b" } else { "team-a" };
        for (way, id) in ids {
            let trace = client.trace(id);
            assert_eq!(trace.len(), 2, "{way} {tenant}");
            let text = format!("{trace:?}");
            assert!(text.contains(tenant) && !text.contains(other), "{way} {tenant}: {text}");
        }
        eventually("search finds all", SOON, || client.search(&[("q", &format!("{{ span.test.case = \"{tenant}\" }}"))]).len() == count);
        assert_eq!(client.search(&[("tags", &format!("test.case={tenant}"))]).len(), count);
        assert!(client.search(&[("q", &format!("{{ span.test.case = \"{other}\" }}"))]).is_empty());
        assert_eq!(client.get("/api/search/tag/test.case/values").json()["tagValues"], serde_json::json!([tenant]));
        let typed = client.get("/api/v2/search/tag/span.test.case/values").json();
        assert_eq!(typed["tagValues"], serde_json::json!([{"type": "string", "value": tenant}]));
    }
    assert!(client.tenant("team-a").trace(only_b).is_empty());
    let nobody = client.tenant("nobody");
    assert_eq!(nobody.get(&format!("/api/traces/{}", hex(only_b))).status, 404);
    assert!(nobody.search(&[("q", "{}")]).is_empty());
    assert_eq!(nobody.get("/api/search/tags").json()["tagNames"], serde_json::json!([]));
}

#[test]
fn several_tenants_in_one_query() {
    let place = place();
    let tempo = place.start();
    let client = tempo.client();
    for (tenant, seed) in [("team-a", 4_200), ("team-b", 4_201), ("team-c", 4_202)] {
        push(&client, "protobuf", &otlp::id::<16>(seed), tenant);
        eventually("visible", VISIBLE, || !client.tenant(tenant).trace(&otlp::id::<16>(seed)).is_empty());
    }
    let both = client.tenant("team-b|team-a");
    assert_eq!(both.search(&[("q", "{ resource.service.name = \"shop\" }")]).len(), 2);
    assert_eq!(both.trace(&otlp::id::<16>(4_200)).len(), 2);
    assert!(both.trace(&otlp::id::<16>(4_202)).is_empty());
    assert_eq!(both.get("/api/search/tag/test.case/values").json()["tagValues"], serde_json::json!(["team-a", "team-b"]));

    // A push names one tenant.
    let trace = otlp::rich_trace(&otlp::id::<16>(4_203), "x");
    let answer = both.post_traces(JSON, None, otlp::to_json(&trace).to_string().as_bytes());
    assert_eq!(answer.status, 400, "{}", answer.text());
    let refused = both.push_grpc(trace, None).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}

#[test]
fn without_a_tenant_everything_is_refused() {
    let place = place();
    let tempo = place.start();
    let client = tempo.client();
    let id = otlp::id::<16>(4_300);
    for path in [
        format!("/api/traces/{}", hex(&id)),
        format!("/api/v2/traces/{}", hex(&id)),
        "/api/search".to_owned(),
        "/api/search/tags".to_owned(),
        "/api/v2/search/tags".to_owned(),
        "/api/search/tag/name/values".to_owned(),
        "/api/v2/search/tag/name/values".to_owned(),
    ] {
        let answer = client.get(&path);
        assert_eq!((answer.status, answer.text().as_str()), (401, "no org id\n"), "{path}");
        // An empty header is a missing one.
        assert_eq!(client.tenant("").get(&path).status, 401, "{path}");
        assert_eq!(client.tenant("no spaces").get(&path).status, 400, "{path}");
    }
    let trace = otlp::rich_trace(&id, "x");
    for (content_type, body) in [(JSON, otlp::to_json(&trace).to_string().into_bytes()), (PROTOBUF, otlp::encode(&trace))] {
        let answer = client.post_traces(content_type, None, &body);
        assert_eq!(answer.status, 401, "{}", answer.text());
        assert!(answer.text().contains("no org id"), "{}", answer.text());
    }
    let refused = client.push_grpc(trace, None).unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unauthenticated, "no org id"));
    // Operators need no tenant.
    for path in ["/ready", "/metrics", "/status/services", "/api/echo", "/api/status/buildinfo"] {
        assert_eq!(client.get(path).status, 200, "{path}");
    }
}
