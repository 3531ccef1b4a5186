//! Talks to a process: pushes by OTLP over HTTP and gRPC, asks the query API.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use prost::Message;
use serde_json::Value;
use tempo_rs::proto::opentelemetry::proto::collector::trace::v1::trace_service_client::TraceServiceClient;
use tempo_rs::proto::opentelemetry::proto::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use tempo_rs::proto::tempopb::trace::v1::ResourceSpans;
use tonic::codec::CompressionEncoding;
use tonic::transport::Endpoint;

use crate::otlp::{self, Spans};

/// Limit of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest answer read.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

pub(crate) const PROTOBUF: &str = "application/x-protobuf";
pub(crate) const JSON: &str = "application/json";

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    /// The header `Retry-After`.
    pub(crate) retry_after: Option<String>,
    /// The header `X-Tempo-Skipped-Jobs`.
    pub(crate) skipped_jobs: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; fails unless the status is 200.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The body as a protobuf message; fails unless the status is 200.
    pub(crate) fn message<M: Message + Default>(&self) -> M {
        assert_eq!(self.status, 200, "{}", self.text());
        M::decode(&*self.body).unwrap()
    }
}

/// Sends requests to one process, optionally for a tenant.
#[derive(Clone)]
pub(crate) struct Client {
    agent: ureq::Agent,
    http: String,
    otlp_http: String,
    otlp_grpc: String,
    tenant: Option<String>,
}

impl Client {
    pub(crate) fn new(http: u16, otlp_http: u16, otlp_grpc: u16) -> Self {
        Self {
            agent: agent(REQUEST_TIMEOUT),
            http: format!("http://127.0.0.1:{http}"),
            otlp_http: format!("http://127.0.0.1:{otlp_http}"),
            otlp_grpc: format!("http://127.0.0.1:{otlp_grpc}"),
            tenant: None,
        }
    }

    /// The same client with `X-Scope-OrgID`.
    pub(crate) fn tenant(&self, tenant: &str) -> Self {
        Self { tenant: Some(tenant.to_owned()), ..self.clone() }
    }

    /// The same client with another limit of one request.
    pub(crate) fn with_timeout(&self, timeout: Duration) -> Self {
        Self { agent: agent(timeout), ..self.clone() }
    }

    /// Address of the OTLP/HTTP receiver, for other clients.
    pub(crate) fn otlp_http_url(&self) -> &str {
        &self.otlp_http
    }

    /// Address of the OTLP/gRPC receiver, for other clients.
    pub(crate) fn otlp_grpc_url(&self) -> &str {
        &self.otlp_grpc
    }

    /// `None` when nobody answers.
    pub(crate) fn try_get(&self, path: &str) -> Option<Answer> {
        self.send_get(path, None).ok()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send_get(path, None).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    pub(crate) fn get_protobuf(&self, path: &str) -> Answer {
        self.send_get(path, Some("application/protobuf")).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// GET with query parameters.
    pub(crate) fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Answer {
        let query: Vec<_> =
            parameters.iter().map(|(key, value)| format!("{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))).collect();
        self.get(&format!("{path}?{}", query.join("&")))
    }

    fn send_get(&self, path: &str, accept: Option<&str>) -> Result<Answer, ureq::Error> {
        let mut request = self.agent.get(format!("{}{path}", self.http));
        if let Some(accept) = accept {
            request = request.header("Accept", accept);
        }
        if let Some(tenant) = &self.tenant {
            request = request.header("X-Scope-OrgID", tenant);
        }
        read(request.call()?)
    }

    /// POST to the OTLP/HTTP receiver. The error is one of the connection.
    pub(crate) fn try_post_traces(&self, content_type: &str, encoding: Option<&str>, body: &[u8]) -> Result<Answer, ureq::Error> {
        let mut request = self.agent.post(format!("{}/v1/traces", self.otlp_http)).header("Content-Type", content_type);
        if let Some(encoding) = encoding {
            request = request.header("Content-Encoding", encoding);
        }
        if let Some(tenant) = &self.tenant {
            request = request.header("X-Scope-OrgID", tenant);
        }
        read(request.send(body)?)
    }

    pub(crate) fn post_traces(&self, content_type: &str, encoding: Option<&str>, body: &[u8]) -> Answer {
        self.try_post_traces(content_type, encoding, body).unwrap_or_else(|error| panic!("POST /v1/traces: {error}"))
    }

    /// Pushes as protobuf over HTTP; fails unless everything is taken.
    pub(crate) fn push(&self, batches: &[ResourceSpans]) {
        let answer = self.post_traces(PROTOBUF, None, &otlp::encode(batches));
        let accepted: ExportTraceServiceResponse = answer.message();
        assert_eq!(accepted.partial_success.unwrap_or_default().rejected_spans, 0);
    }

    /// Pushes over gRPC.
    pub(crate) fn push_grpc(
        &self,
        batches: Vec<ResourceSpans>,
        encoding: Option<CompressionEncoding>,
    ) -> Result<ExportTraceServiceResponse, tonic::Status> {
        let mut request = tonic::Request::new(ExportTraceServiceRequest { resource_spans: batches });
        if let Some(tenant) = &self.tenant {
            request.metadata_mut().insert("x-scope-orgid", tenant.parse().unwrap());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let channel = Endpoint::new(self.otlp_grpc.clone()).unwrap().timeout(REQUEST_TIMEOUT).connect().await.unwrap();
            let mut client = TraceServiceClient::new(channel);
            if let Some(encoding) = encoding {
                client = client.send_compressed(encoding);
            }
            client.export(request).await.map(tonic::Response::into_inner)
        })
    }

    /// The trace with this id from the second version of the endpoint; no spans when it is not there.
    pub(crate) fn trace(&self, id: &[u8]) -> Spans {
        let answer = self.get(&format!("/api/v2/traces/{}", otlp::hex(id))).json();
        otlp::canonical(answer.get("trace").unwrap_or_else(|| panic!("no trace in {answer}")))
    }

    /// The sum of a metric's series whose labels begin with `labels`, such as `{tenant="a"`.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> f64 {
        let series = format!("{name}{labels}");
        let text = self.get("/metrics").text();
        let is_wanted =
            |line: &&str| line.strip_prefix(&series).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'));
        text.lines().filter(is_wanted).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Ids of the traces that `GET /api/search` finds.
    pub(crate) fn search(&self, parameters: &[(&str, &str)]) -> Vec<String> {
        let answer = self.ask("/api/search", parameters).json();
        let traces = answer["traces"].as_array().unwrap_or_else(|| panic!("no traces in {answer}"));
        // Leading zeros are left out.
        traces.iter().map(|trace| format!("{:0>32}", trace["traceID"].as_str().unwrap())).collect()
    }
}

fn agent(timeout: Duration) -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(timeout)).proxy(None).build().into()
}

fn read(response: http::Response<ureq::Body>) -> Result<Answer, ureq::Error> {
    let (head, mut body) = response.into_parts();
    let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    Ok(Answer {
        status: head.status.as_u16(),
        content_type: header("content-type").unwrap_or_default(),
        retry_after: header("retry-after"),
        skipped_jobs: header("x-tempo-skipped-jobs"),
        body: body.with_config().limit(MAX_ANSWER_BYTES).read_to_vec()?,
    })
}
