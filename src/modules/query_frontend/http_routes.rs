//! The routes of the query API and what all requests have in common: tenants, deny list, time limit, metrics, log line, compression.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{any, post};
use http::request::Parts as RequestParts;
use http::{HeaderMap, HeaderValue, StatusCode};
use tracing::{info, warn};

use super::limits::limits_of_all;
use super::metrics::{Operation, QueryRecord, ServiceLevel};
use super::metrics_params::{MetricsApi, MetricsParams};
use super::params::{ParamError, Params};
use super::request::{SearchParams, SpanFilterParams, TagValuesParams, TagsParams, TraceParams, check_query_size};
use super::respond::{Answer, Format, accepts_gzip};
use super::tags::TagApi;
use super::trace_by_id::{TraceApi, TraceQuery, check_mode};
use super::{QueryFrontend, Reply, tenancy};
use crate::base::error_class::ErrorClass;
use crate::model::ids::TenantId;
use crate::services::rpc::search::Inspection;
use crate::services::rpc::status::CallError;
use crate::traceql::engine::Plan;

/// Tells how many jobs were given up because their block is broken. Our own; the answer carries `X-Tempo-Truncated` as well.
const SKIPPED_JOBS_HEADER: &str = "x-tempo-skipped-jobs";

/// Paths of the query API, for listings.
pub const PATHS: [&str; 12] = [
    "/api/echo",
    "/api/traces/{traceID}",
    "/api/v2/traces/{traceID}",
    "/api/v2/traces/diff",
    "/api/search",
    "/api/search/tags",
    "/api/v2/search/tags",
    "/api/search/tag/{tagName}/values",
    "/api/v2/search/tag/{tagName}/values",
    "/api/metrics/query_range",
    "/api/metrics/query",
    "/api/traceql/complete",
];

/// Returns the routes of the query API under `prefix` (`http_api_prefix`, may be empty). Routes take any method (http-api §1).
pub fn router(frontend: Arc<QueryFrontend>, prefix: &str) -> Router {
    let path = |route: &str| format!("{}{route}", prefix.trim_end_matches('/'));
    Router::new()
        .route(&path("/api/echo"), any(|| async { "echo\n" }))
        .route(&path("/api/traces/{trace_id}"), any(trace_v1))
        .route(&path("/api/v2/traces/diff"), any(trace_diff))
        .route(&path("/api/v2/traces/{trace_id}"), any(trace_v2))
        .route(&path("/api/search"), any(search))
        .route(&path("/api/search/tags"), any(tag_names_v1))
        .route(&path("/api/v2/search/tags"), any(tag_names_v2))
        .route(&path("/api/search/tag/{*name_and_values}"), any(tag_values_v1))
        .route(&path("/api/v2/search/tag/{*name_and_values}"), any(tag_values_v2))
        .route(&path("/api/metrics/query_range"), any(metrics_range))
        .route(&path("/api/metrics/query"), any(metrics_instant))
        .route(&path("/api/traceql/complete"), post(complete_query))
        .with_state(frontend)
}

type Frontend = State<Arc<QueryFrontend>>;

async fn trace_v1(State(frontend): Frontend, Path(id): Path<String>, request: Request) -> Response {
    let call = Call::new(frontend, Operation::Traces, request);
    call.run(async |call, tenants| call.trace(tenants, TraceApi::V1, &id).await).await
}

async fn trace_v2(State(frontend): Frontend, Path(id): Path<String>, request: Request) -> Response {
    let call = Call::new(frontend, Operation::Traces, request);
    call.run(async |call, tenants| call.trace(tenants, TraceApi::V2, &id).await).await
}

async fn search(State(frontend): Frontend, request: Request) -> Response {
    let call = Call::new(frontend, Operation::Search, request);
    call.run(async |call, tenants| {
        let limits = limits_of_all(&call.frontend.limits, tenants);
        let params = SearchParams::parse(&call.params, &call.frontend.request_limits(limits), call.now()).map_err(invalid)?;
        call.frontend.search(tenants, limits, params, call.format()).await
    })
    .await
}

async fn tag_names_v1(State(frontend): Frontend, request: Request) -> Response {
    Call::new(frontend, Operation::Metadata, request).run(async |call, tenants| call.tag_names(tenants, TagApi::V1).await).await
}

async fn tag_names_v2(State(frontend): Frontend, request: Request) -> Response {
    Call::new(frontend, Operation::Metadata, request).run(async |call, tenants| call.tag_names(tenants, TagApi::V2).await).await
}

async fn tag_values_v1(State(frontend): Frontend, Path(rest): Path<String>, request: Request) -> Response {
    Call::new(frontend, Operation::Metadata, request).run(async |call, tenants| call.tag_values(tenants, TagApi::V1, &rest).await).await
}

async fn tag_values_v2(State(frontend): Frontend, Path(rest): Path<String>, request: Request) -> Response {
    Call::new(frontend, Operation::Metadata, request).run(async |call, tenants| call.tag_values(tenants, TagApi::V2, &rest).await).await
}

async fn metrics_range(State(frontend): Frontend, request: Request) -> Response {
    let call = Call::new(frontend, Operation::Metrics, request);
    call.run(async |call, tenants| call.metrics(tenants, MetricsApi::Range).await).await
}

async fn metrics_instant(State(frontend): Frontend, request: Request) -> Response {
    let call = Call::new(frontend, Operation::Metrics, request);
    call.run(async |call, tenants| call.metrics(tenants, MetricsApi::Instant).await).await
}

async fn complete_query(State(frontend): Frontend, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let call = Call::new(frontend, Operation::Metadata, Request::from_parts(head, Body::empty()));
    call.run(async |call, _tenants| call.frontend.complete(body).await).await
}

async fn trace_diff(State(frontend): Frontend, request: Request) -> Response {
    Call::new(frontend, Operation::Traces, request).run(async |_, _| Err(unsupported("comparing traces is not supported yet"))).await
}

fn unsupported(text: &str) -> CallError {
    CallError::new(ErrorClass::Unsupported, text)
}

fn invalid(error: ParamError) -> CallError {
    CallError::new(ErrorClass::Invalid, error.0)
}

/// One request on its way through the frontend.
struct Call {
    frontend: Arc<QueryFrontend>,
    operation: Operation,
    request: RequestParts,
    params: Params,
    started: Instant,
}

impl Call {
    fn new(frontend: Arc<QueryFrontend>, operation: Operation, request: Request) -> Self {
        // The body is never read: parameters come from the query string whatever the method.
        let (request, _body) = request.into_parts();
        let params = Params::parse(request.uri.query());
        Self { frontend, operation, request, params, started: Instant::now() }
    }

    fn now(&self) -> u64 {
        self.frontend.clock.now_unix_seconds()
    }

    fn headers(&self) -> &HeaderMap {
        &self.request.headers
    }

    fn format(&self) -> Format {
        Format::of_request(self.headers())
    }

    /// Runs `answer` for the request's tenants and turns the outcome into a response, counted and logged.
    async fn run(self, answer: impl AsyncFnOnce(&Self, &[TenantId]) -> Result<Reply, CallError>) -> Response {
        let tenants = self.frontend.tenancy.of_query(self.headers());
        let label = tenants.as_ref().map(|tenants| tenancy::joined(tenants)).unwrap_or_default();
        let mut watch = Watch { call: &self, tenant: &label, is_done: false };
        let outcome = match &tenants {
            Ok(tenants) => self.within_time(answer(&self, tenants)).await,
            Err(error) => Err(error.clone()),
        };
        let (reply, error) = match outcome {
            Ok(reply) => (reply, None),
            Err(error) => (Reply { answer: Answer::error(&error), inspection: Inspection::default(), jobs: 0 }, Some(error)),
        };
        watch.is_done = true;
        self.record(&label, &reply, error.as_ref());
        let Reply { answer, inspection, .. } = reply;
        let is_partial = inspection.skipped_jobs > 0;
        let mut response = self.respond(Answer { truncated: answer.truncated || is_partial, ..answer }).await;
        if is_partial {
            response.headers_mut().insert(SKIPPED_JOBS_HEADER, HeaderValue::from(inspection.skipped_jobs));
        }
        response
    }

    async fn within_time(&self, work: impl Future<Output = Result<Reply, CallError>>) -> Result<Reply, CallError> {
        self.check_deny_list()?;
        match self.frontend.config.api_timeout.positive() {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_elapsed| {
                Err(CallError::new(ErrorClass::Unavailable, "unable to process request in the configured timeout"))
            }),
        }
    }

    fn check_deny_list(&self) -> Result<(), CallError> {
        let url = self.request.uri.to_string();
        if self.frontend.denied_urls.iter().any(|pattern| pattern.is_match(&url)) {
            let text = format!(
                "Invalid request {url}. This query has been identified as one that destabilizes our system. Contact your system administrator for more information"
            );
            return Err(CallError::new(ErrorClass::Invalid, text));
        }
        Ok(())
    }

    async fn trace(&self, tenants: &[TenantId], api: TraceApi, id: &str) -> Result<Reply, CallError> {
        let limits = limits_of_all(&self.frontend.limits, tenants);
        check_query_size(&self.params, &self.frontend.request_limits(limits)).map_err(invalid)?;
        let params = TraceParams::parse(id, &self.params).map_err(invalid)?;
        check_mode(&params)?;
        let filter = match api {
            TraceApi::V1 => None,
            TraceApi::V2 => SpanFilterParams::parse(&self.params).map_err(invalid)?,
        };
        let filter = match filter {
            None => None,
            Some(filter) => {
                let query = crate::traceql::compile(&filter.query)
                    .map_err(|error| CallError::new(ErrorClass::Invalid, format!("invalid TraceQL query: {error}")))?;
                let plan = Plan::new(&query).map_err(|error| CallError::from_chain(error.class(), &error))?;
                Some((filter, plan))
            }
        };
        self.frontend.trace_by_id(tenants, limits, TraceQuery { api, format: self.format(), params, filter }).await
    }

    async fn metrics(&self, tenants: &[TenantId], api: MetricsApi) -> Result<Reply, CallError> {
        let frontend = &self.frontend;
        let limits = limits_of_all(&frontend.limits, tenants);
        let now = frontend.clock.now_unix_nanos();
        let params = MetricsParams::parse(api, &self.params, &frontend.request_limits(limits), &frontend.metrics_limits(limits), now)
            .map_err(invalid)?;
        frontend.metrics(tenants, api, params, self.format()).await
    }

    async fn tag_names(&self, tenants: &[TenantId], api: TagApi) -> Result<Reply, CallError> {
        let limits = limits_of_all(&self.frontend.limits, tenants);
        let params = TagsParams::parse(&self.params, &self.frontend.request_limits(limits), self.now()).map_err(invalid)?;
        self.frontend.tag_names(tenants, limits, api, params, self.format()).await
    }

    /// `rest` is the path behind `/tag/`, decoded once; tag names may hold slashes.
    async fn tag_values(&self, tenants: &[TenantId], api: TagApi, rest: &str) -> Result<Reply, CallError> {
        let Some(name) = rest.strip_suffix("/values") else {
            return Err(CallError::new(ErrorClass::NotFound, "404 page not found\n"));
        };
        let limits = limits_of_all(&self.frontend.limits, tenants);
        let params = TagValuesParams::parse(name, &self.params, &self.frontend.request_limits(limits), self.now()).map_err(invalid)?;
        self.frontend.tag_values(tenants, limits, api, params, self.format()).await
    }

    fn record(&self, tenant: &str, reply: &Reply, error: Option<&CallError>) {
        let status = reply.answer.status;
        let elapsed = self.started.elapsed();
        QueryRecord {
            operation: self.operation,
            elapsed,
            inspected_bytes: reply.inspection.bytes,
            jobs: reply.jobs,
            is_canceled: false,
            is_server_error: status.is_server_error(),
            level: self.level(),
        }
        .publish(tenant);
        let (op, url, status) = (self.operation.as_str(), self.request.uri.to_string(), status.as_u16());
        let millis = elapsed.as_millis() as u64;
        match error {
            Some(error) if StatusCode::from_u16(status).is_ok_and(|status| status.is_server_error()) => {
                warn!(tenant, op, url, status, millis, error = %error, "query failed");
            }
            _ => info!(
                tenant,
                op,
                url,
                status,
                millis,
                inspected_bytes = reply.inspection.bytes,
                inspected_traces = reply.inspection.traces,
                inspected_spans = reply.inspection.spans,
                jobs = reply.jobs,
                response_bytes = reply.answer.body.len(),
                "query answered"
            ),
        }
    }

    fn level(&self) -> ServiceLevel {
        let config = &self.frontend.config;
        let (duration, bytes_per_second) = match self.operation {
            Operation::Traces => (config.trace_by_id.duration_slo, config.trace_by_id.throughput_bytes_slo),
            Operation::Search => (config.search.duration_slo, config.search.throughput_bytes_slo),
            Operation::Metadata => (config.search.metadata_slo.duration_slo, config.search.metadata_slo.throughput_bytes_slo),
            Operation::Metrics => (config.metrics.duration_slo, config.metrics.throughput_bytes_slo),
        };
        ServiceLevel { duration: duration.positive(), bytes_per_second }
    }

    async fn respond(&self, answer: Answer) -> Response {
        let gzip = accepts_gzip(self.headers());
        if !answer.needs_compression(gzip) {
            return answer.into_encoded(false).into_response();
        }
        match self.frontend.on_cpu("compress_answer", move || answer.into_encoded(true)).await {
            Ok(encoded) => encoded.into_response(),
            Err(error) => Answer::error(&error).into_encoded(false).into_response(),
        }
    }
}

/// Counts a query whose client left before it was answered.
struct Watch<'a> {
    call: &'a Call,
    tenant: &'a str,
    is_done: bool,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let elapsed: Duration = self.call.started.elapsed();
        let record = QueryRecord {
            operation: self.call.operation,
            elapsed,
            inspected_bytes: 0,
            jobs: 0,
            is_canceled: true,
            is_server_error: false,
            level: ServiceLevel::default(),
        };
        record.publish(self.tenant);
        info!(tenant = self.tenant, op = self.call.operation.as_str(), url = %self.call.request.uri, "query canceled by its client");
    }
}
