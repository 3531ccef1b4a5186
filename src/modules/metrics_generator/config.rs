//! `metrics_generator:`.

use std::collections::BTreeMap;

use crate::base::config_block::{config_block, text, texts};
use crate::base::duration::GoDuration;
use crate::base::hostname::hostname;
use crate::base::yaml::FreeForm;
use crate::services::overrides::limits::{DimensionMapping, FilterPolicy};
use crate::services::ring::config::RingConfig;

/// `count` values, each `factor` times the one before.
fn exponential(start: f64, factor: f64, count: i32) -> Vec<f64> {
    (0..count).map(|power| start * factor.powi(power)).collect()
}

config_block! {
    /// `metrics_generator:`.
    pub struct MetricsGeneratorConfig {
        /// Used in ring mode `generator`.
        ring: RingConfig = RingConfig::default(),
        /// What is derived from spans.
        processor: ProcessorConfig = ProcessorConfig::default(),
        /// The series held.
        registry: RegistryConfig = RegistryConfig::default(),
        /// WAL and remote write.
        storage: GeneratorStorageConfig = GeneratorStorageConfig::default(),
        /// Spans older or newer than this are ignored.
        metrics_ingestion_time_range_slack: GoDuration = GoDuration::seconds(30),
        /// Ring key.
        override_ring_key: String = text("metrics-generator"),
        /// `partition`: share live-store partitions; `generator`: own partition ring.
        ring_mode: String = text("partition"),
        /// `push-bytes` or `otlp`.
        codec: String = text("push-bytes"),
        /// `series` or `entity`.
        limiter_type: String = text("series"),
        /// Consumers; > 0.
        ingest_concurrency: usize = 16,
        /// Identity in the consumer group.
        instance_id: String = hostname(),
        /// Availability zone of this instance.
        instance_availability_zone: String = String::new(),
        /// Leave the consumer group on stop.
        leave_consumer_group_on_shutdown: bool = false,
        /// Start at now minus slack instead of the committed offset.
        skip_stale_backlog_on_startup: bool = false,
    }

    /// `processor:`.
    pub struct ProcessorConfig {
        /// Service graphs.
        service_graphs: ServiceGraphsConfig = ServiceGraphsConfig::default(),
        /// Span metrics.
        span_metrics: SpanMetricsConfig = SpanMetricsConfig::default(),
        /// Host info.
        host_info: HostInfoConfig = HostInfoConfig::default(),
    }

    /// `processor.service_graphs`.
    pub struct ServiceGraphsConfig {
        /// Time to complete an edge.
        wait: GoDuration = GoDuration::seconds(10),
        /// Edges held.
        max_items: usize = 10_000,
        /// Workers.
        workers: usize = 10,
        /// Seconds.
        histogram_buckets: Vec<f64> = exponential(0.1, 2.0, 8),
        /// Extra labels.
        dimensions: Vec<String> = Vec::new(),
        /// Prefix extra labels with `client_` and `server_`.
        enable_client_server_prefix: bool = false,
        /// Time between producer and consumer.
        enable_messaging_system_latency_histogram: bool = false,
        /// Attributes that reveal uninstrumented peers.
        peer_attributes: Vec<String> = texts(&["peer.service", "db.name", "db.system", "db.system.name"]),
        /// Attribute that holds a weight.
        span_multiplier_key: String = String::new(),
        /// Weight from the sampling threshold in the W3C trace state.
        enable_tracestate_span_multiplier: bool = false,
        /// Label that marks virtual nodes.
        enable_virtual_node_label: bool = false,
        /// The first one present names the database.
        database_name_attributes: Vec<String> = texts(&["db.namespace", "db.name", "db.system", "db.system.name"]),
        /// Which spans count.
        filter_policies: Vec<FilterPolicy> = Vec::new(),
    }

    /// `processor.span_metrics`.
    pub struct SpanMetricsConfig {
        /// Seconds.
        histogram_buckets: Vec<f64> = exponential(0.002, 2.0, 14),
        /// Built-in labels.
        intrinsic_dimensions: IntrinsicDimensionsConfig = IntrinsicDimensionsConfig::default(),
        /// Extra labels.
        dimensions: Vec<String> = Vec::new(),
        /// Labels made of several attributes.
        dimension_mappings: Vec<DimensionMapping> = Vec::new(),
        /// Write `traces_target_info`.
        enable_target_info: bool = false,
        /// Resource attributes left out of it.
        target_info_excluded_dimensions: Vec<String> = Vec::new(),
        /// Label `instance`.
        enable_instance_label: bool = true,
        /// Attribute that holds a weight.
        span_multiplier_key: String = String::new(),
        /// Weight from the sampling threshold in the W3C trace state.
        enable_tracestate_span_multiplier: bool = false,
        /// Which spans count.
        filter_policies: Vec<FilterPolicy> = Vec::new(),
    }

    /// `processor.span_metrics.intrinsic_dimensions`.
    pub struct IntrinsicDimensionsConfig {
        /// Label `service`.
        service: bool = true,
        /// Label `span_name`.
        span_name: bool = true,
        /// Label `span_kind`.
        span_kind: bool = true,
        /// Label `status_code`.
        status_code: bool = true,
        /// Label `status_message`.
        status_message: bool = false,
    }

    /// `processor.host_info`.
    pub struct HostInfoConfig {
        /// At least one.
        host_identifiers: Vec<String> = texts(&["k8s.node.name", "host.id"]),
        /// A valid metric name.
        metric_name: String = text("traces_host_info"),
    }

    /// `registry:`.
    pub struct RegistryConfig {
        /// Interval of samples.
        collection_interval: GoDuration = GoDuration::seconds(15),
        /// Series are removed after this time without updates.
        stale_duration: GoDuration = GoDuration::minutes(15),
        /// Labels of every series.
        external_labels: BTreeMap<String, String> = BTreeMap::new(),
        /// Label that carries the tenant; empty: none.
        inject_tenant_id_as: String = String::new(),
        /// Longer names are cut.
        max_label_name_length: usize = 1024,
        /// Longer values are cut.
        max_label_value_length: usize = 2048,
    }

    /// `storage:` of the generator.
    pub struct GeneratorStorageConfig {
        /// WAL directory; empty disables the generator.
        path: String = String::new(),
        /// WAL details.
        wal: GeneratorWalConfig = GeneratorWalConfig::default(),
        /// Limit for sending what is left on stop.
        remote_write_flush_deadline: GoDuration = GoDuration::minutes(1),
        /// Add `X-Scope-OrgID` unless it is set already.
        remote_write_add_org_id_header: bool = true,
        /// Prometheus `remote_write` entries, in Prometheus' own keys.
        remote_write: Vec<FreeForm> = Vec::new(),
    }

    /// `storage.wal` of the generator.
    pub struct GeneratorWalConfig {
        /// Bytes of a segment.
        wal_segment_size: u64 = 134_217_728,
        /// `none`, `snappy` or `zstd`.
        wal_compression: String = text("none"),
        /// Shards of the series table.
        stripe_size: usize = 16_384,
        /// Interval of truncation.
        truncate_frequency: GoDuration = GoDuration::hours(2),
        /// Samples are kept at least this long, in milliseconds.
        min_wal_time: u64 = 300_000,
        /// Samples are kept at most this long, in milliseconds.
        max_wal_time: u64 = 14_400_000,
        /// Take no lock file.
        no_lockfile: bool = false,
    }
}

impl MetricsGeneratorConfig {
    /// Returns the start errors of this block that need no other block.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.ingest_concurrency == 0 {
            problems.push("ingest concurrency must be greater than zero".to_owned());
        }
        if !["push-bytes", "otlp"].contains(&self.codec.as_str()) {
            problems.push(format!("invalid codec: {}, valid choices are [push-bytes otlp]", self.codec));
        }
        if !["partition", "generator"].contains(&self.ring_mode.as_str()) {
            problems.push(format!("invalid ring mode: {}, valid values are partition and generator", self.ring_mode));
        }
        if !["series", "entity"].contains(&self.limiter_type.as_str()) {
            problems.push(format!("invalid limiter type: {}, valid values are series and entity", self.limiter_type));
        }
        if self.processor.host_info.host_identifiers.is_empty() {
            problems.push("at least one value must be provided in host_identifiers".to_owned());
        }
        if !crate::services::overrides::limits::is_metric_name(&self.processor.host_info.metric_name) {
            problems.push("metric_name is invalid".to_owned());
        }
        problems
    }
}
