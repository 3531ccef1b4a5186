//! Composition root: configuration, module registry and dependency graph, life cycle, HTTP and gRPC servers, ops endpoints.
//!
//! [`main`] reads the command line, builds the modules that the target needs in the order of the graph, and runs them until a signal or a
//! failure. Everything else is handed down from here; nothing below knows `app`.

pub mod config;
pub mod graph;
pub mod lifecycle;
pub mod logging;
mod modules;
mod limits;
mod server;
mod ops;
mod health;
mod health_command;
mod cli;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic_health::pb::health_server::HealthServer;
use tracing::{error, info, warn};

use self::config::{Loaded, Mode};
use self::lifecycle::States;
use self::modules::{Context, MODULES};
use self::ops::Ops;
use self::server::{Listeners, REQUEST_DURATION, Server};
use crate::base::clock::SystemClock;
use crate::base::cpu_pool::CpuPool;
use crate::modules::{backend_scheduler, distributor};
use crate::services::cache;
use crate::tempodb;

/// Buckets of request durations, as dashboards expect them (http-api §1).
const REQUEST_BUCKETS: [f64; 14] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0];
/// Buckets of all other histograms, in seconds.
const OTHER_BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// How often recorded samples are folded into their histograms; between, they cost memory.
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Runs the process described by the command line until it is told to stop.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first()
        && first == "cli"
    {
        return cli::main(rest);
    }
    let loaded = match config::load(&arguments) {
        Ok(loaded) => loaded,
        Err(problems) => {
            problems.iter().for_each(|problem| complain(&problem.to_string()));
            return ExitCode::from(config::exit_code(&problems));
        }
    };
    match &loaded.mode {
        Mode::PrintVersion => print(&version_text()),
        Mode::Help(text) | Mode::PrintConfig(text) => print(text),
        Mode::Health(url) => health_command::run(url),
        Mode::Verify => verify(&loaded),
        Mode::Run => match run(loaded) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                complain(&format!("error running tempo-rs: {failure:#}"));
                ExitCode::FAILURE
            }
        },
    }
}

fn version_text() -> String {
    format!("tempo, version {} (branch: , revision: )\n  implementation: tempo-rs", env!("CARGO_PKG_VERSION"))
}

fn print(text: &str) -> ExitCode {
    // Nobody is left to tell when standard output is closed.
    let _closed = writeln!(std::io::stdout(), "{}", text.trim_end());
    ExitCode::SUCCESS
}

fn complain(text: &str) {
    let _closed = writeln!(std::io::stderr(), "{text}");
}

fn verify(loaded: &Loaded) -> ExitCode {
    for warning in &loaded.warnings {
        complain(&format!("warning: {} {}", warning.message, warning.explain));
    }
    if loaded.warnings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Starts the runtime and runs the modules of the target.
fn run(loaded: Loaded) -> anyhow::Result<()> {
    let server = &loaded.config.server;
    let format = if server.log_format == "json" { logging::LogFormat::Json } else { logging::LogFormat::Logfmt };
    logging::init(&server.log_level, format);
    info!(version = env!("CARGO_PKG_VERSION"), target = loaded.config.target, "starting tempo-rs");
    for warning in &loaded.warnings {
        warn!(explain = warning.explain, "{}", warning.message);
    }
    loaded.notes.iter().for_each(|note| info!("{note}"));
    let metrics = install_metrics()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let outcome = runtime.block_on(run_modules(loaded, metrics));
    // Nothing is left but work that nobody waits for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn run_modules(loaded: Loaded, metrics: PrometheusHandle) -> anyhow::Result<()> {
    let targets = target_modules(&loaded)?;
    let nodes: Vec<_> = MODULES.iter().map(|module| module.node).collect();
    let mut plan = graph::plan(&nodes, &targets).context("failed to init module services")?;
    // Modules that use each other without needing it are built in the order of the table.
    plan.sort_unstable();

    let listeners = Listeners::bind(&loaded.config.server)?;
    let threads = available_parallelism().map_or(1, usize::from);
    let cpu = CpuPool::new("cpu", threads).context("cannot start the CPU pool")?;
    let config = loaded.config.clone();
    let mut context = Context::new(loaded, Arc::new(SystemClock), cpu);
    let mut services = Vec::new();
    for module in plan.into_iter().map(|index| &MODULES[index]) {
        let name = module.node.name;
        let service = (module.build)(&mut context)
            .await
            .with_context(|| format!("failed to init module services: error initialising module: {name}"))?;
        let needs = module.node.needs.iter().chain(module.uses).copied().collect();
        services.push(lifecycle::Module { name, needs, service });
    }

    let states = States::default();
    let ops = Arc::new(make_ops(&mut context, states.clone(), metrics.clone()));
    let http = std::mem::take(&mut context.http).merge(ops::router(Arc::clone(&ops), &config.http_api_prefix));
    let http = match config.server.http_path_prefix.trim_end_matches('/') {
        "" => http,
        prefix => Router::new().nest(prefix, http),
    };
    let grpc = &mut context.grpc;
    grpc.add_service(HealthServer::new(health::HealthService(Arc::clone(&ops))));
    let grpc = std::mem::take(grpc).routes();
    let server = Server::new(&config.server, listeners, http, grpc)?;
    if let Some(module) = services.iter_mut().find(|module| module.name == "server") {
        module.service = Box::new(server);
    }

    let stop = CancellationToken::new();
    let upkeep = tokio::spawn(keep_metrics_small(metrics));
    let signals = tokio::spawn(stop_on_signal(stop.clone(), Arc::clone(&ops), config.shutdown_delay.to_std()));
    let started = tokio::spawn(say_when_started(states.clone()));
    let outcome = lifecycle::run_all(services, states, stop).await;
    ops.is_stopping.store(true, Ordering::Relaxed);
    [upkeep, signals, started].iter().for_each(|task| task.abort());
    info!("tempo-rs stopped");
    outcome
}

/// Returns the modules that the targets name.
fn target_modules(loaded: &Loaded) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for name in &loaded.targets.names {
        let name = if name == "all-3.0" { "all" } else { name };
        anyhow::ensure!(modules::is_built(name), "target {name} is not supported yet; use all");
        names.push(name.to_owned());
    }
    Ok(names)
}

fn make_ops(context: &mut Context, states: States, metrics: PrometheusHandle) -> Ops {
    let config = context.loaded.config.clone();
    let (overrides, target) = (context.overrides.clone(), config.target.clone());
    let mut endpoints = std::mem::take(&mut context.endpoints);
    endpoints.extend(ops::ENDPOINTS.map(str::to_owned));
    Ops {
        states,
        is_stopping: AtomicBool::new(false),
        ready_checks: std::mem::take(&mut context.ready_checks),
        endpoints,
        render_config: Box::new(move |mode| config::render::render(&config, mode)),
        render_limits: Box::new(move |mode| match &overrides {
            Some(overrides) => limits::render(overrides, mode),
            None => Ok(format!("overrides module not loaded in {target}")),
        }),
        metrics,
    }
}

fn install_metrics() -> anyhow::Result<PrometheusHandle> {
    let mut builder = PrometheusBuilder::new().set_buckets(&OTHER_BUCKETS)?;
    let own = [(REQUEST_DURATION, &REQUEST_BUCKETS[..])];
    let modules = [distributor::metrics::BUCKETS, backend_scheduler::metrics::BUCKETS, cache::metrics::BUCKETS, tempodb::metrics::BUCKETS];
    for (name, buckets) in own.iter().chain(modules.into_iter().flatten()) {
        builder = builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets)?;
    }
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).context("cannot install the metrics recorder")?;
    Ok(handle)
}

async fn keep_metrics_small(metrics: PrometheusHandle) {
    let mut ticks = tokio::time::interval(METRICS_UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

/// Stops everything on the first SIGINT or SIGTERM; the second ends the process at once.
async fn stop_on_signal(stop: CancellationToken, ops: Arc<Ops>, delay: Duration) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        error!("signals cannot be handled; the process will end without draining");
        return;
    };
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    next().await;
    info!("received SIGINT/SIGTERM, exiting");
    ops.is_stopping.store(true, Ordering::Relaxed);
    tokio::time::sleep(delay).await;
    stop.cancel();
    next().await;
    warn!("received a second signal, exiting at once");
    std::process::exit(1);
}

async fn say_when_started(states: States) {
    states.wait_until_running().await;
    info!("tempo-rs started");
}
