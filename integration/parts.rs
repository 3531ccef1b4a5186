//! Programs from outside that tests run. `parts/<name>.sh` puts one in place (nothing happens when it is there) and prints its path.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// Python with the OpenTelemetry SDK, its exporters, and pyarrow.
static PYTHON: LazyLock<PathBuf> = LazyLock::new(|| install("python"));
/// The load generator of the OpenTelemetry collector.
static TELEMETRYGEN: LazyLock<PathBuf> = LazyLock::new(|| install("telemetrygen"));

fn install(name: &str) -> PathBuf {
    let script = folder().join(format!("{name}.sh"));
    let output = Command::new(&script).output().unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(output.status.success(), "{name} is not to be had:\n{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let path = PathBuf::from(stdout.trim_end());
    assert!(path.is_file(), "{} printed no path: {stdout}", script.display());
    path
}

/// Runs a script of `parts/` with Python and returns its stdout; fails unless it succeeds.
pub(crate) fn python(script: &str, arguments: &[&str]) -> String {
    run(Command::new(&*PYTHON).arg(folder().join(script)).args(arguments))
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
