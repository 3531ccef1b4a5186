//! The binary as a child process over directories of its own.
//!
//! A [`Place`] owns directories, ports and the configuration file; [`Place::start`] runs the binary there and may be called again after the
//! process has ended, so a restart finds the same data. All ports are on 127.0.0.1. When a test fails, the end of the log is printed.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::Client;
use crate::wait::{SOON, until_some};

/// Log printed when a test fails.
const LOG_TAIL_BYTES: u64 = 8 << 10;

/// What a test wants to differ from the usual configuration.
pub(crate) struct Wishes {
    pub(crate) multitenancy: bool,
    /// Directory for log and blocks instead of one in the place's temporary folder.
    pub(crate) data: Option<PathBuf>,
    /// Cut and write blocks all the time instead of only on demand.
    pub(crate) eager_blocks: bool,
    /// Size of the segments of the ingest log.
    pub(crate) segment_bytes: u64,
    /// Rate and burst of each tenant.
    pub(crate) rate_limit_bytes: u64,
    /// Merge and delete blocks at once instead of leaving them as they are.
    pub(crate) compaction: bool,
    /// What the process runs.
    pub(crate) target: &'static str,
    /// Where the backend scheduler is when it is another process.
    pub(crate) scheduler_address: String,
    /// Limits of single tenants, as a runtime file.
    pub(crate) tenant_limits: String,
    pub(crate) block_version: &'static str,
    /// Keys of `storage.trace` that name another backend than the local one.
    pub(crate) backend: Option<String>,
}

/// Directories, ports and configuration file of one process.
pub(crate) struct Place {
    folder: TempDir,
    data: PathBuf,
    http: u16,
    grpc: u16,
    otlp_http: u16,
    otlp_grpc: u16,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(crate) fn with(change: impl FnOnce(&mut Wishes)) -> Self {
        let mut wishes = Wishes {
            multitenancy: false,
            data: None,
            eager_blocks: false,
            segment_bytes: 64 << 20,
            rate_limit_bytes: 10_000_000_000,
            compaction: false,
            target: "all",
            scheduler_address: String::new(),
            tenant_limits: "overrides: {}".to_owned(),
            block_version: "vParquet5",
            backend: None,
        };
        change(&mut wishes);
        let folder = tempfile::Builder::new().prefix("tempo-rs-").tempdir().unwrap();
        let data = wishes.data.clone().unwrap_or_else(|| folder.path().to_owned());
        let place = Self { data, folder, http: free_port(), grpc: free_port(), otlp_http: free_port(), otlp_grpc: free_port() };
        fs::write(place.config_file(), place.config(&wishes)).unwrap();
        fs::write(place.tenant_limits_file(), &wishes.tenant_limits).unwrap();
        place
    }

    /// The same directories with other ports, for a second process.
    pub(crate) fn twin(&self) -> Self {
        Self::with(|wishes| wishes.data = Some(self.data.clone()))
    }

    fn config(&self, wishes: &Wishes) -> String {
        let (http, grpc, otlp_http, otlp_grpc) = (self.http, self.grpc, self.otlp_http, self.otlp_grpc);
        let (log, blocks, own) = (self.log_dir(), self.blocks_dir(), self.folder.path().join("live-store"));
        let timings = if wishes.eager_blocks {
            "{flush_check_period: 50ms, max_trace_idle: 100ms, max_trace_live: 300ms, max_block_duration: 400ms"
        } else {
            "{flush_check_period: 100ms, max_trace_idle: 10m, max_trace_live: 10m, max_block_duration: 10m"
        };
        format!(
            "target: {target}
multitenancy_enabled: {multitenancy}
server: {{http_listen_address: 127.0.0.1, http_listen_port: {http}, grpc_listen_address: 127.0.0.1, grpc_listen_port: {grpc}}}
distributor:
  receivers:
    otlp:
      protocols:
        grpc: {{endpoint: '127.0.0.1:{otlp_grpc}'}}
        http: {{endpoint: '127.0.0.1:{otlp_http}'}}
ingest: {{embedded: {{path: {log:?}, segment_bytes: {segment_bytes}}}}}
live_store: {timings}, shutdown_marker_dir: {own:?}, wal: {{path: {wal:?}}}}}
storage:
  trace: {{{backend}, wal: {{path: {storage_wal:?}}}, block: {{version: {block_version}}}, blocklist_poll: 1s}}
overrides:
  defaults:
    ingestion: {{rate_limit_bytes: {rate_limit_bytes}, burst_size_bytes: {rate_limit_bytes}}}
    global: {{max_bytes_per_trace: 0}}
    compaction: {{compaction_disabled: {compaction_disabled}}}
  per_tenant_override_config: {tenant_limits:?}
backend_scheduler:
  local_work_path: {work:?}
  maintenance_interval: 200ms
  backend_flush_interval: 300ms
  job_timeout: 1s
  provider:
    # Blocks are merged within a window: the longer it is, the fewer tests run across the end of one. That of 24 hours ago is left alone.
    compaction: {{measure_interval: 200ms, min_cycle_interval: 100ms, compaction: {{compaction_window: 12h}}}}
    retention: {{interval: 300ms}}
    redaction: {{poll_interval: 100ms, rescan_delay: 1s}}
    maintenance: {{interval: 1s}}
backend_worker:
  backend_scheduler_addr: '{scheduler_address}'
  compaction: {{compacted_block_retention: 3s}}
",
            target = wishes.target,
            compaction_disabled = !wishes.compaction,
            tenant_limits = self.tenant_limits_file(),
            work = self.work_dir(),
            scheduler_address = wishes.scheduler_address,
            multitenancy = wishes.multitenancy,
            backend = wishes.backend.clone().unwrap_or_else(|| format!("backend: local, local: {{path: {blocks:?}}}")),
            segment_bytes = wishes.segment_bytes,
            rate_limit_bytes = wishes.rate_limit_bytes,
            block_version = wishes.block_version,
            wal = own.join("wal"),
            storage_wal = self.folder.path().join("wal"),
        )
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.folder.path().join("tempo.yaml")
    }

    fn tenant_limits_file(&self) -> PathBuf {
        self.folder.path().join("limits.yaml")
    }

    /// Directory of the backend scheduler.
    pub(crate) fn work_dir(&self) -> PathBuf {
        self.data.join("work")
    }

    /// Directory of the ingest log.
    pub(crate) fn log_dir(&self) -> PathBuf {
        self.data.join("ingest")
    }

    /// Directory of the blocks: `<tenant>/<block>/…`.
    pub(crate) fn blocks_dir(&self) -> PathBuf {
        self.data.join("blocks")
    }

    /// `live_store.wal.path`, which need not exist.
    pub(crate) fn live_store_wal_dir(&self) -> PathBuf {
        self.folder.path().join("live-store/wal")
    }

    /// `storage.trace.wal.path`, which need not exist.
    pub(crate) fn storage_wal_dir(&self) -> PathBuf {
        self.folder.path().join("wal")
    }

    pub(crate) fn http_port(&self) -> u16 {
        self.http
    }

    pub(crate) fn otlp_http_port(&self) -> u16 {
        self.otlp_http
    }

    pub(crate) fn grpc_port(&self) -> u16 {
        self.grpc
    }

    /// Appends YAML blocks that are not in the configuration yet.
    pub(crate) fn append_config(&self, yaml: &str) {
        let text = fs::read_to_string(self.config_file()).unwrap();
        fs::write(self.config_file(), text + yaml).unwrap();
    }

    /// A client without a tenant.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.http, self.otlp_http, self.otlp_grpc)
    }

    /// Starts the binary and waits until it is ready.
    pub(crate) fn start(&self) -> Tempo<'_> {
        let mut tempo = self.launch();
        let client = self.client();
        until_some("the process is ready", SOON, || {
            if let Some(status) = tempo.child.try_wait().unwrap() {
                panic!("the process ended while starting: {status}");
            }
            client.try_get("/ready").filter(|answer| answer.status == 200)
        });
        tempo
    }

    /// Starts the binary without waiting for anything.
    pub(crate) fn launch(&self) -> Tempo<'_> {
        let log = File::options().create(true).append(true).open(self.process_log()).unwrap();
        let child = Command::new(binary())
            .arg(format!("-config.file={}", self.config_file().display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Tempo { place: self, child }
    }

    fn process_log(&self) -> PathBuf {
        self.folder.path().join("process.log")
    }

    fn log_tail(&self) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(self.process_log())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut tail = Vec::new();
            file.read_to_end(&mut tail)?;
            Ok(tail)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }

    /// Block directories that count as complete, because they have a `meta.json`.
    pub(crate) fn blocks_of(&self, tenant: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.blocks_dir().join(tenant)) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.join("meta.json").is_file()).collect()
    }
}

/// A running process; killed when dropped.
pub(crate) struct Tempo<'a> {
    place: &'a Place,
    child: Child,
}

impl Tempo<'_> {
    pub(crate) fn client(&self) -> Client {
        self.place.client()
    }

    /// `kill -9`, and waits for the end.
    pub(crate) fn kill(mut self) {
        self.kill_now();
    }

    fn kill_now(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and returns how the process ended; fails after `limit`.
    pub(crate) fn terminate(mut self, limit: Duration) -> ExitStatus {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        self.wait(limit)
    }

    /// Waits for the process to end.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        until_some("the process has ended", limit, || self.child.try_wait().unwrap())
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// All that the processes of this place wrote to stdout and stderr.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.place.process_log()).unwrap()
    }

    /// Highest resident memory so far, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap() << 10
    }

    /// Has everything live written to blocks.
    pub(crate) fn flush(&self) {
        assert_eq!(self.client().get("/flush").status, 204);
    }
}

impl Drop for Tempo<'_> {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _ended = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- end of the log of the process\n{}\n---", self.place.log_tail());
        }
    }
}

/// Runs the binary with `arguments` until it ends by itself.
pub(crate) fn run(arguments: &[&str]) -> Outcome {
    let (mut stdout, mut stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let mut child = Command::new(binary())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().unwrap())
        .stderr(stderr.try_clone().unwrap())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + SOON;
    let status = until_some(&format!("{arguments:?} has ended"), SOON * 2, || {
        if Instant::now() > deadline {
            child.kill().unwrap();
        }
        child.try_wait().unwrap()
    });
    let read = |file: &mut File| {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    };
    Outcome { code: status.code(), stdout: read(&mut stdout), stderr: read(&mut stderr) }
}

/// How a run ended; `code` is `None` when it had to be killed.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tempo-rs"))
}

/// Returns a port that nobody listens on and that was not given out before by this run.
///
/// Taken from below the range from which the system serves outgoing connections, so that nobody else takes it before the process does.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    // Runs at the same time start at different places.
    let shift = u16::try_from(std::process::id() * 64 % u32::from(COUNT)).unwrap();
    until_some("a free port", SOON, || {
        let number = GIVEN.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (shift + number % COUNT) % COUNT;
        TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
    })
}
