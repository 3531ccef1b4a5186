//! What goes wrong between a process and its store: [`FaultyFront`] answers chosen requests itself, [`Toxiproxy`] disturbs connections.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde_json::json;

use crate::parts;
use crate::process::free_port;
use crate::wait::{SOON, eventually};

/// Largest body passed on.
const MAX_BODY_BYTES: usize = 256 << 20;

/// A request as it came to the front.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Answered with this status; the store does not see it.
    Status(u16),
    /// The store does it, and the answer is lost: 503 instead.
    LostAnswer,
    /// The answer ends in the middle of its body.
    Truncated,
    /// There is never an answer.
    Silence,
}

type Rule = Box<dyn Fn(&Seen) -> Option<Fault> + Send + Sync>;

/// An HTTP server before a store that passes requests on unless its rule says otherwise, and remembers them.
pub(crate) struct FaultyFront {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

struct Shared {
    store_port: u16,
    client: reqwest::Client,
    rule: Mutex<Rule>,
    seen: Mutex<Vec<Seen>>,
    faults: AtomicUsize,
}

impl FaultyFront {
    pub(crate) fn start(store_port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let port = free_port();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let (rule, seen): (Rule, _) = (Box::new(|_| None), Mutex::default());
        let shared = Arc::new(Shared { store_port, client, rule: Mutex::new(rule), seen, faults: AtomicUsize::new(0) });
        let app = Router::new().fallback(handle).with_state(Arc::clone(&shared));
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", port))).unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { port, shared, _runtime: runtime }
    }

    /// From now on `rule` decides about each request.
    pub(crate) fn rule(&self, rule: impl Fn(&Seen) -> Option<Fault> + Send + Sync + 'static) {
        *self.shared.rule.lock() = Box::new(rule);
    }

    pub(crate) fn heal(&self) {
        self.rule(|_| None);
    }

    /// Requests so far, in the order they came.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }

    /// Requests that a rule did something to.
    pub(crate) fn faults(&self) -> usize {
        self.shared.faults.load(Ordering::Relaxed)
    }
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let seen = Seen { method: head.method, target, headers: head.headers };
    let fault = (shared.rule.lock())(&seen);
    shared.seen.lock().push(seen.clone());
    // Read in any case: who answers before the body is taken resets the connection.
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else { return StatusCode::BAD_REQUEST.into_response() };
    if fault.is_some() {
        shared.faults.fetch_add(1, Ordering::Relaxed);
    }
    if let Some(Fault::Status(status)) = fault {
        return (StatusCode::from_u16(status).unwrap(), "<Error><Code>SlowDown</Code></Error>").into_response();
    }
    if fault == Some(Fault::Silence) {
        std::future::pending::<()>().await;
    }
    let url = format!("http://127.0.0.1:{}{}", shared.store_port, seen.target);
    let mut headers = seen.headers;
    headers.remove(header::TRANSFER_ENCODING);
    let answer = match shared.client.request(seen.method, url).headers(headers).body(body).send().await {
        Ok(answer) => answer,
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    if fault == Some(Fault::LostAnswer) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let (status, headers) = (answer.status(), answer.headers().clone());
    let content = answer.bytes().await.unwrap_or_default();
    let body = if fault == Some(Fault::Truncated) {
        let half = content.slice(..content.len() / 2);
        let parts = [Ok(half), Err(std::io::Error::other("cut off"))];
        Body::from_stream(futures::stream::iter(parts))
    } else {
        Body::from(content)
    };
    let mut response = Response::new(body);
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    response.headers_mut().remove(header::TRANSFER_ENCODING);
    response.headers_mut().remove(header::CONNECTION);
    response
}

/// A TCP proxy before a store whose connections can be disturbed.
pub(crate) struct Toxiproxy {
    /// Where the store is reached by way of the proxy.
    pub(crate) port: u16,
    control: String,
    agent: ureq::Agent,
    process: Child,
}

impl Toxiproxy {
    pub(crate) fn start(store_port: u16) -> Self {
        let (port, control_port) = (free_port(), free_port());
        let process = Command::new(parts::toxiproxy())
            .args(["-host", "127.0.0.1", "-port", &control_port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let agent = ureq::Agent::config_builder().proxy(None).build().into();
        let proxy = Self { port, control: format!("http://127.0.0.1:{control_port}"), agent, process };
        eventually("toxiproxy listens", SOON, || TcpStream::connect(("127.0.0.1", control_port)).is_ok());
        let (listen, upstream) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{store_port}"));
        proxy.post("/proxies", &json!({"name": "store", "listen": listen, "upstream": upstream, "enabled": true}));
        proxy
    }

    /// Adds a toxic, for what comes from the store or goes to it.
    pub(crate) fn add(&self, kind: &str, stream: &str, attributes: &serde_json::Value) {
        self.post("/proxies/store/toxics", &json!({"type": kind, "stream": stream, "toxicity": 1.0, "attributes": attributes}));
    }

    /// Cuts all connections and refuses new ones, or takes them again.
    pub(crate) fn set_enabled(&self, is_enabled: bool) {
        self.post("/proxies/store", &json!({"enabled": is_enabled}));
    }

    /// Removes all toxics and takes connections.
    pub(crate) fn heal(&self) {
        self.post("/reset", &json!({}));
    }

    fn post(&self, path: &str, body: &serde_json::Value) {
        self.agent.post(format!("{}{path}", self.control)).send_json(body).unwrap_or_else(|error| panic!("toxiproxy {path}: {error}"));
    }
}

impl Drop for Toxiproxy {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _ended = self.process.wait();
    }
}
