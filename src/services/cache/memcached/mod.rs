//! A client of memcached servers: keys are spread over them by hash, connections are kept, names are looked up again and again.

mod discovery;
mod protocol;
mod selector;
mod server;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use metrics::{gauge, histogram};
use parking_lot::RwLock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::discovery::{Discovery, DiscoveryError};
use self::protocol::SetOutcome;
use self::selector::{Spread, server_of};
use self::server::{Server, ServerSettings, TlsSettings};
use super::circuit::CircuitSettings;
use super::metrics as names;
use super::remote::Remote;
use crate::base::clock::SharedClock;
use crate::services::client_tls::{self, TlsError};
use crate::tempodb::config::MemcachedConfig;

/// Keys asked for with one command.
const KEYS_AT_ONCE: usize = 100;
/// Interval of discovery and of closing unused connections when none is configured.
const DEFAULT_UPDATE_INTERVAL: Duration = Duration::from_secs(60);
/// Limit of a request when none is configured.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(100);
/// Longest time that DNS may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(super) enum MemcachedError {
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    #[error("tls")]
    Tls(#[from] TlsError),
}

/// A cluster of memcached servers.
pub(super) struct Memcached {
    /// The metric label.
    name: String,
    discovery: Discovery,
    servers: RwLock<Arc<Vec<Arc<Server>>>>,
    settings: ServerSettings,
    spread: Spread,
    ttl: Duration,
    max_item_bytes: u64,
    update_interval: Duration,
    clock: SharedClock,
}

impl Memcached {
    pub(super) fn new(name: String, config: &MemcachedConfig, clock: SharedClock) -> Result<Self, MemcachedError> {
        let timeout = config.timeout.positive().unwrap_or(DEFAULT_TIMEOUT);
        let tls = if config.tls_enabled {
            let tls = config.client_tls();
            Some(TlsSettings { config: client_tls::client_config(&tls)?, server_name: tls.server_name })
        } else {
            None
        };
        let settings = ServerSettings {
            timeout,
            connect_timeout: config.connect_timeout.positive().unwrap_or(timeout),
            max_idle: config.max_idle_conns,
            idle_headroom_percent: config.min_idle_conns_headroom_percentage,
            circuit: circuit_settings(config),
            tls,
        };
        Ok(Self {
            name,
            discovery: Discovery::new(&config.addresses, &config.host, &config.service)?,
            servers: RwLock::default(),
            settings,
            spread: if config.consistent_hash { Spread::Consistent } else { Spread::Modulo },
            ttl: config.ttl.to_std(),
            max_item_bytes: config.max_item_size,
            update_interval: config.update_interval.positive().unwrap_or(DEFAULT_UPDATE_INTERVAL),
            clock,
        })
    }

    /// Looks the servers up; what is known stays when that fails.
    async fn update_servers(&self) {
        let resolved = tokio::time::timeout(RESOLVE_TIMEOUT, self.discovery.resolve()).await;
        let addresses = match resolved {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => {
                warn!(cache = self.name, error = &error as &dyn std::error::Error, "memcached servers cannot be looked up");
                return;
            }
            Err(_elapsed) => {
                warn!(cache = self.name, "memcached servers cannot be looked up in time");
                return;
            }
        };
        let known = self.servers.read().clone();
        let server = |address: String| {
            let kept = known.iter().find(|server| server.address == address).cloned();
            kept.unwrap_or_else(|| Arc::new(Server::new(address, self.settings.clone())))
        };
        let servers: Vec<_> = addresses.into_iter().map(server).collect();
        gauge!(names::MEMCACHE_SERVERS, "name" => self.name.clone()).set(servers.len() as f64);
        *self.servers.write() = Arc::new(servers);
    }

    fn observe(&self, method: &'static str, status: &'static str, started: Instant) {
        let name = self.name.clone();
        histogram!(names::MEMCACHE_DURATION, "name" => name, "method" => method, "status_code" => status).record(started.elapsed());
    }

    /// Asks one server, `KEYS_AT_ONCE` keys at a time; stops at the first failure.
    async fn get_from(&self, server: &Server, keys: &[&str]) -> Vec<Option<Bytes>> {
        let mut values = Vec::with_capacity(keys.len());
        for keys in keys.chunks(KEYS_AT_ONCE) {
            let (started, method) = (Instant::now(), if keys.len() == 1 { "Memcache.Get" } else { "Memcache.GetMulti" });
            match server.get(keys).await {
                Ok(found) => {
                    let is_miss = found.iter().all(Option::is_none);
                    self.observe(method, if is_miss { "404" } else { "200" }, started);
                    values.extend(found);
                }
                Err(error) => {
                    debug!(server = server.address, error = &error as &dyn std::error::Error, "memcached get failed");
                    self.observe(method, "500", started);
                    break;
                }
            }
        }
        values
    }
}

/// Without own settings a silent server is left alone all the same, so that it cannot slow every query down.
fn circuit_settings(config: &MemcachedConfig) -> CircuitSettings {
    let default = CircuitSettings::default();
    match config.circuit_breaker_consecutive_failures {
        0 => default,
        failures => CircuitSettings {
            failures,
            open_for: config.circuit_breaker_timeout.positive().unwrap_or(default.open_for),
            interval: config.circuit_breaker_interval.positive(),
        },
    }
}

#[async_trait]
impl Remote for Memcached {
    async fn get_many(&self, keys: &[String]) -> Vec<Option<Bytes>> {
        let servers = self.servers.read().clone();
        let mut places: Vec<Vec<usize>> = vec![Vec::new(); servers.len()];
        for (at, key) in keys.iter().enumerate().filter(|(_, key)| protocol::is_valid_key(key)) {
            if let Some(server) = server_of(key, servers.len(), self.spread) {
                places[server].push(at);
            }
        }
        let asked = servers.iter().zip(&places).filter(|(_, places)| !places.is_empty()).map(async |(server, places)| {
            let keys: Vec<&str> = places.iter().map(|&at| keys[at].as_str()).collect();
            (places, self.get_from(server, &keys).await)
        });
        let mut values = vec![None; keys.len()];
        for (places, found) in join_all(asked).await {
            for (&at, value) in places.iter().zip(found) {
                values[at] = value;
            }
        }
        values
    }

    async fn set(&self, key: &str, value: Bytes) {
        let servers = self.servers.read().clone();
        let Some(server) = server_of(key, servers.len(), self.spread).and_then(|at| servers.get(at)) else { return };
        let started = Instant::now();
        let outcome = server.set(key, &value, self.ttl, self.clock.now_unix_seconds()).await;
        let status = match outcome {
            Ok(SetOutcome::Stored) => "200",
            Ok(SetOutcome::Refused) => {
                metrics::counter!(names::MEMCACHE_SKIPPED, "name" => self.name.clone()).increment(1);
                "200"
            }
            Err(error) => {
                debug!(server = server.address, error = &error as &dyn std::error::Error, "memcached set failed");
                "500"
            }
        };
        self.observe("Memcache.Put", status, started);
    }

    fn takes(&self, key: &str, value: &[u8]) -> bool {
        protocol::is_valid_key(key) && (self.max_item_bytes == 0 || value.len() as u64 <= self.max_item_bytes)
    }

    async fn run(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.update_interval);
        let mut is_resolved = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if !is_resolved || !self.discovery.is_fixed() {
                self.update_servers().await;
                is_resolved = !self.servers.read().is_empty();
            }
            self.servers.read().iter().for_each(|server| server.close_unused());
        }
    }

    fn skipped_metric(&self) -> &'static str {
        names::MEMCACHE_SKIPPED
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::base::clock::SystemClock;
    use crate::base::duration::GoDuration;

    async fn client(addresses: &str, change: impl FnOnce(&mut MemcachedConfig)) -> Memcached {
        let mut config = MemcachedConfig { addresses: addresses.to_owned(), consistent_hash: true, ..MemcachedConfig::default() };
        change(&mut config);
        let client = Memcached::new("test".to_owned(), &config, Arc::new(SystemClock)).unwrap();
        client.update_servers().await;
        client
    }

    fn keys(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("k{number}")).collect()
    }

    /// Answers every request with `END`, counts connections, and closes them after `requests`.
    async fn empty_server(requests: usize) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, connections) = (listener.local_addr().unwrap().to_string(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut buffer = [0; 65_536];
                    for _ in 0..requests {
                        if stream.read(&mut buffer).await.unwrap_or(0) == 0 {
                            return;
                        }
                        stream.write_all(b"END\r\n").await.unwrap();
                    }
                });
            }
        });
        (address, connections)
    }

    #[tokio::test]
    async fn a_dead_server_is_a_miss_and_is_left_alone() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let client = client(&closed.to_string(), |_| {}).await;
        for _ in 0..20 {
            assert_eq!(client.get_many(&keys(3)).await, [None, None, None]);
        }
        let server = Arc::clone(&client.servers.read()[0]);
        assert!(matches!(server.get(&["k"]).await, Err(server::RequestError::CircuitOpen)));
    }

    #[tokio::test]
    async fn a_silent_server_costs_a_few_timeouts() {
        // Accepted by the kernel, never answered.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client(&listener.local_addr().unwrap().to_string(), |config| {
            config.timeout = GoDuration::millis(20);
            config.circuit_breaker_consecutive_failures = 2;
        })
        .await;
        let started = std::time::Instant::now();
        for _ in 0..1000 {
            assert_eq!(client.get_many(&keys(1)).await, [None]);
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn connections_are_kept_and_replaced_when_closed() {
        let (address, connections) = empty_server(2).await;
        let client = client(&address, |_| {}).await;
        for expected in [1, 1, 2, 2, 3] {
            assert_eq!(client.get_many(&keys(1)).await, [None]);
            assert_eq!(connections.load(Ordering::SeqCst), expected);
        }
        let server = Arc::clone(&client.servers.read()[0]);
        assert!(server.circuit_is_closed());
    }

    #[tokio::test]
    async fn unused_connections_are_closed() {
        let (address, _) = empty_server(100).await;
        let client = client(&address, |config| config.min_idle_conns_headroom_percentage = 0.0).await;
        let keys = keys(1);
        join_all((0..8).map(|_| client.get_many(&keys))).await;
        let server = Arc::clone(&client.servers.read()[0]);
        let opened = server.idle_count();
        assert!(opened > 1, "{opened}");
        server.close_unused();
        client.get_many(&keys).await;
        server.close_unused();
        assert_eq!(server.idle_count(), 1);
    }

    #[tokio::test]
    async fn only_what_fits_is_taken() {
        let client = client("127.0.0.1:1", |config| config.max_item_size = 10).await;
        assert!(client.takes("k", &[0; 10]) && !client.takes("k", &[0; 11]) && !client.takes("k k", b""));
        assert_eq!(client.get_many(&["k k".to_owned()]).await, [None]);
    }
}
