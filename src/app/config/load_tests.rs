//! Tests of loading: defaults against the reference, texts of problems, 2.x files, example files.

use std::collections::BTreeSet;

use super::*;
use crate::base::duration::{GoDuration, PromDuration};
use crate::base::hostname::hostname;
use crate::base::size::ByteSize;

fn args(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// Loads a text as file `tempo.yaml` of a temporary folder; the folder's name is cut from the messages.
fn load_text(yaml: &str, flags: &[&str]) -> Result<Loaded, Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tempo.yaml");
    std::fs::write(&path, yaml).unwrap();
    let mut all = vec![format!("-config.file={}", path.display())];
    all.extend(args(flags));
    let folder = format!("{}/", dir.path().display());
    let shorten = |text: String| text.replace(&folder, "");
    load(&all)
        .map(|mut loaded| {
            for warning in &mut loaded.warnings {
                warning.message = shorten(warning.message.clone());
            }
            loaded
        })
        .map_err(|problems| problems.iter().map(|problem| shorten(problem.to_string())).collect())
}

fn problems(yaml: &str, flags: &[&str]) -> Vec<String> {
    load_text(yaml, flags).unwrap_err()
}

fn warnings(loaded: &Loaded) -> Vec<&str> {
    loaded.warnings.iter().map(|warning| warning.message.as_str()).collect()
}

/// What a target needs at least.
const LOCAL: &str = "storage: {trace: {backend: local, local: {path: /tmp/blocks}}}\n";

fn with_local(yaml: &str) -> String {
    format!("{LOCAL}{yaml}")
}

/// The same value, whatever its spelling.
fn means_the_same(ours: &Node, reference: &Node) -> bool {
    let text = |node: &Node| match node {
        Node::Text(text) => Some(text.clone()),
        Node::Int(number) => Some(number.to_string()),
        _ => None,
    };
    match (ours, reference) {
        (Node::List(ours), Node::List(reference)) => {
            ours.len() == reference.len() && ours.iter().zip(reference).all(|(ours, reference)| means_the_same(ours, reference))
        }
        (Node::Float(ours), Node::Float(reference)) => (ours - reference).abs() < 1e-9,
        (Node::Float(ours), Node::Int(reference)) => *ours == reference.to_string().parse::<f64>().unwrap(),
        _ if ours == reference => true,
        _ => {
            let (Some(ours), Some(reference)) = (text(ours), text(reference)) else { return false };
            let go = |text: &str| GoDuration::parse(text).ok();
            let prom = |text: &str| PromDuration::parse(text).ok();
            let size = |text: &str| ByteSize::parse(text).ok();
            (go(&ours).is_some() && go(&ours) == go(&reference))
                || (prom(&ours).is_some() && prom(&ours) == prom(&reference))
                || (size(&ours).is_some() && size(&ours) == size(&reference))
        }
    }
}

#[test]
fn defaults_equal_the_reference() {
    let table = include_str!("../../../testdata/config/defaults.txt");
    let defaults = Node::of(&Config::default()).unwrap();
    let (mut wrong, mut known) = (Vec::new(), BTreeSet::new());
    for row in table.lines().filter(|row| !row.starts_with('#')) {
        let (key, value) = row.split_once(' ').unwrap();
        let chosen = OWN_DEFAULTS.iter().find(|(chosen, _)| *chosen == key);
        let value = chosen.map_or(value, |(_, value)| value);
        let value = if value == "hostname" { hostname() } else { value.to_owned() };
        let reference = Document::parse(&format!("v: {value}")).unwrap().root.remove("v").unwrap();
        known.insert(key.to_owned());
        match defaults.at(&Path::dotted(key)) {
            Some(ours) if means_the_same(ours, &reference) => {}
            ours => wrong.push(format!("{key}: ours {ours:?}, reference {reference:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // And the other way round: no key of ours that the reference does not know.
    let mut extra = Vec::new();
    defaults.for_each_leaf(&Path::default(), &mut |path, _| {
        let key = path.to_string();
        let is_reserved = reserved::RESERVED_BLOCKS.iter().any(|block| key.split('.').next() == Some(block));
        if !is_reserved && !known.contains(&key) && !OWN_KEYS.contains(&key.as_str()) {
            extra.push(key);
        }
    });
    assert!(extra.is_empty(), "{}", extra.join("\n"));
}

/// Keys whose default is another on purpose (docs/differences.md).
const OWN_DEFAULTS: [(&str, &str); 1] = [("backend_scheduler.provider.compaction.max_input_blocks", "16")];

/// Keys that only tempo-rs has, or that the reference names outside its tables.
const OWN_KEYS: [&str; 11] = [
    "cluster_name",
    "overrides.merge_with_defaults",
    "metrics_generator.instance_availability_zone",
    "backend_scheduler.provider.maintenance.interval",
    "backend_scheduler.provider.maintenance.rewrite_enabled",
    "backend_scheduler.provider.maintenance.index_enabled",
    "backend_worker.concurrency",
    "backend_worker.memory_budget_bytes",
    "cache.in_process.max_bytes",
    "cache.in_process.roles",
    "cache.in_process.before_remote",
];

#[test]
fn a_missing_file_is_named_as_in_go() {
    let error = load(&args(&["-config.file=/nowhere/t.yaml"])).unwrap_err();
    assert_eq!(
        error[0].to_string(),
        "failed parsing config: failed to read configFile /nowhere/t.yaml: open /nowhere/t.yaml: no such file or directory"
    );
    assert_eq!(exit_code(&error), 1);
}

#[test]
fn every_problem_is_reported_with_line_key_and_suggestion() {
    let text = "\
server:
  http_listen_prt: 3200
  log_level: info
storage:
  trace:
    blocklist_poll: 5 minutes
    pool: {max_workers: many}
    max_bytes_per_trace: 5
    block: [1]
query_frontend:
  search:
    max_duration: 1x
  mcp_server: {enabled: maybe}
overrides:
  per_tenant_override_period: 1.5h
  defaults:
    ingestion: {rate_limit_bytes: -1, colour: red}
gateway:
  limts: {}
  timeouts: {conect: 5s}
  enabled: perhaps
";
    assert_eq!(
        problems(text, &[]),
        [
            "tempo.yaml:2: server.http_listen_prt: unknown key \"http_listen_prt\", did you mean \"http_listen_port\"?",
            "tempo.yaml:6: storage.trace.blocklist_poll: unknown unit \" minutes\" in duration \"5 minutes\"",
            "tempo.yaml:7: storage.trace.pool.max_workers: expected an integer, found \"many\"",
            "tempo.yaml:8: storage.trace.max_bytes_per_trace: unknown key \"max_bytes_per_trace\", did you mean \"overrides.defaults.global.max_bytes_per_trace\"?",
            "tempo.yaml:9: storage.trace.block: expected a mapping, found a list",
            "tempo.yaml:12: query_frontend.search.max_duration: unknown unit \"x\" in duration \"1x\"",
            "tempo.yaml:13: query_frontend.mcp_server.enabled: expected true or false, found \"maybe\"",
            "tempo.yaml:15: overrides.per_tenant_override_period: unknown unit \".\" in duration \"1.5h\"",
            "tempo.yaml:17: overrides.defaults.ingestion.colour: unknown key \"colour\"",
            "tempo.yaml:17: overrides.defaults.ingestion.rate_limit_bytes: expected an integer of 0 or more, found -1",
            "tempo.yaml:19: gateway.limts: unknown key \"limts\", did you mean \"limits\"?",
            "tempo.yaml:20: gateway.timeouts.conect: unknown key \"conect\", did you mean \"connect\"?",
            "tempo.yaml:21: gateway.enabled: expected true or false",
        ]
    );
}

#[test]
fn syntax_errors_and_duplicates_have_a_line() {
    assert_eq!(problems("a: 1\nb: [\n", &[]).len(), 1);
    assert!(problems("target: all\n  x: y\n", &[])[0].starts_with("tempo.yaml:2: "));
    assert_eq!(
        problems("target: all\nserver:\n  log_level: info\n  log_level: warn\n", &[]),
        ["tempo.yaml:4: server.log_level: key is given twice"]
    );
    assert_eq!(problems("- 1\n", &[]), ["tempo.yaml:1: expected a mapping of blocks"]);
}

#[test]
fn problems_of_flags_name_the_flag() {
    assert_eq!(
        problems(LOCAL, &["-server.http-listen-port=high", "-shutdown-delay", "5"]),
        ["invalid value for flag -server.http-listen-port: expected an integer, found \"high\""]
    );
    let usage = load(&args(&["-no-such-flag"])).unwrap_err();
    assert_eq!((usage[0].to_string().as_str(), exit_code(&usage)), ("flag provided but not defined: -no-such-flag", 2));
}

#[test]
fn flags_win_over_the_file() {
    let text = with_local("server: {http_listen_port: 1}\n");
    let loaded = load_text(&text, &["-server.http-listen-port=2", "--storage.trace.local.path", "/x", "-shutdown-delay=1m"]).unwrap();
    assert_eq!(loaded.config.server.http_listen_port, 2);
    assert_eq!(loaded.config.storage.trace.local.path, "/x");
    assert_eq!(loaded.config.shutdown_delay, GoDuration::minutes(1));
}

#[test]
fn yaml_1_1_scalars_and_null_blocks() {
    let text = "\
multitenancy_enabled: yes
shutdown_delay: 10
server: {http_listen_port: 0x10, grpc_listen_port: 010, http_listen_conn_limit: 1_000, register_instrumentation: off}
storage:
  trace:
    backend: local
    local: {path: &p /tmp/b}
    wal: {path: *p}
    blocklist_poll: 1d
    pool: {max_workers: 1e2}
    block:
    s3: {region: 1.10, tags: {v: 1.10}}
live_store:
backend_worker: {compaction: {compacted_block_retention: 3d}}
overrides:
  defaults: {read: {max_search_duration: 1w}}
memberlist: {join_members: \"a:1,b:2\", cluster_label: 007}
";
    let loaded = load_text(text, &[]).unwrap();
    let config = &loaded.config;
    assert!(config.is_multitenant() && !config.server.register_instrumentation);
    assert_eq!((config.server.http_listen_port, config.server.grpc_listen_port, config.server.http_listen_conn_limit), (16, 8, 1000));
    assert_eq!(config.shutdown_delay, GoDuration::nanos(10));
    assert_eq!((config.storage.trace.wal.path.as_str(), config.storage.trace.pool.max_workers), ("/tmp/b", 100));
    assert_eq!((config.storage.trace.blocklist_poll, config.storage.trace.block.version.as_str()), (GoDuration::days(1), "vParquet5"));
    assert_eq!((config.storage.trace.s3.region.as_str(), config.storage.trace.s3.tags["v"].as_str()), ("1.10", "1.10"));
    assert_eq!(config.overrides.defaults.read.max_search_duration.to_string(), "1w");
    assert_eq!(
        (config.memberlist.join_members.as_slice(), config.memberlist.cluster_label.as_str()),
        (&["a:1".to_owned(), "b:2".to_owned()][..], "007")
    );
    assert!(warnings(&loaded).contains(&"tempo.yaml:2: shutdown_delay: 10 without a unit means 10 nanoseconds; write for example \"10s\""));
}

#[test]
fn merge_keys_work() {
    let text = with_local("ingester:\n  <<: {concurrent_flushes: 9, flush_check_period: 2s}\n  flush_check_period: 1s\n");
    let loaded = load_text(&text, &[]).unwrap();
    assert_eq!((loaded.config.ingester.concurrent_flushes, loaded.config.ingester.flush_check_period), (9, GoDuration::seconds(1)));
}

#[test]
fn receivers_are_on_when_their_key_is_present() {
    let text = with_local(
        "distributor:\n  receivers:\n    otlp:\n      protocols:\n        grpc:\n        http: {endpoint: \"0.0.0.0:4318\"}\n    zipkin:\n    jaeger: {protocols: {thrift_compact: null, grpc: {}}}\n",
    );
    let receivers = load_text(&text, &[]).unwrap().config.distributor.receivers;
    let otlp = receivers.otlp.as_ref().unwrap();
    assert_eq!(otlp.protocols.grpc.as_ref().unwrap().endpoint, "localhost:4317");
    assert_eq!(otlp.protocols.http.as_ref().unwrap().endpoint, "0.0.0.0:4318");
    assert_eq!(receivers.zipkin.as_ref().unwrap().endpoint, "localhost:9411");
    let jaeger = &receivers.jaeger.as_ref().unwrap().protocols;
    assert_eq!(jaeger.thrift_compact.as_ref().unwrap().endpoint, "localhost:6831");
    assert_eq!(jaeger.grpc.as_ref().unwrap().endpoint, "localhost:14250");
    assert!(jaeger.thrift_http.is_none());
    let defaults = Config::default().distributor.receivers.or_default();
    assert!(defaults.otlp.unwrap().protocols.http.is_none() && defaults.jaeger.unwrap().protocols.thrift_http.is_some());
    assert_eq!(
        problems(&with_local("distributor: {receivers: {otlp: {protocols: {grcp: {}}}}}"), &[]),
        ["tempo.yaml:2: distributor.receivers.otlp.protocols.grcp: unknown key \"grcp\", did you mean \"grpc\"?"]
    );
}

#[test]
fn expansion_needs_the_switch() {
    let text = with_local("http_api_prefix: \"${TEMPO_RS_NO_SUCH_VARIABLE:-/x}\" # ${comment}\n");
    assert_eq!(load_text(&text, &[]).unwrap().config.http_api_prefix, "${TEMPO_RS_NO_SUCH_VARIABLE:-/x}");
    assert_eq!(load_text(&text, &["-config.expand-env=true"]).unwrap().config.http_api_prefix, "/x");
    let broken = with_local("http_api_prefix: \"${A.b}\"\n");
    assert_eq!(
        problems(&broken, &["-config.expand-env"]),
        ["failed parsing config: failed to expand env vars from configFile tempo.yaml: missing closing brace"]
    );
}

#[test]
fn modes() {
    let mode = |list: &[&str]| load(&args(list)).unwrap().mode;
    assert_eq!(mode(&["-version", "-config.file=/nowhere"]), Mode::PrintVersion);
    assert!(matches!(mode(&["-h"]), Mode::Help(text) if text.contains("-config.file")));
    assert_eq!(mode(&["-health", "-health.url", "http://x/ready"]), Mode::Health("http://x/ready".to_owned()));
    assert!(matches!(mode(&["-config.print=diff", "-target=querier"]), Mode::PrintConfig(yaml) if yaml == "---\ntarget: querier\n"));
    assert_eq!(load_text(LOCAL, &["-config.verify"]).unwrap().mode, Mode::Verify);
    assert_eq!(load_text(LOCAL, &[]).unwrap().mode, Mode::Run);
}

#[test]
fn what_a_target_needs_is_checked() {
    let start = |yaml: &str, target: &str| problems(yaml, &[&format!("-target={target}"), "-config.verify"]);
    let at = |module: &str, text: &str| format!("failed to init module services: error initialising module: {module}: {text}");
    assert_eq!(start("", "all"), [at("store", "unknown backend  (storage.trace.backend must be local, gcs, s3 or azure)")]);
    assert_eq!(start("", "distributor"), [at("ingest-log", "the Kafka topic has not been configured")]);
    assert_eq!(start(LOCAL, "querier"), [at("querier", "frontend worker address not specified")]);
    assert_eq!(start(LOCAL, "backend-worker"), [at("backend-worker", "backend scheduler address is required")]);
    assert_eq!(start(LOCAL, "qerier"), ["failed to init module services: unrecognised module name: qerier"]);
    assert!(load_text(LOCAL, &["-target=querier,query-frontend", "-config.verify"]).is_ok());
    for (yaml, module, text) in [
        ("server: {log_level: loud}", "server", "unrecognized log level \"loud\""),
        ("live_store: {max_trace_idle: 1h}", "live-store", "max_trace_idle (1h0m0s) cannot be greater than max_trace_live (30s)"),
        ("live_store: {complete_block_timeout: 0s}", "live-store", "complete_block_timeout must be greater than 0, got 0s"),
        (
            "query_frontend: {trace_by_id: {query_shards: 1}}",
            "query-frontend",
            "frontend query shards should be between 2 and 100000 (both inclusive)",
        ),
        (
            "backend_scheduler: {provider: {compaction: {max_jobs_per_tenant: 0}}}",
            "backend-scheduler",
            "max_jobs_per_tenant must be greater than 0",
        ),
        (
            "backend_scheduler: {provider: {compaction: {min_input_blocks: 1}}}",
            "backend-scheduler",
            "provider.compaction.min_input_blocks must be at least 2 and at most max_input_blocks",
        ),
        (
            "backend_worker: {compaction: {compacted_block_retention: 10m}}",
            "backend-worker",
            "compaction.compacted_block_retention (10m0s) must be greater than twice storage.trace.blocklist_poll (5m0s), otherwise queries meet deleted blocks",
        ),
        (
            "ingest: {kafka: {topic: t, sasl_username: u}}",
            "ingest-log",
            "the SASL username and password must be both configured to enable SASL authentication",
        ),
        ("ingest: {embedded: {partitions: 0}}", "ingest-log", "ingest.embedded.partitions must be set to a positive value"),
        (
            "cache: {caches: [{roles: [bloom], memcached: {}}, {roles: [bloom], redis: {}}]}",
            "cache-provider",
            "role bloom is claimed by more than one cache",
        ),
        (
            "distributor: {forwarders: [{name: a, backend: otlpgrpc}]}",
            "distributor",
            "failed to validate config at index=0: cert_file is empty",
        ),
    ] {
        let found = start(&with_local(yaml), "all");
        assert!(found.contains(&at(module, text)), "{yaml}: {found:?}");
    }
}

#[test]
fn warnings_of_the_reference() {
    for (yaml, flags, expected) in [
        ("live_store: {complete_block_timeout: 1m}", &[][..], "live_store.complete_block_timeout < storage.trace.blocklist_poll"),
        (
            "backend_worker: {compaction: {block_retention: 1m}}",
            &[],
            "backend_worker.compaction.compacted_block_timeout < storage.trace.blocklist_poll",
        ),
        (
            "backend_worker: {compaction: {retention_concurrency: 0}}",
            &[],
            "backend_worker.Compactor.RetentionConcurrency must be greater than zero. Using default.",
        ),
        (
            "",
            &["-target=querier,query-frontend"],
            "Local backend will not correctly retrieve traces with a distributed deployment unless all components have access to the same disk. You should probably be using object storage as a backend.",
        ),
        (
            "query_frontend: {skip_ast_transformations: [x]}",
            &[],
            "unknown AST transformation \"x\" in query_frontend.skip_ast_transformations",
        ),
        (
            "query_frontend: {rf1_after: 2024-01-01T00:00:00Z}",
            &[],
            "query_frontend.rf1_after is deprecated and will be removed in a future release.",
        ),
        (
            "backend_scheduler: {work: {prune_age: 10m}}",
            &[],
            "c.BackendScheduler.Work.PruneAge must be greater than 2x the storage.trace.blocklist_poll duration",
        ),
        (
            "query_frontend: {trace_by_id: {concurrent_shards: 60}}",
            &[],
            "c.Frontend.TraceByID.ConcurrentShards greater than query_shards is invalid. concurrent_shards will be set to query_shards",
        ),
        (
            "overrides: {defaults: {ingestion: {rate_limit_bytes: 0}}}",
            &[],
            "overrides.defaults.ingestion.rate_limit_bytes is 0: every push is rejected",
        ),
    ] {
        let loaded = load_text(&with_local(yaml), flags).unwrap();
        assert!(warnings(&loaded).contains(&expected), "{yaml}: {:?}", loaded.warnings);
    }
}

#[test]
fn unbuilt_and_inert_keys_are_named_once() {
    let loaded = load_text(&with_local("memberlist: {bind_port: 1, gossip_nodes: 3}\nquerier: {extra_query_delay: 1s}\n"), &[]).unwrap();
    assert_eq!(warnings(&loaded), ["not supported yet, has no effect: memberlist.gossip_nodes, memberlist.bind_port"]);
    assert_eq!(loaded.notes, ["keys without effect: querier.extra_query_delay"]);
}

#[test]
fn files_of_2_x_load_with_warnings() {
    let text = "\
use_otel_tracer: true
target: all
distributor:
  receivers:
    otlp: {protocols: {grpc: {}}}
    opencensus:
ingester:
  trace_idle_period: 10s
  lifecycler: {ring: {kvstore: {store: inmemory}, replication_factor: 1}}
compactor:
  compaction:
    block_retention: 48h
    v2_out_buffer_bytes: 5242880
metrics_generator_client: {anything: [goes]}
metrics_generator:
  processor: {local_blocks: {flush_to_storage: true}}
  traces_storage: {path: /x}
query_frontend: {search: {query_ingesters_until: 30m}}
storage:
  trace:
    backend: local
    wal: {path: /tmp/w, v2_encoding: snappy}
    local: {path: /tmp/b}
    block: {version: vParquet5, v2_encoding: zstd}
";
    let loaded = load_text(text, &[]).unwrap();
    assert_eq!(loaded.config.backend_worker.compaction.block_retention, GoDuration::hours(48));
    assert_eq!(loaded.config.backend_scheduler.provider.compaction.compaction.block_retention, GoDuration::hours(48));
    let warnings = warnings(&loaded);
    for expected in [
        "tempo.yaml:1: use_otel_tracer was removed and is ignored: own traces are always OpenTelemetry's; delete the key",
        "tempo.yaml:6: distributor.receivers.opencensus was removed and is ignored: use the otlp receiver",
        "tempo.yaml:12: compactor.compaction.block_retention belongs to the classic compactor and is used as backend_worker.compaction.block_retention and backend_scheduler.provider.compaction.compaction.block_retention",
        "tempo.yaml:13: compactor.compaction.v2_out_buffer_bytes was removed and is ignored: v2 blocks are gone; delete the key",
        "tempo.yaml:18: query_frontend.search.query_ingesters_until was removed and is ignored: only query_frontend.search.query_backend_after decides",
        "tempo.yaml:24: storage.trace.block.v2_encoding was removed and is ignored: v2 blocks are gone; delete the key",
    ] {
        assert_eq!(warnings.iter().filter(|warning| **warning == expected).count(), 1, "{expected}\n{warnings:#?}");
    }
}

#[test]
fn flat_overrides_need_the_opt_in() {
    let flat = with_local(
        "overrides:\n  ingestion_rate_limit_bytes: 7\n  max_bytes_per_trace: 9\n  metrics_generator_processors: [span-metrics]\n",
    );
    assert!(problems(&flat, &[])[0].contains("DEPRECATED: legacy overrides config format detected"));
    let verified = load_text(&flat, &["-config.verify"]).unwrap();
    assert!(warnings(&verified).iter().any(|warning| warning.starts_with("DEPRECATED: Legacy (flat, unscoped)")));
    let limits = load_text(&flat, &["-config.enable-legacy-overrides"]).unwrap().config.overrides.defaults;
    assert_eq!(
        (limits.ingestion.rate_limit_bytes, limits.ingestion.burst_size_bytes, limits.global.max_bytes_per_trace),
        (7, 30_000_000, 9)
    );
    assert_eq!(limits.metrics_generator.processors, ["span-metrics"]);
    assert_eq!(
        problems(&with_local("overrides:\n  ingestion_rate_limit_bytes: x\n  max_traces_per_usr: 1\n"), &[]),
        [
            "tempo.yaml:3: overrides.ingestion_rate_limit_bytes: expected an integer, found \"x\"",
            "tempo.yaml:4: overrides.max_traces_per_usr: unknown key \"max_traces_per_usr\"",
        ]
    );
    assert!(problems(&with_local("overrides: {defaults: {}, block_retention: 1h}"), &[])[0].contains("are mixed"));
}

#[test]
fn all_forces_rings_into_memory() {
    let loaded = load_text(LOCAL, &[]).unwrap();
    assert_eq!(loaded.config.live_store.ring.kvstore.store, "inmemory");
    assert_eq!(loaded.config.live_store.partition_ring.kvstore.store, "inmemory");
    assert_eq!(loaded.config.metrics_generator.ring.instance_addr, "127.0.0.1");
    assert!(!loaded.config.query_frontend.is_query_end_cutoff_set);
    assert!(load_text(&with_local("query_frontend: {query_end_cutoff: 30s}"), &[]).unwrap().config.query_frontend.is_query_end_cutoff_set);
}

#[test]
fn secrets_are_printed_as_stars() {
    let text = with_local(
        "ingest: {kafka: {sasl_password: hunter2}}\nmetrics_generator: {storage: {remote_write: [{url: u, basic_auth: {password: hunter3}}]}}\n",
    );
    let config = load_text(&text, &["-config.print=effective"]).unwrap();
    let Mode::PrintConfig(yaml) = config.mode else { panic!("no yaml") };
    assert!(yaml.contains("sasl_password: '********'") && yaml.contains("password: <secret>") && !yaml.contains("hunter"), "{yaml}");
    assert_eq!(config.config.ingest.kafka.sasl_password.reveal(), "hunter2");
    assert_eq!(render::render(&config.config, Some("x")).unwrap_err(), "unknown value for mode query parameter: x");
}

#[test]
fn printed_configuration_can_be_read_again() {
    let yaml = render::render(&Config::default(), Some("defaults")).unwrap();
    let loaded = load_text(&yaml, &["-storage.trace.backend=local", "-storage.trace.local.path=/b"]).unwrap();
    assert_eq!(warnings(&loaded), Vec::<&str>::new());
}

#[test]
fn example_files_load() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/single-binary.yaml");
    let loaded = load(&args(&[&format!("-config.file={path}"), "-config.verify"])).unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config.ingest.embedded.path, "./data/ingest");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/s3.yaml");
    let loaded = load(&args(&[&format!("-config.file={path}"), "-config.verify", "-config.expand-env"])).unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!((loaded.config.storage.trace.backend.as_str(), loaded.config.storage.trace.s3.insecure), ("s3", false));
    let roles = ["distributor", "block-builder", "metrics-generator", "query-frontend", "querier", "backend-scheduler", "backend-worker"];
    let targets = roles.map(|role| format!("-target={role}"));
    let microservices = targets.iter().map(|target| ("microservices.yaml", vec![target.as_str(), "-config.expand-env=true"]));
    for (file, flags) in [("single-binary.yaml", Vec::new())].into_iter().chain(microservices) {
        let path = format!("{}/testdata/config/{file}", env!("CARGO_MANIFEST_DIR"));
        let mut all = args(&[&format!("-config.file={path}")]);
        all.extend(args(&flags));
        let loaded = load(&all).unwrap();
        let only_unbuilt = loaded.warnings.iter().all(|warning| warning.message.starts_with("not supported yet"));
        assert!(only_unbuilt, "{file}: {:?}", loaded.warnings);
    }
}

/// No file makes the process panic, and what differs from the defaults is enough to restore a tree.
mod properties {
    use proptest::prelude::*;

    use super::*;

    fn arb_node() -> impl Strategy<Value = Node> {
        let leaf = prop_oneof![
            Just(Node::Null),
            any::<bool>().prop_map(Node::Bool),
            any::<i64>().prop_map(Node::Int),
            "[a-z0-9.:-]{0,6}".prop_map(Node::Text)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Node::List),
                prop::collection::btree_map("(server|storage|trace|overrides|defaults|ingestion|[a-c])", inner, 0..4)
                    .prop_map(|map| Node::Map(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_tree_loads_or_is_refused(node in arb_node()) {
            let yaml = serde_norway::to_string(&node).unwrap();
            if let Err(problems) = load_text(&yaml, &["-config.verify"]) {
                prop_assert!(!problems.is_empty());
            }
        }

        #[test]
        fn any_text_loads_or_is_refused(text in "[ \\n:a-c\\[\\]{}&*!|>'\"#%@,0-9-]{0,40}") {
            if let Err(problems) = load_text(&text, &["-config.verify", "-config.expand-env"]) {
                prop_assert!(!problems.is_empty());
            }
        }

        #[test]
        fn overlaying_the_difference_restores(base in arb_node(), over in arb_node()) {
            let (Node::Map(_), Node::Map(_)) = (&base, &over) else { return Ok(()) };
            let mut laid = base.clone();
            laid.overlay(over);
            let mut restored = base.clone();
            restored.overlay(laid.difference(&base).unwrap_or(Node::Null));
            prop_assert_eq!(restored, laid);
        }
    }
}
