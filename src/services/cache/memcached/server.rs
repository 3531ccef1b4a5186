//! One memcached server: its connections, its time limits, its circuit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tracing::warn;

use super::super::circuit::{Circuit, CircuitSettings};
use super::super::metrics::CIRCUIT_OPENED;
use super::protocol::{self, ProtocolError, SetOutcome};

/// What all servers of a cache have in common.
#[derive(Clone)]
pub(super) struct ServerSettings {
    pub(super) timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) max_idle: usize,
    /// Idle connections kept beyond those used recently, in percent of them; negative: none is closed for being idle.
    pub(super) idle_headroom_percent: f64,
    pub(super) circuit: CircuitSettings,
    pub(super) tls: Option<TlsSettings>,
}

#[derive(Clone)]
pub(super) struct TlsSettings {
    pub(super) config: Arc<ClientConfig>,
    /// Empty: the host of the address.
    pub(super) server_name: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("the server is left alone for a while")]
    CircuitOpen,
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("no answer in time")]
    TimedOut,
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

enum Request<'a> {
    Get(&'a [&'a str]),
    Set { key: &'a str, value: &'a [u8], ttl: Duration, now_unix_seconds: u64 },
}

enum Reply {
    Values(Vec<Option<Bytes>>),
    Set(SetOutcome),
}

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

struct Connection(BufReader<Box<dyn Stream>>);

impl Connection {
    async fn perform(&mut self, request: &Request<'_>) -> Result<Reply, ProtocolError> {
        match *request {
            Request::Get(keys) => protocol::get(&mut self.0, keys).await.map(Reply::Values),
            Request::Set { key, value, ttl, now_unix_seconds } => {
                protocol::set(&mut self.0, key, value, ttl, now_unix_seconds).await.map(Reply::Set)
            }
        }
    }
}

/// A server by its `host:port`.
pub(super) struct Server {
    pub(super) address: String,
    settings: ServerSettings,
    circuit: Circuit,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    connections: Vec<Connection>,
    /// Fewest idle ones since the last look: so many were not needed.
    fewest: usize,
}

impl Server {
    pub(super) fn new(address: String, settings: ServerSettings) -> Self {
        let circuit = Circuit::new(settings.circuit);
        Self { address, settings, circuit, idle: Mutex::default() }
    }

    /// Returns the values of `keys` in their order.
    pub(super) async fn get(&self, keys: &[&str]) -> Result<Vec<Option<Bytes>>, RequestError> {
        match self.request(&Request::Get(keys)).await? {
            Reply::Values(values) => Ok(values),
            Reply::Set(_) => unreachable!("a get is answered by values"),
        }
    }

    pub(super) async fn set(&self, key: &str, value: &[u8], ttl: Duration, now_unix_seconds: u64) -> Result<SetOutcome, RequestError> {
        match self.request(&Request::Set { key, value, ttl, now_unix_seconds }).await? {
            Reply::Set(outcome) => Ok(outcome),
            Reply::Values(_) => unreachable!("a set is answered by its outcome"),
        }
    }

    async fn request(&self, request: &Request<'_>) -> Result<Reply, RequestError> {
        if !self.circuit.allows() {
            return Err(RequestError::CircuitOpen);
        }
        let outcome = self.try_request(request).await;
        match &outcome {
            Ok(_) => self.circuit.succeeded(),
            Err(error) => {
                if self.circuit.failed() {
                    metrics::counter!(CIRCUIT_OPENED).increment(1);
                    let error = error as &dyn std::error::Error;
                    warn!(server = self.address, error, "memcached server does not answer and is left alone for a while");
                }
            }
        }
        outcome
    }

    /// Sends a request within the time limits. A kept connection that turns out to be closed is replaced by a new one, once.
    async fn try_request(&self, request: &Request<'_>) -> Result<Reply, RequestError> {
        if let Some(mut kept) = self.take_idle() {
            match tokio::time::timeout(self.settings.timeout, kept.perform(request)).await {
                Ok(Ok(reply)) => {
                    self.give_back(kept);
                    return Ok(reply);
                }
                // The server closed it while it was idle; so it did with the others.
                Ok(Err(ProtocolError::Io(_))) => self.idle.lock().connections.clear(),
                Ok(Err(error)) => return Err(error.into()),
                Err(_elapsed) => return Err(RequestError::TimedOut),
            }
        }
        let connecting = tokio::time::timeout(self.settings.connect_timeout, self.connect());
        let mut connection = connecting.await.map_err(|_elapsed| RequestError::TimedOut)?.map_err(RequestError::Connect)?;
        let answer = tokio::time::timeout(self.settings.timeout, connection.perform(request)).await;
        let reply = answer.map_err(|_elapsed| RequestError::TimedOut)??;
        self.give_back(connection);
        Ok(reply)
    }

    async fn connect(&self) -> std::io::Result<Connection> {
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &self.settings.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
                let name = if tls.server_name.is_empty() { host } else { &tls.server_name };
                let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(name).map_err(std::io::Error::other)?;
                Box::new(TlsConnector::from(Arc::clone(&tls.config)).connect(name, tcp).await?)
            }
        };
        Ok(Connection(BufReader::new(stream)))
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock();
        let taken = idle.connections.pop();
        idle.fewest = idle.fewest.min(idle.connections.len());
        taken
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock();
        if idle.connections.len() < self.settings.max_idle {
            idle.connections.push(connection);
        }
    }

    /// Closes connections that nobody needed since the last call, except the headroom.
    pub(super) fn close_unused(&self) {
        let headroom = self.settings.idle_headroom_percent;
        let mut idle = self.idle.lock();
        if headroom >= 0.0 {
            let count = idle.connections.len();
            let used = count - idle.fewest.min(count);
            let kept = used + (used as f64 * headroom / 100.0).ceil() as usize;
            // The most recently used ones are at the end.
            if count > kept {
                drop(idle.connections.drain(..count - kept));
            }
        }
        idle.fewest = idle.connections.len();
    }

    #[cfg(test)]
    pub(super) fn circuit_is_closed(&self) -> bool {
        self.circuit.allows()
    }

    #[cfg(test)]
    pub(super) fn idle_count(&self) -> usize {
        self.idle.lock().connections.len()
    }
}
