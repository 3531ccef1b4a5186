//! What would keep the chosen target from starting, found without opening a socket or writing a file.

use crate::app::config::Config;
use crate::app::config::targets::Targets;
use crate::services::cache::config::claims;
use crate::services::ingest_log::config::KafkaConfig;
use crate::services::overrides::legacy::LEGACY_DISABLED;
use crate::tempodb;
use crate::tempodb::block::meta::BlockVersion;
use crate::tempodb::config::DedicatedColumnConfig;

/// Roles that need the ingest log.
const LOG_ROLES: [&str; 4] = ["distributor", "block-builder", "live-store", "metrics-generator"];

/// Roles that need the block storage.
const STORE_ROLES: [&str; 8] =
    ["query-frontend", "querier", "live-store", "block-builder", "backend-scheduler", "backend-worker", "ingester", "compactor"];

const MIN_RECORD_BYTES: u64 = 1_048_576;
const MAX_RECORD_BYTES: u64 = 15_983_616;

/// Returns module and text of every start error.
pub(super) fn start_errors(config: &Config, targets: &Targets, is_legacy_overrides: bool, is_verify: bool) -> Vec<(&'static str, String)> {
    let mut errors: Vec<(&'static str, String)> = Vec::new();
    let mut add = |module, texts: Vec<String>| errors.extend(texts.into_iter().map(|text| (module, text)));
    add("server", config.server.validate());
    // Verification only warns about the legacy format.
    if is_legacy_overrides && !config.overrides.enable_legacy_overrides && !is_verify {
        add("overrides", vec![format!("failed to create overrides: {LEGACY_DISABLED}")]);
    }
    if let Err(text) = config.overrides.defaults.validate() {
        add("overrides", vec![format!("validating overrides.defaults failed: {text}")]);
    }
    add("cache-provider", claims(&config.cache, &config.storage.trace).err().unwrap_or_default());
    if STORE_ROLES.iter().any(|role| targets.has(role)) {
        add("store", store(config));
    }
    if LOG_ROLES.iter().any(|role| targets.has(role)) {
        add("ingest-log", ingest_log(config, targets));
    }
    if targets.has("distributor") {
        add("distributor", config.distributor.validate());
        let ring = &config.distributor.ring;
        if config.overrides.defaults.ingestion.rate_strategy == "global"
            && (ring.heartbeat_period.positive().is_none() || ring.heartbeat_timeout.positive().is_none())
        {
            add("distributor", vec!["distributor.ring.heartbeat-period must be greater than 0".to_owned()]);
        }
    }
    if targets.has("live-store") {
        add("live-store", config.live_store.validate(!targets.is_all()));
    }
    if targets.has("block-builder") {
        let block_builder = &config.block_builder;
        if block_builder.assigned_partitions.is_empty() && block_builder.partitions_per_instance == 0 {
            add("block-builder", vec!["at least one of AssignedPartitionsMap or PartitionsPerInstance must be set".to_owned()]);
        }
    }
    if targets.has("metrics-generator") {
        let generator = &config.metrics_generator;
        add("metrics-generator", generator.validate());
        if generator.storage.path.is_empty() && !targets.is_all() {
            add("metrics-generator", vec!["no metrics_generator.storage.path configured, metrics generator will be disabled".to_owned()]);
        }
        if generator.ring_mode == "generator" && config.ingest.kafka.consumer_group.is_empty() && !targets.is_all() {
            add(
                "metrics-generator",
                vec!["ingest.kafka.consumer_group must be configured when metrics-generator ring mode is generator".to_owned()],
            );
        }
    }
    if targets.has("querier") && !targets.has("query-frontend") && config.querier.frontend_worker.frontend_address.is_empty() {
        add("querier", vec!["frontend worker address not specified".to_owned()]);
    }
    if targets.has("query-frontend") {
        add("query-frontend", config.query_frontend.validate());
    }
    if targets.has("backend-scheduler") {
        add("backend-scheduler", config.backend_scheduler.validate());
    }
    if targets.has("backend-worker") {
        add("backend-worker", config.backend_worker.validate(!targets.has("backend-scheduler"), config.storage.trace.blocklist_poll));
    }
    errors
}

fn store(config: &Config) -> Vec<String> {
    let trace = &config.storage.trace;
    let mut problems = tempodb::backend::problems(trace);
    let rate = trace.block.bloom_filter_false_positive;
    if rate.is_nan() || rate <= 0.0 || rate >= 1.0 {
        problems.push(format!("invalid bloom filter fp rate {rate}"));
    }
    if trace.block.bloom_filter_shard_size_bytes == 0 {
        problems.push("positive value required for bloom-filter shard size".to_owned());
    }
    if let Err(refusal) = BlockVersion::for_writing(&trace.block.version) {
        let choice = BlockVersion::ALL.into_iter().filter(|version| version.is_writable()).map(BlockVersion::as_str);
        problems.push(format!("block version validation failed: {refusal}, use one of {}", choice.collect::<Vec<_>>().join(", ")));
    }
    if trace.wal.path.is_empty() {
        problems.push("please provide a path for the WAL".to_owned());
    }
    problems.extend(DedicatedColumnConfig::validate_list(&trace.block.parquet_dedicated_columns).err());
    problems
}

/// `all` uses Kafka only when a topic is set; single roles need it unless the classic path is on (config, write path).
fn ingest_log(config: &Config, targets: &Targets) -> Vec<String> {
    let distributor = &config.distributor;
    let pushes_to_ingesters = distributor.ingester_write_path_enabled == Some(true) || targets.is_classic();
    let is_one_process = targets.is_all() || (targets.has("distributor") && targets.has("live-store"));
    let is_topic_set = !config.ingest.kafka.topic.is_empty();
    let mut problems = Vec::new();
    let writes_nowhere = distributor.ingester_write_path_enabled == Some(false)
        && distributor.kafka_write_path_enabled == Some(false)
        && config.ingest.enabled != Some(true);
    if targets.has("distributor") && !is_one_process && writes_nowhere {
        problems.push(
            "distributor.ingester_write_path_enabled and distributor.kafka_write_path_enabled are both false: every span would be dropped"
                .to_owned(),
        );
    }
    if is_topic_set || !(is_one_process || pushes_to_ingesters) {
        problems.extend(kafka(&config.ingest.kafka));
    } else if is_one_process {
        let embedded = &config.ingest.embedded;
        for (key, is_zero) in [
            ("path", embedded.path.is_empty()),
            ("partitions", embedded.partitions == 0),
            ("segment_bytes", embedded.segment_bytes == 0),
            ("sync_interval", embedded.sync_interval.as_nanos() < 0),
        ] {
            if is_zero {
                problems.push(format!("ingest.embedded.{key} must be set to a positive value"));
            }
        }
        if embedded.max_bytes < embedded.segment_bytes.saturating_mul(2) {
            problems.push("ingest.embedded.max_bytes must be at least twice ingest.embedded.segment_bytes".to_owned());
        }
    }
    problems
}

fn kafka(kafka: &KafkaConfig) -> Vec<String> {
    let mut problems = Vec::new();
    let mut require = |holds: bool, text: &str| {
        if !holds {
            problems.push(text.to_owned());
        }
    };
    require(!kafka.address.is_empty(), "the Kafka address has not been configured");
    require(!kafka.topic.is_empty(), "the Kafka topic has not been configured");
    require(
        (MIN_RECORD_BYTES..=MAX_RECORD_BYTES).contains(&kafka.producer_max_record_size_bytes),
        "the configured producer max record size bytes must be a value between 1048576 and 15983616",
    );
    let (target, max) = (kafka.target_consumer_lag_at_startup, kafka.max_consumer_lag_at_startup);
    require(
        target.is_zero() == max.is_zero(),
        "the target and max consumer lag at startup must be either both set to 0 or to a value greater than 0",
    );
    require(max >= target, "the configured max consumer lag at startup must greater or equal than the configured target consumer lag");
    let count = |set: [bool; 3]| set.into_iter().filter(|is_set| *is_set).count();
    match kafka.sasl_mechanism.as_str() {
        "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512" => require(
            kafka.sasl_username.is_empty() == kafka.sasl_password.is_empty(),
            "the SASL username and password must be both configured to enable SASL authentication",
        ),
        "OAUTHBEARER" => require(
            count([
                !kafka.sasl_oauthbearer_token.is_empty(),
                !kafka.sasl_oauthbearer_file_path.is_empty(),
                !kafka.sasl_oauthbearer_http_socket_path.is_empty(),
            ]) == 1,
            "exactly one of OAuth token, file path, or HTTP socket path must be configured to enable SASL OAUTHBEARER authentication",
        ),
        "AWS_MSK_IAM" => {
            let (access, secret) = (&kafka.sasl_msk_iam_access_key, &kafka.sasl_msk_iam_secret_key);
            require(
                count([
                    !access.is_empty() || !secret.is_empty(),
                    !kafka.sasl_msk_iam_file_path.is_empty(),
                    !kafka.sasl_msk_iam_http_socket_path.is_empty(),
                ]) == 1,
                "exactly one of static credentials, file path, or HTTP socket path must be configured to enable SASL AWS_MSK_IAM authentication",
            );
            require(
                access.is_empty() == secret.is_empty(),
                "both access key and secret key must be configured for static AWS_MSK_IAM credentials",
            );
        }
        _ => require(
            false,
            "the configured SASL mechanism is invalid, must be one of: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, AWS_MSK_IAM",
        ),
    }
    require(
        ["", "none", "gzip", "snappy", "lz4", "zstd"].contains(&kafka.producer_compression.as_str()),
        "the configured producer compression must be one of: none, gzip, snappy, lz4, zstd",
    );
    require(
        kafka.tls_cert_path.is_empty() == kafka.tls_key_path.is_empty(),
        "invalid Kafka TLS config: certificate and key must be both configured",
    );
    problems
}
