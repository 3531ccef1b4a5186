//! The query API over real blocks: traces come back as the compatible system shows them, searches find what the blocks hold.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tempo_rs::base::clock::SystemClock;
use tempo_rs::base::cpu_pool::CpuPool;
use tempo_rs::model::ids::TenantId;
use tempo_rs::modules::querier::{self, Querier};
use tempo_rs::modules::query_frontend::limits::QueryLimits;
use tempo_rs::modules::query_frontend::tenancy::Tenancy;
use tempo_rs::modules::query_frontend::{self, QueryFrontend};
use tempo_rs::services::rpc::block_list::BlockListPort;
use tempo_rs::tempodb::backend::Backend;
use tempo_rs::tempodb::block::meta::BlockMeta;
use tempo_rs::tempodb::blocklist::BlockList;
use tempo_rs::tempodb::cache::Caches;
use tempo_rs::tempodb::db::{DbSettings, TempoDb};
use tower::ServiceExt as _;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/blocks");
const VERSIONS: [&str; 3] = ["vParquet3", "vParquet4", "vParquet5"];

/// A block list with what the folders hold.
fn block_list(version: &str) -> Arc<BlockList> {
    let list = BlockList::default();
    for tenant in ["alpha", "beta"] {
        for block in std::fs::read_dir(Path::new(FIXTURES).join(version).join(tenant)).expect("tenant folder").flatten() {
            if let Ok(meta) = std::fs::read(block.path().join("meta.json")) {
                list.add(&TenantId::parse(tenant).expect("tenant"), Arc::new(BlockMeta::from_json(&meta).expect("meta")));
            }
        }
    }
    Arc::new(list)
}

fn api(version: &str) -> axum::Router {
    let cpu = CpuPool::new("query", 2).expect("threads");
    let backend = Backend::local(Path::new(FIXTURES).join(version)).expect("folder");
    let db = Arc::new(TempoDb::new(backend, block_list(version), DbSettings::default(), Arc::new(SystemClock)));
    let blocks: BlockListPort = Arc::clone(&db) as BlockListPort;
    let querier = Querier::new(querier::Parts { config: Default::default(), span_readers: Vec::new(), db, cpu: cpu.clone() });
    let frontend = QueryFrontend::new(query_frontend::Parts {
        config: Default::default(),
        tenancy: Tenancy { multitenancy_enabled: true, multi_tenant_queries_enabled: true },
        search_end_cutoff: None,
        querier: Arc::new(querier),
        caches: Caches::default(),
        blocks,
        limits: Arc::new(|_| QueryLimits::default()),
        clock: Arc::new(SystemClock),
        cpu,
    });
    query_frontend::router(Arc::new(frontend.expect("default configuration")), "")
}

async fn get(api: &axum::Router, tenant: &str, url: &str) -> Value {
    let request = Request::builder().uri(url).header("x-scope-orgid", tenant).body(Body::empty()).expect("request");
    let response = api.clone().oneshot(request).await.expect("infallible");
    let status = response.status();
    let body = response.into_body().collect().await.expect("body").to_bytes();
    assert_eq!(status, 200, "{url}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).expect("JSON")
}

fn sort_attributes(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::Array(attributes)) = members.get_mut("attributes") {
                attributes.sort_by_key(|attribute| attribute["key"].to_string());
            }
            members.values_mut().for_each(sort_attributes);
        }
        Value::Array(elements) => elements.iter_mut().for_each(sort_attributes),
        _ => {}
    }
}

/// Every span with its resource and scope, in a fixed order: parts of a trace repeat resources there and share them here.
fn flat(mut trace: Value) -> Vec<String> {
    sort_attributes(&mut trace);
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let mut spans = Vec::new();
    for resource in list(&trace["trace"], "resourceSpans") {
        for scope in list(&resource, "scopeSpans") {
            for span in list(&scope, "spans") {
                spans.push(json!([span["spanId"], resource["resource"], scope["scope"], span]).to_string());
            }
        }
    }
    spans.sort();
    spans
}

#[tokio::test]
async fn traces_are_shown_as_by_the_compatible_system() {
    for version in ["vParquet4", "vParquet5"] {
        let api = api(version);
        let mut compared = 0;
        for file in std::fs::read_dir(Path::new(FIXTURES).join("api").join(version)).expect("answers").flatten() {
            let name = file.file_name().into_string().expect("name");
            let (tenant, id) = name.trim_end_matches(".json").split_once('-').expect("tenant and id");
            let expected: Value = serde_json::from_slice(&std::fs::read(file.path()).expect("answer")).expect("JSON");
            let shown = get(&api, tenant, &format!("/api/v2/traces/{id}")).await;
            assert_eq!(flat(shown), flat(expected), "{version} {name}");
            compared += 1;
        }
        assert_eq!(compared, 15);
    }
}

#[tokio::test]
async fn searches_find_what_the_blocks_hold() {
    for version in VERSIONS {
        check_searches_find_what_the_blocks_hold(version).await;
    }
}

async fn check_searches_find_what_the_blocks_hold(version: &str) {
    let api = api(version);
    let window = "start=1795309000&end=1795310000";
    let all = get(&api, "alpha", &format!("/api/search?q=%7B%7D&limit=1000&{window}")).await;
    assert_eq!(all["traces"].as_array().map(Vec::len), Some(83));
    assert_eq!(all["metrics"]["totalBlocks"], 2);
    let both = get(&api, "alpha|beta", &format!("/api/search?q=%7B%7D&limit=1000&{window}")).await;
    assert_eq!(both["traces"].as_array().map(Vec::len), Some(113));
    let few = get(&api, "alpha", &format!("/api/search?q=%7B%7D&limit=5&{window}")).await;
    assert_eq!(few["traces"].as_array().map(Vec::len), Some(5));
    let newest = get(&api, "alpha", &format!("/api/search?q=%7B%7Dwith(most_recent%3Dtrue)&limit=5&{window}")).await;
    let ids = |answer: &Value, count: usize| {
        let traces = answer["traces"].as_array().cloned().unwrap_or_default();
        traces.into_iter().take(count).map(|trace| trace["startTimeUnixNano"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&newest, 5), ids(&all, 5));
    for (descending, tenants) in [(true, "alpha"), (false, "alpha"), (true, "alpha|beta")] {
        let query = format!("q=%7B%7Dwith(order_by=%22duration%22,desc={descending})");
        let every = get(&api, tenants, &format!("/api/search?q=%7B%7D&limit=1000&{window}")).await;
        let few = get(&api, tenants, &format!("/api/search?{query}&limit=7&{window}")).await;
        let durations = |answer: &Value| -> Vec<u64> {
            answer["traces"].as_array().expect("traces").iter().map(|trace| trace["durationMs"].as_u64().unwrap_or(0)).collect()
        };
        let mut expected = durations(&every);
        expected.sort_unstable();
        if descending {
            expected.reverse();
        }
        assert_eq!(durations(&few), expected[..7], "{version} {query}");
    }
    let orphan = get(&api, "alpha", &format!("/api/search?q=%7Bname%3D%22orphan-kid%22%7D&{window}")).await;
    let found = &orphan["traces"][0];
    assert_eq!((&found["traceID"], &found["rootServiceName"]), (&json!("63df018bb6b87bac5e1ceda39d8fd16e"), &json!("checkout")));
    assert_eq!(found["spanSet"]["spans"][0]["name"], "orphan-kid");
    let rootless = get(&api, "alpha", &format!("/api/search?q=%7Bresource.service.name%3D%22rootless%22%7D&{window}")).await;
    assert_eq!(rootless["traces"][0]["rootServiceName"], "<root span not yet received>");
    let nothing = get(&api, "alpha", &format!("/api/search?q=%7Bname%3D%22nix%22%7D&{window}")).await;
    assert_eq!(nothing["traces"], json!([]));
}

#[tokio::test]
async fn tags_and_values_come_from_the_blocks() {
    for version in VERSIONS {
        check_tags_and_values_come_from_the_blocks(version).await;
    }
}

async fn check_tags_and_values_come_from_the_blocks(version: &str) {
    let api = api(version);
    let window = "start=1795309000&end=1795310000";
    let names = get(&api, "alpha", &format!("/api/search/tags?{window}")).await;
    let names: Vec<&str> = names["tagNames"].as_array().expect("list").iter().filter_map(Value::as_str).collect();
    assert!(names.contains(&"service.name") && names.contains(&"http.url") && names.is_sorted(), "{names:?}");
    let values = get(&api, "alpha", &format!("/api/v2/search/tag/resource.service.name/values?{window}")).await;
    let filtered = format!("/api/v2/search/tag/resource.service.name/values?q=%7Bname%3D%22orphan-kid%22%7D&{window}");
    let filtered = get(&api, "alpha", &filtered).await;
    assert!(values["tagValues"].as_array().expect("list").len() > 1);
    assert_eq!(filtered["tagValues"], json!([{"type": "string", "value": "checkout"}]));
}
