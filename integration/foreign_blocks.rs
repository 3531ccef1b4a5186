//! Blocks that Grafana Tempo wrote are read as they are.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::client::Client;
use crate::otlp::{canonical, hex, id};
use crate::process::Place;
use crate::wait::{SOON, eventually};

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/blocks")
}

/// Copies a directory with all below it.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (source, target) = {
            let path = entry.unwrap().path();
            (path.clone(), to.join(path.file_name().unwrap()))
        };
        if source.is_dir() {
            copy_tree(&source, &target);
        } else {
            fs::copy(&source, &target).unwrap();
        }
    }
}

pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Every file below a directory, with its content.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.push((path.clone(), fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

const VERSIONS: [&str; 3] = ["vParquet3", "vParquet4", "vParquet5"];

fn place(version: &str) -> Place {
    let place = Place::with(|wishes| wishes.multitenancy = true);
    copy_tree(&fixtures().join(version), &place.blocks_dir());
    place
}

/// Ids of the traces of a tenant.
fn ids(tenant: &str) -> Vec<String> {
    let blocks = &read_json(&fixtures().join("expected/vParquet5.json"))[tenant];
    let mut ids: Vec<_> =
        blocks.as_object().unwrap().values().flat_map(|block| block["traces"].as_object().unwrap().keys().cloned()).collect();
    ids.sort();
    ids.dedup();
    ids
}

fn trace(client: &Client, id: &str) -> Value {
    client.get(&format!("/api/v2/traces/{id}")).json()["trace"].clone()
}

#[test]
fn traces_are_answered_as_tempo_answers_them() {
    for version in ["vParquet4", "vParquet5"] {
        check_answers(version);
    }
}

fn check_answers(version: &str) {
    let place = place(version);
    let tempo = place.start();
    let client = tempo.client();
    let mut count = 0;
    for entry in fs::read_dir(fixtures().join("api").join(version)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (tenant, id) = name.split_once('-').unwrap();
        let client = client.tenant(tenant);
        eventually(&format!("{name} is found"), SOON, || trace(&client, id).get("resourceSpans").is_some());
        // One trace has a span twice; what both sides have to agree on is checked below.
        let (answered, expected) = (sorted(&trace(&client, id)), sorted(&read_json(&path)["trace"]));
        pretty_assertions::assert_eq!(answered, expected, "{version} {name}");
        count += 1;
    }
    assert!(count >= 15, "{count} answers");
}

/// The spans of an answer with resource and scope, in an order that does not depend on the answer.
fn sorted(trace: &Value) -> Vec<Value> {
    let mut spans: Vec<_> = Vec::new();
    for batch in trace["resourceSpans"].as_array().unwrap() {
        for scope_spans in batch["scopeSpans"].as_array().unwrap() {
            for span in scope_spans["spans"].as_array().unwrap() {
                let one = serde_json::json!({"resourceSpans": [{
                    "resource": batch["resource"], "scopeSpans": [{"scope": scope_spans["scope"], "spans": [span]}],
                }]});
                spans.extend(canonical(&one).into_values());
            }
        }
    }
    spans.sort_by_key(|span| (span["span"]["spanId"].to_string(), span.to_string()));
    spans
}

#[test]
fn every_trace_is_found_only_by_its_tenant_and_others_are_not() {
    VERSIONS.into_iter().for_each(check_lookups);
}

fn check_lookups(version: &str) {
    let place = place(version);
    let tempo = place.start();
    let client = tempo.client();
    for (tenant, other, count) in [("alpha", "beta", 83), ("beta", "alpha", 30)] {
        let ids = ids(tenant);
        assert_eq!(ids.len(), count);
        let (own, other) = (client.tenant(tenant), client.tenant(other));
        for id in &ids {
            eventually(&format!("{id} of {tenant} is found"), SOON, || own.get(&format!("/api/traces/{id}")).status == 200);
            assert_eq!(other.get(&format!("/api/traces/{id}")).status, 404, "{id} of {tenant}");
        }
    }
    for seed in 8_000..8_020 {
        assert_eq!(client.tenant("alpha").get(&format!("/api/traces/{}", hex(&id::<16>(seed)))).status, 404);
    }
}

#[test]
fn search_tags_and_values_cover_them() {
    let answers = VERSIONS.map(check_searches);
    pretty_assertions::assert_eq!(answers[0], answers[2], "vParquet3");
    pretty_assertions::assert_eq!(answers[1], answers[2], "vParquet4");
}

/// Queries whose answers must not depend on the version: attributes in dedicated, fixed and generic columns, events, links, derived columns.
const QUERIES: [&str; 16] = [
    "{ span.http.method = \"GET\" }",
    "{ span.http.status_code >= 500 }",
    "{ span.http.url =~ \".*1.*\" }",
    "{ resource.k8s.pod.name != nil }",
    "{ resource.k8s.namespace.name = \"shop\" || resource.cluster != nil }",
    "{ span.http.route != nil }",
    "{ event:name = \"exception\" }",
    "{ event.exception.type != nil }",
    "{ event:timeSinceStart > 1us }",
    "{ link:spanID != nil }",
    // Not of rootless traces, whose child counts the compatible system leaves to chance.
    "{ span:childCount > 3 && nestedSetParent != 0 }",
    "{ nestedSetParent < 0 }",
    "{ status = error && duration > 1ms }",
    "{ } | count() > 10",
    "{ rootServiceName = \"checkout\" && kind = server }",
    "{ span.str.long != nil }",
];

/// Returns what depends on the fixtures' spans only: the ids that each query finds, and names and values of tags.
fn check_searches(version: &str) -> Vec<(String, Vec<String>)> {
    let place = place(version);
    let tempo = place.start();
    let client = tempo.client().tenant("alpha");
    // The blocks are of the past, so the range has to be given.
    let expected = read_json(&fixtures().join("expected/vParquet5.json"));
    let starts: Vec<u64> = expected["alpha"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|block| block["traces"].as_object().unwrap().values())
        .map(|trace| trace["start"].as_str().unwrap().parse::<u64>().unwrap() / 1_000_000_000)
        .filter(|seconds| *seconds > 1_000_000_000)
        .collect();
    let (start, end) = ((starts.iter().min().unwrap() - 3600).to_string(), (starts.iter().max().unwrap() + 3600).to_string());
    let range = [("start", start.as_str()), ("end", end.as_str())];
    let with = |first: &[(&'static str, &'static str)]| [first, &range[..]].concat();
    eventually("found by service", SOON, || !client.search(&with(&[("q", "{ resource.service.name = \"checkout\" }")])).is_empty());
    let all = client.search(&with(&[("q", "{}"), ("limit", "1000")]));
    let ids = ids("alpha");
    assert!(all.iter().all(|id| ids.contains(id)), "{all:?}");
    assert!(all.len() > 70, "{} of {}", all.len(), ids.len());
    let errors = client.search(&with(&[("q", "{ status = error }"), ("limit", "1000")]));
    assert!(!errors.is_empty() && errors.len() < all.len());
    assert!(client.search(&with(&[("q", "{ span.http.method = \"NONSENSE\" }")])).is_empty());
    let mut answers: Vec<(String, Vec<String>)> = Vec::new();
    for query in QUERIES {
        let mut found = client.search(&with(&[("q", query), ("limit", "1000")]));
        found.sort();
        answers.push((query.to_owned(), found));
    }
    let texts = |list: &Value| {
        let mut texts: Vec<_> = list.as_array().unwrap().iter().map(Value::to_string).collect();
        texts.sort();
        texts
    };
    for tag in ["resource.service.name", "span.http.method", "span.http.status_code", "resource.k8s.pod.name", "span.http.route"] {
        let values = client.ask(&format!("/api/v2/search/tag/{tag}/values"), &range).json();
        answers.push((tag.to_owned(), texts(&values["tagValues"])));
    }
    for scope in ["resource", "span", "event", "link"] {
        let names = client.ask("/api/v2/search/tags", &[&[("scope", scope)], &range[..]].concat()).json();
        answers.push((scope.to_owned(), texts(&names["scopes"][0]["tags"])));
    }
    let count = |name: &str| answers.iter().find(|(asked, _)| asked == name).map_or(0, |(_, found)| found.len());
    for asked in
        ["{ span.http.method = \"GET\" }", "{ status = error && duration > 1ms }", "{ link:spanID != nil }", "span.http.method", "link"]
    {
        assert!(count(asked) > 0, "{asked} in {version}: {answers:?}");
    }
    assert!(answers.iter().any(|(asked, found)| asked == "resource.service.name" && found.iter().any(|value| value.contains("checkout"))));
    answers
}

#[test]
fn reading_changes_nothing() {
    let place = place("vParquet5");
    let blocks =
        || -> Vec<_> { ["alpha", "beta"].iter().flat_map(|tenant| place.blocks_of(tenant)).flat_map(|block| contents(&block)).collect() };
    let before = blocks();
    let tempo = place.start();
    let id = &ids("alpha")[5];
    eventually("found", SOON, || tempo.client().tenant("alpha").get(&format!("/api/traces/{id}")).status == 200);
    tempo.flush();
    assert_eq!(tempo.terminate(SOON).code(), Some(0));
    assert!(blocks() == before, "files of blocks changed");
}
