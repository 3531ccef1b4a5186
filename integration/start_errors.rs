//! A process that cannot start says why in one line and ends with code 1; the command line takes the styles users know.

use std::fs;
use std::net::TcpListener;

use crate::process::{Outcome, Place, run};
use crate::wait::SOON;

/// Runs over a configuration with `extra` appended (or instead, when it names an existing block).
fn run_with(yaml: &str) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tempo.yaml");
    fs::write(&file, yaml).unwrap();
    run(&[&format!("-config.file={}", file.display())])
}

/// Fails unless the run ended with code 1 and a single line on stderr (log lines before it aside) that contains all of `parts`.
fn assert_refused(outcome: &Outcome, parts: &[&str]) {
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let last = outcome.stderr.lines().last().unwrap_or_default();
    for part in parts {
        assert!(last.contains(part), "{part:?} in the last line of {outcome:?}");
    }
    assert!(!outcome.stderr.contains("panicked"), "{outcome:?}");
}

/// Fails unless that line is all there is.
fn assert_refused_in_one_line(outcome: &Outcome, parts: &[&str]) {
    assert_refused(outcome, parts);
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    assert_eq!(outcome.stdout, "");
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_key() {
    let outcome = run_with("server:\n  http_listen_prot: 3200\n");
    assert_refused_in_one_line(&outcome, &["tempo.yaml", "2", "server.http_listen_prot", "http_listen_port"]);
}

#[test]
fn a_wrong_duration_is_named_with_its_line() {
    let outcome = run_with("live_store:\n  max_trace_idle: 5 parsecs\n");
    assert_refused_in_one_line(&outcome, &["2", "live_store.max_trace_idle", "5 parsecs"]);
}

#[test]
fn contradicting_values_are_refused() {
    let outcome = run_with("storage: {trace: {backend: local}}\nlive_store: {max_trace_idle: 20s, max_trace_live: 10s}\n");
    assert_refused(&outcome, &["max_trace_idle (20s) cannot be greater than max_trace_live (10s)"]);
}

#[test]
fn block_versions_that_cannot_be_written_are_refused() {
    for (version, refusal) in [
        ("vParquet3", "vParquet3 is not a valid block version for creating blocks"),
        ("v2", "v2 is not a valid block version"),
        ("vparquet5", "vparquet5 is not a valid block version"),
    ] {
        assert_refused(&run_with(&format!("storage: {{trace: {{block: {{version: {version}}}}}}}\n")), &[refusal]);
    }
}

#[test]
fn a_missing_file_is_named() {
    let outcome = run(&["-config.file=/nonexistent/tempo.yaml"]);
    assert_refused_in_one_line(
        &outcome,
        &[
            "failed parsing config: failed to read configFile /nonexistent/tempo.yaml: open /nonexistent/tempo.yaml: no such file or directory",
        ],
    );
}

#[test]
fn a_file_that_is_not_yaml_is_named() {
    assert_refused_in_one_line(&run_with("server: [\n"), &["tempo.yaml:2"]);
}

#[test]
fn an_unknown_target_is_named() {
    let place = Place::new();
    let outcome = run(&[&format!("-config.file={}", place.config_file().display()), "-target=nonsense"]);
    assert_refused(&outcome, &["unrecognised module name: nonsense"]);
}

#[test]
fn a_port_in_use_is_named() {
    let place = Place::new();
    for port in [place.http_port(), place.grpc_port(), place.otlp_http_port()] {
        let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let outcome = run(&[&format!("-config.file={}", place.config_file().display())]);
        assert_refused(&outcome, &[&port.to_string(), "in use"]);
    }
    assert!(place.start().is_running());
}

#[test]
fn verify_accepts_good_and_refuses_bad_configurations() {
    let place = Place::new();
    let file = place.config_file().display().to_string();
    for arguments in [
        vec![format!("-config.file={file}"), "-config.verify".to_owned()],
        vec![format!("--config.file={file}"), "--config.verify=true".to_owned()],
        vec!["-config.file".to_owned(), file.clone(), "-config.verify=true".to_owned()],
        vec!["-config.verify".to_owned(), "--config.file".to_owned(), file.clone()],
    ] {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let outcome = run(&arguments);
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome:?}");
    }
    // Verifying starts nothing.
    assert!(!place.log_dir().exists() && !place.blocks_dir().exists());

    place.append_config("nonsense: 1\n");
    assert_refused_in_one_line(&run(&[&format!("-config.file={file}"), "-config.verify=true"]), &["nonsense"]);
}

#[test]
fn flags_win_over_the_file() {
    let place = Place::new();
    let port = crate::process::free_port();
    let outcome = run(&[
        &format!("-config.file={}", place.config_file().display()),
        "-config.verify=true",
        &format!("-server.http-listen-port={port}"),
    ]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let unknown = run(&["-no-such-flag"]);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(unknown.stderr.contains("no-such-flag"), "{unknown:?}");
}

#[test]
fn the_version_is_printed() {
    for flag in ["-version", "--version"] {
        let outcome = run(&[flag]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stdout.contains(env!("CARGO_PKG_VERSION")), "{outcome:?}");
    }
}

#[test]
fn the_health_command_asks_the_ready_endpoint() {
    let place = Place::new();
    let url = format!("-health.url=http://127.0.0.1:{}/ready", place.http_port());
    let down = run(&["-health", &url]);
    assert_eq!(down.code, Some(1), "{down:?}");
    let mut tempo = place.start();
    let up = run(&["-health", &url]);
    assert_eq!((up.code, up.stdout.trim()), (Some(0), "Tempo is healthy"), "{up:?}");
    assert!(tempo.is_running());
    drop(tempo);
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let place = Place::with(|wishes| wishes.data = Some(file.clone()));
    let mut tempo = place.launch();
    assert_eq!(tempo.wait(SOON).code(), Some(1));
    assert!(tempo.log().lines().last().unwrap().contains(&file.display().to_string()), "{}", tempo.log());
}
