//! Caches over real memcached and Redis servers: what was read or asked once is not read or asked again, and a cache that is gone costs nothing.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tempo_rs::base::clock::{SharedClock, SystemClock};
use tempo_rs::services::cache::CacheProvider;
use tempo_rs::services::cache::config::{CacheConfig, claims};
use tempo_rs::tempodb::cache::{CacheRole, Caches};
use tempo_rs::tempodb::config::TraceStorageConfig;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::otlp::{self, hex};
use crate::parts;
use crate::process::{Place, free_port};
use crate::wait::{SOON, eventually};

/// A server of a test; killed when dropped.
struct Server {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Server {
    fn start(program: &Path, port: u16, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { child: command.spawn().unwrap(), port, _folder: folder };
        eventually("the server accepts connections", SOON, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        server
    }

    fn memcached(arguments: &[&str]) -> Self {
        let port = free_port();
        let port_text = port.to_string();
        let fixed = ["-l", "127.0.0.1", "-p", &port_text, "-U", "0", "-m", "64", "-u", "root"];
        Self::start(parts::memcached(), port, &[&fixed, arguments].concat())
    }

    fn redis(arguments: &[&str]) -> Self {
        let port = free_port();
        let port_text = port.to_string();
        let fixed = ["--bind", "127.0.0.1", "--port", &port_text, "--save", "", "--appendonly", "no"];
        Self::start(parts::redis(), port, &[&fixed, arguments].concat())
    }

    /// A cluster of one node that has all slots.
    fn redis_cluster() -> Self {
        let bus = free_port().to_string();
        let server = Self::redis(&["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-announce-ip", "127.0.0.1"]);
        assert_eq!(server.ask("CLUSTER ADDSLOTSRANGE 0 16383\r\n"), "+OK");
        eventually("the cluster is up", SOON, || {
            let info = server.ask_all("CLUSTER INFO\r\n");
            info.contains("cluster_state:ok")
        });
        server
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sends a command as text and returns the first line of the answer.
    fn ask(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(command.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends a command as text, then `QUIT`, and returns all that is answered.
    fn ask_all(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(format!("{command}quit\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn memcached_items(&self) -> usize {
        let stats = self.ask_all("stats\r\n");
        let line = stats.lines().find_map(|line| line.strip_prefix("STAT curr_items ")).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Caches as configured, with their background work, on a runtime of their own.
struct Running {
    caches: Caches,
    runtime: Runtime,
    stop: CancellationToken,
}

impl Running {
    fn new(cache: Value) -> Self {
        let config: CacheConfig = serde_json::from_value(cache).unwrap();
        let claims = claims(&config, &TraceStorageConfig::default()).unwrap();
        let clock: SharedClock = Arc::new(SystemClock);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let provider = CacheProvider::new(&claims, &config.in_process, &clock).unwrap();
        let (caches, stop) = (provider.caches().clone(), CancellationToken::new());
        runtime.spawn(provider.run(stop.clone()));
        Self { caches, runtime, stop }
    }

    fn get(&self, role: CacheRole, keys: &[String]) -> Vec<Option<Bytes>> {
        self.runtime.block_on(self.caches.get_many(role, keys))
    }

    /// Stores values until all of them are there.
    fn fill(&self, role: CacheRole, keys: &[String]) {
        eventually("all values are stored", SOON, || {
            let missing = self.get(role, keys).into_iter().zip(keys).filter(|(value, _)| value.is_none());
            let missing: Vec<_> = missing.map(|(_, key)| key).collect();
            missing.iter().for_each(|key| self.caches.put(role, (*key).clone(), value_of(key).as_ref()));
            missing.is_empty()
        });
        let values = self.get(role, keys);
        assert!(values.iter().zip(keys).all(|(value, key)| value.as_ref() == Some(&value_of(key))));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("tenant:block:data.parquet:{number}:7")).collect()
}

fn value_of(key: &str) -> Bytes {
    Bytes::from(format!("value of {key}\r\nEND\r\n"))
}

/// `cache:` with one cache and nothing in this process.
fn only(entry: Value) -> Value {
    json!({"caches": [entry], "in_process": {"max_bytes": 0}})
}

#[test]
fn keys_are_spread_over_memcached_servers() {
    let servers: Vec<_> = (0..3).map(|_| Server::memcached(&[])).collect();
    let addresses: Vec<_> = servers.iter().map(Server::address).collect();
    let memcached = json!({"addresses": addresses.join(","), "consistent_hash": true, "timeout": "1s", "ttl": "1h"});
    let cache = only(json!({"roles": ["parquet-page"], "memcached": memcached}));
    let running = Running::new(cache.clone());
    let keys = keys(900);
    running.fill(CacheRole::ParquetPage, &keys);
    let counts: Vec<_> = servers.iter().map(Server::memcached_items).collect();
    assert!(counts.iter().sum::<usize>() == 900 && counts.iter().all(|count| (200..400).contains(count)), "{counts:?}");
    // Another process finds them at the same places, whatever the order of the addresses.
    let reversed: Vec<_> = addresses.iter().rev().cloned().collect();
    let mut other = cache;
    other["caches"][0]["memcached"]["addresses"] = json!(reversed.join(","));
    let other = Running::new(other);
    eventually("another client finds all", SOON, || other.get(CacheRole::ParquetPage, &keys).iter().all(Option::is_some));
    // One server less: what was there is gone, the rest is found.
    let mut servers = servers;
    drop(servers.remove(1));
    let found = running.get(CacheRole::ParquetPage, &keys).iter().flatten().count();
    assert_eq!(found, 900 - counts[1]);
}

#[test]
fn values_too_large_for_memcached_are_left_out() {
    let server = Server::memcached(&["-I", "1m"]);
    let running = Running::new(only(json!({"roles": ["bloom"], "memcached": {"addresses": server.address(), "timeout": "1s"}})));
    running.fill(CacheRole::Bloom, &keys(1));
    running.caches.put(CacheRole::Bloom, "large".to_owned(), &vec![7; 2 << 20]);
    running.caches.put(CacheRole::Bloom, "after".to_owned(), b"v");
    eventually("the next value is stored", SOON, || running.get(CacheRole::Bloom, &["after".to_owned()])[0].is_some());
    assert_eq!(running.get(CacheRole::Bloom, &["large".to_owned()]), [None]);
    assert_eq!(running.get(CacheRole::Bloom, &keys(1)), [Some(value_of(&keys(1)[0]))]);
}

#[test]
fn redis_takes_a_password_and_lets_values_expire() {
    let server = Server::redis(&["--requirepass", "sesame"]);
    let entry = |password: &str| {
        let redis = json!({"endpoint": server.address(), "single_node": true, "password": password, "db": 3, "timeout": "1s",
            "expiration": "1h", "min_idle_conns": 2, "pool_size": 3, "conn_max_lifetime": "1m", "conn_max_idle_time": "1m"});
        only(json!({"roles": ["frontend-search"], "redis": redis}))
    };
    let running = Running::new(entry("sesame"));
    running.fill(CacheRole::FrontendSearch, &keys(300));
    let key = &keys(1)[0];
    let expiry = server.ask_all(&format!("AUTH sesame\r\nSELECT 3\r\nTTL {key}\r\n"));
    let seconds: i64 = expiry.lines().find_map(|line| line.strip_prefix(':')).unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&seconds), "{expiry}");
    let wrong = Running::new(entry("open"));
    assert_eq!(wrong.get(CacheRole::FrontendSearch, &keys(3)), [None, None, None]);
}

#[test]
fn a_redis_cluster_is_a_cache() {
    let server = Server::redis_cluster();
    for routing in ["read_only", "route_randomly"] {
        let redis = json!({"endpoint": server.address(), "timeout": "1s", "ttl": "1h", routing: true});
        let running = Running::new(only(json!({"roles": ["bloom"], "redis": redis})));
        running.fill(CacheRole::Bloom, &keys(300));
    }
}

#[test]
fn a_cache_that_dies_is_a_miss_and_comes_back() {
    let mut memcached = Server::memcached(&[]);
    let mut redis = Server::redis(&[]);
    let circuit = json!({"circuit_breaker_consecutive_failures": 3, "circuit_breaker_timeout": "200ms"});
    let mut memcached_config = json!({"addresses": memcached.address(), "timeout": "500ms"});
    memcached_config.as_object_mut().unwrap().extend(circuit.as_object().unwrap().clone());
    let redis_config = json!({"endpoint": redis.address(), "single_node": true, "timeout": "500ms"});
    let running = Running::new(json!({"in_process": {"max_bytes": 0}, "caches": [
        {"roles": ["bloom"], "memcached": memcached_config},
        {"roles": ["parquet-page"], "redis": redis_config},
    ]}));
    let keys = keys(5);
    running.fill(CacheRole::Bloom, &keys);
    running.fill(CacheRole::ParquetPage, &keys);
    for server in [&mut memcached, &mut redis] {
        server.child.kill().unwrap();
        server.child.wait().unwrap();
    }
    let started = Instant::now();
    for _ in 0..200 {
        for role in [CacheRole::Bloom, CacheRole::ParquetPage] {
            assert!(running.get(role, &keys).iter().all(Option::is_none));
        }
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let port = memcached.port.to_string();
    let _again = Server::start(parts::memcached(), memcached.port, &["-l", "127.0.0.1", "-p", &port, "-U", "0", "-u", "root"]);
    running.fill(CacheRole::Bloom, &keys);
}

/// Value of a counter by role and outcome.
fn count(metrics: &str, name: &str, role: &str, outcome: &str) -> f64 {
    let labels = [format!("role=\"{role}\""), format!("outcome=\"{outcome}\"")];
    let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label)));
    line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or(0.0)
}

#[test]
fn the_binary_reads_through_its_caches() {
    let (memcached, redis) = (Server::memcached(&[]), Server::redis(&["--requirepass", "sesame"]));
    let place = Place::new();
    place.append_config(&format!(
        "cache:
  in_process: {{max_bytes: 0}}
  caches:
    - roles: [bloom, trace-id-index, parquet-footer, parquet-column-idx, parquet-offset-idx, parquet-page]
      memcached: {{addresses: 'dns+127.0.0.1:{}', consistent_hash: true, timeout: 2s}}
    - roles: [frontend-search]
      redis: {{endpoint: '{}', single_node: true, password: sesame, timeout: 2s}}
",
        memcached.port,
        redis.address()
    ));
    let id = otlp::id::<16>(1);
    let now = otlp::now() / 1_000_000_000;
    let (start, end) = ((now - 3600).to_string(), (now + 3600).to_string());
    let question = [("q", "{ span.test.case = \"cached\" }"), ("start", &*start), ("end", &*end)];
    let requests = |metrics: &str, role: &str, outcome: &str| count(metrics, "tempodb_cache_requests_total", role, outcome);
    let first = {
        let tempo = place.start();
        let client = tempo.client();
        client.push(&otlp::rich_trace(&id, "cached"));
        tempo.flush();
        eventually("the block is listed and searched", SOON, || client.ask("/api/search", &question).json()["metrics"]["totalBlocks"] == 1);
        let first = client.trace(&id);
        // Until the writers have done their work.
        eventually("the job is answered from the cache", SOON, || {
            let answer = client.ask("/api/search", &question).json();
            assert_eq!(answer["traces"][0]["traceID"], hex(&id).trim_start_matches('0'));
            requests(&client.get("/metrics").text(), "frontend-search", "hit") >= 1.0
        });
        eventually("all writes are done", SOON, || {
            let metrics = client.get("/metrics").text();
            metrics.lines().filter(|line| line.starts_with("tempo_cache_background_queue_length{")).all(|line| line.ends_with(" 0"))
        });
        first
    };
    // A new process has nothing in memory: footer, indexes, bloom filter and pages come from memcached.
    let tempo = place.start();
    let client = tempo.client();
    eventually("everything comes from caches", SOON, || {
        assert_eq!(client.trace(&id), first);
        let metrics = client.get("/metrics").text();
        ["bloom", "trace-id-index", "parquet-footer", "parquet-offset-idx", "parquet-page"]
            .iter()
            .all(|role| requests(&metrics, role, "hit") >= 1.0)
    });
    let metrics = client.get("/metrics").text();
    assert_eq!(requests(&metrics, "parquet-footer", "miss"), 0.0, "{metrics}");
    assert!(count(&metrics, "tempodb_cache_request_bytes_total", "parquet-footer", "hit") > 0.0);
    assert!(metrics.contains("tempo_memcache_client_servers{"), "{metrics}");
    // Both caches gone: the same answers.
    drop((memcached, redis));
    assert_eq!(client.trace(&id), first);
    assert_eq!(client.search(&question), [hex(&id)]);
}

#[test]
fn the_cache_of_2x_is_used() {
    let memcached = Server::memcached(&[]);
    let place = Place::new();
    let text = std::fs::read_to_string(place.config_file()).unwrap();
    let legacy = format!(
        "trace: {{cache: memcached, memcached: {{addresses: '{}', timeout: 2s}}, search: {{cache_control: {{footer: true}}}}, ",
        memcached.address()
    );
    std::fs::write(place.config_file(), text.replace("trace: {backend", &format!("{legacy}backend"))).unwrap();
    let tempo = place.start();
    let (client, id) = (tempo.client(), otlp::id::<16>(2));
    client.push(&otlp::rich_trace(&id, "legacy"));
    tempo.flush();
    // Bloom filter and index as the block is written, the footer as it is read.
    eventually("the roles are stored", SOON, || !client.trace(&id).is_empty() && memcached.memcached_items() == 3);
}
