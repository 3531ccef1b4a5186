//! Accepts connections and serves HTTP/1 and HTTP/2 on them.
//!
//! Bounds: [`MAX_CONNECTIONS`] connections (further ones wait in the system's backlog), streams and windows per connection. On stop no
//! connection is accepted, open ones finish their requests, and what is left after the drain budget is cut.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use metrics::counter;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::DRAIN_BUDGET;
use crate::modules::distributor::metrics::CONNECTIONS_REFUSED;

/// Connections of one listener.
const MAX_CONNECTIONS: usize = 4096;
/// Streams of one HTTP/2 connection, unless configured.
const MAX_STREAMS: u32 = 250;
/// Bytes a client may send ahead on a stream and on a connection: enough for a usual request without waiting for a window update.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// A dead peer is noticed by pings.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(60);
/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(super) type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;
pub(super) type Answer = Response<AnswerBody>;

/// What differs between listeners.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerSettings {
    /// 0: the default.
    pub(super) max_concurrent_streams: u32,
    pub(super) read_header_timeout: Duration,
}

/// Serves `listener` until `stop` fires. `handler` is called once a request.
pub(super) async fn serve<H, F>(listener: TcpListener, settings: ServerSettings, stop: CancellationToken, handler: H) -> io::Result<()>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        if places.available_permits() == 0 {
            counter!(CONNECTIONS_REFUSED).increment(1);
        }
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((listener.accept().await?.0, place))
        };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = next => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, place)) => {
                let (handler, stop) = (handler.clone(), stop.clone());
                connections.spawn(async move {
                    serve_connection(stream, settings, stop, handler).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN_BUDGET, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!(connections = connections.len(), "connections cut after the drain budget");
        connections.shutdown().await;
    }
    Ok(())
}

async fn serve_connection<H, F>(stream: TcpStream, settings: ServerSettings, stop: CancellationToken, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = &error as &dyn std::error::Error, "no-delay not set");
    }
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(settings.read_header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(if settings.max_concurrent_streams == 0 { MAX_STREAMS } else { settings.max_concurrent_streams });
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = error.to_string(), "connection ended");
    }
}
