//! Receivers: listeners of their own, one per protocol, in front of the push path.
//!
//! OTLP only so far. gRPC is framed here rather than by a generated service: the message stays bytes, decompression happens off the reactor,
//! and memory is taken from the budget as it arrives.

mod answer;
mod body;
mod decompress;
mod otlp_grpc;
mod otlp_http;
mod server;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::model::ids::TenantId;

use super::error::PushError;
use super::options::DistributorOptions;
use super::push::Pusher;
use otlp_grpc::OtlpGrpc;
use otlp_http::OtlpHttp;

/// Time that requests in flight get to end after a stop.
pub const DRAIN_BUDGET: Duration = Duration::from_secs(30);

/// Longest time for receiving a body; its memory is held meanwhile.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Names the tenant.
const TENANT_HEADER: &str = "x-scope-orgid";
/// Present with any value: no metrics are to be made from these spans.
const SKIP_METRICS_HEADER: &str = "no-generate-metrics";

/// A listener that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {endpoint} for {receiver}: {cause}")]
pub struct BindError {
    pub receiver: &'static str,
    pub endpoint: String,
    cause: io::Error,
}

/// A listener that failed while serving.
#[derive(Debug, thiserror::Error)]
#[error("listener {receiver} failed: {cause}")]
pub struct ServeError {
    receiver: &'static str,
    cause: io::Error,
}

/// Open listeners.
pub struct Receivers {
    grpc: Option<(TcpListener, OtlpGrpc)>,
    http: Option<(TcpListener, OtlpHttp)>,
}

impl Receivers {
    pub(super) async fn bind(options: &DistributorOptions, pusher: Arc<Pusher>) -> Result<Self, BindError> {
        let grpc = match &options.otlp_grpc {
            Some(options) => Some((listen("otlp grpc", &options.endpoint).await?, OtlpGrpc::new(options.clone(), Arc::clone(&pusher)))),
            None => None,
        };
        let http = match &options.otlp_http {
            Some(options) => Some((listen("otlp http", &options.endpoint).await?, OtlpHttp::new(options.clone(), pusher))),
            None => None,
        };
        Ok(Self { grpc, http })
    }

    /// Where OTLP/gRPC is served.
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.grpc.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// Where OTLP/HTTP is served.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// Serves until `stop` fires or a listener fails, which stops the other, too.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), ServeError> {
        let grpc = serve_one("otlp grpc", self.grpc, &stop, |listener, receiver, stop| {
            let settings = receiver.server_settings();
            server::serve(listener, settings, stop, move |request| receiver.clone().handle(request))
        });
        let http = serve_one("otlp http", self.http, &stop, |listener, receiver, stop| {
            let settings = receiver.server_settings();
            server::serve(listener, settings, stop, move |request| receiver.clone().handle(request))
        });
        let (grpc, http) = tokio::join!(grpc, http);
        grpc.and(http)
    }
}

/// Runs one receiver; an absent one ends at once.
async fn serve_one<R, F: Future<Output = io::Result<()>>>(
    receiver: &'static str,
    bound: Option<(TcpListener, R)>,
    stop: &CancellationToken,
    run: impl FnOnce(TcpListener, R, CancellationToken) -> F,
) -> Result<(), ServeError> {
    let Some((listener, state)) = bound else { return Ok(()) };
    run(listener, state, stop.child_token()).await.map_err(|cause| {
        stop.cancel();
        ServeError { receiver, cause }
    })
}

/// Opens `endpoint`, `host:port`; an empty host is every address. Of several addresses of a name IPv4 is preferred, as clients expect of `localhost`.
async fn listen(receiver: &'static str, endpoint: &str) -> Result<TcpListener, BindError> {
    let failed = |cause| BindError { receiver, endpoint: endpoint.to_owned(), cause };
    let address = if endpoint.starts_with(':') { format!("0.0.0.0{endpoint}") } else { endpoint.to_owned() };
    let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host(address).await.map_err(failed)?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let listener = TcpListener::bind(addresses.as_slice()).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tracing::info!(receiver, address = %bound, "receiver listens");
    if bound.ip().is_loopback() && in_container() {
        tracing::warn!(receiver, address = %bound, "receiver listens on loopback within a container and is not reachable from outside; set endpoint 0.0.0.0:<port>");
    }
    Ok(listener)
}

fn in_container() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        || ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists())
}

/// Returns the tenant that a push belongs to (http-api, tenancy): one header with one valid id, or the single tenant.
fn tenant_of(headers: &HeaderMap, multitenancy: bool) -> Result<TenantId, PushError> {
    if !multitenancy {
        return Ok(TenantId::single());
    }
    let mut values = headers.get_all(TENANT_HEADER).iter();
    let text = match (values.next(), values.next()) {
        (None, _) => return Err(PushError::NoTenant),
        (Some(_), Some(_)) => return Err(PushError::RepeatedTenant),
        (Some(value), None) => String::from_utf8_lossy(value.as_bytes()).into_owned(),
    };
    if text.is_empty() {
        return Err(PushError::NoTenant);
    }
    if text.contains('|') {
        return Err(PushError::MultipleTenants);
    }
    Ok(TenantId::parse(&text)?)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
