//! Endpoints for operators, the same in every target: readiness, status, build info, metrics (config §6.6, §7; http-api §11).

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Path, Query, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};

use super::lifecycle::{State, States};
use crate::base::text_table::text_table;

/// A check beyond "all services run"; returns why the module is not ready.
pub(super) type ReadyCheck = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// Returns the configuration as YAML for a value of `mode`, or the text of the error.
pub(super) type RenderConfig = Box<dyn Fn(Option<&str>) -> Result<String, String> + Send + Sync>;

/// What the endpoints show.
pub(super) struct Ops {
    pub(super) states: States,
    pub(super) is_stopping: AtomicBool,
    pub(super) ready_checks: Vec<ReadyCheck>,
    /// Paths that modules serve, for `/status/endpoints`.
    pub(super) endpoints: Vec<String>,
    pub(super) render_config: RenderConfig,
    pub(super) render_limits: RenderConfig,
    pub(super) metrics: PrometheusHandle,
}

/// Paths of this module, for `/status/endpoints`.
pub(super) const ENDPOINTS: [&str; 5] = ["/ready", "/metrics", "/status", "/status/{endpoint}", "/api/status/buildinfo"];

/// Routes for operators; `api_prefix` is `http_api_prefix`.
pub(super) fn router(ops: Arc<Ops>, api_prefix: &str) -> Router {
    Router::new()
        .route("/ready", any(ready))
        .route("/metrics", any(metrics))
        .route("/status", get(status))
        .route("/status/{endpoint}", get(status_part))
        .route(&format!("{}/api/status/buildinfo", api_prefix.trim_end_matches('/')), get(build_info))
        .fallback(not_found)
        .with_state(ops)
}

impl Ops {
    /// Why the process is not ready; `None` when it is.
    fn unready(&self) -> Option<String> {
        if self.is_stopping.load(Ordering::Relaxed) {
            return Some("Application is stopping".to_owned());
        }
        let states = self.states.list();
        let mut text = String::new();
        for state in [State::New, State::Starting, State::Stopping, State::Terminated, State::Failed] {
            let count = states.iter().filter(|(_, own, _)| *own == state).count();
            if count > 0 {
                let _infallible = write!(text, "\n{state}: {count}");
            }
        }
        if !text.is_empty() {
            return Some(format!("Some services are not Running:{text}"));
        }
        self.ready_checks.iter().find_map(|check| check())
    }

    /// Whether gRPC health says SERVING.
    pub(super) fn is_serving(&self) -> bool {
        let states = self.states.list();
        let is = |wanted: &[State]| states.iter().any(|(_, state, _)| wanted.contains(state));
        !self.is_stopping.load(Ordering::Relaxed)
            && !is(&[State::New, State::Starting, State::Failed])
            && is(&[State::Running, State::Stopping])
    }
}

async fn ready(Shared(ops): Shared<Arc<Ops>>) -> Response {
    match ops.unready() {
        None => text(StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn metrics(Shared(ops): Shared<Arc<Ops>>) -> Response {
    let body = ops.metrics.render() + &process_metrics();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], body).into_response()
}

#[derive(Deserialize)]
struct Mode {
    mode: Option<String>,
}

const STATUS_PARTS: [&str; 5] = ["version", "services", "endpoints", "runtime_config", "config"];

async fn status(Shared(ops): Shared<Arc<Ops>>, Query(mode): Query<Mode>) -> Response {
    let parts: Result<Vec<_>, _> = STATUS_PARTS.iter().filter_map(|part| render(&ops, part, mode.mode.as_deref())).collect();
    respond(parts.map(|parts| parts.concat()))
}

async fn status_part(Shared(ops): Shared<Arc<Ops>>, Path(part): Path<String>, Query(mode): Query<Mode>) -> Response {
    match render(&ops, &part, mode.mode.as_deref()) {
        Some(rendered) => respond(rendered),
        None => not_found().await,
    }
}

fn respond(rendered: Result<String, String>) -> Response {
    match rendered {
        Ok(body) => text(StatusCode::OK, body),
        Err(problem) => text(StatusCode::INTERNAL_SERVER_ERROR, problem),
    }
}

/// Renders a part of `/status`; `None` when there is no such part.
fn render(ops: &Ops, part: &str, mode: Option<&str>) -> Option<Result<String, String>> {
    let body = match part {
        "version" => Ok(format!("{}\n", super::version_text())),
        "services" => Ok(services_table(&ops.states)),
        "endpoints" => Ok(endpoints_table(&ops.endpoints)),
        "runtime_config" => (ops.render_limits)(mode),
        "config" => (ops.render_config)(mode),
        _ => return None,
    };
    Some(body.map(|body| format!("GET /status/{part}\n{body}\n")))
}

fn services_table(states: &States) -> String {
    let rows = states.list().into_iter().map(|(name, state, failure)| [name.to_owned(), state.to_string(), failure.unwrap_or_default()]);
    text_table(["SERVICE NAME", "STATUS", "FAILURE CASE"], rows.collect())
}

fn endpoints_table(endpoints: &[String]) -> String {
    let mut paths = endpoints.to_vec();
    paths.sort();
    let rows = paths.into_iter().map(|path| {
        let regex =
            format!("^{}$", path.split('/').map(|part| if part.starts_with('{') { "([^/]+)" } else { part }).collect::<Vec<_>>().join("/"));
        [path, regex]
    });
    text_table(["NAME", "REGEX"], rows.collect()) + "\nAPI documentation: https://grafana.com/docs/tempo/latest/api_docs\n"
}

#[derive(Serialize)]
struct BuildInfo {
    version: &'static str,
    revision: &'static str,
    branch: &'static str,
    #[serde(rename = "buildUser")]
    build_user: &'static str,
    #[serde(rename = "buildDate")]
    build_date: &'static str,
    #[serde(rename = "goVersion")]
    go_version: &'static str,
}

/// Grafana reads from the version which features it may use; the part behind `+` is ours.
const COMPATIBLE_VERSION: &str = concat!("3.1.0+tempo-rs.", env!("CARGO_PKG_VERSION"));

async fn build_info() -> axum::Json<BuildInfo> {
    axum::Json(BuildInfo { version: COMPATIBLE_VERSION, revision: "", branch: "", build_user: "", build_date: "", go_version: "" })
}

async fn not_found() -> Response {
    let mut response = text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned());
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    response
}

fn text(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

/// The usual process metrics, read from `/proc`; empty where there is none.
fn process_metrics() -> String {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let status = read("status");
    let kib = |key: &str| -> Option<u64> { status.lines().find_map(|line| line.strip_prefix(key)?.trim().split(' ').next()?.parse().ok()) };
    let mut out = String::new();
    if let Some(resident) = kib("VmRSS:") {
        let _infallible = writeln!(out, "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {}", resident * 1024);
    }
    // Fields 14 and 15 of stat, counted behind the parenthesised command name, are user and system time in ticks of 10 ms.
    let stat = read("stat");
    let ticks: Option<u64> =
        stat.rsplit(')').next().map(|rest| rest.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum());
    if let Some(ticks) = ticks {
        let _infallible = writeln!(out, "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {}", ticks as f64 / 100.0);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        let _infallible = writeln!(out, "# TYPE process_open_fds gauge\nprocess_open_fds {}", files.count());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_patterns() {
        assert!(endpoints_table(&["/api/traces/{id}".to_owned()]).contains("^/api/traces/([^/]+)$"));
    }
}
