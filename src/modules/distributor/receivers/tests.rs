//! Real clients against receivers on free ports.

use std::io::Write;

use prost::Message;
use tokio::task::JoinHandle;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request};

use super::*;
use crate::model::otlp::testing::tempopb::ExportTraceServiceRequest;
use crate::model::otlp::testing::{request, scope_spans, span};
use crate::modules::distributor::limits::TenantLimits;
use crate::modules::distributor::options::{GrpcOptions, HttpOptions};
use crate::modules::distributor::testing::{MemoryLog, distributor};
use crate::proto::google::rpc::{RetryInfo, Status as RpcStatus};
use crate::proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceResponse;
use crate::proto::opentelemetry::proto::collector::trace::v1::trace_service_client::TraceServiceClient;
use crate::services::ingest_log::LogError;

const ANY_PORT: &str = "127.0.0.1:0";

struct Server {
    grpc: SocketAddr,
    http: SocketAddr,
    log: Arc<MemoryLog>,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    async fn start(change: impl FnOnce(&mut DistributorOptions), limits: TenantLimits) -> Self {
        let mut options = DistributorOptions {
            otlp_grpc: Some(GrpcOptions { endpoint: ANY_PORT.to_owned(), ..GrpcOptions::default() }),
            otlp_http: Some(HttpOptions { endpoint: ANY_PORT.to_owned(), ..HttpOptions::default() }),
            ..DistributorOptions::default()
        };
        change(&mut options);
        let log = Arc::new(MemoryLog::with_partitions(1));
        let bound = distributor(options, limits, log.clone()).bind().await.unwrap();
        let (grpc, http) = (bound.receivers.grpc_address().unwrap(), bound.receivers.http_address().unwrap());
        let stop = CancellationToken::new();
        let serving = tokio::spawn(bound.serve(stop.clone()));
        Self { grpc, http, log, stop, serving }
    }

    async fn default() -> Self {
        Self::start(|_| {}, TenantLimits::default()).await
    }

    async fn multitenant() -> Self {
        Self::start(|options| options.push.multitenancy = true, TenantLimits::default()).await
    }

    /// Refuses every batch.
    async fn limited() -> Self {
        let limits = TenantLimits { rate_limit_bytes: 100, burst_size_bytes: 10, ..TenantLimits::default() };
        Self::start(|_| {}, limits).await
    }

    async fn client(&self) -> TraceServiceClient<Channel> {
        TraceServiceClient::connect(format!("http://{}", self.grpc)).await.unwrap()
    }

    async fn post(&self, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Reply {
        self.send("POST", "/v1/traces", headers, body).await
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Reply {
        let mut request = http::Request::builder().method(method).uri(format!("http://{}{path}", self.http));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let call = move || {
            let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
            let mut response = agent.run(request).unwrap();
            let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            let (media_type, retry_after) = (header("content-type"), header("retry-after"));
            Reply { status: response.status().as_u16(), media_type, retry_after, body: response.body_mut().read_to_vec().unwrap() }
        };
        tokio::task::spawn_blocking(call).await.unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        self.serving.await.unwrap().unwrap();
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    media_type: Option<String>,
    retry_after: Option<String>,
    body: Vec<u8>,
}

impl Reply {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");

fn batch(spans: usize) -> ExportTraceServiceRequest {
    let spans = (0..spans).map(|id| span(&[&[1; 8][..], &(id as u64).to_be_bytes()].concat(), &[1; 8])).collect();
    request(vec![scope_spans(Some("lib"), spans)])
}

fn json(trace_id: &str, span_id: &str) -> String {
    format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"traceId":"{trace_id}","spanId":"{span_id}","name":"n"}}]}}]}}]}}"#)
}

const TRACE_HEX: &str = "0102030405060708090a0b0c0d0e0f10";
const SPAN_HEX: &str = "0102030405060708";

#[tokio::test]
async fn grpc_takes_spans_with_every_compression() {
    let server = Server::default().await;
    let client = server.client().await;
    for client in [
        client.clone(),
        client.clone().send_compressed(CompressionEncoding::Gzip),
        client.clone().send_compressed(CompressionEncoding::Zstd),
    ] {
        let response = client.clone().export(batch(400)).await.unwrap().into_inner();
        let partial = response.partial_success.unwrap();
        assert_eq!((partial.rejected_spans, partial.error_message.as_str()), (0, ""));
    }
    assert_eq!(server.log.span_count(), 1200);
    assert!(server.client().await.export(ExportTraceServiceRequest::default()).await.is_ok());
    drop(client);
    server.end().await;
}

#[tokio::test]
async fn grpc_reports_rejected_spans() {
    let server = Server::default().await;
    let body = request(vec![scope_spans(None, vec![span(&[1; 16], &[1; 8]), span(&[1; 16], &[0; 8]), span(&[1; 2], &[1; 8])])]);
    let partial = server.client().await.export(body).await.unwrap().into_inner().partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 2);
    assert_eq!(partial.error_message, "span ids must be 64 bit and not all zero, received 0 bits");
    assert_eq!(server.log.span_count(), 1);
    let error = server.client().await.export(request(vec![scope_spans(None, vec![span(&[1; 2], &[1; 8])])])).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::InvalidArgument, "trace ids must be 128 bit, received 16 bits"));
    server.end().await;
}

#[tokio::test]
async fn grpc_refuses_large_messages() {
    let server = Server::start(|options| options.otlp_grpc.as_mut().unwrap().max_message_bytes = 2000, TenantLimits::default()).await;
    let large = batch(100);
    let error = server.client().await.export(large.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert_eq!(error.message(), format!("grpc: received message larger than max ({} vs. 2000)", large.encoded_len()));
    let error = server.client().await.send_compressed(CompressionEncoding::Zstd).export(large).await.unwrap_err();
    assert_eq!(error.message(), "grpc: received message after decompression larger than max 2000");
    assert!(server.client().await.export(batch(10)).await.is_ok());
    server.end().await;
}

#[tokio::test]
async fn grpc_rate_limit_carries_a_retry_hint() {
    let server = Server::limited().await;
    let error = server.client().await.export(batch(1)).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    let bytes = batch(1).encoded_len();
    assert_eq!(
        error.message(),
        format!(
            "RATE_LIMITED: ingestion rate limit (local: 100 bytes/s, global: 0 bytes/s, burst: 10 bytes) exceeded while adding {bytes} \
             bytes for user single-tenant. consider increasing the limit or reducing ingestion rate."
        )
    );
    let status = RpcStatus::decode(error.details()).unwrap();
    assert_eq!(status.details[0].type_url, "type.googleapis.com/google.rpc.RetryInfo");
    assert_eq!(RetryInfo::decode(status.details[0].value.as_slice()).unwrap().retry_delay.unwrap().seconds, 5);
    server.end().await;
}

#[tokio::test]
async fn grpc_tenants_come_from_metadata() {
    let server = Server::multitenant().await;
    let mut client = server.client().await;
    let with = |tenants: &[&'static str]| {
        let mut request = Request::new(batch(1));
        for tenant in tenants {
            request.metadata_mut().append("x-scope-orgid", MetadataValue::from_static(tenant));
        }
        request
    };
    let (none, two, joined, bad) = (with(&[]), with(&["a", "b"]), with(&["a|b"]), with(&["a/b"]));
    let mut good = with(&["team-a"]);
    good.metadata_mut().insert("no-generate-metrics", MetadataValue::from_static(""));
    for (request, code, message) in [
        (none, Code::Unauthenticated, "no org id"),
        (two, Code::InvalidArgument, "no org id"),
        (joined, Code::InvalidArgument, "multiple org IDs present"),
        (bad, Code::InvalidArgument, "tenant ID 'a/b' contains unsupported character '/'"),
    ] {
        let error = client.export(request).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (code, message));
    }
    client.export(good).await.unwrap();
    let records = server.log.decoded();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].1.as_str(), records[0].2.skip_metrics_generation), ("team-a", true));
    drop(client);
    server.end().await;
}

#[tokio::test]
async fn grpc_failures_of_the_log_are_unavailable() {
    let server = Server::default().await;
    *server.log.failure.lock() = Some(LogError::Full { limit: 1 });
    assert_eq!(server.client().await.export(batch(1)).await.unwrap_err().code(), Code::Unavailable);
    server.end().await;
}

#[tokio::test]
async fn grpc_refuses_what_is_no_export() {
    let server = Server::default().await;
    let channel = server.client().await;
    drop(channel);
    let reply = {
        let http = format!("http://{}/x", server.grpc);
        let call = move || {
            let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
            agent.get(http).call().unwrap().status().as_u16()
        };
        tokio::task::spawn_blocking(call).await.unwrap()
    };
    assert_eq!(reply, 415);
    let channel = Channel::from_shared(format!("http://{}", server.grpc)).unwrap().connect().await.unwrap();
    let mut other = crate::proto::tempopb::pusher_client::PusherClient::new(channel);
    assert_eq!(
        other.push_bytes(crate::model::otlp::testing::tempopb::PushBytesRequest::default()).await.unwrap_err().code(),
        Code::Unimplemented
    );
    drop(other);
    server.end().await;
}

#[tokio::test]
async fn http_answers_in_the_form_of_the_request() {
    let server = Server::default().await;
    let reply = server.post(&[PROTOBUF], batch(2).encode_to_vec()).await;
    assert_eq!((reply.status, reply.media_type.as_deref(), reply.body.as_slice()), (200, Some("application/x-protobuf"), &[0x0a, 0][..]));
    let reply = server.post(&[JSON], json(TRACE_HEX, SPAN_HEX)).await;
    assert_eq!((reply.status, reply.media_type.as_deref(), reply.text()), (200, Some("application/json"), r#"{"partialSuccess":{}}"#));
    assert_eq!(server.log.span_count(), 3);
    assert_eq!(server.log.decoded()[1].2.ids[0], (1..=16).collect::<Vec<u8>>());
    for empty in [server.post(&[PROTOBUF], "").await, server.post(&[JSON], "{}").await] {
        assert_eq!(empty.status, 200);
    }
    server.end().await;
}

#[tokio::test]
async fn http_refuses_bad_requests_with_a_status() {
    let server = Server::default().await;
    let no_span_id = r#"{"code":3,"message":"span ids must be 64 bit and not all zero, received 0 bits"}"#;
    let cases = [
        (json(TRACE_HEX, "0000000000000000"), no_span_id),
        (json(TRACE_HEX, ""), no_span_id),
        (json("", SPAN_HEX), r#"{"code":3,"message":"trace ids must be 128 bit, received 0 bits"}"#),
        (json("0102", SPAN_HEX), r#"{"code":3,"message":"traceId: invalid length, expected 32 hex digits at line 1 column "#),
        (json(TRACE_HEX, "01"), r#"{"code":3,"message":"spanId: invalid length, expected 16 hex digits at line 1 column "#),
        (
            "{\"resourceSpans\":1}".to_owned(),
            r#"{"code":3,"message":"invalid type: a number, expected an array for resourceSpans at line 1"#,
        ),
        ("{".to_owned(), r#"{"code":3,"message":"EOF while parsing an object at line 1 column 1"}"#),
    ];
    for (body, expected) in cases {
        let reply = server.post(&[JSON], body.clone()).await;
        assert_eq!(reply.status, 400, "{body}");
        assert!(reply.text().starts_with(expected), "{body}: {}", reply.text());
    }
    let reply = server.post(&[PROTOBUF], vec![0x0a, 9, 1]).await;
    let status = RpcStatus::decode(reply.body.as_slice()).unwrap();
    assert_eq!((reply.status, status.code), (400, 3));
    assert_eq!(status.message, "invalid OTLP request: protobuf: unexpected end of message");
    assert!(server.log.records.lock().is_empty());
    server.end().await;
}

#[tokio::test]
async fn http_reports_rejected_spans() {
    let server = Server::default().await;
    let body = request(vec![scope_spans(None, vec![span(&[1; 16], &[1; 8]), span(&[1; 16], &[0; 8])])]).encode_to_vec();
    let reply = server.post(&[PROTOBUF], body).await;
    let partial = ExportTraceServiceResponse::decode(reply.body.as_slice()).unwrap().partial_success.unwrap();
    assert_eq!((reply.status, partial.rejected_spans), (200, 1));
    let two = format!(
        r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"traceId":"{TRACE_HEX}","spanId":"{SPAN_HEX}"}},{{"traceId":"{TRACE_HEX}"}}]}}]}}]}}"#
    );
    let reply = server.post(&[JSON], two).await;
    let expected = r#"{"partialSuccess":{"rejectedSpans":"1","errorMessage":"span ids must be 64 bit and not all zero, received 0 bits"}}"#;
    assert_eq!((reply.status, reply.text()), (200, expected));
    assert_eq!(server.log.span_count(), 2);
    server.end().await;
}

#[tokio::test]
async fn http_takes_content_encodings() {
    let server = Server::default().await;
    let body = batch(300).encode_to_vec();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&body).unwrap();
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zlib.write_all(&body).unwrap();
    let snappy = snap::raw::Encoder::new().compress_vec(&body).unwrap();
    let encoded = [
        ("gzip", gzip.finish().unwrap()),
        ("deflate", zlib.finish().unwrap()),
        ("zstd", zstd::encode_all(&body[..], 1).unwrap()),
        ("snappy", snappy),
    ];
    for (encoding, body) in encoded {
        let reply = server.post(&[PROTOBUF, ("content-encoding", encoding)], body.clone()).await;
        assert_eq!(reply.status, 200, "{encoding}");
        let reply = server.post(&[PROTOBUF, ("content-encoding", encoding)], &body[..body.len() / 2]).await;
        assert_eq!(reply.status, 400, "{encoding}");
    }
    assert_eq!(server.log.span_count(), 1200);
    let reply = server.post(&[JSON, ("content-encoding", "lz4")], "x").await;
    assert_eq!((reply.status, reply.text()), (400, r#"{"code":3,"message":"unsupported \"Content-Encoding\": lz4"}"#));
    server.end().await;
}

#[tokio::test]
async fn http_bodies_are_limited_before_and_after_decompression() {
    let server = Server::start(|options| options.otlp_http.as_mut().unwrap().max_body_bytes = 2000, TenantLimits::default()).await;
    let large = batch(100).encode_to_vec();
    let packed = zstd::encode_all(&large[..], 1).unwrap();
    assert!(packed.len() < 2000);
    for (headers, body) in [(vec![PROTOBUF], large), (vec![PROTOBUF, ("content-encoding", "zstd")], packed)] {
        let reply = server.post(&headers, body).await;
        let status = RpcStatus::decode(reply.body.as_slice()).unwrap();
        assert_eq!((reply.status, status.code), (413, 3));
        assert_eq!(status.message, "request body too large: the limit is 2000 bytes");
    }
    server.end().await;
}

#[tokio::test]
async fn http_checks_path_method_and_media_type() {
    let server = Server::default().await;
    let reply = server.send("POST", "/v1/metrics", &[PROTOBUF], "").await;
    assert_eq!((reply.status, reply.text()), (404, "404 page not found\n"));
    let reply = server.send("GET", "/v1/traces", &[], "").await;
    assert_eq!((reply.status, reply.text()), (405, "405 method not allowed, supported: [POST]"));
    let reply = server.post(&[("content-type", "text/xml")], "").await;
    assert_eq!((reply.status, reply.text()), (415, "415 unsupported media type, supported: [application/json, application/x-protobuf]"));
    server.end().await;
}

#[tokio::test]
async fn http_rate_limit_says_when_to_retry() {
    let server = Server::limited().await;
    let reply = server.post(&[JSON], json(TRACE_HEX, SPAN_HEX)).await;
    assert_eq!((reply.status, reply.retry_after.as_deref()), (429, Some("5")));
    assert!(reply.text().starts_with(r#"{"code":8,"message":"RATE_LIMITED: ingestion rate limit (local: 100 bytes/s"#), "{}", reply.text());
    let details = r#","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"5s"}]}"#;
    assert!(reply.text().ends_with(details), "{}", reply.text());
    server.end().await;
}

#[tokio::test]
async fn http_tenants_come_from_a_header() {
    let server = Server::multitenant().await;
    let body = batch(1).encode_to_vec();
    let cases: [(&[_], u16, i32, &str); 3] = [
        (&[PROTOBUF], 401, 16, "no org id"),
        (&[PROTOBUF, ("x-scope-orgid", "a"), ("x-scope-orgid", "b")], 400, 3, "no org id"),
        (&[PROTOBUF, ("x-scope-orgid", "a|b")], 400, 3, "multiple org IDs present"),
    ];
    for (headers, status, code, message) in cases {
        let reply = server.post(headers, body.clone()).await;
        let got = RpcStatus::decode(reply.body.as_slice()).unwrap();
        assert_eq!((reply.status, got.code, got.message.as_str()), (status, code, message));
    }
    let reply = server.post(&[PROTOBUF, ("X-Scope-OrgID", "team-a"), ("no-generate-metrics", "1")], body).await;
    assert_eq!(reply.status, 200);
    let records = server.log.decoded();
    assert_eq!((records.len(), records[0].1.as_str(), records[0].2.skip_metrics_generation), (1, "team-a", true));
    server.end().await;
}

#[tokio::test]
async fn exhausted_memory_is_retryable() {
    let server = Server::start(|options| options.max_in_flight_bytes = 1000, TenantLimits::default()).await;
    let reply = server.post(&[PROTOBUF], batch(30).encode_to_vec()).await;
    let status = RpcStatus::decode(reply.body.as_slice()).unwrap();
    assert_eq!((reply.status, status.code), (503, 14));
    assert_eq!(server.client().await.export(batch(30)).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.post(&[PROTOBUF], batch(1).encode_to_vec()).await.status, 200);
    server.end().await;
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_line() {
    let taken = TcpListener::bind(ANY_PORT).await.unwrap();
    let endpoint = taken.local_addr().unwrap().to_string();
    let options = DistributorOptions {
        otlp_grpc: Some(GrpcOptions { endpoint: endpoint.clone(), ..GrpcOptions::default() }),
        ..DistributorOptions::default()
    };
    let bound = distributor(options, TenantLimits::default(), Arc::new(MemoryLog::with_partitions(1))).bind().await;
    let Err(error) = bound else { panic!("port was free") };
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot listen on {endpoint} for otlp grpc: Address already in use")), "{text}");
    assert!(!text.contains('\n'));
}

#[tokio::test]
async fn requests_in_flight_end_after_a_stop() {
    let limits = TenantLimits { artificial_delay: Some(Duration::from_millis(300)), ..TenantLimits::default() };
    let server = Server::start(|_| {}, limits).await;
    let (log, stop) = (Arc::clone(&server.log), server.stop.clone());
    let mut client = server.client().await;
    let call = tokio::spawn(async move { client.export(batch(1)).await });
    while log.records.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    assert!(call.await.unwrap().is_ok());
    server.end().await;
}
