//! The command line: Go-style flags (`-config.file=x`, `-target querier`), single and double dash alike.
//!
//! A flag either controls the process or sets a key of the configuration. Every key has a flag: its path with `-` for `_`
//! (`-storage.trace.blocklist-poll`); the names that do not follow this rule are in [`RENAMED`].

use crate::base::config_block::split_csv;
use crate::base::yaml::Document;
use crate::base::yaml::decode::nearest;
use crate::base::yaml::node::{Node, Path, Step};

/// Flags that set a key of another name. The concatenated ones are how the compatible system spells them.
const RENAMED: &[(&str, &str)] = &[
    ("config.enable-legacy-overrides", "overrides.enable_legacy_overrides"),
    ("config.per-user-override-config", "overrides.per_tenant_override_config"),
    ("config.per-user-override-period", "overrides.per_tenant_override_period"),
    ("log.level", "server.log_level"),
    ("auth.enabled", "auth_enabled"),
    ("multitenancy.enabled", "multitenancy_enabled"),
    ("memberlist.host-port", "memberlist.join_members"),
    ("reporting.enabled", "usage_report.reporting_enabled"),
    ("reporting.backoff-min-period", "usage_report.backoff.min_period"),
    ("reporting.backoff-max-period", "usage_report.backoff.max_period"),
    ("reporting.backoff-retries", "usage_report.backoff.max_retries"),
    ("distributor.rate-limit-strategy", "overrides.defaults.ingestion.rate_strategy"),
    ("distributor.ingestion-rate-limit-bytes", "overrides.defaults.ingestion.rate_limit_bytes"),
    ("distributor.ingestion-burst-size-bytes", "overrides.defaults.ingestion.burst_size_bytes"),
    ("distributor.log-received-spans.include-attributes", "distributor.log_received_spans.include_all_attributes"),
    ("distributor.log-discarded-spans.include-attributes", "distributor.log_discarded_spans.include_all_attributes"),
    ("ingester.max-traces-per-user", "overrides.defaults.ingestion.max_traces_per_user"),
    ("ingester.max-global-traces-per-user", "overrides.defaults.ingestion.max_global_traces_per_user"),
    ("ingester.max-bytes-per-trace", "overrides.defaults.global.max_bytes_per_trace"),
    ("ingester.availability-zone", "ingester.lifecycler.availability_zone"),
    ("querier.frontend-address", "querier.frontend_worker.frontend_address"),
    ("querier.max-bytes-per-tag-values-query", "overrides.defaults.read.max_bytes_per_tag_values_query"),
    ("querier.max-blocks-per-tag-values-query", "overrides.defaults.read.max_blocks_per_tag_values_query"),
    ("querier.max-condition-groups-per-tag-query", "overrides.defaults.read.max_condition_groups_per_tag_query"),
    ("metrics-generator.native-histogram-bucket-factor", "overrides.defaults.metrics_generator.native_histogram_bucket_factor"),
    ("metrics-generator.native-histogram-max-bucket-number", "overrides.defaults.metrics_generator.native_histogram_max_bucket_number"),
    ("metrics-generator.native-histogram-min-reset-duration", "overrides.defaults.metrics_generator.native_histogram_min_reset_duration"),
    ("generator.instance-id", "metrics_generator.instance_id"),
    ("generator.instance-availability-zone", "metrics_generator.instance_availability_zone"),
    ("generator.leave-consumer-group-on-shutdown", "metrics_generator.leave_consumer_group_on_shutdown"),
    ("generator.skip-stale-backlog-on-startup", "metrics_generator.skip_stale_backlog_on_startup"),
    ("block-builder.max-bytes-per-cycle", "block_builder.max_consuming_bytes"),
    ("live-store.concurrent-blocks", "live_store.query_block_concurrency"),
    ("live-store.instance-availability-zone", "live_store.ring.instance_zone"),
    ("backend-worker.backoff-min-period", "backend_worker.backoff.min_period"),
    ("backend-worker.backoff-max-period", "backend_worker.backoff.max_period"),
    ("backend-worker.backoff-retries", "backend_worker.backoff.max_retries"),
    ("backend-worker.compaction.max-objects-per-block", "backend_worker.compaction.max_compaction_objects"),
    ("backend-schedulerbackend-scheduler.maintenance-interval", "backend_scheduler.maintenance_interval"),
    ("backend-schedulerbackend-scheduler.backend-flush-interval", "backend_scheduler.backend_flush_interval"),
    ("backend-schedulerbackend-scheduler.job-timeout", "backend_scheduler.job_timeout"),
    ("backend-schedulerbackend-scheduler.local-work-path", "backend_scheduler.local_work_path"),
    ("backend-scheduler.workprune-age", "backend_scheduler.work.prune_age"),
    ("backend-scheduler.workdead-job-timeout", "backend_scheduler.work.dead_job_timeout"),
    ("backend-scheduler.provider.work.min-input-blocks", "backend_scheduler.provider.compaction.min_input_blocks"),
    ("backend-scheduler.provider.work.max-input-blocks", "backend_scheduler.provider.compaction.max_input_blocks"),
    ("backend-scheduler.provider.work.max-compaction-level", "backend_scheduler.provider.compaction.max_compaction_level"),
    ("backend-scheduler.provider.work.min-cycle-interval", "backend_scheduler.provider.compaction.min_cycle_interval"),
    ("backend-scheduler.provider.work.compaction.block-retention", "backend_scheduler.provider.compaction.compaction.block_retention"),
    ("backend-scheduler.provider.work.compaction.compaction-window", "backend_scheduler.provider.compaction.compaction.compaction_window"),
    ("backend-scheduler.provider.work.compaction.max-block-bytes", "backend_scheduler.provider.compaction.compaction.max_block_bytes"),
    (
        "backend-scheduler.provider.work.compaction.max-objects-per-block",
        "backend_scheduler.provider.compaction.compaction.max_compaction_objects",
    ),
    (
        "backend-scheduler.provider.workbackend-scheduler.compaction-provider.measure-interval",
        "backend_scheduler.provider.compaction.measure_interval",
    ),
    ("backend-scheduler.provider.workbackend-scheduler.max-jobs-per-tenant", "backend_scheduler.provider.compaction.max_jobs_per_tenant"),
    (
        "backend-scheduler.provider.workbackend-scheduler.redaction-provider.poll-interval",
        "backend_scheduler.provider.redaction.poll_interval",
    ),
    (
        "backend-scheduler.provider.workbackend-scheduler.redaction-provider.rescan-delay",
        "backend_scheduler.provider.redaction.rescan_delay",
    ),
    (
        "backend-scheduler.provider.workbackend-scheduler.redaction-provider.max-rescan-generations",
        "backend_scheduler.provider.redaction.max_rescan_generations",
    ),
    ("backend-scheduler.provider.workbackend-scheduler.retention-interval", "backend_scheduler.provider.retention.interval"),
    ("storage.trace.block.v2-bloom-filter-false-positive", "storage.trace.block.bloom_filter_false_positive"),
    ("storage.trace.block.v2-bloom-filter-shard-size-bytes", "storage.trace.block.bloom_filter_shard_size_bytes"),
    ("storage.trace.gcs.bucket", "storage.trace.gcs.bucket_name"),
    ("storage.trace.azure.endpoint", "storage.trace.azure.endpoint_suffix"),
];

/// Flags with a value that are accepted and ignored: profiling of another runtime, and what 3.x removed.
const IGNORED: &[&str] = &["mutex-profile-fraction", "block-profile-threshold", "mem-ballast-size-mbs"];

/// Beginnings of flag names and the path they stand for.
const PREFIXES: &[(&str, &str)] = &[
    ("ingest.", "ingest.kafka."),
    ("live-store.partition-ring.", "live_store.partition_ring.kvstore."),
    ("ingester.partition-ring.", "ingester.partition_ring.kvstore."),
    ("live-store.", "live_store.ring.kvstore."),
    ("live-store", "live_store.ring.kvstore."),
    ("generator.", "metrics_generator.ring.kvstore."),
    ("generator", "metrics_generator.ring.kvstore."),
    ("compactor.compaction.", "compactor."),
];

/// A key set by a flag.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Setting {
    /// As the user wrote it, without dashes.
    pub(super) flag: String,
    pub(super) path: Path,
    pub(super) value: Node,
}

/// The command line, read.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct CommandLine {
    pub(super) file: String,
    pub(super) expand_env: bool,
    pub(super) verify: bool,
    pub(super) print: Option<String>,
    pub(super) version: bool,
    pub(super) help: bool,
    pub(super) health: bool,
    pub(super) health_url: String,
    pub(super) settings: Vec<Setting>,
    pub(super) ignored: Vec<String>,
    pub(super) errors: Vec<String>,
}

/// Reads the arguments after the program's name. `defaults` is the tree of the default configuration: it knows every key.
pub(super) fn read(args: &[String], defaults: &Node) -> CommandLine {
    let mut line = CommandLine { health_url: "http://localhost:3200/ready".to_owned(), ..CommandLine::default() };
    let mut args = args.iter().map(String::as_str).peekable();
    while let Some(arg) = args.next() {
        let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|flag| !flag.is_empty()) else {
            line.errors.push(format!("unexpected argument {arg:?}: flags begin with a dash"));
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        // A bare boolean is true and takes no argument, except a literal `true` or `false`.
        let mut boolean = |errors: &mut Vec<String>| {
            let value = value.or_else(|| args.next_if(|next| ["true", "false"].contains(next))).unwrap_or("true");
            match value {
                "true" | "1" | "t" | "T" | "TRUE" | "True" => true,
                "false" | "0" | "f" | "F" | "FALSE" | "False" => false,
                other => {
                    errors.push(format!("invalid boolean value {other:?} for -{name}"));
                    false
                }
            }
        };
        match name {
            "config.expand-env" => line.expand_env = boolean(&mut line.errors),
            "config.verify" => line.verify = boolean(&mut line.errors),
            "version" => line.version = boolean(&mut line.errors),
            "h" | "help" => line.help = boolean(&mut line.errors),
            "health" => line.health = boolean(&mut line.errors),
            _ => {
                let resolved = resolve(name, defaults);
                let is_switch = matches!(resolved, Some(Resolved::Key(_, Some(Node::Bool(_)))));
                if is_switch {
                    let is_on = boolean(&mut line.errors);
                    if let Some(Resolved::Key(path, _)) = resolved {
                        line.set(name, path, Node::Bool(is_on));
                    }
                    continue;
                }
                let is_known = resolved.is_some() || ["config.file", "config.print", "health.url"].contains(&name);
                if !is_known {
                    line.errors.push(unknown_flag(name, defaults));
                    // `-flag value`: the value is not another mistake.
                    if value.is_none() {
                        args.next_if(|next| !next.starts_with('-'));
                    }
                    continue;
                }
                let Some(value) = value.or_else(|| args.next()) else {
                    line.errors.push(format!("flag needs an argument: -{name}"));
                    continue;
                };
                match (name, resolved) {
                    ("config.file", _) => line.file = value.to_owned(),
                    ("config.print", _) => line.print = Some(value.to_owned()),
                    ("health.url", _) => line.health_url = value.to_owned(),
                    (_, Some(Resolved::Ignored) | None) => line.ignored.push(name.to_owned()),
                    (_, Some(Resolved::Key(path, default))) => line.set_text(name, path, default.as_ref(), value),
                }
            }
        }
    }
    line
}

impl CommandLine {
    fn set(&mut self, flag: &str, path: Path, value: Node) {
        self.settings.push(Setting { flag: flag.to_owned(), path, value });
    }

    /// Lists take commas and repetition, mappings take JSON.
    fn set_text(&mut self, flag: &str, path: Path, default: Option<&Node>, value: &str) {
        match default {
            Some(Node::List(_)) => {
                let items: Vec<Node> = split_csv(value).into_iter().map(Node::Text).collect();
                if let Some(Setting { value: Node::List(list), .. }) = self.settings.iter_mut().find(|setting| setting.path == path) {
                    list.extend(items);
                } else {
                    self.set(flag, path, Node::List(items));
                }
            }
            Some(Node::Map(_)) => match Document::parse(value) {
                Ok(document) => self.set(flag, path, document.root),
                Err(_) => self.errors.push(format!("invalid value {value:?} for flag -{flag}: expected a JSON object")),
            },
            _ => self.set(flag, path, Node::Text(value.to_owned())),
        }
    }
}

enum Resolved {
    /// The key and its default, if it has one.
    Key(Path, Option<Node>),
    Ignored,
}

fn resolve(name: &str, defaults: &Node) -> Option<Resolved> {
    let key = |path: Path| {
        let default = defaults.at(&path).cloned();
        Resolved::Key(path, default)
    };
    if IGNORED.contains(&name) {
        return Some(Resolved::Ignored);
    }
    if let Some((_, path)) = RENAMED.iter().find(|(flag, _)| *flag == name) {
        return Some(key(Path::dotted(path)));
    }
    if let Some(path) = existing_key(name, defaults) {
        return Some(key(path));
    }
    for (prefix, replacement) in PREFIXES {
        if let Some(rest) = name.strip_prefix(prefix) {
            let rest = rest.replace("consul.hostname", "consul.host");
            if let Some(path) = existing_key(&format!("{replacement}{rest}"), defaults) {
                return Some(key(path));
            }
        }
    }
    // The generator registers an unused copy of every Kafka flag.
    if let Some(rest) = name.strip_prefix("generator.")
        && existing_key(&format!("ingest.kafka.{rest}"), defaults).is_some()
    {
        return Some(Resolved::Ignored);
    }
    None
}

/// Finds the key that a dotted name means, `-` and `_` being equal. Blocks are no keys, except free mappings.
fn existing_key(name: &str, defaults: &Node) -> Option<Path> {
    let mut path = Path::default();
    let mut node = defaults;
    for part in name.split('.') {
        let part = part.replace('-', "_");
        let Node::Map(entries) = node else { return None };
        let (key, child) = entries.iter().find(|(key, _)| *key == part)?;
        path.0.push(Step::Key(key.clone()));
        node = child;
    }
    (!matches!(node, Node::Map(entries) if !entries.is_empty())).then_some(path)
}

fn unknown_flag(name: &str, defaults: &Node) -> String {
    let mut keys = Vec::new();
    defaults.for_each_leaf(&Path::default(), &mut |path, _| keys.push(path.to_string().replace('_', "-")));
    let process = ["config.file", "config.expand-env", "config.verify", "config.print", "version", "help", "health", "health.url"];
    let mut names: Vec<&str> = RENAMED.iter().map(|(flag, _)| *flag).chain(process).collect();
    names.extend(keys.iter().map(String::as_str));
    let plain = name.replace('_', "-");
    let suggestion = nearest(&plain, &names).map_or(String::new(), |nearest| format!(", did you mean -{nearest}?"));
    format!("flag provided but not defined: -{name}{suggestion}")
}

/// The text of `-help`.
pub(super) const USAGE: &str = "\
Usage: tempo-rs [flags]

  -config.file FILE                 YAML configuration
  -config.expand-env                expand ${NAME} in the file
  -config.verify                    check the configuration and end: 0 when there is nothing to say, 1 otherwise
  -config.print defaults|effective  print the configuration as YAML, secrets masked
  -target NAME[,NAME…]              what to run (default all)
  -version                          print the version
  -health                           ask the ready endpoint and end: 0 when healthy
  -health.url URL                   (default http://localhost:3200/ready)
  -log.level LEVEL                  debug, info, warn, error (default info)
  -multitenancy.enabled             require a tenant header
  -http-api-prefix PREFIX           prefix of API routes
  -shutdown-delay DURATION          not-ready pause before stopping
  -server.http-listen-port PORT     (default 3200)
  -server.grpc-listen-port PORT     (default 9095)
  -config.per-user-override-config FILE
                                    per-tenant limits
  -KEY VALUE                        any key of the configuration by its path, for example -storage.trace.local.path ./data

One dash or two, `-flag value` or `-flag=value`. Flags win over the file.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::config::Config;

    fn parsed(args: &[&str]) -> CommandLine {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        read(&args, &Node::of(&Config::default()).unwrap())
    }

    #[test]
    fn every_renamed_flag_leads_to_a_key() {
        let defaults = Node::of(&Config::default()).unwrap();
        for (flag, path) in RENAMED {
            assert!(defaults.at(&Path::dotted(path)).is_some(), "{flag} sets {path}, which does not exist");
        }
    }

    /// Every flag of the reference is known, and sets the key the reference names.
    #[test]
    fn flags_of_the_reference() {
        let table = include_str!("../../../testdata/config/flags.txt");
        for row in table.lines().filter(|row| !row.is_empty() && !row.starts_with('#')) {
            let (flag, path) = row.split_once(' ').unwrap();
            let line = parsed(&[&format!("-{flag}=1")]);
            let got = line.settings.first().map_or("ignored".to_owned(), |setting| setting.path.to_string());
            assert_eq!(got, path.trim(), "-{flag}: {:?}", line.errors);
        }
    }

    #[test]
    fn both_dashes_and_both_value_forms() {
        for args in [&["-config.file=x", "-target=querier"][..], &["--config.file", "x", "--target", "querier"]] {
            let line = parsed(args);
            assert_eq!((line.file.as_str(), line.settings[0].path.to_string().as_str()), ("x", "target"));
            assert_eq!(line.settings[0].value, Node::Text("querier".to_owned()));
        }
    }

    #[test]
    fn bare_switches_do_not_swallow() {
        let line = parsed(&["-config.verify", "-target=querier", "-multitenancy.enabled", "-config.expand-env", "true"]);
        assert!(line.verify && line.expand_env && line.errors.is_empty());
        assert_eq!(line.settings.len(), 2);
        assert!(!parsed(&["-config.verify=true", "-config.verify=false"]).verify);
    }

    #[test]
    fn mistakes_are_named() {
        let line = parsed(&["-confg.file=x", "-target", "-server.http-listen-prt", "1"]);
        assert_eq!(
            line.errors,
            [
                "flag provided but not defined: -confg.file, did you mean -config.file?",
                // As in Go, the next argument is the value, whatever it looks like.
                "unexpected argument \"1\": flags begin with a dash",
            ]
        );
        assert_eq!(parsed(&["-target"]).errors, ["flag needs an argument: -target"]);
        assert_eq!(
            parsed(&["-server.http-listen-prt=1"]).errors,
            ["flag provided but not defined: -server.http-listen-prt, did you mean -server.http-listen-port?"]
        );
    }

    #[test]
    fn lists_and_mappings() {
        let line =
            parsed(&["-memberlist.host-port=a,b", "-memberlist.host-port", "c", "-block-builder.assigned-partitions", "{\"x\": [0, 2]}"]);
        let text = |text: &str| Node::Text(text.to_owned());
        assert_eq!(line.settings[0].value, Node::List(vec![text("a"), text("b"), text("c")]));
        assert_eq!(line.settings[1].value, Node::Map(vec![("x".to_owned(), Node::List(vec![Node::Int(0), Node::Int(2)]))]));
    }
}
