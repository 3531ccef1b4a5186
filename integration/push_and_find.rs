//! What is pushed by any protocol and encoding is found by id, by search, as tag and as tag value: at once, from blocks, after a restart.

use std::collections::BTreeSet;
use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::Value;
use tempo_rs::proto::tempopb::trace::v1::ResourceSpans;
use tempo_rs::proto::tempopb::{Trace, TraceByIdResponse};
use tonic::codec::CompressionEncoding;

use crate::client::{Client, JSON, PROTOBUF};
use crate::otlp::{self, canonical, canonical_messages, hex};
use crate::process::Place;
use crate::wait::{SOON, VISIBLE, eventually, until_some};

/// The ways to push; the name is also the test case's attribute value.
const WAYS: [&str; 11] = [
    "http-json",
    "http-json-gzip",
    "http-json-deflate",
    "http-json-zstd",
    "http-protobuf",
    "http-protobuf-gzip",
    "http-protobuf-deflate",
    "http-protobuf-zstd",
    "grpc",
    "grpc-gzip",
    "grpc-zstd",
];

fn push(client: &Client, way: &str, trace: &[ResourceSpans]) {
    let mut words = way.split('-');
    if words.next() == Some("grpc") {
        let encoding = words.next().map(|name| if name == "gzip" { CompressionEncoding::Gzip } else { CompressionEncoding::Zstd });
        let accepted = client.push_grpc(trace.to_vec(), encoding).unwrap();
        assert_eq!(accepted.partial_success.unwrap_or_default().rejected_spans, 0);
        return;
    }
    let (content_type, body) = match words.next().unwrap() {
        "json" => (JSON, otlp::to_json(trace).to_string().into_bytes()),
        _ => (PROTOBUF, otlp::encode(trace)),
    };
    let encoding = words.next();
    let answer = client.post_traces(content_type, encoding, &compress(encoding, body));
    assert_eq!(answer.status, 200, "{way}: {}", answer.text());
    assert_eq!(answer.content_type, content_type);
    // An accepted request has an empty partial success, which is present.
    let expected: &[u8] = if content_type == JSON { br#"{"partialSuccess":{}}"# } else { b"\x0a\x00" };
    assert_eq!(answer.body, expected, "{way}: {}", answer.text());
}

fn compress(encoding: Option<&str>, body: Vec<u8>) -> Vec<u8> {
    match encoding {
        None => body,
        Some("gzip") => {
            let mut out = GzEncoder::new(Vec::new(), Compression::default());
            out.write_all(&body).unwrap();
            out.finish().unwrap()
        }
        // The HTTP name "deflate" means the zlib format.
        Some("deflate") => {
            let mut out = ZlibEncoder::new(Vec::new(), Compression::default());
            out.write_all(&body).unwrap();
            out.finish().unwrap()
        }
        Some("zstd") => zstd::encode_all(&*body, 1).unwrap(),
        Some(other) => panic!("no encoder for {other}"),
    }
}

fn traces() -> Vec<(&'static str, Vec<u8>, Vec<ResourceSpans>)> {
    let trace = |(number, way): (usize, &&'static str)| {
        let id = otlp::id::<16>(1_000 + u64::try_from(number).unwrap());
        let spans = otlp::rich_trace(&id, way);
        (*way, id, spans)
    };
    WAYS.iter().enumerate().map(trace).collect()
}

#[test]
fn every_way_to_push_is_found_at_once_from_blocks_and_after_a_restart() {
    let place = Place::new();
    let tempo = place.start();
    let client = tempo.client();
    let traces = traces();
    for (way, id, trace) in &traces {
        push(&client, way, trace);
        let is_found = || !client.trace(id).is_empty() && client.search(&[("q", &by_case(way))]) == [hex(id)];
        eventually(&format!("{way}: found by id and by search"), VISIBLE, is_found);
    }
    check_all(&client, &traces);
    assert!(place.blocks_of("single-tenant").is_empty(), "written too early");

    tempo.flush();
    assert!(!place.blocks_of("single-tenant").is_empty());
    check_all(&client, &traces);
    for (_, id, trace) in &traces {
        let from_blocks = format!("/api/traces/{}?mode=blocks", hex(id));
        let found = until_some("found in blocks", SOON, || Some(client.get(&from_blocks)).filter(|answer| answer.status == 200));
        assert_eq!(canonical(&found.json()), canonical_messages(trace));
    }

    drop(tempo);
    let tempo = place.start();
    check_all(&tempo.client(), &traces);
}

fn by_case(way: &str) -> String {
    format!("{{ span.test.case = \"{way}\" }}")
}

/// Everything a client can ask about these traces has the right answer.
fn check_all(client: &Client, traces: &[(&'static str, Vec<u8>, Vec<ResourceSpans>)]) {
    for (way, id, trace) in traces {
        check_by_id(client, way, id, trace);
        let found = |parameters: &[(&str, &str)]| {
            until_some(&format!("{way}: found by {parameters:?}"), SOON, || Some(client.search(parameters)).filter(|ids| !ids.is_empty()))
        };
        assert_eq!(found(&[("q", &by_case(way))]), [hex(id)], "{way}");
        assert_eq!(found(&[("tags", &format!("test.case={way}"))]), [hex(id)], "{way}");
    }
    check_search_metadata(client, &traces[0].1, traces[0].0);
    let all: BTreeSet<_> = traces.iter().map(|(_, id, _)| hex(id)).collect();
    for query in ["{ resource.service.name = \"shop\" && status = error }", "{ name = \"SELECT\" } ", "{ .http.status_code >= 500 }", "{}"]
    {
        let found = client.search(&[("q", query), ("limit", "100")]);
        assert_eq!(found.len(), traces.len(), "{query}: {found:?}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), all, "{query}");
    }
    assert!(client.search(&[("q", "{ span.test.case = \"none\" }")]).is_empty());
    check_tags(client);
}

fn check_by_id(client: &Client, way: &str, id: &[u8], trace: &[ResourceSpans]) {
    let expected = canonical_messages(trace);
    let path = format!("traces/{}", hex(id));
    let (first, second) = (format!("/api/{path}"), format!("/api/v2/{path}"));
    let json = client.get(&first).json();
    assert!(json.get("batches").is_some(), "{way}: {json}");
    assert_eq!(canonical(&json), expected, "{way}");
    let message: Trace = client.get_protobuf(&first).message();
    assert_eq!(canonical_messages(&message.resource_spans), expected, "{way}");
    assert_eq!(canonical(&client.get(&second).json()["trace"]), expected, "{way}");
    let message: TraceByIdResponse = client.get_protobuf(&second).message();
    assert_eq!(canonical_messages(&message.trace.unwrap().resource_spans), expected, "{way}");
}

fn check_search_metadata(client: &Client, id: &[u8], way: &str) {
    let answer = client.ask("/api/search", &[("q", &by_case(way))]).json();
    let trace = &answer["traces"][0];
    assert_eq!(trace["traceID"].as_str().unwrap(), hex(id).trim_start_matches('0'));
    assert_eq!(trace["rootServiceName"], "shop");
    assert_eq!(trace["rootTraceName"], "GET /cart");
    assert_eq!(trace["durationMs"], 250);
    assert_eq!(trace["spanSets"][0]["matched"], 2);
    assert_eq!(trace["serviceStats"]["shop"]["errorCount"], 1);
    assert_eq!(trace["serviceStats"]["stock"]["spanCount"], 1);
}

fn check_tags(client: &Client) {
    let names = |value: &Value| -> BTreeSet<String> {
        value.as_array().into_iter().flatten().map(|name| name.as_str().unwrap_or_else(|| panic!("{name}")).to_owned()).collect()
    };
    let tags = names(&client.get("/api/search/tags").json()["tagNames"]);
    for tag in ["service.name", "cluster", "test.case", "http.status_code", "db.system"] {
        assert!(tags.contains(tag), "{tag} not in {tags:?}");
    }
    let answer = client.get("/api/v2/search/tags").json();
    let scope = |name: &str| {
        let scope = answer["scopes"].as_array().unwrap().iter().find(|scope| scope["name"] == name);
        names(&scope.unwrap_or_else(|| panic!("no scope {name} in {answer}"))["tags"])
    };
    assert!(scope("resource").is_superset(&["cluster", "host.cpus", "service.name"].map(str::to_owned).into()));
    assert!(scope("span").is_superset(&["cached", "http.method", "ratio", "test.case"].map(str::to_owned).into()));
    assert!(!scope("span").contains("cluster"));
    assert!(scope("intrinsic").contains("duration"));

    let ways: BTreeSet<_> = WAYS.map(str::to_owned).into();
    assert_eq!(names(&client.get("/api/search/tag/test.case/values").json()["tagValues"]), ways);
    let typed = |tag: &str| -> BTreeSet<(String, String)> {
        let answer = client.get(&format!("/api/v2/search/tag/{tag}/values")).json();
        let pair = |value: &Value| (value["type"].as_str().unwrap().to_owned(), value["value"].as_str().unwrap().to_owned());
        answer["tagValues"].as_array().unwrap().iter().map(pair).collect()
    };
    let one = |kind: &str, value: &str| BTreeSet::from([(kind.to_owned(), value.to_owned())]);
    assert_eq!(typed("span.test.case"), ways.iter().map(|way| ("string".to_owned(), way.clone())).collect());
    assert_eq!(typed("span.http.status_code"), one("int", "500"));
    assert_eq!(
        typed("resource.service.name"),
        [("string".to_owned(), "shop".to_owned()), ("string".to_owned(), "stock".to_owned())].into()
    );
    assert_eq!(typed("span.cached"), one("bool", "false"));
    assert_eq!(typed("name").len(), 2);
    assert!(typed("status").contains(&("keyword".to_owned(), "error".to_owned())));
}

#[test]
fn parts_of_one_trace_in_blocks_and_live_data_are_one_trace() {
    let place = Place::new();
    let tempo = place.start();
    let client = tempo.client();
    let id = otlp::id::<16>(2_000);
    let part = |seed: u64| vec![otlp::batch("parts", vec![otlp::span(&id, seed, "part"), otlp::span(&id, 1, "in every part")])];
    let parts: Vec<_> = (10..13).map(part).collect();
    client.push(&parts[0]);
    tempo.flush();
    client.push(&parts[1]);
    tempo.flush();
    client.push(&parts[2]);
    // `trace` fails on a span that occurs twice.
    eventually("all parts are found", VISIBLE, || client.trace(&id).len() == 4);
    assert_eq!(client.search(&[("q", "{ name = \"part\" }")]), [hex(&id)]);
}

#[test]
fn unknown_and_wrong_ids() {
    let place = Place::new();
    let tempo = place.start();
    let client = tempo.client();
    let unknown = hex(&otlp::id::<16>(3_000));
    let first = client.get(&format!("/api/traces/{unknown}"));
    assert_eq!((first.status, first.text().as_str()), (404, ""));
    let second = client.get(&format!("/api/v2/traces/{unknown}"));
    assert_eq!(second.json()["trace"], serde_json::json!({}));
    for path in ["/api/traces/zz", "/api/v2/traces/zz"] {
        let answer = client.get(path);
        assert_eq!(answer.status, 400);
        assert_eq!(answer.text().trim_end(), "trace IDs can only contain hex characters: invalid character 'z' at position 1");
    }
    assert_eq!(client.get(&format!("/api/traces/{unknown}00")).status, 400);
}
