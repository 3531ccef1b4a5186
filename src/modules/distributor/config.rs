//! `distributor:`.

use crate::base::config_block::{config_block, text};
use crate::base::duration::GoDuration;
use crate::modules::distributor::receiver_config::ReceiversConfig;
use crate::services::ingest_log::config::KafkaConfig;
use crate::services::ring::config::PresenceRingConfig;

config_block! {
    /// `distributor:`.
    pub struct DistributorConfig {
        /// Presence ring, only with rate strategy `global`.
        ring: PresenceRingConfig = PresenceRingConfig::default(),
        /// Intake protocols; none configured: see [`ReceiversConfig::or_default`].
        receivers: ReceiversConfig = ReceiversConfig::default(),
        /// Ring key name.
        override_ring_key: String = text("distributor"),
        /// Log accepted spans.
        log_received_spans: SpanLogConfig = SpanLogConfig::default(),
        /// Log rejected spans.
        log_discarded_spans: SpanLogConfig = SpanLogConfig::default(),
        /// Per-span-name debug counter.
        metric_received_spans: SpanMetricConfig = SpanMetricConfig::default(),
        /// Extra OTLP destinations.
        forwarders: Vec<ForwarderConfig> = Vec::new(),
        /// Usage tracker.
        usage: UsageConfig = UsageConfig::default(),
        /// Overwritten by `ingest.kafka`; do not use.
        #[serde(skip_serializing_if = "Option::is_none")]
        kafka_config: Option<KafkaConfig> = None,
        /// Retry hint on rate limiting; 0: none.
        retry_after_on_resource_exhausted: GoDuration = GoDuration::seconds(5),
        /// Longer attribute keys and string values are cut; 0: no limit.
        max_attribute_bytes: usize = 2048,
        /// Requests are padded to this latency.
        artificial_delay: GoDuration = GoDuration::ZERO,
        /// 2.x: push to ingesters. Absent: decided by the target.
        #[serde(skip_serializing_if = "Option::is_none")]
        ingester_write_path_enabled: Option<bool> = None,
        /// 2.x: produce to Kafka. Absent: decided by the target.
        #[serde(skip_serializing_if = "Option::is_none")]
        kafka_write_path_enabled: Option<bool> = None,
        /// 2.x: replace unhealthy replicas on write.
        extend_writes: bool = true,
    }

    /// `log_received_spans`, `log_discarded_spans`.
    pub struct SpanLogConfig {
        /// Switches it on; for debugging only.
        enabled: bool = false,
        /// With all attributes.
        include_all_attributes: bool = false,
        /// Only spans with status error.
        filter_by_status_error: bool = false,
    }

    /// `metric_received_spans`.
    pub struct SpanMetricConfig {
        /// Switches it on.
        enabled: bool = false,
        /// Count only root spans.
        root_only: bool = false,
    }

    /// `usage:`.
    pub struct UsageConfig {
        /// Bytes by tenant-defined labels.
        cost_attribution: CostAttributionConfig = CostAttributionConfig::default(),
    }

    /// `usage.cost_attribution`.
    pub struct CostAttributionConfig {
        /// Switches it on.
        enabled: bool = false,
        /// Series per tenant.
        max_cardinality: u64 = 10_000,
        /// Series are removed after this time without updates.
        stale_duration: GoDuration = GoDuration::minutes(15),
    }

    /// One entry of `forwarders`.
    pub struct ForwarderConfig {
        /// Required, unique.
        name: String = String::new(),
        /// Must be `otlpgrpc`.
        backend: String = String::new(),
        /// Where to.
        otlpgrpc: OtlpForwarderConfig = OtlpForwarderConfig::default(),
        /// What is dropped before forwarding.
        filter: ForwarderFilterConfig = ForwarderFilterConfig::default(),
    }

    /// `otlpgrpc` of a forwarder.
    pub struct OtlpForwarderConfig {
        /// `host:port`.
        endpoints: Vec<String> = Vec::new(),
        /// TLS of the connection.
        tls: ForwarderTlsConfig = ForwarderTlsConfig::default(),
    }

    /// `tls` of a forwarder.
    pub struct ForwarderTlsConfig {
        /// Plain text.
        insecure: bool = false,
        /// CA file; required unless `insecure`.
        cert_file: String = String::new(),
    }

    /// `filter` of a forwarder.
    pub struct ForwarderFilterConfig {
        /// OTTL conditions.
        traces: ForwarderTraceFilterConfig = ForwarderTraceFilterConfig::default(),
    }

    /// `filter.traces` of a forwarder; data that matches any condition is dropped.
    pub struct ForwarderTraceFilterConfig {
        /// Conditions on spans.
        span: Vec<String> = Vec::new(),
        /// Conditions on span events.
        spanevent: Vec<String> = Vec::new(),
    }
}

impl DistributorConfig {
    /// Returns the start errors of this block.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (index, forwarder) in self.forwarders.iter().enumerate() {
            let at = format!("failed to validate config at index={index}");
            if forwarder.name.is_empty() {
                problems.push(format!("{at}: name is empty"));
            } else if self.forwarders[..index].iter().any(|earlier| earlier.name == forwarder.name) {
                problems.push(format!("{at}: forwarder with name={} already exists", forwarder.name));
            }
            if forwarder.backend != "otlpgrpc" {
                problems.push(format!("{at}: {} backend is not supported", forwarder.backend));
            } else if !forwarder.otlpgrpc.tls.insecure && forwarder.otlpgrpc.tls.cert_file.is_empty() {
                problems.push(format!("{at}: cert_file is empty"));
            }
        }
        problems
    }
}
