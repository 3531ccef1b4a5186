//! The HTTP and gRPC servers that every target has.
//!
//! Sockets are bound when the module is built, so that a port in use is an error at start; they are served from then until the end of the
//! process, so that `/ready` answers while other modules start and stop.

use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_trait::async_trait;
use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{self, Next};
use axum::response::Response;
use metrics::{Unit, describe_histogram, histogram};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{info, warn};

use super::config::server::ServerConfig;
use super::lifecycle::Service;

pub(super) const REQUEST_DURATION: &str = "tempo_request_duration_seconds";

/// Open sockets, before there is anything to serve.
pub(super) struct Listeners {
    http: StdTcpListener,
    grpc: StdTcpListener,
}

impl Listeners {
    /// Binds both ports of `server:`. An empty address means all interfaces.
    pub(super) fn bind(config: &ServerConfig) -> anyhow::Result<Self> {
        let http = bind(&config.http_listen_address, config.http_listen_port).context("server.http_listen_port")?;
        let grpc = bind(&config.grpc_listen_address, config.grpc_listen_port).context("server.grpc_listen_port")?;
        info!(http = %http.local_addr()?, grpc = %grpc.local_addr()?, "server listening on addresses");
        Ok(Self { http, grpc })
    }
}

fn bind(address: &str, port: u16) -> anyhow::Result<StdTcpListener> {
    let host = if address.is_empty() { "0.0.0.0" } else { address };
    let listener = StdTcpListener::bind((host, port)).with_context(|| format!("cannot listen on {host}:{port}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves the routes of all modules.
pub(super) struct Server {
    listeners: Option<(TcpListener, TcpListener)>,
    http: Router,
    grpc: Routes,
    drain: Duration,
}

impl Server {
    /// Takes over the sockets. Must be called within a runtime.
    pub(super) fn new(config: &ServerConfig, listeners: Listeners, http: Router, grpc: Routes) -> anyhow::Result<Self> {
        describe_histogram!(REQUEST_DURATION, Unit::Seconds, "time from request to answer");
        let sockets = (TcpListener::from_std(listeners.http)?, TcpListener::from_std(listeners.grpc)?);
        let http = http.layer(middleware::from_fn(measure));
        Ok(Self { listeners: Some(sockets), http, grpc, drain: config.graceful_shutdown_timeout.to_std() })
    }
}

#[async_trait]
impl Service for Server {
    async fn run(mut self: Box<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let (http, grpc) = self.listeners.take().context("a server runs once")?;
        let http = axum::serve(http, self.http.into_make_service_with_connect_info::<SocketAddr>())
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        let grpc = tonic::transport::Server::builder()
            .add_routes(self.grpc)
            .serve_with_incoming_shutdown(tonic::transport::server::TcpIncoming::from(grpc), stop.clone().cancelled_owned());
        let both = async { tokio::try_join!(async { http.await.context("HTTP server") }, async { grpc.await.context("gRPC server") }) };
        tokio::pin!(both);
        tokio::select! {
            ended = &mut both => ended.map(|_| ()),
            () = drain_time_over(&stop, self.drain) => {
                warn!("requests still open after server.graceful_shutdown_timeout are cut off");
                Ok(())
            }
        }
    }
}

async fn drain_time_over(stop: &CancellationToken, drain: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(drain).await;
}

/// Records duration and status of a request under its route's name.
async fn measure(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().as_str().to_owned();
    let route = request.extensions().get::<MatchedPath>().map_or_else(|| "other".to_owned(), |path| route_label(path.as_str()));
    let response = next.run(request).await;
    let labels =
        [("method", method), ("route", route), ("status_code", response.status().as_u16().to_string()), ("ws", "false".to_owned())];
    histogram!(REQUEST_DURATION, &labels).record(started.elapsed().as_secs_f64());
    response
}

/// Names a route as dashboards know it: lower case, runs of other characters become `_` (http-api §1).
fn route_label(template: &str) -> String {
    let mut label = String::with_capacity(template.len());
    for c in template.chars() {
        if c.is_ascii_alphanumeric() {
            label.push(c.to_ascii_lowercase());
        } else if !label.is_empty() && !label.ends_with('_') {
            label.push('_');
        }
    }
    label.trim_end_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_labels_match_dashboards() {
        assert_eq!(route_label("/api/search/tag/{tagName}/values"), "api_search_tag_tagname_values");
        assert_eq!(route_label("/api/traces/{traceID}"), "api_traces_traceid");
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = StdTcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let failure = bind("127.0.0.1", port).unwrap_err();
        assert!(failure.to_string().contains(&format!("cannot listen on 127.0.0.1:{port}")), "{failure}");
    }
}
