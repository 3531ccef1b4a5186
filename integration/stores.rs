//! Object stores as programs of their own, on free ports of 127.0.0.1, killed when dropped.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tempo_rs::base::secret::Secret;
use tempo_rs::tempodb::config::TraceStorageConfig;

use crate::parts;
use crate::process::free_port;
use crate::wait::{eventually, until_some};

/// Azurite loads slowly when the disk is cold.
const START_LIMIT: Duration = Duration::from_secs(90);

/// Bucket or container of every store.
pub(crate) const BUCKET: &str = "tempo";
pub(crate) const ACCESS_KEY: &str = "access";
pub(crate) const SECRET_KEY: &str = "a-secret-that-is-checked";
/// The published account of the emulator.
const AZURE_ACCOUNT: &str = "devstoreaccount1";
const AZURE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    Local,
    S3,
    Gcs,
    Azure,
}

impl StoreKind {
    pub(crate) const ALL: [Self; 4] = [Self::Local, Self::S3, Self::Gcs, Self::Azure];
    pub(crate) const REMOTE: [Self; 3] = [Self::S3, Self::Gcs, Self::Azure];

    /// Starts the program, with an empty bucket.
    pub(crate) fn start(self) -> Store {
        let mut store = Store::new(self);
        match self {
            Self::Local => {}
            Self::S3 => {
                store.start_s3(&[]);
                store.wait_until_it_answers("/_health");
            }
            Self::Gcs => store.start_gcs(),
            Self::Azure => store.start_azure(),
        }
        store
    }
}

/// An S3 server with the certificate of `testdata/tls`.
pub(crate) fn s3_with_tls() -> Store {
    let mut store = Store::new(StoreKind::S3);
    let file = |name: &str| tls_file(name).display().to_string();
    store.start_s3(&["--cert", &file("server.pem"), "--key", &file("server.key")]);
    eventually("the store listens", START_LIMIT, || TcpStream::connect(("127.0.0.1", store.port)).is_ok());
    store
}

pub(crate) fn tls_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tls").join(name)
}

/// A running store.
pub(crate) struct Store {
    pub(crate) kind: StoreKind,
    pub(crate) port: u16,
    processes: Vec<Child>,
    folder: TempDir,
}

impl Store {
    fn new(kind: StoreKind) -> Self {
        let folder = tempfile::Builder::new().prefix("store-").tempdir().unwrap();
        Self { kind, port: free_port(), processes: Vec::new(), folder }
    }

    fn start_s3(&mut self, more: &[&str]) {
        let (objects, meta) = (self.folder.path().join("objects"), self.folder.path().join("meta"));
        fs::create_dir_all(objects.join(BUCKET)).unwrap();
        fs::create_dir_all(&meta).unwrap();
        let address = format!("127.0.0.1:{}", self.port);
        self.run(
            Command::new(parts::s3_server())
                .args(["--port", &address, "--access", ACCESS_KEY, "--secret", SECRET_KEY, "--region", "us-east-1"])
                .args(["--health", "/_health", "--keep-alive", "--quiet"])
                .args(more)
                .args(["posix", "--sidecar"])
                .args([&meta, &objects]),
        );
    }

    fn start_gcs(&mut self) {
        let objects = self.folder.path().join("objects");
        fs::create_dir_all(objects.join(BUCKET)).unwrap();
        let server_port = free_port().to_string();
        let public = format!("127.0.0.1:{}", self.port);
        self.run(
            Command::new(parts::gcs_server())
                .args(["-scheme", "http", "-host", "127.0.0.1", "-port", &server_port, "-log-level", "error"])
                .args(["-public-host", &public, "-external-url", &format!("http://{public}"), "-backend", "filesystem"])
                .arg("-filesystem-root")
                .arg(&objects)
                .arg("-data")
                .arg(&objects),
        );
        self.run(&mut parts::python_command("gcs_front.py", &[&self.port.to_string(), &server_port]));
        self.wait_until_it_answers("/storage/v1/b?project=p");
    }

    fn start_azure(&mut self) {
        let port = self.port.to_string();
        self.run(
            Command::new("node")
                .arg(parts::azure_server())
                .args([
                    "--blobHost",
                    "127.0.0.1",
                    "--blobPort",
                    &port,
                    "--skipApiVersionCheck",
                    "--disableTelemetry",
                    "--silent",
                    "--location",
                ])
                .arg(self.folder.path()),
        );
        eventually("Azurite listens", START_LIMIT, || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
        parts::python("azure_container.py", &[&port, AZURE_ACCOUNT, AZURE_KEY, BUCKET]);
    }

    fn run(&mut self, command: &mut Command) {
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        self.processes.push(child.unwrap_or_else(|error| panic!("{command:?}: {error}")));
    }

    fn wait_until_it_answers(&self, path: &str) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        until_some("the store answers", START_LIMIT, || agent.get(&url).call().ok().filter(|answer| answer.status().as_u16() == 200));
    }

    /// Configuration with the bucket of this store, below a prefix.
    pub(crate) fn config(&self, prefix: &str) -> TraceStorageConfig {
        self.config_at(self.port, prefix)
    }

    /// The same by way of a proxy.
    pub(crate) fn config_at(&self, port: u16, prefix: &str) -> TraceStorageConfig {
        let mut config = TraceStorageConfig { backend: self.name().to_owned(), ..TraceStorageConfig::default() };
        let (text, host) = (str::to_owned, format!("127.0.0.1:{port}"));
        config.local.path = self.folder.path().join("blocks").display().to_string();
        let s3 = &mut config.s3;
        (s3.bucket, s3.prefix, s3.endpoint, s3.insecure, s3.region) = (text(BUCKET), text(prefix), host.clone(), true, text("us-east-1"));
        (s3.access_key, s3.secret_key) = (text(ACCESS_KEY), Secret::new(text(SECRET_KEY)));
        let gcs = &mut config.gcs;
        (gcs.bucket_name, gcs.prefix, gcs.endpoint, gcs.insecure) =
            (text(BUCKET), text(prefix), format!("http://{host}/storage/v1/"), true);
        let azure = &mut config.azure;
        (azure.container_name, azure.prefix, azure.endpoint_suffix) = (text(BUCKET), text(prefix), host);
        (azure.storage_account_name, azure.storage_account_key) = (text(AZURE_ACCOUNT), Secret::new(text(AZURE_KEY)));
        config
    }

    /// The store's keys of `storage.trace` as YAML, with more keys in the store's block.
    pub(crate) fn yaml(&self, port: u16, more: &str) -> String {
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        match self.kind {
            StoreKind::Local => format!("backend: local, local: {{path: {:?}}}", self.folder.path().join("blocks")),
            StoreKind::S3 => format!(
                "backend: s3, s3: {{bucket: {BUCKET}, prefix: some/prefix, endpoint: '127.0.0.1:{port}', insecure: true, region: us-east-1, \
                 access_key: {ACCESS_KEY}, secret_key: {SECRET_KEY}{more}}}"
            ),
            StoreKind::Gcs => {
                format!(
                    "backend: gcs, gcs: {{bucket_name: {BUCKET}, endpoint: 'http://127.0.0.1:{port}/storage/v1/', insecure: true{more}}}"
                )
            }
            StoreKind::Azure => format!(
                "backend: azure, azure: {{container_name: {BUCKET}, endpoint_suffix: '127.0.0.1:{port}', \
                 storage_account_name: {AZURE_ACCOUNT}, storage_account_key: '{AZURE_KEY}'{more}}}"
            ),
        }
    }

    fn name(&self) -> &'static str {
        match self.kind {
            StoreKind::Local => "local",
            StoreKind::S3 => "s3",
            StoreKind::Gcs => "gcs",
            StoreKind::Azure => "azure",
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _already_gone = process.kill();
            let _ended = process.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("--- end of the log of {:?}\n{}\n---", self.kind, log.lines().rev().take(20).collect::<Vec<_>>().join("\n"));
        }
    }
}
