//! Every per-tenant limit.

use std::collections::BTreeMap;

use crate::base::config_block::{config_block, text};
use crate::base::duration::{GoDuration, PromDuration};
use crate::base::secret::Secret;
use crate::base::yaml::FreeForm;
use crate::tempodb::config::DedicatedColumnConfig;

config_block! {
    /// The limits of a tenant. `Limits::default()` is an entry that sets nothing (all zero); [`Limits::builtin`] is what applies without any configuration.
    pub struct Limits {
        /// Distributor and live-store.
        ingestion: IngestionLimits = IngestionLimits::default(),
        /// Trace size.
        global: GlobalLimits = GlobalLimits::default(),
        /// Queries.
        read: ReadLimits = ReadLimits::default(),
        /// Compaction and retention.
        compaction: CompactionLimits = CompactionLimits::default(),
        /// Metrics-generator.
        metrics_generator: GeneratorLimits = GeneratorLimits::default(),
        /// Names of `distributor.forwarders`.
        forwarders: Vec<String> = Vec::new(),
        /// Blocks.
        storage: StorageLimits = StorageLimits::default(),
        /// Usage tracker.
        cost_attribution: CostAttributionLimits = CostAttributionLimits::default(),
        /// Limits of the gateway.
        #[serde(skip_serializing_if = "Option::is_none")]
        gateway: Option<FreeForm> = None,
        /// Limits of adaptive sampling.
        #[serde(skip_serializing_if = "Option::is_none")]
        adaptive_traces: Option<FreeForm> = None,
    }

    /// `ingestion:`.
    pub struct IngestionLimits {
        /// `local` or `global`; only in the defaults. Any other value acts as `local`.
        rate_strategy: String = String::new(),
        /// Token refill in bytes per second; 0 rejects (almost) everything.
        rate_limit_bytes: u64 = 0,
        /// Bucket size; a larger batch can never pass.
        burst_size_bytes: u64 = 0,
        /// Live traces per instance; 0: unlimited.
        max_traces_per_user: usize = 0,
        /// Live traces in the cluster; 0: off.
        max_global_traces_per_user: usize = 0,
        /// Partitions (2.x: ingesters) of the tenant; 0: all.
        tenant_shard_size: usize = 0,
        /// Above 0: replaces `distributor.max_attribute_bytes`.
        max_attribute_bytes: usize = 0,
        /// Replaces `distributor.artificial_delay`; 0 switches it off.
        artificial_delay: Option<GoDuration> = None,
        /// Send the retry hint.
        retry_info_enabled: Option<bool> = None,
    }

    /// `global:`.
    pub struct GlobalLimits {
        /// 0: unlimited.
        max_bytes_per_trace: u64 = 0,
    }

    /// `read:`.
    pub struct ReadLimits {
        /// Collecting tag names and values stops here; the answer is partial.
        max_bytes_per_tag_values_query: u64 = 0,
        /// Blocks inspected; 0: unlimited.
        max_blocks_per_tag_values_query: usize = 0,
        /// Alternatives of a tag query; only in the defaults.
        max_condition_groups_per_tag_query: usize = 0,
        /// 0: `query_frontend.search.max_duration`.
        max_search_duration: PromDuration = PromDuration::ZERO,
        /// 0: `query_frontend.metrics.max_duration`.
        max_metrics_duration: PromDuration = PromDuration::ZERO,
        /// Allow unsafe TraceQL hints.
        unsafe_query_hints: bool = false,
        /// 32-digit ids in search answers.
        left_pad_trace_ids: bool = false,
        /// Fetch layer of metrics.
        metrics_spanonly_fetch: Option<bool> = None,
        /// Experimental extra metric.
        span_pruning_awareness: bool = false,
        /// Experimental extra metric.
        engine_bytes_tracking: Option<bool> = None,
        /// Default of the pruning parameter.
        span_pruning_enabled: Option<bool> = None,
    }

    /// `compaction:`.
    pub struct CompactionLimits {
        /// 0: the worker's `compaction.block_retention`.
        block_retention: PromDuration = PromDuration::ZERO,
        /// 0: the scheduler's `compaction_window`.
        compaction_window: PromDuration = PromDuration::ZERO,
        /// Neither compaction nor retention jobs.
        compaction_disabled: bool = false,
    }

    /// `metrics_generator:`.
    pub struct GeneratorLimits {
        /// Generators per tenant; 2.x push path only.
        ring_size: usize = 0,
        /// What is generated, see [`PROCESSORS`]; empty: nothing.
        processors: Vec<String> = Vec::new(),
        /// Per instance; 0: unlimited.
        max_active_series: u32 = 0,
        /// Per instance; 0: unlimited.
        max_active_entities: u32 = 0,
        /// 0: the registry's.
        collection_interval: GoDuration = GoDuration::ZERO,
        /// Compute, but do not send.
        disable_collection: bool = false,
        /// `classic`, `native` or `both`; empty: the processor's default.
        generate_native_histograms: String = String::new(),
        /// Label of exemplars; empty: `traceID`.
        trace_id_label_name: String = String::new(),
        /// Extra headers of remote write.
        remote_write_headers: BTreeMap<String, Secret<String>> = BTreeMap::new(),
        /// Queue in the distributor.
        forwarder: GeneratorForwarderLimits = GeneratorForwarderLimits::default(),
        /// 0: the cluster's.
        ingestion_time_range_slack: GoDuration = GoDuration::ZERO,
        /// Above 1.
        native_histogram_bucket_factor: f64 = 0.0,
        /// 0: the default.
        native_histogram_max_bucket_number: u32 = 0,
        /// 0: the default.
        native_histogram_min_reset_duration: GoDuration = GoDuration::ZERO,
        /// "", `dry_run` or `enabled`.
        span_name_sanitization: String = String::new(),
        /// Distinct values of a label; 0: off.
        max_cardinality_per_label: u64 = 0,
        /// Settings of the processors.
        processor: ProcessorLimits = ProcessorLimits::default(),
    }

    /// `metrics_generator.forwarder`.
    pub struct GeneratorForwarderLimits {
        /// 0: 100.
        queue_size: usize = 0,
        /// 0: 2.
        workers: usize = 0,
    }

    /// `metrics_generator.processor`. An absent key means the cluster's value.
    pub struct ProcessorLimits {
        /// Service graphs.
        service_graphs: ServiceGraphsLimits = ServiceGraphsLimits::default(),
        /// Span metrics.
        span_metrics: SpanMetricsLimits = SpanMetricsLimits::default(),
        /// Host info.
        host_info: HostInfoLimits = HostInfoLimits::default(),
    }

    /// `processor.service_graphs`.
    pub struct ServiceGraphsLimits {
        /// Seconds, strictly increasing.
        histogram_buckets: Option<Vec<f64>> = None,
        /// Extra labels.
        dimensions: Option<Vec<String>> = None,
        /// Attributes that reveal peers.
        peer_attributes: Option<Vec<String>> = None,
        /// Which spans count.
        filter_policies: Option<Vec<FilterPolicy>> = None,
        /// Only `true` has an effect.
        enable_client_server_prefix: Option<bool> = None,
        /// Time between producer and consumer.
        enable_messaging_system_latency_histogram: Option<bool> = None,
        /// Label that marks virtual nodes.
        enable_virtual_node_label: Option<bool> = None,
        /// Attribute that holds a weight.
        span_multiplier_key: String = String::new(),
        /// Weight from the W3C trace state.
        enable_tracestate_span_multiplier: Option<bool> = None,
    }

    /// `processor.span_metrics`.
    pub struct SpanMetricsLimits {
        /// Seconds, strictly increasing.
        histogram_buckets: Option<Vec<f64>> = None,
        /// Extra labels.
        dimensions: Option<Vec<String>> = None,
        /// Merged over the cluster's set.
        intrinsic_dimensions: Option<BTreeMap<String, bool>> = None,
        /// Which spans count.
        filter_policies: Option<Vec<FilterPolicy>> = None,
        /// Labels made of several attributes.
        dimension_mappings: Option<Vec<DimensionMapping>> = None,
        /// Write `traces_target_info`.
        enable_target_info: Option<bool> = None,
        /// Resource attributes left out of it.
        target_info_excluded_dimensions: Option<Vec<String>> = None,
        /// Label `instance`.
        enable_instance_label: Option<bool> = None,
        /// Attribute that holds a weight.
        span_multiplier_key: String = String::new(),
        /// Weight from the W3C trace state.
        enable_tracestate_span_multiplier: Option<bool> = None,
    }

    /// `processor.host_info`.
    pub struct HostInfoLimits {
        /// Attributes that name a host.
        host_identifiers: Option<Vec<String>> = None,
        /// Empty: the cluster's.
        metric_name: String = String::new(),
    }

    /// `storage:` of a tenant.
    pub struct StorageLimits {
        /// A list that is not empty replaces `storage.trace.block.parquet_dedicated_columns`.
        parquet_dedicated_columns: Vec<DedicatedColumnConfig> = Vec::new(),
    }

    /// `cost_attribution:`.
    pub struct CostAttributionLimits {
        /// 0: the cluster's.
        max_cardinality: u64 = 0,
        /// Attribute → label; an empty label is the attribute's name without scope.
        dimensions: BTreeMap<String, String> = BTreeMap::new(),
    }

    /// A label made of several attributes.
    pub struct DimensionMapping {
        /// The label.
        name: String = String::new(),
        /// The attributes.
        source_labels: Vec<String> = Vec::new(),
        /// Text between their values.
        join: String = String::new(),
    }

    /// Which spans count; at least one part must be present.
    pub struct FilterPolicy {
        /// All must match.
        include: Option<PolicyMatch> = None,
        /// One must match.
        include_any: Option<PolicyMatch> = None,
        /// None may match.
        exclude: Option<PolicyMatch> = None,
    }

    /// A part of a filter policy.
    pub struct PolicyMatch {
        /// `strict` or `regex`.
        match_type: String = String::new(),
        /// Intrinsics (`kind`, `name`, `status`) or scoped attributes with the value to match.
        attributes: Vec<PolicyAttribute> = Vec::new(),
    }

    /// One attribute of a filter policy.
    pub struct PolicyAttribute {
        /// For example `resource.service.name`.
        key: String = String::new(),
        /// A text, number or boolean.
        value: FreeForm = FreeForm(crate::base::yaml::node::Node::Null),
    }
}

/// Known metrics-generator processors. Unknown ones are skipped with a warning.
pub const PROCESSORS: [&str; 9] = [
    "service-graphs",
    "service-graphs-request",
    "service-graphs-latency",
    "service-graphs-connection-info",
    "span-metrics",
    "span-metrics-count",
    "span-metrics-latency",
    "span-metrics-size",
    "host-info",
];

const NATIVE_HISTOGRAM_MODES: [&str; 3] = ["classic", "native", "both"];
const SANITIZATION_MODES: [&str; 3] = ["", "dry_run", "enabled"];

impl Limits {
    /// What applies when nothing is configured.
    pub fn builtin() -> Self {
        Self {
            ingestion: IngestionLimits {
                rate_strategy: text("local"),
                rate_limit_bytes: 30_000_000,
                burst_size_bytes: 30_000_000,
                max_traces_per_user: 10_000,
                retry_info_enabled: Some(true),
                ..IngestionLimits::default()
            },
            global: GlobalLimits { max_bytes_per_trace: 5_000_000 },
            read: ReadLimits {
                max_bytes_per_tag_values_query: 1_000_000,
                max_condition_groups_per_tag_query: 100,
                ..ReadLimits::default()
            },
            metrics_generator: GeneratorLimits {
                generate_native_histograms: text("classic"),
                native_histogram_bucket_factor: 1.1,
                native_histogram_max_bucket_number: 100,
                native_histogram_min_reset_duration: GoDuration::minutes(15),
                ..GeneratorLimits::default()
            },
            ..Self::default()
        }
    }

    /// Fills the few keys that an entry takes from the defaults when it leaves them unset; every other unset key stays zero (overrides, layers).
    pub fn with_fallbacks(mut self, defaults: &Self) -> Self {
        let (own, base) = (&mut self.ingestion, &defaults.ingestion);
        own.retry_info_enabled = own.retry_info_enabled.or(base.retry_info_enabled);
        own.rate_strategy.clone_from(&base.rate_strategy);
        let (own, base) = (&mut self.read, &defaults.read);
        own.engine_bytes_tracking = own.engine_bytes_tracking.or(base.engine_bytes_tracking);
        own.max_condition_groups_per_tag_query = base.max_condition_groups_per_tag_query;
        let (own, base) = (&mut self.metrics_generator, &defaults.metrics_generator);
        if own.native_histogram_bucket_factor == 0.0 {
            own.native_histogram_bucket_factor = base.native_histogram_bucket_factor;
        }
        if own.native_histogram_max_bucket_number == 0 {
            own.native_histogram_max_bucket_number = base.native_histogram_max_bucket_number;
        }
        if own.native_histogram_min_reset_duration.is_zero() {
            own.native_histogram_min_reset_duration = base.native_histogram_min_reset_duration;
        }
        if own.span_name_sanitization.is_empty() {
            own.span_name_sanitization.clone_from(&base.span_name_sanitization);
        }
        self
    }

    /// Returns the first defect, in the compatible system's words.
    pub fn validate(&self) -> Result<(), String> {
        let generator = &self.metrics_generator;
        let mode = &generator.generate_native_histograms;
        if !mode.is_empty() && !NATIVE_HISTOGRAM_MODES.contains(&mode.as_str()) {
            return Err(format!(
                "metrics_generator.generate_native_histograms \"{mode}\" is not a valid value, valid values: classic, native, both"
            ));
        }
        let sanitization = &generator.span_name_sanitization;
        if !SANITIZATION_MODES.contains(&sanitization.as_str()) {
            return Err(format!("span_name_sanitization \"{sanitization}\" is not valid, valid values: [ dry_run enabled]"));
        }
        let factor = generator.native_histogram_bucket_factor;
        if factor != 0.0 && factor.partial_cmp(&1.0) != Some(std::cmp::Ordering::Greater) {
            return Err(text("metrics_generator.native_histogram_bucket_factor must be greater than 1"));
        }
        for (processor, buckets) in [
            ("service_graphs", &generator.processor.service_graphs.histogram_buckets),
            ("span_metrics", &generator.processor.span_metrics.histogram_buckets),
        ] {
            let Some(buckets) = buckets else { continue };
            if let Some(index) = (1..buckets.len()).find(|index| buckets[*index] <= buckets[*index - 1]) {
                return Err(format!(
                    "metrics_generator.processor.{processor}.histogram_buckets must be strictly increasing: bucket[{index}]={} is <= bucket[{}]={}",
                    buckets[index],
                    index - 1,
                    buckets[index - 1]
                ));
            }
        }
        self.cost_attribution.validate()?;
        DedicatedColumnConfig::validate_list(&self.storage.parquet_dedicated_columns)
    }

    /// Names the rate keys that are zero, so that (almost) every push is rejected.
    pub fn zero_rate_keys(&self) -> Vec<&'static str> {
        [("rate_limit_bytes", self.ingestion.rate_limit_bytes), ("burst_size_bytes", self.ingestion.burst_size_bytes)]
            .into_iter()
            .filter(|(_, value)| *value == 0)
            .map(|(key, _)| key)
            .collect()
    }
}

impl CostAttributionLimits {
    fn validate(&self) -> Result<(), String> {
        let mut sources: BTreeMap<String, &str> = BTreeMap::new();
        for (attribute, label) in &self.dimensions {
            let name = if label.is_empty() {
                attribute.strip_prefix("resource.").or_else(|| attribute.strip_prefix("span.")).unwrap_or(attribute)
            } else {
                label
            };
            let label = sanitized_label(name);
            if !is_label_name(&label) {
                return Err(format!("cost_attribution.dimensions config has invalid label name: '{label}'"));
            }
            if let Some(other) = sources.insert(label.clone(), attribute) {
                return Err(format!(
                    "cost_attribution.dimensions has duplicate label name: '{label}', both '{other}' and '{attribute}' map to it"
                ));
            }
        }
        Ok(())
    }
}

fn sanitized_label(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

/// True for a Prometheus label name.
pub fn is_label_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// True for a Prometheus metric name.
pub fn is_metric_name(name: &str) -> bool {
    is_label_name(&name.replace(':', "_"))
}
