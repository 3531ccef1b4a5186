//! Programs from outside that tests run. `parts/<name>.sh` puts one in place (nothing happens when it is there) and prints its path.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// Python with the OpenTelemetry SDK, its exporters, and pyarrow.
static PYTHON: LazyLock<PathBuf> = LazyLock::new(|| install("python"));
/// The load generator of the OpenTelemetry collector.
static TELEMETRYGEN: LazyLock<PathBuf> = LazyLock::new(|| install("telemetrygen"));
/// Object stores, and a proxy that disturbs connections.
static S3_SERVER: LazyLock<PathBuf> = LazyLock::new(|| install("s3"));
static GCS_SERVER: LazyLock<PathBuf> = LazyLock::new(|| install("gcs"));
static AZURE_SERVER: LazyLock<PathBuf> = LazyLock::new(|| install("azurite"));
static TOXIPROXY: LazyLock<PathBuf> = LazyLock::new(|| install("toxiproxy"));

static MEMCACHED: LazyLock<PathBuf> = LazyLock::new(|| install("memcached"));
static REDIS: LazyLock<PathBuf> = LazyLock::new(|| install("redis"));

fn install(name: &str) -> PathBuf {
    let script = folder().join(format!("{name}.sh"));
    let output = Command::new(&script).output().unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(output.status.success(), "{name} is not to be had:\n{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let path = PathBuf::from(stdout.trim_end());
    assert!(path.is_file(), "{} printed no path: {stdout}", script.display());
    path
}

/// The program of a memcached server.
pub(crate) fn memcached() -> &'static Path {
    &MEMCACHED
}

/// The program of a Redis server.
pub(crate) fn redis() -> &'static Path {
    &REDIS
}

/// Runs a script of `parts/` with Python and returns its stdout; fails unless it succeeds.
pub(crate) fn python(script: &str, arguments: &[&str]) -> String {
    run(&mut python_command(script, arguments))
}

/// A script of `parts/` to be run with Python.
pub(crate) fn python_command(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(&*PYTHON);
    command.arg(folder().join(script)).args(arguments);
    command
}

/// An S3 server that checks signatures.
pub(crate) fn s3_server() -> &'static Path {
    &S3_SERVER
}

/// A Google Cloud Storage server without the XML API; see `parts/gcs_front.py`.
pub(crate) fn gcs_server() -> &'static Path {
    &GCS_SERVER
}

/// An Azure Blob Storage server, as a script for Node.
pub(crate) fn azure_server() -> &'static Path {
    &AZURE_SERVER
}

pub(crate) fn toxiproxy() -> &'static Path {
    &TOXIPROXY
}

/// Runs telemetrygen; fails unless it succeeds.
pub(crate) fn telemetrygen(arguments: &[&str]) {
    run(Command::new(&*TELEMETRYGEN).args(arguments));
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed:\n{stdout}\n{stderr}");
    stdout.into_owned()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/parts")
}
