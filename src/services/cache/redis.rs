//! A client of Redis: one server or a cluster. Connections carry many requests at once, so a few are enough.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use metrics::histogram;
use parking_lot::Mutex;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::{ClusterClient, ClusterConfig, NodeAddress};
use redis::cluster_async::ClusterConnection;
use redis::cluster_read_routing::{RandomReplicaStrategy, ReadCandidates, ReadRoutingStrategy};
use redis::{
    Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    TlsCertificates, TlsMode,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::circuit::{Circuit, CircuitSettings};
use super::metrics as names;
use super::remote::Remote;
use crate::base::tls::ClientTls;
use crate::services::client_tls;
use crate::tempodb::config::RedisConfig;

/// Limit of a request when none is configured.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(100);
/// Connections when no number is configured. Each carries requests of many callers; more than one keeps large values from holding up all others.
const DEFAULT_POOL_SIZE: usize = 4;
const MAX_POOL_SIZE: usize = 100;
/// Redirects followed when no number is configured.
const DEFAULT_REDIRECTS: u32 = 3;
const DEFAULT_PORT: u16 = 6379;

#[derive(Debug, thiserror::Error)]
pub(super) enum RedisBuildError {
    #[error("no redis endpoint")]
    NoEndpoint,
    #[error("redis endpoint {0:?} is not host:port")]
    Endpoint(String),
    #[error("redis: {0} is not supported")]
    Unsupported(&'static str),
    #[error("cannot read {path}")]
    Read {
        path: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("tls_cert_path and tls_key_path must be set both or neither")]
    HalfAPair,
    #[error("redis settings do not fit together")]
    Settings(#[from] RedisError),
}

#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("no answer in time")]
    TimedOut,
    #[error(transparent)]
    Redis(#[from] RedisError),
}

/// A Redis server or cluster.
pub(super) struct Redis {
    /// The cache's name in logs.
    name: String,
    client: RedisClient,
    links: Vec<Mutex<Option<Link>>>,
    next: std::sync::atomic::AtomicUsize,
    timeout: Duration,
    ttl: Duration,
    max_item_bytes: u64,
    opened_at_start: usize,
    max_idle: Option<Duration>,
    max_lifetime: Option<Duration>,
    circuit: Circuit,
}

enum RedisClient {
    Single(Client, ConnectionManagerConfig),
    Cluster(ClusterClient),
}

/// A connection and its age.
struct Link {
    connection: Connection,
    opened: Instant,
    used: Instant,
}

#[derive(Clone)]
enum Connection {
    Single(ConnectionManager),
    Cluster(ClusterConnection),
}

impl Connection {
    async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RedisError> {
        match self {
            Self::Single(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => command.query_async(connection).await,
        }
    }
}

impl Redis {
    pub(super) fn new(name: String, config: &RedisConfig) -> Result<Self, RedisBuildError> {
        let timeout = config.timeout.positive().unwrap_or(DEFAULT_TIMEOUT);
        let pool_size = if config.pool_size == 0 { DEFAULT_POOL_SIZE } else { config.pool_size.min(MAX_POOL_SIZE) };
        let client = if config.single_node { single_client(config, timeout)? } else { cluster_client(config, timeout)? };
        Ok(Self {
            name,
            client,
            links: (0..pool_size).map(|_| Mutex::default()).collect(),
            next: std::sync::atomic::AtomicUsize::new(0),
            timeout,
            ttl: config.expiration.positive().unwrap_or(config.ttl.to_std()),
            max_item_bytes: config.max_item_size,
            opened_at_start: config.min_idle_conns.min(pool_size),
            max_idle: config.conn_max_idle_time.positive(),
            max_lifetime: config.conn_max_lifetime.positive(),
            circuit: Circuit::new(CircuitSettings::default()),
        })
    }

    /// Returns a connection; one that is too old, or was idle for too long, is replaced. Connecting itself happens with the first request.
    fn connection(&self) -> Result<Connection, RedisError> {
        let at = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % self.links.len();
        let mut link = self.links[at].lock();
        let now = Instant::now();
        let is_over = |link: &Link| {
            self.max_idle.is_some_and(|max| now - link.used > max) || self.max_lifetime.is_some_and(|max| now - link.opened > max)
        };
        if link.as_ref().is_some_and(is_over) {
            *link = None;
        }
        if let Some(link) = link.as_mut() {
            link.used = now;
            return Ok(link.connection.clone());
        }
        let connection = match &self.client {
            RedisClient::Single(client, config) => {
                Connection::Single(ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?)
            }
            RedisClient::Cluster(client) => Connection::Cluster(client.get_pending_async_connection_with_config(ClusterConfig::default())),
        };
        *link = Some(Link { connection: connection.clone(), opened: now, used: now });
        Ok(connection)
    }

    /// Sends a command within the time limit; `None` when there is no answer.
    async fn request<T: FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        if !self.circuit.allows() {
            return None;
        }
        let answer = async {
            let mut connection = self.connection()?;
            let answer = tokio::time::timeout(self.timeout, connection.query(command)).await;
            Ok(answer.map_err(|_elapsed| RequestError::TimedOut)??)
        };
        match answer.await {
            Ok(value) => {
                self.circuit.succeeded();
                Some(value)
            }
            Err(error) => {
                self.note_failure(&error);
                None
            }
        }
    }

    fn note_failure(&self, error: &RequestError) {
        let error = error as &dyn std::error::Error;
        debug!(cache = self.name, error, "redis request failed");
        if self.circuit.failed() {
            metrics::counter!(names::CIRCUIT_OPENED).increment(1);
            warn!(cache = self.name, error, "redis does not answer and is left alone for a while");
            // What comes after that begins with new connections.
            self.links.iter().for_each(|link| *link.lock() = None);
        }
    }
}

fn observe(method: &'static str, status: &'static str, started: Instant) {
    histogram!(names::REDIS_DURATION, "method" => method, "status_code" => status).record(started.elapsed());
}

fn single_client(config: &RedisConfig, timeout: Duration) -> Result<RedisClient, RedisBuildError> {
    let node = nodes(config)?.into_iter().next().ok_or(RedisBuildError::NoEndpoint)?;
    let client = match tls_certificates(config)? {
        Some(certificates) => Client::build_with_tls(node, certificates)?,
        None => Client::open(node)?,
    };
    let manager = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(Some(timeout))
        // The circuit decides when to try again.
        .set_number_of_retries(1);
    Ok(RedisClient::Single(client, manager))
}

fn cluster_client(config: &RedisConfig, timeout: Duration) -> Result<RedisClient, RedisBuildError> {
    if config.db != 0 {
        return Err(RedisBuildError::Unsupported("db with a cluster (set single_node)"));
    }
    let redirects = match config.max_redirects {
        0 => DEFAULT_REDIRECTS,
        redirects => u32::try_from(redirects).unwrap_or(0),
    };
    let mut builder = ClusterClient::builder(nodes(config)?).retries(redirects).connection_timeout(timeout).response_timeout(timeout);
    if !config.username.is_empty() {
        builder = builder.username(&config.username);
    }
    if !config.password.is_empty() {
        builder = builder.password(config.password.reveal());
    }
    if let Some(certificates) = tls_certificates(config)? {
        let mode = if config.tls_insecure_skip_verify { TlsMode::Insecure } else { TlsMode::Secure };
        builder = builder.tls(mode).certs(certificates);
    }
    if config.route_by_latency {
        warn!("redis: route_by_latency is not supported, reads go to any node as with route_randomly");
    }
    if config.route_by_latency || config.route_randomly {
        builder = builder.read_routing_strategy(AnyNode);
    } else if config.read_only {
        builder = builder.read_routing_strategy(RandomReplicaStrategy);
    }
    Ok(RedisClient::Cluster(builder.build()?))
}

/// Reads from the primary or any replica, at random.
#[derive(Debug, Default)]
struct AnyNode;

impl ReadRoutingStrategy for AnyNode {
    fn route_read<'a>(&self, candidates: &ReadCandidates<'a>) -> &'a NodeAddress {
        match candidates {
            ReadCandidates::AnyNode(nodes) => {
                let replicas = nodes.replicas();
                replicas.get(rand::random_range(0..=replicas.len().get())).unwrap_or(nodes.primary())
            }
            ReadCandidates::ReplicasOnly(nodes) => nodes.replicas().choose_random(),
        }
    }
}

/// Returns what `endpoint` names.
fn nodes(config: &RedisConfig) -> Result<Vec<ConnectionInfo>, RedisBuildError> {
    let mut nodes = Vec::new();
    for endpoint in config.endpoint.split(',').map(str::trim).filter(|endpoint| !endpoint.is_empty()) {
        let wrong = || RedisBuildError::Endpoint(endpoint.to_owned());
        let (host, port) = match endpoint.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_not_a_port| wrong())?),
            None => (endpoint, DEFAULT_PORT),
        };
        if host.is_empty() {
            return Err(wrong());
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let address = if config.tls_enabled {
            ConnectionAddr::TcpTls { host, port, insecure: config.tls_insecure_skip_verify, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let mut settings = RedisConnectionInfo::default().set_db(i64::from(config.db));
        if !config.username.is_empty() {
            settings = settings.set_username(&config.username);
        }
        if !config.password.is_empty() {
            settings = settings.set_password(config.password.reveal());
        }
        nodes.push(address.into_connection_info()?.set_redis_settings(settings));
    }
    if nodes.is_empty() { Err(RedisBuildError::NoEndpoint) } else { Ok(nodes) }
}

/// Returns the certificates to use; `None` without TLS.
fn tls_certificates(config: &RedisConfig) -> Result<Option<TlsCertificates>, RedisBuildError> {
    if !config.tls_enabled {
        return Ok(None);
    }
    client_tls::install_provider();
    let ClientTls { cert_path, key_path, ca_path, server_name, insecure_skip_verify: _, cipher_suites, min_version } = config.client_tls();
    for (is_set, key) in [
        (!server_name.is_empty(), "tls_server_name"),
        (!cipher_suites.is_empty(), "tls_cipher_suites"),
        (min_version == "VersionTLS13", "tls_min_version: VersionTLS13"),
    ] {
        if is_set {
            return Err(RedisBuildError::Unsupported(key));
        }
    }
    let read = |path: &str| std::fs::read(path).map_err(|cause| RedisBuildError::Read { path: path.to_owned(), cause });
    let client_tls = match (cert_path.as_str(), key_path.as_str()) {
        ("", "") => None,
        ("", _) | (_, "") => return Err(RedisBuildError::HalfAPair),
        (cert, key) => Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? }),
    };
    let root_cert = if ca_path.is_empty() { None } else { Some(read(&ca_path)?) };
    Ok(Some(TlsCertificates { client_tls, root_cert }))
}

#[async_trait]
impl Remote for Redis {
    async fn get_many(&self, keys: &[String]) -> Vec<Option<Bytes>> {
        let (started, method) = (Instant::now(), if keys.len() == 1 { "Redis.Get" } else { "Redis.MGet" });
        let Some(values) = self.request::<Vec<Option<Vec<u8>>>>(redis::cmd("MGET").arg(keys)).await else {
            observe(method, "500", started);
            return vec![None; keys.len()];
        };
        let is_miss = values.iter().all(Option::is_none);
        observe(method, if is_miss { "404" } else { "200" }, started);
        values.into_iter().map(|value| value.map(Bytes::from)).collect()
    }

    async fn set(&self, key: &str, value: Bytes) {
        let started = Instant::now();
        let mut command = redis::cmd("SET");
        command.arg(key).arg(&value[..]);
        if !self.ttl.is_zero() {
            command.arg("PX").arg(u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX).max(1));
        }
        let answer: Option<()> = self.request(&command).await;
        observe("Redis.Set", if answer.is_some() { "200" } else { "500" }, started);
    }

    fn takes(&self, _key: &str, value: &[u8]) -> bool {
        self.max_item_bytes == 0 || value.len() as u64 <= self.max_item_bytes
    }

    async fn run(&self, stop: CancellationToken) {
        for _ in 0..self.opened_at_start {
            // Whether that works shows in the metrics; queries do not wait for it.
            let _pong: Option<String> = self.request(&redis::cmd("PING")).await;
        }
        stop.cancelled().await;
    }

    fn skipped_metric(&self) -> &'static str {
        names::REDIS_SKIPPED
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::base::duration::GoDuration;

    fn config(endpoint: &str, single_node: bool) -> RedisConfig {
        RedisConfig { endpoint: endpoint.to_owned(), single_node, ..RedisConfig::default() }
    }

    #[test]
    fn settings_are_checked() {
        let problem = |config: RedisConfig| Redis::new("test".to_owned(), &config).err().map(|error| error.to_string());
        assert_eq!(problem(config("h:1", true)), None);
        assert_eq!(problem(config("h:1,i:2", false)), None);
        assert_eq!(problem(config(" ", true)).unwrap(), "no redis endpoint");
        assert_eq!(problem(config("h:x", true)).unwrap(), "redis endpoint \"h:x\" is not host:port");
        let with_db = RedisConfig { db: 1, ..config("h:1", false) };
        assert_eq!(problem(with_db).unwrap(), "redis: db with a cluster (set single_node) is not supported");
        let with_name = RedisConfig { tls_enabled: true, tls_server_name: "x".to_owned(), ..config("h:1", true) };
        assert_eq!(problem(with_name).unwrap(), "redis: tls_server_name is not supported");
    }

    #[tokio::test]
    async fn dead_and_silent_servers_are_misses_and_are_left_alone() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        for endpoint in [silent.local_addr().unwrap(), dead] {
            for single_node in [true, false] {
                let config = RedisConfig { timeout: GoDuration::millis(20), ..config(&endpoint.to_string(), single_node) };
                let redis = Redis::new("test".to_owned(), &config).unwrap();
                let started = std::time::Instant::now();
                for _ in 0..1000 {
                    assert_eq!(redis.get_many(&["k".to_owned()]).await, [None]);
                }
                assert!(started.elapsed() < Duration::from_secs(5), "{endpoint} {single_node}: {:?}", started.elapsed());
                assert!(!redis.circuit.allows());
            }
        }
    }
}
